/* upcall: a worker's Python code asks the host: request, answer, and who may touch what when.
 *
 * Overview. Each worker has PC_UPCALLS records, one for each of its threads that asks at a time. A
 * record has two halves, each written by one side alone: the request (the worker's) and the answer
 * (the host's). Small arguments and answers stand in the record, larger ones in a block: of the
 * worker's heap, which the host leases and gives back, or of the host's, which the host frees.
 *
 *   request    the sequence number of the last request; stored when the rest of this half is
 * written answer     the number of the last request that was answered; the same for that half
 *   released   the number of the last request whose answer nobody looks at, any more or ever
 *
 *   worker: request = n          host: runs it       host: answer = n        worker: released = n
 *                        '------> worker: released = n (it was interrupted) --'
 *
 * The next request, n + 1, may be stored when answer == released == n. So a late answer is to a
 * number that nobody waits for, and no half is written while the other side reads it.
 *
 * A worker that has a request sets its bit in the header, fences, and if the host's listener is
 * armed, wakes it: one thread of the host, which sleeps on a word of the header.
 *
 * Why it is correct. Every word has one writer, so nothing can be lost between two of them; what is
 * taken and by whom is in the host's private records, which are checked against the words. Pairs U1
 * (fence after the bit | fence after `armed`) are those of announce.h: either the announcer sees
 * the listener armed, or the listener's last look sees the bit. Only the listener clears `armed`,
 * so an announcer that dies takes no wake of another's with it; and of itself, nobody waits. Pairs
 * U2 (fence after `released` | fence after `answer`): either the worker that gives up sees the
 * answer, and tells the host that its block is free, or the host sees that nobody waits, and frees
 * it at once.
 *
 * Scribblers. The listener sleeps without a time, for a crew that is idle costs nothing. But who
 * waits for an answer looks again each 100 ms, and announces again, waking whatever the words say:
 * so hints that were written over cost some time, and an answer that was is found by the host. The
 * sleep is on memory and not on a descriptor, since user code can close that, in the worker as in
 * the host. */
#ifndef PC_SHM_UPCALL_H
#define PC_SHM_UPCALL_H

#include "lib/shm/segment.h"

enum { PC_UPCALLS = 8, PC_UPCALL_ARGUMENTS = 96, PC_UPCALL_ANSWER = 104 };

/* The request for all that the host exports: a dict of names and numbers. */
#define PC_UPCALL_LIST UINT32_MAX

enum pc_upcall_kind {
    PC_UPCALL_VALUE = 1,  /* what the function returned: any number of values */
    PC_UPCALL_RAISED,     /* STR the exception's type, STR its text */
    PC_UPCALL_NO_MEMORY,  /* there was no memory for the answer: nothing follows */
    PC_UPCALL_NO_FUNCTION /* there is none of this number: nothing follows */
};

enum pc_upcall_flags {
    PC_UPCALL_BLOCKS = 1 /* the thread that asks is the one that runs calls */
};

typedef struct pc_upcall {
    /* the worker's half */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t request;
    _Atomic uint32_t released;
    uint32_t function;
    uint32_t flags; /* enum pc_upcall_flags */
    uint64_t arguments_block; /* segment offset; 0: here */
    uint64_t arguments_size;  /* bytes */
    uint8_t arguments[PC_UPCALL_ARGUMENTS];

    /* the host's */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t answer;
    uint32_t kind; /* enum pc_upcall_kind */
    uint64_t answer_block;
    uint64_t answer_size;
    uint8_t value[PC_UPCALL_ANSWER];

    _Alignas(PC_CACHE_LINE) sem_t semaphore; /* of the thread that waits, see sleeper.h */
} pc_upcall;

static_assert(sizeof(pc_upcall) == 5 * PC_CACHE_LINE, "an upcall's record is five cache lines");

static inline pc_upcall *pc_upcall_of(const pc_segment *segment, unsigned worker, unsigned place)
{
    return &segment->upcalls[worker * PC_UPCALLS + place];
}

/* Host: the records of a worker that is about to be forked. */
void pc_upcall_reset(const pc_segment *segment, unsigned worker);

/* ---- the worker's side ---- */

static inline void pc_upcall_publish(pc_upcall *upcall, uint32_t sequence)
{
    /* U0: pairs with pc_upcall_request */
    atomic_store_explicit(&upcall->request, sequence, memory_order_release);
}

static inline bool pc_upcall_is_answered(const pc_upcall *upcall, uint32_t sequence)
{
    /* U3: pairs with pc_upcall_answer */
    return atomic_load_explicit(&upcall->answer, memory_order_acquire) == sequence;
}

/* Nobody looks at the answer from here on. False: it is not there yet, and the record stays in use
 * until it is. */
static inline bool pc_upcall_release(pc_upcall *upcall, uint32_t sequence)
{
    atomic_store_explicit(&upcall->released, sequence, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst); /* U2: pairs with pc_upcall_answer */
    return pc_upcall_is_answered(upcall, sequence);
}

/* There is a request, or an answer's block was released. again: whatever the words say about the
 * listener. */
void pc_upcall_announce(const pc_segment *segment, unsigned worker, bool again);

/* ---- the host's side ---- */

static inline uint32_t pc_upcall_request(const pc_upcall *upcall)
{
    /* U0: acquires what the worker wrote before */
    return atomic_load_explicit(&upcall->request, memory_order_acquire);
}

static inline bool pc_upcall_is_released(const pc_upcall *upcall, uint32_t sequence)
{
    return atomic_load_explicit(&upcall->released, memory_order_acquire) == sequence;
}

/* The host's half is written. True: nobody waits for it. */
static inline bool pc_upcall_answer(pc_upcall *upcall, uint32_t sequence)
{
    atomic_store_explicit(&upcall->answer, sequence, memory_order_release); /* U3 */
    atomic_thread_fence(memory_order_seq_cst); /* U2: pairs with pc_upcall_release */
    return pc_upcall_is_released(upcall, sequence);
}

/* Listener: whether any bit is set; takes those of 64 workers. */
bool pc_upcall_is_pending(const pc_segment *segment);
uint64_t pc_upcall_take(const pc_segment *segment, unsigned word);

/* Listener: spins a little, where that takes no CPU from a worker, then sleeps until a bit is set,
 * or it is woken. stop: looked at before it sleeps. May return early. */
void pc_upcall_listen(const pc_segment *segment, const _Atomic bool *stop);
void pc_upcall_wake(const pc_segment *segment); /* wakes it, whatever the words say */

#endif
