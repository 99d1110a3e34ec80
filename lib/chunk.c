/* chunk: the calls that carry a batch's items, or a map's elements: their life, their items' ends,
 * their leases. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/array.h"
#include "lib/crew.h"

#define OWN_NS_MAX ((int64_t)1 << 50) /* no item takes longer: 13 days */

enum { KEPT_OFFSETS = 256 };

/* ---- making and submitting ---- */

static pc_batch_chunk *record_of(pycrew_call *call)
{
    pc_batch_chunk *chunk = atomic_load_explicit(&call->chunk, memory_order_acquire);

    if (chunk == NULL) {
        chunk = calloc(1, sizeof *chunk);
        atomic_store_explicit(&call->chunk, chunk, memory_order_release);
    }
    return chunk;
}

int pc_chunk_init(pycrew_call *call, pycrew_batch *batch, uint64_t first, unsigned retries)
{
    pc_batch_chunk *chunk = record_of(call);

    if (chunk == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    chunk->batch = batch;
    chunk->first = first;
    chunk->retries = retries;
    chunk->count = chunk->finished = 0;
    atomic_store_explicit(&chunk->begin, 0, memory_order_relaxed);
    chunk->shape = 0;
    chunk->busy_ns = -1;
    chunk->blamed = UINT32_MAX;
    chunk->blamed_deaths = chunk->idle_deaths = 0;
    atomic_store(&chunk->cancelled, false);
    chunk->seen_since = 0;
    chunk->shared = NULL;
    chunk->kind = PC_CHUNK_ITEMS;
    chunk->flags = chunk->columns = 0;
    chunk->map = NULL;
    chunk->failures = 0;
    chunk->fault_item = UINT32_MAX;
    chunk->unfound = false;
    chunk->urgent = chunk->yielded = false;
    chunk->out = 0;
    chunk->result_bytes = 0;
    atomic_store_explicit(&call->chunk_in_use, true, memory_order_relaxed);
    return 0;
}

/* Where an item's arguments stand, from the start of the items. */
static uint32_t offset_of(const pc_batch_chunk *chunk, uint32_t item)
{
    if (chunk->kind != PC_CHUNK_ITEMS)
        return 0;
    if (chunk->shape != 0)
        return item * pc_record_length(chunk->shape) * (uint32_t)sizeof(uint64_t);
    return item < chunk->count ? chunk->offsets[item] : 0;
}

/* The shared side before a run from begin on: all of it, since the last run's worker may have
 * scribbled over it. */
static void set_run(pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;
    pc_chunk *shared = chunk->shared;

    shared->count = chunk->count;
    shared->timed = call->timeout_ns >= 0;
    shared->timeout_ns = call->timeout_ns;
    shared->results = chunk->results;
    shared->shape = chunk->shape;
    atomic_store(&shared->cancel, atomic_load(&chunk->cancelled));
    chunk->seen_since = 0;
    atomic_store_explicit(&chunk->overdue, UINT32_MAX, memory_order_relaxed);
    shared->begin = chunk->begin;
    shared->begin_offset = offset_of(chunk, chunk->begin);
    atomic_store_explicit(&shared->progress, pc_chunk_progress(chunk->begin, chunk->begin),
                          memory_order_relaxed);
    atomic_store_explicit(&shared->busy_ns, -1, memory_order_relaxed);
    atomic_store_explicit(&shared->block_count, 0, memory_order_relaxed);
    shared->kind = chunk->kind;
    shared->flags = chunk->flags;
    if (chunk->kind == PC_CHUNK_ITEMS && !chunk->urgent)
        shared->flags |= PC_CHUNK_YIELDS;
    shared->columns = chunk->columns;
    atomic_store_explicit(&shared->fault_item, UINT32_MAX, memory_order_relaxed);
    atomic_store_explicit(&shared->arrays, 0, memory_order_relaxed);
    atomic_store_explicit(&shared->yielded, 0, memory_order_relaxed);
    if (chunk->kind != PC_CHUNK_ITEMS)
        memset((void *)(uintptr_t)(pc_chunk_kinds(shared, chunk->results) + chunk->begin), 0,
               chunk->count - chunk->begin);
}

int pc_chunk_submit(pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;
    pc_chunk *shared = pc_segment_at(&call->crew->segment, call->arguments_block);
    size_t items = pc_align8(call->builder.writer.size);

    chunk->shared = shared;
    if (chunk->kind == PC_CHUNK_ITEMS) /* a map has laid it out itself */
        chunk->results = (sizeof *shared + items + 15) & ~(uint64_t)15;
    set_run(call);
    call->flags |= PC_REQUEST_BATCH;
    call->retries = call->chunk->retries; /* an engine is told */
    return pycrew_submit(call);
}

void pc_chunk_cancel(pycrew_call *call)
{
    atomic_store(&call->chunk->cancelled, true);
    atomic_store(&call->chunk->shared->cancel, 1);
}

void pc_chunk_resubmit(pycrew_call *call, bool urgent)
{
    pycrew_crew *crew = call->crew;
    pc_batch_chunk *chunk = call->chunk;

    chunk->begin = chunk->finished;
    chunk->urgent = urgent;
    chunk->yielded = false;
    set_run(call);
    pc_ring_passed(&crew->segment, call->ticket);
    pthread_mutex_lock(&crew->lock);
    atomic_store(&call->stop, PC_STOP_NONE);
    atomic_store(&call->generation, call->generation + 1);
    atomic_store(&call->sleeper, PC_SLEEPER_NONE);
    call->host_ended = call->overdue = false;
    atomic_store_explicit(&call->phase, PC_PHASE_IN_FLIGHT, memory_order_release);
    if (call->timeout_ns >= 0) {
        call->deadline = pc_until(call->timeout_ns);
        pc_deadline_add(call);
    }
    pc_call_enqueue_locked(call);
    pthread_mutex_unlock(&crew->lock);
    if (call->timeout_ns >= 0)
        pc_crew_kick(crew);
}

/* ---- items' ends in private memory ---- */

static void copy_error(pc_error *to, const pycrew_error *e)
{
    pc_error_set(to, e->code, pc_text_of(e->function), pc_text_of(e->type), pc_text_of(e->message),
                 pc_text_of(e->traceback));
    to->public.signal = e->signal;
    to->public.exit_status = e->exit_status;
    to->public.may_have_run = e->may_have_run;
    to->public.out_of_memory = e->out_of_memory;
    to->public.attempts = e->attempts;
}

/* Of a map's elements only the first that failed has its error kept. error may be NULL where it is not
 * the first. */
static void note_failure(pc_batch_chunk *chunk, uint32_t item, int code, const pycrew_error *error)
{
    if (chunk->failures == 0)
        chunk->codes = calloc(chunk->count, sizeof chunk->codes[0]);
    if (chunk->codes != NULL)
        chunk->codes[item] = code; /* without, from the first one on, all of the chunk is read as failed */
    chunk->failures++;
    if (item >= chunk->fault_item || error == NULL)
        return;
    chunk->fault_item = item;
    copy_error(&chunk->fault, error);
}

static pc_saved *saved_of(pc_batch_chunk *chunk)
{
    if (chunk->saved == NULL)
        chunk->saved = calloc(chunk->count, sizeof chunk->saved[0]);
    return chunk->saved;
}

static void save_error(pc_batch_chunk *chunk, uint32_t item, const pc_error *error)
{
    const pycrew_error *e = &error->public;
    pc_saved *saved;

    if (chunk->kind != PC_CHUNK_ITEMS) {
        note_failure(chunk, item, e->code, e);
        return;
    }
    saved = saved_of(chunk);
    if (saved == NULL)
        return; /* its end is read as "no memory" then */
    saved += item;
    saved->kind = PC_SAVED_ERROR;
    copy_error(&saved->error, e);
}

static void save_value(pc_batch_chunk *chunk, uint32_t item, pc_cursor message)
{
    pc_saved *saved = saved_of(chunk);
    size_t size = (size_t)(message.end - message.at);

    if (saved == NULL || (saved[item].value = malloc(size + 8)) == NULL)
        return;
    saved[item].kind = PC_SAVED_VALUE;
    saved[item].size = size;
    memcpy(saved[item].value, message.at, size);
}

void pc_chunk_fail_rest(pycrew_call *call, uint32_t from, const pc_error *error)
{
    pc_batch_chunk *chunk = call->chunk;

    for (uint32_t item = from; item < chunk->count; item++)
        save_error(chunk, item, error);
    /* One that died, and was to run again. */
    if (chunk->saved != NULL && chunk->blamed_deaths > 0 && chunk->blamed >= from &&
        chunk->blamed < chunk->count) {
        pycrew_error *e = &chunk->saved[chunk->blamed].error.public;

        e->may_have_run = true;
        if (e->attempts < chunk->blamed_deaths)
            e->attempts = chunk->blamed_deaths;
    }
    if (chunk->kind != PC_CHUNK_ITEMS && chunk->blamed_deaths > 0 &&
        chunk->blamed == chunk->fault_item && chunk->blamed >= from) {
        chunk->fault.public.may_have_run = true;
        if (chunk->fault.public.attempts < chunk->blamed_deaths)
            chunk->fault.public.attempts = chunk->blamed_deaths;
    }
    chunk->begin = chunk->finished = chunk->count; /* none of them stands in the table */
}

static void set_no_memory(pc_error *space, const pycrew_call *call)
{
    pc_error_set(space, -ENOMEM, pc_text_of(call->function->name), pc_text_of(NULL),
                 pc_text_of("no memory was left to keep the result"), pc_text_of(NULL));
    space->public.may_have_run = true;
}

const volatile pc_chunk_result *pc_chunk_table(const pycrew_call *call)
{
    const pc_batch_chunk *chunk = call->chunk;

    if (chunk->begin != 0 || chunk->saved != NULL)
        return NULL;
    return (const pc_chunk_result *)(const void *)((const uint8_t *)chunk->shared + chunk->results);
}

/* Whether [offset, offset + size) lies in one of the blocks that the chunk leases. */
static bool is_leased(const pc_batch_chunk *chunk, uint64_t offset, uint64_t size)
{
    for (unsigned i = 0; i < chunk->lease_count; i++) {
        const pc_lease *lease = &chunk->leases[i];

        if (offset >= lease->block && offset - lease->block <= lease->size &&
            size <= lease->size - (offset - lease->block))
            return true;
    }
    return false;
}

static void set_lost(pycrew_call *call, pc_error *space)
{
    pc_crew_distrust(call->crew, "an item's answer that no worker gives");
    pc_error_set(space, PYCREW_EDIED, pc_text_of(call->function->name), pc_text_of(NULL),
                 pc_text_of("a worker wrote over the shared memory; the answer is lost"),
                 pc_text_of(NULL));
    space->public.may_have_run = true;
    space->public.attempts = 1;
}

/* Why this item was interrupted or killed: a deadline is one item's, cancelling is for all. A worker with many
 * calls may have seen a deadline before the host. */
static int stopped_code(const pycrew_call *call, uint32_t item)
{
    pc_batch_chunk *chunk = call->chunk;
    bool cancelled = item != atomic_load_explicit(&chunk->overdue, memory_order_relaxed) &&
                     atomic_load_explicit(&call->stop, memory_order_relaxed) == PC_STOP_CANCEL;

    return pc_call_stop_code(cancelled ? PC_STOP_CANCEL : PC_STOP_DEADLINE);
}

/* An item that failed, as a worker described it. */
static void describe_failure(pycrew_call *call, uint32_t item, uint32_t kind, pc_cursor message,
                             pc_error *space)
{
    pc_batch_chunk *chunk = call->chunk;
    bool ran = kind != PC_RESULT_BAD_ARGUMENT && kind != PC_RESULT_NO_FUNCTION;

    pc_call_set_fault(call, space, kind, ran, message);
    if (kind == PC_RESULT_NO_MEMORY || kind == PC_RESULT_NO_FUNCTION)
        pc_crew_suspect(call->crew); /* as for a single call */
    if (kind == PC_RESULT_INTERRUPTED)
        space->public.code = stopped_code(call, item);
    space->public.attempts = 1 + (item == chunk->blamed ? chunk->blamed_deaths : 0) +
                             (kind == PC_RESULT_LOST ? pc_engine_retries(call) : 0);
    /* Of this item: another's worker may have died, which the call counts. */
    space->public.may_have_run = ran || space->public.attempts > 1;
}

/* The message of an item whose end stands in the table, and its kind; 0: it is a lie. References lie in
 * blocks that are leased, or are lies. */
static uint32_t table_message(const pycrew_call *call, uint32_t item, uint64_t small[2],
                              pc_cursor *message)
{
    const pc_batch_chunk *chunk = call->chunk;
    const volatile pc_chunk_result *result =
        (pc_chunk_result *)(void *)((uint8_t *)chunk->shared + chunk->results) + item;
    uint64_t size;
    uint32_t kind;

    __builtin_prefetch((const void *)(uintptr_t)(result + 16)); /* the worker's lines */
    small[0] = result->header;
    small[1] = result->payload;
    *message = (pc_cursor){(const uint8_t *)small, (const uint8_t *)(small + 2)};
    if (!(small[0] & PC_CHUNK_REFERENCE))
        return PC_RESULT_VALUE;
    kind = small[0] & (PC_CHUNK_REFERENCE - 1);
    size = small[0] >> 8;
    message->end = message->at;
    if (kind - 1 >= PC_RESULT_BATCH - 1 ||
        (size > 0 && (small[1] % 8 != 0 || !is_leased(chunk, small[1], size))))
        return 0;
    if (size > 0) {
        message->at = pc_segment_at(&call->crew->segment, small[1]);
        message->end = message->at + size;
    }
    return kind;
}

static pc_cursor table_value(pycrew_call *call, uint32_t item, uint64_t small[2],
                             const pycrew_error **error, pc_error *space)
{
    pc_cursor message;
    uint32_t kind = table_message(call, item, small, &message);

    *error = NULL;
    if (kind == PC_RESULT_VALUE)
        return message;
    if (kind == 0)
        set_lost(call, space);
    else
        describe_failure(call, item, kind, message, space);
    *error = &space->public;
    return message;
}

/* ---- what failed of a map's ---- */

/* The texts of the run's first failure; none, if they are a lie. */
static pc_cursor fault_message(const pycrew_call *call)
{
    const pc_batch_chunk *chunk = call->chunk;
    const volatile pc_chunk_result *fault = pc_chunk_fault(chunk->shared, chunk->results);
    uint64_t header = fault->header, at = fault->payload, size = header >> 8;
    const uint8_t *data;

    if (size == 0 || !(header & PC_CHUNK_REFERENCE) || at % 8 != 0 || !is_leased(chunk, at, size))
        return (pc_cursor){NULL, NULL};
    data = pc_segment_at(&call->crew->segment, at);
    return (pc_cursor){data, data + size};
}

/* A worker says that it did; kind is what it says, and described that there are texts. */
static void save_failure(pycrew_call *call, uint32_t item, uint32_t kind, bool described)
{
    pc_batch_chunk *chunk = call->chunk;
    pc_error error = {0};

    if (kind - 1 >= PC_RESULT_BATCH - 1 || kind == PC_RESULT_VALUE) {
        set_lost(call, &error);
    } else if (described || item < chunk->fault_item) {
        describe_failure(call, item, kind, described ? fault_message(call) : (pc_cursor){NULL, NULL},
                         &error);
        if (kind == PC_RESULT_NO_FUNCTION) {
            chunk->unfound = true; /* which ends the map: of all that failed this is what is told */
            chunk->fault_item = UINT32_MAX;
        }
    } else {
        int code = kind == PC_RESULT_INTERRUPTED ? stopped_code(call, item)
                                                 : pc_call_code_of(call, kind);

        note_failure(chunk, item, code, NULL);
        return;
    }
    note_failure(chunk, item, error.public.code, &error.public);
    pc_error_clear(&error);
}

/* Of [begin, finished). Most bytes are 0. */
static void save_failures(pycrew_call *call, uint32_t finished)
{
    pc_batch_chunk *chunk = call->chunk;
    const _Atomic uint8_t *kinds = pc_chunk_kinds(chunk->shared, chunk->results);
    uint32_t described =
        atomic_load_explicit(&chunk->shared->fault_item, memory_order_relaxed);

    for (uint32_t item = chunk->begin; item < finished; item++) {
        uint8_t kind;
        uint64_t eight;

        while (item + 8 <= finished) {
            memcpy(&eight, (const void *)(uintptr_t)(kinds + item), sizeof eight);
            if (eight != 0)
                break;
            item += 8;
        }
        if (item == finished)
            return;
        kind = atomic_load_explicit(&kinds[item], memory_order_relaxed);
        if (kind != 0)
            save_failure(call, item, kind, item == described);
    }
}

/* It ended where it was told to. */
static bool stopped_at_failure(const pc_batch_chunk *chunk)
{
    return chunk->failures > 0 && (chunk->flags & PC_CHUNK_STOPS || chunk->unfound);
}

/* ---- arrays ---- */

static bool has_end_saved(const pc_batch_chunk *chunk, uint32_t item)
{
    return chunk->saved != NULL && chunk->saved[item].kind != PC_SAVED_NONE;
}

static void lease_arrays(pycrew_call *call, unsigned worker, unsigned incarnation, uint32_t item)
{
    pc_error error = {0};
    uint64_t small[2];
    pc_cursor message;
    int rc;

    if (table_message(call, item, small, &message) != PC_RESULT_VALUE ||
        !(small[0] & PC_CHUNK_REFERENCE)) /* an array is larger than what stands in the table */
        return;
    rc = pc_arrays_lease(call, worker, incarnation, message);
    if (rc == 0)
        return;
    if (rc == -ENOMEM)
        set_no_memory(&error, call);
    else
        set_lost(call, &error);
    save_error(call->chunk, item, &error);
    pc_error_clear(&error);
}

/* Of the results of [begin, finished). */
static void lease_results(pycrew_call *call, unsigned worker, unsigned incarnation,
                          uint32_t finished)
{
    pc_batch_chunk *chunk = call->chunk;

    if (chunk->kind != PC_CHUNK_ITEMS ||
        atomic_load_explicit(&chunk->shared->arrays, memory_order_relaxed) == 0)
        return;
    for (uint32_t item = chunk->begin; item < finished; item++)
        lease_arrays(call, worker, incarnation, item);
    chunk->result_bytes += pc_arrays_result_bytes(call);
}

/* Whether the one item of a chunk with arrays returned. */
static bool has_returned(const pycrew_call *call, uint32_t finished)
{
    const pc_batch_chunk *chunk = call->chunk;
    uint64_t small[2];
    pc_cursor message;

    if (finished < chunk->count)
        return false;
    if (chunk->kind != PC_CHUNK_ITEMS)
        return chunk->failures == 0;
    return (chunk->saved == NULL || chunk->saved[0].kind != PC_SAVED_ERROR) &&
           table_message(call, 0, small, &message) == PC_RESULT_VALUE;
}

/* What Python still sees of the arguments; and what it wrote goes back to where it came from. */
static void collect_arguments(pycrew_call *call, unsigned worker, unsigned incarnation,
                              uint32_t flags)
{
    flags &= PC_ANSWER_RETAINED;
    if (has_returned(call, call->chunk->finished))
        flags |= PC_ANSWER_RETURNED;
    if (pc_arrays_collect(call, worker, incarnation, flags) == -EBADMSG)
        pc_crew_distrust(call->crew, "arguments that a worker retains, and are none");
}

pc_cursor pc_chunk_value(pycrew_call *call, uint32_t item, uint64_t small[2],
                         const pycrew_error **error, pc_error *space)
{
    pc_batch_chunk *chunk = call->chunk;
    pc_cursor nothing = {NULL, NULL};

    *error = NULL;
    if (item >= chunk->begin && (chunk->saved == NULL || chunk->saved[item].kind == PC_SAVED_NONE))
        return table_value(call, item, small, error, space);
    if (chunk->saved != NULL && chunk->saved[item].kind == PC_SAVED_VALUE) {
        const uint8_t *at = (const uint8_t *)chunk->saved[item].value;

        return (pc_cursor){at, at + chunk->saved[item].size};
    }
    if (chunk->saved != NULL && chunk->saved[item].kind == PC_SAVED_ERROR) {
        *error = &chunk->saved[item].error.public;
        return nothing;
    }
    set_no_memory(space, call);
    *error = &space->public;
    return nothing;
}

/* Copies the ends of [begin, finished) out of shared memory. */
static void save_run(pycrew_call *call, uint32_t finished)
{
    pc_batch_chunk *chunk = call->chunk;

    if (chunk->kind != PC_CHUNK_ITEMS) {
        save_failures(call, finished);
        return;
    }
    for (uint32_t item = chunk->begin; item < finished; item++) {
        const pycrew_error *error;
        pc_error space = {0};
        uint64_t small[2];
        pc_cursor message;

        if (has_end_saved(chunk, item))
            continue;
        message = table_value(call, item, small, &error, &space);
        if (error != NULL)
            save_error(chunk, item, &space);
        else
            save_value(chunk, item, message);
        pc_error_clear(&space);
    }
}

/* ---- progress ---- */

/* With an engine all items of a chunk are started together, as one task. */
static bool is_task(const pycrew_call *call, uint32_t started)
{
    return call->crew->engine != NULL && started == call->chunk->count;
}

/* The shared progress, made plausible: begin <= finished <= started <= finished + 1 <= count + 1 (of a task: <= count), and
 * DOOMED only by us. False: it was not. */
static bool read_progress(pycrew_call *call, unsigned worker, uint32_t *started,
                          uint32_t *finished)
{
    const pc_batch_chunk *chunk = call->chunk;
    uint64_t progress = atomic_load_explicit(&chunk->shared->progress, memory_order_acquire);

    *started = pc_chunk_started(progress);
    *finished = pc_chunk_finished(progress);
    if (!(progress & PC_CHUNK_DOOMED && !call->crew->crew_workers[worker].killed) &&
        *finished >= chunk->begin && *finished <= chunk->count &&
        (*started == *finished || *started == *finished + 1 || is_task(call, *started)) && *started <= chunk->count)
        return true;
    *finished = chunk->begin;
    *started = chunk->begin + 1;
    pc_crew_distrust(call->crew, "a batch's progress that is none");
    return false;
}

static void take_leases(pycrew_call *call, unsigned worker, unsigned incarnation)
{
    pc_batch_chunk *chunk = call->chunk;
    const pc_chunk *shared = chunk->shared;
    uint32_t count = atomic_load_explicit(&shared->block_count, memory_order_acquire);

    chunk->result_bytes = 0;
    for (uint32_t i = 0; i < count && i < PC_CHUNK_BLOCKS; i++)
        if (pc_lease_take(call->crew, worker, incarnation,
                          atomic_load_explicit(&shared->blocks[i], memory_order_relaxed),
                          atomic_load_explicit(&shared->block_sizes[i], memory_order_relaxed),
                          &chunk->leases[chunk->lease_count]))
            chunk->result_bytes += chunk->leases[chunk->lease_count++].size;
        else
            pc_crew_distrust(call->crew, "a batch's block that its worker does not have");
}

/* What its items took; -1: not known. */
static int64_t read_busy(const pc_batch_chunk *chunk)
{
    int64_t busy = atomic_load_explicit(&chunk->shared->busy_ns, memory_order_relaxed);

    return busy < 0 || busy > OWN_NS_MAX ? -1 : busy;
}

/* The worker had no place for the next item's result, but for those of some: it goes on from there. */
static bool has_listed_all(const pc_batch_chunk *chunk)
{
    return chunk->lease_count == PC_CHUNK_BLOCKS && chunk->finished > chunk->begin;
}

/* It stopped because memory was short. Once it may do so without having run anything. */
static bool has_yielded(const pc_batch_chunk *chunk)
{
    return chunk->kind == PC_CHUNK_ITEMS &&
           atomic_load_explicit(&chunk->shared->yielded, memory_order_relaxed) != 0 &&
           (chunk->finished > chunk->begin || !chunk->urgent);
}

void pc_chunk_collect(pycrew_call *call, unsigned worker, unsigned incarnation, uint32_t flags)
{
    pc_batch_chunk *chunk = call->chunk;
    bool map = chunk->kind != PC_CHUNK_ITEMS;
    uint32_t started;

    take_leases(call, worker, incarnation);
    read_progress(call, worker, &started, &chunk->finished);
    chunk->busy_ns = read_busy(chunk);
    if (map)
        save_run(call, chunk->finished);
    lease_results(call, worker, incarnation, chunk->finished);
    if (pc_arrays_are_given(call))
        collect_arguments(call, worker, incarnation, flags);
    if (chunk->finished == chunk->count) {
        if (map)
            pc_chunk_end_leases(call);
        return;
    }
    chunk->yielded = has_yielded(chunk);
    /* Nobody asked it to stop: it may be told to for ever, by a word that is the host's. */
    if (atomic_load(&call->stop) == PC_STOP_NONE && !atomic_load(&chunk->cancelled) &&
        !chunk->yielded && !has_listed_all(chunk) && !stopped_at_failure(chunk))
        pc_crew_distrust(call->crew, "a batch's end before its items'");
    if (!map)
        save_run(call, chunk->finished);
    pc_chunk_end_leases(call);
    chunk->begin = chunk->finished;
}

void pc_chunk_end_leases(pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;

    while (chunk->lease_count > 0)
        pc_lease_end(call->crew, &chunk->leases[--chunk->lease_count]);
}

/* ---- after a death ---- */

/* The items that were running, from item to before end, take the blame; of a task all, and the first one counts
 * for them. True: they may run again. */
static bool blame(pycrew_call *call, uint32_t item, uint32_t end, unsigned worker, bool beside, const pc_error *error)
{
    pc_batch_chunk *chunk = call->chunk;
    bool killed = call->crew->crew_workers[worker].killed &&
                  atomic_load(&call->stop) != PC_STOP_NONE;
    pc_error own = *error;

    if (chunk->blamed != item)
        chunk->blamed_deaths = chunk->beside_deaths = 0;
    chunk->blamed_deaths++;
    chunk->blamed = item;
    if (beside && chunk->retries > 0 && chunk->beside_deaths < PC_LOST_WORKER_CLAIMS_MAX)
        chunk->beside_deaths++;
    if (!killed && chunk->blamed_deaths - chunk->beside_deaths <= chunk->retries)
        return true;
    own.public.code = killed ? stopped_code(call, item) : PYCREW_EDIED;
    own.public.function = call->function->name;
    own.public.may_have_run = true;
    own.public.attempts = chunk->blamed_deaths;
    if (killed)
        own.public.message = own.public.code == -ETIMEDOUT
                                 ? "the item's deadline passed; its worker did not answer the "
                                   "interrupt and was killed"
                                 : "the batch was cancelled; its worker did not answer the "
                                   "interrupt and was killed";
    for (; item < end; item++)
        save_error(chunk, item, &own);
    return false;
}

bool pc_chunk_sweep(pycrew_call *call, unsigned worker, bool beside, const pc_error *error)
{
    pc_batch_chunk *chunk = call->chunk;
    uint32_t started, finished;
    bool again = false;

    read_progress(call, worker, &started, &finished);
    take_leases(call, worker, call->crew->crew_workers[worker].incarnation);
    lease_results(call, worker, call->crew->crew_workers[worker].incarnation, finished);
    save_run(call, finished);
    /* It died between its item's end and its own. */
    if (pc_arrays_are_given(call) && has_returned(call, finished))
        pc_arrays_copy_back(call);
    pc_chunk_end_leases(call);
    chunk->idle_deaths = finished > chunk->begin ? 0 : chunk->idle_deaths + (started == finished);
    chunk->begin = finished;
    /* Workers that die again and again before they start this item: it is the item. */
    if (started == finished && chunk->idle_deaths > PC_LOST_WORKER_CLAIMS_MAX)
        started++;
    if (started > finished && finished < chunk->count) {
        again = blame(call, finished, started, worker, beside, error);
        if (!again)
            chunk->begin = started;
        else if (!atomic_load(&chunk->cancelled))
            pc_stats_count(call->crew, PC_OUTCOME_RETRIED, started - finished);
        if (chunk->batch != NULL)
            pc_batch_count_death(chunk->batch, again && !atomic_load(&chunk->cancelled));
        if (chunk->map != NULL)
            pc_map_count_death(chunk->map, again && !atomic_load(&chunk->cancelled));
    }
    chunk->finished = chunk->begin;
    if (atomic_load(&chunk->cancelled) || chunk->begin == chunk->count || stopped_at_failure(chunk))
        return false;
    atomic_store(&call->stop, PC_STOP_NONE);
    call->stop_generation = 0; /* the item may be asked again */
    set_run(call);
    return true;
}

/* Since when the progress is what it is, as far as looks have seen: a word of the worker's says when
 * an item started, and that may be a lie, again and again. */
static int64_t seen_since(pc_batch_chunk *chunk, uint64_t progress, int64_t now)
{
    if (chunk->seen_since == 0 || chunk->seen_progress != progress)
        chunk->seen_since = now;
    chunk->seen_progress = progress;
    return chunk->seen_since;
}

enum pc_overdue pc_chunk_overdue(pycrew_call *call, uint32_t *item, int64_t *look)
{
    pc_batch_chunk *chunk = call->chunk;
    uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);
    unsigned worker = pc_word_worker(word);
    uint32_t started, finished, again;
    int64_t now, since, seen;

    *item = chunk->begin;
    *look = pc_until(call->timeout_ns);
    if (pc_word_state(word) != PC_CLAIMED || pc_word_generation(word) != call->generation ||
        worker >= call->crew->workers || !read_progress(call, worker, &started, &finished))
        return PC_OVERDUE_NOT;
    *item = finished;
    if (call->timeout_ns < 0)
        return PC_OVERDUE_NOT;
    since = atomic_load_explicit(&chunk->shared->item_started_ns, memory_order_acquire);
    now = pc_now(); /* after since: the next item may be about to start, its time come before its progress */
    seen = seen_since(chunk, pc_chunk_progress(started, finished), now);
    if (!read_progress(call, worker, &again, item) || again != started)
        return PC_OVERDUE_NOT;
    if (started == finished) /* between two items, for so long? */
        return now - seen >= call->timeout_ns + 2 * PC_LOOK_NS ? PC_OVERDUE_STUCK : PC_OVERDUE_NOT;
    if (since > now || since < 0)
        pc_crew_distrust(call->crew, "a batch's item that started in the future");
    if (now - seen < call->timeout_ns && (since < 0 || now - since < call->timeout_ns)) {
        *look = seen + call->timeout_ns;
        if (since >= 0 && since < seen)
            *look = since + call->timeout_ns;
        return PC_OVERDUE_NOT;
    }
    return PC_OVERDUE_ITEM;
}

bool pc_chunk_doom(pycrew_call *call, uint32_t item)
{
    pc_batch_chunk *chunk = call->chunk;
    uint32_t started = call->crew->engine != NULL ? chunk->count : item + 1;
    uint64_t expected = pc_chunk_progress(started, item);

    return atomic_compare_exchange_strong_explicit(&chunk->shared->progress, &expected,
                                                   expected | PC_CHUNK_DOOMED, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

bool pc_chunk_is_doomed_whole(const pycrew_call *call)
{
    const pc_batch_chunk *chunk = call->chunk;

    return chunk->kind == PC_CHUNK_ELEMENTS && call->timeout_ns < 0;
}

/* ---- the end ---- */

void pc_chunk_forget_results(pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;

    pc_arrays_leave_results(call);
    for (uint32_t i = 0; chunk->saved != NULL && i < chunk->finished; i++) {
        free(chunk->saved[i].value);
        chunk->saved[i].value = NULL;
        chunk->saved[i].size = 0;
    }
}

void pc_chunk_discard(pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;

    pc_chunk_end_leases(call);
    for (uint32_t i = 0; chunk->saved != NULL && i < chunk->count; i++) {
        free(chunk->saved[i].value);
        pc_error_clear(&chunk->saved[i].error);
    }
    free(chunk->saved);
    chunk->saved = NULL;
    if (chunk->offset_capacity > KEPT_OFFSETS) { /* there is a record for each call */
        free(chunk->offsets);
        chunk->offsets = NULL;
        chunk->offset_capacity = 0;
    }
    free(chunk->codes);
    chunk->codes = NULL;
    pc_error_clear(&chunk->fault);
    chunk->batch = NULL;
    chunk->map = NULL;
    atomic_store_explicit(&call->chunk_in_use, false, memory_order_relaxed);
}

void pc_chunk_free(pycrew_call *call)
{
    pc_batch_chunk *chunk = call->chunk;

    if (chunk == NULL)
        return;
    for (uint32_t i = 0; chunk->saved != NULL && i < chunk->count; i++) {
        free(chunk->saved[i].value);
        pc_error_clear(&chunk->saved[i].error);
    }
    free(chunk->saved);
    free(chunk->offsets);
    free(chunk->codes);
    pc_error_clear(&chunk->fault);
    free(chunk);
}
