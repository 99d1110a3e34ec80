#define _GNU_SOURCE
#include "common.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

void fail_call(int rc, const char *what)
{
    const pycrew_error *error = pycrew_last_error();
    fail("%s: %s (%d)%s%s", what, error->message, rc, error->traceback ? "\n" : "",
         error->traceback ? error->traceback : "");
}

void *check_alloc(void *memory)
{
    if (!memory)
        fail("out of memory");
    return memory;
}

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void sleep_ns(int64_t ns)
{
    struct timespec rest = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
    while (nanosleep(&rest, &rest) < 0 && errno == EINTR)
        ;
}

uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double quantile(double *values, size_t count, double quantile)
{
    qsort(values, count, sizeof *values, by_value);
    if (count % 2 == 0 && quantile == 0.5)
        return (values[count / 2 - 1] + values[count / 2]) / 2;
    size_t place = (size_t)(quantile * (double)count);
    return values[place < count ? place : count - 1];
}

static void ignore_log(void *data, int level, const char *line)
{
    (void)data;
    (void)level;
    (void)line;
}

pycrew_crew *open_crew_with(const pycrew_options *options)
{
    const char *path[] = {BENCH_MODULES, MATH_OPS_FOLDER, NULL};
    pycrew_options all = *options;
    all.path = path;
    all.log = ignore_log;
    pycrew_crew *crew;
    check(pycrew_open(&crew, &all), "pycrew_open");
    return crew;
}

pycrew_crew *open_crew(unsigned workers, const char *preload)
{
    const char *preloads[] = {preload, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.workers = workers;
    options.preload = preloads;
    return open_crew_with(&options);
}

const pycrew_function *get_function(pycrew_crew *crew, const char *name)
{
    const pycrew_function *function;
    check(pycrew_function_get(crew, name, &function), name);
    return function;
}

/* ---- /proc ----------------------------------------------------------------------------------- */

long proc_number(const char *path, const char *key)
{
    FILE *file = fopen(path, "re");
    char line[256];
    long number = -1;
    while (file && number < 0 && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            number = strtol(line + strlen(key), NULL, 10);
    if (file)
        fclose(file);
    return number;
}

pid_t proc_parent(pid_t pid)
{
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    char *text = fgets(line, sizeof line, file);
    fclose(file);
    /* The name, in parentheses, may hold anything: the last one ends it. */
    text = text ? strrchr(line, ')') : NULL;
    char state;
    int parent;
    if (!text || sscanf(text + 1, " %c %d", &state, &parent) != 2 || state == 'Z' || state == 'X')
        return 0;
    return parent;
}

size_t proc_children(pid_t parent, pid_t *ret, size_t max)
{
    size_t count = 0;
    DIR *folder = opendir("/proc");
    if (!folder)
        fail("/proc: %s", strerror(errno));
    for (struct dirent *entry; count < max && (entry = readdir(folder));) {
        pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (pid > 0 && proc_parent(pid) == parent)
            ret[count++] = pid;
    }
    closedir(folder);
    return count;
}

size_t proc_workers(pid_t *ret, size_t max)
{
    pid_t zygote;
    return proc_children(getpid(), &zygote, 1) ? proc_children(zygote, ret, max) : 0;
}

size_t proc_descriptors(void)
{
    size_t count = 0;
    DIR *folder = opendir("/proc/self/fd");
    if (!folder)
        fail("/proc/self/fd: %s", strerror(errno));
    while (readdir(folder))
        count++;
    closedir(folder);
    return count - 3; /* ".", "..", and the folder's own */
}

long proc_switches(pid_t pid)
{
    char path[80];
    long count = 0;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        if (!isdigit((unsigned char)entry->d_name[0]) || atoi(entry->d_name) == gettid())
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/status", (int)pid, entry->d_name);
        count += proc_number(path, "voluntary_ctxt_switches:");
        count += proc_number(path, "nonvoluntary_ctxt_switches:");
    }
    if (folder)
        closedir(folder);
    return count;
}
