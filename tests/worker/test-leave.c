/* When a worker that is to be replaced takes calls and when it does not (worker/leave.h), with a
 * clock of the test's: it is included for that. */
#include <unistd.h>

#include "worker/leave.h"

#include "lib/shm/idle.h"
#include "lib/shm/inbox.h"
#include "worker/async.h"
#include "worker/loop.h"
#include "worker/object.h"

enum { SLOTS = 64 };

static int64_t present = 1000;
static unsigned in_flight; /* when an epoch begins */

static int64_t test_now(void)
{
    return present;
}

static unsigned test_count(void)
{
    return in_flight;
}

static size_t test_streams(void)
{
    return 0;
}

static bool test_holds(int64_t now)
{
    (void)now;
    return false;
}

#define pc_now test_now
#define pc_async_count test_count
#define pc_object_streams test_streams
#define pc_object_holds test_holds
#include "worker/leave.c"

#include "tests/harness/tap.h"

/* Each in a slot of its own. */
static void submit(pc_worker *worker, uint32_t number)
{
    pc_slot_queue(&worker->segment.slots[number], 1);
    pc_ring_push(&worker->segment, pc_ring_first_ticket(&worker->segment) + number, number, 1);
}

/* In a crew of one, with a call in the ring that nobody else takes. */
static void start(pc_worker *worker, pc_loop *l)
{
    static pc_worker_options options;
    pc_config config = {.slots = SLOTS,
                        .workers = 1,
                        .queues = 1,
                        .spans = 4,
                        .cpus = 1,
                        .host_pid = (uint32_t)getpid()};

    *worker = (pc_worker){.options = &options};
    ASSERT_INT(pc_segment_create(&worker->segment, &config, false), 0);
    pc_ring_reset(&worker->segment, pc_ring_first_ticket(&worker->segment));
    submit(worker, 0);
    *l = (pc_loop){.worker = worker};
    pc_async_pending = in_flight = 1;
    ASSERT(pc_leave_goes_on(l));
    ASSERT(l->leaving);
}

static void end(pc_worker *worker)
{
    close(worker->segment.fd);
    pc_segment_unmap(&worker->segment);
}

static bool serves_after(pc_loop *l, int64_t ns)
{
    present += ns;
    ASSERT(pc_leave_goes_on(l));
    return !l->leaving;
}

TEST(what_does_not_end_is_given_a_minute_and_then_a_second_at_most)
{
    pc_worker worker;
    pc_loop l;

    start(&worker, &l);
    for (int64_t patience = 100; patience < 2000; patience += patience) {
        int64_t least = patience < 1000 ? patience : 1000;

        ASSERT(!serves_after(&l, (least - 1) * MS));
        ASSERT(serves_after(&l, 1 * MS));
        ASSERT_INT(pc_leave_old, 1);
        ASSERT(serves_after(&l, 8 * least * MS + OLD_NS - 1));
        ASSERT(!serves_after(&l, 1)); /* and tries again */
    }
    end(&worker);
}

TEST(the_next_try_has_as_long_as_calls_took_that_it_did_not_keep_waiting)
{
    pc_worker worker;
    pc_loop l;

    start(&worker, &l);
    ASSERT(serves_after(&l, 100 * MS));
    ASSERT(serves_after(&l, 3000 * MS));
    pc_leave_note_end(pc_leave_epoch - 1);
    ASSERT(serves_after(&l, 0));
    ASSERT_INT(pc_leave_old, 1); /* what had begun by then */
    ASSERT(serves_after(&l, 4999 * MS));
    pc_leave_note_end(pc_leave_epoch - 1);
    ASSERT(!serves_after(&l, 1 * MS)); /* 8 s: so it has 10 */
    ASSERT(!serves_after(&l, 9999 * MS));
    ASSERT(serves_after(&l, 1 * MS));
    end(&worker);
}

TEST(a_ring_that_moves_is_left_to_others)
{
    pc_worker worker;
    pc_loop l;
    uint32_t slot;
    uint64_t word;

    start(&worker, &l);
    for (uint32_t i = 1; i < SLOTS; i++) {
        ASSERT(!serves_after(&l, 99 * MS));
        ASSERT(pc_ring_claim(&worker.segment, 0, 0, &slot, &word));
        submit(&worker, i);
        ASSERT(!serves_after(&l, 99 * MS));
    }
    end(&worker);
}

TEST(the_inbox_is_refused_after_a_second_and_served_again)
{
    pc_worker worker;
    pc_worker_record *record;
    pc_loop l;
    uint32_t slot;
    uint64_t word;

    start(&worker, &l);
    ASSERT(pc_ring_claim(&worker.segment, 0, 0, &slot, &word));
    record = &worker.segment.workers[0];
    atomic_store(&record->inbox_tail, atomic_load(&record->inbox_head) + 1);
    ASSERT(!serves_after(&l, 999 * MS));
    ASSERT(!l.refuses);
    ASSERT(!serves_after(&l, 1 * MS));
    ASSERT(l.refuses);
    ASSERT(!serves_after(&l, 100 * MS));
    ASSERT(!l.refuses); /* the inbox is served, and the ring still others' */
    in_flight = 0;
    pc_leave_note_end(pc_leave_epoch - 1);
    ASSERT(!serves_after(&l, 800 * MS));
    ASSERT(!serves_after(&l, 0));
    ASSERT(l.refuses);
    pc_async_pending = 0;
    ASSERT(!pc_leave_goes_on(&l));
    end(&worker);
}

TAP_MAIN
