# examples/: programs on top of libpycrew, built by make, run by make check.

# The founding example: libbridge is a module on top of libpycrew, and bridge links neither.
# -rpath makes libtool build a module rather than a convenience library; it is never installed.
noinst_LTLIBRARIES += examples/bridge/libbridge.la
examples_bridge_libbridge_la_SOURCES = examples/bridge/bridge.c examples/bridge/bridge.h
nodist_examples_bridge_libbridge_la_SOURCES = examples/bridge/math_ops.c
examples_bridge_libbridge_la_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib -iquote examples/bridge
examples_bridge_libbridge_la_LDFLAGS = $(base_link_flags) -module -avoid-version -shared \
	-rpath $(pkglibdir)
examples_bridge_libbridge_la_LIBADD = lib/libpycrew.la

noinst_PROGRAMS += examples/bridge/bridge
examples_bridge_bridge_SOURCES = examples/bridge/main.cpp examples/bridge/bridge.h
examples_bridge_bridge_CPPFLAGS = $(AM_CPPFLAGS) -iquote examples/bridge \
	-DBRIDGE_LIBRARY='"$(abs_top_builddir)/examples/bridge/.libs/libbridge.so"' \
	-DBRIDGE_FOLDER='"$(abs_top_srcdir)/examples/bridge"'
examples_bridge_bridge_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic
examples_bridge_bridge_LDADD =

# The functions' types are in math_ops.py alone: what is C of them is written anew when that has changed. A
# program that does not fit any more does not compile.
bridge_stubs = examples/bridge/math_ops.c examples/bridge/math_ops.h
examples/bridge/stamp: examples/bridge/math_ops.py $(stubs_need)
	$(AM_V_GEN)$(MKDIR_P) examples/bridge && \
	$(generate_stubs) math_ops --path $(srcdir)/examples/bridge --prefix python_ --int int --crew python_crew \
		--c-header examples/bridge/math_ops.h --c-source examples/bridge/math_ops.c && touch $@
$(bridge_stubs): examples/bridge/stamp
	@test -f $@ || { rm -f examples/bridge/stamp && $(MAKE) examples/bridge/stamp; }
examples/bridge/libbridge_la-bridge.lo examples/bridge/bridge-main.$(OBJEXT) \
	examples/bridge-cpp/libbridge_cpp_la-bridge.lo: examples/bridge/math_ops.h
CLEANFILES += $(bridge_stubs) examples/bridge/stamp

# A module's functions with their own types.
noinst_PROGRAMS += examples/stubs/stubs
examples_stubs_stubs_SOURCES = examples/stubs/stubs.c
nodist_examples_stubs_stubs_SOURCES = examples/stubs/shapes.c
examples_stubs_stubs_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib -iquote examples/stubs \
	-DSHAPES_FOLDER='"$(abs_top_srcdir)/examples/stubs"'
examples_stubs_stubs_LDADD = lib/libpycrew.la
shapes_stubs = examples/stubs/shapes.c examples/stubs/shapes.h
examples/stubs/stamp: examples/stubs/shapes.py $(stubs_need)
	$(AM_V_GEN)$(MKDIR_P) examples/stubs && \
	$(generate_stubs) shapes --path $(srcdir)/examples/stubs --c-header examples/stubs/shapes.h \
		--c-source examples/stubs/shapes.c && touch $@
$(shapes_stubs): examples/stubs/stamp
	@test -f $@ || { rm -f examples/stubs/stamp && $(MAKE) examples/stubs/stamp; }
examples/stubs/stubs-stubs.$(OBJEXT): examples/stubs/shapes.h
CLEANFILES += $(shapes_stubs) examples/stubs/stamp

# The main job: the standard library, with one worker and with all.
noinst_PROGRAMS += examples/stdlib/stdlib-stats
examples_stdlib_stdlib_stats_SOURCES = examples/stdlib/stdlib-stats.c
examples_stdlib_stdlib_stats_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DSTDLIB_MODULES='"$(abs_top_srcdir)/examples/stdlib"'
examples_stdlib_stdlib_stats_LDADD = lib/libpycrew.la

# The README's program.
noinst_PROGRAMS += examples/hello/hello
examples_hello_hello_SOURCES = examples/hello/hello.c
examples_hello_hello_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_hello_hello_LDADD = lib/libpycrew.la

# Python asks its host.
noinst_PROGRAMS += examples/trace/trace
examples_trace_trace_SOURCES = examples/trace/trace.c
examples_trace_trace_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_trace_trace_LDADD = lib/libpycrew.la

noinst_PROGRAMS += examples/progress/progress
examples_progress_progress_SOURCES = examples/progress/progress.c
examples_progress_progress_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DPROGRESS_FOLDER='"$(abs_top_srcdir)/examples/progress"'
examples_progress_progress_LDADD = lib/libpycrew.la

# A module's new text for workers that serve, and a function that is debugged.
noinst_PROGRAMS += examples/reload/reload
examples_reload_reload_SOURCES = examples/reload/reload.c
examples_reload_reload_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_reload_reload_LDADD = lib/libpycrew.la

noinst_PROGRAMS += examples/debug/debug
examples_debug_debug_SOURCES = examples/debug/debug.c
examples_debug_debug_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DDEBUG_FOLDER='"$(abs_top_srcdir)/examples/debug"'
examples_debug_debug_LDADD = lib/libpycrew.la

# A virtual environment's Python.
noinst_PROGRAMS += examples/environment/environment
examples_environment_environment_SOURCES = examples/environment/environment.c
examples_environment_environment_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_environment_environment_LDADD = lib/libpycrew.la

# An object that stays in a worker, a function in each worker, and items as they are made.
noinst_PROGRAMS += examples/actor/actor examples/each/each examples/stream/stream
examples_actor_actor_SOURCES = examples/actor/actor.c
examples_actor_actor_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_actor_actor_LDADD = lib/libpycrew.la
examples_each_each_SOURCES = examples/each/each.c
examples_each_each_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_each_each_LDADD = lib/libpycrew.la
examples_stream_stream_SOURCES = examples/stream/stream.c
examples_stream_stream_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_stream_stream_LDADD = lib/libpycrew.la

# A function that the program has as text, and functions at a worker's beginning and end.
noinst_PROGRAMS += examples/source/source examples/hooks/hooks
examples_source_source_SOURCES = examples/source/source.c
examples_source_source_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_source_source_LDADD = lib/libpycrew.la
examples_hooks_hooks_SOURCES = examples/hooks/hooks.c
examples_hooks_hooks_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DHOOKS_FOLDER='"$(abs_top_srcdir)/examples/hooks"'
examples_hooks_hooks_LDADD = lib/libpycrew.la

# A numpy array that nobody copies.
noinst_PROGRAMS += examples/array/array
examples_array_array_SOURCES = examples/array/array.c
examples_array_array_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_array_array_LDADD = lib/libpycrew.la

# An event loop, a batch, an array: each in 25 lines, for a reader of the README. The guide has them too.
noinst_PROGRAMS += examples/epoll/epoll examples/csv/csv examples/inplace/inplace
examples_epoll_epoll_SOURCES = examples/epoll/epoll.c
examples_epoll_epoll_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_epoll_epoll_LDADD = lib/libpycrew.la
examples_csv_csv_SOURCES = examples/csv/csv.c
examples_csv_csv_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_csv_csv_LDADD = lib/libpycrew.la
examples_inplace_inplace_SOURCES = examples/inplace/inplace.c
examples_inplace_inplace_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_inplace_inplace_LDADD = lib/libpycrew.la

# The library from C++, by pycrew.hpp.
noinst_PROGRAMS += examples/cpp/cpp
examples_cpp_cpp_SOURCES = examples/cpp/cpp.cpp
examples_cpp_cpp_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib
examples_cpp_cpp_CXXFLAGS = $(AM_CXXFLAGS) -Wpedantic
examples_cpp_cpp_LDADD = lib/libpycrew.la
noinst_PROGRAMS += examples/cpp/callback examples/cpp/coroutine
examples_cpp_callback_SOURCES = examples/cpp/callback.cpp
examples_cpp_callback_CPPFLAGS = $(examples_cpp_cpp_CPPFLAGS)
examples_cpp_callback_CXXFLAGS = $(examples_cpp_cpp_CXXFLAGS)
examples_cpp_callback_LDADD = lib/libpycrew.la
examples_cpp_coroutine_SOURCES = examples/cpp/coroutine.cpp
examples_cpp_coroutine_CPPFLAGS = $(examples_cpp_cpp_CPPFLAGS)
examples_cpp_coroutine_CXXFLAGS = $(examples_cpp_cpp_CXXFLAGS) $(CXX20_FLAGS)
examples_cpp_coroutine_LDADD = lib/libpycrew.la

# The founding example's library once more, on pycrew.hpp: examples/bridge/bridge opens it.
noinst_LTLIBRARIES += examples/bridge-cpp/libbridge-cpp.la
examples_bridge_cpp_libbridge_cpp_la_SOURCES = examples/bridge-cpp/bridge.cpp
examples_bridge_cpp_libbridge_cpp_la_CPPFLAGS = $(examples_cpp_cpp_CPPFLAGS) -iquote examples/bridge
examples_bridge_cpp_libbridge_cpp_la_CXXFLAGS = $(examples_cpp_cpp_CXXFLAGS)
examples_bridge_cpp_libbridge_cpp_la_LDFLAGS = $(base_link_flags) -module -avoid-version -shared \
	-rpath $(pkglibdir)
examples_bridge_cpp_libbridge_cpp_la_LIBADD = lib/libpycrew.la

# Coroutines: requests that are under way at once.
noinst_PROGRAMS += examples/fetch/fetch
examples_fetch_fetch_SOURCES = examples/fetch/fetch.c
examples_fetch_fetch_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DFETCH_FOLDER='"$(abs_top_srcdir)/examples/fetch"'
examples_fetch_fetch_LDADD = lib/libpycrew.la

# On real data: scikit-learn's digits, and a picture of scipy's.
noinst_PROGRAMS += examples/digits/digits
examples_digits_digits_SOURCES = examples/digits/digits.c
examples_digits_digits_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DDIGITS_FOLDER='"$(abs_top_srcdir)/examples/digits"'
examples_digits_digits_LDADD = lib/libpycrew.la

noinst_PROGRAMS += examples/filter/filter
examples_filter_filter_SOURCES = examples/filter/filter.c
examples_filter_filter_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DFILTER_FOLDER='"$(abs_top_srcdir)/examples/filter"'
examples_filter_filter_LDADD = lib/libpycrew.la

# Linear equations in Fortran, solved by scipy in place.
if FORTRAN
noinst_PROGRAMS += examples/solve/solve
endif
examples_solve_solve_SOURCES = examples/solve/solve.f90
examples_solve_solve_LDADD = fortran/libpycrewf.a lib/libpycrew.la
examples/solve/solve.$(OBJEXT): fortran/libpycrewf.a

# An HTTP service on libevent.
if SERVICE
noinst_PROGRAMS += examples/service/service
endif
examples_service_service_SOURCES = examples/service/service.c
examples_service_service_CPPFLAGS = $(AM_CPPFLAGS) -I$(top_srcdir)/lib \
	-DSERVICE_FOLDER='"$(abs_top_srcdir)/examples/service"'
examples_service_service_LDADD = lib/libpycrew.la -levent_extra -levent_core

EXTRA_DIST += examples/README.md examples/hello/CMakeLists.txt examples/debug/means.py examples/fetch/fetch_ops.py examples/hooks/hooks_ops.py examples/progress/progress_ops.py \
	examples/digits/digits_ops.py examples/filter/filter_ops.py examples/solve/solve_ops.py \
	examples/service/service_ops.py examples/service/service_wsgi.py \
	examples/service/compare examples/service/post.lua \
	examples/stubs/shapes.py \
	examples/epoll/epoll_ops.py examples/csv/csv_ops.py examples/csv/orders.csv examples/inplace/inplace_ops.py \
	examples/bridge/README.md examples/bridge/math_ops.py examples/stdlib/stdlib_stats.py

# The bridge's middle in Rust, built by tests/test-bridge-rust.t where cargo is.
EXTRA_DIST += examples/bridge-rust/README.md \
	examples/bridge-rust/Cargo.lock examples/bridge-rust/Cargo.toml examples/bridge-rust/rustfmt.toml \
	examples/bridge-rust/build/header.rs examples/bridge-rust/build/main.rs examples/bridge-rust/build/write.rs \
	examples/bridge-rust/src/crew.rs examples/bridge-rust/src/lib.rs examples/bridge-rust/src/sys.rs \
	examples/bridge-rust/src/tests.rs examples/bridge-rust/src/value.rs

# Go and D, built by tests/test-languages.t where their compilers are.
EXTRA_DIST += examples/languages/README.md examples/languages/d/main.d examples/languages/go/main.go

clean-local: clean-languages
.PHONY: clean-languages
clean-languages:
	rm -rf examples/bridge-rust/target examples/languages/cache
