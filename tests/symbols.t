#!/bin/sh
# The library's face: it exports what pycrew.h and pycrew-stubs.h declare and nothing else, and needs libc alone.
top_srcdir=${top_srcdir:?}
library=${top_builddir:?}/lib/.libs/libpycrew.so
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
count=0

verdict() # verdict STATUS NAME: the file "$work/why" says why not
{
    count=$((count + 1))
    if [ "$1" -eq 0 ]; then
        echo "ok $count - $2"
    else
        echo "not ok $count - $2"
        sed 's/^/# /' "$work/why"
    fi
}

if [ ! -e "$library" ]; then
    echo "1..0 # SKIP built without the shared library"
    exit 0
fi
echo 1..4

# A declaration may run over lines; its name is the word before its first parenthesis.
cat "$top_srcdir/lib/pycrew.h" "$top_srcdir/lib/pycrew-stubs.h" | tr '\n' ' ' | tr ';' '\n' |
    sed -n 's/.*PYCREW_API  *\([^(]*[ *]\)\(pycrew_[a-z0-9_]*\)(.*/\2/p' | sort >"$work/declared"
sed -n 's/^ *\(pycrew_[a-z0-9_]*\);.*/\1/p' "$top_srcdir/lib/pycrew.map" | sort >"$work/mapped"
nm -D --defined-only "$library" | sed -n 's/.* [TDBRWV] \([^@]*\)@.*/\1/p' | sort >"$work/exported"

diff "$work/declared" "$work/mapped" >"$work/why"
verdict $? "the map lists what the headers declare"

[ -s "$work/exported" ] && diff "$work/mapped" "$work/exported" >"$work/why"
verdict $? "the library exports what the map lists and nothing else"

nm -D --defined-only "$library" | grep ' T ' | grep -v '@@PYCREW_[0-9]' >"$work/why"
[ $? -eq 1 ]
verdict $? "each function has a version node"

if nm -D "$library" | grep -q -e __asan_init -e __tsan_init -e __gcov; then
    echo "ok 4 - the library needs libc alone # SKIP built with instrumentation"
else
    readelf -d "$library" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' |
        grep -v -e '^libc\.so' -e '^ld-linux' -e '^libpthread\.so' -e '^librt\.so' >"$work/why"
    [ $? -eq 1 ]
    verdict $? "the library needs libc alone"
fi
