/* announce: how the end of a call is made known to its queue.
 *
 * Overview. A queue is a bitmap of slots and an eventfd. Who ends a call sets its slot's bit
 * (idempotent, cannot overflow), fences, and if the queue's reader is armed writes the eventfd.
 * The reader takes bits by exchange, and delivers a call only if its private record says so.
 *
 * Why it is correct. Pairs A (fence after the bit | fence after `armed`): either the announcer sees
 * the reader armed, or the reader's look after arming sees the bit. Only the reader clears
 * `armed`, so an announcer that dies takes no wake with it; a worker that dies between DONE and
 * the bit is made good by the sweep, which announces all its DONE slots again and writes all
 * eventfds. A bit too many is skipped by the private record. A worker that has no descriptor for the
 * queue says so (`untold`) to the supervisor's, which then writes the eventfds of all whose reader is
 * armed and has bits. */
#ifndef PC_SHM_ANNOUNCE_H
#define PC_SHM_ANNOUNCE_H

#include "lib/shm/segment.h"

/* Sets the bit. True: the reader is armed, write its eventfd. */
static inline bool pc_announce(const pc_segment *segment, unsigned queue, uint32_t slot)
{
    pc_queue_record *record = pc_segment_queue(segment, queue);

    atomic_fetch_or_explicit(&record->bits[slot / 64], UINT64_C(1) << slot % 64,
                             memory_order_release);
    /* A: pairs with pc_announce_arm */
    atomic_thread_fence(memory_order_seq_cst);
    return atomic_load_explicit(&record->armed, memory_order_relaxed) != 0;
}

/* Reader: from here on the eventfd is written. The caller looks once more, then sleeps. */
static inline void pc_announce_arm(const pc_segment *segment, unsigned queue)
{
    atomic_store_explicit(&pc_segment_queue(segment, queue)->armed, 1, memory_order_relaxed);
    /* A: pairs with pc_announce */
    atomic_thread_fence(memory_order_seq_cst);
}

static inline void pc_announce_disarm(const pc_segment *segment, unsigned queue)
{
    atomic_store_explicit(&pc_segment_queue(segment, queue)->armed, 0, memory_order_relaxed);
}

/* Whether a reader sleeps although there is something for it. */
static inline bool pc_announce_due(const pc_segment *segment, unsigned queue)
{
    const pc_queue_record *record = pc_segment_queue(segment, queue);
    uint64_t any = 0;

    if (atomic_load_explicit(&record->armed, memory_order_relaxed) == 0)
        return false;
    for (uint32_t word = 0; word < segment->config.slots / 64; word++)
        any |= atomic_load_explicit(&record->bits[word], memory_order_relaxed);
    return any != 0;
}

/* Reader: takes the bits of 64 slots. */
static inline uint64_t pc_announce_take(const pc_segment *segment, unsigned queue, unsigned word)
{
    _Atomic uint64_t *bits = &pc_segment_queue(segment, queue)->bits[word];

    if (atomic_load_explicit(bits, memory_order_relaxed) == 0)
        return 0;
    return atomic_exchange_explicit(bits, 0, memory_order_acquire);
}

#endif
