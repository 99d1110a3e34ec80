/* host: Python's side of pycrew.host: a call of a function that the host exports.
 *
 * Each thread that asks has one of the worker's PC_UPCALLS places (shm/upcall.h) meanwhile; which
 * are in use is under the GIL. It waits without the GIL, looks for signals whenever it is woken,
 * and each 100 ms looks and announces again. If a signal's handler raises (a deadline's does), the
 * request is left to itself: its place is in use until the answer has come, and a block of
 * arguments is the host's to give back in any case, once it was published. So is the request of a thread of
 * pycrew.async_host whose task was cancelled: that one is told by host_wait, and woken by its own semaphore. */
#include "worker/host.h"

#include <errno.h>
#include <pthread.h>
#include <structmember.h>

#include "lib/shm/idle.h"
#include "lib/shm/upcall.h"
#include "worker/convert.h"
#include "worker/run.h"

#define LOOK_NS ((int64_t)100 * 1000 * 1000)
#define PLACE_LOOK_NS ((int64_t)10 * 1000 * 1000)
#define SHORT_SPIN_NS ((int64_t)5 * 1000)

enum { LOOKS = 64, AGAIN_MAX = 64 };

typedef enum pc_place_state {
    PLACE_FREE = 0,
    PLACE_USED,
    PLACE_LEFT /* until the answer comes that nobody waits for */
} pc_place_state;

static struct {
    pc_worker *worker;
    bool in_child;
    pthread_t thread; /* that runs calls */
    pc_place_state places[PC_UPCALLS];
    uint32_t sequences[PC_UPCALLS];
    unsigned waiting;      /* threads, for a place; */
    sem_t place_freed;     /* and what they wait on */
    unsigned failed_spins; /* in a row */
} host;

/* Whoever awaits the answers that a thread of the pool asks for, and may give up. */
typedef struct host_wait {
    PyObject_HEAD bool left;
    int place; /* that it waits at; -1: none */
} host_wait;

static _Thread_local host_wait *present_wait;

static void note_fork(void)
{
    host.in_child = true; /* there is no segment here */
}

static int fail_in_child(void)
{
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError,
                        "pycrew.host: this is a child process of a worker's; only the "
                        "worker can ask the host");
    return -1;
}

static PyObject *new_reference(PyObject *object)
{
    Py_INCREF(object);
    return object;
}

void pc_host_start(pc_worker *worker)
{
    host.worker = worker;
    host.thread = pthread_self();
    pc_sleeper_init(&host.place_freed);
    pthread_atfork(NULL, NULL, note_fork);
}

static pc_upcall *upcall_at(unsigned place)
{
    return pc_upcall_of(&host.worker->segment, host.worker->number, place);
}

/* ---- places ---- */

static void free_place(unsigned place)
{
    host.places[place] = PLACE_FREE;
    if (host.waiting > 0)
        pc_sleeper_post(&host.place_freed);
}

/* Those of the pool leave one to others: answers that nobody waits for any more may be late. */
static int find_place(void)
{
    unsigned spare = 0, needed = present_wait != NULL ? 2 : 1;
    int found = -1;

    for (unsigned i = 0; i < PC_UPCALLS && spare < needed; i++) {
        if (host.places[i] == PLACE_LEFT && pc_upcall_is_answered(upcall_at(i), host.sequences[i]))
            host.places[i] = PLACE_FREE;
        if (host.places[i] != PLACE_FREE)
            continue;
        spare++;
        found = (int)i;
    }
    return spare == needed ? found : -1;
}

/* 0, or -1 with an exception that nobody hears. */
static int check_left(void)
{
    if (present_wait == NULL || !present_wait->left)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "the task that asked was cancelled");
    return -1;
}

/* Looks again after a while: nobody posts where an answer comes that nobody waits for. */
static int wait_for_place(void)
{
    host.waiting++;
    Py_BEGIN_ALLOW_THREADS pc_sleeper_wait(&host.place_freed, pc_now() + PLACE_LOOK_NS);
    Py_END_ALLOW_THREADS host.waiting--;
    return PyErr_CheckSignals() < 0 ? -1 : check_left();
}

/* A place, or -1 with an exception. */
static int take_place(void)
{
    int place = -1;

    if (host.worker == NULL) {
        PyErr_SetString(PyExc_RuntimeError,
                        "pycrew.host: the host can be asked in calls and exit functions only, "
                        "not at a preload and not in the init function");
        return -1;
    }
    while (!host.in_child && (place = find_place()) < 0)
        if (wait_for_place() < 0)
            return -1;
    if (host.in_child)
        return fail_in_child();
    host.places[place] = PLACE_USED;
    return place;
}

/* ---- arguments ---- */

/* Writes into the record, then into a block of the heap. */
typedef struct request_writer {
    pc_writer writer; /* first */
    uint64_t block;   /* 0: still in the record */
} request_writer;

static int request_grow(pc_writer *writer, size_t need)
{
    request_writer *w = (request_writer *)(void *)writer;
    pc_heap *heap = &host.worker->heap;
    uint64_t block;
    int rc = pc_run_alloc(host.worker, need, 2 * writer->capacity, &block);

    if (rc < 0)
        return rc;
    memcpy(pc_segment_at(heap->segment, block), writer->data, writer->size);
    if (w->block != 0)
        pc_heap_free(heap, w->block);
    w->block = block;
    writer->data = pc_segment_at(heap->segment, block);
    writer->capacity = pc_heap_block_size(heap, block);
    return 0;
}

/* As pc_encode. */
static int encode_one(pc_writer *writer, PyObject *object)
{
    int rc = pc_encode_argument(writer, object);

    /* User code (a pickled object's) may have forked, and come back in the child. */
    return rc == 0 && host.in_child ? fail_in_child() : rc;
}

static int encode_name(pc_writer *writer, PyObject *name)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(name, &size);

    return text == NULL ? -1 : pc_write_data(writer, PC_TAG_NAME, text, (size_t)size);
}

/* 0, or -1 with an exception. */
static int encode_arguments(pc_writer *writer, PyObject *const *arguments, size_t positional,
                            PyObject *names)
{
    size_t named = names == NULL ? 0 : (size_t)PyTuple_GET_SIZE(names);
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < positional + named; i++) {
        if (i >= positional)
            rc = encode_name(writer, PyTuple_GET_ITEM(names, (Py_ssize_t)(i - positional)));
        if (rc == 0)
            rc = encode_one(writer, arguments[i]);
    }
    if (rc < -1)
        PyErr_SetString(PyExc_MemoryError, rc == -E2BIG
                                               ? "the arguments exceed the crew's shared memory: raise options.memory"
                                               : "no shared memory is left for the arguments (options.memory)");
    return rc < 0 ? -1 : 0;
}

/* ---- waiting for the answer ---- */

/* As idle workers do: where that takes no CPU from others. */
static bool may_spin(const pc_segment *segment)
{
    unsigned spinners = atomic_load_explicit(&segment->header->host_spinners, memory_order_relaxed);

    return pc_idle_awake(segment) + (spinners > 0 ? spinners : 1) <= segment->config.cpus;
}

static bool spin(const pc_upcall *upcall, uint32_t sequence)
{
    const pc_segment *segment = &host.worker->segment;
    int64_t limit = (int64_t)segment->config.spin_ns, now = pc_now(), stop, yielded = 0;
    bool answered = false;

    if (!may_spin(segment))
        return false;
    if (host.failed_spins % 8 != 0 && limit > SHORT_SPIN_NS)
        limit = SHORT_SPIN_NS; /* as threads of the host do: see call.c */
    for (stop = now + limit; !answered && now < stop; now = pc_now()) {
        pc_spin_yield(now, &yielded);
        for (unsigned i = 0; !answered && i < LOOKS; i++) {
            pc_spin_pause();
            answered = pc_upcall_is_answered(upcall, sequence);
        }
    }
    return answered;
}

/* 0, or -1 with an exception: a signal's handler's, or it was left. */
static int await_answer(pc_upcall *upcall, uint32_t sequence)
{
    unsigned looks = 0, again = 1;
    bool answered;

    Py_BEGIN_ALLOW_THREADS answered = spin(upcall, sequence);
    Py_END_ALLOW_THREADS host.failed_spins = answered ? 0 : host.failed_spins + 1;
    while (!answered) {
        int64_t before = pc_now(), slept;

        if (PyErr_CheckSignals() < 0 || check_left() < 0)
            return -1;
        if (host.in_child) /* a handler has forked, and come back in the child */
            return -1;
        Py_BEGIN_ALLOW_THREADS if (!pc_upcall_is_answered(upcall, sequence))
            pc_sleeper_wait(&upcall->semaphore, before + LOOK_NS);
        slept = pc_now() - before;
        Py_END_ALLOW_THREADS answered = pc_upcall_is_answered(upcall, sequence);
        if (answered || slept < LOOK_NS)
            continue;
        /* The function takes long, or a hint was written over: ever less often. */
        if (++looks == again) {
            pc_upcall_announce(&host.worker->segment, host.worker->number, true);
            again += again < AGAIN_MAX ? again : AGAIN_MAX;
        }
    }
    return 0;
}

/* ---- the answer ---- */

/* No value is None, one is itself, several are a tuple. */
static PyObject *decode_values(pc_cursor message)
{
    pc_arguments values;
    PyObject *result = NULL;

    if (pc_decode_arguments(message, NULL, NULL, &values) < 0 || values.names != NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_SystemError, "malformed value in shared memory");
    } else if (values.count == 0) {
        result = new_reference(Py_None);
    } else if (values.count == 1) {
        result = new_reference(values.items[0]);
    } else if ((result = PyTuple_New((Py_ssize_t)values.count)) != NULL) {
        for (size_t i = 0; i < values.count; i++)
            PyTuple_SET_ITEM(result, (Py_ssize_t)i, new_reference(values.items[i]));
    }
    pc_arguments_clear(&values);
    return result;
}

/* A built-in exception by its name; borrowed. */
static PyObject *exception_named(PyObject *name)
{
    PyObject *builtins = PyEval_GetBuiltins();
    PyObject *type = builtins == NULL ? NULL : PyDict_GetItemWithError(builtins, name);

    if (type == NULL || !PyExceptionClass_Check(type) ||
        !PyObject_IsSubclass(type, PyExc_Exception)) {
        PyErr_Clear();
        return PyExc_RuntimeError;
    }
    return type;
}

/* One that cannot be made of a text (UnicodeDecodeError) is RuntimeError. */
static void raise_named(PyObject *name, PyObject *text)
{
    PyObject *type = exception_named(name);
    PyObject *exception = PyObject_CallOneArg(type, text);

    if (exception == NULL) {
        PyErr_Clear();
        PyErr_SetObject(PyExc_RuntimeError, text);
        return;
    }
    PyErr_SetObject(type, exception);
    Py_DECREF(exception);
}

static void raise_answer(pc_cursor message)
{
    PyObject *pair = decode_values(message);

    if (pair != NULL && PyTuple_Check(pair) && PyTuple_GET_SIZE(pair) == 2 &&
        PyUnicode_Check(PyTuple_GET_ITEM(pair, 0)))
        raise_named(PyTuple_GET_ITEM(pair, 0), PyTuple_GET_ITEM(pair, 1));
    else if (pair != NULL)
        PyErr_SetString(PyExc_SystemError, "malformed value in shared memory");
    Py_XDECREF(pair);
}

static PyObject *decode_answer(const pc_upcall *upcall)
{
    const pc_segment *segment = &host.worker->segment;
    uint64_t block = upcall->answer_block, size = upcall->answer_size;
    const uint8_t *at = block != 0 ? pc_segment_at(segment, block) : upcall->value;

    if (block != 0 ? !pc_segment_holds(segment, block, size) : size > PC_UPCALL_ANSWER) {
        PyErr_SetString(PyExc_SystemError, "malformed value in shared memory");
        return NULL;
    }
    switch (upcall->kind) {
    case PC_UPCALL_VALUE:
        return decode_values((pc_cursor){at, at + size});
    case PC_UPCALL_RAISED:
        raise_answer((pc_cursor){at, at + size});
        break;
    case PC_UPCALL_NO_MEMORY:
        PyErr_SetString(PyExc_MemoryError, "the host has no memory for the answer: raise options.memory");
        break;
    default:
        PyErr_SetString(PyExc_LookupError, "the host exports no such function");
    }
    return NULL;
}

/* ---- the whole ---- */

/* The request is published: its arguments are the host's. */
static PyObject *await_and_decode(unsigned place)
{
    pc_upcall *upcall = upcall_at(place);
    uint32_t sequence = host.sequences[place];
    PyObject *result = NULL;
    bool left;

    if (present_wait != NULL)
        present_wait->place = (int)place;
    left = await_answer(upcall, sequence) < 0;
    if (present_wait != NULL)
        present_wait->place = -1;
    if (!left && !host.in_child)
        result = decode_answer(upcall);
    if (host.in_child) { /* a handler has forked, or what was unpickled */
        Py_XDECREF(result);
        fail_in_child();
        return NULL;
    }
    if (!pc_upcall_release(upcall, sequence)) {
        host.places[place] = PLACE_LEFT;
        return NULL;
    }
    if (upcall->answer_block != 0) /* which the host may free */
        pc_upcall_announce(&host.worker->segment, host.worker->number, false);
    free_place(place);
    return result;
}

static PyObject *ask(uint32_t function, PyObject *const *arguments, size_t positional,
                     PyObject *names)
{
    int place = take_place();
    pc_upcall *upcall;
    request_writer w;

    if (place < 0)
        return NULL;
    upcall = upcall_at((unsigned)place);
    w = (request_writer){.writer = {.data = upcall->arguments,
                                    .capacity = PC_UPCALL_ARGUMENTS,
                                    .grow = request_grow}};
    if (encode_arguments(&w.writer, arguments, positional, names) < 0) {
        if (w.block != 0 && !host.in_child)
            pc_heap_free(&host.worker->heap, w.block);
        free_place((unsigned)place);
        return NULL;
    }
    upcall->function = function;
    upcall->flags = pthread_equal(pthread_self(), host.thread) ? PC_UPCALL_BLOCKS : 0;
    upcall->arguments_block = w.block;
    upcall->arguments_size = w.writer.size;
    pc_sleeper_drain(&upcall->semaphore);
    pc_upcall_publish(upcall, ++host.sequences[place]);
    pc_upcall_announce(&host.worker->segment, host.worker->number, false);
    return await_and_decode((unsigned)place);
}

/* ---- what Python sees ---- */

typedef struct host_function {
    PyObject_HEAD vectorcallfunc vectorcall;
    PyObject *name;
    uint32_t number;
} host_function;

static PyObject *function_call(PyObject *self, PyObject *const *arguments, size_t flags,
                               PyObject *names)
{
    return ask(((host_function *)self)->number, arguments, (size_t)PyVectorcall_NARGS(flags),
               names);
}

static void function_free(PyObject *self)
{
    Py_XDECREF(((host_function *)self)->name);
    PyObject_Free(self);
}

static PyObject *function_repr(PyObject *self)
{
    return PyUnicode_FromFormat("<host function %U>", ((host_function *)self)->name);
}

static PyMemberDef function_members[] = {
    {"__name__", T_OBJECT, offsetof(host_function, name), READONLY, NULL}, {NULL, 0, 0, 0, NULL}};

static PyTypeObject function_type = {PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pycrew.HostFunction",
                                     .tp_doc =
                                         "A function of the program that this worker belongs to.",
                                     .tp_basicsize = sizeof(host_function),
                                     .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
                                     .tp_vectorcall_offset = offsetof(host_function, vectorcall),
                                     .tp_call = PyVectorcall_Call,
                                     .tp_dealloc = function_free,
                                     .tp_repr = function_repr,
                                     .tp_members = function_members};

static PyObject *new_function(PyObject *name, uint32_t number)
{
    host_function *function = PyObject_New(host_function, &function_type);

    if (function == NULL)
        return NULL;
    function->vectorcall = function_call;
    function->name = new_reference(name);
    function->number = number;
    return (PyObject *)function;
}

/* ---- asking in a thread of the pool ---- */

static PyObject *wait_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
    host_wait *wait = (host_wait *)type->tp_alloc(type, 0);

    (void)arguments;
    (void)keywords;
    if (wait != NULL)
        wait->place = -1;
    return (PyObject *)wait;
}

static PyObject *wait_run(PyObject *self, PyObject *callable)
{
    PyObject *result;

    present_wait = (host_wait *)self;
    result = PyObject_CallNoArgs(callable);
    present_wait = NULL;
    return result;
}

/* From another thread: it is to wait no more. Its place stays in use until the answer is there. */
static PyObject *wait_leave(PyObject *self, PyObject *unused)
{
    host_wait *wait = (host_wait *)self;

    (void)unused;
    wait->left = true;
    if (wait->place >= 0 && !host.in_child)
        pc_sleeper_post(&upcall_at((unsigned)wait->place)->semaphore);
    Py_RETURN_NONE;
}

static PyMethodDef wait_methods[] = {
    {"run", wait_run, METH_O, "run(callable) calls it; what it asks of the host can be left"},
    {"leave", wait_leave, METH_NOARGS, "nobody waits for it any more"},
    {NULL, NULL, 0, NULL}};

static PyTypeObject wait_type = {PyVarObject_HEAD_INIT(NULL, 0).tp_name = "_pycrew.HostWait",
                                 .tp_basicsize = sizeof(host_wait),
                                 .tp_flags = Py_TPFLAGS_DEFAULT,
                                 .tp_new = wait_new,
                                 .tp_methods = wait_methods};

/* The numbers that the host gives become functions. */
static int make_functions(PyObject *numbers, PyObject *functions)
{
    Py_ssize_t position = 0;
    PyObject *name, *number;

    while (PyDict_Next(numbers, &position, &name, &number)) {
        PyObject *function = new_function(name, (uint32_t)PyLong_AsUnsignedLongMask(number));
        int rc = function == NULL ? -1 : PyDict_SetItem(functions, name, function);

        Py_XDECREF(function);
        if (rc < 0)
            return -1;
    }
    return 0;
}

static bool exports_something(void)
{
    return host.worker == NULL || host.in_child ||
           atomic_load_explicit(&host.worker->segment.header->exports, memory_order_acquire) > 0;
}

PyObject *pc_host_functions(PyObject *self, PyObject *unused)
{
    PyObject *functions = PyDict_New(), *numbers = NULL;
    int rc = functions == NULL ? -1 : 0;

    (void)self;
    (void)unused;
    if (rc == 0 && exports_something()) { /* else nobody would answer */
        numbers = ask(PC_UPCALL_LIST, NULL, 0, NULL);
        rc = numbers == NULL ? -1 : 0;
    }
    if (numbers != NULL && PyDict_Check(numbers))
        rc = make_functions(numbers, functions);
    Py_XDECREF(numbers);
    if (rc < 0)
        Py_CLEAR(functions);
    return functions;
}

int pc_host_init(PyObject *module)
{
    if (PyType_Ready(&function_type) < 0 || PyType_Ready(&wait_type) < 0)
        return -1;
    Py_INCREF(&wait_type);
    return PyModule_AddObject(module, "_HostWait", (PyObject *)&wait_type);
}
