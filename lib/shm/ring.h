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

/* The first ticket: not 0, or the zeroed entries of a new segment would be taken for the first. */
static inline uint32_t pc_ring_first_ticket(const pc_segment *segment)
{
    return segment->config.slots;
}

/* Host: sets up the head of a new or emptied ring. */
void pc_ring_reset(pc_segment *segment);

/* Host: a place in the queue; tail is the host's private one. */
static inline uint32_t pc_ring_take_ticket(_Atomic uint32_t *tail)
{
    return atomic_fetch_add_explicit(tail, 1, memory_order_relaxed);
}

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

/* Worker: claims the next call. True: *slot is its, *word its control word. */
bool pc_ring_claim(pc_segment *segment, unsigned worker, unsigned incarnation, uint32_t *slot,
                   uint64_t *word);

#endif
