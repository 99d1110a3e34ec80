/* worker: what the files of pycrew-worker share. One process is first the zygote, then, in each
 * fork of it, a worker. */
#ifndef PC_WORKER_WORKER_H
#define PC_WORKER_WORKER_H

#include <Python.h>
#include <sys/types.h>

#include "lib/shm/control.h"
#include "lib/shm/heap.h"
#include "lib/shm/segment.h"
#include "lib/shm/slot.h"
#include "lib/shm/value.h"

/* The host's control socket, from spawn. */
enum { PC_CONTROL_FD = 3 };

enum { PC_INFLIGHT_DEFAULT = 256 };

/* From the host's CONFIG message. All strings live as long as the process. */
typedef struct pc_worker_options {
    const char *python;
    const char *init, *exit;
    const char *loop;           /* options.loop; NULL: asyncio's, as its policy says */
    const char *engine, *engine_options; /* NULL: calls run here */
    unsigned inflight;          /* coroutines at a time; 0: PC_INFLIGHT_DEFAULT */
    char output;                /* 'l'og, 'i'nherit, 'd'iscard */
    const char **path, **preload; /* NULL-terminated */
    uint64_t max_calls, max_rss;  /* 0: none */
    int nice;
    int64_t limit_memory, limit_files, limit_core, limit_cpu_s; /* 0: as they are; negative: none */
    unsigned *cpus, cpu_count; /* that it may use; none: all */
    bool one_cpu;              /* one of them, in turn */
    pid_t debug;               /* the host's process group, if it lends its terminal; else 0 */
} pc_worker_options;

/* When a worker is to end. See life.c. */
typedef struct pc_life {
    uint64_t next_look; /* at so many calls */
    uint64_t max_calls, max_rss;
    bool retires;          /* the host was told that the end is near */
    bool too_large;        /* once seen, it stays so until the worker can leave */
    int64_t looked;        /* at its size, when */
    uint64_t looked_calls; /* and after how many calls */
    const pc_worker_record *record;
    bool debug; /* it is debugged */
} pc_life;

/* The worker this process is, after the fork. */
typedef struct pc_worker {
    pc_segment segment;
    pc_heap heap;
    unsigned number, incarnation;
    int lifeline;
    uint64_t lifeline_inode; /* to see whether the descriptor is still that */
    bool cut_off;            /* an end could not be announced: our death has to do it */
    uint64_t allocated;      /* bytes of shared memory, for results, since its start */
    const pc_worker_options *options;
    pc_life life;
    int *queue_fds; /* by queue; -1: not received yet */
    uint64_t *queue_ids; /* the eventfd-id of each */
} pc_worker;

/* ---- zygote.c ---- */

/* Serves the control socket until the host says EXIT or dies, with this interpreter's Python. Returns
 * the exit status; in a forked worker, the worker's. What pycrew-launch calls, too. */
int pc_worker_main(const char *python);

/* ---- interpreter.c ---- */

/* Starts Python and imports the preload modules. NULL, or what went wrong, in words that stay. */
const char *pc_interpreter_start(const pc_worker_options *options);

/* "module:name.in.it" to the object; NULL with an exception. */
PyObject *pc_interpreter_find(const char *name);

/* The same in the module that source text makes. number tells its file in tracebacks from others. */
PyObject *pc_interpreter_find_in_source(unsigned number, const char *name, const char *source);

/* Calls "module:function" without arguments: 0 or -1 with an exception. */
int pc_interpreter_hook(const char *name);

/* Python's side of a fork is done; now this process's own. 0 or -1 with an exception. */
int pc_interpreter_after_fork(unsigned worker, int fault_fd);

/* Writes out what stdout and stderr hold back. */
void pc_interpreter_flush(void);

/* What Python does at its end, but for freeing memory: atexit, flushing. */
void pc_interpreter_end(void);

/* ---- lifeline.c ---- */

/* Reads one message of the lifeline: 0; -EAGAIN; -EPIPE when the host is gone. */
int pc_lifeline_receive(pc_worker *worker, char *text, int flags, pc_message *message);

/* Tells the host something about this worker. False: it cannot be told. */
bool pc_lifeline_say(pc_worker *worker, enum pc_message_kind kind);

/* Tells the host that what follows is user code at the worker's end, so that it is not waited for
 * for ever. False: it cannot be told. */
bool pc_lifeline_say_leaving(pc_worker *worker);

/* Tells who waits for a call that has ended. Sets cut_off where it could not: the sweep after our death
 * will. */
void pc_lifeline_tell(pc_worker *worker, const pc_ending *ending, uint32_t slot);

/* ---- loop.c ---- */

/* Claims and runs calls until the crew closes: an exit status. */
int pc_loop_run(pc_worker *worker);

/* ---- stack.c ---- */

/* The signal's handler is faulthandler's, and writes to fault_fd, which stands at the beginning of this
 * worker's part. From here on the stack it writes is that of the calling thread. */
void pc_stack_take_over(int signal, int fault_fd);

/* ---- life.c ---- */

/* Applies the limits to this process: 0 or -1 with an exception. */
int pc_life_limit(const pc_worker_options *options, unsigned worker);

void pc_life_begin(pc_worker *worker);
bool pc_life_look(pc_worker *worker, uint64_t calls);

/* Between two calls, of which there were so many: whether this worker is to end. Two compares, of words
 * that are at hand. */
static inline bool pc_life_is_over(pc_worker *worker, uint64_t calls)
{
    const pc_life *life = &worker->life;

    return __builtin_expect(atomic_load_explicit(&life->record->leave, memory_order_relaxed) ==
                                worker->incarnation, 0) ||
           (__builtin_expect(calls >= life->next_look, 0) && pc_life_look(worker, calls));
}

/* Around the user's code, where the worker is debugged: its group is in front of the terminal, and
 * behind it the host's again. */
void pc_terminal_begin(const pc_worker_options *options);
void pc_terminal_take(const pc_worker_options *options);
void pc_terminal_give_back(const pc_worker_options *options);

/* ---- module.c: the built-in module _pycrew ---- */

PyObject *pc_module_init(void);

/* The call that an interrupt may hit. Set and cleared by the loop. */
typedef struct pc_current {
    const pc_worker_record *record;
    uint64_t call;      /* generation << 32 | slot; UINT64_MAX: none */
    uint32_t item;      /* of a chunk */
    int64_t deadline;   /* CLOCK_MONOTONIC; INT64_MAX: none */
    bool interrupted;   /* it was hit */
    bool recycle;       /* one was: what it did may be left half done, and the worker is to be replaced */
} pc_current;

extern pc_current pc_current_call;
extern PyObject *pc_deadline_exceeded; /* the exception's type */
void pc_interrupt_raise(void);         /* sets it */

/* ---- fault.c ---- */

/* The exception that is set, in words; clears it. Never fails; texts are new references, or NULL. */
typedef struct pc_fault {
    PyObject *type, *message, *traceback; /* str, encodable as UTF-8 */
} pc_fault;

void pc_fault_take(pc_fault *ret);
void pc_fault_clear(pc_fault *fault);
pc_view pc_fault_text(PyObject *text); /* as a STR view; empty for NULL */

/* All of it as one text, which stays: the traceback, or "Type: message". Never NULL. */
const char *pc_fault_describe(void);

#endif
