/* A worker that writes over the shared segment: random bytes over all of it, over ranges, and lies
 * that look well. Whatever it writes, this process stays whole, each call ends once and in time,
 * and the crew recovers.
 *
 * PYCREW_SCRIBBLE_ROUNDS rounds of each kind (some, if it is not set; with it the time of ends is
 * checked to the letter), from PYCREW_SCRIBBLE_SEED on. */
#include "lib/shm/chunk.h"
#include "lib/shm/upcall.h"
#include "tests/harness/crew.h"

enum { WORKERS = 2, ROUNDS = 8, IN_QUEUE = 8, ITEMS = 200, LARGE = 300 * 1000 };

#define DEADLINE (1 * SECOND)
#define GRACE (100 * MS)
#define MEMORY ((size_t)32 << 20)
#define RECOVERY (10 * SECOND)

typedef struct round_state {
    pycrew_crew *crew;
    _Atomic(const char *) how; /* of scribble_ops.scribble */
    atomic_bool stop;
    atomic_llong latest; /* the longest time that a call took */
    atomic_uint ended, failed;
    atomic_uint rebuilt; /* as the log says */
} round_state;

/* ---- what the scribbler is told ----------------------------------------------------------------
 */

static const char *sizes(void)
{
    static char text[1400];

    snprintf(
        text, sizeof text,
        "{\"header\":%zu,\"record\":%zu,\"queue_bits\":%zu,\"ring_head\":%zu,\"closing\":%zu,"
        "\"spinner\":%zu,\"alive\":%zu,\"idle\":%zu,\"host_spinners\":%zu,"
        "\"function_pages\":%zu,\"sleeps\":%zu,\"posted\":%zu,\"interrupt\":%zu,"
        "\"interrupt_item\":%zu,\"returned\":%zu,\"progress\":%zu,\"item_started\":%zu,"
        "\"busy\":%zu,\"block_count\":%zu,\"blocks\":%zu,\"block_sizes\":%zu,\"cancel\":%zu,"
        "\"results\":%zu,\"kind\":%zu,\"fault_item\":%zu,\"upcall\":%zu,\"places\":%d,"
        "\"upcall_wakes\":%zu,\"upcall_armed\":%zu,\"exports\":%zu,\"upcall_bits\":%zu,"
        "\"config\":%zu,\"times\":%zu}",
        sizeof(pc_header), sizeof(pc_worker_record), offsetof(pc_queue_record, bits),
        offsetof(pc_header, ring_head), offsetof(pc_header, closing), offsetof(pc_header, spinner),
        offsetof(pc_header, alive), offsetof(pc_header, idle), offsetof(pc_header, host_spinners),
        offsetof(pc_header, function_pages), offsetof(pc_worker_record, sleeps),
        offsetof(pc_worker_record, posted), offsetof(pc_worker_record, interrupt),
        offsetof(pc_worker_record, interrupt_item), offsetof(pc_worker_record, returned),
        offsetof(pc_chunk, progress), offsetof(pc_chunk, item_started_ns),
        offsetof(pc_chunk, busy_ns), offsetof(pc_chunk, block_count), offsetof(pc_chunk, blocks),
        offsetof(pc_chunk, block_sizes), offsetof(pc_chunk, cancel), offsetof(pc_chunk, results),
        offsetof(pc_chunk, kind), offsetof(pc_chunk, fault_item), sizeof(pc_upcall), PC_UPCALLS,
        offsetof(pc_header, upcall_wakes), offsetof(pc_header, upcall_armed),
        offsetof(pc_header, exports), offsetof(pc_header, upcalls),
        offsetof(pc_header, config), sizeof(pc_worker_times));
    return text;
}

/* ---- the ledger --------------------------------------------------------------------------------
 */

/* On a loaded machine a thread may see an end late that was in time. */
static int64_t limit(void)
{
    return DEADLINE + GRACE + SECOND + (getenv("PYCREW_SCRIBBLE_ROUNDS") ? 0 : 4 * SECOND);
}

static void note_end(round_state *s, const char *what, int64_t begun, int code)
{
    long long took = now_ns() - begun, latest = atomic_load(&s->latest);

    while (took > latest && !atomic_compare_exchange_weak(&s->latest, &latest, took))
        continue;
    if ((double)took > (double)limit() * tap_scale())
        tap_fail("%s: a %s ended after %.2f s: %s (%s)", s->how, what, (double)took / 1e9,
                 pycrew_strerror(code), code < 0 ? pycrew_last_error()->message : "");
    atomic_fetch_add(&s->ended, 1);
    atomic_fetch_add(&s->failed, code < 0);
}

static pycrew_call *prepare_here(round_state *s, const char *name)
{
    pycrew_call *call = NULL;

    OK(pycrew_prepare(s->crew, function_of(s->crew, name), BOUND, &call));
    OK(pycrew_set_timeout(call, DEADLINE));
    return call;
}

/* Waits; an end that does not come within the limit is a failure. */
static int await_end(round_state *s, pycrew_call *call, const char *what, int64_t begun)
{
    int code = pycrew_wait(call, BOUND);

    if (code == -ETIME)
        tap_fail("%s: a %s did not end", s->how, what);
    note_end(s, what, begun, code);
    return code;
}

/* ---- the five threads --------------------------------------------------------------------------
 */

static void *run_singles(void *data)
{
    round_state *s = data;

    for (long long i = 0; !atomic_load(&s->stop); i++) {
        pycrew_call *call = prepare_here(s, i % 50 == 0 ? "api_ops:sleep" : "api_ops:add");
        int64_t begun;
        long long sum;

        if (i % 50 == 0)
            pycrew_add(call, "d", 0.02);
        else
            pycrew_add(call, "LL", i, i);
        begun = now_ns();
        if (pycrew_submit(call) == 0 && await_end(s, call, "single call", begun) == 0)
            pycrew_result(call, "L", &sum); /* any value, or none */
        pycrew_release(call);
    }
    return NULL;
}

static void *run_queue(void *data)
{
    round_state *s = data;
    pycrew_queue *queue = NULL;
    int64_t begun[IN_QUEUE];
    unsigned inside = 0;
    bool in[IN_QUEUE] = {false};

    OK(pycrew_queue_open(s->crew, &queue));
    while (inside > 0 || !atomic_load(&s->stop)) {
        pycrew_call *calls[IN_QUEUE];
        int count;

        for (unsigned i = 0; i < IN_QUEUE && !atomic_load(&s->stop); i++) {
            pycrew_call *call;

            if (in[i])
                continue;
            call = prepare_here(s, "api_ops:echo");
            pycrew_add(call, "s", "a text that is short");
            OK(pycrew_set_queue(call, queue));
            pycrew_set_data(call, &in[i]);
            in[i] = true;
            inside++;
            begun[i] = now_ns();
            OK(pycrew_submit(call));
        }
        count = pycrew_queue_reap(queue, calls, IN_QUEUE, BOUND);
        if (count <= 0)
            tap_fail("%s: %u calls did not come out of their queue", s->how, inside);
        for (int i = 0; i < count; i++) {
            bool *mine = pycrew_data(calls[i]);

            ASSERT(*mine); /* once */
            *mine = false;
            inside--;
            note_end(s, "queue's call", begun[mine - in], pycrew_wait(calls[i], 0));
            pycrew_release(calls[i]);
        }
    }
    pycrew_queue_close(queue);
    return NULL;
}

typedef struct batch_ledger {
    bool seen[ITEMS];
    int out;
} batch_ledger;

/* What pycrew_batch_next said. */
static int take_item(round_state *s, pycrew_batch *batch, batch_ledger *ledger)
{
    int64_t begun = now_ns();
    int code = pycrew_batch_next(batch, BOUND), result;
    const void *bytes;
    size_t size, at;

    if (code != 1)
        return code;
    at = pycrew_batch_index(batch);
    ASSERT(at < ITEMS && !ledger->seen[at]); /* once */
    ledger->seen[at] = true;
    ledger->out++;
    result = pycrew_batch_result(batch, "y#", &bytes, &size);
    if (result == 0 && size > 0)
        (void)((const volatile unsigned char *)bytes)[size - 1]; /* can be read */
    note_end(s, "batch's item", begun, result);
    return 1;
}

static void add_item(round_state *s, pycrew_batch *batch, batch_ledger *ledger, int i)
{
    int size = i % 20 == 0 ? 3000 : i % 40, code;

    while ((code = pycrew_batch_add_within(batch, BOUND, "i", size)) == -EAGAIN)
        if (take_item(s, batch, ledger) != 1)
            tap_fail("%s: nothing to take out", s->how);
    if (code < 0)
        tap_fail("%s: batch_add: %s", s->how, pycrew_last_error()->message);
}

static void *run_batches(void *data)
{
    round_state *s = data;

    for (unsigned round = 0; !atomic_load(&s->stop); round++) {
        pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
        batch_ledger ledger = {.out = 0};
        pycrew_batch *batch = NULL;
        int code;

        options.timeout_ns = DEADLINE;
        options.unordered = round % 2;
        OK(pycrew_batch_open(s->crew, function_of(s->crew, "api_ops:zeros"), &options, &batch));
        for (int i = 0; i < ITEMS; i++)
            add_item(s, batch, &ledger, i);
        OK(pycrew_batch_end(batch));
        while ((code = take_item(s, batch, &ledger)) == 1)
            continue;
        if (code < 0 || ledger.out != ITEMS)
            tap_fail("%s: %d items of %d came out: %s", s->how, ledger.out, ITEMS,
                     pycrew_strerror(code));
        pycrew_batch_close(batch);
    }
    return NULL;
}

/* Most elements return, each third raises; so workers tell of both. */
static void *run_maps(void *data)
{
    enum { ELEMENTS = 500 };
    round_state *s = data;
    int64_t numbers[ELEMENTS], results[ELEMENTS], count = ELEMENTS;
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    pycrew_array input, output;

    for (int64_t i = 0; i < ELEMENTS; i++)
        numbers[i] = i;
    OK(pycrew_array_init(&input, numbers, PYCREW_I64, 1, &count, 0));
    OK(pycrew_array_init(&output, results, PYCREW_I64, 1, &count, 0));
    options.timeout_ns = DEADLINE;
    options.on_error = PYCREW_MAP_FILL;
    options.chunk = 50;
    while (!atomic_load(&s->stop)) {
        int64_t begun = now_ns();

        note_end(s, "map", begun,
                 pycrew_map(s->crew, function_of(s->crew, "scribble_ops:not_each_third"), &input, 1,
                            &output, &options));
    }
    return NULL;
}

static void *run_large(void *data)
{
    round_state *s = data;
    pycrew_call *kept = NULL; /* read while others write over it */

    while (!atomic_load(&s->stop)) {
        pycrew_call *call = prepare_here(s, "api_ops:zeros");
        const void *bytes = NULL;
        size_t size = 0;
        int64_t begun;

        pycrew_add(call, "i", LARGE);
        begun = now_ns();
        if (pycrew_submit(call) == 0)
            await_end(s, call, "large result", begun);
        pycrew_release(kept);
        kept = call;
        if (pycrew_result(call, "y#", &bytes, &size) == 0)
            for (size_t i = 0; i < size; i += 512)
                (void)((const volatile unsigned char *)bytes)[i];
    }
    pycrew_release(kept);
    return NULL;
}

static void read_array(const pycrew_array *array)
{
    const volatile double *data = array->data;

    if (array->dtype != PYCREW_F64 || array->ndim != 1 || array->strides[0] != sizeof *data)
        return; /* whatever it is said to be */
    for (int64_t i = 0; i < array->shape[0]; i += 64)
        (void)data[i];
}

/* One array in, another one out, which goes in again; one call may end in between. */
static void trip(round_state *s, pycrew_array *array)
{
    pycrew_array taken = PYCREW_ARRAY_INIT, back = PYCREW_ARRAY_INIT;

    for (int i = 0; i < 2; i++) {
        pycrew_call *call = prepare_here(s, "array_ops:copied");
        int64_t begun = now_ns();

        if (pycrew_add_array(call, i == 0 || taken.data == NULL ? array : &taken) == 0 &&
            pycrew_submit(call) == 0 && await_end(s, call, "call with an array", begun) == 0 &&
            pycrew_array_take(call, i == 0 ? &taken : &back) == 0)
            read_array(i == 0 ? &taken : &back);
        pycrew_release(call);
    }
    if (taken.data != NULL)
        read_array(&taken);
    pycrew_array_drop(s->crew, &taken);
    pycrew_array_drop(s->crew, &back);
}

static void *run_arrays(void *data)
{
    round_state *s = data;

    for (unsigned round = 0; !atomic_load(&s->stop); round++) {
        int64_t count = round % 8 == 0 ? LARGE / 8 : 100;
        double *memory = pycrew_alloc(s->crew, (size_t)count * sizeof *memory);
        pycrew_array array;

        if (memory == NULL)
            continue;
        for (int64_t i = 0; i < count; i++)
            memory[i] = (double)i;
        OK(pycrew_array_init(&array, memory, PYCREW_F64, 1, &count, 0));
        trip(s, &array);
        pycrew_free(s->crew, memory);
    }
    return NULL;
}

/* Calls to the host, whose arguments and answers are small and large. */
static int echo(void *data, pycrew_host_call *call)
{
    const char *bytes;
    size_t size;
    int rc = pycrew_host_arguments(call, "y#", &bytes, &size);

    (void)data;
    return rc < 0 ? rc : pycrew_host_return(call, "y#", bytes, size);
}

static void *run_asking(void *data)
{
    round_state *s = data;

    for (int i = 0; !atomic_load(&s->stop); i++) {
        pycrew_call *call = prepare_here(s, "scribble_ops:asks");
        int64_t begun;

        pycrew_add(call, "i", i % 20 == 0 ? LARGE : i % 5 * 50);
        begun = now_ns();
        if (pycrew_submit(call) == 0)
            await_end(s, call, "call that asks the host", begun);
        pycrew_release(call);
    }
    return NULL;
}

/* ---- rounds ------------------------------------------------------------------------------------
 */

static void scribble(round_state *s, unsigned seed)
{
    pycrew_call *call = prepare_here(s, "scribble_ops:scribble");
    int64_t begun = now_ns();

    OK(pycrew_add(call, "sijd", s->how, (int)seed, sizes(), seed % 4 == 0 ? 0.03 : 0.0));
    OK(pycrew_submit(call));
    await_end(s, call, "scribbler", begun);
    pycrew_release(call);
}

/* A fresh call returns what it should; those that were about while it was scribbled may fail. */
static void expect_recovery(round_state *s, unsigned seed)
{
    int64_t until = now_ns() + (int64_t)((double)RECOVERY * tap_scale());
    int sum = 0, code;

    while ((code = pycrew_run_within(s->crew, DEADLINE, "api_ops:add", "ii>i", 40, 2, &sum)) < 0 ||
           sum != 42)
        if (now_ns() > until)
            tap_fail("%s, seed %u: the crew does not recover: %d, %s", s->how, seed, sum,
                     code < 0 ? pycrew_last_error()->message : "a wrong value");
}

static int count_descriptors(void)
{
    struct tap_descriptor found[TAP_MAX_DESCRIPTORS];
    int count = 0;

    memset(found, 0, sizeof found);
    for (int fd = 0; fd < TAP_MAX_DESCRIPTORS; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* The memory that the segment takes. */
static long long segment_bytes(void)
{
    for (int fd = 0; fd < TAP_MAX_DESCRIPTORS; fd++) {
        char path[64], link[256];
        struct stat status;
        ssize_t size;

        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        size = readlink(path, link, sizeof link - 1);
        if (size < 0)
            continue;
        link[size] = '\0';
        if ((strstr(link, "/dev/shm/pycrew.") || strstr(link, "memfd:pycrew ")) &&
            fstat(fd, &status) == 0)
            return (long long)status.st_blocks * 512;
    }
    return -1;
}

/* Blocks of a living worker's that were scribbled off its list are lost until its end. */
static void end_workers(void)
{
    int pids[WORKERS];

    AWAIT(find_workers(pids, WORKERS) == WORKERS);
    for (int i = 0; i < WORKERS; i++)
        kill(pids[i], SIGKILL);
    for (int i = 0; i < WORKERS; i++)
        AWAIT(kill(pids[i], 0) < 0);
    AWAIT(find_workers(pids, WORKERS) == WORKERS);
}

/* A large piece of the memory can be had, so it was not lost span by span. */
static void expect_memory(round_state *s)
{
    const void *bytes = NULL;
    size_t size = 0;
    pycrew_call *call = prepare(s->crew, "api_ops:zeros");

    OK(pycrew_add(call, "i", 8 << 20));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "y#", &bytes, &size));
    ASSERT_INT(size, 8 << 20);
    pycrew_release(call);
}

static void count_rebuilds(void *data, int level, const char *line)
{
    round_state *s = data;

    atomic_fetch_add(&s->rebuilt,
                     level == PYCREW_LOG_ERROR && strstr(line, "written over") != NULL);
}

static pycrew_crew *open_small(round_state *s)
{
    pycrew_crew *crew;

    static const char *const preload[] = {"no_numpy", "array_ops", NULL}; /* so that workers start soon */
    pycrew_options options = test_options(WORKERS);

    options.preload = preload;
    options.memory = MEMORY;
    options.calls = 64;
    options.queues = 4;
    options.grace_ns = GRACE;
    options.log = count_rebuilds;
    options.log_data = s;
    crew = open_with(&options);
    OK(pycrew_export(crew, "echo", echo, NULL));
    return crew;
}

static unsigned number_from(const char *variable, unsigned otherwise)
{
    const char *text = getenv(variable);

    return text == NULL ? otherwise : (unsigned)strtoul(text, NULL, 10);
}

/* how: NULL-terminated, in turn. */
static void run_rounds(const char *const *how, unsigned otherwise)
{
    static void *(*const bodies[])(void *) = {run_singles, run_queue, run_batches,
                                              run_maps,    run_large, run_arrays, run_asking};
    enum { THREADS = sizeof bodies / sizeof bodies[0] };
    unsigned rounds = number_from("PYCREW_SCRIBBLE_ROUNDS", otherwise);
    unsigned seed = number_from("PYCREW_SCRIBBLE_SEED", (unsigned)getpid() * 1000);
    round_state s = {.how = how[0]};
    pthread_t threads[THREADS];
    int descriptors, workers[8];
    unsigned kinds = 0;

    while (how[kinds] != NULL)
        kinds++;

    DIAG("%s: seeds %u to %u", how[0], seed, seed + rounds - 1);
    s.crew = open_small(&s);
    expect_recovery(&s, 0);
    expect_memory(&s);
    AWAIT(find_workers(workers, 8) == WORKERS);
    descriptors = count_descriptors();
    for (unsigned i = 0; i < THREADS; i++)
        ASSERT(pthread_create(&threads[i], NULL, bodies[i], &s) == 0);
    for (unsigned i = 0; i < rounds; i++) {
        unsigned before = atomic_load(&s.ended);

        s.how = how[i % kinds];
        scribble(&s, seed + i);
        expect_recovery(&s, seed + i);
        AWAIT(atomic_load(&s.ended) >= before + 20); /* and the threads go on */
    }
    atomic_store(&s.stop, true);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    end_workers();
    expect_recovery(&s, 0);
    expect_memory(&s);
    AWAIT(find_workers(workers, 8) == WORKERS);
    AWAIT(count_descriptors() <= descriptors + 1); /* a queue keeps its own for the next one */
    end_workers();
    AWAIT(segment_bytes() <= (long long)(MEMORY / 4));
    DIAG("%u rounds, %u rebuilds: %u calls ended, %u of them failed; the latest after %.0f ms; "
         "%lld KiB in use",
         rounds, atomic_load(&s.rebuilt), atomic_load(&s.ended), atomic_load(&s.failed),
         (double)atomic_load(&s.latest) / 1e6, segment_bytes() / 1024);
    pycrew_close(s.crew);
}

TEST_LIMIT(random_bytes_over_all_of_the_segment_harm_nobody, 7200)
{
    static const char *const how[] = {"bytes", NULL};

    run_rounds(how, ROUNDS);
}

TEST_LIMIT(random_bytes_over_ranges_harm_nobody, 7200)
{
    static const char *const how[] = {"ranges", NULL};

    run_rounds(how, ROUNDS);
}

TEST_LIMIT(lies_that_look_well_harm_nobody, 7200)
{
    static const char *const how[] = {"lies", NULL};

    run_rounds(how, ROUNDS);
}

TEST_LIMIT(each_kind_of_lie_alone_harms_nobody, 7200)
{
    static const char *const how[] = {"control", "swap_slots", "result", "request", "semaphore",
                                      "head",    "entry",      "owner",  "record",  "queue",
                                      "header",  "names",      "chunk",  "upcall", NULL};

    run_rounds(how, 28);
}

/* Without a deadline, so that nothing but the asking worker's own look can help. */
static void ask_scribbling(const char *function, int expected, unsigned rebuilds)
{
    round_state s = {.how = function};
    char name[100];
    int rc = 1;

    s.crew = open_small(&s);
    snprintf(name, sizeof name, "scribble_ops:%s", function);
    /* Once more, where it was answered before the host has looked. */
    for (int i = 0; i < 100 && rc != expected; i++)
        rc = pycrew_run(s.crew, name, "j>", sizes());
    ASSERT_INT(rc, expected);
    expect_recovery(&s, 0);
    for (int i = 0; i < 20; i++)
        OK(pycrew_run(s.crew, "scribble_ops:asks", "i>", LARGE));
    ASSERT_INT(atomic_load(&s.rebuilt), rebuilds);
    pycrew_close(s.crew);
}

TEST(a_call_to_the_host_is_heard_though_its_announcement_was_written_over)
{
    ask_scribbling("asks_unheard", 0, 0);
}

TEST(an_answer_of_the_hosts_that_was_written_over_is_found)
{
    ask_scribbling("asks_beside_a_lie", PYCREW_EDIED, 1);
}

TAP_MAIN
