/* Each error that a program can cause with pycrew.h: its code and its whole text, as doc/errors.md
   has them. One row, one error; see tests/harness/errors.h. What the arrays' and maps' are, and
   what Python code in the workers sees, is in test-errors-arrays.c and test-errors-python.c. */
#include <sys/resource.h>
#include <sys/wait.h>

#include "lib/pycrew-stubs.h"
#include "tests/harness/errors.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* ---- opening a crew ---------------------------------------------------------------------------
 */

static const char *const *list_of(const char *text)
{
    static const char *list[2];

    list[0] = text;
    return list;
}

/* A field behind the last one that this version knows. */
static int open_newer(void)
{
    struct {
        pycrew_options known;
        uint64_t unknown;
    } options = {.unknown = 1};

    options.known = errors_options();
    options.known.size = sizeof options;
    return errors_open(&options.known);
}

ROWS(options_that_are_out_of_range)
{
    ERROR(-EINVAL, "pycrew_open: ret must not be NULL", pycrew_open(NULL, NULL));
    ERROR(-EINVAL, "options.size is *bytes*: start from PYCREW_OPTIONS_INIT", OPEN(size = 3));
    ERROR(-EINVAL,
          "options has a field, at byte *offset*, that this version (*version*) does not know: the "
          "program was compiled with a newer pycrew.h",
          open_newer());
    ERROR(-EINVAL, "options.workers is *number*; at most *most*", OPEN(workers = 1000000));
    ERROR(-EINVAL, "options.calls is *number*; at most *most*", OPEN(calls = 1u << 30));
    ERROR(-EINVAL, "options.queues is *number*; at most *most*", OPEN(queues = 5000));
    ERROR(-EINVAL, "options.export_threads is *number*; at most *most*",
          OPEN(export_threads = 1000));
    ERROR(-EINVAL, "options.inflight is *number*; at most *most*", OPEN(inflight = 1u << 30));
    ERROR(-EINVAL, "options.memory is *bytes* bytes; at least *least*, at most *most*",
          OPEN(memory = 5));
    ERROR(-EINVAL,
          "options.memory is *bytes* bytes; *calls* calls and *workers* workers need *least*",
          OPEN(memory = 8 << 20, options.calls = 100000));
    ERROR(-EINVAL, "options.output is *number*; PYCREW_LOG, PYCREW_INHERIT or PYCREW_DISCARD",
          OPEN(output = 7));
    ERROR(-EINVAL, "options.start_timeout_ns is *time*; 0, PYCREW_FOREVER or more",
          OPEN(start_timeout_ns = -2));
    ERROR(-EINVAL, "options.timeout_ns is *time*; 0, PYCREW_FOREVER or more",
          OPEN(timeout_ns = -2));
    ERROR(-EINVAL, "options.grace_ns is *time*; 0 or more", OPEN(grace_ns = -1));
    ERROR(-EINVAL, "options.env has \"*text*\": the form is NAME=value, or NAME",
          OPEN(env = list_of("=value")));
    ERROR(-EINVAL, "options.*name* is *value*; 0, or at least *least*", OPEN(limit_files = 3));
    ERROR(-EINVAL,
          "options.limit_memory is *bytes* bytes; options.memory, which all workers map, and "
          "Python need *least*",
          OPEN(limit_memory = 64 << 20, options.memory = 64 << 20));
    ERROR(-EINVAL, "options.nice is *value*; -20 to 19", OPEN(nice = 20));
    ERROR(-EINVAL, "options.cpus is \"*text*\"; \"one\", a list as \"0-3,8\", or \"one:0-3,8\"",
          OPEN(cpus = "all"));
    ERROR(-EINVAL, "options.cpus has CPU *number*, which this process may not use",
          OPEN(cpus = "1000"));
    ERROR(-EINVAL, "options.workers is *number*; with options.debug there is one",
          OPEN(debug = true, options.workers = 2));
    ERROR(-EINVAL,
          "options.*name*: function name \"*name*\": it ends where a name should follow; the form "
          "is package.module:name",
          OPEN(init = "module:"));
    ERROR(-EINVAL, "options.python is an empty string: a program's name or path, or NULL",
          OPEN(python = ""));
    ERROR(-EINVAL, "options.trace is an empty string: a file's path, or NULL", OPEN(trace = ""));
    ERROR(PYCREW_ESTART, "options.python is *path*: *reason*", OPEN(python = "/nowhere/python"));
}

static char *long_path(void)
{
    char *path = malloc(200000);

    memset(path, 'x', 199999);
    path[199999] = '\0';
    return path;
}

static int open_with_few_descriptors(void)
{
    struct rlimit limit, few = {20, 20};
    int rc;

    getrlimit(RLIMIT_NOFILE, &limit);
    few.rlim_max = limit.rlim_max;
    closefrom(3);
    setrlimit(RLIMIT_NOFILE, &few);
    rc = OPEN(workers = 16);
    setrlimit(RLIMIT_NOFILE, &limit);
    return rc;
}

static int open_in_little_address_space(void)
{
    struct rlimit limit, little;
    int rc;

    getrlimit(RLIMIT_AS, &limit);
    little = (struct rlimit){(rlim_t)1 << 34, limit.rlim_max};
    setrlimit(RLIMIT_AS, &little);
    rc = OPEN(memory = (size_t)1 << 38);
    setrlimit(RLIMIT_AS, &limit);
    return rc;
}

static int open_with_small_files(void)
{
    struct rlimit limit, small;
    int rc;

    getrlimit(RLIMIT_FSIZE, &limit);
    small = (struct rlimit){1 << 20, limit.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    rc = OPEN(memory = 64 << 20);
    setrlimit(RLIMIT_FSIZE, &limit);
    return rc;
}

ROWS(what_the_system_refuses_an_open)
{
    char *path = long_path();

    ERROR(-E2BIG,
          "the options path, preload, init, exit, loop and engine are *bytes* bytes together; at "
          "most *most*",
          OPEN(path = list_of(path)));
    free(path);
    if (!SANITIZED) /* a sanitizer needs more address space than there is then */
        ERROR(-ENOMEM, "no shared memory for the crew: *reason* (pycrew doctor tells more)",
              open_in_little_address_space());
    ERROR(-EFBIG,
          "no shared memory for the crew: *bytes* bytes (options.memory) are more than a file of "
          "this process may "
          "have (RLIMIT_FSIZE, ulimit -f)",
          open_with_small_files());
    ERROR(-EMFILE,
          "a crew of *workers* workers needs *number* descriptors, and one for each open queue; of "
          "the *most* that "
          "this process may have (RLIMIT_NOFILE, ulimit -n) *open* are open",
          open_with_few_descriptors());
}

/* ---- the start of the workers ---- */

static const char *write_program(const char *name, const char *text)
{
    const char *path = scratch(name);
    FILE *file = fopen(path, "w");

    ASSERT(file != NULL);
    fputs(text, file);
    ASSERT(fclose(file) == 0 && chmod(path, 0755) == 0);
    return path;
}

static int open_worker_program(const char *path)
{
    char kept[4096];
    int rc;

    snprintf(kept, sizeof kept, "%s", getenv("PYCREW_WORKER"));
    setenv("PYCREW_WORKER", path, 1);
    rc = OPEN(workers = 1);
    setenv("PYCREW_WORKER", kept, 1);
    return rc;
}

/* One that answers with this, in Python. */
static const char *worker_that_sends(const char *message)
{
    char text[1024];

    snprintf(text, sizeof text,
             "#!/usr/bin/python3\nimport socket, struct, time\ncontrol = socket.socket(fileno=3)\n"
             "control.send(%s)\ntime.sleep(3600)\n",
             message);
    return write_program("worker", text);
}

ROWS(worker_programs_that_are_none)
{
    ERROR(PYCREW_ESTART,
          "the worker program *path* cannot be run: *reason* (set PYCREW_WORKER to where it is)",
          open_worker_program("/nowhere/pycrew-worker"));
    ERROR(
        PYCREW_ESTART,
        "*path* is no worker program: it ended without a word (*how*); PYCREW_WORKER names another",
        open_worker_program("/bin/false"));
    ERROR(PYCREW_ESTART,
          "*path* does not answer as the worker program does; PYCREW_WORKER names another",
          open_worker_program(worker_that_sends("b'hello'")));
    ERROR(PYCREW_ESTART,
          "the worker program is of another version: it is pycrew *version*, this library is "
          "pycrew *version*; "
          "PYCREW_WORKER names one of the same version",
          open_worker_program(
              worker_that_sends("struct.pack('=IIIiiIQ', 1, 0, 0, 0, 0, 5, 0xbad) + b'9.9.9'")));
}

ROWS(pythons_that_cannot_be_had)
{
    ERROR(PYCREW_ESTART,
          "*path* is Python *version*, and this pycrew has workers for Python *versions* "
          "(configure --with-pythons "
          "adds others)",
          OPEN(python = write_program("python2.7", "#!/bin/sh\necho 2.7\n")));
    ERROR(
        PYCREW_ESTART,
        "*path* has no shared libpython: there is no *file*, which its sysconfig names; use one "
        "that was built with "
        "--enable-shared",
        OPEN(python = write_program(
                 "static", "#!/bin/sh\necho $0\necho 3.11\necho\necho /nowhere.so\necho 3.11\n")));
    ERROR(PYCREW_ESTART,
          "*path* does not run as a Python: asked for its version it did not say one",
          OPEN(python = "/bin/true"));
}

ROWS(starts_that_fail)
{
    static const char *const missing[] = {"no_such_module", NULL}, *const dies[] = {
                                                                       "dies_at_import", NULL};

    ERROR(PYCREW_ESTART,
          "Python workers cannot start: ModuleNotFoundError: No module named '*module*'",
          OPEN(preload = missing));
    ERROR(PYCREW_ESTART,
          "a worker's start failed: AttributeError: module '*module*' has no attribute '*name*'",
          OPEN(init = "api_ops:not_there"));
    ERROR(PYCREW_ESTART, "the process that starts the workers died (*how*)", OPEN(preload = dies));
    ERROR(PYCREW_ESTART, "a worker died while it was starting (*how* *number*)",
          OPEN(init = "api_ops:init_dies"));
    ERROR(PYCREW_ESTART,
          "a worker's start failed: TypeError: *name* is not callable: it is of type *type*",
          OPEN(init = "os:name"));
    ERROR(-ETIMEDOUT,
          "no worker was ready within *seconds* s (options.start_timeout_ns): what is imported or "
          "run at the start "
          "may need longer",
          OPEN(init = "open_ops:init_sleeps", options.start_timeout_ns = 300 * MS));
    ERROR(PYCREW_ESTART,
          "a worker's start failed: OSError: options.*name* is *value*, which the system refuses: "
          "*reason*",
          OPEN(limit_files = INT64_C(1) << 40));
    ERROR(PYCREW_ESTART,
          "Python workers cannot start: TypeError: options.loop is *name*, which is not callable: "
          "it is of type *type*",
          OPEN(loop = "os:name"));
}

static int open_unheard(const char *const *preload)
{
    int rc;

    signal(SIGCHLD, SIG_IGN);
    rc = OPEN(preload = preload);
    signal(SIGCHLD, SIG_DFL);
    return rc;
}

ROWS(deaths_that_are_not_heard_of)
{
    static const char *const dies[] = {"dies_at_import", NULL};

    ERROR(PYCREW_ESTART,
          "the process that starts the workers died (how is not known, because this process "
          "ignores SIGCHLD or waits "
          "for all)",
          open_unheard(dies));
}

ROWS(threads_that_the_preload_leaves)
{
    static const char *const preload[] = {"error_ops_thread", NULL};

    LOGGED("threads are alive after the preload; they do not exist in the workers, and locks they "
           "hold stay locked "
           "there",
           OPEN(preload = preload));
}

/* ---- closing, draining, forks ------------------------------------------------------------------
 */

static int prepare_any(pycrew_crew *crew, int64_t timeout_ns)
{
    pycrew_call *call;
    int rc = pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), timeout_ns, &call);

    if (rc == 0)
        pycrew_release(call);
    return rc;
}

static void in_child_of_the_host(pycrew_crew *crew)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        ERROR(PYCREW_EFORKED,
              "the crew was opened by the parent of this process; a fork has to open its own",
              pycrew_drain(crew, 0));
        _exit(errors_wrong != 0);
    }
    ASSERT(waitpid(child, &status, 0) == child);
    errors_wrong += status != 0;
}

static void *reap_one(void *data)
{
    pycrew_queue *queue = data;
    pycrew_call *call;

    ERROR(-ECANCELED, "the crew was closed", pycrew_queue_reap(queue, &call, 1, BOUND));
    return NULL;
}

ROWS(the_end_of_a_crew)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *running = SUBMIT(crew, "api_ops:sleep", "d", 60.0);
    pycrew_queue *queue;
    pthread_t thread;

    in_child_of_the_host(crew);
    OK(pycrew_queue_open(crew, &queue));
    ASSERT_INT(pthread_create(&thread, NULL, reap_one, queue), 0);
    ERROR(-ETIME, "calls are still in flight: drain again to wait for them, or close the crew",
          pycrew_drain(crew, 10 * MS));
    ERROR(-ESHUTDOWN, "the crew takes no new calls: pycrew_drain or pycrew_close was called",
          pycrew_run(crew, "api_ops:nothing", ""));
    (void)running;
    pycrew_close(crew);
    pthread_join(thread, NULL);
}

/* In a process of its own, which loses all that it has opened. */
static void without_descriptors(void)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_queue *queue;
    pycrew_call *call;

    OK(pycrew_queue_open(crew, &queue));
    closefrom(3);
    ERROR(-EBADF,
          "this process has closed the queue's descriptor; close the queue and open another",
          pycrew_queue_reap(queue, &call, 1, 10 * MS));
    ERROR(PYCREW_ESTART,
          "this process has closed the crew's descriptors; close the crew and open another",
          pycrew_queue_open(crew, &queue));
}

ROWS(closed_descriptors_of_a_crew)
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        without_descriptors();
        _exit(errors_wrong != 0);
    }
    ASSERT(waitpid(child, &status, 0) == child);
    errors_wrong += status != 0;
}

static int fail_reload(pycrew_crew *crew, const char *file)
{
    int rc;

    write_program(file, "raise ImportError('a mistake')\n");
    rc = pycrew_reload(crew, BOUND);
    return rc;
}

ROWS(reloads)
{
    static const char *path[2], *const preload[] = {"error_reloaded", NULL};
    pycrew_options options = test_options(1);
    const char *file = write_program("error_reloaded.py", "");
    pycrew_crew *crew;

    (void)file;
    path[0] = scratch_directory();
    options.path = path;
    options.preload = preload;
    setenv("PYTHONDONTWRITEBYTECODE", "1", 1);
    crew = open_with(&options);
    ERROR(-ETIME, "the reload took too long and was given up: nothing has changed",
          pycrew_reload(crew, 0));
    ERROR(PYCREW_ESTART, "the crew was not reloaded, its workers are as before: *reason*",
          fail_reload(crew, "error_reloaded.py"));
    pycrew_close(crew);
}

static int reload_beside(pycrew_crew *crew)
{
    const char *started = scratch("started");
    pycrew_call *running = SUBMIT(crew, "api_ops:sleep", "ds", 60.0, started);
    int rc;

    AWAIT(file_size(started) > 0);
    rc = pycrew_reload(crew, 3 * SECOND);
    pycrew_release(running);
    return rc;
}

ROWS(reloads_with_a_call_that_does_not_end)
{
    pycrew_crew *crew = open_crew(2);

    ERROR(-ETIME,
          "new modules are in use, and workers that still run a call with the old ones are "
          "replaced after it",
          reload_beside(crew));
    pycrew_close(crew);
}

/* ---- functions ----------------------------------------------------------------------------------
 */

static int get(pycrew_crew *crew, const char *name)
{
    const pycrew_function *function;

    return pycrew_function_get(crew, name, &function);
}

static int get_source(pycrew_crew *crew, const char *name, const char *source)
{
    const pycrew_function *function;

    return pycrew_function_source(crew, name, source, &function);
}

ROWS(names_of_functions)
{
    pycrew_crew *crew = open_crew(1);
    char *name = long_path();

    ERROR(-EINVAL, "pycrew_function_get: crew and ret must not be NULL", get(NULL, "os:getpid"));
    ERROR(-EINVAL, "pycrew_function_source: crew and ret must not be NULL",
          get_source(NULL, "f", "f = int"));
    ERROR(-EINVAL, "pycrew_function_source: source must not be NULL", get_source(crew, "f", NULL));
    ERROR(-EINVAL, "the function's name is NULL", get(crew, NULL));
    ERROR(-EINVAL, "the function's name has *bytes* bytes; 4096 are allowed", get(crew, name));
    ERROR(-EINVAL, "the function's name is not UTF-8 at byte *offset*", get(crew, "os:get\xff"));
    ERROR(-EINVAL,
          "function name \"*name*\": it ends where *part* should follow; the form is "
          "package.module:name",
          get(crew, "math_ops"));
    ERROR(-EINVAL,
          "function name \"*name*\": byte *offset*: '*character*' where *part* should stand; the "
          "form is "
          "package.module:name",
          get(crew, "math ops:add"));
    RAISED("ModuleNotFoundError", "No module named '*module*'",
           pycrew_run(crew, "no_such_module:add", ""));
    RAISED("AttributeError", "module '*module*' has no attribute '*name*'",
           pycrew_run(crew, "api_ops:no_such", ""));
    RAISED("TypeError", "*name* is not callable: it is of type *type*",
           pycrew_run(crew, "os:name", ""));
    RAISED("TypeError", "got multiple values for keyword argument '*name*'",
           pycrew_run(crew, "api_ops:nothing", "x=i,x=i", 1, 2));
    free(name);
    pycrew_close(crew);
}

/* ---- arguments and formats ---------------------------------------------------------------------
 */

static int add_twice(pycrew_call *call)
{
    pycrew_add_bigint(call, "");
    return pycrew_add_i64(call, 1);
}

static int add_behind_keyword(pycrew_call *call)
{
    OK(pycrew_add(call, "x=i", 1));
    return pycrew_add_i64(call, 1);
}

static int add_names(pycrew_call *call)
{
    OK(pycrew_add_name(call, "x"));
    return pycrew_add_name(call, "y");
}

static int submit_named(pycrew_call *call)
{
    OK(pycrew_add_name(call, "x"));
    return pycrew_submit(call);
}

static int submit_open(pycrew_call *call)
{
    OK(pycrew_add_open(call, PYCREW_LIST));
    return pycrew_submit(call);
}

static int name_in_list(pycrew_call *call)
{
    OK(pycrew_add_open(call, PYCREW_LIST));
    return pycrew_add_name(call, "x");
}

static int close_odd(pycrew_call *call)
{
    OK(pycrew_add_open(call, PYCREW_DICT));
    OK(pycrew_add_i64(call, 1));
    return pycrew_add_close(call);
}

static int nest(pycrew_call *call)
{
    int rc = 0;

    while (rc == 0)
        rc = pycrew_add_open(call, PYCREW_TUPLE);
    return rc;
}

ROWS(arguments)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(-EINVAL, "*place*: the str is not UTF-8: byte *offset* is 0x*value*",
          WITH_CALL(crew, pycrew_add_str(call, "\xff", 1)));
    ERROR(-EINVAL, "*place*: the JSON text is not UTF-8: byte *offset* is 0x*value*",
          WITH_CALL(crew, pycrew_add_json(call, "\"\xff\"", 3)));
    ERROR(-EINVAL, "*place*: the keyword is not UTF-8: byte *offset* is 0x*value*",
          WITH_CALL(crew, pycrew_add_name(call, "\xff")));
    ERROR(-EINVAL, "*place*: the pointer is NULL and the size *bytes*",
          WITH_CALL(crew, pycrew_add_bytes(call, NULL, 5)));
    ERROR(-EINVAL, "*place*: the size is *bytes*",
          WITH_CALL(crew, pycrew_add_bytes(call, "", SIZE_MAX)));
    ERROR(-EINVAL, "*place*: the int has no digits", WITH_CALL(crew, pycrew_add_bigint(call, "")));
    ERROR(-EINVAL, "*place*: the int is not hexadecimal: byte *offset* is 0x*value*",
          WITH_CALL(crew, pycrew_add_bigint(call, "12g4")));
    ERROR(-EINVAL, "an earlier argument failed: only release is left",
          WITH_CALL(crew, add_twice(call)));
    ERROR(-EINVAL, "*place*: a value without a keyword, behind one with a keyword",
          WITH_CALL(crew, add_behind_keyword(call)));
    ERROR(-EINVAL, "*place*: the keyword '*name*' has no value before the next keyword",
          WITH_CALL(crew, add_names(call)));
    ERROR(-EINVAL, "*place*: the keyword '*name*' has no value",
          WITH_CALL(crew, submit_named(call)));
    ERROR(-EINVAL, "*place*: the keyword is empty", WITH_CALL(crew, pycrew_add_name(call, "")));
    ERROR(-EINVAL, "*place*: a keyword cannot stand in a list, tuple or dict",
          WITH_CALL(crew, name_in_list(call)));
    ERROR(-EINVAL, "*place*: *number* is no kind of container",
          WITH_CALL(crew, pycrew_add_open(call, 7)));
    ERROR(-EINVAL, "*place*: nested deeper than *most*", WITH_CALL(crew, nest(call)));
    ERROR(-EINVAL, "*place*: there is no open list, tuple or dict to close",
          WITH_CALL(crew, pycrew_add_close(call)));
    ERROR(-EINVAL, "*place*: the dict's last key has no value", WITH_CALL(crew, close_odd(call)));
    ERROR(-EINVAL, "*place*: a *kind* is not closed", WITH_CALL(crew, submit_open(call)));
    pycrew_close(crew);
}

#define ADD(...) WITH_CALL(crew, pycrew_add(call, __VA_ARGS__))

ROWS(formats)
{
    pycrew_crew *crew = open_crew(1);
    char deep[4000];

    memset(deep, '[', sizeof deep - 1);
    deep[0] = '>';
    deep[sizeof deep - 1] = '\0';
    ERROR(-EINVAL, "the format is NULL", ADD(NULL));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: '*unit*' is no unit (*place*)",
          ADD("iq", 1));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: '\\x*value*' is no unit (*place*)",
          ADD("i\x01", 1));
    ERROR(-EINVAL,
          "format \"*format*\": byte *offset*: '*unit*' needs a '#' behind it, and takes a size "
          "(*place*)",
          ADD("y", "bytes"));
    ERROR(-EINVAL,
          "format \"*format*\": byte *offset*: '#' can only stand behind s, y, z and j (*place*)",
          ADD("i#", 1));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: '=' has no keyword before it (*place*)",
          ADD("=i", 1));
    ERROR(-EINVAL,
          "format \"*format*\": byte *offset*: '>' can stand only once, outside of brackets",
          ADD("i>i>i", 1));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: brackets are nested too deep", ADD(deep));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: closes a bracket that is not open",
          ADD("i>]", 1));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: closes a bracket of another kind",
          ADD(">[i)"));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: the bracket is not closed", ADD(">[i"));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: the dict's last key has no value",
          ADD(">{i}"));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: 'j' must be the only unit of a result",
          ADD(">ij"));
    ERROR(-EINVAL,
          "format \"*format*\": byte *offset*: closes a bracket that is not open (*place*)",
          ADD("i]", 1));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: closes a bracket of another kind (*place*)",
          ADD("[i)", 1));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: the bracket is not closed (*place*)",
          ADD("[i", 1));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: the keyword has no value (*place*)",
          ADD("x="));
    ERROR(-EINVAL,
          "format \"*format*\": byte *offset*: *place*: the pointer is NULL; the unit z would make "
          "it None",
          ADD("s", NULL));
    ERROR(-EINVAL, "format \"*format*\": byte *offset*: *place*: the pointer is NULL",
          ADD("j", NULL));
    pycrew_close(crew);
}

ROWS(json_arguments)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(-EINVAL, "Expecting value: line *line* column *column* (char *offset*)",
          pycrew_run(crew, "api_ops:nothing", "j", "[1,"));
    pycrew_close(crew);
}

/* ---- results ------------------------------------------------------------------------------------
 */

#define RESULT(text, ...) WITH_RESULT(crew, text, pycrew_result(call, __VA_ARGS__))

static int value_of_released(pycrew_crew *crew)
{
    pycrew_value none = {0};
    int64_t number;

    (void)crew;
    return pycrew_value_i64(none, &number);
}

ROWS(results)
{
    pycrew_crew *crew = open_crew(1);
    long long number;
    int small, pair[2];
    const char *text;
    unsigned long long positive;
    float real;

    ERROR(-EINVAL, "the format is NULL", RESULT("1", NULL));
    ERROR(PYCREW_ETYPE, "*place*: expected *type*, got *type*", RESULT("'text'", "i", &small));
    ERROR(-ERANGE, "*place*: *value* is out of range for *type*", RESULT("1 << 40", "i", &small));
    ERROR(-ERANGE, "*place*: *value* is out of range for *type*", RESULT("-1", "K", &positive));
    ERROR(-ERANGE, "*place*: *value* is out of range for *type*", RESULT("1e300", "f", &real));
    ERROR(-ERANGE, "*place*: an int of *number* hexadecimal digits is out of range for *type*",
          RESULT("1 << 100", "L", &number));
    ERROR(-EINVAL, "*place*: the *type* has a NUL inside, so its size must be asked for",
          RESULT("'a\\0b'", "s", &text));
    ERROR(PYCREW_ETYPE,
          "*place*: not readable: its call was released, or something wrote over it, or it is no "
          "value",
          value_of_released(crew));
    ERROR(-EINVAL, "*place*: the pointer to store it through is NULL", RESULT("1", "i", NULL));
    ERROR(PYCREW_ETYPE, "*place*: expected *kind* of *number*, got *kind* of *number*",
          RESULT("[1, 2, 3]", "ii", &pair[0], &pair[1]));
    ERROR(PYCREW_ETYPE, "*place*: expected dict of *number* pairs, got *type*",
          RESULT("1", "{sisi}", &text, &small, &text, &small));
    ERROR(
        PYCREW_ETYPE,
        "*place*: expected JSON text, got *type*; the call must be told before it is submitted, by "
        "pycrew_set_json or a format with '>j'",
        RESULT("1", "j", &text));
    ERROR(-EALREADY, "the call has not ended: pycrew_wait, pycrew_next or a queue first",
          WITH_CALL(crew, pycrew_result(call, "i", &small)));
    pycrew_close(crew);
}

/* ---- typed stubs ---- */

static int items_of(pycrew_crew *crew, const char *text, const char *type, size_t count)
{
    pycrew_value first;

    return WITH_RESULT(
        crew, text,
        pycrew_value_items(pycrew_result_value(call), PYCREW_LIST, type, &count, &first));
}

ROWS(results_of_typed_stubs)
{
    static pycrew_stub stub = PYCREW_STUB_INIT("api_ops:echo", NULL);
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *function;
    pycrew_call *prepared;
    int64_t number;
    pycrew_array array = PYCREW_ARRAY_INIT;

    array.dtype = PYCREW_I32;
    ERROR(-EINVAL, "pycrew_stub_function: crew, stub and ret must not be NULL",
          pycrew_stub_function(NULL, &stub, &function));
    ERROR(-EINVAL, "a stub's function: crew and stub must not be NULL",
          pycrew_stub_prepare(crew, NULL, 0, &prepared));
    ERROR(PYCREW_ETYPE, "expected *type*, got *type*", items_of(crew, "1", "list", SIZE_MAX));
    ERROR(PYCREW_ETYPE, "expected *type*, which has *number* items, got a *type* of *number*",
          items_of(crew, "[1]", "tuple", 2));
    ERROR(-ERANGE, "*value* is out of range: it is to be from *least* to *most*",
          WITH_RESULT(crew, "300", pycrew_value_int(pycrew_result_value(call), 0, 255, &number)));
    ERROR(-EINVAL, "the array is NULL", pycrew_array_expect(NULL, PYCREW_F64));
    ERROR(PYCREW_ETYPE, "expected an array of *type*, got one of *type*",
          pycrew_array_expect(&array, PYCREW_F64));
    pycrew_close(crew);
}

/* ---- calls
 * ---------------------------------------------------------------------------------------- */

static void *hold_all(void *data)
{
    pycrew_crew *crew = data;
    pycrew_call *call;

    while (pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), 0, &call) == 0)
        ;
    return NULL;
}

static int prepare_while_others_hold_all(pycrew_crew *crew)
{
    pthread_t thread;

    ASSERT_INT(pthread_create(&thread, NULL, hold_all, crew), 0);
    pthread_join(thread, NULL);
    return prepare_any(crew, 10 * MS);
}

static int submit_again(pycrew_call *call)
{
    OK(pycrew_submit(call));
    return pycrew_add_i64(call, 1);
}

static int cancel_ended(pycrew_call *call)
{
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    return pycrew_cancel(call);
}

static int set_queue_of_another(pycrew_call *call)
{
    pycrew_crew *other = open_crew(1);
    pycrew_queue *queue;
    int rc;

    OK(pycrew_queue_open(other, &queue));
    rc = pycrew_set_queue(call, queue);
    pycrew_close(other);
    return rc;
}

ROWS(calls_used_in_the_wrong_order)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pycrew_call *running;

    options.calls = 4;
    crew = open_with(&options);
    running = SUBMIT(crew, "api_ops:sleep", "d", 60.0);
    ERROR(-EINVAL, "pycrew_run: crew and format must not be NULL",
          pycrew_run(crew, "api_ops:nothing", NULL));
    ERROR(-EINVAL, "pycrew_prepare: crew, function and ret must not be NULL",
          pycrew_prepare(crew, NULL, 0, &running));
    ERROR(-EINVAL, "the call was not submitted: pycrew_submit first",
          WITH_CALL(crew, pycrew_wait(call, 0)));
    ERROR(-ETIME, "the call has not ended yet: wait again, cancel or release it",
          pycrew_wait(running, 0));
    OK(pycrew_cancel(running));
    pycrew_wait(running, BOUND);
    pycrew_release(running);
    ERROR(-EALREADY,
          "the call was submitted already, or as a batch's item committed: prepare another",
          WITH_CALL(crew, submit_again(call)));
    ERROR(-EALREADY, "pycrew_cancel: the call has ended already",
          WITH_CALL(crew, cancel_ended(call)));
    ERROR(-EINVAL, "pycrew_set_queue: the queue belongs to another crew",
          WITH_CALL(crew, set_queue_of_another(call)));
    ERROR(-ETIME,
          "all *number* calls were in use until the timeout: release some, or raise options.calls",
          prepare_while_others_hold_all(crew));
    ERROR(-EAGAIN, "all *number* calls are in use: release some, or raise options.calls",
          prepare_any(crew, 0));
    pycrew_close(crew);
}

static int run_large(pycrew_crew *crew, size_t size)
{
    char *data = calloc(1, size);
    int rc = pycrew_run(crew, "api_ops:length", "y#>", data, size);

    free(data);
    return rc;
}

/* Ends of shared memory that is there all the same: of what the calls hold. */
static int fill_memory(pycrew_crew *crew, int (*then)(pycrew_crew *crew))
{
    pycrew_call *calls[64];
    unsigned count = 0;
    int rc = 0;
    static char data[900000];

    while (count < 64 && rc == 0) {
        calls[count] = prepare(crew, "api_ops:length");
        rc = pycrew_add_bytes(calls[count++], data, sizeof data);
    }
    if (then != NULL)
        rc = then(crew);
    while (count > 0)
        pycrew_release(calls[--count]);
    return rc;
}

static int alloc_any(pycrew_crew *crew)
{
    void *memory = pycrew_alloc(crew, 4 << 20);

    return memory == NULL ? pycrew_last_error()->code : 0;
}

static int result_any(pycrew_crew *crew)
{
    return pycrew_run(crew, "api_ops:zeros", "i>", 6000000);
}

ROWS(memory_that_is_too_small)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.memory = 16 << 20;
    options.calls = 128;
    crew = open_with(&options);
    ERROR(-E2BIG,
          "the arguments (*bytes* bytes) exceed the crew's shared memory (*bytes* bytes): raise "
          "options.memory",
          run_large(crew, 40 << 20));
    ERROR(-ENOMEM,
          "no shared memory is left for *bytes* bytes of arguments: release calls and arrays, or "
          "raise options.memory",
          fill_memory(crew, NULL));
    ERROR(-ENOMEM,
          "no shared memory is left for *bytes* bytes: release calls and arrays, or raise "
          "options.memory",
          fill_memory(crew, alloc_any));
    ERROR(-E2BIG,
          "*bytes* bytes exceed the crew's shared memory (*bytes* bytes): raise options.memory",
          (pycrew_alloc(crew, 64 << 20), pycrew_last_error()->code));
    ERROR(-ENOMEM,
          "no shared memory is left for the result: release calls and arrays, or raise "
          "options.memory",
          fill_memory(crew, result_any));
    ERROR(-E2BIG, "the result exceeds the crew's shared memory: raise options.memory",
          pycrew_run(crew, "api_ops:zeros", "i>", 40 << 20));
    pycrew_close(crew);
}

/* ---- ends of calls ---- */

static int wait_after_cancel(pycrew_crew *crew, bool stubborn)
{
    const char *started = scratch(stubborn ? "stubborn" : "sleeping");
    pycrew_call *call = stubborn ? SUBMIT(crew, "error_ops:stubborn", "s", started)
                                 : SUBMIT(crew, "api_ops:sleep", "ds", 60.0, started);
    int rc;

    AWAIT(file_size(started) > 0);
    OK(pycrew_cancel(call));
    rc = pycrew_wait(call, BOUND);
    pycrew_release(call);
    return rc;
}

/* Behind one that has the only worker. */
static int wait_queued(pycrew_crew *crew, bool cancel)
{
    pycrew_call *running = SUBMIT(crew, "api_ops:sleep", "d", 60.0),
                *queued = prepare(crew, "api_ops:nothing");
    int rc;

    OK(pycrew_set_timeout(queued, cancel ? PYCREW_FOREVER : 10 * MS));
    OK(pycrew_submit(queued));
    if (cancel)
        OK(pycrew_cancel(queued));
    rc = pycrew_wait(queued, BOUND);
    pycrew_release(queued);
    pycrew_release(running);
    return rc;
}

ROWS(ends_of_calls_at_a_deadline_or_cancel)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.grace_ns = 50 * MS;
    crew = open_with(&options);
    OK(pycrew_run(crew, "error_ops:evaluate", "s",
                  "1")); /* imported here, not in the others' time */
    ERROR(-ETIMEDOUT, "the call's deadline passed",
          pycrew_run_within(crew, 500 * MS, "api_ops:sleep", "d", 60.0));
    ERROR(-ETIMEDOUT, "the deadline passed while the call was queued: no worker was free",
          wait_queued(crew, false));
    ERROR(-ECANCELED, "the call was cancelled", wait_queued(crew, true));
    ERROR(-ECANCELED, "the call was cancelled", wait_after_cancel(crew, false));
    ERROR(-ETIMEDOUT, "the deadline passed; the worker did not answer the interrupt and was killed",
          pycrew_run_within(crew, 500 * MS, "error_ops:stubborn", "s", scratch("deaf")));
    ERROR(-ECANCELED,
          "the call was cancelled; the worker did not answer the interrupt and was killed",
          wait_after_cancel(crew, true));
    pycrew_close(crew);
}

static int await_beside(pycrew_crew *crew)
{
    const char *started = scratch("beside");
    pycrew_call *beside = SUBMIT(crew, "async_ops:await_forever", "s", started), *fatal;
    int rc;

    AWAIT(file_size(started) == 1);
    fatal = SUBMIT(crew, "async_ops:die", "is", SIGKILL, started);
    pycrew_wait(fatal, BOUND);
    rc = pycrew_wait(beside, BOUND);
    pycrew_release(beside);
    pycrew_release(fatal);
    return rc;
}

ROWS(ends_of_workers)
{
    pycrew_options options = errors_options();
    pycrew_crew *crew = open_with(&options);

    ERROR(PYCREW_EDIED, "worker *worker* (PID *pid*) was killed by signal *signal* (*name*)",
          pycrew_run(crew, "api_ops:die_by", "s", "kill"));
    LOGGED("worker *worker* (PID *pid*) was killed by signal *signal* and is replaced",
           pycrew_run(crew, "api_ops:die_by", "s", "kill"));
    ERROR(PYCREW_EDIED, "worker *worker* (PID *pid*) exited with status *status*",
          pycrew_run(crew, "api_ops:die_by", "s", "exit"));
    LOGGED("worker *worker* (PID *pid*) exited with status *status* and is replaced",
           pycrew_run(crew, "api_ops:die_by", "s", "exit"));
    ERROR(PYCREW_EDIED, "worker *worker* (PID *pid*) ran another program (exec), and was ended",
          pycrew_run(crew, "misuse_ops:leave", "s", "exec that stays"));
    ERROR(PYCREW_EDIED,
          "worker *worker* (PID *pid*) was killed by signal *signal* (*name*) while it ran another "
          "call, of *name*",
          await_beside(crew));
    pycrew_close(crew);
}

/* ---- what comes back from Python ---- */

ROWS(results_that_cannot_come_back)
{
    pycrew_crew *crew = open_crew(1);

    RAISED("TypeError", "cannot pickle '*type*' object: *reason*", PYTHON(crew, "lambda: 1"));
    RAISED("RuntimeError", "*type* changed while it was being converted",
           pycrew_run(crew, "error_ops:changing", ">"));
    RAISED("ValueError", "nested deeper than *most*",
           pycrew_run(crew, "api_ops:nested", "i>", 1000));
    RAISED("TypeError", "Object of type *type* is not JSON serializable",
           pycrew_run(crew, "api_ops:evaluate", "s>j", "object()", &(char *){NULL}));
    RAISED("TypeError",
           "cannot pickle '*type*' object: a stream gives its items to the caller one by one "
           "(pycrew_set_stream)",
           PYTHON(crew, "(i for i in [1])"));
    pycrew_close(crew);
}

/* ---- run_each ---- */

static int each_call(pycrew_crew *crew, int (*spoil)(pycrew_call *call))
{
    pycrew_call *call = prepare(crew, "api_ops:nothing");

    OK(spoil(call));
    return pycrew_run_each_call(call);
}

static int make_stream(pycrew_call *call)
{
    return pycrew_set_stream(call, 0);
}

static double number = 1;

static int give_array(pycrew_call *call)
{
    pycrew_array array;

    OK(pycrew_array_init(&array, &number, PYCREW_F64, 0, NULL, 0));
    return pycrew_add_array(call, &array);
}

static int each_submitted(pycrew_call *call)
{
    OK(pycrew_submit(call));
    return pycrew_run_each_call(call);
}

ROWS(runs_in_each_worker)
{
    pycrew_crew *crew = open_crew(1);
    int result;

    ERROR(-EINVAL, "pycrew_run_each: crew and format must not be NULL",
          pycrew_run_each(crew, "api_ops:nothing", NULL));
    ERROR(-EINVAL,
          "worker *worker*: pycrew_run_each gives no results, as the format \"*format*\" asks",
          pycrew_run_each(crew, "api_ops:nothing", ">i", &result));
    ERROR(-EINVAL, "pycrew_run_each_call: call must not be NULL, nor a batch's item",
          pycrew_run_each_call(NULL));
    ERROR(-EINVAL, "pycrew_run_each_call: the call is an actor's, or a stream",
          each_call(crew, make_stream));
    ERROR(-EINVAL, "pycrew_run_each_call: arrays cannot be given to each worker",
          each_call(crew, give_array));
    ERROR(-EALREADY, "pycrew_run_each_call: the call was submitted already: prepare another",
          WITH_CALL(crew, each_submitted(call)));
    RAISED("NameError", "worker *worker*: *text*",
           pycrew_run_each(crew, "api_ops:evaluate", "s", "not_there"));
    pycrew_close(crew);
}

/* A crew whose worker has just died, and whose next one starts in this way. */
static pycrew_crew *open_and_lose(const char *how)
{
    static char variable[200];
    static const char *const env[] = {variable, NULL};
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    snprintf(variable, sizeof variable, "ERROR_OPS_LATER=%s", scratch(how));
    options.env = env;
    options.init = "error_ops:init_later";
    options.timeout_ns = 2 * SECOND;
    crew = open_with(&options);
    write_program(how, how);
    pycrew_run(crew, "api_ops:die_by", "s", "kill");
    return crew;
}

static int open_actor(pycrew_crew *crew)
{
    pycrew_actor *actor;

    return pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "");
}

ROWS(runs_without_workers)
{
    pycrew_crew *crew = open_and_lose("sleep");

    ERROR(-ETIMEDOUT, "worker *worker*: it was not ready before the deadline",
          pycrew_run_each(crew, "api_ops:nothing", ""));
    pycrew_close(crew);
    crew = open_and_lose("fail");
    ERROR(PYCREW_ESTART, "no worker can be started: see the log", open_actor(crew));
    ERROR(PYCREW_ESTART, "worker *worker*: worker *worker* cannot be started: see the log",
          pycrew_run_each(crew, "api_ops:nothing", ""));
    pycrew_close(crew);
}

/* ---- queues
 * --------------------------------------------------------------------------------------- */

ROWS(queues)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pycrew_queue *queue, *second;
    pycrew_call *calls[1];

    options.queues = 1;
    crew = open_with(&options);
    OK(pycrew_queue_open(crew, &queue));
    ERROR(-EINVAL, "pycrew_queue_open: crew and ret must not be NULL",
          pycrew_queue_open(NULL, &second));
    ERROR(-EAGAIN, "all *number* queues are open: close one, or raise options.queues",
          pycrew_queue_open(crew, &second));
    ERROR(-EINVAL, "pycrew_queue_reap: max must be 1 to *most*",
          pycrew_queue_reap(queue, calls, 0, 0));
    pycrew_close(crew);
}

static int open_queue_without_descriptors(pycrew_crew *crew)
{
    struct rlimit limit, few;
    pycrew_queue *queue;
    int rc;

    getrlimit(RLIMIT_NOFILE, &limit);
    few = (struct rlimit){3, limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
    rc = pycrew_queue_open(crew, &queue);
    setrlimit(RLIMIT_NOFILE, &limit);
    return rc;
}

ROWS(queues_without_descriptors)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(-EMFILE, "no descriptor is left for the queue (RLIMIT_NOFILE, ulimit -n)",
          open_queue_without_descriptors(crew));
    pycrew_close(crew);
}

/* ---- statistics
 * ------------------------------------------------------------------------------------ */

ROWS(statistics)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_worker_stats worker;
    pycrew_stats stats = PYCREW_STATS_INIT;
    char text[100], long_name[2000];
    int64_t ns;

    memset(long_name, 'x', sizeof long_name - 1);
    long_name[sizeof long_name - 1] = '\0';
    stats.worker = &worker;
    stats.worker_size = 0;
    ERROR(-EINVAL, "pycrew_stats_get: stats must begin as PYCREW_STATS_INIT",
          pycrew_stats_get(crew, NULL));
    ERROR(-EINVAL, "pycrew_stats_get: stats->worker_size is 0", pycrew_stats_get(crew, &stats));
    ERROR(-EINVAL, "pycrew_stats_quantile: crew and ret_ns must not be NULL",
          pycrew_stats_quantile(crew, PYCREW_TIME_RUN, -1, 0.5, NULL));
    ERROR(-EINVAL, "pycrew_stats_quantile: interval *number* is none of PYCREW_TIME_RUN, _WAIT and _TOTAL",
          pycrew_stats_quantile(crew, 7, -1, 0.5, &ns));
    ERROR(-EINVAL, "pycrew_stats_quantile: there is no worker *number*, the crew has *workers*",
          pycrew_stats_quantile(crew, PYCREW_TIME_RUN, 1, 0.5, &ns));
    ERROR(-EINVAL, "pycrew_stats_quantile: share is *share*; from 0 to 1",
          pycrew_stats_quantile(crew, PYCREW_TIME_RUN, -1, 50, &ns));
    ERROR(-EINVAL, "pycrew_metrics_write: crew and buffer must not be NULL",
          pycrew_metrics_write(crew, NULL, NULL, 1));
    ERROR(-EINVAL, "pycrew_metrics_write: name has *bytes* bytes; at most 1000",
          pycrew_metrics_write(crew, long_name, text, sizeof text));
    ERROR(-EINVAL, "pycrew_metrics_write: name is not UTF-8 at byte *number*",
          pycrew_metrics_write(crew, "caf\xe9", text, sizeof text));
    pycrew_close(crew);
}

/* ---- batches
 * ---------------------------------------------------------------------------------------- */

static pycrew_batch *batch_of(pycrew_crew *crew, const char *name, unsigned window, unsigned chunk)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;

    options.window = window;
    options.chunk = chunk;
    OK(pycrew_batch_open(crew, function_of(crew, name), &options, &batch));
    return batch;
}

#define OPEN_BATCH(...)                                                                            \
    __extension__({                                                                                \
        pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;                                  \
        pycrew_batch *opened;                                                                      \
        options.__VA_ARGS__;                                                                       \
        pycrew_batch_open(crew, function_of(crew, "api_ops:echo"), &options, &opened);             \
    })

static int open_newer_batch(pycrew_crew *crew)
{
    struct {
        pycrew_batch_options known;
        uint64_t unknown;
    } options = {PYCREW_BATCH_OPTIONS_INIT, 1};
    pycrew_batch *batch;

    options.known.size = sizeof options;
    return pycrew_batch_open(crew, function_of(crew, "api_ops:echo"), &options.known, &batch);
}

ROWS(options_of_batches)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch;

    ERROR(-EINVAL, "pycrew_batch_open: crew, function and ret must not be NULL",
          pycrew_batch_open(crew, NULL, NULL, &batch));
    ERROR(-EINVAL, "batch options.size is *bytes*: start from PYCREW_BATCH_OPTIONS_INIT",
          OPEN_BATCH(size = 1));
    ERROR(-EINVAL,
          "the batch's options have a field, at byte *offset*, that this version (*version*) does "
          "not know",
          open_newer_batch(crew));
    ERROR(-EINVAL, "batch options.window is *number*; at most *most*",
          OPEN_BATCH(window = 1u << 30));
    ERROR(-EINVAL, "batch options.chunk is *number*; at most *most*", OPEN_BATCH(chunk = 1u << 30));
    pycrew_close(crew);
}

static int submit_item(pycrew_batch *batch)
{
    pycrew_call *item;

    OK(pycrew_batch_begin(batch, 0, &item));
    return pycrew_submit(item);
}

static int fill_window(pycrew_batch *batch)
{
    int rc = 0;

    while (rc == 0)
        rc = pycrew_batch_add(batch, "d", 60.0);
    return rc;
}

static int end_of(pycrew_batch *batch)
{
    int rc = pycrew_batch_next(batch, BOUND);

    return rc == 1 ? pycrew_batch_result(batch, "") : rc;
}

ROWS(batches)
{
    pycrew_options options = test_options(1);
    pycrew_progress progress = {0};
    pycrew_batch *batch;
    pycrew_crew *crew;

    options.grace_ns = BOUND; /* the interrupt is answered, however busy the machine is */
    crew = open_with(&options);
    batch = batch_of(crew, "api_ops:sleep", 2, 1);
    ERROR(-EINVAL, "the format is NULL", pycrew_batch_add(batch, NULL));
    ERROR(-EINVAL, "pycrew_batch_commit: no item was begun: pycrew_batch_begin first",
          pycrew_batch_commit(batch));
    ERROR(-EALREADY, "there is no item: pycrew_batch_next did not return 1",
          pycrew_batch_result(batch, ""));
    ERROR(-EINVAL, "pycrew_batch_progress: set ret->size to sizeof(pycrew_progress)",
          pycrew_batch_progress(batch, &progress));
    ERROR(-EINVAL,
          "pycrew_submit: a batch's item is committed, not submitted (pycrew_batch_commit)",
          submit_item(batch));
    ERROR(-EAGAIN, "the batch's window is full: take some items out first", fill_window(batch));
    ERROR(-ETIME, "no item has ended yet", pycrew_batch_next(batch, 0));
    OK(pycrew_batch_cancel(batch));
    ERROR(-ECANCELED, "the call was cancelled", end_of(batch));
    ERROR(-ESHUTDOWN, "the batch was cancelled", pycrew_batch_add(batch, "d", 1.0));
    pycrew_batch_close(batch);
    batch = batch_of(crew, "api_ops:echo", 0, 0);
    OK(pycrew_batch_end(batch));
    ERROR(-ESHUTDOWN, "the batch takes no more input: pycrew_batch_end was called",
          pycrew_batch_add(batch, ""));
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* Of an item that does not let itself be interrupted. */
static int end_of_stubborn(pycrew_crew *crew, bool cancel)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    const char *started = scratch(cancel ? "cancelled" : "late");
    pycrew_batch *batch;
    int rc;

    options.timeout_ns = cancel ? PYCREW_FOREVER : 300 * MS;
    OK(pycrew_batch_open(crew, function_of(crew, "error_ops:stubborn"), &options, &batch));
    OK(pycrew_batch_add(batch, "s", started));
    OK(pycrew_batch_end(batch));
    while (cancel && file_size(started) <= 0)
        GIVES(pycrew_batch_next(batch, 10 * MS), -ETIME);
    if (cancel)
        OK(pycrew_batch_cancel(batch));
    rc = end_of(batch);
    pycrew_batch_close(batch);
    return rc;
}

ROWS(items_of_batches_that_do_not_answer)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.grace_ns = 50 * MS;
    crew = open_with(&options);
    ERROR(-ETIMEDOUT,
          "the item's deadline passed; its worker did not answer the interrupt and was killed",
          end_of_stubborn(crew, false));
    ERROR(-ECANCELED,
          "the batch was cancelled; its worker did not answer the interrupt and was killed",
          end_of_stubborn(crew, true));
    pycrew_close(crew);
}

/* With items of so many bytes: the code of the first that is refused. */
static int add_until_refused(pycrew_batch *batch, size_t size, int64_t timeout_ns)
{
    char *data = calloc(1, size);
    int rc = 0;

    for (unsigned i = 0; i < 10000 && rc == 0; i++)
        rc = timeout_ns < 0 ? pycrew_batch_add(batch, "y#", data, size)
                            : pycrew_batch_add_within(batch, timeout_ns, "y#", data, size);
    free(data);
    return rc;
}

/* The same of a batch whose items are a call each. */
static int refuse(pycrew_crew *crew, size_t size, int64_t timeout_ns)
{
    pycrew_batch *batch = batch_of(crew, "api_ops:length", 0, 1);
    int rc = add_until_refused(batch, size, timeout_ns);

    pycrew_batch_close(batch);
    return rc;
}

static pycrew_crew *open_tight(unsigned calls)
{
    pycrew_options options = test_options(1);

    options.memory = 16 << 20;
    options.calls = calls;
    return open_with(&options);
}

ROWS(batches_that_use_all_themselves)
{
    pycrew_crew *crew = open_tight(8);

    ERROR(-E2BIG, "the item (*bytes* bytes) exceeds the crew's shared memory: raise options.memory",
          refuse(crew, 40 << 20, -1));
    ERROR(-EAGAIN, "*bytes* bytes of arguments are in flight: take some items out first",
          refuse(crew, 700000, -1));
    ERROR(-EAGAIN, "*number* chunks are in flight: take some items out first", refuse(crew, 1, -1));
    pycrew_close(crew);
}

ROWS(batches_beside_those_who_hold_all_calls)
{
    pycrew_crew *crew = open_tight(8);
    pthread_t thread;

    ASSERT_INT(pthread_create(&thread, NULL, hold_all, crew), 0);
    pthread_join(thread, NULL);
    ERROR(-ETIME,
          "others use all calls: wait for one (pycrew_batch_add_within), or raise options.calls",
          refuse(crew, 1, -1));
    ERROR(-ETIME, "others use all calls: wait longer, or raise options.calls",
          refuse(crew, 1, 10 * MS));
    pycrew_close(crew);
    crew = open_tight(8);
    hold_all(crew);
    ERROR(-ETIME,
          "this thread holds all *number* calls itself: release some, or raise options.calls",
          refuse(crew, 1, 10 * MS));
    pycrew_close(crew);
}

static void *prepare_late(void *data)
{
    prepare_any(data, BOUND);
    return NULL;
}

static bool somebody_waits(pycrew_batch *batch)
{
    return pycrew_batch_add(batch, "i", 1) == -EAGAIN &&
           strstr(pycrew_last_error()->message, "others wait") != NULL;
}

ROWS(batches_beside_those_who_hold_most_calls)
{
    pycrew_crew *crew = open_tight(16);
    pycrew_batch *batch = batch_of(crew, "api_ops:sleep", 0, 1);
    pycrew_call *held[14];
    pthread_t thread;

    for (unsigned i = 0; i < 14; i++)
        held[i] = prepare(crew, "api_ops:nothing");
    OK(pycrew_batch_add(batch, "d", 60.0));
    OK(pycrew_batch_add(batch, "d", 60.0));
    ERROR(-EAGAIN, "all calls are in use: take some items out first",
          pycrew_batch_add(batch, "d", 60.0));
    ERROR(-EAGAIN, "the batch's own items use the calls or the memory: take some out first",
          pycrew_batch_add_within(batch, 10 * MS, "d", 60.0));
    ASSERT_INT(pthread_create(&thread, NULL, prepare_late, crew), 0);
    AWAIT(somebody_waits(batch));
    ERROR(-EAGAIN, "others wait for calls: take some items out first",
          pycrew_batch_add(batch, "d", 60.0));
    pycrew_release(held[0]);
    pthread_join(thread, NULL);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

static int refuse_for_memory(pycrew_crew *crew)
{
    return refuse(crew, 3000000, 10 * MS);
}

static pycrew_batch *begun; /* with an item inside */

static int add_large(pycrew_crew *crew)
{
    (void)crew;
    return add_until_refused(begun, 3000000, -1);
}

static int refuse_second(pycrew_crew *crew)
{
    int rc;

    begun = batch_of(crew, "api_ops:length", 0, 1);
    OK(pycrew_batch_add(begun, "y#", "", (size_t)0));
    rc = fill_memory(crew, add_large);
    pycrew_batch_close(begun);
    return rc;
}

static int refuse_beside_result(pycrew_crew *crew)
{
    pycrew_batch *batch = batch_of(crew, "api_ops:zeros", 0, 1);
    int rc;

    OK(pycrew_batch_add(batch, "i", 9000000));
    ASSERT_INT(pycrew_batch_next(batch, BOUND), 1);
    rc = add_until_refused(batch, 8000000, 10 * MS);
    pycrew_batch_close(batch);
    return rc;
}

ROWS(batches_beside_those_who_hold_the_memory)
{
    pycrew_crew *crew = open_tight(64);

    ERROR(-ETIME, "others use the shared memory: wait longer, or raise options.memory",
          fill_memory(crew, refuse_for_memory));
    ERROR(-EAGAIN, "no memory is left, and the batch's items hold some: take some items out first",
          refuse_second(crew));
    ERROR(-EAGAIN, "the last item's result holds memory: pycrew_batch_next gives it back",
          refuse_beside_result(crew));
    pycrew_close(crew);
}

TAP_MAIN
