/* map: columns of ten million elements through two workers, and through what there is without
 * pycrew. */
#include "bench.h"
#include "common.h"

#include <stdio.h>
#include <stdlib.h>

/* Of slices more: each worker sees each page for the first time once, and which slices it gets is
 * chance. */
enum { RUNS = 3, WHOLE_RUNS = 12 };

static int64_t elements(const struct bench *bench)
{
    return bench->quick ? 1000000 : 10000000;
}

static pycrew_crew *open_map_crew(int64_t count, const char *preload)
{
    const char *preloads[] = {preload, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;

    options.workers = 2;
    options.memory = 3 * 8 * (size_t)count + ((size_t)64 << 20);
    options.preload = preloads;
    return open_crew_with(&options);
}

/* A column in memory of the crew, each page written. */
static pycrew_array column(pycrew_crew *crew, pycrew_dtype dtype, int64_t count, int64_t factor)
{
    int64_t *integers = pycrew_alloc(crew, (size_t)count * sizeof *integers);
    double *numbers = (double *)integers;
    pycrew_array array;

    if (integers == NULL)
        fail("pycrew_alloc: %s", pycrew_last_error()->message);
    for (int64_t i = 0; i < count; i++)
        if (dtype == PYCREW_I64)
            integers[i] = factor * i;
        else
            numbers[i] = (double)(factor * i);
    check(pycrew_array_init(&array, integers, dtype, 1, &count, 0), "pycrew_array_init");
    return array;
}

/* Nanoseconds an element: the best of some runs, after one that warms up. */
static double time_map(pycrew_crew *crew, const char *name, const pycrew_array *inputs,
                       unsigned count, pycrew_array *output, unsigned flags, int runs)
{
    const pycrew_function *function = get_function(crew, name);
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    double least = 0;

    options.flags = flags;
    for (int i = 0; i <= runs; i++) {
        int64_t begin = now_ns();
        check(pycrew_map(crew, function, inputs, count, output, &options), name);
        double ns = (double)(now_ns() - begin) / (double)output->shape[0];
        if (i <= 1 || ns < least)
            least = ns;
    }
    return least;
}

void measure_map_i64(const struct bench *bench, double *values)
{
    int64_t count = elements(bench);
    pycrew_array inputs[2], output;
    pycrew_crew *crew;
    int cpus[2];

    if (!use_two_cpus(cpus))
        return;
    values[inprocess_map_i64_ns] = run_inprocess(bench, count, "add");
    crew = open_map_crew(count, "math_ops");
    inputs[0] = column(crew, PYCREW_I64, count, 1);
    inputs[1] = column(crew, PYCREW_I64, count, 2);
    output = column(crew, PYCREW_I64, count, 0);
    values[map_i64_ns] = time_map(crew, "math_ops:add", inputs, 2, &output, 0, RUNS);
    for (int64_t i = 0; i < count; i++)
        if (((int64_t *)output.data)[i] != 3 * i)
            fail("a wrong sum");
    pycrew_close(crew);
    use_all_cpus();
}

void measure_map_sqrt(const struct bench *bench, double *values)
{
    int64_t count = elements(bench);
    pycrew_array input, output;
    pycrew_crew *crew;
    int cpus[2];

    if (!use_two_cpus(cpus))
        return;
    values[inprocess_map_sqrt_ns] = run_inprocess(bench, count, "sqrt");
    crew = open_map_crew(count, "math");
    input = column(crew, PYCREW_F64, count, 1);
    output = column(crew, PYCREW_F64, count, 0);
    values[map_sqrt_ns] = time_map(crew, "math:sqrt", &input, 1, &output, 0, RUNS);
    for (int64_t i = 0; i * i < count; i++)
        if (((double *)output.data)[i * i] != (double)i)
            fail("a wrong root");
    pycrew_close(crew);
    use_all_cpus();
}

static double time_plain(const struct bench *bench, int64_t count)
{
    char command[4096];
    double ns = 0;
    int size = snprintf(command, sizeof command, "exec '%s' '%s/bench_plain.py' %lld 2 %d",
                        bench->python, BENCH_MODULES, (long long)count, WHOLE_RUNS);
    FILE *pipe = size > 0 && (size_t)size < sizeof command ? popen(command, "re") : NULL;

    if (!pipe || fscanf(pipe, "%lf", &ns) != 1 || pclose(pipe) != 0)
        fail("bench_plain.py does not work");
    return ns;
}

void measure_map_whole(const struct bench *bench, double *values)
{
    int64_t count = elements(bench);
    pycrew_array inputs[2], output;
    pycrew_crew *crew;
    int cpus[2];

    if (!have_numpy(bench) || !use_two_cpus(cpus))
        return;
    values[plain_whole_ns] = time_plain(bench, count);
    crew = open_map_crew(count, "numpy");
    inputs[0] = column(crew, PYCREW_F64, count, 1);
    inputs[1] = column(crew, PYCREW_F64, count, 2);
    output = column(crew, PYCREW_F64, count, 0);
    values[map_whole_ns] = time_map(crew, "numpy:add", inputs, 2, &output,
                                    PYCREW_MAP_WHOLE | PYCREW_MAP_OUT, WHOLE_RUNS);
    for (int64_t i = 0; i < count; i++)
        if (((double *)output.data)[i] != (double)(3 * i))
            fail("a wrong sum");
    pycrew_close(crew);
    use_all_cpus();
}
