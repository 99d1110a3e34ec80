/* array: arrays in and out; which blocks they are in, and how long those stay. */
#include "lib/array.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/overlap.h"
#include "lib/result.h"
#include "lib/shm/array.h"

static_assert((int)PYCREW_OTHER == (int)PC_DTYPE_OTHER && (int)PYCREW_BOOL == (int)PC_DTYPE_BOOL &&
                  (int)PYCREW_F64 == (int)PC_DTYPE_F64 && (int)PYCREW_C128 == (int)PC_DTYPE_C128,
              "dtypes are the same on the wire");
static_assert((int)PYCREW_MAX_DIMS == (int)PC_ARRAY_DIMS, "so are the dimensions");

enum {
    ALL_FLAGS = PYCREW_WRITABLE | PYCREW_COPY_BACK | PYCREW_STRIDED | PYCREW_FORTRAN,
    FEW_USES = 8,
    SETTLE_LOOKS = 16,  /* blocks kept for workers that are looked at in passing */
    FORMATS_MAX = 4096, /* texts of types that a crew remembers */
    CREWS_MAX = 64,
    BLOCK_ALIGN = 64
};

struct pc_held {
    uint64_t block, size; /* what elements may be in */
    uint64_t cell;        /* the workers' words, a block of the host's; 0: none yet */
    unsigned refs;        /* all below, and the calls */
    unsigned takes;       /* the user's */
    bool allocated;       /* the user's from pycrew_alloc, not freed yet */
    unsigned *retained;   /* by worker: its incarnation that has views; 0: none. NULL: never any */
    pc_lease_node lease;  /* of a worker's block; else lease.lease.block is 0 */
    const pycrew_call *result_of; /* whose result it came in, until that is released */
    struct pc_held *next;         /* of those that linger */
};

typedef struct pc_format_text {
    struct pc_format_text *next;
    size_t size;
    char text[];
} pc_format_text;

struct pc_arrays {
    pthread_mutex_t lock;
    pc_held **held; /* by block, ascending; they do not overlap */
    size_t count, capacity;
    pc_held *lingering, **lingering_end;
    unsigned lingering_count;
    pc_format_text *formats;
    unsigned format_count;
    pycrew_crew *crew;
};

/* Where the elements of a copy are copied back to. */
typedef struct pc_back {
    pycrew_array to;
    int64_t strides[PC_ARRAY_DIMS]; /* of the copy */
} pc_back;

typedef struct pc_use {
    pc_held *held;
    pc_back *back; /* or NULL */
    bool copied;
} pc_use;

struct pc_call_arrays {
    pc_use *uses;
    unsigned use_count, use_capacity;
    pc_claims *claims; /* of the elements, as the user has them */
    pc_held **by_block; /* those of uses, ascending; NULL: few, or no memory */
    pc_held **results;
    unsigned result_count, result_capacity;
};

/* Where the crews of this process have their memory: an array of another one is told apart from
 * memory from elsewhere. Without a lock, which a fork could find taken; and by process, since a
 * child has other things there. With more crews than these, the others' arrays are copied. */
static struct {
    _Atomic(const pycrew_crew *) crew;
    _Atomic uintptr_t low, high;
    _Atomic int process;
} crews[CREWS_MAX];

static int out_of_memory(void)
{
    return pc_fail(-ENOMEM, "no memory is left");
}

/* ---- held blocks; under arrays->lock ---- */

/* The place of the first block that starts behind offset. */
static size_t place_behind(const pc_arrays *arrays, uint64_t offset)
{
    size_t low = 0, high = arrays->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (arrays->held[middle]->block <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static pc_held *find_held(const pc_arrays *arrays, uint64_t offset)
{
    size_t place = place_behind(arrays, offset);
    pc_held *held = place > 0 ? arrays->held[place - 1] : NULL;

    return held != NULL && offset - held->block < held->size ? held : NULL;
}

static bool grow_held(pc_arrays *arrays)
{
    size_t capacity = arrays->capacity * 2 + 64;
    pc_held **grown = realloc(arrays->held, capacity * sizeof grown[0]);

    if (grown == NULL)
        return false;
    arrays->held = grown;
    arrays->capacity = capacity;
    return true;
}

/* 0; -ENOMEM; -EBADMSG: it overlaps another. */
static int insert_held(pc_arrays *arrays, pc_held *held)
{
    size_t place = place_behind(arrays, held->block);

    if (place > 0 && held->block - arrays->held[place - 1]->block < arrays->held[place - 1]->size)
        return -EBADMSG;
    if (place < arrays->count && arrays->held[place]->block - held->block < held->size)
        return -EBADMSG;
    if (arrays->count == arrays->capacity && !grow_held(arrays))
        return -ENOMEM;
    memmove(arrays->held + place + 1, arrays->held + place,
            (arrays->count - place) * sizeof arrays->held[0]);
    arrays->held[place] = held;
    arrays->count++;
    return 0;
}

static void remove_held(pc_arrays *arrays, const pc_held *held)
{
    size_t place = place_behind(arrays, held->block) - 1;

    assert(arrays->held[place] == held);
    arrays->count--;
    memmove(arrays->held + place, arrays->held + place + 1,
            (arrays->count - place) * sizeof arrays->held[0]);
}

static void free_record(pc_held *held)
{
    free(held->retained);
    free(held);
}

/* Nobody can refer to it any more. */
static void end_held(pc_arrays *arrays, pc_held *held)
{
    pycrew_crew *crew = arrays->crew;

    remove_held(arrays, held);
    if (atomic_load(&held->lease.lease.block) != 0)
        pc_lease_drop(crew, &held->lease);
    else
        pc_memory_free(crew, held->block);
    pc_memory_free(crew, held->cell);
    free_record(held);
}

static _Atomic uint32_t *worker_word(const pycrew_crew *crew, const pc_held *held, unsigned worker)
{
    return (_Atomic uint32_t *)pc_segment_at(&crew->segment, held->cell) + worker;
}

static bool worker_sees(pycrew_crew *crew, const pc_held *held, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    bool lives;

    pthread_mutex_lock(&w->lock);
    lives = w->alive && w->incarnation == held->retained[worker];
    pthread_mutex_unlock(&w->lock);
    /* A1: acquire, pairs with the release of the worker's 0: its last look was before. */
    return lives &&
           atomic_load_explicit(worker_word(crew, held, worker), memory_order_acquire) ==
               held->retained[worker]; /* another's is what a dead one left */
}

static bool is_retained(pycrew_crew *crew, pc_held *held)
{
    if (held->retained == NULL)
        return false;
    for (unsigned i = 0; i < crew->workers; i++) {
        if (held->retained[i] == 0)
            continue;
        if (worker_sees(crew, held, i))
            return true;
        held->retained[i] = 0;
    }
    return false;
}

static void linger(pc_arrays *arrays, pc_held *held)
{
    held->next = NULL;
    *arrays->lingering_end = held;
    arrays->lingering_end = &held->next;
    arrays->lingering_count++;
}

static void settle(pc_arrays *arrays, unsigned looks)
{
    for (; looks > 0 && arrays->lingering != NULL; looks--) {
        pc_held *held = arrays->lingering;

        arrays->lingering = held->next;
        if (arrays->lingering == NULL)
            arrays->lingering_end = &arrays->lingering;
        arrays->lingering_count--;
        if (is_retained(arrays->crew, held))
            linger(arrays, held);
        else
            end_held(arrays, held);
    }
}

static void drop_ref(pc_arrays *arrays, pc_held *held)
{
    if (--held->refs > 0)
        return;
    if (is_retained(arrays->crew, held)) {
        linger(arrays, held);
    } else {
        end_held(arrays, held);
    }
}

static void lock(pc_arrays *arrays)
{
    pthread_mutex_lock(&arrays->lock);
}

static void unlock(pc_arrays *arrays)
{
    pthread_mutex_unlock(&arrays->lock);
}

void pc_arrays_settle(pycrew_crew *crew)
{
    pc_arrays *arrays = crew->arrays;

    if (arrays == NULL)
        return;
    lock(arrays);
    settle(arrays, arrays->lingering_count);
    unlock(arrays);
}

/* ---- memory ---- */

static int alloc(pycrew_crew *crew, size_t size, uint64_t *ret)
{
    int rc;

    lock(crew->arrays);
    settle(crew->arrays, SETTLE_LOOKS);
    unlock(crew->arrays);
    rc = pc_memory_alloc(crew, size, ret);
    if (rc != -ENOMEM)
        return rc;
    pc_arrays_settle(crew);
    return pc_memory_alloc(crew, size, ret);
}

static int fail_alloc(const pycrew_crew *crew, int rc, size_t size)
{
    if (rc == -E2BIG)
        return pc_fail(rc, "%zu bytes exceed the crew's shared memory (%zu bytes): raise options.memory", size,
                       crew->segment.size);
    return pc_fail(rc, "no shared memory is left for %zu bytes: release calls and arrays, or raise options.memory",
                   size);
}

/* A block of the host's with one ref. */
static int new_block(pycrew_crew *crew, size_t size, bool allocated, pc_held **ret)
{
    pc_held *held = calloc(1, sizeof *held);
    bool inserted;
    int rc;

    if (held == NULL)
        return out_of_memory();
    rc = alloc(crew, size > 0 ? size : 1, &held->block);
    if (rc < 0) {
        free(held);
        return fail_alloc(crew, rc, size);
    }
    held->size = (size + BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
    held->refs = 1;
    held->allocated = allocated;
    lock(crew->arrays);
    inserted = insert_held(crew->arrays, held) == 0;
    unlock(crew->arrays);
    if (!inserted) {
        pc_memory_free(crew, held->block);
        free(held);
        return out_of_memory();
    }
    *ret = held;
    return 0;
}

void *pycrew_alloc(pycrew_crew *crew, size_t size)
{
    pc_held *held;

    if (crew == NULL) {
        pc_fail(-EINVAL, "pycrew_alloc: crew must not be NULL");
        return NULL;
    }
    if (pc_crew_check(crew) < 0)
        return NULL;
    if (size > crew->segment.size) {
        fail_alloc(crew, -E2BIG, size);
        return NULL;
    }
    if (new_block(crew, size > 0 ? size : 1, true, &held) < 0)
        return NULL;
    return pc_segment_at(&crew->segment, held->block);
}

/* Where a pointer of the user's leads in the segment; 0: nowhere. */
static uint64_t offset_of(const pycrew_crew *crew, const void *memory)
{
    uintptr_t base = (uintptr_t)crew->segment.base, at = (uintptr_t)memory;

    return at >= base && at - base < crew->segment.size ? at - base : 0;
}

void pycrew_free(pycrew_crew *crew, void *memory)
{
    pc_arrays *arrays;
    pc_held *held;
    bool known;

    if (crew == NULL || memory == NULL || pc_crew_check(crew) < 0)
        return;
    arrays = crew->arrays;
    lock(arrays);
    held = find_held(arrays, offset_of(crew, memory));
    known = held != NULL && held->block == offset_of(crew, memory) && held->allocated;
    if (known) {
        held->allocated = false;
        drop_ref(arrays, held);
    }
    settle(arrays, SETTLE_LOOKS);
    unlock(arrays);
    if (!known)
        pc_fail(-EINVAL, "pycrew_free: the memory is none that pycrew_alloc gave, or it was freed before");
}

/* ---- a call's lists ---- */

static pc_call_arrays *call_arrays(pycrew_call *call)
{
    if (call->arrays == NULL)
        call->arrays = calloc(1, sizeof *call->arrays);
    return call->arrays;
}

/* Room for one more; or NULL. */
static pc_use *next_use(pycrew_call *call)
{
    pc_call_arrays *lists = call_arrays(call);

    if (lists != NULL && lists->use_count == lists->use_capacity) {
        unsigned capacity = 2 * lists->use_capacity + 4;
        pc_use *grown = realloc(lists->uses, capacity * sizeof grown[0]);

        if (grown == NULL)
            return NULL;
        lists->uses = grown;
        lists->use_capacity = capacity;
    }
    return lists == NULL ? NULL : &lists->uses[lists->use_count];
}

static bool add_result(pycrew_call *call, pc_held *held)
{
    pc_call_arrays *lists = call_arrays(call);

    if (lists != NULL && lists->result_count == lists->result_capacity) {
        unsigned capacity = 2 * lists->result_capacity + 4;
        pc_held **grown = realloc(lists->results, capacity * sizeof grown[0]);

        if (grown == NULL)
            return false;
        lists->results = grown;
        lists->result_capacity = capacity;
    }
    if (lists == NULL)
        return false;
    lists->results[lists->result_count++] = held;
    return true;
}

/* Under arrays->lock. */
static void leave_results(pc_arrays *arrays, pc_call_arrays *lists)
{
    /* The last came last, most likely behind the rest. */
    for (unsigned i = lists->result_count; i-- > 0;) {
        lists->results[i]->result_of = NULL;
        drop_ref(arrays, lists->results[i]);
    }
    lists->result_count = 0;
}

void pc_arrays_leave_results(pycrew_call *call)
{
    pc_arrays *arrays = call->crew->arrays;

    if (call->arrays == NULL)
        return;
    lock(arrays);
    leave_results(arrays, call->arrays);
    unlock(arrays);
}

void pc_arrays_leave(pycrew_call *call)
{
    pc_call_arrays *lists = call->arrays;
    pc_arrays *arrays = call->crew->arrays;

    lock(arrays);
    leave_results(arrays, lists);
    for (unsigned i = lists->use_count; i-- > 0;)
        drop_ref(arrays, lists->uses[i].held);
    settle(arrays, SETTLE_LOOKS);
    unlock(arrays);
    pc_arrays_forget(call);
}

void pc_arrays_forget(pycrew_call *call)
{
    pc_call_arrays *lists = call->arrays;

    if (lists == NULL)
        return;
    for (unsigned i = 0; i < lists->use_count; i++)
        free(lists->uses[i].back);
    pc_claims_free(lists->claims);
    free(lists->by_block);
    free(lists->uses);
    free(lists->results);
    free(lists);
    call->arrays = NULL;
}

bool pc_arrays_are_given(const pycrew_call *call)
{
    return call->arrays != NULL && call->arrays->use_count > 0;
}

size_t pc_arrays_copied(const pycrew_call *call)
{
    const pc_call_arrays *lists = call->arrays;
    size_t size = 0;

    for (unsigned i = 0; lists != NULL && i < lists->use_count; i++)
        if (lists->uses[i].copied)
            size += lists->uses[i].held->size;
    return size;
}

size_t pc_arrays_result_bytes(const pycrew_call *call)
{
    const pc_call_arrays *lists = call->arrays;
    size_t size = 0;

    for (unsigned i = 0; lists != NULL && i < lists->result_count; i++)
        size += lists->results[i]->size;
    return size;
}

/* ---- what an array of the user's is ---- */

static const char *fault_text(enum pc_array_fault fault)
{
    switch (fault) {
    case PC_ARRAY_BAD_DIMS:
        return "it has fewer than 0 or more than 32 dimensions";
    case PC_ARRAY_BAD_SHAPE:
        return "a dimension of its shape is negative";
    case PC_ARRAY_TOO_LARGE:
        return "the product of its shape and itemsize exceeds 2^63 - 1";
    default:
        return "its strides lead further than 2^63 - 1";
    }
}

static bool is_text_of_objects(const char *format)
{
    return strcmp(format, "O") == 0 || strcmp(format, "|O") == 0 || strcmp(format, "object") == 0;
}

/* What is wrong with dtype, itemsize and format; or NULL. */
static const char *take_type(const pycrew_array *from, pc_array *to)
{
    uint32_t size = pc_dtype_size(from->dtype);

    if ((unsigned)from->dtype == 0 || (unsigned)from->dtype >= PC_DTYPE_COUNT)
        return "its dtype is none of PYCREW_BOOL to PYCREW_OTHER";
    to->dtype = (uint8_t)from->dtype;
    if (to->dtype != PC_DTYPE_OTHER) {
        if (from->itemsize != 0 && from->itemsize != size)
            return "its itemsize is not that of its dtype";
        to->itemsize = size;
        return NULL;
    }
    if (from->format == NULL || from->format[0] == '\0')
        return "its dtype is PYCREW_OTHER, and format has no text that says which, as \"<M8[ns]\"";
    if (from->itemsize > INT32_MAX)
        return "its itemsize exceeds 2^31 - 1";
    if (is_text_of_objects(from->format))
        return "an array of Python objects holds addresses, and cannot be given to another process";
    to->format = from->format;
    to->format_size = strlen(from->format);
    to->itemsize = (uint32_t)from->itemsize;
    if (to->format_size > PC_ARRAY_FORMAT_MAX - 16 || !pc_utf8_valid(to->format, to->format_size))
        return "its format is not UTF-8 of less than 64 KiB";
    return NULL;
}

/* The same with shape and strides; to is measured then. */
static const char *take_layout(const pycrew_array *from, pc_array *to)
{
    enum pc_array_fault fault;

    to->ndim = from->ndim;
    if (from->ndim < 0 || from->ndim > PC_ARRAY_DIMS)
        return fault_text(PC_ARRAY_BAD_DIMS);
    for (int i = 0; i < from->ndim; i++) {
        to->shape[i] = from->shape[i];
        to->strides[i] = from->strides[i];
    }
    if (from->flags & PYCREW_STRIDED)
        fault = pc_array_measure(to);
    else
        fault = pc_array_set_strides(to, (from->flags & PYCREW_FORTRAN) != 0);
    return fault == PC_ARRAY_GOOD ? NULL : fault_text(fault);
}

static const char *check_flags(unsigned flags)
{
    if (flags & ~(unsigned)ALL_FLAGS)
        return "it has a flag that is none of PYCREW_WRITABLE, _COPY_BACK, _STRIDED and _FORTRAN";
    if ((flags & (PYCREW_WRITABLE | PYCREW_COPY_BACK)) == PYCREW_COPY_BACK)
        return "PYCREW_COPY_BACK is for arrays with PYCREW_WRITABLE";
    if ((flags & PYCREW_STRIDED) && (flags & PYCREW_FORTRAN))
        return "with PYCREW_STRIDED it is the strides that say the order: no PYCREW_FORTRAN";
    return NULL;
}

static const char *take_array(const pycrew_array *from, pc_array *to)
{
    const char *wrong;

    to->base = to->cell = to->data = 0;
    to->format = NULL;
    to->format_size = 0;
    to->writable = (from->flags & PYCREW_WRITABLE) != 0;
    if (from->size < sizeof *from)
        return "its size is not set: it was not made by PYCREW_ARRAY_INIT or pycrew_array_init";
    wrong = check_flags(from->flags);
    if (wrong == NULL)
        wrong = take_type(from, to);
    if (wrong == NULL)
        wrong = take_layout(from, to);
    if (wrong == NULL && from->data == NULL && to->bytes > 0)
        return "its data is NULL";
    if (wrong == NULL && to->writable && pc_array_repeats(to))
        return "it is writable, and a stride of 0 makes elements stand in one place";
    return wrong;
}

int pycrew_array_init(pycrew_array *array, const void *data, pycrew_dtype dtype, int ndim,
                      const int64_t *shape, unsigned flags)
{
    pycrew_array made = PYCREW_ARRAY_INIT;
    pc_array measured = {.ndim = ndim};
    enum pc_array_fault fault;

    if (array == NULL || (shape == NULL && ndim > 0))
        return pc_fail(-EINVAL, "pycrew_array_init: array and shape must not be NULL");
    if ((unsigned)dtype == 0 || (unsigned)dtype >= PC_DTYPE_COUNT)
        return pc_fail(-EINVAL, "the dtype %d is none of PYCREW_BOOL to PYCREW_OTHER", (int)dtype);
    if (check_flags(flags) != NULL)
        return pc_fail(-EINVAL, "the array, with flags 0x%x: %s", flags, check_flags(flags));
    if (ndim < 0 || ndim > PYCREW_MAX_DIMS)
        return pc_fail(-EINVAL, "ndim is %d, and not 0 to %d", ndim, PYCREW_MAX_DIMS);
    measured.itemsize = pc_dtype_size(dtype);
    for (int i = 0; i < ndim; i++)
        measured.shape[i] = made.shape[i] = shape[i];
    fault = pc_array_set_strides(&measured, (flags & PYCREW_FORTRAN) != 0);
    if (fault != PC_ARRAY_GOOD)
        return pc_fail(fault == PC_ARRAY_TOO_LARGE ? -E2BIG : -EINVAL, "the array: %s",
                       fault_text(fault));
    made.data = (void *)(uintptr_t)data;
    made.dtype = dtype;
    made.itemsize = measured.itemsize;
    made.ndim = ndim;
    made.flags = flags;
    for (int i = 0; i < ndim && !(flags & PYCREW_STRIDED); i++)
        made.strides[i] = measured.strides[i];
    *array = made;
    return 0;
}

/* ---- arguments ---- */

/* Whether the elements are inside the block if the first is at data. */
static bool lies_inside(const pc_array *array, uint64_t data, const pc_held *held)
{
    uint64_t inside = data - held->block;

    return data >= held->block && inside <= held->size && inside >= 0 - (uint64_t)array->low &&
           (uint64_t)array->high <= held->size - inside;
}

/* A block that was found, with a ref for the call; or *wrong. */
static void hold_block(pycrew_crew *crew, const pc_array *array, uint64_t data, pc_held **ret,
                       const char **wrong)
{
    pc_arrays *arrays = crew->arrays;
    pc_held *held;

    lock(arrays);
    held = find_held(arrays, data);
    if (held == NULL || (!held->allocated && held->takes == 0 && held->result_of == NULL))
        *wrong =
            "its data is in the crew's shared memory, but in no array's: it was freed, dropped or "
            "released, or is a str or bytes of a result, or was never given by pycrew_alloc or "
            "pycrew_array_take";
    else if (!lies_inside(array, data, held))
        *wrong = "its shape and strides lead out of the block that its data is in";
    else
        held->refs++;
    unlock(arrays);
    *ret = *wrong == NULL ? held : NULL;
}

/* The workers' words, all 0. */
static int make_cell(pycrew_crew *crew, pc_held *held)
{
    pc_arrays *arrays = crew->arrays;
    size_t size = crew->workers * sizeof(uint32_t);
    uint64_t cell;
    int rc = 0;

    lock(arrays);
    cell = held->cell;
    unlock(arrays);
    if (cell != 0)
        return 0;
    rc = alloc(crew, size, &cell);
    if (rc < 0)
        return rc;
    memset(pc_segment_at(&crew->segment, cell), 0, size);
    lock(arrays);
    if (held->cell == 0) {
        held->cell = cell;
        cell = 0;
    }
    unlock(arrays);
    pc_memory_free(crew, cell); /* another thread was faster */
    return 0;
}

static bool is_another_crews(const pycrew_crew *crew, const void *data)
{
    uintptr_t at = (uintptr_t)data;

    for (unsigned i = 0; i < CREWS_MAX; i++)
        if (at >= atomic_load_explicit(&crews[i].low, memory_order_relaxed) &&
            at < atomic_load_explicit(&crews[i].high, memory_order_relaxed) &&
            atomic_load(&crews[i].crew) != crew && atomic_load(&crews[i].process) == getpid())
            return true;
    return false;
}

/* Data from elsewhere: a copy without gaps, in the order that it has. */
static int copy_in(pycrew_crew *crew, const pycrew_array *from, pc_array *array, pc_held **ret)
{
    int64_t strides[PC_ARRAY_DIMS];
    bool fortran = !pc_array_is_contiguous(array, false) && pc_array_is_contiguous(array, true);
    uint64_t bytes = array->bytes;
    int rc;

    if (bytes > crew->segment.size)
        return fail_alloc(crew, -E2BIG, bytes);
    rc = new_block(crew, bytes, false, ret);
    if (rc < 0)
        return rc;
    memcpy(strides, array->strides, sizeof strides);
    pc_array_set_strides(array, fortran);
    pc_array_copy(array, pc_segment_at(&crew->segment, (*ret)->block), array->strides, from->data,
                  strides);
    return 0;
}

static void release_held(pycrew_crew *crew, pc_held *held)
{
    lock(crew->arrays);
    drop_ref(crew->arrays, held);
    unlock(crew->arrays);
}

/* Sets *ret and the places in array. 0, an error, or 1 with *wrong. */
static int place_array(pycrew_crew *crew, const pycrew_array *from, pc_array *array, pc_held **ret,
                       const char **wrong)
{
    uint64_t data = offset_of(crew, from->data);
    int rc = 0;

    if (data != 0)
        hold_block(crew, array, data, ret, wrong);
    else if (is_another_crews(crew, from->data))
        *wrong = "its data is in the shared memory of another crew";
    else if (array->writable && !(from->flags & PYCREW_COPY_BACK))
        *wrong =
            "it is writable, and its data is neither in memory of pycrew_alloc nor to be copied "
            "back (PYCREW_COPY_BACK)";
    else
        rc = copy_in(crew, from, array, ret);
    if (rc < 0 || *wrong != NULL)
        return rc < 0 ? rc : 1;
    rc = make_cell(crew, *ret);
    if (rc < 0) {
        release_held(crew, *ret);
        return fail_alloc(crew, rc, crew->workers * sizeof(uint32_t));
    }
    array->base = (*ret)->block;
    array->cell = (*ret)->cell;
    array->data = data != 0 ? data : (*ret)->block;
    return 0;
}

/* By the user's own layout, not a copy's. 0, -ENOMEM, or 1 with *wrong. */
static int claim(pycrew_call *call, const pycrew_array *from, const pc_array *array,
                 const char **wrong)
{
    int rc = pc_claims_add(&call->arrays->claims, array, (uintptr_t)from->data, array->writable);

    if (rc < 0)
        return out_of_memory();
    if (rc > 0)
        *wrong = array->writable ? "it is writable, and overlaps another array of the call, or by its "
                                   "strides might share an element with it"
                                 : "it overlaps a writable array of the call, or by its strides might "
                                   "share an element with it";
    return rc;
}

/* What it is copied back to is the caller's description; his struct may be gone by then. */
static int set_copy_back(pc_use *use, const pycrew_array *from, const pc_array *array,
                         const int64_t *given_strides)
{
    if (!(from->flags & PYCREW_COPY_BACK) || !use->copied)
        return 0;
    use->back = malloc(sizeof *use->back);
    if (use->back == NULL)
        return out_of_memory();
    use->back->to = *from;
    memcpy(use->back->to.strides, given_strides, sizeof use->back->to.strides);
    memcpy(use->back->strides, array->strides, sizeof use->back->strides);
    return 0;
}

static int add_placed(pycrew_call *call, const pycrew_array *from, pc_array *array)
{
    pycrew_crew *crew = call->crew;
    pc_builder *builder = &call->builder;
    const char *wrong = NULL;
    pc_use *use = next_use(call);
    pc_array given = *array; /* a copy has another layout */
    int rc;

    if (use == NULL)
        return pc_build_fail(builder, out_of_memory());
    rc = place_array(crew, from, array, &use->held, &wrong);
    if (rc != 0)
        return rc < 0 ? pc_build_fail(builder, rc)
                      : pc_build_invalid(builder, "the array: %s", wrong);
    use->back = NULL;
    use->copied = offset_of(crew, from->data) == 0;
    rc = claim(call, from, &given, &wrong);
    if (rc == 0)
        rc = set_copy_back(use, from, array, given.strides);
    if (rc == 0) {
        call->arrays->use_count++; /* from here on the call's release gives it back */
        rc = pc_array_write(&builder->writer, array);
        return rc < 0 ? pc_build_fail(builder, rc) : 0;
    }
    release_held(crew, use->held);
    return rc > 0 ? pc_build_invalid(builder, "the array: %s", wrong) : pc_build_fail(builder, rc);
}

int pc_arrays_add(pc_builder *builder, const pycrew_array *from)
{
    pycrew_call *call = (pycrew_call *)(void *)builder; /* its first member */
    const char *wrong;
    pc_array array;
    int rc;

    if (builder->flags != 0 && (rc = pc_build_admit(builder)) < 0)
        return rc;
    if (from == NULL)
        return pc_build_invalid(builder, "the pointer to the array is NULL");
    wrong = take_array(from, &array);
    if (wrong != NULL)
        return pc_build_invalid(builder, "the array: %s", wrong);
    if (array.bytes > 0) {
        rc = add_placed(call, from, &array);
    } else {
        rc = pc_array_write(&builder->writer, &array);
        rc = rc < 0 ? pc_build_fail(builder, rc) : 0;
    }
    if (rc < 0)
        return rc;
    if (array.writable && !(call->flags & PC_CALL_RETRIES_GIVEN))
        call->retries = 0;
    builder->count++;
    return 0;
}

/* ---- results ---- */

static int compare_blocks(const void *a, const void *b)
{
    const pc_held *x = *(pc_held *const *)a, *y = *(pc_held *const *)b;

    return (x->block > y->block) - (x->block < y->block);
}

/* So that each of many arrays in a result is found among as many arguments. */
static void sort_uses(const pycrew_call *call)
{
    pc_call_arrays *lists = call->arrays;

    if (lists == NULL || lists->use_count <= FEW_USES || lists->by_block != NULL)
        return;
    lists->by_block = malloc(lists->use_count * sizeof lists->by_block[0]);
    if (lists->by_block == NULL)
        return;
    for (unsigned i = 0; i < lists->use_count; i++)
        lists->by_block[i] = lists->uses[i].held;
    qsort(lists->by_block, lists->use_count, sizeof lists->by_block[0], compare_blocks);
}

static pc_held *block_of_uses(const pc_call_arrays *lists, uint64_t base)
{
    pc_held key = {.block = base}, *at = &key, **found;

    if (lists->by_block != NULL) {
        found = bsearch(&at, lists->by_block, lists->use_count, sizeof lists->by_block[0],
                        compare_blocks);
        return found == NULL ? NULL : *found;
    }
    for (unsigned i = 0; i < lists->use_count; i++)
        if (lists->uses[i].held->block == base)
            return lists->uses[i].held;
    return NULL;
}

/* Under arrays->lock: the block of this call's that base is. */
static pc_held *block_of_call(const pycrew_call *call, uint64_t base)
{
    pc_held *held = call->arrays == NULL ? NULL : block_of_uses(call->arrays, base);

    if (held != NULL)
        return held;
    held = find_held(call->crew->arrays, base);
    return held != NULL && held->block == base && held->result_of == call ? held : NULL;
}

/* Under arrays->lock: leases what a worker says to be its block. */
static int lease_held(pycrew_call *call, unsigned worker, unsigned incarnation, uint64_t cell,
                      pc_held *held)
{
    pycrew_crew *crew = call->crew;
    int rc = insert_held(crew->arrays, held);

    if (rc < 0)
        return rc;
    if (!pc_lease_keep(crew, worker, incarnation, held->block, held->size, cell, &held->lease))
        rc = -EBADMSG;
    else if (!add_result(call, held))
        rc = -ENOMEM;
    if (rc == 0)
        return 0;
    if (rc == -ENOMEM)
        pc_lease_drop(crew, &held->lease);
    remove_held(crew->arrays, held);
    return rc;
}

/* The block ends, as far as the host goes into it, where these elements do. */
static int lease_block(pycrew_call *call, unsigned worker, unsigned incarnation,
                       const pc_array *array)
{
    uint64_t end = array->data + (uint64_t)array->high;
    pc_held *held = calloc(1, sizeof *held);
    int rc = held == NULL ? -ENOMEM : 0;

    if (rc == 0) {
        held->block = array->base;
        held->size = (end - array->base + BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
        held->refs = 1;
        held->result_of = call;
        rc = lies_inside(array, array->data, held)
                 ? lease_held(call, worker, incarnation, array->cell, held)
                 : -EBADMSG;
    }
    if (rc < 0)
        free(held);
    return rc;
}

/* Not inline: its room on the stack would be there for each container around it. */
static __attribute__((noinline)) int lease_array(pycrew_call *call, unsigned worker,
                                                 unsigned incarnation, const pc_view *view)
{
    pc_array array;
    const pc_held *held;
    int rc = 0;

    if (pc_array_read(view, &array) < 0)
        return -EBADMSG;
    if (array.bytes == 0)
        return 0;
    lock(call->crew->arrays);
    held = block_of_call(call, array.base);
    if (held == NULL)
        rc = lease_block(call, worker, incarnation, &array);
    else if (!lies_inside(&array, array.data, held))
        rc = -EBADMSG;
    unlock(call->crew->arrays);
    return rc;
}

static int lease_all(pycrew_call *call, unsigned worker, unsigned incarnation, pc_cursor message,
                     int depth)
{
    pc_view view;
    int r, rc = 0;

    while (rc == 0 && (r = pc_value_next(&message, &view)) != 0) {
        if (r < 0 || (view.tag >= PC_TAG_LIST && depth == PC_VALUE_DEPTH_MAX))
            rc = -EBADMSG;
        else if (view.tag == PC_TAG_ARRAY)
            rc = lease_array(call, worker, incarnation, &view);
        else if (view.tag >= PC_TAG_LIST)
            rc = lease_all(call, worker, incarnation, view.contents, depth + 1);
    }
    return rc;
}

int pc_arrays_lease(pycrew_call *call, unsigned worker, unsigned incarnation, pc_cursor message)
{
    sort_uses(call);
    return lease_all(call, worker, incarnation, message, 0);
}

/* All arguments of the call: which of them the worker means, its words say. Where there is no
 * memory to note it, the block is kept for good. */
static int note_retained(pycrew_call *call, unsigned worker, unsigned incarnation)
{
    pycrew_crew *crew = call->crew;
    const pc_call_arrays *lists = call->arrays;

    if (lists == NULL || lists->use_count == 0)
        return -EBADMSG;
    lock(crew->arrays);
    for (unsigned i = 0; i < lists->use_count; i++) {
        pc_held *held = lists->uses[i].held;

        if (held->retained == NULL)
            held->retained = calloc(crew->workers, sizeof held->retained[0]);
        if (held->retained != NULL)
            held->retained[worker] = incarnation;
        else
            held->refs++;
    }
    unlock(crew->arrays);
    return 0;
}

static void copy_back(const pycrew_call *call)
{
    const pc_call_arrays *lists = call->arrays;

    for (unsigned i = 0; i < lists->use_count; i++) {
        const pc_use *use = &lists->uses[i];
        pc_array array;

        if (use->back != NULL && take_array(&use->back->to, &array) == NULL)
            pc_array_copy(&array, use->back->to.data, use->back->to.strides,
                          pc_segment_at(&call->crew->segment, use->held->block),
                          use->back->strides);
    }
}

/* Under crew->lock. Who released the call may have freed the memory, and who was sent out of a wait when
 * the crew closed. */
static bool may_copy_back(const pycrew_call *call)
{
    return !atomic_load(&call->released) && atomic_load(&call->crew->ending) != 2;
}

void pc_arrays_copy_back(const pycrew_call *call)
{
    if (may_copy_back(call))
        copy_back(call);
}

/* He has not before this if he comes back after it, since he waits for who collects. */
static int copy_back_unless_released(const pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    bool released;

    pthread_mutex_lock(&crew->lock);
    released = atomic_load(&call->released);
    pthread_mutex_unlock(&crew->lock);
    if (atomic_load(&crew->ending) == 2)
        return -ECANCELED;
    if (!released)
        copy_back(call);
    return 0;
}

static bool is_to_copy_back(const pycrew_call *call)
{
    for (unsigned i = 0; call->arrays != NULL && i < call->arrays->use_count; i++)
        if (call->arrays->uses[i].back != NULL)
            return true;
    return false;
}

static unsigned whole_incarnation(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    unsigned incarnation;

    pthread_mutex_lock(&w->lock);
    incarnation = w->incarnation;
    pthread_mutex_unlock(&w->lock);
    return incarnation;
}

int pc_arrays_collect(pycrew_call *call, unsigned worker, unsigned incarnation, uint32_t flags)
{
    int rc = 0;

    if (flags & PC_ANSWER_RETAINED)
        rc = note_retained(call, worker, whole_incarnation(call->crew, worker));
    if (rc == 0 && flags & PC_ANSWER_ARRAYS)
        rc = pc_arrays_lease(call, worker, incarnation, call->result);
    if (rc == 0 && flags & PC_ANSWER_RETURNED && is_to_copy_back(call))
        rc = copy_back_unless_released(call);
    return rc;
}

/* ---- for maps ---- */

int pc_arrays_pin(pycrew_crew *crew, const pycrew_array *from, const char *what, pc_array *array,
                  pc_held **ret)
{
    const char *wrong = take_array(from, array);
    uint64_t data = offset_of(crew, from->data);

    *ret = NULL;
    if (wrong == NULL && array->bytes > 0 && data != 0)
        hold_block(crew, array, data, ret, &wrong);
    else if (wrong == NULL && array->bytes > 0 && is_another_crews(crew, from->data))
        wrong = "its data is in the shared memory of another crew";
    if (wrong != NULL)
        return pc_fail(-EINVAL, "%s: %s", what, wrong);
    array->data = (uintptr_t)from->data;
    return 0;
}

void pc_arrays_unpin(pycrew_crew *crew, pc_held *held)
{
    if (held != NULL)
        release_held(crew, held);
}

/* ---- handing out ---- */

/* Under arrays->lock. The text lives as long as the crew, and others may write over the given one.
 */
static const char *keep_format(pc_arrays *arrays, const char *text, size_t size)
{
    pc_format_text *kept = malloc(sizeof *kept + size + 1);

    if (kept == NULL)
        return NULL;
    memcpy(kept->text, text, size);
    kept->text[size] = '\0';
    kept->size = strlen(kept->text);
    for (pc_format_text *at = arrays->formats; at != NULL; at = at->next)
        if (strcmp(at->text, kept->text) == 0) {
            free(kept);
            return at->text;
        }
    if (arrays->format_count == FORMATS_MAX || !pc_utf8_valid(kept->text, kept->size)) {
        free(kept);
        return NULL;
    }
    arrays->format_count++;
    kept->next = arrays->formats;
    arrays->formats = kept;
    return kept->text;
}

static unsigned layout_flags(const pc_array *array)
{
    if (pc_array_is_contiguous(array, false))
        return 0;
    return pc_array_is_contiguous(array, true) ? PYCREW_FORTRAN : PYCREW_STRIDED;
}

static void describe(const pc_array *from, void *data, const char *format, pycrew_array *ret)
{
    ret->data = data;
    ret->dtype = (pycrew_dtype)from->dtype;
    ret->itemsize = from->itemsize;
    ret->ndim = from->ndim;
    memset(ret->shape, 0, sizeof ret->shape);
    memset(ret->strides, 0, sizeof ret->strides);
    for (int i = 0; i < from->ndim; i++) {
        ret->shape[i] = from->shape[i];
        ret->strides[i] = from->strides[i];
    }
    ret->format = format;
    ret->flags = layout_flags(from);
}

int pc_arrays_whole(const pc_view *view, pycrew_array *ret)
{
    const void *elements;
    pc_array array;

    if (pc_array_read_whole(view, &array, &elements) < 0)
        return PYCREW_ETYPE;
    if (ret->size < sizeof *ret)
        return -EINVAL;
    describe(&array, array.bytes > 0 ? (void *)(uintptr_t)elements : NULL, NULL, ret);
    return 0;
}

int pc_arrays_view(pycrew_call *call, const pc_view *view, bool take, pycrew_array *ret)
{
    pc_arrays *arrays;
    const char *format = NULL;
    pc_held *held = NULL;
    pc_array array;
    int rc = 0;

    if (view->tag != PC_TAG_ARRAY || call == NULL || call->crew->arrays == NULL ||
        pc_array_read(view, &array) < 0)
        return PYCREW_ETYPE;
    if (ret->size < sizeof *ret)
        return -EINVAL;
    arrays = call->crew->arrays;
    lock(arrays);
    if (array.bytes > 0) {
        held = block_of_call(call, array.base);
        rc = held != NULL && lies_inside(&array, array.data, held) ? 0 : PYCREW_ETYPE;
    }
    if (rc == 0 && array.dtype == PC_DTYPE_OTHER) {
        format = keep_format(arrays, array.format, array.format_size);
        rc = format == NULL ? -ENOMEM : 0;
    }
    if (rc == 0 && take && held != NULL) {
        held->refs++;
        held->takes++;
    }
    unlock(arrays);
    if (rc == 0)
        describe(&array, array.bytes > 0 ? pc_segment_at(&call->crew->segment, array.data) : NULL, format, ret);
    return rc;
}

bool pc_arrays_taken(pycrew_crew *crew, const void *data)
{
    const pc_held *held;
    bool taken;

    lock(crew->arrays);
    held = find_held(crew->arrays, offset_of(crew, data));
    taken = held != NULL && held->takes > 0;
    unlock(crew->arrays);
    return taken;
}

void pycrew_array_drop(pycrew_crew *crew, pycrew_array *array)
{
    pc_arrays *arrays;
    pc_held *held;
    bool known;

    if (crew == NULL || array == NULL || array->data == NULL || pc_crew_check(crew) < 0)
        return;
    arrays = crew->arrays;
    lock(arrays);
    held = find_held(arrays, offset_of(crew, array->data));
    known = held != NULL && held->takes > 0;
    if (known) {
        held->takes--;
        drop_ref(arrays, held);
    }
    settle(arrays, SETTLE_LOOKS);
    unlock(arrays);
    if (known)
        array->data = NULL;
    else
        pc_fail(-EINVAL, "pycrew_array_drop: the array was not taken, or was dropped before");
}

/* ---- the crew's ---- */

/* A place of a process that this one was forked from is free. */
static void note_crew(const pycrew_crew *crew)
{
    uintptr_t low = (uintptr_t)crew->segment.base;

    for (unsigned i = 0; i < CREWS_MAX; i++) {
        const pycrew_crew *found = atomic_load(&crews[i].crew);
        int process = atomic_load(&crews[i].process); /* 0: being noted, or forgotten */

        if ((found != NULL && (process == 0 || process == getpid())) ||
            !atomic_compare_exchange_strong(&crews[i].crew, &found, crew))
            continue;
        atomic_store(&crews[i].low, low);
        atomic_store(&crews[i].high, low + crew->segment.size);
        atomic_store(&crews[i].process, getpid());
        return;
    }
}

static void forget_crew(const pycrew_crew *crew)
{
    for (unsigned i = 0; i < CREWS_MAX; i++)
        if (atomic_load(&crews[i].crew) == crew && atomic_load(&crews[i].process) == getpid()) {
            atomic_store(&crews[i].high, 0);
            atomic_store(&crews[i].process, 0);
            atomic_store(&crews[i].crew, NULL);
            return;
        }
}

int pc_arrays_init(pycrew_crew *crew)
{
    pc_arrays *arrays = calloc(1, sizeof *arrays);

    if (arrays == NULL)
        return out_of_memory();
    pthread_mutex_init(&arrays->lock, NULL);
    arrays->lingering_end = &arrays->lingering;
    arrays->crew = crew;
    crew->arrays = arrays;
    note_crew(crew);
    return 0;
}

/* Calls' lists and blocks' records; the memory goes with the segment. */
void pc_arrays_free(pycrew_crew *crew)
{
    pc_arrays *arrays = crew->arrays;

    if (arrays == NULL)
        return;
    forget_crew(crew);
    for (uint32_t i = 0; crew->calls != NULL && i < crew->segment.config.slots; i++)
        pc_arrays_forget(&crew->calls[i]);
    for (size_t i = 0; i < arrays->count; i++)
        free_record(arrays->held[i]);
    for (pc_format_text *at = arrays->formats, *next; at != NULL; at = next) {
        next = at->next;
        free(at);
    }
    free(arrays->held);
    pthread_mutex_destroy(&arrays->lock);
    free(arrays);
    crew->arrays = NULL;
}
