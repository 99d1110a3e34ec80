/* engine: the bridge to a concurrent.futures.Executor (options.engine).
 *
 * Overview. A crew with an engine has one worker, the bridge. Looking up a function gives it an
 * object of python/pycrew/_engine.py instead, whose call gives the executor a task and returns a
 * coroutine that waits for its future; so calls wait in the event loop (async.h), with their
 * deadlines and cancels, and end in place. The function is looked up where the task runs.
 *
 * A chunk of a batch is one task. All of its items are started together, "started = count", before
 * the task is given away: so when the bridge dies the host knows that each of them may have run.
 * Its end has each item's own result, and how long the task took where it ran, which is what the
 * host measures chunks by.
 *
 * Losing it. When the executor breaks, nothing that it has will end. The bridge then exits
 * (PC_EXIT_ENGINE_LOST): that ends its calls, or queues them again where they have retries, as any
 * worker's death does, and the next bridge calls the factory again, with the host's back-off. A
 * single task's loss (PC_RESULT_LOST) ends that task's calls alone. */
#ifndef PC_WORKER_ENGINE_H
#define PC_WORKER_ENGINE_H

#include "worker/items.h"

/* Makes the executor: 0, or -1 with an exception. In a worker with options.engine. */
int pc_engine_start(const pc_worker *worker, int fault_fd);

/* Whether this process is a bridge. */
extern PyObject *pc_engine_module;

static inline bool pc_engine_is_used(void)
{
    return pc_engine_module != NULL;
}

/* What is called in the function's place; source: NULL, or its text. NULL with an exception. */
PyObject *pc_engine_function(const char *name, const char *source);

/* Whether an exception stands for one that was raised elsewhere; value may be NULL. */
bool pc_engine_is_remote_error(PyObject *value);

/* What the exception that is set means to the host. */
enum pc_result_kind pc_engine_exception_kind(void);

/* A batch's items, or a map's slice, as one task. */
enum pc_items_progress pc_engine_run_items(pc_execution *e, pc_items_writer *w);
enum pc_items_progress pc_engine_run_whole(pc_execution *e, pc_items_writer *w);

/* At the worker's end: lets the executor go. */
void pc_engine_end(void);

#endif
