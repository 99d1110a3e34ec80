# bench/: pycrew-bench measures. README.md says how to read it.

bench_cppflags = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DBENCH_MODULES='"$(abs_top_srcdir)/bench"' \
	-DMATH_OPS_FOLDER='"$(abs_top_srcdir)/examples/bridge"'

noinst_PROGRAMS += bench/pycrew-bench bench/inprocess

bench_pycrew_bench_SOURCES = bench/pycrew-bench.c bench/bench.h bench/arrays.c bench/baseline.c bench/calls.c bench/map.c \
	bench/start.c bench/death.c bench/common.c bench/common.h
bench_pycrew_bench_CPPFLAGS = $(bench_cppflags) \
	-DBENCH_INPROCESS='"$(abs_top_builddir)/bench/inprocess$(EXEEXT)"'
bench_pycrew_bench_LDADD = lib/libpycrew.la

# What a call costs as workers, threads, bytes, ... grow.
noinst_PROGRAMS += bench/growth
bench_growth_SOURCES = bench/growth.c bench/common.c bench/common.h
bench_growth_CPPFLAGS = $(bench_cppflags)
bench_growth_LDADD = lib/libpycrew.la

# The only program here that links libpython: what a call costs without pycrew.
bench_inprocess_SOURCES = bench/inprocess.c
bench_inprocess_CPPFLAGS = $(AM_CPPFLAGS) $(PYTHON_CFLAGS)
bench_inprocess_CFLAGS = $(worker_cflags)
bench_inprocess_LDFLAGS = $(worker_link_flags)
bench_inprocess_LDADD = $(PYTHON_LIBS)

EXTRA_DIST += bench/README.md bench/bench_ops.py bench/bench_growth.py bench/scaling.py bench/bench_numpy.py bench/bench_plain.py
