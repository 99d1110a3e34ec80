/* ladder: how a call is stopped: interrupt, then at the end of the grace the Python stack, DOOMED,
 * SIGKILL.
 *
 * The interrupt names the call, and the worker raises only if that is its present one. The kill
 * follows only if DOOMED could be set into that call's own word (a batch's: the item's), so it never
 * hits the next one.
 *
 * A worker may have many calls, coroutines. At any interrupt it looks which of them were told to stop;
 * one of them at a time is on the ladder, the first that was told, and the others wait behind it. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/crew.h"
#include "lib/shm/control.h"
#include "lib/trace.h"

#define MS ((int64_t)1000 * 1000)
#define SLEEPER_NS (500 * MS)
#define STACK_NS (5 * MS) /* between looks for the stack */
#define REPEAT_NS (10 * MS) /* between interrupts */

enum { STACK_LOOKS = 3, STACK_LOOKS_MAX = 40 };
enum { DROP_LOOKS = 8 };

/* How long before the end of the grace the stack is asked for, for faulthandler to have time to write:
 * a worker that spins on a loaded machine gets its next turn, and the signal, late. */
static int64_t stack_lead(int64_t grace_ns)
{
    return grace_ns / 4 < 5 * STACK_NS ? grace_ns / 4 : 5 * STACK_NS;
}

static void send_signal(const pc_host_worker *w, int signal)
{
    if (w->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, w->pidfd, signal, NULL, 0);
}

/* How the kernel sees a worker; masks of signals, the first in bit 0. */
typedef struct process_status {
    char state;
    unsigned long long caught, blocked, pending;
} process_status;

static process_status read_status(const pc_host_worker *w)
{
    process_status status = {0};
    char path[64], line[256];
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/status", w->pid);
    file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        sscanf(line, "State: %c", &status.state);
        sscanf(line, "ShdPnd: %llx", &status.pending);
        sscanf(line, "SigBlk: %llx", &status.blocked);
        if (sscanf(line, "SigCgt: %llx", &status.caught) == 1)
            break;
    }
    if (file != NULL)
        fclose(file);
    return status;
}

static bool has(unsigned long long mask, int signal)
{
    return mask >> (signal - 1) & 1;
}

/* If user code has taken away its handler, or exec has, the signal's action is to end the process,
 * whatever it runs by then: only a kill that was made sure of may do that. */
static void send_if_caught(const pc_host_worker *w, int signal)
{
    if (has(read_status(w).caught, signal))
        send_signal(w, signal);
}

/* It would write its stack, if it only got a CPU. */
static bool waits_for_cpu(const pc_host_worker *w)
{
    process_status status = read_status(w);

    return status.state == 'R' && has(status.pending, SIGRTMAX - 2) &&
           !has(status.blocked, SIGRTMAX - 2);
}

/* ---- the fault file ---- */

/* A worker's part, from the first byte that is not zero: zeros are where something was erased. */
static char *read_part(const pycrew_crew *crew, unsigned worker)
{
    char *text = malloc(PC_FAULT_SIZE + 1);
    ssize_t size, at = 0;

    if (text == NULL || crew->fault_fd < 0) {
        free(text);
        return NULL;
    }
    size = pread(crew->fault_fd, text, PC_FAULT_SIZE,
                 (off_t)crew->crew_workers[worker].fault_part * PC_FAULT_SIZE);
    text[size < 0 ? 0 : size] = '\0';
    while (at < size && text[at] == '\0')
        at++;
    memmove(text, text + at, strlen(text + at) + 1);
    return text;
}

/* Steals text, of which it gives what stands at `at`; NULL if that is nothing. */
static char *rest_of(char *text, const char *at)
{
    if (text == NULL || *at == '\0') {
        free(text);
        return NULL;
    }
    memmove(text, at, strlen(at) + 1);
    return text;
}

static bool was_asked(const char *text)
{
    return strncmp(text, PC_STACK_ASKED, sizeof PC_STACK_ASKED - 1) == 0;
}

/* Last words come behind a stack that was asked for. */
char *pc_fault_read(pycrew_crew *crew, unsigned worker)
{
    char *text = read_part(crew, worker);
    const char *at = text, *end;

    if (text != NULL && was_asked(text)) {
        end = strstr(text, PC_STACK_END);
        at = end == NULL ? "" : end + sizeof PC_STACK_END - 1;
    }
    return rest_of(text, at);
}

/* As much as there is of it. */
static char *read_stack(const pycrew_crew *crew, unsigned worker)
{
    char *text = read_part(crew, worker), *end;
    const char *at;

    if (text == NULL || !was_asked(text) || (at = strchr(text, '\n')) == NULL) {
        free(text);
        return NULL;
    }
    end = strstr(text, PC_STACK_END);
    if (end != NULL)
        *end = '\0';
    return rest_of(text, at + 1);
}

void pc_fault_erase(pycrew_crew *crew, unsigned worker)
{
    fallocate(crew->fault_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
              (off_t)crew->crew_workers[worker].fault_part * PC_FAULT_SIZE, PC_FAULT_SIZE);
}

/* ---- a worker's ladder; under crew->lock ---- */

void pc_ladder_forget(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    w->step = PC_STEP_NONE;
    free(w->stack);
    w->stack = NULL;
}

/* Again and again: a signal that comes between Python's last look for signals and a system call that
 * waits is seen only when that returns. The handler raises once. */
static void send_interrupt(pc_host_worker *w, int64_t now)
{
    send_if_caught(w, SIGRTMAX - 1);
    w->step_time = now + REPEAT_NS < w->stack_time ? now + REPEAT_NS : w->stack_time;
}

/* word is what the call was seen as: it may have ended since, and the record be in another life. */
static void interrupt(pycrew_crew *crew, unsigned worker, const pycrew_call *call, uint64_t word,
                      uint32_t item, int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_worker_record *record = &crew->segment.workers[worker];

    atomic_store_explicit(&record->interrupt_item, item, memory_order_relaxed);
    atomic_store_explicit(&record->interrupt,
                          (uint64_t)pc_word_generation(word) << 32 | call->index,
                          memory_order_release);
    w->step = PC_STEP_INTERRUPTED;
    w->step_call = call->index;
    w->step_generation = pc_word_generation(word);
    w->step_item = item;
    w->stack_time = call->stop_since + crew->grace_ns - stack_lead(crew->grace_ns);
    send_interrupt(w, now);
}

static bool still_runs(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pycrew_call *call = &crew->calls[w->step_call];
    uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);

    return pc_word_state(word) == PC_CLAIMED && pc_word_worker(word) == worker &&
           pc_word_generation(word) == w->step_generation &&
           call->generation == w->step_generation; /* a scribbled word makes no call run again */
}

static bool doom(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pycrew_call *call = &crew->calls[w->step_call];

    if (call->chunk_in_use && !pc_chunk_is_doomed_whole(call))
        return pc_chunk_doom(call, w->step_item);
    return pc_slot_doom(call->slot, w->step_generation, worker);
}

/* ---- several calls of one worker ---- */

/* Coroutines, or calls beside them: a worker has one call of a function that is none. */
static bool may_be_beside(const pycrew_crew *crew, const pycrew_call *call, const pycrew_call *other)
{
    return pc_function_kind(crew, call->function) == PC_FUNCTION_COROUTINE ||
           pc_function_kind(crew, other->function) == PC_FUNCTION_COROUTINE;
}

/* The worker ends all that it finds told so (stops) at any interrupt, so they are not interrupted one
 * after the other. Only who has not ended by then gets the worker's ladder, with its own time. */
static void wait_behind(pycrew_crew *crew, unsigned worker, const pycrew_call *call, int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    if (!may_be_beside(crew, call, &crew->calls[w->step_call])) {
        pc_crew_distrust(crew, "a worker with two calls at a time");
        return;
    }
    w->step_more = true;
    if (w->step == PC_STEP_INTERRUPTED && w->step_time > now)
        w->step_time = now; /* one signal for all that are told in this turn */
}

/* word: as in interrupt. */
static void tell_stop(pycrew_crew *crew, pycrew_call *call, uint64_t word, uint32_t item, int64_t now)
{
    uint32_t generation = pc_word_generation(word);

    if (call->stop_generation != generation || call->stop_item != item)
        call->stop_since = now;
    call->stop_generation = generation;
    call->stop_item = item;
    if (!call->chunk_in_use) /* an item has its own deadline, or its chunk's word that it is cancelled */
        atomic_store_explicit(&crew->segment.stops[call->index], generation, memory_order_release);
}

/* Asked to end, in this life. */
static bool was_told(const pycrew_call *call, uint64_t word)
{
    return call->stop_generation == pc_word_generation(word);
}

static bool waits(const pycrew_call *call, unsigned worker, uint64_t *word)
{
    *word = atomic_load_explicit(&call->slot->control, memory_order_acquire);
    return atomic_load(&call->stop) != PC_STOP_NONE && was_told(call, *word) &&
           atomic_load(&call->phase) == PC_PHASE_IN_FLIGHT && pc_word_state(*word) == PC_CLAIMED &&
           pc_word_worker(*word) == worker && pc_word_generation(*word) == call->generation;
}

/* The one that was told first. */
static void take_next(pycrew_crew *crew, unsigned worker, int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pycrew_call *first = NULL;
    uint64_t word, first_word = 0;

    if (!w->step_more || w->step != PC_STEP_NONE)
        return;
    w->step_more = false;
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];

        if (!waits(call, worker, &word))
            continue;
        w->step_more = first != NULL;
        if (first != NULL && first->stop_since <= call->stop_since)
            continue;
        first = call;
        first_word = word;
    }
    if (first != NULL)
        interrupt(crew, worker, first, first_word, first->stop_item, now);
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
    if (call->chunk_in_use)
        pc_chunk_overdue(call, &item, &look);
    tell_stop(crew, call, word, item, now);
    if (crew->crew_workers[worker].step != PC_STEP_NONE && still_runs(crew, worker)) {
        if (crew->crew_workers[worker].step_call != call->index)
            wait_behind(crew, worker, call, now);
        return;
    }
    pc_ladder_forget(crew, worker);
    interrupt(crew, worker, call, word, item, now);
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
    take_next(crew, worker, now);
}

static void step(pycrew_crew *crew, unsigned worker, int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    if (w->step == PC_STEP_INTERRUPTED && now < w->stack_time) {
        send_interrupt(w, now);
        return;
    }
    if (w->step == PC_STEP_INTERRUPTED) {
        pc_fault_erase(crew, worker);
        send_if_caught(w, SIGRTMAX - 2);
        w->step = PC_STEP_STACK;
        w->step_looks = 0;
        w->step_time = now + stack_lead(crew->grace_ns);
        return;
    }
    free(w->stack);
    w->stack = read_stack(crew, worker);
    if (w->stack == NULL && w->step_looks++ < STACK_LOOKS_MAX &&
        (w->step_looks < STACK_LOOKS || waits_for_cpu(w))) {
        w->step_time = now + STACK_NS;
        return;
    }
    w->killed = true; /* before DOOMED can be seen */
    if (!doom(crew, worker)) {
        w->killed = false;
        go_on(crew, worker, now);
        return;
    }
    w->step = PC_STEP_DOOMED;
    w->step_time = INT64_MAX;
    pc_trace_kill(&crew->calls[w->step_call], worker);
    send_signal(w, SIGKILL);
}

/* ---- what is due ---- */

/* A call that was let go while it ran. Only here, where such calls are collected too, so that it has not
 * ended meanwhile and left its deadline behind. */
static void give_grace(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    if (crew->debug || atomic_load(&call->phase) != PC_PHASE_IN_FLIGHT || !call->released ||
        pc_call_has_ended(call) ||
        (call->timeout_ns >= 0 && call->deadline <= now + crew->grace_ns))
        return;
    pc_deadline_remove(call);
    call->timeout_ns = crew->grace_ns;
    call->deadline = now + crew->grace_ns;
    pc_deadline_add(call);
}

static void run_commands(pycrew_crew *crew, int64_t now)
{
    for (uint32_t i = 0; i < crew->command_count; i++) {
        pycrew_call *call = &crew->calls[crew->commands[i]];

        if (atomic_load(&call->stop) == PC_STOP_NONE)
            give_grace(crew, call, now);
        else
            begin(crew, call, now);
    }
    crew->command_count = 0;
}

/* Its worker was killed, and its death is to be confirmed. */
static bool is_doomed(const pycrew_crew *crew, const pycrew_call *call)
{
    unsigned worker = pc_word_worker(atomic_load(&call->slot->control));

    return worker < crew->workers && crew->crew_workers[worker].killed;
}

/* A worker that was told nothing of its batch for so long is killed: no item of it can be named. */
static void end_stuck(pycrew_crew *crew, pycrew_call *call)
{
    unsigned worker = pc_word_worker(atomic_load(&call->slot->control));

    if (worker >= crew->workers)
        return;
    crew->crew_workers[worker].killed = true;
    if (pc_slot_doom(call->slot, call->generation, worker)) {
        pc_trace_kill(call, worker);
        send_signal(&crew->crew_workers[worker], SIGKILL);
    } else
        crew->crew_workers[worker].killed = false;
}

/* A batch's chunk has its items' deadlines. Gives when to look again. */
static int64_t look_at_chunk(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    uint32_t item;
    int64_t look;

    switch (pc_chunk_overdue(call, &item, &look)) {
    case PC_OVERDUE_ITEM:
        if (now - call->chunk->seen_since > call->timeout_ns + crew->grace_ns + 5 * PC_LOOK_NS &&
            !is_doomed(crew, call))
            pc_crew_distrust(crew, "a batch's item that outlives its deadline");
        if (atomic_load(&call->stop) != PC_STOP_CANCEL) {
            atomic_store(&call->chunk->overdue, item);
            atomic_store(&call->stop, PC_STOP_DEADLINE);
        }
        begin(crew, call, now);
        break;
    case PC_OVERDUE_STUCK: end_stuck(crew, call); break;
    default: break;
    }
    return look > now ? look : now + MS;
}

static void chunk_deadline(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    call->deadline = look_at_chunk(crew, call, now);
    pc_deadline_add(call);
}

/* Or waits for another one's of its worker. */
static bool is_on_ladder(const pycrew_crew *crew, const pycrew_call *call)
{
    uint64_t word = atomic_load(&call->slot->control);
    unsigned worker;

    for (unsigned i = 0; i < crew->workers; i++)
        if (crew->crew_workers[i].step != PC_STEP_NONE &&
            crew->crew_workers[i].step_call == call->index &&
            crew->crew_workers[i].step_generation == call->generation)
            return true;
    worker = pc_word_worker(word);
    return was_told(call, word) && worker < crew->workers &&
           crew->crew_workers[worker].step != PC_STEP_NONE && crew->crew_workers[worker].step_more;
}

/* Stops it, and comes back: it is on the ladder by then, or has ended, or its slot lies. */
static void call_deadline(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    if (call->overdue && !crew->rebuilding && !is_on_ladder(crew, call))
        pc_crew_distrust(crew, "a call that outlives its deadline");
    else
        pc_call_stop(call, PC_STOP_DEADLINE);
    call->overdue = true;
    if (atomic_load(&call->phase) != PC_PHASE_IN_FLIGHT || pc_call_has_ended(call))
        return;
    call->deadline = now + crew->grace_ns + 2 * PC_LOOK_NS;
    pc_deadline_add(call);
}

/* A drop has no time to be queued for: what it drops would stay. But what it runs has, from when it was seen to have begun: it
 * may be claimed before, and wait for the end of an item, which has its own time and some more to clean up. A worker that never
 * says that it begins is none of ours. */
static void drop_deadline(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);
    bool claimed = !pc_word_is_queued(word);

    if (claimed && (call->seen_running || call->drop_looks == DROP_LOOKS)) {
        call_deadline(crew, call, now);
        return;
    }
    call->drop_looks = (uint8_t)(call->drop_looks + claimed);
    call->seen_running = claimed && atomic_load(&call->slot->entered) == call->generation;
    call->deadline = now + crew->grace_ns;
    pc_deadline_add(call);
}

static void deadline(pycrew_crew *crew, pycrew_call *call, int64_t now)
{
    if (atomic_load(&call->phase) != PC_PHASE_IN_FLIGHT)
        return;
    if (pc_call_has_ended(call))
        pc_call_tell(call); /* again: it may have been scribbled over */
    else if (call->chunk_in_use && !call->held)
        chunk_deadline(crew, call, now);
    else if (pc_call_kind(call) == PC_KIND_DROP && !call->held)
        drop_deadline(crew, call, now);
    else
        call_deadline(crew, call, now);
}

static void run_deadlines(pycrew_crew *crew, int64_t now)
{
    pycrew_call *call;

    while ((call = pc_deadline_first(crew)) != NULL && call->deadline <= now) {
        pc_deadline_remove(call);
        deadline(crew, call, now);
    }
}

/* A worker that sleeps on beside queued calls, though each look woke it, sleeps on a semaphore that was
 * scribbled over while it went to sleep, or is stopped. It has no call, and nobody can tell it
 * anything. */
static void end_sleeper(pycrew_crew *crew, unsigned worker, int64_t now)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    const pc_header *header = crew->segment.header;
    uint32_t sleep = atomic_load(&crew->segment.workers[worker].sleeps);

    if (w->state != PC_WORKER_READY || w->step != PC_STEP_NONE ||
        !(atomic_load(&header->idle[worker / 64]) >> worker % 64 & 1) || w->sleep_since == 0 ||
        w->sleep != sleep || pc_worker_owns_a_call(crew, worker)) {
        w->sleep = sleep;
        w->sleep_since = now;
    } else if (now - w->sleep_since >= SLEEPER_NS) {
        w->sleep_since = now;
        pc_worker_kill(w);
    }
}

static void look_at_sleepers(pycrew_crew *crew, bool queued, int64_t now)
{
    for (unsigned i = 0; i < crew->workers; i++)
        if (queued)
            end_sleeper(crew, i, now);
        else
            crew->crew_workers[i].sleep_since = 0;
}

/* Calls that are underway for a while: is all well with them? Gives when to look again; there is no
 * such look while no call with a deadline is in flight. */
static int64_t run_looks(pycrew_crew *crew, int64_t now)
{
    bool queued = false;

    if (crew->deadline_count == 0)
        return INT64_MAX;
    if (now - crew->looked < PC_LOOK_NS)
        return crew->looked + PC_LOOK_NS;
    crew->looked = now;
    for (uint32_t i = 1; i <= crew->deadline_count; i++) {
        pycrew_call *call = &crew->calls[crew->deadlines[i]];

        if (call->deadline - now >= call->timeout_ns - PC_LOOK_NS)
            continue;
        queued |= pc_call_look(call);
        if (call->chunk_in_use && !call->held && !crew->rebuilding)
            look_at_chunk(crew, call, now);
    }
    if (queued)
        pc_idle_wake_all(&crew->segment);
    look_at_sleepers(crew, queued, now);
    return now + PC_LOOK_NS;
}

static int64_t run_steps(pycrew_crew *crew, int64_t now)
{
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < crew->workers; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        if (w->step == PC_STEP_NONE || w->step == PC_STEP_DOOMED)
            continue;
        if (!still_runs(crew, i)) {
            pc_ladder_forget(crew, i);
            take_next(crew, i, now);
        } else if (w->step_time <= now) {
            step(crew, i, now);
        }
        if (w->step != PC_STEP_NONE && w->step_time < next)
            next = w->step_time;
    }
    return next;
}

int64_t pc_ladder_run(pycrew_crew *crew, int64_t now)
{
    const pycrew_call *first;
    int64_t next, look;

    pthread_mutex_lock(&crew->lock);
    run_deadlines(crew, now);
    run_commands(crew, now);
    next = run_steps(crew, now);
    look = run_looks(crew, now);
    if (look < next)
        next = look;
    first = pc_deadline_first(crew);
    if (first != NULL && first->deadline < next)
        next = first->deadline;
    crew->next_look = next;
    pthread_mutex_unlock(&crew->lock);
    return next;
}
