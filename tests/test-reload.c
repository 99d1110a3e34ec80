/* pycrew_reload: fresh imports in all workers, worker by worker, and no call notices; what fails
 * leaves the workers as they were; deaths, closes and clocks in the middle of it. */
#include <pthread.h>

#include "tests/harness/crew.h"

enum { CALLERS = 4, WAIT = 0, TIMES = 20 };

/* ---- a module that changes --------------------------------------------------------------------
 */

typedef struct world {
    char module[128], inits[128], exits[128], slow[128], go[128], broken[128];
    char env[5][160];
    const char *env_list[6], *path[3], *preload[2];
} world;

static world w;

/* Renamed into place, so that nobody reads half of it. */
static void write_file(const char *path, const char *text)
{
    char other[140];
    FILE *file;

    snprintf(other, sizeof other, "%s.new", path);
    file = fopen(other, "w");
    ASSERT(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
    ASSERT(rename(other, path) == 0);
}

static void write_version(int version)
{
    char text[600];

    snprintf(text, sizeof text,
             "import time\nVERSION = %d\n\n\ndef version(x=0):\n    return VERSION\n\n\n"
             "def tagged(x):\n    return (VERSION, x)\n\n\n"
             "def tagged_slowly(x):\n    time.sleep(x %% 3 * 0.001)\n    return (VERSION, x)\n\n\n"
             "def version_float(x):\n    return float(VERSION)\n",
             version);
    write_file(w.module, text);
}

static void set_env(unsigned i, const char *name, char *path)
{
    strcpy(path, scratch(name + 5));
    snprintf(w.env[i], sizeof w.env[i], "%s=%s", name, path);
    w.env_list[i] = w.env[i];
}

/* "changing" is preloaded, from a folder of the test's own. */
static pycrew_options changing_options(unsigned workers)
{
    pycrew_options options = test_options(workers);

    strcpy(w.module, scratch("changing.py"));
    set_env(0, "LIFE_INITS", w.inits);
    set_env(1, "LIFE_EXITS", w.exits);
    set_env(2, "LIFE_SLOW", w.slow);
    set_env(3, "LIFE_GO", w.go);
    set_env(4, "LIFE_BROKEN", w.broken);
    write_version(1);
    w.path[0] = scratch_directory();
    w.path[1] = test_path()[0];
    w.preload[0] = "changing";
    options.path = w.path;
    options.env = w.env_list;
    options.preload = w.preload;
    return options;
}

static pycrew_crew *open_changing(unsigned workers)
{
    pycrew_options options = changing_options(workers);

    return open_with(&options);
}

static int version_of(pycrew_crew *crew)
{
    int version = 0;

    OK(pycrew_run(crew, "changing:version", ">i", &version));
    return version;
}

static int pid_of(pycrew_crew *crew)
{
    int pid = 0;

    OK(pycrew_run(crew, "life_ops:pid", ">i", &pid));
    return pid;
}

/* Two zygotes: a reload is under way. */
static int count_zygotes(int *pids)
{
    struct tap_process found[8];
    int count = tap_count_children(getpid(), 0, false, found, 8), zygotes = 0;

    for (int i = 0; i < count && i < 8; i++)
        if (strcmp(found[i].name, "pycrew-worker") == 0)
            pids[zygotes++] = found[i].pid;
    return zygotes;
}

/* Of those, the one that is not this one. */
static int other_zygote(int zygote)
{
    int pids[8], count = count_zygotes(pids);

    for (int i = 0; i < count; i++)
        if (pids[i] != zygote)
            return pids[i];
    return 0;
}

/* ---- a thread that reloads --------------------------------------------------------------------
 */

typedef struct reloader {
    pycrew_crew *crew;
    pthread_t thread;
    int64_t timeout_ns;
    int rc;
    char message[400];
    _Atomic bool done;
} reloader;

static void *reload_in_thread(void *data)
{
    reloader *r = data;

    r->rc = pycrew_reload(r->crew, r->timeout_ns);
    if (r->rc < 0)
        snprintf(r->message, sizeof r->message, "%s", pycrew_last_error()->message);
    atomic_store(&r->done, true);
    return NULL;
}

static void begin_reload(reloader *r, pycrew_crew *crew, int64_t timeout_ns)
{
    *r = (reloader){.crew = crew, .timeout_ns = timeout_ns};
    ASSERT(pthread_create(&r->thread, NULL, reload_in_thread, r) == 0);
}

static int end_reload(reloader *r)
{
    AWAIT(atomic_load(&r->done));
    pthread_join(r->thread, NULL);
    return r->rc;
}

/* ---- what it does -----------------------------------------------------------------------------
 */

TEST(a_reload_imports_everything_anew)
{
    pycrew_crew *crew = open_changing(2);

    ASSERT_INT(version_of(crew), 1);
    write_version(22);
    ASSERT_INT(version_of(crew), 1);
    OK(pycrew_reload(crew, BOUND));
    for (int i = 0; i < 10; i++)
        ASSERT_INT(version_of(crew), 22);
    pycrew_close(crew);
}

TEST(after_a_reload_no_process_of_before_is_left)
{
    pycrew_crew *crew = open_changing(3);
    int before[8], after[8], zygote = find_zygote(), zygotes[8];

    AWAIT(find_workers(before, 8) == 3);
    OK(pycrew_reload(crew, BOUND));
    ASSERT_INT(count_zygotes(zygotes), 1);
    ASSERT(find_zygote() != zygote);
    AWAIT(find_workers(after, 8) == 3);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            ASSERT(after[i] != before[j]);
    pycrew_close(crew);
}

TEST(init_and_exit_run_once_for_each_worker_that_a_reload_replaces)
{
    pycrew_options options = changing_options(2);
    pycrew_crew *crew;
    int pids[8];

    options.init = "life_ops:init";
    options.exit = "life_ops:leave";
    options.grace_ns = BOUND;
    crew = open_with(&options);
    AWAIT(file_size(w.inits) == 2 && find_workers(pids, 8) == 2);
    OK(pycrew_reload(crew, BOUND));
    ASSERT_INT(file_size(w.inits), 4);
    /* One that had not been admitted yet may have been ended with the close of its lifeline. */
    ASSERT_INT(file_size(w.exits), 2);
    pycrew_close(crew);
    ASSERT_INT(file_size(w.exits), 4);
}

typedef struct caller {
    pycrew_crew *crew;
    pthread_t thread;
    _Atomic bool *stop;
    _Atomic int *at_least; /* the version that has been reloaded for sure */
    const char *function;
    unsigned long calls;
    int64_t longest;
} caller;

static void *call_all_the_time(void *data)
{
    caller *c = data;

    for (int i = 0; !atomic_load(c->stop); i++) {
        int least = atomic_load(c->at_least), version = 0, number = 0;
        int64_t begin = now_ns(), took;

        OK(pycrew_run(c->crew, c->function, "i>ii", i, &version, &number));
        took = now_ns() - begin;
        ASSERT_INT(number, i);
        if (version < least)
            tap_fail("call %d saw version %d after the reload of %d", i, version, least);
        c->longest = took > c->longest ? took : c->longest;
        c->calls++;
    }
    return NULL;
}

TEST_LIMIT(no_call_fails_or_sees_old_text_while_the_crew_is_reloaded_again_and_again, 120)
{
    pycrew_options options = changing_options(2);
    pycrew_stats stats = PYCREW_STATS_INIT;
    _Atomic bool stop = false;
    _Atomic int at_least = 1;
    caller callers[CALLERS];
    unsigned long calls = 0;
    int64_t longest = 0;
    pycrew_crew *crew = open_with(&options);

    for (int i = 0; i < CALLERS; i++) {
        /* The slow ones are in the middle of a call most of the time. */
        callers[i] = (caller){.crew = crew,
                              .stop = &stop,
                              .at_least = &at_least,
                              .function = i % 2 ? "changing:tagged" : "changing:tagged_slowly"};
        ASSERT(pthread_create(&callers[i].thread, NULL, call_all_the_time, &callers[i]) == 0);
    }
    for (int version = 2; version < 2 + TIMES; version++) {
        write_version(version);
        OK(pycrew_reload(crew, BOUND));
        atomic_store(&at_least, version);
        ASSERT_INT(version_of(crew), version);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        calls += callers[i].calls;
        longest = callers[i].longest > longest ? callers[i].longest : longest;
    }
    OK(pycrew_stats_get(crew, &stats));
    ASSERT_INT((int)stats.deaths, 0);
    DIAG("%lu calls, the longest took %.1f ms", calls, (double)longest / 1e6);
    pycrew_close(crew);
}

TEST(with_one_worker_calls_go_on_too)
{
    pycrew_crew *crew = open_changing(1);
    _Atomic bool stop = false;
    _Atomic int at_least = 1;
    caller c = {
        .crew = crew, .stop = &stop, .at_least = &at_least, .function = "changing:tagged_slowly"};

    ASSERT(pthread_create(&c.thread, NULL, call_all_the_time, &c) == 0);
    for (int version = 2; version < 6; version++) {
        write_version(version);
        OK(pycrew_reload(crew, BOUND));
        atomic_store(&at_least, version);
    }
    atomic_store(&stop, true);
    pthread_join(c.thread, NULL);
    pycrew_close(crew);
}

TEST(batches_and_maps_in_flight_go_on)
{
    enum { ITEMS = 3000, ELEMENTS = 3000 };
    pycrew_batch_options batch_options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_map_options map_options = PYCREW_MAP_OPTIONS_INIT;
    static double in[ELEMENTS], out[ELEMENTS];
    pycrew_crew *crew = open_changing(2);
    pycrew_array input, output;
    int64_t count = ELEMENTS;
    pycrew_batch *batch;
    reloader r;
    int added = 0, version, number, last = 0;

    write_version(2);
    batch_options.chunk = 20;
    map_options.chunk = 20;
    OK(pycrew_batch_open(crew, function_of(crew, "changing:tagged"), &batch_options, &batch));
    OK(pycrew_array_init(&input, in, PYCREW_F64, 1, &count, 0));
    OK(pycrew_array_init(&output, out, PYCREW_F64, 1, &count, 0));
    begin_reload(&r, crew, BOUND);
    for (int i = 0; i < ITEMS; i++) {
        while (added < ITEMS && pycrew_batch_add(batch, "i", added) == 0)
            added++;
        if (added == ITEMS)
            OK(pycrew_batch_end(batch));
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "ii", &version, &number));
        ASSERT_INT(number, i);
        if (i % 500 == 0)
            OK(pycrew_map(crew, function_of(crew, "changing:version_float"), &input, 1, &output,
                          &map_options));
        for (int j = 0; i % 500 == 0 && j < ELEMENTS; j++)
            ASSERT(out[j] == 1.0 || out[j] == 2.0);
        last = version;
    }
    pycrew_batch_close(batch);
    OK(end_reload(&r));
    DIAG("the last item saw version %d", last);
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

TEST(a_call_that_takes_long_is_waited_for)
{
    pycrew_crew *crew = open_changing(2);
    const char *go = scratch("end");
    pycrew_call *call = SUBMIT(crew, "life_ops:pid_when", "s", go);
    int zygotes[8], pid, old = find_zygote();
    reloader r;

    write_version(2);
    begin_reload(&r, crew, BOUND);
    AWAIT(count_zygotes(zygotes) == 2 && version_of(crew) == 2);
    /* One worker is new, the other has its call; which ends as it would have. */
    ASSERT(!atomic_load(&r.done));
    write_file(go, "");
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &pid));
    pycrew_release(call);
    OK(end_reload(&r));
    ASSERT(find_zygote() != old);
    pycrew_close(crew);
}

TEST(a_time_that_runs_out_behind_the_import_ends_the_waiting_alone)
{
    pycrew_crew *crew = open_changing(2);
    const char *go = scratch("end");
    pycrew_call *call = SUBMIT(crew, "life_ops:pid_when", "s", go);
    int zygotes[8];
    reloader r;

    write_version(2);
    begin_reload(&r, crew, BOUND / 10);
    GIVES(end_reload(&r), -ETIME);
    CONTAINS(r.message, "new modules are in use");
    AWAIT(version_of(crew) == 2);
    write_file(go, "");
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    AWAIT(count_zygotes(zygotes) == 1);
    pycrew_close(crew);
}

/* ---- what fails -------------------------------------------------------------------------------
 */

static void stays_as_it_was(pycrew_crew *crew, int code, const char *message, int pid)
{
    int zygotes[8];

    GIVES(pycrew_reload(crew, BOUND), code);
    CONTAINS(pycrew_last_error()->message, message);
    CONTAINS(pycrew_last_error()->message, "was not reloaded");
    AWAIT(count_zygotes(zygotes) == 1);
    ASSERT_INT(version_of(crew), 1);
    ASSERT_INT(pid_of(crew), pid);
}

TEST(a_module_that_fails_to_import_leaves_the_workers_and_is_reported_with_its_traceback)
{
    pycrew_crew *crew = open_changing(1);
    int pid = pid_of(crew);

    for (int i = 0; i < 3; i++) {
        write_file(w.module, "VERSION = 2\n\nraise LookupError('not today')\n");
        stays_as_it_was(crew, PYCREW_ESTART, "LookupError: not today", pid);
        GIVES(pycrew_reload(crew, BOUND), PYCREW_ESTART);
        CONTAINS(pycrew_last_error()->traceback, "changing.py\", line 3");
    }
    write_file(w.module, "def broken(:\n");
    stays_as_it_was(crew, PYCREW_ESTART, "SyntaxError", pid);
    write_version(3);
    OK(pycrew_reload(crew, BOUND));
    ASSERT_INT(version_of(crew), 3);
    pycrew_close(crew);
}

TEST(an_import_that_dies_leaves_the_workers)
{
    pycrew_crew *crew = open_changing(1);
    int pid = pid_of(crew);

    write_file(w.module, "import os\nos.kill(os.getpid(), 9)\n");
    stays_as_it_was(crew, PYCREW_ESTART, "signal 9", pid);
    write_file(w.module, "import os\nos._exit(7)\n");
    stays_as_it_was(crew, PYCREW_ESTART, "exit status 7", pid);
    pycrew_close(crew);
}

TEST(an_init_function_that_fails_leaves_the_workers)
{
    pycrew_options options = changing_options(1);
    pycrew_crew *crew;
    int pid;

    options.init = "life_ops:init_fails_on_file";
    crew = open_with(&options);
    pid = pid_of(crew);
    write_version(2);
    write_file(w.broken, "");
    stays_as_it_was(crew, PYCREW_ESTART, "RuntimeError: init was told to fail", pid);
    ASSERT(pycrew_last_error()->traceback == NULL || true);
    unlink(w.broken);
    OK(pycrew_reload(crew, BOUND));
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

TEST(a_reload_whose_import_takes_too_long_is_given_up)
{
    pycrew_crew *crew = open_changing(1);
    int pid = pid_of(crew), zygotes[8];

    write_file(w.module, "import time\ntime.sleep(3600)\n");
    GIVES(pycrew_reload(crew, 300 * MS), -ETIME);
    CONTAINS(pycrew_last_error()->message, "nothing has changed");
    AWAIT(count_zygotes(zygotes) == 1);
    ASSERT_INT(pid_of(crew), pid);
    write_version(2);
    GIVES(pycrew_reload(crew, 0), -ETIME);
    OK(pycrew_reload(crew, BOUND));
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

/* ---- several at a time ------------------------------------------------------------------------
 */

static void *reload_for_versions(void *data)
{
    caller *c = data;

    for (int i = 0; i < 5; i++) {
        static _Atomic int next = 2;
        static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
        int mine;

        pthread_mutex_lock(&lock);
        mine = atomic_fetch_add(&next, 1);
        write_version(mine);
        pthread_mutex_unlock(&lock);
        OK(pycrew_reload(c->crew, BOUND));
        if (version_of(c->crew) < mine)
            tap_fail("a reload came back with older text than it was asked for");
    }
    return NULL;
}

TEST_LIMIT(each_of_several_threads_that_reload_gets_the_text_of_its_time, 120)
{
    pycrew_crew *crew = open_changing(2);
    caller callers[CALLERS];

    for (int i = 0; i < CALLERS; i++) {
        callers[i].crew = crew;
        ASSERT(pthread_create(&callers[i].thread, NULL, reload_for_versions, &callers[i]) == 0);
    }
    for (int i = 0; i < CALLERS; i++)
        pthread_join(callers[i].thread, NULL);
    ASSERT_INT(version_of(crew), 1 + 5 * CALLERS);
    pycrew_close(crew);
}

/* ---- in the middle of it ----------------------------------------------------------------------
 */

/* The new zygote imports until LIFE_GO is there. */
static void write_slow_version(void)
{
    write_file(w.module,
               "import os, sys\nsys.path.append(os.path.dirname(__file__))\nimport api_ops\n"
               "api_ops.note(os.environ['LIFE_SLOW'])\napi_ops.wait_for(os.environ['LIFE_GO'])\n"
               "VERSION = 2\n\n\ndef version(x=0):\n    return VERSION\n");
}

static int begin_slow_reload(reloader *r, pycrew_crew *crew, int old)
{
    int zygotes[8];

    write_slow_version();
    begin_reload(r, crew, BOUND);
    AWAIT(file_size(w.slow) == 1 && count_zygotes(zygotes) == 2);
    return other_zygote(old);
}

TEST(who_asks_in_the_middle_of_a_reload_gets_one_of_its_own)
{
    pycrew_crew *crew = open_changing(2);
    reloader first, second;

    begin_slow_reload(&first, crew, find_zygote()); /* its text is read */
    write_version(3);
    begin_reload(&second, crew, BOUND);
    pause_ns(50 * MS); /* were it later, it would be no harder */
    write_file(w.go, "");
    OK(end_reload(&second));
    ASSERT_INT(version_of(crew), 3);
    OK(end_reload(&first));
    pycrew_close(crew);
}

TEST(a_close_in_the_middle_of_a_reload_ends_it)
{
    pycrew_crew *crew = open_changing(2);
    reloader r;

    begin_slow_reload(&r, crew, find_zygote());
    pycrew_close(crew);
    GIVES(end_reload(&r), -ECANCELED);
}

TEST(a_close_while_places_are_moved_ends_it)
{
    pycrew_crew *crew = open_changing(2);
    pycrew_call *call = SUBMIT(crew, "life_ops:pid_when", "s", scratch("never"));
    reloader r;

    (void)call;
    write_version(2);
    begin_reload(&r, crew, BOUND);
    AWAIT(version_of(crew) == 2);
    pycrew_close(crew);
    GIVES(end_reload(&r), -ECANCELED);
}

TEST(a_crew_that_drains_is_not_reloaded)
{
    pycrew_crew *crew = open_changing(1);

    OK(pycrew_drain(crew, BOUND));
    GIVES(pycrew_reload(crew, BOUND), -ESHUTDOWN);
    pycrew_close(crew);
}

TEST(a_drain_in_the_middle_of_a_reload_lets_it_end)
{
    pycrew_crew *crew = open_changing(2);
    reloader r;

    begin_slow_reload(&r, crew, find_zygote());
    OK(pycrew_drain(crew, BOUND));
    write_file(w.go, "");
    OK(end_reload(&r));
    pycrew_close(crew);
}

TEST(a_new_zygote_killed_while_it_imports_is_the_reloads_error)
{
    pycrew_crew *crew = open_changing(1);
    int pid = pid_of(crew), old = find_zygote(), zygotes[8];
    reloader r;

    kill(begin_slow_reload(&r, crew, old), SIGKILL);
    GIVES(end_reload(&r), PYCREW_ESTART);
    CONTAINS(r.message, "signal 9");
    AWAIT(count_zygotes(zygotes) == 1);
    ASSERT_INT(zygotes[0], old);
    ASSERT_INT(pid_of(crew), pid);
    pycrew_close(crew);
}

TEST(the_old_zygote_killed_meanwhile_is_started_again_and_the_reload_goes_on)
{
    pycrew_crew *crew = open_changing(2);
    int old = find_zygote(), fresh;
    reloader r;

    fresh = begin_slow_reload(&r, crew, old);
    kill(old, SIGKILL);
    write_file(w.go, "");
    AWAIT(pycrew_run(crew, "changing:version", ">") == 0);
    OK(end_reload(&r));
    ASSERT_INT(version_of(crew), 2);
    ASSERT_INT(find_zygote(), fresh);
    pycrew_close(crew);
}

/* The first new worker is in its init function. */
static void begin_reload_with_slow_init(reloader *r, pycrew_crew *crew)
{
    write_version(2);
    write_file(w.slow, "");
    begin_reload(r, crew, BOUND);
    AWAIT(file_size(w.inits) == 2);
}

static pycrew_crew *open_with_slow_init(void)
{
    pycrew_options options = changing_options(1);

    options.init = "life_ops:init_waits_for_file";
    return open_with(&options);
}

TEST(a_new_zygote_killed_while_its_first_worker_starts_is_the_reloads_error)
{
    pycrew_crew *crew = open_with_slow_init();
    int pid = pid_of(crew), old = find_zygote(), zygotes[8];
    reloader r;

    begin_reload_with_slow_init(&r, crew);
    kill(other_zygote(old), SIGKILL);
    GIVES(end_reload(&r), PYCREW_ESTART);
    ASSERT_INT(pid_of(crew), pid);
    AWAIT(count_zygotes(zygotes) == 1);
    unlink(w.slow);
    OK(pycrew_reload(crew, BOUND));
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

TEST(a_first_worker_killed_while_it_starts_is_the_reloads_error)
{
    pycrew_crew *crew = open_with_slow_init();
    struct tap_process found[8];
    int pid = pid_of(crew), old = find_zygote();
    reloader r;

    begin_reload_with_slow_init(&r, crew);
    ASSERT_INT(tap_count_children(other_zygote(old), 0, false, found, 8), 1);
    kill(found[0].pid, SIGKILL);
    GIVES(end_reload(&r), PYCREW_ESTART);
    CONTAINS(r.message, "signal 9");
    ASSERT_INT(pid_of(crew), pid);
    pycrew_close(crew);
}

TEST(a_reload_whose_init_takes_too_long_is_given_up)
{
    pycrew_crew *crew = open_with_slow_init();
    int pid = pid_of(crew), zygotes[8], workers[8];

    write_file(w.slow, "");
    GIVES(pycrew_reload(crew, 500 * MS), -ETIME);
    AWAIT(count_zygotes(zygotes) == 1 && find_workers(workers, 8) == 1);
    ASSERT_INT(pid_of(crew), pid);
    pycrew_close(crew);
}

/* One place has been moved, the other one's worker has a call. */
static pycrew_call *begin_moving(reloader *r, pycrew_crew *crew, const char *go)
{
    pycrew_call *call = SUBMIT(crew, "life_ops:pid_when", "s", go);

    write_version(2);
    begin_reload(r, crew, BOUND);
    AWAIT(pycrew_stats_get(crew, &(pycrew_stats)PYCREW_STATS_INIT) == 0 && version_of(crew) == 2);
    return call;
}

TEST(the_old_zygote_killed_while_places_are_moved_costs_its_calls_alone)
{
    pycrew_crew *crew = open_changing(2);
    int old = find_zygote();
    pycrew_call *call;
    reloader r;

    call = begin_moving(&r, crew, scratch("never"));
    kill(old, SIGKILL);
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    pycrew_release(call);
    OK(end_reload(&r));
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

TEST(the_new_zygote_killed_while_places_are_moved_is_started_again)
{
    pycrew_crew *crew = open_changing(2);
    const char *go = scratch("end");
    int old = find_zygote();
    pycrew_call *call;
    reloader r;

    call = begin_moving(&r, crew, go);
    write_version(3); /* the next zygote's */
    kill(other_zygote(old), SIGKILL);
    AWAIT(pycrew_run(crew, "changing:version", ">") == 0 && version_of(crew) == 3);
    write_file(go, "");
    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    OK(end_reload(&r));
    ASSERT(find_zygote() != old);
    ASSERT_INT(version_of(crew), 3);
    pycrew_close(crew);
}

TEST(a_worker_killed_while_places_are_moved_is_replaced_by_a_new_one)
{
    pycrew_crew *crew = open_changing(2);
    struct tap_process found[8];
    int old = find_zygote();
    pycrew_call *call;
    reloader r;

    call = begin_moving(&r, crew, scratch("never"));
    AWAIT(tap_count_children(old, 0, false, found, 8) == 1);
    kill(found[0].pid, SIGKILL);
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    pycrew_release(call);
    OK(end_reload(&r));
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

static void damage_expected(void *data, int level, const char *line)
{
    (void)level;
    if (strstr(line, "written over") != NULL)
        atomic_fetch_add((_Atomic int *)data, 1);
}

TEST(memory_that_is_written_over_in_the_middle_of_a_reload_is_made_anew)
{
    pycrew_options options = changing_options(2);
    _Atomic int damages = 0;
    pycrew_crew *crew;
    reloader r;

    options.log = damage_expected;
    options.log_data = &damages;
    crew = open_with(&options);
    begin_slow_reload(&r, crew, find_zygote());
    GIVES(pycrew_run(crew, "life_ops:scribble", ">"), PYCREW_EDIED);
    AWAIT(damages == 1);
    write_file(w.go, "");
    OK(end_reload(&r));
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

TEST(memory_that_is_written_over_while_places_are_moved_is_made_anew)
{
    pycrew_options options = changing_options(2);
    _Atomic int damages = 0;
    pycrew_call *call;
    pycrew_crew *crew;
    reloader r;

    options.log = damage_expected;
    options.log_data = &damages;
    crew = open_with(&options);
    call = begin_moving(&r, crew, scratch("never"));
    GIVES(pycrew_run(crew, "life_ops:scribble", ">"), PYCREW_EDIED);
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    pycrew_release(call);
    OK(end_reload(&r));
    AWAIT(damages == 1);
    ASSERT_INT(version_of(crew), 2);
    pycrew_close(crew);
}

TEST(reloads_and_replacements_and_kills_together_lose_no_call)
{
    pycrew_options options = changing_options(2);
    unsigned random = 4711, failed = 0;
    pycrew_crew *crew;

    options.max_calls_per_worker = 30;
    options.retries = 1000;
    crew = open_with(&options);
    for (int round = 0; round < 12; round++) {
        pycrew_call *calls[60];
        int pids[16], count;
        reloader r;

        write_version(round + 1);
        begin_reload(&r, crew, BOUND);
        for (int i = 0; i < 60; i++) {
            calls[i] = SUBMIT(crew, "api_ops:add", "ii", i, round);
            random = random * 1664525 + 1013904223;
            if (random >> 28 == 0) {
                count = find_workers(pids, 16);
                if (count > 0 && count <= 16)
                    kill(pids[random >> 8 & 1 ? 0 : count - 1], SIGKILL);
            }
            pause_ns((random >> 16 & 1023) * US);
        }
        for (int i = 0; i < 60; i++) {
            int sum;

            OK(pycrew_wait(calls[i], BOUND));
            OK(pycrew_result(calls[i], "i", &sum));
            ASSERT_INT(sum, i + round);
            pycrew_release(calls[i]);
        }
        failed += end_reload(&r) != 0; /* its first worker was killed */
    }
    DIAG("%u of 12 reloads failed by a kill", failed);
    ASSERT(failed < 12);
    pycrew_close(crew);
}

/* ---- functions from text ----------------------------------------------------------------------
 */

TEST(a_function_from_text_shows_its_lines_in_new_workers_and_after_a_reload)
{
    static const char source[] = "def outer(x):\n    return inner(x)\n\n\ndef inner(x):\n    raise "
                                 "KeyError(x)  # line six\n";
    pycrew_options options = changing_options(1);
    const pycrew_function *function;
    pycrew_crew *crew;
    int first;

    options.max_calls_per_worker = 3;
    crew = open_with(&options);
    OK(pycrew_function_source(crew, "outer", source, &function));
    first = pid_of(crew);
    for (int i = 0; i < 8; i++) {
        pycrew_call *call;

        if (i == 4)
            OK(pycrew_reload(crew, BOUND));
        OK(pycrew_prepare(crew, function, BOUND, &call));
        OK(pycrew_add(call, "s", "k"));
        OK(pycrew_submit(call));
        GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
        CONTAINS(pycrew_call_error(call)->traceback, "return inner(x)");
        CONTAINS(pycrew_call_error(call)->traceback, "raise KeyError(x)  # line six");
        CONTAINS(pycrew_call_error(call)->traceback, "line 6, in inner");
        pycrew_release(call);
    }
    ASSERT(pid_of(crew) != first);
    pycrew_close(crew);
}

TAP_MAIN
