/* array: arrays in shared memory as Python sees them; array.h says how long they stay. */
#include "worker/array.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "worker/convert.h"
#include "worker/run.h"

enum { BUCKETS = 4096, PAGE = 4096, ALIGN = 64, CELL_SIZE = 16 };

bool pc_array_used;

/* A block that Python has views of, or that the host has from us. */
typedef struct pc_block {
    uint64_t base;
    uint64_t low, high; /* what there are views of */
    uint64_t given;     /* leased: where what the host knows of it ends */
    uint64_t cell;      /* an argument's: the host's words; our own: while it is leased */
    unsigned views;     /* Memory objects */
    bool own;
    bool leased;   /* our own, and the host has it */
    bool argument; /* of the present call */
    unsigned suspended; /* calls that wait, and have it as an argument */
    bool retained; /* an argument's that outlived its call: our word says so */
    struct pc_block *next_in_bucket, *next, **link; /* of all */
    struct pc_block *next_argument;
    struct pc_block *next_large, **large_link; /* of those larger than a span; else NULL */
} pc_block;

/* What was written into the present call's result. */
typedef struct pc_given {
    pc_block *block; /* leased; or */
    uint64_t copy;   /* a block of the heap */
} pc_given;

static struct {
    pc_worker *worker;
    pthread_mutex_t lock; /* of the lists: a thread without the GIL may fork */
    pc_block *buckets[BUCKETS], *all, *large;
    pc_block *arguments;
    pc_given *given;
    size_t given_count, given_capacity;
    bool in_child;
    int copied[2]; /* around a fork: a pipe whose end says that the child has its copies; or -1 */
} blocks = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct {
    int found; /* 1: there; -1: not installed; 0: not looked for */
    PyObject *ndarray, *dtype;
    PyObject *dtypes[PC_DTYPE_COUNT];  /* OTHER: dict of those by text */
    PyObject *make_dtype, *dtype_text; /* of the package pycrew */
} numpy;

static pc_segment *segment(void)
{
    return &blocks.worker->segment;
}

/* ---- blocks ---- */

static pc_block **bucket_of(uint64_t base)
{
    return &blocks.buckets[base / PC_HEAP_BLOCK_MIN * UINT64_C(0x9e3779b97f4a7c15) >> 52];
}

static_assert(BUCKETS == 1 << 12, "a bucket is the uppermost 12 bits of the product");

static pc_block *find_block(uint64_t base)
{
    pc_block *block = *bucket_of(base);

    while (block != NULL && block->base != base)
        block = block->next_in_bucket;
    return block;
}

/* What is seen of a block of more than a span may be anywhere in it. (A block that is larger, but of which
 * no more than a span from its base on was seen, is found by its base.) */
static void note_large(pc_block *block)
{
    if (block->large_link != NULL || block->high - block->base <= PC_SPAN_SIZE)
        return;
    block->next_large = blocks.large;
    block->large_link = &blocks.large;
    if (block->next_large != NULL)
        block->next_large->large_link = &block->next_large;
    blocks.large = block;
}

static pc_block *new_block(uint64_t base, uint64_t low, uint64_t high)
{
    pc_block *block = calloc(1, sizeof *block), **bucket = bucket_of(base);

    if (block == NULL)
        return NULL;
    block->base = base;
    block->low = low;
    block->high = high;
    pthread_mutex_lock(&blocks.lock);
    block->next_in_bucket = *bucket;
    *bucket = block;
    block->next = blocks.all;
    block->link = &blocks.all;
    if (block->next != NULL)
        block->next->link = &block->next;
    blocks.all = block;
    pthread_mutex_unlock(&blocks.lock);
    note_large(block);
    return block;
}

static void forget_block(pc_block *block)
{
    pc_block **at = bucket_of(block->base);

    pthread_mutex_lock(&blocks.lock);
    while (*at != block)
        at = &(*at)->next_in_bucket;
    *at = block->next_in_bucket;
    *block->link = block->next;
    if (block->next != NULL)
        block->next->link = block->link;
    pthread_mutex_unlock(&blocks.lock);
    if (block->large_link != NULL) {
        *block->large_link = block->next_large;
        if (block->next_large != NULL)
            block->next_large->large_link = block->large_link;
    }
    free(block);
}

static void set_word(const pc_block *block, uint32_t value)
{
    _Atomic uint32_t *words = (_Atomic uint32_t *)pc_segment_at(segment(), block->cell);

    atomic_store_explicit(&words[blocks.worker->number], value, memory_order_release); /* A1 */
}

/* Frees the block, or lets go of it, if nothing speaks for it any more. */
static void settle_block(pc_block *block)
{
    if (block->views > 0 || block->leased || block->argument || block->suspended > 0)
        return;
    if (block->own)
        pc_heap_free(&blocks.worker->heap, block->base);
    else if (block->retained)
        set_word(block, 0);
    forget_block(block);
}

/* What the host gives back: the cell of a block. */
static void given_back(pc_heap *heap, uint64_t offset)
{
    const uint64_t *cell = pc_segment_at(heap->segment, offset);
    pc_block *block = find_block(cell[1]); /* of what is no cell, this is anything */

    if (block == NULL || !block->leased || block->cell != offset)
        return;
    block->leased = false;
    block->cell = 0;
    settle_block(block);
}

/* ---- forks by user code ---- */

static uint8_t *first_page(const pc_block *block)
{
    return segment()->base + block->low / PAGE * PAGE;
}

static size_t pages_size(const pc_block *block)
{
    return (block->high + PAGE - 1) / PAGE * PAGE - block->low / PAGE * PAGE;
}

static void advise_views(int advice)
{
    for (const pc_block *block = blocks.all; block != NULL; block = block->next)
        if (block->views > 0)
            madvise(first_page(block), pages_size(block), advice);
}

static bool any_views(void)
{
    for (const pc_block *block = blocks.all; block != NULL; block = block->next)
        if (block->views > 0)
            return true;
    return false;
}

static void close_end(int end)
{
    if (blocks.copied[end] >= 0)
        close(blocks.copied[end]);
    blocks.copied[end] = -1;
}

static void before_fork(void)
{
    pthread_mutex_lock(&blocks.lock);
    blocks.copied[0] = blocks.copied[1] = -1;
    if (blocks.in_child || !any_views())
        return;
    if (pipe2(blocks.copied, O_CLOEXEC) < 0)
        blocks.copied[0] = blocks.copied[1] = -1;
    advise_views(MADV_DOFORK);
}

/* Until the child has its copies, or is dead: what the parent does to the elements from here on, or
 * who gets the memory next, is not for the child to see. */
static void await_copies(void)
{
    char byte;

    close_end(1);
    while (blocks.copied[0] >= 0 && read(blocks.copied[0], &byte, 1) < 0 && errno == EINTR)
        continue;
    close_end(0);
}

static void after_fork_in_parent(void)
{
    if (!blocks.in_child)
        advise_views(MADV_DONTFORK);
    await_copies();
    pthread_mutex_unlock(&blocks.lock);
}

/* Pages of its own in place of the shared ones; or none, but never those of the call. */
static void make_private(uint8_t *at, size_t size)
{
    void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (copy != MAP_FAILED)
        memcpy(copy, at, size);
    if (copy == MAP_FAILED || mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, at) == MAP_FAILED)
        munmap(at, size);
}

static void after_fork_in_child(void)
{
    if (!blocks.in_child)
        for (const pc_block *block = blocks.all; block != NULL; block = block->next)
            if (block->views > 0)
                make_private(first_page(block), pages_size(block));
    blocks.in_child = true;
    close_end(0);
    close_end(1);
    pthread_mutex_unlock(&blocks.lock);
}

void pc_array_start(pc_worker *worker)
{
    blocks.worker = worker;
    worker->heap.given_back = given_back;
    worker->heap.keep_runs = 1;
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

/* ---- pycrew.Memory ---- */

typedef struct pc_memory {
    PyObject_HEAD pc_block *block; /* NULL: there are no elements */
    uint8_t *start;                /* of all it shows, */
    Py_ssize_t size;
    uint8_t *data; /* and the first element */
    bool readonly;
    int ndim; /* -1: bytes, for numpy, which has a shape of its own */
    Py_ssize_t itemsize;
    Py_ssize_t shape[PC_ARRAY_DIMS], strides[PC_ARRAY_DIMS];
    char format[16];
} pc_memory;

static void memory_dealloc(PyObject *self)
{
    pc_block *block = ((pc_memory *)self)->block;

    if (block != NULL && !blocks.in_child) {
        block->views--;
        settle_block(block);
    }
    PyObject_Free(self);
}

static int memory_buffer(PyObject *self, Py_buffer *view, int flags)
{
    pc_memory *memory = (pc_memory *)self;

    if (memory->ndim < 0)
        return PyBuffer_FillInfo(view, self, memory->start, memory->size, memory->readonly, flags);
    if (memory->readonly && flags & PyBUF_WRITABLE) {
        PyErr_SetString(PyExc_BufferError, "the array is read-only");
        return -1;
    }
    if ((flags & PyBUF_STRIDES) != PyBUF_STRIDES || !(flags & PyBUF_FORMAT)) {
        PyErr_SetString(PyExc_BufferError, "the array has a shape, strides and a format");
        return -1;
    }
    Py_INCREF(self);
    *view = (Py_buffer){.obj = self,
                        .buf = memory->data,
                        .len = memory->size,
                        .readonly = memory->readonly,
                        .itemsize = memory->itemsize,
                        .format = memory->format,
                        .ndim = memory->ndim,
                        .shape = memory->shape,
                        .strides = memory->strides};
    return 0;
}

static PyBufferProcs memory_buffer_procs = {.bf_getbuffer = memory_buffer};

#ifndef Py_TPFLAGS_DISALLOW_INSTANTIATION /* before 3.10: of a static type without tp_new it is so */
#define Py_TPFLAGS_DISALLOW_INSTANTIATION 0UL
#endif

static PyTypeObject memory_type = {PyVarObject_HEAD_INIT(NULL, 0).tp_name = "pycrew.Memory",
                                   .tp_basicsize = sizeof(pc_memory),
                                   .tp_dealloc = memory_dealloc,
                                   .tp_as_buffer = &memory_buffer_procs,
                                   .tp_flags =
                                       Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                                   .tp_doc = "Shared memory that an array or a memoryview is in."};

static pc_memory *new_memory(pc_block *block, bool readonly)
{
    pc_memory *memory = PyObject_New(pc_memory, &memory_type);

    if (memory == NULL)
        return NULL;
    memory->block = block;
    memory->readonly = readonly;
    memory->ndim = -1;
    if (block != NULL)
        block->views++;
    return memory;
}

static PyObject *new_reference(PyObject *object)
{
    Py_INCREF(object);
    return object;
}

/* ---- numpy ---- */

static int keep_attribute(PyObject *module, const char *name, PyObject **ret)
{
    Py_XSETREF(*ret, PyObject_GetAttrString(module, name));
    return *ret == NULL ? -1 : 0;
}

static int use_numpy(PyObject *module)
{
    static const char *const names[PC_DTYPE_OTHER] = {
        [PC_DTYPE_BOOL] = "?", [PC_DTYPE_I8] = "i1",   [PC_DTYPE_I16] = "i2", [PC_DTYPE_I32] = "i4",
        [PC_DTYPE_I64] = "i8", [PC_DTYPE_U8] = "u1",   [PC_DTYPE_U16] = "u2", [PC_DTYPE_U32] = "u4",
        [PC_DTYPE_U64] = "u8", [PC_DTYPE_F16] = "f2",  [PC_DTYPE_F32] = "f4", [PC_DTYPE_F64] = "f8",
        [PC_DTYPE_C64] = "c8", [PC_DTYPE_C128] = "c16"};
    PyObject *package = PyImport_ImportModule("pycrew");
    int rc = package == NULL ? -1 : 0;

    if (rc == 0)
        rc = keep_attribute(package, "_dtype", &numpy.make_dtype);
    if (rc == 0)
        rc = keep_attribute(package, "_dtype_text", &numpy.dtype_text);
    Py_XDECREF(package);
    if (rc == 0)
        rc = keep_attribute(module, "ndarray", &numpy.ndarray);
    if (rc == 0)
        rc = keep_attribute(module, "dtype", &numpy.dtype);
    for (int i = PC_DTYPE_BOOL; rc == 0 && i < PC_DTYPE_OTHER; i++) {
        Py_XSETREF(numpy.dtypes[i], PyObject_CallFunction(numpy.dtype, "s", names[i]));
        rc = numpy.dtypes[i] == NULL ? -1 : 0;
    }
    if (rc == 0)
        Py_XSETREF(numpy.dtypes[PC_DTYPE_OTHER], PyDict_New());
    return rc == 0 && numpy.dtypes[PC_DTYPE_OTHER] != NULL ? 0 : -1;
}

/* 1, 0 where it is not installed, or -1 with an exception. */
static int find_numpy(void)
{
    PyObject *module;
    int rc;

    if (numpy.found != 0)
        return numpy.found > 0;
    module = PyImport_ImportModule("numpy");
    if (module == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_ModuleNotFoundError))
            return -1;
        PyErr_Clear();
        numpy.found = -1;
        return 0;
    }
    rc = use_numpy(module);
    Py_DECREF(module);
    if (rc < 0)
        return -1;
    numpy.found = 1;
    return 1;
}

bool pc_array_may_import(void)
{
    return numpy.found == 0;
}

/* Borrowed. The texts that come are few. */
static PyObject *dtype_by_text(const char *text, size_t size)
{
    PyObject *name = PyUnicode_DecodeUTF8(text, (Py_ssize_t)size, NULL), *found, *dtype;
    PyObject *known = numpy.dtypes[PC_DTYPE_OTHER];

    if (name == NULL)
        return NULL;
    found = PyDict_GetItemWithError(known, name);
    if (found == NULL && !PyErr_Occurred()) {
        dtype = PyObject_CallFunctionObjArgs(numpy.make_dtype, name, NULL);
        if (dtype != NULL && PyDict_SetItem(known, name, dtype) == 0)
            found = dtype;
        Py_XDECREF(dtype);
    }
    Py_DECREF(name);
    return found;
}

static PyObject *tuple_of(const int64_t *words, int count)
{
    PyObject *tuple = PyTuple_New(count);

    for (int i = 0; tuple != NULL && i < count; i++) {
        PyObject *word = PyLong_FromLongLong(words[i]);

        if (word == NULL) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, i, word);
    }
    return tuple;
}

static int check_itemsize(PyObject *dtype, uint32_t itemsize)
{
    PyObject *attribute = PyObject_GetAttrString(dtype, "itemsize");
    long long size = attribute == NULL ? -1 : PyLong_AsLongLong(attribute);

    Py_XDECREF(attribute);
    if (size < 0 && PyErr_Occurred())
        return -1;
    if (size == (long long)itemsize)
        return 0;
    PyErr_Format(PyExc_ValueError, "the array's itemsize is %u, but %R has %lld bytes",
                 (unsigned)itemsize, dtype, size);
    return -1;
}

static PyObject *dtype_of(const pc_array *array)
{
    PyObject *dtype;

    if (array->dtype != PC_DTYPE_OTHER)
        return numpy.dtypes[array->dtype];
    dtype = dtype_by_text(array->format, array->format_size);
    return dtype == NULL || check_itemsize(dtype, array->itemsize) < 0 ? NULL : dtype;
}

/* The reference to memory goes with it; NULL where there are no elements. */
static PyObject *numpy_array(const pc_array *array, PyObject *dtype, pc_memory *memory)
{
    PyObject *shape = tuple_of(array->shape, array->ndim);
    PyObject *strides = memory == NULL || pc_array_is_contiguous(array, false)
                            ? new_reference(Py_None)
                            : tuple_of(array->strides, array->ndim);
    PyObject *offset = memory == NULL ? NULL : PyLong_FromSsize_t(memory->data - memory->start);
    PyObject *made = NULL;

    if (memory != NULL && shape != NULL && strides != NULL && offset != NULL)
        made = PyObject_CallFunctionObjArgs(numpy.ndarray, shape, dtype, (PyObject *)memory, offset,
                                            strides, NULL);
    else if (memory == NULL && shape != NULL)
        made = PyObject_CallFunctionObjArgs(numpy.ndarray, shape, dtype, NULL);
    Py_XDECREF(shape);
    Py_XDECREF(strides);
    Py_XDECREF(offset);
    Py_XDECREF((PyObject *)memory);
    return made;
}

/* ---- without numpy ---- */

static const char *const struct_codes[PC_DTYPE_OTHER] = {
    [PC_DTYPE_BOOL] = "?", [PC_DTYPE_I8] = "b",   [PC_DTYPE_I16] = "h", [PC_DTYPE_I32] = "i",
    [PC_DTYPE_I64] = "q",  [PC_DTYPE_U8] = "B",   [PC_DTYPE_U16] = "H", [PC_DTYPE_U32] = "I",
    [PC_DTYPE_U64] = "Q",  [PC_DTYPE_F16] = "e",  [PC_DTYPE_F32] = "f", [PC_DTYPE_F64] = "d",
    [PC_DTYPE_C64] = "Zf", [PC_DTYPE_C128] = "Zd"};

/* A type that only numpy knows is so many bytes. */
static PyObject *memoryview_of(const pc_array *array, pc_memory *memory)
{
    static uint8_t nothing;
    PyObject *made;

    if (memory == NULL)
        memory = new_memory(NULL, !array->writable);
    if (memory == NULL)
        return NULL;
    if (memory->block == NULL)
        memory->start = memory->data = &nothing;
    memory->size = (Py_ssize_t)array->bytes;
    memory->ndim = array->ndim;
    memory->itemsize = (Py_ssize_t)array->itemsize;
    for (int i = 0; i < array->ndim; i++) {
        memory->shape[i] = (Py_ssize_t)array->shape[i];
        memory->strides[i] = (Py_ssize_t)array->strides[i];
    }
    if (array->dtype == PC_DTYPE_OTHER)
        snprintf(memory->format, sizeof memory->format, "%us", (unsigned)array->itemsize);
    else
        snprintf(memory->format, sizeof memory->format, "%s", struct_codes[array->dtype]);
    made = PyMemoryView_FromObject((PyObject *)memory);
    Py_DECREF((PyObject *)memory);
    return made;
}

/* ---- arguments ---- */

/* With a text, which PyErr_NoMemory() has not: it becomes the error's message. */
static void raise_no_memory(void)
{
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_MemoryError, "no memory is left in the worker");
}

static PyObject *malformed(void)
{
    PyErr_SetString(PyExc_SystemError, "malformed array in shared memory");
    return NULL;
}

static bool is_inside(const pc_array *array)
{
    uint64_t low = array->data + (uint64_t)array->low;

    return pc_segment_holds(segment(), low, (uint64_t)(array->high - array->low)) &&
           pc_segment_holds(segment(), array->base, 1) && low >= array->base &&
           array->cell % sizeof(uint32_t) == 0 &&
           pc_segment_holds(segment(), array->cell, segment()->config.workers * sizeof(uint32_t));
}

static pc_block *argument_block(const pc_array *array)
{
    uint64_t low = array->data + (uint64_t)array->low, high = array->data + (uint64_t)array->high;
    pc_block *block = find_block(array->base);

    if (block == NULL)
        block = new_block(array->base, low, high);
    if (block == NULL)
        return NULL;
    if (!block->own) {
        pthread_mutex_lock(&blocks.lock);
        block->low = low < block->low ? low : block->low;
        block->high = high > block->high ? high : block->high;
        pthread_mutex_unlock(&blocks.lock);
        note_large(block);
        block->cell = array->cell;
    }
    if (!block->argument) {
        block->argument = true;
        block->next_argument = blocks.arguments;
        blocks.arguments = block;
    }
    return block;
}

static pc_memory *memory_of(const pc_array *array, pc_block *block, bool readonly)
{
    pc_memory *memory = new_memory(block, readonly);

    if (memory == NULL)
        return NULL;
    memory->data = pc_segment_at(segment(), array->data);
    memory->start = memory->data + array->low;
    memory->size = (Py_ssize_t)(array->high - array->low);
    return memory;
}

PyObject *pc_array_decode(const pc_view *view)
{
    pc_memory *memory = NULL;
    PyObject *dtype = NULL;
    pc_block *block;
    pc_array array;
    int with_numpy;

    if (blocks.worker == NULL || pc_array_read(view, &array) < 0)
        return malformed();
    with_numpy = find_numpy();
    if (with_numpy < 0 || (with_numpy > 0 && (dtype = dtype_of(&array)) == NULL))
        return NULL;
    if (array.bytes > 0) {
        if (!is_inside(&array))
            return malformed();
        pc_array_used = true;
        block = argument_block(&array);
        memory = block == NULL ? NULL : memory_of(&array, block, !array.writable);
        if (memory == NULL) {
            raise_no_memory();
            return NULL;
        }
    }
    return with_numpy ? numpy_array(&array, dtype, memory) : memoryview_of(&array, memory);
}

/* ---- results ---- */

static int note_given(pc_block *block, uint64_t copy)
{
    if (blocks.given_count == blocks.given_capacity) {
        size_t capacity = 2 * blocks.given_capacity + 8;
        pc_given *grown = realloc(blocks.given, capacity * sizeof grown[0]);

        if (grown == NULL)
            return -ENOMEM;
        blocks.given = grown;
        blocks.given_capacity = capacity;
    }
    pc_array_used = true;
    blocks.given[blocks.given_count++] = (pc_given){block, copy};
    return 0;
}

/* Whether the host may be told of [low, low + size) as a part of this block. */
static bool is_around(const pc_block *block, uint64_t low, uint64_t size)
{
    return block != NULL && (block->own || block->argument) && low >= block->low &&
           low <= block->high && size <= block->high - low;
}

/* The block that [low, low + size) is in, if Python sees it and the host may be told of it. Not looked for
 * among all: an item of a result may be any of thousands of arguments. */
static pc_block *block_around(uint64_t low, uint64_t size)
{
    for (unsigned class = 0; class < PC_HEAP_CLASSES; class++) {
        pc_block *block = find_block(pc_heap_block_around(segment(), low, class));

        if (is_around(block, low, size))
            return block;
    }
    for (pc_block *block = blocks.large; block != NULL; block = block->next_large)
        if (is_around(block, low, size))
            return block;
    return NULL;
}

/* Less than half of a block is not worth keeping the rest for. */
static bool is_to_be_given(const pc_block *block, const pc_array *array)
{
    return block->own && !block->leased &&
           (uint64_t)(array->high - array->low) > (block->high - block->low) / 2;
}

static int lease(pc_block *block, uint64_t end)
{
    uint64_t *cell;
    int rc = pc_run_alloc(blocks.worker, CELL_SIZE, CELL_SIZE, &block->cell);

    if (rc < 0)
        return rc;
    rc = note_given(block, 0);
    if (rc < 0) {
        pc_heap_free(&blocks.worker->heap, block->cell);
        block->cell = 0;
        return rc;
    }
    cell = pc_segment_at(segment(), block->cell);
    cell[1] = block->base;
    block->leased = true;
    block->given = end;
    return 0;
}

/* Where the elements stand in the segment, if they need no copy: 1, 0, or a negative errno. */
static int find_place(const uint8_t *data, pc_array *array)
{
    uint64_t at = (uint64_t)(data - segment()->base), low = at + (uint64_t)array->low;
    pc_block *block;
    int rc;

    if (data < segment()->base || at >= segment()->size)
        return 0;
    /* The host may have given it back by now. (A list that is broken: see take_back in loop.c.) */
    if (!pc_heap_take_back(&blocks.worker->heap, blocks.worker->number))
        abort();
    block = block_around(low, (uint64_t)(array->high - array->low));
    if (block == NULL || (!block->argument && !is_to_be_given(block, array)))
        return 0;
    /* Of a block of our own the host knows as much as it was given, argument or not. */
    if (block->argument && block->own && at + (uint64_t)array->high > block->given)
        return 0;
    if (!block->argument && (rc = lease(block, at + (uint64_t)array->high)) < 0)
        return rc;
    array->base = block->base;
    array->cell = block->own ? block->cell : 0;
    array->data = at;
    return 1;
}

/* A copy's own: without gaps, in the order that it has. view: how to, where strides do not say. */
static int copy_out(const uint8_t *data, pc_array *array, Py_buffer *view)
{
    bool fortran = !pc_array_is_contiguous(array, false) && pc_array_is_contiguous(array, true);
    pc_array from = *array;
    uint64_t block;
    int rc = pc_run_alloc(blocks.worker, array->bytes, array->bytes, &block);

    if (rc < 0)
        return rc;
    rc = note_given(NULL, block);
    if (rc < 0) {
        pc_heap_free(&blocks.worker->heap, block);
        return rc;
    }
    pc_array_set_strides(array, fortran);
    array->base = array->cell = array->data = block;
    if (view != NULL && view->suboffsets != NULL)
        return PyBuffer_ToContiguous(pc_segment_at(segment(), block), view, view->len, 'C');
    pc_array_copy(array, pc_segment_at(segment(), block), array->strides, data, from.strides);
    return 0;
}

/* A measured array whose first element is at data. 1, or as pc_array_encode. */
static int give(pc_writer *writer, const uint8_t *data, pc_array *array, Py_buffer *view)
{
    int rc = 1;

    array->base = array->cell = array->data = 0;
    array->writable = false;
    if (array->bytes > 0) {
        rc = view != NULL && view->suboffsets != NULL ? 0 : find_place(data, array);
        if (rc == 0)
            rc = copy_out(data, array, view);
        if (rc < 0)
            return rc;
    }
    rc = pc_array_write(writer, array);
    return rc < 0 ? rc : 1;
}

/* ---- results that are numpy's ---- */

/* What __array_struct__ points to: numpy's documentation of the array interface. */
typedef struct pc_interface {
    int two, nd;
    char typekind;
    int itemsize, flags;
    Py_intptr_t *shape, *strides;
    void *data;
    PyObject *descr;
} pc_interface;

enum { NOT_SWAPPED = 0x200 };

/* OTHER where no code says it. */
static enum pc_dtype dtype_code(char kind, int size, bool swapped)
{
    static const struct {
        char kind;
        enum pc_dtype first, last;
    } kinds[] = {{'b', PC_DTYPE_BOOL, PC_DTYPE_BOOL},
                 {'i', PC_DTYPE_I8, PC_DTYPE_I64},
                 {'u', PC_DTYPE_U8, PC_DTYPE_U64},
                 {'f', PC_DTYPE_F16, PC_DTYPE_F64},
                 {'c', PC_DTYPE_C64, PC_DTYPE_C128}};

    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0] && (!swapped || size == 1); i++)
        for (enum pc_dtype code = kinds[i].first; kinds[i].kind == kind && code <= kinds[i].last;
             code++)
            if ((int)pc_dtype_size(code) == size)
                return code;
    return PC_DTYPE_OTHER;
}

/* The text of the type: a new reference; None where it holds objects. */
static PyObject *text_of(PyObject *object)
{
    PyObject *dtype = PyObject_GetAttrString(object, "dtype");
    PyObject *text =
        dtype == NULL ? NULL : PyObject_CallFunctionObjArgs(numpy.dtype_text, dtype, NULL);

    Py_XDECREF(dtype);
    return text;
}

static int set_text(pc_array *array, PyObject *text)
{
    Py_ssize_t size;

    array->format = PyUnicode_AsUTF8AndSize(text, &size);
    array->format_size = (size_t)size;
    if (array->format == NULL)
        return -1;
    return size > 0 && size <= PC_ARRAY_FORMAT_MAX - 16 ? 1 : 0;
}

static int take_interface(const pc_interface *from, pc_array *to)
{
    if (from->nd > PC_ARRAY_DIMS)
        return 0;
    to->dtype = (uint8_t)dtype_code(from->typekind, from->itemsize, !(from->flags & NOT_SWAPPED));
    to->itemsize = (uint32_t)from->itemsize;
    to->ndim = from->nd;
    for (int i = 0; i < from->nd; i++) {
        to->shape[i] = from->shape[i];
        to->strides[i] = from->strides[i];
    }
    return pc_array_measure(to) == PC_ARRAY_GOOD;
}

static int encode_interface(pc_writer *writer, PyObject *object, const pc_interface *from)
{
    PyObject *text = NULL;
    pc_array array;
    int rc = take_interface(from, &array);

    if (rc > 0 && array.dtype == PC_DTYPE_OTHER) {
        text = text_of(object);
        rc = text == NULL ? -1 : text == Py_None ? 0 : set_text(&array, text);
    }
    if (rc > 0)
        rc = give(writer, from->data, &array, NULL);
    Py_XDECREF(text);
    return rc;
}

static int encode_ndarray(pc_writer *writer, PyObject *object)
{
    PyObject *capsule = PyObject_GetAttrString(object, "__array_struct__");
    const pc_interface *interface = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, NULL);
    int rc = interface == NULL ? -1 : encode_interface(writer, object, interface);

    Py_XDECREF(capsule);
    return rc;
}

/* ---- results that are buffers ---- */

/* 1; 0: a format of struct's that numpy's texts do not have, or that is of no single value. text
 * has room for the text. */
static int take_format(const Py_buffer *view, pc_array *array, char text[32])
{
    const char *at = view->format == NULL ? "B" : view->format;
    bool big = *at == '>' || *at == '!';
    char *end;
    char kind;

    if (strchr("@=<>!^", *at) != NULL && *at != '\0')
        at++;
    kind = strchr("bhilqn", *at)   ? 'i'
           : strchr("BHILQN", *at) ? 'u'
           : strchr("efd", *at)    ? 'f'
                                   : 'V';
    if (*at == '?')
        kind = 'b';
    if (*at == 'Z' && (at[1] == 'f' || at[1] == 'd')) {
        kind = 'c';
        at++;
    }
    if (*at == '\0' || view->itemsize > INT32_MAX)
        return 0;
    array->itemsize = (uint32_t)view->itemsize;
    array->dtype = PC_DTYPE_OTHER;
    array->format = text;
    if (kind != 'V') {
        array->dtype = (uint8_t)dtype_code(kind, (int)view->itemsize, big);
        array->format_size = (size_t)snprintf(text, 32, ">%c%zd", kind, view->itemsize);
        return at[1] == '\0' && (array->dtype != PC_DTYPE_OTHER || big);
    }
    if (*at == 'c' && at[1] == '\0')
        strcpy(text, "|S1");
    else if (strtoul(at, &end, 10) == (unsigned long)view->itemsize && strcmp(end, "s") == 0)
        snprintf(text, 32, "|S%zd", view->itemsize);
    else
        return 0;
    array->format_size = strlen(text);
    return 1;
}

static int take_buffer(const Py_buffer *view, pc_array *array, char text[32])
{
    if (view->ndim > PC_ARRAY_DIMS || view->itemsize > INT32_MAX || !take_format(view, array, text))
        return 0;
    array->ndim = view->ndim;
    for (int i = 0; i < view->ndim; i++) {
        array->shape[i] = view->shape[i];
        array->strides[i] = view->strides[i];
    }
    return pc_array_measure(array) == PC_ARRAY_GOOD;
}

static int encode_buffer(pc_writer *writer, PyObject *object)
{
    pc_array array;
    Py_buffer view;
    char text[32];
    int rc;

    if (PyObject_GetBuffer(object, &view, PyBUF_FULL_RO) < 0)
        return -1;
    rc = take_buffer(&view, &array, text);
    if (rc > 0)
        rc = give(writer, view.buf, &array, &view);
    PyBuffer_Release(&view);
    return rc;
}

int pc_array_encode(pc_writer *writer, PyObject *object)
{
    int with_numpy;

    if (blocks.worker == NULL || blocks.in_child)
        return 0;
    if (PyMemoryView_Check(object) || PyByteArray_Check(object))
        return encode_buffer(writer, object);
    with_numpy = find_numpy();
    if (with_numpy <= 0)
        return with_numpy;
    /* No subclasses: a masked array's memory is not all of it. */
    return Py_IS_TYPE(object, (PyTypeObject *)numpy.ndarray) ? encode_ndarray(writer, object) : 0;
}

/* ---- arguments of host functions ---- */

static int write_whole(pc_writer *writer, const pc_interface *from)
{
    pc_array array, source;
    void *elements;
    bool fortran;
    int rc = take_interface(from, &array);

    if (rc <= 0 || array.dtype == PC_DTYPE_OTHER)
        return rc < 0 ? rc : 0;
    source = array;
    fortran = !pc_array_is_contiguous(&array, false) && pc_array_is_contiguous(&array, true);
    pc_array_set_strides(&array, fortran);
    pc_array_measure(&array);
    rc = pc_array_write_whole(writer, &array, &elements);
    if (rc < 0)
        return rc;
    pc_array_copy(&array, elements, array.strides, from->data, source.strides);
    return 1;
}

int pc_array_encode_whole(pc_writer *writer, PyObject *object)
{
    const pc_interface *interface;
    PyObject *capsule;
    int rc = find_numpy();

    if (rc <= 0 || !Py_IS_TYPE(object, (PyTypeObject *)numpy.ndarray))
        return rc < 0 ? rc : 0;
    capsule = PyObject_GetAttrString(object, "__array_struct__");
    interface = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, NULL);
    rc = interface == NULL ? -1 : write_whole(writer, interface);
    Py_XDECREF(capsule);
    return rc;
}

/* ---- the end of a call ---- */

static void take_back_given(void)
{
    for (size_t i = 0; i < blocks.given_count; i++) {
        pc_block *block = blocks.given[i].block;

        if (block == NULL) {
            pc_heap_free(&blocks.worker->heap, blocks.given[i].copy);
            continue;
        }
        pc_heap_free(&blocks.worker->heap, block->cell);
        block->cell = 0;
        block->leased = false;
        settle_block(block);
    }
}

/* Of an argument that is our own, we know ourselves. */
static bool retain(pc_block *block)
{
    bool sees = block->views > 0 && !block->own;

    block->argument = false;
    if (sees) {
        block->retained = true;
        set_word(block, blocks.worker->incarnation);
    }
    settle_block(block);
    return sees;
}

uint32_t pc_array_end_call(bool returned)
{
    uint32_t flags = returned ? PC_ANSWER_ARRAYS : 0;
    pc_block *block = blocks.arguments;

    if (!returned)
        take_back_given();
    blocks.given_count = 0;
    blocks.arguments = NULL;
    while (block != NULL) {
        pc_block *next = block->next_argument;

        if (retain(block))
            flags |= PC_ANSWER_RETAINED;
        block = next;
    }
    pc_array_used = false;
    return flags;
}

/* ---- calls that wait, while others run ---- */

struct pc_array_held {
    size_t count;
    pc_block *blocks[];
};

pc_array_held *pc_array_suspend(void)
{
    size_t count = 0;
    pc_array_held *held;

    for (pc_block *block = blocks.arguments; block != NULL; block = block->next_argument)
        count++;
    held = malloc(sizeof *held + count * sizeof held->blocks[0]);
    if (held == NULL)
        abort(); /* the sweep frees what we have */
    held->count = 0;
    for (pc_block *block = blocks.arguments; block != NULL; block = block->next_argument) {
        held->blocks[held->count++] = block;
        block->suspended++;
        block->argument = false;
    }
    blocks.arguments = NULL;
    pc_array_used = false;
    return held;
}

void pc_array_resume(pc_array_held *held)
{
    for (size_t i = 0; i < held->count; i++) {
        pc_block *block = held->blocks[i];

        block->suspended--;
        block->argument = true;
        block->next_argument = blocks.arguments;
        blocks.arguments = block;
    }
    free(held);
    pc_array_used = true;
}

/* ---- pycrew.empty ---- */

static int take_dimension(PyObject *object, int64_t *ret)
{
    PyObject *index = PyNumber_Index(object);

    *ret = index == NULL ? -1 : PyLong_AsLongLong(index);
    Py_XDECREF(index);
    if (*ret >= 0)
        return 0;
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "pycrew.empty: negative dimensions are not allowed");
    return -1;
}

/* An int, or a sequence of ints. */
static int take_shape(PyObject *shape, pc_array *array)
{
    PyObject *sequence;
    int rc = 0;

    array->ndim = 1;
    if (PyIndex_Check(shape))
        return take_dimension(shape, &array->shape[0]);
    sequence = PySequence_Fast(shape, "pycrew.empty: shape must be an int, or a tuple of ints");
    if (sequence == NULL)
        return -1;
    if (PySequence_Fast_GET_SIZE(sequence) > PC_ARRAY_DIMS) {
        PyErr_Format(PyExc_ValueError, "pycrew.empty: more than %d dimensions", PC_ARRAY_DIMS);
        rc = -1;
    }
    array->ndim = rc == 0 ? (int)PySequence_Fast_GET_SIZE(sequence) : 0;
    for (int i = 0; rc == 0 && i < array->ndim; i++)
        rc = take_dimension(PySequence_Fast_GET_ITEM(sequence, i), &array->shape[i]);
    Py_DECREF(sequence);
    return rc;
}

static bool has_objects(PyObject *dtype)
{
    PyObject *attribute = PyObject_GetAttrString(dtype, "hasobject");
    int is = attribute == NULL ? -1 : PyObject_IsTrue(attribute);

    Py_XDECREF(attribute);
    if (is == 0)
        return false;
    if (is > 0)
        PyErr_SetString(PyExc_TypeError, "pycrew.empty: an array of Python objects cannot be in shared memory");
    return true;
}

/* numpy's type: a new reference. */
static PyObject *take_dtype(PyObject *given, pc_array *array)
{
    PyObject *dtype = given == NULL ? new_reference(numpy.dtypes[PC_DTYPE_F64])
                                    : PyObject_CallFunctionObjArgs(numpy.dtype, given, NULL);
    PyObject *size;

    if (dtype == NULL || has_objects(dtype)) {
        Py_XDECREF(dtype);
        return NULL;
    }
    size = PyObject_GetAttrString(dtype, "itemsize");
    array->itemsize = size == NULL ? 0 : (uint32_t)PyLong_AsUnsignedLong(size);
    Py_XDECREF(size);
    if (size == NULL)
        Py_CLEAR(dtype);
    return dtype;
}

static int take_name(PyObject *given, pc_array *array)
{
    static const char *const names[PC_DTYPE_OTHER] = {
        [PC_DTYPE_BOOL] = "bool",     [PC_DTYPE_I8] = "int8",        [PC_DTYPE_I16] = "int16",
        [PC_DTYPE_I32] = "int32",     [PC_DTYPE_I64] = "int64",      [PC_DTYPE_U8] = "uint8",
        [PC_DTYPE_U16] = "uint16",    [PC_DTYPE_U32] = "uint32",     [PC_DTYPE_U64] = "uint64",
        [PC_DTYPE_F16] = "float16",   [PC_DTYPE_F32] = "float32",    [PC_DTYPE_F64] = "float64",
        [PC_DTYPE_C64] = "complex64", [PC_DTYPE_C128] = "complex128"};
    const char *name = given == NULL ? "float64" : PyUnicode_AsUTF8(given);

    for (int i = PC_DTYPE_BOOL; name != NULL && i < PC_DTYPE_OTHER; i++)
        if (strcmp(name, names[i]) == 0 || strcmp(name, struct_codes[i]) == 0) {
            array->dtype = (uint8_t)i;
            array->itemsize = pc_dtype_size((unsigned)i);
            return 0;
        }
    if (name != NULL)
        PyErr_Format(PyExc_TypeError, "pycrew.empty: the dtype '%s' needs numpy, which is not installed", name);
    return -1;
}

static pc_memory *new_own(pc_array *array)
{
    uint64_t base;
    pc_block *block;
    pc_memory *memory;
    int rc = pc_run_alloc(blocks.worker, array->bytes, array->bytes, &base);

    if (rc < 0) {
        PyErr_Format(PyExc_MemoryError, "pycrew.empty: %llu bytes %s the crew's shared memory: raise options.memory",
                     (unsigned long long)array->bytes, rc == -E2BIG ? "exceed" : "are not left in");
        return NULL;
    }
    block = new_block(base, base, base + array->bytes);
    if (block == NULL) {
        pc_heap_free(&blocks.worker->heap, base);
        raise_no_memory();
        return NULL;
    }
    block->own = true;
    array->base = array->data = base;
    memory = memory_of(array, block, false);
    if (memory == NULL)
        settle_block(block);
    return memory;
}

static PyObject *make_empty(PyObject *shape, PyObject *given, PyObject **dtype, int with_numpy)
{
    pc_array array = {.dtype = PC_DTYPE_OTHER, .writable = true};
    pc_memory *memory = NULL;

    if (take_shape(shape, &array) < 0)
        return NULL;
    if (with_numpy) {
        *dtype = take_dtype(given, &array);
        if (*dtype == NULL)
            return NULL;
    } else if (take_name(given, &array) < 0) {
        return NULL;
    }
    if (pc_array_set_strides(&array, false) != PC_ARRAY_GOOD) {
        PyErr_SetString(PyExc_ValueError, "pycrew.empty: the product of shape and itemsize exceeds 2**63 - 1");
        return NULL;
    }
    if (array.bytes > 0 && (memory = new_own(&array)) == NULL)
        return NULL;
    return with_numpy ? numpy_array(&array, *dtype, memory) : memoryview_of(&array, memory);
}

static PyObject *empty(PyObject *self, PyObject *arguments, PyObject *keywords)
{
    static char *names[] = {"shape", "dtype", NULL};
    PyObject *shape, *given = NULL, *dtype = NULL, *made;
    int with_numpy;

    (void)self;
    if (!PyArg_ParseTupleAndKeywords(arguments, keywords, "O|O:empty", names, &shape, &given))
        return NULL;
    if (blocks.worker == NULL || blocks.in_child) {
        PyErr_SetString(PyExc_RuntimeError,
                        "there is no shared memory here: pycrew.empty is for calls, "
                        "not for preload, init or a worker's children");
        return NULL;
    }
    with_numpy = find_numpy();
    if (with_numpy < 0)
        return NULL;
    made = make_empty(shape, given, &dtype, with_numpy);
    Py_XDECREF(dtype);
    return made;
}

static PyMethodDef methods[] = {
    {"empty", (PyCFunction)(void (*)(void))empty, METH_VARARGS | METH_KEYWORDS,
     "empty(shape, dtype=float) -> an array in the crew's shared memory, with arbitrary elements: "
     "returned from the call, it is not copied"},
    {NULL, NULL, 0, NULL}};

int pc_array_init(PyObject *module)
{
    if (PyType_Ready(&memory_type) < 0)
        return -1;
    return PyModule_AddFunctions(module, methods);
}
