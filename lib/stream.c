/* stream: a call whose function gives its items one by one.
 *
 * The call itself runs the function, in whichever worker takes it, and leaves the iterator there.
 * Then up to `window` calls for that worker ask for the next item each; they are ordinary ones,
 * with an end, a lease and a death of their own, and stand here in the order of their submit. The
 * reader's own thread submits them, whenever it comes for an item: so who does not read stops the
 * function.
 *
 * A stream's lock is taken before the crew's. The reader waits without it, so that the thread that
 * reaps its queue, or one that cancels, may look meanwhile. */
#include <errno.h>
#include <stdlib.h>

#include "lib/array.h"
#include "lib/crew.h"
#include "lib/shm/announce.h"

/* Calls that a stream has for itself: the user may have one item, and wait in a queue for the next.
 */
enum { WINDOW = 16, RESERVED = 2 };

struct pc_stream {
    pthread_mutex_t lock;
    pycrew_call *call; /* the user's */
    bool open;         /* this life of the call is a stream */
    unsigned window;
    int64_t deadline; /* of all of it; INT64_MAX: none */
    bool started;     /* the iterator is there: */
    unsigned worker, incarnation;
    uint64_t object;
    bool over;                     /* there is no further item: call->code and its error say why; */
    bool gone;                     /* the worker has dropped the iterator by itself */
    bool told;                     /* the user has been told that it is over */
    bool cancelled;                /* no further item is to be given */
    bool delivered;                /* by the queue: not again before pycrew_next */
    pycrew_call *current;          /* the item that the user has, or NULL */
    pycrew_call *spares[RESERVED]; /* prepared */
    unsigned spare_count;
    pycrew_call **items; /* asked for and not given yet: a ring of capacity places */
    unsigned capacity, first, count;
};

static pc_stream *stream_of(const pycrew_call *call)
{
    return atomic_load_explicit(&call->stream, memory_order_acquire);
}

static pycrew_call *item_at(const pc_stream *s, unsigned place)
{
    return s->items[(s->first + place) % s->capacity];
}

/* ---- making one --------------------------------------------------------------------------------
 */

static pc_stream *record_of(pycrew_call *call)
{
    if (call->stream_record == NULL) {
        call->stream_record = calloc(1, sizeof *call->stream_record);
        if (call->stream_record == NULL)
            return NULL;
        pthread_mutex_init(&call->stream_record->lock, NULL);
        call->stream_record->call = call;
    }
    return call->stream_record;
}

void pc_stream_free(pycrew_call *call)
{
    if (call->stream_record == NULL)
        return;
    pthread_mutex_destroy(&call->stream_record->lock);
    free(call->stream_record->items);
    free(call->stream_record);
    call->stream_record = NULL;
}

/* Under s->lock. */
static int make_room(pc_stream *s, unsigned window)
{
    pycrew_call **grown;

    if (s->capacity < window) {
        grown = realloc(s->items, window * sizeof grown[0]);
        if (grown == NULL)
            return -ENOMEM;
        s->items = grown;
        s->capacity = window;
    }
    s->window = window;
    return 0;
}

static void begin_life(pc_stream *s)
{
    s->deadline = INT64_MAX;
    s->started = s->over = s->gone = s->told = s->cancelled = s->delivered = false;
    s->current = NULL;
    s->first = s->count = 0;
    s->open = true;
}

static void free_spares(pc_stream *s)
{
    while (s->spare_count > 0)
        pc_call_reclaim(s->spares[--s->spare_count]);
}

static int reserve(pc_stream *s)
{
    while (s->spare_count < RESERVED) {
        int rc = pc_call_prepare(s->call->crew, 0, &s->spares[s->spare_count]);

        if (rc < 0) {
            free_spares(s);
            return rc == -EAGAIN ? pc_fail(rc, "a stream needs three calls, and all are in use: release some, or raise "
                                          "options.calls")
                                 : rc;
        }
        s->spare_count++;
    }
    return 0;
}

/* Under s->lock. */
static int open_stream(pycrew_call *call, pc_stream *s, unsigned window)
{
    int rc = make_room(s, window);

    if (rc < 0)
        return pc_fail(rc, "no memory is left");
    if (s->open)
        return 0;
    rc = reserve(s);
    if (rc < 0)
        return rc;
    begin_life(s);
    call->flags = (uint16_t)(call->flags | PC_KIND_STREAM);
    atomic_store_explicit(&call->stream, s, memory_order_release);
    return 0;
}

int pycrew_set_stream(pycrew_call *call, unsigned window)
{
    pycrew_crew *crew = call->crew;
    pc_stream *s;
    int rc = pc_crew_check(crew);

    if (rc < 0 || (rc = pc_engine_refuse(crew, "streams")) < 0)
        return rc;
    if (call->slot == NULL || pc_call_kind(call) == PC_KIND_METHOD)
        return pc_fail(-EINVAL, "pycrew_set_stream: only a call of a function can be a stream, and no actor's call or batch's item");
    if (atomic_load_explicit(&call->phase, memory_order_relaxed) != PC_PHASE_PREPARED)
        return pc_fail(-EALREADY, "pycrew_set_stream: the call was submitted already: prepare another");
    if (window == 0)
        window = WINDOW;
    s = record_of(call);
    if (s == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    pthread_mutex_lock(&s->lock);
    rc = open_stream(call, s, window < crew->call_limit ? window : crew->call_limit);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

void pc_stream_submitted(pycrew_call *call)
{
    pc_stream *s = stream_of(call);

    if (s->call == call) /* and no item of one */
        s->deadline = call->timeout_ns < 0 ? INT64_MAX : pc_until(call->timeout_ns);
}

/* ---- asking for items; under s->lock -----------------------------------------------------------
 */

static void end_with(pc_stream *s, int code, const char *message)
{
    pycrew_call *call = s->call;

    s->over = true;
    call->code = code;
    if (code < 0)
        pc_error_set(&call->error, code, pc_text_of(call->function->name), pc_text_of(NULL),
                     pc_text_of(message), pc_text_of(NULL));
}

/* Beyond its own, one more if nobody waits for one. */
static pycrew_call *take_call(pc_stream *s)
{
    pycrew_crew *crew = s->call->crew;
    pycrew_call *call;

    if (s->spare_count > 0)
        return s->spares[--s->spare_count];
    if (atomic_load_explicit(&crew->prepare_waiters, memory_order_relaxed) > 0)
        return NULL;
    return pc_call_prepare(crew, 0, &call) == 0 ? call : NULL;
}

/* 0: the deadline has passed. */
static int64_t time_left(const pc_stream *s)
{
    int64_t left;

    if (s->deadline == INT64_MAX)
        return PYCREW_FOREVER;
    left = s->deadline - pc_now();
    return left > 0 ? left : 0;
}

static int ask(pc_stream *s, pycrew_call *item, int64_t timeout_ns)
{
    item->function = s->call->function;
    item->builder.json_result = s->call->builder.json_result;
    item->timeout_ns = timeout_ns;
    pc_call_set_object(item, PC_KIND_NEXT, s->object); /* which fits the slot */
    pc_direct_address(item, s->worker, s->incarnation);
    atomic_store_explicit(&item->stream, s, memory_order_release);
    return pycrew_submit(item);
}

static void keep_spare(pc_stream *s, pycrew_call *item)
{
    if (s->spare_count == RESERVED) {
        pc_call_reclaim(item);
        return;
    }
    pc_call_renew(item);
    s->spares[s->spare_count++] = item;
}

/* True: one more was asked for. */
static bool ask_one(pc_stream *s)
{
    int64_t left = time_left(s);
    pycrew_call *item;
    int rc;

    if (left == 0) {
        if (s->count == 0)
            end_with(s, -ETIMEDOUT, "the deadline passed between two items");
        return false;
    }
    item = take_call(s);
    if (item == NULL)
        return false;
    rc = ask(s, item, left);
    if (rc < 0) { /* the crew drains */
        keep_spare(s, item);
        if (s->count == 0)
            end_with(s, rc, pycrew_last_error()->message);
        return false;
    }
    s->items[(s->first + s->count++) % s->capacity] = item;
    return true;
}

/* As many as the window says, or as there are. */
static void fill(pc_stream *s)
{
    while (!s->over && s->count < s->window && ask_one(s))
        continue;
}

/* The user's item is not looked at any more. Its call asks for another one, unless others wait for
 * calls and the stream has its own. */
static void recycle(pc_stream *s, pycrew_call *item)
{
    bool wanted = atomic_load_explicit(&s->call->crew->prepare_waiters, memory_order_relaxed) > 0;

    if (s->over || (wanted && s->count + s->spare_count >= RESERVED))
        pc_call_reclaim(item);
    else
        keep_spare(s, item);
}

/* It will give no more: the iterator is not kept until the user releases the stream, or it would keep its worker from
 * leaving. Where no call is left for that, the release does it. */
static void drop_early(pc_stream *s)
{
    pycrew_call *call;

    if (!s->started || s->gone || (call = take_call(s)) == NULL)
        return;
    s->gone = true;
    call->function = s->call->function;
    pc_call_set_object(call, PC_KIND_DROP, s->object); /* which fits the slot */
    pc_call_drop(call, s->worker, s->incarnation);
}

static void let_items_go(pc_stream *s)
{
    for (; s->count > 0; s->count--) {
        pc_call_let_go(item_at(s, 0));
        s->first = (s->first + 1) % s->capacity;
    }
    free_spares(s);
}

/* The function has returned an iterator; where it is says the word of its end. */
static void begin_items(pc_stream *s)
{
    pycrew_call *call = s->call;
    pycrew_crew *crew = call->crew;
    unsigned present;
    int rc;

    if (call->code < 0) {
        s->over = s->gone = true;
        return;
    }
    s->worker = call->ended_worker;
    s->object = pc_call_object(call);
    rc = pc_direct_find(crew, s->worker, &present);
    if (rc < 0 && rc != -EAGAIN) {
        end_with(s, rc, pycrew_last_error()->message);
        return;
    }
    s->incarnation = present - ((present - call->ended_incarnation) & PC_INCARNATION_MASK);
    s->started = true;
}

/* Of an item that has ended with an error, that is the stream's. */
static void take_error(pc_stream *s, pycrew_call *item)
{
    pycrew_call *call = s->call;

    s->over = true;
    call->code = item->code;
    pc_error_clear(&call->error);
    call->error = item->error;
    item->error = (pc_error){0};
}

/* The first that was asked for has ended. */
static void take_item(pc_stream *s)
{
    pycrew_call *item = item_at(s, 0);

    s->first = (s->first + 1) % s->capacity;
    s->count--;
    if (item->code == 0 && !item->at_end) {
        s->current = item;
        return;
    }
    s->gone = item->at_end;
    if (item->at_end)
        end_with(s, 0, NULL);
    else
        take_error(s, item);
    pc_call_reclaim(item);
}

/* What is to end next. */
static pycrew_call *awaited(const pc_stream *s)
{
    return s->started ? item_at(s, 0) : s->call;
}

/* Goes on as far as it can without waiting. True: there is an item to be taken, or it is over. */
static bool advance(pc_stream *s)
{
    if (!s->over && !s->started && pc_call_collect(s->call))
        begin_items(s);
    if (s->cancelled && !s->over && s->started)
        end_with(s, -ECANCELED, "the call was cancelled");
    if (!s->over && s->started)
        fill(s);
    if (s->over)
        return true;
    return s->started && s->count > 0 && pc_call_collect(item_at(s, 0));
}

/* ---- queues -------------------------------------------------------------------------------------
 */

/* Under s->lock, when the user has looked: from here on it appears when there is something. */
static void await_by_queue(pc_stream *s)
{
    pycrew_call *call = s->call;
    pycrew_queue *queue = atomic_load_explicit(&call->queue, memory_order_relaxed);

    s->delivered = false;
    if (queue != NULL && advance(s) &&
        pc_announce(&call->crew->segment, queue->number, call->index))
        pc_queue_write(queue);
}

pycrew_call *pc_stream_reap(pycrew_call *announced, pycrew_queue *queue)
{
    pc_stream *s = stream_of(announced);
    pycrew_call *call = NULL;

    if (s == NULL)
        return NULL;
    pthread_mutex_lock(&s->lock);
    if (s->open && atomic_load_explicit(&s->call->queue, memory_order_relaxed) == queue &&
        atomic_load_explicit(&s->call->phase, memory_order_acquire) != PC_PHASE_PREPARED &&
        !s->delivered && !s->told && advance(s)) {
        s->delivered = true;
        call = s->call;
    }
    pthread_mutex_unlock(&s->lock);
    return call;
}

bool pc_stream_look(pycrew_call *call)
{
    pc_stream *s = stream_of(call);
    bool queued = false;

    if (s == NULL)
        return false;
    pthread_mutex_lock(&s->lock);
    if (s->open && s->started && !s->over && s->count > 0)
        queued = pc_call_look(item_at(s, 0));
    pthread_mutex_unlock(&s->lock);
    return queued;
}

pycrew_queue *pc_stream_queue(const pycrew_call *item)
{
    const pc_stream *s = stream_of(item);

    return s == NULL ? NULL : atomic_load_explicit(&s->call->queue, memory_order_relaxed);
}

/* ---- the user's side ----------------------------------------------------------------------------
 */

static int outcome(const pc_stream *s)
{
    return s->call->code < 0 ? pc_fail_error(&s->call->error.public) : 0;
}

/* Under s->lock: 1, 0 or an error; -EAGAIN: *ret is to be waited for. */
static int next_now(pc_stream *s, pycrew_call **ret)
{
    if (s->current != NULL)
        recycle(s, s->current);
    s->current = NULL;
    if (!advance(s)) {
        *ret = awaited(s);
        return -EAGAIN;
    }
    if (!s->over)
        take_item(s);
    if (s->over) {
        if (!s->told)
            pc_queue_leave(s->call);
        s->told = true;
        drop_early(s);
        let_items_go(s);
        return outcome(s);
    }
    return 1;
}

static int try_next(pc_stream *s, pycrew_call **awaited_call)
{
    int rc;

    pthread_mutex_lock(&s->lock);
    rc = next_now(s, awaited_call);
    if (!s->told)
        await_by_queue(s);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int fail_not_yet(const pycrew_crew *crew)
{
    if (atomic_load(&crew->ending) == 2)
        return pc_fail(-ECANCELED, "the crew was closed");
    return pc_fail_static(-ETIME, "the next item is not there yet: ask again, cancel or release the stream");
}

static int wait_next(pc_stream *s, pycrew_crew *crew, int64_t until)
{
    pycrew_call *call;
    int rc = try_next(s, &call);

    while (rc == -EAGAIN) {
        if (!pc_call_await(call, until) || atomic_load(&crew->ending) == 2)
            return pc_now() < until && atomic_load(&crew->ending) != 2 ? pc_call_fail_locked(call)
                                                                       : fail_not_yet(crew);
        rc = try_next(s, &call);
    }
    return rc;
}

int pycrew_next(pycrew_call *call, int64_t timeout_ns)
{
    pycrew_crew *crew = call->crew;
    pc_stream *s = stream_of(call);
    pycrew_call *unused;
    int rc = pc_crew_check(crew);

    if (rc < 0)
        return rc;
    if (s == NULL || s->call != call)
        return pc_fail(-EINVAL, "pycrew_next: the call is no stream: pycrew_set_stream makes it one, before its submit");
    if (atomic_load_explicit(&call->phase, memory_order_relaxed) == PC_PHASE_PREPARED)
        return pc_fail(-EINVAL, "pycrew_next: the call was not submitted: pycrew_submit first");
    atomic_store_explicit(&call->thread, pc_this_thread(), memory_order_relaxed);
    rc = try_next(s, &unused);
    if (rc != -EAGAIN)
        return rc;
    if (timeout_ns == 0)
        return fail_not_yet(crew);
    pc_crew_enter(crew);
    rc = wait_next(s, crew, pc_until(timeout_ns));
    pc_crew_leave(crew);
    return rc;
}

pycrew_call *pc_stream_item(const pycrew_call *call)
{
    const pc_stream *s = stream_of(call);

    return s->call == call ? s->current : NULL;
}

int pc_stream_cancel(pycrew_call *call)
{
    pc_stream *s = stream_of(call);
    bool over;

    pthread_mutex_lock(&s->lock);
    over = s->over;
    s->cancelled = true;
    pthread_mutex_lock(&call->crew->lock);
    if (!over && !s->started)
        pc_call_stop(call, PC_STOP_CANCEL);
    for (unsigned i = 0; !over && i < s->count; i++)
        pc_call_stop(item_at(s, i), PC_STOP_CANCEL);
    pthread_mutex_unlock(&call->crew->lock);
    drop_early(s);
    if (!over && !s->delivered)
        await_by_queue(s);
    pthread_mutex_unlock(&s->lock);
    return over ? pc_fail(-EALREADY, "the stream has ended") : 0;
}

/* ---- the end ------------------------------------------------------------------------------------
 */

/* Makes an ended call that left an iterator somewhere the one that drops it. */
static void drop(pycrew_call *call, unsigned worker, unsigned incarnation)
{
    uint64_t object = pc_call_object(call);

    pc_call_renew(call);
    pc_call_set_object(call, PC_KIND_DROP, object);
    pc_call_drop(call, worker, incarnation);
}

/* Under s->lock: what it holds but for the call itself. */
static void end_life(pc_stream *s)
{
    s->open = false;
    if (s->current != NULL)
        pc_call_reclaim(s->current);
    s->current = NULL;
    let_items_go(s);
}

void pc_stream_release(pycrew_call *call)
{
    pc_stream *s = stream_of(call);
    bool dropped, prepared = atomic_load(&call->phase) == PC_PHASE_PREPARED, ended;

    pthread_mutex_lock(&s->lock);
    ended = !prepared && (s->started || s->over || pc_call_collect(call));
    if (ended && !s->started && !s->over)
        begin_items(s);
    dropped = s->started && !s->gone;
    end_life(s);
    pthread_mutex_unlock(&s->lock);
    if (dropped)
        drop(call, s->worker, s->incarnation);
    else if (prepared || ended)
        pc_call_reclaim(call);
    else
        pc_call_let_go(call);
}

bool pc_stream_dispose(pycrew_call *call)
{
    unsigned incarnation;

    if (pc_call_kind(call) != PC_KIND_STREAM || call->code < 0)
        return false;
    if (pc_direct_find(call->crew, call->ended_worker, &incarnation) < 0 ||
        ((incarnation ^ call->ended_incarnation) & PC_INCARNATION_MASK) != 0)
        return false;
    drop(call, call->ended_worker, incarnation);
    return true;
}
