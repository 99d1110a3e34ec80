/* value: what is not inline in value.h: values with bytes or contents behind them, the check. */
#include "lib/shm/value.h"

#include <assert.h>

#include "lib/shm/array.h"

static_assert(sizeof(size_t) == 8, "offsets and lengths are 64 bits wide");

/* ---- reading ---- */

static bool is_data(uint64_t tag)
{
    return tag >= PC_TAG_BIGINT && tag <= PC_TAG_ARRAY;
}

static bool is_container(uint64_t tag)
{
    return tag >= PC_TAG_LIST && tag <= PC_TAG_DICT;
}

/* left counts from the header on, here and in next_container, so it is at least 8. */
static int next_data(pc_cursor *cursor, pc_view *view, uint64_t header, size_t left)
{
    uint64_t length = header >> 8;
    uint64_t padded = (length & ~(uint64_t)7) + 8; /* with the NUL; 56 bits cannot wrap */
    if (padded > left - 8)
        return -EBADMSG;

    const uint8_t *data = cursor->at + 8;
    if (__atomic_load_n(data + length, __ATOMIC_RELAXED) != 0)
        return -EBADMSG;
    view->tag = (enum pc_tag)(header & 0xff);
    view->length = length;
    view->data = (const char *)data;
    cursor->at = data + padded;
    return 1;
}

static int next_container(pc_cursor *cursor, pc_view *view, uint64_t header, size_t left)
{
    if (left < 16)
        return -EBADMSG;
    uint64_t size = pc_word_load(cursor->at + 8);
    if (size > left - 16 || size % 8 != 0)
        return -EBADMSG;

    /* No value is shorter than 8 bytes. Without this, a forged count would have a reader allocate
     * what the message could never fill. */
    enum pc_tag tag = (enum pc_tag)(header & 0xff);
    uint64_t count = header >> 8;
    if (count > size / (tag == PC_TAG_DICT ? 16 : 8))
        return -EBADMSG;

    view->tag = tag;
    view->length = count;
    view->contents.at = cursor->at + 16;
    view->contents.end = view->contents.at + size;
    cursor->at = view->contents.end;
    return 1;
}

int pc_value_next_sized(pc_cursor *cursor, pc_view *view, uint64_t header)
{
    size_t left = (size_t)(cursor->end - cursor->at);
    uint64_t tag = header & 0xff;
    if (is_data(tag))
        return next_data(cursor, view, header, left);
    if (is_container(tag))
        return next_container(cursor, view, header, left);
    return -EBADMSG;
}

/* ---- checking ---- */

static bool is_between(uint8_t byte, uint8_t low, uint8_t high)
{
    return byte >= low && byte <= high;
}

static bool is_continuation(uint8_t byte)
{
    return (byte & 0xc0) == 0x80;
}

/* The size of the sequence of several bytes that starts here, 0 if it is none. The second byte's
 * range is what keeps out overlong forms (e0, f0), surrogates (ed) and what is past U+10FFFF (f4):
 * Unicode 15, table 3-7. */
static size_t sequence_size(const uint8_t *text, size_t left)
{
    uint8_t lead = text[0];
    if (is_between(lead, 0xc2, 0xdf))
        return left >= 2 && is_continuation(text[1]) ? 2 : 0;
    if (is_between(lead, 0xe0, 0xef)) {
        uint8_t low = lead == 0xe0 ? 0xa0 : 0x80, high = lead == 0xed ? 0x9f : 0xbf;
        return left >= 3 && is_between(text[1], low, high) && is_continuation(text[2]) ? 3 : 0;
    }
    if (is_between(lead, 0xf0, 0xf4)) {
        uint8_t low = lead == 0xf0 ? 0x90 : 0x80, high = lead == 0xf4 ? 0x8f : 0xbf;
        return left >= 4 && is_between(text[1], low, high) && is_continuation(text[2]) &&
                       is_continuation(text[3])
                   ? 4
                   : 0;
    }
    return 0;
}

static bool is_ascii8(const uint8_t *text)
{
    uint64_t word;
    memcpy(&word, text, sizeof word);
    return (word & UINT64_C(0x8080808080808080)) == 0;
}

bool pc_utf8_valid(const char *text, size_t size)
{
    const uint8_t *at = (const uint8_t *)text;
    size_t left = size;
    while (left > 0) {
        size_t step;
        if (left >= 8 && is_ascii8(at))
            step = 8;
        else if (*at < 0x80)
            step = 1;
        else
            step = sequence_size(at, left);
        if (step == 0)
            return false;
        at += step;
        left -= step;
    }
    return true;
}

/* -?[0-9a-f]+ */
static bool is_hexadecimal(const char *text, size_t size)
{
    size_t i = size > 0 && text[0] == '-' ? 1 : 0;
    if (i == size)
        return false;
    for (; i < size; i++)
        if (!(text[i] >= '0' && text[i] <= '9') && !(text[i] >= 'a' && text[i] <= 'f'))
            return false;
    return true;
}

/* Not inline: its room on the stack would be there for each container around it. */
static __attribute__((noinline)) int check_array(const pc_view *view)
{
    pc_array array;
    return pc_array_read(view, &array);
}

static int check_contents(const pc_view *container, bool utf8, int depth);

/* depth: of the container around the value, 0 on the top level. */
static int check_view(const pc_view *view, bool utf8, int depth)
{
    switch (view->tag) {
    case PC_TAG_BIGINT:
        return is_hexadecimal(view->data, view->length) ? 0 : -EBADMSG;
    case PC_TAG_STR:
    case PC_TAG_JSON:
    case PC_TAG_NAME:
        return !utf8 || pc_utf8_valid(view->data, view->length) ? 0 : -EBADMSG;
    case PC_TAG_ARRAY:
        return check_array(view);
    case PC_TAG_LIST:
    case PC_TAG_TUPLE:
    case PC_TAG_DICT:
        return depth < PC_VALUE_DEPTH_MAX ? check_contents(view, utf8, depth + 1) : -EBADMSG;
    default:
        return 0;
    }
}

static int check_contents(const pc_view *container, bool utf8, int depth)
{
    pc_cursor cursor = container->contents;
    uint64_t expected = container->tag == PC_TAG_DICT ? 2 * container->length : container->length;
    uint64_t count = 0;
    pc_view view;
    int r;
    while ((r = pc_value_next(&cursor, &view)) > 0) {
        if (view.tag == PC_TAG_NAME || check_view(&view, utf8, depth) < 0)
            return -EBADMSG;
        count++;
    }
    return r == 0 && count == expected ? 0 : -EBADMSG;
}

int pc_value_check(pc_cursor cursor, bool utf8)
{
    bool named = false;
    pc_view view;
    int r;
    while ((r = pc_value_next(&cursor, &view)) > 0) {
        if (view.tag == PC_TAG_NAME) {
            named = true;
            if (check_view(&view, utf8, 0) < 0 || pc_value_next(&cursor, &view) <= 0 ||
                view.tag == PC_TAG_NAME)
                return -EBADMSG;
        } else if (named) {
            return -EBADMSG;
        }
        if (check_view(&view, utf8, 0) < 0)
            return -EBADMSG;
    }
    return r;
}

/* ---- writing ---- */

int pc_write_grow(pc_writer *writer, size_t more)
{
    if (writer->grow == NULL || more > SIZE_MAX - writer->size)
        return -E2BIG;
    int r = writer->grow(writer, writer->size + more);
    assert(r < 0 || writer->capacity - writer->size >= more);
    return r;
}

int pc_write_space(pc_writer *writer, enum pc_tag tag, size_t size, void **ret)
{
    assert(is_data(tag));
    if (size >> 56 != 0) /* the header has no more bits for it */
        return -E2BIG;
    size_t padded = (size & ~(size_t)7) + 8;
    int r = pc_write_reserve(writer, 8 + padded);
    if (r < 0)
        return r;

    uint8_t *at = writer->data + writer->size;
    pc_word_store(at, tag | (uint64_t)size << 8);
    pc_word_store(at + padded, 0); /* the last word: the NUL and the padding are in it */
    *ret = at + 8;
    writer->size += 8 + padded;
    return 0;
}

int pc_write_data(pc_writer *writer, enum pc_tag tag, const void *data, size_t size)
{
    void *space;
    int r = pc_write_space(writer, tag, size, &space);
    if (r < 0)
        return r;
    if (size > 0) /* memcpy takes no NULL, however few bytes */
        memcpy(space, data, size);
    return 0;
}

int pc_write_open(pc_writer *writer, enum pc_tag tag, size_t *ret_offset)
{
    assert(is_container(tag));
    size_t offset = writer->size;
    int r = pc_write_word(writer, tag, 0);
    if (r < 0)
        return r;
    *ret_offset = offset;
    return 0;
}

void pc_write_close(pc_writer *writer, size_t offset, uint64_t count)
{
    uint8_t *at = writer->data + offset;
    pc_word_store(at, (pc_word_load(at) & 0xff) | count << 8);
    pc_word_store(at + 8, writer->size - offset - 16);
}

int pc_write_raw(pc_writer *writer, const void *value, size_t size)
{
    assert(size % 8 == 0);
    int r = pc_write_reserve(writer, size);
    if (r < 0)
        return r;
    if (size > 0)
        memcpy(writer->data + writer->size, value, size);
    writer->size += size;
    return 0;
}
