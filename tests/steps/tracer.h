/* tracer.h - kills a worker or a zygote after the k-th instruction of a region.

   A thread of its own, since ptrace follows threads. It seizes the process, lets it run to the
   region's start by a breakpoint, and from there steps it instruction by instruction through our
   own code and the first part of the C library's functions it calls. What Python does, and the rest
   of long functions of the C library, runs at full speed to its return. After k instructions it
   sends SIGKILL to the stopped process, which executes none any more. A process that comes to the
   region's end first is let go unharmed: then every k has been had. */
#ifndef TESTS_STEPS_TRACER_H
#define TESTS_STEPS_TRACER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum place_kind {
    PLACE_NONE,
    PLACE_ENTRY,  /* before the function's first instruction */
    PLACE_RETURN, /* after it returned */
    PLACE_WAKE,   /* start only: the return, into that function, of the system call it sleeps in */
    PLACE_CHILD   /* start only: the next child's first instruction; the child is what is killed */
};

struct place {
    enum place_kind kind;
    const char *function;
};

struct trace_plan {
    pid_t pid;
    bool own_child; /* pid is the zygote: the library is to reap it, and its children to roam */
    struct place start, end;
    struct place pause; /* an entry within the region: there it waits for trace_go() */
    bool pause_at_start;
    uint64_t kill_at; /* after so many instructions */
    unsigned repeats; /* an instruction counts so often; later turns of a loop do not */
    unsigned outside; /* instructions of a library's function before it runs to its return */
};

enum trace_state {
    TRACE_NONE,
    TRACE_RUNNING, /* seized; towards the start, or in the region */
    TRACE_PAUSED,
    TRACE_ENDED, /* it came to the end, and lives */
    TRACE_KILLED,
    TRACE_MISSED, /* it never came to the start, or not to the end, and lives */
    TRACE_DIED,   /* of something else */
    TRACE_REFUSED /* no ptrace here */
};

struct trace_result {
    enum trace_state state;
    uint64_t address; /* where it was killed: the instruction that it did not execute */
    uint64_t steps;   /* instructions executed one by one */
    pid_t pid;        /* the process that was stepped */
};

void trace_open(void);
void trace_close(void);

/* Seizes plan->pid: RUNNING or REFUSED. */
enum trace_state trace_begin(const struct trace_plan *plan);

/* Waits up to timeout_ns until it does not run towards something: PAUSED or one of the last ones.
 */
enum trace_state trace_await(int64_t timeout_ns);

/* From the pause on; or, where it has not come to it, without one. */
void trace_go(void);

/* Grows with each instruction. On a loaded machine it takes its time, and as long as it grows
 * nobody hangs. */
uint64_t trace_progress(void);

/* Ends it, once there was no progress for timeout_ns: a process that has not come to the start is
 * let go. False: it is stuck, and was killed.
 */
bool trace_finish(int64_t timeout_ns, struct trace_result *ret);

#endif
