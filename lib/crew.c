/* crew: opening, draining, closing. */
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/array.h"
#include "lib/crew.h"
#include "lib/export.h"
#include "lib/shm/budget.h"
#include "lib/trace.h"

enum {
    CALLS_DEFAULT = 4096,
    CALLS_MAX = 1 << 19, /* twice as many slots, in the ring's 20 bits */
    QUEUES_DEFAULT = 64,
    QUEUES_MAX = 4096,
    EXPORT_THREADS_MAX = 256,
    HEAP_KEEP = 8, /* empty spans, MiB, at most; */
    HEAP_KEEP_SHARE = 32, /* and of all, one in so many: small memory is needed for results */
    HEAP_KEEP_RUNS = 16, /* freed blocks of more than 1 MiB, for 100 ms to 200 ms */
    SPIN_NS = 100 * 1000 /* about what it takes to wake a sleeper: less and both sides fall asleep in turn */
};

#define MEMORY_MIN ((size_t)8 << 20)
#define SHM_MIN ((uint64_t)256 << 20) /* with less in /dev/shm a memfd is the better choice */
#define MEMORY_MAX ((size_t)1 << 42)
#define START_TIMEOUT_NS ((int64_t)60 * 1000 * 1000 * 1000)
#define GRACE_NS ((int64_t)100 * 1000 * 1000)
#define GRACE_MAX_NS (INT64_MAX / 2) /* added to the time of day, it must not overflow */

/* ---- options ---- */

/* A caller of another version: its options may be shorter than ours, or longer if the rest is 0. */
static int read_options(const pycrew_options *given, pycrew_options *ret)
{
    const unsigned char *bytes = (const unsigned char *)given;

    *ret = (pycrew_options)PYCREW_OPTIONS_INIT;
    if (given == NULL)
        return 0;
    /* Whole fields only: a size between them would cut a pointer in half. */
    if (given->size < offsetof(pycrew_options, python) || given->size % _Alignof(pycrew_options) != 0)
        return pc_fail(-EINVAL, "options.size is %zu: start from PYCREW_OPTIONS_INIT", given->size);
    for (size_t i = sizeof *ret; i < given->size; i++)
        if (bytes[i] != 0)
            return pc_fail(-EINVAL, "options has a field, at byte %zu, that this version (%s) does "
                           "not know: the program was compiled with a newer pycrew.h", i, pycrew_version());
    memcpy(ret, given, given->size < sizeof *ret ? given->size : sizeof *ret);
    return 0;
}

static int check_hook(const char *what, const char *name)
{
    if (name == NULL || pc_function_check_name(name) == 0)
        return 0;
    return pc_fail(-EINVAL, "options.%s: %s", what, pycrew_last_error()->message);
}

static int check_loop(const char *name)
{
    if (name == NULL || strcmp(name, "asyncio") == 0 || strcmp(name, "uvloop") == 0)
        return 0;
    return check_hook("loop", name);
}

/* PYCREW_FOREVER, where it means something, is the only negative time. */
static int check_times(const pycrew_options *o)
{
    if (o->start_timeout_ns < PYCREW_FOREVER)
        return pc_fail(-EINVAL, "options.start_timeout_ns is %lld; 0, PYCREW_FOREVER or more",
                       (long long)o->start_timeout_ns);
    if (o->timeout_ns < PYCREW_FOREVER)
        return pc_fail(-EINVAL, "options.timeout_ns is %lld; 0, PYCREW_FOREVER or more",
                       (long long)o->timeout_ns);
    if (o->grace_ns < 0)
        return pc_fail(-EINVAL, "options.grace_ns is %lld; 0 or more", (long long)o->grace_ns);
    return 0;
}

/* A name without a slash is looked for in PATH, as a shell does. malloc'ed, or NULL with errno. */
static char *find_program(const char *name)
{
    const char *at = getenv("PATH");
    char *path = NULL;

    if (strchr(name, '/') != NULL)
        return access(name, X_OK) == 0 ? strdup(name) : NULL;
    for (; at != NULL && *at != '\0'; at += *at == ':') {
        int size = (int)(strchrnul(at, ':') - at);

        if (size > 0 && asprintf(&path, "%.*s/%s", size, at, name) < 0)
            return NULL;
        if (size > 0 && access(path, X_OK) == 0)
            return path;
        if (size > 0)
            free(path);
        at += size;
    }
    errno = ENOENT;
    return NULL;
}

static int check_python(const char *name)
{
    char *path;

    if (name == NULL)
        return 0;
    if (*name == '\0')
        return pc_fail(-EINVAL, "options.python is an empty string: a program's name or path, or NULL");
    path = find_program(name);
    if (path == NULL)
        return pc_fail(errno == ENOMEM ? -ENOMEM : PYCREW_ESTART, "options.python is %s: %s", name, pycrew_strerror(-errno));
    free(path);
    return 0;
}

static int check_options(const pycrew_options *o)
{
    int rc;

    if (o->workers > PC_WORKERS_MAX)
        return pc_fail(-EINVAL, "options.workers is %u; at most %d", o->workers, PC_WORKERS_MAX);
    if (o->calls > CALLS_MAX)
        return pc_fail(-EINVAL, "options.calls is %u; at most %d", o->calls, CALLS_MAX);
    if (o->queues > QUEUES_MAX)
        return pc_fail(-EINVAL, "options.queues is %u; at most %d", o->queues, QUEUES_MAX);
    if (o->export_threads > EXPORT_THREADS_MAX)
        return pc_fail(-EINVAL, "options.export_threads is %u; at most %d", o->export_threads,
                       EXPORT_THREADS_MAX);
    if (o->memory != 0 && (o->memory < MEMORY_MIN || o->memory > MEMORY_MAX))
        return pc_fail(-EINVAL, "options.memory is %zu bytes; at least %zu, at most %zu", o->memory,
                       MEMORY_MIN, MEMORY_MAX);
    if (o->output < PYCREW_LOG || o->output > PYCREW_DISCARD)
        return pc_fail(-EINVAL, "options.output is %d; PYCREW_LOG, PYCREW_INHERIT or PYCREW_DISCARD", o->output);
    if ((rc = check_times(o)) < 0 || (rc = check_python(o->python)) < 0)
        return rc;
    if (o->trace != NULL && *o->trace == '\0')
        return pc_fail(-EINVAL, "options.trace is an empty string: a file's path, or NULL");
    if (o->inflight > CALLS_MAX)
        return pc_fail(-EINVAL, "options.inflight is %u; at most %d", o->inflight, CALLS_MAX);
    if ((rc = pc_engine_check(o)) < 0)
        return rc;
    if (check_loop(o->loop) < 0 || check_hook("init", o->init) < 0 || check_hook("exit", o->exit) < 0)
        return -EINVAL;
    if ((rc = pc_limits_check(o)) < 0)
        return rc;
    for (const char *const *at = o->env; at != NULL && *at != NULL; at++)
        if (**at == '\0' || **at == '=')
            return pc_fail(-EINVAL, "options.env has \"%s\": the form is NAME=value, or NAME", *at);
    return 0;
}

static void free_list(char **list)
{
    for (char **at = list; at != NULL && *at != NULL; at++)
        free(*at);
    free(list);
}

static char **copy_list(const char *const *list)
{
    size_t count = 0;
    char **copy;

    while (list != NULL && list[count] != NULL)
        count++;
    copy = calloc(count + 1, sizeof *copy);
    for (size_t i = 0; copy != NULL && i < count; i++)
        if ((copy[i] = strdup(list[i])) == NULL) { /* cut short it would be another list */
            free_list(copy);
            return NULL;
        }
    return copy;
}

static bool copy_text(const char *text, char **ret)
{
    return text == NULL || (*ret = strdup(text)) != NULL;
}

static int copy_options(pycrew_crew *crew, const pycrew_options *o)
{
    if (o->python != NULL && (crew->python = find_program(o->python)) == NULL)
        return pc_fail(errno == ENOMEM ? -ENOMEM : PYCREW_ESTART, "options.python is %s: %s", o->python,
                       pycrew_strerror(-errno));
    if (copy_text(o->init, &crew->init) && copy_text(o->exit, &crew->exit) &&
        copy_text(o->loop, &crew->loop) && copy_text(o->engine, &crew->engine) &&
        copy_text(o->engine_options, &crew->engine_options) &&
        (crew->path = copy_list(o->path)) != NULL && (crew->env = copy_list(o->env)) != NULL &&
        (crew->preload = copy_list(o->preload)) != NULL)
        return 0;
    return pc_fail(-ENOMEM, "no memory is left");
}

static unsigned usable_cpus(const pycrew_crew *crew)
{
    unsigned cpus = pc_budget_cpus();

    return crew->cpu_count != 0 && crew->cpu_count < cpus ? crew->cpu_count : cpus;
}

static int take_options(pycrew_crew *crew, const pycrew_options *o)
{
    int rc = pc_limits_take(crew, o);

    if (rc < 0)
        return rc;
    crew->workers = o->workers != 0 ? o->workers : o->debug ? 1 : usable_cpus(crew);
    if (o->engine != NULL)
        crew->workers = 1; /* the bridge */
    if (o->engine != NULL) /* what it imports and keeps is little, and its successor would connect beside it */
        crew->max_calls_per_worker = crew->max_worker_rss = 0;
    crew->timeout_ns = o->timeout_ns > 0 && !o->debug ? pc_timeout(o->timeout_ns) : PYCREW_FOREVER;
    crew->grace_ns = o->grace_ns > 0 ? o->grace_ns : GRACE_NS;
    if (crew->grace_ns > GRACE_MAX_NS)
        crew->grace_ns = GRACE_MAX_NS;
    crew->start_timeout_ns = o->debug                   ? PYCREW_FOREVER
                             : o->start_timeout_ns != 0 ? o->start_timeout_ns
                                                        : START_TIMEOUT_NS;
    crew->retries = o->retries;
    crew->call_limit = o->calls != 0 ? o->calls : CALLS_DEFAULT;
    crew->queue_limit = o->queues != 0 ? o->queues : QUEUES_DEFAULT;
    crew->export_threads = o->export_threads != 0 ? o->export_threads : 1;
    crew->output = o->debug ? PYCREW_INHERIT : o->output;
    crew->log = o->log;
    crew->log_data = o->log_data;
    crew->inflight = o->inflight;
    return copy_options(crew, o);
}

static void free_options(pycrew_crew *crew)
{
    free(crew->python);
    free(crew->init);
    free(crew->exit);
    free(crew->loop);
    free(crew->engine);
    free(crew->engine_options);
    free_list(crew->path);
    free_list(crew->env);
    free_list(crew->preload);
    pc_limits_free(crew);
}

/* ---- memory ---- */

/* The cap, and whether /dev/shm can hold it. */
static size_t memory_cap(const pycrew_crew *crew, size_t asked, bool *prefer_memfd)
{
    struct statvfs status;
    uint64_t shm = 0, free_bytes = pc_budget_free();
    uint64_t cap = asked;
    struct rlimit limit;

    if (statvfs("/dev/shm", &status) == 0)
        shm = (uint64_t)status.f_bavail * status.f_frsize;
    if (asked == 0) {
        cap = free_bytes / 2;
        if (shm / 2 >= SHM_MIN && shm / 2 < cap)
            cap = shm / 2;
        /* All of it is mapped, by the workers too, which need room for Python. */
        if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur / 4 < cap)
            cap = limit.rlim_cur / 4;
        if (crew->limits[PC_LIMIT_MEMORY] > 0 && (uint64_t)crew->limits[PC_LIMIT_MEMORY] / 4 < cap)
            cap = (uint64_t)crew->limits[PC_LIMIT_MEMORY] / 4;
        if (cap < MEMORY_MIN)
            cap = MEMORY_MIN;
        if (cap > MEMORY_MAX)
            cap = MEMORY_MAX;
    }
    *prefer_memfd = shm < cap;
    return (size_t)cap;
}

static uint32_t power_of_two(uint32_t at_least)
{
    uint32_t power = 64;

    while (power < at_least)
        power *= 2;
    return power;
}

static int create_segment(pycrew_crew *crew, size_t memory)
{
    pc_config config = {.slots = power_of_two(2 * crew->call_limit),
                        .workers = crew->workers,
                        .queues = crew->queue_limit + 1,
                        .cpus = usable_cpus(crew),
                        .host_pid = (uint32_t)getpid(),
                        .spin_ns = SPIN_NS,
                        .trace = pc_trace_ring_size(crew)};
    bool prefer_memfd;
    size_t cap = memory_cap(crew, memory, &prefer_memfd), fixed;
    int rc;

    fixed = pc_segment_fixed_size(&config);
    config.spans = 4;
    if (cap > fixed + 4 * PC_SPAN_SIZE)
        config.spans = (uint32_t)((cap - fixed) / PC_SPAN_SIZE);
    else if (memory != 0)
        return pc_fail(-EINVAL, "options.memory is %zu bytes; %u calls and %u workers need %zu",
                       memory, crew->call_limit, crew->workers, fixed + 4 * PC_SPAN_SIZE);
    pc_segment_remove_leftovers();
    rc = pc_segment_create(&crew->segment, &config, prefer_memfd);
    if (rc == -EFBIG)
        return pc_fail(rc, "no shared memory for the crew: %zu bytes (options.memory) are more than a file of this "
                       "process may have (RLIMIT_FSIZE, ulimit -f)", cap);
    if (rc < 0)
        return pc_fail(rc, "no shared memory for the crew: %s (pycrew doctor tells more)", pycrew_strerror(rc));
    pc_ring_reset(&crew->segment, pc_ring_first_ticket(&crew->segment));
    atomic_store(&crew->tail, pc_ring_first_ticket(&crew->segment));
    rc = pc_heap_init(&crew->heap, &crew->segment, PC_OWNER_HOST,
                      config.spans / HEAP_KEEP_SHARE < HEAP_KEEP ? config.spans / HEAP_KEEP_SHARE
                                                                 : HEAP_KEEP);
    crew->heap.keep_runs = HEAP_KEEP_RUNS;
    return rc < 0 ? pc_fail(rc, "no memory is left") : 0;
}

/* ---- descriptors ---- */

/* Of the numbers below the limit, how many are in use; 0 where that cannot be seen. */
static unsigned count_descriptors(unsigned limit)
{
    DIR *directory = opendir("/proc/thread-self/fd");
    struct dirent *entry;
    unsigned count = 0;

    while (directory != NULL && (entry = readdir(directory)) != NULL)
        if (entry->d_name[0] != '.' && strtoul(entry->d_name, NULL, 10) < limit)
            count++;
    if (directory == NULL)
        return errno == EMFILE ? limit : 0;
    closedir(directory);
    return count - 1; /* the directory's own */
}

/* Workers start in the background, where running out of descriptors would be nobody's error. */
static int check_descriptors(const pycrew_crew *crew)
{
    unsigned needed = PC_CREW_FDS + PC_WORKER_FDS * crew->workers, open;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= UINT32_MAX)
        return 0;
    open = count_descriptors((unsigned)limit.rlim_cur);
    if (open + needed <= limit.rlim_cur)
        return 0;
    return pc_fail(-EMFILE, "a crew of %u workers needs %u descriptors, and one for each open queue; "
                   "of the %u that this process may have (RLIMIT_NOFILE, ulimit -n) %u are open",
                   crew->workers, needed, (unsigned)limit.rlim_cur, open);
}

/* ---- records ---- */

static int make_calls(pycrew_crew *crew)
{
    uint32_t slots = crew->segment.config.slots;

    crew->calls = calloc(slots, sizeof crew->calls[0]);
    crew->deadlines = calloc(slots + 1, sizeof crew->deadlines[0]);
    crew->commands = calloc(slots, sizeof crew->commands[0]);
    crew->orphan_leases = calloc(crew->segment.config.spans, sizeof crew->orphan_leases[0]);
    crew->span_views = calloc(crew->segment.config.spans, sizeof crew->span_views[0]);
    if (crew->calls == NULL || crew->deadlines == NULL || crew->commands == NULL ||
        crew->span_views == NULL || crew->orphan_leases == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    for (uint32_t i = slots; i-- > 0;) {
        pycrew_call *call = &crew->calls[i];

        call->crew = crew;
        call->builder.takes_arrays = true;
        call->slot = &crew->segment.slots[i];
        call->index = i;
        call->deadline = INT64_MAX;
        atomic_store(&call->generation, 1);
        pc_sleeper_init(&call->slot->semaphore);
        if (i < crew->call_limit) {
            call->next = (uint32_t)atomic_load(&crew->free_calls);
            atomic_store(&crew->free_calls, i + 1);
        } else {
            call->next = crew->spare_calls;
            crew->spare_calls = i + 1;
        }
    }
    return 0;
}

static int make_workers(pycrew_crew *crew)
{
    crew->crew_workers = calloc(2 * (size_t)crew->workers, sizeof crew->crew_workers[0]);
    if (crew->crew_workers == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    crew->processes = 2 * crew->workers;
    for (unsigned i = 0; i < crew->processes; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        pthread_mutex_init(&w->lock, NULL);
        w->zygote = crew->zygote;
        w->fault_part = i;
        w->pidfd = w->lifeline = w->open_lifeline = w->output = -1;
    }
    return 0;
}

/* A page that reads 0 in any fork of this process, by whatever system call. */
static int make_fork_guard(pycrew_crew *crew)
{
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return pc_fail(-ENOMEM, "no memory is left");
    madvise(page, 4096, MADV_WIPEONFORK);
    page[0] = 1;
    crew->fork_guard = page;
    return 0;
}

static pycrew_crew *new_crew(void)
{
    pycrew_crew *crew = aligned_alloc(PC_CACHE_LINE, sizeof *crew);
    pthread_condattr_t attributes;

    if (crew == NULL)
        return NULL;
    memset(crew, 0, sizeof *crew);
    crew->segment.fd = crew->fault_fd = -1;
    for (unsigned i = 0; i < PC_ZYGOTES; i++)
        crew->zygotes[i].pidfd = crew->zygotes[i].control = crew->zygotes[i].output = -1;
    crew->zygote = &crew->zygotes[0];
    crew->oom_kills = pc_oom_kills();
    crew->next_give_back = INT64_MAX;
    pthread_mutex_init(&crew->lock, NULL);
    pthread_mutex_init(&crew->heap_lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&crew->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    return crew;
}

/* ---- open ---- */

static int build(pycrew_crew *crew, const pycrew_options *options)
{
    int rc;

    if ((rc = take_options(crew, options)) < 0 || (rc = pc_trace_open(crew, options->trace)) < 0 ||
        (rc = check_descriptors(crew)) < 0 || (rc = make_fork_guard(crew)) < 0 || (rc = create_segment(crew, options->memory)) < 0 ||
        (rc = make_calls(crew)) < 0 || (rc = make_workers(crew)) < 0 ||
        (rc = pc_arrays_init(crew)) < 0 ||
        (rc = pc_queues_init(crew)) < 0 || (rc = pc_trace_start(crew)) < 0)
        return rc;
    return pc_supervisor_start(crew);
}

static int await_first_worker(pycrew_crew *crew)
{
    int64_t until = pc_until(crew->start_timeout_ns);
    struct timespec time = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    int code, timed_out = 0;

    pthread_mutex_lock(&crew->lock);
    while (crew->ready_code == 0 && timed_out == 0)
        timed_out = until == INT64_MAX
                        ? pthread_cond_wait(&crew->changed, &crew->lock)
                        : pthread_cond_timedwait(&crew->changed, &crew->lock, &time);
    code = crew->ready_code;
    pthread_mutex_unlock(&crew->lock);
    if (code == 0)
        return pc_fail(-ETIMEDOUT, "no worker was ready within %.3g s (options.start_timeout_ns): what is imported or run at the "
                       "start may need longer",
                       (double)crew->start_timeout_ns / 1e9);
    return code < 0 ? pc_fail_error(&crew->start_error.public) : 0;
}

/* Closing must not lose why opening failed. */
static void close_keeping_error(pycrew_crew *crew)
{
    pc_error kept = {0};
    const pycrew_error *last = pycrew_last_error();

    pc_error_set(&kept, last->code, pc_text_of(last->function), pc_text_of(last->type),
                 pc_text_of(last->message), pc_text_of(last->traceback));
    pycrew_close(crew);
    pc_fail_error(&kept.public);
    pc_error_clear(&kept);
}

int pycrew_open(pycrew_crew **ret, const pycrew_options *options)
{
    pycrew_options all;
    pycrew_crew *crew;
    int rc;

    if (ret == NULL)
        return pc_fail(-EINVAL, "pycrew_open: ret must not be NULL");
    if ((rc = read_options(options, &all)) < 0)
        return rc;
    pc_engine_from_environment(&all);
    if ((rc = check_options(&all)) < 0)
        return rc;
    crew = new_crew();
    if (crew == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    rc = build(crew, &all);
    if (rc == 0)
        rc = await_first_worker(crew);
    if (rc < 0) {
        close_keeping_error(crew);
        return rc;
    }
    *ret = crew;
    return 0;
}

int pc_crew_refuse(const pycrew_crew *crew)
{
    if (atomic_load(&crew->lost))
        return pc_fail(PYCREW_ESTART, PC_LOST_TEXT);
    return pc_fail(-ESHUTDOWN, "the crew takes no new calls: pycrew_drain or pycrew_close was called");
}

/* The supervisor sleeps on descriptors that this process has closed, and hears nothing through
 * numbers, but poll() still holds what they were: the zygote's death wakes it, and without
 * descriptors the zygote is of no more use. */
static void wake_by_zygote(const pycrew_crew *crew)
{
    for (unsigned i = 0; i < PC_ZYGOTES; i++) {
        int pidfd = pc_pidfd_of(crew->zygotes[i].pid, crew->zygotes[i].start_time);

        if (pidfd < 0)
            continue;
        syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
        close(pidfd);
    }
}

void pc_crew_kick(pycrew_crew *crew)
{
    if (!pc_queue_write(&crew->queues[PC_QUEUE_SUPERVISOR]))
        wake_by_zygote(crew);
}

void pc_crew_forget_descriptors(pycrew_crew *crew)
{
    for (unsigned i = 0; crew->crew_workers != NULL && i < crew->processes; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        w->pidfd = w->lifeline = w->open_lifeline = w->output = -1;
    }
    for (unsigned i = 0; i < PC_ZYGOTES; i++)
        crew->zygotes[i].pidfd = crew->zygotes[i].control = crew->zygotes[i].output = -1;
    crew->fault_fd = crew->segment.fd = -1;
    crew->queues[PC_QUEUE_SUPERVISOR].fd = -1;
}

/* ---- drain and close ---- */

static bool any_in_flight(pycrew_crew *crew)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];

        if (atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_IN_FLIGHT &&
            !pc_call_has_ended(call))
            return true;
    }
    return false;
}

static void sleep_ns(long ns)
{
    struct timespec time = {.tv_nsec = ns};

    nanosleep(&time, NULL);
}

/* D: the other half of the fence in submit, which has none of its own to pay for. Where the kernel
 * has no such call, a submit in the middle of its last nanoseconds may be missed. */
static void fence_all_threads(void)
{
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

/* Ends are announced to those who wait for them, not here; so this looks, ever less often. */
static int drain(pycrew_crew *crew, int64_t until)
{
    long pause_ns = 20 * 1000;
    uint32_t open = 0;

    atomic_compare_exchange_strong(&crew->ending, &open, 1);
    fence_all_threads();
    while (any_in_flight(crew)) {
        if (atomic_load(&crew->ending) == 2)
            return pc_fail(-ECANCELED, "the crew was closed");
        if (pc_now() >= until)
            return pc_fail(-ETIME, "calls are still in flight: drain again to wait for them, or close the crew");
        sleep_ns(pause_ns);
        pause_ns = pause_ns < 5 * 1000 * 1000 ? pause_ns * 2 : pause_ns;
    }
    return 0;
}

int pycrew_drain(pycrew_crew *crew, int64_t timeout_ns)
{
    int rc = pc_crew_check(crew);

    if (rc < 0)
        return rc;
    pc_crew_enter(crew);
    rc = drain(crew, timeout_ns == 0 ? 0 : pc_until(timeout_ns));
    pc_crew_leave(crew);
    return rc;
}

/* Threads that sleep in our functions come out with -ECANCELED. */
static void send_threads_out(pycrew_crew *crew)
{
    while (atomic_load(&crew->inside) > 0) {
        for (uint32_t i = 0; i < crew->segment.config.slots; i++)
            if (atomic_load(&crew->calls[i].phase) == PC_PHASE_IN_FLIGHT)
                pc_sleeper_rouse(&crew->calls[i].slot->semaphore);
        pthread_mutex_lock(&crew->lock);
        for (unsigned i = 1; i < crew->segment.config.queues; i++)
            if (crew->queues[i].open)
                pc_queue_write(&crew->queues[i]);
        pthread_cond_broadcast(&crew->changed);
        pthread_mutex_unlock(&crew->lock);
        sleep_ns(200 * 1000);
    }
}

static void free_calls(pycrew_crew *crew)
{
    for (uint32_t i = 0; crew->calls != NULL && i < crew->segment.config.slots; i++) {
        pc_error_clear(&crew->calls[i].error);
        pc_error_clear(&crew->calls[i].host_error);
        pc_chunk_free(&crew->calls[i]);
        pc_stream_free(&crew->calls[i]);
        pc_call_memory_free(&crew->calls[i]);
    }
    free(crew->calls);
    free(crew->deadlines);
    free(crew->commands);
    free(crew->orphan_leases);
    free(crew->span_views);
}

static void free_crew(pycrew_crew *crew)
{
    pc_batches_free(crew);
    pc_actors_free(crew);
    pc_arrays_free(crew);
    free_calls(crew);
    pc_functions_free(crew);
    pc_stubs_free(crew);
    for (unsigned i = 0; crew->crew_workers != NULL && i < crew->processes; i++)
        pthread_mutex_destroy(&crew->crew_workers[i].lock);
    free(crew->crew_workers);
    pc_queues_free(crew);
    if (crew->heap.spans != NULL)
        pc_heap_destroy(&crew->heap);
    pc_segment_unmap(&crew->segment);
    pc_error_clear(&crew->start_error);
    free_options(crew);
    if (crew->fork_guard != NULL)
        munmap((void *)(uintptr_t)crew->fork_guard, 4096);
    pthread_cond_destroy(&crew->changed);
    pthread_mutex_destroy(&crew->heap_lock);
    pthread_mutex_destroy(&crew->lock);
    free(crew);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* The processes and the thread belong to the parent; what was inherited of them is let go. */
static void close_in_fork(pycrew_crew *crew)
{
    if (!pc_queue_is_ours(&crew->queues[PC_QUEUE_SUPERVISOR]))
        pc_crew_forget_descriptors(crew);
    for (unsigned i = 0; crew->crew_workers != NULL && i < crew->processes; i++) {
        close_fd(&crew->crew_workers[i].pidfd);
        close_fd(&crew->crew_workers[i].lifeline);
        close_fd(&crew->crew_workers[i].output);
    }
    for (unsigned i = 0; i < PC_ZYGOTES; i++) {
        close_fd(&crew->zygotes[i].control);
        close_fd(&crew->zygotes[i].pidfd);
        close_fd(&crew->zygotes[i].output);
    }
    crew->supervising = false;
    pc_supervisor_stop(crew);
    pc_trace_stop(crew, true);
    pc_exports_stop(crew, true);
    free_crew(crew);
}

void pycrew_close(pycrew_crew *crew)
{
    if (crew == NULL)
        return;
    if (crew->fork_guard != NULL && *(const volatile char *)crew->fork_guard == 0) {
        close_in_fork(crew);
        return;
    }
    if (pc_exports_are_running_me(crew)) {
        pc_crew_log(crew, PYCREW_LOG_ERROR, "pycrew_close was called by a function that the crew runs (pycrew_export): "
                    "it would wait for itself, and is ignored");
        return;
    }
    atomic_store(&crew->ending, 2);
    if (crew->supervising) {
        send_threads_out(crew);
        pc_crew_kick(crew);
    }
    pc_supervisor_stop(crew);
    pc_trace_stop(crew, false);
    pc_exports_stop(crew, false);
    free_crew(crew);
}
