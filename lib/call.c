/* call: one call's life in the host, from prepare to release. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/crew.h"
#include "lib/format.h"
#include "lib/result.h"
#include "lib/shm/announce.h"

enum { LOOK_NS = 100 * 1000 * 1000, SPIN_LOOKS = 32, SHORT_SPIN_NS = 5000 };

static _Thread_local char this_thread; /* its address is the thread's name */

static uint64_t load_word(const pycrew_call *call)
{
    return atomic_load_explicit(&call->slot->control, memory_order_acquire); /* S2 */
}

/* ---- free calls ----
 *
 * A stack of indices with a tag against ABA, in private memory. It holds as many as the option
 * `calls` says; the slots beyond are spares. A call that ended while it was queued leaves a stale
 * entry in the ring, and its slot may not be queued again before the head is past that: it waits
 * in a list of its own, and a spare takes its place. */

static void free_push(pycrew_crew *crew, pycrew_call *call)
{
    uint64_t head = atomic_load_explicit(&crew->free_calls, memory_order_relaxed), next;

    do {
        call->next = (uint32_t)head;
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
        next = ((head >> 32) + 1) << 32 | *(volatile uint32_t *)&call->next;
    } while (!atomic_compare_exchange_weak_explicit(&crew->free_calls, &head, next,
                                                    memory_order_acquire, memory_order_acquire));
    return call;
}

/* Under crew->lock: moves stale calls that the head has passed to the spares. */
static void sift_stale(pycrew_crew *crew)
{
    uint32_t *link = &crew->stale_calls;

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

/* A slot whose entry is still ahead of the head: a spare is free in its place, if there is one. */
static void free_stale(pycrew_crew *crew, pycrew_call *call)
{
    pycrew_call *spare = NULL;

    pthread_mutex_lock(&crew->lock);
    call->next = crew->stale_calls;
    crew->stale_calls = call->index + 1;
    sift_stale(crew);
    if (crew->spare_calls != 0) {
        spare = &crew->calls[crew->spare_calls - 1];
        crew->spare_calls = spare->next;
    } else {
        atomic_fetch_add_explicit(&crew->stale_count, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&crew->lock);
    if (spare != NULL)
        free_push(crew, spare);
}

/* Spares that came too late for free_stale. */
static pycrew_call *pop_owed(pycrew_crew *crew)
{
    pycrew_call *call = NULL;

    if (atomic_load_explicit(&crew->stale_count, memory_order_relaxed) == 0)
        return NULL;
    pthread_mutex_lock(&crew->lock);
    sift_stale(crew);
    if (crew->spare_calls != 0 && atomic_load(&crew->stale_count) > 0) {
        call = &crew->calls[crew->spare_calls - 1];
        crew->spare_calls = call->next;
        atomic_fetch_sub_explicit(&crew->stale_count, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&crew->lock);
    return call;
}

static pycrew_call *take_free(pycrew_crew *crew)
{
    pycrew_call *call = free_pop(crew);

    return call != NULL ? call : pop_owed(crew);
}

/* Whether this thread holds every call there is: then waiting for one would be for ever. */
static bool holds_all(const pycrew_crew *crew)
{
    unsigned held = 0;

    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        const pycrew_call *call = &crew->calls[i];
        uint32_t phase = atomic_load_explicit(&call->phase, memory_order_relaxed);

        if (phase != PC_PHASE_UNUSED && call->thread == &this_thread && !call->released)
            held++;
    }
    return held >= crew->call_limit;
}

static void wait_changed(pycrew_crew *crew, int64_t until)
{
    int64_t now = pc_now();
    int64_t at = until - now > LOOK_NS ? now + LOOK_NS : until; /* stale calls pass unannounced */
    struct timespec time = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};

    pthread_cond_timedwait(&crew->changed, &crew->lock, &time);
}

static int await_free(pycrew_crew *crew, int64_t timeout_ns, pycrew_call **ret)
{
    int64_t until = pc_until(timeout_ns);

    if (timeout_ns == 0 || holds_all(crew))
        return pc_fail(-EAGAIN, "all %u calls are in use", crew->call_limit);
    atomic_fetch_add(&crew->inside, 1);
    atomic_fetch_add_explicit(&crew->prepare_waiters, 1, memory_order_seq_cst); /* F1 */
    while ((*ret = take_free(crew)) == NULL && pc_now() < until && atomic_load(&crew->ending) == 0) {
        pthread_mutex_lock(&crew->lock);
        if ((uint32_t)atomic_load(&crew->free_calls) == 0)
            wait_changed(crew, until);
        pthread_mutex_unlock(&crew->lock);
    }
    atomic_fetch_sub(&crew->prepare_waiters, 1);
    atomic_fetch_sub(&crew->inside, 1);
    if (*ret != NULL)
        return 0;
    if (atomic_load(&crew->ending) != 0)
        return pc_fail(-ESHUTDOWN, "the crew takes no new calls");
    return pc_fail(-ETIME, "all %u calls were in use", crew->call_limit);
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
        return pc_fail(rc, "the arguments (%zu bytes) exceed the crew's shared memory (%zu bytes)",
                       need, crew->segment.size);
    if (rc < 0)
        return pc_fail(rc, "no shared memory is left for %zu bytes of arguments", need);
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
    call->flags = 0;
    call->timeout_ns = crew->timeout_ns;
    call->retries = crew->retries;
    call->chunk_in_use = false;
    call->deadline = INT64_MAX;
    call->released = false;
    atomic_store_explicit(&call->stop, PC_STOP_NONE, memory_order_relaxed);
    atomic_store_explicit(&call->deaths_running, 0, memory_order_relaxed);
    atomic_store_explicit(&call->deaths_claimed, 0, memory_order_relaxed);
    call->sleeper = PC_SLEEPER_NONE;
    call->thread = &this_thread;
    atomic_store_explicit(&call->phase, PC_PHASE_PREPARED, memory_order_relaxed);
}

int pc_call_prepare(pycrew_crew *crew, int64_t timeout_ns, pycrew_call **ret)
{
    int rc = pc_crew_check(crew);
    pycrew_call *call;

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&crew->ending, memory_order_relaxed) != 0)
        return pc_fail(-ESHUTDOWN, "the crew takes no new calls");
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
    call->function = function;
    *ret = call;
    return 0;
}

/* ---- adding arguments ---- */

static int check_prepared(const pycrew_call *call)
{
    if (__builtin_expect(atomic_load_explicit(&call->phase, memory_order_relaxed) ==
                             PC_PHASE_PREPARED, 1))
        return 0;
    return pc_fail(-EALREADY, "the call was submitted already");
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
    call->timeout_ns = timeout_ns < 0 ? PYCREW_FOREVER : timeout_ns;
    return 0;
}

int pycrew_set_retries(pycrew_call *call, unsigned retries)
{
    int rc = check_prepared(call);

    if (rc < 0)
        return rc;
    call->retries = retries;
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
        return pc_fail(-EINVAL, "the queue belongs to another crew");
    atomic_store_explicit(&call->queue, queue, memory_order_relaxed);
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

void pc_call_enqueue(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    call->queued = true;
    pc_slot_queue(call->slot, call->generation);
    pc_ring_push(&crew->segment, call->ticket, call->index, call->generation);
    pc_idle_wake_one(&crew->segment);
}

/* The ticket is taken before the slot's lines are written: it is a locked instruction, and would
 * wait for the lines, which are the worker's until then. But not earlier: until its entry is
 * there, those behind it wait. */
static void write_request(pycrew_call *call)
{
    pc_slot *slot = call->slot;
    pycrew_queue *queue = atomic_load_explicit(&call->queue, memory_order_relaxed);

    call->ticket = pc_ring_take_ticket(&call->crew->tail);
    slot->function = call->function->number;
    atomic_store_explicit(&slot->queue, (uint16_t)(queue ? queue->number : PC_QUEUE_NONE),
                          memory_order_relaxed);
    slot->flags = (uint16_t)(call->flags | (call->builder.json_result ? PC_REQUEST_JSON : 0) |
                             (call->timeout_ns >= 0 ? PC_REQUEST_DEADLINE : 0));
    if (call->timeout_ns >= 0)
        slot->deadline = call->deadline;
    slot->arguments_block = call->arguments_block;
    slot->arguments_size = call->builder.writer.size;
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
    write_request(call);
    pc_call_enqueue(call);
    pthread_mutex_unlock(&crew->lock);
    if (kick)
        pc_crew_kick(crew);
}

int pycrew_submit(pycrew_call *call)
{
    int rc = check_prepared(call);

    if (rc < 0 || (rc = pc_crew_check(call->crew)) < 0)
        return rc;
    if (atomic_load_explicit(&call->crew->ending, memory_order_relaxed) != 0)
        return pc_fail(-ESHUTDOWN, "the crew takes no new calls");
    if (call->slot == NULL)
        return pc_fail(-EINVAL, "a batch's item is committed, not submitted");
    rc = pc_build_finish(&call->builder);
    if (rc < 0)
        return rc;
    pc_queue_enter(call);
    atomic_store_explicit(&call->phase, PC_PHASE_IN_FLIGHT, memory_order_release);
    if (call->timeout_ns >= 0) {
        submit_with_deadline(call);
        return 0;
    }
    write_request(call);
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

/* The code for what a worker wrote, and whether texts follow. */
static int code_of(const pycrew_call *call, uint32_t kind)
{
    switch (kind) {
    case PC_RESULT_VALUE:
    case PC_RESULT_BATCH: return 0;
    case PC_RESULT_BAD_ARGUMENT: return -EINVAL;
    case PC_RESULT_BAD_TEXT: return PYCREW_ETYPE;
    case PC_RESULT_NO_MEMORY: return -ENOMEM;
    case PC_RESULT_TOO_BIG: return -E2BIG;
    case PC_RESULT_INTERRUPTED:
        switch (atomic_load_explicit(&call->stop, memory_order_acquire)) {
        case PC_STOP_DEADLINE: return -ETIMEDOUT;
        case PC_STOP_CANCEL: return -ECANCELED;
        default: return PYCREW_ERAISED;
        }
    default: return PYCREW_ERAISED;
    }
}

unsigned pc_call_attempts(const pycrew_call *call)
{
    return atomic_load(&call->deaths_running) + atomic_load(&call->deaths_claimed);
}

void pc_call_set_fault(const pycrew_call *call, pc_error *error, uint32_t kind, bool ran,
                       pc_cursor message)
{
    int code = code_of(call, kind);
    pc_text type = next_text(&message), text = next_text(&message), trace = next_text(&message);

    if (kind == PC_RESULT_NO_MEMORY)
        text = pc_text_of("no shared memory is left for the result");
    if (kind == PC_RESULT_TOO_BIG)
        text = pc_text_of("the result exceeds the crew's shared memory");
    if (trace.size == 0)
        trace.data = NULL;
    if (type.size == 0)
        type.data = NULL;
    pc_error_set(error, code, pc_text_of(function_name(call)), type, text, trace);
    error->public.may_have_run = ran || atomic_load(&call->deaths_running) > 0;
    error->public.attempts = pc_call_attempts(call) + 1;
}

/* Something stands in the segment that no worker of ours writes. */
static int set_impossible(pycrew_call *call)
{
    pc_error_set(&call->error, PYCREW_EDIED, pc_text_of(function_name(call)), pc_text_of(NULL),
                 pc_text_of("a worker wrote over the shared memory; the answer is lost"),
                 pc_text_of(NULL));
    call->error.public.may_have_run = true;
    call->error.public.attempts = pc_call_attempts(call) + 1;
    return PYCREW_EDIED;
}

static bool find_result(pycrew_call *call, uint64_t word, uint64_t block, uint64_t size)
{
    pycrew_crew *crew = call->crew;

    call->result_worker = pc_word_worker(word);
    call->result_incarnation =
        (unsigned)(word >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK);
    if (block == 0) {
        if (size > sizeof call->result_copy)
            return false;
        memcpy(call->result_copy, call->slot->result, sizeof call->result_copy);
        call->result.at = (const uint8_t *)call->result_copy;
    } else {
        if (call->result_worker >= crew->workers ||
            !pc_lease_take(crew, call->result_worker, call->result_incarnation, block, size,
                           &call->result_block))
            return false;
        call->result.at = pc_segment_at(&crew->segment, block);
    }
    call->result.end = call->result.at + size;
    return true;
}

static int collect_from_worker(pycrew_call *call, uint64_t word)
{
    const volatile pc_slot *slot = call->slot; /* each word is read once */
    uint32_t kind = slot->result_kind;
    bool ran = slot->result_ran != 0;

    if (kind == PC_RESULT_BATCH && call->chunk_in_use) {
        pc_chunk_collect(call, pc_word_worker(word),
                         (unsigned)(word >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK));
        return 0;
    }
    if (kind == PC_RESULT_BATCH || !find_result(call, word, slot->result_block, slot->result_size))
        return set_impossible(call);
    if (kind == PC_RESULT_VALUE)
        return 0;
    pc_call_set_fault(call, &call->error, kind, ran, call->result);
    pc_lease_end(call->crew, call->result_worker, call->result_incarnation, &call->result_block);
    return call->error.public.code;
}

static int collect_from_host(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    int code;

    pthread_mutex_lock(&crew->lock);
    code = call->host_code;
    call->error = call->host_error;
    call->host_error = (pc_error){0};
    pthread_mutex_unlock(&crew->lock);
    return code;
}

static void remove_deadline(pycrew_call *call)
{
    if (call->deadline == INT64_MAX)
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

/* The ended call's lines are written next when it is used again. */
static void collect(pycrew_call *call, uint64_t word)
{
    pc_prefetch_write(&call->slot->control);
    pc_prefetch_write(&call->slot->function);
    call->code = pc_word_worker(word) == PC_WORKER_HOST ? collect_from_host(call)
                                                         : collect_from_worker(call, word);
    remove_deadline(call);
    atomic_store_explicit(&call->phase, PC_PHASE_ENDED, memory_order_release);
}

static bool is_done(const pycrew_call *call, uint64_t word)
{
    return pc_word_state(word) == PC_DONE && pc_word_generation(word) == call->generation;
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

static bool has_ended(const pycrew_call *call)
{
    return is_done(call, load_word(call));
}

/* A spin that failed says that calls take longer than that, or that others want the CPU: the next
 * ones are short, but each eighth is whole, since both sides asleep answer too late for a short one
 * for ever. */
static int64_t spin_ns(const pc_segment *segment, unsigned failed)
{
    int64_t whole = (int64_t)segment->config.spin_ns;

    return failed % 8 == 0 || whole < SHORT_SPIN_NS ? whole : SHORT_SPIN_NS;
}

/* Spins while that takes no CPU from a worker. */
static bool spin(pycrew_call *call, int64_t until)
{
    static _Thread_local unsigned failed; /* in a row */
    pc_segment *segment = &call->crew->segment;
    _Atomic uint32_t *spinners = &segment->header->host_spinners;
    int64_t stop = 0, yielded = 0;
    bool ended = false;

    if (pc_idle_awake(segment) + atomic_load_explicit(spinners, memory_order_relaxed) >=
        segment->config.cpus)
        return has_ended(call);
    atomic_fetch_add_explicit(spinners, 1, memory_order_relaxed);
    for (unsigned i = 0; !(ended = has_ended(call)); i++) {
        int64_t now;

        pc_spin_pause();
        if (i % SPIN_LOOKS != SPIN_LOOKS - 1)
            continue;
        now = pc_now();
        if (stop == 0) {
            yielded = now;
            stop = now + spin_ns(segment, failed);
        }
        if (now >= stop || now >= until)
            break;
        pc_spin_yield(now, &yielded);
    }
    atomic_fetch_sub_explicit(spinners, 1, memory_order_relaxed);
    failed = ended ? 0 : failed + 1;
    return ended;
}

/* A call that is queued while workers sleep, after LOOK_NS: a hint was wrong, as after a scribble. */
static void look_again(pycrew_call *call)
{
    if (pc_word_state(load_word(call)) == PC_QUEUED)
        pc_idle_wake_all(&call->crew->segment);
}

bool pc_call_publish_sleeper(pycrew_call *call, uint32_t sleeper)
{
    if (call->sleeper == sleeper)
        return !has_ended(call);
    atomic_store_explicit(&call->slot->sleeper, sleeper, memory_order_release);
    if (!pc_slot_set_waiter(call->slot, call->generation)) /* W1 */
        return false;
    call->sleeper = sleeper;
    return true;
}

static void sleep_until_ended(pycrew_call *call, int64_t until)
{
    pycrew_crew *crew = call->crew;
    sem_t *semaphore = &call->slot->semaphore;

    pc_sleeper_drain(semaphore);
    if (!pc_call_publish_sleeper(call, call->index))
        return;
    while (!has_ended(call) && atomic_load(&crew->ending) != 2) {
        int64_t now = pc_now();

        if (now >= until)
            return;
        pc_sleeper_wait(semaphore, until - now > LOOK_NS ? now + LOOK_NS : until);
        if (pc_now() - now >= LOOK_NS)
            look_again(call);
    }
}

bool pc_call_await(pycrew_call *call, int64_t until)
{
    pycrew_crew *crew = call->crew;

    atomic_fetch_add_explicit(&crew->inside, 1, memory_order_acq_rel);
    if (!spin(call, until))
        sleep_until_ended(call, until);
    atomic_fetch_sub_explicit(&crew->inside, 1, memory_order_acq_rel);
    return pc_call_collect(call);
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

    if ((uint32_t)(entry >> 32) != ticket)
        return;
    pc_prefetch_write(&slot->control);
    pc_prefetch_write(&slot->function);
}

static void note_hit(const pycrew_call *call, bool hit)
{
    static _Thread_local unsigned hits;

    hits = hit ? hits + 1 : 0;
    if (hits > 8)
        prefetch_next(call);
}

static int fail_not_submitted(void)
{
    return pc_fail(-EINVAL, "the call was not submitted");
}

int pycrew_wait(pycrew_call *call, int64_t timeout_ns)
{
    int rc = pc_crew_check(call->crew);
    bool ended;

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&call->phase, memory_order_relaxed) == PC_PHASE_PREPARED)
        return fail_not_submitted();
    ended = pc_call_collect(call);
    note_hit(call, ended);
    if (!ended && (timeout_ns == 0 || !pc_call_await(call, pc_until(timeout_ns)))) {
        if (atomic_load(&call->crew->ending) == 2)
            return pc_fail(-ECANCELED, "the crew was closed");
        return pc_fail_static(-ETIME, "the call has not ended yet");
    }
    return call->code < 0 ? pc_fail_error(&call->error.public) : 0;
}

/* ---- ends by the host ---- */

void pc_call_tell(pycrew_call *call, const pc_ending *ending)
{
    pycrew_crew *crew = call->crew;

    if (ending->sleeper < crew->segment.config.slots)
        pc_sleeper_post(&crew->segment.slots[ending->sleeper].semaphore);
    if (ending->queue < crew->segment.config.queues) {
        pc_announce(&crew->segment, ending->queue, call->index);
        pc_queue_write(&crew->queues[ending->queue]);
    }
}

bool pc_call_end_by_host(pycrew_call *call, uint64_t word, int code, const pc_error *error)
{
    pc_ending ending;

    if (!pc_slot_end_by_host(call->slot, word, &ending))
        return false;
    call->host_code = code;
    if (code < 0) {
        const pycrew_error *e = &error->public;

        pc_error_set(&call->host_error, code, pc_text_of(function_name(call)), pc_text_of(e->type),
                     pc_text_of(e->message), pc_text_of(e->traceback));
        call->host_error.public.signal = e->signal;
        call->host_error.public.exit_status = e->exit_status;
        call->host_error.public.may_have_run = atomic_load(&call->deaths_running) > 0;
        call->host_error.public.out_of_memory = e->out_of_memory;
        call->host_error.public.attempts = pc_call_attempts(call);
    }
    pc_call_tell(call, &ending);
    return true;
}

static const pc_error *stop_error(enum pc_stop why)
{
    static const pc_error deadline = {
        .public = {.message = "the deadline passed while the call was queued"}};
    static const pc_error cancel = {.public = {.message = "the call was cancelled"}};

    return why == PC_STOP_DEADLINE ? &deadline : &cancel;
}

int pc_call_stop_code(enum pc_stop why)
{
    return why == PC_STOP_DEADLINE ? -ETIMEDOUT : -ECANCELED;
}

int pc_call_stop(pycrew_call *call, enum pc_stop why)
{
    pycrew_crew *crew = call->crew;
    uint32_t none = PC_STOP_NONE;

    atomic_compare_exchange_strong(&call->stop, &none, why);
    why = (enum pc_stop)atomic_load(&call->stop);
    for (;;) {
        uint64_t word = load_word(call);

        switch (pc_word_state(word)) {
        case PC_QUEUED:
            if (pc_call_end_by_host(call, word, pc_call_stop_code(why), stop_error(why)))
                return 0;
            break;
        case PC_CLAIMED:
            /* Bounded: a call is there once. */
            for (uint32_t i = 0; i < crew->command_count; i++)
                if (crew->commands[i] == call->index)
                    return 0;
            crew->commands[crew->command_count++] = call->index;
            pc_crew_kick(crew);
            return 0;
        default: return -EALREADY;
        }
    }
}

int pycrew_cancel(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    int rc = pc_crew_check(crew);

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&call->phase, memory_order_relaxed) == PC_PHASE_PREPARED)
        return fail_not_submitted();
    pthread_mutex_lock(&crew->lock);
    rc = pc_call_stop(call, PC_STOP_CANCEL);
    pthread_mutex_unlock(&crew->lock);
    return rc < 0 ? pc_fail(rc, "the call has ended") : 0;
}

void pc_call_requeue(pycrew_call *call, uint64_t word)
{
    /* The dead claimant may not have moved the head: a slot has one entry ahead of it at most. */
    pc_ring_passed(&call->crew->segment, call->ticket);
    while (!atomic_compare_exchange_weak_explicit(
        &call->slot->control, &word,
        pc_word_of(call->generation, PC_QUEUED) | (word & PC_WAITER_MASK), memory_order_acq_rel,
        memory_order_acquire))
        continue;
    call->ticket = pc_ring_take_ticket(&call->crew->tail);
    pc_ring_push(&call->crew->segment, call->ticket, call->index, call->generation);
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

/* The message of a call that returned, or why there is none. */
static int result_of(pycrew_call *call, pc_cursor *ret)
{
    if (!is_collected(call))
        return pc_fail(-EALREADY, "the call has not ended");
    if (call->code < 0)
        return pc_fail_error(&call->error.public);
    *ret = call->result;
    return 0;
}

int pycrew_result(pycrew_call *call, const char *format, ...)
{
    va_list arguments;
    pc_cursor message;
    int rc = result_of(call, &message);

    if (rc < 0)
        return rc;
    va_start(arguments, format);
    rc = pc_format_result(message, format, &arguments, false);
    va_end(arguments);
    return rc;
}

#define RESULT(call, read)                                                                         \
    do {                                                                                           \
        pc_cursor message;                                                                         \
        int ended = result_of(call, &message);                                                     \
        return ended < 0 ? ended : (read);                                                         \
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

pycrew_value pycrew_result_value(const pycrew_call *call)
{
    if (!is_seen_ended(call) || call->code < 0)
        return (pycrew_value){NULL, NULL, 0};
    return pc_result_value(call->result);
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
 * workers, in every call. (A worker that came by an aliased entry, see ring.h, leaves one stale
 * entry too many; there are twice as many as calls.) */
static bool may_be_in_ring(const pycrew_call *call)
{
    return pc_word_worker(load_word(call)) == PC_WORKER_HOST;
}

void pc_call_reclaim(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    bool stale = call->queued && may_be_in_ring(call) &&
                 !pc_ring_passed(&crew->segment, call->ticket);

    if (call->queued)
        pc_queue_leave(call);
    if (call->result_block != 0)
        pc_lease_end(crew, call->result_worker, call->result_incarnation, &call->result_block);
    if (call->chunk_in_use)
        pc_chunk_discard(call); /* and its arguments */
    if (call->arguments_block != 0)
        pc_memory_free(crew, call->arguments_block);
    call->arguments_block = 0;
    if (call->error.strings != NULL)
        pc_error_clear(&call->error);
    atomic_store_explicit(&call->generation, call->generation + 1, memory_order_relaxed);
    atomic_store_explicit(&call->phase, PC_PHASE_UNUSED, memory_order_release);
    if (stale)
        free_stale(crew, call);
    else
        free_push(crew, call);
}

/* Before its end: the supervisor is told of it instead of the queue, and gives it back then. */
static void release_in_flight(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    bool in_flight;

    pthread_mutex_lock(&crew->lock);
    call->released = true;
    pc_queue_leave(call);
    atomic_store_explicit(&call->slot->sleeper, PC_SLEEPER_NONE, memory_order_release);
    atomic_store_explicit(&call->slot->queue, PC_QUEUE_SUPERVISOR, memory_order_release);
    in_flight = pc_slot_set_waiter(call->slot, call->generation);
    if (in_flight)
        pc_call_stop(call, PC_STOP_CANCEL);
    else
        call->released = false;
    pthread_mutex_unlock(&crew->lock);
    if (!in_flight) {
        pc_call_collect(call);
        pc_call_reclaim(call);
    }
}

void pycrew_release(pycrew_call *call)
{
    if (call == NULL || call->slot == NULL /* a batch's item */ ||
        *(const volatile char *)call->crew->fork_guard == 0)
        return;
    if (atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_IN_FLIGHT &&
        !pc_call_collect(call))
        release_in_flight(call);
    else
        pc_call_reclaim(call);
}

static void reclaim_word(pycrew_crew *crew, unsigned word, uint64_t bits)
{
    for (; bits != 0; bits &= bits - 1) {
        pycrew_call *call = &crew->calls[word * 64 + (unsigned)__builtin_ctzll(bits)];
        bool mine;

        pthread_mutex_lock(&crew->lock);
        mine = call->released && has_ended(call);
        if (mine)
            call->released = false;
        pthread_mutex_unlock(&crew->lock);
        if (mine && pc_call_collect(call))
            pc_call_reclaim(call);
    }
}

void pc_call_reclaim_released(pycrew_crew *crew)
{
    for (unsigned word = 0; word < crew->segment.config.slots / 64; word++)
        reclaim_word(crew, word, pc_announce_take(&crew->segment, PC_QUEUE_SUPERVISOR, word));
}
