/* batch: a stream of calls of one function, many to a descriptor.
 *
 * Items are written straight into the argument block of the chunk that is being filled. A chunk is
 * submitted when it is large enough; how large that is, is found by measuring: as many items as
 * take CHUNK_NS, starting from few. While workers have enough to do, filling goes on, so that
 * cheap items travel in large chunks. Chunks stand in a list in input order; items come out of the
 * first one (or of any that has ended, if unordered). What bounds memory is the window: items
 * inside, added and not yet taken out.
 *
 * Items that are numbers only are records (record.h), if pycrew_batch_add adds them. Of those so
 * many are added without a look at anything as `room` says. A chunk's records have one shape; where
 * a caller changes it again and again, all travel as messages. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/array.h"
#include "lib/crew.h"
#include "lib/format.h"
#include "lib/record.h"
#include "lib/result.h"

#define CHUNK_NS ((int64_t)200 * 1000)
#define TASK_NS ((int64_t)60 * 1000 * 1000) /* with an engine, where a task costs about 1 ms */
#define CHUNK_BYTES ((size_t)256 << 10)
#define HELD_BACK_NS ((int64_t)2 * 1000 * 1000)

enum {
    WINDOW_DEFAULT = 65536,
    WINDOW_MAX = 1 << 28,
    LIMIT_FIRST = 4, /* items to a chunk before anything is measured */
    LIMIT_MAX = 4096,
    TASK_LIMIT_MAX = 16384, /* with an engine */
    BLOCK_FIRST = 2048,
    AHEAD = 768, /* bytes */
    SHAPE_CHANGES_MAX = 16,
    LOOK_NS = 100 * 1000 * 1000
};

struct pycrew_batch {
    pycrew_crew *crew;
    const pycrew_function *function;
    size_t window;
    uint32_t limit; /* items to a chunk */
    bool fixed_limit, unordered, ended, cancelled;
    int64_t timeout_ns;
    unsigned retries;
    bool retries_given; /* and so for items with writable arrays, too */

    pycrew_call item; /* the builder of the item at hand, and its arrays; no call of the crew's */
    bool had_arrays;  /* the item before */
    int64_t looked; /* at the chunks, whether all is well with them */
    bool item_open;
    pc_mark item_mark;
    pycrew_call *filling;
    size_t last_size; /* bytes of the chunk before */
    pc_record record; /* the last format that was one */
    uint32_t room;    /* records that may be added as they are to the chunk being filled */
    unsigned shape_changes;

    pycrew_call **chunks; /* submitted, in input order: a ring of capacity, from head on */
    uint32_t capacity, head, count;
    size_t bytes;      /* of their arguments, and of out's */
    uint32_t measured; /* of the chunks from head on: seen as ended, and measured */
    pycrew_call *sleeper; /* whose semaphore we sleep on, if unordered */

    pycrew_call *out; /* the chunk that items are taken of, out of the list */
    uint32_t out_next, out_end; /* the next one, and where those end that have their end */
    const volatile pc_chunk_result *table; /* of out, if all its ends stand there; else NULL */
    bool has_item;
    pc_cursor value;
    uint64_t small[2];
    const pycrew_error *error;
    pc_error error_space;

    pycrew_batch *next, **link; /* among the crew's open ones; under crew->lock */

    uint64_t added, taken, failed;
    _Atomic uint64_t retried, deaths;
};

/* ---- opening ---- */

static int read_options(const pycrew_batch_options *given, pycrew_batch_options *ret)
{
    const unsigned char *bytes = (const unsigned char *)given;

    *ret = (pycrew_batch_options)PYCREW_BATCH_OPTIONS_INIT;
    if (given == NULL)
        return 0;
    if (given->size < offsetof(pycrew_batch_options, chunk))
        return pc_fail(-EINVAL, "batch options.size is %zu: start from PYCREW_BATCH_OPTIONS_INIT",
                       given->size);
    for (size_t i = sizeof *ret; i < given->size; i++)
        if (bytes[i] != 0)
            return pc_fail(-EINVAL, "the batch's options have a field, at byte %zu, that this "
                           "version (%s) does not know", i, pycrew_version());
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    if (ret->window > WINDOW_MAX)
        return pc_fail(-EINVAL, "batch options.window is %u; at most %d", ret->window, WINDOW_MAX);
    if (ret->chunk > PC_CHUNK_ITEMS_MAX)
        return pc_fail(-EINVAL, "batch options.chunk is %u; at most %d", ret->chunk,
                       PC_CHUNK_ITEMS_MAX);
    return 0;
}

static int grow_item(pc_writer *writer, size_t need);

static void init(pycrew_batch *batch, pycrew_crew *crew, const pycrew_function *function,
                 const pycrew_batch_options *o)
{
    batch->crew = crew;
    batch->function = function;
    batch->window = o->window != 0 ? o->window : WINDOW_DEFAULT;
    batch->limit = o->chunk != 0 ? o->chunk : LIMIT_FIRST;
    batch->fixed_limit = o->chunk != 0;
    batch->unordered = o->unordered;
    batch->timeout_ns = o->timeout_ns == 0 || crew->debug ? crew->timeout_ns : pc_timeout(o->timeout_ns);
    batch->last_size = BLOCK_FIRST;
    batch->retries = o->retries < 0 ? crew->retries : (unsigned)o->retries;
    batch->retries_given = o->retries >= 0;
    batch->item.crew = crew;
    batch->item.builder.takes_arrays = true;
    batch->item.builder.writer.grow = grow_item;
    /* Such that pycrew_add and its kin say "not now" while no item is open. */
    atomic_store(&batch->item.phase, PC_PHASE_UNUSED);
}

static void enlist(pycrew_batch *batch)
{
    pycrew_crew *crew = batch->crew;

    pthread_mutex_lock(&crew->lock);
    batch->next = crew->batches;
    batch->link = &crew->batches;
    if (batch->next != NULL)
        batch->next->link = &batch->next;
    crew->batches = batch;
    pthread_mutex_unlock(&crew->lock);
}

/* Under crew->lock; in a fork, where its state is not known, without. */
static void delist(pycrew_batch *batch)
{
    *batch->link = batch->next;
    if (batch->next != NULL)
        batch->next->link = batch->link;
}

int pycrew_batch_open(pycrew_crew *crew, const pycrew_function *function,
                      const pycrew_batch_options *options, pycrew_batch **ret)
{
    pycrew_batch_options all;
    pycrew_batch *batch;
    int rc;

    if (crew == NULL || function == NULL || ret == NULL)
        return pc_fail(-EINVAL, "pycrew_batch_open: crew, function and ret must not be NULL");
    if ((rc = pc_crew_check(crew)) < 0 || (rc = read_options(options, &all)) < 0)
        return rc;
    batch = calloc(1, sizeof *batch);
    if (batch == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    init(batch, crew, function, &all);
    /* Where none is free, chunks' own semaphores have to do: see await_any. */
    if (batch->unordered)
        (void)pc_call_prepare(crew, 0, &batch->sleeper);
    batch->looked = pc_now();
    enlist(batch);
    *ret = batch;
    return 0;
}

/* ---- the list of chunks ---- */

static pycrew_call *chunk_at(const pycrew_batch *batch, uint32_t place)
{
    return batch->chunks[(batch->head + place) % batch->capacity];
}

static int list_reserve(pycrew_batch *batch)
{
    uint32_t capacity = batch->capacity == 0 ? 64 : 2 * batch->capacity;
    pycrew_call **chunks;

    if (batch->count + 1 < batch->capacity) /* `out` may be put back */
        return 0;
    chunks = malloc(capacity * sizeof *chunks);
    if (chunks == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    for (uint32_t i = 0; i < batch->count; i++)
        chunks[i] = chunk_at(batch, i);
    free(batch->chunks);
    batch->chunks = chunks;
    batch->capacity = capacity;
    batch->head = 0;
    return 0;
}

/* The last that was removed: there is room for it (see list_reserve). */
static void list_put_back(pycrew_batch *batch, pycrew_call *call)
{
    batch->head = (batch->head + batch->capacity - 1) % batch->capacity;
    batch->chunks[batch->head] = call;
    batch->count++;
    batch->measured = 0;
}

static pycrew_call *list_remove(pycrew_batch *batch, uint32_t place)
{
    pycrew_call *call = chunk_at(batch, place);

    for (; place > 0; place--)
        batch->chunks[(batch->head + place) % batch->capacity] = chunk_at(batch, place - 1);
    batch->head = (batch->head + 1) % batch->capacity;
    batch->count--;
    return call;
}

/* ---- measuring ---- */

/* Items whose results are no more than a worker's part of an eighth of the memory. */
static int64_t fitting_memory(const pycrew_batch *batch, const pc_batch_chunk *chunk)
{
    size_t part = batch->crew->segment.config.spans * PC_SPAN_SIZE / 8 / pc_engine_width(batch->crew);

    return (int64_t)(part / (chunk->result_bytes / chunk->count + 1));
}

static int64_t limit_max(const pycrew_batch *batch)
{
    return batch->crew->engine != NULL ? TASK_LIMIT_MAX : LIMIT_MAX;
}

static void measure(pycrew_batch *batch, const pc_batch_chunk *chunk)
{
    int64_t per_item, fitting;

    if (batch->fixed_limit || chunk->busy_ns < 0 || chunk->count == 0 || chunk->begin != 0)
        return;
    per_item = chunk->busy_ns / chunk->count + 1;
    fitting = (batch->crew->engine != NULL ? TASK_NS : CHUNK_NS) / per_item;
    if (fitting > 4 * (int64_t)batch->limit) /* the first ones are cold: not in one step */
        fitting = 4 * (int64_t)batch->limit;
    if (fitting > fitting_memory(batch, chunk))
        fitting = fitting_memory(batch, chunk);
    batch->limit = (uint32_t)(fitting < 1 ? 1 : fitting > limit_max(batch) ? limit_max(batch) : fitting);
}

/* How many of our chunks the workers still have; those that ended since are measured. */
static uint32_t unfinished(pycrew_batch *batch)
{
    while (batch->measured < batch->count && pc_call_collect(chunk_at(batch, batch->measured)))
        measure(batch, chunk_at(batch, batch->measured++)->chunk);
    return batch->count - batch->measured;
}

/* ---- filling ---- */

/* What a chunk's block holds beside the items: its header, and behind them a table with a result
 * for each, the item at hand included. */
static size_t beside_items(const pycrew_batch *batch)
{
    return sizeof(pc_chunk) + 32 + (batch->filling->chunk->count + 1) * sizeof(pc_chunk_result);
}

static int grow_item(pc_writer *writer, size_t need)
{
    pycrew_batch *batch =
        (pycrew_batch *)(void *)((uint8_t *)writer - offsetof(pycrew_batch, item));
    pycrew_call *call = batch->filling;
    pc_segment *segment = &batch->crew->segment;
    size_t old = call->arguments_block == 0 ? 0 : pc_memory_size(batch->crew, call->arguments_block);
    size_t least = need + beside_items(batch), size = least;
    uint64_t block;
    int rc;

    if (size < 2 * old)
        size = 2 * old;
    if (size < batch->last_size) /* as large as the chunk before, to be spared the growing */
        size = batch->last_size;
    rc = pc_memory_alloc(batch->crew, size, &block);
    if (rc < 0 && least < size)
        rc = pc_memory_alloc(batch->crew, least, &block);
    if (rc < 0)
        return pc_fail(rc, rc == -E2BIG ? "the item (%zu bytes) exceeds the crew's shared memory: raise options.memory"
                                        : "no shared memory is left for %zu bytes of arguments: release calls and "
                                          "arrays, or raise options.memory",
                       need);
    if (old > 0)
        memcpy((pc_chunk *)pc_segment_at(segment, block) + 1, writer->data, writer->size);
    pc_memory_free(batch->crew, call->arguments_block);
    call->arguments_block = block;
    writer->data = (uint8_t *)((pc_chunk *)pc_segment_at(segment, block) + 1);
    writer->capacity = pc_memory_size(batch->crew, block) - beside_items(batch);
    return 0;
}

static size_t items_inside(const pycrew_batch *batch)
{
    return batch->added - batch->taken;
}

/* Gives up the calls that the batch can do without. */
static bool spare_a_call(pycrew_batch *batch)
{
    if (batch->out != NULL && batch->out_end == batch->out->chunk->count && pc_call_replace(batch->out))
        return true;
    if (batch->sleeper == NULL)
        return false;
    pc_call_reclaim(batch->sleeper);
    batch->sleeper = NULL;
    return true;
}

/* -EAGAIN: our items hold calls, and taking out gives them back. -ETIME: it is others. */
static int take_call(pycrew_batch *batch, pycrew_call **ret)
{
    int rc;

    while ((rc = pc_call_prepare(batch->crew, 0, ret)) == -EAGAIN) {
        if (items_inside(batch) > 0)
            return pc_fail_static(-EAGAIN, "all calls are in use: take some items out first");
        if (!spare_a_call(batch))
            return pc_fail_static(-ETIME, "others use all calls: wait for one (pycrew_batch_add_within), or "
                                          "raise options.calls");
    }
    return rc;
}

static int start_chunk(pycrew_batch *batch)
{
    pycrew_call *call;
    int rc = list_reserve(batch);

    /* Before anything is measured, chunks are small and many: other callers need calls too. */
    if (batch->count > 0 && batch->count >= batch->crew->call_limit / 2)
        return pc_fail(-EAGAIN, "%u chunks are in flight: take some items out first", batch->count);
    /* And where all are in use, who waits for one would come off worst against who takes and gives
     * them back without pause. */
    if (batch->count > 0 && atomic_load_explicit(&batch->crew->prepare_waiters,
                                                 memory_order_relaxed) > 0)
        return pc_fail_static(-EAGAIN, "others wait for calls: take some items out first");
    /* Results need memory, too. */
    if (batch->count > 0 && batch->bytes >= batch->crew->segment.config.spans * PC_SPAN_SIZE / 8)
        return pc_fail(-EAGAIN, "%zu bytes of arguments are in flight: take some items out first",
                       batch->bytes);
    if (rc < 0 || (rc = take_call(batch, &call)) < 0)
        return rc;
    rc = pc_chunk_init(call, batch, batch->added, batch->retries);
    if (rc < 0) {
        pc_call_reclaim(call);
        return rc;
    }
    atomic_store_explicit(&call->function, batch->function, memory_order_relaxed);
    call->timeout_ns = batch->timeout_ns;
    batch->filling = call;
    batch->item.builder.writer.data = NULL;
    batch->item.builder.writer.size = batch->item.builder.writer.capacity = 0;
    return 0;
}

/* As if it had ended so. */
static void fail_chunk(pycrew_call *call, int code)
{
    call->code = pc_error_set(&call->error, code, pc_text_of(call->function->name),
                              pc_text_of(NULL), pc_text_of(NULL), pc_text_of(NULL));
    atomic_store_explicit(&call->phase, PC_PHASE_ENDED, memory_order_release);
}

static int submit_chunk(pycrew_batch *batch)
{
    pycrew_call *call = batch->filling;
    size_t size = batch->item.builder.writer.size + beside_items(batch);
    int rc;

    batch->room = 0;
    call->builder.writer.size = batch->item.builder.writer.size;
    call->builder.json_result = batch->item.builder.json_result;
    rc = pc_chunk_submit(call);
    if (rc == -ESHUTDOWN)
        fail_chunk(call, rc); /* its items are in, so they come out */
    else if (rc < 0)
        return rc;
    batch->filling = NULL;
    batch->last_size = size < CHUNK_BYTES ? size : CHUNK_BYTES; /* not as one large item */
    call->chunk->bytes = size + pc_arrays_copied(call);
    batch->bytes += call->chunk->bytes;
    batch->chunks[(batch->head + batch->count++) % batch->capacity] = call;
    return 0;
}

static bool filling_is_empty(const pycrew_batch *batch)
{
    return batch->filling == NULL || batch->filling->chunk->count == 0;
}

/* From so many chunks on they are made so large that as many again hold a whole window: nobody has
 * to take items out before it is full, just because they wait in small chunks. */
static uint32_t calls_until_full(const pycrew_batch *batch)
{
    return batch->crew->call_limit < 8 ? 1 : batch->crew->call_limit / 4;
}

static bool is_look(const pycrew_batch *batch, uint32_t count)
{
    return count >= batch->limit || (count & (count - 1)) == 0;
}

/* With an engine a chunk is one task. It cannot be told when each of its items starts, so items with a deadline
 * go one by one. */
static bool is_task(const pycrew_batch *batch)
{
    return batch->crew->engine != NULL && batch->timeout_ns < 0;
}

/* Submits what was filled, if it is enough: large, or there are workers without work. Whether they
 * have some is looked up only now and then, since that takes a cache line of theirs. */
static int submit_if_enough(pycrew_batch *batch)
{
    uint32_t count = batch->filling->chunk->count;

    if (!is_look(batch, count))
        return 0;
    /* A chunk's items run one after the other. */
    if (pc_function_kind(batch->crew, batch->function) == PC_FUNCTION_COROUTINE && !is_task(batch))
        return submit_chunk(batch);
    if (batch->fixed_limit)
        return count >= batch->limit ? submit_chunk(batch) : 0;
    if (batch->item.builder.writer.size >= CHUNK_BYTES)
        return submit_chunk(batch);
    if (batch->count >= calls_until_full(batch))
        return count >= batch->window / calls_until_full(batch) + 1 ? submit_chunk(batch) : 0;
    if (unfinished(batch) < pc_engine_width(batch->crew) || count >= batch->limit)
        return submit_chunk(batch);
    return 0;
}

static int push_offset(pc_batch_chunk *chunk, size_t offset)
{
    if (chunk->count == chunk->offset_capacity) {
        uint32_t capacity = chunk->offset_capacity == 0 ? 64 : 2 * chunk->offset_capacity;
        uint32_t *grown = realloc(chunk->offsets, capacity * sizeof *grown);

        if (grown == NULL)
            return pc_fail(-ENOMEM, "no memory is left");
        chunk->offsets = grown;
        chunk->offset_capacity = capacity;
    }
    chunk->offsets[chunk->count++] = (uint32_t)offset;
    return 0;
}

/* The shape of the chunk being filled, which is empty. */
static void set_shape(pycrew_batch *batch, uint64_t shape)
{
    pycrew_call *call = batch->filling;
    pc_writer *writer = &batch->item.builder.writer;

    call->chunk->shape = shape;
    writer->size = 0;
    if (call->arguments_block != 0)
        writer->capacity = pc_memory_size(batch->crew, call->arguments_block) - beside_items(batch);
}

/* Items of a chunk have 32-bit offsets, and a large item is not to hold up small ones. alone: the item
 * is to be the first of a chunk. */
static int make_room(pycrew_batch *batch, uint64_t shape, bool alone)
{
    int rc = 0;

    batch->room = 0;
    if (!filling_is_empty(batch)) {
        bool other = batch->filling->chunk->shape != shape;

        batch->shape_changes += other;
        if (other || alone || batch->item.builder.writer.size >= CHUNK_BYTES)
            rc = submit_chunk(batch);
    }
    if (rc == 0 && batch->filling == NULL)
        rc = start_chunk(batch);
    if (rc == 0 && batch->filling->chunk->shape != shape)
        set_shape(batch, shape);
    return rc;
}

static int check_open(const pycrew_batch *batch)
{
    int rc = pc_crew_check(batch->crew);

    if (rc < 0)
        return rc;
    if (batch->ended || batch->cancelled)
        return pc_fail(-ESHUTDOWN, batch->cancelled ? "the batch was cancelled"
                                                    : "the batch takes no more input: pycrew_batch_end was called");
    if (atomic_load_explicit(&batch->crew->ending, memory_order_relaxed) != 0)
        return pc_crew_refuse(batch->crew);
    if (items_inside(batch) >= batch->window)
        return pc_fail_static(-EAGAIN, "the batch's window is full: take some items out first");
    return 0;
}

static void discard_item(pycrew_batch *batch)
{
    if (batch->item.arrays != NULL)
        pc_arrays_leave(&batch->item);
    if (batch->item_open) {
        pc_build_rewind(&batch->item.builder, batch->item_mark);
        batch->item.builder.writer.capacity += sizeof(pc_chunk_result); /* its place in the table */
    }
    batch->item_open = false;
    atomic_store_explicit(&batch->item.phase, PC_PHASE_UNUSED, memory_order_relaxed);
}

/* alone: it is likely to have arrays. */
static int begin_item(pycrew_batch *batch, bool alone)
{
    pc_builder *builder = &batch->item.builder;
    pc_writer *writer = &builder->writer;
    bool json = builder->json_result;
    int rc;

    discard_item(batch);
    rc = check_open(batch);
    if (rc < 0 || (rc = make_room(batch, 0, alone)) < 0)
        return rc;
    batch->item.retries = batch->retries;
    batch->item.flags = batch->retries_given ? PC_CALL_RETRIES_GIVEN : 0;
    pc_build_start(builder);
    builder->json_result = json;
    batch->item_mark = pc_build_mark(builder);
    /* Each item takes a place in the table behind the items, too. */
    if (writer->data == NULL ||
        writer->capacity < writer->size + sizeof(uint64_t) + sizeof(pc_chunk_result)) {
        rc = grow_item(writer, writer->size + 64);
        if (rc < 0)
            return rc;
    } else {
        writer->capacity -= sizeof(pc_chunk_result);
    }
    pc_prefetch_write(writer->data + writer->size + AHEAD); /* a worker had these lines last */
    writer->size += sizeof(uint64_t);                       /* the item's size, by commit */
    batch->item_open = true;
    atomic_store_explicit(&batch->item.phase, PC_PHASE_PREPARED, memory_order_relaxed);
    return 0;
}

/* ---- items with arrays ---- */

/* Moves the item at hand out of the chunk with others before it, which is submitted, to one of its own. */
static int move_item(pycrew_batch *batch)
{
    pc_writer *writer = &batch->item.builder.writer;
    size_t start = batch->item_mark.size, size = writer->size - start;
    uint8_t *kept = malloc(size);
    int rc;

    if (kept == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    memcpy(kept, writer->data + start, size);
    writer->size = start;
    batch->item_mark.size = 0;
    rc = submit_chunk(batch);
    if (rc == 0)
        rc = start_chunk(batch);
    if (rc == 0)
        rc = grow_item(writer, size);
    if (rc == 0) {
        memcpy(writer->data, kept, size);
        writer->size = size;
    }
    free(kept);
    return rc;
}

/* The call that carries the item gets the item's arrays, and nothing else is in it: so whose views
 * outlive their item is known, and a death frees what was given for the dead item alone. */
static int submit_alone(pycrew_batch *batch)
{
    pycrew_call *call = batch->filling;

    call->arrays = batch->item.arrays;
    call->chunk->retries = batch->item.retries;
    batch->item.arrays = NULL;
    return submit_chunk(batch);
}

int pycrew_batch_commit(pycrew_batch *batch)
{
    pc_builder *builder = &batch->item.builder;
    int rc = pc_crew_check(batch->crew);
    bool alone = batch->item.arrays != NULL;
    size_t start;

    if (rc < 0)
        return rc;
    if (!batch->item_open)
        return pc_fail(-EINVAL, "pycrew_batch_commit: no item was begun: pycrew_batch_begin first");
    rc = pc_build_finish(builder);
    if (rc == 0 && alone && !filling_is_empty(batch))
        rc = move_item(batch);
    start = batch->item_mark.size;
    if (rc == 0)
        rc = push_offset(batch->filling->chunk, start);
    if (rc < 0) {
        discard_item(batch);
        return rc;
    }
    *(uint64_t *)(void *)(builder->writer.data + start) =
        builder->writer.size - start - sizeof(uint64_t);
    batch->item_open = false;
    atomic_store_explicit(&batch->item.phase, PC_PHASE_UNUSED, memory_order_relaxed);
    batch->added++;
    batch->had_arrays = alone;
    return alone ? submit_alone(batch) : submit_if_enough(batch);
}

/* ---- records ---- */

static bool is_record(pycrew_batch *batch, const char *format)
{
    pc_record *record = &batch->record;

    if (batch->shape_changes > SHAPE_CHANGES_MAX)
        return false;
    return (record->length > 0 && pc_record_matches(record, format)) ||
           pc_record_compile(format, record);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Records for which the chunk being filled has memory, with a place in the table for each. */
static size_t record_capacity(const pycrew_batch *batch)
{
    uint64_t block = batch->filling->arguments_block;
    size_t each = batch->record.length * sizeof(uint64_t) + sizeof(pc_chunk_result);

    return block == 0 ? 0
                      : (pc_memory_size(batch->crew, block) - sizeof(pc_chunk) - 32) / each;
}

/* How many records may come before the next look at what submit_if_enough looks at. */
static size_t until_look(const pycrew_batch *batch)
{
    size_t count = batch->filling->chunk->count, next = 1;

    if (count >= batch->limit)
        return 1;
    while (next <= count)
        next *= 2;
    return least(next, batch->limit) - count;
}

/* 0: there is room for a record. Else as begin_item. */
static int begin_records(pycrew_batch *batch)
{
    pc_writer *writer = &batch->item.builder.writer;
    size_t capacity, count;
    int rc;

    discard_item(batch);
    rc = check_open(batch);
    if (rc < 0 || (rc = make_room(batch, batch->record.shape, false)) < 0)
        return rc;
    count = batch->filling->chunk->count;
    capacity = record_capacity(batch);
    if (capacity <= count) {
        rc = grow_item(writer, writer->size + batch->record.length * sizeof(uint64_t));
        if (rc < 0)
            return rc;
        capacity = record_capacity(batch);
    }
    batch->room = (uint32_t)least(capacity - count, until_look(batch));
    return 0;
}

static int add_record(pycrew_batch *batch, va_list *arguments)
{
    pc_writer *writer = &batch->item.builder.writer;
    uint8_t *to = writer->data + writer->size;

    pc_prefetch_write(to + AHEAD); /* a worker had these lines last */
    pc_record_store(&batch->record, (uint64_t *)(void *)to, arguments);
    writer->size += batch->record.length * sizeof(uint64_t);
    batch->filling->chunk->count++;
    batch->added++;
    return --batch->room > 0 ? 0 : submit_if_enough(batch);
}

/* What else may have changed since there was room. */
static bool takes_records(const pycrew_batch *batch)
{
    return batch->added - batch->taken < batch->window &&
           *(const volatile char *)batch->crew->fork_guard != 0 &&
           atomic_load_explicit(&batch->crew->ending, memory_order_relaxed) == 0;
}

/* ---- adding by format ---- */

/* What an item that was not added is told. */
static int explain(const pycrew_batch *batch, int rc)
{
    if (rc == -ENOMEM && items_inside(batch) > 0)
        return pc_fail_static(-EAGAIN, "no memory is left, and the batch's items hold some: take some "
                                       "items out first");
    return rc;
}

static int build_item(pycrew_batch *batch, const char *format, va_list *arguments)
{
    int rc;

    if (is_record(batch, format)) {
        rc = begin_records(batch);
        return rc < 0 ? explain(batch, rc) : add_record(batch, arguments);
    }
    rc = begin_item(batch, strchr(format, 'A') != NULL);
    if (rc == 0)
        rc = pc_format_build(&batch->item.builder, format, arguments, NULL);
    if (rc == 0)
        return pycrew_batch_commit(batch);
    discard_item(batch);
    return explain(batch, rc);
}

/* What is short of memory or calls may be helped by what goes on; a bad format never is. */
static bool is_short(int rc, const pycrew_batch *batch)
{
    return rc == -ENOMEM || rc == -ETIME ||
           (rc == -EAGAIN && items_inside(batch) < batch->window);
}

static void wait_a_little(pycrew_batch *batch, int64_t until)
{
    pycrew_crew *crew = batch->crew;
    int64_t now = pc_now(), at = until - now > 10 * 1000 * 1000 ? now + 10 * 1000 * 1000 : until;
    struct timespec time = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};

    atomic_fetch_add(&crew->prepare_waiters, 1);
    pthread_mutex_lock(&crew->lock);
    pthread_cond_timedwait(&crew->changed, &crew->lock, &time);
    pthread_mutex_unlock(&crew->lock);
    atomic_fetch_sub(&crew->prepare_waiters, 1);
}

/* Who waits for others holds nothing that they may wait for: no call, and no memory but a result
 * that the caller may be reading. */
static void drop_empty_filling(pycrew_batch *batch)
{
    if (batch->filling != NULL)
        pc_call_reclaim(batch->filling);
    batch->filling = NULL;
}

/* rc says that something is short. If it is our own items that hold it, waiting is no use. */
static int wait_for_others(pycrew_batch *batch, int rc, int64_t until)
{
    int submitted = filling_is_empty(batch) ? 0 : submit_chunk(batch);

    if (submitted < 0)
        return submitted;
    if (items_inside(batch) > 0)
        return pc_fail_static(-EAGAIN, "the batch's own items use the calls or the memory: take "
                                       "some out first");
    drop_empty_filling(batch);
    if (rc == -ENOMEM && batch->out != NULL)
        return pc_fail_static(-EAGAIN, "the last item's result holds memory: pycrew_batch_next gives "
                                       "it back");
    if (rc == -ETIME && pc_call_holds_all(batch->crew, false))
        return pc_fail(-ETIME, "this thread holds all %u calls itself: release some, or raise options.calls",
                       batch->crew->call_limit);
    if (pc_now() >= until)
        return pc_fail_static(-ETIME, rc == -ETIME ? "others use all calls: wait longer, or raise options.calls"
                                                   : "others use the shared memory: wait longer, or "
                                                     "raise options.memory");
    wait_a_little(batch, until);
    return atomic_load(&batch->crew->ending) == 2 ? pc_fail(-ECANCELED, "the crew was closed") : 0;
}

/* Adds an item, or with no format begins one. */
static int try_item(pycrew_batch *batch, const char *format, va_list *arguments)
{
    va_list copy;
    int rc;

    if (format == NULL)
        return begin_item(batch, batch->had_arrays);
    va_copy(copy, *arguments);
    rc = build_item(batch, format, &copy);
    va_end(copy);
    return rc;
}

static int item_within(pycrew_batch *batch, int64_t timeout_ns, const char *format,
                       va_list *arguments)
{
    pycrew_crew *crew = batch->crew;
    int64_t until = pc_until(timeout_ns);
    int rc = try_item(batch, format, arguments);

    if (!is_short(rc, batch))
        return rc;
    pc_crew_enter(crew);
    do
        rc = wait_for_others(batch, rc, until);
    while (rc == 0 && is_short(rc = try_item(batch, format, arguments), batch));
    pc_crew_leave(crew);
    return rc;
}

int pycrew_batch_add(pycrew_batch *batch, const char *format, ...)
{
    va_list arguments;
    int rc;

    if (__builtin_expect(format == NULL, 0))
        return pc_fail(-EINVAL, "the format is NULL");
    va_start(arguments, format);
    if (batch->room > 0 && pc_record_matches(&batch->record, format) && takes_records(batch))
        rc = add_record(batch, &arguments);
    else
        rc = build_item(batch, format, &arguments);
    va_end(arguments);
    return rc;
}

int pycrew_batch_add_within(pycrew_batch *batch, int64_t timeout_ns, const char *format, ...)
{
    va_list arguments;
    int rc;

    if (format == NULL)
        return pc_fail(-EINVAL, "the format is NULL");
    va_start(arguments, format);
    rc = item_within(batch, timeout_ns, format, &arguments);
    va_end(arguments);
    return rc;
}

int pycrew_batch_begin(pycrew_batch *batch, int64_t timeout_ns, pycrew_call **ret)
{
    int rc = timeout_ns == 0 ? begin_item(batch, batch->had_arrays)
                             : item_within(batch, timeout_ns, NULL, NULL);

    if (rc == 0)
        *ret = &batch->item;
    return rc;
}

int pycrew_batch_end(pycrew_batch *batch)
{
    int rc = pc_crew_check(batch->crew);

    if (rc < 0)
        return rc;
    discard_item(batch);
    batch->room = 0;
    batch->ended = true;
    return filling_is_empty(batch) ? 0 : submit_chunk(batch);
}

/* ---- taking out ---- */

static void clear_item(pycrew_batch *batch)
{
    batch->has_item = false;
    if (batch->error == NULL)
        return;
    batch->error = NULL;
    pc_error_clear(&batch->error_space);
}

/* An ended chunk that waits for memory, with nothing to hand out. */
static bool waits_for_memory(const pycrew_batch *batch, const pycrew_call *call)
{
    const pc_batch_chunk *chunk = call->chunk;

    return call->code == 0 && chunk->yielded && chunk->finished == chunk->out && !batch->cancelled;
}

/* The place of an ended chunk in the list, or -1. One that waits for memory is the last choice: as long as
 * others are to come out, those hold it. */
static int64_t find_ended(pycrew_batch *batch)
{
    uint32_t looked = batch->unordered ? batch->count : batch->count > 0;
    bool all_wait = looked > 0;

    for (uint32_t i = 0; i < looked; i++) {
        bool ended = pc_call_collect(chunk_at(batch, i));

        if (ended && !waits_for_memory(batch, chunk_at(batch, i)))
            return i;
        all_wait &= ended;
    }
    return all_wait ? 0 : -1;
}

/* An ended chunk: what of it did not run is queued again, or given its error. True: all its items
 * have their end, or some have that hold memory which the rest needs. */
static bool settle(pycrew_batch *batch, pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;

    if (call->code < 0) {
        pc_chunk_fail_rest(call, chunk->begin, &call->error);
        return true;
    }
    if (chunk->finished == chunk->count)
        return true;
    if (chunk->yielded && chunk->finished > chunk->out)
        return true;
    if (batch->cancelled) {
        pc_error error = {.public = {.code = -ECANCELED,
                                     .function = batch->function->name,
                                     .message = "the batch was cancelled"}};

        error.public.may_have_run = pc_engine_may_have_run(call);
        pc_chunk_fail_rest(call, chunk->finished, &error);
        return true;
    }
    pc_chunk_resubmit(call, true);
    return false;
}

/* Moves an ended chunk to `out`. */
static bool take_chunk(pycrew_batch *batch)
{
    int64_t place = find_ended(batch);
    pycrew_call *call;

    if (place < 0)
        return false;
    call = chunk_at(batch, (uint32_t)place);
    if (!settle(batch, call)) {
        if (batch->measured > place)
            batch->measured = (uint32_t)place;
        return false;
    }
    if (place >= batch->measured)
        measure(batch, call->chunk);
    else
        batch->measured--;
    batch->out = list_remove(batch, (uint32_t)place);
    batch->out_next = call->chunk->out;
    batch->out_end = call->chunk->finished;
    batch->table = pc_chunk_table(batch->out);
    return true;
}

/* The next item, if it is a small value: most are. */
static bool take_small(pycrew_batch *batch)
{
    const volatile pc_chunk_result *result = batch->table + batch->out_next;
    uint64_t header = result->header;

    if (header & PC_CHUNK_REFERENCE)
        return false;
    __builtin_prefetch((const void *)(uintptr_t)(result + 16)); /* the worker's lines */
    batch->small[0] = header;
    batch->small[1] = result->payload;
    batch->value = (pc_cursor){(const uint8_t *)batch->small, (const uint8_t *)(batch->small + 2)};
    batch->out_next++;
    batch->has_item = true;
    batch->taken++;
    return true;
}

static void take_item(pycrew_batch *batch)
{
    batch->value = pc_chunk_value(batch->out, batch->out_next++, batch->small, &batch->error,
                                  &batch->error_space);
    batch->has_item = true;
    batch->taken++;
    if (batch->error != NULL) {
        batch->failed++;
        pc_stats_count_failures(batch->crew, batch->error->code, 1);
    }
}

/* Chunks that stopped, with or without an item's end, since memory was short: now there is more. The first
 * ones, as many as keep the workers busy. */
static void resume_chunks(pycrew_batch *batch)
{
    uint32_t count = 2 * pc_engine_width(batch->crew);

    if (count > batch->count)
        count = batch->count;
    for (uint32_t i = 0; i < count; i++) {
        pycrew_call *call = chunk_at(batch, i);

        if (!pc_call_collect(call) || !waits_for_memory(batch, call))
            continue;
        pc_chunk_resubmit(call, i == 0);
        if (i < batch->measured)
            batch->measured = i;
    }
}

/* Of `out`, all with an end have been taken. The rest of it goes on, with the memory that they had. */
static void drop_chunk(pycrew_batch *batch)
{
    pycrew_call *call = batch->out;
    pc_batch_chunk *chunk = call->chunk;

    batch->out = NULL;
    if (batch->out_end < chunk->count) {
        chunk->out = batch->out_end;
        pc_chunk_forget_results(call);
        list_put_back(batch, call);
    } else {
        batch->bytes -= chunk->bytes;
        pc_call_reclaim(call);
    }
    resume_chunks(batch);
}

/* Sleeps until a chunk has ended, on a semaphore that all of them post: that of a call of its own,
 * or where none was free, of the first chunk. */
static void await_any(pycrew_batch *batch, int64_t until)
{
    const pycrew_call *sleeper = batch->sleeper != NULL ? batch->sleeper : chunk_at(batch, 0);
    sem_t *semaphore = &sleeper->slot->semaphore;
    int64_t now = pc_now();

    pc_sleeper_drain(semaphore);
    for (uint32_t i = 0; i < batch->count; i++)
        if (!pc_call_publish_sleeper(chunk_at(batch, i), sleeper->index))
            return;
    pc_sleeper_wait(semaphore, until - now > LOOK_NS ? now + LOOK_NS : until);
}

/* A scribbled word must not hang us. */
static void look(pycrew_batch *batch, int64_t now)
{
    bool queued = false;

    if (now - batch->looked < LOOK_NS)
        return;
    batch->looked = now;
    for (uint32_t i = 0; i < batch->count; i++)
        queued |= pc_call_look(chunk_at(batch, i));
    if (queued)
        pc_idle_wake_all(&batch->crew->segment);
}

/* False: no time is left, or the crew closes. */
static bool await_chunk(pycrew_batch *batch, int64_t until)
{
    int64_t now = pc_now(), slice = now + HELD_BACK_NS;

    look(batch, now);
    /* What is held back is to go out as soon as workers run short of work. */
    if (filling_is_empty(batch) || slice > until)
        slice = until;
    if (batch->unordered)
        await_any(batch, slice);
    else
        pc_call_await(chunk_at(batch, 0), slice);
    return pc_now() < until && atomic_load(&batch->crew->ending) != 2;
}

/* What was filled goes out if workers are about to run short of work. Else it is held back, though
 * the caller waits: it would travel in small chunks for ever, one as large as the last taken out. */
static int flush(pycrew_batch *batch)
{
    if (batch->item_open || filling_is_empty(batch) ||
        unfinished(batch) >= 2 * pc_engine_width(batch->crew))
        return 0;
    return submit_chunk(batch);
}

static int next_chunk_inside(pycrew_batch *batch, int64_t timeout_ns)
{
    int64_t until = timeout_ns == 0 ? 0 : pc_until(timeout_ns);

    while (!take_chunk(batch)) {
        int rc = flush(batch);

        if (rc < 0)
            return rc;
        if (batch->count == 0 && filling_is_empty(batch))
            return 0;
        if (timeout_ns == 0 || batch->count == 0 || !await_chunk(batch, until)) {
            if (take_chunk(batch))
                break;
            return pc_fail_static(-ETIME, "no item has ended yet");
        }
    }
    return 1;
}

static int next_chunk(pycrew_batch *batch, int64_t timeout_ns)
{
    pycrew_crew *crew = batch->crew;
    int rc;

    pc_crew_enter(crew);
    rc = next_chunk_inside(batch, timeout_ns);
    if (atomic_load(&crew->ending) == 2)
        rc = pc_fail(-ECANCELED, "the crew was closed");
    pc_crew_leave(crew);
    return rc;
}

int pycrew_batch_next(pycrew_batch *batch, int64_t timeout_ns)
{
    int rc = pc_crew_check(batch->crew);

    if (rc < 0)
        return rc;
    if (batch->has_item)
        clear_item(batch);
    for (;;) {
        if (batch->out != NULL && batch->out_next < batch->out_end) {
            if (batch->table == NULL || !take_small(batch))
                take_item(batch);
            return 1;
        }
        if (batch->out != NULL)
            drop_chunk(batch);
        rc = next_chunk(batch, timeout_ns);
        if (rc <= 0)
            return rc;
    }
}

size_t pycrew_batch_index(const pycrew_batch *batch)
{
    return batch->out == NULL ? 0 : (size_t)batch->out->chunk->first + batch->out_next - 1;
}

static int fail_no_item(void)
{
    return pc_fail(-EALREADY, "there is no item: pycrew_batch_next did not return 1");
}

int pycrew_batch_result(pycrew_batch *batch, const char *format, ...)
{
    va_list arguments;
    int rc = pc_crew_check(batch->crew);

    if (rc < 0)
        return rc;
    if (!batch->has_item)
        return fail_no_item();
    if (batch->error != NULL)
        return pc_fail_error(batch->error);
    va_start(arguments, format);
    rc = pc_format_result(batch->value, batch->out, format, &arguments, false);
    va_end(arguments);
    return rc < 0 ? pc_fail_after_run(rc, 1) : rc;
}

int pycrew_batch_array_take(pycrew_batch *batch, pycrew_array *ret)
{
    int rc = pc_crew_check(batch->crew);

    if (rc < 0)
        return rc;
    if (!batch->has_item)
        return fail_no_item();
    if (batch->error != NULL)
        return pc_fail_error(batch->error);
    rc = pc_result_array(batch->value, batch->out, true, ret);
    return rc < 0 ? pc_fail_after_run(rc, 1) : rc;
}

pycrew_value pycrew_batch_value(const pycrew_batch *batch)
{
    if (!batch->has_item || batch->error != NULL)
        return (pycrew_value){NULL, NULL, 0};
    return pc_result_value(batch->value, batch->out);
}

const pycrew_error *pycrew_batch_error(pycrew_batch *batch)
{
    return batch->has_item ? batch->error : NULL;
}

/* ---- progress, cancel, close ---- */

void pc_batch_count_death(pycrew_batch *batch, bool retried)
{
    atomic_fetch_add(&batch->deaths, 1);
    atomic_fetch_add(&batch->retried, retried);
}

int pycrew_batch_progress(const pycrew_batch *batch, pycrew_progress *ret)
{
    pycrew_progress progress = {.size = sizeof progress,
                                .added = batch->added,
                                .done = batch->taken,
                                .failed = batch->failed,
                                .retried = atomic_load(&batch->retried),
                                .deaths = atomic_load(&batch->deaths)};
    int rc = pc_crew_check(batch->crew);

    if (rc < 0)
        return rc;
    if (ret == NULL || ret->size == 0 || ret->size > sizeof progress)
        return pc_fail(-EINVAL, "pycrew_batch_progress: set ret->size to sizeof(pycrew_progress)");
    progress.size = ret->size;
    memcpy(ret, &progress, ret->size);
    return 0;
}

int pycrew_batch_cancel(pycrew_batch *batch)
{
    int rc = pc_crew_check(batch->crew);

    if (rc < 0)
        return rc;
    discard_item(batch);
    batch->room = 0;
    batch->cancelled = true;
    if (!filling_is_empty(batch) && (rc = submit_chunk(batch)) < 0)
        return rc;
    pthread_mutex_lock(&batch->crew->lock);
    for (uint32_t i = 0; i < batch->count; i++) {
        pycrew_call *call = chunk_at(batch, i);

        if (atomic_load(&call->phase) != PC_PHASE_IN_FLIGHT)
            continue;
        pc_chunk_cancel(call);
        pc_call_stop(call, PC_STOP_CANCEL);
    }
    pthread_mutex_unlock(&batch->crew->lock);
    return 0;
}

void pycrew_batch_close(pycrew_batch *batch)
{
    if (batch == NULL)
        return;
    if (*(const volatile char *)batch->crew->fork_guard != 0) {
        clear_item(batch);
        if (batch->filling != NULL)
            pc_call_reclaim(batch->filling);
        batch->filling = NULL;
        pycrew_batch_cancel(batch);
        pthread_mutex_lock(&batch->crew->lock);
        for (uint32_t i = 0; i < batch->count; i++)
            chunk_at(batch, i)->chunk->batch = NULL;
        delist(batch);
        pthread_mutex_unlock(&batch->crew->lock);
        while (batch->count > 0)
            pycrew_release(list_remove(batch, 0));
        pycrew_release(batch->out);
        if (batch->sleeper != NULL)
            pc_call_reclaim(batch->sleeper);
    } else {
        delist(batch);
        pc_arrays_forget(&batch->item);
    }
    free(batch->chunks);
    free(batch);
}

void pc_batches_free(pycrew_crew *crew)
{
    pycrew_batch *next;

    for (pycrew_batch *batch = crew->batches; batch != NULL; batch = next) {
        next = batch->next;
        pc_error_clear(&batch->error_space);
        pc_arrays_forget(&batch->item);
        free(batch->chunks);
        free(batch);
    }
}
