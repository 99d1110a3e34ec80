/* array: the host's private records of the blocks that arrays are in.
 *
 * A block is held from the moment the host can refer to it until nobody can: by its user
 * (pycrew_alloc, takes), by calls (their arguments and results), and by workers that kept a view of
 * an argument (RETAINED). It is the host's own, from its heap, or a worker's, under a lease.
 * Whatever a description in a message says, elements are looked for only inside a held block that
 * the call has.
 *
 * RETAINED. A worker that has a view left when a call ends says so in the answer. From then on the
 * private record names that incarnation, and the block stays until the worker's word in the block's
 * cell (shm/array.h) is not that incarnation's any more, or it is dead. Nobody waits for that: blocks that are kept
 * for a worker alone are looked at when arrays come and go, where memory is short, and at each
 * death.
 *
 * Locks: arrays->lock is taken after crew->lock and before worker->lock and crew->heap_lock. */
#ifndef PC_LIB_ARRAY_H
#define PC_LIB_ARRAY_H

#include "lib/crew.h"
#include "lib/shm/array.h"

typedef struct pc_held pc_held; /* a block */

int pc_arrays_init(pycrew_crew *crew); /* 0 or -ENOMEM */
void pc_arrays_free(pycrew_crew *crew);

/* Adds to a builder that is a call's. */
int pc_arrays_add(pc_builder *builder, const pycrew_array *array);

/* While the call's end is collected: notes what the worker still sees (flags, enum pc_answer_flags),
 * leases the arrays of the result, copies back. 0; -ENOMEM; -ECANCELED: the crew closes, and it was not
 * copied back; -EBADMSG: the result holds what no worker of ours writes. */
int pc_arrays_collect(pycrew_call *call, unsigned worker, unsigned incarnation, uint32_t flags);

/* Leases the arrays that are in this message, the result of one of a chunk's items. As above. */
int pc_arrays_lease(pycrew_call *call, unsigned worker, unsigned incarnation, pc_cursor message);

/* Under crew->lock: copies back, unless the call was released. */
void pc_arrays_copy_back(const pycrew_call *call);

bool pc_arrays_are_given(const pycrew_call *call);        /* arguments, */
size_t pc_arrays_copied(const pycrew_call *call);         /* bytes of copies made for them, */
size_t pc_arrays_result_bytes(const pycrew_call *call);   /* and of the blocks of its results */

/* The call gives its blocks back: those of its results so far, or all. */
void pc_arrays_leave_results(pycrew_call *call);
void pc_arrays_leave(pycrew_call *call);

/* The same where the crew has ended. */
void pc_arrays_forget(pycrew_call *call);

/* The array that a view of an ended call's result is. take: for the user. 0, PYCREW_ETYPE, -EINVAL
 * (where *ret has no size), -ENOMEM; nothing but the code. */
int pc_arrays_view(pycrew_call *call, const pc_view *view, bool take, pycrew_array *ret);

/* The array that a view of an argument of an exported function is, its elements in the view: 0, PYCREW_ETYPE or -EINVAL. */
int pc_arrays_whole(const pc_view *view, pycrew_array *ret);

/* Whether data lies in a block that the user has taken and not dropped. */
bool pc_arrays_taken(pycrew_crew *crew, const void *data);

/* For a map: checks an array, and holds the block of the crew's that it is in; *ret is NULL where it is
 * elsewhere. array->data is the address. what: its name in errors. */
int pc_arrays_pin(pycrew_crew *crew, const pycrew_array *from, const char *what, pc_array *array,
                  pc_held **ret);
void pc_arrays_unpin(pycrew_crew *crew, pc_held *held); /* or NULL */

/* Frees the blocks that were kept for workers which have let go by now or are dead. */
void pc_arrays_settle(pycrew_crew *crew);

#endif
