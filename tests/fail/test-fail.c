/* Each call that can fail, failing: the n-th malloc, mmap, socketpair, posix_spawn, pidfd_open, ...
   of the library, for each n through open, work and close, and the same of its workers. See shim.h
   for what is counted and how it is made to fail.

   One run is a process of its own with a time limit. It opens a crew and makes calls of all kinds
   (run_scenario). Each step must give the right result, or an error that is documented and says
   what it is about; then the step is done again, and must succeed, since the failure is over: it
   may have broken nothing. (A failure in the background need not be heard of at all.) After close
   nothing may be left: descriptor, thread, process, name in /dev/shm, mapping of the segment, block
   of memory.

   For each row of the tables below n goes from 1 up until a whole run has passed without a failure.

       test-fail                       as make check runs it: a sample, of each row six failures at
   most PYCREW_FAIL=places test-fail    of the calls that one and the same place in the code makes,
   the first and the last (.ci/run, under ASan) PYCREW_FAIL=all test-fail       each n (.ci/run)
       PYCREW_FAIL=17 test-fail NAME   the 17th alone
       PYCREW_FAIL_SHOW=1              prints each error, and the log

   A fault names the place as an offset in the program: addr2line -e build/tests/fail/test-fail. */
#include "lib/crew.h"
#include "lib/dlpack.h"
#include "tests/fail/shim.h"
#include "tests/harness/crew.h"

enum { RUNS_AT_ONCE = 2, SAMPLE = 6, FAULT_SIZE = 2048, TRIES = 4, WORKERS = 2 };
enum { ITEMS = 300, CHUNK = 280, RAISING = 100, DYING = 150 };
enum { LARGE_SIZE = 2500000, QUEUED = 5 };
enum { ELEMENTS = 20000, ROWS = 100 };

/* A run that takes as long hangs; a whole one takes half a second. */
#define RUN_LIMIT (20 * SECOND)
#define DROP_LIMIT (8 * SECOND)

struct row {
    enum shim_kind kind;
    int error;
    enum shim_how how;
    unsigned count; /* calls in a row that fail; 0: 1 */
    bool worker;    /* pycrew-worker's, not the library's */
    bool bad_start; /* of a crew whose workers cannot start: run_bad_start */
};

struct run {
    _Alignas(4096) struct shim_state shim; /* first, and mapped by the workers too */
    unsigned errors;                       /* steps that gave one, and were done again */
    unsigned deaths;                       /* of those: PYCREW_EDIED that nobody had asked for */
    bool done, bad_start;
    char step[80];
    char fault[FAULT_SIZE];
};

/* ---- what the processes share -----------------------------------------------------------------
 */

static struct shared {
    struct run runs[RUNS_AT_ONCE], dry, worker_dry;
    bool is_dry_run_done[2];
    unsigned rows, failures, places, errors;
} * shared;

static int shared_fd = -1;
static struct run *run; /* in the process of a run */

__attribute__((constructor)) static void make_shared(void)
{
    shared_fd = memfd_create("test-fail", MFD_CLOEXEC);
    if (shared_fd < 0 || ftruncate(shared_fd, sizeof *shared) < 0)
        abort();
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, shared_fd, 0);
    if (shared == MAP_FAILED)
        abort();
}

__attribute__((format(printf, 1, 2))) static void fault(const char *format, ...)
{
    size_t used = strlen(run->fault);
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(run->fault + used, sizeof run->fault - used, format, arguments);
    va_end(arguments);
    strncat(run->fault, "; ", sizeof run->fault - strlen(run->fault) - 1);
}

/* ---- steps ------------------------------------------------------------------------------------
 */

/* The last is the worker's own, before the function ran. */
static bool is_documented(int code, const pycrew_error *e)
{
    if (code == PYCREW_ERAISED)
        return e->type == NULL || strcmp(e->type, "MemoryError") == 0;
    return code == -run->shim.error || code == -ENOMEM || code == -EMFILE ||
           code == PYCREW_ESTART || code == PYCREW_EDIED;
}

/* A code that was not wanted: true if it is one that a failure may give, once it has happened. */
static bool is_pardoned(int code, const pycrew_error *e)
{
    if (atomic_load(&run->shim.fired) == 0) {
        fault("%s: %d (%s) without a failure", run->step, code, e->message);
    } else if (!is_documented(code, e)) {
        fault("%s: %d (%s)", run->step, code, e->message);
    } else if (e->code != code || e->message == NULL || e->message[0] == '\0') {
        fault("%s: %d, but the last error is %d", run->step, code, e->code);
    } else {
        run->errors++;
        run->deaths += code == PYCREW_EDIED;
        if (getenv("PYCREW_FAIL_SHOW") != NULL)
            fprintf(stderr, "%s: %d (%s)\n", run->step, code, e->message);
        return true;
    }
    return false;
}

static void begin(const char *step)
{
    snprintf(run->step, sizeof run->step, "%s", step);
}

/* Does it until it gives what is wanted. False: it did not. */
#define STEP(call, wanted)                                                                         \
    __extension__({                                                                                \
        int step_code, step_tries = 0;                                                             \
        begin(#call);                                                                              \
        while ((step_code = (call)) != (wanted) && step_tries < TRIES * (int)run->shim.count &&    \
               is_pardoned(step_code, pycrew_last_error()))                                        \
            step_tries++;                                                                          \
        if (step_code != (wanted) && run->fault[0] == '\0')                                        \
            fault("%s: %d again and again", run->step, step_code);                                 \
        step_code == (wanted);                                                                     \
    })

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fault("%s: not %s", run->step, #condition);                                            \
    } while (0)

static void count_line(void *data, int level, const char *line)
{
    (void)data;
    if (getenv("PYCREW_FAIL_SHOW") != NULL)
        fprintf(stderr, "log %d: %s\n", level, line);
    if (level == PYCREW_LOG_ERROR && strstr(line, "written over") != NULL)
        fault("a false alarm: %s", line);
}

static int open_one(pycrew_crew **crew, const char *const *preload)
{
    static char file[64], offset[64];
    const char *environment[] = {file, offset, NULL};
    pycrew_options options = test_options(WORKERS);

    snprintf(file, sizeof file, "PYCREW_SHIM=/proc/%d/fd/%d", (int)getpid(), shared_fd);
    snprintf(offset, sizeof offset, "PYCREW_SHIM_AT=%td", (char *)run - (char *)shared);
    options.python = getenv("PYTHON");
    options.env = environment;
    options.preload = preload;
    options.calls = 64;
    options.memory = (size_t)64 << 20;
    options.grace_ns = 60 * MS;
    options.log = count_line;
    return pycrew_open(crew, &options);
}

/* ---- calls ---- */

static void run_small(pycrew_crew *crew)
{
    int sum = 0;

    if (STEP(pycrew_run_within(crew, BOUND, "fail_ops:add", "ii>i", 3, 5, &sum), 0))
        EXPECT(sum == 8);
}

/* Arguments and result in runs of spans. */
static void run_large(pycrew_crew *crew)
{
    static uint8_t data[LARGE_SIZE];
    const pycrew_function *function = NULL;
    pycrew_call *call;
    const void *got;
    size_t size;
    int rc = -1;

    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i % 251);
    if (!STEP(pycrew_function_get(crew, "fail_ops:echo", &function), 0))
        return;
    for (int tries = 0; rc != 0 && tries < TRIES * (int)run->shim.count; tries++) {
        if (!STEP(pycrew_prepare(crew, function, BOUND, &call), 0))
            return;
        begin("a large call");
        rc = pycrew_add(call, "y#", data, sizeof data);
        if (rc == 0)
            rc = pycrew_submit(call);
        if (rc == 0)
            rc = pycrew_wait(call, BOUND);
        if (rc == 0 && STEP(pycrew_result(call, "y#", &got, &size), 0))
            EXPECT(size == sizeof data && memcmp(got, data, size) == 0);
        else if (!is_pardoned(rc, pycrew_last_error()))
            tries = INT16_MAX;
        pycrew_release(call);
    }
    EXPECT(rc == 0);
}

/* A result of more values than the library has room for on its stack, and copies of text. */
static void run_list(pycrew_crew *crew)
{
    int n[20] = {0};
    char *copy = NULL;

    if (STEP(pycrew_run_within(crew, BOUND, "fail_ops:numbers", "ii>[iiiiiiiiiiiiiiiiiiii]", 7, 20,
                               &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &n[7], &n[8], &n[9],
                               &n[10], &n[11], &n[12], &n[13], &n[14], &n[15], &n[16], &n[17],
                               &n[18], &n[19]),
             0))
        EXPECT(n[0] == 7 && n[19] == 26);
    if (STEP(pycrew_run_within(crew, BOUND, "fail_ops:echo", "s>s", "some text", &copy), 0))
        EXPECT(strcmp(copy, "some text") == 0);
    free(copy);
}

static int submit_queued(const pycrew_function *function, pycrew_crew *crew, pycrew_queue *queue,
                         int number)
{
    pycrew_call *call;
    int rc = pycrew_prepare(crew, function, BOUND, &call);

    if (rc < 0)
        return rc;
    if ((rc = pycrew_add(call, "ii", number, 1000)) == 0 &&
        (rc = pycrew_set_queue(call, queue)) == 0) {
        pycrew_set_data(call, (void *)(intptr_t)number);
        rc = pycrew_submit(call);
    }
    if (rc < 0)
        pycrew_release(call);
    return rc;
}

static void check_queued(pycrew_call *call, bool *ended)
{
    int number = (int)(intptr_t)pycrew_data(call), sum = 0;
    int rc = pycrew_wait(call, 0);

    if (number < 0 || number >= QUEUED || ended[number])
        fault("%s: call %d came twice", run->step, number);
    else
        ended[number] = true;
    if (rc < 0)
        is_pardoned(rc, pycrew_last_error());
    else if (STEP(pycrew_result(call, "i", &sum), 0))
        EXPECT(sum == number + 1000);
    pycrew_release(call);
}

static void run_queued(pycrew_crew *crew)
{
    const pycrew_function *function = NULL;
    pycrew_queue *queue = NULL;
    bool ended[QUEUED] = {false};
    int count = 0;

    if (!STEP(pycrew_function_get(crew, "fail_ops:add", &function), 0) ||
        !STEP(pycrew_queue_open(crew, &queue), 0))
        return;
    for (int i = 0; i < QUEUED; i++)
        if (!STEP(submit_queued(function, crew, queue, i), 0))
            return;
    while (count < QUEUED && run->fault[0] == '\0') {
        pycrew_call *calls[QUEUED];
        int got;

        begin("pycrew_queue_reap");
        got = pycrew_queue_reap(queue, calls, QUEUED, BOUND);
        for (int i = 0; i < got; i++)
            check_queued(calls[i], ended);
        if (got == 0 || (got < 0 && !is_pardoned(got, pycrew_last_error())))
            fault("%d of %d calls were reaped, then %d", count, QUEUED, got);
        count += got > 0 ? got : 0;
    }
    pycrew_queue_close(queue);
}

/* ---- a batch ---- */

struct stream {
    pycrew_batch *batch;
    int added, taken;
    bool ended;
};

/* With text, or it would be a record, which has no list of offsets. */
static void add_item(struct stream *s)
{
    int rc;

    begin("pycrew_batch_add_within");
    rc = pycrew_batch_add_within(s->batch, BOUND, "is", s->added, "seven");
    s->added += rc == 0;
    if (rc != 0 && rc != -EAGAIN)
        is_pardoned(rc, pycrew_last_error());
}

static int wanted_code(int item)
{
    return item == RAISING ? PYCREW_ERAISED : item == DYING ? PYCREW_EDIED : 0;
}

static void take_item(struct stream *s)
{
    int rc, sum = 0;

    begin("pycrew_batch_next");
    rc = pycrew_batch_next(s->batch, BOUND);
    if (rc != 1) {
        if (rc >= 0 || !is_pardoned(rc, pycrew_last_error()))
            fault("item %d of %d: pycrew_batch_next is %d", s->taken, s->added, rc);
        return;
    }
    begin("pycrew_batch_result");
    EXPECT(pycrew_batch_index(s->batch) == (size_t)s->taken);
    rc = pycrew_batch_result(s->batch, "i", &sum);
    if (rc == 0)
        EXPECT(sum == s->taken + 5);
    if (rc != wanted_code(s->taken))
        is_pardoned(rc, pycrew_last_error());
    s->taken++;
}

static void run_batch(pycrew_crew *crew)
{
    const pycrew_function *function = NULL;
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    struct stream s = {0};

    options.chunk = CHUNK;
    if (!STEP(pycrew_function_get(crew, "fail_ops:add_length", &function), 0) ||
        !STEP(pycrew_batch_open(crew, function, &options, &s.batch), 0))
        return;
    while (s.taken < ITEMS && run->fault[0] == '\0') {
        int before = s.added;

        if (s.added < ITEMS)
            add_item(&s);
        if (s.added == ITEMS && !s.ended)
            s.ended = STEP(pycrew_batch_end(s.batch), 0);
        if (s.added == ITEMS || s.added == before)
            if (s.taken < s.added)
                take_item(&s);
    }
    if (run->fault[0] == '\0')
        STEP(pycrew_batch_next(s.batch, BOUND), 0);
    pycrew_batch_close(s.batch);
}

/* ---- a map ---- */

/* What is said to have failed is filled, all else right. */
static void check_map(const int64_t *to, const int *failed, int count)
{
    int told = 0;

    for (int64_t i = 0; i < ITEMS; i++) {
        told += failed[i] != 0;
        EXPECT(to[i] == (failed[i] != 0 ? -1 : i));
    }
    EXPECT(told == count);
    EXPECT(failed[RAISING] != 0 && failed[DYING] != 0);
}

/* One element raises, one dies. Where memory fails that would say which, more are said to have. */
static void run_map(pycrew_crew *crew)
{
    const pycrew_function *function = NULL;
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    int64_t a[ITEMS], to[ITEMS], count = ITEMS, minus = -1;
    int failed[ITEMS], rc = -1;
    pycrew_array input, output;

    for (int64_t i = 0; i < ITEMS; i++)
        a[i] = i;
    options.chunk = CHUNK;
    options.on_error = PYCREW_MAP_FILL;
    options.fill = &minus;
    options.failed = failed;
    if (!STEP(pycrew_function_get(crew, "fail_ops:element", &function), 0) ||
        !STEP(pycrew_array_init(&input, a, PYCREW_I64, 1, &count, 0), 0) ||
        !STEP(pycrew_array_init(&output, to, PYCREW_I64, 1, &count, 0), 0))
        return;
    for (int tries = 0; rc != 2 && tries < TRIES * (int)run->shim.count; tries++) {
        begin("pycrew_map");
        rc = pycrew_map(crew, function, &input, 1, &output, &options);
        if (rc >= 0)
            check_map(to, failed, rc);
        else if (!is_pardoned(rc, pycrew_last_error()))
            return;
    }
    EXPECT(rc == 2);
}

/* ---- arrays: memoryviews, since numpy would be imported by each worker of each run ---- */

static int alloc_array(pycrew_crew *crew, size_t count, double value, pycrew_array *ret)
{
    double *elements = pycrew_alloc(crew, count * sizeof *elements);

    if (elements == NULL)
        return pycrew_last_error()->code;
    for (size_t i = 0; i < count; i++)
        elements[i] = value;
    return pycrew_array_init(ret, elements, PYCREW_F64, 1, (int64_t[]){(int64_t)count}, 0);
}

static bool all_are(const pycrew_array *array, double value)
{
    const double *elements = array->data;

    if (array->dtype != PYCREW_F64 || array->ndim != 1)
        return false;
    for (int64_t i = 0; i < array->shape[0]; i++)
        if (elements[i] != value)
            return false;
    return true;
}

static void run_tensor(pycrew_crew *crew, pycrew_array *taken)
{
    struct DLManagedTensorVersioned *versioned = NULL;
    struct DLManagedTensor *tensor = NULL;
    pycrew_array array = PYCREW_ARRAY_INIT;
    double sum = 0;

    if (STEP(pycrew_array_to_dlpack_versioned(crew, taken, &versioned), 0)) {
        if (STEP(pycrew_array_from_dlpack_versioned(&array, versioned, 0), 0) &&
            STEP(pycrew_run_within(crew, BOUND, "fail_ops:array_ends", "A>d", &array, &sum), 0))
            EXPECT(sum == 3);
        versioned->deleter(versioned);
    }
    if (!STEP(pycrew_run_within(crew, BOUND, "fail_ops:empty_array", "i>A", ELEMENTS, &array), 0))
        return;
    if (STEP(pycrew_array_to_dlpack(crew, &array, &tensor), 0))
        tensor->deleter(tensor);
    pycrew_array_drop(crew, &array);
}

/* In the crew's memory in, taken out, in again, two at a time; and given away as a tensor. */
static void run_taken(pycrew_crew *crew)
{
    pycrew_array array, taken = PYCREW_ARRAY_INIT, pair[2] = {PYCREW_ARRAY_INIT, PYCREW_ARRAY_INIT};
    void *memory;

    if (!STEP(alloc_array(crew, ELEMENTS, 1.5, &array), 0))
        return;
    memory = array.data;
    if (STEP(pycrew_run_within(crew, BOUND, "fail_ops:copy_array", "A>A", &array, &taken), 0)) {
        EXPECT(taken.shape[0] == ELEMENTS && all_are(&taken, 1.5));
        if (STEP(pycrew_run_within(crew, BOUND, "fail_ops:pair_of_arrays", "A>[AA]", &taken,
                                   &pair[0], &pair[1]),
                 0))
            EXPECT(all_are(&pair[0], 1.5) && all_are(&pair[1], 1.5));
        pycrew_array_drop(crew, &pair[0]);
        pycrew_array_drop(crew, &pair[1]);
        run_tensor(crew, &taken);
    }
    pycrew_free(crew, memory);
}

/* From elsewhere, each element written once however often it was tried. */
static void run_copied_back(pycrew_crew *crew)
{
    double here[ROWS] = {0};
    pycrew_array array;

    if (STEP(pycrew_array_init(&array, here, PYCREW_F64, 1, (int64_t[]){ROWS},
                               PYCREW_WRITABLE | PYCREW_COPY_BACK),
             0) &&
        STEP(pycrew_run_within(crew, BOUND, "fail_ops:add_one", "A>", &array), 0))
        EXPECT(all_are(&array, 1));
}

/* A view that outlives its call and the memory's free. A worker that has died since has none. */
static void run_retained(pycrew_crew *crew)
{
    pycrew_array array, other;
    double value = -1;

    if (!STEP(alloc_array(crew, ELEMENTS, 2.5, &array), 0))
        return;
    STEP(pycrew_run_within(crew, BOUND, "fail_ops:keep_array", "A>", &array), 0);
    pycrew_free(crew, array.data);
    if (STEP(alloc_array(crew, ELEMENTS, 7, &other), 0)) {
        for (int worker = 0; worker < WORKERS; worker++) /* whichever it is */
            if (STEP(pycrew_run_within(crew, BOUND, "fail_ops:kept_value", ">d", &value), 0))
                EXPECT(value == 2.5 || value == -0.5);
        pycrew_free(crew, other.data);
    }
    STEP(pycrew_run_within(crew, BOUND, "fail_ops:let_go", ">"), 0);
}

/* From the crew's memory to memory from elsewhere. */
static void run_slices(pycrew_crew *crew)
{
    const pycrew_function *function = NULL;
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    pycrew_array input, output;
    double to[ROWS] = {0};
    void *memory;

    options.flags = PYCREW_MAP_WHOLE | PYCREW_MAP_OUT;
    options.chunk = ROWS / 2;
    if (!STEP(pycrew_function_get(crew, "fail_ops:slice", &function), 0) ||
        !STEP(pycrew_array_init(&output, to, PYCREW_F64, 1, (int64_t[]){ROWS}, 0), 0) ||
        !STEP(alloc_array(crew, ROWS, 4, &input), 0))
        return;
    memory = input.data;
    if (STEP(pycrew_map(crew, function, &input, 1, &output, &options), 0))
        EXPECT(all_are(&output, 4));
    pycrew_free(crew, memory);
}

static void run_arrays(pycrew_crew *crew)
{
    run_taken(crew);
    run_copied_back(crew);
    run_retained(crew);
    run_slices(crew);
}

/* ---- what goes wrong by itself ---- */

static void run_exception(pycrew_crew *crew)
{
    if (!STEP(pycrew_run_within(crew, BOUND, "fail_ops:fail", "s>", "this text"), PYCREW_ERAISED))
        return;
    /* Without memory for the texts the code alone is told. */
    if (atomic_load(&run->shim.fired) == 0)
        EXPECT(strcmp(pycrew_last_error()->message, "this text") == 0);
}

static void run_deadlines(pycrew_crew *crew)
{
    STEP(pycrew_run_within(crew, 20 * MS, "fail_ops:wait", ">"), -ETIMEDOUT);
    STEP(pycrew_run_within(crew, 20 * MS, "fail_ops:wait_deaf", ">"), -ETIMEDOUT);
}

static void run_death(pycrew_crew *crew)
{
    STEP(pycrew_run_within(crew, BOUND, "fail_ops:die", ">"), PYCREW_EDIED);
    run_small(crew);
}

/* The workers go with it; a call that one of them had may say so. */
/* Of those that live: their number. */
static int worker_pids(pycrew_crew *crew, int pids[WORKERS])
{
    pycrew_worker_stats workers[WORKERS];
    pycrew_stats stats = PYCREW_STATS_INIT;
    int count = 0;

    stats.worker = workers;
    stats.worker_max = WORKERS;
    if (pycrew_stats_get(crew, &stats) < 0)
        return 0;
    for (unsigned i = 0; i < stats.workers; i++)
        if (workers[i].pid != 0)
            pids[count++] = workers[i].pid;
    return count;
}

/* Its workers die with it, one by one: each may take a call before. */
static void kill_zygote(pycrew_crew *crew)
{
    int zygote = atomic_load(&crew->zygote->pid), sum = 0, rc, pids[WORKERS];
    int count = worker_pids(crew, pids);

    begin("after the zygote's death");
    kill(zygote, SIGKILL);
    rc = pycrew_run_within(crew, BOUND, "fail_ops:add", "ii>i", 3, 5, &sum);
    if (rc != 0 && rc != PYCREW_EDIED)
        is_pardoned(rc, pycrew_last_error());
    for (int i = 0; i < count; i++)
        for (int64_t until = now_ns() + BOUND; kill(pids[i], 0) == 0 && now_ns() < until;)
            pause_ns(MS);
    run_small(crew);
}

static void reload(pycrew_crew *crew)
{
    STEP(pycrew_reload(crew, BOUND), 0);
    run_small(crew);
}

static void look_at_stats(pycrew_crew *crew)
{
    pycrew_worker_stats workers[WORKERS];
    pycrew_stats stats = PYCREW_STATS_INIT;

    stats.worker = workers;
    stats.worker_max = WORKERS;
    if (STEP(pycrew_stats_get(crew, &stats), 0))
        EXPECT(stats.workers == WORKERS && stats.in_flight == 0);
}

static void run_source(pycrew_crew *crew)
{
    const pycrew_function *function = NULL;

    STEP(pycrew_function_source(crew, "twice", "def twice(a):\n    return 2 * a\n", &function), 0);
}

/* A module that is not there: whatever fails beside that, it must not be taken for a start. */
static void run_bad_start(void)
{
    static const char *const preload[] = {"no_such_module", NULL};
    pycrew_crew *crew = NULL;
    int rc = open_one(&crew, preload);

    begin("pycrew_open without the module");
    EXPECT(rc < 0);
    if (rc == 0)
        pycrew_close(crew);
    else if (rc != PYCREW_ESTART)
        is_pardoned(rc, pycrew_last_error());
    else
        EXPECT(pycrew_last_error()->message[0] != '\0');
}

/* ---- Python asks its host ---- */

static int echo_host(void *data, pycrew_host_call *call)
{
    const char *bytes;
    size_t size;
    int rc = pycrew_host_arguments(call, "y#", &bytes, &size);

    (void)data;
    return rc < 0 ? rc : pycrew_host_return(call, "y#", bytes, size);
}

static void run_asking(pycrew_crew *crew)
{
    int sizes[] = {10, 1000, LARGE_SIZE};

    if (!STEP(pycrew_export(crew, "echo", echo_host, NULL), 0))
        return;
    for (int i = 0; i < 3; i++) {
        int size = 0;

        if (STEP(pycrew_run_within(crew, BOUND, "fail_ops:ask", "i>i", sizes[i], &size), 0))
            EXPECT(size == sizes[i]);
    }
}

static void run_scenario(void)
{
    static const char *const preload[] = {"no_numpy", "fail_ops", NULL};
    pycrew_crew *crew = NULL;

    if (run->bad_start) {
        run_bad_start();
        return;
    }
    if (STEP(open_one(&crew, preload), 0)) {
        run_small(crew);
        run_source(crew);
        run_large(crew);
        run_list(crew);
        run_queued(crew);
        run_batch(crew);
        run_map(crew);
        run_arrays(crew);
        run_asking(crew);
        run_exception(crew);
        STEP(pycrew_run_within(crew, BOUND, "fail_ops:say", "s>", "a line"), 0);
        run_deadlines(crew);
        look_at_stats(crew);
        reload(crew);
        run_death(crew);
        kill_zygote(crew);
        STEP(pycrew_drain(crew, BOUND), 0);
    }
    begin("pycrew_close");
    pycrew_close(crew);
}

/* ---- what is left -----------------------------------------------------------------------------
 */

static bool has_children(void)
{
    siginfo_t info;

    return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

static void look_for_mappings(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[600];

    while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, "pycrew.") != NULL || strstr(line, "memfd:pycrew") != NULL)
            fault("a mapping is left: %.200s", line);
    if (maps != NULL)
        fclose(maps);
}

static void look_for_names(void)
{
    DIR *directory = opendir("/dev/shm");
    struct dirent *entry;
    char prefix[64];

    snprintf(prefix, sizeof prefix, "pycrew.%d.", (int)getpid());
    while (directory != NULL && (entry = readdir(directory)) != NULL)
        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0) {
            fault("a name is left: %s", entry->d_name);
            shm_unlink(entry->d_name);
        }
    if (directory != NULL)
        closedir(directory);
}

static void look_for_descriptors(struct tap_descriptor *before)
{
    if (tap_scan_descriptors(before, false) > 0)
        fault("a descriptor leaked");
}

static void look_for_what_is_left(struct tap_descriptor *before, int threads)
{
    int64_t until = now_ns() + 2 * SECOND;

    while ((has_children() || tap_count_threads() > threads) && now_ns() < until)
        pause_ns(2 * MS);
    if (has_children())
        fault("a child is left, if only as a zombie");
    if (tap_count_threads() > threads && !TAP_TSAN)
        fault("a thread is left");
    look_for_descriptors(before);
    look_for_mappings();
    look_for_names();
    if (shim_live_blocks() != 0)
        fault("%ld blocks of memory are left", shim_live_blocks());
}

/* ---- one run, in its own process ---------------------------------------------------------------
 */

static void use_failing_worker(void)
{
    const char *build = getenv("top_builddir");
    char path[4200];

    snprintf(path, sizeof path, "%s/tests/fail/pycrew-worker-fail", build != NULL ? build : ".");
    setenv("PYCREW_WORKER", path, 1);
}

__attribute__((noreturn)) static void be_host(struct run *mine, bool worker)
{
    static struct tap_descriptor before[TAP_MAX_DESCRIPTORS];
    int threads = tap_count_threads();

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    tap_scan_descriptors(before, true);
    if (worker)
        use_failing_worker();
    else
        shim = &mine->shim;
    atomic_store(&mine->shim.armed, true);
    run_scenario();
    atomic_store(&mine->shim.armed, false);
    pycrew_open(NULL, NULL); /* the last error's texts are the thread's until the next */
    look_for_what_is_left(before, threads);
    run->done = true;
    exit(0);
}

/* The host's parent, to which come the orphans that it leaves; they must be dead, or be soon. */
__attribute__((noreturn)) static void run_in_child(struct run *mine, bool worker)
{
    pid_t host, other;
    int64_t until;
    int status = 0, one;

    run = mine;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    host = fork();
    if (host == 0)
        be_host(mine, worker);
    while ((other = waitpid(-1, &one, 0)) != host && other > 0)
        continue;
    status = one;
    until = now_ns() + 2 * SECOND;
    while ((other = waitpid(-1, &one, WNOHANG)) >= 0 && now_ns() < until)
        if (other == 0)
            pause_ns(2 * MS);
    if (other >= 0)
        fault("an orphan is left");
    if (WIFSIGNALED(status))
        fault("the host died by signal %d", WTERMSIG(status));
    _exit(WIFSIGNALED(status) ? 1 : WEXITSTATUS(status));
}

/* ---- a row's runs ------------------------------------------------------------------------------
 */

static const char *const kind_names[] = {
#define KIND_NAME(kind) #kind,
    SHIM_KINDS(KIND_NAME)
#undef KIND_NAME
};

struct slot {
    pid_t pid; /* 0: free */
    unsigned number;
    int64_t until;
};

/* What a row's runs came to. */
struct tally {
    char fault[FAULT_SIZE + 200]; /* the last one */
    unsigned failures, errors, deaths, faults, place_count;
    uint32_t places[512];
    bool finished; /* a run passed without a failure */
};

static void start_run(struct run *r, const struct row *row, unsigned number, bool tracing)
{
    memset(r, 0, sizeof *r);
    r->shim.kind = row->kind;
    r->shim.how = row->how;
    r->shim.error = row->error;
    r->shim.first = number;
    r->shim.count = row->count != 0 ? row->count : 1;
    r->shim.tracing = tracing;
    r->bad_start = row->bad_start;
}

/* In a negative control it is known to hang. */
static int64_t run_limit(const struct row *row)
{
    return (int64_t)((double)(row->how == SHIM_DROP ? DROP_LIMIT : RUN_LIMIT) * tap_scale());
}

static pid_t fork_run(struct run *r, bool worker)
{
    pid_t pid = fork();

    if (pid == 0)
        run_in_child(r, worker);
    ASSERT(pid > 0);
    setpgid(pid, pid);
    return pid;
}

/* In words, what ended it; NULL: it did by itself. */
static const char *end_in_words(int status, bool late)
{
    if (late)
        return "hangs";
    if (WIFSIGNALED(status))
        return strsignal(WTERMSIG(status));
    return WEXITSTATUS(status) != 0 ? "ended with a failure (a sanitizer's?)" : NULL;
}

static void note_place(struct tally *tally, uint32_t place)
{
    for (unsigned i = 0; i < tally->place_count; i++)
        if (tally->places[i] == place)
            return;
    if (tally->place_count < 512)
        tally->places[tally->place_count++] = place;
}

static void end_run(struct run *r, const struct row *row, unsigned number, const char *end,
                    struct tally *tally)
{
    if (atomic_load(&r->shim.fired) == 0 && number > 0)
        tally->finished = true;
    else
        tally->failures++;
    tally->errors += r->errors;
    tally->deaths += r->deaths;
    note_place(tally, (uint32_t)atomic_load(&r->shim.place));
    if (end == NULL && r->fault[0] == '\0' && r->done)
        return;
    snprintf(tally->fault, sizeof tally->fault, "%s%s %u (at +0x%zx) with %s: %s in %s: %s",
             row->worker ? "worker's " : "", kind_names[row->kind], number,
             (size_t)atomic_load(&r->shim.place), strerrorname_np(row->error),
             end != NULL ? end : "a fault", r->step, r->fault);
    if (tally->faults++ < 12 && row->how != SHIM_DROP)
        DIAG("%s", tally->fault);
}

/* Looks at the runs underway: ends those that are late, takes those that have ended. */
static void look_at_runs(struct slot *slots, const struct row *row, struct tally *tally)
{
    for (int i = 0; i < RUNS_AT_ONCE; i++) {
        bool late = slots[i].pid != 0 && now_ns() > slots[i].until;
        int status;

        if (slots[i].pid == 0)
            continue;
        if (late)
            kill(-slots[i].pid, SIGKILL);
        if (waitpid(slots[i].pid, &status, late ? 0 : WNOHANG) != slots[i].pid)
            continue;
        end_run(&shared->runs[i], row, slots[i].number, end_in_words(status, late), tally);
        slots[i].pid = 0;
    }
}

/* The runs of these numbers, or, without them, from 1 until one passes without a failure. */
static struct tally do_runs(const struct row *row, const unsigned *numbers, unsigned count)
{
    struct slot slots[RUNS_AT_ONCE] = {{0}};
    struct tally tally = {0};
    unsigned next = 0;

    for (bool busy = true; busy; pause_ns(MS)) {
        look_at_runs(slots, row, &tally);
        busy = false;
        for (int i = 0; i < RUNS_AT_ONCE; i++) {
            bool more = numbers != NULL ? next < count : !tally.finished;

            if (slots[i].pid == 0 && more) {
                slots[i].number = numbers != NULL ? numbers[next] : next + 1;
                slots[i].until = now_ns() + run_limit(row);
                start_run(&shared->runs[i], row, slots[i].number, false);
                slots[i].pid = fork_run(&shared->runs[i], row->worker);
                next++;
            }
            busy |= slots[i].pid != 0;
        }
    }
    return tally;
}

/* A run in which nothing fails: what is called in which order. */
static const struct run *dry_run(bool worker)
{
    static const struct row row = {.kind = SHIM_KIND_COUNT};
    struct run *r = worker ? &shared->worker_dry : &shared->dry;
    int status;
    pid_t pid;

    if (shared->is_dry_run_done[worker])
        return r;
    start_run(r, &row, 0, true);
    pid = fork_run(r, worker);
    ASSERT(waitpid(pid, &status, 0) == pid);
    if (!r->done || status != 0 || r->fault[0] != '\0')
        tap_fail("without a failure: status %d, in %s: %s", status, r->step, r->fault);
    ASSERT_INT(r->errors, 0);
    shared->is_dry_run_done[worker] = true;
    return r;
}

/* Of each place's calls the first and the last; where all is the worker's, the first. */
static unsigned choose(const struct row *row, unsigned *numbers, unsigned max)
{
    const struct run *dry = dry_run(row->worker);
    unsigned calls = atomic_load(&dry->shim.calls[row->kind]), count = 0;
    const uint32_t *trace = dry->shim.trace[row->kind];

    if (calls > SHIM_TRACE)
        calls = SHIM_TRACE;
    for (unsigned i = 0; i < calls && count < max; i++) {
        unsigned before = 0, after = 0;

        for (unsigned j = 0; j < calls; j++) {
            before += j < i && trace[j] == trace[i];
            after += j > i && trace[j] == trace[i];
        }
        if (before == 0 || (after == 0 && !row->worker))
            numbers[count++] = i + 1;
    }
    return count;
}

/* Where no place is known from a run without a failure: every other one. */
static unsigned choose_some(const struct row *row, unsigned *numbers, unsigned max)
{
    unsigned count = 0;

    if (row->how != SHIM_CUT && !row->bad_start)
        return choose(row, numbers, max);
    for (; count < SAMPLE; count++)
        numbers[count] = 1 + 2 * count;
    return count;
}

static unsigned thin_out(unsigned *numbers, unsigned count)
{
    if (count <= SAMPLE)
        return count;
    for (unsigned i = 0; i < SAMPLE; i++)
        numbers[i] = numbers[i * count / SAMPLE];
    return SAMPLE;
}

static struct tally do_row(const struct row *row)
{
    static unsigned numbers[SHIM_TRACE];
    const char *which = getenv("PYCREW_FAIL");
    unsigned count;

    if (which != NULL && strcmp(which, "all") == 0)
        return do_runs(row, NULL, 0);
    if (which != NULL && atoi(which) > 0) {
        numbers[0] = (unsigned)atoi(which);
        return do_runs(row, numbers, 1);
    }
    count = choose_some(row, numbers, SHIM_TRACE);
    if (which == NULL)
        count = thin_out(numbers, count);
    return do_runs(row, numbers, count);
}

static void fail_each(struct row row)
{
    struct tally tally = do_row(&row);

    DIAG("%u failures at %u places, %u errors (%u of them PYCREW_EDIED), all others survived "
         "unnoticed",
         tally.failures, tally.place_count, tally.errors, tally.deaths);
    shared->rows++;
    shared->failures += tally.failures;
    shared->places += tally.place_count;
    shared->errors += tally.errors;
    ASSERT_INT(tally.faults, 0);
}

/* ---- the tests ---------------------------------------------------------------------------------
 */

enum { MINUTES = 60, ROW_LIMIT = 20 * MINUTES };

static void look_at_dry_run(bool worker)
{
    const struct run *dry = dry_run(worker);

    for (int kind = 0; kind < SHIM_KIND_COUNT; kind++)
        if (atomic_load(&dry->shim.calls[kind]) > 0)
            DIAG("%s: %u calls", kind_names[kind], atomic_load(&dry->shim.calls[kind]));
}

TEST(without_a_failure_all_is_well)
{
    look_at_dry_run(false);
}

TEST(without_a_failure_all_is_well_with_the_worker_under_test)
{
    look_at_dry_run(true);
}

/* ---- negative controls: what the runs find ---- */

/* The library is told that what it did was done, and it was not. */
static void expect_fault(enum shim_kind kind, unsigned number, const char *wanted)
{
    struct row row = {.kind = kind, .how = SHIM_DROP};
    struct tally tally = do_runs(&row, &number, 1);

    ASSERT_INT(tally.failures, 1);
    ASSERT_INT(tally.faults, 1);
    CONTAINS(tally.fault, wanted);
}

TEST(a_descriptor_that_is_not_closed_is_found)
{
    expect_fault(SHIM_close, 1, "a descriptor leaked");
}

TEST(memory_that_is_not_freed_is_found)
{
    expect_fault(SHIM_free, 3, "1 blocks of memory are left");
}

TEST(a_zombie_is_found)
{
    expect_fault(SHIM_waitid, 1, "a child is left");
}

TEST(a_mapping_that_is_left_is_found)
{
    expect_fault(SHIM_munmap, atomic_load(&dry_run(false)->shim.calls[SHIM_munmap]) - 1,
                 "a mapping is left");
}

TEST(a_start_that_hangs_is_found)
{
    expect_fault(SHIM_sendmsg, 1, "hangs in open_one"); /* the workers' options */
}

/* ---- the rows ---- */

#define ROW(test, ...)                                                                             \
    TEST_LIMIT(test, ROW_LIMIT)                                                                    \
    {                                                                                              \
        fail_each((struct row){__VA_ARGS__});                                                      \
    }

#define ONE(what, k, e) ROW(the_crew_survives_##what, .kind = SHIM_##k, .error = (e))
#define TEN(what, k, e) ROW(the_crew_survives_##what, .kind = SHIM_##k, .error = (e), .count = 10)
#define WORKER(what, k, e)                                                                         \
    ROW(the_crew_survives_workers_with_##what, .kind = SHIM_##k, .error = (e), .worker = true)
#define CUT(what, k, e)                                                                            \
    ROW(the_crew_survives_##what, .kind = SHIM_##k, .error = (e), .how = SHIM_CUT)

ONE(memory_that_is_not_there, memory, ENOMEM)
TEN(memory_that_is_not_there_ten_times, memory, ENOMEM)
ONE(a_mapping_that_fails, mmap, ENOMEM)
ONE(a_protection_that_fails, mprotect, ENOMEM)
ONE(pages_that_cannot_be_had, madvise, EFAULT)
ONE(pages_that_cannot_be_had_now, madvise, EAGAIN)
ONE(pages_that_cannot_be_asked_about, mincore, EAGAIN)
ONE(a_file_for_which_no_descriptor_is_left, open, EMFILE)
TEN(ten_files_for_which_no_descriptor_is_left, open, ENFILE)
ONE(a_read_that_is_interrupted, read, EINTR)
ONE(a_write_that_is_interrupted, write, EINTR)
ONE(a_close_that_is_interrupted, close, EINTR)
ONE(a_descriptor_that_cannot_be_copied, fcntl, EMFILE)
ONE(a_status_that_is_not_told, stat, ENOMEM)
ONE(a_name_that_cannot_be_made, shm_open, ENOSPC)
ONE(a_memfd_that_cannot_be_made, memfd_create, ENFILE)
ONE(a_size_that_cannot_be_set, ftruncate, ENOSPC)
ONE(a_reservation_without_space, posix_fallocate, ENOSPC)
ONE(a_reservation_that_is_interrupted, posix_fallocate, EINTR)
ONE(a_hole_that_cannot_be_made, fallocate, ENOMEM)
ONE(a_socket_that_cannot_be_made, socketpair, EMFILE)
ONE(a_pipe_that_cannot_be_made, pipe, ENFILE)
ONE(an_eventfd_that_cannot_be_made, eventfd, EMFILE)
ONE(a_message_that_cannot_be_sent, sendmsg, ENOBUFS)
ONE(a_message_that_cannot_be_sent_now, sendmsg, EAGAIN)
ONE(a_message_whose_sending_is_interrupted, sendmsg, EINTR)
ONE(a_message_that_cannot_be_received, recvmsg, ENOMEM)
ONE(a_message_whose_receipt_is_interrupted, recvmsg, EINTR)
CUT(a_message_whose_descriptors_are_lost, recvmsg, EMFILE)
ONE(a_poll_that_fails, poll, ENOMEM)
ONE(a_poll_that_is_interrupted, poll, EINTR)
ONE(a_process_that_cannot_be_started, posix_spawn, EAGAIN)
ONE(a_start_that_cannot_be_prepared, spawn_setup, ENOMEM)
ONE(a_pidfd_that_cannot_be_had, pidfd_open, EMFILE)
ONE(a_barrier_that_the_kernel_does_not_know, membarrier, ENOSYS)
ONE(a_sleep_that_is_interrupted, futex, EINTR)
ONE(a_pause_that_is_interrupted, nanosleep, EINTR)
ONE(a_child_that_somebody_else_has_reaped, waitid, ECHILD)
ONE(a_thread_that_cannot_be_started, pthread_create, EAGAIN)
ONE(a_key_that_cannot_be_had, pthread_key, EAGAIN)
ONE(cpus_that_cannot_be_counted, affinity, EINVAL)

WORKER(memory_that_is_not_there, memory, ENOMEM)
WORKER(a_mapping_that_fails, mmap, ENOMEM)
WORKER(a_protection_that_fails, mprotect, ENOMEM)
WORKER(pages_that_cannot_be_had, madvise, EFAULT)
WORKER(a_file_for_which_no_descriptor_is_left, open, EMFILE)
WORKER(a_read_that_is_interrupted, read, EINTR)
WORKER(a_write_that_is_interrupted, write, EINTR)
WORKER(a_close_that_is_interrupted, close, EINTR)
WORKER(a_descriptor_that_cannot_be_copied, dup2, EMFILE)
WORKER(a_status_that_is_not_told, stat, ENOMEM)
WORKER(a_message_that_cannot_be_sent, sendmsg, ENOBUFS)
WORKER(a_message_whose_sending_is_interrupted, sendmsg, EINTR)
WORKER(a_message_that_cannot_be_received, recvmsg, ENOMEM)
WORKER(a_message_whose_receipt_is_interrupted, recvmsg, EINTR)
WORKER(a_poll_that_fails, poll, ENOMEM)
WORKER(a_poll_that_is_interrupted, poll, EINTR)
WORKER(a_fork_that_fails, fork, EAGAIN)
WORKER(a_pidfd_that_cannot_be_had, pidfd_open, EMFILE)
WORKER(a_sleep_that_is_interrupted, futex, EINTR)
WORKER(a_child_that_somebody_else_has_reaped, waitid, ECHILD)
WORKER(a_process_that_cannot_be_set_up, prctl, EPERM)
WORKER(cpus_that_cannot_be_counted, affinity, EINVAL)
ROW(the_crew_survives_workers_with_messages_whose_descriptors_are_lost, .kind = SHIM_recvmsg,
    .error = EMFILE, .how = SHIM_CUT, .worker = true)
ROW(a_start_that_fails_is_told_without_memory, .kind = SHIM_memory, .error = ENOMEM,
    .bad_start = true)
ROW(a_start_that_fails_is_told_by_workers_without_memory, .kind = SHIM_memory, .error = ENOMEM,
    .worker = true, .bad_start = true)

/* ---- the sum ---- */

TEST(the_sum_of_all_rows)
{
    DIAG("%u rows, %u failures at %u places, %u errors", shared->rows, shared->failures,
         shared->places, shared->errors);
}

TAP_MAIN
