/* Values of more than 4 GiB, with many items, and nested as deep as may be: there and back. Smaller
 * ones in make check. */
#include "tests/big/big.h"

/* ---- a lot of text that takes little memory -------------------------------------------------- */

/* The same pages again and again, at a distance that no power of two is a multiple of: so what was
 * cut to 32 bits somewhere would not look right by chance. ASCII. */
typedef struct long_text {
    char *data;
    size_t size;
} long_text;

static void fill_period(char *data, size_t size)
{
    static const char letters[] =
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,";
    uint64_t random = 88172645463325252;

    for (size_t i = 0; i < size; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        data[i] = letters[random & 63];
    }
}

static long_text text_of(size_t size)
{
    size_t period = sized(385, 15617) * 4 * KIB, whole = (size + period - 1) / period * period;
    int fd = memfd_create("text", MFD_CLOEXEC);
    char *data = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    ASSERT(fd >= 0 && data != MAP_FAILED && ftruncate(fd, (off_t)period) == 0);
    for (size_t at = 0; at < whole; at += period)
        ASSERT(mmap(data + at, period, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) !=
               MAP_FAILED);
    close(fd);
    fill_period(data, period);
    return (long_text){data, size};
}

static void text_free(long_text *t)
{
    size_t period = sized(385, 15617) * 4 * KIB;

    munmap(t->data, (t->size + period - 1) / period * period);
}

/* As big_ops.checksum. */
static uint64_t checksum(const char *data, size_t size)
{
    uint64_t result = 0;

    for (size_t start = 0; start < size; start += MIB) {
        size_t length = size - start < MIB ? size - start : MIB;
        uint64_t sum = 0, word;

        for (size_t i = 0; i < length; i += 8) {
            word = 0;
            memcpy(&word, data + start + i, length - i < 8 ? length - i : 8);
            sum += word;
        }
        result = result * 31 + sum;
    }
    return result;
}

/* A size that 32 bits do not hold, and no multiple of 8. */
static size_t large_size(void)
{
    return sized(5 * MIB, 4 * GIB + 200 * MIB) + 3;
}

static pycrew_crew *open_for(size_t memory, size_t all)
{
    char command[512];
    pycrew_crew *crew;

    snprintf(command, sizeof command, "%s -c 'import numpy' 2>/dev/null",
             getenv("PYTHON") != NULL ? getenv("PYTHON") : "python3");
    if (system(command) != 0)
        SKIP("numpy is not installed");
    need_memory(all);
    crew = open_with_memory(2, memory + 32 * MIB);
    return crew;
}

/* ---- str and bytes --------------------------------------------------------------------------- */

TEST_LIMIT(a_str_goes_there_and_back_whole, 300)
{
    size_t size = large_size(), got = 0;
    pycrew_crew *crew = open_for(2 * size, 3 * size);
    long_text t = text_of(size);
    const char *back = NULL;
    pycrew_call *call = SUBMIT(crew, "big_ops:same", "s#", t.data, t.size);

    OK(pycrew_wait(call, PYCREW_FOREVER));
    OK(pycrew_result_str(call, &back, &got));
    ASSERT_INT(got, size);
    ASSERT(memcmp(back, t.data, size) == 0);
    ASSERT_INT(back[size], 0);
    pycrew_release(call);
    text_free(&t);
    pycrew_close(crew);
}

TEST_LIMIT(bytes_and_what_stands_behind_them_go_there_and_back, 300)
{
    size_t size = large_size(), got = 0;
    pycrew_crew *crew = open_for(2 * size, 3 * size);
    long_text t = text_of(size);
    const void *back = NULL;
    pycrew_value list, inner, item;
    int64_t number = 0;
    pycrew_call *call = SUBMIT(crew, "big_ops:same", "[[iy#i]i]", 1, t.data, t.size, 2, 3);

    OK(pycrew_wait(call, PYCREW_FOREVER));
    list = pycrew_result_value(call);
    ASSERT_INT(pycrew_value_count(list), 2);
    inner = pycrew_value_item(list, 0);
    ASSERT_INT(pycrew_value_count(inner), 3);
    item = pycrew_value_next(pycrew_value_item(inner, 0));
    OK(pycrew_value_bytes(item, &back, &got));
    ASSERT_INT(got, size);
    ASSERT(memcmp(back, t.data, size) == 0);
    OK(pycrew_value_i64(pycrew_value_next(item), &number));
    ASSERT_INT(number, 2);
    OK(pycrew_value_i64(pycrew_value_next(inner), &number));
    ASSERT_INT(number, 3);
    pycrew_release(call);
    text_free(&t);
    pycrew_close(crew);
}

TEST_LIMIT(a_keyword_behind_a_large_value_is_found, 300)
{
    size_t size = large_size();
    pycrew_crew *crew = open_for(size, 2 * size);
    long_text t = text_of(size);
    unsigned long long sum = 0;
    long long length = 0;
    int behind = 0;

    OK(pycrew_run(crew, "big_ops:keyword_behind", "value=y# behind=i>LKi", t.data, t.size, 5,
                  &length, &sum, &behind));
    ASSERT_INT(length, size);
    ASSERT(sum == checksum(t.data, t.size));
    ASSERT_INT(behind, 5);
    text_free(&t);
    pycrew_close(crew);
}

static void check_part(pycrew_batch *batch, const long_text *t, size_t i)
{
    size_t length = i == 1 ? t->size - i : 100, got = 0;
    const void *back = NULL;

    GIVES(pycrew_batch_next(batch, PYCREW_FOREVER), 1);
    OK(pycrew_batch_result(batch, "y#", &back, &got));
    ASSERT_INT(pycrew_batch_index(batch), i);
    ASSERT_INT(got, length);
    ASSERT(memcmp(back, t->data + i, length) == 0);
}

TEST_LIMIT(a_batchs_item_may_be_as_large, 300)
{
    enum { ITEMS = 3 }; /* the one in the middle is large */
    size_t size = large_size(), out = 0;
    pycrew_crew *crew = open_for(2 * size, 3 * size);
    long_text t = text_of(size);
    pycrew_batch *batch = NULL;

    OK(pycrew_batch_open(crew, function_of(crew, "big_ops:same"), NULL, &batch));
    for (size_t i = 0; i < ITEMS; i++) {
        int rc;

        while ((rc = pycrew_batch_add_within(batch, BOUND, "y#", t.data + i,
                                             i == 1 ? size - i : 100)) == -EAGAIN)
            check_part(batch, &t, out++);
        OK(rc);
    }
    OK(pycrew_batch_end(batch));
    while (out < ITEMS)
        check_part(batch, &t, out++);
    OK(pycrew_batch_next(batch, BOUND));
    pycrew_batch_close(batch);
    text_free(&t);
    pycrew_close(crew);
}

/* ---- arrays ---------------------------------------------------------------------------------- */

enum { MARKS = 4 };

/* The ends, and both sides of 4 GiB, or of the middle. */
static void mark_places(size_t count, long long places[MARKS])
{
    size_t middle = count > UINT32_MAX ? UINT32_MAX : count / 2;

    places[0] = 0;
    places[1] = (long long)middle;
    places[2] = (long long)middle + 1;
    places[3] = (long long)count - 1;
}

#define PLACES(p) (p)[0], (p)[1], (p)[2], (p)[3]

static void check_marks(pycrew_crew *crew, const pycrew_array *array, const int *expected,
                        const long long *places)
{
    long long got[MARKS], count, bytes;

    OK(pycrew_run(crew, "big_ops:marks", "A[LLLL]>LLLLLL", array, PLACES(places), &got[0], &got[1],
                  &got[2], &got[3], &count, &bytes));
    for (int i = 0; i < MARKS; i++)
        ASSERT_INT(got[i], expected[i]);
    ASSERT_INT(count, array->shape[0]);
    ASSERT_INT(bytes, (size_t)array->shape[0] * array->itemsize);
}

TEST_LIMIT(an_array_is_used_where_it_is, 300)
{
    static const int first[] = {5, 6, 7, 8}, second[] = {1, 2, 3, 4}, turned[] = {4, 3, 2, 1};
    size_t size = large_size();
    pycrew_crew *crew = open_for(size, size);
    uint8_t *data = pycrew_alloc(crew, size);
    pycrew_array array, part = PYCREW_ARRAY_INIT;
    long long places[MARKS], turned_places[MARKS];

    ASSERT(data != NULL);
    mark_places(size, places);
    for (int i = 0; i < MARKS; i++)
        data[places[i]] = (uint8_t)first[i];
    array = array_at(data, PYCREW_U8, size, PYCREW_WRITABLE);
    check_marks(crew, &array, first, places);
    OK(pycrew_run(crew, "big_ops:set_marks", "A[LLLL]", &array, PLACES(places)));
    for (int i = 0; i < MARKS; i++)
        ASSERT_INT(data[places[i]], second[i]);
    /* a view of it, behind 4 GiB: the same memory */
    OK(pycrew_run(crew, "big_ops:rest", "AL>A", &array, places[2], &part));
    ASSERT(part.data == data + places[2]);
    ASSERT_INT(part.shape[0], (long long)size - places[2]);
    pycrew_array_drop(crew, &part);
    /* and backwards */
    array.data = data + size - 1;
    array.strides[0] = -1;
    array.flags = PYCREW_STRIDED;
    for (int i = 0; i < MARKS; i++)
        turned_places[i] = (long long)size - 1 - places[MARKS - 1 - i];
    check_marks(crew, &array, turned, turned_places);
    pycrew_free(crew, data);
    pycrew_close(crew);
}

TEST_LIMIT(an_array_from_elsewhere_is_copied_whole, 300)
{
    size_t size = large_size();
    pycrew_crew *crew = open_for(size, size);
    long_text t = text_of(size);
    pycrew_array array = array_at(t.data, PYCREW_U8, size, 0);
    unsigned long long sum = 0;
    long long places[MARKS];
    int turned[MARKS];

    OK(pycrew_run(crew, "big_ops:checksum", "A>K", &array, &sum));
    ASSERT(sum == checksum(t.data, size));
    array.data = t.data + size - 1;
    array.strides[0] = -1;
    array.flags = PYCREW_STRIDED;
    mark_places(size, places);
    for (int i = 0; i < MARKS; i++)
        turned[i] = t.data[size - 1 - (size_t)places[i]];
    check_marks(crew, &array, turned, places);
    text_free(&t);
    pycrew_close(crew);
}

TEST_LIMIT(what_the_function_wrote_is_copied_back_whole, 300)
{
    size_t size = large_size();
    pycrew_crew *crew = open_for(size, 2 * size);
    uint8_t *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    pycrew_array array;
    long long places[MARKS];

    ASSERT(data != MAP_FAILED);
    array = array_at(data, PYCREW_U8, size, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    mark_places(size, places);
    OK(pycrew_run(crew, "big_ops:set_marks", "A[LLLL]", &array, PLACES(places)));
    for (int i = 0; i < MARKS; i++)
        ASSERT_INT(data[places[i]], i + 1);
    munmap(data, size);
    pycrew_close(crew);
}

TEST_LIMIT(an_array_of_pycrew_empty_comes_back_and_is_the_next_argument, 300)
{
    static const int expected[] = {1, 2, 3, 4};
    size_t size = large_size();
    pycrew_crew *crew = open_for(size, size);
    pycrew_array array = PYCREW_ARRAY_INIT;
    long long places[MARKS];

    mark_places(size, places);
    OK(pycrew_run(crew, "big_ops:empty_marked", "L[LLLL]>A", (long long)size, PLACES(places),
                  &array));
    ASSERT_INT(array.shape[0], size);
    for (int i = 0; i < MARKS; i++)
        ASSERT_INT(((uint8_t *)array.data)[places[i]], expected[i]);
    check_marks(crew, &array, expected, places);
    pycrew_array_drop(crew, &array);
    pycrew_close(crew);
}

/* ---- maps ------------------------------------------------------------------------------------ */

TEST_LIMIT(a_map_by_slices_has_more_rows_than_32_bits_count, 300)
{
    size_t size = large_size();
    pycrew_crew *crew = open_for(2 * size, 2 * size);
    long_text t = text_of(size);
    uint8_t *from = pycrew_alloc(crew, size), *to = pycrew_alloc(crew, size);
    pycrew_array input, output;
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;

    ASSERT(from != NULL && to != NULL);
    memcpy(from, t.data, size);
    input = array_at(from, PYCREW_U8, size, 0);
    output = array_at(to, PYCREW_U8, size, PYCREW_WRITABLE);
    options.flags = PYCREW_MAP_WHOLE;
    OK(pycrew_map(crew, function_of(crew, "big_ops:add_one"), &input, 1, &output, &options));
    for (size_t i = 0; i < size; i++)
        if (to[i] != (uint8_t)(t.data[i] + 1))
            tap_fail("row %zu is %d, not %d", i, to[i], t.data[i] + 1);
    pycrew_free(crew, from);
    pycrew_free(crew, to);
    text_free(&t);
    pycrew_close(crew);
}

TEST_LIMIT(a_maps_elements_may_be_as_far_apart, 300)
{
    enum { COUNT = 4 };
    size_t size = large_size() / 8 * 8, step = (size - 8) / (COUNT - 1) / 8 * 8;
    pycrew_crew *crew = open_for(size, size);
    char *data = pycrew_alloc(crew, size);
    int64_t to[COUNT] = {0};
    pycrew_array inputs[2], output = array_at(to, PYCREW_I64, COUNT, PYCREW_WRITABLE);

    ASSERT(data != NULL);
    for (int i = 0; i < COUNT; i++)
        *(int64_t *)(void *)(data + (size_t)i * step) = 10 + i;
    for (int i = 0; i < 2; i++) {
        inputs[i] = array_at(data, PYCREW_I64, COUNT, 0);
        inputs[i].strides[0] = (int64_t)step;
        inputs[i].flags = PYCREW_STRIDED;
    }
    inputs[1].data = data + (COUNT - 1) * step; /* from behind */
    inputs[1].strides[0] = -(int64_t)step;
    OK(pycrew_map(crew, function_of(crew, "big_ops:add"), inputs, 2, &output, NULL));
    for (int i = 0; i < COUNT; i++)
        ASSERT_INT(to[i], 10 + i + 10 + COUNT - 1 - i);
    pycrew_free(crew, data);
    pycrew_close(crew);
}

/* ---- many items, deep ones ------------------------------------------------------------------- */

enum { MILLION = 1000000 };

static void add_item(pycrew_call *call, int i)
{
    char word[32];
    int length;

    switch (i % 4) {
    case 0:
        OK(pycrew_add_i64(call, (int64_t)i * 1000003));
        break;
    case 1:
        OK(pycrew_add_f64(call, i + 0.5));
        break;
    case 2:
        length = snprintf(word, sizeof word, "w%d", i);
        OK(pycrew_add_str(call, word, (size_t)length));
        break;
    default:
        OK(pycrew_add_none(call));
    }
}

static void check_item(pycrew_value item, int i)
{
    char word[32];
    const char *text = NULL;
    int64_t number = -1;
    double real = -1;
    size_t size = 0;

    switch (i % 4) {
    case 0:
        OK(pycrew_value_i64(item, &number));
        ASSERT_INT(number, (int64_t)i * 1000003);
        break;
    case 1:
        OK(pycrew_value_f64(item, &real));
        ASSERT(real == i + 0.5);
        break;
    case 2:
        snprintf(word, sizeof word, "w%d", i);
        OK(pycrew_value_str(item, &text, &size));
        ASSERT_STR(text, word);
        break;
    default:
        ASSERT_INT(pycrew_value_type(item), PYCREW_TYPE_NONE);
    }
}

TEST(a_list_of_a_million_goes_there_and_back)
{
    pycrew_crew *crew = open_with_memory(1, 256 * MIB);
    pycrew_call *call = prepare(crew, "big_ops:same");
    pycrew_value list, item;

    OK(pycrew_add_open(call, PYCREW_LIST));
    for (int i = 0; i < MILLION; i++)
        add_item(call, i);
    OK(pycrew_add_close(call));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, PYCREW_FOREVER));
    list = pycrew_result_value(call);
    ASSERT_INT(pycrew_value_type(list), PYCREW_TYPE_LIST);
    ASSERT_INT(pycrew_value_count(list), MILLION);
    item = pycrew_value_item(list, 0);
    for (int i = 0; i < MILLION; i++, item = pycrew_value_next(item))
        check_item(item, i);
    ASSERT_INT(pycrew_value_type(item), PYCREW_TYPE_INVALID);
    pycrew_release(call);
    pycrew_close(crew);
}

static void check_turned(pycrew_batch *batch)
{
    pycrew_value dict = pycrew_batch_value(batch);
    int64_t number = -1, i = (int64_t)pycrew_batch_index(batch);
    const char *text = NULL;
    size_t size = 0, length;
    double sum = -1;
    char word[32];

    OK(pycrew_value_i64(pycrew_value_get(dict, "id"), &number));
    ASSERT_INT(number, i + 1);
    OK(pycrew_value_str(pycrew_value_get(dict, "text"), &text, &size));
    length = (size_t)snprintf(word, sizeof word, "r%" PRId64, i);
    ASSERT_INT(size, length);
    for (size_t at = 0; at < length; at++)
        ASSERT_INT(text[at], word[length - 1 - at]);
    OK(pycrew_value_f64(pycrew_value_get(dict, "sum"), &sum));
    ASSERT(sum == (double)i + 0.75);
    ASSERT_INT(pycrew_value_type(pycrew_value_get(dict, "none")), PYCREW_TYPE_NONE);
    ASSERT_INT(pycrew_value_count(dict), 4);
}

TEST(small_dicts_go_through_a_batch_by_the_hundred_thousand)
{
    enum { DICTS = 100000 };
    pycrew_crew *crew = open_with_memory(2, 64 * MIB);
    pycrew_batch *batch = NULL;
    int added = 0, out = 0, rc;

    OK(pycrew_batch_open(crew, function_of(crew, "big_ops:turned"), NULL, &batch));
    while (out < DICTS) {
        char word[32];

        snprintf(word, sizeof word, "r%d", added);
        rc = added == DICTS ? -EAGAIN
                            : pycrew_batch_add(batch, "{sisss[ddd]}", "id", added, "text", word,
                                               "values", (double)added, 0.5, 0.25);
        if (rc == 0) {
            if (++added == DICTS)
                OK(pycrew_batch_end(batch));
            continue;
        }
        GIVES(rc, -EAGAIN);
        GIVES(pycrew_batch_next(batch, BOUND), 1);
        if (pycrew_batch_error(batch) != NULL)
            tap_fail("item %d: %s", out, pycrew_batch_error(batch)->message);
        check_turned(batch);
        ASSERT_INT(pycrew_batch_index(batch), out++);
    }
    OK(pycrew_batch_next(batch, BOUND));
    pycrew_batch_close(batch);
    pycrew_close(crew);
}

enum { DEEPEST = 500 };

/* The levels as big_ops.nested makes them, the outermost first. */
static void open_level(pycrew_call *call, int level)
{
    static const int kinds[] = {PYCREW_LIST, PYCREW_TUPLE, PYCREW_DICT};

    OK(pycrew_add_open(call, kinds[level % 3]));
    if (level % 3 == 0) {
        OK(pycrew_add_i64(call, level));
    } else if (level % 3 == 2) {
        OK(pycrew_add(call, "siz", "level", level, "value"));
    }
}

TEST(values_nest_as_deep_as_is_said)
{
    pycrew_crew *crew = open_with_memory(1, 64 * MIB);
    pycrew_call *call = prepare(crew, "big_ops:depth");
    int64_t number = -1;
    int levels = 0, bottom = 0;
    pycrew_value value;

    for (int level = DEEPEST; level-- > 0;)
        open_level(call, level);
    OK(pycrew_add_i64(call, 7));
    for (int level = 0; level < DEEPEST; level++)
        OK(pycrew_add_close(call));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "ii", &levels, &bottom));
    ASSERT_INT(levels, DEEPEST);
    ASSERT_INT(bottom, 7);
    pycrew_release(call);

    call = SUBMIT(crew, "big_ops:nested", "i", DEEPEST);
    OK(pycrew_wait(call, BOUND));
    value = pycrew_result_value(call);
    for (int level = DEEPEST; level-- > 0;)
        value = pycrew_value_item(value, level % 3 == 0 ? 1 : level % 3 == 1 ? 0 : 3);
    OK(pycrew_value_i64(value, &number));
    ASSERT_INT(number, 7);
    pycrew_release(call);

    call = prepare(crew, "big_ops:depth");
    for (int level = 0; level < DEEPEST; level++)
        OK(pycrew_add_open(call, PYCREW_LIST));
    GIVES(pycrew_add_open(call, PYCREW_LIST), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "nested deeper than 500");
    pycrew_release(call);
    GIVES(pycrew_run(crew, "big_ops:nested", "i", DEEPEST + 1), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "nested deeper than 500");
    pycrew_close(crew);
}

TAP_MAIN
