#include "lib/shm/sleeper.h"

#include <time.h>

void pc_sleeper_init(sem_t *semaphore)
{
    sem_init(semaphore, 1, 0);
}

void pc_sleeper_drain(sem_t *semaphore)
{
    for (int i = 0; i < 2; i++)
        if (sem_trywait(semaphore) < 0)
            return;
    if (sem_trywait(semaphore) == 0)
        pc_sleeper_init(semaphore);
}

void pc_sleeper_wait(sem_t *semaphore, int64_t until)
{
    struct timespec time = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};

    if (until == INT64_MAX)
        sem_wait(semaphore);
    else
        sem_clockwait(semaphore, CLOCK_MONOTONIC, &time);
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
