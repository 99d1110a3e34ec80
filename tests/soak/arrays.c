#define _GNU_SOURCE
/* Arrays of bytes: in and out, taken and given again; views that Python keeps; and what is written
 * in place or copied back. */
#include "tests/soak/soak.h"

#include <string.h>
#include <sys/mman.h>

enum { JOB_MAX = 30, TAKEN_MAX = 6, MARK = 0x55 };

/* An array that outlives the call it is from, and what must be in it. */
struct taken {
    pycrew_array array;
    const void *data;
    size_t size;
};

struct shelf {
    struct taken taken[TAKEN_MAX];
    size_t count;
};

struct array_call {
    plan plan;
    pycrew_call *call; /* NULL: released */
    unsigned char
        *memory; /* of pycrew_alloc, or with COPY_BACK of map_memory; NULL: none, or freed */
    bool copied_back;
    bool shared; /* memory is what the call has: not copied */
};

void *map_memory(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return check_alloc(memory == MAP_FAILED ? NULL : memory);
}

void unmap_memory(void *memory, size_t size)
{
    munmap(memory, size);
}

/* ---- in -------------------------------------------------------------------------------------- */

static pycrew_array describe(const void *data, size_t size, unsigned flags)
{
    pycrew_array array;
    int64_t shape = (int64_t)size;
    check(pycrew_array_init(&array, data, PYCREW_U8, 1, &shape, flags), "pycrew_array_init");
    return array;
}

static size_t random_size(uint64_t *random)
{
    return 1 + below(one_in(200, random)  ? DATA_SIZE_MAX
                     : one_in(10, random) ? 300000
                                          : 20000,
                     random);
}

static unsigned char *alloc_filled(const plan *p)
{
    unsigned char *memory = pycrew_alloc(soak.crew, p->size);
    if (!memory)
        fail_call(pycrew_last_error()->code, "pycrew_alloc");
    memcpy(memory, p->data, p->size);
    return memory;
}

static void submit_array(struct array_call *a, const pycrew_array *array)
{
    a->call = prepare_call(&a->plan);
    check(pycrew_add_array(a->call, array), "pycrew_add_array");
    submit_call(a->call, &a->plan);
}

/* In memory of the crew; the free may come while the call has it, and is put off. */
static void submit_in_memory(struct array_call *a, unsigned flags, uint64_t *random)
{
    a->memory = alloc_filled(&a->plan);
    a->shared = true;
    pycrew_array array = describe(a->memory, a->plan.size, flags);
    submit_array(a, &array);
    if (flags == 0 && one_in(2, random)) {
        pycrew_free(soak.crew, a->memory);
        a->memory = NULL;
    }
}

static void submit_taken(struct array_call *a, const struct taken *taken)
{
    plan_data_of(&a->plan, taken->data, taken->size);
    submit_array(a, &taken->array);
}

static void submit_from_elsewhere(struct array_call *a)
{
    pycrew_array array = describe(a->plan.data, a->plan.size, 0);
    submit_array(a, &array);
}

/* ---- out ------------------------------------------------------------------------------------- */

static void check_array(const struct array_call *a, const pycrew_array *array)
{
    if (array->dtype != PYCREW_U8 || array->ndim != 1)
        ledger_fault(FAULT_WRONG, a->plan.index, "an array of another type or shape");
    else
        check_bytes(&a->plan, array->data, (size_t)array->shape[0]);
    if (a->plan.op == OP_SAME && a->memory && a->shared && array->data != a->memory)
        ledger_fault(FAULT_WRONG, a->plan.index, "a view of the argument is elsewhere");
}

static void take_result(const struct array_call *a, struct shelf *shelf)
{
    struct taken *taken = &shelf->taken[shelf->count++];
    *taken = (struct taken){PYCREW_ARRAY_INIT, a->plan.data, a->plan.size};
    check(pycrew_array_take(a->call, &taken->array), "pycrew_array_take");
    check_array(a, &taken->array);
}

static void check_array_result(const struct array_call *a, struct shelf *shelf, uint64_t *random)
{
    pycrew_array array = PYCREW_ARRAY_INIT;
    long long sum;
    if (a->plan.op == OP_SLEEP || a->plan.op == OP_KEEP || a->plan.op == OP_INVERT) {
        check(pycrew_result(a->call, "L", &sum), "pycrew_result");
        check_sum(a->plan.index, sum);
    } else if (shelf && shelf->count < TAKEN_MAX && one_in(3, random)) {
        take_result(a, shelf);
    } else {
        check(pycrew_result_array(a->call, &array), "pycrew_result_array");
        check_array(a, &array);
    }
}

static void free_memory(struct array_call *a)
{
    if (a->copied_back)
        unmap_memory(a->memory, a->plan.size);
    else
        pycrew_free(soak.crew, a->memory);
    a->memory = NULL;
}

static void finish_array(struct array_call *a, struct shelf *shelf, uint64_t *random)
{
    if (!a->call)
        return;
    if (await_call(a->call, &a->plan))
        check_array_result(a, shelf, random);
    pycrew_release(a->call);
    a->call = NULL;
}

/* Its worker may have died since, and others got memory. */
static void drop_taken(struct shelf *shelf)
{
    for (size_t i = 0; i < shelf->count; i++) {
        struct taken *taken = &shelf->taken[i];
        if (memcmp(taken->array.data, taken->data, taken->size) != 0)
            ledger_fault(FAULT_WRONG, SIZE_MAX, "a taken array of %zu bytes changed", taken->size);
        pycrew_array_drop(soak.crew, &taken->array);
    }
    shelf->count = 0;
}

/* ---- arrays that come and go ----------------------------------------------------------------- */

static enum op random_op(uint64_t *random)
{
    static const enum op ops[] = {OP_COPY, OP_COPY, OP_COPY, OP_SAME, OP_NEW, OP_KEEP_COPY};
    if (one_in(300, random))
        return OP_EXIT + below(4, random);
    return one_in(15, random) ? OP_SLEEP : ops[below(sizeof ops / sizeof *ops, random)];
}

static void begin_array(struct array_call *a, size_t index, const struct shelf *shelf,
                        uint64_t *random)
{
    *a = (struct array_call){.plan = plan_call(index, KIND_ARRAY, random_op(random), random)};
    plan_data(&a->plan, random_size(random));
    plan_retries(&a->plan, below(2, random));
    if (a->plan.op == OP_SLEEP) {
        int64_t timeout_ns = (1 + below(6, random)) * MS;
        plan_sleep(&a->plan, timeout_ns / 2 + below((unsigned)timeout_ns, random));
        plan_timeout(&a->plan, timeout_ns);
    }
    if (shelf->count > 0 && one_in(3, random))
        submit_taken(a, &shelf->taken[below((unsigned)shelf->count, random)]);
    else if (one_in(2, random))
        submit_from_elsewhere(a);
    else
        submit_in_memory(a, 0, random);
}

static void stop_some(struct array_call *calls, size_t count, uint64_t *random)
{
    for (size_t i = 0; i < count; i++)
        if (one_in(8, random)) {
            cancel_call(calls[i].call, &calls[i].plan);
        } else if (one_in(8, random)) {
            release_early(calls[i].call, &calls[i].plan);
            calls[i].call = NULL;
        }
}

/* A few at a time: the results that are taken from some are the arguments of the next. */
void do_arrays(size_t first, size_t count, uint64_t *random)
{
    enum { AT_ONCE = 6 };
    struct array_call calls[AT_ONCE];
    struct shelf shelf = {.count = 0};
    for (size_t i = 0; i < count; i += AT_ONCE) {
        size_t some = count - i < AT_ONCE ? count - i : AT_ONCE;
        for (size_t j = 0; j < some; j++)
            begin_array(&calls[j], first + i + j, &shelf, random);
        if (one_in(4, random))
            stop_some(calls, some, random);
        for (size_t j = 0; j < some; j++)
            finish_array(&calls[j], &shelf, random);
        for (size_t j = 0; j < some; j++)
            free_memory(&calls[j]);
        if (shelf.count == TAKEN_MAX)
            drop_taken(&shelf);
    }
    drop_taken(&shelf);
}

/* ---- views that outlive their calls ---------------------------------------------------------- */

/* The memory is the next ones' at once, if it is let go of too early, and has other bytes then. */
void do_kept(size_t first, size_t count, uint64_t *random)
{
    for (size_t i = 0; i < count; i++) {
        enum op op = one_in(4, random) ? OP_KEEP_COPY : OP_KEEP;
        struct array_call a = {.plan = plan_call(first + i, KIND_KEPT, op, random)};
        plan_data(&a.plan, random_size(random));
        plan_retries(&a.plan, below(2, random));
        if (one_in(4, random))
            submit_from_elsewhere(&a);
        else
            submit_in_memory(&a, 0, random);
        finish_array(&a, NULL, random);
        free_memory(&a);
    }
}

/* ---- what is written ------------------------------------------------------------------------- */

static void begin_writable(struct array_call *a, size_t index, uint64_t *random)
{
    *a = (struct array_call){.plan = plan_call(index, KIND_WRITABLE, OP_INVERT, random),
                             .copied_back = one_in(2, random)};
    plan_data(&a->plan, random_size(random));
    if (!a->copied_back) {
        submit_in_memory(a, PYCREW_WRITABLE, random);
        return;
    }
    a->memory = map_memory(a->plan.size);
    memcpy(a->memory, a->plan.data, a->plan.size);
    pycrew_array array = describe(a->memory, a->plan.size, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    submit_array(a, &array);
}

static bool is_inverted(const plan *p, const unsigned char *memory)
{
    const unsigned char *data = p->data;
    for (size_t i = 0; i < p->size; i++)
        if (memory[i] != 255 - data[i])
            return false;
    return true;
}

/* All is written if it returned; from elsewhere nothing is if it did not; nor where it never ran.
 */
static void check_written(const struct array_call *a)
{
    const ledger_call *call = &soak_ledger.calls[a->plan.index];
    if (call->outcome == OUTCOME_RETURNED) {
        if (!is_inverted(&a->plan, a->memory))
            ledger_fault(FAULT_WRONG, a->plan.index, "it returned, and has not written all");
    } else if (a->copied_back || !(call->flags & CALL_MAY_HAVE_RUN)) {
        if (memcmp(a->memory, a->plan.data, a->plan.size) != 0)
            ledger_fault(FAULT_WRONG, a->plan.index, "it did not return, and memory changed");
    }
}

/* From the release on the memory is not touched: it may be gone. */
static void release_writable(struct array_call *a)
{
    release_early(a->call, &a->plan);
    a->call = NULL;
    if (a->copied_back && !is_inverted(&a->plan, a->memory) &&
        memcmp(a->memory, a->plan.data, a->plan.size) != 0)
        ledger_fault(FAULT_WRONG, a->plan.index, "what it wrote was copied back by halves");
    if (a->copied_back)
        memset(a->memory, MARK, a->plan.size);
}

static void check_untouched(const struct array_call *a)
{
    for (size_t i = 0; i < a->plan.size; i++)
        if (a->memory[i] != MARK) {
            ledger_fault(FAULT_WRONG, a->plan.index, "memory was written after the release");
            return;
        }
}

void do_writable(size_t first, size_t count, uint64_t *random)
{
    struct array_call calls[JOB_MAX];
    bool released[JOB_MAX] = {false};
    for (size_t i = 0; i < count; i++)
        begin_writable(&calls[i], first + i, random);
    for (size_t i = 0; i < count; i++)
        if ((released[i] = one_in(8, random)))
            release_writable(&calls[i]);
        else if (one_in(8, random))
            cancel_call(calls[i].call, &calls[i].plan);
    for (size_t i = 0; i < count; i++)
        if (!released[i]) {
            finish_array(&calls[i], NULL, random);
            check_written(&calls[i]);
        }
    for (size_t i = 0; i < count; i++) {
        if (released[i] && calls[i].copied_back)
            check_untouched(&calls[i]);
        free_memory(&calls[i]);
    }
}
