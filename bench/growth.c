/* growth: what a call costs as something grows: workers, threads, calls in flight, bytes,
 * functions, the length of a batch.
 *
 *   growth [--json] [--rounds N] [--quick] [AXIS...]
 *
 * Each axis is a row of sizes; rounds take all sizes in turn, and the median of the rounds is
 * shown, with the host's CPU time. Grows with the size: cost that is not the size's own (bytes are,
 * with a memcpy of as many beside them).
 */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SIZES_MAX = 12, ROUNDS_MAX = 50, WINDOW = 1024, FUNCTIONS_MAX = 10000, WARM_UP = 2000 };

static const char add[] = "math_ops:add";
static int divisor = 1; /* of the calls: --quick */

/* One measurement: nanoseconds a call on the clock, and of the host's CPUs. */
struct cost {
    double wall, cpu;
};

struct timer {
    int64_t wall, cpu;
};

static int64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static struct timer start_timer(void)
{
    return (struct timer){now_ns(), cpu_ns()};
}

static struct cost stop_timer(struct timer begun, size_t calls)
{
    return (struct cost){(double)(now_ns() - begun.wall) / (double)calls,
                         (double)(cpu_ns() - begun.cpu) / (double)calls};
}

static size_t few(size_t count)
{
    return count / (size_t)divisor > 0 ? count / (size_t)divisor : 1;
}

/* ---- calls in a window ----------------------------------------------------------------------- */

static pycrew_call *submit_add(pycrew_crew *crew, const pycrew_function *function, long long i)
{
    pycrew_call *call;
    check(pycrew_prepare(crew, function, PYCREW_FOREVER, &call), "pycrew_prepare");
    pycrew_add_i64(call, i);
    pycrew_add_i64(call, 2 * i);
    check(pycrew_submit(call), "pycrew_submit");
    return call;
}

static void finish_add(pycrew_call *call, long long i)
{
    int64_t sum = 0;
    check(pycrew_wait(call, PYCREW_FOREVER), "pycrew_wait");
    check(pycrew_result_i64(call, &sum), "pycrew_result_i64");
    if (sum != 3 * i)
        fail("add(%lld, %lld) = %lld", i, 2 * i, (long long)sum);
    pycrew_release(call);
}

/* The functions take turns. */
static void pipeline(pycrew_crew *crew, const pycrew_function *const *functions,
                     size_t function_count, size_t window, size_t count)
{
    pycrew_call **calls = check_alloc(calloc(window, sizeof(pycrew_call *)));
    for (size_t i = 0; i < count + window; i++) {
        pycrew_call **place = &calls[i % window];
        if (i >= window && i - window < count)
            finish_add(*place, (long long)(i - window));
        if (i < count)
            *place = submit_add(crew, functions[i % function_count], (long long)i);
    }
    free(calls);
}

static struct cost time_pipeline(pycrew_crew *crew, const pycrew_function *const *functions,
                                 size_t function_count, size_t window, size_t count)
{
    pipeline(crew, functions, function_count, window,
             WARM_UP > function_count ? WARM_UP : 2 * function_count);
    struct timer timer = start_timer();
    pipeline(crew, functions, function_count, window, count);
    return stop_timer(timer, count);
}

static pycrew_crew *open_for(unsigned workers, unsigned calls)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.workers = workers;
    options.calls = calls;
    return open_crew_with(&options);
}

static void await_all_alive(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;
    for (int64_t until = now_ns() + INT64_C(60000000000); now_ns() < until; sleep_ns(1000000)) {
        check(pycrew_stats_get(crew, &stats), "pycrew_stats_get");
        if (stats.alive == stats.workers)
            return;
    }
    fail("%u of %u workers are alive after a minute", stats.alive, stats.workers);
}

static struct cost with_workers(size_t workers)
{
    pycrew_crew *crew = open_for((unsigned)workers, 2 * WINDOW);
    const pycrew_function *function = get_function(crew, add);
    await_all_alive(crew);
    struct cost cost = time_pipeline(crew, &function, 1, WINDOW, few(200000));
    pycrew_close(crew);
    return cost;
}

static struct cost with_calls_in_flight(size_t window)
{
    pycrew_crew *crew = open_for(1, 16384);
    const pycrew_function *function = get_function(crew, add);
    struct cost cost = time_pipeline(crew, &function, 1, window, few(200000));
    pycrew_close(crew);
    return cost;
}

static struct cost with_functions(size_t count)
{
    static const pycrew_function *functions[FUNCTIONS_MAX];
    pycrew_crew *crew = open_for(1, 2 * WINDOW);
    for (size_t i = 0; i < count; i++) {
        char name[40];
        snprintf(name, sizeof name, "bench_growth:f%zu", i);
        functions[i] = get_function(crew, name);
    }
    struct cost cost = time_pipeline(crew, functions, count, WINDOW, few(200000));
    pycrew_close(crew);
    return cost;
}

/* ---- threads --------------------------------------------------------------------------------- */

struct caller {
    pthread_t thread;
    pycrew_crew *crew;
    const pycrew_function *function;
    size_t count;
};

static void *call_alone(void *data)
{
    struct caller *caller = data;
    for (size_t i = 0; i < caller->count; i++)
        finish_add(submit_add(caller->crew, caller->function, (long long)i), (long long)i);
    return NULL;
}

static void call_together(pycrew_crew *crew, const pycrew_function *function, size_t threads,
                          size_t each)
{
    struct caller *callers = check_alloc(calloc(threads, sizeof *callers));
    for (size_t i = 0; i < threads; i++) {
        callers[i] = (struct caller){.crew = crew, .function = function, .count = each};
        if (pthread_create(&callers[i].thread, NULL, call_alone, &callers[i]))
            fail("no thread");
    }
    for (size_t i = 0; i < threads; i++)
        pthread_join(callers[i].thread, NULL);
    free(callers);
}

static struct cost with_threads(size_t threads)
{
    pycrew_crew *crew = open_for(2, 0);
    const pycrew_function *function = get_function(crew, add);
    size_t each = few(40000) / threads + 1;
    call_together(crew, function, threads, each / 10 + 1);
    struct timer timer = start_timer();
    call_together(crew, function, threads, each);
    struct cost cost = stop_timer(timer, each * threads);
    pycrew_close(crew);
    return cost;
}

/* ---- one word that all want ------------------------------------------------------------------ */

struct adder {
    pthread_t thread;
    size_t count;
    _Atomic bool *go;
};
static _Alignas(128) _Atomic uint64_t wanted_word;

static void *add_to_word(void *data)
{
    struct adder *adder = data;
    while (!atomic_load(adder->go))
        ;
    for (size_t i = 0; i < adder->count; i++)
        atomic_fetch_add(&wanted_word, 1);
    return NULL;
}

static struct cost with_adders(size_t threads)
{
    static _Atomic bool go;
    struct adder *adders = check_alloc(calloc(threads, sizeof *adders));
    size_t each = few(4000000) / threads;
    atomic_store(&go, false);
    for (size_t i = 0; i < threads; i++) {
        adders[i] = (struct adder){.count = each, .go = &go};
        if (pthread_create(&adders[i].thread, NULL, add_to_word, &adders[i]))
            fail("no thread");
    }
    sleep_ns(1000000);
    struct timer timer = start_timer();
    atomic_store(&go, true);
    for (size_t i = 0; i < threads; i++)
        pthread_join(adders[i].thread, NULL);
    struct cost cost = stop_timer(timer, each * threads);
    free(adders);
    return cost;
}

/* ---- bytes ----------------------------------------------------------------------------------- */

static void echo(pycrew_crew *crew, const pycrew_function *function, const void *data, size_t size)
{
    pycrew_call *call;
    const void *back;
    size_t back_size;
    check(pycrew_prepare(crew, function, PYCREW_FOREVER, &call), "pycrew_prepare");
    check(pycrew_add_bytes(call, data, size), "pycrew_add_bytes");
    check(pycrew_submit(call), "pycrew_submit");
    check(pycrew_wait(call, PYCREW_FOREVER), "pycrew_wait");
    check(pycrew_result_bytes(call, &back, &back_size), "pycrew_result_bytes");
    if (back_size != size || memcmp(back, data, size < 64 ? size : 64) != 0)
        fail("%zu bytes came back as %zu", size, back_size);
    pycrew_release(call);
}

static size_t calls_of_bytes(size_t size)
{
    return few(size < 4096 ? 20000 : size < 1 << 20 ? 4000 : 60);
}

static struct cost with_bytes(size_t size)
{
    pycrew_crew *crew = open_for(1, 0);
    const pycrew_function *function = get_function(crew, "bench_growth:echo");
    char *data = check_alloc(malloc(size + 1));
    size_t count = calls_of_bytes(size);
    memset(data, 7, size);
    for (size_t i = 0; i < count / 10 + 2; i++)
        echo(crew, function, data, size);
    struct timer timer = start_timer();
    for (size_t i = 0; i < count; i++)
        echo(crew, function, data, size);
    struct cost cost = stop_timer(timer, count);
    free(data);
    pycrew_close(crew);
    return cost;
}

/* Four copies of as many bytes: into the segment, to a bytes object, from one, and one more for a
 * reader. */
static struct cost copies_of_bytes(size_t size)
{
    char *from = check_alloc(malloc(size + 1)), *to = check_alloc(malloc(size + 1));
    size_t count = calls_of_bytes(size);
    memset(from, 7, size);
    memset(to, 7, size);
    struct timer timer = start_timer();
    for (size_t i = 0; i < count; i++)
        for (int copy = 0; copy < 4; copy++) {
            memcpy(to, from, size);
            __asm__ __volatile__("" : : "r"(to) : "memory");
        }
    struct cost cost = stop_timer(timer, count);
    free(from);
    free(to);
    return cost;
}

/* ---- batches --------------------------------------------------------------------------------- */

static void stream(pycrew_crew *crew, const pycrew_function *function, size_t length)
{
    pycrew_batch *batch;
    size_t added = 0, taken = 0;
    int rc = 0;
    check(pycrew_batch_open(crew, function, NULL, &batch), "pycrew_batch_open");
    while (taken < length) {
        long long sum;
        for (rc = 0; rc == 0 && added < length; added += rc == 0)
            rc = pycrew_batch_add(batch, "LL", (long long)added, 2 * (long long)added);
        if (rc != -EAGAIN)
            check(rc, "pycrew_batch_add");
        if (added == length && rc == 0)
            check(pycrew_batch_end(batch), "pycrew_batch_end");
        check(rc = pycrew_batch_next(batch, PYCREW_FOREVER), "pycrew_batch_next");
        check(pycrew_batch_result(batch, "L", &sum), "pycrew_batch_result");
        if (sum != 3 * (long long)pycrew_batch_index(batch))
            fail("record %zu gave %lld", pycrew_batch_index(batch), sum);
        taken++;
    }
    pycrew_batch_close(batch);
}

static struct cost with_batch_length(size_t length)
{
    pycrew_crew *crew = open_for(0, 0);
    const pycrew_function *function = get_function(crew, add);
    size_t batches = few(1000000) / length < 2000 ? few(1000000) / length + 1 : 2000;
    stream(crew, function, 10000);
    struct timer timer = start_timer();
    for (size_t i = 0; i < batches; i++)
        stream(crew, function, length);
    struct cost cost = stop_timer(timer, batches * length);
    pycrew_close(crew);
    return cost;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static const struct axis {
    const char *name, *what;
    struct cost (*measure)(size_t size);
    size_t sizes[SIZES_MAX]; /* 0 ends them, but in the first place */
} axes[] = {
    {"workers",
     "singles, 1,024 in flight; the workers share the CPUs",
     with_workers,
     {1, 2, 4, 8, 16, 32, 64, 128, 256}},
    {"threads", "each calls one at a time; 2 workers", with_threads, {1, 2, 4, 8, 16, 32, 64}},
    {"shared_word",
     "additions of that many threads to one word, without pycrew: what its cache line costs",
     with_adders,
     {1, 2}},
    {"in_flight",
     "singles of one thread to one worker",
     with_calls_in_flight,
     {1, 4, 16, 64, 256, 1024, 4096, 16000}},
    {"functions",
     "singles, 1,024 in flight, the functions in turn; one worker",
     with_functions,
     {1, 10, 100, 1000, FUNCTIONS_MAX}},
    {"bytes",
     "there and back, one at a time, one worker",
     with_bytes,
     {1, 64, 256, 1024, 4096, 65536, 1 << 20, 16 << 20}},
    {"bytes_copied",
     "four copies of them in one process: what the bytes themselves cost",
     copies_of_bytes,
     {1, 64, 256, 1024, 4096, 65536, 1 << 20, 16 << 20}},
    {"batch_length",
     "records, batches one after the other, a worker a CPU",
     with_batch_length,
     {1, 10, 100, 1000, 10000, 100000, 1000000}},
};
enum { AXES = sizeof axes / sizeof *axes };

static size_t size_count(const struct axis *axis)
{
    size_t count = 0;
    while (count < SIZES_MAX && axis->sizes[count] != 0)
        count++;
    return count;
}

static void measure(const struct axis *axis, int rounds, struct cost *ret)
{
    static double wall[SIZES_MAX][ROUNDS_MAX], cpu[SIZES_MAX][ROUNDS_MAX];
    size_t count = size_count(axis);
    for (int round = 0; round < rounds; round++)
        for (size_t i = 0; i < count; i++) {
            struct cost cost = axis->measure(axis->sizes[i]);
            wall[i][round] = cost.wall;
            cpu[i][round] = cost.cpu;
        }
    for (size_t i = 0; i < count; i++)
        ret[i] = (struct cost){quantile(wall[i], (size_t)rounds, 0.5),
                               quantile(cpu[i], (size_t)rounds, 0.5)};
}

static void print(const struct axis *axis, const struct cost *costs, bool json, bool first)
{
    size_t count = size_count(axis);
    if (json) {
        printf("%s\n \"%s\": [", first ? "{" : ",", axis->name);
        for (size_t i = 0; i < count; i++)
            printf("%s{\"size\": %zu, \"wall_ns\": %.1f, \"host_cpu_ns\": %.1f}", i ? ", " : "",
                   axis->sizes[i], costs[i].wall, costs[i].cpu);
        printf("]");
    } else {
        printf("%s%s: %s\n%12s %12s %12s\n", first ? "" : "\n", axis->name, axis->what, "size",
               "wall ns", "host CPU ns");
        for (size_t i = 0; i < count; i++)
            printf("%12zu %12.1f %12.1f\n", axis->sizes[i], costs[i].wall, costs[i].cpu);
    }
    fflush(stdout);
}

static bool is_wanted(const struct axis *axis, char **names)
{
    if (!*names)
        return true;
    for (; *names; names++)
        if (strcmp(*names, axis->name) == 0)
            return true;
    return false;
}

static void check_names(char **names)
{
    for (; *names; names++) {
        bool known = false;
        for (size_t i = 0; i < AXES; i++)
            known = known || strcmp(*names, axes[i].name) == 0;
        if (!known)
            fail("%s: no such axis", *names);
    }
}

int main(int argc, char **argv)
{
    static const struct option long_options[] = {{"json", no_argument, NULL, 'j'},
                                                 {"rounds", required_argument, NULL, 'r'},
                                                 {"quick", no_argument, NULL, 'q'},
                                                 {NULL, 0, NULL, 0}};
    bool json = false, first = true;
    int rounds = 5;
    for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;)
        switch (option) {
        case 'j':
            json = true;
            break;
        case 'r':
            rounds = atoi(optarg);
            break;
        case 'q':
            divisor = 20;
            break;
        default:
            return 2;
        }
    if (rounds < 1 || rounds > ROUNDS_MAX)
        fail("--rounds: from 1 to %d", ROUNDS_MAX);
    check_names(argv + optind);
    for (size_t i = 0; i < AXES; i++) {
        struct cost costs[SIZES_MAX];
        if (!is_wanted(&axes[i], argv + optind))
            continue;
        measure(&axes[i], rounds, costs);
        print(&axes[i], costs, json, first);
        first = false;
    }
    if (json)
        printf("\n}\n");
    return 0;
}
