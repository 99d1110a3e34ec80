/* zygote: the host's side of the process that forks the workers: its options, what it says, its
 * end.
 *
 * There is one, but while the crew is reloaded (reload.c): then the new one is a candidate, and
 * after it has proven itself the old one stays until the last of its workers has left. One that
 * dies takes its workers with it; the crew's own is started again when they are buried. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/supervisor.h"

enum { EXIT_MS = 1000 };
enum { ID_IS_PIDFD = 3 }; /* waitid's P_PIDFD, which glibc has a name for since 2.36 */

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- its options ---- */

static void append_item(char *text, size_t *size, char letter, const char *value)
{
    size_t length = strlen(value) + 2;

    if (*size + length <= PC_MESSAGE_TEXT_MAX) {
        text[*size] = letter;
        memcpy(text + *size + 1, value, length - 1);
    }
    *size += length;
}

static void append_number(char *text, size_t *size, char letter, long long value)
{
    char digits[32];

    snprintf(digits, sizeof digits, "%lld", value);
    append_item(text, size, letter, digits);
}

/* Of a worker's life, what is not as usual. */
static void append_life(const pycrew_crew *crew, char *text, size_t *size)
{
    static const char letters[PC_LIMITS] = "afct";

    if (crew->max_calls_per_worker != 0)
        append_number(text, size, 'C', (long long)crew->max_calls_per_worker);
    if (crew->max_worker_rss != 0)
        append_number(text, size, 'R', (long long)crew->max_worker_rss);
    if (crew->nice != 0)
        append_number(text, size, 'n', crew->nice);
    for (unsigned i = 0; i < PC_LIMITS; i++)
        if (crew->limits[i] != 0)
            append_number(text, size, letters[i], crew->limits[i]);
    for (unsigned i = 0; i < crew->cpu_count; i++)
        append_number(text, size, 'u', crew->cpus[i]);
    if (crew->one_cpu)
        append_item(text, size, '1', "");
    if (crew->debug)
        append_number(text, size, 'd', getpgrp());
}

/* Items, each a letter and a string with its NUL: see parse_options in worker/zygote.c. */
static size_t config_text(const pycrew_crew *crew, char *text)
{
    static const char *const outputs[] = {"l", "i", "d"};
    size_t size = 0;

    append_item(text, &size, 'o', outputs[crew->output]);
    for (char **at = crew->path; at != NULL && *at != NULL; at++)
        append_item(text, &size, 's', *at);
    for (char **at = crew->preload; at != NULL && *at != NULL; at++)
        append_item(text, &size, 'm', *at);
    if (crew->init != NULL)
        append_item(text, &size, 'i', crew->init);
    if (crew->exit != NULL)
        append_item(text, &size, 'x', crew->exit);
    if (crew->loop != NULL)
        append_item(text, &size, 'l', crew->loop);
    if (crew->engine != NULL)
        append_item(text, &size, 'e', crew->engine);
    if (crew->engine_options != NULL)
        append_item(text, &size, 'E', crew->engine_options);
    append_number(text, &size, 'w', crew->inflight);
    append_life(crew, text, &size);
    return size;
}

/* It waits for an answer that it does not get. */
static void give_up(pycrew_crew *crew, pc_zygote *z, int error)
{
    char text[200];

    if (error == -EPIPE || error == -ECONNRESET) /* it has died: we shall hear of it */
        return;
    snprintf(text, sizeof text, "the worker program cannot be told its options: %s",
             pycrew_strerror(error));
    z->told = true;
    pc_start_failed(crew, z, error == -ENOMEM ? error : PYCREW_ESTART, text, NULL);
    kill(z->pid, SIGKILL); /* it has just spoken to us, so it is ours */
}

static void greet(pycrew_crew *crew, pc_zygote *z, const pc_message *message)
{
    pc_message config = {.kind = PC_MESSAGE_CONFIG};
    char text[500];
    size_t size;
    int rc;

    z->spoke = true;
    if (message->value != PC_LAYOUT_HASH) {
        snprintf(text, sizeof text,
                 "the worker program is of another version: it is pycrew %.100s, "
                 "this library is pycrew %s; PYCREW_WORKER names one of the same version",
                 crew->text, pycrew_version());
        pc_start_failed(crew, z, PYCREW_ESTART, text, NULL);
        kill(z->pid, SIGKILL); /* it has just spoken to us, so it is ours */
        return;
    }
    size = config_text(crew, crew->text);
    if (size > PC_MESSAGE_TEXT_MAX) {
        snprintf(text, sizeof text,
                 "the options path, preload, init, exit, loop and engine are %zu bytes together; at most %d", size,
                 PC_MESSAGE_TEXT_MAX);
        pc_start_failed(crew, z, -E2BIG, text, NULL);
    } else if ((rc = pc_control_send(z->control, &config, crew->text, size, NULL, 0)) < 0)
        give_up(crew, z, rc);
}

/* ---- what it says ---- */

static void hear_message(pycrew_crew *crew, pc_zygote *z, const pc_message *message, int *fd)
{
    switch (message->kind) {
    case PC_MESSAGE_HELLO:
        greet(crew, z, message);
        break;
    case PC_MESSAGE_READY:
        z->state = PC_ZYGOTE_READY;
        z->failures = 0;
        break;
    case PC_MESSAGE_FAILED:
        z->told = true;
        pc_start_failed_in_python(crew, z, "Python workers cannot start", crew->text);
        break;
    case PC_MESSAGE_WARNING:
        pc_crew_log(crew, PYCREW_LOG_WARNING, "%s", crew->text);
        break;
    default:
        pc_worker_hear_of(crew, z, message, fd);
    }
}

/* What it sent is no message, so it is no worker program. */
static void end_stranger(pycrew_crew *crew, pc_zygote *z)
{
    char text[500];

    snprintf(text, sizeof text, "%.400s does not answer as the worker program does; "
             "PYCREW_WORKER names another",
             pc_worker_path());
    z->told = true;
    pc_start_failed(crew, z, PYCREW_ESTART, text, NULL);
    pc_zygote_kill(z);
}

void pc_zygote_hear(pycrew_crew *crew, pc_zygote *z)
{
    pc_message message;
    int fds[PC_MESSAGE_FDS];

    while (z->control >= 0) {
        int rc = pc_control_receive(z->control, &message, crew->text, fds, MSG_DONTWAIT);

        if (pc_is_for_later(rc))
            return;
        if (rc != 1) {
            if (rc < 0)
                end_stranger(crew, z);
            close_fd(&z->control);
            return;
        }
        hear_message(crew, z, &message, &fds[0]);
        for (unsigned i = 0; i < PC_MESSAGE_FDS; i++)
            close_fd(&fds[i]);
    }
}

/* ---- its end ---- */

void pc_zygote_kill(const pc_zygote *z)
{
    if (z->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, z->pidfd, SIGKILL, NULL, 0);
}

void pc_zygote_tell_to_exit(pc_zygote *z)
{
    pc_message message = {.kind = PC_MESSAGE_EXIT};

    if (z->control >= 0)
        pc_control_send(z->control, &message, NULL, 0, NULL, 0);
    z->leave_until = pc_now() + EXIT_MS * PC_MS;
    /* Before it is ready it may be deep in an import. */
    if (z->state == PC_ZYGOTE_STARTING)
        z->leave_until = pc_now();
}

static void death_in_words(const pc_zygote *z, const siginfo_t *info, char *text, size_t capacity)
{
    char how[80] = "how is not known, because this process ignores SIGCHLD or waits for all";

    if (info->si_pid != 0)
        snprintf(how, sizeof how, "%s %d", info->si_code == CLD_EXITED ? "exit status" : "signal",
                 info->si_status);
    if (z->spoke)
        snprintf(text, capacity, "the process that starts the workers died (%s)", how);
    else
        snprintf(text, capacity, "%.400s is no worker program: it ended without a word (%s); PYCREW_WORKER "
                 "names another",
                 pc_worker_path(), how);
}

void pc_zygote_died(pycrew_crew *crew, pc_zygote *z)
{
    bool planned = z->leave_until != 0;
    siginfo_t info = {0};
    char text[600];

    pc_zygote_hear(crew, z); /* its last words */
    /* Someone else may have reaped it: then how it died is not known. */
    waitid((idtype_t)ID_IS_PIDFD, (id_t)z->pidfd, &info, WEXITED | WNOHANG);
    close_fd(&z->control);
    close_fd(&z->pidfd);
    z->state = PC_ZYGOTE_DEAD;
    z->failures++;
    z->not_before = pc_now() + pc_back_off(z->failures);
    pc_worker_forget_asked(crew, z);
    pc_terminal_take_back(crew, z->pid);
    if (planned || pc_crew_is_closing(crew) || z->told || (crew->lost && crew->ready_code != 0))
        return;
    death_in_words(z, &info, text, sizeof text);
    if (z == crew->zygote || z == pc_reload_candidate(crew))
        pc_start_failed(crew, z, PYCREW_ESTART, text, NULL);
    else
        pc_crew_log(crew, PYCREW_LOG_ERROR, "%s", text);
}

/* Dead, and its workers, which are killed by their PDEATHSIG, are buried: its place is free. */
static void clear_if_over(pycrew_crew *crew, pc_zygote *z)
{
    if (z->state != PC_ZYGOTE_DEAD || pc_worker_any_of(crew, z) || z->output >= 0)
        return;
    z->state = PC_ZYGOTE_NONE;
    z->leave_until = 0;
}

/* ---- its start ---- */

int pc_zygote_start(pycrew_crew *crew, pc_zygote *z)
{
    int rc;

    z->told = z->spoke = false;
    z->leave_until = 0;
    rc = pc_spawn_zygote(crew, z);
    if (rc == 0)
        z->state = PC_ZYGOTE_STARTING;
    return rc;
}

static int64_t start_again(pycrew_crew *crew, pc_zygote *z, int64_t now)
{
    if (z->not_before > now)
        return z->not_before;
    if (pc_zygote_start(crew, z) == 0)
        return INT64_MAX;
    z->failures++;
    z->not_before = now + pc_back_off(z->failures);
    pc_start_failed(crew, z, pycrew_last_error()->code, pycrew_last_error()->message, NULL);
    return z->not_before;
}

int64_t pc_zygote_run(pycrew_crew *crew, int64_t now)
{
    int64_t next = INT64_MAX;

    for (unsigned i = 0; i < PC_ZYGOTES; i++) {
        pc_zygote *z = &crew->zygotes[i];

        clear_if_over(crew, z);
        if (z->leave_until == 0 || z->pidfd < 0)
            continue;
        if (z->leave_until <= now) {
            pc_zygote_kill(z);
            z->leave_until = INT64_MAX;
        }
        if (z->leave_until < next)
            next = z->leave_until;
    }
    if (crew->zygote->state == PC_ZYGOTE_NONE && !pc_crew_is_closing(crew) && !crew->lost) {
        int64_t start = start_again(crew, crew->zygote, now);

        next = start < next ? start : next;
    }
    return next;
}
