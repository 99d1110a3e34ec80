# find_package(pycrew) gives the target pycrew::pycrew: the header's folder, and the library. Both are
# found from where this file is, <libdir>/cmake/pycrew, so that a tree that was moved works too.
get_filename_component(_pycrew_libdir "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
find_path(_pycrew_include pycrew.h NO_DEFAULT_PATH NO_CACHE
    PATHS "${_pycrew_libdir}/../include" "${_pycrew_libdir}/../../include")
find_library(_pycrew_library pycrew NO_DEFAULT_PATH NO_CACHE PATHS "${_pycrew_libdir}")

if(NOT _pycrew_include OR NOT _pycrew_library)
    set(pycrew_FOUND FALSE)
    set(pycrew_NOT_FOUND_MESSAGE "pycrew.h or libpycrew.so is missing beside ${_pycrew_libdir}")
elseif(NOT TARGET pycrew::pycrew)
    add_library(pycrew::pycrew SHARED IMPORTED)
    set_target_properties(pycrew::pycrew PROPERTIES
        IMPORTED_LOCATION "${_pycrew_library}"
        INTERFACE_INCLUDE_DIRECTORIES "${_pycrew_include}")
endif()
