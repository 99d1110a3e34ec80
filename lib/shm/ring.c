#include "lib/shm/ring.h"

void pc_ring_reset(pc_segment *segment)
{
    for (uint32_t i = 0; i < segment->config.slots; i++)
        atomic_store_explicit(&segment->ring[i], 0, memory_order_relaxed);
    atomic_store_explicit(&segment->header->ring_head, pc_ring_first_ticket(segment),
                          memory_order_release);
}

static void help_head(pc_segment *segment, uint32_t head)
{
    /* R2: release, pairs with the loads of the head: who sees the head past an entry sees what
     * became of its slot. */
    atomic_compare_exchange_strong_explicit(&segment->header->ring_head, &head, head + 1,
                                            memory_order_acq_rel, memory_order_relaxed);
}

/* The entry at the head: false if there is none yet. */
static bool look(pc_segment *segment, uint32_t *head, uint64_t *entry)
{
    for (;;) {
        *head = atomic_load_explicit(&segment->header->ring_head, memory_order_acquire);
        *entry = atomic_load_explicit(&segment->ring[*head & (segment->config.slots - 1)],
                                      memory_order_acquire); /* R1 */
        if ((uint32_t)(*entry >> 32) == *head)
            return true;
        /* A ticket of a later lap: the head has moved on since it was loaded. */
        if (atomic_load_explicit(&segment->header->ring_head, memory_order_relaxed) == *head)
            return false;
    }
}

/* Whether the entry's slot is still the call that was pushed, and queued. */
static bool is_live(pc_segment *segment, uint64_t entry, uint64_t *word)
{
    uint32_t generation_mask = (1u << PC_RING_GENERATION_BITS) - 1;
    uint32_t slot = pc_ring_entry_slot(entry) & (segment->config.slots - 1);

    *word = atomic_load_explicit(&segment->slots[slot].control, memory_order_acquire);
    return pc_word_state(*word) == PC_QUEUED &&
           (pc_word_generation(*word) & generation_mask) == pc_ring_entry_generation(entry);
}

bool pc_ring_ready(pc_segment *segment)
{
    /* Bounded: each turn passes an entry, and there are at most that many. */
    for (uint32_t i = 0; i <= segment->config.slots; i++) {
        uint32_t head;
        uint64_t entry, word;

        if (!look(segment, &head, &entry))
            return false;
        if (is_live(segment, entry, &word))
            return true;
        help_head(segment, head);
    }
    return true;
}

bool pc_ring_pending(pc_segment *segment)
{
    uint32_t head;
    uint64_t entry;

    return look(segment, &head, &entry);
}

bool pc_ring_passed(pc_segment *segment, uint32_t ticket)
{
    uint32_t head = atomic_load_explicit(&segment->header->ring_head, memory_order_acquire);

    if ((int32_t)(head - ticket) > 0)
        return true;
    pc_ring_ready(segment);
    head = atomic_load_explicit(&segment->header->ring_head, memory_order_acquire);
    return (int32_t)(head - ticket) > 0;
}

/* The lines of the slots behind the head are on their way while this call runs. */
static void prefetch(pc_segment *segment, uint32_t ticket)
{
    uint64_t entry = atomic_load_explicit(&segment->ring[ticket & (segment->config.slots - 1)],
                                          memory_order_relaxed);
    pc_slot *slot = &segment->slots[pc_ring_entry_slot(entry) & (segment->config.slots - 1)];

    if ((uint32_t)(entry >> 32) != ticket)
        return;
    pc_prefetch_write(&slot->control);
    pc_prefetch_write(&slot->function);
}

bool pc_ring_claim(pc_segment *segment, unsigned worker, unsigned incarnation, uint32_t *slot,
                   uint64_t *word)
{
    for (uint32_t i = 0; i <= segment->config.slots; i++) {
        uint32_t head;
        uint64_t entry;
        bool won;

        if (!look(segment, &head, &entry))
            return false;
        *slot = pc_ring_entry_slot(entry) & (segment->config.slots - 1);
        pc_prefetch_write(&segment->slots[*slot].control);
        pc_prefetch_write(&segment->slots[*slot].function);
        /* Again while it is queued: a waiter that comes between the look and the swap changes the
         * word, and to pass the entry then would be to lose the call. */
        while ((won = is_live(segment, entry, word)) &&
               !pc_slot_claim(&segment->slots[*slot], word, worker, incarnation))
            continue;
        help_head(segment, head);
        if (won) {
            prefetch(segment, head + 3);
            return true;
        }
    }
    return false;
}
