/* segment: the shared memory of a crew, its layout, and how both sides map it.
 *
 * Overview. header | worker records | upcalls | queues | ring | span owners | stops | times | trace | slots | spans,
 * then a guard page that is never accessible (the host can read it: zeros, where a C string ends at the latest
 * that somebody wrote over). Counts are fixed when the host creates it; each side computes the
 * offsets from them alone. PC_LAYOUT_HASH speaks for every size and offset that both sides must
 * agree on; the worker shows its own before it is given the segment.
 *
 * Why it is correct. The name is unlinked before anything is stored, so whoever dies, the memory
 * goes with the last process that maps it; a name left by a death in between tells its owner, and
 * the next create removes it. The fixed part is reserved by posix_fallocate, and spans before they
 * are used (span.h), so no access is a SIGBUS. Where /dev/shm is missing, read-only or too small,
 * a memfd takes its place, which no mount's size bounds. */
#ifndef PC_SHM_SEGMENT_H
#define PC_SHM_SEGMENT_H

#include <sys/types.h>

#include "lib/shm/histogram.h"
#include "lib/shm/slot.h"

#define PC_SPAN_SIZE ((size_t)1 << 20)

/* How calls ended that did not return, and what ran again: the host counts. */
enum pc_outcome {
    PC_OUTCOME_RAISED = 0,
    PC_OUTCOME_DIED,
    PC_OUTCOME_TIMED_OUT,
    PC_OUTCOME_CANCELLED,
    PC_OUTCOME_FAILED,  /* otherwise: arguments, memory, types */
    PC_OUTCOME_RETRIED, /* no end: run again after a death */
    PC_OUTCOMES
};

enum { PC_FUNCTION_PAGES = 64, PC_FUNCTION_PAGE = 1024, PC_IDLE_WORDS = PC_WORKERS_MAX / 64 };

typedef struct pc_config {
    uint32_t slots; /* a power of two; the ring has as many entries */
    uint32_t workers;
    uint32_t queues; /* with the supervisor's, number 0 */
    uint32_t spans;
    uint32_t cpus;        /* that this process may use, for the spin policy */
    uint32_t host_pid;
    uint64_t spin_ns;     /* how long an idle worker spins before it sleeps */
    uint32_t trace;       /* events in each worker's ring, a power of two; 0: none are kept. See trace.h */
    uint32_t reserved;
} pc_config;

enum { PC_VERSION_SIZE = 24 };

typedef struct pc_header {
    /* These two stay where they are in every layout: an onlooker of another version names both. */
    uint64_t layout_hash;
    char version[PC_VERSION_SIZE];
    pc_config config;
    _Atomic uint32_t closing; /* workers end when idle */
    _Atomic uint32_t shortages; /* of memory, counted: see pc_idle_call_for_memory */
    _Atomic uint64_t function_pages[PC_FUNCTION_PAGES]; /* offsets of blocks of PC_FUNCTION_PAGE offsets */

    _Alignas(PC_CACHE_LINE) _Atomic uint32_t ring_head; /* see ring.h */

    /* See idle.h. */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t spinner; /* the worker that spins, plus 1 */
    _Atomic uint32_t alive;                           /* workers, a hint for the spin policy */
    _Atomic uint64_t idle[PC_IDLE_WORDS];             /* bit w: worker w sleeps or is about to */

    _Alignas(PC_CACHE_LINE) _Atomic uint32_t host_spinners; /* threads that spin for an end */

    /* See upcall.h. */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t upcall_wakes; /* what the host's listener sleeps on */
    _Atomic uint32_t upcall_armed;
    _Atomic uint32_t exports; /* functions that the host offers */
    _Atomic uint64_t upcalls[PC_IDLE_WORDS]; /* bit w: worker w has a request */

    /* A copy of the host's numbers, for who reads the segment from outside. */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t outcomes[PC_OUTCOMES];
} pc_header;

enum pc_stage { PC_STAGE_GONE = 0, PC_STAGE_STARTING, PC_STAGE_READY, PC_STAGE_LEAVING };

typedef struct pc_worker_record {
    _Alignas(PC_CACHE_LINE) sem_t semaphore;
    _Atomic uint32_t sleeps; /* how often it went to sleep */
    _Atomic uint32_t posted; /* the sleep it was last woken from */

    /* The host's word to onlookers (pycrew top), who have it from nowhere else; nobody decides by it. */
    _Atomic uint32_t pid; /* as the host sees it; 0: there is no process */
    _Atomic uint32_t incarnation;
    _Atomic uint32_t deaths;
    _Atomic uint32_t stage;   /* enum pc_stage */
    _Atomic int64_t admitted; /* CLOCK_MONOTONIC */

    /* The interrupt asked for: generation << 32 | slot, and the chunk's item. */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t interrupt;
    _Atomic uint32_t interrupt_item;

    /* Blocks given back to it: offset of the first, each with the next one's in its first 8 bytes. */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t returned;

    /* Calls for this worker alone: see inbox.h. The host writes the first line, the worker the other. */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t inbox; /* where its entries are */
    _Atomic uint32_t inbox_tail;
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t inbox_head;

    /* What the worker counts, for statistics; nobody else writes these while it lives. */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t calls; /* and items, that it ended, ... */
    _Atomic uint64_t errors;                        /* ... and those that did not return */
    /* How long it was idle, by the coarse clock: right on average, however short each time is. In one
     * word, so that no reader sees half a change: twice the nanoseconds; while it is idle, less the
     * time it began, and 1 more. */
    _Atomic int64_t idle;
    /* The host's word to the process of this incarnation: to end after its call. In this line, because
     * the worker has it at hand and the host writes it once in a worker's life. */
    _Atomic uint32_t leave;
    /* The call whose code runs, generation << 32 | slot, while it has several (coroutines); else
     * UINT64_MAX. So a death that is one call's is not blamed on those beside it. */
    _Atomic uint64_t running;
    _Atomic uint32_t width; /* a bridge's (options.engine): how many tasks run at a time; a hint */
} pc_worker_record;

/* A queue's bitmap of ended slots, and whether its reader sleeps. See announce.h. */
typedef struct pc_queue_record {
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t armed;
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t bits[];
} pc_queue_record;

/* What a worker found it to be. Who holds a call of a coroutine function may claim others beside it. */
enum pc_function_kind { /* each has the bits of those before it: who says more does not hide it */
    PC_FUNCTION_UNKNOWN = 0,
    PC_FUNCTION_PLAIN = 1,
    PC_FUNCTION_COROUTINE = 3
};

/* A function's block: the name, a NUL, and for functions from text the source and a NUL. */
typedef struct pc_function_block {
    uint32_t name_size;
    uint32_t has_source;
    uint64_t source_size;
    _Atomic uint32_t kind; /* enum pc_function_kind: the workers', a hint */
    _Atomic uint32_t sampling; /* which of its calls are timed: the workers', a hint; see histogram.h */
    char text[];
} pc_function_block;

/* One side's view. Everything in it is private to the process. */
typedef struct pc_segment {
    uint8_t *base;
    size_t size; /* mapped, without the guard page */
    int fd;      /* -1 once the worker closed it */
    dev_t device; /* what stands under it */
    ino_t inode;
    bool host;   /* this is the host's view: no word in the segment may hurt this process */
    pc_config config;
    pc_header *header;
    pc_worker_record *workers;
    struct pc_upcall *upcalls; /* PC_UPCALLS for each worker */
    uint8_t *queues;
    size_t queue_stride;
    _Atomic uint64_t *ring;
    _Atomic int64_t *submits; /* by slot: when it was queued; the host's. NULL: nothing is traced, as */
    uint8_t *traces;          /* the workers' rings of events, see trace.h; beside ring and slots, which each call
                                 has at hand */
    _Atomic uint32_t *span_owners;
    _Atomic uint32_t *stops; /* by slot: the generation that is to be stopped; the host's */
    pc_worker_times *times;  /* by worker; see histogram.h */
    pc_slot *slots;
    size_t spans_offset;
} pc_segment;

#define PC_LAYOUT_HASH                                                                             \
    (UINT64_C(0x70637265770027) ^ sizeof(pc_header) << 8 ^ sizeof(pc_worker_record) << 20 ^        \
     sizeof(pc_worker_times) << 36 ^                                                               \
     sizeof(pc_slot) << 32 ^ offsetof(pc_slot, function) << 44 ^ PC_SPAN_SIZE << 24 ^              \
     (uint64_t)PC_RESULT_BATCH << 60)

/* The bytes of the fixed part for these counts: what a memory cap must leave room for. */
size_t pc_segment_fixed_size(const pc_config *config);

/* Host: creates and maps it. prefer_memfd: /dev/shm has too little room. 0 or a negated errno
 * (-ENOMEM: no room for the fixed part). */
int pc_segment_create(pc_segment *ret, const pc_config *config, bool prefer_memfd);

/* The time a process started, in clock ticks since boot; 0: there is none. With the PID it names a
 * process. */
unsigned long long pc_process_start_time(long pid);

/* Host: removes names in /dev/shm that owners left behind who died while creating. */
void pc_segment_remove_leftovers(void);

/* Worker: maps what a host created. 0, -EPROTO or a negated errno. The descriptor stays open. */
int pc_segment_map(pc_segment *ret, int fd);

/* Onlooker: the header's counts are such as some host could have chosen, and add up to size bytes. */
bool pc_segment_is_likely(const pc_config *config, uint64_t size);

/* Onlooker: a segment whose memory is base, of pc_segment_fixed_size(config) bytes, where a copy of the
 * fixed part stands; of the spans there is none. */
void pc_segment_at_copy(pc_segment *ret, const pc_config *config, void *base);

/* Host: whether fd is still the segment, and not closed or something else. */
bool pc_segment_fd_is_ours(const pc_segment *segment);

void pc_segment_unmap(pc_segment *segment);

static inline pc_queue_record *pc_segment_queue(const pc_segment *segment, unsigned queue)
{
    return (pc_queue_record *)(void *)(segment->queues + queue * segment->queue_stride);
}

/* Host: writes again what of the header never changes, */
void pc_segment_restore(pc_segment *segment);

/* and whether that is still there. */
bool pc_segment_intact(const pc_segment *segment);

/* Host: whether all of [offset, offset + size) is there to be read: a hole, read on a full tmpfs,
 * would be SIGBUS. What was written to is, and stays until it is given back. */
bool pc_segment_readable(const pc_segment *segment, uint64_t offset, uint64_t size);

/* Whether [offset, offset + size) lies in the spans. */
static inline bool pc_segment_holds(const pc_segment *segment, uint64_t offset, uint64_t size)
{
    return offset >= segment->spans_offset && offset <= segment->size &&
           size <= segment->size - offset;
}

#endif
