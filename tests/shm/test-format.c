/* The internal side of errors, builder, formats and results: what goes in comes out, what is wrong
 * is named, and nothing that memory may hold makes them leave it. */
#include <float.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <sys/resource.h>

#include "lib/builder.h"
#include "lib/error.h"
#include "lib/format.h"
#include "lib/result.h"
#include "tests/harness/tap.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED TAP_TSAN
#endif

/* Where malloc does not fail, and everything takes its time. */
static bool instrumented(void)
{
    return SANITIZED || tap_valgrind();
}

/* ---- a message ------------------------------------------------------------------------------- */

/* Exactly as large as needed and moved each time: what is used after it moved, or read behind its
 * end, is seen by ASan and valgrind. */
static int move_and_grow(pc_writer *writer, size_t need)
{
    uint8_t *data = malloc(need);
    if (!data)
        abort();
    if (writer->size > 0)
        memcpy(data, writer->data, writer->size);
    free(writer->data);
    writer->data = data;
    writer->capacity = need;
    return 0;
}

static pc_builder new_builder(void)
{
    pc_builder builder = {.writer = {.grow = move_and_grow}};
    pc_build_start(&builder);
    return builder;
}

static void end_builder(pc_builder *builder)
{
    free(builder->writer.data);
    builder->writer.data = NULL;
}

static pc_cursor message_of(const pc_builder *builder)
{
    const uint8_t *data = builder->writer.data;
    return (pc_cursor){data, data ? data + builder->writer.size : NULL};
}

static int build(pc_builder *builder, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int code = pc_format_build(builder, format, &args, NULL);
    va_end(args);
    return code;
}

static int result(const pc_builder *builder, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int code = pc_format_result(message_of(builder), NULL, format, &args, false);
    va_end(args);
    return code;
}

static int result_copied(const pc_builder *builder, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int code = pc_format_result(message_of(builder), NULL, format, &args, true);
    va_end(args);
    return code;
}

static const char *last_message(void)
{
    return pycrew_last_error()->message;
}

/* A message as text, in the manner of Python. */
static void dump(FILE *to, pc_cursor cursor, const char *separator)
{
    pc_view view;
    const char *between = "";
    while (pc_value_next(&cursor, &view) > 0) {
        fputs(between, to);
        between = separator;
        int size = (int)view.length;
        switch (view.tag) {
        case PC_TAG_NONE:
            fputs("None", to);
            break;
        case PC_TAG_BOOL:
            fputs(view.boolean ? "True" : "False", to);
            break;
        case PC_TAG_I64:
            fprintf(to, "%lld", (long long)view.i64);
            break;
        case PC_TAG_U64:
            fprintf(to, "%lluu", (unsigned long long)view.u64);
            break;
        case PC_TAG_F64:
            fprintf(to, "%g.", view.f64);
            break;
        case PC_TAG_BIGINT:
            fprintf(to, "0x%.*s", size, view.data);
            break;
        case PC_TAG_STR:
            fprintf(to, "'%.*s'", size, view.data);
            break;
        case PC_TAG_BYTES:
            fprintf(to, "b'%.*s'", size, view.data);
            break;
        case PC_TAG_OBJECT:
            fprintf(to, "o'%.*s'", size, view.data);
            break;
        case PC_TAG_JSON:
            fprintf(to, "j'%.*s'", size, view.data);
            break;
        case PC_TAG_NAME:
            fprintf(to, "%.*s=", size, view.data);
            between = "";
            break;
        default:
            fputc("[({"[view.tag - PC_TAG_LIST], to);
            dump(to, view.contents, separator);
            fputc("])}"[view.tag - PC_TAG_LIST], to);
        }
    }
}

static const char *dumped(const pc_builder *builder)
{
    static char text[4096];
    text[0] = '\0';
    FILE *to = fmemopen(text, sizeof text, "w");
    dump(to, message_of(builder), " ");
    fclose(to);
    return text;
}

/* The arguments behind format give a message with this text, and one that is well formed. */
#define ASSERT_BUILDS(text, ...)                                                                   \
    do {                                                                                           \
        pc_builder builds = new_builder();                                                         \
        int code = build(&builds, __VA_ARGS__);                                                    \
        if (code < 0)                                                                              \
            DIAG("%s", last_message());                                                            \
        ASSERT_INT(code, 0);                                                                       \
        ASSERT_INT(pc_build_finish(&builds), 0);                                                   \
        ASSERT_INT(pc_value_check(message_of(&builds), true), 0);                                  \
        ASSERT_STR(dumped(&builds), text);                                                         \
        end_builder(&builds);                                                                      \
    } while (0)

/* The arguments are -EINVAL with this message, which sticks. */
#define ASSERT_REFUSES(text, ...)                                                                  \
    do {                                                                                           \
        pc_builder refuses = new_builder();                                                        \
        int code = build(&refuses, __VA_ARGS__);                                                   \
        ASSERT_STR(code < 0 ? last_message() : "(it was taken)", text);                            \
        ASSERT_INT(code, -EINVAL);                                                                 \
        ASSERT_INT(pycrew_last_error()->code, -EINVAL);                                            \
        ASSERT_INT(pc_build_i64(&refuses, 1), -EINVAL);                                            \
        end_builder(&refuses);                                                                     \
    } while (0)

#define ASSERT_FAILS(call, expected_code, text)                                                    \
    do {                                                                                           \
        int failed = (call);                                                                       \
        ASSERT_STR(failed < 0 ? last_message() : "(it did not fail)", text);                       \
        ASSERT_INT(failed, expected_code);                                                         \
        ASSERT_INT(pycrew_last_error()->code, expected_code);                                      \
    } while (0)

/* ---- arguments ------------------------------------------------------------------------------- */

TEST(each_argument_unit_writes_its_value)
{
    ASSERT_BUILDS("", "");
    ASSERT_BUILDS("True False True", "ppp", 1, 0, -7);
    ASSERT_BUILDS("3 -5 2147483647 -2147483648", "iiii", 3, -5, INT_MAX, INT_MIN);
    ASSERT_BUILDS("9223372036854775807 -9223372036854775808", "LL", LLONG_MAX, LLONG_MIN);
    ASSERT_BUILDS("0 9223372036854775807 9223372036854775808u 18446744073709551615u", "KKKK", 0ULL,
                  (unsigned long long)INT64_MAX, (unsigned long long)INT64_MAX + 1, ULLONG_MAX);
    ASSERT_BUILDS("-1 9223372036854775807", "nn", (ptrdiff_t)-1, PTRDIFF_MAX);
    ASSERT_BUILDS("1.5. 0.25. inf. nan.", "dfdd", 1.5, 0.25, HUGE_VAL, (double)NAN);
    ASSERT_BUILDS("'' 'abc' '\xc3\xa9'", "sss", "", "abc", "\xc3\xa9");
    ASSERT_BUILDS("'ab' '' ''", "s#s#s#", "abc", (size_t)2, "x", (size_t)0, NULL, (size_t)0);
    ASSERT_BUILDS("b'ab' b''", "y#y#", "abc", (size_t)2, NULL, (size_t)0);
    ASSERT_BUILDS("'abc' None 'a' None", "zzz#z#", "abc", NULL, "abc", (size_t)1, NULL, (size_t)9);
    ASSERT_BUILDS("j'[1]' j'{}'", "jj#", "[1]", "{}}", (size_t)2);
    ASSERT_BUILDS("o'pick'", "O", "pickle", (size_t)4);
}

TEST(texts_keep_their_nuls_and_bytes_need_not_be_utf8)
{
    pc_builder builder = new_builder();
    ASSERT_INT(build(&builder, "s#y#O", "a\0b", (size_t)3, "\xff\0", (size_t)2, "\x80", (size_t)1),
               0);
    pc_cursor cursor = message_of(&builder);
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT_INT(view.length, 3);
    ASSERT_MEM(view.data, "a\0b\0", 4);
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT_INT(view.length, 2);
    ASSERT_MEM(view.data, "\xff\0\0", 3);
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT_INT(view.tag, PC_TAG_OBJECT);
    end_builder(&builder);
}

TEST(spaces_and_commas_in_a_format_are_free)
{
    ASSERT_BUILDS("1 2 (3)", " i,  i,(, i ,) ", 1, 2, 3);
    ASSERT_BUILDS("1 x=2", "i, x= i >  i ", 1, 2);
    ASSERT_BUILDS("", " ,, ");
}

TEST(brackets_make_containers)
{
    ASSERT_BUILDS("() [] {}", "()[]{}");
    ASSERT_BUILDS("(1 2) [3] {'a' 1.5. 'b' 2.5.}", "(ii)[i]{sdsd}", 1, 2, 3, "a", 1.5, "b", 2.5);
    ASSERT_BUILDS("([{1 (2 3) 4 []}] 5) 6", "([{i(ii)i[]}]i)i", 1, 2, 3, 4, 5, 6);
    ASSERT_BUILDS("[[[[[[7]]]]]]", "[[[[[[i]]]]]]", 7);
}

TEST(a_keyword_starts_behind_a_space_a_comma_or_a_bracket)
{
    ASSERT_BUILDS("axis=1", "axis=i", 1);
    ASSERT_BUILDS("1 axis=2 dtype='f'", "i axis=i,dtype=s", 1, 2, "f");
    ASSERT_BUILDS("(1) p=2", "(i)p=i", 1, 2);
    ASSERT_BUILDS("s=[1] i=2", "s=[i]i=i", 1, 2);
    ASSERT_BUILDS("i1=1 _x2=2", "i1=i _x2= i", 1, 2);
    ASSERT_BUILDS("\xc3\xa9t\xc3\xa9=1", "\xc3\xa9t\xc3\xa9=i", 1);
    ASSERT_BUILDS("iiii=1", "iiii=i", 1);
}

TEST(a_format_that_is_wrong_is_named_by_byte_and_argument)
{
    ASSERT_REFUSES("format \"ix>i\": byte 1: 'x' is no unit (argument 2)", "ix>i", 1);
    ASSERT_REFUSES("format \"i\\x0ai\": byte 1: '\\x0a' is no unit (argument 2)", "i\ni", 1);
    ASSERT_REFUSES("format \"i\\xc3\\xa9\": byte 1: '\\xc3' is no unit (argument 2)", "i\xc3\xa9",
                   1);
    ASSERT_REFUSES("format \"y\": byte 0: 'y' needs a '#' behind it, and takes a size (argument 1)",
                   "y");
    ASSERT_REFUSES("format \"i#\": byte 1: '#' can only stand behind s, y, z and j (argument 2)",
                   "i#", 1);
    ASSERT_REFUSES("format \"O#\": byte 1: '#' can only stand behind s, y, z and j (argument 2)",
                   "O#", "", (size_t)0);
    ASSERT_REFUSES("format \"i =i\": byte 2: '=' has no keyword before it (argument 2)", "i =i", 1);
    ASSERT_REFUSES("format \"iab= >\": byte 0: the keyword has no value (argument 1)", "iab= >");
    ASSERT_REFUSES("format \"i(i\": byte 1: the bracket is not closed (argument 2)", "i(i", 1, 2);
    ASSERT_REFUSES("format \"(i[])({[]>i\": byte 6: the bracket is not closed (argument 2)",
                   "(i[])({[]>i", 1);
    ASSERT_REFUSES("format \"i)\": byte 1: closes a bracket that is not open (argument 2)", "i)",
                   1);
    ASSERT_REFUSES("format \"[i)\": byte 2: closes a bracket of another kind (argument 1)", "[i)",
                   1);
    ASSERT_REFUSES("format \"[(i]\": byte 3: closes a bracket of another kind (argument 1)", "[(i]",
                   1);
    ASSERT_REFUSES("format \"i{i}\": byte 3: argument 2, item 2: the dict's last key has no value",
                   "i{i}", 1, 2);
}

TEST(a_value_that_is_wrong_is_named_too)
{
    ASSERT_REFUSES(
        "format \"is\": byte 1: argument 2: the pointer is NULL; the unit z would make it"
        " None",
        "is", 1, NULL);
    ASSERT_REFUSES("format \"j\": byte 0: argument 1: the pointer is NULL", "j", NULL);
    ASSERT_REFUSES("format \"y#\": byte 0: argument 1: the pointer is NULL and the size 3", "y#",
                   NULL, (size_t)3);
    ASSERT_REFUSES("format \"O\": byte 0: argument 1: the pointer is NULL and the size 3", "O",
                   NULL, (size_t)3);
    ASSERT_REFUSES("format \"s#\": byte 0: argument 1: the size is -1", "s#", "", (size_t)-1);
    ASSERT_REFUSES("format \"is\": byte 1: argument 2: the str is not UTF-8: byte 3 is 0xff", "is",
                   1, "a\xc3\xa9\xff");
    ASSERT_REFUSES("format \"s\": byte 0: argument 1: the str is not UTF-8: byte 0 is 0xed", "s",
                   "\xed\xa0\x80"); /* a lone surrogate */
    ASSERT_REFUSES("format \"(ij)\": byte 2: argument 1, item 2: the JSON text is not UTF-8: byte 1"
                   " is 0xc3",
                   "(ij)", 1, "\"\xc3\"");
    ASSERT_REFUSES(
        "format \"\\xffx=i\": byte 0: argument 1: the keyword is not UTF-8: byte 0 is 0xff",
        "\xffx=i", 1);
    ASSERT_REFUSES(
        "format \"x=ii\": byte 3: argument 2: a value without a keyword, behind one with a"
        " keyword",
        "x=ii", 1, 2);
    ASSERT_REFUSES(
        "format \"x=i (i)\": byte 4: argument 2: a value without a keyword, behind one with"
        " a keyword",
        "x=i (i)", 1, 2);
    ASSERT_REFUSES("format \"(x=i)\": byte 1: argument 1, item 1: a keyword cannot stand in a list,"
                   " tuple or dict",
                   "(x=i)", 1);
    ASSERT_REFUSES(
        "format \"x= y=i\": byte 3: argument 1: the keyword 'x' has no value before the next"
        " keyword",
        "x= y=i", 1);
}

TEST(a_long_format_is_cut_in_the_message)
{
    char format[201], expected[200];
    memset(format, ' ', 200);
    format[150] = 'x';
    format[200] = '\0';
    snprintf(expected, sizeof expected, "format \"%80s...\": byte 150: 'x' is no unit (argument 1)",
             "");
    ASSERT_REFUSES(expected, format);
}

static bool json_after(const char *format)
{
    pc_builder builder = new_builder();
    int code = build(&builder, format, 1);
    if (code < 0)
        tap_fail("%s", last_message());
    end_builder(&builder);
    return builder.json_result;
}

TEST(the_results_part_sets_json_if_it_is_j)
{
    ASSERT(json_after(">j"));
    ASSERT(json_after("i > j# "));
    ASSERT(!json_after("i"));
    ASSERT(!json_after("i>"));
    ASSERT(!json_after("i>i"));
    ASSERT(!json_after("j=i>"));
    ASSERT(!json_after(">pLKndfss#y#zz#O(i[s{id}])"));
}

TEST(the_results_part_is_checked_before_the_call)
{
    ASSERT_REFUSES("format \"i>x\": byte 2: 'x' is no unit", "i>x", 1);
    ASSERT_REFUSES("format \">i>i\": byte 2: '>' can stand only once, outside of brackets", ">i>i");
    ASSERT_REFUSES("format \"(>)\": byte 0: the bracket is not closed (argument 1)", "(>)");
    ASSERT_REFUSES("format \">(i\": byte 1: the bracket is not closed", ">(i");
    ASSERT_REFUSES("format \">i)\": byte 2: closes a bracket that is not open", ">i)");
    ASSERT_REFUSES("format \">(i]\": byte 3: closes a bracket of another kind", ">(i]");
    ASSERT_REFUSES("format \">{iii}\": byte 5: the dict's last key has no value", ">{iii}");
    ASSERT_REFUSES("format \">y\": byte 1: 'y' needs a '#' behind it, and takes a size", ">y");
    ASSERT_REFUSES("format \">d#\": byte 2: '#' can only stand behind s, y, z and j", ">d#");
    ASSERT_REFUSES("format \">K=i\": byte 2: '=' has no keyword before it", ">K=i");
    ASSERT_REFUSES("format \">ij\": byte 2: 'j' must be the only unit of a result", ">ij");
    ASSERT_REFUSES("format \">j#i\": byte 1: 'j' must be the only unit of a result", ">j#i");
    ASSERT_REFUSES("format \">[j]\": byte 2: 'j' must be the only unit of a result", ">[j]");
}

static const char *rest_of(const char *format, ...)
{
    pc_builder builder = new_builder();
    const char *rest = NULL;
    va_list args;
    va_start(args, format);
    ASSERT_INT(pc_format_build(&builder, format, &args, &rest), 0);
    va_end(args);
    end_builder(&builder);
    return rest;
}

TEST(building_stops_at_the_result)
{
    ASSERT_STR(rest_of("ii>i", 1, 2), ">i");
    ASSERT_STR(rest_of("i x=i > i", 1, 2), "> i");
    ASSERT_STR(rest_of("i", 1), "");
    ASSERT_STR(rest_of(">"), ">");
}

TEST(arguments_go_in_by_several_formats)
{
    pc_builder builder = new_builder();
    ASSERT_INT(build(&builder, "i", 1), 0);
    ASSERT_INT(pc_build_open(&builder, PYCREW_LIST), 0);
    ASSERT_INT(build(&builder, "i(i)", 2, 3), 0);
    ASSERT_FAILS(build(&builder, "i]", 4), -EINVAL,
                 "format \"i]\": byte 1: closes a bracket that is not open (argument 2)");
    end_builder(&builder);

    builder = new_builder();
    ASSERT_INT(build(&builder, "[]x=i", 1), 0);
    ASSERT_INT(pc_build_name(&builder, "y", 1), 0);
    ASSERT_INT(build(&builder, "i>i", 2), 0);
    ASSERT_INT(pc_build_finish(&builder), 0);
    ASSERT_STR(dumped(&builder), "[] x=1 y=2");
    end_builder(&builder);
}

/* ---- the builder ----------------------------------------------------------------------------- */

TEST(containers_nest_as_deep_as_the_reader_goes_and_no_deeper)
{
    pc_builder builder = new_builder();
    for (int i = 0; i < PC_VALUE_DEPTH_MAX; i++)
        ASSERT_INT(pc_build_open(&builder, i % 2 ? PYCREW_LIST : PYCREW_TUPLE), 0);
    ASSERT_INT(pc_build_i64(&builder, 7), 0);
    for (int i = 0; i < PC_VALUE_DEPTH_MAX; i++)
        ASSERT_INT(pc_build_close(&builder), 0);
    ASSERT_INT(pc_build_finish(&builder), 0);
    ASSERT_INT(pc_value_check(message_of(&builder), true), 0);
    end_builder(&builder);

    builder = new_builder();
    for (int i = 0; i < PC_VALUE_DEPTH_MAX; i++)
        ASSERT_INT(pc_build_open(&builder, PYCREW_LIST), 0);
    ASSERT_FAILS(pc_build_open(&builder, PYCREW_LIST), -EINVAL,
                 "argument 1, item 1: nested deeper than 500");
    end_builder(&builder);
}

TEST(structure_that_is_wrong_is_refused)
{
    pc_builder builder = new_builder();
    ASSERT_FAILS(pc_build_close(&builder), -EINVAL,
                 "argument 1: there is no open list, tuple or dict to close");
    pc_build_start(&builder);
    ASSERT_FAILS(pc_build_open(&builder, 0), -EINVAL, "argument 1: 0 is no kind of container");
    pc_build_start(&builder);
    ASSERT_FAILS(pc_build_open(&builder, 4), -EINVAL, "argument 1: 4 is no kind of container");
    pc_build_start(&builder);
    ASSERT_INT(pc_build_open(&builder, PYCREW_DICT), 0);
    ASSERT_FAILS(pc_build_finish(&builder), -EINVAL, "argument 1, item 1: a dict is not closed");
    pc_build_start(&builder);
    ASSERT_INT(pc_build_name(&builder, "axis", 4), 0);
    ASSERT_FAILS(pc_build_finish(&builder), -EINVAL, "argument 1: the keyword 'axis' has no value");
    pc_build_start(&builder);
    ASSERT_FAILS(pc_build_name(&builder, "", 0), -EINVAL, "argument 1: the keyword is empty");
    pc_build_start(&builder);
    ASSERT_FAILS(pc_build_name(&builder, "a\0b", 3), -EINVAL,
                 "argument 1: the keyword has a NUL inside");
    pc_build_start(&builder);
    ASSERT_FAILS(pc_build_name(&builder, NULL, 1), -EINVAL,
                 "argument 1: the pointer is NULL and the size 1");
    end_builder(&builder);
}

/* Each value function refuses a value without a keyword behind one with a keyword. */
TEST(no_value_slips_in_behind_keywords)
{
    for (int which = 0; which < 8; which++) {
        pc_builder builder = new_builder();
        ASSERT_INT(build(&builder, "x=(ii)", 1, 2), 0);
        int code = which == 0   ? pc_build_none(&builder)
                   : which == 1 ? pc_build_bool(&builder, true)
                   : which == 2 ? pc_build_i64(&builder, 1)
                   : which == 3 ? pc_build_u64(&builder, 1)
                   : which == 4 ? pc_build_f64(&builder, 1)
                   : which == 5 ? pc_build_data(&builder, PC_TAG_BYTES, "", 0)
                   : which == 6 ? pc_build_bigint(&builder, "fffffffffffffffff", 17)
                                : pc_build_open(&builder, PYCREW_LIST);
        ASSERT_FAILS(code, -EINVAL,
                     "argument 2: a value without a keyword, behind one with a keyword");
        end_builder(&builder);
    }
}

TEST(after_a_failure_everything_fails_with_its_code)
{
    pc_builder builder = new_builder();
    ASSERT_INT(pc_build_i64(&builder, 1), 0);
    ASSERT_INT(pc_build_close(&builder), -EINVAL);
    const char *text = "an earlier argument failed: only release is left";
    ASSERT_FAILS(pc_build_none(&builder), -EINVAL, text);
    ASSERT_FAILS(pc_build_data(&builder, PC_TAG_STR, "", 0), -EINVAL, text);
    ASSERT_FAILS(pc_build_bigint(&builder, "1", 1), -EINVAL, text);
    ASSERT_FAILS(pc_build_name(&builder, "x", 1), -EINVAL, text);
    ASSERT_FAILS(pc_build_open(&builder, PYCREW_LIST), -EINVAL, text);
    ASSERT_FAILS(pc_build_close(&builder), -EINVAL, text);
    ASSERT_FAILS(pc_build_finish(&builder), -EINVAL, text);
    end_builder(&builder);
}

static const char *bigint_built(const char *hex)
{
    pc_builder builder = new_builder();
    const char *text =
        pc_build_bigint(&builder, hex, strlen(hex)) < 0 ? last_message() : dumped(&builder);
    end_builder(&builder);
    return text;
}

TEST(a_bigint_is_written_in_one_way_only)
{
    ASSERT_STR(bigint_built("0"), "0");
    ASSERT_STR(bigint_built("-0"), "0");
    ASSERT_STR(bigint_built("00000000000000000000000001f"), "31");
    ASSERT_STR(bigint_built("-00000000000000000000000001F"), "-31");
    ASSERT_STR(bigint_built("7fffffffffffffff"), "9223372036854775807");
    ASSERT_STR(bigint_built("8000000000000000"), "9223372036854775808u");
    ASSERT_STR(bigint_built("FFFFFFFFFFFFFFFF"), "18446744073709551615u");
    ASSERT_STR(bigint_built("10000000000000000"), "0x10000000000000000");
    ASSERT_STR(bigint_built("-8000000000000000"), "-9223372036854775808");
    ASSERT_STR(bigint_built("-8000000000000001"), "0x-8000000000000001");
    ASSERT_STR(bigint_built("-ffffffffffffffff"), "0x-ffffffffffffffff");
    ASSERT_STR(bigint_built("-000ABCDEF0123456789abcdef"), "0x-abcdef0123456789abcdef");
    ASSERT_STR(bigint_built(""), "argument 1: the int has no digits");
    ASSERT_STR(bigint_built("-"), "argument 1: the int has no digits");
    ASSERT_STR(bigint_built("0x1"), "argument 1: the int is not hexadecimal: byte 1 is 0x78");
    ASSERT_STR(bigint_built("--1"), "argument 1: the int is not hexadecimal: byte 1 is 0x2d");
    ASSERT_STR(bigint_built("1g"), "argument 1: the int is not hexadecimal: byte 1 is 0x67");
}

TEST(a_rewind_discards_to_the_mark)
{
    pc_builder builder = new_builder();
    ASSERT_INT(build(&builder, "i(i)", 1, 2), 0);
    pc_mark mark = pc_build_mark(&builder);
    ASSERT_INT(build(&builder, "([i", 3), -EINVAL);
    pc_build_rewind(&builder, mark);
    ASSERT_STR(dumped(&builder), "1 (2)");
    ASSERT_INT(build(&builder, "x=i>j", 4), 0);
    ASSERT(builder.json_result);
    pc_build_rewind(&builder, mark);
    ASSERT(!builder.json_result);
    ASSERT_FAILS(build(&builder, "s", NULL), -EINVAL,
                 "format \"s\": byte 0: argument 3: the pointer is NULL; the unit z would make it "
                 "None");
    pc_build_rewind(&builder, mark);
    ASSERT_INT(build(&builder, "i", 5), 0); /* no keyword is asked for */
    ASSERT_INT(pc_build_finish(&builder), 0);
    ASSERT_STR(dumped(&builder), "1 (2) 5");

    pc_build_start(&builder); /* the next item, behind this one */
    ASSERT_FAILS(build(&builder, "is", 6, NULL), -EINVAL,
                 "format \"is\": byte 1: argument 2: the pointer is NULL; the unit z would make it "
                 "None");
    end_builder(&builder);
}

TEST(a_rewind_keeps_what_was_so_at_the_mark)
{
    pc_builder builder = new_builder();
    ASSERT_INT(build(&builder, "x=i", 1), 0);
    ASSERT_INT(pc_build_name(&builder, "y", 1), 0);
    pc_mark mark = pc_build_mark(&builder);
    ASSERT_INT(build(&builder, "[i", 1), -EINVAL);
    pc_build_rewind(&builder, mark);
    ASSERT_FAILS(pc_build_finish(&builder), -EINVAL, "argument 2: the keyword 'y' has no value");
    pc_build_rewind(&builder, mark);
    ASSERT_INT(pc_build_i64(&builder, 2), 0);
    ASSERT_INT(pc_build_i64(&builder, 3), -EINVAL);
    end_builder(&builder);

    builder = new_builder();
    ASSERT_INT(build(&builder, "i>j", 1), 0);
    mark = pc_build_mark(&builder);
    pc_build_rewind(&builder, mark);
    ASSERT(builder.json_result);
    end_builder(&builder);
}

static int grow_without_words(pc_writer *writer, size_t need)
{
    (void)writer;
    (void)need;
    return -ENOMEM;
}

static int grow_with_words(pc_writer *writer, size_t need)
{
    (void)writer;
    return pc_fail(-E2BIG, "%zu bytes are more than the memory cap", need);
}

TEST(what_the_memorys_owner_says_reaches_the_caller)
{
    uint64_t memory[3];
    pc_builder builder = {
        .writer = {(uint8_t *)memory, 0, sizeof memory, grow_without_words},
    };
    pc_build_start(&builder);
    ASSERT_INT(pc_fail(-EINVAL, "something before"), -EINVAL);
    ASSERT_FAILS(build(&builder, "ii", 1, 2), -ENOMEM, "argument 2: Cannot allocate memory");
    ASSERT_INT(pc_build_i64(&builder, 1), -ENOMEM);
    builder.writer.grow = grow_with_words;
    pc_mark empty = {0};
    for (int which = 0; which < 5; which++) {
        pc_build_rewind(&builder, empty);
        ASSERT_INT(build(&builder, "i", 1), 0);
        int code = which == 0   ? pc_build_data(&builder, PC_TAG_BYTES, "", 0)
                   : which == 1 ? pc_build_open(&builder, PYCREW_LIST)
                   : which == 2 ? pc_build_name(&builder, "x", 1)
                   : which == 3 ? pc_build_f64(&builder, 1)
                                : pc_build_bigint(&builder, "-8000000000000000", 17);
        ASSERT_FAILS(code, -E2BIG, "32 bytes are more than the memory cap");
        ASSERT_STR(dumped(&builder), "1");
    }
}

/* What lies in the message while containers are open may be written to by another process. */
TEST(scribbles_on_open_containers_do_not_lead_out_of_the_message)
{
    static const uint64_t scribbles[] = {8, 16, 17, 32, 48, 1000, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof scribbles / sizeof *scribbles; i++) {
        pc_builder builder = new_builder();
        for (int depth = 0; depth < 3; depth++)
            ASSERT_INT(pc_build_open(&builder, PYCREW_LIST), 0);
        memcpy(builder.writer.data + 40, &scribbles[i], 8); /* the innermost one's parent */
        int code = pc_build_close(&builder);
        if (scribbles[i] >= 32 || scribbles[i] % 8)
            ASSERT_FAILS(
                code, -EINVAL,
                "argument 1, item 1: the arguments' memory was written to by somebody else");
        for (int depth = 0; depth < 3; depth++)
            pc_build_close(&builder);
        end_builder(&builder);
    }
}

TEST(a_scribbled_keyword_is_not_read_past_the_message)
{
    pc_builder builder = new_builder();
    ASSERT_INT(pc_build_name(&builder, "x", 1), 0);
    uint64_t header = PC_TAG_NAME | (uint64_t)1 << 40;
    memcpy(builder.writer.data, &header, 8);
    ASSERT_FAILS(pc_build_finish(&builder), -EINVAL, "argument 1: the keyword '' has no value");
    end_builder(&builder);
}

/* ---- random ---------------------------------------------------------------------------------- */

static uint64_t random_state = 88172645463325252u;

static uint64_t random_word(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static unsigned random_below(unsigned limit)
{
    return (unsigned)(random_word() % limit);
}

static int random_operation(pc_builder *builder)
{
    static const char hex[] = "-00123456789abcdefABCDEF000000000";
    size_t size = random_below(20), from = random_below(12);
    switch (random_below(11)) {
    case 0:
        return pc_build_none(builder);
    case 1:
        return pc_build_bool(builder, random_below(2));
    case 2:
        return pc_build_i64(builder, (int64_t)random_word());
    case 3:
        return pc_build_u64(builder, random_word());
    case 4:
        return pc_build_f64(builder, (double)random_word());
    case 5:
        return pc_build_bigint(builder, hex + from, size);
    case 6:
        return pc_build_data(builder, PC_TAG_BIGINT + 1 + random_below(4), hex + from, size);
    case 7:
        return random_below(8) ? 0 : pc_build_name(builder, hex + from, size);
    case 8:
    case 9:
        return pc_build_close(builder);
    default:
        return pc_build_open(builder, (int)random_below(3) + 1);
    }
}

TEST(whatever_the_builder_finishes_the_reader_takes)
{
    unsigned finished = 0;
    for (int round = 0; round < 20000; round++) {
        pc_builder builder = new_builder();
        for (unsigned steps = random_below(30); steps > 0; steps--) {
            builder.flags &= ~(unsigned)PC_BUILD_FAILED; /* go on as if nothing had been */
            random_operation(&builder);
        }
        builder.flags &= ~(unsigned)PC_BUILD_FAILED;
        while (builder.depth > 0)
            if (pc_build_close(&builder) < 0) {
                builder.flags &= ~(unsigned)PC_BUILD_FAILED;
                ASSERT_INT(pc_build_none(&builder), 0);
            }
        if (pc_build_finish(&builder) == 0) {
            ASSERT_INT(pc_value_check(message_of(&builder), true), 0);
            finished++;
        }
        end_builder(&builder);
    }
    ASSERT(finished > 10000);
}

#if defined(__x86_64__)
/* A va_list whose arguments are addresses that are also ints, and sizes that fit behind them: so
 * every format, however wrong, finds arguments that can be read or written. */
enum { ADDRESS = 0x20000, WORDS = 64 };

static void *arguments_of(uint64_t words[WORDS], size_t step, va_list args)
{
    struct {
        unsigned gp_offset, fp_offset;
        void *overflow_arg_area, *reg_save_area;
    } *in = (void *)args;
    for (size_t i = 0; i < WORDS; i++)
        words[i] = ADDRESS + i * step;
    in->gp_offset = 48; /* none left in registers */
    in->fp_offset = 176;
    in->overflow_arg_area = words;
    in->reg_save_area = NULL;
    return args;
}

/* 3 * ADDRESS bytes at ADDRESS, short texts one behind the other. */
static char *map_arguments(void)
{
    char *memory = mmap((void *)ADDRESS, (size_t)3 * ADDRESS, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (memory != (void *)ADDRESS)
        SKIP("nothing can be mapped at 0x%x", (unsigned)ADDRESS);
    return memory;
}

static void fill_arguments(char *memory)
{
    memset(memory, 'a', (size_t)3 * ADDRESS);
    memory[7] = memory[3 * ADDRESS - 1] = '\0';
}

static void random_format(char *format, size_t size)
{
    static const char likely[] = "piLKndfszjOs#y#z#j#()[]{}()[]{} ,x=>>";
    size_t length = random_below((unsigned)size);
    for (size_t i = 0; i < length; i++)
        format[i] = random_below(50) ? likely[random_below(sizeof likely - 1)]
                                     : (char)(random_below(255) + 1);
    format[length] = '\0';
}

TEST_LIMIT(no_format_is_too_strange_to_build, 300)
{
    static uint64_t words[WORDS];
    fill_arguments(map_arguments());
    int rounds = instrumented() ? 30000 : 300000, taken = 0;
    for (int round = 0; round < rounds; round++) {
        char format[24];
        va_list args;
        pc_builder builder = new_builder();
        random_format(format, sizeof format);
        const char *rest = NULL;
        int code = pc_format_build(&builder, format, arguments_of(words, 0, args), &rest);
        if (code == 0) {
            taken++;
            ASSERT(*rest == '>' || *rest == '\0');
            ASSERT_INT(pc_build_finish(&builder), 0);
            ASSERT_INT(pc_value_check(message_of(&builder), true), 0);
        } else {
            ASSERT_INT(code, -EINVAL);
            ASSERT_INT(strncmp(last_message(), "format \"", 8), 0);
            ASSERT(pc_utf8_valid(last_message(), strlen(last_message())));
        }
        end_builder(&builder);
    }
    DIAG("%d of %d formats were taken", taken, rounds);
    ASSERT(taken > rounds / 50);
}

/* Some message, and then some bytes of it changed. */
static void random_message(pc_builder *builder)
{
    for (unsigned steps = random_below(12); steps > 0; steps--) {
        random_operation(builder);
        builder->flags = 0;
    }
    while (builder->depth > 0)
        if (pc_build_close(builder) < 0) {
            builder->flags = 0;
            pc_build_none(builder);
        }
    size_t size = builder->writer.size;
    for (unsigned changes = random_below(4); size > 0 && changes > 0; changes--)
        builder->writer.data[random_below((unsigned)size)] =
            random_below(2) ? (uint8_t)random_below(16) : (uint8_t)random_word();
    if (random_below(4) == 0)
        builder->writer.size = size / 8 ? random_below((unsigned)size / 8) * 8 : 0;
}

/* What a result with copies has stored, 16 bytes apart, is freed. */
static void free_copies(const char *format, char *memory)
{
    for (; *format; format++) {
        if (strchr("szjyO", *format))
            free(*(void **)(void *)memory);
        if (strchr("piLKndfszjyO#", *format))
            memory += *format == 'O' ? 32 : 16;
    }
}

TEST_LIMIT(no_result_is_too_strange_to_read, 300)
{
    static uint64_t words[WORDS];
    char *memory = map_arguments(), untouched[WORDS * 16];
    int rounds = instrumented() ? 50000 : 500000, taken = 0;
    memset(untouched, 'a', sizeof untouched);
    for (int round = 0; round < rounds; round++) {
        char format[12];
        va_list args;
        pc_builder builder = new_builder();
        random_message(&builder);
        random_format(format, sizeof format);
        memcpy(memory, untouched, sizeof untouched);
        bool copy = random_below(2);
        int code =
            pc_format_result(message_of(&builder), NULL, format, arguments_of(words, 16, args), copy);
        if (code < 0)
            ASSERT_MEM(memory, untouched, sizeof untouched);
        else if (copy)
            free_copies(format, memory);
        taken += code == 0;
        end_builder(&builder);
    }
    DIAG("%d of %d results were stored", taken, rounds);
    ASSERT(taken > rounds / 50);
}
#endif

/* ---- results --------------------------------------------------------------------------------- */

TEST(each_result_unit_stores_its_value)
{
    pc_builder builder = new_builder();
    ASSERT_INT(build(&builder, "(piLKnd d s s# y# z z# z z# O)", 1, -3, LLONG_MIN, ULLONG_MAX,
                     (ptrdiff_t)-4, 1.5, 0.25, "text", "a\0b", (size_t)3, "\xff\0", (size_t)2, "z",
                     "zz", (size_t)2, NULL, NULL, (size_t)0, "pick", (size_t)4),
               0);
    int p, i;
    long long L;
    unsigned long long K;
    ptrdiff_t n;
    double d;
    float f;
    const char *s, *sized, *y, *z, *z_sized, *none, *none_sized, *O;
    size_t size, y_size, z_size, none_size, O_size;
    ASSERT_INT(result(&builder, ">piLKn d f s s# y# z z# z z# O", &p, &i, &L, &K, &n, &d, &f, &s,
                      &sized, &size, &y, &y_size, &z, &z_sized, &z_size, &none, &none_sized,
                      &none_size, &O, &O_size),
               0);
    ASSERT_INT(p, 1);
    ASSERT_INT(i, -3);
    ASSERT(L == LLONG_MIN && K == ULLONG_MAX && n == -4 && d == 1.5 && f == 0.25f);
    ASSERT_STR(s, "text");
    ASSERT_INT(size, 3);
    ASSERT_MEM(sized, "a\0b\0", 4);
    ASSERT_INT(y_size, 2);
    ASSERT_MEM(y, "\xff\0\0", 3);
    ASSERT_STR(z, "z");
    ASSERT_INT(z_size, 2);
    ASSERT_STR(z_sized, "zz");
    ASSERT(!none && !none_sized && none_size == 0);
    ASSERT_INT(O_size, 4);
    ASSERT_STR(O, "pick");
    ASSERT((const uint8_t *)s > builder.writer.data &&
           (const uint8_t *)s < builder.writer.data + builder.writer.size);
    end_builder(&builder);
}

/* A result of one value made by one argument. */
#define WITH_RESULT(...)                                                                           \
    for (pc_builder builder = one_value(__VA_ARGS__); builder.writer.data; end_builder(&builder))

static pc_builder one_value(const char *format, ...)
{
    pc_builder builder = new_builder();
    va_list args;
    va_start(args, format);
    if (pc_format_build(&builder, format, &args, NULL) < 0)
        tap_fail("%s", last_message());
    va_end(args);
    return builder;
}

TEST(one_unit_is_the_value_itself_with_and_without_the_arrow)
{
    WITH_RESULT("i", 7)
    {
        int i = 0;
        ASSERT_INT(result(&builder, "i", &i), 0);
        ASSERT_INT(i, 7);
        i = 0;
        ASSERT_INT(result(&builder, " > i ", &i), 0);
        ASSERT_INT(i, 7);
        ASSERT_FAILS(result(&builder, "i>i", &i), -EINVAL,
                     "format \"i>i\": byte 1: '>' can stand only once, outside of brackets");
        ASSERT_FAILS(result(&builder, "ix", &i), -EINVAL, "format \"ix\": byte 1: 'x' is no unit");
    }
    WITH_RESULT("j", "[1]")
    {
        const char *text;
        size_t size;
        ASSERT_INT(result(&builder, ">j", &text), 0);
        ASSERT_STR(text, "[1]");
        ASSERT_INT(result(&builder, "j#", &text, &size), 0);
        ASSERT_INT(size, 3);
    }
}

TEST(an_empty_result_is_discarded)
{
    WITH_RESULT("[i]", 7)
    {
        ASSERT_INT(result(&builder, ""), 0);
        ASSERT_INT(result(&builder, ">"), 0);
        ASSERT_INT(result(&builder, " > , "), 0);
    }
}

TEST(several_units_are_a_sequence_of_exactly_that_length)
{
    int a, b;
    WITH_RESULT("(ii)", 1, 2)
    {
        ASSERT_INT(result(&builder, "ii", &a, &b), 0);
        ASSERT(a == 1 && b == 2);
        ASSERT_FAILS(result(&builder, "iii", &a, &b, &b), PYCREW_ETYPE,
                     "result: expected list or tuple of 3, got tuple of 2");
        ASSERT_FAILS(result(&builder, "i", &a), PYCREW_ETYPE, "result: expected int, got tuple");
    }
    WITH_RESULT("[ii]", 3, 4)
    {
        ASSERT_INT(result(&builder, "i, i", &a, &b), 0);
        ASSERT(a == 3 && b == 4);
    }
    WITH_RESULT("{iiii}", 1, 2, 3, 4)
    ASSERT_FAILS(result(&builder, "ii", &a, &b), PYCREW_ETYPE,
                 "result: expected list or tuple of 2, got dict of 2");
    WITH_RESULT("i", 1)
    ASSERT_FAILS(result(&builder, "ii", &a, &b), PYCREW_ETYPE,
                 "result: expected list or tuple of 2, got int");
}

TEST(brackets_are_containers_of_exactly_that_kind_and_length)
{
    int a, b, c;
    double d;
    const char *s;
    WITH_RESULT("({si}[i(d)()])", "k", 1, 2, 2.5)
    {
        ASSERT_INT(result(&builder, "( {si} , [i(d)()] )", &s, &a, &b, &d), 0);
        ASSERT_STR(s, "k");
        ASSERT(a == 1 && b == 2 && d == 2.5);
        ASSERT_INT(result(&builder, "{si}[i(d)()]", &s, &a, &b, &d), 0);
        ASSERT_FAILS(result(&builder, "[{si}[i(d)()]]", &s, &a, &b, &d), PYCREW_ETYPE,
                     "result: expected list of 2, got tuple of 2");
        ASSERT_FAILS(result(&builder, "(i[i(d)()])", &a, &b, &d), PYCREW_ETYPE,
                     "result item 1: expected int, got dict");
        ASSERT_FAILS(result(&builder, "({ii}[i(d)()])", &c, &a, &b, &d), PYCREW_ETYPE,
                     "result item 1, key 1: expected int, got str");
        ASSERT_FAILS(result(&builder, "({ss}[i(d)()])", &s, &s, &b, &d), PYCREW_ETYPE,
                     "result item 1, value of key 1: expected str, got int");
        ASSERT_FAILS(result(&builder, "({siii}[i(d)()])", &s, &a, &c, &c, &b, &d), PYCREW_ETYPE,
                     "result item 1: expected dict of 2 pairs, got dict of 1");
        ASSERT_FAILS(result(&builder, "({}[i(d)()])", &b, &d), PYCREW_ETYPE,
                     "result item 1: expected dict of 0 pairs, got dict of 1");
        ASSERT_FAILS(result(&builder, "({si}[i(dd)()])", &s, &a, &b, &d, &d), PYCREW_ETYPE,
                     "result item 2, item 2: expected tuple of 2, got tuple of 1");
        ASSERT_FAILS(result(&builder, "({si}[i(d)i])", &s, &a, &b, &d, &c), PYCREW_ETYPE,
                     "result item 2, item 3: expected int, got tuple");
    }
}

TEST(a_number_that_does_not_fit_is_out_of_range)
{
    int i;
    long long L;
    unsigned long long K;
    ptrdiff_t n;
    double d;
    float f;
    WITH_RESULT("L", (long long)INT_MAX + 1)
    ASSERT_FAILS(result(&builder, "i", &i), -ERANGE, "result: 2147483648 is out of range for int");
    WITH_RESULT("[L]", (long long)INT_MIN - 1)
    ASSERT_FAILS(result(&builder, "[i]", &i), -ERANGE,
                 "result item 1: -2147483649 is out of range for int");
    WITH_RESULT("K", ULLONG_MAX)
    {
        ASSERT_FAILS(result(&builder, "i", &i), -ERANGE,
                     "result: 18446744073709551615 is out of range for int");
        ASSERT_FAILS(result(&builder, "L", &L), -ERANGE,
                     "result: 18446744073709551615 is out of range for long long");
        ASSERT_FAILS(result(&builder, "n", &n), -ERANGE,
                     "result: 18446744073709551615 is out of range for ptrdiff_t");
        ASSERT_INT(result(&builder, "d", &d), 0);
        ASSERT(d == 18446744073709551616.0);
    }
    WITH_RESULT("i", -1)
    ASSERT_FAILS(result(&builder, "K", &K), -ERANGE,
                 "result: -1 is out of range for unsigned long long");
    WITH_RESULT("d", 1e39)
    ASSERT_FAILS(result(&builder, "f", &f), -ERANGE, "result: 1e+39 is out of range for float");
    WITH_RESULT("d", HUGE_VAL)
    {
        ASSERT_INT(result(&builder, "f", &f), 0);
        ASSERT(isinf(f));
    }
    WITH_RESULT("d", (double)NAN)
    {
        ASSERT_INT(result(&builder, "f", &f), 0);
        ASSERT(isnan(f));
    }
}

TEST(a_bool_is_an_int_and_an_int_is_a_float_and_nothing_else_converts)
{
    int p = 5, i = 5;
    long long L;
    unsigned long long K;
    double d;
    const char *s;
    size_t size;
    WITH_RESULT("p", 1)
    {
        ASSERT_INT(result(&builder, "p", &p), 0);
        ASSERT_INT(result(&builder, "i", &i), 0);
        ASSERT_INT(result(&builder, "L", &L), 0);
        ASSERT_INT(result(&builder, "K", &K), 0);
        ASSERT_INT(result(&builder, "d", &d), 0);
        ASSERT(p == 1 && i == 1 && L == 1 && K == 1 && d == 1);
    }
    WITH_RESULT("L", (1LL << 53) + 1)
    {
        ASSERT_INT(result(&builder, "d", &d), 0);
        ASSERT(d == 9007199254740992.0);
        ASSERT_FAILS(result(&builder, "p", &p), PYCREW_ETYPE, "result: expected bool, got int");
        ASSERT_FAILS(result(&builder, "s", &s), PYCREW_ETYPE, "result: expected str, got int");
        ASSERT_FAILS(result(&builder, "z", &s), PYCREW_ETYPE,
                     "result: expected str or None, got int");
        ASSERT_FAILS(result(&builder, "y#", &s, &size), PYCREW_ETYPE,
                     "result: expected bytes, got int");
        ASSERT_FAILS(result(&builder, "O", &s, &size), PYCREW_ETYPE,
                     "result: expected a pickled object, got int");
        ASSERT_FAILS(result(&builder, "j", &s), PYCREW_ETYPE,
                     "result: expected JSON text, got int; the call must be told before it is "
                     "submitted, by pycrew_set_json or a format with '>j'");
    }
    WITH_RESULT("d", 1.0)
    {
        ASSERT_FAILS(result(&builder, "i", &i), PYCREW_ETYPE, "result: expected int, got float");
        ASSERT_FAILS(result(&builder, "L", &L), PYCREW_ETYPE, "result: expected int, got float");
        ASSERT_FAILS(result(&builder, "K", &K), PYCREW_ETYPE, "result: expected int, got float");
    }
    WITH_RESULT("z", NULL)
    {
        ASSERT_FAILS(result(&builder, "s", &s), PYCREW_ETYPE, "result: expected str, got None");
        ASSERT_FAILS(result(&builder, "d", &d), PYCREW_ETYPE, "result: expected float, got None");
    }
    WITH_RESULT("s", "1")
    ASSERT_FAILS(result(&builder, "y#", &s, &size), PYCREW_ETYPE,
                 "result: expected bytes, got str");
    WITH_RESULT("y#", "1", (size_t)1)
    ASSERT_FAILS(result(&builder, "s#", &s, &size), PYCREW_ETYPE,
                 "result: expected str, got bytes");
    WITH_RESULT("O", "1", (size_t)1)
    ASSERT_FAILS(result(&builder, "s", &s), PYCREW_ETYPE,
                 "result: expected str, got a pickled object");
    WITH_RESULT("j", "1")
    ASSERT_FAILS(result(&builder, "i", &i), PYCREW_ETYPE, "result: expected int, got JSON text");
}

static double bigint_as_f64(const char *hex, int *ret_code)
{
    pc_builder builder = new_builder();
    double d = 0;
    ASSERT_INT(pc_build_bigint(&builder, hex, strlen(hex)), 0);
    *ret_code = result(&builder, "d", &d);
    end_builder(&builder);
    return d;
}

TEST(a_bigint_becomes_the_nearest_float_as_strtod_finds_it)
{
    for (int round = 0; round < 20000; round++) {
        char hex[300] = "-0x";
        size_t digits = 17 + random_below(240), zeros = random_below(20);
        for (size_t i = 0; i < digits; i++)
            hex[3 + i] = i > 13 + zeros && round % 2 ? '0' : "0123456789abcdef"[random_below(16)];
        if (round % 3 == 0) /* just at, below and above the middle between two doubles */
            memset(hex + 4, "0f8"[random_below(3)], 12);
        hex[3] = "12489f"[random_below(6)];
        hex[3 + digits] = '\0';
        double expected = strtod(hex, NULL);
        int code;
        hex[2] = '-'; /* over the x of "-0x" */
        double found = bigint_as_f64(hex + 2, &code);
        if (isinf(expected)) {
            ASSERT_INT(code, -ERANGE);
        } else {
            ASSERT_INT(code, 0);
            if (found != expected)
                tap_fail("%s is %a, expected %a", hex + 2, found, expected);
        }
    }
}

TEST(a_bigint_is_out_of_range_of_ints_and_of_floats_when_it_overflows)
{
    int i, code;
    char hex[300];
    WITH_RESULT("[]")
    {
        pc_build_start(&builder);
        builder.writer.size = 0;
        ASSERT_INT(pc_build_bigint(&builder, "10000000000000000", 17), 0);
        ASSERT_FAILS(result(&builder, "i", &i), -ERANGE,
                     "result: an int of 17 hexadecimal digits is out of range for int");
        ASSERT_FAILS(
            result(&builder, "K", &i), -ERANGE,
            "result: an int of 17 hexadecimal digits is out of range for unsigned long long");
    }
    memset(hex, 'f', 256); /* 2**1024 - 1 rounds up */
    hex[256] = '\0';
    bigint_as_f64(hex, &code);
    ASSERT_INT(code, -ERANGE);
    memcpy(hex, "fffffffffffff7ff", 16); /* the last that rounds down */
    ASSERT(bigint_as_f64(hex, &code) == DBL_MAX);
    ASSERT_INT(code, 0);
    memset(hex, '1', 290);
    hex[290] = '\0';
    bigint_as_f64(hex, &code);
    ASSERT_INT(code, -ERANGE);
}

TEST(a_text_with_a_nul_inside_needs_its_size_asked_for)
{
    const char *s;
    size_t size;
    WITH_RESULT("s#", "a\0b", (size_t)3)
    {
        ASSERT_FAILS(result(&builder, "s", &s), -EINVAL,
                     "result: the str has a NUL inside, so its size must be asked for");
        ASSERT_INT(result(&builder, "z", &s), -EINVAL);
        ASSERT_INT(result(&builder, "z#", &s, &size), 0);
        ASSERT_INT(size, 3);
    }
}

TEST(a_text_that_is_not_utf8_is_of_the_wrong_type)
{
    const char *s = NULL;
    size_t size;
    WITH_RESULT("s", "abc")
    {
        builder.writer.data[9] = 0xff;
        ASSERT_FAILS(result(&builder, "s", &s), PYCREW_ETYPE, "result: the str is not UTF-8");
        ASSERT_FAILS(result(&builder, "z#", &s, &size), PYCREW_ETYPE,
                     "result: the str is not UTF-8");
        ASSERT_INT(result_copied(&builder, "s", &s), PYCREW_ETYPE);
        ASSERT(!s);
    }
    WITH_RESULT("j", "\"c\"")
    {
        builder.writer.data[9] = 0xff;
        ASSERT_FAILS(result(&builder, "j", &s), PYCREW_ETYPE, "result: the JSON text is not UTF-8");
    }
}

TEST(copies_are_the_callers_and_end_in_a_nul)
{
    char *s, *y, *z, *O, *none = (char *)1, *many[20];
    size_t size, O_size;
    pc_builder builder =
        one_value("(sy#zO z)", "text", "\0\1", (size_t)2, "", "p", (size_t)1, NULL);
    ASSERT_INT(result_copied(&builder, "sy#zO z", &s, &y, &size, &z, &O, &O_size, &none), 0);
    end_builder(&builder);
    ASSERT_STR(s, "text");
    ASSERT_INT(size, 2);
    ASSERT_MEM(y, "\0\1\0", 3);
    ASSERT_STR(z, "");
    ASSERT_INT(O_size, 1);
    ASSERT_STR(O, "p");
    ASSERT(!none);
    free(s);
    free(y);
    free(z);
    free(O);

    builder = one_value("[ssssssssssssssssssss]", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9",
                        "10", "11", "12", "13", "14", "15", "16", "17", "18", "19");
    ASSERT_INT(result_copied(&builder, "ssssssssssssssssssss", &many[0], &many[1], &many[2],
                             &many[3], &many[4], &many[5], &many[6], &many[7], &many[8], &many[9],
                             &many[10], &many[11], &many[12], &many[13], &many[14], &many[15],
                             &many[16], &many[17], &many[18], &many[19]),
               0);
    end_builder(&builder);
    for (int i = 0; i < 20; i++) {
        ASSERT_INT(atoi(many[i]), i);
        free(many[i]);
    }
}

TEST(outputs_are_untouched_when_the_last_one_fails)
{
    int i = 77;
    double d = 7.5;
    char *s = (char *)1, *y = (char *)2;
    size_t size = 78;
    WITH_RESULT("(id[sy#]s)", 1, 2.5, "text", "b", (size_t)1, "last")
    {
        ASSERT_FAILS(result(&builder, "id[sy#]i", &i, &d, &s, &y, &size, &i), PYCREW_ETYPE,
                     "result item 4: expected int, got str");
        ASSERT_INT(result_copied(&builder, "id[sy#]i", &i, &d, &s, &y, &size, &i), PYCREW_ETYPE);
        ASSERT_FAILS(result(&builder, "id[sy#]s", &i, &d, &s, &y, &size, NULL), -EINVAL,
                     "result item 4: the pointer to store it through is NULL");
        ASSERT_FAILS(result_copied(&builder, "id[sy#]s#", &i, &d, &s, &y, &size, &s, NULL), -EINVAL,
                     "result item 4: the pointer to store it through is NULL");
        ASSERT_INT(result(&builder, "id[sy#]", &i, &d, &s, &y, &size), PYCREW_ETYPE);
        ASSERT_INT(result(&builder, "id[sy#]x", &i, &d, &s, &y, &size, &i), -EINVAL);
    }
    WITH_RESULT("i", 1)
    ASSERT_FAILS(result(&builder, "i", NULL), -EINVAL,
                 "result: the pointer to store it through is NULL");
    ASSERT(i == 77 && d == 7.5 && s == (char *)1 && y == (char *)2 && size == 78);
}

TEST(a_result_that_is_cut_off_is_not_readable)
{
    int i = 77;
    WITH_RESULT("(ii)", 1, 2)
    {
        for (size_t size = 0; size < builder.writer.size; size += 8) {
            uint8_t *cut = malloc(size + 1); /* of its own, so that ASan sees its end */
            memcpy(cut, builder.writer.data, size);
            pc_builder short_one = {.writer = {.data = cut, .size = size}};
            ASSERT_INT(result(&short_one, "(ii)", &i, &i), PYCREW_ETYPE);
            ASSERT_FAILS(result(&short_one, "i", &i), PYCREW_ETYPE,
                         "result: not readable: its call was released, or something wrote over it, or it is no value");
            free(cut);
        }
        memset(builder.writer.data + 16, 0xff, 8);
        ASSERT_FAILS(result(&builder, "ii", &i, &i), PYCREW_ETYPE,
                     "result item 1: not readable: its call was released, or something wrote over it, or it is no value");
    }
    ASSERT_INT(i, 77);
}

TEST(a_place_far_inside_is_named_as_far_as_it_fits)
{
    int i;
    char brackets[PC_VALUE_DEPTH_MAX * 2 + 2], *at = brackets;
    for (int depth = 0; depth < PC_VALUE_DEPTH_MAX; depth++)
        *at++ = '[';
    *at++ = 's';
    for (int depth = 0; depth < PC_VALUE_DEPTH_MAX; depth++)
        *at++ = ']';
    *at = '\0';
    WITH_RESULT(brackets, "x")
    {
        brackets[PC_VALUE_DEPTH_MAX] = 'i';
        ASSERT_INT(result(&builder, brackets, &i), PYCREW_ETYPE);
        ASSERT_INT(strncmp(last_message(), "result item 1, item 1, item 1,", 30), 0);
        ASSERT(strlen(last_message()) < 300);
        ASSERT_STR(strstr(last_message(), ": "), ": expected int, got str");
        brackets[PC_VALUE_DEPTH_MAX] = '[';
        ASSERT_INT(result(&builder, brackets, &i), -EINVAL);
        ASSERT(strstr(last_message(), "byte 500: brackets are nested too deep"));
    }
}

TEST(a_copy_that_finds_no_memory_leaves_the_outputs_alone)
{
    if (instrumented())
        SKIP("malloc does not fail under sanitizers and valgrind");
    size_t size = (size_t)64 << 20;
    char *zeros = calloc(size, 1), *s = (char *)1, *y = (char *)2;
    size_t y_size = 5;
    pc_builder builder = one_value("(sy#)", "small", zeros, size);
    struct rlimit now;
    getrlimit(RLIMIT_AS, &now);
    setrlimit(RLIMIT_AS, &(struct rlimit){0, now.rlim_max});
    int code = result_copied(&builder, "sy#", &s, &y, &y_size);
    setrlimit(RLIMIT_AS, &now);
    ASSERT_FAILS(code, -ENOMEM, "result item 2: no memory for the copy");
    ASSERT(s == (char *)1 && y == (char *)2 && y_size == 5);
    end_builder(&builder);
    free(zeros);
}

TEST(results_by_type_follow_the_same_rules)
{
    bool truth;
    int64_t i = 0;
    uint64_t u = 0;
    double d = 0;
    const char *s;
    const void *bytes;
    size_t size;
    WITH_RESULT("i", -5)
    {
        pc_cursor message = message_of(&builder);
        ASSERT_INT(pc_result_i64(message, &i), 0);
        ASSERT_INT(i, -5);
        ASSERT_INT(pc_result_f64(message, &d), 0);
        ASSERT(d == -5);
        ASSERT_FAILS(pc_result_u64(message, &u), -ERANGE,
                     "result: -5 is out of range for uint64_t");
        ASSERT_FAILS(pc_result_bool(message, &truth), PYCREW_ETYPE,
                     "result: expected bool, got int");
        ASSERT_FAILS(pc_result_str(message, &s, &size), PYCREW_ETYPE,
                     "result: expected str, got int");
        ASSERT_FAILS(pc_result_json(message, &s, &size), PYCREW_ETYPE,
                     "result: expected JSON text, got int");
        ASSERT_FAILS(pc_result_bytes(message, &bytes, &size), PYCREW_ETYPE,
                     "result: expected bytes, got int");
    }
    WITH_RESULT("K", ULLONG_MAX)
    {
        ASSERT_FAILS(pc_result_i64(message_of(&builder), &i), -ERANGE,
                     "result: 18446744073709551615 is out of range for int64_t");
        ASSERT_INT(pc_result_u64(message_of(&builder), &u), 0);
        ASSERT(u == ULLONG_MAX);
    }
    WITH_RESULT("p", 1)
    {
        ASSERT_INT(pc_result_bool(message_of(&builder), &truth), 0);
        ASSERT(truth);
    }
    WITH_RESULT("s", "abc")
    {
        ASSERT_INT(pc_result_str(message_of(&builder), &s, &size), 0);
        ASSERT_STR(s, "abc");
        ASSERT_INT(size, 3);
        ASSERT_INT(pc_result_str(message_of(&builder), &s, NULL), 0);
        ASSERT_FAILS(pc_result_f64(message_of(&builder), &d), PYCREW_ETYPE,
                     "result: expected float, got str");
    }
    WITH_RESULT("y#", "a\0b", (size_t)3)
    {
        ASSERT_INT(pc_result_bytes(message_of(&builder), &bytes, &size), 0);
        ASSERT_INT(size, 3);
        ASSERT_INT(pc_result_bytes(message_of(&builder), &bytes, NULL), 0);
    }
    WITH_RESULT("j", "{}")
    {
        ASSERT_INT(pc_result_json(message_of(&builder), &s, &size), 0);
        ASSERT_STR(s, "{}");
    }
    ASSERT_FAILS(pc_result_i64((pc_cursor){0}, &i), PYCREW_ETYPE,
                 "result: not readable: its call was released, or something wrote over it, or it is no value");
}

/* ---- values ---------------------------------------------------------------------------------- */

TEST(a_value_tells_its_type_and_count)
{
    static const int types[] = {PYCREW_TYPE_NONE,  PYCREW_TYPE_BOOL,   PYCREW_TYPE_INT,
                                PYCREW_TYPE_INT,   PYCREW_TYPE_FLOAT,  PYCREW_TYPE_STR,
                                PYCREW_TYPE_BYTES, PYCREW_TYPE_LIST,   PYCREW_TYPE_TUPLE,
                                PYCREW_TYPE_DICT,  PYCREW_TYPE_OBJECT, PYCREW_TYPE_JSON};
    static const size_t counts[] = {0, 0, 0, 0, 0, 0, 0, 1, 2, 1, 0, 0};
    WITH_RESULT("[zpiKdsy#[i](ii){ii}Oj]", NULL, 1, 2, ULLONG_MAX, 1.5, "s", "y", (size_t)1, 1, 2,
                3, 4, 5, "o", (size_t)1, "0")
    {
        pycrew_value all = pc_result_value(message_of(&builder), NULL), at = pycrew_value_item(all, 0);
        ASSERT_INT(pycrew_value_type(all), PYCREW_TYPE_LIST);
        ASSERT_INT(pycrew_value_count(all), 12);
        for (size_t i = 0; i < 12; i++, at = pycrew_value_next(at)) {
            ASSERT_INT(pycrew_value_type(at), types[i]);
            ASSERT_INT(pycrew_value_count(at), counts[i]);
            ASSERT(pycrew_value_item(all, i).at == at.at);
        }
        ASSERT_INT(pycrew_value_type(at), PYCREW_TYPE_INVALID);
        ASSERT(!at.at && !at.end);
        ASSERT_INT(pycrew_value_type(pycrew_value_next(all)), PYCREW_TYPE_INVALID);
        ASSERT_INT(pycrew_value_type(pycrew_value_item(all, 12)), PYCREW_TYPE_INVALID);
        ASSERT_INT(pycrew_value_type(pycrew_value_item(all, SIZE_MAX)), PYCREW_TYPE_INVALID);
        ASSERT_INT(pycrew_value_type(pycrew_value_item(pycrew_value_item(all, 5), 0)),
                   PYCREW_TYPE_INVALID);
    }
}

TEST(a_dict_is_walked_in_pairs_and_looked_up_by_key)
{
    int64_t i = 0;
    WITH_RESULT("{si s{si} is}", "a", 1, "b", "c", 2, 3, "b")
    {
        pycrew_value dict = pc_result_value(message_of(&builder), NULL);
        ASSERT_INT(pycrew_value_count(dict), 3);
        ASSERT_INT(pycrew_value_type(pycrew_value_item(dict, 0)), PYCREW_TYPE_STR);
        ASSERT_INT(pycrew_value_i64(pycrew_value_item(dict, 1), &i), 0);
        ASSERT_INT(i, 1);
        ASSERT_INT(pycrew_value_type(pycrew_value_item(dict, 5)), PYCREW_TYPE_STR);
        ASSERT_INT(pycrew_value_type(pycrew_value_item(dict, 6)), PYCREW_TYPE_INVALID);
        ASSERT_INT(pycrew_value_i64(pycrew_value_get(pycrew_value_get(dict, "b"), "c"), &i), 0);
        ASSERT_INT(i, 2);
        ASSERT_INT(pycrew_value_type(pycrew_value_get(dict, "c")), PYCREW_TYPE_INVALID);
        ASSERT_INT(pycrew_value_type(pycrew_value_get(dict, "")), PYCREW_TYPE_INVALID);
        ASSERT_INT(pycrew_value_type(pycrew_value_get(pycrew_value_get(dict, "a"), "a")),
                   PYCREW_TYPE_INVALID);
    }
    WITH_RESULT("{sssi}", "key", "value", "other", 1)
    {
        pycrew_value dict = pc_result_value(message_of(&builder), NULL);
        ASSERT_INT(pycrew_value_type(pycrew_value_get(dict, "value")), PYCREW_TYPE_INVALID);
        ASSERT_INT(pycrew_value_type(pycrew_value_get(dict, "other")), PYCREW_TYPE_INT);
    }
}

TEST(a_value_is_read_by_type)
{
    pycrew_value none = {0};
    bool truth = false;
    int64_t i = 0;
    uint64_t u = 0;
    double d = 0;
    const char *s = NULL;
    const void *bytes = NULL;
    size_t size;
    WITH_RESULT("[pids s# y#Oj]", 1, -2, 2.5, "str", "a\0b", (size_t)3, "y", (size_t)1, "obj",
                (size_t)3, "[]")
    {
        pycrew_value at = pycrew_value_item(pc_result_value(message_of(&builder), NULL), 0);
        ASSERT_INT(pycrew_value_bool(at, &truth), 0);
        ASSERT(truth);
        at = pycrew_value_next(at);
        ASSERT_INT(pycrew_value_i64(at, &i), 0);
        ASSERT_INT(i, -2);
        ASSERT_FAILS(pycrew_value_u64(at, &u), -ERANGE, "value: -2 is out of range for uint64_t");
        ASSERT_FAILS(pycrew_value_str(at, &s, &size), PYCREW_ETYPE, "value: expected str, got int");
        ASSERT_FAILS(pycrew_value_bytes(at, &bytes, &size), PYCREW_ETYPE,
                     "value: expected bytes, got int");
        at = pycrew_value_next(at);
        ASSERT_INT(pycrew_value_f64(at, &d), 0);
        ASSERT(d == 2.5);
        at = pycrew_value_next(at);
        ASSERT_INT(pycrew_value_str(at, &s, NULL), 0);
        ASSERT_STR(s, "str");
        at = pycrew_value_next(at);
        ASSERT_FAILS(pycrew_value_str(at, &s, NULL), -EINVAL,
                     "value: the str has a NUL inside, so its size must be asked for");
        ASSERT_INT(pycrew_value_str(at, &s, &size), 0);
        ASSERT_INT(size, 3);
        at = pycrew_value_next(at);
        ASSERT_INT(pycrew_value_bytes(at, &bytes, &size), 0);
        ASSERT_INT(size, 1);
        at = pycrew_value_next(at);
        ASSERT_INT(pycrew_value_bytes(at, &bytes, &size), 0);
        ASSERT_MEM(bytes, "obj", 4);
        at = pycrew_value_next(at);
        ASSERT_INT(pycrew_value_str(at, &s, &size), 0);
        ASSERT_STR(s, "[]");
    }
    ASSERT_FAILS(pycrew_value_i64(none, &i), PYCREW_ETYPE,
                 "value: not readable: its call was released, or something wrote over it, or it is no value");
    pc_builder builder = new_builder();
    ASSERT_INT(pc_build_bigint(&builder, "-1FFFFFFFFFFFFFFFF", 18), 0);
    ASSERT_INT(pycrew_value_type(pc_result_value(message_of(&builder), NULL)), PYCREW_TYPE_BIGINT);
    ASSERT_INT(pycrew_value_str(pc_result_value(message_of(&builder), NULL), &s, &size), 0);
    ASSERT_STR(s, "-1ffffffffffffffff");
    ASSERT_INT(size, 18);
    end_builder(&builder);
}

/* Everything the public can do with a value, all the way down. */
static unsigned walk(pycrew_value value, int depth)
{
    bool truth;
    int64_t i;
    uint64_t u;
    double d;
    const char *s;
    const void *bytes;
    size_t size, sum = 0;
    pycrew_value_bool(value, &truth);
    pycrew_value_i64(value, &i);
    pycrew_value_u64(value, &u);
    pycrew_value_f64(value, &d);
    if (pycrew_value_str(value, &s, &size) == 0)
        sum += strnlen(s, size);
    if (pycrew_value_bytes(value, &bytes, &size) == 0)
        for (size_t at = 0; at <= size; at++) /* the NUL too */
            sum += ((const uint8_t *)bytes)[at];
    if (depth < 40) {
        walk(pycrew_value_get(value, "a"), 40);
        for (pycrew_value item = pycrew_value_item(value, 0); pycrew_value_type(item);
             item = pycrew_value_next(item))
            sum += walk(item, depth + 1);
        for (size_t at = 0; at < pycrew_value_count(value); at++)
            pycrew_value_item(value, at);
    }
    return (unsigned)sum;
}

TEST(no_value_is_too_strange_to_walk)
{
    unsigned sum = 0;
    for (int round = 0; round < (instrumented() ? 10000 : 100000); round++) {
        pc_builder builder = new_builder();
        random_message(&builder);
        if (builder.writer.data)
            sum += walk(pc_result_value(message_of(&builder), NULL), 0);
        end_builder(&builder);
    }
    DIAG("read %u", sum);
}

/* ---- errors ---------------------------------------------------------------------------------- */

TEST(before_any_failure_the_last_error_is_none)
{
    const pycrew_error *error = pycrew_last_error();
    ASSERT_INT(error->code, 0);
    ASSERT_INT(error->size, sizeof *error);
    ASSERT_STR(error->message, "");
    ASSERT(!error->function && !error->type && !error->traceback);
}

TEST(every_code_has_a_text)
{
    static const int edges[] = {INT_MIN, INT_MIN + 1, INT_MAX, -2000, -2006, 2001};
    for (int code = -3000; code <= 3000; code++)
        ASSERT(*pycrew_strerror(code));
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        ASSERT_STR(pycrew_strerror(edges[i]), "unknown code");
    ASSERT_STR(pycrew_strerror(0), "no error");
    ASSERT_STR(pycrew_strerror(-ENOMEM), "Cannot allocate memory");
    ASSERT_STR(pycrew_strerror(ENOMEM), "Cannot allocate memory");
    ASSERT_STR(pycrew_strerror(-ETIMEDOUT), "the call's deadline has passed");
    ASSERT_STR(pycrew_strerror(PYCREW_ETYPE), "the result is not of the type asked for");
    ASSERT_STR(pycrew_strerror(PYCREW_EFORKED), "the crew was opened by a parent of this process");
    ASSERT_STR(pycrew_version(), "0.1.0");
}

TEST(a_failure_sets_code_and_message_and_clears_the_rest)
{
    pycrew_error full = {.code = PYCREW_EDIED,
                         .function = "m:f",
                         .type = "T",
                         .message = "m",
                         .traceback = "t",
                         .signal = 9,
                         .exit_status = 3,
                         .may_have_run = true,
                         .out_of_memory = true,
                         .attempts = 2};
    ASSERT_INT(pc_fail_error(&full), PYCREW_EDIED);
    const pycrew_error *last = pycrew_last_error();
    ASSERT_STR(last->function, "m:f");
    ASSERT_STR(last->type, "T");
    ASSERT_STR(last->message, "m");
    ASSERT_STR(last->traceback, "t");
    ASSERT(last->function != full.function && last->traceback != full.traceback);
    ASSERT(last->signal == 9 && last->exit_status == 3 && last->attempts == 2);
    ASSERT(last->may_have_run && last->out_of_memory);
    ASSERT_INT(last->size, sizeof full);
    ASSERT_INT(pc_fail_error(last), PYCREW_EDIED); /* itself */
    ASSERT_STR(last->traceback, "t");

    ASSERT_INT(pc_fail(-EINVAL, "%s, again: %s", last->message, last->traceback), -EINVAL);
    ASSERT_STR(last->message, "m, again: t");
    ASSERT(!last->function && !last->type && !last->traceback);
    ASSERT(!last->signal && !last->exit_status && !last->attempts);
    ASSERT(!last->may_have_run && !last->out_of_memory);
    ASSERT_INT(pc_fail(-EINVAL, "<%s>", last->message), -EINVAL);
    ASSERT_STR(last->message, "<m, again: t>");
    ASSERT_INT(pc_fail_error(&(pycrew_error){.code = -EAGAIN}), -EAGAIN);
    ASSERT_STR(last->message, pycrew_strerror(-EAGAIN));
}

TEST(a_message_of_any_length_is_whole)
{
    char text[3001];
    for (size_t size = 500; size <= 3000; size += size < 520 ? 1 : 500) {
        memset(text, 'a' + (int)(size % 26), size);
        text[size] = '\0';
        ASSERT_INT(pc_fail(-EINVAL, "%s", text), -EINVAL);
        ASSERT_STR(last_message(), text);
        ASSERT_INT(pc_fail(-EINVAL, "%s!", last_message()), -EINVAL);
        ASSERT_INT(strlen(last_message()), size + 1);
    }
}

TEST(what_is_not_utf8_becomes_question_marks)
{
    ASSERT_INT(pc_fail(-EINVAL, "a\xff\xc3\xa9\xe2\x82 \xed\xa0\x80"), -EINVAL);
    ASSERT_STR(last_message(), "a?\xc3\xa9?? ???");
    ASSERT_INT(pc_fail(-EINVAL, "%1000s\x80\xf0\x9f\x98\x80", ""), -EINVAL);
    ASSERT_STR(last_message() + 1000, "?\xf0\x9f\x98\x80");
    ASSERT_INT(pc_utf8_prefix("a\xc3\xa9\xff", 4), 3);
    ASSERT_INT(pc_utf8_prefix("a\xc3\xa9", 2), 1);
    ASSERT_INT(pc_utf8_prefix("", 0), 0);
}

TEST(an_owned_error_copies_its_texts_up_to_their_first_nul)
{
    pc_error error = {0};
    char message[] = {'m', 's', 'g', '!'};
    ASSERT_INT(pc_error_set(&error, PYCREW_ERAISED, pc_text_of("m:f"), (pc_text){"Type\0rest", 9},
                            (pc_text){message, 3}, (pc_text){NULL, 0}),
               PYCREW_ERAISED);
    memset(message, 'x', sizeof message);
    ASSERT_INT(error.public.size, sizeof(pycrew_error));
    ASSERT_STR(error.public.function, "m:f");
    ASSERT_STR(error.public.type, "Type");
    ASSERT_STR(error.public.message, "msg");
    ASSERT(!error.public.traceback);

    error.public.signal = 9;
    ASSERT_INT(pc_error_set(&error, -ETIMEDOUT, pc_text_of(NULL), pc_text_of(NULL),
                            pc_text_of(NULL), (pc_text){"t\xff", 2}),
               -ETIMEDOUT);
    ASSERT_STR(error.public.message, pycrew_strerror(-ETIMEDOUT));
    ASSERT_STR(error.public.traceback, "t?");
    ASSERT(!error.public.function && !error.public.type);
    ASSERT_INT(error.public.signal, 0);

    pc_error_set(&error, -EINVAL, pc_text_of(error.public.traceback), /* its own strings */
                 (pc_text){"", 0}, pc_text_of(error.public.message), pc_text_of("new"));
    ASSERT_STR(error.public.function, "t?");
    ASSERT_STR(error.public.type, "");
    ASSERT_STR(error.public.message, pycrew_strerror(-ETIMEDOUT));
    ASSERT_INT(pc_fail_error(&error.public), -EINVAL);
    pc_error_clear(&error);
    ASSERT_INT(error.public.code, 0);
    ASSERT_STR(error.public.message, "");
    ASSERT(!error.public.function && !error.strings);
    ASSERT_STR(pycrew_last_error()->traceback, "new"); /* a copy */
    pc_error_clear(&error);
}

TEST(without_memory_code_and_message_survive)
{
    if (instrumented())
        SKIP("malloc does not fail under sanitizers and valgrind");
    size_t size = (size_t)64 << 20;
    char *text = malloc(size + 1);
    memset(text, 'a', size);
    text[size] = '\0';
    memcpy(text + 509, "\xe2\x82\xac", 3); /* across the end of what fits */
    pc_error error = {0};
    struct rlimit now;
    getrlimit(RLIMIT_AS, &now);
    setrlimit(RLIMIT_AS, &(struct rlimit){0, now.rlim_max});
    int failed = pc_fail(-EINVAL, "%s", text);
    char message[520];
    snprintf(message, sizeof message, "%s", last_message());
    int copied = pc_fail_error(
        &(pycrew_error){.code = PYCREW_EDIED, .message = "short", .traceback = text, .signal = 11});
    pc_error_set(&error, -ERANGE, pc_text_of("m:f"), pc_text_of(NULL), pc_text_of("m"),
                 pc_text_of(text));
    setrlimit(RLIMIT_AS, &now);
    ASSERT_INT(failed, -EINVAL);
    ASSERT_INT(strlen(message), 511);
    ASSERT_STR(message + 507, "aa??");
    ASSERT_INT(copied, PYCREW_EDIED);
    ASSERT_STR(last_message(), "short");
    ASSERT(!pycrew_last_error()->traceback);
    ASSERT_INT(pycrew_last_error()->signal, 11);
    ASSERT_INT(error.public.code, -ERANGE);
    ASSERT_STR(error.public.message, pycrew_strerror(-ERANGE));
    ASSERT(!error.public.function);
    pc_error_clear(&error);
    free(text);
}

/* ---- threads --------------------------------------------------------------------------------- */

static void *fail_often(void *data)
{
    int number = *(int *)data;
    char expected[1200];
    for (int round = 0; round < 2000; round++) {
        int width = round % 1000; /* now in the thread's own memory, now allocated */
        ASSERT_INT(pc_fail(-number, "%*d", width, number), -number);
        snprintf(expected, sizeof expected, "%*d", width, number);
        ASSERT_INT(pycrew_last_error()->code, -number);
        ASSERT_STR(last_message(), expected);
    }
    return NULL;
}

TEST(each_thread_has_a_last_error_of_its_own)
{
    pthread_t threads[8];
    int numbers[8];
    ASSERT_INT(pc_fail(-EINVAL, "the first thread's"), -EINVAL);
    for (int i = 0; i < 8; i++) {
        numbers[i] = i + 100;
        ASSERT_INT(pthread_create(&threads[i], NULL, fail_often, &numbers[i]), 0);
    }
    for (int i = 0; i < 8; i++)
        ASSERT_INT(pthread_join(threads[i], NULL), 0);
    ASSERT_STR(last_message(), "the first thread's");
}

static void fail_once_more(void *data)
{
    (void)data;
    ASSERT_INT(pycrew_last_error()->size, sizeof(pycrew_error));
    ASSERT_INT(pc_fail(-EINVAL, "%1000s", "from a destructor"), -EINVAL);
    ASSERT_INT(strlen(last_message()), 1000);
}

static void *fail_with_destructors(void *data)
{
    pthread_key_t *keys = data;
    ASSERT_INT(pc_fail(-EINVAL, "%1000s", "from the thread"), -EINVAL);
    for (int i = 0; i < 4; i++)
        pthread_setspecific(keys[i], keys);
    return NULL;
}

/* LSan and valgrind see what is not freed, or is used after it was. */
TEST(a_thread_that_ends_leaves_nothing_even_if_its_destructors_fail)
{
    pthread_key_t keys[4];
    pthread_t thread;
    pthread_key_create(&keys[0], fail_once_more); /* these run before the library's ... */
    pthread_key_create(&keys[1], fail_once_more);
    ASSERT_INT(pc_fail(-EINVAL, "%1000s", "which makes the library's key"), -EINVAL);
    pthread_key_create(&keys[2], fail_once_more); /* ... and these after it */
    pthread_key_create(&keys[3], fail_once_more);
    for (int i = 0; i < 50; i++) {
        ASSERT_INT(pthread_create(&thread, NULL, fail_with_destructors, keys), 0);
        ASSERT_INT(pthread_join(thread, NULL), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_key_delete(keys[i]);
}

TAP_MAIN
