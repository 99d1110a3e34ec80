/* baseline: what pycrew is measured against: the machine's cache lines, and Python itself. */
#define _GNU_SOURCE
#include "bench.h"
#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- CPUs ------------------------------------------------------------------------------------ */

static cpu_set_t all_cpus; /* as the program was started */

static void set_cpus(const cpu_set_t *set)
{
    if (sched_setaffinity(0, sizeof *set, set) < 0)
        fail("sched_setaffinity: %s", strerror(errno));
}

void use_all_cpus(void)
{
    if (CPU_COUNT(&all_cpus) > 0)
        set_cpus(&all_cpus);
}

bool use_two_cpus(int ret[2])
{
    if (CPU_COUNT(&all_cpus) == 0 && sched_getaffinity(0, sizeof all_cpus, &all_cpus) < 0)
        fail("sched_getaffinity: %s", strerror(errno));
    cpu_set_t two;
    CPU_ZERO(&two);
    int count = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE && count < 2; cpu++) {
        if (!CPU_ISSET(cpu, &all_cpus))
            continue;
        CPU_SET(cpu, &two);
        ret[count++] = (int)cpu;
    }
    set_cpus(&two);
    return count == 2;
}

static void use_one_cpu(int cpu)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)cpu, &one);
    set_cpus(&one);
}

/* ---- cache lines ----------------------------------------------------------------------------- */

/* 128 bytes apart: neighbouring lines are fetched in pairs. */
struct line {
    _Alignas(128) _Atomic uint32_t value;
};

/* A page of its own: now and then a line's home on the chip is far from both CPUs. */
struct pair {
    _Alignas(4096) struct line there;
    struct line back;
    uint32_t trips;
    int cpu;
};

static void await(const struct line *line, uint32_t value)
{
    while (atomic_load_explicit(&line->value, memory_order_acquire) != value)
        ;
}

static void *echo(void *data)
{
    struct pair *pair = data;
    use_one_cpu(pair->cpu);
    for (uint32_t i = 1; i <= pair->trips; i++) {
        await(&pair->there, i);
        atomic_store_explicit(&pair->back.value, i, memory_order_release);
    }
    return NULL;
}

static double round_trip(struct pair *pair, const int cpus[2], uint32_t trips)
{
    pthread_t thread;
    memset(pair, 0, sizeof *pair);
    pair->trips = trips;
    pair->cpu = cpus[1];
    use_one_cpu(cpus[0]);
    if (pthread_create(&thread, NULL, echo, pair))
        fail("no thread");
    int64_t begin = 0;
    for (uint32_t i = 1; i <= trips; i++) {
        if (i == trips / 5)
            begin = now_ns(); /* both run by now */
        atomic_store_explicit(&pair->there.value, i, memory_order_release);
        await(&pair->back, i);
    }
    int64_t end = now_ns();
    pthread_join(thread, NULL);
    return (double)(end - begin) / (double)(trips - trips / 5 + 1);
}

void measure_cacheline(const struct bench *bench, double *values)
{
    static struct pair pairs[5];
    int cpus[2];
    double best = 1e18;
    if (!use_two_cpus(cpus))
        return;
    for (int i = 0; i < 5; i++) {
        double ns = round_trip(&pairs[i], cpus, bench->quick ? 50000 : 500000);
        best = ns < best ? ns : best;
    }
    use_all_cpus();
    values[cacheline_rtt_ns] = best;
}

/* ---- sleeping and waking -------------------------------------------------------------------- */

struct semaphores {
    sem_t there, back;
    size_t trips;
    int cpu; /* -1: any */
};

static void wait_semaphore(sem_t *semaphore)
{
    while (sem_wait(semaphore) < 0)
        ;
}

static void *post_back(void *data)
{
    struct semaphores *semaphores = data;
    if (semaphores->cpu >= 0)
        use_one_cpu(semaphores->cpu);
    for (size_t i = 0; i < semaphores->trips; i++) {
        wait_semaphore(&semaphores->there);
        sem_post(&semaphores->back);
    }
    return NULL;
}

static pthread_t start_semaphores(struct semaphores *semaphores)
{
    pthread_t thread;
    if (sem_init(&semaphores->there, 0, 0) < 0 || sem_init(&semaphores->back, 0, 0) < 0 ||
        pthread_create(&thread, NULL, post_back, semaphores))
        fail("no thread");
    return thread;
}

/* One trip after the other: neither CPU gets to sleep deeply. */
void measure_futex(const struct bench *bench, double *values)
{
    struct semaphores semaphores = {.trips = bench->quick ? 2000 : 20000};
    int cpus[2];
    if (!use_two_cpus(cpus))
        return;
    semaphores.cpu = cpus[1];
    use_one_cpu(cpus[0]);
    double *samples = check_alloc(malloc(semaphores.trips * sizeof *samples));
    pthread_t thread = start_semaphores(&semaphores);
    for (size_t i = 0; i < semaphores.trips; i++) {
        int64_t begin = now_ns();
        sem_post(&semaphores.there);
        wait_semaphore(&semaphores.back);
        samples[i] = (double)(now_ns() - begin);
    }
    pthread_join(thread, NULL);
    use_all_cpus();
    values[futex_rtt_ns] = quantile(samples, semaphores.trips, 0.5);
    free(samples);
}

void measure_bare_park(const struct bench *bench, double *values)
{
    int cpus[2];
    double samples[200];
    struct semaphores semaphores = {.trips = bench->quick ? 50 : 200, .cpu = -1};
    use_two_cpus(cpus);
    pthread_t thread = start_semaphores(&semaphores);
    for (size_t i = 0; i < semaphores.trips; i++) {
        sleep_ns(2000000);
        int64_t begin = now_ns();
        sem_post(&semaphores.there);
        wait_semaphore(&semaphores.back);
        samples[i] = (double)(now_ns() - begin);
    }
    pthread_join(thread, NULL);
    use_all_cpus();
    values[bare_park_rtt_ns] = quantile(samples, semaphores.trips, 0.5);
}

/* ---- memory ---------------------------------------------------------------------------------- */

void measure_memcpy(const struct bench *bench, double *values)
{
    enum { SIZE = 64 << 20 };
    char *from = check_alloc(malloc(SIZE)), *to = check_alloc(malloc(SIZE));
    double best = 1e18;
    memset(from, 1, SIZE);
    memset(to, 2, SIZE);
    for (int i = 0; i < (bench->quick ? 3 : 10); i++) {
        from[i] = (char)i;
        int64_t begin = now_ns();
        memcpy(to, from, SIZE);
        double us = (double)(now_ns() - begin) / 1000;
        best = us < best ? us : best;
        if (to[i] != (char)i)
            fail("memcpy copied something else");
    }
    free(from);
    free(to);
    values[memcpy_64mib_us] = best;
}

/* ---- Python alone ---------------------------------------------------------------------------- */

double run_inprocess(const struct bench *bench, long calls, const char *columns)
{
    char command[4096];
    double ns = 0;
    int size = snprintf(command, sizeof command, "exec '%s' '%s' '%s' %ld %s", bench->inprocess,
                        bench->python, bench->modules, calls, columns);
    if (size < 0 || (size_t)size >= sizeof command)
        fail("%s: too long a path", bench->inprocess);
    FILE *pipe = popen(command, "re");
    if (!pipe || fscanf(pipe, "%lf", &ns) != 1 || pclose(pipe) != 0)
        fail("%s does not work", bench->inprocess);
    return ns;
}

void measure_inprocess(const struct bench *bench, double *values)
{
    int cpus[2];
    use_two_cpus(cpus);
    values[inprocess_call_ns] = run_inprocess(bench, bench->quick ? 500000 : 5000000, "");
    use_all_cpus();
}
