/* Each error of what goes on in the workers: streams, actors, what Python code asks its host,
   memory that it asks for, engines. As test-errors.c. */
#include "tests/harness/errors.h"

/* ---- streams ---- */

static int next_of(pycrew_crew *crew, const char *function)
{
    pycrew_call *call = prepare(crew, function);
    int rc;

    OK(pycrew_set_stream(call, 0));
    OK(pycrew_submit(call));
    while ((rc = pycrew_next(call, BOUND)) == 1)
        ;
    pycrew_release(call);
    return rc;
}

static int next_unsubmitted(pycrew_call *call)
{
    OK(pycrew_set_stream(call, 0));
    return pycrew_next(call, 0);
}

static int stream_submitted(pycrew_call *call)
{
    OK(pycrew_submit(call));
    return pycrew_set_stream(call, 0);
}

static int stream_of_item(pycrew_crew *crew)
{
    pycrew_batch *batch;
    pycrew_call *item;
    int rc;

    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:echo"), NULL, &batch));
    OK(pycrew_batch_begin(batch, BOUND, &item));
    rc = pycrew_set_stream(item, 0);
    pycrew_batch_close(batch);
    return rc;
}

static int next_of_endless(pycrew_crew *crew, int64_t deadline_ns)
{
    pycrew_call *call = prepare(crew, "error_ops:endless");
    int rc;

    OK(pycrew_set_stream(call, 1));
    OK(pycrew_set_timeout(call, deadline_ns));
    OK(pycrew_submit(call));
    ASSERT_INT(pycrew_next(call, BOUND), 1);
    if (deadline_ns > 0) {
        pause_ns(2 * deadline_ns); /* the items are not asked for */
        while ((rc = pycrew_next(call, BOUND)) == 1)
            ;
    } else {
        OK(pycrew_cancel(call));
        rc = pycrew_next(call, BOUND);
    }
    pycrew_release(call);
    return rc;
}

static int cancel_ended(pycrew_crew *crew)
{
    pycrew_call *call = prepare(crew, "error_ops:one");
    int rc;

    OK(pycrew_set_stream(call, 0));
    OK(pycrew_submit(call));
    while (pycrew_next(call, BOUND) == 1)
        ;
    rc = pycrew_cancel(call);
    pycrew_release(call);
    return rc;
}

static int result_without_item(pycrew_crew *crew)
{
    pycrew_call *call = prepare(crew, "error_ops:endless");
    int64_t number;
    int rc;

    OK(pycrew_set_stream(call, 0));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    rc = pycrew_result_i64(call, &number);
    pycrew_release(call);
    return rc;
}

static int next_of_slow(pycrew_crew *crew)
{
    pycrew_call *call = prepare(crew, "error_ops:slow");
    int rc;

    OK(pycrew_set_stream(call, 0));
    OK(pycrew_submit(call));
    rc = pycrew_next(call, 0);
    pycrew_release(call);
    return rc;
}

ROWS(streams)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.calls = 8;
    crew = open_with(&options);
    ERROR(-EINVAL,
          "pycrew_next: the call is no stream: pycrew_set_stream makes it one, before its submit",
          WITH_CALL(crew, pycrew_next(call, 0)));
    ERROR(-EINVAL, "pycrew_next: the call was not submitted: pycrew_submit first",
          WITH_CALL(crew, next_unsubmitted(call)));
    ERROR(-EALREADY, "pycrew_set_stream: the call was submitted already: prepare another",
          WITH_CALL(crew, stream_submitted(call)));
    ERROR(-EINVAL,
          "pycrew_set_stream: only a call of a function can be a stream, and no actor's call or "
          "batch's item",
          stream_of_item(crew));
    ERROR(-ETIME, "the next item is not there yet: ask again, cancel or release the stream",
          next_of_slow(crew));
    ERROR(-EALREADY, "the stream has no item at present: pycrew_next gives one",
          result_without_item(crew));
    ERROR(-EALREADY, "the stream has ended", cancel_ended(crew));
    ERROR(-ECANCELED, "the call was cancelled", next_of_endless(crew, PYCREW_FOREVER));
    ERROR(-ETIMEDOUT, "the deadline passed between two items", next_of_endless(crew, 300 * MS));
    RAISED("TypeError",
           "*name* is called as a stream, but returned '*type*', which is no generator, "
           "asynchronous generator or "
           "other iterator",
           next_of(crew, "os:getpid"));
    RAISED("TypeError", "'*type*.__anext__' returned '*type*', which cannot be awaited",
           next_of(crew, "actor_ops:NoAwaitable"));
    pycrew_close(crew);
}

static int stream_without_calls(pycrew_crew *crew)
{
    pycrew_call *first = prepare(crew, "api_ops:nothing"),
                *second = prepare(crew, "api_ops:nothing");
    int rc = pycrew_set_stream(first, 0);

    pycrew_release(first);
    pycrew_release(second);
    return rc;
}

ROWS(streams_without_calls)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.calls = 3;
    crew = open_with(&options);
    ERROR(-EAGAIN,
          "a stream needs three calls, and all are in use: release some, or raise options.calls",
          stream_without_calls(crew));
    pycrew_close(crew);
}

/* ---- actors ---- */

static int new_actor_submitted(pycrew_call *call)
{
    pycrew_actor *actor;

    OK(pycrew_submit(call));
    return pycrew_actor_new(call, &actor);
}

static int call_after_close(pycrew_crew *crew)
{
    pycrew_actor *actor;
    pycrew_call *call;
    int rc;

    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", ""));
    OK(pycrew_actor_prepare(actor, "get", BOUND, &call));
    pycrew_actor_close(actor);
    OK(pycrew_submit(call));
    rc = pycrew_wait(call, BOUND);
    pycrew_release(call);
    return rc;
}

static int reopen_with_array(pycrew_crew *crew)
{
    double number = 1;
    pycrew_actor *actor;
    pycrew_array array;

    OK(pycrew_array_init(&array, &number, PYCREW_F64, 0, NULL, 0));
    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", "A", &array));
    GIVES(pycrew_actor_run(actor, "die", ""), PYCREW_EDIED);
    return pycrew_actor_reopen(actor, BOUND);
}

ROWS(actors)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_actor *actor;
    pycrew_call *call;
    int result;

    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", ""));
    ERROR(-EINVAL, "pycrew_actor_open: crew, ret and format must not be NULL",
          pycrew_actor_open(crew, NULL, BOUND, "actor_ops:Counter", ""));
    ERROR(-EINVAL,
          "pycrew_actor_open gives no result, as the format \"*format*\" asks: the object stays in "
          "its worker",
          pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", ">i", &result));
    ERROR(-EINVAL, "pycrew_actor_new: call and ret must not be NULL, nor a batch's item",
          pycrew_actor_new(NULL, &actor));
    ERROR(-EALREADY, "pycrew_actor_new: the call was submitted already: prepare another",
          new_actor_submitted(prepare(crew, "api_ops:nothing")));
    ERROR(-EINVAL, "pycrew_actor_prepare: actor and ret must not be NULL",
          pycrew_actor_prepare(NULL, "get", 0, &call));
    ERROR(-EINVAL, "pycrew_actor_run: actor and format must not be NULL",
          pycrew_actor_run(actor, "get", NULL));
    ERROR(-EINVAL, "\"*name*\" is no method's name: one name, without dots",
          pycrew_actor_prepare(actor, "a.b", 0, &call));
    ERROR(-EINVAL, "pycrew_actor_reopen: actor must not be NULL", pycrew_actor_reopen(NULL, 0));
    ERROR(-EALREADY, "pycrew_actor_reopen: the actor's worker lives, and the object with it",
          pycrew_actor_reopen(actor, 0));
    RAISED("RuntimeError", "the actor was closed", call_after_close(crew));
    RAISED("AttributeError", "'*type*' object has no attribute '*name*'",
           pycrew_actor_run(actor, "no_such", ""));
    ERROR(-EINVAL, "the actor was opened with arrays, which are not kept: open another",
          reopen_with_array(crew));
    pycrew_run(crew, "api_ops:die_by", "s", "kill");
    ERROR(PYCREW_EDIED, "the process of worker *worker* that this call was for has ended",
          pycrew_actor_run(actor, "get", ""));
    pycrew_close(crew);
}

static int call_after_interrupt(pycrew_crew *crew)
{
    pycrew_actor *actor;

    OK(pycrew_actor_open(crew, &actor, BOUND, "actor_ops:Counter", ""));
    GIVES(pycrew_actor_run_within(actor, 300 * MS, "sleep", "d", 60.0), -ETIMEDOUT);
    return pycrew_actor_run(actor, "get", "");
}

ROWS(actors_after_an_interrupt)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(PYCREW_EDIED,
          "worker *worker* (PID *pid*) was replaced (after a call that was interrupted, at its "
          "limits, or by a reload)",
          call_after_interrupt(crew));
    pycrew_close(crew);
}

static void late_actor(const char *init)
{
    pycrew_options options = test_options(1);
    pycrew_actor *actor;
    pycrew_crew *crew;

    options.init = init;
    crew = open_with(&options);
    pycrew_run(crew, "api_ops:die_by", "s", "kill");
    ERROR(-ETIMEDOUT, "no worker was ready before the deadline",
          pycrew_actor_open(crew, &actor, 0, "actor_ops:Counter", ""));
    pycrew_close(crew);
}

ROWS(actors_without_workers)
{
    late_actor(NULL);
}

/* ---- exported functions ---- */

static int describe(void *data, pycrew_host_call *call)
{
    const char *name;
    int count = 0;

    (void)data;
    if (pycrew_host_arguments(call, "name=s|count=i", &name, &count) < 0)
        return pycrew_last_error()->code;
    return pycrew_host_return(call, "s", name);
}

static int badly(void *data, pycrew_host_call *call)
{
    const char *format;

    (void)data;
    if (pycrew_host_arguments(call, "s", &format) < 0)
        return pycrew_last_error()->code;
    return pycrew_host_return(call, format, 1, 2);
}

static int return_large(void *data, pycrew_host_call *call)
{
    size_t size = (size_t)data;
    char *text = calloc(1, size);
    int rc = pycrew_host_return_bytes(call, text, size);

    free(text);
    return rc;
}

static int run_inside(void *data, pycrew_host_call *call)
{
    int rc = pycrew_run(data, "os:getpid", "");

    return rc < 0 ? rc : pycrew_host_return_none(call);
}

static int fail_any(void *data, pycrew_host_call *call)
{
    (void)data;
    return pycrew_host_fail(call, NULL, "the price is not known");
}

static int close_inside(void *data, pycrew_host_call *call)
{
    pycrew_close(data);
    return pycrew_host_return_none(call);
}

#define ASK(crew, text) pycrew_run(crew, "error_ops:evaluate", "s>", text)

ROWS(exports)
{
    pycrew_crew *crew = open_crew(1);

    OK(pycrew_export(crew, "describe", describe, NULL));
    ERROR(-EINVAL, "pycrew_export: crew, name and function must not be NULL",
          pycrew_export(crew, NULL, describe, NULL));
    ERROR(-EINVAL,
          "pycrew_export: the name \"*name*\" is no identifier of ASCII letters, digits and _, or "
          "begins with __",
          pycrew_export(crew, "2nd", describe, NULL));
    ERROR(-EEXIST, "pycrew_export: *name* is exported already",
          pycrew_export(crew, "describe", describe, NULL));
    ERROR(-EINVAL, "pycrew_host_fail: call must not be NULL", pycrew_host_fail(NULL, NULL, NULL));
    RAISED("AttributeError", "the host exports no function '*name*'; it exports *names*",
           ASK(crew, "host.describes()"));
    RAISED("TypeError", "argument *number* ('*name*') is missing", ASK(crew, "host.describe()"));
    RAISED("TypeError", "*number* arguments are given, at most *most* are taken",
           ASK(crew, "host.describe('a', 2, 3)"));
    RAISED("TypeError", "there is no argument '*name*'", ASK(crew, "host.describe('a', size=1)"));
    RAISED("TypeError", "an argument is given twice", ASK(crew, "host.describe('a', name='b')"));
    RAISED("TypeError", "*place*: expected *type*, got *type*", ASK(crew, "host.describe(1)"));
    OK(pycrew_export(crew, "badly", badly, NULL));
    RAISED("TypeError", "argument *number* is missing", ASK(crew, "host.badly()"));
    RAISED("ValueError", "*place*: an answer's format has no '>'", ASK(crew, "host.badly('i>i')"));
    RAISED("ValueError", "*place*: an answer has no keywords", ASK(crew, "host.badly('x=i')"));
    RAISED("ValueError", "format \"*format*\": byte *offset*: *place*: an array cannot be here",
           ASK(crew, "host.badly('A')"));
    RAISED("TypeError",
           "a host function takes no '*type*' of this type: give it a plain ndarray of numbers, "
           "bytes (tobytes()) or a "
           "list (tolist())",
           ASK(crew, "host.describe(numpy.array(['a']))"));
    OK(pycrew_export(crew, "fail", fail_any, NULL));
    RAISED("RuntimeError", "*text*", ASK(crew, "host.fail()"));
    OK(pycrew_export(crew, "inside", run_inside, crew));
    RAISED("OSError",
           "an exported function waits for a call, and all workers wait for exported functions: "
           "more workers "
           "(options.workers), or no waiting in exported functions",
           ASK(crew, "host.inside()"));
    RAISED("RuntimeError",
           "pycrew.host: this is a child process of a worker's; only the worker can ask the host",
           pycrew_run(crew, "error_ops:in_child", "s>", "host.describe('a')"));
    pycrew_close(crew);
}

static int inside_actor(void *data, pycrew_host_call *call)
{
    pycrew_actor **actor = data;
    int rc = pycrew_actor_run(*actor, "get", "");

    return rc < 0 ? rc : pycrew_host_return_none(call);
}

ROWS(exports_that_wait_for_their_own_worker)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_actor *actor;

    OK(pycrew_export(crew, "inside", inside_actor, &actor));
    OK(pycrew_actor_open(crew, &actor, BOUND, "error_ops:Asker", ""));
    RAISED("OSError",
           "an exported function waits for a call that only worker *worker* can run, and that "
           "waits for exported "
           "functions: no waiting in exported functions for that worker's calls",
           pycrew_actor_run(actor, "ask", ""));
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

ROWS(exports_that_close_the_crew)
{
    pycrew_options options = errors_options();
    pycrew_crew *crew = open_with(&options);

    OK(pycrew_export(crew, "close", close_inside, crew));
    LOGGED("pycrew_close was called by a function that the crew runs (pycrew_export): it would "
           "wait for itself, and is "
           "ignored",
           ASK(crew, "host.close()"));
    pycrew_close(crew);
}

/* But for what an error's text needs. */
static void fill(pycrew_crew *crew)
{
    void *last[2] = {NULL}, *memory;

    for (unsigned i = 0; (memory = pycrew_alloc(crew, 900000)) != NULL; i++)
        last[i % 2] = memory;
    pycrew_free(crew, last[0]);
    pycrew_free(crew, last[1]);
}

ROWS(exports_that_have_no_memory)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.memory = 16 << 20;
    options.calls = 16;
    crew = open_with(&options);
    OK(pycrew_export(crew, "describe", describe, NULL));
    OK(pycrew_export(crew, "huge", return_large, (void *)(size_t)(40 << 20)));
    OK(pycrew_export(crew, "large", return_large, (void *)(size_t)(8 << 20)));
    RAISED("MemoryError", "the arguments exceed the crew's shared memory: raise options.memory",
           ASK(crew, "host.describe(b'x' * (40 << 20))"));
    RAISED("MemoryError",
           "the answer (*bytes* bytes) exceeds the crew's shared memory (*bytes* bytes): raise "
           "options.memory",
           ASK(crew, "host.huge()"));
    RAISED("MemoryError",
           "pycrew.empty: *bytes* bytes exceed the crew's shared memory: raise options.memory",
           ASK(crew, "pycrew.empty(40 << 20, 'u1')"));
    fill(crew);
    RAISED("MemoryError", "no shared memory is left for the arguments (options.memory)",
           ASK(crew, "host.describe(b'x' * (4 << 20))"));
    RAISED("MemoryError",
           "no shared memory is left for an answer of *bytes* bytes: raise options.memory",
           ASK(crew, "host.large()"));
    RAISED("MemoryError",
           "pycrew.empty: *bytes* bytes are not left in the crew's shared memory: raise "
           "options.memory",
           ASK(crew, "pycrew.empty(4 << 20, 'u1')"));
    pycrew_close(crew);
}

/* ---- pycrew.empty, pycrew.host outside of calls ---- */

ROWS(memory_that_python_asks_for)
{
    pycrew_crew *crew = open_crew(1);

    RAISED("ValueError", "pycrew.empty: negative dimensions are not allowed",
           ASK(crew, "pycrew.empty(-1)"));
    RAISED("TypeError", "pycrew.empty: shape must be an int, or a tuple of ints",
           ASK(crew, "pycrew.empty(None)"));
    RAISED("ValueError", "pycrew.empty: more than 32 dimensions",
           ASK(crew, "pycrew.empty((1,) * 40)"));
    RAISED("ValueError", "pycrew.empty: the product of shape and itemsize exceeds 2**63 - 1",
           ASK(crew, "pycrew.empty((1 << 40, 1 << 40))"));
    RAISED("TypeError", "pycrew.empty: an array of Python objects cannot be in shared memory",
           ASK(crew, "pycrew.empty(3, object)"));
    RAISED("RuntimeError",
           "there is no shared memory here: pycrew.empty is for calls, not for preload, init or a "
           "worker's children",
           pycrew_run(crew, "error_ops:in_child", "s>", "pycrew.empty(1)"));
    pycrew_close(crew);
}

ROWS(init_functions_that_ask_the_host)
{
    ERROR(PYCREW_ESTART,
          "a worker's start failed: RuntimeError: pycrew.host: the host can be asked in calls and "
          "exit functions only, "
          "not at a preload and not in the init function",
          OPEN(init = "error_ops:ask_early"));
}

ROWS(memory_without_numpy)
{
    static const char *const preload[] = {"no_numpy", NULL};
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.preload = preload;
    crew = open_with(&options);
    RAISED("TypeError", "pycrew.empty: the dtype '*name*' needs numpy, which is not installed",
           ASK(crew, "pycrew.empty(3, 'M8[ns]')"));
    pycrew_close(crew);
}

/* ---- engines ---- */

static int set_stream(pycrew_crew *crew)
{
    return WITH_CALL(crew, pycrew_set_stream(call, 0));
}

static int open_without_uvloop(void)
{
    static const char *path[2];
    FILE *file = fopen(scratch("uvloop.py"), "w");

    ASSERT(file != NULL && fputs("raise ImportError('not here')\n", file) >= 0 &&
           fclose(file) == 0);
    path[0] = scratch_directory();
    return OPEN(path = path, options.loop = "uvloop");
}

ROWS(engines_and_loops_that_cannot_be_had)
{
    ERROR(-EINVAL, "options.engine_options is given, and no options.engine",
          OPEN(engine_options = "{}"));
    ERROR(-ENOTSUP, "options.debug with the engine *engine*: calls run somewhere else",
          OPEN(debug = true, options.engine = "engine_ops:threads"));
    ERROR(-EINVAL, "options.engine: *reason*", OPEN(engine = "engine_ops"));
    ERROR(PYCREW_ESTART,
          "a worker's start failed: TypeError: engine_options is no JSON object, but *text*",
          OPEN(engine = "engine_ops:threads", options.engine_options = "[1]"));
    ERROR(PYCREW_ESTART,
          "a worker's start failed: TypeError: engine_options: nested is to be a number of workers, from 1 to 1024, "
          "and is *value*",
          OPEN(engine = "engine_ops:threads", options.engine_options = "{\"nested\": 0}"));
    ERROR(PYCREW_ESTART,
          "a worker's start failed: TypeError: the engine *engine* made no "
          "concurrent.futures.Executor, but an object "
          "of type *type*",
          OPEN(engine = "engine_ops:none"));
    ERROR(PYCREW_ESTART,
          "a worker's start failed: ImportError: the engine pycrew.engines.dask:cluster needs "
          "Dask, which is not there "
          "(*reason*): install the Debian package python3-distributed, or distributed from PyPI",
          OPEN(engine = "engine_ops:needs_a_package"));
    ERROR(PYCREW_ESTART,
          "Python workers cannot start: ImportError: options.loop is uvloop, which *path* does not "
          "find (*reason*): "
          "install the Debian package python3-uvloop",
          open_without_uvloop());
}

ROWS(engines)
{
    pycrew_options options = errors_options();
    pycrew_crew *crew;

    options.engine = "engine_ops:threads";
    options.grace_ns = 10 * SECOND;
    crew = open_with(&options);
    ERROR(-ENOTSUP, "the engine *engine* has no *feature*: see doc/engines.md", set_stream(crew));
    pycrew_close(crew);
}

ROWS(engines_that_are_lost)
{
    pycrew_options options = errors_options();
    pycrew_crew *crew;

    options.engine = "engine_ops:processes";
    options.grace_ns = 10 * SECOND;
    crew = open_with(&options);
    ERROR(PYCREW_EDIED,
          "the engine was lost while it had the call; the bridge, worker *worker* (PID *pid*), is "
          "started again",
          pycrew_run(crew, "engine_ops:die", ""));
    pycrew_close(crew);
    options.engine = "engine_ops:losing";
    crew = open_with(&options);
    ERROR(PYCREW_EDIED, "the engine *engine* lost the task: *reason*",
          pycrew_run(crew, "engine_ops:is_lost", ""));
    pycrew_close(crew);
}

TAP_MAIN
