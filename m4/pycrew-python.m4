# PYCREW_FIND_PYTHON: the interpreter whose environment the workers use, and its libpython.
#
# Sets PYTHON (absolute: sys.executable, so that a venv stays one and a pyenv shim is seen through),
# PYTHON_VERSION (3.x), PYTHON_CFLAGS (by -isystem: its headers are not ours to keep free of
# warnings), PYTHON_LIBS (of libpython.so, if there is one) and WORKER_PYTHON_LIBS. What is missing goes to PYCREW_MISSING.
AC_DEFUN([PYCREW_FIND_PYTHON], [
AC_REQUIRE([PKG_PROG_PKG_CONFIG])

AC_ARG_WITH([python],
    [AS_HELP_STRING([--with-python=INTERPRETER],
        [the Python of the workers, 3.9 or newer, also a venv's (default: /usr/bin/python3, else python3)])],
    [], [with_python=])
AS_IF([test "x$with_python" = xyes || test "x$with_python" = xno], [with_python=])
AS_IF([test -z "$with_python"],
    [AS_IF([test -x /usr/bin/python3], [with_python=/usr/bin/python3], [with_python=python3])])

AC_MSG_CHECKING([for Python 3.9 or newer])
AS_UNSET([PYTHONHOME])
pycrew_python_facts=`"$with_python" -I -c '
import os, sys, sysconfig
get = sysconfig.get_config_var
static = os.path.join(get("LIBPL") or "", get("LIBRARY") or "")
own = "libpython" not in open("/proc/self/maps").read()
print("pycrew_python_static=%s" % (static if own and static.endswith(".a") and os.path.exists(static) else ""))
print("pycrew_python_static_libs=%s" % " ".join(get(v) or "" for v in ("MODLIBS", "LIBS", "SYSLIBS")))
print("PYTHON=%s" % sys.executable)
print("PYTHON_VERSION=%d.%d" % sys.version_info[[:2]])
print("pycrew_python_abi=%s" % (get("LDVERSION") or get("VERSION")))
print("pycrew_python_libdir=%s" % (get("LIBDIR") or ""))
print("pycrew_python_libpc=%s" % (get("LIBPC") or ""))
print("pycrew_python_shared=%d" % bool(get("Py_ENABLE_SHARED")))
print("pycrew_python_new=%d" % (sys.version_info >= (3, 9)))
' 2>/dev/null | "$SED" "s/'/'\\\\\\\\''/g; s/=\(.*\)/='\1'/"`
PYTHON= PYTHON_VERSION= PYTHON_CFLAGS= PYTHON_LIBS= pycrew_python_new=0
eval "$pycrew_python_facts"
AS_IF([test -z "$PYTHON"], [AC_MSG_RESULT([no: $with_python does not run])
        PYCREW_MISSING([a Python 3 that runs ($with_python)], [python3])],
    [test "$pycrew_python_new" = 0], [AC_MSG_RESULT([no: $PYTHON is $PYTHON_VERSION])
        PYCREW_MISSING([Python 3.9 or newer ($PYTHON is $PYTHON_VERSION)], [python3])],
    [AC_MSG_RESULT([$PYTHON ($PYTHON_VERSION)])
        AS_IF([test -z "$PKG_CONFIG"], [PYCREW_MISSING([pkg-config], [pkg-config])],
              [PYCREW_FIND_LIBPYTHON])])
AC_SUBST([PYTHON])
AC_SUBST([PYTHON_VERSION])
AC_SUBST([PYTHON_CFLAGS])
AC_SUBST([PYTHON_LIBS])
AC_SUBST([WORKER_PYTHON_LIBS])
])

# Where the interpreter itself is linked with a static libpython (Debian, most builds without
# --enable-shared), so is the worker, if it is there: it runs Python code about a quarter faster,
# and what extension modules find in the process is what they find in that interpreter. The same
# non-PIE link as the interpreter's own, since such a libpython.a is not made for another.
AC_DEFUN([PYCREW_TRY_STATIC_LIBPYTHON], [
AC_ARG_ENABLE([static-libpython],
    [AS_HELP_STRING([--disable-static-libpython], [link the worker with libpython.so in any case])],
    [], [enable_static_libpython=yes])
WORKER_PYTHON_LIBS=$PYTHON_LIBS
AS_IF([test "x$enable_static_libpython" != xno && test -n "$pycrew_python_static"], [
    AC_MSG_CHECKING([for a static libpython as in $PYTHON])
    pycrew_static="-no-pie $pycrew_python_static -Wl,--export-dynamic $pycrew_python_static_libs"
    LIBS="$pycrew_static $pycrew_save_LIBS -lpthread -lutil"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <Python.h>]], [[Py_Initialize();]])],
        [WORKER_PYTHON_LIBS="$pycrew_static -lpthread -lutil"
         AC_MSG_RESULT([$pycrew_python_static])],
        [AC_MSG_RESULT([no: $pycrew_python_static does not link])])])
])

# The .pc file is the one of that very interpreter (LIBPC), before any other of the same version.
AC_DEFUN([PYCREW_FIND_LIBPYTHON], [
AS_CASE([$PYTHON], [/usr/bin/*], [pycrew_python_dev=libpython3-dev],
        [pycrew_python_dev=libpython$PYTHON_VERSION-dev])
pycrew_pkg_config() {
    PKG_CONFIG_PATH="$pycrew_python_libpc${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}" \
        $PKG_CONFIG "[$]@" "python-$pycrew_python_abi-embed" 2>/dev/null
}
AC_MSG_CHECKING([for libpython$pycrew_python_abi])
AS_IF([pycrew_pkg_config --exists], [
    PYTHON_CFLAGS=`pycrew_pkg_config --cflags | "$SED" 's/-I */-isystem /g'`
    PYTHON_LIBS=`pycrew_pkg_config --libs`
    # A static libpython: extension modules find its symbols in the worker.
    AS_IF([test "$pycrew_python_shared" = 0],
        [PYTHON_LIBS="`pycrew_pkg_config --static --libs` -Wl,--export-dynamic"],
        [AS_CASE([$pycrew_python_libdir], [/usr/lib|/usr/lib/*|/lib|/lib/*|''], [],
            [PYTHON_LIBS="$PYTHON_LIBS -Wl,-rpath,$pycrew_python_libdir"])])
    pycrew_save_CPPFLAGS=$CPPFLAGS pycrew_save_LIBS=$LIBS
    CPPFLAGS="$CPPFLAGS $PYTHON_CFLAGS" LIBS="$PYTHON_LIBS $LIBS"
    AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <Python.h>]], [[Py_Initialize();]])],
        [AC_MSG_RESULT([$PYTHON_LIBS])
         PYCREW_TRY_STATIC_LIBPYTHON],
        [AC_MSG_RESULT([no: $PYTHON_LIBS does not link])
         PYCREW_MISSING([libpython$pycrew_python_abi of $PYTHON], [$pycrew_python_dev])])
    CPPFLAGS=$pycrew_save_CPPFLAGS LIBS=$pycrew_save_LIBS
], [
    AC_MSG_RESULT([no: no python-$pycrew_python_abi-embed.pc])
    PYCREW_MISSING([libpython$pycrew_python_abi of $PYTHON], [$pycrew_python_dev])
])
])
