/* What the host believes of a result with arrays: nothing. A worker, played by the test, says what
 * no worker says; and blocks are freed once, whoever dies. */
#include "lib/array.h"
#include "lib/shm/array.h"
#include "tests/shm/fixture.h"

enum { SLOTS = 64, WORKERS = 2, SPANS = 16, WORKER = 1, INCARNATION = 5 };

static pycrew_crew crew;
static pycrew_call calls[SLOTS];
static pc_host_worker workers[WORKERS];
static pc_heap worker_heap;
static uint64_t message[512];

static uint32_t owner(void)
{
    return pc_owner_worker(WORKER, INCARNATION);
}

static void set_up(void)
{
    crew.segment = segment_new(SLOTS, WORKERS, SPANS);
    crew.segment.host = true;
    crew.workers = WORKERS;
    crew.crew_workers = workers;
    crew.calls = calls;
    crew.orphan_leases = calloc(SPANS, sizeof crew.orphan_leases[0]);
    crew.span_views = calloc(SPANS, sizeof crew.span_views[0]);
    crew.fork_guard = "1";
    pthread_mutex_init(&crew.lock, NULL);
    pthread_mutex_init(&crew.heap_lock, NULL);
    for (unsigned i = 0; i < WORKERS; i++)
        pthread_mutex_init(&workers[i].lock, NULL);
    workers[WORKER].alive = true;
    workers[WORKER].incarnation = INCARNATION;
    for (unsigned i = 0; i < SLOTS; i++) {
        calls[i].crew = &crew;
        calls[i].builder.takes_arrays = true;
    }
    ASSERT_INT(pc_heap_init(&crew.heap, &crew.segment, PC_OWNER_HOST, 0), 0);
    ASSERT_INT(pc_heap_init(&worker_heap, &crew.segment, owner(), 0), 0);
    ASSERT_INT(pc_arrays_init(&crew), 0);
}

static void tear_down(void)
{
    pc_arrays_free(&crew);
    pc_heap_destroy(&crew.heap);
    pc_heap_destroy(&worker_heap);
    pc_segment_unmap(&crew.segment);
    free(crew.orphan_leases);
    free(crew.span_views);
}

static uint64_t workers_block(size_t size)
{
    uint64_t block = 0;

    ASSERT_INT(pc_heap_alloc(&worker_heap, size, &block), 0);
    memset(pc_segment_at(&crew.segment, block), 0, size);
    return block;
}

static unsigned spans_of(uint32_t whose)
{
    unsigned count = 0;

    for (uint32_t span = 0; span < SPANS; span++)
        count += atomic_load(&crew.segment.span_owners[span]) == whose;
    return count;
}

static pc_array array_at(uint64_t block, int64_t count)
{
    pc_array array = {.base = block,
                      .cell = block,
                      .data = block,
                      .dtype = PC_DTYPE_F64,
                      .itemsize = 8,
                      .ndim = 1,
                      .shape = {count}};

    ASSERT_INT(pc_array_set_strides(&array, false), PC_ARRAY_GOOD);
    return array;
}

/* The result is these arrays. */
static int collect(pycrew_call *call, const pc_array *arrays, int count)
{
    pc_writer writer = {.data = (uint8_t *)message, .capacity = sizeof message};
    size_t offset;

    ASSERT_INT(pc_write_open(&writer, PC_TAG_TUPLE, &offset), 0);
    for (int i = 0; i < count; i++)
        ASSERT_INT(pc_array_write(&writer, &arrays[i]), 0);
    pc_write_close(&writer, offset, (uint64_t)count);
    call->result = (pc_cursor){writer.data, writer.data + writer.size};
    return pc_arrays_collect(call, WORKER, INCARNATION, PC_ANSWER_ARRAYS | PC_ANSWER_RETURNED);
}

static void leave(pycrew_call *call)
{
    if (call->arrays != NULL)
        pc_arrays_leave(call);
}

static bool first_item(const pycrew_call *call, pc_view *ret)
{
    pc_cursor cursor = call->result;
    pc_view tuple;

    return pc_value_next(&cursor, &tuple) == 1 && tuple.tag == PC_TAG_TUPLE &&
           pc_value_next(&tuple.contents, ret) == 1;
}

static void refused(const char *what, pc_array array)
{
    int rc = collect(&calls[0], &array, 1);

    if (rc != -EBADMSG)
        tap_fail("%s: %d", what, rc);
    leave(&calls[0]);
}

TEST(a_result_that_no_worker_gives_is_refused)
{
    pc_array array;
    uint64_t block, hosts, span;

    set_up();
    block = workers_block(100000);
    ASSERT_INT(pc_memory_alloc(&crew, 1000, &hosts), 0);
    span = crew.segment.spans_offset + 9 * PC_SPAN_SIZE; /* nobody's */

    refused("the host's block", array_at(hosts, 10));
    refused("nobody's span", array_at(span, 10));
    refused("before the spans", array_at(64, 10));
    refused("behind the segment", array_at(crew.segment.size + 4096, 10));
    refused("past the owner's spans", array_at(block, 2 * (int64_t)PC_SPAN_SIZE / 8));
    refused("past everything", array_at(block, INT64_MAX / 16));
    array = array_at(block, 10), array.data = hosts;
    refused("data in the host's", array);
    array = array_at(block, 10), array.strides[0] = -8;
    ASSERT_INT(pc_array_measure(&array), PC_ARRAY_GOOD);
    refused("strides before the block", array);
    array = array_at(block, 10), array.cell = hosts;
    refused("a cell of the host's", array);
    array = array_at(block, 10), array.cell = 0;
    refused("no cell", array);
    array = array_at(block, 10), array.cell = block + 4;
    refused("a cell between two words", array);
    array = array_at(block + 4, 10);
    refused("a block between two words", array);
    array = array_at(block + 900000, 10);
    refused("pages that are not there", array);

    /* Blocks that overlap, or the same twice from two bases. */
    pc_array twice[] = {array_at(block, 100), array_at(block + 256, 100)};
    ASSERT_INT(collect(&calls[0], twice, 2), -EBADMSG);
    leave(&calls[0]);
    workers[WORKER].alive = false;
    refused("a dead worker's", array_at(block, 10));
    workers[WORKER].alive = true;
    array = array_at(block, 10);
    ASSERT_INT(collect(&calls[0], &array, 1), 0);
    ASSERT_INT(pc_arrays_collect(&calls[1], WORKER, INCARNATION, PC_ANSWER_RETAINED), -EBADMSG);
    leave(&calls[0]);
    tear_down();
}

TEST(a_description_that_changes_after_the_lease_leads_nowhere_else)
{
    pycrew_array out = PYCREW_ARRAY_INIT;
    pc_array array;
    pc_view view;
    uint64_t block;

    set_up();
    block = workers_block(1000);
    array = array_at(block, 10);
    ASSERT_INT(collect(&calls[0], &array, 1), 0);
    for (unsigned word = 3; word < 8; word++)
        for (unsigned bit = 0; bit < 64; bit++) {
            message[word] ^= UINT64_C(1) << bit;
            if (first_item(&calls[0], &view) &&
                pc_arrays_view(&calls[0], &view, false, &out) == 0 && out.data != NULL) {
                uint8_t *low = out.data, *first = pc_segment_at(&crew.segment, block);
                for (int i = 0; i < out.ndim; i++)
                    ASSERT(out.strides[i] >= 0 && out.shape[i] > 0);
                ASSERT(low >= first);
                ASSERT(low + (out.ndim ? (out.shape[0] - 1) * out.strides[0] : 0) + out.itemsize <=
                       first + 128);
            }
            message[word] ^= UINT64_C(1) << bit;
        }
    /* Another call does not get it. */
    ASSERT(first_item(&calls[0], &view));
    ASSERT_INT(pc_arrays_view(&calls[1], &view, false, &out), PYCREW_ETYPE);
    ASSERT_INT(pc_arrays_view(&calls[0], &view, false, &out), 0);
    leave(&calls[0]);
    tear_down();
}

TEST(a_block_goes_back_by_its_cell_and_nothing_is_written_into_it)
{
    pc_array array;
    uint64_t block, cell;

    set_up();
    block = workers_block(1000);
    cell = workers_block(16);
    memset(pc_segment_at(&crew.segment, block), 0x77, 1000);
    array = array_at(block, 100);
    array.cell = cell;
    ASSERT_INT(collect(&calls[0], &array, 1), 0);
    ASSERT_INT(atomic_load(&crew.segment.workers[WORKER].returned), 0);
    leave(&calls[0]);
    ASSERT_INT(atomic_load(&crew.segment.workers[WORKER].returned), cell);
    for (unsigned i = 0; i < 1000; i++)
        ASSERT_INT(((uint8_t *)pc_segment_at(&crew.segment, block))[i], 0x77);
    ASSERT(pc_heap_take_back(&worker_heap, WORKER));
    ASSERT_INT(pc_heap_block_size(&worker_heap, cell), 0);
    ASSERT_INT(pc_heap_block_size(&worker_heap, block), 1024); /* its owner's to free */
    tear_down();
}

TEST(leases_outlive_their_worker_and_are_freed_once)
{
    pycrew_array taken[2] = {PYCREW_ARRAY_INIT, PYCREW_ARRAY_INIT};
    pc_array arrays[3];
    pc_cursor cursor;
    pc_view view;

    set_up();
    arrays[0] = array_at(workers_block(1000), 100);
    arrays[1] = array_at(workers_block(3 * PC_SPAN_SIZE), 3 * PC_SPAN_SIZE / 8);
    arrays[2] = array_at(workers_block(1000), 100); /* in the span of the first */
    workers_block(2 * PC_SPAN_SIZE);                /* with no lease */
    ASSERT_INT(collect(&calls[0], arrays, 3), 0);
    cursor = calls[0].result;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    cursor = view.contents;
    for (int i = 0; i < 2; i++) {
        ASSERT_INT(pc_value_next(&cursor, &view), 1);
        ASSERT_INT(pc_arrays_view(&calls[0], &view, true, &taken[i]), 0);
    }
    ASSERT_INT(spans_of(owner()), 6);
    pc_lease_orphan(&crew, WORKER);
    pc_arrays_settle(&crew);
    ASSERT_INT(spans_of(owner()), 4);
    leave(&calls[0]); /* the third's only one */
    ASSERT_INT(spans_of(owner()), 4);
    pycrew_array_drop(&crew, &taken[1]);
    ASSERT_INT(spans_of(owner()), 1);
    workers[WORKER].alive = true; /* the next one is not taken for it */
    workers[WORKER].incarnation++;
    ASSERT_INT(((double *)taken[0].data)[99] == 0, 1);
    pycrew_array_drop(&crew, &taken[0]);
    ASSERT_INT(spans_of(owner()), 0);
    ASSERT_INT(atomic_load(&crew.segment.workers[WORKER].returned), 0);
    tear_down();
}

/* A call with the array, whose answer is RETAINED, and that is released. */
static uint64_t retain(pycrew_array *array)
{
    pycrew_call *call = &calls[2];
    pc_array description;
    pc_cursor cursor;
    pc_view view;

    call->builder.writer = (pc_writer){.data = (uint8_t *)message, .capacity = sizeof message};
    pc_build_start(&call->builder);
    ASSERT_INT(pc_arrays_add(&call->builder, array), 0);
    cursor = (pc_cursor){(uint8_t *)message, (uint8_t *)message + call->builder.writer.size};
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT_INT(pc_array_read(&view, &description), 0);
    ((_Atomic uint32_t *)pc_segment_at(&crew.segment, description.cell))[WORKER] = workers[WORKER].incarnation;
    ASSERT_INT(pc_arrays_collect(call, WORKER, workers[WORKER].incarnation, PC_ANSWER_RETAINED), 0);
    leave(call);
    return description.cell;
}

TEST(what_a_worker_retains_stays_until_it_lets_go_or_is_dead)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    void *memory;
    uint64_t cell;

    set_up();
    for (int dies = 0; dies < 2; dies++) {
        memory = pycrew_alloc(&crew, 3 * PC_SPAN_SIZE);
        ASSERT(memory != NULL);
        ASSERT_INT(pycrew_array_init(&array, memory, PYCREW_F64, 1, (int64_t[]){1000}, 0), 0);
        cell = retain(&array);
        pycrew_free(&crew, memory);
        pc_arrays_settle(&crew);
        ASSERT(spans_of(PC_OWNER_HOST) >= 3);
        if (dies)
            pc_lease_orphan(&crew, WORKER);
        else
            ((_Atomic uint32_t *)pc_segment_at(&crew.segment, cell))[WORKER] = 0;
        pc_arrays_settle(&crew);
        ASSERT(spans_of(PC_OWNER_HOST) < 3);
        pc_arrays_settle(&crew); /* once */
    }
    /* What was retained, and is not any more when the user frees it. */
    workers[WORKER].alive = true;
    workers[WORKER].incarnation++;
    memory = pycrew_alloc(&crew, 3 * PC_SPAN_SIZE);
    ASSERT_INT(pycrew_array_init(&array, memory, PYCREW_F64, 1, (int64_t[]){1000}, 0), 0);
    cell = retain(&array);
    retain(&array);
    workers[WORKER].incarnation++; /* another life: its words are nobody's */
    pycrew_free(&crew, memory);
    ASSERT(spans_of(PC_OWNER_HOST) < 3);
    tear_down();
}

TAP_MAIN
