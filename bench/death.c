/* death: how long a killed worker is missed, and how late a deadline is kept. */
#define _GNU_SOURCE
#include "bench.h"
#include "common.h"

#include <errno.h>
#include <signal.h>

enum { KILLS = 25, DEADLINES = 10 };
static const int64_t deadline_ns = 20000000, grace_ns = 20000000;

static pid_t only_worker(void)
{
    pid_t pid;
    if (proc_workers(&pid, 1) != 1)
        fail("the worker is not to be found");
    return pid;
}

/* From the kill until a call that waits for the next worker has its result. */
static double kill_and_call(pycrew_crew *crew)
{
    int sum = 0;
    int64_t begin = now_ns();
    if (kill(only_worker(), SIGKILL) < 0)
        fail("kill: %m");
    check(pycrew_run(crew, "math_ops:add", "ii>i", 3, 5, &sum), "add");
    if (sum != 8)
        fail("add(3, 5) = %d", sum);
    return (double)(now_ns() - begin) / 1e6;
}

void measure_replaced(const struct bench *bench, double *values)
{
    double samples[KILLS];
    if (!have_numpy(bench))
        return;
    pycrew_crew *crew = open_crew(1, "bench_numpy");
    for (int i = 0; i < KILLS; i++) {
        check(pycrew_run(crew, "bench_ops:nothing", ">"), "nothing"); /* this one is at work */
        samples[i] = kill_and_call(crew);
    }
    pycrew_close(crew);
    values[replaced_ms] = quantile(samples, KILLS, 0.5);
    values[replaced_max_ms] = quantile(samples, KILLS, 1);
}

/* Beyond deadline and grace, of a function in C that listens to nothing. */
void measure_deadline(const struct bench *bench, double *values)
{
    (void)bench;
    double samples[DEADLINES];
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.workers = 1;
    options.grace_ns = grace_ns;
    pycrew_crew *crew = open_crew_with(&options);
    for (int i = 0; i < DEADLINES; i++) {
        check(pycrew_run(crew, "bench_ops:nothing", ">"), "nothing");
        int64_t begin = now_ns();
        int rc = pycrew_run_within(crew, deadline_ns, "bench_ops:stubborn", ">");
        if (rc != -ETIMEDOUT)
            fail("a call without end gave %d", rc);
        samples[i] = (double)(now_ns() - begin - deadline_ns - grace_ns) / 1e6;
    }
    pycrew_close(crew);
    values[deadline_late_ms] = quantile(samples, DEADLINES, 0.5);
    values[deadline_late_max_ms] = quantile(samples, DEADLINES, 1);
}
