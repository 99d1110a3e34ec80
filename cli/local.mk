# cli/: pycrew, the command.

bin_PROGRAMS += cli/pycrew
cli_pycrew_SOURCES = \
	cli/again.c cli/again.h \
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
	cli/main.c \
	cli/map.c cli/map.h \
	cli/options.c cli/options.h \
	cli/output.c cli/output.h \
	cli/htmlpage.c cli/htmlpage.h \
	cli/progress.c cli/progress.h \
	cli/reader.c cli/reader.h \
	cli/report.c cli/report.h \
	cli/rows.c cli/rows.h \
	cli/signals.c cli/signals.h \
	cli/source.c cli/source.h \
	cli/spread.c cli/spread.h \
	cli/stubs.c \
	cli/timeline.c cli/timeline.h \
	cli/writer.c cli/writer.h
cli_pycrew_LDFLAGS = $(base_link_flags)
cli_pycrew_LDADD = lib/libpycrew.la $(CSV_LIBS) $(ZLIB_LIBS) -lm
