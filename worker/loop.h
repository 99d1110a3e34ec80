/* loop: what the worker's loop and its event loop (async.c) share. */
#ifndef PC_WORKER_LOOP_H
#define PC_WORKER_LOOP_H

#include "worker/run.h"

/* Whether another call may be claimed; else the worker leaves: see leave.h. */
bool pc_loop_takes_calls(pc_loop *l);

/* Claims a call and runs it to its end, or to where it waits. False: there is none. */
bool pc_loop_run_next(pc_loop *l);

/* Ends a call, its result written, and tells who waits for it. */
void pc_loop_finish(const pc_execution *e);

/* The call could not be ended: it is doomed, and we are going to be killed. Anything else is a
 * scribbled word, and our death lets the sweep set it right. */
_Noreturn void pc_loop_await_death(const pc_execution *e);

/* Sleeps until then, or until it is woken. */
void pc_loop_sleep(pc_worker *worker, int64_t until);

/* Says which call's code runs, generation << 32 | slot, beside coroutines; UINT64_MAX: none. */
void pc_loop_say_running(const pc_loop *l, uint64_t name);

/* Gives back what is kept for calls to come, where others are short of memory now. */
bool pc_loop_answer_shortage(pc_loop *l);

#endif
