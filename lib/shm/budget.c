#include "lib/shm/budget.h"

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* Reads a small file; false if it is not there. */
static bool read_file(const char *path, char *text, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size;

    if (fd < 0)
        return false;
    size = read(fd, text, capacity - 1);
    close(fd);
    text[size < 0 ? 0 : size] = '\0';
    return size > 0;
}

static bool read_number(const char *directory, const char *file, uint64_t *ret)
{
    char path[4300], text[64], *end;

    snprintf(path, sizeof path, "%s/%s", directory, file);
    if (!read_file(path, text, sizeof text))
        return false;
    *ret = strtoull(text, &end, 10);
    return end != text; /* "max" is no number: no limit */
}

/* A line "name number" of memory.stat; 0 if there is none. */
static uint64_t read_stat(const char *directory, const char *name)
{
    char path[4300], text[16384], *line, *rest = text;
    size_t length = strlen(name);

    snprintf(path, sizeof path, "%s/memory.stat", directory);
    if (!read_file(path, text, sizeof text))
        return 0;
    while ((line = strsep(&rest, "\n")) != NULL)
        if (strncmp(line, name, length) == 0 && line[length] == ' ')
            return strtoull(line + length, NULL, 10);
    return 0;
}

/* Files that were read stay in the page cache and count as usage, up to the limit; the kernel
 * forgets the inactive ones before it kills. */
static uint64_t headroom(const char *directory, const char *limit_file, const char *usage_file,
                         const char *cache_name)
{
    uint64_t limit, usage, cache;

    /* v1 says "no limit" by a number near 2^63 */
    if (!read_number(directory, limit_file, &limit) || limit >= UINT64_C(1) << 60 ||
        !read_number(directory, usage_file, &usage))
        return UINT64_MAX;
    cache = read_stat(directory, cache_name);
    usage -= cache < usage ? cache : usage;
    return limit > usage ? limit - usage : 0;
}

/* The path of a cgroup below its mount: of the v1 hierarchy with this controller, or of v2 (""). */
static bool cgroup_path(const char *controller, char *path, size_t capacity)
{
    char text[4096], *line, *rest = text;

    if (!read_file("/proc/self/cgroup", text, sizeof text))
        return false;
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *controllers = strchr(line, ':'), *at, *name;

        if (controllers == NULL || (at = strchr(++controllers, ':')) == NULL)
            continue;
        *at++ = '\0';
        while ((name = strsep(&controllers, ",")) != NULL) {
            if (strcmp(name, controller) != 0)
                continue;
            snprintf(path, capacity, "%s", strcmp(at, "/") == 0 ? "" : at);
            return true;
        }
    }
    return false;
}

/* Calls look for a cgroup's directory and each ancestor's; gives the least answer. In a container
 * the path may be the host's and not be there: then only the root, which is the container's. */
static uint64_t least(const char *mount, char *path, uint64_t (*look)(const char *directory))
{
    uint64_t best = UINT64_MAX;

    for (;;) {
        char directory[4200];
        char *slash;
        uint64_t found;

        snprintf(directory, sizeof directory, "%s%s", mount, path);
        found = look(directory);
        if (found < best)
            best = found;
        slash = strrchr(path, '/');
        if (slash == NULL)
            return best;
        *slash = '\0';
    }
}

static uint64_t memory_v1(const char *directory)
{
    return headroom(directory, "memory.limit_in_bytes", "memory.usage_in_bytes",
                    "total_inactive_file");
}

static uint64_t memory_v2(const char *directory)
{
    return headroom(directory, "memory.max", "memory.current", "inactive_file");
}

uint64_t pc_budget_cgroup(void)
{
    char path[4096];
    uint64_t v1 = UINT64_MAX, v2 = UINT64_MAX;

    if (cgroup_path("memory", path, sizeof path))
        v1 = least("/sys/fs/cgroup/memory", path, memory_v1);
    if (cgroup_path("", path, sizeof path))
        v2 = least("/sys/fs/cgroup", path, memory_v2);
    return v1 < v2 ? v1 : v2;
}

uint64_t pc_budget_free(void)
{
    char text[4096];
    const char *at;
    uint64_t cgroup = pc_budget_cgroup(), available = UINT64_MAX;

    if (read_file("/proc/meminfo", text, sizeof text) &&
        (at = strstr(text, "MemAvailable:")) != NULL)
        available = strtoull(at + 13, NULL, 10) * 1024;
    return available < cgroup ? available : cgroup;
}

/* Quotas in thousandths of a CPU. */
static uint64_t quota_v1(const char *directory)
{
    uint64_t quota, period;

    if (!read_number(directory, "cpu.cfs_quota_us", &quota) || quota >= UINT64_C(1) << 60 ||
        !read_number(directory, "cpu.cfs_period_us", &period) || period == 0)
        return UINT64_MAX;
    return quota * 1000 / period;
}

static uint64_t quota_v2(const char *directory)
{
    char path[4300], text[64];
    unsigned long long quota, period;

    snprintf(path, sizeof path, "%s/cpu.max", directory);
    if (!read_file(path, text, sizeof text) || sscanf(text, "%llu %llu", &quota, &period) != 2 ||
        period == 0)
        return UINT64_MAX;
    return quota * 1000 / period;
}

static uint64_t cpu_quota(void)
{
    char path[4096];
    uint64_t v1 = UINT64_MAX, v2 = UINT64_MAX;

    if (cgroup_path("cpu", path, sizeof path))
        v1 = least("/sys/fs/cgroup/cpu", path, quota_v1);
    if (cgroup_path("", path, sizeof path))
        v2 = least("/sys/fs/cgroup", path, quota_v2);
    return v1 < v2 ? v1 : v2;
}

unsigned pc_budget_cpus(void)
{
    cpu_set_t set;
    uint64_t quota = cpu_quota();
    unsigned cpus = 1;

    /* More CPUs than the set holds: EINVAL, and all that are online. */
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cpus = (unsigned)CPU_COUNT(&set);
    else if (sysconf(_SC_NPROCESSORS_ONLN) > 0)
        cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
    if (quota != UINT64_MAX && (quota + 999) / 1000 < cpus)
        cpus = (unsigned)((quota + 999) / 1000);
    return cpus == 0 ? 1 : cpus;
}

uint64_t pc_oom_kills(void)
{
    char text[32768];
    const char *at;

    if (!read_file("/proc/vmstat", text, sizeof text) || (at = strstr(text, "\noom_kill ")) == NULL)
        return 0;
    return strtoull(at + 10, NULL, 10);
}
