#include "lib/shm/heap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/shm/budget.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { KEEP_SHARE = 4 };

#define RESERVE_STEP ((size_t)64 << 10)
#define RESERVE_MOST ((size_t)8 << 20) /* at once: others may be reserving, too */
/* How often a swap is tried anew: who loses it as often has a scribbler for company. */
enum { TRIES = 1000 };
#define CGROUP_MARGIN ((uint64_t)32 << 20) /* this near to a limit, reserving risks an OOM kill */

struct pc_heap_span {
    uint32_t index;
    unsigned class;
    uint32_t run;      /* spans: 1, or more for a large block */
    uint32_t blocks, used;
    uint32_t hint;     /* no free block in the words before it */
    size_t reserved;   /* bytes from the start */
    uint32_t look;     /* since when it is kept */
    pc_heap_span *next, **link; /* in partial or kept; link is NULL while full */
    uint64_t free[];   /* a bit for each block */
};

static size_t class_size(unsigned class)
{
    return (size_t)PC_HEAP_BLOCK_MIN << class;
}

static unsigned class_of(size_t size)
{
    if (size <= PC_HEAP_BLOCK_MIN)
        return 0;
    return (unsigned)(64 - __builtin_clzll(size - 1) - 8);
}

/* ---- spans ---- */

static uint64_t span_offset(const pc_segment *segment, uint32_t span)
{
    return segment->spans_offset + span * PC_SPAN_SIZE;
}

static bool span_claim(pc_segment *segment, uint32_t span, uint32_t owner)
{
    uint32_t free = PC_OWNER_FREE;

    /* P1: acquire, pairs with the release in pc_span_release: its pages are gone before they are
     * ours, not after. */
    return atomic_compare_exchange_strong_explicit(&segment->span_owners[span], &free, owner,
                                                   memory_order_acquire, memory_order_relaxed);
}

static void span_unclaim(pc_segment *segment, uint32_t span)
{
    atomic_store_explicit(&segment->span_owners[span], PC_OWNER_FREE, memory_order_release); /* P1 */
}

void pc_spans_release(pc_segment *segment, uint32_t span, uint32_t count)
{
    if (count > 0)
        madvise(segment->base + span_offset(segment, span), count * PC_SPAN_SIZE, MADV_REMOVE);
    for (; count > 0; count--)
        span_unclaim(segment, span++);
}

void pc_span_release(pc_segment *segment, uint32_t span)
{
    pc_spans_release(segment, span, 1);
}

bool pc_span_owned(const pc_segment *segment, uint64_t offset, uint64_t size, uint32_t owner)
{
    if (!pc_segment_holds(segment, offset, size) || size == 0)
        return false;
    for (uint32_t span = pc_span_of(segment, offset); span <= pc_span_of(segment, offset + size - 1);
         span++)
        if (atomic_load_explicit(&segment->span_owners[span], memory_order_relaxed) != owner)
            return false;
    return true;
}

/* Claims count spans in a row, upward one by one; on meeting another's it gives back and starts
 * beyond. Two passes, since others may have given back behind it. */
static int claim_run(pc_heap *heap, uint32_t count, uint32_t *ret)
{
    pc_segment *segment = heap->segment;
    uint32_t total = segment->config.spans;

    if (count > total)
        return -E2BIG;
    if (pc_budget_cgroup() < count * PC_SPAN_SIZE + CGROUP_MARGIN)
        return -ENOMEM;
    for (int pass = 0; pass < 2; pass++) {
        uint32_t got = 0;

        for (uint32_t span = 0; span < total; span++) {
            if (span_claim(segment, span, heap->owner)) {
                if (++got < count)
                    continue;
                *ret = span + 1 - count;
                return 0;
            }
            while (got > 0)
                span_unclaim(segment, span - got--);
        }
        while (got > 0)
            span_unclaim(segment, total - got--);
    }
    return -ENOMEM;
}

/* A full tmpfs is EFAULT here, where a plain store would be SIGBUS. */
static int populate(uint8_t *at, size_t size)
{
    while (madvise(at, size, MADV_POPULATE_WRITE) < 0)
        if (errno != EINTR && errno != EAGAIN)
            return -ENOMEM;
    return 0;
}

/* Makes the first bytes of a span's memory real. Before each step behind the first (before which
 * claim_run has) the cgroup is looked at again: several processes that each have seen room for all of
 * theirs would together be an OOM kill. */
static int reserve(pc_heap *heap, pc_heap_span *span, size_t bytes)
{
    size_t total = span->run * PC_SPAN_SIZE;
    size_t to = (bytes + RESERVE_STEP - 1) / RESERVE_STEP * RESERVE_STEP;
    uint8_t *base = heap->segment->base + span_offset(heap->segment, span->index);

    if (to > total)
        to = total;
    while (span->reserved < to) {
        size_t step = to - span->reserved < RESERVE_MOST ? to - span->reserved : RESERVE_MOST;

        if (span->reserved >= RESERVE_MOST && pc_budget_cgroup() < step + CGROUP_MARGIN)
            return -ENOMEM;
        if (populate(base + span->reserved, step) < 0)
            return -ENOMEM;
        span->reserved += step;
    }
    return 0;
}

/* ---- the lists of spans with free blocks ---- */

static void push(pc_heap_span **head, pc_heap_span *span)
{
    span->next = *head;
    span->link = head;
    if (span->next != NULL)
        span->next->link = &span->next;
    *head = span;
}

static void list_push(pc_heap *heap, pc_heap_span *span)
{
    push(&heap->partial[span->class], span);
}

static void list_remove(pc_heap_span *span)
{
    *span->link = span->next;
    if (span->next != NULL)
        span->next->link = span->link;
    span->link = NULL;
}

static pc_heap_span *span_new(unsigned class, uint32_t run)
{
    uint32_t blocks = class < PC_HEAP_CLASSES ? (uint32_t)(PC_SPAN_SIZE / class_size(class)) : 1;
    size_t words = (blocks + 63) / 64;
    pc_heap_span *span = calloc(1, sizeof *span + words * sizeof span->free[0]);

    if (span == NULL)
        return NULL;
    span->class = class;
    span->run = run;
    span->blocks = blocks;
    for (uint32_t i = 0; i < blocks; i++)
        span->free[i / 64] |= UINT64_C(1) << i % 64;
    return span;
}

/* A new span (or run) for this class. */
static int span_take(pc_heap *heap, unsigned class, uint32_t run, pc_heap_span **ret)
{
    pc_heap_span *span = span_new(class, run);
    int rc = span == NULL ? -ENOMEM : claim_run(heap, run, &span->index);

    if (rc < 0) {
        free(span);
        return rc;
    }
    heap->spans[span->index] = span;
    *ret = span;
    return 0;
}

static void span_drop(pc_heap *heap, pc_heap_span *span)
{
    heap->spans[span->index] = NULL;
    for (uint32_t i = span->run; i-- > 0;)
        pc_span_release(heap->segment, span->index + i);
    free(span);
}

/* ---- blocks ---- */

int pc_heap_init(pc_heap *heap, pc_segment *segment, uint32_t owner, unsigned keep)
{
    *heap = (pc_heap){.segment = segment, .owner = owner, .keep = keep};
    heap->spans = calloc(segment->config.spans, sizeof heap->spans[0]);
    return heap->spans == NULL ? -ENOMEM : 0;
}

void pc_heap_destroy(pc_heap *heap)
{
    for (uint32_t i = 0; heap->spans != NULL && i < heap->segment->config.spans; i++)
        free(heap->spans[i]);
    free(heap->spans);
    heap->spans = NULL;
}

static uint32_t first_free(pc_heap_span *span)
{
    while (span->free[span->hint] == 0)
        span->hint++;
    return span->hint * 64 + (uint32_t)__builtin_ctzll(span->free[span->hint]);
}

static int take_block(pc_heap *heap, pc_heap_span *span, uint64_t *ret)
{
    uint32_t block = first_free(span);
    size_t start = block * class_size(span->class);
    int rc = reserve(heap, span, start + class_size(span->class));

    if (rc < 0)
        return rc;
    span->free[block / 64] &= ~(UINT64_C(1) << block % 64);
    if (span->used++ == 0)
        heap->empty--;
    if (span->used == span->blocks)
        list_remove(span);
    *ret = span_offset(heap->segment, span->index) + start;
    return 0;
}

static int alloc_small(pc_heap *heap, unsigned class, uint64_t *ret)
{
    pc_heap_span *span = heap->partial[class];
    int rc;

    if (span == NULL) {
        rc = span_take(heap, class, 1, &span);
        if (rc < 0)
            return rc;
        heap->empty++;
        list_push(heap, span);
    }
    rc = take_block(heap, span, ret);
    if (rc < 0 && span->used == 0) {
        list_remove(span);
        heap->empty--;
        span_drop(heap, span);
    }
    return rc;
}

/* NULL: there is none of that size. */
static pc_heap_span *take_kept(const pc_heap *heap, uint32_t run)
{
    for (pc_heap_span *span = heap->kept; span != NULL; span = span->next)
        if (span->run == run) {
            list_remove(span);
            return span;
        }
    return NULL;
}

static uint64_t use_whole(pc_heap *heap, pc_heap_span *span)
{
    span->used = 1;
    span->free[0] = 0;
    return span_offset(heap->segment, span->index);
}

static int alloc_large(pc_heap *heap, size_t size, uint64_t *ret)
{
    size_t run = size / PC_SPAN_SIZE + (size % PC_SPAN_SIZE != 0); /* cannot wrap, whatever size is */
    pc_heap_span *span;
    int rc;

    if (run > heap->segment->config.spans)
        return -E2BIG;
    span = take_kept(heap, (uint32_t)run);
    if (span != NULL) {
        *ret = use_whole(heap, span);
        return 0;
    }
    rc = span_take(heap, PC_HEAP_CLASSES, (uint32_t)run, &span);
    if (rc < 0)
        return rc;
    rc = reserve(heap, span, run * PC_SPAN_SIZE);
    if (rc < 0) {
        span_drop(heap, span);
        return rc;
    }
    *ret = use_whole(heap, span);
    return 0;
}

/* From the count-th on. True: there were some before it. */
static bool drop_kept_from(pc_heap *heap, unsigned count)
{
    pc_heap_span *span = heap->kept, *next;

    for (unsigned i = 0; i < count && span != NULL; i++)
        span = span->next;
    for (; span != NULL; span = next) {
        next = span->next;
        list_remove(span);
        span_drop(heap, span);
    }
    return heap->kept != NULL;
}

void pc_heap_drop_kept(pc_heap *heap)
{
    drop_kept_from(heap, 0);
}

bool pc_heap_drop_unused(pc_heap *heap)
{
    unsigned used = 0;

    for (const pc_heap_span *span = heap->kept; span != NULL && span->look == heap->look; span = span->next)
        used++;
    heap->look++;
    return drop_kept_from(heap, used);
}

/* Its pages are there: the next block of the size need not wait for the kernel to clear new ones. The oldest
 * ones go for it. */
static void keep_or_drop(pc_heap *heap, pc_heap_span *span)
{
    uint32_t most = heap->segment->config.spans / KEEP_SHARE;
    unsigned count = 0;
    uint32_t spans = span->run;

    if (heap->keep_runs == 0 || spans > most) {
        span_drop(heap, span);
        return;
    }
    for (const pc_heap_span *old = heap->kept;
         old != NULL && count + 1 < heap->keep_runs && spans + old->run <= most; old = old->next) {
        spans += old->run;
        count++;
    }
    drop_kept_from(heap, count);
    span->used = 0;
    span->free[0] = 1;
    span->look = heap->look;
    push(&heap->kept, span);
}

void pc_heap_trim(pc_heap *heap)
{
    pc_heap_drop_kept(heap);
    for (unsigned class = 0; class < PC_HEAP_CLASSES; class++)
        for (pc_heap_span *span = heap->partial[class], *next; span != NULL; span = next) {
            next = span->next;
            if (span->used > 0)
                continue;
            list_remove(span);
            heap->empty--;
            span_drop(heap, span);
        }
}

static int alloc_once(pc_heap *heap, size_t size, uint64_t *ret)
{
    return size <= PC_SPAN_SIZE ? alloc_small(heap, class_of(size), ret)
                                : alloc_large(heap, size, ret);
}

int pc_heap_alloc(pc_heap *heap, size_t size, uint64_t *ret)
{
    int rc = alloc_once(heap, size, ret);

    if (rc == -ENOMEM && (heap->empty > 0 || heap->kept != NULL)) {
        pc_heap_trim(heap);
        rc = alloc_once(heap, size, ret);
    }
    return rc;
}

/* The span that offset is a block of; its number in *block. NULL if it is none in use. */
static pc_heap_span *find(const pc_heap *heap, uint64_t offset, uint32_t *block)
{
    pc_heap_span *span;
    uint64_t inside;

    if (!pc_segment_holds(heap->segment, offset, 1))
        return NULL;
    span = heap->spans[pc_span_of(heap->segment, offset)];
    inside = (offset - heap->segment->spans_offset) % PC_SPAN_SIZE;
    if (span == NULL)
        return NULL;
    *block = 0;
    if (span->class < PC_HEAP_CLASSES) {
        if (inside % class_size(span->class) != 0)
            return NULL;
        *block = (uint32_t)(inside / class_size(span->class));
    } else if (inside != 0) {
        return NULL;
    }
    return span->free[*block / 64] >> *block % 64 & 1 ? NULL : span;
}

size_t pc_heap_block_size(const pc_heap *heap, uint64_t offset)
{
    uint32_t block;
    const pc_heap_span *span = find(heap, offset, &block);

    if (span == NULL)
        return 0;
    return span->class < PC_HEAP_CLASSES ? class_size(span->class) : span->run * PC_SPAN_SIZE;
}

/* A span that became empty is kept while those are few, or if it is the only one of its class with
 * room: call after call that allocates and frees must not take and drop a span each time. But where
 * memory is small, one for each class could be all there is, and others need some. */
static void span_emptied(pc_heap *heap, pc_heap_span *span)
{
    bool only = heap->partial[span->class] == span && span->next == NULL;
    uint32_t most = heap->segment->config.spans / KEEP_SHARE;

    if (heap->empty < heap->keep || (only && heap->empty < most)) {
        heap->empty++;
        return;
    }
    list_remove(span);
    span_drop(heap, span);
}

int pc_heap_free(pc_heap *heap, uint64_t offset)
{
    uint32_t block;
    pc_heap_span *span = find(heap, offset, &block);

    if (span == NULL)
        return -EINVAL;
    if (span->class == PC_HEAP_CLASSES) {
        keep_or_drop(heap, span);
        return 0;
    }
    span->free[block / 64] |= UINT64_C(1) << block % 64;
    if (block / 64 < span->hint)
        span->hint = block / 64;
    if (span->link == NULL)
        list_push(heap, span);
    if (--span->used == 0)
        span_emptied(heap, span);
    return 0;
}

/* ---- blocks given back by the host ---- */

uint32_t pc_heap_run(const pc_heap *heap, uint32_t span)
{
    return heap->spans[span] == NULL ? 0 : heap->spans[span]->run;
}

void pc_heap_give_back(pc_segment *segment, unsigned worker, uint64_t offset)
{
    _Atomic uint64_t *head = &segment->workers[worker].returned;
    _Atomic uint64_t *link = (_Atomic uint64_t *)pc_segment_at(segment, offset);
    uint64_t first = atomic_load_explicit(head, memory_order_relaxed);

    for (unsigned i = 0; i < TRIES; i++) {
        atomic_store_explicit(link, first, memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(head, &first, offset, memory_order_release,
                                                  memory_order_relaxed)) /* H1 */
            return;
    }
}

bool pc_heap_is_given_back(const pc_segment *segment, unsigned worker)
{
    return atomic_load_explicit(&segment->workers[worker].returned, memory_order_relaxed) != 0;
}

bool pc_heap_take_back(pc_heap *heap, unsigned worker)
{
    _Atomic uint64_t *head = &heap->segment->workers[worker].returned;
    uint64_t offset;

    if (atomic_load_explicit(head, memory_order_relaxed) == 0)
        return true;
    offset = atomic_exchange_explicit(head, 0, memory_order_acquire); /* H1 */
    /* Looked at only if it is a block in use: a scribbled link may lead to a place that is not
     * reserved, or between two words. A cycle ends there too, at a block that is free already. */
    while (pc_heap_block_size(heap, offset) > 0) {
        uint64_t next = atomic_load_explicit((_Atomic uint64_t *)pc_segment_at(heap->segment, offset),
                                             memory_order_relaxed);

        if (heap->given_back != NULL)
            heap->given_back(heap, offset);
        pc_heap_free(heap, offset);
        offset = next;
    }
    return offset == 0;
}
