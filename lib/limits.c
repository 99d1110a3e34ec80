/* limits: the options that say what each worker may use: checked and copied here, applied by the
 * workers (worker/life.c). What the kernel refuses, a lower nice value or a limit above the hard
 * one, is open's error, by the first worker that cannot start. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/crew.h"

enum { NICE_MIN = -20, NICE_MAX = 19, FILES_MIN = 32 };
#define MEMORY_MIN ((int64_t)64 << 20) /* for Python */
#define ONE "one"

static int check_limit(const char *name, int64_t value, int64_t least)
{
    if (value >= least || value == 0)
        return 0;
    return pc_fail(-EINVAL, "options.%s is %lld; 0, or at least %lld", name, (long long)value,
                   (long long)least);
}

/* ---- cpus: "one", "0-3,8" or "one:0-3,8" ---- */

/* What stands behind "one", or the text itself; NULL: nothing. */
static const char *skip_one(const char *text, bool *one)
{
    size_t size = strlen(ONE);

    *one = strncmp(text, ONE, size) == 0 && (text[size] == '\0' || text[size] == ':');
    if (!*one)
        return text;
    return text[size] == '\0' ? NULL : text + size + 1;
}

static bool read_number(const char **at, unsigned *ret)
{
    unsigned value = 0;

    if (**at < '0' || **at > '9')
        return false;
    for (; **at >= '0' && **at <= '9'; ++*at)
        if (value < CPU_SETSIZE)
            value = value * 10 + (unsigned)(**at - '0');
    *ret = value;
    return true;
}

static bool read_range(const char **at, unsigned *first, unsigned *last)
{
    if (!read_number(at, first))
        return false;
    *last = *first;
    if (**at != '-')
        return true;
    ++*at;
    return read_number(at, last) && *last >= *first;
}

/* CPUs in the order of the text; those that the process may use without one. 0 or the error. */
static int read_cpus(const char *text, const cpu_set_t *allowed, unsigned *cpus, unsigned *count)
{
    const char *at = text;
    unsigned first = 0, last = CPU_SETSIZE - 1;

    *count = 0;
    do {
        if (at != NULL && !read_range(&at, &first, &last))
            return pc_fail(-EINVAL,
                           "options.cpus is \"%s\"; \"one\", a list as \"0-3,8\", or \"one:0-3,8\"",
                           text);
        for (unsigned cpu = first; cpu <= last; cpu++) {
            bool may = cpu < CPU_SETSIZE && CPU_ISSET(cpu, allowed);

            if (!may && at != NULL)
                return pc_fail(-EINVAL, "options.cpus has CPU %u, which this process may not use",
                               cpu);
            if (may && *count < CPU_SETSIZE)
                cpus[(*count)++] = cpu;
        }
    } while (at != NULL && *at == ',' && at++ != NULL);
    if (at != NULL && *at != '\0')
        return pc_fail(-EINVAL,
                       "options.cpus is \"%s\"; \"one\", a list as \"0-3,8\", or \"one:0-3,8\"",
                       text);
    return 0;
}

/* The thread that opens may be pinned: it is the process's that count. */
static int parse_cpus(const char *text, unsigned *cpus, unsigned *count, bool *one)
{
    cpu_set_t allowed;

    if (sched_getaffinity(getpid(), sizeof allowed, &allowed) < 0)
        return pc_fail(-errno, "options.cpus: the CPUs of this process cannot be told: %s",
                       pycrew_strerror(-errno));
    return read_cpus(skip_one(text, one), &allowed, cpus, count);
}

/* ---- all of them ---- */

int pc_limits_check(const pycrew_options *o)
{
    unsigned cpus[CPU_SETSIZE], count;
    bool one;
    int rc;

    if (o->nice < NICE_MIN || o->nice > NICE_MAX)
        return pc_fail(-EINVAL, "options.nice is %d; %d to %d", o->nice, NICE_MIN, NICE_MAX);
    if ((rc = check_limit("limit_memory", o->limit_memory, MEMORY_MIN)) < 0 ||
        (rc = check_limit("limit_files", o->limit_files, FILES_MIN)) < 0 ||
        (rc = check_limit("limit_core", o->limit_core, PYCREW_NO_CORE)) < 0 ||
        (rc = check_limit("limit_cpu_s", o->limit_cpu_s, 1)) < 0)
        return rc;
    if (o->limit_memory != 0 && o->memory != 0 &&
        (uint64_t)o->limit_memory < (uint64_t)o->memory + (uint64_t)MEMORY_MIN)
        return pc_fail(
            -EINVAL,
            "options.limit_memory is %lld bytes; options.memory, which all workers map, and Python "
            "need %zu",
            (long long)o->limit_memory, o->memory + (size_t)MEMORY_MIN);
    if (o->debug && o->workers > 1)
        return pc_fail(-EINVAL, "options.workers is %u; with options.debug there is one",
                       o->workers);
    return o->cpus == NULL ? 0 : parse_cpus(o->cpus, cpus, &count, &one);
}

static int take_cpus(pycrew_crew *crew, const char *text)
{
    int rc;

    if (text == NULL)
        return 0;
    crew->cpus = calloc(CPU_SETSIZE, sizeof crew->cpus[0]);
    if (crew->cpus == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    if ((rc = parse_cpus(text, crew->cpus, &crew->cpu_count, &crew->one_cpu)) < 0)
        return rc;
    return 0;
}

int pc_limits_take(pycrew_crew *crew, const pycrew_options *o)
{
    crew->max_calls_per_worker = o->max_calls_per_worker;
    crew->max_worker_rss = o->max_worker_rss;
    crew->nice = o->nice;
    crew->limits[PC_LIMIT_MEMORY] = o->limit_memory;
    crew->limits[PC_LIMIT_FILES] = o->limit_files;
    crew->limits[PC_LIMIT_CORE] = o->limit_core;
    crew->limits[PC_LIMIT_CPU_S] = o->limit_cpu_s;
    crew->debug = o->debug;
    return take_cpus(crew, o->cpus);
}

void pc_limits_free(pycrew_crew *crew)
{
    free(crew->cpus);
}
