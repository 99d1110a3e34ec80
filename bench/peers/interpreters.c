/* interpreters: subinterpreters with a GIL of their own (CPython 3.12 and later), one a thread. The
 * driver builds it for such an interpreter, if there is one.
 */
#include "python.h"

#if PY_VERSION_HEX < 0x030c0000
#error "own-GIL subinterpreters need CPython 3.12"
#endif

enum { WORKERS_MAX = 256 };

static PyInterpreterState *interpreters[WORKERS_MAX];
static PyObject *functions[WORKERS_MAX];
static PyThreadState *main_state, *first_state;
static _Thread_local PyThreadState *state;
static struct threads threads;

/* A thread has a state in the interpreter of its number as long as it is in it. */
static void enter(unsigned number)
{
    state = PyThreadState_New(interpreters[number]);
    PyEval_RestoreThread(state);
}

static void leave(unsigned number)
{
    (void)number;
    PyThreadState_Clear(state);
    PyThreadState_DeleteCurrent();
}

static PyObject *own_function(unsigned number)
{
    return functions[number];
}

static void start_interpreter(unsigned number)
{
    PyInterpreterConfig config = {
        .check_multi_interp_extensions = 1,
        .allow_threads = 1,
        .gil = PyInterpreterConfig_OWN_GIL,
    };
    PyThreadState *new_state;
    PyStatus status = Py_NewInterpreterFromConfig(&new_state, &config);
    if (PyStatus_Exception(status))
        fail("no interpreter %u: %s", number, status.err_msg);
    interpreters[number] = PyThreadState_GetInterpreter(new_state);
    PyEval_SaveThread();
    if (number == 0)
        first_state = new_state;
    PyEval_RestoreThread(main_state);
}

static void start(unsigned workers)
{
    if (workers > WORKERS_MAX)
        fail("%u interpreters", workers);
    start_python();
    main_state = PyThreadState_Get();
    for (unsigned i = 0; i < workers; i++)
        start_interpreter(i);
    PyEval_SaveThread();
    threads = (struct threads){workers, false, enter, leave, own_function};
}

static bool use(const struct workload *workload)
{
    for (unsigned i = 0; i < threads.count; i++) {
        enter(i);
        Py_XDECREF(functions[i]);
        functions[i] = load_function(workload->function);
        PyErr_Clear();
        leave(i);
        if (!functions[i]) {
            skip_reason = "its module cannot be imported by subinterpreters";
            return false;
        }
    }
    return true;
}

static void one(const struct workload *workload, const struct request *request, struct reply *reply)
{
    (void)workload;
    PyEval_RestoreThread(first_state);
    call_python(functions[0], request, reply);
    PyEval_SaveThread();
}

static int64_t many(const struct workload *workload, int64_t first, int64_t count)
{
    return many_in_threads(&threads, workload, first, count);
}

/* Ending them takes their states apart one by one; the program's end does that at once. */
static void close_nothing(void)
{
}

static const struct peer peer = {
    .name = "interpreters",
    .versions = python_versions,
    .start = start,
    .use = use,
    .one = one,
    .ways = {{"threads", many}},
    .close = close_nothing,
};
const struct peer *const peers[] = {&peer, NULL};
