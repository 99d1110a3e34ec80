/* Maps: columns element by element, and by slices. Each element is a call of the ledger's. */
#include "tests/soak/soak.h"

#include <errno.h>
#include <stdlib.h>

enum { COLUMNS = 4, ELEMENTS_MAX = 2000 };

#define UNTOUCHED INT64_C(-7)
#define FILL INT64_C(-5)

struct map_job {
    size_t first, count;
    bool in_memory; /* of the crew */
    bool stops, cancels, slices;
    int64_t *columns; /* index, op, a, b, and the output */
    int failed[ELEMENTS_MAX];
    pycrew_map_options options;
    unsigned asked; /* times that the progress function was called */
    uint64_t done;
};

/* ---- in -------------------------------------------------------------------------------------- */

static int64_t *output_of(const struct map_job *m)
{
    return m->columns + COLUMNS * m->count;
}

static enum op random_op(const struct map_job *m, uint64_t *random)
{
    static const enum op endless[] = {OP_SPIN, OP_MATCH, OP_STICK, OP_SWALLOW, OP_STOP};
    if (m->options.timeout_ns > 0 && one_in(3000, random))
        return endless[below(5, random)];
    if (one_in(2000, random))
        return OP_EXIT + below(4, random);
    if (one_in(m->slices ? 500 : 100, random))
        return OP_FAIL;
    return one_in(200, random) ? OP_SLEEP : OP_ADD;
}

static void plan_element(struct map_job *m, size_t i, uint64_t *random)
{
    plan p =
        plan_call(m->first + i, m->slices ? KIND_SLICES : KIND_MAP, random_op(m, random), random);
    if (p.op == OP_SLEEP)
        plan_sleep(&p, below(500, random) * US);
    if (m->options.timeout_ns > 0)
        plan_timeout(&p, m->options.timeout_ns);
    plan_retries(&p, (unsigned)m->options.retries);
    plan_submitted(&p);
    m->columns[i] = (int64_t)p.index;
    m->columns[m->count + i] = (int64_t)p.op;
    m->columns[2 * m->count + i] = p.a;
    m->columns[3 * m->count + i] = (int64_t)p.b;
    output_of(m)[i] = UNTOUCHED;
}

/* About ten times a second, and at the end. */
static int on_progress(void *data, const pycrew_progress *progress)
{
    struct map_job *m = data;
    watch_beat();
    if (progress->added != m->count || progress->done > m->count || progress->done < m->done)
        ledger_fault(FAULT_UNTRUE, m->first, "a map of %zu elements has done %llu of %llu",
                     m->count, (unsigned long long)progress->done,
                     (unsigned long long)progress->added);
    m->done = progress->done;
    m->asked++;
    return m->cancels;
}

static void set_options(struct map_job *m, uint64_t *random)
{
    static const int64_t fill = FILL;
    pycrew_map_options *options = &m->options;
    *options = (pycrew_map_options)PYCREW_MAP_OPTIONS_INIT;
    options->flags = !m->slices          ? 0
                     : one_in(2, random) ? PYCREW_MAP_WHOLE
                                         : PYCREW_MAP_WHOLE | PYCREW_MAP_OUT;
    options->chunk = one_in(2, random) ? 1 + below(m->slices ? 100 : 500, random) : 0;
    options->timeout_ns = one_in(2, random) ? (10 + below(20, random)) * MS : 0;
    options->retries = (int)below(3, random);
    options->on_error = m->stops ? PYCREW_MAP_STOP : PYCREW_MAP_FILL;
    options->fill = &fill;
    options->failed = m->failed;
    options->progress = on_progress;
    options->progress_data = m;
}

static pycrew_array column(const int64_t *data, size_t count)
{
    pycrew_array array;
    int64_t shape = (int64_t)count;
    check(pycrew_array_init(&array, data, PYCREW_I64, 1, &shape, 0), "pycrew_array_init");
    return array;
}

static size_t columns_size(const struct map_job *m)
{
    return (COLUMNS + 1) * m->count * sizeof *m->columns;
}

static int64_t *new_columns(const struct map_job *m)
{
    size_t size = columns_size(m);
    int64_t *columns = m->in_memory ? pycrew_alloc(soak.crew, size) : map_memory(size);
    if (!columns)
        fail("no memory for a map's columns");
    return columns;
}

/* ---- out ------------------------------------------------------------------------------------- */

static void check_element(const struct map_job *m, size_t i, int code)
{
    int64_t value = output_of(m)[i];
    ledger_end_code(m->first + i, code);
    if (code == 0)
        check_sum(m->first + i, value);
    else if (value != FILL)
        ledger_fault(FAULT_WRONG, m->first + i, "it failed, and its place has %lld",
                     (long long)value);
}

static void check_elements(const struct map_job *m, int count)
{
    int failed = 0;
    for (size_t i = 0; i < m->count; i++) {
        failed += m->failed[i] != 0;
        check_element(m, i, m->failed[i]);
    }
    if (failed != count)
        ledger_fault(FAULT_WRONG, m->first, "%d elements of a map failed, and it says %d", failed,
                     count);
    if (m->done != m->count)
        ledger_fault(FAULT_UNTRUE, m->first, "a map of %zu elements ended when %llu were done",
                     m->count, (unsigned long long)m->done);
}

/* It stopped: of its elements no more is told. What never ran is left as it was, or filled: a
 * worker may die when it has said that an element is started, and before the function has written
 * anything down. */
static void check_stopped(const struct map_job *m, int rc)
{
    bool may_be = m->stops ? rc == PYCREW_ERAISED || rc == PYCREW_EDIED ||
                                 (rc == -ETIMEDOUT && m->options.timeout_ns > 0)
                           : false;
    if (!may_be && !(rc == -ECANCELED && m->cancels && m->asked > 0))
        ledger_fault(FAULT_WRONG, m->first, "a map cannot end so: %s (%d)",
                     pycrew_last_error()->message, rc);
    for (size_t i = 0; i < m->count; i++) {
        soak_ledger.calls[m->first + i].flags |= CALL_RELEASED;
        int64_t value = output_of(m)[i];
        bool filled = value == FILL && !m->stops;
        if (soak_ledger.runs[m->first + i].begun == 0 && value != UNTOUCHED && !filled)
            ledger_fault(FAULT_WRONG, m->first + i, "it never ran, and its place has %lld",
                         (long long)value);
    }
}

/* ---- a map ----------------------------------------------------------------------------------- */

static void run_map(size_t first, size_t count, bool slices, uint64_t *random)
{
    struct map_job *m = check_alloc(calloc(1, sizeof *m));
    pycrew_array inputs[COLUMNS], output;
    m->first = first;
    m->count = count;
    m->slices = slices;
    m->in_memory = one_in(2, random);
    m->stops = one_in(4, random);
    m->cancels = one_in(10, random);
    set_options(m, random);
    m->columns = new_columns(m);
    for (size_t i = 0; i < count; i++)
        plan_element(m, i, random);
    for (size_t i = 0; i < COLUMNS; i++)
        inputs[i] = column(m->columns + i * count, count);
    output = column(output_of(m), count);
    watch_beat();
    int rc = pycrew_map(soak.crew, slices ? soak.slices : soak.function, inputs, COLUMNS, &output,
                        &m->options);
    watch_beat();
    if (rc >= 0)
        check_elements(m, rc);
    else
        check_stopped(m, rc);
    if (m->in_memory)
        pycrew_free(soak.crew, m->columns);
    else
        unmap_memory(m->columns, columns_size(m));
    free(m);
}

void do_map(size_t first, size_t count, uint64_t *random)
{
    run_map(first, count, false, random);
}

void do_slices(size_t first, size_t count, uint64_t *random)
{
    run_map(first, count, true, random);
}
