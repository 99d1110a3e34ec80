/* element: a column's elements as Python objects, and results as elements. */
#include "worker/element.h"

#include <math.h>
#include <string.h>

#include "worker/convert.h"

#if PY_VERSION_HEX < 0x030b0000
#define PyFloat_Pack2(number, at, little) _PyFloat_Pack2(number, (unsigned char *)(at), little)
#define PyFloat_Unpack2(at, little) _PyFloat_Unpack2((const unsigned char *)(at), little)
#endif

static const char *const names[PC_DTYPE_COUNT] = {
    [PC_DTYPE_BOOL] = "bool",     [PC_DTYPE_I8] = "int8",        [PC_DTYPE_I16] = "int16",
    [PC_DTYPE_I32] = "int32",     [PC_DTYPE_I64] = "int64",      [PC_DTYPE_U8] = "uint8",
    [PC_DTYPE_U16] = "uint16",    [PC_DTYPE_U32] = "uint32",     [PC_DTYPE_U64] = "uint64",
    [PC_DTYPE_F16] = "float16",   [PC_DTYPE_F32] = "float32",    [PC_DTYPE_F64] = "float64",
    [PC_DTYPE_C64] = "complex64", [PC_DTYPE_C128] = "complex128"};

/* ---- elements to objects ---- */

#define LOAD(type, at)                                                                             \
    __extension__({                                                                                \
        type loaded;                                                                               \
        memcpy(&loaded, at, sizeof loaded);                                                        \
        loaded;                                                                                    \
    })

static PyObject *load_half(const uint8_t *at)
{
    double number = PyFloat_Unpack2((const char *)at, PY_LITTLE_ENDIAN);

    return number == -1.0 && PyErr_Occurred() ? NULL : PyFloat_FromDouble(number);
}

PyObject *pc_element_load_other(uint32_t dtype, const uint8_t *at)
{
    switch (dtype) {
    case PC_DTYPE_BOOL:
        return PyBool_FromLong(*at != 0);
    case PC_DTYPE_I8:
        return PyLong_FromLong(LOAD(int8_t, at));
    case PC_DTYPE_I16:
        return PyLong_FromLong(LOAD(int16_t, at));
    case PC_DTYPE_I32:
        return PyLong_FromLong(LOAD(int32_t, at));
    case PC_DTYPE_U8:
        return PyLong_FromLong(*at);
    case PC_DTYPE_U16:
        return PyLong_FromLong(LOAD(uint16_t, at));
    case PC_DTYPE_U32:
        return PyLong_FromUnsignedLong(LOAD(uint32_t, at));
    case PC_DTYPE_U64:
        return PyLong_FromUnsignedLongLong(LOAD(uint64_t, at));
    case PC_DTYPE_F16:
        return load_half(at);
    case PC_DTYPE_F32:
        return PyFloat_FromDouble((double)LOAD(float, at));
    case PC_DTYPE_C64:
        return PyComplex_FromDoubles((double)LOAD(float, at), (double)LOAD(float, at + 4));
    case PC_DTYPE_C128:
        return PyComplex_FromDoubles(LOAD(double, at), LOAD(double, at + 8));
    default:
        PyErr_SetString(PyExc_SystemError, "malformed columns in shared memory");
        return NULL;
    }
}

/* ---- results to elements ---- */

static enum pc_result_kind bad_type(uint32_t dtype, PyObject *object)
{
    PyErr_Format(PyExc_TypeError,
                 "the result is of type %.200s, which the output's %s does not take",
                 Py_TYPE(object)->tp_name, names[dtype]);
    return PC_RESULT_BAD_TYPE;
}

static enum pc_result_kind bad_range(uint32_t dtype)
{
    PyErr_Format(PyExc_OverflowError, "the result is out of range for the output's %s",
                 names[dtype]);
    return PC_RESULT_BAD_RANGE;
}

static enum pc_result_kind store_unsigned(uint32_t dtype, uint8_t *at, PyObject *object)
{
    uint32_t size = pc_dtype_size(dtype);
    unsigned long long integer = PyLong_AsUnsignedLongLong(object);

    if (integer == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        return bad_range(dtype);
    }
    if (size < 8 && integer >> (8 * size) != 0)
        return bad_range(dtype);
    memcpy(at, &integer, size); /* the low bytes: this is little-endian, as the segment is */
    return PC_RESULT_VALUE;
}

static enum pc_result_kind store_signed(uint32_t dtype, uint8_t *at, PyObject *object)
{
    uint32_t size = pc_dtype_size(dtype);
    int overflow;
    long long integer = PyLong_AsLongLongAndOverflow(object, &overflow);
    int64_t most = INT64_MAX >> (64 - 8 * size);

    if (overflow != 0 || integer > most || integer < -most - 1)
        return bad_range(dtype);
    memcpy(at, &integer, size);
    return PC_RESULT_VALUE;
}

/* A float of that width, or half of a complex: what is finite stays so. */
static bool put_float(uint32_t size, uint8_t *at, double number)
{
    float single = (float)number;

    if (size == 8) {
        memcpy(at, &number, sizeof number);
        return true;
    }
    if (size == 4) {
        if (isinf(single) && !isinf(number))
            return false;
        memcpy(at, &single, sizeof single);
        return true;
    }
    if (PyFloat_Pack2(number, (char *)at, PY_LITTLE_ENDIAN) == 0)
        return true;
    PyErr_Clear();
    return false;
}

/* 1: it is one, or an int; 0: neither; -1: an int that is too large. */
static int take_double(PyObject *object, double *ret)
{
    if (PyFloat_Check(object)) {
        *ret = PyFloat_AS_DOUBLE(object);
        return 1;
    }
    if (!PyLong_Check(object))
        return 0;
    *ret = PyLong_AsDouble(object);
    if (*ret != -1.0 || !PyErr_Occurred())
        return 1;
    PyErr_Clear();
    return -1;
}

static enum pc_result_kind store_float(uint32_t dtype, uint8_t *at, PyObject *object)
{
    double number;
    int is = take_double(object, &number);

    if (is == 0)
        return bad_type(dtype, object);
    return is > 0 && put_float(pc_dtype_size(dtype), at, number) ? PC_RESULT_VALUE
                                                                 : bad_range(dtype);
}

static enum pc_result_kind store_complex(uint32_t dtype, uint8_t *at, PyObject *object)
{
    uint32_t half = pc_dtype_size(dtype) / 2;
    uint8_t both[16];
    double real, imaginary = 0;

    if (PyComplex_Check(object)) {
        real = PyComplex_RealAsDouble(object);
        imaginary = PyComplex_ImagAsDouble(object);
    } else {
        int is = take_double(object, &real);

        if (is <= 0)
            return is == 0 ? bad_type(dtype, object) : bad_range(dtype);
    }
    if (!put_float(half, both, real) || !put_float(half, both + half, imaginary))
        return bad_range(dtype);
    memcpy(at, both, 2 * half);
    return PC_RESULT_VALUE;
}

static bool is_int(uint32_t dtype)
{
    return dtype >= PC_DTYPE_I8 && dtype <= PC_DTYPE_U64;
}

/* An object of Python's own. */
static enum pc_result_kind store_plain(uint32_t dtype, uint8_t *at, PyObject *object)
{
    if (dtype == PC_DTYPE_BOOL) {
        if (!PyBool_Check(object))
            return bad_type(dtype, object);
        *at = object == Py_True;
        return PC_RESULT_VALUE;
    }
    if (is_int(dtype)) {
        if (!PyLong_Check(object))
            return bad_type(dtype, object);
        return dtype >= PC_DTYPE_U8 ? store_unsigned(dtype, at, object)
                                    : store_signed(dtype, at, object);
    }
    return dtype >= PC_DTYPE_C64 ? store_complex(dtype, at, object)
                                 : store_float(dtype, at, object);
}

enum pc_result_kind pc_element_store_other(uint32_t dtype, uint8_t *at, PyObject *object)
{
    enum pc_result_kind kind;
    PyObject *plain;
    int is;

    if (PyLong_Check(object) || PyFloat_Check(object) || PyComplex_CheckExact(object))
        return store_plain(dtype, at, object);
    is = pc_convert_plain(object, &plain);
    if (is < 0)
        return PC_RESULT_EXCEPTION;
    if (is == 0)
        return store_plain(dtype, at, object);
    kind = store_plain(dtype, at, plain);
    Py_DECREF(plain);
    return kind;
}

/* ---- slices ---- */

int pc_slice_fill(PyObject *output, PyObject *result)
{
    static PyObject *fill; /* of the package pycrew */
    PyObject *none;

    if (fill == NULL) {
        PyObject *package = PyImport_ImportModule("pycrew");

        if (package == NULL)
            return -1;
        fill = PyObject_GetAttrString(package, "_fill");
        Py_DECREF(package);
        if (fill == NULL)
            return -1;
    }
    none = PyObject_CallFunctionObjArgs(fill, output, result, NULL);
    Py_XDECREF(none);
    return none == NULL ? -1 : 0;
}

PyObject *pc_slice_out_name(void)
{
    static PyObject *out_name;

    if (out_name == NULL)
        out_name = Py_BuildValue("(s)", "out");
    return out_name;
}
