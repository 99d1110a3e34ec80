#include "worker/stream.h"

#include "lib/shm/sleeper.h"
#include "worker/leave.h"
#include "worker/object.h"

#define IDLE_NS ((int64_t)60 * 1000 * 1000 * 1000)

typedef struct stream {
    PyObject_HEAD PyObject *iterator, *name;
    bool asynchronous;
    bool over;                    /* it has ended, or failed */
    bool dropped;                 /* a call that closes it is there */
    pc_async_call *running;       /* whose turn it is; the list's, as */
    pc_async_call *first, **last; /* those behind it */
    bool scheduled;               /* the next one's beginning is */
    int64_t deadline;             /* of all of it */
    uint64_t asked, seen;         /* how often for an item; and as of */
    int64_t seen_at;
    uint32_t epoch; /* see leave.h */
} stream;

static PyTypeObject stream_type;

uint32_t pc_stream_epoch(PyObject *object)
{
    return ((stream *)object)->epoch;
}

bool pc_stream_check(PyObject *object)
{
    return Py_TYPE(object) == &stream_type;
}

PyObject *pc_stream_iterator(PyObject *object)
{
    return ((stream *)object)->iterator;
}

bool pc_stream_is_busy(PyObject *object)
{
    return ((stream *)object)->running != NULL;
}

static bool is_asynchronous(PyObject *object)
{
    const PyAsyncMethods *methods = Py_TYPE(object)->tp_as_async;

    return methods != NULL && methods->am_anext != NULL;
}

bool pc_stream_takes(PyObject *object)
{
    return PyIter_Check(object) || is_asynchronous(object);
}

PyObject *pc_stream_new(const pc_execution *e, PyObject *name, PyObject *iterator)
{
    stream *s = PyObject_New(stream, &stream_type);

    if (s == NULL)
        return NULL;
    Py_INCREF(iterator);
    Py_INCREF(name);
    s->iterator = iterator;
    s->name = name;
    s->asynchronous = !PyIter_Check(iterator);
    s->over = s->dropped = s->scheduled = false;
    s->running = s->first = NULL;
    s->last = &s->first;
    s->deadline = e->slot->flags & PC_REQUEST_DEADLINE ? e->slot->deadline : INT64_MAX;
    s->asked = 0;
    s->seen = UINT64_MAX;
    s->seen_at = 0;
    s->epoch = pc_leave_epoch;
    return (PyObject *)s;
}

/* Once: what is asked for behind a failure is at the end, too. One that has failed may have
 * something to close, and the host, which is told so, sends the call that does it. */
static void end_items(stream *s, bool failed)
{
    if (s->over)
        return;
    s->over = true;
    if (failed)
        pc_object_end_stream(s->name);
    else
        pc_object_forget(s->name);
}

PyObject *pc_stream_next(PyObject *object)
{
    stream *s = (stream *)object;
    PyObject *item;

    s->asked++;
    if (s->asynchronous) {
        Py_INCREF(object);
        return object;
    }
    if (s->over)
        return NULL;
    item = Py_TYPE(s->iterator)->tp_iternext(s->iterator);
    if (item == NULL && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_StopIteration))
        PyErr_Clear();
    if (item == NULL)
        end_items(s, PyErr_Occurred() != NULL);
    return item;
}

bool pc_stream_holds(PyObject *object, int64_t now)
{
    stream *s = (stream *)object;

    if (s->seen != s->asked) {
        s->seen = s->asked;
        s->seen_at = now;
    }
    return s->running != NULL || s->first != NULL ||
           (now < s->deadline && now - s->seen_at < IDLE_NS);
}

PyObject *pc_stream_close(PyObject *object)
{
    if (!((stream *)object)->asynchronous)
        return NULL;
    Py_INCREF(object);
    return object;
}

/* ---- what is awaited ---- */

static bool is_drop(const pc_async_call *call)
{
    return (call->execution.slot->flags & PC_REQUEST_KIND) == PC_KIND_DROP;
}

static PyObject *make_step(pc_async_call *call)
{
    stream *s = call->data;
    PyObject *made;

    if (is_drop(call))
        return pc_object_call_close(s->iterator);
    made = Py_TYPE(s->iterator)->tp_as_async->am_anext(s->iterator);
    if (made == NULL || pc_async_is_awaitable(made))
        return made;
    PyErr_Format(PyExc_TypeError, "'%.200s.__anext__' returned '%.200s', which cannot be awaited",
                 Py_TYPE(s->iterator)->tp_name, Py_TYPE(made)->tp_name);
    Py_DECREF(made);
    return NULL;
}

/* ---- turns ---- */

static void append(stream *s, pc_async_call *call)
{
    call->behind = NULL;
    *s->last = call;
    s->last = &call->behind;
}

/* Gives the list's reference, if it was there. */
static void take_out(stream *s, pc_async_call *call)
{
    for (pc_async_call **link = &s->first; *link != NULL; link = &(*link)->behind) {
        if (*link != call)
            continue;
        *link = call->behind;
        if (*link == NULL)
            s->last = link;
        Py_DECREF(call);
        return;
    }
}

/* What it closes is given the time from here on, and not from when it was asked for: the host sees that it has entered. */
static void begin_drop(pc_async_call *call)
{
    const pc_slot *slot = call->execution.slot;

    pc_run_publish_entered(&call->execution);
    if (slot->flags & PC_REQUEST_DEADLINE)
        call->deadline = pc_now() + slot->deadline;
}

static void begin(stream *s, pc_async_call *call)
{
    if ((s->over || s->dropped) && !is_drop(call)) {
        PyErr_SetNone(PyExc_StopAsyncIteration);
        pc_async_fail(call);
        return;
    }
    s->running = call;
    if (is_drop(call))
        begin_drop(call);
    if (!pc_async_begin(call))
        pc_async_fail(call);
}

static void begin_next(stream *s)
{
    while (s->running == NULL && s->first != NULL) {
        pc_async_call *call = s->first;

        Py_INCREF(call);
        take_out(s, call);
        begin(s, call);
        Py_DECREF(call);
    }
}

static void go_on(void *data)
{
    stream *s = data;

    s->scheduled = false;
    begin_next(s);
    Py_DECREF(s);
}

int pc_stream_await(pc_execution *e, void (*end)(pc_async_call *call, PyObject *result))
{
    stream *s = (stream *)e->awaitable; /* the call has it from here on */
    pc_async_call *call = pc_async_wait(e, INT64_MAX, make_step, end, s);

    e->awaitable = NULL;
    if (call == NULL) {
        Py_DECREF(s);
        return -1;
    }
    s->dropped |= is_drop(call);
    if (!is_drop(call) && e->slot->flags & PC_REQUEST_DEADLINE)
        call->deadline = e->slot->deadline;
    append(s, call);
    Py_INCREF(s);
    if (!s->scheduled)
        begin_next(s);
    Py_DECREF(s);
    return 0;
}

/* Not within the task of the one before. */
static void schedule(stream *s)
{
    if (s->scheduled || s->first == NULL)
        return;
    s->scheduled = true;
    Py_INCREF(s);
    pc_async_later(go_on, s);
}

bool pc_stream_end(pc_async_call *call, PyObject *result)
{
    stream *s = call->data;
    bool at_end = false;

    if (result == NULL && !is_drop(call)) {
        at_end = PyErr_ExceptionMatches(PyExc_StopAsyncIteration);
        if (at_end)
            PyErr_Clear();
        end_items(s, !at_end);
    }
    if (s->running == call)
        s->running = NULL;
    else
        take_out(s, call);
    if (s->running == NULL)
        schedule(s);
    call->data = NULL;
    Py_DECREF(s);
    return at_end;
}

/* ---- the type ---- */

/* Nobody does: see pc_stream_await. */
static PyObject *stream_await(PyObject *self)
{
    (void)self;
    PyErr_SetString(PyExc_TypeError, "a stream cannot be awaited");
    return NULL;
}

static void stream_dealloc(PyObject *self)
{
    stream *s = (stream *)self;

    Py_CLEAR(s->iterator);
    Py_CLEAR(s->name);
    PyObject_Free(self);
}

static PyAsyncMethods stream_async = {.am_await = stream_await};

static PyTypeObject stream_type = {PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pycrew.Stream",
                                   .tp_basicsize = sizeof(stream), .tp_dealloc = stream_dealloc,
                                   .tp_as_async = &stream_async, .tp_flags = Py_TPFLAGS_DEFAULT};

int pc_stream_init(void)
{
    return PyType_Ready(&stream_type);
}
