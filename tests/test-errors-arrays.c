/* Each error that a program can cause with arrays, DLPack's tensors and maps: as test-errors.c. */
#include "lib/dlpack.h"
#include "tests/harness/errors.h"

static double elements[1000];

static pycrew_array vector_of(void *data, pycrew_dtype dtype, int64_t count, unsigned flags)
{
    pycrew_array array;

    OK(pycrew_array_init(&array, data, dtype, 1, &count, flags));
    return array;
}

static int give(pycrew_crew *crew, const pycrew_array *array)
{
    return WITH_CALL(crew, pycrew_add_array(call, array));
}

/* GIVE(ndim = 40): an array of ten doubles that is changed so. */
#define GIVE(...)                                                                                  \
    __extension__({                                                                                \
        pycrew_array array = vector_of(elements, PYCREW_F64, 10, 0);                               \
        array.__VA_ARGS__;                                                                         \
        give(crew, &array);                                                                        \
    })

static int init_with(pycrew_dtype dtype, int ndim, int64_t extent, unsigned flags)
{
    int64_t shape[2] = {extent, extent};
    pycrew_array array;

    return pycrew_array_init(&array, elements, dtype, ndim, shape, flags);
}

ROWS(descriptions_of_arrays)
{
    ERROR(-EINVAL, "pycrew_array_init: array and shape must not be NULL",
          pycrew_array_init(NULL, elements, PYCREW_F64, 0, NULL, 0));
    ERROR(-EINVAL, "the dtype *number* is none of PYCREW_BOOL to PYCREW_OTHER",
          init_with((pycrew_dtype)99, 1, 1, 0));
    ERROR(-EINVAL, "ndim is *number*, and not 0 to 32", init_with(PYCREW_F64, 33, 1, 0));
    ERROR(-EINVAL, "the array: a dimension of its shape is negative",
          init_with(PYCREW_F64, 1, -1, 0));
    ERROR(-E2BIG, "the array: the product of its shape and itemsize exceeds 2^63 - 1",
          init_with(PYCREW_F64, 2, INT64_C(1) << 40, 0));
    ERROR(-EINVAL,
          "the array, with flags 0x*flags*: it has a flag that is none of PYCREW_WRITABLE, "
          "_COPY_BACK, _STRIDED and "
          "_FORTRAN",
          init_with(PYCREW_F64, 1, 1, 64));
    ERROR(-EINVAL,
          "the array, with flags 0x*flags*: PYCREW_COPY_BACK is for arrays with PYCREW_WRITABLE",
          init_with(PYCREW_F64, 1, 1, PYCREW_COPY_BACK));
    ERROR(-EINVAL,
          "the array, with flags 0x*flags*: with PYCREW_STRIDED it is the strides that say the "
          "order: no "
          "PYCREW_FORTRAN",
          init_with(PYCREW_F64, 1, 1, PYCREW_STRIDED | PYCREW_FORTRAN));
}

ROWS(arrays_as_arguments)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(-EINVAL, "*place*: the pointer to the array is NULL", give(crew, NULL));
    ERROR(-EINVAL,
          "*place*: the array: its size is not set: it was not made by PYCREW_ARRAY_INIT or "
          "pycrew_array_init",
          GIVE(size = 0));
    ERROR(-EINVAL, "*place*: the array: its data is NULL", GIVE(data = NULL));
    ERROR(-EINVAL, "*place*: the array: its dtype is none of PYCREW_BOOL to PYCREW_OTHER",
          GIVE(dtype = (pycrew_dtype)99));
    ERROR(-EINVAL, "*place*: the array: its itemsize is not that of its dtype", GIVE(itemsize = 3));
    ERROR(-EINVAL,
          "*place*: the array: its dtype is PYCREW_OTHER, and format has no text that says which, "
          "as \"<M8[ns]\"",
          GIVE(dtype = PYCREW_OTHER));
    ERROR(-EINVAL, "*place*: the array: its itemsize exceeds 2^31 - 1",
          GIVE(dtype = PYCREW_OTHER, array.format = "|S1", array.itemsize = SIZE_MAX / 2));
    ERROR(-EINVAL,
          "*place*: the array: an array of Python objects holds addresses, and cannot be given to "
          "another process",
          GIVE(dtype = PYCREW_OTHER, array.format = "|O", array.itemsize = 8));
    ERROR(-EINVAL, "*place*: the array: its format is not UTF-8 of less than 64 KiB",
          GIVE(dtype = PYCREW_OTHER, array.format = "|S1\xff", array.itemsize = 1));
    ERROR(-EINVAL, "*place*: the array: it has fewer than 0 or more than 32 dimensions",
          GIVE(ndim = 33));
    ERROR(-EINVAL, "*place*: the array: its strides lead further than 2^63 - 1",
          GIVE(flags = PYCREW_STRIDED, array.strides[0] = INT64_MAX / 2));
    ERROR(-EINVAL,
          "*place*: the array: it is writable, and its data is neither in memory of pycrew_alloc "
          "nor to be copied back "
          "(PYCREW_COPY_BACK)",
          GIVE(flags = PYCREW_WRITABLE));
    ERROR(-EINVAL,
          "*place*: the array: it is writable, and a stride of 0 makes elements stand in one place",
          GIVE(flags = PYCREW_WRITABLE | PYCREW_COPY_BACK | PYCREW_STRIDED, array.strides[0] = 0));
    pycrew_close(crew);
}

static int give_two(pycrew_crew *crew, unsigned first, unsigned second)
{
    pycrew_array one = vector_of(elements, PYCREW_F64, 10, first);
    pycrew_array other = vector_of(elements + 5, PYCREW_F64, 10, second);

    double *memory = pycrew_alloc(crew, sizeof elements);

    one.data = memory;
    other.data = memory + 5;
    return WITH_CALL(crew, (pycrew_add_array(call, &one), pycrew_add_array(call, &other)));
}

static int give_freed(pycrew_crew *crew)
{
    double *memory = pycrew_alloc(crew, sizeof elements);
    pycrew_array array = vector_of(memory, PYCREW_F64, 10, 0);

    pycrew_free(crew, memory);
    return give(crew, &array);
}

static int give_more_than_is_there(pycrew_crew *crew)
{
    pycrew_array array = vector_of(pycrew_alloc(crew, 64), PYCREW_F64, 100000, 0);

    return give(crew, &array);
}

static int give_anothers(pycrew_crew *crew)
{
    pycrew_crew *other = open_crew(1);
    pycrew_array array = vector_of(pycrew_alloc(other, sizeof elements), PYCREW_F64, 10, 0);
    int rc = give(crew, &array);

    pycrew_close(other);
    return rc;
}

static int free_any(pycrew_crew *crew, void *memory)
{
    pycrew_free(crew, memory);
    return pycrew_last_error()->code;
}

static int drop_any(pycrew_crew *crew)
{
    pycrew_array array = vector_of(elements, PYCREW_F64, 10, 0);

    pycrew_array_drop(crew, &array);
    return pycrew_last_error()->code;
}

ROWS(memory_of_arrays)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(-EINVAL, "pycrew_alloc: crew must not be NULL",
          (pycrew_alloc(NULL, 1), pycrew_last_error()->code));
    ERROR(-EINVAL, "pycrew_free: the memory is none that pycrew_alloc gave, or it was freed before",
          free_any(crew, elements));
    ERROR(-EINVAL, "pycrew_array_drop: the array was not taken, or was dropped before",
          drop_any(crew));
    ERROR(-EINVAL,
          "*place*: the array: its data is in the crew's shared memory, but in no array's: it was "
          "freed, dropped or "
          "released, or is a str or bytes of a result, or was never given by pycrew_alloc or "
          "pycrew_array_take",
          give_freed(crew));
    ERROR(-EINVAL,
          "*place*: the array: its shape and strides lead out of the block that its data is in",
          give_more_than_is_there(crew));
    ERROR(-EINVAL, "*place*: the array: its data is in the shared memory of another crew",
          give_anothers(crew));
    ERROR(-EINVAL,
          "*place*: the array: it is writable, and overlaps another array of the call, or by its "
          "strides might share "
          "an element with it",
          give_two(crew, 0, PYCREW_WRITABLE));
    ERROR(-EINVAL,
          "*place*: the array: it overlaps a writable array of the call, or by its strides might "
          "share an element with "
          "it",
          give_two(crew, PYCREW_WRITABLE, 0));
    pycrew_close(crew);
}

static int result_without_size(pycrew_crew *crew)
{
    pycrew_array array = PYCREW_ARRAY_INIT;

    array.size = 0;
    return WITH_RESULT(crew, "memoryview(b'abc')", pycrew_result_array(call, &array));
}

static int array_of_released(pycrew_crew *crew)
{
    pycrew_call *call = SUBMIT(crew, "api_ops:evaluate", "s", "memoryview(b'abc')");
    pycrew_array array = PYCREW_ARRAY_INIT;
    pycrew_value value;

    OK(pycrew_wait(call, BOUND));
    value = pycrew_result_value(call);
    pycrew_release(call);
    return pycrew_value_array(value, &array);
}

static int wrong_itemsize(pycrew_crew *crew)
{
    pycrew_array array = vector_of(elements, PYCREW_OTHER, 10, 0);

    array.format = "<M8[ns]";
    array.itemsize = 4;
    return pycrew_run(crew, "api_ops:length", "A>", &array);
}

ROWS(arrays_as_results)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(PYCREW_ETYPE,
          "*place*: the array is not there any more: its call was released, or the batch has gone "
          "on to the next item; "
          "or something wrote over it",
          array_of_released(crew));
    ERROR(-EINVAL, "the array's itemsize is *bytes*, but *type* has *bytes* bytes",
          wrong_itemsize(crew));

    ERROR(-EINVAL, "*place*: the array's size is not set (PYCREW_ARRAY_INIT)",
          result_without_size(crew));
    pycrew_close(crew);
}

/* ---- DLPack ---- */

static struct DLManagedTensor tensor_of(int64_t *shape, int64_t *strides)
{
    return (struct DLManagedTensor){.dl_tensor = {.data = elements,
                                                  .device_type = PC_DL_CPU,
                                                  .ndim = 1,
                                                  .dtype = {PC_DL_FLOAT, 64, 1},
                                                  .shape = shape,
                                                  .strides = strides}};
}

/* TENSOR(device_type = 2): one of ten doubles that is changed so. */
#define TENSOR(flags, ...)                                                                         \
    __extension__({                                                                                \
        int64_t shape[1] = {10}, strides[1] = {1};                                                 \
        struct DLManagedTensor managed = tensor_of(shape, strides);                                \
        pycrew_array array;                                                                        \
        managed.dl_tensor.__VA_ARGS__;                                                             \
        pycrew_array_from_dlpack(&array, &managed, flags);                                         \
    })

static int from_versioned(unsigned major, unsigned flags, unsigned wanted)
{
    int64_t shape[1] = {10};
    struct DLManagedTensorVersioned managed = {
        .major = major, .flags = flags, .dl_tensor = tensor_of(shape, NULL).dl_tensor};
    pycrew_array array;

    return pycrew_array_from_dlpack_versioned(&array, &managed, wanted);
}

/* A taken array, as a tensor. */
static int to_tensor(pycrew_crew *crew, const char *text)
{
    pycrew_call *call = SUBMIT(crew, "error_ops:evaluate", "s", text);
    struct DLManagedTensor *tensor;
    pycrew_array array = PYCREW_ARRAY_INIT;
    int rc;

    OK(pycrew_wait(call, BOUND));
    OK(pycrew_array_take(call, &array));
    pycrew_release(call);
    rc = pycrew_array_to_dlpack(crew, &array, &tensor);
    return rc;
}

static int untaken_to_tensor(pycrew_crew *crew)
{
    pycrew_array array = vector_of(elements, PYCREW_F64, 10, 0);
    struct DLManagedTensor *tensor;

    return pycrew_array_to_dlpack(crew, &array, &tensor);
}

ROWS(tensors)
{
    pycrew_crew *crew = open_crew(1);
    struct DLManagedTensor *tensor;

    ERROR(-EINVAL, "pycrew_array_from_dlpack: array and tensor must not be NULL",
          pycrew_array_from_dlpack(NULL, NULL, 0));
    ERROR(-EINVAL, "pycrew_array_from_dlpack_versioned: array and tensor must not be NULL",
          pycrew_array_from_dlpack_versioned(NULL, NULL, 0));
    ERROR(-EINVAL, "pycrew_array_to_dlpack: crew, array and ret must not be NULL",
          pycrew_array_to_dlpack(crew, NULL, &tensor));
    ERROR(-EINVAL, "the tensor's type (code *code*, *bits* bits, *lanes* lanes) is none of numpy's",
          TENSOR(0, dtype.lanes = 4));
    ERROR(-EINVAL, "the tensor's strides lead further than 2^63 - 1 bytes",
          TENSOR(0, strides[0] = INT64_MAX));
    ERROR(-EINVAL, "the tensor is not in the CPU's memory (device *device*)",
          TENSOR(0, device_type = 2));
    ERROR(-EINVAL, "the tensor's layout is its own: no PYCREW_STRIDED or _FORTRAN",
          TENSOR(PYCREW_FORTRAN, ndim = 1));
    ERROR(-EINVAL, "the tensor is of DLPack *version*, and not 1", from_versioned(2, 0, 0));
    ERROR(-EINVAL, "the tensor is read-only, and PYCREW_WRITABLE would write to it",
          from_versioned(1, PC_DL_READ_ONLY, PYCREW_WRITABLE));
    ERROR(-EINVAL, "DLPack has no type for *type*", to_tensor(crew, "numpy.array(['a'])"));
    ERROR(-EINVAL,
          "the stride of dimension *number* is *bytes* bytes, and so no number of elements",
          to_tensor(crew, "error_ops.odd_stride()"));
    ERROR(-EINVAL, "the array is none that was taken", untaken_to_tensor(crew));
    pycrew_close(crew);
}

/* ---- maps ---- */

static double from[100], to[100];
static int64_t large[100] = {300};

static int map_with(pycrew_crew *crew, const char *function, const pycrew_array *input,
                    const pycrew_array *output, const pycrew_map_options *options)
{
    pycrew_array written = *output;

    return pycrew_map(crew, function_of(crew, function), input, 1, &written, options);
}

#define MAP(function, ...)                                                                         \
    __extension__({                                                                                \
        pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;                                      \
        pycrew_array input = vector_of(from, PYCREW_F64, 100, 0);                                  \
        pycrew_array output = vector_of(to, PYCREW_F64, 100, 0);                                   \
        __VA_ARGS__;                                                                               \
        map_with(crew, function, &input, &output, &options);                                       \
    })

static int map_with_newer_options(pycrew_crew *crew)
{
    struct {
        pycrew_map_options known;
        uint64_t unknown;
    } options = {PYCREW_MAP_OPTIONS_INIT, 1};
    pycrew_array column = vector_of(from, PYCREW_F64, 100, 0);

    options.known.size = sizeof options;
    return pycrew_map(crew, function_of(crew, "map_ops:same"), &column, 1, &column, &options.known);
}

static int map_many(pycrew_crew *crew)
{
    pycrew_array column = vector_of(from, PYCREW_F64, 100, 0);

    return pycrew_map(crew, function_of(crew, "map_ops:same"), &column, 33, &column, NULL);
}

static int end_it(void *data, const pycrew_progress *progress)
{
    (void)data;
    (void)progress;
    return 1;
}

ROWS(maps)
{
    pycrew_crew *crew = open_crew(1);

    ERROR(-EINVAL, "pycrew_map: crew, function, inputs and output must not be NULL",
          pycrew_map(crew, NULL, NULL, 0, NULL, NULL));
    ERROR(-EINVAL, "pycrew_map: *number* inputs; at most 32", map_many(crew));
    ERROR(-EINVAL, "map options.size is *bytes*: start from PYCREW_MAP_OPTIONS_INIT",
          MAP("map_ops:same", options.size = 3));
    ERROR(-EINVAL,
          "the map's options have a field, at byte *offset*, that this version (*version*) does "
          "not know",
          map_with_newer_options(crew));
    ERROR(
        -EINVAL,
        "map options.flags 0x*flags* have one that is neither PYCREW_MAP_WHOLE nor PYCREW_MAP_OUT",
        MAP("map_ops:same", options.flags = 8));
    ERROR(-EINVAL,
          "map options.flags: PYCREW_MAP_OUT is for PYCREW_MAP_WHOLE, and to be given with it",
          MAP("map_ops:same", options.flags = PYCREW_MAP_OUT));
    ERROR(-EINVAL, "map options.chunk is *number*; at most *most*",
          MAP("map_ops:same", options.chunk = 1u << 30));
    ERROR(-EINVAL,
          "map options.on_error is *number*, and neither PYCREW_MAP_STOP nor PYCREW_MAP_FILL",
          MAP("map_ops:same", options.on_error = 7));
    ERROR(
        -EINVAL,
        "*column*: its size is not set: it was not made by PYCREW_ARRAY_INIT or pycrew_array_init",
        MAP("map_ops:same", input.size = 0));
    ERROR(-EINVAL,
          "*column* has the shape *shape*, and the output *shape*: they are to be the same",
          MAP("map_ops:same", input.shape[0] = 50));
    ERROR(-EINVAL,
          "*column* has the shape *shape*, and the output *shape*: their first dimensions are to "
          "be the same",
          MAP("map_ops:whole_add", input.shape[0] = 50; options.flags = PYCREW_MAP_WHOLE));
    ERROR(-EINVAL, "the output has no dimension that PYCREW_MAP_WHOLE could cut",
          MAP("map_ops:whole_add", output.ndim = 0; options.flags = PYCREW_MAP_WHOLE));
    ERROR(-EINVAL,
          "*column*: its dtype is PYCREW_OTHER (\"*format*\"); element by element there are bool, "
          "ints, floats and "
          "complex, with PYCREW_MAP_WHOLE all",
          MAP("map_ops:same", input.dtype = PYCREW_OTHER; input.format = "<M8[ns]"));
    ERROR(-EINVAL,
          "inputs[*number*] overlaps the output; a function that changes rows in place is given "
          "them as the output "
          "alone, with PYCREW_MAP_OUT",
          MAP("map_ops:whole_add", input.data = to; options.flags = PYCREW_MAP_WHOLE));
    ERROR(-EINVAL, "inputs[*number*] overlaps the output; only the same elements may be both",
          MAP("map_ops:same", input.data = to + 1));
    ERROR(-EINVAL,
          "inputs[*number*] is the output, too: then an element that died cannot be tried again, "
          "and options.retries "
          "is to be 0 or -1",
          MAP("map_ops:same", input.data = to; options.retries = 3));
    ERROR(-EINVAL, "*column*: its data is NULL", MAP("map_ops:same", input.data = NULL));
    ERROR(-ECANCELED, "the progress function ended the map (it returned another value than 0)",
          MAP("map_ops:slow", options.progress = end_it));
    ERROR(PYCREW_ETYPE, "the result is of type *type*, which the output's *type* does not take",
          MAP("map_ops:constant_text", (void)0));
    ERROR(-ERANGE, "the result is out of range for the output's *type*",
          MAP("map_ops:same", input = vector_of(large, PYCREW_I64, 100, 0);
              output.dtype = PYCREW_I8; output.itemsize = 1));
    ERROR(PYCREW_ETYPE,
          "the function returned an array of shape *shape* for an output slice of shape *shape*",
          MAP("map_ops:whole_wrong_shape", options.flags = PYCREW_MAP_WHOLE));
    pycrew_close(crew);
}

/* A row that is larger than all of it. */
static int map_large_row(pycrew_crew *crew)
{
    static double row[1];
    int64_t shape[2] = {1, 8 << 20}, strides[2] = {64 << 20, 0};
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    pycrew_array input, output = vector_of(to, PYCREW_F64, 1, 0);

    options.flags = PYCREW_MAP_WHOLE;
    OK(pycrew_array_init(&input, row, PYCREW_F64, 2, shape, PYCREW_STRIDED));
    memcpy(input.strides, strides, sizeof strides);
    return map_with(crew, "map_ops:whole_length", &input, &output, &options);
}

static int map_beside_others(pycrew_crew *crew)
{
    static double row[1 << 18];
    int64_t shape[2] = {1, 1 << 18};
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    pycrew_array input, output = vector_of(to, PYCREW_F64, 1, 0);
    int rc;

    while (pycrew_alloc(crew, 1 << 20) != NULL)
        ;
    options.flags = PYCREW_MAP_WHOLE;
    OK(pycrew_array_init(&input, row, PYCREW_F64, 2, shape, 0));
    rc = map_with(crew, "map_ops:whole_length", &input, &output, &options);
    return rc;
}

ROWS(maps_without_memory)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    options.memory = 16 << 20;
    options.calls = 16;
    crew = open_with(&options);
    ERROR(-E2BIG, "a single element exceeds the crew's shared memory: raise options.memory",
          map_large_row(crew));
    ERROR(-ENOMEM,
          "no shared memory is left for the columns: release calls and arrays, or raise "
          "options.memory",
          map_beside_others(crew));
    pycrew_close(crew);
}

TAP_MAIN
