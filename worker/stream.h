/* stream: the iterator of a stream, which stays in the worker between its items.
 *
 * An ordinary iterator is asked in the call for its item. An asynchronous one's item is awaited on the worker's event
 * loop, as a coroutine's result is, and other calls go on beside it. But it can be asked for one item at a time,
 * and many calls may ask for the next: so they wait here for their turn, in their order, and so does the call
 * that closes it, behind the item that it is at. Those that wait have no task and run no code. */
#ifndef PC_WORKER_STREAM_H
#define PC_WORKER_STREAM_H

#include "worker/async.h"

int pc_stream_init(void); /* 0, or -1 with an exception */

/* Whether an object can be a stream's iterator. */
bool pc_stream_takes(PyObject *object);

/* Of an iterator that the call e made, and that has this name in the worker's table. NULL with an exception. */
PyObject *pc_stream_new(const pc_execution *e, PyObject *name, PyObject *iterator);

bool pc_stream_check(PyObject *object); /* whether it is one; the rest is for those alone */

/* Borrowed. */
PyObject *pc_stream_iterator(PyObject *stream);

/* Its next item. NULL without an exception at its end. The stream itself: this call is to wait for its turn. */
PyObject *pc_stream_next(PyObject *stream);

/* Its close: the stream itself, as above; NULL, without an exception: there is nothing to wait for. */
PyObject *pc_stream_close(PyObject *stream);

/* A call whose turn is to be waited for: e->awaitable is its stream, and is taken. As pc_async_start; call->data is not NULL
 * at its end. */
int pc_stream_await(pc_execution *e, void (*end)(pc_async_call *call, PyObject *result));

/* At such a one's end, whose result, or NULL with an exception, is given: lets the next one begin. True: the stream has ended,
 * and the exception is cleared. */
bool pc_stream_end(pc_async_call *call, PyObject *result);

/* Whether a worker that is to leave waits for it: it is not past its deadline, and has been asked for an item in the
 * last minute, as far as looks by this show. */
bool pc_stream_holds(PyObject *stream, int64_t now);

uint32_t pc_stream_epoch(PyObject *stream); /* see leave.h */

/* It is asked right now: it cannot be closed. */
bool pc_stream_is_busy(PyObject *stream);

#endif
