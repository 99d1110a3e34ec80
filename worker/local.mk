# worker/: pycrew-worker, the program that embeds Python.

worker_sources = \
	worker/array.c worker/array.h \
	worker/async.c worker/async.h \
	worker/choose.c worker/choose.h \
	worker/convert.c worker/convert.h \
	worker/element.c worker/element.h \
	worker/engine.c worker/engine.h \
	worker/fault.c \
	worker/host.c worker/host.h \
	worker/interpreter.c \
	worker/items.c worker/items.h \
	worker/leave.c worker/leave.h \
	worker/life.c \
	worker/lifeline.c \
	worker/loop.c worker/loop.h \
	worker/map.c worker/map.h \
	worker/module.c \
	worker/object.c worker/object.h \
	worker/stack.c \
	worker/stream.c worker/stream.h \
	worker/run.c worker/run.h \
	worker/timing.c worker/timing.h \
	worker/trace.c worker/trace.h \
	worker/worker.h \
	worker/zygote.c

# All of it but main, for the worker's unit tests too.
noinst_LIBRARIES += worker/libpcworker.a
worker_libpcworker_a_SOURCES = $(worker_sources) $(shm_sources)
worker_libpcworker_a_CPPFLAGS = $(worker_cppflags)
worker_libpcworker_a_CFLAGS = $(worker_cflags)

workerdir = $(libexecdir)/pycrew
worker_PROGRAMS = worker/pycrew-worker
worker_pycrew_worker_SOURCES = worker/main.c
worker_pycrew_worker_CPPFLAGS = $(worker_cppflags)
worker_pycrew_worker_CFLAGS = $(worker_cflags)
worker_pycrew_worker_LDFLAGS = $(worker_link_flags)
worker_pycrew_worker_LDADD = worker/libpcworker.a $(WORKER_PYTHON_LIBS)

# Workers for other Pythons (and for other builds of the same version): without a libpython, which
# pycrew-launch loads before them. See choose.h. The rules come from configure, one for each version.
worker_PROGRAMS += worker/pycrew-launch
worker_pycrew_launch_SOURCES = worker/launch.c lib/shm/control.c lib/shm/control.h
worker_pycrew_launch_CFLAGS = $(worker_cflags)
worker_pycrew_launch_LDFLAGS = $(worker_link_flags)
worker_pycrew_launch_LDADD =

worker_module_sources = $(worker_sources) $(shm_sources)
worker_DATA = $(WORKER_MODULES)
CLEANFILES += $(WORKER_MODULES)
# Objects would have to be made with each version's headers: all at once is as simple, and takes 6 s.
worker_module_compile = $(AM_V_CCLD)sources= folder=`cd $(srcdir) && pwd`; \
	for source in $(worker_module_sources); do \
		case $$source in *.c) sources="$$sources $$folder/$$source";; esac; \
	done; \
	$(MKDIR_P) worker && $(CC) -shared -fPIC -fvisibility=hidden $(DEFS) -DPYCREW_PYTHON='""' \
		-DPYCREW_PYTHON_DIR='"$(pkgdatadir)/python"' $(AM_CPPFLAGS) $(CPPFLAGS) $(worker_cflags) $(CFLAGS) \
		$(worker_link_flags) $(LDFLAGS)
@worker_module_rules@
