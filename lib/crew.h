/* crew: the host's private records of everything, shared by the files of lib.
 *
 * What a call's end is, which worker is alive, which memory is leased: it is decided here, from
 * these records, never from the segment alone. The segment's words are copied once and checked.
 *
 * Locks, in the order they are taken:
 *   crew->lock            slow paths: deadlines, cancel, ends by the host, commands, worker states
 *   worker->lock          which incarnation lives, and the leases on its memory
 *   crew->heap_lock       the host's heap
 * The fast path of a call (prepare, submit, a wait that finds the end, release) takes none. */
#ifndef PC_CREW_H
#define PC_CREW_H

#include <pthread.h>
#include <stdatomic.h>

#include "lib/builder.h"
#include "lib/error.h"
#include "lib/pycrew.h"
#include "lib/shm/chunk.h"
#include "lib/shm/heap.h"
#include "lib/shm/idle.h"
#include "lib/shm/segment.h"

enum pc_phase {
    PC_PHASE_UNUSED = 0,
    PC_PHASE_PREPARED,   /* being filled by its thread */
    PC_PHASE_IN_FLIGHT,  /* submitted, its end not collected */
    PC_PHASE_COLLECTING, /* one thread copies its end */
    PC_PHASE_ENDED       /* code, result and error are there */
};

/* How a call is to end when its worker answers the interrupt or is killed. */
enum pc_stop { PC_STOP_NONE = 0, PC_STOP_DEADLINE, PC_STOP_CANCEL };

struct pycrew_function {
    const pycrew_function *next; /* in its hash bucket */
    uint32_t number;
    uint32_t hash;
    char *source; /* or NULL */
    char name[];
};

typedef struct pc_batch_chunk pc_batch_chunk;

struct pycrew_call {
    pc_builder builder;
    pycrew_crew *crew;
    pc_slot *slot;
    uint32_t index;
    _Atomic uint32_t generation;
    _Atomic uint32_t phase;
    const pycrew_function *function;
    _Atomic(pycrew_queue *) queue;
    void *data;
    uint64_t arguments_block; /* 0: in the slot */
    uint32_t ticket;
    bool queued; /* ticket is valid */
    uint16_t flags;
    int64_t timeout_ns; /* PYCREW_FOREVER: none */
    unsigned retries;
    _Atomic(pc_batch_chunk *) chunk; /* made when first needed, kept until close */
    bool chunk_in_use;               /* the call is a batch's chunk */

    /* under crew->lock */
    int64_t deadline;       /* INT64_MAX: none */
    uint32_t deadline_place; /* in the heap, from 1; 0: not in it */
    int host_code;          /* if the host ended it */
    pc_error host_error;    /* the same */
    bool released;          /* before its end: the supervisor reclaims it */

    _Atomic uint32_t stop; /* enum pc_stop */
    _Atomic uint32_t deaths_running, deaths_claimed;

    /* from ENDED on */
    int code;
    pc_error error;
    pc_cursor result;
    uint64_t result_copy[PC_INLINE_RESULT / 8];
    uint64_t result_block; /* leased; under the worker's lock */
    unsigned result_worker, result_incarnation;

    uint32_t sleeper; /* what the slot's sleeper word was set to */
    uint32_t next;    /* in a free list; index + 1 */
    const void *thread; /* who prepared it */
};

struct pycrew_queue {
    pycrew_crew *crew;
    unsigned number;
    int fd;
    uint64_t fd_id;       /* of fd, to see whether it is still ours */
    bool open;
    _Atomic uint32_t pending; /* calls that are to appear here */
    bool stop;            /* a wake is pending: under crew->lock */
    unsigned scan;        /* the word the next reap begins at */
    uint64_t rest;        /* bits taken and not yet delivered, of the word scan */
};

enum pc_worker_state {
    PC_WORKER_NONE = 0,  /* to be forked when not_before has come */
    PC_WORKER_FORKING,   /* asked of the zygote */
    PC_WORKER_STARTING,  /* forked; init runs */
    PC_WORKER_READY
};

/* The steps of the deadline ladder for a worker. */
enum pc_step { PC_STEP_NONE = 0, PC_STEP_INTERRUPTED, PC_STEP_STACK, PC_STEP_DOOMED };

typedef struct pc_host_worker {
    pthread_mutex_t lock;
    unsigned incarnation;
    bool alive; /* admitted and not swept: its memory can be given back */

    /* the supervisor's */
    enum pc_worker_state state;
    int pid, pidfd, lifeline, output;
    int64_t started, not_before;
    unsigned failures; /* starts in a row that came to nothing */
    bool was_ready;    /* this incarnation was admitted */
    bool gone;         /* its pidfd says so */
    bool told;         /* DIED came: signal and status are known */
    int signal, status;
    bool killed; /* by us */
    char *line;  /* an unfinished line of its output */
    size_t line_size;

    enum pc_step step;
    uint32_t step_call, step_generation, step_item;
    int64_t step_time;
    char *stack; /* taken at the deadline, malloc'ed */
} pc_host_worker;

enum pc_zygote_state {
    PC_ZYGOTE_NONE = 0, /* to be spawned when zygote_not_before has come */
    PC_ZYGOTE_STARTING,
    PC_ZYGOTE_READY,
    PC_ZYGOTE_DEAD      /* its workers are being waited for */
};

enum { PC_FUNCTION_BUCKETS = 1024, PC_LOST_WORKER_CLAIMS_MAX = 3 };

struct pycrew_crew {
    pc_segment segment;
    const char *fork_guard; /* a page that is wiped in a fork: 0 there */
    unsigned workers, queue_limit;
    int64_t timeout_ns, grace_ns;
    unsigned retries;
    unsigned call_limit;

    /* calls */
    pycrew_call *calls; /* by slot */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t free_calls; /* tag << 32 | index + 1 */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t tail;       /* of the ring */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t prepare_waiters;
    _Atomic uint32_t inside; /* threads that sleep or spin in a function of ours */
    _Atomic uint32_t ending; /* 1: drains, 2: closes */
    _Atomic uint32_t stale_count;
    uint32_t spare_calls, stale_calls; /* lists; under lock */

    /* functions: insert only, so that look-ups need no lock */
    _Atomic(const pycrew_function *) functions[PC_FUNCTION_BUCKETS];
    uint32_t function_count; /* under lock */
    uint64_t function_pages[PC_FUNCTION_PAGES]; /* what the header was told; under lock */

    pthread_mutex_t heap_lock;
    pc_heap heap;
    uint32_t *orphan_leases; /* by span: of dead incarnations; under that worker's lock */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a call was freed, a worker's state changed, ... */
    uint32_t *deadlines;    /* a heap of call indices, from 1 */
    uint32_t deadline_count;
    uint32_t *commands;     /* calls that are to be stopped */
    uint32_t command_count;
    int64_t next_look;      /* when the supervisor will look at the deadlines */

    pc_host_worker *crew_workers;
    pycrew_queue *queues;   /* by number; 0 is the supervisor's */

    /* the supervisor's */
    pthread_t supervisor;
    bool supervising;
    enum pc_zygote_state zygote;
    int zygote_pid, zygote_fd, control;
    int zygote_output;
    char *zygote_line;
    size_t zygote_line_size;
    int64_t zygote_not_before;
    unsigned zygote_failures;
    bool zygote_told; /* why it cannot start */
    int fault_fd;
    char *text; /* a message's */
    struct pollfd *polls;
    uint64_t oom_kills;
    int ready_code;     /* 1: a worker is ready; negative: cannot start; under lock */
    pc_error start_error;
    unsigned start_failures; /* in a row, with no worker ready, */
    int64_t failing_since;   /* and when the first was */

    /* options, copied */
    char **path, **env, **preload;
    char *python, *init, *exit;
    int output;
    int64_t start_timeout_ns;
    void (*log)(void *data, int level, const char *line);
    void *log_data;
};

/* ---- crew.c ---- */

/* 0, or PYCREW_EFORKED in a fork of the process that opened the crew. */
static inline int pc_crew_check(const pycrew_crew *crew)
{
    if (__builtin_expect(*(const volatile char *)crew->fork_guard == 0, 0))
        return pc_fail(PYCREW_EFORKED, "the crew was opened by the parent of this process; "
                                       "a fork has to open its own");
    return 0;
}

void pc_crew_log(pycrew_crew *crew, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Makes the supervisor look around. */
void pc_crew_kick(pycrew_crew *crew);

/* ---- function.c ---- */

void pc_functions_free(pycrew_crew *crew);

/* ---- memory.c: the host's heap, and leases on the workers' ---- */

int pc_memory_alloc(pycrew_crew *crew, size_t size, uint64_t *ret);
void pc_memory_free(pycrew_crew *crew, uint64_t block);
size_t pc_memory_size(pycrew_crew *crew, uint64_t block);

/* Leases [block, block + size) of a worker's incarnation if it is there: sets *holder to block
 * under that worker's lock. */
bool pc_lease_take(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t block,
                   uint64_t size, uint64_t *holder);

/* Gives a leased block back and clears *holder. */
void pc_lease_end(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t *holder);

/* The sweep: frees the dead worker's spans, those without leases now. */
void pc_lease_orphan(pycrew_crew *crew, unsigned worker);

/* ---- call.c ---- */

/* Copies a call's end out of its slot, if it has ended; phase is ENDED then. */
bool pc_call_collect(pycrew_call *call);

/* Sleeps until collected (true), or the time. */
bool pc_call_await(pycrew_call *call, int64_t until);

/* A new call, its builder over the slot; without function. As pycrew_prepare. */
int pc_call_prepare(pycrew_crew *crew, int64_t timeout_ns, pycrew_call **ret);

/* Publishes the call's slot. */
void pc_call_enqueue(pycrew_call *call);

/* Gives an ended or never submitted call back. */
void pc_call_reclaim(pycrew_call *call);

/* Under crew->lock. Ends a call that no worker owns (queued), or whose owner's death is confirmed,
 * with this code; error has the texts and how the owner died (ignored where code is 0). word is
 * what it was seen as.
 * False: its word has changed. */
bool pc_call_end_by_host(pycrew_call *call, uint64_t word, int code, const pc_error *error);

int pc_call_stop_code(enum pc_stop why); /* -ETIMEDOUT or -ECANCELED */
unsigned pc_call_attempts(const pycrew_call *call); /* deaths so far */

/* An error from the texts a worker wrote. */
void pc_call_set_fault(const pycrew_call *call, pc_error *error, uint32_t kind, bool ran,
                       pc_cursor message);

/* Tells who waits. */
void pc_call_tell(pycrew_call *call, const pc_ending *ending);

/* Under crew->lock: stops a call: ends it if it is queued, else leaves it to the ladder (the
 * supervisor is told). 0, or -EALREADY. */
int pc_call_stop(pycrew_call *call, enum pc_stop why);

/* Under crew->lock. Queues a dead worker's call again. */
void pc_call_requeue(pycrew_call *call, uint64_t word);

/* Makes the end post that slot's semaphore, which is the caller's. False: it has ended. */
bool pc_call_publish_sleeper(pycrew_call *call, uint32_t sleeper);

/* Supervisor: gives back the ended calls that were released before. */
void pc_call_reclaim_released(pycrew_crew *crew);

/* ---- chunk.c: the calls that carry a batch's items ---- */

/* The private side of a chunk. */
typedef enum pc_saved_kind {
    PC_SAVED_NONE = 0, /* in the table, or still to come */
    PC_SAVED_VALUE,
    PC_SAVED_ERROR
} pc_saved_kind;

/* An item's end, copied out of shared memory when its worker died or stopped early. */
typedef struct pc_saved {
    pc_saved_kind kind;
    uint64_t *value; /* a message of one value */
    size_t size;
    pc_error error;
} pc_saved;

struct pc_batch_chunk {
    pycrew_batch *batch; /* NULL once it is closed; under crew->lock for the supervisor */
    pc_chunk *shared;
    uint64_t results;    /* of the table, from the start of shared */
    uint64_t first;      /* the first item's index in the batch */
    uint32_t count;      /* items */
    size_t bytes;        /* of their arguments and table */
    uint32_t begin;      /* those before have their end in saved */
    uint32_t finished;   /* from ENDED on: those from begin have their end in the table */
    int64_t busy_ns;     /* what they took, or -1 */
    int stopped_code;    /* of an item that was interrupted */
    unsigned retries;
    uint32_t blamed;     /* the item that last died, and how often */
    unsigned blamed_deaths;
    unsigned idle_deaths; /* deaths in a row with nothing started */
    uint32_t *offsets;   /* of each item's arguments */
    uint32_t offset_capacity;
    pc_saved *saved;     /* count of them, or NULL */

    /* under the worker's lock */
    unsigned lease_worker, lease_incarnation;
    uint64_t leases[PC_CHUNK_BLOCKS];
};

/* Makes a prepared call an empty chunk. */
int pc_chunk_init(pycrew_call *call, pycrew_batch *batch, uint64_t first, unsigned retries);

/* Lays out the table and submits. */
int pc_chunk_submit(pycrew_call *call);

/* An ended chunk of which a part did not run: queues the rest again. */
void pc_chunk_resubmit(pycrew_call *call);

/* Gives all items from `from` on this error. 0 or -ENOMEM. */
void pc_chunk_fail_rest(pycrew_call *call, uint32_t from, const pc_error *error);

/* An ended chunk's item: its value as a message (small: two words to copy it to), or NULL error. */
pc_cursor pc_chunk_value(pycrew_call *call, uint32_t item, uint64_t small[2], const pycrew_error **error,
                         pc_error *space);

/* Copies a chunk's end: its progress, and leases on what it refers to. */
void pc_chunk_collect(pycrew_call *call, unsigned worker, unsigned incarnation);

/* Under crew->lock, after the death of worker, which owned the chunk: keeps what is finished,
 * blames the started item. True: the rest is to be queued again; false: nothing is left, and the
 * call is to be ended with 0. */
bool pc_chunk_sweep(pycrew_call *call, unsigned worker, const pc_error *error);

/* Gives back what it leases. */
void pc_chunk_end_leases(pycrew_call *call);

void pc_chunk_discard(pycrew_call *call); /* what the call holds; the record is kept, */
void pc_chunk_free(pycrew_call *call);    /* until here */

/* Under crew->lock. Which item runs, and whether it is past its own deadline; if not, when to look
 * again. */
bool pc_chunk_overdue(pycrew_call *call, uint32_t *item, int64_t *look);

/* Sets DOOMED for this item. False: it has ended. */
bool pc_chunk_doom(pycrew_call *call, uint32_t item);

/* Under that worker's lock: calls fn for each block of it that the chunk leases. */
void pc_chunk_leases(pycrew_call *call, void (*fn)(pycrew_crew *, uint64_t), unsigned worker,
                     unsigned incarnation);

/* ---- batch.c ---- */

/* Under crew->lock: a worker died on one of the batch's items. */
void pc_batch_count_death(pycrew_batch *batch, bool retried);

/* ---- queue.c ---- */

int pc_queues_init(pycrew_crew *crew);
void pc_queues_free(pycrew_crew *crew);
void pc_queue_enter(pycrew_call *call); /* a submitted call is to appear in its queue, */
void pc_queue_leave(pycrew_call *call); /* or not any more */
void pc_queue_write(pycrew_queue *queue); /* makes its descriptor readable */
int pc_queue_send(pycrew_crew *crew, unsigned queue, int lifeline); /* to a worker */
uint64_t pc_eventfd_id(int fd); /* 0: it is no eventfd */

/* ---- deadline.c: a heap of calls by deadline; under crew->lock ---- */

void pc_deadline_add(pycrew_call *call);
void pc_deadline_remove(pycrew_call *call);
pycrew_call *pc_deadline_first(pycrew_crew *crew); /* or NULL */

/* ---- supervisor.c ---- */

int pc_supervisor_start(pycrew_crew *crew);
void pc_supervisor_stop(pycrew_crew *crew);

/* ---- spawn.c ---- */

/* Starts the worker program as a zygote: its PID, pidfd, control socket and output (or -1). The
 * last error is set on failure. */
int pc_spawn_zygote(pycrew_crew *crew);

/* ---- ladder.c: supervisor only ---- */

/* Begins, or goes on, with what is due; gives when to come again. */
int64_t pc_ladder_run(pycrew_crew *crew, int64_t now);
void pc_ladder_forget(pycrew_crew *crew, unsigned worker);

/* What faulthandler wrote for worker, malloc'ed, or NULL. */
char *pc_fault_read(pycrew_crew *crew, unsigned worker);
void pc_fault_erase(pycrew_crew *crew, unsigned worker);

/* ---- sweep.c: supervisor only ---- */

/* After the confirmed death of a worker: moves its calls, frees its memory, wakes all. */
void pc_sweep(pycrew_crew *crew, unsigned worker);

#endif
