/* inprocess: what a call costs without pycrew. An interpreter in this process calls add(a, b) of
 * math_ops by vectorcall in a loop; making both ints from C longs and reading the result back is
 * part of it. Prints nanoseconds per call.
 *
 *     inprocess PYTHON FOLDER_OF_MATH_OPS CALLS
 *
 * PYTHON is the executable whose environment to use, as the workers do. It is a program of its own
 * because libpycrew's host never loads Python.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void fail(const char *what)
{
    fprintf(stderr, "inprocess: %s\n", what);
    if (PyErr_Occurred())
        PyErr_Print();
    exit(1);
}

static void start_python(const char *python)
{
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    PyStatus status = PyConfig_SetBytesString(&config, &config.program_name, python);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static PyObject *load_add(const char *folder)
{
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    PyObject *text = PyUnicode_DecodeFSDefault(folder);
    if (!path || !text || PyList_Insert(path, 0, text) < 0)
        fail("sys.path");
    Py_DECREF(text);
    PyObject *module = PyImport_ImportModule("math_ops");
    PyObject *add = module ? PyObject_GetAttrString(module, "add") : NULL;
    if (!add)
        fail("math_ops.add");
    Py_DECREF(module);
    return add;
}

static long call(PyObject *add, long a, long b)
{
    PyObject *arguments[3] = {NULL, PyLong_FromLong(a), PyLong_FromLong(b)};
    PyObject *sum =
        PyObject_Vectorcall(add, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(arguments[1]);
    Py_DECREF(arguments[2]);
    if (!sum)
        fail("add raised");
    long result = PyLong_AsLong(sum);
    Py_DECREF(sum);
    return result;
}

static double measure(PyObject *add, long calls)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (long i = 0; i < calls; i++)
        if (call(add, i, 2 * i) != 3 * i)
            fail("a wrong sum");
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (1e9 * (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec)) /
           (double)calls;
}

int main(int argc, char **argv)
{
    long calls = argc == 4 ? strtol(argv[3], NULL, 10) : 0;
    if (calls < 1)
        fail("usage: inprocess PYTHON FOLDER_OF_MATH_OPS CALLS");
    start_python(argv[1]);
    PyObject *add = load_add(argv[2]);
    measure(add, calls / 4 + 1); /* warms caches and the interpreter's specializations */
    printf("%.3f\n", measure(add, calls));
    Py_DECREF(add);
    return Py_FinalizeEx() < 0;
}
