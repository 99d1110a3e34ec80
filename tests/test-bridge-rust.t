#!/bin/sh
# The founding example with its middle in Rust: examples/bridge's program runs with it unchanged. Built in the
# build folder, without network, where cargo is. TAP.

cd "${top_builddir-.}" || exit 99
source=${top_srcdir:?}/examples/bridge-rust
library=$PWD/lib/.libs

skip() {
    echo "1..0 # SKIP $1"
    exit 0
}

# Debian's first: another one in the PATH may be a wrapper that wants to fetch a compiler.
find_program() {
    PATH=/usr/bin:$PATH command -v "$1"
}

cargo=$(find_program cargo) || skip "cargo is not installed (Debian: cargo rustc)"
RUSTC=$(find_program rustc) || skip "rustc is not installed (Debian: rustc)"
RUSTDOC=$(find_program rustdoc) || skip "rustdoc is not installed (Debian: rustc)"
minor=$("$RUSTC" --version | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
[ "${minor:-0}" -ge 63 ] || skip "rustc is older than 1.63, or does not run"
[ -e "$library/libpycrew.so" ] || skip "built without the shared library"
! nm -D "$library/libpycrew.so" | grep -q -e __asan_init -e __tsan_init || skip "built with a sanitizer"

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

unset MAKEFLAGS MFLAGS RUSTC_WRAPPER # a jobserver's descriptors are not inherited
CARGO_TARGET_DIR=$PWD/examples/bridge-rust/target
CARGO_HOME=$CARGO_TARGET_DIR/home
RUSTFLAGS='-D warnings'
RUST_BACKTRACE=0
CARGO_INCREMENTAL=0
CARGO_PROFILE_DEV_DEBUG=0 # a fifth of the size, and sooner built
PYCREW_INCLUDE=$top_srcdir/lib
PYCREW_LIB=$library
BRIDGE_INCLUDE=$top_srcdir/examples/bridge:$PWD/examples/bridge
BRIDGE_MODULES=$top_srcdir/examples/bridge
LD_LIBRARY_PATH=$library
export RUSTC RUSTDOC CARGO_TARGET_DIR CARGO_HOME RUSTFLAGS RUST_BACKTRACE CARGO_INCREMENTAL CARGO_PROFILE_DEV_DEBUG \
    PYCREW_INCLUDE PYCREW_LIB BRIDGE_INCLUDE BRIDGE_MODULES LD_LIBRARY_PATH

run_cargo() {
    command=$1
    shift
    timeout -k 5 200 "$cargo" "$command" --frozen --manifest-path "$source/Cargo.toml" "$@" \
        >"$scratch/out" 2>"$scratch/err" </dev/null
}

bridge() {
    timeout -k 5 60 ./run examples/bridge/bridge "$@" >"$scratch/out" 2>"$scratch/err" </dev/null
}

says() {
    grep -q "$1" "$scratch/out" "$scratch/err"
}

echo 1..6

run_cargo build
check the_crate_builds_without_a_warning

rust=$CARGO_TARGET_DIR/debug/libbridge.so
sed -n 's/^[a-z].*[ *]\(python_[a-z_]*\)(.*/\1/p' "$top_srcdir/examples/bridge/bridge.h" examples/bridge/math_ops.h | sort >"$scratch/declared"
nm -D --defined-only "$rust" | sed -n 's/.* T \(python_.*\)/\1/p' | sort >"$scratch/exported"
[ -s "$scratch/declared" ] && diff "$scratch/declared" "$scratch/exported" >"$scratch/out"
check it_exports_what_bridge_h_declares

unset LD_LIBRARY_PATH # it finds libpycrew by itself
bridge "$PWD/examples/bridge/.libs/libbridge.so" "$BRIDGE_MODULES" && mv "$scratch/out" "$scratch/c" &&
    bridge "$rust" "$BRIDGE_MODULES" && cmp "$scratch/c" "$scratch/out" >"$scratch/err" && [ -s "$scratch/c" ]
check the_program_prints_with_it_what_it_prints_with_c

mkdir "$scratch/empty"
! bridge "$rust" "$scratch/empty" && says "No module named 'math_ops'"
check a_module_that_is_missing_is_named

LD_LIBRARY_PATH=$library
export LD_LIBRARY_PATH
run_cargo test --lib && says 'test result: ok. 18 passed; 0 failed'
check its_tests_pass

run_cargo test --doc && says 'test result: ok. 6 passed; 0 failed' && [ "$(grep -c 'compile fail ... ok' "$scratch/out")" = 3 ]
check what_must_not_compile_does_not_and_what_its_comments_show_runs
