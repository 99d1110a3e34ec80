#!/bin/sh
# doc/languages.md: its programs are those of examples/languages, and run where a compiler is; its table has all
# functions with varargs. TAP.

cd "${top_builddir-.}" || exit 99
source=${top_srcdir:?}/examples/languages
page=$top_srcdir/doc/languages.md
modules=$top_srcdir/examples/bridge
library=$PWD/lib/.libs

scratch=$(mktemp -d) || exit 99
trap 'rm -rf "$scratch"' EXIT
count=0

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

skip() { # skip NAME REASON
    count=$((count + 1))
    echo "ok $count - $1 # SKIP $2"
}

block() { # block LANGUAGE: its code on the page
    sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/{/^\`\`\`/d;p}" "$page"
}

echo 1..6

block go | diff - "$source/go/main.go" >"$scratch/out"
check the_pages_go_is_the_example

block d | diff - "$source/d/main.d" >"$scratch/out"
check the_pages_d_is_the_example

tr '\n' ' ' <"$top_srcdir/lib/pycrew.h" | tr ';' '\n' |
    sed -n 's/.*PYCREW_API  *[^(]*[ *]\(pycrew_[a-z0-9_]*\)([^)]*\.\.\.) *$/\1/p' | sort >"$scratch/variadic"
sed -n '/^| variadic/,/^$/s/^| \(`[^|]*\) |.*/\1/p' "$page" | grep -o 'pycrew_[a-z_]*' | sort >"$scratch/told"
[ -s "$scratch/variadic" ] && diff "$scratch/variadic" "$scratch/told" >"$scratch/out"
check the_page_has_each_function_with_varargs

sed -n '/^| variadic/,/^$/p' "$page" | grep -o 'pycrew_[a-z0-9_]*[a-z0-9]' | sort -u >"$scratch/named"
sed -n 's/^ *\(pycrew_[a-z0-9_]*\);.*/\1/p' "$top_srcdir/lib/pycrew.map" >"$scratch/mapped"
while read -r name; do
    grep -q "^$name" "$scratch/mapped" || echo "$name"
done <"$scratch/named" >"$scratch/out"
[ -s "$scratch/named" ] && [ ! -s "$scratch/out" ]
check what_the_page_names_beside_them_exists

if [ ! -e "$library/libpycrew.so" ]; then
    reason="built without the shared library"
elif nm -D "$library/libpycrew.so" | grep -q -e __asan_init -e __tsan_init; then
    reason="built with a sanitizer"
else
    reason=
fi

runs() { # runs PROGRAM: it prints what is expected
    timeout -k 5 60 ./run "$1" "$modules" >"$scratch/out" 2>"$scratch/err" </dev/null &&
        cmp "$scratch/out" "$scratch/expected" >>"$scratch/err"
}

cat >"$scratch/expected" <<'EXPECTED'
add(3, 5) = 8 <nil>
divide(1, 0): ZeroDivisionError: integer division or modulo by zero
crash() lost its worker to signal 9
ask(21) = 42 <nil>
1000 goroutines: 500500
EXPECTED
if [ -n "$reason" ]; then
    skip the_go_program_runs "$reason"
elif ! go=$(PATH=/usr/bin:$PATH command -v go); then
    skip the_go_program_runs "go is not installed (Debian: golang-go)"
else
    GO111MODULE=off GOFLAGS='' GOPROXY=off GOTOOLCHAIN=local GOCACHE=$PWD/examples/languages/cache GOPATH=$scratch/gopath \
        CGO_ENABLED=1 CGO_CFLAGS="-Wall -Werror -I$top_srcdir/lib" CGO_LDFLAGS="-L$library -Wl,-rpath,$library" \
        timeout -k 5 200 "$go" build -o "$scratch/go" "$source/go/main.go" >"$scratch/out" 2>"$scratch/err" &&
        runs "$scratch/go"
    check the_go_program_runs
fi

cat >"$scratch/expected" <<'EXPECTED'
add(3, 5) = 8
add(0.5, 1) = 1.5
add(D, Python) = D, Python
divide(1, 0): ZeroDivisionError: integer division or modulo by zero
crash() lost its worker to signal 9, in mid-call
ask(21) = 42
1000 calls: 500500
EXPECTED
if [ -n "$reason" ]; then
    skip the_d_program_runs "$reason"
elif ! gdc=$(command -v gdc); then
    skip the_d_program_runs "gdc is not installed (Debian: gdc)"
elif [ "$("$gdc" -dumpversion | sed 's/\..*//')" -lt 12 ]; then
    skip the_d_program_runs "gdc is older than 12, which has no ImportC"
else
    mkdir "$scratch/d"
    echo '#include <pycrew.h>' |
        ${CC:-cc} -E -P -D'__attribute__(x)=' -I"$top_srcdir/lib" -x c - -o "$scratch/d/pycrew.c" 2>"$scratch/err" &&
        "$gdc" -Wall -Wextra -Werror -I"$scratch/d" "$source/d/main.d" -o "$scratch/d/main" \
            -L"$library" -Wl,-rpath,"$library" -lpycrew >"$scratch/out" 2>"$scratch/err" &&
        runs "$scratch/d/main"
    check the_d_program_runs
fi
