/* loop: claim, decode, call, encode, publish.
 *
 * Order matters in three places. `entered` is published before anything that can run user code: a
 * slot that died without it certainly ran nothing. "Current" is cleared before the end is
 * published: an interrupt that comes later finds nobody. Nothing of a slot is read after its end
 * was published, but for what was read before (pc_ending). */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/shm/idle.h"
#include "lib/shm/inbox.h"
#include "lib/shm/probes.h"
#include "worker/array.h"
#include "worker/async.h"
#include "worker/host.h"
#include "worker/items.h"
#include "worker/leave.h"
#include "worker/loop.h"
#include "worker/object.h"
#include "worker/stream.h"
#include "worker/timing.h"
#include "worker/trace.h"

/* ---- single calls ---- */

/* Writes into the slot, then into a block of the heap. */
typedef struct slot_writer {
    pc_writer writer; /* first */
    pc_worker *worker;
    uint64_t block; /* 0: still in the slot */
} slot_writer;

static int slot_grow(pc_writer *writer, size_t need)
{
    slot_writer *w = (slot_writer *)(void *)writer;
    pc_heap *heap = &w->worker->heap;
    uint64_t block;
    int rc = pc_run_alloc(w->worker, need, 2 * writer->capacity, &block);

    if (rc < 0)
        return rc;
    memcpy(pc_segment_at(heap->segment, block), writer->data, writer->size);
    if (w->block != 0)
        pc_heap_free(heap, w->block);
    w->block = block;
    writer->data = pc_segment_at(heap->segment, block);
    writer->capacity = pc_heap_block_size(heap, block);
    return 0;
}

static pc_cursor slot_arguments(const pc_segment *segment, const pc_slot *slot)
{
    const uint8_t *at = slot->arguments_block != 0 ? pc_segment_at(segment, slot->arguments_block)
                                                   : slot->arguments;

    return (pc_cursor){at, at + slot->arguments_size};
}

static slot_writer write_to(const pc_execution *e)
{
    return (slot_writer){
        .writer = {.data = e->slot->result, .capacity = PC_INLINE_RESULT, .grow = slot_grow},
        .worker = e->loop->worker};
}

static bool wants_json(const pc_execution *e)
{
    return e->slot->flags & PC_REQUEST_JSON;
}

static void end_single(const pc_execution *e, const slot_writer *w, enum pc_result_kind kind)
{
    pc_slot *slot = e->slot;

    slot->result_kind = kind;
    slot->result_ran = e->ran;
    if (__builtin_expect(pc_array_used, 0))
        slot->result_ran |= pc_array_end_call(kind == PC_RESULT_VALUE);
    slot->result_block = w->block;
    slot->result_size = w->writer.size;
}

static void end_awaited(pc_async_call *call, PyObject *result)
{
    pc_execution *e = &call->execution;
    enum pc_result_kind kind = PC_RESULT_VALUE;
    slot_writer w = write_to(e);

    if (e->slot->flags & PC_REQUEST_KIND)
        result = pc_object_end_awaited(call, result, &kind);
    if (kind == PC_RESULT_END)
        pc_run_count(e->loop, kind);
    else
        kind = pc_run_write(e, result, wants_json(e), &w.writer);
    pc_async_leave(call);
    if (kind == PC_RESULT_NO_FUNCTION) /* an engine's: it was not found where it was to run */
        e->ran = false;
    end_single(e, &w, kind);
    if (e->mark.weight != 0)
        pc_timing_end(e);
    pc_loop_finish(e);
}

/* 0, or -1 with an exception. */
static int start_awaiting(pc_execution *e)
{
    if (pc_stream_check(e->awaitable))
        return pc_stream_await(e, end_awaited);
    return pc_async_start(e, 0, pc_current_call.deadline, end_awaited, NULL);
}

/* False: it goes on, and will be ended by end_awaited. In line, though two call it. */
static inline __attribute__((always_inline)) bool run_single(pc_execution *e)
{
    pc_slot *slot = e->slot;
    int64_t deadline = slot->flags & PC_REQUEST_DEADLINE ? slot->deadline : INT64_MAX;
    slot_writer w = write_to(e);
    enum pc_result_kind kind;

    pc_run_set_current(e, e->number, 0, deadline);
    kind = pc_run_execute(e, slot_arguments(&e->loop->worker->segment, slot), wants_json(e),
                          &w.writer);
    if (__builtin_expect(kind == PC_RUN_PENDING, 0)) {
        if (start_awaiting(e) == 0)
            return false;
        kind = pc_run_write(e, NULL, false, &w.writer);
    }
    pc_run_clear_current();
    end_single(e, &w, kind);
    return true;
}

static __attribute__((noinline, cold)) bool run_timed(pc_execution *e)
{
    bool ended;

    pc_timing_begin(e);
    ended = run_single(e);
    if (ended)
        pc_timing_end(e);
    return ended;
}

/* ---- the loop ---- */

static bool is_doomed(const pc_execution *e)
{
    const pc_chunk *chunk;

    if (atomic_load(&e->slot->control) & PC_FLAG_DOOMED)
        return true;
    if (!(e->slot->flags & PC_REQUEST_BATCH))
        return false;
    chunk = pc_segment_at(&e->loop->worker->segment, e->slot->arguments_block);
    return atomic_load(&chunk->progress) & PC_CHUNK_DOOMED;
}

_Noreturn void pc_loop_await_death(const pc_execution *e)
{
    while (is_doomed(e))
        pause();
    abort();
}

void pc_loop_finish(const pc_execution *e)
{
    pc_ending ending;

    PC_PROBE4(call_end, e->number, e->generation, e->function, e->slot->result_kind);
    if (__builtin_expect(e->traced, 0)) /* before its end is seen, so that a trace holds all that ended */
        pc_trace_end(e);
    if (!pc_slot_finish(e->slot, e->word, &ending))
        pc_loop_await_death(e);
    pc_lifeline_tell(e->loop->worker, &ending, e->number);
}

static void run_slot(pc_loop *l, uint32_t number, uint64_t word)
{
    pc_slot *slot = &l->worker->segment.slots[number];
    pc_execution e = {.loop = l,
                      .slot = slot,
                      .generation = pc_word_generation(word),
                      .function = slot->function,
                      .number = number,
                      .word = word};
    bool ended;

    PC_PROBE3(call_begin, e.number, e.generation, e.function);
    if (__builtin_expect(l->worker->segment.traces != NULL, 0))
        pc_trace_begin(&e);
    if (__builtin_expect(slot->flags & (PC_REQUEST_BATCH | PC_REQUEST_TIMED), 0))
        ended = slot->flags & PC_REQUEST_BATCH ? pc_items_run_chunk(&e) : run_timed(&e);
    else
        ended = run_single(&e);
    if (ended)
        pc_loop_finish(&e);
}

/* From the ring and from the worker's own inbox, in turn. */
static bool claim(pc_loop *l, uint32_t *slot, uint64_t *word)
{
    pc_worker *worker = l->worker;
    pc_segment *segment = &worker->segment;
    bool own = pc_inbox_has(segment, worker->number) && !l->refuses;

    if (__builtin_expect(own, 0) && !l->ring_is_next &&
        pc_inbox_claim(segment, worker->number, worker->incarnation, slot, word)) {
        l->ring_is_next = true;
        return true;
    }
    l->ring_is_next = false;
    if (__builtin_expect(l->leaving, 0))
        return own && pc_inbox_claim(segment, worker->number, worker->incarnation, slot, word);
    if (pc_ring_claim(segment, worker->number, worker->incarnation, slot, word))
        return true;
    return __builtin_expect(own, 0) &&
           pc_inbox_claim(segment, worker->number, worker->incarnation, slot, word);
}

/* Beside coroutines, a call says that it is its code that runs. */
void pc_loop_say_running(const pc_loop *l, uint64_t name)
{
    atomic_store_explicit(&l->worker->segment.workers[l->worker->number].running, name,
                          memory_order_relaxed);
}

static inline bool run_next(pc_loop *l)
{
    pc_worker *worker = l->worker;
    bool beside = pc_async_pending > 0, debug = worker->life.debug && !beside;
    pc_segment *segment = &worker->segment;
    uint32_t slot;
    uint64_t word;

    if (!claim(l, &slot, &word))
        return false;
    if (pc_ring_pending(segment))
        pc_idle_wake_one(segment);
    if (__builtin_expect(beside, 0))
        pc_loop_say_running(l, (uint64_t)pc_word_generation(word) << 32 | slot);
    if (__builtin_expect(debug, 0))
        pc_terminal_take(worker->options);
    run_slot(l, slot, word);
    if (__builtin_expect(debug, 0))
        pc_terminal_give_back(worker->options);
    if (__builtin_expect(beside, 0))
        pc_loop_say_running(l, UINT64_MAX);
    pc_run_yield_to_threads(l);
    return true;
}

bool pc_loop_run_next(pc_loop *l)
{
    return run_next(l);
}

/* Those in flight count, or it would end so many more than it may. */
bool pc_loop_takes_calls(pc_loop *l)
{
    bool over = pc_life_is_over(l->worker, l->calls + pc_async_pending);

    if (__builtin_expect(over | l->worker->cut_off | pc_current_call.recycle, 0)) {
        l->over = true;
        return pc_leave_goes_on(l);
    }
    l->over = l->leaving = l->refuses = false;
    return true;
}

/* Coroutines that are debugged have the terminal until none is pending. */
static void serve(pc_loop *l)
{
    if (__builtin_expect(l->worker->life.debug, 0))
        pc_terminal_take(l->worker->options);
    pc_async_serve(l);
    if (__builtin_expect(l->worker->life.debug, 0))
        pc_terminal_give_back(l->worker->options);
}

void pc_loop_sleep(pc_worker *worker, int64_t until)
{
    Py_BEGIN_ALLOW_THREADS
    pc_sleeper_wait(&worker->segment.workers[worker->number].semaphore, until);
    Py_END_ALLOW_THREADS
    /* Handlers of the user's; ours finds no current call. */
    if (PyErr_CheckSignals() < 0)
        PyErr_WriteUnraisable(NULL);
}

/* What is kept for calls to come, where others are short of it now. */
bool pc_loop_answer_shortage(pc_loop *l)
{
    pc_worker *worker = l->worker;
    uint32_t shortages =
        atomic_load_explicit(&worker->segment.header->shortages, memory_order_relaxed);

    if (shortages == l->shortages)
        return false;
    l->shortages = shortages;
    pc_run_take_back(worker);
    pc_heap_trim(&worker->heap);
    return true;
}

/* For statistics: busy is the rest. */
static void note_idle(pc_worker_record *record, bool begins)
{
    int64_t now = 2 * pc_now_coarse();
    int64_t idle = atomic_load_explicit(&record->idle, memory_order_relaxed);

    atomic_store_explicit(&record->idle, begins ? idle - now + 1 : idle - 1 + now,
                          memory_order_relaxed);
}

static bool publish(pc_worker *worker)
{
    return __builtin_expect(pc_async_has_waiter(), 0)
               ? pc_idle_announce(&worker->segment, worker->number)
               : pc_idle_publish(&worker->segment, worker->number);
}

/* The pages of a large block are not worth keeping for a caller that comes back later than this. */
static void idle_awhile(pc_loop *l)
{
    pc_worker *worker = l->worker;
    pc_segment *segment = &worker->segment;
    int64_t until = INT64_MAX;

    pc_run_take_back(worker);
    pc_loop_answer_shortage(l);
    if (pc_idle_spin(&worker->segment, worker->number))
        return;
    pc_run_take_back(worker);
    if (worker->heap.kept != NULL)
        until = pc_now() + PC_KEEP_NS;
    if (publish(worker) && !pc_loop_answer_shortage(l) &&
        !pc_heap_is_given_back(&worker->segment, worker->number) &&
        !pc_idle_is_to_leave(segment, worker->number, worker->incarnation)) /* I5 */
        pc_loop_sleep(worker, until);
    pc_idle_retract(&worker->segment, worker->number);
    if (until != INT64_MAX && pc_now() >= until)
        pc_heap_drop_kept(&worker->heap);
}

static void idle(pc_loop *l)
{
    pc_worker_record *record = &l->worker->segment.workers[l->worker->number];

    note_idle(record, true);
    if (__builtin_expect(l->over, 0))
        pc_leave_rest(l);
    else
        idle_awhile(l);
    note_idle(record, false);
}

int pc_loop_run(pc_worker *worker)
{
    pc_loop l = {.worker = worker, .arena_per_item = PC_ARENA_PER_ITEM};
    pc_segment *segment = &worker->segment;

    pc_current_call.record = &segment->workers[worker->number];
    pc_run_start();
    pc_array_start(worker);
    pc_host_start(worker);
    pc_life_begin(worker);
    while (pc_loop_takes_calls(&l)) {
        if (run_next(&l)) {
            if (__builtin_expect(pc_async_pending > 0, 0))
                serve(&l);
        } else if (atomic_load_explicit(&segment->header->closing, memory_order_acquire)) {
            return PC_EXIT_CLOSED;
        } else {
            idle(&l);
        }
    }
    /* The exception may have left locks held or imports half done; or our descriptors are gone; or
     * it was our time. A call may have woken us that we leave to others. */
    if (pc_ring_pending(segment))
        pc_idle_wake_one(segment);
    return PC_EXIT_RECYCLED;
}
