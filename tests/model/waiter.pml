/* waiter: a worker's two ways to sleep, and its thread that waits for calls while the event loop sleeps
 * (worker/async.c: wait_for_calls, park, unpark, pc_async_serve; idle_awhile() in worker/loop.c).
 *
 * What is modelled. One worker, in its plain loop, asleep on its semaphore, or serving: asleep in the event
 * loop, which an eventfd wakes. Its waiter, there from the first coroutine on, on the same semaphore. A thread of
 * the host that pushes CALLS calls, each a coroutine or a plain function, and posts the worker if it says that it
 * sleeps and was not posted for that sleep. The worker may wake once by itself, as a signal makes it.
 *
 * The machine. Stores of `serving` and `parked` wait in a buffer until a fence, as in idle.pml, where a
 * control leaves the fence out.
 *
 * Why the split is sound. Push, idle bit and last look are idle.pml's, with their fences: here they are steps in that
 * order. Which of several workers is woken is idle.pml's, too; what a turn does beside claims, async.pml's. A death
 * ends both threads at once, and needs nothing of this: the sweep wakes all.
 *
 * What is checked. Some coroutines go on for as long as that helps to break it: they end only when nobody else can
 * go on, and no call is queued then. In the end all have run. */

#ifndef CALLS
#define CALLS 3
#endif

/* shared */
byte queued, semaphore, sleeps, posted;
bool asleep; /* the idle bit */

/* the worker's */
bool serving, has_waiter, wake_fd;
bool parked;
byte quick, slow; /* coroutines */
#define PENDING (quick + slow)

/* ghosts */
byte pushed, ran;
bool woke_by_itself;

/* store buffers: 0, or 1 + the value */
byte pending_serving, pending_parked;

#if defined(NO_FENCE_SERVE) || defined(NO_FENCE_PARK)
#define BUFFERED
#endif
#ifdef BUFFERED
#define SET_SERVING(value) atomic { pending_serving == 0 -> pending_serving = 1 + (value) }
#define SET_PARKED(value) atomic { pending_parked == 0 -> pending_parked = 1 + (value) }

active proctype flush()
{
end:
    do
    :: atomic { pending_serving != 0 -> serving = pending_serving - 1; pending_serving = 0 }
    :: atomic { pending_parked != 0 -> parked = pending_parked - 1; pending_parked = 0 }
    od
}
#else
#define SET_SERVING(value) serving = value
#define SET_PARKED(value) parked = value
#endif

#define SERVING_FENCE (pending_serving == 0)
#define PARKED_FENCE (pending_parked == 0)

/* ---- the host ---- */

proctype host()
{
    byte sleep;

    do
    :: pushed < CALLS ->
        atomic { queued++; pushed++ };
        if /* pc_idle_wake_one */
        :: asleep ->
            sleep = sleeps;
            if
            :: posted != sleep -> semaphore++; posted = sleep
            :: posted == sleep
            fi
        :: !asleep
        fi;
        sleep = 0
    :: pushed == CALLS -> break
    od
}

/* ---- the worker's main thread ---- */

inline claim()
{
    atomic {
        queued > 0 ->
        queued--;
        if
        :: quick++ /* a coroutine */
        :: slow++
        :: ran++
        fi
    }
}

inline announce() /* pc_idle_announce, but for its look */
{
    sleeps++;
    asleep = true
}

active proctype worker()
{
plain:
    do
    :: claim();
        if
        :: PENDING > 0 -> break
        :: PENDING == 0
        fi
    :: queued == 0 ->
        if /* publish() */
        :: !has_waiter || parked -> semaphore = 0 /* pc_sleeper_drain */
        :: has_waiter && !parked
        fi;
        announce();
        if
        :: queued == 0 ->
#ifdef CLEARS_SERVING_LATE
            SET_SERVING(false);
#endif
end_plain:
            if
            :: atomic { semaphore > 0 -> semaphore-- }
            :: atomic { !woke_by_itself -> woke_by_itself = true }
            fi
        :: queued > 0
        fi;
        asleep = false /* pc_idle_retract */
    od;
    /* pc_async_serve */
    has_waiter = true;
    SET_SERVING(true);
#ifndef NO_FENCE_SERVE
    SERVING_FENCE; /* A1 */
#endif
#ifndef UNPARKS_NOT
    atomic { /* unpark() */
        if
        :: parked -> parked = false
        :: else
        fi
    };
#endif
    do
    :: claim() /* work() */
    :: queued == 0 && PENDING == 0 -> break
    :: queued == 0 && PENDING > 0 ->
        announce();
        if
        :: queued == 0 ->
            if
            :: atomic { wake_fd -> wake_fd = false }
            /* a task is ready, and ends */
            :: atomic { quick > 0 -> quick--; ran++ }
            :: atomic { timeout && queued == 0 && slow > 0 -> slow--; ran++ }
            fi
        :: queued > 0
        fi;
        asleep = false
    od;
#ifndef CLEARS_SERVING_LATE
    SET_SERVING(false);
    SERVING_FENCE; /* or the announcement's, before its look */
#endif
    goto plain
}

/* ---- its waiter ---- */

active proctype waiter()
{
end_none:
    has_waiter;
    do
    :: true ->
end_wait:
        atomic { semaphore > 0 -> semaphore-- };
        if
        :: serving -> wake_fd = true
        :: !serving -> /* park() */
            SET_PARKED(true);
#ifndef NO_FENCE_PARK
            PARKED_FENCE; /* A1 */
#endif
            if
#ifndef PARKS_WITHOUT_A_LOOK
            :: serving -> SET_PARKED(false); PARKED_FENCE; wake_fd = true
#endif
#ifdef PARKS_WITHOUT_A_LOOK
            :: true ->
#else
            :: !serving ->
#endif
#ifndef KEEPS_THE_TOKEN
                semaphore++;
#endif
end_parked:
                !parked && pending_parked == 0
            fi
        fi
    od
}

active proctype watch()
{
    timeout ->
        assert(queued == 0); /* no call is left beside a sleeper */
        assert(slow > 0 || (pushed == CALLS && ran == CALLS)) /* all have run */
}

init
{
    run host()
}
