/* zygote: imports the modules once, then forks the workers from them, on the host's request.
 *
 * It maps no segment and keeps no descriptor but the control socket and pidfds: what a worker
 * needs comes with the request. It forks from its main thread, so that the workers' PDEATHSIG,
 * which follows the thread that forked, means "the zygote died". A dead worker is waited for
 * without being reaped, its process group is killed while its PID cannot be anyone else's, and
 * then it is reaped. The host is followed by its pidfd and by the control socket's end.
 *
 * It is the subreaper of what workers start. So whatever left its group or its session comes here
 * when its parent dies, and ends with its worker if its environment still names that (the mark),
 * else with the zygote. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/async.h"
#include "worker/engine.h"
#include "worker/object.h"
#include "worker/worker.h"

/* A worker's number may be two processes': the worker, and its successor. */
enum { PER_WORKER = 2, CHILDREN_MAX = PER_WORKER * PC_WORKERS_MAX };

typedef struct child {
    pid_t pid; /* 0: none */
    unsigned incarnation;
} child;

typedef struct zygote {
    int control, host; /* host: pidfd */
    pid_t pid;
    pc_worker_options options;
    char *text; /* of the message at hand */
    child children[CHILDREN_MAX];
    struct pollfd polls[CHILDREN_MAX + 2]; /* control, host, then a pidfd for each child, or -1 */
    unsigned count;                          /* of polls in use */
    sigset_t mask;                           /* as it was before SIGCHLD was blocked */
    bool cut_off;                            /* the host could not be told something */
} zygote;

enum { ORPHAN_LOOKS = 50, LEAVING_S = 1 };

static int pidfd_of(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* False: it could not be told. The host would wait for it, so the zygote ends; by that it hears
 * all. */
static bool tell_with(zygote *z, enum pc_message_kind kind, const pc_message *message,
                      const char *text, const int *fd)
{
    pc_message copy = message != NULL ? *message : (pc_message){0};

    copy.kind = kind;
    if (pc_control_send(z->control, &copy, text, text ? strlen(text) : 0, fd, fd != NULL) < 0)
        z->cut_off = true;
    return !z->cut_off;
}

static bool tell(zygote *z, enum pc_message_kind kind, const pc_message *message, const char *text)
{
    return tell_with(z, kind, message, text, NULL);
}

static void fork_failed(zygote *z, const pc_message *request, int error)
{
    pc_message reply = *request;

    reply.number = error;
    tell(z, PC_MESSAGE_FORK_FAILED, &reply, NULL);
}

/* ---- orphans ---- */

/* In the environment that the kernel shows in /proc, where the processes it starts have it from.
 * Written in place: what is set by setenv() is not seen there. */
#define MARK "PYCREW_MARK="
enum { MARK_SIZE = 16 }; /* digits: see mark_worker */

static void write_mark(char text[MARK_SIZE + 1], unsigned worker, unsigned incarnation)
{
    snprintf(text, MARK_SIZE + 1, "%06u-%09u", worker, incarnation);
}

static void mark_worker(const pc_worker *worker)
{
    char *mark = getenv("PYCREW_MARK");
    char text[MARK_SIZE + 1];

    write_mark(text, worker->number, worker->incarnation);
    if (mark != NULL && strlen(mark) == MARK_SIZE)
        memcpy(mark, text, MARK_SIZE);
}

enum marking { OTHER, MARKED, UNKNOWN };

/* Whether a process of ours has this mark. Environments are long: it stands at their beginning.
 * Unknown: it has none, as in the middle of an exec, when who waits for it to be over may have been
 * told so already. */
static enum marking look_for_mark(pid_t pid, const char *mark)
{
    char path[64], text[256], wanted[64];
    size_t size = 0;
    bool empty = true;
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    snprintf(wanted, sizeof wanted, MARK "%s", mark);
    file = fopen(path, "re");
    if (file == NULL)
        return OTHER;
    for (int c; (c = getc(file)) != EOF; empty = false) {
        if (size < sizeof text - 1)
            text[size++] = (char)c;
        if (c != '\0')
            continue;
        text[size] = '\0';
        if (strcmp(text, wanted) == 0)
            break;
        size = 0;
    }
    fclose(file);
    if (size > 0 && strcmp(text, wanted) == 0)
        return MARKED;
    return empty ? UNKNOWN : OTHER;
}

static bool is_child(const zygote *z, pid_t pid)
{
    for (unsigned i = 2; i < z->count; i++)
        if (z->children[i - 2].pid == pid)
            return true;
    return false;
}

/* Reaps those that have ended; kills those with the mark, all if it is "", none if it is NULL. How
 * many are to be looked at again: those it had to kill, and those of which it does not know. */
static unsigned handle_orphans(const zygote *z, const char *mark)
{
    char path[64];
    unsigned left = 0;
    enum marking marking;
    FILE *file;
    int pid;

    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)z->pid);
    file = fopen(path, "re");
    while (file != NULL && fscanf(file, "%d", &pid) == 1) {
        if (is_child(z, pid) || waitpid(pid, NULL, WNOHANG) == pid)
            continue;
        marking = mark == NULL ? OTHER : *mark == '\0' ? MARKED : look_for_mark(pid, mark);
        if (marking == MARKED)
            kill(pid, SIGKILL);
        left += marking != OTHER;
    }
    if (file != NULL)
        fclose(file);
    return left;
}

/* What a killed one has started comes to us by its death. */
static void kill_orphans(const zygote *z, const char *mark)
{
    for (unsigned i = 0; i < ORPHAN_LOOKS && handle_orphans(z, mark) > 0; i++)
        poll(NULL, 0, 1);
}

static void on_child(int signal)
{
    (void)signal; /* it ends poll() */
}

/* So that orphans do not stay zombies. A handler that a preloaded module has set does as well. The
 * signal is let through by ppoll() alone, or one that comes just before would not end it. */
static void become_subreaper(zygote *z)
{
    struct sigaction action, before;
    sigset_t blocked;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_child;
    action.sa_flags = SA_NOCLDSTOP;
    if (sigaction(SIGCHLD, NULL, &before) == 0 && before.sa_handler == SIG_DFL)
        sigaction(SIGCHLD, &action, NULL);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigprocmask(SIG_BLOCK, &blocked, &z->mask);
}

static void forget_handler(const zygote *z)
{
    struct sigaction before;

    if (sigaction(SIGCHLD, NULL, &before) == 0 && before.sa_handler == on_child)
        signal(SIGCHLD, SIG_DFL);
    sigprocmask(SIG_SETMASK, &z->mask, NULL);
}

/* ---- configuration ---- */

/* What a worker may use. False: no such letter. */
static bool parse_life(char letter, const char *value, pc_worker_options *options)
{
    long long number = strtoll(value, NULL, 10);

    switch (letter) {
    case 'C': options->max_calls = (uint64_t)number; return true;
    case 'R': options->max_rss = (uint64_t)number; return true;
    case 'n': options->nice = (int)number; return true;
    case 'a': options->limit_memory = number; return true;
    case 'f': options->limit_files = number; return true;
    case 'c': options->limit_core = number; return true;
    case 't': options->limit_cpu_s = number; return true;
    case 'u': options->cpus[options->cpu_count++] = (unsigned)number; return true;
    case '1': options->one_cpu = true; return true;
    case 'd': options->debug = (pid_t)number; return true;
    default: return false;
    }
}

/* The CONFIG message is items, each a letter and a string with its NUL. */
static int parse_options(const char *text, size_t size, pc_worker_options *options)
{
    char *copy = malloc(size + 1);
    size_t paths = 0, preloads = 0;

    options->path = calloc(size + 1, sizeof(char *));
    options->preload = calloc(size + 1, sizeof(char *));
    options->cpus = calloc(size + 1, sizeof options->cpus[0]);
    if (copy == NULL || options->path == NULL || options->preload == NULL || options->cpus == NULL)
        return -ENOMEM;
    memcpy(copy, text, size);
    copy[size] = '\0';
    options->output = 'i';
    for (char *at = copy; at < copy + size; at += strlen(at) + 1)
        switch (*at) {
        case 's':
            options->path[paths++] = at + 1;
            break;
        case 'm':
            options->preload[preloads++] = at + 1;
            break;
        case 'i':
            options->init = at + 1;
            break;
        case 'x':
            options->exit = at + 1;
            break;
        case 'o':
            options->output = at[1];
            break;
        case 'w':
            options->inflight = (unsigned)strtoul(at + 1, NULL, 10);
            break;
        case 'l':
            options->loop = at + 1;
            break;
        case 'e':
            options->engine = at + 1;
            break;
        case 'E':
            options->engine_options = at + 1;
            break;
        default:
            if (!parse_life(*at, at + 1, options))
                return -EPROTO;
        }
    return 0;
}

/* The thread that spawned us may be pinned to a CPU: the affinity to use is the whole process's. */
static void take_host_affinity(void)
{
    cpu_set_t set;

    if (sched_getaffinity(getppid(), sizeof set, &set) == 0)
        sched_setaffinity(0, sizeof set, &set);
}

static int count_threads(void)
{
    char line[256];
    int threads = 1;
    FILE *file = fopen("/proc/self/status", "re");

    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "Threads: %d", &threads) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return threads;
}

static void set_default(const char *name)
{
    setenv(name, "1", 0);
}

/* N workers with a pool of N threads each would be N times N threads. */
static void limit_threads(void)
{
    set_default("OMP_NUM_THREADS");
    set_default("OPENBLAS_NUM_THREADS");
    set_default("MKL_NUM_THREADS");
    set_default("BLIS_NUM_THREADS");
    set_default("NUMEXPR_NUM_THREADS");
    set_default("VECLIB_MAXIMUM_THREADS");
}

static int start(zygote *z)
{
    pc_message message = {.value = PC_LAYOUT_HASH};
    int fds[PC_MESSAGE_FDS];
    const char *failure;

    if (!tell(z, PC_MESSAGE_HELLO, &message, PACKAGE_VERSION " with Python " PY_VERSION) ||
        pc_control_receive(z->control, &message, z->text, fds, 0) != 1 ||
        message.kind != PC_MESSAGE_CONFIG || parse_options(z->text, message.size, &z->options) < 0)
        return -1;
    take_host_affinity();
    limit_threads();
    pc_terminal_begin(&z->options);
    pc_terminal_take(&z->options);
    failure = pc_interpreter_start(&z->options);
    pc_terminal_give_back(&z->options);
    if (failure != NULL) {
        tell(z, PC_MESSAGE_FAILED, NULL, failure);
        return -1;
    }
    become_subreaper(z);
    if (count_threads() > 1)
        tell(
            z, PC_MESSAGE_WARNING, NULL,
            "threads are alive after the preload; they do not exist in the workers, and locks they "
            "hold stay locked there");
    return tell(z, PC_MESSAGE_READY, NULL, NULL) ? 0 : -1;
}

/* ---- in a forked worker ---- */

static void redirect(int from, int to)
{
    if (from >= 0 && from != to)
        dup2(from, to);
}

static void set_output(const pc_worker_options *options, int output)
{
    if (options->output == 'l') {
        redirect(output, STDOUT_FILENO);
        redirect(output, STDERR_FILENO);
    }
    if (output > STDERR_FILENO)
        close(output);
}

/* A description of its own, so that the offset is: each process writes its own part of the file. */
static int open_fault_file(int shared, unsigned part)
{
    char path[64];
    int fd;

    snprintf(path, sizeof path, "/proc/self/fd/%d", shared);
    fd = open(path, O_RDWR | O_CLOEXEC);
    close(shared);
    if (fd >= 0)
        lseek(fd, (off_t)part * PC_FAULT_SIZE, SEEK_SET);
    return fd;
}

static ino_t inode_of(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

static void close_zygote(zygote *z)
{
    close(z->control);
    for (unsigned i = 1; i < z->count; i++)
        if (z->polls[i].fd >= 0)
            close(z->polls[i].fd);
}

static void fail_worker(pc_worker *worker)
{
    pc_message message = {.kind = PC_MESSAGE_WORKER_FAILED,
                          .worker = worker->number,
                          .incarnation = worker->incarnation};
    const char *text = pc_fault_describe();

    pc_control_send(worker->lifeline, &message, text, strlen(text), NULL, 0);
    _exit(PC_EXIT_INIT_FAILED);
}

/* Memory comes last: a segment that a child of this worker inherited would outlive the worker's
 * sweep, so it is not inherited. */
static void map_segment(pc_worker *worker, int fd)
{
    if (pc_segment_map(&worker->segment, fd) < 0)
        _exit(PC_EXIT_ORPHANED);
    madvise(worker->segment.base, worker->segment.size, MADV_DONTFORK);
    close(fd);
    worker->segment.fd = -1;
    if (pc_heap_init(&worker->heap, &worker->segment,
                     pc_owner_worker(worker->number, worker->incarnation), 0) < 0)
        _exit(PC_EXIT_ORPHANED);
}

/* PDEATHSIG is lost when credentials change, as an init function may do; and the zygote may have
 * died before it was set. */
static void follow_zygote(pid_t pid)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != pid)
        _exit(PC_EXIT_ORPHANED);
}

/* The host holds our pidfd once it admits us: from then on our death is seen, whatever we hold. False:
 * it closes, or is gone. */
static bool await_admission(pc_worker *worker, char *text)
{
    pc_message message = {.kind = PC_MESSAGE_WORKER_READY,
                          .worker = worker->number,
                          .incarnation = worker->incarnation};

    if (pc_control_send(worker->lifeline, &message, NULL, 0, NULL, 0) < 0)
        return false;
    while (message.kind != PC_MESSAGE_ADMIT)
        if (pc_lifeline_receive(worker, text, 0, &message) < 0)
            return false;
    return true;
}

/* The host cannot be told that we leave, and would not know an exit function that does not end from
 * a call that takes long: the kernel is to end it. */
static void limit_leaving(void)
{
    sigset_t alarm_only;

    signal(SIGALRM, SIG_DFL);
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
    alarm(LEAVING_S);
}

/* What of the user's runs before the first call. False: with an exception. */
static bool prepare_worker(const zygote *z, const pc_worker *worker, int fault_fd)
{
    bool ready;

    if (pc_interpreter_after_fork(worker->number, fault_fd) < 0 ||
        pc_life_limit(&z->options, worker->number) < 0)
        return false;
    pc_terminal_take(&z->options);
    ready = z->options.engine != NULL  ? pc_engine_start(worker, fault_fd) == 0
            : z->options.init == NULL || pc_interpreter_hook(z->options.init) == 0;
    pc_terminal_give_back(&z->options);
    return ready;
}

static void end_worker(const zygote *z, pc_worker *worker)
{
    if (!pc_lifeline_say_leaving(worker))
        limit_leaving();
    pc_terminal_take(&z->options);
    pc_object_end();
    pc_engine_end();
    pc_async_end();
    if (z->options.exit != NULL && z->options.engine == NULL && pc_interpreter_hook(z->options.exit) < 0)
        PyErr_WriteUnraisable(NULL);
    pc_interpreter_end();
    pc_terminal_give_back(&z->options);
}

static int worker_main(zygote *z, const pc_message *request, const int *fds)
{
    pc_worker worker = {.number = request->worker,
                        .incarnation = request->incarnation,
                        .lifeline = fds[1],
                        .options = &z->options};
    struct stat status_of_lifeline;
    int status = PC_EXIT_CLOSED;

    worker.lifeline_inode = inode_of(worker.lifeline);
    follow_zygote(z->pid);
    setpgid(0, 0);
    forget_handler(z);
    mark_worker(&worker);
    close_zygote(z);
    PyOS_AfterFork_Child();
    set_output(&z->options, fds[3]);
    map_segment(&worker, fds[0]);
    if (!prepare_worker(z, &worker, open_fault_file(fds[2], (unsigned)request->number)))
        fail_worker(&worker);
    follow_zygote(z->pid);
    if (fstat(worker.lifeline, &status_of_lifeline) == 0)
        worker.lifeline_inode = status_of_lifeline.st_ino;
    if (await_admission(&worker, z->text))
        status = pc_loop_run(&worker);
    end_worker(z, &worker); /* init has run, so exit does, also where no call came in between */
    return status;
}

/* ---- forking and reaping ---- */

/* The worker's other process, if there is one, is about to end. */
static unsigned free_place(const zygote *z, unsigned worker)
{
    unsigned place = worker * PER_WORKER;

    return z->children[place].pid == 0 ? place : place + 1;
}

static void reply_forked(zygote *z, const pc_message *request, pid_t pid)
{
    pc_message reply = *request;
    unsigned number = free_place(z, request->worker), place = number + 2;
    int pidfd = pidfd_of(pid);

    if (pidfd < 0) { /* no descriptor left: nobody could follow it */
        int error = errno;

        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        fork_failed(z, request, error);
        return;
    }
    z->children[number] = (child){.pid = pid, .incarnation = request->incarnation};
    z->polls[place] = (struct pollfd){.fd = pidfd, .events = POLLIN};
    for (; z->count <= place; z->count++)
        if (z->count != place)
            z->polls[z->count].fd = -1;
    reply.number = pid;
    tell_with(z, PC_MESSAGE_FORKED, &reply, NULL, &pidfd);
}

/* Returns in the child with its status in *status. */
static bool fork_worker(zygote *z, const pc_message *request, const int *fds, int *status)
{
    pid_t pid;
    int error;

    PyOS_BeforeFork();
    pid = fork();
    error = errno;
    if (pid == 0) {
        *status = worker_main(z, request, fds);
        return true;
    }
    PyOS_AfterFork_Parent();
    for (unsigned i = 0; i < PC_MESSAGE_FDS; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (pid < 0) {
        fork_failed(z, request, error);
        return false;
    }
    setpgid(pid, pid); /* both do, so that it is true for both from the start */
    reply_forked(z, request, pid);
    return false;
}

static void reap(zygote *z, unsigned number)
{
    child *c = &z->children[number];
    pc_message message = {.worker = number / PER_WORKER, .incarnation = c->incarnation};
    siginfo_t info = {0};
    char mark[MARK_SIZE + 1];

    if (waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOWAIT | WNOHANG) < 0 || info.si_pid == 0)
        return;
    kill(-c->pid, SIGKILL); /* what it started; its PID is still ours */
    waitid(P_PID, (id_t)c->pid, &info, WEXITED);
    if (info.si_code == CLD_EXITED)
        message.status = info.si_status;
    else
        message.number = info.si_status;
    close(z->polls[number + 2].fd);
    z->polls[number + 2].fd = -1;
    c->pid = 0;
    tell(z, PC_MESSAGE_DIED, &message, NULL);
    write_mark(mark, message.worker, message.incarnation);
    kill_orphans(z, mark);
}

static void kill_all(zygote *z)
{
    for (unsigned i = 0; i < CHILDREN_MAX; i++)
        if (z->children[i].pid != 0) {
            kill(-z->children[i].pid, SIGKILL);
            kill(z->children[i].pid, SIGKILL);
            waitpid(z->children[i].pid, NULL, 0);
            z->children[i].pid = 0;
        }
    kill_orphans(z, "");
}

/* Not reaped, so its PID is its own. */
static void kill_worker(const zygote *z, const pc_message *request)
{
    for (unsigned i = 0; i < PER_WORKER; i++) {
        const child *c = &z->children[request->worker * PER_WORKER + i];

        if (c->pid != 0 && c->incarnation == request->incarnation)
            kill(c->pid, SIGKILL);
    }
}

/* One request. False: the end, with *status. */
static bool serve(zygote *z, int *status)
{
    pc_message message;
    int fds[PC_MESSAGE_FDS];
    int rc = pc_control_receive(z->control, &message, z->text, fds, 0);

    *status = 0;
    if (rc != 1 || message.kind == PC_MESSAGE_EXIT)
        return false;
    if (message.worker >= PC_WORKERS_MAX)
        return true;
    if (message.kind == PC_MESSAGE_FORK && fds[2] >= 0)
        return !fork_worker(z, &message, fds, status);
    if (message.kind == PC_MESSAGE_FORK) /* what it needs has found no place in this process */
        fork_failed(z, &message, EMFILE);
    if (message.kind == PC_MESSAGE_KILL)
        kill_worker(z, &message);
    return true;
}

static int serve_all(zygote *z)
{
    int status = 0;

    for (;;) {
        if (ppoll(z->polls, z->count, NULL, &z->mask) < 0) {
            if (errno != EINTR)
                break;
            /* What it preloaded may have handlers of its own. */
            if (PyErr_CheckSignals() < 0)
                PyErr_Clear();
            handle_orphans(z, NULL);
            continue;
        }
        for (unsigned i = 2; i < z->count; i++)
            if (z->polls[i].fd >= 0 && z->polls[i].revents != 0)
                reap(z, i - 2);
        if (z->polls[1].revents != 0)
            break;
        if (z->polls[0].revents != 0 && !serve(z, &status))
            break;
        if (z->cut_off) {
            status = 1;
            break;
        }
    }
    if (getpid() == z->pid)
        kill_all(z);
    return status;
}

__attribute__((visibility("default"))) int pc_worker_main(const char *python)
{
    static zygote z;
    const int control = PC_CONTROL_FD;
    int status;

    z.control = control;
    z.options.python = python;
    z.pid = getpid();
    z.host = pidfd_of(getppid());
    z.text = malloc(PC_MESSAGE_TEXT_MAX + 1);
    fcntl(control, F_SETFD, FD_CLOEXEC);
    z.polls[0] = (struct pollfd){.fd = control, .events = POLLIN};
    z.polls[1] = (struct pollfd){.fd = z.host, .events = POLLIN};
    z.count = 2;
    if (z.text == NULL || start(&z) < 0)
        return 1;
    status = serve_all(&z);
    fflush(NULL);
    _exit(status); /* no Py_Finalize: threads of the user's could hold it up */
}
