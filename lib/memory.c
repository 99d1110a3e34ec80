/* memory: the host's heap, and the leases on the workers' memory.
 *
 * A result that does not fit its slot stays where the worker wrote it, in a span of the worker's.
 * From the moment the host has seen it until the call is released the block is leased. While the
 * worker lives, a lease is nothing but the block's address in the private record, and its end gives
 * the block back. When the worker dies, the sweep counts the leases per span; spans without are
 * freed at once, the others when the count has come to nothing. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "lib/crew.h"
#include "lib/shm/idle.h"

static int alloc(pycrew_crew *crew, size_t size, uint64_t *ret)
{
    int rc;

    pthread_mutex_lock(&crew->heap_lock);
    rc = pc_heap_alloc(&crew->heap, size, ret);
    pthread_mutex_unlock(&crew->heap_lock);
    return rc;
}

/* What was just released may be a sleeping worker's to free. It gets a moment for that; where it
 * takes longer, the next try will do. */
static int alloc_when_short(pycrew_crew *crew, size_t size, uint64_t *ret)
{
    int64_t until = pc_now() + PC_SHORTAGE_NS;
    int rc;

    pc_idle_call_for_memory(&crew->segment);
    do {
        sched_yield();
        rc = alloc(crew, size, ret);
    } while (rc == -ENOMEM && pc_now() < until);
    return rc;
}

int pc_memory_alloc(pycrew_crew *crew, size_t size, uint64_t *ret)
{
    int rc = alloc(crew, size, ret);

    return rc == -ENOMEM ? alloc_when_short(crew, size, ret) : rc;
}

void pc_memory_free(pycrew_crew *crew, uint64_t block)
{
    if (block == 0)
        return;
    pthread_mutex_lock(&crew->heap_lock);
    pc_heap_free(&crew->heap, block);
    pthread_mutex_unlock(&crew->heap_lock);
}

size_t pc_memory_size(pycrew_crew *crew, uint64_t block)
{
    size_t size;

    pthread_mutex_lock(&crew->heap_lock);
    size = pc_heap_block_size(&crew->heap, block);
    pthread_mutex_unlock(&crew->heap_lock);
    return size;
}

/* The spans of a block: a run for one that is larger than a span. The size is not known any more
 * when a lease ends, so a lease counts on the first span and the run's others follow it: they are
 * freed with it. */
static bool is_run_tail(const pc_segment *segment, const uint32_t *leases, uint32_t span, uint32_t owner)
{
    return span < segment->config.spans && leases[span] == UINT32_MAX &&
           atomic_load_explicit(&segment->span_owners[span], memory_order_relaxed) == owner;
}

bool pc_lease_take(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t block,
                   uint64_t size, uint64_t *holder)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    bool ok;

    pthread_mutex_lock(&w->lock);
    ok = (w->incarnation & PC_INCARNATION_MASK) == (incarnation & PC_INCARNATION_MASK) && w->alive &&
         block % 8 == 0 &&
         pc_span_owned(&crew->segment, block, size, pc_owner_worker(worker, w->incarnation));
    if (ok)
        *holder = block;
    pthread_mutex_unlock(&w->lock);
    return ok;
}

/* The last lease on a dead worker's span has ended. */
static void free_orphans(pycrew_crew *crew, uint32_t span)
{
    pc_segment *segment = &crew->segment;
    uint32_t owner = atomic_load_explicit(&segment->span_owners[span], memory_order_relaxed);

    pc_span_release(segment, span);
    for (span++; is_run_tail(segment, crew->orphan_leases, span, owner); span++) {
        crew->orphan_leases[span] = 0;
        pc_span_release(segment, span);
    }
}

void pc_lease_end(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t *holder)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    uint64_t block = *holder;

    if (block == 0)
        return;
    pthread_mutex_lock(&w->lock);
    *holder = 0;
    if (w->alive && (w->incarnation & PC_INCARNATION_MASK) == (incarnation & PC_INCARNATION_MASK)) {
        pc_heap_give_back(&crew->segment, worker, block);
    } else {
        uint32_t span = pc_span_of(&crew->segment, block);

        if (crew->orphan_leases[span] > 0 && --crew->orphan_leases[span] == 0)
            free_orphans(crew, span);
    }
    pthread_mutex_unlock(&w->lock);
}

static void count_lease(pycrew_crew *crew, uint64_t block)
{
    crew->orphan_leases[pc_span_of(&crew->segment, block)]++;
}

static void count_leases(pycrew_crew *crew, unsigned worker, unsigned incarnation)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];

        if (call->result_block != 0 && call->result_worker == worker &&
            call->result_incarnation == incarnation)
            count_lease(crew, call->result_block);
        if (call->chunk != NULL)
            pc_chunk_leases(call, count_lease, worker, incarnation);
    }
}

void pc_lease_orphan(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_segment *segment = &crew->segment;
    uint32_t owner = pc_owner_worker(worker, w->incarnation);
    bool leased = false; /* the span before, so that the tail of a run stays with its head */

    pthread_mutex_lock(&w->lock);
    w->alive = false;
    count_leases(crew, worker, (unsigned)(w->incarnation & PC_INCARNATION_MASK));
    for (uint32_t span = 0; span < segment->config.spans; span++) {
        if (atomic_load_explicit(&segment->span_owners[span], memory_order_relaxed) != owner) {
            leased = false;
            continue;
        }
        if (crew->orphan_leases[span] > 0) {
            leased = true;
        } else if (leased) {
            crew->orphan_leases[span] = UINT32_MAX; /* maybe a tail: see is_run_tail */
        } else {
            pc_span_release(segment, span);
        }
    }
    pthread_mutex_unlock(&w->lock);
}
