/* columns: elements of several arrays of one shape, walked together in C order. */
#include "lib/shm/columns.h"

#include <string.h>

/* ---- dimensions ---- */

/* Whether in each column dimension `inner` runs on where `outer` takes its next step. */
static bool runs_on(const pc_columns *columns, int outer, int inner)
{
    for (unsigned i = 0; i < columns->count; i++) {
        const int64_t *strides = columns->column[i].strides;
        int64_t reach;

        if (__builtin_mul_overflow(strides[inner], columns->shape[inner], &reach) ||
            strides[outer] != reach)
            return false;
    }
    return true;
}

static void move_dimension(pc_columns *columns, int to, int from)
{
    columns->shape[to] = columns->shape[from];
    for (unsigned i = 0; i < columns->count; i++)
        columns->column[i].strides[to] = columns->column[i].strides[from];
}

void pc_columns_merge(pc_columns *columns)
{
    int kept = 0;

    for (int i = 0; i < columns->ndim; i++) {
        if (columns->shape[i] == 1)
            continue;
        if (kept > 0 && runs_on(columns, kept - 1, i)) {
            int64_t length = columns->shape[kept - 1];

            move_dimension(columns, kept - 1, i);
            columns->shape[kept - 1] *= length;
        } else {
            move_dimension(columns, kept++, i);
        }
    }
    if (kept == 0) {
        columns->shape[0] = 1;
        for (unsigned i = 0; i < columns->count; i++)
            columns->column[i].strides[0] = columns->column[i].itemsize;
        kept = 1;
    }
    columns->ndim = kept;
}

void pc_columns_set_contiguous(const pc_columns *columns, pc_column *column)
{
    int64_t stride = column->itemsize;

    for (int i = columns->ndim - 1; i >= 0; i--) {
        column->strides[i] = stride;
        stride *= columns->shape[i];
    }
}

/* ---- places ---- */

void pc_columns_seek(const pc_columns *columns, uint64_t number, pc_columns_place *ret)
{
    for (int i = columns->ndim - 1; i >= 0; i--) {
        uint64_t length = (uint64_t)columns->shape[i];

        ret->index[i] = (int64_t)(i > 0 ? number % length : number);
        number = i > 0 ? number / length : 0;
    }
    ret->left = columns->shape[columns->ndim - 1] - ret->index[columns->ndim - 1];
}

void pc_columns_next_row(const pc_columns *columns, pc_columns_place *place)
{
    int row = columns->ndim - 1;

    place->index[row] = 0;
    place->left = columns->shape[row];
    for (int i = row - 1; i >= 0; i--) {
        if (++place->index[i] < columns->shape[i])
            return;
        place->index[i] = 0;
    }
}

uint64_t pc_columns_at(const pc_columns *columns, const pc_column *column,
                       const pc_columns_place *place)
{
    uint64_t at = column->data;

    for (int i = 0; i < columns->ndim; i++)
        at += (uint64_t)place->index[i] * (uint64_t)column->strides[i];
    return at;
}

/* ---- copies ---- */

static void copy_row(uint8_t *to, int64_t to_step, const uint8_t *from, int64_t from_step,
                     uint64_t count, uint32_t size)
{
    if (to_step == (int64_t)size && from_step == (int64_t)size) {
        memcpy(to, from, count * size);
        return;
    }
    for (uint64_t i = 0; i < count; i++, to += to_step, from += from_step)
        if (size == 8)
            memcpy(to, from, 8);
        else
            memcpy(to, from, size);
}

static uint8_t *address(uint64_t at)
{
    return (uint8_t *)(uintptr_t)at;
}

/* One of to and from is NULL: there the column itself stands. */
static void copy(const pc_columns *columns, const pc_column *column, uint64_t first, uint64_t count,
                 uint8_t *to, const uint8_t *from)
{
    int64_t step = pc_columns_step(columns, column), size = column->itemsize;
    pc_columns_place place;

    pc_columns_seek(columns, first, &place);
    while (count > 0) {
        uint64_t length = (uint64_t)place.left < count ? (uint64_t)place.left : count;
        uint8_t *at = address(pc_columns_at(columns, column, &place));

        if (to != NULL) {
            copy_row(to, size, at, step, length, column->itemsize);
            to += length * column->itemsize;
        } else {
            copy_row(at, step, from, size, length, column->itemsize);
            from += length * column->itemsize;
        }
        count -= length;
        pc_columns_next_row(columns, &place);
    }
}

void pc_columns_gather(const pc_columns *columns, const pc_column *column, uint64_t first,
                       uint64_t count, uint8_t *to)
{
    copy(columns, column, first, count, to, NULL);
}

void pc_columns_scatter(const pc_columns *columns, const pc_column *column, uint64_t first,
                        uint64_t count, const uint8_t *from)
{
    copy(columns, column, first, count, NULL, from);
}
