#include "worker/leave.h"

#include "lib/shm/idle.h"
#include "worker/async.h"
#include "worker/loop.h"
#include "worker/object.h"

#define MS ((int64_t)1000 * 1000)
#define PATIENCE_NS (100 * MS) /* with a ring that stands still, */
#define PATIENCE_MAX_NS (1000 * MS)
#define REST_NS (10 * MS)
#define OLD_NS (60 * 1000 * MS)
enum { SERVES = 8 }; /* times its patience, before it tries again */

uint32_t pc_leave_epoch;
unsigned pc_leave_old;

static uint32_t ring_head(const pc_loop *l)
{
    return atomic_load_explicit(&l->worker->segment.header->ring_head, memory_order_relaxed);
}

static void begin_drain(pc_loop *l, int64_t now)
{
    if (l->patience == 0)
        l->patience = PATIENCE_NS;
    l->serves_until = 0;
    l->moved = now;
    l->head = ring_head(l);
}

static void begin_serving(pc_loop *l, int64_t now)
{
    /* Not all at the same times, where several are to leave. */
    l->serves_until = now + (SERVES + l->worker->number % SERVES) * l->patience;
    l->patience = 2 * l->patience < PATIENCE_MAX_NS ? 2 * l->patience : PATIENCE_MAX_NS;
    pc_leave_epoch++;
    pc_leave_old = pc_async_count() + (unsigned)pc_object_streams();
}

/* Whether the ring's calls are left to others for now. */
static bool drains(pc_loop *l)
{
    int64_t now = pc_now();
    uint32_t head = ring_head(l);

    if (l->patience == 0 ||
        (l->serves_until != 0 && now >= l->serves_until &&
         (pc_leave_old == 0 || now - l->serves_until >= OLD_NS))) /* a stream that nobody reads */
        begin_drain(l, now);
    if (l->serves_until != 0)
        return false;
    if (head != l->head || !pc_ring_pending(&l->worker->segment)) {
        l->head = head;
        l->moved = now;
    }
    if (now - l->moved < l->patience)
        return true;
    begin_serving(l, now);
    return false;
}

bool pc_leave_goes_on(pc_loop *l)
{
    if (l->worker->cut_off)
        return false;
    if (pc_async_pending == 0 && (pc_current_call.recycle || !pc_object_holds(pc_now())))
        return false;
    l->leaving = drains(l);
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
