/* What worker/items.c does to a chunk's progress word, which the host may doom at any moment. It is
 * included, since nothing of that can be seen from outside without a race. */
#include "worker/items.c"

#include "tests/harness/tap.h"

static pc_chunk chunk_at(uint32_t begin, uint32_t count, uint32_t started, uint32_t finished)
{
    return (pc_chunk){
        .count = count, .begin = begin, .progress = pc_chunk_progress(started, finished)};
}

TEST(an_item_is_started_and_the_one_before_finished_in_one_step)
{
    pc_chunk chunk = chunk_at(2, 5, 2, 2);

    for (uint32_t item = 2; item < 5; item++) {
        ASSERT(pc_items_advance(&chunk, item, 2));
        ASSERT(chunk.progress == pc_chunk_progress(item + 1, item));
    }
    ASSERT(pc_items_advance(&chunk, 5, 2));
    ASSERT(chunk.progress == pc_chunk_progress(5, 5));
}

TEST(a_doomed_item_is_never_finished)
{
    for (uint32_t item = 1; item <= 5; item++) {
        pc_chunk chunk = chunk_at(0, 5, item, item - 1);
        uint64_t doomed = atomic_fetch_or(&chunk.progress, PC_CHUNK_DOOMED) | PC_CHUNK_DOOMED;

        ASSERT(!pc_items_advance(&chunk, item, 0));
        ASSERT(chunk.progress == doomed);
        ASSERT(!pc_items_stop_before(&chunk, item));
        ASSERT(chunk.progress == doomed);
    }
}

TEST(a_chunk_that_is_stopped_has_finished_what_it_started)
{
    pc_chunk chunk = chunk_at(2, 5, 2, 2);

    ASSERT(pc_items_stop_before(&chunk, 2));
    ASSERT(chunk.progress == pc_chunk_progress(2, 2));
    ASSERT(pc_items_advance(&chunk, 2, 2));
    ASSERT(pc_items_stop_before(&chunk, 3));
    ASSERT(chunk.progress == pc_chunk_progress(3, 3));
}

TAP_MAIN
