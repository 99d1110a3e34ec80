/* object: what stays in a worker between calls: the instances of actors, the iterators of streams.
 *
 * Each is named by the call that made it (enum pc_request_kind). A name is given once, so what
 * comes late, for an object that is gone, finds none: an actor's method then raises, a stream has
 * ended. */
#ifndef PC_WORKER_OBJECT_H
#define PC_WORKER_OBJECT_H

#include "worker/async.h"

/* Runs a call of a kind: a new reference; NULL with an exception and *kind, or with none and
 * PC_RESULT_END. It may be a stream (stream.h): the call is to wait for its turn. */
PyObject *pc_object_run(pc_execution *e, pc_cursor arguments, enum pc_result_kind *kind);

/* What of such a call was awaited has ended: result, which is stolen, or NULL with an exception. What is to be
 * written; or NULL without an exception, and *kind is PC_RESULT_END. */
PyObject *pc_object_end_awaited(pc_async_call *call, PyObject *result, enum pc_result_kind *kind);

/* It is in the table no more. An exception that is set stays. */
void pc_object_forget(PyObject *name);

/* A stream has failed: it goes on no more, and waits for its DROP. An exception that is set stays. */
void pc_object_end_stream(PyObject *name);

/* aclose() or close(), where there is one, else None. It may be awaitable. */
PyObject *pc_object_call_close(PyObject *object);

/* How many streams there are, and whether a worker that is to leave waits for one of them. */
size_t pc_object_streams(void);
bool pc_object_holds(int64_t now);

/* At an orderly end of the worker: closes all that are left. */
void pc_object_end(void);

/* Sets the TypeError for a generator that is to be a call's result, and true; false: it is none. */
bool pc_object_refuse_generator(PyObject *object);

#endif
