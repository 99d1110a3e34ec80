#include "worker/async.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/shm/idle.h"
#include "worker/array.h"
#include "worker/leave.h"
#include "worker/loop.h"

enum { CLAIMS_A_TURN = 16, IDLE_RUNS_MAX = 100 };
#define LEAVING_TICK_S 0.01 /* between two looks at its own inbox */
#define FULL_TICK_S 0.1     /* or only for memory */
#define BLOCKED_NS ((int64_t)5 * 1000 * 1000) /* less than the time between two interrupts */

/* What is to be run in the next turn. */
typedef struct later {
    void (*do_it)(void *);
    void *data;
    struct later *next;
} later;

unsigned pc_async_pending;

static struct {
    pc_loop *l;
    PyObject *event_loop;
    PyObject *call_soon, *create_task, *stop;
    PyObject *turn, *tick; /* our callbacks */
    PyObject *context; /* of turns, and the one that tasks start from */
    PyObject *call_of; /* a ContextVar: the call that code belongs to */
    PyObject *cancelled_error;
    PyObject *get_running, *set_running; /* asyncio's, of this thread's loop */
    int wake_fd;                         /* an eventfd */
    unsigned limit;
    pc_async_call *first; /* those in flight */
    later *later, **later_end;
    bool scheduled; /* the turn is */
    bool ticking;   /* one will be in a while */
    bool announced; /* as asleep, since the last turn found nothing */
    bool in_turn;
    bool to_cancel; /* some calls are marked */
    unsigned waiting;  /* calls without a task */
    unsigned to_begin; /* calls of actors that have not begun */
    uint64_t turns;
    _Atomic bool serving;
    _Atomic uint32_t parked; /* the waiter is */
    bool has_waiter;
} async = {.wake_fd = -1};

static PyTypeObject call_type;

bool pc_async_has_waiter(void)
{
    return async.has_waiter && atomic_load(&async.parked) == 0;
}

unsigned pc_async_count(void)
{
    unsigned count = 0;

    for (const pc_async_call *call = async.first; call != NULL; call = call->next)
        count++;
    return count;
}

bool pc_async_is_cancelled(void)
{
    return async.cancelled_error != NULL && PyErr_ExceptionMatches(async.cancelled_error);
}

/* ---- the waiter ---- */

static void wake_loop(void)
{
    uint64_t one = 1;

    while (write(async.wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
}

static void futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Passes the token on, and sleeps until the worker serves again; false: it does already. */
static bool park(sem_t *semaphore)
{
    atomic_store(&async.parked, 1);
    atomic_thread_fence(memory_order_seq_cst); /* A1 */
    if (atomic_load(&async.serving)) {
        atomic_store(&async.parked, 0);
        return false;
    }
    pc_sleeper_post(semaphore);
    while (atomic_load(&async.parked) == 1)
        futex(&async.parked, FUTEX_WAIT, 1);
    return true;
}

static void *wait_for_calls(void *data)
{
    sem_t *semaphore = data;

    for (;;) {
        if (sem_wait(semaphore) < 0)
            continue;
        if (atomic_load(&async.serving) || !park(semaphore))
            wake_loop();
    }
    return NULL;
}

static void unpark(void)
{
    uint32_t parked = 1;

    atomic_thread_fence(memory_order_seq_cst); /* A1 */
    if (atomic_compare_exchange_strong(&async.parked, &parked, 0))
        futex(&async.parked, FUTEX_WAKE, 1);
}

/* Signals are for the main thread: they are to end its sleep. It goes with the process. */
static int start_waiter(pc_worker *worker)
{
    sigset_t all, before;
    pthread_t thread;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&thread, NULL, wait_for_calls,
                        &worker->segment.workers[worker->number].semaphore);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    async.has_waiter = rc == 0;
    return -rc;
}

/* ---- the event loop ---- */

static PyObject *turn(PyObject *self, PyObject *unused);
static PyObject *wake(PyObject *self, PyObject *unused);
static PyObject *tick(PyObject *self, PyObject *unused);

static PyMethodDef turn_method = {"turn", turn, METH_NOARGS, NULL};
static PyMethodDef wake_method = {"wake", wake, METH_NOARGS, NULL};
static PyMethodDef tick_method = {"tick", tick, METH_NOARGS, NULL};

static PyObject *attribute(const char *module_name, const char *name)
{
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *object = module == NULL ? NULL : PyObject_GetAttrString(module, name);

    Py_XDECREF(module);
    return object;
}

static int watch_wake_fd(void)
{
    PyObject *callback = PyCFunction_New(&wake_method, NULL), *result = NULL;

    if (callback != NULL)
        result = PyObject_CallMethod(async.event_loop, "add_reader", "iO", async.wake_fd, callback);
    Py_XDECREF(callback);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int make_parts(const char *name)
{
    PyObject *make = attribute("pycrew._loop", "make");

    if (make == NULL || PyType_Ready(&call_type) < 0) {
        Py_XDECREF(make);
        return -1;
    }
    async.cancelled_error = attribute("asyncio", "CancelledError");
    async.get_running = attribute("asyncio", "_get_running_loop");
    async.set_running = attribute("asyncio", "_set_running_loop");
    async.call_of = PyContextVar_New("pycrew.call", NULL);
    async.context = PyContext_CopyCurrent();
    async.turn = PyCFunction_New(&turn_method, NULL);
    async.tick = PyCFunction_New(&tick_method, NULL);
    if (async.cancelled_error != NULL && async.get_running != NULL && async.set_running != NULL &&
        async.call_of != NULL && async.context != NULL && async.turn != NULL && async.tick != NULL)
        async.event_loop = PyObject_CallFunction(make, "z", name);
    Py_DECREF(make);
    return async.event_loop == NULL ? -1 : 0;
}

static void drop_loop(void)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    Py_CLEAR(async.call_soon);
    Py_CLEAR(async.create_task);
    Py_CLEAR(async.stop);
    if (async.event_loop != NULL)
        Py_XDECREF(PyObject_CallMethod(async.event_loop, "close", NULL));
    PyErr_Clear();
    Py_CLEAR(async.event_loop);
    if (async.wake_fd >= 0)
        close(async.wake_fd);
    async.wake_fd = -1;
    PyErr_Restore(type, value, traceback);
}

static int make_loop(pc_loop *l)
{
    int rc;

    async.l = l;
    async.limit =
        l->worker->options->inflight != 0 ? l->worker->options->inflight : PC_INFLIGHT_DEFAULT;
    async.later_end = &async.later;
    async.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (async.wake_fd < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    if (make_parts(l->worker->options->loop) < 0 || watch_wake_fd() < 0)
        return -1;
    async.call_soon = PyObject_GetAttrString(async.event_loop, "call_soon");
    async.create_task = PyObject_GetAttrString(async.event_loop, "create_task");
    async.stop = PyObject_GetAttrString(async.event_loop, "stop");
    if (async.call_soon == NULL || async.create_task == NULL || async.stop == NULL)
        return -1;
    rc = async.has_waiter ? 0 : start_waiter(l->worker);
    if (rc < 0) {
        errno = -rc;
        PyErr_SetFromErrno(PyExc_OSError);
    }
    return rc < 0 ? -1 : 0;
}

/* Not interrupted: asyncio's import would be left half done. A deadline that passes meanwhile is seen behind it. */
static int need_loop(pc_loop *l)
{
    if (__builtin_expect(async.event_loop != NULL, 1))
        return 0;
    pc_run_clear_current();
    if (make_loop(l) == 0)
        return 0;
    drop_loop();
    return -1;
}

/* User code has broken the loop: no call of ours will ever end. Our death ends them. */
static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "pycrew: the worker's event loop %s\n", what);
    if (PyErr_Occurred())
        PyErr_Print();
    pc_interpreter_flush();
    abort();
}

/* Also while what a call raised is still to be written. */
static void schedule(void)
{
    PyObject *handle, *type, *value, *traceback;

    if (async.scheduled)
        return;
    PyErr_Fetch(&type, &value, &traceback);
    handle = PyObject_CallOneArg(async.call_soon, async.turn);
    if (handle == NULL)
        give_up("takes no callbacks");
    Py_DECREF(handle);
    PyErr_Restore(type, value, traceback);
    async.scheduled = true;
}

/* ---- whose code runs ---- */

/* Borrowed, or NULL. */
static pc_async_call *present_call(void)
{
    PyObject *call = NULL;

    if (async.call_of == NULL || PyContextVar_Get(async.call_of, NULL, &call) < 0) {
        PyErr_Clear();
        return NULL;
    }
    Py_XDECREF(call); /* the context has it */
    return (pc_async_call *)call;
}

static bool in_flight(const pc_async_call *call)
{
    return call->link != NULL;
}

static uint64_t name_of(const pc_execution *e)
{
    return (uint64_t)e->generation << 32 | e->number;
}

static pc_worker_record *record(void)
{
    return &async.l->worker->segment.workers[async.l->worker->number];
}

static void set_running(uint64_t name)
{
    atomic_store_explicit(&record()->running, name, memory_order_relaxed);
}

bool pc_async_deadline(int64_t *ret)
{
    const pc_async_call *call = present_call();

    if (call == NULL)
        return false;
    *ret = in_flight(call) ? call->deadline : INT64_MAX;
    return true;
}

/* ---- stopping ---- */

static bool is_cancelled_chunk(const pc_execution *e)
{
    const pc_chunk *chunk;

    if (!(e->slot->flags & PC_REQUEST_BATCH))
        return false;
    chunk = pc_segment_at(&e->loop->worker->segment, e->slot->arguments_block);
    return atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0;
}

static bool is_to_stop(const pc_async_call *call, uint64_t named, uint32_t item, int64_t now)
{
    const pc_execution *e = &call->execution;

    if (call->deadline <= now || (name_of(e) == named && call->item == item))
        return true;
    if (e->slot->flags & PC_REQUEST_BATCH)
        return is_cancelled_chunk(e);
    return atomic_load_explicit(&e->loop->worker->segment.stops[e->number], memory_order_acquire) ==
           e->generation;
}

static bool blocks_loop(const pc_async_call *call, int64_t now)
{
    return in_flight(call) && call->execution.stopped && !call->raised && !call->cancelled &&
           call->stopped_turn == async.turns && now - call->stopped_at >= BLOCKED_NS;
}

bool pc_async_interrupt(uint64_t named, uint32_t item)
{
    int64_t now = pc_now();
    pc_async_call *present;

    if (async.event_loop == NULL)
        return true;
    for (pc_async_call *call = async.first; call != NULL; call = call->next) {
        if (call->execution.stopped || !is_to_stop(call, named, item, now))
            continue;
        call->execution.stopped = true;
        call->stopped_at = now;
        call->stopped_turn = async.turns;
        async.to_cancel = true;
    }
    if (async.to_cancel)
        wake_loop();
    present = async.in_turn ? NULL : present_call();
    if (present == NULL || !blocks_loop(present, now))
        return true;
    present->raised = true;
    pc_current_call.recycle = true;
    PyErr_SetNone(async.cancelled_error);
    return false;
}

static void cancel(pc_async_call *call)
{
    if (call->waits) {
        PyErr_SetNone(async.cancelled_error);
        pc_async_fail(call);
    } else {
        Py_XDECREF(PyObject_CallMethod(call->task, "cancel", NULL));
    }
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(async.event_loop);
}

/* Each once. Any of it may end calls, and change the list: so it begins anew. */
static void cancel_marked(void)
{
    pc_async_call *call;

    async.to_cancel = false;
    do {
        for (call = async.first; call != NULL; call = call->next)
            if (call->execution.stopped && !call->cancelled && (call->waits || call->task != NULL))
                break;
        if (call != NULL) {
            call->cancelled = true;
            Py_INCREF(call);
            cancel(call);
            Py_DECREF(call);
        }
    } while (call != NULL);
}

/* ---- the turn ---- */

static void retract(void)
{
    if (!async.announced)
        return;
    async.announced = false;
    pc_idle_retract(&async.l->worker->segment, async.l->worker->number);
}

/* Says that this worker sleeps. False: there is something to do. */
static bool announce(void)
{
    pc_worker *worker = async.l->worker;

    pc_run_take_back(worker);
    pc_heap_drop_kept(&worker->heap);
    async.announced = true;
    if (pc_idle_announce(&worker->segment, worker->number) && !pc_loop_answer_shortage(async.l) &&
        !pc_heap_is_given_back(&worker->segment, worker->number))
        return true;
    retract();
    pc_run_take_back(worker);
    return atomic_load_explicit(&worker->segment.header->closing, memory_order_acquire) != 0 &&
           !pc_ring_ready(&worker->segment);
}

static bool has_place(void)
{
    return pc_async_pending - async.waiting < async.limit;
}

static bool has_room(void)
{
    return has_place() && pc_loop_takes_calls(async.l);
}

/* Another turn in a while. */
static void schedule_tick(double seconds)
{
    PyObject *handle;

    if (async.ticking)
        return;
    handle = PyObject_CallMethod(async.event_loop, "call_later", "dO", seconds, async.tick);
    if (handle == NULL)
        give_up("takes no callbacks");
    Py_DECREF(handle);
    async.ticking = true;
}

/* One that leaves is woken for calls of its own inbox. What it is woken for in the ring it hands on when it rests
 * again. */
static bool announce_own(void)
{
    pc_segment *segment = &async.l->worker->segment;
    unsigned worker = async.l->worker->number;

    async.announced = true;
    if (pc_idle_announce_own(segment, worker))
        return true;
    retract();
    return false;
}

/* Sleeps too, but takes no calls of the ring: it has as many as it may have, or leaves them to others. Nobody wakes
 * it for memory then, so it looks by itself; and a wake that came before is for others. */
static bool rest(void)
{
    pc_segment *segment = &async.l->worker->segment;

    pc_run_take_back(async.l->worker);
    pc_heap_drop_kept(&async.l->worker->heap);
    pc_loop_answer_shortage(async.l);
    if (pc_ring_pending(segment))
        pc_idle_wake_one(segment);
    schedule_tick(async.l->leaving ? LEAVING_TICK_S : FULL_TICK_S);
    return !async.l->leaving || async.l->refuses || !has_place() || announce_own();
}

static bool is_awake_for_calls(void)
{
    return has_room() && !async.l->leaving;
}

/* Calls of an actor begin in their order: what comes behind a coroutine's waits for its first step. */
static bool claim_some(void)
{
    unsigned claims = 0;

    while (claims < CLAIMS_A_TURN && async.to_begin == 0 && has_room() && pc_loop_run_next(async.l))
        claims++;
    return claims > 0 || async.to_begin > 0;
}

static void run_later(void)
{
    later *list = async.later;

    async.later = NULL;
    async.later_end = &async.later;
    while (list != NULL) {
        later *next = list->next;

        pc_async_pending--;
        list->do_it(list->data);
        free(list);
        list = next;
    }
}

void pc_async_later(void (*do_it)(void *), void *data)
{
    later *one = malloc(sizeof *one);

    if (one == NULL)
        abort(); /* our death lets the sweep queue the rest again */
    *one = (later){do_it, data, NULL};
    *async.later_end = one;
    async.later_end = &one->next;
    pc_async_pending++;
    schedule();
}

static void stop(void)
{
    Py_XDECREF(PyObject_CallNoArgs(async.stop));
    if (PyErr_Occurred())
        PyErr_WriteUnraisable(async.stop);
}

/* As if no loop was running in this thread: a plain function may run one of its own. */
static PyObject *hide_loop(void)
{
    PyObject *running = PyObject_CallNoArgs(async.get_running);
    PyObject *result = running == NULL ? NULL : PyObject_CallOneArg(async.set_running, Py_None);

    if (result == NULL)
        give_up("cannot be left");
    Py_DECREF(result);
    return running;
}

static void show_loop(PyObject *running)
{
    PyObject *result = PyObject_CallOneArg(async.set_running, running);

    if (result == NULL)
        give_up("cannot be come back to");
    Py_DECREF(result);
    Py_DECREF(running);
}

static void work(void)
{
    bool claimed = false;
    PyObject *running;

    if (async.to_cancel)
        cancel_marked();
    running = hide_loop();
    run_later();
    claimed = claim_some();
    show_loop(running);
    if (async.l->worker->cut_off || (pc_async_pending == 0 && !claimed))
        stop();
    else if (claimed || !(is_awake_for_calls() ? announce() : rest()))
        schedule();
    if (async.l->over) /* it is to look again whether it can leave */
        schedule_tick(async.l->leaving ? LEAVING_TICK_S : FULL_TICK_S);
}

static PyObject *turn(PyObject *self, PyObject *unused)
{
    (void)self;
    (void)unused;
    async.scheduled = false;
    /* Left over from the last time; or inside of a turn, where user code runs this loop in itself.
     */
    if (!atomic_load(&async.serving) || async.in_turn || PyContext_Enter(async.context) < 0) {
        PyErr_Clear();
        Py_RETURN_NONE;
    }
    async.in_turn = true;
    async.turns++;
    retract();
    work();
    async.in_turn = false;
    if (PyContext_Exit(async.context) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *wake(PyObject *self, PyObject *unused)
{
    uint64_t count;

    (void)self;
    (void)unused;
    while (read(async.wake_fd, &count, sizeof count) < 0 && errno == EINTR)
        continue;
    schedule();
    Py_RETURN_NONE;
}

static PyObject *tick(PyObject *self, PyObject *unused)
{
    async.ticking = false;
    return turn(self, unused);
}

/* SystemExit and KeyboardInterrupt of a callback's come out of it, and others can stop it. */
void pc_async_serve(pc_loop *l)
{
    unsigned idle_runs = 0;

    (void)l;
    atomic_store(&async.serving, true);
    unpark();
    while (pc_async_pending > 0 && !l->worker->cut_off) {
        uint64_t turns = async.turns;
        PyObject *result;

        schedule();
        result = PyObject_CallMethod(async.event_loop, "run_forever", NULL);
        idle_runs = async.turns == turns ? idle_runs + 1 : 0;
        if (idle_runs > IDLE_RUNS_MAX)
            give_up("does not run");
        if (result == NULL)
            PyErr_WriteUnraisable(async.event_loop);
        Py_XDECREF(result);
    }
    retract();
    atomic_store(&async.serving, false);
}

/* ---- a call ---- */

static void enlist(pc_async_call *call)
{
    call->next = async.first;
    call->link = &async.first;
    if (call->next != NULL)
        call->next->link = &call->next;
    async.first = call;
    call->epoch = pc_leave_epoch;
    pc_async_pending++;
}

void pc_async_leave(pc_async_call *call)
{
    if (!in_flight(call))
        return;
    *call->link = call->next;
    if (call->next != NULL)
        call->next->link = call->link;
    call->link = NULL;
    pc_leave_note_end(call->epoch);
    pc_async_pending--;
    async.waiting -= call->waits;
    async.to_begin -= call->to_begin;
    call->waits = call->to_begin = false;
}

/* The call's own code has ended: result, or NULL with an exception. What the task gets of it: a
 * cancelled one is cancelled, another exception was told to the host, and is nobody else's. */
static PyObject *end_call(pc_async_call *call, PyObject *result)
{
    bool cancelled = result == NULL && pc_async_is_cancelled();

    if (!in_flight(call)) /* the worker ends, and its calls were given up */
        return result;
    if (call->arrays != NULL)
        pc_array_resume(call->arrays);
    call->arrays = NULL;
    call->make = NULL;
    call->end(call, result);
    pc_async_leave(call);
    Py_CLEAR(call->awaited);
    Py_CLEAR(call->task);
    schedule();
    if (!cancelled)
        Py_RETURN_NONE;
    PyErr_SetNone(async.cancelled_error);
    return NULL;
}

static void begin_step(pc_async_call *call)
{
    if (async.announced) {
        retract();
        schedule();
    }
    async.to_begin -= call->to_begin;
    call->to_begin = false;
    set_running(name_of(&call->execution));
}

/* Its code has run, and what it gave may be written. */
static void leave_code(void)
{
    if (__builtin_expect(pc_run_in_child, 0))
        pc_run_leave_child();
}

static void end_step(void)
{
    set_running(UINT64_MAX);
}

static PyObject *no_more(void)
{
    PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
    return NULL;
}

/* The value of the StopIteration that is set; NULL with another exception. */
static PyObject *take_stop_value(void)
{
    PyObject *type, *value, *traceback, *result;

    if (!PyErr_Occurred())
        Py_RETURN_NONE;
    if (!PyErr_ExceptionMatches(PyExc_StopIteration))
        return NULL;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    result = PyObject_GetAttrString(value, "value");
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return result;
}

enum step { STEP_YIELDED, STEP_ENDED, STEP_FAILED };

static enum step end_with(pc_async_call *call, PyObject *value, PyObject **result)
{
    *result = end_call(call, value);
    return *result != NULL ? STEP_ENDED : STEP_FAILED;
}

/* What an awaitable, which is stolen, is awaited by. */
static PyObject *awaited_by(PyObject *awaitable)
{
    PyObject *awaited;

    if (PyCoro_CheckExact(awaitable))
        return awaitable;
    awaited = Py_TYPE(awaitable)->tp_as_async->am_await(awaitable);
    Py_DECREF(awaitable);
    return awaited;
}

static bool is_used_up(const pc_async_call *call)
{
    return call->awaited == NULL && call->make == NULL;
}

/* In its first step. A new reference to what is awaited; NULL: with an exception, or *result is there already. */
static PyObject *take_awaited(pc_async_call *call, PyObject **result)
{
    PyObject *made;

    if (call->awaited == NULL) {
        made = call->make(call);
        call->make = NULL;
        if (made == NULL || !pc_async_is_awaitable(made)) {
            *result = made;
            return NULL;
        }
        call->awaited = awaited_by(made);
    }
    Py_XINCREF(call->awaited);
    return call->awaited;
}

/* Sends argument: STEP_YIELDED or STEP_ENDED with *result, or STEP_FAILED with an exception. */
#if PY_VERSION_HEX >= 0x030a0000
static enum step send(PyObject *awaited, PyObject *argument, PyObject **result)
{
    PySendResult sent = PyIter_Send(awaited, argument, result);

    return sent == PYGEN_NEXT ? STEP_YIELDED : sent == PYGEN_RETURN ? STEP_ENDED : STEP_FAILED;
}
#else
static enum step send(PyObject *awaited, PyObject *argument, PyObject **result)
{
    *result = argument == Py_None && PyIter_Check(awaited)
                  ? Py_TYPE(awaited)->tp_iternext(awaited)
                  : PyObject_CallMethod(awaited, "send", "O", argument);
    if (*result != NULL)
        return STEP_YIELDED;
    *result = take_stop_value();
    return *result != NULL ? STEP_ENDED : STEP_FAILED;
}
#endif

/* A death while the result is written, too, is this call's: user code pickles. */
static enum step step(pc_async_call *call, PyObject *argument, PyObject **result)
{
    PyObject *awaited;
    enum step done;

    *result = NULL;
    if (is_used_up(call)) {
        no_more();
        return STEP_FAILED;
    }
    begin_step(call);
    awaited = take_awaited(call, result);
    if (awaited != NULL)
        done = send(awaited, argument, result);
    else
        done = *result != NULL ? STEP_ENDED : STEP_FAILED;
    leave_code();
    if (done != STEP_YIELDED)
        done = end_with(call, done == STEP_ENDED ? *result : NULL, result);
    end_step();
    Py_XDECREF(awaited);
    return done;
}

#if PY_VERSION_HEX >= 0x030a0000
static PySendResult call_am_send(PyObject *self, PyObject *argument, PyObject **result)
{
    enum step done = step((pc_async_call *)self, argument, result);

    return done == STEP_YIELDED ? PYGEN_NEXT : done == STEP_ENDED ? PYGEN_RETURN : PYGEN_ERROR;
}
#endif

/* As a generator's methods give it. */
static PyObject *give_step(enum step done, PyObject *result)
{
    if (done != STEP_ENDED)
        return result;
    PyErr_SetObject(PyExc_StopIteration, result == Py_None ? NULL : result);
    Py_DECREF(result);
    return NULL;
}

static PyObject *call_send(PyObject *self, PyObject *argument)
{
    PyObject *result;
    enum step done = step((pc_async_call *)self, argument, &result);

    return give_step(done, result);
}

static PyObject *call_next(PyObject *self)
{
    return call_send(self, Py_None);
}

/* The exception that throw() was given: an instance, or a type and its value. */
static void set_thrown(PyObject *arguments)
{
    PyObject *type = NULL, *value = NULL, *traceback = NULL;

    if (!PyArg_UnpackTuple(arguments, "throw", 1, 3, &type, &value, &traceback))
        return;
    if (PyExceptionInstance_Check(type))
        PyErr_SetObject((PyObject *)Py_TYPE(type), type);
    else
        PyErr_SetObject(type, value);
}

/* NULL without an exception: it has returned None. */
static PyObject *throw_into(PyObject *awaited, PyObject *arguments)
{
    PyObject *method = PyObject_GetAttrString(awaited, "throw");
    PyObject *result = method == NULL ? NULL : PyObject_CallObject(method, arguments);

    Py_XDECREF(method);
    return result;
}

static PyObject *call_throw(PyObject *self, PyObject *arguments)
{
    pc_async_call *call = (pc_async_call *)self;
    PyObject *awaited = call->awaited, *result = NULL;
    enum step done = STEP_YIELDED;

    if (is_used_up(call))
        return no_more();
    Py_XINCREF(awaited);
    begin_step(call);
    if (awaited != NULL)
        result = throw_into(awaited, arguments);
    else
        set_thrown(arguments); /* before the first step */
    leave_code();
    if (result == NULL)
        done = end_with(call, take_stop_value(), &result);
    end_step();
    Py_XDECREF(awaited);
    return give_step(done, result);
}

/* Py_NewRef() is of Python 3.10. */
static PyObject *new_reference(PyObject *object)
{
    Py_INCREF(object);
    return object;
}

static PyObject *call_close(PyObject *self, PyObject *unused)
{
    pc_async_call *call = (pc_async_call *)self;

    (void)unused;
    return call->awaited == NULL ? new_reference(Py_None)
                                 : PyObject_CallMethod(call->awaited, "close", NULL);
}

static PyObject *call_await(PyObject *self)
{
    return new_reference(self);
}

/* cr_frame, __qualname__ and others: what asyncio shows of a task is the user's coroutine. */
static PyObject *call_getattro(PyObject *self, PyObject *name)
{
    pc_async_call *call = (pc_async_call *)self;
    PyObject *found = PyObject_GenericGetAttr(self, name);

    if (found != NULL || call->awaited == NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    PyErr_Clear();
    return PyObject_GetAttr(call->awaited, name);
}

/* A coroutine that the worker's end came before would complain that it was not awaited. */
static void close_unended(PyObject *awaited)
{
    PyObject *type, *value, *traceback;

    PyErr_Fetch(&type, &value, &traceback);
    Py_XDECREF(PyObject_CallMethod(awaited, "close", NULL));
    PyErr_Restore(type, value, traceback);
}

static void call_dealloc(PyObject *self)
{
    pc_async_call *call = (pc_async_call *)self;

    if (call->awaited != NULL && PyCoro_CheckExact(call->awaited))
        close_unended(call->awaited);
    Py_CLEAR(call->awaited);
    Py_CLEAR(call->task);
    PyObject_Free(self);
}

static PyMethodDef call_methods[] = {{"send", call_send, METH_O, NULL},
                                     {"throw", call_throw, METH_VARARGS, NULL},
                                     {"close", call_close, METH_NOARGS, NULL},
                                     {NULL, NULL, 0, NULL}};

static PyAsyncMethods call_async = {
    .am_await = call_await,
#if PY_VERSION_HEX >= 0x030a0000
    .am_send = call_am_send,
#endif
};

static PyTypeObject call_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pycrew.Call",
    .tp_basicsize = sizeof(pc_async_call),
    .tp_dealloc = call_dealloc,
    .tp_as_async = &call_async,
    .tp_getattro = call_getattro,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = call_next,
    .tp_methods = call_methods,
};

/* Steals awaited. */
static pc_async_call *make_call(const pc_execution *e, PyObject *awaited)
{
    pc_async_call *call = PyObject_New(pc_async_call, &call_type);

    if (call == NULL) {
        Py_XDECREF(awaited);
        return NULL;
    }
    memset((char *)call + sizeof(PyObject), 0, sizeof *call - sizeof(PyObject));
    call->awaited = awaited;
    call->execution = *e;
    return call;
}

/* In a context of its own, that says whose it is. */
static PyObject *make_task(pc_async_call *call)
{
    PyObject *context = PyContext_Copy(async.context), *token = NULL, *task = NULL;

    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        return NULL;
    }
    token = PyContextVar_Set(async.call_of, (PyObject *)call);
    if (token != NULL)
        task = PyObject_CallOneArg(async.create_task, (PyObject *)call);
    Py_XDECREF(token);
    if (PyContext_Exit(context) < 0)
        Py_CLEAR(task);
    Py_DECREF(context);
    return task;
}

bool pc_async_begin(pc_async_call *call)
{
    PyObject *task = make_task(call);

    if (task == NULL && in_flight(call))
        return false;
    PyErr_Clear();
    async.waiting -= call->waits;
    call->waits = false;
    if (in_flight(call)) /* an eager task may have ended by now */
        call->task = new_reference(task);
    Py_XDECREF(task);
    return true;
}

void pc_async_fail(pc_async_call *call)
{
    Py_XDECREF(end_call(call, NULL));
    PyErr_Clear(); /* a cancel, for the task that it has not */
}

/* From here on it is in flight. */
static void let_wait(pc_async_call *call)
{
    pc_loop *l = call->execution.loop;

    pc_run_note_kind(l, call->execution.function, PC_FUNCTION_COROUTINE);
    if (pc_array_used)
        call->arrays = pc_array_suspend();
    pc_run_clear_current();
    enlist(call);
}

static bool is_actors(const pc_execution *e)
{
    return (e->slot->flags & PC_REQUEST_KIND) == PC_KIND_METHOD;
}

int pc_async_start(pc_execution *e, uint32_t item, int64_t deadline,
                   void (*end)(pc_async_call *call, PyObject *result), void *data)
{
    PyObject *awaitable = e->awaitable, *awaited;
    pc_async_call *call;

    e->awaitable = NULL;
    if (need_loop(e->loop) < 0) {
        Py_DECREF(awaitable);
        return -1;
    }
    awaited = awaited_by(awaitable);
    call = awaited == NULL ? NULL : make_call(e, awaited);
    if (call == NULL)
        return -1;
    call->item = item;
    call->deadline = deadline;
    call->end = end;
    call->data = data;
    let_wait(call);
    call->to_begin = is_actors(e);
    async.to_begin += call->to_begin;
    if (!pc_async_begin(call)) {
        pc_async_leave(call);
        if (call->arrays != NULL)
            pc_array_resume(call->arrays);
        Py_DECREF(call);
        return -1;
    }
    Py_DECREF(call);
    return 0;
}

pc_async_call *pc_async_wait(const pc_execution *e, int64_t deadline,
                             PyObject *(*make)(pc_async_call *call),
                             void (*end)(pc_async_call *call, PyObject *result), void *data)
{
    pc_async_call *call;

    if (need_loop(e->loop) < 0)
        return NULL;
    call = make_call(e, NULL);
    if (call == NULL)
        return NULL;
    call->make = make;
    call->deadline = deadline;
    call->end = end;
    call->data = data;
    let_wait(call);
    call->waits = true;
    async.waiting++;
    return call;
}

enum pc_function_kind pc_async_kind(PyObject *function)
{
    if (PyMethod_Check(function))
        function = PyMethod_GET_FUNCTION(function);
    if (PyFunction_Check(function) &&
        ((PyCodeObject *)PyFunction_GET_CODE(function))->co_flags & CO_COROUTINE)
        return PC_FUNCTION_COROUTINE;
    return PC_FUNCTION_PLAIN;
}

/* ---- the end ---- */

/* Not ours to end any more: the sweep does it. */
static void give_up_calls(void)
{
    while (async.first != NULL)
        pc_async_leave(async.first);
}

bool pc_async_has_loop(void)
{
    return async.event_loop != NULL;
}

PyObject *pc_async_finish(PyObject *awaitable)
{
    PyObject *result;

    give_up_calls();
    result = PyObject_CallMethod(async.event_loop, "run_until_complete", "O", awaitable);
    Py_DECREF(awaitable);
    return result;
}

void pc_async_end(void)
{
    PyObject *end, *result;

    if (async.event_loop == NULL)
        return;
    give_up_calls();
    end = attribute("pycrew._loop", "end");
    result = end == NULL ? NULL : PyObject_CallOneArg(end, async.event_loop);
    if (result == NULL)
        PyErr_WriteUnraisable(async.event_loop);
    Py_XDECREF(end);
    Py_XDECREF(result);
}

const char *pc_async_check(const pc_worker_options *options)
{
    PyObject *check, *result;

    if (options->loop == NULL)
        return NULL;
    check = attribute("pycrew._loop", "check");
    result = check == NULL ? NULL : PyObject_CallFunction(check, "s", options->loop);
    Py_XDECREF(check);
    Py_XDECREF(result);
    return result == NULL ? pc_fault_describe() : NULL;
}
