/* pycrew-stress: millions of calls from many threads, every result checked, while workers are
 * killed if you like.
 *
 *     pycrew-stress [-n CALLS] [-t THREADS] [-w WORKERS] [-k KILLS] [-s SEED]
 *
 * Every call has a number of its own. The function called marks it in a file both sides have
 * mapped, before anything else; the host notes how it ended. In the end there must be
 *   - exactly one end for each call                    (none lost, none doubled)
 *   - one mark where it returned                       (it ran, and only once)
 *   - no mark where it died and may_have_run is false  (it certainly did not run)
 *   - the right result wherever there is one
 *   - the same memory and the same descriptors as in the beginning.
 */
#define _GNU_SOURCE
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    THREADS_MAX = 256,
    WORKERS_MAX = 512,
    SINGLES = 500, /* calls of one job, by its kind */
    PIPELINED = 400,
    RECORDS = 1000,
    ECHOES = 100,
    ECHO_SIZE_MAX = 20000
};

/* No single wait takes longer than this: a call that does is lost. */
static const int64_t lost_ns = 60000000000;

/* How a call ended, by its number. */
enum end { END_NONE, END_RETURNED, END_DIED, END_DIED_BEFORE };

struct stress {
    size_t calls;
    unsigned threads, workers;
    double kill_rate;
    uint64_t seed;
    pycrew_crew *crew;
    const pycrew_function *add, *echo;
    char marks_path[4096];
    uint8_t *marks; /* written by the workers */
    uint8_t *ends;  /* written by our threads, each call by the one that made it */
    _Atomic size_t next;
    _Atomic uint64_t wrong, doubled, kills;
    _Atomic bool over;
};

static struct stress stress = {.calls = 10000000, .threads = 8, .workers = 4, .seed = 1};

/* ---- how calls end --------------------------------------------------------------------------- */

static void note_end(size_t index, enum end end)
{
    if (stress.ends[index] != END_NONE)
        atomic_fetch_add(&stress.doubled, 1);
    stress.ends[index] = (uint8_t)end;
}

static void note_wrong(size_t index, const char *what)
{
    if (atomic_fetch_add(&stress.wrong, 1) < 10)
        fprintf(stderr, "call %zu: %s\n", index, what);
}

/* A call that did not return. Only a worker's death is allowed, and only where we kill them. */
static void note_error(size_t index, const pycrew_error *error)
{
    if (error->code == PYCREW_EDIED && stress.kill_rate > 0) {
        note_end(index, error->may_have_run ? END_DIED : END_DIED_BEFORE);
        if (error->signal != SIGKILL)
            note_wrong(index, "not the signal that killed the worker");
        return;
    }
    fail("call %zu: %s (%d)\n%s", index, error->message, error->code,
         error->traceback ? error->traceback : "");
}

static bool ended_well(pycrew_call *call, size_t index)
{
    int rc = pycrew_wait(call, lost_ns);
    if (rc == -ETIME)
        fail("call %zu is lost", index);
    const pycrew_error *error = pycrew_call_error(call);
    if ((rc == 0) != (error == NULL) || (error && error->code != rc))
        fail("call %zu: pycrew_wait says %d, pycrew_call_error %d", index, rc,
             error ? error->code : 0);
    if (error)
        note_error(index, error);
    else
        note_end(index, END_RETURNED);
    return !error;
}

/* ---- jobs: a few calls each, of one kind ----------------------------------------------------- */

static long long operand(size_t index)
{
    return (long long)(index * 0x9e3779b97f4a7c15 >> 8);
}

static void check_sum(size_t index, long long sum)
{
    if (sum != operand(index) + (long long)index)
        note_wrong(index, "a wrong sum");
}

static pycrew_call *prepare(const pycrew_function *function)
{
    pycrew_call *call;
    check(pycrew_prepare(stress.crew, function, lost_ns, &call), "pycrew_prepare");
    return call;
}

static pycrew_call *submit_add(size_t index)
{
    long long number = (long long)index;
    pycrew_call *call = prepare(stress.add);
    check(pycrew_add(call, "LLL", number, operand(index), number), "pycrew_add");
    check(pycrew_submit(call), "pycrew_submit");
    return call;
}

static void finish_add(pycrew_call *call, size_t index)
{
    if (ended_well(call, index)) {
        long long sum;
        check(pycrew_result(call, "L", &sum), "pycrew_result");
        check_sum(index, sum);
    }
    pycrew_release(call);
}

static void do_singles(size_t first, size_t count)
{
    for (size_t index = first; index < first + count; index++)
        finish_add(submit_add(index), index);
}

static void do_pipelined(size_t first, size_t count)
{
    pycrew_call *calls[PIPELINED];
    for (size_t i = 0; i < count; i++)
        calls[i] = submit_add(first + i);
    for (size_t i = 0; i < count; i++)
        finish_add(calls[i], first + i);
}

static void take_record(pycrew_batch *batch, size_t first, size_t count)
{
    int rc = pycrew_batch_next(batch, lost_ns);
    if (rc == -ETIME)
        fail("a record of calls %zu to %zu is lost", first, first + count - 1);
    check(rc, "pycrew_batch_next");
    size_t index = first + pycrew_batch_index(batch);
    if (rc == 0 || index >= first + count)
        fail("calls %zu to %zu: a batch gave back less or more", first, first + count - 1);
    const pycrew_error *error = pycrew_batch_error(batch);
    if (error) {
        note_error(index, error);
        return;
    }
    long long sum;
    note_end(index, END_RETURNED);
    check(pycrew_batch_result(batch, "L", &sum), "pycrew_batch_result");
    check_sum(index, sum);
}

static void do_batch(size_t first, size_t count)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;
    options.unordered = first % 2;
    check(pycrew_batch_open(stress.crew, stress.add, &options, &batch), "pycrew_batch_open");
    for (size_t index = first; index < first + count; index++)
        check(pycrew_batch_add_within(batch, lost_ns, "LLL", (long long)index, operand(index),
                                      (long long)index),
              "pycrew_batch_add_within");
    check(pycrew_batch_end(batch), "pycrew_batch_end");
    for (size_t i = 0; i < count; i++)
        take_record(batch, first, count);
    if (pycrew_batch_next(batch, lost_ns) != 0)
        fail("calls %zu to %zu: a batch gave back more than went in", first, first + count - 1);
    pycrew_batch_close(batch);
}

/* Bytes there and back, of any size: what does not fit into a slot. */
static void do_echoes(size_t first, size_t count)
{
    char data[ECHO_SIZE_MAX];
    for (size_t index = first; index < first + count; index++) {
        const void *result;
        size_t size = (size_t)operand(index) % ECHO_SIZE_MAX, result_size;
        memset(data, (int)(index % 251), size);
        pycrew_call *call = prepare(stress.echo);
        check(pycrew_add(call, "Ly#", (long long)index, data, size), "pycrew_add");
        check(pycrew_submit(call), "pycrew_submit");
        if (ended_well(call, index)) {
            check(pycrew_result(call, "y#", &result, &result_size), "pycrew_result");
            if (result_size != size || memcmp(result, data, size) != 0)
                note_wrong(index, "wrong bytes");
        }
        pycrew_release(call);
    }
}

static const struct job {
    void (*run)(size_t first, size_t count);
    size_t count;
} jobs[] = {
    {do_singles, SINGLES}, {do_pipelined, PIPELINED}, {do_batch, RECORDS}, {do_echoes, ECHOES}};
enum { JOB_COUNT = sizeof jobs / sizeof *jobs };

/* Runs jobs until the calls up to end are made. */
static void *run_jobs(void *end)
{
    size_t limit = *(const size_t *)end;
    static _Atomic uint64_t threads;
    uint64_t random = stress.seed + 0x9e3779b97f4a7c15 * (1 + atomic_fetch_add(&threads, 1));
    for (;;) {
        const struct job *job = &jobs[random_next(&random) % JOB_COUNT];
        size_t first = atomic_fetch_add(&stress.next, job->count);
        if (first >= limit)
            return NULL;
        job->run(first, limit - first < job->count ? limit - first : job->count);
    }
}

/* ---- the killer ------------------------------------------------------------------------------ */

static void kill_some_worker(uint64_t *random)
{
    pid_t workers[WORKERS_MAX];
    size_t count = proc_workers(workers, WORKERS_MAX);
    if (count > 0 && kill(workers[random_next(random) % count], SIGKILL) == 0)
        atomic_fetch_add(&stress.kills, 1);
}

static void *killer(void *data)
{
    (void)data;
    uint64_t random = stress.seed + 77;
    double mean_ns = 1e9 / stress.kill_rate;
    while (!atomic_load(&stress.over)) {
        /* From half to one and a half of the mean: in no step with anything. */
        sleep_ns((int64_t)(mean_ns * (0.5 + (double)(random_next(&random) % 1000) / 1000)));
        kill_some_worker(&random);
    }
    return NULL;
}

/* ---- what it costs --------------------------------------------------------------------------- */

struct cost {
    long rss_kb, segment_kb, workers_kb;
    size_t descriptors, workers;
};

/* Memory of the shared segment: of the files without a name that we have open. */
static long segment_kb(void)
{
    long kb = 0;
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[256];
        struct stat status;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(path, target, sizeof target - 1);
        if (size < 0 || fstat(fd, &status) < 0)
            continue;
        target[size] = '\0';
        if (strncmp(target, "/dev/shm/", 9) == 0 || strncmp(target, "/memfd:", 7) == 0)
            kb += (long)(status.st_blocks / 2);
    }
    return kb;
}

static struct cost get_cost(void)
{
    pid_t workers[WORKERS_MAX];
    struct cost cost = {.rss_kb = proc_number("/proc/self/status", "RssAnon:"),
                        .segment_kb = segment_kb(),
                        .descriptors = proc_descriptors(),
                        .workers = proc_workers(workers, WORKERS_MAX)};
    for (size_t i = 0; i < cost.workers; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/status", (int)workers[i]);
        long kb = proc_number(path, "RssAnon:");
        cost.workers_kb += kb > 0 ? kb : 0;
    }
    return cost;
}

/* Waits until every worker is up again, and the crew's own thread has tidied up after those that
 * are not: as many descriptors as in the beginning, if there was one. */
static struct cost get_quiet_cost(size_t descriptors)
{
    struct cost cost;
    int64_t give_up = now_ns() + 10000000000;
    do {
        sleep_ns(50000000);
        cost = get_cost();
    } while ((cost.workers != stress.workers || (descriptors && cost.descriptors != descriptors)) &&
             now_ns() < give_up);
    return cost;
}

static void print_cost(const char *when, const struct cost *cost)
{
    printf("  %-8s %10ld kB %10ld kB %10ld kB %8zu %8zu\n", when, cost->rss_kb, cost->segment_kb,
           cost->workers_kb, cost->descriptors, cost->workers);
    fflush(stdout);
}

/* ---- the verdict ----------------------------------------------------------------------------- */

struct verdict {
    size_t returned, died, died_before; /* how calls ended */
    size_t lost;                        /* no end */
    size_t ran_twice;                   /* returned, and more than one mark */
    size_t never_ran;                   /* returned, and no mark */
    size_t untrue;                      /* "certainly did not run", and a mark */
    size_t died_marked;                 /* "may have run", and it did */
};

static struct verdict judge(void)
{
    struct verdict verdict = {.lost = 0};
    for (size_t i = 0; i < stress.calls; i++) {
        uint8_t end = stress.ends[i], marks = stress.marks[i];
        verdict.lost += end == END_NONE;
        verdict.returned += end == END_RETURNED;
        verdict.died += end == END_DIED;
        verdict.died_before += end == END_DIED_BEFORE;
        verdict.never_ran += end == END_RETURNED && marks == 0;
        verdict.ran_twice += marks > 1;
        verdict.untrue += end == END_DIED_BEFORE && marks > 0;
        verdict.died_marked += end == END_DIED && marks > 0;
    }
    return verdict;
}

static size_t print_verdict(const struct verdict *verdict, double seconds)
{
    size_t wrong = atomic_load(&stress.wrong), doubled = atomic_load(&stress.doubled);
    printf("\n  %zu calls in %.1f s, %.0f a second; %zu workers killed\n", stress.calls, seconds,
           (double)stress.calls / seconds, (size_t)atomic_load(&stress.kills));
    printf("  returned                 %10zu\n", verdict->returned);
    printf("  died, may have run       %10zu  (%zu of them did)\n", verdict->died,
           verdict->died_marked);
    printf("  died, did not run        %10zu  (%zu of them did: must be 0)\n", verdict->died_before,
           verdict->untrue);
    printf("  must be 0: lost %zu, ended twice %zu, wrong %zu, ran twice %zu, returned without "
           "running %zu\n",
           verdict->lost, doubled, wrong, verdict->ran_twice, verdict->never_ran);
    return verdict->lost + doubled + wrong + verdict->ran_twice + verdict->never_ran +
           verdict->untrue;
}

static size_t fault(const char *what, long before, long after)
{
    printf("  FAULT: %s: %ld became %ld\n", what, before, after);
    return 1;
}

/* Memory between the middle and the end, for the first half may still fill caches; and what must be
 * as it was. */
static size_t print_growth(const struct cost *start, const struct cost *middle,
                           const struct cost *end)
{
    size_t faults = 0;
    if (end->rss_kb - middle->rss_kb > 2048 + middle->rss_kb / 20)
        faults += fault("kB of the host", middle->rss_kb, end->rss_kb);
    if (end->segment_kb - middle->segment_kb > 4096 + middle->segment_kb / 10)
        faults += fault("kB of the segment", middle->segment_kb, end->segment_kb);
    if (end->descriptors != start->descriptors)
        faults += fault("descriptors", (long)start->descriptors, (long)end->descriptors);
    if (end->workers != start->workers)
        faults += fault("workers", (long)start->workers, (long)end->workers);
    return faults;
}

/* ---- the program ----------------------------------------------------------------------------- */

static void remove_marks(void)
{
    unlink(stress.marks_path);
}

static void make_marks(void)
{
    const char *folder = getenv("TMPDIR");
    snprintf(stress.marks_path, sizeof stress.marks_path, "%s/pycrew-stress-XXXXXX",
             folder ? folder : "/tmp");
    int fd = mkostemp(stress.marks_path, O_CLOEXEC);
    if (fd < 0)
        fail("%s: %s", stress.marks_path, strerror(errno));
    atexit(remove_marks);
    if (ftruncate(fd, (off_t)stress.calls) < 0)
        fail("%s: %s", stress.marks_path, strerror(errno));
    stress.marks = mmap(NULL, stress.calls, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (stress.marks == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    /* Populated now, so that it does not look like growth later. END_NONE is 0. */
    stress.ends = mmap(NULL, stress.calls, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (stress.ends == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
}

/* A killed worker is worth no line. */
static void log_line(void *data, int level, const char *line)
{
    (void)data;
    if (level != PYCREW_LOG_WARNING || stress.kill_rate <= 0)
        fprintf(stderr, "%s\n", line);
}

static void open_stress_crew(void)
{
    static char variable[4200];
    snprintf(variable, sizeof variable, "PYCREW_STRESS_MARKS=%s", stress.marks_path);
    const char *path[] = {BENCH_MODULES, NULL}, *env[] = {variable, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.workers = stress.workers;
    options.path = path;
    options.env = env;
    options.log = log_line;
    check(pycrew_open(&stress.crew, &options), "pycrew_open");
    check(pycrew_function_get(stress.crew, "stress_ops:add", &stress.add), "stress_ops:add");
    check(pycrew_function_get(stress.crew, "stress_ops:echo", &stress.echo), "stress_ops:echo");
}

static void run_threads(size_t limit)
{
    pthread_t threads[THREADS_MAX];
    for (unsigned i = 0; i < stress.threads; i++)
        if (pthread_create(&threads[i], NULL, run_jobs, &limit))
            fail("no thread");
    for (unsigned i = 0; i < stress.threads; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&stress.next, limit);
}

static int run(void)
{
    pthread_t killer_thread;
    printf("%zu calls, %u threads, %u workers, %g kills a second, seed %llu\n\n", stress.calls,
           stress.threads, stress.workers, stress.kill_rate, (unsigned long long)stress.seed);
    printf("  %-8s %13s %13s %13s %8s %8s\n", "", "host", "segment", "workers", "fds", "workers");
    struct cost start = get_quiet_cost(0), middle, end;
    print_cost("start", &start);
    int64_t begin = now_ns();
    if (stress.kill_rate > 0 && pthread_create(&killer_thread, NULL, killer, NULL))
        fail("no thread");
    run_threads(stress.calls / 2);
    middle = get_cost();
    print_cost("middle", &middle);
    run_threads(stress.calls);
    double seconds = (double)(now_ns() - begin) / 1e9;
    atomic_store(&stress.over, true);
    if (stress.kill_rate > 0)
        pthread_join(killer_thread, NULL);
    end = get_quiet_cost(start.descriptors);
    print_cost("end", &end);
    struct verdict verdict = judge();
    size_t faults = print_verdict(&verdict, seconds) + print_growth(&start, &middle, &end);
    printf("\n%s\n", faults ? "NOT as it must be" : "all as it must be");
    return faults > 0;
}

static unsigned long number(const char *text, unsigned long max)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || value < 1 || value > max)
        fail("not a number from 1 to %lu: '%s'", max, text);
    return value;
}

static int usage(bool asked)
{
    fputs("usage: pycrew-stress [options]\n"
          "  -n, --calls N      calls (10,000,000)\n"
          "  -t, --threads N    threads that make them (8)\n"
          "  -w, --workers N    workers that run them (4)\n"
          "  -k, --kill RATE    workers to kill with SIGKILL each second, at random (0)\n"
          "  -s, --seed N       of the random mix (1)\n",
          asked ? stdout : stderr);
    return asked ? 0 : 2;
}

int main(int argc, char **argv)
{
    static const struct option table[] = {{"calls", required_argument, NULL, 'n'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"workers", required_argument, NULL, 'w'},
                                          {"kill", required_argument, NULL, 'k'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(argc, argv, "n:t:w:k:s:h", table, NULL)) != -1;) {
        if (option == 'n')
            stress.calls = number(optarg, 1UL << 32);
        else if (option == 't')
            stress.threads = (unsigned)number(optarg, THREADS_MAX);
        else if (option == 'w')
            stress.workers = (unsigned)number(optarg, WORKERS_MAX);
        else if (option == 'k')
            stress.kill_rate = strtod(optarg, NULL);
        else if (option == 's')
            stress.seed = number(optarg, UINT32_MAX);
        else
            return usage(option == 'h');
    }
    make_marks();
    open_stress_crew();
    int rc = run();
    pycrew_close(stress.crew);
    munmap(stress.marks, stress.calls);
    munmap(stress.ends, stress.calls);
    return rc;
}
