# fortran/: the module pycrew. It is installed as source, beside pycrew.h and whether there is a Fortran
# compiler or not: a .mod file is good for one version of one compiler.

include_HEADERS += fortran/pycrew.f90

# For the example and the tests: fortran/pycrew.mod comes with it.
if FORTRAN
noinst_LIBRARIES += fortran/libpycrewf.a
endif
fortran_libpycrewf_a_SOURCES = fortran/pycrew.f90
CLEANFILES += fortran/pycrew.mod
