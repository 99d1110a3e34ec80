/* async: calls that are coroutines, many in flight on the worker's event loop.
 *
 * Overview. A function whose result can be awaited has not ended with it. The worker then makes its
 * event loop, once, and a task for the call; what the task runs is a pc_async_call, an awaitable of
 * our own around the function's. So each step of a call goes through here (`running` in the
 * worker's record says whose code runs), and its end is known in the very step that ends it: the
 * result is written and the slot ended as for any call.
 *
 * While calls are pending the worker is in the event loop (pc_async_serve), and a callback, the
 * turn, claims from there: a few calls at a time, so that those that were started go on, and no
 * more than options.inflight in all. Functions that are no coroutines run within the turn, as if no
 * loop was running. When no call is pending and none is queued, the worker goes back to its plain
 * loop, and costs there what it cost before.
 *
 * Sleeping. The event loop sleeps in a system call of its own, and who has a call posts the
 * worker's semaphore. A thread, the waiter, sleeps on that, and writes an eventfd which the loop
 * watches. The worker says that it sleeps when its turn finds nothing, and takes that back at the
 * first step of a task: so it is not posted while it has something to do, and works with any event
 * loop.
 *
 * Why no token is lost. In the plain loop the worker waits on the semaphore itself, and the waiter
 * may be left over in it. A token that comes to the waiter then is passed on (posted again), and
 * the waiter parks until the worker serves again. Pair A1 (worker: serving, fence, parked | waiter:
 * parked, fence, serving): one of the two sees the other, so no waiter parks while the worker
 * serves. A token of the plain loop's sleep is posted after that was announced, and so after
 * `serving` was cleared: the waiter that takes it sees that.
 *
 * Stopping. The host names a call in the worker's record, and the generation of each call that is
 * to end in segment->stops; a call's own deadline is looked at too. The interrupt's handler marks
 * those calls, and the next turn cancels their tasks, each once: what a task does to clean up has
 * the grace for it. If no turn comes, because the code of such a call blocks the loop, the handler
 * raises CancelledError there. If another's code blocks it, the host kills the worker when the
 * grace is over.
 *
 * All functions need the GIL. */
#ifndef PC_WORKER_ASYNC_H
#define PC_WORKER_ASYNC_H

#include "worker/run.h"

/* A call, or an item of a chunk, that is awaited. */
typedef struct pc_async_call {
    PyObject_HEAD PyObject *awaited; /* the coroutine, or what __await__ gave */
    PyObject *(*make)(struct pc_async_call *call); /* else, until the first step: see pc_async_wait */
    PyObject *task;
    pc_execution execution;
    uint32_t item;                /* of a chunk */
    int64_t deadline;             /* CLOCK_MONOTONIC; INT64_MAX: none */
    struct pc_array_held *arrays; /* its arguments' */
    void (*end)(struct pc_async_call *call, PyObject *result);
    void *data;                         /* for end */
    struct pc_async_call *next, **link; /* among those in flight; link NULL: it has ended */
    struct pc_async_call *behind;       /* its owner's, while it has no task */
    bool waits;                         /* for its turn: it has no task yet */
    bool to_begin;                      /* an actor's: its first step is still to come */
    bool cancelled;                     /* its task was, for the host */
    bool raised;                        /* in the middle of its code */
    uint32_t epoch; /* see leave.h */
    int64_t stopped_at;
    uint64_t stopped_turn;
} pc_async_call;

/* How many calls are in flight, or wait for the next turn (pc_async_later); */
extern unsigned pc_async_pending;
unsigned pc_async_count(void); /* without the latter */

static inline bool pc_async_is_awaitable(PyObject *object)
{
    const PyAsyncMethods *methods = Py_TYPE(object)->tp_as_async;

    return methods != NULL && methods->am_await != NULL;
}

/* What a function seems to be, before it was called. */
enum pc_function_kind pc_async_kind(PyObject *function);

/* Awaits e->awaitable, which is taken, and e is copied. At its end, `end` is given the result, a
 * reference of its own, or NULL with an exception set: it writes the result, calls pc_async_leave,
 * and ends the call. Clears "current". 0, or -1 with an exception: then end is not called. */
int pc_async_start(pc_execution *e, uint32_t item, int64_t deadline,
                   void (*end)(pc_async_call *call, PyObject *result), void *data);

/* The same for a call that is to wait for its turn: it has no task, and does not count for options.inflight. In its
 * first step make gives what is awaited, or the result, or NULL with an exception. A new reference, or NULL with
 * an exception. */
pc_async_call *pc_async_wait(const pc_execution *e, int64_t deadline,
                             PyObject *(*make)(pc_async_call *call),
                             void (*end)(pc_async_call *call, PyObject *result), void *data);

/* It is its turn. False, with an exception: it is still in flight. */
bool pc_async_begin(pc_async_call *call);

/* Ends one that has no task with the exception that is set. */
void pc_async_fail(pc_async_call *call);

/* It is not in flight any more: no interrupt finds it. Before its end is published. */
void pc_async_leave(pc_async_call *call);

/* Runs do_it(data) in the next turn, outside of any task. It counts as pending until then. */
void pc_async_later(void (*do_it)(void *), void *data);

/* Runs the event loop, and claims calls from it, until none is pending and none queued; if the
 * worker takes no more calls (pc_loop_takes_calls), until none is pending. */
void pc_async_serve(pc_loop *l);

/* Whether the event loop was made. */
bool pc_async_has_loop(void);

/* At the worker's end: awaits an awaitable, which is stolen, in that loop: its result, or NULL with an
 * exception. Calls that are in flight are left to the sweep. */
PyObject *pc_async_finish(PyObject *awaitable);

/* At the worker's end: tasks that are left are cancelled and awaited, and the loop is closed. */
void pc_async_end(void);

/* In the zygote: whether there will be such a loop: NULL, or why not. */
const char *pc_async_check(const pc_worker_options *options);

/* Whether the exception that is set is asyncio's CancelledError. */
bool pc_async_is_cancelled(void);

/* Whether the waiter may be on the worker's semaphore. */
bool pc_async_has_waiter(void);

/* The interrupt's handler: marks the calls that are to end. False: it raised CancelledError. */
bool pc_async_interrupt(uint64_t named, uint32_t item);

/* The deadline of the call that this code belongs to. False: it belongs to none. */
bool pc_async_deadline(int64_t *ret);

#endif
