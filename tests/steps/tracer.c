#include "tests/steps/tracer.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/steps/symbols.h"

#if defined(__x86_64__)

enum { VISITS = 1 << 15, STACK_WORDS = 512 };

struct visit {
    uint64_t address;
    uint32_t epoch, count;
};

/* The tracer thread's; what both threads use is under lock. */
static struct {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct trace_plan plan;
    struct trace_result result;
    enum trace_state state;
    bool asked, go, over;
    _Atomic bool cancel;
    _Atomic uint64_t progress;

    pid_t pid;
    int signal; /* to be passed on */
    bool dead, stopped;
    uint64_t breakpoint; /* 0: none */
    long under;          /* the word it replaced */
    uint64_t counted;
    bool paused_once;
    struct visit visits[VISITS];
    uint32_t epoch;
} t;

/* ---- what is said between the threads ---- */

static void set_state(enum trace_state state)
{
    pthread_mutex_lock(&t.lock);
    t.state = state;
    pthread_cond_broadcast(&t.changed);
    pthread_mutex_unlock(&t.lock);
}

static void await_go(void)
{
    pthread_mutex_lock(&t.lock);
    t.state = TRACE_PAUSED;
    pthread_cond_broadcast(&t.changed);
    while (!t.go)
        pthread_cond_wait(&t.changed, &t.lock);
    t.state = TRACE_RUNNING;
    pthread_mutex_unlock(&t.lock);
}

/* ---- ptrace ---- */

static uint64_t peek_register(size_t offset)
{
    return (uint64_t)ptrace(PTRACE_PEEKUSER, t.pid, (void *)offset, NULL);
}

static uint64_t peek_rip(void)
{
    return peek_register(offsetof(struct user_regs_struct, rip));
}

static uint64_t peek_rsp(void)
{
    return peek_register(offsetof(struct user_regs_struct, rsp));
}

static uint64_t peek(uint64_t address)
{
    return (uint64_t)ptrace(PTRACE_PEEKTEXT, t.pid, (void *)address, NULL);
}

static void set_breakpoint(uint64_t address)
{
    t.breakpoint = address;
    t.under = (long)peek(address);
    ptrace(PTRACE_POKETEXT, t.pid, (void *)address, (void *)((t.under & ~0xffL) | 0xcc));
}

static void clear_breakpoint(void)
{
    if (t.breakpoint == 0 || t.dead)
        return;
    ptrace(PTRACE_POKETEXT, t.pid, (void *)t.breakpoint, (void *)t.under);
    if (peek_rip() == t.breakpoint + 1) /* it has been hit */
        ptrace(PTRACE_POKEUSER, t.pid, (void *)offsetof(struct user_regs_struct, rip),
               (void *)t.breakpoint);
    t.breakpoint = 0;
}

/* Waits for the next stop: its status; -1: dead; 0: cancelled before. */
static int await_stop(void)
{
    int status;

    while (waitpid(t.pid, &status, __WALL) < 0) {
        if (errno != EINTR) {
            t.dead = true;
            return -1;
        }
        if (atomic_load(&t.cancel))
            return 0;
    }
    t.stopped = WIFSTOPPED(status);
    t.dead = !t.stopped;
    return t.dead ? -1 : status;
}

static bool resume(int how)
{
    int signal = t.signal;

    t.signal = 0;
    t.stopped = false;
    return ptrace((enum __ptrace_request)how, t.pid, NULL, (void *)(long)signal) == 0;
}

/* Lets it go on until it stops by a trap of ours. False: it died, or this is cancelled. */
static bool run(int how)
{
    for (;;) {
        int status;

        if (!resume(how) && errno == ESRCH)
            t.dead = true;
        status = t.dead ? -1 : await_stop();
        if (status <= 0)
            return false;
        if (WSTOPSIG(status) == SIGTRAP && status >> 16 == 0)
            return true;
        if (status >> 16 == 0)
            t.signal = WSTOPSIG(status);
    }
}

static bool run_to(uint64_t address, uint64_t stack)
{
    for (;;) {
        set_breakpoint(address);
        if (!run(PTRACE_CONT))
            return false;
        clear_breakpoint();
        if (peek_rsp() >= stack)
            return true;
        if (!run(PTRACE_SINGLESTEP)) /* a deeper call's return */
            return false;
    }
}

/* From a function's first instruction to its return. */
static bool run_to_return(void)
{
    uint64_t stack = peek_rsp();

    return run_to(peek(stack), stack + 8);
}

/* A stopped process that gets SIGKILL executes nothing more. The zygote is this process's own
 * child: it is left for the library to be reaped. */
static void kill_it(void)
{
    siginfo_t info;

    kill(t.pid, SIGKILL);
    if (t.plan.own_child && t.plan.start.kind != PLACE_CHILD)
        waitid(P_PID, (id_t)t.pid, &info, WEXITED | WNOWAIT | __WALL);
    else
        while (!t.dead)
            await_stop();
    t.dead = true;
}

static void let_go(void)
{
    if (t.dead)
        return;
    if (!t.stopped) {
        ptrace(PTRACE_INTERRUPT, t.pid, NULL, NULL);
        while (await_stop() == 0)
            continue;
        if (t.dead)
            return;
    }
    clear_breakpoint();
    ptrace(PTRACE_DETACH, t.pid, NULL, (void *)(long)t.signal);
}

/* ---- the region ---- */

static uint32_t count_visit(uint64_t address)
{
    size_t at = address * UINT64_C(0x9e3779b97f4a7c15) >> 49;

    while (t.visits[at].epoch == t.epoch && t.visits[at].address != address)
        at = (at + 1) % VISITS;
    if (t.visits[at].epoch != t.epoch)
        t.visits[at] = (struct visit){.address = address, .epoch = t.epoch};
    return ++t.visits[at].count;
}

/* Steps from here to the end, or to the k-th instruction. */
static enum trace_state step_region(void)
{
    uint64_t end = image_find(t.plan.end.function), end_stack = 0, last = 0, back = 0,
             back_stack = 0;
    uint64_t pause = t.plan.pause.kind != PLACE_NONE ? image_find(t.plan.pause.function) : 0;
    unsigned outside = 0;

    for (;;) {
        uint64_t rip = peek_rip();
        enum image_kind kind = image_kind_of(rip);

        if (rip == end && t.plan.end.kind == PLACE_RETURN && end_stack == 0) {
            end_stack = peek_rsp() + 8;
            end = peek(peek_rsp());
        } else if (rip == end && peek_rsp() >= end_stack) {
            return TRACE_ENDED;
        }
        if (rip == pause && !t.paused_once) {
            t.paused_once = true;
            await_go();
        }
        if (kind == IMAGE_OURS) {
            outside = 0;
        } else if (last != 0 && image_kind_of(last) == IMAGE_OURS) {
            back_stack = peek_rsp() + 8;
            back = peek(peek_rsp());
        }
        if (kind == IMAGE_PYTHON || (outside > t.plan.outside && back != 0)) {
            if (!run_to(back, back_stack))
                return t.dead ? TRACE_DIED : TRACE_MISSED;
            last = 0;
            continue;
        }
        if (count_visit(rip) <= t.plan.repeats && t.counted++ == t.plan.kill_at) {
            t.result.address = rip;
            kill_it();
            return TRACE_KILLED;
        }
        outside += kind != IMAGE_OURS;
        last = rip;
        t.result.steps++;
        atomic_fetch_add_explicit(&t.progress, 1, memory_order_relaxed);
        if (!run(PTRACE_SINGLESTEP))
            return t.dead ? TRACE_DIED : TRACE_MISSED;
    }
}

/* Where both are on one CPU, a step costs no wake-up of another CPU. */
static void share_cpu(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();

    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    sched_setaffinity(t.pid, sizeof set, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

/* ---- to its start ---- */

/* The return address into that function which stands lowest on the stack. */
static uint64_t find_return(const char *function, uint64_t *stack)
{
    uint64_t at = peek_rsp();

    for (unsigned i = 0; i < STACK_WORDS; i++, at += 8)
        if (image_is_in(peek(at), function)) {
            *stack = at + 8;
            return peek(at);
        }
    return 0;
}

/* The next child: it starts stopped. Its parent goes on alone. */
static bool take_child(void)
{
    pid_t parent = t.pid;
    unsigned long child = 0;
    int status;

    for (;;) {
        resume(PTRACE_CONT);
        status = await_stop();
        if (status <= 0)
            return false;
        if (status >> 16 == PTRACE_EVENT_FORK || status >> 16 == PTRACE_EVENT_CLONE)
            break;
        if (status >> 16 == 0)
            t.signal = WSTOPSIG(status);
    }
    ptrace(PTRACE_GETEVENTMSG, parent, NULL, &child);
    t.pid = (pid_t)child;
    if (await_stop() <= 0)
        return false;
    ptrace(PTRACE_DETACH, parent, NULL, NULL);
    share_cpu();
    return true;
}

static bool go_to_start(void)
{
    const struct place *start = &t.plan.start;
    uint64_t stack = 0, address;

    switch (start->kind) {
    case PLACE_CHILD:
        return take_child();
    case PLACE_WAKE:
        address = find_return(start->function, &stack);
        break;
    default:
        address = image_find(start->function);
    }
    return address != 0 && run_to(address, stack) &&
           (start->kind != PLACE_RETURN || run_to_return());
}

static bool seize(void)
{
    long options = PTRACE_O_EXITKILL;

    if (t.plan.start.kind == PLACE_CHILD)
        options |= PTRACE_O_TRACEFORK | PTRACE_O_TRACECLONE;
    if (ptrace(PTRACE_SEIZE, t.pid, NULL, (void *)options) < 0)
        return false;
    ptrace(PTRACE_INTERRUPT, t.pid, NULL, NULL);
    return await_stop() > 0;
}

static enum trace_state trace(void)
{
    enum trace_state state;

    if (!seize())
        return errno == EPERM ? TRACE_REFUSED : TRACE_MISSED;
    if (!t.plan.own_child) /* else all workers would stay there */
        share_cpu();
    set_state(TRACE_RUNNING);
    if (!go_to_start()) {
        let_go();
        return t.dead ? TRACE_DIED : TRACE_MISSED;
    }
    t.result.pid = t.pid;
    if (t.plan.pause_at_start) {
        t.paused_once = true;
        await_go();
    }
    state = step_region();
    let_go();
    return state;
}

static void *tracer(void *data)
{
    cpu_set_t all;

    (void)data;
    pthread_getaffinity_np(pthread_self(), sizeof all, &all);
    for (;;) {
        pthread_mutex_lock(&t.lock);
        while (!t.asked && !t.over)
            pthread_cond_wait(&t.changed, &t.lock);
        pthread_mutex_unlock(&t.lock);
        if (t.over)
            return NULL;
        t.asked = false;
        t.pid = t.plan.pid;
        t.dead = t.stopped = t.paused_once = false;
        t.breakpoint = t.counted = 0;
        t.signal = 0;
        t.epoch++;
        atomic_store(&t.cancel, false);
        t.result = (struct trace_result){.pid = t.pid};
        set_state(t.result.state = trace());
        pthread_setaffinity_np(pthread_self(), sizeof all, &all);
    }
}

#else

static struct {
    struct trace_plan plan;
    struct trace_result result;
} t;

#endif

/* ---- the harness's side ---- */

#if defined(__x86_64__)

/* It is only to end the tracer's wait. */
static void no_handler(int signal)
{
    (void)signal;
}

void trace_open(void)
{
    struct sigaction action = {.sa_handler = no_handler}; /* without SA_RESTART */

    sigaction(SIGUSR1, &action, NULL);
    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.changed, NULL);
    t.over = false;
    if (pthread_create(&t.thread, NULL, tracer, NULL) != 0)
        abort();
}

void trace_close(void)
{
    pthread_mutex_lock(&t.lock);
    t.over = true;
    pthread_cond_broadcast(&t.changed);
    pthread_mutex_unlock(&t.lock);
    pthread_join(t.thread, NULL);
}

static enum trace_state await_state(int64_t timeout_ns, enum trace_state not1,
                                    enum trace_state not2)
{
    struct timespec until;
    enum trace_state state;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec +=
        timeout_ns / 1000000000 + (until.tv_nsec + timeout_ns % 1000000000) / 1000000000;
    until.tv_nsec = (until.tv_nsec + timeout_ns % 1000000000) % 1000000000;
    pthread_mutex_lock(&t.lock);
    while (t.state == not1 || t.state == not2)
        if (pthread_cond_timedwait(&t.changed, &t.lock, &until) != 0)
            break;
    state = t.state;
    pthread_mutex_unlock(&t.lock);
    return state;
}

enum trace_state trace_begin(const struct trace_plan *plan)
{
    pthread_mutex_lock(&t.lock);
    t.plan = *plan;
    t.state = TRACE_NONE;
    t.asked = true;
    t.go = false;
    pthread_cond_broadcast(&t.changed);
    pthread_mutex_unlock(&t.lock);
    return await_state(INT64_C(10) * 1000000000, TRACE_NONE, TRACE_NONE);
}

enum trace_state trace_await(int64_t timeout_ns)
{
    return await_state(timeout_ns, TRACE_NONE, TRACE_RUNNING);
}

void trace_go(void)
{
    pthread_mutex_lock(&t.lock);
    t.go = true;
    if (t.state == TRACE_PAUSED)
        t.state = TRACE_RUNNING;
    pthread_cond_broadcast(&t.changed);
    pthread_mutex_unlock(&t.lock);
}

uint64_t trace_progress(void)
{
    return atomic_load_explicit(&t.progress, memory_order_relaxed);
}

static bool is_over(enum trace_state state)
{
    return state != TRACE_RUNNING && state != TRACE_PAUSED;
}

bool trace_finish(int64_t timeout_ns, struct trace_result *ret)
{
    enum trace_state state;
    uint64_t progress;

    trace_go();
    do {
        progress = trace_progress();
        state = await_state(timeout_ns, TRACE_RUNNING, TRACE_PAUSED);
    } while (!is_over(state) && trace_progress() != progress);
    for (unsigned i = 0; !is_over(state) && i < 10000; i++) {
        atomic_store(&t.cancel, true);
        pthread_kill(t.thread, SIGUSR1); /* again: it may just have been about to wait */
        state = await_state(1000000, TRACE_RUNNING, TRACE_PAUSED);
    }
    *ret = t.result;
    ret->state = state;
    return is_over(state);
}

#else

void trace_open(void)
{
}

void trace_close(void)
{
}

enum trace_state trace_begin(const struct trace_plan *plan)
{
    t.plan = *plan;
    return TRACE_REFUSED;
}

enum trace_state trace_await(int64_t timeout_ns)
{
    (void)timeout_ns;
    return TRACE_REFUSED;
}

void trace_go(void)
{
}

uint64_t trace_progress(void)
{
    return 0;
}

bool trace_finish(int64_t timeout_ns, struct trace_result *ret)
{
    (void)timeout_ns;
    *ret = t.result;
    return true;
}

#endif
