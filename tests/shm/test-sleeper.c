/* What lib/shm/sleeper.h promises: a token wakes, time ends a wait, and no semaphore, however it was
 * scribbled over, holds anyone for ever. */
#include "tests/shm/fixture.h"

#include "lib/shm/sleeper.h"

#define LATE (2 * 1000 * MS) /* a busy machine may be that late, and no later than a token that is lost */

static sem_t *semaphore_new(void)
{
    sem_t *semaphore = shared_memory(sizeof *semaphore);
    pc_sleeper_init(semaphore);
    return semaphore;
}

static bool has_token(sem_t *semaphore)
{
    int value;
    ASSERT_INT(sem_getvalue(semaphore, &value), 0);
    return value > 0;
}

static int64_t time_of_wait(sem_t *semaphore, int64_t until)
{
    int64_t begin = pc_now();
    pc_sleeper_wait(semaphore, until);
    return pc_now() - begin;
}

TEST(now_is_the_monotonic_clock_in_nanoseconds)
{
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    int64_t now = pc_now();
    clock_gettime(CLOCK_MONOTONIC, &after);
    ASSERT(now >= (int64_t)before.tv_sec * 1000 * MS + before.tv_nsec);
    ASSERT(now <= (int64_t)after.tv_sec * 1000 * MS + after.tv_nsec);
}

TEST(until_is_now_and_the_timeout_or_for_ever)
{
    static const int64_t for_ever[] = {-1, INT64_MIN, INT64_MAX, INT64_MAX - 1};
    for (size_t i = 0; i < sizeof for_ever / sizeof *for_ever; i++)
        ASSERT_INT(pc_until(for_ever[i]), INT64_MAX);
    static const int64_t timeouts[] = {0, 1, 1000 * MS, INT64_MAX / 2};
    for (size_t i = 0; i < sizeof timeouts / sizeof *timeouts; i++) {
        int64_t before = pc_now(), until = pc_until(timeouts[i]), after = pc_now();
        ASSERT(until >= before + timeouts[i] && until <= after + timeouts[i]);
    }
}

TEST(a_token_that_came_before_the_wait_ends_it_at_once)
{
    sem_t *semaphore = semaphore_new();
    pc_sleeper_post(semaphore);
    ASSERT(time_of_wait(semaphore, INT64_MAX) < LATE);
    pc_sleeper_post(semaphore);
    ASSERT(time_of_wait(semaphore, pc_until(100 * LATE)) < LATE);
    ASSERT(!has_token(semaphore));
}

TEST(a_wait_without_a_token_ends_at_its_time_and_not_before)
{
    sem_t *semaphore = semaphore_new();
    for (int64_t ms = 1; ms <= 64; ms *= 4) {
        int64_t until = pc_until(ms * MS);
        pc_sleeper_wait(semaphore, until);
        ASSERT(pc_now() >= until);
        ASSERT(pc_now() < until + LATE);
    }
}

TEST(a_time_that_has_passed_does_not_wait)
{
    sem_t *semaphore = semaphore_new();
    static const int64_t times[] = {0, 1, -1, INT64_MIN};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        ASSERT(time_of_wait(semaphore, times[i]) < LATE);
    ASSERT(time_of_wait(semaphore, pc_now()) < LATE);
}

static void post_when_told(void *argument)
{
    struct {
        sem_t semaphore;
        _Atomic int turn;
    } *pair = argument;
    for (int i = 1; i <= 200; i++) {
        UNTIL(atomic_load(&pair->turn) == i);
        if (i % 2)
            poll(NULL, 0, 1); /* most likely it sleeps by then; if not, it must not matter */
        pc_sleeper_post(&pair->semaphore);
    }
}

TEST(a_post_from_another_process_wakes_who_sleeps_for_ever)
{
    struct {
        sem_t semaphore;
        _Atomic int turn;
    } *pair = shared_memory(sizeof *pair);
    pc_sleeper_init(&pair->semaphore);
    pid_t pid = process_start(post_when_told, pair);
    for (int i = 1; i <= 200; i++) {
        atomic_store(&pair->turn, i);
        pc_sleeper_wait(&pair->semaphore, INT64_MAX);
        ASSERT(!has_token(&pair->semaphore));
    }
    process_end(pid);
}

/* The host's functions at one end, POSIX's at the other: it is one semaphore. */

static void wait_when_told(void *argument)
{
    struct {
        sem_t semaphore;
        _Atomic int turn;
    } *pair = argument;
    for (int i = 1; i <= 200; i++) {
        while (sem_wait(&pair->semaphore) < 0)
            continue;
        atomic_store(&pair->turn, i);
    }
}

static void expect_sem_wait_woken_by(void (*wake)(sem_t *))
{
    struct {
        sem_t semaphore;
        _Atomic int turn;
    } *pair = shared_memory(sizeof *pair);
    pc_sleeper_init(&pair->semaphore);
    pid_t pid = process_start(wait_when_told, pair);
    for (int i = 1; i <= 200; i++) {
        if (i % 2)
            poll(NULL, 0, 1);
        wake(&pair->semaphore);
        UNTIL(atomic_load(&pair->turn) == i);
    }
    ASSERT(!has_token(&pair->semaphore));
    process_end(pid);
}

TEST(a_wake_of_the_hosts_wakes_sem_wait)
{
    expect_sem_wait_woken_by(pc_sleeper_wake);
    expect_sem_wait_woken_by(pc_sleeper_rouse);
}

struct posted {
    sem_t semaphore;
    _Atomic int turn, posts;
};

static void sem_post_when_told(void *argument)
{
    struct posted *pair = argument;
    for (int i = 1; i <= 200; i++) {
        UNTIL(atomic_load(&pair->turn) == i);
        if (i % 2)
            poll(NULL, 0, 1);
        ASSERT_INT(sem_post(&pair->semaphore), 0);
        atomic_store(&pair->posts, i);
    }
}

/* A wait may end without a token: sem_post wakes after it has added its token, and if that was taken in
 * between it wakes the next wait. */
TEST(sem_post_wakes_a_wait_of_the_hosts)
{
    struct posted *pair = shared_memory(sizeof *pair);
    pc_sleeper_init(&pair->semaphore);
    pid_t pid = process_start(sem_post_when_told, pair);
    for (int i = 1; i <= 200; i++) {
        atomic_store(&pair->turn, i);
        ASSERT(time_of_wait(&pair->semaphore, pc_until(100 * LATE)) < LATE);
        UNTIL(atomic_load(&pair->posts) == i);
        if (has_token(&pair->semaphore))
            ASSERT(time_of_wait(&pair->semaphore, pc_until(100 * LATE)) < LATE);
        ASSERT(!has_token(&pair->semaphore));
    }
    process_end(pid);
}

static void on_alarm(int number)
{
    (void)number;
}

TEST(a_signal_ends_a_wait)
{
    sem_t *semaphore = semaphore_new();
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
    struct itimerspec soon = {.it_value = {0, 20 * MS}, .it_interval = {0, 20 * MS}};
    timer_t timer;
    ASSERT_INT(sigaction(SIGALRM, &action, NULL), 0);
    action.sa_flags = 0;
    ASSERT_INT(sigaction(SIGALRM, &action, NULL), 0);
    ASSERT_INT(timer_create(CLOCK_MONOTONIC, NULL, &timer), 0);
    ASSERT_INT(timer_settime(timer, 0, &soon, NULL), 0); /* again and again: one may come too early */
    pc_sleeper_wait(semaphore, INT64_MAX);
    ASSERT(time_of_wait(semaphore, pc_until(100 * LATE)) < 10 * LATE);
    timer_delete(timer);
}

TEST(a_drain_takes_what_was_posted_and_what_comes_later_counts_again)
{
    for (unsigned count = 0; count < 10; count++) {
        sem_t *semaphore = semaphore_new();
        for (unsigned i = 0; i < count; i++)
            pc_sleeper_post(semaphore);
        pc_sleeper_drain(semaphore);
        ASSERT(!has_token(semaphore));
        pc_sleeper_post(semaphore);
        ASSERT(has_token(semaphore));
        pc_sleeper_wait(semaphore, INT64_MAX);
    }
}

/* Where the counts are, in the C libraries of Linux; behind them are flags, and what is in those the
 * C library trusts: see the header. */
enum { COUNTS = 8 };

TEST(a_semaphore_whose_flags_were_scribbled_over_does_not_end_the_host)
{
    uint64_t random = 1;
    sem_t *semaphore = semaphore_new();
    for (int round = 0; round < 400; round++) {
        memset(semaphore, 0, sizeof *semaphore);
        for (size_t i = COUNTS; i < sizeof *semaphore; i++)
            ((uint8_t *)semaphore)[i] = (uint8_t)random_next(&random);
        pc_sleeper_wait(semaphore, pc_until(MS / 4));
        ((uint32_t *)(void *)semaphore)[1] = 1 + (uint32_t)round; /* sleepers */
        pc_sleeper_wake(semaphore);
        pc_sleeper_rouse(semaphore);
        ASSERT(time_of_wait(semaphore, pc_until(100 * LATE)) < LATE);
        ASSERT(time_of_wait(semaphore, pc_until(100 * LATE)) < LATE);
    }
}

static void scribble_and_rouse(void *argument)
{
    struct {
        sem_t semaphore;
        _Atomic int asleep;
    } *pair = argument;
    UNTIL(atomic_load(&pair->asleep));
    poll(NULL, 0, 20); /* most likely it sleeps by then; if not, it must not matter */
    memset(&pair->semaphore, 0, COUNTS);
    pc_sleeper_rouse(&pair->semaphore);
}

TEST(rouse_wakes_a_sleeper_whose_trace_was_scribbled_over)
{
    struct {
        sem_t semaphore;
        _Atomic int asleep;
    } *pair = shared_memory(sizeof *pair);
    pc_sleeper_init(&pair->semaphore);
    pid_t pid = process_start(scribble_and_rouse, pair);
    atomic_store(&pair->asleep, 1);
    ASSERT(time_of_wait(&pair->semaphore, pc_until(100 * LATE)) < LATE);
    process_end(pid);
}

TEST(a_drain_makes_a_semaphore_with_other_flags_anew)
{
    sem_t *semaphore = semaphore_new(), fresh;
    sem_init(&fresh, 1, 0);
    ((uint8_t *)semaphore)[COUNTS] ^= 0x80; /* private: nobody of another process would wake it */
    pc_sleeper_drain(semaphore);
    ASSERT_MEM(semaphore, &fresh, 2 * COUNTS - 4);
}

TEST(a_semaphore_whose_counts_were_scribbled_over_holds_nobody_past_his_time)
{
    uint64_t random = 1;
    sem_t *semaphore = semaphore_new();
    for (int round = 0; round < 400; round++) {
        for (size_t i = 0; i < COUNTS; i++)
            ((volatile uint8_t *)semaphore)[i] =
                (uint8_t)(round == 0 ? 0xff : random_below(&random, 3) ? 0 : random_next(&random));
        int64_t begin = pc_now();
        pc_sleeper_drain(semaphore);
        pc_sleeper_post(semaphore);
        pc_sleeper_drain(semaphore);
        pc_sleeper_wait(semaphore, pc_until(MS / 4));
        ASSERT(pc_now() - begin < LATE);
    }
}

TEST(a_semaphore_with_more_tokens_than_can_be_is_made_anew_and_works)
{
    sem_t *semaphore = semaphore_new();
    for (int scribble = 0x7f; scribble <= 0xff; scribble += 0x80) {
        memset(semaphore, scribble, sizeof *semaphore);
        pc_sleeper_drain(semaphore);
        ASSERT(!has_token(semaphore));
        int64_t until = pc_until(2 * MS);
        pc_sleeper_wait(semaphore, until);
        ASSERT(pc_now() >= until);
        pc_sleeper_post(semaphore);
        ASSERT(time_of_wait(semaphore, INT64_MAX) < LATE);
    }
}

TAP_MAIN
