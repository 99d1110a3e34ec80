#include "python.h"

#include <string.h>

void fail_python(const char *what)
{
    PyErr_Print();
    fail("%s", what);
}

/* As the workers of pycrew: the environment of that interpreter. The functions' folder is in
 * PYTHONPATH. */
void start_python(void)
{
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.install_signal_handlers = 0;
    const char *python = getenv("BENCH_PYTHON");
    PyStatus status =
        PyConfig_SetBytesString(&config, &config.program_name, python ? python : "python3");
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

void python_versions(void)
{
    printf("\"python\": \"%.*s\"", (int)strcspn(Py_GetVersion(), " "), Py_GetVersion());
}

PyObject *load_function(const char *name)
{
    char module_name[64];
    const char *colon = strchr(name, ':');
    if (!colon)
        fail("%s: no module", name);
    snprintf(module_name, sizeof module_name, "%.*s", (int)(colon - name), name);
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *function = module ? PyObject_GetAttrString(module, colon + 1) : NULL;
    Py_XDECREF(module);
    return function;
}

/* ---- arguments ------------------------------------------------------------------------------- */

/* numpy's where the function needs it, else a memoryview: made for each call. */
static PyObject *make_array(const struct request *request)
{
    char *memory = (char *)array_memory;
    Py_ssize_t size = (Py_ssize_t)(request->a * (int64_t)sizeof(double));
    PyObject *bytes = PyMemoryView_FromMemory(memory, size, PyBUF_READ), *array = NULL;
    if (bytes && request->kind == NORM) {
        PyObject *numpy = PyImport_ImportModule("numpy");
        array = numpy ? PyObject_CallMethod(numpy, "frombuffer", "O", bytes) : NULL;
        Py_XDECREF(numpy);
    } else if (bytes) {
        array = PyObject_CallMethod(bytes, "cast", "s", "d");
    }
    Py_XDECREF(bytes);
    return array;
}

static size_t make_arguments(const struct request *request, PyObject **ret)
{
    switch (request->kind) {
    case NONE:
        return 0;
    case INDEX:
        ret[0] = PyLong_FromLongLong(request->a);
        return 1;
    case TEXT:
        ret[0] = PyUnicode_FromStringAndSize(request->text, request->size);
        return 1;
    case ENDS:
    case NORM:
        ret[0] = make_array(request);
        return 1;
    default:
        ret[0] = PyLong_FromLongLong(request->a);
        ret[1] = PyLong_FromLongLong(request->b);
        return 2;
    }
}

/* ---- the result ------------------------------------------------------------------------------ */

static void read_text(PyObject *result, struct reply *reply)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(result, &size);
    if (!text)
        return;
    reply->size = (uint32_t)(size < TEXT_MAX ? size : TEXT_MAX);
    memcpy(reply->text, text, reply->size);
}

static void read_result(enum kind kind, PyObject *result, struct reply *reply)
{
    reply->size = 0;
    if (kind == NONE)
        reply->integer = result != Py_None;
    else if (kind == TEXT)
        read_text(result, reply);
    else if (kind == ENDS || kind == NORM)
        reply->number = PyFloat_AsDouble(result);
    else
        reply->integer = PyLong_AsLongLong(result);
}

void call_python(PyObject *function, const struct request *request, struct reply *reply)
{
    PyObject *arguments[3] = {NULL};
    size_t count = make_arguments(request, arguments + 1);
    PyObject *result = NULL;
    if (count < 1 || arguments[count])
        result = PyObject_Vectorcall(function, arguments + 1,
                                     count | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    reply->status = 0;
    if (result)
        read_result(request->kind, result, reply);
    if (PyErr_Occurred()) {
        PyErr_Print();
        reply->status = -1;
    }
    Py_XDECREF(result);
    for (size_t i = 1; i <= count; i++)
        Py_XDECREF(arguments[i]);
}
