/* map: columns through all workers.
 *
 * The elements are cut into stretches, each a chunk (chunk.c), and so deadlines, deaths and retries
 * are those of a batch's items. How long a stretch is, is found by measuring: as many elements as
 * take CHUNK_NS, starting from few; towards the end they become shorter, so that all workers end
 * together. There are at most IN_FLIGHT of them for each worker, and they are taken out in the
 * order in which they end.
 *
 * A column in memory of the crew is read, or written, where it is. Any other goes through a part of
 * the chunk's block (it is staged), so memory is bounded by the chunks in flight. With
 * PYCREW_MAP_WHOLE a chunk is one item, a message with slices of the columns, and array.c does the
 * rest.
 *
 * A retry must not see what the try before has written. Element by element it cannot: a result is
 * stored when its function has returned, into the output alone. Where the output is an input as
 * well, an element that died is not tried again; those that were not started are untouched. */
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/array.h"
#include "lib/crew.h"
#include "lib/shm/columns.h"

#define TASK_NS ((int64_t)60 * 1000 * 1000) /* with an engine, where a task costs about 1 ms */
#define CHUNK_NS ((int64_t)2000 * 1000)
#define STAGED_BYTES ((uint64_t)1 << 20) /* of a chunk's columns */
#define WHOLE_BYTES ((uint64_t)8 << 20)  /* of a slice's */
#define FIRST_BYTES ((uint64_t)64 << 10) /* of the first slices' */
#define ALIGN ((uint64_t)64)

enum {
    IN_FLIGHT = 4, /* for each worker: they go on while this thread waits for a CPU */
    LIMIT_FIRST = 4,
    GROWTH = 8,
    SHORTEST = 16, /* towards the end: that part of what is measured */
    INPUTS_MAX = PC_COLUMNS_MAX - 1,
    ALL_FLAGS = PYCREW_MAP_WHOLE | PYCREW_MAP_OUT
};

struct pc_map {
    pycrew_crew *crew;
    const pycrew_function *function;
    pycrew_map_options o;
    int64_t timeout_ns;
    unsigned retries;
    bool whole;

    unsigned inputs;
    pycrew_array given[PC_COLUMNS_MAX]; /* the inputs, then the output */
    pc_array arrays[PC_COLUMNS_MAX];    /* the same, checked and measured; data is an address */
    pc_held *held[PC_COLUMNS_MAX];
    pc_columns columns; /* unless whole; data are addresses */
    uint64_t staged;    /* bytes of an element that go through the chunk */
    uint64_t bytes;     /* bytes of an element, all columns */

    uint64_t count; /* of the elements, or of rows */
    uint64_t next;  /* the first that is in no chunk */
    uint64_t limit; /* elements to a chunk */
    uint64_t done, failed;
    _Atomic uint64_t retried, deaths;

    pycrew_call **chunks;
    unsigned in_flight, in_flight_max;
    uint64_t block_bytes; /* of their blocks */

    int code;              /* why it ends early, or 0, */
    pc_error ended;        /* with its words, unless that is an element's */
    bool stopping;         /* nothing more is to be begun, */
    int64_t stopped;       /* since then, */
    bool interrupted;      /* and what runs was told so */
    uint64_t first_failed; /* UINT64_MAX: none; and its error */
    pc_error error;
    int64_t looked, reported;
};

static int out_of_memory(void)
{
    return pc_fail(-ENOMEM, "no memory is left");
}

/* ---- options ---- */

static int read_options(const pycrew_map_options *given, pycrew_map_options *ret)
{
    const unsigned char *bytes = (const unsigned char *)given;

    *ret = (pycrew_map_options)PYCREW_MAP_OPTIONS_INIT;
    if (given == NULL)
        return 0;
    if (given->size < offsetof(pycrew_map_options, chunk))
        return pc_fail(-EINVAL, "map options.size is %zu: start from PYCREW_MAP_OPTIONS_INIT",
                       given->size);
    for (size_t i = sizeof *ret; i < given->size; i++)
        if (bytes[i] != 0)
            return pc_fail(-EINVAL,
                           "the map's options have a field, at byte %zu, that this "
                           "version (%s) does not know",
                           i, pycrew_version());
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    if (ret->flags & ~(unsigned)ALL_FLAGS)
        return pc_fail(-EINVAL, "map options.flags 0x%x have one that is neither PYCREW_MAP_WHOLE nor PYCREW_MAP_OUT",
                       ret->flags);
    if (ret->flags == PYCREW_MAP_OUT)
        return pc_fail(-EINVAL, "map options.flags: PYCREW_MAP_OUT is for PYCREW_MAP_WHOLE, and to be given with it");
    if (ret->chunk > PC_CHUNK_ITEMS_MAX)
        return pc_fail(-EINVAL, "map options.chunk is %u; at most %d", ret->chunk,
                       PC_CHUNK_ITEMS_MAX);
    if (ret->on_error != PYCREW_MAP_STOP && ret->on_error != PYCREW_MAP_FILL)
        return pc_fail(-EINVAL,
                       "map options.on_error is %d, and neither PYCREW_MAP_STOP nor "
                       "PYCREW_MAP_FILL",
                       ret->on_error);
    return 0;
}

static void set_options(pc_map *map)
{
    map->whole = map->o.flags & PYCREW_MAP_WHOLE;
    map->timeout_ns =
        map->o.timeout_ns == 0 || map->crew->debug ? map->crew->timeout_ns : pc_timeout(map->o.timeout_ns);
    map->retries = map->o.retries < 0 ? map->crew->retries : (unsigned)map->o.retries;
}

/* ---- the columns ---- */

static pc_array *output_of(pc_map *map)
{
    return &map->arrays[map->inputs];
}

static const char *name_of(const pc_map *map, unsigned column, char text[32])
{
    if (column == map->inputs)
        return "the output";
    snprintf(text, 32, "inputs[%u]", column);
    return text;
}

/* The output is ours to write, whatever its flags say. */
static pycrew_array as_written(const pycrew_array *output, bool elsewhere)
{
    pycrew_array array = *output;

    array.flags &= ~(unsigned)PYCREW_COPY_BACK;
    array.flags |= PYCREW_WRITABLE | (elsewhere ? PYCREW_COPY_BACK : 0u);
    return array;
}

static int pin(pc_map *map, const pycrew_array *inputs, const pycrew_array *output)
{
    char text[32];
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i <= map->inputs; i++) {
        const pycrew_array *from = i < map->inputs ? &inputs[i] : output;

        if (from->size < sizeof *from)
            return pc_fail(-EINVAL,
                           "%s: its size is not set: it was not made by PYCREW_ARRAY_INIT "
                           "or pycrew_array_init",
                           name_of(map, i, text));
        map->given[i] = i < map->inputs ? *from : as_written(from, true);
        if (i < map->inputs)
            map->given[i].flags &= ~(unsigned)(PYCREW_WRITABLE | PYCREW_COPY_BACK);
        rc = pc_arrays_pin(map->crew, &map->given[i], name_of(map, i, text), &map->arrays[i],
                           &map->held[i]);
    }
    if (rc == 0)
        map->given[map->inputs] = as_written(output, map->held[map->inputs] == NULL);
    return rc;
}

static bool same_shape(const pc_array *a, const pc_array *b)
{
    return a->ndim == b->ndim &&
           memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof a->shape[0]) == 0;
}

static const char *shape_text(const pc_array *array, char text[128])
{
    size_t size = 1;

    strcpy(text, "(");
    for (int i = 0; i < array->ndim && size < 100; i++)
        size += (size_t)snprintf(text + size, 128 - size, i > 0 ? ", %lld" : "%lld",
                                 (long long)array->shape[i]);
    snprintf(text + size, 128 - size, array->ndim == 1 ? ",)" : ")");
    return text;
}

static int fail_shape(pc_map *map, unsigned column)
{
    char name[32], own[128], other[128];

    return pc_fail(
        -EINVAL, "%s has the shape %s, and the output %s: %s", name_of(map, column, name),
        shape_text(&map->arrays[column], own), shape_text(output_of(map), other),
        map->whole ? "their first dimensions are to be the same" : "they are to be the same");
}

/* Element by element: one shape; an input of no dimensions is the same for all. */
static int check_shapes(pc_map *map)
{
    pc_array *output = output_of(map);

    for (unsigned i = 0; i < map->inputs; i++) {
        pc_array *array = &map->arrays[i];

        if (array->ndim == 0 && output->ndim > 0) {
            array->ndim = output->ndim;
            memcpy(array->shape, output->shape, sizeof array->shape);
            memset(array->strides, 0, sizeof array->strides);
        } else if (!same_shape(array, output)) {
            return fail_shape(map, i);
        }
    }
    map->count = output->itemsize > 0 ? output->bytes / output->itemsize : 0;
    return 0;
}

/* By slices: the first dimension is cut, the others are free. */
static int check_rows(pc_map *map)
{
    const pc_array *output = output_of(map);

    if (output->ndim == 0)
        return pc_fail(-EINVAL, "the output has no dimension that PYCREW_MAP_WHOLE could cut");
    for (unsigned i = 0; i < map->inputs; i++)
        if (map->arrays[i].ndim > 0 && map->arrays[i].shape[0] != output->shape[0])
            return fail_shape(map, i);
    map->count = (uint64_t)output->shape[0];
    return 0;
}

static int check_dtypes(const pc_map *map)
{
    char name[32];

    for (unsigned i = 0; i <= map->inputs; i++)
        if (map->arrays[i].dtype == PC_DTYPE_OTHER)
            return pc_fail(-EINVAL,
                           "%s: its dtype is PYCREW_OTHER (\"%.100s\"); element by element "
                           "there are bool, ints, floats and complex, with PYCREW_MAP_WHOLE all",
                           name_of(map, i, name), map->given[i].format);
    return 0;
}

/* ---- overlaps ---- */

static bool is_same_place(const pc_array *a, const pc_array *b)
{
    return a->data == b->data && a->dtype == b->dtype && same_shape(a, b) &&
           memcmp(a->strides, b->strides, (size_t)a->ndim * sizeof a->strides[0]) == 0;
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;

        a = b;
        b = rest;
    }
    return a;
}

static uint64_t stride_divisor(const pc_array *array, uint64_t divisor)
{
    for (int i = 0; i < array->ndim; i++) {
        uint64_t stride = (uint64_t)array->strides[i];

        if (array->shape[i] > 1)
            divisor = common_divisor(array->strides[i] < 0 ? 0 - stride : stride, divisor);
    }
    return divisor;
}

/* Fields of the same records: elements of the one always between those of the other. */
static bool interleave(const pc_array *a, const pc_array *b)
{
    uint64_t step = stride_divisor(a, stride_divisor(b, 0)), distance;

    if (step == 0)
        return false;
    if (a->data >= b->data)
        distance = (a->data - b->data) % step;
    else
        distance = (step - (b->data - a->data) % step) % step;
    return distance >= b->itemsize && distance + a->itemsize <= step;
}

static bool overlap(const pc_array *a, const pc_array *b)
{
    uint64_t low = a->data + (uint64_t)a->low, high = a->data + (uint64_t)a->high;
    uint64_t other_low = b->data + (uint64_t)b->low, other_high = b->data + (uint64_t)b->high;

    return a->bytes > 0 && b->bytes > 0 && low < other_high && other_low < high &&
           !interleave(a, b);
}

static int check_overlap(pc_map *map, unsigned column)
{
    const pc_array *array = &map->arrays[column], *output = output_of(map);
    char name[32];

    if (!overlap(array, output))
        return 0;
    name_of(map, column, name);
    if (map->whole)
        return pc_fail(-EINVAL,
                       "inputs[%u] overlaps the output; a function that changes rows in place "
                       "is given them as the output alone, with PYCREW_MAP_OUT",
                       column);
    if (!is_same_place(array, output))
        return pc_fail(
            -EINVAL, "inputs[%u] overlaps the output; only the same elements may be both", column);
    if (map->o.retries > 0)
        return pc_fail(-EINVAL,
                       "inputs[%u] is the output, too: then an element that died cannot be "
                       "tried again, and options.retries is to be 0 or -1",
                       column);
    map->retries = 0;
    return 0;
}

/* ---- how elements are laid out ---- */

static void lay_out(pc_map *map)
{
    pc_columns *columns = &map->columns;
    const pc_array *output = output_of(map);

    columns->count = map->inputs + 1;
    columns->ndim = output->ndim;
    memcpy(columns->shape, output->shape, sizeof columns->shape);
    for (unsigned i = 0; i <= map->inputs; i++) {
        const pc_array *array = &map->arrays[i];
        pc_column *column = &columns->column[i];

        column->data = array->data;
        column->dtype = array->dtype;
        column->itemsize = array->itemsize;
        memcpy(column->strides, array->strides, sizeof column->strides);
        map->bytes += array->itemsize;
        if (map->held[i] == NULL)
            map->staged += array->itemsize;
    }
    pc_columns_merge(columns);
}

static void lay_out_rows(pc_map *map)
{
    for (unsigned i = 0; i <= map->inputs; i++) {
        uint64_t bytes = map->arrays[i].ndim > 0 ? map->arrays[i].bytes / map->count : 0;

        map->bytes += bytes;
        if (map->held[i] == NULL)
            map->staged += bytes;
    }
}

static int check_all(pc_map *map)
{
    int rc = map->whole ? check_rows(map) : check_dtypes(map);

    if (rc == 0 && !map->whole)
        rc = check_shapes(map);
    for (unsigned i = 0; rc == 0 && i < map->inputs; i++)
        rc = check_overlap(map, i);
    if (rc < 0 || map->count == 0)
        return rc;
    if (map->whole && map->o.flags & PYCREW_MAP_OUT && map->o.retries < 0)
        map->retries = 0; /* as for a call with a writable array */
    if (map->whole)
        lay_out_rows(map);
    else
        lay_out(map);
    return 0;
}

/* ---- making a chunk ---- */

static uint64_t align(uint64_t size)
{
    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

static int fail_alloc(int rc)
{
    return rc == -E2BIG ? pc_fail(rc, "a single element exceeds the crew's shared memory: raise options.memory")
                        : pc_fail(rc, "no shared memory is left for the columns: release calls and arrays, or raise options.memory");
}

/* Size of what stands before the staged columns: header, columns, and what tells of failures. */
static uint64_t results_at(const pc_map *map)
{
    return align(sizeof(pc_chunk) + pc_columns_size(map->columns.count));
}

static uint64_t stages_at(const pc_map *map, uint64_t count)
{
    return align(results_at(map) + sizeof(pc_chunk_result) + count);
}

/* Where the elements of a chunk that are staged are, by column. */
static uint64_t stage_at(const pc_map *map, uint64_t count, unsigned column)
{
    uint64_t at = stages_at(map, count);

    for (unsigned i = 0; i < column; i++)
        if (map->held[i] == NULL)
            at += align(count * map->arrays[i].itemsize);
    return at;
}

static void write_columns(const pc_map *map, uint64_t block, uint64_t first, uint64_t count,
                          pc_columns *to)
{
    const pc_columns *from = &map->columns;

    memcpy(to, from, pc_columns_size(0));
    to->first = first;
    for (unsigned i = 0; i < from->count; i++) {
        pc_column *column = &to->column[i];

        *column = from->column[i];
        if (map->held[i] != NULL) {
            column->data -= (uintptr_t)map->crew->segment.base;
            continue;
        }
        column->data = block + stage_at(map, count, i) - first * column->itemsize;
        pc_columns_set_contiguous(from, column);
    }
}

static void stage_inputs(const pc_map *map, uint8_t *block, uint64_t first, uint64_t count)
{
    for (unsigned i = 0; i < map->inputs; i++)
        if (map->held[i] == NULL)
            pc_columns_gather(&map->columns, &map->columns.column[i], first, count,
                              block + stage_at(map, count, i));
}

/* 0, or -ENOMEM, -E2BIG with no error set. */
static int build_elements(pc_map *map, pycrew_call *call, uint64_t first, uint64_t count)
{
    pc_batch_chunk *chunk = call->chunk;
    uint64_t size = stage_at(map, count, map->columns.count);
    uint8_t *block;
    int rc = pc_memory_alloc(map->crew, size, &call->arguments_block);

    if (rc < 0)
        return rc;
    block = pc_segment_at(&map->crew->segment, call->arguments_block);
    chunk->kind = PC_CHUNK_ELEMENTS;
    chunk->columns = sizeof(pc_chunk);
    chunk->results = results_at(map);
    chunk->bytes = size;
    write_columns(map, call->arguments_block, first, count,
                  (pc_columns *)(void *)(block + chunk->columns));
    stage_inputs(map, block, first, count);
    call->builder.writer.size = size;
    return 0;
}

/* ---- making a slice ---- */

static int no_more(pc_writer *writer, size_t need)
{
    (void)writer;
    (void)need;
    return -ENOMEM;
}

/* Of the description of each column in the message. */
static uint64_t message_size(const pc_map *map)
{
    uint64_t size = sizeof(uint64_t);

    for (unsigned i = 0; i <= map->inputs; i++)
        size +=
            64 + 2 * PC_ARRAY_DIMS * sizeof(uint64_t) + pc_align8(map->arrays[i].format_size + 1);
    return size;
}

static pycrew_array slice_of(const pc_map *map, unsigned column, uint64_t first, uint64_t count)
{
    const pc_array *array = &map->arrays[column];
    pycrew_array slice = map->given[column];

    memcpy(slice.strides, array->strides, sizeof slice.strides);
    slice.flags &= ~(unsigned)PYCREW_FORTRAN;
    slice.flags |= PYCREW_STRIDED;
    if (array->ndim == 0)
        return slice;
    slice.shape[0] = (int64_t)count;
    if (slice.data != NULL)
        slice.data = (uint8_t *)slice.data + (int64_t)first * array->strides[0];
    return slice;
}

static int add_slices(pc_map *map, pycrew_call *call, uint64_t first, uint64_t count)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i <= map->inputs; i++) {
        pycrew_array slice = slice_of(map, i, first, count);

        rc = pc_arrays_add(&call->builder, &slice);
    }
    return rc;
}

static int build_slices(pc_map *map, pycrew_call *call, uint64_t first, uint64_t count)
{
    pc_batch_chunk *chunk = call->chunk;
    pc_builder *builder = &call->builder;
    uint64_t items = message_size(map), results = align(sizeof(pc_chunk) + items);
    pc_chunk *shared;
    int rc =
        pc_memory_alloc(map->crew, results + sizeof(pc_chunk_result) + 1, &call->arguments_block);

    if (rc < 0)
        return rc;
    shared = pc_segment_at(&map->crew->segment, call->arguments_block);
    builder->writer = (pc_writer){.data = (uint8_t *)(shared->items + 1),
                                  .capacity = items - sizeof(uint64_t),
                                  .grow = no_more};
    rc = add_slices(map, call, first, count);
    if (rc < 0)
        return rc;
    shared->items[0] = builder->writer.size;
    chunk->kind = PC_CHUNK_WHOLE;
    if (map->o.flags & PYCREW_MAP_OUT)
        chunk->flags |= PC_CHUNK_OUT;
    chunk->results = results;
    chunk->bytes = results + count * map->staged;
    return 0;
}

/* ---- how many elements ---- */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void set_first_limit(pc_map *map)
{
    map->limit = LIMIT_FIRST;
    if (map->o.chunk != 0)
        map->limit = map->o.chunk;
    else if (map->whole)
        map->limit = FIRST_BYTES / (map->bytes + 1) + 1;
}

static uint64_t elements_now(const pc_map *map)
{
    uint64_t rest = map->count - map->next, count = map->limit;
    uint64_t bytes = map->whole ? map->bytes : map->staged;
    uint64_t most = map->whole ? WHOLE_BYTES : STAGED_BYTES;

    most = least(most, map->crew->segment.config.spans * PC_SPAN_SIZE / 16);
    if (map->o.chunk == 0)
        count = least(count, rest / (2 * pc_engine_width(map->crew)) + count / SHORTEST);
    count = count > 0 ? count : 1;
    if (bytes > 0)
        count = least(count, most / bytes + 1);
    return least(least(count, rest), PC_CHUNK_ITEMS_MAX);
}

static void measure(pc_map *map, const pc_batch_chunk *chunk, uint64_t count)
{
    int64_t fitting;

    if (map->o.chunk != 0 || chunk->busy_ns < 0 || chunk->begin != 0)
        return;
    fitting = (map->crew->engine != NULL ? TASK_NS : CHUNK_NS) / (chunk->busy_ns / (int64_t)count + 1);
    if (fitting > GROWTH * (int64_t)map->limit)
        fitting = GROWTH * (int64_t)map->limit;
    map->limit = fitting < 1 ? 1 : (uint64_t)fitting;
}

/* ---- beginning chunks ---- */

/* The elements of an item: more than one only of a slice. */
static uint64_t elements_of(const pc_map *map, const pycrew_call *call)
{
    return map->whole ? (uint64_t)(uintptr_t)call->data : 1;
}

static int build(pc_map *map, pycrew_call *call, uint64_t count)
{
    pc_batch_chunk *chunk = call->chunk;
    int rc;

    chunk->map = map;
    if (map->o.on_error == PYCREW_MAP_STOP)
        chunk->flags |= PC_CHUNK_STOPS;
    chunk->count = map->whole ? 1 : (uint32_t)count;
    call->data = (void *)(uintptr_t)count;
    atomic_store_explicit(&call->function, map->function, memory_order_relaxed);
    call->timeout_ns = map->timeout_ns;
    rc = map->whole ? build_slices(map, call, map->next, count)
                    : build_elements(map, call, map->next, count);
    return rc;
}

/* 0; 1: not now, for want of memory or calls, which what is in flight gives back. */
static int begin_chunk(pc_map *map, uint64_t count)
{
    pycrew_call *call;
    int rc = pc_call_prepare(map->crew, map->in_flight > 0 ? 0 : PYCREW_FOREVER, &call);

    if (rc == -EAGAIN && map->in_flight > 0)
        return 1;
    if (rc < 0)
        return rc;
    rc = pc_chunk_init(call, NULL, map->next, map->retries);
    if (rc == 0)
        rc = build(map, call, count);
    if (rc == 0)
        rc = pc_chunk_submit(call);
    if (rc < 0) {
        pc_call_reclaim(call);
        return rc == -ENOMEM && map->in_flight > 0 ? 1 : rc;
    }
    map->chunks[map->in_flight++] = call;
    map->block_bytes += call->chunk->bytes;
    map->next += count;
    return 0;
}

static bool has_room(const pc_map *map)
{
    return map->in_flight < map->in_flight_max &&
           (map->in_flight == 0 ||
            map->block_bytes < map->crew->segment.config.spans * PC_SPAN_SIZE / 8);
}

static int begin_chunks(pc_map *map)
{
    int rc = 0;

    while (rc == 0 && !map->stopping && map->next < map->count && has_room(map)) {
        uint64_t count = elements_now(map);

        /* Where memory is short, less may do. */
        while ((rc = begin_chunk(map, count)) == -ENOMEM && count > 1)
            count /= 2;
    }
    if (rc == -ENOMEM || rc == -E2BIG)
        return fail_alloc(rc);
    return rc < 0 ? rc : 0;
}

/* ---- ending ---- */

/* Nothing more is begun. What runs goes on to the end of its element, for a while. */
static void stop(pc_map *map, int code)
{
    if (map->code == 0)
        map->code = code;
    if (map->stopping)
        return;
    map->stopping = true;
    map->stopped = pc_now();
    pthread_mutex_lock(&map->crew->lock);
    for (unsigned i = 0; i < map->in_flight; i++)
        if (atomic_load(&map->chunks[i]->phase) == PC_PHASE_IN_FLIGHT)
            pc_chunk_cancel(map->chunks[i]);
    pthread_mutex_unlock(&map->crew->lock);
}

static void interrupt(pc_map *map)
{
    map->interrupted = true;
    pthread_mutex_lock(&map->crew->lock);
    for (unsigned i = 0; i < map->in_flight; i++)
        if (atomic_load(&map->chunks[i]->phase) == PC_PHASE_IN_FLIGHT)
            pc_call_stop(map->chunks[i], PC_STOP_CANCEL);
    pthread_mutex_unlock(&map->crew->lock);
}

/* ---- what came of a chunk ---- */

static void fill_element(pc_map *map, uint64_t number)
{
    static const uint8_t nothing[16];
    const void *fill = map->o.fill != NULL ? map->o.fill : nothing;
    const pc_column *output = &map->columns.column[map->inputs];

    pc_columns_scatter(&map->columns, output, number, 1, fill);
}

static void fill_rows(pc_map *map, uint64_t first, uint64_t count)
{
    pycrew_array rows = slice_of(map, map->inputs, first, count);
    pc_array array = *output_of(map);
    int64_t none[PC_ARRAY_DIMS] = {0};
    uint8_t *nothing = NULL;
    const void *fill = map->o.fill;

    if (fill == NULL)
        fill = nothing = calloc(1, array.itemsize);
    array.shape[0] = (int64_t)count;
    if (fill != NULL && pc_array_measure(&array) == PC_ARRAY_GOOD)
        pc_array_copy(&array, rows.data, array.strides, fill, none);
    free(nothing);
}

static void note_failure(pc_map *map, uint64_t first, uint64_t count, int code)
{
    map->failed += count;
    pc_stats_count_failures(map->crew, code, count);
    for (uint64_t i = first; map->o.failed != NULL && i < first + count; i++)
        map->o.failed[i] = code;
    if (map->o.on_error != PYCREW_MAP_FILL)
        return;
    if (map->whole)
        fill_rows(map, first, count);
    else
        fill_element(map, first);
}

/* An end that is no element's fault, and would be that of all. */
static bool is_fatal(const pc_batch_chunk *chunk)
{
    return chunk->unfound || chunk->fault.public.code == PYCREW_ESTART ||
           chunk->fault.public.code == -ESHUTDOWN;
}

/* What ends the map is told, though elements before it had failed; else the first one's. */
static void keep_error(pc_map *map, pc_batch_chunk *chunk, uint64_t number)
{
    bool ends = is_fatal(chunk) && map->code == 0;
    pc_error *kept = ends ? &map->ended : &map->error;

    if (!ends && number >= map->first_failed)
        return;
    pc_error_clear(kept);
    *kept = chunk->fault;
    chunk->fault = (pc_error){0};
}

/* Why item i failed; 0: it did not, or was only not run because the map was stopped. */
static int failure_of(const pc_map *map, const pc_batch_chunk *chunk, uint32_t i)
{
    int code = chunk->codes != NULL ? chunk->codes[i] : -ENOMEM;

    return map->stopping && code == -ECANCELED ? 0 : code;
}

static void take_failures(pc_map *map, pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;
    bool stops = map->o.on_error == PYCREW_MAP_STOP || is_fatal(chunk), any = false;
    const pc_error *why;

    for (uint32_t i = 0; chunk->failures > 0 && i < chunk->finished; i++) {
        int code = failure_of(map, chunk, i);

        if (code == 0)
            continue;
        any = true;
        note_failure(map, chunk->first + i, elements_of(map, call), code);
        if (i == chunk->fault_item)
            keep_error(map, chunk, chunk->first + i);
        if (chunk->first + i < map->first_failed)
            map->first_failed = chunk->first + i;
    }
    why = map->ended.public.code < 0 ? &map->ended : &map->error;
    if (any && stops)
        stop(map, why->public.code);
}

/* Where the elements that returned, from `from` on, end. */
static uint32_t end_of_good(const pc_batch_chunk *chunk, uint32_t from, uint32_t end)
{
    while (from < end && (chunk->failures == 0 || chunk->codes[from] == 0))
        from = chunk->failures == 0 ? end : from + 1;
    return from;
}

/* What is staged of the output, up to end: but for elements that failed it is anything. */
static void scatter_output(const pc_map *map, const pycrew_call *call, uint32_t end)
{
    const pc_batch_chunk *chunk = call->chunk;
    const pc_column *output = &map->columns.column[map->inputs];
    const uint8_t *from = (const uint8_t *)chunk->shared;

    if (map->whole || map->held[map->inputs] != NULL ||
        (chunk->failures > 0 && chunk->codes == NULL))
        return;
    from += stage_at(map, chunk->count, map->inputs);
    for (uint32_t begin = 0, good; begin < end; begin = good + 1) {
        good = end_of_good(chunk, begin, end);
        pc_columns_scatter(&map->columns, output, chunk->first + begin, good - begin,
                           from + (uint64_t)begin * output->itemsize);
    }
}

/* An ended chunk. True: nothing of it is left to be run. */
static bool settle(pc_map *map, pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;
    uint64_t each = elements_of(map, call);
    uint32_t run = call->code < 0 ? chunk->begin : chunk->finished;
    bool stopped =
        map->stopping || chunk->unfound || (chunk->failures > 0 && chunk->flags & PC_CHUNK_STOPS);

    if (call->code == 0 && run < chunk->count && !stopped)
        return false;
    scatter_output(map, call, run);
    measure(map, chunk, each * chunk->count);
    if (call->code < 0)
        pc_chunk_fail_rest(call, run, &call->error);
    map->done += each * chunk->finished;
    take_failures(map, call);
    return true;
}

static bool take_ended(pc_map *map)
{
    bool any = false;

    for (unsigned i = 0; i < map->in_flight;) {
        pycrew_call *call = map->chunks[i];

        if (!pc_call_collect(call)) {
            i++;
            continue;
        }
        any = true;
        if (!settle(map, call)) {
            pc_chunk_resubmit(call, false);
            i++;
            continue;
        }
        map->block_bytes -= call->chunk->bytes;
        map->chunks[i] = map->chunks[--map->in_flight];
        pc_call_reclaim(call);
    }
    return any;
}

/* ---- waiting ---- */

static void look(pc_map *map, int64_t now)
{
    bool queued = false;

    if (now - map->looked < PC_LOOK_NS)
        return;
    map->looked = now;
    for (unsigned i = 0; i < map->in_flight; i++)
        queued |= pc_call_look(map->chunks[i]);
    if (queued)
        pc_idle_wake_all(&map->crew->segment);
}

/* On the first one's semaphore, which all of them post. */
static void await_any(pc_map *map, int64_t until)
{
    const pycrew_call *sleeper = map->chunks[0];
    sem_t *semaphore = &sleeper->slot->semaphore;

    if (map->in_flight == 1) {
        pc_call_await(map->chunks[0], until);
        return;
    }
    pc_sleeper_drain(semaphore);
    for (unsigned i = 0; i < map->in_flight; i++)
        if (!pc_call_publish_sleeper(map->chunks[i], sleeper->index))
            return;
    pc_sleeper_wait(semaphore, until);
}

void pc_map_count_death(pc_map *map, bool retried)
{
    atomic_fetch_add(&map->deaths, 1);
    atomic_fetch_add(&map->retried, retried);
}

static int report(pc_map *map)
{
    pycrew_progress progress = {.size = sizeof progress,
                                .added = map->count,
                                .done = map->done,
                                .failed = map->failed,
                                .retried = atomic_load(&map->retried),
                                .deaths = atomic_load(&map->deaths)};

    map->reported = pc_now();
    return map->o.progress == NULL ? 0 : map->o.progress(map->o.progress_data, &progress);
}

static bool is_closing(const pc_map *map)
{
    return atomic_load(&map->crew->ending) == 2;
}

/* Ends it for a reason that is no element's. */
static void end(pc_map *map, int code, const char *why)
{
    if (map->code == 0)
        pc_error_set(&map->ended, code, pc_text_of(map->function->name), pc_text_of(NULL),
                     pc_text_of(why), pc_text_of(NULL));
    stop(map, code);
}

static void report_if_due(pc_map *map)
{
    if (map->o.progress == NULL || map->stopping || pc_now() - map->reported < PC_LOOK_NS)
        return;
    if (report(map) != 0)
        end(map, -ECANCELED, "the progress function ended the map (it returned another value than 0)");
}

/* What was stopped and does not come to an end of its own. */
static void interrupt_if_due(pc_map *map)
{
    if (map->stopping && !map->interrupted && pc_now() - map->stopped >= map->crew->grace_ns)
        interrupt(map);
}

static void await_ends(pc_map *map)
{
    int64_t now = pc_now();

    if (map->in_flight == 0 || take_ended(map))
        return;
    await_any(map, now + PC_LOOK_NS);
    look(map, now);
}

static void run(pc_map *map)
{
    while (!is_closing(map)) {
        int rc = begin_chunks(map);

        if (rc < 0)
            end(map, rc, pycrew_last_error()->message);
        if (map->in_flight == 0 && (map->stopping || map->next == map->count))
            return;
        await_ends(map);
        report_if_due(map);
        interrupt_if_due(map);
    }
}

/* ---- the whole ---- */

/* The crew closes: what is in flight goes with it. What the supervisor collects at this moment may
 * still be copied back. */
static int leave(pc_map *map)
{
    for (unsigned i = 0; i < map->in_flight; i++)
        pc_call_collect(map->chunks[i]);
    pthread_mutex_lock(&map->crew->lock);
    for (unsigned i = 0; i < map->in_flight; i++)
        map->chunks[i]->chunk->map = NULL;
    pthread_mutex_unlock(&map->crew->lock);
    return pc_fail(-ECANCELED, "the crew was closed");
}

static int outcome(pc_map *map)
{
    if (map->in_flight > 0)
        return leave(map);
    if (map->failed > 0 && map->o.first_failed != NULL)
        *map->o.first_failed = map->first_failed;
    if (map->code < 0)
        return pc_fail_error(map->ended.public.code < 0 ? &map->ended.public : &map->error.public);
    report(map);
    if (map->failed > 0)
        pc_fail_error(&map->error.public);
    return map->failed > INT_MAX ? INT_MAX : (int)map->failed;
}

static int prepare(pc_map *map)
{
    unsigned most = IN_FLIGHT * pc_engine_width(map->crew);

    if (most > map->crew->call_limit / 2)
        most = map->crew->call_limit < 2 ? 1 : map->crew->call_limit / 2;
    map->in_flight_max = most;
    map->chunks = malloc(most * sizeof map->chunks[0]);
    map->first_failed = UINT64_MAX;
    map->looked = map->reported = pc_now();
    set_first_limit(map);
    if (map->o.failed != NULL)
        memset(map->o.failed, 0, map->count * sizeof map->o.failed[0]);
    return map->chunks == NULL ? out_of_memory() : 0;
}

static int map_columns(pc_map *map, const pycrew_array *inputs, const pycrew_array *output)
{
    int rc = pin(map, inputs, output);

    if (rc == 0)
        rc = check_all(map);
    if (rc < 0 || map->count == 0)
        return rc;
    rc = prepare(map);
    if (rc < 0)
        return rc;
    if (atomic_load(&map->crew->ending) != 0)
        return pc_crew_refuse(map->crew);
    pc_crew_enter(map->crew);
    run(map);
    rc = outcome(map);
    pc_crew_leave(map->crew);
    return rc;
}

int pycrew_map(pycrew_crew *crew, const pycrew_function *function, const pycrew_array *inputs,
               unsigned ninputs, pycrew_array *output, const pycrew_map_options *options)
{
    pycrew_map_options all;
    pc_map *map;
    int rc;

    if (crew == NULL || function == NULL || output == NULL || (inputs == NULL && ninputs > 0))
        return pc_fail(-EINVAL, "pycrew_map: crew, function, inputs and output must not be NULL");
    if (ninputs > INPUTS_MAX)
        return pc_fail(-EINVAL, "pycrew_map: %u inputs; at most %d", ninputs, INPUTS_MAX);
    if ((rc = pc_crew_check(crew)) < 0 || (rc = read_options(options, &all)) < 0)
        return rc;
    if (!(all.flags & PYCREW_MAP_WHOLE) && (rc = pc_engine_refuse(crew, "maps element by element")) < 0)
        return rc;
    map = calloc(1, sizeof *map);
    if (map == NULL)
        return out_of_memory();
    map->crew = crew;
    map->function = function;
    map->inputs = ninputs;
    map->o = all;
    set_options(map);
    rc = map_columns(map, inputs, output);
    for (unsigned i = 0; i <= ninputs; i++)
        pc_arrays_unpin(crew, map->held[i]);
    pc_error_clear(&map->error);
    pc_error_clear(&map->ended);
    free(map->chunks);
    free(map);
    return rc;
}
