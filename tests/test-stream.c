/* Functions whose items are given as they are made: pycrew_set_stream and pycrew_next. */
#include <errno.h>
#include <signal.h>

#include "lib/pycrew-stubs.h"
#include "tests/harness/crew.h"

/* A stream that was submitted. */
#define STREAM(crew, name, window, ...)                                                            \
    __extension__({                                                                                \
        pycrew_call *streaming = prepare(crew, name);                                              \
        OK(pycrew_set_stream(streaming, window));                                                  \
        OK(pycrew_add(streaming, __VA_ARGS__));                                                    \
        OK(pycrew_submit(streaming));                                                              \
        streaming;                                                                                 \
    })

static int next_int(pycrew_call *stream)
{
    int value = -1;

    GIVES(pycrew_next(stream, BOUND), 1);
    OK(pycrew_result(stream, "i", &value));
    return value;
}

static bool has_text(const char *path, const char *expected)
{
    char text[64] = "";
    FILE *file = fopen(path, "r");

    if (file == NULL)
        return false;
    if (fgets(text, sizeof text, file) == NULL)
        text[0] = '\0';
    fclose(file);
    return strncmp(text, expected, strlen(expected)) == 0;
}

static void touch(const char *path)
{
    fclose(fopen(path, "w"));
}

static bool exists(const char *path)
{
    return file_size(path) >= 0;
}

/* What the log says, but for what is asked for. */
static void note_line(void *data, int level, const char *line)
{
    FILE *file = fopen(data, "a");

    fprintf(file, "%d %s\n", level, line);
    fclose(file);
}

static int made_so_far(pycrew_crew *crew)
{
    int made = -1;

    OK(pycrew_run(crew, "actor_ops:made_so_far", ">i", &made));
    return made;
}

/* ---- items -------------------------------------------------------------------------------------
 */

static void expect_count(pycrew_crew *crew, const char *name, unsigned window, int count)
{
    pycrew_call *stream = STREAM(crew, name, window, "i", count);

    for (int i = 0; i < count; i++)
        ASSERT_INT(next_int(stream), i);
    for (int i = 0; i < 3; i++) {
        OK(pycrew_next(stream, BOUND));
        ASSERT(pycrew_call_error(stream) == NULL);
    }
    pycrew_release(stream);
}

TEST(items_come_in_their_order_whatever_the_window)
{
    static const unsigned windows[] = {0, 1, 2, 3, 16, 100, 1000000};
    pycrew_crew *crew = open_crew(2);

    for (size_t i = 0; i < sizeof windows / sizeof windows[0]; i++)
        expect_count(crew, "actor_ops:count_to", windows[i], 300);
    pycrew_close(crew);
}

TEST(asynchronous_generators_and_other_iterators_are_streams)
{
    pycrew_crew *crew = open_crew(2);

    expect_count(crew, "actor_ops:count_async", 0, 200);
    expect_count(crew, "actor_ops:count_async", 1, 20);
    expect_count(crew, "actor_ops:iterated", 0, 200);
    expect_count(crew, "actor_ops:count_to", 0, 0);
    pycrew_close(crew);
}

TEST(items_are_of_all_types)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:mixed", 0, "");
    static const int types[] = {PYCREW_TYPE_NONE, PYCREW_TYPE_INT,   PYCREW_TYPE_FLOAT,
                                PYCREW_TYPE_STR,  PYCREW_TYPE_BYTES, PYCREW_TYPE_LIST,
                                PYCREW_TYPE_DICT};

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        GIVES(pycrew_next(stream, BOUND), 1);
        ASSERT_INT(pycrew_value_type(pycrew_result_value(stream)), types[i]);
    }
    OK(pycrew_next(stream, BOUND));
    ASSERT_INT(pycrew_value_type(pycrew_result_value(stream)), PYCREW_TYPE_INVALID);
    pycrew_release(stream);
    stream = prepare(crew, "actor_ops:mixed");
    OK(pycrew_set_stream(stream, 0));
    OK(pycrew_set_json(stream, true));
    OK(pycrew_submit(stream));
    for (int i = 0; i < 7; i++) {
        static const char *const texts[] = {"null",         "12",     "2.5",       "\"text\"",
                                            "\"Ynl0ZXM=\"", "[1, 2]", "{\"a\": 1}"};
        const char *text;

        GIVES(pycrew_next(stream, BOUND), 1);
        OK(pycrew_result_json(stream, &text, NULL));
        ASSERT_STR(text, texts[i]);
    }
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(large_items_take_no_more_memory_than_the_window)
{
    enum { SIZE = 300000, ITEMS = 400 };
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pycrew_call *stream;

    options.memory = 24 << 20;
    crew = open_with(&options);
    stream = STREAM(crew, "actor_ops:texts", 4, "ii", ITEMS, SIZE);
    for (int i = 0; i < ITEMS; i++) {
        const char *text;
        size_t size;

        GIVES(pycrew_next(stream, BOUND), 1);
        OK(pycrew_result_str(stream, &text, &size));
        ASSERT_INT(size, SIZE);
        ASSERT(text[0] == 'a' + i % 26 && text[SIZE - 1] == 'a' + i % 26);
    }
    OK(pycrew_next(stream, BOUND));
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(an_item_that_is_an_array_can_be_taken)
{
    enum { SIZE = 1000, ITEMS = 8 };
    pycrew_crew *crew = open_crew(1);
    pycrew_array taken[ITEMS];
    pycrew_call *stream;

    if (pycrew_run(crew, "actor_ops:import_numpy", "") < 0)
        SKIP("numpy is not installed");
    stream = STREAM(crew, "actor_ops:arrays", 3, "ii", ITEMS, SIZE);
    for (int i = 0; i < ITEMS; i++) {
        pycrew_array seen = PYCREW_ARRAY_INIT;

        taken[i] = (pycrew_array)PYCREW_ARRAY_INIT;
        GIVES(pycrew_next(stream, BOUND), 1);
        OK(pycrew_result_array(stream, &seen));
        ASSERT_INT(seen.shape[0], SIZE);
        OK(pycrew_array_take(stream, &taken[i]));
    }
    OK(pycrew_next(stream, BOUND));
    pycrew_release(stream);
    for (int i = 0; i < ITEMS; i++) {
        ASSERT(((double *)taken[i].data)[SIZE - 1] == i);
        pycrew_array_drop(crew, &taken[i]);
    }
    pycrew_close(crew);
}

TEST(the_window_says_how_far_a_generator_runs_ahead)
{
    enum { WINDOW = 5 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:count_to", WINDOW, "i", 1000);

    ASSERT_INT(next_int(stream), 0);
    AWAIT(made_so_far(crew) == WINDOW);
    pause_ns(20 * MS);
    ASSERT_INT(made_so_far(crew), WINDOW);
    for (int i = 1; i < 100; i++)
        ASSERT_INT(next_int(stream), i);
    ASSERT(made_so_far(crew) <= 99 + WINDOW);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(several_streams_run_side_by_side_and_beside_calls)
{
    enum { STREAMS = 12, ITEMS = 200 };
    pycrew_crew *crew = open_crew(3);
    pycrew_call *streams[STREAMS];

    for (int i = 0; i < STREAMS; i++)
        streams[i] = STREAM(crew, "actor_ops:count_to", (unsigned)(1 + i), "ii", ITEMS + i, i);
    for (int n = 0; n < ITEMS; n++) {
        for (int i = 0; i < STREAMS; i++)
            ASSERT_INT(next_int(streams[i]), i + n);
        OK(pycrew_run(crew, "api_ops:nothing", ">"));
    }
    for (int i = 0; i < STREAMS; i++) {
        OK(pycrew_next(streams[i], BOUND));
        pycrew_release(streams[i]);
    }
    pycrew_close(crew);
}

/* Where calls run short a stream goes on with its own. */
TEST(streams_need_no_more_calls_than_they_reserved)
{
    pycrew_options options = test_options(2);
    pycrew_call *streams[2], *more, *plain;
    pycrew_crew *crew;

    options.calls = 7;
    crew = open_with(&options);
    streams[0] = STREAM(crew, "actor_ops:count_to", 16, "i", 500);
    streams[1] = STREAM(crew, "actor_ops:count_to", 16, "i", 500);
    OK(pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), 0, &plain)); /* the last one */
    GIVES(pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), 0, &more), -EAGAIN);
    for (int i = 0; i < 500; i++)
        for (int k = 0; k < 2; k++)
            ASSERT_INT(next_int(streams[k]), i);
    GIVES(pycrew_set_stream(plain, 0), -EAGAIN);
    CONTAINS(pycrew_last_error()->message, "three calls");
    pycrew_release(streams[0]);
    pycrew_release(streams[1]);
    AWAIT(pycrew_set_stream(plain, 0) == 0); /* their calls come back */
    pycrew_release(plain);
    pycrew_close(crew);
}

static void *prepare_one(void *data)
{
    pycrew_crew *crew = data;
    pycrew_call *call = NULL;

    OK(pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), BOUND, &call));
    pycrew_release(call);
    return NULL;
}

TEST(a_stream_gives_calls_to_those_who_wait_for_one)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;
    pthread_t thread;
    int i = 0;

    options.calls = 8;
    crew = open_with(&options);
    stream = STREAM(crew, "actor_ops:forever", 100, "");
    ASSERT_INT(next_int(stream), i++);
    ASSERT_INT(next_int(stream), i++);
    pthread_create(&thread, NULL, prepare_one, crew); /* it has all eight */
    for (int k = 0; k < 2000; k++)
        ASSERT_INT(next_int(stream), i++);
    pause_ns(10 * MS);
    for (int k = 0; k < 2000; k++)
        ASSERT_INT(next_int(stream), i++);
    pthread_join(thread, NULL);
    pycrew_release(stream);
    pycrew_close(crew);
}

/* ---- what goes wrong
 * ------------------------------------------------------------------------------ */

static void expect_raise_after(pycrew_crew *crew, const char *name, int items)
{
    pycrew_call *stream = STREAM(crew, name, 0, "i", items);

    for (int i = 0; i < items; i++)
        ASSERT_INT(next_int(stream), i);
    for (int i = 0; i < 2; i++) {
        GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
        ASSERT_STR(pycrew_last_error()->type, "ValueError");
        CONTAINS(pycrew_call_error(stream)->message, "after");
        CONTAINS(pycrew_call_error(stream)->traceback, "raise");
        ASSERT_STR(pycrew_call_error(stream)->function, name);
        GIVES(pycrew_result(stream, "i", &(int){0}), PYCREW_ERAISED);
    }
    pycrew_release(stream);
}

TEST(an_exception_comes_behind_the_items_that_were_made)
{
    pycrew_crew *crew = open_crew(2);

    expect_raise_after(crew, "actor_ops:raise_after", 20);
    expect_raise_after(crew, "actor_ops:raise_after", 0);
    expect_raise_after(crew, "actor_ops:raise_async_after", 20);
    pycrew_close(crew);
}

TEST(a_function_that_gives_no_iterator_is_said_to)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:listed", 0, "i", 3);

    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    CONTAINS(pycrew_last_error()->message, "actor_ops:listed");
    CONTAINS(pycrew_last_error()->message, "'list'");
    pycrew_release(stream);
    stream = STREAM(crew, "actor_ops:raise_at_once", 0, "");
    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "LookupError");
    pycrew_release(stream);
    stream = STREAM(crew, "no_such_module:f", 0, "");
    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    GIVES(pycrew_next(stream, 0), PYCREW_ERAISED);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(a_generator_as_a_plain_result_says_what_to_use)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch;

    GIVES(pycrew_run(crew, "actor_ops:count_to", "i>", 3), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    CONTAINS(pycrew_last_error()->message, "pycrew_set_stream");
    GIVES(pycrew_run(crew, "actor_ops:count_async", "i>", 3), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "pycrew_set_stream");
    OK(pycrew_batch_open(crew, function_of(crew, "actor_ops:count_to"), NULL, &batch));
    OK(pycrew_batch_add(batch, "i", 3));
    OK(pycrew_batch_end(batch));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    CONTAINS(pycrew_batch_error(batch)->message, "pycrew_set_stream");
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_that_cannot_be_given_ends_the_stream)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:unpicklable", 0, "");

    ASSERT_INT(next_int(stream), 1);
    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(mistakes_are_said)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "actor_ops:count_to");
    int value;

    GIVES(pycrew_next(call, 0), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "pycrew_set_stream");
    OK(pycrew_set_stream(call, 0));
    OK(pycrew_set_stream(call, 50)); /* another window */
    GIVES(pycrew_next(call, 0), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "not submitted");
    OK(pycrew_add(call, "i", 2));
    OK(pycrew_submit(call));
    GIVES(pycrew_set_stream(call, 0), -EALREADY);
    GIVES(pycrew_result(call, "i", &value), -EALREADY);
    CONTAINS(pycrew_last_error()->message, "pycrew_next");
    ASSERT(pycrew_call_alloc(call, 1, 1) == NULL);
    ASSERT_INT(pycrew_last_error()->code, -EALREADY);
    CONTAINS(pycrew_last_error()->message, "no item");
    ASSERT_INT(next_int(call), 0);
    GIVES(pycrew_result(call, "s", &(const char *){NULL}), PYCREW_ETYPE);
    OK(pycrew_result(call, "i", &value)); /* and may be read again */
    ASSERT(pycrew_call_alloc(call, 1, 1) != NULL);
    pycrew_release(call);
    call = prepare(crew, "actor_ops:count_to");
    OK(pycrew_set_stream(call, 0));
    pycrew_release(call); /* never submitted */
    pycrew_close(crew);
}

/* ---- death
 * ---------------------------------------------------------------------------------------- */

TEST(a_death_comes_behind_the_items_that_were_made)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *stream = STREAM(crew, "actor_ops:die_after", 0, "i", 30);

    for (int i = 0; i < 30; i++)
        ASSERT_INT(next_int(stream), i);
    for (int i = 0; i < 2; i++) {
        GIVES(pycrew_next(stream, BOUND), PYCREW_EDIED);
        ASSERT_INT(pycrew_last_error()->signal, SIGKILL);
        ASSERT_STR(pycrew_last_error()->function, "actor_ops:die_after");
    }
    pycrew_release(stream);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_worker_that_dies_while_nobody_reads_is_noticed_at_the_next_item)
{
    enum { WINDOW = 3 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:pid_then_count", WINDOW, "i", 1000);
    int pid = next_int(stream);

    pause_ns(20 * MS); /* those that were asked for are made, or not */
    kill(pid, SIGKILL);
    AWAIT(kill(pid, 0) < 0);
    for (int i = 0, rc; i <= WINDOW; i++) {
        rc = pycrew_next(stream, BOUND);
        if (rc == PYCREW_EDIED)
            break;
        GIVES(rc, 1);
        ASSERT(i < WINDOW);
    }
    GIVES(pycrew_next(stream, 0), PYCREW_EDIED);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(streams_killed_at_any_moment_give_a_prefix_and_say_so)
{
    enum { ROUNDS = 40, ITEMS = 2000 };
    pycrew_crew *crew = open_crew(2);
    unsigned random = 4711;
    int broken = 0;

    for (int round = 0; round < ROUNDS; round++) {
        pycrew_call *stream = STREAM(crew, "actor_ops:pid_then_count", 1 + random % 20, "i", ITEMS);
        int pid = next_int(stream), rc, value, i = 0, stop;

        random = random * 1664525 + 1013904223;
        stop = (int)(random / 65536 % 400);
        while ((rc = pycrew_next(stream, BOUND)) == 1) {
            OK(pycrew_result(stream, "i", &value));
            ASSERT_INT(value, i++);
            if (i == stop)
                kill(pid, SIGKILL);
        }
        broken += rc == PYCREW_EDIED;
        ASSERT(rc == PYCREW_EDIED || (rc == 0 && i == ITEMS));
        pycrew_release(stream);
    }
    ASSERT(broken > ROUNDS / 2);
    pycrew_close(crew);
}

/* ---- deadlines and cancels
 * ------------------------------------------------------------------------ */

TEST(the_deadline_is_that_of_the_whole_stream)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = prepare(crew, "actor_ops:slow");
    int rc, items = 0;

    OK(pycrew_set_stream(stream, 2));
    OK(pycrew_set_timeout(stream, 300 * MS));
    OK(pycrew_add(stream, "id", 1000, 0.01));
    OK(pycrew_submit(stream));
    while ((rc = pycrew_next(stream, BOUND)) == 1)
        items++;
    GIVES(rc, -ETIMEDOUT);
    ASSERT(items < 40);
    GIVES(pycrew_next(stream, 0), -ETIMEDOUT);
    pycrew_release(stream);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_slow_reader_gets_what_was_made_and_then_the_deadline)
{
    enum { WINDOW = 4 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = prepare(crew, "actor_ops:count_to");

    OK(pycrew_set_stream(stream, WINDOW));
    OK(pycrew_set_timeout(stream, 600 * MS));
    OK(pycrew_add(stream, "i", 1000));
    OK(pycrew_submit(stream));
    ASSERT_INT(next_int(stream), 0);
    AWAIT(made_so_far(crew) == WINDOW);
    pause_ns(700 * MS);
    for (int i = 1; i < WINDOW; i++)
        ASSERT_INT(next_int(stream), i);
    GIVES(pycrew_next(stream, BOUND), -ETIMEDOUT);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(a_wait_for_an_item_ends_and_the_stream_goes_on)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:hold_second", 0, "sss", scratch("started"),
                                 scratch("release"), scratch("closed"));

    ASSERT_INT(next_int(stream), 1);
    AWAIT(exists(scratch("started")));
    GIVES(pycrew_next(stream, 0), -ETIME);
    GIVES(pycrew_next(stream, 20 * MS), -ETIME);
    GIVES(pycrew_result(stream, "i", &(int){0}), -EALREADY);
    touch(scratch("release"));
    ASSERT_INT(next_int(stream), 2);
    ASSERT_INT(next_int(stream), 3);
    OK(pycrew_next(stream, BOUND));
    pycrew_release(stream);
    pycrew_close(crew);
}

static void *cancel_soon(void *data)
{
    pause_ns(30 * MS);
    OK(pycrew_cancel(data));
    return NULL;
}

TEST(a_cancel_ends_a_stream_that_is_waited_for)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:slow", 0, "id", 3, 60.0);
    pthread_t thread;

    pthread_create(&thread, NULL, cancel_soon, stream);
    GIVES(pycrew_next(stream, BOUND), -ECANCELED);
    pthread_join(thread, NULL);
    GIVES(pycrew_cancel(stream), -EALREADY);
    GIVES(pycrew_next(stream, BOUND), -ECANCELED);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(a_cancel_takes_away_what_was_made)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:forever", 0, "s", scratch("closed"));

    ASSERT_INT(next_int(stream), 0);
    OK(pycrew_cancel(stream));
    GIVES(pycrew_next(stream, 0), -ECANCELED);
    pycrew_release(stream);
    AWAIT(has_text(scratch("closed"), "closed"));
    pycrew_close(crew);
}

/* Once, though others ask for items behind the one that failed, and the stream is released then. */
static void is_closed_once(pycrew_call *stream, pycrew_crew *crew)
{
    AWAIT(file_size(scratch("closed")) == 1);
    pycrew_release(stream);
    OK(pycrew_drain(crew, BOUND));
    ASSERT_INT((int)file_size(scratch("closed")), 1);
    pycrew_close(crew);
}

TEST(an_iterator_that_raises_is_closed)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:IteratorFails", 8, "is", 3, scratch("closed"));

    for (int i = 0; i < 3; i++)
        ASSERT_INT(next_int(stream), 2 - i);
    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    is_closed_once(stream, crew);
}

TEST(an_iterator_that_is_interrupted_is_closed_at_its_workers_end)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream =
        STREAM(crew, "actor_ops:IteratorFails", 2, "isd", 1, scratch("closed"), 60.0);

    ASSERT_INT(next_int(stream), 0);
    GIVES(pycrew_next(stream, 10 * MS), -ETIME);
    OK(pycrew_cancel(stream));
    GIVES(pycrew_next(stream, BOUND), -ECANCELED);
    is_closed_once(stream, crew);
}

TEST(an_asynchronous_iterator_that_raises_is_closed)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:AsyncIteratorFails", 8, "is", 1, scratch("closed"));

    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ValueError");
    is_closed_once(stream, crew);
}

TEST(an_asynchronous_iterator_that_is_cancelled_is_closed)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:AsyncIteratorFails", 8, "is", 3, scratch("closed"));

    ASSERT_INT(next_int(stream), 2);
    GIVES(pycrew_next(stream, 10 * MS), -ETIME);
    OK(pycrew_cancel(stream));
    GIVES(pycrew_next(stream, BOUND), -ECANCELED);
    is_closed_once(stream, crew);
}

/* ---- release
 * --------------------------------------------------------------------------------------- */

TEST(a_release_closes_the_generator)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:forever", 0, "s", scratch("closed"));

    for (int i = 0; i < 10; i++)
        ASSERT_INT(next_int(stream), i);
    pycrew_release(stream);
    AWAIT(has_text(scratch("closed"), "closed"));
    stream = STREAM(crew, "actor_ops:forever_async", 0, "s", scratch("closed_too"));
    ASSERT_INT(next_int(stream), 1);
    pycrew_release(stream);
    AWAIT(has_text(scratch("closed_too"), "closed"));
    pycrew_close(crew);
}

TEST(a_release_while_an_item_is_made_lets_that_end_first)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;
    int before, after;

    options.grace_ns = 10 * SECOND;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    stream = STREAM(crew, "actor_ops:hold_second", 0, "sss", scratch("started"), scratch("release"),
                    scratch("closed"));
    ASSERT_INT(next_int(stream), 1);
    AWAIT(exists(scratch("started")));
    pycrew_release(stream);
    touch(scratch("release"));
    AWAIT(has_text(scratch("closed"), "closed"));
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT_INT(after, before); /* it was not interrupted */
    pycrew_close(crew);
}

TEST(a_release_while_an_item_takes_long_interrupts_it_after_the_grace)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;

    options.grace_ns = 500 * MS; /* also what its finally has */
    crew = open_with(&options);
    stream = STREAM(crew, "actor_ops:hold_second", 0, "sss", scratch("started"), scratch("never"),
                    scratch("closed"));
    ASSERT_INT(next_int(stream), 1);
    AWAIT(exists(scratch("started")));
    pycrew_release(stream);
    AWAIT(has_text(scratch("closed"), "closed")); /* its finally */
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_close_that_does_not_end_is_ended_after_the_grace)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;

    options.grace_ns = 50 * MS;
    crew = open_with(&options);
    stream = STREAM(crew, "actor_ops:stubborn", 0, "s", scratch("closing"));
    ASSERT_INT(next_int(stream), 1);
    pycrew_release(stream);
    AWAIT(exists(scratch("closing")));
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(a_release_before_the_function_has_returned_closes_what_it_returns)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;

    options.grace_ns = 10 * SECOND;
    crew = open_with(&options);
    stream = STREAM(crew, "actor_ops:begin_slowly", 0, "sss", scratch("started"),
                    scratch("release"), scratch("closed"));
    AWAIT(exists(scratch("started")));
    pycrew_release(stream);
    touch(scratch("release"));
    AWAIT(exists(scratch("closed")));
    pycrew_close(crew);
}

TEST(streams_released_at_any_moment_leave_nothing_behind)
{
    enum { ROUNDS = 400 };
    pycrew_options options = test_options(2);
    pycrew_crew *crew;
    unsigned random = 99;

    options.calls = 64;
    options.memory = 16 << 20;
    crew = open_with(&options);
    for (int i = 0; i < ROUNDS; i++) {
        pycrew_call *stream = prepare(crew, "actor_ops:texts");
        unsigned items;

        /* Those before may still be in the worker, with all calls. */
        AWAIT(pycrew_set_stream(stream, random % 20) != -EAGAIN);
        OK(pycrew_add(stream, "ii", 50, 30000));
        OK(pycrew_submit(stream));
        random = random * 1664525 + 1013904223;
        items = random / 65536 % 60;
        for (unsigned k = 0; k < items; k++)
            if (pycrew_next(stream, random / 256 % 3 == 0 ? 0 : BOUND) == 0)
                break;
        pycrew_release(stream);
    }
    OK(pycrew_drain(crew, BOUND));
    pycrew_close(crew);
}

/* ---- asynchronous generators
 * ---------------------------------------------------------------------------------------- */

TEST(asynchronous_generators_wait_for_each_other_in_one_worker)
{
    enum { ITEMS = 20 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *one = STREAM(crew, "actor_ops:in_turn", 4, "iss", ITEMS, "one", "two");
    pycrew_call *two = STREAM(crew, "actor_ops:in_turn", 1, "iss", ITEMS, "two", "one");

    for (int i = 0; i < ITEMS; i++) {
        ASSERT_INT(next_int(one), i);
        ASSERT_INT(next_int(two), i);
    }
    OK(pycrew_next(one, BOUND));
    OK(pycrew_next(two, BOUND));
    pycrew_release(one);
    pycrew_release(two);
    pycrew_close(crew);
}

/* Beside each other these take half a second, and one after the other 50. */
TEST(a_hundred_asynchronous_generators_progress_side_by_side_in_one_worker)
{
    enum { STREAMS = 100, ITEMS = 10 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *streams[STREAMS];
    int64_t start = now_ns();

    for (int i = 0; i < STREAMS; i++)
        streams[i] = STREAM(crew, "actor_ops:count_slowly", 4, "id", ITEMS, 0.05);
    for (int i = 0; i < STREAMS; i++)
        OK(pycrew_wait(streams[i], BOUND)); /* the iterators */
    for (int n = 0; n < ITEMS; n++)
        for (int i = 0; i < STREAMS; i++)
            ASSERT(pycrew_next(streams[i], 0) == 1 || next_int(streams[i]) == n);
    ASSERT((double)(now_ns() - start) < 15.0 * SECOND * tap_scale());
    for (int i = 0; i < STREAMS; i++) {
        OK(pycrew_next(streams[i], BOUND));
        pycrew_release(streams[i]);
    }
    pycrew_close(crew);
}

/* More items are asked for at a time than coroutines may be in flight. */
TEST(items_that_wait_for_their_turn_are_no_coroutines_in_flight)
{
    pycrew_options options = test_options(1);
    pycrew_call *one, *two;
    pycrew_crew *crew;

    options.inflight = 2;
    crew = open_with(&options);
    one = STREAM(crew, "actor_ops:in_turn", 8, "iss", 10, "one", "two");
    ASSERT_INT(next_int(one), 0);
    GIVES(pycrew_next(one, 10 * MS), -ETIME);
    two = STREAM(crew, "actor_ops:in_turn", 8, "iss", 10, "two", "one");
    ASSERT_INT(next_int(two), 0);
    for (int i = 1; i < 10; i++) {
        ASSERT_INT(next_int(one), i);
        ASSERT_INT(next_int(two), i);
    }
    pycrew_release(one);
    pycrew_release(two);
    pycrew_close(crew);
}

TEST(an_item_that_raises_while_its_worker_is_full_ends_its_stream_alone)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream, *beside;
    int before, after;
    pycrew_crew *crew;

    options.inflight = 2;
    crew = open_with(&options);
    OK(pycrew_run(crew, "async_ops:pid", ">i", &before));
    stream = STREAM(crew, "actor_ops:fail_later", 4, "d", 0.2);
    ASSERT_INT(next_int(stream), 0);
    beside = prepare(crew, "async_ops:pid_after");
    OK(pycrew_add(beside, "d", 0.6));
    OK(pycrew_submit(beside));
    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    pycrew_release(stream);
    OK(pycrew_wait(beside, BOUND));
    OK(pycrew_result(beside, "i", &after));
    ASSERT_INT(after, before);
    pycrew_release(beside);
    pycrew_close(crew);
}

TEST(a_cancel_ends_an_asynchronous_step_with_cancelled_error_and_costs_no_worker)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:hang_after", 4, "is", 2, scratch("ended"));
    int before, after;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    ASSERT_INT(next_int(stream), 0);
    ASSERT_INT(next_int(stream), 1);
    GIVES(pycrew_next(stream, 20 * MS), -ETIME);
    OK(pycrew_cancel(stream));
    GIVES(pycrew_next(stream, BOUND), -ECANCELED);
    AWAIT(has_text(scratch("ended"), "CancelledError"));
    pycrew_release(stream);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT_INT(after, before);
    pycrew_close(crew);
}

TEST(a_deadline_ends_an_asynchronous_step_and_not_those_beside_it)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *beside = STREAM(crew, "actor_ops:count_slowly", 4, "id", 20, 0.02);
    pycrew_call *stream = prepare(crew, "actor_ops:hang_after");

    ASSERT_INT(next_int(beside), 0); /* asyncio is imported */
    OK(pycrew_set_stream(stream, 4));
    OK(pycrew_set_timeout(stream, 200 * MS));
    OK(pycrew_add(stream, "is", 1, scratch("ended")));
    OK(pycrew_submit(stream));
    ASSERT_INT(next_int(stream), 0);
    GIVES(pycrew_next(stream, BOUND), -ETIMEDOUT);
    AWAIT(has_text(scratch("ended"), "CancelledError"));
    for (int i = 1; i < 20; i++)
        ASSERT_INT(next_int(beside), i);
    OK(pycrew_next(beside, BOUND));
    pycrew_release(stream);
    pycrew_release(beside);
    pycrew_close(crew);
}

TEST(a_release_in_an_asynchronous_step_closes_behind_its_item)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;
    char too_far[4200];

    options.grace_ns = 10 * SECOND;
    crew = open_with(&options);
    stream = STREAM(crew, "actor_ops:hold_async", 8, "isss", 1, scratch("started"),
                    scratch("release"), scratch("closed"));
    ASSERT_INT(next_int(stream), 0);
    GIVES(pycrew_next(stream, 0), -ETIME);
    AWAIT(exists(scratch("started")));
    pycrew_release(stream);
    pause_ns(20 * MS); /* the close is there by now, as likely as not */
    ASSERT(!exists(scratch("closed")));
    touch(scratch("release"));
    AWAIT(has_text(scratch("closed"), "closed"));
    snprintf(too_far, sizeof too_far, "%s.too_far", scratch("closed"));
    ASSERT(!exists(too_far)); /* those that were asked for behind it were not made */
    pycrew_close(crew);
}

TEST(a_release_while_an_asynchronous_step_takes_long_cancels_it_after_the_grace)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;
    int before, after;

    options.grace_ns = 200 * MS;
    crew = open_with(&options);
    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    stream = STREAM(crew, "actor_ops:hang_after", 4, "is", 1, scratch("ended"));
    ASSERT_INT(next_int(stream), 0);
    GIVES(pycrew_next(stream, 10 * MS), -ETIME);
    pycrew_release(stream);
    AWAIT(has_text(scratch("ended"), "CancelledError"));
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT_INT(after, before);
    pycrew_close(crew);
}

TEST(a_close_has_the_whole_grace_however_long_the_item_before_it_cleans_up)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;

    options.grace_ns = SECOND;
    crew = open_with(&options);
    stream = STREAM(crew, "actor_ops:AsyncIteratorCleansUp", 1, "ssdd", scratch("closed"),
                    scratch("started"), 0.6, 0.7);
    AWAIT(pycrew_next(stream, MS) == -ETIME && exists(scratch("started")));
    pycrew_release(stream); /* in a second the item is cancelled; the close ends 1.3 s behind that */
    OK(pycrew_drain(crew, BOUND));
    ASSERT_INT((int)file_size(scratch("closed")), 1);
    pycrew_close(crew);
}

TEST(an_asynchronous_generator_that_never_began_is_closed_without_a_word)
{
    pycrew_options options = test_options(1);
    pycrew_call *stream;
    pycrew_crew *crew;

    options.output = PYCREW_LOG;
    options.log = note_line;
    options.log_data = (void *)(uintptr_t)scratch("log");
    crew = open_with(&options);
    for (int i = 0; i < 20; i++) {
        stream = STREAM(crew, "actor_ops:forever_async", 0, "s", scratch("closed"));
        if (i % 2 == 0)
            OK(pycrew_wait(stream, BOUND));
        pycrew_release(stream);
    }
    OK(pycrew_drain(crew, BOUND));
    ASSERT(!exists(scratch("closed")));
    pycrew_close(crew);
    ASSERT(!exists(scratch("log")));
}

TEST(asynchronous_iterators_are_of_any_type)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:AsyncIterator", 0, "is", 30, scratch("closed"));

    for (int i = 0; i < 30; i++)
        ASSERT_INT(next_int(stream), 29 - i);
    OK(pycrew_next(stream, BOUND));
    pycrew_release(stream);
    ASSERT(!exists(scratch("closed")));
    stream = STREAM(crew, "actor_ops:AsyncIterator", 0, "is", 30, scratch("closed"));
    ASSERT_INT(next_int(stream), 29);
    pycrew_release(stream);
    AWAIT(exists(scratch("closed")));
    stream = STREAM(crew, "actor_ops:NoAwaitable", 0, "");
    GIVES(pycrew_next(stream, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    CONTAINS(pycrew_last_error()->message, "NoAwaitable.__anext__");
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(a_death_in_an_asynchronous_step_comes_behind_the_items_that_were_made)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *stream = STREAM(crew, "actor_ops:die_in_step", 8, "i", 20);

    for (int i = 0; i < 20; i++)
        ASSERT_INT(next_int(stream), i);
    GIVES(pycrew_next(stream, BOUND), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->signal, SIGKILL);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(asynchronous_generators_run_on_other_event_loops)
{
    static const char *const loops[] = {"async_ops:make_loop", "uvloop"};

    for (int i = 0; i < 2; i++) {
        pycrew_options options = test_options(1);
        pycrew_crew *crew;
        int rc;

        options.loop = loops[i];
        rc = pycrew_open(&crew, &options);
        if (i == 1 && rc == PYCREW_ESTART) /* it is not installed */
            continue;
        OK(rc);
        expect_count(crew, "actor_ops:count_async", 4, 100);
        expect_raise_after(crew, "actor_ops:raise_async_after", 5);
        pycrew_close(crew);
    }
}

/* ---- queues
 * ---------------------------------------------------------------------------------------- */

static pycrew_call *queued_stream(pycrew_crew *crew, pycrew_queue *queue, const char *name,
                                  unsigned window, int count)
{
    pycrew_call *stream = prepare(crew, name);

    OK(pycrew_set_stream(stream, window));
    OK(pycrew_set_queue(stream, queue));
    OK(pycrew_add(stream, "i", count));
    OK(pycrew_submit(stream));
    return stream;
}

TEST(a_stream_appears_in_its_queue_for_each_item_and_its_end)
{
    enum { ITEMS = 300 };
    static const unsigned windows[] = {1, 2, 16};
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue;

    OK(pycrew_queue_open(crew, &queue));
    for (int w = 0; w < 3; w++) {
        pycrew_call *stream = queued_stream(crew, queue, "actor_ops:count_to", windows[w], ITEMS);
        pycrew_call *reaped[2];
        int value;

        for (int i = 0; i < ITEMS; i++) {
            GIVES(pycrew_queue_reap(queue, reaped, 2, BOUND), 1);
            ASSERT(reaped[0] == stream);
            GIVES(pycrew_queue_reap(queue, reaped, 2, 0), 0); /* once */
            GIVES(pycrew_next(stream, 0), 1);
            OK(pycrew_result(stream, "i", &value));
            ASSERT_INT(value, i);
        }
        GIVES(pycrew_queue_reap(queue, reaped, 2, BOUND), 1);
        OK(pycrew_next(stream, 0));
        GIVES(pycrew_queue_reap(queue, reaped, 2, 5 * MS), 0); /* never again */
        pycrew_release(stream);
    }
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_reader_of_a_queue_may_take_all_that_is_there)
{
    enum { STREAMS = 5, ITEMS = 400 };
    pycrew_crew *crew = open_crew(2);
    pycrew_call *streams[STREAMS], *reaped[4];
    int seen[STREAMS] = {0}, ended = 0;
    pycrew_queue *queue;

    OK(pycrew_queue_open(crew, &queue));
    for (int i = 0; i < STREAMS; i++) {
        streams[i] = queued_stream(crew, queue, "actor_ops:count_to", 1 + (unsigned)i, ITEMS);
        pycrew_set_data(streams[i], &seen[i]);
    }
    while (ended < STREAMS) {
        int count = pycrew_queue_reap(queue, reaped, 4, BOUND);

        ASSERT(count > 0);
        for (int k = 0; k < count; k++) {
            int *place = pycrew_data(reaped[k]), rc, value;

            while ((rc = pycrew_next(reaped[k], 0)) == 1) {
                OK(pycrew_result(reaped[k], "i", &value));
                ASSERT_INT(value, (*place)++);
            }
            ASSERT(rc == 0 || rc == -ETIME);
            ended += rc == 0;
            if (rc == 0)
                pycrew_release(reaped[k]);
        }
    }
    for (int i = 0; i < STREAMS; i++)
        ASSERT_INT(seen[i], ITEMS);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_queue_tells_of_errors_and_deaths)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *reaped[1], *stream;
    pycrew_queue *queue;
    int rc, value;

    OK(pycrew_queue_open(crew, &queue));
    for (int kind = 0; kind < 3; kind++) {
        static const char *const names[] = {"actor_ops:die_after", "actor_ops:raise_after",
                                            "actor_ops:listed"};

        stream = queued_stream(crew, queue, names[kind], 4, 20);
        for (int items = 0;; items++) {
            GIVES(pycrew_queue_reap(queue, reaped, 1, BOUND), 1);
            rc = pycrew_next(stream, 0);
            if (rc != 1)
                break;
            OK(pycrew_result(stream, "i", &value));
            ASSERT_INT(value, items);
        }
        GIVES(rc, kind == 0 ? PYCREW_EDIED : PYCREW_ERAISED);
        pycrew_release(stream);
    }
    stream = queued_stream(crew, queue, "actor_ops:count_to", 4, 20);
    OK(pycrew_cancel(stream));
    GIVES(pycrew_queue_reap(queue, reaped, 1, BOUND), 1);
    GIVES(pycrew_next(stream, 0), -ECANCELED);
    pycrew_release(stream);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

TEST(a_stream_released_or_a_queue_closed_in_the_middle_appears_no_more)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *reaped[1], *stream;
    pycrew_queue *queue;

    OK(pycrew_queue_open(crew, &queue));
    stream = queued_stream(crew, queue, "actor_ops:count_to", 4, 100);
    GIVES(pycrew_queue_reap(queue, reaped, 1, BOUND), 1);
    GIVES(pycrew_next(stream, 0), 1);
    pycrew_release(stream);
    GIVES(pycrew_queue_reap(queue, reaped, 1, 20 * MS), 0);
    stream = queued_stream(crew, queue, "actor_ops:count_to", 4, 100);
    pycrew_queue_close(queue);
    for (int i = 0; i < 100; i++)
        ASSERT_INT(next_int(stream), i);
    OK(pycrew_next(stream, BOUND));
    pycrew_release(stream);
    pycrew_close(crew);
}

/* ---- the crew's end
 * -------------------------------------------------------------------------------- */

static void *read_on(void *data)
{
    pycrew_call *stream = data;
    int rc;

    while ((rc = pycrew_next(stream, BOUND)) == 1)
        continue;
    GIVES(rc, -ECANCELED);
    return NULL;
}

TEST(a_crew_is_closed_under_a_stream)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *stream = STREAM(crew, "actor_ops:slow", 0, "id", 1000, 0.005);
    pthread_t thread;

    STREAM(crew, "actor_ops:forever", 0, "");
    pthread_create(&thread, NULL, read_on, stream);
    pause_ns(30 * MS);
    pycrew_close(crew);
    pthread_join(thread, NULL);
}

TEST(a_drain_lets_a_stream_end_where_it_is)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream = STREAM(crew, "actor_ops:forever", 4, "s", scratch("closed"));
    int rc, items = 0;

    ASSERT_INT(next_int(stream), 0);
    OK(pycrew_drain(crew, BOUND));
    while ((rc = pycrew_next(stream, BOUND)) == 1)
        items++;
    GIVES(rc, -ESHUTDOWN);
    ASSERT(items <= 4);
    pycrew_release(stream);
    AWAIT(has_text(scratch("closed"), "closed"));
    pycrew_close(crew);
}

TAP_MAIN
