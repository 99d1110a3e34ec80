/* python: an interpreter embedded in a peer's own process, and a call by vectorcall in it. */
#ifndef BENCH_PEERS_PYTHON_H
#define BENCH_PEERS_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "peer.h"

void start_python(void);
void python_versions(void);
PyObject *load_function(const char *name); /* "module:name"; NULL with the exception set */
void call_python(PyObject *function, const struct request *request, struct reply *reply);
_Noreturn void fail_python(const char *what);

/* ---- threads.c: calls from the workers' threads of one process ---- */
struct threads {
    unsigned count;
    bool each_call; /* enter and leave around each call, else around all of a thread */
    void (*enter)(unsigned thread);
    void (*leave)(unsigned thread);
    PyObject *(*function)(unsigned thread);
};
int64_t many_in_threads(const struct threads *threads, const struct workload *workload,
                        int64_t first, int64_t count);

#endif
