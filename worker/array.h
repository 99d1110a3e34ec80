/* array: arrays in shared memory as Python sees them.
 *
 * What Python gets is a numpy array, or a memoryview where numpy is not installed, over an object
 * of the type pycrew.Memory: all that is made of it (views, slices, tensors) keeps that object
 * alive. So the objects of a block, counted, say whether Python may still look at it.
 *
 * A block that is an argument's is the host's to free. If Python has views of it left when the call
 * ends, its word in the block's cell is set and the answer says RETAINED; with the last view the
 * word is cleared. A block that pycrew.empty made is our own. It is given to the host as a result
 * (leased) by its cell, so that what the host gives back writes nothing into the block; it is freed
 * when it has been given back and has no views.
 *
 * In a child that user code forked the segment is not mapped, but for what it has views of: that is
 * a copy of its own, at the same address.
 *
 * All functions need the GIL. Failing, they leave a Python exception set. */
#ifndef PC_WORKER_ARRAY_H
#define PC_WORKER_ARRAY_H

#include "lib/shm/array.h"
#include "worker/worker.h"

int pc_array_init(PyObject *module); /* adds empty() and the type to _pycrew: 0 or -1 */

/* From here on there is a segment. */
void pc_array_start(pc_worker *worker);

/* Whether decoding an array is the first to import numpy, and so can run user code. */
bool pc_array_may_import(void);

PyObject *pc_array_decode(const pc_view *view);

/* 1: written; 0: it is no array that can be described; -1 with an exception; or the writer's or the
 * heap's negative errno with none. Its blocks are given to the host if the call then ends well. */
int pc_array_encode(pc_writer *writer, PyObject *object);

/* An argument of a host function's: one of numpy's arrays with a copy of its elements. As pc_array_encode. */
int pc_array_encode_whole(pc_writer *writer, PyObject *object);

/* Whether the present call, or item, had to do with arrays. */
extern bool pc_array_used;

/* The end of such a one, its result written or not: enum pc_answer_flags. */
uint32_t pc_array_end_call(bool returned);

/* The present call waits, and others run: puts its arguments aside, until they are those of the present call
 * again, to be ended. */
typedef struct pc_array_held pc_array_held;
pc_array_held *pc_array_suspend(void);
void pc_array_resume(pc_array_held *held);

#endif
