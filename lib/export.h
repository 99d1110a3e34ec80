/* export: C functions that Python code calls in a worker, run on threads of the host's.
 *
 * The records. For each of a worker's places (shm/upcall.h) the host knows the number of the last
 * request that it took, the call that runs for it, and the block that its answer is in. A request
 * is taken once, by the thread that listens, and only from a worker that lives: number, function
 * and arguments are copied and checked then; arguments in a block are leased until the function has
 * returned. So a worker's death takes nothing from under a function: the sweep only clears the
 * places (the call is orphaned), and its answer is dropped.
 *
 * Threads. There are options.export_threads, made at the first export. One listens, the others wait
 * for what it finds; who finds something hands the listening on and runs it. They end after the
 * supervisor: until its last worker is dead somebody answers.
 *
 * Locks: exports->lock is taken after crew->lock and arrays->lock, and before worker->lock and
 * crew->heap_lock. It is not held while a function runs. */
#ifndef PC_EXPORT_H
#define PC_EXPORT_H

#include "lib/crew.h"
#include "lib/shm/upcall.h"

struct pycrew_host_call {
    pc_builder builder; /* of the answer; first */
    pycrew_crew *crew;
    pc_upcall *upcall;
    unsigned worker, incarnation;
    uint32_t sequence;
    bool blocks;           /* its worker runs no call until it is answered */
    /* Under exports->lock: */
    const pycrew_call *awaited; /* the function waits for it; NULL: for none */
    bool goes_on;               /* or will, as far as it was found out */
    pycrew_host_call *running;  /* the next one that runs */
    _Atomic bool orphaned; /* its worker is dead: the place is another's; set under exports->lock */
    uint32_t number;       /* of the function */
    pycrew_host_function function; /* NULL: there is none of that number */
    void *data;
    pc_cursor arguments;
    pc_lease_node lease; /* on their block; its block is 0: they stand here: */
    uint64_t small_arguments[PC_UPCALL_ARGUMENTS / 8];
    enum pc_upcall_kind kind; /* of the answer */
    uint64_t block;           /* it is in; 0: it stands here: */
    uint64_t small_answer[PC_UPCALL_ANSWER / 8];
    pc_error error;         /* pycrew_host_fail */
    pycrew_host_call *next; /* waiting, or spare */
};

/* Runs the function, unless nobody waits for it any more, and leaves kind and answer. */
void pc_host_call_run(pycrew_host_call *call);

/* The answer to PC_UPCALL_LIST; takes exports->lock. */
int pc_exports_list(pycrew_crew *crew, pc_builder *builder);

/* Sweep and rebuild, the worker's death being confirmed and its memory given up: its calls are
 * orphans. */
void pc_exports_forget(pycrew_crew *crew, unsigned worker);

/* Under crew->lock: what is wrong with the records in the segment, or NULL. And writes them again.
 */
const char *pc_exports_audit(pycrew_crew *crew);
void pc_exports_restore(pycrew_crew *crew);

/* Waits for the functions that run. After the supervisor's end; in a fork only the memory is freed.
 */
void pc_exports_stop(pycrew_crew *crew, bool forked);

/* A thread that has waited for this call for a while: whether it is in an exported function, and would wait for ever (or
 * until a deadline): for a worker, or for all, that wait for functions that wait for it. */
bool pc_exports_are_locked(const pycrew_call *awaited);
void pc_exports_end_wait(pycrew_crew *crew); /* it waits no more */

/* Whether this thread runs one of the crew's exported functions. */
bool pc_exports_are_running_me(const pycrew_crew *crew);

#endif
