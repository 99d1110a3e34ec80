/* rebuild: what is done when the segment holds what nobody of ours wrote.
 *
 * A worker runs code of the user's, and that may write anywhere. Where somebody meets a value that
 * cannot be (pc_crew_distrust), or an audit finds one, nothing in the segment is worth anything any
 * more, and all of it is made anew from the private records. That is the supervisor's, in three
 * steps, between which its loop goes on:
 *
 *   1. The ring is closed (by the word that tickets are taken from, so that it is exact who is
 * still on the way in), and all workers are killed. Nothing is concluded before their deaths are
 *      confirmed: one that lives may write into what somebody was given meanwhile.
 *   2. Calls in flight end PYCREW_EDIED, in the private records: no word of the segment is asked. A
 *      thread that collects an end at the moment, or is between its ticket and its entry, is waited
 *      for. Calls submitted from here on are held back, and so nothing of them is lost; those
 *      whose arguments stood in the segment before (tainted) end too, when they are submitted.
 *   3. Header, functions, ring, slots, queues and owners of spans are written as the private
 * records say. Blocks that the user still reads results in are kept out of use until their release.
 * The ring is opened, all who sleep are woken, and the workers are forked anew.
 *
 * An audit compares all that the host can tell about. It is run at each death of a worker, before
 * the sweep believes anything, and when somebody suspects: a look each 100 ms at a call that takes
 * long. It never errs on the side of distrust: where a word may have changed by right since the
 * private record was read, it is read again. */
#include <stdlib.h>

#include "lib/crew.h"
#include "lib/export.h"
#include "lib/shm/announce.h"
#include "lib/trace.h"

#define MS ((int64_t)1000 * 1000)
#define SETTLE_NS (1000 * MS) /* a thread in the middle of a submit is waited for as long */

void pc_crew_distrust(pycrew_crew *crew, const char *what)
{
    const char *none = NULL;

    if (atomic_compare_exchange_strong(&crew->distrusted, &none, what))
        pc_crew_kick(crew);
}

void pc_crew_suspect(pycrew_crew *crew)
{
    if (!atomic_exchange(&crew->suspected, true))
        pc_crew_kick(crew);
}

/* ---- one call ---- */

static uint64_t load_word(const pycrew_call *call)
{
    return atomic_load_explicit(&call->slot->control, memory_order_acquire);
}

static bool is_owner(pycrew_crew *crew, uint64_t word)
{
    unsigned worker = pc_word_worker(word);
    pc_host_worker *w;
    bool is;

    if (worker >= crew->workers)
        return false;
    w = &crew->crew_workers[worker];
    pthread_mutex_lock(&w->lock);
    is = w->alive && (word >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK) ==
                         (w->incarnation & PC_INCARNATION_MASK);
    pthread_mutex_unlock(&w->lock);
    return is;
}

static const char *audit_queued(pycrew_call *call, uint64_t word)
{
    pycrew_crew *crew = call->crew;

    if ((word & ~PC_WAITER_MASK) != pc_word_of(pc_word_generation(word), PC_QUEUED))
        return "a slot that is queued and more";
    switch (pc_ring_find(&crew->segment, call->ticket, call->index, pc_word_generation(word))) {
    case PC_RING_NOWHERE:
        return "a queued slot that is not in the ring";
    case PC_RING_STUCK:
        pc_crew_suspect(crew);
        return NULL;
    default:
        return NULL;
    }
}

static const char *audit_directed(pycrew_call *call, uint64_t word)
{
    if ((word & ~PC_WAITER_MASK) != pc_word_of(pc_word_generation(word), PC_DIRECTED))
        return "a slot that is queued and more";
    return pc_direct_audit(call);
}

static const char *audit_word(pycrew_call *call, uint64_t word, uint32_t generation)
{
    if (pc_word_generation(word) != generation)
        return "a slot of another life than its call";
    switch (pc_word_state(word)) {
    case PC_QUEUED:
        return audit_queued(call, word);
    case PC_DIRECTED:
        return audit_directed(call, word);
    case PC_CLAIMED:
        if (!is_owner(call->crew, word))
            return "a slot whose owner cannot be";
        return word & PC_FLAG_DOOMED && !call->crew->crew_workers[pc_word_worker(word)].killed
                   ? "a slot that was doomed by nobody"
                   : NULL;
    case PC_DONE:
        return pc_word_worker(word) < call->crew->workers || pc_word_worker(word) == PC_WORKER_HOST
                   ? NULL
                   : "a slot that was ended by nobody";
    default:
        return "a slot in a state that is none";
    }
}

/* Whether the call is in its slot, in this life. */
static bool is_published(const pycrew_call *call, uint32_t generation)
{
    return atomic_load(&call->phase) == PC_PHASE_IN_FLIGHT && call->generation == generation &&
           atomic_load(&call->published) == generation;
}

const char *pc_call_audit(pycrew_call *call)
{
    uint32_t generation = call->generation;
    uint64_t word;
    const char *what;

    if (!is_published(call, generation))
        return NULL;
    word = load_word(call);
    what = audit_word(call, word, generation);
    /* While the word is what it was, so is what the private records say about it. */
    if (what != NULL && (load_word(call) != word || !is_published(call, generation)))
        return NULL;
    return what;
}

/* Queued, where somebody who sleeps should have it. */
static bool is_beside_sleepers(pycrew_call *call, uint64_t word)
{
    unsigned directed = atomic_load(&call->directed);
    uint32_t sleep;

    if (pc_word_state(word) != PC_DIRECTED)
        return pc_word_state(word) == PC_QUEUED;
    return directed != 0 && pc_idle_is_asleep(&call->crew->segment, directed - 1, &sleep);
}

bool pc_call_look(pycrew_call *call)
{
    const char *what = pc_call_audit(call);

    if (what != NULL)
        pc_crew_distrust(call->crew, what);
    return what == NULL && is_beside_sleepers(call, load_word(call));
}

/* ---- all of it ---- */

static bool header_is_intact(const pycrew_crew *crew)
{
    const pc_header *header = crew->segment.header;
    unsigned words = (crew->workers + 63) / 64, rest = crew->workers % 64;

    if (!pc_segment_intact(&crew->segment) ||
        atomic_load(&header->closing) > (atomic_load(&crew->ending) == 2) ||
        atomic_load(&header->alive) != crew->alive || atomic_load(&header->spinner) > crew->workers)
        return false;
    return rest == 0 || atomic_load(&header->idle[words - 1]) >> rest == 0;
}

static bool is_coroutine(const pycrew_call *call)
{
    return pc_function_kind(call->crew, call->function) == PC_FUNCTION_COROUTINE;
}

/* Both words are of now: a worker ends its call before it claims another, unless it is a coroutine, which
 * the worker said before it claimed. */
static bool has_two_calls(pycrew_crew *crew, pycrew_call *call, uint64_t word)
{
    pc_host_worker *w = &crew->crew_workers[pc_word_worker(word)];
    uint32_t other = w->audited_call;
    uint64_t others;

    w->audited_call = call->index + 1;
    if (other == 0)
        return false;
    others = load_word(&crew->calls[other - 1]);
    return !is_coroutine(&crew->calls[other - 1]) && pc_word_state(others) == PC_CLAIMED && pc_word_worker(others) == pc_word_worker(word) &&
           is_published(&crew->calls[other - 1], pc_word_generation(others)) &&
           load_word(call) == word && is_published(call, pc_word_generation(word));
}

static const char *audit_calls(pycrew_crew *crew)
{
    for (unsigned i = 0; i < crew->workers; i++)
        crew->crew_workers[i].audited_call = 0;
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];
        const char *what = pc_call_audit(call);
        uint64_t word;

        if (what != NULL)
            return what;
        if (!is_published(call, call->generation))
            continue;
        word = load_word(call);
        if (pc_word_state(word) == PC_DONE && pc_word_generation(word) == call->generation)
            pc_call_tell(call); /* that may have been lost */
        if (pc_word_state(word) == PC_CLAIMED && pc_word_worker(word) < crew->workers &&
            !is_coroutine(call) && has_two_calls(crew, call, word))
            return "a worker with two calls at a time";
    }
    return NULL;
}

static const char *audit(pycrew_crew *crew)
{
    const char *what;

    if (!header_is_intact(crew))
        return "the header";
    if (!pc_ring_intact(&crew->segment, &crew->tail))
        return "the ring";
    if (pc_direct_audit_inboxes(crew) != NULL)
        return pc_direct_audit_inboxes(crew);
    if (!pc_functions_intact(crew))
        return "the functions' names";
    if (!pc_memory_intact(crew))
        return "the owners of memory";
    if ((what = pc_exports_audit(crew)) != NULL)
        return what;
    return audit_calls(crew);
}

const char *pc_crew_audit(pycrew_crew *crew)
{
    const char *what;

    pthread_mutex_lock(&crew->lock);
    what = audit(crew);
    pthread_mutex_unlock(&crew->lock);
    crew->audited = pc_now();
    return what;
}

/* ---- step 1: nobody writes any more ---- */

static void begin(pycrew_crew *crew, const char *what)
{
    pc_crew_log(
        crew, PYCREW_LOG_ERROR,
        "the crew's shared memory was written over by a worker (found: %s); the workers are "
        "ended, calls in flight fail, and it is made anew",
        what);
    pthread_mutex_lock(&crew->lock);
    crew->rebuilding = true;
    pc_trace_note(crew, "shared memory is made anew");
    crew->all_dead = false;
    pc_ring_close(&crew->tail);
    crew->command_count = 0;
    for (unsigned i = 0; i < crew->workers; i++) {
        pc_ladder_forget(crew, i);
        pc_direct_close(crew, i, NULL);
    }
    pthread_mutex_unlock(&crew->lock);
    for (unsigned i = 0; i < crew->processes; i++)
        pc_worker_kill(&crew->crew_workers[i]);
}

static bool all_dead(const pycrew_crew *crew)
{
    for (unsigned i = 0; i < crew->processes; i++)
        if (crew->crew_workers[i].state != PC_WORKER_NONE)
            return false;
    return true;
}

/* ---- step 2: calls in flight end ---- */

/* Being filled, or on its way into its slot, or held back from it. */
static bool stands_outside(const pycrew_call *call)
{
    uint32_t phase = atomic_load(&call->phase);

    return phase == PC_PHASE_PREPARED ||
           (phase == PC_PHASE_IN_FLIGHT && atomic_load(&call->published) != call->generation);
}

/* Their arguments stood there while somebody wrote anywhere. */
static void taint(pycrew_crew *crew)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++)
        if (stands_outside(&crew->calls[i]))
            atomic_store(&crew->calls[i].tainted, true);
}

/* False: a thread is at it at this moment; it is waited for, unless that is hopeless. */
static bool settle_call(pycrew_call *call, bool hopeless)
{
    switch (atomic_load(&call->phase)) {
    case PC_PHASE_COLLECTING:
        return false;
    case PC_PHASE_IN_FLIGHT:
        if (call->held)
            return true;
        if (atomic_load(&call->published) != call->generation && !hopeless)
            return false;
        return pc_call_end_regardless(call, PYCREW_EDIED,
                                      "the crew's shared memory was found damaged: a worker wrote "
                                      "over it, and all workers were ended",
                                      true);
    default:
        return true;
    }
}

static bool settle(pycrew_crew *crew)
{
    bool settled = true, hopeless;

    pthread_mutex_lock(&crew->lock);
    if (!crew->all_dead) {
        crew->settling_since = pc_now();
        taint(crew);
    }
    hopeless = pc_now() - crew->settling_since > SETTLE_NS;
    crew->all_dead = true;
    for (uint32_t i = 0; i < crew->segment.config.slots; i++)
        settled &= settle_call(&crew->calls[i], hopeless);
    pthread_mutex_unlock(&crew->lock);
    return settled;
}

/* ---- step 3: the segment as the private records have it; under crew->lock ---- */

static void restore_header(pycrew_crew *crew)
{
    pc_header *header = crew->segment.header;

    pc_segment_restore(&crew->segment);
    atomic_store(&header->closing, atomic_load(&crew->ending) == 2);
    atomic_store(&header->alive, crew->alive);
    atomic_store(&header->spinner, 0);
    atomic_store(&header->host_spinners, 0);
    for (unsigned i = 0; i < PC_IDLE_WORDS; i++)
        atomic_store(&header->idle[i], 0);
}

/* Its word is of no life to come: one behind the generation, which only grows. */
static void restore_slot(pycrew_call *call)
{
    pc_slot *slot = call->slot;

    atomic_store(&slot->control, pc_word_owned(pc_word_of(call->generation - 1, PC_DONE), PC_DONE,
                                               PC_WORKER_HOST, 0));
    atomic_store(&slot->entered, call->generation - 1);
    atomic_store(&slot->sleeper, PC_SLEEPER_NONE);
    atomic_store(&slot->queue, PC_QUEUE_NONE);
    pc_sleeper_init(&slot->semaphore);
}

static void restore_queue(pycrew_crew *crew, unsigned number)
{
    for (uint32_t word = 0; word < crew->segment.config.slots / 64; word++)
        pc_announce_take(&crew->segment, number, word);
    pc_announce_arm(&crew->segment, number);
}

static void enqueue_held(pycrew_crew *crew)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];

        if (!call->held || atomic_load(&call->phase) != PC_PHASE_IN_FLIGHT)
            continue;
        call->held = false;
        pc_call_enqueue_locked(call);
    }
}

/* Bits of the ended calls that nobody has taken yet, and a token for all who may sleep. */
static void tell_all(pycrew_crew *crew)
{
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];
        uint32_t phase = atomic_load(&call->phase);

        if (phase == PC_PHASE_ENDED)
            pc_call_tell(call);
        if (phase != PC_PHASE_UNUSED)
            pc_sleeper_rouse(&call->slot->semaphore);
    }
    for (unsigned i = 0; i < crew->segment.config.queues; i++)
        pc_queue_write(&crew->queues[i]);
    pthread_cond_broadcast(&crew->changed);
}

static void restore(pycrew_crew *crew)
{
    restore_header(crew);
    pc_functions_restore(crew);
    pc_stats_restore(crew);
    pc_memory_restore(crew);
    pc_exports_restore(crew);
    for (uint32_t i = 0; i < crew->segment.config.slots; i++)
        restore_slot(&crew->calls[i]);
    for (unsigned i = 0; i < crew->segment.config.queues; i++)
        restore_queue(crew, i);
    atomic_store(&crew->distrusted, NULL);
    atomic_store(&crew->suspected, false);
    pc_ring_renew(&crew->segment, &crew->tail);
    crew->rebuilding = false;
    enqueue_held(crew);
    tell_all(crew);
}

/* ---- the steps ---- */

static int64_t begin_if_damaged(pycrew_crew *crew, int64_t now)
{
    const char *what = atomic_load(&crew->distrusted);

    if (what == NULL && atomic_load(&crew->suspected)) {
        if (now - crew->audited < PC_LOOK_NS)
            return crew->audited + PC_LOOK_NS;
        atomic_store(&crew->suspected, false);
        what = pc_crew_audit(crew);
    }
    if (what != NULL)
        begin(crew, what);
    return INT64_MAX;
}

int64_t pc_rebuild_run(pycrew_crew *crew, int64_t now)
{
    if (!crew->rebuilding) {
        int64_t next = begin_if_damaged(crew, now);

        if (!crew->rebuilding)
            return next;
    }
    if (!all_dead(crew))
        return INT64_MAX; /* their deaths wake us */
    if (!settle(crew))
        return now + MS;
    pthread_mutex_lock(&crew->lock);
    restore(crew);
    pthread_mutex_unlock(&crew->lock);
    return INT64_MAX;
}
