/* A worker that is to be replaced, and is never idle: it leaves within a bound, and no call that
 * was accepted is lost by it. */
#include <errno.h>

#include "tests/harness/crew.h"

static pycrew_crew *open_short_lived(unsigned workers, unsigned calls)
{
    pycrew_options options = test_options(workers);

    options.max_calls_per_worker = calls;
    return open_with(&options);
}

static pycrew_actor *open_napper(pycrew_crew *crew)
{
    pycrew_actor *actor = NULL;

    OK(pycrew_actor_open(crew, &actor, BOUND, "leave_ops:Napper", ""));
    return actor;
}

static pycrew_call *begin_nap(pycrew_crew *crew, pycrew_actor *actor, double seconds)
{
    pycrew_call *call = NULL;

    if (actor != NULL)
        OK(pycrew_actor_prepare(actor, "nap", PYCREW_FOREVER, &call));
    else
        OK(pycrew_prepare(crew, function_of(crew, "leave_ops:nap"), PYCREW_FOREVER, &call));
    OK(pycrew_add(call, "d", seconds));
    OK(pycrew_submit(call));
    return call;
}

/* The process that it ended in, or 0: it ended unrun, with that. */
static int end_nap(pycrew_call *call)
{
    int rc = pycrew_wait(call, BOUND), pid = 0;

    if (rc == 0) {
        OK(pycrew_result(call, "i", &pid));
    } else {
        GIVES(rc, PYCREW_EDIED);
        ASSERT(!pycrew_call_error(call)->may_have_run);
    }
    pycrew_release(call);
    return pid;
}

enum { NAPS = 6 };

/* Naps that overlap, of an actor's or, without one, of the crew's: until one ends in another
 * process, or in none. */
typedef struct nappers {
    pycrew_crew *crew;
    pycrew_actor *actor;
    pycrew_call *naps[NAPS];
    double seconds; /* of the shortest */
    int first;      /* process */
    unsigned unrun;
    _Atomic bool enough;
} nappers;

static void end_one(nappers *n, unsigned number)
{
    int pid = end_nap(n->naps[number]);

    n->naps[number] = NULL;
    n->unrun += pid == 0;
    if (n->first == 0)
        n->first = pid;
    if (pid != n->first)
        atomic_store(&n->enough, true);
}

/* Each takes another time, so that they do not come to end together. */
static double length(const nappers *n, unsigned number)
{
    return n->seconds * (1 + 0.06 * number);
}

static void *nap(void *data)
{
    nappers *n = data;
    int64_t until = now_ns() + (int64_t)((double)BOUND * tap_scale());

    for (unsigned i = 0; !atomic_load(&n->enough); i = (i + 1) % NAPS) {
        ASSERT(now_ns() < until);
        if (n->naps[i] != NULL && pycrew_wait(n->naps[i], MS) == -ETIME)
            continue;
        if (n->naps[i] != NULL)
            end_one(n, i);
        n->naps[i] = begin_nap(n->crew, n->actor, length(n, i));
    }
    for (unsigned i = 0; i < NAPS; i++)
        if (n->naps[i] != NULL)
            end_one(n, i);
    return NULL;
}

TEST(a_worker_with_an_actor_that_is_never_idle_leaves)
{
    pycrew_crew *crew = open_short_lived(2, 20);
    nappers n = {.crew = crew, .actor = open_napper(crew), .seconds = 0.4};
    int pid;

    nap(&n);
    OK(pycrew_actor_reopen(n.actor, BOUND));
    OK(pycrew_actor_run(n.actor, "pid", ">i", &pid));
    ASSERT(pid != n.first);
    pycrew_actor_close(n.actor);
    pycrew_close(crew);
}

TEST(so_does_the_only_worker_beside_calls_of_the_crew)
{
    pycrew_crew *crew = open_short_lived(1, 20);
    nappers mine = {.crew = crew, .actor = open_napper(crew), .seconds = 0.4};
    nappers all = {.crew = crew, .seconds = 0.5};
    pthread_t beside;

    ASSERT(pthread_create(&beside, NULL, nap, &all) == 0);
    nap(&mine);
    pthread_join(beside, NULL);
    ASSERT_INT(all.unrun, 0);
    pycrew_actor_close(mine.actor);
    pycrew_close(crew);
}

TEST(the_only_worker_leaves_though_coroutines_that_take_over_a_second_overlap)
{
    pycrew_crew *crew = open_short_lived(1, 4);
    nappers n = {.crew = crew, .seconds = 1.3};

    nap(&n);
    ASSERT_INT(n.unrun, 0);
    pycrew_close(crew);
}

/* What is in flight may wait for what is refused. */
TEST(a_leaving_worker_refuses_an_actors_calls_for_a_while_only)
{
    pycrew_crew *crew = open_short_lived(2, 4);
    pycrew_actor *actor = open_napper(crew);
    int64_t until = now_ns() + (int64_t)((double)BOUND * tap_scale()), begun;
    pycrew_call *waits;
    int first, pid;

    OK(pycrew_actor_prepare(actor, "wait", PYCREW_FOREVER, &waits));
    OK(pycrew_submit(waits));
    OK(pycrew_actor_run(actor, "pid", ">i", &first));
    do { /* until one is kept waiting */
        ASSERT(now_ns() < until);
        begun = now_ns();
        OK(pycrew_actor_run(actor, "pid", ">i", &pid));
        ASSERT_INT(pid, first);
    } while (now_ns() - begun < 50 * MS);
    OK(pycrew_actor_run(actor, "set", ">"));
    OK(pycrew_wait(waits, BOUND));
    pycrew_release(waits);
    pycrew_actor_close(actor);
    pycrew_close(crew);
}

TAP_MAIN
