# PYCREW_CHECK_USDT: --enable-usdt, static probes for bpftrace and its kin (lib/shm/probes.h). They need sys/sdt.h at
# build time, and nothing at run time: each is a nop.
AC_DEFUN([PYCREW_CHECK_USDT], [
    AC_ARG_ENABLE([usdt],
        [AS_HELP_STRING([--enable-usdt], [static probes for bpftrace (default: where sys/sdt.h is)])],
        [], [enable_usdt=auto])
    AS_IF([test "x$enable_usdt" != xno], [
        AC_CHECK_HEADER([sys/sdt.h], [pycrew_has_sdt=yes], [pycrew_has_sdt=no])
        AS_IF([test "$pycrew_has_sdt" = yes],
                [AC_DEFINE([PYCREW_USDT], [1], [static probes])],
            [test "x$enable_usdt" = xyes],
                [AC_MSG_ERROR([--enable-usdt needs sys/sdt.h (Debian: systemtap-sdt-dev)])])
    ])
])
