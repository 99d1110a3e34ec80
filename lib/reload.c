/* reload: from one zygote to the next, so that the workers have fresh imports, and no call is lost.
 *
 *   1. A second zygote is started, and imports. The crew works on.
 *   2. It proves itself: a worker of it, as the successor of some place, runs init. Whatever fails
 *      up to here is the reload's error: the new zygote is ended, and nothing has changed.
 *   3. It becomes the crew's zygote: who dies or is replaced from here on has a worker of its after
 *      it. Place by place a successor is forked; when it has run init, the place's worker is told
 *      to leave, which it does between two calls. One successor starts at a time, but a worker
 *      with a call that takes long holds up nobody but the reload.
 *   4. When the last worker of the old zygote is buried, that is ended.
 *
 * From 3 on there is no way back and nothing to undo: each place has either worker, and both serve.
 * So a zygote that dies then is what it always is, and the reload goes on when it has been started
 * again; and a time that runs out ends the waiting, not the reload. A thread that asks while a
 * reload is under way wants modules as of now, so it waits for one more, with all who ask
 * meanwhile. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lib/supervisor.h"
#include "lib/trace.h"

enum { TELL_AGAIN_MS = 100 }; /* what it was told stands in memory that workers may write over */

struct pc_reload_waiter {
    pc_reload_waiter *next;
    uint64_t ticket;
    bool done; /* and what came of it: */
    int code;
    pc_error error;
};

/* ---- who waits ---- */

static void set_step(pycrew_crew *crew, enum pc_reload_step step)
{
    pthread_mutex_lock(&crew->lock);
    crew->reload.step = step;
    pthread_mutex_unlock(&crew->lock);
    if (step == PC_RELOAD_IMPORTS)
        pc_trace_note(crew, "reload begins");
    if (step == PC_RELOAD_MOVES)
        pc_trace_note(crew, "reload: new modules are in use");
}

/* Ends the reload for all whom it serves. */
static void finish(pycrew_crew *crew, int code, const char *message, const char *traceback)
{
    pc_trace_note(crew, code < 0 ? "reload failed" : "reload ends");
    pthread_mutex_lock(&crew->lock);
    crew->reload.step = PC_RELOAD_NONE;
    for (pc_reload_waiter *w = crew->reload.waiters; w != NULL; w = w->next) {
        if (w->done || w->ticket > crew->reload.serves)
            continue;
        w->done = true;
        w->code = code;
        if (code < 0)
            pc_error_set(&w->error, code, pc_text_of(NULL), pc_text_of(NULL), pc_text_of(message),
                         pc_text_of(traceback));
    }
    pthread_cond_broadcast(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
}

/* Whether anybody waits who asked up to this one. */
static bool anyone_waits(pycrew_crew *crew, uint64_t ticket)
{
    bool waits = false;

    pthread_mutex_lock(&crew->lock);
    for (const pc_reload_waiter *w = crew->reload.waiters; w != NULL; w = w->next)
        waits |= !w->done && w->ticket <= ticket;
    pthread_mutex_unlock(&crew->lock);
    return waits;
}

static void remove_waiter(pycrew_crew *crew, const pc_reload_waiter *waiter)
{
    pc_reload_waiter **link = &crew->reload.waiters;

    while (*link != waiter)
        link = &(*link)->next;
    *link = waiter->next;
}

/* Under crew->lock. */
static void await(pycrew_crew *crew, const pc_reload_waiter *waiter, int64_t until)
{
    struct timespec time = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};
    int timed_out = 0;

    while (!waiter->done && atomic_load(&crew->ending) != 2 && timed_out == 0)
        timed_out = until == INT64_MAX ? pthread_cond_wait(&crew->changed, &crew->lock)
                                       : pthread_cond_timedwait(&crew->changed, &crew->lock, &time);
}

static int outcome(pycrew_crew *crew, const pc_reload_waiter *waiter, bool moves)
{
    if (waiter->done)
        return waiter->code < 0 ? pc_fail_error(&waiter->error.public) : 0;
    if (atomic_load(&crew->ending) == 2)
        return pc_fail(-ECANCELED, "the crew was closed");
    return pc_fail(
        -ETIME, moves
                    ? "new modules are in use, and workers that still run a call with the old ones "
                      "are replaced after it"
                    : "the reload took too long and was given up: nothing has changed");
}

int pycrew_reload(pycrew_crew *crew, int64_t timeout_ns)
{
    int rc = pc_crew_check(crew);
    pc_reload_waiter waiter = {0};
    bool moves;

    if (rc < 0 || (rc = pc_engine_refuse(crew, "pycrew_reload")) < 0)
        return rc;
    if (atomic_load(&crew->ending) != 0)
        return pc_crew_refuse(crew);
    pc_crew_enter(crew);
    pthread_mutex_lock(&crew->lock);
    waiter.ticket = ++crew->reload.asked;
    waiter.next = crew->reload.waiters;
    crew->reload.waiters = &waiter;
    pthread_mutex_unlock(&crew->lock);
    pc_crew_kick(crew);
    pthread_mutex_lock(&crew->lock);
    await(crew, &waiter, timeout_ns == 0 ? 0 : pc_until(timeout_ns));
    remove_waiter(crew, &waiter);
    moves = crew->reload.step == PC_RELOAD_MOVES && waiter.ticket <= crew->reload.serves;
    pthread_mutex_unlock(&crew->lock);
    if (!waiter.done)
        pc_crew_kick(crew); /* nobody may be left who wants it */
    rc = outcome(crew, &waiter, moves);
    pc_error_clear(&waiter.error);
    pc_crew_leave(crew);
    return rc;
}

/* ---- the candidate ---- */

static pc_zygote *other(pycrew_crew *crew)
{
    return crew->zygote == &crew->zygotes[0] ? &crew->zygotes[1] : &crew->zygotes[0];
}

static bool is_being_tried(const pycrew_crew *crew)
{
    return crew->reload.step == PC_RELOAD_IMPORTS || crew->reload.step == PC_RELOAD_PROVES;
}

pc_zygote *pc_reload_candidate(const pycrew_crew *crew)
{
    return is_being_tried(crew) ? other((pycrew_crew *)(uintptr_t)crew) : NULL;
}

/* The candidate, and the worker it may have. */
static void end_candidate(pycrew_crew *crew)
{
    pc_zygote *z = other(crew);

    for (unsigned i = crew->workers; i < crew->processes; i++)
        if (crew->crew_workers[i].state != PC_WORKER_NONE && crew->crew_workers[i].zygote == z)
            pc_worker_kill(&crew->crew_workers[i]);
    z->leave_until = INT64_MAX;
    pc_zygote_kill(z);
}

void pc_reload_failed(pycrew_crew *crew, int code, const char *message, const char *traceback)
{
    char text[1000];

    snprintf(text, sizeof text, "the crew was not reloaded, its workers are as before: %s",
             message);
    end_candidate(crew);
    finish(crew, code, text, traceback);
}

static int64_t begin(pycrew_crew *crew, int64_t now)
{
    pc_zygote *z = other(crew);

    if (!anyone_waits(crew, UINT64_MAX))
        return INT64_MAX;
    pthread_mutex_lock(&crew->lock);
    crew->reload.serves = crew->reload.asked;
    pthread_mutex_unlock(&crew->lock);
    if (crew->lost) {
        finish(crew, PYCREW_ESTART, PC_LOST_TEXT, NULL);
        return now;
    }
    if (crew->rebuilding || z->state != PC_ZYGOTE_NONE) /* whose end wakes us */
        return INT64_MAX;
    z->failures = 0;
    if (pc_zygote_start(crew, z) < 0) {
        finish(crew, pycrew_last_error()->code, pycrew_last_error()->message, NULL);
        return now;
    }
    set_step(crew, PC_RELOAD_IMPORTS);
    return INT64_MAX;
}

static bool is_starting(const pc_host_worker *w)
{
    return w->state == PC_WORKER_FORKING || (w->state == PC_WORKER_STARTING && !w->waiting);
}

static bool is_free(const pc_host_worker *w)
{
    return w->state == PC_WORKER_NONE && w->output < 0;
}

/* Once is enough: its death wakes us. */
static void end_worker(pc_host_worker *w)
{
    if (w->state == PC_WORKER_STARTING && !w->killed)
        pc_worker_kill(w);
}

/* True: the candidate has a worker that is ready. */
static bool prove(pycrew_crew *crew)
{
    const pc_zygote *z = other(crew);

    for (unsigned i = crew->workers; i < crew->processes; i++)
        if (crew->crew_workers[i].state != PC_WORKER_NONE && crew->crew_workers[i].zygote == z)
            return crew->crew_workers[i].waiting && !crew->crew_workers[i].gone;
    for (unsigned i = crew->workers; i < crew->processes; i++)
        if (is_free(&crew->crew_workers[i])) {
            pc_worker_fork(crew, i, other(crew));
            return false;
        }
    end_worker(&crew->crew_workers[crew->workers]); /* each place has a successor: this is the
                                                       better one */
    return false;
}

static int64_t try_candidate(pycrew_crew *crew, int64_t now)
{
    if (crew->lost) {
        pc_reload_failed(crew, PYCREW_ESTART, PC_LOST_TEXT, NULL);
        return now;
    }
    if (!anyone_waits(crew, crew->reload.serves)) {
        end_candidate(crew);
        set_step(crew, PC_RELOAD_NONE);
        return now;
    }
    if (other(crew)->state != PC_ZYGOTE_READY)
        return INT64_MAX;
    set_step(crew, PC_RELOAD_PROVES);
    if (!prove(crew))
        return INT64_MAX;
    crew->zygote = other(crew);
    set_step(crew, PC_RELOAD_MOVES);
    return now;
}

/* ---- place by place ---- */

static bool any_is_starting(const pycrew_crew *crew)
{
    for (unsigned i = crew->workers; i < crew->processes; i++)
        if (is_starting(&crew->crew_workers[i]))
            return true;
    return false;
}

/* A worker of the old zygote that serves. */
static int64_t replace(pycrew_crew *crew, unsigned place, int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[place], *s = w + crew->workers;

    if (s->waiting && s->zygote == crew->zygote) {
        if (w->told_to_leave == 0 || now - w->told_to_leave >= TELL_AGAIN_MS * PC_MS)
            pc_worker_tell_to_leave(crew, place);
        return w->told_to_leave + TELL_AGAIN_MS * PC_MS;
    }
    if (!is_free(s) || crew->zygote->state != PC_ZYGOTE_READY || any_is_starting(crew))
        return INT64_MAX;
    if (s->not_before > now)
        return s->not_before;
    pc_worker_fork(crew, place + crew->workers, crew->zygote);
    return s->state == PC_WORKER_NONE ? now + PC_MS : INT64_MAX;
}

static int64_t move(pycrew_crew *crew, int64_t now)
{
    pc_zygote *old = other(crew);
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < crew->processes; i++) {
        pc_host_worker *w = &crew->crew_workers[i];
        int64_t look = INT64_MAX;

        if (w->state == PC_WORKER_NONE || w->zygote != old)
            continue;
        if (w->state == PC_WORKER_READY)
            look = replace(crew, i, now);
        else
            end_worker(w);
        next = look < next ? look : next;
    }
    if (pc_worker_any_of(crew, old))
        return next;
    if (old->state == PC_ZYGOTE_NONE) {
        finish(crew, 0, NULL, NULL);
        return now;
    }
    if (old->leave_until == 0 && old->state != PC_ZYGOTE_DEAD) {
        pc_zygote_tell_to_exit(old);
        return old->leave_until;
    }
    return INT64_MAX;
}

int64_t pc_reload_run(pycrew_crew *crew, int64_t now)
{
    if (pc_crew_is_closing(crew))
        return INT64_MAX;
    if (crew->reload.step == PC_RELOAD_NONE)
        return begin(crew, now);
    if (is_being_tried(crew))
        return crew->rebuilding && !crew->lost ? INT64_MAX : try_candidate(crew, now);
    return crew->rebuilding ? INT64_MAX : move(crew, now);
}
