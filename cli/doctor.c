/* pycrew doctor: whether all is there that workers need, and what to do where it is not.
 *
 * Each check says one line: ok, warn or FAIL, and behind "fix:" what to do. Checks need nothing of
 * each other, but for those that need a worker. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/crew.h"
#include "cli/json.h"

enum state { OK, WARN, FAIL };

struct doctor {
    const struct options *options;
    unsigned workers, cpus, failed;
    pycrew_crew *crew;
    const pycrew_function *negate;
};

static const uint64_t MiB = 1 << 20;

/* fix: NULL where there is nothing to do. */
static void tell(struct doctor *doctor, enum state state, const char *check, const char *fix,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));

static void print_json(const char *state, const char *check, const char *text, const char *fix)
{
    struct buffer line = {0};
    buffer_print(&line, "{\"check\": \"%s\", \"state\": \"%s\", \"text\": ", check, state);
    json_quote(&line, (struct slice){text, strlen(text)});
    buffer_text(&line, ", \"fix\": ");
    if (fix != NULL)
        json_quote(&line, (struct slice){fix, strlen(fix)});
    else
        buffer_text(&line, "null");
    printf("%s}\n", buffer_string(&line));
    buffer_free(&line);
}

static void tell(struct doctor *doctor, enum state state, const char *check, const char *fix,
                 const char *format, ...)
{
    static const char *const names[] = {"ok", "warn", "FAIL"};
    char *text;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        die(EXIT_FAILED, "out of memory");
    va_end(args);
    doctor->failed += state == FAIL;
    if (doctor->options->json)
        print_json(names[state], check, text, fix);
    else
        printf("%-4s  %s: %s%s%s\n", names[state], check, text, fix != NULL ? "; fix: " : "",
               fix != NULL ? fix : "");
    fflush(stdout);
    free(text);
}

/* ---- the system ------------------------------------------------------------------------------ */

static void check_pidfd(struct doctor *doctor)
{
    struct utsname system;
    uname(&system);
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (fd >= 0)
        tell(doctor, OK, "pidfd", NULL, "Linux %s has it", system.release);
    else
        tell(doctor, FAIL, "pidfd",
             errno == ENOSYS ? "Linux 5.14 or newer"
                             : "let the container's seccomp profile allow pidfd_open",
             "pidfd_open: %s (Linux %s)", strerror(errno), system.release);
    if (fd >= 0)
        close(fd);
}

static void check_files(struct doctor *doctor)
{
    struct rlimit limit;
    /* a worker's pidfd, two lifelines and output; the crew's own; what the program needs besides */
    rlim_t needed = 40 + 4 * (rlim_t)doctor->workers, enough = needed + 64;
    char fix[64];
    getrlimit(RLIMIT_NOFILE, &limit);
    snprintf(fix, sizeof(fix), "ulimit -n %llu, or fewer workers (-j)",
             (unsigned long long)(enough > 1024 ? enough : 1024));
    enum state state = limit.rlim_cur < needed ? FAIL : limit.rlim_cur < enough ? WARN : OK;
    if (limit.rlim_cur == RLIM_INFINITY)
        tell(doctor, OK, "open files", NULL, "no limit");
    else
        tell(doctor, state, "open files", state == OK ? NULL : fix,
             "%llu are allowed, some %llu are needed for %u worker%s",
             (unsigned long long)limit.rlim_cur, (unsigned long long)needed, doctor->workers,
             doctor->workers == 1 ? "" : "s");
}

static void check_address_space(struct doctor *doctor)
{
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    if (limit.rlim_cur == RLIM_INFINITY)
        tell(doctor, OK, "address space", NULL, "no limit");
    else
        tell(doctor, limit.rlim_cur < 512 * MiB ? FAIL : WARN, "address space",
             "ulimit -v unlimited; limit a cgroup's memory instead",
             "%llu MiB, of which each worker uses what is shared once more",
             (unsigned long long)(limit.rlim_cur / MiB));
}

static void check_shared_memory(struct doctor *doctor)
{
    struct statvfs status;
    bool mounted = statvfs("/dev/shm", &status) == 0;
    uint64_t free_bytes = mounted ? (uint64_t)status.f_bavail * status.f_frsize : 0;
    size_t wanted = doctor->options->memory;
    int fd = memfd_create("pycrew-doctor", MFD_CLOEXEC);
    if (fd >= 0)
        close(fd);
    if (free_bytes >= 256 * MiB && wanted <= free_bytes)
        tell(doctor, OK, "shared memory", NULL, "%llu MiB are free in /dev/shm",
             (unsigned long long)(free_bytes / MiB));
    else if (fd >= 0)
        tell(doctor, wanted > free_bytes ? WARN : OK, "shared memory",
             wanted > free_bytes ? "docker run --shm-size, or mount -o remount,size=" : NULL,
             "%llu MiB are free in /dev/shm: a memfd is used instead",
             (unsigned long long)(free_bytes / MiB));
    else
        tell(doctor, FAIL, "shared memory", "docker run --shm-size=1g, or allow memfd_create",
             "%llu MiB are free in /dev/shm, and there is no memfd (%s)",
             (unsigned long long)(free_bytes / MiB), strerror(errno));
}

/* ---- cgroups --------------------------------------------------------------------------------- */

static bool read_text(const char *path, char *to, size_t room)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd >= 0 ? read(fd, to, room - 1) : -1;
    if (fd >= 0)
        close(fd);
    to[got > 0 ? got : 0] = '\0';
    return got > 0;
}

/* Where the controller's files of this process are: cgroup 2, or the controller's own of 1. */
static bool find_folder(const char *controller, char *to, size_t room)
{
    static char text[16384];
    char *next = text, *line;
    if (!read_text("/proc/self/cgroup", text, sizeof(text)))
        return false;
    while ((line = strsep(&next, "\n")) != NULL) {
        char *names = strchr(line, ':'), *path = names != NULL ? strchr(names + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *path++ = '\0';
        names++;
        if (strcmp(names, controller) == 0) {
            snprintf(to, room, "/sys/fs/cgroup/%s%s", controller, path);
            return true;
        }
        if (names[0] == '\0')
            snprintf(to, room, "/sys/fs/cgroup%s", path);
    }
    return to[0] != '\0';
}

/* What is left of the tightest limit, from the process's group up to the root. */
static uint64_t room_in(const char *controller, const char *const limits[2],
                        const char *const uses[2], uint64_t *ret_limit)
{
    char folder[4096] = "", path[4352], text[64];
    uint64_t room = UINT64_MAX;
    *ret_limit = UINT64_MAX;
    find_folder(controller, folder, sizeof(folder));
    for (char *slash = folder; slash != NULL && strlen(folder) >= 14;
         slash = strrchr(folder, '/'), slash != NULL ? (void)(*slash = '\0') : (void)0)
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof(path), "%s/%s", folder, limits[i]);
            if (!read_text(path, text, sizeof(text)) || strncmp(text, "max", 3) == 0)
                continue;
            uint64_t limit = strtoull(text, NULL, 10);
            snprintf(path, sizeof(path), "%s/%s", folder, uses[i]);
            uint64_t used = read_text(path, text, sizeof(text)) ? strtoull(text, NULL, 10) : 0;
            uint64_t left = limit > used ? limit - used : 0;
            if (limit < UINT64_C(1) << 60 && left < room) {
                room = left;
                *ret_limit = limit;
            }
        }
    return room;
}

static void check_memory(struct doctor *doctor)
{
    static const char *const limits[] = {"memory.max", "memory.limit_in_bytes"};
    static const char *const uses[] = {"memory.current", "memory.usage_in_bytes"};
    uint64_t limit, room = room_in("memory", limits, uses, &limit);
    uint64_t needed = 16 * MiB * doctor->workers, enough = 64 * MiB * doctor->workers;
    if (room == UINT64_MAX)
        tell(doctor, OK, "cgroup memory", NULL, "no limit");
    else
        tell(doctor,
             room < needed   ? FAIL
             : room < enough ? WARN
                             : OK,
             "cgroup memory",
             room < enough ? "a larger memory.max (docker run -m), or fewer workers (-j)" : NULL,
             "%llu MiB are left of %llu, for %u workers", (unsigned long long)(room / MiB),
             (unsigned long long)(limit / MiB), doctor->workers);
}

static void check_processes(struct doctor *doctor)
{
    static const char *const limits[] = {"pids.max", "pids.max"};
    static const char *const uses[] = {"pids.current", "pids.current"};
    uint64_t limit, room = room_in("pids", limits, uses, &limit);
    /* the zygote, the workers, and the threads that libraries start in them */
    uint64_t needed = 4 + doctor->workers, enough = 16 + 4 * (uint64_t)doctor->workers;
    if (room == UINT64_MAX)
        tell(doctor, OK, "cgroup processes", NULL, "no limit");
    else
        tell(doctor,
             room < needed   ? FAIL
             : room < enough ? WARN
                             : OK,
             "cgroup processes",
             room < enough ? "a larger pids.max (docker run --pids-limit), or fewer workers (-j)"
                           : NULL,
             "%llu are left of %llu, for %u workers", (unsigned long long)room,
             (unsigned long long)limit, doctor->workers);
}

/* ---- with a worker --------------------------------------------------------------------------- */

/* What is asked of a worker: each takes a str and returns one, and may be asked of any. */
static const char source[] =
    "def python(name):\n"
    "    import sys\n"
    "    with open('/proc/self/maps') as maps:\n"
    "        libraries = {line.split()[-1] for line in maps if 'libpython' in line}\n"
    "    where = ', '.join(sorted(libraries)) or 'inside the worker program'\n"
    "    return f'{sys.version.split()[0]} of {sys.prefix}, libpython: {where}'\n"
    "def load(name):\n"
    "    import importlib, inspect, time\n"
    "    module, _, path = name.partition(':')\n"
    "    start = time.perf_counter()\n"
    "    found = importlib.import_module(module)\n"
    "    seconds = time.perf_counter() - start\n"
    "    for part in path.split('.') if path else []:\n"
    "        found = getattr(found, part)\n"
    "    if path and not callable(found):\n"
    "        raise TypeError(f'{name} cannot be called')\n"
    "    try:\n"
    "        parameters = str(inspect.signature(found)) if path else ''\n"
    "    except (TypeError, ValueError):\n"
    "        parameters = '(...)'\n"
    "    return f'{seconds:.3f} {name}{parameters}'\n"
    "def blas(name):\n"
    "    import ctypes, importlib, os\n"
    "    if name:\n"
    "        importlib.import_module(name.partition(':')[0])\n"
    "    kinds = {'openblas': ('openblas_get_num_threads', 'openblas_get_num_threads64_',\n"
    "                          'scipy_openblas_get_num_threads64_'),\n"
    "             'mkl_rt': ('MKL_Get_Max_Threads',), 'blis': ('bli_thread_get_num_threads',),\n"
    "             'libgomp': ('omp_get_max_threads',), 'libomp': ('omp_get_max_threads',)}\n"
    "    with open('/proc/self/maps') as maps:\n"
    "        paths = {line.split()[-1] for line in maps if '/' in line and '.so' in line}\n"
    "    most, found = 0, []\n"
    "    for path in sorted(paths):\n"
    "        base = os.path.basename(path)\n"
    "        for kind, functions in kinds.items():\n"
    "            if kind not in base:\n"
    "                continue\n"
    "            library = ctypes.CDLL(path)\n"
    "            counts = [getattr(library, f)() for f in functions if hasattr(library, f)]\n"
    "            if counts:\n"
    "                most = max(most, *counts)\n"
    "                found.append(base)\n"
    "    return f'{most} ' + ', '.join(found)\n";

/* The answer, in a buffer; or an error of the library. */
static int ask(struct doctor *doctor, const char *function, const char *argument,
               struct buffer *answer)
{
    const pycrew_function *handle;
    pycrew_call *call = NULL;
    const char *text;
    int r = pycrew_function_source(doctor->crew, function, source, &handle);
    if (r == 0)
        r = pycrew_prepare(doctor->crew, handle, PYCREW_FOREVER, &call);
    if (r == 0)
        r = pycrew_add(call, "s", argument);
    if (r == 0)
        r = pycrew_submit(call);
    if (r == 0)
        r = pycrew_wait(call, PYCREW_FOREVER);
    if (r == 0)
        r = pycrew_result(call, "s", &text);
    buffer_clear(answer);
    if (r == 0)
        buffer_text(answer, text);
    else
        crew_describe(answer, pycrew_last_error());
    pycrew_release(call);
    return r;
}

static const char *fix_of_start(const char *message)
{
    if (strstr(message, "worker program") != NULL)
        return "install pycrew whole, or set PYCREW_WORKER";
    if (strstr(message, "No module named") != NULL)
        return "--path DIR where the module is, or --python of the environment that has it";
    return "the traceback on standard error says where; pycrew_open(3) about this error";
}

/* false: no worker, and so nothing to ask it. */
static bool check_start(struct doctor *doctor)
{
    struct options options = *doctor->options;
    struct buffer text = {0};
    options.function = "operator:neg";
    int64_t started_ns = now_ns();
    int code = crew_open(&doctor->crew, &doctor->negate, &options, 0);
    double seconds = (double)(now_ns() - started_ns) / 1e9;
    if (code != 0) {
        crew_describe(&text, pycrew_last_error());
        tell(doctor, FAIL, "start", fix_of_start(buffer_string(&text)), "%s", buffer_string(&text));
    } else {
        tell(doctor, seconds > 10 ? WARN : OK, "start",
             seconds > 10 ? "a larger start_timeout_ns than its default of a minute, if need be"
                          : NULL,
             "the first worker is there after %.2f s", seconds);
    }
    buffer_free(&text);
    return code == 0;
}

static void check_python(struct doctor *doctor)
{
    struct buffer text = {0};
    int r = ask(doctor, "python", "", &text);
    tell(doctor, r == 0 ? OK : FAIL, "python",
         r == 0 ? NULL : "run the worker's Python by hand to see why", "%s", buffer_string(&text));
    buffer_free(&text);
}

static void check_import(struct doctor *doctor)
{
    const char *function = doctor->options->function;
    struct buffer text = {0};
    int r = ask(doctor, "load", function, &text);
    char *rest;
    double seconds = strtod(buffer_string(&text), &rest);
    if (r < 0)
        tell(doctor, FAIL, "import",
             strstr(buffer_string(&text), "No module named") != NULL
                 ? "--path DIR where the module is, or --python of the environment that has it"
                 : "make the module import by itself: python3 -c 'import MODULE'",
             "%s: %s", function, buffer_string(&text));
    else
        tell(doctor, seconds > 2 ? WARN : OK, "import",
             seconds > 2 ? "--preload MODULE: once, and not in each worker" : NULL,
             "%s, after %.3f s", rest + 1, seconds);
    buffer_free(&text);
}

static void check_blas(struct doctor *doctor)
{
    struct buffer text = {0};
    const char *function = doctor->options->function;
    int r = ask(doctor, "blas", function != NULL ? function : "", &text);
    char *names;
    unsigned long threads = strtoul(buffer_string(&text), &names, 10);
    bool many = threads > 1 && threads * doctor->workers > doctor->cpus;
    if (r < 0)
        tell(doctor, WARN, "BLAS threads", "import it by itself to see why", "%s",
             buffer_string(&text));
    else if (threads == 0)
        tell(doctor, OK, "BLAS threads", NULL, "no BLAS or OpenMP library is loaded");
    else
        tell(doctor, many ? WARN : OK, "BLAS threads",
             many ? "--env OPENBLAS_NUM_THREADS=1 --env OMP_NUM_THREADS=1, or fewer workers (-j)"
                  : NULL,
             "%lu of%s, times %u workers, on %u CPUs", threads, names, doctor->workers,
             doctor->cpus);
    buffer_free(&text);
}

static int call_once(struct doctor *doctor)
{
    pycrew_call *call = NULL;
    int64_t result = 0;
    int r = pycrew_prepare(doctor->crew, doctor->negate, PYCREW_FOREVER, &call);
    if (r == 0)
        r = pycrew_add_i64(call, 7);
    if (r == 0)
        r = pycrew_submit(call);
    if (r == 0)
        r = pycrew_wait(call, PYCREW_FOREVER);
    if (r == 0)
        r = pycrew_result_i64(call, &result);
    pycrew_release(call);
    return r == 0 && result != -7 ? PYCREW_ETYPE : r;
}

static void check_call(struct doctor *doctor)
{
    enum { CALLS = 100 };
    int64_t best = INT64_MAX;
    int r = 0;
    for (int i = 0; i < CALLS && r == 0; i++) {
        int64_t started = now_ns();
        r = call_once(doctor);
        int64_t took = now_ns() - started;
        best = took < best ? took : best;
    }
    if (r < 0)
        tell(doctor, FAIL, "one call", "pycrew call operator:neg 7 tells more",
             "operator:neg(7): %s", pycrew_last_error()->message);
    else
        tell(doctor, OK, "one call", NULL, "operator:neg(7) is back after %.1f us",
             (double)best / 1e3);
}

int command_doctor(const struct options *options)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct doctor doctor = {.options = options, .cpus = cpus > 0 ? (unsigned)cpus : 1};
    doctor.workers = options->workers > 0 ? options->workers : doctor.cpus;
    check_pidfd(&doctor);
    check_files(&doctor);
    check_address_space(&doctor);
    check_shared_memory(&doctor);
    check_memory(&doctor);
    check_processes(&doctor);
    if (check_start(&doctor)) {
        check_python(&doctor);
        if (options->function != NULL)
            check_import(&doctor);
        check_blas(&doctor);
        check_call(&doctor);
    }
    pycrew_close(doctor.crew);
    return doctor.failed > 0 ? EXIT_FAILED : EXIT_ALL_WELL;
}
