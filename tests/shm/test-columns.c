/* Columns: which dimensions are joined, where an element is, and copies of a stretch. */
#include "lib/shm/columns.h"
#include "tests/harness/tap.h"

/* Two columns of the shape; the first is C's, the second has these strides. */
static pc_columns *make(int ndim, const int64_t *shape, const int64_t *strides)
{
    static pc_columns columns;

    memset(&columns, 0, sizeof columns);
    columns.count = 2;
    columns.ndim = ndim;
    columns.column[0].itemsize = columns.column[1].itemsize = 4;
    memcpy(columns.shape, shape, (size_t)ndim * sizeof *shape);
    pc_columns_set_contiguous(&columns, &columns.column[0]);
    memcpy(columns.column[1].strides, strides, (size_t)ndim * sizeof *strides);
    return &columns;
}

TEST(dimensions_that_run_on_in_every_column_are_one)
{
    pc_columns *columns = make(4, (int64_t[]){2, 1, 3, 5}, (int64_t[]){15 * 4, 999, 5 * 4, 4});

    pc_columns_merge(columns);
    ASSERT_INT(columns->ndim, 1);
    ASSERT_INT(columns->shape[0], 30);
    ASSERT_INT(pc_columns_step(columns, &columns->column[0]), 4);
    ASSERT_INT(pc_columns_step(columns, &columns->column[1]), 4);
    columns = make(3, (int64_t[]){2, 3, 5}, (int64_t[]){100, 5 * 4, 4});
    pc_columns_merge(columns);
    ASSERT_INT(columns->ndim, 2);
    ASSERT_INT(columns->shape[0], 2);
    ASSERT_INT(columns->shape[1], 15);
    columns = make(2, (int64_t[]){3, 5}, (int64_t[]){0, 0});
    pc_columns_merge(columns);
    ASSERT_INT(columns->ndim, 1);
    columns = make(2, (int64_t[]){1, 1}, (int64_t[]){7, 7});
    pc_columns_merge(columns);
    ASSERT_INT(columns->ndim, 1);
    ASSERT_INT(columns->shape[0], 1);
}

TEST(a_place_goes_on_where_a_row_ends)
{
    int64_t shape[] = {3, 4, 5}, strides[] = {1000, -100, 8};
    pc_columns *columns = make(3, shape, strides);

    for (uint64_t start = 0; start < 60; start++) {
        pc_columns_place place;

        pc_columns_seek(columns, start, &place);
        for (uint64_t i = start; i < 60;
             i += (uint64_t)place.left, pc_columns_next_row(columns, &place)) {
            int64_t at =
                (int64_t)(i / 20) * 1000 - (int64_t)(i / 5 % 4) * 100 + (int64_t)(i % 5) * 8;

            ASSERT_INT((int64_t)pc_columns_at(columns, &columns->column[1], &place), at);
            ASSERT_INT(place.left, 5 - i % 5);
        }
    }
}

TEST(a_stretch_is_copied_from_its_first_element_to_its_last)
{
    int64_t shape[] = {3, 4, 5}, strides[] = {400, -80, 12};
    pc_columns *columns = make(3, shape, strides);
    static uint8_t memory[2000], copy[2000];
    int32_t numbers[60];

    columns->column[1].data = (uintptr_t)memory + 400;
    for (int first = 0; first < 60; first++)
        for (int count = 0; first + count <= 60; count++) {
            for (int i = 0; i < count; i++)
                numbers[i] = first + i;
            memset(memory, 0xff, sizeof memory);
            pc_columns_scatter(columns, &columns->column[1], (uint64_t)first, (uint64_t)count,
                               (const uint8_t *)numbers);
            memset(copy, 0xff, sizeof copy);
            for (int i = first; i < first + count; i++)
                memcpy(copy + 400 + i / 20 * 400 - i / 5 % 4 * 80 + i % 5 * 12, &i, sizeof i);
            ASSERT_MEM(memory, copy, sizeof memory);
            memset(numbers, 0, sizeof numbers);
            pc_columns_gather(columns, &columns->column[1], (uint64_t)first, (uint64_t)count,
                              (uint8_t *)numbers);
            for (int i = 0; i < count; i++)
                ASSERT_INT(numbers[i], first + i);
        }
}

TAP_MAIN
