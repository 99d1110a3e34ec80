/* Descriptions of arrays: what is written is read, what cannot be is refused, and copies between
 * layouts are those that loops over all indices make. */
#include "lib/shm/array.h"

#include "tests/shm/fixture.h"

enum { ROOM = 4096 };

static uint64_t room[ROOM / 8];

static pc_writer writer_new(void)
{
    return (pc_writer){.data = (uint8_t *)room, .capacity = ROOM};
}

static pc_view written(const pc_array *array)
{
    pc_writer writer = writer_new();
    ASSERT_INT(pc_array_write(&writer, array), 0);
    ASSERT_INT(writer.size % 8, 0);
    pc_cursor cursor = {writer.data, writer.data + writer.size};
    pc_view view;
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT(cursor.at == cursor.end);
    ASSERT_INT(view.tag, PC_TAG_ARRAY);
    return view;
}

static pc_array array_of(int ndim, const int64_t *shape)
{
    pc_array array = {
        .base = 4096, .cell = 8192, .data = 4096, .dtype = PC_DTYPE_F64, .itemsize = 8};

    array.ndim = ndim;
    for (int i = 0; i < ndim; i++)
        array.shape[i] = shape[i];
    ASSERT_INT(pc_array_set_strides(&array, false), PC_ARRAY_GOOD);
    return array;
}

#define ARRAY(...)                                                                                 \
    array_of(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__})

TEST(what_was_written_is_read)
{
    uint64_t state = 1;

    for (int round = 0; round < 20000; round++) {
        pc_array array = {.cell = random_below(&state, 1 << 20) * 8}, read;
        array.dtype = (uint8_t)(1 + random_below(&state, PC_DTYPE_OTHER));
        array.itemsize = array.dtype == PC_DTYPE_OTHER ? (uint32_t)random_below(&state, 20)
                                                       : pc_dtype_size(array.dtype);
        array.ndim = (int)random_below(&state, PC_ARRAY_DIMS + 1);
        for (int i = 0; i < array.ndim; i++)
            array.shape[i] = (int64_t)random_below(&state, random_below(&state, 30) == 0 ? 3 : 2) +
                             (round % 3 > 0);
        array.format = "[('x', '<i4')]...";
        array.format_size = array.dtype == PC_DTYPE_OTHER ? 1 + random_below(&state, 17) : 0;
        ASSERT_INT(pc_array_set_strides(&array, random_below(&state, 2)), PC_ARRAY_GOOD);
        for (int i = 0; round % 2 && i < array.ndim; i++)
            array.strides[i] = (int64_t)random_below(&state, 100000) - 50000;
        ASSERT_INT(pc_array_measure(&array), PC_ARRAY_GOOD);
        array.base = 1 << 20;
        array.data = array.base + (round % 4 ? random_below(&state, 100000) : 0);
        array.writable = random_below(&state, 2);

        pc_view view = written(&array);
        ASSERT_INT(pc_array_read(&view, &read), 0);
        ASSERT_INT(read.base, array.base);
        ASSERT_INT(read.cell, array.cell);
        ASSERT_INT(read.data, array.data);
        ASSERT_INT(read.dtype, array.dtype);
        ASSERT_INT(read.itemsize, array.itemsize);
        ASSERT_INT(read.writable, array.writable);
        ASSERT_INT(read.ndim, array.ndim);
        ASSERT_INT(read.bytes, array.bytes);
        ASSERT_INT(read.low, array.low);
        ASSERT_INT(read.high, array.high);
        ASSERT_MEM(read.shape, array.shape, (size_t)array.ndim * 8);
        if (array.bytes > 0 && !pc_array_is_contiguous(&array, false))
            ASSERT_MEM(read.strides, array.strides, (size_t)array.ndim * 8);
        ASSERT_INT(read.format_size, array.format_size);
        if (array.format_size > 0)
            ASSERT_MEM(read.format, array.format, array.format_size);
    }
}

TEST(two_plain_arrays_fit_the_arguments_of_a_slot)
{
    pc_writer writer = writer_new();
    pc_array array = ARRAY(1000);

    ASSERT_INT(pc_array_write(&writer, &array), 0);
    ASSERT_INT(writer.size, 40);
}

TEST(a_description_that_is_cut_or_changed_is_refused_or_harmless)
{
    pc_array array = ARRAY(3, 4, 5), read;
    array.strides[1] = -400;
    array.data += 1000;
    array.dtype = PC_DTYPE_OTHER;
    array.format = "<M8[ns]";
    array.format_size = 7;
    pc_view view = written(&array);
    size_t size = (size_t)view.length;
    uint8_t good[ROOM];

    memcpy(good, view.data, size);
    for (size_t length = 0; length < size; length++) {
        view.length = length;
        ASSERT_INT(pc_array_read(&view, &read), -EBADMSG);
    }
    view.length = size;
    for (size_t at = 0; at < size; at++)
        for (int bit = 0; bit < 8; bit++) {
            ((uint8_t *)(uintptr_t)view.data)[at] ^= (uint8_t)(1 << bit);
            if (pc_array_read(&view, &read) == 0) {
                ASSERT(read.ndim <= PC_ARRAY_DIMS && read.low <= 0 && read.high >= 0);
                ASSERT(read.format_size <= 7);
            }
            memcpy((void *)(uintptr_t)view.data, good, size);
        }
    ASSERT_INT(pc_array_read(&view, &read), 0);
}

TEST(what_overflows_is_refused)
{
    pc_array array = {.itemsize = 8, .ndim = 2, .shape = {INT64_C(1) << 31, INT64_C(1) << 31}};

    ASSERT_INT(pc_array_set_strides(&array, false), PC_ARRAY_TOO_LARGE);
    array.shape[0] = 0; /* none of them: nothing is too large */
    ASSERT_INT(pc_array_set_strides(&array, false), PC_ARRAY_GOOD);
    ASSERT_INT(array.bytes, 0);
    array.shape[0] = INT64_MAX;
    array.shape[1] = 1;
    array.itemsize = 1;
    ASSERT_INT(pc_array_set_strides(&array, false), PC_ARRAY_GOOD);
    array.strides[0] = 2;
    ASSERT_INT(pc_array_measure(&array), PC_ARRAY_TOO_WIDE);
    array.shape[0] = 2;
    array.strides[0] = INT64_MIN;
    ASSERT_INT(pc_array_measure(&array), PC_ARRAY_GOOD);
    array.shape[0] = 3;
    ASSERT_INT(pc_array_measure(&array), PC_ARRAY_TOO_WIDE);
    array.shape[0] = -1;
    ASSERT_INT(pc_array_measure(&array), PC_ARRAY_BAD_SHAPE);
    array.ndim = 33;
    ASSERT_INT(pc_array_measure(&array), PC_ARRAY_BAD_DIMS);
}

TEST(layouts_are_recognized)
{
    pc_array array = ARRAY(3, 4);

    ASSERT(pc_array_is_contiguous(&array, false) && !pc_array_is_contiguous(&array, true));
    ASSERT_INT(pc_array_set_strides(&array, true), PC_ARRAY_GOOD);
    ASSERT(!pc_array_is_contiguous(&array, false) && pc_array_is_contiguous(&array, true));
    array = ARRAY(1, 4, 1);
    array.strides[0] = 77;
    array.strides[2] = -3;
    ASSERT(pc_array_is_contiguous(&array, false) && pc_array_is_contiguous(&array, true));
    ASSERT(!pc_array_repeats(&array));
    array.strides[1] = 0;
    ASSERT(pc_array_repeats(&array) && !pc_array_is_contiguous(&array, false));
    array = ARRAY(0, 5);
    array.strides[1] = 3;
    ASSERT(pc_array_is_contiguous(&array, false));
}

/* Where the element with this number (the last index running fastest) stands. */
static int64_t place(const pc_array *array, const int64_t *strides, int64_t number)
{
    int64_t at = 0;

    for (int i = array->ndim - 1; i >= 0; i--) {
        at += number % array->shape[i] * strides[i];
        number /= array->shape[i];
    }
    return at;
}

/* Strides of a random order of dimensions, some of them negative, with gaps; sets low and high. */
static void random_layout(pc_array *array, uint64_t *state)
{
    int order[PC_ARRAY_DIMS];
    int64_t stride = array->itemsize;

    for (int i = 0; i < array->ndim; i++) {
        int other = (int)random_below(state, (uint64_t)i + 1);
        order[i] = order[other];
        order[other] = i;
    }
    for (int i = 0; i < array->ndim; i++) {
        int at = order[i];
        stride += (int64_t)random_below(state, 2) * array->itemsize;
        array->strides[at] = random_below(state, 3) == 0 ? -stride : stride;
        stride *= array->shape[at];
    }
    ASSERT_INT(pc_array_measure(array), PC_ARRAY_GOOD);
}

TEST(copies_between_layouts_are_right)
{
    static const uint32_t sizes[] = {1, 2, 3, 4, 8, 16};
    enum { MOST = 1 << 20 };
    uint8_t *from = malloc(MOST), *to = malloc(MOST), *expected = malloc(MOST);
    uint64_t state = 7;

    for (int round = 0; round < 3000; round++) {
        pc_array source = {.ndim = (int)random_below(&state, 5)}, target;
        int64_t count = 1;
        source.itemsize = sizes[random_below(&state, sizeof sizes / sizeof *sizes)];
        for (int i = 0; i < source.ndim; i++)
            count *= source.shape[i] = (int64_t)random_below(&state, 5) + (round % 10 > 0);
        target = source;
        random_layout(&source, &state);
        if (round % 2)
            random_layout(&target, &state);
        else
            ASSERT_INT(pc_array_set_strides(&target, round % 4 == 0), PC_ARRAY_GOOD);
        ASSERT(source.high - source.low < MOST && target.high - target.low < MOST);
        for (int64_t i = 0; i < source.high - source.low; i++)
            from[i] = (uint8_t)random_next(&state);
        memset(to, 0x55, (size_t)(target.high - target.low));
        memset(expected, 0x55, (size_t)(target.high - target.low));
        for (int64_t i = 0; i < count; i++)
            memcpy(expected - target.low + place(&target, target.strides, i),
                   from - source.low + place(&source, source.strides, i), source.itemsize);
        pc_array_copy(&source, to - target.low, target.strides, from - source.low, source.strides);
        ASSERT_MEM(to, expected, (size_t)(target.high - target.low));
    }
    free(from);
    free(to);
    free(expected);
}

/* ---- with the elements ---- */

static pc_view written_whole(const pc_array *array)
{
    pc_writer writer = writer_new();
    void *elements;
    pc_cursor cursor;
    pc_view view;

    ASSERT_INT(pc_array_write_whole(&writer, array, &elements), 0);
    memset(elements, 0x5a, array->bytes);
    cursor = (pc_cursor){writer.data, writer.data + writer.size};
    ASSERT_INT(pc_value_next(&cursor, &view), 1);
    ASSERT(elements == view.data);
    return view;
}

TEST(an_array_with_its_elements_is_read_in_its_place)
{
    for (int ndim = 0; ndim <= 3; ndim++)
        for (int fortran = 0; fortran < 2; fortran++) {
            pc_array array = array_of(ndim, (int64_t[]){3, 5, 7}), back;
            const void *elements = NULL;
            pc_view view;

            ASSERT_INT(pc_array_set_strides(&array, fortran), PC_ARRAY_GOOD);
            view = written_whole(&array);
            ASSERT_INT(pc_array_read_whole(&view, &back, &elements), 0);
            ASSERT(elements == view.data);
            ASSERT_INT(back.ndim, ndim);
            ASSERT_INT(back.bytes, array.bytes);
            ASSERT_MEM(back.shape, array.shape, (size_t)ndim * sizeof back.shape[0]);
            ASSERT_MEM(back.strides, array.strides, (size_t)ndim * sizeof back.strides[0]);
            ASSERT(!back.writable);
        }
}

TEST(an_array_with_its_elements_and_one_without_are_not_taken_for_each_other)
{
    pc_array array = array_of(2, (int64_t[]){3, 5}), back;
    const void *elements;
    pc_view view = written_whole(&array);

    ASSERT_INT(pc_array_read(&view, &back), -EBADMSG);
    view = written(&array);
    ASSERT_INT(pc_array_read_whole(&view, &back, &elements), -EBADMSG);
}

/* Whatever stands there: what is read as an array has its elements inside of the value. */
TEST(a_scribbled_array_with_its_elements_is_read_inside_of_it_or_not_at_all)
{
    uint64_t state = 1;
    unsigned read = 0;

    for (int round = 0; round < 20000; round++) {
        pc_array array = array_of((int)random_below(&state, 3), (int64_t[]){3, 5}), back;
        const void *elements;
        pc_view view = written_whole(&array);
        uint8_t *bytes = (uint8_t *)(uintptr_t)view.data;

        if (round % 3 == 0)
            view.length = random_below(&state, view.length + 1);
        else if (view.length > 0)
            for (uint64_t i = 0; i <= random_below(&state, 3); i++)
                bytes[view.length - 1 - random_below(&state, view.length < 64 ? view.length : 64)] =
                    (uint8_t)random_next(&state);
        if (pc_array_read_whole(&view, &back, &elements) < 0)
            continue;
        read++;
        ASSERT(elements == view.data && back.low == 0 && back.high >= 0);
        ASSERT((uint64_t)back.high <= view.length && back.bytes <= view.length);
    }
    ASSERT(read > 0);
}

TAP_MAIN
