/* Single calls: values of all types both ways, errors that say what is wrong, the order of a call's
 * life, and memory. */
#include <float.h>
#include <limits.h>
#include <math.h>

#include "tests/harness/crew.h"

/* ---- values ---------------------------------------------------------------------------------- */

TEST(ints_go_and_come_back)
{
    static const long long values[] = {0, 1, -1, 127, 255, INT_MAX, INT_MIN, LLONG_MAX, LLONG_MIN};
    pycrew_crew *crew = open_crew(1);

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        long long value = 99;

        OK(pycrew_run(crew, "api_ops:echo", "L>L", values[i], &value));
        ASSERT_INT(value, values[i]);
    }
    int small;
    ptrdiff_t difference;
    unsigned long long large;
    OK(pycrew_run(crew, "api_ops:echo", "i>i", -5, &small));
    ASSERT_INT(small, -5);
    OK(pycrew_run(crew, "api_ops:echo", "n>n", (ptrdiff_t)-6, &difference));
    ASSERT_INT(difference, -6);
    OK(pycrew_run(crew, "api_ops:echo", "K>K", ULLONG_MAX, &large));
    ASSERT(large == ULLONG_MAX);
    pycrew_close(crew);
}

TEST(floats_go_and_come_back)
{
    static const double values[] = {0.0, -0.0, 1.5, DBL_MAX, DBL_MIN, 5e-324, INFINITY, -INFINITY};
    pycrew_crew *crew = open_crew(1);
    double value;
    float single;

    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        OK(pycrew_run(crew, "api_ops:echo", "d>d", values[i], &value));
        ASSERT_MEM(&value, &values[i], sizeof value);
    }
    OK(pycrew_run(crew, "api_ops:echo", "d>d", (double)NAN, &value));
    ASSERT(isnan(value));
    OK(pycrew_run(crew, "api_ops:echo", "f>f", 0.25, &single));
    ASSERT(single == 0.25F);
    OK(pycrew_run(crew, "api_ops:echo", "i>d", 7, &value)); /* an int is a float to C */
    ASSERT(value == 7);
    pycrew_close(crew);
}

TEST(bools_and_none_go_and_come_back)
{
    pycrew_crew *crew = open_crew(1);
    int truth = 9;
    char *text = (char *)"before";

    OK(pycrew_run(crew, "api_ops:echo", "p>p", 5, &truth));
    ASSERT_INT(truth, 1);
    OK(pycrew_run(crew, "api_ops:echo", "p>p", 0, &truth));
    ASSERT_INT(truth, 0);
    OK(pycrew_run(crew, "api_ops:echo", "z>z", NULL, &text));
    ASSERT(text == NULL);
    OK(pycrew_run(crew, "api_ops:echo", "z>z", "there", &text));
    ASSERT_STR(text, "there");
    free(text);
    OK(pycrew_run(crew, "api_ops:kind", "p>s", 1, &text));
    ASSERT_STR(text, "bool");
    free(text);
    pycrew_close(crew);
}

TEST(text_goes_and_comes_back)
{
    static const char utf8[] = "gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\x8d", nul[] = "a\0b";
    pycrew_crew *crew = open_crew(1);
    char *text;
    size_t size;
    int length;

    OK(pycrew_run(crew, "api_ops:echo", "s>s", utf8, &text));
    ASSERT_STR(text, utf8);
    free(text);
    OK(pycrew_run(crew, "api_ops:length", "s>i", utf8, &length));
    ASSERT_INT(length, 6);
    OK(pycrew_run(crew, "api_ops:echo", "s>s#", "", &text, &size));
    ASSERT_INT(size, 0);
    ASSERT_STR(text, "");
    free(text);
    OK(pycrew_run(crew, "api_ops:echo", "s#>s#", nul, (size_t)3, &text, &size));
    ASSERT_INT(size, 3);
    ASSERT_MEM(text, nul, 4); /* NUL-terminated too */
    free(text);
    pycrew_close(crew);
}

TEST(a_nul_in_a_result_for_s_is_an_error)
{
    pycrew_crew *crew = open_crew(1);
    char *text = (char *)"untouched";

    GIVES(pycrew_run(crew, "api_ops:echo", "s#>s", "a\0b", (size_t)3, &text), -EINVAL);
    ASSERT_STR(text, "untouched");
    CONTAINS(pycrew_last_error()->message, "NUL");
    pycrew_close(crew);
}

TEST(text_that_is_not_utf8_is_refused)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;

    GIVES(pycrew_run(crew, "api_ops:echo", "s>", "ab\xff"), -EINVAL);
    CONTAINS(pycrew_last_error()->message, "byte 2");
    GIVES(pycrew_run(crew, "api_ops:echo", "s#>", "\xed\xa0\x80", (size_t)3), -EINVAL); /* half a pair */
    call = prepare(crew, "api_ops:echo");
    GIVES(pycrew_add_str(call, "\xc3", 1), -EINVAL);
    GIVES(pycrew_submit(call), -EINVAL); /* can only be released */
    GIVES(pycrew_add_i64(call, 1), -EINVAL);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_result_that_is_not_utf8_is_an_error)
{
    pycrew_crew *crew = open_crew(1);
    char *text;

    GIVES(pycrew_run(crew, "api_ops:evaluate", "s>s", "'half \\ud800'", &text), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->type, "UnicodeEncodeError");
    pycrew_close(crew);
}

TEST(bytes_go_and_come_back)
{
    pycrew_crew *crew = open_crew(1);
    char data[256], *back;
    size_t size;

    for (int i = 0; i < 256; i++)
        data[i] = (char)i;
    OK(pycrew_run(crew, "api_ops:echo", "y#>y#", data, sizeof data, &back, &size));
    ASSERT_INT(size, 256);
    ASSERT_MEM(back, data, size);
    free(back);
    OK(pycrew_run(crew, "api_ops:echo", "y#>y#", NULL, (size_t)0, &back, &size));
    ASSERT_INT(size, 0);
    free(back);
    pycrew_close(crew);
}

TEST(ints_of_any_size_go_and_come_back)
{
    pycrew_crew *crew = open_crew(1);

    for (int sign = -1; sign <= 1; sign += 2) {
        size_t digits = 70000 / 4 + 1, size;
        char *hex = malloc(digits + 2);
        pycrew_call *call = prepare(crew, "api_ops:is_big");
        const char *back;
        bool is_big = false;
        int64_t narrow;

        snprintf(hex, digits + 2, "%s1%0*d", sign < 0 ? "-" : "", (int)digits - 1, 0);
        OK(pycrew_add_bigint(call, hex));
        OK(pycrew_add(call, "ii", 70000, sign));
        OK(pycrew_submit(call));
        OK(pycrew_wait(call, BOUND));
        OK(pycrew_result_bool(call, &is_big));
        ASSERT(is_big);
        pycrew_release(call);

        call = prepare(crew, "api_ops:echo");
        OK(pycrew_add_bigint(call, hex));
        OK(pycrew_submit(call));
        OK(pycrew_wait(call, BOUND));
        ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_BIGINT);
        OK(pycrew_value_str(pycrew_result_value(call), &back, &size));
        ASSERT_INT(size, strlen(hex));
        ASSERT_MEM(back, hex, size);
        GIVES(pycrew_result_i64(call, &narrow), -ERANGE);
        pycrew_release(call);
        free(hex);
    }
    pycrew_close(crew);
}

TEST(containers_go_and_come_back)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = SUBMIT(crew, "api_ops:echo", "[i(sd){si s[]}z]", 1, "two", 3.5, "k", 4, "e",
                               NULL);
    pycrew_value list, tuple, dict;
    const char *text;
    int64_t number;
    double real;

    OK(pycrew_wait(call, BOUND));
    list = pycrew_result_value(call);
    ASSERT_INT(pycrew_value_type(list), PYCREW_TYPE_LIST);
    ASSERT_INT(pycrew_value_count(list), 4);
    tuple = pycrew_value_item(list, 1);
    ASSERT_INT(pycrew_value_type(tuple), PYCREW_TYPE_TUPLE);
    OK(pycrew_value_f64(pycrew_value_item(tuple, 1), &real));
    ASSERT(real == 3.5);
    dict = pycrew_value_next(tuple);
    ASSERT_INT(pycrew_value_type(dict), PYCREW_TYPE_DICT);
    ASSERT_INT(pycrew_value_count(dict), 2);
    OK(pycrew_value_i64(pycrew_value_get(dict, "k"), &number));
    ASSERT_INT(number, 4);
    ASSERT_INT(pycrew_value_type(pycrew_value_get(dict, "e")), PYCREW_TYPE_LIST);
    ASSERT_INT(pycrew_value_type(pycrew_value_get(dict, "not there")), PYCREW_TYPE_INVALID);
    OK(pycrew_value_str(pycrew_value_item(dict, 0), &text, NULL));
    ASSERT_STR(text, "k");
    ASSERT_INT(pycrew_value_type(pycrew_value_item(list, 3)), PYCREW_TYPE_NONE);
    ASSERT_INT(pycrew_value_type(pycrew_value_item(list, 4)), PYCREW_TYPE_INVALID);
    ASSERT_INT(pycrew_value_type(pycrew_value_next(pycrew_value_item(list, 3))),
               PYCREW_TYPE_INVALID);
    int a, b;
    OK(pycrew_result(call, "[i(sd){si s[]}z]", &a, &text, &real, &text, &b, &text, &text));
    ASSERT_INT(a, 1);
    ASSERT_INT(b, 4);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(several_units_take_a_sequence_of_that_length)
{
    pycrew_crew *crew = open_crew(1);
    int a = 0, b = 0, c = 0;

    OK(pycrew_run(crew, "api_ops:evaluate", "s>iii", "(1, 2, 3)", &a, &b, &c));
    ASSERT_INT(a * 100 + b * 10 + c, 123);
    a = b = 0;
    GIVES(pycrew_run(crew, "api_ops:evaluate", "s>ii", "[1, 2, 3]", &a, &b), PYCREW_ETYPE);
    GIVES(pycrew_run(crew, "api_ops:evaluate", "s>ii", "[1]", &a, &b), PYCREW_ETYPE);
    GIVES(pycrew_run(crew, "api_ops:evaluate", "s>ii", "'ab'", &a, &b), PYCREW_ETYPE);
    GIVES(pycrew_run(crew, "api_ops:evaluate", "s>ii", "[1, 'x']", &a, &b), PYCREW_ETYPE);
    ASSERT_INT(a + b, 0); /* untouched */
    pycrew_close(crew);
}

TEST(keyword_arguments_arrive_under_their_names)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = SUBMIT(crew, "api_ops:arguments", "i, first=s second=[ii]", 1, "one", 2, 3);
    pycrew_value keywords;
    const char *text;

    OK(pycrew_wait(call, BOUND));
    keywords = pycrew_value_item(pycrew_result_value(call), 1);
    ASSERT_INT(pycrew_value_count(keywords), 2);
    OK(pycrew_value_str(pycrew_value_get(keywords, "first"), &text, NULL));
    ASSERT_STR(text, "one");
    ASSERT_INT(pycrew_value_count(pycrew_value_get(keywords, "second")), 2);
    pycrew_release(call);
    GIVES(pycrew_run(crew, "api_ops:arguments", "a=i i>", 1, 2), -EINVAL);
    GIVES(pycrew_run(crew, "api_ops:arguments", "a=>", 1), -EINVAL);
    GIVES(pycrew_run(crew, "api_ops:arguments", "a=i a=i>", 1, 2), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "multiple values");
    ASSERT(!pycrew_last_error()->may_have_run);
    pycrew_close(crew);
}

TEST(json_goes_and_comes_back)
{
    pycrew_crew *crew = open_crew(1);
    char *text;
    size_t size;

    OK(pycrew_run(crew, "api_ops:echo", "j>j", "{\"a\": [1, 2.5, null, \"\xc3\xbc\"]}", &text));
    ASSERT_STR(text, "{\"a\": [1, 2.5, null, \"\xc3\xbc\"]}");
    free(text);
    OK(pycrew_run(crew, "api_ops:kind", "j#>j#", "[1]", (size_t)3, &text, &size));
    ASSERT_STR(text, "\"list\"");
    ASSERT_INT(size, 6);
    free(text);
    GIVES(pycrew_run(crew, "api_ops:echo", "j>j", "{\"a\":", &text), -EINVAL);
    CONTAINS(pycrew_last_error()->type, "JSONDecodeError");
    CONTAINS(pycrew_last_error()->message, "line 1 column 6");
    ASSERT(!pycrew_last_error()->may_have_run);
    GIVES(pycrew_run(crew, "api_ops:evaluate", "s>j", "{1, 2}", &text), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "JSON");
    pycrew_close(crew);
}

TEST(other_objects_travel_pickled)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = SUBMIT(crew, "api_ops:thing", "i", 42);
    const void *pickle;
    size_t size;
    int value;

    OK(pycrew_wait(call, BOUND));
    ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_OBJECT);
    OK(pycrew_result(call, "O", &pickle, &size));
    OK(pycrew_run(crew, "api_ops:thing_value", "O>i", pickle, size, &value));
    ASSERT_INT(value, 42);
    pycrew_release(call);
    GIVES(pycrew_run(crew, "api_ops:unpicklable", ">"), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "TypeError");
    CONTAINS(pycrew_last_error()->message, "cannot pickle 'function' object");
    GIVES(pycrew_run(crew, "api_ops:echo", "O>", "garbage", (size_t)7), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->type, "UnpicklingError");
    pycrew_close(crew);
}

TEST(nesting_has_a_limit_both_ways)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:nested_depth");
    int depth = 0, got, rc = 0;

    while (depth < 10000 && (rc = pycrew_add_open(call, PYCREW_LIST)) == 0)
        depth++;
    GIVES(rc, -EINVAL);
    ASSERT(depth >= 64 && depth < 10000);
    CONTAINS(pycrew_last_error()->message, "nested deeper");
    pycrew_release(call);

    call = prepare(crew, "api_ops:nested_depth");
    for (int i = 0; i < depth; i++)
        OK(pycrew_add_open(call, PYCREW_LIST));
    for (int i = 0; i < depth; i++)
        OK(pycrew_add_close(call));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &got));
    ASSERT_INT(got, depth - 1); /* the innermost is empty */
    pycrew_release(call);

    OK(pycrew_run(crew, "api_ops:nested", "i>", depth));
    GIVES(pycrew_run(crew, "api_ops:nested", "i>", depth + 1), PYCREW_ERAISED);
    GIVES(pycrew_run(crew, "api_ops:nested", "i>", 10000), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "nested deeper");
    ASSERT(pycrew_last_error()->may_have_run);
    GIVES(pycrew_run(crew, "api_ops:self_containing", ">"), PYCREW_ERAISED);
    pycrew_close(crew);
}

TEST(a_result_of_another_type_or_range_is_an_error_and_touches_nothing)
{
    static const struct {
        const char *value, *format;
        int code;
    } cases[] = {
        {"'text'", "i", PYCREW_ETYPE}, {"1.5", "i", PYCREW_ETYPE}, {"None", "i", PYCREW_ETYPE},
        {"2**31", "i", -ERANGE},       {"-2**31-1", "i", -ERANGE}, {"2**63", "L", -ERANGE},
        {"-2**63-1", "L", -ERANGE},    {"-1", "K", -ERANGE},       {"2**64", "K", -ERANGE},
        {"2**70000", "L", -ERANGE},    {"2**70000", "d", -ERANGE}, {"'x'", "d", PYCREW_ETYPE},
        {"1e300", "f", -ERANGE},       {"1", "s", PYCREW_ETYPE},   {"b'x'", "s", PYCREW_ETYPE},
        {"'x'", "y#", PYCREW_ETYPE},   {"None", "s", PYCREW_ETYPE}, {"[]", "p", PYCREW_ETYPE},
        {"1", "[i]", PYCREW_ETYPE},    {"{1: 2}", "[ii]", PYCREW_ETYPE},
    };
    pycrew_crew *crew = open_crew(1);

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char format[16];
        uint64_t out[2] = {0x5a5a5a5a5a5a5a5a, 0x5a5a5a5a5a5a5a5a};
        int rc;

        snprintf(format, sizeof format, "s>%s", cases[i].format);
        rc = pycrew_run(crew, "api_ops:evaluate", format, cases[i].value, &out[0], &out[1]);
        if (rc != cases[i].code)
            tap_fail("%s as %s: %d (%s), expected %d", cases[i].value, cases[i].format, rc,
                     pycrew_last_error()->message, cases[i].code);
        ASSERT(out[0] == 0x5a5a5a5a5a5a5a5a && out[1] == out[0]);
        ASSERT(strlen(pycrew_last_error()->message) > 0);
    }
    pycrew_close(crew);
}

TEST(a_wrong_format_names_the_byte)
{
    static const struct {
        const char *format, *message;
    } cases[] = {{"i?>i", "byte 1"}, {"i>i>i", "byte 3"}, {"[i", "byte 0"}, {"i]", "byte 1"},
                 {"y>i", "byte 0"},  {"i#", "byte 1"},    {"i>[i", "byte 2"}, {">ij", "byte 2"}};
    pycrew_crew *crew = open_crew(1);
    int a = 1, b = 2;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        GIVES(pycrew_run(crew, "api_ops:echo", cases[i].format, 1, &a, &b), -EINVAL);
        CONTAINS(pycrew_last_error()->message, cases[i].message);
    }
    GIVES(pycrew_run(crew, "api_ops:echo", NULL), -EINVAL);
    pycrew_close(crew);
}

/* ---- functions ------------------------------------------------------------------------------- */

TEST(a_malformed_function_name_is_refused)
{
    static const char *const names[] = {"",    "api_ops", ":add",  "api_ops:",   "api_ops:add:x", "1x:add",
                                        "a b:c", "a..b:c", "a:b..c", "api_ops:a-b", "a:b.",        "\xff:x"};
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *function = NULL;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        GIVES(pycrew_function_get(crew, names[i], &function), -EINVAL);
        GIVES(pycrew_run(crew, names[i], ">"), -EINVAL);
    }
    GIVES(pycrew_function_get(crew, NULL, &function), -EINVAL);
    GIVES(pycrew_function_get(NULL, "a:b", &function), -EINVAL);
    GIVES(pycrew_function_get(crew, "a:b", NULL), -EINVAL);
    char *name = malloc(10000);
    memset(name, 'a', 9999);
    name[9999] = '\0';
    name[100] = ':';
    GIVES(pycrew_function_get(crew, name, &function), -EINVAL);
    free(name);
    ASSERT(function == NULL);
    pycrew_close(crew);
}

TEST(the_same_function_has_one_handle)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *a, *b;

    ASSERT(function_of(crew, "api_ops:add") == function_of(crew, "api_ops:add"));
    ASSERT(function_of(crew, "api_ops:add") != function_of(crew, "api_ops:echo"));
    OK(pycrew_function_source(crew, "f", "def f(): return 1", &a));
    OK(pycrew_function_source(crew, "f", "def f(): return 2", &b));
    ASSERT(a != b);
    OK(pycrew_function_source(crew, "f", "def f(): return 1", &b));
    ASSERT(a == b);
    pycrew_close(crew);
}

static const pycrew_error *raises(pycrew_crew *crew, const char *function, const char *type)
{
    GIVES(pycrew_run(crew, function, ">"), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, type);
    ASSERT_STR(pycrew_last_error()->function, function);
    return pycrew_last_error();
}

TEST(a_function_that_cannot_be_found_says_so_and_did_not_run)
{
    pycrew_crew *crew = open_crew(1);

    CONTAINS(raises(crew, "no_such_module:f", "ModuleNotFoundError")->message, "no_such_module");
    ASSERT(!pycrew_last_error()->may_have_run);
    CONTAINS(raises(crew, "api_ops:no_such", "AttributeError")->message, "no_such");
    ASSERT(!pycrew_last_error()->may_have_run);
    CONTAINS(raises(crew, "api_ops:Thing.Inner.no", "AttributeError")->message, "no");
    CONTAINS(raises(crew, "api_ops:NOT_CALLABLE", "TypeError")->message, "not callable");
    ASSERT(!pycrew_last_error()->may_have_run);
    CONTAINS(raises(crew, "fails_at_import:f", "LookupError")->traceback, "fails_at_import.py");
    CONTAINS(raises(crew, "fails_at_import:f", "LookupError")->message, "fails at import");
    ASSERT_INT(pycrew_last_error()->attempts, 1);
    int three;
    OK(pycrew_run(crew, "api_ops:Thing.Inner.three", ">i", &three));
    ASSERT_INT(three, 3);
    pycrew_close(crew);
}

TEST(too_few_or_too_many_arguments_are_the_functions_exception)
{
    pycrew_crew *crew = open_crew(1);

    CONTAINS(raises(crew, "api_ops:add", "TypeError")->message, "missing 2 required");
    GIVES(pycrew_run(crew, "api_ops:add", "iii>", 1, 2, 3), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "takes 2 positional arguments but 3 were given");
    GIVES(pycrew_run(crew, "api_ops:add", "ii c=i>", 1, 2, 3), PYCREW_ERAISED);
    CONTAINS(pycrew_last_error()->message, "unexpected keyword argument 'c'");
    pycrew_close(crew);
}

TEST(many_arguments_arrive)
{
    enum { COUNT = 5000 };
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:arguments");

    for (int i = 0; i < COUNT; i++)
        OK(pycrew_add_i64(call, i));
    for (int i = 0; i < 200; i++) {
        char name[16];

        snprintf(name, sizeof name, "k%d", i);
        OK(pycrew_add_name(call, name));
        OK(pycrew_add_u64(call, (uint64_t)i));
    }
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    ASSERT_INT(pycrew_value_count(pycrew_value_item(pycrew_result_value(call), 0)), COUNT);
    ASSERT_INT(pycrew_value_count(pycrew_value_item(pycrew_result_value(call), 1)), 200);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_function_can_be_given_as_source)
{
    pycrew_crew *crew = open_crew(2);
    const pycrew_function *function;
    pycrew_call *call;
    int value;

    OK(pycrew_function_source(crew, "Counter.step",
                              "class Counter:\n"
                              "    n = 40\n"
                              "    @classmethod\n"
                              "    def step(cls, by): return cls.n + by\n",
                              &function));
    OK(pycrew_prepare(crew, function, BOUND, &call));
    OK(pycrew_add(call, "i", 2));
    OK(pycrew_submit(call));
    OK(pycrew_wait(call, BOUND));
    OK(pycrew_result(call, "i", &value));
    ASSERT_INT(value, 42);
    pycrew_release(call);
    GIVES(pycrew_function_source(crew, "f", NULL, &function), -EINVAL);
    GIVES(pycrew_function_source(crew, "a b", "x = 1", &function), -EINVAL);
    OK(pycrew_function_source(crew, "f", "def f(:\n", &function));
    OK(pycrew_prepare(crew, function, BOUND, &call));
    OK(pycrew_submit(call));
    GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
    ASSERT_STR(pycrew_call_error(call)->type, "SyntaxError");
    ASSERT(!pycrew_call_error(call)->may_have_run);
    pycrew_release(call);
    pycrew_close(crew);
}

/* ---- exceptions ------------------------------------------------------------------------------ */

static const pycrew_error *fails(pycrew_crew *crew, const char *kind, const char *type)
{
    GIVES(pycrew_run(crew, "api_ops:fail", "s>", kind), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, type);
    ASSERT(pycrew_last_error()->may_have_run);
    ASSERT_INT(pycrew_last_error()->attempts, 1);
    ASSERT_INT(pycrew_last_error()->signal, 0);
    return pycrew_last_error();
}

TEST(an_exception_arrives_with_type_message_and_traceback)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_error *e = fails(crew, "value", "ValueError");

    ASSERT_STR(e->message, "no good");
    CONTAINS(e->traceback, "Traceback (most recent call last)");
    CONTAINS(e->traceback, "api_ops.py");
    CONTAINS(e->traceback, "raise ValueError(text)");
    ASSERT_STR(e->function, "api_ops:fail");
    ASSERT_STR(fails(crew, "deep", "api_ops.OddError.Deep")->message, "no good");
    CONTAINS(fails(crew, "chain", "RuntimeError")->traceback, "direct cause");
    pycrew_close(crew);
}

TEST(exceptions_that_end_a_program_do_not_end_the_worker)
{
    pycrew_crew *crew = open_crew(1);
    int before, after;

    OK(pycrew_run(crew, "api_ops:pid", ">i", &before));
    ASSERT_STR(fails(crew, "exit", "SystemExit")->message, "3");
    fails(crew, "interrupt", "KeyboardInterrupt");
    fails(crew, "memory", "MemoryError");
    fails(crew, "recursion", "RecursionError");
    OK(pycrew_run(crew, "api_ops:pid", ">i", &after));
    ASSERT_INT(before, after);
    pycrew_close(crew);
}

TEST(exceptions_that_cannot_be_shown_still_arrive)
{
    pycrew_crew *crew = open_crew(1);

    fails(crew, "bad str", "api_ops.fail.<locals>.Mute");
    CONTAINS(fails(crew, "surrogate", "ValueError")->message, "half \\ud800 of it");
    ASSERT(strlen(fails(crew, "long", "ValueError")->message) >= 10000);
    pycrew_close(crew);
}

TEST(the_last_error_is_this_threads)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_error before = *pycrew_last_error();

    ASSERT_INT(before.code, 0);
    ASSERT_STR(before.message, "");
    GIVES(pycrew_run(crew, "api_ops:fail", ">"), PYCREW_ERAISED);
    ASSERT_INT(pycrew_last_error()->code, PYCREW_ERAISED);
    ASSERT_INT(pycrew_last_error()->size, sizeof(pycrew_error));
    pycrew_close(crew);
}

/* ---- a call's life --------------------------------------------------------------------------- */

TEST(a_call_is_prepared_filled_submitted_waited_for_and_released)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call;
    int sum, data;

    for (int i = 0; i < 1000; i++) {
        OK(pycrew_prepare(crew, function_of(crew, "api_ops:add"), 0, &call));
        ASSERT(pycrew_data(call) == NULL);
        pycrew_set_data(call, &data);
        OK(pycrew_add_i64(call, i));
        OK(pycrew_add_i64(call, 1));
        OK(pycrew_submit(call));
        OK(pycrew_wait(call, BOUND));
        OK(pycrew_wait(call, 0));
        ASSERT(pycrew_call_error(call) == NULL);
        OK(pycrew_result(call, ">i", &sum)); /* with '>' too, and as often as one likes */
        OK(pycrew_result(call, "i", &sum));
        ASSERT_INT(sum, i + 1);
        ASSERT(pycrew_data(call) == &data);
        pycrew_release(call);
    }
    pycrew_release(NULL);
    pycrew_close(crew);
}

TEST(steps_in_the_wrong_order_are_errors)
{
    pycrew_crew *crew = open_crew(1);
    const char *go = scratch("go");
    pycrew_call *call = prepare(crew, "api_ops:wait_for");
    int one;
    int64_t wide;
    const char *text;
    size_t size;

    GIVES(pycrew_wait(call, 0), -EINVAL);
    GIVES(pycrew_cancel(call), -EINVAL);
    GIVES(pycrew_result(call, "i", &one), -EALREADY);
    ASSERT(pycrew_call_error(call) == NULL);
    ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_INVALID);
    OK(pycrew_add(call, "s", go));
    OK(pycrew_submit(call));

    GIVES(pycrew_submit(call), -EALREADY);
    GIVES(pycrew_add(call, "i", 1), -EALREADY);
    GIVES(pycrew_add_none(call), -EALREADY);
    GIVES(pycrew_add_bool(call, true), -EALREADY);
    GIVES(pycrew_add_u64(call, 1), -EALREADY);
    GIVES(pycrew_add_f64(call, 1), -EALREADY);
    GIVES(pycrew_add_bigint(call, "1"), -EALREADY);
    GIVES(pycrew_add_str(call, "x", 1), -EALREADY);
    GIVES(pycrew_add_bytes(call, "x", 1), -EALREADY);
    GIVES(pycrew_add_json(call, "1", 1), -EALREADY);
    GIVES(pycrew_add_object(call, "x", 1), -EALREADY);
    GIVES(pycrew_add_name(call, "x"), -EALREADY);
    GIVES(pycrew_add_open(call, PYCREW_LIST), -EALREADY);
    GIVES(pycrew_add_close(call), -EALREADY);
    GIVES(pycrew_set_timeout(call, 1), -EALREADY);
    GIVES(pycrew_set_retries(call, 1), -EALREADY);
    GIVES(pycrew_set_json(call, true), -EALREADY);
    GIVES(pycrew_set_queue(call, NULL), -EALREADY);
    GIVES(pycrew_result(call, "i", &one), -EALREADY);
    GIVES(pycrew_result_i64(call, &wide), -EALREADY);
    ASSERT(pycrew_call_error(call) == NULL);

    fclose(fopen(go, "w"));
    OK(pycrew_wait(call, BOUND));
    GIVES(pycrew_submit(call), -EALREADY);
    GIVES(pycrew_add(call, "i", 1), -EALREADY);
    GIVES(pycrew_result_str(call, &text, &size), PYCREW_ETYPE);
    GIVES(pycrew_result(call, "?", &one), -EINVAL);
    GIVES(pycrew_result(call, "i", NULL), -EINVAL);
    OK(pycrew_result(call, "i", &one));
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_result_of_a_failed_call_is_its_error)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = SUBMIT(crew, "api_ops:fail", "s", "value");
    int value = 5;

    GIVES(pycrew_wait(call, BOUND), PYCREW_ERAISED);
    GIVES(pycrew_result(call, "i", &value), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->message, "no good");
    ASSERT_INT(pycrew_value_type(pycrew_result_value(call)), PYCREW_TYPE_INVALID);
    ASSERT_STR(pycrew_call_error(call)->type, "ValueError");
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(incomplete_arguments_are_refused_at_submit)
{
    pycrew_crew *crew = open_crew(1);
    pycrew_call *call = prepare(crew, "api_ops:echo");

    OK(pycrew_add_open(call, PYCREW_LIST));
    GIVES(pycrew_submit(call), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "api_ops:echo");
    OK(pycrew_add_name(call, "value"));
    GIVES(pycrew_submit(call), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "api_ops:echo");
    GIVES(pycrew_add_close(call), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "api_ops:echo");
    OK(pycrew_add_open(call, PYCREW_DICT));
    OK(pycrew_add_i64(call, 1));
    GIVES(pycrew_add_close(call), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "api_ops:echo");
    GIVES(pycrew_add_open(call, 77), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "api_ops:echo");
    GIVES(pycrew_add_bigint(call, "12g"), -EINVAL);
    pycrew_release(call);
    call = prepare(crew, "api_ops:echo");
    GIVES(pycrew_add_str(call, NULL, 5), -EINVAL);
    pycrew_release(call);
    OK(pycrew_run(crew, "api_ops:nothing", ">"));
    pycrew_close(crew);
}

TEST(all_calls_in_use_is_eagain)
{
    pycrew_options options = test_options(1);
    const pycrew_function *nothing;
    pycrew_call *calls[8], *extra = NULL;
    pycrew_crew *crew;

    options.calls = 8;
    crew = open_with(&options);
    nothing = function_of(crew, "api_ops:nothing");
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 8; i++)
            OK(pycrew_prepare(crew, nothing, 0, &calls[i]));
        GIVES(pycrew_prepare(crew, nothing, 0, &extra), -EAGAIN);
        GIVES(pycrew_prepare(crew, nothing, PYCREW_FOREVER, &extra), -EAGAIN); /* held by this thread */
        GIVES(pycrew_run(crew, "api_ops:nothing", ">"), -EAGAIN);
        ASSERT(extra == NULL);
        for (int i = 0; i < 8; i++) {
            if (i % 2)
                OK(pycrew_submit(calls[i]));
            pycrew_release(calls[i]);
        }
        for (int i = 0; i < 8; i++) /* those that run come back soon */
            OK(pycrew_prepare(crew, nothing, BOUND, &calls[i]));
        for (int i = 0; i < 8; i++)
            pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

typedef struct holder {
    pycrew_crew *crew;
    pycrew_call *calls[4];
    _Atomic bool held, release;
} holder;

static void *hold_calls(void *data)
{
    holder *h = data;

    for (int i = 0; i < 4; i++)
        h->calls[i] = prepare(h->crew, "api_ops:nothing");
    atomic_store(&h->held, true);
    AWAIT(atomic_load(&h->release));
    pycrew_release(h->calls[0]);
    for (int i = 1; i < 4; i++)
        pycrew_release(h->calls[i]);
    return NULL;
}

TEST(prepare_waits_while_other_threads_hold_all_calls)
{
    pycrew_options options = test_options(1);
    holder h = {.held = false};
    pycrew_call *call = NULL;
    pthread_t thread;
    int64_t begun;

    options.calls = 4;
    h.crew = open_with(&options);
    ASSERT(pthread_create(&thread, NULL, hold_calls, &h) == 0);
    AWAIT(atomic_load(&h.held));
    GIVES(pycrew_prepare(h.crew, function_of(h.crew, "api_ops:add"), 0, &call), -EAGAIN);
    begun = now_ns();
    GIVES(pycrew_prepare(h.crew, function_of(h.crew, "api_ops:add"), 30 * MS, &call), -ETIME);
    ASSERT(now_ns() - begun >= 30 * MS && call == NULL);
    atomic_store(&h.release, true);
    OK(pycrew_prepare(h.crew, function_of(h.crew, "api_ops:add"), BOUND, &call));
    pycrew_release(call);
    pthread_join(thread, NULL);
    pycrew_close(h.crew);
}

TEST(null_arguments_are_refused)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *add = function_of(crew, "api_ops:add");
    pycrew_call *call;
    pycrew_queue *queue;

    GIVES(pycrew_prepare(NULL, add, 0, &call), -EINVAL);
    GIVES(pycrew_prepare(crew, NULL, 0, &call), -EINVAL);
    GIVES(pycrew_prepare(crew, add, 0, NULL), -EINVAL);
    GIVES(pycrew_queue_open(NULL, &queue), -EINVAL);
    GIVES(pycrew_queue_open(crew, NULL), -EINVAL);
    GIVES(pycrew_open(NULL, NULL), -EINVAL);
    GIVES(pycrew_run(NULL, "a:b", ">"), -EINVAL);
    pycrew_close(crew);
    pycrew_close(NULL);
}

TEST(a_drained_crew_takes_no_new_calls)
{
    pycrew_crew *crew = open_crew(1);
    const pycrew_function *add = function_of(crew, "api_ops:add");
    const char *go = scratch("go");
    pycrew_call *call = SUBMIT(crew, "api_ops:wait_for", "s", go), *prepared = prepare(crew, "api_ops:nothing"), *extra;
    int one;

    GIVES(pycrew_drain(crew, 0), -ETIME);
    GIVES(pycrew_drain(crew, 20 * MS), -ETIME);
    GIVES(pycrew_prepare(crew, add, BOUND, &extra), -ESHUTDOWN);
    GIVES(pycrew_submit(prepared), -ESHUTDOWN);
    GIVES(pycrew_run(crew, "api_ops:nothing", ">"), -ESHUTDOWN);
    fclose(fopen(go, "w"));
    OK(pycrew_drain(crew, BOUND));
    OK(pycrew_wait(call, 0));
    OK(pycrew_result(call, "i", &one));
    OK(pycrew_drain(crew, PYCREW_FOREVER));
    pycrew_release(call);
    pycrew_release(prepared);
    pycrew_close(crew);
}

/* ---- memory ---------------------------------------------------------------------------------- */

TEST(results_of_all_sizes_arrive)
{
    pycrew_crew *crew = open_crew(1);
    const void *data;
    size_t size;

    for (size_t want = 0; want <= (64 << 20); want = want < 300 ? want + 1 : want * 3 + 1) {
        pycrew_call *call = SUBMIT(crew, "api_ops:pattern", "n", (ptrdiff_t)want);

        OK(pycrew_wait(call, BOUND));
        OK(pycrew_result_bytes(call, &data, &size));
        ASSERT_INT(size, want);
        for (size_t i = 0; i < size - size % 251; i += size < 4096 ? 1 : 4093)
            if (((const uint8_t *)data)[i] != (uint8_t)(i % 251 * 7))
                tap_fail("of %zu bytes byte %zu is wrong", size, i);
        pycrew_release(call);
    }
    OK(pycrew_run(crew, "api_ops:zeros", "i>", 64 << 20));
    pycrew_close(crew);
}

TEST(arguments_of_all_sizes_arrive)
{
    pycrew_crew *crew = open_crew(1);
    char *data = calloc(1, 64 << 20);

    for (size_t size = 0; size <= (64 << 20); size = size < 300 ? size + 1 : size * 3 + 1) {
        int length = -1;

        OK(pycrew_run(crew, "api_ops:length", "y#>i", data, size, &length));
        ASSERT_INT(length, size);
    }
    free(data);
    pycrew_close(crew);
}

TEST(arguments_larger_than_the_memory_are_e2big)
{
    pycrew_options options = test_options(1);
    size_t size = 64 << 20;
    char *data = calloc(1, size);
    pycrew_crew *crew;

    options.memory = 16 << 20;
    crew = open_with(&options);
    for (int i = 0; i < 20; i++) {
        GIVES(pycrew_run(crew, "api_ops:length", "y#>", data, size), -E2BIG);
        GIVES(pycrew_run(crew, "api_ops:zeros", "n>", (ptrdiff_t)size), -E2BIG);
        ASSERT(pycrew_last_error()->may_have_run);
    }
    OK(pycrew_run(crew, "api_ops:length", "y#>", data, (size_t)8 << 20));
    free(data);
    pycrew_close(crew);
}

TEST(memory_used_up_is_enomem_and_comes_back)
{
    enum { CALLS = 64 };
    pycrew_options options = test_options(1);
    char *data = calloc(1, 1 << 20);
    pycrew_call *calls[CALLS];
    pycrew_crew *crew;

    options.memory = 16 << 20;
    crew = open_with(&options);
    for (int round = 0; round < 5; round++) {
        int count = 0, rc = 0;

        for (; rc == 0 && count < CALLS; count++) {
            calls[count] = prepare(crew, "api_ops:length");
            rc = pycrew_add(calls[count], "y#", data, (size_t)1 << 20);
        }
        GIVES(rc, -ENOMEM);
        GIVES(pycrew_add(calls[count - 1], "i", 1), -ENOMEM); /* only release is left */
        ASSERT(count > 4);
        while (count > 0)
            pycrew_release(calls[--count]);

        /* results that are not released */
        for (rc = 0; rc == 0 && count < CALLS; count++) {
            calls[count] = SUBMIT(crew, "api_ops:zeros", "i", 1 << 20);
            rc = pycrew_wait(calls[count], BOUND);
        }
        GIVES(rc, -ENOMEM);
        ASSERT(pycrew_call_error(calls[count - 1])->may_have_run);
        ASSERT(count > 4);
        while (count > 0)
            pycrew_release(calls[--count]);
        OK(pycrew_run(crew, "api_ops:zeros", "i>", 7 << 20)); /* all is there again */
        OK(pycrew_run(crew, "api_ops:length", "y#>", data, (size_t)1 << 20));
    }
    free(data);
    pycrew_close(crew);
}

TEST(errors_arrive_when_the_memory_is_used_up)
{
    pycrew_options options = test_options(1);
    pycrew_call *calls[64];
    pycrew_crew *crew;
    int count = 0;

    options.memory = 8 << 20;
    crew = open_with(&options);
    for (int size = 4 << 20; size >= 256; size /= 2)
        for (int rc = 0; rc == 0 && count < 60; count++) {
            calls[count] = SUBMIT(crew, "api_ops:zeros", "i", size - 200);
            rc = pycrew_wait(calls[count], BOUND);
        }
    GIVES(pycrew_run(crew, "api_ops:fail", ">"), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ValueError");
    CONTAINS(pycrew_last_error()->message, "no good");
    while (count > 0)
        pycrew_release(calls[--count]);
    pycrew_close(crew);
}

TEST(release_before_the_end_keeps_memory_until_the_end)
{
    pycrew_options options = test_options(1);
    char *data = malloc(1 << 20);
    pycrew_crew *crew;

    memset(data, 'x', 1 << 20);
    options.memory = 32 << 20;
    crew = open_with(&options);
    for (int i = 0; i < 40; i++) {
        const char *running = scratch("running");
        pycrew_call *call;
        int length;

        unlink(running);
        call = prepare(crew, "api_ops:spin");
        OK(pycrew_add(call, "ds", 0.001, running));
        OK(pycrew_submit(call));
        if (i % 2)
            AWAIT(file_size(running) == 1);
        pycrew_release(call);
        OK(pycrew_run(crew, "api_ops:length", "y#>i", data, (size_t)1 << 20, &length));
        ASSERT_INT(length, 1 << 20);
    }
    free(data);
    pycrew_close(crew);
}

TAP_MAIN
