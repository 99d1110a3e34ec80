/* sleeper: to sleep on a semaphore in shared memory, and to be woken.
 *
 * Overview. Each worker has a semaphore in its record, and each slot one for the thread that waits
 * for its call. A token says "look again", nothing more: a sleeper drains old tokens before it
 * publishes that it sleeps, and loops on its condition. So a token too many costs a look, and a
 * token from a slot's earlier life too.
 *
 * Why it is correct. The waker stores what it has to say before it posts; the sleeper publishes
 * before it looks for the last time. Either that look sees it, or the waker sees the sleeper and
 * posts (the fences are with who publishes: idle.h, slot.h W). A process that dies between the two
 * is made good by the sweep, which posts all. A process that scribbles over a semaphore cannot hang
 * the host: its threads wait at most 100 ms at a time, and make the semaphore anew when they find
 * more tokens than can be. (What is left: a sem_t whose inner flags were scribbled over makes the C
 * library abort. A bare futex would not; but POSIX semaphores are what pycrew is to use.) */
#ifndef PC_SHM_SLEEPER_H
#define PC_SHM_SLEEPER_H

#include <sched.h>
#include <semaphore.h>
#include <stdint.h>

void pc_sleeper_init(sem_t *semaphore);

/* Takes what tokens there are, two at most: the third is a sign of scribbling and makes it anew. */
void pc_sleeper_drain(sem_t *semaphore);

/* Sleeps until a token comes or the time (CLOCK_MONOTONIC, nanoseconds; INT64_MAX: none). Returns
 * early on a signal. */
void pc_sleeper_wait(sem_t *semaphore, int64_t until);

void pc_sleeper_post(sem_t *semaphore);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t pc_now(void);

/* A timeout that can be added to a time: -1 for none, or for centuries. */
static inline int64_t pc_timeout(int64_t timeout)
{
    return timeout < 0 || timeout > INT64_MAX / 4 ? -1 : timeout;
}

/* now + timeout, INT64_MAX for none (timeout < 0) or too far. */
int64_t pc_until(int64_t timeout);

/* In a spin, at each look at the clock. The other side may be runnable on this very CPU (the kernel
 * likes to wake a process beside its waker), and then spinning is what it waits for. An answer that
 * does come takes less than this; yielding at once would make it late. */
static inline void pc_spin_yield(int64_t now, int64_t *yielded)
{
    if (now - *yielded < 4000)
        return;
    sched_yield();
    *yielded = now;
}

static inline void pc_spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

#endif
