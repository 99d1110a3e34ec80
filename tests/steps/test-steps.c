/* Death at every instruction: the real worker, Python loaded, is killed after instruction k of a
   region, for every k, and so is the zygote. After each death: every call has ended exactly once,
   with its result or with PYCREW_EDIED and a may_have_run that is true; the crew works on; the dead
   are replaced; spans, memory, descriptors and processes are what they were.

       test-steps                    a sample: every n-th instruction from a random one, some 20 s
       PYCREW_STEPS=1 test-steps     every instruction (make check-steps); N: every N-th
       PYCREW_STEPS_SEED=7           where the sample begins

   The last test prints the table. An instruction in a loop counts for its first turns only, as
   scenario.repeats says; see tracer.h for what is not stepped. */
#include <poll.h>

#include "lib/shm/heap.h"
#include "tests/harness/crew.h"
#include "tests/steps/symbols.h"
#include "tests/steps/tracer.h"

enum { CALLS_MAX = 16, MARKS = 1 << 22, ROWS_MAX = 60, KEYS = 1 << 16, FAULTS_SHOWN = 4 };
enum { SLOTS = 64, ITEMS = 4, BIG_SIZE = 100000, RUN_SIZE = 2500000 };
enum { MAX_CALLS = 12 };      /* of a worker that is replaced */
enum { ASKED_SIZE = 700000 }; /* of what is asked and answered in a block: most of a span */
enum { EXACTLY = 8 };         /* so many deaths to an exact look at the memory */
enum { ELEMENTS = 150000 };   /* of an array: it takes a run of spans, which a footprint counts */

#define HANG (10 * SECOND)

/* ---- what the tests report to the last one ----------------------------------------------------
 */

struct row {
    char name[40];
    unsigned kills, instructions; /* distinct ones, */
    unsigned outside;             /* of which in the C library */
    unsigned returned, died, died_before;
    unsigned lost, doubled, untrue, hung, leaked;
    int64_t slowest_ns, took_ns; /* from the kill to the next call's answer; the whole region */
};

struct table {
    struct row rows[ROWS_MAX];
    unsigned count;
    uint64_t keys[KEYS]; /* instructions before which some process was killed */
    unsigned instructions, outside;
    unsigned stride;
    uint64_t seed;
};

static struct table *table;

/* Shared with the processes of all tests, which the runner forks. */
__attribute__((constructor)) static void make_table(void)
{
    const char *stride = getenv("PYCREW_STEPS"), *seed = getenv("PYCREW_STEPS_SEED");

    table = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        abort();
    table->stride = stride != NULL ? (unsigned)atoi(stride) : 0;
    table->seed = seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)(now_ns() / 1000) % 1000000;
}

static bool insert(uint64_t *keys, uint64_t key)
{
    size_t at = (key * UINT64_C(0x9e3779b97f4a7c15)) >> 48;

    while (keys[at] != 0 && keys[at] != key)
        at = (at + 1) % KEYS;
    if (keys[at] == key)
        return false;
    keys[at] = key;
    return true;
}

/* ---- the host ---------------------------------------------------------------------------------
 */

enum kind {
    ADD,
    AWAIT, /* these are coroutines: */
    AT_ONCE,
    WAIT,
    OPEN_GATES, /* which lets them end */
    BIG,
    GROW,
    COPY,
    KEEP,
    COUNT, /* an actor's */
    ASK,   /* these ask the host */
    ASK_BIG,
    PING, /* from here on there are no marks */
    DIE,
    KEPT,
    LET_GO
};

struct record {
    enum kind kind;
    uint32_t index; /* of its mark */
    pycrew_call *call;
    size_t size;
    bool cancelled; /* by us, while it was queued; */
    bool stopped;   /* while it ran */
    bool beside;    /* its error says that another one's code ran at the death; */
    bool charged;   /* or that it may have been its own */
    unsigned ends;
    int pid;      /* PING's answer */
    double value; /* of an array's elements, which COPY and KEEP are given */
    bool take;
    pycrew_array taken;
};

/* What must be the same after each death. */
struct footprint {
    unsigned host_spans, worker_spans;
    long blocks;    /* of the segment's file */
    unsigned calls; /* that can be had */
    unsigned descriptors, zygote_descriptors, processes;
};

struct scenario {
    const char *name;
    enum { WORKER, WAITER, ZYGOTE, CHILD } who; /* WAITER: its thread beside the event loop */
    unsigned workers;
    struct place start, end, pause;
    bool pause_at_start;
    bool arrays;     /* they are preloaded; */
    bool coroutines; /* or these */
    uint64_t max_calls;
    bool again; /* the next worker is to die, too: see settle() */
    unsigned repeats, outside;
    unsigned sample;      /* every so many instructions without PYCREW_STEPS */
    void (*before)(void); /* before the process is seized */
    void (*drive)(void);  /* what makes it come by, and checks what came of it */
};

static struct {
    pycrew_crew *crew;
    pycrew_queue *queue;
    unsigned workers;
    int zygote;
    pc_segment segment; /* a view of the crew's own */
    uint8_t *marks;
    uint32_t next_mark;
    struct record records[CALLS_MAX];
    unsigned count;
    bool traced; /* the present drive is */
    pycrew_actor *actor;
    long long counted;      /* by it, since it was made */
    pycrew_call *stream;    /* of which an item was taken */
    _Atomic uint8_t *asked; /* by mark: how often the host was, in a call */
    struct footprint base;
    struct footprint kept; /* the same while large blocks are kept, in case they are needed again */
    struct row *row;
    char faults[2048];
    uint64_t keys[KEYS];
} h;

__attribute__((format(printf, 2, 3))) static void fault(unsigned *counter, const char *format, ...)
{
    size_t used = strlen(h.faults);
    va_list arguments;

    ++*counter;
    va_start(arguments, format);
    vsnprintf(h.faults + used, sizeof h.faults - used, format, arguments);
    va_end(arguments);
    strncat(h.faults, "; ", sizeof h.faults - strlen(h.faults) - 1);
}

static int64_t hang_ns(void)
{
    return (int64_t)((double)HANG * tap_scale());
}

static uint32_t new_mark(void)
{
    ASSERT(h.next_mark < MARKS - 1);
    return ++h.next_mark;
}

/* ---- calls ---- */

static bool all_are(const pycrew_array *array, double value)
{
    const double *elements = array->data;

    for (size_t i = 0; i < ELEMENTS; i++)
        if (elements[i] != value)
            return false;
    return true;
}

static void check_array(struct record *r)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    int rc = r->take ? pycrew_array_take(r->call, &array) : pycrew_result_array(r->call, &array);

    if (rc < 0 || array.dtype != PYCREW_F64 || array.ndim != 1 || array.shape[0] != ELEMENTS ||
        !all_are(&array, r->value))
        fault(&h.row->untrue, "call %u returned a wrong array", r->index);
    if (rc == 0 && r->take)
        r->taken = array;
}

/* A worker that is new has kept nothing. */
static bool is_kept_value(const struct record *r, double value)
{
    return value == r->value || (r->kind == KEPT && value == -0.5);
}

static void check_result(struct record *r)
{
    double value = -1;
    long long sum;
    const void *data;
    size_t size;

    switch (r->kind) {
    case ADD:
    case AWAIT:
    case AT_ONCE:
    case WAIT:
    case OPEN_GATES:
        if (pycrew_result(r->call, "L", &sum) < 0 || sum != (long long)r->index + 7)
            fault(&h.row->untrue, "call %u returned a wrong sum", r->index);
        break;
    case COUNT:
        if (pycrew_result(r->call, "L", &sum) < 0 || sum != (long long)r->size)
            fault(&h.row->untrue, "call %u of an actor is its %lld., not %zu.", r->index, sum,
                  r->size);
        break;
    case ASK:
    case ASK_BIG:
        if (pycrew_result(r->call, "L", &sum) < 0 || sum != 2 * (long long)r->size)
            fault(&h.row->untrue, "call %u got a wrong answer", r->index);
        if (h.asked[r->index] != 1)
            fault(&h.row->untrue, "call %u asked the host %u times", r->index, h.asked[r->index]);
        break;
    case BIG:
        if (pycrew_result(r->call, "y#", &data, &size) < 0 || size != r->size ||
            ((const uint8_t *)data)[0] != r->index % 251 ||
            memcmp(data, (const uint8_t *)data + 1, size - 1) != 0)
            fault(&h.row->untrue, "call %u returned wrong bytes", r->index);
        break;
    case GROW:
        if (pycrew_value_count(pycrew_result_value(r->call)) != 4)
            fault(&h.row->untrue, "call %u returned a wrong list", r->index);
        break;
    case COPY:
        check_array(r);
        break;
    case KEEP:
    case KEPT:
        if (pycrew_result(r->call, "d", &value) < 0 || !is_kept_value(r, value))
            fault(&h.row->untrue, "call %u sees %g, not %g", r->index, value, r->value);
        break;
    case LET_GO:
        break;
    case PING:
        if (pycrew_result(r->call, "i", &r->pid) < 0)
            fault(&h.row->untrue, "a wrong PID");
        break;
    case DIE:
        fault(&h.row->untrue, "a call that dies returned");
    }
}

/* What a call's error says must be true, whatever it is. */
static void check_error(const struct record *r, const pycrew_error *e, unsigned marks)
{
    if (r->cancelled && e->code == -ECANCELED) {
        if (marks > 0)
            fault(&h.row->untrue, "call %u was cancelled while queued, and ran", r->index);
        return;
    }
    if (r->stopped && e->code == -ECANCELED)
        return;
    if (e->code != PYCREW_EDIED) {
        fault(&h.row->untrue, "call %u ended with %d (%s)", r->index, e->code, e->message);
        return;
    }
    if (r->kind == DIE)
        return;
    if (e->signal != SIGKILL)
        fault(&h.row->untrue, "call %u names signal %d", r->index, e->signal);
    if (!e->may_have_run && marks > 0)
        fault(&h.row->untrue, "call %u ran, and may_have_run is false", r->index);
    e->may_have_run ? h.row->died++ : h.row->died_before++;
}

static void check_marks(uint32_t index, bool returned)
{
    unsigned marks = h.marks[index];

    if (marks > 1)
        fault(&h.row->doubled, "call %u ran %u times", index, marks);
    if (h.asked[index] > 1)
        fault(&h.row->doubled, "call %u asked the host %u times", index, h.asked[index]);
    if (returned && marks == 0)
        fault(&h.row->untrue, "call %u returned without having run", index);
}

static void note_end(struct record *r)
{
    const pycrew_error *e = pycrew_call_error(r->call);

    if (r->ends++ > 0) {
        fault(&h.row->doubled, "call %u ended twice", r->index);
        return;
    }
    if (e != NULL) {
        check_error(r, e, h.marks[r->index]);
        r->beside = strstr(e->message, "while it ran another call") != NULL;
        r->charged = e->code == PYCREW_EDIED && e->may_have_run && !r->beside;
    } else {
        check_result(r);
        h.row->returned++;
    }
    if (r->kind < PING && !r->cancelled)
        check_marks(r->index, e == NULL);
}

static struct record *begin_call(enum kind kind)
{
    static const char *const names[] = {[ADD] = "steps_ops:add",
                                        [AWAIT] = "steps_async_ops:add",
                                        [AT_ONCE] = "steps_async_ops:add_at_once",
                                        [WAIT] = "steps_async_ops:wait",
                                        [OPEN_GATES] = "steps_async_ops:open_gates",
                                        [ASK] = "steps_ops:ask",
                                        [ASK_BIG] = "steps_ops:ask_big",
                                        [BIG] = "steps_ops:big",
                                        [GROW] = "steps_ops:grow",
                                        [COPY] = "steps_array_ops:copy",
                                        [KEEP] = "steps_array_ops:keep",
                                        [PING] = "steps_ops:ping",
                                        [DIE] = "steps_ops:die",
                                        [KEPT] = "steps_array_ops:kept_value",
                                        [LET_GO] = "steps_array_ops:let_go"};
    struct record *r = &h.records[h.count++];

    ASSERT(h.count <= CALLS_MAX);
    *r = (struct record){.kind = kind, .index = new_mark()};
    if (kind == COUNT)
        OK(pycrew_actor_prepare(h.actor, "count", BOUND, &r->call));
    else
        r->call = prepare(h.crew, names[kind]);
    return r;
}

static void finish_submit(struct record *r, bool queued)
{
    pycrew_set_data(r->call, r);
    if (queued)
        OK(pycrew_set_queue(r->call, h.queue));
    OK(pycrew_submit(r->call));
}

static struct record *submit(enum kind kind, size_t size, bool queued)
{
    struct record *r = begin_call(kind);

    r->size = size;
    if (kind <= OPEN_GATES)
        OK(pycrew_add(r->call, "LLL", (long long)r->index, (long long)r->index, 7LL));
    if (kind == BIG || kind == ASK_BIG)
        OK(pycrew_add(r->call, "Ln", (long long)r->index, (ptrdiff_t)size));
    if (kind == GROW || kind == COUNT || kind == ASK)
        OK(pycrew_add(r->call, "L", (long long)r->index));
    finish_submit(r, queued);
    return r;
}

/* COPY or KEEP, of an array whose elements are all value. */
static struct record *submit_array(enum kind kind, const pycrew_array *array, double value)
{
    struct record *r = begin_call(kind);

    r->value = value;
    OK(pycrew_add(r->call, "LA", (long long)r->index, array));
    finish_submit(r, true);
    return r;
}

static unsigned open_calls(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < h.count; i++)
        count += h.records[i].ends == 0;
    return count;
}

static void reap(void)
{
    pycrew_call *calls[CALLS_MAX];
    int count = pycrew_queue_reap(h.queue, calls, CALLS_MAX, 0);

    ASSERT(count >= 0);
    for (int i = 0; i < count; i++)
        note_end(pycrew_data(calls[i]));
}

/* Whether more than that has gone by since the last progress of who is stepped: *since and *seen
 * are when and what it was. */
static bool is_late(int64_t *since, uint64_t *seen)
{
    if (h.traced && trace_progress() != *seen) {
        *seen = trace_progress();
        *since = now_ns();
    }
    return now_ns() - *since > hang_ns();
}

/* By the queue's descriptor alone: nobody waits inside of the library, who looks again by himself,
 * so an announcement or a wake that is lost is a call that hangs. */
static void collect_until(const struct record *ended)
{
    struct pollfd poll_queue = {.fd = pycrew_queue_fd(h.queue), .events = POLLIN};
    int64_t since = now_ns();
    uint64_t seen = 0;

    while ((ended != NULL ? ended->ends == 0 : open_calls() > 0) && !is_late(&since, &seen))
        if (poll(&poll_queue, 1, 1000) > 0)
            reap();
}

static void collect_queued(void)
{
    collect_until(NULL);
}

/* By waiting for it, asleep on its slot's semaphore. */
static void collect_waiting(struct record *r)
{
    int64_t since = now_ns();
    uint64_t seen = 0;
    int rc;

    do
        rc = pycrew_wait(r->call, SECOND);
    while (rc == -ETIME && !is_late(&since, &seen));
    if (rc != -ETIME)
        note_end(r);
}

static int next_item(pycrew_batch *batch)
{
    int64_t since = now_ns();
    uint64_t seen = 0;
    int rc;

    do
        rc = pycrew_batch_next(batch, SECOND);
    while (rc == -ETIME && !is_late(&since, &seen));
    return rc;
}

/* What a lost call's slot and the workers look like: where to begin to search. */
static void note_lost(const struct record *r)
{
    uint32_t entered = 0;
    uint64_t word = 0;

    fault(&h.row->lost, "call %u is lost", r->index);
    for (uint32_t i = 0; i < h.segment.config.slots; i++) {
        word = atomic_load(&h.segment.slots[i].control);
        entered = atomic_load(&h.segment.slots[i].entered);
        if (pc_word_state(word) == PC_QUEUED || pc_word_state(word) == PC_CLAIMED)
            fault(&(unsigned){0}, "slot %u is in state %d of generation %u, entered %u", i,
                  (int)pc_word_state(word), pc_word_generation(word), entered);
    }
    for (unsigned i = 0; i < h.workers; i++) {
        pc_worker_record *record = &h.segment.workers[i];
        int tokens = -1;

        sem_getvalue(&record->semaphore, &tokens);
        fault(&(unsigned){0}, "worker %u: idle %d, sleeps %u, posted %u, tokens %d", i,
              (int)(atomic_load(&h.segment.header->idle[i / 64]) >> i % 64 & 1),
              atomic_load(&record->sleeps), atomic_load(&record->posted), tokens);
    }
}

/* Every call has ended by now, and is given back. */
static void finish_calls(void)
{
    for (unsigned i = 0; i < h.count; i++) {
        if (h.records[i].ends == 0)
            note_lost(&h.records[i]);
        pycrew_release(h.records[i].call);
    }
    h.count = 0;
    reap();
}

/* One call whose end is waited for by the queue. */
static struct record call(enum kind kind, size_t size)
{
    struct record *r = submit(kind, size, true), copy;

    collect_queued();
    copy = *r;
    finish_calls();
    return copy;
}

/* ---- the crew's footprint ---- */

static unsigned count_directory(const char *path)
{
    DIR *directory = opendir(path);
    unsigned count = 0;

    while (directory != NULL && readdir(directory) != NULL)
        count++;
    if (directory != NULL)
        closedir(directory);
    return count;
}

/* Whether this process was started by our crew: the zygote and its workers alone have this. */
static bool has_our_environment(int pid)
{
    static char text[1 << 16];
    char path[64];
    ssize_t size = 0;
    int fd;

    snprintf(path, sizeof path, "/proc/%d/environ", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        size = read(fd, text, sizeof text);
        close(fd);
    }
    return size > 0 &&
           memmem(text, (size_t)size, scratch_directory(), strlen(scratch_directory())) != NULL;
}

/* Alive, or dead and reaped by nobody. */
static unsigned count_processes(void)
{
    DIR *directory = opendir("/proc");
    unsigned count = 0;

    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;) {
        struct tap_process process;
        int pid = tap_number(entry->d_name);

        if (pid <= 0 || !tap_read_process(pid, &process) ||
            strcmp(process.name, "pycrew-worker") != 0)
            continue;
        count += process.state == 'Z' ? process.parent == getpid() || process.parent == h.zygote
                                      : has_our_environment(pid);
    }
    if (directory != NULL)
        closedir(directory);
    return count;
}

/* A call that is lost to all is a place less. */
static unsigned count_calls(void)
{
    const pycrew_function *function = function_of(h.crew, "steps_ops:ping");
    pycrew_call *calls[SLOTS];
    unsigned count = 0;

    while (count < SLOTS && pycrew_prepare(h.crew, function, 0, &calls[count]) == 0)
        count++;
    for (unsigned i = 0; i < count; i++)
        pycrew_release(calls[i]);
    return count;
}

static struct footprint look_around(void)
{
    struct footprint f = {.descriptors = count_directory("/proc/self/fd"), .calls = count_calls()};
    struct stat status;
    char path[64];

    for (uint32_t i = 0; i < h.segment.config.spans; i++) {
        uint32_t owner = atomic_load(&h.segment.span_owners[i]);

        f.host_spans += owner == PC_OWNER_HOST;
        f.worker_spans += owner != PC_OWNER_HOST && owner != PC_OWNER_FREE;
    }
    ASSERT(fstat(h.segment.fd, &status) == 0);
    f.blocks = (long)status.st_blocks;
    snprintf(path, sizeof path, "/proc/%d/fd", h.zygote);
    f.zygote_descriptors = count_directory(path);
    f.processes = count_processes();
    return f;
}

static bool same(const struct footprint *a, const struct footprint *b)
{
    return a->host_spans == b->host_spans && a->worker_spans == b->worker_spans &&
           a->blocks == b->blocks && a->calls == b->calls && a->descriptors == b->descriptors &&
           a->zygote_descriptors == b->zygote_descriptors && a->processes == b->processes;
}

static unsigned sleepers(void)
{
    unsigned count = 0;

    for (unsigned i = 0; i < PC_IDLE_WORDS; i++)
        count += (unsigned)__builtin_popcountll(atomic_load(&h.segment.header->idle[i]));
    return count;
}

/* Whoever has published that it sleeps may still look around for the last time, and find a call:
 * where that must be the first one's, they have to be asleep. */
static bool really_sleep(void)
{
    int pids[8], count = find_workers(pids, 8);
    struct tap_process process;

    for (int i = 0; i < count && i < 8; i++)
        if (!tap_read_process(pids[i], &process) || process.state != 'S')
            return false;
    return count == (int)h.workers;
}

static bool all_asleep(void)
{
    return sleepers() == h.workers && atomic_load(&h.segment.header->alive) == h.workers &&
           atomic_load(&h.segment.header->spinner) == 0 && (h.workers == 1 || really_sleep());
}

static void await_sleep(void)
{
    int64_t until = now_ns() + hang_ns();

    while (!all_asleep() && now_ns() < until)
        pause_ns(100 * US);
    if (!all_asleep())
        fault(&h.row->hung, "%u of %u workers sleep", sleepers(), h.workers);
}

/* No more memory than while large blocks are kept, and all else the same. */
static bool is_within(const struct footprint *f)
{
    struct footprint as = *f;

    as.host_spans = h.base.host_spans;
    as.worker_spans = h.base.worker_spans;
    as.blocks = h.base.blocks;
    return same(&as, &h.base) && f->host_spans <= h.kept.host_spans &&
           f->worker_spans <= h.kept.worker_spans && f->blocks <= h.kept.blocks;
}

/* Threads of the crew's are still tidying up: it may take a moment until all is as before. What is
 * kept goes after 100 ms: that is waited for now and then. */
static void check_footprint(bool exactly)
{
    int64_t until = now_ns() + hang_ns();
    struct footprint f = look_around(), *b = &h.base;

    while (!same(&f, b) && (exactly || !is_within(&f)) && now_ns() < until) {
        pause_ns(500 * US);
        f = look_around();
    }
    if (!exactly && is_within(&f))
        return;
    if (!same(&f, b))
        fault(&h.row->leaked,
              "left: spans %u/%u (were %u/%u), blocks %ld (%ld), calls %u (%u), descriptors %u "
              "(%u), of the zygote %u (%u), processes %u (%u)",
              f.host_spans, f.worker_spans, b->host_spans, b->worker_spans, f.blocks, b->blocks,
              f.calls, b->calls, f.descriptors, b->descriptors, f.zygote_descriptors,
              b->zygote_descriptors, f.processes, b->processes);
}

/* ---- what makes a process come by a region ----------------------------------------------------
 */

/* Until the process pauses in its region, or is out of it; or nothing goes on: another may have
 * taken the call. */
static void await_pause(void)
{
    uint64_t seen = UINT64_MAX;

    while (h.traced && trace_await(2 * SECOND) == TRACE_RUNNING && trace_progress() != seen)
        seen = trace_progress();
}

static void drive_add(void)
{
    submit(ADD, 0, true);
    collect_queued();
}

/* A reap that finds nothing looks at each of its calls once in 100 ms: with that just done, the
 * announcement alone can tell. */
static void drive_add_looked(void)
{
    pause_ns(101 * MS); /* since the last one's look */
    submit(ADD, 0, true);
    reap();
    collect_queued();
}

static void drive_add_waiting(void)
{
    collect_waiting(submit(ADD, 0, false));
}

static void drive_big(void)
{
    submit(BIG, BIG_SIZE, true);
    collect_queued();
}

static void drive_run(void)
{
    submit(BIG, RUN_SIZE, true);
    collect_queued();
}

static void drive_grow(void)
{
    submit(GROW, 0, true);
    collect_queued();
}

/* Gives a block back that the worker, asleep by then, finds in its next call. */
static void give_back(size_t size)
{
    submit(BIG, size, true);
    collect_queued();
    await_sleep();
    finish_calls();
}

static void before_big(void)
{
    give_back(BIG_SIZE);
}

static void before_run(void)
{
    give_back(RUN_SIZE);
}

/* The worker has spans for these sizes: to claim one has a region of its own. */
static void before_grow(void)
{
    call(GROW, 0);
    await_sleep();
}

/* The entry at the head is stale when the worker, stopped before its look, sees it. */
static void drive_stale(void)
{
    struct record *stale = submit(ADD, 0, true);

    await_pause();
    stale->cancelled = pycrew_cancel(stale->call) == 0;
    submit(ADD, 0, true);
    if (h.traced)
        trace_go();
    collect_queued();
}

/* Two calls come while the one worker spins and the other sleeps: nobody is woken for them but by
 * the spinner, which hands on. */
static void drive_hand_on(void)
{
    submit(ADD, 0, true);
    collect_queued();
    await_pause();
    submit(ADD, 0, true);
    submit(ADD, 0, true);
    if (h.traced)
        trace_go();
    collect_queued();
}

/* A call when the worker sleeps, stepped into its sleep. */
static void drive_sleep(void)
{
    int64_t since = now_ns();
    uint64_t seen = 0;

    submit(ADD, 0, true);
    collect_queued();
    while (!is_late(&since, &seen) && !all_asleep() &&
           (!h.traced || trace_await(MS) == TRACE_RUNNING))
        pause_ns(100 * US);
    submit(ADD, 0, true);
    collect_queued();
}

/* ---- arrays ---- */

static pycrew_array new_array(double value)
{
    double *elements = pycrew_alloc(h.crew, ELEMENTS * sizeof *elements);
    pycrew_array array;

    ASSERT(elements != NULL);
    for (size_t i = 0; i < ELEMENTS; i++)
        elements[i] = value;
    OK(pycrew_array_init(&array, elements, PYCREW_F64, 1, (int64_t[]){ELEMENTS}, 0));
    return array;
}

static unsigned host_spans(void)
{
    return look_around().host_spans;
}

/* An array from the host in, one of pycrew.empty out. The argument is freed while the call has it.
 */
static void drive_array(void)
{
    pycrew_array array = new_array(h.next_mark);

    submit_array(COPY, &array, h.next_mark);
    pycrew_free(h.crew, array.data);
    collect_queued();
}

/* The worker has a span for cells then, whose first claim takes ten thousands of instructions. */
static void before_array(void)
{
    drive_array();
    await_sleep();
    finish_calls();
}

/* The result outlives its call, and its worker if that dies, and is the next call's argument. */
static void drive_taken(void)
{
    double value = h.next_mark;
    pycrew_array array = new_array(value), taken;
    struct record *r = submit_array(COPY, &array, value);

    r->take = true;
    pycrew_free(h.crew, array.data);
    collect_queued();
    taken = r->taken;
    finish_calls();
    if (taken.data == NULL)
        return;
    submit_array(COPY, &taken, value);
    collect_queued();
    finish_calls();
    if (!all_are(&taken, value))
        fault(&h.row->untrue, "a taken array changed");
    pycrew_array_drop(h.crew, &taken);
}

/* What was taken goes back to the worker, which sleeps by then. */
static void before_given_back(void)
{
    pycrew_array array = new_array(h.next_mark), taken;
    struct record *r = submit_array(COPY, &array, h.next_mark);

    r->take = true;
    pycrew_free(h.crew, array.data);
    collect_queued();
    await_sleep();
    taken = r->taken;
    finish_calls();
    pycrew_array_drop(h.crew, &taken);
}

/* So many deaths to an exact look at the memory. */
static bool is_exact(void)
{
    return h.row->kills % EXACTLY == 0;
}

/* Not by the next death, which would free all; but the sweep of this one may be on its way. Behind
 * a death the exact look is for check_footprint(). */
static void check_host_spans(unsigned before)
{
    int64_t until = now_ns() + hang_ns();
    bool first = h.base.processes == 0; /* the host keeps spans for small blocks from then on */
    bool died = h.traced && trace_await(0) == TRACE_KILLED;
    unsigned most = before + (died ? h.kept.host_spans - h.base.host_spans : 0);

    while (!first && host_spans() > most && now_ns() < until)
        pause_ns(100 * US);
    if (!first && host_spans() > most)
        fault(&h.row->leaked, "%u spans of the host's became %u", before, host_spans());
}

/* Python keeps a view of the argument, whose memory the host frees, and takes anew. What the view
 * shows stays what it is; and when it is gone the memory is free again at once, with no death. */
static void drive_kept(void)
{
    double value = h.next_mark;
    unsigned before = host_spans();
    pycrew_array array = new_array(value), other;

    submit_array(KEEP, &array, value);
    collect_queued();
    finish_calls(); /* nobody has it from here on but Python */
    pycrew_free(h.crew, array.data);
    other = new_array(-value);
    submit(KEPT, 0, true)->value = value;
    collect_queued();
    submit(LET_GO, 0, true);
    collect_queued();
    finish_calls();
    pycrew_free(h.crew, other.data);
    check_host_spans(before);
}

/* ---- coroutines ---- */

static void drive_await(void)
{
    submit(AWAIT, 0, true);
    collect_queued();
}

static void drive_at_once(void)
{
    submit(AT_ONCE, 0, true);
    collect_queued();
}

/* The worker has its event loop, and the waiter. */
static void before_await(void)
{
    call(AWAIT, 0);
    await_sleep();
}

/* Of one death one call is blamed, or all where none's code ran. */
static void check_blame(void)
{
    unsigned beside = 0, charged = 0;

    for (unsigned i = 0; i < h.count; i++) {
        beside += h.records[i].beside;
        charged += h.records[i].charged;
    }
    if (beside > 0 && charged > 1)
        fault(&h.row->untrue, "%u calls are to blame for one death, and %u are not", charged,
              beside);
}

/* The turn claims the others while the first one waits. */
static void drive_several(void)
{
    submit(AWAIT, 0, true);
    submit(AT_ONCE, 0, true);
    submit(ADD, 0, true);
    submit(AWAIT, 0, true);
    collect_queued();
    check_blame();
}

/* Two that wait, in a worker that sleeps in its event loop. It may die before. */
static struct record *submit_waiting(void)
{
    struct record *r = submit(WAIT, 0, true);
    uint32_t last = submit(WAIT, 0, true)->index;
    int64_t since = now_ns();
    uint64_t seen = 0;

    while (!(h.marks[last] > 0 && all_asleep()) && !is_late(&since, &seen) &&
           (!h.traced || trace_await(0) == TRACE_RUNNING))
        pause_ns(100 * US);
    return r;
}

/* It is woken for others. */
static void drive_wake(void)
{
    submit_waiting();
    submit(ADD, 0, true);
    submit(OPEN_GATES, 0, true);
    collect_queued();
    check_blame();
}

/* One of two that wait is cancelled. */
static void drive_cancel(void)
{
    struct record *r = submit_waiting();

    r->stopped = pycrew_cancel(r->call) == 0;
    collect_until(r);
    submit(OPEN_GATES, 0, true);
    collect_queued();
    check_blame();
}

/* ---- actors ---- */

/* In the worker there is now. */
static void need_actor(void)
{
    int rc = h.actor == NULL ? pycrew_actor_open(h.crew, &h.actor, BOUND, "steps_ops:Counter", "L",
                                                 (long long)new_mark())
                             : pycrew_actor_reopen(h.actor, BOUND);

    if (rc == 0)
        h.counted = 0;
    else if (rc != -EALREADY)
        fault(&h.row->untrue, "no actor can be made: %d (%s)", rc, pycrew_last_error()->message);
}

static void before_actor(void)
{
    need_actor();
    await_sleep();
}

/* Its calls run in their order. */
static void drive_actor(void)
{
    need_actor();
    for (unsigned i = 0; i < 3; i++)
        submit(COUNT, (size_t)++h.counted, true);
    collect_queued();
}

/* Until no call is in flight, also of those that nobody waits for. */
static void await_quiet(void)
{
    pycrew_stats stats = PYCREW_STATS_INIT;
    int64_t since = now_ns();
    uint64_t seen = 0;

    do
        OK(pycrew_stats_get(h.crew, &stats));
    while (stats.in_flight > 0 && !is_late(&since, &seen) && (pause_ns(200 * US), true));
    if (stats.in_flight > 0)
        fault(&h.row->lost, "%u calls that were let go do not end", stats.in_flight);
}

static void drive_actor_open(void)
{
    pycrew_actor *actor = NULL;
    uint32_t index = new_mark();
    int rc = pycrew_actor_open(h.crew, &actor, 6 * hang_ns(), "steps_ops:Counter", "L",
                               (long long)index);

    check_marks(index, rc == 0);
    if (rc < 0 && rc != PYCREW_EDIED)
        fault(rc == -ETIMEDOUT ? &h.row->hung : &h.row->untrue, "an actor's opening ended with %d",
              rc);
    if (rc == PYCREW_EDIED && !pycrew_last_error()->may_have_run && h.marks[index] > 0)
        fault(&h.row->untrue, "an actor was made, and may_have_run is false");
    rc == 0 ? h.row->returned++ : h.row->died++;
    pycrew_actor_close(actor);
    await_quiet();
}

/* The call that drops the object is nobody's. */
static void drive_actor_close(void)
{
    need_actor();
    pycrew_actor_close(h.actor);
    h.actor = NULL;
    await_quiet();
}

/* ---- streams ---- */

struct stream {
    pycrew_call *call;
    uint32_t index, first; /* marks: the function's, the first item's */
    unsigned count, given;
    bool over;
};

static struct stream submit_stream(unsigned count, unsigned window, bool queued)
{
    struct stream s = {.index = new_mark(), .count = count};

    s.first = h.next_mark + 1;
    for (unsigned i = 0; i <= count; i++)
        new_mark();
    s.call = prepare(h.crew, "steps_ops:items");
    OK(pycrew_set_stream(s.call, window));
    OK(pycrew_add(s.call, "LLL", (long long)s.index, (long long)s.first, (long long)count));
    if (queued)
        OK(pycrew_set_queue(s.call, h.queue));
    OK(pycrew_submit(s.call));
    return s;
}

static void check_item(const struct stream *s)
{
    uint32_t index = s->first + s->given;
    long long value = -1;

    check_marks(index, true);
    if (pycrew_result(s->call, "L", &value) < 0 || value != (long long)index)
        fault(&h.row->untrue, "item %u of a stream is %lld, not %u", s->given, value, index);
}

static void check_end(const struct stream *s, int rc)
{
    const pycrew_error *e = pycrew_call_error(s->call);
    uint32_t next = s->first + s->given;

    check_marks(s->index, s->given > 0 || rc == 0);
    for (unsigned i = s->given; i < s->count; i++)
        check_marks(s->first + i, false);
    if (rc == 0 && s->given == s->count) {
        h.row->returned++;
    } else if (rc != PYCREW_EDIED || e == NULL || e->signal != SIGKILL) {
        fault(&h.row->untrue, "a stream ended with %d (%s) behind %u items", rc,
              e != NULL ? e->message : "", s->given);
    } else {
        e->may_have_run ? h.row->died++ : h.row->died_before++;
        if (!e->may_have_run && h.marks[next] > 0) /* it is said of the item */
            fault(&h.row->untrue, "an item was made, and may_have_run is false");
    }
}

/* All that is there. */
static void take_items(struct stream *s)
{
    int rc = 1;

    while (!s->over && (rc = pycrew_next(s->call, 0)) == 1) {
        check_item(s);
        s->given++;
    }
    if (s->over || rc == -ETIME)
        return;
    check_end(s, rc);
    s->over = true;
}

/* Told by the queue alone that there is something to be had. */
static void drive_items_of_stream(unsigned count)
{
    struct pollfd poll_queue = {.fd = pycrew_queue_fd(h.queue), .events = POLLIN};
    struct stream s = submit_stream(count, 2, true);
    int64_t since = now_ns();
    uint64_t seen = 0;
    pycrew_call *call;

    while (!s.over && !is_late(&since, &seen))
        if (poll(&poll_queue, 1, 1000) > 0 && pycrew_queue_reap(h.queue, &call, 1, 0) == 1)
            take_items(&s);
    if (!s.over)
        fault(&h.row->lost, "a stream is lost behind %u items", s.given);
    pycrew_release(s.call);
    await_quiet();
}

static void drive_stream(void)
{
    drive_items_of_stream(3);
}

static void drive_empty_stream(void)
{
    drive_items_of_stream(0);
}

/* Its first item has been taken. */
static void before_drop(void)
{
    struct stream s = submit_stream(3, 1, false);

    OK(pycrew_next(s.call, BOUND) - 1);
    h.stream = s.call;
    await_sleep();
}

/* Given up in the middle: the generator is closed where it is, by a call that is nobody's. */
static void drive_drop(void)
{
    if (h.stream == NULL)
        before_drop();
    pycrew_release(h.stream);
    h.stream = NULL;
    await_quiet();
}

/* ---- Python asks the host ---- */

static void drive_ask(void)
{
    struct record *r = submit(ASK, 0, true);

    r->size = r->index;
    collect_queued();
}

/* It knows by now what the host exports. */
static void before_ask(void)
{
    drive_ask();
    finish_calls();
    await_sleep();
}

static void drive_ask_big(void)
{
    submit(ASK_BIG, ASKED_SIZE, true);
    collect_queued();
}

static void before_ask_big(void)
{
    drive_ask_big();
    finish_calls();
    await_sleep();
}

/* ---- the end of a worker's life ---- */

/* Calls until it has been replaced. */
static void drive_life(void)
{
    enum trace_state state = TRACE_RUNNING;

    for (unsigned i = 0; i < MAX_CALLS && state == TRACE_RUNNING; i++) {
        submit(ADD, 0, true);
        collect_queued();
        finish_calls();
        state = h.traced ? trace_await(0) : TRACE_RUNNING;
    }
}

/* ---- maps ---- */

/* Each wait of a map's is bounded by this alone. */
static int stop_if_late(void *data, const pycrew_progress *progress)
{
    struct {
        int64_t since;
        uint64_t seen;
    } *last = data;

    (void)progress;
    return is_late(&last->since, &last->seen);
}

static void check_elements(const long long *from, const long long *to, const int *failed, int count)
{
    int told = 0;

    for (unsigned i = 0; i < ITEMS; i++) {
        told += failed[i] != 0;
        check_marks((uint32_t)from[i], failed[i] == 0);
        if (to[i] != (failed[i] != 0 ? -1 : from[i] + 7))
            fault(&h.row->untrue, "element %lld: %lld (%d)", from[i], to[i], failed[i]);
        if (failed[i] != 0 && failed[i] != PYCREW_EDIED)
            fault(&h.row->untrue, "element %lld ended with %d", from[i], failed[i]);
        failed[i] != 0 ? h.row->died++ : h.row->returned++;
    }
    if (told != count)
        fault(&h.row->untrue, "%d elements failed, and %d were told", told, count);
}

/* One chunk of columns in the crew's memory. A death costs an element, or a slice, at most. */
static void drive_map(const char *function, unsigned flags)
{
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    long long *columns = pycrew_alloc(h.crew, 2 * ITEMS * sizeof *columns), minus = -1;
    int64_t last[2] = {now_ns(), 0}, shape = ITEMS;
    pycrew_array input, output;
    int failed[ITEMS], count;

    ASSERT(columns != NULL);
    OK(pycrew_array_init(&input, columns, PYCREW_I64, 1, &shape, 0));
    OK(pycrew_array_init(&output, columns + ITEMS, PYCREW_I64, 1, &shape, 0));
    for (unsigned i = 0; i < ITEMS; i++)
        columns[i] = new_mark();
    options.flags = flags;
    options.chunk = ITEMS;
    options.on_error = PYCREW_MAP_FILL;
    options.fill = &minus;
    options.failed = failed;
    options.progress = stop_if_late;
    options.progress_data = last;
    count = pycrew_map(h.crew, function_of(h.crew, function), &input, 1, &output, &options);
    if (count < 0)
        fault(count == -ECANCELED ? &h.row->hung : &h.row->untrue, "a map ended with %d", count);
    else
        check_elements(columns, columns + ITEMS, failed, count);
    if (count > (flags ? ITEMS : 1))
        fault(&h.row->untrue, "one death cost %d elements", count);
    pycrew_free(h.crew, columns);
}

static void drive_elements(void)
{
    drive_map("steps_ops:element", 0);
}

static void drive_slice(void)
{
    drive_map("steps_array_ops:slice", PYCREW_MAP_WHOLE);
}

static void drive_die(void)
{
    submit(DIE, 0, true);
    collect_queued();
}

/* The worker falls asleep, and is told to leave. Whoever dies, the reload goes on. */
static void drive_reload(void)
{
    int64_t since = now_ns();
    uint64_t seen = 0;
    int rc;

    submit(ADD, 0, true);
    collect_queued();
    while (!is_late(&since, &seen) && !all_asleep() &&
           (!h.traced || trace_await(MS) == TRACE_RUNNING))
        pause_ns(100 * US);
    rc = pycrew_reload(h.crew, hang_ns());
    if (rc != 0)
        fault(rc == -ETIME ? &h.row->hung : &h.row->untrue, "a reload ended with %d (%s)", rc,
              pycrew_last_error()->message);
}

static void take_item(pycrew_batch *batch, uint32_t first, size_t size, unsigned *died)
{
    const pycrew_error *e = pycrew_batch_error(batch);
    uint32_t index = first + (uint32_t)pycrew_batch_index(batch);
    const uint8_t *data;
    size_t got;
    long long sum;

    check_marks(index, e == NULL);
    if (e != NULL) {
        struct record item = {.kind = ADD, .index = index};

        ++*died;
        check_error(&item, e, h.marks[index]);
        return;
    }
    h.row->returned++;
    if (size == 0) {
        if (pycrew_batch_result(batch, "L", &sum) < 0 || sum != (long long)index + 7)
            fault(&h.row->untrue, "item %u returned a wrong sum", index);
    } else if (pycrew_batch_result(batch, "y#", &data, &got) < 0 || got != size ||
               data[0] != index % 251 || memcmp(data, data + 1, size - 1) != 0) {
        fault(&h.row->untrue, "item %u returned wrong bytes", index);
    }
}

/* One chunk of items. A death costs one item at most. */
static void drive_items(size_t size)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;
    uint32_t first = h.next_mark + 1;
    unsigned count = 0, died = 0;
    int rc;

    options.chunk = ITEMS;
    OK(pycrew_batch_open(h.crew, function_of(h.crew, size ? "steps_ops:big" : "steps_ops:add"),
                         &options, &batch));
    for (unsigned i = 0; i < ITEMS; i++) {
        long long index = new_mark();

        if (size > 0)
            OK(pycrew_batch_add(batch, "Ln", index, (ptrdiff_t)size));
        else
            OK(pycrew_batch_add(batch, "LLL", index, index, 7LL));
    }
    OK(pycrew_batch_end(batch));
    while ((rc = next_item(batch)) == 1 && count < 2 * ITEMS) {
        take_item(batch, first, size, &died);
        count++;
    }
    if (count < ITEMS || rc < 0)
        fault(&h.row->lost, "a batch of %d items gave %u, then %d", ITEMS, count, rc);
    if (count > ITEMS)
        fault(&h.row->doubled, "a batch of %d items gave %u", ITEMS, count);
    if (died > 1)
        fault(&h.row->untrue, "one death cost %u items", died);
    pycrew_batch_close(batch);
}

static void drive_chunk(void)
{
    drive_items(0);
}

static void drive_chunk_of_bytes(void)
{
    drive_items(3000);
}

static void before_chunk_of_bytes(void)
{
    drive_items(3000);
    await_sleep();
}

/* ---- one death after the other ----------------------------------------------------------------
 */

static void map_segment(void)
{
    char path[64], target[256];

    for (int fd = 3; fd < 256; fd++) {
        ssize_t size;

        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        size = readlink(path, target, sizeof target - 1);
        target[size < 0 ? 0 : size] = '\0';
        if ((strncmp(target, "/dev/shm/", 9) == 0 || strncmp(target, "/memfd:", 7) == 0) &&
            pc_segment_map(&h.segment, fd) == 0)
            return;
    }
    tap_fail("the crew's segment is not found");
}

static void make_marks(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    ASSERT(fd >= 0 && ftruncate(fd, MARKS) == 0);
    h.marks = mmap(NULL, MARKS, PROT_READ, MAP_SHARED, fd, 0);
    h.asked = mmap(NULL, MARKS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(h.marks != MAP_FAILED && h.asked != MAP_FAILED);
    close(fd);
}

static int twice(void *data, pycrew_host_call *call)
{
    long long index;
    int rc = pycrew_host_arguments(call, "L", &index);

    (void)data;
    if (rc < 0)
        return rc;
    atomic_fetch_add(&h.asked[index], 1);
    return pycrew_host_return(call, "L", 2 * index);
}

/* The same bytes. */
static int turn(void *data, pycrew_host_call *call)
{
    long long index;
    const uint8_t *bytes;
    size_t size;
    int rc = pycrew_host_arguments(call, "Ly#", &index, &bytes, &size);

    (void)data;
    if (rc < 0)
        return rc;
    atomic_fetch_add(&h.asked[index], 1);
    if (size == 0 || bytes[0] != index % 251 || memcmp(bytes, bytes + 1, size - 1) != 0)
        return pycrew_host_fail(call, "ValueError", "wrong bytes");
    return pycrew_host_return(call, "y#", bytes, (ptrdiff_t)size);
}

static void open_host(const struct scenario *s)
{
    static char variable[256];
    static const char *preload[] = {"steps_ops", NULL, NULL}, *env[] = {variable, NULL};
    const char *marks = scratch("marks");
    pycrew_options options = test_options(s->workers);

    make_marks(marks);
    snprintf(variable, sizeof variable, "PYCREW_STEPS_MARKS=%s", marks);
    /* numpy and asyncio take their time */
    preload[1] = s->arrays ? "steps_array_ops" : s->coroutines ? "steps_async_ops" : NULL;
    options.preload = preload;
    options.max_calls_per_worker = s->max_calls;
    options.grace_ns = hang_ns(); /* who is stepped is slow */
    options.env = env;
    options.calls = SLOTS;
    options.memory = 64 << 20;
    options.retries = 0;
    h.workers = s->workers;
    h.crew = open_with(&options);
    h.zygote = find_zygote();
    OK(pycrew_queue_open(h.crew, &h.queue));
    OK(pycrew_export(h.crew, "twice", twice, NULL));
    OK(pycrew_export(h.crew, "turn", turn, NULL));
    map_segment();
}

static void close_host(void)
{
    pycrew_queue_close(h.queue);
    h.segment.fd = -1; /* the crew's */
    pc_segment_unmap(&h.segment);
    pycrew_close(h.crew);
    munmap(h.marks, MARKS);
    munmap((void *)h.asked, MARKS);
}

/* The crew works on, and whoever has died is replaced: the PID of the worker that the next call
 * goes to. again: that one dies, too. A place whose workers die young and without a call waits for
 * the next start, longer each time, which a death in a call ends; and a worker that has run a dead
 * one's call may keep a span for the next, which one that is new does not have. */
static int settle(bool again)
{
    int64_t begin = now_ns();
    struct record ping = call(PING, 0);

    if (now_ns() - begin > h.row->slowest_ns)
        h.row->slowest_ns = now_ns() - begin;
    await_sleep();
    if (again) {
        call(DIE, 0); /* where several sleep the first is woken: the one that died */
        await_sleep();
    }
    if (again || h.workers > 1) {
        ping = call(PING, 0);
        await_sleep();
    }
    return ping.pid;
}

/* When there is one: a reload's old one may still be there, on its way out. Not by whether its PID
 * can be sent to: one that has died and is not reaped yet can. */
static void find_new_zygote(void)
{
    int64_t until = now_ns() + hang_ns();

    do
        h.zygote = find_zygote();
    while ((h.zygote == 0 || count_processes() > h.workers + 1) && now_ns() < until &&
           (pause_ns(500 * US), true));
}

/* The other thread of a worker that has an event loop. */
static int waiter_of(int pid)
{
    char path[64];
    DIR *directory;
    int waiter = 0;

    snprintf(path, sizeof path, "/proc/%d/task", pid);
    directory = opendir(path);
    for (struct dirent *entry; directory != NULL && (entry = readdir(directory)) != NULL;)
        if (tap_number(entry->d_name) > 0 && tap_number(entry->d_name) != pid)
            waiter = tap_number(entry->d_name);
    if (directory != NULL)
        closedir(directory);
    return waiter;
}

static struct trace_plan plan_of(const struct scenario *s, int pid, uint64_t k)
{
    bool is_worker = s->who == WORKER || s->who == WAITER;

    return (struct trace_plan){.pid = !is_worker         ? h.zygote
                                      : s->who == WAITER ? waiter_of(pid)
                                                         : pid,
                               .own_child = !is_worker,
                               .start = s->start,
                               .end = s->end,
                               .pause = s->pause,
                               .pause_at_start = s->pause_at_start,
                               .kill_at = k,
                               .repeats = s->repeats ? s->repeats : 3,
                               .outside = s->outside ? s->outside : 30};
}

static void note_kill(const struct trace_result *result)
{
    uint64_t key = image_key(result->address);
    bool outside = image_kind_of(result->address) != IMAGE_OURS;

    h.row->kills++;
    if (insert(h.keys, key)) {
        h.row->instructions++;
        h.row->outside += outside;
    }
    if (insert(table->keys, key)) {
        table->instructions++;
        table->outside += outside;
    }
}

/* One drive, with a death after k instructions if the region is that long. */
static struct trace_result drive_traced(const struct scenario *s, int pid, uint64_t k,
                                        int64_t timeout_ns)
{
    struct trace_plan plan;
    struct trace_result result;

    if (s->before != NULL)
        s->before();
    plan = plan_of(s, pid, k); /* the waiter is there by now */
    if (trace_begin(&plan) == TRACE_REFUSED)
        SKIP("ptrace is not permitted here, or this is not x86-64");
    h.traced = true;
    s->drive();
    h.traced = false;
    if (!trace_finish(timeout_ns, &result))
        fault(&h.row->hung, "the stepping does not end");
    finish_calls();
    return result;
}

/* False: there is nothing more to do. */
static bool step(const struct scenario *s, int *pid, uint64_t k)
{
    struct trace_result result = {.state = TRACE_MISSED};
    const char *unread = image_read(h.zygote);

    if (unread != NULL)
        SKIP("%s", unread);
    for (unsigned try = 0; result.state == TRACE_MISSED && try < 4; try++) {
        if (try > 0) {
            *pid = settle(true);
            find_new_zygote();
            image_read(h.zygote);
        }
        result = drive_traced(s, *pid, k, hang_ns() / 8 << try);
    }
    if (result.state == TRACE_KILLED)
        note_kill(&result);
    else if (result.state != TRACE_ENDED)
        fault(&h.row->hung, "it did not come through the region (%d)", (int)result.state);
    *pid = settle(s->again || result.state != TRACE_KILLED);
    find_new_zygote();
    check_footprint(result.state != TRACE_KILLED || is_exact());
    if (h.faults[0] == '\0')
        return result.state == TRACE_KILLED;
    DIAG("%s: after %llu instructions, at %s: %s", s->name, (unsigned long long)k,
         result.address ? image_name(result.address) : "-", h.faults);
    return false;
}

/* The second look is when nothing is kept any more. */
static void note_base(void)
{
    h.kept = look_around();
    pause_ns(3 * PC_KEEP_NS);
    h.base = look_around();
}

static bool has_numpy(void)
{
    const char *python = getenv("PYTHON");
    char command[512];

    snprintf(command, sizeof command, "%s -c 'import numpy' 2>/dev/null",
             python != NULL ? python : "python3");
    return system(command) == 0;
}

static void start_row(const struct scenario *s)
{
    unsigned i;

    for (i = 0; i < table->count && strcmp(table->rows[i].name, s->name) != 0; i++)
        continue;
    table->count = i < table->count ? table->count : i + 1;
    h.row = &table->rows[i];
    memset(h.row, 0, sizeof *h.row);
    snprintf(h.row->name, sizeof h.row->name, "%s", s->name);
}

static void run_scenario(const struct scenario *s)
{
    unsigned stride = table->stride ? table->stride : s->sample;
    int64_t begin = now_ns();
    int pid;

    if (s->arrays && !has_numpy())
        SKIP("numpy is not installed");
    start_row(s);
    open_host(s);
    trace_open();
    s->drive();
    finish_calls();
    pid = settle(true);
    find_new_zygote();
    note_base();
    h.row->returned = 0;
    h.row->slowest_ns = 0;
    for (uint64_t k = table->seed % stride; step(s, &pid, k); k += stride)
        continue;
    trace_close();
    close_host();
    h.row->took_ns = now_ns() - begin;
    ASSERT_STR(h.faults, "");
    ASSERT(h.row->kills > 0);
}

/* ---- the regions ------------------------------------------------------------------------------
 */

#define AT(name) ((struct place){PLACE_ENTRY, name})
#define AFTER(name) ((struct place){PLACE_RETURN, name})

enum { LIMIT_S = 900 };

TEST_LIMIT(a_worker_dies_while_it_claims, LIMIT_S)
{
    run_scenario(&(struct scenario){"claim", WORKER, 1, AT("pc_ring_claim"), AFTER("pc_ring_claim"),
                                    .again = true, .sample = 9, .drive = drive_add});
}

TEST_LIMIT(a_worker_dies_while_it_claims_past_a_cancelled_call, LIMIT_S)
{
    run_scenario(&(struct scenario){"claim past a stale entry", WORKER, 1, AT("pc_ring_claim"),
                                    AFTER("pc_ring_claim"), .pause_at_start = true, .again = true,
                                    .sample = 15, .drive = drive_stale});
}

TEST_LIMIT(a_worker_dies_between_the_claim_and_the_functions_end, LIMIT_S)
{
    run_scenario(&(struct scenario){"decode, enter, call", WORKER, 1, AFTER("pc_ring_claim"),
                                    AT("pc_encode"), .sample = 25, .drive = drive_add});
}

TEST_LIMIT(a_worker_dies_while_it_publishes, LIMIT_S)
{
    run_scenario(&(struct scenario){"encode, publish", WORKER, 1, AT("pc_encode"),
                                    AFTER("pc_slot_finish"), .sample = 11, .drive = drive_add});
}

TEST_LIMIT(a_worker_dies_while_it_announces, LIMIT_S)
{
    run_scenario(&(struct scenario){"announce, eventfd", WORKER, 1, AT("pc_slot_finish"),
                                    AT("pc_ring_claim"), .again = true, .sample = 35,
                                    .drive = drive_add_looked});
}

TEST_LIMIT(a_worker_dies_while_it_wakes_the_waiting_thread, LIMIT_S)
{
    run_scenario(&(struct scenario){"announce, semaphore", WORKER, 1, AT("pc_slot_finish"),
                                    AT("pc_ring_claim"), .again = true, .sample = 9,
                                    .drive = drive_add_waiting});
}

TEST_LIMIT(a_worker_dies_while_it_announces_a_result_in_its_memory, LIMIT_S)
{
    run_scenario(&(struct scenario){"announce, leased result", WORKER, 1, AT("pc_slot_finish"),
                                    AT("pc_ring_claim"), .again = true, .sample = 40,
                                    .drive = drive_big});
}

TEST_LIMIT(a_worker_dies_on_its_way_to_sleep, LIMIT_S)
{
    run_scenario(&(struct scenario){"spin, idle publish", WORKER, 1, AT("pc_heap_take_back"),
                                    AT("pc_sleeper_wait"), .again = true, .repeats = 2,
                                    .sample = 35, .drive = drive_add});
}

TEST_LIMIT(a_worker_dies_while_it_sleeps_and_wakes, LIMIT_S)
{
    run_scenario(&(struct scenario){"sleep, wake, retract", WORKER, 1, AT("pc_sleeper_wait"),
                                    AFTER("pc_ring_claim"), .again = true, .outside = 200,
                                    .sample = 25, .drive = drive_sleep});
}

TEST_LIMIT(a_worker_dies_while_it_hands_on, LIMIT_S)
{
    run_scenario(&(struct scenario){"spin, claim, hand on", WORKER, 2, AT("pc_idle_spin"),
                                    AT("pc_encode"), .pause = AT("pc_ring_await"), .again = true,
                                    .repeats = 2, .sample = 70, .drive = drive_hand_on});
}

TEST_LIMIT(a_worker_dies_while_it_claims_a_span, LIMIT_S)
{
    run_scenario(&(struct scenario){"span claim, block", WORKER, 1, AT("pc_heap_alloc"),
                                    AFTER("pc_heap_alloc"), .repeats = 1, .sample = 60,
                                    .drive = drive_big});
}

TEST_LIMIT(a_worker_dies_while_it_claims_a_run_of_spans, LIMIT_S)
{
    run_scenario(&(struct scenario){"span run claim", WORKER, 1, AFTER("pc_budget_cgroup"),
                                    AT("pc_slot_finish"), .sample = 30, .drive = drive_run});
}

TEST_LIMIT(a_worker_dies_while_its_result_grows, LIMIT_S)
{
    run_scenario(&(struct scenario){"encode, grow, free", WORKER, 1, AT("pc_encode"),
                                    AT("pc_slot_finish"), .repeats = 2, .sample = 80,
                                    .before = before_grow, .drive = drive_grow});
}

TEST_LIMIT(a_worker_dies_while_it_takes_a_block_back, LIMIT_S)
{
    run_scenario(&(struct scenario){"block give-back", WORKER, 1, AT("pc_heap_take_back"),
                                    AFTER("pc_heap_alloc"), .sample = 25, .before = before_big,
                                    .drive = drive_big});
}

TEST_LIMIT(a_worker_dies_while_it_takes_a_run_of_spans_back, LIMIT_S)
{
    run_scenario(&(struct scenario){"span run give-back", WORKER, 1, AT("pc_heap_take_back"),
                                    AFTER("pc_heap_take_back"), .sample = 15, .before = before_run,
                                    .drive = drive_run});
}

TEST_LIMIT(a_worker_dies_in_a_chunk, LIMIT_S)
{
    run_scenario(&(struct scenario){"chunk", WORKER, 1, AFTER("pc_ring_claim"),
                                    AFTER("pc_slot_finish"), .repeats = ITEMS, .again = true,
                                    .sample = 130, .drive = drive_chunk});
}

TEST_LIMIT(a_worker_dies_in_a_chunk_with_results_in_its_memory, LIMIT_S)
{
    run_scenario(&(struct scenario){"chunk, results in blocks", WORKER, 1, AFTER("pc_ring_claim"),
                                    AFTER("pc_slot_finish"), .repeats = 1, .again = true,
                                    .sample = 200, .before = before_chunk_of_bytes,
                                    .drive = drive_chunk_of_bytes});
}

TEST_LIMIT(a_worker_dies_in_a_call_with_arrays, LIMIT_S)
{
    run_scenario(&(struct scenario){"array in, array out", WORKER, 1, AFTER("pc_ring_claim"),
                                    AFTER("pc_slot_finish"), .arrays = true, .again = true,
                                    .sample = 200, .before = before_array, .drive = drive_array});
}

TEST_LIMIT(a_worker_dies_while_it_makes_an_array, LIMIT_S)
{
    run_scenario(&(struct scenario){"pycrew.empty", WORKER, 1, AT("empty"), AFTER("empty"),
                                    .arrays = true, .again = true, .sample = 240,
                                    .drive = drive_array});
}

TEST_LIMIT(a_worker_dies_while_it_announces_an_array_that_is_taken, LIMIT_S)
{
    run_scenario(&(struct scenario){"announce, taken array", WORKER, 1, AT("pc_slot_finish"),
                                    AT("pc_ring_claim"), .arrays = true, .again = true,
                                    .sample = 40, .drive = drive_taken});
}

TEST_LIMIT(a_worker_dies_while_it_takes_an_array_back, LIMIT_S)
{
    run_scenario(&(struct scenario){"array give-back", WORKER, 1, AT("pc_heap_take_back"),
                                    AFTER("pc_heap_take_back"), .arrays = true, .again = true,
                                    .sample = 25, .before = before_given_back,
                                    .drive = drive_taken});
}

TEST_LIMIT(a_worker_dies_while_it_retains_an_argument, LIMIT_S)
{
    run_scenario(&(struct scenario){"retain, publish", WORKER, 1, AT("pc_array_end_call"),
                                    AFTER("pc_slot_finish"), .arrays = true, .again = true,
                                    .sample = 25, .drive = drive_kept});
}

TEST_LIMIT(a_worker_dies_while_it_lets_go_of_an_argument, LIMIT_S)
{
    run_scenario(&(struct scenario){"let go", WORKER, 1, AT("memory_dealloc"),
                                    AFTER("memory_dealloc"), .arrays = true, .again = true,
                                    .sample = 25, .drive = drive_kept});
}

TEST_LIMIT(a_worker_dies_in_a_maps_chunk, LIMIT_S)
{
    run_scenario(&(struct scenario){"map, elements", WORKER, 1, AFTER("pc_ring_claim"),
                                    AFTER("pc_slot_finish"), .repeats = 2, .again = true,
                                    .sample = 130, .drive = drive_elements});
}

TEST_LIMIT(a_worker_dies_in_a_maps_slice, LIMIT_S)
{
    run_scenario(&(struct scenario){"map, slice", WORKER, 1, AFTER("pc_ring_claim"),
                                    AFTER("pc_slot_finish"), .arrays = true, .again = true,
                                    .sample = 260, .drive = drive_slice});
}

TEST_LIMIT(the_zygote_dies_while_it_forks, LIMIT_S)
{
    run_scenario(&(struct scenario){"zygote: fork, hand over", ZYGOTE, 1, AT("pc_control_receive"),
                                    AT("ppoll"), .again = true, .outside = 100000, .repeats = 2,
                                    .sample = 80, .drive = drive_die});
}

/* What was inlined into it waits there in ppoll for the death of a worker. */
TEST_LIMIT(the_zygote_dies_while_it_reaps, LIMIT_S)
{
    run_scenario(&(struct scenario){"zygote: reap",
                                    ZYGOTE,
                                    1,
                                    {PLACE_WAKE, "pc_worker_main"},
                                    AT("ppoll"),
                                    .again = true,
                                    .repeats = 2,
                                    .sample = 80,
                                    .drive = drive_die});
}

TEST_LIMIT(a_worker_dies_between_its_fork_and_its_admission, LIMIT_S)
{
    run_scenario(&(struct scenario){"child: fork to admission",
                                    CHILD,
                                    1,
                                    {PLACE_CHILD, "fork"},
                                    AT("pc_loop_run"),
                                    .again = true,
                                    .sample = 150,
                                    .drive = drive_die});
}

TEST_LIMIT(a_worker_dies_while_it_leaves, LIMIT_S)
{
    run_scenario(&(struct scenario){"told to leave, leave", WORKER, 1, AT("pc_sleeper_wait"),
                                    AT("pc_interpreter_end"), .again = true, .outside = 200,
                                    .sample = 40, .drive = drive_reload});
}

TEST_LIMIT(the_old_zygote_dies_while_it_reaps_for_a_reload, LIMIT_S)
{
    run_scenario(&(struct scenario){"zygote: reap for a reload",
                                    ZYGOTE,
                                    1,
                                    {PLACE_WAKE, "pc_worker_main"},
                                    AT("ppoll"),
                                    .again = true,
                                    .repeats = 2,
                                    .sample = 60,
                                    .drive = drive_reload});
}

TEST_LIMIT(a_worker_dies_while_its_first_coroutine_makes_the_event_loop, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutine: loop, waiter", WORKER, 1, AT("pc_async_start"),
                                    AT("pc_async_serve"), .coroutines = true, .again = true,
                                    .sample = 60, .drive = drive_await});
}

TEST_LIMIT(a_worker_dies_while_a_coroutine_begins, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutine: begin", WORKER, 1, AFTER("pc_ring_claim"),
                                    AT("pc_async_serve"), .coroutines = true, .again = true,
                                    .sample = 60, .before = before_await, .drive = drive_await});
}

TEST_LIMIT(a_worker_dies_in_a_coroutines_step, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutine: step", WORKER, 1, AT("call_am_send"),
                                    AFTER("call_am_send"), .coroutines = true, .again = true,
                                    .sample = 12, .before = before_await, .drive = drive_await});
}

TEST_LIMIT(a_worker_dies_in_a_coroutines_last_step, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutine: step, end", WORKER, 1, AT("call_am_send"),
                                    AFTER("call_am_send"), .coroutines = true, .again = true,
                                    .sample = 60, .before = before_await, .drive = drive_at_once});
}

TEST_LIMIT(a_worker_dies_in_a_turn_that_claims_beside_a_coroutine, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutines: turn, claims", WORKER, 1, AT("turn"),
                                    AFTER("turn"), .coroutines = true, .again = true, .sample = 150,
                                    .before = before_await, .drive = drive_several});
}

TEST_LIMIT(a_worker_dies_when_its_event_loop_is_woken, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutines: wake", WORKER, 1, AT("wake"), AFTER("wake"),
                                    .coroutines = true, .again = true, .sample = 12,
                                    .before = before_await, .drive = drive_wake});
}

TEST_LIMIT(a_worker_dies_while_its_waiter_wakes_the_event_loop, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutines: waiter wakes",
                                    WAITER,
                                    1,
                                    {PLACE_WAKE, "wait_for_calls"},
                                    AT("sem_wait"),
                                    .coroutines = true,
                                    .again = true,
                                    .sample = 6,
                                    .before = before_await,
                                    .drive = drive_wake});
}

/* To be seized it leaves its place on the semaphore to the worker's: the second call's token is the
 * waiter's again. */
TEST_LIMIT(a_worker_dies_while_its_waiter_passes_a_token_on, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutines: waiter parks",
                                    WAITER,
                                    1,
                                    {PLACE_WAKE, "wait_for_calls"},
                                    AT("syscall"),
                                    .coroutines = true,
                                    .again = true,
                                    .sample = 6,
                                    .before = before_await,
                                    .drive = drive_sleep});
}

TEST_LIMIT(a_worker_dies_while_it_is_told_to_stop_a_coroutine, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutine: interrupt", WORKER, 1, AT("pc_async_interrupt"),
                                    AFTER("pc_async_interrupt"), .coroutines = true, .again = true,
                                    .sample = 15, .before = before_await, .drive = drive_cancel});
}

TEST_LIMIT(a_worker_dies_while_a_coroutine_is_cancelled, LIMIT_S)
{
    run_scenario(&(struct scenario){"coroutine: cancelled", WORKER, 1, AT("call_throw"),
                                    AFTER("call_throw"), .coroutines = true, .again = true,
                                    .sample = 250, .before = before_await, .drive = drive_cancel});
}

TEST_LIMIT(a_worker_dies_while_it_claims_from_its_inbox, LIMIT_S)
{
    run_scenario(&(struct scenario){"inbox claim", WORKER, 1, AT("pc_inbox_claim"),
                                    AFTER("pc_inbox_claim"), .again = true, .sample = 9,
                                    .before = before_actor, .drive = drive_actor});
}

TEST_LIMIT(a_worker_dies_in_an_actors_call, LIMIT_S)
{
    run_scenario(&(struct scenario){"actor: call", WORKER, 1, AFTER("pc_inbox_claim"),
                                    AFTER("pc_slot_finish"), .again = true, .sample = 60,
                                    .before = before_actor, .drive = drive_actor});
}

TEST_LIMIT(a_worker_dies_while_it_makes_an_actor, LIMIT_S)
{
    run_scenario(&(struct scenario){"actor: make", WORKER, 1, AT("pc_inbox_claim"),
                                    AFTER("pc_slot_finish"), .again = true, .sample = 60,
                                    .drive = drive_actor_open});
}

TEST_LIMIT(a_worker_dies_while_it_drops_an_actor, LIMIT_S)
{
    run_scenario(&(struct scenario){"actor: drop", WORKER, 1, AT("pc_inbox_claim"),
                                    AFTER("pc_slot_finish"), .again = true, .sample = 60,
                                    .before = before_actor, .drive = drive_actor_close});
}

TEST_LIMIT(a_worker_dies_while_it_begins_a_stream, LIMIT_S)
{
    run_scenario(&(struct scenario){"stream: begin", WORKER, 1, AFTER("pc_ring_claim"),
                                    AFTER("pc_slot_finish"), .again = true, .sample = 60,
                                    .drive = drive_stream});
}

TEST_LIMIT(a_worker_dies_while_it_makes_a_streams_item, LIMIT_S)
{
    run_scenario(&(struct scenario){"stream: next", WORKER, 1, AT("pc_inbox_claim"),
                                    AFTER("pc_slot_finish"), .again = true, .sample = 60,
                                    .drive = drive_stream});
}

TEST_LIMIT(a_worker_dies_at_a_streams_end, LIMIT_S)
{
    run_scenario(&(struct scenario){"stream: end", WORKER, 1, AT("pc_inbox_claim"),
                                    AFTER("pc_slot_finish"), .again = true, .sample = 60,
                                    .drive = drive_empty_stream});
}

TEST_LIMIT(a_worker_dies_while_it_closes_a_stream, LIMIT_S)
{
    run_scenario(&(struct scenario){"stream: drop", WORKER, 1, AT("pc_inbox_claim"),
                                    AFTER("pc_slot_finish"), .again = true, .sample = 60,
                                    .before = before_drop, .drive = drive_drop});
}

TEST_LIMIT(a_worker_dies_while_it_asks_the_host, LIMIT_S)
{
    run_scenario(&(struct scenario){"host call", WORKER, 1, AT("function_call"),
                                    AFTER("function_call"), .again = true, .sample = 60,
                                    .before = before_ask, .drive = drive_ask});
}

TEST_LIMIT(a_worker_dies_while_it_asks_the_host_in_blocks, LIMIT_S)
{
    run_scenario(&(struct scenario){"host call, in blocks", WORKER, 1, AT("function_call"),
                                    AFTER("function_call"), .again = true, .repeats = 2,
                                    .sample = 90, .before = before_ask_big,
                                    .drive = drive_ask_big});
}

TEST_LIMIT(a_worker_dies_while_it_says_that_it_will_retire, LIMIT_S)
{
    run_scenario(&(struct scenario){"life: retires", WORKER, 1, AT("pc_life_look"),
                                    AFTER("pc_life_look"), .max_calls = MAX_CALLS, .again = true,
                                    .sample = 40, .drive = drive_life});
}

TEST_LIMIT(a_worker_dies_while_it_leaves_at_its_limit, LIMIT_S)
{
    run_scenario(&(struct scenario){"life: leaves", WORKER, 1, AT("pc_lifeline_say_leaving"),
                                    AT("pc_interpreter_end"), .max_calls = MAX_CALLS, .again = true,
                                    .sample = 30, .drive = drive_life});
}

TEST_LIMIT(a_successor_dies_between_its_fork_and_its_admission, LIMIT_S)
{
    run_scenario(&(struct scenario){"successor: to admission",
                                    CHILD,
                                    1,
                                    {PLACE_CHILD, "fork"},
                                    AT("pc_loop_run"),
                                    .max_calls = MAX_CALLS,
                                    .again = true,
                                    .sample = 200,
                                    .drive = drive_life});
}

/* ---- the table --------------------------------------------------------------------------------
 */

static void print_row(const struct row *r)
{
    DIAG("%-25s %6u %6u %6u %8u %6u %6u %5u %7u %6u %5u %6u %8.1f %7.1f", r->name, r->instructions,
         r->outside, r->kills, r->returned, r->died, r->died_before, r->lost, r->doubled, r->untrue,
         r->hung, r->leaked, (double)r->slowest_ns / 1e6, (double)r->took_ns / 1e9);
}

TEST(no_death_at_any_instruction_lost_doubled_hung_or_leaked_anything)
{
    struct row all = {.name = "all"};

    if (table->count == 0)
        SKIP("no region was run");
    DIAG("seed %llu, every %u. instruction (0: as each region's sample)",
         (unsigned long long)table->seed, table->stride);
    DIAG("%-25s %6s %6s %6s %8s %6s %6s %5s %7s %6s %5s %6s %8s %7s", "region", "instr.", "libc",
         "kills", "returned", "died", "before", "lost", "doubled", "untrue", "hung", "leaked",
         "slow/ms", "took/s");
    for (unsigned i = 0; i < table->count; i++) {
        const struct row *r = &table->rows[i];

        print_row(r);
        all.kills += r->kills;
        all.returned += r->returned;
        all.died += r->died;
        all.died_before += r->died_before;
        all.lost += r->lost;
        all.doubled += r->doubled;
        all.untrue += r->untrue;
        all.hung += r->hung;
        all.leaked += r->leaked;
        all.took_ns += r->took_ns;
        all.slowest_ns = r->slowest_ns > all.slowest_ns ? r->slowest_ns : all.slowest_ns;
    }
    all.instructions = table->instructions;
    all.outside = table->outside;
    print_row(&all);
    ASSERT_INT(all.lost + all.doubled + all.untrue + all.hung + all.leaked, 0);
}

TAP_MAIN
