/* Threads of the host: each in its own style on one crew, calls handed between them, close and
 * drain while they work, crews beside each other; and that nothing grows. */
#include <malloc.h>

#include "tests/harness/crew.h"

static void start_thread(pthread_t *thread, void *(*body)(void *), void *data)
{
    ASSERT(pthread_create(thread, NULL, body, data) == 0);
}

static pycrew_call *submit_add(pycrew_crew *crew, int a, int b)
{
    return SUBMIT(crew, "api_ops:add", "ii", a, b);
}

static void expect_sum(pycrew_call *call, int sum)
{
    int value = -1;

    OK(pycrew_result(call, "i", &value));
    ASSERT_INT(value, sum);
}

/* ---- every style at once --------------------------------------------------------------------- */

/* What each thread has done, in its own words; the sum is what must come out. */
typedef struct stylist {
    pthread_t thread;
    pycrew_crew *crew;
    unsigned number;
    int calls;
    long submitted, returned, cancelled, timed_out;
} stylist;

static void style_run(stylist *s)
{
    for (int i = 0; i < s->calls; i++, s->submitted++, s->returned++) {
        int sum = -1;

        OK(pycrew_run(s->crew, "api_ops:add", "ii>i", i, (int)s->number, &sum));
        ASSERT_INT(sum, i + (int)s->number);
    }
}

static void style_window(stylist *s)
{
    enum { WINDOW = 64 };
    pycrew_call *calls[WINDOW] = {NULL};

    for (int i = 0; i < s->calls + WINDOW; i++) {
        pycrew_call **place = &calls[i % WINDOW];

        if (*place != NULL) {
            OK(pycrew_wait(*place, BOUND));
            expect_sum(*place, i - WINDOW + (int)s->number);
            pycrew_release(*place);
            s->returned++;
        }
        *place = i < s->calls ? submit_add(s->crew, i, (int)s->number) : NULL;
        s->submitted += i < s->calls;
    }
}

static void style_queue(stylist *s)
{
    enum { WINDOW = 100 };
    pycrew_call *calls[WINDOW];
    pycrew_queue *queue;

    OK(pycrew_queue_open(s->crew, &queue));
    while (s->returned < s->calls) {
        int count;

        for (; s->submitted < s->calls && s->submitted - s->returned < WINDOW; s->submitted++) {
            pycrew_call *call = prepare(s->crew, "api_ops:add");

            OK(pycrew_add(call, "ii", (int)s->submitted, (int)s->number));
            OK(pycrew_set_queue(call, queue));
            pycrew_set_data(call, (void *)(intptr_t)(s->submitted + s->number));
            OK(pycrew_submit(call));
        }
        count = pycrew_queue_reap(queue, calls, WINDOW, BOUND);
        ASSERT(count > 0);
        for (int i = 0; i < count; i++) {
            expect_sum(calls[i], (int)(intptr_t)pycrew_data(calls[i]));
            pycrew_release(calls[i]);
        }
        s->returned += count;
    }
    pycrew_queue_close(queue);
}

static void style_batch(stylist *s, bool unordered)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;
    int rc;

    options.unordered = unordered;
    options.window = 4000;
    OK(pycrew_batch_open(s->crew, function_of(s->crew, "api_ops:add"), &options, &batch));
    while (s->returned < s->calls) {
        int sum = -1;

        while (s->submitted < s->calls &&
               pycrew_batch_add(batch, "ii", (int)s->submitted, (int)s->number) == 0)
            s->submitted++;
        if (s->submitted == s->calls)
            OK(pycrew_batch_end(batch));
        rc = pycrew_batch_next(batch, BOUND);
        if (rc == 0) /* others had all the calls */
            continue;
        GIVES(rc, 1);
        OK(pycrew_batch_result(batch, "i", &sum));
        ASSERT_INT(sum, pycrew_batch_index(batch) + s->number);
        ASSERT(unordered || pycrew_batch_index(batch) == (size_t)s->returned);
        s->returned++;
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
}

static void style_ordered(stylist *s)
{
    style_batch(s, false);
}

static void style_unordered(stylist *s)
{
    style_batch(s, true);
}

static void style_cancel(stylist *s)
{
    enum { WINDOW = 16 };
    pycrew_call *calls[WINDOW];

    while (s->submitted < s->calls) {
        for (int i = 0; i < WINDOW; i++)
            calls[i] = submit_add(s->crew, i, (int)s->submitted);
        for (int i = 0; i < WINDOW; i += 2)
            pycrew_cancel(calls[i]);
        for (int i = 0; i < WINDOW; i++) {
            int rc;

            if (i % 8 == 6) { /* given up without a look */
                s->cancelled++;
                pycrew_release(calls[i]);
                continue;
            }
            rc = pycrew_wait(calls[i], BOUND);
            if (rc == 0) {
                expect_sum(calls[i], i + (int)s->submitted);
                s->returned++;
            } else {
                GIVES(i % 2 == 0 ? rc : 0, -ECANCELED);
                s->cancelled++;
            }
            pycrew_release(calls[i]);
        }
        s->submitted += WINDOW;
    }
}

static void style_deadline(stylist *s)
{
    for (; s->submitted < s->calls; s->submitted++) {
        int sum = -1, i = (int)s->submitted, rc;

        rc = pycrew_run_within(s->crew, i % 100 == 99 ? 20 * US : BOUND, "api_ops:add", "ii>i", i,
                               (int)s->number, &sum);
        if (rc == 0) {
            ASSERT_INT(sum, i + (int)s->number);
            s->returned++;
        } else {
            GIVES(i % 100 == 99 ? rc : 0, -ETIMEDOUT);
            s->timed_out++;
        }
    }
}

static void style_large(stylist *s)
{
    enum { SIZE = 5000 };
    char data[SIZE];

    for (int i = 0; i < s->calls; i++, s->submitted++, s->returned++) {
        pycrew_call *call;
        const void *back;
        size_t size;

        memset(data, i & 255, SIZE);
        call = SUBMIT(s->crew, "api_ops:echo", "y#", data, (size_t)SIZE);
        OK(pycrew_wait(call, BOUND));
        OK(pycrew_result_bytes(call, &back, &size));
        ASSERT_INT(size, SIZE);
        ASSERT_MEM(back, data, SIZE);
        pycrew_release(call);
    }
}

static const struct style {
    const char *name;
    void (*body)(stylist *s);
    int share; /* of the calls, in percent: some styles are slow */
} styles[] = {
    {"run", style_run, 20},
    {"window", style_window, 60},
    {"queue", style_queue, 60},
    {"ordered batch", style_ordered, 300},
    {"unordered batch", style_unordered, 300},
    {"cancel", style_cancel, 20},
    {"deadline", style_deadline, 10},
    {"large", style_large, 10},
};

enum { STYLES = sizeof styles / sizeof styles[0] };

static void *be_stylish(void *data)
{
    stylist *s = data;

    styles[s->number].body(s);
    return NULL;
}

/* All styles at once, `calls` each (times their share). Gives how many calls that were. */
static long all_styles(pycrew_crew *crew, int calls, bool report)
{
    stylist threads[STYLES];
    long total = 0;

    for (unsigned i = 0; i < STYLES; i++) {
        threads[i] = (stylist){.crew = crew, .number = i, .calls = calls / 100 * styles[i].share};
        start_thread(&threads[i].thread, be_stylish, &threads[i]);
    }
    for (unsigned i = 0; i < STYLES; i++) {
        const stylist *s = &threads[i];

        pthread_join(s->thread, NULL);
        if (report)
            DIAG("%s: %ld calls, %ld returned, %ld cancelled, %ld timed out", styles[i].name,
                 s->submitted, s->returned, s->cancelled, s->timed_out);
        ASSERT_INT(s->submitted, s->returned + s->cancelled + s->timed_out);
        ASSERT(s->submitted >= s->calls);
        total += s->submitted;
    }
    return total;
}

static int scaled(int calls)
{
    return TAP_TSAN ? calls / 10 : calls;
}

TEST_LIMIT(eight_threads_each_in_its_own_style, 240)
{
    pycrew_crew *crew = open_crew(4);
    int64_t begun = now_ns();
    long total = all_styles(crew, scaled(30000), true);

    DIAG("%ld calls in %.1f s", total, (double)(now_ns() - begun) / 1e9);
    pycrew_close(crew);
}

TEST_LIMIT(eight_threads_that_use_up_all_calls, 240)
{
    pycrew_options options = test_options(4);
    pycrew_crew *crew;

    options.calls = 200; /* less than the styles want together */
    crew = open_with(&options);
    all_styles(crew, scaled(2000), false);
    pycrew_close(crew);
}

/* ---- nothing grows --------------------------------------------------------------------------- */

static size_t resident_pages(void)
{
    char text[256];
    size_t size = 0, resident = 0;

    tap_read_file("/proc/self/statm", text, sizeof text);
    ASSERT(sscanf(text, "%zu %zu", &size, &resident) == 2);
    return resident;
}

static int count_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    int count = 0;

    ASSERT(directory != NULL);
    while (readdir(directory) != NULL)
        count++;
    closedir(directory);
    return count;
}

/* What this process holds while the crew has nothing to do, and all its workers. */
typedef struct footprint {
    size_t heap, pages;
    int descriptors;
} footprint;

static bool all_alive(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;

    OK(pycrew_stats_get(crew, &stats));
    return stats.alive == stats.workers;
}

static footprint measure(pycrew_crew *crew)
{
    AWAIT(all_alive(crew)); /* one may be late with a cancelled call, and be replaced */
    return (footprint){mallinfo2().uordblks, resident_pages(), count_descriptors()};
}

static bool has_grown(const footprint *now, const footprint *before)
{
    if (now->descriptors > before->descriptors)
        return true;
    return !TAP_TSAN && /* its own memory grows */
           (now->heap > before->heap + (64 << 10) || now->pages > before->pages + (1 << 20) / 4096);
}

/* What leaks grows in each round. How many calls and chunks meet at most, and with that the memory
 * that is kept for the next ones, is chance and grows ever more seldom. */
TEST_LIMIT(memory_and_descriptors_stay_flat, 240)
{
    enum { CALM = 5, ROUNDS = 60 };
    pycrew_crew *crew = open_crew(4);
    footprint before = {0}, now = {0};
    int rounds = 0;

    mallopt(M_ARENA_MAX, 1); /* one for each thread would be as many as threads came by */
    for (int calm = 0; calm < CALM; calm++) {
        if (++rounds > ROUNDS)
            tap_fail("it grew within each %d of %d rounds", CALM, ROUNDS);
        all_styles(crew, scaled(1000), false);
        now = measure(crew);
        if (has_grown(&now, &before)) {
            before = now;
            calm = -1;
        }
    }
    DIAG("%d rounds; in use %zu bytes, then %zu; resident %zu pages, then %zu; descriptors %d, "
         "then %d",
         rounds, before.heap, now.heap, before.pages, now.pages, before.descriptors,
         now.descriptors);
    pycrew_close(crew);
}

/* ---- calls from hand to hand ----------------------------------------------------------------- */

/* A place for calls on their way from one thread to the next. */
typedef struct belt {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pycrew_call *calls[32];
    unsigned count;
} belt;

static void belt_put(belt *b, pycrew_call *call)
{
    pthread_mutex_lock(&b->lock);
    while (b->count == 32)
        pthread_cond_wait(&b->changed, &b->lock);
    b->calls[b->count++] = call;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

static pycrew_call *belt_take(belt *b)
{
    pycrew_call *call;

    pthread_mutex_lock(&b->lock);
    while (b->count == 0)
        pthread_cond_wait(&b->changed, &b->lock);
    call = b->calls[--b->count];
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    return call;
}

enum { HANDED = 8000 };

typedef struct works {
    pycrew_crew *crew;
    belt prepared, submitted, ended;
} works;

static int handed_calls(void)
{
    return scaled(HANDED);
}

static void *prepare_all(void *data)
{
    works *w = data;

    for (int i = 0; i < handed_calls(); i++) {
        pycrew_call *call = prepare(w->crew, "api_ops:add");

        OK(pycrew_add(call, "ii", i, 1));
        pycrew_set_data(call, (void *)(intptr_t)i);
        belt_put(&w->prepared, call);
    }
    return NULL;
}

static void *submit_all(void *data)
{
    works *w = data;

    for (int i = 0; i < handed_calls(); i++) {
        pycrew_call *call = belt_take(&w->prepared);

        OK(pycrew_submit(call));
        belt_put(&w->submitted, call);
    }
    return NULL;
}

static void *wait_for_all(void *data)
{
    works *w = data;

    for (int i = 0; i < handed_calls(); i++) {
        pycrew_call *call = belt_take(&w->submitted);

        OK(pycrew_wait(call, BOUND));
        belt_put(&w->ended, call);
    }
    return NULL;
}

static void *release_all(void *data)
{
    works *w = data;

    for (int i = 0; i < handed_calls(); i++) {
        pycrew_call *call = belt_take(&w->ended);

        expect_sum(call, (int)(intptr_t)pycrew_data(call) + 1);
        pycrew_release(call);
    }
    return NULL;
}

static void hand_on(unsigned calls)
{
    static void *(*const stations[])(void *) = {prepare_all, submit_all, wait_for_all, release_all};
    pycrew_options options = test_options(2);
    works w = {
        .prepared = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER},
        .submitted = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER},
        .ended = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER}};
    pthread_t threads[4];

    options.calls = calls;
    w.crew = open_with(&options);
    for (int i = 0; i < 4; i++)
        start_thread(&threads[i], stations[i], &w);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    pycrew_close(w.crew);
}

TEST(calls_are_prepared_submitted_waited_for_and_released_by_different_threads)
{
    hand_on(1000);
}

/* ---- close while threads are inside -----------------------------------------------------------
 */

enum { INSIDE = 24 };

typedef struct inside {
    pthread_t thread;
    pycrew_crew *crew;
    unsigned number;
    pycrew_call *call;
    pycrew_batch *batch;
    pycrew_queue *queue;
    _Atomic int tid;
    int rc;
    char message[200];
} inside;

static int be_inside(inside *t)
{
    pycrew_call *call;

    switch (t->number % 6) {
    case 0:
        return pycrew_wait(t->call, PYCREW_FOREVER);
    case 1:
        return pycrew_wait(t->call, 60 * SECOND);
    case 2:
        return pycrew_run(t->crew, "api_ops:sleep", "d>", 100.0);
    case 3:
        return pycrew_queue_reap(t->queue, &call, 1, PYCREW_FOREVER);
    case 4:
        return pycrew_batch_next(t->batch, PYCREW_FOREVER);
    default:
        return pycrew_prepare(t->crew, function_of(t->crew, "api_ops:nothing"), PYCREW_FOREVER,
                              &call);
    }
}

static void *go_inside(void *data)
{
    inside *t = data;

    atomic_store(&t->tid, gettid());
    t->rc = be_inside(t);
    snprintf(t->message, sizeof t->message, "%s", pycrew_last_error()->message);
    return NULL;
}

/* What is made before: the threads only wait. */
static void make_ready(inside *t)
{
    if (t->number % 6 < 2)
        t->call = SUBMIT(t->crew, "api_ops:sleep", "d", 100.0);
    if (t->number % 6 == 3)
        OK(pycrew_queue_open(t->crew, &t->queue));
    if (t->number % 6 == 4) {
        OK(pycrew_batch_open(t->crew, function_of(t->crew, "api_ops:sleep"), NULL, &t->batch));
        OK(pycrew_batch_add(t->batch, "d", 100.0));
        OK(pycrew_batch_end(t->batch));
    }
}

TEST(close_sends_out_all_who_wait_and_waits_for_them)
{
    pycrew_options options = test_options(2);
    inside threads[INSIDE];
    pycrew_call *spare[8];
    int held = 0;

    options.calls = 64;
    options.grace_ns = 10 * MS;
    threads[0].crew = open_with(&options);
    for (unsigned i = 0; i < INSIDE; i++) {
        threads[i] = (inside){.crew = threads[0].crew, .number = i};
        make_ready(&threads[i]);
    }
    for (unsigned i = 0; i < INSIDE; i++)
        if (i % 6 != 5)
            start_thread(&threads[i].thread, go_inside, &threads[i]);
    for (unsigned i = 0; i < INSIDE; i++)
        if (i % 6 != 5)
            AWAIT(tap_is_asleep(atomic_load(&threads[i].tid)));
    while (pycrew_prepare(threads[0].crew, function_of(threads[0].crew, "api_ops:nothing"), 0,
                          &spare[held % 8]) == 0)
        held++;
    ASSERT(held > 0);
    for (unsigned i = 5; i < INSIDE; i += 6)
        start_thread(&threads[i].thread, go_inside, &threads[i]);
    for (unsigned i = 5; i < INSIDE; i += 6)
        AWAIT(tap_is_asleep(atomic_load(&threads[i].tid)));
    pycrew_close(threads[0].crew);
    for (unsigned i = 0; i < INSIDE; i++) {
        pthread_join(threads[i].thread, NULL);
        if (threads[i].rc != (i % 6 == 5 ? -ESHUTDOWN : -ECANCELED))
            tap_fail("thread %u came out with %d: %s", i, threads[i].rc, threads[i].message);
    }
}

static void *drain_for_ever(void *data)
{
    inside *t = data;

    atomic_store(&t->tid, gettid());
    t->rc = pycrew_drain(t->crew, PYCREW_FOREVER);
    return NULL;
}

TEST(close_ends_a_drain)
{
    inside t = {.crew = open_crew(1)};

    SUBMIT(t.crew, "api_ops:sleep", "d", 100.0);
    start_thread(&t.thread, drain_for_ever, &t);
    AWAIT(tap_is_asleep(atomic_load(&t.tid)));
    pycrew_close(t.crew);
    pthread_join(t.thread, NULL);
    ASSERT_INT(t.rc, -ECANCELED);
}

/* ---- drain against threads that submit --------------------------------------------------------
 */

typedef struct producer {
    pthread_t thread;
    pycrew_crew *crew;
    const char *path;
    _Atomic bool drained;
    _Atomic long submitted, ended;
    int rc;
} producer;

static void *produce(void *data)
{
    producer *p = data;

    for (;;) {
        pycrew_call *call;
        bool after = atomic_load(&p->drained);

        p->rc = pycrew_prepare(p->crew, function_of(p->crew, "api_ops:nothing"), BOUND, &call);
        if (p->rc < 0)
            break;
        p->rc = pycrew_submit(call);
        ASSERT(!after || p->rc < 0);
        if (p->rc == 0) {
            atomic_fetch_add(&p->submitted, 1);
            OK(pycrew_wait(call, BOUND));
            atomic_fetch_add(&p->ended, 1);
        }
        pycrew_release(call);
        if (p->rc < 0)
            break;
    }
    return NULL;
}

TEST(drain_against_threads_that_submit_leaves_none_in_flight)
{
    for (int round = 0; round < 8; round++) {
        producer threads[4];
        pycrew_crew *crew = open_crew(2);

        for (int i = 0; i < 4; i++) {
            threads[i] = (producer){.crew = crew};
            start_thread(&threads[i].thread, produce, &threads[i]);
        }
        for (int i = 0; i < 4; i++)
            AWAIT(atomic_load(&threads[i].submitted) > 20 + round);
        OK(pycrew_drain(crew, BOUND));
        OK(pycrew_drain(crew, 0)); /* none is in flight */
        for (int i = 0; i < 4; i++)
            atomic_store(&threads[i].drained, true);
        for (int i = 0; i < 4; i++) {
            pthread_join(threads[i].thread, NULL);
            ASSERT_INT(threads[i].rc, -ESHUTDOWN);
            ASSERT_INT(threads[i].submitted, threads[i].ended);
        }
        OK(pycrew_drain(crew, 0));
        pycrew_close(crew);
    }
}

/* ---- crews beside each other ------------------------------------------------------------------
 */

typedef struct opener {
    pthread_t thread;
    pycrew_options options;
    int number;
} opener;

static void *open_and_close(void *data)
{
    const opener *o = data;

    for (int i = 0; i < 6; i++) {
        pycrew_crew *crew = open_with(&o->options);
        pycrew_call *calls[8];
        int sum = -1;

        OK(pycrew_run(crew, "api_ops:add", "ii>i", o->number, i, &sum));
        ASSERT_INT(sum, o->number + i);
        for (int k = 0; k < 8; k++)
            calls[k] = submit_add(crew, k, i);
        for (int k = 0; k < 8 && i % 2; k++) { /* else closed in the middle of it */
            OK(pycrew_wait(calls[k], BOUND));
            expect_sum(calls[k], k + i);
            pycrew_release(calls[k]);
        }
        pycrew_close(crew);
    }
    return NULL;
}

TEST(threads_open_and_close_crews_beside_each_other)
{
    enum { THREADS = 4 };
    opener threads[THREADS];

    for (int i = 0; i < THREADS; i++)
        threads[i] = (opener){.options = test_options(1 + (unsigned)i % 2), .number = 100 * i};
    for (int i = 0; i < THREADS; i++)
        start_thread(&threads[i].thread, open_and_close, &threads[i]);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i].thread, NULL);
}

TEST(a_close_does_not_disturb_the_crew_beside)
{
    pycrew_crew *stays = open_crew(2);

    for (int i = 0; i < 5; i++) {
        pycrew_crew *goes = open_crew(2);
        pycrew_call *there = submit_add(stays, i, 1), *here = submit_add(goes, i, 2);

        OK(pycrew_wait(here, BOUND));
        pycrew_close(goes);
        OK(pycrew_wait(there, BOUND));
        expect_sum(there, i + 1);
        pycrew_release(there);
    }
    pycrew_close(stays);
}

/* ---- errors ---------------------------------------------------------------------------------- */

typedef struct erring {
    pthread_t thread;
    pycrew_crew *crew;
    int number;
} erring;

static void *err(void *data)
{
    const erring *t = data;
    char text[700], expected[750];

    /* Beyond what a thread's own buffer holds for every other thread. */
    memset(text, 'a' + t->number, sizeof text);
    text[t->number % 2 ? 600 : 5] = '\0';
    for (int i = 0; i < 150; i++) {
        GIVES(pycrew_run(t->crew, "api_ops:fail", "ss>", "value", text), PYCREW_ERAISED);
        sched_yield();
        ASSERT_STR(pycrew_last_error()->message, text);
        ASSERT_STR(pycrew_last_error()->type, "ValueError");
        CONTAINS(pycrew_last_error()->traceback, "in fail");
        snprintf(expected, sizeof expected, "%s%d", "no colon in ", t->number);
        GIVES(pycrew_run(t->crew, expected, ">"), -EINVAL);
        sched_yield();
        CONTAINS(pycrew_last_error()->message, expected);
    }
    return NULL;
}

TEST(each_thread_has_its_own_last_error)
{
    enum { THREADS = 6 };
    pycrew_crew *crew = open_crew(2);
    erring threads[THREADS];

    for (int i = 0; i < THREADS; i++) {
        threads[i] = (erring){.crew = crew, .number = i};
        start_thread(&threads[i].thread, err, &threads[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i].thread, NULL);
    ASSERT_INT(pycrew_last_error()->code, 0); /* this one had none */
    pycrew_close(crew);
}

/* ---- who holds the calls ----------------------------------------------------------------------
 */

TEST(a_thread_that_holds_all_calls_is_told_at_once)
{
    pycrew_options options = test_options(1);
    pycrew_call *calls[4], *more = NULL;
    pycrew_crew *crew;

    options.calls = 4;
    crew = open_with(&options);
    for (int i = 0; i < 4; i++)
        calls[i] = submit_add(crew, i, i);
    GIVES(pycrew_prepare(crew, function_of(crew, "api_ops:add"), PYCREW_FOREVER, &more), -EAGAIN);
    for (int i = 0; i < 4; i++)
        pycrew_release(calls[i]);
    pycrew_close(crew);
}

TEST(a_loop_that_never_reaps_is_told_that_it_holds_all_calls)
{
    pycrew_options options = test_options(1);
    pycrew_call *more = NULL, *reaped[4];
    pycrew_queue *queue;
    pycrew_crew *crew;

    options.calls = 4;
    crew = open_with(&options);
    OK(pycrew_queue_open(crew, &queue));
    for (int round = 0; round < 2; round++) { /* the second time it is known who reaps */
        for (int i = 0; i < 4; i++) {
            pycrew_call *call = prepare(crew, "api_ops:nothing");

            OK(pycrew_set_queue(call, queue));
            OK(pycrew_submit(call));
        }
        GIVES(pycrew_prepare(crew, function_of(crew, "api_ops:add"), PYCREW_FOREVER, &more),
              -EAGAIN);
        for (int got = 0; got < 4; got++) {
            GIVES(pycrew_queue_reap(queue, reaped, 1, BOUND), 1);
            pycrew_release(reaped[0]);
        }
    }
    pycrew_close(crew);
}

static void *take_one_later(void *data)
{
    pycrew_call *call = data;

    OK(pycrew_wait(call, BOUND));
    pycrew_release(call);
    return NULL;
}

TEST(a_thread_waits_for_a_call_that_another_waits_for)
{
    pycrew_options options = test_options(1);
    pycrew_call *calls[4], *more = NULL;
    pthread_t thread;
    pycrew_crew *crew;

    options.calls = 4;
    crew = open_with(&options);
    for (int i = 0; i < 4; i++)
        calls[i] = SUBMIT(crew, "api_ops:sleep", "d", i == 0 ? 0.2 : 0.0);
    start_thread(&thread, take_one_later, calls[0]);
    AWAIT((pycrew_prepare(crew, function_of(crew, "api_ops:add"), BOUND, &more)) == 0);
    pthread_join(thread, NULL);
    pycrew_release(more);
    for (int i = 1; i < 4; i++)
        pycrew_release(calls[i]);
    pycrew_close(crew);
}

TAP_MAIN
