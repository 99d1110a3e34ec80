# PYCREW_FIND_PYTHONS: which Pythons, beside the default one, get a worker: those of --with-pythons, and
# the default one's version, for other builds of it. Needs their headers alone: libpython is loaded at
# run time, and is the one of the interpreter that is used then.
#
# Sets WORKER_MODULES (files) and worker_module_rules (how each is made).
AC_DEFUN([PYCREW_FIND_PYTHONS], [
AC_ARG_WITH([pythons],
    [AS_HELP_STRING([--with-pythons=LIST],
        [more Pythons to build workers for: versions ("3.9 3.12", found in PATH or pyenv), interpreters'
         paths, or "all" for each version from 3.9 on that is found (default: none)])],
    [], [with_pythons=])
AS_CASE([$with_pythons], [no], [with_pythons=])

pycrew_pyenv=${PYENV_ROOT:-$HOME/.pyenv}
# Asked without site, as the worker asks at run time: abi, then the folders of headers.
pycrew_python_headers() {
    "[$]1" -I -S -c '
import os, sys, sysconfig
get = sysconfig.get_config_var
folders = sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})
found = sys.version_info >= (3, 9) and os.path.exists(os.path.join(folders[[0]], "Python.h"))
print(get("LDVERSION") or "%d.%d" % sys.version_info[[:2]], int(found), *("-isystem " + f for f in folders))
' 2>/dev/null
}
# The first of these that runs: a shim of pyenv does not, where its version is not selected.
pycrew_python_of_version() {
    for pycrew_candidate in "python[$]1" "$pycrew_pyenv/versions/[$]1".*/bin/python3 \
        "$pycrew_pyenv/versions/[$]1/bin/python3" "/usr/bin/python[$]1"; do
        pycrew_python_headers "$pycrew_candidate" >/dev/null && AS_ECHO(["$pycrew_candidate"]) && return
    done
    return 1
}

WORKER_MODULES= worker_module_rules= pycrew_worker_versions=
# PYCREW_ADD_PYTHON(INTERPRETER): of two with the same ABI the first one's headers are used.
pycrew_add_python() {
    set -- `pycrew_python_headers "[$]1"` || return
    test "[$]2" = 1 || return
    AS_CASE([" $pycrew_worker_versions "], [*" [$]1 "*], [return 0])
    pycrew_worker_versions="$pycrew_worker_versions${pycrew_worker_versions:+ }[$]1"
    pycrew_module="worker/pycrew-worker-[$]1.so"
    shift 2
    WORKER_MODULES="$WORKER_MODULES $pycrew_module"
    worker_module_rules="$worker_module_rules
$pycrew_module: \$(worker_module_sources)
	\$(worker_module_compile) [$]* \$\$sources -o \$[@]
"
}

AC_MSG_CHECKING([for Pythons to build workers for])
AS_IF([test -n "$PYTHON"], [pycrew_add_python "$PYTHON"])
AS_IF([test "x$with_pythons" = xall || test "x$with_pythons" = xyes], [
    for pycrew_minor in 9 10 11 12 13 14; do
        pycrew_found=`pycrew_python_of_version 3.$pycrew_minor` && pycrew_add_python "$pycrew_found"
    done
], [
    for pycrew_entry in $with_pythons; do
        AS_CASE([$pycrew_entry], [*/*], [pycrew_found=$pycrew_entry],
            [pycrew_found=`pycrew_python_of_version $pycrew_entry`])
        AS_IF([test -z "$pycrew_found"],
            [PYCREW_MISSING([a Python $pycrew_entry, for --with-pythons], [libpython$pycrew_entry-dev])],
            [pycrew_add_python "$pycrew_found"], [],
            [PYCREW_MISSING([a Python 3.9 or newer with its Python.h at $pycrew_found], [libpython3-dev])])
    done
])
AC_MSG_RESULT([$pycrew_worker_versions])
AC_SUBST([WORKER_MODULES])
AC_SUBST([worker_module_rules])
AM_SUBST_NOTMAKE([worker_module_rules])
])
