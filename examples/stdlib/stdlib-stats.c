/* stdlib-stats: the main job. Every .py file of the Python standard library on this machine goes
 * through stdlib_stats.stats, once with one worker and once with one for each CPU; both must find
 * the same.
 *
 *     stdlib-stats [-n FILES] [-m MODULES] [FOLDER]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pycrew.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct files {
    char **paths;
    size_t count, space;
    uint64_t bytes;
};

/* What stats() says of one file. Where it has an error the rest is zero. */
struct stats {
    int64_t functions, classes, longest_lines, names;
    char *longest, *error;
};

static void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("stdlib-stats: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void check(int rc, const char *what)
{
    if (rc < 0)
        fail("%s: %s", what, pycrew_last_error()->message);
}

/* ---- the files ------------------------------------------------------------------------------- */

static struct files found; /* nftw has no place for a pointer of ours */

static void append(const char *path, uint64_t bytes)
{
    if (found.count == found.space) {
        found.space = found.space ? 2 * found.space : 1024;
        found.paths = realloc(found.paths, found.space * sizeof *found.paths);
        if (!found.paths)
            fail("out of memory");
    }
    found.paths[found.count] = strdup(path);
    if (!found.paths[found.count++])
        fail("out of memory");
    found.bytes += bytes;
}

static int visit(const char *path, const struct stat *status, int type, struct FTW *ftw)
{
    const char *name = path + ftw->base;
    if (type == FTW_D && (!strcmp(name, "site-packages") || !strcmp(name, "dist-packages")))
        return FTW_SKIP_SUBTREE; /* installed by others: not the standard library */
    size_t length = strlen(name);
    if (type == FTW_F && length > 3 && !strcmp(name + length - 3, ".py"))
        append(path, (uint64_t)status->st_size);
    return FTW_CONTINUE;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Reads each file once, so that the first run does not pay the disk for the second. */
static void warm_page_cache(const struct files *files)
{
    static char buffer[1 << 16];
    for (size_t i = 0; i < files->count; i++) {
        int fd = open(files->paths[i], O_RDONLY | O_CLOEXEC);
        while (fd >= 0 && read(fd, buffer, sizeof buffer) > 0)
            ;
        if (fd >= 0)
            close(fd);
    }
}

static struct files list_files(const char *folder, size_t limit)
{
    if (nftw(folder, visit, 32, FTW_ACTIONRETVAL | FTW_PHYS) < 0)
        fail("%s: %s", folder, strerror(errno));
    if (!found.count)
        fail("%s: no .py file in it", folder);
    qsort(found.paths, found.count, sizeof *found.paths, by_text);
    while (found.count > limit)
        free(found.paths[--found.count]);
    warm_page_cache(&found);
    return found;
}

/* The workers know where their library is. */
static char *stdlib_folder(pycrew_crew *crew)
{
    char *folder;
    check(pycrew_run(crew, "sysconfig:get_path", "s>s", "stdlib", &folder), "sysconfig.get_path");
    return folder;
}

/* ---- one run over all of them ---------------------------------------------------------------- */

static int64_t get_count(pycrew_value dict, const char *key)
{
    int64_t count;
    check(pycrew_value_i64(pycrew_value_get(dict, key), &count), key);
    return count;
}

static char *get_text(pycrew_value dict, const char *key)
{
    const char *text;
    size_t size;
    check(pycrew_value_str(pycrew_value_get(dict, key), &text, &size), key);
    char *copy = strndup(text, size);
    if (!copy)
        fail("out of memory");
    return copy;
}

static struct stats get_stats(pycrew_batch *batch, const char *path)
{
    const pycrew_error *error = pycrew_batch_error(batch);
    if (error)
        fail("%s: %s\n%s", path, error->message, error->traceback ? error->traceback : "");
    pycrew_value dict = pycrew_batch_value(batch);
    if (pycrew_value_type(pycrew_value_get(dict, "error")) == PYCREW_TYPE_STR)
        return (struct stats){.error = get_text(dict, "error")};
    return (struct stats){.functions = get_count(dict, "functions"),
                          .classes = get_count(dict, "classes"),
                          .longest = get_text(dict, "longest"),
                          .longest_lines = get_count(dict, "longest_lines"),
                          .names = get_count(dict, "names")};
}

/* Puts in what the window takes: a full one is emptied by its reader, which is us. */
static size_t add_some(pycrew_batch *batch, const struct files *files, size_t added)
{
    for (; added < files->count; added++) {
        int rc = pycrew_batch_add(batch, "s", files->paths[added]);
        if (rc == -EAGAIN)
            return added;
        check(rc, files->paths[added]);
    }
    check(pycrew_batch_end(batch), "pycrew_batch_end");
    return added + 1; /* nothing is to be added or ended any more */
}

static void run(pycrew_crew *crew, const struct files *files, struct stats *results)
{
    const pycrew_function *function;
    pycrew_batch *batch;
    check(pycrew_function_get(crew, "stdlib_stats:stats", &function), "stdlib_stats:stats");
    check(pycrew_batch_open(crew, function, NULL, &batch), "pycrew_batch_open");
    size_t added = 0, taken = 0;
    for (;;) {
        if (added <= files->count)
            added = add_some(batch, files, added);
        int rc = pycrew_batch_next(batch, PYCREW_FOREVER);
        check(rc, "pycrew_batch_next");
        if (rc == 0)
            break;
        size_t index = pycrew_batch_index(batch);
        results[index] = get_stats(batch, files->paths[index]);
        taken++;
    }
    if (taken != files->count)
        fail("%zu files went in, %zu came out", files->count, taken);
    pycrew_batch_close(batch);
}

static double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Runs with that many workers, and says how long it took, without the start. */
static double timed_run(pycrew_crew *crew, const struct files *files, struct stats **ret)
{
    struct stats *results = calloc(files->count, sizeof *results);
    if (!results)
        fail("out of memory");
    double start = seconds_now();
    run(crew, files, results);
    *ret = results;
    return seconds_now() - start;
}

/* ---- what was found -------------------------------------------------------------------------- */

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static bool same(const struct stats *a, const struct stats *b)
{
    return a->functions == b->functions && a->classes == b->classes &&
           a->longest_lines == b->longest_lines && a->names == b->names &&
           same_text(a->longest, b->longest) && same_text(a->error, b->error);
}

static void check_same(const struct files *files, const struct stats *a, const struct stats *b)
{
    for (size_t i = 0; i < files->count; i++)
        if (!same(&a[i], &b[i]))
            fail("%s: one worker and all of them differ", files->paths[i]);
}

static void print_totals(const char *folder, const struct files *files, const struct stats *results)
{
    struct stats total = {0};
    size_t longest = 0, errors = 0;
    for (size_t i = 0; i < files->count; i++) {
        total.functions += results[i].functions;
        total.classes += results[i].classes;
        total.names += results[i].names;
        errors += results[i].error != NULL;
        if (results[i].longest_lines > results[longest].longest_lines)
            longest = i;
    }
    size_t prefix = strlen(folder);
    const char *where = files->paths[longest];
    where += strncmp(where, folder, prefix) ? 0 : prefix + (where[prefix] == '/');
    printf("%s\n", folder);
    printf("  files             %9zu  (%.1f MB; %zu that do not parse)\n", files->count,
           (double)files->bytes / 1e6, errors);
    printf("  functions         %9lld\n", (long long)total.functions);
    printf("  classes           %9lld\n", (long long)total.classes);
    printf("  names             %9lld  (distinct in each file)\n", (long long)total.names);
    printf("  longest function  %9lld  lines: %s in %s\n\n",
           (long long)results[longest].longest_lines,
           results[longest].longest ? results[longest].longest : "-", where);
}

static void print_speed(size_t files, unsigned workers, const double seconds[2])
{
    double ratio = seconds[0] / seconds[1];
    printf("  workers   seconds   files/s\n");
    printf("  %7u  %8.2f  %8.0f\n", 1U, seconds[0], (double)files / seconds[0]);
    printf("  %7u  %8.2f  %8.0f   %.2f times as fast\n\n", workers, seconds[1],
           (double)files / seconds[1], ratio);
    printf("Both runs found the same in every file.\n");
}

static void free_stats(struct stats *stats, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(stats[i].longest);
        free(stats[i].error);
    }
    free(stats);
}

static void free_files(struct files *files)
{
    for (size_t i = 0; i < files->count; i++)
        free(files->paths[i]);
    free(files->paths);
}

/* ---- the program ----------------------------------------------------------------------------- */

static pycrew_crew *open_crew(const char *modules, unsigned workers)
{
    const char *path[] = {modules, NULL}, *preload[] = {"stdlib_stats", NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.path = path;
    options.preload = preload;
    options.workers = workers;
    pycrew_crew *crew;
    check(pycrew_open(&crew, &options), "pycrew_open");
    return crew;
}

static unsigned cpus(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) < 0 ? 1 : (unsigned)CPU_COUNT(&set);
}

static void compare(const char *modules, const char *folder, size_t limit)
{
    pycrew_crew *crew = open_crew(modules, 1);
    char *stdlib = folder ? strdup(folder) : stdlib_folder(crew);
    if (!stdlib)
        fail("out of memory");
    struct files files = list_files(stdlib, limit);
    struct stats *results[2];
    double seconds[2];
    seconds[0] = timed_run(crew, &files, &results[0]);
    pycrew_close(crew);

    crew = open_crew(modules, cpus());
    seconds[1] = timed_run(crew, &files, &results[1]);
    pycrew_close(crew);

    check_same(&files, results[0], results[1]);
    print_totals(stdlib, &files, results[0]);
    print_speed(files.count, cpus(), seconds);
    free_stats(results[0], files.count);
    free_stats(results[1], files.count);
    free_files(&files);
    free(stdlib);
}

int main(int argc, char **argv)
{
    static const char usage[] = "usage: stdlib-stats [-n FILES] [-m MODULES] [FOLDER]\n"
                                "  -n FILES    the first FILES files only\n"
                                "  -m MODULES  the folder with stdlib_stats.py\n"
                                "  FOLDER      another one than the standard library\n";
    const char *modules = STDLIB_MODULES;
    size_t limit = SIZE_MAX;
    int option;
    while ((option = getopt(argc, argv, "n:m:h")) != -1) {
        if (option == 'n')
            limit = strtoul(optarg, NULL, 10);
        else if (option == 'm')
            modules = optarg;
        else
            return fputs(usage, option == 'h' ? stdout : stderr), option == 'h' ? 0 : 2;
    }
    compare(modules, argv[optind], limit);
    return 0;
}
