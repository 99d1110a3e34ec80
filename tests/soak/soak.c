/* pycrew-soak: a storm of calls of all kinds from many threads, while workers and zygotes are
 * killed.
 *
 *     pycrew-soak [--time 60s] [--calls N] [--threads N] [--workers N] [--kill RATE] [--zygote
 * RATE]
 *                 [--seed N]
 *
 * It runs in rounds. After each all calls have ended and all workers are up, and it looks at
 * memory, descriptors, threads and processes. When the crew is closed, the ledgers are compared
 * (ledger.h).
 */
#define _GNU_SOURCE
#include "tests/soak/soak.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define ROUND_NS (10 * SECOND)

enum { ROUNDS_MIN = 6, CALLS_A_SECOND_MAX = 500000, SHOWN = 10 };

struct soak soak = {.threads = 8, .workers = 4, .kill_rate = 15, .zygote_rate = 0.2,
                    .reload_rate = 0.5, .max_calls = 20000};

/* ---- the crew -------------------------------------------------------------------------------- */

/* A dead worker, or zygote, is worth no line; what one prints is. That one wrote over the shared
 * memory cannot be: none does. */
static void log_line(void *data, int level, const char *line)
{
    static _Atomic unsigned shown;
    (void)data;
    if (strstr(line, "written over"))
        ledger_fault(FAULT_DAMAGE, SIZE_MAX, "%s", line);
    else if (level == PYCREW_LOG_OUTPUT && atomic_fetch_add(&shown, 1) < SHOWN)
        fprintf(stderr, "%s\n", line);
}

static void open_soak_crew(void)
{
    static char variable[80];
    snprintf(variable, sizeof variable, "PYCREW_SOAK_LEDGER=/proc/%d/fd/%d", (int)getpid(),
             soak_ledger.fd);
    const char *path[] = {SOAK_MODULES, NULL};
    const char *env[] = {variable, "PYTHONDONTWRITEBYTECODE=1", NULL};
    const char *preload[] = {"soak_ops", NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.workers = soak.workers;
    options.path = path;
    options.env = env;
    options.preload = preload;
    options.memory = (size_t)1 << 30;
    options.grace_ns = GRACE_NS;
    options.export_threads = 2;
    options.queues = soak.threads + 1;
    options.retries = 1; /* all that may be tried again says so itself; see submit_call() */
    options.max_calls_per_worker = soak.max_calls;
    options.log = log_line;
    check(pycrew_open(&soak.crew, &options), "pycrew_open");
    check(pycrew_function_get(soak.crew, "soak_ops:call", &soak.function), "soak_ops:call");
    check(pycrew_function_get(soak.crew, "soak_ops:call_awaiting", &soak.coroutine),
          "soak_ops:call_awaiting");
    check(pycrew_function_get(soak.crew, "soak_ops:slices", &soak.slices), "soak_ops:slices");
    asks_export();
}

/* ---- rounds ---------------------------------------------------------------------------------- */

static bool is_over(void)
{
    return soak.calls > 0 && atomic_load(&soak.next) >= soak.calls;
}

static void *run_jobs(void *data)
{
    uint64_t *random = data;
    while (!atomic_load(&soak.pause) && !is_over())
        run_random_job(random);
    watch_rest();
    return NULL;
}

static void run_round(uint64_t *randoms, int64_t until)
{
    pthread_t threads[THREADS_MAX];
    atomic_store(&soak.pause, false);
    killer_start();
    for (unsigned i = 0; i < soak.threads; i++)
        if (pthread_create(&threads[i], NULL, run_jobs, &randoms[i]))
            fail("no thread");
    while (now_ns() < until && !is_over() && !atomic_load(&soak.pause))
        sleep_ns(10 * MS);
    atomic_store(&soak.pause, true);
    for (unsigned i = 0; i < soak.threads; i++)
        pthread_join(threads[i], NULL);
    killer_stop();
}

static int64_t next_round_end(int64_t begin)
{
    int64_t round_ns = soak.duration_ns > 0 ? soak.duration_ns / ROUNDS_MIN : ROUND_NS;
    int64_t end = now_ns() + (round_ns < ROUND_NS ? round_ns : ROUND_NS);
    return soak.duration_ns > 0 && end > begin + soak.duration_ns ? begin + soak.duration_ns : end;
}

/* A closed queue's descriptor is kept for the next. As many as there may be at a time are made at
 * once, or they would look like a leak. */
static void warm_queues(void)
{
    pycrew_queue *queues[THREADS_MAX];
    for (unsigned i = 0; i < soak.threads; i++)
        check(pycrew_queue_open(soak.crew, &queues[i]), "pycrew_queue_open");
    for (unsigned i = 0; i < soak.threads; i++)
        pycrew_queue_close(queues[i]);
}

/* The first round warms up: caches and free lists fill. */
static void run_rounds(int64_t begin)
{
    uint64_t randoms[THREADS_MAX];
    look fresh = look_when_quiet(), warm = {0}, now = {0};
    for (unsigned i = 0; i < soak.threads; i++)
        randoms[i] = (soak.seed + 1) * 0x9e3779b97f4a7c15 + (i + 1) * 0xd1342543de82ef95;
    for (unsigned round = 0;
         !is_over() && (soak.duration_ns == 0 || now_ns() < begin + soak.duration_ns) &&
         atomic_load(&soak.next) < soak_ledger.capacity;
         round++) {
        run_round(randoms, next_round_end(begin));
        now = look_when_quiet();
        if (round == 0)
            warm = now;
        look_print(&now, (double)(now_ns() - begin) / 1e9);
    }
    look_compare(&warm, &now);
    kill_all_workers();
    look_at_what_is_held(&fresh);
}

/* ---- the program ----------------------------------------------------------------------------- */

static void print_header(void)
{
    printf("%u threads, %u workers; killed a second: %g workers, %g zygotes; seed %llu\n\n",
           soak.threads, soak.workers, soak.kill_rate, soak.zygote_rate,
           (unsigned long long)soak.seed);
    printf("  %6s %11s %8s %8s %8s %9s %9s %9s %5s %7s %7s %6s\n", "s", "calls", "killed",
           "zygotes", "deaths", "host kB", "segm. kB", "used kB", "fds", "threads", "workers",
           "faults");
    fflush(stdout);
}

static void print_deaths(uint64_t deaths, size_t calls, double seconds)
{
    printf("\n  %zu calls in %.1f s, %.0f a second. Killed: %llu workers, and %llu zygotes with "
           "theirs; "
           "deaths of workers that pycrew counted, its own kills left out: %llu.\n"
           "  Reloads: %llu, of which %llu met a kill. The latest end after deadline and grace: %.1f ms.\n",
           calls, seconds, (double)calls / seconds, (unsigned long long)atomic_load(&soak.killed),
           (unsigned long long)atomic_load(&soak.zygotes_killed), (unsigned long long)deaths,
           (unsigned long long)atomic_load(&soak.reloads),
           (unsigned long long)atomic_load(&soak.failed_reloads),
           (double)atomic_load(&soak.latest_ns) / 1e6);
}

static int run(void)
{
    size_t descriptors = proc_descriptors(), threads = 1;
    pycrew_stats stats = PYCREW_STATS_INIT;
    print_header();
    open_soak_crew();
    watch_start();
    loop_start();
    warm_queues();
    int64_t begin = now_ns();
    run_rounds(begin);
    double seconds = (double)(now_ns() - begin) / 1e9;
    loop_stop();
    check(pycrew_stats_get(soak.crew, &stats), "pycrew_stats_get");
    watch_beat(); /* a close that hangs is seen too */
    pycrew_close(soak.crew);
    watch_rest();
    watch_stop();
    look_after_close(descriptors, threads);
    asks_look_after_close();
    size_t calls = atomic_load(&soak.next);
    calls = calls < soak_ledger.capacity ? calls : soak_ledger.capacity;
    ledger_judge(calls);
    print_deaths(stats.deaths, calls, seconds);
    ledger_print(calls);
    printf("\n%s\n", ledger_faults() ? "NOT as it must be" : "all as it must be");
    return ledger_faults() > 0;
}

static unsigned long number(const char *text, unsigned long max)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end || value < 1 || value > max)
        fail("not a number from 1 to %lu: '%s'", max, text);
    return value;
}

static double rate(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= 0) || value > 1000)
        fail("not a rate from 0 to 1000 a second: '%s'", text);
    return value;
}

/* "90", "90s", "10m", "8h" */
static int64_t duration(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    double unit = *end == 'm' ? 60 : *end == 'h' ? 3600 : 1;
    if (end == text || (*end && (!strchr("smh", *end) || end[1])) || !(value > 0) ||
        value * unit > 1e6)
        fail("not a time such as 60s, 10m or 8h: '%s'", text);
    return (int64_t)(value * unit * 1e9);
}

static int usage(bool asked)
{
    fputs("usage: pycrew-soak [options]\n"
          "  -d, --time TIME    such as 60s, 10m, 8h (60s, or until --calls are made)\n"
          "  -n, --calls N      end after so many\n"
          "  -t, --threads N    threads that make them (8)\n"
          "  -w, --workers N    workers that run them (4)\n"
          "  -k, --kill RATE    workers to kill with SIGKILL each second, at random (15)\n"
          "  -z, --zygote RATE  zygotes (0.2)\n"
          "  -r, --reload RATE  reloads of the crew (0.5)\n"
          "  -m, --max-calls N  that a worker lives for; 0: for ever (20000)\n"
          "  -s, --seed N       of the random mix (by the clock)\n",
          asked ? stdout : stderr);
    return asked ? 0 : 2;
}

static void set_defaults(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (soak.seed == 0)
        soak.seed = (uint64_t)now.tv_nsec / 1000 + 1;
    if (soak.duration_ns == 0 && soak.calls == 0)
        soak.duration_ns = 60 * SECOND;
    /* A coroutine's deadline may cost the worker beside a function that holds it up. */
    soak_ledger.workers_die = true;
    soak_ledger.zygotes_die = soak.zygote_rate > 0;
}

static size_t ledger_capacity(void)
{
    size_t by_time = (size_t)(soak.duration_ns / SECOND + 1) * CALLS_A_SECOND_MAX;
    size_t by_calls = soak.calls + (size_t)soak.threads * 4000; /* the jobs begun by then */
    return soak.calls == 0 || (soak.duration_ns > 0 && by_time < by_calls) ? by_time : by_calls;
}

int main(int argc, char **argv)
{
    static const struct option table[] = {{"time", required_argument, NULL, 'd'},
                                          {"calls", required_argument, NULL, 'n'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"workers", required_argument, NULL, 'w'},
                                          {"kill", required_argument, NULL, 'k'},
                                          {"zygote", required_argument, NULL, 'z'},
                                          {"reload", required_argument, NULL, 'r'},
                                          {"max-calls", required_argument, NULL, 'm'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "d:n:t:w:k:z:r:m:s:h", table, NULL)) != -1;) {
        switch (option) {
        case 'd':
            soak.duration_ns = duration(optarg);
            break;
        case 'n':
            soak.calls = number(optarg, 1UL << 32);
            break;
        case 't':
            soak.threads = (unsigned)number(optarg, THREADS_MAX);
            break;
        case 'w':
            soak.workers = (unsigned)number(optarg, WORKERS_MAX);
            break;
        case 'k':
            soak.kill_rate = rate(optarg);
            break;
        case 'z':
            soak.zygote_rate = rate(optarg);
            break;
        case 'r':
            soak.reload_rate = rate(optarg);
            break;
        case 'm':
            soak.max_calls = strcmp(optarg, "0") == 0 ? 0 : number(optarg, UINT32_MAX);
            break;
        case 's':
            soak.seed = number(optarg, UINT32_MAX);
            break;
        default:
            return usage(option == 'h');
        }
    }
    set_defaults();
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}); /* workers abort on purpose */
    ledger_open(ledger_capacity());
    int rc = run();
    ledger_close();
    return rc;
}
