#include "lib/shm/ring.h"

/* How often a look at the head is tried anew: who loses it as often has a scribbler for company. */
enum { TRIES = 1000 };

/* An aliased claim (see ring.h) may leave an entry more than there are slots. */
enum { STRAY_ENTRIES = 64 };

static uint64_t load_entry(const pc_segment *segment, uint32_t ticket)
{
    return atomic_load_explicit(&segment->ring[ticket & (segment->config.slots - 1)],
                                memory_order_acquire); /* R1 */
}

static uint32_t load_head(const pc_segment *segment)
{
    return atomic_load_explicit(&segment->header->ring_head, memory_order_acquire);
}

void pc_ring_reset(pc_segment *segment, uint32_t first)
{
    uint32_t slots = segment->config.slots;

    for (uint32_t ticket = first - slots; ticket != first; ticket++)
        atomic_store_explicit(&segment->ring[ticket & (slots - 1)], pc_ring_entry(ticket, 0, 0),
                              memory_order_relaxed);
    atomic_store_explicit(&segment->header->ring_head, first, memory_order_release);
}

/* An entry is of the last lap, or the one before where somebody is between ticket and entry. */
static bool entry_is_intact(const pc_segment *segment, uint32_t place, uint64_t entry,
                            uint32_t before, uint32_t after)
{
    uint32_t ticket = (uint32_t)(entry >> 32), slots = segment->config.slots;

    return (ticket & (slots - 1)) == place && pc_ring_entry_slot(entry) < slots &&
           (int32_t)(after - ticket) > 0 && (int32_t)(ticket - (before - 2 * slots)) >= 0;
}

bool pc_ring_intact(const pc_segment *segment, _Atomic uint64_t *tail)
{
    /* What is loaded between the two loads of the tail is to lie between them. */
    uint32_t before = (uint32_t)atomic_load(tail), slots = segment->config.slots;
    uint32_t head = load_head(segment);

    if ((int32_t)((uint32_t)atomic_load(tail) - head) < 0 ||
        (int32_t)(head - (before - slots - STRAY_ENTRIES)) < 0)
        return false;
    for (uint32_t place = 0; place < slots; place++) {
        uint64_t entry;

        before = (uint32_t)atomic_load(tail);
        entry = load_entry(segment, place);
        if (!entry_is_intact(segment, place, entry, before, (uint32_t)atomic_load(tail)))
            return false;
    }
    return true;
}

enum pc_ring_place pc_ring_find(const pc_segment *segment, uint32_t ticket, uint32_t slot,
                                uint32_t generation)
{
    uint32_t head = load_head(segment);

    if ((int32_t)(head - ticket) > 0 ||
        load_entry(segment, ticket) != pc_ring_entry(ticket, slot, generation))
        return PC_RING_NOWHERE;
    if ((uint32_t)(load_entry(segment, head) >> 32) != head && load_head(segment) == head)
        return PC_RING_STUCK;
    return PC_RING_AHEAD;
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
    for (unsigned i = 0; i < TRIES; i++) {
        *head = load_head(segment);
        *entry = load_entry(segment, *head);
        if ((uint32_t)(*entry >> 32) == *head)
            return true;
        /* A ticket of a later lap: the head has moved on since it was loaded. */
        if (atomic_load_explicit(&segment->header->ring_head, memory_order_relaxed) == *head)
            return false;
    }
    return false;
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

static void prefetch_slot(pc_segment *segment, uint64_t entry)
{
    pc_slot *slot = &segment->slots[pc_ring_entry_slot(entry) & (segment->config.slots - 1)];

    pc_prefetch_write(&slot->control);
    pc_prefetch_write(&slot->function);
}

bool pc_ring_await(pc_segment *segment)
{
    uint32_t head;
    uint64_t entry;
    bool pending = look(segment, &head, &entry);

    if (pending)
        prefetch_slot(segment, entry);
    return pending;
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

    if ((uint32_t)(entry >> 32) == ticket)
        prefetch_slot(segment, entry);
}

bool pc_ring_claim(pc_segment *segment, unsigned worker, unsigned incarnation, uint32_t *slot,
                   uint64_t *word)
{
    for (uint32_t i = 0; i <= segment->config.slots; i++) {
        unsigned tries = TRIES;
        uint32_t head;
        uint64_t entry;
        bool won;

        if (!look(segment, &head, &entry))
            return false;
        *slot = pc_ring_entry_slot(entry) & (segment->config.slots - 1);
        prefetch_slot(segment, entry);
        /* Again while it is queued: a waiter that comes between the look and the swap changes the
         * word, and to pass the entry then would be to lose the call. */
        while ((won = tries-- > 0 && is_live(segment, entry, word)) &&
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
