/* Deaths of workers, of the zygote and of the host: every call ends once, what it says about
 * having run is true, and nothing stays behind. */
#include <sys/prctl.h>

#include "tests/harness/crew.h"

static const pycrew_error *died(pycrew_crew *crew, const char *how)
{
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", how), PYCREW_EDIED);
    return pycrew_last_error();
}

TEST(an_exit_in_a_function_is_reported_with_its_status)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_error *e = died(crew, "exit");

    ASSERT_INT(e->exit_status, 7);
    ASSERT_INT(e->signal, 0);
    ASSERT(e->may_have_run);
    ASSERT_INT(e->attempts, 1);
    ASSERT_STR(e->function, "api_ops:die_by");
    ASSERT(!e->out_of_memory);
    CONTAINS(e->message, "exited with status 7");
    pycrew_close(crew);
}

TEST(a_killed_worker_is_reported_with_its_signal)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_error *e = died(crew, "kill");

    ASSERT_INT(e->signal, SIGKILL);
    ASSERT_INT(e->exit_status, 0);
    ASSERT(e->may_have_run);
    CONTAINS(e->message, "signal 9");
    pycrew_close(crew);
}

/* The function is known to the worker, so that it is not the look-up that says "entered". Without it
 * the call would be queued again, to a worker that does look it up. */
TEST(a_death_in_a_function_that_was_called_before_is_one_in_a_call_that_ran)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_error *e;

    OK(pycrew_run(crew, "api_ops:die_by", "s>", "not now"));
    e = died(crew, "kill");
    ASSERT(e->may_have_run);
    ASSERT_INT(e->attempts, 1);
    pycrew_close(crew);
}

TEST(a_segfault_is_reported_with_the_python_stack)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_error *e = died(crew, "segfault");

    ASSERT_INT(e->signal, SIGSEGV);
    CONTAINS(e->traceback, "in die_by");
    CONTAINS(e->traceback, "Segmentation fault");
    pycrew_close(crew);
}

TEST(an_abort_is_reported_with_the_python_stack)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_error *e = died(crew, "abort");

    ASSERT_INT(e->signal, SIGABRT);
    CONTAINS(e->traceback, "in die_by");
    pycrew_close(crew);
}

TEST(a_later_death_does_not_show_an_earlier_stack)
{
    pycrew_crew *crew = open_crew(1);

    died(crew, "segfault");
    ASSERT(died(crew, "kill")->traceback == NULL);
    pycrew_close(crew);
}

TEST(a_death_while_an_argument_is_unpickled_is_reported)
{
    static const char pickle[] = "cos\n_exit\n(I9\ntR.";
    pycrew_crew *crew = open_crew(1);

    GIVES(pycrew_run(crew, "api_ops:echo", "O>", pickle, sizeof pickle - 1), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->exit_status, 9);
    ASSERT(pycrew_last_error()->may_have_run); /* user code ran, if not the function */
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_death_while_the_result_is_pickled_is_reported)
{
    pycrew_crew *crew = open_crew(1);

    GIVES(pycrew_run(crew, "api_ops:evaluate", "s>",
                     "type('D', (), {'__reduce__': lambda s: os._exit(11)})()"),
          PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->exit_status, 11);
    pycrew_close(crew);
}

TEST(a_death_while_the_module_is_imported_is_reported)
{
    pycrew_crew *crew = open_crew(1);

    GIVES(pycrew_run(crew, "dies_at_import:anything", ">"), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->exit_status, 9);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_dead_worker_is_replaced)
{
    pycrew_crew *crew = open_crew(1);
    int before, after;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    died(crew, "kill");
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT(before != after);
    ASSERT(kill(before, 0) < 0 && errno == ESRCH);
    pycrew_close(crew);
}

TEST(all_workers_are_there_again_after_all_died)
{
    pycrew_crew *crew = open_crew(3);
    int pids[3], again[4];

    AWAIT(find_workers(pids, 3) == 3);
    for (int i = 0; i < 3; i++)
        kill(pids[i], SIGKILL);
    for (int i = 0; i < 3; i++) /* zombies do not count */
        AWAIT(kill(pids[i], 0) < 0);
    AWAIT(find_workers(again, 4) == 3);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

/* ---- retries --------------------------------------------------------------------------------- */

static int run_die_until(pycrew_crew *crew, unsigned retries, const char *path, int times, int *ran)
{
    pycrew_call *call = prepare(crew, "api_ops:die_until");
    int rc;

    OK(pycrew_add(call, "si", path, times));
    OK(pycrew_set_retries(call, retries));
    OK(pycrew_submit(call));
    rc = pycrew_wait(call, BOUND);
    if (rc == 0)
        OK(pycrew_result(call, "i", ran));
    pycrew_release(call);
    return rc;
}

TEST(a_call_with_retries_runs_again_after_deaths)
{
    pycrew_crew *crew = open_crew(1);
    const char *path = scratch("notes");
    int ran;

    OK(run_die_until(crew, 3, path, 3, &ran));
    ASSERT_INT(ran, 4);
    ASSERT_INT(file_size(path), 4);
    pycrew_close(crew);
}

TEST(a_call_without_retries_runs_once)
{
    pycrew_crew *crew = open_crew(2);
    const char *path = scratch("notes");

    GIVES(pycrew_run(crew, "api_ops:die_noting", "s>", path), PYCREW_EDIED);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT_INT(file_size(path), 1);
    pycrew_close(crew);
}

TEST(a_call_whose_retries_are_used_up_says_how_often_it_was_tried)
{
    pycrew_crew *crew = open_crew(1);
    const char *path = scratch("notes");
    int ran;

    GIVES(run_die_until(crew, 2, path, 100, &ran), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->attempts, 3);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(file_size(path), 3);
    pycrew_close(crew);
}

TEST(the_crews_retries_hold_for_calls_that_do_not_say)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    const char *path = scratch("notes");
    int ran;

    options.retries = 2;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:die_until", "si>i", path, 2, &ran));
    ASSERT_INT(ran, 3);
    pycrew_close(crew);
}

TEST(a_retry_sees_the_original_arguments)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:echo_or_die_until");
    static char large[300000];
    const void *data;
    size_t size;

    for (size_t i = 0; i < sizeof large; i++)
        large[i] = (char)(i * 31 >> 3);
    OK(pycrew_add(call, "y#y#si", large, sizeof large, large, sizeof large, scratch("notes"), 2));
    OK(pycrew_set_retries(call, 5));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    int ran;
    OK(pycrew_result(call, "i", &ran));
    ASSERT_INT(ran, 3);
    pycrew_release(call);
    call = SUBMIT(crew, "api_ops:echo", "y#", large, sizeof large);
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_bytes(call, &data, &size));
    ASSERT_INT(size, sizeof large);
    ASSERT_MEM(data, large, size);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_result_stays_readable_after_its_worker_died)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *calls[8];
    const void *data;
    size_t size;
    static char zero[3 << 20];

    for (int i = 0; i < 8; i++)
        calls[i] = SUBMIT(crew, "api_ops:zeros", "i", i % 2 ? 3 << 20 : 3000);
    for (int i = 0; i < 8; i++)
        OK(pycrew_wait(calls[i], BOUND));
    died(crew, "kill");
    for (int i = 0; i < 30; i++) /* and others write where they may */
        OK(pycrew_run(crew, "api_ops:pattern", "i>", 1 << 20));
    for (int i = 0; i < 8; i++) {
        OK(pycrew_result_bytes(calls[i], &data, &size));
        ASSERT_INT(size, i % 2 ? 3 << 20 : 3000);
        ASSERT_MEM(data, zero, size);
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

TEST(a_retry_sees_the_original_arguments_whatever_the_first_run_did_to_them)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:change_and_die");
    const void *data;
    int one, two;
    size_t size;

    OK(pycrew_add(call, "[ii]y#si", 11, 22, "payload", (size_t)7, scratch("notes"), 2));
    OK(pycrew_set_retries(call, 5));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "[ii]y#", &one, &two, &data, &size));
    ASSERT_INT(one, 11);
    ASSERT_INT(two, 22);
    ASSERT_INT(size, 7);
    ASSERT_MEM(data, "payload", 7);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_call_that_dies_each_time_is_given_up_after_its_retries)
{
    pycrew_crew *crew = open_crew(2);
    const char *path = scratch("notes");
    pycrew_call *call = prepare(crew, "api_ops:die_noting");

    OK(pycrew_add(call, "ss", path, "segfault"));
    OK(pycrew_set_retries(call, 2));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    ASSERT_INT(pycrew_call_error(call)->attempts, 3);
    ASSERT_INT(pycrew_call_error(call)->signal, SIGSEGV);
    CONTAINS(pycrew_call_error(call)->traceback, "in die_noting");
    ASSERT_INT(file_size(path), 3);
    pycrew_release(call);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

/* A tuple of lists, for the collector to be run while they are made. */
static void add_lists(pycrew_call *call)
{
    OK(pycrew_add_open(call, PYCREW_TUPLE));
    for (int i = 0; i < 300; i++) {
        OK(pycrew_add_open(call, PYCREW_LIST));
        OK(pycrew_add_close(call));
    }
    OK(pycrew_add_close(call));
}

/* The first worker has called the function before, and dies before it: that costs no retry. From 3.12 on
 * the collector runs between bytecodes only, so it kills when the function has begun. */
TEST(a_call_whose_arguments_kill_is_given_up)
{
    pycrew_options options = test_options(1);
    const char *flag = scratch("flag");
    static char variable[200];
    const char *env[] = {variable, NULL};
    pycrew_crew *crew;
    int attempts;

    snprintf(variable, sizeof variable, "POISON=%s", flag);
    options.env = env;
    options.init = "misuse_ops:init_poison";
    crew = open_with(&options);
    attempts = python_minor(crew) < 12 ? 2 : 1;
    for (int poisoned = 0; poisoned < 2; poisoned++) {
        pycrew_call *call = prepare(crew, "api_ops:nothing");

        add_lists(call);
        if (poisoned)
            fclose(fopen(flag, "w"));
        OK(pycrew_submit(call));
        GIVES(pycrew_wait(call, BOUND), poisoned ? PYCREW_EDIED : 0);
        if (poisoned) {
            ASSERT_INT(pycrew_call_error(call)->exit_status, 12);
            ASSERT_INT(pycrew_call_error(call)->attempts, attempts);
        }
        pycrew_release(call);
    }
    unlink(flag);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(workers_that_die_as_soon_as_they_are_ready_are_started_ever_less_often)
{
    pycrew_options options = test_options(1);
    const char *notes = scratch("notes");
    static char variable[200];
    const char *env[] = {variable, NULL};
    pycrew_crew *crew;
    int64_t begun;
    long count;

    snprintf(variable, sizeof variable, "DIE=%s", notes);
    options.env = env;
    options.init = "misuse_ops:init_then_die";
    crew = open_with(&options);
    fclose(fopen(notes, "w"));
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    AWAIT(file_size(notes) >= 5); /* 10, 20, 40, 80 ms between them */
    begun = now_ns();
    count = file_size(notes);
    while (now_ns() - begun < SECOND)
        pause_ns(10 * MS);
    count = file_size(notes) - count;
    DIAG("%ld starts in a second", count);
    ASSERT(count <= 14);
    unlink(notes);
    AWAIT(pycrew_run(crew, "api_ops:nothing", ">") == 0);
    pycrew_close(crew);
}

/* ---- out of memory ---------------------------------------------------------------------------- */

/* The directory of this process's memory cgroup, v1 or v2; false: none. */
static bool find_memory_cgroup(char *directory, size_t capacity)
{
    char text[4096], *rest = text, *line;

    tap_read_file("/proc/self/cgroup", text, sizeof text);
    while ((line = strsep(&rest, "\n")) != NULL) {
        char *path = strrchr(line, ':');

        if (path != NULL && strstr(line, ":memory:") != NULL)
            snprintf(directory, capacity, "/sys/fs/cgroup/memory%s", path + 1);
        else if (path != NULL && strncmp(line, "0::", 3) == 0 &&
                 access("/sys/fs/cgroup/cgroup.controllers", R_OK) == 0)
            snprintf(directory, capacity, "/sys/fs/cgroup%s", path + 1);
        else
            continue;
        return access(directory, W_OK) == 0;
    }
    return false;
}

static bool write_to(const char *directory, const char *name, const char *text)
{
    char path[4400];
    FILE *file;
    bool done;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (access(path, W_OK) < 0)
        return false;
    file = fopen(path, "w");
    if (file == NULL)
        return false;
    done = fputs(text, file) >= 0;
    return fclose(file) == 0 && done;
}

TEST(a_kill_by_the_kernel_for_want_of_memory_is_told_as_that)
{
    static char own[4200], ours[4300];
    pycrew_crew *crew;
    char number[32];
    int worker;
    bool made;

    if (!find_memory_cgroup(own, sizeof own))
        SKIP("this process has no memory cgroup that it may write to");
    snprintf(ours, sizeof ours, "%s/pycrew-test-%d", own, getpid());
    if (mkdir(ours, 0755) < 0)
        SKIP("no memory cgroup can be made: %s", strerror(errno));
    made = write_to(ours, "memory.limit_in_bytes", "134217728") ||
           write_to(ours, "memory.max", "134217728");
    write_to(ours, "memory.swap.max", "0");
    crew = open_crew(1);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &worker));
    snprintf(number, sizeof number, "%d", worker);
    if (!made || !write_to(ours, "cgroup.procs", number)) {
        rmdir(ours);
        pycrew_close(crew);
        SKIP("the memory cgroup that was made cannot be used");
    }
    GIVES(pycrew_run(crew, "misuse_ops:eat_memory", ">"), PYCREW_EDIED);
    AWAIT(rmdir(ours) == 0 || errno == ENOENT);
    ASSERT_INT(pycrew_last_error()->signal, SIGKILL);
    ASSERT(pycrew_last_error()->out_of_memory);
    ASSERT(pycrew_last_error()->may_have_run);
    CONTAINS(pycrew_last_error()->message, "out-of-memory");
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    ASSERT(!pycrew_last_error()->out_of_memory);
    pycrew_close(crew);
}

/* ---- in a batch ------------------------------------------------------------------------------ */

static void deaths_in_a_batch(bool unordered, unsigned chunk)
{
    enum { ITEMS = 400, FATAL = 137 };
    pycrew_crew *crew = open_crew(2);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_progress progress = {.size = sizeof progress};
    pycrew_batch *batch;
    static bool seen[ITEMS];

    options.unordered = unordered;
    options.chunk = chunk;
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:echo_or_die"), &options, &batch));
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add_within(batch, BOUND, "ii", i % 200, FATAL));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        int value = -1;
        size_t index;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        index = pycrew_batch_index(batch);
        ASSERT(index < ITEMS && !seen[index]);
        seen[index] = true;
        ASSERT(unordered || index == (size_t)i);
        if (index % 200 != FATAL) {
            OK(pycrew_batch_result(batch, "i", &value));
            ASSERT_INT(value, index % 200);
            continue;
        }
        GIVES(pycrew_batch_result(batch, "i", &value), PYCREW_EDIED);
        ASSERT_INT(pycrew_batch_error(batch)->signal, SIGKILL);
        ASSERT_INT(pycrew_batch_error(batch)->attempts, 1);
        ASSERT(pycrew_batch_error(batch)->may_have_run);
        ASSERT_STR(pycrew_batch_error(batch)->function, "api_ops:echo_or_die");
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    OK(pycrew_batch_progress(batch, &progress));
    ASSERT_INT(progress.added, ITEMS);
    ASSERT_INT(progress.done, ITEMS);
    ASSERT_INT(progress.failed, 2);
    ASSERT_INT(progress.deaths, 2);
    ASSERT_INT(progress.retried, 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_death_in_a_batch_costs_the_item_it_happened_in)
{
    deaths_in_a_batch(false, 0);
}

TEST(a_death_in_an_unordered_batch_costs_the_item_it_happened_in)
{
    deaths_in_a_batch(true, 0);
}

TEST(a_death_in_a_chunk_of_all_items_costs_the_item_it_happened_in)
{
    deaths_in_a_batch(false, 400);
}

TEST(a_batch_runs_an_item_again_as_often_as_it_was_told)
{
    enum { ITEMS = 50 };
    pycrew_crew *crew = open_crew(2);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_progress progress = {.size = sizeof progress};
    const char *path = scratch("notes");
    pycrew_batch *batch;

    options.retries = 4;
    options.chunk = 20;
    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:echo_or_die_until"), &options, &batch));
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add_within(batch, BOUND, "iisi", i, 33, path, 3));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        int value = -1;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "i", &value));
        ASSERT_INT(value, i == 33 ? 4 : i);
    }
    OK(pycrew_batch_progress(batch, &progress));
    ASSERT_INT(progress.deaths, 3);
    ASSERT_INT(progress.retried, 3);
    ASSERT_INT(file_size(path), 4);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* ---- kills from outside ---------------------------------------------------------------------- */

/* What became of a call, beside what its side effect says. */
typedef struct outcome {
    bool returned, may_have_run;
    unsigned attempts;
} outcome;

enum { STORM_CALLS_MAX = 1000000, STORM_IN_FLIGHT = 32 };

static void end_storm_call(killer *k, pycrew_call *call, int number, outcome *ret)
{
    int rc = pycrew_wait(call, BOUND), value = -1, pid = 0;

    if (rc == 0) {
        OK(pycrew_result(call, "ii", &value, &pid));
        ASSERT_INT(value, number);
        atomic_store(&k->answered, pid);
        ret->returned = true;
    } else {
        GIVES(rc, PYCREW_EDIED);
        ret->may_have_run = pycrew_last_error()->may_have_run;
        ret->attempts = pycrew_last_error()->attempts;
        ASSERT(ret->attempts > 0);
    }
    pycrew_release(call);
}

/* The calls that ran, by their notes: how often each. */
static unsigned char *read_notes(const char *path, int calls)
{
    unsigned char *times = calloc((size_t)calls, 1);
    FILE *file = fopen(path, "r");
    int number;

    ASSERT(file != NULL);
    while (fscanf(file, "%d", &number) == 1) {
        ASSERT(number >= 0 && number < calls);
        times[number]++;
    }
    fclose(file);
    return times;
}

TEST(two_hundred_kills_lose_no_call_and_errors_tell_the_truth)
{
    static outcome outcomes[STORM_CALLS_MAX];
    pycrew_call *calls[STORM_IN_FLIGHT];
    killer k = {.longest_us = 5000, .wanted = 200};
    pycrew_crew *crew = open_crew(3);
    const char *path = scratch("notes");
    unsigned char *times;
    int count = 0, lost = 0, returned = 0;

    pthread_create(&k.thread, NULL, kill_workers, &k);
    for (; atomic_load(&k.kills) < k.wanted && count < STORM_CALLS_MAX; count++) {
        if (count >= STORM_IN_FLIGHT)
            end_storm_call(&k, calls[count % STORM_IN_FLIGHT], count - STORM_IN_FLIGHT,
                           &outcomes[count - STORM_IN_FLIGHT]);
        calls[count % STORM_IN_FLIGHT] = SUBMIT(crew, "api_ops:note_number", "si", path, count);
    }
    for (int i = count < STORM_IN_FLIGHT ? 0 : count - STORM_IN_FLIGHT; i < count; i++)
        end_storm_call(&k, calls[i % STORM_IN_FLIGHT], i, &outcomes[i]);
    atomic_store(&k.stop, true);
    pthread_join(k.thread, NULL);
    times = read_notes(path, count);
    for (int i = 0; i < count; i++) {
        if (times[i] != (outcomes[i].returned || (times[i] && outcomes[i].may_have_run)))
            tap_fail("call %d ran %d times: %s, may_have_run %d, attempts %u", i, times[i],
                     outcomes[i].returned ? "returned" : "died", outcomes[i].may_have_run,
                     outcomes[i].attempts);
        returned += outcomes[i].returned;
        lost += !outcomes[i].returned;
    }
    DIAG("%d calls, %u kills: %d returned, %d died", count, atomic_load(&k.kills), returned, lost);
    ASSERT(atomic_load(&k.kills) >= 200);
    free(times);
    pycrew_close(crew);
}

TEST(a_killed_zygote_is_replaced_and_no_call_is_lost)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[16];
    int zygote = find_zygote(), died_calls = 0;

    for (int i = 0; i < 16; i++)
        calls[i] = SUBMIT(crew, "api_ops:sleep", "d", 0.02);
    kill(zygote, SIGKILL);
    for (int i = 0; i < 16; i++) {
        int rc = pycrew_wait(calls[i], BOUND);

        ASSERT(rc == 0 || rc == PYCREW_EDIED);
        died_calls += rc != 0;
        pycrew_release(calls[i]);
    }
    ASSERT(died_calls <= 2); /* those that ran; the queued ones wait for the next workers */
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    ASSERT(find_zygote() != zygote);
    pycrew_close(crew);
}

TEST(a_zygote_killed_again_and_again_is_replaced_each_time)
{
    pycrew_crew *crew = open_crew(2);

    for (int i = 0; i < 5; i++) {
        int zygote = find_zygote(), sum;

        ASSERT(zygote > 0);
        kill(zygote, SIGKILL);
        AWAIT(find_zygote() != zygote && find_zygote() != 0);
        AWAIT(pycrew_run(crew, "api_ops:add", "ii>i", 20, i, &sum) == 0);
        ASSERT_INT(sum, 20 + i);
    }
    pycrew_close(crew);
}

TEST(workers_and_zygote_killed_together_lose_no_call)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[12];
    int pids[4], count;

    AWAIT((count = find_workers(pids, 4)) == 2);
    for (int i = 0; i < 12; i++)
        calls[i] = SUBMIT(crew, "api_ops:sleep", "d", 0.01);
    kill(pids[0], SIGKILL);
    kill(find_zygote(), SIGKILL);
    kill(pids[1], SIGKILL);
    for (int i = 0; i < 12; i++) {
        int rc = pycrew_wait(calls[i], BOUND);

        ASSERT(rc == 0 || rc == PYCREW_EDIED);
        pycrew_release(calls[i]);
    }
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_stopped_worker_is_ended_at_its_deadline)
{
    pycrew_crew *crew = open_crew(1);

    GIVES(pycrew_run_within(crew, 50 * MS, "api_ops:die_by", "s>", "stop"), -ETIMEDOUT);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(what_a_worker_started_dies_with_it)
{
    pycrew_crew *crew = open_crew(1);
    int child;

    OK(pycrew_run(crew, "api_ops:evaluate", "s>i",
                  "__import__('subprocess').Popen(['sleep', '1000']).pid", &child));
    ASSERT(kill(child, 0) == 0);
    died(crew, "kill");
    AWAIT(kill(child, 0) < 0);
    pycrew_close(crew);
}

/* ---- the host's own death -------------------------------------------------------------------- */

static int names_in_shm(void)
{
    DIR *directory = opendir("/dev/shm");
    struct dirent *entry;
    int count = 0;

    while (directory != NULL && (entry = readdir(directory)) != NULL)
        count += strncmp(entry->d_name, "pycrew.", 7) == 0;
    if (directory != NULL)
        closedir(directory);
    return count;
}

static bool is_alive(int pid)
{
    struct tap_process process;

    return tap_read_process(pid, &process) && process.state != 'Z';
}

/* All that live below pid, by its children's children. */
static int find_descendants(int pid, int *pids, int max)
{
    struct tap_process found[64];
    int count = tap_count_children(pid, 0, false, found, 64), total = 0;

    for (int i = 0; i < count && i < 64 && total < max; i++) {
        pids[total++] = found[i].pid;
        total += find_descendants(found[i].pid, pids + total, max - total);
    }
    return total;
}

static void be_a_host(void)
{
    pycrew_crew *crew = open_crew(3);

    for (;;) {
        pycrew_call *calls[3];

        for (int i = 0; i < 3; i++)
            calls[i] = SUBMIT(crew, i == 1 ? "api_ops:swallow" : "api_ops:sleep",
                              i == 1 ? "" : "d", 100.0);
        for (int i = 0; i < 3; i++)
            pycrew_wait(calls[i], PYCREW_FOREVER);
    }
}

/* Its descendants come to the runner when it dies, so they are remembered before. */
static void kill_a_host_after(int64_t delay)
{
    int pids[16], count;
    int64_t died_at;
    pid_t host = fork();

    ASSERT(host >= 0);
    if (host == 0) {
        be_a_host();
        _exit(0);
    }
    pause_ns(delay); /* not to wait for anything: the moment of death is what varies */
    kill(host, SIGSTOP);
    count = find_descendants(host, pids, 16);
    kill(host, SIGKILL);
    ASSERT_INT(waitpid(host, NULL, 0), host);
    died_at = now_ns();
    for (int i = 0; i < count; i++)
        AWAIT(!is_alive(pids[i]));
    if (now_ns() - died_at > (int64_t)((double)(5 * SECOND) * tap_scale()))
        tap_fail("%lld ms after the host's death there were still processes of it",
                 (long long)((now_ns() - died_at) / MS));
}

TEST(a_killed_host_leaves_nothing_behind)
{
    int names = names_in_shm();

    for (int i = 0; i < 20; i++)
        kill_a_host_after(i * 6 * MS);
    kill_a_host_after(400 * MS);
    AWAIT(names_in_shm() <= names); /* another program may be about to unlink its own */
}

/* ---- when no worker can start any more -------------------------------------------------------- */

TEST(calls_end_when_no_worker_can_start_any_more)
{
    pycrew_options options = test_options(1);
    const char *flag = scratch("flag");
    char source[256];
    static char variable[300];
    const char *env[] = {variable, NULL};
    pycrew_crew *crew;
    FILE *file = fopen(scratch("init_ops.py"), "w");

    /* init works until there is a file, and fails from then on */
    snprintf(source, sizeof source,
             "import os\ndef init():\n  if os.path.exists('%s'): raise OSError('gone')\n", flag);
    ASSERT(file != NULL);
    fputs(source, file);
    fclose(file);
    snprintf(variable, sizeof variable, "PYTHONPATH=%s", scratch_directory());
    options.env = env;
    options.init = "init_ops:init";
    crew = open_with(&options);
    fclose(fopen(flag, "w"));
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    GIVES(pycrew_run(crew, "api_ops:nothing", ">"), PYCREW_ESTART);
    CONTAINS(pycrew_last_error()->message, "gone");
    ASSERT(!pycrew_last_error()->may_have_run);
    ASSERT_INT(pycrew_last_error()->attempts, 0);
    unlink(flag);
    AWAIT(pycrew_run(crew, "api_ops:nothing", ">") == 0);
    pycrew_close(crew);
}

TAP_MAIN
