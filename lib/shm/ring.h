/* ring: the lock-free queue of slot numbers, from the host's threads to the workers.
 *
 * Overview. An entry is 64 bits: ticket (32), generation (12), slot (20). The tail is private to
 * the host: a thread takes a ticket by fetch-and-add and stores its entry at ticket modulo size.
 * The head is shared: an entry is there if its ticket is the head's. To claim is to swap the
 * *slot* from QUEUED to CLAIMED(w); only that makes the call w's. It is tried again while the slot
 * is QUEUED in that generation (a waiter changes the word, too). Then, won or lost, the head is
 * helped on. An entry whose slot is not QUEUED in that generation any more (cancelled, past its
 * deadline, claimed by a worker that died before it moved the head) is stale, and skipped.
 *
 * Usage. Host: pc_ring_take_ticket, pc_ring_push; pc_ring_passed before a slot is used again. Worker: pc_ring_claim;
 * pc_ring_ready, pc_ring_pending.
 *
 * Why it is correct. A slot has at most one entry ahead of the head: it is pushed only after its
 * last ticket was passed (pc_ring_passed; the sweep passes a dead claimant's entry before it pushes
 * the slot again). There are as many entries as slots, so the ring is never full and push never
 * waits. A worker that stalls between reading an entry and its swap may, after 4,096 lives of that
 * slot, claim a later life: the call is QUEUED all the same, so that is right, and the call's own
 * entry is then stale, maybe before it is pushed (so who pushes reads nothing of the call after
 * QUEUED). The same worker may claim a dead claimant's call that is queued again, by the entry it
 * had read; so the ticket of such a call is looked up at its release whoever ended it. A thread that stalls between its ticket and its entry makes the ring look
 * empty from there; when it goes on it wakes a worker for it (idle.h), which wakes one more for
 * what lies behind. Tickets are compared by equality, or as the signed difference of 32 bits. */
#ifndef PC_SHM_RING_H
#define PC_SHM_RING_H

#include "lib/shm/segment.h"

enum { PC_RING_SLOT_BITS = 20, PC_RING_GENERATION_BITS = 12 };

static inline uint64_t pc_ring_entry(uint32_t ticket, uint32_t slot, uint32_t generation)
{
    return (uint64_t)ticket << 32 |
           (uint64_t)(generation & ((1u << PC_RING_GENERATION_BITS) - 1)) << PC_RING_SLOT_BITS | slot;
}

static inline uint32_t pc_ring_entry_slot(uint64_t entry)
{
    return (uint32_t)entry & ((1u << PC_RING_SLOT_BITS) - 1);
}

static inline uint32_t pc_ring_entry_generation(uint64_t entry)
{
    return (uint32_t)entry >> PC_RING_SLOT_BITS;
}

/* The tail is 64 bits, of which the lower 32 are the next ticket. CLOSED in it says that the ring is
 * being made anew: a ticket that was taken then is none. Since both are one word, who closes the
 * ring knows by it all that are still on their way into it. */
#define PC_RING_CLOSED (UINT64_C(1) << 63)

/* The first ticket of a new segment. */
static inline uint32_t pc_ring_first_ticket(const pc_segment *segment)
{
    return segment->config.slots;
}

/* Host: an empty ring, whose next ticket is first: the entries are those of the lap before. */
void pc_ring_reset(pc_segment *segment, uint32_t first);

/* Host: a place in the queue; tail is the host's private one. False: it is closed. */
static inline bool pc_ring_take_ticket(_Atomic uint64_t *tail, uint32_t *ret)
{
    /* R3: releases the call's phase to who closes the ring */
    uint64_t ticket = atomic_fetch_add_explicit(tail, 1, memory_order_acq_rel);

    *ret = (uint32_t)ticket;
    return (ticket & PC_RING_CLOSED) == 0;
}

/* Host: closes the ring. R3: what those did who had a ticket before is seen from here on. */
static inline void pc_ring_close(_Atomic uint64_t *tail)
{
    atomic_fetch_or_explicit(tail, PC_RING_CLOSED, memory_order_acq_rel);
}

/* Host: makes a closed ring anew, and opens it. Tickets that were taken meanwhile are none, so it does
 * not matter that some of them come again. */
static inline void pc_ring_renew(pc_segment *segment, _Atomic uint64_t *tail)
{
    uint32_t first = (uint32_t)atomic_load_explicit(tail, memory_order_relaxed) +
                     segment->config.slots;

    pc_ring_reset(segment, first);
    atomic_store_explicit(tail, first, memory_order_release);
}

/* Host: whether head and entries are such as they can be. (An entry under way is none.) */
bool pc_ring_intact(const pc_segment *segment, _Atomic uint64_t *tail);

/* Host: what a look at a queued slot's place in the ring says. */
enum pc_ring_place {
    PC_RING_AHEAD,  /* its entry is there, and so is the one at the head */
    PC_RING_STUCK,  /* nothing is at the head: somebody is between ticket and entry, or it was
                     * scribbled over */
    PC_RING_NOWHERE /* its entry is not there, though it was pushed: scribbled over; or the slot is
                     * not queued any more */
};
enum pc_ring_place pc_ring_find(const pc_segment *segment, uint32_t ticket, uint32_t slot,
                                uint32_t generation);

/* Host: publishes a QUEUED slot under its ticket. The caller then wakes a worker:
 * pc_idle_wake_one. */
static inline void pc_ring_push(pc_segment *segment, uint32_t ticket, uint32_t slot,
                                uint32_t generation)
{
    /* R1: releases the slot's QUEUED to pc_ring_claim */
    atomic_store_explicit(&segment->ring[ticket & (segment->config.slots - 1)],
                          pc_ring_entry(ticket, slot, generation), memory_order_release);
}

/* Host: whether the head is past a ticket, helping it over stale entries. */
bool pc_ring_passed(pc_segment *segment, uint32_t ticket);

/* Whether a claimable entry is at the head; helps it over stale entries. */
bool pc_ring_ready(pc_segment *segment);

/* Whether there is an entry at the head, claimable or stale: a look at the ring alone. */
bool pc_ring_pending(pc_segment *segment);

/* Worker: the same, before it claims: the lines of the entry's slot are on their way then. */
bool pc_ring_await(pc_segment *segment);

/* Worker: claims the next call. True: *slot is its, *word its control word. */
bool pc_ring_claim(pc_segment *segment, unsigned worker, unsigned incarnation, uint32_t *slot,
                   uint64_t *word);

#endif
