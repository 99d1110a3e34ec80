/* values: the reader of lib/shm/value.h, and the walks of lib/result.h, over any bytes. */
#include "tests/fuzz/target.h"

#include <math.h>

#include "lib/error.h"
#include "lib/result.h"
#include "lib/shm/array.h"
#include "lib/shm/value.h"

/* ---- UTF-8, by decoding ---------------------------------------------------------------------- */

/* The character at text, and its size; 0: none. */
static size_t decode(const uint8_t *text, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t size = text[0] < 0x80             ? 1
                  : (text[0] & 0xe0) == 0xc0 ? 2
                  : (text[0] & 0xf0) == 0xe0 ? 3
                  : (text[0] & 0xf8) == 0xf0 ? 4
                                             : 0;
    if (size <= 1 || size > left)
        return size > left ? 0 : size;
    uint32_t character = text[0] & (0x7fu >> size);
    for (size_t i = 1; i < size; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        character = character << 6 | (text[i] & 0x3fu);
    }
    bool good = character >= least[size] && character <= 0x10ffff &&
                (character < 0xd800 || character > 0xdfff);
    return good ? size : 0;
}

static size_t decoded_prefix(const char *text, size_t size)
{
    size_t at = 0, step;

    while (at < size && (step = decode((const uint8_t *)text + at, size - at)) > 0)
        at += step;
    return at;
}

static void check_utf8(const char *text, size_t size)
{
    size_t prefix = decoded_prefix(text, size);

    CHECK(pc_utf8_valid(text, size) == (prefix == size));
    CHECK(pc_utf8_prefix(text, size) == prefix);
}

/* ---- views ----------------------------------------------------------------------------------- */

static void touch(const void *data, size_t size)
{
    uint8_t sum = 0;

    for (size_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)data)[i]);
    __asm__ volatile("" ::"r"(sum));
}

static void convert_data(const pc_view *view)
{
    for (enum pc_tag tag = PC_TAG_INVALID; tag < PC_TAG_COUNT; tag++) {
        bool is_data = tag >= PC_TAG_BIGINT && tag <= PC_TAG_NAME;
        const char *data = NULL;
        size_t size = 0;
        if (!is_data)
            continue;
        int code = pc_view_data(view, tag, &data, &size);
        CHECK(code == (data ? 0 : PYCREW_ETYPE));
        CHECK(code == 0 || tag != view->tag || !pc_utf8_valid(view->data, view->length));
        CHECK(code < 0 || (data == view->data && size == view->length));
        data = NULL;
        if (pc_view_data(view, tag, &data, NULL) == 0 && (tag == PC_TAG_STR || tag == PC_TAG_JSON))
            CHECK(strlen(data) == size);
    }
}

/* Conversions that succeed agree with each other. */
static void convert(const pc_view *view)
{
    bool boolean;
    int64_t i64;
    uint64_t u64;
    double f64;
    bool is_bool = pc_view_bool(view, &boolean) == 0;
    bool is_i64 = pc_view_i64(view, &i64) == 0, is_u64 = pc_view_u64(view, &u64) == 0;
    bool is_f64 = pc_view_f64(view, &f64) == 0;

    CHECK(is_bool == (view->tag == PC_TAG_BOOL));
    CHECK(!is_bool || (is_i64 && i64 == boolean));
    CHECK(!is_i64 || !is_u64 || (i64 >= 0 && (uint64_t)i64 == u64));
    CHECK(is_u64 || !is_i64 || i64 < 0);
    CHECK(!is_i64 || (is_f64 && f64 == (double)i64));
    CHECK(view->tag != PC_TAG_BIGINT || !is_f64 || isfinite(f64));
    convert_data(view);
}

/* What is read of a description can be computed with, and written it reads the same. */
static void check_array(const pc_view *view)
{
    pc_writer writer = {.data = NULL};
    pc_array array, again;
    pc_view written;

    if (pc_array_read(view, &array) < 0)
        return;
    CHECK(array.ndim >= 0 && array.ndim <= PC_ARRAY_DIMS && array.low <= 0 && array.high >= 0);
    CHECK(array.bytes <= INT64_MAX && (array.bytes > 0) == (array.high > 0));
    CHECK(array.bytes == 0 || array.base > 0);
    CHECK(array.format_size < view->length);
    writer.capacity = view->length + 512;
    writer.data = malloc(writer.capacity);
    CHECK(writer.data && pc_array_write(&writer, &array) == 0);
    pc_cursor cursor = {writer.data, writer.data + writer.size};
    CHECK(pc_value_next(&cursor, &written) == 1 && pc_array_read(&written, &again) == 0);
    CHECK(again.base == array.base && again.data == array.data && again.bytes == array.bytes);
    CHECK(again.cell == array.cell && again.low == array.low && again.high == array.high);
    CHECK(again.format_size == array.format_size && again.writable == array.writable);
    free(writer.data);
}

/* ---- the walk -------------------------------------------------------------------------------- */

/* Reads all there is. Returns whether it is well-formed, which pc_value_check must have found too.
 */
static bool walk(pc_cursor cursor, uint64_t expected, int depth)
{
    const uint8_t *low = cursor.at, *high = cursor.end;
    bool good = true;
    uint64_t count = 0;
    pc_view view;
    int r;

    while ((r = pc_value_next(&cursor, &view)) > 0) {
        CHECK(cursor.at > low && cursor.at <= high && (cursor.at - low) % 8 == 0);
        CHECK(view.tag > PC_TAG_INVALID && view.tag < PC_TAG_COUNT);
        convert(&view);
        count++;
        good = good && (view.tag != PC_TAG_NAME || depth == 0);
        if (view.tag >= PC_TAG_LIST) {
            CHECK(view.contents.at >= low && view.contents.end == cursor.at);
            CHECK(view.length <= (size_t)(view.contents.end - view.contents.at) / 8);
            uint64_t values = view.tag == PC_TAG_DICT ? 2 * view.length : view.length;
            good = depth < PC_VALUE_DEPTH_MAX && walk(view.contents, values, depth + 1) && good;
        } else if (view.tag >= PC_TAG_BIGINT) {
            check_array(&view);
            CHECK((const uint8_t *)view.data > low && view.length < (size_t)(high - low));
            CHECK(view.data[view.length] == '\0');
            touch(view.data, view.length);
            check_utf8(view.data, view.length);
        }
    }
    return good && r == 0 && (depth == 0 || count == expected);
}

/* ---- the public walk ------------------------------------------------------------------------- */

static bool same(pycrew_value a, pycrew_value b)
{
    return pycrew_value_type(a) == pycrew_value_type(b) && a.at == b.at && a.end == b.end;
}

static void get_everything(pycrew_value value)
{
    bool boolean;
    int64_t i64;
    uint64_t u64;
    double f64;
    const char *text;
    const void *bytes;
    size_t size;

    pycrew_value_bool(value, &boolean);
    pycrew_value_i64(value, &i64);
    pycrew_value_u64(value, &u64);
    pycrew_value_f64(value, &f64);
    if (pycrew_value_str(value, &text, &size) == 0)
        touch(text, size + 1);
    pycrew_value_str(value, &text, NULL);
    if (pycrew_value_bytes(value, &bytes, &size) == 0)
        touch(bytes, size + 1);
}

enum { PUBLIC_DEPTH = 4, PUBLIC_ITEMS = 64 };

/* Whatever the message is: item, next and get see the same. checked: counts are exact. */
static void walk_public(pycrew_value value, bool checked, int depth)
{
    int type = pycrew_value_type(value);
    size_t count = pycrew_value_count(value) * (type == PYCREW_TYPE_DICT ? 2 : 1), seen = 0;
    pycrew_value item = pycrew_value_item(value, 0);

    get_everything(value);
    for (; pycrew_value_type(item) != PYCREW_TYPE_INVALID && seen < PUBLIC_ITEMS; seen++) {
        CHECK(same(item, pycrew_value_item(value, seen)));
        if (depth < PUBLIC_DEPTH)
            walk_public(item, checked, depth + 1);
        const char *key;
        if (type == PYCREW_TYPE_DICT && seen % 2 == 0 &&
            pycrew_value_type(item) == PYCREW_TYPE_STR && pycrew_value_str(item, &key, NULL) == 0)
            CHECK(!checked || pycrew_value_type(pycrew_value_get(value, key)));
        item = pycrew_value_next(item);
    }
    if (checked && count < PUBLIC_ITEMS)
        CHECK(seen == count);
    if (type != PYCREW_TYPE_LIST && type != PYCREW_TYPE_TUPLE && type != PYCREW_TYPE_DICT)
        CHECK(seen == 0 && count == 0);
    pycrew_value_get(value, "");
}

static void result_functions(pc_cursor message)
{
    bool boolean;
    int64_t i64;
    uint64_t u64;
    double f64;
    const char *text;
    const void *bytes;
    size_t size;

    pc_result_bool(message, &boolean);
    pc_result_i64(message, &i64);
    pc_result_u64(message, &u64);
    pc_result_f64(message, &f64);
    if (pc_result_str(message, &text, &size) == 0 || pc_result_json(message, &text, &size) == 0)
        CHECK(pc_utf8_valid(text, size) && text[size] == '\0');
    if (pc_result_bytes(message, &bytes, &size) == 0)
        touch(bytes, size + 1);
}

FUZZ_TARGET(values)
{
    char *text = fuzz_copy(data, size);
    check_utf8(text, size);
    free(text);

    size &= ~(size_t)7; /* messages end at a multiple of 8 */
    uint8_t *copy = fuzz_copy(data, size);
    pc_cursor message = {copy, copy + size};
    bool good = pc_value_check(message, false) == 0, good_utf8 = pc_value_check(message, true) == 0;
    bool walked = walk(message, 0, 0);
    CHECK(good || !good_utf8);
    CHECK(walked || !good);
    walk_public(pc_result_value(message, NULL), good, 0);
    result_functions(message);
    free(copy);
    return 0;
}
