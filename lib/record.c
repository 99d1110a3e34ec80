/* record: formats that are nothing but numbers. */
#include "lib/record.h"

static enum pc_tag tag_of(char unit)
{
    switch (unit) {
    case 'i':
    case 'L':
    case 'n': return PC_TAG_I64;
    case 'K': return PC_TAG_U64;
    case 'd':
    case 'f': return PC_TAG_F64;
    case 'p': return PC_TAG_BOOL;
    default: return PC_TAG_INVALID;
    }
}

bool pc_record_compile(const char *format, pc_record *ret)
{
    uint64_t shape = 0;
    size_t size = strnlen(format, PC_RECORD_FORMAT_MAX);
    const char *at = format;

    for (; tag_of(*at) != PC_TAG_INVALID && pc_record_length(shape) < PC_RECORD_MAX; at++)
        shape = pc_record_extend(shape, tag_of(*at));
    /* Behind it a result of one number may stand, which concerns nobody here. */
    if (*at == '>' && (at[1] == '\0' || tag_of(at[1]) != PC_TAG_INVALID))
        at += at[1] == '\0' ? 1 : 2;
    if (shape == 0 || *at != '\0' || size == PC_RECORD_FORMAT_MAX)
        return false;
    memcpy(ret->format, format, size + 1);
    ret->shape = shape;
    ret->length = pc_record_length(shape);
    return true;
}
