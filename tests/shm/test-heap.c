/* What lib/shm/heap.h promises: blocks that overlap nothing, of memory that is there, in spans that
 * have one owner; and that nothing a process scribbles harms another. */
#include "tests/shm/fixture.h"

#include <setjmp.h>
#include <stdlib.h>

#include "lib/shm/heap.h"

enum { KIB = 1024, MIB = 1024 * KIB, PAGE = 4096, WORKER = 2, OWNER = 0x123 };

/* Its descriptor stays open, so that the file can be looked at. */
static pc_segment *new_memory(uint32_t spans)
{
    pc_segment *segment = calloc(1, sizeof *segment);
    ASSERT(segment);
    *segment = segment_new(64, 4, spans);
    return segment;
}

static void free_memory(pc_segment *segment)
{
    pc_segment_unmap(segment);
    free(segment);
}

static pc_heap heap_of(pc_segment *segment, uint32_t owner)
{
    pc_heap heap;
    ASSERT_INT(pc_heap_init(&heap, segment, owner, 0), 0);
    return heap;
}

/* The bytes of memory behind the spans. */
static uint64_t real_bytes(const pc_segment *segment)
{
    struct stat status;
    ASSERT_INT(fstat(segment->fd, &status), 0);
    return (uint64_t)status.st_blocks * 512 - segment->spans_offset;
}

static uint32_t owner_of(const pc_segment *segment, uint32_t span)
{
    return atomic_load(&segment->span_owners[span]);
}

static unsigned spans_of(const pc_segment *segment, uint32_t owner)
{
    unsigned count = 0;
    for (uint32_t span = 0; span < segment->config.spans; span++)
        count += owner_of(segment, span) == owner;
    return count;
}

static uint64_t alloc(pc_heap *heap, size_t size)
{
    uint64_t block = 0;
    int rc = pc_heap_alloc(heap, size, &block);
    if (rc < 0)
        tap_fail("an allocation of %zu bytes: %s", size, strerror(-rc));
    return block;
}

static int alloc_fails(pc_heap *heap, size_t size)
{
    uint64_t block = 1234;
    int rc = pc_heap_alloc(heap, size, &block);
    ASSERT(rc < 0);
    ASSERT_INT(block, 1234); /* untouched */
    return rc;
}

static void give(pc_heap *heap, uint64_t block)
{
    ASSERT_INT(pc_heap_free(heap, block), 0);
}

static uint8_t *at(pc_heap *heap, uint64_t block)
{
    return pc_segment_at(heap->segment, block);
}

/* ---- sizes ---- */

TEST(a_block_is_large_enough_aligned_and_in_its_owners_spans)
{
    pc_segment *segment = new_memory(8);
    pc_heap heap = heap_of(segment, OWNER);
    for (size_t size = 0; size <= 5 * MIB; size = size < 300 ? size + 1 : size + size / 7 + 1) {
        for (int delta = -1; delta <= 1; delta++) {
            size_t wanted = size + (size_t)delta > 5 * MIB ? size : size + (size_t)delta;
            uint64_t block = alloc(&heap, wanted);
            size_t real = pc_heap_block_size(&heap, block);
            ASSERT(real >= wanted && block % 64 == 0 && block != 0);
            ASSERT(pc_span_owned(segment, block, real, OWNER));
            at(&heap, block)[0] = 1;
            at(&heap, block)[real - 1] = 1;
            give(&heap, block);
        }
    }
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(blocks_have_the_sizes_256_to_a_mebibyte_in_powers_of_two_and_then_mebibytes)
{
    pc_segment *segment = new_memory(20);
    pc_heap heap = heap_of(segment, OWNER);
    size_t below = 0;
    for (unsigned class = 0; class < PC_HEAP_CLASSES; class++) {
        size_t size = (size_t)256 << class;
        uint64_t first = alloc(&heap, below + 1), last = alloc(&heap, size);
        ASSERT_INT(pc_heap_block_size(&heap, first), size);
        ASSERT_INT(pc_heap_block_size(&heap, last), size);
        give(&heap, first);
        give(&heap, last);
        below = size;
    }
    ASSERT_INT(below, MIB);
    for (size_t run = 2; run <= 6; run++) {
        uint64_t first = alloc(&heap, below + 1), last = alloc(&heap, run * MIB);
        ASSERT_INT(pc_heap_block_size(&heap, first), run * MIB);
        ASSERT_INT(pc_heap_block_size(&heap, last), run * MIB);
        ASSERT_INT((last - segment->spans_offset) % PC_SPAN_SIZE, 0);
        give(&heap, first);
        give(&heap, last);
        below = run * MIB;
    }
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(what_can_never_fit_is_too_big_and_takes_nothing)
{
    pc_segment *segment = new_memory(3);
    pc_heap heap = heap_of(segment, OWNER);
    static const size_t sizes[] = {3 * MIB + 1,       4 * MIB,           SIZE_MAX,
                                   SIZE_MAX - MIB,    SIZE_MAX - MIB + 1, SIZE_MAX - MIB + 2,
                                   (size_t)1 << 52,   SIZE_MAX / 2,      ((size_t)1 << 52) + MIB,
                                   (size_t)MIB << 32, ((size_t)MIB << 32) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        ASSERT_INT(alloc_fails(&heap, sizes[i]), -E2BIG);
    ASSERT_INT(spans_of(segment, PC_OWNER_FREE), 3);
    uint64_t all = alloc(&heap, 3 * MIB);
    ASSERT_INT(pc_heap_block_size(&heap, all), 3 * MIB);
    ASSERT_INT(alloc_fails(&heap, SIZE_MAX), -E2BIG);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(every_block_of_a_full_segment_is_handed_out_once_and_then_there_is_none)
{
    pc_segment *segment = new_memory(3);
    for (unsigned class = 0; class < PC_HEAP_CLASSES; class++) {
        pc_heap heap = heap_of(segment, OWNER);
        size_t size = (size_t)256 << class, count = 3 * MIB / size;
        uint64_t block;
        for (size_t i = 0; i < count; i++) {
            block = alloc(&heap, size);
            uint32_t *first = (uint32_t *)(void *)at(&heap, block);
            *first = *first + 1; /* new memory is zero: each is counted where it lies */
        }
        for (size_t i = 0; i < count; i++)
            ASSERT_INT(*(uint32_t *)(void *)(segment->base + segment->spans_offset + i * size), 1);
        ASSERT_INT(alloc_fails(&heap, size), -ENOMEM);
        ASSERT_INT(alloc_fails(&heap, 2 * MIB), -ENOMEM);
        give(&heap, block);
        ASSERT_INT(alloc(&heap, size), block);
        for (size_t i = 0; i < count; i++)
            give(&heap, segment->spans_offset + i * size);
        uint64_t all = alloc(&heap, 3 * MIB); /* spans kept for the next are given up for it */
        give(&heap, all);
        ASSERT_INT(spans_of(segment, PC_OWNER_FREE), 3);
        ASSERT_INT(heap.empty, 0);
        pc_heap_destroy(&heap);
    }
    free_memory(segment);
}

/* ---- what is no block ---- */

TEST(only_a_block_in_use_can_be_freed_and_only_once)
{
    pc_segment *segment = new_memory(8);
    pc_heap heap = heap_of(segment, OWNER), other = heap_of(segment, OWNER + 1);
    uint64_t small = alloc(&heap, 1000), neighbour = alloc(&heap, 1000), run = alloc(&heap, 3 * MIB);
    uint64_t foreign = alloc(&other, 1000);
    const uint64_t wrong[] = {0,
                              1,
                              small + 1,
                              small + 8,
                              small + 256,
                              small + 2 * (neighbour - small), /* free */
                              run + 64,
                              run + MIB,
                              run + 2 * MIB,
                              foreign,
                              segment->spans_offset - 8,
                              segment->size,
                              segment->size - 64,
                              UINT64_MAX,
                              UINT64_MAX - 7,
                              segment->spans_offset + 7 * MIB};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ASSERT_INT(pc_heap_block_size(&heap, wrong[i]), 0);
        ASSERT_INT(pc_heap_free(&heap, wrong[i]), -EINVAL);
    }
    const uint64_t right[] = {small, neighbour, run};
    for (int i = 0; i < 3; i++) {
        ASSERT(pc_heap_block_size(&heap, right[i]) > 0);
        give(&heap, right[i]);
        ASSERT_INT(pc_heap_block_size(&heap, right[i]), 0);
        ASSERT_INT(pc_heap_free(&heap, right[i]), -EINVAL);
    }
    ASSERT_INT(pc_heap_block_size(&other, foreign), 1024);
    pc_heap_destroy(&heap);
    pc_heap_destroy(&other);
    free_memory(segment);
}

/* ---- any sequence ---- */

typedef struct held {
    uint64_t offset, stamp;
    size_t size;
} held;

enum { BLOCKS = 600 };

static void stamp(pc_heap *heap, const held *b)
{
    uint8_t *start = at(heap, b->offset);
    memcpy(start, &b->stamp, sizeof b->stamp);
    memcpy(start + b->size - sizeof b->stamp, &b->stamp, sizeof b->stamp);
}

static void expect_stamp(pc_heap *heap, const held *b)
{
    uint8_t *start = at(heap, b->offset);
    ASSERT_MEM(start, &b->stamp, sizeof b->stamp);
    ASSERT_MEM(start + b->size - sizeof b->stamp, &b->stamp, sizeof b->stamp);
}

static int by_offset(const void *a, const void *b)
{
    uint64_t x = ((const held *)a)->offset, y = ((const held *)b)->offset;
    return x < y ? -1 : x > y;
}

static void expect_no_overlap(const held *blocks, size_t count)
{
    static held sorted[BLOCKS];
    memcpy(sorted, blocks, count * sizeof *blocks);
    qsort(sorted, count, sizeof *sorted, by_offset);
    for (size_t i = 1; i < count; i++)
        ASSERT(sorted[i - 1].offset + sorted[i - 1].size <= sorted[i].offset);
}

static size_t random_size(uint64_t *random)
{
    if (random_below(random, 40) == 0)
        return random_below(random, 4 * MIB);
    return random_below(random, UINT64_C(1) << random_below(random, 21));
}

static void expect_consistent(pc_heap *heap, const held *blocks, size_t count)
{
    expect_no_overlap(blocks, count);
    for (size_t i = 0; i < count; i++) {
        expect_stamp(heap, &blocks[i]);
        ASSERT_INT(pc_heap_block_size(heap, blocks[i].offset), blocks[i].size);
        ASSERT(pc_span_owned(heap->segment, blocks[i].offset, blocks[i].size, heap->owner));
    }
}

static void run_random(unsigned keep, uint64_t seed)
{
    static held blocks[BLOCKS];
    pc_segment *segment = new_memory(24);
    pc_heap heap;
    size_t count = 0;
    unsigned full = 0;
    ASSERT_INT(pc_heap_init(&heap, segment, OWNER, keep), 0);
    for (int step = 0; step < 6000; step++) {
        uint64_t target = BLOCKS * random_below(&seed, 5) / 4; /* up and down */
        if (count < BLOCKS && (count == 0 || random_below(&seed, BLOCKS) < target)) {
            held *b = &blocks[count];
            size_t size = random_size(&seed);
            int rc = pc_heap_alloc(&heap, size, &b->offset);
            if (rc == 0) {
                b->size = pc_heap_block_size(&heap, b->offset);
                b->stamp = random_next(&seed);
                ASSERT(b->size >= size);
                stamp(&heap, b);
                count++;
            } else {
                ASSERT_INT(rc, -ENOMEM);
                full++;
            }
        } else {
            size_t i = random_below(&seed, count);
            expect_stamp(&heap, &blocks[i]);
            give(&heap, blocks[i].offset);
            blocks[i] = blocks[--count];
        }
        if (step % 300 == 0)
            expect_consistent(&heap, blocks, count);
    }
    expect_consistent(&heap, blocks, count);
    while (count > 0)
        give(&heap, blocks[--count].offset);
    ASSERT_INT(spans_of(segment, OWNER), heap.empty);
    ASSERT(heap.empty <= PC_HEAP_CLASSES + keep);
    uint64_t all = alloc(&heap, 24 * MIB);
    give(&heap, all);
    ASSERT_INT(spans_of(segment, PC_OWNER_FREE), 24);
    ASSERT_INT(real_bytes(segment), 0);
    DIAG("%u of 6000 found no memory", full);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(whatever_is_allocated_and_freed_in_whatever_order_blocks_are_whole_and_apart)
{
    for (uint64_t seed = 1; seed <= 3; seed++)
        run_random(0, seed);
    run_random(5, 4);
}

/* ---- spans and runs ---- */

TEST(a_run_is_found_between_the_spans_of_others)
{
    pc_segment *segment = new_memory(12);
    pc_heap heap = heap_of(segment, OWNER);
    for (uint32_t span = 0; span < 12; span++) /* others': 2, 5, 9; gaps of 2, 2, 3 and 2 */
        atomic_store(&segment->span_owners[span],
                     span == 2 || span == 5 || span == 9 ? OWNER + 1 : PC_OWNER_FREE);
    uint64_t block = alloc(&heap, 3 * MIB);
    ASSERT_INT(pc_span_of(segment, block), 6);
    ASSERT_INT(alloc_fails(&heap, 3 * MIB), -ENOMEM);
    ASSERT_INT(spans_of(segment, OWNER), 3); /* what it had taken on the way is given back */
    ASSERT_INT(pc_span_of(segment, alloc(&heap, 2 * MIB)), 0);
    ASSERT_INT(pc_span_of(segment, alloc(&heap, 2 * MIB)), 3);
    ASSERT_INT(pc_span_of(segment, alloc(&heap, 2 * MIB)), 10);
    ASSERT_INT(alloc_fails(&heap, 1), -ENOMEM);
    give(&heap, block);
    ASSERT_INT(spans_of(segment, PC_OWNER_FREE), 3);
    ASSERT_INT(spans_of(segment, OWNER + 1), 3);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(bytes_are_owned_if_all_their_spans_are)
{
    pc_segment *s = new_memory(4);
    for (uint32_t span = 1; span <= 2; span++)
        atomic_store(&s->span_owners[span], OWNER);
    uint64_t first = s->spans_offset + MIB;
    ASSERT(pc_span_owned(s, first, 2 * MIB, OWNER));
    ASSERT(pc_span_owned(s, first + 2 * MIB - 1, 1, OWNER));
    ASSERT(!pc_span_owned(s, first, 0, OWNER));
    ASSERT(!pc_span_owned(s, first - 1, 1, OWNER));
    ASSERT(!pc_span_owned(s, first - 1, 2, OWNER));
    ASSERT(!pc_span_owned(s, first, 2 * MIB + 1, OWNER));
    ASSERT(!pc_span_owned(s, first, 1, OWNER + 1));
    ASSERT(!pc_span_owned(s, first, UINT64_MAX, OWNER));
    ASSERT(!pc_span_owned(s, first, 4 * MIB, OWNER));
    ASSERT(!pc_span_owned(s, 0, 8, OWNER));
    ASSERT(!pc_span_owned(s, UINT64_MAX, 8, OWNER));
    free_memory(s);
}

TEST(an_incarnation_of_a_worker_has_a_name_of_its_own)
{
    for (unsigned worker = 0; worker < PC_WORKERS_MAX; worker += 31)
        for (unsigned incarnation = 0; incarnation < 5000; incarnation += 7) {
            uint32_t name = pc_owner_worker(worker, incarnation);
            ASSERT(name != PC_OWNER_FREE && name != PC_OWNER_HOST);
            ASSERT(name != pc_owner_worker(worker, incarnation + 1));
            ASSERT(name != pc_owner_worker((worker + 1) % PC_WORKERS_MAX, incarnation));
            ASSERT_INT((name & 0xfff) - 2, worker);
            ASSERT_INT(name >> 12, incarnation);
        }
}

TEST(a_dead_owners_spans_stay_until_they_are_released_and_are_zero_then)
{
    pc_segment *segment = new_memory(4);
    pc_heap heap = heap_of(segment, OWNER);
    uint64_t small = alloc(&heap, 100), run = alloc(&heap, 2 * MIB);
    memset(at(&heap, small), 0x55, 100);
    memset(at(&heap, run), 0x55, 2 * MIB);
    pc_heap_destroy(&heap); /* it dies */
    pc_heap next = heap_of(segment, OWNER + 0x1000);
    uint64_t block = alloc(&next, 100);
    ASSERT_INT(pc_span_of(segment, block), 3); /* the one that is free */
    ASSERT_INT(alloc_fails(&next, 2 * MIB), -ENOMEM);
    ASSERT(pc_span_owned(segment, run, 2 * MIB, OWNER));
    for (uint32_t span = 0; span < 3; span++)
        pc_span_release(segment, span);
    ASSERT_INT(spans_of(segment, OWNER), 0);
    uint64_t fresh = alloc(&next, 3 * MIB);
    ASSERT_INT(pc_span_of(segment, fresh), 0);
    for (size_t i = 0; i < 3 * MIB; i++)
        if (at(&next, fresh)[i] != 0)
            tap_fail("byte %zu is 0x%x", i, at(&next, fresh)[i]);
    pc_heap_destroy(&next);
    free_memory(segment);
}

/* ---- a large block that is kept ---- */

TEST(a_large_block_is_kept_for_the_next_one_if_the_owner_wants_that)
{
    pc_segment *segment = new_memory(16);
    pc_heap heap = heap_of(segment, OWNER);
    uint64_t run = alloc(&heap, 3 * MIB);
    give(&heap, run);
    ASSERT_INT(spans_of(segment, OWNER), 0);
    heap.keep_runs = 1;
    run = alloc(&heap, 3 * MIB);
    at(&heap, run)[0] = 77;
    give(&heap, run);
    ASSERT_INT(spans_of(segment, OWNER), 3);
    ASSERT_INT(pc_heap_block_size(&heap, run), 0); /* it is none */
    ASSERT_INT(pc_heap_free(&heap, run), -EINVAL);
    ASSERT_INT(alloc(&heap, 3 * MIB - 5), run);
    ASSERT_INT(at(&heap, run)[0], 77);
    ASSERT_INT(pc_heap_block_size(&heap, run), 3 * MIB);
    give(&heap, run);
    uint64_t other = alloc(&heap, 2 * MIB); /* of another size */
    ASSERT(other != run);
    ASSERT_INT(spans_of(segment, OWNER), 5);
    give(&heap, other); /* in its place */
    ASSERT_INT(spans_of(segment, OWNER), 2);
    pc_heap_drop_kept(&heap);
    ASSERT_INT(spans_of(segment, OWNER), 0);
    ASSERT_INT(real_bytes(segment), 0);
    pc_heap_drop_kept(&heap);
    give(&heap, alloc(&heap, 5 * MIB)); /* more than a quarter of all */
    ASSERT_INT(spans_of(segment, OWNER), 0);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(a_large_block_that_is_kept_is_in_nobodys_way)
{
    pc_segment *segment = new_memory(16);
    pc_heap heap = heap_of(segment, OWNER);
    heap.keep_runs = 1;
    give(&heap, alloc(&heap, 4 * MIB));
    uint64_t all = alloc(&heap, 16 * MIB);
    ASSERT_INT(spans_of(segment, OWNER), 16);
    give(&heap, all);
    give(&heap, alloc(&heap, 4 * MIB));
    pc_heap_trim(&heap);
    ASSERT_INT(spans_of(segment, OWNER), 0);
    give(&heap, alloc(&heap, 4 * MIB)); /* it goes with its heap */
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(several_large_blocks_are_kept_and_the_oldest_ones_go_first)
{
    pc_segment *segment = new_memory(40);
    pc_heap heap = heap_of(segment, OWNER);
    uint64_t runs[5];
    heap.keep_runs = 4;
    for (int i = 0; i < 5; i++)
        runs[i] = alloc(&heap, (i < 4 ? 2 : 4) * MIB);
    for (int i = 0; i < 4; i++)
        give(&heap, runs[i]);
    ASSERT_INT(spans_of(segment, OWNER), 4 * 2 + 4);
    ASSERT_INT(alloc(&heap, 2 * MIB), runs[3]); /* the one that the caches know best */
    give(&heap, runs[3]);
    give(&heap, runs[4]); /* a fifth one; and with a quarter of 40, no more than 10 */
    ASSERT_INT(spans_of(segment, OWNER), 4 + 3 * 2);
    ASSERT_INT(alloc(&heap, 4 * MIB), runs[4]);
    ASSERT_INT(alloc(&heap, 2 * MIB), runs[3]);
    ASSERT_INT(alloc(&heap, 2 * MIB), runs[2]);
    ASSERT_INT(alloc(&heap, 2 * MIB), runs[1]);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(large_blocks_that_nobody_uses_any_more_are_dropped)
{
    pc_segment *segment = new_memory(40);
    pc_heap heap = heap_of(segment, OWNER);
    uint64_t used, unused;
    heap.keep_runs = 4;
    used = alloc(&heap, 2 * MIB);
    unused = alloc(&heap, 3 * MIB);
    give(&heap, unused);
    give(&heap, used);
    ASSERT(pc_heap_drop_unused(&heap)); /* both are new */
    give(&heap, alloc(&heap, 2 * MIB));
    ASSERT_INT(spans_of(segment, OWNER), 5);
    ASSERT(pc_heap_drop_unused(&heap));
    ASSERT_INT(spans_of(segment, OWNER), 2);
    ASSERT(!pc_heap_drop_unused(&heap));
    ASSERT_INT(spans_of(segment, OWNER), 0);
    ASSERT(!pc_heap_drop_unused(&heap));
    pc_heap_destroy(&heap);
    free_memory(segment);
}

/* ---- memory of the system ---- */

TEST(memory_is_taken_in_steps_and_returned_with_its_span)
{
    pc_segment *segment = new_memory(16);
    pc_heap heap = heap_of(segment, OWNER);
    static uint64_t blocks[64];
    ASSERT_INT(real_bytes(segment), 0);
    blocks[0] = alloc(&heap, 256);
    ASSERT_INT(real_bytes(segment), 64 * KIB);
    for (int i = 1; i < 64; i++)
        blocks[i] = alloc(&heap, 1 * KIB);
    ASSERT_INT(real_bytes(segment), 2 * 64 * KIB);
    uint64_t run = alloc(&heap, 8 * MIB);
    ASSERT_INT(real_bytes(segment), 2 * 64 * KIB + 8 * MIB);
    memset(at(&heap, run), 1, 8 * MIB);
    ASSERT_INT(real_bytes(segment), 2 * 64 * KIB + 8 * MIB);
    give(&heap, run);
    ASSERT_INT(real_bytes(segment), 2 * 64 * KIB);
    for (int i = 0; i < 64; i++)
        give(&heap, blocks[i]);
    ASSERT_INT(heap.empty, 2); /* one of each size is kept */
    ASSERT_INT(real_bytes(segment), 2 * 64 * KIB);
    give(&heap, alloc(&heap, 16 * MIB));
    ASSERT_INT(real_bytes(segment), 0);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(a_call_after_call_of_the_same_size_takes_no_new_span)
{
    pc_segment *segment = new_memory(16);
    for (unsigned keep = 0; keep < 3; keep++) {
        pc_heap heap;
        ASSERT_INT(pc_heap_init(&heap, segment, OWNER, keep), 0);
        uint64_t first = alloc(&heap, MIB);
        memset(at(&heap, first), 7, MIB);
        give(&heap, first);
        for (int i = 0; i < 100; i++) {
            uint64_t block = alloc(&heap, MIB);
            ASSERT_INT(block, first);
            ASSERT_INT(at(&heap, block)[MIB - 1], 7); /* not even given to the system */
            give(&heap, block);
        }
        give(&heap, alloc(&heap, 16 * MIB));
        pc_heap_destroy(&heap);
    }
    free_memory(segment);
}

TEST(as_many_empty_spans_are_kept_as_it_was_told_and_one_of_each_size)
{
    pc_segment *segment = new_memory(32);
    for (unsigned keep = 0; keep <= 8; keep += 4) {
        pc_heap heap;
        uint64_t blocks[12];
        ASSERT_INT(pc_heap_init(&heap, segment, OWNER, keep), 0);
        for (int i = 0; i < 12; i++)
            blocks[i] = alloc(&heap, MIB);
        for (int i = 0; i < 12; i++)
            give(&heap, blocks[i]);
        ASSERT_INT(spans_of(segment, OWNER), keep > 1 ? keep : 1);
        ASSERT_INT(heap.empty, spans_of(segment, OWNER));
        give(&heap, alloc(&heap, 32 * MIB));
        pc_heap_destroy(&heap);
    }
    free_memory(segment);
}

static sigjmp_buf after_fault;

static void on_fault(int number)
{
    siglongjmp(after_fault, number);
}

/* The signal that a touch of this byte is; 0: none. */
static int signal_of_touch(volatile uint8_t *byte)
{
    ASSERT(signal(SIGBUS, on_fault) != SIG_ERR);
    int number = sigsetjmp(after_fault, 1);
    if (number == 0)
        *byte = 1;
    return number;
}

/* A segment of 64 spans in a tmpfs where two or so of them fit. */
static pc_segment *small_memory(void)
{
    own_mounts();
    mount_tmpfs("/dev/shm", "size=2300k");
    pc_segment *segment = new_memory(64);
    char path[64], target[200] = "";
    snprintf(path, sizeof path, "/proc/self/fd/%d", segment->fd);
    ASSERT(readlink(path, target, sizeof target - 1) > 0);
    ASSERT(strstr(target, "/dev/shm/") == target);
    return segment;
}

TEST(where_dev_shm_is_full_there_is_no_memory_and_no_sigbus)
{
    static uint64_t blocks[20000];
    pc_segment *segment = small_memory();
    ASSERT_INT(signal_of_touch(segment->base + segment->spans_offset), 0); /* it would be one else: */
    pc_span_release(segment, 0);
    for (unsigned class = 0; class < PC_HEAP_CLASSES; class++) {
        pc_heap heap = heap_of(segment, OWNER);
        size_t size = (size_t)256 << class, count = 0;
        for (; pc_heap_alloc(&heap, size, &blocks[count]) == 0; count++)
            for (size_t i = 0; i < size; i += PAGE / 2)
                ASSERT_INT(signal_of_touch(at(&heap, blocks[count] + i)), 0);
        ASSERT(count * size >= 2 * MIB - 192 * KIB && count * size <= 2300 * KIB);
        ASSERT_INT(alloc_fails(&heap, size), -ENOMEM);
        ASSERT_INT(alloc_fails(&heap, 3 * MIB), -ENOMEM);
        for (size_t i = 0; i < count; i++) {
            ASSERT_INT(at(&heap, blocks[i])[0], 1);
            give(&heap, blocks[i]);
        }
        give(&heap, alloc(&heap, 2 * MIB)); /* and all of it is there again */
        ASSERT_INT(spans_of(segment, OWNER), heap.empty);
        for (uint32_t span = 0; heap.empty > 0 && span < 64; span++)
            if (owner_of(segment, span) == OWNER)
                pc_span_release(segment, span);
        ASSERT_INT(real_bytes(segment), 0);
        pc_heap_destroy(&heap);
    }
    free_memory(segment);
}

TEST(a_run_for_which_there_is_no_memory_is_given_back_whole)
{
    pc_segment *segment = small_memory();
    pc_heap heap = heap_of(segment, OWNER);
    for (int i = 0; i < 3; i++) {
        ASSERT_INT(alloc_fails(&heap, 40 * MIB), -ENOMEM);
        ASSERT_INT(spans_of(segment, PC_OWNER_FREE), 64);
        ASSERT_INT(real_bytes(segment), 0);
    }
    give(&heap, alloc(&heap, 2 * MIB));
    pc_heap_destroy(&heap);
    free_memory(segment);
}

/* ---- given back by the host ---- */

static _Atomic uint64_t *returned(pc_heap *heap)
{
    return &heap->segment->workers[WORKER].returned;
}

static void set_link(pc_heap *heap, uint64_t block, uint64_t link)
{
    memcpy(at(heap, block), &link, sizeof link);
}

TEST(what_is_given_back_is_free_after_it_was_taken_back)
{
    pc_segment *segment = new_memory(4);
    pc_heap heap = heap_of(segment, OWNER);
    uint64_t blocks[100];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 100; i++)
            blocks[i] = alloc(&heap, i % 10 == 0 ? 100 * KIB : 1000);
        for (int i = 0; i < 100; i++) {
            pc_heap_give_back(segment, WORKER, blocks[i]);
            ASSERT(pc_heap_block_size(&heap, blocks[i]) > 0); /* not yet */
        }
        pc_heap_take_back(&heap, WORKER + 1); /* another's */
        ASSERT(pc_heap_block_size(&heap, blocks[0]) > 0);
        pc_heap_take_back(&heap, WORKER);
        for (int i = 0; i < 100; i++)
            ASSERT_INT(pc_heap_block_size(&heap, blocks[i]), 0);
        ASSERT_INT(*returned(&heap), 0);
        pc_heap_take_back(&heap, WORKER);
    }
    give(&heap, alloc(&heap, 4 * MIB));
    ASSERT_INT(spans_of(segment, PC_OWNER_FREE), 4);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(a_link_that_was_scribbled_over_ends_the_list_and_frees_nothing_else)
{
    pc_segment *segment = new_memory(8);
    pc_heap heap = heap_of(segment, OWNER), other = heap_of(segment, OWNER + 1);
    uint64_t kept = alloc(&heap, 1000), run = alloc(&heap, 2 * MIB), foreign = alloc(&other, 1000);
    memset(at(&heap, kept), 0, 1000);
    const uint64_t links[] = {1,
                              kept + 1,
                              kept + 4,
                              kept + 64,
                              kept + 8 * KIB, /* free */
                              run + MIB,
                              foreign,
                              64,
                              segment->spans_offset - 1,
                              segment->spans_offset - 8,
                              segment->size - 8,
                              segment->size - 4,
                              segment->size,
                              segment->size + PAGE,
                              UINT64_MAX,
                              UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof links / sizeof *links; i++) {
        uint64_t block = alloc(&heap, 1000);
        pc_heap_give_back(segment, WORKER, block);
        set_link(&heap, block, links[i]);
        pc_heap_take_back(&heap, WORKER);
        ASSERT_INT(pc_heap_block_size(&heap, block), 0);
        atomic_store(returned(&heap), links[i]); /* the first of them */
        pc_heap_take_back(&heap, WORKER);
        ASSERT_INT(pc_heap_block_size(&heap, kept), 1024);
        ASSERT_INT(pc_heap_block_size(&heap, run), 2 * MIB);
        ASSERT_INT(pc_heap_block_size(&other, foreign), 1024);
    }
    pc_heap_destroy(&heap);
    pc_heap_destroy(&other);
    free_memory(segment);
}

TEST(a_link_to_a_place_without_memory_is_not_followed)
{
    pc_segment *segment = small_memory();
    pc_heap heap = heap_of(segment, OWNER);
    uint64_t block = alloc(&heap, 1000);
    while (pc_heap_alloc(&heap, 60 * KIB, &(uint64_t){0}) == 0)
        continue; /* till it is full */
    ASSERT_INT(signal_of_touch(segment->base + segment->size - 8), SIGBUS);
    ASSERT(signal(SIGBUS, SIG_DFL) != SIG_ERR);
    pc_heap_give_back(segment, WORKER, block);
    set_link(&heap, block, segment->size - 1024);
    pc_heap_take_back(&heap, WORKER);
    ASSERT_INT(pc_heap_block_size(&heap, block), 0);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TEST(a_list_that_runs_in_a_circle_ends)
{
    pc_segment *segment = new_memory(4);
    pc_heap heap = heap_of(segment, OWNER);
    for (int length = 1; length <= 20; length++) {
        uint64_t kept = alloc(&heap, 1000), blocks[20];
        for (int i = 0; i < length; i++) {
            blocks[i] = alloc(&heap, 1000);
            pc_heap_give_back(segment, WORKER, blocks[i]);
        }
        set_link(&heap, blocks[0], blocks[length - 1]); /* the last leads to the first */
        pc_heap_take_back(&heap, WORKER);
        for (int i = 0; i < length; i++)
            ASSERT_INT(pc_heap_block_size(&heap, blocks[i]), 0);
        give(&heap, kept);
    }
    pc_heap_destroy(&heap);
    free_memory(segment);
}

static struct {
    pc_heap heap;
    uint64_t blocks[3];
} race;

static void prepare_three_blocks(void *argument)
{
    (void)argument;
    for (int i = 0; i < 3; i++) {
        race.blocks[i] = alloc(&race.heap, 1000);
        set_link(&race.heap, race.blocks[i], UINT64_MAX); /* as it was, it is no link */
    }
    pc_heap_give_back(race.heap.segment, WORKER, race.blocks[0]);
}

static void give_back_one(void *argument)
{
    (void)argument;
    pc_heap_give_back(race.heap.segment, WORKER, race.blocks[1]);
}

static void give_back_another(void *argument)
{
    (void)argument;
    pc_heap_give_back(race.heap.segment, WORKER, race.blocks[2]);
}

static void take_back(void *argument)
{
    (void)argument;
    pc_heap_take_back(&race.heap, WORKER);
}

static void check_all_returned(void *argument)
{
    take_back(argument);
    for (int i = 0; i < 3; i++)
        ASSERT_INT(pc_heap_block_size(&race.heap, race.blocks[i]), 0);
}

static void walk(void (*stepped)(void *), void (*first)(void *), void (*second)(void *))
{
    pc_segment *segment = new_memory(2);
    race.heap = heap_of(segment, OWNER);
    interleave(&(interleaving){.prepare = prepare_three_blocks,
                               .stepped = stepped,
                               .others = {first, second},
                               .check = check_all_returned});
    pc_heap_destroy(&race.heap);
    free_memory(segment);
}

TEST(wherever_others_come_while_a_block_is_given_back_none_is_lost)
{
    walk(give_back_one, give_back_another, take_back);
    walk(give_back_one, take_back, give_back_another);
}

TEST(wherever_blocks_are_given_back_while_they_are_taken_back_none_is_lost)
{
    walk(take_back, give_back_one, give_back_another);
}

/* ---- threads and processes ---- */

enum { GIVERS = 3, LETTERS = 64 };

/* The worker hands blocks to the host's threads, and they come back. */
typedef struct post {
    pc_segment *segment;
    _Atomic uint64_t letters[GIVERS][LETTERS]; /* 0: empty */
    _Atomic bool over;
    _Atomic unsigned givers;
} post;

static void *give_back_letters(void *argument)
{
    post *p = argument;
    _Atomic uint64_t *letters = p->letters[atomic_fetch_add(&p->givers, 1)];
    bool over;
    do {
        over = atomic_load(&p->over);
        for (int i = 0; i < LETTERS; i++) {
            uint64_t offset = atomic_exchange(&letters[i], 0);
            if (offset != 0)
                pc_heap_give_back(p->segment, WORKER, offset);
        }
    } while (!over);
    return NULL;
}

TEST(blocks_given_back_by_many_threads_all_come_back)
{
    post *p = shared_memory(sizeof *p);
    pthread_t threads[GIVERS];
    p->segment = new_memory(16);
    pc_heap heap = heap_of(p->segment, OWNER);
    uint64_t random = 1;
    unsigned sent = 0;
    for (int i = 0; i < GIVERS; i++)
        threads[i] = thread_start(give_back_letters, p);
    for (rounds r = rounds_of(500, 100); rounds_go_on(&r);) {
        for (unsigned i = 0; i < GIVERS * LETTERS; i++) {
            _Atomic uint64_t *letter = &p->letters[i % GIVERS][i / GIVERS];
            if (atomic_load(letter) != 0)
                continue;
            uint64_t offset = alloc(&heap, 256 + random_below(&random, 8000));
            memset(at(&heap, offset), 0xff, 256); /* till it is a link */
            atomic_store(letter, offset);
            sent++;
        }
        pc_heap_take_back(&heap, WORKER);
    }
    atomic_store(&p->over, true);
    for (int i = 0; i < GIVERS; i++)
        thread_end(threads[i]);
    pc_heap_take_back(&heap, WORKER);
    give(&heap, alloc(&heap, 16 * MIB)); /* nothing is missing */
    ASSERT_INT(spans_of(p->segment, PC_OWNER_FREE), 16);
    DIAG("%u blocks", sent);
    pc_heap_destroy(&heap);
    free_memory(p->segment);
}

enum { OWNERS = 3, HELD = 6 };

typedef struct market {
    pc_segment *segment;
    _Atomic unsigned full, taken;
} market;

static void trade(market *m, uint32_t owner)
{
    pc_heap heap = heap_of(m->segment, owner);
    held blocks[HELD] = {{0}};
    uint64_t random = owner;
    for (rounds r = rounds_of(700, 100); rounds_go_on(&r);) {
        held *b = &blocks[random_below(&random, HELD)];
        if (b->size > 0) {
            expect_stamp(&heap, b);
            ASSERT(pc_span_owned(m->segment, b->offset, b->size, owner));
            give(&heap, b->offset);
            b->size = 0;
            continue;
        }
        size_t size = random_below(&random, 3) == 0 ? random_size(&random)
                                                    : random_below(&random, 6 * MIB);
        int rc = pc_heap_alloc(&heap, size, &b->offset);
        if (rc < 0) {
            ASSERT_INT(rc, -ENOMEM);
            atomic_fetch_add(&m->full, 1);
            continue;
        }
        b->size = pc_heap_block_size(&heap, b->offset);
        b->stamp = random_next(&random) << 12 | owner;
        for (size_t i = 0; i + 8 <= b->size; i += PAGE)
            memcpy(at(&heap, b->offset) + i, &b->stamp, 8);
        stamp(&heap, b);
        atomic_fetch_add(&m->taken, 1);
    }
    for (int i = 0; i < HELD; i++)
        if (blocks[i].size > 0) {
            for (size_t k = 0; k + 8 <= blocks[i].size; k += PAGE)
                ASSERT_MEM(at(&heap, blocks[i].offset) + k, &blocks[i].stamp, 8);
            give(&heap, blocks[i].offset);
        }
    uint64_t some;
    if (pc_heap_alloc(&heap, 20 * MIB, &some) == 0)
        give(&heap, some);
    for (uint32_t span = 0; span < m->segment->config.spans; span++)
        if (owner_of(m->segment, span) == owner)
            pc_span_release(m->segment, span); /* kept ones: as the sweep does */
    pc_heap_destroy(&heap);
}

static void trade_in_process(void *argument)
{
    market *m = argument;
    trade(m, pc_owner_worker((unsigned)getpid() % 1000, 3));
    /* At a process's end valgrind reads all that is mapped, to find leaks; a read makes memory real. */
    pc_segment_unmap(m->segment);
}

static void *trade_in_thread(void *argument)
{
    trade(argument, PC_OWNER_HOST);
    return NULL;
}

TEST(owners_that_compete_for_runs_never_get_the_same_span)
{
    market *m = shared_memory(sizeof *m);
    pid_t pids[OWNERS];
    m->segment = new_memory(20);
    for (int i = 0; i < OWNERS; i++)
        pids[i] = process_start(trade_in_process, m);
    pthread_t host = thread_start(trade_in_thread, m);
    thread_end(host);
    for (int i = 0; i < OWNERS; i++)
        process_end(pids[i]);
    ASSERT_INT(spans_of(m->segment, PC_OWNER_FREE), 20);
    ASSERT_INT(real_bytes(m->segment), 0);
    DIAG("%u runs taken, %u times there was none", m->taken, m->full);
    free_memory(m->segment);
}

static void take_runs_until_killed(void *argument)
{
    pc_heap heap = heap_of(argument, OWNER);
    for (;;) {
        uint64_t run, small;
        bool ok = pc_heap_alloc(&heap, 3 * MIB, &run) == 0;
        if (pc_heap_alloc(&heap, 100, &small) == 0)
            give(&heap, small);
        if (ok)
            give(&heap, run);
    }
}

TEST(an_owner_that_is_killed_anywhere_leaves_no_span_in_nobodys_hands)
{
    pc_segment *segment = new_memory(5);
    pc_heap heap = heap_of(segment, OWNER + 1);
    uint64_t random = 1;
    unsigned left[6] = {0};
    atomic_store(&segment->span_owners[1], OWNER + 2); /* so that span 0 is taken and given back */
    for (rounds r = rounds_of(500, 20); rounds_go_on(&r);) {
        pid_t pid = process_start(take_runs_until_killed, segment);
        int64_t end = pc_now() + (int64_t)random_below(&random, 2 * MS);
        while (pc_now() < end)
            sched_yield();
        process_kill(pid);
        unsigned owned = spans_of(segment, OWNER);
        ASSERT_INT(spans_of(segment, PC_OWNER_FREE) + owned, 4);
        left[owned]++;
        for (uint32_t span = 0; span < 5; span++)
            if (owner_of(segment, span) == OWNER)
                pc_span_release(segment, span);
        give(&heap, alloc(&heap, 3 * MIB));
    }
    DIAG("left 0, 1, 2, 3, 4 spans: %u, %u, %u, %u, %u times", left[0], left[1], left[2], left[3],
         left[4]);
    pc_heap_destroy(&heap);
    free_memory(segment);
}

TAP_MAIN
