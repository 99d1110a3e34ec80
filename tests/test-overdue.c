/* The host's look at a batch's item with a deadline, while the worker goes on to the next. */
#include <pthread.h>

#include "lib/crew.h"
#include "tests/shm/fixture.h"

enum { SLOTS = 8, INDEX = 3, WORKER = 1, GENERATION = 5, ITEMS = 100, LOOKS = 200000 };

#define LONG ((int64_t)1000 * 1000 * 1000 * 1000)

static pycrew_crew crew;
static pycrew_call call;
static pycrew_queue supervisor = {.crew = &crew, .fd = -1};
static pc_host_worker workers[2];
static pc_batch_chunk chunk;
static pc_chunk shared;
static _Atomic bool over;

/* A chunk whose second item runs. */
static void set_up(void)
{
    uint64_t word;

    crew.segment = segment_new(SLOTS, 2, 1);
    crew.queues = &supervisor;
    crew.workers = 2;
    crew.crew_workers = workers;
    call.crew = &crew;
    call.slot = &crew.segment.slots[INDEX];
    call.index = INDEX;
    call.generation = GENERATION;
    call.timeout_ns = LONG;
    call.chunk = &chunk;
    chunk.shared = &shared;
    chunk.count = ITEMS;
    shared.progress = pc_chunk_progress(2, 1);
    shared.item_started_ns = pc_now();
    pc_slot_queue(call.slot, GENERATION);
    word = atomic_load(&call.slot->control);
    ASSERT(pc_slot_claim(call.slot, &word, WORKER, 1));
}

/* As a worker between the time and the progress of its next item, again and again. */
static void *start_items(void *unused)
{
    (void)unused;
    while (!atomic_load_explicit(&over, memory_order_relaxed))
        atomic_store_explicit(&shared.item_started_ns, pc_now(), memory_order_relaxed);
    return NULL;
}

TEST(an_item_that_starts_while_the_host_looks_did_not_start_in_the_future)
{
    pthread_t thread;
    uint32_t item;
    int64_t look;

    set_up();
    ASSERT(pthread_create(&thread, NULL, start_items, NULL) == 0);
    for (unsigned i = 0; i < LOOKS && crew.distrusted == NULL; i++) {
        ASSERT_INT(pc_chunk_overdue(&call, &item, &look), PC_OVERDUE_NOT);
        ASSERT_INT(item, 1);
    }
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    ASSERT_STR(atomic_load(&crew.distrusted), NULL);
    pc_segment_unmap(&crew.segment);
}

TEST(an_item_is_overdue_by_its_own_start)
{
    uint32_t item;
    int64_t look;

    set_up();
    call.timeout_ns = LONG / 1000;
    ASSERT_INT(pc_chunk_overdue(&call, &item, &look), PC_OVERDUE_NOT);
    ASSERT_INT(look, shared.item_started_ns + call.timeout_ns);
    shared.item_started_ns -= call.timeout_ns;
    ASSERT_INT(pc_chunk_overdue(&call, &item, &look), PC_OVERDUE_ITEM);
    ASSERT_INT(item, 1);
    ASSERT_STR(atomic_load(&crew.distrusted), NULL);
    pc_segment_unmap(&crew.segment);
}

TAP_MAIN
