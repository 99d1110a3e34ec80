#include "worker/object.h"

#include <stdlib.h>
#include <string.h>

#include "lib/shm/sleeper.h"
#include "worker/leave.h"
#include "worker/stream.h"

static PyObject *objects; /* by name, an int */
static PyObject *iterators; /* the names of those that streams go on with, which are pycrew.Stream */

/* The names of methods by their function's number; borrowed by nobody, kept for ever. */
static PyObject **methods;
static uint32_t method_capacity;

size_t pc_object_streams(void)
{
    return iterators == NULL ? 0 : (size_t)PySet_GET_SIZE(iterators);
}

/* ---- the table ---- */

static PyObject *name_of(const pc_execution *e)
{
    uint64_t slot = (uint64_t)(e->slot - e->loop->worker->segment.slots);

    return PyLong_FromUnsignedLongLong((unsigned long long)e->generation << 32 | slot);
}

static int keep_as(PyObject *name, PyObject *object)
{
    if (objects == NULL && (objects = PyDict_New()) == NULL)
        return -1;
    return PyDict_SetItem(objects, name, object);
}

static int keep_stream(const pc_execution *e, PyObject *name, PyObject *iterator)
{
    PyObject *stream = pc_stream_new(e, name, iterator);
    int rc = -1;

    if (stream != NULL && (iterators != NULL || (iterators = PySet_New(NULL)) != NULL) &&
        PySet_Add(iterators, name) == 0)
        rc = keep_as(name, stream);
    Py_XDECREF(stream);
    return rc;
}

static int keep(const pc_execution *e, PyObject *object, bool is_iterator)
{
    PyObject *name = name_of(e);
    int rc = -1;

    if (name != NULL)
        rc = is_iterator ? keep_stream(e, name, object) : keep_as(name, object);
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

bool pc_object_holds(int64_t now)
{
    PyObject *names = pc_object_streams() == 0 ? NULL : PySequence_List(iterators);
    bool holds = false;

    for (Py_ssize_t i = 0; names != NULL && i < PyList_GET_SIZE(names); i++) {
        PyObject *stream = find(PyList_GET_ITEM(names, i));

        /* Each is looked at: when it was asked last is what looks say. */
        holds |= stream != NULL && pc_stream_holds(stream, now);
        Py_XDECREF(stream);
    }
    Py_XDECREF(names);
    PyErr_Clear();
    return holds;
}

static void note_stream_end(PyObject *name)
{
    PyObject *stream = find(name);

    if (stream != NULL)
        pc_leave_note_end(pc_stream_epoch(stream));
    Py_XDECREF(stream);
}

static void end_stream(PyObject *name)
{
    if (iterators != NULL && PySet_Contains(iterators, name) > 0)
        note_stream_end(name);
    if (iterators != NULL && PySet_Discard(iterators, name) < 0)
        PyErr_Clear();
}

static void erase(PyObject *name)
{
    end_stream(name);
    if (objects != NULL && PyDict_DelItem(objects, name) < 0)
        PyErr_Clear();
}

static void keep_exception(void (*do_it)(PyObject *name), PyObject *name)
{
#if PY_VERSION_HEX >= 0x030c0000
    PyObject *exception = PyErr_GetRaisedException();

    do_it(name);
    PyErr_SetRaisedException(exception);
#else
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    do_it(name);
    PyErr_Restore(type, value, traceback);
#endif
}

void pc_object_forget(PyObject *name)
{
    keep_exception(erase, name);
}

void pc_object_end_stream(PyObject *name)
{
    keep_exception(end_stream, name);
}

/* ---- streams ---- */

static int check_iterator(const pc_execution *e, PyObject *object)
{
    const char *function = pc_run_function_name(e->loop, e->function);

    if (pc_stream_takes(object))
        return 0;
    PyErr_Format(PyExc_TypeError,
                 "%s is called as a stream, but returned '%.200s', which is no generator, "
                 "asynchronous generator or other iterator",
                 function, Py_TYPE(object)->tp_name);
    return -1;
}

static PyObject *run_next(PyObject *name, enum pc_result_kind *kind)
{
    PyObject *stream = find(name), *item = NULL;

    if (stream != NULL && !pc_stream_check(stream))
        PyErr_SetString(PyExc_SystemError, "an item is asked for of what is no stream");
    else if (stream != NULL)
        item = pc_stream_next(stream);
    if (item == NULL && !PyErr_Occurred())
        *kind = PC_RESULT_END;
    Py_XDECREF(stream);
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

/* NULL, and no exception: it has no such method. */
static PyObject *call_if_there(PyObject *object, const char *name)
{
    PyObject *method = PyObject_GetAttrString(object, name), *result;

    if (method == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_Clear();
        return NULL;
    }
    result = PyObject_CallNoArgs(method);
    Py_DECREF(method);
    return result;
}

PyObject *pc_object_call_close(PyObject *object)
{
    PyObject *result = NULL;

    if (Py_TYPE(object)->tp_as_async != NULL && Py_TYPE(object)->tp_as_async->am_anext != NULL)
        result = call_if_there(object, "aclose");
    if (result == NULL && !PyErr_Occurred())
        result = call_if_there(object, "close");
    if (result != NULL || PyErr_Occurred())
        return result;
    Py_RETURN_NONE;
}

/* Nobody hears what it raises, but the log; an interrupt is the call's. */
static PyObject *close_object(PyObject *object)
{
    PyObject *result = pc_object_call_close(object);

    if (result == NULL && !pc_current_call.interrupted) {
        PyErr_WriteUnraisable(object);
        Py_RETURN_NONE;
    }
    return result;
}

/* One that waits for its turn has not begun, and has no time to close in until then. */
static PyObject *close_kept(pc_execution *e, PyObject *kept)
{
    PyObject *stream = pc_stream_check(kept) ? pc_stream_close(kept) : NULL;

    if (stream != NULL)
        return stream;
    pc_run_publish_entered(e);
    return close_object(pc_stream_check(kept) ? pc_stream_iterator(kept) : kept);
}

/* The host gives the time that it may take, and not when that ends: it may have been queued for long. */
static void set_close_deadline(void)
{
    if (pc_current_call.deadline != INT64_MAX)
        pc_current_call.deadline += pc_now();
}

static PyObject *run_drop(pc_execution *e, PyObject *name)
{
    PyObject *object = find(name), *result;

    set_close_deadline();
    if (object == NULL) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    pc_object_forget(name);
    result = close_kept(e, object);
    Py_DECREF(object);
    return result;
}

PyObject *pc_object_end_awaited(pc_async_call *call, PyObject *result, enum pc_result_kind *kind)
{
    PyObject *closed = NULL;

    if (result == NULL &&
        (call->execution.slot->flags & PC_REQUEST_KIND) == PC_KIND_DROP &&
        !pc_async_is_cancelled()) {
        PyErr_WriteUnraisable(NULL);
        Py_INCREF(Py_None);
        closed = Py_None;
    }
    if (call->data != NULL && pc_stream_end(call, closed != NULL ? closed : result))
        *kind = PC_RESULT_END;
    return closed != NULL ? closed : result;
}

/* ---- the worker's end ---- */

/* Runs an awaitable, which is stolen, to its end, in a worker that has had no coroutines. */
static PyObject *await_in_new_loop(PyObject *awaitable)
{
    PyObject *asyncio = PyImport_ImportModule("asyncio"), *result = NULL, *loop = NULL;

    if (asyncio != NULL)
        loop = PyObject_CallMethod(asyncio, "new_event_loop", NULL);
    if (loop != NULL)
        result = PyObject_CallMethod(loop, "run_until_complete", "O", awaitable);
    Py_XDECREF(loop);
    Py_XDECREF(asyncio);
    Py_DECREF(awaitable);
    return result;
}

/* A close() may be a coroutine. */
static PyObject *finish(PyObject *result)
{
    if (result == NULL || !pc_async_is_awaitable(result))
        return result;
    return pc_async_has_loop() ? pc_async_finish(result) : await_in_new_loop(result);
}

/* NULL: of a worker that was interrupted. */
static PyObject *close_at_end(PyObject *kept)
{
    if (!pc_stream_check(kept))
        return finish(close_object(kept));
    if (pc_stream_is_busy(kept)) /* its task is cancelled: pc_async_end */
        Py_RETURN_NONE;
    return finish(close_object(pc_stream_iterator(kept)));
}

void pc_object_end(void)
{
    PyObject *name, *object, *rest = objects;
    Py_ssize_t at = 0;

    objects = NULL;
    while (rest != NULL && PyDict_Next(rest, &at, &name, &object)) {
        PyObject *result = close_at_end(object);

        if (result == NULL)
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
        return run_drop(e, decoded->items[0]);
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
        if ((e->slot->flags & PC_REQUEST_KIND) != PC_KIND_DROP)
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
