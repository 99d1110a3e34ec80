#include "worker/items.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/shm/idle.h"
#include "lib/shm/probes.h"
#include "worker/array.h"
#include "worker/async.h"
#include "worker/engine.h"
#include "worker/loop.h"
#include "worker/map.h"
#include "worker/timing.h"

enum { ARENA_BLOCK_MAX = 1 << 20, AHEAD = 512 /* bytes */ };
#define MEMORY_WAIT_NS ((int64_t)100 * 1000 * 1000)

/* Whether the present value is all that the present block holds. */
static bool is_alone(const pc_items_writer *w)
{
    return w->in_arena && w->start == 0;
}

/* A value that grows gets twice as much each time; for those that follow one another, what is left
 * over in a block must not become large. */
static size_t arena_size(const pc_items_writer *w)
{
    if (w->block == 0)
        return w->first;
    return is_alone(w) || w->capacity < ARENA_BLOCK_MAX / 2 ? 2 * w->capacity : ARENA_BLOCK_MAX;
}

static int arena_new(pc_items_writer *w, size_t need)
{
    uint32_t count = atomic_load_explicit(&w->chunk->block_count, memory_order_relaxed);
    uint32_t place = is_alone(w) ? count - 1 : count;
    size_t size = arena_size(w);
    uint64_t block;
    int rc;

    if (place >= PC_CHUNK_BLOCKS)
        return -ENOMEM;
    rc = pc_run_alloc(w->worker, need, size, &block);
    if (rc < 0)
        return rc;
    /* Listed before anything refers to it: the host must know it whenever we die. */
    atomic_store_explicit(&w->chunk->blocks[place], block, memory_order_relaxed);
    atomic_store_explicit(&w->chunk->block_sizes[place],
                          pc_heap_block_size(&w->worker->heap, block), memory_order_relaxed);
    atomic_store_explicit(&w->chunk->block_count, place + 1, memory_order_release);
    w->block = block;
    w->used = 0;
    w->capacity = pc_heap_block_size(&w->worker->heap, block);
    return 0;
}

static int chunk_grow(pc_writer *writer, size_t need)
{
    pc_items_writer *w = (pc_items_writer *)(void *)writer;
    const uint8_t *old = writer->data;
    uint64_t left = is_alone(w) ? w->block : 0; /* by a value that moves, and that had it alone */

    if (w->block == 0 || need > w->capacity - w->used) {
        int rc = arena_new(w, need);

        if (rc < 0)
            return rc;
    }
    w->start = w->used;
    w->in_arena = true;
    writer->data = (uint8_t *)pc_segment_at(&w->worker->segment, w->block) + w->start;
    writer->capacity = w->capacity - w->start;
    memcpy(writer->data, old, writer->size);
    if (left != 0)
        pc_heap_free(&w->worker->heap, left);
    return 0;
}

/* Where the result is a reference, makes it one. */
void pc_items_record(pc_items_writer *w, pc_chunk_result *result, enum pc_result_kind kind)
{
    size_t size = w->writer.size;

    if (!w->in_arena && kind == PC_RESULT_VALUE)
        return;
    if (!w->in_arena) {
        /* An error whose texts got no memory at all. */
        result->payload = 0;
        size = 0;
    } else {
        result->payload = w->block + w->start;
        w->used = w->start + size;
        w->total += size;
    }
    result->header = (uint64_t)size << 8 | PC_CHUNK_REFERENCE | (uint64_t)kind;
}

/* Before the item is finished: from then on the host has what is in its result. */
static void end_arrays(pc_execution *e, pc_chunk *chunk, enum pc_result_kind kind)
{
    uint32_t flags = pc_array_end_call(kind == PC_RESULT_VALUE);

    if (flags & PC_ANSWER_ARRAYS)
        atomic_store_explicit(&chunk->arrays, 1, memory_order_relaxed);
    e->slot->result_ran |= flags & PC_ANSWER_RETAINED;
}

static pc_chunk_result *result_of(const pc_items_writer *w, uint32_t item)
{
    return (pc_chunk_result *)(void *)((uint8_t *)w->chunk + w->chunk->results) + item;
}

static inline void end_item(pc_execution *e, pc_items_writer *w, uint32_t item,
                            enum pc_result_kind kind)
{
    pc_items_record(w, result_of(w, item), kind);
    if (__builtin_expect(w->times_items, 0))
        pc_timing_end_item(w);
    if (__builtin_expect(pc_array_used, 0))
        end_arrays(e, w->chunk, kind);
}

static bool wants_json(const pc_execution *e)
{
    return e->slot->flags & PC_REQUEST_JSON;
}

static inline void begin_item(pc_items_writer *w, uint32_t item)
{
    pc_chunk_result *result = result_of(w, item);

    w->in_arena = false;
    w->writer.data = (uint8_t *)result;
    w->writer.size = 0;
    w->writer.capacity = sizeof *result;
}

void pc_items_end(pc_execution *e, pc_items_writer *w, uint32_t item, enum pc_result_kind kind)
{
    end_item(e, w, item, kind);
}

void pc_items_begin(pc_items_writer *w, uint32_t item)
{
    begin_item(w, item);
}

/* PC_RUN_PENDING: it has not ended. */
static enum pc_result_kind run_item(pc_execution *e, pc_items_writer *w, pc_cursor arguments,
                                    uint32_t item)
{
    pc_chunk_result *result = result_of(w, item);
    enum pc_result_kind kind;

    pc_prefetch_write(result + AHEAD / sizeof *result);
    begin_item(w, item);
    e->ran = false;
    if (__builtin_expect(w->times_items, 0))
        pc_timing_begin_item(w);
    kind = pc_run_execute(e, arguments, wants_json(e), &w->writer);
    if (__builtin_expect(kind != PC_RUN_PENDING, 1))
        end_item(e, w, item, kind);
    return kind;
}

/* Publishes "item-1 is finished, item is started" (or, at the end, only the first). False: doomed.
 */
bool pc_items_advance(pc_chunk *chunk, uint32_t item, uint32_t begin)
{
    uint64_t expected =
        item == begin ? pc_chunk_progress(begin, begin) : pc_chunk_progress(item, item - 1);
    uint32_t started = item < chunk->count ? item + 1 : item;

    return atomic_compare_exchange_strong_explicit(&chunk->progress, &expected,
                                                   pc_chunk_progress(started, item),
                                                   memory_order_acq_rel, memory_order_relaxed);
}

/* Finishes the item before, and starts no other. False: doomed. */
bool pc_items_stop_before(pc_chunk *chunk, uint32_t item)
{
    uint64_t expected = pc_chunk_progress(item, item - 1);

    return item == chunk->begin || atomic_compare_exchange_strong_explicit(
                                       &chunk->progress, &expected, pc_chunk_progress(item, item),
                                       memory_order_acq_rel, memory_order_relaxed);
}

int64_t pc_items_deadline(pc_chunk *chunk)
{
    int64_t now;

    if (!chunk->timed)
        return INT64_MAX;
    now = pc_now();
    atomic_store_explicit(&chunk->item_started_ns, now, memory_order_relaxed);
    return now + chunk->timeout_ns;
}

/* There might be no place for the next result. The host keeps what there is, and goes on from here.
 */
static bool has_listed_all(const pc_chunk *chunk)
{
    return atomic_load_explicit(&chunk->block_count, memory_order_relaxed) == PC_CHUNK_BLOCKS;
}

/* The arguments of the item that stands at `at`. */
pc_cursor pc_items_arguments(const uint8_t *at, uint64_t shape)
{
    uint64_t size;

    if (shape != 0)
        return (pc_cursor){at, at + pc_record_length(shape) * sizeof size};
    size = *(const uint64_t *)(const void *)at;
    return (pc_cursor){at + sizeof size, at + sizeof size + size};
}

static bool has_free_spans(const pc_segment *segment, uint64_t wanted)
{
    for (uint32_t span = 0; wanted > 0 && span < segment->config.spans; span++)
        wanted -= atomic_load_explicit(&segment->span_owners[span], memory_order_relaxed) ==
                  PC_OWNER_FREE;
    return wanted == 0;
}

/* Whether there is memory for two more items of each worker, of the size that they have; but an
 * eighth of it all is enough. */
static bool has_memory(const pc_loop *l)
{
    const pc_segment *segment = &l->worker->segment;
    uint64_t spans = 2 * segment->config.workers * (l->most / PC_SPAN_SIZE + 1);
    uint64_t enough = segment->config.spans / 8 + 1;

    return has_free_spans(segment, spans < enough ? spans : enough);
}

/* For one more item. What the results before it were in may be a sleeping worker's to free, which
 * takes longer to wake than an allocation waits. */
static void await_memory(const pc_loop *l, const pc_chunk *chunk)
{
    pc_worker *worker = l->worker;
    const struct timespec pause = {.tv_nsec = 100 * 1000};
    int64_t until = pc_now() + MEMORY_WAIT_NS;

    pc_run_take_back(worker);
    if (has_free_spans(&worker->segment, l->most / PC_SPAN_SIZE + 2))
        return;
    pc_idle_call_for_memory(&worker->segment);
    Py_BEGIN_ALLOW_THREADS
    while (!has_free_spans(&worker->segment, l->most / PC_SPAN_SIZE + 2) && pc_now() < until &&
           atomic_load_explicit(&chunk->cancel, memory_order_relaxed) == 0)
        nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS
}

/* Where results are large, and use up the memory, who took it could only fail; and it is the host
 * that gives memory back, when it has handed them out. */
static bool is_to_yield(pc_loop *l, pc_chunk *chunk, uint32_t item)
{
    pc_worker *worker = l->worker;
    bool enough;

    if (l->most == 0 || l->allocated == worker->allocated)
        return false;
    if (item == chunk->begin && !(chunk->flags & PC_CHUNK_YIELDS)) {
        await_memory(l, chunk);
        return false;
    }
    enough = has_memory(l);
    if (!enough) {
        pc_run_take_back(worker);
        pc_heap_trim(&worker->heap);
        enough = has_memory(l);
    }
    if (enough)
        l->allocated = worker->allocated;
    else
        atomic_store_explicit(&chunk->yielded, 1, memory_order_relaxed);
    return !enough;
}

static void note_memory(pc_loop *l, uint64_t before)
{
    uint64_t taken = l->worker->allocated - before;

    if (taken > l->most)
        l->most = taken;
}

/* ---- items that are coroutines: one after the other, and other calls beside them ---- */

/* Where a chunk stands while one of its items is awaited. */
typedef struct waiting {
    pc_execution execution;
    pc_items_writer w;
    const uint8_t *next; /* arguments, of the item behind it */
    uint32_t item;
    uint64_t allocated; /* before it */
    int64_t start;
} waiting;

static enum pc_items_progress run_items(pc_execution *e, pc_items_writer *w, const uint8_t *at,
                                        uint32_t first, int64_t start);

static void end_waiting(waiting *chunk, enum pc_items_progress progress)
{
    if (progress == PC_ITEMS_DOOMED)
        pc_loop_await_death(&chunk->execution);
    if (progress == PC_ITEMS_ENDED) {
        pc_items_close(&chunk->execution, &chunk->w, chunk->start);
        pc_loop_finish(&chunk->execution);
    }
    free(chunk);
}

/* Beside other coroutines, as run_next in loop.c. */
static void go_on(void *data)
{
    waiting *chunk = data;
    const pc_loop *l = chunk->execution.loop;

    pc_loop_say_running(l, (uint64_t)chunk->execution.generation << 32 | chunk->execution.number);
    end_waiting(
        chunk, run_items(&chunk->execution, &chunk->w, chunk->next, chunk->item + 1, chunk->start));
    pc_loop_say_running(l, UINT64_MAX);
}

/* The next one is not to run inside of this one's task. */
static void end_awaited(pc_async_call *call, PyObject *result)
{
    waiting *chunk = call->data;
    pc_execution *e = &chunk->execution;
    bool finished;

    e->ran = true;
    end_item(e, &chunk->w, chunk->item,
             pc_run_write(&call->execution, result, wants_json(e), &chunk->w.writer));
    note_memory(e->loop, chunk->allocated);
    pc_async_leave(call);
    /* At once: until the next one begins others' code may run, and this one's time would go on. */
    finished = pc_items_stop_before(chunk->w.chunk, chunk->item + 1);
    if (!finished || call->raised || has_listed_all(chunk->w.chunk) ||
        chunk->item + 1 == chunk->w.chunk->count)
        end_waiting(chunk, finished ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED);
    else
        pc_async_later(go_on, chunk);
}

/* False, with an exception: it cannot be awaited. */
static bool await_item(pc_execution *e, const waiting *now)
{
    waiting *chunk = malloc(sizeof *chunk);

    if (chunk == NULL) {
        Py_CLEAR(e->awaitable);
        PyErr_NoMemory();
        return false;
    }
    *chunk = *now;
    if (pc_async_start(e, now->item, pc_current_call.deadline, end_awaited, chunk) == 0)
        return true;
    free(chunk);
    return false;
}

/* From the item `first` on, whose arguments stand at `at`; those before it are finished. */
static enum pc_items_progress run_items(pc_execution *e, pc_items_writer *w, const uint8_t *at,
                                        uint32_t first, int64_t start)
{
    pc_chunk *chunk = w->chunk;
    pc_loop *l = e->loop;

    for (uint32_t item = first; item < chunk->count; item++) {
        pc_cursor arguments = pc_items_arguments(at, e->shape);
        uint64_t allocated = l->worker->allocated;
        bool stops;

        at = arguments.end;
        __builtin_prefetch(at + AHEAD); /* the host's lines */
        if (atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0 ||
            is_to_yield(l, chunk, item))
            return item == first || pc_items_stop_before(chunk, item) ? PC_ITEMS_ENDED
                                                                      : PC_ITEMS_DOOMED;
        if (item == chunk->begin)
            l->most /= 2;
        /* Current before started: an interrupt is only asked for an item seen as started. */
        pc_run_set_current(e, e->number, item, pc_items_deadline(chunk));
        if (!pc_items_advance(chunk, item, first))
            return PC_ITEMS_DOOMED;
        if (__builtin_expect(run_item(e, w, arguments, item) == PC_RUN_PENDING, 0)) {
            const waiting now = {*e, *w, at, item, allocated, start};

            if (await_item(e, &now))
                return PC_ITEMS_WAITS;
            end_item(e, w, item, pc_run_write(e, NULL, false, &w->writer));
        }
        note_memory(l, allocated);
        stops = pc_current_call.interrupted;
        pc_run_clear_current();
        if (stops || has_listed_all(chunk))
            return pc_items_stop_before(chunk, item + 1) ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED;
        pc_run_yield_to_threads(l);
    }
    return pc_items_advance(chunk, chunk->count, first) ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED;
}

/* ---- chunks of all kinds ---- */

static enum pc_items_progress run_kind(pc_execution *e, pc_items_writer *w, int64_t start)
{
    const pc_chunk *chunk = w->chunk;

    switch (chunk->kind) {
    case PC_CHUNK_ELEMENTS:
        return pc_map_run_columns(e, w, e->number) ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED;
    case PC_CHUNK_WHOLE:
        if (pc_engine_is_used())
            return pc_engine_run_whole(e, w);
        return pc_map_run_whole(e, w, e->number) ? PC_ITEMS_ENDED : PC_ITEMS_DOOMED;
    default:
        if (pc_engine_is_used())
            return pc_engine_run_items(e, w);
        return run_items(e, w, (const uint8_t *)chunk->items + chunk->begin_offset, chunk->begin,
                         start);
    }
}

/* As much as the last chunk's results took, and a little more: many chunks with few items each may
 * wait for the host at once, and all of them stand in memory. */
static size_t first_block(const pc_loop *l, const pc_chunk *chunk)
{
    size_t items = chunk->count > chunk->begin ? chunk->count - chunk->begin : 1;
    size_t size = items * (l->arena_per_item + l->arena_per_item / 8 + 1);

    if (chunk->count == 1)
        return 0; /* just what it needs */
    return size < ARENA_BLOCK_MAX ? size : ARENA_BLOCK_MAX;
}

/* Those that fit the table took none. */
static void note_results(pc_loop *l, const pc_items_writer *w)
{
    uint64_t progress = atomic_load_explicit(&w->chunk->progress, memory_order_relaxed);
    uint32_t finished = pc_chunk_finished(progress), begin = w->chunk->begin;

    if (w->total > 0 && finished > begin)
        l->arena_per_item = w->total / (finished - begin) + 1;
}

void pc_items_close(pc_execution *e, const pc_items_writer *w, int64_t start)
{
    int64_t busy = pc_now() - start;

    PC_PROBE4(chunk_end, e->number, e->generation,
              pc_chunk_finished(atomic_load_explicit(&w->chunk->progress, memory_order_relaxed)) - w->chunk->begin,
              e->function);
    note_results(e->loop, w);
    atomic_store_explicit(&w->chunk->busy_ns, busy, memory_order_relaxed);
    pc_timing_end_chunk(e, w, busy);
    e->slot->result_kind = PC_RESULT_BATCH;
    e->slot->result_block = 0;
    e->slot->result_size = 0;
}

bool pc_items_run_chunk(pc_execution *e)
{
    pc_worker *worker = e->loop->worker;
    pc_chunk *chunk = pc_segment_at(&worker->segment, e->slot->arguments_block);
    pc_items_writer w = {.writer = {.grow = chunk_grow},
                         .worker = worker,
                         .chunk = chunk,
                         .first = first_block(e->loop, chunk)};
    int64_t start = pc_now();
    enum pc_items_progress progress;

    PC_PROBE4(chunk_begin, e->number, e->generation, chunk->count - chunk->begin, e->function);
    e->shape = chunk->shape;
    e->slot->result_ran = 0;
    pc_run_publish_entered(e); /* per item, progress tells */
    pc_timing_begin_chunk(e, &w);
    progress = run_kind(e, &w, start);
    if (progress == PC_ITEMS_DOOMED)
        pc_loop_await_death(e);
    if (progress == PC_ITEMS_ENDED)
        pc_items_close(e, &w, start);
    return progress == PC_ITEMS_ENDED;
}
