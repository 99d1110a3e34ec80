#include "worker/map.h"

#include <string.h>

#include "lib/shm/columns.h"
#include "worker/array.h"
#include "worker/element.h"

void pc_map_note_failure(pc_items_writer *w, uint32_t item, enum pc_result_kind kind)
{
    pc_chunk *chunk = w->chunk;
    pc_chunk_result *fault = pc_chunk_fault(chunk, chunk->results);

    if (atomic_load_explicit(&chunk->fault_item, memory_order_relaxed) == UINT32_MAX) {
        w->in_arena = false;
        w->writer.data = (uint8_t *)fault;
        w->writer.size = 0;
        w->writer.capacity = sizeof *fault;
        if (PyErr_Occurred())
            kind = pc_run_write_fault(&w->writer, kind);
        pc_items_record(w, fault, kind);
        atomic_store_explicit(&chunk->fault_item, item, memory_order_relaxed);
    }
    PyErr_Clear();
    atomic_store_explicit(&pc_chunk_kinds(chunk, chunk->results)[item], (uint8_t)kind,
                          memory_order_relaxed);
}

/* A private copy, since another worker may scribble over it, and where this chunk's elements are.
 */
typedef struct elements {
    pc_columns columns;
    pc_columns_place place;
    uint8_t *at[PC_COLUMNS_MAX];
    int64_t step[PC_COLUMNS_MAX];
    uint32_t dtype[PC_COLUMNS_MAX];
    PyObject *arguments[1 + PC_COLUMNS_MAX]; /* of the last element, from 1 on; NULL: none */
} elements;

static void drop_arguments(elements *el)
{
    for (unsigned i = 1; i < el->columns.count; i++)
        Py_CLEAR(el->arguments[i]);
}

static void find_row(const pc_segment *segment, elements *el)
{
    for (unsigned i = 0; i < el->columns.count; i++)
        el->at[i] = segment->base + pc_columns_at(&el->columns, &el->columns.column[i], &el->place);
}

static bool begin_elements(const pc_segment *segment, const pc_chunk *chunk, elements *el)
{
    const pc_columns *shared =
        (const pc_columns *)(const void *)((const uint8_t *)chunk + chunk->columns);

    memcpy(&el->columns, shared, pc_columns_size(0));
    if (el->columns.count - 1 >= PC_COLUMNS_MAX || el->columns.ndim - 1 >= PC_ARRAY_DIMS)
        return false;
    memcpy(el->columns.column, shared->column, el->columns.count * sizeof(pc_column));
    memset(el->arguments, 0, (1 + el->columns.count) * sizeof el->arguments[0]);
    pc_columns_seek(&el->columns, el->columns.first + chunk->begin, &el->place);
    for (unsigned i = 0; i < el->columns.count; i++) {
        el->step[i] = pc_columns_step(&el->columns, &el->columns.column[i]);
        el->dtype[i] = el->columns.column[i].dtype;
    }
    find_row(segment, el);
    return true;
}

static inline void next_element(const pc_segment *segment, elements *el, unsigned count)
{
    if (__builtin_expect(--el->place.left == 0, 0)) {
        pc_columns_next_row(&el->columns, &el->place);
        find_row(segment, el);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        el->at[i] += el->step[i];
}

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* count: of the columns. */
static ALWAYS_INLINE bool load_arguments(elements *el, unsigned count)
{
    for (unsigned i = 0; i < count - 1; i++) {
        PyObject *last = el->arguments[1 + i];

        if (last != NULL && pc_element_reload(el->dtype[i], el->at[i], last))
            continue;
        Py_XDECREF(last);
        el->arguments[1 + i] = pc_element_load(el->dtype[i], el->at[i]);
        if (el->arguments[1 + i] == NULL)
            return false;
    }
    return true;
}

static ALWAYS_INLINE enum pc_result_kind run_element(pc_execution *e, PyObject *function,
                                                     elements *el, unsigned count)
{
    PyObject *result = NULL;
    enum pc_result_kind kind = PC_RESULT_EXCEPTION;

    if (load_arguments(el, count))
        result = PyObject_Vectorcall(function, el->arguments + 1,
                                     (count - 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (__builtin_expect(pc_run_in_child, 0))
        pc_run_leave_child();
    if (result != NULL) {
        kind = pc_element_store(el->dtype[count - 1], el->at[count - 1], result);
        Py_DECREF(result);
    }
    return __builtin_expect(kind == PC_RESULT_EXCEPTION, 0) ? pc_run_exception_kind(e, false)
                                                            : kind;
}

/* The function is looked up when the first element has started: an import is its own, too.
 * Borrowed; NULL with *kind. */
static PyObject *find_for_element(pc_execution *e, enum pc_result_kind *kind)
{
    PyObject *function = pc_run_find_function(e);

    if (function == NULL)
        *kind = pc_run_exception_kind(e, false);
    e->ran = function != NULL;
    return function;
}

/* Where no element has a deadline a doom is the call's (chunk.h), and this needs no
 * compare-and-swap, which would be a third of the cost of a short function. */
static inline void publish_progress(pc_chunk *chunk, uint32_t started, uint32_t finished)
{
    atomic_store_explicit(&chunk->progress, pc_chunk_progress(started, finished),
                          memory_order_release);
}

static inline bool start_element(pc_chunk *chunk, uint32_t item, uint32_t begin, bool timed)
{
    if (timed)
        return pc_items_advance(chunk, item, begin);
    publish_progress(chunk, item + 1, item);
    return true;
}

/* All before item are finished, and no other is started. */
static bool stop_elements(pc_chunk *chunk, uint32_t item, bool timed)
{
    pc_run_clear_current();
    if (timed)
        return pc_items_stop_before(chunk, item);
    publish_progress(chunk, item, item);
    return true;
}

/* False: doomed. Made for each number of columns that is frequent. The present item is changed with
 * the call kept current: between two elements no handler of Python's runs. */
static ALWAYS_INLINE bool run_elements(pc_execution *e, pc_items_writer *w, uint32_t number,
                                       elements *el, unsigned count)
{
    pc_chunk *chunk = w->chunk;
    const pc_segment *segment = &e->loop->worker->segment;
    uint32_t begin = chunk->begin, end = chunk->count;
    bool timed = chunk->timed, stops = chunk->flags & PC_CHUNK_STOPS;
    PyObject *function = NULL;

    pc_run_set_current(e, number, begin, INT64_MAX);
    for (uint32_t item = begin; item < end; item++) {
        enum pc_result_kind kind = PC_RESULT_VALUE;

        if (atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0)
            return stop_elements(chunk, item, timed);
        pc_current_call.item = item;
        if (timed)
            pc_current_call.deadline = pc_items_deadline(chunk);
        atomic_signal_fence(memory_order_seq_cst);
        if (!start_element(chunk, item, begin, timed))
            return false;
        if (function != NULL || (function = find_for_element(e, &kind)) != NULL)
            kind = run_element(e, function, el, count);
        pc_run_count(e->loop, kind);
        if (__builtin_expect(kind != PC_RESULT_VALUE, 0)) {
            pc_map_note_failure(w, item, kind);
            if (function == NULL || stops)
                return stop_elements(chunk, item + 1, timed);
        }
        if (__builtin_expect(pc_current_call.interrupted, 0))
            return stop_elements(chunk, item + 1, timed);
        next_element(segment, el, count);
        pc_run_yield_to_threads(e->loop);
    }
    return stop_elements(chunk, end, timed);
}

bool pc_map_run_columns(pc_execution *e, pc_items_writer *w, uint32_t number)
{
    elements el;
    bool done;

    if (!begin_elements(&e->loop->worker->segment, w->chunk, &el))
        return false;
    switch (el.columns.count) {
    case 2:
        done = run_elements(e, w, number, &el, 2);
        break;
    case 3:
        done = run_elements(e, w, number, &el, 3);
        break;
    default:
        done = run_elements(e, w, number, &el, el.columns.count);
        break;
    }
    drop_arguments(&el);
    return done;
}

/* Calls the function with slices of the inputs, and sees that its result gets into that of the
 * output, which is the last argument. What a function returns that is no such array is its fault.
 */
static enum pc_result_kind call_whole(pc_execution *e, PyObject *function, pc_arguments *decoded,
                                      bool out)
{
    PyObject *output = decoded->items[decoded->count - 1], *result;
    PyObject *names = out ? pc_slice_out_name() : NULL;
    bool filled;
    int rc = 0;

    if (out && names == NULL)
        return pc_run_exception_kind(e, false);

    pc_run_publish_entered(e);
    e->ran = true;
    result = PyObject_Vectorcall(function, decoded->items,
                                 (decoded->count - 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    if (__builtin_expect(pc_run_in_child, 0))
        pc_run_leave_child();
    if (result == NULL)
        return pc_run_exception_kind(e, false);
    filled = out && (result == Py_None || result == output);
    if (!filled)
        rc = pc_slice_fill(output, result);
    Py_DECREF(result);
    if (rc == 0)
        return PC_RESULT_VALUE;
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError)
               ? PC_RESULT_BAD_TYPE
               : pc_run_exception_kind(e, false);
}

static enum pc_result_kind run_slices(pc_execution *e, const pc_chunk *chunk)
{
    pc_cursor message = pc_items_arguments((const uint8_t *)chunk->items, 0);
    PyObject *function = pc_run_find_function(e);
    enum pc_result_kind kind;
    pc_arguments decoded;

    if (function == NULL)
        return pc_run_exception_kind(e, false);
    if (pc_decode_arguments(message, pc_run_publish_entered, e, &decoded) < 0 || decoded.count == 0)
        kind = pc_run_exception_kind(e, true);
    else
        kind = call_whole(e, function, &decoded, chunk->flags & PC_CHUNK_OUT);
    pc_arguments_clear(&decoded);
    return kind;
}

/* False: doomed. */
bool pc_map_run_whole(pc_execution *e, pc_items_writer *w, uint32_t number)
{
    pc_chunk *chunk = w->chunk;
    enum pc_result_kind kind;

    if (chunk->begin > 0 || atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0)
        return pc_items_stop_before(chunk, chunk->begin);
    pc_run_set_current(e, number, 0, pc_items_deadline(chunk));
    if (!pc_items_advance(chunk, 0, 0))
        return false;
    kind = run_slices(e, chunk);
    pc_run_count(e->loop, kind);
    if (kind != PC_RESULT_VALUE)
        pc_map_note_failure(w, 0, kind);
    pc_run_clear_current();
    if (pc_array_used)
        e->slot->result_ran = pc_array_end_call(false) & PC_ANSWER_RETAINED;
    return pc_items_advance(chunk, 1, 0);
}
