/* slot: where a call stands in shared memory, from its filling to its end.
 *
 * Overview. A slot is four cache lines. The answer (control word and result) has one of its own
 * and so has the request (what to run, and its arguments): a small call costs one line each way.
 *
 *   line 0   control | result kind, block, size | result, first 32 bytes
 *   line 1   result, 32 bytes more | semaphore of the thread that waits
 *   line 2   function, entered, sleeper, queue, flags | arguments: block, size | first 32 bytes
 *   line 3   arguments, 56 bytes more | deadline
 *
 * The control word is 64 bits, and all of a call's ownership is in it:
 *
 *   63         32 31         20 19      8    7    6    3 2   0
 *   | generation | incarnation |  worker | DOOMED | WAITER | state |
 *
 *  FREE -------------> QUEUED -> CLAIMED(w) --> DONE(w) -> FREE, next generation
 *                       |          |  ^           ^
 *             cancel,   |          |  | w died    | w died, the function entered:
 *             deadline  +-> DONE   +--+ before    + DONE(host) with the error, or QUEUED
 *                          (host)    it entered     again where a retry is allowed
 *
 * DIRECTED is QUEUED for one worker alone (inbox.h); all that is said of QUEUED holds for it.
 *
 * FREE is not stored: a slot is free when the host's private record says so. Its word then is
 * DONE of an earlier generation (0 in a new segment), which nobody acts on; the first store of a
 * call's life is QUEUED. A store more would be a transfer of the line more.
 *
 * RUNNING(w) is CLAIMED(w) with entered == generation. It is a word of its own, in the request's
 * line, because the host polls the control word: a store there would cost a transfer in every
 * call. It is stored before anything that can run user code; a worker's stores are seen in order
 * after its death, so entered != generation proves that none ran.
 *
 * Who writes what. The host alone: QUEUED, and everything in lines 2 and 3 but entered, before
 * it stores QUEUED. The worker that owns the slot: entered, and the result, before
 * it stores DONE. Everything else is a compare-and-swap of the control word.
 *
 * Waiting and ending meet in the control word (pairs W): a waiter stores sleeper (or queue), then
 * advances WAITER by compare-and-swap; if that fails the call has ended. The worker loads the word,
 * then sleeper and queue, then swaps that very word to DONE; where it fails it loads all again.
 * So either the worker sees the waiter, or the waiter sees the end. Nothing of a slot is read
 * after DONE: its next life may have begun.
 *
 * DOOMED (set by the supervisor, by compare-and-swap) says: the owner will be killed. It can only
 * be set on a call that has not ended, and a worker that finds it never stores DONE and claims no
 * more; so a kill never hits another call.
 *
 * The generation is bumped when the host frees the slot; a word with another generation speaks of another call. Workers'
 * incarnations are there to be read in a dump: a slot owned by w is always owned by w's present
 * incarnation, since the sweep runs before the next one is admitted. */
#ifndef PC_SHM_SLOT_H
#define PC_SHM_SLOT_H

#include <assert.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PC_CACHE_LINE 64

enum pc_state {
    PC_FREE = 0, /* of a slot that was never used */
    PC_QUEUED = 1,
    PC_CLAIMED = 2,
    PC_DONE = 3,
    PC_DIRECTED = 4 /* queued, for one worker: see inbox.h */
};

#define PC_STATE_MASK UINT64_C(0x7)
/* How often sleeper or queue were changed after submit (skips 0 when it wraps): a count and not a
 * flag, or a change between two equal words would be missed (ABA). */
#define PC_WAITER_ONE (UINT64_C(1) << 3)
#define PC_WAITER_MASK (UINT64_C(0xf) << 3)
#define PC_FLAG_DOOMED (UINT64_C(1) << 7) /* the owner will be killed */
#define PC_WORKER_SHIFT 8
#define PC_WORKER_MASK UINT64_C(0xfff)
#define PC_WORKER_HOST 0xfffu /* in DONE: the host ended the call */
#define PC_INCARNATION_SHIFT 20
#define PC_INCARNATION_MASK UINT64_C(0xfff)
#define PC_GENERATION_SHIFT 32

enum { PC_WORKERS_MAX = 1024 };

static inline enum pc_state pc_word_state(uint64_t word)
{
    return (enum pc_state)(word & PC_STATE_MASK);
}

static inline bool pc_word_is_queued(uint64_t word)
{
    return pc_word_state(word) == PC_QUEUED || pc_word_state(word) == PC_DIRECTED;
}

static inline unsigned pc_word_worker(uint64_t word)
{
    return (unsigned)(word >> PC_WORKER_SHIFT & PC_WORKER_MASK);
}

static inline uint32_t pc_word_generation(uint64_t word)
{
    return (uint32_t)(word >> PC_GENERATION_SHIFT);
}

static inline uint64_t pc_word_of(uint32_t generation, enum pc_state state)
{
    return (uint64_t)generation << PC_GENERATION_SHIFT | state;
}

/* The word of the same call in the hands of a worker: keeps generation, WAITER and DOOMED. */
static inline uint64_t pc_word_owned(uint64_t word, enum pc_state state, unsigned worker,
                                     unsigned incarnation)
{
    uint64_t owner = (uint64_t)worker << PC_WORKER_SHIFT |
                     (incarnation & PC_INCARNATION_MASK) << PC_INCARNATION_SHIFT;

    return (word & ~(UINT64_C(0xffffff) << PC_WORKER_SHIFT) & ~PC_STATE_MASK) | owner | state;
}

enum pc_result_kind {
    PC_RESULT_VALUE = 1,     /* the function returned: one value */
    PC_RESULT_EXCEPTION,     /* it raised: STR type, STR message, STR traceback */
    PC_RESULT_INTERRUPTED,   /* by the host's interrupt: the same */
    PC_RESULT_BAD_ARGUMENT,  /* JSON that does not parse: the same; it was not entered */
    PC_RESULT_NO_FUNCTION,   /* import, look-up or unpickling raised: the same; it was not entered */
    PC_RESULT_BAD_TEXT,      /* it returned text that has no UTF-8 form: the same */
    PC_RESULT_NO_MEMORY,     /* no shared memory for the result: nothing follows */
    PC_RESULT_TOO_BIG,       /* the result can never fit: nothing follows */
    PC_RESULT_BAD_TYPE,      /* a map's: the result is not of the output's type: the same */
    PC_RESULT_BAD_RANGE,     /* the same: it is, and out of range */
    PC_RESULT_END,           /* a stream's: there is no further item: nothing follows */
    PC_RESULT_LOST,          /* an engine's: what ran it died: the same as of an exception, without type */
    PC_RESULT_BATCH          /* of a chunk: see batch.h */
};

enum pc_answer_flags { /* pc_slot.result_ran */
    PC_ANSWER_RAN = 1,      /* the function was entered; for errors */
    PC_ANSWER_RETAINED = 2, /* Python has views of the call's arguments left: cells say of which */
    PC_ANSWER_ARRAYS = 4,   /* there are arrays in the result */
    PC_ANSWER_RETURNED = 8  /* the host's own: it did return */
};

enum pc_request_flags {
    PC_REQUEST_JSON = 1,  /* encode the result as JSON */
    PC_REQUEST_BATCH = 2, /* the argument block is a chunk */
    PC_REQUEST_DEADLINE = 4, /* deadline is set */
    PC_REQUEST_TIMED = 8, /* a pc_time_mark (histogram.h) stands where the result will be */
    PC_REQUEST_KIND = 0x70,  /* enum pc_request_kind */
    PC_REQUEST_RETRIES = 0x7f00 /* an engine's: how often a task that was lost is given again */
};

enum { PC_REQUEST_RETRIES_SHIFT = 8 };

/* What is done with the function, where it is not just called. Objects that are kept are named by the
 * word of the call that made them, generation << 32 | slot: no two of a crew have the same. */
enum pc_request_kind {
    PC_KIND_KEEP = 0x10,   /* what it returns is kept; the answer is None */
    PC_KIND_STREAM = 0x20, /* the same, an iterator */
    PC_KIND_METHOD = 0x30, /* the last part of its name is a method; the first argument names the object */
    PC_KIND_NEXT = 0x40,   /* the next item of the iterator that the argument names */
    PC_KIND_DROP = 0x50    /* the object that the argument names is closed and kept no more */
};

enum { PC_INLINE_RESULT = 64, PC_INLINE_ARGUMENTS = 88 };

typedef struct pc_slot {
    /* line 0 and half of line 1: the answer */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t control;
    uint32_t result_kind;
    uint32_t result_ran;   /* enum pc_answer_flags */
    uint64_t result_block; /* segment offset; 0: inline */
    uint64_t result_size;  /* bytes */
    uint8_t result[PC_INLINE_RESULT];
    sem_t semaphore; /* see sleeper.h */

    /* lines 2 and 3: the request */
    _Alignas(PC_CACHE_LINE) uint32_t function;
    _Atomic uint32_t entered; /* == generation: RUNNING */
    _Atomic uint32_t sleeper; /* the slot whose semaphore is posted at the end, if WAITER */
    _Atomic uint16_t queue;   /* the queue it is announced in, or PC_QUEUE_NONE */
    uint16_t flags;
    uint64_t arguments_block; /* segment offset; 0: inline */
    uint64_t arguments_size;  /* bytes */
    uint8_t arguments[PC_INLINE_ARGUMENTS];
    int64_t deadline; /* CLOCK_MONOTONIC, for pycrew.deadline(); of a DROP: the time that it has */
} pc_slot;

#define PC_QUEUE_NONE 0xffffu
#define PC_QUEUE_SUPERVISOR 0u /* calls released before their end */
#define PC_SLEEPER_NONE UINT32_MAX

/* These lines are about to be written: fetched for ownership at once, a read first would cost a
 * second transfer. (gcc's __builtin_prefetch(p, 1) is a plain read prefetch on generic x86-64.) */
static inline void pc_prefetch_write(const void *line)
{
#if defined(__x86_64__)
    __asm__ __volatile__("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}

static_assert(sizeof(sem_t) == 32, "line 1 of a slot ends in a semaphore of 32 bytes");
static_assert(sizeof(pc_slot) == 4 * PC_CACHE_LINE, "a slot is four cache lines");
static_assert(offsetof(pc_slot, function) == 2 * PC_CACHE_LINE, "the request has its own lines");
static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2, "atomics must be lock-free");

/* Worker: takes a queued slot. word is what it was seen as; on success, what it is. */
static inline bool pc_slot_claim(pc_slot *slot, uint64_t *word, unsigned worker, unsigned incarnation)
{
    uint64_t owned = pc_word_owned(*word, PC_CLAIMED, worker, incarnation);

    /* S1: acquires what the host released in pc_slot_queue */
    if (!atomic_compare_exchange_strong_explicit(&slot->control, word, owned, memory_order_acquire,
                                                 memory_order_relaxed))
        return false;
    *word = owned;
    return true;
}

/* Host: makes a filled slot claimable. */
static inline void pc_slot_queue(pc_slot *slot, uint32_t generation)
{
    /* S1: pairs with the claim */
    atomic_store_explicit(&slot->control, pc_word_of(generation, PC_QUEUED), memory_order_release);
}

/* Host: the same for one worker. */
static inline void pc_slot_direct(pc_slot *slot, uint32_t generation)
{
    /* S1: pairs with the claim */
    atomic_store_explicit(&slot->control, pc_word_of(generation, PC_DIRECTED), memory_order_release);
}

/* Who is to be told of a call's end. */
typedef struct pc_ending {
    uint32_t sleeper; /* PC_SLEEPER_NONE: nobody sleeps */
    unsigned queue;
} pc_ending;

/* Worker: the owner ends the call, its result written. False: DOOMED; the caller waits for its
 * death. On true *ret says whom to tell, read before DONE. */
bool pc_slot_finish(pc_slot *slot, uint64_t word, pc_ending *ret);

/* Host: ends a call that nobody owns (QUEUED), or whose owner's death is confirmed. expected is
 * the word it was seen as. */
bool pc_slot_end_by_host(pc_slot *slot, uint64_t expected, pc_ending *ret);

/* Host: says that sleeper or queue were changed. False: the call has ended; or it is not in the slot
 * at all, because it is held back or the word was scribbled over. */
bool pc_slot_set_waiter(pc_slot *slot, uint32_t generation);

/* Host: sets DOOMED if the call is still owned by worker. */
bool pc_slot_doom(pc_slot *slot, uint32_t generation, unsigned worker);

#endif
