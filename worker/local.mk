# worker/: pycrew-worker, the program that embeds Python.

worker_sources = \
	worker/array.c worker/array.h \
	worker/async.c worker/async.h \
	worker/convert.c worker/convert.h \
	worker/element.c worker/element.h \
	worker/fault.c \
	worker/interpreter.c \
	worker/items.c worker/items.h \
	worker/lifeline.c \
	worker/loop.c worker/loop.h \
	worker/map.c worker/map.h \
	worker/module.c \
	worker/run.c worker/run.h \
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
