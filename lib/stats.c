/* stats: what a crew is doing, from the host's records, the kernel, and counters that the workers
 * write, each into a line of its own record.
 *
 * That a worker is alive is asked of its pidfd, not of anybody's memory. Counters are a worker's
 * word: each is read once and bounded by what is possible. All of it works while workers are
 * stopped or dead, and no call pays for it but by a few stores. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/array.h"
#include "lib/crew.h"

enum { LEAST_CALL_NS = 10 };

/* ---- counters ---- */

static uint64_t at_most(uint64_t value, uint64_t limit)
{
    return value < limit ? value : limit;
}

static int64_t within(int64_t value, int64_t limit)
{
    return value < 0 ? 0 : value < limit ? value : limit;
}

/* What its present process has counted. */
static pc_worker_totals read_counters(const pycrew_crew *crew, unsigned worker, int64_t now)
{
    const pc_host_worker *w = &crew->crew_workers[worker];
    const pc_worker_record *record = &crew->segment.workers[worker];
    int64_t lived = w->was_ready ? within(now - w->admitted, INT64_MAX) : 0;
    int64_t word = atomic_load_explicit(&record->idle, memory_order_relaxed);
    int64_t idle = word / 2;
    pc_worker_totals totals;

    if (word & 1) /* a scribbled one may be anything */
        idle = (int64_t)((uint64_t)(word >> 1) + (uint64_t)now);
    idle = within(idle, lived);
    totals.calls = at_most(atomic_load_explicit(&record->calls, memory_order_relaxed),
                           (uint64_t)lived / LEAST_CALL_NS);
    totals.errors =
        at_most(atomic_load_explicit(&record->errors, memory_order_relaxed), totals.calls);
    totals.busy_ns = lived - idle;
    totals.ready_ns = lived;
    return totals;
}

void pc_stats_keep(pycrew_crew *crew, unsigned worker, bool planned)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_worker_totals last = read_counters(crew, worker, pc_now());

    w->totals.calls += last.calls;
    w->totals.errors += last.errors;
    w->totals.busy_ns += last.busy_ns;
    w->totals.ready_ns += last.ready_ns;
    w->deaths += !planned;
}

/* ---- outcomes ---- */

void pc_stats_count(pycrew_crew *crew, enum pc_outcome outcome, uint64_t count)
{
    atomic_fetch_add_explicit(&crew->outcomes[outcome], count, memory_order_relaxed);
    atomic_fetch_add_explicit(&crew->segment.header->outcomes[outcome], count,
                              memory_order_relaxed);
}

void pc_stats_count_failures(pycrew_crew *crew, int code, uint64_t count)
{
    switch (code) {
    case PYCREW_ERAISED: pc_stats_count(crew, PC_OUTCOME_RAISED, count); break;
    case PYCREW_EDIED: pc_stats_count(crew, PC_OUTCOME_DIED, count); break;
    case -ETIMEDOUT: pc_stats_count(crew, PC_OUTCOME_TIMED_OUT, count); break;
    case -ECANCELED: pc_stats_count(crew, PC_OUTCOME_CANCELLED, count); break;
    default: pc_stats_count(crew, PC_OUTCOME_FAILED, count);
    }
}

void pc_stats_restore(pycrew_crew *crew)
{
    memset(crew->segment.times, 0, crew->workers * sizeof crew->segment.times[0]);
    for (unsigned i = 0; i < PC_OUTCOMES; i++)
        atomic_store(&crew->segment.header->outcomes[i], atomic_load(&crew->outcomes[i]));
}

/* ---- calls ---- */

/* Counts the calls that have not ended, and marks who has one. */
static void count_calls(pycrew_crew *crew, int64_t now, pycrew_stats *stats, bool *busy)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];
        uint32_t generation = atomic_load_explicit(&call->generation, memory_order_relaxed);
        uint32_t phase = atomic_load_explicit(&call->phase, memory_order_acquire);
        int64_t age = now - atomic_load_explicit(&call->submitted, memory_order_relaxed);
        uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);

        if (phase != PC_PHASE_IN_FLIGHT || pc_word_generation(word) != generation ||
            (!pc_word_is_queued(word) && pc_word_state(word) != PC_CLAIMED))
            continue;
        stats->in_flight++;
        stats->queued += pc_word_is_queued(word);
        if (pc_word_state(word) == PC_CLAIMED && pc_word_worker(word) < crew->workers)
            busy[pc_word_worker(word)] = true;
        if (age > stats->oldest_ns)
            stats->oldest_ns = age;
    }
}

static size_t memory_used(const pycrew_crew *crew)
{
    size_t used = crew->segment.spans_offset;

    for (uint32_t i = 0; i < crew->segment.config.spans; i++)
        if (atomic_load_explicit(&crew->segment.span_owners[i], memory_order_relaxed) !=
            PC_OWNER_FREE)
            used += PC_SPAN_SIZE;
    return used;
}

/* ---- workers; under crew->lock, which their states are changed under ---- */

static bool is_alive(const pc_host_worker *w)
{
    return w->pidfd >= 0 && !pc_pidfd_is_dead(w->pidfd);
}

static int state_of(const pc_host_worker *w, bool busy)
{
    if (w->state == PC_WORKER_FORKING)
        return PYCREW_WORKER_STARTING;
    if (w->state == PC_WORKER_NONE || !is_alive(w))
        return PYCREW_WORKER_GONE;
    if (w->state == PC_WORKER_STARTING)
        return PYCREW_WORKER_STARTING;
    return busy ? PYCREW_WORKER_BUSY : PYCREW_WORKER_IDLE;
}

static size_t resident_size(const pc_host_worker *w)
{
    char path[64];
    unsigned long long pages = 0;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/statm", w->pid);
    file = fopen(path, "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    fclose(file);
    /* Alive still, so the PID was its own. */
    return is_alive(w) ? (size_t)pages * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

static void write_worker(const pycrew_stats *stats, unsigned worker, const pycrew_worker_stats *one)
{
    size_t size = stats->worker_size < sizeof *one ? stats->worker_size : sizeof *one;

    memcpy((char *)stats->worker + worker * stats->worker_size, one, size);
}

static void look_at_worker(pycrew_crew *crew, unsigned worker, bool busy, int64_t now,
                           pycrew_stats *stats)
{
    const pc_host_worker *w = &crew->crew_workers[worker];
    pycrew_worker_stats one = {.state = state_of(w, busy), .deaths = w->deaths};
    pc_worker_totals present = read_counters(crew, worker, now);

    stats->alive += one.state >= PYCREW_WORKER_IDLE;
    stats->busy += one.state == PYCREW_WORKER_BUSY;
    stats->starting += one.state == PYCREW_WORKER_STARTING;
    stats->backing_off += one.state == PYCREW_WORKER_GONE;
    stats->deaths += w->deaths;
    if (worker >= stats->worker_max || stats->worker == NULL)
        return;
    one.calls = w->totals.calls + present.calls;
    one.errors = w->totals.errors + present.errors;
    one.busy_ns = w->totals.busy_ns + present.busy_ns;
    if (one.state >= PYCREW_WORKER_IDLE) {
        one.pid = w->pid;
        one.rss = resident_size(w);
    }
    write_worker(stats, worker, &one);
}

/* ---- all of it ---- */

static int check_stats(const pycrew_stats *stats)
{
    if (stats == NULL || stats->size < sizeof(size_t) * 2)
        return pc_fail(-EINVAL, "pycrew_stats_get: stats must begin as PYCREW_STATS_INIT");
    if (stats->worker != NULL && stats->worker_size == 0)
        return pc_fail(-EINVAL, "pycrew_stats_get: stats->worker_size is 0");
    return 0;
}

int pycrew_stats_get(pycrew_crew *crew, pycrew_stats *stats)
{
    pycrew_stats all = {0};
    int rc = check_stats(stats);
    size_t size;
    int64_t now;
    bool *busy;

    if (rc < 0 || (rc = pc_crew_check(crew)) < 0)
        return rc;
    busy = calloc(crew->workers, sizeof busy[0]);
    if (busy == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    size = stats->size < sizeof all ? stats->size : sizeof all;
    memcpy(&all, stats, size);
    memset((char *)&all + offsetof(pycrew_stats, workers), 0,
           sizeof all - offsetof(pycrew_stats, workers));
    all.workers = crew->workers;
    all.memory_max = crew->segment.size;
    pc_arrays_settle(crew);
    all.memory_used = memory_used(crew);
    pthread_mutex_lock(&crew->lock);
    now = pc_now();
    count_calls(crew, now, &all, busy);
    for (unsigned i = 0; i < crew->workers; i++)
        look_at_worker(crew, i, busy[i], now, &all);
    pthread_mutex_unlock(&crew->lock);
    memcpy(stats, &all, size);
    free(busy);
    return 0;
}
