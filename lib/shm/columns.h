/* columns: elements of several arrays of one shape, walked together in C order.
 *
 * Overview. A column is where an array's first element is, and how far it is from one index to the
 * next, for each dimension. All columns of a set share the dimensions: those of one index are left
 * out, and neighbours that run on as one in every column are one (pc_columns_merge), so that
 * arrays without gaps have a single one. An element's number counts them in C order, the last
 * index running fastest. A place is that number taken apart: the indices, and how many elements
 * follow one another at a column's last stride.
 *
 * data is an address or an offset, modulo 2^64: a column that is there only from some element on
 * is described by where its first one would be. */
#ifndef PC_SHM_COLUMNS_H
#define PC_SHM_COLUMNS_H

#include "lib/shm/array.h"

enum { PC_COLUMNS_MAX = 33 }; /* 32 inputs and the output */

typedef struct pc_column {
    uint64_t data;
    uint32_t dtype, itemsize;
    int64_t strides[PC_ARRAY_DIMS];
} pc_column;

typedef struct pc_columns {
    uint32_t count; /* of the columns; the output is the last one */
    int32_t ndim;   /* at least 1 */
    uint64_t first; /* a chunk's: the number of its first element */
    int64_t shape[PC_ARRAY_DIMS];
    pc_column column[PC_COLUMNS_MAX]; /* in shared memory count of them */
} pc_columns;

typedef struct pc_columns_place {
    int64_t left; /* elements from here to the row's end, this one included */
    int64_t index[PC_ARRAY_DIMS];
} pc_columns_place;

static inline size_t pc_columns_size(unsigned count)
{
    return offsetof(pc_columns, column) + count * sizeof(pc_column);
}

/* Leaves out and joins dimensions. */
void pc_columns_merge(pc_columns *columns);

/* The strides of a column without gaps, of the present shape. */
void pc_columns_set_contiguous(const pc_columns *columns, pc_column *column);

/* The place of an element. */
void pc_columns_seek(const pc_columns *columns, uint64_t number, pc_columns_place *ret);

/* From a row's end to the start of the next row; behind the last one to the first. */
void pc_columns_next_row(const pc_columns *columns, pc_columns_place *place);

/* Where the element is in this column. */
uint64_t pc_columns_at(const pc_columns *columns, const pc_column *column,
                       const pc_columns_place *place);

static inline int64_t pc_columns_step(const pc_columns *columns, const pc_column *column)
{
    return column->strides[columns->ndim - 1];
}

/* Between a column whose data is an address and memory without gaps: count elements from number
 * first on. */
void pc_columns_gather(const pc_columns *columns, const pc_column *column, uint64_t first,
                       uint64_t count, uint8_t *to);
void pc_columns_scatter(const pc_columns *columns, const pc_column *column, uint64_t first,
                        uint64_t count, const uint8_t *from);

#endif
