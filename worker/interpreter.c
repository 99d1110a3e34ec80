/* interpreter: Python's start, imports, and end. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/async.h"
#include "worker/convert.h"
#include "worker/worker.h"

static const char *status_text(PyStatus status)
{
    char *text = NULL;

    if (asprintf(&text, "Python cannot be started: %s%s%s", status.func ? status.func : "",
                 status.func ? ": " : "", status.err_msg ? status.err_msg : "unknown error") < 0)
        return "Python cannot be started, and no memory is left to say why";
    return text;
}

/* The caller's environment decides (PYTHONPATH, PYTHONHOME, LANG ...), as for any python program. */
static PyStatus configure_and_start(const pc_worker_options *options)
{
    PyConfig config;
    PyStatus status;

    PyConfig_InitPythonConfig(&config);
    config.parse_argv = 0;
    config.install_signal_handlers = 1; /* SIGPIPE ignored, as Python code expects */
    status = PyConfig_SetBytesString(&config, &config.program_name, options->python);
    if (!PyStatus_Exception(status))
        status = PyConfig_SetBytesString(&config, &config.executable, options->python);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return status;
}

static int insert_path(PyObject *list, Py_ssize_t at, const char *text)
{
    PyObject *entry = PyUnicode_DecodeFSDefault(text);
    int rc;

    if (entry == NULL)
        return -1;
    rc = PyList_Insert(list, at, entry);
    Py_DECREF(entry);
    return rc;
}

/* The caller's paths in front; ours, where only `pycrew` is, last. */
static int extend_path(const char **path)
{
    PyObject *list = PySys_GetObject("path");
    const char *own = getenv("PYCREW_PYTHON_PATH");

    if (list == NULL || !PyList_Check(list)) {
        PyErr_SetString(PyExc_RuntimeError, "sys.path is not a list");
        return -1;
    }
    for (Py_ssize_t i = 0; path[i] != NULL; i++)
        if (insert_path(list, i, path[i]) < 0)
            return -1;
    return insert_path(list, PyList_GET_SIZE(list), own != NULL ? own : PYCREW_PYTHON_DIR);
}

/* Calls a function of python/pycrew; steals arguments. */
static int call_own(const char *name, PyObject *arguments)
{
    PyObject *module = arguments == NULL ? NULL : PyImport_ImportModule("pycrew");
    PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    PyObject *result = function == NULL ? NULL : PyObject_CallObject(function, arguments);

    Py_XDECREF(module);
    Py_XDECREF(function);
    Py_XDECREF(arguments);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The interrupt's handler is set here and inherited by the workers. */
static int prepare(void)
{
    PyObject *module = PyImport_ImportModule("_pycrew"), *traceback, *ast;
    PyObject *handler = module == NULL ? NULL : PyObject_GetAttrString(module, "_interrupt");

    Py_XDECREF(module);
    traceback = PyImport_ImportModule("traceback"); /* for fault.c: shared by the workers */
    Py_XDECREF(traceback);
    /* What traceback imports at the first one: 5 ms, which each worker would pay at a deadline. */
    ast = PyImport_ImportModule("ast");
    Py_XDECREF(ast);
    PyErr_Clear();
    if (handler == NULL || traceback == NULL) {
        Py_XDECREF(handler);
        return -1;
    }
    return call_own("_prepare", Py_BuildValue("(Ni)", handler, SIGRTMAX - 1));
}

/* Frozen objects are not touched by the collector in the workers, so their pages stay shared. */
static int freeze(void)
{
    PyObject *gc = PyImport_ImportModule("gc");
    PyObject *collected = gc == NULL ? NULL : PyObject_CallMethod(gc, "collect", NULL);
    PyObject *frozen = collected == NULL ? NULL : PyObject_CallMethod(gc, "freeze", NULL);

    Py_XDECREF(gc);
    Py_XDECREF(collected);
    Py_XDECREF(frozen);
    return frozen == NULL ? -1 : 0;
}

static int import_all(const char **names)
{
    for (; *names != NULL; names++) {
        PyObject *module = PyImport_ImportModule(*names);

        if (module == NULL)
            return -1;
        Py_DECREF(module);
    }
    return 0;
}

/* A libpython that was loaded for us may turn out to be of another version than its name says. */
static const char *check_version(const char *python)
{
    char *text = NULL;
    int major = 0, minor = 0;

    if (sscanf(Py_GetVersion(), "%d.%d", &major, &minor) == 2 && major == PY_MAJOR_VERSION &&
        minor == PY_MINOR_VERSION)
        return NULL;
    if (asprintf(&text, "%s has libpython %.40s, and this worker program was built with Python %s", python,
                 Py_GetVersion(), PY_VERSION) < 0)
        return "libpython is of another version than this worker program was built with";
    return text;
}

const char *pc_interpreter_start(const pc_worker_options *options)
{
    const char *mismatch = check_version(options->python);
    PyStatus status;

    if (mismatch != NULL)
        return mismatch;

    PyImport_AppendInittab("_pycrew", pc_module_init);
    status = configure_and_start(options);
    if (PyStatus_Exception(status))
        return status_text(status);
    if (extend_path(options->path) < 0 || prepare() < 0 || pc_convert_init() < 0 ||
        (options->engine == NULL && import_all(options->preload) < 0))
        return pc_fault_describe();
    mismatch = pc_async_check(options);
    if (mismatch != NULL)
        return mismatch;
    return freeze() < 0 ? pc_fault_describe() : NULL;
}

static PyObject *walk(PyObject *object, const char *names)
{
    while (object != NULL && *names != '\0') {
        const char *end = strchrnul(names, '.');
        PyObject *name = PyUnicode_FromStringAndSize(names, end - names);
        PyObject *next = name == NULL ? NULL : PyObject_GetAttr(object, name);

        Py_XDECREF(name);
        Py_DECREF(object);
        object = next;
        names = *end == '.' ? end + 1 : end;
    }
    return object;
}

/* Steals object. */
static PyObject *callable(PyObject *object, const char *name)
{
    if (object == NULL || PyCallable_Check(object))
        return object;
    PyErr_Format(PyExc_TypeError, "%s is not callable: it is of type %s", name,
                 Py_TYPE(object)->tp_name);
    Py_DECREF(object);
    return NULL;
}

PyObject *pc_interpreter_find(const char *name)
{
    const char *colon = strchr(name, ':');
    PyObject *module_name, *module;

    if (colon == NULL)
        return PyErr_Format(PyExc_ValueError, "'%s' is not module:name", name);
    module_name = PyUnicode_FromStringAndSize(name, colon - name);
    module = module_name == NULL ? NULL : PyImport_Import(module_name);
    Py_XDECREF(module_name);
    return callable(walk(module, colon + 1), name);
}

/* Tracebacks read the lines they show from linecache. */
static int remember_source(const char *file, const char *source)
{
    PyObject *text = PyUnicode_DecodeUTF8(source, (Py_ssize_t)strlen(source), "replace");

    return text == NULL ? -1 : call_own("_remember_source", Py_BuildValue("(sN)", file, text));
}

PyObject *pc_interpreter_find_in_source(unsigned number, const char *name, const char *source)
{
    PyObject *code, *module;
    char file[64];

    snprintf(file, sizeof file, "<pycrew source %u>", number);
    if (remember_source(file, source) < 0)
        return NULL;
    code = Py_CompileString(source, file, Py_file_input);
    if (code == NULL)
        return NULL;
    module = PyImport_ExecCodeModule("__pycrew_source__", code);
    Py_DECREF(code);
    if (module != NULL && PyDict_DelItemString(PyImport_GetModuleDict(), "__pycrew_source__") < 0)
        PyErr_Clear(); /* each source is a module of its own */
    return callable(walk(module, name), name);
}

int pc_interpreter_hook(const char *name)
{
    PyObject *function = pc_interpreter_find(name);
    PyObject *result = function == NULL ? NULL : PyObject_CallNoArgs(function);

    Py_XDECREF(function);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

int pc_interpreter_after_fork(unsigned worker, int fault_fd)
{
    int rc = call_own("_after_fork", Py_BuildValue("(Iiiz)", worker, fault_fd, SIGRTMAX - 2,
                                                     getenv("PYCREW_MARK")));

    if (rc == 0)
        pc_stack_take_over(SIGRTMAX - 2, fault_fd);
    return rc;
}

void pc_interpreter_flush(void)
{
    const char *const names[] = {"stdout", "stderr"};

    for (unsigned i = 0; i < 2; i++) {
        PyObject *stream = PySys_GetObject(names[i]);

        if (stream != NULL && stream != Py_None)
            Py_XDECREF(PyObject_CallMethod(stream, "flush", NULL));
        PyErr_Clear();
    }
}

void pc_interpreter_end(void)
{
    if (call_own("_end", PyTuple_New(0)) < 0)
        PyErr_WriteUnraisable(NULL);
}
