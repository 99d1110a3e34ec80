/* spawn: starts the worker program, in a world of its own: default signal actions, empty mask, own
 * process group, no descriptor but stdin (/dev/null), stdout, stderr and the control socket. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/crew.h"
#include "lib/shm/control.h"

extern char **environ;

enum { CONTROL_FD = 3 };

const char *pc_worker_path(void)
{
    const char *path = secure_getenv("PYCREW_WORKER");

    return path != NULL && path[0] != '\0' ? path : PYCREW_WORKER_PATH;
}

/* ---- the environment: the host's, with the option's entries ---- */

/* First, so that it is soon found; a crew inside a worker has its own. See worker/zygote.c. */
static char *const marks[] = {(char *)(uintptr_t) "PYCREW_MARK=----------------", NULL};

static size_t name_length(const char *entry)
{
    return (size_t)(strchrnul(entry, '=') - entry);
}

static bool overridden(char *const *env, const char *entry)
{
    for (; env != NULL && *env != NULL; env++)
        if (name_length(*env) == name_length(entry) && strncmp(*env, entry, name_length(entry)) == 0)
            return true;
    return false;
}

static size_t count_strings(char *const *list)
{
    size_t count = 0;

    while (list != NULL && list[count] != NULL)
        count++;
    return count;
}

static char **make_environment(char *const *env)
{
    char **all = calloc(count_strings(environ) + count_strings(env) + 2, sizeof *all);
    size_t count = 0;

    if (all == NULL)
        return NULL;
    all[count++] = marks[0];
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++)
        if (!overridden(env, *entry) && !overridden(marks, *entry))
            all[count++] = *entry;
    for (; env != NULL && *env != NULL; env++)
        if (strchr(*env, '=') != NULL && !overridden(env + 1, *env))
            all[count++] = *env;
    return all;
}

/* ---- the process ---- */

static int prepare_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(attributes, &none);
    posix_spawnattr_setsigdefault(attributes, &all);
    posix_spawnattr_setpgroup(attributes, 0);
    return posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                    POSIX_SPAWN_SETPGROUP);
}

/* output: where stdout and stderr go; -1: they are inherited. A descriptor may have any number, also
 * 0 to 3, so all are moved up first by the caller. */
static int prepare_files(posix_spawn_file_actions_t *actions, int control, int output, bool debug)
{
    int rc = 0;

    if (!debug) /* else the host's own */
        rc = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (rc == 0 && output >= 0)
        rc = posix_spawn_file_actions_adddup2(actions, output, STDOUT_FILENO);
    if (rc == 0 && output >= 0)
        rc = posix_spawn_file_actions_adddup2(actions, output, STDERR_FILENO);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(actions, control, CONTROL_FD);
    if (rc == 0)
        rc = posix_spawn_file_actions_addclosefrom_np(actions, CONTROL_FD + 1);
    return rc;
}

static int spawn(pycrew_crew *crew, int control, int output, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    char *arguments[] = {(char *)(uintptr_t) "pycrew-worker", crew->python, NULL}; /* or NULL: its own */
    char **environment = make_environment(crew->env);
    int rc = environment == NULL ? ENOMEM : posix_spawn_file_actions_init(&actions);

    if (rc != 0) {
        free(environment);
        return -rc;
    }
    rc = posix_spawnattr_init(&attributes);
    if (rc == 0) {
        rc = prepare_attributes(&attributes);
        if (rc == 0)
            rc = prepare_files(&actions, control, output, crew->debug);
        if (rc == 0)
            rc = posix_spawn(pid, pc_worker_path(), &actions, &attributes, arguments, environment);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    free(environment);
    return -rc;
}

/* ---- what the child inherits ---- */

/* A descriptor above those the child's are moved to, or a negated errno. */
static int move_up(int fd)
{
    int up = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, CONTROL_FD + 1);
    int rc = up < 0 ? -errno : up;

    if (fd >= 0)
        close(fd);
    return rc;
}

/* *theirs: where the child's output goes; -1: where ours does. *ours: where it is read, or -1. */
static int open_output(pycrew_crew *crew, int *ours, int *theirs)
{
    int ends[2];

    *ours = *theirs = -1;
    if (crew->output == PYCREW_INHERIT)
        return 0;
    if (crew->output == PYCREW_DISCARD) {
        *theirs = move_up(open("/dev/null", O_WRONLY | O_CLOEXEC));
        return *theirs < 0 ? *theirs : 0;
    }
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    *ours = ends[0];
    *theirs = move_up(ends[1]);
    if (*theirs < 0)
        return *theirs;
    return fcntl(*ours, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0; /* or reading would stop the supervisor */
}

static void close_if(int fd)
{
    if (fd >= 0)
        close(fd);
}

static int fail_spawn(int rc)
{
    if (rc == -ENOENT || rc == -EACCES || rc == -ENOEXEC)
        return pc_fail(PYCREW_ESTART, "the worker program %s cannot be run: %s (set PYCREW_WORKER "
                       "to where it is)", pc_worker_path(), pycrew_strerror(rc));
    if (rc == -EMFILE || rc == -ENFILE)
        return pc_fail(rc, "no descriptor is left to start the workers: a crew needs 8, 3 for each "
                       "worker and 1 for each open queue (RLIMIT_NOFILE, ulimit -n)");
    return pc_fail(rc == -ENOMEM ? rc : PYCREW_ESTART,
                   "the worker program %s cannot be started: %s%s", pc_worker_path(),
                   pycrew_strerror(rc), rc == -EAGAIN ? PC_FEW_PROCESSES : "");
}

int pc_pidfd_of(int pid, unsigned long long start_time)
{
    int pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

    /* Only now, when it cannot become another's meanwhile. */
    if (pidfd >= 0 && pc_process_start_time(pid) != start_time) {
        close(pidfd);
        return -1;
    }
    return pidfd;
}

bool pc_pidfd_is_dead(int pidfd)
{
    struct pollfd dead = {.fd = pidfd, .events = POLLIN};
    int count;

    do
        count = poll(&dead, 1, 0);
    while (count < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOMEM));
    return count == 1;
}

int pc_spawn_zygote(pycrew_crew *crew, pc_zygote *zygote)
{
    int ends[2], theirs, output = -1, ours = -1, pidfd = -1, rc;
    pid_t pid = -1;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return fail_spawn(-errno);
    theirs = move_up(ends[1]);
    rc = theirs < 0 ? theirs : open_output(crew, &ours, &output);
    if (rc == 0)
        rc = spawn(crew, theirs, output, &pid);
    close_if(theirs);
    close_if(output);
    if (rc == 0) {
        pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
        if (pidfd < 0) {
            rc = -errno;
            kill(pid, SIGKILL); /* it is our child, not waited for: the PID is its own */
            while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                continue;
        }
    }
    if (rc < 0) {
        close(ends[0]);
        close_if(ours);
        if (rc == -ENOSYS)
            return pc_fail(PYCREW_ESTART, "this kernel has no pidfd; Linux 5.14 or newer is needed");
        return fail_spawn(rc);
    }
    zygote->start_time = pc_process_start_time(pid);
    zygote->pid = pid;
    zygote->pidfd = pidfd;
    zygote->control = ends[0];
    zygote->output = ours;
    return 0;
}
