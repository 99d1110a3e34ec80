/* show: what onlookers are to know of the workers, written where they can read it: see
 * cli/attach.h.
 *
 * Once in each of the supervisor's turns; it has one for whatever happens to a worker. Only what
 * has changed is stored, so a scribbled word is right again by then, and nobody's line is taken for
 * nothing. */
#include "lib/crew.h"

static enum pc_stage stage_of(const pc_host_worker *w)
{
    if (w->state == PC_WORKER_NONE || w->gone)
        return PC_STAGE_GONE;
    if (w->state != PC_WORKER_READY)
        return PC_STAGE_STARTING;
    if (w->told_to_leave != 0 || w->leave_until != 0 || w->retiring || atomic_load(&w->killed))
        return PC_STAGE_LEAVING;
    return PC_STAGE_READY;
}

static void show(_Atomic uint32_t *word, uint32_t value)
{
    if (atomic_load_explicit(word, memory_order_relaxed) != value)
        atomic_store_explicit(word, value, memory_order_relaxed);
}

static void show_worker(const pc_host_worker *w, pc_worker_record *record)
{
    enum pc_stage stage = stage_of(w);
    int64_t admitted = w->was_ready ? w->admitted : 0;
    bool there = stage != PC_STAGE_GONE && w->state != PC_WORKER_FORKING;

    show(&record->stage, stage);
    show(&record->pid, there ? (uint32_t)w->pid : 0);
    show(&record->incarnation, w->incarnation);
    show(&record->deaths, w->deaths);
    if (atomic_load_explicit(&record->admitted, memory_order_relaxed) != admitted)
        atomic_store_explicit(&record->admitted, admitted, memory_order_relaxed);
}

void pc_show_workers(pycrew_crew *crew)
{
    for (unsigned i = 0; i < crew->workers; i++)
        show_worker(&crew->crew_workers[i], &crew->segment.workers[i]);
}
