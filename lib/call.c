/* call: one call's life in the host, from prepare to release. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/array.h"
#include "lib/crew.h"
#include "lib/export.h"
#include "lib/format.h"
#include "lib/result.h"
#include "lib/shm/announce.h"
#include "lib/shm/probes.h"
#include "lib/trace.h"

enum { SPIN_LOOKS = 60, CLAIM_LOOKS = 40, SHORT_SPIN_NS = 5000, TRIES = 1000 };

/* Read in each call, so without one of __tls_get_addr. The C library keeps room for a few bytes of
 * these for libraries that are opened by dlopen. */
#define FEW_BYTES_A_THREAD static _Thread_local __attribute__((tls_model("initial-exec")))

FEW_BYTES_A_THREAD char this_thread; /* its address is the thread's name */

const void *pc_this_thread(void)
{
    return &this_thread;
}

static uint64_t load_word(const pycrew_call *call)
{
    return atomic_load_explicit(&call->slot->control, memory_order_acquire); /* S2 */
}

static bool is_done(const pycrew_call *call, uint64_t word)
{
    return pc_word_state(word) == PC_DONE && pc_word_generation(word) == call->generation;
}

static bool has_ended(const pycrew_call *call)
{
    return is_done(call, load_word(call));
}

/* ---- free calls ----
 *
 * A stack of indices with a tag against ABA, in private memory. It holds as many as the option
 * `calls` says; the slots beyond are spares. A call that ended while it was queued leaves a stale
 * entry in the ring, and its slot may not be queued again before the head is past that: it waits
 * in a list of its own, and a spare takes its place. So one does for a batch's chunk that is kept
 * for its last result alone: it is replaced, and becomes a spare when it is given back. */

static void free_push(pycrew_crew *crew, pycrew_call *call)
{
    uint64_t head = atomic_load_explicit(&crew->free_calls, memory_order_relaxed), next;

    do {
        atomic_store_explicit(&call->next, (uint32_t)head, memory_order_relaxed);
        next = ((head >> 32) + 1) << 32 | (call->index + 1);
    } while (!atomic_compare_exchange_weak_explicit(&crew->free_calls, &head, next,
                                                    memory_order_seq_cst, memory_order_relaxed));
    /* F1: the push, then the waiters; pairs with the waiter's count, then its pop. */
    if (atomic_load_explicit(&crew->prepare_waiters, memory_order_seq_cst) > 0) {
        pthread_mutex_lock(&crew->lock);
        pthread_cond_broadcast(&crew->changed);
        pthread_mutex_unlock(&crew->lock);
    }
}

static pycrew_call *free_pop(pycrew_crew *crew)
{
    uint64_t head = atomic_load_explicit(&crew->free_calls, memory_order_acquire), next;
    pycrew_call *call;

    do {
        if ((uint32_t)head == 0)
            return NULL;
        call = &crew->calls[(uint32_t)head - 1];
        next = ((head >> 32) + 1) << 32 | atomic_load_explicit(&call->next, memory_order_relaxed);
    } while (!atomic_compare_exchange_weak_explicit(&crew->free_calls, &head, next,
                                                    memory_order_acquire, memory_order_acquire));
    return call;
}

/* Under crew->lock: moves stale calls that the head has passed to the spares. */
static void sift_stale(pycrew_crew *crew)
{
    _Atomic uint32_t *link = &crew->stale_calls;

    while (*link != 0) {
        pycrew_call *call = &crew->calls[*link - 1];

        if (pc_ring_passed(&crew->segment, call->ticket)) {
            *link = call->next;
            call->next = crew->spare_calls;
            crew->spare_calls = call->index + 1;
        } else {
            link = &call->next;
        }
    }
}

/* Under crew->lock. */
static pycrew_call *pop_spare(pycrew_crew *crew)
{
    pycrew_call *spare = NULL;

    if (crew->spare_calls != 0) {
        spare = &crew->calls[crew->spare_calls - 1];
        crew->spare_calls = spare->next;
    }
    return spare;
}

/* A slot whose entry is still ahead of the head: a spare is free in its place, if there is one, and
 * if there is not one already. */
static void free_stale(pycrew_crew *crew, pycrew_call *call)
{
    pycrew_call *spare = NULL;

    pthread_mutex_lock(&crew->lock);
    call->next = crew->stale_calls;
    crew->stale_calls = call->index + 1;
    sift_stale(crew);
    if (!call->replaced && (spare = pop_spare(crew)) == NULL)
        atomic_fetch_add_explicit(&crew->stale_count, 1, memory_order_relaxed);
    pthread_mutex_unlock(&crew->lock);
    if (spare != NULL)
        free_push(crew, spare);
}

static void free_replaced(pycrew_crew *crew, pycrew_call *call)
{
    pthread_mutex_lock(&crew->lock);
    call->next = crew->spare_calls;
    crew->spare_calls = call->index + 1;
    pthread_mutex_unlock(&crew->lock);
}

bool pc_call_replace(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    pycrew_call *spare;

    if (call->replaced)
        return false;
    pthread_mutex_lock(&crew->lock);
    spare = pop_spare(crew);
    pthread_mutex_unlock(&crew->lock);
    if (spare == NULL)
        return false;
    call->replaced = true;
    free_push(crew, spare);
    return true;
}

/* Spares that came too late for free_stale. */
static pycrew_call *pop_owed(pycrew_crew *crew)
{
    pycrew_call *call = NULL;

    if (atomic_load_explicit(&crew->stale_count, memory_order_relaxed) == 0)
        return NULL;
    pthread_mutex_lock(&crew->lock);
    sift_stale(crew);
    if (atomic_load(&crew->stale_count) > 0 && (call = pop_spare(crew)) != NULL)
        atomic_fetch_sub_explicit(&crew->stale_count, 1, memory_order_relaxed);
    pthread_mutex_unlock(&crew->lock);
    return call;
}

static pycrew_call *take_free(pycrew_crew *crew)
{
    pycrew_call *call = free_pop(crew);

    return call != NULL ? call : pop_owed(crew);
}

/* A submitted call with a queue is its reader's. Who that is is not known before the first reap;
 * but where ended calls are not even reaped in a while, it is who waits here. */
static bool is_held(const pycrew_call *call, bool waited)
{
    uint32_t phase = atomic_load_explicit(&call->phase, memory_order_relaxed);
    const pycrew_queue *queue = atomic_load_explicit(&call->queue, memory_order_relaxed);
    const void *reader;

    if (phase == PC_PHASE_UNUSED || call->replaced ||
        atomic_load_explicit(&call->released, memory_order_relaxed) ||
        atomic_load_explicit(&call->thread, memory_order_relaxed) != &this_thread)
        return false;
    if (queue == NULL || phase == PC_PHASE_PREPARED)
        return true;
    reader = atomic_load_explicit(&queue->reader, memory_order_relaxed);
    return reader == &this_thread || (reader == NULL && waited && has_ended(call));
}

bool pc_call_holds_all(const pycrew_crew *crew, bool waited)
{
    unsigned held = 0;

    for (uint32_t i = 0; i < crew->segment.config.slots; i++)
        held += is_held(&crew->calls[i], waited);
    return held >= crew->call_limit;
}

/* False: for LOOK_NS nothing did. */
static bool wait_changed(pycrew_crew *crew, int64_t until)
{
    int64_t now = pc_now();
    int64_t at = until - now > PC_LOOK_NS ? now + PC_LOOK_NS : until; /* stale calls pass unannounced */
    struct timespec time = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};

    return pthread_cond_timedwait(&crew->changed, &crew->lock, &time) != ETIMEDOUT;
}

static int fail_in_use(const pycrew_crew *crew)
{
    return pc_fail(-EAGAIN, "all %u calls are in use: release some, or raise options.calls", crew->call_limit);
}

static int wait_free(pycrew_crew *crew, int64_t until, pycrew_call **ret)
{
    atomic_fetch_add_explicit(&crew->prepare_waiters, 1, memory_order_seq_cst); /* F1 */
    while ((*ret = take_free(crew)) == NULL && pc_now() < until && atomic_load(&crew->ending) == 0) {
        bool changed = true;

        pthread_mutex_lock(&crew->lock);
        if ((uint32_t)atomic_load(&crew->free_calls) == 0)
            changed = wait_changed(crew, until);
        pthread_mutex_unlock(&crew->lock);
        if (changed)
            continue;
        pc_crew_suspect(crew); /* ends, or the ring's head, may have been scribbled over */
        if (pc_call_holds_all(crew, true))
            break;
    }
    atomic_fetch_sub(&crew->prepare_waiters, 1);
    if (*ret != NULL && atomic_load(&crew->ending) == 0)
        return 0;
    if (*ret != NULL)
        free_push(crew, *ret);
    if (pc_now() < until && atomic_load(&crew->ending) == 0)
        return fail_in_use(crew);
    if (atomic_load(&crew->ending) != 0)
        return pc_crew_refuse(crew);
    return pc_fail(-ETIME, "all %u calls were in use until the timeout: release some, or raise options.calls",
                   crew->call_limit);
}

static int await_free(pycrew_crew *crew, int64_t timeout_ns, pycrew_call **ret)
{
    int rc;

    if (timeout_ns == 0 || pc_call_holds_all(crew, false))
        return fail_in_use(crew);
    pc_crew_enter(crew);
    rc = wait_free(crew, pc_until(timeout_ns), ret);
    pc_crew_leave(crew);
    return rc;
}

/* ---- preparing ---- */

/* Moves the arguments to a block of the heap, or a larger one. */
static int arguments_grow(pc_writer *writer, size_t need)
{
    pycrew_call *call = (pycrew_call *)(void *)writer; /* builder.writer is its first member */
    pycrew_crew *crew = call->crew;
    size_t size = need > 2 * writer->capacity ? need : 2 * writer->capacity;
    uint64_t block;
    int rc = pc_memory_alloc(crew, size, &block);

    if (rc < 0 && need < size)
        rc = pc_memory_alloc(crew, need, &block);
    if (rc == -E2BIG)
        return pc_fail(rc, "the arguments (%zu bytes) exceed the crew's shared memory (%zu bytes): raise options.memory",
                       need, crew->segment.size);
    if (rc < 0)
        return pc_fail(rc, "no shared memory is left for %zu bytes of arguments: release calls and arrays, "
                       "or raise options.memory", need);
    memcpy(pc_segment_at(&crew->segment, block), writer->data, writer->size);
    pc_memory_free(crew, call->arguments_block);
    call->arguments_block = block;
    writer->data = pc_segment_at(&crew->segment, block);
    writer->capacity = pc_memory_size(crew, block);
    return 0;
}

static void initialise(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    call->builder.writer = (pc_writer){.data = call->slot->arguments,
                                       .capacity = PC_INLINE_ARGUMENTS,
                                       .grow = arguments_grow};
    pc_build_start(&call->builder);
    call->builder.json_result = false;
    atomic_store_explicit(&call->queue, NULL, memory_order_relaxed);
    call->data = NULL;
    call->arguments_block = 0;
    call->queued = false;
    atomic_store_explicit(&call->tainted, false, memory_order_relaxed);
    call->flags = 0;
    call->timeout_ns = crew->timeout_ns;
    call->retries = crew->retries;
    atomic_store_explicit(&call->directed, 0, memory_order_relaxed);
    atomic_store_explicit(&call->chunk_in_use, false, memory_order_relaxed);
    call->deadline = INT64_MAX;
    call->host_ended = call->overdue = false;
    atomic_store_explicit(&call->replaced, false, memory_order_relaxed);
    atomic_store_explicit(&call->held, false, memory_order_relaxed);
    atomic_store_explicit(&call->released, false, memory_order_relaxed);
    atomic_store_explicit(&call->stop, PC_STOP_NONE, memory_order_relaxed);
    atomic_store_explicit(&call->deaths_running, 0, memory_order_relaxed);
    atomic_store_explicit(&call->deaths_claimed, 0, memory_order_relaxed);
    atomic_store_explicit(&call->deaths_beside, 0, memory_order_relaxed);
    atomic_store_explicit(&call->sleeper, PC_SLEEPER_NONE, memory_order_relaxed);
    atomic_store_explicit(&call->thread, &this_thread, memory_order_relaxed);
    atomic_store_explicit(&call->phase, PC_PHASE_PREPARED, memory_order_relaxed);
}

int pc_call_prepare(pycrew_crew *crew, int64_t timeout_ns, pycrew_call **ret)
{
    int rc = pc_crew_check(crew);
    pycrew_call *call;

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&crew->ending, memory_order_relaxed) != 0)
        return pc_crew_refuse(crew);
    call = take_free(crew);
    if (call == NULL && (rc = await_free(crew, timeout_ns, &call)) < 0)
        return rc;
    initialise(call);
    *ret = call;
    return 0;
}

int pycrew_prepare(pycrew_crew *crew, const pycrew_function *function, int64_t timeout_ns,
                   pycrew_call **ret)
{
    pycrew_call *call;
    int rc;

    if (crew == NULL || function == NULL || ret == NULL)
        return pc_fail(-EINVAL, "pycrew_prepare: crew, function and ret must not be NULL");
    rc = pc_call_prepare(crew, timeout_ns, &call);
    if (rc < 0)
        return rc;
    atomic_store_explicit(&call->function, function, memory_order_relaxed);
    *ret = call;
    return 0;
}

/* ---- adding arguments ---- */

static int check_prepared(const pycrew_call *call)
{
    int rc = pc_crew_check(call->crew); /* the slot is the parent's too */

    if (rc < 0)
        return rc;
    if (__builtin_expect(atomic_load_explicit(&call->phase, memory_order_relaxed) ==
                             PC_PHASE_PREPARED, 1))
        return 0;
    return pc_fail(-EALREADY, "the call was submitted already, or as a batch's item committed: prepare another");
}

/* The body of a function that adds to a prepared call. */
#define ADD(call, build)                                                                           \
    do {                                                                                           \
        int checked = check_prepared(call);                                                        \
        return checked < 0 ? checked : (build);                                                    \
    } while (0)

int pycrew_add(pycrew_call *call, const char *format, ...)
{
    va_list arguments;
    int rc = check_prepared(call);

    if (rc < 0)
        return rc;
    va_start(arguments, format);
    rc = pc_format_build(&call->builder, format, &arguments, NULL);
    va_end(arguments);
    return rc;
}

int pycrew_add_none(pycrew_call *call)
{
    ADD(call, pc_build_none(&call->builder));
}

int pycrew_add_bool(pycrew_call *call, bool value)
{
    ADD(call, pc_build_bool(&call->builder, value));
}

int pycrew_add_i64(pycrew_call *call, int64_t value)
{
    ADD(call, pc_build_i64(&call->builder, value));
}

int pycrew_add_u64(pycrew_call *call, uint64_t value)
{
    ADD(call, pc_build_u64(&call->builder, value));
}

int pycrew_add_f64(pycrew_call *call, double value)
{
    ADD(call, pc_build_f64(&call->builder, value));
}

int pycrew_add_bigint(pycrew_call *call, const char *hex)
{
    ADD(call, pc_build_bigint(&call->builder, hex, hex == NULL ? 0 : strlen(hex)));
}

int pycrew_add_str(pycrew_call *call, const char *text, size_t size)
{
    ADD(call, pc_build_data(&call->builder, PC_TAG_STR, text, size));
}

int pycrew_add_bytes(pycrew_call *call, const void *data, size_t size)
{
    ADD(call, pc_build_data(&call->builder, PC_TAG_BYTES, data, size));
}

int pycrew_add_json(pycrew_call *call, const char *text, size_t size)
{
    ADD(call, pc_build_data(&call->builder, PC_TAG_JSON, text, size));
}

int pycrew_add_object(pycrew_call *call, const void *pickle, size_t size)
{
    ADD(call, pc_build_data(&call->builder, PC_TAG_OBJECT, pickle, size));
}

int pycrew_add_array(pycrew_call *call, const pycrew_array *array)
{
    ADD(call, pc_build_array(&call->builder, array));
}

int pycrew_add_name(pycrew_call *call, const char *keyword)
{
    ADD(call, pc_build_name(&call->builder, keyword, keyword == NULL ? 0 : strlen(keyword)));
}

int pycrew_add_open(pycrew_call *call, int kind)
{
    ADD(call, pc_build_open(&call->builder, kind));
}

int pycrew_add_close(pycrew_call *call)
{
    ADD(call, pc_build_close(&call->builder));
}

/* ---- settings ---- */

int pycrew_set_timeout(pycrew_call *call, int64_t timeout_ns)
{
    int rc = check_prepared(call);

    if (rc < 0)
        return rc;
    call->timeout_ns = timeout_ns < 0 || call->crew->debug ? PYCREW_FOREVER : timeout_ns;
    return 0;
}

int pycrew_set_retries(pycrew_call *call, unsigned retries)
{
    int rc = check_prepared(call);

    if (rc < 0)
        return rc;
    call->retries = retries;
    call->flags = (uint16_t)(call->flags | PC_CALL_RETRIES_GIVEN);
    return 0;
}

int pycrew_set_json(pycrew_call *call, bool json)
{
    int rc = check_prepared(call);

    if (rc < 0)
        return rc;
    call->builder.json_result = json;
    return 0;
}

int pycrew_set_queue(pycrew_call *call, pycrew_queue *queue)
{
    int rc = check_prepared(call);

    if (rc < 0)
        return rc;
    if (queue != NULL && queue->crew != call->crew)
        return pc_fail(-EINVAL, "pycrew_set_queue: the queue belongs to another crew");
    pc_queue_enter(call, queue);
    return 0;
}

void pycrew_set_data(pycrew_call *call, void *data)
{
    call->data = data;
}

void *pycrew_data(const pycrew_call *call)
{
    return call->data;
}

/* ---- submitting ---- */

static bool is_directed(const pycrew_call *call)
{
    return atomic_load_explicit(&call->directed, memory_order_relaxed) != 0;
}

/* Where its end is announced, or NULL. Of calls without a queue some are announced all the same: those
 * that were released, which nobody else waits for, and a stream's items. */
static inline pycrew_queue *announced_in(const pycrew_call *call)
{
    pycrew_queue *queue = atomic_load_explicit(&call->queue, memory_order_acquire);

    if (queue != NULL || !is_directed(call))
        return queue;
    return atomic_load_explicit(&call->released, memory_order_relaxed)
               ? &call->crew->queues[PC_QUEUE_SUPERVISOR]
               : pc_stream_queue(call);
}

static uint32_t sampling_of(const pycrew_function *function)
{
    return atomic_load_explicit(function->sampling, memory_order_relaxed);
}

/* Leaves in the slot what its worker counts it with. */
static void leave_mark(pycrew_call *call, uint32_t sampling)
{
    const pc_time_mark mark = {
        .submitted = atomic_load_explicit(&call->submitted, memory_order_relaxed),
        .weight = pc_sampling_weight(sampling)};

    static_assert(sizeof mark <= PC_INLINE_RESULT, "a mark stands where the result will be");
    memcpy(call->slot->result, &mark, sizeof mark);
}

static inline unsigned retry_flags(const pycrew_call *call)
{
    return __builtin_expect(call->retries > 0, 0)
               ? pc_engine_retries(call) << PC_REQUEST_RETRIES_SHIFT
               : 0;
}

/* Always inline: the compiler takes a probe for as many instructions as its note has lines. */
static inline __attribute__((always_inline)) void fill_request(pycrew_call *call)
{
    pc_slot *slot = call->slot;
    pycrew_queue *queue = announced_in(call);
    const pycrew_function *function = atomic_load_explicit(&call->function, memory_order_relaxed);

    slot->function = function->number;
    PC_PROBE4(submit, call->index, atomic_load_explicit(&call->generation, memory_order_relaxed),
              function->number, &function->name[0]);
    atomic_store_explicit(&slot->queue, (uint16_t)(queue ? queue->number : PC_QUEUE_NONE),
                          memory_order_relaxed);
    slot->flags = (uint16_t)(call->flags | (call->builder.json_result ? PC_REQUEST_JSON : 0) |
                             (call->timeout_ns >= 0 ? PC_REQUEST_DEADLINE : 0) | retry_flags(call));
    if (call->timeout_ns >= 0)
        slot->deadline = call->deadline;
    slot->arguments_block = call->arguments_block;
    slot->arguments_size = call->builder.writer.size;
}

static __attribute__((noinline, cold)) void mark_timed(pycrew_call *call)
{
    uint32_t sampling = call->flags & PC_REQUEST_BATCH ? 0 : sampling_of(call->function);

    atomic_store_explicit(&call->submitted, pc_now(), memory_order_relaxed);
    leave_mark(call, sampling);
    call->slot->flags |= PC_REQUEST_TIMED;
}

/* Whether the call is timed: see histogram.h. Chunks all are. Behind fill_request, whose registers it does
 * not take. */
static inline void choose_timed(pycrew_call *call)
{
    const pycrew_function *function = atomic_load_explicit(&call->function, memory_order_relaxed);
    uint32_t number = atomic_load_explicit(&call->ticket, memory_order_relaxed);

    if (__builtin_expect(pc_sampling_takes(number, sampling_of(function)), 0) ||
        __builtin_expect(call->flags & PC_REQUEST_BATCH, 0))
        mark_timed(call);
}

void pc_call_fill_request(pycrew_call *call)
{
    fill_request(call);
    choose_timed(call);
}

/* The ticket is taken before the slot's lines are written: it is a locked instruction, and would
 * wait for the lines, which are the worker's until then. But not earlier: until its entry is
 * there, those behind it wait. False: the ring is closed, nothing was written. */
static bool write_request(pycrew_call *call)
{
    uint32_t ticket;

    atomic_store_explicit(&call->submitted, pc_now_coarse(), memory_order_relaxed);
    pc_trace_submit(call);
    if (!pc_ring_take_ticket(&call->crew->tail, &ticket))
        return false;
    atomic_store_explicit(&call->ticket, ticket, memory_order_relaxed);
    fill_request(call);
    choose_timed(call);
    return true;
}

/* One of the user's; what it holds are no calls of the user's. */
static bool is_stream(const pycrew_call *call)
{
    return __builtin_expect(
        atomic_load_explicit(&call->stream, memory_order_relaxed) != NULL, 0);
}

static void publish(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    uint32_t generation = call->generation, ticket = call->ticket, index = call->index;

    pc_slot_queue(call->slot, generation);
    /* The record is not ours alone any more: its deadline may end it, its queue's reader release it. */
    pc_ring_push(&crew->segment, ticket, index, generation);
    /* For looks at it: from here on slot and ring are what they say, or scribbled over. It may have
     * ended by now and have its next life, so this names the life, and must not take the place of
     * the next one's (where it does, in the moment between look and store, a rebuild waits a second). */
    if (__builtin_expect(call->generation == generation, 1))
        atomic_store_explicit(&call->published, generation, memory_order_release);
    pc_idle_wake_one(&crew->segment);
}

void pc_call_enqueue_locked(pycrew_call *call)
{
    if (atomic_load_explicit(&call->tainted, memory_order_relaxed))
        pc_call_end_regardless(call, PYCREW_EDIED, "the call was not run: a worker wrote over the "
                                                   "shared memory while its arguments were there",
                               false);
    else if (is_directed(call))
        pc_direct_enqueue_locked(call);
    else if (write_request(call))
        publish(call);
    else
        call->held = true;
}

void pc_call_enqueue(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    if (__builtin_expect(is_directed(call), 0)) {
        pc_direct_enqueue(call);
        return;
    }
    if (__builtin_expect(!atomic_load_explicit(&call->tainted, memory_order_relaxed) &&
                             write_request(call), 1)) {
        publish(call);
        return;
    }
    pthread_mutex_lock(&crew->lock);
    pc_call_enqueue_locked(call);
    pthread_mutex_unlock(&crew->lock);
}

/* Under the lock until it is queued: a deadline that passed before would find nothing to stop, and
 * would be forgotten. */
static void submit_with_deadline(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    bool kick;

    pthread_mutex_lock(&crew->lock);
    call->deadline = pc_until(call->timeout_ns);
    pc_deadline_add(call);
    kick = call->deadline < crew->next_look;
    if (kick)
        crew->next_look = call->deadline;
    pc_call_enqueue_locked(call);
    pthread_mutex_unlock(&crew->lock);
    if (kick)
        pc_crew_kick(crew);
}

/* False: the crew drains or closes. In flight first and then the look, so that drain either is seen
 * here or sees this call: D, the compiler's half of a fence whose other half is drain's membarrier. */
static bool enter_flight(pycrew_call *call)
{
    atomic_store_explicit(&call->phase, PC_PHASE_IN_FLIGHT, memory_order_release);
    atomic_signal_fence(memory_order_seq_cst);
    if (__builtin_expect(
            atomic_load_explicit(&call->crew->ending, memory_order_relaxed) == 0, 1))
        return true;
    atomic_store_explicit(&call->phase, PC_PHASE_PREPARED, memory_order_release);
    return false;
}

int pycrew_submit(pycrew_call *call)
{
    int rc = check_prepared(call);

    if (rc < 0)
        return rc;
    if (call->slot == NULL)
        return pc_fail(-EINVAL, "pycrew_submit: a batch's item is committed, not submitted (pycrew_batch_commit)");
    rc = pc_build_finish(&call->builder);
    if (rc < 0)
        return rc;
    atomic_store_explicit(&call->thread, &this_thread, memory_order_relaxed);
    call->queued = true;
    if (__builtin_expect(atomic_load_explicit(&call->stream, memory_order_relaxed) != NULL, 0))
        pc_stream_submitted(call);
    if (!enter_flight(call)) {
        call->queued = false;
        return pc_crew_refuse(call->crew);
    }
    if (call->timeout_ns >= 0)
        submit_with_deadline(call);
    else
        pc_call_enqueue(call);
    return 0;
}

/* ---- collecting the end ---- */

static const char *function_name(const pycrew_call *call)
{
    return call->function == NULL ? NULL : call->function->name;
}

static pc_text next_text(pc_cursor *message)
{
    pc_view view;

    if (pc_value_next(message, &view) != 1 || view.tag != PC_TAG_STR)
        return (pc_text){NULL, 0};
    return (pc_text){view.data, (size_t)view.length};
}

int pc_call_code_of(const pycrew_call *call, uint32_t kind)
{
    switch (kind) {
    case PC_RESULT_VALUE:
    case PC_RESULT_BATCH: return 0;
    case PC_RESULT_BAD_ARGUMENT: return -EINVAL;
    case PC_RESULT_BAD_TEXT:
    case PC_RESULT_BAD_TYPE: return PYCREW_ETYPE;
    case PC_RESULT_BAD_RANGE: return -ERANGE;
    case PC_RESULT_LOST: return PYCREW_EDIED;
    case PC_RESULT_NO_MEMORY: return -ENOMEM;
    case PC_RESULT_TOO_BIG: return -E2BIG;
    case PC_RESULT_INTERRUPTED:
        switch (atomic_load_explicit(&call->stop, memory_order_acquire)) {
        case PC_STOP_DEADLINE: return -ETIMEDOUT;
        case PC_STOP_CANCEL: return -ECANCELED;
        /* It looked at the deadlines of all its calls when it was told of another one's. */
        default: return call->timeout_ns >= 0 ? -ETIMEDOUT : PYCREW_ERAISED;
        }
    default: return PYCREW_ERAISED;
    }
}

/* In a worker that died. */
static bool ran_before(const pycrew_call *call)
{
    return atomic_load(&call->deaths_running) > 0 || atomic_load(&call->deaths_beside) > 0;
}

unsigned pc_call_attempts(const pycrew_call *call)
{
    return atomic_load(&call->deaths_running) + atomic_load(&call->deaths_claimed) +
           atomic_load(&call->deaths_beside);
}

void pc_call_set_fault(const pycrew_call *call, pc_error *error, uint32_t kind, bool ran,
                       pc_cursor message)
{
    int code = pc_call_code_of(call, kind);
    pc_text type = next_text(&message), text = next_text(&message), trace = next_text(&message);

    if (kind == PC_RESULT_NO_MEMORY)
        text = pc_text_of("no shared memory is left for the result: release calls and arrays, or raise options.memory");
    if (kind == PC_RESULT_TOO_BIG)
        text = pc_text_of("the result exceeds the crew's shared memory: raise options.memory");
    if (trace.size == 0)
        trace.data = NULL;
    if (type.size == 0)
        type.data = NULL;
    pc_error_set(error, code, pc_text_of(function_name(call)), type, text, trace);
    error->public.may_have_run = ran || ran_before(call);
    error->public.attempts = pc_call_attempts(call) + 1;
    if (kind == PC_RESULT_LOST)
        error->public.attempts += pc_engine_retries(call);
}

static int set_lost(pycrew_call *call, int code, const char *message, bool may_have_run)
{
    pc_error_set(&call->error, code, pc_text_of(function_name(call)), pc_text_of(NULL),
                 pc_text_of(message), pc_text_of(NULL));
    call->error.public.may_have_run = may_have_run || ran_before(call);
    call->error.public.attempts = pc_call_attempts(call) + may_have_run;
    return code;
}

/* Something stands in the segment that nobody of ours writes. */
static int set_impossible(pycrew_call *call)
{
    pc_crew_distrust(call->crew, "an answer that no worker gives");
    return set_lost(call, PYCREW_EDIED, "a worker wrote over the shared memory; the answer is lost",
                    true);
}

static bool find_result(pycrew_call *call, uint64_t word, uint64_t block, uint64_t size)
{
    pycrew_crew *crew = call->crew;

    if (block == 0) {
        if (size > sizeof call->result_copy)
            return false;
        memcpy(call->result_copy, call->slot->result, sizeof call->result_copy);
        call->result.at = (const uint8_t *)call->result_copy;
    } else {
        if (!pc_lease_take(crew, pc_word_worker(word),
                           (unsigned)(word >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK), block,
                           size, &call->lease))
            return false;
        call->result.at = pc_segment_at(&crew->segment, block);
    }
    call->result.end = call->result.at + size;
    return true;
}

static int collect_arrays(pycrew_call *call, uint64_t word, uint32_t kind, uint32_t flags)
{
    flags &= PC_ANSWER_RETAINED | (kind == PC_RESULT_VALUE ? PC_ANSWER_ARRAYS : 0);
    if (kind == PC_RESULT_VALUE)
        flags |= PC_ANSWER_RETURNED;
    switch (pc_arrays_collect(call, pc_word_worker(word),
                              (unsigned)(word >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK),
                              flags)) {
    case 0: return 0;
    case -ENOMEM: return set_lost(call, -ENOMEM, "no memory is left for the result's arrays", true);
    case -ECANCELED: return set_lost(call, -ECANCELED, "the crew was closed", true);
    default: return set_impossible(call);
    }
}

static int collect_from_worker(pycrew_call *call, uint64_t word)
{
    const volatile pc_slot *slot = call->slot; /* each word is read once */
    uint32_t kind = slot->result_kind;
    uint32_t flags = slot->result_ran;
    bool ran = flags & PC_ANSWER_RAN;
    int code;

    if (pc_word_worker(word) >= call->crew->workers || kind - 1 >= PC_RESULT_BATCH)
        return set_impossible(call);
    if (kind == PC_RESULT_BATCH && call->chunk_in_use) {
        pc_chunk_collect(call, pc_word_worker(word),
                         (unsigned)(word >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK), flags);
        return 0;
    }
    if (kind == PC_RESULT_BATCH || call->chunk_in_use || !find_result(call, word, slot->result_block, slot->result_size))
        return set_impossible(call);
    if (__builtin_expect(call->arrays != NULL || flags > PC_ANSWER_RAN, 0) &&
        (code = collect_arrays(call, word, kind, flags)) < 0)
        return code;
    if (kind == PC_RESULT_VALUE) {
        if (__builtin_expect(pc_call_kind(call) == PC_KIND_STREAM, 0)) {
            call->ended_worker = pc_word_worker(word);
            call->ended_incarnation =
                (unsigned)(word >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK);
        }
        return 0;
    }
    if (kind == PC_RESULT_END) {
        call->at_end = true;
        return pc_call_kind(call) == PC_KIND_NEXT ? 0 : set_impossible(call);
    }
    if (kind == PC_RESULT_NO_MEMORY || kind == PC_RESULT_NO_FUNCTION)
        pc_crew_suspect(call->crew); /* owners of memory, or names, may have been scribbled over */
    pc_call_set_fault(call, &call->error, kind, ran, call->result);
    pc_lease_end(call->crew, &call->lease);
    return call->error.public.code;
}

/* Under crew->lock. */
static bool take_host_end(pycrew_call *call)
{
    if (!call->host_ended)
        return false;
    call->code = call->host_code;
    call->error = call->host_error;
    call->host_error = (pc_error){0};
    return true;
}

static int collect_from_host(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    bool ended;

    pthread_mutex_lock(&crew->lock);
    ended = take_host_end(call);
    pthread_mutex_unlock(&crew->lock);
    return ended ? call->code : set_impossible(call);
}

static void remove_deadline(pycrew_call *call)
{
    if (call->timeout_ns < 0) /* deadline itself may be moved by the supervisor at this moment */
        return;
    pthread_mutex_lock(&call->crew->lock);
    pc_deadline_remove(call);
    pthread_mutex_unlock(&call->crew->lock);
}

/* Another thread (the sweep) is at it; it will not be long. */
static void await_collected(pycrew_call *call)
{
    while (atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_COLLECTING)
        sched_yield();
}

/* A chunk's items are counted when they are handed out. */
static void note_failure(const pycrew_call *call)
{
    if (!call->chunk_in_use)
        pc_stats_count_failures(call->crew, call->code, 1);
}

/* The ended call's lines are written next when it is used again. */
static void collect(pycrew_call *call, uint64_t word)
{
    pc_prefetch_write(&call->slot->control);
    pc_prefetch_write(&call->slot->function);
    call->code = pc_word_worker(word) == PC_WORKER_HOST ? collect_from_host(call)
                                                         : collect_from_worker(call, word);
    if (__builtin_expect(call->code < 0, 0))
        note_failure(call);
    remove_deadline(call);
    atomic_store_explicit(&call->phase, PC_PHASE_ENDED, memory_order_release);
}

bool pc_call_collect(pycrew_call *call)
{
    for (;;) {
        uint32_t phase = PC_PHASE_IN_FLIGHT;
        uint64_t word = load_word(call);

        if (!is_done(call, word))
            return atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_ENDED;
        if (!atomic_compare_exchange_strong_explicit(&call->phase, &phase, PC_PHASE_COLLECTING,
                                                     memory_order_acquire, memory_order_acquire)) {
            await_collected(call);
            if (atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_IN_FLIGHT)
                continue;
            return atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_ENDED;
        }
        /* The sweep may come here while the owner collects, releases and submits anew: only the
         * word as it is now belongs to the phase just won. */
        word = load_word(call);
        if (is_done(call, word))
            break;
        atomic_store_explicit(&call->phase, PC_PHASE_IN_FLIGHT, memory_order_release);
    }
    collect(call, load_word(call));
    return true;
}

/* ---- waiting ---- */

/* Collected, its slot may say anything. */
bool pc_call_has_ended(const pycrew_call *call)
{
    return has_ended(call) ||
           atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_ENDED;
}

/* A spin that failed says that calls take longer than that, or that others want the CPU: the next
 * ones are short, but each eighth is whole, since both sides asleep answer too late for a short one
 * for ever. */
static int64_t spin_ns(const pc_segment *segment, unsigned failed)
{
    int64_t whole = (int64_t)segment->config.spin_ns;

    return failed % 8 == 0 || whole < SHORT_SPIN_NS ? whole : SHORT_SPIN_NS;
}

/* Whether one more that spins takes no CPU from a worker. */
static bool has_cpu(const pc_segment *segment)
{
    return pc_idle_awake(segment) + atomic_load_explicit(&segment->header->host_spinners,
                                                         memory_order_relaxed) <
           segment->config.cpus;
}

static bool spin_looks(const pycrew_call *call, unsigned looks)
{
    bool ended = has_ended(call);

    for (unsigned i = 0; !ended && i < looks; i++) {
        pc_spin_pause();
        ended = has_ended(call);
    }
    return ended;
}

/* The first looks are not counted among the spinners: a line that the workers read in their turn
 * would cost a short call two transfers. A worker that has a CPU claims a call before CLAIM_LOOKS are over;
 * if none has, it may be ours that one waits for. */
static bool spin_first(const pycrew_call *call)
{
    if (spin_looks(call, CLAIM_LOOKS))
        return true;
    if (pc_word_is_queued(load_word(call)))
        sched_yield();
    return spin_looks(call, SPIN_LOOKS);
}

static bool spin_counted(const pycrew_call *call, int64_t until, int64_t limit_ns)
{
    int64_t now = pc_now(), stop = now + limit_ns, yielded = 0;
    bool ended = false;

    while (!ended && now < stop && now < until) {
        pc_spin_yield(now, &yielded);
        ended = spin_looks(call, SPIN_LOOKS);
        now = pc_now();
    }
    return ended;
}

/* Spins while that takes no CPU from a worker. */
static bool spin(pycrew_call *call, int64_t until)
{
    FEW_BYTES_A_THREAD unsigned failed; /* in a row */
    pc_segment *segment = &call->crew->segment;
    _Atomic uint32_t *spinners = &segment->header->host_spinners;
    bool ended;

    if (!has_cpu(segment))
        return has_ended(call);
    ended = spin_first(call);
    if (!ended && has_cpu(segment)) {
        atomic_fetch_add_explicit(spinners, 1, memory_order_relaxed);
        ended = spin_counted(call, until, spin_ns(segment, failed));
        atomic_fetch_sub_explicit(spinners, 1, memory_order_relaxed);
    }
    failed = ended ? 0 : failed + 1;
    return ended;
}

bool pc_call_publish_sleeper(pycrew_call *call, uint32_t sleeper)
{
    bool told = load_word(call) & PC_WAITER_MASK &&
                atomic_load_explicit(&call->sleeper, memory_order_relaxed) == sleeper;

    if (!told) {
        atomic_store_explicit(&call->sleeper, sleeper, memory_order_relaxed);
        atomic_store_explicit(&call->slot->sleeper, sleeper, memory_order_release);
        pc_slot_set_waiter(call->slot, call->generation); /* W1 */
    }
    return !pc_call_has_ended(call);
}

/* *locked: nor would it ever end, since all wait for one another. */
static void sleep_until_ended(pycrew_call *call, int64_t until, bool *locked)
{
    pycrew_crew *crew = call->crew;
    sem_t *semaphore = &call->slot->semaphore;

    pc_sleeper_drain(semaphore);
    while (pc_call_publish_sleeper(call, call->index) && atomic_load(&crew->ending) != 2) {
        int64_t now = pc_now();

        if (now >= until)
            return;
        pc_sleeper_wait(semaphore, until - now > PC_LOOK_NS ? now + PC_LOOK_NS : until);
        if (pc_now() - now < PC_LOOK_NS)
            continue;
        if (pc_call_look(call))
            pc_idle_wake_all(&crew->segment);
        if (pc_exports_are_locked(call)) {
            *locked = true;
            return;
        }
    }
}

/* Again where it was seen to end and is not: its word was scribbled over before it was collected. */
bool pc_call_await(pycrew_call *call, int64_t until)
{
    bool locked = false;

    do {
        if (!spin(call, until)) {
            sleep_until_ended(call, until, &locked);
            pc_exports_end_wait(call->crew);
        }
        if (pc_call_collect(call))
            return true;
    } while (!locked && pc_now() < until && atomic_load(&call->crew->ending) != 2);
    return false;
}

/* A thread that finds call after call ended already is behind the workers; it waits for them in the
 * order it submitted them, as likely as not. So the lines of the next ones are fetched while this
 * one is handled. (Of calls that still run, that would take them away from the worker.) */
static void prefetch_next(const pycrew_call *call)
{
    const pc_segment *segment = &call->crew->segment;
    uint32_t ticket = call->ticket + 2, mask = segment->config.slots - 1;
    uint64_t entry = atomic_load_explicit(&segment->ring[ticket & mask], memory_order_relaxed);
    const pc_slot *slot = &segment->slots[pc_ring_entry_slot(entry) & mask];

    if ((uint32_t)(entry >> 32) != ticket || is_directed(call))
        return;
    pc_prefetch_write(&slot->control);
    pc_prefetch_write(&slot->function);
}

static void note_hit(const pycrew_call *call, bool hit)
{
    FEW_BYTES_A_THREAD unsigned hits;

    hits = hit ? hits + 1 : 0;
    if (hits > 8)
        prefetch_next(call);
}

static int fail_not_submitted(void)
{
    return pc_fail(-EINVAL, "the call was not submitted: pycrew_submit first");
}

static int outcome(const pycrew_call *call)
{
    return call->code < 0 ? pc_fail_error(&call->error.public) : 0;
}

static int fail_not_ended(const pycrew_call *call)
{
    if (atomic_load(&call->crew->ending) == 2)
        return pc_fail(-ECANCELED, "the crew was closed");
    return pc_fail_static(-ETIME, "the call has not ended yet: wait again, cancel or release it");
}

static bool collect_noting(pycrew_call *call)
{
    bool ended = pc_call_collect(call);

    note_hit(call, ended);
    return ended;
}

int pc_call_fail_locked(const pycrew_call *call)
{
    unsigned directed = atomic_load_explicit(&call->directed, memory_order_relaxed);

    if (directed == 0)
        return pc_fail(-EDEADLK, "an exported function waits for a call, and all workers wait for exported functions: "
                       "more workers (options.workers), or no waiting in exported functions");
    return pc_fail(-EDEADLK,
                   "an exported function waits for a call that only worker %u can run, and that waits for "
                   "exported functions: no waiting in exported functions for that worker's calls",
                   directed - 1);
}

/* Awaited in vain, until then. */
static int fail_awaited(const pycrew_call *call, int64_t until)
{
    if (pc_now() < until && atomic_load(&call->crew->ending) != 2)
        return pc_call_fail_locked(call);
    return fail_not_ended(call);
}

int pc_call_wait(pycrew_call *call, int64_t timeout_ns)
{
    int64_t until = pc_until(timeout_ns);

    if (collect_noting(call) || pc_call_await(call, until))
        return outcome(call);
    return fail_awaited(call, until);
}

int pycrew_wait(pycrew_call *call, int64_t timeout_ns)
{
    pycrew_crew *crew = call->crew;
    int rc = pc_crew_check(crew);
    int64_t until;

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&call->phase, memory_order_relaxed) == PC_PHASE_PREPARED)
        return fail_not_submitted();
    if (collect_noting(call))
        return outcome(call);
    if (timeout_ns == 0)
        return fail_not_ended(call);
    atomic_store_explicit(&call->thread, &this_thread, memory_order_relaxed);
    pc_crew_enter(crew);
    /* Where the crew closes, what has ended is as lost as the rest: close waits but for us. */
    until = pc_until(timeout_ns);
    rc = pc_call_await(call, until) && atomic_load(&crew->ending) != 2 ? outcome(call)
                                                                      : fail_awaited(call, until);
    pc_crew_leave(crew);
    return rc;
}

/* ---- ends by the host ---- */

void pc_call_tell(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    pycrew_queue *queue = announced_in(call);
    uint32_t sleeper = atomic_load_explicit(&call->sleeper, memory_order_relaxed);

    if (sleeper < crew->segment.config.slots)
        pc_sleeper_wake(&crew->segment.slots[sleeper].semaphore);
    if (queue == NULL && call->released)
        queue = &crew->queues[PC_QUEUE_SUPERVISOR];
    if (queue != NULL) {
        pc_announce(&crew->segment, queue->number, call->index);
        pc_queue_write(queue);
    }
}

bool pc_call_end_by_host(pycrew_call *call, uint64_t word, int code, const pc_error *error)
{
    pc_ending ending;

    if (!pc_slot_end_by_host(call->slot, word, &ending))
        return false;
    if (pc_word_is_queued(word))
        pc_trace_unrun(call, code);
    call->host_ended = true;
    call->host_code = code;
    if (code < 0) {
        const pycrew_error *e = &error->public;

        pc_error_set(&call->host_error, code, pc_text_of(function_name(call)), pc_text_of(e->type),
                     pc_text_of(e->message), pc_text_of(e->traceback));
        call->host_error.public.signal = e->signal;
        call->host_error.public.exit_status = e->exit_status;
        call->host_error.public.may_have_run = ran_before(call);
        call->host_error.public.out_of_memory = e->out_of_memory;
        call->host_error.public.attempts = pc_call_attempts(call);
    }
    pc_call_tell(call);
    return true;
}

bool pc_call_end_regardless(pycrew_call *call, int code, const char *message, bool may_have_run)
{
    uint32_t phase = PC_PHASE_IN_FLIGHT;

    if (!atomic_compare_exchange_strong_explicit(&call->phase, &phase, PC_PHASE_COLLECTING,
                                                 memory_order_acquire, memory_order_acquire))
        return phase != PC_PHASE_COLLECTING;
    if (!take_host_end(call))
        call->code = set_lost(call, code, message, may_have_run);
    note_failure(call);
    call->held = false;
    pc_deadline_remove(call);
    /* Nobody but host threads is left to swap it, and each of them looks for DONE first. */
    atomic_store_explicit(&call->slot->control,
                          pc_word_owned(pc_word_of(call->generation, PC_DONE), PC_DONE,
                                        PC_WORKER_HOST, 0),
                          memory_order_release);
    atomic_store_explicit(&call->phase, PC_PHASE_ENDED, memory_order_release);
    pc_call_tell(call);
    return true;
}

static const pc_error *stop_error(enum pc_stop why)
{
    static const pc_error deadline = {
        .public = {.message = "the deadline passed while the call was queued: no worker was free"}};
    static const pc_error cancel = {.public = {.message = "the call was cancelled"}};

    return why == PC_STOP_DEADLINE ? &deadline : &cancel;
}

int pc_call_stop_code(enum pc_stop why)
{
    return why == PC_STOP_DEADLINE ? -ETIMEDOUT : -ECANCELED;
}

/* Under crew->lock. */
static void command_stop(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    /* Bounded: a call is there once. */
    for (uint32_t i = 0; i < crew->command_count; i++)
        if (crew->commands[i] == call->index)
            return;
    crew->commands[crew->command_count++] = call->index;
    pc_crew_kick(crew);
}

/* A call that is queued, as far as its slot says; else what to do. 1: look again. */
static int stop_in_slot(pycrew_call *call, enum pc_stop why)
{
    uint64_t word = load_word(call);
    enum pc_state state = pc_word_state(word);

    if (pc_word_generation(word) != call->generation) {
        if (atomic_load(&call->published) != call->generation)
            return -EALREADY; /* not in the slot yet: its submit has not returned */
        pc_crew_distrust(call->crew, "a slot of another life than its call");
        return 0;
    }
    if (pc_word_is_queued(word))
        return pc_call_end_by_host(call, word, pc_call_stop_code(why), stop_error(why)) ? 0 : 1;
    if (state != PC_CLAIMED)
        return -EALREADY;
    command_stop(call);
    return 0;
}

int pc_call_stop(pycrew_call *call, enum pc_stop why)
{
    uint32_t none = PC_STOP_NONE;
    int rc = 1;

    if (atomic_load(&call->phase) != PC_PHASE_IN_FLIGHT)
        return -EALREADY;
    if (call->chunk_in_use && why == PC_STOP_CANCEL)
        atomic_store(&call->stop, why); /* a deadline before was one item's: now it is for all */
    else
        atomic_compare_exchange_strong(&call->stop, &none, why);
    why = (enum pc_stop)atomic_load(&call->stop);
    if (call->held) {
        pc_call_end_regardless(call, pc_call_stop_code(why), stop_error(why)->public.message, false);
        return 0;
    }
    for (unsigned i = 0; rc == 1 && i < TRIES; i++)
        rc = stop_in_slot(call, why);
    return rc == 1 ? 0 : rc; /* who changes the word so often will be found out */
}

int pycrew_cancel(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    int rc = pc_crew_check(crew);

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&call->phase, memory_order_relaxed) == PC_PHASE_PREPARED)
        return fail_not_submitted();
    if (is_stream(call))
        return pc_stream_cancel(call);
    pthread_mutex_lock(&crew->lock);
    rc = pc_call_stop(call, PC_STOP_CANCEL);
    pthread_mutex_unlock(&crew->lock);
    return rc < 0 ? pc_fail(rc, "pycrew_cancel: the call has ended already") : 0;
}

bool pc_call_requeue(pycrew_call *call, uint64_t word)
{
    pycrew_crew *crew = call->crew;
    uint32_t generation = call->generation, unpublished = generation - 1, ticket;
    unsigned tries = TRIES;
    bool queued, open;

    /* The dead claimant may not have moved the head: a slot has one entry ahead of it at most. */
    pc_ring_passed(&crew->segment, call->ticket);
    /* The dead one may have begun with its result there. */
    if (call->slot->flags & PC_REQUEST_TIMED)
        leave_mark(call, call->chunk_in_use ? 0 : sampling_of(call->function));
    pc_trace_submit(call);
    /* No look at it in between: it is QUEUED, and its new entry is still to come. */
    atomic_store(&call->published, unpublished);
    /* Before it is queued: from then on it may be claimed (by an aliased entry, see ring.h), end, and
     * begin its next life with a ticket of its own. No ticket: it is we who close the ring. */
    open = pc_ring_take_ticket(&crew->tail, &ticket);
    atomic_store(&call->ticket, ticket);
    while (!(queued = atomic_compare_exchange_weak_explicit(
                 &call->slot->control, &word,
                 pc_word_of(generation, PC_QUEUED) | (word & PC_WAITER_MASK), memory_order_acq_rel,
                 memory_order_acquire)))
        if (tries-- == 0 || pc_word_state(word) != PC_CLAIMED ||
            pc_word_generation(word) != generation)
            break;
    /* Stale where it was not queued; but a ticket without an entry would stop the ring. */
    if (open)
        pc_ring_push(&crew->segment, ticket, call->index, generation);
    /* By now it may have ended, and its next life be published. */
    atomic_compare_exchange_strong(&call->published, &unpublished, generation);
    return queued;
}

/* ---- results ---- */

/* Whether its end is there to be looked at, without waiting for it. */
static bool is_collected(pycrew_call *call)
{
    uint32_t phase = atomic_load_explicit(&call->phase, memory_order_acquire);

    return phase == PC_PHASE_ENDED || (phase != PC_PHASE_PREPARED && pc_call_collect(call));
}

/* For who may only look: the end was there before, so collecting it changes nothing to be seen. */
static bool is_seen_ended(const pycrew_call *call)
{
    return is_collected((pycrew_call *)(uintptr_t)call);
}

int pc_call_fail_after_run(const pycrew_call *call, int code)
{
    return pc_fail_after_run(code, pc_call_attempts(call) + 1);
}

static int fail_no_item(const pycrew_call *call)
{
    if (is_collected((pycrew_call *)(uintptr_t)call) && call->code < 0)
        return pc_fail_error(&call->error.public);
    return pc_fail(-EALREADY, "the stream has no item at present: pycrew_next gives one");
}

/* The message of a call that returned, or why there is none; of a stream, its item's, which is *call
 * then. */
static int result_of(pycrew_call **of, pc_cursor *ret)
{
    pycrew_call *call = *of;
    int rc = pc_crew_check(call->crew);

    if (rc < 0)
        return rc;
    if (is_stream(call)) {
        *of = pc_stream_item(call);
        if (*of == NULL)
            return fail_no_item(call);
        call = *of;
    }
    if (!is_collected(call))
        return pc_fail(-EALREADY, "the call has not ended: pycrew_wait, pycrew_next or a queue first");
    if (call->code < 0)
        return pc_fail_error(&call->error.public);
    *ret = call->result;
    return 0;
}

int pycrew_result(pycrew_call *call, const char *format, ...)
{
    va_list arguments;
    pc_cursor message;
    int rc = result_of(&call, &message);

    if (rc < 0)
        return rc;
    va_start(arguments, format);
    rc = pc_format_result(message, call, format, &arguments, false);
    va_end(arguments);
    return rc < 0 ? pc_call_fail_after_run(call, rc) : rc;
}

#define RESULT(call, read)                                                                         \
    do {                                                                                           \
        pc_cursor message;                                                                         \
        int ended = result_of(&call, &message), code;                                              \
        if (ended < 0)                                                                             \
            return ended;                                                                          \
        code = (read);                                                                             \
        return code < 0 ? pc_call_fail_after_run(call, code) : code;                               \
    } while (0)

int pycrew_result_bool(pycrew_call *call, bool *ret)
{
    RESULT(call, pc_result_bool(message, ret));
}

int pycrew_result_i64(pycrew_call *call, int64_t *ret)
{
    RESULT(call, pc_result_i64(message, ret));
}

int pycrew_result_u64(pycrew_call *call, uint64_t *ret)
{
    RESULT(call, pc_result_u64(message, ret));
}

int pycrew_result_f64(pycrew_call *call, double *ret)
{
    RESULT(call, pc_result_f64(message, ret));
}

int pycrew_result_str(pycrew_call *call, const char **ret, size_t *size)
{
    RESULT(call, pc_result_str(message, ret, size));
}

int pycrew_result_bytes(pycrew_call *call, const void **ret, size_t *size)
{
    RESULT(call, pc_result_bytes(message, ret, size));
}

int pycrew_result_json(pycrew_call *call, const char **ret, size_t *size)
{
    RESULT(call, pc_result_json(message, ret, size));
}

int pycrew_result_array(pycrew_call *call, pycrew_array *ret)
{
    RESULT(call, pc_result_array(message, call, false, ret));
}

int pycrew_array_take(pycrew_call *call, pycrew_array *ret)
{
    RESULT(call, pc_result_array(message, call, true, ret));
}

pycrew_value pycrew_result_value(const pycrew_call *call)
{
    if (is_stream(call))
        call = pc_stream_item(call);
    if (call == NULL || !is_seen_ended(call) || call->code < 0)
        return (pycrew_value){NULL, NULL, 0};
    return pc_result_value(call->result, call);
}

const pycrew_error *pycrew_call_error(const pycrew_call *call)
{
    if (!is_seen_ended(call) || call->code >= 0)
        return NULL;
    return &call->error.public;
}

/* ---- releasing ---- */

/* Who claims moves the head past the entry before it runs the call, so what a worker has ended is
 * out of the ring, and the head need not be looked at: that would take its cache line from the
 * workers, in every call. Not so after a death: who had looked at the dead claimant's entry may have
 * claimed by it, and the one that the sweep pushed is then still to come. (A worker that came by an
 * aliased entry, see ring.h, leaves one stale entry too many; there are twice as many as calls.)
 * An inbox's stale entries do no harm: inbox.h. */
static bool may_be_in_ring(const pycrew_call *call)
{
    return !is_directed(call) &&
           (pc_word_worker(load_word(call)) == PC_WORKER_HOST || pc_call_attempts(call) > 0);
}

/* Whether an entry of it is ahead of the ring's head; its ticket is that one's then. */
static bool is_stale(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    if (call->queued && may_be_in_ring(call))
        return !pc_ring_passed(&crew->segment, call->ticket);
    if (__builtin_expect(!call->has_stale, 1))
        return false;
    atomic_store_explicit(&call->ticket, call->stale_ticket, memory_order_relaxed);
    return !pc_ring_passed(&crew->segment, call->stale_ticket);
}

/* Ends a life: gives back all that it holds. */
static void end_life(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    if (atomic_load_explicit(&call->queue, memory_order_relaxed) != NULL)
        pc_queue_leave(call);
    if (call->lease.block != 0)
        pc_lease_end(crew, &call->lease);
    if (call->chunk_in_use) {
        /* The ladder, under the lock, may be about to doom an item that has ended by now. */
        pthread_mutex_lock(&crew->lock);
        pc_chunk_discard(call); /* and its arguments */
        pthread_mutex_unlock(&crew->lock);
    }
    if (call->arguments_block != 0)
        pc_memory_free(crew, call->arguments_block);
    call->arguments_block = 0;
    if (__builtin_expect(call->arrays != NULL, 0))
        pc_arrays_leave(call);
    if (__builtin_expect(call->memory != NULL, 0))
        pc_call_memory_free(call);
    if (call->error.strings != NULL)
        pc_error_clear(&call->error);
    if (is_stream(call))
        atomic_store_explicit(&call->stream, NULL, memory_order_relaxed);
    atomic_store_explicit(&call->generation, call->generation + 1, memory_order_relaxed);
    atomic_store_explicit(&call->phase, PC_PHASE_UNUSED, memory_order_release);
}

void pc_call_reclaim(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    bool stale = is_stale(call);

    call->has_stale = false;
    end_life(call);
    if (stale)
        free_stale(crew, call);
    else if (call->replaced)
        free_replaced(crew, call);
    else
        free_push(crew, call);
}

void pc_call_renew(pycrew_call *call)
{
    bool replaced = call->replaced;

    call->has_stale = is_stale(call);
    call->stale_ticket = call->ticket;
    end_life(call);
    initialise(call);
    call->replaced = replaced;
}

int pc_call_set_object(pycrew_call *call, enum pc_request_kind kind, uint64_t object)
{
    call->flags = (uint16_t)(call->flags | kind);
    call->seen_running = call->at_end = false;
    call->drop_looks = 0;
    return pc_write_u64(&call->builder.writer, object);
}

void pc_call_drop(pycrew_call *call, unsigned worker, unsigned incarnation)
{
    pycrew_crew *crew = call->crew;
    bool kick = false;

    pc_direct_address(call, worker, incarnation);
    call->timeout_ns = crew->debug ? PYCREW_FOREVER : crew->grace_ns;
    call->queued = true;
    call->released = true;
    atomic_store_explicit(&call->phase, PC_PHASE_IN_FLIGHT, memory_order_release);
    pthread_mutex_lock(&crew->lock);
    if (call->timeout_ns >= 0) {
        call->deadline = pc_now() + call->timeout_ns;
        pc_deadline_add(call);
        kick = call->deadline < crew->next_look;
    }
    if (kick)
        crew->next_look = call->deadline;
    pc_call_enqueue_locked(call);
    pthread_mutex_unlock(&crew->lock);
    if (kick)
        pc_crew_kick(crew);
}

/* Under crew->lock. */
static void give_grace(pycrew_call *call)
{
    if (pc_word_is_queued(load_word(call)) || call->held)
        pc_call_stop(call, PC_STOP_CANCEL);
    else
        command_stop(call); /* as of a call that is not stopped yet: see ladder.c */
}

/* Before its end: the supervisor is told of it instead of the queue, and gives it back then. */
static void release_in_flight(pycrew_call *call, void (*stop)(pycrew_call *call))
{
    pycrew_crew *crew = call->crew;

    pthread_mutex_lock(&crew->lock);
    call->released = true;
    pc_queue_leave(call);
    atomic_store_explicit(&call->slot->sleeper, PC_SLEEPER_NONE, memory_order_release);
    atomic_store_explicit(&call->slot->queue, PC_QUEUE_SUPERVISOR, memory_order_release);
    pc_slot_set_waiter(call->slot, call->generation);
    if (!pc_call_has_ended(call)) {
        stop(call);
        pthread_mutex_unlock(&crew->lock);
        return;
    }
    call->released = false;
    pthread_mutex_unlock(&crew->lock);
    pc_call_collect(call);
    if (!pc_stream_dispose(call))
        pc_call_reclaim(call);
}

static void cancel(pycrew_call *call)
{
    pc_call_stop(call, PC_STOP_CANCEL);
}

void pc_call_let_go(pycrew_call *call)
{
    if (!pc_call_collect(call))
        release_in_flight(call, give_grace);
    else if (!pc_stream_dispose(call))
        pc_call_reclaim(call);
}

void pycrew_release(pycrew_call *call)
{
    uint32_t phase;

    if (call == NULL || call->slot == NULL /* a batch's item */ ||
        *(const volatile char *)call->crew->fork_guard == 0)
        return;
    if (is_stream(call)) {
        pc_stream_release(call);
        return;
    }
    phase = atomic_load_explicit(&call->phase, memory_order_acquire);
    /* Not "if it is in flight": while the sweep collects its end it is neither that nor ended. */
    if (phase == PC_PHASE_ENDED || phase == PC_PHASE_PREPARED || pc_call_collect(call))
        pc_call_reclaim(call);
    else
        release_in_flight(call, cancel);
}

static void reclaim_word(pycrew_crew *crew, unsigned word, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1) {
        pycrew_call *call = &crew->calls[word * 64 + (unsigned)__builtin_ctzll(bits)];
        bool mine;

        pthread_mutex_lock(&crew->lock);
        mine = call->released && pc_call_has_ended(call);
        pthread_mutex_unlock(&crew->lock);
        if (!mine || !pc_call_collect(call))
            continue;
        call->released = false; /* not before: what was released is not copied back */
        if (!pc_stream_dispose(call))
            pc_call_reclaim(call);
    }
}

void pc_call_reclaim_released(pycrew_crew *crew)
{
    for (unsigned word = 0; word < crew->segment.config.slots / 64; word++)
        reclaim_word(crew, word, pc_announce_take(&crew->segment, PC_QUEUE_SUPERVISOR, word));
}
