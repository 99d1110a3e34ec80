#include "lib/shm/upcall.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/shm/idle.h"

enum { LOOKS = 64 };

void pc_upcall_reset(const pc_segment *segment, unsigned worker)
{
    for (unsigned i = 0; i < PC_UPCALLS; i++) {
        pc_upcall *upcall = pc_upcall_of(segment, worker, i);

        atomic_store(&upcall->request, 0);
        atomic_store(&upcall->released, 0);
        atomic_store(&upcall->answer, 0);
        pc_sleeper_init(&upcall->semaphore);
    }
}

/* ---- the listener's sleep ---- */

static void wait_on(_Atomic uint32_t *word, uint32_t value)
{
    syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

/* All: a scribbler may wait on the word as well, and would take a single wake. */
void pc_upcall_wake(const pc_segment *segment)
{
    _Atomic uint32_t *word = &segment->header->upcall_wakes;

    atomic_fetch_add_explicit(word, 1, memory_order_release);
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void pc_upcall_announce(const pc_segment *segment, unsigned worker, bool again)
{
    pc_header *header = segment->header;

    atomic_fetch_or_explicit(&header->upcalls[worker / 64], UINT64_C(1) << worker % 64,
                             memory_order_release);
    atomic_thread_fence(memory_order_seq_cst); /* U1: pairs with pc_upcall_listen */
    if (again || atomic_load_explicit(&header->upcall_armed, memory_order_relaxed) != 0)
        pc_upcall_wake(segment);
}

bool pc_upcall_is_pending(const pc_segment *segment)
{
    for (unsigned i = 0; i * 64 < segment->config.workers; i++)
        if (atomic_load_explicit(&segment->header->upcalls[i], memory_order_relaxed) != 0)
            return true;
    return false;
}

uint64_t pc_upcall_take(const pc_segment *segment, unsigned word)
{
    _Atomic uint64_t *bits = &segment->header->upcalls[word];

    if (atomic_load_explicit(bits, memory_order_relaxed) == 0)
        return 0;
    return atomic_exchange_explicit(bits, 0, memory_order_acquire);
}

/* A worker that asks in a row asks next within some microseconds. */
static bool spin(const pc_segment *segment)
{
    _Atomic uint32_t *spinners = &segment->header->host_spinners;
    int64_t now = pc_now(), stop = now + (int64_t)segment->config.spin_ns, yielded = 0;
    bool found = false;

    if (pc_idle_awake(segment) + atomic_load_explicit(spinners, memory_order_relaxed) >=
        segment->config.cpus)
        return pc_upcall_is_pending(segment);
    atomic_fetch_add_explicit(spinners, 1, memory_order_relaxed);
    while (!found && now < stop) {
        pc_spin_yield(now, &yielded);
        for (unsigned i = 0; !found && i < LOOKS; i++) {
            pc_spin_pause();
            found = pc_upcall_is_pending(segment);
        }
        now = pc_now();
    }
    atomic_fetch_sub_explicit(spinners, 1, memory_order_relaxed);
    return found;
}

void pc_upcall_listen(const pc_segment *segment, const _Atomic bool *stop)
{
    pc_header *header = segment->header;
    uint32_t wakes;

    if (spin(segment))
        return;
    wakes = atomic_load_explicit(&header->upcall_wakes, memory_order_acquire);
    atomic_store_explicit(&header->upcall_armed, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst); /* U1: pairs with pc_upcall_announce */
    if (!pc_upcall_is_pending(segment) && !atomic_load(stop))
        wait_on(&header->upcall_wakes, wakes);
    atomic_store_explicit(&header->upcall_armed, 0, memory_order_relaxed);
}
