/* ladder: how a call is stopped: interrupt, then after the grace the Python stack, DOOMED, SIGKILL.
 *
 * The interrupt names the call, and the worker raises only if that is its present one. The kill
 * follows only if DOOMED could be set into that call's own word (a batch's: the item's), so it never
 * hits the next one. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/crew.h"
#include "lib/shm/control.h"

#define STACK_NS ((int64_t)5 * 1000 * 1000) /* for faulthandler to write */

static void send_signal(const pc_host_worker *w, int signal)
{
    if (w->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, w->pidfd, signal, NULL, 0);
}

/* ---- the fault file ---- */

char *pc_fault_read(pycrew_crew *crew, unsigned worker)
{
    char *text = malloc(PC_FAULT_SIZE + 1);
    ssize_t size;

    if (text == NULL || crew->fault_fd < 0) {
        free(text);
        return NULL;
    }
    size = pread(crew->fault_fd, text, PC_FAULT_SIZE, (off_t)worker * PC_FAULT_SIZE);
    text[size < 0 ? 0 : size] = '\0';
    if (text[0] != '\0')
        return text;
    free(text);
    return NULL;
}

void pc_fault_erase(pycrew_crew *crew, unsigned worker)
{
    fallocate(crew->fault_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              (off_t)worker * PC_FAULT_SIZE, PC_FAULT_SIZE);
}

/* ---- a worker's ladder; under crew->lock ---- */

void pc_ladder_forget(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    w->step = PC_STEP_NONE;
    free(w->stack);
    w->stack = NULL;
}

static void interrupt(pycrew_crew *crew, unsigned worker, pycrew_call *call, uint32_t item,
                      int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_worker_record *record = &crew->segment.workers[worker];

    atomic_store_explicit(&record->interrupt_item, item, memory_order_relaxed);
    atomic_store_explicit(&record->interrupt, (uint64_t)call->generation << 32 | call->index,
                          memory_order_release);
    w->step = PC_STEP_INTERRUPTED;
    w->step_call = call->index;
    w->step_generation = call->generation;
    w->step_item = item;
    w->step_time = now + crew->grace_ns;
    send_signal(w, SIGRTMAX - 1);
}

static bool still_runs(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pycrew_call *call = &crew->calls[w->step_call];
    uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);

    return pc_word_state(word) == PC_CLAIMED && pc_word_worker(word) == worker &&
           pc_word_generation(word) == w->step_generation &&
           call->generation == w->step_generation; /* a scribbled word does not make it run again */
}

static bool doom(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pycrew_call *call = &crew->calls[w->step_call];

    if (call->chunk_in_use)
        return pc_chunk_doom(call, w->step_item);
    return pc_slot_doom(call->slot, w->step_generation, worker);
}

/* ---- beginning ---- */

/* Begins the ladder for the worker that runs this call, unless it is on one. */
static void begin(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);
    unsigned worker = pc_word_worker(word);
    uint32_t item = 0;
    int64_t look;

    if (pc_word_state(word) != PC_CLAIMED || pc_word_generation(word) != call->generation ||
        worker >= crew->workers || atomic_load(&call->stop) == PC_STOP_NONE)
        return;
    if (crew->crew_workers[worker].step != PC_STEP_NONE && still_runs(crew, worker))
        return;
    if (call->chunk_in_use)
        pc_chunk_overdue(call, &item, &look);
    pc_ladder_forget(crew, worker);
    interrupt(crew, worker, call, item, now);
}

/* ---- the steps ---- */

/* The item has ended. If the batch is cancelled and the next one began before it was told, that one
 * is to end too. */
static void go_on(pycrew_crew *crew, unsigned worker, int64_t now)
{
    pycrew_call *call = &crew->calls[crew->crew_workers[worker].step_call];

    pc_ladder_forget(crew, worker);
    if (call->chunk_in_use && atomic_load(&call->stop) == PC_STOP_CANCEL)
        begin(crew, call, now);
}

static void step(pycrew_crew *crew, unsigned worker, int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    if (w->step == PC_STEP_INTERRUPTED) {
        pc_fault_erase(crew, worker);
        send_signal(w, SIGRTMAX - 2);
        w->step = PC_STEP_STACK;
        w->step_time = now + STACK_NS;
        return;
    }
    free(w->stack);
    w->stack = pc_fault_read(crew, worker);
    if (!doom(crew, worker)) {
        go_on(crew, worker, now);
        return;
    }
    w->step = PC_STEP_DOOMED;
    w->step_time = INT64_MAX;
    w->killed = true;
    send_signal(w, SIGKILL);
}

/* ---- what is due ---- */

static void run_commands(pycrew_crew *crew, int64_t now)
{
    for (uint32_t i = 0; i < crew->command_count; i++)
        begin(crew, &crew->calls[crew->commands[i]], now);
    crew->command_count = 0;
}

/* A batch's chunk has its items' deadlines. */
static void chunk_deadline(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    uint32_t item;
    int64_t look;

    if (pc_chunk_overdue(call, &item, &look)) {
        if (atomic_load(&call->stop) != PC_STOP_CANCEL) {
            atomic_store(&call->chunk->overdue, item);
            atomic_store(&call->stop, PC_STOP_DEADLINE);
        }
        begin(crew, call, now);
    }
    call->deadline = look > now ? look : now + 1000000;
    pc_deadline_add(call);
}

static void run_deadlines(pycrew_crew *crew, int64_t now)
{
    pycrew_call *call;

    while ((call = pc_deadline_first(crew)) != NULL && call->deadline <= now) {
        pc_deadline_remove(call);
        if (pc_word_generation(atomic_load(&call->slot->control)) != call->generation) {
            call->deadline = now + 1000000; /* on its way into the ring: it cannot be stopped yet */
            pc_deadline_add(call);
        } else if (call->chunk_in_use)
            chunk_deadline(crew, call, now);
        else
            pc_call_stop(call, PC_STOP_DEADLINE);
    }
}

static int64_t run_steps(pycrew_crew *crew, int64_t now)
{
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < crew->workers; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        if (w->step == PC_STEP_NONE || w->step == PC_STEP_DOOMED)
            continue;
        if (!still_runs(crew, i))
            pc_ladder_forget(crew, i);
        else if (w->step_time <= now)
            step(crew, i, now);
        if (w->step != PC_STEP_NONE && w->step_time < next)
            next = w->step_time;
    }
    return next;
}

int64_t pc_ladder_run(pycrew_crew *crew, int64_t now)
{
    const pycrew_call *first;
    int64_t next;

    pthread_mutex_lock(&crew->lock);
    run_deadlines(crew, now);
    run_commands(crew, now);
    next = run_steps(crew, now);
    first = pc_deadline_first(crew);
    if (first != NULL && first->deadline < next)
        next = first->deadline;
    crew->next_look = next;
    pthread_mutex_unlock(&crew->lock);
    return next;
}
