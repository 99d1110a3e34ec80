/* fixture.h - what the tests of lib/shm share: segments, random numbers, threads, processes, mounts
   of their own, bounded waits, and a walk through the interleavings of two operations. */
#ifndef TESTS_SHM_FIXTURE_H
#define TESTS_SHM_FIXTURE_H

#include "tests/harness/tap.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>

#include "lib/shm/segment.h"
#include "lib/shm/sleeper.h"

#if defined __x86_64__
#include <ucontext.h>
#include <x86intrin.h>
#endif

#define MS INT64_C(1000000)

/* ---- segments ---- */

TAP_FUNCTION pc_config config_of(uint32_t slots, uint32_t workers, uint32_t spans)
{
    return (pc_config){.slots = slots,
                       .workers = workers,
                       .queues = 3,
                       .spans = spans,
                       .cpus = 2,
                       .host_pid = (uint32_t)getpid()};
}

TAP_FUNCTION pc_segment segment_of(const pc_config *config)
{
    pc_segment segment;
    ASSERT_INT(pc_segment_create(&segment, config, false), 0);
    return segment;
}

TAP_FUNCTION pc_segment segment_new(uint32_t slots, uint32_t workers, uint32_t spans)
{
    pc_config config = config_of(slots, workers, spans);
    return segment_of(&config);
}

/* ---- random numbers, the same again from the same seed (splitmix64) ---- */

TAP_FUNCTION uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

TAP_FUNCTION uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return random_next(state) % bound;
}

/* Shifts two racing threads against each other: by nothing, some microseconds, or in between. */
TAP_FUNCTION void random_pause(uint64_t *state)
{
    for (uint64_t i = random_below(state, UINT64_C(1) << random_below(state, 13)); i > 0; i--)
        atomic_signal_fence(memory_order_seq_cst);
}

/* ---- waiting, with a bound ---- */

enum { PATIENCE_S = 20 }; /* the machine may be busy with something else */

TAP_FUNCTION int64_t patience_end(void)
{
    return pc_now() + (int64_t)(PATIENCE_S * 1000 * tap_scale()) * MS;
}

#define UNTIL(condition) UNTIL_OR(condition, "in vain")

/* Waits for the condition; after PATIENCE_S the test has failed, with what is said of it. */
#define UNTIL_OR(condition, ...)                                                                   \
    do {                                                                                           \
        int64_t patience_ends = 0;                                                                 \
        for (unsigned looks = 0; !(condition); looks++) {                                          \
            if (looks % 1024 != 1023) {                                                            \
                pc_spin_pause();                                                                   \
                continue;                                                                          \
            }                                                                                      \
            sched_yield();                                                                         \
            if (patience_ends == 0)                                                                \
                patience_ends = patience_end();                                                    \
            if (pc_now() > patience_ends) {                                                        \
                DIAG(__VA_ARGS__);                                                                 \
                tap_fail("%s:%d: waited for %s", __FILE__, __LINE__, #condition);                  \
            }                                                                                      \
        }                                                                                          \
    } while (0)

/* Rounds of a stress test: as many as there are in the time, and some at least. */
typedef struct rounds {
    int64_t end;
    unsigned done, least;
} rounds;

TAP_FUNCTION rounds rounds_of(int64_t ms, unsigned least)
{
    return (rounds){pc_now() + ms * MS, 0, least};
}

TAP_FUNCTION bool rounds_go_on(rounds *r)
{
    return ++r->done <= r->least || pc_now() < r->end;
}

/* ---- threads and processes ---- */

/* The caller runs on the nth of its CPUs from here on: a race needs more than one of them, and a
 * busy machine is glad to run both threads on the same. */
TAP_FUNCTION void use_cpu(int n)
{
    static cpu_set_t all;
    cpu_set_t one;
    if (CPU_COUNT(&all) == 0 && sched_getaffinity(0, sizeof all, &all) < 0)
        return;
    n %= CPU_COUNT(&all);
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && n-- == 0)
            CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

TAP_FUNCTION pthread_t thread_start(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    ASSERT_INT(pthread_create(&thread, NULL, body, argument), 0);
    return thread;
}

TAP_FUNCTION void thread_end(pthread_t thread)
{
    ASSERT_INT(pthread_join(thread, NULL), 0);
}

TAP_FUNCTION pid_t process_start(void (*body)(void *), void *argument)
{
    pid_t parent = getpid(), pid = fork();
    ASSERT(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == parent)
        body(argument);
    _exit(0);
}

TAP_FUNCTION void process_end(pid_t pid)
{
    int status;
    ASSERT_INT(waitpid(pid, &status, 0), pid);
    if (status != 0)
        tap_fail("process %d ended with wait status 0x%x", (int)pid, (unsigned)status);
}

TAP_FUNCTION void process_kill(pid_t pid)
{
    ASSERT_INT(kill(pid, SIGKILL), 0);
    ASSERT_INT(waitpid(pid, NULL, 0), pid);
}

/* Memory that this process shares with those it forks; zeroed. */
TAP_FUNCTION void *shared_memory(size_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT(memory != MAP_FAILED);
    return memory;
}

/* ---- mounts ---- */

TAP_FUNCTION bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return ok;
}

/* From here on this test's mounts are its own; it is skipped where that is not allowed. */
TAP_FUNCTION void own_mounts(void)
{
    char map[64];
    unsigned uid = getuid(), gid = getgid();
    if (unshare(CLONE_NEWNS) < 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
            SKIP("mounts of its own are not allowed here: %s", strerror(errno));
        snprintf(map, sizeof map, "0 %u 1", uid);
        ASSERT(write_file("/proc/self/setgroups", "deny"));
        ASSERT(write_file("/proc/self/uid_map", map));
        snprintf(map, sizeof map, "0 %u 1", gid);
        ASSERT(write_file("/proc/self/gid_map", map));
    }
    /* The type and the data are not looked at; valgrind wants the strings all the same. */
    if (mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0)
        SKIP("mounts of its own are not allowed here: %s", strerror(errno));
}

TAP_FUNCTION void mount_tmpfs(const char *where, const char *options)
{
    if (mount("pycrew-test", where, "tmpfs", 0, options) < 0)
        SKIP("a tmpfs cannot be mounted at %s: %s", where, strerror(errno));
}

/* ---- interleavings ----
 *
 * A thread that races would have to hit a window of a nanosecond. So one operation is run by single
 * steps of the processor, and in the midst of it, at each of its instructions in turn, another one
 * as a whole: every interleaving of the two that switches there and back once. With two others, also
 * those that do so twice; of a long operation only some of them, unless ALL_INTERLEAVINGS is set in
 * the environment. What a processor reorders is not seen by this: that is for the tests with threads. */

typedef struct interleaving {
    void (*prepare)(void *); /* before each run */
    void (*stepped)(void *);
    void (*others[2])(void *); /* the second may be NULL */
    void (*check)(void *);     /* after each run */
    void *argument;
} interleaving;

#if defined __x86_64__ && !TAP_TSAN

#define EFLAGS_TRAP UINT64_C(0x100)

static struct {
    const interleaving *what;
    volatile long at[2], step;
    volatile int ran;
} steps;

TAP_FUNCTION void on_single_step(int number, siginfo_t *info, void *context)
{
    ucontext_t *machine = context;
    int saved = errno;
    (void)number;
    (void)info;
    while (steps.ran < 2 && steps.what->others[steps.ran] && steps.step == steps.at[steps.ran])
        steps.what->others[steps.ran++](steps.what->argument);
    steps.step++;
    if (steps.ran == 2 || !steps.what->others[steps.ran])
        machine->uc_mcontext.gregs[REG_EFL] &= ~(long long)EFLAGS_TRAP;
    errno = saved;
}

/* How many of the others found their place. */
TAP_FUNCTION int run_stepped(const interleaving *what, long first, long second)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_single_step;
    ASSERT_INT(sigaction(SIGTRAP, &action, NULL), 0);
    steps.what = what;
    steps.at[0] = first;
    steps.at[1] = second;
    steps.step = 0;
    steps.ran = 0;
    atomic_signal_fence(memory_order_seq_cst);
    __writeeflags(__readeflags() | EFLAGS_TRAP);
    atomic_signal_fence(memory_order_seq_cst);
    what->stepped(what->argument);
    atomic_signal_fence(memory_order_seq_cst);
    __writeeflags(__readeflags() & ~EFLAGS_TRAP);
    atomic_signal_fence(memory_order_seq_cst);
    return steps.ran;
}

TAP_FUNCTION int interleave_once(const interleaving *what, long first, long second)
{
    what->prepare(what->argument);
    int ran = run_stepped(what, first, second);
    for (int i = ran; i < 2 && what->others[i]; i++) /* afterwards, then */
        what->others[i](what->argument);
    what->check(what->argument);
    return ran;
}

TAP_FUNCTION void interleave(const interleaving *what)
{
    what->prepare(what->argument); /* the dynamic linker's part is over after this */
    what->stepped(what->argument);
    for (int i = 0; i < 2 && what->others[i]; i++)
        what->others[i](what->argument);
    what->check(what->argument);

    interleave_once(what, LONG_MAX, LONG_MAX);
    long count = steps.step, all = count <= 40 || getenv("ALL_INTERLEAVINGS") != NULL;
    uint64_t random = (uint64_t)count;
    if (count == 0)
        SKIP("there are no single steps here");
    for (long first = 0; interleave_once(what, first, first) > 0; first++) {
        long second = first + 1;
        if (!what->others[1] || (!all && first % 4 != 0))
            continue;
        if (!all)
            second += (long)random_below(&random, (uint64_t)count);
        while (interleave_once(what, first, second) == 2 && all)
            second++;
    }
    DIAG("%ld instructions", count);
}

TAP_FUNCTION void die_here(void *argument)
{
    (void)argument;
    kill(getpid(), SIGKILL);
}

/* Another process does this and is killed at one of its instructions. False: it came to the end. */
TAP_FUNCTION bool dies_at(long instruction, void (*stepped)(void *), void *argument)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        const interleaving what = {
            .stepped = stepped, .others = {die_here, NULL}, .argument = argument};
        run_stepped(&what, instruction, 0);
        _exit(steps.step == 0 ? 2 : 0);
    }
    ASSERT_INT(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        SKIP("there are no single steps here");
    ASSERT(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    return WIFSIGNALED(status);
}

#else

TAP_FUNCTION void interleave(const interleaving *what)
{
    (void)what;
    SKIP("there are no single steps here");
}

TAP_FUNCTION bool dies_at(long instruction, void (*stepped)(void *), void *argument)
{
    (void)instruction;
    (void)stepped;
    (void)argument;
    SKIP("there are no single steps here");
}

#endif

#endif
