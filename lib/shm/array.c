/* array: descriptions of arrays, and copies between layouts. */
#include "lib/shm/array.h"

#include <assert.h>

enum { HAS_OFFSET = 1, HAS_STRIDES = 2, IS_WRITABLE = 4, ALL_FLAGS = 7 };
#define TAIL ((size_t)7) /* bytes behind the words */

uint32_t pc_dtype_size(unsigned dtype)
{
    static const uint8_t sizes[PC_DTYPE_COUNT] = {
        [PC_DTYPE_BOOL] = 1, [PC_DTYPE_I8] = 1,   [PC_DTYPE_I16] = 2, [PC_DTYPE_I32] = 4,
        [PC_DTYPE_I64] = 8,  [PC_DTYPE_U8] = 1,   [PC_DTYPE_U16] = 2, [PC_DTYPE_U32] = 4,
        [PC_DTYPE_U64] = 8,  [PC_DTYPE_F16] = 2,  [PC_DTYPE_F32] = 4, [PC_DTYPE_F64] = 8,
        [PC_DTYPE_C64] = 8,  [PC_DTYPE_C128] = 16};

    return dtype < PC_DTYPE_COUNT ? sizes[dtype] : 0;
}

/* ---- measuring ---- */

static enum pc_array_fault count_bytes(pc_array *array)
{
    int64_t bytes = array->itemsize;
    bool empty = array->itemsize == 0;

    if (array->ndim < 0 || array->ndim > PC_ARRAY_DIMS)
        return PC_ARRAY_BAD_DIMS;
    for (int i = 0; i < array->ndim; i++) {
        if (array->shape[i] < 0)
            return PC_ARRAY_BAD_SHAPE;
        empty |= array->shape[i] == 0;
    }
    for (int i = 0; i < array->ndim && !empty; i++)
        if (__builtin_mul_overflow(bytes, array->shape[i], &bytes))
            return PC_ARRAY_TOO_LARGE;
    array->bytes = empty ? 0 : (uint64_t)bytes;
    return PC_ARRAY_GOOD;
}

enum pc_array_fault pc_array_measure(pc_array *array)
{
    enum pc_array_fault fault = count_bytes(array);

    array->low = array->high = 0;
    if (fault != PC_ARRAY_GOOD || array->bytes == 0)
        return fault;
    array->high = array->itemsize;
    for (int i = 0; i < array->ndim; i++) {
        int64_t reach;

        if (__builtin_mul_overflow(array->shape[i] - 1, array->strides[i], &reach) ||
            __builtin_add_overflow(reach < 0 ? array->low : array->high, reach,
                                   reach < 0 ? &array->low : &array->high))
            return PC_ARRAY_TOO_WIDE;
    }
    return PC_ARRAY_GOOD;
}

enum pc_array_fault pc_array_set_strides(pc_array *array, bool fortran)
{
    enum pc_array_fault fault = count_bytes(array);
    int64_t stride = array->itemsize;

    if (fault != PC_ARRAY_GOOD)
        return fault;
    for (int i = 0; i < array->ndim; i++) {
        int at = fortran ? i : array->ndim - 1 - i;

        array->strides[at] = stride;
        if (array->bytes > 0)
            stride *= array->shape[at];
    }
    return pc_array_measure(array);
}

bool pc_array_is_contiguous(const pc_array *array, bool fortran)
{
    int64_t stride = array->itemsize;

    for (int i = 0; i < array->ndim && array->bytes > 0; i++) {
        int at = fortran ? i : array->ndim - 1 - i;

        if (array->shape[at] == 1)
            continue;
        if (array->strides[at] != stride)
            return false;
        stride *= array->shape[at];
    }
    return true;
}

bool pc_array_repeats(const pc_array *array)
{
    for (int i = 0; i < array->ndim && array->bytes > 0; i++)
        if (array->shape[i] > 1 && array->strides[i] == 0)
            return true;
    return false;
}

/* ---- copying ---- */

static void copy_row(uint8_t *to, int64_t to_stride, const uint8_t *from, int64_t from_stride,
                     int64_t count, uint32_t size)
{
    if (to_stride == (int64_t)size && from_stride == (int64_t)size) {
        memcpy(to, from, (size_t)count * size);
        return;
    }
    for (int64_t i = 0; i < count; i++, to += to_stride, from += from_stride)
        switch (size) {
        case 1:
            *to = *from;
            break;
        case 2:
            memcpy(to, from, 2);
            break;
        case 4:
            memcpy(to, from, 4);
            break;
        case 8:
            memcpy(to, from, 8);
            break;
        default:
            memcpy(to, from, size);
            break;
        }
}

/* Dimensions of more than one index, the outermost first; those that run on as one are one. */
typedef struct pc_loops {
    int count;
    int64_t length[PC_ARRAY_DIMS], to[PC_ARRAY_DIMS], from[PC_ARRAY_DIMS];
} pc_loops;

static void add_loop(pc_loops *loops, int64_t length, int64_t to, int64_t from)
{
    int last = loops->count - 1;

    if (last >= 0 && loops->to[last] == length * to && loops->from[last] == length * from) {
        loops->length[last] *= length;
    } else {
        last = loops->count++;
        loops->length[last] = length;
    }
    loops->to[last] = to;
    loops->from[last] = from;
}

/* At which dimension goes next, the widest steps of the destination first: so that what is copied
 * between two layouts of the same order is copied in that order. */
static int widest(const pc_array *array, const int64_t *strides, uint32_t done)
{
    int best = -1;

    for (int i = 0; i < array->ndim; i++) {
        int64_t width = strides[i] < 0 ? -strides[i] : strides[i];

        if (done >> i & 1)
            continue;
        if (best < 0 || width > (strides[best] < 0 ? -strides[best] : strides[best]))
            best = i;
    }
    return best;
}

static void find_loops(const pc_array *array, const int64_t *to_strides,
                       const int64_t *from_strides, pc_loops *loops)
{
    uint32_t done = 0;

    loops->count = 0;
    for (int i = 0; i < array->ndim; i++) {
        int at = widest(array, to_strides, done);

        done |= UINT32_C(1) << at;
        if (array->shape[at] != 1)
            add_loop(loops, array->shape[at], to_strides[at], from_strides[at]);
    }
    if (loops->count == 0)
        add_loop(loops, 1, array->itemsize, array->itemsize);
}

void pc_array_copy(const pc_array *array, uint8_t *to, const int64_t *to_strides,
                   const uint8_t *from, const int64_t *from_strides)
{
    int64_t index[PC_ARRAY_DIMS] = {0};
    pc_loops loops;
    int row;

    if (array->bytes == 0)
        return;
    find_loops(array, to_strides, from_strides, &loops);
    row = loops.count - 1;
    for (;;) {
        int at = row - 1;

        copy_row(to, loops.to[row], from, loops.from[row], loops.length[row], array->itemsize);
        for (; at >= 0; at--) {
            to += loops.to[at];
            from += loops.from[at];
            if (++index[at] < loops.length[at])
                break;
            to -= loops.to[at] * loops.length[at];
            from -= loops.from[at] * loops.length[at];
            index[at] = 0;
        }
        if (at < 0)
            return;
    }
}

/* ---- as a value ---- */

static uint8_t *put_word(uint8_t *to, uint64_t word)
{
    memcpy(to, &word, sizeof word);
    return to + sizeof word;
}

static uint8_t *put_words(uint8_t *to, const int64_t *words, int count)
{
    for (int i = 0; i < count; i++)
        to = put_word(to, (uint64_t)words[i]);
    return to;
}

static size_t format_bytes(const pc_array *array)
{
    return array->dtype == PC_DTYPE_OTHER ? pc_align8(array->format_size + 1) : 0;
}

static unsigned flags_of(const pc_array *array)
{
    return (array->data != array->base ? HAS_OFFSET : 0u) |
           (pc_array_is_contiguous(array, false) ? 0u : HAS_STRIDES) |
           (array->writable ? IS_WRITABLE : 0u);
}

static size_t words_of(unsigned flags, int ndim)
{
    size_t per_dimension = flags & HAS_STRIDES ? 2 : 1;

    return 2 + (flags & HAS_OFFSET ? 1u : 0u) + (size_t)ndim * per_dimension;
}

static size_t description_bytes(const pc_array *array)
{
    return 8 * words_of(flags_of(array), array->ndim) + format_bytes(array) + TAIL;
}

static void put_description(uint8_t *to, const pc_array *array)
{
    unsigned flags = flags_of(array);
    size_t format = format_bytes(array);

    to = put_word(put_word(to, array->base), array->cell);
    if (flags & HAS_OFFSET)
        to = put_word(to, array->data - array->base);
    to = put_words(to, array->shape, array->ndim);
    if (flags & HAS_STRIDES)
        to = put_words(to, array->strides, array->ndim);
    if (format > 0) {
        memset(to, 0, format);
        memcpy(to, array->format, array->format_size);
        to += format;
    }
    to[0] = array->dtype;
    to[1] = (uint8_t)array->ndim;
    to[2] = (uint8_t)flags;
    memcpy(to + 3, &array->itemsize, sizeof array->itemsize);
}

int pc_array_write(pc_writer *writer, const pc_array *array)
{
    void *space;
    int r = pc_write_space(writer, PC_TAG_ARRAY, description_bytes(array), &space);

    if (r == 0)
        put_description(space, array);
    return r;
}

#define NOWHERE UINT64_C(1) /* as base: of no block */

int pc_array_write_whole(pc_writer *writer, const pc_array *array, void **ret)
{
    pc_array whole = *array;
    size_t elements = pc_align8(array->bytes);
    int r;

    whole.base = whole.data = NOWHERE;
    whole.cell = 0;
    whole.writable = false;
    r = pc_write_space(writer, PC_TAG_ARRAY, elements + description_bytes(&whole), ret);
    if (r == 0)
        put_description((uint8_t *)*ret + elements, &whole);
    return r;
}

static const uint8_t *get_words(const uint8_t *from, int64_t *words, int count)
{
    for (int i = 0; i < count; i++, from += 8)
        words[i] = (int64_t)pc_word_load(from);
    return from;
}

/* size: of the format. Its NULs are looked for once more by who copies it. */
static int get_format(const uint8_t *from, size_t size, pc_array *ret)
{
    if (ret->dtype != PC_DTYPE_OTHER)
        return size == 0 ? 0 : -EBADMSG;
    ret->format = (const char *)from;
    ret->format_size = strnlen(ret->format, size);
    return ret->format_size > 0 && size - ret->format_size >= 1 && size - ret->format_size <= 8 &&
                   size <= PC_ARRAY_FORMAT_MAX
               ? 0
               : -EBADMSG;
}

static int check(pc_array *array, uint64_t offset)
{
    if (array->dtype == 0 || array->dtype >= PC_DTYPE_COUNT || array->itemsize > INT32_MAX ||
        (array->dtype != PC_DTYPE_OTHER && array->itemsize != pc_dtype_size(array->dtype)) ||
        pc_array_measure(array) != PC_ARRAY_GOOD ||
        __builtin_add_overflow(array->base, offset, &array->data) || array->data > INT64_MAX ||
        (array->base == 0 && array->bytes > 0))
        return -EBADMSG;
    return 0;
}

int pc_array_read(const pc_view *view, pc_array *ret)
{
    const uint8_t *from = (const uint8_t *)view->data, *tail;
    uint64_t offset = 0;
    unsigned flags;
    size_t words;

    if (view->tag != PC_TAG_ARRAY || view->length % 8 != TAIL)
        return -EBADMSG;
    tail = from + view->length - TAIL;
    ret->dtype = __atomic_load_n(tail, __ATOMIC_RELAXED);
    ret->ndim = __atomic_load_n(tail + 1, __ATOMIC_RELAXED);
    flags = __atomic_load_n(tail + 2, __ATOMIC_RELAXED);
    memcpy(&ret->itemsize, tail + 3, sizeof ret->itemsize);
    if (ret->ndim > PC_ARRAY_DIMS || (flags & ~(unsigned)ALL_FLAGS) != 0)
        return -EBADMSG;
    words = words_of(flags, ret->ndim);
    if (view->length / 8 < words)
        return -EBADMSG;
    ret->writable = (flags & IS_WRITABLE) != 0;
    ret->format = NULL;
    ret->format_size = 0;
    ret->base = pc_word_load(from);
    ret->cell = pc_word_load(from + 8);
    from += 16;
    if (flags & HAS_OFFSET) {
        offset = pc_word_load(from);
        from += 8;
    }
    from = get_words(from, ret->shape, ret->ndim);
    if (flags & HAS_STRIDES)
        from = get_words(from, ret->strides, ret->ndim);
    else if (pc_array_set_strides(ret, false) != PC_ARRAY_GOOD)
        return -EBADMSG;
    if (get_format(from, (size_t)(tail - from), ret) < 0)
        return -EBADMSG;
    return check(ret, offset);
}

int pc_array_read_whole(const pc_view *view, pc_array *ret, const void **ret_elements)
{
    const uint8_t *tail = (const uint8_t *)view->data + view->length - TAIL;
    pc_view description = *view;
    size_t size;

    if (view->tag != PC_TAG_ARRAY || view->length < TAIL)
        return -EBADMSG;
    size = 8 * words_of(__atomic_load_n(tail + 2, __ATOMIC_RELAXED) & ALL_FLAGS,
                        __atomic_load_n(tail + 1, __ATOMIC_RELAXED)) + TAIL;
    if (view->length < size)
        return -EBADMSG;
    description.data += view->length - size;
    description.length = size;
    if (pc_array_read(&description, ret) < 0 || ret->dtype == PC_DTYPE_OTHER ||
        ret->low != 0 || ret->bytes > view->length - size || (uint64_t)ret->high > ret->bytes)
        return -EBADMSG;
    *ret_elements = view->data;
    return 0;
}
