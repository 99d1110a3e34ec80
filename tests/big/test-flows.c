/* Long flows through a crew: arrays whose sum is far more than the memory, and records from a pipe.
 * Memory stays what it was after the first part, and everything comes out right. */
#include "tests/big/big.h"

/* ---- memory, watched ------------------------------------------------------------------------- */

enum { PROCESSES_MAX = 8 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SANITIZED = 1 }; /* what was freed is kept, to find uses of it */
#else
enum { IS_SANITIZED = 0 };
#endif

typedef struct watch {
    pthread_t thread;
    atomic_bool stop;
    int pids[PROCESSES_MAX];
    int count;
    bool has_segment;
    /* Since the last look: memory of the processes' own, and what they share, which is counted
     * once. */
    _Atomic size_t peaks[PROCESSES_MAX], segment;
    atomic_uint samples;
} watch;

static void raise_to(_Atomic size_t *peak, size_t value)
{
    size_t before = atomic_load(peak);

    while (value > before && !atomic_compare_exchange_weak(peak, &before, value))
        continue;
}

static void *watch_them(void *data)
{
    watch *w = data;

    while (!atomic_load(&w->stop)) {
        for (int i = 0; i < w->count; i++)
            raise_to(&w->peaks[i], of_process(w->pids[i], "status", "RssAnon:"));
        if (w->has_segment)
            raise_to(&w->segment, segment_blocks());
        atomic_fetch_add(&w->samples, 1);
        pause_ns(10 * MS);
    }
    return NULL;
}

static void watch_start(watch *w)
{
    ASSERT_INT(pthread_create(&w->thread, NULL, watch_them, w), 0);
}

static void watch_stop(watch *w)
{
    atomic_store(&w->stop, true);
    pthread_join(w->thread, NULL);
}

typedef struct peaks {
    size_t segment, process[PROCESSES_MAX];
    unsigned samples;
} peaks;

/* Those since the last time. */
static peaks take_peaks(watch *w)
{
    peaks taken;

    AWAIT(atomic_load(&w->samples) >= 3); /* on a busy machine that thread may have had no turn */
    taken = (peaks){.segment = atomic_exchange(&w->segment, 0),
                    .samples = atomic_exchange(&w->samples, 0)};

    for (int i = 0; i < w->count; i++)
        taken.process[i] = atomic_exchange(&w->peaks[i], 0);
    return taken;
}

static void say_peaks(const char *what, const watch *w, const peaks *p)
{
    char text[256];
    int length = 0;

    for (int i = 0; i < w->count; i++)
        length += snprintf(text + length, sizeof text - (size_t)length, " %.1f",
                           (double)p->process[i] / (double)MIB);
    DIAG("%s: peaks in MiB: segment %.1f, processes%s; %u samples", what,
         (double)p->segment / (double)MIB, text, p->samples);
}

/* What is in flight, and so in the segment, differs from moment to moment; by how much is bounded.
 */
#define SEGMENT_SLACK (24 * MIB)

static void check_flat(const watch *w, const peaks *first, const peaks *rest, size_t slack)
{
    for (int i = 0; i < w->count && !IS_SANITIZED; i++)
        if (rest->process[i] > first->process[i] + slack)
            tap_fail("process %d of %d had %zu KiB in the first part, and then %zu KiB", i,
                     w->count, first->process[i] / KIB, rest->process[i] / KIB);
    if (rest->segment > first->segment + SEGMENT_SLACK)
        tap_fail("the segment had %zu KiB in the first part, and then %zu KiB",
                 first->segment / KIB, rest->segment / KIB);
}

static watch watch_crew(void)
{
    watch w = {.pids = {getpid()}, .has_segment = true};

    w.count = 1 + find_workers(w.pids + 1, PROCESSES_MAX - 1);
    return w;
}

/* ---- arrays ---------------------------------------------------------------------------------- */

#define ARRAY_BYTES (8 * MIB)

enum { IN_FLIGHT = 4, COUNT = ARRAY_BYTES / sizeof(double) };

typedef struct piece {
    pycrew_call *call;
    double *data;
    size_t number;
} piece;

static void send_piece(pycrew_crew *crew, piece *p, size_t number)
{
    pycrew_array array;

    p->number = number;
    p->data = pycrew_alloc(crew, ARRAY_BYTES);
    if (p->data == NULL)
        tap_fail("array %zu: %s", number, pycrew_last_error()->message);
    for (size_t i = 0; i < COUNT; i++)
        p->data[i] = (double)(number + i);
    array = array_at(p->data, PYCREW_F64, COUNT, 0);
    p->call = SUBMIT(crew, number % 2 == 0 ? "big_ops:ends" : "big_ops:swapped", "A", &array);
}

static void check_ends(const piece *p)
{
    double sum = 0;
    long long length = 0;

    OK(pycrew_result(p->call, "dL", &sum, &length));
    ASSERT(sum == (double)(2 * p->number + COUNT - 1));
    ASSERT_INT(length, COUNT);
}

static void check_swapped(const piece *p)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    const double *data;

    OK(pycrew_result_array(p->call, &array));
    data = array.data;
    ASSERT(data != p->data);
    ASSERT_INT(array.shape[0], COUNT);
    ASSERT(data[0] == p->data[COUNT - 1] && data[COUNT - 1] == p->data[0]);
    ASSERT(data[COUNT / 2] == p->data[COUNT / 2]);
}

static void receive_piece(pycrew_crew *crew, piece *p)
{
    OK(pycrew_wait(p->call, BOUND));
    if (p->number % 2 == 0)
        check_ends(p);
    else
        check_swapped(p);
    pycrew_release(p->call);
    pycrew_free(crew, p->data);
}

/* Arrays of so many bytes together, to the workers; half of them come back as others. GB/s. */
static double flow(pycrew_crew *crew, size_t bytes)
{
    size_t count = bytes / ARRAY_BYTES;
    piece pieces[IN_FLIGHT];
    int64_t begin = now_ns();

    for (size_t i = 0; i < count + IN_FLIGHT; i++) {
        piece *p = &pieces[i % IN_FLIGHT];

        if (i >= IN_FLIGHT)
            receive_piece(crew, p);
        if (i < count)
            send_piece(crew, p, i);
    }
    return (double)count * (double)ARRAY_BYTES / (double)(now_ns() - begin);
}

static int compare_rates(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;

    return (left > right) - (left < right);
}

TEST_LIMIT(arrays_of_far_more_bytes_than_memory_flow_through_it, 1800)
{
    enum { PARTS_MAX = 20 };
    size_t bytes = sized(256 * MIB, (size_t)10 * 1000 * 1000 * 1000), parts = sized(2, PARTS_MAX);
    size_t memory = 256 * MIB;
    pycrew_crew *crew = open_with_memory(2, memory);
    double first_rate, last_rate, rates[PARTS_MAX];
    peaks first, rest;
    watch w;

    need_numpy(crew);
    flow(crew, 256 * MIB); /* and both workers are there */
    w = watch_crew();
    ASSERT_INT(w.count, 3);
    watch_start(&w);
    first_rate = flow(crew, bytes);
    first = take_peaks(&w);
    say_peaks("first part", &w, &first);
    for (size_t i = 0; i < parts; i++)
        rates[i] = flow(crew, bytes);
    last_rate = rates[parts - 1];
    rest = take_peaks(&w);
    say_peaks("the rest", &w, &rest);
    watch_stop(&w);
    qsort(rates, parts, sizeof rates[0], compare_rates);
    DIAG("%.1f GB at %.2f GB/s, then %zu times as much, at %.2f to %.2f GB/s, median %.2f, last "
         "%.2f",
         (double)bytes / 1e9, first_rate, parts, rates[0], rates[parts - 1], rates[parts / 2],
         last_rate);
    ASSERT(rest.segment <= memory);
    check_flat(&w, &first, &rest, 6 * MIB);
    ASSERT(rates[parts - 1] > first_rate / 3); /* the machine may have become busy meanwhile */
    pycrew_close(crew);
}

/* ---- records from a pipe --------------------------------------------------------------------- */

/* A process that writes count lines: "7 word7". */
static int start_writer(size_t count, const char *format, int *ret_fd)
{
    int ends[2], pid;

    ASSERT_INT(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    ASSERT(pid >= 0);
    if (pid == 0) {
        FILE *to;

        signal(SIGPIPE, SIG_DFL);
        close(ends[0]);
        to = fdopen(ends[1], "w");
        for (size_t i = 0; to != NULL && i < count; i++)
            fprintf(to, format, i, i); /* NOLINT: a constant of this file */
        _exit(to == NULL || fclose(to) != 0);
    }
    close(ends[1]);
    *ret_fd = ends[0];
    return pid;
}

static void end_writer(int pid)
{
    int status = 0;

    ASSERT(waitpid(pid, &status, 0) == pid);
    ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static size_t record_count(void)
{
    return sized(300 * 1000, (size_t)10 * 1000 * 1000);
}

typedef struct records {
    pycrew_batch *batch;
    FILE *from;
    bool with_text;
    size_t added, out;
} records;

/* 0 where all are in. */
static int add_line(records *r)
{
    static _Thread_local char line[100];
    char *word;
    long long number;
    int rc;

    if (line[0] == '\0' && fgets(line, sizeof line, r->from) == NULL)
        return 0;
    number = strtoll(line, &word, 10);
    word[strcspn(word, "\n")] = '\0';
    rc = r->with_text ? pycrew_batch_add_within(r->batch, BOUND, "Ls", number, word + 1)
                      : pycrew_batch_add_within(r->batch, BOUND, "LL", number, number + 1);
    if (rc == -EAGAIN)
        return rc;
    OK(rc);
    line[0] = '\0';
    r->added++;
    return 1;
}

static void take_record(records *r)
{
    long long number = -1;
    const char *text = NULL;
    char expected[40];

    GIVES(pycrew_batch_next(r->batch, BOUND), 1);
    if (pycrew_batch_error(r->batch) != NULL)
        tap_fail("record %zu: %s", r->out, pycrew_batch_error(r->batch)->message);
    ASSERT_INT(pycrew_batch_index(r->batch), r->out);
    if (r->with_text) {
        OK(pycrew_batch_result(r->batch, "Ls", &number, &text));
        snprintf(expected, sizeof expected, "WORD-%zu", r->out);
        ASSERT_INT(number, r->out);
        if (strcmp(text, expected) != 0)
            tap_fail("record %zu is %s", r->out, text);
    } else {
        OK(pycrew_batch_result(r->batch, "L", &number));
        if (number != 2 * (long long)r->out + 1)
            tap_fail("record %zu is %lld", r->out, number);
    }
    r->out++;
}

/* Until so many are out. */
static void run_records(records *r, size_t until)
{
    while (r->out < until) {
        int rc = r->from == NULL ? 0 : add_line(r);

        if (rc == 0 && r->from != NULL) {
            fclose(r->from);
            r->from = NULL;
            OK(pycrew_batch_end(r->batch));
        }
        if (rc <= 0)
            take_record(r);
    }
}

static void check_batch(bool with_text)
{
    size_t count = record_count();
    pycrew_crew *crew = open_with_memory(2, 64 * MIB);
    records r = {.with_text = with_text};
    peaks first, rest;
    int64_t begin;
    int fd, pid = start_writer(count, "%zu word-%zu\n", &fd);
    watch w;

    r.from = fdopen(fd, "r");
    ASSERT(r.from != NULL);
    OK(pycrew_batch_open(crew, function_of(crew, with_text ? "big_ops:upper" : "big_ops:total"),
                         NULL, &r.batch));
    run_records(&r, count / 10);
    w = watch_crew();
    watch_start(&w);
    begin = now_ns();
    run_records(&r, count / 2);
    first = take_peaks(&w);
    say_peaks("to the half", &w, &first);
    run_records(&r, count);
    rest = take_peaks(&w);
    say_peaks("to the end", &w, &rest);
    DIAG("%.0f records/s", (double)(count - count / 10) * 1e9 / (double)(now_ns() - begin));
    watch_stop(&w);
    ASSERT_INT(r.added, count);
    OK(pycrew_batch_next(r.batch, BOUND));
    check_flat(&w, &first, &rest, 6 * MIB);
    pycrew_batch_close(r.batch);
    end_writer(pid);
    pycrew_close(crew);
}

TEST_LIMIT(a_batch_of_numbers_from_a_pipe_takes_no_more_memory_the_longer_it_gets, 600)
{
    check_batch(false);
}

TEST_LIMIT(a_batch_of_texts_from_a_pipe_takes_no_more_memory_the_longer_it_gets, 600)
{
    check_batch(true);
}

/* ---- the command ----------------------------------------------------------------------------- */

static int start_command(int input, int *ret_output)
{
    const char *build = getenv("top_builddir");
    char program[4096];
    int ends[2], pid;

    snprintf(program, sizeof program, "%s/cli/pycrew", build != NULL ? build : ".");
    if (access(program, X_OK) < 0)
        SKIP("%s is not there", program);
    ASSERT_INT(pipe2(ends, O_CLOEXEC), 0);
    pid = fork();
    ASSERT(pid >= 0);
    if (pid == 0) {
        dup2(input, 0);
        dup2(ends[1], 1);
        execl(program, program, "map", "-q", "-j", "2", "--path", test_path()[0], "big_ops:doubled",
              NULL);
        _exit(127);
    }
    close(input);
    close(ends[1]);
    *ret_output = ends[0];
    return pid;
}

/* Results [begin, end) are as they should be. */
static void read_results(FILE *from, size_t begin, size_t end)
{
    char line[100];

    for (size_t i = begin; i < end; i++) {
        if (fgets(line, sizeof line, from) == NULL)
            tap_fail("there are %zu results", i);
        if (strtoull(line, NULL, 10) != 2 * i)
            tap_fail("result %zu is %s", i, line);
    }
}

TEST_LIMIT(the_command_takes_no_more_memory_the_longer_the_pipe_gives_records, 600)
{
    size_t count = record_count();
    int records_fd, results_fd, writer = start_writer(count, "%zu\n", &records_fd);
    int pid = start_command(records_fd, &results_fd);
    FILE *from = fdopen(results_fd, "r");
    peaks first, rest;
    int64_t begin;
    char line[100];
    watch w = {.pids = {pid}, .count = 1};

    ASSERT(from != NULL);
    read_results(from, 0, count / 10);
    watch_start(&w);
    begin = now_ns();
    read_results(from, count / 10, count / 2);
    first = take_peaks(&w);
    say_peaks("to the half", &w, &first);
    read_results(from, count / 2, count);
    rest = take_peaks(&w);
    say_peaks("to the end", &w, &rest);
    DIAG("%.0f records/s", (double)(count - count / 10) * 1e9 / (double)(now_ns() - begin));
    watch_stop(&w);
    ASSERT(fgets(line, sizeof line, from) == NULL);
    fclose(from);
    end_writer(pid);
    end_writer(writer);
    check_flat(&w, &first, &rest, 6 * MIB);
}

TAP_MAIN
