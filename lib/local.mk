# lib/ and lib/shm/: libpycrew, what a program links. It needs the C library and nothing else.

include_HEADERS += lib/pycrew.h lib/pycrew.hpp lib/pycrew-stubs.h lib/pycrew-stubs.hpp
# What pycrew.hpp includes, beside it.
hppdir = $(includedir)/pycrew
hpp_HEADERS = \
	lib/pycrew/actor.hpp \
	lib/pycrew/array.hpp \
	lib/pycrew/batch.hpp \
	lib/pycrew/call.hpp \
	lib/pycrew/convert.hpp \
	lib/pycrew/coroutine.hpp \
	lib/pycrew/crew.hpp \
	lib/pycrew/error.hpp \
	lib/pycrew/future.hpp \
	lib/pycrew/host.hpp \
	lib/pycrew/iterator.hpp \
	lib/pycrew/map.hpp \
	lib/pycrew/options.hpp \
	lib/pycrew/queue.hpp \
	lib/pycrew/stats.hpp \
	lib/pycrew/stream.hpp

# The protocol of the shared segment; the worker compiles the same files for itself.
shm_sources = \
	lib/shm/announce.h \
	lib/shm/array.c lib/shm/array.h \
	lib/shm/budget.c lib/shm/budget.h \
	lib/shm/chunk.h \
	lib/shm/columns.c lib/shm/columns.h \
	lib/shm/control.c lib/shm/control.h \
	lib/shm/heap.c lib/shm/heap.h \
	lib/shm/histogram.c lib/shm/histogram.h \
	lib/shm/idle.c lib/shm/idle.h \
	lib/shm/inbox.c lib/shm/inbox.h \
	lib/shm/probes.h \
	lib/shm/ring.c lib/shm/ring.h \
	lib/shm/segment.c lib/shm/segment.h \
	lib/shm/sleeper.c lib/shm/sleeper.h \
	lib/shm/slot.c lib/shm/slot.h \
	lib/shm/trace.h \
	lib/shm/upcall.c lib/shm/upcall.h \
	lib/shm/value.c lib/shm/value.h

lib_cflags = $(AM_CFLAGS) -fvisibility=hidden
lib_cppflags = $(AM_CPPFLAGS) -DPYCREW_WORKER_PATH='"$(libexecdir)/pycrew/pycrew-worker"'

noinst_LTLIBRARIES += lib/libpcshm.la
lib_libpcshm_la_SOURCES = $(shm_sources)
lib_libpcshm_la_CFLAGS = $(lib_cflags)
lib_libpcshm_la_LDFLAGS = $(base_link_flags)

# All of the library, hidden symbols within reach: what unit tests link.
noinst_LTLIBRARIES += lib/libpccore.la
lib_libpccore_la_SOURCES = \
	lib/actor.c \
	lib/array.c lib/array.h \
	lib/batch.c \
	lib/builder.c lib/builder.h \
	lib/call.c \
	lib/chunk.c \
	lib/crew.c lib/crew.h \
	lib/deadline.c \
	lib/direct.c \
	lib/each.c \
	lib/engine.c \
	lib/dlpack.c lib/dlpack.h \
	lib/error.c lib/error.h \
	lib/export.c lib/export.h \
	lib/format.c lib/format.h \
	lib/function.c \
	lib/hostcall.c \
	lib/ladder.c \
	lib/latency.c \
	lib/limits.c \
	lib/map.c \
	lib/memory.c \
	lib/metrics.c \
	lib/overlap.c lib/overlap.h \
	lib/queue.c \
	lib/rebuild.c \
	lib/record.c lib/record.h \
	lib/reload.c \
	lib/result.c lib/result.h \
	lib/run.c \
	lib/show.c \
	lib/spawn.c \
	lib/stats.c \
	lib/stream.c \
	lib/stub.c \
	lib/supervisor.c lib/supervisor.h \
	lib/sweep.c \
	lib/terminal.c \
	lib/trace.c lib/trace.h \
	lib/zygote.c
lib_libpccore_la_CPPFLAGS = $(lib_cppflags)
lib_libpccore_la_CFLAGS = $(lib_cflags)
lib_libpccore_la_LDFLAGS = $(base_link_flags)
lib_libpccore_la_LIBADD = lib/libpcshm.la

lib_LTLIBRARIES += lib/libpycrew.la
lib_libpycrew_la_SOURCES =
lib_libpycrew_la_LIBADD = lib/libpccore.la
lib_libpycrew_la_LDFLAGS = $(base_link_flags) -version-info $(PYCREW_VERSION_INFO) \
	-Wl,-Bsymbolic-functions \
	-Wl,--version-script=$(top_srcdir)/lib/pycrew.map $(no_undefined)
EXTRA_lib_libpycrew_la_DEPENDENCIES = lib/pycrew.map
EXTRA_DIST += lib/pycrew.map

# A sanitizer's own symbols come from the program, not from its libraries.
if !INSTRUMENTED
no_undefined = -no-undefined -Wl,-z,defs
endif
