/* stack: the Python stack of the thread that runs calls, written to the fault file when a signal
 * asks.
 *
 * faulthandler's own handler writes it; ours stands before it, for three reasons. The host asks
 * when a call is about to be killed, and if that ends meanwhile, the next one is left alone. The
 * thread is the one that runs calls, and no other's stack is written: threads that start and end
 * beside it change what faulthandler would walk through, and it crashes then. And it is as if
 * nothing had been: with the errno that faulthandler leaves behind, a lock that was looked at is
 * taken for acquired.
 *
 * A signal that comes with a value (sigqueue) is from outside, `pycrew top` for one: it is answered
 * whatever runs. Each answer stands between two lines, of which the first has the value, so that it
 * is not taken for last words, which come behind it. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/async.h"
#include "worker/engine.h"
#include "worker/worker.h"

static struct {
    int fd;
    dev_t device; /* of the file: user code may close it, and get the number for another one */
    ino_t inode;
    off_t start; /* of this worker's part of it */
    pthread_t thread;
    void (*write)(int); /* faulthandler's handler */
} stack = {.fd = -1};

/* The host's request names a call, and for a batch an item. A coroutine or a task of an engine's
 * may be any of those underway. */
static bool is_for_present_call(void)
{
    const pc_current *current = &pc_current_call;

    if (pc_async_pending > 0 || pc_engine_is_used())
        return true;
    return current->record != NULL &&
           atomic_load_explicit(&current->record->interrupt, memory_order_acquire) ==
               current->call &&
           atomic_load_explicit(&current->record->interrupt_item, memory_order_relaxed) ==
               current->item;
}

static void write_text(const char *text, size_t size)
{
    while (write(stack.fd, text, size) < 0 && errno == EINTR)
        continue;
}

/* Which are not for signal handlers in C's own library. */
static void write_asked(uint32_t value)
{
    char line[] = PC_STACK_ASKED "00000000\n";
    char *at = line + sizeof PC_STACK_ASKED - 1;

    for (unsigned i = 0; i < 8; i++)
        at[i] = "0123456789abcdef"[value >> (28 - 4 * i) & 15];
    write_text(line, sizeof line - 1);
}

static bool is_ours(void)
{
    struct stat status;

    return fstat(stack.fd, &status) == 0 && status.st_dev == stack.device &&
           status.st_ino == stack.inode;
}

static void write_stack(int signal, uint32_t value)
{
    if (!is_ours())
        return;
    fallocate(stack.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, stack.start, PC_FAULT_SIZE);
    lseek(stack.fd, stack.start, SEEK_SET);
    write_asked(value);
    stack.write(signal);
    write_text(PC_STACK_END, sizeof PC_STACK_END - 1);
}

static void on_signal(int signal, siginfo_t *info, void *context)
{
    int error = errno;
    bool asked = info->si_code == SI_QUEUE;

    (void)context;
    if (!pthread_equal(pthread_self(), stack.thread)) {
        if (asked)
            pthread_sigqueue(stack.thread, signal, info->si_value);
        else
            pthread_kill(stack.thread, signal);
    } else if (asked || is_for_present_call()) {
        write_stack(signal, asked ? (uint32_t)info->si_value.sival_int : 0);
    }
    errno = error;
}

void pc_stack_take_over(int signal, int fault_fd)
{
    struct sigaction action;
    struct stat status;

    if (fault_fd < 0 || fstat(fault_fd, &status) < 0 || sigaction(signal, NULL, &action) < 0 ||
        action.sa_handler == SIG_DFL)
        return;
    stack.fd = fault_fd;
    stack.device = status.st_dev;
    stack.inode = status.st_ino;
    stack.start = lseek(fault_fd, 0, SEEK_CUR);
    stack.thread = pthread_self();
    stack.write = action.sa_handler;
    action.sa_sigaction = on_signal;
    action.sa_flags |= SA_SIGINFO;
    sigaction(signal, &action, NULL);
}
