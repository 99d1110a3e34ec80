/* What lib/shm/value.h promises, and that no message, however broken, is read past its end. */
#include "tests/harness/tap.h"

#include <stdalign.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "lib/shm/value.h"

/* ---- helpers ---- */

static int heap_grow(pc_writer *writer, size_t need)
{
    size_t capacity = pc_align8(need + need / 2);
    uint8_t *data = realloc(writer->data, capacity);
    if (data == NULL)
        return -ENOMEM;
    memset(data + writer->capacity, 0xff, capacity - writer->capacity); /* so that zeros are ours */
    writer->data = data;
    writer->capacity = capacity;
    return 0;
}

static pc_writer heap_writer(void)
{
    return (pc_writer){.grow = heap_grow};
}

static pc_cursor whole(const pc_writer *writer)
{
    return (pc_cursor){writer->data, writer->data + writer->size};
}

static int check(const pc_writer *writer)
{
    return pc_value_check(whole(writer), true);
}

/* The first value of the message. */
static pc_view first(const pc_writer *writer)
{
    pc_cursor cursor = whole(writer);
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    return view;
}

/* Memory between two pages that cannot be touched: used from its end, or from its start. */
typedef struct guarded {
    uint8_t *start, *end;
} guarded;

enum { PAGE = 4096 };

static guarded guarded_new(size_t pages)
{
    size_t size = pages * PAGE;
    uint8_t *map = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT(map != MAP_FAILED);
    ASSERT_INT(mprotect(map + PAGE, size, PROT_READ | PROT_WRITE), 0);
    return (guarded){map + PAGE, map + PAGE + size};
}

static void guarded_free(guarded memory)
{
    munmap(memory.start - PAGE, (size_t)(memory.end - memory.start) + 2 * PAGE);
}

/* A generator that gives the same numbers again from the same seed (splitmix64). */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return random_next(state) % bound;
}

/* What reading touches, so that the compiler cannot leave the reads out. */
static atomic_uint_least64_t touched;

/* Reads every byte that the reader says is there, and that everything is inside what holds it. */
static void touch_all(pc_cursor cursor, int depth)
{
    const uint8_t *low = cursor.at, *high = cursor.end;
    pc_view view;
    while (pc_value_next(&cursor, &view) > 0) {
        ASSERT(cursor.at > low && cursor.at <= high);
        if (view.tag >= PC_TAG_LIST) {
            ASSERT(view.contents.at >= low && view.contents.end == cursor.at);
            if (depth < PC_VALUE_DEPTH_MAX)
                touch_all(view.contents, depth + 1);
        } else if (view.tag >= PC_TAG_BIGINT) {
            ASSERT((const uint8_t *)view.data > low && view.length < (size_t)(high - low));
            uint64_t sum = 0;
            for (uint64_t i = 0; i <= view.length; i++)
                sum += (uint8_t)view.data[i];
            atomic_fetch_add(&touched, sum);
        } else {
            atomic_fetch_add(&touched, view.u64 & 1);
        }
    }
}

/* ---- scalars ---- */

TEST(integers_come_back_as_written)
{
    static const int64_t values[] = {0, 1, -1, 255, INT32_MIN, INT64_MAX, INT64_MIN};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        pc_writer writer = heap_writer();
        ASSERT_INT(pc_write_i64(&writer, values[i]), 0);
        ASSERT_INT(writer.size, 16);
        pc_view view = first(&writer);
        ASSERT_INT(view.tag, PC_TAG_I64);
        ASSERT_INT(view.i64, values[i]);
        free(writer.data);
    }
}

TEST(unsigned_integers_are_signed_where_they_fit)
{
    static const uint64_t values[] = {0, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};
    static const enum pc_tag tags[] = {PC_TAG_I64, PC_TAG_I64, PC_TAG_U64, PC_TAG_U64};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        pc_writer writer = heap_writer();
        ASSERT_INT(pc_write_u64(&writer, values[i]), 0);
        pc_view view = first(&writer);
        ASSERT_INT(view.tag, tags[i]);
        ASSERT(view.u64 == values[i]);
        free(writer.data);
    }
}

TEST(floats_keep_every_bit)
{
    static const uint64_t patterns[] = {0, UINT64_C(0x8000000000000000), /* -0.0 */
                                        1,                               /* the smallest */
                                        UINT64_C(0x7ff0000000000000),    /* inf */
                                        UINT64_C(0xfff8000000000123)};   /* a NaN with a payload */
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        double value;
        memcpy(&value, &patterns[i], sizeof value);
        pc_writer writer = heap_writer();
        ASSERT_INT(pc_write_f64(&writer, value), 0);
        pc_view view = first(&writer);
        ASSERT_INT(view.tag, PC_TAG_F64);
        ASSERT_MEM(&view.f64, &patterns[i], sizeof value);
        free(writer.data);
    }
}

TEST(none_and_both_booleans_are_one_word)
{
    pc_writer writer = heap_writer();
    ASSERT_INT(pc_write_none(&writer), 0);
    ASSERT_INT(pc_write_bool(&writer, true), 0);
    ASSERT_INT(pc_write_bool(&writer, false), 0);
    ASSERT_INT(writer.size, 24);

    pc_cursor cursor = whole(&writer);
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT_INT(view.tag, PC_TAG_NONE);
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT(view.tag == PC_TAG_BOOL && view.boolean);
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT(view.tag == PC_TAG_BOOL && !view.boolean);
    ASSERT_INT(pc_value_next(&cursor, &view), 0);
    free(writer.data);
}

/* ---- data ---- */

TEST(data_of_every_length_is_followed_by_zeros_to_the_next_word)
{
    static const char text[] = "0123456789abcdef0123456789abcdef0123456789abcdef";
    for (unsigned tag = PC_TAG_BIGINT; tag <= PC_TAG_NAME; tag++)
        for (size_t length = 0; length < sizeof text; length++) {
            pc_writer writer = heap_writer();
            ASSERT_INT(pc_write_data(&writer, (enum pc_tag)tag, text, length), 0);
            ASSERT_INT(writer.size, 8 + pc_align8(length + 1));
            pc_view view = first(&writer);
            ASSERT_INT(view.tag, tag);
            ASSERT_INT(view.length, length);
            ASSERT_MEM(view.data, text, length);
            for (size_t i = 8 + length; i < writer.size; i++)
                ASSERT_INT(writer.data[i], 0);
            free(writer.data);
        }
}

TEST(empty_data_may_come_from_null)
{
    pc_writer writer = heap_writer();
    ASSERT_INT(pc_write_data(&writer, PC_TAG_BYTES, NULL, 0), 0);
    pc_view view = first(&writer);
    ASSERT(view.tag == PC_TAG_BYTES && view.length == 0 && view.data[0] == '\0');
    free(writer.data);
}

TEST(space_is_the_callers_to_fill)
{
    pc_writer writer = heap_writer();
    void *space;
    ASSERT_INT(pc_write_space(&writer, PC_TAG_STR, 11, &space), 0);
    memcpy(space, "hello world", 11);
    pc_view view = first(&writer);
    ASSERT_INT(view.length, 11);
    ASSERT_STR(view.data, "hello world");
    free(writer.data);
}

TEST(a_copy_of_whole_values_is_those_values)
{
    pc_writer from = heap_writer(), to = heap_writer();
    ASSERT_INT(pc_write_i64(&from, 7), 0);
    ASSERT_INT(pc_write_data(&from, PC_TAG_STR, "seven", 5), 0);
    ASSERT_INT(pc_write_none(&to), 0);
    ASSERT_INT(pc_write_raw(&to, from.data, from.size), 0);
    ASSERT_INT(to.size, 8 + from.size);
    ASSERT_MEM(to.data + 8, from.data, from.size);
    ASSERT_INT(pc_write_raw(&to, NULL, 0), 0);
    ASSERT_INT(to.size, 8 + from.size);
    free(from.data);
    free(to.data);
}

/* ---- containers ---- */

TEST(an_empty_message_has_no_values)
{
    pc_cursor cursor = {NULL, NULL};
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 0);
    ASSERT_INT(pc_value_check(cursor, true), 0);
}

TEST(a_container_holds_its_values_and_nothing_behind_them)
{
    pc_writer writer = heap_writer();
    size_t dict, list;
    ASSERT_INT(pc_write_open(&writer, PC_TAG_DICT, &dict), 0);
    ASSERT_INT(pc_write_data(&writer, PC_TAG_STR, "key", 3), 0);
    ASSERT_INT(pc_write_open(&writer, PC_TAG_LIST, &list), 0);
    ASSERT_INT(pc_write_i64(&writer, 1), 0);
    ASSERT_INT(pc_write_none(&writer), 0);
    pc_write_close(&writer, list, 2);
    pc_write_close(&writer, dict, 1);
    ASSERT_INT(pc_write_bool(&writer, true), 0);
    ASSERT_INT(check(&writer), 0);

    pc_cursor cursor = whole(&writer);
    pc_view outer, key, inner, item;
    ASSERT_INT(pc_value_next(&cursor, &outer), 1);
    ASSERT(outer.tag == PC_TAG_DICT && outer.length == 1);
    ASSERT_INT(pc_value_next(&outer.contents, &key), 1);
    ASSERT_STR(key.data, "key");
    ASSERT_INT(pc_value_next(&outer.contents, &inner), 1);
    ASSERT(inner.tag == PC_TAG_LIST && inner.length == 2);
    ASSERT_INT(pc_value_next(&inner.contents, &item), 1);
    ASSERT_INT(item.i64, 1);
    ASSERT_INT(pc_value_next(&inner.contents, &item), 1);
    ASSERT_INT(item.tag, PC_TAG_NONE);
    ASSERT_INT(pc_value_next(&inner.contents, &item), 0);
    ASSERT_INT(pc_value_next(&outer.contents, &item), 0);
    ASSERT_INT(pc_value_next(&cursor, &item), 1);
    ASSERT_INT(item.tag, PC_TAG_BOOL);
    free(writer.data);
}

TEST(an_empty_container_is_two_words)
{
    for (unsigned tag = PC_TAG_LIST; tag <= PC_TAG_DICT; tag++) {
        pc_writer writer = heap_writer();
        size_t offset;
        ASSERT_INT(pc_write_open(&writer, (enum pc_tag)tag, &offset), 0);
        pc_write_close(&writer, offset, 0);
        ASSERT_INT(writer.size, 16);
        pc_view view = first(&writer);
        ASSERT(view.tag == tag && view.length == 0 && view.contents.at == view.contents.end);
        ASSERT_INT(check(&writer), 0);
        free(writer.data);
    }
}

/* ---- running out of room ---- */

static int refuse(pc_writer *writer, size_t need)
{
    (void)writer;
    (void)need;
    return -ENOMEM;
}

/* Each write into a writer whose room ends 8 bytes before the value does. */
static int write_kind(pc_writer *writer, int kind)
{
    void *space;
    size_t offset;
    switch (kind) {
    case 0:
        return pc_write_i64(writer, 1);
    case 1:
        return pc_write_u64(writer, UINT64_MAX);
    case 2:
        return pc_write_f64(writer, 1);
    case 3:
        return pc_write_open(writer, PC_TAG_LIST, &offset);
    case 4:
        return pc_write_data(writer, PC_TAG_STR, "1234567", 7);
    case 5:
        return pc_write_space(writer, PC_TAG_STR, 7, &space);
    case 6:
        return pc_write_raw(writer, "0123456789abcdef", 16);
    case 7:
        return pc_write_none(writer);
    default:
        return pc_write_bool(writer, true);
    }
}

TEST(a_write_that_finds_no_room_writes_nothing)
{
    for (int kind = 0; kind <= 8; kind++) {
        alignas(8) uint8_t memory[32], before[32];
        memset(memory, 0xaa, sizeof memory);
        memcpy(before, memory, sizeof memory);
        size_t room = kind < 7 ? 15 : 7;
        pc_writer writer = {.data = memory, .size = 8, .capacity = 8 + room, .grow = refuse};
        ASSERT_INT(write_kind(&writer, kind), -ENOMEM);
        writer.grow = NULL;
        ASSERT_INT(write_kind(&writer, kind), -E2BIG);
        ASSERT_INT(writer.size, 8);
        ASSERT_MEM(memory, before, sizeof memory);

        writer.capacity = 8 + room + 1;
        ASSERT_INT(write_kind(&writer, kind), 0);
        ASSERT_INT(writer.size, 8 + room + 1);
    }
}

TEST(a_size_that_no_header_can_say_is_refused)
{
    static const size_t sizes[] = {(size_t)1 << 56, SIZE_MAX - 16, SIZE_MAX - 7, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        pc_writer writer = heap_writer();
        void *space;
        ASSERT_INT(pc_write_space(&writer, PC_TAG_BYTES, sizes[i], &space), -E2BIG);
        ASSERT_INT(pc_write_data(&writer, PC_TAG_BYTES, "", sizes[i]), -E2BIG);
        ASSERT_INT(writer.size, 0);
    }
    pc_writer writer = heap_writer();
    ASSERT_INT(pc_write_none(&writer), 0);
    ASSERT_INT(pc_write_raw(&writer, "", SIZE_MAX - 7), -E2BIG);
    free(writer.data);
}

static size_t asked;

static int note_and_grow(pc_writer *writer, size_t need)
{
    asked = need;
    return heap_grow(writer, need);
}

TEST(a_full_writer_asks_for_what_it_needs_and_goes_on)
{
    pc_writer writer = {.grow = note_and_grow};
    for (int64_t i = 0; i < 1000; i++) {
        asked = 0;
        size_t size = writer.size, capacity = writer.capacity;
        ASSERT_INT(pc_write_i64(&writer, i), 0);
        ASSERT_INT(asked, size + 16 > capacity ? size + 16 : 0);
    }
    pc_cursor cursor = whole(&writer);
    pc_view view;
    for (int64_t i = 0; i < 1000; i++) {
        ASSERT_INT(pc_value_next(&cursor, &view), 1);
        ASSERT_INT(view.i64, i);
    }
    free(writer.data);
}

/* ---- malformed messages ---- */

/* The words, read at the end of memory, are no value; the cursor stays on them. */
static void assert_no_value(const uint64_t *words, size_t count)
{
    guarded memory = guarded_new(1);
    uint8_t *at = memory.end - 8 * count;
    memcpy(at, words, 8 * count);
    pc_cursor cursor = {at, memory.end};
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), -EBADMSG);
    ASSERT(cursor.at == at);
    ASSERT_INT(pc_value_check(cursor, false), -EBADMSG);
    guarded_free(memory);
}

#define ASSERT_NO_VALUE(...)                                                                       \
    assert_no_value((const uint64_t[]){__VA_ARGS__},                                               \
                    sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static uint64_t header(enum pc_tag tag, uint64_t length)
{
    return tag | length << 8;
}

TEST(a_tag_that_is_none_is_refused)
{
    ASSERT_NO_VALUE(0, 0, 0);
    for (uint64_t tag = PC_TAG_COUNT; tag < 256; tag++)
        ASSERT_NO_VALUE(tag, 0, 0);
}

TEST(a_scalar_with_a_length_is_refused)
{
    ASSERT_NO_VALUE(header(PC_TAG_NONE, 1), 0);
    ASSERT_NO_VALUE(header(PC_TAG_BOOL, 2), 0);
    ASSERT_NO_VALUE(header(PC_TAG_BOOL, 3), 0);
    ASSERT_NO_VALUE(header(PC_TAG_BOOL, (uint64_t)1 << 55), 0);
    for (enum pc_tag tag = PC_TAG_I64; tag <= PC_TAG_F64; tag++)
        ASSERT_NO_VALUE(header(tag, 8), 0);
}

TEST(a_number_without_its_word_is_refused)
{
    for (enum pc_tag tag = PC_TAG_I64; tag <= PC_TAG_F64; tag++)
        ASSERT_NO_VALUE(header(tag, 0));
}

TEST(data_past_the_end_is_refused_however_its_length_wraps)
{
    static const uint64_t lengths[] = {8,
                                       9,
                                       15,
                                       16,
                                       ((uint64_t)1 << 56) - 1,
                                       ((uint64_t)1 << 56) - 8,
                                       ((uint64_t)1 << 56) - 9,
                                       (uint64_t)1 << 55};
    for (enum pc_tag tag = PC_TAG_BIGINT; tag <= PC_TAG_NAME; tag++) {
        ASSERT_NO_VALUE(header(tag, 0));
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
            ASSERT_NO_VALUE(header(tag, lengths[i]), 0);
    }
}

TEST(data_without_its_nul_is_refused)
{
    ASSERT_NO_VALUE(header(PC_TAG_STR, 0), 'x');
    ASSERT_NO_VALUE(header(PC_TAG_BYTES, 7), UINT64_C(0x0100000000000000));
    ASSERT_NO_VALUE(header(PC_TAG_BYTES, 8), 0, 1);
}

TEST(contents_past_the_end_are_refused_however_their_size_wraps)
{
    static const uint64_t sizes[] = {
        16, 24, UINT64_MAX, UINT64_MAX - 7, UINT64_MAX - 15, UINT64_MAX - 23, (uint64_t)1 << 63};
    for (enum pc_tag tag = PC_TAG_LIST; tag <= PC_TAG_DICT; tag++) {
        ASSERT_NO_VALUE(header(tag, 0));
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            ASSERT_NO_VALUE(header(tag, 0), sizes[i], PC_TAG_NONE);
    }
}

TEST(contents_that_are_no_whole_words_are_refused)
{
    for (uint64_t size = 1; size < 8; size++)
        ASSERT_NO_VALUE(header(PC_TAG_LIST, 0), size, PC_TAG_NONE);
}

TEST(a_count_that_the_contents_have_no_room_for_is_refused)
{
    ASSERT_NO_VALUE(header(PC_TAG_LIST, 2), 8, PC_TAG_NONE);
    ASSERT_NO_VALUE(header(PC_TAG_TUPLE, 1), 0);
    ASSERT_NO_VALUE(header(PC_TAG_DICT, 1), 8, PC_TAG_NONE);
    ASSERT_NO_VALUE(header(PC_TAG_LIST, ((uint64_t)1 << 56) - 1), 8, PC_TAG_NONE);
    /* twice this count is 0 in 56 bits */
    ASSERT_NO_VALUE(header(PC_TAG_DICT, (uint64_t)1 << 55), 0);
}

static int check_words(const uint64_t *words, size_t count)
{
    pc_cursor cursor = {(const uint8_t *)words, (const uint8_t *)(words + count)};
    return pc_value_check(cursor, true);
}

TEST(the_check_counts_what_a_container_holds)
{
    const uint64_t none = PC_TAG_NONE;
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_LIST, 2), 16, none, none}, 4), 0);
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_LIST, 1), 16, none, none}, 4), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_LIST, 2), 16, PC_TAG_I64, 0}, 4), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_DICT, 1), 16, none, none}, 4), 0);
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_DICT, 0), 16, none, none}, 4), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_DICT, 1), 24, none, none, none}, 5),
               -EBADMSG);
}

TEST(the_check_looks_into_containers_and_at_the_last_value)
{
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_LIST, 1), 8, 0}, 3), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_LIST, 1), 16, PC_TAG_NONE, 0}, 4), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){PC_TAG_NONE, PC_TAG_NONE, 0}, 3), -EBADMSG);
    ASSERT_INT(
        check_words((uint64_t[]){header(PC_TAG_LIST, 1), 16, header(PC_TAG_STR, 1), 0xff}, 4),
        -EBADMSG);
}

TEST(a_name_stands_on_the_top_level_before_each_value_of_the_rest)
{
    const uint64_t name = header(PC_TAG_NAME, 1), n = 'n', none = PC_TAG_NONE;
    ASSERT_INT(check_words((uint64_t[]){none, name, n, none, name, n, none}, 7), 0);
    ASSERT_INT(check_words((uint64_t[]){name, n, header(PC_TAG_LIST, 1), 8, none}, 5), 0);
    /* at the end; before another name; then a value without one; in a container */
    ASSERT_INT(check_words((uint64_t[]){name, n}, 2), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){name, n, name, n, none}, 5), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){name, n, name, n}, 4), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){name, n, none, none}, 4), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){header(PC_TAG_LIST, 1), 16, name, n}, 4), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){name, 0xff, none}, 3), -EBADMSG);
    ASSERT_INT(check_words((uint64_t[]){name, n, header(PC_TAG_STR, 1), 0xff}, 4), -EBADMSG);
}

TEST(the_check_asks_for_utf8_only_if_told_to)
{
    static const enum pc_tag texts[] = {PC_TAG_STR, PC_TAG_JSON, PC_TAG_BYTES, PC_TAG_OBJECT};
    for (size_t i = 0; i < 4; i++) {
        uint64_t words[] = {header(texts[i], 1), 0xff};
        pc_cursor cursor = {(const uint8_t *)words, (const uint8_t *)(words + 2)};
        ASSERT_INT(pc_value_check(cursor, true), i < 2 ? -EBADMSG : 0);
        ASSERT_INT(pc_value_check(cursor, false), 0);
    }
}

TEST(a_bigint_is_lower_case_hexadecimal)
{
    static const struct {
        const char *text;
        int r;
    } cases[] = {{"0123456789abcdef", 0}, {"-1", 0},         {"", -EBADMSG},   {"-", -EBADMSG},
                 {"1F", -EBADMSG},        {"0x1", -EBADMSG}, {"1g", -EBADMSG}, {"--1", -EBADMSG},
                 {" 1", -EBADMSG},        {"1`", -EBADMSG},  {"1/", -EBADMSG}, {"1:", -EBADMSG}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pc_writer writer = heap_writer();
        const char *text = cases[i].text;
        ASSERT_INT(pc_write_data(&writer, PC_TAG_BIGINT, text, strlen(text)), 0);
        ASSERT_INT(check(&writer), cases[i].r);
        free(writer.data);
    }
}

/* ---- depth ---- */

static pc_writer nested(size_t depth, enum pc_tag tag)
{
    pc_writer writer = heap_writer();
    size_t *offsets = calloc(depth, sizeof *offsets);
    for (size_t i = 0; i < depth; i++) {
        if (tag == PC_TAG_DICT && i > 0)
            ASSERT_INT(pc_write_none(&writer), 0);
        ASSERT_INT(pc_write_open(&writer, tag, &offsets[i]), 0);
    }
    for (size_t i = depth; i-- > 0;)
        pc_write_close(&writer, offsets[i], i + 1 < depth);
    free(offsets);
    return writer;
}

TEST(five_hundred_levels_are_enough_and_one_more_too_deep)
{
    for (enum pc_tag tag = PC_TAG_LIST; tag <= PC_TAG_DICT; tag++) {
        pc_writer writer = nested(500, tag);
        ASSERT_INT(check(&writer), 0);
        free(writer.data);
        writer = nested(501, tag);
        ASSERT_INT(check(&writer), -EBADMSG);
        free(writer.data);
    }
}

TEST(a_million_levels_do_not_cost_the_stack)
{
    pc_writer writer = nested(1000 * 1000, PC_TAG_LIST);
    ASSERT_INT(check(&writer), -EBADMSG);
    free(writer.data);
}

/* ---- UTF-8 ---- */

static size_t utf8_of(uint32_t code, uint8_t *to)
{
    if (code < 0x80) {
        to[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        to[0] = (uint8_t)(0xc0 | code >> 6);
        to[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        to[0] = (uint8_t)(0xe0 | code >> 12);
        to[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        to[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    to[0] = (uint8_t)(0xf0 | code >> 18);
    to[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    to[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    to[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}

TEST(every_code_point_but_the_surrogates_is_utf8)
{
    uint8_t text[4];
    for (uint32_t code = 0; code < 0x120000; code++) {
        size_t size = utf8_of(code, text);
        bool valid = code < 0xd800 || (code > 0xdfff && code < 0x110000);
        ASSERT_INT(pc_utf8_valid((char *)text, size), valid);
    }
}

TEST(a_text_of_one_to_four_bytes_is_utf8_only_if_it_is_code_points)
{
    /* Strings of up to 4 bytes, each from the edges of the classes, against what the code points
     * themselves can make. */
    static const uint8_t edges[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0,
                                    0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef,
                                    0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf7, 0xf8, 0xff};
    enum { EDGES = sizeof edges };
    for (unsigned i = 0; i < EDGES * EDGES * EDGES * EDGES; i++) {
        uint8_t text[4] = {edges[i % EDGES], edges[i / EDGES % EDGES],
                           edges[i / EDGES / EDGES % EDGES], edges[i / EDGES / EDGES / EDGES]};
        size_t at = 0;
        while (at < 4) { /* the code point here, by decoding without a check and encoding again */
            uint8_t lead = text[at], again[4];
            size_t size = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
            uint32_t code = size == 1 ? lead : lead & (0x7fu >> size);
            if (at + size > 4)
                break;
            for (size_t k = 1; k < size; k++)
                code = code << 6 | (text[at + k] & 0x3f);
            if ((code >= 0xd800 && code <= 0xdfff) || code > 0x10ffff)
                break;
            if (utf8_of(code, again) != size || memcmp(again, text + at, size) != 0)
                break;
            at += size;
        }
        ASSERT_INT(pc_utf8_valid((char *)text, 4), at == 4);
    }
}

TEST(utf8_is_found_at_every_place_and_never_past_the_end)
{
    static const char *const sequences[] = {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    guarded memory = guarded_new(1);
    for (size_t length = 0; length < 40; length++)
        for (size_t place = 0; place < length; place++)
            for (size_t s = 0; s < 3; s++) {
                char *text = (char *)memory.end - length;
                size_t size = strlen(sequences[s]), room = length - place;
                memset(text, 'a', length);
                memcpy(text + place, sequences[s], size < room ? size : room);
                ASSERT_INT(pc_utf8_valid(text, length), size <= room);

                memset(text, 'a', length);
                ASSERT_INT(pc_utf8_valid(text, length), true);
                text[place] = sequences[s][1]; /* a continuation of nothing */
                ASSERT_INT(pc_utf8_valid(text, length), false);
            }
    guarded_free(memory);
}

/* ---- random messages ---- */

/* The two halves below draw the same numbers from the same seed, so that the reader knows what the
 * writer wrote without a copy of it. */
typedef struct drawn {
    enum pc_tag tag;
    uint64_t number, count;
} drawn;

static drawn draw(uint64_t *state, int depth)
{
    static const uint64_t sizes[] = {0, 1, 7, 8, 9, 15, 16, 100, 5000};
    enum pc_tag last = depth < 6 ? PC_TAG_DICT : PC_TAG_JSON;
    drawn value = {.number = random_next(state)};
    do
        value.tag = (enum pc_tag)(1 + random_below(state, last));
    while (value.tag == PC_TAG_NAME || value.tag == PC_TAG_ARRAY);
    if (value.tag >= PC_TAG_LIST)
        value.count = random_below(state, 6);
    else if (value.tag >= PC_TAG_BIGINT)
        value.count = sizes[random_below(state, sizeof sizes / sizeof *sizes)];
    if (value.tag == PC_TAG_U64)
        value.number |= (uint64_t)1 << 63;
    if (value.tag == PC_TAG_BIGINT && value.count == 0)
        value.count = 17;
    return value;
}

static char letter(const drawn *value, uint64_t i)
{
    return "0123456789abcdef"[(value->number >> (i % 16 * 4) ^ i) & 15];
}

static void write_random(pc_writer *writer, uint64_t *state, int depth);

static void write_random_container(pc_writer *writer, uint64_t *state, int depth,
                                   const drawn *value)
{
    size_t offset;
    ASSERT_INT(pc_write_open(writer, value->tag, &offset), 0);
    for (uint64_t i = 0; i < value->count * (value->tag == PC_TAG_DICT ? 2 : 1); i++)
        write_random(writer, state, depth + 1);
    pc_write_close(writer, offset, value->count);
}

static void write_random(pc_writer *writer, uint64_t *state, int depth)
{
    drawn value = draw(state, depth);
    double number;
    memcpy(&number, &value.number, sizeof number);
    char text[5000];
    for (uint64_t i = 0; i < value.count; i++)
        text[i] = letter(&value, i);
    switch (value.tag) {
    case PC_TAG_NONE:
        ASSERT_INT(pc_write_none(writer), 0);
        break;
    case PC_TAG_BOOL:
        ASSERT_INT(pc_write_bool(writer, value.number & 1), 0);
        break;
    case PC_TAG_I64:
        ASSERT_INT(pc_write_i64(writer, (int64_t)value.number), 0);
        break;
    case PC_TAG_U64:
        ASSERT_INT(pc_write_u64(writer, value.number), 0);
        break;
    case PC_TAG_F64:
        ASSERT_INT(pc_write_f64(writer, number), 0);
        break;
    case PC_TAG_LIST:
    case PC_TAG_TUPLE:
    case PC_TAG_DICT:
        write_random_container(writer, state, depth, &value);
        break;
    default:
        ASSERT_INT(pc_write_data(writer, value.tag, text, value.count), 0);
    }
}

static void read_random(pc_cursor *cursor, uint64_t *state, int depth)
{
    drawn value = draw(state, depth);
    pc_view view;
    ASSERT_INT(pc_value_next(cursor, &view), 1);
    ASSERT_INT(view.tag, value.tag);
    if (value.tag >= PC_TAG_LIST) {
        ASSERT_INT(view.length, value.count);
        for (uint64_t i = 0; i < value.count * (value.tag == PC_TAG_DICT ? 2 : 1); i++)
            read_random(&view.contents, state, depth + 1);
        ASSERT_INT(pc_value_next(&view.contents, &view), 0);
    } else if (value.tag >= PC_TAG_BIGINT) {
        ASSERT_INT(view.length, value.count);
        for (uint64_t i = 0; i < value.count; i++)
            ASSERT_INT(view.data[i], letter(&value, i));
        ASSERT_INT(view.data[value.count], '\0');
    } else if (value.tag == PC_TAG_BOOL) {
        ASSERT_INT(view.boolean, value.number & 1);
    } else if (value.tag != PC_TAG_NONE) {
        ASSERT(view.u64 == value.number);
    }
}

static pc_writer random_message(uint64_t seed)
{
    pc_writer writer = heap_writer();
    for (int i = 0; i < 4; i++)
        write_random(&writer, &seed, 0);
    return writer;
}

TEST(a_random_message_is_valid_and_reads_as_it_was_written)
{
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        pc_writer writer = random_message(seed);
        ASSERT_INT(check(&writer), 0);
        pc_cursor cursor = whole(&writer);
        uint64_t state = seed;
        for (int i = 0; i < 4; i++)
            read_random(&cursor, &state, 0);
        ASSERT(cursor.at == cursor.end);
        free(writer.data);
    }
}

/* A copy that ends where the memory ends. */
static pc_cursor at_the_end(guarded memory, const uint8_t *data, size_t size)
{
    ASSERT(size <= (size_t)(memory.end - memory.start));
    memcpy(memory.end - size, data, size);
    return (pc_cursor){memory.end - size, memory.end};
}

TEST(a_message_cut_anywhere_is_never_read_past_its_end)
{
    guarded memory = guarded_new(64);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        pc_writer writer = random_message(seed);
        for (size_t size = 0; size < writer.size; size += 8) {
            pc_cursor cursor = at_the_end(memory, writer.data, size);
            touch_all(cursor, 0);
            (void)pc_value_check(cursor, true);
        }
        free(writer.data);
    }
    guarded_free(memory);
}

TEST(a_value_cut_anywhere_is_refused)
{
    guarded memory = guarded_new(64);
    for (uint64_t seed = 1; seed <= 50; seed++) {
        pc_writer writer = heap_writer();
        uint64_t state = seed;
        write_random(&writer, &state, 0);
        for (size_t size = 8; size < writer.size; size += 8)
            ASSERT_INT(pc_value_check(at_the_end(memory, writer.data, size), true), -EBADMSG);
        for (size_t size = 1; size < 8; size++) /* no whole word: not to be loaded */
            ASSERT_INT(pc_value_check((pc_cursor){memory.end - 8, memory.end - 8 + size}, true),
                       -EBADMSG);
        free(writer.data);
    }
    guarded_free(memory);
}

TEST(a_message_with_random_bytes_is_never_read_past_its_end)
{
    guarded memory = guarded_new(64);
    uint64_t state = 42;
    for (int round = 0; round < 20000; round++) {
        pc_writer writer = random_message(1 + random_below(&state, 200));
        pc_cursor cursor = at_the_end(memory, writer.data, writer.size);
        uint8_t *bytes = memory.end - writer.size;
        for (uint64_t flips = 1 + random_below(&state, 8); flips > 0; flips--) {
            /* mostly in a header or a size, where it hurts */
            size_t place = random_below(&state, writer.size / 8) * 8 + random_below(&state, 8);
            bytes[place] = (uint8_t)(bytes[place] ^ random_next(&state));
        }
        touch_all(cursor, 0);
        (void)pc_value_check(cursor, round % 2);
        free(writer.data);
    }
    guarded_free(memory);
}

/* ---- a message that changes while it is read ---- */

#if defined __x86_64__

/* A thread that scribbles would have to hit the nanosecond between two loads. So the message stands
 * in a page that cannot be touched; each load faults, is let through alone by the processor's
 * single step, and then the page is closed again and the word, if it was the one, is another. */
static struct {
    uint8_t *page;
    uint64_t *word, becomes;
    uint8_t *touched;
    int loads;
} trap;

static void on_fault(int number, siginfo_t *info, void *context)
{
    enum { SINGLE_STEP = 0x100 };
    ucontext_t *machine = context;
    trap.touched = info->si_addr;
    if (trap.touched < trap.page || trap.touched >= trap.page + PAGE)
        signal(number, SIG_DFL); /* a real one: the instruction comes again, and ends us */
    mprotect(trap.page, PAGE, PROT_READ | PROT_WRITE);
    machine->uc_mcontext.gregs[REG_EFL] |= SINGLE_STEP;
}

static void on_step(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    enum { SINGLE_STEP = 0x100 };
    ucontext_t *machine = context;
    machine->uc_mcontext.gregs[REG_EFL] &= ~SINGLE_STEP;
    if (trap.touched >= (uint8_t *)trap.word && trap.touched < (uint8_t *)(trap.word + 1)) {
        trap.loads++;
        *trap.word = trap.becomes;
    }
    mprotect(trap.page, PAGE, PROT_NONE);
}

/* The view of two words, of which one changes as soon as it has been loaded. */
static pc_view read_changing(guarded memory, uint64_t first_word, uint64_t second_word,
                             size_t changing, uint64_t becomes)
{
    uint64_t *words = (uint64_t *)(void *)(memory.end - 16);
    words[0] = first_word;
    words[1] = second_word;
    trap.page = memory.end - PAGE;
    trap.word = &words[changing];
    trap.becomes = becomes;
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_fault;
    ASSERT_INT(sigaction(SIGSEGV, &action, NULL), 0);
    action.sa_sigaction = on_step;
    ASSERT_INT(sigaction(SIGTRAP, &action, NULL), 0);

    pc_cursor cursor = {memory.end - 16, memory.end};
    pc_view view;
    ASSERT_INT(mprotect(trap.page, PAGE, PROT_NONE), 0);
    int r = pc_value_next(&cursor, &view);
    if (trap.loads == 0)
        SKIP("there are no single steps here");
    ASSERT_INT(r, 1);
    ASSERT(cursor.at == memory.end);
    ASSERT_INT(trap.loads, 1);
    return view;
}

TEST(a_length_that_changes_under_the_reader_is_the_one_that_was_checked)
{
    guarded memory = guarded_new(1);
    pc_view view = read_changing(memory, header(PC_TAG_STR, 7), 0, 0, header(PC_TAG_LIST, 4000));
    ASSERT_INT(view.tag, PC_TAG_STR);
    ASSERT_INT(view.length, 7);
    guarded_free(memory);
}

TEST(a_size_that_changes_under_the_reader_is_the_one_that_was_checked)
{
    guarded memory = guarded_new(1);
    pc_view view = read_changing(memory, header(PC_TAG_LIST, 0), 0, 1, 4000);
    ASSERT(view.contents.at == memory.end && view.contents.end == memory.end);
    guarded_free(memory);
}

#endif

TAP_MAIN
