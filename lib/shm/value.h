/* value: how arguments and results are written in shared memory.
 *
 * Overview. A value is an 8-byte header, then its payload, padded to 8 bytes. The header's low 8
 * bits are the tag, the upper 56 its length or count:
 *
 *   NONE                 header, length is 0
 *   BOOL                 header, length is 0 or 1
 *   I64 U64 F64          header, length is 0, 8 bytes      (U64 only for what I64 cannot hold)
 *   BIGINT STR BYTES     header, length bytes, a NUL, padding    (BIGINT: "-1f..", lower-case hex)
 *   OBJECT JSON NAME     the same                  (pickle, protocol 5; JSON text; a keyword)
 *   ARRAY                the same                  (a description, see array.h)
 *   LIST TUPLE DICT      header with the count (a dict's pairs), 8 bytes: size of the contents in
 *                        bytes, then the contents: values end to end (a dict's key, value, key ...)
 *
 * A container has depth 1 if it stands on the top level, else one more than the one around it.
 *
 * A message is values end to end; NAME stands only on its top level, before a keyword argument's
 * value, and after the first NAME all top-level values have one.
 *
 * Usage. A pc_writer appends to memory it is given and asks its owner for more by grow(). A
 * pc_cursor walks; pc_value_next gives a pc_view of each value, whose payload pointers point into
 * the message.
 *
 * Why it is correct. The reader never trusts the message: each header is loaded once into the
 * view, every length is checked against the end before anything is made of it (by subtraction, so
 * that no sum can wrap), and a container's contents are a cursor of their own inside it. So a
 * reader over memory that another process scribbles on reads wrong values, but only from inside
 * [at, end). A container's count is at most what its contents have room for, so that a reader may
 * allocate by it; whether it is exact, only the walk tells (and a walk must tell again, even after
 * pc_value_check, if somebody else can write the memory). The same goes for the NUL behind data: it
 * is there when the header is read; who hands data on as a C string and does not trust the writer,
 * copies it first. Nesting is bounded by PC_VALUE_DEPTH_MAX for both, so a recursion over it is
 * bounded too. */
#ifndef PC_SHM_VALUE_H
#define PC_SHM_VALUE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum pc_tag {
    PC_TAG_INVALID = 0,
    PC_TAG_NONE,
    PC_TAG_BOOL,
    PC_TAG_I64,
    PC_TAG_U64,
    PC_TAG_F64,
    PC_TAG_BIGINT,
    PC_TAG_STR,
    PC_TAG_BYTES,
    PC_TAG_OBJECT,
    PC_TAG_JSON,
    PC_TAG_NAME,
    PC_TAG_ARRAY,
    PC_TAG_LIST,
    PC_TAG_TUPLE,
    PC_TAG_DICT,
    PC_TAG_COUNT
};

enum { PC_VALUE_DEPTH_MAX = 500 };

/* ---- reading ---- */

typedef struct pc_cursor {
    const uint8_t *at, *end; /* 8-byte aligned */
} pc_cursor;

typedef struct pc_view {
    enum pc_tag tag;
    uint64_t length; /* bytes of data, or the container's count (pairs of a dict) */
    union {
        bool boolean;
        int64_t i64;
        uint64_t u64;
        double f64;
        const char *data; /* STR, BYTES, OBJECT, JSON, NAME, BIGINT, ARRAY: length bytes and a NUL */
        pc_cursor contents;
    };
} pc_view;

/* Reads the value at the cursor and moves behind it: 1; 0 at the end; -EBADMSG where the bytes are
 * no value (the cursor stays). */
static inline int pc_value_next(pc_cursor *cursor, pc_view *view);

/* Walks the whole message: 0, or -EBADMSG if a value in it is malformed, nested too deeply, holds
 * more or fewer values than it counts, or a NAME stands where none may. STR, JSON and NAME are
 * checked to be UTF-8 if utf8 is set. */
int pc_value_check(pc_cursor cursor, bool utf8);

/* Whether text is UTF-8 as Python takes it: no surrogates, no overlong forms. */
bool pc_utf8_valid(const char *text, size_t size);

/* ---- writing ---- */

typedef struct pc_writer pc_writer;
struct pc_writer {
    uint8_t *data; /* 8-byte aligned */
    size_t size, capacity;
    /* Makes capacity at least need, keeping the contents: 0, -ENOMEM or -E2BIG. NULL if the memory
     * is all there is: -E2BIG then. */
    int (*grow)(pc_writer *writer, size_t need);
};

/* 0 or what grow returned, as all below; on failure nothing is written. */
static inline int pc_write_none(pc_writer *writer);
static inline int pc_write_bool(pc_writer *writer, bool value);
static inline int pc_write_i64(pc_writer *writer, int64_t value);
static inline int pc_write_u64(pc_writer *writer, uint64_t value); /* as I64 where it fits */
static inline int pc_write_f64(pc_writer *writer, double value);

/* STR, BYTES, BIGINT, OBJECT, JSON, NAME. data may be NULL if size is 0. */
int pc_write_data(pc_writer *writer, enum pc_tag tag, const void *data, size_t size);

/* The same with the bytes left to the caller to fill in (*ret points to size bytes; the NUL and
 * the padding are written). */
int pc_write_space(pc_writer *writer, enum pc_tag tag, size_t size, void **ret);

/* A container: open gives its offset in the writer, close patches count (a dict's pairs) and size.
 * Depth is the caller's to count. */
int pc_write_open(pc_writer *writer, enum pc_tag tag, size_t *ret_offset);
void pc_write_close(pc_writer *writer, size_t offset, uint64_t count);

/* Copies whole values as the cursor found them (the bytes from its place before to its next place;
 * size is a multiple of 8). */
int pc_write_raw(pc_writer *writer, const void *value, size_t size);

static inline size_t pc_align8(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

/* ---- inline, because a call of two ints and one int costs little more than these ---- */

/* Memory that is words to us and anything to its owner. */
typedef uint64_t __attribute__((__may_alias__)) pc_word;

/* One load, never repeated by the compiler: what was checked is what is used. */
static inline uint64_t pc_word_load(const uint8_t *at)
{
    return __atomic_load_n((const pc_word *)(const void *)at, __ATOMIC_RELAXED);
}

static inline void pc_word_store(uint8_t *at, uint64_t word)
{
    *(pc_word *)(void *)at = word;
}

/* What has bytes or contents behind it; header is the word at the cursor, which has room for it. */
int pc_value_next_sized(pc_cursor *cursor, pc_view *view, uint64_t header);

static inline int pc_value_next(pc_cursor *cursor, pc_view *view)
{
    size_t left = (size_t)(cursor->end - cursor->at);
    if (left < 8)
        return left == 0 ? 0 : -EBADMSG;

    uint64_t header = pc_word_load(cursor->at);
    if (header >= PC_TAG_I64 && header <= PC_TAG_F64 && left >= 16) {
        view->tag = (enum pc_tag)header;
        view->length = 0;
        view->u64 = pc_word_load(cursor->at + 8);
        cursor->at += 16;
        return 1;
    }
    if (header == PC_TAG_NONE || (header & ~(uint64_t)0x100) == PC_TAG_BOOL) {
        view->tag = (enum pc_tag)(header & 0xff);
        view->length = header >> 8;
        view->boolean = header >> 8;
        cursor->at += 8;
        return 1;
    }
    return pc_value_next_sized(cursor, view, header);
}

/* Asks the owner for room behind size. */
int pc_write_grow(pc_writer *writer, size_t more);

static inline int pc_write_reserve(pc_writer *writer, size_t more)
{
    return writer->capacity - writer->size >= more ? 0 : pc_write_grow(writer, more);
}

static inline int pc_write_header(pc_writer *writer, uint64_t header)
{
    int r = pc_write_reserve(writer, 8);
    if (r < 0)
        return r;
    pc_word_store(writer->data + writer->size, header);
    writer->size += 8;
    return 0;
}

static inline int pc_write_word(pc_writer *writer, enum pc_tag tag, uint64_t word)
{
    int r = pc_write_reserve(writer, 16);
    if (r < 0)
        return r;
    pc_word_store(writer->data + writer->size, tag);
    pc_word_store(writer->data + writer->size + 8, word);
    writer->size += 16;
    return 0;
}

static inline int pc_write_none(pc_writer *writer)
{
    return pc_write_header(writer, PC_TAG_NONE);
}

static inline int pc_write_bool(pc_writer *writer, bool value)
{
    return pc_write_header(writer, PC_TAG_BOOL | (uint64_t)value << 8);
}

static inline int pc_write_i64(pc_writer *writer, int64_t value)
{
    return pc_write_word(writer, PC_TAG_I64, (uint64_t)value);
}

static inline int pc_write_u64(pc_writer *writer, uint64_t value)
{
    return pc_write_word(writer, value <= INT64_MAX ? PC_TAG_I64 : PC_TAG_U64, value);
}

static inline int pc_write_f64(pc_writer *writer, double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    return pc_write_word(writer, PC_TAG_F64, word);
}

#endif
