/* async: what coroutines cost. */
#include "bench.h"
#include "common.h"

#include <errno.h>
#include <stdlib.h>

enum { IN_FLIGHT = 1024, SLEEPS = 10000 };

static pycrew_call *submit_sum(pycrew_crew *crew, const pycrew_function *function, long long i)
{
    pycrew_call *call;
    check(pycrew_prepare(crew, function, PYCREW_FOREVER, &call), "pycrew_prepare");
    check(pycrew_add(call, "LL", i, 2 * i), "pycrew_add");
    check(pycrew_submit(call), "pycrew_submit");
    return call;
}

static void finish_sum(pycrew_call *call, long long i)
{
    long long sum = 0;
    check(pycrew_wait(call, PYCREW_FOREVER), "pycrew_wait");
    check(pycrew_result(call, "L", &sum), "pycrew_result");
    if (sum != 3 * i)
        fail("add_async(%lld, %lld) = %lld", i, 2 * i, sum);
    pycrew_release(call);
}

/* As pipelined_ns, of a coroutine that returns at once. */
static void pipeline(pycrew_crew *crew, const pycrew_function *function, size_t count)
{
    pycrew_call *calls[IN_FLIGHT];
    for (size_t i = 0; i < count + IN_FLIGHT; i++) {
        pycrew_call **place = &calls[i % IN_FLIGHT];
        if (i >= IN_FLIGHT)
            finish_sum(*place, (long long)(i - IN_FLIGHT));
        if (i < count)
            *place = submit_sum(crew, function, (long long)i);
    }
}

void measure_async_call(const struct bench *bench, double *values)
{
    int cpus[2];
    size_t count = bench->quick ? 20000 : 200000;
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    const pycrew_function *function = get_function(crew, "bench_ops:add_async");
    pipeline(crew, function, 10000);
    int64_t begin = now_ns();
    pipeline(crew, function, count);
    values[async_call_ns] = (double)(now_ns() - begin) / (double)count;
    pycrew_close(crew);
    use_all_cpus();
}

static double sleep_all(pycrew_crew *crew, const pycrew_function *function, pycrew_call **calls,
                        int count, double seconds)
{
    int64_t begin = now_ns();
    for (int i = 0; i < count; i++) {
        check(pycrew_prepare(crew, function, PYCREW_FOREVER, &calls[i]), "pycrew_prepare");
        check(pycrew_add(calls[i], "d", seconds), "pycrew_add");
        check(pycrew_submit(calls[i]), "pycrew_submit");
    }
    for (int i = 0; i < count; i++) {
        check(pycrew_wait(calls[i], PYCREW_FOREVER), "pycrew_wait");
        pycrew_release(calls[i]);
    }
    return (double)(now_ns() - begin) / 1e6;
}

void measure_async_sleeps(const struct bench *bench, double *values)
{
    const char *const path[] = {bench->modules, NULL}, *const preload[] = {"bench_ops", "asyncio",
                                                                           NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_call **calls = check_alloc(malloc(SLEEPS * sizeof *calls));
    options.workers = 2;
    options.path = path;
    options.preload = preload;
    options.calls = SLEEPS;
    options.inflight = SLEEPS;
    pycrew_crew *crew = open_crew_with(&options);
    const pycrew_function *function = get_function(crew, "bench_ops:sleep_async");
    sleep_all(crew, function, calls, 2000, 0.01);
    values[async_sleeps_ms] = sleep_all(crew, function, calls, SLEEPS, 0.1);
    pycrew_close(crew);
    free(calls);
}
