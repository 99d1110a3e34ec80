# doc/: design.md, and a man page for the command and for each exported function.

man_pages = \
	doc/man/pycrew.1
dist_man_MANS += $(man_pages)
