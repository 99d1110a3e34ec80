/* Columns through all workers, through pycrew.h: element by element and by slices, every type and
 * layout, and what is left when elements fail, workers die, time is up, or the map is ended. */
#include "tests/harness/crew.h"

#include <float.h>
#include <limits.h>
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

static pycrew_crew *open_map_crew(unsigned workers)
{
    static char mark[160];
    static const char *const preload[] = {"map_ops", NULL};
    static const char *env[] = {mark, NULL};
    pycrew_options options = test_options(workers);

    snprintf(mark, sizeof mark, "MAP_MARK=%s", scratch("mark"));
    options.preload = preload;
    options.env = env;
    options.memory = 512 * MIB;
    return open_with(&options);
}

static pycrew_crew *open_numpy_crew(unsigned workers)
{
    if (!has_numpy())
        SKIP("numpy is not installed");
    return open_map_crew(workers);
}

static pycrew_array array_of(const void *data, pycrew_dtype dtype, int64_t count)
{
    pycrew_array array;

    OK(pycrew_array_init(&array, data, dtype, 1, &count, 0));
    return array;
}

static void *memory_of(pycrew_crew *crew, size_t size)
{
    void *memory = pycrew_alloc(crew, size);

    ASSERT(memory != NULL);
    return memory;
}

/* first, first + 1, ... in memory of the crew. */
static int64_t *numbers(pycrew_crew *crew, int64_t count, int64_t first)
{
    int64_t *memory = memory_of(crew, (size_t)count * sizeof *memory);

    for (int64_t i = 0; i < count; i++)
        memory[i] = first + i;
    return memory;
}

static int map(pycrew_crew *crew, const char *function, const pycrew_array *inputs, unsigned count,
               pycrew_array *output, const pycrew_map_options *options)
{
    return pycrew_map(crew, function_of(crew, function), inputs, count, output, options);
}

static pycrew_map_options fill_options(const void *fill, int *failed)
{
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;

    options.on_error = PYCREW_MAP_FILL;
    options.fill = fill;
    options.failed = failed;
    return options;
}

static pycrew_map_options whole_options(unsigned flags)
{
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;

    options.flags = PYCREW_MAP_WHOLE | flags;
    return options;
}

/* output[i] is 2 i, but at `but`, where it is value. */
static void expect_doubled(const int64_t *output, int64_t count, int64_t but, int64_t value)
{
    for (int64_t i = 0; i < count; i++)
        ASSERT_INT(output[i], i == but ? value : 2 * i);
}

/* ---- element by element ---------------------------------------------------------------------- */

TEST(ten_million_sums_are_all_right)
{
    enum { COUNT = 10000000 };
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, COUNT, 0), *b = numbers(crew, COUNT, 5);
    int64_t *sums = memory_of(crew, COUNT * sizeof *sums);
    pycrew_array inputs[] = {array_of(a, PYCREW_I64, COUNT), array_of(b, PYCREW_I64, COUNT)};
    pycrew_array output = array_of(sums, PYCREW_I64, COUNT);

    memset(sums, 0xff, COUNT * sizeof *sums);
    OK(map(crew, "map_ops:add", inputs, 2, &output, NULL));
    for (int64_t i = 0; i < COUNT; i++)
        if (sums[i] != 2 * i + 5)
            ASSERT_INT(sums[i], 2 * i + 5);
    pycrew_close(crew);
}

TEST(columns_from_elsewhere_go_through_little_memory)
{
    enum { COUNT = 2000000 };
    pycrew_options options = test_options(2);
    pycrew_crew *crew;
    pycrew_stats stats = PYCREW_STATS_INIT;
    int64_t *a = malloc(COUNT * sizeof *a), *sums = malloc(COUNT * sizeof *sums);
    pycrew_array inputs[2], output;

    ASSERT(a != NULL && sums != NULL);
    for (int64_t i = 0; i < COUNT; i++)
        a[i] = i;
    options.memory = 16 * MIB; /* each column is as large */
    crew = open_with(&options);
    inputs[0] = inputs[1] = array_of(a, PYCREW_I64, COUNT);
    output = array_of(sums, PYCREW_I64, COUNT);
    OK(map(crew, "map_ops:add", inputs, 2, &output, NULL));
    expect_doubled(sums, COUNT, -1, 0);
    OK(pycrew_stats_get(crew, &stats));
    ASSERT(stats.memory_used < 16 * MIB);
    free(a);
    free(sums);
    pycrew_close(crew);
}

TEST(no_element_one_element_and_no_input)
{
    pycrew_crew *crew = open_map_crew(2);
    int64_t a = 20, b = 22, sum = 0, many[100] = {0};
    pycrew_array inputs[] = {array_of(&a, PYCREW_I64, 1), array_of(&b, PYCREW_I64, 1)};
    pycrew_array output = array_of(&sum, PYCREW_I64, 1), none = array_of(NULL, PYCREW_I64, 0);
    pycrew_array scalar;

    OK(map(crew, "map_ops:add", inputs, 2, &output, NULL));
    ASSERT_INT(sum, 42);
    OK(map(crew, "no_such_module:f", &none, 1, &none, NULL)); /* there is nothing to call it for */
    OK(pycrew_array_init(&scalar, &sum, PYCREW_I64, 0, NULL, 0));
    sum = 0;
    OK(map(crew, "map_ops:ten", NULL, 0, &scalar, NULL));
    ASSERT_INT(sum, 10);
    output = array_of(many, PYCREW_I64, 100);
    OK(map(crew, "map_ops:ten", NULL, 0, &output, NULL));
    for (int i = 0; i < 100; i++)
        ASSERT_INT(many[i], 10);
    pycrew_close(crew);
}

/* Through Python and back, bit by bit; held: in memory of the crew. */
static void expect_same(pycrew_crew *crew, pycrew_dtype dtype, const void *data, int64_t count,
                        size_t size, int code, bool held)
{
    size_t bytes = (size_t)count * size;
    uint8_t *from = held ? memory_of(crew, bytes) : malloc(bytes);
    uint8_t *to = held ? memory_of(crew, bytes) : malloc(bytes);
    int8_t codes[16];
    pycrew_array input = array_of(from, dtype, count), output = array_of(to, dtype, count);

    memcpy(from, data, bytes);
    memset(to, 0x5a, bytes);
    OK(map(crew, "map_ops:same", &input, 1, &output, NULL));
    ASSERT_MEM(to, data, bytes);
    output = array_of(codes, PYCREW_I8, count);
    OK(map(crew, "map_ops:type_code", &input, 1, &output, NULL));
    for (int64_t i = 0; i < count; i++)
        ASSERT_INT(codes[i], code);
    if (held) {
        pycrew_free(crew, from);
        pycrew_free(crew, to);
    } else {
        free(from);
        free(to);
    }
}

#define EXPECT_SAME(dtype, code, ...)                                                              \
    for (int held = 0; held < 2; held++)                                                           \
    expect_same(crew, dtype, __VA_ARGS__, sizeof(__VA_ARGS__) / sizeof(__VA_ARGS__)[0],            \
                sizeof(__VA_ARGS__)[0], code, held)

TEST(elements_of_every_type_go_to_python_and_back)
{
    pycrew_crew *crew = open_map_crew(1);
    static const bool bools[] = {false, true};
    static const int8_t i8[] = {INT8_MIN, -1, 0, 1, INT8_MAX};
    static const int16_t i16[] = {INT16_MIN, -1, 0, 1, INT16_MAX};
    static const int32_t i32[] = {INT32_MIN, -1, 0, 1, INT32_MAX};
    static const int64_t i64[] = {INT64_MIN, -1, 0, 1, INT64_MAX};
    static const uint8_t u8[] = {0, 1, UINT8_MAX};
    static const uint16_t u16[] = {0, 1, UINT16_MAX};
    static const uint32_t u32[] = {0, 1, UINT32_MAX};
    static const uint64_t u64[] = {0, 1, UINT64_MAX};
    static const uint16_t f16[] = {0, 0x8000, 0x3c00, 0x7bff, 0x7c00, 1};
    static const float f32[] = {0, -0.0f, 1.5f, FLT_MAX, -INFINITY, FLT_TRUE_MIN};
    static const double f64[] = {0, -0.0, 1.5, DBL_MAX, -INFINITY, DBL_TRUE_MIN};
    static const float c64[][2] = {{0, -0.0f}, {FLT_MAX, INFINITY}};
    static const double c128[][2] = {{0, -0.0}, {DBL_MAX, INFINITY}};

    EXPECT_SAME(PYCREW_BOOL, 0, bools);
    EXPECT_SAME(PYCREW_I8, 1, i8);
    EXPECT_SAME(PYCREW_I16, 1, i16);
    EXPECT_SAME(PYCREW_I32, 1, i32);
    EXPECT_SAME(PYCREW_I64, 1, i64);
    EXPECT_SAME(PYCREW_U8, 1, u8);
    EXPECT_SAME(PYCREW_U16, 1, u16);
    EXPECT_SAME(PYCREW_U32, 1, u32);
    EXPECT_SAME(PYCREW_U64, 1, u64);
    EXPECT_SAME(PYCREW_F16, 2, f16);
    EXPECT_SAME(PYCREW_F32, 2, f32);
    EXPECT_SAME(PYCREW_F64, 2, f64);
    EXPECT_SAME(PYCREW_C64, 3, c64);
    EXPECT_SAME(PYCREW_C128, 3, c128);
    pycrew_close(crew);
}

/* Objects of the elements before are used again where nobody has them; these have somebody. */
TEST(arguments_that_python_keeps_stay_what_they_are)
{
    enum { COUNT = 2000 };
    pycrew_crew *crew = open_map_crew(1);
    int64_t *a = numbers(crew, COUNT, 0);
    double *b = memory_of(crew, COUNT * sizeof *b);
    pycrew_array ints = array_of(a, PYCREW_I64, COUNT), floats = array_of(b, PYCREW_F64, COUNT);
    int right = 0;

    OK(map(crew, "map_ops:keep", &ints, 1, &ints, NULL));
    OK(pycrew_run(crew, "map_ops:kept_in_order", ">p", &right));
    ASSERT(right);
    for (int64_t i = 0; i < COUNT; i++)
        b[i] = (double)i;
    OK(map(crew, "map_ops:keep", &floats, 1, &floats, NULL));
    right = 0;
    OK(pycrew_run(crew, "map_ops:kept_in_order", ">p", &right));
    ASSERT(right);
    pycrew_close(crew);
}

TEST(ints_of_all_sizes_follow_one_another)
{
    static const int64_t sizes[] = {1000,
                                    1001,
                                    -1000,
                                    5,
                                    -5,
                                    256,
                                    257,
                                    -6,
                                    0,
                                    1 << 29,
                                    (1 << 30) - 1,
                                    1 << 30,
                                    999,
                                    INT64_MAX,
                                    1002,
                                    -1003,
                                    INT64_MIN,
                                    1004,
                                    INT64_C(1) << 60,
                                    1005,
                                    -(1 << 30),
                                    1006,
                                    1,
                                    1007,
                                    1008};
    enum { COUNT = sizeof sizes / sizeof sizes[0], SMALL = 262 };
    pycrew_crew *crew = open_map_crew(1);
    int64_t to[COUNT], small[2 * SMALL];
    bool are[2 * SMALL];
    pycrew_array input = array_of(sizes, PYCREW_I64, COUNT),
                 output = array_of(to, PYCREW_I64, COUNT);

    OK(map(crew, "map_ops:same", &input, 1, &output, NULL));
    ASSERT_MEM(to, sizes, sizeof to);
    for (int i = 0; i < 2 * SMALL; i++)
        small[i] = i % 2 == 0 ? 1000 + i : i / 2 - 5;
    input = array_of(small, PYCREW_I64, 2 * SMALL);
    output = array_of(are, PYCREW_BOOL, 2 * SMALL);
    OK(map(crew, "map_ops:is_the_small_one", &input, 1, &output, NULL));
    for (int i = 0; i < 2 * SMALL; i++)
        ASSERT(are[i]);
    pycrew_close(crew);
}

/* One element, from an int to that type. */
static int convert(pycrew_crew *crew, const char *function, int64_t from, pycrew_dtype dtype,
                   void *to)
{
    pycrew_array input = array_of(&from, PYCREW_I64, 1), output = array_of(to, dtype, 1);

    return map(crew, function, &input, 1, &output, NULL);
}

TEST(a_result_that_does_not_fit_is_out_of_range)
{
    static const struct {
        pycrew_dtype dtype;
        int64_t fits, more, less;
    } ints[] = {{PYCREW_I8, 127, 128, -129},
                {PYCREW_I16, 32767, 32768, -32769},
                {PYCREW_I32, INT32_MAX, INT64_C(1) << 31, -(INT64_C(1) << 31) - 1},
                {PYCREW_U8, 255, 256, -1},
                {PYCREW_U16, 65535, 65536, -1},
                {PYCREW_U32, UINT32_MAX, INT64_C(1) << 32, -1},
                {PYCREW_U64, INT64_MAX, 0, -1}};
    pycrew_crew *crew = open_map_crew(1);
    uint8_t to[16];

    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        memset(to, 0, sizeof to);
        OK(convert(crew, "map_ops:same", ints[i].fits, ints[i].dtype, to));
        ASSERT_MEM(to, &ints[i].fits, 1);
        memset(to, 0x5a, sizeof to);
        if (ints[i].more != 0)
            GIVES(convert(crew, "map_ops:same", ints[i].more, ints[i].dtype, to), -ERANGE);
        GIVES(convert(crew, "map_ops:same", ints[i].less, ints[i].dtype, to), -ERANGE);
        CONTAINS(pycrew_last_error()->message, "out of range for the output's");
        for (size_t j = 0; j < sizeof to; j++)
            ASSERT_INT(to[j], 0x5a);
    }
    GIVES(convert(crew, "map_ops:huge", 19, PYCREW_I64, to), -ERANGE);
    GIVES(convert(crew, "map_ops:huge", 20, PYCREW_U64, to), -ERANGE);
    OK(convert(crew, "map_ops:huge", 19, PYCREW_U64, to));
    GIVES(convert(crew, "map_ops:huge", 400, PYCREW_F64, to), -ERANGE);
    GIVES(convert(crew, "map_ops:huge", 400, PYCREW_C128, to), -ERANGE);
    GIVES(convert(crew, "map_ops:large_float", 0, PYCREW_F32, to), -ERANGE);
    GIVES(convert(crew, "map_ops:large_float", 0, PYCREW_F16, to), -ERANGE);
    GIVES(convert(crew, "map_ops:large_float", 0, PYCREW_C64, to), -ERANGE);
    OK(convert(crew, "map_ops:large_float", 0, PYCREW_F64, to));
    pycrew_close(crew);
}

TEST(a_result_of_another_type_is_that_elements_error)
{
    pycrew_crew *crew = open_map_crew(1);
    uint8_t to[16];
    double number = 0;

    GIVES(convert(crew, "map_ops:constant_text", 1, PYCREW_I64, to), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "the result is of type str, which the output's int64");
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    GIVES(convert(crew, "map_ops:nothing", 1, PYCREW_F64, to), PYCREW_ETYPE);
    GIVES(convert(crew, "map_ops:large_float", 1, PYCREW_I64, to), PYCREW_ETYPE);
    GIVES(convert(crew, "map_ops:same", 1, PYCREW_BOOL, to), PYCREW_ETYPE);
    GIVES(convert(crew, "map_ops:bad_index", 1, PYCREW_I64, to), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "no index today");
    OK(convert(crew, "map_ops:same", 3, PYCREW_F64, &number));
    ASSERT(number == 3);
    OK(convert(crew, "map_ops:index_of", 5, PYCREW_I8, to));
    ASSERT_INT(to[0], 5);
    pycrew_close(crew);
}

TEST(numpys_scalars_are_what_they_hold)
{
    pycrew_crew *crew = open_numpy_crew(1);
    uint8_t to[16] = {0};
    double number = 0;

    OK(convert(crew, "map_ops:numpy_of", 5, PYCREW_I8, to));
    ASSERT_INT(to[0], 5);
    OK(convert(crew, "map_ops:numpy_bool", 5, PYCREW_BOOL, to));
    ASSERT_INT(to[0], 1);
    OK(convert(crew, "map_ops:numpy_float", 5, PYCREW_F64, &number));
    ASSERT(number == 5);
    GIVES(convert(crew, "map_ops:numpy_float", 5, PYCREW_I64, to), PYCREW_ETYPE);
    pycrew_close(crew);
}

/* ---- layouts --------------------------------------------------------------------------------- */

/* A 4 x 6 array in the lower left of an 8 x 12 one, its second dimension backwards. */
static pycrew_array in_the_corner(int64_t *data)
{
    int64_t shape[] = {4, 6};
    pycrew_array array;

    OK(pycrew_array_init(&array, data + 5, PYCREW_I64, 2, shape, PYCREW_STRIDED));
    array.strides[0] = 12 * 8;
    array.strides[1] = -8;
    return array;
}

static void check_strided(pycrew_crew *crew, int64_t *from, int64_t *to)
{
    pycrew_array input = in_the_corner(from), output, inputs[2];
    int64_t shape[] = {4, 6}, scalar = 1000;

    for (int64_t i = 0; i < 96; i++) {
        from[i] = i;
        to[i] = -1;
    }
    inputs[0] = input;
    OK(pycrew_array_init(&inputs[1], &scalar, PYCREW_I64, 0, NULL, 0));
    OK(pycrew_array_init(&output, to, PYCREW_I64, 2, shape, PYCREW_FORTRAN));
    OK(map(crew, "map_ops:add", inputs, 2, &output, NULL));
    for (int64_t row = 0; row < 4; row++)
        for (int64_t column = 0; column < 6; column++)
            ASSERT_INT(to[row + 4 * column], 12 * row + 5 - column + 1000);
    for (int64_t i = 24; i < 96; i++)
        ASSERT_INT(to[i], -1);
    for (int64_t i = 0; i < 96; i++)
        to[i] = -1;
    output = in_the_corner(to);
    OK(map(crew, "map_ops:add", inputs, 2, &output, NULL));
    for (int64_t i = 0; i < 96; i++)
        ASSERT_INT(to[i], i / 12 < 4 && i % 12 < 6 ? i + 1000 : -1);
}

TEST(columns_of_any_strides_and_dimensions_are_walked_in_c_order)
{
    pycrew_crew *crew = open_map_crew(2);
    int64_t from[96], to[96];
    int64_t *held_from = memory_of(crew, sizeof from), *held_to = memory_of(crew, sizeof to);

    check_strided(crew, from, to);
    check_strided(crew, held_from, held_to);
    check_strided(crew, held_from, to);
    check_strided(crew, from, held_to);
    pycrew_close(crew);
}

TEST(a_stride_of_zero_gives_one_element_to_all)
{
    pycrew_crew *crew = open_map_crew(2);
    int64_t one = 7, a[50], to[50], count = 50;
    pycrew_array inputs[2], output = array_of(to, PYCREW_I64, 50);

    for (int64_t i = 0; i < 50; i++)
        a[i] = i;
    inputs[0] = array_of(a, PYCREW_I64, 50);
    OK(pycrew_array_init(&inputs[1], &one, PYCREW_I64, 1, &count, PYCREW_STRIDED));
    OK(map(crew, "map_ops:add", inputs, 2, &output, NULL));
    for (int64_t i = 0; i < 50; i++)
        ASSERT_INT(to[i], i + 7);
    pycrew_close(crew);
}

struct record {
    int32_t a;
    int64_t b __attribute__((packed, aligned(4)));
    int32_t sum;
};

TEST(fields_of_records_are_columns_though_their_memory_overlaps)
{
    enum { COUNT = 5000 };
    pycrew_crew *crew = open_map_crew(2);
    struct record *records = memory_of(crew, COUNT * sizeof *records);
    pycrew_array inputs[2], output;
    int64_t count = COUNT;

    for (int i = 0; i < COUNT; i++)
        records[i] = (struct record){i, 3 * i, -1};
    OK(pycrew_array_init(&inputs[0], &records->a, PYCREW_I32, 1, &count, PYCREW_STRIDED));
    OK(pycrew_array_init(&inputs[1], (uint8_t *)records + offsetof(struct record, b), PYCREW_I64, 1,
                         &count, PYCREW_STRIDED));
    OK(pycrew_array_init(&output, &records->sum, PYCREW_I32, 1, &count, PYCREW_STRIDED));
    inputs[0].strides[0] = inputs[1].strides[0] = output.strides[0] = sizeof *records;
    OK(map(crew, "map_ops:add", inputs, 2, &output, NULL));
    for (int i = 0; i < COUNT; i++) {
        ASSERT_INT(records[i].a, i);
        ASSERT_INT(records[i].sum, 4 * i);
    }
    pycrew_close(crew);
}

TEST(the_output_may_be_an_input)
{
    enum { COUNT = 20000 };
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, COUNT, 0), elsewhere[COUNT];
    pycrew_array column = array_of(a, PYCREW_I64, COUNT);
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;

    OK(map(crew, "map_ops:doubled", &column, 1, &column, NULL));
    expect_doubled(a, COUNT, -1, 0);
    for (int64_t i = 0; i < COUNT; i++)
        elsewhere[i] = i;
    column = array_of(elsewhere, PYCREW_I64, COUNT);
    OK(map(crew, "map_ops:doubled", &column, 1, &column, NULL));
    expect_doubled(elsewhere, COUNT, -1, 0);
    options.retries = 2;
    GIVES(map(crew, "map_ops:doubled", &column, 1, &column, &options), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "inputs[0] is the output, too");
    pycrew_close(crew);
}

TEST(an_element_that_died_in_place_is_not_tried_again)
{
    pycrew_options options = test_options(1);
    const char *env[] = {NULL, NULL};
    char mark[160];
    pycrew_crew *crew;
    int64_t *a, minus = -1;
    pycrew_array column;
    pycrew_map_options fill = fill_options(&minus, NULL);

    snprintf(mark, sizeof mark, "MAP_MARK=%s", scratch("mark"));
    env[0] = mark;
    options.env = env;
    options.retries = 3;
    crew = open_with(&options);
    a = numbers(crew, 100, 0);
    column = array_of(a, PYCREW_I64, 100);
    ASSERT_INT(map(crew, "map_ops:dies_once", &column, 1, &column, &fill), 1);
    expect_doubled(a, 100, 7, -1);
    pycrew_close(crew);
}

/* ---- failures -------------------------------------------------------------------------------- */

TEST(the_first_exception_stops_the_map)
{
    enum { COUNT = 100000 };
    pycrew_crew *crew = open_map_crew(1);
    int64_t *a = numbers(crew, COUNT, 1), *to = memory_of(crew, COUNT * sizeof *to);
    int *failed = malloc(COUNT * sizeof *failed);
    pycrew_array input = array_of(a, PYCREW_I64, COUNT), output = array_of(to, PYCREW_I64, COUNT);
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    const pycrew_error *e;
    uint64_t first = 0;

    memset(to, 0xff, COUNT * sizeof *to);
    options.failed = failed;
    options.first_failed = &first;
    GIVES(map(crew, "map_ops:not_thirteens", &input, 1, &output, &options), PYCREW_ERAISED);
    e = pycrew_last_error();
    ASSERT_STR(e->type, "ValueError");
    ASSERT_STR(e->message, "13 is a multiple of 13");
    ASSERT_STR(e->function, "map_ops:not_thirteens");
    CONTAINS(e->traceback, "in not_thirteens");
    ASSERT(e->may_have_run);
    ASSERT_INT(e->attempts, 1);
    ASSERT_INT(first, 12);
    ASSERT_INT(failed[12], PYCREW_ERAISED);
    for (int i = 0; i < 12; i++) {
        ASSERT_INT(to[i], i + 1);
        ASSERT_INT(failed[i], 0);
    }
    ASSERT_INT(to[12], -1);
    ASSERT_INT(to[COUNT - 1], -1);
    options.chunk = 1000;
    GIVES(map(crew, "map_ops:not_thirteens", &input, 1, &output, &options), PYCREW_ERAISED);
    ASSERT_INT(to[13], -1);
    free(failed);
    pycrew_close(crew);
}

static void check_filled(pycrew_crew *crew, const int64_t *a, int64_t *to, int64_t count)
{
    int64_t minus = -5, expected = (count - 1) / 13 + 1;
    int *failed = malloc((size_t)count * sizeof *failed);
    pycrew_map_options options = fill_options(&minus, failed);
    pycrew_array input = array_of(a, PYCREW_I64, count), output = array_of(to, PYCREW_I64, count);
    uint64_t first = 99;

    options.first_failed = &first;
    ASSERT_INT(map(crew, "map_ops:not_thirteens", &input, 1, &output, &options), expected);
    CONTAINS(pycrew_last_error()->message, "0 is a multiple of 13");
    ASSERT_INT(first, 0);
    for (int64_t i = 0; i < count; i++) {
        ASSERT_INT(to[i], i % 13 == 0 ? -5 : i);
        ASSERT_INT(failed[i], i % 13 == 0 ? PYCREW_ERAISED : 0);
    }
    options.fill = NULL;
    ASSERT_INT(map(crew, "map_ops:not_thirteens", &input, 1, &output, &options), expected);
    ASSERT_INT(to[13], 0);
    ASSERT_INT(to[14], 14);
    free(failed);
}

TEST(what_fails_is_filled_and_counted)
{
    enum { COUNT = 30000 };
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, COUNT, 0), *to = memory_of(crew, COUNT * sizeof *to);
    int64_t *b = malloc(COUNT * sizeof *b), *elsewhere = malloc(COUNT * sizeof *elsewhere);

    memcpy(b, a, COUNT * sizeof *b);
    check_filled(crew, a, to, COUNT);
    check_filled(crew, b, elsewhere, COUNT);
    free(b);
    free(elsewhere);
    pycrew_close(crew);
}

TEST(a_function_that_is_not_there_ends_the_map)
{
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, 1000, 0), to[1000];
    pycrew_array input = array_of(a, PYCREW_I64, 1000), output = array_of(to, PYCREW_I64, 1000);
    pycrew_map_options options = fill_options(NULL, NULL);

    GIVES(map(crew, "no_such_module:f", &input, 1, &output, &options), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ModuleNotFoundError");
    ASSERT(!pycrew_last_error()->may_have_run);
    options.flags = PYCREW_MAP_WHOLE;
    GIVES(map(crew, "map_ops:no_such", &input, 1, &output, &options), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "AttributeError");
    OK(map(crew, "map_ops:same", &input, 1, &output, NULL));
    pycrew_close(crew);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    ASSERT(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

/* Element 3 raises; 5 dies, and with it the module's file goes: the next worker, which has the rest of the
 * chunk, finds none. What is told is why the map ended, though an element had failed before. */
TEST(a_function_that_is_not_there_any_more_ends_the_map_and_says_so)
{
    const char *path[] = {scratch_directory(), NULL};
    pycrew_options crew_options = test_options(1);
    pycrew_crew *crew;
    int64_t a[20], to[20];
    int failed[20];
    pycrew_array input = array_of(a, PYCREW_I64, 20), output = array_of(to, PYCREW_I64, 20);
    pycrew_map_options options = fill_options(NULL, failed);
    uint64_t first = 99;

    write_file(scratch("goes_away.py"), "import os\n"
                                        "def f(x):\n"
                                        "    if x == 3:\n"
                                        "        raise ValueError('three')\n"
                                        "    if x == 5:\n"
                                        "        os.unlink(__file__)\n"
                                        "        os._exit(3)\n"
                                        "    return x\n");
    for (int i = 0; i < 20; i++)
        a[i] = i;
    crew_options.path = path;
    crew = open_with(&crew_options);
    options.chunk = 20;
    options.first_failed = &first;
    GIVES(map(crew, "goes_away:f", &input, 1, &output, &options), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ModuleNotFoundError");
    ASSERT(!pycrew_last_error()->may_have_run);
    ASSERT_INT(first, 3);
    ASSERT_INT(failed[3], PYCREW_ERAISED);
    ASSERT_INT(failed[5], PYCREW_EDIED);
    ASSERT_INT(to[4], 4);
    pycrew_close(crew);
}

/* ---- deaths ---------------------------------------------------------------------------------- */

static pycrew_array scalar_of(const int64_t *number)
{
    pycrew_array array;

    OK(pycrew_array_init(&array, number, PYCREW_I64, 0, NULL, 0));
    return array;
}

TEST(a_dead_worker_costs_one_element)
{
    enum { COUNT = 50000 };
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, COUNT, 0), *to = memory_of(crew, COUNT * sizeof *to);
    int64_t at = 31234, minus = -1;
    int *failed = malloc(COUNT * sizeof *failed);
    pycrew_map_options options = fill_options(&minus, failed);
    pycrew_array inputs[] = {array_of(a, PYCREW_I64, COUNT), scalar_of(&at)};
    pycrew_array output = array_of(to, PYCREW_I64, COUNT);
    uint64_t first = 0;

    options.first_failed = &first;
    ASSERT_INT(map(crew, "map_ops:dies_at", inputs, 2, &output, &options), 1);
    ASSERT_INT(pycrew_last_error()->code, PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->signal, SIGKILL);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(pycrew_last_error()->attempts, 1);
    expect_doubled(to, COUNT, at, -1);
    ASSERT_INT(failed[at], PYCREW_EDIED);
    ASSERT_INT(first, at);
    options = (pycrew_map_options)PYCREW_MAP_OPTIONS_INIT;
    options.retries = 2;
    GIVES(map(crew, "map_ops:dies_at", inputs, 2, &output, &options), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->attempts, 3);
    free(failed);
    pycrew_close(crew);
}

TEST(an_element_that_died_is_tried_again_where_the_caller_says_so)
{
    pycrew_crew *crew = open_map_crew(1);
    int64_t *a = numbers(crew, 1000, 0), to[1000];
    pycrew_array input = array_of(a, PYCREW_I64, 1000), output = array_of(to, PYCREW_I64, 1000);
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;

    options.retries = 1;
    OK(map(crew, "map_ops:dies_once", &input, 1, &output, &options));
    ASSERT_INT(file_size(scratch("mark")), 0);
    expect_doubled(to, 1000, -1, 0);
    pycrew_close(crew);
}

struct progress_kills {
    int kills;
    pycrew_progress last;
};

static int kill_all_workers(void *data, const pycrew_progress *progress)
{
    struct progress_kills *state = data;
    int pids[8], count = find_workers(pids, 8);

    state->last = *progress;
    if (progress->done == progress->added)
        return 0;
    for (int i = 0; i < count && i < 8; i++)
        kill(pids[i], SIGKILL);
    state->kills += count;
    return 0;
}

TEST(workers_that_are_killed_again_and_again_lose_no_element)
{
    enum { COUNT = 1000 };
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, COUNT, 0), *to = memory_of(crew, COUNT * sizeof *to);
    pycrew_array input = array_of(a, PYCREW_I64, COUNT), output = array_of(to, PYCREW_I64, COUNT);
    struct progress_kills state = {0};
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;

    memset(to, 0xff, COUNT * sizeof *to);
    options.retries = 100;
    options.progress = kill_all_workers;
    options.progress_data = &state;
    OK(map(crew, "map_ops:slow", &input, 1, &output, &options));
    for (int64_t i = 0; i < COUNT; i++)
        ASSERT_INT(to[i], i);
    ASSERT(state.kills > 0);
    ASSERT_INT(state.last.added, COUNT);
    ASSERT_INT(state.last.done, COUNT);
    ASSERT_INT(state.last.failed, 0);
    ASSERT_INT(state.last.retried, state.last.deaths);
    pycrew_close(crew);
}

struct killing {
    atomic_bool stop;
    atomic_int kills;
};

/* One of the workers at a time, at any moment of its work. */
static void *kill_often(void *data)
{
    struct killing *killing = data;
    int pids[8];

    while (!atomic_load(&killing->stop)) {
        int count = find_workers(pids, 8);

        if (count > 0 && kill(pids[killing->kills % count], SIGKILL) == 0)
            killing->kills++;
        pause_ns((killing->kills * 7919) % 10 * MS);
    }
    return NULL;
}

TEST(each_kill_costs_at_most_one_element_and_what_failed_is_told)
{
    enum { COUNT = 200000, ROUNDS = 6 };
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, COUNT, 0), *to = memory_of(crew, COUNT * sizeof *to), minus = -1;
    int *failed = malloc(COUNT * sizeof *failed);
    pycrew_map_options options = fill_options(&minus, failed);
    pycrew_array input = array_of(a, PYCREW_I64, COUNT), output = array_of(to, PYCREW_I64, COUNT);
    struct killing killing = {.kills = 0};
    pthread_t thread;
    int lost = 0;

    options.retries = 0;
    ASSERT_INT(pthread_create(&thread, NULL, kill_often, &killing), 0);
    for (int round = 0; round < ROUNDS || killing.kills == 0; round++) {
        int told = 0, count;

        memset(to, 0xee, COUNT * sizeof *to);
        count = map(crew, "map_ops:doubled", &input, 1, &output, &options);
        ASSERT(count >= 0);
        for (int64_t i = 0; i < COUNT; i++) {
            told += failed[i] != 0;
            ASSERT_INT(to[i], failed[i] == 0 ? 2 * i : -1);
            if (failed[i] != 0)
                ASSERT_INT(failed[i], PYCREW_EDIED);
        }
        ASSERT_INT(told, count);
        lost += count;
    }
    atomic_store(&killing.stop, true);
    pthread_join(thread, NULL);
    DIAG("%d kills, %d elements lost", killing.kills, lost);
    ASSERT(killing.kills > 0);
    ASSERT(lost <= killing.kills);
    free(failed);
    pycrew_close(crew);
}

TEST(a_child_that_comes_out_of_the_function_changes_nothing)
{
    pycrew_crew *crew = open_map_crew(1);
    int64_t *a = numbers(crew, 100, 0), *to = memory_of(crew, 100 * sizeof *to);
    pycrew_array input = array_of(a, PYCREW_I64, 100), output = array_of(to, PYCREW_I64, 100);

    OK(map(crew, "map_ops:forks", &input, 1, &output, NULL));
    ASSERT_MEM(to, a, 100 * sizeof *to);
    pycrew_close(crew);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void check_deadline(const char *function, unsigned workers)
{
    enum { COUNT = 2000 };
    pycrew_crew *crew = open_map_crew(workers);
    int64_t *a = numbers(crew, COUNT, 0), *to = memory_of(crew, COUNT * sizeof *to);
    int64_t at = 77, minus = -1;
    int failed[COUNT];
    pycrew_map_options options = fill_options(&minus, failed);
    pycrew_array inputs[] = {array_of(a, PYCREW_I64, COUNT), scalar_of(&at)};
    pycrew_array output = array_of(to, PYCREW_I64, COUNT);

    options.timeout_ns = 300 * MS;
    ASSERT_INT(map(crew, function, inputs, 2, &output, &options), 1);
    ASSERT_INT(pycrew_last_error()->code, -ETIMEDOUT);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(failed[77], -ETIMEDOUT);
    expect_doubled(to, COUNT, at, -1);
    options.on_error = PYCREW_MAP_STOP;
    GIVES(map(crew, function, inputs, 2, &output, &options), -ETIMEDOUT);
    pycrew_close(crew);
}

TEST(an_element_past_its_deadline_is_interrupted_alone)
{
    check_deadline("map_ops:sleeps_at", 2);
}

TEST(an_element_that_does_not_listen_is_killed_alone)
{
    check_deadline("map_ops:stubborn_at", 1);
}

static int end_it(void *data, const pycrew_progress *progress)
{
    *(pycrew_progress *)data = *progress;
    return 1;
}

static void check_ended(const char *function, int64_t count)
{
    pycrew_crew *crew = open_map_crew(2);
    int64_t *a = numbers(crew, count, 0), *to = memory_of(crew, (size_t)count * sizeof *to);
    int64_t at = 100;
    pycrew_array inputs[] = {array_of(a, PYCREW_I64, count), scalar_of(&at)};
    pycrew_array output = array_of(to, PYCREW_I64, count);
    pycrew_progress progress = {0};
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    int64_t begin = now_ns();

    options.progress = end_it;
    options.progress_data = &progress;
    GIVES(map(crew, function, inputs, 2, &output, &options), -ECANCELED);
    CONTAINS(pycrew_last_error()->message, "the progress function ended the map");
    ASSERT(now_ns() - begin < BOUND);
    ASSERT(progress.done < progress.added);
    ASSERT_INT(progress.added, count);
    OK(map(crew, "map_ops:first", inputs, 2, &output, NULL));
    pycrew_close(crew);
}

TEST(the_progress_function_ends_the_map)
{
    check_ended("map_ops:slow_first", 100000);
}

TEST(the_progress_function_ends_an_element_that_sleeps_or_does_not_listen)
{
    check_ended("map_ops:sleeps_at", 3000);
    check_ended("map_ops:stubborn_at", 3000);
}

struct closing {
    pycrew_crew *crew;
    atomic_bool begun;
};

static int note_begun(void *data, const pycrew_progress *progress)
{
    (void)progress;
    atomic_store(&((struct closing *)data)->begun, true);
    return 0;
}

static void *close_it(void *data)
{
    struct closing *closing = data;

    AWAIT(atomic_load(&closing->begun));
    pycrew_close(closing->crew);
    return NULL;
}

TEST(a_crew_that_closes_ends_the_map)
{
    struct closing closing = {.crew = open_map_crew(2)};
    int64_t *a = numbers(closing.crew, 3000, 0), to[3000], at = 100;
    pycrew_array inputs[] = {array_of(a, PYCREW_I64, 3000), scalar_of(&at)};
    pycrew_array output = array_of(to, PYCREW_I64, 3000);
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    pthread_t thread;

    options.progress = note_begun;
    options.progress_data = &closing;
    ASSERT_INT(pthread_create(&thread, NULL, close_it, &closing), 0);
    GIVES(map(closing.crew, "map_ops:sleeps_at", inputs, 2, &output, &options), -ECANCELED);
    pthread_join(thread, NULL);
}

static int free_input(void *data, const pycrew_progress *progress)
{
    void **memory = data;

    (void)progress;
    pycrew_free(memory[0], memory[1]);
    memory[1] = NULL;
    return 0;
}

TEST(an_input_that_is_freed_meanwhile_stays_until_the_end)
{
    enum { COUNT = 200 };
    pycrew_crew *crew = open_map_crew(1);
    int64_t *a = numbers(crew, COUNT, 0), to[COUNT];
    pycrew_array input = array_of(a, PYCREW_I64, COUNT), output = array_of(to, PYCREW_I64, COUNT);
    void *memory[] = {crew, a};
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;

    options.progress = free_input;
    options.progress_data = memory;
    OK(map(crew, "map_ops:slow", &input, 1, &output, &options));
    for (int64_t i = 0; i < COUNT; i++)
        ASSERT_INT(to[i], i);
    GIVES(map(crew, "map_ops:slow", &input, 1, &output, NULL), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "inputs[0]: its data is in the crew's shared memory");
    pycrew_close(crew);
}

/* ---- bad input ------------------------------------------------------------------------------- */

#define REFUSED(call, text)                                                                        \
    do {                                                                                           \
        GIVES(call, -EINVAL);                                                                      \
        CONTAINS(pycrew_last_error()->message, text);                                              \
    } while (0)

TEST(what_is_no_map_is_refused_and_nothing_runs)
{
    pycrew_crew *crew = open_map_crew(1);
    int64_t a[20] = {0}, to[20] = {0}, shape[] = {2, 5}, count = 10;
    pycrew_array input = array_of(a, PYCREW_I64, 10), output = array_of(to, PYCREW_I64, 10), wrong;
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    const char *counts = "map_ops:counts";

    GIVES(pycrew_map(NULL, function_of(crew, counts), &input, 1, &output, NULL), -EINVAL);
    GIVES(pycrew_map(crew, NULL, &input, 1, &output, NULL), -EINVAL);
    REFUSED(map(crew, counts, NULL, 1, &output, NULL), "must not be NULL");
    REFUSED(map(crew, counts, &input, 1, NULL, NULL), "must not be NULL");
    REFUSED(map(crew, counts, &input, 33, &output, NULL), "33 inputs; at most 32");
    wrong = (pycrew_array){0};
    REFUSED(map(crew, counts, &wrong, 1, &output, NULL), "inputs[0]: its size is not set");
    REFUSED(map(crew, counts, &input, 1, &wrong, NULL), "the output: its size is not set");
    wrong = array_of(a, PYCREW_I64, 9);
    REFUSED(map(crew, counts, &wrong, 1, &output, NULL),
            "inputs[0] has the shape (9,), and the output (10,)");
    OK(pycrew_array_init(&wrong, a, PYCREW_I64, 2, shape, 0));
    REFUSED(map(crew, counts, &wrong, 1, &output, NULL), "the shape (2, 5), and the output (10,)");
    wrong = array_of(NULL, PYCREW_I64, 10);
    REFUSED(map(crew, counts, &wrong, 1, &output, NULL), "inputs[0]: its data is NULL");
    REFUSED(map(crew, counts, &input, 1, &wrong, NULL), "the output: its data is NULL");
    wrong = array_of(a, PYCREW_OTHER, 10);
    wrong.format = "<M8[ns]";
    wrong.itemsize = 8;
    REFUSED(map(crew, counts, &wrong, 1, &output, NULL), "its dtype is PYCREW_OTHER (\"<M8[ns]\")");
    REFUSED(map(crew, counts, &input, 1, &wrong, NULL), "the output: its dtype is PYCREW_OTHER");
    wrong = array_of(to + 1, PYCREW_I64, 10);
    REFUSED(map(crew, counts, &wrong, 1, &output, NULL), "only the same elements may be both");
    wrong = array_of(to, PYCREW_U64, 10);
    REFUSED(map(crew, counts, &wrong, 1, &output, NULL), "only the same elements may be both");
    OK(pycrew_array_init(&wrong, to, PYCREW_I64, 1, &count, PYCREW_STRIDED));
    REFUSED(map(crew, counts, &input, 1, &wrong, NULL), "a stride of 0");
    options.size = 3;
    REFUSED(map(crew, counts, &input, 1, &output, &options), "PYCREW_MAP_OPTIONS_INIT");
    options = (pycrew_map_options)PYCREW_MAP_OPTIONS_INIT;
    options.flags = 8;
    REFUSED(map(crew, counts, &input, 1, &output, &options), "flags 0x8");
    options.flags = PYCREW_MAP_OUT;
    REFUSED(map(crew, counts, &input, 1, &output, &options), "PYCREW_MAP_OUT is for");
    options.flags = 0;
    options.on_error = 7;
    REFUSED(map(crew, counts, &input, 1, &output, &options), "on_error is 7");
    options.on_error = 0;
    options.chunk = UINT_MAX;
    REFUSED(map(crew, counts, &input, 1, &output, &options), "options.chunk");
    options.chunk = 0;
    options.flags = PYCREW_MAP_WHOLE;
    REFUSED(map(crew, counts, &output, 1, &output, &options), "inputs[0] overlaps the output");
    wrong = array_of(a, PYCREW_I64, 9);
    REFUSED(map(crew, counts, &wrong, 1, &output, &options), "first dimensions");
    wrong = scalar_of(a);
    REFUSED(map(crew, counts, &input, 1, &wrong, &options), "no dimension");
    ASSERT_INT(file_size(scratch("mark")), -1);
    pycrew_close(crew);
}

TEST(memory_of_another_crew_is_refused)
{
    pycrew_crew *crew = open_map_crew(1), *other = open_map_crew(1);
    int64_t *a = numbers(other, 10, 0), to[10];
    pycrew_array input = array_of(a, PYCREW_I64, 10), output = array_of(to, PYCREW_I64, 10);

    REFUSED(map(crew, "map_ops:same", &input, 1, &output, NULL),
            "inputs[0]: its data is in the shared memory of another crew");
    REFUSED(map(crew, "map_ops:same", &output, 1, &input, NULL), "the output: its data");
    pycrew_close(other);
    pycrew_close(crew);
}

/* ---- by slices ------------------------------------------------------------------------------- */

static double *doubles(pycrew_crew *crew, int64_t count)
{
    double *memory = memory_of(crew, (size_t)count * sizeof *memory);

    for (int64_t i = 0; i < count; i++)
        memory[i] = (double)i;
    return memory;
}

TEST(slices_that_are_returned_come_to_their_place)
{
    enum { COUNT = 300000 };
    pycrew_crew *crew = open_numpy_crew(2);
    double *a = doubles(crew, COUNT), *to = memory_of(crew, COUNT * sizeof *to);
    double *elsewhere = malloc(COUNT * sizeof *elsewhere);
    pycrew_array inputs[] = {array_of(a, PYCREW_F64, COUNT), array_of(a, PYCREW_F64, COUNT)};
    pycrew_array output = array_of(to, PYCREW_F64, COUNT);
    pycrew_map_options options = whole_options(0);

    OK(map(crew, "map_ops:whole_add", inputs, 2, &output, &options));
    for (int64_t i = 0; i < COUNT; i++)
        ASSERT(to[i] == 2 * (double)i);
    memcpy(elsewhere, a, COUNT * sizeof *elsewhere);
    inputs[0] = array_of(elsewhere, PYCREW_F64, COUNT);
    inputs[1] = array_of(to, PYCREW_F64, COUNT);
    output = array_of(elsewhere, PYCREW_F64, COUNT);
    inputs[0] = array_of(a, PYCREW_F64, COUNT);
    OK(map(crew, "map_ops:whole_add", inputs, 2, &output, &options));
    for (int64_t i = 0; i < COUNT; i++)
        ASSERT(elsewhere[i] == 3 * (double)i);
    free(elsewhere);
    pycrew_close(crew);
}

TEST(slices_that_are_given_are_filled_where_they_are)
{
    enum { COUNT = 300000 };
    pycrew_crew *crew = open_numpy_crew(2);
    double *a = doubles(crew, COUNT), *to = memory_of(crew, COUNT * sizeof *to);
    pycrew_array inputs[] = {array_of(a, PYCREW_F64, COUNT), array_of(a, PYCREW_F64, COUNT)};
    pycrew_array output = array_of(to, PYCREW_F64, COUNT);
    pycrew_map_options options = whole_options(PYCREW_MAP_OUT);

    OK(map(crew, "map_ops:whole_out", inputs, 1, &output, &options));
    for (int64_t i = 0; i < COUNT; i++)
        ASSERT(to[i] == 2 * (double)i);
    OK(map(crew, "numpy:multiply", inputs, 2, &output, &options));
    for (int64_t i = 0; i < COUNT; i++)
        ASSERT(to[i] == (double)i * (double)i);
    OK(map(crew, "map_ops:whole_increment", NULL, 0, &output, &options));
    for (int64_t i = 0; i < COUNT; i++)
        ASSERT(to[i] == (double)i * (double)i + 1);
    pycrew_close(crew);
}

TEST(slices_have_all_types_and_all_other_dimensions)
{
    pycrew_crew *crew = open_numpy_crew(2);
    int64_t days[400], years[400], shape[] = {400, 5}, sums[400];
    int32_t *rows = memory_of(crew, 2000 * sizeof *rows);
    pycrew_array input = array_of(days, PYCREW_OTHER, 400), output;
    pycrew_map_options options = whole_options(0);

    for (int i = 0; i < 400; i++)
        days[i] = 366 * i;
    input.format = "<M8[D]";
    input.itemsize = 8;
    output = array_of(years, PYCREW_I64, 400);
    options.chunk = 37;
    OK(map(crew, "map_ops:whole_year", &input, 1, &output, &options));
    ASSERT_INT(years[0], 1970);
    ASSERT_INT(years[100], 2070);
    for (int i = 0; i < 2000; i++)
        rows[i] = i;
    OK(pycrew_array_init(&input, rows, PYCREW_I32, 2, shape, 0));
    output = array_of(sums, PYCREW_I64, 400);
    OK(map(crew, "map_ops:whole_describe", &input, 1, &output, &options));
    for (int64_t i = 0; i < 400; i++)
        ASSERT_INT(sums[i], 25 * i + 10);
    OK(pycrew_array_init(&input, rows, PYCREW_I32, 2, shape, PYCREW_FORTRAN));
    OK(map(crew, "map_ops:whole_describe", &input, 1, &output, &options));
    for (int64_t i = 0; i < 400; i++)
        ASSERT_INT(sums[i], 5 * i + 4000);
    OK(map(crew, "map_ops:whole_length", &input, 1, &output, &options));
    ASSERT_INT(sums[0], 37);
    pycrew_close(crew);
}

TEST(what_a_slice_returns_is_to_fit_its_place)
{
    pycrew_crew *crew = open_numpy_crew(1);
    double *a = doubles(crew, 100), to[100];
    pycrew_array input = array_of(a, PYCREW_F64, 100), output = array_of(to, PYCREW_F64, 100);
    pycrew_map_options options = whole_options(0);

    GIVES(map(crew, "map_ops:whole_wrong_shape", &input, 1, &output, &options), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "for an output slice of shape");
    GIVES(map(crew, "map_ops:whole_scalar", &input, 1, &output, &options), PYCREW_ETYPE);
    GIVES(map(crew, "map_ops:whole_complex", &input, 1, &output, &options), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "same_kind");
    GIVES(map(crew, "map_ops:whole_raises", &input, 1, &output, &options), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->message, "no slice is good");
    OK(map(crew, "map_ops:whole_list", &input, 1, &output, &options));
    ASSERT_MEM(to, a, sizeof to);
    pycrew_close(crew);
}

TEST(a_dead_worker_costs_one_slice)
{
    enum { COUNT = 1000, ROWS = 100 };
    pycrew_crew *crew = open_numpy_crew(2);
    double *a = doubles(crew, COUNT), *to = memory_of(crew, COUNT * sizeof *to), minus = -1;
    int64_t at = 455;
    int failed[COUNT];
    pycrew_map_options options = fill_options(&minus, failed);
    pycrew_array inputs[] = {array_of(a, PYCREW_F64, COUNT), scalar_of(&at)};
    pycrew_array output = array_of(to, PYCREW_F64, COUNT);
    uint64_t first = 0;

    options.flags = PYCREW_MAP_WHOLE;
    options.chunk = ROWS;
    options.first_failed = &first;
    ASSERT_INT(map(crew, "map_ops:whole_dies_at", inputs, 2, &output, &options), ROWS);
    ASSERT_INT(pycrew_last_error()->code, PYCREW_EDIED);
    ASSERT_INT(first, 400);
    for (int i = 0; i < COUNT; i++) {
        ASSERT(to[i] == (i / ROWS == 4 ? -1 : 2 * (double)i));
        ASSERT_INT(failed[i], i / ROWS == 4 ? PYCREW_EDIED : 0);
    }
    options.timeout_ns = 300 * MS;
    ASSERT_INT(map(crew, "map_ops:whole_sleeps_at", inputs, 2, &output, &options), ROWS);
    ASSERT_INT(pycrew_last_error()->code, -ETIMEDOUT);
    for (int i = 0; i < COUNT; i++)
        ASSERT_INT(failed[i], i / ROWS == 4 ? -ETIMEDOUT : 0);
    pycrew_close(crew);
}

TEST(a_slice_that_may_be_half_written_is_tried_again_only_if_the_caller_says_so)
{
    pycrew_options crew_options = test_options(1);
    const char *env[] = {NULL, NULL};
    char mark[160];
    pycrew_crew *crew;
    double *a, *to;
    pycrew_array input, output;
    pycrew_map_options options = whole_options(PYCREW_MAP_OUT);

    if (!has_numpy())
        SKIP("numpy is not installed");
    snprintf(mark, sizeof mark, "MAP_MARK=%s", scratch("mark"));
    env[0] = mark;
    crew_options.env = env;
    crew_options.retries = 3;
    crew = open_with(&crew_options);
    a = doubles(crew, 10);
    to = memory_of(crew, 10 * sizeof *to);
    memset(to, 0, 10 * sizeof *to);
    input = array_of(a, PYCREW_F64, 10);
    output = array_of(to, PYCREW_F64, 10);
    options.chunk = 10;
    GIVES(map(crew, "map_ops:whole_dies_once", &input, 1, &output, &options), PYCREW_EDIED);
    ASSERT_INT(unlink(scratch("mark")), 0);
    options.retries = 1;
    OK(map(crew, "map_ops:whole_dies_once", &input, 1, &output, &options));
    ASSERT(to[5] == 15); /* once for each try that got so far */
    pycrew_close(crew);
}

TEST(slices_that_python_keeps_stay_what_they_are)
{
    enum { COUNT = 10000 };
    pycrew_crew *crew = open_numpy_crew(1);
    double *a = doubles(crew, COUNT), *to = memory_of(crew, COUNT * sizeof *to), sum = 0;
    double *elsewhere = malloc(COUNT * sizeof *elsewhere);
    pycrew_array input = array_of(elsewhere, PYCREW_F64, COUNT);
    pycrew_array output = array_of(to, PYCREW_F64, COUNT);
    pycrew_map_options options = whole_options(0);

    memcpy(elsewhere, a, COUNT * sizeof *elsewhere);
    options.chunk = 1000;
    OK(map(crew, "map_ops:whole_keeps", &input, 1, &output, &options));
    input = array_of(a, PYCREW_F64, COUNT);
    OK(map(crew, "map_ops:whole_keeps", &input, 1, &output, &options));
    pycrew_free(crew, a);
    for (int i = 0; i < 20; i++) { /* what is freed too early is written over */
        double *again = memory_of(crew, COUNT * sizeof *again);

        memset(again, 0, COUNT * sizeof *again);
        pycrew_free(crew, again);
    }
    OK(pycrew_run(crew, "map_ops:whole_kept", ">d", &sum));
    ASSERT(sum == (double)COUNT * (COUNT - 1));
    free(elsewhere);
    pycrew_close(crew);
}

TEST(without_numpy_slices_are_memoryviews)
{
    static const char *const preload[] = {"no_numpy", "map_ops", NULL};
    pycrew_options crew_options = test_options(2);
    pycrew_map_options options = whole_options(0);
    int64_t a[1000], to[1000];
    pycrew_array input = array_of(a, PYCREW_I64, 1000), output = array_of(to, PYCREW_I64, 1000);
    pycrew_crew *crew;

    for (int64_t i = 0; i < 1000; i++)
        a[i] = 3 * i;
    memset(to, 0, sizeof to);
    crew_options.preload = preload;
    crew = open_with(&crew_options);
    options.chunk = 300;
    OK(map(crew, "map_ops:memory_slice", &input, 1, &output, &options));
    ASSERT_MEM(to, a, sizeof to);
    output = array_of(to, PYCREW_F64, 1000);
    GIVES(map(crew, "map_ops:memory_slice", &input, 1, &output, &options), PYCREW_ETYPE);
    options.flags |= PYCREW_MAP_OUT;
    output = array_of(to, PYCREW_I64, 1000);
    OK(map(crew, "map_ops:memory_out", &input, 1, &output, &options));
    ASSERT_INT(to[999], 3 * 999);
    pycrew_close(crew);
}

enum { THREADS = 4 };

static void *map_in_thread(void *data)
{
    pycrew_crew *crew = data;
    int64_t a[3000] = {0}, to[3000];
    pycrew_array input = array_of(a, PYCREW_I64, 3000), output = array_of(to, PYCREW_I64, 3000);

    for (int64_t i = 0; i < 3000; i++)
        a[i] = i;
    for (int i = 0; i < 5; i++)
        OK(map(crew, "map_ops:doubled", &input, 1, &output, NULL));
    expect_doubled(to, 3000, -1, 0);
    return NULL;
}

/* Of three calls each map has one at first: they wait for one another's. */
TEST(maps_of_several_threads_share_few_calls)
{
    pycrew_options options = test_options(2);
    pthread_t threads[THREADS];
    pycrew_crew *crew;

    options.calls = 3;
    crew = open_with(&options);
    for (int i = 0; i < THREADS; i++)
        ASSERT_INT(pthread_create(&threads[i], NULL, map_in_thread, crew), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pycrew_close(crew);
}

TEST(options_of_a_newer_size_are_refused_where_the_new_is_used)
{
    struct {
        pycrew_map_options options;
        char more[8];
    } newer = {.options = PYCREW_MAP_OPTIONS_INIT};
    pycrew_crew *crew = open_map_crew(1);
    int64_t from[4] = {1, 2, 3, 4}, to[4] = {0};
    pycrew_array input = array_of(from, PYCREW_I64, 4), output = array_of(to, PYCREW_I64, 4);

    newer.options.size = sizeof newer;
    OK(map(crew, "map_ops:same", &input, 1, &output, &newer.options));
    newer.more[3] = 1;
    GIVES(map(crew, "map_ops:same", &input, 1, &output, &newer.options), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "options");
    pycrew_close(crew);
}

TAP_MAIN
