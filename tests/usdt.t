#!/bin/sh
# The static probes of library and worker are where lib/shm/probes.h says, and the bpftrace scripts know them.
# That they fire is not tested: it takes root and a kernel that allows BPF.
top_srcdir=${top_srcdir:?}
library=${top_builddir:?}/lib/.libs/libpycrew.so worker=${top_builddir:?}/worker/pycrew-worker
scripts='latency deaths queueing'

echo 1..5
if ! readelf -n "$library" 2>/dev/null | grep -q 'Provider: pycrew'; then
    for i in 1 2 3 4 5; do echo "ok $i # SKIP built without sys/sdt.h, or no readelf"; done
    exit 0
fi

# Probes with so many arguments, once or more: has FILE NAME COUNT
has() {
    readelf -n "$1" | awk -v name="$2" -v count="$3" '
        /Provider:/ { ours = $2 == "pycrew" }
        /Name:/ { this = ours && $2 == name }
        /Arguments:/ && this { found++; if (NF != count + 1) bad = 1 }
        END { exit !(found > 0 && !bad) }' || echo "# no $2 with $3 arguments in $1"
}
missing=$(has "$library" submit 4; has "$library" death 4; has "$library" retry 4; has "$library" kill 4
    has "$worker" call_begin 3; has "$worker" call_end 4; has "$worker" chunk_begin 4; has "$worker" chunk_end 4)
[ -z "$missing" ] && echo "ok 1 - the probes are there with their arguments" ||
    printf 'not ok 1 - the probes are there with their arguments\n%s\n' "$missing"

# Those and no others are described.
described=$(sed -n 's/^ \*   \([a-z_]*\)(.*/\1/p' "$top_srcdir/lib/shm/probes.h" | sort -u)
there=$(readelf -n "$library" "$worker" | awk '/Provider:/ { ours = $2 == "pycrew" } /Name:/ && ours { print $2 }' |
    sort -u)
[ "$described" = "$there" ] && echo "ok 2 - each is described in probes.h" ||
    printf 'not ok 2 - each is described in probes.h\n# there: %s\n' "$(echo "$there" | tr '\n' ' ')"

number=2
for script in $scripts; do
    number=$((number + 1))
    if ! command -v bpftrace >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "ok $number - $script.bt parses # SKIP no bpftrace, or not root"
        continue
    fi
    sed -e "s,/usr/lib/x86_64-linux-gnu/libpycrew.so.0,$library," \
        -e "s,/usr/libexec/pycrew/pycrew-worker,$worker," "$top_srcdir/tools/bpftrace/$script.bt" >usdt-$$.bt
    said=$(bpftrace -d usdt-$$.bt 2>&1)
    status=$?
    rm -f usdt-$$.bt
    if [ $status = 0 ] || ! echo "$said" | grep -q 'ERROR\|error:'; then
        echo "ok $number - $script.bt parses"
    else
        echo "not ok $number - $script.bt parses"
        echo "$said" | grep 'ERROR\|error:' | sed 's/^/# /'
    fi
done
