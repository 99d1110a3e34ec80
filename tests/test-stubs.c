/* pycrew stubs: the C functions written from tests/py/stub_ops.py, each called with right, extreme
 * and wrong values. */
#include <errno.h>
#include <limits.h>
#include <math.h>

#include "tests/harness/crew.h"
#include "tests/stubs/sized_ops.h"
#include "tests/stubs/stub_ops.h"

/* ---- allocations, counted in one thread; a sanitizer has functions of its own ------------------
 */

static _Thread_local bool counting;
static _Thread_local unsigned allocations;

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(SANITIZED)
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

void *malloc(size_t size)
{
    allocations += counting;
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    allocations += counting;
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
    allocations += counting;
    return __libc_realloc(memory, size);
}
#endif

/* ---- calls ------------------------------------------------------------------------------------
 */

static pycrew_call *held;

/* The call that ends with its result held gives 0; the result is looked at, and given back. */
#define HELD(call, looks)                                                                          \
    do {                                                                                           \
        held = NULL;                                                                               \
        OK(call);                                                                                  \
        ASSERT(held != NULL);                                                                      \
        ASSERT(looks);                                                                             \
        pycrew_release(held);                                                                      \
    } while (0)

/* Every function that is asked answers with the value of this Python expression. */
static void answer_wrongly(pycrew_crew *crew, const char *expression)
{
    OK(stub_ops_set_wrong(crew, expression));
}

/* The call fails with this code, and its error has these words. */
#define FAILS(call, code, words)                                                                   \
    do {                                                                                           \
        GIVES(call, code);                                                                         \
        CONTAINS(pycrew_last_error()->message, words);                                             \
    } while (0)

/* ---- right and extreme values ---------------------------------------------------------------- */

TEST(scalars_come_back_also_at_their_limits)
{
    static const int64_t ints[] = {0, 1, -1, INT64_MAX, INT64_MIN + 1, INT32_MIN};
    static const double floats[] = {0.0, -0.0, 1e308, 5e-324, HUGE_VAL};
    pycrew_crew *crew = open_crew(1);
    int64_t n = 7;
    double x = 7;
    bool flag = false;

    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        OK(stub_ops_add(crew, ints[i], 0, &n));
        ASSERT_INT(n, ints[i]);
        OK(stub_ops_user(crew, ints[i], &n));
        ASSERT_INT(n, ints[i]);
        OK(stub_ops_annotated(crew, ints[i], &n));
        ASSERT_INT(n, ints[i]);
    }
    OK(stub_ops_add(crew, INT64_MIN + 1, -1, &n));
    ASSERT_INT(n, INT64_MIN);
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        OK(stub_ops_half(crew, floats[i], &x));
        ASSERT(memcmp(&x, &(double){floats[i] / 2}, sizeof x) == 0);
    }
    OK(stub_ops_half(crew, NAN, &x));
    ASSERT(isnan(x));
    OK(stub_ops_negate(crew, false, &flag));
    ASSERT(flag);
    OK(stub_ops_nothing(crew));
    OK(stub_ops_cached(crew, 1000, &n));
    ASSERT_INT(n, 1000000);
    pycrew_close(crew);
}

TEST(an_int_beyond_its_type_is_out_of_range_and_leaves_the_result_alone)
{
    pycrew_crew *crew = open_crew(1);
    int64_t n = 7;
    int narrow = 7;

    FAILS(stub_ops_add(crew, INT64_MAX, 1, &n), -ERANGE, "stub_ops:add returns int: ");
    FAILS(stub_ops_huge(crew, 200, &n), -ERANGE, "stub_ops:huge returns int");
    FAILS(stub_ops_cached(crew, INT64_MAX, &n), -ERANGE, "stub_ops:cached returns int");
    ASSERT_INT(n, 7);
    OK(sized_add(crew, INT_MAX, 0, &narrow));
    ASSERT_INT(narrow, INT_MAX);
    OK(sized_add(crew, INT_MIN, 0, &narrow));
    ASSERT_INT(narrow, INT_MIN);
    narrow = 7;
    FAILS(sized_add(crew, INT_MAX, 1, &narrow), -ERANGE, "2147483648 is out of range");
    FAILS(sized_add(crew, INT_MIN, -1, &narrow), -ERANGE, "stub_ops:add returns int: -2147483649");
    ASSERT_INT(narrow, 7);
    pycrew_close(crew);
}

TEST(text_and_bytes_come_back_also_empty_and_long)
{
    static char big[300000];
    pycrew_crew *crew = open_crew(1);
    const char *text = NULL;
    pycrew_bytes data = {NULL, 0};

    HELD(stub_ops_text(crew, "h\xc3\xa9\xf0\x9f\x98\x80", &text, &held),
         !strcmp(text, "h\xc3\xa9\xf0\x9f\x98\x80"));
    HELD(stub_ops_text(crew, "", &text, &held), !strcmp(text, ""));
    memset(big, 'x', sizeof big - 1);
    HELD(stub_ops_text(crew, big, &text, &held), !strcmp(text, big));
    HELD(stub_ops_data(crew, (pycrew_bytes){"\0\xff", 2}, &data, &held),
         data.size == 2 && !memcmp(data.data, "\xff\0", 2));
    HELD(stub_ops_data(crew, (pycrew_bytes){NULL, 0}, &data, &held), data.size == 0);
    HELD(stub_ops_data(crew, (pycrew_bytes){big, sizeof big}, &data, &held),
         data.size == sizeof big);
    pycrew_close(crew);
}

TEST(text_that_is_none_or_not_utf8_is_refused_with_the_parameters_name)
{
    pycrew_crew *crew = open_crew(1);
    const char *text = "as it was";

    FAILS(stub_ops_text(crew, "\xff", &text, &held), -EINVAL, "stub_ops:text: s: ");
    FAILS(stub_ops_text(crew, NULL, &text, &held), -EINVAL, "stub_ops:text: s: ");
    ASSERT_STR(text, "as it was");
    pycrew_close(crew);
}

TEST(a_nul_in_a_text_needs_its_size)
{
    pycrew_crew *crew = open_crew(1);
    const char *text = "as it was";
    pycrew_str sized = {NULL, 0};

    answer_wrongly(crew, "'a\\0b'");
    FAILS(stub_ops_text(crew, "", &text, &held), -EINVAL,
          "stub_ops:text returns str: the str has a NUL inside");
    ASSERT_STR(text, "as it was");
    HELD(sized_text(crew, (pycrew_str)PYCREW_STR("q"), &sized, &held),
         sized.size == 3 && !memcmp(sized.data, "a\0b", 4));
    answer_wrongly(crew, "");
    HELD(sized_text(crew, (pycrew_str){"a\0b", 3}, &sized, &held),
         sized.size == 3 && !memcmp(sized.data, "a\0b", 4));
    HELD(sized_text(crew, (pycrew_str){NULL, 0}, &sized, &held),
         sized.size == 0 && sized.data != NULL);
    HELD(sized_optional_text(crew, (pycrew_str){"", 0}, &sized, &held), sized.data != NULL);
    HELD(sized_optional_text(crew, (pycrew_str){NULL, 0}, &sized, &held), sized.data == NULL);
    pycrew_close(crew);
}

TEST(none_is_a_null_or_not_present)
{
    pycrew_crew *crew = open_crew(1);
    stub_ops_optional_int_t n = {true, 7};
    stub_ops_optional_float_t x;
    stub_ops_optional_bool_t p;
    stub_ops_optional_Point_t point;
    stub_ops_optional_list_int_t list;
    const char *text = "";
    pycrew_bytes data;

    OK(stub_ops_optional_int(crew, NULL, &n));
    ASSERT(!n.present);
    OK(stub_ops_optional_int(crew, &(int64_t){INT64_MIN}, &n));
    ASSERT(n.present && n.value == INT64_MIN);
    OK(stub_ops_optional_float(crew, NULL, &x));
    ASSERT(!x.present);
    OK(stub_ops_optional_float(crew, &(double){0.0}, &x));
    ASSERT(x.present && x.value <= 0);
    OK(stub_ops_optional_bool(crew, NULL, &p));
    ASSERT(!p.present);
    OK(stub_ops_optional_bool(crew, &(bool){false}, &p));
    ASSERT(p.present && !p.value);
    HELD(stub_ops_optional_text(crew, NULL, &text, &held), text == NULL);
    HELD(stub_ops_optional_text(crew, "", &text, &held), text != NULL && text[0] == '\0');
    HELD(stub_ops_optional_data(crew, (pycrew_bytes){NULL, 0}, &data, &held), data.data == NULL);
    HELD(stub_ops_optional_data(crew, (pycrew_bytes){"", 0}, &data, &held),
         data.data != NULL && data.size == 0);
    OK(stub_ops_optional_point(crew, NULL, &point));
    ASSERT(!point.present);
    OK(stub_ops_optional_point(crew, &(stub_ops_Point){3, 4}, &point));
    ASSERT(point.present && point.value.x == 3);
    HELD(stub_ops_optional_list(crew, NULL, &list, &held), !list.present);
    HELD(stub_ops_optional_list(crew, &(stub_ops_list_int_t){NULL, 0}, &list, &held),
         list.present && list.value.count == 0);
    pycrew_close(crew);
}

TEST(lists_and_tuples_come_back)
{
    pycrew_crew *crew = open_crew(1);
    stub_ops_list_int_t ints;
    stub_ops_list_float_t floats;
    stub_ops_list_str_t words;
    stub_ops_list_bytes_t chunks;
    stub_ops_list_bool_t flags;
    stub_ops_list_optional_int_t holes;
    stub_ops_list_list_float_t matrix;
    stub_ops_tuple_int_t many;
    stub_ops_tuple2_str_int_t pair;
    stub_ops_tuple2_float_int_t swapped;

    HELD(stub_ops_reverse(crew, (int64_t[]){1, INT64_MIN, 3}, 3, &ints, &held),
         ints.count == 3 && ints.items[0] == 3 && ints.items[1] == INT64_MIN);
    HELD(stub_ops_reverse(crew, NULL, 0, &ints, &held), ints.count == 0);
    HELD(stub_ops_floats(crew, (double[]){1.5, -2}, 2, &floats, &held),
         floats.count == 2 && floats.items[1] < -1);
    HELD(stub_ops_words(crew, (const char *[]){"a", "", "\xc3\xa9"}, 3, &words, &held),
         words.count == 3 && !strcmp(words.items[2], "\xc3\xa9"));
    HELD(stub_ops_chunks(crew, (pycrew_bytes[]){{"\0", 1}, {NULL, 0}}, 2, &chunks, &held),
         chunks.count == 2 && chunks.items[0].size == 1 && chunks.items[1].size == 0);
    HELD(stub_ops_flags(crew, (bool[]){true, false}, 2, &flags, &held),
         flags.items[0] && !flags.items[1]);
    HELD(stub_ops_holes(crew, (stub_ops_optional_int_t[]){{true, 5}, {false, 0}}, 2, &holes, &held),
         holes.items[0].value == 5 && !holes.items[1].present);
    HELD(stub_ops_matrix(crew, (stub_ops_list_float_t[]){{(double[]){1, 2}, 2}, {NULL, 0}}, 2,
                         &matrix, &held),
         matrix.count == 2 && matrix.items[0].items[1] > 1 && matrix.items[1].count == 0);
    HELD(stub_ops_many(crew, (int64_t[]){4, 5}, 2, &many, &held),
         many.count == 2 && many.items[1] == 5);
    HELD(stub_ops_pair(crew, &(stub_ops_tuple2_int_str_t){7, "seven"}, &pair, &held),
         pair.item1 == 7 && !strcmp(pair.item0, "seven"));
    OK(stub_ops_swap(crew, &(stub_ops_tuple2_int_float_t){7, 0.5}, &swapped));
    ASSERT(swapped.item1 == 7 && swapped.item0 > 0.4);
    pycrew_close(crew);
}

TEST(a_list_of_a_hundred_thousand_comes_back)
{
    enum { COUNT = 100000 };
    static int64_t items[COUNT];
    pycrew_crew *crew = open_crew(1);
    stub_ops_list_int_t back;

    for (int i = 0; i < COUNT; i++)
        items[i] = INT64_MAX - i;
    HELD(stub_ops_reverse(crew, items, COUNT, &back, &held),
         back.count == COUNT && back.items[0] == items[COUNT - 1] &&
             back.items[COUNT - 1] == items[0]);
    pycrew_close(crew);
}

TEST(dicts_come_back)
{
    pycrew_crew *crew = open_crew(1);
    stub_ops_dict_str_int_t counts;
    stub_ops_dict_int_str_t names;
    stub_ops_dict_str_list_tuple2_int_optional_str_t deep;

    HELD(stub_ops_counts(
             crew,
             &(stub_ops_dict_str_int_t){(stub_ops_dict_str_int_t_entry[]){{"a", 1}, {"", -1}}, 2},
             &counts, &held),
         counts.count == 2 && !strcmp(counts.items[0].key, "a") && counts.items[1].value == -1);
    HELD(stub_ops_counts(crew, &(stub_ops_dict_str_int_t){NULL, 0}, &counts, &held),
         counts.count == 0);
    HELD(stub_ops_by_number(
             crew, &(stub_ops_dict_int_str_t){(stub_ops_dict_int_str_t_entry[]){{-5, "x"}}, 1},
             &names, &held),
         names.items[0].key == -5 && !strcmp(names.items[0].value, "x"));
    HELD(stub_ops_deep(
             crew,
             &(stub_ops_dict_str_list_tuple2_int_optional_str_t){
                 (stub_ops_dict_str_list_tuple2_int_optional_str_t_entry[]){
                     {"k", {(stub_ops_tuple2_int_optional_str_t[]){{1, NULL}, {2, "b"}}, 2}}},
                 1},
             &deep, &held),
         deep.items[0].value.items[0].item1 == NULL &&
             !strcmp(deep.items[0].value.items[1].item1, "b"));
    pycrew_close(crew);
}

static const stub_ops_Item an_item = {.name = "first",
                                      .data = {"\1\2", 2},
                                      .at = {3, 4.5},
                                      .tags = {(const char *[]){"x", "y"}, 2},
                                      .parent = {true, {-1, -2}}};

TEST(dataclasses_are_structs_and_arrive_as_what_they_are)
{
    pycrew_crew *crew = open_crew(1);
    stub_ops_Point point;
    stub_ops_Item item;
    stub_ops_dict_str_Item_t items;
    stub_ops_Named named;
    stub_ops_list_Point_t points;

    OK(stub_ops_shift(crew, &(stub_ops_Point){1, 2.5}, INT64_MAX - 1, &point));
    ASSERT(point.x == INT64_MAX && point.y > 2.4);
    HELD(stub_ops_item(crew, &an_item, &item, &held),
         !strcmp(item.name, "first") && item.data.size == 2 && item.at.x == 3 &&
             item.tags.count == 2 && !strcmp(item.tags.items[1], "y") && item.parent.present &&
             item.parent.value.x == -1);
    HELD(stub_ops_items(crew, (stub_ops_Item[]){an_item, {.name = "", .data = {NULL, 0}}}, 2,
                        &items, &held),
         items.count == 2 && items.items[0].value.at.y > 4.4 &&
             !items.items[1].value.parent.present);
    HELD(stub_ops_named(crew, &(stub_ops_Named){true, "on"}, &named, &held),
         named.switch_ && !strcmp(named.default_, "on"));
    HELD(stub_ops_points(crew, &(stub_ops_tuple2_Point_Point_t){{1, 0}, {2, 0}}, &points, &held),
         points.count == 2 && points.items[1].x == 2);
    pycrew_close(crew);
}

TEST(arrays_are_of_their_dtype)
{
    pycrew_crew *crew = open_crew(1);
    double data[] = {3, 4}, length;
    float narrow[] = {3, 4};
    int64_t *shared = pycrew_alloc(crew, 3 * sizeof *shared);
    pycrew_array array, result = PYCREW_ARRAY_INIT;
    stub_ops_Grid grid;

    OK(pycrew_array_init(&array, data, PYCREW_F64, 1, (int64_t[]){2}, 0));
    OK(stub_ops_norm(crew, &array, &length));
    ASSERT(fabs(length - 5) < 1e-9);
    HELD(stub_ops_scaled(crew, &array, 2, &result, &held),
         result.ndim == 1 && result.shape[0] == 2 && ((double *)result.data)[1] > 7.9);
    OK(pycrew_array_init(&array, narrow, PYCREW_F32, 1, (int64_t[]){2}, 0));
    FAILS(stub_ops_norm(crew, &array, &length), PYCREW_ETYPE,
          "stub_ops:norm: x: expected an array of float64, got one of float32");
    FAILS(stub_ops_norm(crew, NULL, &length), -EINVAL, "x: the array is NULL");
    OK(pycrew_array_init(&array, "\x81", PYCREW_U8, 1, (int64_t[]){1}, 0));
    HELD(stub_ops_bits(crew, &array, &result, &held),
         result.shape[0] == 8 && ((bool *)result.data)[7]);
    OK(pycrew_array_init(&array, shared, PYCREW_I64, 1, (int64_t[]){3}, PYCREW_WRITABLE));
    OK(stub_ops_fill(crew, &array, -9));
    ASSERT(shared[0] == -9 && shared[2] == -9);
    OK(pycrew_array_init(&grid.cells, (int32_t[]){1, 2, 3, 4}, PYCREW_I32, 2, (int64_t[]){2, 2},
                         0));
    grid.label = "g";
    HELD(stub_ops_grid(crew, &grid, &grid, &held),
         grid.cells.ndim == 2 && ((int32_t *)grid.cells.data)[3] == 5 && !strcmp(grid.label, "g"));
    answer_wrongly(crew, "numpy.zeros(2, numpy.float32)");
    OK(pycrew_array_init(&array, data, PYCREW_F64, 1, (int64_t[]){2}, 0));
    FAILS(stub_ops_scaled(crew, &array, 2, &result, &held), PYCREW_ETYPE,
          "stub_ops:scaled returns NDArray[float64]: expected an array of float64, got one of "
          "float32");
    pycrew_close(crew);
}

/* ---- parameters ------------------------------------------------------------------------------ */

TEST(defaults_are_given_or_left_to_python)
{
    pycrew_crew *crew = open_crew(1);
    const char *text;

    HELD(stub_ops_greet(crew, "ada", 1, true, "?", &text, &held), !strcmp(text, "ADA?"));
    HELD(stub_ops_greet_defaults(crew, "ada", &text, &held), !strcmp(text, "adaada!"));
    pycrew_close(crew);
}

TEST(positional_starred_and_keyword_parameters_arrive)
{
    pycrew_crew *crew = open_crew(1);
    int64_t sum = 0;
    const char *text;

    OK(stub_ops_total(crew, 1, (int64_t[]){10, 100}, 2, 1000, &sum));
    ASSERT_INT(sum, 1111);
    OK(stub_ops_total(crew, 1, NULL, 0, 2, &sum));
    ASSERT_INT(sum, 3);
    HELD(stub_ops_reserved(crew, 1, 2.5, "c", true, (int64_t[]){4}, 1, &text, &held),
         !strcmp(text, "1 2.5 c True [4]"));
    pycrew_close(crew);
}

/* ---- coroutines, iterators, calls in flight -------------------------------------------------- */

TEST(coroutines_are_called_as_functions)
{
    pycrew_crew *crew = open_crew(1);
    stub_ops_Point point;
    int64_t n;

    OK(stub_ops_later(crew, 41, &n));
    ASSERT_INT(n, 42);
    OK(stub_ops_awaitable(crew, 41, &n));
    ASSERT_INT(n, 42);
    OK(stub_ops_later_point(crew, &(stub_ops_Point){6, 7}, &point));
    ASSERT(point.x == 6 && point.y > 6.9);
    pycrew_close(crew);
}

TEST(iterators_are_streams_of_typed_items)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *stream;
    stub_ops_Point point = {0, 0};
    int64_t n = 0;
    const char *word;

    OK(stub_ops_squares(crew, 3, &stream));
    for (int i = 0; i < 3; i++) {
        GIVES(stub_ops_squares_next(stream, BOUND, &n), 1);
        ASSERT_INT(n, i * i);
    }
    FAILS(stub_ops_squares_next(stream, BOUND, &n), PYCREW_ERAISED, "three is enough");
    pycrew_release(stream);
    OK(stub_ops_point_stream(crew, 2, &stream));
    GIVES(stub_ops_point_stream_next(stream, BOUND, &point), 1);
    GIVES(stub_ops_point_stream_next(stream, BOUND, &point), 1);
    ASSERT(point.x == 1 && point.y > 0.4);
    GIVES(stub_ops_point_stream_next(stream, BOUND, &point), 0);
    pycrew_release(stream);
    OK(stub_ops_words_later(crew, "one two", &stream));
    GIVES(stub_ops_words_later_next(stream, BOUND, &word), 1);
    GIVES(stub_ops_words_later_next(stream, BOUND, &word), 1);
    ASSERT_STR(word, "two");
    GIVES(stub_ops_words_later_next(stream, BOUND, &word), 0);
    pycrew_release(stream);
    answer_wrongly(crew, "'text'");
    OK(stub_ops_squares(crew, 1, &stream));
    FAILS(stub_ops_squares_next(stream, BOUND, &n), PYCREW_ETYPE,
          "stub_ops:squares returns Iterator[int]: expected int, got str");
    ASSERT_INT(n, 4);
    pycrew_release(stream);
    pycrew_close(crew);
}

TEST(calls_in_flight_are_prepared_submitted_and_got)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[20], *call, *ended;
    pycrew_queue *queue;
    stub_ops_list_int_t list;
    int64_t n, sum = 0;

    for (int i = 0; i < 20; i++)
        OK(stub_ops_add_submit(crew, NULL, i, 1000, &calls[i]));
    for (int i = 0; i < 20; i++) {
        OK(stub_ops_add_get(calls[i], &n));
        pycrew_release(calls[i]);
        sum += n;
    }
    ASSERT_INT(sum, 20190);
    OK(stub_ops_reverse_prepare(crew, 0, (int64_t[]){1, 2}, 2, &call));
    OK(pycrew_set_timeout(call, BOUND));
    OK(pycrew_submit(call));
    OK(stub_ops_reverse_get(call, &list));
    ASSERT(list.count == 2 && list.items[0] == 2);
    pycrew_release(call);
    OK(pycrew_queue_open(crew, &queue));
    OK(stub_ops_later_submit(crew, queue, 1, &call));
    GIVES(pycrew_queue_reap(queue, &ended, 1, BOUND), 1);
    ASSERT(ended == call);
    OK(stub_ops_later_get(ended, &n));
    ASSERT_INT(n, 2);
    pycrew_release(ended);
    pycrew_queue_close(queue);
    pycrew_close(crew);
}

/* ---- wrong results --------------------------------------------------------------------------- */

/* Each function with a result of its own type, asked when a set is what it gives. */
TEST(a_result_of_another_type_is_named_with_function_expected_and_got)
{
    pycrew_crew *crew = open_crew(1);
    stub_ops_Item item = {.name = "as it was"};
    union {
        int64_t n;
        double x;
        bool p;
        const char *s;
        stub_ops_list_int_t list;
        stub_ops_dict_str_int_t dict;
        stub_ops_tuple2_str_int_t pair;
        stub_ops_optional_int_t optional;
        stub_ops_optional_Point_t optional_point;
        stub_ops_Point point;
        stub_ops_list_Point_t points;
        stub_ops_list_bytes_t chunks;
        stub_ops_list_str_t words;
        stub_ops_dict_str_Item_t items;
        pycrew_bytes bytes;
        char all[256];
    } is, was;

    memset(&is, 0x55, sizeof is);
    was = is;
    answer_wrongly(crew, "{1}");
    FAILS(stub_ops_add(crew, 1, 2, &is.n), PYCREW_ETYPE,
          "stub_ops:add returns int: expected int, got a pickled object");
    ASSERT_STR(pycrew_last_error()->function, "stub_ops:add");
    ASSERT(pycrew_last_error()->may_have_run);
    FAILS(stub_ops_user(crew, 1, &is.n), PYCREW_ETYPE, "stub_ops:user returns");
    FAILS(stub_ops_awaitable(crew, 1, &is.n), PYCREW_ETYPE, "stub_ops:awaitable returns");
    FAILS(stub_ops_half(crew, 1, &is.x), PYCREW_ETYPE, "expected float, got a pickled object");
    FAILS(stub_ops_negate(crew, 1, &is.p), PYCREW_ETYPE, "expected bool");
    FAILS(stub_ops_text(crew, "", &is.s, &held), PYCREW_ETYPE,
          "expected str, got a pickled object");
    FAILS(stub_ops_data(crew, (pycrew_bytes){"", 0}, &is.bytes, &held), PYCREW_ETYPE,
          "expected bytes, got a pickled");
    FAILS(stub_ops_nothing(crew), PYCREW_ETYPE,
          "stub_ops:nothing returns None: expected None, got a pickled object");
    FAILS(stub_ops_optional_int(crew, NULL, &is.optional), PYCREW_ETYPE,
          "returns Optional[int]: expected int, got");
    FAILS(stub_ops_optional_point(crew, NULL, &is.optional_point), PYCREW_ETYPE,
          "expected Point, got");
    FAILS(stub_ops_reverse(crew, NULL, 0, &is.list, &held), PYCREW_ETYPE,
          "returns list[int]: expected list, got");
    FAILS(stub_ops_counts(crew, &(stub_ops_dict_str_int_t){NULL, 0}, &is.dict, &held), PYCREW_ETYPE,
          "returns dict[str, int]: expected dict, got");
    FAILS(stub_ops_pair(crew, &(stub_ops_tuple2_int_str_t){1, ""}, &is.pair, &held), PYCREW_ETYPE,
          "returns tuple[str, int]: expected tuple, got");
    FAILS(stub_ops_shift(crew, &(stub_ops_Point){0, 0}, 1, &is.point), PYCREW_ETYPE,
          "stub_ops:shift returns Point: expected Point, got a pickled object");
    FAILS(stub_ops_item(crew, &an_item, &item, &held), PYCREW_ETYPE,
          "returns Item: expected Item, got");
    FAILS(stub_ops_items(crew, NULL, 0, &is.items, &held), PYCREW_ETYPE,
          "returns dict[str, Item]: expected dict, got");
    FAILS(stub_ops_later(crew, 1, &is.n), PYCREW_ETYPE,
          "stub_ops:later returns int: expected int, got");
    answer_wrongly(crew, "[1, 2.5, 'x']");
    FAILS(stub_ops_reverse(crew, NULL, 0, &is.list, &held), PYCREW_ETYPE,
          "returns list[int]: [1]: expected int, got float");
    FAILS(stub_ops_pair(crew, &(stub_ops_tuple2_int_str_t){1, ""}, &is.pair, &held), PYCREW_ETYPE,
          "expected tuple, which has 2 items, got a list of 3");
    answer_wrongly(crew, "[b'', {1}]");
    FAILS(stub_ops_chunks(crew, NULL, 0, &is.chunks, &held), PYCREW_ETYPE,
          "[1]: expected bytes, got a pickled object");
    answer_wrongly(crew, "['', 1 << 70]");
    FAILS(stub_ops_words(crew, NULL, 0, &is.words, &held), PYCREW_ETYPE,
          "[1]: expected str, got int");
    answer_wrongly(crew, "{'a': 1, 'b': None}");
    FAILS(stub_ops_counts(crew, &(stub_ops_dict_str_int_t){NULL, 0}, &is.dict, &held), PYCREW_ETYPE,
          "[1]: expected int, got None");
    answer_wrongly(crew, "{1: 1}");
    FAILS(stub_ops_counts(crew, &(stub_ops_dict_str_int_t){NULL, 0}, &is.dict, &held), PYCREW_ETYPE,
          "[0]: expected str, got int");
    answer_wrongly(crew, "");
    FAILS(stub_ops_shape_of_list(crew, 0, &is.points, &held), PYCREW_ETYPE,
          "list[Point]: [1]: expected Point, got None");
    FAILS(stub_ops_shape_of_list(crew, 1, &is.points, &held), PYCREW_ETYPE,
          "list[Point]: [0].x: expected int, got str");
    FAILS(stub_ops_shape_of_list(crew, 2, &is.points, &held), PYCREW_ETYPE,
          "[0]: expected Point, which has 2 items");
    FAILS(stub_ops_shape_of_list(crew, 3, &is.points, &held), PYCREW_ETYPE, "expected list, got");
    FAILS(stub_ops_shape_of_list(crew, 4, &is.points, &held), PYCREW_ETYPE,
          "[0].y: expected float, got bytes");
    FAILS(stub_ops_not_an_int(crew, &is.n), PYCREW_ETYPE,
          "stub_ops:not_an_int returns int: expected int, got str");
    ASSERT(memcmp(&is, &was, sizeof is) == 0);
    ASSERT_STR(item.name, "as it was");
    pycrew_close(crew);
}

TEST(exceptions_deaths_and_no_crew_are_as_of_any_call)
{
    pycrew_crew *crew = open_crew(1);
    int64_t n = 7;

    GIVES(stub_ops_divide(crew, 1, 0, &n), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ZeroDivisionError");
    GIVES(stub_ops_shape_of_list(crew, 9, &(stub_ops_list_Point_t){NULL, 0}, &held),
          PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "IndexError");
    CONTAINS(pycrew_last_error()->traceback, "stub_ops.py");
    GIVES(stub_ops_crash(crew), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->signal, SIGKILL);
    OK(stub_ops_divide(crew, 7, -2, &n));
    ASSERT_INT(n, -4);
    GIVES(stub_ops_divide(NULL, 1, 1, &n), -EINVAL);
    pycrew_close(crew);
}

/* ---- what stubs stand on --------------------------------------------------------------------- */

static void *add_in_two_crews(void *data)
{
    pycrew_crew *const *crews = data;

    for (int64_t i = 0; i < 200; i++) {
        int64_t n = 0;

        OK(stub_ops_add(crews[i % 2], i, i, &n));
        ASSERT_INT(n, 2 * i);
    }
    return NULL;
}

TEST(stubs_are_for_all_crews_and_threads_at_once)
{
    pycrew_crew *crews[] = {open_crew(1), open_crew(1)};
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        ASSERT(pthread_create(&threads[i], NULL, add_in_two_crews, crews) == 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    pycrew_close(crews[0]);
    pycrew_close(crews[1]);
}

TEST(scalars_text_and_structs_of_scalars_need_no_allocation)
{
    pycrew_crew *crew = open_crew(1);
    stub_ops_Point point = {0, 0};
    const char *text;

    for (int64_t i = 0; i < 3; i++) {
        int64_t n = 0;
        double x = 0;
        bool p = false;

        counting = i > 0; /* by then the crew knows the functions */
        OK(stub_ops_add(crew, i, i, &n));
        OK(stub_ops_half(crew, 1, &x));
        OK(stub_ops_negate(crew, false, &p));
        OK(stub_ops_shift(crew, &(stub_ops_Point){i, 0}, 1, &point));
        OK(stub_ops_text(crew, "text", &text, &held));
        pycrew_release(held);
        counting = false;
        ASSERT(n == 2 * i && p && point.x == i + 1);
    }
    ASSERT_INT(allocations, 0);
    pycrew_close(crew);
}

TEST(a_stub_serves_the_crew_that_comes_after)
{
    for (int i = 0; i < 4; i++) {
        pycrew_crew *crew = open_crew(1); /* at the address of the one before, perhaps */
        stub_ops_Point point;
        int64_t n;

        OK(stub_ops_add(crew, i, 1, &n));
        ASSERT_INT(n, i + 1);
        OK(stub_ops_shift(crew, &(stub_ops_Point){i, 0}, 1, &point));
        ASSERT_INT(point.x, i + 1);
        pycrew_close(crew);
    }
}

TEST(more_stubs_than_the_table_has_places_are_found_by_name)
{
    enum { STUBS = 5000 };
    static pycrew_stub stubs[STUBS];
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *by_name = function_of(crew, "stub_ops:add"), *found;

    for (int round = 0; round < 2; round++)
        for (int i = 0; i < STUBS; i++) {
            stubs[i].name = "stub_ops:add";
            OK(pycrew_stub_function(crew, &stubs[i], &found));
            ASSERT(found == by_name);
        }
    pycrew_close(crew);
}

TEST(a_stub_with_a_malformed_name_says_so_each_time)
{
    static pycrew_stub stub = PYCREW_STUB_INIT("no colon", NULL);
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *found;
    pycrew_call *call;

    GIVES(pycrew_stub_function(crew, &stub, &found), -EINVAL);
    GIVES(pycrew_stub_prepare(crew, &stub, 0, &call), -EINVAL);
    pycrew_close(crew);
}

TEST(memory_of_a_call_is_as_large_as_asked_for_and_its_lack_is_an_error)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;
    char *memory;

    OK(stub_ops_add_submit(crew, NULL, 1, 2, &call));
    for (size_t size = 1; size < 100000; size *= 3) {
        memory = pycrew_call_alloc(call, 1, size);
        ASSERT(memory != NULL && (uintptr_t)memory % 16 == 0);
        memset(memory, 1, size);
    }
    ASSERT(pycrew_call_alloc(call, SIZE_MAX / 2, 3) == NULL);
    ASSERT_INT(pycrew_last_error()->code, -ENOMEM);
    ASSERT(pycrew_call_alloc(call, SIZE_MAX, 1) == NULL);
    pycrew_release(call);
    OK(stub_ops_add_submit(crew, NULL, 1, 2, &call));
    ASSERT(pycrew_call_alloc(call, 10, 10) != NULL); /* left for close */
    pycrew_close(crew);
}

TAP_MAIN
