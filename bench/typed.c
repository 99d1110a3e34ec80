/* typed: what a typed function costs beyond the same calls of pycrew.h written by hand.
 *
 * Both ways take turns, a run of calls each, so that whatever else the machine does falls on both.
 * A row is the median of all runs' times per call, by hand and typed, and of the differences of
 * neighbours. */
#include "bench/common.h"
#include "bench/stubs/math_ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLS = 200, RUNS = 1500 };

static pycrew_crew *crew;
static const pycrew_function *add;

static pycrew_call *prepare_by_hand(int64_t i)
{
    pycrew_call *call;
    check(pycrew_prepare(crew, add, PYCREW_FOREVER, &call), "pycrew_prepare");
    check(pycrew_add_i64(call, i), "pycrew_add_i64");
    check(pycrew_add_i64(call, 2 * i), "pycrew_add_i64");
    return call;
}

/* Arguments only: what goes on without a worker, and so is exact. */
static void fill_by_hand(int64_t i)
{
    pycrew_release(prepare_by_hand(i));
}

static void fill_typed(int64_t i)
{
    pycrew_call *call;
    check(math_ops_add_prepare(crew, PYCREW_FOREVER, i, 2 * i, &call), "math_ops_add_prepare");
    pycrew_release(call);
}

static void check_sum(int64_t sum, int64_t i)
{
    if (sum != 3 * i)
        fail("add(%lld, %lld) = %lld", (long long)i, (long long)(2 * i), (long long)sum);
}

static void call_by_hand(int64_t i)
{
    int64_t sum = 0;
    pycrew_call *call = prepare_by_hand(i);
    check(pycrew_submit(call), "pycrew_submit");
    check(pycrew_wait(call, PYCREW_FOREVER), "pycrew_wait");
    check(pycrew_result_i64(call, &sum), "pycrew_result_i64");
    pycrew_release(call);
    check_sum(sum, i);
}

static void call_typed(int64_t i)
{
    int64_t sum = 0;
    check(math_ops_add(crew, i, 2 * i, &sum), "math_ops_add");
    check_sum(sum, i);
}

static double time_of(void (*way)(int64_t i))
{
    int64_t begin = now_ns();
    for (int64_t i = 0; i < CALLS; i++)
        way(i);
    return (double)(now_ns() - begin) / CALLS;
}

static void measure(const char *what, void (*by_hand)(int64_t i), void (*typed)(int64_t i))
{
    static double hand_ns[RUNS], typed_ns[RUNS], more_ns[RUNS];
    for (int run = -RUNS / 10; run < RUNS; run++) { /* the first are to warm up */
        int at = run < 0 ? 0 : run;
        if (run % 2 == 0) {
            hand_ns[at] = time_of(by_hand);
            typed_ns[at] = time_of(typed);
        } else {
            typed_ns[at] = time_of(typed);
            hand_ns[at] = time_of(by_hand);
        }
        more_ns[at] = typed_ns[at] - hand_ns[at];
    }
    printf("%-36s %8.1f %8.1f %+8.1f\n", what, quantile(hand_ns, RUNS, 0.5),
           quantile(typed_ns, RUNS, 0.5), quantile(more_ns, RUNS, 0.5));
}

int main(void)
{
    crew = open_crew(1, NULL);
    add = get_function(crew, "math_ops:add");
    printf("%-36s %8s %8s %8s\n", "ns a call", "by hand", "typed", "more");
    measure("prepare, two arguments, release", fill_by_hand, fill_typed);
    measure("a whole call, one worker", call_by_hand, call_typed);
    pycrew_close(crew);
    return 0;
}
