/* supervisor: the crew's own thread: starts the workers, hears of their deaths, keeps deadlines, passes
 * their output on. It sleeps in poll() and has no periodic wake-up. Zygotes are zygote.c's.
 *
 * A place has one worker, and may have a successor to it, a process of the next incarnation, which stands
 * behind all places in crew_workers. It is forked when the worker is about to leave (its limits are near,
 * or its exit function runs) or is to (a reload), runs init, and waits: it touches neither slots nor the
 * worker's record. When the worker's death has been confirmed and swept, it moves to the place, and is
 * admitted as any worker is. So a recycled worker costs no call more than the time that its exit
 * function takes, and the host has one owner of each record, as ever. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/shm/announce.h"
#include "lib/shm/upcall.h"
#include "lib/supervisor.h"
#include "lib/trace.h"

#define MS PC_MS

enum { BACKOFF_STEPS = 9, READY_BACKOFF_STEPS = 4 };
enum { HOPELESS_FAILURES = 3, HOPELESS_MS = 1000, ADMISSION_MS = 100 };
enum { LOST_LOOK_MS = 50 }; /* without descriptors that can be relied on, it looks around */
enum { POLL_CONTROL, POLL_ZYGOTE, POLL_ZYGOTE_OUTPUT, POLL_PER_ZYGOTE };
enum { POLL_WAKE, POLL_OTHERS };
enum { POLL_PIDFD, POLL_LIFELINE, POLL_OUTPUT, POLL_PER_WORKER };

int64_t pc_back_off(unsigned failures)
{
    int64_t delay = 10 * MS << (failures > BACKOFF_STEPS ? BACKOFF_STEPS : failures - 1);

    return delay > 5000 * MS ? 5000 * MS : delay;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

bool pc_crew_is_closing(const pycrew_crew *crew)
{
    return atomic_load(&crew->ending) == 2;
}

/* ---- start failures ---- */

/* No worker can start: nobody would ever take these. */
static void end_queued(pycrew_crew *crew, const pc_error *error)
{
    pthread_mutex_lock(&crew->lock);
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];
        uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);

        if (pc_word_is_queued(word) && pc_word_generation(word) == call->generation &&
            atomic_load(&call->phase) == PC_PHASE_IN_FLIGHT)
            pc_call_end_by_host(call, word, PYCREW_ESTART, error);
    }
    pthread_mutex_unlock(&crew->lock);
}

static bool any_worker(const pycrew_crew *crew, enum pc_worker_state state)
{
    for (unsigned i = 0; i < crew->processes; i++)
        if (crew->crew_workers[i].state == state)
            return true;
    return false;
}

/* Several failures, and for a while: workers that somebody kills while they start are no sign that
 * none can. */
static bool is_hopeless(const pycrew_crew *crew)
{
    return crew->start_failures >= HOPELESS_FAILURES && !any_worker(crew, PC_WORKER_READY) &&
           pc_now() - crew->failing_since >= HOPELESS_MS * MS;
}

void pc_start_failed(pycrew_crew *crew, const pc_zygote *z, int code, const char *message,
                     const char *traceback)
{
    pc_error error = {0};

    if (z == pc_reload_candidate(crew)) {
        pc_reload_failed(crew, code, message, traceback);
        return;
    }
    if (z != crew->zygote) /* it is on its way out, and what it has with it */
        return;
    if (crew->lost) { /* whatever failed, that is why */
        code = PYCREW_ESTART;
        message = PC_LOST_TEXT;
        traceback = NULL;
    }
    pc_error_set(&error, code, pc_text_of(NULL), pc_text_of(NULL), pc_text_of(message),
                 pc_text_of(traceback));
    if (crew->start_failures++ == 0)
        crew->failing_since = pc_now();
    pthread_mutex_lock(&crew->lock);
    if (crew->ready_code == 0) {
        crew->ready_code = code;
        crew->start_error = error;
        error = (pc_error){0};
        pthread_cond_broadcast(&crew->changed);
        pthread_mutex_unlock(&crew->lock);
        return;
    }
    pthread_mutex_unlock(&crew->lock);
    if (!pc_crew_is_closing(crew)) {
        pc_crew_log(crew, PYCREW_LOG_ERROR, "%s%s%s", message, traceback ? "\n" : "",
                    traceback ? traceback : "");
        if (is_hopeless(crew))
            end_queued(crew, &error);
    }
    pc_error_clear(&error);
}

/* The last line of a traceback says what it is about. */
static void last_line(const char *text, char *line, size_t capacity)
{
    size_t end = strlen(text), start;

    while (end > 0 && text[end - 1] == '\n')
        end--;
    for (start = end; start > 0 && text[start - 1] != '\n'; start--)
        continue;
    snprintf(line, capacity, "%.*s", (int)(end - start), text + start);
}

void pc_start_failed_in_python(pycrew_crew *crew, const pc_zygote *z, const char *what,
                               const char *traceback)
{
    char line[512], message[700];

    last_line(traceback, line, sizeof line);
    snprintf(message, sizeof message, "%s: %s", what, line);
    pc_start_failed(crew, z, PYCREW_ESTART, message, traceback);
}

/* ---- workers ---- */

void pc_worker_kill(pc_host_worker *w)
{
    if (w->pidfd >= 0) {
        w->killed = true;
        syscall(SYS_pidfd_send_signal, w->pidfd, SIGKILL, NULL, 0);
    }
}

static void reset_record(pycrew_crew *crew, unsigned worker)
{
    pc_worker_record *record = &crew->segment.workers[worker];

    /* sleeps and posted go on: a slow waker may still store the number of its predecessor's sleep,
     * and were they to start again, the new worker's sleep of that number would pass for posted. */
    pc_sleeper_init(&record->semaphore);
    atomic_store(&record->interrupt, UINT64_MAX);
    atomic_store(&record->returned, 0);
    atomic_store(&record->calls, 0);
    atomic_store(&record->errors, 0);
    atomic_store(&record->idle, 0);
    pc_upcall_reset(&crew->segment, worker);
    atomic_store(&record->leave, 0);
    pc_direct_reset(crew, worker);
    atomic_store(&record->running, UINT64_MAX);
}

/* A hint for the workers; they could not tell it from a lie. */
static void count_alive(pycrew_crew *crew, int change)
{
    crew->alive += (uint32_t)change;
    atomic_store(&crew->segment.header->alive, crew->alive);
}

static void worker_gone(pycrew_crew *crew, unsigned worker, bool failed)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    close_fd(&w->pidfd);
    close_fd(&w->lifeline);
    if (w->state == PC_WORKER_READY || w->was_ready)
        count_alive(crew, -1);
    w->was_ready = w->vanished = w->waiting = w->retiring = w->gone = false;
    w->told_to_leave = 0;
    w->state = PC_WORKER_NONE;
    w->failures = failed ? w->failures + 1 : 0;
    w->not_before = failed && !crew->rebuilding ? pc_now() + pc_back_off(w->failures) : 0;
}

/* The read end of its output stays until all is read: see pass_output. */
static int make_pipes(pc_host_worker *w, bool log, int *lifeline, int *output)
{
    int ends[2];

    *output = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    w->lifeline = ends[0];
    *lifeline = ends[1];
    /* A worker that does not read is not to block us, nor one that does not write. */
    if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    if (!log)
        return 0;
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    w->output = ends[0];
    *output = ends[1];
    return fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static const char *fork_hint(int error)
{
    if (error == EMFILE)
        return " (a crew needs 8 descriptors, and 3 for each worker)";
    return error == EAGAIN ? PC_FEW_PROCESSES : "";
}

/* While others are on their way, that one could not be forked is no reason for open to fail. */
static void not_started(pycrew_crew *crew, unsigned worker, int code, const char *text)
{
    const pc_zygote *z = crew->crew_workers[worker].zygote;
    bool others = any_worker(crew, PC_WORKER_FORKING);

    for (unsigned i = 0; i < crew->processes; i++)
        others |= crew->crew_workers[i].state == PC_WORKER_STARTING && !crew->crew_workers[i].vanished;
    if (z == pc_reload_candidate(crew) || !others)
        pc_start_failed(crew, z, code, text, NULL);
    else
        pc_crew_log(crew, PYCREW_LOG_ERROR, "%s", text);
}

static void fork_failed(pycrew_crew *crew, unsigned worker, int error)
{
    char text[200];

    snprintf(text, sizeof text, "worker %u cannot be started: %s%s", pc_place_of(crew, worker),
             pycrew_strerror(-error), fork_hint(error));
    pthread_mutex_lock(&crew->lock);
    worker_gone(crew, worker, true);
    pthread_mutex_unlock(&crew->lock);
    close_fd(&crew->crew_workers[worker].output);
    not_started(crew, worker, error == EMFILE || error == ENOMEM ? -error : PYCREW_ESTART, text);
}

/* A place's own record stands still while it has no process; that of one with a successor is the
 * worker's until it is buried. */
static unsigned next_incarnation(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *place = &crew->crew_workers[pc_place_of(crew, worker)];

    if (worker < crew->workers)
        reset_record(crew, worker);
    pthread_mutex_lock(&place->lock);
    crew->crew_workers[worker].incarnation = ++place->last_incarnation;
    pthread_mutex_unlock(&place->lock);
    return place->last_incarnation;
}

void pc_worker_fork(pycrew_crew *crew, unsigned worker, pc_zygote *z)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_message message = {.kind = PC_MESSAGE_FORK, .worker = pc_place_of(crew, worker)};
    int lifeline = -1, output = -1;
    int rc = make_pipes(w, crew->output == PYCREW_LOG, &lifeline, &output);

    w->zygote = z;
    if (rc == 0) {
        int fds[] = {crew->segment.fd, lifeline, crew->fault_fd, output};

        pc_fault_erase(crew, worker);
        message.incarnation = next_incarnation(crew, worker);
        message.number = (int32_t)w->fault_part;
        rc = pc_control_send(z->control, &message, NULL, 0, fds, output >= 0 ? 4 : 3);
    }
    close_fd(&lifeline);
    close_fd(&output);
    if (rc == -EPIPE || rc == -ECONNRESET) { /* the zygote has died: we shall hear of it */
        close_fd(&w->lifeline);
        close_fd(&w->output);
        return;
    }
    if (rc < 0) {
        fork_failed(crew, worker, -rc);
        return;
    }
    pthread_mutex_lock(&crew->lock);
    w->state = PC_WORKER_FORKING;
    pthread_mutex_unlock(&crew->lock);
    w->started = pc_now();
    w->told = w->exec = w->waiting = w->retiring = false;
    atomic_store(&w->killed, false);
    w->leave_until = w->told_to_leave = 0;
    w->signal = w->status = 0;
}

static bool may_fork(const pycrew_crew *crew)
{
    return crew->zygote->state == PC_ZYGOTE_READY && !pc_crew_is_closing(crew) && !crew->rebuilding;
}

/* A successor of the crew's zygote is on its way to the place. */
static bool has_heir(const pycrew_crew *crew, unsigned place)
{
    const pc_host_worker *s = &crew->crew_workers[place + crew->workers];

    return s->state != PC_WORKER_NONE && s->zygote != pc_reload_candidate(crew);
}

static int64_t fork_workers(pycrew_crew *crew, int64_t now)
{
    int64_t next = INT64_MAX;

    if (!may_fork(crew))
        return next;
    for (unsigned i = 0; i < crew->workers; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        if (w->state != PC_WORKER_NONE || w->output >= 0 || has_heir(crew, i))
            continue;
        if (w->not_before <= now)
            pc_worker_fork(crew, i, crew->zygote);
        if (w->state == PC_WORKER_NONE && w->not_before < next)
            next = w->not_before;
    }
    return next;
}

/* ---- successors ---- */

/* By its own will; who is to leave for a reload is reload.c's. */
static bool is_to_be_followed(const pycrew_crew *crew, const pc_host_worker *w)
{
    return w->state == PC_WORKER_READY && w->zygote == crew->zygote && !w->killed &&
           (w->retiring || w->leave_until != 0);
}

static int64_t fork_successors(pycrew_crew *crew, int64_t now)
{
    int64_t next = INT64_MAX;

    if (!may_fork(crew))
        return next;
    for (unsigned i = 0; i < crew->workers; i++) {
        const pc_host_worker *s = &crew->crew_workers[i + crew->workers];

        if (!is_to_be_followed(crew, &crew->crew_workers[i]) || s->state != PC_WORKER_NONE ||
            s->output >= 0)
            continue;
        if (s->not_before <= now)
            pc_worker_fork(crew, i + crew->workers, crew->zygote);
        if (s->state == PC_WORKER_NONE && s->not_before < next)
            next = s->not_before;
    }
    return next;
}

static void admit(pycrew_crew *crew, unsigned worker);

/* The place's worker is buried. What is the process's goes along; what is the place's stays. */
static void move_to_place(pycrew_crew *crew, unsigned place)
{
    pc_host_worker *w = &crew->crew_workers[place], *s = w + crew->workers;
    unsigned part = w->fault_part;
    size_t size = w->line_size;
    char *line = w->line;

    reset_record(crew, place);
    pthread_mutex_lock(&crew->lock);
    pthread_mutex_lock(&w->lock);
    w->incarnation = s->incarnation;
    pthread_mutex_unlock(&w->lock);
    w->state = s->state;
    w->zygote = s->zygote;
    w->pid = s->pid;
    w->start_time = s->start_time;
    w->pidfd = s->pidfd;
    w->lifeline = s->lifeline;
    w->output = s->output;
    w->line = s->line;
    w->line_size = s->line_size;
    w->fault_part = s->fault_part;
    w->vanished = s->vanished;
    w->waiting = s->waiting;
    w->gone = s->gone;
    w->told = s->told;
    w->signal = s->signal;
    w->status = s->status;
    w->started = s->started;
    atomic_store(&w->killed, s->killed);
    w->exec = w->retiring = false;
    w->leave_until = w->told_to_leave = 0;
    s->fault_part = part;
    s->line = line;
    s->line_size = size;
    s->pidfd = s->lifeline = s->output = -1;
    worker_gone(crew, place + crew->workers, false);
    pthread_mutex_unlock(&crew->lock);
}

static void move_successors(pycrew_crew *crew)
{
    if (pc_crew_is_closing(crew) || crew->rebuilding)
        return;
    for (unsigned i = 0; i < crew->workers; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        if (w->state != PC_WORKER_NONE || w->output >= 0 || !has_heir(crew, i))
            continue;
        move_to_place(crew, i);
        if (w->waiting && !w->killed && !w->gone)
            admit(crew, i);
    }
}

void pc_worker_tell_to_leave(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    w->told_to_leave = pc_now();
    pc_idle_tell_to_leave(&crew->segment, worker, w->incarnation);
}

static bool has_room(int lifeline)
{
    struct pollfd room = {.fd = lifeline, .events = POLLOUT};

    return poll(&room, 1, ADMISSION_MS) == 1;
}

/* The worker reads them at this very moment, so when the socket is full it will not be for long. */
static void send_queues(pycrew_crew *crew, const pc_host_worker *w)
{
    for (unsigned i = 0; i < crew->segment.config.queues; i++)
        while (crew->queues[i].fd >= 0 && pc_queue_send(crew, i, w->lifeline) == -EAGAIN)
            if (!has_room(w->lifeline))
                return; /* it is stopped; and will end rather than leave an end unannounced */
}

static void admit(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_message message = {.kind = PC_MESSAGE_ADMIT, .worker = worker, .incarnation = w->incarnation};

    pthread_mutex_lock(&w->lock);
    w->alive = true;
    pthread_mutex_unlock(&w->lock);
    pc_direct_open(crew, worker);
    pthread_mutex_lock(&crew->lock);
    send_queues(crew, w);
    w->open_lifeline = w->lifeline;
    w->state = PC_WORKER_READY;
    w->was_ready = true;
    w->admitted = pc_now();
    crew->ready_code = 1;
    pthread_cond_broadcast(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
    count_alive(crew, 1);
    pc_trace_started(crew, worker);
    crew->start_failures = 0;
    /* Full, or no memory is left: it would wait for ever. (If it has died, that does no harm.) */
    if (pc_control_send(w->lifeline, &message, NULL, 0, NULL, 0) < 0)
        pc_worker_kill(w);
}

/* Other threads send queues over it. */
static void close_lifeline(pycrew_crew *crew, pc_host_worker *w)
{
    pthread_mutex_lock(&crew->lock);
    w->open_lifeline = -1;
    pthread_mutex_unlock(&crew->lock);
    close_fd(&w->lifeline);
}

static bool read_program(int pid, struct stat *ret)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    return stat(path, ret) == 0;
}

/* User code closed its lifeline, which may do no harm, or ran another program over the worker: that
 * ends no call. */
static void look_at_program(pc_host_worker *w)
{
    struct stat zygote, worker;

    if (w->state != PC_WORKER_READY || w->gone || !read_program(w->zygote->pid, &zygote) ||
        !read_program(w->pid, &worker) ||
        (zygote.st_dev == worker.st_dev && zygote.st_ino == worker.st_ino))
        return;
    w->exec = true;
    syscall(SYS_pidfd_send_signal, w->pidfd, SIGKILL, NULL, 0);
}

bool pc_is_for_later(int rc)
{
    return rc == -EAGAIN || rc == -ENOMEM || rc == -ENOBUFS;
}

static void hear_worker(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_message message;
    int fds[PC_MESSAGE_FDS];

    while (w->lifeline >= 0) {
        int rc = pc_control_receive(w->lifeline, &message, crew->text, fds, MSG_DONTWAIT);

        if (pc_is_for_later(rc))
            return;
        if (rc != 1) {
            close_lifeline(crew, w);
            look_at_program(w);
            return;
        }
        if (message.kind == PC_MESSAGE_WORKER_RETIRES)
            w->retiring = true;
        if (message.kind == PC_MESSAGE_WORKER_LEAVING)
            w->leave_until = crew->debug ? INT64_MAX : pc_now() + pc_engine_leaving_ns(crew);
        if (message.kind == PC_MESSAGE_WORKER_READY && w->state == PC_WORKER_STARTING &&
            !pc_crew_is_closing(crew) && !crew->rebuilding) {
            w->waiting = true;
            if (worker < crew->workers)
                admit(crew, worker);
        }
        if (message.kind == PC_MESSAGE_WORKER_FAILED && w->state == PC_WORKER_STARTING)
            pc_start_failed_in_python(crew, w->zygote, "a worker's start failed", crew->text);
    }
}

/* Whether its death is confirmed, and its cause known as far as it will be. */
static bool death_is_complete(const pc_host_worker *w)
{
    if ((w->pidfd < 0 && !w->vanished) || (!w->told && w->zygote->state != PC_ZYGOTE_DEAD))
        return false;
    return w->vanished || pc_pidfd_is_dead(w->pidfd);
}

bool pc_worker_owns_a_call(const pycrew_crew *crew, unsigned worker)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        uint64_t word = atomic_load_explicit(&crew->calls[i].slot->control, memory_order_relaxed);

        if (pc_word_state(word) == PC_CLAIMED && pc_word_worker(word) == worker)
            return true;
    }
    return false;
}

static void died_starting(pycrew_crew *crew, const pc_host_worker *w)
{
    char text[100];

    snprintf(text, sizeof text, "a worker died while it was starting (%s %d)",
             w->signal != 0 ? "signal" : "exit status", w->signal != 0 ? w->signal : w->status);
    pc_start_failed(crew, w->zygote, PYCREW_ESTART, text, NULL);
}

/* Whether it came to nothing, so that its successor is to wait: it did not get ready, or died soon
 * and without a call, by no will of ours. (Its own count of calls is not to be trusted, and nothing
 * hangs on it but a delay.) */
static bool came_to_nothing(const pycrew_crew *crew, unsigned worker, bool planned)
{
    const pc_host_worker *w = &crew->crew_workers[worker];

    if (!w->was_ready)
        return true;
    return !planned && !w->killed && !pc_worker_owns_a_call(crew, worker) &&
           atomic_load(&crew->segment.workers[worker].calls) == 0 &&
           pc_now() - w->started < 1000 * MS;
}

static void bury(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    bool planned = w->signal == 0 && (w->status == PC_EXIT_RECYCLED || w->status == PC_EXIT_CLOSED);
    bool failed = came_to_nothing(crew, worker, planned);
    const char *damage;

    if (!w->told)
        w->signal = SIGKILL; /* by its PDEATHSIG */
    hear_worker(crew, worker);
    if (w->was_ready)
        pc_trace_died(crew, worker, planned);
    pc_terminal_take_back(crew, w->pid);
    /* Before anything is believed: what it left may be what killed it. */
    if (!crew->rebuilding && (damage = pc_crew_audit(crew)) != NULL)
        pc_crew_distrust(crew, damage);
    pc_rebuild_run(crew, pc_now());
    failed &= !crew->rebuilding;
    if (w->was_ready && !crew->rebuilding)
        pc_sweep(crew, worker);
    if (!planned && !w->killed && !pc_crew_is_closing(crew) && w->status != PC_EXIT_INIT_FAILED)
        pc_crew_log(crew, PYCREW_LOG_WARNING,
                    w->signal ? "worker %u (PID %d) was killed by signal %d and is replaced"
                              : "worker %u (PID %d) exited with status %d and is replaced",
                    pc_place_of(crew, worker), w->pid, w->signal ? w->signal : w->status);
    if (!w->was_ready && w->status != PC_EXIT_INIT_FAILED && !pc_crew_is_closing(crew) && !crew->rebuilding &&
        (!w->vanished || crew->lost)) /* of that one is told already: end_unseen */
        died_starting(crew, w);
    close_lifeline(crew, w);
    pthread_mutex_lock(&crew->lock);
    pc_ladder_forget(crew, worker);
    /* It can start, so others' calls are not to wait for it for seconds. */
    if (w->was_ready && w->failures >= READY_BACKOFF_STEPS)
        w->failures = READY_BACKOFF_STEPS - 1;
    if (worker < crew->workers)
        pc_stats_keep(crew, worker, planned || w->killed);
    worker_gone(crew, worker, failed);
    pthread_mutex_unlock(&crew->lock);
}

/* Workers whose exit functions do not end. */
static int64_t end_leaving(pycrew_crew *crew, int64_t now)
{
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < crew->workers; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        if (w->leave_until == 0 || w->leave_until == INT64_MAX)
            continue;
        if (w->leave_until <= now) {
            w->leave_until = 0;
            pc_worker_kill(w);
        } else if (w->leave_until < next) {
            next = w->leave_until;
        }
    }
    return next;
}

/* ---- what zygotes say of workers ---- */

/* Its pidfd came and found no place among this process's descriptors: nobody could see it die, so it
 * is not admitted, and the zygote is to end it. It has touched no slot. */
static void end_unseen(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    pc_message message = {.kind = PC_MESSAGE_KILL,
                          .worker = pc_place_of(crew, worker),
                          .incarnation = w->incarnation};

    w->vanished = true;
    w->killed = true;
    close_fd(&w->lifeline);
    if (!pc_crew_is_closing(crew))
        not_started(crew, worker, -EMFILE, "no descriptor is left to follow a worker: a crew needs 8, 3 for each "
                    "worker and 1 for each open queue");
    pc_control_send(w->zygote->control, &message, NULL, 0, NULL, 0);
}

static void note_forked(pycrew_crew *crew, unsigned worker, const pc_message *message, int pidfd)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    pthread_mutex_lock(&crew->lock);
    w->pid = message->number;
    w->start_time = pc_process_start_time(w->pid);
    w->pidfd = pidfd;
    w->state = PC_WORKER_STARTING;
    pthread_mutex_unlock(&crew->lock);
    if (pidfd < 0)
        end_unseen(crew, worker);
    else if (pc_crew_is_closing(crew) || crew->rebuilding)
        pc_worker_kill(w);
}

void pc_worker_hear_of(pycrew_crew *crew, const pc_zygote *z, const pc_message *message, int *fd)
{
    unsigned worker = message->worker;
    pc_host_worker *w;

    if (worker >= crew->workers)
        return;
    if (crew->crew_workers[worker].incarnation != message->incarnation ||
        crew->crew_workers[worker].zygote != z)
        worker += crew->workers;
    w = &crew->crew_workers[worker];
    if (w->incarnation != message->incarnation || w->zygote != z)
        return;
    if (message->kind == PC_MESSAGE_FORKED && w->state == PC_WORKER_FORKING) {
        note_forked(crew, worker, message, *fd);
        *fd = -1;
    } else if (message->kind == PC_MESSAGE_FORK_FAILED && w->state == PC_WORKER_FORKING) {
        fork_failed(crew, worker, message->number);
    } else if (message->kind == PC_MESSAGE_DIED) {
        w->told = true;
        w->signal = message->number;
        w->status = message->status;
    }
}

void pc_worker_forget_asked(pycrew_crew *crew, const pc_zygote *z)
{
    for (unsigned i = 0; i < crew->processes; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        if (w->state != PC_WORKER_FORKING || w->zygote != z)
            continue;
        pthread_mutex_lock(&crew->lock);
        worker_gone(crew, i, false);
        pthread_mutex_unlock(&crew->lock);
        close_fd(&w->output);
    }
}

bool pc_worker_any_of(const pycrew_crew *crew, const pc_zygote *z)
{
    for (unsigned i = 0; i < crew->processes; i++)
        if (crew->crew_workers[i].state != PC_WORKER_NONE && crew->crew_workers[i].zygote == z)
            return true;
    return false;
}

/* No process is left of a crew without descriptors. */
static void end_lost(pycrew_crew *crew)
{
    pc_error error = {0};

    pc_error_set(&error, PYCREW_ESTART, pc_text_of(NULL), pc_text_of(NULL), pc_text_of(PC_LOST_TEXT),
                 pc_text_of(NULL));
    end_queued(crew, &error);
    pc_error_clear(&error);
}

/* ---- output ---- */

void pc_crew_log(pycrew_crew *crew, int level, const char *format, ...)
{
    va_list arguments;
    char *line = NULL;
    int size;

    va_start(arguments, format);
    size = vasprintf(&line, format, arguments);
    va_end(arguments);
    if (size < 0)
        return;
    if (crew->log != NULL)
        crew->log(crew->log_data, level, line);
    else
        fprintf(stderr, "%s%s\n", level == PYCREW_LOG_OUTPUT ? "" : "pycrew: ", line);
    free(line);
}

/* A NUL would hide the rest of its line. */
static void log_line(pycrew_crew *crew, int worker, char *line, size_t size)
{
    for (char *at = line; (at = memchr(at, '\0', size - (size_t)(at - line))) != NULL;)
        *at = '?';
    if (worker >= 0)
        pc_crew_log(crew, PYCREW_LOG_OUTPUT, "[w%u] %.*s", pc_place_of(crew, (unsigned)worker),
                    (int)size, line);
    else
        pc_crew_log(crew, PYCREW_LOG_OUTPUT, "[zygote] %.*s", (int)size, line);
}

enum { LINE_MAX_SIZE = 64 << 10, OUTPUT_MS = 1, LAST_OUTPUT_MS = 1000 };

/* Lines that were read and not passed on: the log takes its time. */
static bool holds_lines(const char *line, size_t size)
{
    return line != NULL && memchr(line, '\n', size) != NULL;
}

/* Passes whole lines on until that time; keeps the rest in *line. */
static void split_lines(pycrew_crew *crew, int worker, char *line, size_t *size, int64_t until)
{
    char *at = line, *end = line;

    while (pc_now() < until && (end = memchr(at, '\n', *size - (size_t)(at - line))) != NULL) {
        log_line(crew, worker, at, (size_t)(end - at));
        at = end + 1;
    }
    *size -= (size_t)(at - line);
    memmove(line, at, *size);
    if (*size < LINE_MAX_SIZE || end != NULL)
        return;
    log_line(crew, worker, line, *size);
    *size = 0;
}

/* Reads what there is. At the end of all that could write, the last line goes out. Bounded in time,
 * so that neither a worker that prints without end nor a log that is slow keeps the supervisor from
 * deadlines and deaths. True: that was all for now. */
static bool pass_output(pycrew_crew *crew, int worker, int *fd, char **line, size_t *size)
{
    int64_t until = pc_now() + OUTPUT_MS * MS;

    if (*line == NULL && (*line = malloc(LINE_MAX_SIZE + 1)) == NULL)
        return true;
    split_lines(crew, worker, *line, size, until);
    while (pc_now() < until) {
        ssize_t got = read(*fd, *line + *size, LINE_MAX_SIZE - *size);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return true;
        if (got <= 0) {
            if (*size > 0)
                log_line(crew, worker, *line, *size);
            *size = 0;
            close_fd(fd);
            return true;
        }
        *size += (size_t)got;
        split_lines(crew, worker, *line, size, until);
    }
    return false;
}

/* A process that was left behind may hold it: after the end nobody waits. */
static void drop_output(pycrew_crew *crew, int worker, int *fd, char **line, size_t *size)
{
    char *end = *line == NULL ? NULL : memchr(*line, '\n', *size);

    if (*fd >= 0 && *size > 0)
        log_line(crew, worker, *line, end == NULL ? *size : (size_t)(end - *line));
    *size = 0;
    close_fd(fd);
}

/* A dead worker's last words; where the log is too slow for them, its successor is not to wait. */
static void end_output(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    if (w->output < 0 || (!pass_output(crew, (int)worker, &w->output, &w->line, &w->line_size) &&
                          pc_now() < w->output_until))
        return;
    if (holds_lines(w->line, w->line_size))
        pc_crew_log(crew, PYCREW_LOG_WARNING, "worker %u died, and the log is too slow for all its "
                    "output: what follows is lost", pc_place_of(crew, worker));
    drop_output(crew, (int)worker, &w->output, &w->line, &w->line_size);
}

static bool any_lines(const pycrew_crew *crew)
{
    for (unsigned i = 0; i < crew->processes; i++)
        if (holds_lines(crew->crew_workers[i].line, crew->crew_workers[i].line_size) ||
            (crew->crew_workers[i].state == PC_WORKER_NONE && crew->crew_workers[i].output >= 0))
            return true;
    for (unsigned i = 0; i < PC_ZYGOTES; i++)
        if (holds_lines(crew->zygotes[i].line, crew->zygotes[i].line_size))
            return true;
    return false;
}

/* ---- descriptors closed by the host ---- */

/* This process did closefrom(3) or the like. The numbers may be anybody's by now, so nothing is read,
 * written or closed through them. Workers cannot be started without the segment's descriptor; what
 * lives is ended and its death confirmed by new pidfds, so that each call in flight gets its end. */
static void lose_descriptors(pycrew_crew *crew)
{
    pycrew_queue *wake = &crew->queues[PC_QUEUE_SUPERVISOR];
    uint32_t open = 0;

    pthread_mutex_lock(&crew->lock);
    pc_crew_forget_descriptors(crew);
    atomic_store(&crew->lost, true);
    atomic_compare_exchange_strong(&crew->ending, &open, 1);
    wake->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    wake->fd_id = pc_eventfd_id(wake->fd);
    pthread_cond_broadcast(&crew->changed);
    pthread_mutex_unlock(&crew->lock);
    pc_crew_log(crew, PYCREW_LOG_ERROR, PC_LOST_TEXT);
    for (unsigned i = 0; i < crew->processes; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        if (w->state != PC_WORKER_STARTING && w->state != PC_WORKER_READY)
            continue;
        w->pidfd = pc_pidfd_of(w->pid, w->start_time);
        w->vanished = w->pidfd < 0;
        pc_worker_kill(w);
    }
    for (unsigned i = 0; i < PC_ZYGOTES; i++) {
        pc_zygote *z = &crew->zygotes[i];

        if (z->state != PC_ZYGOTE_STARTING && z->state != PC_ZYGOTE_READY)
            continue;
        z->pidfd = pc_pidfd_of(z->pid, z->start_time);
        if (z->pidfd < 0)
            pc_zygote_died(crew, z);
        else
            pc_zygote_kill(z);
    }
}

/* ---- the loop ---- */

static void set_poll(struct pollfd *poll, int fd)
{
    *poll = (struct pollfd){.fd = fd, .events = POLLIN};
}

/* What has no process has no place: poll() takes no more of them than descriptors may be open. */
static unsigned set_polls(pycrew_crew *crew)
{
    struct pollfd *at = crew->polls + POLL_OTHERS;

    set_poll(&crew->polls[POLL_WAKE], crew->queues[0].fd);
    for (unsigned i = 0; i < PC_ZYGOTES; i++) {
        pc_zygote *z = &crew->zygotes[i];

        z->polls = NULL;
        if (z->pidfd < 0 && z->control < 0 && z->output < 0)
            continue;
        z->polls = at;
        set_poll(&at[POLL_CONTROL], z->control);
        set_poll(&at[POLL_ZYGOTE], z->pidfd);
        set_poll(&at[POLL_ZYGOTE_OUTPUT], z->output);
        at += POLL_PER_ZYGOTE;
    }
    for (unsigned i = 0; i < crew->processes; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        w->polls = NULL;
        if (w->state == PC_WORKER_NONE && w->output < 0)
            continue;
        w->polls = at;
        /* Seen dead, and the zygote's word on it to come: no spinning on a readable pidfd. */
        set_poll(&at[POLL_PIDFD], w->gone ? -1 : w->pidfd);
        /* A new worker may speak before the zygote has told us that it is there: not heard yet. */
        set_poll(&at[POLL_LIFELINE], w->state == PC_WORKER_FORKING ? -1 : w->lifeline);
        set_poll(&at[POLL_OUTPUT], w->output);
        at += POLL_PER_WORKER;
    }
    return (unsigned)(at - crew->polls);
}

static void handle_worker(pycrew_crew *crew, unsigned worker, const struct pollfd *polls)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    if (w->state == PC_WORKER_NONE)
        end_output(crew, worker);
    else if (w->output >= 0 &&
             (polls[POLL_OUTPUT].revents != 0 || holds_lines(w->line, w->line_size)))
        pass_output(crew, (int)worker, &w->output, &w->line, &w->line_size);
    if (polls[POLL_LIFELINE].revents != 0)
        hear_worker(crew, worker);
    if (polls[POLL_PIDFD].revents != 0)
        w->gone = true;
    if (!death_is_complete(w))
        return;
    bury(crew, worker);
    w->gone = false;
    w->output_until = pc_now() + LAST_OUTPUT_MS * MS;
    end_output(crew, worker);
}

static void handle_zygote(pycrew_crew *crew, pc_zygote *z, const struct pollfd *polls)
{
    if (z->output >= 0 &&
        (polls[POLL_ZYGOTE_OUTPUT].revents != 0 || holds_lines(z->line, z->line_size)))
        pass_output(crew, -1, &z->output, &z->line, &z->line_size);
    if (polls[POLL_CONTROL].revents != 0)
        pc_zygote_hear(crew, z);
    if (polls[POLL_ZYGOTE].revents == 0)
        return;
    pc_zygote_died(crew, z);
    if (z->output >= 0)
        pass_output(crew, -1, &z->output, &z->line, &z->line_size);
    drop_output(crew, -1, &z->output, &z->line, &z->line_size);
}

static void handle(pycrew_crew *crew)
{
    uint64_t count;

    if (crew->polls[POLL_WAKE].revents != 0)
        while (read(crew->queues[0].fd, &count, sizeof count) < 0 && errno == EINTR)
            continue;
    for (unsigned i = 0; i < PC_ZYGOTES; i++)
        if (crew->zygotes[i].polls != NULL)
            handle_zygote(crew, &crew->zygotes[i], crew->zygotes[i].polls);
    for (unsigned i = 0; i < crew->processes; i++)
        if (crew->crew_workers[i].polls != NULL)
            handle_worker(crew, i, crew->crew_workers[i].polls);
}

static int poll_ms(int64_t next, int64_t now)
{
    if (next == INT64_MAX)
        return -1;
    if (next <= now)
        return 0;
    return (next - now) / MS >= INT32_MAX ? INT32_MAX : (int)((next - now + MS - 1) / MS);
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void turn(pycrew_crew *crew, int64_t extra)
{
    int64_t now = pc_now(), next;
    int count;

    if (crew->lost)
        extra = least(extra, now + LOST_LOOK_MS * MS);
    pc_trace_say(crew);
    next = least(extra, pc_rebuild_run(crew, now));
    next = least(next, pc_ladder_run(crew, now));
    next = least(next, end_leaving(crew, now));
    next = least(next, pc_memory_run(crew, now));
    next = least(next, pc_zygote_run(crew, now));
    next = least(next, pc_reload_run(crew, now));
    if (crew->lost && crew->zygote->state == PC_ZYGOTE_NONE)
        end_lost(crew);
    move_successors(crew);
    next = least(next, fork_workers(crew, now));
    next = least(next, fork_successors(crew, now));
    pc_show_workers(crew);
    pc_announce_arm(&crew->segment, PC_QUEUE_SUPERVISOR);
    pc_call_reclaim_released(crew);
    count = poll(crew->polls, set_polls(crew), any_lines(crew) ? 0 : poll_ms(next, pc_now()));
    /* Before anything is done through them. */
    if (!pc_queue_is_ours(&crew->queues[PC_QUEUE_SUPERVISOR]))
        lose_descriptors(crew);
    else if (count >= 0)
        handle(crew);
}

/* ---- the end ---- */

static void cancel_all(pycrew_crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        uint32_t phase = atomic_load_explicit(&crew->calls[i].phase, memory_order_acquire);

        if (phase == PC_PHASE_IN_FLIGHT)
            pc_call_stop(&crew->calls[i], PC_STOP_CANCEL);
    }
    pthread_mutex_unlock(&crew->lock);
}

/* Or dead, with last words to be passed on. */
static bool any_alive(const pycrew_crew *crew)
{
    for (unsigned i = 0; i < crew->processes; i++)
        if (crew->crew_workers[i].state != PC_WORKER_NONE || crew->crew_workers[i].output >= 0)
            return true;
    return false;
}

/* Workers end by themselves when idle; what has not ended after the grace is killed. */
static void end_workers(pycrew_crew *crew)
{
    int64_t until = crew->debug ? INT64_MAX : pc_now() + crew->grace_ns;
    bool killed = false;

    atomic_store(&crew->segment.header->closing, 1);
    for (unsigned i = 0; i < crew->processes; i++) /* they would wait for their admission */
        if (crew->crew_workers[i].state == PC_WORKER_STARTING)
            close_fd(&crew->crew_workers[i].lifeline);
    cancel_all(crew);
    pc_idle_wake_all(&crew->segment);
    while (any_alive(crew)) {
        if (!killed && pc_now() >= until) {
            killed = true;
            for (unsigned i = 0; i < crew->processes; i++)
                pc_worker_kill(&crew->crew_workers[i]);
        }
        turn(crew, killed ? INT64_MAX : until);
    }
}

static void end_zygotes(pycrew_crew *crew)
{
    for (unsigned i = 0; i < PC_ZYGOTES; i++)
        if (crew->zygotes[i].pidfd >= 0)
            pc_zygote_tell_to_exit(&crew->zygotes[i]);
    for (unsigned i = 0; i < PC_ZYGOTES; i++)
        while (crew->zygotes[i].pidfd >= 0)
            turn(crew, INT64_MAX);
}

static void *supervise(void *data)
{
    pycrew_crew *crew = data;

    while (!pc_crew_is_closing(crew))
        turn(crew, INT64_MAX);
    end_workers(crew);
    end_zygotes(crew);
    return NULL;
}

int pc_supervisor_start(pycrew_crew *crew)
{
    sigset_t all, before;
    int rc;

    crew->text = malloc(PC_MESSAGE_TEXT_MAX + 1);
    crew->polls = calloc(POLL_OTHERS + PC_ZYGOTES * POLL_PER_ZYGOTE + crew->processes * POLL_PER_WORKER,
                         sizeof crew->polls[0]);
    crew->fault_fd = memfd_create("pycrew-fault", MFD_CLOEXEC);
    if (crew->fault_fd >= 0 &&
        ftruncate(crew->fault_fd, (off_t)crew->processes * PC_FAULT_SIZE) < 0)
        close_fd(&crew->fault_fd);
    if (crew->fault_fd < 0)
        return pc_fail(-errno, "no descriptor is left: a crew needs 8, 3 for each worker and 1 for "
                               "each open queue");
    if (crew->text == NULL || crew->polls == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    sigfillset(&all); /* the host's signals are for its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&crew->supervisor, NULL, supervise, crew);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    crew->supervising = rc == 0;
    return rc != 0 ? pc_fail(rc == EAGAIN ? PYCREW_ESTART : -rc,
                             "the crew's thread cannot be started: %s%s", pycrew_strerror(-rc),
                             rc == EAGAIN ? " (RLIMIT_NPROC, RLIMIT_AS, or a cgroup's pids.max)" : "")
                   : 0;
}

void pc_supervisor_stop(pycrew_crew *crew)
{
    if (crew->supervising)
        pthread_join(crew->supervisor, NULL);
    crew->supervising = false;
    for (unsigned i = 0; crew->crew_workers != NULL && i < crew->processes; i++) {
        free(crew->crew_workers[i].line);
        free(crew->crew_workers[i].stack);
    }
    for (unsigned i = 0; i < PC_ZYGOTES; i++)
        free(crew->zygotes[i].line);
    free(crew->polls);
    free(crew->text);
    close_fd(&crew->fault_fd);
}
