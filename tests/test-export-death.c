/* Python asks its host, and one of the two dies, is interrupted, closed or forked meanwhile. */
#include <sys/wait.h>

#include "tests/harness/crew.h"

/* ---- functions that are exported ---------------------------------------------------------------
 */

static int add(void *data, pycrew_host_call *call)
{
    long long a, b;
    int rc = pycrew_host_arguments(call, "LL", &a, &b);

    (void)data;
    return rc < 0 ? rc : pycrew_host_return(call, "L", a + b);
}

/* Waits until it is told to end. */
typedef struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
    _Atomic int entered, left;
    _Atomic bool abandoned; /* what pycrew_host_abandoned said at its end */
    _Atomic long long sum;  /* of the argument's bytes, read at its end */
} gate;

static gate *new_gate(void)
{
    static gate g;

    g = (gate){.open = false};
    pthread_mutex_init(&g.lock, NULL);
    pthread_cond_init(&g.opened, NULL);
    return &g;
}

static void open_it(gate *g)
{
    pthread_mutex_lock(&g->lock);
    g->open = true;
    pthread_cond_broadcast(&g->opened);
    pthread_mutex_unlock(&g->lock);
}

static int wait_for_gate(void *data, pycrew_host_call *call)
{
    gate *g = data;
    const unsigned char *bytes = NULL;
    size_t size = 0;
    long long sum = 0;
    int rc = pycrew_host_arguments(call, "|y#", &bytes, &size);

    atomic_fetch_add(&g->entered, 1);
    pthread_mutex_lock(&g->lock);
    while (!g->open)
        pthread_cond_wait(&g->opened, &g->lock);
    pthread_mutex_unlock(&g->lock);
    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    atomic_store(&g->sum, sum);
    atomic_store(&g->abandoned, pycrew_host_abandoned(call));
    atomic_fetch_add(&g->left, 1);
    return rc < 0 ? rc : pycrew_host_return(call, "y#", bytes, size);
}

static int open_gate(void *data, pycrew_host_call *call)
{
    (void)call;
    open_it(data);
    return 0;
}

static int entered(void *data, pycrew_host_call *call)
{
    const gate *g = data;

    return pycrew_host_return(call, "i", atomic_load(&g->entered));
}

static int note(void *data, pycrew_host_call *call)
{
    const char *text;
    int rc = pycrew_host_arguments(call, "s", &text);

    if (rc == 0)
        atomic_store((_Atomic bool *)data, strcmp(text, "interrupted") == 0);
    return rc;
}

static int abandoned(void *data, pycrew_host_call *call)
{
    gate *g = data;

    atomic_fetch_add(&g->entered, 1);
    while (!pycrew_host_abandoned(call))
        pause_ns(MS);
    atomic_fetch_add(&g->left, 1);
    return 0;
}

/* Imported before the workers are forked: deadlines are short. */
static const char *const preload[] = {"host_ops", NULL};

/* ---- helpers -----------------------------------------------------------------------------------
 */

static pycrew_crew *open_gated(unsigned workers, unsigned threads, gate *g)
{
    pycrew_options options = test_options(workers);
    pycrew_crew *crew;

    options.export_threads = threads;
    options.preload = preload;
    crew = open_with(&options);
    OK(pycrew_export(crew, "add", add, NULL));
    OK(pycrew_export(crew, "wait_for_gate", wait_for_gate, g));
    OK(pycrew_export(crew, "open_gate", open_gate, g));
    OK(pycrew_export(crew, "entered", entered, g));
    OK(pycrew_export(crew, "abandoned", abandoned, g));
    return crew;
}

static int run_sum(pycrew_crew *crew)
{
    int sum = 0;

    OK(pycrew_run_within(crew, BOUND, "host_ops:ask", "sii>i", "add", 40, 2, &sum));
    return sum;
}

static size_t memory_used(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;

    OK(pycrew_stats_get(crew, &stats));
    return stats.memory_used;
}

/* ---- deadlines ---------------------------------------------------------------------------------
 */

TEST(a_deadline_interrupts_a_function_that_waits_for_the_host)
{
    gate *g = new_gate();
    pycrew_options options = test_options(1);
    _Atomic bool noted = false;
    pycrew_crew *crew;

    options.grace_ns = BOUND; /* it is the interrupt that ends it */
    options.export_threads = 2;
    options.preload = preload;
    crew = open_with(&options);
    OK(pycrew_export(crew, "wait_for_gate", wait_for_gate, g));
    OK(pycrew_export(crew, "note", note, &noted));
    /* On a loaded machine it may not have come to the host by then. */
    for (int64_t timeout = 100 * MS; atomic_load(&g->entered) == 0; timeout *= 2)
        GIVES(pycrew_run_within(crew, timeout, "host_ops:interrupted", ">"), -ETIMEDOUT);
    CONTAINS(pycrew_last_error()->traceback, "in interrupted");
    ASSERT(atomic_load(&noted));
    ASSERT_INT(atomic_load(&g->left), 0);
    open_it(g);
    AWAIT(atomic_load(&g->left) == 1);
    ASSERT(atomic_load(&g->abandoned));
    pycrew_close(crew);
}

TEST(a_cancel_interrupts_it_too)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 0, g);
    pycrew_call *call = SUBMIT(crew, "host_ops:ask", "s", "wait_for_gate");

    AWAIT(atomic_load(&g->entered) == 1);
    OK(pycrew_cancel(call));
    GIVES(pycrew_wait(call, BOUND), -ECANCELED);
    pycrew_release(call);
    open_it(g);
    ASSERT_INT(run_sum(crew), 42);
    pycrew_close(crew);
}

/* The same worker goes on: what was interrupted was so by a handler of the user's. */
TEST(a_late_answer_does_not_reach_the_next_request)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 2, g);
    int sum = 0;

    OK(pycrew_run(crew, "host_ops:alarmed", ">i", &sum));
    ASSERT_INT(sum, 45);
    AWAIT(atomic_load(&g->left) == 1);
    ASSERT(atomic_load(&g->abandoned));
    pycrew_close(crew);
}

TEST(a_request_that_nobody_waits_for_any_more_is_not_run)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(2, 1, g);
    pycrew_call *first, *second;
    int pids[2];

    /* Both workers know the names: to ask for them takes the thread, too. */
    AWAIT(find_workers(pids, 2) == 2);
    first = SUBMIT(crew, "host_ops:look_up", "");
    second = SUBMIT(crew, "host_ops:look_up", "");
    OK(pycrew_wait(first, BOUND));
    OK(pycrew_wait(second, BOUND));
    pycrew_release(first);
    pycrew_release(second);
    first = SUBMIT(crew, "host_ops:ask", "s", "wait_for_gate");
    AWAIT(atomic_load(&g->entered) == 1);
    OK(pycrew_run(crew, "host_ops:gives_up", ">")); /* and its worker lives on */
    open_it(g);
    OK(pycrew_wait(first, BOUND));
    pycrew_release(first);
    ASSERT_INT(run_sum(crew), 42);
    ASSERT_INT(atomic_load(&g->entered), 1);
    pycrew_close(crew);
}

TEST(more_threads_than_there_are_places_wait_their_turn)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 1, g);
    pycrew_call *call = SUBMIT(crew, "host_ops:crowd", "i", 30);
    int64_t answered;

    AWAIT(atomic_load(&g->entered) == 1);
    open_it(g);
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_i64(call, &answered));
    ASSERT_INT(answered, 30);
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- deaths ------------------------------------------------------------------------------------
 */

static void expect_death_while_it_runs(const char *size)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 2, g);
    char text[100];
    pycrew_call *call;
    int pid = 0;

    snprintf(text, sizeof text, "host.wait_for_gate(b'\\1' * %s)", size);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &pid));
    call = SUBMIT(crew, "host_ops:evaluate", "s", text);
    AWAIT(atomic_load(&g->entered) == 1);
    kill(pid, SIGKILL);
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    pycrew_release(call);
    for (int i = 0; i < 5; i++)
        ASSERT_INT(run_sum(crew),
                   42); /* its successor asks in the same place, with other numbers */
    ASSERT_INT(atomic_load(&g->left), 0);
    open_it(g);
    AWAIT(atomic_load(&g->left) == 1);
    ASSERT(atomic_load(&g->abandoned));
    ASSERT_INT(atomic_load(&g->sum), atoll(size));
    for (int i = 0; i < 20; i++)
        ASSERT_INT(run_sum(crew), 42);
    pycrew_close(crew);
}

TEST(a_worker_that_dies_lets_the_function_finish_and_gets_no_answer)
{
    expect_death_while_it_runs("50");
}

TEST(arguments_in_a_dead_workers_memory_stay_until_the_function_returns)
{
    expect_death_while_it_runs("3000000");
}

TEST(the_memory_of_those_who_died_asking_comes_back)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 1, g);
    size_t before;

    ASSERT_INT(run_sum(crew), 42);
    before = memory_used(crew);
    open_it(g);
    for (int i = 0; i < 10; i++)
        GIVES(pycrew_run(
                  crew, "host_ops:execute", "s>",
                  "import threading\n"
                  "timer = threading.Timer(0.02, lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
                  "timer.start()\n"
                  "while True: host.wait_for_gate(b'x' * 2000000)\n"),
              PYCREW_EDIED);
    ASSERT_INT(run_sum(crew), 42);
    AWAIT(memory_used(crew) <= before + ((size_t)6 << 20));
    pycrew_close(crew);
}

/* ---- many kills ---- */

typedef struct ledger {
    _Atomic long long sums; /* calls of add */
    killer *k;
} ledger;

static int add_noting(void *data, pycrew_host_call *call)
{
    ledger *l = data;
    long long a, b;
    int pid;
    int rc = pycrew_host_arguments(call, "LLi", &a, &b, &pid);

    atomic_fetch_add(&l->sums, 1);
    atomic_store(&l->k->answered, pid);
    return rc < 0 ? rc
                  : pycrew_host_return(call, "L y#", a + b, "0123456789abcdef",
                                       (size_t)(a % 2 ? 16 : 0));
}

/* Whatever is killed when, each call has its end, and each answer is to its own question. */
TEST_LIMIT(workers_killed_while_they_ask_lose_their_own_call_and_no_other, 120)
{
    enum { CALLS = 8, KILLS = 60 };
    killer k = {.wanted = KILLS, .longest_us = 3000};
    ledger l = {.k = &k};
    pycrew_options options = test_options(2);
    pycrew_call *calls[CALLS] = {NULL};
    unsigned returned = 0, died = 0;
    pycrew_crew *crew;

    options.export_threads = 2;
    options.preload = (const char *const[]){"no_numpy", "host_ops", NULL};
    crew = open_with(&options);
    OK(pycrew_export(crew, "add", add_noting, &l));
    ASSERT(pthread_create(&k.thread, NULL, kill_workers, &k) == 0);
    for (int i = 0; atomic_load(&k.kills) < KILLS || calls[i % CALLS] != NULL; i++) {
        pycrew_call *call = calls[i % CALLS];
        int rc, wrong = -1;

        if (call != NULL) {
            rc = pycrew_wait(call, BOUND);
            if (rc != 0)
                GIVES(rc, PYCREW_EDIED);
            else
                OK(pycrew_result(call, "i", &wrong));
            if (rc == 0)
                ASSERT_INT(wrong, 0);
            returned += rc == 0;
            died += rc != 0;
            pycrew_release(call);
        }
        calls[i % CALLS] =
            atomic_load(&k.kills) < KILLS ? SUBMIT(crew, "host_ops:wrong_answers", "i", 300) : NULL;
    }
    atomic_store(&k.stop, true);
    pthread_join(k.thread, NULL);
    DIAG("%u calls returned, %u died; %lld host calls", returned, died,
         (long long)atomic_load(&l.sums));
    ASSERT(returned > 0 && died > 0);
    pycrew_close(crew);
}

/* ---- close -------------------------------------------------------------------------------------
 */

static void *close_crew(void *data)
{
    pycrew_close(data);
    return NULL;
}

TEST(close_waits_for_the_function_that_runs)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 1, g);
    pthread_t thread;

    (void)SUBMIT(crew, "host_ops:ask", "s", "wait_for_gate");
    AWAIT(atomic_load(&g->entered) == 1);
    ASSERT(pthread_create(&thread, NULL, close_crew, crew) == 0);
    AWAIT(find_zygote() == 0);
    pause_ns(20 * MS); /* to see it return too early */
    ASSERT(pthread_tryjoin_np(thread, NULL) == EBUSY);
    open_it(g);
    pthread_join(thread, NULL);
    ASSERT_INT(atomic_load(&g->left), 1);
}

TEST(close_is_seen_by_a_function_that_looks)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 1, g);
    pycrew_call *call = SUBMIT(crew, "host_ops:ask", "s", "abandoned");

    (void)call;
    AWAIT(atomic_load(&g->entered) == 1);
    pycrew_close(crew);
    ASSERT_INT(atomic_load(&g->left), 1);
}

static int close_it(void *data, pycrew_host_call *call)
{
    (void)call;
    pycrew_close(data);
    return 0;
}

TEST(a_function_that_closes_its_own_crew_is_ignored)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 1, g);

    OK(pycrew_export(crew, "close", close_it, crew));
    OK(pycrew_run(crew, "host_ops:ask", "s>", "close"));
    ASSERT_INT(run_sum(crew), 42);
    pycrew_close(crew);
}

static int run_nothing(void *data, pycrew_host_call *call)
{
    int rc;

    (void)call;
    while ((rc = pycrew_run(data, "api_ops:nothing", ">")) == 0)
        continue;
    return rc;
}

TEST(a_function_that_runs_calls_of_a_crew_that_closes_comes_out)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(2, 1, g);
    pycrew_call *call;

    OK(pycrew_export(crew, "run_nothing", run_nothing, crew));
    call = SUBMIT(crew, "host_ops:ask", "s", "run_nothing");
    AWAIT(pycrew_wait(call, 10 * MS) == -ETIME);
    pycrew_close(crew);
}

/* ---- forks and descriptors ---------------------------------------------------------------------
 */

TEST(a_fork_of_the_host_exports_nothing_and_lets_go_of_the_crew)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 2, g);
    int status;
    pid_t pid;

    ASSERT_INT(run_sum(crew), 42);
    pid = fork();
    if (pid == 0) {
        if (pycrew_export(crew, "late", add, NULL) != PYCREW_EFORKED)
            _exit(1);
        pycrew_close(crew);
        _exit(0);
    }
    ASSERT(waitpid(pid, &status, 0) == pid);
    ASSERT_INT(status, 0);
    ASSERT_INT(run_sum(crew), 42);
    pycrew_close(crew);
}

TEST(a_child_of_a_worker_is_told_that_it_cannot_ask)
{
    gate *g = new_gate();
    pycrew_crew *crew = open_gated(1, 1, g);
    char *text = NULL;

    OK(pycrew_run(crew, "host_ops:in_child", ">s", &text));
    CONTAINS(text, "3 pycrew.host: this is a child process");
    free(text);
    pycrew_close(crew);
}

TAP_MAIN
