#include "lib/shm/idle.h"

#include "lib/shm/inbox.h"

static unsigned words(const pc_segment *segment)
{
    return (segment->config.workers + 63) / 64;
}

unsigned pc_idle_awake(const pc_segment *segment)
{
    unsigned alive = atomic_load_explicit(&segment->header->alive, memory_order_relaxed);
    unsigned asleep = 0;

    for (unsigned i = 0; i < words(segment); i++)
        asleep += (unsigned)__builtin_popcountll(
            atomic_load_explicit(&segment->header->idle[i], memory_order_relaxed));
    return alive > asleep ? alive - asleep : 0;
}

static bool may_spin(const pc_segment *segment)
{
    unsigned spinners = atomic_load_explicit(&segment->header->host_spinners, memory_order_relaxed);

    /* A thread of the host's is at work, or there would be no call to come: one that does not spin
     * is not counted anywhere. */
    return pc_idle_awake(segment) + (spinners > 0 ? spinners : 1) <= segment->config.cpus;
}

static bool spin(pc_segment *segment, unsigned worker)
{
    int64_t begin = 0, yielded = 0;

    for (unsigned i = 0;; i++) {
        int64_t now;

        /* The ring alone: a look at the slot would fetch its line to read, and the claim would have
         * to fetch it again to write. */
        if (pc_ring_await(segment) || pc_inbox_has(segment, worker))
            return true;
        pc_spin_pause();
        if (i % 64 != 31) /* the clock costs more than a look */
            continue;
        now = pc_now();
        if (begin == 0)
            begin = now;
        if (now - begin > (int64_t)segment->config.spin_ns || !may_spin(segment))
            return false;
        pc_spin_yield(now, &yielded);
    }
}

static bool anyone_sleeps(const pc_segment *segment)
{
    for (unsigned i = 0; i < words(segment); i++)
        if (atomic_load_explicit(&segment->header->idle[i], memory_order_relaxed) != 0)
            return true;
    return false;
}

bool pc_idle_spin(pc_segment *segment, unsigned worker)
{
    uint32_t nobody = 0;
    bool found;

    if (segment->config.spin_ns == 0 || !may_spin(segment))
        return false;
    if (!anyone_sleeps(segment))
        return spin(segment, worker);
    if (!atomic_compare_exchange_strong_explicit(&segment->header->spinner, &nobody, worker + 1,
                                                 memory_order_seq_cst, memory_order_relaxed))
        return false;
    found = spin(segment, worker);
    atomic_store_explicit(&segment->header->spinner, 0, memory_order_relaxed);
    /* I2: pairs with the fence in pc_idle_wake_one. Without it the caller's next look could be
     * older than the clearing, and a waker that saw us spin would have woken no one. */
    atomic_thread_fence(memory_order_seq_cst);
    return found;
}

bool pc_idle_publish(pc_segment *segment, unsigned worker)
{
    pc_sleeper_drain(&segment->workers[worker].semaphore);
    return pc_idle_announce(segment, worker);
}

static void announce(pc_segment *segment, unsigned worker)
{
    pc_worker_record *record = &segment->workers[worker];

    /* I3: release, pairs with post(): a token for this sleep comes after the drain. Without it the
     * drain could take it, and `posted` would say that it is there. */
    atomic_fetch_add_explicit(&record->sleeps, 1, memory_order_release);
    atomic_fetch_or_explicit(&segment->header->idle[worker / 64], UINT64_C(1) << worker % 64,
                             memory_order_release);
    /* I1: pairs with the fence in pc_idle_wake_one. Without it the look could be older than the
     * bit: the waker sees no sleeper, the sleeper no work. I4: the same for the caller's look at
     * the shortages, and pc_idle_call_for_memory. I5: for its look whether it is to leave. */
    atomic_thread_fence(memory_order_seq_cst);
}

bool pc_idle_announce(pc_segment *segment, unsigned worker)
{
    announce(segment, worker);
    if (pc_inbox_has(segment, worker))
        return false;
    return !pc_ring_ready(segment) &&
           atomic_load_explicit(&segment->header->closing, memory_order_acquire) == 0;
}

bool pc_idle_announce_own(pc_segment *segment, unsigned worker)
{
    announce(segment, worker);
    return !pc_inbox_has(segment, worker);
}

void pc_idle_retract(pc_segment *segment, unsigned worker)
{
    atomic_fetch_and_explicit(&segment->header->idle[worker / 64], ~(UINT64_C(1) << worker % 64),
                              memory_order_relaxed);
    /* I2: as in pc_idle_spin, for a waker that saw this sleep as posted already. */
    atomic_thread_fence(memory_order_seq_cst);
}

/* Posts worker for its present sleep; false if that was done already. */
static bool post(pc_segment *segment, unsigned worker)
{
    pc_worker_record *record = &segment->workers[worker];
    uint32_t sleeps = atomic_load_explicit(&record->sleeps, memory_order_acquire); /* I3 */

    if (atomic_load_explicit(&record->posted, memory_order_relaxed) == sleeps)
        return false;
    if (segment->host)
        pc_sleeper_wake(&record->semaphore);
    else
        pc_sleeper_post(&record->semaphore);
    atomic_store_explicit(&record->posted, sleeps, memory_order_relaxed);
    return true;
}

void pc_idle_wake_one(pc_segment *segment)
{
    unsigned posted = 0;

    /* I1 and I2: pairs with the fences above. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&segment->header->spinner, memory_order_relaxed) != 0)
        return;
    for (unsigned i = 0; i < words(segment); i++) {
        uint64_t bits = atomic_load_explicit(&segment->header->idle[i], memory_order_acquire);

        for (; bits != 0; bits &= bits - 1) {
            unsigned worker = i * 64 + (unsigned)__builtin_ctzll(bits);

            /* One that was posted is bound to look and to hand on, so four are enough. */
            if (worker < segment->config.workers && (post(segment, worker) || ++posted == 4))
                return;
        }
    }
}

void pc_idle_wake_worker(pc_segment *segment, unsigned worker)
{
    uint32_t sleep;

    /* I1 and I5: pairs with the fence in pc_idle_announce. */
    atomic_thread_fence(memory_order_seq_cst);
    if (pc_idle_is_asleep(segment, worker, &sleep))
        post(segment, worker);
}

void pc_idle_call_for_memory(pc_segment *segment)
{
    atomic_fetch_add_explicit(&segment->header->shortages, 1, memory_order_relaxed);
    /* I4: pairs with the fence in pc_idle_publish. Without it we could miss the bit of a worker
     * that missed the count. */
    atomic_thread_fence(memory_order_seq_cst);
    for (unsigned i = 0; i < words(segment); i++) {
        uint64_t bits = atomic_load_explicit(&segment->header->idle[i], memory_order_acquire);

        for (; bits != 0; bits &= bits - 1) {
            unsigned worker = i * 64 + (unsigned)__builtin_ctzll(bits);

            if (worker < segment->config.workers)
                post(segment, worker);
        }
    }
}

bool pc_idle_is_asleep(const pc_segment *segment, unsigned worker, uint32_t *ret)
{
    *ret = atomic_load_explicit(&segment->workers[worker].sleeps, memory_order_relaxed);
    return atomic_load_explicit(&segment->header->idle[worker / 64], memory_order_acquire) >>
               worker % 64 & 1;
}

void pc_idle_wake_sleep(pc_segment *segment, unsigned worker, uint32_t sleep)
{
    uint32_t now;

    if (pc_idle_is_asleep(segment, worker, &now) && now == sleep)
        post(segment, worker);
}

void pc_idle_tell_to_leave(pc_segment *segment, unsigned worker, uint32_t incarnation)
{
    atomic_store_explicit(&segment->workers[worker].leave, incarnation, memory_order_relaxed);
    pc_idle_wake_worker(segment, worker); /* I5 */
}

void pc_idle_wake_all(pc_segment *segment)
{
    /* Maybe scribbled: while it names somebody no one is woken. Without it one too many is. */
    atomic_store_explicit(&segment->header->spinner, 0, memory_order_relaxed);
    for (unsigned i = 0; i < segment->config.workers; i++)
        pc_sleeper_rouse(&segment->workers[i].semaphore);
}

void pc_idle_forget(pc_segment *segment, unsigned worker)
{
    uint32_t spinner = worker + 1;

    atomic_compare_exchange_strong_explicit(&segment->header->spinner, &spinner, 0,
                                            memory_order_seq_cst, memory_order_relaxed);
    atomic_fetch_and_explicit(&segment->header->idle[worker / 64], ~(UINT64_C(1) << worker % 64),
                              memory_order_seq_cst);
}
