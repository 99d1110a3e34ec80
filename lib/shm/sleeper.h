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
 * more tokens than can be.
 *
 * Nor can it end the host. A sem_t is two words: value and number of waiters, which change, and
 * behind them flags for the futex call, which sem_init leaves for ever. With flags that it does not
 * know the kernel says ENOSYS, and glibc aborts the process. Workers may die of that (they use
 * sem_post and sem_wait as they are), the host may not. To set the flags right before each use is not
 * enough: glibc reads them again after each wake, and they can change between the two. So where the
 * host would come to them, to sleep (a wait with a time) and to wake a sleeper, it does on the first
 * word what glibc does, and makes the futex call itself, with flags of its own. sem_init and
 * sem_trywait do not look at the flags. It is the layout of 64-bit glibc, since 2.21; that it still
 * is, tests/shm/test-sleeper.c says, with POSIX functions at the other end. Other C libraries get the
 * POSIX functions, and this gap. */
#ifndef PC_SHM_SLEEPER_H
#define PC_SHM_SLEEPER_H

#include <sched.h>
#include <semaphore.h>
#include <stdint.h>

void pc_sleeper_init(sem_t *semaphore);

/* Takes what tokens there are, two at most: the third is a sign of scribbling and makes it anew, and
 * so do other flags than sem_init's: who sleeps with those, wakes for nobody. */
void pc_sleeper_drain(sem_t *semaphore);

/* Sleeps until a token comes or the time (CLOCK_MONOTONIC, nanoseconds; INT64_MAX: none, for workers
 * only). May return early, as on a signal. */
void pc_sleeper_wait(sem_t *semaphore, int64_t until);

/* Worker: sem_post. */
void pc_sleeper_post(sem_t *semaphore);

/* Host: the same, and cannot abort. */
void pc_sleeper_wake(sem_t *semaphore);

/* Host: the same, and wakes also a sleeper whose trace in the semaphore was scribbled over. */
void pc_sleeper_rouse(sem_t *semaphore);

/* CLOCK_MONOTONIC in nanoseconds. */
int64_t pc_now(void);

/* The same clock as of its last tick, some milliseconds ago: for a fifth of the cost. */
int64_t pc_now_coarse(void);

/* A timeout that can be added to a time: -1 for none, or for centuries. */
static inline int64_t pc_timeout(int64_t timeout)
{
    return timeout < 0 || timeout > INT64_MAX / 4 ? -1 : timeout;
}

/* now + timeout, INT64_MAX for none (timeout < 0) or too far. */
int64_t pc_until(int64_t timeout);

/* In a spin, at each look at the clock; *yielded is 0 before the first. The other side may be runnable on
 * this very CPU (the kernel likes to wake a process beside its waker, and others may want the rest), and
 * then spinning is what it waits for: so the first look yields. That comes after the time that a short call
 * takes between two CPUs; yielding sooner would make its answer late. */
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
