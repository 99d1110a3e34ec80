/* Arrays in and out, through pycrew.h: where they are, who may write them, how long they stay, and
 * what is left of them when a worker dies. */
#include "tests/harness/arrays.h"

#include <math.h>

#include "lib/dlpack.h"

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

static pycrew_crew *open_array_crew(unsigned workers)
{
    static const char *const preload[] = {"array_ops", NULL}; /* numpy, once */
    pycrew_options options = test_options(workers);

    if (!has_numpy())
        SKIP("numpy is not installed");
    options.preload = preload;
    options.memory = 256 * MIB;
    return open_with(&options);
}

static pycrew_array array_of(const void *data, pycrew_dtype dtype, int64_t count, unsigned flags)
{
    pycrew_array array;

    OK(pycrew_array_init(&array, data, dtype, 1, &count, flags));
    return array;
}

static char *describe(pycrew_crew *crew, const pycrew_array *array)
{
    char *text = NULL;

    OK(pycrew_run(crew, "array_ops:describe", "A>s", array, &text));
    return text;
}

static void expect_description(pycrew_crew *crew, const pycrew_array *array, const char *expected)
{
    char *text = describe(crew, array);

    ASSERT_STR(text, expected);
    free(text);
}

static void call_none(pycrew_crew *crew, const char *name)
{
    OK(pycrew_run(crew, name, ""));
}

static double call_number(pycrew_crew *crew, const char *name)
{
    double number = NAN;

    OK(pycrew_run(crew, name, ">d", &number));
    return number;
}

static int worker_pid(pycrew_crew *crew)
{
    int pid = 0;

    OK(pycrew_run(crew, "array_ops:pid", ">i", &pid));
    return pid;
}

static void kill_worker(pycrew_crew *crew)
{
    pycrew_call *call = SUBMIT(crew, "array_ops:die", "");

    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    pycrew_release(call);
}

/* ---- in ---------------------------------------------------------------------------------------
 */

TEST(an_array_in_memory_of_the_crew_arrives_uncopied)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 100000, 1);
    pycrew_array array = array_of(memory + 10, PYCREW_F64, 1000, 0);
    long long where = 0;

    OK(pycrew_run(crew, "array_ops:where", "sA>L", "", &array, &where));
    ASSERT_INT(where, place_of(memory + 10));
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

TEST(an_array_from_elsewhere_is_copied_before_add_returns)
{
    pycrew_crew *crew = open_array_crew(1);
    double data[3] = {1, 2, 3}, sum = 0;
    pycrew_array array = array_of(data, PYCREW_F64, 3, 0);
    pycrew_call *call = prepare(crew, "array_ops:total");

    OK(pycrew_add_array(call, &array));
    memset(data, 0xff, sizeof data);
    memset(&array, 0xff, sizeof array);
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_f64(call, &sum));
    ASSERT(sum == 6);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(each_dtype_of_c_arrives_as_numpys)
{
    pycrew_crew *crew = open_array_crew(1);
    static const struct {
        pycrew_dtype dtype;
        const char *text;
    } dtypes[] = {{PYCREW_BOOL, "|b1 (2,) (1,) w=False [True, False]"},
                  {PYCREW_I8, "|i1 (2,) (1,) w=False [1, 0]"},
                  {PYCREW_I16, "<i2 (2,) (2,) w=False [1, 0]"},
                  {PYCREW_I32, "<i4 (2,) (4,) w=False [1, 0]"},
                  {PYCREW_I64, "<i8 (2,) (8,) w=False [1, 0]"},
                  {PYCREW_U8, "|u1 (2,) (1,) w=False [1, 0]"},
                  {PYCREW_U16, "<u2 (2,) (2,) w=False [1, 0]"},
                  {PYCREW_U32, "<u4 (2,) (4,) w=False [1, 0]"},
                  {PYCREW_U64, "<u8 (2,) (8,) w=False [1, 0]"},
                  {PYCREW_F16, "<f2 (2,) (2,) w=False [5.960464477539063e-08, 0.0]"},
                  {PYCREW_F32, "<f4 (2,) (4,) w=False [1.401298464324817e-45, 0.0]"},
                  {PYCREW_F64, "<f8 (2,) (8,) w=False [5e-324, 0.0]"},
                  {PYCREW_C64, "<c8 (2,) (8,) w=False [(1.401298464324817e-45+0j), 0j]"},
                  {PYCREW_C128, "<c16 (2,) (16,) w=False [(5e-324+0j), 0j]"}};
    uint8_t data[32] = {1};

    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        pycrew_array array = array_of(data, dtypes[i].dtype, 2, 0);

        expect_description(crew, &array, dtypes[i].text);
    }
    pycrew_close(crew);
}

TEST(shapes_and_strides_of_all_kinds_arrive)
{
    pycrew_crew *crew = open_array_crew(1);
    int32_t data[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    int32_t *shared = pycrew_alloc(crew, sizeof data);
    pycrew_array array;

    memcpy(shared, data, sizeof data);
    for (int copied = 0; copied < 2; copied++) {
        int32_t *from = copied ? data : shared;

        OK(pycrew_array_init(&array, from, PYCREW_I32, 2, (int64_t[]){3, 4}, 0));
        expect_description(crew, &array,
                           "<i4 (3, 4) (16, 4) w=False [[0, 1, 2, 3], [4, 5, 6, 7], "
                           "[8, 9, 10, 11]]");
        OK(pycrew_array_init(&array, from, PYCREW_I32, 2, (int64_t[]){3, 4}, PYCREW_FORTRAN));
        expect_description(crew, &array,
                           "<i4 (3, 4) (4, 12) w=False [[0, 3, 6, 9], [1, 4, 7, 10], "
                           "[2, 5, 8, 11]]");
        OK(pycrew_array_init(&array, from + 11, PYCREW_I32, 1, (int64_t[]){4}, PYCREW_STRIDED));
        array.strides[0] = -12;
        expect_description(crew, &array,
                           copied ? "<i4 (4,) (4,) w=False [11, 8, 5, 2]"
                                  : "<i4 (4,) (-12,) w=False [11, 8, 5, 2]");
        OK(pycrew_array_init(&array, from + 1, PYCREW_I32, 2, (int64_t[]){2, 3}, PYCREW_STRIDED));
        array.strides[0] = 0;
        array.strides[1] = 8;
        expect_description(crew, &array,
                           copied ? "<i4 (2, 3) (12, 4) w=False [[1, 3, 5], [1, 3, 5]]"
                                  : "<i4 (2, 3) (0, 8) w=False [[1, 3, 5], [1, 3, 5]]");
        OK(pycrew_array_init(&array, from + 5, PYCREW_I32, 0, NULL, 0));
        expect_description(crew, &array, "<i4 () () w=False 5");
        OK(pycrew_array_init(&array, copied ? NULL : from, PYCREW_I32, 3, (int64_t[]){2, 0, 3}, 0));
        char *text = describe(crew, &array);
        CONTAINS(text, "<i4 (2, 0, 3)");
        free(text);
    }
    pycrew_close(crew);
}

TEST(thirty_two_dimensions_arrive)
{
    pycrew_crew *crew = open_array_crew(1);
    int64_t shape[32];
    double data[4] = {1, 2, 3, 4};
    pycrew_array array, back = PYCREW_ARRAY_INIT;

    for (int i = 0; i < 32; i++)
        shape[i] = i == 3 || i == 20 ? 2 : 1;
    OK(pycrew_array_init(&array, data, PYCREW_F64, 32, shape, 0));
    OK(pycrew_run(crew, "array_ops:same", "A>A", &array, &back));
    ASSERT_INT(back.ndim, 32);
    ASSERT_MEM(back.shape, shape, sizeof shape);
    ASSERT_MEM(back.data, data, sizeof data);
    pycrew_array_drop(crew, &back);
    GIVES(pycrew_array_init(&array, data, PYCREW_F64, 33, shape, 0), -EINVAL);
    pycrew_close(crew);
}

TEST(an_array_is_read_only_unless_it_is_said_to_be_writable)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 8, 1);
    pycrew_array array = array_of(memory, PYCREW_F64, 8, 0);
    char *text;

    OK(pycrew_run(crew, "array_ops:try_to_write", "A>s", &array, &text));
    ASSERT_STR(text, "ValueError: assignment destination is read-only");
    free(text);
    OK(pycrew_run(crew, "array_ops:try_to_unlock", "A>s", &array, &text));
    CONTAINS(text, "cannot set WRITEABLE flag to True");
    free(text);
    ASSERT(memory[0] == 1);
    array.flags = PYCREW_WRITABLE;
    OK(pycrew_run(crew, "array_ops:add_one", "A", &array));
    ASSERT(memory[0] == 2 && memory[7] == 2);
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

TEST(copy_back_writes_into_memory_from_elsewhere)
{
    pycrew_crew *crew = open_array_crew(1);
    double data[12];
    pycrew_array array;

    for (int i = 0; i < 12; i++)
        data[i] = i;
    OK(pycrew_array_init(&array, data + 10, PYCREW_F64, 2, (int64_t[]){2, 3},
                         PYCREW_STRIDED | PYCREW_WRITABLE | PYCREW_COPY_BACK));
    array.strides[0] = -48;
    array.strides[1] = -16;
    OK(pycrew_run(crew, "array_ops:add_one", "A", &array));
    for (int i = 0; i < 12; i++)
        ASSERT(data[i] == i + (i % 2 == 0 && i <= 10 ? 1 : 0));

    /* Not where the function raised: then nobody knows what is in it. */
    array = array_of(data, PYCREW_F64, 3, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    GIVES(pycrew_run(crew, "array_ops:raise_with", "A", &array), PYCREW_ERAISED);
    ASSERT(data[0] == 1);
    pycrew_close(crew);
}

TEST(what_a_call_has_written_when_it_dies_is_not_copied_back)
{
    pycrew_crew *crew = open_array_crew(1);
    double data[64] = {0};
    pycrew_array array = array_of(data, PYCREW_F64, 64, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    pycrew_call *call = SUBMIT(crew, "array_ops:write_and_die", "A", &array);

    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    ASSERT(data[0] == 0 && data[63] == 0);
    pycrew_release(call);
    ASSERT(data[0] == 0 && data[63] == 0);
    pycrew_close(crew);
}

TEST(arrays_travel_by_keyword_and_inside_of_lists_and_tuples)
{
    pycrew_crew *crew = open_array_crew(1);
    double one = 1, two = 2, result = 0;
    pycrew_array a = array_of(&one, PYCREW_F64, 1, 0), b = array_of(&two, PYCREW_F64, 1, 0);

    OK(pycrew_run(crew, "array_ops:by_name", "b=A a=A > d", &b, &a, &result));
    ASSERT(result == -1);
    OK(pycrew_run(crew, "array_ops:items", "(AA)>d", &a, &b, &result));
    ASSERT(result == 3);
    OK(pycrew_run(crew, "array_ops:both", "AA>d", &a, &b, &result));
    ASSERT(result == 12);
    pycrew_close(crew);
}

TEST(a_free_is_put_off_while_a_call_uses_the_memory)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 1000, 3), result = 0;
    pycrew_array array = array_of(memory, PYCREW_F64, 1000, 0);
    pycrew_call *call = SUBMIT(crew, "array_ops:nap", "Ad", &array, 0.05);

    pycrew_free(crew, memory);
    for (int i = 0; i < 100; i++)
        doubles(crew, 1000, 7);
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "d", &result));
    ASSERT(result == 3);
    pycrew_release(call);

    pycrew_call *late = prepare(crew, "array_ops:total");
    GIVES(pycrew_add_array(late, &array), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "was freed");
    pycrew_release(late);
    pycrew_close(crew);
}

/* ---- out --------------------------------------------------------------------------------------
 */

TEST(numpy_arrays_of_all_kinds_come_out_and_go_in_again)
{
    static const char *const made[] = {
        "np.arange(6).reshape(2, 3)",
        "np.arange(6.0)[::-1]",
        "np.arange(6, dtype='i2')[::2]",
        "np.asfortranarray(np.arange(6).reshape(2, 3))",
        "np.array([True, False])",
        "np.array([1 + 2j], 'c8')",
        "np.array([1.5], 'f2')",
        "np.array([1.5], np.longdouble)",
        "np.array([1, 2], '>i4')",
        "np.array([1.5], '>f8')",
        "np.array(['2020-01-01T00:00:00', 'NaT'], 'M8[ns]')",
        "np.array([1, -2], 'm8[ms]')",
        "np.array([b'abc', b'de'])",
        "np.array(['a\\u00e4', 'xyz\\u20ac'])",
        "np.array([b'ab'], 'V5')",
        "np.array([(1, 2.5)], [('x', 'i4'), ('y', 'f8')])",
        "np.zeros(2, np.dtype({'names': ['a', 'b'], 'formats': ['i1', 'i8'], 'offsets': [0, 8]}))",
        "np.zeros(2, [('p', 'f4', (2, 3)), ('q', [('r', 'S3')])])",
        "np.zeros((0, 3))",
        "np.zeros((2, 0), '>u2')",
        "np.broadcast_to(np.arange(3), (2, 3))",
        "np.zeros(3, 'S0')",
        "np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)",
        "np.arange(24).reshape(2, 3, 4)[:, ::-2, 1::2]",
    };
    pycrew_crew *crew = open_array_crew(1);

    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        pycrew_array array = PYCREW_ARRAY_INIT;
        char *expected = NULL, *text, *elements;

        OK(pycrew_run(crew, "array_ops:made", "s>A", made[i], &array));
        OK(pycrew_run(crew, "array_ops:describe_made", "s>s", made[i], &expected));
        text = describe(crew, &array);
        /* Strides of a copy may be others; type, shape and elements may not. */
        elements = strstr(expected, " w=");
        elements = strchr(elements + 1, ' ');
        if (strstr(text, elements) == NULL || strncmp(text, expected, strcspn(text, ")")) != 0)
            tap_fail("%s: %s became %s", made[i], expected, text);
        free(expected);
        free(text);
        pycrew_array_drop(crew, &array);
    }
    pycrew_close(crew);
}

TEST(a_result_array_is_described_to_c)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array array = PYCREW_ARRAY_INIT;

    OK(pycrew_run(crew, "array_ops:made", "s>A", "np.arange(6, dtype='i4').reshape(2, 3)", &array));
    ASSERT_INT(array.dtype, PYCREW_I32);
    ASSERT_INT(array.itemsize, 4);
    ASSERT_INT(array.ndim, 2);
    ASSERT_INT(array.shape[1], 3);
    ASSERT_INT(array.strides[0], 12);
    ASSERT_INT(array.flags, 0);
    ASSERT_MEM(array.data, ((int32_t[]){0, 1, 2, 3, 4, 5}), 24);
    pycrew_array_drop(crew, &array);
    ASSERT(array.data == NULL);

    OK(pycrew_run(crew, "array_ops:made", "s>A", "np.zeros((2, 3), order='F')", &array));
    ASSERT_INT(array.flags, PYCREW_FORTRAN);
    pycrew_array_drop(crew, &array);

    OK(pycrew_run(crew, "array_ops:made", "s>A", "np.array(['2020-01-01'], 'M8[D]')", &array));
    ASSERT_INT(array.dtype, PYCREW_OTHER);
    ASSERT_STR(array.format, "<M8[D]");
    ASSERT_INT(*(int64_t *)array.data, 18262);
    pycrew_array_drop(crew, &array);
    pycrew_close(crew);
}

TEST(memoryviews_and_bytearrays_are_arrays)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array array = PYCREW_ARRAY_INIT;

    OK(pycrew_run(crew, "array_ops:made", "s>A", "bytearray(b'abc')", &array));
    ASSERT_INT(array.dtype, PYCREW_U8);
    ASSERT_INT(array.shape[0], 3);
    ASSERT_MEM(array.data, "abc", 3);
    pycrew_array_drop(crew, &array);
    OK(pycrew_run(crew, "array_ops:made", "s>A", "memoryview(b'abcdef')[::-2]", &array));
    ASSERT_MEM(array.data, "fdb", 3);
    pycrew_array_drop(crew, &array);
    OK(pycrew_run(crew, "array_ops:made", "s>A", "memoryview(b'12345678').cast('d')", &array));
    ASSERT_INT(array.dtype, PYCREW_F64);
    pycrew_array_drop(crew, &array);
    OK(pycrew_run(crew, "array_ops:made", "s>A", "bytearray()", &array));
    ASSERT_INT(array.shape[0], 0);
    ASSERT(array.data == NULL);
    pycrew_close(crew);
}

TEST(a_memoryviews_format_is_its_dtype)
{
    static const struct {
        const char *made;
        pycrew_dtype dtype;
        size_t itemsize;
        const char *format;
    } all[] = {{"memoryview((ctypes.c_int32 * 2)(1, 2))", PYCREW_I32, 4, NULL},
               {"memoryview(np.zeros(2, '>u2'))", PYCREW_OTHER, 2, ">u2"},
               {"memoryview(np.zeros(2, bool))", PYCREW_BOOL, 1, NULL},
               {"memoryview(np.zeros(2, 'c16'))", PYCREW_C128, 16, NULL},
               {"memoryview(np.zeros(2, 'c8'))", PYCREW_C64, 8, NULL},
               {"memoryview(np.array([b'abc', b'd']))", PYCREW_OTHER, 3, "|S3"},
               {"memoryview((ctypes.c_char * 2)(b'a', b'b'))", PYCREW_OTHER, 1, "|S1"}};
    pycrew_crew *crew = open_array_crew(1);

    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        pycrew_array array = PYCREW_ARRAY_INIT;

        DIAG("%s", all[i].made);
        OK(pycrew_run(crew, "array_ops:made", "s>A", all[i].made, &array));
        ASSERT_INT(array.dtype, all[i].dtype);
        ASSERT_INT(array.itemsize, all[i].itemsize);
        ASSERT_INT(array.shape[0], 2);
        if (all[i].format != NULL)
            ASSERT_STR(array.format, all[i].format);
        pycrew_array_drop(crew, &array);
    }
    pycrew_close(crew);
}

/* No dtype of numpy's has a text for these: they are pickled, or refuse to be. */
TEST(a_memoryview_without_a_dtype_is_no_array)
{
    static const char *const made[] = {"memoryview(np.zeros(2, [('a', 'i4'), ('b', 'f8')]))"};
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array array = PYCREW_ARRAY_INIT;

    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++)
        GIVES(pycrew_run(crew, "array_ops:made", "s>A", made[i], &array), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "memoryview");
    pycrew_close(crew);
}

TEST(what_is_no_plain_array_comes_as_before)
{
    static const char *const made[] = {"np.array([1, 'x', None], object)",
                                       "np.ma.array([1, 2], mask=[0, 1])",
                                       "np.zeros(1, [('a', object)])"};
    pycrew_crew *crew = open_array_crew(1);
    double number = 0;

    for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        pycrew_call *call = SUBMIT(crew, "array_ops:made", "s", made[i]);

        OK(pycrew_wait(call, BOUND));
        ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_OBJECT);
        pycrew_release(call);
    }
    OK(pycrew_run(crew, "array_ops:made", "s>d", "np.array(2.5)", &number));
    ASSERT(number == 2.5);
    pycrew_close(crew);
}

TEST(arrays_come_out_of_containers)
{
    pycrew_crew *crew = open_array_crew(1);
    double data[2] = {1, 2};
    pycrew_array array = array_of(data, PYCREW_F64, 2, 0), item = PYCREW_ARRAY_INIT,
                 other = PYCREW_ARRAY_INIT;
    pycrew_call *call = SUBMIT(crew, "array_ops:nested", "A", &array);
    pycrew_value list;

    OK(pycrew_wait(call, BOUND));
    list = pycrew_value_get(pycrew_result_value(call), "list");
    ASSERT_INT(pycrew_value_type(pycrew_value_item(list, 1)), PYCREW_TYPE_ARRAY);
    OK(pycrew_value_array(pycrew_value_item(list, 1), &item));
    ASSERT(((double *)item.data)[1] == 4);
    OK(pycrew_value_array(pycrew_value_item(list, 0), &item));
    ASSERT(((double *)item.data)[1] == 2);
    GIVES(pycrew_value_array(list, &item), PYCREW_ETYPE);
    GIVES(pycrew_result_array(call, &item), PYCREW_ETYPE);
    pycrew_release(call);

    OK(pycrew_run(crew, "array_ops:made", "s>AA", "(np.arange(3), np.ones(2))", &item, &other));
    ASSERT_INT(((int64_t *)item.data)[2], 2);
    ASSERT(((double *)other.data)[1] == 1);
    pycrew_array_drop(crew, &item);
    pycrew_array_drop(crew, &other);

    /* Uncopied as long as its call is not released. */
    call = SUBMIT(crew, "array_ops:made", "s", "np.arange(3.0)");
    double total = 0;
    long long where = 0;
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_array(call, &item));
    OK(pycrew_run(crew, "array_ops:total", "A>d", &item, &total));
    ASSERT(total == 3);
    OK(pycrew_run(crew, "array_ops:where", "sA>L", "", &item, &where));
    ASSERT_INT(where, place_of(item.data));
    pycrew_release(call);
    GIVES(pycrew_run(crew, "array_ops:total", "A>d", &item, &total), -EINVAL);

    /* Of another length: none is taken. */
    GIVES(pycrew_run(crew, "array_ops:made", "s>(Ai)", "(np.arange(3), 'x')", &item, &(int){0}),
          PYCREW_ETYPE);
    GIVES(pycrew_run(crew, "array_ops:made", "s>i", "np.arange(3)", &(int){0}), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "expected int, got array");
    GIVES(pycrew_run(crew, "array_ops:made", "s>A", "5", &item), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "expected array, got int");
    memset(&item, 0, sizeof item);
    GIVES(pycrew_run(crew, "array_ops:made", "s>A", "np.arange(3)", &item), -EINVAL);
    pycrew_close(crew);
}

TEST(an_array_from_empty_is_not_copied)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array array = PYCREW_ARRAY_INIT;
    long long where = 0;

    for (int i = 0; i < 3; i++) {
        OK(pycrew_run(crew, "array_ops:empty_and_where", "i>AL", 100 << (6 * i), &array, &where));
        ASSERT_INT(where, place_of(array.data));
        ASSERT(((double *)array.data)[99] == 7.5);
        pycrew_array_drop(crew, &array);
    }
    OK(pycrew_run(crew, "array_ops:view_of_empty", "ii>A", 100, 900, &array));
    ASSERT(((double *)array.data)[0] == 100 && ((double *)array.data)[799] == 899);
    pycrew_array_drop(crew, &array);
    OK(pycrew_run(crew, "array_ops:view_of_empty", "ii>A", 0, 2, &array)); /* a copy */
    ASSERT(((double *)array.data)[1] == 1);
    pycrew_array_drop(crew, &array);
    OK(pycrew_run(crew, "array_ops:reversed_empty", "i>A", 3, &array));
    ASSERT_INT(array.flags, PYCREW_STRIDED);
    ASSERT_INT(array.strides[1], -8);
    ASSERT_INT(((int32_t *)array.data)[0], 4);
    pycrew_array_drop(crew, &array);
    pycrew_close(crew);
}

TEST(arrays_of_a_result_that_fails_are_taken_back)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array array = PYCREW_ARRAY_INIT;
    void *data = NULL;

    for (int i = 0; i < 20; i++) /* 40 MiB each of 256 */
        GIVES(pycrew_run(crew, "array_ops:unpicklable_with_arrays", "i", (int)(20 * MIB / 8)),
              PYCREW_ERAISED);
    for (int i = 0; i < 3; i++) { /* not leased: it is not copied, time after time */
        OK(pycrew_run(crew, "array_ops:return_kept", ">A", &array));
        ASSERT(data == NULL || data == array.data);
        data = array.data;
        pycrew_array_drop(crew, &array);
    }
    pycrew_close(crew);
}

TEST(empty_refuses_what_cannot_be)
{
    static const char *const wrong[][2] = {
        {"pycrew.empty(-1)", "negative"},
        {"pycrew.empty((2**40, 2**40))", "exceeds 2**63"},
        {"pycrew.empty(2**40)", "MemoryError"},
        {"pycrew.empty(3, object)", "Python objects"},
        {"pycrew.empty(3, 'nonsense')", "TypeError"},
        {"pycrew.empty('x')", "TypeError"},
        {"pycrew.empty([1] * 33)", "32 dimensions"},
        {"pycrew.empty(2**70)", "OverflowError"},
    };
    pycrew_crew *crew = open_array_crew(1);
    char *text;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        OK(pycrew_run(crew, "array_ops:empty_fails", "s>s", wrong[i][0], &text));
        CONTAINS(text, wrong[i][1]);
        free(text);
    }
    OK(pycrew_run(crew, "array_ops:empty_fails", "s>s", "pycrew.empty((0, 3), 'i4')", &text));
    ASSERT_STR(text, "made");
    free(text);
    pycrew_close(crew);
}

TEST(a_view_of_an_argument_comes_back_as_that_memory)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 100, 1), data[4] = {1, 2, 3, 4};
    pycrew_array array = array_of(memory, PYCREW_F64, 100, 0), back = PYCREW_ARRAY_INIT;
    pycrew_call *call;

    OK(pycrew_run(crew, "array_ops:part", "Aiii>A", &array, 90, 10, -20, &back));
    ASSERT(back.data == memory + 90);
    ASSERT_INT(back.strides[0], -160);
    pycrew_array_drop(crew, &back);

    /* Of the call's own copy: that is there until the release, or the drop. */
    array = array_of(data, PYCREW_F64, 4, 0);
    call = SUBMIT(crew, "array_ops:same", "A", &array);
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_array_take(call, &back));
    pycrew_release(call);
    ASSERT_MEM(back.data, data, sizeof data);
    ASSERT(back.data != data);
    pycrew_array_drop(crew, &back);
    pycrew_close(crew);
}

TEST(a_taken_result_goes_into_the_next_call_uncopied)
{
    pycrew_crew *crew = open_array_crew(2);
    pycrew_array array = PYCREW_ARRAY_INIT, part;
    long long where;
    double total = 0;

    OK(pycrew_run(crew, "array_ops:empty_filled", "id>A", 1000, 2.0, &array));
    for (int i = 0; i < 20; i++) { /* by either worker, also the one whose memory it is */
        OK(pycrew_run(crew, "array_ops:where", "sA>L", "", &array, &where));
        ASSERT_INT(where, place_of(array.data));
        OK(pycrew_run(crew, "array_ops:total", "A>d", &array, &total));
        ASSERT(total == 2000);
    }
    array.flags = PYCREW_WRITABLE;
    OK(pycrew_run(crew, "array_ops:add_one", "A", &array));
    ASSERT(((double *)array.data)[999] == 3);
    part = array;
    part.data = (double *)array.data + 500;
    part.shape[0] = 500;
    OK(pycrew_run(crew, "array_ops:total", "A>d", &part, &total));
    ASSERT(total == 1500);
    part.shape[0] = 501;
    GIVES(pycrew_run(crew, "array_ops:total", "A>d", &part, &total), -EINVAL);
    part = array;
    pycrew_array_drop(crew, &array);
    GIVES(pycrew_run(crew, "array_ops:total", "A>d", &part, &total), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "dropped");
    pycrew_array_drop(crew, &part); /* the second time */
    GIVES(pycrew_last_error()->code, -EINVAL);
    pycrew_close(crew);
}

/* ---- views that outlive their call -------------------------------------------------------------
 */

/* Memory that is free is soon given out again, with other numbers in it. */
static void overwrite_free_memory(pycrew_crew *crew)
{
    double *memory[64];

    for (int i = 0; i < 64; i++)
        memory[i] = doubles(crew, 1000, -1);
    for (int i = 0; i < 64; i++)
        pycrew_free(crew, memory[i]);
}

TEST(a_kept_view_never_shows_other_data)
{
    pycrew_crew *crew = open_array_crew(1);
    double data[1000], first;
    pycrew_array array;

    for (int i = 0; i < 1000; i++)
        data[i] = 1;
    array = array_of(data, PYCREW_F64, 1000, 0); /* the call's copy */
    OK(pycrew_run(crew, "array_ops:keep_view", "A", &array));
    array.data = doubles(crew, 1000, 2); /* the user's memory */
    OK(pycrew_run(crew, "array_ops:keep", "A", &array));
    OK(pycrew_run(crew, "array_ops:generator", "A>d", &array, &first));
    pycrew_free(crew, array.data);
    overwrite_free_memory(crew);
    ASSERT(call_number(crew, "array_ops:kept_sum") == 2 + 2000);
    ASSERT(call_number(crew, "array_ops:generator_next") == 2);
    call_none(crew, "array_ops:let_go");
    ASSERT(call_number(crew, "array_ops:generator_next") == 2);
    pycrew_close(crew);
}

TEST(memory_that_python_let_go_of_is_free_again)
{
    pycrew_crew *crew = open_array_crew(1);
    size_t before = memory_used(crew);

    for (int round = 0; round < 3; round++) {
        double *memory = doubles(crew, 8 * MIB, 1);
        pycrew_array array = array_of(memory, PYCREW_F64, 8 * (int64_t)MIB, 0);

        OK(pycrew_run(crew, "array_ops:keep", "A", &array));
        pycrew_free(crew, memory);
        ASSERT(memory_used(crew) >= before + 64 * MIB); /* Python has it */
        ASSERT(call_number(crew, "array_ops:kept_first") == 1);
        if (round == 1)
            kill_worker(crew);
        else
            call_none(crew, "array_ops:let_go");
        AWAIT(memory_used(crew) < before + 8 * MIB);
    }
    pycrew_close(crew);
}

TEST(memory_kept_by_python_is_looked_at_when_memory_is_short)
{
    pycrew_crew *crew = open_array_crew(1);

    for (int i = 0; i < 20; i++) { /* 20 times 100 of 256 MiB */
        double *memory = pycrew_alloc(crew, 100 * MIB);
        pycrew_array array = array_of(memory, PYCREW_F64, 100, 0);

        ASSERT(memory != NULL);
        OK(pycrew_run(crew, "array_ops:keep", "A", &array));
        pycrew_free(crew, memory);
        call_none(crew, "array_ops:let_go");
    }
    pycrew_close(crew);
}

TEST(an_array_that_is_kept_and_returned_stays_what_it_is)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array first = PYCREW_ARRAY_INIT, second = PYCREW_ARRAY_INIT;

    OK(pycrew_run(crew, "array_ops:keep_and_return", "id>A", 1000, 4.0, &first));
    /* The host has it already: this is a copy. */
    OK(pycrew_run(crew, "array_ops:return_kept", ">A", &second));
    ASSERT(first.data != second.data);
    ASSERT_MEM(first.data, second.data, 8000);
    pycrew_array_drop(crew, &second);
    pycrew_array_drop(crew, &first);
    overwrite_free_memory(crew);
    ASSERT(call_number(crew, "array_ops:kept_sum") == 4000);
    /* Given back: now it is not copied. */
    OK(pycrew_run(crew, "array_ops:return_kept", ">A", &first));
    OK(pycrew_run(crew, "array_ops:return_kept", ">A", &second));
    ASSERT(first.data != second.data);
    ASSERT(((double *)first.data)[999] == 4);
    pycrew_array_drop(crew, &first);
    call_none(crew, "array_ops:let_go");
    ASSERT(((double *)second.data)[999] == 4);
    pycrew_array_drop(crew, &second);
    pycrew_close(crew);
}

/* The host knows a worker's own block as far as it was given it. */
TEST(a_workspace_that_is_returned_at_growing_lengths_is_copied_beyond_what_was_given)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array first = PYCREW_ARRAY_INIT, second = PYCREW_ARRAY_INIT;

    OK(pycrew_run(crew, "array_ops:start_workspace", ">A", &first));
    ASSERT_INT(first.shape[0], 600);
    OK(pycrew_run(crew, "array_ops:return_workspace", "A>A", &first, &second));
    ASSERT_INT(second.shape[0], 1000);
    ASSERT(((double *)second.data)[999] == 1);
    pycrew_array_drop(crew, &second);
    pycrew_array_drop(crew, &first);
    pycrew_close(crew);
}

TEST(a_child_of_user_code_sees_what_was_there_at_its_fork)
{
    pycrew_crew *crew = open_array_crew(1);

    for (int i = 0; i < 10; i++) {
        int status = -1;

        OK(pycrew_run(crew, "array_ops:fork_and_overwrite", "i>i", i % 2 ? 500 : 1000000, &status));
        ASSERT_INT(status, 0);
    }
    pycrew_close(crew);
}

TEST(what_a_dead_worker_saw_its_successor_does_not_keep)
{
    pycrew_crew *crew = open_array_crew(1);
    double *large = pycrew_alloc(crew, 64 * MIB), *small = doubles(crew, 4, 1);
    pycrew_array a = array_of(large, PYCREW_F64, 8 * MIB, 0), b = array_of(small, PYCREW_F64, 4, 0);
    size_t before;
    int pid = 0;

    OK(pycrew_run(crew, "array_ops:pid_keeping", "A>i", &a, &pid));
    ASSERT(kill(pid, SIGKILL) == 0);
    before = memory_used(crew);
    OK(pycrew_run(crew, "array_ops:keep_second", "AA>i", &a, &b, &pid));
    pycrew_free(crew, large);
    ASSERT(memory_used(crew) + 60 * MIB < before);
    pycrew_close(crew);
}

TEST(a_child_of_user_code_sees_a_copy_of_its_own)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 100000, 1);
    pycrew_array array = array_of(memory, PYCREW_F64, 100000, PYCREW_WRITABLE);
    char *text;

    memory[99999] = 3;
    OK(pycrew_run(crew, "array_ops:fork_and_look", "A>s", &array, &text));
    ASSERT_STR(text, "1.0 3.0 99.0 1.0");
    free(text);
    ASSERT(memory[0] == 1);
    OK(pycrew_run(crew, "array_ops:empty_in_child", ">s", &text));
    CONTAINS(text, "no shared memory here");
    free(text);
    pycrew_close(crew);
}

/* ---- deaths -----------------------------------------------------------------------------------
 */

TEST(a_taken_result_survives_its_workers_death)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array arrays[8], copy = PYCREW_ARRAY_INIT;
    size_t before = memory_used(crew);
    double total;

    for (int i = 0; i < 8; i++) {
        arrays[i] = (pycrew_array)PYCREW_ARRAY_INIT;
        OK(pycrew_run(crew, "array_ops:empty_filled", "id>A", 1000 << i, (double)i, &arrays[i]));
    }
    OK(pycrew_run(crew, "array_ops:made", "s>A", "np.full(500000, 9.0)", &copy));
    kill_worker(crew);
    worker_pid(crew); /* the next one is at work */
    for (int i = 0; i < 8; i++) {
        ASSERT(((double *)arrays[i].data)[(1000 << i) - 1] == i);
        OK(pycrew_run(crew, "array_ops:total", "A>d", &arrays[i], &total));
        ASSERT(total == i * (double)(1000 << i));
    }
    ASSERT(((double *)copy.data)[499999] == 9);
    for (int i = 0; i < 8; i++)
        pycrew_array_drop(crew, &arrays[i]);
    pycrew_array_drop(crew, &copy);
    AWAIT(memory_used(crew) <= before + 4 * MIB);
    pycrew_close(crew);
}

TEST(what_a_worker_held_when_it_died_is_free_again)
{
    pycrew_crew *crew = open_array_crew(1);
    size_t before;
    double *memory = doubles(crew, MIB, 1), data = 5, got = 0;
    pycrew_array array = array_of(memory, PYCREW_F64, MIB, PYCREW_WRITABLE);
    pycrew_array elsewhere = array_of(&data, PYCREW_F64, 1, 0);

    worker_pid(crew);
    before = memory_used(crew);
    for (int i = 0; i < 5; i++) {
        GIVES(pycrew_run(crew, "array_ops:die_with", "A", &array), PYCREW_EDIED);
        GIVES(pycrew_run(crew, "array_ops:die_with", "A", &elsewhere), PYCREW_EDIED);
        OK(pycrew_run(crew, "array_ops:keep", "A", &array));
        kill_worker(crew);
    }
    OK(pycrew_run(crew, "array_ops:ends", "A>d", &array, &got));
    ASSERT(got == 2);
    pycrew_free(crew, memory);
    AWAIT(memory_used(crew) <= before);
    pycrew_close(crew);
}

TEST(a_worker_that_dies_in_mid_copy_leaves_nothing)
{
    pycrew_crew *crew = open_array_crew(1);
    size_t before;
    int died = 0;

    worker_pid(crew);
    before = memory_used(crew);
    for (int i = 0; i < 12; i++) {
        pycrew_array array = PYCREW_ARRAY_INIT;
        int rc = pycrew_run(crew, "array_ops:copy_then_die", "i>A", 4 << 20, &array);

        ASSERT(rc == 0 || rc == PYCREW_EDIED);
        died += rc == PYCREW_EDIED;
        if (rc == 0)
            ASSERT(((double *)array.data)[(4 << 20) - 1] == 1);
        pycrew_array_drop(crew, &array);
    }
    DIAG("%d of 12 died before the end", died);
    AWAIT(memory_used(crew) <= before + 2 * MIB);
    pycrew_close(crew);
}

TEST(a_call_with_a_writable_array_is_tried_again_only_if_its_caller_says_so)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    double *memory, got = 0;
    pycrew_array array;
    pycrew_call *call;

    if (!has_numpy())
        SKIP("numpy is not installed");
    options.retries = 3;
    crew = open_with(&options);
    memory = doubles(crew, 10, 0);
    array = array_of(memory, PYCREW_F64, 10, PYCREW_WRITABLE);
    call = SUBMIT(crew, "array_ops:add_in_place", "As", &array, scratch("one"));
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    ASSERT(pycrew_call_error(call)->may_have_run);
    pycrew_release(call);
    ASSERT(memory[0] == 1);

    for (int before = 0; before < 2; before++) { /* said before or after the array is added */
        call = prepare(crew, "array_ops:add_in_place");
        memory[0] = 0;
        if (before)
            OK(pycrew_set_retries(call, 1));
        OK(pycrew_add(call, "As", &array, scratch(before ? "two" : "three")));
        if (!before)
            OK(pycrew_set_retries(call, 1));
        OK(pycrew_submit(call));
        OK(pycrew_wait(call, BOUND));
        OK(pycrew_result(call, "d", &got));
        ASSERT(got == 2); /* of both times */
        pycrew_release(call);
    }
    array.flags = 0; /* read-only: the crew's retries count */
    call = SUBMIT(crew, "array_ops:die_with", "A", &array);
    GIVES(pycrew_wait(call, BOUND), PYCREW_EDIED);
    ASSERT_INT(pycrew_call_error(call)->attempts, 4);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_released_call_that_runs_on_keeps_its_arrays)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 1000, 3);
    pycrew_array array = array_of(memory, PYCREW_F64, 1000, 0);
    size_t before = memory_used(crew);
    double *back = malloc(64 * sizeof *back);
    pycrew_array elsewhere = array_of(back, PYCREW_F64, 64, PYCREW_WRITABLE | PYCREW_COPY_BACK);

    for (int i = 0; i < 20; i++) {
        pycrew_call *call = SUBMIT(crew, "array_ops:nap", "Ad", i % 2 ? &array : &elsewhere, 0.002);

        pause_ns(i * 300 * US);
        pycrew_release(call);
    }
    free(back); /* nobody writes there any more: ASan would see it */
    worker_pid(crew);
    pycrew_free(crew, memory);
    AWAIT(memory_used(crew) <= before + 2 * MIB);
    pycrew_close(crew);
}

TEST(memory_is_not_given_on_while_a_function_still_writes_into_it)
{
    pycrew_crew *crew = open_array_crew(1);

    for (int i = 0; i < 12; i++) {
        double *memory = doubles(crew, 50000, 1), *next;
        pycrew_array array = array_of(memory, PYCREW_F64, 50000, PYCREW_WRITABLE);
        pycrew_call *call = prepare(crew, "array_ops:overwrite_stubbornly");
        int code;

        OK(pycrew_add(call, "Ad", &array, 10.0));
        if (i % 3 != 0)
            OK(pycrew_set_timeout(call, 20 * MS)); /* and then it is killed, after the grace */
        OK(pycrew_submit(call));
        pycrew_free(crew, memory);
        if (i % 3 == 0) {
            AWAIT(*(volatile double *)memory == -1);
            pycrew_cancel(call);
        }
        if (i % 3 == 1)
            pycrew_release(call); /* it has not ended yet */
        next = doubles(crew, 50000, 2);
        if (i % 3 != 1) {
            code = pycrew_wait(call, BOUND);
            ASSERT(code == -ETIMEDOUT || code == -ECANCELED);
            pycrew_release(call);
        } else {
            worker_pid(crew); /* by the next one */
        }
        for (int j = 0; j < 50000; j++)
            ASSERT(next[j] == 2);
        pycrew_free(crew, next);
    }
    pycrew_close(crew);
}

/* A call that writes into a copy of this memory, and returns after a while whoever interrupts it. */
struct back {
    pycrew_crew *crew;
    pycrew_call *call;
    atomic_int waiter; /* its thread's number */
    double memory[64];
};

static void begin_back(struct back *b)
{
    static const char *const preload[] = {"array_ops", NULL};
    pycrew_options options = test_options(1);
    double *shared;
    pycrew_array array, elsewhere;

    if (!has_numpy())
        SKIP("numpy is not installed");
    options.preload = preload;
    options.grace_ns = BOUND;
    b->crew = open_with(&options);
    shared = doubles(b->crew, 1, 0);
    array = array_of(shared, PYCREW_F64, 1, PYCREW_WRITABLE);
    elsewhere = array_of(b->memory, PYCREW_F64, 64, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    b->call =
        SUBMIT(b->crew, "array_ops:write_both_stubbornly", "AAd", &array, &elsewhere, 0.3);
    AWAIT(*(volatile double *)shared == -1);
}

static void fill_back(struct back *b)
{
    for (int i = 0; i < 64; i++)
        b->memory[i] = 7;
}

static void expect_untouched(const struct back *b)
{
    for (int i = 0; i < 64; i++)
        ASSERT(b->memory[i] == 7);
}

TEST(what_returns_after_its_release_is_not_copied_back)
{
    struct back b = {.memory = {0}};

    begin_back(&b);
    pycrew_release(b.call);
    fill_back(&b); /* it is ours again */
    worker_pid(b.crew);
    expect_untouched(&b);
    pycrew_close(b.crew);
    expect_untouched(&b);
}

static void *wait_for_back(void *data)
{
    struct back *b = data;

    atomic_store(&b->waiter, gettid());
    GIVES(pycrew_wait(b->call, BOUND), -ECANCELED);
    fill_back(b);
    return NULL;
}

TEST(what_returns_when_the_crew_closes_is_not_copied_back)
{
    struct back b = {.memory = {0}};
    pthread_t waiter;

    begin_back(&b);
    ASSERT_INT(pthread_create(&waiter, NULL, wait_for_back, &b), 0);
    AWAIT(tap_is_asleep(atomic_load(&b.waiter))); /* behind the close there is no call to wait for */
    pycrew_close(b.crew);
    pthread_join(waiter, NULL);
    expect_untouched(&b);
}

/* ---- bad input --------------------------------------------------------------------------------
 */

static void expect_refused(pycrew_crew *crew, const pycrew_array *array, const char *part)
{
    pycrew_call *call = prepare(crew, "array_ops:total");

    GIVES(pycrew_add_array(call, array), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "argument 1: the array: ");
    CONTAINS(pycrew_last_error()->message, part);
    GIVES(pycrew_submit(call), -EINVAL);
    pycrew_release(call);
}

TEST(flags_that_contradict_one_another_are_refused)
{
    static const struct {
        unsigned flags;
        const char *name;
    } wrong[] = {{PYCREW_COPY_BACK, "PYCREW_COPY_BACK"},
                 {PYCREW_STRIDED | PYCREW_FORTRAN, "PYCREW_FORTRAN"},
                 {64, "flag that is none"}};
    double data[2] = {0};
    int64_t count = 2;
    pycrew_array array = PYCREW_ARRAY_INIT;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        GIVES(pycrew_array_init(&array, data, PYCREW_F64, 1, &count, wrong[i].flags), -EINVAL);
        CONTAINS(pycrew_last_error()->message, wrong[i].name);
        ASSERT(array.data == NULL);
    }
}

/* What cannot be told from a freed array is not said to be one. */
TEST(bytes_of_a_result_are_no_array_and_that_is_said)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_call *call = SUBMIT(crew, "api_ops:zeros", "i", 10000);
    const void *data = NULL;
    pycrew_array array;
    size_t size;

    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "y#", &data, &size));
    array = array_of(data, PYCREW_F64, 100, 0);
    expect_refused(crew, &array, "str or bytes of a result");
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(an_array_that_is_looked_at_after_its_calls_release_is_said_to_be_gone)
{
    pycrew_crew *crew = open_array_crew(1);
    pycrew_call *call = SUBMIT(crew, "array_ops:empty_filled", "id", 10, 1.0);
    pycrew_array array = PYCREW_ARRAY_INIT;
    pycrew_value value;

    OK(pycrew_wait(call, BOUND));
    value = pycrew_result_value(call);
    OK(pycrew_value_array(value, &array));
    pycrew_release(call);
    GIVES(pycrew_value_array(value, &array), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "its call was released");
    pycrew_close(crew);
}

static void add_views(pycrew_call *call, double *memory, unsigned count, unsigned flags)
{
    OK(pycrew_add_open(call, PYCREW_LIST));
    for (unsigned i = 0; i < count; i++) {
        pycrew_array array = array_of(memory + 8 * i, PYCREW_F64, 8, flags);

        OK(pycrew_add_array(call, &array));
    }
    OK(pycrew_add_close(call));
}

static int64_t time_of_many(pycrew_crew *crew, double *memory, unsigned count)
{
    int64_t start = now_ns();
    pycrew_call *call = prepare(crew, "array_ops:same");
    pycrew_value item;

    add_views(call, memory, count, PYCREW_WRITABLE);
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    item = pycrew_value_item(pycrew_result_value(call), 0);
    for (unsigned i = 0; i < count; i++, item = pycrew_value_next(item)) {
        pycrew_array array = PYCREW_ARRAY_INIT;

        OK(pycrew_value_array(item, &array));
        ASSERT(array.data == memory + 8 * i);
    }
    pycrew_release(call);
    return now_ns() - start;
}

/* Sixteen times as many take about so many times as long; were each looked for among all, 256. */
TEST(many_arrays_in_a_call_cost_little_more_each_than_a_few)
{
    enum { FEW = 1000, MANY = 16 * FEW };
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 8 * MANY, 0);
    int64_t few = INT64_MAX, many = INT64_MAX;

    for (int i = 0; i < 4; i++) {
        int64_t time = time_of_many(crew, memory, FEW);

        few = time < few ? time : few;
        time = time_of_many(crew, memory, MANY);
        many = time < many ? time : many;
    }
    DIAG("%d: %.1f ms, %d: %.1f ms", FEW, (double)few / 1e6, MANY, (double)many / 1e6);
    ASSERT(many < 100 * few);
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

/* As numpy would name them: a.real and a.imag, a[:, 0::2] and a[:, 1::2], a[:, :2] and a[:, 2:]. */
TEST(writable_parts_of_a_matrix_that_share_no_element_are_taken)
{
    enum { ROWS = 6, COLUMNS = 7 };
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 2 * ROWS * COLUMNS, 1);
    static const int64_t parts[][2][5] = {
        /* rows, columns, their strides, and where it begins; in doubles */
        {{ROWS, COLUMNS, 2 * COLUMNS, 2, 0}, {ROWS, COLUMNS, 2 * COLUMNS, 2, 1}},
        {{ROWS, 4, COLUMNS, 2, 0}, {ROWS, 3, COLUMNS, 2, 1}},
        {{ROWS, 2, COLUMNS, 1, 0}, {ROWS, 5, COLUMNS, 1, 2}},
        {{3, COLUMNS, 2 * COLUMNS, 1, 0}, {3, COLUMNS, 2 * COLUMNS, 1, COLUMNS}},
        {{ROWS, 2, COLUMNS, -1, 1}, {ROWS, 5, -COLUMNS, 1, 2 + (ROWS - 1) * COLUMNS}}};

    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        pycrew_call *call = prepare(crew, "array_ops:add_to_both");

        for (size_t j = 0; j < 2; j++) {
            const int64_t *part = parts[i][j];
            pycrew_array array;

            OK(pycrew_array_init(&array, memory + part[4], PYCREW_F64, 2, part,
                                 PYCREW_WRITABLE | PYCREW_STRIDED));
            array.strides[0] = part[2] * 8;
            array.strides[1] = part[3] * 8;
            OK(pycrew_add_array(call, &array));
        }
        OK(pycrew_submit(call));
        OK(pycrew_wait(call, BOUND));
        pycrew_release(call);
    }
    for (int i = 0; i < ROWS * COLUMNS; i++)
        ASSERT(memory[i] > 5 && memory[i] < 11); /* each part, each time, once */
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

TEST(what_is_wrong_with_an_array_is_said)
{
    pycrew_crew *crew = open_array_crew(1), *other = open_array_crew(1);
    double *memory = doubles(crew, 100, 1), *others = doubles(other, 100, 1), data[4] = {0};
    pycrew_array good = array_of(memory, PYCREW_F64, 100, 0), bad;
    pycrew_call *call;

    bad = good, bad.shape[0] = 105; /* the block has 100, and up to a multiple of 64 bytes */
    expect_refused(crew, &bad, "lead out of the block");
    bad = good, bad.flags = PYCREW_STRIDED, bad.strides[0] = -8;
    expect_refused(crew, &bad, "lead out of the block");
    bad = good, bad.flags = PYCREW_STRIDED, bad.strides[0] = INT64_MAX / 2;
    expect_refused(crew, &bad, "strides lead further");
    bad = good, bad.shape[0] = INT64_MAX / 4;
    expect_refused(crew, &bad, "product of its shape");
    bad = good, bad.shape[0] = -1;
    expect_refused(crew, &bad, "negative");
    bad = good, bad.ndim = -1;
    expect_refused(crew, &bad, "dimensions");
    bad = good, bad.dtype = (pycrew_dtype)99;
    expect_refused(crew, &bad, "dtype is none");
    bad = good, bad.itemsize = 4;
    expect_refused(crew, &bad, "itemsize is not that of its dtype");
    bad = good, bad.dtype = PYCREW_OTHER;
    expect_refused(crew, &bad, "format has no text");
    bad = good, bad.dtype = PYCREW_OTHER, bad.format = "O";
    expect_refused(crew, &bad, "Python objects");
    bad = good, bad.data = NULL;
    expect_refused(crew, &bad, "data is NULL");
    bad = good, bad.size = 0;
    expect_refused(crew, &bad, "size is not set");
    bad = good, bad.flags = 64;
    expect_refused(crew, &bad, "flag");
    bad = good, bad.flags = PYCREW_COPY_BACK;
    expect_refused(crew, &bad, "PYCREW_COPY_BACK is for");
    bad = good, bad.flags = PYCREW_STRIDED | PYCREW_FORTRAN;
    expect_refused(crew, &bad, "no PYCREW_FORTRAN");
    bad = array_of(data, PYCREW_F64, 4, PYCREW_WRITABLE);
    expect_refused(crew, &bad, "it is writable");
    bad = good, bad.flags = PYCREW_WRITABLE | PYCREW_STRIDED, bad.strides[0] = 0;
    expect_refused(crew, &bad, "stride of 0");
    bad = array_of(others, PYCREW_F64, 4, 0);
    expect_refused(crew, &bad, "another crew");
    bad = array_of((char *)memory + 4096 * 100, PYCREW_F64, 4, 0);
    expect_refused(crew, &bad, "never given");

    call = prepare(crew, "array_ops:both");
    bad = good, bad.flags = PYCREW_WRITABLE;
    OK(pycrew_add_array(call, &bad));
    GIVES(pycrew_add_array(call, &good), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "argument 2: the array: it overlaps a writable array");
    pycrew_release(call);
    call = prepare(crew, "array_ops:both");
    OK(pycrew_add_array(call, &good));
    OK(pycrew_add_array(call, &good)); /* both read-only */
    GIVES(pycrew_add_array(call, &bad), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "overlaps another array");
    GIVES(pycrew_add_array(call, NULL), -EINVAL);
    pycrew_release(call);

    pycrew_free(crew, memory);
    expect_refused(crew, &good, "was freed");
    pycrew_free(crew, memory);
    GIVES(pycrew_last_error()->code, -EINVAL);
    pycrew_free(crew, NULL);
    ASSERT(pycrew_alloc(crew, SIZE_MAX) == NULL);
    GIVES(pycrew_last_error()->code, -E2BIG);
    ASSERT(pycrew_alloc(crew, 300 * MIB) == NULL);
    pycrew_close(other);
    pycrew_close(crew);
}

TEST(what_is_wrong_at_once_is_said_by_init_and_alloc)
{
    const int64_t shape[] = {INT64_MAX / 2, 3}, negative[] = {-1};
    pycrew_array array;
    char data[8] = "";

    GIVES(pycrew_array_init(NULL, data, PYCREW_U8, 0, NULL, 0), -EINVAL);
    GIVES(pycrew_array_init(&array, data, PYCREW_U8, 1, NULL, 0), -EINVAL);
    GIVES(pycrew_array_init(&array, data, (pycrew_dtype)0, 0, NULL, 0), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "the dtype 0 is none");
    GIVES(pycrew_array_init(&array, data, (pycrew_dtype)99, 0, NULL, 0), -EINVAL);
    GIVES(pycrew_array_init(&array, data, PYCREW_U8, 0, NULL, 0x1000), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "0x1000");
    GIVES(pycrew_array_init(&array, data, PYCREW_U8, -1, shape, 0), -EINVAL);
    GIVES(pycrew_array_init(&array, data, PYCREW_U8, 1, negative, 0), -EINVAL);
    GIVES(pycrew_array_init(&array, data, PYCREW_F64, 2, shape, 0), -E2BIG);
    ASSERT(pycrew_alloc(NULL, 8) == NULL);
    ASSERT_INT(pycrew_last_error()->code, -EINVAL);
}

TEST(memory_that_is_not_there_is_none_and_says_why)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.memory = 16 << 20;
    crew = open_with(&options);
    ASSERT(pycrew_alloc(crew, SIZE_MAX) == NULL);
    ASSERT_INT(pycrew_last_error()->code, -E2BIG);
    ASSERT(pycrew_alloc(crew, (size_t)1 << 40) == NULL);
    ASSERT_INT(pycrew_last_error()->code, -E2BIG);
    pycrew_close(crew);
}

TEST(a_type_that_numpy_does_not_know_is_einval)
{
    static const char *const formats[] = {"nonsense", "[('a', 'x9')]", "[('a', 'O')]", "[(", "<f8"};
    pycrew_crew *crew = open_array_crew(1);
    double data[4] = {0};

    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++) {
        pycrew_array array = array_of(data, PYCREW_OTHER, 2, 0);
        pycrew_call *call;

        array.format = formats[i];
        array.itemsize = 16;
        call = SUBMIT(crew, "array_ops:total", "A", &array);
        GIVES(pycrew_wait(call, BOUND), -EINVAL);
        ASSERT(!pycrew_call_error(call)->may_have_run);
        pycrew_release(call);
    }
    pycrew_close(crew);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

TEST(arrays_of_gigabytes_in_all_go_through_a_small_segment)
{
    pycrew_crew *crew = open_array_crew(2);
    size_t most = 0;
    double *data = malloc(16 * MIB);

    for (size_t i = 0; i < 2 * MIB; i++)
        data[i] = 1;
    for (int i = 0; i < 60; i++) {
        pycrew_array array = array_of(data, PYCREW_F64, 2 * MIB, 0), back = PYCREW_ARRAY_INIT;

        OK(pycrew_run(crew, i % 2 ? "array_ops:churn" : "array_ops:churn", "Ai>A", &array, 1 << 21,
                      &back));
        ASSERT(((double *)back.data)[(1 << 21) - 1] == 1);
        pycrew_array_drop(crew, &back);
        most = memory_used(crew) > most ? memory_used(crew) : most;
    }
    DIAG("at most %zu MiB", most / MIB);
    ASSERT(most <= 256 * MIB);
    free(data);
    pycrew_close(crew);
}

struct churn {
    pycrew_crew *crew;
    unsigned number;
    int64_t until;
};

static void *churn(void *data)
{
    const struct churn *c = data;
    unsigned rounds = 0;

    while (now_ns() < c->until || rounds < 20) {
        double value = c->number * 1000 + rounds++;
        size_t count = 100 + rounds % 7 * 3000;
        double *memory = doubles(c->crew, count, value);
        pycrew_array array = array_of(memory, PYCREW_F64, (int64_t)count, 0),
                     back = PYCREW_ARRAY_INIT;
        int rc = pycrew_run(c->crew, "array_ops:churn", "Ai>A", &array, (int)count, &back);

        if (rc != PYCREW_EDIED)
            OK(rc);
        if (rc == 0) {
            ASSERT(((double *)back.data)[0] == value && ((double *)back.data)[count - 1] == value);
            pycrew_array_drop(c->crew, &back);
        }
        pycrew_free(c->crew, memory);
    }
    return NULL;
}

/* With them go the views that they kept. */
static void kill_all_workers(void)
{
    int pids[4], count = find_workers(pids, 4);

    for (int i = 0; i < count; i++)
        kill(pids[i], SIGKILL);
    for (int i = 0; i < count; i++)
        AWAIT(kill(pids[i], 0) < 0);
}

TEST(arrays_of_many_threads_are_right_while_workers_die)
{
    pycrew_crew *crew = open_array_crew(2);
    struct churn threads[3];
    pthread_t ids[3];
    size_t before;
    int64_t until = now_ns() + 1500 * MS;

    worker_pid(crew);
    before = memory_used(crew);
    for (unsigned i = 0; i < 3; i++) {
        threads[i] = (struct churn){crew, i + 1, until};
        ASSERT_INT(pthread_create(&ids[i], NULL, churn, &threads[i]), 0);
    }
    while (now_ns() < until) {
        int pids[4], count = find_workers(pids, 4);

        if (count > 0)
            kill(pids[0], SIGKILL);
        pause_ns(40 * MS);
    }
    for (unsigned i = 0; i < 3; i++)
        pthread_join(ids[i], NULL);
    kill_all_workers();
    AWAIT((pycrew_free(crew, pycrew_alloc(crew, 100)), memory_used(crew)) <= before + 8 * MIB);
    pycrew_close(crew);
}

/* ---- DLPack ------------------------------------------------------------------------------------
 */

TEST(a_tensor_goes_in_and_comes_out)
{
    pycrew_crew *crew = open_array_crew(1);
    int32_t data[6] = {0, 1, 2, 3, 4, 5};
    int64_t shape[2] = {3, 2}, strides[2] = {1, 3};
    struct DLManagedTensor tensor = {.dl_tensor = {.data = data,
                                                   .device_type = 1,
                                                   .ndim = 2,
                                                   .dtype = {0, 32, 1},
                                                   .shape = shape,
                                                   .strides = strides}};
    struct DLManagedTensor *out;
    pycrew_array array, back = PYCREW_ARRAY_INIT;
    size_t before;

    OK(pycrew_array_from_dlpack(&array, &tensor, 0));
    expect_description(crew, &array, "<i4 (3, 2) (4, 12) w=False [[0, 3], [1, 4], [2, 5]]");
    tensor.dl_tensor.strides = NULL;
    tensor.dl_tensor.byte_offset = 4;
    shape[0] = 2;
    OK(pycrew_array_from_dlpack(&array, &tensor, 0));
    expect_description(crew, &array, "<i4 (2, 2) (8, 4) w=False [[1, 2], [3, 4]]");

    before = memory_used(crew);
    OK(pycrew_run(crew, "array_ops:reversed_empty", "i>A", 3, &back));
    int32_t *first = back.data;
    OK(pycrew_array_to_dlpack(crew, &back, &out));
    ASSERT(back.data == NULL);
    ASSERT(out->dl_tensor.data == first && out->dl_tensor.byte_offset == 0);
    ASSERT_INT(out->dl_tensor.device_type, 1);
    ASSERT_INT(out->dl_tensor.shape[1], 3);
    ASSERT_INT(out->dl_tensor.strides[0], 1);
    ASSERT_INT(out->dl_tensor.strides[1], -2);
    ASSERT_INT(out->dl_tensor.dtype.bits, 32);
    ASSERT_INT(first[0], 4);
    out->deleter(out);
    ASSERT(memory_used(crew) <= before + 2 * MIB);
    pycrew_array_drop(crew, &back); /* nothing is left of it */

    OK(pycrew_run(crew, "array_ops:made", "s>A", "np.array(['2020-01-01'], 'M8[D]')", &back));
    GIVES(pycrew_array_to_dlpack(crew, &back, &out), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "<M8[D]");
    pycrew_array_drop(crew, &back);
    pycrew_close(crew);
}

TEST(no_tensor_and_no_array_are_refused)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    struct DLManagedTensor *tensor = NULL;
    pycrew_crew *crew = open_array_crew(1);
    char data[8] = "";

    GIVES(pycrew_array_from_dlpack(NULL, tensor, 0), -EINVAL);
    GIVES(pycrew_array_from_dlpack(&array, NULL, 0), -EINVAL);
    GIVES(pycrew_array_to_dlpack(crew, NULL, &tensor), -EINVAL);
    GIVES(pycrew_array_to_dlpack(NULL, &array, &tensor), -EINVAL);
    GIVES(pycrew_array_to_dlpack(crew, &array, &tensor), -EINVAL); /* never taken */
    OK(pycrew_run(crew, "array_ops:reversed_empty", "i>A", 3, &array));
    GIVES(pycrew_array_to_dlpack(crew, &array, NULL), -EINVAL);
    OK(pycrew_array_to_dlpack(crew, &array, &tensor));
    GIVES(pycrew_array_to_dlpack(crew, &array, &tensor), -EINVAL); /* it is the tensor's by now */
    tensor->deleter(tensor);
    pycrew_array_drop(NULL, &array);
    pycrew_free(NULL, data);
    pycrew_close(crew);
}

TEST(a_tensor_that_cannot_be_an_array_is_refused)
{
    double data[4] = {1, 2, 3, 4};
    int64_t shape[1] = {4}, wide[1] = {INT64_MAX / 2};
    const struct DLManagedTensorVersioned good = {
        .major = 1,
        .dl_tensor = {
            .data = data, .device_type = 1, .ndim = 1, .dtype = {2, 64, 1}, .shape = shape}};
    struct DLManagedTensorVersioned bad = good, *out;
    pycrew_crew *crew = open_array_crew(1);
    pycrew_array array, back = PYCREW_ARRAY_INIT;
    double total = 0;

    OK(pycrew_array_from_dlpack_versioned(&array, &good, PYCREW_WRITABLE | PYCREW_COPY_BACK));
    OK(pycrew_run(crew, "array_ops:add_one", "A", &array));
    ASSERT(data[3] == 5);
    bad.flags = 1;
    OK(pycrew_array_from_dlpack_versioned(&array, &bad, 0));
    OK(pycrew_run(crew, "array_ops:total", "A>d", &array, &total));
    ASSERT(total == 14);
    GIVES(pycrew_array_from_dlpack_versioned(&array, &bad, PYCREW_WRITABLE), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "read-only");
    bad = good, bad.major = 2;
    GIVES(pycrew_array_from_dlpack_versioned(&array, &bad, 0), -EINVAL);
    bad = good, bad.dl_tensor.device_type = 2;
    GIVES(pycrew_array_from_dlpack_versioned(&array, &bad, 0), -EINVAL);
    bad = good, bad.dl_tensor.dtype.code = 4; /* bfloat */
    GIVES(pycrew_array_from_dlpack_versioned(&array, &bad, 0), -EINVAL);
    bad = good, bad.dl_tensor.dtype.lanes = 4;
    GIVES(pycrew_array_from_dlpack_versioned(&array, &bad, 0), -EINVAL);
    bad = good, bad.dl_tensor.strides = wide;
    GIVES(pycrew_array_from_dlpack_versioned(&array, &bad, 0), -EINVAL);
    bad = good, bad.dl_tensor.ndim = 40;
    GIVES(pycrew_array_from_dlpack_versioned(&array, &bad, 0), -EINVAL);
    GIVES(pycrew_array_from_dlpack_versioned(&array, NULL, 0), -EINVAL);

    OK(pycrew_run(crew, "array_ops:made", "s>A", "np.arange(3.0)", &back));
    OK(pycrew_array_to_dlpack_versioned(crew, &back, &out));
    ASSERT_INT(out->major, 1);
    ASSERT_INT(out->flags, 0);
    ASSERT(((double *)out->dl_tensor.data)[2] == 2);
    out->deleter(out);
    pycrew_close(crew);
}

/* ---- without numpy -----------------------------------------------------------------------------
 */

TEST(without_numpy_arrays_are_memoryviews)
{
    static const char *const preload[] = {"no_numpy", NULL};
    pycrew_options options = test_options(1);
    pycrew_crew *crew;
    double data[3] = {1, 2, 3}, sum = 0;
    pycrew_array array = array_of(data, PYCREW_F64, 3, 0), back = PYCREW_ARRAY_INIT;
    char *text;

    options.preload = preload;
    crew = open_with(&options);
    expect_description(
        crew, &array,
        "memoryview d (3,) (8,) ro=True 000000000000f03f00000000000000400000000000000840");
    OK(pycrew_run(crew, "array_ops:sum_of", "A>d", &array, &sum));
    ASSERT(sum == 6);
    array.data = &data[2];
    array.flags = PYCREW_STRIDED;
    array.strides[0] = -8;
    OK(pycrew_run(crew, "array_ops:sum_of", "A>d", &array, &sum));
    ASSERT(sum == 6);
    OK(pycrew_run(crew, "array_ops:try_to_write", "A>s", &array, &text));
    ASSERT_STR(text, "TypeError: cannot modify read-only memory");
    free(text);
    array = array_of(doubles(crew, 3, 4), PYCREW_F64, 3, PYCREW_WRITABLE);
    OK(pycrew_run(crew, "array_ops:try_to_write", "A>s", &array, &text));
    ASSERT_STR(text, "written");
    free(text);
    ASSERT(*(double *)array.data == 9);
    OK(pycrew_run(crew, "array_ops:empty_without_numpy", "i>A", 1000, &back));
    ASSERT_INT(back.dtype, PYCREW_F64);
    ASSERT(((double *)back.data)[999] == 499.5);
    pycrew_array_drop(crew, &back);
    OK(pycrew_run(crew, "array_ops:keep_view", "A", &array));
    pycrew_free(crew, array.data);
    overwrite_free_memory(crew);
    OK(pycrew_run(crew, "array_ops:kept_first", ">d", &sum));
    ASSERT(sum == 4);
    OK(pycrew_run(crew, "array_ops:empty_fails", "s>s", "pycrew.empty(3, 'M8[s]')", &text));
    CONTAINS(text, "needs numpy");
    free(text);
    array = array_of(data, PYCREW_OTHER, 2, 0);
    array.format = "<M8[s]";
    array.itemsize = 8;
    text = describe(crew, &array);
    CONTAINS(text, "memoryview 8s (2,)");
    free(text);
    array = array_of(NULL, PYCREW_I32, 0, 0);
    text = describe(crew, &array);
    CONTAINS(text, "memoryview i (0,)");
    free(text);
    pycrew_close(crew);
}

TEST(a_crew_that_has_no_arrays_imports_no_numpy)
{
    static const char *const preload[] = {"queue_ops", NULL};
    pycrew_options options = test_options(1);
    const pycrew_function *function;
    pycrew_crew *crew;
    pycrew_call *call;
    bool has = true;

    options.preload = preload;
    crew = open_with(&options);
    OK(pycrew_function_source(crew, "f", "import sys\ndef f(x): return 'numpy' in sys.modules",
                              &function));
    OK(pycrew_prepare(crew, function, BOUND, &call));
    OK(pycrew_add(call, "i", 1));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_bool(call, &has));
    ASSERT(!has);
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- in the hands of others --------------------------------------------------------------------
 */

TEST(pandas_takes_an_array_over_uncopied)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 1000, 1);
    pycrew_array array = array_of(memory, PYCREW_F64, 1000, 0);
    int yes = 0;

    OK(pycrew_run(crew, "array_ops:has_pandas", ">p", &yes));
    if (!yes) {
        pycrew_close(crew);
        SKIP("pandas is not installed");
    }
    yes = 0;
    OK(pycrew_run(crew, "array_ops:shares_with_pandas", "A>p", &array, &yes));
    ASSERT(yes);
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

/* numpy before 2.1 gives read-only arrays to nobody. */
TEST(dlpack_takes_a_writable_array_over_uncopied)
{
    pycrew_crew *crew = open_array_crew(1);
    double *memory = doubles(crew, 1000, 1);
    pycrew_array array = array_of(memory, PYCREW_F64, 1000, PYCREW_WRITABLE);
    int yes = 0, rc;

    OK(pycrew_run(crew, "array_ops:shares_by_dlpack", "A>p", &array, &yes));
    ASSERT(yes);
    array = array_of(memory, PYCREW_F64, 1000, 0);
    rc = pycrew_run(crew, "array_ops:shares_by_dlpack", "A>p", &array, &yes);
    if (rc != 0)
        GIVES(rc, PYCREW_ERAISED);
    pycrew_free(crew, memory);
    pycrew_close(crew);
}

TAP_MAIN
