/* embedded: an interpreter in the program itself. inprocess: one thread that never gives the GIL
 * away, the least a call can cost. gil: as many threads as others have workers, which take the GIL
 * for each call.
 */
#include "python.h"

static PyObject *function;
static PyThreadState *main_state;
static struct threads threads;

static bool load(const struct workload *workload)
{
    Py_XDECREF(function);
    function = load_function(workload->function);
    if (!function)
        fail_python(workload->function);
    return true;
}

/* ---- inprocess ------------------------------------------------------------------------------- */

static void start_inprocess(unsigned workers)
{
    (void)workers;
    start_python();
}

static void one_inprocess(const struct workload *workload, const struct request *request,
                          struct reply *reply)
{
    (void)workload;
    call_python(function, request, reply);
}

static int64_t loop_inprocess(const struct workload *workload, int64_t first, int64_t count)
{
    static struct request request;
    static struct reply reply;
    int64_t lost = 0;
    for (int64_t i = 0; i < count; i++) {
        make_record(workload, first + i, &request);
        call_python(function, &request, &reply);
        lost += !finish_record(workload, first + i, &reply);
    }
    return lost;
}

static void close_nothing(void)
{
}

static const struct peer inprocess = {
    .name = "inprocess",
    .versions = python_versions,
    .start = start_inprocess,
    .use = load,
    .one = one_inprocess,
    .ways = {{"loop", loop_inprocess}},
    .close = close_nothing,
};

/* ---- gil ------------------------------------------------------------------------------------- */

static _Thread_local PyGILState_STATE gil_state;

static void take_gil(unsigned thread)
{
    (void)thread;
    gil_state = PyGILState_Ensure();
}

static void give_gil(unsigned thread)
{
    (void)thread;
    PyGILState_Release(gil_state);
}

static PyObject *same_function(unsigned thread)
{
    (void)thread;
    return function;
}

static void start_gil(unsigned workers)
{
    start_python();
    main_state = PyEval_SaveThread();
    threads = (struct threads){workers, true, take_gil, give_gil, same_function};
}

static bool use_gil(const struct workload *workload)
{
    take_gil(0);
    load(workload);
    give_gil(0);
    return true;
}

static void one_gil(const struct workload *workload, const struct request *request,
                    struct reply *reply)
{
    (void)workload;
    take_gil(0);
    call_python(function, request, reply);
    give_gil(0);
}

static int64_t many_gil(const struct workload *workload, int64_t first, int64_t count)
{
    return many_in_threads(&threads, workload, first, count);
}

static const struct peer gil = {
    .name = "gil",
    .versions = python_versions,
    .start = start_gil,
    .use = use_gil,
    .one = one_gil,
    .ways = {{"threads", many_gil}},
    .close = close_nothing,
};

const struct peer *const peers[] = {&inprocess, &gil, NULL};
