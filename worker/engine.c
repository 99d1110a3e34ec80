#include "worker/engine.h"

#include <stdlib.h>
#include <string.h>

#include "lib/shm/sleeper.h"
#include "worker/array.h"
#include "worker/async.h"
#include "worker/element.h"
#include "worker/loop.h"
#include "worker/map.h"

#define WIDTH_LOOK_NS ((int64_t)1000 * 1000 * 1000)

PyObject *pc_engine_module; /* pycrew._engine */

static PyObject *remote_error; /* its type */
static int64_t looked;         /* at the width, when */
static const pc_segment *segment;

/* ---- start and end ---- */

static PyObject *list_of(const char *const *texts)
{
    PyObject *list = PyList_New(0);

    for (; list != NULL && *texts != NULL; texts++) {
        PyObject *text = PyUnicode_DecodeFSDefault(*texts);

        if (text == NULL || PyList_Append(list, text) < 0)
            Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

/* Steals width. */
static int publish_width(const pc_worker *worker, PyObject *width)
{
    long number = width == NULL ? -1 : PyLong_AsLong(width);

    Py_XDECREF(width);
    if (number < 0)
        return -1;
    atomic_store_explicit(&worker->segment.workers[worker->number].width,
                          number > UINT16_MAX ? UINT16_MAX : (uint32_t)number,
                          memory_order_relaxed);
    looked = pc_now();
    return 0;
}

static PyObject *make_executor(PyObject *module, const pc_worker_options *o, int fault_fd)
{
    PyObject *path = list_of(o->path), *preload = list_of(o->preload), *width = NULL;

    if (path != NULL && preload != NULL)
        width = PyObject_CallMethod(module, "start", "szOOzi", o->engine, o->engine_options, path,
                                    preload, o->init, fault_fd);
    Py_XDECREF(path);
    Py_XDECREF(preload);
    return width;
}

/* How often the call whose function is called now may be given again. */
static PyObject *retries(PyObject *self, PyObject *unused)
{
    uint32_t slot = (uint32_t)pc_current_call.call;
    unsigned flags = slot < segment->config.slots ? segment->slots[slot].flags : 0;

    (void)self;
    (void)unused;
    return PyLong_FromLong((flags & PC_REQUEST_RETRIES) >> PC_REQUEST_RETRIES_SHIFT);
}

static PyMethodDef methods[] = {{"_retries", retries, METH_NOARGS, "of the call that is given now"},
                                {NULL, NULL, 0, NULL}};

int pc_engine_start(const pc_worker *worker, int fault_fd)
{
    PyObject *module = PyImport_ImportModule("pycrew._engine");

    segment = &worker->segment;
    if (module == NULL || PyModule_AddFunctions(module, methods) < 0)
        return -1;
    remote_error = PyObject_GetAttrString(module, "RemoteError");
    if (remote_error == NULL ||
        publish_width(worker, make_executor(module, worker->options, fault_fd)) < 0) {
        Py_DECREF(module);
        return -1;
    }
    pc_engine_module = module;
    return 0;
}

void pc_engine_end(void)
{
    PyObject *result;

    if (pc_engine_module == NULL)
        return;
    result = PyObject_CallMethod(pc_engine_module, "end", NULL);
    if (result == NULL)
        PyErr_WriteUnraisable(pc_engine_module);
    Py_XDECREF(result);
}

/* Machines come and go. */
static void look_at_width(const pc_worker *worker)
{
    if (pc_now() - looked < WIDTH_LOOK_NS)
        return;
    looked = pc_now();
    if (publish_width(worker, PyObject_CallMethod(pc_engine_module, "width", NULL)) < 0)
        PyErr_Clear();
}

/* ---- functions and exceptions ---- */

PyObject *pc_engine_function(const char *name, const char *source)
{
    return PyObject_CallMethod(pc_engine_module, "Function", "sz", name, source);
}

bool pc_engine_is_remote_error(PyObject *value)
{
    return remote_error != NULL && value != NULL &&
           PyObject_TypeCheck(value, (PyTypeObject *)(void *)remote_error);
}

enum pc_result_kind pc_engine_exception_kind(void)
{
    PyObject *type, *value, *traceback, *number = NULL;
    long kind = PC_RESULT_EXCEPTION;

    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (pc_engine_is_remote_error(value) &&
        (number = PyObject_GetAttrString(value, "kind")) != NULL)
        kind = PyLong_AsLong(number);
    Py_XDECREF(number);
    PyErr_Clear();
    PyErr_Restore(type, value, traceback);
    return kind == PC_RESULT_NO_FUNCTION || kind == PC_RESULT_LOST ? (enum pc_result_kind)kind
                                                                   : PC_RESULT_EXCEPTION;
}

/* ---- a chunk as a task ---- */

/* An item whose arguments could not be decoded. */
typedef struct refused {
    uint32_t item;
    enum pc_result_kind kind;
    PyObject *type, *value, *traceback;
} refused;

typedef struct task {
    pc_items_writer w;
    int64_t start;
    refused *refused; /* in the items' order */
    size_t refused_count;
    PyObject *output; /* of a map's slice */
} task;

static void free_task(task *t)
{
    for (size_t i = 0; i < t->refused_count; i++) {
        Py_XDECREF(t->refused[i].type);
        Py_XDECREF(t->refused[i].value);
        Py_XDECREF(t->refused[i].traceback);
    }
    free(t->refused);
    Py_XDECREF(t->output);
    free(t);
}

static int set_keywords(PyObject *keywords, const pc_arguments *decoded)
{
    for (size_t i = decoded->positional; i < decoded->count; i++)
        if (PyDict_SetItem(keywords,
                           PyTuple_GET_ITEM(decoded->names, (Py_ssize_t)(i - decoded->positional)),
                           decoded->items[i]) < 0)
            return -1;
    return 0;
}

/* The first so many positional arguments; with keywords [arguments, {keywords}]. A plain tuple costs
 * a fifth to be pickled and unpickled. */
static PyObject *call_of(const pc_arguments *decoded, size_t positional, bool with_keywords)
{
    PyObject *arguments = PyTuple_New((Py_ssize_t)positional), *keywords, *call = NULL;

    for (size_t i = 0; arguments != NULL && i < positional; i++) {
        Py_INCREF(decoded->items[i]);
        PyTuple_SET_ITEM(arguments, (Py_ssize_t)i, decoded->items[i]);
    }
    if (arguments == NULL || (!with_keywords && decoded->positional >= decoded->count))
        return arguments;
    keywords = PyDict_New();
    if (keywords != NULL && set_keywords(keywords, decoded) == 0)
        call = Py_BuildValue("[OO]", arguments, keywords);
    Py_DECREF(arguments);
    Py_XDECREF(keywords);
    return call;
}

static PyObject *decode(pc_execution *e, pc_cursor at)
{
    PyObject *call = NULL;
    pc_arguments decoded;
    int rc;

    rc = e->shape != 0 ? pc_decode_record((const uint64_t *)(const void *)at.at, e->shape, &decoded)
                       : pc_decode_arguments(at, pc_run_publish_entered, e, &decoded);
    if (rc == 0)
        call = call_of(&decoded, decoded.positional, false);
    pc_arguments_clear(&decoded);
    return call;
}

/* Keeps the exception that is set. */
static int refuse(pc_execution *e, task *t, uint32_t item)
{
    refused *grown, one = {.item = item};

    e->ran = false;
    one.kind = pc_run_exception_kind(e, true);
    PyErr_Fetch(&one.type, &one.value, &one.traceback);
    grown = realloc(t->refused, (t->refused_count + 1) * sizeof grown[0]);
    if (grown == NULL) {
        PyErr_Restore(one.type, one.value, one.traceback);
        return -1;
    }
    t->refused = grown;
    t->refused[t->refused_count++] = one;
    return 0;
}

/* A list with what each item is called with, and None for those that cannot be. */
static PyObject *decode_items(pc_execution *e, task *t)
{
    const pc_chunk *chunk = t->w.chunk;
    const uint8_t *at = (const uint8_t *)chunk->items + chunk->begin_offset;
    PyObject *calls = PyList_New(chunk->count - chunk->begin);

    for (uint32_t item = chunk->begin; calls != NULL && item < chunk->count; item++) {
        pc_cursor arguments = pc_items_arguments(at, e->shape);
        PyObject *call = decode(e, arguments);

        at = arguments.end;
        if (call == NULL && refuse(e, t, item) == 0) {
            Py_INCREF(Py_None);
            call = Py_None;
        }
        if (call == NULL)
            Py_CLEAR(calls);
        else
            PyList_SET_ITEM(calls, item - chunk->begin, call);
    }
    return calls;
}

/* All are started, before the executor is given any. False: doomed. */
static bool start_all(pc_chunk *chunk)
{
    uint64_t expected = pc_chunk_progress(chunk->begin, chunk->begin);

    return atomic_compare_exchange_strong(&chunk->progress, &expected,
                                          pc_chunk_progress(chunk->count, chunk->begin));
}

static bool finish_next(pc_chunk *chunk, uint32_t item)
{
    uint64_t expected = pc_chunk_progress(chunk->count, item);

    return atomic_compare_exchange_strong(&chunk->progress, &expected,
                                          pc_chunk_progress(chunk->count, item + 1));
}

/* ---- its end ---- */

static bool is_json(const pc_execution *e)
{
    return e->slot->flags & PC_REQUEST_JSON;
}

/* What the task returned: a list of values, a dict of exceptions by place, nanoseconds. Or NULL,
 * with an exception for all. */
typedef struct outcome {
    PyObject *values, *failures;
    int64_t took;
    PyObject *type, *value, *traceback;
} outcome;

/* Steals result. */
static void read_outcome(PyObject *result, outcome *ret)
{
    long long took = -1;

    *ret = (outcome){.took = -1};
    if (result != NULL && PyArg_ParseTuple(result, "O!O!L", &PyList_Type, &ret->values,
                                           &PyDict_Type, &ret->failures, &took)) {
        Py_INCREF(ret->values);
        Py_INCREF(ret->failures);
        ret->took = took;
    } else {
        ret->values = ret->failures = NULL;
        PyErr_Fetch(&ret->type, &ret->value, &ret->traceback);
        PyErr_NormalizeException(&ret->type, &ret->value, &ret->traceback);
    }
    Py_XDECREF(result);
}

static void clear_outcome(outcome *o)
{
    Py_XDECREF(o->values);
    Py_XDECREF(o->failures);
    Py_XDECREF(o->type);
    Py_XDECREF(o->value);
    Py_XDECREF(o->traceback);
}

/* A new reference; NULL with an exception. */
static PyObject *value_at(const outcome *o, Py_ssize_t place)
{
    PyObject *failure = NULL, *number, *value;

    if (o->values == NULL) {
        Py_XINCREF(o->type);
        Py_XINCREF(o->value);
        Py_XINCREF(o->traceback);
        PyErr_Restore(o->type, o->value, o->traceback);
        return NULL;
    }
    if (PyDict_GET_SIZE(o->failures) > 0) {
        number = PyLong_FromSsize_t(place);
        failure = number == NULL ? NULL : PyDict_GetItemWithError(o->failures, number);
        Py_XDECREF(number);
        if (PyErr_Occurred())
            return NULL;
    }
    if (failure != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(failure), failure);
        return NULL;
    }
    value = place < PyList_GET_SIZE(o->values) ? PyList_GET_ITEM(o->values, place) : Py_None;
    Py_INCREF(value);
    return value;
}

static enum pc_result_kind write_refused(pc_execution *e, pc_items_writer *w, refused *r)
{
    enum pc_result_kind kind;

    PyErr_Restore(r->type, r->value, r->traceback);
    r->type = r->value = r->traceback = NULL;
    kind = pc_run_write_fault(&w->writer, r->kind);
    pc_run_count(e->loop, kind);
    return kind;
}

static bool write_items(pc_execution *e, task *t, const outcome *o)
{
    pc_chunk *chunk = t->w.chunk;
    size_t next = 0;

    e->ran = true;
    for (uint32_t item = chunk->begin; item < chunk->count; item++) {
        enum pc_result_kind kind;

        pc_items_begin(&t->w, item);
        if (next < t->refused_count && t->refused[next].item == item)
            kind = write_refused(e, &t->w, &t->refused[next++]);
        else
            kind = pc_run_write(e, value_at(o, item - chunk->begin), is_json(e), &t->w.writer);
        pc_items_end(e, &t->w, item, kind);
        if (!finish_next(chunk, item))
            return false;
    }
    return true;
}

/* Its end may be that it was told to stop. Of several items none has ended then: they are told by
 * the host, which has cancelled them all. */
static bool is_stopped(const pc_async_call *call, const task *t, const PyObject *result)
{
    return result == NULL && call->execution.stopped && pc_async_is_cancelled() &&
           t->w.chunk->count - t->w.chunk->begin > 1;
}

static void close_task(pc_async_call *call, task *t, int64_t took)
{
    pc_execution *e = &call->execution;
    int64_t start = took < 0 ? t->start : pc_now() - took;

    pc_async_leave(call);
    pc_items_close(e, &t->w, start);
    free_task(t);
    look_at_width(e->loop->worker);
    pc_loop_finish(e);
}

static void end_items(pc_async_call *call, PyObject *result)
{
    task *t = call->data;
    outcome o;

    if (is_stopped(call, t, result)) {
        PyErr_Clear();
        close_task(call, t, -1);
        return;
    }
    read_outcome(result, &o);
    if (!write_items(&call->execution, t, &o))
        pc_loop_await_death(&call->execution);
    clear_outcome(&o);
    close_task(call, t, o.took);
}

/* ---- a map's slice ---- */

static enum pc_result_kind fill(pc_execution *e, const task *t, PyObject *value)
{
    int rc;

    if (value == NULL)
        return pc_run_exception_kind(e, false);
    rc = pc_slice_fill(t->output, value);
    Py_DECREF(value);
    if (rc == 0)
        return PC_RESULT_VALUE;
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError)
               ? PC_RESULT_BAD_TYPE
               : pc_run_exception_kind(e, false);
}

static void end_whole(pc_async_call *call, PyObject *result)
{
    pc_execution *e = &call->execution;
    task *t = call->data;
    enum pc_result_kind kind;
    outcome o;

    read_outcome(result, &o);
    e->ran = true;
    kind = fill(e, t, value_at(&o, 0));
    pc_run_count(e->loop, kind);
    if (kind != PC_RESULT_VALUE)
        pc_map_note_failure(&t->w, 0, kind);
    clear_outcome(&o);
    Py_CLEAR(t->output);
    if (pc_array_used)
        e->slot->result_ran = pc_array_end_call(false) & PC_ANSWER_RETAINED;
    if (!finish_next(t->w.chunk, 0))
        pc_loop_await_death(e);
    close_task(call, t, o.took);
}

/* The inputs; or [inputs, {out: the output's slice}, True]: Task returns what `out` is then, if the function
 * returns nothing. */
static PyObject *call_of_slice(const pc_arguments *decoded, bool out, PyObject *output)
{
    PyObject *call = call_of(decoded, decoded->count - 1, out);

    if (call == NULL || !out)
        return call;
    if (PyDict_SetItemString(PyList_GET_ITEM(call, 1), "out", output) < 0 ||
        PyList_Append(call, Py_True) < 0)
        Py_CLEAR(call);
    return call;
}

static PyObject *decode_slice(pc_execution *e, task *t)
{
    const pc_chunk *chunk = t->w.chunk;
    PyObject *call = NULL, *calls = NULL;
    pc_arguments decoded;

    if (pc_decode_arguments(pc_items_arguments((const uint8_t *)chunk->items, 0),
                            pc_run_publish_entered, e, &decoded) == 0 &&
        decoded.count > 0) {
        t->output = decoded.items[decoded.count - 1];
        Py_INCREF(t->output);
        call = call_of_slice(&decoded, chunk->flags & PC_CHUNK_OUT, t->output);
    }
    pc_arguments_clear(&decoded);
    if (call != NULL)
        calls = PyList_New(1);
    if (calls != NULL)
        PyList_SET_ITEM(calls, 0, call);
    else
        Py_XDECREF(call);
    return calls;
}

/* ---- its beginning ---- */

/* Gives the executor a task, and waits; steals calls. alone: others are not to share it. -1 with an
 * exception. */
static int send(pc_execution *e, task *t, PyObject *calls, int64_t deadline, bool alone,
                void (*end)(pc_async_call *, PyObject *))
{
    PyObject *function = calls == NULL ? NULL : pc_run_find_function(e);

    if (function != NULL)
        e->awaitable =
            PyObject_CallMethod(function, "many", "OO", calls, alone ? Py_True : Py_False);
    Py_XDECREF(calls);
    if (function == NULL || e->awaitable == NULL)
        return -1;
    e->ran = true;
    return pc_async_start(e, t->w.chunk->begin, deadline, end, t);
}

static task *make_task(const pc_items_writer *w)
{
    task *t = calloc(1, sizeof *t);

    if (t == NULL)
        abort(); /* our death lets the sweep queue it again */
    t->w = *w;
    t->start = pc_now();
    return t;
}

/* Nobody was given it. The exception is that of all items. */
static enum pc_items_progress fail_items(pc_execution *e, task *t)
{
    outcome o;
    bool done;

    read_outcome(NULL, &o);
    done = write_items(e, t, &o);
    clear_outcome(&o);
    free_task(t);
    pc_run_clear_current();
    return done ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED;
}

static enum pc_items_progress fail_whole(pc_execution *e, task *t)
{
    pc_map_note_failure(&t->w, 0, pc_run_exception_kind(e, true));
    pc_run_clear_current();
    Py_CLEAR(t->output);
    if (pc_array_used)
        e->slot->result_ran = pc_array_end_call(false) & PC_ANSWER_RETAINED;
    free_task(t);
    return PC_ITEMS_ENDED;
}

static bool is_cancelled(const pc_chunk *chunk)
{
    return atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0;
}

enum pc_items_progress pc_engine_run_items(pc_execution *e, pc_items_writer *w)
{
    pc_chunk *chunk = w->chunk;
    int64_t deadline;
    task *t;

    if (is_cancelled(chunk))
        return pc_items_stop_before(chunk, chunk->begin) ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED;
    deadline = pc_items_deadline(chunk);
    pc_run_set_current(e, e->number, chunk->begin, deadline);
    if (!start_all(chunk))
        return PC_ITEMS_DOOMED;
    t = make_task(w);
    if (send(e, t, decode_items(e, t), deadline, chunk->timed, end_items) == 0)
        return PC_ITEMS_WAITS;
    return fail_items(e, t);
}

enum pc_items_progress pc_engine_run_whole(pc_execution *e, pc_items_writer *w)
{
    pc_chunk *chunk = w->chunk;
    enum pc_items_progress failed;
    int64_t deadline;
    task *t;

    if (chunk->begin > 0 || is_cancelled(chunk))
        return pc_items_stop_before(chunk, chunk->begin) ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED;
    deadline = pc_items_deadline(chunk);
    pc_run_set_current(e, e->number, 0, deadline);
    if (!start_all(chunk))
        return PC_ITEMS_DOOMED;
    t = make_task(w);
    if (send(e, t, decode_slice(e, t), deadline, true, end_whole) == 0)
        return PC_ITEMS_WAITS;
    failed = fail_whole(e, t);
    return finish_next(chunk, 0) ? failed : PC_ITEMS_DOOMED;
}
