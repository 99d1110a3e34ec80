# cli/: pycrew, the command.

bin_PROGRAMS += cli/pycrew
cli_pycrew_SOURCES = \
	cli/again.c cli/again.h \
	cli/attach.c cli/attach.h \
	cli/buffer.c cli/buffer.h \
	cli/call.c \
	cli/checkpoint.c cli/checkpoint.h \
	cli/commands.h \
	cli/console.c cli/console.h \
	cli/crew.c cli/crew.h \
	cli/doctor.c \
	cli/dryrun.c \
	cli/feed.c \
	cli/files.c \
	cli/group.c cli/group.h \
	cli/identity.c cli/identity.h \
	cli/inflight.c cli/inflight.h \
	cli/json.c cli/json.h \
	cli/keep.c \
	cli/look.c cli/look.h \
	cli/main.c \
	cli/map.c cli/map.h \
	cli/options.c cli/options.h \
	cli/output.c cli/output.h \
	cli/htmlpage.c cli/htmlpage.h \
	cli/page.c cli/page.h \
	cli/progress.c cli/progress.h \
	cli/reader.c cli/reader.h \
	cli/report.c cli/report.h \
	cli/rows.c cli/rows.h \
	cli/screen.c cli/screen.h \
	cli/signals.c cli/signals.h \
	cli/source.c cli/source.h \
	cli/spread.c cli/spread.h \
	cli/stubs.c \
	cli/timeline.c cli/timeline.h \
	cli/top.c \
	cli/writer.c cli/writer.h
cli_pycrew_LDFLAGS = $(base_link_flags)
# pycrew top reads other processes' crews by the protocol's own code.
cli_pycrew_CPPFLAGS = $(AM_CPPFLAGS) $(NCURSES_CPPFLAGS)
cli_pycrew_LDADD = lib/libpycrew.la lib/libpcshm.la $(CSV_LIBS) $(ZLIB_LIBS) $(NCURSES_LIBS) -lm
