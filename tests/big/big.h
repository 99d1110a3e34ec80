/* big.h - what the tests of big values and long flows share.
 *
 * Each test is small in make check, and large with PYCREW_BIG=1 in the environment (make
 * check-big). */
#ifndef TESTS_BIG_H
#define TESTS_BIG_H

#include <inttypes.h>

#include "tests/harness/crew.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

TAP_FUNCTION bool is_big(void)
{
    const char *value = getenv("PYCREW_BIG");

    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

TAP_FUNCTION size_t sized(size_t small, size_t large)
{
    return is_big() ? large : small;
}

/* ---- what the system says -------------------------------------------------------------------- */

/* The number behind "name" in a file of lines "name   number unit", in KiB made bytes; 0: not
 * there. */
TAP_FUNCTION size_t number_in(const char *path, const char *name)
{
    static _Thread_local char text[1 << 16];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t got;
    const char *at;

    if (fd < 0)
        return 0;
    while (size < sizeof text - 1 && (got = read(fd, text + size, sizeof text - 1 - size)) > 0)
        size += (size_t)got;
    close(fd);
    text[size] = '\0';
    at = strstr(text, name);
    return at == NULL ? 0 : strtoull(at + strlen(name), NULL, 10) * KIB;
}

TAP_FUNCTION size_t of_process(int pid, const char *file, const char *name)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/%s", pid, file);
    return number_in(path, name);
}

/* Less is left, and it would be the machine that is tested. */
TAP_FUNCTION void need_memory(size_t bytes)
{
    size_t left = number_in("/proc/meminfo", "MemAvailable:");

    if (left < bytes + bytes / 8)
        SKIP("%zu MiB of memory are free, %zu are needed", left / MIB, bytes / MIB);
}

/* The memory that stands behind the segment, by its file: what the crew's processes share. The
 * segment is the only file of ours that is so named, or a memfd. */
TAP_FUNCTION size_t segment_blocks(void)
{
    DIR *directory = opendir("/proc/self/fd");
    struct dirent *entry;
    size_t bytes = 0;

    ASSERT(directory != NULL);
    while ((entry = readdir(directory)) != NULL) {
        char target[256];
        ssize_t size = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
        struct stat status;

        if (size <= 0)
            continue;
        target[size] = '\0';
        if ((strstr(target, "/pycrew.") != NULL ||
             strcmp(target, "/memfd:pycrew (deleted)") == 0) &&
            fstatat(dirfd(directory), entry->d_name, &status, 0) == 0)
            bytes += (size_t)status.st_blocks * 512;
    }
    closedir(directory);
    return bytes;
}

/* ---- a crew ---------------------------------------------------------------------------------- */

TAP_FUNCTION pycrew_crew *open_with_memory(unsigned workers, size_t memory)
{
    static const char *const preload[] = {"big_ops", NULL};
    pycrew_options options = test_options(workers);

    options.memory = memory;
    options.preload = preload;
    return open_with(&options);
}

TAP_FUNCTION void need_numpy(pycrew_crew *crew)
{
    int there = 0;

    OK(pycrew_run(crew, "big_ops:has_numpy", ">p", &there));
    if (there == 0) {
        pycrew_close(crew);
        SKIP("numpy is not installed");
    }
}

TAP_FUNCTION pycrew_array array_at(void *data, pycrew_dtype dtype, size_t count, unsigned flags)
{
    pycrew_array array;
    int64_t shape = (int64_t)count;

    OK(pycrew_array_init(&array, data, dtype, 1, &shape, flags));
    return array;
}

#endif
