/* leave: how a worker that is to be replaced comes to its end.
 *
 * It leaves when no call of its is in flight, and no stream that has begun holds it. Until then it leaves the ring's calls
 * to other workers, or there might always be another one, and goes on with those of its own inbox: its streams' and actors'
 * calls may be what others wait for. But an actor's, too, there might always be another one of. So after a second, where no
 * stream holds it, it refuses its inbox as well: this is a *drain*. What stands in the inbox when it leaves ends with it, as all
 * calls of actors do whose worker is replaced.
 *
 * Where a drain makes somebody wait, because there are no other workers or all are busy, or because calls of actors queue up,
 * that must not last for what may take for ever, or waits for a call that is refused. So after a while, its patience, it *serves*
 * again, for eight times as long at least, and then drains anew.
 *
 * It serves until all has ended that was in flight when it began to, and then all that had begun by then. How long
 * that takes is how long calls take that no drain keeps waiting, and so it is the patience of the next drain, up to a minute:
 * a worker whose calls overlap leaves in some three times as long as they take. What lasts over a minute is not waited for,
 * and costs those in the ring a second each time. */
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
