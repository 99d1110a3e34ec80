/* engines: what calls and batches cost through an engine, as $PYCREW_ENGINE and its options say.
 * Run by engines.py.
 *
 *   bench/engines single COUNT             one call after the other: nanoseconds of each
 *   bench/engines batch COUNT              records of bench_engines:work: seconds
 *   bench/engines arrays COUNT BYTES       arrays there and back: nanoseconds of each */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/common.h"

static pycrew_crew *open_warm(void)
{
    pycrew_crew *crew = open_crew(0, NULL);
    int ret;

    for (int i = 0; i < 20; i++) /* each machine has imported it */
        check(pycrew_run(crew, "bench_engines:work", "i>i", i, &ret), "warm up");
    return crew;
}

static void singles(pycrew_crew *crew, long count)
{
    for (long i = 0; i < count; i++) {
        int64_t begin = now_ns();
        int ret;

        check(pycrew_run(crew, "bench_engines:nothing", "i>i", (int)i, &ret), "run");
        printf("%" PRId64 "\n", now_ns() - begin);
    }
}

static long take(pycrew_batch *batch, int64_t timeout_ns)
{
    int rc = pycrew_batch_next(batch, timeout_ns);
    int64_t value;

    if (rc == -ETIME || rc == 0)
        return 0;
    check(rc, "next");
    check(pycrew_batch_result(batch, "L", &value), "result");
    return 1;
}

static double run_batch(pycrew_crew *crew, long count)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    const pycrew_function *function = get_function(crew, "bench_engines:work");
    long added = 0, taken = 0;
    int64_t begin = now_ns();
    pycrew_batch *batch;

    check(pycrew_batch_open(crew, function, &options, &batch), "batch");
    while (taken < count) {
        int rc = -EAGAIN;

        while (added < count && (rc = pycrew_batch_add(batch, "i", (int)added)) == 0)
            added++;
        if (rc < 0 && rc != -EAGAIN)
            check(rc, "add");
        if (added == count)
            pycrew_batch_end(batch);
        taken += take(batch, PYCREW_FOREVER);
    }
    pycrew_batch_close(batch);
    return (double)(now_ns() - begin) / 1e9;
}

static void arrays(pycrew_crew *crew, long count, size_t bytes)
{
    double *data = pycrew_alloc(crew, bytes);
    int64_t length = (int64_t)(bytes / sizeof data[0]);

    if (data == NULL)
        fail("no shared memory");
    memset(data, 0, bytes);
    for (long i = 0; i < count; i++) {
        pycrew_array array, result = PYCREW_ARRAY_INIT;
        int64_t begin = now_ns();

        check(pycrew_array_init(&array, data, PYCREW_F64, 1, &length, 0), "array");
        check(pycrew_run(crew, "bench_engines:same", "A>A", &array, &result), "run");
        pycrew_array_drop(crew, &result);
        printf("%" PRId64 "\n", now_ns() - begin);
    }
    pycrew_free(crew, data);
}

int main(int argc, char **argv)
{
    long count = argc > 2 ? strtol(argv[2], NULL, 10) : 0;
    pycrew_crew *crew;

    if (count < 1)
        return 2;
    crew = open_warm();
    if (strcmp(argv[1], "single") == 0)
        singles(crew, count);
    else if (strcmp(argv[1], "batch") == 0)
        printf("%.6f\n", run_batch(crew, count));
    else if (argc > 3)
        arrays(crew, count, strtoul(argv[3], NULL, 10));
    pycrew_close(crew);
    return 0;
}
