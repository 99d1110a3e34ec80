/* What stays in a worker: calls of an actor, and the items of a stream. */
#include "tests/soak/soak.h"

#include <errno.h>

enum { ITEMS_MAX = 200 };

/* ---- actors ------------------------------------------------------------------------------------
 */

/* Workers are killed at any moment, also while it is made. */
static pycrew_actor *open_actor(size_t index)
{
    int64_t until = now_ns() + LOST_NS;
    pycrew_actor *actor = NULL;
    int rc;
    do {
        watch_beat();
        rc = pycrew_actor_open(soak.crew, &actor, LOST_NS, "soak_ops:Actor", "");
    } while (rc == PYCREW_EDIED && now_ns() < until);
    if (rc == -ETIMEDOUT || rc == -ETIME)
        hung(index, NULL, "pycrew_actor_open");
    check(rc, "pycrew_actor_open");
    return actor;
}

static void reopen_actor(pycrew_actor *actor)
{
    int rc = pycrew_actor_reopen(actor, LOST_NS);
    if (rc < 0 && rc != -EALREADY && rc != PYCREW_EDIED)
        check(rc, "pycrew_actor_reopen");
}

static pycrew_call *submit_method(pycrew_actor *actor, const plan *p)
{
    pycrew_call *call = NULL;
    watch_beat();
    int rc = pycrew_actor_prepare(actor, "call", LOST_NS, &call);
    if (rc == -ETIME)
        hung(p->index, NULL, "pycrew_actor_prepare");
    check(rc, "pycrew_actor_prepare");
    check(pycrew_add(call, "LLLK", (long long)p->index, (long long)p->op, (long long)p->a,
                     (unsigned long long)p->b),
          "pycrew_add");
    if (p->timeout_ns > 0)
        check(pycrew_set_timeout(call, p->timeout_ns), "pycrew_set_timeout");
    plan_submitted(p);
    check(pycrew_submit(call), "pycrew_submit");
    return call;
}

static plan plan_method(size_t index, uint64_t *random)
{
    enum op op = one_in(30, random)    ? OP_FAIL
                 : one_in(300, random) ? OP_EXIT + below(4, random)
                 : one_in(10, random)  ? OP_SLEEP
                                       : OP_ADD;
    plan p = plan_call(index, KIND_ACTOR, op, random);
    if (op == OP_SLEEP)
        plan_sleep(&p, below(500, random) * US);
    if (one_in(50, random))
        plan_timeout(&p, (1 + below(10, random)) * MS);
    return p;
}

void do_actor(size_t first, size_t count, uint64_t *random)
{
    plan plans[ITEMS_MAX];
    pycrew_call *calls[ITEMS_MAX];
    pycrew_actor *actor = open_actor(first);
    for (size_t i = 0; i < count; i++) {
        plans[i] = plan_method(first + i, random);
        calls[i] = submit_method(actor, &plans[i]);
        if (one_in(100, random))
            cancel_call(calls[i], &plans[i]);
        if (one_in(20, random))
            reopen_actor(actor);
    }
    if (one_in(2, random))
        pycrew_actor_close(actor), actor = NULL;
    for (size_t i = 0; i < count; i++) {
        long long sum;
        if (await_call(calls[i], &plans[i])) {
            check(pycrew_result(calls[i], "L", &sum), "pycrew_result");
            check_sum(plans[i].index, sum);
        }
        pycrew_release(calls[i]);
    }
    pycrew_actor_close(actor);
}

/* ---- streams ------------------------------------------------------------------------------------
 */

static pycrew_call *prepare_stream(const plan *plans, size_t count, unsigned window)
{
    static _Atomic(const pycrew_function *) function;
    const pycrew_function *stream = atomic_load(&function);
    pycrew_call *call = NULL;
    int rc;
    if (!stream) {
        check(pycrew_function_get(soak.crew, "soak_ops:stream", &stream), "soak_ops:stream");
        atomic_store(&function, stream);
    }
    watch_beat();
    check(pycrew_prepare(soak.crew, stream, LOST_NS, &call), "pycrew_prepare");
    rc = pycrew_set_stream(call, window);
    check(rc, "pycrew_set_stream");
    check(pycrew_add_open(call, PYCREW_LIST), "pycrew_add_open");
    for (size_t i = 0; i < count; i++)
        check(pycrew_add(call, "(LLLK)", (long long)plans[i].index, (long long)plans[i].op,
                         (long long)plans[i].a, (unsigned long long)plans[i].b),
              "pycrew_add");
    check(pycrew_add_close(call), "pycrew_add_close");
    return call;
}

/* 1: go on. */
static int take_item(pycrew_call *call, const plan *p)
{
    long long sum;
    watch_beat();
    int rc = pycrew_next(call, LOST_NS);
    if (rc == -ETIME)
        hung(p->index, call, "a stream's item");
    if (rc == 0)
        ledger_fault(FAULT_LOST, p->index, "a stream ends before it");
    if (rc == 1) {
        check(pycrew_result(call, "L", &sum), "pycrew_result");
        check_sum(p->index, sum);
        ledger_end(p->index, NULL);
    } else if (rc < 0) {
        ledger_end(p->index, pycrew_call_error(call));
        check_failure(p->index, pycrew_call_error(call));
    }
    return rc;
}

void do_stream(size_t first, size_t count, uint64_t *random)
{
    plan plans[ITEMS_MAX];
    size_t given = 0, wanted = one_in(3, random) ? below((unsigned)count, random) : count + 1;
    for (size_t i = 0; i < count; i++) {
        enum op op = one_in(300, random)   ? OP_FAIL
                     : one_in(600, random) ? OP_EXIT + below(4, random)
                                           : OP_ADD;
        plans[i] = plan_call(first + i, KIND_STREAM, op, random);
        plan_submitted(&plans[i]);
    }
    pycrew_call *call = prepare_stream(plans, count, 1 + below(40, random));
    check(pycrew_submit(call), "pycrew_submit");
    while (given < count && given < wanted && take_item(call, &plans[given]) == 1)
        given++;
    if (given == count && wanted > count && pycrew_next(call, LOST_NS) == 1)
        ledger_fault(FAULT_DOUBLED, first, "a stream has more items than were asked for");
    for (size_t i = given; i < count; i++) /* nobody hears of these, but for one that failed */
        if (soak_ledger.calls[first + i].ends == 0)
            soak_ledger.calls[first + i].flags |= CALL_RELEASED;
    pycrew_release(call);
}
