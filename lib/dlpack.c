/* dlpack: between pycrew's arrays and DLPack's tensors. */
#include "lib/dlpack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/array.h"
#include "lib/crew.h"
#include "lib/shm/array.h"

/* ---- types ---- */

static const struct {
    pc_dl_type dl;
    pycrew_dtype dtype;
} types[] = {
    {{PC_DL_BOOL, 8, 1}, PYCREW_BOOL},     {{PC_DL_INT, 8, 1}, PYCREW_I8},
    {{PC_DL_INT, 16, 1}, PYCREW_I16},      {{PC_DL_INT, 32, 1}, PYCREW_I32},
    {{PC_DL_INT, 64, 1}, PYCREW_I64},      {{PC_DL_UINT, 8, 1}, PYCREW_U8},
    {{PC_DL_UINT, 16, 1}, PYCREW_U16},     {{PC_DL_UINT, 32, 1}, PYCREW_U32},
    {{PC_DL_UINT, 64, 1}, PYCREW_U64},     {{PC_DL_FLOAT, 16, 1}, PYCREW_F16},
    {{PC_DL_FLOAT, 32, 1}, PYCREW_F32},    {{PC_DL_FLOAT, 64, 1}, PYCREW_F64},
    {{PC_DL_COMPLEX, 64, 1}, PYCREW_C64}, {{PC_DL_COMPLEX, 128, 1}, PYCREW_C128}};

enum { TYPES = sizeof types / sizeof types[0] };

/* ---- in ---- */

static int take_type(const pc_dl_tensor *tensor, pycrew_dtype *ret)
{
    for (unsigned i = 0; i < TYPES; i++)
        if (memcmp(&types[i].dl, &tensor->dtype, sizeof tensor->dtype) == 0) {
            *ret = types[i].dtype;
            return 0;
        }
    return pc_fail(-EINVAL, "the tensor's type (code %u, %u bits, %u lanes) is none of numpy's",
                   tensor->dtype.code, tensor->dtype.bits, tensor->dtype.lanes);
}

static int take_strides(const pc_dl_tensor *tensor, pycrew_array *array)
{
    for (int i = 0; i < tensor->ndim; i++)
        if (__builtin_mul_overflow(tensor->strides[i], (int64_t)array->itemsize, &array->strides[i]))
            return pc_fail(-EINVAL, "the tensor's strides lead further than 2^63 - 1 bytes");
    array->flags |= PYCREW_STRIDED;
    return 0;
}

static int from_tensor(pycrew_array *ret, const pc_dl_tensor *tensor, unsigned flags)
{
    pycrew_array array;
    pycrew_dtype dtype = PYCREW_OTHER;
    char *data = tensor->data;
    int rc;

    if (tensor->device_type != PC_DL_CPU)
        return pc_fail(-EINVAL, "the tensor is not in the CPU's memory (device %d)",
                       (int)tensor->device_type);
    if (flags & (PYCREW_STRIDED | PYCREW_FORTRAN))
        return pc_fail(-EINVAL, "the tensor's layout is its own: no PYCREW_STRIDED or _FORTRAN");
    if ((rc = take_type(tensor, &dtype)) < 0)
        return rc;
    rc = pycrew_array_init(&array, data == NULL ? NULL : data + tensor->byte_offset, dtype,
                           tensor->ndim, tensor->shape, flags);
    if (rc == 0 && tensor->strides != NULL)
        rc = take_strides(tensor, &array);
    if (rc == 0)
        *ret = array;
    return rc;
}

int pycrew_array_from_dlpack(pycrew_array *array, const struct DLManagedTensor *tensor,
                             unsigned flags)
{
    if (array == NULL || tensor == NULL)
        return pc_fail(-EINVAL, "pycrew_array_from_dlpack: array and tensor must not be NULL");
    return from_tensor(array, &tensor->dl_tensor, flags);
}

int pycrew_array_from_dlpack_versioned(pycrew_array *array,
                                       const struct DLManagedTensorVersioned *tensor,
                                       unsigned flags)
{
    if (array == NULL || tensor == NULL)
        return pc_fail(-EINVAL,
                       "pycrew_array_from_dlpack_versioned: array and tensor must not be NULL");
    if (tensor->major != PC_DL_MAJOR)
        return pc_fail(-EINVAL, "the tensor is of DLPack %u, and not 1", tensor->major);
    if (tensor->flags & PC_DL_READ_ONLY && flags & PYCREW_WRITABLE)
        return pc_fail(-EINVAL, "the tensor is read-only, and PYCREW_WRITABLE would write to it");
    return from_tensor(array, &tensor->dl_tensor, flags);
}

/* ---- out ---- */

/* A tensor and all that it points to. */
typedef struct handed_out {
    union {
        struct DLManagedTensor plain;
        struct DLManagedTensorVersioned versioned;
    };
    pycrew_crew *crew;
    pycrew_array array; /* shape is the tensor's too */
    int64_t strides[PYCREW_MAX_DIMS];
} handed_out;

static void give_back(handed_out *out)
{
    pycrew_array_drop(out->crew, &out->array);
    free(out);
}

static void delete_plain(struct DLManagedTensor *tensor)
{
    if (tensor != NULL)
        give_back(tensor->manager_ctx);
}

static void delete_versioned(struct DLManagedTensorVersioned *tensor)
{
    if (tensor != NULL)
        give_back(tensor->manager_ctx);
}

static int find_type(const pycrew_array *array, pc_dl_type *ret)
{
    for (unsigned i = 0; i < TYPES; i++)
        if (types[i].dtype == array->dtype) {
            *ret = types[i].dl;
            return 0;
        }
    return pc_fail(-EINVAL, "DLPack has no type for %s",
                   array->format != NULL ? array->format : "this array's");
}

static int set_tensor(pc_dl_tensor *tensor, handed_out *out)
{
    *tensor = (pc_dl_tensor){.data = out->array.data,
                             .device_type = PC_DL_CPU,
                             .ndim = out->array.ndim,
                             .shape = out->array.shape,
                             .strides = out->strides};
    for (int i = 0; i < out->array.ndim; i++) {
        int64_t stride = out->array.strides[i], size = (int64_t)out->array.itemsize;

        if (stride % size != 0)
            return pc_fail(-EINVAL,
                           "the stride of dimension %d is %lld bytes, and so no number of elements", i,
                           (long long)stride);
        out->strides[i] = stride / size;
    }
    return find_type(&out->array, &tensor->dtype);
}

/* One that has no elements has no memory either. */
static bool is_taken(pycrew_crew *crew, const pycrew_array *array)
{
    bool empty = false;

    for (int i = 0; i < array->ndim; i++)
        empty |= array->shape[i] == 0;
    return empty || (array->data != NULL && pc_arrays_taken(crew, array->data));
}

static int make(pycrew_crew *crew, const pycrew_array *array, const void *ret_tensor,
                handed_out **ret)
{
    handed_out *out;
    int rc;

    if (crew == NULL || array == NULL || ret_tensor == NULL)
        return pc_fail(-EINVAL, "pycrew_array_to_dlpack: crew, array and ret must not be NULL");
    rc = pc_crew_check(crew);
    if (rc < 0)
        return rc;
    if (array->size < sizeof *array || array->ndim < 0 || array->ndim > PYCREW_MAX_DIMS ||
        (array->dtype != PYCREW_OTHER && array->itemsize != pc_dtype_size(array->dtype)) ||
        array->itemsize == 0 || !is_taken(crew, array))
        return pc_fail(-EINVAL, "the array is none that was taken");
    out = calloc(1, sizeof *out);
    if (out == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    out->crew = crew;
    out->array = *array;
    *ret = out;
    return 0;
}

int pycrew_array_to_dlpack(pycrew_crew *crew, pycrew_array *array, struct DLManagedTensor **ret)
{
    handed_out *out;
    int rc = make(crew, array, ret, &out);

    if (rc < 0)
        return rc;
    rc = set_tensor(&out->plain.dl_tensor, out);
    if (rc < 0) {
        free(out);
        return rc;
    }
    out->plain.manager_ctx = out;
    out->plain.deleter = delete_plain;
    array->data = NULL;
    *ret = &out->plain;
    return 0;
}

int pycrew_array_to_dlpack_versioned(pycrew_crew *crew, pycrew_array *array,
                                     struct DLManagedTensorVersioned **ret)
{
    handed_out *out;
    int rc = make(crew, array, ret, &out);

    if (rc < 0)
        return rc;
    rc = set_tensor(&out->versioned.dl_tensor, out);
    if (rc < 0) {
        free(out);
        return rc;
    }
    out->versioned.major = PC_DL_MAJOR;
    out->versioned.minor = PC_DL_MINOR;
    out->versioned.manager_ctx = out;
    out->versioned.deleter = delete_versioned;
    array->data = NULL;
    *ret = &out->versioned;
    return 0;
}
