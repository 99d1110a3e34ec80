/* Calls of each kind but batches, some hundred of one kind at a time. */
#define _GNU_SOURCE
#include "tests/soak/soak.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/common.h"

enum { JOB_MAX = 400, REAPED_MAX = 64 };

/* ---- a plan ---------------------------------------------------------------------------------- */

/* What data is taken from: filled before the threads start. */
static unsigned char pattern[DATA_SIZE_MAX + 4096];

__attribute__((constructor)) static void fill_pattern(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (unsigned char)(i * 2654435761u >> 13);
}

static uint32_t adler32(const unsigned char *data, size_t size)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < size;) {
        size_t end = size - i < 4096 ? size : i + 4096; /* before the sums could overflow */
        for (; i < end; i++)
            b += a += data[i];
        a %= 65521;
        b %= 65521;
    }
    return b << 16 | a;
}

static int64_t operand(size_t index)
{
    return (int64_t)(index * 0x9e3779b97f4a7c15 >> 8);
}

uint32_t plan_check(const plan *p)
{
    return (uint32_t)(p->index * 3 + (uint64_t)p->op * 5 + (uint64_t)p->a + p->b * 7 +
                      adler32(p->data, p->size));
}

static void write_check(const plan *p)
{
    soak_ledger.calls[p->index].check = plan_check(p);
}

plan plan_call(size_t index, enum kind kind, enum op op, uint64_t *random)
{
    plan p = {.index = index, .op = op, .a = operand(index), .b = random_next(random) >> 40};
    ledger_call *call = &soak_ledger.calls[index];
    call->kind = (uint8_t)kind;
    call->op = (uint8_t)op;
    write_check(&p);
    return p;
}

void plan_data(plan *p, size_t size)
{
    plan_data_of(p, pattern + p->index % 4096, size);
}

void plan_data_of(plan *p, const void *data, size_t size)
{
    p->data = data;
    p->size = size;
    write_check(p);
}

void plan_sleep(plan *p, int64_t ns)
{
    p->b = (uint64_t)(ns / US);
    write_check(p);
}

void plan_timeout(plan *p, int64_t timeout_ns)
{
    p->timeout_ns = timeout_ns;
    soak_ledger.calls[p->index].flags |= CALL_DEADLINE;
}

void plan_retries(plan *p, unsigned retries)
{
    p->retries = retries;
    soak_ledger.calls[p->index].retries = (uint8_t)retries;
}

void plan_submitted(const plan *p)
{
    soak_ledger.calls[p->index].flags |= CALL_SUBMITTED;
}

/* ---- results --------------------------------------------------------------------------------- */

void check_sum(size_t index, long long sum)
{
    if (sum != operand(index) + (long long)index)
        ledger_fault(FAULT_WRONG, index, "a wrong sum: %lld", sum);
}

void check_bytes(const plan *p, const void *data, size_t size)
{
    if (size != p->size || memcmp(data, p->data, size) != 0)
        ledger_fault(FAULT_WRONG, p->index, "wrong bytes: %zu, not %zu", size, p->size);
}

void check_failure(size_t index, const pycrew_error *error)
{
    char text[32];
    if (error->code != PYCREW_ERAISED)
        return;
    snprintf(text, sizeof text, "%lld", (long long)operand(index));
    if (!error->type || strcmp(error->type, "ValueError") != 0 || strcmp(error->message, text) != 0)
        ledger_fault(FAULT_WRONG, index, "not the exception that was raised: %s: %s",
                     error->type ? error->type : "NULL", error->message);
}

/* ---- a call ---------------------------------------------------------------------------------- */

/* One in three calls, and of batches: the same, awaited beside others. */
const pycrew_function *choose_function(size_t index)
{
    return index % 3 == 0 ? soak.coroutine : soak.function;
}

void plan_function(const plan *p, const pycrew_function *function)
{
    if (function == soak.coroutine)
        soak_ledger.calls[p->index].flags |= CALL_COROUTINE;
}

pycrew_call *prepare_call(const plan *p)
{
    const pycrew_function *function = choose_function(p->index);
    pycrew_call *call = NULL;
    plan_function(p, function);
    watch_beat();
    int rc = pycrew_prepare(soak.crew, function, LOST_NS, &call);
    if (rc == -ETIME)
        hung(p->index, NULL, "pycrew_prepare");
    check(rc, "pycrew_prepare");
    check(pycrew_add(call, "LLLK", (long long)p->index, (long long)p->op, (long long)p->a,
                     (unsigned long long)p->b),
          "pycrew_add");
    return call;
}

/* The crew's own retries are not for what writes into its arguments: that is for the library to
 * know. */
void submit_call(pycrew_call *call, const plan *p)
{
    if (p->timeout_ns > 0)
        check(pycrew_set_timeout(call, p->timeout_ns), "pycrew_set_timeout");
    if (p->op != OP_INVERT)
        check(pycrew_set_retries(call, p->retries), "pycrew_set_retries");
    plan_submitted(p); /* before it may run */
    check(pycrew_submit(call), "pycrew_submit");
}

static pycrew_call *submit_to(const plan *p, pycrew_queue *queue, void *data)
{
    pycrew_call *call = prepare_call(p);
    if (p->size > 0)
        check(pycrew_add_bytes(call, p->data, p->size), "pycrew_add_bytes");
    check(pycrew_set_queue(call, queue), "pycrew_set_queue");
    pycrew_set_data(call, data);
    submit_call(call, p);
    return call;
}

static pycrew_call *submit(const plan *p)
{
    return submit_to(p, NULL, NULL);
}

static void check_result(pycrew_call *call, const plan *p)
{
    long long sum;
    const void *data;
    size_t size;
    if (p->op == OP_ECHO) {
        check(pycrew_result(call, "y#", &data, &size), "pycrew_result");
        check_bytes(p, data, size);
    } else {
        check(pycrew_result(call, "L", &sum), "pycrew_result");
        check_sum(p->index, sum);
    }
}

bool await_call(pycrew_call *call, const plan *p)
{
    watch_beat();
    int rc = pycrew_wait(call, p->timeout_ns > 0 ? p->timeout_ns + GRACE_NS + LATE_NS : LOST_NS);
    if (rc == -ETIME)
        hung(p->index, call, "a call");
    const pycrew_error *error = pycrew_call_error(call);
    if ((rc == 0) != (error == NULL) || (error && error->code != rc))
        ledger_fault(FAULT_WRONG, p->index, "pycrew_wait says %d, pycrew_call_error %d", rc,
                     error ? error->code : 0);
    ledger_end(p->index, error);
    if (error)
        check_failure(p->index, error);
    return error == NULL;
}

/* Waits, writes down how it ended, and releases it. */
static void finish(pycrew_call *call, const plan *p)
{
    if (await_call(call, p))
        check_result(call, p);
    pycrew_release(call);
}

void cancel_call(pycrew_call *call, const plan *p)
{
    int rc = pycrew_cancel(call);
    if (rc == 0)
        soak_ledger.calls[p->index].flags |= CALL_ASKED;
    else if (rc == -EALREADY && !(soak_ledger.calls[p->index].flags & CALL_ASKED))
        soak_ledger.calls[p->index].flags |= CALL_TOO_LATE;
    else if (rc != -EALREADY)
        ledger_fault(FAULT_WRONG, p->index, "pycrew_cancel says %d", rc);
    if (rc == -EALREADY && pycrew_wait(call, 0) == -ETIME)
        ledger_fault(FAULT_WRONG, p->index, "cancel says that it ended, wait that it did not");
}

void release_early(pycrew_call *call, const plan *p)
{
    soak_ledger.calls[p->index].flags |= CALL_RELEASED;
    pycrew_release(call);
}

void pause_some(uint64_t *random)
{
    if (one_in(2, random))
        sleep_ns((int64_t)below(4000, random) * US);
}

/* ---- singles --------------------------------------------------------------------------------- */

static void do_singles(size_t first, size_t count, uint64_t *random)
{
    for (size_t i = 0; i < count; i++) {
        plan p = plan_call(first + i, KIND_SINGLE, OP_ADD, random);
        finish(submit(&p), &p);
    }
}

static void do_pipelined(size_t first, size_t count, uint64_t *random)
{
    plan plans[JOB_MAX];
    pycrew_call *calls[JOB_MAX];
    for (size_t i = 0; i < count; i++) {
        plans[i] =
            plan_call(first + i, KIND_PIPELINED, one_in(200, random) ? OP_FAIL : OP_ADD, random);
        calls[i] = submit(&plans[i]);
    }
    for (size_t i = 0; i < count; i++)
        finish(calls[i], &plans[i]);
}

/* What does not fit into a slot: mostly some kilobytes, now and then megabytes, in spans of their
 * own. */
static void do_bytes(size_t first, size_t count, uint64_t *random)
{
    for (size_t i = 0; i < count; i++) {
        plan p = plan_call(first + i, KIND_BYTES, OP_ECHO, random);
        unsigned size = one_in(100, random) ? DATA_SIZE_MAX : one_in(10, random) ? 300000 : 20000;
        plan_data(&p, 1 + below(size, random));
        plan_retries(&p, below(2, random));
        finish(submit(&p), &p);
    }
}

/* ---- deadlines ------------------------------------------------------------------------------- */

static void note_lateness(int64_t late_ns)
{
    int64_t latest = atomic_load(&soak.latest_ns);
    while (late_ns > latest && !atomic_compare_exchange_weak(&soak.latest_ns, &latest, late_ns))
        continue;
}

/* One that sleeps may end on either side of its deadline. */
static void do_deadlines(size_t first, size_t count, uint64_t *random)
{
    static const enum op ops[] = {OP_SLEEP, OP_SLEEP, OP_SLEEP,   OP_SPIN, OP_SPIN,
                                  OP_MATCH, OP_STICK, OP_SWALLOW, OP_STOP};
    for (size_t i = 0; i < count; i++) {
        int64_t timeout_ns = (1 + below(12, random)) * MS, begin;
        plan p = plan_call(first + i, KIND_DEADLINE, ops[below(sizeof ops / sizeof *ops, random)],
                           random);
        plan_sleep(&p, timeout_ns / 2 + below((unsigned)timeout_ns, random));
        plan_timeout(&p, timeout_ns);
        plan_retries(&p, below(2, random));
        begin = now_ns();
        finish(submit(&p), &p);
        note_lateness(now_ns() - begin - timeout_ns - GRACE_NS);
    }
}

/* Many that end about when their deadlines come: an interrupt, or a kill, that comes late hits the
 * next. */
static void do_short_deadlines(size_t first, size_t count, uint64_t *random)
{
    plan plans[JOB_MAX];
    pycrew_call *calls[JOB_MAX];
    for (size_t i = 0; i < count; i++) {
        plans[i] =
            plan_call(first + i, KIND_DEADLINE, one_in(4, random) ? OP_SLEEP : OP_ADD, random);
        if (plans[i].op == OP_SLEEP)
            plan_sleep(&plans[i], below(300, random) * US);
        plan_timeout(&plans[i], (50 + below(3000, random)) * US);
        calls[i] = submit(&plans[i]);
    }
    for (size_t i = 0; i < count; i++)
        finish(calls[i], &plans[i]);
}

/* ---- crashes --------------------------------------------------------------------------------- */

static void do_crashes(size_t first, size_t count, uint64_t *random)
{
    for (size_t i = 0; i < count; i++) {
        plan p = plan_call(first + i, KIND_CRASH, OP_EXIT + below(6, random), random);
        plan_retries(&p, below(3, random));
        if (p.op == OP_CHANGE)
            plan_data(&p, 100 + below(10000, random));
        finish(submit(&p), &p);
    }
}

/* ---- cancels and releases -------------------------------------------------------------------- */

/* Something that may still run, or wait, when it is to stop. What would never end by itself gets a
 * deadline, or those who are not cancelled would not end. */
static plan plan_slow(size_t index, enum kind kind, uint64_t *random)
{
    static const enum op endless[] = {OP_SPIN, OP_MATCH, OP_STICK, OP_SWALLOW};
    bool ends = !one_in(30, random);
    plan p = plan_call(index, kind,
                       !ends                ? endless[below(4, random)]
                       : one_in(4, random)  ? OP_SLEEP
                       : one_in(30, random) ? OP_FAIL
                                            : OP_ADD,
                       random);
    if (p.op == OP_SLEEP)
        plan_sleep(&p, below(3000, random) * US);
    if (!ends)
        plan_timeout(&p, 50 * MS);
    plan_retries(&p, below(2, random));
    return p;
}

static void do_cancels(size_t first, size_t count, uint64_t *random)
{
    plan plans[JOB_MAX];
    pycrew_call *calls[JOB_MAX];
    for (size_t i = 0; i < count; i++) {
        plans[i] = plan_slow(first + i, KIND_CANCEL, random);
        calls[i] = submit(&plans[i]);
    }
    pause_some(random);
    for (size_t i = 0; i < count; i++) {
        size_t which = below((unsigned)count, random);
        cancel_call(calls[which], &plans[which]);
        if (one_in(8, random))
            pause_some(random);
    }
    for (size_t i = 0; i < count; i++)
        finish(calls[i], &plans[i]);
}

static void do_releases(size_t first, size_t count, uint64_t *random)
{
    plan plans[JOB_MAX];
    pycrew_call *calls[JOB_MAX];
    for (size_t i = 0; i < count; i++) {
        plans[i] = plan_slow(first + i, KIND_RELEASE, random);
        if (one_in(20, random) && plans[i].op == OP_ADD)
            plan_data(&plans[i], 100000);
        calls[i] = submit(&plans[i]);
    }
    pause_some(random);
    for (size_t i = 0; i < count; i++)
        if (one_in(3, random))
            finish(calls[i], &plans[i]);
        else
            release_early(calls[i], &plans[i]);
}

/* ---- a queue of the thread's own --------------------------------------------------------------
 */

struct queued {
    plan plan;
    pycrew_call *call; /* NULL: reaped, or released */
};

static size_t reap_some(pycrew_queue *queue)
{
    pycrew_call *calls[REAPED_MAX];
    watch_beat();
    int count = pycrew_queue_reap(queue, calls, REAPED_MAX, LOST_NS);
    if (count == 0)
        hung(SIZE_MAX, NULL, "a queue's calls");
    check(count, "pycrew_queue_reap");
    for (int i = 0; i < count; i++) {
        struct queued *queued = pycrew_data(calls[i]);
        if (queued->call != calls[i])
            ledger_fault(FAULT_WRONG, queued->plan.index,
                         "a queue gave it twice, or after its release");
        queued->call = NULL;
        finish(calls[i], &queued->plan);
    }
    return (size_t)count;
}

static size_t stop_some(struct queued *queued, size_t count, uint64_t *random)
{
    size_t left = count;
    for (size_t i = 0; i < count; i++)
        if (one_in(4, random)) {
            cancel_call(queued[i].call, &queued[i].plan);
        } else if (one_in(8, random)) {
            release_early(queued[i].call, &queued[i].plan);
            queued[i].call = NULL;
            left--;
        }
    return left;
}

/* In the end it reaps all, or closes the queue and waits for those that are left. */
static void do_queue(size_t first, size_t count, uint64_t *random)
{
    struct queued queued[JOB_MAX];
    pycrew_queue *queue;
    check(pycrew_queue_open(soak.crew, &queue), "pycrew_queue_open");
    for (size_t i = 0; i < count; i++) {
        queued[i].plan = plan_slow(first + i, KIND_QUEUE, random);
        queued[i].call = submit_to(&queued[i].plan, queue, &queued[i]);
    }
    size_t left = stop_some(queued, count, random);
    size_t until = one_in(4, random) ? left / 2 : 0;
    while (left > until)
        left -= reap_some(queue);
    pycrew_queue_close(queue);
    for (size_t i = 0; i < count; i++)
        if (queued[i].call)
            finish(queued[i].call, &queued[i].plan);
}

/* ---- the event loop -------------------------------------------------------------------------- */

struct loop_job {
    _Atomic size_t left;
    sem_t done;
};

struct loop_call {
    struct loop_job *job;
    plan plan;
};

static struct {
    pthread_t thread;
    pycrew_queue *queue;
    _Atomic bool over;
} loop;

static void end_loop_call(pycrew_call *call)
{
    struct loop_call *data = pycrew_data(call);
    struct loop_job *job = data->job;
    finish(call, &data->plan);
    if (atomic_fetch_sub(&job->left, 1) == 1)
        sem_post(&job->done);
}

static void *run_loop(void *unused)
{
    (void)unused;
    while (!atomic_load(&loop.over)) {
        struct pollfd ready = {.fd = pycrew_queue_fd(loop.queue), .events = POLLIN};
        pycrew_call *calls[REAPED_MAX];
        int count;
        watch_rest();
        poll(&ready, 1, -1);
        watch_beat();
        do {
            count = pycrew_queue_reap(loop.queue, calls, REAPED_MAX, 0);
            check(count, "pycrew_queue_reap");
            for (int i = 0; i < count; i++)
                end_loop_call(calls[i]);
        } while (count == REAPED_MAX);
    }
    watch_rest();
    return NULL;
}

void loop_start(void)
{
    check(pycrew_queue_open(soak.crew, &loop.queue), "pycrew_queue_open");
    if (pthread_create(&loop.thread, NULL, run_loop, NULL))
        fail("no thread");
}

void loop_stop(void)
{
    atomic_store(&loop.over, true);
    check(pycrew_queue_wake(loop.queue), "pycrew_queue_wake");
    pthread_join(loop.thread, NULL);
    pycrew_queue_close(loop.queue);
}

static void await_loop_job(struct loop_job *job, size_t first)
{
    struct timespec until;
    watch_beat();
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += LOST_NS / SECOND;
    while (sem_timedwait(&job->done, &until) < 0)
        if (errno != EINTR)
            hung(first, NULL, "calls that an event loop is to get");
}

static void do_loop_calls(size_t first, size_t count, uint64_t *random)
{
    struct loop_call calls[JOB_MAX];
    struct loop_job job;
    atomic_init(&job.left, count);
    sem_init(&job.done, 0, 0);
    for (size_t i = 0; i < count; i++) {
        calls[i].job = &job;
        calls[i].plan =
            plan_call(first + i, KIND_LOOP, one_in(100, random) ? OP_FAIL : OP_ADD, random);
        plan_retries(&calls[i].plan, below(2, random));
        submit_to(&calls[i].plan, loop.queue, &calls[i]);
    }
    await_loop_job(&job, first);
    sem_destroy(&job.done);
}

/* ---- the mix --------------------------------------------------------------------------------- */

static const struct job {
    void (*run)(size_t first, size_t count, uint64_t *random);
    size_t count;
    unsigned weight;
} jobs[] = {
    {do_singles, 100, 10}, {do_pipelined, 300, 14}, {do_loop_calls, 200, 10},
    {do_queue, 60, 4},     {do_batch, 2000, 20},    {do_rough_batch, 600, 4},
    {do_bytes, 10, 8},     {do_deadlines, 1, 8},    {do_short_deadlines, 60, 2},
    {do_crashes, 1, 4},    {do_cancels, 30, 4},     {do_releases, 30, 4},
    {do_arrays, 30, 10},   {do_kept, 30, 6},        {do_writable, 20, 6},
    {do_map, 2000, 6},     {do_slices, 400, 4},    {do_actor, 60, 8},
    {do_stream, 150, 8},   {do_asks, 100, 10},
};
enum { JOB_COUNT = sizeof jobs / sizeof *jobs };

static const struct job *pick_job(uint64_t *random)
{
    unsigned weights = 0;
    for (size_t i = 0; i < JOB_COUNT; i++)
        weights += jobs[i].weight;
    unsigned at = below(weights, random);
    const struct job *job = jobs;
    for (; at >= job->weight; job++)
        at -= job->weight;
    return job;
}

void run_random_job(uint64_t *random)
{
    const struct job *job = pick_job(random);
    size_t first = atomic_fetch_add(&soak.next, job->count);
    if (first + job->count > soak_ledger.capacity)
        atomic_store(&soak.pause, true);
    else
        job->run(first, job->count, random);
}
