/* trace: what workers tell of their calls, where the crew is traced (options.trace).
 *
 * Each worker has a ring of events in the segment: it writes when a call or chunk begins and when
 * it ends, the host (lib/trace.c) reads. Without tracing there are no rings, and pc_segment.traces
 * is NULL.
 *
 * Why it is correct. One process writes a ring and one reads it; `written` is advanced behind the
 * event, so of a worker that dies in between only whole events are seen. It never waits: an event
 * that has no room is counted. A beginning is only written where there is room for its end and for
 * those of all others that began, so what began and has no end died. The worker's successor goes on
 * where it stopped. The host copies each event once and believes nothing of it: see trace.c. */
#ifndef PC_SHM_TRACE_H
#define PC_SHM_TRACE_H

#include "lib/shm/segment.h"

enum pc_trace_what { PC_TRACE_BEGIN = 0, PC_TRACE_END = 1, PC_TRACE_WHAT_BITS = 1 };

typedef struct pc_trace_event {
    uint64_t call;     /* generation << 32 | slot */
    int64_t time;      /* CLOCK_MONOTONIC, as all here */
    int64_t submitted; /* BEGIN: when it was queued last */
    uint32_t
        what; /* enum pc_trace_what; above that BEGIN: the function, END: enum pc_result_kind */
    uint32_t items; /* of a chunk, plus 1: BEGIN: that are to run, END: that have ended; else 0 */
} pc_trace_event;

typedef struct pc_trace_ring {
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t written; /* the worker's, as */
    _Atomic uint32_t lost;                            /* calls that had no room */
    _Alignas(PC_CACHE_LINE) _Atomic uint32_t read;    /* the host's */
    _Alignas(PC_CACHE_LINE) pc_trace_event events[];  /* config.trace of them, a power of two */
} pc_trace_ring;

static inline size_t pc_trace_stride(const pc_config *config)
{
    return config->trace == 0 ? 0 : sizeof(pc_trace_ring) + config->trace * sizeof(pc_trace_event);
}

static inline pc_trace_ring *pc_trace_ring_of(const pc_segment *segment, unsigned worker)
{
    return (pc_trace_ring *)(void *)(segment->traces + worker * pc_trace_stride(&segment->config));
}

static inline pc_trace_event *pc_trace_at(const pc_segment *segment, pc_trace_ring *ring,
                                          uint32_t place)
{
    return &ring->events[place & (segment->config.trace - 1)];
}

#endif
