/* stub: what typed stubs stand on. See pycrew-stubs.h. */
#include "lib/pycrew-stubs.h"

#include <errno.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crew.h"
#include "lib/result.h"

/* ---- from a stub to its function ----
 *
 * Each stub gets a number, once in this process and for ever; each crew has a table of its own,
 * from numbers to its functions. So nothing of a crew is in a stub, and nothing in it can be stale.
 * The number is nothing but a number; the function's load (F2) pairs with the store below. */

static _Atomic unsigned last_number;

static unsigned number_of(pycrew_stub *stub)
{
    unsigned number = __atomic_load_n(&stub->number, __ATOMIC_RELAXED), none = 0;

    if (__builtin_expect(number != 0, 1))
        return number;
    number = atomic_fetch_add_explicit(&last_number, 1, memory_order_relaxed) + 1;
    if (__atomic_compare_exchange_n(&stub->number, &none, number, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        return number;
    return none; /* another thread was first */
}

/* NULL: the number is too large for the table, or there is no memory. It costs a look-up by name
 * then. */
static _Atomic(const pycrew_function *) *make_place(pycrew_crew *crew, unsigned number)
{
    pc_stub_page *made, *page = NULL;

    if (number >= PC_STUB_PAGES * PC_STUB_PAGE || (made = calloc(1, sizeof *made)) == NULL)
        return NULL;
    if (atomic_compare_exchange_strong(&crew->stub_pages[number / PC_STUB_PAGE], &page, made))
        page = made;
    else
        free(made);
    return &page->functions[number % PC_STUB_PAGE];
}

static __attribute__((noinline, cold)) int find(pycrew_crew *crew, pycrew_stub *stub,
                                                unsigned number, const pycrew_function **ret)
{
    _Atomic(const pycrew_function *) *place = make_place(crew, number);
    int rc = stub->source != NULL ? pycrew_function_source(crew, stub->name, stub->source, ret)
                                  : pycrew_function_get(crew, stub->name, ret);

    if (rc == 0 && place != NULL)
        atomic_store_explicit(place, *ret, memory_order_release); /* F2 */
    return rc;
}

static inline int function_of(pycrew_crew *crew, pycrew_stub *stub, const pycrew_function **ret)
{
    unsigned number = number_of(stub);
    pc_stub_page *page = NULL;

    if (__builtin_expect(number < PC_STUB_PAGES * PC_STUB_PAGE, 1))
        page = atomic_load_explicit(&crew->stub_pages[number / PC_STUB_PAGE], memory_order_acquire);
    if (__builtin_expect(page != NULL, 1)) {
        const pycrew_function *found = atomic_load_explicit(&page->functions[number % PC_STUB_PAGE],
                                                            memory_order_acquire); /* F2 */

        if (__builtin_expect(found != NULL, 1)) {
            *ret = found;
            return 0;
        }
    }
    return find(crew, stub, number, ret);
}

int pycrew_stub_function(pycrew_crew *crew, pycrew_stub *stub, const pycrew_function **ret)
{
    int rc;

    if (crew == NULL || stub == NULL || ret == NULL)
        return pc_fail(-EINVAL, "pycrew_stub_function: crew, stub and ret must not be NULL");
    rc = pc_crew_check(crew);
    return rc < 0 ? rc : function_of(crew, stub, ret);
}

int pycrew_stub_prepare(pycrew_crew *crew, pycrew_stub *stub, int64_t timeout_ns, pycrew_call **ret)
{
    const pycrew_function *function;
    int rc;

    if (crew == NULL || stub == NULL)
        return pc_fail(-EINVAL, "a stub's function: crew and stub must not be NULL");
    rc = function_of(crew, stub, &function); /* in a fork, too: what it reads is private memory */
    return rc < 0 ? rc : pycrew_prepare(crew, function, timeout_ns, ret);
}

void pc_stubs_free(pycrew_crew *crew)
{
    for (unsigned i = 0; i < PC_STUB_PAGES; i++)
        free(atomic_load(&crew->stub_pages[i]));
}

/* ---- memory that goes with a result ---- */

struct pc_call_memory {
    struct pc_call_memory *next;
    alignas(max_align_t) char data[];
};

void pc_call_memory_free(pycrew_call *call)
{
    pc_call_memory *block = call->memory, *next;

    for (; block != NULL; block = next) {
        next = block->next;
        free(block);
    }
    call->memory = NULL;
}

void *pycrew_call_alloc(pycrew_call *call, size_t count, size_t size)
{
    /* A stream's result is its item's. */
    pycrew_call *of = atomic_load(&call->stream) != NULL ? pc_stream_item(call) : call;
    pc_call_memory *block;
    size_t bytes;

    if (of == NULL) {
        pc_fail(-EALREADY, "the stream has no item at present: pycrew_next gives one");
        return NULL;
    }
    if (pc_crew_check(of->crew) < 0)
        return NULL;
    if (__builtin_mul_overflow(count, size, &bytes) ||
        __builtin_add_overflow(bytes, sizeof *block, &bytes) || (block = malloc(bytes)) == NULL) {
        pc_fail(-ENOMEM, "no memory for %zu items of %zu bytes", count, size);
        return NULL;
    }
    block->next = of->memory;
    of->memory = block;
    return block->data;
}

/* ---- reading ---- */

static const char *type_text(pycrew_value value)
{
    pc_cursor cursor = {value.at, value.end};
    pc_view view;

    if (cursor.at >= cursor.end || pc_value_next(&cursor, &view) <= 0)
        view.tag = PC_TAG_INVALID;
    return pc_tag_text(view.tag);
}

int pycrew_value_items(pycrew_value value, int kind, const char *type, size_t *count,
                       pycrew_value *first)
{
    int got = pycrew_value_type(value);
    bool right = kind == PYCREW_DICT ? got == PYCREW_TYPE_DICT
                                     : got == PYCREW_TYPE_LIST || got == PYCREW_TYPE_TUPLE;
    size_t number = pycrew_value_count(value);

    if (!right)
        return pc_fail(PYCREW_ETYPE, "expected %s, got %s", type, type_text(value));
    if (*count != SIZE_MAX && *count != number)
        return pc_fail(PYCREW_ETYPE, "expected %s, which has %zu items, got a %s of %zu", type,
                       *count, type_text(value), number);
    *count = number;
    *first = pycrew_value_item(value, 0);
    return 0;
}

static const char *public_type_text(int type)
{
    switch (type) {
    case PYCREW_TYPE_NONE:
        return "None";
    case PYCREW_TYPE_BOOL:
        return "bool";
    case PYCREW_TYPE_INT:
        return "int";
    case PYCREW_TYPE_FLOAT:
        return "float";
    case PYCREW_TYPE_STR:
        return "str";
    case PYCREW_TYPE_BYTES:
        return "bytes";
    default:
        return "another type";
    }
}

int pycrew_value_expect(pycrew_value value, int type)
{
    if (pycrew_value_type(value) == type)
        return 0;
    return pc_fail(PYCREW_ETYPE, "expected %s, got %s", public_type_text(type), type_text(value));
}

int pycrew_value_int(pycrew_value value, int64_t least, int64_t most, int64_t *ret)
{
    int64_t number;
    int rc = pycrew_value_i64(value, &number);

    if (rc < 0)
        return rc;
    if (number < least || number > most)
        return pc_fail(-ERANGE, "%lld is out of range: it is to be from %lld to %lld",
                       (long long)number, (long long)least, (long long)most);
    *ret = number;
    return 0;
}

static const char *dtype_text(pycrew_dtype dtype)
{
    static const char *const texts[] = {"unknown", "bool",      "int8",       "int16",
                                        "int32",   "int64",     "uint8",      "uint16",
                                        "uint32",  "uint64",    "float16",    "float32",
                                        "float64", "complex64", "complex128", "another type"};

    return (size_t)dtype < sizeof texts / sizeof texts[0] ? texts[dtype] : texts[0];
}

int pycrew_array_expect(const pycrew_array *array, pycrew_dtype dtype)
{
    if (array == NULL)
        return pc_fail(-EINVAL, "the array is NULL");
    if (array->dtype != dtype)
        return pc_fail(PYCREW_ETYPE, "expected an array of %s, got one of %s", dtype_text(dtype),
                       dtype_text(array->dtype));
    return 0;
}

/* ---- errors ---- */

/* What was said of a place that had no name, without that. */
static const char *bare(const char *message)
{
    static const char *const places[] = {"value: ", "result: "};

    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (strncmp(message, places[i], strlen(places[i])) == 0)
            return message + strlen(places[i]);
    return message;
}

int pycrew_fail_at(int code, const char *where)
{
    const char *message = bare(pycrew_last_error()->message);
    bool deeper = message[0] == '[' || message[0] == '.';

    return pc_fail(code, "%s%s%s", where, deeper ? "" : ": ", message);
}

int pycrew_fail_result(const pycrew_call *call, int code, const char *function,
                       const char *annotation)
{
    pycrew_error error;

    pc_fail(code, "%s returns %s: %s", function, annotation, bare(pycrew_last_error()->message));
    error = *pycrew_last_error();
    error.function = function;
    pc_fail_error(&error);
    return pc_call_fail_after_run(call, code);
}
