#include "worker/object.h"

#include <stdlib.h>
#include <string.h>

#include "worker/async.h"

static PyObject *objects; /* by name, an int */
static PyObject *iterators; /* the names of those that streams go on with */

/* The names of methods by their function's number; borrowed by nobody, kept for ever. */
static PyObject **methods;
static uint32_t method_capacity;

size_t pc_object_iterators(void)
{
    return iterators == NULL ? 0 : (size_t)PySet_GET_SIZE(iterators);
}

/* ---- the table ---- */

static PyObject *name_of(const pc_execution *e)
{
    uint64_t slot = (uint64_t)(e->slot - e->loop->worker->segment.slots);

    return PyLong_FromUnsignedLongLong((unsigned long long)e->generation << 32 | slot);
}

static int keep(const pc_execution *e, PyObject *object, bool is_iterator)
{
    PyObject *name;
    int rc = -1;

    if ((objects == NULL && (objects = PyDict_New()) == NULL) ||
        (iterators == NULL && (iterators = PySet_New(NULL)) == NULL))
        return -1;
    name = name_of(e);
    if (name != NULL && (!is_iterator || PySet_Add(iterators, name) == 0))
        rc = PyDict_SetItem(objects, name, object);
    Py_XDECREF(name);
    return rc;
}

/* A new reference; NULL without an exception: there is none, unless that could not be seen. */
static PyObject *find(PyObject *name)
{
    PyObject *object = objects == NULL ? NULL : PyDict_GetItemWithError(objects, name);

    Py_XINCREF(object);
    return object;
}

static void erase(PyObject *name)
{
    if (objects != NULL && PyDict_DelItem(objects, name) < 0)
        PyErr_Clear();
    if (iterators != NULL && PySet_Discard(iterators, name) < 0)
        PyErr_Clear();
}

/* An exception that is set stays. */
static void forget(PyObject *name)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyObject *exception = PyErr_GetRaisedException();

    erase(name);
    PyErr_SetRaisedException(exception);
#else
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    erase(name);
    PyErr_Restore(type, value, traceback);
#endif
}

/* ---- coroutines, on a loop of the streams' own ---- */

static PyObject *new_loop(void)
{
    PyObject *asyncio = PyImport_ImportModule("asyncio"), *loop = NULL;

    if (asyncio != NULL)
        loop = PyObject_CallMethod(asyncio, "new_event_loop", NULL);
    Py_XDECREF(asyncio);
    return loop;
}

/* Runs an awaitable to its end; steals it. */
static PyObject *await_one(PyObject *awaitable)
{
    static PyObject *loop;
    PyObject *result;

    if (awaitable == NULL || (loop == NULL && (loop = new_loop()) == NULL)) {
        Py_XDECREF(awaitable);
        return NULL;
    }
    result = PyObject_CallMethod(loop, "run_until_complete", "O", awaitable);
    Py_DECREF(awaitable);
    return result;
}

/* ---- streams ---- */

static bool is_async_iterator(PyObject *object)
{
    const PyAsyncMethods *methods_of_type = Py_TYPE(object)->tp_as_async;

    return methods_of_type != NULL && methods_of_type->am_anext != NULL;
}

static int check_iterator(const pc_execution *e, PyObject *object)
{
    const char *function = pc_run_function_name(e->loop, e->function);

    if (PyIter_Check(object) || is_async_iterator(object))
        return 0;
    PyErr_Format(PyExc_TypeError,
                 "%s is called as a stream, but returned '%.200s', which is no generator, "
                 "asynchronous generator or other iterator",
                 function, Py_TYPE(object)->tp_name);
    return -1;
}

/* Its next item; NULL without an exception at its end. */
static PyObject *next_item(PyObject *iterator)
{
    PyObject *end = PyExc_StopIteration, *item;

    if (is_async_iterator(iterator) && !PyIter_Check(iterator)) {
        item = await_one(Py_TYPE(iterator)->tp_as_async->am_anext(iterator));
        end = PyExc_StopAsyncIteration;
    } else {
        item = Py_TYPE(iterator)->tp_iternext(iterator);
    }
    if (item == NULL && PyErr_Occurred() && PyErr_ExceptionMatches(end))
        PyErr_Clear();
    return item;
}

static PyObject *run_next(PyObject *name, enum pc_result_kind *kind)
{
    PyObject *iterator = find(name), *item = NULL;

    if (iterator != NULL)
        item = next_item(iterator);
    if (item == NULL) {
        forget(name);
        if (!PyErr_Occurred())
            *kind = PC_RESULT_END;
    }
    Py_XDECREF(iterator);
    return item;
}

/* ---- actors ---- */

static int make_room(uint32_t number)
{
    uint32_t capacity = number + 64;
    PyObject **grown;

    if (number < method_capacity)
        return 0;
    grown = realloc(methods, capacity * sizeof grown[0]);
    if (grown == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    memset(grown + method_capacity, 0, (capacity - method_capacity) * sizeof grown[0]);
    methods = grown;
    method_capacity = capacity;
    return 0;
}

/* Borrowed: what stands behind the last dot of the function's name. */
static PyObject *method_of(const pc_execution *e)
{
    const char *name;

    if (make_room(e->function) < 0)
        return NULL;
    if (methods[e->function] == NULL) {
        name = strrchr(pc_run_function_name(e->loop, e->function), '.');
        methods[e->function] = PyUnicode_InternFromString(name == NULL ? "" : name + 1);
    }
    return methods[e->function];
}

/* The object takes the place of its name, as self. */
static PyObject *run_method(const pc_execution *e, pc_arguments *decoded)
{
    PyObject *method = method_of(e), *object, *name;

    if (method == NULL)
        return NULL;
    object = find(decoded->items[0]);
    if (object == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "the actor was closed");
        return NULL;
    }
    name = decoded->items[0];
    decoded->items[0] = object;
    Py_DECREF(name);
    return PyObject_VectorcallMethod(method, decoded->items,
                                     decoded->positional | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     decoded->names);
}

/* ---- closing ---- */

static PyObject *call_close(PyObject *object)
{
    const char *name = PyAsyncGen_CheckExact(object) ? "aclose" : "close";
    PyObject *close = PyObject_GetAttrString(object, name), *result;

    if (close == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return NULL;
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    result = PyObject_CallNoArgs(close);
    Py_DECREF(close);
    return PyAsyncGen_CheckExact(object) ? await_one(result) : result;
}

/* Nobody hears what it raises, but the log; an interrupt is the call's. */
static PyObject *close_object(PyObject *object)
{
    PyObject *result = call_close(object);

    if (result == NULL && !pc_current_call.interrupted) {
        PyErr_WriteUnraisable(object);
        Py_RETURN_NONE;
    }
    return result;
}

static PyObject *run_drop(PyObject *name)
{
    PyObject *object = find(name), *result;

    if (object == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    forget(name);
    result = close_object(object);
    Py_DECREF(object);
    return result;
}

/* A close() may be a coroutine. */
static PyObject *finish(PyObject *result)
{
    if (result == NULL || !pc_async_is_awaitable(result))
        return result;
    return pc_async_has_loop() ? pc_async_finish(result) : await_one(result);
}

void pc_object_end(void)
{
    PyObject *name, *object, *rest = objects;
    Py_ssize_t at = 0;

    objects = NULL;
    while (rest != NULL && PyDict_Next(rest, &at, &name, &object)) {
        PyObject *result = finish(close_object(object));

        if (result == NULL) /* of a worker that was interrupted */
            PyErr_WriteUnraisable(object);
        Py_XDECREF(result);
    }
    Py_CLEAR(rest);
}

/* ---- all kinds ---- */

static PyObject *run_keep(const pc_execution *e, PyObject *function, const pc_arguments *decoded,
                          unsigned kind)
{
    PyObject *object =
        PyObject_Vectorcall(function, decoded->items,
                            decoded->positional | PY_VECTORCALL_ARGUMENTS_OFFSET, decoded->names);
    int rc = -1;

    if (object != NULL && (kind != PC_KIND_STREAM || check_iterator(e, object) == 0))
        rc = keep(e, object, kind == PC_KIND_STREAM);
    Py_XDECREF(object);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *run_decoded(pc_execution *e, PyObject *function, pc_arguments *decoded,
                             enum pc_result_kind *kind)
{
    unsigned requested = e->slot->flags & PC_REQUEST_KIND;

    if (requested == PC_KIND_KEEP || requested == PC_KIND_STREAM)
        return run_keep(e, function, decoded, requested);
    if (decoded->positional == 0) {
        PyErr_SetString(PyExc_SystemError, "a call for an object that names none");
        return NULL;
    }
    switch (requested) {
    case PC_KIND_METHOD:
        return run_method(e, decoded);
    case PC_KIND_NEXT:
        return run_next(decoded->items[0], kind);
    default:
        return run_drop(decoded->items[0]);
    }
}

static bool needs_function(const pc_execution *e)
{
    unsigned requested = e->slot->flags & PC_REQUEST_KIND;

    return requested == PC_KIND_KEEP || requested == PC_KIND_STREAM;
}

PyObject *pc_object_run(pc_execution *e, pc_cursor arguments, enum pc_result_kind *kind)
{
    PyObject *function = needs_function(e) ? pc_run_find_function(e) : Py_None, *result = NULL;
    pc_arguments decoded;
    int rc;

    if (function == NULL) {
        *kind = pc_run_exception_kind(e, false);
        return NULL;
    }
    rc = pc_decode_arguments(arguments, pc_run_publish_entered, e, &decoded);
    if (rc == 0) {
        pc_run_publish_entered(e);
        e->ran = true;
        result = run_decoded(e, function, &decoded, kind);
    }
    if (result == NULL && *kind != PC_RESULT_END)
        *kind = pc_run_exception_kind(e, rc < 0);
    pc_arguments_clear(&decoded);
    return result;
}

bool pc_object_refuse_generator(PyObject *object)
{
    if (!PyGen_CheckExact(object) && !PyAsyncGen_CheckExact(object))
        return false;
    PyErr_Format(PyExc_TypeError,
                 "cannot pickle '%.200s' object: a stream gives its items to the caller one by one "
                 "(pycrew_set_stream)",
                 Py_TYPE(object)->tp_name);
    return true;
}
