# PYCREW_CHECK_FORTRAN: sets enable_fortran to no if $FC does not link a program as ours are.
AC_DEFUN([PYCREW_CHECK_FORTRAN], [
AC_LANG_PUSH([Fortran])
AC_FC_SRCEXT([f90], [pycrew_srcext=yes], [pycrew_srcext=no])
AC_MSG_CHECKING([whether $FC is for Fortran 2018])
pycrew_save_FCFLAGS=$FCFLAGS
FCFLAGS="$FCFLAGS -std=f2018"
AC_LINK_IFELSE([AC_LANG_SOURCE([[
program main
    use, intrinsic :: iso_c_binding
    real(c_double), target :: x(2, 3)
    if (any(extents(x) /= [2, 3])) error stop
contains
    function extents(data) result(of)
        real(c_double), intent(in), target :: data(..)
        integer(c_int64_t) :: of(rank(data))
        type(c_ptr) :: at
        at = c_loc(data)
        of = shape(data, c_int64_t)
    end function
end program
]])], [pycrew_f2018=$pycrew_srcext], [pycrew_f2018=no])
FCFLAGS=$pycrew_save_FCFLAGS
AC_MSG_RESULT([$pycrew_f2018])
AC_LANG_POP([Fortran])
AS_IF([test $pycrew_f2018 = no], [
    AS_IF([test "x$enable_fortran" = xyes],
        [AC_MSG_ERROR([$FC does not compile Fortran 2018: see config.log])])
    enable_fortran=no])
])
