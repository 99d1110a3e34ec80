#include "worker/trace.h"

#include "lib/shm/chunk.h"
#include "lib/shm/sleeper.h"
#include "lib/shm/trace.h"

static uint32_t unended; /* calls with a beginning in the ring, whose ends are to have room */

static const pc_chunk *chunk_of(const pc_execution *e)
{
    if (!(e->slot->flags & PC_REQUEST_BATCH))
        return NULL;
    return pc_segment_at(&e->loop->worker->segment, e->slot->arguments_block);
}

static void write_event(const pc_segment *segment, pc_trace_ring *ring, const pc_trace_event *event)
{
    uint32_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);

    *pc_trace_at(segment, ring, written) = *event;
    atomic_store_explicit(&ring->written, written + 1, memory_order_release);
}

static uint32_t room(const pc_segment *segment, pc_trace_ring *ring)
{
    return segment->config.trace - (atomic_load_explicit(&ring->written, memory_order_relaxed) -
                                    atomic_load_explicit(&ring->read, memory_order_acquire));
}

void pc_trace_begin(pc_execution *e)
{
    const pc_worker *worker = e->loop->worker;
    const pc_segment *segment = &worker->segment;
    pc_trace_ring *ring = pc_trace_ring_of(segment, worker->number);
    const pc_chunk *chunk = chunk_of(e);
    pc_trace_event event = {
        .call = (uint64_t)e->generation << 32 | e->number,
        .time = pc_now(),
        .submitted = atomic_load_explicit(&segment->submits[e->number], memory_order_relaxed),
        .what = PC_TRACE_BEGIN | e->function << PC_TRACE_WHAT_BITS,
        .items = chunk != NULL ? chunk->count - chunk->begin + 1 : 0};

    if (room(segment, ring) < unended + 2) {
        atomic_fetch_add_explicit(&ring->lost, 1, memory_order_relaxed);
        return;
    }
    unended++;
    e->traced = true;
    write_event(segment, ring, &event);
}

void pc_trace_end(const pc_execution *e)
{
    const pc_worker *worker = e->loop->worker;
    const pc_chunk *chunk = chunk_of(e);
    pc_trace_event event = {.call = (uint64_t)e->generation << 32 | e->number,
                            .time = pc_now(),
                            .what = PC_TRACE_END | e->slot->result_kind << PC_TRACE_WHAT_BITS};

    if (chunk != NULL)
        event.items =
            pc_chunk_finished(atomic_load_explicit(&chunk->progress, memory_order_relaxed)) -
            chunk->begin + 1;
    unended--;
    write_event(&worker->segment, pc_trace_ring_of(&worker->segment, worker->number), &event);
}
