/* inprocess: what a call costs without pycrew. An interpreter in this process calls add(a, b) of
 * math_ops by vectorcall in a loop; making both ints from C longs and reading the result back is
 * part of it. Prints nanoseconds per call.
 *
 *     inprocess PYTHON FOLDER_OF_MATH_OPS CALLS [COLUMNS]
 *
 * COLUMNS is add or sqrt: output[i] = math_ops.add(a[i], b[i]) over columns of int64, or
 * math.sqrt(a[i]) of double, what pycrew_map does.
 *
 * PYTHON is the executable whose environment to use, as the workers do. It is a program of its own
 * because libpycrew's host never loads Python.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS = 3 }; /* of the columns: the best counts, as in pycrew-bench */

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

static PyObject *load(const char *folder, const char *name, const char *function)
{
    PyObject *path = PySys_GetObject("path"); /* borrowed */
    PyObject *text = PyUnicode_DecodeFSDefault(folder);
    if (!path || !text || PyList_Insert(path, 0, text) < 0)
        fail("sys.path");
    Py_DECREF(text);
    PyObject *module = PyImport_ImportModule(name);
    PyObject *found = module ? PyObject_GetAttrString(module, function) : NULL;
    if (!found)
        fail(function);
    Py_DECREF(module);
    return found;
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

static double root_of(PyObject *function, double number)
{
    PyObject *arguments[2] = {NULL, PyFloat_FromDouble(number)};
    PyObject *root =
        PyObject_Vectorcall(function, arguments + 1, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    Py_DECREF(arguments[1]);
    if (!root)
        fail("sqrt raised");
    double result = PyFloat_AsDouble(root);
    Py_DECREF(root);
    return result;
}

/* ---- loops of so many calls ---- */

static void add_longs(PyObject *add, long calls)
{
    for (long i = 0; i < calls; i++)
        if (call(add, i, 2 * i) != 3 * i)
            fail("a wrong sum");
}

static void *column(long count)
{
    void *memory = malloc((size_t)count * 8);
    if (!memory)
        fail("no memory is left");
    return memory;
}

static long *longs(long count, long factor)
{
    long *memory = column(count);
    for (long i = 0; i < count; i++)
        memory[i] = factor * i;
    return memory;
}

static struct {
    long *a, *b, *sums;
    double *numbers, *roots;
} columns;

static void add_columns(PyObject *add, long calls)
{
    for (long i = 0; i < calls; i++)
        columns.sums[i] = call(add, columns.a[i], columns.b[i]);
}

static void root_column(PyObject *root, long calls)
{
    for (long i = 0; i < calls; i++)
        columns.roots[i] = root_of(root, columns.numbers[i]);
}

static void make_columns(long count)
{
    columns.a = longs(count, 1);
    columns.b = longs(count, 2);
    columns.sums = longs(count, 0);
    columns.numbers = column(count);
    columns.roots = column(count);
    for (long i = 0; i < count; i++)
        columns.numbers[i] = columns.roots[i] = (double)i;
}

static double measure(void (*loop)(PyObject *, long), PyObject *function, long calls)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    loop(function, calls);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (1e9 * (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec)) /
           (double)calls;
}

int main(int argc, char **argv)
{
    long calls = argc >= 4 ? strtol(argv[3], NULL, 10) : 0;
    const char *what = argc == 5 ? argv[4] : "";
    int is_sqrt = strcmp(what, "sqrt") == 0;
    if (calls < 1 || argc > 5 || (*what && !is_sqrt && strcmp(what, "add") != 0))
        fail("usage: inprocess PYTHON FOLDER_OF_MATH_OPS CALLS [add|sqrt]");
    start_python(argv[1]);
    if (*what)
        make_columns(calls);
    PyObject *function = load(argv[2], is_sqrt ? "math" : "math_ops", is_sqrt ? "sqrt" : "add");
    void (*loop)(PyObject *, long) = is_sqrt ? root_column : *what ? add_columns : add_longs;
    measure(loop, function, calls / 4 + 1); /* warms caches and the interpreter's specializations */
    double least = measure(loop, function, calls);
    for (int i = 1; i < RUNS && *what; i++) {
        double ns = measure(loop, function, calls);
        least = ns < least ? ns : least;
    }
    printf("%.3f\n", least);
    Py_DECREF(function);
    return Py_FinalizeEx() < 0;
}
