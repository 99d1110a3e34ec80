/* Which arrays of a call share elements: never said to be apart where they share one, and said to
 * be where people cut matrices to pieces. */
#include "lib/overlap.h"
#include "tests/harness/tap.h"

enum { SPACE = 4096, BASE = 1 << 20 };

static uint32_t seed = 12345;

static int64_t random_below(int64_t limit)
{
    seed = seed * 1664525 + 1013904223;
    return (int64_t)(seed >> 8) % limit;
}

static pc_array made(uint32_t itemsize, int ndim, const int64_t *shape, const int64_t *strides)
{
    pc_array array = {.itemsize = itemsize, .ndim = ndim};

    for (int i = 0; i < ndim; i++) {
        array.shape[i] = shape[i];
        array.strides[i] = strides[i];
    }
    ASSERT_INT(pc_array_measure(&array), PC_ARRAY_GOOD);
    return array;
}

static int add(pc_claims **claims, const pc_array *array, int64_t data, bool writable)
{
    int rc = pc_claims_add(claims, array, (uintptr_t)(BASE + data), writable);

    ASSERT(rc >= 0);
    return rc;
}

/* Two writable ones. */
static bool share(const pc_array *a, int64_t a_data, const pc_array *b, int64_t b_data)
{
    pc_claims *claims = NULL;
    int rc;

    ASSERT_INT(add(&claims, a, a_data, true), 0);
    rc = add(&claims, b, b_data, true);
    pc_claims_free(claims);
    return rc == 1;
}

static void mark(const pc_array *array, int64_t data, uint8_t *bytes, uint8_t with, int dim)
{
    if (dim == array->ndim) {
        for (uint32_t i = 0; i < array->itemsize; i++)
            bytes[data + (int64_t)i] |= with;
        return;
    }
    for (int64_t i = 0; i < array->shape[dim]; i++)
        mark(array, data + i * array->strides[dim], bytes, with, dim + 1);
}

/* An array somewhere in the space. */
static pc_array random_array(int64_t *data)
{
    static const int64_t units[] = {1, 2, 3, 4, 6, 8, 16, 24, 56, 64, 120};
    int64_t shape[4], strides[4];
    pc_array array;

    do {
        int ndim = (int)random_below(4);

        for (int i = 0; i < ndim; i++) {
            shape[i] = 1 + random_below(5);
            strides[i] =
                units[random_below(11)] * (1 + random_below(3)) * (random_below(3) == 0 ? -1 : 1);
        }
        array = made(1 + (uint32_t)random_below(8), ndim, shape, strides);
    } while (array.high - array.low > SPACE / 4);
    *data = random_below(200) - array.low + SPACE / 4;
    return array;
}

TEST(arrays_that_share_a_byte_are_never_said_to_be_apart)
{
    unsigned shared = 0, told = 0, apart = 0;

    for (int round = 0; round < 20000; round++) {
        static uint8_t bytes[SPACE];
        int64_t a_data, b_data;
        pc_array a = random_array(&a_data), b = random_array(&b_data);
        bool meet = false, says = share(&a, a_data, &b, b_data);

        memset(bytes, 0, sizeof bytes);
        mark(&a, a_data, bytes, 1, 0);
        mark(&b, b_data, bytes, 2, 0);
        for (int i = 0; i < SPACE; i++)
            meet |= bytes[i] == 3;
        if (meet && !says)
            tap_fail("round %d: they share a byte", round);
        shared += meet;
        apart += !meet;
        told += !meet && !says;
    }
    DIAG("%u share, %u do not, %u of those are seen", shared, apart, told);
    ASSERT(shared > 1000 && told > apart / 2);
}

/* numpy's a[rows, columns] of a C-ordered matrix of 8-byte elements. */
static pc_array part(int64_t rows, int64_t row_stride, int64_t columns, int64_t column_stride)
{
    return made(8, 2, (int64_t[]){rows, columns}, (int64_t[]){8 * row_stride, 8 * column_stride});
}

TEST(pieces_of_a_matrix_that_share_nothing_are_told)
{
    for (int64_t columns = 2; columns < 40; columns++) {
        int64_t left = 1 + random_below(columns - 1);
        pc_array even = part(10, columns, (columns + 1) / 2, 2),
                 odd = part(10, columns, columns / 2, 2);
        pc_array first = part(10, columns, left, 1), rest = part(10, columns, columns - left, 1);
        pc_array rows = part(5, 2 * columns, columns, 1), plain = part(10, 2 * columns, columns, 2);
        pc_array block = part(3, columns, left, 1);

        ASSERT(!share(&even, 0, &odd, 8));
        ASSERT(!share(&odd, 8, &even, 0));
        ASSERT(share(&even, 0, &even, 0));
        ASSERT(!share(&first, 0, &rest, 8 * left));
        ASSERT(!share(&rest, 8 * left, &first, 0));
        ASSERT(share(&first, 0, &rest, 8 * left - 8));
        ASSERT(!share(&rows, 0, &rows, 8 * columns));
        ASSERT(!share(&plain, 0, &plain, 8)); /* real and imaginary */
        ASSERT(!share(&block, 0, &rest, 8 * left));
        ASSERT(!share(&block, 0, &block, 3 * 8 * columns));
        ASSERT(share(&plain, 0, &plain, 4));
    }
}

TEST(arrays_that_nobody_writes_may_share)
{
    pc_array array = part(10, 10, 10, 1);
    pc_claims *claims = NULL;

    for (int i = 0; i < 100; i++)
        ASSERT_INT(add(&claims, &array, 8 * i, false), 0);
    ASSERT_INT(add(&claims, &array, 8 * 50, true), 1);
    ASSERT_INT(add(&claims, &array, 8 * 300, true), 0);
    ASSERT_INT(add(&claims, &array, 8 * 350, false), 1);
    ASSERT_INT(add(&claims, &array, 8 * 400, false), 0);
    pc_claims_free(claims);
}

/* In any order; against a look at all of them. */
TEST(each_range_of_many_that_meets_another_is_found)
{
    enum { COUNT = 3000 };
    static struct {
        int64_t low, high;
        bool writable;
    } ranges[COUNT];

    for (int way = 0; way < 3; way++) {
        pc_claims *claims = NULL;
        unsigned count = 0, refused = 0;

        for (int i = 0; i < COUNT; i++) {
            int64_t length = 1 + random_below(random_below(10) == 0 ? 3000 : 30);
            int64_t low = way == 0 ? random_below(100000) : way == 1 ? 40 * i : 40 * (COUNT - i);
            pc_array array = made(1, 1, &length, (int64_t[]){1});
            bool writable = random_below(2), meets = false;

            for (unsigned j = 0; j < count; j++)
                meets |= (writable || ranges[j].writable) && low < ranges[j].high &&
                         ranges[j].low < low + length;
            ASSERT_INT(add(&claims, &array, low, writable), meets);
            refused += meets;
            if (meets)
                continue;
            ranges[count].low = low;
            ranges[count].high = low + length;
            ranges[count++].writable = writable;
        }
        ASSERT(refused > 100 && count > 100);
        pc_claims_free(claims);
    }
}

TAP_MAIN
