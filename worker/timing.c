#include "worker/timing.h"

#include <string.h>

#include "lib/shm/sleeper.h"
#include "worker/engine.h"

static pc_histogram *histograms(const pc_worker *worker)
{
    return worker->segment.times[worker->number].of;
}

/* Which of the function's next calls are timed. Of several workers the last one has its way: each is right. */
static void learn(const pc_execution *e, int64_t ns)
{
    _Atomic uint32_t *sampling = pc_run_sampling(e->loop, e->function);
    uint32_t mask = atomic_load_explicit(sampling, memory_order_relaxed);
    uint32_t next = pc_sampling_next(mask, ns);

    if (next != mask) /* or the line would go to and fro */
        atomic_store_explicit(sampling, next, memory_order_relaxed);
}

static void take_mark(pc_execution *e)
{
    memcpy(&e->mark, e->slot->result, sizeof e->mark);
}

/* Since its submit, of which run_ns were with us. */
static void count_way(const pc_execution *e, int64_t now, int64_t run_ns, uint64_t weight)
{
    pc_histogram *of = histograms(e->loop->worker);
    int64_t total = now - e->mark.submitted;

    pc_histogram_count(&of[PC_TIME_WAIT], total - run_ns, weight);
    pc_histogram_count(&of[PC_TIME_TOTAL], total, weight);
}

/* ---- single calls ---- */

void pc_timing_begin(pc_execution *e)
{
    take_mark(e);
    e->started = pc_now();
}

void pc_timing_end(const pc_execution *e)
{
    int64_t now = pc_now(), ns = now - e->started;

    pc_histogram_count(&histograms(e->loop->worker)[PC_TIME_RUN], ns, e->mark.weight);
    count_way(e, now, ns, e->mark.weight);
    learn(e, ns);
}

/* ---- chunks ---- */

void pc_timing_begin_chunk(pc_execution *e, pc_items_writer *w)
{
    const _Atomic uint32_t *sampling = pc_run_sampling(e->loop, e->function);

    if (!(e->slot->flags & PC_REQUEST_TIMED))
        return;
    take_mark(e);
    w->times_items = w->chunk->kind == PC_CHUNK_ITEMS && !pc_engine_is_used() &&
                     atomic_load_explicit(sampling, memory_order_relaxed) == 0;
}

void pc_timing_begin_item(pc_items_writer *w)
{
    w->item_started = pc_now();
}

void pc_timing_end_item(pc_items_writer *w)
{
    int64_t ns = pc_now() - w->item_started;

    pc_histogram_count(&histograms(w->worker)[PC_TIME_RUN], ns, 1);
    w->timed_ns += ns;
    w->timed_items++;
}

/* The mean of those that were not timed each. */
static void count_rest(const pc_execution *e, const pc_items_writer *w, int64_t busy_ns,
                       uint32_t finished)
{
    uint32_t rest = finished > w->timed_items ? finished - w->timed_items : 0;

    if (rest > 0)
        pc_histogram_count(&histograms(e->loop->worker)[PC_TIME_RUN],
                           (busy_ns - w->timed_ns) / rest, rest);
}

void pc_timing_end_chunk(const pc_execution *e, const pc_items_writer *w, int64_t busy_ns)
{
    uint64_t progress = atomic_load_explicit(&w->chunk->progress, memory_order_relaxed);
    uint32_t finished = pc_chunk_finished(progress) - w->chunk->begin;

    if (e->mark.weight == 0 || finished == 0 || finished > w->chunk->count)
        return;
    count_rest(e, w, busy_ns, finished);
    count_way(e, pc_now(), busy_ns, finished);
    learn(e, busy_ns / finished);
}
