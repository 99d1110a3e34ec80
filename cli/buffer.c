/* buffer: bytes that grow. */
#include "cli/buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/console.h"

static void *checked(void *memory)
{
    if (memory == NULL)
        die(EXIT_FAILURE, "out of memory");
    return memory;
}

void *allocate(size_t size)
{
    return checked(malloc(size > 0 ? size : 1));
}

void *allocate_zeroed(size_t count, size_t size)
{
    return checked(calloc(count > 0 ? count : 1, size));
}

void *reallocate(void *memory, size_t size)
{
    return checked(realloc(memory, size > 0 ? size : 1));
}

char *copy_bytes(const char *data, size_t size)
{
    char *copy = allocate(size + 1);
    if (size > 0)
        memcpy(copy, data, size);
    copy[size] = '\0';
    return copy;
}

char *buffer_reserve(struct buffer *buffer, size_t more)
{
    if (more > SIZE_MAX / 2 - buffer->size)
        checked(NULL);
    size_t needed = buffer->size + more;
    if (needed > buffer->room || buffer->data == NULL) {
        size_t room = buffer->room * 2 > needed ? buffer->room * 2 : needed;
        buffer->data = reallocate(buffer->data, room);
        buffer->room = room;
    }
    return buffer->data + buffer->size;
}

void buffer_add(struct buffer *buffer, const char *data, size_t size)
{
    char *place = buffer_reserve(buffer, size);
    if (size > 0)
        memcpy(place, data, size);
    buffer->size += size;
}

void buffer_byte(struct buffer *buffer, char byte)
{
    *buffer_reserve(buffer, 1) = byte;
    buffer->size++;
}

void buffer_text(struct buffer *buffer, const char *text)
{
    buffer_add(buffer, text, strlen(text));
}

void buffer_print(struct buffer *buffer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    int size = vasprintf(&text, format, args);
    va_end(args);
    checked(size < 0 ? NULL : text);
    buffer_add(buffer, text, (size_t)size);
    free(text);
}

const char *buffer_string(struct buffer *buffer)
{
    *buffer_reserve(buffer, 1) = '\0';
    return buffer->data;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}
