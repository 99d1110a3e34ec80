#!/bin/sh
# The examples on pycrew.hpp do what they say. Runs in the build folder; TAP.

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

echo 1..6

bridge_cpp=examples/bridge-cpp/.libs/libbridge-cpp.so
run examples/bridge/bridge && cp "$scratch/out" "$scratch/bridge" && run examples/bridge/bridge "$bridge_cpp"
check the_founding_program_runs_with_the_bridge_on_pycrew_hpp
grep -q ZeroDivisionError "$scratch/out" && grep -q 'signal 9' "$scratch/out" && cmp -s "$scratch/bridge" "$scratch/out"
check both_bridges_give_the_same_output_exceptions_and_a_killed_worker_included

mkdir "$scratch/empty"
! run examples/bridge/bridge "$bridge_cpp" "$scratch/empty" && grep -q math_ops "$scratch/err"
check a_module_that_is_missing_is_named_by_the_bridge_on_pycrew_hpp

nm -D --defined-only "$bridge_cpp" | sed -n 's/.* T \(python_[a-z_]*\)$/\1/p' | sort >"$scratch/exported"
sed -n 's/.*\(python_[a-z_]*\)(.*);.*/\1/p' "${top_srcdir:?}/examples/bridge/bridge.h" examples/bridge/math_ops.h | sort >"$scratch/declared"
[ -s "$scratch/declared" ] && diff "$scratch/declared" "$scratch/exported" >"$scratch/out"
check the_bridge_on_pycrew_hpp_has_all_functions_of_the_header

run examples/cpp/callback && [ "$(cat "$scratch/out")" = "3.75, and no 'gold'" ]
check python_calls_a_lambda_and_gets_what_it_throws

run examples/cpp/coroutine
status=$?
if [ $status -eq 77 ]; then
    echo "ok 6 - coroutines # SKIP $(cat "$scratch/out")"
else
    [ $status -eq 0 ] && [ "$(cat "$scratch/out")" = 'together 5055
xy xz yx yz zx zy 
json.decoder.JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)' ]
    check coroutines_await_calls_items_and_exceptions
fi
