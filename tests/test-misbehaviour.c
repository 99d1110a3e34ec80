/* User code that misbehaves, in every way we could think of. Each time: the call's end is truthful,
 * calls of others are not disturbed, the crew works on with right results, and nothing is left.
 *
 * The functions are in tests/py/misuse_ops.py. */
#include <sys/prctl.h>
#include <sys/resource.h>

#include "tests/harness/crew.h"

/* What a loaded machine may add to a deadline and its grace. */
#define SLACK (3 * SECOND)

/* misuse_ops takes its time to be imported: that is not what is tested here. */
static pycrew_options misuse_options(unsigned workers)
{
    static const char *const preload[] = {"misuse_ops", NULL};
    pycrew_options options = test_options(workers);

    options.preload = preload;
    return options;
}

static pycrew_crew *open_misused(unsigned workers)
{
    pycrew_options options = misuse_options(workers);

    return open_with(&options);
}

/* Right results, and all workers are there (orphans of theirs are children of the zygote as well).
 */
static void works_on(pycrew_crew *crew, int workers)
{
    pycrew_call *calls[16];
    int pids[8];

    AWAIT(find_workers(pids, 8) >= workers);
    for (int i = 0; i < 16; i++)
        calls[i] = SUBMIT(crew, "misuse_ops:add", "ii", i, 100);
    for (int i = 0; i < 16; i++) {
        int sum = -1;

        OK(pycrew_wait(calls[i], BOUND));
        OK(pycrew_result(calls[i], "i", &sum));
        ASSERT_INT(sum, i + 100);
        pycrew_release(calls[i]);
    }
}

static void crew_closes_soon(pycrew_crew *crew)
{
    int64_t begun = now_ns();

    pycrew_close(crew);
    if (now_ns() - begun > (int64_t)((double)SLACK * tap_scale()))
        tap_fail("pycrew_close took %lld ms", (long long)((now_ns() - begun) / MS));
}

/* ---- ends of all kinds ------------------------------------------------------------------------
 */

typedef struct ending {
    int code, signal, status;
    const char *type, *traceback; /* parts of them; traceback NULL: there is none */
} ending;

static void expect_ending(const ending *expected, int attempts)
{
    const pycrew_error *e = pycrew_last_error();

    ASSERT_INT(e->signal, expected->signal);
    ASSERT_INT(e->exit_status, expected->status);
    ASSERT_INT(e->attempts, attempts);
    ASSERT(e->may_have_run);
    ASSERT(!e->out_of_memory);
    if (expected->type != NULL)
        ASSERT_STR(e->type, expected->type);
    if (expected->traceback != NULL)
        CONTAINS(e->traceback, expected->traceback);
    else if (e->traceback != NULL)
        tap_fail("there is a traceback: %s", e->traceback);
}

/* Ends a call in that way while another runs beside it, which is not to notice. */
static void ends_as(const char *function, const char *how, ending expected)
{
    pycrew_crew *crew = open_misused(2);
    const char *path = scratch("beside");
    pycrew_call *beside = SUBMIT(crew, "misuse_ops:sleep", "ds", 0.05, path);

    AWAIT(file_size(path) == 1);
    if (how != NULL)
        GIVES(pycrew_run(crew, function, "s>", how), expected.code);
    else
        GIVES(pycrew_run(crew, function, ">"), expected.code);
    expect_ending(&expected, 1);
    OK(pycrew_wait(beside, BOUND));
    pycrew_release(beside);
    works_on(crew, 2);
    crew_closes_soon(crew);
}

TEST(os_exit_is_told_with_its_status)
{
    ends_as("misuse_ops:leave", "_exit", (ending){.code = PYCREW_EDIED, .status = 7});
}

TEST(sys_exit_is_an_exception_and_no_death)
{
    ends_as("misuse_ops:leave", "exit",
            (ending){.code = PYCREW_ERAISED, .type = "SystemExit", .traceback = "in leave"});
}

TEST(SystemExit_is_an_exception_and_no_death)
{
    ends_as("misuse_ops:leave", "SystemExit",
            (ending){.code = PYCREW_ERAISED, .type = "SystemExit", .traceback = "in leave"});
}

TEST(KeyboardInterrupt_is_an_exception_and_no_death)
{
    ends_as("misuse_ops:leave", "KeyboardInterrupt",
            (ending){.code = PYCREW_ERAISED, .type = "KeyboardInterrupt", .traceback = "in leave"});
}

TEST(GeneratorExit_is_an_exception_and_no_death)
{
    ends_as("misuse_ops:leave", "GeneratorExit",
            (ending){.code = PYCREW_ERAISED, .type = "GeneratorExit", .traceback = "in leave"});
}

TEST(os_abort_is_told_with_the_python_stack)
{
    ends_as("misuse_ops:leave", "abort",
            (ending){.code = PYCREW_EDIED, .signal = SIGABRT, .traceback = "in leave"});
}

TEST(a_segfault_is_told_with_the_python_stack)
{
    ends_as("misuse_ops:leave", "segfault",
            (ending){.code = PYCREW_EDIED, .signal = SIGSEGV, .traceback = "in leave"});
}

TEST(a_stack_overflow_in_C_is_told_with_the_python_stack)
{
    ends_as("misuse_ops:overflow", NULL,
            (ending){.code = PYCREW_EDIED, .signal = SIGSEGV, .traceback = "in again"});
}

TEST(a_SIGTERM_to_itself_is_told)
{
    ends_as("misuse_ops:leave", "TERM", (ending){.code = PYCREW_EDIED, .signal = SIGTERM});
}

TEST(an_exit_in_a_thread_of_the_call_is_told)
{
    ends_as("misuse_ops:leave", "thread", (ending){.code = PYCREW_EDIED, .status = 8});
}

TEST(a_program_run_over_the_worker_is_its_end)
{
    pycrew_crew *crew = open_misused(1);

    /* by itself, or because it is seen before */
    GIVES(pycrew_run(crew, "misuse_ops:leave", "s>", "exec"), PYCREW_EDIED);
    ASSERT(pycrew_last_error()->may_have_run);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_program_run_over_the_worker_that_stays_is_ended)
{
    ends_as("misuse_ops:leave", "exec that stays",
            (ending){.code = PYCREW_EDIED, .signal = SIGKILL});
}

TEST(a_used_up_CPU_limit_is_told)
{
    ends_as("misuse_ops:leave", "CPU", (ending){.code = PYCREW_EDIED, .signal = SIGXCPU});
}

TEST(memory_beyond_RLIMIT_AS_is_a_MemoryError)
{
    pycrew_crew *crew = open_misused(1);
    int before, after;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    GIVES(pycrew_run(crew, "misuse_ops:out_of_address_space", "p>", 0), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "MemoryError");
    CONTAINS(pycrew_last_error()->traceback, "in out_of_address_space");
    works_on(crew, 1);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT_INT(after, before);
    crew_closes_soon(crew);
}

/* Small calls go on; large ones say that there is no memory. */
TEST(a_worker_whose_RLIMIT_AS_stays_low_tells_the_truth)
{
    pycrew_crew *crew = open_misused(1);
    static char large[64 << 20];
    size_t size = 0;

    GIVES(pycrew_run(crew, "misuse_ops:out_of_address_space", "p>", 1), PYCREW_ERAISED);
    works_on(crew, 1);
    for (int i = 0; i < 3; i++) {
        GIVES(pycrew_run(crew, "api_ops:length", "y#>n", large, sizeof large, &size),
              PYCREW_ERAISED);
        ASSERT_STR(pycrew_last_error()->type, "MemoryError");
    }
    works_on(crew, 1);
    crew_closes_soon(crew);
}

/* ---- processes --------------------------------------------------------------------------------
 */

static void child_ends_with(const char *how, int status)
{
    pycrew_crew *crew = open_misused(1);
    int ended = -1;

    for (int i = 0; i < 2; i++) {
        OK(pycrew_run(crew, "misuse_ops:fork_and", "s>i", how, &ended));
        ASSERT_INT(ended, status);
    }
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_child_that_returns_from_the_function_ends_there)
{
    child_ends_with("return", 99);
}

TEST(a_child_that_raises_out_of_the_function_ends_there)
{
    child_ends_with("raise", 99);
}

TEST(a_child_that_raises_SystemExit_out_of_the_function_ends_there)
{
    child_ends_with("sys.exit", 99);
}

TEST(a_child_may_run_another_program)
{
    child_ends_with("exec", 0);
}

TEST(a_child_may_exit)
{
    child_ends_with("exit", 4);
}

TEST(a_child_may_crash)
{
    child_ends_with("segfault", -SIGSEGV);
}

static void no_stack_of_a_child(const char *how)
{
    pycrew_crew *crew = open_misused(1);

    GIVES(pycrew_run(crew, "misuse_ops:fork_and_die", "s>", how), PYCREW_EDIED);
    expect_ending(&(ending){.signal = SIGKILL}, 1);
    crew_closes_soon(crew);
}

TEST(the_stack_of_a_child_that_crashed_is_not_shown_as_the_workers)
{
    no_stack_of_a_child("segfault");
}

TEST(a_child_that_returned_leaves_no_stack)
{
    no_stack_of_a_child("return");
}

static void dies_with_its_worker(const char *function, const char *format, int argument)
{
    pycrew_crew *crew = open_misused(1);
    int zygote = find_zygote(), child = 0;

    if (*format != '\0')
        OK(pycrew_run(crew, function, "p>i", argument, &child));
    else
        OK(pycrew_run(crew, function, ">i", &child));
    ASSERT(child > 0 && kill(child, 0) == 0);
    GIVES(pycrew_run(crew, "misuse_ops:leave", "s>", "_exit"), PYCREW_EDIED);
    AWAIT(kill(child, 0) < 0);
    works_on(crew, 1);
    ASSERT_INT(find_zygote(), zygote);
    crew_closes_soon(crew);
}

TEST(a_child_that_outlives_the_call_dies_with_its_worker)
{
    dies_with_its_worker("misuse_ops:fork_that_outlives", "p", 0);
}

TEST(a_child_in_a_session_of_its_own_dies_with_its_worker)
{
    dies_with_its_worker("misuse_ops:fork_that_outlives", "p", 1);
}

TEST(a_program_in_a_session_of_its_own_dies_with_its_worker)
{
    dies_with_its_worker("misuse_ops:session_of_its_own", "", 0);
}

TEST(a_child_of_a_worker_that_left_its_process_group_dies_with_it)
{
    dies_with_its_worker("misuse_ops:leave_group", "", 0);
}

TEST(a_daemon_dies_with_its_worker)
{
    dies_with_its_worker("misuse_ops:daemonize", "", 0);
}

TEST(a_daemon_dies_with_the_crew)
{
    pycrew_crew *crew = open_misused(1);
    int daemon = 0;

    OK(pycrew_run(crew, "misuse_ops:daemonize", ">i", &daemon));
    ASSERT(daemon > 0 && kill(daemon, 0) == 0);
    works_on(crew, 1);
    crew_closes_soon(crew);
    AWAIT(kill(daemon, 0) < 0);
}

TEST(the_death_of_a_worker_does_not_hit_another_ones_daemon)
{
    pycrew_crew *crew = open_misused(2);
    const char *there = scratch("there"), *go = scratch("go");
    /* the daemon's worker is held while the other one is told to die */
    pycrew_call *call = SUBMIT(crew, "misuse_ops:daemonize_and_wait", "ss", there, go);
    int daemon = 0;

    AWAIT(file_size(there) == 1);
    GIVES(pycrew_run(crew, "misuse_ops:leave", "s>", "_exit"), PYCREW_EDIED);
    fclose(fopen(go, "w"));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &daemon));
    pycrew_release(call);
    works_on(crew, 2);
    ASSERT(kill(daemon, 0) == 0);
    crew_closes_soon(crew);
    AWAIT(kill(daemon, 0) < 0);
}

TEST(processes_that_were_left_behind_are_no_zombies)
{
    struct tap_process found[64];
    pycrew_crew *crew = open_misused(1);
    int zygote = find_zygote();

    OK(pycrew_run(crew, "misuse_ops:short_lived_daemons", "i>", 20));
    AWAIT(tap_count_children(zygote, 0, true, found, 64) == 1);
    crew_closes_soon(crew);
}

TEST(multiprocessing_by_fork_works_inside_a_call)
{
    pycrew_crew *crew = open_misused(1);
    int sum = 0;

    for (int i = 0; i < 2; i++) {
        OK(pycrew_run(crew, "misuse_ops:in_processes", "s>i", "fork", &sum));
        ASSERT_INT(sum, 285);
    }
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(multiprocessing_by_spawn_works_inside_a_call)
{
    pycrew_crew *crew = open_misused(1);
    int sum = 0;

    OK(pycrew_run(crew, "misuse_ops:in_processes", "s>i", "spawn", &sum));
    ASSERT_INT(sum, 285);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_process_of_multiprocessing_may_die)
{
    pycrew_crew *crew = open_misused(1);
    int status = 0;

    OK(pycrew_run(crew, "misuse_ops:in_a_process_that_dies", ">i", &status));
    ASSERT_INT(status, 6);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_program_may_be_run_inside_a_call)
{
    pycrew_crew *crew = open_misused(1);
    pycrew_call *call = SUBMIT(crew, "misuse_ops:run", "s", "echo out; echo err >&2");
    const void *data;
    size_t size;

    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_bytes(call, &data, &size));
    ASSERT_INT(size, 4);
    ASSERT_MEM(data, "out\n", 4);
    pycrew_release(call);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

/* ---- threads ----------------------------------------------------------------------------------
 */

static void threads_are_left(int daemon)
{
    pycrew_crew *crew = open_misused(2);
    int count = 0;

    for (int i = 0; i < 4; i++) {
        OK(pycrew_run(crew, "misuse_ops:leave_threads", "pi>i", daemon, 5, &count));
        ASSERT(count >= 6);
    }
    works_on(crew, 2);
    crew_closes_soon(crew);
}

TEST(daemon_threads_may_be_left_running)
{
    threads_are_left(1);
}

TEST(threads_may_be_left_running_and_do_not_hold_up_the_close)
{
    threads_are_left(0);
}

TEST(an_interrupted_worker_with_threads_is_replaced)
{
    pycrew_crew *crew = open_misused(1);
    int before = 0, after = 0;

    OK(pycrew_run(crew, "misuse_ops:leave_threads", "pi>i", 0, 3, &before));
    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:sleep", "i>", 1000), -ETIMEDOUT);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT(before != after);
    crew_closes_soon(crew);
}

TEST(a_thread_that_holds_the_GIL_slows_calls_down_and_no_more)
{
    pycrew_crew *crew = open_misused(1);
    int sum = 0;

    OK(pycrew_run(crew, "misuse_ops:hog", ">"));
    for (int i = 0; i < 3; i++) {
        OK(pycrew_run(crew, "misuse_ops:add", "ii>i", i, 1, &sum));
        ASSERT_INT(sum, i + 1);
    }
    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:sleep", "i>", 1000), -ETIMEDOUT);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

/* ---- descriptors ------------------------------------------------------------------------------
 */

/* A queue is opened before and one after: the worker has lost the first one's descriptor, and
 * cannot be sent the second one's. Both are watched by poll, as an event loop does. */
static void queues_work_after(const char *function)
{
    pycrew_crew *crew = open_misused(1);
    pycrew_queue *queues[2];

    OK(pycrew_queue_open(crew, &queues[0]));
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 2; i++) {
            pycrew_call *call = prepare(crew, "misuse_ops:add"), *ended = NULL;
            struct pollfd ready = {.events = POLLIN};
            int sum = -1;

            if (round == 2 && i == 0) {
                OK(pycrew_run(crew, function, ">"));
                OK(pycrew_queue_open(crew, &queues[1]));
            }
            if (round < 2 && i == 1) {
                pycrew_release(call);
                break;
            }
            ready.fd = pycrew_queue_fd(queues[i]);
            OK(pycrew_add(call, "ii", round, i));
            OK(pycrew_set_queue(call, queues[i]));
            OK(pycrew_submit(call));
            while (ended == NULL) {
                if (poll(&ready, 1, (int)(BOUND / MS)) != 1)
                    tap_fail("round %d: queue %d is not told of the end", round, i);
                ASSERT(pycrew_queue_reap(queues[i], &ended, 1, 0) >= 0);
            }
            ASSERT(ended == call);
            OK(pycrew_result(call, "i", &sum));
            ASSERT_INT(sum, round + i);
            pycrew_release(call);
        }
    }
    works_on(crew, 1);
    pycrew_queue_close(queues[0]);
    pycrew_queue_close(queues[1]);
    crew_closes_soon(crew);
}

TEST(a_worker_that_closed_all_descriptors_loses_no_announcement)
{
    queues_work_after("misuse_ops:close_all");
}

TEST(files_under_the_numbers_of_closed_descriptors_are_not_taken_for_queues)
{
    queues_work_after("misuse_ops:close_all_and_open");
}

TEST(eventfds_under_the_numbers_of_closed_descriptors_are_not_taken_for_queues)
{
    queues_work_after("misuse_ops:close_all_and_steal");
}

TEST(a_worker_that_may_open_no_descriptor_loses_no_announcement)
{
    queues_work_after("misuse_ops:no_descriptors");
}

TEST(a_worker_that_closed_all_descriptors_works_and_is_ended_at_a_deadline)
{
    pycrew_crew *crew = open_misused(1);

    OK(pycrew_run(crew, "misuse_ops:close_all", ">"));
    works_on(crew, 1);
    OK(pycrew_run(crew, "misuse_ops:close_all", ">"));
    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:sleep", "i>", 1000), -ETIMEDOUT);
    works_on(crew, 1);
    OK(pycrew_run(crew, "misuse_ops:close_all", ">"));
    GIVES(pycrew_run(crew, "misuse_ops:leave", "s>", "segfault"), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->signal, SIGSEGV);
    works_on(crew, 1);
    OK(pycrew_run(crew, "misuse_ops:close_all", ">"));
    crew_closes_soon(crew);
}

static void streams_are_closed(const char *how, int code)
{
    pycrew_crew *crew = open_misused(1);
    int size;

    OK(pycrew_run(crew, "misuse_ops:close_streams", "s>", how));
    for (int i = 0; i < 3; i++)
        GIVES(pycrew_run(crew, "misuse_ops:say", "s>i", "hello", &size), code);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(closed_descriptors_of_stdout_are_an_exception_of_print)
{
    streams_are_closed("descriptors", PYCREW_ERAISED);
}

TEST(a_closed_stdout_is_an_exception_of_print)
{
    streams_are_closed("objects", PYCREW_ERAISED);
}

TEST(a_stdout_that_is_None_is_silent)
{
    streams_are_closed("None", 0);
}

/* ---- output -----------------------------------------------------------------------------------
 */

typedef struct listener {
    _Atomic long lines, bytes;
    _Atomic int64_t slow_ns; /* for each line */
    bool check;      /* the lines are 63 x */
    char first[64];
    size_t longest;
} listener;

static void listen_to(void *data, int level, const char *line)
{
    listener *l = data;
    size_t size = strlen(line);

    if (level != PYCREW_LOG_OUTPUT)
        return;
    if (l->check && (strncmp(line, "[w0] x", 6) != 0 || size != 5 + 63))
        tap_fail("a line of %zu bytes: %.80s", size, line);
    if (l->lines == 0)
        snprintf(l->first, sizeof l->first, "%s", line);
    if (size > l->longest)
        l->longest = size;
    atomic_fetch_add(&l->bytes, (long)size);
    atomic_fetch_add(&l->lines, 1);
    if (l->slow_ns > 0)
        pause_ns(l->slow_ns);
}

static pycrew_crew *open_listening(listener *l)
{
    pycrew_options options = misuse_options(1);

    options.log = listen_to;
    options.log_data = l;
    return open_with(&options);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KEEPS_FREED_MEMORY 1
#else
#define KEEPS_FREED_MEMORY 0
#endif

static long peak_kb(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

TEST(a_hundred_megabytes_of_prints_come_line_by_line_and_take_no_memory)
{
    listener l = {.check = true};
    pycrew_crew *crew = open_listening(&l);
    long before = peak_kb(), size;
    long long written = 0;

    OK(pycrew_run(crew, "misuse_ops:say_lines", "ii>L", 100 << 14, 64, &written));
    size = (long)written;
    ASSERT_INT(size, 100 << 20);
    works_on(crew, 1);
    AWAIT(atomic_load(&l.lines) == size / 64);
    if (!KEEPS_FREED_MEMORY && peak_kb() - before > 8 << 10)
        tap_fail("the host grew by %ld KiB", peak_kb() - before);
    crew_closes_soon(crew);
}

TEST(a_slow_log_does_not_hold_up_deadlines)
{
    listener l = {.slow_ns = 2 * MS};
    pycrew_crew *crew = open_listening(&l);
    long long written;
    int64_t begun;

    begun = now_ns();
    /* more than fits the pipe, so that it is being written while the deadline comes */
    GIVES(
        pycrew_run_within(crew, 100 * MS, "misuse_ops:say_lines", "ii>L", 100 << 14, 64, &written),
        -ETIMEDOUT);
    if (now_ns() - begun > (int64_t)((double)(200 * MS + SLACK) * tap_scale()))
        tap_fail("the deadline of 100 ms came after %lld ms", (long long)((now_ns() - begun) / MS));
    l.slow_ns = 0;
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_line_of_ten_megabytes_comes_in_pieces)
{
    static char line[10 << 20];
    listener l = {0};
    pycrew_crew *crew = open_listening(&l);

    memset(line, 'y', sizeof line);
    OK(pycrew_run(crew, "misuse_ops:say_bytes", "y#>", line, sizeof line));
    AWAIT(atomic_load(&l.bytes) - 5 * atomic_load(&l.lines) == sizeof line);
    ASSERT(l.longest <= (64 << 10) + 5);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(bytes_that_are_no_text_come_through_but_for_NULs)
{
    static const char bytes[] = "a\0b\xff\x80\x1b[31m\rc\n",
                      logged[] = "[w0] a?b\xff\x80\x1b[31m\rc";
    listener l = {0};
    pycrew_crew *crew = open_listening(&l);

    OK(pycrew_run(crew, "misuse_ops:say_bytes", "y#>", bytes, sizeof bytes - 1));
    AWAIT(atomic_load(&l.lines) == 1);
    ASSERT_STR(l.first, logged);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

/* ---- signals ----------------------------------------------------------------------------------
 */

static void deadline_holds_after(const char *function, const char *how, bool stack)
{
    pycrew_crew *crew = open_misused(1);
    int64_t begun;

    if (how != NULL)
        OK(pycrew_run(crew, function, "s>", how));
    else
        OK(pycrew_run(crew, function, ">"));
    for (int i = 0; i < 2; i++) {
        works_on(crew, 1);
        begun = now_ns();
        GIVES(pycrew_run_within(crew, 300 * MS, "misuse_ops:sleep", "i>", 1000), -ETIMEDOUT);
        if (now_ns() - begun > (int64_t)((double)(400 * MS + SLACK) * tap_scale()))
            tap_fail("it took %lld ms", (long long)((now_ns() - begun) / MS));
        /* not by the interrupt's signal, which might have hit the next call */
        ASSERT(pycrew_last_error()->signal == 0 || pycrew_last_error()->signal == SIGKILL);
        if (stack || i > 0) /* the second time in a new worker */
            CONTAINS(pycrew_last_error()->traceback, "in sleep");
    }
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_deadline_holds_where_signals_are_ignored)
{
    deadline_holds_after("misuse_ops:replace_handlers", "ignored", false);
}

TEST(a_deadline_holds_where_handlers_are_gone)
{
    deadline_holds_after("misuse_ops:replace_handlers", "default", false);
}

TEST(a_deadline_holds_where_handlers_are_the_users)
{
    deadline_holds_after("misuse_ops:replace_handlers", "own", false);
}

TEST(a_deadline_holds_where_signals_are_blocked)
{
    deadline_holds_after("misuse_ops:block_signals", NULL, false);
}

TEST(a_deadline_holds_where_all_descriptors_are_closed)
{
    deadline_holds_after("misuse_ops:close_all", NULL, true);
}

TEST(a_deadline_holds_while_an_alarm_goes_off_each_millisecond)
{
    deadline_holds_after("misuse_ops:alarm", NULL, true);
}

/* Where its handler is gone, the interrupt's signal would end the worker, whatever it runs by then.
 */
TEST(an_interrupt_without_its_handler_does_not_hit_the_next_call)
{
    pycrew_crew *crew = open_misused(1);
    int timed_out = 0;

    for (int i = 0; i < 150; i++) {
        pycrew_call *racer, *canary;
        int rc;

        OK(pycrew_run(crew, "misuse_ops:replace_handlers", "s>", "default"));
        racer = prepare(crew, "misuse_ops:spin");
        OK(pycrew_add(racer, "d", 0.001));
        OK(pycrew_set_timeout(racer, 1100 * US + i % 10 * 20 * US));
        OK(pycrew_submit(racer));
        canary = SUBMIT(crew, "misuse_ops:sleep", "d", 0.002);
        rc = pycrew_wait(racer, BOUND);
        ASSERT(rc == 0 || rc == -ETIMEDOUT);
        timed_out += rc != 0;
        OK(pycrew_wait(canary, BOUND));
        pycrew_release(racer);
        pycrew_release(canary);
    }
    DIAG("%d of 150 timed out", timed_out);
    crew_closes_soon(crew);
}

TEST(a_worker_that_stopped_itself_is_ended_at_the_deadline)
{
    pycrew_crew *crew = open_misused(2);

    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:stop", ">"), -ETIMEDOUT);
    ASSERT(pycrew_last_error()->may_have_run);
    works_on(crew, 2);
    crew_closes_soon(crew);
}

TEST(a_worker_that_stopped_itself_is_ended_by_cancel)
{
    pycrew_crew *crew = open_misused(2);
    const char *path = scratch("stopping");
    pycrew_call *call = SUBMIT(crew, "misuse_ops:stop", "s", path);

    AWAIT(file_size(path) == 1);
    OK(pycrew_cancel(call));
    GIVES(pycrew_wait(call, BOUND), -ECANCELED);
    pycrew_release(call);
    works_on(crew, 2);
    crew_closes_soon(crew);
}

TEST(a_worker_that_stopped_itself_does_not_hold_up_the_close)
{
    pycrew_crew *crew = open_misused(2);
    const char *path = scratch("stopping");
    pycrew_call *call = SUBMIT(crew, "misuse_ops:stop", "s", path);
    int sum;

    AWAIT(file_size(path) == 1);
    OK(pycrew_run(crew, "misuse_ops:add", "ii>i", 2, 2, &sum)); /* the other one works */
    (void)call;
    crew_closes_soon(crew);
}

/* ---- the interpreter turned upside down -------------------------------------------------------
 */

TEST(replaced_builtins_hurt_nobody_but_their_user)
{
    pycrew_crew *crew = open_misused(1);
    int before, after;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    OK(pycrew_run(crew, "misuse_ops:replace_builtins", ">"));
    works_on(crew, 1);
    GIVES(pycrew_run(crew, "misuse_ops:fail_without_builtins", ">"), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ValueError");
    ASSERT_STR(pycrew_last_error()->message, "still told");
    CONTAINS(pycrew_last_error()->traceback, "in fail_without_builtins");
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT_INT(before, after);
    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:sleep", "i>", 1000), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->traceback, "in sleep");
    crew_closes_soon(crew);
}

/* Values, errors and deadlines as before. */
static void all_works_after(const char *function)
{
    static const char pickle[] = "cbuiltins\ncomplex\n(I1\nI2\ntR.";
    pycrew_crew *crew = open_misused(1);
    const void *data;
    char *json = NULL;
    pycrew_call *call;
    size_t size;

    OK(pycrew_run(crew, "api_ops:thing", "i>", 1)); /* all is imported */
    OK(pycrew_run(crew, function, ">"));
    if (strstr(function, "fails") != NULL) /* once, to its user */
        GIVES(pycrew_run(crew, "misuse_ops:add", "ii>", 1, 2), PYCREW_ERAISED);
    works_on(crew, 1);
    OK(pycrew_run(crew, "api_ops:echo", "j>j", "{\"a\": [1, null]}", &json));
    ASSERT_STR(json, "{\"a\": [1, null]}");
    free(json);
    call = SUBMIT(crew, "api_ops:echo", "O", pickle, sizeof pickle - 1);
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_value_bytes(pycrew_result_value(call), &data, &size)); /* pickled again */
    pycrew_release(call);
    GIVES(pycrew_run(crew, "misuse_ops:fail_deep", ">"), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ValueError");
    ASSERT_STR(pycrew_last_error()->message, "at the bottom");
    CONTAINS(pycrew_last_error()->traceback, "in fail_deep");
    CONTAINS(pycrew_last_error()->traceback, "misuse_ops.py");
    GIVES(pycrew_run(crew, "misuse_ops:leave", "s>", "segfault"), PYCREW_EDIED);
    CONTAINS(pycrew_last_error()->traceback, "in leave");
    OK(pycrew_run(crew, function, ">"));
    if (strstr(function, "fails") != NULL)
        GIVES(pycrew_run(crew, "misuse_ops:add", "ii>", 1, 2), PYCREW_ERAISED);
    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:sleep", "i>", 1000), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->traceback, "in sleep");
    OK(pycrew_run(crew, function, ">"));
    crew_closes_soon(crew);
}

TEST(modules_that_were_patched_after_their_import_do_not_matter)
{
    all_works_after("misuse_ops:replace_modules");
}

TEST(modules_that_were_removed_do_not_matter)
{
    all_works_after("misuse_ops:remove_modules");
}

TEST(a_traceback_module_that_is_gone_does_not_matter)
{
    all_works_after("misuse_ops:no_traceback_module");
}

TEST(a_collector_and_a_switch_interval_turned_off_do_not_matter)
{
    all_works_after("misuse_ops:upset_interpreter");
}

TEST(a_trace_function_that_raises_does_not_matter)
{
    all_works_after("misuse_ops:tracing_that_fails");
}

TEST(a_lost_working_directory_does_not_matter)
{
    pycrew_crew *crew = open_misused(1);

    OK(pycrew_run(crew, "misuse_ops:remove_directory", "s>", scratch("gone")));
    works_on(crew, 1);
    GIVES(pycrew_run(crew, "misuse_ops:fail_deep", ">"), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->traceback, "in fail_deep");
    crew_closes_soon(crew);
}

TEST(a_nice_worker_works)
{
    pycrew_crew *crew = open_misused(1);

    OK(pycrew_run(crew, "misuse_ops:be_nice", ">"));
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(without_faulthandler_a_crash_is_told_without_a_stack)
{
    pycrew_crew *crew = open_misused(1);

    OK(pycrew_run(crew, "misuse_ops:no_faulthandler", ">"));
    GIVES(pycrew_run(crew, "misuse_ops:leave", "s>", "segfault"), PYCREW_EDIED);
    expect_ending(&(ending){.signal = SIGSEGV}, 1);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_faulthandler_that_writes_elsewhere_is_left_to_its_user)
{
    pycrew_crew *crew = open_misused(1);
    const char *path = scratch("stack");

    OK(pycrew_run(crew, "misuse_ops:faulthandler_elsewhere", "s>", path));
    GIVES(pycrew_run(crew, "misuse_ops:leave", "s>", "segfault"), PYCREW_EDIED);
    expect_ending(&(ending){.signal = SIGSEGV}, 1);
    ASSERT(file_size(path) > 0);
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_del_that_raises_does_not_matter)
{
    pycrew_crew *crew = open_misused(1);

    OK(pycrew_run(crew, "misuse_ops:drop", "s>", "raises"));
    works_on(crew, 1);
    crew_closes_soon(crew);
}

TEST(a_del_that_never_ends_is_ended_at_the_deadline)
{
    pycrew_crew *crew = open_misused(1);

    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:drop", "s>", "hangs"), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->traceback, "in __del__");
    works_on(crew, 1);
    OK(pycrew_run(crew, "misuse_ops:keep_endless", ">"));
    crew_closes_soon(crew);
}

static void ends_with_exit_function(const char *how)
{
    pycrew_crew *crew = open_misused(1);

    OK(pycrew_run(crew, "misuse_ops:at_exit", "s>", how));
    works_on(crew, 1);
    /* the interrupted worker leaves, and is to be replaced in any case */
    GIVES(pycrew_run_within(crew, 200 * MS, "misuse_ops:sleep", "i>", 1000), -ETIMEDOUT);
    works_on(crew, 1);
    OK(pycrew_run(crew, "misuse_ops:at_exit", "s>", how));
    crew_closes_soon(crew);
}

TEST(an_exit_function_that_raises_does_not_matter)
{
    ends_with_exit_function("raise");
}

TEST(an_exit_function_that_never_ends_does_not_hold_up_the_next_call)
{
    ends_with_exit_function("hang");
}

TAP_MAIN
