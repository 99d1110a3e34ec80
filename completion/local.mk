# completion/: of the command, for bash and zsh, where both look by themselves.
bashcompletiondir = $(datadir)/bash-completion/completions
zshcompletiondir = $(datadir)/zsh/site-functions
zshcompletion_DATA = completion/_pycrew
EXTRA_DIST += completion/pycrew.bash completion/_pycrew

# bash finds it by the command's name.
install-data-local:
	$(MKDIR_P) '$(DESTDIR)$(bashcompletiondir)'
	$(INSTALL_DATA) $(srcdir)/completion/pycrew.bash '$(DESTDIR)$(bashcompletiondir)/pycrew'

uninstall-local:
	rm -f '$(DESTDIR)$(bashcompletiondir)/pycrew'
