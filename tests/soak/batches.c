/* Batches: smooth ones, and ones with exceptions, deaths, deadlines and bytes in them, that may be
 * cancelled or closed in the middle. */
#include "tests/soak/soak.h"

#include <errno.h>
#include <stdlib.h>

enum { ITEMS_MAX = 2000 };

struct stream {
    pycrew_batch *batch;
    const pycrew_function *function;
    plan plans[ITEMS_MAX];
    size_t first, added, taken;
    bool unordered;
};

/* ---- in -------------------------------------------------------------------------------------- */

static int add_item(struct stream *s, const plan *p)
{
    long long index = (long long)p->index, op = (long long)p->op, a = (long long)p->a;
    unsigned long long b = p->b;
    return p->size > 0 ? pycrew_batch_add_within(s->batch, LOST_NS, "LLLKy#", index, op, a, b,
                                                 (const char *)p->data, p->size)
                       : pycrew_batch_add_within(s->batch, LOST_NS, "LLLK", index, op, a, b);
}

/* ---- out ------------------------------------------------------------------------------------- */

static void check_item(struct stream *s, const plan *p)
{
    const pycrew_error *error = pycrew_batch_error(s->batch);
    const void *data;
    size_t size;
    long long sum;
    ledger_end(p->index, error);
    if (error) {
        check_failure(p->index, error);
    } else if (p->op == OP_ECHO) {
        check(pycrew_batch_result(s->batch, "y#", &data, &size), "pycrew_batch_result");
        check_bytes(p, data, size);
    } else {
        check(pycrew_batch_result(s->batch, "L", &sum), "pycrew_batch_result");
        check_sum(p->index, sum);
    }
}

/* Takes one item out; false: none is inside. */
static bool take_item(struct stream *s)
{
    watch_beat();
    int rc = pycrew_batch_next(s->batch, LOST_NS);
    if (rc == -ETIME)
        hung(s->first + s->taken, NULL, "a batch");
    check(rc, "pycrew_batch_next");
    if (rc == 0)
        return false;
    size_t place = pycrew_batch_index(s->batch);
    if (place >= s->added || (!s->unordered && place != s->taken)) {
        ledger_fault(FAULT_WRONG, s->first + s->taken,
                     "item %zu came out when %zu were in and %zu out", place, s->added, s->taken);
        return place < s->added;
    }
    s->taken++;
    check_item(s, &s->plans[place]);
    return true;
}

static void take_all(struct stream *s)
{
    while (take_item(s))
        continue;
    if (s->taken != s->added)
        ledger_fault(FAULT_LOST, s->first, "a batch of %zu items gave back %zu", s->added,
                     s->taken);
}

/* ---- a batch --------------------------------------------------------------------------------- */

/* An add that finds all in use by the batch itself goes on when an item is out. */
static void put_item(struct stream *s, const plan *p)
{
    plan_function(p, s->function);
    s->plans[s->added++] = *p;
    plan_submitted(p);
    watch_beat();
    for (;;) {
        int rc = add_item(s, p);
        if (rc == -ETIME)
            hung(p->index, NULL, "adding to a batch");
        if (rc != -EAGAIN) {
            check(rc, "pycrew_batch_add_within");
            return;
        }
        s->added--;
        take_item(s);
        s->added++;
    }
}

static struct stream *open_stream(size_t first, const pycrew_batch_options *options)
{
    struct stream *s = check_alloc(calloc(1, sizeof *s));
    s->first = first;
    s->unordered = options->unordered;
    s->function = choose_function(first / 7);
    check(pycrew_batch_open(soak.crew, s->function, options, &s->batch), "pycrew_batch_open");
    return s;
}

static void close_stream(struct stream *s)
{
    pycrew_batch_close(s->batch);
    free(s);
}

static pycrew_batch_options random_options(uint64_t *random)
{
    pycrew_batch_options options = PYCREW_BATCH_OPTIONS_INIT;
    options.unordered = one_in(2, random);
    options.chunk = one_in(4, random) ? 1 + below(200, random) : 0;
    options.window = one_in(4, random) ? 50 + below(500, random) : 0;
    options.retries = 0; /* not the crew's */
    return options;
}

void do_batch(size_t first, size_t count, uint64_t *random)
{
    pycrew_batch_options options = random_options(random);
    struct stream *s = open_stream(first, &options);
    for (size_t i = 0; i < count; i++) {
        plan p = plan_call(first + i, KIND_BATCH, OP_ADD, random);
        put_item(s, &p);
    }
    check(pycrew_batch_end(s->batch), "pycrew_batch_end");
    take_all(s);
    close_stream(s);
}

/* ---- a rough one ------------------------------------------------------------------------------
 */

static enum op random_op(bool deadline, uint64_t *random)
{
    static const enum op endless[] = {OP_SPIN, OP_MATCH, OP_STICK, OP_SWALLOW, OP_STOP};
    if (deadline && one_in(1000, random))
        return endless[below(5, random)];
    if (one_in(1000, random))
        return OP_EXIT + below(5, random);
    if (one_in(50, random))
        return OP_FAIL;
    if (one_in(50, random))
        return OP_SLEEP;
    return one_in(20, random) ? OP_ECHO : OP_ADD;
}

static plan plan_item(size_t index, const pycrew_batch_options *options, uint64_t *random)
{
    plan p = plan_call(index, KIND_ROUGH_BATCH, random_op(options->timeout_ns > 0, random), random);
    if (p.op == OP_SLEEP)
        plan_sleep(&p, below(500, random) * US);
    if (p.op == OP_ECHO)
        plan_data(&p, 1 + below(one_in(100, random) ? 1 << 20 : 2000, random));
    if (options->timeout_ns > 0)
        plan_timeout(&p, options->timeout_ns);
    plan_retries(&p, (unsigned)options->retries);
    return p;
}

/* What is inside gets a mark: it may end so, or nobody hears of its end. */
static void mark_inside(const struct stream *s, uint8_t flag)
{
    for (size_t i = 0; i < s->added; i++) {
        ledger_call *call = &soak_ledger.calls[s->plans[i].index];
        if (call->ends == 0)
            call->flags |= flag;
    }
}

void do_rough_batch(size_t first, size_t count, uint64_t *random)
{
    pycrew_batch_options options = random_options(random);
    size_t cancel_at = one_in(4, random) ? below((unsigned)count, random) : count;
    bool close_early = one_in(8, random);
    options.retries = (int)below(3, random);
    options.timeout_ns = one_in(2, random) ? (5 + below(20, random)) * MS : 0;
    struct stream *s = open_stream(first, &options);
    for (size_t i = 0; i < count && i <= cancel_at; i++) {
        plan p = plan_item(first + i, &options, random);
        put_item(s, &p);
        if (one_in(20, random))
            take_item(s);
    }
    if (cancel_at < count) {
        mark_inside(s, CALL_ASKED);
        check(pycrew_batch_cancel(s->batch), "pycrew_batch_cancel");
    }
    if (close_early) {
        mark_inside(s, CALL_RELEASED);
    } else {
        check(pycrew_batch_end(s->batch), "pycrew_batch_end");
        take_all(s);
    }
    close_stream(s);
}
