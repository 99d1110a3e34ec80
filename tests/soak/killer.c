/* Kills workers and zygotes, at random moments, and counts those that lived until then; and has the crew
 * reloaded meanwhile. */
#define _GNU_SOURCE
#include "tests/soak/soak.h"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#define STEP_NS (20 * MS)

enum { REMEMBERED = 64 };

static struct {
    pthread_t thread, reloader;
    _Atomic bool over;
    uint64_t random;
    int64_t worker_due, zygote_due; /* in time spent killing, which rounds add up to */
    int64_t spent;
    bool early;               /* the last zygote was killed before a worker of it was ready */
    pid_t killed[REMEMBERED]; /* lately: one that is dying is not killed twice */
    size_t next;
} killer;

/* From half to one and a half of the mean: in no step with anything. */
static int64_t next_due(double rate)
{
    if (rate <= 0)
        return INT64_MAX;
    return killer.spent +
           (int64_t)(1e9 / rate * (0.5 + (double)(random_next(&killer.random) % 1000) / 1000));
}

static bool was_killed(pid_t pid)
{
    for (size_t i = 0; i < REMEMBERED; i++)
        if (killer.killed[i] == pid)
            return true;
    return false;
}

/* Whether it lived and was the parent's child when it was killed, and not some other by then. */
static bool kill_child(pid_t pid, pid_t parent)
{
    int fd = was_killed(pid) ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
    bool killed = fd >= 0 && proc_parent(pid) == parent &&
                  syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0;
    if (fd >= 0)
        close(fd);
    if (killed)
        killer.killed[killer.next++ % REMEMBERED] = pid;
    return killed;
}

static void kill_some_worker(pid_t zygote)
{
    pid_t workers[WORKERS_MAX];
    size_t count = proc_children(zygote, workers, WORKERS_MAX);
    if (count > 0 && kill_child(workers[random_next(&killer.random) % count], zygote))
        atomic_fetch_add(&soak.killed, 1);
}

/* Where three in a row do not come to start a worker the calls end PYCREW_ESTART, as they should.
 */
static void kill_zygote(pid_t zygote)
{
    pycrew_stats stats = {.size = sizeof stats};
    bool early = pycrew_stats_get(soak.crew, &stats) < 0 || stats.alive == 0;
    if ((early && killer.early) || !kill_child(zygote, getpid()))
        return;
    atomic_fetch_add(&soak.zygotes_killed, 1);
    killer.early = early;
    killer.zygote_due = next_due(soak.zygote_rate);
}

/* Two of them while the crew is reloaded. */
static pid_t some_zygote(void)
{
    pid_t zygotes[2];
    size_t count = proc_children(getpid(), zygotes, 2);
    return count == 0 ? 0 : zygotes[random_next(&killer.random) % count];
}

static void kill_what_is_due(void)
{
    pid_t zygote;
    bool worker = killer.spent >= killer.worker_due, whole = killer.spent >= killer.zygote_due;
    if ((!worker && !whole) || (zygote = some_zygote()) == 0)
        return;
    if (worker) {
        kill_some_worker(zygote);
        killer.worker_due = next_due(soak.kill_rate);
    }
    if (whole)
        kill_zygote(zygote);
}

static int64_t until_due(void)
{
    int64_t due = killer.worker_due < killer.zygote_due ? killer.worker_due : killer.zygote_due;
    int64_t left = due - killer.spent;
    return left < MS ? MS : left < STEP_NS ? left : STEP_NS;
}

static void *run_killer(void *unused)
{
    (void)unused;
    while (!atomic_load(&killer.over)) {
        int64_t begin = now_ns();
        sleep_ns(until_due());
        killer.spent += now_ns() - begin;
        kill_what_is_due();
    }
    return NULL;
}

/* It may fail where its zygote, or that one's first worker, is killed; and then for that alone. */
static void reload(void)
{
    int rc = pycrew_reload(soak.crew, PYCREW_FOREVER);
    atomic_fetch_add(&soak.reloads, 1);
    if (rc == 0)
        return;
    atomic_fetch_add(&soak.failed_reloads, 1);
    if (rc != PYCREW_ESTART || soak.kill_rate + soak.zygote_rate <= 0)
        fail("pycrew_reload: %s", pycrew_last_error()->message);
}

static void *run_reloader(void *unused)
{
    int64_t pause = (int64_t)(1e9 / soak.reload_rate), next = now_ns() + pause;
    (void)unused;
    while (!atomic_load(&killer.over)) {
        sleep_ns(STEP_NS);
        if (now_ns() < next)
            continue;
        reload();
        next = now_ns() + pause;
    }
    return NULL;
}

void killer_start(void)
{
    if (killer.random == 0) {
        killer.random = soak.seed + 77;
        killer.worker_due = next_due(soak.kill_rate);
        killer.zygote_due = next_due(soak.zygote_rate);
    }
    atomic_store(&killer.over, false);
    if (pthread_create(&killer.thread, NULL, run_killer, NULL) ||
        (soak.reload_rate > 0 && pthread_create(&killer.reloader, NULL, run_reloader, NULL)))
        fail("no thread");
}

void killer_stop(void)
{
    atomic_store(&killer.over, true);
    pthread_join(killer.thread, NULL);
    if (soak.reload_rate > 0)
        pthread_join(killer.reloader, NULL);
    /* Where workers are near their end, successors wait; now there are none. */
    if (soak.max_calls > 0)
        check(pycrew_reload(soak.crew, PYCREW_FOREVER), "the reload at a round's end");
}

void kill_all_workers(void)
{
    pid_t workers[WORKERS_MAX];
    size_t count = proc_workers(workers, WORKERS_MAX);
    for (size_t i = 0; i < count; i++)
        kill(workers[i], SIGKILL);
    for (size_t i = 0; i < count; i++)
        while (proc_parent(workers[i]) > 0)
            sleep_ns(MS);
}
