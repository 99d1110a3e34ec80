/* memory: the host's heap, and the leases on the workers' memory.
 *
 * A result that does not fit its slot stays where the worker wrote it, in a span of the worker's.
 * From the moment the host has seen it until the call is released the block is leased. While the
 * worker lives, a lease is nothing but the block's address in the private record, and its end gives
 * the block back. When the worker dies, the sweep counts the leases per span; spans without are
 * freed at once, the others when the count has come to nothing.
 *
 * Which spans a worker has is told by the segment alone, so a lie may get a lease on any of them.
 * It costs the values in them, no more: what is the host's by its private records is never freed by
 * the end of a lease. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#include "lib/crew.h"
#include "lib/shm/idle.h"

enum { GIVE_BACK_TOLD = 1 << 20 }; /* bytes; for less nobody is woken */

static int alloc(pycrew_crew *crew, size_t size, uint64_t *ret)
{
    int rc;

    pthread_mutex_lock(&crew->heap_lock);
    rc = pc_heap_alloc(&crew->heap, size, ret);
    pthread_mutex_unlock(&crew->heap_lock);
    if (rc == -ENOMEM)
        pc_crew_suspect(crew); /* owners of memory may have been scribbled over */
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

/* Its owner may be asleep, and sleep on it for ever. But it may as well run the next call at once, and
 * take the block for that: so it is given some time, by the supervisor. */
static void tell_given_back(pycrew_crew *crew)
{
    /* G1: pairs with the exchange in pc_memory_run. Whichever comes first, the other one sees what was
     * before it: the look the block, or this that the look is over. */
    if (!atomic_exchange(&crew->given_back, true))
        pc_crew_kick(crew);
}

void pc_memory_free(pycrew_crew *crew, uint64_t block)
{
    bool keeps;

    if (block == 0)
        return;
    pthread_mutex_lock(&crew->heap_lock);
    pc_heap_free(&crew->heap, block);
    keeps = crew->heap.kept != NULL;
    pthread_mutex_unlock(&crew->heap_lock);
    if (keeps)
        tell_given_back(crew); /* it is kept for the next ones, but not for ever */
}

size_t pc_memory_size(pycrew_crew *crew, uint64_t block)
{
    size_t size;

    pthread_mutex_lock(&crew->heap_lock);
    size = pc_heap_block_size(&crew->heap, block);
    pthread_mutex_unlock(&crew->heap_lock);
    return size;
}

static bool is_alive(const pc_host_worker *w, unsigned incarnation)
{
    return w->alive && (w->incarnation & PC_INCARNATION_MASK) == (incarnation & PC_INCARNATION_MASK);
}

static uint64_t page_bits(unsigned first, unsigned end)
{
    uint64_t below = end == 64 ? UINT64_MAX : (UINT64_C(1) << end) - 1;

    return below & ~((UINT64_C(1) << first) - 1);
}

/* Whether the pages [first, end) of a span were seen to be there since it is this owner's; notes
 * that they were, if they were just seen. */
static bool pages_seen(pc_span_view *view, uint32_t owner, unsigned first, unsigned end, bool just_seen)
{
    bool seen = true;

    if (atomic_load_explicit(&view->owner, memory_order_relaxed) != owner) {
        for (unsigned i = 0; i < PC_SPAN_PAGES / 64; i++)
            atomic_store_explicit(&view->pages[i], 0, memory_order_relaxed);
        atomic_store_explicit(&view->owner, owner, memory_order_relaxed);
    }
    for (unsigned i = first / 64; i * 64 < end; i++) {
        uint64_t bits = page_bits(i * 64 > first ? 0 : first % 64, end - i * 64 > 64 ? 64 : end - i * 64);

        if (just_seen)
            atomic_fetch_or_explicit(&view->pages[i], bits, memory_order_relaxed);
        else
            seen &= (atomic_load_explicit(&view->pages[i], memory_order_relaxed) & bits) == bits;
    }
    return seen;
}

/* Whether a block is there to be read. The kernel is asked once for a page of an owner's: what that
 * owner gives back to the system it refers to no more, unless it lies. */
static bool is_readable(pycrew_crew *crew, uint32_t owner, uint64_t block, uint64_t size)
{
    const pc_segment *segment = &crew->segment;
    uint64_t end = block + size, next;

    for (; block < end; block = next) {
        uint64_t inside = (block - segment->spans_offset) % PC_SPAN_SIZE;
        pc_span_view *view = &crew->span_views[pc_span_of(segment, block)];
        unsigned first = (unsigned)(inside / PC_PAGE), last;

        next = block - inside + PC_SPAN_SIZE < end ? block - inside + PC_SPAN_SIZE : end;
        last = (unsigned)((inside + (next - block) - 1) / PC_PAGE);
        if (pages_seen(view, owner, first, last + 1, false))
            continue;
        if (!pc_segment_readable(segment, block, next - block))
            return false;
        pages_seen(view, owner, first, last + 1, true);
    }
    return true;
}

static void set_lease(pc_lease *lease, uint64_t block, uint64_t size, unsigned worker,
                      unsigned incarnation)
{
    lease->size = size;
    atomic_store_explicit(&lease->worker, worker, memory_order_relaxed);
    atomic_store_explicit(&lease->incarnation, incarnation, memory_order_relaxed);
    atomic_store_explicit(&lease->block, block, memory_order_release); /* L1 */
}

bool pc_lease_take(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t block,
                   uint64_t size, pc_lease *ret)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    uint32_t owner;
    bool ok;

    if (block % 8 != 0)
        return false;
    pthread_mutex_lock(&w->lock);
    owner = pc_owner_worker(worker, w->incarnation);
    ok = is_alive(w, incarnation) && pc_span_owned(&crew->segment, block, size, owner) &&
         is_readable(crew, owner, block, size);
    if (ok)
        set_lease(ret, block, size, worker, w->incarnation);
    pthread_mutex_unlock(&w->lock);
    return ok;
}

/* Under the worker's lock, as is set_lease: a sweep sees both or none. */
static void list_lease(pycrew_crew *crew, pc_lease_node *node)
{
    pthread_mutex_lock(&crew->heap_lock);
    node->next = crew->lease_nodes;
    node->link = &crew->lease_nodes;
    if (node->next != NULL)
        node->next->link = &node->next;
    crew->lease_nodes = node;
    pthread_mutex_unlock(&crew->heap_lock);
}

bool pc_lease_keep(pycrew_crew *crew, unsigned worker, unsigned incarnation, uint64_t block,
                   uint64_t size, uint64_t cell, pc_lease_node *ret)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    uint32_t owner;
    bool ok;

    if (block % 8 != 0 || cell % 8 != 0)
        return false;
    pthread_mutex_lock(&w->lock);
    owner = pc_owner_worker(worker, w->incarnation);
    ok = is_alive(w, incarnation) && pc_span_owned(&crew->segment, block, size, owner) &&
         pc_span_owned(&crew->segment, cell, 8, owner) && is_readable(crew, owner, block, size) &&
         is_readable(crew, owner, cell, 8);
    if (ok) {
        ret->cell = cell;
        set_lease(&ret->lease, block, size, worker, w->incarnation);
        list_lease(crew, ret);
    }
    pthread_mutex_unlock(&w->lock);
    return ok;
}

/* ---- leases on the memory of the dead; under heap_lock ---- */

static uint32_t last_span(const pycrew_crew *crew, const pc_lease *lease)
{
    return pc_span_of(&crew->segment, lease->block + lease->size - 1);
}

static void count_lease(pycrew_crew *crew, const pc_lease *lease)
{
    for (uint32_t span = pc_span_of(&crew->segment, lease->block); span <= last_span(crew, lease);
         span++)
        crew->orphan_leases[span]++;
}

/* The owner word is what the segment says; so a span that says to be another's stays, and if that is
 * not so, the audit will find it. */
static void free_orphan(pycrew_crew *crew, uint32_t span, uint32_t owner)
{
    uint32_t found = atomic_load_explicit(&crew->segment.span_owners[span], memory_order_relaxed);

    if (found == owner || found == PC_OWNER_KEPT)
        pc_span_release(&crew->segment, span);
}

static void uncount_lease(pycrew_crew *crew, const pc_lease *lease)
{
    uint32_t owner = pc_owner_worker(lease->worker, lease->incarnation);

    for (uint32_t span = pc_span_of(&crew->segment, lease->block); span <= last_span(crew, lease);
         span++)
        if (crew->orphan_leases[span] > 0 && --crew->orphan_leases[span] == 0)
            free_orphan(crew, span, owner);
}

/* Under the worker's lock. given: what that is given back. True: it is much by now. */
static bool end_lease(pycrew_crew *crew, pc_lease *lease, uint64_t given)
{
    pc_host_worker *w = &crew->crew_workers[lease->worker];
    bool much = false;

    if (w->alive && w->incarnation == lease->incarnation) {
        pc_heap_give_back(&crew->segment, lease->worker, given);
        w->given_back += lease->size + PC_HEAP_BLOCK_MIN;
        much = w->given_back >= GIVE_BACK_TOLD;
        if (much)
            w->given_back = 0;
    } else {
        pthread_mutex_lock(&crew->heap_lock);
        uncount_lease(crew, lease);
        pthread_mutex_unlock(&crew->heap_lock);
    }
    atomic_store_explicit(&lease->block, 0, memory_order_relaxed);
    return much;
}

void pc_lease_end(pycrew_crew *crew, pc_lease *lease)
{
    pc_host_worker *w = &crew->crew_workers[lease->worker];
    bool much;

    if (lease->block == 0)
        return;
    pthread_mutex_lock(&w->lock);
    much = end_lease(crew, lease, lease->block);
    pthread_mutex_unlock(&w->lock);
    if (much)
        tell_given_back(crew);
}

void pc_lease_drop(pycrew_crew *crew, pc_lease_node *node)
{
    pc_host_worker *w = &crew->crew_workers[node->lease.worker];
    bool much;

    pthread_mutex_lock(&w->lock);
    much = end_lease(crew, &node->lease, node->cell);
    pthread_mutex_lock(&crew->heap_lock);
    *node->link = node->next;
    if (node->next != NULL)
        node->next->link = node->link;
    pthread_mutex_unlock(&crew->heap_lock);
    pthread_mutex_unlock(&w->lock);
    if (much)
        tell_given_back(crew);
}

/* True: look again. One that is awake looks itself before it sleeps. */
static bool wake_for_memory(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    uint32_t sleep;

    if (!w->alive || !pc_heap_is_given_back(&crew->segment, worker) ||
        !pc_idle_is_asleep(&crew->segment, worker, &sleep))
        return false;
    if (w->sleep_on_memory == sleep) {
        pc_idle_wake_sleep(&crew->segment, worker, sleep);
        return false;
    }
    w->sleep_on_memory = sleep;
    return true;
}

/* Of the large blocks that the host keeps. True: look again. */
static bool drop_unused(pycrew_crew *crew)
{
    bool left;

    pthread_mutex_lock(&crew->heap_lock);
    left = pc_heap_drop_unused(&crew->heap);
    pthread_mutex_unlock(&crew->heap_lock);
    return left;
}

int64_t pc_memory_run(pycrew_crew *crew, int64_t now)
{
    if (crew->next_give_back == INT64_MAX && atomic_load(&crew->given_back))
        crew->next_give_back = now + PC_KEEP_NS;
    if (now < crew->next_give_back)
        return crew->next_give_back;
    crew->next_give_back = INT64_MAX;
    atomic_exchange(&crew->given_back, false); /* G1: what comes from here on is told again */
    if (drop_unused(crew))
        crew->next_give_back = now + PC_KEEP_NS;
    for (unsigned i = 0; i < crew->workers; i++)
        if (wake_for_memory(crew, i))
            crew->next_give_back = now + PC_KEEP_NS;
    return crew->next_give_back;
}

static bool is_of(const pc_lease *lease, unsigned worker, unsigned incarnation)
{
    /* L1: who sees the block sees whose it is. In the other order a block that is just being leased
     * of another worker could be taken for this one's. */
    return atomic_load_explicit(&lease->block, memory_order_acquire) != 0 &&
           atomic_load_explicit(&lease->worker, memory_order_relaxed) == worker &&
           atomic_load_explicit(&lease->incarnation, memory_order_relaxed) == incarnation;
}

static void count_leases(pycrew_crew *crew, unsigned worker, unsigned incarnation)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        const pycrew_call *call = &crew->calls[i];
        const pc_batch_chunk *chunk = call->chunk;

        if (is_of(&call->lease, worker, incarnation))
            count_lease(crew, &call->lease);
        for (unsigned j = 0; chunk != NULL && j < PC_CHUNK_BLOCKS; j++)
            if (is_of(&chunk->leases[j], worker, incarnation))
                count_lease(crew, &chunk->leases[j]);
    }
    for (const pc_lease_node *node = crew->lease_nodes; node != NULL; node = node->next)
        if (is_of(&node->lease, worker, incarnation))
            count_lease(crew, &node->lease);
}

void pc_lease_orphan(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_segment *segment = &crew->segment;
    uint32_t owner = pc_owner_worker(worker, w->incarnation);

    pthread_mutex_lock(&w->lock);
    w->alive = false;
    pthread_mutex_lock(&crew->heap_lock);
    count_leases(crew, worker, w->incarnation);
    for (uint32_t span = 0; span < segment->config.spans; span++)
        if (atomic_load_explicit(&segment->span_owners[span], memory_order_relaxed) == owner &&
            crew->orphan_leases[span] == 0)
            pc_span_release(segment, span);
    pthread_mutex_unlock(&crew->heap_lock);
    pthread_mutex_unlock(&w->lock);
}

/* ---- the whole ---- */

/* Whether it is the name of a worker that lives. What is read of it only the supervisor writes, and
 * it is the supervisor that asks. */
static bool is_a_worker(const pycrew_crew *crew, uint32_t owner)
{
    unsigned worker = (owner & 0xfff) - 2;

    return (owner & 0xfff) >= 2 && worker < crew->workers && crew->crew_workers[worker].alive &&
           owner == pc_owner_worker(worker, crew->crew_workers[worker].incarnation);
}

/* Its owner, by the private records; 0: it is free, or a worker's. */
static uint32_t private_owner(const pycrew_crew *crew, uint32_t span, uint32_t *run)
{
    uint32_t spans = pc_heap_run(&crew->heap, span);

    if (spans > 0)
        *run = spans;
    if (*run > 0) {
        --*run;
        return PC_OWNER_HOST;
    }
    return crew->orphan_leases[span] > 0 ? PC_OWNER_KEPT : PC_OWNER_FREE;
}

/* A lease that a lie got may lie on a worker's spans: not looked at. */
static bool owner_is_intact(const pycrew_crew *crew, uint32_t span, uint32_t expected)
{
    uint32_t owner = atomic_load_explicit(&crew->segment.span_owners[span], memory_order_relaxed);

    if (expected == PC_OWNER_HOST)
        return owner == PC_OWNER_HOST;
    return expected == PC_OWNER_KEPT || owner == PC_OWNER_FREE || is_a_worker(crew, owner);
}

/* What a worker was given back is its own. */
static bool returned_is_intact(const pycrew_crew *crew, unsigned worker)
{
    const pc_host_worker *w = &crew->crew_workers[worker];
    uint64_t block = atomic_load(&crew->segment.workers[worker].returned);

    return !w->alive || block == 0 ||
           (block % PC_HEAP_BLOCK_MIN == crew->segment.spans_offset % PC_HEAP_BLOCK_MIN &&
            pc_span_owned(&crew->segment, block, 1, pc_owner_worker(worker, w->incarnation)));
}

bool pc_memory_intact(pycrew_crew *crew)
{
    uint32_t run = 0;
    bool intact = true;

    for (unsigned i = 0; intact && i < crew->workers; i++)
        intact = returned_is_intact(crew, i);

    pthread_mutex_lock(&crew->heap_lock);
    for (uint32_t span = 0; intact && span < crew->segment.config.spans; span++)
        intact = owner_is_intact(crew, span, private_owner(crew, span, &run));
    pthread_mutex_unlock(&crew->heap_lock);
    return intact;
}

void pc_memory_restore(pycrew_crew *crew)
{
    pc_segment *segment = &crew->segment;
    uint32_t run = 0, free = 0; /* before the span */

    for (unsigned i = 0; i < crew->workers; i++)
        if (crew->crew_workers[i].alive)
            pc_lease_orphan(crew, i);
    pthread_mutex_lock(&crew->heap_lock);
    for (uint32_t span = 0; span < segment->config.spans; span++) {
        uint32_t owner = private_owner(crew, span, &run);

        if (owner == PC_OWNER_FREE) {
            free++;
            continue;
        }
        pc_spans_release(segment, span - free, free);
        free = 0;
        atomic_store_explicit(&segment->span_owners[span], owner, memory_order_relaxed);
    }
    pc_spans_release(segment, segment->config.spans - free, free);
    pthread_mutex_unlock(&crew->heap_lock);
}
