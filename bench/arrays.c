/* arrays: what an array's size adds to the time of a call that copies nothing of it. */
#include "bench.h"
#include "common.h"

#include <math.h>
#include <stdlib.h>

enum { WARM_UP = 50, CALLS_MAX = 2000 };

#define MIB ((size_t)1 << 20)

/* Memory of the crew that is there: each page was written. NULL: there is not so much. */
static double *populated(pycrew_crew *crew, size_t size)
{
    double *memory = pycrew_alloc(crew, size);

    for (size_t i = 0; memory != NULL && i < size / sizeof *memory; i++)
        memory[i] = (double)(i % 7);
    return memory;
}

static pycrew_array array_of(double *data, size_t size)
{
    pycrew_array array;

    check(pycrew_array_init(&array, data, PYCREW_F64, 1,
                            (int64_t[]){(int64_t)(size / sizeof *data)}, 0),
          "pycrew_array_init");
    return array;
}

static double time_in(pycrew_crew *crew, const pycrew_array *array)
{
    const double *data = array->data;
    double sum = 0, expected = data[0] + data[array->shape[0] - 1];
    int64_t begin = now_ns();

    check(pycrew_run(crew, "bench_ops:ends", "A>d", array, &sum), "bench_ops.ends");
    begin = now_ns() - begin;
    if (sum != expected)
        fail("a[0] + a[-1] is %g, not %g", sum, expected);
    return (double)begin;
}

static double time_out(pycrew_crew *crew, size_t size)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    long long count = (long long)(size / sizeof(double));
    int64_t begin = now_ns();

    check(pycrew_run(crew, "bench_ops:empty", "L>A", count, &array), "bench_ops.empty");
    begin = now_ns() - begin;
    if (array.shape[0] != count || ((double *)array.data)[count - 1] != 1)
        fail("an array that is none");
    pycrew_array_drop(crew, &array);
    return (double)begin;
}

/* The difference of the medians, in microseconds; large and small calls take turns. */
static double extra_us(const struct bench *bench, pycrew_crew *crew, const pycrew_array *arrays,
                       const size_t *sizes)
{
    static double samples[2][CALLS_MAX];
    size_t count = bench->quick ? CALLS_MAX / 10 : CALLS_MAX;

    for (size_t i = 0; i < 2 * (count + WARM_UP); i++) {
        double sample =
            arrays != NULL ? time_in(crew, &arrays[i % 2]) : time_out(crew, sizes[i % 2]);

        if (i >= 2 * WARM_UP)
            samples[i % 2][i / 2 - WARM_UP] = sample;
    }
    return (quantile(samples[1], count, 0.5) - quantile(samples[0], count, 0.5)) / 1000;
}

static double extra_in(const struct bench *bench, pycrew_crew *crew, size_t size)
{
    double *large = populated(crew, size), *small = populated(crew, 2 * sizeof *small), us = NAN;

    if (large != NULL && small != NULL) {
        pycrew_array arrays[] = {array_of(small, 2 * sizeof *small), array_of(large, size)};

        us = extra_us(bench, crew, arrays, NULL);
    }
    pycrew_free(crew, large);
    pycrew_free(crew, small);
    return us;
}

static pycrew_crew *open_with_memory(size_t memory)
{
    static const char *const preload[] = {"numpy", "bench_ops", NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;

    options.workers = 1;
    options.memory = memory;
    options.preload = preload;
    return open_crew_with(&options);
}

void measure_arrays(const struct bench *bench, double *values)
{
    int cpus[2];
    pycrew_crew *crew;

    if (!have_numpy(bench))
        return;
    use_two_cpus(cpus);
    crew = open_with_memory(384 * MIB);
    values[array_64mib_extra_us] = extra_in(bench, crew, 64 * MIB);
    values[empty_64mib_extra_us] = extra_us(bench, crew, NULL, (size_t[]){16, 64 * MIB});
    pycrew_close(crew);
    crew = open_with_memory(1280 * MIB);
    values[array_1gib_extra_us] = extra_in(bench, crew, 1024 * MIB);
    pycrew_close(crew);
    use_all_cpus();
}
