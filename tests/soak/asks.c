/* Calls whose Python asks the host: the functions that it is offered, and those calls. */
#include "tests/soak/soak.h"

#include <stdio.h>

enum { ASKS_MAX = 100, ASK_DATA_MAX = 200000 };

/* ---- what Python asks for ----------------------------------------------------------------------
 */

typedef struct question {
    long long index, op, a;
    unsigned long long b;
    int part;
    const void *data;
    size_t size;
} question;

static _Atomic unsigned running;

/* Whether it is a call's that was made, which is counted. */
static bool is_of_a_call(const question *q)
{
    size_t index = (size_t)q->index;
    if (index < soak_ledger.capacity && ledger_asked(index))
        return true;
    ledger_fault(FAULT_UNTRUE, index, "the host is asked by a call that was never made");
    return false;
}

/* And asks what that was to ask. */
static bool is_right(const question *q, enum op op)
{
    size_t index = (size_t)q->index;
    plan p = {.index = index,
              .op = (enum op)q->op,
              .a = q->a,
              .b = q->b,
              .data = q->data,
              .size = q->size};
    if (q->op != (long long)op || soak_ledger.calls[index].op != op)
        ledger_fault(FAULT_CHANGED, index, "operation %lld came to the function of %d", q->op,
                     (int)op);
    else if (plan_check(&p) != soak_ledger.calls[index].check)
        ledger_fault(FAULT_CHANGED, index, "the host is asked with other arguments");
    else
        return true;
    return false;
}

static int answer(pycrew_host_call *call, const question *q, enum op op)
{
    char text[32];
    switch (op) {
    case OP_ASK_ECHO:
        return pycrew_host_return(call, "y#", q->data, q->size);
    case OP_ASK_FAIL:
    case OP_ASK_CATCH:
        snprintf(text, sizeof text, "%lld", q->a);
        return pycrew_host_fail(call, op == OP_ASK_FAIL ? "ValueError" : "KeyError", text);
    case OP_ASK_SLOW: /* its arguments stay, whatever became of who gave them */
    case OP_ASK_DIE:
        for (int64_t until = now_ns() + (int64_t)q->b * US; now_ns() < until;)
            sleep_ns(200 * US);
        if (!is_right(q, op))
            return pycrew_host_fail(call, "SystemError", "changed");
        break;
    default:
        break;
    }
    return pycrew_host_return(call, "Liy#", q->a + q->index, q->part, q->data, q->size);
}

static int run_function(void *data, pycrew_host_call *call)
{
    const enum op *op = data;
    question q = {.data = ""};
    int rc = pycrew_host_arguments(call, "LLLKi|data=y#", &q.index, &q.op, &q.a, &q.b, &q.part,
                                   &q.data, &q.size);
    if (rc < 0) {
        ledger_fault(FAULT_CHANGED, SIZE_MAX, "the host cannot read what it is asked: %s",
                     pycrew_last_error()->message);
        return rc;
    }
    atomic_fetch_add(&running, 1);
    rc = is_of_a_call(&q) && is_right(&q, *op) ? answer(call, &q, *op)
                                               : pycrew_host_fail(call, "SystemError", "wrong");
    atomic_fetch_sub(&running, 1);
    return rc;
}

static const struct {
    const char *name;
    enum op op;
} functions[] = {{"add", OP_ASK},       {"echo", OP_ASK_ECHO},  {"catch_", OP_ASK_CATCH},
                 {"slow", OP_ASK_SLOW}, {"part", OP_ASK_PARTS}, {"fail", OP_ASK_FAIL},
                 {"last", OP_ASK_DIE}};

void asks_export(void)
{
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        check(pycrew_export(soak.crew, functions[i].name, run_function, (void *)&functions[i].op),
              "pycrew_export");
}

void asks_look_after_close(void)
{
    if (atomic_load(&running) > 0)
        ledger_fault(FAULT_HUNG, SIZE_MAX, "%u exported functions run after close",
                     atomic_load(&running));
}

/* ---- calls that ask ----------------------------------------------------------------------------
 */

static plan plan_ask(size_t index, uint64_t *random)
{
    static const enum op ops[] = {OP_ASK,      OP_ASK,       OP_ASK,      OP_ASK_ECHO,
                                  OP_ASK_ECHO, OP_ASK_CATCH, OP_ASK_FAIL, OP_ASK_PARTS,
                                  OP_ASK_SLOW, OP_ASK_SLOW};
    enum op op = one_in(400, random) ? OP_ASK_DIE : ops[below(sizeof ops / sizeof *ops, random)];
    bool slow = op == OP_ASK_SLOW || op == OP_ASK_DIE;
    plan p = plan_call(index, KIND_ASK, op, random);
    int64_t sleep = (int64_t)below(one_in(8, random) ? 8000 : 500, random) * US;
    if (slow)
        plan_sleep(&p, sleep);
    if (op == OP_ASK_ECHO || one_in(slow ? 2 : 4, random))
        plan_data(&p, 1 + below(one_in(slow ? 3 : 8, random) ? ASK_DATA_MAX : 3000, random));
    if (one_in(op == OP_ASK_SLOW ? 4 : 50, random))
        plan_timeout(&p, sleep / 2 + (1 + (int64_t)below(5000, random)) * US);
    plan_retries(&p, op == OP_ASK_DIE ? 0 : below(2, random));
    return p;
}

static pycrew_call *submit_ask(const plan *p)
{
    pycrew_call *call = prepare_call(p);
    if (p->size > 0)
        check(pycrew_add_bytes(call, p->data, p->size), "pycrew_add_bytes");
    ledger_may_ask(p->index);
    submit_call(call, p);
    return call;
}

static void finish_ask(pycrew_call *call, const plan *p)
{
    long long sum;
    const void *data;
    size_t size;
    if (await_call(call, p)) {
        if (p->op == OP_ASK_ECHO) {
            check(pycrew_result(call, "y#", &data, &size), "pycrew_result");
            check_bytes(p, data, size);
        } else {
            check(pycrew_result(call, "L", &sum), "pycrew_result");
            check_sum(p->index, sum);
        }
    }
    pycrew_release(call);
}

void do_asks(size_t first, size_t count, uint64_t *random)
{
    plan plans[ASKS_MAX];
    pycrew_call *calls[ASKS_MAX];
    for (size_t i = 0; i < count; i++) {
        plans[i] = plan_ask(first + i, random);
        calls[i] = submit_ask(&plans[i]);
    }
    for (size_t i = 0; i < count; i++) {
        if (one_in(40, random))
            cancel_call(calls[i], &plans[i]);
        if (one_in(60, random))
            release_early(calls[i], &plans[i]);
        else
            finish_ask(calls[i], &plans[i]);
    }
}
