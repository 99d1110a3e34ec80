/* What lib/shm/inbox.h promises: each call once, in order, whatever stale entries lie about. */
#include "tests/shm/fixture.h"

#include "lib/shm/heap.h"
#include "lib/shm/idle.h"
#include "lib/shm/inbox.h"

enum { SLOTS = 64, WORKER = 1, INCARNATION = 5 };

static pc_segment segment;
static pc_inbox inbox;
static uint32_t generations[SLOTS];

static void set_up(void)
{
    segment = segment_new(SLOTS, 2, 4);
    pc_ring_reset(&segment, pc_ring_first_ticket(&segment));
    pc_sleeper_init(&segment.workers[WORKER].semaphore);
    ASSERT(pc_inbox_size(&segment) <= PC_SPAN_SIZE);
    inbox.block = segment.spans_offset;
    pc_inbox_reset(&segment, WORKER, &inbox);
}

static void direct(uint32_t slot)
{
    pc_slot_direct(&segment.slots[slot], ++generations[slot]);
}

static uint32_t push(uint32_t slot)
{
    direct(slot);
    return pc_inbox_push(&segment, WORKER, &inbox, slot, generations[slot]);
}

/* As the host ends a queued call. */
static void cancel(uint32_t slot)
{
    pc_ending ending;

    ASSERT(pc_slot_end_by_host(&segment.slots[slot], pc_word_of(generations[slot], PC_DIRECTED),
                               &ending));
}

static int claim(void)
{
    uint32_t slot;
    uint64_t word;

    if (!pc_inbox_claim(&segment, WORKER, INCARNATION, &slot, &word))
        return -1;
    ASSERT_INT(pc_word_state(word), PC_CLAIMED);
    ASSERT_INT(pc_word_worker(word), WORKER);
    ASSERT_INT(pc_word_generation(word), generations[slot]);
    return (int)slot;
}

static bool is_live(void *data, uint32_t slot, uint32_t generation)
{
    uint64_t word = atomic_load(&segment.slots[slot].control);

    (void)data;
    return pc_word_state(word) == PC_DIRECTED && pc_word_generation(word) == generation;
}

static uint32_t tickets[SLOTS];

static void moved(void *data, uint32_t slot, uint32_t ticket)
{
    (void)data;
    tickets[slot] = ticket;
}

static void renew(void)
{
    static const pc_inbox_owner owner = {is_live, moved, NULL};

    pc_inbox_renew(&segment, WORKER, &inbox, &owner);
}

TEST(calls_are_claimed_in_the_order_they_were_pushed)
{
    set_up();
    for (unsigned round = 0; round < 10 * SLOTS; round++) {
        push(3);
        push(9);
        push(0);
        ASSERT_INT(claim(), 3);
        ASSERT_INT(claim(), 9);
        ASSERT_INT(claim(), 0);
        ASSERT_INT(claim(), -1);
        ASSERT(!pc_inbox_has(&segment, WORKER));
    }
    pc_segment_unmap(&segment);
}

TEST(stale_and_doubled_entries_are_skipped)
{
    set_up();
    push(1);
    push(2);
    push(3);
    cancel(2);
    pc_inbox_push(&segment, WORKER, &inbox, 3, generations[3]);
    push(2); /* its next life; the stale entry stands before the others */
    ASSERT_INT(claim(), 1);
    ASSERT_INT(claim(), 3);
    ASSERT_INT(claim(), 2);
    ASSERT_INT(claim(), -1);
    pc_segment_unmap(&segment);
}

TEST(the_ring_lets_nobody_have_a_directed_call)
{
    uint32_t slot, ticket = pc_ring_first_ticket(&segment);
    uint64_t word;

    set_up();
    ticket = pc_ring_first_ticket(&segment);
    push(7);
    pc_ring_push(&segment, ticket, 7, generations[7]); /* an old entry that came round */
    ASSERT(!pc_ring_claim(&segment, 0, INCARNATION, &slot, &word));
    ASSERT_INT(claim(), 7);
    pc_segment_unmap(&segment);
}

TEST(an_entry_of_a_slot_queued_for_all_is_stale)
{
    set_up();
    pc_inbox_push(&segment, WORKER, &inbox, 4, generations[4] + 1);
    pc_slot_queue(&segment.slots[4], ++generations[4]);
    ASSERT_INT(claim(), -1);
    pc_segment_unmap(&segment);
}

TEST(any_number_of_cancelled_calls_finds_room)
{
    set_up();
    push(10);
    push(11);
    for (unsigned i = 0; i < 100 * SLOTS; i++) {
        if (pc_inbox_is_long(&segment, WORKER, &inbox))
            renew();
        tickets[12] = push(12);
        ASSERT(pc_inbox_holds(&segment, WORKER, &inbox, tickets[12], 12, generations[12]));
        ASSERT(pc_inbox_intact(&segment, WORKER, &inbox));
        cancel(12);
    }
    ASSERT(pc_inbox_holds(&segment, WORKER, &inbox, tickets[10], 10, generations[10]));
    ASSERT_INT(claim(), 10);
    ASSERT(!pc_inbox_holds(&segment, WORKER, &inbox, tickets[10], 10, generations[10]));
    ASSERT_INT(claim(), 11);
    ASSERT_INT(claim(), -1);
    pc_segment_unmap(&segment);
}

TEST(a_worker_that_sleeps_is_posted_and_one_with_entries_does_not_sleep)
{
    int tokens;

    set_up();
    ASSERT(pc_idle_publish(&segment, WORKER));
    push(5);
    pc_idle_wake_worker(&segment, WORKER);
    ASSERT_INT(sem_getvalue(&segment.workers[WORKER].semaphore, &tokens), 0);
    ASSERT_INT(tokens, 1);
    pc_idle_wake_worker(&segment, WORKER); /* posted for this sleep already */
    ASSERT_INT(sem_getvalue(&segment.workers[WORKER].semaphore, &tokens), 0);
    ASSERT_INT(tokens, 1);
    pc_idle_retract(&segment, WORKER);
    ASSERT(!pc_idle_publish(&segment, WORKER));
    pc_idle_retract(&segment, WORKER);
    ASSERT_INT(claim(), 5);
    ASSERT(pc_idle_publish(&segment, WORKER));
    pc_idle_retract(&segment, WORKER);
    pc_segment_unmap(&segment);
}

TEST(a_reset_empties_it)
{
    set_up();
    push(1);
    push(2);
    pc_inbox_reset(&segment, WORKER, &inbox);
    ASSERT_INT(claim(), -1);
    push(1);
    ASSERT_INT(claim(), 1);
    pc_segment_unmap(&segment);
}

/* ---- a worker beside the host
 * ---------------------------------------------------------------------- */

enum { RUNS = 200000, IN_FLIGHT = SLOTS / 2 };

static _Atomic uint32_t submitted[SLOTS]; /* which call a slot is */
static _Atomic uint32_t claimed;
static _Atomic bool over;

static void *claim_all(void *data)
{
    uint64_t random = 3;
    uint32_t last = 0;

    (void)data;
    while (!atomic_load(&over) || pc_inbox_has(&segment, WORKER)) {
        uint32_t slot, number;
        uint64_t word;

        if (!pc_inbox_claim(&segment, WORKER, INCARNATION, &slot, &word)) {
            sched_yield(); /* valgrind runs one thread at a time: none may spin its turn away */
            continue;
        }
        number = atomic_load(&submitted[slot]);
        if (number <= last)
            tap_fail("call %u is claimed behind %u", number, last);
        last = number;
        atomic_fetch_add(&claimed, 1);
        random_pause(&random);
        atomic_store(&segment.slots[slot].control,
                     pc_word_owned(word, PC_DONE, WORKER, INCARNATION));
    }
    return NULL;
}

static bool is_free(uint32_t slot)
{
    uint64_t word = atomic_load(&segment.slots[slot].control);

    return pc_word_state(word) == PC_DONE || pc_word_state(word) == PC_FREE;
}

TEST(each_call_is_claimed_once_and_in_order_while_the_inbox_is_renewed)
{
    uint64_t random = 7;
    uint32_t cancelled = 0;
    pthread_t thread;

    set_up();
    pthread_create(&thread, NULL, claim_all, NULL);
    for (uint32_t i = 1; i <= RUNS; i++) {
        uint32_t slot = i % IN_FLIGHT;

        UNTIL(is_free(slot));
        if (pc_inbox_is_long(&segment, WORKER, &inbox))
            renew();
        atomic_store(&submitted[slot], i);
        push(slot);
        if (random_below(&random, 3) > 0) {
            pc_ending ending;

            cancelled += pc_slot_end_by_host(&segment.slots[slot],
                                             pc_word_of(generations[slot], PC_DIRECTED), &ending);
        }
    }
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    ASSERT_INT(atomic_load(&claimed) + cancelled, RUNS);
    pc_segment_unmap(&segment);
}

TAP_MAIN
