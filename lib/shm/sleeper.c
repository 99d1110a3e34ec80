#include "lib/shm/sleeper.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

void pc_sleeper_init(sem_t *semaphore)
{
    sem_init(semaphore, 1, 0);
}

/* Whether what sem_init left, and nothing changes, is still there. */
static bool is_intact(const sem_t *semaphore)
{
    sem_t fresh;

    sem_init(&fresh, 1, 0);
    return memcmp((const char *)semaphore + sizeof(uint64_t),
                  (const char *)&fresh + sizeof(uint64_t), sizeof(int)) == 0;
}

void pc_sleeper_drain(sem_t *semaphore)
{
    if (!is_intact(semaphore))
        pc_sleeper_init(semaphore);
    for (int i = 0; i < 2; i++)
        if (sem_trywait(semaphore) < 0)
            return;
    if (sem_trywait(semaphore) == 0)
        pc_sleeper_init(semaphore);
}

#if defined(__GLIBC__) && defined(__LP64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__

/* value in the lower half, the number of waiters in the upper. */
typedef uint64_t __attribute__((__may_alias__)) semaphore_word;

static_assert(sizeof(sem_t) == 32 && SEM_VALUE_MAX == INT_MAX, "the sem_t of 64-bit glibc");

#define WAITER (UINT64_C(1) << 32)

enum { TRIES = 1000 }; /* so often nobody loses a race but to a scribbler */

static semaphore_word *word_of(sem_t *semaphore)
{
    return (semaphore_word *)(void *)semaphore;
}

static void futex(semaphore_word *word, int operation, uint32_t value, const struct timespec *time)
{
    syscall(SYS_futex, word, operation, value, time, NULL, FUTEX_BITSET_MATCH_ANY);
}

/* Adds to the word while it may be: whether it did, and what the word is then. */
static bool change(semaphore_word *word, bool (*may)(uint64_t), uint64_t by, uint64_t *ret)
{
    uint64_t old = __atomic_load_n(word, __ATOMIC_RELAXED);

    for (unsigned i = 0; i < TRIES && may(old); i++)
        if (__atomic_compare_exchange_n(word, &old, old + by, true, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
            *ret = old + by;
            return true;
        }
    *ret = old;
    return false;
}

static bool has_token(uint64_t word)
{
    return (uint32_t)word > 0;
}

static bool has_waiter(uint64_t word)
{
    return word >> 32 > 0;
}

static bool has_room(uint64_t word)
{
    return (uint32_t)word < SEM_VALUE_MAX;
}

static void wait_guarded(sem_t *semaphore, const struct timespec *until)
{
    semaphore_word *word = word_of(semaphore);
    uint64_t now;

    if (change(word, has_token, (uint64_t)-1, &now))
        return;
    __atomic_fetch_add(word, WAITER, __ATOMIC_RELAXED);
    futex(word, FUTEX_WAIT_BITSET, 0, until); /* if the value is 0 still */
    change(word, has_token, (uint64_t)-1, &now);
    change(word, has_waiter, -WAITER, &now);
}

void pc_sleeper_wake(sem_t *semaphore)
{
    uint64_t now;

    change(word_of(semaphore), has_room, 1, &now);
    if (has_waiter(now))
        futex(word_of(semaphore), FUTEX_WAKE, 1, NULL);
}

void pc_sleeper_rouse(sem_t *semaphore)
{
    uint64_t now;

    change(word_of(semaphore), has_room, 1, &now);
    futex(word_of(semaphore), FUTEX_WAKE, INT_MAX, NULL);
}

#else

static void wait_guarded(sem_t *semaphore, const struct timespec *until)
{
    sem_clockwait(semaphore, CLOCK_MONOTONIC, until);
}

void pc_sleeper_wake(sem_t *semaphore)
{
    sem_post(semaphore);
}

void pc_sleeper_rouse(sem_t *semaphore)
{
    sem_post(semaphore);
}

#endif

void pc_sleeper_wait(sem_t *semaphore, int64_t until)
{
    struct timespec time = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};

    if (until == INT64_MAX)
        sem_wait(semaphore);
    else if (until >= 0)
        wait_guarded(semaphore, &time);
}

void pc_sleeper_post(sem_t *semaphore)
{
    sem_post(semaphore);
}

int64_t pc_now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t pc_now_coarse(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

int64_t pc_until(int64_t timeout)
{
    int64_t now = pc_now();

    return timeout < 0 || timeout > INT64_MAX - now ? INT64_MAX : now + timeout;
}
