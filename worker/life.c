/* life: what a worker may use, when it has had enough of it, and the terminal of a worker that is
 * debugged. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/shm/idle.h"
#include "worker/worker.h"

#define LOOK_NS ((int64_t)10 * 1000 * 1000)

/* ---- limits ---- */

static int refuse(const char *what, long long value)
{
    PyErr_Format(PyExc_OSError, "options.%s is %lld, which the system refuses: %s", what, value,
                 strerror(errno));
    return -1;
}

/* In turn, where each is to have one. */
static int set_cpus(const pc_worker_options *o, unsigned worker)
{
    cpu_set_t set;

    if (o->cpu_count == 0)
        return 0;
    CPU_ZERO(&set);
    for (unsigned i = 0; i < o->cpu_count; i++)
        if (!o->one_cpu || i == worker % o->cpu_count)
            CPU_SET(o->cpus[i], &set);
    return sched_setaffinity(0, sizeof set, &set) < 0
               ? refuse("cpus", o->cpus[o->one_cpu ? worker % o->cpu_count : 0])
               : 0;
}

static int set_limit(int resource, const char *name, int64_t value)
{
    struct rlimit limit;

    if (value == 0)
        return 0;
    limit.rlim_cur = limit.rlim_max = value < 0 ? 0 : (rlim_t)value;
    return setrlimit((__rlimit_resource_t)resource, &limit) < 0 ? refuse(name, value) : 0;
}

int pc_life_limit(const pc_worker_options *o, unsigned worker)
{
    errno = 0;
    if (o->nice != 0 && nice(o->nice) == -1 && errno != 0)
        return refuse("nice", o->nice);
    if (set_cpus(o, worker) < 0 || set_limit(RLIMIT_NOFILE, "limit_files", o->limit_files) < 0 ||
        set_limit(RLIMIT_CORE, "limit_core", o->limit_core) < 0 ||
        set_limit(RLIMIT_CPU, "limit_cpu_s", o->limit_cpu_s) < 0)
        return -1;
    return set_limit(RLIMIT_AS, "limit_memory", o->limit_memory);
}

/* ---- the end of a life ---- */

/* A part before the end a successor is asked for, that it may be ready then. */
static uint64_t ahead_of(uint64_t limit)
{
    return limit / 8 > 0 ? limit - limit / 8 : limit - 1;
}

static void set_next_look(pc_life *life, uint64_t calls)
{
    if (life->max_rss != 0)
        life->next_look = life->too_large ? 0 : calls;
    else if (life->max_calls != 0)
        life->next_look = life->retires ? life->max_calls : ahead_of(life->max_calls);
    else
        life->next_look = UINT64_MAX;
}

void pc_life_begin(pc_worker *worker)
{
    worker->life = (pc_life){.max_calls = worker->options->max_calls,
                             .max_rss = worker->options->max_rss,
                             .debug = worker->options->debug != 0,
                             .record = &worker->segment.workers[worker->number]};
    set_next_look(&worker->life, 0);
}

/* In bytes, without what is shared with the host. 0: it cannot be told. */
static uint64_t own_rss(void)
{
    unsigned long long kib, sum = 0;
    char line[256];
    FILE *file = fopen("/proc/self/status", "re");

    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "RssAnon: %llu", &kib) == 1)
            sum += kib;
        if (sscanf(line, "RssFile: %llu", &kib) == 1) {
            sum += kib;
            break;
        }
    }
    if (file != NULL)
        fclose(file);
    return sum * 1024;
}

static void retire(pc_worker *worker)
{
    if (!worker->life.retires)
        pc_lifeline_say(worker, PC_MESSAGE_WORKER_RETIRES);
    worker->life.retires = true;
}

/* It has grown too much: reading its size takes as long as ten calls, so it is not read in each. */
static bool is_too_large(pc_worker *worker, uint64_t calls)
{
    pc_life *life = &worker->life;
    int64_t now = pc_now_coarse();
    uint64_t rss;

    if (life->too_large)
        return true;
    if (life->max_rss == 0 || calls == life->looked_calls || now - life->looked < LOOK_NS)
        return false;
    life->looked = now;
    life->looked_calls = calls;
    rss = own_rss();
    if (rss >= ahead_of(life->max_rss))
        retire(worker);
    life->too_large = rss > life->max_rss;
    return life->too_large;
}

bool pc_life_look(pc_worker *worker, uint64_t calls)
{
    pc_life *life = &worker->life;
    bool over = is_too_large(worker, calls);

    if (life->max_calls != 0 && calls >= ahead_of(life->max_calls))
        retire(worker);
    over |= life->max_calls != 0 && calls >= life->max_calls;
    set_next_look(life, calls);
    return over;
}

/* ---- the terminal ---- */

/* A worker has a process group of its own, so in the background: it may not read from the terminal,
 * and ^C goes to the host. While it runs code of the user's, its group is in front: ^C is for pdb,
 * or ends the function with KeyboardInterrupt, and the host, whose own group is in the background,
 * does not see it. Only who finds the host's group there takes its place, and only who has it gives
 * it back. */
static bool exchange(pid_t from, pid_t to)
{
    sigset_t block, before;
    bool exchanged;

    if (!isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) != from)
        return false;
    sigemptyset(&block);
    sigaddset(&block, SIGTTOU); /* that is what the kernel says to those in the background */
    sigprocmask(SIG_BLOCK, &block, &before);
    exchanged = tcsetpgrp(STDIN_FILENO, to) == 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    return exchanged;
}

void pc_terminal_take(const pc_worker_options *options)
{
    if (options->debug)
        exchange(options->debug, getpgrp());
}

void pc_terminal_give_back(const pc_worker_options *options)
{
    if (options->debug)
        exchange(getpgrp(), options->debug);
}

/* stdin and stdout may be the host's data. Without a terminal they stay what they are. */
static void open_terminal(int fd)
{
    int terminal = isatty(fd) ? -1 : open("/dev/tty", O_RDWR);

    if (terminal < 0)
        return;
    dup2(terminal, fd);
    close(terminal);
}

void pc_terminal_begin(const pc_worker_options *options)
{
    if (!options->debug)
        return;
    open_terminal(STDIN_FILENO);
    open_terminal(STDOUT_FILENO);
    /* Stopped alone, behind the back of the shell, it could not be continued. */
    signal(SIGTSTP, SIG_IGN);
}
