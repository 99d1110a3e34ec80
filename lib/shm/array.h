/* array: how an array is described in a message, and the arithmetic of shapes and strides.
 *
 * Overview. An array is a description, as DLPack's tensor is one: element type, shape, strides in
 * bytes, and where in the segment the first element stands. The elements stay where they are. In a
 * message it is a value of tag ARRAY, whose bytes are:
 *
 *   base       of the block that the elements are in; 0: there are no elements
 *   cell       8 bytes that go with the block, see below; 0: none
 *   [offset]   from base to the first element, unless 0
 *   shape      a word for each dimension
 *   [strides]  the same, unless they are C's
 *   [format]   numpy's text for the type, where that is PC_DTYPE_OTHER, with NULs to a multiple of
 * 8 dtype (1 byte), ndim (1), which of the [] there are (1), itemsize (4)
 *
 * The cell of an argument belongs to the host: a 32-bit word for each worker, its incarnation while
 * Python in that worker still has a view of the block though the call has ended, else 0 or what a
 * dead incarnation left. The cell of a result is
 * its worker's: it is what the host gives back, since the block's own bytes may still be looked at.
 *
 * Why it is correct. The reader copies the description once into a pc_array and checks it there:
 * sizes against the value's length, and that neither the elements' number, nor their bytes, nor the
 * place of any of them overflows. What it cannot know is which block base is: whoever goes to the
 * elements compares [low, high) with what he knows of the block himself. */
#ifndef PC_SHM_ARRAY_H
#define PC_SHM_ARRAY_H

#include "lib/shm/value.h"

enum { PC_ARRAY_DIMS = 32, PC_ARRAY_FORMAT_MAX = 1 << 16 };

/* As PYCREW_BOOL and so on in pycrew.h. */
enum pc_dtype {
    PC_DTYPE_BOOL = 1,
    PC_DTYPE_I8,
    PC_DTYPE_I16,
    PC_DTYPE_I32,
    PC_DTYPE_I64,
    PC_DTYPE_U8,
    PC_DTYPE_U16,
    PC_DTYPE_U32,
    PC_DTYPE_U64,
    PC_DTYPE_F16,
    PC_DTYPE_F32,
    PC_DTYPE_F64,
    PC_DTYPE_C64,
    PC_DTYPE_C128,
    PC_DTYPE_OTHER,
    PC_DTYPE_COUNT
};

/* Bytes of an element; 0 for OTHER and what is none. */
uint32_t pc_dtype_size(unsigned dtype);

typedef struct pc_array {
    uint64_t base, cell; /* segment offsets */
    uint64_t data;       /* of the first element */
    uint32_t itemsize;
    uint8_t dtype;
    bool writable;
    int ndim;
    int64_t shape[PC_ARRAY_DIMS], strides[PC_ARRAY_DIMS];
    const char *format; /* for OTHER: format_size bytes, then NULs; of a pc_array that was read it
                           points into the message, so to be copied before it is believed */
    size_t format_size;
    uint64_t bytes;    /* of all elements */
    int64_t low, high; /* they are in [data + low, data + high) */
} pc_array;

enum pc_array_fault {
    PC_ARRAY_GOOD = 0,
    PC_ARRAY_BAD_DIMS,  /* ndim is not 0 to 32 */
    PC_ARRAY_BAD_SHAPE, /* a dimension is negative */
    PC_ARRAY_TOO_LARGE, /* the elements' bytes exceed 2^63 - 1 */
    PC_ARRAY_TOO_WIDE   /* the strides lead further than 2^63 - 1 */
};

/* Sets bytes, low and high from shape, strides and itemsize. */
enum pc_array_fault pc_array_measure(pc_array *array);

/* Strides of elements that stand without gaps, the last index running fastest; fortran: the first.
 */
enum pc_array_fault pc_array_set_strides(pc_array *array, bool fortran);

/* Whether they stand so; a measured array. With no or one element they do either way. */
bool pc_array_is_contiguous(const pc_array *array, bool fortran);

/* Whether two indices lead to the same place for sure, by a stride of 0. */
bool pc_array_repeats(const pc_array *array);

/* Copies the elements of a measured array; both sides have its shape, each its own strides. */
void pc_array_copy(const pc_array *array, uint8_t *to, const int64_t *to_strides,
                   const uint8_t *from, const int64_t *from_strides);

/* Writes a measured array as one value: 0, or as pc_write_data. */
int pc_array_write(pc_writer *writer, const pc_array *array);

/* Reads and measures it: 0 or -EBADMSG. */
int pc_array_read(const pc_view *view, pc_array *ret);

/* The same with the elements in the value, before the description: for a message that is alone in its memory. A
 * measured array whose elements stand without gaps, of a type that has no text; the caller fills in array->bytes at
 * *ret. Such a value is none to pc_array_read, and the other way round. */
int pc_array_write_whole(pc_writer *writer, const pc_array *array, void **ret);
int pc_array_read_whole(const pc_view *view, pc_array *ret, const void **ret_elements);

#endif
