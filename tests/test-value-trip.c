/* Values there and back: every type, the edges of each, every size around those of slots and
 * blocks, keywords, containers, and some thousands of random ones. */
#include <float.h>
#include <limits.h>
#include <math.h>

#include "tests/harness/crew.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* What call_ops:shown makes of the arguments: Python's own look at them. Submits and releases. */
static void expect_shown(pycrew_call *call, const char *expected)
{
    const char *text;

    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "s", &text));
    ASSERT_STR(text, expected);
    pycrew_release(call);
}

#define SHOWN(crew, expected, ...)                                                                 \
    do {                                                                                           \
        pycrew_call *shown = prepare(crew, "call_ops:shown");                                      \
        OK(pycrew_add(shown, __VA_ARGS__));                                                        \
        expect_shown(shown, expected);                                                             \
    } while (0)

static pycrew_call *ended_value(pycrew_crew *crew, const char *expression)
{
    pycrew_call *call = SUBMIT(crew, "call_ops:value", "s", expression);

    OK(pycrew_wait(call, BOUND));
    return call;
}

/* ---- arguments, by format and by type ----------------------------------------------------------
 */

TEST(each_unit_arrives_as_its_type)
{
    pycrew_crew *crew = open_crew(1);

    SHOWN(crew, "", "");
    SHOWN(crew, "True, False, True", "ppp", 1, 0, -7);
    SHOWN(crew, "-2147483648, 2147483647", "ii", INT_MIN, INT_MAX);
    SHOWN(crew, "-9223372036854775808, 9223372036854775807", "LL", LLONG_MIN, LLONG_MAX);
    SHOWN(crew, "0, 9223372036854775808, 18446744073709551615", "KKK", 0ULL, 1ULL << 63,
          ULLONG_MAX);
    SHOWN(crew, "-9223372036854775808, -1, 9223372036854775807", "nnn", PTRDIFF_MIN, (ptrdiff_t)-1,
          PTRDIFF_MAX);
    SHOWN(crew, "0.1, -0.0, inf, -inf, nan, 5e-324, 1.7976931348623157e+308", "ddddddd", 0.1, -0.0,
          INFINITY, -INFINITY, NAN, 5e-324, DBL_MAX);
    SHOWN(crew, "0.5, 3.4028234663852886e+38", "ff", 0.5F, FLT_MAX);
    SHOWN(crew, "'', 'a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80'", "ss", "",
          "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    SHOWN(crew, "'a\\x00b', '', '\\x00'", "s#s#s#", "a\0b", (size_t)3, "", (size_t)0, "",
          (size_t)1);
    SHOWN(crew, "'x', None, 'y', None, ''", "zzz#z#z#", "x", (char *)NULL, "yz", (size_t)1,
          (char *)NULL, (size_t)0, "", (size_t)0);
    SHOWN(crew, "b'', b'\\xff\\x00', b''", "y#y#y#", "", (size_t)0, "\xff", (size_t)2, (char *)NULL,
          (size_t)0);
    SHOWN(crew, "{'a': [1, 2.5, True, None]}, 'x'", "jj#", "{\"a\": [1, 2.5, true, null]}",
          "\"x\"!", (size_t)3);
    SHOWN(crew, "{1}", "O", "cbuiltins\nset\n((I1\nltR.", (size_t)23);
    pycrew_close(crew);
}

TEST(each_add_function_arrives_as_its_type)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "call_ops:shown");

    OK(pycrew_add_none(call));
    OK(pycrew_add_bool(call, true));
    OK(pycrew_add_bool(call, false));
    OK(pycrew_add_i64(call, INT64_MIN));
    OK(pycrew_add_i64(call, INT64_MAX));
    OK(pycrew_add_u64(call, 0));
    OK(pycrew_add_u64(call, UINT64_MAX));
    OK(pycrew_add_f64(call, -2.5));
    OK(pycrew_add_str(call, "a\0b", 3));
    OK(pycrew_add_str(call, NULL, 0));
    OK(pycrew_add_bytes(call, "a\0b", 3));
    OK(pycrew_add_bytes(call, NULL, 0));
    OK(pycrew_add_json(call, "[[]]", 4));
    OK(pycrew_add_object(call, "N.", 2));
    OK(pycrew_add_bigint(call, "-10000000000000000"));
    expect_shown(call, "None, True, False, -9223372036854775808, 9223372036854775807, 0, "
                       "18446744073709551615, -2.5, 'a\\x00b', '', b'a\\x00b', b'', [[]], None, "
                       "-18446744073709551616");
    pycrew_close(crew);
}

TEST(an_int_of_any_size_arrives)
{
    static const struct {
        const char *hex, *shown;
    } ints[] = {
        {"0", "0"},
        {"-0", "0"},
        {"000000000000000000000000000000ff", "255"},
        {"FfFf", "65535"},
        {"-1", "-1"},
        {"7fffffffffffffff", "9223372036854775807"},
        {"8000000000000000", "9223372036854775808"},
        {"ffffffffffffffff", "18446744073709551615"},
        {"10000000000000000", "18446744073709551616"},
        {"-7fffffffffffffff", "-9223372036854775807"},
        {"-8000000000000000", "-9223372036854775808"},
        {"-8000000000000001", "-9223372036854775809"},
        {"-ffffffffffffffff", "-18446744073709551615"},
    };
    static const char *const wrong[] = {"", "-", "0x1", "1g", "+1", " 1", "1 ", "--1", "1-", "1.0"};
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;

    for (size_t i = 0; i < COUNT(ints); i++) {
        call = prepare(crew, "call_ops:shown");
        OK(pycrew_add_bigint(call, ints[i].hex));
        expect_shown(call, ints[i].shown);
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        call = prepare(crew, "call_ops:shown");
        GIVES(pycrew_add_bigint(call, wrong[i]), -EINVAL);
        CONTAINS(pycrew_last_error()->message, "argument 1: the int");
        pycrew_release(call);
    }
    pycrew_close(crew);
}

/* 2**70000: more decimal digits than Python converts. */
TEST(an_int_of_seventy_thousand_bits_goes_both_ways)
{
    enum { DIGITS = 70000 / 4 + 1 };
    pycrew_crew *crew = open_crew(1);
    char *hex = malloc(DIGITS + 2);

    for (int negative = 0; negative < 2; negative++) {
        pycrew_call *call = prepare(crew, "api_ops:is_big"), *back;
        const char *text;
        size_t size;
        int same = 0;

        memset(hex, '0', DIGITS + 1);
        hex[0] = '-';
        hex[negative] = '1';
        hex[negative + DIGITS] = '\0';
        OK(pycrew_add_bigint(call, hex));
        OK(pycrew_add(call, "ii", 70000, negative ? -1 : 1));
        OK(pycrew_submit(call));
        OK(pycrew_wait(call, BOUND));
        OK(pycrew_result(call, "p", &same));
        ASSERT(same);
        pycrew_release(call);
        back = ended_value(crew, negative ? "-2**70000" : "2**70000");
        ASSERT_INT(pycrew_value_type(pycrew_result_value(back)), PYCREW_TYPE_BIGINT);
        OK(pycrew_value_str(pycrew_result_value(back), &text, &size));
        ASSERT_INT(size, DIGITS + negative);
        ASSERT_STR(text, hex);
        pycrew_release(back);
    }
    free(hex);
    pycrew_close(crew);
}

TEST(keywords_arrive_under_their_names)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;

    SHOWN(crew, "1, a=2, b_2='x'", "i a=i,b_2=s", 1, 2, "x");
    SHOWN(crew, "i=1, s=2", "i=i s=i", 1, 2); /* named as units are */
    SHOWN(crew, "\xc3\xa9t\xc3\xa9=[1]", "\xc3\xa9t\xc3\xa9=[i]", 1);
    SHOWN(crew, "a=None, b={'k': (1, 2)}", "a=z b={s(ii)}", (char *)NULL, "k", 1, 2);
    call = prepare(crew, "call_ops:shown");
    OK(pycrew_add_i64(call, 1));
    OK(pycrew_add_name(call, "first"));
    OK(pycrew_add_open(call, PYCREW_LIST));
    OK(pycrew_add_i64(call, 2));
    OK(pycrew_add_close(call));
    OK(pycrew_add_name(call, "not an identifier!"));
    OK(pycrew_add_none(call));
    expect_shown(call, "1, first=[2], not an identifier!=None");
    call = prepare(crew, "call_ops:shown"); /* the value may come by another function */
    OK(pycrew_add_name(call, "a"));
    GIVES(pycrew_add(call, "i b=", 1), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "call_ops:shown");
    OK(pycrew_add_name(call, "a"));
    OK(pycrew_add(call, "i b=i", 1, 2));
    expect_shown(call, "a=1, b=2");
    pycrew_close(crew);
}

TEST(any_number_of_arguments_and_keywords_arrives)
{
    enum { MOST = 300 };
    pycrew_crew *crew = open_crew(1);
    char expected[MOST * 32], name[16];

    for (int count = 0; count <= MOST; count += count < 40 ? 1 : 52)
        for (int keywords = 0; keywords < 2; keywords++) {
            pycrew_call *call = prepare(crew, "call_ops:shown");
            size_t size = 0;

            expected[0] = '\0';
            for (int i = 0; i < count; i++) {
                snprintf(name, sizeof name, "key%d", i);
                if (keywords)
                    OK(pycrew_add_name(call, name));
                OK(pycrew_add_i64(call, i * 1001));
                size += (size_t)snprintf(expected + size, sizeof expected - size, "%s%s%s%d",
                                         i ? ", " : "", keywords ? name : "", keywords ? "=" : "",
                                         i * 1001);
            }
            expect_shown(call, expected);
        }
    pycrew_close(crew);
}

TEST(containers_nest_as_they_were_opened)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "call_ops:shown");

    SHOWN(crew, "[], (), {}, [[]], ((),), {(): []}", "[](){}[[]](()){()[]}");
    SHOWN(crew, "[1, (2, {'a': [3, 4], 5: ()}), 6], 7", "[i(i{s[ii] i()})i]i", 1, 2, "a", 3, 4, 5,
          6, 7);
    OK(pycrew_add_open(call, PYCREW_DICT));
    OK(pycrew_add_str(call, "list", 4));
    OK(pycrew_add_open(call, PYCREW_LIST));
    OK(pycrew_add(call, "i(s)", 1, "by format"));
    OK(pycrew_add_open(call, PYCREW_TUPLE));
    OK(pycrew_add_close(call));
    OK(pycrew_add_close(call));
    OK(pycrew_add_open(call, PYCREW_TUPLE)); /* a tuple as key */
    OK(pycrew_add_f64(call, 0.5));
    OK(pycrew_add_close(call));
    OK(pycrew_add_open(call, PYCREW_DICT));
    OK(pycrew_add_close(call));
    OK(pycrew_add_close(call));
    OK(pycrew_add_i64(call, 9));
    expect_shown(call, "{'list': [1, ('by format',), ()], (0.5,): {}}, 9");
    SHOWN(crew, "{1: 'b'}", "{isis}", 1, "a", 1, "b"); /* of equal keys the last one holds */
    pycrew_close(crew);
}

TEST(a_key_that_python_does_not_take_is_its_type_error)
{
    pycrew_crew *crew = open_crew(1);

    GIVES(pycrew_run(crew, "api_ops:echo", "{[i]i}>", 1, 2), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    CONTAINS(pycrew_last_error()->message, "unhashable type: 'list'");
    ASSERT(!pycrew_last_error()->may_have_run);
    pycrew_close(crew);
}

/* ---- results ------------------------------------------------------------------------------------
 */

TEST(each_result_unit_takes_its_type_to_the_edges)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;
    int p = 7, i = 7, i2 = 7;
    long long wide = 7, wide2 = 7;
    unsigned long long u = 7, u2 = 7;
    ptrdiff_t n = 7;
    double d = 7, d2 = 7, d3 = 7;
    float f = 7, f2 = 7;
    char *s = NULL, *z = NULL, *none = (char *)&s;
    void *y = NULL, *o = NULL;
    size_t size = 7, size2 = 7;

    OK(pycrew_run(crew, "call_ops:value", "s>pii", "(True, -2**31, 2**31 - 1)", &p, &i, &i2));
    ASSERT(p == 1 && i == INT_MIN && i2 == INT_MAX);
    OK(pycrew_run(crew, "call_ops:value", "s>LLn", "[-2**63, 2**63 - 1, -2**63]", &wide, &wide2,
                  &n));
    ASSERT(wide == LLONG_MIN && wide2 == LLONG_MAX && n == PTRDIFF_MIN);
    OK(pycrew_run(crew, "call_ops:value", "s>KK", "[0, 2**64 - 1]", &u, &u2));
    ASSERT(u == 0 && u2 == ULLONG_MAX);
    OK(pycrew_run(crew, "call_ops:value", "s>ddd", "[0.1, -float('inf'), 2**1023]", &d, &d2, &d3));
    ASSERT(d == 0.1 && isinf(d2) && d2 < 0 && d3 == ldexp(1, 1023));
    OK(pycrew_run(crew, "call_ops:value", "s>ff", "[3.4028234663852886e+38, float('nan')]", &f,
                  &f2));
    ASSERT(f == FLT_MAX && isnan(f2));
    OK(pycrew_run(crew, "call_ops:value", "s>iLd", "[True, False, True]", &i, &wide, &d));
    ASSERT(i == 1 && wide == 0 && d == 1); /* a bool is an int is a float */
    OK(pycrew_run(crew, "call_ops:value", "s>szz", "['\\u20ac', '', None]", &s, &z, &none));
    ASSERT_STR(s, "\xe2\x82\xac");
    ASSERT_STR(z, "");
    ASSERT(none == NULL);
    free(s);
    free(z);
    OK(pycrew_run(crew, "call_ops:value", "s>s#y#", "['a\\0b', b'']", &s, &size, &y, &size2));
    ASSERT(size == 3 && size2 == 0);
    ASSERT_MEM(s, "a\0b", 4);
    ASSERT(y != NULL); /* empty, and still the caller's to free */
    free(s);
    free(y);
    OK(pycrew_run(crew, "call_ops:value", "s>O", "{5}", &o, &size));
    OK(pycrew_run(crew, "api_ops:text_of", "O>s", o, size, &s));
    ASSERT_STR(s, "{5}");
    free(s);
    free(o);
    call = ended_value(crew, "['x', b'yz']"); /* not copies: in the result itself */
    OK(pycrew_result(call, "sy#", &s, &y, &size));
    ASSERT_STR(s, "x");
    ASSERT_MEM(y, "yz", 3);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_result_goes_into_containers_of_its_shape)
{
    pycrew_crew *crew = open_crew(1);
    int a = 0, b = 0, c = 0;
    char *k = NULL, *s = NULL;

    OK(pycrew_run(crew, "call_ops:value", "s>[ii(i)]", "[1, 2, (3,)]", &a, &b, &c));
    ASSERT(a == 1 && b == 2 && c == 3);
    OK(pycrew_run(crew, "call_ops:value", "s>{s(is)}", "{'key': (4, 'text')}", &k, &a, &s));
    ASSERT_STR(k, "key");
    ASSERT_STR(s, "text");
    ASSERT_INT(a, 4);
    free(k);
    free(s);
    OK(pycrew_run(crew, "call_ops:value", "s>()", "()"));
    OK(pycrew_run(crew, "call_ops:value", "s>[[]{}]", "[[], {}]"));
    OK(pycrew_run(crew, "call_ops:value", "s>[i],[i]", "([5], [6])", &a, &b));
    ASSERT(a == 5 && b == 6);
    OK(pycrew_run(crew, "call_ops:value", "s>", "[1, 2]")); /* discarded */
    OK(pycrew_run(crew, "call_ops:value", "s", "[1, 2]"));
    pycrew_close(crew);
}

TEST(what_is_none_of_pythons_own_types_becomes_the_nearest_one)
{
    static const struct {
        const char *expression;
        int type;
        const char *nearest;
    } values[] = {
        {"OwnInt(5)", PYCREW_TYPE_INT, "5"},
        {"OwnInt(2**100)", PYCREW_TYPE_BIGINT, "2**100"},
        {"OwnStr('x')", PYCREW_TYPE_STR, "'x'"},
        {"OwnList([1, OwnList()])", PYCREW_TYPE_LIST, "[1, []]"},
        {"OwnDict(a=1)", PYCREW_TYPE_DICT, "{'a': 1}"},
        {"Point(1, 2)", PYCREW_TYPE_TUPLE, "(1, 2)"},
        {"Colour.RED", PYCREW_TYPE_INT, "3"},
        {"Indexed()", PYCREW_TYPE_INT, "77"},
        {"collections.OrderedDict(a=1)", PYCREW_TYPE_DICT, "{'a': 1}"},
        {"collections.Counter('aab')", PYCREW_TYPE_DICT, "{'a': 2, 'b': 1}"},
        {"{1, 2}", PYCREW_TYPE_OBJECT, NULL},
        {"1j", PYCREW_TYPE_OBJECT, NULL},
        {"range(3)", PYCREW_TYPE_OBJECT, NULL},
        {"bytearray(b'x')", PYCREW_TYPE_ARRAY, NULL}, /* tests/test-array.c */
        {"OwnError", PYCREW_TYPE_OBJECT, NULL}, /* a class, by its name */
    };
    pycrew_crew *crew = open_crew(1);

    for (size_t i = 0; i < COUNT(values); i++) {
        pycrew_call *call = ended_value(crew, values[i].expression), *back;
        pycrew_value value = pycrew_result_value(call);
        const void *pickle;
        int64_t number;
        size_t size;
        int same = 0;

        if (pycrew_value_type(value) != values[i].type)
            tap_fail("%s is of type %d, expected %d", values[i].expression,
                     pycrew_value_type(value), values[i].type);
        back = prepare(crew, "call_ops:is_value");
        if (values[i].type == PYCREW_TYPE_OBJECT) {
            OK(pycrew_value_bytes(value, &pickle, &size));
            OK(pycrew_add_object(back, pickle, size));
            OK(pycrew_add(back, "s", values[i].expression));
        } else if (values[i].type == PYCREW_TYPE_INT) {
            OK(pycrew_value_i64(value, &number));
            OK(pycrew_add_i64(back, number));
            OK(pycrew_add(back, "s", values[i].nearest));
        } else {
            pycrew_release(back);
            pycrew_release(call);
            continue; /* its contents are looked at elsewhere */
        }
        OK(pycrew_submit(back));
        OK(pycrew_wait(back, BOUND));
        OK(pycrew_result(back, "p", &same));
        if (!same)
            tap_fail("%s did not come back", values[i].expression);
        pycrew_release(back);
        pycrew_release(call);
    }
    pycrew_close(crew);
}

TEST(an_object_of_the_callers_own_class_goes_both_ways)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *call = SUBMIT(crew, "api_ops:thing", "i", 42);
    const void *pickle = NULL;
    size_t size = 0;
    int value = 0;

    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "O", &pickle, &size));
    for (int i = 0; i < 20; i++) {
        OK(pycrew_run(crew, "api_ops:thing_value", "O>i", pickle, size, &value));
        ASSERT_INT(value, 42);
    }
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(numpys_scalars_are_what_they_hold)
{
    pycrew_crew *crew = open_crew(1);
    int present = 0, p = 0, i = 0;
    double d = 0, d2 = 0;
    char *s = NULL;

    OK(pycrew_run(crew, "call_ops:value", "s>p",
                  "__import__('importlib.util').util.find_spec('numpy') is not None", &present));
    if (!present) {
        pycrew_close(crew);
        SKIP("numpy is not installed");
    }
    OK(pycrew_run(crew, "call_ops:numpy_value", "s>pidds",
                  "[numpy.bool_(True), numpy.int8(-3), numpy.float32(1.5), numpy.array(2.5), "
                  "numpy.str_('text')]",
                  &p, &i, &d, &d2, &s));
    ASSERT(p == 1 && i == -3 && d == 1.5 && d2 == 2.5);
    ASSERT_STR(s, "text");
    free(s);
    GIVES(pycrew_run(crew, "call_ops:numpy_value", "s>i", "numpy.arange(3)", &i), PYCREW_ETYPE);
    pycrew_close(crew);
}

TEST(json_goes_both_ways)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:echo");
    const char *at;
    char *text = NULL;
    size_t size = 0;

    OK(pycrew_run(crew, "api_ops:echo", "j>j", "{\"a\": [1, null, \"\\u20ac\"]}", &text));
    ASSERT_STR(text, "{\"a\": [1, null, \"\xe2\x82\xac\"]}");
    free(text);
    OK(pycrew_run(crew, "call_ops:value", "s>j#", "[b'\\xff\\x00', 2**70, (1,), {3: None}]", &text,
                  &size));
    ASSERT_STR(text, "[\"/wA=\", 1180591620717411303424, [1], {\"3\": null}]");
    ASSERT_INT(size, strlen(text));
    free(text);
    OK(pycrew_add(call, "[ii]>j", 1, 2)); /* a format told before submit, that the result be JSON */
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_json(call, &at, &size));
    ASSERT_STR(at, "[1, 2]");
    OK(pycrew_result(call, "j", &at));
    ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_JSON);
    OK(pycrew_value_str(pycrew_result_value(call), &at, &size));
    ASSERT_STR(at, "[1, 2]");
    pycrew_release(call);
    call = prepare(crew, "api_ops:echo");
    OK(pycrew_set_json(call, true));
    OK(pycrew_set_json(call, false));
    OK(pycrew_add(call, "i", 5));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    GIVES(pycrew_result_json(call, &at, &size), PYCREW_ETYPE);
    GIVES(pycrew_result(call, "j", &at), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "the call must be told before it is submitted");
    pycrew_release(call);
    GIVES(pycrew_run(crew, "call_ops:value", "s>j", "{1}", &text), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    CONTAINS(pycrew_last_error()->message, "Object of type set is not JSON serializable");
    pycrew_close(crew);
}

/* ---- the walk
 * ------------------------------------------------------------------------------------ */

static void expect_type(pycrew_value value, int type)
{
    ASSERT_INT(pycrew_value_type(value), type);
}

static void expect_int(pycrew_value value, int64_t expected)
{
    int64_t number = -77;

    OK(pycrew_value_i64(value, &number));
    ASSERT_INT(number, expected);
}

TEST(a_result_is_walked_through)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = ended_value(
        crew, "[None, True, -5, 2**64, 0.5, 'a\\0b', b'c', [], (1, 2), {'k': 3, 4: 'v'}, {5}]");
    static const int types[] = {PYCREW_TYPE_NONE,   PYCREW_TYPE_BOOL,  PYCREW_TYPE_INT,
                                PYCREW_TYPE_BIGINT, PYCREW_TYPE_FLOAT, PYCREW_TYPE_STR,
                                PYCREW_TYPE_BYTES,  PYCREW_TYPE_LIST,  PYCREW_TYPE_TUPLE,
                                PYCREW_TYPE_DICT,   PYCREW_TYPE_OBJECT};
    pycrew_value all = pycrew_result_value(call), at = pycrew_value_item(all, 0), dict;
    const char *text;
    const void *data;
    uint64_t number;
    double real;
    size_t size;
    bool yes;

    expect_type(all, PYCREW_TYPE_LIST);
    ASSERT_INT(pycrew_value_count(all), COUNT(types));
    for (size_t i = 0; i < COUNT(types); i++, at = pycrew_value_next(at)) {
        expect_type(at, types[i]);
        expect_type(pycrew_value_item(all, i), types[i]);
    }
    expect_type(at, PYCREW_TYPE_INVALID); /* behind the last */
    OK(pycrew_value_bool(pycrew_value_item(all, 1), &yes));
    ASSERT(yes);
    expect_int(pycrew_value_item(all, 2), -5);
    OK(pycrew_value_f64(pycrew_value_item(all, 3), &real));
    ASSERT(real == ldexp(1, 64));
    OK(pycrew_value_f64(pycrew_value_item(all, 4), &real));
    ASSERT(real == 0.5);
    OK(pycrew_value_str(pycrew_value_item(all, 5), &text, &size));
    ASSERT_INT(size, 3);
    OK(pycrew_value_bytes(pycrew_value_item(all, 6), &data, &size));
    ASSERT_MEM(data, "c", 2);
    ASSERT_INT(pycrew_value_count(pycrew_value_item(all, 7)), 0);
    expect_int(pycrew_value_item(pycrew_value_item(all, 8), 1), 2);
    dict = pycrew_value_item(all, 9);
    ASSERT_INT(pycrew_value_count(dict), 2);
    expect_int(pycrew_value_get(dict, "k"), 3);
    expect_int(pycrew_value_item(dict, 1), 3);
    expect_int(pycrew_value_item(dict, 2), 4);
    OK(pycrew_value_u64(pycrew_value_item(dict, 1), &number));
    ASSERT_INT(number, 3);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_walk_into_nothing_finds_nothing)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = ended_value(crew, "[5, 'text', {'k': 3}]");
    pycrew_value all = pycrew_result_value(call), none = {0}, number = pycrew_value_item(all, 0),
                 text = pycrew_value_item(all, 1), dict = pycrew_value_item(all, 2);
    const void *data = call;
    const char *s = "as it was";
    int64_t i = 77;
    uint64_t u = 77;
    double f = 77;
    size_t size = 77;
    bool b = true;

    expect_type(none, PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_item(all, 3), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_item(all, SIZE_MAX), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_item(number, 0), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_item(text, 0), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_item(dict, 2), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_next(all), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_next(pycrew_value_item(dict, 1)), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_next(none), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_get(all, "k"), PYCREW_TYPE_INVALID); /* no dict */
    expect_type(pycrew_value_get(text, "text"), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_get(dict, "other"), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_get(dict, ""), PYCREW_TYPE_INVALID);
    expect_type(pycrew_value_get(none, "k"), PYCREW_TYPE_INVALID);
    ASSERT_INT(pycrew_value_count(number), 0);
    ASSERT_INT(pycrew_value_count(text), 0);
    ASSERT_INT(pycrew_value_count(none), 0);
    GIVES(pycrew_value_i64(text, &i), PYCREW_ETYPE);
    CONTAINS(pycrew_last_error()->message, "value: expected int, got str");
    GIVES(pycrew_value_u64(all, &u), PYCREW_ETYPE);
    GIVES(pycrew_value_f64(dict, &f), PYCREW_ETYPE);
    GIVES(pycrew_value_bool(number, &b), PYCREW_ETYPE);
    GIVES(pycrew_value_str(number, &s, &size), PYCREW_ETYPE);
    GIVES(pycrew_value_bytes(text, &data, &size), PYCREW_ETYPE);
    GIVES(pycrew_value_i64(none, &i), PYCREW_ETYPE);
    GIVES(pycrew_value_str(none, &s, &size), PYCREW_ETYPE);
    ASSERT(i == 77 && u == 77 && f == 77 && size == 77 && b && data == call);
    ASSERT_STR(s, "as it was");
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- sizes
 * ---------------------------------------------------------------------------------------- */

static char pattern[(4 << 20) + 600];

static void make_pattern(void)
{
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = (char)(i % 251);
}

static void trip(pycrew_crew *crew, size_t size)
{
    int seed = (int)(size % 251);
    pycrew_call *call = SUBMIT(crew, "call_ops:echo_and_check", "y#nn", pattern + seed, size,
                               (ptrdiff_t)size, (ptrdiff_t)seed);
    const void *data;
    size_t got;

    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result_bytes(call, &data, &got));
    ASSERT_INT(got, size);
    if (memcmp(data, pattern + seed, size) != 0)
        tap_fail("%zu bytes came back as others", size);
    ASSERT(((const char *)data)[size] == '\0');
    ASSERT((uintptr_t)data % 8 == 0);
    pycrew_release(call);
}

/* 88 bytes of arguments and 64 of result stand in the slot. */
TEST(bytes_of_every_size_around_the_slots_come_back)
{
    pycrew_crew *crew = open_crew(1);

    make_pattern();
    for (size_t size = 0; size <= 300; size++)
        trip(crew, size);
    for (size_t size = 301; size <= 5000; size += 13)
        trip(crew, size);
    pycrew_close(crew);
}

/* Blocks are powers of two; what stands in front of the bytes is less than 64. */
TEST(bytes_of_every_size_around_the_blocks_come_back)
{
    pycrew_crew *crew = open_crew(2);

    make_pattern();
    for (size_t block = 256; block <= 1 << 20; block *= 2)
        for (size_t size = block - 66; size <= block + 1; size++)
            trip(crew, size);
    for (size_t block = 2 << 20; block <= 4 << 20; block *= 2)
        for (size_t size = block - 66; size <= block + 1; size += 8)
            trip(crew, size);
    pycrew_close(crew);
}

TEST(texts_of_every_size_around_the_slots_come_back)
{
    enum { MOST = 200 };
    pycrew_crew *crew = open_crew(1);
    char text[MOST + 1] = "", *back;
    int length;

    for (size_t size = 0; size <= MOST; size++) {
        back = NULL;
        OK(pycrew_run(crew, "api_ops:echo", "s>s", text, &back));
        ASSERT_STR(back, text);
        free(back);
        OK(pycrew_run(crew, "api_ops:length", "s>i", text, &length));
        ASSERT_INT(length, size);
        text[size] = (char)('a' + size % 26);
    }
    pycrew_close(crew);
}

TEST(many_results_of_all_sizes_stay_as_they_are_until_their_release)
{
    enum { CALLS = 400 };
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[CALLS];

    make_pattern();
    for (int i = 0; i < CALLS; i++) {
        size_t size = (size_t)i * (size_t)i;

        calls[i] = SUBMIT(crew, "call_ops:echo_and_check", "y#nn", pattern + i % 251, size,
                          (ptrdiff_t)size, (ptrdiff_t)(i % 251));
    }
    for (int i = CALLS - 1; i >= 0; i--)
        OK(pycrew_wait(calls[i], BOUND));
    for (int i = 0; i < CALLS; i++) {
        const void *data;
        size_t size;

        OK(pycrew_result_bytes(calls[i], &data, &size));
        ASSERT_INT(size, i * i);
        ASSERT(memcmp(data, pattern + i % 251, size) == 0);
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

/* ---- random values
 * ---------------------------------------------------------------------------------
 *
 * A value is what a generator draws from a seed. It is drawn three times from the same seed: into
 * the call, as Python source (for the smaller ones), and while the result is walked. Echo alone
 * would not see a mistake that undoes itself on the way back: Python compares, too. */

typedef struct generator {
    uint64_t state;
    bool large; /* some texts and bytes are as large as blocks */
} generator;

static uint64_t draw(generator *from)
{
    uint64_t z = from->state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint64_t below(generator *from, uint64_t limit)
{
    return draw(from) % limit;
}

enum kind { NONE, BOOL, I64, U64, BIGINT, F64, STR, BYTES, LIST, TUPLE, DICT, KINDS };

enum { DEPTH_MAX = 6, TEXT_MAX = 1 << 20 };

typedef struct drawn {
    enum kind kind;
    uint64_t bits; /* of what is a number */
    size_t size;   /* of text and bytes; items; pairs */
} drawn;

static char text[TEXT_MAX + 8]; /* of the value drawn last */

static size_t draw_size(generator *from)
{
    static const size_t limits[] = {1, 8, 24, 100, 1000};

    if (from->large && below(from, 16) == 0)
        return below(from, TEXT_MAX);
    return below(from, limits[below(from, COUNT(limits))]);
}

static size_t put_character(char *at, uint64_t code)
{
    if (code < 0x80) {
        at[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        at[0] = (char)(0xc0 | code >> 6);
        at[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        at[0] = (char)(0xe0 | code >> 12);
        at[1] = (char)(0x80 | (code >> 6 & 0x3f));
        at[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    at[0] = (char)(0xf0 | code >> 18);
    at[1] = (char)(0x80 | (code >> 12 & 0x3f));
    at[2] = (char)(0x80 | (code >> 6 & 0x3f));
    at[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

static uint64_t draw_character(generator *from)
{
    static const uint64_t limits[] = {0x80, 0x80, 0x800, 0x10000, 0x110000};
    uint64_t code = below(from, limits[below(from, COUNT(limits))]);

    return code >= 0xd800 && code < 0xe000 ? 'x' : code; /* no surrogates */
}

static size_t draw_text(generator *from, size_t wanted)
{
    size_t size = 0;

    while (size < wanted)
        size += put_character(text + size, draw_character(from));
    return size;
}

static void draw_bytes(generator *from, size_t size)
{
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = draw(from);

        memcpy(text + i, &word, 8);
    }
}

/* Hexadecimal, beyond 64 bits. */
static size_t draw_hex(generator *from)
{
    size_t size = 0, digits = 17 + below(from, 200);

    if (below(from, 2))
        text[size++] = '-';
    text[size++] = "123456789abcdef"[below(from, 15)];
    for (size_t i = 1; i < digits; i++)
        text[size++] = "0123456789abcdef"[below(from, 16)];
    text[size] = '\0';
    return size;
}

static drawn draw_value(generator *from, int depth)
{
    drawn value = {.kind = (enum kind)below(from, depth < DEPTH_MAX ? KINDS : LIST)};

    switch (value.kind) {
    case BOOL:
        value.bits = below(from, 2);
        break;
    case I64: /* of any width */
        value.bits = (uint64_t)((int64_t)draw(from) >> below(from, 64));
        break;
    case U64:
        value.bits = draw(from) | UINT64_C(1) << 63;
        break;
    case F64: /* any pattern: NaNs, infinities and subnormals among them */
        value.bits = below(from, 4) ? draw(from) : below(from, 4) << 62 | UINT64_C(0x7ff) << 52;
        break;
    case BIGINT:
        value.size = draw_hex(from);
        break;
    case STR:
        value.size = draw_text(from, draw_size(from));
        break;
    case BYTES:
        draw_bytes(from, value.size = draw_size(from));
        break;
    case LIST:
    case TUPLE:
    case DICT:
        value.size = below(from, 5);
        break;
    default:
        break;
    }
    return value;
}

static double double_of(uint64_t bits)
{
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- into a call ---- */

static void add_random(generator *from, pycrew_call *call, int depth);

static void add_container(generator *from, pycrew_call *call, const drawn *value, int depth)
{
    OK(pycrew_add_open(call, value->kind == LIST    ? PYCREW_LIST
                             : value->kind == TUPLE ? PYCREW_TUPLE
                                                    : PYCREW_DICT));
    for (size_t i = 0; i < value->size; i++) {
        if (value->kind == DICT)
            OK(pycrew_add_i64(call, (int64_t)i));
        add_random(from, call, depth + 1);
    }
    OK(pycrew_add_close(call));
}

static void add_random(generator *from, pycrew_call *call, int depth)
{
    drawn value = draw_value(from, depth);

    switch (value.kind) {
    case NONE:
        OK(pycrew_add_none(call));
        break;
    case BOOL:
        OK(pycrew_add_bool(call, value.bits != 0));
        break;
    case I64:
        OK(pycrew_add_i64(call, (int64_t)value.bits));
        break;
    case U64:
        OK(pycrew_add_u64(call, value.bits));
        break;
    case BIGINT:
        OK(pycrew_add_bigint(call, text));
        break;
    case F64:
        OK(pycrew_add_f64(call, double_of(value.bits)));
        break;
    case STR:
        OK(pycrew_add_str(call, text, value.size));
        break;
    case BYTES:
        OK(pycrew_add_bytes(call, text, value.size));
        break;
    default:
        add_container(from, call, &value, depth);
    }
}

/* ---- as Python source ---- */

typedef struct source {
    char *text;
    size_t size, capacity; /* of it; size stays at capacity where it does not fit */
} source;

static void TAP_PRINTF(2, 3) say(source *to, const char *format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(to->text + to->size, to->capacity - to->size, format, arguments);
    va_end(arguments);
    to->size =
        (size_t)length < to->capacity - to->size ? to->size + (size_t)length : to->capacity - 1;
}

static void say_data(source *to, size_t size, const char *before, const char *after)
{
    say(to, "%s", before);
    for (size_t i = 0; i < size && to->size + 8 < to->capacity; i++)
        say(to, "\\x%02x", (unsigned)(unsigned char)text[i]);
    say(to, "%s", after);
}

static void say_random(generator *from, source *to, int depth)
{
    drawn value = draw_value(from, depth);

    switch (value.kind) {
    case NONE:
        say(to, "None");
        break;
    case BOOL:
        say(to, "%s", value.bits ? "True" : "False");
        break;
    case I64:
        say(to, "%lld", (long long)value.bits);
        break;
    case U64:
        say(to, "%llu", (unsigned long long)value.bits);
        break;
    case BIGINT:
        say(to, "int('%s', 16)", text);
        break;
    case F64:
        say(to, isnan(double_of(value.bits)) ? "float('nan')" : "float.fromhex('%a')",
            double_of(value.bits));
        break;
    case STR:
        say_data(to, value.size, "b'", "'.decode()");
        break;
    case BYTES:
        say_data(to, value.size, "b'", "'");
        break;
    default:
        say(to, value.kind == LIST ? "[" : value.kind == TUPLE ? "(" : "{");
        for (size_t i = 0; i < value.size; i++) {
            if (value.kind == DICT)
                say(to, "%zu: ", i);
            say_random(from, to, depth + 1);
            say(to, ", ");
        }
        say(to, value.kind == LIST ? "]" : value.kind == TUPLE ? ")" : "}");
        break;
    }
}

/* ---- out of a result ---- */

static bool is_data(pycrew_value at, const drawn *value)
{
    const void *data = NULL;
    const char *string = NULL;
    size_t size = SIZE_MAX;

    if (value->kind == BYTES)
        OK(pycrew_value_bytes(at, &data, &size));
    else
        OK(pycrew_value_str(at, &string, &size));
    return size == value->size && memcmp(data != NULL ? data : string, text, size) == 0;
}

static bool is_random(generator *from, pycrew_value at, int depth);

static bool is_container(generator *from, pycrew_value at, const drawn *value, int depth)
{
    pycrew_value item = pycrew_value_item(at, 0);
    int64_t key;

    if (pycrew_value_count(at) != value->size)
        return false;
    for (size_t i = 0; i < value->size; i++, item = pycrew_value_next(item)) {
        if (value->kind == DICT) {
            if (pycrew_value_i64(item, &key) < 0 || key != (int64_t)i)
                return false;
            item = pycrew_value_next(item);
        }
        if (!is_random(from, item, depth + 1))
            return false;
    }
    return pycrew_value_type(item) == PYCREW_TYPE_INVALID;
}

/* The same bits, but for a NaN's, of which Python may keep others. */
static bool is_double(pycrew_value at, uint64_t bits)
{
    double got, expected = double_of(bits);

    OK(pycrew_value_f64(at, &got));
    return isnan(expected) ? isnan(got) : memcmp(&got, &expected, sizeof got) == 0;
}

static bool is_random(generator *from, pycrew_value at, int depth)
{
    static const int types[KINDS] = {
        [NONE] = PYCREW_TYPE_NONE,   [BOOL] = PYCREW_TYPE_BOOL,     [I64] = PYCREW_TYPE_INT,
        [U64] = PYCREW_TYPE_INT,     [BIGINT] = PYCREW_TYPE_BIGINT, [F64] = PYCREW_TYPE_FLOAT,
        [STR] = PYCREW_TYPE_STR,     [BYTES] = PYCREW_TYPE_BYTES,   [LIST] = PYCREW_TYPE_LIST,
        [TUPLE] = PYCREW_TYPE_TUPLE, [DICT] = PYCREW_TYPE_DICT,
    };
    drawn value = draw_value(from, depth);
    int64_t number = 0;
    uint64_t word = 0;
    bool yes = false;

    if (pycrew_value_type(at) != types[value.kind])
        return false;
    switch (value.kind) {
    case NONE:
        return true;
    case BOOL:
        return pycrew_value_bool(at, &yes) == 0 && yes == (value.bits != 0);
    case I64:
        return pycrew_value_i64(at, &number) == 0 && number == (int64_t)value.bits;
    case U64:
        return pycrew_value_u64(at, &word) == 0 && word == value.bits;
    case F64:
        return is_double(at, value.bits);
    case BIGINT:
    case STR:
    case BYTES:
        return is_data(at, &value);
    default:
        return is_container(from, at, &value, depth);
    }
}

/* ---- the property ---- */

enum { IN_FLIGHT = 16, ARGUMENTS_MAX = 4, SOURCE_MAX = 20000 };

/* A list of a few values, in a call to a function that checks it where it can, and gives it back.
 */
static pycrew_call *send_random(pycrew_crew *crew, uint64_t seed, bool large, source *to)
{
    generator from = {seed, large};
    pycrew_call *call = prepare(crew, "call_ops:echo_if_equal");
    uint64_t count = below(&from, ARGUMENTS_MAX);

    to->size = 0;
    say(to, "[");
    OK(pycrew_add_open(call, PYCREW_LIST));
    for (uint64_t i = 0; i < count; i++) {
        generator again = from;

        add_random(&from, call, 0);
        say_random(&again, to, 0);
        say(to, ", ");
    }
    OK(pycrew_add_close(call));
    say(to, "]");
    if (to->size < to->capacity - 8)
        OK(pycrew_add(call, "expression=s#", to->text, to->size));
    OK(pycrew_submit(call));
    return call;
}

static void receive_random(pycrew_call *call, uint64_t seed, bool large)
{
    generator from = {seed, large};
    uint64_t count = below(&from, ARGUMENTS_MAX);
    pycrew_value all, at;

    if (pycrew_wait(call, BOUND) < 0)
        tap_fail("seed %llu: %s: %s", (unsigned long long)seed, pycrew_last_error()->type,
                 pycrew_last_error()->message);
    all = pycrew_result_value(call);
    ASSERT_INT(pycrew_value_type(all), PYCREW_TYPE_LIST);
    ASSERT_INT(pycrew_value_count(all), count);
    at = pycrew_value_item(all, 0);
    for (uint64_t i = 0; i < count; i++, at = pycrew_value_next(at))
        if (!is_random(&from, at, 0))
            tap_fail("seed %llu: argument %llu came back as another", (unsigned long long)seed,
                     (unsigned long long)i);
    pycrew_release(call);
}

static void random_values_come_back(uint64_t first, int count, bool large)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[IN_FLIGHT] = {NULL};
    source to = {.text = malloc(SOURCE_MAX), .capacity = SOURCE_MAX};

    for (int i = 0; i < count + IN_FLIGHT; i++) {
        uint64_t seed = first + (uint64_t)i;

        if (i >= IN_FLIGHT)
            receive_random(calls[i % IN_FLIGHT], seed - IN_FLIGHT, large);
        if (i < count)
            calls[i % IN_FLIGHT] = send_random(crew, seed, large, &to);
    }
    free(to.text);
    pycrew_close(crew);
}

TEST(random_values_come_back_equal)
{
    random_values_come_back(1, 4000, false);
}

TEST(random_values_as_large_as_blocks_come_back_equal)
{
    random_values_come_back(1000000, 400, true);
}

TAP_MAIN
