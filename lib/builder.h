/* builder: appends arguments to a message, and knows what may stand where.
 *
 * It refuses what the reader would: a keyword inside a container, a value without one after the
 * first, a dict with an odd number of values, text that is not UTF-8, nesting too deep. The first
 * failure sticks: all later functions return its code, and only rewind, start or init end it.
 *
 * Memory. It allocates nothing. Of the innermost open container, kind and count stand in the
 * builder; those of its parent wait in the message itself, in the words that close() fills in: the
 * header of the parent, and the size word of the child (the parent's offset). That memory may be
 * shared with a process that scribbles, so what close() reads back is checked: an offset must lie
 * before the child's, so no write leaves the message and the chain ends.
 *
 * Errors. 0 or a negative code with the thread's last error set, naming the argument: -EINVAL, and
 * -ENOMEM and -E2BIG from the writer's grow(), which has set the last error if it has more to say
 * than the code's text. */
#ifndef PC_BUILDER_H
#define PC_BUILDER_H

#include "lib/pycrew.h"
#include "lib/shm/value.h"

enum {                            /* pc_builder.flags: any of them leaves the fast path */
       PC_BUILD_NAMED = 1,        /* there was a keyword: all top-level values need one */
       PC_BUILD_NAME_PENDING = 2, /* a keyword waits for its value */
       PC_BUILD_FAILED = 4
};

typedef struct pc_builder {
    pc_writer writer;   /* the owner's: data, size, capacity, grow */
    uint64_t count;     /* values in the innermost open container, or at the top */
    uint64_t arguments; /* at the top, while a container is open */
    size_t open;        /* offset of the innermost open container */
    size_t name;        /* offset of the last keyword */
    unsigned depth;     /* containers open */
    enum pc_tag tag;    /* of the innermost */
    unsigned flags;
    int failed; /* the first failure's code, or 0 */
    bool json_result;
    bool takes_arrays; /* it is the first member of a call */
} pc_builder;

typedef struct pc_mark {
    size_t size, name;
    uint64_t count;
    unsigned flags;
    bool json_result;
} pc_mark;

/* A new message at the writer's present end. The writer is the caller's to set up. */
static inline void pc_build_start(pc_builder *builder)
{
    builder->count = builder->arguments = 0;
    builder->open = builder->name = 0;
    builder->depth = builder->flags = 0;
    builder->tag = PC_TAG_INVALID;
    builder->failed = 0;
    builder->json_result = false;
}

/* A place to come back to; to be taken while no container is open and nothing has failed. */
static inline pc_mark pc_build_mark(const pc_builder *builder)
{
    return (pc_mark){builder->writer.size, builder->name, builder->count, builder->flags,
                     builder->json_result};
}

/* Discards all that came after the mark, a failure included. */
void pc_build_rewind(pc_builder *builder, pc_mark mark);

int pc_build_unfinished(pc_builder *builder); /* fails, and says why */

/* Ends the message: -EINVAL names an open container or a keyword without a value. */
static inline int pc_build_finish(pc_builder *builder)
{
    if ((builder->flags & (PC_BUILD_FAILED | PC_BUILD_NAME_PENDING)) == 0 && builder->depth == 0)
        return 0;
    return pc_build_unfinished(builder);
}

/* Whether a value may stand here; takes a pending keyword. */
int pc_build_admit(pc_builder *builder);

/* Failing: the first keeps code, and sets the last error if it is of another; the second is -EINVAL
 * with "argument 2, item 3: " in front. */
int pc_build_fail(pc_builder *builder, int code);
int pc_build_invalid(pc_builder *builder, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Which argument is being built, from 1. */
static inline unsigned long long pc_build_argument(const pc_builder *builder)
{
    return (builder->depth == 0 ? builder->count : builder->arguments) + 1;
}

#define PC_BUILD(builder, write)                                                                   \
    do {                                                                                           \
        if (__builtin_expect((builder)->flags != 0, 0)) {                                          \
            int admitted = pc_build_admit(builder);                                                \
            if (admitted < 0)                                                                      \
                return admitted;                                                                   \
        }                                                                                          \
        int written = (write);                                                                     \
        if (__builtin_expect(written < 0, 0))                                                      \
            return pc_build_fail((builder), written);                                              \
        (builder)->count++;                                                                        \
        return 0;                                                                                  \
    } while (0)

static inline int pc_build_none(pc_builder *builder)
{
    PC_BUILD(builder, pc_write_none(&builder->writer));
}

static inline int pc_build_bool(pc_builder *builder, bool value)
{
    PC_BUILD(builder, pc_write_bool(&builder->writer, value));
}

static inline int pc_build_i64(pc_builder *builder, int64_t value)
{
    PC_BUILD(builder, pc_write_i64(&builder->writer, value));
}

static inline int pc_build_u64(pc_builder *builder, uint64_t value)
{
    PC_BUILD(builder, pc_write_u64(&builder->writer, value));
}

static inline int pc_build_f64(pc_builder *builder, double value)
{
    PC_BUILD(builder, pc_write_f64(&builder->writer, value));
}

/* STR, BYTES, OBJECT or JSON. data may be NULL if size is 0. */
int pc_build_data(pc_builder *builder, enum pc_tag tag, const void *data, size_t size);

/* Where the builder is a call's (array.h). */
int pc_build_array(pc_builder *builder, const pycrew_array *array);

/* Hexadecimal digits of either case, '-' first if negative; written as I64 or U64 if it fits. */
int pc_build_bigint(pc_builder *builder, const char *hex, size_t size);

/* The next value is this keyword argument. */
int pc_build_name(pc_builder *builder, const char *name, size_t size);

/* kind: PYCREW_LIST, PYCREW_TUPLE, PYCREW_DICT. */
int pc_build_open(pc_builder *builder, int kind);
int pc_build_close(pc_builder *builder);

#endif
