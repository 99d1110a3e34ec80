/* dlpack: DLPack's structs (https://dmlc.github.io/dlpack, version 1), as its dlpack.h declares them.
 *
 * pycrew.h only names the two that own a tensor, so that who has no dlpack.h needs none, and who has
 * one includes both in any order. These declarations are for lib alone; the sizes below are what
 * both must agree on. */
#ifndef PC_LIB_DLPACK_H
#define PC_LIB_DLPACK_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

enum { PC_DL_CPU = 1, PC_DL_MAJOR = 1, PC_DL_MINOR = 0, PC_DL_READ_ONLY = 1 };

enum pc_dl_code {
    PC_DL_INT = 0,
    PC_DL_UINT = 1,
    PC_DL_FLOAT = 2,
    PC_DL_COMPLEX = 5,
    PC_DL_BOOL = 6
};

typedef struct pc_dl_type {
    uint8_t code, bits;
    uint16_t lanes;
} pc_dl_type;

typedef struct pc_dl_tensor {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    pc_dl_type dtype;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: the last index running fastest, without gaps */
    uint64_t byte_offset;
} pc_dl_tensor;

struct DLManagedTensor {
    pc_dl_tensor dl_tensor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensor *self);
};

struct DLManagedTensorVersioned {
    uint32_t major, minor;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags;
    pc_dl_tensor dl_tensor;
};

static_assert(sizeof(pc_dl_tensor) == 48 && offsetof(pc_dl_tensor, shape) == 24, "DLTensor");
static_assert(sizeof(struct DLManagedTensor) == 64, "DLManagedTensor");
static_assert(offsetof(struct DLManagedTensorVersioned, dl_tensor) == 32, "DLManagedTensorVersioned");

#endif
