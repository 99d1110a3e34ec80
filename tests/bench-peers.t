#!/bin/sh
# bench/peers: what make bench does, with pycrew and two peers that come with Python. Runs in the build folder; TAP.

cd "${top_builddir-.}" || exit 99
: "${top_srcdir:?}" "${PYTHON:?}"
peers=$top_srcdir/bench/peers
count=0
scratch=$(mktemp -d) || exit 99
trap 'rm -rf "$scratch"' EXIT

# check NAME: the claim holds if the command before it ended with 0; else what was said is shown.
check() {
    status=$?
    count=$((count + 1))
    if [ $status -eq 0 ]; then
        echo "ok $count - $1"
    else
        echo "not ok $count - $1"
        sed 's/^/# /' "$scratch/out" "$scratch/err" "$scratch/why" 2>/dev/null
    fi
}

# bench ARGUMENT...: a second or so of it, without what needs numpy.
bench() {
    rm -rf "$scratch/results.json" "$scratch/why"
    timeout -k 5 120 ./run "$PYTHON" -B "$peers/bench.py" --build . --out "$scratch" --quick --minutes 5 --seconds 0.02 --no-plots "$@" \
        >"$scratch/out" 2>"$scratch/err" </dev/null
}

# holds EXPRESSION: in Python, of the results.
holds() {
    "$PYTHON" -c "
import json, sys
results = json.load(open(sys.argv[1]))
cells = results['cells']
def said(word): return {(c['peer'], c['cell'], c['way']) for c in cells if word in c}
assert $1, cells" "$scratch/results.json" 2>"$scratch/why"
}

# broken FUNCTION BODY: a folder of functions in which that one is another.
broken() {
    rm -rf "$scratch/broken"
    cp -r "$peers/functions" "$scratch/broken" && chmod -R u+w "$scratch/broken" &&
        printf '\n\ndef %s:\n    %s\n' "$1" "$2" >>"$scratch/broken/peer_ops.py"
}

echo 1..7

bench --parts start,memory,calls,kill --workloads nothing,add,json --peers pycrew,pool,pipe
check pycrew_and_two_peers_are_measured

holds "{c[:2] for c in said('calls')} >= {(p, w) for p in ('pycrew', 'pool', 'pipe') for w in ('nothing', 'add', 'json')} \
    and {c[:2] for c in said('runs')} >= {(p, w) for p in ('pycrew', 'pool', 'pipe') for w in ('nothing', 'add', 'json')} \
    and not results['wrong'] and {m['peer'] for m in results['memory']} == {'pycrew', 'pool', 'pipe'} \
    and all(c['lost'] == 0 for c in cells if c['peer'] == 'pycrew') and results['starts'] and results['versions']"
check each_has_times_of_each_workload_and_pycrew_loses_no_call

"$PYTHON" -B "$peers/report.py" "$scratch/results.json" --out "$scratch" >"$scratch/report" 2>"$scratch/why" &&
    grep -q '^| pycrew .* us .*|$' "$scratch/report" && grep -q 'multiprocessing.Pool' "$scratch/report"
check a_report_is_made_of_it

printf 'before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n' >"$scratch/page.md"
"$PYTHON" -B "$peers/report.py" "$scratch/results.json" --insert "$scratch/page.md" >/dev/null 2>"$scratch/why" &&
    grep -q '^| pycrew' "$scratch/page.md" && ! grep -q '^old' "$scratch/page.md" &&
    [ "$(sed -n '1p;$p' "$scratch/page.md" | tr '\n' ' ')" = 'before after ' ]
check a_report_replaces_the_last_one_in_a_page

broken 'add(a, b)' 'return a + b + (a == 3)'
! bench --functions "$scratch/broken" --parts calls --workloads add --peers pycrew,gil,pool,pipe &&
    [ "$(grep -c '^WRONG: .*add of record 3' "$scratch/err")" -eq 4 ]
check a_wrong_result_is_noticed_in_every_peer

broken 'nothing()' 'time.sleep(1000)' &&
    bench --functions "$scratch/broken" --parts calls --workloads nothing --peers pycrew,pool --limit 1 &&
    holds "{c[0] for c in said('hung')} == {'pycrew', 'pool'}"
check a_peer_that_hangs_is_said_to_and_ends

BENCH_PYTHON312=/bin/false bench --parts calls --workloads add --peers pycrew,interpreters &&
    grep -q 'without interpreters: ' "$scratch/err" && grep -q '^Left out: interpreters' "$scratch/out"
check a_peer_that_is_not_there_is_left_out_and_named
