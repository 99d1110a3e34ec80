/* pycrew_open and its options: what is out of range, missing or broken is an error that says so,
 * and nothing stays behind; what is right reaches the workers. */
#include <limits.h>
#include <sys/resource.h>

#include "tests/harness/crew.h"

/* ---- what a failed open leaves ----------------------------------------------------------------
 */

typedef struct world {
    int descriptors, names;
} world;

static world look_around(void)
{
    return (world){count_entries("/proc/self/fd", ""), count_entries("/dev/shm", "pycrew.")};
}

/* Open fails with this code; each part stands in the message; ret is untouched, and neither a
 * process, zombies included, nor a descriptor nor a name is left. */
static void refused_with(const pycrew_options *options, int code, const char *part,
                         const char *part2)
{
    pycrew_crew *const untouched = (pycrew_crew *)(void *)&code;
    pycrew_crew *crew = untouched;
    world before = look_around(), after;

    GIVES(pycrew_open(&crew, options), code);
    ASSERT_INT(pycrew_last_error()->code, code);
    CONTAINS(pycrew_last_error()->message, part);
    CONTAINS(pycrew_last_error()->message, part2);
    ASSERT(crew == untouched);
    after = look_around();
    ASSERT_INT(after.descriptors, before.descriptors);
    ASSERT(after.names <= before.names); /* other programs' may go meanwhile */
    ASSERT_INT(tap_count_children(getpid(), 0, true, NULL, 0), 0);
}

static void refused(const pycrew_options *options, int code, const char *part)
{
    refused_with(options, code, part, "");
}

/* ---- without options, and their size ----------------------------------------------------------
 */

static double hypotenuse(pycrew_crew *crew)
{
    double result = 0;

    OK(pycrew_run(crew, "math:hypot", "dd>d", 3.0, 4.0, &result));
    return result;
}

TEST(a_crew_opens_without_options)
{
    pycrew_crew *crew = open_with(NULL);

    ASSERT(hypotenuse(crew) == 5.0);
    pycrew_close(crew);
}

TEST(opening_into_nowhere_is_refused)
{
    GIVES(pycrew_open(NULL, NULL), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "ret");
}

TEST(closing_nothing_is_allowed)
{
    pycrew_close(NULL);
}

TEST(options_of_no_possible_size_are_refused)
{
    static const size_t sizes[] = {0,
                                   1,
                                   sizeof(size_t),
                                   offsetof(pycrew_options, python) - 1,
                                   offsetof(pycrew_options, python) + 4, /* half a pointer */
                                   sizeof(pycrew_options) - 1,
                                   sizeof(pycrew_options) + 1};
    pycrew_options options[2] = {PYCREW_OPTIONS_INIT, PYCREW_OPTIONS_INIT};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        options[0].size = sizes[i];
        refused(options, -EINVAL, "options.size");
    }
}

TEST(options_of_an_older_size_are_accepted)
{
    pycrew_options options;
    pycrew_crew *crew;

    memset(&options, 0x5a, sizeof options); /* what is beyond size is not looked at */
    options.size = offsetof(pycrew_options, python);
    options.workers = 1;
    crew = open_with(&options);
    ASSERT(hypotenuse(crew) == 5.0);
    pycrew_close(crew);
}

typedef struct newer_options {
    pycrew_options known;
    void *unknown[2];
} newer_options;

TEST(options_of_a_newer_size_are_accepted_where_the_new_is_zero)
{
    newer_options options = {.known = test_options(1)};
    pycrew_crew *crew;

    options.known.size = sizeof options;
    crew = open_with(&options.known);
    ASSERT(hypotenuse(crew) == 5.0);
    pycrew_close(crew);
}

TEST(options_of_a_newer_size_are_refused_where_the_new_is_used)
{
    newer_options options = {.known = test_options(1)};
    char place[32];

    options.known.size = sizeof options;
    ((char *)options.unknown)[sizeof options.unknown - 1] = 1;
    snprintf(place, sizeof place, "byte %zu", sizeof options - 1);
    refused_with(&options.known, -EINVAL, place, pycrew_version());
}

/* ---- how many workers -------------------------------------------------------------------------
 */

static void await_workers(int count)
{
    int pids[8];

    AWAIT(find_workers(pids, 8) == count);
}

TEST(as_many_workers_as_cpus_that_may_be_used_is_the_default)
{
    cpu_set_t all, one;
    pycrew_crew *crew;
    int pids[1];

    ASSERT(sched_getaffinity(0, sizeof all, &all) == 0);
    CPU_ZERO(&one);
    for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    ASSERT(sched_setaffinity(0, sizeof one, &one) == 0);
    crew = open_crew(0);
    await_workers(1);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT_INT(find_workers(pids, 1), 1); /* and no second one came */
    pycrew_close(crew);

    ASSERT(sched_setaffinity(0, sizeof all, &all) == 0);
    crew = open_crew(0);
    if (CPU_COUNT(&all) > 1)
        AWAIT(find_workers(pids, 1) > 1 || access("/sys/fs/cgroup/cpu.max", F_OK) == 0);
    ASSERT(find_workers(pids, 1) <= CPU_COUNT(&all));
    pycrew_close(crew);
}

TEST(one_worker_is_enough)
{
    pycrew_crew *crew = open_crew(1);
    int number = -1;

    await_workers(1);
    OK(pycrew_run(crew, "api_ops:worker", ">i", &number));
    ASSERT_INT(number, 0);
    pycrew_close(crew);
}

/* MemAvailable, in MiB. */
static long memory_available(void)
{
    static char text[8192];
    const char *at;

    tap_read_file("/proc/meminfo", text, sizeof text);
    at = strstr(text, "MemAvailable:");
    return at == NULL ? 0 : strtol(at + 13, NULL, 10) / 1024;
}

static void need_for_workers(unsigned workers)
{
    struct rlimit files, processes;

    ASSERT(getrlimit(RLIMIT_NOFILE, &files) == 0 && getrlimit(RLIMIT_NPROC, &processes) == 0);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < (rlim_t)(3 * workers + 64))
        SKIP("RLIMIT_NOFILE is %llu", (unsigned long long)files.rlim_max);
    if (processes.rlim_cur < (rlim_t)(2 * workers))
        SKIP("RLIMIT_NPROC is %llu", (unsigned long long)processes.rlim_cur);
    if (memory_available() < 8 * (long)workers)
        SKIP("%ld MiB of memory are too few", memory_available());
}

TEST(five_hundred_workers_all_become_ready)
{
    enum { WORKERS = 500 };
    pycrew_options options = test_options(WORKERS);
    const char *notes = scratch("notes");
    char variable[200];
    const char *env[] = {variable, NULL};
    pycrew_crew *crew;
    int sum;

    need_for_workers(WORKERS);
    snprintf(variable, sizeof variable, "TEST_INIT_NOTE=%s", notes);
    options.env = env;
    options.init = "open_ops:note_init";
    crew = open_with(&options);
    AWAIT(file_size(notes) == WORKERS);
    OK(pycrew_run(crew, "api_ops:add", "ii>i", 3, 5, &sum));
    ASSERT_INT(sum, 8);
    pycrew_close(crew);
}

/* ---- out of range -----------------------------------------------------------------------------
 */

#define REFUSED_IF(field, value)                                                                   \
    do {                                                                                           \
        pycrew_options bad = test_options(1);                                                      \
        bad.field = (value);                                                                       \
        refused(&bad, -EINVAL, "options." #field " ");                                             \
    } while (0)

TEST(options_out_of_range_are_refused_by_name)
{
    REFUSED_IF(workers, 1025);
    REFUSED_IF(workers, UINT_MAX);
    REFUSED_IF(calls, (1 << 19) + 1);
    REFUSED_IF(calls, UINT_MAX);
    REFUSED_IF(queues, 4097);
    REFUSED_IF(queues, UINT_MAX);
    REFUSED_IF(memory, 1);
    REFUSED_IF(memory, SIZE_MAX);
    REFUSED_IF(output, -1);
    REFUSED_IF(output, 3);
    REFUSED_IF(start_timeout_ns, -2);
    REFUSED_IF(start_timeout_ns, INT64_MIN);
    REFUSED_IF(timeout_ns, -2);
    REFUSED_IF(timeout_ns, INT64_MIN);
    REFUSED_IF(grace_ns, -1); /* a call that swallows its interrupt would never end */
    REFUSED_IF(grace_ns, INT64_MIN);
    REFUSED_IF(python, "");
}

TEST(too_little_memory_for_the_calls_asked_for_is_refused)
{
    pycrew_options options = test_options(1);

    options.calls = 1 << 19;
    options.memory = (size_t)16 << 20;
    refused_with(&options, -EINVAL, "options.memory", "524288 calls");
}

TEST(the_largest_values_in_range_are_accepted)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.retries = UINT_MAX;
    options.timeout_ns = INT64_MAX;
    options.grace_ns = INT64_MAX;
    options.start_timeout_ns = INT64_MAX;
    options.queues = 4096;
    options.calls = 1;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(times_that_never_end_are_accepted)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.timeout_ns = PYCREW_FOREVER;
    options.start_timeout_ns = PYCREW_FOREVER;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(options_too_long_for_a_message_are_refused)
{
    pycrew_options options = test_options(1);
    static char long_path[200000];
    const char *path[] = {long_path, NULL};

    memset(long_path, 'x', sizeof long_path - 1);
    options.path = path;
    refused(&options, -E2BIG, "path");
}

/* ---- the worker program -----------------------------------------------------------------------
 */

static void refused_worker(const char *program, int code, const char *part, const char *part2)
{
    pycrew_options options = test_options(1);

    setenv("PYCREW_WORKER", program, 1);
    options.start_timeout_ns = BOUND;
    refused_with(&options, code, part, part2);
}

TEST(a_missing_worker_program_is_named)
{
    refused_worker("/nowhere/pycrew-worker", PYCREW_ESTART, "/nowhere/pycrew-worker",
                   "No such file");
}

static const char *write_file(const char *name, const char *text, mode_t mode)
{
    const char *path = scratch(name);
    FILE *file = fopen(path, "w");

    ASSERT(file != NULL);
    fputs(text, file);
    ASSERT(fclose(file) == 0);
    ASSERT(chmod(path, mode) == 0);
    return path;
}

TEST(a_worker_program_that_is_run_by_hand_says_what_it_is)
{
    char command[4200], line[200] = "";
    FILE *pipe;

    snprintf(command, sizeof command, "'%s' 2>&1", getenv("PYCREW_WORKER"));
    pipe = popen(command, "r");
    ASSERT(pipe != NULL && fgets(line, sizeof line, pipe) != NULL);
    ASSERT_STR(line, "pycrew-worker is started by libpycrew, not by hand\n");
    ASSERT_INT(WEXITSTATUS(pclose(pipe)), 2);
}

TEST(a_worker_program_that_is_not_executable_is_named)
{
    const char *path = write_file("worker", "#!/bin/sh\n", 0644);

    refused_worker(path, PYCREW_ESTART, path, "Permission denied");
}

TEST(a_directory_is_no_worker_program)
{
    refused_worker("/", PYCREW_ESTART, "worker program /", "Permission denied");
}

TEST(a_worker_program_that_is_no_program_is_named)
{
    const char *path = write_file("worker",
                                  "\x7f"
                                  "ELF, but no more than that",
                                  0755);

    refused_worker(path, PYCREW_ESTART, path, "Exec format error");
}

TEST(a_worker_program_that_is_another_one_is_named)
{
    refused_worker("/bin/true", PYCREW_ESTART, "/bin/true", "exit status 0");
    refused_worker("/bin/false", PYCREW_ESTART, "/bin/false", "exit status 1");
    refused_worker("/bin/cat", PYCREW_ESTART, "/bin/cat", "exit status 0");
}

TEST(a_worker_program_that_crashes_is_named)
{
    const char *path = write_file("worker", "#!/bin/sh\nkill -SEGV $$\n", 0755);

    refused_worker(path, PYCREW_ESTART, path, "signal 11");
}

/* A worker program that answers with this, in Python, and then sleeps. */
static const char *write_worker(const char *message)
{
    static char text[1024];

    snprintf(text, sizeof text,
             "#!/usr/bin/python3\n"
             "import socket, struct, time\n"
             "control = socket.socket(fileno=3)\n"
             "control.send(%s)\n"
             "time.sleep(3600)\n",
             message);
    return write_file("worker", text, 0755);
}

TEST(a_worker_program_of_another_version_is_refused_with_both_versions)
{
    /* pc_message: kind HELLO, worker, incarnation, number, status, size of the text, value */
    const char *path = write_worker("struct.pack('=IIIiiIQ', 1, 0, 0, 0, 0, 5, 0xbad) + b'9.9.9'");

    refused_worker(path, PYCREW_ESTART, "9.9.9", pycrew_version());
    CONTAINS(pycrew_last_error()->message, "another version");
}

TEST(a_worker_program_that_speaks_another_language_is_named)
{
    const char *path = write_worker("b'hello'");

    refused_worker(path, PYCREW_ESTART, path, "");
}

TEST(a_worker_program_that_says_nothing_is_given_up_in_time)
{
    pycrew_options options = test_options(1);

    setenv("PYCREW_WORKER", write_file("worker", "#!/bin/sh\nexec sleep 3600\n", 0755), 1);
    options.start_timeout_ns = 100 * MS;
    refused_with(&options, -ETIMEDOUT, "0.1 s", "start_timeout_ns");
}

/* ---- python= ----------------------------------------------------------------------------------
 */

static void worker_version(int *major, int *minor)
{
    char command[4200];
    FILE *pipe;

    snprintf(command, sizeof command, "'%s' --version", getenv("PYCREW_WORKER"));
    pipe = popen(command, "r");
    ASSERT(pipe != NULL);
    ASSERT_INT(fscanf(pipe, "pycrew-worker %*s Python %d.%d", major, minor), 2);
    ASSERT_INT(pclose(pipe), 0);
}

/* An interpreter that pyenv has installed, of the worker's minor version. */
static bool find_python(char *path, size_t capacity)
{
    int worker_major, worker_minor, major, minor;
    char versions[2048];
    DIR *directory;
    struct dirent *entry;
    bool found = false;

    worker_version(&worker_major, &worker_minor);
    snprintf(versions, sizeof versions, "%s/.pyenv/versions", getenv("HOME") ? getenv("HOME") : "");
    directory = opendir(versions);
    while (!found && directory != NULL && (entry = readdir(directory)) != NULL) {
        if (sscanf(entry->d_name, "%d.%d", &major, &minor) != 2 || major != worker_major ||
            minor != worker_minor)
            continue;
        snprintf(path, capacity, "%s/%s/bin/python3", versions, entry->d_name);
        found = access(path, X_OK) == 0;
    }
    if (directory != NULL)
        closedir(directory);
    return found;
}

TEST(a_missing_python_is_named)
{
    pycrew_options options = test_options(1);

    options.python = "/nowhere/bin/python3";
    refused_with(&options, PYCREW_ESTART, "/nowhere/bin/python3", "No such file");
    options.python = "no-such-python";
    refused(&options, PYCREW_ESTART, "no-such-python");
}

TEST(a_python_that_is_not_executable_is_named)
{
    pycrew_options options = test_options(1);

    options.python = write_file("python3", "", 0644);
    refused_with(&options, PYCREW_ESTART, options.python, "Permission denied");
}

static void runs_in(const char *python, const char *prefix)
{
    pycrew_options options = test_options(1);
    char *found = NULL;
    pycrew_crew *crew;

    options.python = python;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:evaluate", "s>s", "sys.prefix", &found));
    ASSERT_STR(found, prefix);
    free(found);
    OK(pycrew_run(crew, "api_ops:executable", ">s", &found));
    ASSERT_STR(found, python);
    free(found);
    pycrew_close(crew);
}

/* It is told by the program's name, behind all links: none of that version need be here. */
TEST(a_program_that_is_called_as_another_python_is_refused_with_both_versions)
{
    pycrew_options options = test_options(1);

    options.python = write_file("python3.3", "#!/bin/sh\n", 0755);
    refused_with(&options, PYCREW_ESTART, "python3.3 is Python 3.3, and this pycrew has workers for",
                 "for Python 3.");
}

TEST(a_python_without_a_slash_is_looked_for_in_the_path)
{
    pycrew_options options = test_options(1);
    char path[4200];

    write_file("python3.3", "#!/bin/sh\n", 0755);
    snprintf(path, sizeof path, "/nowhere::%s:/usr/bin", scratch_directory());
    setenv("PATH", path, 1);
    options.python = "python3.3";
    refused_with(&options, PYCREW_ESTART, scratch_directory(), "python3.3 is Python 3.3");
}

TEST(a_python_of_the_same_minor_version_gives_its_environment)
{
    char path[4200], prefix[4200];

    if (!find_python(path, sizeof path))
        SKIP("no Python of this version is installed under ~/.pyenv/versions");
    snprintf(prefix, sizeof prefix, "%.*s", (int)(strlen(path) - strlen("/bin/python3")), path);
    runs_in(path, prefix);
}

TEST(a_virtual_environments_python_gives_its_environment)
{
    char prefix[128], python[160], command[400];

    snprintf(prefix, sizeof prefix, "%s", scratch("venv"));
    snprintf(command, sizeof command, "%s -m venv --without-pip %s",
             getenv("PYTHON") ? getenv("PYTHON") : "python3", prefix);
    if (system(command) != 0)
        SKIP("%s fails", command);
    snprintf(python, sizeof python, "%s/bin/python3", prefix);
    runs_in(python, prefix);
    snprintf(command, sizeof command, "rm -r %s", prefix);
    ASSERT_INT(system(command), 0);
}

/* ---- preload ----------------------------------------------------------------------------------
 */

static pycrew_options preloading(const char *module)
{
    static const char *list[2];
    pycrew_options options = test_options(2);

    list[0] = module;
    options.preload = list;
    return options;
}

static void refused_preload(const char *module, const char *part)
{
    pycrew_options options = preloading(module);

    refused(&options, PYCREW_ESTART, part);
}

TEST(a_preload_module_is_there_in_the_workers)
{
    pycrew_options options = preloading("wave");
    pycrew_crew *crew = open_with(&options);
    int there = 0;

    OK(pycrew_run(crew, "api_ops:modules", "s>p", "wave", &there));
    ASSERT(there);
    pycrew_close(crew);
}

TEST(a_missing_preload_module_is_named)
{
    refused_preload("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'");
    CONTAINS(pycrew_last_error()->traceback, "ModuleNotFoundError");
    refused_preload("no.such.module", "No module named 'no'");
    refused_preload("", "Empty module name");
    refused_preload("api_ops:add", "No module named 'api_ops:add'");
}

TEST(a_preload_module_that_fails_at_import_is_reported_with_its_traceback)
{
    refused_preload("fails_at_import", "LookupError: this module fails at import");
    CONTAINS(pycrew_last_error()->traceback, "fails_at_import.py\", line 2");
}

TEST(a_preload_module_that_is_not_python_is_reported)
{
    pycrew_options options = preloading("not_python");
    const char *path[] = {scratch_directory(), NULL};

    write_file("not_python.py", "this is = not python\n", 0644);
    options.path = path;
    refused_with(&options, PYCREW_ESTART, "SyntaxError", "");
    CONTAINS(pycrew_last_error()->traceback, "not_python.py");
}

TEST(a_preload_module_that_ends_the_process_is_reported)
{
    refused_preload("dies_at_import", "exit status 9");
}

TEST(a_preload_module_that_exits_is_reported)
{
    refused_preload("exits_at_import", "SystemExit: 3");
}

TEST(a_preload_module_that_takes_too_long_is_given_up_in_time)
{
    pycrew_options options = preloading("sleeps_at_import");
    int64_t begin = now_ns();

    options.start_timeout_ns = 300 * MS;
    refused_with(&options, -ETIMEDOUT, "0.3 s", "start_timeout_ns");
    ASSERT(now_ns() - begin < BOUND);
}

/* ---- init and exit ----------------------------------------------------------------------------
 */

static void refused_init(const char *init, int code, const char *part)
{
    pycrew_options options = test_options(2);

    options.init = init;
    refused(&options, code, part);
}

TEST(the_init_function_runs_once_in_each_worker_before_its_first_call)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    int count = 0;

    options.init = "api_ops:init";
    crew = open_with(&options);
    for (int i = 0; i < 3; i++) {
        OK(pycrew_run(crew, "api_ops:init_count", ">i", &count));
        ASSERT_INT(count, 1);
    }
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    OK(pycrew_run(crew, "api_ops:init_count", ">i", &count));
    ASSERT_INT(count, 1);
    pycrew_close(crew);
}

TEST(an_init_function_that_raises_is_reported_with_its_traceback)
{
    refused_init("api_ops:init_fails", PYCREW_ESTART, "RuntimeError: init has no mind to");
    CONTAINS(pycrew_last_error()->traceback, "in init_fails");
}

TEST(an_init_function_that_is_not_there_is_reported)
{
    refused_init("no_such_module:init", PYCREW_ESTART, "No module named 'no_such_module'");
    refused_init("api_ops:no_such_function", PYCREW_ESTART, "no_such_function");
    refused_init("api_ops:NOT_CALLABLE", PYCREW_ESTART, "not callable");
}

TEST(an_init_function_that_ends_the_process_is_reported)
{
    refused_init("api_ops:init_dies", PYCREW_ESTART, "exit status 5");
}

TEST(an_init_function_that_takes_too_long_is_given_up_in_time)
{
    pycrew_options options = test_options(2);

    options.init = "open_ops:init_sleeps";
    options.start_timeout_ns = 300 * MS;
    refused(&options, -ETIMEDOUT, "start_timeout_ns");
}

TEST(malformed_names_of_init_and_exit_are_refused_by_name)
{
    static const char *const names[] = {"",      ":",     "init",  "module:", ":function",
                                        "a b:c", "m:f()", "m:f:g", "m.:f",    "m\xff:f"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        pycrew_options options = test_options(1);

        options.init = names[i];
        refused(&options, -EINVAL, "options.init");
        options.init = NULL;
        options.exit = names[i];
        refused(&options, -EINVAL, "options.exit");
    }
}

TEST(the_exit_function_runs_in_each_worker_after_its_last_call)
{
    pycrew_options options = test_options(2);
    const char *notes = scratch("notes");
    char variable[200];
    const char *env[] = {variable, NULL};
    pycrew_call *one, *other;
    pycrew_crew *crew;

    snprintf(variable, sizeof variable, "TEST_EXIT_NOTE=%s", notes);
    options.env = env;
    options.exit = "api_ops:at_exit";
    options.grace_ns = BOUND;
    crew = open_with(&options);
    one = SUBMIT(crew, "open_ops:meet", "ss", scratch("one"), scratch("other"));
    other = SUBMIT(crew, "open_ops:meet", "ss", scratch("other"), scratch("one"));
    OK(pycrew_wait(one, BOUND)); /* so both workers are ready */
    OK(pycrew_wait(other, BOUND));
    ASSERT_INT(file_size(notes), -1);
    pycrew_close(crew);
    ASSERT_INT(file_size(notes), 2);
}

TEST(a_close_does_not_wait_the_grace_for_workers_that_are_still_starting)
{
    pycrew_options options = test_options(8);
    int64_t begin;

    options.grace_ns = BOUND;
    for (int i = 0; i < 5; i++) {
        pycrew_crew *crew = open_with(&options);

        begin = now_ns();
        pycrew_close(crew);
        ASSERT(now_ns() - begin < BOUND / 2);
    }
}

/* ---- env and path -----------------------------------------------------------------------------
 */

static void sees(pycrew_crew *crew, const char *name, const char *value)
{
    char *found = NULL;

    OK(pycrew_run(crew, "api_ops:environment", "s>z", name, &found));
    ASSERT_STR(found, value);
    free(found);
}

TEST(workers_see_the_hosts_environment_with_what_env_sets_and_unsets)
{
    static const char *const env[] = {"TEST_SET=new",   "TEST_CHANGED=after", "TEST_UNSET",
                                      "TEST_EMPTY=",    "TEST_TWICE=1",       "TEST_TWICE=2",
                                      "TEST_SIGNS=a=b", "TEST_NEVER_THERE",   NULL};
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    setenv("TEST_KEPT", "kept", 1);
    setenv("TEST_CHANGED", "before", 1);
    setenv("TEST_UNSET", "there", 1);
    setenv("TEST_UNSET_NOT", "there", 1); /* only begins like it */
    options.env = env;
    crew = open_with(&options);
    sees(crew, "TEST_KEPT", "kept");
    sees(crew, "TEST_SET", "new");
    sees(crew, "TEST_CHANGED", "after");
    sees(crew, "TEST_UNSET", NULL);
    sees(crew, "TEST_UNSET_NOT", "there");
    sees(crew, "TEST_EMPTY", "");
    sees(crew, "TEST_TWICE", "2");
    sees(crew, "TEST_SIGNS", "a=b");
    sees(crew, "TEST_NEVER_THERE", NULL);
    ASSERT_STR(getenv("TEST_CHANGED"), "before"); /* the host's own is as it was */
    pycrew_close(crew);
}

TEST(entries_of_env_without_a_name_are_refused)
{
    static const char *const nameless[] = {"=value", NULL}, *const empty[] = {"", NULL};
    pycrew_options options = test_options(1);

    options.env = nameless;
    refused(&options, -EINVAL, "options.env has \"=value\"");
    options.env = empty;
    refused(&options, -EINVAL, "options.env has \"\"");
}

TEST(path_stands_in_front_of_sys_path_in_its_order)
{
    const char *path[] = {"/first in front", "/second", source_directory(), test_path()[0], NULL};
    pycrew_options options = test_options(1);
    char *first = NULL, *second = NULL;
    pycrew_crew *crew;

    options.path = path;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:evaluate", "s>ss", "sys.path[:2]", &first, &second));
    ASSERT_STR(first, "/first in front");
    ASSERT_STR(second, "/second");
    free(first);
    free(second);
    pycrew_close(crew);
}

TEST(options_need_not_outlive_the_open)
{
    pycrew_options *options = malloc(sizeof *options);
    char *path = strdup(test_path()[0]), *variable = strdup("TEST_SET=kept"),
         *init = strdup("api_ops:init");
    const char *list[] = {path, NULL}, *env[] = {variable, NULL};
    pycrew_crew *crew;
    int count = 0;

    ASSERT(options != NULL);
    *options = test_options(1);
    options->path = list;
    options->env = env;
    options->init = init;
    crew = open_with(options);
    memset(path, 'x', strlen(path));
    memset(variable, 'x', strlen(variable));
    memset(init, 'x', strlen(init));
    list[0] = env[0] = NULL;
    memset(options, 0xff, sizeof *options);
    free(path);
    free(variable);
    free(init);
    free(options);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    OK(pycrew_run(crew, "api_ops:init_count", ">i", &count)); /* the next worker uses them too */
    ASSERT_INT(count, 1);
    sees(crew, "TEST_SET", "kept");
    pycrew_close(crew);
}

/* ---- output -----------------------------------------------------------------------------------
 */

typedef struct log_lines {
    pthread_mutex_t lock;
    char text[4096];
} log_lines;

static void keep_line(void *data, int level, const char *line)
{
    log_lines *lines = data;
    size_t used;

    pthread_mutex_lock(&lines->lock);
    used = strlen(lines->text);
    snprintf(lines->text + used, sizeof lines->text - used, "%d %s\n", level, line);
    pthread_mutex_unlock(&lines->lock);
}

static bool has_line(log_lines *lines, const char *line)
{
    bool has;

    pthread_mutex_lock(&lines->lock);
    has = strstr(lines->text, line) != NULL;
    pthread_mutex_unlock(&lines->lock);
    return has;
}

static pycrew_options logging_to(log_lines *lines, unsigned workers)
{
    pycrew_options options = test_options(workers);

    options.log = keep_line;
    options.log_data = lines;
    return options;
}

static void say(pycrew_crew *crew, const char *text, const char *stream)
{
    OK(pycrew_run(crew, "api_ops:say", "ss>", text, stream));
}

TEST(what_workers_print_comes_to_the_log_line_by_line_with_their_number)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};
    pycrew_options options = logging_to(&lines, 1);
    pycrew_crew *crew = open_with(&options);

    say(crew, "one\ntwo", "stdout");
    say(crew, "three", "stderr");
    OK(pycrew_run(crew, "api_ops:say_raw", "s>", "no newline"));
    AWAIT(has_line(&lines, "0 [w0] one\n0 [w0] two\n0 [w0] three\n"));
    pycrew_close(crew);
    ASSERT(has_line(&lines, "0 [w0] three\n0 [w0] no newline\n")); /* came with the end */
}

TEST(what_a_preload_module_prints_comes_to_the_log)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};
    pycrew_options options = logging_to(&lines, 1);
    const char *preload[] = {"prints_at_import", NULL};
    pycrew_crew *crew;

    options.preload = preload;
    crew = open_with(&options);
    AWAIT(has_line(&lines, "0 [zygote] printed at import\n"));
    pycrew_close(crew);
}

TEST(threads_that_the_preload_leaves_are_warned_of)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};
    pycrew_options options = logging_to(&lines, 1);
    const char *preload[] = {"leaves_a_thread", NULL}, *path[] = {scratch_directory(), NULL};
    pycrew_crew *crew;

    write_file("leaves_a_thread.py",
               "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n",
               0644);
    options.path = path;
    options.preload = preload;
    crew = open_with(&options);
    AWAIT(has_line(&lines, "threads are alive after the preload"));
    pycrew_close(crew);
}

TEST(an_exit_function_that_raises_is_printed_with_its_traceback)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};
    pycrew_options options = logging_to(&lines, 1);
    pycrew_crew *crew;

    options.exit = "api_ops:fail";
    options.grace_ns = BOUND;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
    ASSERT(has_line(&lines, "[w0] ValueError: no good"));
}

TEST(what_is_printed_before_a_failed_open_comes_to_the_log)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};
    pycrew_options options = logging_to(&lines, 1);
    const char *preload[] = {"prints_at_import", "fails_at_import", NULL};

    options.preload = preload;
    refused(&options, PYCREW_ESTART, "LookupError");
    ASSERT(has_line(&lines, "0 [zygote] printed at import\n"));
}

/* Runs a worker that prints, with the host's stdout and stderr in a file: its text. */
static const char *printed_in_mode(int output, log_lines *lines)
{
    static char text[4096];
    pycrew_options options = logging_to(lines, 1);
    const char *path = scratch("output");
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int out = fcntl(1, F_DUPFD_CLOEXEC, 3), error = fcntl(2, F_DUPFD_CLOEXEC, 3);
    pycrew_crew *crew;

    ASSERT(file >= 0 && out >= 0 && error >= 0);
    ASSERT(dup2(file, 1) == 1 && dup2(file, 2) == 2);
    options.output = output;
    crew = open_with(&options);
    say(crew, "to stdout", "stdout");
    say(crew, "to stderr", "stderr");
    pycrew_close(crew);
    ASSERT(dup2(out, 1) == 1 && dup2(error, 2) == 2);
    close(file);
    close(out);
    close(error);
    tap_read_file(path, text, sizeof text);
    return text;
}

TEST(inherited_output_goes_where_the_hosts_own_goes)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};

    ASSERT_STR(printed_in_mode(PYCREW_INHERIT, &lines), "to stdout\nto stderr\n");
    ASSERT_STR(lines.text, "");
}

TEST(discarded_output_goes_nowhere)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};

    ASSERT_STR(printed_in_mode(PYCREW_DISCARD, &lines), "");
    ASSERT_STR(lines.text, "");
}

TEST(logged_output_goes_to_the_log_alone)
{
    static log_lines lines = {PTHREAD_MUTEX_INITIALIZER, ""};

    ASSERT_STR(printed_in_mode(PYCREW_LOG, &lines), "");
    ASSERT_STR(lines.text, "0 [w0] to stdout\n0 [w0] to stderr\n");
}

TEST(without_a_log_function_lines_go_to_stderr)
{
    pycrew_options options = test_options(1);
    const char *path = scratch("output");
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int error = fcntl(2, F_DUPFD_CLOEXEC, 3);
    char text[4096];
    pycrew_crew *crew;

    ASSERT(file >= 0 && error >= 0 && dup2(file, 2) == 2);
    options.log = NULL;
    crew = open_with(&options);
    say(crew, "a line", "stdout");
    pycrew_close(crew);
    ASSERT(dup2(error, 2) == 2);
    close(file);
    close(error);
    tap_read_file(path, text, sizeof text);
    ASSERT_STR(text, "[w0] a line\n");
}

TAP_MAIN
