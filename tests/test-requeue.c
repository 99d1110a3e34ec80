/* A dead worker's call that is queued again: the ring has one entry for it, whatever the dead one
 * had done to the head. */
#include "lib/crew.h"
#include "tests/shm/fixture.h"

enum { SLOTS = 64, INDEX = 5, WORKER = 1, GENERATION = 7 };

static pycrew_crew crew;
static pycrew_call call;

static void set_up(void)
{
    crew.segment = segment_new(SLOTS, 2, 1);
    pc_ring_reset(&crew.segment, pc_ring_first_ticket(&crew.segment));
    crew.tail = pc_ring_first_ticket(&crew.segment);
    call.crew = &crew;
    call.slot = &crew.segment.slots[INDEX];
    call.index = INDEX;
    call.generation = GENERATION;
    pc_slot_queue(call.slot, GENERATION);
    uint32_t ticket;
    ASSERT(pc_ring_take_ticket(&crew.tail, &ticket));
    call.ticket = ticket;
    pc_ring_push(&crew.segment, ticket, INDEX, GENERATION);
}

static uint32_t head(void)
{
    return atomic_load(&crew.segment.header->ring_head);
}

/* As by a worker that dies between the swap and the head. */
static uint64_t claim_without_head(void)
{
    uint64_t word = atomic_load(&call.slot->control);

    ASSERT(pc_slot_claim(call.slot, &word, WORKER, 1));
    return word;
}

TEST(a_call_queued_again_has_one_entry_ahead_of_the_head)
{
    set_up();
    for (unsigned round = 0; round < 3 * SLOTS; round++) { /* with two, the ring would overrun */
        uint32_t old = call.ticket;

        ASSERT(pc_call_requeue(&call, claim_without_head()));
        ASSERT_INT(call.ticket, old + 1);
        ASSERT_INT(head(), old + 1);
        ASSERT(pc_ring_ready(&crew.segment));
        ASSERT_INT(call.published, GENERATION);
    }
    pc_segment_unmap(&crew.segment);
}

TEST(a_call_queued_again_is_claimed_once)
{
    uint32_t slot;
    uint64_t word;

    set_up();
    ASSERT(pc_call_requeue(&call, claim_without_head()));
    ASSERT(pc_ring_claim(&crew.segment, WORKER, 2, &slot, &word));
    ASSERT_INT(slot, INDEX);
    ASSERT_INT(pc_word_generation(word), GENERATION);
    ASSERT(!pc_ring_claim(&crew.segment, WORKER, 2, &slot, &word));
    ASSERT(!pc_ring_pending(&crew.segment));
    pc_segment_unmap(&crew.segment);
}

/* Who began to wait, before or while it is queued again, is still told of its end. */
TEST(a_call_queued_again_keeps_its_waiter)
{
    uint64_t word, seen;
    pc_ending ending;
    uint32_t slot;

    set_up();
    word = claim_without_head();
    atomic_store(&call.slot->sleeper, 9);
    ASSERT(pc_slot_set_waiter(call.slot, GENERATION)); /* after the sweep's look */
    ASSERT(pc_call_requeue(&call, word));
    ASSERT(pc_ring_claim(&crew.segment, WORKER, 2, &slot, &seen));
    ASSERT(pc_slot_finish(call.slot, seen, &ending));
    ASSERT_INT(ending.sleeper, 9);
    pc_segment_unmap(&crew.segment);
}

TAP_MAIN
