/* supervisor: what the files of the crew's own thread share. All of it is that thread's alone.
 *
 *   supervisor.c  the loop: workers from fork to death, their output
 *   zygote.c      the host's side of a zygote
 *   reload.c      from one zygote to the next */
#ifndef PC_SUPERVISOR_H
#define PC_SUPERVISOR_H

#include "lib/crew.h"
#include "lib/shm/control.h"

#define PC_MS ((int64_t)1000 * 1000)

/* ---- supervisor.c ---- */

/* 10 ms after the first failure, doubled with each, up to 5 s. */
int64_t pc_back_off(unsigned failures);

bool pc_crew_is_closing(const pycrew_crew *crew);

/* Nothing is there, or no memory to take it: it stays for the next turn. */
bool pc_is_for_later(int rc);

/* No worker of z's can start, and why. Where z is a reload's, that is the reload's error; else
 * open's, or it is logged, and where no worker is left the queued calls end with it. */
void pc_start_failed(pycrew_crew *crew, const pc_zygote *z, int code, const char *message,
                     const char *traceback);
void pc_start_failed_in_python(pycrew_crew *crew, const pc_zygote *z, const char *what,
                               const char *traceback);

/* Asks the worker's zygote for a process. worker: a place, or behind all places its successor. */
void pc_worker_fork(pycrew_crew *crew, unsigned worker, pc_zygote *z);

/* Has it leave, between two calls. Told again it does no harm. */
void pc_worker_tell_to_leave(pycrew_crew *crew, unsigned worker);

/* What a zygote says of one of its workers. *fd: what came with it; -1 if it was kept. */
void pc_worker_hear_of(pycrew_crew *crew, const pc_zygote *z, const pc_message *message, int *fd);

/* z has died: those that it was asked for do not come. */
void pc_worker_forget_asked(pycrew_crew *crew, const pc_zygote *z);

/* Whether a process that z forked, or was asked for, is not buried yet. */
bool pc_worker_any_of(const pycrew_crew *crew, const pc_zygote *z);

/* The place that a process stands in, or is to. */
static inline unsigned pc_place_of(const pycrew_crew *crew, unsigned worker)
{
    return worker < crew->workers ? worker : worker - crew->workers;
}

/* ---- zygote.c ---- */

/* Starts the crew's zygote, if there is none; ends one that is not needed any more. When to come
 * again. */
int64_t pc_zygote_run(pycrew_crew *crew, int64_t now);

/* Spawns z. 0, or the last error's code. */
int pc_zygote_start(pycrew_crew *crew, pc_zygote *z);

void pc_zygote_hear(pycrew_crew *crew, pc_zygote *z);
void pc_zygote_died(pycrew_crew *crew, pc_zygote *z);
void pc_zygote_kill(const pc_zygote *z);

/* Tells z to exit; it is killed when it has not after a second. */
void pc_zygote_tell_to_exit(pc_zygote *z);

/* ---- terminal.c ---- */

/* A process that led this group is dead: if it was in front of the terminal, the host is again. */
void pc_terminal_take_back(const pycrew_crew *crew, int group);

/* ---- reload.c ---- */

/* Goes on with a reload, or begins one that was asked for; gives when to come again. */
int64_t pc_reload_run(pycrew_crew *crew, int64_t now);

/* The zygote that is to be the next, until it is proven; else NULL. */
pc_zygote *pc_reload_candidate(const pycrew_crew *crew);

/* It, or its first worker, cannot start. */
void pc_reload_failed(pycrew_crew *crew, int code, const char *message, const char *traceback);

#endif
