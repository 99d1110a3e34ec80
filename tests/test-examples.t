#!/bin/sh
# The examples and the benchmark do what their READMEs say. Runs in the build folder; TAP.

cd "${top_builddir-.}" || exit 99
count=0
scratch=$(mktemp -d) || exit 99
trap 'rm -rf "$scratch"' EXIT

# check NAME: the claim holds if the command before it ended with 0; else $scratch/out is shown.
check() {
    status=$?
    count=$((count + 1))
    if [ $status -eq 0 ]; then
        echo "ok $count - $1"
    else
        echo "not ok $count - $1"
        sed 's/^/# /' "$scratch/out" "$scratch/err" 2>/dev/null
    fi
}

# run COMMAND...: at most two minutes; its output goes to $scratch/out and err.
run() {
    timeout -k 5 120 ./run "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
}

says() {
    grep -q "$1" "$scratch/out" "$scratch/err"
}

echo 1..28

# shellcheck disable=SC2016 # no command, a code block's fence
sed -n '/^```c/,/^```$/{/^```c/d;/^```$/q;p}' "${top_srcdir:?}/README.md" | cmp -s - "$top_srcdir/examples/hello/hello.c"
check the_readmes_program_is_the_example

run examples/bridge/bridge
check the_bridge_runs

cat >"$scratch/expected" <<'EOF'
add(3, 5) = 8
divide(1, 0) raised ZeroDivisionError: integer division or modulo by zero
    the traceback ends: ZeroDivisionError: integer division or modulo by zero
crash() lost its worker to signal 9, in mid-call
add(20, 22) = 42
EOF
cmp "$scratch/expected" "$scratch/out" >/dev/null
check the_bridge_shows_a_sum_an_exception_a_crash_and_that_it_goes_on

! run examples/bridge/bridge "$scratch/libnone.so" && says libnone.so
check a_bridge_whose_library_is_missing_names_it

mkdir "$scratch/empty"
! run examples/bridge/bridge examples/bridge/.libs/libbridge.so "$scratch/empty" && says math_ops
check a_bridge_whose_module_is_missing_names_it

# In the build folder's own copy of the module, a parameter more: main.cpp calls it with two.
mkdir -p "$scratch/changed" && sed 's/def add(a: int,/def add(c: int, a: int,/' "$top_srcdir/examples/bridge/math_ops.py" \
    >"$scratch/changed/math_ops.py" &&
    run cli/pycrew stubs math_ops --path "$scratch/changed" --prefix python_ --int int --crew python_crew \
        --c-header "$scratch/changed/math_ops.h" && cp "$top_srcdir/examples/bridge/main.cpp" \
        "$top_srcdir/examples/bridge/bridge.h" "$scratch/changed" &&
    ! g++ -std=c++17 -fsyntax-only -DBRIDGE_LIBRARY='""' -DBRIDGE_FOLDER='""' "$scratch/changed/main.cpp" 2>"$scratch/err" &&
    says 'main.cpp:.*error'
check a_program_that_does_not_fit_the_bridges_module_does_not_compile

run examples/stubs/stubs && [ "$(cat "$scratch/out")" = 'the centre is (2.7, 1.0)
4.00 0.00
3.33 0.50
2.67 1.00
ZeroDivisionError: division by zero' ]
check stubs_have_the_modules_own_types

run examples/hello/hello && [ "$(cat "$scratch/out")" = '10 over 4 is 210' ]
check hello_prints_its_number

run examples/trace/trace "$scratch/trace.json" && says 'their trace is in' &&
    "${PYTHON:?}" "$top_srcdir/tests/py/trace_check.py" "$scratch/trace.json" 'sum(c["args"]["ended"] for c in chunks) == 100'
check a_trace_has_all_calls

run examples/progress/progress && [ "$(tail -n 2 "$scratch/out")" = '3 of 10
stopped after 3' ]
check progress_is_told_by_python_and_stops_it
(cd "$scratch" && timeout 60 "$OLDPWD/run" "$OLDPWD/examples/reload/reload" >out 2>err </dev/null)
[ "$(cat "$scratch/out")" = "80 cost 16
80 cost 20" ]
check a_reload_gives_the_workers_the_modules_new_text

# All that makes a virtual environment one, with or without the module venv.
mkdir -p "$scratch/venv/bin" && echo "home = $(dirname "${PYTHON:?}")" >"$scratch/venv/pyvenv.cfg"
ln -s "$PYTHON" "$scratch/venv/bin/python"
run examples/environment/environment "$scratch/venv/bin/python" && says "with the packages of $scratch/venv/"
check the_environment_is_the_virtual_one

! run examples/environment/environment /nowhere/bin/python && says /nowhere/bin/python
check an_environment_that_is_missing_is_named

run examples/actor/actor && [ "$(cat "$scratch/out")" = 'hello, world has 3 l' ]
check an_actor_counts_letters

run examples/each/each && [ "$(grep -c 'EXAMPLE_MODE is quick' "$scratch/out")" = 3 ]
check a_mode_is_set_in_each_worker

run examples/source/source && [ "$(head -n 1 "$scratch/out")" = 5 ] && says '^    return sqrt(x + y)$' &&
    [ "$(tail -n 1 "$scratch/out")" = 'ValueError: math domain error' ]
check a_function_given_as_text_has_its_lines_in_the_traceback

run examples/hooks/hooks && [ "$(cat "$scratch/out")" = 'apple: 0.5
plum: null
pear: 0.75' ] && says '2 found'
check a_worker_opens_its_table_first_and_reports_at_its_end

run examples/stream/stream && [ "$(tr '\n' ' ' <"$scratch/out")" = 'xy xz yx yz zx zy ' ]
check a_stream_prints_its_items_in_their_order

run examples/cpp/cpp && [ "$(cat "$scratch/out")" = '10 over 4 is 210, 20 over 4 4845
xy xz yx yz zx zy 
json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)' ]
check c_plus_plus_has_results_items_and_exceptions

run examples/fetch/fetch && [ "$(cat "$scratch/out")" = '180 of 200 were found' ]
check two_hundred_requests_are_under_way_at_once

run examples/stdlib/stdlib-stats -n 150 && says 'Both runs found the same in every file'
check one_worker_and_all_find_the_same_in_the_standard_library

mkdir "$scratch/tree" "$scratch/tree/site-packages"
cat >"$scratch/tree/a.py" <<'EOF'
class A:
    def short(self):
        pass

    async def longest(self, x):
        y = x
        return y
EOF
echo 'def broken(:' >"$scratch/tree/b.py"
printf 's = "\377"\n' >"$scratch/tree/c.py"
echo 'def not_ours(): pass' >"$scratch/tree/site-packages/d.py"
run examples/stdlib/stdlib-stats "$scratch/tree" && says 'files  *3 .* 2 that do not parse' &&
    says 'functions  *2$' && says 'classes  *1$' && says '3  lines: longest in a.py'
check files_that_do_not_parse_are_counted_and_the_others_go_on

! run examples/stdlib/stdlib-stats "$scratch/none" && says "$scratch/none: No such file"
check a_folder_that_is_missing_is_named

run bench/pycrew-bench --json --quick --rounds 1 && [ "$(wc -l <"$scratch/out")" -eq 1 ]
check the_benchmark_prints_one_json_object

missing=
for name in cacheline_rtt_ns inprocess_call_ns sync_p50_ns sync_p99_ns pipelined_ns batch_ns \
    map_i64_ns map_sqrt_ns map_whole_ratio park_rtt_ns start_ms worker_pss_kb; do
    says "\"$name\": [0-9n]" || missing="$missing $name"
done
[ -z "$missing" ]
check "the_benchmark_has_every_value$missing"

run bench/growth --json --quick --rounds 1 in_flight functions batch_length &&
    "${PYTHON:?}" -c 'import json, sys; sys.exit(sorted(json.load(sys.stdin)) != ["batch_length", "functions", "in_flight"])' \
        <"$scratch/out" 2>"$scratch/err"
check what_grows_is_one_json_object

run tests/soak/pycrew-soak --calls 50000 --kill 0 --zygote 0
check every_call_of_many_threads_ends_once_with_its_result

run tests/soak/pycrew-soak --calls 100000 --kill 20 --zygote 1
check every_call_ends_once_and_truthfully_while_workers_and_zygotes_are_killed
