#include "worker/run.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/shm/idle.h"
#include "worker/async.h"
#include "worker/engine.h"
#include "worker/object.h"

enum { TEXT_MAX = 64 << 10, TRACEBACK_MAX = 256 << 10 };
#define NONE SIZE_MAX

/* ---- forks by user code ---- */

bool pc_run_in_child;

/* A child of the user's came out of the function: the call is its parent's to end. */
_Noreturn void pc_run_leave_child(void)
{
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_SystemExit))
        PyErr_WriteUnraisable(NULL);
    PyErr_Clear();
    pc_interpreter_flush();
    _exit(PC_EXIT_ORPHANED);
}

static void note_fork(void)
{
    pc_run_in_child = true;
    pc_current_call.record = NULL; /* it is not mapped here */
}

void pc_run_start(void)
{
    pthread_atfork(NULL, NULL, note_fork);
}

/* ---- functions ---- */

static pc_function_block *function_block(const pc_loop *l, uint32_t number)
{
    const pc_segment *segment = &l->worker->segment;
    uint64_t page = atomic_load_explicit(
        &segment->header->function_pages[number / PC_FUNCTION_PAGE % PC_FUNCTION_PAGES],
        memory_order_acquire);
    const uint64_t *offsets = pc_segment_at(segment, page);

    return pc_segment_at(segment, offsets[number % PC_FUNCTION_PAGE]);
}

const char *pc_run_function_name(const pc_loop *l, uint32_t number)
{
    return function_block(l, number)->text;
}

_Atomic uint32_t *pc_run_sampling(const pc_loop *l, uint32_t number)
{
    return &function_block(l, number)->sampling;
}

/* Seen before the next call is claimed: the host wonders at two calls with one worker. */
void pc_run_note_kind(const pc_loop *l, uint32_t number, enum pc_function_kind kind)
{
    _Atomic uint32_t *known = &function_block(l, number)->kind;

    if ((atomic_load_explicit(known, memory_order_relaxed) & kind) == (uint32_t)kind)
        return;
    /* Another worker may say less at this moment. Ordered before the claim of the next call. */
    atomic_fetch_or_explicit(known, (uint32_t)kind, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
}

static PyObject *load_function(pc_loop *l, uint32_t number)
{
    const pc_function_block *block = function_block(l, number);

    if (l->worker->options->engine != NULL)
        return pc_engine_function(block->text, block->has_source ? block->text + block->name_size + 1 : NULL);
    return block->has_source ? pc_interpreter_find_in_source(number, block->text,
                                                             block->text + block->name_size + 1)
                             : pc_interpreter_find(block->text);
}

static int make_room(pc_loop *l, uint32_t number)
{
    uint32_t capacity = number + 64;
    PyObject **grown;

    if (number < l->function_capacity)
        return 0;
    grown = realloc(l->functions, capacity * sizeof grown[0]);
    if (grown == NULL)
        return -1;
    memset(grown + l->function_capacity, 0, (capacity - l->function_capacity) * sizeof grown[0]);
    l->functions = grown;
    l->function_capacity = capacity;
    return 0;
}

/* Borrowed. What failed is tried again by the next call: the file may be there by then. */
PyObject *pc_run_find_function(pc_execution *e)
{
    pc_loop *l = e->loop;

    if (e->function < l->function_capacity && l->functions[e->function] != NULL)
        return l->functions[e->function];
    pc_run_publish_entered(e);
    if (make_room(l, e->function) < 0) {
        PyErr_SetString(PyExc_MemoryError, "no memory is left for one more function");
        return NULL;
    }
    l->functions[e->function] = load_function(l, e->function);
    if (l->functions[e->function] != NULL)
        pc_run_note_kind(l, e->function, pc_async_kind(l->functions[e->function]));
    return l->functions[e->function];
}

/* ---- running ---- */

/* What the exception that is set means to the host; before the function ran unless ran. */
enum pc_result_kind pc_run_exception_kind(const pc_execution *e, bool decoding)
{
    if (pc_current_call.interrupted && PyErr_ExceptionMatches(pc_deadline_exceeded))
        return PC_RESULT_INTERRUPTED;
    if (e->stopped && pc_async_is_cancelled())
        return PC_RESULT_INTERRUPTED;
    if (decoding && pc_convert_is_argument_error())
        return PC_RESULT_BAD_ARGUMENT;
    if (e->ran && pc_engine_is_used())
        return pc_engine_exception_kind();
    return e->ran ? PC_RESULT_EXCEPTION : PC_RESULT_NO_FUNCTION;
}

/* The same for a result that could not be written. Lone surrogates are no fault of the function's,
 * there is just no text that could be handed out. */
static enum pc_result_kind encoding_kind(const pc_execution *e)
{
    enum pc_result_kind kind = pc_run_exception_kind(e, false);

    return kind == PC_RESULT_EXCEPTION && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)
               ? PC_RESULT_BAD_TEXT
               : kind;
}

/* Calls the function: its result; or NULL with an exception set and *kind. */
static PyObject *call(pc_execution *e, pc_cursor arguments, enum pc_result_kind *kind)
{
    pc_arguments decoded;
    PyObject *function = pc_run_find_function(e), *result = NULL;
    int rc;

    if (function == NULL) {
        *kind = pc_run_exception_kind(e, false);
        return NULL;
    }
    rc = e->shape != 0
             ? pc_decode_record((const uint64_t *)(const void *)arguments.at, e->shape, &decoded)
             : pc_decode_arguments(arguments, pc_run_publish_entered, e, &decoded);
    if (rc == 0) {
        pc_run_publish_entered(e);
        e->ran = true;
        result =
            PyObject_Vectorcall(function, decoded.items,
                                decoded.positional | PY_VECTORCALL_ARGUMENTS_OFFSET, decoded.names);
    }
    if (result == NULL)
        *kind = pc_run_exception_kind(e, rc < 0);
    pc_arguments_clear(&decoded);
    return result;
}

/* Of no limit (NONE) nothing is written. */
static int write_text(pc_writer *writer, PyObject *text, size_t limit)
{
    pc_view view = pc_fault_text(text);
    size_t size = view.length > limit ? limit : (size_t)view.length;

    if (limit == NONE)
        return 0;

    while (size < view.length && size > 0 && ((unsigned char)view.data[size] & 0xc0) == 0x80)
        size--; /* not inside of a character */
    return pc_write_data(writer, PC_TAG_STR, view.data, size);
}

/* To put an exception into words may run user code, and so take an interrupt: then that is how the
 * call ended, and not with an exception that lacks a text. */
static enum pc_result_kind take_fault(pc_fault *fault, enum pc_result_kind kind)
{
    bool interrupted = pc_current_call.interrupted;

    pc_fault_take(fault);
    if (pc_current_call.interrupted == interrupted)
        return kind;
    pc_fault_clear(fault);
    pc_interrupt_raise();
    pc_fault_take(fault);
    return PC_RESULT_INTERRUPTED;
}

/* The three texts of an exception; shorter where memory is short. What fits a slot is tried before
 * what fits an item of a chunk. */
enum pc_result_kind pc_run_write_fault(pc_writer *writer, enum pc_result_kind kind)
{
    static const struct {
        size_t type, message, traceback;
    } limits[] = {
        {TEXT_MAX, TEXT_MAX, TRACEBACK_MAX}, {100, 60, NONE}, {23, 23, NONE}, {0, NONE, NONE}};
    static_assert(2 * (sizeof(uint64_t) + 23 + 1) <= PC_INLINE_RESULT, "two texts fit a slot");
    size_t start = writer->size;
    pc_fault fault;
    int rc = -ENOMEM;

    kind = take_fault(&fault, kind);
    for (unsigned i = 0; rc < 0 && i < sizeof limits / sizeof limits[0]; i++) {
        writer->size = start;
        rc = write_text(writer, fault.type, limits[i].type);
        if (rc == 0)
            rc = write_text(writer, fault.message, limits[i].message);
        if (rc == 0)
            rc = write_text(writer, fault.traceback, limits[i].traceback);
    }
    pc_fault_clear(&fault);
    return rc < 0 ? PC_RESULT_NO_MEMORY : kind;
}

/* Writes what came of a call. kind: of the exception that is set, if result is NULL. */
static inline enum pc_result_kind write_end(const pc_execution *e, PyObject *result,
                                            enum pc_result_kind kind, bool json, pc_writer *writer)
{
    size_t start = writer->size;
    int rc = -1;

    if (result != NULL) {
        rc = pc_encode(writer, result, json);
        Py_DECREF(result);
        if (rc == 0)
            return PC_RESULT_VALUE;
        writer->size = start;
        if (rc != -1)
            return rc == -E2BIG ? PC_RESULT_TOO_BIG : PC_RESULT_NO_MEMORY;
        kind = encoding_kind(e);
    }
    if (kind == PC_RESULT_END)
        return kind;
    return pc_run_write_fault(writer, kind);
}

enum pc_result_kind pc_run_execute(pc_execution *e, pc_cursor arguments, bool json,
                                   pc_writer *writer)
{
    enum pc_result_kind kind = PC_RESULT_VALUE;
    PyObject *result = __builtin_expect(e->slot->flags & PC_REQUEST_KIND, 0)
                           ? pc_object_run(e, arguments, &kind)
                           : call(e, arguments, &kind);

    if (__builtin_expect(pc_run_in_child, 0))
        pc_run_leave_child();
    if (result != NULL && __builtin_expect(pc_async_is_awaitable(result), 0)) {
        e->awaitable = result;
        return PC_RUN_PENDING;
    }
    kind = write_end(e, result, kind, json, writer);
    pc_run_count(e->loop, kind);
    return kind;
}

enum pc_result_kind pc_run_write(const pc_execution *e, PyObject *result, bool json, pc_writer *writer)
{
    enum pc_result_kind kind =
        result != NULL ? PC_RESULT_VALUE : pc_run_exception_kind(e, false);

    kind = write_end(e, result, kind, json, writer);
    pc_run_count(e->loop, kind);
    return kind;
}

/* ---- memory for results ---- */

/* Our death lets the sweep free what was lost. */
void pc_run_take_back(pc_worker *worker)
{
    if (!pc_heap_take_back(&worker->heap, worker->number))
        abort();
}

static int alloc_when_short(pc_worker *worker, size_t size, uint64_t *ret)
{
    int64_t until = pc_now() + PC_SHORTAGE_NS;
    int rc;

    pc_idle_call_for_memory(&worker->segment);
    do {
        sched_yield();
        pc_run_take_back(worker);
        rc = pc_heap_alloc(&worker->heap, size, ret);
    } while (rc == -ENOMEM && pc_now() < until);
    return rc;
}

/* A block of wanted bytes, or, where memory is short, of need. */
int pc_run_alloc(pc_worker *worker, size_t need, size_t wanted, uint64_t *ret)
{
    int rc;

    pc_run_take_back(worker);
    rc = pc_heap_alloc(&worker->heap, need > wanted ? need : wanted, ret);
    if (rc < 0 && need < wanted)
        rc = pc_heap_alloc(&worker->heap, need, ret);
    if (rc == -ENOMEM)
        rc = alloc_when_short(worker, need, ret);
    if (rc == 0)
        worker->allocated += pc_heap_block_size(&worker->heap, *ret);
    return rc;
}
