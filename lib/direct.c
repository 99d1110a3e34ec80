/* direct: calls for one incarnation of a worker (lib/shm/inbox.h).
 *
 * Whether a worker's inbox takes calls is decided under its lock, together with the push. So the
 * sweep, once it has closed the inbox, knows all that were addressed to the dead one: they stand in
 * their slots, and it ends them there. Who comes later ends its call itself. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <time.h>

#include "lib/crew.h"
#include "lib/trace.h"

static int fail_not_ready(unsigned worker)
{
    return pc_fail(-EAGAIN, "worker %u is not ready", worker);
}

static bool read_state(pc_host_worker *w, unsigned *incarnation, bool *has_block)
{
    bool open;

    pthread_mutex_lock(&w->lock);
    open = w->inbox_open;
    *incarnation = w->incarnation;
    *has_block = w->inbox.block != 0;
    pthread_mutex_unlock(&w->lock);
    return open;
}

/* The entries' block stays until the crew's end, for all processes of that worker. */
static int make_block(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    uint64_t block;
    int rc = pc_memory_alloc(crew, pc_inbox_size(&crew->segment), &block);

    if (rc < 0)
        return pc_fail(rc, "no shared memory is left for a worker's own calls");
    pthread_mutex_lock(&w->lock);
    if (w->inbox.block == 0) {
        w->inbox.block = block;
        atomic_store_explicit(&crew->segment.workers[worker].inbox, block, memory_order_release);
        block = 0;
    }
    pthread_mutex_unlock(&w->lock);
    pc_memory_free(crew, block);
    return 0;
}

int pc_direct_find(pycrew_crew *crew, unsigned worker, unsigned *incarnation)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    bool has_block;

    if (!read_state(w, incarnation, &has_block))
        return fail_not_ready(worker);
    return has_block ? 0 : make_block(crew, worker);
}

void pc_direct_address(pycrew_call *call, unsigned worker, unsigned incarnation)
{
    atomic_store_explicit(&call->directed, worker + 1, memory_order_relaxed);
    call->incarnation = incarnation;
}

/* ---- the push ---- */

/* What an inbox's renewal asks for; by the slots' words, which are the truth. */
static bool entry_is_live(void *data, uint32_t slot, uint32_t generation)
{
    const pycrew_crew *crew = data;
    uint64_t word = atomic_load_explicit(&crew->calls[slot].slot->control, memory_order_acquire);

    return pc_word_state(word) == PC_DIRECTED && pc_word_generation(word) == generation;
}

static void entry_moved(void *data, uint32_t slot, uint32_t ticket)
{
    const pycrew_crew *crew = data;

    atomic_store_explicit(&crew->calls[slot].ticket, ticket, memory_order_relaxed);
}

/* Under w->lock. The record is not ours alone once the slot is queued: as publish() in call.c. */
static void push(pycrew_call *call, unsigned worker)
{
    pycrew_crew *crew = call->crew;
    pc_host_worker *w = &crew->crew_workers[worker];
    uint32_t generation = call->generation, index = call->index;
    pc_inbox_owner owner = {entry_is_live, entry_moved, crew};

    if (pc_inbox_is_long(&crew->segment, worker, &w->inbox))
        pc_inbox_renew(&crew->segment, worker, &w->inbox, &owner);
    atomic_store_explicit(&call->ticket, w->inbox.tail, memory_order_relaxed);
    pc_call_fill_request(call);
    if (pc_call_kind(call) == PC_KIND_DROP) /* from its beginning, however long it is queued */
        call->slot->deadline = call->timeout_ns;
    pc_slot_direct(call->slot, generation);
    pc_inbox_push(&crew->segment, worker, &w->inbox, index, generation);
    if (__builtin_expect(call->generation == generation, 1))
        atomic_store_explicit(&call->published, generation, memory_order_release);
}

/* False: that process is no more. */
static bool push_if_open(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    unsigned worker = atomic_load_explicit(&call->directed, memory_order_relaxed) - 1;
    pc_host_worker *w = &crew->crew_workers[worker];
    bool open;

    atomic_store_explicit(&call->submitted, pc_now_coarse(), memory_order_relaxed);
    pc_trace_submit(call);
    pthread_mutex_lock(&w->lock);
    open = w->inbox_open && w->incarnation == call->incarnation;
    if (open)
        push(call, worker);
    pthread_mutex_unlock(&w->lock);
    if (open)
        pc_idle_wake_worker(&crew->segment, worker);
    return open;
}

/* ---- calls for who is gone; under crew->lock ---- */

static void describe_death(pycrew_call *call, pc_death *ret)
{
    unsigned worker = atomic_load_explicit(&call->directed, memory_order_relaxed) - 1;
    pc_host_worker *w = &call->crew->crew_workers[worker];

    pthread_mutex_lock(&w->lock);
    *ret = w->death;
    pthread_mutex_unlock(&w->lock);
    if (ret->incarnation == call->incarnation && ret->text[0] != '\0')
        return;
    *ret = (pc_death){0};
    snprintf(ret->text, sizeof ret->text,
             "the process of worker %u that this call was for has ended", worker);
}

static void end_gone(pycrew_call *call)
{
    const char *function = call->function == NULL ? NULL : call->function->name;
    pc_death death;
    pycrew_error *public = &call->host_error.public;

    describe_death(call, &death);
    call->host_ended = true;
    call->host_code = PYCREW_EDIED;
    pc_error_set(&call->host_error, PYCREW_EDIED, pc_text_of(function), pc_text_of(NULL),
                 pc_text_of(death.text), pc_text_of(NULL));
    public->signal = death.signal;
    public->exit_status = death.exit_status;
    public->out_of_memory = death.out_of_memory;
    pc_call_end_regardless(call, PYCREW_EDIED, death.text, false);
}

void pc_direct_enqueue_locked(pycrew_call *call)
{
    if (!push_if_open(call))
        end_gone(call);
}

void pc_direct_enqueue(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    if (__builtin_expect(!atomic_load_explicit(&call->tainted, memory_order_relaxed), 1) &&
        push_if_open(call))
        return;
    pthread_mutex_lock(&crew->lock);
    pc_call_enqueue_locked(call); /* which has words for all that can be */
    pthread_mutex_unlock(&crew->lock);
}

/* ---- a worker's life ---- */

void pc_direct_open(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    pthread_mutex_lock(&w->lock);
    w->inbox_open = true;
    w->objects = 0;
    pthread_mutex_unlock(&w->lock);
}

void pc_direct_close(pycrew_crew *crew, unsigned worker, const pc_death *death)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    pthread_mutex_lock(&w->lock);
    w->inbox_open = false;
    if (death != NULL)
        w->death = *death;
    pthread_mutex_unlock(&w->lock);
}

void pc_direct_reset(pycrew_crew *crew, unsigned worker)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    pthread_mutex_lock(&w->lock);
    pc_inbox_reset(&crew->segment, worker, &w->inbox);
    pthread_mutex_unlock(&w->lock);
}

/* ---- audits ---- */

const char *pc_direct_audit(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    unsigned directed = atomic_load(&call->directed);
    pc_host_worker *w;
    bool there;

    if (directed == 0)
        return "a slot that is queued for one worker, and was not";
    w = &crew->crew_workers[directed - 1];
    pthread_mutex_lock(&w->lock);
    /* A closed one is the sweep's, or the rebuild's. */
    there = !w->inbox_open || pc_inbox_holds(&crew->segment, directed - 1, &w->inbox, call->ticket,
                                             call->index, call->generation);
    pthread_mutex_unlock(&w->lock);
    return there ? NULL : "a queued slot that is not in its worker's inbox";
}

const char *pc_direct_audit_inboxes(pycrew_crew *crew)
{
    bool intact = true;

    for (unsigned i = 0; i < crew->workers && intact; i++) {
        pc_host_worker *w = &crew->crew_workers[i];

        pthread_mutex_lock(&w->lock);
        intact = !w->inbox_open || pc_inbox_intact(&crew->segment, i, &w->inbox);
        pthread_mutex_unlock(&w->lock);
    }
    return intact ? NULL : "a worker's inbox";
}

/* ---- choosing a worker ---- */

/* Several failures in a row, as for the crew (supervisor.c). */
enum { HOPELESS_FAILURES = 3 };

/* Under crew->lock. */
static bool is_hopeless(const pycrew_crew *crew, int worker)
{
    if (worker >= 0)
        return crew->crew_workers[worker].failures >= HOPELESS_FAILURES;
    for (unsigned i = 0; i < crew->workers; i++)
        if (crew->crew_workers[i].failures < HOPELESS_FAILURES)
            return false;
    return true;
}

static int fail_hopeless(int worker)
{
    if (worker < 0)
        return pc_fail(PYCREW_ESTART, "no worker can be started: see the log");
    return pc_fail(PYCREW_ESTART, "worker %d cannot be started: see the log", worker);
}

int pc_direct_await(pycrew_crew *crew, int worker, int64_t until)
{
    int64_t now = pc_now(), at = until - now > PC_LOOK_NS ? now + PC_LOOK_NS : until;
    struct timespec time = {.tv_sec = at / 1000000000, .tv_nsec = at % 1000000000};
    bool hopeless;

    if (now >= until)
        return worker < 0 ? pc_fail(-ETIME, "no worker is ready")
                          : pc_fail(-ETIME, "worker %d is not ready", worker);
    if (atomic_load(&crew->ending) != 0 || atomic_load(&crew->lost))
        return pc_crew_refuse(crew);
    pthread_mutex_lock(&crew->lock);
    hopeless = is_hopeless(crew, worker);
    if (!hopeless)
        pthread_cond_timedwait(&crew->changed, &crew->lock, &time);
    pthread_mutex_unlock(&crew->lock);
    return hopeless ? fail_hopeless(worker) : 0;
}

/* Begins elsewhere each time, so that equals take turns. */
static int least_loaded(pycrew_crew *crew)
{
    unsigned first = atomic_fetch_add_explicit(&crew->next_actor, 1, memory_order_relaxed);
    unsigned least = UINT_MAX;
    int best = -1;

    for (unsigned i = 0; i < crew->workers; i++) {
        unsigned worker = (first + i) % crew->workers;
        pc_host_worker *w = &crew->crew_workers[worker];

        pthread_mutex_lock(&w->lock);
        if (w->inbox_open && w->objects < least) {
            least = w->objects;
            best = (int)worker;
        }
        pthread_mutex_unlock(&w->lock);
    }
    return best;
}

static bool count_in(pycrew_crew *crew, unsigned worker, unsigned incarnation)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    bool open;

    pthread_mutex_lock(&w->lock);
    open = w->inbox_open && w->incarnation == incarnation;
    w->objects += open;
    pthread_mutex_unlock(&w->lock);
    return open;
}

int pc_direct_choose(pycrew_crew *crew, int64_t until, unsigned *worker, unsigned *incarnation)
{
    for (;;) {
        int best = least_loaded(crew), rc;

        rc = best < 0 ? -EAGAIN : pc_direct_find(crew, (unsigned)best, incarnation);
        if (rc == 0 && count_in(crew, (unsigned)best, *incarnation)) {
            *worker = (unsigned)best;
            return 0;
        }
        if (rc < 0 && rc != -EAGAIN)
            return rc;
        if (best < 0 && (rc = pc_direct_await(crew, -1, until)) < 0)
            return rc;
    }
}

void pc_direct_unchoose(pycrew_crew *crew, unsigned worker, unsigned incarnation)
{
    pc_host_worker *w = &crew->crew_workers[worker];

    pthread_mutex_lock(&w->lock);
    if (w->incarnation == incarnation && w->objects > 0)
        w->objects--;
    pthread_mutex_unlock(&w->lock);
}
