/* start: how long workers take to be there, and what memory they need. */
#define _GNU_SOURCE
#include "bench.h"
#include "common.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { CREW = 8, PROCESSES_MAX = 1024 };

void measure_start(const struct bench *bench, double *values)
{
    (void)bench;
    int sum = 0;
    int64_t begin = now_ns();
    pycrew_crew *crew = open_crew(0, NULL);
    check(pycrew_run(crew, "math_ops:add", "ii>i", 3, 5, &sum), "add");
    int64_t end = now_ns();
    if (sum != 8)
        fail("add(3, 5) = %d", sum);
    pycrew_close(crew);
    values[start_ms] = (double)(end - begin) / 1e6;
}

/* ---- eight workers with numpy ---------------------------------------------------------------- */

struct seen {
    pid_t pids[CREW];
    size_t count;
    int64_t last_begin; /* when the last of them began its first call */
};

static void see(struct seen *seen, pid_t pid, int64_t begin)
{
    for (size_t i = 0; i < seen->count; i++)
        if (seen->pids[i] == pid)
            return;
    if (seen->count == CREW)
        fail("more than %d workers", CREW);
    seen->pids[seen->count++] = pid;
    if (begin > seen->last_begin)
        seen->last_begin = begin;
}

static pycrew_call *submit_hold(pycrew_crew *crew, const pycrew_function *hold)
{
    pycrew_call *call;
    check(pycrew_prepare(crew, hold, PYCREW_FOREVER, &call), "pycrew_prepare");
    check(pycrew_add(call, "d", 0.02), "pycrew_add");
    check(pycrew_submit(call), "pycrew_submit");
    return call;
}

/* Keeps as many calls going as there are workers, until each worker has had one. */
static struct seen see_all_workers(pycrew_crew *crew)
{
    struct seen seen = {.count = 0};
    const pycrew_function *hold = get_function(crew, "bench_numpy:hold");
    pycrew_call *calls[CREW];
    int64_t give_up = now_ns() + 30000000000;
    for (size_t i = 0; i < CREW; i++)
        calls[i] = submit_hold(crew, hold);
    for (size_t i = 0, running = CREW; running > 0; i = (i + 1) % CREW) {
        if (!calls[i])
            continue;
        long long begin, pid;
        check(pycrew_wait(calls[i], PYCREW_FOREVER), "hold");
        check(pycrew_result(calls[i], "LL", &begin, &pid), "hold");
        see(&seen, (pid_t)pid, begin);
        pycrew_release(calls[i]);
        calls[i] = seen.count < CREW ? submit_hold(crew, hold) : NULL;
        running -= !calls[i];
        if (now_ns() > give_up)
            fail("%zu of %d workers work", seen.count, CREW);
    }
    return seen;
}

static double mean_pss_kb(const struct seen *seen)
{
    double sum = 0;
    for (size_t i = 0; i < seen->count; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", (int)seen->pids[i]);
        long kb = proc_number(path, "Pss:");
        if (kb < 0)
            fail("%s: no Pss", path);
        sum += (double)kb;
    }
    return sum / (double)seen->count;
}

bool have_numpy(const struct bench *bench)
{
    char command[4096];
    int size =
        snprintf(command, sizeof command, "'%s' -c 'import numpy' 2>/dev/null", bench->python);
    FILE *pipe = size > 0 && (size_t)size < sizeof command ? popen(command, "re") : NULL;
    return pipe && pclose(pipe) == 0;
}

void measure_numpy(const struct bench *bench, double *values)
{
    if (!have_numpy(bench))
        return;
    long long import_end = 0;
    pycrew_crew *crew = open_crew(CREW, "bench_numpy");
    struct seen seen = see_all_workers(crew);
    check(pycrew_run(crew, "bench_numpy:import_end", ">L", &import_end), "import_end");
    values[start8_numpy_ms] = (double)(seen.last_begin - import_end) / 1e6;
    values[worker_pss_kb] = mean_pss_kb(&seen);
    pycrew_close(crew);
}

/* ---- idle ------------------------------------------------------------------------------------ */

/* Of this process's other threads, the zygote and the workers. */
static long all_switches(void)
{
    pid_t zygote, workers[PROCESSES_MAX];
    long count = proc_switches(getpid());
    if (proc_children(getpid(), &zygote, 1) != 1)
        fail("the zygote is not to be found");
    count += proc_switches(zygote);
    for (size_t i = proc_children(zygote, workers, PROCESSES_MAX); i > 0; i--)
        count += proc_switches(workers[i - 1]);
    return count;
}

void measure_idle(const struct bench *bench, double *values)
{
    int sum = 0;
    pycrew_crew *crew = open_crew(0, NULL);
    check(pycrew_run(crew, "math_ops:add", "ii>i", 3, 5, &sum), "add");
    sleep_ns(500000000); /* the other workers start in the background */
    long before = all_switches();
    sleep_ns(bench->quick ? 500000000 : 2000000000);
    values[idle_switches] = (double)(all_switches() - before);
    pycrew_close(crew);
}
