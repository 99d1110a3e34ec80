/* pycrew-bench: what pycrew costs, against what the machine and Python cost, in one run. The
 * measurements take turns, several rounds of them, so that a noisy minute hits all alike; reported
 * is each one's median over the rounds.
 */
#define _GNU_SOURCE
#include "bench.h"
#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

enum { ROUNDS_MAX = 100 };

static const struct value_info {
    const char *name;
    int decimals;
    const char *what;
} infos[] = {
#define BENCH_INFO(name, decimals, what) {#name, decimals, what},
    BENCH_VALUES(BENCH_INFO)
#undef BENCH_INFO
};

/* Which function fills which values: first to last. */
static const struct measurement {
    bench_measurement *run;
    enum bench_value first, last;
} measurements[] = {
    {measure_cacheline, cacheline_rtt_ns, cacheline_rtt_ns},
    {measure_inprocess, inprocess_call_ns, inprocess_call_ns},
    {measure_sync, sync_p50_ns, sync_p99_ns},
    {measure_run, run_p50_ns, run_p50_ns},
    {measure_pipelined, pipelined_ns, pipelined_ns},
    {measure_threads, threads_ns, threads_ns},
    {measure_batch, batch_ns, batch_ns},
    {measure_host_call, host_call_ns, host_park_ns},
    {measure_stream, stream_item_ns, stream_item_ns},
    {measure_actor, actor_p50_ns, actor_p50_ns},
    {measure_async_call, async_call_ns, async_call_ns},
    {measure_async_sleeps, async_sleeps_ms, async_sleeps_ms},
    {measure_arrays, array_64mib_extra_us, empty_64mib_extra_us},
    {measure_map_i64, inprocess_map_i64_ns, map_i64_ns},
    {measure_map_sqrt, inprocess_map_sqrt_ns, map_sqrt_ns},
    {measure_map_whole, plain_whole_ns, map_whole_ns},
    {measure_futex, futex_rtt_ns, futex_rtt_ns},
    {measure_memcpy, memcpy_64mib_us, memcpy_64mib_us},
    {measure_bare_park, bare_park_rtt_ns, bare_park_rtt_ns},
    {measure_park, park_rtt_ns, park_rtt_ns},
    {measure_start, start_ms, start_ms},
    {measure_numpy, start8_numpy_ms, worker_pss_kb},
    {measure_replaced, replaced_ms, replaced_max_ms},
    {measure_deadline, deadline_late_ms, deadline_late_max_ms},
    {measure_idle, idle_switches, idle_switches},
};
enum { MEASUREMENT_COUNT = sizeof measurements / sizeof *measurements };

struct options {
    bool json;
    unsigned rounds;
    bool wanted[BENCH_VALUE_COUNT];
    struct bench bench;
};

/* What stands above the numbers. */
struct machine {
    char python[64], executable[1024], cpu[128];
    struct utsname kernel;
    int cpus;
};

struct result {
    double median, min, max; /* over the rounds; NAN: not measured */
};

struct ratio {
    const char *name, *what, *goal;
    double value, limit;
    bool at_least; /* the limit is to be reached, and not to be kept below */
};

/* ---- the machine ----------------------------------------------------------------------------- */

static void cpu_model(char *ret, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    snprintf(ret, size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        char *text = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !text)
            continue;
        text += 1 + strspn(text + 1, " ");
        text[strcspn(text, "\n")] = '\0';
        snprintf(ret, size, "%.*s", (int)size - 1, text);
        break;
    }
    if (file)
        fclose(file);
}

static struct machine get_machine(void)
{
    struct machine machine = {.cpus = 1};
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        machine.cpus = CPU_COUNT(&set);
    uname(&machine.kernel);
    cpu_model(machine.cpu, sizeof machine.cpu);
    char *version, *executable;
    pycrew_crew *crew = open_crew(1, NULL);
    check(pycrew_run(crew, "bench_ops:python", ">ss", &version, &executable), "bench_ops.python");
    pycrew_close(crew);
    snprintf(machine.python, sizeof machine.python, "%s", version);
    snprintf(machine.executable, sizeof machine.executable, "%s", executable);
    free(version);
    free(executable);
    return machine;
}

/* ---- measuring ------------------------------------------------------------------------------- */

static bool any_wanted(const struct options *options, const struct measurement *measurement)
{
    for (int value = (int)measurement->first; value <= (int)measurement->last; value++)
        if (options->wanted[value])
            return true;
    return false;
}

static void measure_round(const struct options *options, unsigned round,
                          double samples[][ROUNDS_MAX])
{
    double values[BENCH_VALUE_COUNT];
    for (int value = 0; value < BENCH_VALUE_COUNT; value++)
        values[value] = NAN;
    for (size_t i = 0; i < MEASUREMENT_COUNT; i++)
        if (any_wanted(options, &measurements[i]))
            measurements[i].run(&options->bench, values);
    for (int value = 0; value < BENCH_VALUE_COUNT; value++)
        samples[value][round] = options->wanted[value] ? values[value] : NAN;
}

static void measure(const struct options *options, struct result *results)
{
    static double samples[BENCH_VALUE_COUNT][ROUNDS_MAX];
    for (unsigned round = 0; round < options->rounds; round++)
        measure_round(options, round, samples);
    for (int value = 0; value < BENCH_VALUE_COUNT; value++) {
        double *sorted = samples[value];
        results[value] = (struct result){NAN, NAN, NAN};
        if (isnan(sorted[0]))
            continue;
        results[value].median = quantile(sorted, options->rounds, 0.5);
        results[value].min = sorted[0];
        results[value].max = sorted[options->rounds - 1];
    }
    /* The machine's own floor: what disturbs it in a round must not make pycrew look better. */
    results[cacheline_rtt_ns].median = results[cacheline_rtt_ns].min;
}

enum { RATIO_COUNT = 6 };

static void get_ratios(const struct result *results, struct ratio ratios[RATIO_COUNT])
{
    double python = results[inprocess_call_ns].median;
    double floor = results[cacheline_rtt_ns].median + python;
    ratios[0] = (struct ratio){"sync_ratio", "sync_p50 / (cacheline_rtt + inprocess_call)",
                               "at most 2", results[sync_p50_ns].median / floor, 2, false};
    ratios[1] = (struct ratio){"pipelined_ratio", "pipelined / inprocess_call", "at most 3",
                               results[pipelined_ns].median / python, 3, false};
    ratios[2] = (struct ratio){"batch_ratio", "batch / inprocess_call",
                               "below 1, on 2 CPUs or more", results[batch_ns].median / python, 1, false};
    ratios[3] = (struct ratio){"map_i64_ratio", "inprocess_map_i64 / map_i64", "at least 1.6",
                               results[inprocess_map_i64_ns].median / results[map_i64_ns].median,
                               1.6, true};
    ratios[4] = (struct ratio){"map_sqrt_ratio", "inprocess_map_sqrt / map_sqrt", "at least 1.6",
                               results[inprocess_map_sqrt_ns].median / results[map_sqrt_ns].median,
                               1.6, true};
    ratios[5] = (struct ratio){"map_whole_ratio", "plain_whole / map_whole", "at least 0.9",
                               results[plain_whole_ns].median / results[map_whole_ns].median, 0.9,
                               true};
}

/* ---- printing -------------------------------------------------------------------------------- */

static void print_table(const struct options *options, const struct machine *machine,
                        const struct result *results)
{
    struct ratio ratios[RATIO_COUNT];
    printf("pycrew %s, Python %s, Linux %s, %d CPU%s: %s\n", pycrew_version(), machine->python,
           machine->kernel.release, machine->cpus, machine->cpus == 1 ? "" : "s", machine->cpu);
    printf("medians over %u rounds, with the least and the greatest\n\n", options->rounds);
    printf("%-20s %10s %10s %10s\n", "", "median", "min", "max");
    for (int value = 0; value < BENCH_VALUE_COUNT; value++) {
        const struct value_info *info = &infos[value];
        const struct result *result = &results[value];
        if (!options->wanted[value])
            continue;
        if (isnan(result->median))
            printf("%-20s %10s %10s %10s  %s\n", info->name, "-", "-", "-", info->what);
        else
            printf("%-20s %10.*f %10.*f %10.*f  %s\n", info->name, info->decimals, result->median,
                   info->decimals, result->min, info->decimals, result->max, info->what);
    }
    get_ratios(results, ratios);
    printf("\n");
    for (int i = 0; i < RATIO_COUNT; i++)
        if (!isnan(ratios[i].value))
            printf("%-46s %6.2f  (goal: %s: %s)\n", ratios[i].what, ratios[i].value, ratios[i].goal,
                   (ratios[i].at_least ? ratios[i].value >= ratios[i].limit
                                       : ratios[i].value <= ratios[i].limit)
                       ? "met"
                       : "missed");
}

static void print_number(const char *name, int decimals, double number)
{
    if (isnan(number))
        printf(", \"%s\": null", name);
    else
        printf(", \"%s\": %.*f", name, decimals, number);
}

/* The texts are version numbers and a CPU's name: nothing in them needs more than this. */
static void print_text(const char *name, const char *text)
{
    printf("%s\"%s\": \"", strcmp(name, "pycrew") ? ", " : "", name);
    for (; *text; text++)
        if (*text >= ' ' && *text != '"' && *text != '\\')
            putchar(*text);
    putchar('"');
}

static void print_json(const struct options *options, const struct machine *machine,
                       const struct result *results)
{
    struct ratio ratios[RATIO_COUNT];
    get_ratios(results, ratios);
    putchar('{');
    print_text("pycrew", pycrew_version());
    print_text("python", machine->python);
    print_text("kernel", machine->kernel.release);
    print_text("cpu", machine->cpu);
    printf(", \"cpus\": %d, \"rounds\": %u", machine->cpus, options->rounds);
    for (int value = 0; value < BENCH_VALUE_COUNT; value++)
        if (options->wanted[value])
            print_number(infos[value].name, infos[value].decimals, results[value].median);
    for (int i = 0; i < RATIO_COUNT; i++)
        print_number(ratios[i].name, 3, ratios[i].value);
    printf("}\n");
}

/* ---- the program ----------------------------------------------------------------------------- */

static const char usage[] =
    "usage: pycrew-bench [--json] [--quick] [--rounds N] [--only NAME[,NAME]...]\n"
    "  --json     one JSON object instead of the table\n"
    "  --quick    a tenth of the calls, 2 rounds: a few seconds\n"
    "  --rounds   how often each measurement is taken (5)\n"
    "  --only     these values only; the names:\n";

static void print_usage(FILE *file)
{
    fputs(usage, file);
    for (int value = 0; value < BENCH_VALUE_COUNT; value++)
        fprintf(file, "    %-20s %s\n", infos[value].name, infos[value].what);
}

static void parse_only(struct options *options, char *names)
{
    memset(options->wanted, 0, sizeof options->wanted);
    for (char *name; (name = strsep(&names, ","));) {
        int value = 0;
        while (value < BENCH_VALUE_COUNT && strcmp(name, infos[value].name) != 0)
            value++;
        if (value == BENCH_VALUE_COUNT)
            fail("--only: no value '%s'; --help lists them", name);
        options->wanted[value] = true;
    }
}

static void parse_rounds(struct options *options, const char *text)
{
    char *end;
    unsigned long rounds = strtoul(text, &end, 10);
    if (*end || rounds < 1 || rounds > ROUNDS_MAX)
        fail("--rounds: not a number from 1 to %d: '%s'", ROUNDS_MAX, text);
    options->rounds = (unsigned)rounds;
}

static struct options parse_options(int argc, char **argv)
{
    static const struct option table[] = {
        {"json", no_argument, NULL, 'j'},         {"quick", no_argument, NULL, 'q'},
        {"rounds", required_argument, NULL, 'r'}, {"only", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    struct options options = {.rounds = 0};
    memset(options.wanted, true, sizeof options.wanted);
    for (int option; (option = getopt_long(argc, argv, "", table, NULL)) != -1;) {
        if (option == 'j')
            options.json = true;
        else if (option == 'q')
            options.bench.quick = true;
        else if (option == 'r')
            parse_rounds(&options, optarg);
        else if (option == 'o')
            parse_only(&options, optarg);
        else {
            print_usage(option == 'h' ? stdout : stderr);
            exit(option == 'h' ? 0 : 2);
        }
    }
    if (options.rounds == 0)
        options.rounds = options.bench.quick ? 2 : 5;
    return options;
}

int main(int argc, char **argv)
{
    struct result results[BENCH_VALUE_COUNT];
    struct options options = parse_options(argc, argv);
    struct machine machine = get_machine();
    const char *inprocess = getenv("PYCREW_BENCH_INPROCESS");
    options.bench.python = machine.executable;
    options.bench.modules = MATH_OPS_FOLDER;
    options.bench.inprocess = inprocess ? inprocess : BENCH_INPROCESS;
    measure(&options, results);
    if (options.json)
        print_json(&options, &machine, results);
    else
        print_table(&options, &machine, results);
    return 0;
}
