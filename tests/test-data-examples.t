#!/bin/sh
# The examples that need scipy, scikit-learn or a Fortran compiler find what one Python process finds.

cd "${top_builddir-.}" || exit 99
examples=${top_srcdir:?}/examples
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

skip() { # skip NAME WHY
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

# run COMMAND...: at most two minutes; its output goes to $scratch/out and err.
run() {
    timeout -k 5 120 ./run "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
}

says() {
    grep -q "$1" "$scratch/out" "$scratch/err"
}

installed() { # installed PYTHON-MODULE
    "${PYTHON:?}" -W ignore -c "import $1" 2>/dev/null
}

echo 1..8

if installed numpy; then
    run examples/array/array && [ "$(cat "$scratch/out")" = 499999500000 ]
    check numpy_sums_a_million_numbers_where_they_are
else
    skip numpy_sums_a_million_numbers_where_they_are "no numpy"
fi


solve_claims="fortran_solves_equations_in_place fortran_is_told_of_a_singular_matrix"
if [ ! -x examples/solve/solve ]; then
    for name in $solve_claims; do skip "$name" "built without a Fortran compiler"; done
elif ! installed scipy.linalg; then
    for name in $solve_claims; do skip "$name" "scipy is not installed"; done
else
    run examples/solve/solve "$examples/solve" && says 'right-hand sides: solved in place'
    check fortran_solves_equations_in_place
    says 'a matrix of zeros: .*[Ss]ingular'
    check fortran_is_told_of_a_singular_matrix
fi

digits_claims="digits_are_classified_alike_in_a_call_a_batch_and_a_map
    most_digits_are_recognized
    digits_are_those_one_process_finds"
if ! installed sklearn; then
    for name in $digits_claims; do skip "$name" "scikit-learn is not installed"; done
else
    run examples/digits/digits "$scratch/digits" && says 'One call, a batch and a map found the same'
    check digits_are_classified_alike_in_a_call_a_batch_and_a_map
    recognized=$(sed -n 's/^1797 images, \([0-9]*\) of them recognized$/\1/p' "$scratch/out")
    [ "${recognized:-0}" -gt 1700 ]
    check most_digits_are_recognized
    "$PYTHON" "$examples/digits/digits_ops.py" >"$scratch/expected" 2>"$scratch/err" &&
        cmp "$scratch/expected" "$scratch/digits" >"$scratch/out"
    check digits_are_those_one_process_finds
fi

filter_claims="tiles_blurred_in_place_are_the_whole_picture
    the_picture_is_that_one_process_makes"
if ! installed scipy.ndimage; then
    for name in $filter_claims; do skip "$name" "scipy is not installed"; done
elif ! (cd "$examples/filter" && installed "filter_ops; filter_ops.picture()"); then
    for name in $filter_claims; do skip "$name" "this scipy comes without its photograph"; done
else
    run examples/filter/filter "$scratch/tiles" && says 'blurred in place: as the whole picture'
    check tiles_blurred_in_place_are_the_whole_picture
    "$PYTHON" "$examples/filter/filter_ops.py" "$scratch/whole" 2>"$scratch/err" &&
        cmp "$scratch/whole" "$scratch/tiles" >"$scratch/out"
    check the_picture_is_that_one_process_makes
fi
