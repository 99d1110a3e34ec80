/* idle: how workers without a call spin, sleep and are woken.
 *
 * Overview. A worker that finds the ring empty spins a little if it may (one worker at most, and
 * only while those awake do not exceed the CPUs), then sleeps: it stores a new sleep number, sets
 * its idle bit, fences, looks at the ring once more, and sleeps on its semaphore. Awake, it clears
 * its own bit, fences, and looks at the ring. Who pushes work fences, looks for the spinner or an
 * idle bit, and posts one worker. A worker that has claimed looks at the ring again before it runs
 * its call, and wakes one more if there is an entry. The spinner's number is there to spare wakes:
 * where nobody sleeps, a worker spins without storing it, and the line stays in the caches.
 *
 * Why no call is left beside a sleeper. Pairs I1 (fence after push | fence after idle bit): either
 * the waker sees the bit, or the worker's last look sees the entry. Pairs I2 (fence after push |
 * fence after the spinner's or the woken worker's own clearing): a waker that is satisfied with
 * the spinner, or with a worker posted before, did so while that one had not cleared itself; so its
 * look at the ring, after the clearing, sees the entry. It takes it, and hands on for what is
 * behind it.
 *
 * A call for one worker (inbox.h) is found by that one alone, so who pushes it posts that one if it
 * sleeps, by the same pairs (I1, I2). Woken by it or for it, a worker may run it first: then it
 * hands on what is in the ring, as after a claim there.
 *
 * Why not "claim the right to wake, then wake": wakers clear nothing, so one that dies in the middle
 * takes no wake with it. `posted` only spares a second post for the same sleep, and is stored after
 * the post. A spinner that dies leaves its number; the sweep clears it and wakes all. The worst
 * that a wrong hint can do is a delay until then, or until a waiting thread looks (100 ms). */
#ifndef PC_SHM_IDLE_H
#define PC_SHM_IDLE_H

#include "lib/shm/ring.h"
#include "lib/shm/sleeper.h"

/* Spins for work, if this worker may. True: there is an entry, in the ring or its inbox. */
bool pc_idle_spin(pc_segment *segment, unsigned worker);

/* Before the worker sleeps on its semaphore: true if it may, false if there is work or the crew
 * closes. After true and the sleep, or after false: pc_idle_retract. */
bool pc_idle_publish(pc_segment *segment, unsigned worker);
void pc_idle_retract(pc_segment *segment, unsigned worker);

/* The same without taking old tokens away: while another thread waits on the semaphore, too. */
bool pc_idle_announce(pc_segment *segment, unsigned worker);

/* The same for a worker that leaves the ring's calls to others: false if there is something in its inbox. It may be woken
 * for what is in the ring, and hands that on. */
bool pc_idle_announce_own(pc_segment *segment, unsigned worker);

/* After a push, and after a claim if the ring is ready: wakes one worker if no one awake is bound
 * to look. */
void pc_idle_wake_one(pc_segment *segment);

/* Host, after a push to worker's inbox: wakes it if it sleeps. */
void pc_idle_wake_worker(pc_segment *segment, unsigned worker);

/* Host: wakes all that sleep, whatever the hints say. */
void pc_idle_wake_all(pc_segment *segment);

/* Memory is short. An idle worker may keep empty spans, and hold what it was given back since it
 * fell asleep; so those that sleep are woken, to look at header->shortages and give back what they
 * do not use. (A worker looks before it spins, and again between pc_idle_publish and its sleep; what it
 * was given back it looks for behind its spinning, too, so that it falls asleep on none.) */
void pc_idle_call_for_memory(pc_segment *segment);
enum { PC_SHORTAGE_NS = 1000 * 1000 }; /* for how long it is worth to try again then */

/* Host: wakes worker if it sleeps its sleep number `sleep`. */
void pc_idle_wake_sleep(pc_segment *segment, unsigned worker, uint32_t sleep);

/* Host: the process of that incarnation is to leave, and is woken if it sleeps. */
void pc_idle_tell_to_leave(pc_segment *segment, unsigned worker, uint32_t incarnation);

/* Worker: whether it was told to. Between pc_idle_publish and its sleep it looks once more (I5). */
static inline bool pc_idle_is_to_leave(const pc_segment *segment, unsigned worker, uint32_t incarnation)
{
    return atomic_load_explicit(&segment->workers[worker].leave, memory_order_relaxed) == incarnation;
}

/* Which sleep worker is in: its number; false: by the hints it is awake. */
bool pc_idle_is_asleep(const pc_segment *segment, unsigned worker, uint32_t *ret);

/* The sweep: takes a dead worker out of the hints. */
void pc_idle_forget(pc_segment *segment, unsigned worker);

/* Workers that do not sleep. A hint. */
unsigned pc_idle_awake(const pc_segment *segment);

#endif
