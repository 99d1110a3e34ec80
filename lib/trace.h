/* trace: options.trace, a file of what each worker did when, as Chrome trace JSON.
 *
 * Workers write events of their calls to rings in the segment (lib/shm/trace.h). A thread of the
 * crew's empties these each 20 ms, makes JSON of it, and writes the file. What the host does itself
 * (deaths, kills, retries) is added where it does it. Who adds waits for nothing but a short lock;
 * what finds the buffer full, since the disk is slow, or a ring, is counted, and the file says how
 * much that was. Without options.trace crew->trace is NULL, and a call's way has one compare more,
 * of a word beside others that it reads.
 *
 * The host believes nothing of an event: slots, functions and lanes are bounded, times are cut to
 * what has passed since the last look, and what began is in private records. So a scribbled ring
 * spoils the picture, and nothing else. */
#ifndef PC_TRACE_H
#define PC_TRACE_H

#include "lib/crew.h"

uint32_t pc_trace_ring_size(const pycrew_crew *crew);

int pc_trace_open(pycrew_crew *crew, const char *path); /* path NULL: there is none */
int pc_trace_start(pycrew_crew *crew);                  /* its thread; the segment is there */
void pc_trace_stop(pycrew_crew *crew, bool in_fork);    /* after the last worker's end */

/* The supervisor: logs, once, that the file cannot be written. */
void pc_trace_say(pycrew_crew *crew);

/* ---- what the host knows; any thread, but of one call or worker one at a time ---- */

void pc_trace_started(pycrew_crew *crew, unsigned worker); /* it was admitted */
void pc_trace_died(pycrew_crew *crew, unsigned worker,
                   bool planned); /* before its calls are swept */
void pc_trace_kill(const pycrew_call *call,
                   unsigned worker); /* it is killed because of this call */
void pc_trace_retry(const pycrew_call *call,
                    unsigned worker);                   /* that died, and the call runs again */
void pc_trace_unrun(const pycrew_call *call, int code); /* it was queued, and ended so */
void pc_trace_note(pycrew_crew *crew, const char *what);

/* When a call is queued: the worker that takes it passes it on. */
static inline void pc_trace_submit(const pycrew_call *call)
{
    _Atomic int64_t *submits = call->crew->segment.submits;

    if (__builtin_expect(submits != NULL, 0))
        atomic_store_explicit(&submits[call->index], pc_now(), memory_order_relaxed);
}

#endif
