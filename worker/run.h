/* run: a function is found and called, and its result or exception is written: what single calls,
 * items of a batch and elements of a map have in common. */
#ifndef PC_WORKER_RUN_H
#define PC_WORKER_RUN_H

#include "lib/shm/histogram.h"
#include "lib/shm/slot.h"
#include "worker/convert.h"
#include "worker/worker.h"

enum { PC_YIELD_CALLS = 256 };

/* What a worker keeps from call to call. */
typedef struct pc_loop {
    pc_worker *worker;
    PyObject **functions; /* by number; NULL: not looked up yet */
    uint32_t function_capacity;
    unsigned since_yield;
    bool over;    /* it is to be replaced, and has something to end before: see leave.h */
    bool leaving; /* and takes no calls of the ring, */
    bool refuses; /* nor any of its inbox */
    bool ring_is_next; /* the last call was from the inbox */
    uint32_t shortages;     /* of memory, that were answered */
    uint64_t calls, errors; /* for statistics */
    size_t arena_per_item;  /* bytes of results, in the last chunk */
    uint64_t most;          /* memory that an item of a batch took, of late; */
    uint64_t allocated;     /* and worker->allocated when there was seen to be enough for more */
    struct pc_leave {
        int64_t over_since, patience;       /* 0: not yet */
        int64_t serves_since, serves_until; /* 0: it drains */
        int64_t ended;                      /* when so many generations of calls had, since it serves again */
        unsigned generations;
        int64_t ring_moved, own_moved; /* when nothing was seen to wait in vain */
        uint32_t head;                 /* of the ring */
        bool serves_ring;
    } leave; /* leave.c's */
} pc_loop;

/* A call, or an item of a chunk, while it runs. */
typedef struct pc_execution {
    pc_loop *loop;
    pc_slot *slot;
    uint32_t generation, function;
    uint64_t shape; /* of the arguments, if they are a record; else 0 */
    bool ran;       /* the function was entered */
    bool stopped;   /* a coroutine's: it was asked to end */
    bool traced;    /* its beginning is in the worker's ring: see trace.h */
    uint32_t number; /* the slot's, */
    uint64_t word;   /* and what it was claimed as */
    PyObject *awaitable; /* what the function returned, if that is to be awaited */
    pc_time_mark mark;        /* weight 0: it is not timed; else see timing.h, */
    int64_t started;     /* and when it began */
} pc_execution;

/* No kind of result yet: see pc_run_execute. */
#define PC_RUN_PENDING ((enum pc_result_kind)0x7f)

/* Once in each worker: notes forks by user code from then on. */
void pc_run_start(void);

/* This is a child that user code forked: what came out of the function is its parent's to end. */
extern bool pc_run_in_child;
_Noreturn void pc_run_leave_child(void);

/* As the host was given it: "module:name". */
const char *pc_run_function_name(const pc_loop *l, uint32_t number);

/* Borrowed; NULL with an exception. */
PyObject *pc_run_find_function(pc_execution *e);

/* Tells the host what a function was found to be. */
void pc_run_note_kind(const pc_loop *l, uint32_t number, enum pc_function_kind kind);

/* Which of a function's calls are timed: see histogram.h. */
_Atomic uint32_t *pc_run_sampling(const pc_loop *l, uint32_t number);

/* Calls the function and writes what came of it. PC_RUN_PENDING: that is in e->awaitable, and is to be
 * awaited (pc_async_start); nothing was written or counted. */
enum pc_result_kind pc_run_execute(pc_execution *e, pc_cursor arguments, bool json,
                                   pc_writer *writer);

/* The second half, for what was awaited: writes result, which is stolen, or for NULL the exception that
 * is set, and counts. */
enum pc_result_kind pc_run_write(const pc_execution *e, PyObject *result, bool json, pc_writer *writer);

/* What the exception that is set means to the host. decoding: it is of the arguments. */
enum pc_result_kind pc_run_exception_kind(const pc_execution *e, bool decoding);

/* Writes the exception that is set, of that kind, and clears it: the kind it is in the end. */
enum pc_result_kind pc_run_write_fault(pc_writer *writer, enum pc_result_kind kind);

/* A block of wanted bytes, or, where memory is short, of need: 0, -ENOMEM or -E2BIG. What was given
 * back is looked for for a moment. */
int pc_run_alloc(pc_worker *worker, size_t need, size_t wanted, uint64_t *ret);

/* Frees what the host gave back. */
void pc_run_take_back(pc_worker *worker);

/* From here on user code may run. */
static inline void pc_run_publish_entered(void *data)
{
    pc_execution *e = data;

    atomic_store_explicit(&e->slot->entered, e->generation, memory_order_release);
}

/* For statistics. */
static inline void pc_run_count(pc_loop *l, enum pc_result_kind kind)
{
    pc_worker_record *record = &l->worker->segment.workers[l->worker->number];

    atomic_store_explicit(&record->calls, ++l->calls, memory_order_relaxed);
    if (kind != PC_RESULT_VALUE && kind != PC_RESULT_END)
        atomic_store_explicit(&record->errors, ++l->errors, memory_order_relaxed);
}

static inline void pc_run_set_current(const pc_execution *e, uint32_t slot, uint32_t item,
                                      int64_t deadline)
{
    pc_current_call.call = (uint64_t)e->generation << 32 | slot;
    pc_current_call.item = item;
    pc_current_call.deadline = deadline;
    pc_current_call.interrupted = false;
    atomic_signal_fence(memory_order_seq_cst); /* the handler runs in this thread */
}

static inline void pc_run_clear_current(void)
{
    pc_current_call.call = UINT64_MAX;
    atomic_signal_fence(memory_order_seq_cst);
}

/* Between two calls, so that Python's other threads have their turn. */
static inline void pc_run_yield_to_threads(pc_loop *l)
{
    if (++l->since_yield % PC_YIELD_CALLS != 0)
        return;
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
}

#endif
