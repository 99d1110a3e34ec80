/* record: a batch's item that is nothing but numbers, and travels as a word for each.
 *
 * Overview. Most batches add item after item by the same short format, "LL" say. It is read once;
 * what is left to do for an item is to compare the format's text (the caller may have changed it in
 * place) and to store its numbers, without headers: their types stand once in the chunk (chunk.h,
 * shape). That takes a third of the time and less than half of the memory.
 *
 * Usage. pc_record_compile, when a format is not the last one's; then pc_record_matches and
 * pc_record_store. */
#ifndef PC_RECORD_H
#define PC_RECORD_H

#include <stdarg.h>
#include <string.h>

#include "lib/shm/chunk.h"

enum { PC_RECORD_FORMAT_MAX = 24 };

typedef struct pc_record {
    char format[PC_RECORD_FORMAT_MAX]; /* "": none */
    uint64_t shape;                    /* chunk.h */
    unsigned length;                   /* numbers, and so words */
} pc_record;

/* False: this format says something else than numbers, or something wrong (format.h knows what). */
bool pc_record_compile(const char *format, pc_record *ret);

static inline bool pc_record_matches(const pc_record *record, const char *format)
{
    for (const char *at = record->format; *at == *format; at++, format++)
        if (*at == '\0')
            return true;
    return false;
}

static inline uint64_t pc_record_f64(double value)
{
    uint64_t word;

    memcpy(&word, &value, sizeof word);
    return word;
}

/* to: room for length words. */
static inline void pc_record_store(const pc_record *record, uint64_t *to, va_list *arguments)
{
    for (unsigned i = 0; i < record->length; i++)
        switch (record->format[i]) {
        case 'i': to[i] = (uint64_t)(int64_t)va_arg(*arguments, int); break;
        case 'd':
        case 'f': to[i] = pc_record_f64(va_arg(*arguments, double)); break;
        case 'p': to[i] = va_arg(*arguments, int) != 0; break;
        default: to[i] = va_arg(*arguments, uint64_t); break; /* L, K, n */
        }
}

#endif
