/* Looks whether all get on, and whether anything grows or stays behind. */
#define _GNU_SOURCE
#include "tests/soak/soak.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/crew.h" /* for what hangs: the words of its slot; nothing of it is called */

#define QUIET_NS (30 * SECOND)
#define BEAT_NS                                                                                    \
    (2 * LOST_NS) /* each wait is bounded by one: who comes back later hangs in pycrew */

enum { BEATS = THREADS_MAX + 8, ALLOWED_KB = 4096, HELD_ALLOWED_KB = 16 * 1024 };

/* ---- beats ----------------------------------------------------------------------------------- */

static _Atomic int64_t beats[BEATS]; /* 0: nobody's, or at rest */
static _Thread_local _Atomic int64_t *own_beat;

void watch_beat(void)
{
    int64_t now = now_ns();
    for (int i = 0; !own_beat && i < BEATS; i++) {
        int64_t nobody = 0;
        if (atomic_compare_exchange_strong(&beats[i], &nobody, now))
            own_beat = &beats[i];
    }
    if (!own_beat)
        fail("more threads than are watched");
    atomic_store_explicit(own_beat, now, memory_order_relaxed);
}

void watch_rest(void)
{
    if (own_beat)
        atomic_store(own_beat, 0);
    own_beat = NULL;
}

/* ---- what hangs ------------------------------------------------------------------------------ */

static void print_word(const pycrew_call *call)
{
    uint64_t word = atomic_load(&call->slot->control);
    fprintf(stderr,
            "  slot %u: generation %u, phase %u, word %016" PRIx64
            " (generation %u, state %d, worker %u), "
            "ticket %u, entered %u, stop %u, deaths %u running, %u claimed, held %d, released %d, "
            "chunk %d\n",
            call->index, atomic_load(&call->generation), atomic_load(&call->phase), word,
            pc_word_generation(word), (int)pc_word_state(word), pc_word_worker(word),
            atomic_load(&call->ticket), atomic_load(&call->slot->entered), atomic_load(&call->stop),
            atomic_load(&call->deaths_running), atomic_load(&call->deaths_claimed),
            atomic_load(&call->held), atomic_load(&call->released),
            atomic_load(&call->chunk_in_use));
}

static void print_words(void)
{
    const pycrew_crew *crew = soak.crew;
    fprintf(stderr,
            "calls that are submitted and have not ended (ring: head %u, tail %" PRIx64 "):\n",
            (unsigned)atomic_load(&crew->segment.header->ring_head), atomic_load(&crew->tail));
    for (uint32_t i = 0, shown = 0; i < crew->segment.config.slots && shown < 100; i++) {
        uint32_t phase = atomic_load(&crew->calls[i].phase);
        if (phase != PC_PHASE_IN_FLIGHT && phase != PC_PHASE_COLLECTING)
            continue;
        print_word(&crew->calls[i]);
        shown++;
    }
}

static void print_stats(void)
{
    static pycrew_worker_stats workers[WORKERS_MAX];
    pycrew_stats stats = PYCREW_STATS_INIT;
    stats.worker = workers;
    stats.worker_max = WORKERS_MAX;
    if (pycrew_stats_get(soak.crew, &stats) < 0)
        return;
    fprintf(stderr,
            "workers %u: alive %u, busy %u, starting %u, backing off %u; in flight %u, queued %u, "
            "the oldest for %lld ms; memory %zu of %zu; deaths %llu\n",
            stats.workers, stats.alive, stats.busy, stats.starting, stats.backing_off,
            stats.in_flight, stats.queued, (long long)(stats.oldest_ns / MS), stats.memory_used,
            stats.memory_max, (unsigned long long)stats.deaths);
    for (unsigned i = 0; i < stats.workers && i < WORKERS_MAX; i++)
        fprintf(stderr, "  worker %u: PID %d, state %d, %u deaths, %llu calls\n", i, workers[i].pid,
                workers[i].state, workers[i].deaths, (unsigned long long)workers[i].calls);
}

void hung(size_t index, const pycrew_call *call, const char *what)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&told))
        pause(); /* who came first ends all */
    ledger_fault(FAULT_HUNG, index, "%s did not end in time (seed %llu)", what,
                 (unsigned long long)soak.seed);
    if (call)
        print_word(call);
    print_words(); /* before anything that could hang as well */
    print_stats();
    fflush(NULL);
    _exit(1);
}

static struct {
    pthread_t thread;
    _Atomic bool over;
} watch;

static void *run_watch(void *unused)
{
    (void)unused;
    while (!atomic_load(&watch.over)) {
        sleep_ns(100 * MS);
        int64_t now = now_ns();
        for (int i = 0; i < BEATS; i++) {
            int64_t beat = atomic_load(&beats[i]);
            if (beat != 0 && now - beat > BEAT_NS)
                hung(SIZE_MAX, NULL, "a thread in a function that should not wait so long");
        }
    }
    return NULL;
}

void watch_start(void)
{
    if (pthread_create(&watch.thread, NULL, run_watch, NULL))
        fail("no thread");
}

void watch_stop(void)
{
    atomic_store(&watch.over, true);
    pthread_join(watch.thread, NULL);
}

/* ---- what it costs --------------------------------------------------------------------------- */

/* Memory of the shared segment and the fault file: of the files without a name that we have open.
 */
static long segment_kb(void)
{
    long kb = 0;
    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[256];
        struct stat status;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(path, target, sizeof target - 1);
        /* By the name: to TSan an fstat() of what another thread closes is a race, and here it is
         * none. */
        if (size < 0 || fd == soak_ledger.fd || stat(path, &status) < 0)
            continue;
        target[size] = '\0';
        if (strncmp(target, "/dev/shm/", 9) == 0 || strncmp(target, "/memfd:", 7) == 0)
            kb += (long)(status.st_blocks / 2);
    }
    return kb;
}

static size_t count_entries(const char *path, const char *prefix)
{
    size_t count = 0;
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        count += entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    if (folder)
        closedir(folder);
    return count;
}

static look take_look(void)
{
    pid_t workers[WORKERS_MAX];
    pycrew_stats stats = PYCREW_STATS_INIT;
    check(pycrew_stats_get(soak.crew, &stats), "pycrew_stats_get");
    return (look){.rss_kb = proc_number("/proc/self/status", "RssAnon:"),
                  .segment_kb = segment_kb(),
                  .used_kb = (long)(stats.memory_used / 1024),
                  .descriptors = proc_descriptors(),
                  .threads = count_entries("/proc/self/task", ""),
                  .workers = proc_workers(workers, WORKERS_MAX)};
}

static bool is_quiet(void)
{
    pid_t workers[WORKERS_MAX];
    pycrew_stats stats = PYCREW_STATS_INIT;
    check(pycrew_stats_get(soak.crew, &stats), "pycrew_stats_get");
    return stats.in_flight == 0 && stats.alive == soak.workers &&
           proc_workers(workers, WORKERS_MAX) == soak.workers;
}

/* Quiet for a while: a worker that was interrupted leaves when its call has ended. */
look look_when_quiet(void)
{
    int64_t until = now_ns() + QUIET_NS;
    for (int quiet = 0; quiet < 5; quiet = is_quiet() ? quiet + 1 : 0) {
        if (now_ns() > until)
            hung(SIZE_MAX, NULL, "all calls, or the start of all workers");
        sleep_ns(20 * MS);
    }
    return take_look();
}

void look_print(const look *l, double seconds)
{
    pycrew_stats stats = PYCREW_STATS_INIT;
    check(pycrew_stats_get(soak.crew, &stats), "pycrew_stats_get");
    printf("  %6.0f %11zu %8llu %8llu %8llu %9ld %9ld %9ld %5zu %7zu %7zu %6llu\n", seconds,
           (size_t)atomic_load(&soak.next), (unsigned long long)atomic_load(&soak.killed),
           (unsigned long long)atomic_load(&soak.zygotes_killed), (unsigned long long)stats.deaths,
           l->rss_kb, l->segment_kb, l->used_kb, l->descriptors, l->threads, l->workers,
           (unsigned long long)ledger_faults());
    fflush(stdout);
}

static void compare(const char *what, long before, long after, long allowed)
{
    if (after > before + allowed)
        ledger_fault(FAULT_LEAKED, SIZE_MAX, "%s: %ld became %ld", what, before, after);
}

/* TSan has a thread of its own once another was made. */
#ifdef __SANITIZE_THREAD__
#define SANITIZERS_THREADS 1
#else
#define SANITIZERS_THREADS 0
#endif

/* The sanitizers' own memory, as of what was freed lately, grows for long. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HOST_ALLOWED_KB (1L << 30)
#else
#define HOST_ALLOWED_KB ALLOWED_KB
#endif

/* Memory may keep some spans and free lists more than before; what is counted may not. */
void look_compare(const look *before, const look *after)
{
    compare("kB of the host", before->rss_kb, after->rss_kb, HOST_ALLOWED_KB + before->rss_kb / 10);
    compare("kB of the segment", before->segment_kb, after->segment_kb,
            4 * ALLOWED_KB + before->segment_kb / 4);
    compare("kB in use of the segment", before->used_kb, after->used_kb,
            4 * ALLOWED_KB + before->used_kb / 4);
    compare("descriptors", (long)before->descriptors, (long)after->descriptors, 0);
    compare("threads", (long)before->threads, (long)after->threads, 0);
    compare("workers", (long)before->workers, (long)after->workers, 0);
}

/* With the workers dead, and nothing asked of the new ones, what is in use is the host's: no call,
 * no taken array, no memory of pycrew_alloc is left, nor anybody's view; but some empty spans are,
 * one of each size. */
void look_at_what_is_held(const look *fresh)
{
    look now = look_when_quiet();
    printf("\n  kB in use when all is given back: %ld (at the start: %ld)\n", now.used_kb,
           fresh->used_kb);
    compare("kB in use when all is given back", fresh->used_kb, now.used_kb, HELD_ALLOWED_KB);
}

/* ---- what is left ---------------------------------------------------------------------------- */

/* Processes that were given our ledger, whatever their parent is by now. */
static size_t count_marked(void)
{
    static char text[1 << 20];
    char mark[64];
    size_t count = 0;
    DIR *folder = opendir("/proc");
    int length = snprintf(mark, sizeof mark, "PYCREW_SOAK_LEDGER=/proc/%d/", (int)getpid());
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%.20s/environ", entry->d_name);
        FILE *file = isdigit((unsigned char)entry->d_name[0]) ? fopen(path, "re") : NULL;
        if (!file)
            continue;
        count += memmem(text, fread(text, 1, sizeof text, file), mark, (size_t)length) != NULL;
        fclose(file);
    }
    if (folder)
        closedir(folder);
    return count;
}

void look_after_close(size_t descriptors, size_t threads)
{
    char names[64], line[512];
    snprintf(names, sizeof names, "pycrew.%d.", (int)getpid());
    for (int64_t until = now_ns() + 5 * SECOND; count_marked() > 0 && now_ns() < until;)
        sleep_ns(20 * MS);
    compare("processes after close", 0, (long)count_marked(), 0);
    if (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD)
        ledger_fault(FAULT_LEAKED, SIZE_MAX, "a child is left");
    compare("descriptors after close", (long)descriptors, (long)proc_descriptors(), 0);
    compare("threads after close", (long)threads, (long)count_entries("/proc/self/task", ""),
            SANITIZERS_THREADS);
    compare("names in /dev/shm", 0, (long)count_entries("/dev/shm", names), 0);
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps))
        if (strstr(line, "/dev/shm/pycrew") || strstr(line, "memfd:pycrew"))
            ledger_fault(FAULT_LEAKED, SIZE_MAX, "a mapping is left: %s", line);
    if (maps)
        fclose(maps);
}
