/* crew.h - what the tests through pycrew.h share: opening a crew, errors that say what they are,
   bounded waits, and a look at the crew's processes.

   Functions that tests call are in tests/py/api_ops.py. */
#ifndef TESTS_CREW_H
#define TESTS_CREW_H

#include <pthread.h>
#include <stdatomic.h>
#include <sched.h>

#include "lib/pycrew.h"
#include "tests/harness/tap.h"

#define US INT64_C(1000)
#define MS (1000 * US)
#define SECOND (1000 * MS)

/* Long enough for anything on a loaded machine: a wait that takes as long has failed. */
#define BOUND (20 * SECOND)

/* ---- errors ---------------------------------------------------------------------------------- */

TAP_FUNCTION void crew_expect(const char *file, int line, const char *what, long long code,
                              long long expected)
{
    const pycrew_error *e = pycrew_last_error();

    if (code == expected)
        return;
    if (code < 0)
        tap_fail("%s:%d: %s is %lld (%s: %s%s%s), expected %lld", file, line, what, code,
                 e->type ? e->type : pycrew_strerror((int)code), e->message,
                 e->traceback ? "\n" : "", e->traceback ? e->traceback : "", expected);
    tap_fail("%s:%d: %s is %lld, expected %lld (%s)", file, line, what, code, expected,
             pycrew_strerror((int)expected));
}

/* A function of pycrew.h gives this code; if not, the last error is in the report. */
#define GIVES(call, expected) crew_expect(__FILE__, __LINE__, #call, (call), (expected))
#define OK(call) GIVES(call, 0)

TAP_FUNCTION void crew_contains(const char *file, int line, const char *what, const char *text,
                                const char *part)
{
    if (text == NULL || strstr(text, part) == NULL)
        tap_fail("%s:%d: %s is %s%.1200s%s, without \"%s\"", file, line, what, text ? "\"" : "",
                 text ? text : "NULL", text ? "\"" : "", part);
}

#define CONTAINS(text, part) crew_contains(__FILE__, __LINE__, #text, (text), (part))

/* ---- time ------------------------------------------------------------------------------------ */

TAP_FUNCTION int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND + now.tv_nsec;
}

TAP_FUNCTION void pause_ns(int64_t ns)
{
    struct timespec time = {.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};

    nanosleep(&time, NULL);
}

/* Looks until condition holds; fails when it does not within BOUND. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        int64_t await_until = now_ns() + (int64_t)((double)BOUND * tap_scale());                   \
        while (!(condition)) {                                                                     \
            if (now_ns() > await_until)                                                            \
                tap_fail("%s:%d: waited %lld s in vain for %s", __FILE__, __LINE__,                \
                         (long long)(BOUND / SECOND), #condition);                                 \
            pause_ns(500 * US);                                                                    \
        }                                                                                          \
    } while (0)

/* ---- a crew ---------------------------------------------------------------------------------- */

/* Silent; but nothing that a test does, and no worker of ours, looks like damage to the shared memory. */
TAP_FUNCTION void crew_no_log(void *data, int level, const char *line)
{
    (void)data;
    if (level == PYCREW_LOG_ERROR && strstr(line, "written over") != NULL)
        tap_fail("a false alarm: %s", line);
}

TAP_FUNCTION const char *source_directory(void)
{
    const char *top = getenv("top_srcdir");

    return top != NULL ? top : ".";
}

TAP_FUNCTION const char *const *test_path(void)
{
    static _Thread_local char directory[4096]; /* tests open crews in many threads */
    static _Thread_local const char *path[2];

    path[0] = directory;

    snprintf(directory, sizeof directory, "%s/tests/py", source_directory());
    return path;
}

/* Options with what every test wants: the path to the functions, and silence. */
TAP_FUNCTION pycrew_options test_options(unsigned workers)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;

    options.workers = workers;
    options.path = test_path();
    options.log = crew_no_log;
    return options;
}

TAP_FUNCTION pycrew_crew *open_with(const pycrew_options *options)
{
    pycrew_crew *crew = NULL;

    OK(pycrew_open(&crew, options));
    return crew;
}

TAP_FUNCTION pycrew_crew *open_crew(unsigned workers)
{
    pycrew_options options = test_options(workers);

    return open_with(&options);
}

/* 11 for Python 3.11: for what is not the same in all of them. */
TAP_FUNCTION int python_minor(pycrew_crew *crew)
{
    int minor = 0;

    OK(pycrew_run(crew, "api_ops:python_minor", ">i", &minor));
    return minor;
}

TAP_FUNCTION const pycrew_function *function_of(pycrew_crew *crew, const char *name)
{
    const pycrew_function *function = NULL;

    OK(pycrew_function_get(crew, name, &function));
    return function;
}

TAP_FUNCTION pycrew_call *prepare(pycrew_crew *crew, const char *name)
{
    pycrew_call *call = NULL;

    OK(pycrew_prepare(crew, function_of(crew, name), BOUND, &call));
    return call;
}

/* submit(crew, "api_ops:add", "ii", 1, 2): a call in flight. */
#define SUBMIT(crew, name, ...)                                                                    \
    __extension__({                                                                                \
        pycrew_call *submitted = prepare(crew, name);                                              \
        OK(pycrew_add(submitted, __VA_ARGS__));                                                    \
        OK(pycrew_submit(submitted));                                                              \
        submitted;                                                                                 \
    })

/* ---- a directory for what functions leave behind ---------------------------------------------- */

TAP_FUNCTION char *scratch_directory(void)
{
    static char directory[64];

    return directory;
}

TAP_FUNCTION void scratch_remove(void)
{
    char *name = scratch_directory();
    DIR *directory = opendir(name);
    struct dirent *entry;

    while (directory != NULL && (entry = readdir(directory)) != NULL)
        unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory != NULL)
        closedir(directory);
    rmdir(name);
}

/* The path of a file in a directory that goes with the test. Eight may be in use. */
TAP_FUNCTION const char *scratch(const char *name)
{
    static char paths[8][128];
    static unsigned next;
    char *path = paths[next++ % 8], *directory = scratch_directory();

    if (directory[0] == '\0') {
        strcpy(directory, "/tmp/pycrew-test-XXXXXX");
        ASSERT(mkdtemp(directory) != NULL);
        atexit(scratch_remove);
    }
    snprintf(path, 128, "%s/%s", directory, name);
    return path;
}

TAP_FUNCTION long file_size(const char *path)
{
    struct stat status;

    return stat(path, &status) < 0 ? -1 : (long)status.st_size;
}

/* Of a directory, those whose names begin with prefix. */
TAP_FUNCTION int count_entries(const char *path, const char *prefix)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    int count = 0;

    while (directory != NULL && (entry = readdir(directory)) != NULL)
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    if (directory != NULL)
        closedir(directory);
    return count;
}

/* ---- the crew's processes --------------------------------------------------------------------- */

/* The zygote of this process's only crew. */
TAP_FUNCTION int find_zygote(void)
{
    struct tap_process found[8];
    int count = tap_count_children(getpid(), 0, false, found, 8);

    for (int i = 0; i < count && i < 8; i++)
        if (strcmp(found[i].name, "pycrew-worker") == 0)
            return found[i].pid;
    return 0;
}

/* The workers that live; their PIDs in no order. */
TAP_FUNCTION int find_workers(int *pids, int max)
{
    struct tap_process found[64];
    int zygote = find_zygote();
    int count = zygote == 0 ? 0 : tap_count_children(zygote, 0, false, found, 64);

    for (int i = 0; i < count && i < max && i < 64; i++)
        pids[i] = found[i].pid;
    return count;
}

/* ---- kills from outside ------------------------------------------------------------------------ */

/* Kills the worker that answered last, again and again, up to longest_us later. Not just any: were
 * workers killed while they start, the crew would rightly back off. */
typedef struct killer {
    pthread_t thread;
    _Atomic bool stop;
    _Atomic unsigned kills;
    _Atomic int answered; /* the PID; 0 once it was killed */
    unsigned wanted, longest_us;
} killer;

TAP_FUNCTION bool is_worker(int pid)
{
    int pids[16], count = find_workers(pids, 16);

    for (int i = 0; i < count && i < 16; i++)
        if (pids[i] == pid)
            return true;
    return false;
}

TAP_FUNCTION void *kill_workers(void *data)
{
    killer *k = (killer *)data;
    unsigned random = 12345;

    while (!atomic_load(&k->stop) && atomic_load(&k->kills) < k->wanted) {
        int pid = atomic_exchange(&k->answered, 0);

        random = random * 1664525 + 1013904223;
        pause_ns(random / 65536 % k->longest_us * US);
        if (pid != 0 && is_worker(pid) && kill(pid, SIGKILL) == 0)
            atomic_fetch_add(&k->kills, 1);
    }
    return NULL;
}

#endif
