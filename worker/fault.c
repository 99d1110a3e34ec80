/* fault: exceptions in words, whatever the exception does when it is asked for them. */
#include <string.h>

#include "worker/engine.h"
#include "worker/worker.h"

enum { FRAMES_MAX = 200 };

/* Steals text. The host hands texts on as C strings: a NUL would be taken for their end. */
static PyObject *without_nuls(PyObject *text)
{
    PyObject *nul, *escape, *clean = NULL;

    if (PyUnicode_FindChar(text, 0, 0, PyUnicode_GET_LENGTH(text), 1) < 0)
        return text;
    nul = PyUnicode_FromOrdinal(0);
    escape = PyUnicode_FromString("\\x00");
    if (nul != NULL && escape != NULL)
        clean = PyUnicode_Replace(text, nul, escape, -1);
    Py_XDECREF(nul);
    Py_XDECREF(escape);
    Py_DECREF(text);
    PyErr_Clear();
    return clean;
}

/* A str that has a UTF-8 form and no NUL; steals text, which may be NULL with an exception set. */
static PyObject *printable(PyObject *text)
{
    PyObject *bytes, *clean;

    if (text == NULL || !PyUnicode_Check(text)) {
        PyErr_Clear();
        Py_XDECREF(text);
        return NULL;
    }
    if (PyUnicode_AsUTF8AndSize(text, NULL) != NULL)
        return without_nuls(text);
    PyErr_Clear(); /* lone surrogates */
    bytes = PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace");
    Py_DECREF(text);
    clean = bytes == NULL ? NULL : PyUnicode_FromEncodedObject(bytes, "utf-8", "replace");
    Py_XDECREF(bytes);
    PyErr_Clear();
    return clean == NULL ? NULL : without_nuls(clean);
}

static PyObject *qualified_name(PyObject *type)
{
    PyObject *name = PyObject_GetAttrString(type, "__qualname__");
    PyObject *module = PyObject_GetAttrString(type, "__module__");
    PyObject *full = NULL;

    PyErr_Clear();
    if (name != NULL && module != NULL && PyUnicode_Check(module) &&
        PyUnicode_CompareWithASCIIString(module, "builtins") != 0)
        full = PyUnicode_FromFormat("%U.%S", module, name);
    else if (name != NULL)
        full = PyObject_Str(name);
    Py_XDECREF(name);
    Py_XDECREF(module);
    return printable(full);
}

/* str(value), or what Python's own tracebacks say where that fails. */
static PyObject *message_of(PyObject *value)
{
    PyObject *message = printable(PyObject_Str(value));

    if (message == NULL)
        message = PyUnicode_FromString("<exception str() failed>");
    PyErr_Clear();
    return message;
}

static PyObject *format_traceback(PyObject *type, PyObject *value, PyObject *traceback)
{
    PyObject *module = PyImport_ImportModule("traceback");
    PyObject *lines = NULL, *nothing, *text = NULL;

    if (module != NULL)
        lines = PyObject_CallMethod(module, "format_exception", "OOO", type,
                                    value ? value : Py_None, traceback ? traceback : Py_None);
    if (lines != NULL && (nothing = PyUnicode_FromString("")) != NULL) {
        text = PyUnicode_Join(nothing, lines);
        Py_DECREF(nothing);
    }
    Py_XDECREF(module);
    Py_XDECREF(lines);
    return printable(text);
}

/* Frame by frame and without the source's lines: for where user code has broken `traceback`. */
static PyObject *walk_traceback(PyObject *traceback)
{
    PyObject *text = PyUnicode_FromString("Traceback (most recent call last):\n");

    for (unsigned i = 0;
         text != NULL && traceback != NULL && PyTraceBack_Check(traceback) && i < FRAMES_MAX; i++) {
        PyTracebackObject *at = (PyTracebackObject *)(void *)traceback;
        PyCodeObject *code = PyFrame_GetCode(at->tb_frame);

        PyUnicode_AppendAndDel(&text, PyUnicode_FromFormat("  File \"%U\", line %d, in %U\n",
                                                           code->co_filename, at->tb_lineno,
                                                           code->co_name));
        Py_DECREF(code);
        traceback = (PyObject *)at->tb_next;
    }
    return printable(text);
}

void pc_fault_take(pc_fault *ret)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    *ret = (pc_fault){NULL, NULL, NULL};
    if (type == NULL)
        return;
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL)
        PyException_SetTraceback(value, traceback);
    if (pc_engine_is_remote_error(value)) {
        ret->type = printable(PyObject_GetAttrString(value, "type_name"));
        ret->message = printable(PyObject_GetAttrString(value, "message"));
        ret->traceback = printable(PyObject_GetAttrString(value, "traceback"));
    } else {
        ret->type = qualified_name(type);
        ret->message = value == NULL ? NULL : message_of(value);
        ret->traceback = format_traceback(type, value, traceback);
        if (ret->traceback == NULL)
            ret->traceback = walk_traceback(traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    PyErr_Clear(); /* a __del__ of what we dropped */
}

void pc_fault_clear(pc_fault *fault)
{
    Py_CLEAR(fault->type);
    Py_CLEAR(fault->message);
    Py_CLEAR(fault->traceback);
}

pc_view pc_fault_text(PyObject *text)
{
    pc_view view = {.tag = PC_TAG_STR, .data = ""};
    Py_ssize_t size;
    const char *data = text == NULL ? NULL : PyUnicode_AsUTF8AndSize(text, &size);

    if (data == NULL) {
        PyErr_Clear();
        return view;
    }
    view.data = data;
    view.length = (uint64_t)size;
    return view;
}

const char *pc_fault_describe(void)
{
    pc_fault fault;
    pc_view text;
    char *copy;

    pc_fault_take(&fault);
    text = pc_fault_text(fault.traceback != NULL ? fault.traceback : fault.type);
    copy = strndup(text.length ? text.data : "an unknown error", text.length ? text.length : 16);
    pc_fault_clear(&fault);
    return copy != NULL ? copy : "no memory is left to say why";
}
