#include "lib/shm/inbox.h"

#include <stdlib.h>

#include "lib/shm/heap.h"

/* How often a swap is tried anew: who loses it as often has a scribbler for company. */
enum { TRIES = 1000 };

static _Atomic uint64_t *place(const pc_segment *segment, uint64_t block, uint32_t ticket)
{
    _Atomic uint64_t *entries = pc_segment_at(segment, block);

    return &entries[ticket & (pc_inbox_entries(segment) - 1)];
}

static bool is_live(pc_segment *segment, uint64_t entry, uint64_t *word)
{
    uint32_t slot = (uint32_t)entry & (segment->config.slots - 1);

    *word = atomic_load_explicit(&segment->slots[slot].control, memory_order_acquire);
    return pc_word_state(*word) == PC_DIRECTED && pc_word_generation(*word) == entry >> 32;
}

static bool claim_entry(pc_segment *segment, uint64_t entry, unsigned worker, unsigned incarnation,
                        uint64_t *word)
{
    pc_slot *slot = &segment->slots[(uint32_t)entry & (segment->config.slots - 1)];

    /* Again while it is queued: a waiter that comes in between changes the word. */
    for (unsigned i = 0; i < TRIES && is_live(segment, entry, word); i++)
        if (pc_slot_claim(slot, word, worker, incarnation))
            return true;
    return false;
}

bool pc_inbox_claim(pc_segment *segment, unsigned worker, unsigned incarnation, uint32_t *slot,
                    uint64_t *word)
{
    pc_worker_record *record = &segment->workers[worker];
    uint64_t block = atomic_load_explicit(&record->inbox, memory_order_relaxed);

    if (!pc_segment_holds(segment, block, pc_inbox_size(segment)))
        abort(); /* scribbled over: there is no way on but the sweep after our death */
    /* Bounded: each turn passes an entry, unless the host has passed it. */
    for (uint32_t i = 0; i < 2 * pc_inbox_entries(segment); i++) {
        uint32_t head = atomic_load_explicit(&record->inbox_head, memory_order_acquire); /* B2 */
        uint64_t entry;
        bool won = false;

        if (atomic_load_explicit(&record->inbox_tail, memory_order_acquire) == head) /* B1 */
            return false;
        entry = atomic_load_explicit(place(segment, block, head), memory_order_acquire); /* B3 */
        if (atomic_load_explicit(&record->inbox_head, memory_order_relaxed) == head)
            won = claim_entry(segment, entry, worker, incarnation, word);
        atomic_compare_exchange_strong_explicit(&record->inbox_head, &head, head + 1,
                                                memory_order_release, memory_order_relaxed);
        *slot = (uint32_t)entry & (segment->config.slots - 1);
        if (won)
            return true;
    }
    return false;
}

void pc_inbox_reset(pc_segment *segment, unsigned worker, pc_inbox *inbox)
{
    pc_worker_record *record = &segment->workers[worker];

    inbox->head = inbox->tail = 0;
    atomic_store_explicit(&record->inbox, inbox->block, memory_order_relaxed);
    atomic_store_explicit(&record->inbox_head, 0, memory_order_relaxed);
    atomic_store_explicit(&record->inbox_tail, 0, memory_order_release);
}

/* B2: acquire, pairs with the worker's: what is written to an entry's place comes after its
 * reading. */
static uint32_t load_head(const pc_segment *segment, unsigned worker)
{
    return atomic_load_explicit(&segment->workers[worker].inbox_head, memory_order_acquire);
}

bool pc_inbox_is_long(const pc_segment *segment, unsigned worker, pc_inbox *inbox)
{
    if (inbox->tail - inbox->head < segment->config.slots)
        return false;
    inbox->head = load_head(segment, worker);
    return inbox->tail - inbox->head >= segment->config.slots;
}

static void append(pc_segment *segment, pc_inbox *inbox, uint64_t entry)
{
    /* B3: release, pairs with the worker's load: who reads this sees the head past what was there.
     */
    atomic_store_explicit(place(segment, inbox->block, inbox->tail++), entry, memory_order_release);
}

static void publish(pc_segment *segment, unsigned worker, const pc_inbox *inbox)
{
    /* B1: releases the entries, and the slot's DIRECTED, to pc_inbox_claim. */
    atomic_store_explicit(&segment->workers[worker].inbox_tail, inbox->tail, memory_order_release);
}

uint32_t pc_inbox_push(pc_segment *segment, unsigned worker, pc_inbox *inbox, uint32_t slot,
                       uint32_t generation)
{
    append(segment, inbox, pc_inbox_entry(slot, generation));
    publish(segment, worker, inbox);
    return inbox->tail - 1;
}

/* The worker may have come this far by itself, or be on its way. */
static void advance_head(pc_segment *segment, unsigned worker, uint32_t to)
{
    _Atomic uint32_t *shared = &segment->workers[worker].inbox_head;
    uint32_t head = atomic_load_explicit(shared, memory_order_relaxed);

    for (unsigned i = 0; i < TRIES && (int32_t)(to - head) > 0; i++)
        if (atomic_compare_exchange_weak_explicit(shared, &head, to, memory_order_acq_rel,
                                                  memory_order_relaxed))
            return;
}

void pc_inbox_renew(pc_segment *segment, unsigned worker, pc_inbox *inbox,
                    const pc_inbox_owner *owner)
{
    uint32_t head = load_head(segment, worker), end = inbox->tail;

    /* Bounded, whatever the head says: each slot is alive once at most. */
    if (end - head > pc_inbox_entries(segment))
        head = end - pc_inbox_entries(segment);
    for (uint32_t ticket = head; ticket != end && inbox->tail - end < segment->config.slots;
         ticket++) {
        uint64_t entry =
            atomic_load_explicit(place(segment, inbox->block, ticket), memory_order_relaxed);
        uint32_t slot = (uint32_t)entry & (segment->config.slots - 1);

        if (!owner->is_live(owner->data, slot, (uint32_t)(entry >> 32)))
            continue;
        owner->moved(owner->data, slot, inbox->tail);
        append(segment, inbox, pc_inbox_entry(slot, (uint32_t)(entry >> 32)));
    }
    publish(segment, worker, inbox);
    advance_head(segment, worker, end);
    inbox->head = load_head(segment, worker);
}

bool pc_inbox_holds(const pc_segment *segment, unsigned worker, const pc_inbox *inbox,
                    uint32_t ticket, uint32_t slot, uint32_t generation)
{
    return (int32_t)(ticket - load_head(segment, worker)) >= 0 &&
           (int32_t)(inbox->tail - ticket) > 0 &&
           atomic_load_explicit(place(segment, inbox->block, ticket), memory_order_relaxed) ==
               pc_inbox_entry(slot, generation);
}

bool pc_inbox_intact(const pc_segment *segment, unsigned worker, const pc_inbox *inbox)
{
    const pc_worker_record *record = &segment->workers[worker];

    return atomic_load(&record->inbox) == inbox->block &&
           atomic_load(&record->inbox_tail) == inbox->tail &&
           inbox->tail - atomic_load(&record->inbox_head) <= pc_inbox_entries(segment);
}
