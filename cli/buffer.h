/* buffer: bytes that grow.
 *
 * A zeroed struct is an empty buffer. Growing doubles, so that adding costs the same on average
 * however much is in. Where memory is out the command ends: there is nothing better to do. */
#ifndef CLI_BUFFER_H
#define CLI_BUFFER_H

#include <stddef.h>

/* Bytes that belong to someone else. */
struct slice {
    const char *data;
    size_t size;
};

struct buffer {
    char *data; /* NULL while nothing was added */
    size_t size, room;
};

/* Makes place for so many bytes more, and returns it. */
char *buffer_reserve(struct buffer *buffer, size_t more);
void buffer_add(struct buffer *buffer, const char *data, size_t size);
void buffer_byte(struct buffer *buffer, char byte);
void buffer_text(struct buffer *buffer, const char *text);
void buffer_print(struct buffer *buffer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void buffer_free(struct buffer *buffer);

/* A NUL behind the last byte, not counted in size, for who needs a C string. */
const char *buffer_string(struct buffer *buffer);

static inline void buffer_clear(struct buffer *buffer)
{
    buffer->size = 0;
}

static inline struct slice buffer_slice(const struct buffer *buffer)
{
    return (struct slice){buffer->data ? buffer->data : "", buffer->size};
}

/* malloc, calloc, realloc and strndup that never return NULL. */
void *allocate(size_t size);
void *allocate_zeroed(size_t count, size_t size);
void *reallocate(void *memory, size_t size);
char *copy_bytes(const char *data, size_t size); /* with a NUL behind them */

#endif
