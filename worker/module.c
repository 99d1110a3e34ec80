/* module: the built-in module _pycrew; python/pycrew is its face. */
#include "lib/shm/sleeper.h"
#include "worker/array.h"
#include "worker/host.h"
#include "worker/stream.h"
#include "worker/worker.h"

pc_current pc_current_call = {.call = UINT64_MAX, .deadline = INT64_MAX};
PyObject *pc_deadline_exceeded;

void pc_interrupt_raise(void)
{
    PyErr_SetString(pc_deadline_exceeded, pc_now() >= pc_current_call.deadline
                                              ? "the call's deadline passed"
                                              : "the call was cancelled");
}

/* The Python-level handler of the interrupt's signal. The request names a call, and for a batch
 * an item; if that is not the present one any more, the signal came late and hits nobody. */
static PyObject *interrupt(PyObject *self, PyObject *arguments)
{
    pc_current *current = &pc_current_call;
    uint64_t call;
    uint32_t item;

    (void)self;
    (void)arguments;
    if (current->record == NULL)
        Py_RETURN_NONE;
    call = atomic_load_explicit(&current->record->interrupt, memory_order_acquire);
    item = atomic_load_explicit(&current->record->interrupt_item, memory_order_relaxed);
    if (pc_async_pending > 0 && !pc_async_interrupt(call, item))
        return NULL;
    /* None, or it was raised: the signal is sent again until the call has ended. */
    if (call != current->call || item != current->item || current->interrupted)
        Py_RETURN_NONE;
    current->interrupted = current->recycle = true;
    pc_interrupt_raise();
    return NULL;
}

static PyObject *deadline(PyObject *self, PyObject *unused)
{
    int64_t at;

    (void)self;
    (void)unused;
    if (!pc_async_deadline(&at))
        at = pc_current_call.deadline;
    if (at == INT64_MAX)
        Py_RETURN_NONE;
    return PyFloat_FromDouble((double)(at - pc_now()) / 1e9);
}

static PyMethodDef methods[] = {
    {"_interrupt", interrupt, METH_VARARGS, "handler of the interrupt's signal"},
    {"deadline", deadline, METH_NOARGS,
     "deadline() -> seconds left until this call's deadline (negative: passed), or None"},
    {"_host_functions", pc_host_functions, METH_NOARGS, "what the host exports, by name"},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_pycrew", .m_size = -1, .m_methods = methods};

PyObject *pc_module_init(void)
{
    PyObject *module = PyModule_Create(&definition);

    if (module == NULL)
        return NULL;
    if (pc_array_init(module) < 0 || pc_host_init(module) < 0 || pc_stream_init() < 0) {
        Py_DECREF(module);
        return NULL;
    }
    /* A BaseException: `except Exception` must not swallow it. */
    pc_deadline_exceeded = PyErr_NewExceptionWithDoc(
        "pycrew.DeadlineExceeded", "Raised in a call whose deadline passed, or that was cancelled.",
        PyExc_BaseException, NULL);
    Py_XINCREF(pc_deadline_exceeded); /* one for the module, one for us */
    if (pc_deadline_exceeded == NULL ||
        PyModule_AddObject(module, "DeadlineExceeded", pc_deadline_exceeded) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
