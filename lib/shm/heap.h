/* heap: memory of the segment for values that do not fit a slot; spans and their owners.
 *
 * Overview. The segment's memory is spans of 1 MiB, each owned by one side: the host, or one
 * incarnation of a worker. To take a span is one compare-and-swap of its owner word from FREE to
 * the taker's name. Inside its spans an owner allocates as it likes: a span holds blocks of one
 * size (256 bytes to 1 MiB, powers of two), and what is larger takes a run of spans. Which blocks
 * are free is private memory of the owner, so another process can neither read nor break it.
 *
 * Usage. One pc_heap for each owner; not thread-safe (the host holds a lock). Blocks are segment
 * offsets, 64-byte aligned, never 0. The memory is reserved (MADV_POPULATE_WRITE) in steps before
 * it is handed out, so a full /dev/shm is -ENOMEM and never SIGBUS, and given back to the system
 * with its span.
 *
 * Who else frees. The host returns a worker's blocks by pc_heap_give_back: a stack in the worker's
 * record, linked through the blocks' first 8 bytes. Pushers never follow a link, so a scribbled one
 * cannot hurt them; the owner takes the whole stack by one exchange (no ABA) and checks each.
 *
 * After a death nothing of its allocator is rebuilt. pc_span_* lets the host see which spans a dead
 * owner had; it frees them when the last lease on them ends. */
#ifndef PC_SHM_HEAP_H
#define PC_SHM_HEAP_H

#include "lib/shm/segment.h"

#define PC_OWNER_FREE 0u
#define PC_OWNER_HOST 1u
#define PC_OWNER_KEPT 0xfffu /* a dead worker's, which the host still reads; no worker's name */

/* A worker's name as owner of spans: never 0 or 1. */
static inline uint32_t pc_owner_worker(unsigned worker, unsigned incarnation)
{
    return (incarnation & 0xfffffu) << 12 | (worker + 2);
}

/* How long, at least, an owner keeps a large block that nobody uses. */
#define PC_KEEP_NS ((int64_t)100 * 1000 * 1000)

enum { PC_HEAP_CLASSES = 13, PC_HEAP_BLOCK_MIN = 256 };

typedef struct pc_heap_span pc_heap_span;

typedef struct pc_heap pc_heap;
struct pc_heap {
    pc_segment *segment;
    uint32_t owner;
    pc_heap_span **spans;               /* by index; NULL: not ours, or inside a run */
    pc_heap_span *partial[PC_HEAP_CLASSES]; /* with free blocks, a list for each class */
    unsigned empty; /* spans without a block in use, */
    unsigned keep;  /* and how many of those are kept at most */
    unsigned keep_runs; /* so many large blocks that were freed are kept too, */
    pc_heap_span *kept; /* in case the next ones are as large; the last freed first */
    uint32_t look; /* of pc_heap_drop_unused */
    void (*given_back)(pc_heap *heap, uint64_t offset); /* is told of each before it is freed, if set */
};

/* keep: how many empty spans it keeps for what comes next, at least one for each size in
 * use, if that is no more than a quarter of all. 0 or
 * -ENOMEM. */
int pc_heap_init(pc_heap *heap, pc_segment *segment, uint32_t owner, unsigned keep);
void pc_heap_destroy(pc_heap *heap); /* the private side only: the spans stay owned */

/* A block of at least size bytes: its offset in *ret. -E2BIG: more than the segment has; -ENOMEM. */
int pc_heap_alloc(pc_heap *heap, size_t size, uint64_t *ret);

/* 0, or -EINVAL if offset is no block in use of this heap. */
int pc_heap_free(pc_heap *heap, uint64_t offset);

/* The bytes that the block at offset really has; 0 if it is none. */
size_t pc_heap_block_size(const pc_heap *heap, uint64_t offset);

/* How many spans in a row are the heap's from this one on, by its private records; 0 for one that is
 * not its, or inside such a run. */
uint32_t pc_heap_run(const pc_heap *heap, uint32_t span);

/* Host: gives a worker's block back to it. offset was checked to be in its spans. Against a
 * scribbler it gives up: the block is then lost until the worker's end. */
void pc_heap_give_back(pc_segment *segment, unsigned worker, uint64_t offset);

/* Whether something was given back that the worker has not taken yet. */
bool pc_heap_is_given_back(const pc_segment *segment, unsigned worker);

/* Gives the spans back that are kept empty for what comes next. */
void pc_heap_trim(pc_heap *heap);

/* Only those of the large blocks that are kept. */
void pc_heap_drop_kept(pc_heap *heap);

/* Of these, those that no call took up since the last time it was called. Whether others are left. */
bool pc_heap_drop_unused(pc_heap *heap);

/* Worker: frees what was given back. False: the list did not end as it should, so somebody wrote over
 * it, and blocks are lost: better to end than to live with ever less memory. */
bool pc_heap_take_back(pc_heap *heap, unsigned worker);

static inline void *pc_segment_at(const pc_segment *segment, uint64_t offset)
{
    return segment->base + offset;
}

static inline uint32_t pc_span_of(const pc_segment *segment, uint64_t offset)
{
    return (uint32_t)((offset - segment->spans_offset) / PC_SPAN_SIZE);
}

/* Where a block of this class would begin that offset is in: blocks stand at multiples of their size. */
static inline uint64_t pc_heap_block_around(const pc_segment *segment, uint64_t offset, unsigned class)
{
    return offset - (offset - segment->spans_offset) % ((uint64_t)PC_HEAP_BLOCK_MIN << class);
}

/* Whether [offset, offset + size) lies in spans of this owner. */
bool pc_span_owned(const pc_segment *segment, uint64_t offset, uint64_t size, uint32_t owner);

/* Gives a span's memory to the system and then frees it. */
void pc_span_release(pc_segment *segment, uint32_t span);
void pc_spans_release(pc_segment *segment, uint32_t span, uint32_t count); /* the same, in a row */

#endif
