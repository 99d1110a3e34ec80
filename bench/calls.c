/* calls: what a call costs, in the ways a program can make it. */
#include "bench.h"
#include "common.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { IN_FLIGHT = 1024, THREADS = 8, WARM_UP = 5000 };
static const char add[] = "math_ops:add";

static void check_sum(long long sum, long long i)
{
    if (sum != 3 * i)
        fail("add(%lld, %lld) = %lld", i, 2 * i, sum);
}

static pycrew_call *submit(pycrew_crew *crew, const pycrew_function *function, long long i)
{
    pycrew_call *call;
    check(pycrew_prepare(crew, function, PYCREW_FOREVER, &call), "pycrew_prepare");
    check(pycrew_add(call, "LL", i, 2 * i), "pycrew_add");
    check(pycrew_submit(call), "pycrew_submit");
    return call;
}

static void finish(pycrew_call *call, long long i)
{
    long long sum = 0;
    check(pycrew_wait(call, PYCREW_FOREVER), "pycrew_wait");
    check(pycrew_result(call, "L", &sum), "pycrew_result");
    check_sum(sum, i);
    pycrew_release(call);
}

static void call_times(pycrew_crew *crew, const pycrew_function *function, size_t count)
{
    for (size_t i = 0; i < count; i++)
        finish(submit(crew, function, (long long)i), (long long)i);
}

/* ---- one at a time --------------------------------------------------------------------------- */

void measure_sync(const struct bench *bench, double *values)
{
    int cpus[2];
    size_t count = bench->quick ? 20000 : 200000;
    double *samples = check_alloc(malloc(count * sizeof *samples));
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    const pycrew_function *function = get_function(crew, add);
    call_times(crew, function, WARM_UP);
    int64_t begin = now_ns();
    for (size_t i = 0; i < count; i++) {
        finish(submit(crew, function, (long long)i), (long long)i);
        int64_t end = now_ns();
        samples[i] = (double)(end - begin);
        begin = end;
    }
    pycrew_close(crew);
    use_all_cpus();
    values[sync_p50_ns] = quantile(samples, count, 0.5);
    values[sync_p99_ns] = quantile(samples, count, 0.99);
    free(samples);
}

void measure_run(const struct bench *bench, double *values)
{
    int cpus[2];
    size_t count = bench->quick ? 20000 : 100000;
    double *samples = check_alloc(malloc(count * sizeof *samples));
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    call_times(crew, get_function(crew, add), WARM_UP);
    for (size_t i = 0; i < count; i++) {
        long long a = (long long)i, sum = 0;
        int64_t begin = now_ns();
        check(pycrew_run(crew, add, "LL>L", a, 2 * a, &sum), "pycrew_run");
        samples[i] = (double)(now_ns() - begin);
        check_sum(sum, a);
    }
    pycrew_close(crew);
    use_all_cpus();
    values[run_p50_ns] = quantile(samples, count, 0.5);
    free(samples);
}

void measure_park(const struct bench *bench, double *values)
{
    int cpus[2];
    size_t count = bench->quick ? 50 : 200;
    double samples[200];
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    const pycrew_function *function = get_function(crew, add);
    call_times(crew, function, WARM_UP);
    for (size_t i = 0; i < count; i++) {
        sleep_ns(2000000);
        int64_t begin = now_ns();
        finish(submit(crew, function, (long long)i), (long long)i);
        samples[i] = (double)(now_ns() - begin);
    }
    pycrew_close(crew);
    use_all_cpus();
    values[park_rtt_ns] = quantile(samples, count, 0.5);
}

/* ---- many in flight -------------------------------------------------------------------------- */

/* The oldest is waited for first, and its place taken by a new one. */
static void pipeline(pycrew_crew *crew, const pycrew_function *function, size_t count)
{
    pycrew_call *calls[IN_FLIGHT];
    for (size_t i = 0; i < count + IN_FLIGHT; i++) {
        pycrew_call **place = &calls[i % IN_FLIGHT];
        if (i >= IN_FLIGHT)
            finish(*place, (long long)(i - IN_FLIGHT));
        if (i < count)
            *place = submit(crew, function, (long long)i);
    }
}

void measure_pipelined(const struct bench *bench, double *values)
{
    int cpus[2];
    size_t count = bench->quick ? 100000 : 1000000;
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    const pycrew_function *function = get_function(crew, add);
    pipeline(crew, function, 4 * WARM_UP);
    int64_t begin = now_ns();
    pipeline(crew, function, count);
    values[pipelined_ns] = (double)(now_ns() - begin) / (double)count;
    pycrew_close(crew);
    use_all_cpus();
}

struct caller {
    pycrew_crew *crew;
    const pycrew_function *function;
    size_t count;
};

static void *caller_main(void *data)
{
    const struct caller *caller = data;
    call_times(caller->crew, caller->function, caller->count);
    return NULL;
}

static void call_from_threads(struct caller *caller)
{
    pthread_t threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, caller_main, caller))
            fail("no thread");
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

void measure_threads(const struct bench *bench, double *values)
{
    pycrew_crew *crew = open_crew(4, NULL);
    struct caller caller = {crew, get_function(crew, add), 500};
    call_from_threads(&caller);
    caller.count = bench->quick ? 2500 : 12500;
    int64_t begin = now_ns();
    call_from_threads(&caller);
    values[threads_ns] = (double)(now_ns() - begin) / (double)(caller.count * THREADS);
    pycrew_close(crew);
}

/* ---- records --------------------------------------------------------------------------------- */

/* Puts the next record in, and after the last one ends the input. False: the window is full. */
static bool put(pycrew_batch *batch, size_t *added, size_t count)
{
    long long i = (long long)*added;
    int rc = pycrew_batch_add(batch, "LL", i, 2 * i);
    if (rc == -EAGAIN)
        return false;
    check(rc, "pycrew_batch_add");
    if (++*added == count)
        check(pycrew_batch_end(batch), "pycrew_batch_end");
    return true;
}

/* Fills the window, then puts one in for each it takes out. */
static void stream(pycrew_crew *crew, const pycrew_function *function, size_t count)
{
    pycrew_batch *batch;
    size_t added = 0, taken = 0;
    int rc;
    check(pycrew_batch_open(crew, function, NULL, &batch), "pycrew_batch_open");
    while (added < count && put(batch, &added, count))
        ;
    while ((rc = pycrew_batch_next(batch, PYCREW_FOREVER)) == 1) {
        long long sum = 0;
        check(pycrew_batch_result(batch, "L", &sum), "pycrew_batch_result");
        check_sum(sum, (long long)pycrew_batch_index(batch));
        taken++;
        if (added < count)
            put(batch, &added, count);
    }
    check(rc, "pycrew_batch_next");
    if (taken != count)
        fail("%zu records went in, %zu came out", count, taken);
    pycrew_batch_close(batch);
}

void measure_batch(const struct bench *bench, double *values)
{
    size_t count = bench->quick ? 300000 : 3000000;
    pycrew_crew *crew = open_crew(0, NULL);
    const pycrew_function *function = get_function(crew, add);
    stream(crew, function, 100000);
    int64_t begin = now_ns();
    stream(crew, function, count);
    values[batch_ns] = (double)(now_ns() - begin) / (double)count;
    pycrew_close(crew);
}

/* ---- streams and actors ------------------------------------------------------------------------ */

static void read_items(pycrew_crew *crew, const pycrew_function *function, long long count)
{
    pycrew_call *call;
    check(pycrew_prepare(crew, function, PYCREW_FOREVER, &call), "pycrew_prepare");
    check(pycrew_set_stream(call, IN_FLIGHT), "pycrew_set_stream");
    check(pycrew_add(call, "L", count), "pycrew_add");
    check(pycrew_submit(call), "pycrew_submit");
    for (long long i = 0; i < count; i++) {
        long long item = -1;
        if (pycrew_next(call, PYCREW_FOREVER) != 1)
            fail("pycrew_next: %s", pycrew_last_error()->message);
        check(pycrew_result(call, "L", &item), "pycrew_result");
        if (item != i)
            fail("item %lld is %lld", i, item);
    }
    pycrew_release(call);
}

void measure_stream(const struct bench *bench, double *values)
{
    int cpus[2];
    long long count = bench->quick ? 100000 : 1000000;
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    const pycrew_function *function = get_function(crew, "bench_ops:items");
    read_items(crew, function, 4 * WARM_UP);
    int64_t begin = now_ns();
    read_items(crew, function, count);
    values[stream_item_ns] = (double)(now_ns() - begin) / (double)count;
    pycrew_close(crew);
    use_all_cpus();
}

void measure_actor(const struct bench *bench, double *values)
{
    int cpus[2];
    size_t count = bench->quick ? 20000 : 200000;
    double *samples = check_alloc(malloc(count * sizeof *samples));
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    pycrew_actor *actor;
    check(pycrew_actor_open(crew, &actor, PYCREW_FOREVER, "builtins:list", ""), "pycrew_actor_open");
    int64_t begin = now_ns();
    for (size_t i = 0; i < count; i++) {
        pycrew_call *call;
        check(pycrew_actor_prepare(actor, "append", PYCREW_FOREVER, &call), "pycrew_actor_prepare");
        check(pycrew_add(call, "L", (long long)i), "pycrew_add");
        check(pycrew_submit(call), "pycrew_submit");
        check(pycrew_wait(call, PYCREW_FOREVER), "pycrew_wait");
        pycrew_release(call);
        int64_t end = now_ns();
        samples[i] = (double)(end - begin);
        begin = end;
    }
    pycrew_close(crew);
    use_all_cpus();
    values[actor_p50_ns] = quantile(samples, count, 0.5);
    free(samples);
}
