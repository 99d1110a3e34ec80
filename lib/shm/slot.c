#include "lib/shm/slot.h"

/* How often a swap is tried anew: who loses it as often has a scribbler for company. */
enum { TRIES = 1000 };

static void read_ending(pc_slot *slot, uint64_t word, pc_ending *ret)
{
    /* Acquire: the waiter's stores came before its WAITER (W1). */
    ret->queue = atomic_load_explicit(&slot->queue, memory_order_acquire);
    ret->sleeper = PC_SLEEPER_NONE;
    if (word & PC_WAITER_MASK)
        ret->sleeper = atomic_load_explicit(&slot->sleeper, memory_order_acquire);
}

bool pc_slot_finish(pc_slot *slot, uint64_t word, pc_ending *ret)
{
    uint64_t claimed = word;

    for (unsigned i = 0; i < TRIES; i++) {
        read_ending(slot, word, ret);
        /* S2: release, pairs with the host's load of DONE: the result is complete. Acquire on
         * failure, W1: pairs with pc_slot_set_waiter. */
        if (atomic_compare_exchange_strong_explicit(
                &slot->control, &word, (word & ~PC_STATE_MASK) | PC_DONE, memory_order_acq_rel,
                memory_order_acquire))
            return true;
        /* Doomed; or scribbled over, which must not be answered by one more loop. */
        if (word & PC_FLAG_DOOMED || (word ^ claimed) & ~PC_WAITER_MASK)
            return false;
    }
    return false;
}

bool pc_slot_end_by_host(pc_slot *slot, uint64_t expected, pc_ending *ret)
{
    uint64_t done = pc_word_owned(expected, PC_DONE, PC_WORKER_HOST, 0);

    read_ending(slot, expected, ret);
    return atomic_compare_exchange_strong_explicit(&slot->control, &expected, done,
                                                   memory_order_acq_rel, memory_order_acquire);
}

bool pc_slot_set_waiter(pc_slot *slot, uint32_t generation)
{
    uint64_t word = atomic_load_explicit(&slot->control, memory_order_acquire);

    for (unsigned i = 0; i < TRIES; i++) {
        if (pc_word_generation(word) != generation || pc_word_state(word) == PC_DONE ||
            pc_word_state(word) == PC_FREE)
            return false;
        uint64_t waiter = ((word & PC_WAITER_MASK) + PC_WAITER_ONE) & PC_WAITER_MASK;

        if (waiter == 0)
            waiter = PC_WAITER_ONE;
        /* W1: releases sleeper and queue to pc_slot_finish. */
        if (atomic_compare_exchange_weak_explicit(&slot->control, &word,
                                                  (word & ~PC_WAITER_MASK) | waiter,
                                                  memory_order_acq_rel, memory_order_acquire))
            return true;
    }
    return false;
}

bool pc_slot_doom(pc_slot *slot, uint32_t generation, unsigned worker)
{
    uint64_t word = atomic_load_explicit(&slot->control, memory_order_acquire);

    for (unsigned i = 0; i < TRIES && pc_word_generation(word) == generation &&
                         pc_word_state(word) == PC_CLAIMED && pc_word_worker(word) == worker;
         i++)
        if (atomic_compare_exchange_weak_explicit(&slot->control, &word, word | PC_FLAG_DOOMED,
                                                  memory_order_acq_rel, memory_order_acquire))
            return true;
    return false;
}
