/* Arrays in a batch's items and in their results: as in calls they are not copied, live as long as
 * somebody needs them, and a death costs one item. */
#include "tests/harness/arrays.h"

#include <math.h>

#define MIB ((size_t)1 << 20)

/* ---- help ------------------------------------------------------------------------------------ */

static bool has_numpy(void)
{
    const char *python = getenv("PYTHON");
    char command[512];

    snprintf(command, sizeof command, "%s -c 'import numpy' 2>/dev/null",
             python ? python : "python3");
    return system(command) == 0;
}

static pycrew_crew *open_array_crew(unsigned workers, size_t memory)
{
    static const char *const preload[] = {"batch_array_ops", NULL}; /* numpy, once */
    pycrew_options options = test_options(workers);

    if (!has_numpy())
        SKIP("numpy is not installed");
    options.preload = preload;
    options.memory = memory;
    return open_with(&options);
}

static pycrew_batch *open_batch(pycrew_crew *crew, const char *function,
                                const pycrew_batch_options *options)
{
    pycrew_batch *batch = NULL;

    OK(pycrew_batch_open(crew, function_of(crew, function), options, &batch));
    return batch;
}

static pycrew_array array_of(const void *data, int64_t count, unsigned flags)
{
    pycrew_array array;

    OK(pycrew_array_init(&array, data, PYCREW_F64, 1, &count, flags));
    return array;
}

/* A sleeping worker frees what it is given back when it looks: who asks for more than there is wakes it. The
 * host keeps a quarter of its memory at most. */
static bool has_memory_back(pycrew_crew *crew, size_t before)
{
    pycrew_free(crew, pycrew_alloc(crew, 48 * MIB));
    return memory_used(crew) <= before + 17 * MIB;
}

static void expect_memory_back(pycrew_crew *crew, size_t before)
{
    AWAIT(has_memory_back(crew, before));
}

static void expect_number(pycrew_batch *batch, double expected)
{
    double value = NAN;

    GIVES(pycrew_batch_next(batch, BOUND), 1);
    OK(pycrew_batch_result(batch, "d", &value));
    ASSERT(value == expected);
}

/* The next item is an array of so many elements, all of this value. */
static void expect_array(pycrew_batch *batch, int64_t count, double value)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    const double *data;

    GIVES(pycrew_batch_next(batch, BOUND), 1);
    OK(pycrew_batch_result(batch, "A", &array));
    ASSERT_INT(array.ndim, 1);
    ASSERT_INT(array.shape[0], count);
    data = array.data;
    ASSERT(data[0] == value && data[count / 2] == value && data[count - 1] == value);
}

/* ---- arguments ------------------------------------------------------------------------------- */

TEST(an_array_in_memory_of_the_crew_is_an_item_and_not_copied)
{
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "array_ops:where", NULL);
    double *memory = doubles(crew, 100000, 1);

    for (int i = 0; i < 20; i++) {
        pycrew_array array = array_of(memory + 100 * i, 50, 0);

        OK(pycrew_batch_add(batch, "sA", "", &array));
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < 20; i++) {
        long long where = 0;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "L", &where));
        ASSERT_INT(where, place_of(memory + 100 * i));
        ASSERT_INT(pycrew_batch_index(batch), i);
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

TEST(an_array_from_elsewhere_is_copied_before_add_returns)
{
    enum { ITEMS = 200 };
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:doubled", NULL);
    double data[3];

    for (int i = 0; i < ITEMS; i++) {
        pycrew_array array = array_of(data, 3, 0);

        data[0] = data[1] = data[2] = i;
        OK(pycrew_batch_add(batch, "A", &array));
        memset(data, 0xff, sizeof data);
        memset(&array, 0xff, sizeof array);
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++)
        expect_array(batch, 3, 2.0 * i);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_item_may_write_what_is_writable_and_copies_back_the_rest)
{
    enum { ITEMS = 50, FATAL = 33 };
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:add_or_raise", NULL);
    double *shared = doubles(crew, ITEMS * 10, 1), own[ITEMS][10];

    for (int i = 0; i < ITEMS; i++) {
        pycrew_array array = array_of(shared + i * 10, 10, PYCREW_WRITABLE);

        for (int j = 0; j < 10; j++)
            own[i][j] = 2;
        OK(pycrew_batch_add(batch, "Aii", &array, i, FATAL));
        array = array_of(own[i], 10, PYCREW_WRITABLE | PYCREW_COPY_BACK);
        OK(pycrew_batch_add(batch, "Aii", &array, i, FATAL));
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        ASSERT((pycrew_batch_error(batch) != NULL) == (i == FATAL));
        ASSERT(shared[i * 10] == 1 + i && shared[i * 10 + 9] == 1 + i);
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        ASSERT((pycrew_batch_error(batch) != NULL) == (i == FATAL));
        ASSERT(own[i][0] == (i == FATAL ? 2 : 2 + i) && own[i][9] == own[i][0]);
    }
    pycrew_batch_close(batch);
    pycrew_free(crew, shared);
    pycrew_close(crew);
}

TEST(items_with_arrays_and_without_come_out_in_order)
{
    enum { ITEMS = 600 };
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:first", NULL);

    for (int i = 0; i < ITEMS; i++) {
        double data[2] = {i, 0};
        pycrew_array array = array_of(data, 2, 0);
        pycrew_call *item;

        switch (i % 7) {
        case 0:
        case 1:
            OK(pycrew_batch_add(batch, "ii", i, 1));
            break;
        case 2:
            OK(pycrew_batch_add(batch, "A b=i", &array, 1));
            break;
        case 3:
            OK(pycrew_batch_add(batch, "i b=d", i, 1.0));
            break;
        default:
            OK(pycrew_batch_begin(batch, BOUND, &item));
            if (i % 7 == 5)
                OK(pycrew_add_i64(item, i));
            else
                OK(pycrew_add_array(item, &array));
            OK(pycrew_add_i64(item, 1));
            OK(pycrew_batch_commit(batch));
        }
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++)
        expect_number(batch, i + 1);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* What becomes of it is told from what became of the chunk that it is in. */
TEST(an_item_with_an_array_behind_others_does_not_share_their_fate)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    double data[2] = {1, 1};
    pycrew_array array = array_of(data, 2, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    pycrew_batch *batch;
    pycrew_call *item;

    options.chunk = 16;
    batch = open_batch(crew, "batch_array_ops:add_or_raise", &options);
    OK(pycrew_batch_begin(batch, BOUND, &item));
    OK(pycrew_add(item, "iii", 0, 7, 7));
    OK(pycrew_batch_commit(batch));
    OK(pycrew_batch_begin(batch, BOUND, &item));
    OK(pycrew_add(item, "Aii", &array, 5, 7));
    OK(pycrew_batch_commit(batch));
    OK(pycrew_batch_end(batch));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    ASSERT_INT(pycrew_batch_error(batch)->code, PYCREW_ERAISED);
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    ASSERT(pycrew_batch_error(batch) == NULL);
    ASSERT_INT(pycrew_batch_index(batch), 1);
    ASSERT(data[0] == 6 && data[1] == 6);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(an_array_that_is_refused_or_discarded_leaves_no_memory)
{
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:first", NULL);
    double *memory = calloc(MIB / 8, sizeof *memory);
    pycrew_array array = array_of(memory, MIB / 8, 0), bad = array_of(memory, 4, PYCREW_WRITABLE);
    size_t before = memory_used(crew);
    pycrew_call *item;

    for (int i = 0; i < 200; i++) {
        GIVES(pycrew_batch_add(batch, "AA", &array, &bad), -EINVAL);
        OK(pycrew_batch_begin(batch, BOUND, &item));
        OK(pycrew_add_array(item, &array));
    }
    OK(pycrew_batch_add(batch, "id", 3, 0.5)); /* discards the one that is open */
    OK(pycrew_batch_end(batch));
    expect_number(batch, 3.5);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    expect_memory_back(crew, before);
    GIVES(pycrew_batch_begin(batch, BOUND, &item), -ESHUTDOWN);
    pycrew_batch_close(batch);
    free(memory);
    pycrew_close(crew);
}

TEST(an_item_that_is_open_when_the_crew_closes_is_freed)
{
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:first", NULL);
    double data[4] = {0};
    pycrew_array array = array_of(data, 4, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    pycrew_call *item;

    OK(pycrew_batch_begin(batch, BOUND, &item));
    OK(pycrew_add_array(item, &array));
    pycrew_close(crew);
}

TEST(where_items_use_all_calls_an_array_is_refused_until_one_is_taken_out)
{
    enum { ITEMS = 100 };
    static const char *const preload[] = {"batch_array_ops", NULL};
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    pycrew_batch *batch;
    int taken = 0;

    if (!has_numpy())
        SKIP("numpy is not installed");
    options.preload = preload;
    options.calls = 4;
    crew = open_with(&options);
    batch = open_batch(crew, "batch_array_ops:first", NULL);
    for (int i = 0; i < ITEMS; i++) {
        double data[1] = {i};
        pycrew_array array = array_of(data, 1, 0);
        pycrew_call *item;
        int rc;

        do {
            rc = pycrew_batch_begin(batch, 0, &item);
            if (rc == 0 && i % 3 == 0)
                rc = pycrew_add_i64(item, i);
            else if (rc == 0)
                rc = pycrew_add_array(item, &array);
            if (rc == 0)
                rc = pycrew_batch_commit(batch);
            if (rc == -EAGAIN)
                expect_number(batch, taken++);
        } while (rc == -EAGAIN);
        OK(rc);
    }
    ASSERT(taken > 0);
    OK(pycrew_batch_end(batch));
    while (taken < ITEMS)
        expect_number(batch, taken++);
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_view_that_outlives_its_item_keeps_what_it_shows)
{
    enum { ITEMS = 30, COUNT = 100000 };
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:keep", NULL);
    size_t before = memory_used(crew);
    double sum = 0;

    for (int i = 0; i < ITEMS; i++) {
        double *memory = doubles(crew, COUNT, i);
        pycrew_array array = array_of(memory, COUNT, 0);

        OK(pycrew_batch_add(batch, "A", &array));
        pycrew_free(crew, memory);
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++)
        expect_number(batch, i);
    pycrew_batch_close(batch);
    for (int i = 0; i < 50; i++) {
        double *other = doubles(crew, COUNT, -1);

        pycrew_free(crew, other);
    }
    OK(pycrew_run(crew, "batch_array_ops:kept_sum", ">d", &sum));
    ASSERT(sum == (double)COUNT * ITEMS * (ITEMS - 1) / 2);
    OK(pycrew_run(crew, "batch_array_ops:let_go", ""));
    expect_memory_back(crew, before);
    pycrew_close(crew);
}

/* ---- results --------------------------------------------------------------------------------- */

/* In chunks of many items, and of one. */
TEST(an_array_of_empty_comes_out_of_an_item_uncopied)
{
    enum { ITEMS = 40 };

    for (unsigned chunk = 1; chunk <= 16; chunk += 15) {
        pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
        pycrew_crew *crew = open_array_crew(2, 64 * MIB);
        pycrew_batch *batch;

        options.chunk = chunk;
        batch = open_batch(crew, "batch_array_ops:filled_where", &options);
        for (int i = 0; i < ITEMS; i++)
            OK(pycrew_batch_add(batch, "id", 3000, i + 0.5));
        OK(pycrew_batch_end(batch));
        for (int i = 0; i < ITEMS; i++) {
            pycrew_array array = PYCREW_ARRAY_INIT;
            long long where = 0;

            GIVES(pycrew_batch_next(batch, BOUND), 1);
            OK(pycrew_batch_result(batch, "AL", &array, &where));
            ASSERT_INT(place_of(array.data), where);
            ASSERT(((double *)array.data)[2999] == i + 0.5);
        }
        pycrew_batch_close(batch);
        pycrew_close(crew);
    }
}

TEST(a_taken_array_outlives_its_batch_and_goes_into_the_next)
{
    enum { ITEMS = 20 };
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:filled", NULL);
    pycrew_array arrays[ITEMS];
    size_t before = memory_used(crew);
    long long where = 0;

    for (int i = 0; i < ITEMS; i++) {
        arrays[i] = (pycrew_array)PYCREW_ARRAY_INIT;
        OK(pycrew_batch_add(batch, "id", 100000, (double)i));
    }
    GIVES(pycrew_batch_array_take(batch, &arrays[0]), -EALREADY);
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_array_take(batch, &arrays[i]));
    }
    pycrew_batch_close(batch);
    batch = open_batch(crew, "batch_array_ops:doubled", NULL);
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "A", &arrays[i]));
    OK(pycrew_batch_end(batch));
    OK(pycrew_run(crew, "array_ops:where", "sA>L", "", &arrays[3], &where));
    ASSERT_INT(where, place_of(arrays[3].data));
    for (int i = 0; i < ITEMS; i++)
        pycrew_array_drop(crew, &arrays[i]);
    for (int i = 0; i < ITEMS; i++)
        expect_array(batch, 100000, 2.0 * i);
    pycrew_batch_close(batch);
    expect_memory_back(crew, before);
    pycrew_close(crew);
}

TEST(arrays_inside_of_a_result_and_copies_come_out)
{
    enum { ITEMS = 100 };
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:nested", NULL);

    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "id", 100, (double)i));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        pycrew_array array = PYCREW_ARRAY_INIT;
        pycrew_value list;

        GIVES(pycrew_batch_next(batch, BOUND), 1);
        list = pycrew_value_get(pycrew_batch_value(batch), "arrays");
        OK(pycrew_value_array(pycrew_value_item(list, 0), &array));
        ASSERT(((double *)array.data)[99] == i);
        OK(pycrew_value_array(pycrew_value_item(list, 1), &array));
        ASSERT(((double *)array.data)[99] == i + 0.5);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

TEST(a_result_that_is_an_items_argument_is_that_memory)
{
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "array_ops:part", NULL);
    double *memory = doubles(crew, 1000, 4);
    pycrew_array array = array_of(memory, 1000, 0), back = PYCREW_ARRAY_INIT;

    OK(pycrew_batch_add(batch, "Aiii", &array, 10, 500, 2));
    OK(pycrew_batch_end(batch));
    GIVES(pycrew_batch_next(batch, BOUND), 1);
    OK(pycrew_batch_result(batch, "A", &back));
    ASSERT(back.data == memory + 10);
    ASSERT_INT(back.shape[0], 245);
    pycrew_batch_close(batch);
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

TEST(what_a_failed_item_had_of_arrays_is_given_back)
{
    enum { ITEMS = 60 };
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:doubled_or_raise", NULL);
    size_t before = memory_used(crew);

    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < ITEMS; i++) {
            double *memory = doubles(crew, MIB / 8, i % 2);
            pycrew_array array = array_of(memory, MIB / 8, 0);
            int rc;

            while ((rc = pycrew_batch_add(batch, "Ad", &array, 1.0)) == -EAGAIN)
                GIVES(pycrew_batch_next(batch, BOUND), 1);
            OK(rc);
            pycrew_free(crew, memory);
            GIVES(pycrew_batch_next(batch, BOUND), 1);
            ASSERT((pycrew_batch_error(batch) != NULL) == (i % 2 == 1));
        }
    }
    pycrew_batch_close(batch);
    expect_memory_back(crew, before);
    pycrew_close(crew);
}

/* ---- deaths, deadlines, cancels -------------------------------------------------------------- */

TEST(a_death_costs_the_item_with_an_array_alone)
{
    enum { ITEMS = 40, FATAL = 17, COUNT = 50000 };
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    pycrew_batch *batch = open_batch(crew, "batch_array_ops:doubled_or_die", NULL);
    size_t before = memory_used(crew);

    for (int i = 0; i < ITEMS; i++) {
        double *memory = doubles(crew, COUNT, i);
        pycrew_array array = array_of(memory, COUNT, 0);

        OK(pycrew_batch_add(batch, "Ad", &array, (double)FATAL));
        pycrew_free(crew, memory);
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        if (i != FATAL) {
            expect_array(batch, COUNT, 2 * i);
            continue;
        }
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        ASSERT_INT(pycrew_batch_error(batch)->code, PYCREW_EDIED);
        ASSERT(pycrew_batch_error(batch)->may_have_run);
    }
    pycrew_batch_close(batch);
    expect_memory_back(crew, before);
    pycrew_close(crew);
}

/* The worker that dies has answered the items before in the same chunk. */
TEST(arrays_that_items_before_a_death_returned_stay)
{
    enum { ITEMS = 32, FATAL = 21, COUNT = 100000 };
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_array taken = PYCREW_ARRAY_INIT;
    pycrew_batch *batch;
    size_t before = memory_used(crew);

    options.chunk = ITEMS;
    batch = open_batch(crew, "batch_array_ops:filled_or_die", &options);
    for (int i = 0; i < ITEMS; i++)
        OK(pycrew_batch_add(batch, "idd", COUNT, (double)i, (double)FATAL));
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        if (i == FATAL)
            GIVES(pycrew_batch_next(batch, BOUND), 1);
        else
            expect_array(batch, COUNT, i);
        ASSERT((pycrew_batch_error(batch) != NULL) == (i == FATAL));
        if (i == 5)
            OK(pycrew_batch_array_take(batch, &taken));
    }
    pycrew_batch_close(batch);
    ASSERT(((double *)taken.data)[COUNT - 1] == 5);
    pycrew_array_drop(crew, &taken);
    expect_memory_back(crew, before);
    pycrew_close(crew);
}

TEST(an_item_with_a_writable_array_is_tried_again_only_if_the_batch_says_so)
{
    for (int given = 0; given < 2; given++) {
        pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
        static const char *const preload[] = {"batch_array_ops", NULL};
        pycrew_options crew_options = test_options(1);
        const char *path = scratch(given ? "given" : "not");
        pycrew_crew *crew;
        pycrew_batch *batch;
        pycrew_array array;
        double *memory;

        if (!has_numpy())
            SKIP("numpy is not installed");
        crew_options.preload = preload;
        crew_options.retries = 3;
        crew = open_with(&crew_options);
        memory = doubles(crew, 10, 1);
        array = array_of(memory, 10, PYCREW_WRITABLE);
        if (given)
            options.retries = 1;
        batch = open_batch(crew, "batch_array_ops:add_and_die_once", &options);
        OK(pycrew_batch_add(batch, "As", &array, path));
        OK(pycrew_batch_end(batch));
        if (given) {
            expect_number(batch, 3);
        } else {
            GIVES(pycrew_batch_next(batch, BOUND), 1);
            ASSERT_INT(pycrew_batch_error(batch)->code, PYCREW_EDIED);
        }
        pycrew_batch_close(batch);
        pycrew_close(crew);
    }
}

TEST(an_items_deadline_runs_from_its_own_start)
{
    enum { ITEMS = 12, SLOW = 4 };
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_array_crew(1, 64 * MIB);
    pycrew_batch *batch;

    options.timeout_ns = 300 * MS;
    batch = open_batch(crew, "batch_array_ops:nap_if", &options);
    for (int i = 0; i < ITEMS; i++) {
        double data[2] = {i, i};
        pycrew_array array = array_of(data, 2, 0);

        OK(pycrew_batch_add(batch, "Aid", &array, SLOW, 30.0));
    }
    OK(pycrew_batch_end(batch));
    for (int i = 0; i < ITEMS; i++) {
        if (i != SLOW) {
            expect_number(batch, i);
            continue;
        }
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        ASSERT_INT(pycrew_batch_error(batch)->code, -ETIMEDOUT);
    }
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

/* Of those that run, those that are queued, and those that have ended. */
TEST(cancel_and_close_give_the_memory_of_all_arrays_back)
{
    enum { ITEMS = 24 };
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    size_t before = memory_used(crew);

    for (int round = 0; round < 4; round++) {
        pycrew_batch *batch = open_batch(crew, "batch_array_ops:copied_after", NULL);
        const char *go = scratch("go"), *never = scratch("never");
        unsigned failed = 0;

        fclose(fopen(go, "w"));
        for (int i = 0; i < ITEMS; i++) {
            double *memory = doubles(crew, MIB / 8, i);
            pycrew_array array = array_of(memory, MIB / 8, 0);

            OK(pycrew_batch_add(batch, "sA", i < 3 ? go : never, &array));
            pycrew_free(crew, memory);
        }
        expect_array(batch, MIB / 8, 0);
        if (round % 2 == 0) {
            OK(pycrew_batch_cancel(batch));
            for (int i = 1; i < ITEMS; i++) {
                GIVES(pycrew_batch_next(batch, BOUND), 1);
                failed += pycrew_batch_error(batch) != NULL;
            }
            ASSERT(failed >= ITEMS - 3);
            GIVES(pycrew_batch_next(batch, BOUND), 0);
        }
        pycrew_batch_close(batch);
        expect_memory_back(crew, before);
    }
    pycrew_close(crew);
}

TEST(each_array_comes_out_right_while_workers_are_killed)
{
    enum { ITEMS = 1500 };
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    pycrew_crew *crew = open_array_crew(2, 64 * MIB);
    pycrew_batch *batch;
    int added = 0, taken = 0;
    size_t before = memory_used(crew);
    int64_t last = 0;

    options.retries = 100;
    options.window = 40;
    batch = open_batch(crew, "batch_array_ops:doubled", &options);
    while (taken < ITEMS) {
        double *memory = doubles(crew, 1000 + 37 * (size_t)(added % 50), added);
        pycrew_array array = array_of(memory, 1000 + 37 * (added % 50), 0);

        while (added < ITEMS && pycrew_batch_add(batch, "A", &array) == 0) {
            pycrew_free(crew, memory);
            added++;
            memory = doubles(crew, 1000 + 37 * (size_t)(added % 50), added);
            array = array_of(memory, 1000 + 37 * (added % 50), 0);
        }
        pycrew_free(crew, memory);
        if (added == ITEMS)
            OK(pycrew_batch_end(batch));
        expect_array(batch, 1000 + 37 * (taken % 50), 2.0 * taken);
        taken++;
        if (now_ns() - last > 30 * MS) {
            int pids[4], count = find_workers(pids, 4);

            if (count > 0)
                kill(pids[0], SIGKILL);
            last = now_ns();
        }
    }
    pycrew_batch_close(batch);
    expect_memory_back(crew, before);
    pycrew_close(crew);
}

/* ---- much through little --------------------------------------------------------------------- */

/* Arguments are copied in, results come uncopied; one add after the other, and what is told "not
 * now" takes an item out. */
static void flow(pycrew_crew *crew, bool unordered, int items)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    const int64_t count = MIB / 8;
    double *data = malloc(MIB);
    int added = 0, taken = 0;
    pycrew_batch *batch;
    size_t most = 0;

    options.unordered = unordered;
    batch = open_batch(crew, "batch_array_ops:doubled", &options);
    while (taken < items) {
        pycrew_array array = array_of(data, count, 0), back = PYCREW_ARRAY_INIT;
        int rc = 0;

        for (int64_t i = 0; i < count; i += 64)
            data[i] = added;
        data[count - 1] = added;
        while (added < items && (rc = pycrew_batch_add(batch, "A", &array)) == 0) {
            added++;
            data[0] = data[count - 1] = added;
        }
        if (added < items)
            GIVES(rc, -EAGAIN);
        else
            OK(pycrew_batch_end(batch));
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        OK(pycrew_batch_result(batch, "A", &back));
        ASSERT(((double *)back.data)[0] == 2.0 * (double)pycrew_batch_index(batch));
        ASSERT(((double *)back.data)[count - 1] == 2.0 * (double)pycrew_batch_index(batch));
        most = memory_used(crew) > most ? memory_used(crew) : most;
        taken++;
    }
    GIVES(pycrew_batch_next(batch, BOUND), 0);
    pycrew_batch_close(batch);
    DIAG("at most %zu MiB", most / MIB);
    free(data);
}

TEST(thousands_of_arrays_go_through_a_small_memory)
{
    pycrew_crew *crew = open_array_crew(2, 32 * MIB);

    flow(crew, false, 1500);
    flow(crew, true, 1500);
    pycrew_close(crew);
}

/* Nobody takes out before all is in: what results there is no memory for are made when there is. */
TEST(results_larger_than_the_memory_wait_until_those_before_are_taken_out)
{
    enum { ITEMS = 300 };

    for (int way = 0; way < 4; way++) {
        pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
        pycrew_crew *crew = open_array_crew(2, 32 * MIB);
        static bool seen[ITEMS];
        pycrew_batch *batch;

        options.chunk = way % 2 == 0 ? 0 : 50;
        options.unordered = way >= 2;
        memset(seen, 0, sizeof seen);
        batch = open_batch(crew, "batch_array_ops:filled", &options);
        for (int i = 0; i < ITEMS; i++)
            OK(pycrew_batch_add(batch, "id", (int)(MIB / 8), (double)i));
        OK(pycrew_batch_end(batch));
        for (int i = 0; i < ITEMS; i++) {
            pycrew_array array = PYCREW_ARRAY_INIT;
            size_t index;

            GIVES(pycrew_batch_next(batch, BOUND), 1);
            index = pycrew_batch_index(batch);
            ASSERT(index < ITEMS && !seen[index] && (options.unordered || (int)index == i));
            seen[index] = true;
            OK(pycrew_batch_result(batch, "A", &array));
            ASSERT(((double *)array.data)[MIB / 8 - 1] == (double)index);
        }
        GIVES(pycrew_batch_next(batch, BOUND), 0);
        pycrew_batch_close(batch);
        pycrew_close(crew);
    }
}

/* Who holds the rest of the memory may hold it for ever. */
TEST(items_that_need_no_memory_go_on_where_none_is_left)
{
    enum { ITEMS = 400, BLOCKS = 64 };
    pycrew_crew *crew = open_array_crew(1, 32 * MIB);
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    void *blocks[BLOCKS] = {NULL};
    pycrew_batch *batch;
    int64_t start;
    int taken = 0;

    options.chunk = 4;
    batch = open_batch(crew, "batch_array_ops:first", &options);
    OK(pycrew_batch_add(batch, "ii", 0, 0));
    OK(pycrew_run(crew, "api_ops:zeros", "i>", 100000)); /* the worker has taken some */
    for (int i = 0; i < BLOCKS && (blocks[i] = pycrew_alloc(crew, MIB)) != NULL; i++)
        continue;
    start = now_ns();
    for (int i = 1; i < ITEMS; i++) {
        int rc;

        while ((rc = pycrew_batch_add_within(batch, BOUND, "ii", i, 0)) == -EAGAIN)
            if (taken < i)
                expect_number(batch, taken++);
            else
                GIVES(pycrew_batch_next(batch, BOUND), 0); /* frees the last one's */
        OK(rc);
    }
    OK(pycrew_batch_end(batch));
    while (taken < ITEMS)
        expect_number(batch, taken++);
    ASSERT(now_ns() - start < BOUND); /* not a wait for memory each */
    pycrew_batch_close(batch);
    for (int i = 0; i < BLOCKS; i++)
        pycrew_free(crew, blocks[i]);
    pycrew_close(crew);
}

TAP_MAIN
