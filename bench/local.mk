# bench/: pycrew-bench measures pycrew, peers/ all that one would pick instead beside it. README.md says how to
# read them.

bench_cppflags = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DBENCH_MODULES='"$(abs_top_srcdir)/bench"' \
	-DMATH_OPS_FOLDER='"$(abs_top_srcdir)/examples/bridge"'

noinst_PROGRAMS += bench/pycrew-bench bench/inprocess

bench_pycrew_bench_SOURCES = bench/pycrew-bench.c bench/bench.h bench/arrays.c bench/async.c bench/baseline.c bench/calls.c \
	bench/host.c bench/map.c \
	bench/start.c bench/death.c bench/common.c bench/common.h
bench_pycrew_bench_CPPFLAGS = $(bench_cppflags) \
	-DBENCH_INPROCESS='"$(abs_top_builddir)/bench/inprocess$(EXEEXT)"'
bench_pycrew_bench_LDADD = lib/libpycrew.la

# What a call costs as workers, threads, bytes, ... grow.
noinst_PROGRAMS += bench/growth
bench_growth_SOURCES = bench/growth.c bench/common.c bench/common.h
bench_growth_CPPFLAGS = $(bench_cppflags)
bench_growth_LDADD = lib/libpycrew.la

# What an engine costs: run by engines.py.
noinst_PROGRAMS += bench/engines
bench_engines_SOURCES = bench/engines.c bench/common.c bench/common.h
bench_engines_CPPFLAGS = $(bench_cppflags)
bench_engines_LDADD = lib/libpycrew.la
EXTRA_DIST += bench/engines.py bench/bench_engines.py

# What pycrew.hpp costs on top of pycrew.h.
noinst_PROGRAMS += bench/hpp
bench_hpp_SOURCES = bench/hpp.cpp
bench_hpp_CPPFLAGS = $(bench_cppflags)
bench_hpp_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic
bench_hpp_LDADD = lib/libpycrew.la
# Typed functions beside the same calls by hand.
noinst_PROGRAMS += bench/typed
bench_typed_SOURCES = bench/typed.c bench/common.c bench/common.h
nodist_bench_typed_SOURCES = bench/stubs/math_ops.c
bench_typed_CPPFLAGS = $(bench_cppflags)
bench_typed_LDADD = lib/libpycrew.la
bench_stubs = bench/stubs/math_ops.c bench/stubs/math_ops.h
bench/stubs/stamp: examples/bridge/math_ops.py $(stubs_need)
	$(AM_V_GEN)$(MKDIR_P) bench/stubs && \
	$(generate_stubs) math_ops --path $(srcdir)/examples/bridge --c-header bench/stubs/math_ops.h \
		--c-source bench/stubs/math_ops.c && touch $@
$(bench_stubs): bench/stubs/stamp
	@test -f $@ || { rm -f bench/stubs/stamp && $(MAKE) bench/stubs/stamp; }
bench/typed-typed.$(OBJEXT): bench/stubs/math_ops.h
CLEANFILES += $(bench_stubs) bench/stubs/stamp

# The only program here that links libpython: what a call costs without pycrew.
bench_inprocess_SOURCES = bench/inprocess.c
bench_inprocess_CPPFLAGS = $(AM_CPPFLAGS) $(PYTHON_CFLAGS)
bench_inprocess_CFLAGS = $(worker_cflags)
bench_inprocess_LDFLAGS = $(worker_link_flags)
bench_inprocess_LDADD = $(PYTHON_LIBS)

EXTRA_DIST += bench/README.md bench/bench_ops.py bench/bench_growth.py bench/scaling.py bench/bench_numpy.py bench/bench_plain.py

# ---- peers/: make bench ----

# Built by make bench and make check. The one for subinterpreters is built by peers.py, for another Python.
bench_peers = bench/peers/pycrew bench/peers/embedded bench/peers/socket bench/peers/http
check_PROGRAMS += $(bench_peers)
peer_sources = bench/peers/peer.h bench/peers/harness.c bench/peers/records.c
python_sources = bench/peers/python.c bench/peers/python.h bench/peers/threads.c

bench_peers_pycrew_SOURCES = bench/peers/pycrew.c $(peer_sources)
bench_peers_pycrew_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
bench_peers_pycrew_LDADD = lib/libpycrew.la -lm

bench_peers_http_SOURCES = bench/peers/http.c $(peer_sources)
bench_peers_http_LDADD = -lm

bench_peers_embedded_SOURCES = bench/peers/embedded.c $(peer_sources) $(python_sources)
bench_peers_embedded_CPPFLAGS = $(AM_CPPFLAGS) $(PYTHON_CFLAGS)
bench_peers_embedded_CFLAGS = $(worker_cflags)
bench_peers_embedded_LDFLAGS = $(worker_link_flags)
bench_peers_embedded_LDADD = $(WORKER_PYTHON_LIBS) -lm

bench_peers_socket_SOURCES = bench/peers/socket.c $(peer_sources) $(python_sources)
bench_peers_socket_CPPFLAGS = $(AM_CPPFLAGS) $(PYTHON_CFLAGS)
bench_peers_socket_CFLAGS = $(worker_cflags)
bench_peers_socket_LDFLAGS = $(worker_link_flags)
bench_peers_socket_LDADD = $(WORKER_PYTHON_LIBS) -lm

EXTRA_DIST += \
	bench/peers/README.md \
	bench/peers/bench.py \
	bench/peers/child.py \
	bench/peers/functions/peer_numpy.py \
	bench/peers/functions/peer_ops.py \
	bench/peers/functions/peer_shared.py \
	bench/peers/functions/peer_wsgi.py \
	bench/peers/harness.py \
	bench/peers/interpreters.c \
	bench/peers/machine.py \
	bench/peers/peers.py \
	bench/peers/python/__init__.py \
	bench/peers/python/chunks.py \
	bench/peers/python/dask.py \
	bench/peers/python/executor.py \
	bench/peers/python/joblib.py \
	bench/peers/python/loky.py \
	bench/peers/python/mpi.py \
	bench/peers/python/pipe.py \
	bench/peers/python/plain.py \
	bench/peers/python/pool.py \
	bench/peers/record.json \
	bench/peers/report.py \
	bench/peers/workloads.py

CLEANFILES += bench/peers/interpreters

# All peers that are installed, at most ten minutes: make bench BENCH_FLAGS=--quick BENCH_OUT=...
BENCH_OUT = bench/results
BENCH_FLAGS =
.PHONY: bench
bench: all $(bench_peers)
	CC='$(CC)' ./run '$(PYTHON)' -B '$(top_srcdir)/bench/peers/bench.py' --build . --out '$(BENCH_OUT)' $(BENCH_FLAGS)
