/* sweep: what follows the confirmed death of a worker.
 *
 * Every slot it owned moves as slot.h draws it; ended ones are announced again, since it may have
 * died between the end and the announcement; results of its that are still needed are leased
 * before its memory is freed; then everyone who sleeps is woken, whatever the hints say. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/array.h"
#include "lib/crew.h"
#include "lib/export.h"
#include "lib/shm/budget.h"
#include "lib/shm/control.h"
#include "lib/trace.h"

enum { TRIES = 1000 };

static bool owned_by(const pycrew_call *call, uint64_t word, unsigned worker, enum pc_state state)
{
    return pc_word_state(word) == state && pc_word_worker(word) == worker &&
           pc_word_generation(word) == call->generation &&
           atomic_load_explicit(&call->phase, memory_order_acquire) != PC_PHASE_PREPARED;
}

static uint64_t load_word(const pycrew_call *call)
{
    return atomic_load_explicit(&call->slot->control, memory_order_acquire);
}

/* Its answers: leased by being collected, and announced again. */
static void keep_answers(pycrew_crew *crew, unsigned worker)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];

        if (!owned_by(call, load_word(call), worker, PC_DONE) || !pc_call_collect(call))
            continue;
        pthread_mutex_lock(&crew->lock);
        pc_call_tell(call);
        pthread_mutex_unlock(&crew->lock);
    }
}

/* ---- its unfinished calls; under crew->lock ---- */

/* A waiter may come and change the word; but only so much. */
static void end_call(pycrew_call *call, uint64_t word, unsigned worker, int code,
                     const pc_error *error)
{
    for (unsigned i = 0; i < TRIES && owned_by(call, word, worker, PC_CLAIMED); i++) {
        if (pc_call_end_by_host(call, word, code, error))
            return;
        word = load_word(call);
    }
    pc_crew_distrust(call->crew, "a dead worker's slot that changes");
}

/* Queued for it; what comes to its inbox from now on ends by itself. */
static bool is_directed_to(const pycrew_call *call, uint64_t word, unsigned worker)
{
    return pc_word_state(word) == PC_DIRECTED && pc_word_generation(word) == call->generation &&
           atomic_load(&call->directed) == worker + 1;
}

static void end_directed(pycrew_call *call, uint64_t word, unsigned worker, const pc_error *error)
{
    for (unsigned i = 0; i < TRIES && is_directed_to(call, word, worker); i++) {
        if (pc_call_end_by_host(call, word, PYCREW_EDIED, error))
            return;
        word = load_word(call);
    }
    if (pc_word_state(word) != PC_DONE)
        pc_crew_distrust(call->crew, "a dead worker's slot that changes");
}

static void queue_again(pycrew_call *call, uint64_t word)
{
    pc_trace_retry(call, pc_word_worker(word));
    if (!pc_call_requeue(call, word))
        pc_crew_distrust(call->crew, "a dead worker's slot that changes");
    else if (!call->chunk_in_use)
        pc_stats_count(call->crew, PC_OUTCOME_RETRIED, 1);
}

static void end_stopped(pycrew_call *call, uint64_t word, unsigned worker, pc_error *error)
{
    enum pc_stop why = (enum pc_stop)atomic_load(&call->stop);
    const char *message = error->public.message;

    error->public.message = why == PC_STOP_DEADLINE
                                ? "the deadline passed; the worker did not answer the interrupt "
                                  "and was killed"
                                : "the call was cancelled; the worker did not answer the interrupt "
                                  "and was killed";
    end_call(call, word, worker, pc_call_stop_code(why), error);
    error->public.message = message;
}

/* Of a worker with several calls: the one that it died of, if that is known. A worker's word is not
 * believed but for a call that it had. */
static const pycrew_call *find_culprit(pycrew_crew *crew, unsigned worker)
{
    const pc_host_worker *w = &crew->crew_workers[worker];
    uint64_t running = atomic_load(&crew->segment.workers[worker].running);
    const pycrew_call *call;

    if ((uint32_t)running < crew->segment.config.slots) {
        call = &crew->calls[(uint32_t)running];
        if (owned_by(call, load_word(call), worker, PC_CLAIMED) && call->generation == running >> 32)
            return call;
    }
    call = &crew->calls[w->step_call];
    return w->step == PC_STEP_DOOMED && owned_by(call, load_word(call), worker, PC_CLAIMED) ? call : NULL;
}

/* Others may have died of it as often; but not for ever. What is for that worker alone goes with it. */
static bool may_run_again_beside(pycrew_call *call)
{
    return atomic_load(&call->directed) == 0 &&
           1 + atomic_fetch_add(&call->deaths_beside, 1) <= call->retries + PC_LOST_WORKER_CLAIMS_MAX &&
           call->retries > 0;
}

static void sweep_beside(pycrew_call *call, uint64_t word, unsigned worker,
                         const pycrew_call *culprit, const pc_error *error)
{
    pc_error own = *error;
    char text[512];

    if (may_run_again_beside(call)) {
        queue_again(call, word);
        return;
    }
    snprintf(text, sizeof text, "%.250s while it ran another call, of %.200s", error->public.message,
             culprit->function->name);
    own.public.message = text;
    end_call(call, word, worker, PYCREW_EDIED, &own);
}

static void sweep_chunk(pycrew_call *call, uint64_t word, unsigned worker, bool beside,
                        const pc_error *error)
{
    if (pc_chunk_sweep(call, worker, beside, error))
        queue_again(call, word);
    else
        end_call(call, word, worker, 0, NULL);
}

static void sweep_call(pycrew_call *call, uint64_t word, unsigned worker,
                       const pycrew_call *culprit, pc_error *error)
{
    bool entered = atomic_load(&call->slot->entered) == call->generation;
    bool beside = culprit != NULL && culprit != call && entered;
    unsigned deaths;

    if (beside && !call->chunk_in_use && atomic_load(&call->stop) == PC_STOP_NONE) {
        sweep_beside(call, word, worker, culprit, error);
        return;
    }
    deaths = 1 + atomic_fetch_add(entered ? &call->deaths_running : &call->deaths_claimed, 1);
    if (call->chunk_in_use)
        sweep_chunk(call, word, worker, beside, error);
    else if (atomic_load(&call->stop) != PC_STOP_NONE)
        end_stopped(call, word, worker, error);
    else if (atomic_load(&call->directed) == 0 && deaths <= (entered ? call->retries : PC_LOST_WORKER_CLAIMS_MAX))
        queue_again(call, word);
    else
        end_call(call, word, worker, PYCREW_EDIED, error);
}

static void sweep_calls(pycrew_crew *crew, unsigned worker, pc_error *error)
{
    const pycrew_call *culprit;

    pthread_mutex_lock(&crew->lock);
    culprit = find_culprit(crew, worker);
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];
        uint64_t word = load_word(call);

        if (atomic_load(&call->phase) != PC_PHASE_IN_FLIGHT)
            continue;
        if (owned_by(call, word, worker, PC_CLAIMED))
            sweep_call(call, word, worker, culprit, error);
        else if (is_directed_to(call, word, worker))
            end_directed(call, word, worker, error);
    }
    pthread_mutex_unlock(&crew->lock);
}

static void wake_everyone(pycrew_crew *crew)
{
    pc_idle_wake_all(&crew->segment);
    pthread_mutex_lock(&crew->lock);
    for (unsigned i = 0; i < crew->segment.config.queues; i++)
        if (crew->queues[i].fd >= 0 && (i == 0 || crew->queues[i].open))
            pc_queue_write(&crew->queues[i]);
    pthread_mutex_unlock(&crew->lock);
}

/* ---- the cause ---- */

static void describe(const pc_host_worker *w, unsigned worker, bool oom, char *text, size_t capacity)
{
    if (w->exec)
        snprintf(text, capacity, "worker %u (PID %d) ran another program (exec), and was ended", worker,
                 w->pid);
    else if (w->signal == 0 && w->status == PC_EXIT_RECYCLED)
        snprintf(text, capacity, "worker %u (PID %d) was replaced (after a call that was interrupted, at its limits, or "
                 "by a reload)", worker, w->pid);
    else if (w->signal == 0 && w->status == PC_EXIT_ENGINE_LOST)
        snprintf(text, capacity, "the engine was lost while it had the call; the bridge, worker %u (PID %d), is started "
                 "again", worker, w->pid);
    else if (w->signal != 0)
        snprintf(text, capacity, "worker %u (PID %d) was killed by signal %d (%s)%s", worker, w->pid,
                 w->signal, strsignal(w->signal),
                 oom ? ", likely the kernel's out-of-memory killer" : "");
    else
        snprintf(text, capacity, "worker %u (PID %d) exited with status %d", worker, w->pid,
                 w->status);
}

/* The kernel counts its kills; ours are known. */
static bool was_oom_kill(pycrew_crew *crew, const pc_host_worker *w)
{
    uint64_t before = crew->oom_kills;

    crew->oom_kills = pc_oom_kills();
    return w->signal == SIGKILL && !w->killed && !w->exec && crew->oom_kills > before;
}

/* From here on nothing is pushed to its inbox. */
static void note_death(pycrew_crew *crew, unsigned worker, const pycrew_error *error)
{
    pc_death death = {.incarnation = crew->crew_workers[worker].incarnation,
                      .signal = error->signal,
                      .exit_status = error->exit_status,
                      .out_of_memory = error->out_of_memory};

    snprintf(death.text, sizeof death.text, "%s", error->message);
    pc_direct_close(crew, worker, &death);
}

void pc_sweep(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    char *stack = w->stack != NULL ? w->stack : pc_fault_read(crew, worker);
    pc_error error = {0};
    char text[256];
    bool oom = was_oom_kill(crew, w);

    describe(w, worker, oom, text, sizeof text);
    error.public.message = text;
    error.public.traceback = stack;
    error.public.signal = w->signal;
    error.public.exit_status = w->signal == 0 ? w->status : 0;
    error.public.out_of_memory = oom;
    note_death(crew, worker, &error.public);
    keep_answers(crew, worker);
    sweep_calls(crew, worker, &error);
    pc_lease_orphan(crew, worker);
    pc_exports_forget(crew, worker);
    pc_arrays_settle(crew);
    pc_idle_forget(&crew->segment, worker);
    wake_everyone(crew);
    if (stack != w->stack)
        free(stack);
}
