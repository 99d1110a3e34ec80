# tests/: what make check runs, by Automake's TAP driver.
#
# A test is one line in a list here, for its file of the same name with .c:
#   SHM_TESTS      unit tests of lib/shm, linked to it alone: what valgrind runs as well
#   CORE_TESTS     unit tests of lib, linked to its objects, hidden symbols included
#   FUZZ_TESTS     the fuzz targets of tests/fuzz over their corpora
#   FAIL_TESTS     each call that can fail, failing; linked to the objects as well
#   API_TESTS      through pycrew.h, linked to libpycrew.so, with real workers
#   WORKER_TESTS   unit tests of the worker, with Python inside
#   SCRIPT_TESTS   programs that print TAP: .t
# and, but for API_TESTS, one line that says what to link.

HARNESS_TESTS = tests/harness/test-tap
tests_harness_test_tap_LDADD =
tests_harness_tap_script_LDADD =

SHM_TESTS = \
	tests/shm/test-announce \
	tests/shm/test-array \
	tests/shm/test-budget \
	tests/shm/test-columns \
	tests/shm/test-control \
	tests/shm/test-heap \
	tests/shm/test-histogram \
	tests/shm/test-idle \
	tests/shm/test-inbox \
	tests/shm/test-ring \
	tests/shm/test-segment \
	tests/shm/test-sleeper \
	tests/shm/test-slot \
	tests/shm/test-value
tests_shm_test_announce_LDADD = lib/libpcshm.la
tests_shm_test_array_LDADD = lib/libpcshm.la
tests_shm_test_budget_LDADD = lib/libpcshm.la
tests_shm_test_columns_LDADD = lib/libpcshm.la
tests_shm_test_control_LDADD = lib/libpcshm.la
tests_shm_test_heap_LDADD = lib/libpcshm.la
tests_shm_test_histogram_LDADD = lib/libpcshm.la
tests_shm_test_idle_LDADD = lib/libpcshm.la
tests_shm_test_inbox_LDADD = lib/libpcshm.la
tests_shm_test_ring_LDADD = lib/libpcshm.la
tests_shm_test_segment_LDADD = lib/libpcshm.la
tests_shm_test_sleeper_LDADD = lib/libpcshm.la
tests_shm_test_slot_LDADD = lib/libpcshm.la
tests_shm_test_value_LDADD = lib/libpcshm.la

CORE_TESTS = \
	tests/shm/test-format \
	tests/test-held \
	tests/test-overdue \
	tests/test-overlap \
	tests/test-requeue
tests_shm_test_format_LDADD = lib/libpccore.la
tests_test_held_LDADD = lib/libpccore.la
tests_test_overdue_LDADD = lib/libpccore.la
tests_test_overlap_LDADD = lib/libpccore.la
tests_test_requeue_LDADD = lib/libpccore.la

# The fuzz targets' corpora, run once; with a fuzzer: make fuzz
FUZZ_TESTS = tests/fuzz/test-corpus
tests_fuzz_test_corpus_SOURCES = \
	cli/again.c cli/buffer.c cli/console.c cli/json.c cli/reader.c cli/rows.c cli/source.c \
	tests/fuzz/control.c \
	tests/fuzz/formats.c \
	tests/fuzz/json.c \
	tests/fuzz/reader.c \
	tests/fuzz/target.h \
	tests/fuzz/test-corpus.c \
	tests/fuzz/values.c
tests_fuzz_test_corpus_LDADD = lib/libpccore.la $(CSV_LIBS) $(ZLIB_LIBS)

BIG_TESTS = \
	tests/big/test-copies \
	tests/big/test-flows \
	tests/big/test-memory \
	tests/big/test-values

API_TESTS = $(BIG_TESTS) \
	tests/test-actor \
	tests/test-array \
	tests/test-async \
	tests/test-batch \
	tests/test-batch-array \
	tests/test-call \
	tests/test-deadline \
	tests/test-death \
	tests/test-export \
	tests/test-export-death \
	tests/test-environment \
	tests/test-errors \
	tests/test-errors-arrays \
	tests/test-errors-python \
	tests/test-each \
	tests/test-engine \
	tests/test-host \
	tests/test-hpp \
	tests/test-hpp-coroutine \
	tests/test-hpp-crew \
	tests/test-hpp-host \
	tests/test-idle-cost \
	tests/test-latency \
	tests/test-leave \
	tests/test-life \
	tests/test-map \
	tests/test-misbehaviour \
	tests/test-open \
	tests/test-queue \
	tests/test-reload \
	tests/test-scribble \
	tests/test-stats \
	tests/test-stream \
	tests/test-stubs \
	tests/test-stubs-hpp \
	tests/test-threads \
	tests/test-together \
	tests/test-trace \
	tests/test-value-trip

# pycrew.hpp's, in C++ and as pedantic as the header promises to bear.
tests_test_hpp_SOURCES = tests/test-hpp.cpp
tests_test_hpp_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic
tests_test_hpp_coroutine_SOURCES = tests/test-hpp-coroutine.cpp
tests_test_hpp_coroutine_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic $(CXX20_FLAGS)
tests_test_hpp_crew_SOURCES = tests/test-hpp-crew.cpp
tests_test_hpp_crew_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic
tests_test_hpp_host_SOURCES = tests/test-hpp-host.cpp
tests_test_hpp_host_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic

# Typed stubs, of a module that has every annotation. Its file changed: they are written anew.
tests_test_stubs_SOURCES = tests/test-stubs.c
nodist_tests_test_stubs_SOURCES = tests/stubs/stub_ops.c tests/stubs/sized_ops.c
tests_test_stubs_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
tests_test_stubs_hpp_SOURCES = tests/test-stubs-hpp.cpp
tests_test_stubs_hpp_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
tests_test_stubs_hpp_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic
test_stubs = tests/stubs/stub_ops.c tests/stubs/stub_ops.h tests/stubs/stub_ops.hpp \
	tests/stubs/sized_ops.c tests/stubs/sized_ops.h
tests/stubs/stamp: tests/py/stub_ops.py $(stubs_need)
	$(AM_V_GEN)$(MKDIR_P) tests/stubs && \
	$(generate_stubs) stub_ops --path $(srcdir)/tests/py --output tests/stubs && \
	$(generate_stubs) stub_ops --path $(srcdir)/tests/py --c-header tests/stubs/sized_ops.h \
		--c-source tests/stubs/sized_ops.c --prefix sized_ --sized-str --int int && touch $@
$(test_stubs): tests/stubs/stamp
	@test -f $@ || { rm -f tests/stubs/stamp && $(MAKE) tests/stubs/stamp; }
tests/test_stubs-test-stubs.$(OBJEXT): tests/stubs/stub_ops.h tests/stubs/sized_ops.h
tests/test_stubs_hpp-test-stubs-hpp.$(OBJEXT): tests/stubs/stub_ops.hpp
CLEANFILES += $(test_stubs) tests/stubs/stamp

# Death at every instruction of the real worker: minutes, and so not part of make check.
EXTRA_PROGRAMS = tests/steps/test-steps
tests_steps_test_steps_SOURCES = tests/steps/test-steps.c \
	tests/steps/symbols.c tests/steps/symbols.h \
	tests/steps/tracer.c tests/steps/tracer.h
tests_steps_test_steps_LDADD = lib/libpycrew.la lib/libpcshm.la

.PHONY: check-steps
check-steps: all tests/steps/test-steps
	$(AM_TESTS_ENVIRONMENT) PYCREW_STEPS=$${PYCREW_STEPS:-1} tests/steps/test-steps

# The tests that need no numpy, with each Python that is found and has a worker (configure
# --with-pythons=all): a minute for each.
PYTHONS_TESTS = tests/test-async tests/test-batch tests/test-call tests/test-deadline tests/test-death tests/test-map
.PHONY: check-pythons
check-pythons: all $(PYTHONS_TESTS) tests/test-environment
	$(AM_TESTS_ENVIRONMENT) tests/test-environment && \
	$(top_srcdir)/tests/pythons/run '$(abs_top_builddir)' $(PYTHONS_TESTS)
EXTRA_DIST += tests/pythons/run

# CPython's own test suite as calls, compared with a plain interpreter: some ten minutes, needs Debian's
# libpython3-testsuite; see tests/cpython/README.md.
CPYTHON_TESTS =
.PHONY: check-cpython
check-cpython: all
	$(AM_TESTS_ENVIRONMENT) $(top_srcdir)/tests/cpython/run '$(abs_top_builddir)' $(CPYTHON_TESTS)
EXTRA_DIST += tests/cpython/README.md tests/cpython/cpython_ops.py tests/cpython/run

# Values of more than 4 GiB, 200 GB of arrays, 10 million records: what the tests of tests/big do in make
# check, large. Minutes; needs 16 GiB of memory, else skips what does not fit.
.PHONY: check-big
check-big: all $(BIG_TESTS) tests/big/libcopies.la
	$(AM_TESTS_ENVIRONMENT) PYCREW_BIG=1; export PYCREW_BIG; \
	for test in $(BIG_TESTS); do $$test || failed=1; done; test -z "$$failed"

# Loaded before the C library by tests/big/test-copies; -rpath, because else it is no shared object.
check_LTLIBRARIES += tests/big/libcopies.la
tests_big_libcopies_la_SOURCES = tests/big/copies.c tests/big/copies.h
tests_big_libcopies_la_CFLAGS = $(worker_cflags) -fno-builtin
tests_big_libcopies_la_LDFLAGS = -module -avoid-version -rpath /nowhere
tests_big_test_copies_SOURCES = tests/big/test-copies.c tests/big/copies.h

# Loaded before the C library into the command, by tests/cli-resume.t.
check_LTLIBRARIES += tests/cli/libcut.la
tests_cli_libcut_la_SOURCES = tests/cli/cut.c
tests_cli_libcut_la_LDFLAGS = -module -avoid-version -rpath /nowhere

# pycrew map killed at random moments and resumed, so many times for each kind of map; make check has 3.
KILLS = 100
.PHONY: check-kills
check-kills: all tests/cli/libcut.la
	$(AM_TESTS_ENVIRONMENT) PYCREW_KILLS=$(KILLS) $(PYTHON) $(top_srcdir)/tests/cli-resume.t

# Engines over hosts that are network namespaces, cut off in the middle: needs root, iproute2 and Dask.
.PHONY: check-namespaces
check-namespaces: all
	$(AM_TESTS_ENVIRONMENT) $(PYTHON) $(top_srcdir)/tests/namespaces.t | tee tests/namespaces.log
	@! grep '^not ok' tests/namespaces.log >/dev/null
CLEANFILES += tests/namespaces.log
EXTRA_DIST += tests/namespaces.t

# Each call that fails, in the library and in the worker: linked to the objects of both, with the calls
# that can fail led to tests/fail/shim.c.
# make check has a sample; with PYCREW_FAIL=all in its environment it is all of them, some minutes.
FAIL_TESTS = tests/fail/test-fail
fail_wraps = \
	-Wl,--wrap=access -Wl,--wrap=aligned_alloc -Wl,--wrap=asprintf -Wl,--wrap=calloc \
	-Wl,--wrap=close -Wl,--wrap=dup2 -Wl,--wrap=eventfd -Wl,--wrap=fallocate -Wl,--wrap=fcntl \
	-Wl,--wrap=fgets -Wl,--wrap=fopen -Wl,--wrap=fork -Wl,--wrap=free -Wl,--wrap=ftruncate \
	-Wl,--wrap=madvise -Wl,--wrap=malloc -Wl,--wrap=memfd_create -Wl,--wrap=mincore \
	-Wl,--wrap=mmap -Wl,--wrap=mprotect -Wl,--wrap=munmap -Wl,--wrap=nanosleep -Wl,--wrap=open -Wl,--wrap=opendir \
	-Wl,--wrap=pipe2 -Wl,--wrap=poll -Wl,--wrap=posix_fallocate -Wl,--wrap=posix_spawn \
	-Wl,--wrap=posix_spawn_file_actions_addclosefrom_np \
	-Wl,--wrap=posix_spawn_file_actions_adddup2 -Wl,--wrap=posix_spawn_file_actions_addopen \
	-Wl,--wrap=posix_spawn_file_actions_init -Wl,--wrap=posix_spawnattr_init \
	-Wl,--wrap=posix_spawnattr_setflags -Wl,--wrap=ppoll -Wl,--wrap=prctl -Wl,--wrap=pread \
	-Wl,--wrap=pthread_create -Wl,--wrap=pthread_key_create -Wl,--wrap=pthread_setspecific \
	-Wl,--wrap=read -Wl,--wrap=readdir -Wl,--wrap=realloc -Wl,--wrap=realpath \
	-Wl,--wrap=recvmsg -Wl,--wrap=sched_getaffinity -Wl,--wrap=sem_clockwait \
	-Wl,--wrap=sem_wait -Wl,--wrap=sendmsg -Wl,--wrap=shm_open -Wl,--wrap=socketpair \
	-Wl,--wrap=stat -Wl,--wrap=statvfs -Wl,--wrap=strdup -Wl,--wrap=strndup -Wl,--wrap=syscall \
	-Wl,--wrap=vasprintf -Wl,--wrap=waitid -Wl,--wrap=write
tests_fail_test_fail_SOURCES = tests/fail/test-fail.c tests/fail/shim.c tests/fail/shim.h
tests_fail_test_fail_LDADD = lib/libpccore.la
tests_fail_test_fail_LDFLAGS = $(fail_wraps)
tests_fail_pycrew_worker_fail_SOURCES = worker/main.c tests/fail/shim.c tests/fail/shim.h
tests_fail_pycrew_worker_fail_CPPFLAGS = $(worker_cppflags)
tests_fail_pycrew_worker_fail_CFLAGS = $(worker_cflags)
tests_fail_pycrew_worker_fail_LDFLAGS = $(worker_link_flags) $(fail_wraps)
tests_fail_pycrew_worker_fail_LDADD = $(worker_test_libs)

# The Fortran module, run by tests/test-fortran.t.
if FORTRAN
check_PROGRAMS += tests/fortran/test-fortran
endif
tests_fortran_test_fortran_SOURCES = tests/fortran/cases.f90 tests/fortran/test-fortran.c
tests_fortran_test_fortran_LDADD = fortran/libpycrewf.a lib/libpycrew.la
tests/fortran/cases.$(OBJEXT): fortran/libpycrewf.a
CLEANFILES += fortran/cases.mod

# A storm of calls of all kinds, workers and zygotes killed: make soak SOAK=10m; see tests/soak/README.md.
check_PROGRAMS += tests/soak/pycrew-soak
tests_soak_pycrew_soak_SOURCES = tests/soak/soak.c tests/soak/soak.h \
	tests/soak/arrays.c tests/soak/asks.c tests/soak/batches.c tests/soak/jobs.c tests/soak/killer.c \
	tests/soak/maps.c tests/soak/objects.c tests/soak/watch.c \
	tests/soak/ledger.c tests/soak/ledger.h bench/common.c bench/common.h
tests_soak_pycrew_soak_CPPFLAGS = $(bench_cppflags) -DSOAK_MODULES='"$(abs_top_srcdir)/tests/soak"'
tests_soak_pycrew_soak_LDADD = lib/libpycrew.la
EXTRA_DIST += tests/soak/README.md tests/soak/soak_ops.py

SOAK = 60s
SOAK_FLAGS =
.PHONY: soak
soak: all tests/soak/pycrew-soak
	./run tests/soak/pycrew-soak --time $(SOAK) $(SOAK_FLAGS)

WORKER_TESTS = \
	tests/worker/test-convert \
	tests/worker/test-items \
	tests/worker/test-leave
tests_worker_test_convert_CPPFLAGS = $(worker_cppflags)
tests_worker_test_convert_CFLAGS = $(worker_cflags)
tests_worker_test_convert_LDFLAGS = $(worker_link_flags)
tests_worker_test_convert_LDADD = $(worker_test_libs)
tests_worker_test_items_CPPFLAGS = $(worker_cppflags)
tests_worker_test_items_CFLAGS = $(worker_cflags)
tests_worker_test_items_LDFLAGS = $(worker_link_flags)
tests_worker_test_items_LDADD = $(worker_test_libs)
tests_worker_test_leave_CPPFLAGS = $(worker_cppflags)
tests_worker_test_leave_CFLAGS = $(worker_cflags)
tests_worker_test_leave_LDFLAGS = $(worker_link_flags)
tests_worker_test_leave_LDADD = $(worker_test_libs)

SCRIPT_TESTS = \
	tests/bench-peers.t \
	tests/cli-call.t \
	tests/cli-doctor.t \
	tests/cli-errors.t \
	tests/cli-input.t \
	tests/cli-map.t \
	tests/cli-resume.t \
	tests/cli-top.t \
	tests/cli-trace.t \
	tests/completion.t \
	tests/contributing.t \
	tests/debug.t \
	tests/engines.t \
	tests/errors.t \
	tests/fail/symbols.t \
	tests/man.t \
	tests/symbols.t \
	tests/test-bridge-rust.t \
	tests/test-cpp-examples.t \
	tests/test-data-examples.t \
	tests/test-examples.t \
	tests/test-fortran.t \
	tests/test-guide.t \
	tests/test-languages.t \
	tests/test-service.t \
	tests/test-stubs.t \
	tests/usdt.t

# What tests read: Python modules and data.
test_data = \
	tests/harness/arrays.h \
	tests/harness/crew.h \
	tests/harness/errors.h \
	tests/errors-elsewhere \
	tests/harness/hpp.h \
	tests/big/big.h \
	tests/py/actor_ops.py tests/py/together_ops.py \
	tests/py/api_ops.py \
	tests/py/array_ops.py \
	tests/py/async_ops.py \
	tests/py/batch_array_ops.py \
	tests/py/big_ops.py \
	tests/py/call_ops.py \
	tests/py/cli_ops.py \
	tests/py/cli_tap.py \
	tests/py/terminal.py tests/py/top_ops.py \
	tests/py/debug_ops.py \
	tests/py/dies_at_import.py \
	tests/py/engine_ops.py \
	tests/py/environment_ops.py \
	tests/py/exits_at_import.py \
	tests/py/error_ops.py tests/py/error_ops_thread.py tests/py/error_texts.py \
	tests/py/fail_ops.py \
	tests/py/fails_at_first.py \
	tests/py/fails_at_import.py \
	tests/py/host_ops.py \
	tests/py/imports_slowly.py \
	tests/py/leave_ops.py \
	tests/py/life_ops.py \
	tests/py/map_ops.py \
	tests/py/misuse_ops.py \
	tests/py/no_numpy.py \
	tests/py/open_ops.py \
	tests/py/prints_at_import.py \
	tests/py/queue_ops.py \
	tests/py/scribble_ops.py \
	tests/py/sleeps_at_import.py \
	tests/py/steps_array_ops.py tests/py/steps_async_ops.py \
	tests/py/steps_ops.py \
	tests/py/stub_ops.py \
	tests/py/trace_check.py \
	tests/shm/fixture.h

# ---- How they are built and run ----

LDADD = lib/libpycrew.la
worker_test_libs = worker/libpcworker.a $(PYTHON_LIBS)

test_programs = $(HARNESS_TESTS) $(SHM_TESTS) $(CORE_TESTS) $(FUZZ_TESTS) $(API_TESTS) $(FAIL_TESTS) \
	$(WORKER_TESTS)
check_PROGRAMS += $(test_programs) tests/harness/tap-script tests/fail/pycrew-worker-fail
EXTRA_DIST += tests/harness/tap.h $(SCRIPT_TESTS) $(test_data) \
	tests/mutants/README.md tests/mutants/mutations.py tests/mutants/run \
	tests/fuzz/run tests/fuzz/corpus \
	tests/coverage/compare tests/coverage/flush.h tests/coverage/run tests/coverage/unreached

TESTS = $(test_programs) $(SCRIPT_TESTS)

# What .ci/run asks for: make check TESTS='$(VALGRIND_TESTS)'
SANITIZER_TESTS = $(HARNESS_TESTS) $(SHM_TESTS) $(CORE_TESTS) $(FUZZ_TESTS) $(API_TESTS) $(FAIL_TESTS)
# Those where several threads meet. (test-host forks with threads at work and takes processes away, TSan's
# own too; the others' limits are of time.)
THREAD_TESTS = $(HARNESS_TESTS) $(SHM_TESTS) $(CORE_TESTS) \
	tests/test-actor \
	tests/test-array \
	tests/test-async \
	tests/test-batch \
	tests/test-batch-array \
	tests/test-call \
	tests/test-death \
	tests/test-export \
	tests/test-export-death \
	tests/test-each \
	tests/test-hpp \
	tests/test-hpp-coroutine \
	tests/test-hpp-crew \
	tests/test-hpp-host \
	tests/test-map \
	tests/test-queue \
	tests/test-stats \
	tests/test-stream \
	tests/test-stubs \
	tests/test-threads \
	tests/test-trace
VALGRIND_TESTS = $(SHM_TESTS) $(CORE_TESTS)

TEST_EXTENSIONS = .t
LOG_DRIVER = env AM_TAP_AWK='$(AWK)' $(SHELL) $(top_srcdir)/build-aux/tap-driver.sh
T_LOG_DRIVER = $(LOG_DRIVER)
T_LOG_COMPILER = tests/harness/tap-script $(SCRIPT_LIMIT_S)
SCRIPT_LIMIT_S = 300

AM_TESTS_ENVIRONMENT = \
	PYCREW_WORKER='$(abs_top_builddir)/worker/pycrew-worker'; \
	PYCREW_PYTHON_PATH='$(abs_top_srcdir)/python'; \
	PYCREW_LIBRARY='$(abs_top_builddir)/lib/.libs/libpycrew.so'; \
	PYTHON='$(PYTHON)'; \
	PYTHONDONTWRITEBYTECODE=1; \
	top_srcdir='$(abs_top_srcdir)'; \
	top_builddir='$(abs_top_builddir)'; \
	export PYCREW_WORKER PYCREW_PYTHON_PATH PYCREW_LIBRARY PYTHON PYTHONDONTWRITEBYTECODE top_srcdir top_builddir;

# Negative controls: some minutes, and so not part of make check.
# Which lines no test reaches: builds in build-coverage/ of the source tree, needs gcovr.
.PHONY: check-coverage
check-coverage:
	$(top_srcdir)/tests/coverage/run

.PHONY: check-mutants
check-mutants:
	PYTHON='$(PYTHON)' $(top_srcdir)/tests/mutants/run
# Each fuzz target with libFuzzer (clang): make fuzz FUZZ_SECONDS=60
FUZZ_SECONDS = 600
.PHONY: fuzz
fuzz:
	FUZZ_BUILD='$(abs_top_builddir)/build-fuzz' $(top_srcdir)/tests/fuzz/run $(FUZZ_SECONDS)
