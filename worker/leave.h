/* leave: how a worker that is to be replaced comes to its end.
 *
 * It leaves when no call of its is in flight, and no stream that has begun holds it. Until then it leaves the ring's calls
 * to other workers, or there might always be another one, and goes on with those of its own inbox: its streams'
 * and actors'. But where the ring stands still meanwhile, because there are no other workers or all are
 * busy, that must not last for what may take for ever. So it takes calls again, until all have ended that were in flight
 * then; and tries once more, with more patience. A ring call waits a second for this at the worst, rarely. */
#ifndef PC_WORKER_LEAVE_H
#define PC_WORKER_LEAVE_H

#include "worker/run.h"

/* What is in flight is told apart by the epoch that it began in. */
extern uint32_t pc_leave_epoch;
extern unsigned pc_leave_old; /* how much of it began before this one */

/* Something that began in that epoch has ended. */
static inline void pc_leave_note_end(uint32_t epoch)
{
    pc_leave_old -= epoch != pc_leave_epoch;
}

/* Of a worker that is to be replaced (over), or has to (recycle, cut_off): whether it goes on; sets l->leaving. */
bool pc_leave_goes_on(pc_loop *l);

/* Sleeps for a moment, unless there are calls that it takes. */
void pc_leave_rest(pc_loop *l);

#endif
