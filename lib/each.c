/* each: one function in each worker. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crew.h"
#include "lib/format.h"

enum { TRIES = 4 }; /* of one worker's place, where its processes end before they come to it */

typedef struct visit {
    pycrew_call *call; /* in flight; NULL: to be sent, or done */
    bool done;
    unsigned tries;
} visit;

typedef struct tour {
    pycrew_crew *crew;
    const pycrew_function *function;
    const char *format; /* NULL: the arguments are written already */
    va_list *arguments;
    uint8_t *written;
    size_t written_size;
    int64_t timeout_ns, until;
    visit *visits;  /* by worker */
    unsigned done;  /* of them */
    pc_error first; /* what went wrong first; code 0: nothing has */
} tour;

static void note_done(tour *t, unsigned worker)
{
    t->visits[worker].done = true;
    t->done++;
}

/* The last error is worker's. */
static void note_error(tour *t, unsigned worker, int code)
{
    const pycrew_error *e = pycrew_last_error();
    pycrew_error *first = &t->first.public;
    char *message = NULL;

    if (first->code != 0)
        return;
    if (asprintf(&message, "worker %u: %s", worker, e->message) < 0)
        message = NULL;
    pc_error_set(&t->first, code, pc_text_of(e->function), pc_text_of(e->type),
                 pc_text_of(message != NULL ? message : e->message), pc_text_of(e->traceback));
    first->signal = e->signal;
    first->exit_status = e->exit_status;
    first->may_have_run = e->may_have_run;
    first->out_of_memory = e->out_of_memory;
    first->attempts = e->attempts;
    free(message);
}

static void fail_visit(tour *t, unsigned worker, int code)
{
    note_error(t, worker, code);
    note_done(t, worker);
}

/* ---- sending ---- */

static int copy_written(const tour *t, pycrew_call *call)
{
    pc_writer *writer = &call->builder.writer;
    size_t size = t->written_size;
    int rc = size > writer->capacity ? writer->grow(writer, size) : 0;

    if (rc < 0)
        return rc;
    memcpy(writer->data, t->written, size);
    writer->size = size;
    return 0;
}

static int build(tour *t, pycrew_call *call)
{
    const char *result = "";
    va_list arguments;
    int rc;

    if (t->format == NULL)
        return copy_written(t, call);
    va_copy(arguments, *t->arguments);
    rc = pc_format_build(&call->builder, t->format, &arguments, &result);
    va_end(arguments);
    if (rc == 0 && result[0] != '\0')
        rc = pc_fail(-EINVAL, "pycrew_run_each gives no results, as the format \"%s\" asks", t->format);
    return rc;
}

static bool is_any_in_flight(const tour *t)
{
    for (unsigned i = 0; i < t->crew->workers; i++)
        if (t->visits[i].call != NULL)
            return true;
    return false;
}

/* -EAGAIN: not now. */
static int send(tour *t, unsigned worker)
{
    unsigned incarnation;
    pycrew_call *call;
    int rc = pc_direct_find(t->crew, worker, &incarnation);

    if (rc < 0)
        return rc;
    rc = pc_call_prepare(t->crew, is_any_in_flight(t) ? 0 : PYCREW_FOREVER, &call);
    if (rc == -EAGAIN && !is_any_in_flight(t)) { /* they are this thread's own: none becomes free */
        fail_visit(t, worker, rc);
        return 0;
    }
    if (rc < 0)
        return rc;
    call->function = t->function;
    call->timeout_ns = t->timeout_ns;
    rc = build(t, call);
    pc_direct_address(call, worker, incarnation);
    if (rc == 0)
        rc = pycrew_submit(call);
    if (rc < 0) {
        pc_call_reclaim(call);
        return rc == -EAGAIN ? -ENOMEM : rc;
    }
    t->visits[worker].call = call;
    t->visits[worker].tries++;
    return 0;
}

static void send_all(tour *t)
{
    for (unsigned i = 0; i < t->crew->workers; i++) {
        int rc = t->visits[i].done || t->visits[i].call != NULL ? 0 : send(t, i);

        if (rc < 0 && rc != -EAGAIN)
            fail_visit(t, i, rc);
    }
}

/* ---- waiting ---- */

static void collect(tour *t, unsigned worker)
{
    visit *v = &t->visits[worker];
    pycrew_call *call = v->call;
    int rc = pc_call_wait(call, PYCREW_FOREVER);

    v->call = NULL;
    if (rc == 0)
        note_done(t, worker);
    else if (rc != PYCREW_EDIED || pycrew_last_error()->may_have_run || v->tries == TRIES)
        fail_visit(t, worker, rc);
    pycrew_release(call);
}

/* For one that is in flight; else for a worker that is not there. */
static void await_one(tour *t)
{
    int missing = -1, rc;

    for (unsigned i = 0; i < t->crew->workers; i++) {
        if (t->visits[i].call != NULL) {
            collect(t, i);
            return;
        }
        if (!t->visits[i].done && missing < 0)
            missing = (int)i;
    }
    rc = missing < 0 ? 0 : pc_direct_await(t->crew, missing, t->until);
    if (rc == -ETIME)
        rc = pc_fail(-ETIMEDOUT, "it was not ready before the deadline");
    if (rc < 0)
        fail_visit(t, (unsigned)missing, rc);
}

static int make_tour(tour *t)
{
    while (t->done < t->crew->workers) {
        send_all(t);
        await_one(t);
    }
    return t->first.public.code < 0 ? pc_fail_error(&t->first.public) : 0;
}

/* Once its crew, function, arguments and timeout are set. */
static int run_tour(tour *t)
{
    int rc;

    t->until = pc_until(t->timeout_ns);
    t->visits = calloc(t->crew->workers, sizeof t->visits[0]);
    if (t->visits == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    rc = make_tour(t);
    free(t->visits);
    pc_error_clear(&t->first);
    return rc;
}

static int run_each(pycrew_crew *crew, const char *function, const char *format, va_list *arguments)
{
    tour t = {.crew = crew,
              .format = format,
              .arguments = arguments,
              .timeout_ns = crew->timeout_ns};
    int rc = pycrew_function_get(crew, function, &t.function);

    return rc < 0 ? rc : run_tour(&t);
}

/* The call is released before its copies are sent, so that no more calls are needed than by run_each. */
static int run_each_call(pycrew_call *call)
{
    const pc_writer *writer = &call->builder.writer;
    tour t = {.crew = call->crew, .function = call->function, .timeout_ns = call->timeout_ns};
    int rc = pc_build_finish(&call->builder);

    if (rc == 0 && call->arrays != NULL)
        rc = pc_fail(-EINVAL, "pycrew_run_each_call: arrays cannot be given to each worker");
    if (rc == 0 && (t.written = malloc(writer->size + 1)) == NULL)
        rc = pc_fail(-ENOMEM, "no memory is left");
    if (rc < 0) {
        pycrew_release(call);
        return rc;
    }
    t.written_size = writer->size;
    memcpy(t.written, writer->data, t.written_size);
    pycrew_release(call);
    rc = run_tour(&t);
    free(t.written);
    return rc;
}

int pycrew_run_each_call(pycrew_call *call)
{
    pycrew_crew *crew;
    int rc;

    if (call == NULL || call->slot == NULL)
        return pc_fail(-EINVAL, "pycrew_run_each_call: call must not be NULL, nor a batch's item");
    crew = call->crew;
    rc = pc_crew_check(crew);
    if (rc < 0)
        return rc;
    if (atomic_load(&call->phase) != PC_PHASE_PREPARED)
        return pc_fail(-EALREADY, "pycrew_run_each_call: the call was submitted already: prepare another");
    pc_crew_enter(crew);
    rc = pc_engine_refuse(crew, "pycrew_run_each_call");
    if (rc == 0 && pc_call_kind(call) != 0)
        rc = pc_fail(-EINVAL, "pycrew_run_each_call: the call is an actor's, or a stream");
    if (rc == 0)
        rc = run_each_call(call);
    else
        pycrew_release(call);
    pc_crew_leave(crew);
    return rc;
}

int pycrew_run_each(pycrew_crew *crew, const char *function, const char *format, ...)
{
    va_list arguments;
    int rc;

    if (crew == NULL || format == NULL)
        return pc_fail(-EINVAL, "pycrew_run_each: crew and format must not be NULL");
    rc = pc_crew_check(crew);
    if (rc < 0 || (rc = pc_engine_refuse(crew, "pycrew_run_each")) < 0)
        return rc;
    va_start(arguments, format);
    pc_crew_enter(crew);
    rc = run_each(crew, function, format, &arguments);
    pc_crew_leave(crew);
    va_end(arguments);
    return rc;
}
