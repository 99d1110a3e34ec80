#include "lib/shm/budget.h"

#include <dirent.h>
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

/* A line "name number" of a file; false if there is none. */
static bool read_line(const char *directory, const char *file, const char *name, uint64_t *ret)
{
    char path[4300], text[16384], *line, *rest = text;
    size_t length = strlen(name);

    snprintf(path, sizeof path, "%s/%s", directory, file);
    if (!read_file(path, text, sizeof text))
        return false;
    while ((line = strsep(&rest, "\n")) != NULL)
        if (strncmp(line, name, length) == 0 && line[length] == ' ') {
            *ret = strtoull(line + length, NULL, 10);
            return true;
        }
    return false;
}

/* Files that were read stay in the page cache and count as usage, up to the limit; the kernel
 * forgets the inactive ones before it kills. */
static uint64_t headroom(const char *directory, const char *limit_file, const char *usage_file,
                         const char *cache_name)
{
    uint64_t limit, usage, cache = 0;

    /* v1 says "no limit" by a number near 2^63 */
    if (!read_number(directory, limit_file, &limit) || limit >= UINT64_C(1) << 60 ||
        !read_number(directory, usage_file, &usage))
        return UINT64_MAX;
    read_line(directory, "memory.stat", cache_name, &cache);
    usage -= cache < usage ? cache : usage;
    return limit > usage ? limit - usage : 0;
}

enum { CGROUP_DEPTH_MAX = 4 };

/* Where v2 is mounted: alone, or beside v1 ("hybrid"), whose controllers it may have some of. */
static const char *const v2_mounts[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};
enum { V2_MOUNTS = sizeof v2_mounts / sizeof v2_mounts[0] };

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

/* A cgroup's directory, then each ancestor's: false after the last. In a container the path may be the
 * host's and not be there: then only the root, which is the container's. path is used up. */
static bool next_directory(const char *mount, char *path, bool *first, char *ret, size_t capacity)
{
    char *slash = *first ? NULL : strrchr(path, '/');

    if (!*first && slash == NULL)
        return false;
    if (slash != NULL)
        *slash = '\0';
    *first = false;
    snprintf(ret, capacity, "%s%s", mount, path);
    return true;
}

/* The least answer of all of them. */
static uint64_t least(const char *mount, const char *path, uint64_t (*look)(const char *directory))
{
    uint64_t best = UINT64_MAX;
    char rest[4096], directory[4200];
    bool first = true;

    snprintf(rest, sizeof rest, "%s", path);
    while (next_directory(mount, rest, &first, directory, sizeof directory)) {
        uint64_t found = look(directory);

        if (found < best)
            best = found;
    }
    return best;
}

static uint64_t least_of_v2(const char *path, uint64_t (*look)(const char *directory))
{
    uint64_t best = UINT64_MAX;

    for (unsigned i = 0; i < V2_MOUNTS; i++) {
        uint64_t found = least(v2_mounts[i], path, look);

        if (found < best)
            best = found;
    }
    return best;
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
        v2 = least_of_v2(path, memory_v2);
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
        v2 = least_of_v2(path, quota_v2);
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

/* The nearest of a cgroup and its ancestors that counts its kills. */
static bool count_kills(const char *mount, const char *path, const char *file, char *directory,
                        size_t capacity, uint64_t *ret)
{
    char rest[4096];
    bool first = true;

    snprintf(rest, sizeof rest, "%s", path);
    while (next_directory(mount, rest, &first, directory, capacity))
        if (read_line(directory, file, "oom_kill", ret))
            return true;
    return false;
}

/* v1 counts for each cgroup by itself, and a worker may have been put into one below ours. */
static uint64_t count_kills_below(const char *directory, unsigned depth)
{
    DIR *list = depth < CGROUP_DEPTH_MAX ? opendir(directory) : NULL;
    struct dirent *entry;
    uint64_t sum = 0;

    while (list != NULL && (entry = readdir(list)) != NULL) {
        char below[4200];
        uint64_t kills = 0;

        if (entry->d_type != DT_DIR || entry->d_name[0] == '.' ||
            (size_t)snprintf(below, sizeof below, "%s/%s", directory, entry->d_name) >= sizeof below)
            continue;
        read_line(below, "memory.oom_control", "oom_kill", &kills);
        sum += kills + count_kills_below(below, depth + 1);
    }
    if (list != NULL)
        closedir(list);
    return sum;
}

/* Only one of v1 and v2 has the memory controller. */
static bool count_cgroup_kills(uint64_t *ret)
{
    char path[4096], directory[4200];

    if (cgroup_path("memory", path, sizeof path) && path[0] != '\0' &&
        count_kills("/sys/fs/cgroup/memory", path, "memory.oom_control", directory,
                    sizeof directory, ret)) {
        *ret += count_kills_below(directory, 0);
        return true;
    }
    if (!cgroup_path("", path, sizeof path))
        return false;
    for (unsigned i = 0; i < V2_MOUNTS; i++)
        if (count_kills(v2_mounts[i], path, "memory.events", directory, sizeof directory, ret))
            return true;
    return false;
}

uint64_t pc_oom_kills(void)
{
    char text[32768];
    const char *at;
    uint64_t kills;

    if (count_cgroup_kills(&kills))
        return kills;
    if (!read_file("/proc/vmstat", text, sizeof text) || (at = strstr(text, "\noom_kill ")) == NULL)
        return 0;
    return strtoull(at + 10, NULL, 10);
}
