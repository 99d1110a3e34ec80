/* actor: objects that stay in one worker, and the calls of their methods.
 *
 * The object is kept in the worker's table under the name of the call that made it; that same
 * record then waits to drop it, so that there is always a call left for the close. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crew.h"
#include "lib/format.h"

enum { TRIES = 4 }; /* of workers that end before they come to the constructor */

struct pycrew_actor {
    pycrew_crew *crew;
    const pycrew_function *class;
    pthread_mutex_t making; /* one thread reopens it; before lock */
    pthread_mutex_t lock;   /* where it is: */
    unsigned worker, incarnation;
    uint64_t object;
    pycrew_call *closing; /* prepared, not used yet */
    /* The constructor's arguments; NULL: there were arrays. */
    uint8_t *arguments;
    size_t arguments_size;
    pycrew_actor *next, **link; /* in the crew's list; under crew->lock */
};

/* ---- the list ---- */

static void insert(pycrew_actor *actor)
{
    pycrew_crew *crew = actor->crew;

    pthread_mutex_lock(&crew->lock);
    actor->next = crew->actors;
    actor->link = &crew->actors;
    if (actor->next != NULL)
        actor->next->link = &actor->next;
    crew->actors = actor;
    pthread_mutex_unlock(&crew->lock);
}

static void take_out(pycrew_actor *actor)
{
    pycrew_crew *crew = actor->crew;

    pthread_mutex_lock(&crew->lock);
    *actor->link = actor->next;
    if (actor->next != NULL)
        actor->next->link = actor->link;
    pthread_mutex_unlock(&crew->lock);
}

static void free_actor(pycrew_actor *actor)
{
    pthread_mutex_destroy(&actor->making);
    pthread_mutex_destroy(&actor->lock);
    free(actor->arguments);
    free(actor);
}

void pc_actors_free(pycrew_crew *crew)
{
    pycrew_actor *actor = crew->actors, *next;

    for (; actor != NULL; actor = next) {
        next = actor->next;
        free_actor(actor);
    }
    crew->actors = NULL;
}

/* ---- making the object ---- */

/* Arrays are held by the call that they are arguments of; to make the object again there are none.
 */
static int save_arguments(pycrew_actor *actor, const pycrew_call *call)
{
    const pc_writer *writer = &call->builder.writer;

    if (call->arrays != NULL)
        return 0;
    actor->arguments = malloc(writer->size + 1);
    if (actor->arguments == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    memcpy(actor->arguments, writer->data, writer->size);
    actor->arguments_size = writer->size;
    return 0;
}

static int load_arguments(const pycrew_actor *actor, pycrew_call *call)
{
    pc_writer *writer = &call->builder.writer;
    size_t size = actor->arguments_size;
    int rc = size > writer->capacity ? writer->grow(writer, size) : 0;

    if (rc < 0)
        return rc;
    memcpy(writer->data, actor->arguments, size);
    writer->size = size;
    return 0;
}

/* Where the object is, for calls to come; the call that made it is the one to drop it. */
static void settle(pycrew_actor *actor, pycrew_call *call, unsigned worker, unsigned incarnation)
{
    uint64_t object = pc_call_object(call);

    pc_call_renew(call);
    call->function = actor->class;
    pc_call_set_object(call, PC_KIND_DROP, object); /* which fits the slot */
    pthread_mutex_lock(&actor->lock);
    actor->worker = worker;
    actor->incarnation = incarnation;
    actor->object = object;
    actor->closing = call;
    pthread_mutex_unlock(&actor->lock);
}

/* Runs a prepared constructor in a worker of our choice. */
static int construct(pycrew_actor *actor, pycrew_call *call, int64_t until)
{
    pycrew_crew *crew = actor->crew;
    unsigned worker, incarnation;
    int rc = pc_direct_choose(crew, until, &worker, &incarnation);

    if (rc < 0)
        return rc == -ETIME ? pc_fail(-ETIMEDOUT, "no worker was ready before the deadline") : rc;
    if (until != INT64_MAX) {
        int64_t left = until - pc_now();

        call->timeout_ns = left > 0 ? left : 0;
    }
    pc_direct_address(call, worker, incarnation);
    call->flags = (uint16_t)(call->flags | PC_KIND_KEEP);
    rc = pycrew_submit(call);
    if (rc == 0)
        rc = pc_call_wait(call, PYCREW_FOREVER);
    if (rc < 0)
        pc_direct_unchoose(crew, worker, incarnation);
    else
        settle(actor, call, worker, incarnation);
    return rc;
}

/* A worker that ended before it came to it has done no harm. */
static int construct_somewhere(pycrew_actor *actor, pycrew_call *call)
{
    int64_t until = call->timeout_ns < 0 ? INT64_MAX : pc_until(call->timeout_ns);
    int rc = construct(actor, call, until);

    for (unsigned i = 1; i < TRIES && rc == PYCREW_EDIED && actor->arguments != NULL &&
                         !call->error.public.may_have_run;
         i++) {
        pc_call_renew(call);
        call->function = actor->class;
        rc = load_arguments(actor, call);
        if (rc == 0)
            rc = construct(actor, call, until);
    }
    return rc;
}

static pycrew_actor *new_actor(const pycrew_call *call)
{
    pycrew_actor *actor = calloc(1, sizeof *actor);

    if (actor == NULL)
        return NULL;
    actor->crew = call->crew;
    actor->class = call->function;
    pthread_mutex_init(&actor->making, NULL);
    pthread_mutex_init(&actor->lock, NULL);
    return actor;
}

/* Between pc_crew_enter and pc_crew_leave. */
static int make(pycrew_call *call, pycrew_actor **ret)
{
    pycrew_actor *actor;
    int rc = pc_build_finish(&call->builder);

    if (rc < 0)
        return rc;
    actor = new_actor(call);
    if (actor == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    rc = save_arguments(actor, call);
    if (rc == 0)
        rc = construct_somewhere(actor, call);
    if (rc < 0) {
        free_actor(actor);
        return rc;
    }
    insert(actor);
    *ret = actor;
    return 0;
}

static int make_and_release(pycrew_call *call, pycrew_actor **ret)
{
    int rc = make(call, ret);

    if (rc < 0)
        pycrew_release(call);
    return rc;
}

int pycrew_actor_new(pycrew_call *call, pycrew_actor **ret)
{
    pycrew_crew *crew;
    int rc;

    if (call == NULL || ret == NULL || call->slot == NULL)
        return pc_fail(-EINVAL,
                       "pycrew_actor_new: call and ret must not be NULL, nor a batch's item");
    crew = call->crew;
    rc = pc_crew_check(crew);
    if (rc < 0 || (rc = pc_engine_refuse(crew, "actors")) < 0)
        return rc;
    if (atomic_load(&call->phase) != PC_PHASE_PREPARED)
        return pc_fail(-EALREADY, "pycrew_actor_new: the call was submitted already: prepare another");
    pc_crew_enter(crew);
    rc = make_and_release(call, ret);
    pc_crew_leave(crew);
    return rc;
}

static int open_inside(pycrew_crew *crew, pycrew_actor **ret, int64_t timeout_ns,
                       const char *class_name, const char *format, va_list *arguments)
{
    const pycrew_function *function;
    const char *result = "";
    pycrew_call *call;
    int rc = pycrew_function_get(crew, class_name, &function);

    if (rc < 0 || (rc = pycrew_prepare(crew, function, timeout_ns, &call)) < 0)
        return rc;
    call->timeout_ns = timeout_ns < 0 || crew->debug ? PYCREW_FOREVER : timeout_ns;
    rc = pc_format_build(&call->builder, format, arguments, &result);
    if (rc == 0 && result[0] != '\0')
        rc = pc_fail(-EINVAL, "pycrew_actor_open gives no result, as the format \"%s\" asks: the object "
                     "stays in its worker", format);
    if (rc == 0)
        return make_and_release(call, ret);
    pycrew_release(call);
    return rc;
}

int pycrew_actor_open(pycrew_crew *crew, pycrew_actor **ret, int64_t timeout_ns,
                      const char *class_name, const char *format, ...)
{
    va_list arguments;
    int rc;

    if (crew == NULL || ret == NULL || format == NULL)
        return pc_fail(-EINVAL, "pycrew_actor_open: crew, ret and format must not be NULL");
    rc = pc_crew_check(crew);
    if (rc < 0 || (rc = pc_engine_refuse(crew, "actors")) < 0)
        return rc;
    va_start(arguments, format);
    pc_crew_enter(crew);
    rc = open_inside(crew, ret, timeout_ns, class_name, format, &arguments);
    pc_crew_leave(crew);
    va_end(arguments);
    return rc;
}

/* ---- its methods ---- */

static int find_method(const pycrew_actor *actor, const char *method, const pycrew_function **ret)
{
    char name[256], *long_name;
    int rc;

    if (method == NULL || method[0] == '\0' || strchr(method, '.') != NULL)
        return pc_fail(-EINVAL, "\"%s\" is no method's name: one name, without dots", method == NULL ? "NULL" : method);
    if ((size_t)snprintf(name, sizeof name, "%s.%s", actor->class->name, method) < sizeof name)
        return pycrew_function_get(actor->crew, name, ret);
    if (asprintf(&long_name, "%s.%s", actor->class->name, method) < 0)
        return pc_fail(-ENOMEM, "no memory is left");
    rc = pycrew_function_get(actor->crew, long_name, ret);
    free(long_name);
    return rc;
}

static int prepare(pycrew_actor *actor, const char *method, int64_t timeout_ns, pycrew_call **ret)
{
    const pycrew_function *function;
    pycrew_call *call;
    uint64_t object;
    int rc = find_method(actor, method, &function);

    if (rc < 0 || (rc = pycrew_prepare(actor->crew, function, timeout_ns, &call)) < 0)
        return rc;
    pthread_mutex_lock(&actor->lock);
    pc_direct_address(call, actor->worker, actor->incarnation);
    object = actor->object;
    pthread_mutex_unlock(&actor->lock);
    pc_call_set_object(call, PC_KIND_METHOD, object);
    *ret = call;
    return 0;
}

int pycrew_actor_prepare(pycrew_actor *actor, const char *method, int64_t timeout_ns,
                         pycrew_call **ret)
{
    int rc;

    if (actor == NULL || ret == NULL)
        return pc_fail(-EINVAL, "pycrew_actor_prepare: actor and ret must not be NULL");
    rc = pc_crew_check(actor->crew);
    return rc < 0 ? rc : prepare(actor, method, timeout_ns, ret);
}

static int run_inside(pycrew_actor *actor, const int64_t *timeout_ns, const char *method,
                      const char *format, va_list *arguments)
{
    const char *result = "";
    pycrew_call *call;
    int rc = prepare(actor, method, PYCREW_FOREVER, &call);

    if (rc < 0)
        return rc;
    if (timeout_ns != NULL)
        call->timeout_ns = *timeout_ns < 0 || actor->crew->debug ? PYCREW_FOREVER : *timeout_ns;
    rc = pc_format_build(&call->builder, format, arguments, &result);
    if (rc == 0)
        rc = pc_run_finish(call, result, arguments);
    pycrew_release(call);
    return rc;
}

static int run(pycrew_actor *actor, const int64_t *timeout_ns, const char *method,
               const char *format, va_list *arguments)
{
    int rc;

    if (actor == NULL || format == NULL)
        return pc_fail(-EINVAL, "pycrew_actor_run: actor and format must not be NULL");
    rc = pc_crew_check(actor->crew);
    if (rc < 0)
        return rc;
    pc_crew_enter(actor->crew);
    rc = run_inside(actor, timeout_ns, method, format, arguments);
    pc_crew_leave(actor->crew);
    return rc;
}

int pycrew_actor_run(pycrew_actor *actor, const char *method, const char *format, ...)
{
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = run(actor, NULL, method, format, &arguments);
    va_end(arguments);
    return rc;
}

int pycrew_actor_run_within(pycrew_actor *actor, int64_t timeout_ns, const char *method,
                            const char *format, ...)
{
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = run(actor, &timeout_ns, method, format, &arguments);
    va_end(arguments);
    return rc;
}

/* ---- made again, and closed ---- */

/* Where its object is, or was. */
static void locate(pycrew_actor *actor, unsigned *worker, unsigned *incarnation)
{
    pthread_mutex_lock(&actor->lock);
    *worker = actor->worker;
    *incarnation = actor->incarnation;
    pthread_mutex_unlock(&actor->lock);
}

static bool is_alive(pycrew_actor *actor)
{
    unsigned worker, incarnation;
    pc_host_worker *w;
    bool alive;

    locate(actor, &worker, &incarnation);
    w = &actor->crew->crew_workers[worker];
    pthread_mutex_lock(&w->lock);
    alive = w->inbox_open && w->incarnation == incarnation;
    pthread_mutex_unlock(&w->lock);
    return alive;
}

static int make_again(pycrew_actor *actor, int64_t timeout_ns)
{
    pycrew_call *call, *old = actor->closing;
    int rc = pycrew_prepare(actor->crew, actor->class, timeout_ns, &call);

    if (rc < 0)
        return rc;
    call->timeout_ns = timeout_ns < 0 || actor->crew->debug ? PYCREW_FOREVER : timeout_ns;
    rc = load_arguments(actor, call);
    if (rc == 0)
        rc = construct_somewhere(actor, call);
    pycrew_release(rc < 0 ? call : old);
    return rc;
}

static int reopen(pycrew_actor *actor, int64_t timeout_ns)
{
    int rc;

    pthread_mutex_lock(&actor->making);
    if (is_alive(actor))
        rc = pc_fail(-EALREADY, "pycrew_actor_reopen: the actor's worker lives, and the object with it");
    else if (actor->arguments == NULL)
        rc = pc_fail(-EINVAL, "the actor was opened with arrays, which are not kept: open another");
    else
        rc = make_again(actor, timeout_ns);
    pthread_mutex_unlock(&actor->making);
    return rc;
}

int pycrew_actor_reopen(pycrew_actor *actor, int64_t timeout_ns)
{
    pycrew_crew *crew;
    int rc;

    if (actor == NULL)
        return pc_fail(-EINVAL, "pycrew_actor_reopen: actor must not be NULL");
    crew = actor->crew;
    rc = pc_crew_check(crew);
    if (rc < 0)
        return rc;
    pc_crew_enter(crew);
    rc = reopen(actor, timeout_ns);
    pc_crew_leave(crew);
    return rc;
}

unsigned pycrew_actor_worker(const pycrew_actor *actor)
{
    return actor->worker;
}

void pycrew_actor_close(pycrew_actor *actor)
{
    if (actor == NULL || *(const volatile char *)actor->crew->fork_guard == 0)
        return;
    take_out(actor);
    pc_direct_unchoose(actor->crew, actor->worker, actor->incarnation);
    pc_call_drop(actor->closing, actor->worker, actor->incarnation);
    free_actor(actor);
}
