/* element: a column's elements as Python objects, and results as elements.
 *
 * An int's element is an int, a float's a float, and so on; results are taken as pycrew.h says at
 * pycrew_map: an int for ints, and float and complex take what is exact in them by their type.
 * numpy scalars are what their item() is, and what has __index__ is an int. Nothing is rounded but
 * a float to a narrower float; what is out of range is not stored.
 *
 * With PYCREW_MAP_WHOLE it is slices, and what the function returned is copied into the output's.
 *
 * Elements may stand anywhere, unaligned too. All functions need the GIL. */
#ifndef PC_WORKER_ELEMENT_H
#define PC_WORKER_ELEMENT_H

#include <Python.h>

#include "lib/shm/array.h"
#include "lib/shm/slot.h"

/* For the types that are neither ints of 64 bits nor doubles. NULL with an exception. */
PyObject *pc_element_load_other(uint32_t dtype, const uint8_t *at);

/* Whatever the fast path does not take. PC_RESULT_VALUE; or with an exception set
 * PC_RESULT_BAD_TYPE, PC_RESULT_BAD_RANGE, or PC_RESULT_EXCEPTION. */
enum pc_result_kind pc_element_store_other(uint32_t dtype, uint8_t *at, PyObject *object);

/* Copies what a function returned for a slice into the output's: 0 or -1. A TypeError or ValueError
 * says that it is no array of that shape and type. */
int pc_slice_fill(PyObject *output, PyObject *result);

/* The tuple of the keyword `out`. Borrowed, or NULL with an exception. */
PyObject *pc_slice_out_name(void);

static inline PyObject *pc_element_load(uint32_t dtype, const uint8_t *at)
{
    int64_t integer;
    double number;

    if (dtype == PC_DTYPE_I64) {
        memcpy(&integer, at, sizeof integer);
        return PyLong_FromLongLong(integer);
    }
    if (dtype == PC_DTYPE_F64) {
        memcpy(&number, at, sizeof number);
        return PyFloat_FromDouble(number);
    }
    return pc_element_load_other(dtype, at);
}

static inline enum pc_result_kind pc_element_store(uint32_t dtype, uint8_t *at, PyObject *object)
{
    if (dtype == PC_DTYPE_F64 && PyFloat_CheckExact(object)) {
        double number = PyFloat_AS_DOUBLE(object);

        memcpy(at, &number, sizeof number);
        return PC_RESULT_VALUE;
    }
    if (dtype == PC_DTYPE_I64 && PyLong_CheckExact(object)) {
        int overflow;
        long long integer = PyLong_AsLongLongAndOverflow(object, &overflow);

        if (overflow == 0) {
            memcpy(at, &integer, sizeof integer);
            return PC_RESULT_VALUE;
        }
    }
    return pc_element_store_other(dtype, at, object);
}

#endif
