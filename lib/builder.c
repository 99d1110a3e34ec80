/* builder: the structure of a message, checked while it is written. */
#include "lib/builder.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/array.h"
#include "lib/error.h"

/* ---- failing --------------------------------------------------------------------------------- */

/* "argument 2" for a value at the top, "argument 2, item 3" inside a container. */
static const char *place(const pc_builder *builder, char text[64])
{
    int length = snprintf(text, 64, "argument %llu", pc_build_argument(builder));
    if (builder->depth > 0)
        snprintf(text + length, 64 - (size_t)length, ", item %llu",
                 (unsigned long long)builder->count + 1);
    return text;
}

static int keep(pc_builder *builder, int code)
{
    builder->failed = code;
    builder->flags |= PC_BUILD_FAILED;
    return code;
}

int pc_build_invalid(pc_builder *builder, const char *format, ...)
{
    char where[64], text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return keep(builder, pc_fail(-EINVAL, "%s: %s", place(builder, where), text));
}

int pc_build_fail(pc_builder *builder, int code)
{
    char where[64];
    if (pycrew_last_error()->code != code)
        pc_fail(code, "%s: %s", place(builder, where), pycrew_strerror(code));
    return keep(builder, code);
}

/* The keyword that waits for its value. Read with a check: it may stand in shared memory. */
static pc_text pending_name(const pc_builder *builder)
{
    pc_cursor cursor = {builder->writer.data + builder->name,
                        builder->writer.data + builder->writer.size};
    pc_view view;
    if (pc_value_next(&cursor, &view) <= 0 || view.tag != PC_TAG_NAME)
        return pc_text_of("");
    return (pc_text){view.data, view.length < 64 ? view.length : 64};
}

int pc_build_admit(pc_builder *builder)
{
    if (builder->flags & PC_BUILD_FAILED)
        return pc_fail(builder->failed, "an earlier argument failed: only release is left");
    if (builder->depth == 0 && !(builder->flags & PC_BUILD_NAME_PENDING))
        return pc_build_invalid(builder, "a value without a keyword, behind one with a keyword");
    builder->flags &= ~(unsigned)PC_BUILD_NAME_PENDING;
    return 0;
}

/* ---- values ---------------------------------------------------------------------------------- */

static int check_utf8(pc_builder *builder, const char *what, const char *text, size_t size)
{
    if (pc_utf8_valid(text, size))
        return 0;
    size_t at = pc_utf8_prefix(text, size);
    return pc_build_invalid(builder, "%s is not UTF-8: byte %zu is 0x%02x", what, at,
                            (unsigned)(unsigned char)text[at]);
}

/* What makes reading size bytes at data a mistake for sure. */
static int check_memory(pc_builder *builder, const void *data, size_t size)
{
    if (!data && size > 0)
        return pc_build_invalid(builder, "the pointer is NULL and the size %zu", size);
    if (size > PTRDIFF_MAX)
        return pc_build_invalid(builder, "the size is %zd", (ssize_t)size);
    return 0;
}

static int write_data(pc_builder *builder, enum pc_tag tag, const void *data, size_t size)
{
    PC_BUILD(builder, pc_write_data(&builder->writer, tag, data, size));
}

int pc_build_data(pc_builder *builder, enum pc_tag tag, const void *data, size_t size)
{
    if (builder->flags & PC_BUILD_FAILED)
        return pc_build_admit(builder);
    int code = check_memory(builder, data, size);
    if (code == 0 && tag == PC_TAG_STR)
        code = check_utf8(builder, "the str", data, size);
    if (code == 0 && tag == PC_TAG_JSON)
        code = check_utf8(builder, "the JSON text", data, size);
    return code < 0 ? code : write_data(builder, tag, data, size);
}

int pc_build_array(pc_builder *builder, const pycrew_array *array)
{
    if (builder->flags & PC_BUILD_FAILED)
        return pc_build_admit(builder);
    if (!builder->takes_arrays)
        return pc_build_invalid(builder, "an array cannot be here");
    return pc_arrays_add(builder, array);
}

/* ---- ints of any size ------------------------------------------------------------------------ */

static int digit_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    if (digit >= 'A' && digit <= 'F')
        return digit - 'A' + 10;
    return -1;
}

static int check_digits(pc_builder *builder, const char *hex, size_t size, size_t first)
{
    if (first == size)
        return pc_build_invalid(builder, "the int has no digits");
    for (size_t i = first; i < size; i++)
        if (digit_value(hex[i]) < 0)
            return pc_build_invalid(builder, "the int is not hexadecimal: byte %zu is 0x%02x", i,
                                    (unsigned)(unsigned char)hex[i]);
    return 0;
}

/* digits: without leading zeros, more than fit an I64 or U64. */
static int write_wide(pc_builder *builder, bool negative, const char *digits, size_t size)
{
    static const char lower[] = "0123456789abcdef";
    void *space;
    int code = pc_write_space(&builder->writer, PC_TAG_BIGINT, size + negative, &space);
    if (code < 0)
        return code;
    char *at = space;
    if (negative)
        *at++ = '-';
    for (size_t i = 0; i < size; i++)
        at[i] = lower[digit_value(digits[i])];
    return 0;
}

static int build_wide(pc_builder *builder, bool negative, const char *digits, size_t size)
{
    PC_BUILD(builder, write_wide(builder, negative, digits, size));
}

int pc_build_bigint(pc_builder *builder, const char *hex, size_t size)
{
    if (builder->flags & PC_BUILD_FAILED)
        return pc_build_admit(builder);
    int code = check_memory(builder, hex, size);
    if (code < 0)
        return code;
    bool negative = size > 0 && hex[0] == '-';
    size_t at = negative;
    if ((code = check_digits(builder, hex, size, at)) < 0)
        return code;
    while (at < size && hex[at] == '0')
        at++;

    uint64_t value = 0;
    if (size - at > 16)
        return build_wide(builder, negative, hex + at, size - at);
    for (size_t i = at; i < size; i++)
        value = value << 4 | (uint64_t)digit_value(hex[i]);
    if (!negative)
        return pc_build_u64(builder, value);
    if (value > (uint64_t)1 << 63)
        return build_wide(builder, negative, hex + at, size - at);
    return pc_build_i64(builder, (int64_t)(0 - value));
}

/* ---- structure ------------------------------------------------------------------------------- */

int pc_build_name(pc_builder *builder, const char *name, size_t size)
{
    if (builder->flags & PC_BUILD_FAILED)
        return pc_build_admit(builder);
    if (builder->depth > 0)
        return pc_build_invalid(builder, "a keyword cannot stand in a list, tuple or dict");
    if (builder->flags & PC_BUILD_NAME_PENDING) {
        pc_text pending = pending_name(builder);
        return pc_build_invalid(builder, "the keyword '%.*s' has no value before the next keyword",
                                (int)pending.size, pending.data);
    }
    int code = check_memory(builder, name, size);
    if (code == 0 && size == 0)
        code = pc_build_invalid(builder, "the keyword is empty");
    if (code == 0)
        code = check_utf8(builder, "the keyword", name, size);
    if (code == 0 && memchr(name, '\0', size))
        code = pc_build_invalid(builder, "the keyword has a NUL inside");
    if (code < 0)
        return code;

    size_t at = builder->writer.size;
    if ((code = pc_write_data(&builder->writer, PC_TAG_NAME, name, size)) < 0)
        return pc_build_fail(builder, code);
    builder->name = at;
    builder->flags |= PC_BUILD_NAMED | PC_BUILD_NAME_PENDING;
    return 0;
}

static enum pc_tag container_tag(int kind)
{
    switch (kind) {
    case PYCREW_LIST:
        return PC_TAG_LIST;
    case PYCREW_TUPLE:
        return PC_TAG_TUPLE;
    case PYCREW_DICT:
        return PC_TAG_DICT;
    default:
        return PC_TAG_INVALID;
    }
}

int pc_build_open(pc_builder *builder, int kind)
{
    enum pc_tag tag = container_tag(kind);
    int code = builder->flags ? pc_build_admit(builder) : 0;
    if (code < 0)
        return code;
    if (tag == PC_TAG_INVALID)
        return pc_build_invalid(builder, "%d is no kind of container", kind);
    if (builder->depth == PC_VALUE_DEPTH_MAX)
        return pc_build_invalid(builder, "nested deeper than %d", PC_VALUE_DEPTH_MAX);

    pc_writer *writer = &builder->writer;
    size_t offset, parent = builder->open;
    if ((code = pc_write_open(writer, tag, &offset)) < 0)
        return pc_build_fail(builder, code);
    if (builder->depth == 0)
        builder->arguments = builder->count;
    else
        pc_word_store(writer->data + parent, builder->tag | builder->count << 8);
    pc_word_store(writer->data + offset + 8, parent);
    builder->open = offset;
    builder->tag = tag;
    builder->count = 0;
    builder->depth++;
    return 0;
}

/* The container around the one that closes is the innermost again. */
static int step_out(pc_builder *builder, size_t parent)
{
    pc_writer *writer = &builder->writer;
    if (--builder->depth == 0) {
        builder->count = builder->arguments + 1;
        return 0;
    }
    if (parent >= builder->open || parent % 8 != 0)
        return pc_build_invalid(builder, "the arguments' memory was written to by somebody else");
    uint64_t header = pc_word_load(writer->data + parent);
    builder->open = parent;
    builder->tag = (enum pc_tag)(header & 0xff);
    builder->count = (header >> 8) + 1;
    return 0;
}

int pc_build_close(pc_builder *builder)
{
    if (builder->flags & PC_BUILD_FAILED)
        return pc_build_admit(builder);
    if (builder->depth == 0)
        return pc_build_invalid(builder, "there is no open list, tuple or dict to close");
    uint64_t count = builder->count;
    if (builder->tag == PC_TAG_DICT) {
        if (count % 2 != 0)
            return pc_build_invalid(builder, "the dict's last key has no value");
        count /= 2;
    }
    pc_writer *writer = &builder->writer;
    size_t parent = pc_word_load(writer->data + builder->open + 8);
    pc_write_close(writer, builder->open, count);
    return step_out(builder, parent);
}

void pc_build_rewind(pc_builder *builder, pc_mark mark)
{
    pc_build_start(builder);
    builder->writer.size = mark.size;
    builder->count = mark.count;
    builder->name = mark.name;
    builder->flags = mark.flags;
    builder->json_result = mark.json_result;
}

int pc_build_unfinished(pc_builder *builder)
{
    if (builder->flags & PC_BUILD_FAILED)
        return pc_build_admit(builder);
    if (builder->depth > 0)
        return pc_build_invalid(builder, "a %s is not closed",
                                builder->tag == PC_TAG_LIST    ? "list"
                                : builder->tag == PC_TAG_TUPLE ? "tuple"
                                                               : "dict");
    pc_text pending = pending_name(builder);
    return pc_build_invalid(builder, "the keyword '%.*s' has no value", (int)pending.size,
                            pending.data);
}
