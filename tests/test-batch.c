/* Batches: items come out once, in order where asked, with their own errors; nothing waits for ever. */
#include <limits.h>
#include <math.h>
#include <pthread.h>

#include "tests/harness/crew.h"

static pycrew_batch *open_batch(pycrew_crew *crew, const char *function,
                                const pycrew_batch_options *options)
{
    pycrew_batch *batch = NULL;

    OK(pycrew_batch_open(crew, function_of(crew, function), options, &batch));
    return batch;
}

static void expect_item(pycrew_batch *batch, long long expected)
{
    long long value = -1;

    GIVES(pycrew_batch_next(batch, BOUND), 1);
    OK(pycrew_batch_result(batch, "L", &value));
    ASSERT_INT(value, expected);
}

static pycrew_progress progress_of(const pycrew_batch *batch)
{
    pycrew_progress progress = {.size = sizeof progress};

    OK(pycrew_batch_progress(batch, &progress));
    return progress;
}

/* ---- in and out ------------------------------------------------------------------------------ */

TEST(items_come_out_in_order)
{
    enum { ITEMS = 20000 };
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch = open_batch(crew, "api_ops:add", NULL);

    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "ii", i, 1));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        expect_item(batch, i + 1);
        ASSERT_INT(pycrew_batch_index(batch), i);
        ASSERT(pycrew_batch_error(batch) == NULL);
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    GIVES(pycrew_batch_next(batch, 0), 0);
    ASSERT_INT(progress_of(batch).added, ITEMS);
    ASSERT_INT(progress_of(batch).done, ITEMS);
    ASSERT_INT(progress_of(batch).failed, 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(unordered_items_come_out_once_each)
{
    enum { ITEMS = 20000 };
    static bool seen[ITEMS];
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch;

    options.unordered = true;
    batch = open_batch(crew, "api_ops:add", &options);
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "ii", i, 1));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        int value;
        size_t index;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        index = pycrew_batch_index(batch);
        ASSERT(index < ITEMS && !seen[index]);
        seen[index] = true;
        OK(pycrew_batch_result(batch, "i", &value));
        ASSERT_INT(value, index + 1);
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_unordered_batch_does_not_wait_for_a_slow_item)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(2);
    const char *go = scratch("go"), *there = scratch("there");
    pycrew_batch *batch;

    fclose(fopen(there, "w"));
    options.unordered = true;
    options.chunk = 1;
    batch = open_batch(crew, "api_ops:wait_for", &options);
    OK(pycrew_batch_add(batch, "s", go));
    for (int i = 0; i < 10; i++)
        OK(pycrew_batch_add(batch, "s", there));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 10; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        ASSERT(pycrew_batch_index(batch) != 0);
    }
    fclose(fopen(go, "w"));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    ASSERT_INT(pycrew_batch_index(batch), 0);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* ---- items that are numbers only, and others -------------------------------------------------- */

static void expect_text(pycrew_batch *batch, const char *expected)
{
    const char *text = NULL;

    GIVES(pycrew_batch_next(batch, BOUND), 1);
    OK(pycrew_batch_result(batch, "s", &text));
    ASSERT_STR(text, expected);
}

TEST(numbers_of_each_unit_arrive_as_they_are)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:shown", NULL);

    OK(pycrew_batch_add(batch, "iLn", INT_MIN, LLONG_MIN, (ptrdiff_t)-1));
    expect_text(batch, "(-2147483648, -9223372036854775808, -1)");
    OK(pycrew_batch_add(batch, "iLn", INT_MAX, LLONG_MAX, PTRDIFF_MAX));
    expect_text(batch, "(2147483647, 9223372036854775807, 9223372036854775807)");
    OK(pycrew_batch_add(batch, "KK>s", 1ULL, ULLONG_MAX));
    expect_text(batch, "(1, 18446744073709551615)");
    OK(pycrew_batch_add(batch, "ppdf", 2, 0, -0.0, 1.5));
    expect_text(batch, "(True, False, -0.0, 1.5)");
    OK(pycrew_batch_add(batch, "dd", (double)INFINITY, (double)NAN));
    expect_text(batch, "(inf, nan)");
    OK(pycrew_batch_add(batch, "iiiiiiii", 1, 2, 3, 4, 5, 6, 7, 8));
    expect_text(batch, "(1, 2, 3, 4, 5, 6, 7, 8)");
    OK(pycrew_batch_add(batch, "iiiiiiiii", 1, 2, 3, 4, 5, 6, 7, 8, 9));
    expect_text(batch, "(1, 2, 3, 4, 5, 6, 7, 8, 9)");
    OK(pycrew_batch_add(batch, ""));
    expect_text(batch, "()");
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_format_that_changes_in_place_is_read_again)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:shown", NULL);
    char format[8] = "ii";

    for (int i = 0; i < 3; i++)
        OK(pycrew_batch_add(batch, format, i, -i));
    strcpy(format, "id");
    OK(pycrew_batch_add(batch, format, 7, 0.5));
    strcpy(format, "iii");
    OK(pycrew_batch_add(batch, format, 7, 8, 9));
    strcpy(format, "i");
    OK(pycrew_batch_add(batch, format, 7));
    strcpy(format, "iix");
    GIVES(pycrew_batch_add(batch, format, 7, 8, 9), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "byte 2");
    expect_text(batch, "(0, 0)");
    expect_text(batch, "(1, -1)");
    expect_text(batch, "(2, -2)");
    expect_text(batch, "(7, 0.5)");
    expect_text(batch, "(7, 8, 9)");
    expect_text(batch, "(7,)");
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* One item of the mixed kinds by its number; the text it becomes. */
static void add_mixed(pycrew_batch *batch, int i, char text[80])
{
    pycrew_call *item;

    switch (i * 7 % 11 % 6) {
    case 0:
        OK(pycrew_batch_add(batch, "ii", i, i + 1));
        snprintf(text, 80, "(%d, %d)", i, i + 1);
        break;
    case 1:
        OK(pycrew_batch_add(batch, "iL>s", i, (long long)i + 1));
        snprintf(text, 80, "(%d, %d)", i, i + 1);
        break;
    case 2:
        OK(pycrew_batch_add(batch, "di", i + 0.5, i));
        snprintf(text, 80, "(%d.5, %d)", i, i);
        break;
    case 3:
        OK(pycrew_batch_add(batch, "is", i, "x"));
        snprintf(text, 80, "(%d, 'x')", i);
        break;
    case 4:
        OK(pycrew_batch_begin(batch, BOUND, &item));
        OK(pycrew_add_i64(item, i));
        OK(pycrew_batch_commit(batch));
        snprintf(text, 80, "(%d,)", i);
        break;
    default:
        OK(pycrew_batch_begin(batch, BOUND, &item)); /* is discarded */
        OK(pycrew_add_str(item, "gone", 4));
        OK(pycrew_batch_add(batch, "iii", i, i, i));
        snprintf(text, 80, "(%d, %d, %d)", i, i, i);
        break;
    }
}

static void mix_items(unsigned chunk)
{
    enum { ITEMS = 3000 };
    static char texts[ITEMS][80];
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch;

    options.chunk = chunk;
    batch = open_batch(crew, "api_ops:shown", &options);
    for (int i = 0; i < ITEMS; i++)
        add_mixed(batch, chunk == 7 ? i / 100 : i, texts[i]); /* runs of a kind, too */
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++)
        expect_text(batch, texts[i]);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(items_of_all_kinds_mixed_come_out_right)
{
    mix_items(0);
}

TEST(runs_of_items_of_all_kinds_come_out_right)
{
    mix_items(7);
}

TEST(an_empty_batch_has_no_item)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:add", NULL);

    GIVES(pycrew_batch_next(batch, BOUND), 0);
    OK(pycrew_batch_end(batch));
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    GIVES(pycrew_batch_result(batch, ">"), -EALREADY);
    ASSERT(pycrew_batch_error(batch) == NULL);
    ASSERT_INT(pycrew_value_type(pycrew_batch_value(batch)), PYCREW_TYPE_INVALID);
    pycrew_batch_close(batch);
    pycrew_batch_close(NULL);
    pycrew_close(crew);
}

/* Whoever feeds a batch by what comes out of it must not have to add in order to get. */
static void trickle(unsigned chunk, bool unordered, bool polls)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch;

    options.chunk = chunk;
    options.unordered = unordered;
    batch = open_batch(crew, "api_ops:add", &options);
    for (int i = 0; i < 300; i++) {
        OK(pycrew_batch_add(batch, "ii", i, 0));
        if (polls)
            AWAIT(pycrew_batch_next(batch, 0) == 1);
        else
            GIVES(pycrew_batch_next(batch, BOUND), 1);
        GIVES(pycrew_batch_next(batch, 0), 0); /* all so far */
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_comes_out_without_more_input)
{
    trickle(0, false, false);
}

TEST(an_item_of_a_large_chunk_comes_out_without_more_input)
{
    trickle(1000, false, false);
}

TEST(an_item_comes_out_without_more_input_when_unordered)
{
    trickle(0, true, false);
}

TEST(an_item_comes_out_to_who_only_polls)
{
    trickle(1000, false, true);
}

TEST(next_waits_no_longer_than_told)
{
    pycrew_crew *crew = open_crew(1);

    for (int unordered = 0; unordered < 2; unordered++) {
        pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
        const char *go = scratch(unordered ? "go1" : "go0");
        pycrew_batch *batch;
        int64_t begun;

        options.unordered = unordered;
        batch = open_batch(crew, "api_ops:wait_for", &options);
        OK(pycrew_batch_add(batch, "s", go));
        begun = now_ns();
        GIVES(pycrew_batch_next(batch, 0), -ETIME);
        GIVES(pycrew_batch_next(batch, 50 * MS), -ETIME);
        ASSERT(now_ns() - begun >= 50 * MS && now_ns() - begun < 5 * SECOND);
        fclose(fopen(go, "w"));
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        pycrew_batch_close(batch);
    }
    pycrew_close(crew);
}

/* ---- the window ------------------------------------------------------------------------------ */

TEST(a_full_window_refuses_more_until_something_is_taken_out)
{
    pycrew_crew *crew = open_crew(1);

    for (unsigned chunk = 0; chunk < 3; chunk++) {
        pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
        pycrew_batch *batch;
        pycrew_call *item;

        options.window = 5;
        options.chunk = chunk * 50;
        batch = open_batch(crew, "api_ops:add", &options);
        for (int i = 0; i < 5; i++)
            OK(pycrew_batch_add(batch, "ii", i, 0));
        GIVES(pycrew_batch_add(batch, "ii", 5, 0), -EAGAIN);
        GIVES(pycrew_batch_add_within(batch, BOUND, "ii", 5, 0), -EAGAIN); /* at once */
        GIVES(pycrew_batch_begin(batch, BOUND, &item), -EAGAIN);
        for (int i = 5; i < 200; i++) {
            expect_item(batch, i - 5);
            OK(pycrew_batch_add(batch, "ii", i, 0));
            GIVES(pycrew_batch_add(batch, "ii", -1, 0), -EAGAIN);
        }
        OK(pycrew_batch_end(batch));
        for (int i = 195; i < 200; i++)
            expect_item(batch, i);
        GIVES(pycrew_batch_next(batch, BOUND), 0);
        ASSERT_INT(progress_of(batch).added, 200);
        pycrew_batch_close(batch);
    }
    pycrew_close(crew);
}

TEST(a_window_of_one_works)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch;

    options.window = 1;
    batch = open_batch(crew, "api_ops:add", &options);
    for (int i = 0; i < 500; i++) {
        OK(pycrew_batch_add(batch, "ii", i, 0));
        GIVES(pycrew_batch_add(batch, "ii", i, 0), -EAGAIN);
        expect_item(batch, i);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(options_out_of_range_are_refused)
{
    struct {
        pycrew_batch_options options;
        int more;
    } larger = {.options = PYCREW_BATCH_OPTIONS_INIT};
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *add = function_of(crew, "api_ops:add");
    pycrew_progress progress = {.size = 0};
    pycrew_batch *batch = NULL;

    options.window = UINT32_MAX;
    GIVES(pycrew_batch_open(crew, add, &options, &batch), -EINVAL);
    options.window = 0;
    options.chunk = UINT32_MAX;
    GIVES(pycrew_batch_open(crew, add, &options, &batch), -EINVAL);
    options.chunk = 0;
    options.size = 3;
    GIVES(pycrew_batch_open(crew, add, &options, &batch), -EINVAL);
    larger.options.size = sizeof larger;
    larger.more = 1;
    GIVES(pycrew_batch_open(crew, add, &larger.options, &batch), -EINVAL);
    GIVES(pycrew_batch_open(crew, NULL, NULL, &batch), -EINVAL);
    GIVES(pycrew_batch_open(NULL, add, NULL, &batch), -EINVAL);
    GIVES(pycrew_batch_open(crew, add, NULL, NULL), -EINVAL);
    ASSERT(batch == NULL);
    larger.more = 0;
    OK(pycrew_batch_open(crew, add, &larger.options, &batch));
    GIVES(pycrew_batch_progress(batch, &progress), -EINVAL);
    GIVES(pycrew_batch_progress(batch, NULL), -EINVAL);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* ---- errors ---------------------------------------------------------------------------------- */

TEST(each_item_has_its_own_error)
{
    enum { ITEMS = 3000 };
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch = open_batch(crew, "api_ops:fail_if_odd", NULL);

    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "i", i));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        char message[32];
        int value;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        if (i % 2 == 0) {
            OK(pycrew_batch_result(batch, "i", &value));
            continue;
        }
        GIVES(pycrew_batch_result(batch, "i", &value), PYCREW_ERAISED);
        snprintf(message, sizeof message, "odd: %d", i);
        ASSERT_STR(pycrew_batch_error(batch)->message, message);
        ASSERT_STR(pycrew_batch_error(batch)->type, "ValueError");
        CONTAINS(pycrew_batch_error(batch)->traceback, "in fail_if_odd");
        ASSERT_STR(pycrew_last_error()->message, message);
        ASSERT_INT(pycrew_value_type(pycrew_batch_value(batch)), PYCREW_TYPE_INVALID);
    }
    ASSERT_INT(progress_of(batch).failed, ITEMS / 2);
    ASSERT_INT(progress_of(batch).done, ITEMS);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_that_cannot_be_written_is_not_in_and_the_batch_goes_on)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:echo", NULL);
    const char *text;
    size_t size;

    for (int i = 0; i < 50; i++) {
        OK(pycrew_batch_add(batch, "s", "good"));
        GIVES(pycrew_batch_add(batch, "s", "\xff\xfe"), -EINVAL);
        GIVES(pycrew_batch_add(batch, "[s", "open"), -EINVAL);
        GIVES(pycrew_batch_add(batch, "i?", 1), -EINVAL);
        GIVES(pycrew_batch_add(batch, "{i}", 1), -EINVAL);
        GIVES(pycrew_batch_add(batch, "value=", 1), -EINVAL);
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 50; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        ASSERT_INT(pycrew_batch_index(batch), i);
        OK(pycrew_batch_result(batch, "s#", &text, &size));
        ASSERT_STR(text, "good");
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(items_that_were_refused_take_no_memory)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pycrew_batch *batch;

    options.memory = 16 << 20;
    crew = open_with(&options);
    batch = open_batch(crew, "api_ops:add", NULL);
    for (int i = 0; i < 2000000; i++)
        ASSERT(pycrew_batch_add(batch, "s", "\xff") == -EINVAL);
    for (int i = 0; i < 2000; i++) /* and what they left is no burden */
        OK(pycrew_batch_add_within(batch, BOUND, "ii", i, 0));
    for (int i = 0; i < 2000; i++)
        expect_item(batch, i);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_wrong_type_of_result_is_an_error_of_that_look_only)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:add", NULL);
    const char *text = NULL;
    signed char none;
    int sum;

    OK(pycrew_batch_add(batch, "ss", "a", "b"));
    OK(pycrew_batch_add(batch, "LL", 1LL << 40, 1LL));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    GIVES(pycrew_batch_result(batch, "i", &sum), PYCREW_ETYPE);
    GIVES(pycrew_batch_result(batch, "x", &none), -EINVAL);
    OK(pycrew_batch_result(batch, "s", &text));
    ASSERT_STR(text, "ab");
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    GIVES(pycrew_batch_result(batch, "i", &sum), -ERANGE);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_function_that_is_not_there_is_each_items_error)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:not_there", NULL);

    for (int i = 0; i < 100; i++)
        OK(pycrew_batch_add(batch, "i", i));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 100; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        GIVES(pycrew_batch_result(batch, ">"), PYCREW_ERAISED);
        ASSERT_STR(pycrew_batch_error(batch)->type, "AttributeError");
        ASSERT(!pycrew_batch_error(batch)->may_have_run);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* ---- large values ---------------------------------------------------------------------------- */

static void fill(uint8_t *data, size_t size, unsigned seed)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
}

/* Of all sizes, from nothing to more than a span. */
static size_t size_of_item(int i)
{
    static const size_t sizes[] = {0,    1,     7,     8,      9,      15,      16,  17,
                                   4096, 65535, 65536, 262144, 300000, 1 << 20, 100, 3 << 20};

    return sizes[i % 16];
}

static void large_items(bool unordered)
{
    enum { ITEMS = 160 };
    static uint8_t data[3 << 20];
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_options crew_options = test_options(2);
    pycrew_crew *crew;
    pycrew_batch *batch;
    int in = 0;

    crew_options.memory = 64 << 20; /* not enough for all at once */
    crew = open_with(&crew_options);
    options.unordered = unordered;
    batch = open_batch(crew, "api_ops:echo", &options);
    for (int out = 0; out < ITEMS; out++) {
        const void *back;
        size_t size;

        while (in < ITEMS) {
            int rc;

            fill(data, size_of_item(in), (unsigned)in);
            rc = pycrew_batch_add_within(batch, BOUND, "y#", data, size_of_item(in));
            if (rc == -EAGAIN)
                break;
            OK(rc);
            in++;
        }
        if (in == ITEMS)
            OK(pycrew_batch_end(batch));
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        int index = (int)pycrew_batch_index(batch);
        OK(pycrew_batch_result(batch, "y#", &back, &size));
        ASSERT_INT(size, size_of_item(index));
        fill(data, size, (unsigned)index);
        ASSERT_MEM(back, data, size);
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(items_of_all_sizes_come_back_as_they_were)
{
    large_items(false);
}

TEST(items_of_all_sizes_come_back_as_they_were_when_unordered)
{
    large_items(true);
}

TEST(an_item_larger_than_the_memory_is_refused_and_the_batch_goes_on)
{
    pycrew_options options = test_options(1);
    size_t size = 40 << 20;
    char *data = calloc(1, size);
    pycrew_crew *crew;
    pycrew_batch *batch;

    options.memory = 16 << 20;
    crew = open_with(&options);
    batch = open_batch(crew, "api_ops:length", NULL);
    for (int i = 0; i < 5; i++) {
        OK(pycrew_batch_add(batch, "y#", data, (size_t)i));
        GIVES(pycrew_batch_add(batch, "y#", data, size), -E2BIG);
        GIVES(pycrew_batch_add_within(batch, BOUND, "y#", data, size), -E2BIG);
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 5; i++)
        expect_item(batch, i);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
    free(data);
}

TEST(results_larger_than_the_memory_are_their_items_errors)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pycrew_batch *batch;

    options.memory = 16 << 20;
    crew = open_with(&options);
    batch = open_batch(crew, "api_ops:zeros", NULL);
    for (int i = 0; i < 20; i++)
        OK(pycrew_batch_add(batch, "i", i % 4 == 1 ? 40 << 20 : 1000));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 20; i++) {
        const void *data;
        size_t size;
        int rc;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        rc = pycrew_batch_result(batch, "y#", &data, &size);
        GIVES(rc, i % 4 == 1 ? -E2BIG : 0);
        if (rc < 0)
            ASSERT(pycrew_batch_error(batch)->may_have_run);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* Each result is small enough; together they are more than the memory. */
TEST(results_that_use_the_memory_up_do_so_for_their_own_items_only)
{
    enum { ITEMS = 64 };
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pycrew_batch *batch;
    int short_of_memory = 0;

    options.memory = 16 << 20;
    crew = open_with(&options);
    for (int round = 0; round < 3; round++) {
        batch = open_batch(crew, "api_ops:zeros", NULL);
        for (int i = 0; i < ITEMS; i++)
            OK(pycrew_batch_add(batch, "i", 1 << 20));
        OK(pycrew_batch_end(batch));
        for (int i = 0; i < ITEMS; i++) {
            const void *data;
            size_t size;
            int rc;

            GIVES(pycrew_batch_next(batch, BOUND), 1);
            rc = pycrew_batch_result(batch, "y#", &data, &size);
            if (rc == 0)
                ASSERT_INT(size, 1 << 20);
            else
                GIVES(rc, -ENOMEM);
            short_of_memory += rc != 0;
        }
        pycrew_batch_close(batch);
    }
    DIAG("%d of %d without memory", short_of_memory, 3 * ITEMS);
    OK(pycrew_run(crew, "api_ops:zeros", "i>", 5 << 20)); /* all was given back */
    pycrew_close(crew);
}

/* A chunk lists the blocks that its results are in, and its list is short. */
TEST(a_chunk_may_have_any_number_of_large_results)
{
    enum { ITEMS = 120 };
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_options crew_options = test_options(1);
    pycrew_crew *crew;
    pycrew_batch *batch;

    crew_options.memory = 64 << 20; /* they take 132 MB */
    crew = open_with(&crew_options);
    options.chunk = ITEMS;
    batch = open_batch(crew, "api_ops:zeros", &options);
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "i", 1100000));
    for (int i = 0; i < ITEMS; i++) {
        const void *data;
        size_t size;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "y#", &data, &size));
        ASSERT_INT(size, 1100000);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_death_in_a_chunk_does_not_make_another_items_bad_argument_one_that_may_have_run)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch;

    options.chunk = 2;
    batch = open_batch(crew, "api_ops:echo_or_die", &options);
    OK(pycrew_batch_add(batch, "jj", "1", "1"));
    OK(pycrew_batch_add(batch, "jj", "{not json", "1"));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    GIVES(pycrew_batch_result(batch, ">"), PYCREW_EDIED);
    ASSERT(pycrew_batch_error(batch)->may_have_run);
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    GIVES(pycrew_batch_result(batch, ">"), -EINVAL);
    ASSERT(!pycrew_batch_error(batch)->may_have_run);
    ASSERT_INT(pycrew_batch_error(batch)->attempts, 1);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* They are written piece by piece, and moved as they grow. */
TEST(a_chunk_may_have_large_lists_as_results)
{
    enum { ITEMS = 60, LENGTH = 30000 };
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_options crew_options = test_options(1);
    pycrew_crew *crew;
    pycrew_batch *batch;

    crew_options.memory = 48 << 20; /* they take 29 MB */
    crew = open_with(&crew_options);
    options.chunk = ITEMS;
    batch = open_batch(crew, "api_ops:numbers", &options);
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "ii", i, LENGTH + i));
    for (int i = 0; i < ITEMS; i++) {
        pycrew_value value;
        int64_t number = -1;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, ">"));
        ASSERT_INT(pycrew_value_count(pycrew_batch_value(batch)), LENGTH + i);
        value = pycrew_value_item(pycrew_batch_value(batch), 0);
        for (int k = 0; k < LENGTH + i; k++, value = pycrew_value_next(value)) {
            OK(pycrew_value_i64(value, &number));
            ASSERT_INT(number, i + k);
        }
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* ---- without varargs ------------------------------------------------------------------------- */

TEST(items_can_be_built_value_by_value)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:arguments", NULL);
    pycrew_call *item;
    const char *text;

    for (int i = 0; i < 40; i++) {
        OK(pycrew_batch_begin(batch, BOUND, &item));
        OK(pycrew_add_i64(item, 99)); /* discarded by the next begin */
        OK(pycrew_batch_begin(batch, 0, &item));
        OK(pycrew_add_open(item, PYCREW_LIST));
        for (int k = 0; k < i * 50; k++)
            OK(pycrew_add_i64(item, k));
        OK(pycrew_add_close(item));
        OK(pycrew_add_name(item, "key"));
        OK(pycrew_add_str(item, "value", 5));
        OK(pycrew_batch_commit(batch));
        GIVES(pycrew_batch_commit(batch), -EINVAL);
        GIVES(pycrew_add_i64(item, 1), -EALREADY);
    }
    OK(pycrew_batch_begin(batch, 0, &item)); /* and not committed */
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 40; i++) {
        pycrew_value positional;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        positional = pycrew_value_item(pycrew_batch_value(batch), 0);
        ASSERT_INT(pycrew_value_count(positional), 1);
        ASSERT_INT(pycrew_value_count(pycrew_value_item(positional, 0)), i * 50);
        OK(pycrew_value_str(pycrew_value_get(pycrew_value_item(pycrew_batch_value(batch), 1), "key"),
                            &text, NULL));
        ASSERT_STR(text, "value");
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_that_is_not_complete_is_refused_at_commit)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:add", NULL);
    pycrew_call *item;

    OK(pycrew_batch_begin(batch, 0, &item));
    OK(pycrew_add_open(item, PYCREW_LIST));
    GIVES(pycrew_batch_commit(batch), -EINVAL);
    OK(pycrew_batch_begin(batch, 0, &item));
    GIVES(pycrew_add_str(item, "\xff", 1), -EINVAL);
    GIVES(pycrew_batch_commit(batch), -EINVAL);
    OK(pycrew_batch_begin(batch, 0, &item));
    OK(pycrew_add(item, "ii", 3, 4));
    OK(pycrew_batch_commit(batch));
    OK(pycrew_batch_end(batch));
    expect_item(batch, 7);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_is_no_call_of_the_crews)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:add", NULL);
    pycrew_call *item;

    OK(pycrew_batch_begin(batch, 0, &item));
    OK(pycrew_add(item, "ii", 3, 4));
    ASSERT(pycrew_submit(item) < 0);
    ASSERT(pycrew_wait(item, 0) < 0);
    ASSERT(pycrew_cancel(item) < 0);
    ASSERT(pycrew_result(item, ">") < 0);
    pycrew_release(item);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* ---- end, cancel, close ----------------------------------------------------------------------- */

TEST(after_end_nothing_goes_in)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:add", NULL);
    pycrew_call *item;

    OK(pycrew_batch_add(batch, "ii", 1, 2));
    OK(pycrew_batch_end(batch));
    OK(pycrew_batch_end(batch));
    GIVES(pycrew_batch_add(batch, "ii", 1, 2), -ESHUTDOWN);
    GIVES(pycrew_batch_add_within(batch, BOUND, "ii", 1, 2), -ESHUTDOWN);
    GIVES(pycrew_batch_begin(batch, BOUND, &item), -ESHUTDOWN);
    expect_item(batch, 3);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(close_in_the_middle_gives_all_back)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;

    options.calls = 64;
    options.memory = 24 << 20;
    crew = open_with(&options);
    for (int round = 0; round < 60; round++) {
        pycrew_batch_options batch_options = PYCREW_BATCH_OPTIONS_INIT;
        pycrew_batch *batch;

        batch_options.unordered = round % 2;
        batch_options.chunk = (unsigned)round % 3 * 16;
        batch = open_batch(crew, "api_ops:pattern", &batch_options);
        for (int i = 0; i < 100; i++) {
            int rc = pycrew_batch_add(batch, "i", i * 100);

            ASSERT(rc == 0 || rc == -EAGAIN);
        }
        for (int i = 0; i < round; i++)
            pycrew_batch_next(batch, i % 2 ? 0 : BOUND);
        pycrew_batch_close(batch);
    }
    /* No call and no memory is lost: all calls can be had, and a large result. */
    pycrew_call *calls[64];
    for (int i = 0; i < 64; i++)
        OK(pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), BOUND, &calls[i]));
    for (int i = 0; i < 64; i++)
        pycrew_release(calls[i]);
    AWAIT(pycrew_run(crew, "api_ops:zeros", "i>", 8 << 20) == 0);
    pycrew_close(crew);
}

TEST(close_ends_items_that_run)
{
    pycrew_crew *crew = open_crew(1);
    const char *path = scratch("running");
    pycrew_batch *batch = open_batch(crew, "api_ops:sleep", NULL);

    OK(pycrew_batch_add(batch, "is", 1000, path));
    OK(pycrew_batch_add(batch, "i", 1000));
    GIVES(pycrew_batch_next(batch, 1 * MS), -ETIME);
    AWAIT(file_size(path) == 1);
    pycrew_batch_close(batch);
    OK(pycrew_run_within(crew, BOUND, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(close_of_the_crew_with_a_batch_open_leaves_nothing)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch = open_batch(crew, "api_ops:sleep", NULL);

    for (int i = 0; i < 100; i++)
        OK(pycrew_batch_add(batch, "d", 0.01));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(items_added_before_a_drain_come_out)
{
    enum { ITEMS = 37 };
    pycrew_crew *crew = open_crew(1);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;
    int returned = 0;

    options.chunk = 10;
    batch = open_batch(crew, "api_ops:add", &options);
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "ii", i, 0));
    OK(pycrew_drain(crew, BOUND));
    GIVES(pycrew_batch_add(batch, "ii", 1, 1), -ESHUTDOWN);
    for (int i = 0; i < ITEMS; i++) {
        int rc;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        rc = pycrew_batch_result(batch, ">");
        ASSERT(rc == 0 || rc == -ESHUTDOWN);
        returned += rc == 0;
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    ASSERT(returned >= 30);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_batch_cancelled_after_a_drain_ends)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch = open_batch(crew, "api_ops:sleep", NULL);

    for (int i = 0; i < 9; i++)
        OK(pycrew_batch_add(batch, "i", 1000));
    GIVES(pycrew_drain(crew, 0), -ETIME);
    OK(pycrew_batch_cancel(batch));
    for (int i = 0; i < 9; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        GIVES(pycrew_batch_result(batch, ">"), -ECANCELED);
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* ---- others on the same crew ------------------------------------------------------------------ */

static void expect_calls_free(pycrew_crew *crew, int count)
{
    pycrew_call *calls[8];

    for (int i = 0; i < count; i++)
        OK(pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), BOUND, &calls[i]));
    GIVES(pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), 0, &calls[count]), -EAGAIN);
    for (int i = 0; i < count; i++)
        pycrew_release(calls[i]);
}

typedef struct holder {
    pycrew_crew *crew;
    pycrew_call *calls[4];
} holder;

static void *hold_all_calls(void *data)
{
    holder *h = data;

    for (int i = 0; i < 4; i++)
        OK(pycrew_prepare(h->crew, function_of(h->crew, "api_ops:nothing"), 0, &h->calls[i]));
    return NULL;
}

TEST(add_within_waits_while_others_hold_all_calls)
{
    pycrew_options options = test_options(1);
    holder others;
    pthread_t thread;
    pycrew_batch *batch;
    pycrew_call *item;
    int64_t begun;

    options.calls = 4;
    others.crew = open_with(&options);
    batch = open_batch(others.crew, "api_ops:add", NULL);
    ASSERT(pthread_create(&thread, NULL, hold_all_calls, &others) == 0);
    pthread_join(thread, NULL);
    GIVES(pycrew_batch_add(batch, "ii", 1, 2), -ETIME);
    GIVES(pycrew_batch_begin(batch, 0, &item), -ETIME);
    begun = now_ns();
    GIVES(pycrew_batch_add_within(batch, 50 * MS, "ii", 1, 2), -ETIME);
    ASSERT(now_ns() - begun >= 50 * MS);
    pycrew_release(others.calls[0]);
    OK(pycrew_batch_add_within(batch, BOUND, "ii", 1, 2));
    expect_item(batch, 3);
    for (int i = 1; i < 4; i++)
        pycrew_release(others.calls[i]);
    pycrew_batch_close(batch);
    expect_calls_free(others.crew, 4);
    pycrew_close(others.crew);
}

TEST(add_within_does_not_wait_for_calls_of_its_own_thread)
{
    pycrew_options options = test_options(1);
    holder own;
    pycrew_batch *batch;

    options.calls = 4;
    own.crew = open_with(&options);
    batch = open_batch(own.crew, "api_ops:add", NULL);
    OK(pycrew_batch_add(batch, "ii", 1, 2));
    expect_item(batch, 3); /* holds no call any more, once another is wanted */
    for (int i = 0; i < 3; i++)
        OK(pycrew_prepare(own.crew, function_of(own.crew, "api_ops:nothing"), 0, &own.calls[i]));
    OK(pycrew_batch_add(batch, "ii", 2, 2));
    expect_item(batch, 4);
    GIVES(pycrew_batch_next(batch, 0), 0); /* gives its call back */
    OK(pycrew_prepare(own.crew, function_of(own.crew, "api_ops:nothing"), 0, &own.calls[3]));
    GIVES(pycrew_batch_add_within(batch, PYCREW_FOREVER, "ii", 1, 2), -ETIME);
    for (int i = 0; i < 4; i++)
        pycrew_release(own.calls[i]);
    pycrew_batch_close(batch);
    expect_calls_free(own.crew, 4);
    pycrew_close(own.crew);
}

static void feed_and_take(pycrew_crew *crew, bool unordered)
{
    enum { ITEMS = 300 };
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;
    int in = 0;

    options.unordered = unordered;
    batch = open_batch(crew, "api_ops:add", &options);
    for (int out = 0; out < ITEMS; out++) {
        int rc = 0;

        while (in < ITEMS && (rc = pycrew_batch_add(batch, "ii", in, 0)) == 0)
            in++;
        ASSERT(rc == 0 || rc == -EAGAIN);
        GIVES(pycrew_batch_next(batch, BOUND), 1);
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
}

TEST(a_batch_that_takes_no_more_has_an_item_to_take_out_however_few_calls_there_are)
{
    for (unsigned calls = 1; calls <= 4; calls++) {
        pycrew_options options = test_options(2);
        pycrew_crew *crew;

        options.calls = calls;
        crew = open_with(&options);
        feed_and_take(crew, false);
        feed_and_take(crew, true);
        expect_calls_free(crew, (int)calls);
        pycrew_close(crew);
    }
}

TEST(the_last_result_stays_while_more_is_added)
{
    pycrew_options options = test_options(1);
    char text[2000] = "";
    pycrew_crew *crew;
    pycrew_batch *batch;

    options.calls = 1;
    crew = open_with(&options);
    batch = open_batch(crew, "api_ops:echo", NULL);
    OK(pycrew_batch_add(batch, "s", "0"));
    for (int i = 1; i < 100; i++) {
        const char *last;
        char before[sizeof text];

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "s", &last));
        strcpy(before, last);
        memset(text, 'a' + i % 26, (size_t)(i % 2 ? 5 : 1999));
        text[i % 2 ? 5 : 1999] = '\0';
        OK(pycrew_batch_add(batch, "s", text));
        ASSERT_STR(last, before);
    }
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    expect_calls_free(crew, 1);
    pycrew_close(crew);
}

typedef struct batch_thread {
    pthread_t thread;
    pycrew_crew *crew;
    unsigned number;
} batch_thread;

static void *run_batch(void *data)
{
    enum { ITEMS = 20000 };
    const batch_thread *t = data;
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_batch *batch;
    long long sum = 0;
    int in = 0;

    options.window = 3000;
    options.unordered = t->number % 2;
    batch = open_batch(t->crew, "api_ops:add", &options);
    for (int out = 0; out < ITEMS; out++) {
        long long value = -1;
        int rc;

        /* Others hold all calls at times: then there may be none inside, and none go in. */
        do {
            while (in < ITEMS && pycrew_batch_add_within(batch, BOUND, "ii", in, (int)t->number) == 0)
                in++;
            if (in == ITEMS)
                OK(pycrew_batch_end(batch));
            rc = pycrew_batch_next(batch, BOUND);
        } while (rc == 0 && in < ITEMS);
        GIVES(rc, 1);
        OK(pycrew_batch_result(batch, "L", &value));
        ASSERT_INT(value, pycrew_batch_index(batch) + t->number);
        sum += value;
    }
    ASSERT_INT(sum, (long long)ITEMS * (ITEMS - 1) / 2 + (long long)ITEMS * t->number);
    pycrew_batch_close(batch);
    return NULL;
}

static void run_batches(unsigned calls)
{
    pycrew_options options = test_options(2);
    batch_thread threads[6];
    pycrew_crew *crew;

    options.calls = calls;
    crew = open_with(&options);
    for (unsigned i = 0; i < 6; i++) {
        threads[i] = (batch_thread){.crew = crew, .number = i};
        ASSERT(pthread_create(&threads[i].thread, NULL, run_batch, &threads[i]) == 0);
    }
    for (unsigned i = 0; i < 6; i++)
        pthread_join(threads[i].thread, NULL);
    pycrew_close(crew);
}

TEST(batches_in_many_threads_do_not_mix)
{
    run_batches(64);
}

TEST(batches_in_more_threads_than_there_are_calls_all_come_to_their_end)
{
    run_batches(4);
}

TEST(a_million_items_come_out_in_order)
{
    enum { ITEMS = 1000000 };
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch = open_batch(crew, "api_ops:add", NULL);
    int in = 0, out = 0;

    while (out < ITEMS) {
        while (in < ITEMS && pycrew_batch_add(batch, "ii", in, 1) == 0)
            in++;
        if (in == ITEMS)
            OK(pycrew_batch_end(batch));
        expect_item(batch, ++out);
        for (long long value; out < ITEMS && pycrew_batch_next(batch, 0) == 1;) {
            OK(pycrew_batch_result(batch, "L", &value));
            ASSERT_INT(value, ++out);
        }
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(json_items_go_in_and_come_out_as_json)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_batch *batch = open_batch(crew, "api_ops:echo", NULL);
    const char *text;

    for (int i = 0; i < 500; i++) {
        char json[64];

        snprintf(json, sizeof json, "{\"n\": %d, \"l\": [1, null]}", i);
        OK(pycrew_batch_add(batch, "j>j", i % 10 == 3 ? "{not json" : json));
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 500; i++) {
        char json[64];

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        if (i % 10 == 3) {
            GIVES(pycrew_batch_result(batch, "j", &text), -EINVAL);
            CONTAINS(pycrew_batch_error(batch)->type, "JSONDecodeError");
            ASSERT(!pycrew_batch_error(batch)->may_have_run);
            continue;
        }
        snprintf(json, sizeof json, "{\"n\": %d, \"l\": [1, null]}", i);
        OK(pycrew_batch_result(batch, "j", &text));
        ASSERT_STR(text, json);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_without_a_format_is_refused_and_not_there)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_batch *batch;

    OK(pycrew_batch_open(crew, function_of(crew, "api_ops:nothing"), NULL, &batch));
    GIVES(pycrew_batch_add(batch, NULL), -EINVAL);
    GIVES(pycrew_batch_add_within(batch, BOUND, NULL), -EINVAL);
    OK(pycrew_batch_end(batch));
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TAP_MAIN
