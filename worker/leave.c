#include "worker/leave.h"

#include "lib/shm/idle.h"
#include "lib/shm/inbox.h"
#include "worker/async.h"
#include "worker/loop.h"
#include "worker/object.h"

#define MS ((int64_t)1000 * 1000)
#define PATIENCE_NS (100 * MS)        /* of the first drain; */
#define PATIENCE_BLIND_NS (1000 * MS) /* and at most, where nothing shows how long it should be */
#define OWN_NS (1000 * MS)            /* for which the inbox is not refused */
#define REST_NS (10 * MS)
#define OLD_NS (60 * 1000 * MS)
enum { SERVES = 8 }; /* times its patience, before it tries again */

uint32_t pc_leave_epoch;
unsigned pc_leave_old;

static int64_t lesser(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

static void begin_drain(pc_loop *l, int64_t now)
{
    l->leave.serves_until = 0;
    l->leave.ring_moved = l->leave.own_moved = now;
}

/* What may go on for ever tells nothing. */
static int64_t next_patience(const struct pc_leave *leave)
{
    int64_t doubled = lesser(2 * leave->patience, PATIENCE_BLIND_NS);
    int64_t enough = (leave->ended - leave->serves_since) / 4 * 5;

    return leave->generations < 2 || enough < doubled ? doubled : lesser(enough, OLD_NS);
}

static void begin_epoch(void)
{
    pc_leave_epoch++;
    pc_leave_old = pc_async_count() + (unsigned)pc_object_streams();
}

static void begin_serving(pc_loop *l, int64_t now, bool ring)
{
    struct pc_leave *leave = &l->leave;

    /* Not all at the same times, where several are to leave. */
    leave->serves_until = now + (SERVES + l->worker->number % SERVES) * leave->patience;
    leave->serves_since = now;
    leave->serves_ring = ring;
    leave->generations = 0;
    begin_epoch();
}

static void look_at_waiting(pc_loop *l, int64_t now)
{
    pc_segment *segment = &l->worker->segment;
    uint32_t head = atomic_load_explicit(&segment->header->ring_head, memory_order_relaxed);

    if (head != l->leave.head || !pc_ring_pending(segment))
        l->leave.ring_moved = now;
    if (!l->refuses || !pc_inbox_has(segment, l->worker->number))
        l->leave.own_moved = now;
    l->leave.head = head;
}

/* First those of before it served again; then those that began in the meantime, whom no drain kept
 * waiting. */
static void look_at_generations(struct pc_leave *leave, int64_t now)
{
    if (pc_leave_old > 0 || leave->generations == 2)
        return;
    leave->generations++;
    leave->ended = now;
    if (leave->generations == 1)
        begin_epoch();
}

static void serve(pc_loop *l, int64_t now)
{
    struct pc_leave *leave = &l->leave;

    look_at_generations(leave, now);
    leave->serves_ring |= now - leave->ring_moved >= lesser(leave->patience, PATIENCE_BLIND_NS);
    if (now < leave->serves_until)
        return;
    if (leave->generations < 2 &&
        now - leave->serves_until < OLD_NS) /* a stream that nobody reads */
        return;
    leave->patience = next_patience(leave);
    begin_drain(l, now);
}

static void drain(pc_loop *l, int64_t now)
{
    const struct pc_leave *leave = &l->leave;
    bool ring = now - leave->ring_moved >= leave->patience;

    if (ring || now - leave->own_moved >= leave->patience)
        begin_serving(l, now, ring);
}

/* After an interrupt it waits for none. */
static bool streams_hold(int64_t now)
{
    return !pc_current_call.recycle && pc_object_holds(now);
}

/* Which calls are left to others, or to the worker's end, for now. */
static void choose(pc_loop *l)
{
    struct pc_leave *leave = &l->leave;
    int64_t now = pc_now();
    bool drains;

    if (leave->patience == 0) {
        leave->patience = PATIENCE_NS;
        leave->over_since = now;
        begin_drain(l, now);
    }
    look_at_waiting(l, now);
    if (leave->serves_until != 0)
        serve(l, now);
    else
        drain(l, now);
    drains = leave->serves_until == 0;
    l->leaving = drains || !leave->serves_ring;
    l->refuses = drains && now - leave->over_since >= OWN_NS && !streams_hold(now);
}

bool pc_leave_goes_on(pc_loop *l)
{
    if (l->worker->cut_off)
        return false;
    if (pc_async_pending == 0 && !streams_hold(pc_now()))
        return false;
    choose(l);
    return true;
}

void pc_leave_rest(pc_loop *l)
{
    pc_worker *worker = l->worker;
    pc_segment *segment = &worker->segment;
    bool may_sleep;

    pc_run_take_back(worker);
    pc_loop_answer_shortage(l);
    if (l->leaving && pc_ring_pending(segment)) /* we may have been woken for it */
        pc_idle_wake_one(segment);
    may_sleep = l->leaving ? pc_idle_announce_own(segment, worker->number)
                           : pc_idle_announce(segment, worker->number);
    if (may_sleep)
        pc_loop_sleep(worker, pc_now() + REST_NS);
    pc_idle_retract(segment, worker->number);
}
