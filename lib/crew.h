/* crew: the host's private records of everything, shared by the files of lib.
 *
 * What a call's end is, which worker is alive, which memory is leased: it is decided here, from
 * these records, never from the segment alone. The segment's words are copied once and checked.
 *
 * Locks, in the order they are taken:
 *   crew->lock            slow paths: deadlines, cancel, ends by the host, commands, worker states
 *   arrays->lock          the blocks of arrays (array.h)
 *   exports->lock         calls of exported functions (export.h)
 *   worker->lock          which incarnation lives, the leases on its memory, and its inbox
 *   crew->heap_lock       the host's heap, and the leases on the memory of the dead
 * The fast path of a call (prepare, submit, a wait that finds the end, release) takes none. */
#ifndef PC_CREW_H
#define PC_CREW_H

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "lib/builder.h"
#include "lib/error.h"
#include "lib/pycrew.h"
#include "lib/shm/chunk.h"
#include "lib/shm/heap.h"
#include "lib/shm/idle.h"
#include "lib/shm/inbox.h"
#include "lib/shm/segment.h"

/* So often who waits looks whether all is well. */
#define PC_LOOK_NS ((int64_t)100 * 1000 * 1000)

/* In pycrew_call.flags, beside what the slot is told: pycrew_set_retries was called. */
enum { PC_CALL_RETRIES_GIVEN = 0x8000 };

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
    uint64_t block; /* in the segment */
    const _Atomic uint32_t *sampling; /* in it: which calls are timed */
    char *source;   /* or NULL */
    char name[];
};

typedef struct pc_batch_chunk pc_batch_chunk;
typedef struct pc_map pc_map;                 /* map.c: a map that runs */
typedef struct pc_exports pc_exports;         /* export.c: functions for Python */
typedef struct pc_arrays pc_arrays;           /* array.c: the blocks of arrays, */
typedef struct pc_call_arrays pc_call_arrays; /* and those of a call */
typedef struct pc_stream pc_stream;           /* stream.c */
typedef struct pc_call_memory pc_call_memory; /* stub.c */
typedef struct pc_trace pc_trace;             /* trace.c */

/* The right to read a block of a worker's: from taken to ended nobody else gets its spans. */
typedef struct pc_lease {
    /* Stored under that worker's lock. The sweep of another one reads whose it is all the same, so
     * worker and incarnation are stored before the block and read after it. */
    _Atomic uint64_t block; /* 0: none */
    uint64_t size;
    _Atomic unsigned worker, incarnation;
} pc_lease;

/* A lease that is no call's: in the crew's list. */
typedef struct pc_lease_node {
    pc_lease lease;
    uint64_t cell; /* what is given back for the block: the block itself, or another one */
    struct pc_lease_node *next, **link;
} pc_lease_node;

struct pycrew_call {
    pc_builder builder;
    pycrew_crew *crew;
    pc_slot *slot;
    uint32_t index;
    _Atomic uint32_t generation;
    _Atomic uint32_t phase;
    _Atomic(const pycrew_function *) function; /* its owner's; the audit and the ladder read it at any time */
    _Atomic(pycrew_queue *) queue;
    void *data;
    uint64_t arguments_block; /* 0: in the slot */
    _Atomic uint32_t ticket; /* its owner's; looks and the audit read it at any time */
    bool queued; /* submitted: its queue is entered, ticket is set */
    bool has_stale; /* an entry of an earlier life may be in the ring still, under stale_ticket */
    _Atomic int64_t submitted; /* when, by the coarse clock */
    _Atomic bool tainted; /* its arguments were there while others wrote over them */
    _Atomic uint32_t published; /* == generation: QUEUED and its entry were stored */
    uint16_t flags;
    int64_t timeout_ns; /* PYCREW_FOREVER: none */
    unsigned retries;
    _Atomic unsigned directed; /* worker + 1: for that one alone, in this incarnation; 0: for any */
    _Atomic(pc_stream *) stream; /* it is one, or an item's; NULL: neither */
    _Atomic(pc_batch_chunk *) chunk; /* made when first needed, kept until close */
    _Atomic bool chunk_in_use;       /* the call is a batch's chunk */

    /* under crew->lock */
    int64_t deadline;       /* INT64_MAX: none */
    uint32_t deadline_place; /* in the heap, from 1; 0: not in it */
    bool host_ended;        /* these are its end: */
    int host_code;
    pc_error host_error;
    bool overdue;           /* its deadline has passed, and was acted on */
    int64_t stop_since;     /* the ladder's: when its worker was asked to end it, */
    uint32_t stop_generation, stop_item; /* in which life, and which item */
    _Atomic bool held;      /* submitted while the crew is rebuilt: not in its slot yet */
    _Atomic bool released;  /* before its end: the supervisor reclaims it */
    _Atomic bool replaced;  /* a spare is free in its place already; the owner's */

    _Atomic uint32_t stop; /* enum pc_stop */
    _Atomic uint32_t deaths_running, deaths_claimed;
    _Atomic uint32_t deaths_beside; /* of workers that died of another call */

    /* from ENDED on */
    int code;
    pc_error error;
    pc_cursor result;
    uint64_t result_copy[PC_INLINE_RESULT / 8];
    pc_lease lease; /* on the block the result is in */
    pc_call_arrays *arrays; /* of its arguments and result; NULL: none */
    pc_call_memory *memory; /* the user's, of pycrew_call_alloc; NULL: none */

    _Atomic uint32_t sleeper; /* the slot whose semaphore is to be posted at the end */
    _Atomic uint32_t next; /* in a free list; index + 1 */
    _Atomic(const void *) thread; /* who prepared, submitted, waited for or reaped it last */

    /* Of calls for one worker; no plain call's way comes here. */
    unsigned incarnation;  /* of directed */
    uint32_t stale_ticket;
    uint8_t drop_looks;    /* of a drop that was claimed, at its time; under crew->lock */
    bool seen_running;     /* and it had begun */
    bool at_end;           /* of a stream's item: there is none */
    unsigned ended_worker, ended_incarnation; /* of a stream: where the iterator is */
    pc_stream *stream_record; /* made when first needed, kept until close */
};

struct pycrew_queue {
    pycrew_crew *crew;
    unsigned number;
    _Atomic int fd;
    _Atomic uint64_t fd_id; /* of fd, to see whether it is still ours */
    bool open;            /* under crew->lock */
    _Atomic uint32_t pending; /* calls that are to appear here */
    _Atomic(const void *) reader; /* the thread that reaped last; NULL: none yet */
    bool stop;            /* a wake is pending: under crew->lock */
    unsigned scan;        /* the word the next reap begins at */
    uint64_t rest;        /* bits taken and not yet delivered, of the word scan */
    int64_t looked;       /* when it was last looked for calls whose bit was lost */
};

enum pc_worker_state {
    PC_WORKER_NONE = 0,  /* to be forked when not_before has come */
    PC_WORKER_FORKING,   /* asked of the zygote */
    PC_WORKER_STARTING,  /* forked; init runs */
    PC_WORKER_READY
};

/* The steps of the deadline ladder for a worker. */
enum pc_step { PC_STEP_NONE = 0, PC_STEP_INTERRUPTED, PC_STEP_STACK, PC_STEP_DOOMED };

/* What a worker's processes have done; see stats.c. */
typedef struct pc_worker_totals {
    uint64_t calls, errors;
    int64_t busy_ns, ready_ns;
} pc_worker_totals;

/* How the last of a worker's processes ended. */
typedef struct pc_death {
    unsigned incarnation;
    int signal, exit_status;
    bool out_of_memory;
    char text[256];
} pc_death;

typedef struct pc_host_worker {
    pthread_mutex_t lock;
    unsigned incarnation;
    unsigned last_incarnation; /* of the place: its successor's has been given out too */
    bool alive; /* admitted and not swept: its memory can be given back */
    bool inbox_open; /* this incarnation takes calls of its own; under lock, as */
    pc_inbox inbox;
    unsigned objects; /* actors that it has */
    pc_death death;
    size_t given_back; /* bytes, since the supervisor was last told; under lock */
    uint32_t audited_call; /* the audit's: index + 1 */
    int open_lifeline; /* lifeline, from its admission until it is closed; else -1: under crew->lock */

    /* the supervisor's; what stats.c reads is changed under crew->lock */
    enum pc_worker_state state;
    struct pc_zygote *zygote; /* that forked it, or is to */
    unsigned fault_part;      /* of the fault file: the one that its predecessor has not */
    struct pollfd *polls;     /* its place in the supervisor's, or NULL */
    bool waiting;  /* a successor: its init is done */
    bool retiring; /* it will leave soon, by its own limits */
    int64_t told_to_leave; /* when it was last told; 0: not */
    int pid, pidfd, lifeline, output;
    unsigned long long start_time; /* with pid it names the process */
    bool vanished; /* dead, and no pidfd is left to say so */
    int64_t started, not_before, admitted;
    pc_worker_totals totals; /* of those before this incarnation */
    unsigned deaths;
    unsigned failures; /* starts in a row that came to nothing */
    bool was_ready;    /* this incarnation was admitted */
    bool gone;         /* its pidfd says so */
    bool told;         /* DIED came: signal and status are known */
    int signal, status;
    _Atomic bool killed; /* by us, or about to be: nobody else sets DOOMED */
    uint32_t sleep;      /* which sleep of its was last seen while calls were queued, */
    int64_t sleep_since; /* and since when; 0: none */
    uint32_t sleep_on_memory; /* which it was last seen in with memory that it was given back */
    bool exec;   /* it ran another program, and was killed for it */
    int64_t leave_until; /* its exit functions may run until then; 0: it works */
    char *line;  /* what was read of its output and not passed on */
    size_t line_size;
    int64_t output_until; /* for a dead one's */

    enum pc_step step;
    uint32_t step_call, step_generation, step_item;
    int64_t step_time, stack_time; /* when the next step is due, and the one after the interrupt */
    unsigned step_looks; /* for the stack, in vain */
    bool step_more; /* others of its calls are to end, too, and wait for this one's ladder */
    char *stack; /* taken at the deadline, malloc'ed */
} pc_host_worker;

enum { PC_PAGE = 4096, PC_SPAN_PAGES = PC_SPAN_SIZE / PC_PAGE };

/* Which pages of a span were seen to be there, since it is this owner's. See pc_lease_take. */
typedef struct pc_span_view {
    _Atomic uint32_t owner;
    _Atomic uint64_t pages[PC_SPAN_PAGES / 64];
} pc_span_view;

enum pc_zygote_state {
    PC_ZYGOTE_NONE = 0, /* to be spawned when zygote_not_before has come */
    PC_ZYGOTE_STARTING,
    PC_ZYGOTE_READY,
    PC_ZYGOTE_DEAD      /* its workers are being waited for */
};

/* The process that imports once and forks the workers. There is one; while the crew is reloaded two. */
typedef struct pc_zygote {
    enum pc_zygote_state state;
    _Atomic int pid;
    _Atomic uint64_t start_time;
    int pidfd, control, output;
    char *line; /* of its output, read and not passed on */
    size_t line_size;
    int64_t not_before;
    unsigned failures;
    bool told;     /* why it cannot start */
    bool spoke;    /* it is a worker program: it said HELLO */
    int64_t leave_until; /* it was told to exit, and is killed then; 0: not */
    struct pollfd *polls; /* its place in the supervisor's, or NULL */
} pc_zygote;

enum { PC_ZYGOTES = 2 };

/* A reload. See reload.c. */
enum pc_reload_step {
    PC_RELOAD_NONE = 0,
    PC_RELOAD_IMPORTS, /* the new zygote starts */
    PC_RELOAD_PROVES,  /* its first worker starts */
    PC_RELOAD_MOVES    /* it is the crew's zygote; place by place gets a worker of its */
};

typedef struct pc_reload_waiter pc_reload_waiter;

typedef struct pc_reload {
    enum pc_reload_step step;        /* the supervisor's */
    uint64_t serves;                 /* all who asked up to this one; under lock, as the rest */
    uint64_t asked;                  /* how often */
    pc_reload_waiter *waiters;
} pc_reload;

/* options.limit_memory and its kin, in the order of limits.c. */
enum { PC_LIMIT_MEMORY, PC_LIMIT_FILES, PC_LIMIT_CORE, PC_LIMIT_CPU_S, PC_LIMITS };

/* Descriptors that a crew needs, also at its start, and more for each worker. */
enum { PC_CREW_FDS = 8, PC_WORKER_FDS = 3 };

enum { PC_FUNCTION_BUCKETS = 1024, PC_LOST_WORKER_CLAIMS_MAX = 3 };

/* By their numbers, stubs' functions. */
enum { PC_STUB_PAGES = 64, PC_STUB_PAGE = 64 };

typedef struct pc_stub_page {
    _Atomic(const pycrew_function *) functions[PC_STUB_PAGE];
} pc_stub_page;

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
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t tail;       /* of the ring */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t prepare_waiters;
    _Atomic uint32_t inside; /* threads in a function of ours that may sleep */
    _Atomic uint32_t ending; /* 1: drains, 2: closes */
    _Atomic bool lost;       /* this process closed our descriptors: no worker can start any more */
    _Atomic uint32_t stale_count;
    uint32_t spare_calls;          /* lists; under lock */
    _Atomic uint32_t stale_calls;

    /* functions: insert only, so that look-ups need no lock */
    _Atomic(const pycrew_function *) functions[PC_FUNCTION_BUCKETS];
    uint32_t function_count; /* under lock */
    uint64_t function_pages[PC_FUNCTION_PAGES]; /* what the header was told; under lock */
    _Atomic(pc_stub_page *) stub_pages[PC_STUB_PAGES]; /* made when first needed, kept until close */

    pthread_mutex_t heap_lock;
    _Atomic uint64_t outcomes[PC_OUTCOMES]; /* see stats.c */
    pc_heap heap;
    pc_span_view *span_views;
    uint32_t *orphan_leases; /* by span: of dead incarnations; under heap_lock */
    pc_lease_node *lease_nodes; /* under heap_lock */
    pc_arrays *arrays;
    _Atomic(pc_exports *) exports; /* NULL until the first export; set under lock */
    unsigned export_threads;
    _Atomic bool given_back; /* much, to workers: the supervisor is to see that it becomes free */
    int64_t next_give_back;  /* when it looks */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a call was freed, a worker's state changed, ... */
    uint32_t *deadlines;    /* a heap of call indices, from 1 */
    uint32_t deadline_count;
    uint32_t *commands;     /* calls that are to be stopped */
    uint32_t command_count;
    int64_t next_look;      /* when the supervisor will look at the deadlines */
    bool rebuilding;        /* the ring is closed, the workers are ended */

    /* what made somebody distrust the segment, or NULL; and whether somebody asks for an audit */
    _Atomic(const char *) distrusted;
    _Atomic bool suspected;

    pc_host_worker *crew_workers; /* of each place the process, then of each place its successor */
    unsigned processes;           /* how many: twice the places */
    pycrew_queue *queues;   /* by number; 0 is the supervisor's */
    pycrew_batch *batches;  /* open ones; under lock */
    pycrew_actor *actors;   /* open ones; under lock */
    _Atomic unsigned next_actor; /* where the search for its worker begins */

    /* the supervisor's */
    pthread_t supervisor;
    bool supervising;
    pc_zygote zygotes[PC_ZYGOTES];
    pc_zygote *zygote;  /* that forks; the other one is to be its successor, or has been it */
    pc_reload reload;
    int fault_fd;
    char *text; /* a message's */
    uint32_t alive;         /* workers admitted: what the header is told */
    int64_t audited;        /* when the last audit was */
    int64_t looked;         /* when the calls with a deadline were looked at */
    bool all_dead;          /* in a rebuild, */
    int64_t settling_since; /* and since when */
    struct pollfd *polls;
    uint64_t oom_kills;
    int ready_code;     /* 1: a worker is ready; negative: cannot start; under lock */
    pc_error start_error;
    unsigned start_failures; /* in a row, with no worker ready, */
    int64_t failing_since;   /* and when the first was */

    /* options, copied */
    char **path, **env, **preload;
    char *python, *init, *exit, *loop;
    char *engine, *engine_options; /* engine.c; NULL: calls run in the workers */
    unsigned inflight;
    int output;
    uint64_t max_calls_per_worker, max_worker_rss;
    int nice;
    int64_t limits[PC_LIMITS];
    unsigned *cpus; /* that the workers may use; NULL: all that the host may */
    unsigned cpu_count;
    bool one_cpu; /* each uses one of them */
    bool debug;
    int64_t start_timeout_ns;
    void (*log)(void *data, int level, const char *line);
    void *log_data;
    pc_trace *trace; /* NULL: none */
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

/* Around all in which a thread may sleep, up to the last touch of anything of the crew's: close
 * frees it when nobody is inside. */
static inline void pc_crew_enter(pycrew_crew *crew)
{
    atomic_fetch_add_explicit(&crew->inside, 1, memory_order_acq_rel);
}

static inline void pc_crew_leave(pycrew_crew *crew)
{
    atomic_fetch_sub_explicit(&crew->inside, 1, memory_order_acq_rel);
}

void pc_crew_log(pycrew_crew *crew, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Why no call is taken any more: -ESHUTDOWN, or PYCREW_ESTART where the descriptors are lost. */
int pc_crew_refuse(const pycrew_crew *crew);

/* Makes the supervisor look around. */
void pc_crew_kick(pycrew_crew *crew);

/* The descriptors are not ours any more, by closefrom(3): their numbers may be somebody's, so they
 * are not closed. */
void pc_crew_forget_descriptors(pycrew_crew *crew);

/* ---- stub.c ---- */

void pc_stubs_free(pycrew_crew *crew);
void pc_call_memory_free(pycrew_call *call);

/* ---- engine.c: calls that run somewhere else ---- */

/* Where no engine is given, the one that the environment names. */
void pc_engine_from_environment(pycrew_options *o);

int pc_engine_check(const pycrew_options *o);

/* -ENOTSUP with an engine, for what that does not have; else 0. */
int pc_engine_refuse(const pycrew_crew *crew, const char *feature);

/* Whether a chunk was a task, all of whose items may have run though none has ended. */
bool pc_engine_may_have_run(const pycrew_call *call);

/* How often the bridge gives a call's task again that a machine was lost with; 0 without an engine. */
unsigned pc_engine_retries(const pycrew_call *call);

/* How long a worker may take to leave: an engine's machines are to be told that it does, and the ranks of an
 * MPI job to end. */
int64_t pc_engine_leaving_ns(const pycrew_crew *crew);

/* How many calls or chunks run at a time: the workers, or what the bridge says of its engine. */
unsigned pc_engine_width(const pycrew_crew *crew);

/* ---- limits.c: what each worker may use ---- */

int pc_limits_check(const pycrew_options *options);
int pc_limits_take(pycrew_crew *crew, const pycrew_options *options);
void pc_limits_free(pycrew_crew *crew);

/* ---- function.c ---- */

int pc_function_check_name(const char *name); /* 0, or -EINVAL: "module:name" is malformed */
void pc_functions_free(pycrew_crew *crew);

/* What a worker says that it is: a hint. */
enum pc_function_kind pc_function_kind(const pycrew_crew *crew, const pycrew_function *f);

/* Under crew->lock: whether the segment has of the functions what it was told; tells it again. */
bool pc_functions_intact(const pycrew_crew *crew);
void pc_functions_restore(pycrew_crew *crew);

/* ---- memory.c: the host's heap, and leases on the workers' ---- */

int pc_memory_alloc(pycrew_crew *crew, size_t size, uint64_t *ret);
void pc_memory_free(pycrew_crew *crew, uint64_t block);
size_t pc_memory_size(pycrew_crew *crew, uint64_t block);

/* Leases [block, block + size) of a worker's incarnation if that lives and the block is there to be
 * read: sets *ret under that worker's lock. */
bool pc_lease_take(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t block,
                   uint64_t size, pc_lease *ret);

/* Gives a leased block back and clears *lease. */
void pc_lease_end(pycrew_crew *crew, pc_lease *lease);

/* The same with a place of its own in the crew's list; cell is 8 bytes of that worker's too. */
bool pc_lease_keep(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t block,
                   uint64_t size, uint64_t cell, pc_lease_node *ret);
void pc_lease_drop(pycrew_crew *crew, pc_lease_node *node);

/* The supervisor: wakes workers that sleep on memory that they were given back. When it is to look next. */
int64_t pc_memory_run(pycrew_crew *crew, int64_t now);

/* The sweep: frees the dead worker's spans, those without leases now. */
void pc_lease_orphan(pycrew_crew *crew, unsigned worker);

/* Whether each span's owner is one that it can have. */
bool pc_memory_intact(pycrew_crew *crew);

/* All workers are dead: each span is the host's, or kept for a lease, or free, whatever the segment
 * says. */
void pc_memory_restore(pycrew_crew *crew);

/* ---- call.c ---- */

/* Copies a call's end out of its slot, if it has ended; phase is ENDED then. */
bool pc_call_collect(pycrew_call *call);

/* Sleeps until collected (true), or the time. Between pc_crew_enter and pc_crew_leave, as all that
 * sleeps. */
bool pc_call_await(pycrew_call *call, int64_t until);
int pc_call_fail_locked(const pycrew_call *call); /* -EDEADLK: it came back before its time */

/* As pycrew_wait, between pc_crew_enter and pc_crew_leave. */
int pc_call_wait(pycrew_call *call, int64_t timeout_ns);

/* A new call, its builder over the slot; without function. As pycrew_prepare. */
int pc_call_prepare(pycrew_crew *crew, int64_t timeout_ns, pycrew_call **ret);

/* Whether this thread holds every call there is: then waiting for one would be for ever. waited: in
 * vain, for a while. */
bool pc_call_holds_all(const pycrew_crew *crew, bool waited);

/* An ended call that is kept for its result alone: another one is free in its place. False: it has
 * been replaced before, or there is no spare. */
bool pc_call_replace(pycrew_call *call);

/* A name for this thread. */
const void *pc_this_thread(void);

/* Writes what the slot is told of the call, but for its arguments. */
void pc_call_fill_request(pycrew_call *call);

/* Publishes an unlocked call that is IN_FLIGHT; or leaves that to the end of a rebuild. */
void pc_call_enqueue(pycrew_call *call);

/* Under crew->lock: the same. */
void pc_call_enqueue_locked(pycrew_call *call);

/* A call that takes long: is all well with its slot and its place in the ring? True: it is queued; if
 * workers sleep, a hint was wrong: pc_idle_wake_all. */
bool pc_call_look(pycrew_call *call);

/* Under crew->lock. Ends a call without a look at its slot, where nothing is left to go by.
 * False: somebody is collecting it at this moment. */
bool pc_call_end_regardless(pycrew_call *call, int code, const char *message, bool may_have_run);

/* Whether it has ended, collected or not. */
bool pc_call_has_ended(const pycrew_call *call);

/* Gives an ended or never submitted call back. */
void pc_call_reclaim(pycrew_call *call);

/* The same, and prepares it for its next life: directed, or to be released without a submit. */
void pc_call_renew(pycrew_call *call);

/* What a call is beyond a plain one. */
static inline enum pc_request_kind pc_call_kind(const pycrew_call *call)
{
    return (enum pc_request_kind)(call->flags & PC_REQUEST_KIND);
}

static inline uint64_t pc_call_object(const pycrew_call *call) /* what it makes is kept under this */
{
    return (uint64_t)call->generation << 32 | call->index;
}

/* Makes a prepared call one of a kind for an object: its first argument, which does not count. */
int pc_call_set_object(pycrew_call *call, enum pc_request_kind kind, uint64_t object);

/* Nobody waits for it any more: it ends if it is queued, and has the grace if it runs. */
void pc_call_let_go(pycrew_call *call);

/* Submits a prepared DROP for that worker: nobody waits for it, and it is not cancelled, but from its
 * beginning it has the grace. The crew may drain. */
void pc_call_drop(pycrew_call *call, unsigned worker, unsigned incarnation);

/* Under crew->lock. Ends a call that no worker owns (queued), or whose owner's death is confirmed,
 * with this code; error has the texts and how the owner died (ignored where code is 0). word is
 * what it was seen as.
 * False: its word has changed. */
bool pc_call_end_by_host(pycrew_call *call, uint64_t word, int code, const pc_error *error);

/* The code for what a worker wrote. */
int pc_call_code_of(const pycrew_call *call, uint32_t kind);

int pc_call_stop_code(enum pc_stop why); /* -ETIMEDOUT or -ECANCELED */
unsigned pc_call_attempts(const pycrew_call *call); /* deaths so far */
int pc_call_fail_after_run(const pycrew_call *call, int code); /* what was asked of its result failed */

/* An error from the texts a worker wrote. */
void pc_call_set_fault(const pycrew_call *call, pc_error *error, uint32_t kind, bool ran,
                       pc_cursor message);

/* Tells who waits, by the private record. */
void pc_call_tell(pycrew_call *call);

/* Under crew->lock: stops a call: ends it if it is queued, else leaves it to the ladder (the
 * supervisor is told). 0, or -EALREADY. */
int pc_call_stop(pycrew_call *call, enum pc_stop why);

/* Under crew->lock. Queues a dead worker's call again. False: its word has changed, as nothing of
 * ours changes it. */
bool pc_call_requeue(pycrew_call *call, uint64_t word);

/* Makes the end post that slot's semaphore, which is the caller's. False: it has ended. (True also
 * where its slot could not be told: for whom waits looks again each 100 ms.) */
bool pc_call_publish_sleeper(pycrew_call *call, uint32_t sleeper);

/* Supervisor: gives back the ended calls that were released before. */
void pc_call_reclaim_released(pycrew_crew *crew);

/* ---- direct.c: calls for one incarnation of a worker ---- */

/* Sees that worker can be sent calls: 0 and its present incarnation; -EAGAIN: none of its processes is
 * ready; -ENOMEM. */
int pc_direct_find(pycrew_crew *crew, unsigned worker, unsigned *incarnation);

/* Before submit: the call is for that one alone. Where it has ended by then, so does the call. */
void pc_direct_address(pycrew_call *call, unsigned worker, unsigned incarnation);

/* As pc_call_enqueue and pc_call_enqueue_locked. */
void pc_direct_enqueue(pycrew_call *call);
void pc_direct_enqueue_locked(pycrew_call *call);

/* Opens a worker's inbox when it is admitted; closes it when it is dead (death says how) or about to
 * be; empties it before the next one is forked. What is submitted from the closing on ends at once. */
void pc_direct_open(pycrew_crew *crew, unsigned worker);
void pc_direct_close(pycrew_crew *crew, unsigned worker, const pc_death *death);
void pc_direct_reset(pycrew_crew *crew, unsigned worker);

/* What is wrong with a queued call's place in its inbox, or with an inbox; NULL: nothing. */
const char *pc_direct_audit(pycrew_call *call);
const char *pc_direct_audit_inboxes(pycrew_crew *crew);

/* The worker that has fewest actors, which has one more now. Waits for one to be ready: -ETIME,
 * PYCREW_ESTART, -ESHUTDOWN. */
int pc_direct_choose(pycrew_crew *crew, int64_t until, unsigned *worker, unsigned *incarnation);
void pc_direct_unchoose(pycrew_crew *crew, unsigned worker, unsigned incarnation);

/* Waits for a change of the workers: 0; -ETIME; PYCREW_ESTART: that one (-1: any) cannot be started;
 * -ESHUTDOWN. */
int pc_direct_await(pycrew_crew *crew, int worker, int64_t until);

/* ---- stream.c ---- */

void pc_stream_free(pycrew_call *call); /* the record, at the crew's end */
void pc_stream_submitted(pycrew_call *call); /* a call with a stream is about to be */

/* A call with a stream was announced in this queue: what is to be delivered, or NULL. */
pycrew_call *pc_stream_reap(pycrew_call *announced, pycrew_queue *queue);

/* As pc_call_look, at what the stream waits for. */
bool pc_stream_look(pycrew_call *call);

pycrew_queue *pc_stream_queue(const pycrew_call *item); /* where its end is announced, or NULL */
pycrew_call *pc_stream_item(const pycrew_call *call);   /* whose result is the present item, or NULL */
int pc_stream_cancel(pycrew_call *call);
void pc_stream_release(pycrew_call *call);

/* The supervisor, of a call that was released before its end: if it has left an iterator in a worker, the
 * call drops that now, and true. */
bool pc_stream_dispose(pycrew_call *call);

/* ---- actor.c ---- */

void pc_actors_free(pycrew_crew *crew); /* those that are open when the crew closes */

/* ---- run.c ---- */

/* Submits, waits, and reads the result; the call is the caller's to release. */
int pc_run_finish(pycrew_call *call, const char *result, va_list *arguments);

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
    uint64_t shape;      /* of the items, if they are records */
    size_t bytes;        /* of their arguments and table */
    _Atomic uint32_t begin; /* those before have their end in saved; the supervisor may read it at any time */
    uint32_t finished;   /* from ENDED on: those from begin have their end in the table */
    int64_t busy_ns;     /* what they took, or -1 */
    _Atomic uint32_t overdue; /* the item whose deadline passed, before anyone cancelled; UINT32_MAX: none */
    unsigned retries;
    bool urgent;         /* it is to run at least one item, though memory is short */
    bool yielded;        /* from ENDED on: it stopped where memory was short */
    uint32_t out;        /* items that were handed out before the rest ran */
    size_t result_bytes; /* of the blocks that results of the last run are in */
    uint32_t blamed;     /* the item that last died, and how often */
    unsigned blamed_deaths;
    unsigned idle_deaths; /* deaths in a row with nothing started */
    unsigned beside_deaths; /* of blamed_deaths, those that are not charged: of another call's worker */
    _Atomic bool cancelled; /* by the batch: what shared->cancel was told */
    uint64_t seen_progress; /* at the last look, under crew->lock, */
    int64_t seen_since;     /* and since when; 0: never */
    uint32_t *offsets;   /* of each item's arguments, unless they are records */
    uint32_t offset_capacity;
    pc_saved *saved;     /* count of them, or NULL */

    /* of a map's chunk */
    uint32_t kind, flags; /* enum pc_chunk_kind; PC_CHUNK_STOPS, ... */
    uint32_t columns;     /* of ELEMENTS: where they are in shared */
    pc_map *map;          /* NULL once it has ended; under crew->lock for the supervisor */
    int32_t *codes;       /* of each item, 0 unless it failed; NULL: none has */
    uint32_t failures;    /* how many have, */
    uint32_t fault_item;  /* the first of them, UINT32_MAX: none, */
    pc_error fault;       /* and why */
    bool unfound;         /* one did because there is no such function */

    pc_lease leases[PC_CHUNK_BLOCKS];
    unsigned lease_count;
};

/* Makes a prepared call an empty chunk. */
int pc_chunk_init(pycrew_call *call, pycrew_batch *batch, uint64_t first, unsigned retries);

/* Lays out the table and submits. */
int pc_chunk_submit(pycrew_call *call);

/* An ended chunk of which a part did not run: queues the rest again. urgent: at least one item of it
 * is to run. */
void pc_chunk_resubmit(pycrew_call *call, bool urgent);

/* Of such a chunk, the results so far: they are not asked for any more. */
void pc_chunk_forget_results(pycrew_call *call);

/* Gives all items from `from` on this error. 0 or -ENOMEM. */
void pc_chunk_fail_rest(pycrew_call *call, uint32_t from, const pc_error *error);

/* An ended chunk's table, if the ends of all its items stand there; else NULL. */
const volatile pc_chunk_result *pc_chunk_table(const pycrew_call *call);

/* An ended chunk's item: its value as a message (small: two words to copy it to), or NULL error. */
pc_cursor pc_chunk_value(pycrew_call *call, uint32_t item, uint64_t small[2], const pycrew_error **error,
                         pc_error *space);

/* Copies a chunk's end: its progress, and leases on what it refers to. flags: the answer's. */
void pc_chunk_collect(pycrew_call *call, unsigned worker, unsigned incarnation, uint32_t flags);

/* Tells the worker to start no further item. Under crew->lock. */
void pc_chunk_cancel(pycrew_call *call);

/* Under crew->lock, after the death of worker, which owned the chunk: keeps what is finished,
 * blames the started item; beside: that died of another call. True: the rest is to be queued again; false: nothing is left, and the
 * call is to be ended with 0. */
bool pc_chunk_sweep(pycrew_call *call, unsigned worker, bool beside, const pc_error *error);

/* Gives back what it leases. */
void pc_chunk_end_leases(pycrew_call *call);

void pc_chunk_discard(pycrew_call *call); /* what the call holds; the record is kept, */
void pc_chunk_free(pycrew_call *call);    /* until here */

enum pc_overdue {
    PC_OVERDUE_NOT,
    PC_OVERDUE_ITEM, /* the one that runs is past its own deadline */
    PC_OVERDUE_STUCK /* none runs, and none has been started for longer than an item may take */
};

/* Under crew->lock. Which item runs, and whether that is past its own deadline; if not, when to look
 * again. */
enum pc_overdue pc_chunk_overdue(pycrew_call *call, uint32_t *item, int64_t *look);

/* Sets DOOMED for this item. False: it has ended. */
bool pc_chunk_doom(pycrew_call *call, uint32_t item);

/* Whether DOOMED is to be set for the call instead: no item of it has a deadline of its own. */
bool pc_chunk_is_doomed_whole(const pycrew_call *call);

/* ---- batch.c ---- */

/* Those that are open when the crew closes. */
void pc_batches_free(pycrew_crew *crew);

/* Under crew->lock: a worker died on one of the batch's items. */
void pc_batch_count_death(pycrew_batch *batch, bool retried);

/* ---- map.c ---- */

/* The same for a map. */
void pc_map_count_death(pc_map *map, bool retried);

/* ---- queue.c ---- */

int pc_queues_init(pycrew_crew *crew);
void pc_queues_free(pycrew_crew *crew);
void pc_queue_enter(pycrew_call *call, pycrew_queue *queue); /* it is to appear there; NULL: nowhere */
bool pc_queue_leave(pycrew_call *call); /* not any more; false: it was not to */
bool pc_queue_is_ours(const pycrew_queue *queue); /* its descriptor */
bool pc_queue_write(pycrew_queue *queue); /* makes its descriptor readable, if that is ours */
int pc_queue_send(pycrew_crew *crew, unsigned queue, int lifeline); /* to a worker */
#define PC_EVENTFD_UNKNOWN UINT64_MAX
uint64_t pc_eventfd_id(int fd); /* 0: it is no eventfd; PC_EVENTFD_UNKNOWN: that cannot be seen now */

/* ---- deadline.c: a heap of calls by deadline; under crew->lock ---- */

void pc_deadline_add(pycrew_call *call);
void pc_deadline_remove(pycrew_call *call);
pycrew_call *pc_deadline_first(pycrew_crew *crew); /* or NULL */

/* ---- supervisor.c ---- */

/* What EAGAIN means where a thread or a process is started. */
#define PC_FEW_PROCESSES " (RLIMIT_NPROC, or the pids.max of a cgroup)"

int pc_supervisor_start(pycrew_crew *crew);
void pc_supervisor_stop(pycrew_crew *crew);
void pc_worker_kill(pc_host_worker *w); /* more of it: supervisor.h */
bool pc_worker_owns_a_call(const pycrew_crew *crew, unsigned worker);

/* ---- show.c ---- */

/* The supervisor: writes what an onlooker is to know of each worker, where that has changed. */
void pc_show_workers(pycrew_crew *crew);

/* ---- stats.c ---- */

/* Under crew->lock, before a dead worker's record is used again: keeps what it has counted. */
void pc_stats_keep(pycrew_crew *crew, unsigned worker, bool planned);

/* Counts ends that are not returns (by their code), and calls that run again. */
void pc_stats_count(pycrew_crew *crew, enum pc_outcome outcome, uint64_t count);
void pc_stats_count_failures(pycrew_crew *crew, int code, uint64_t count);

/* For the rebuild, while no worker lives: histograms begin anew, since they may be anything. */
void pc_stats_restore(pycrew_crew *crew);

/* ---- latency.c ---- */

/* Of one worker, or of all (worker < 0). */
void pc_latency_sum(const pycrew_crew *crew, enum pc_time interval, int worker,
                    pc_histogram_sum *ret);
pycrew_latency pc_latency_describe(const pycrew_crew *crew, enum pc_time interval);

/* ---- spawn.c ---- */

#define PC_LOST_TEXT                                                                               \
    "this process has closed the crew's descriptors; close the crew and open another"

/* A new pidfd of this process if it is that one, else -1. */
int pc_pidfd_of(int pid, unsigned long long start_time);

/* Whether its process has ended. A poll that fails says nothing: it is asked again, since the supervisor
 * looks once, when both the pidfd and the zygote have told. */
bool pc_pidfd_is_dead(int pidfd);

/* The program's path. */
const char *pc_worker_path(void);

/* Starts the worker program as a zygote: its PID, pidfd, control socket and output (or -1). The
 * last error is set on failure. */
int pc_spawn_zygote(pycrew_crew *crew, pc_zygote *zygote);

/* ---- rebuild.c: the segment holds what nobody of ours wrote ---- */

/* Any thread: what says that it does. The supervisor ends the workers and makes it anew. */
void pc_crew_distrust(pycrew_crew *crew, const char *what);

/* Any thread: something is odd, and can come of a scribble. The supervisor looks at all of it. */
void pc_crew_suspect(pycrew_crew *crew);

/* What is wrong with a call that was submitted and has not ended, or NULL. */
const char *pc_call_audit(pycrew_call *call);

/* Supervisor: all of the segment that the host can tell about: what is wrong, or NULL. */
const char *pc_crew_audit(pycrew_crew *crew);

/* Supervisor: begins or goes on with a rebuild, if there is cause; gives when to come again. */
int64_t pc_rebuild_run(pycrew_crew *crew, int64_t now);

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
