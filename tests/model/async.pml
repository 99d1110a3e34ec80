/* async: a worker with several calls, coroutines: how one is told to end, and who is blamed for a death
 * (worker/async.c; lib/ladder.c; find_culprit() and what calls it in lib/sweep.c).
 *
 * What is modelled. One worker with two slots, and its successors. Its event loop steps the tasks that are
 * ready; a turn cancels those that are marked, and claims; the interrupt's handler marks, at any moment, also in
 * the middle of a call's code. A call's code may end it, await something that never comes, block the loop
 * until an exception is raised there, or for good; it may end in the turn that claims it, as a function that is no
 * coroutine does; and it may swallow its cancellation. The host submits, cancels, collects and uses slots again. The
 * supervisor tells (stops), interrupts, has one call on the ladder and others behind it, dooms, kills, sweeps.
 *
 * Time. The grace ends when nobody else can do anything, after two more interrupts (`timeout`): so who is killed by then
 * could not be ended otherwise. It may also end once at any moment, as on a machine that is slow. That a call's own
 * deadline is looked at in the worker, too, is left out: it marks the same calls.
 *
 * Why the split is sound. How a call is claimed, waited for and collected is slot.pml's, how the worker is woken
 * idle.pml's and waiter.pml's: here a queued call is seen at once, and an end is one step. Items of chunks have
 * chunk.pml. Sequentially consistent: what the two sides share is told by a signal, which is a fence, or compared with the
 * control word by swaps.
 *
 * What is checked. A task is cancelled, or an exception raised in it, only if its call is to end, and cancelled
 * once. Who is told to end has ended when nobody can go on. Only who blocks the loop or swallows its cancellation is
 * killed, and a kill hits the call it was meant for. The one that is blamed for a death is the one whose code
 * ran, or that was killed; it had not ended; and others are not charged with it. */

#ifndef LIVES
#define LIVES 3 /* calls in all */
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef BLOCKS
#define BLOCKS 1 /* so many steps block the loop */
#endif
#define NAME(s, g) (1 + (s) + 2 * (g))

mtype = { FREE, QUEUED, CLAIMED, DONE };

/* shared */
mtype state[2] = FREE;
byte generation[2];
bool doomed[2];
byte stops[2]; /* 1 + the generation that is to end */
byte running;  /* of the worker's record */
bool signal;

/* the worker's */
bool in_flight[2], marked[2], cancelled[2], swallowed[2], ready[2];
byte mine[2]; /* generations */
bool to_cancel, scheduled, raised;

/* the host's */
bool lock;
bool stop[2];
byte told[2];               /* 1 + the generation */
byte step, step_generation; /* the ladder; 1 + the slot, or 0 */
bool step_more, step_again;

/* ghosts */
byte lives, deaths, blocks;
byte executing; /* 1 + the slot whose code runs; 0: none's */
byte near;      /* whose code is just about to run, or has just */
bool blocked, for_good;
bool killed, dead, spared, hasty;
byte kill_for;  /* 1 + the slot for which we killed */

#define OTHER(s) (1 - (s))
#define PENDING (in_flight[0] || in_flight[1])
#define STILL_RUNS (state[step - 1] == CLAIMED && generation[step - 1] == step_generation)

/* ---- the worker ---- */

#ifdef STOPS_IS_A_FLAG
#define IS_TO_STOP(s) (stops[s] != 0)
#else
#define IS_TO_STOP(s) (stops[s] == 1 + mine[s])
#endif

inline mark(s)
{
    if
    :: in_flight[s] && !marked[s] && IS_TO_STOP(s) -> marked[s] = true; to_cancel = true
    :: else
    fi
}

/* pc_async_interrupt, and the handler in module.c for a call whose code is no task's */
inline handler()
{
    atomic {
        signal = false;
        was_marked = (executing != 0 && marked[executing - 1]);
        mark(0);
        mark(1);
#ifndef NO_WAKE_LOOP
        scheduled = (scheduled || to_cancel);
#endif
        if
        :: executing != 0 && !for_good &&
           ((in_flight[executing - 1] && was_marked && !cancelled[executing - 1] && blocked) ||
            (!in_flight[executing - 1] && IS_TO_STOP(executing - 1))) ->
            assert(stop[executing - 1] && mine[executing - 1] == generation[executing - 1]); /* an exception is raised only in a call that is to end */
            raised = true;
            blocked = false
        :: else
        fi;
        was_marked = false
    }
}

/* The code of a call; ends when that is left. */
inline run_code(s)
{
#ifdef RUNNING_LATE
    executing = 1 + s;
#else
    atomic { executing = 1 + s; near = 1 + s };
#endif
    do
    :: signal -> handler()
    :: atomic { !blocked && !raised && blocks < BLOCKS -> blocks++; blocked = true }
    :: atomic { !blocked && !raised && blocks < BLOCKS -> blocks++; blocked = true; for_good = true }
    :: atomic { !blocked -> break }
    od
}

/* Of both kinds of steps: nothing of it runs from here on. */
inline leave_code()
{
    executing = 0
}

inline say_running(s)
{
    atomic { running = NAME(s, mine[s]); near = 1 + s }
}

inline say_nothing_runs()
{
    atomic { running = 0; near = 0 }
}

/* pc_loop_finish */
inline finish(s)
{
    atomic {
        if
        :: state[s] == CLAIMED && generation[s] == mine[s] && !doomed[s] -> state[s] = DONE
        :: else -> goto await_death
        fi
    }
}

/* cancel_marked */
inline cancel(s)
{
    if
#ifdef CANCELS_EACH_TURN
    :: in_flight[s] && marked[s] ->
#else
    :: in_flight[s] && marked[s] && !cancelled[s] ->
#endif
        assert(stop[s] && mine[s] == generation[s]); /* a task is cancelled only if its call is to end */
        assert(!cancelled[s]); /* a task is cancelled once */
        cancelled[s] = true;
        ready[s] = true
    :: else
    fi
}

/* run_next, pc_async_start */
inline claim(s)
{
    if
    :: atomic { state[s] == QUEUED -> state[s] = CLAIMED; mine[s] = generation[s]; beside = PENDING };
        if
        :: beside -> say_running(s)
        :: !beside
        fi;
        run_code(s);
        if
        :: atomic { raised || true -> raised = false; leave_code() }; /* it ends in this */
            finish(s)
        :: atomic { !raised -> leave_code(); in_flight[s] = true; ready[s] = true }
        fi;
        if
        :: beside -> say_nothing_runs()
        :: !beside -> near = 0
        fi;
        beside = false
    :: state[s] != QUEUED
    fi
}

/* call_am_send, call_throw */
inline step_task(s)
{
    atomic {
        in_flight[s] && ready[s];
        is_cancelled = cancelled[s]
    };
#ifndef RUNNING_LATE
    say_running(s);
#endif
    run_code(s);
#ifdef RUNNING_LATE
    say_running(s);
#endif
    leave_code();
#ifndef RUNNING_STAYS
    say_nothing_runs();
#else
    near = 0;
#endif
    if
    :: atomic { !is_cancelled && !raised -> ready[s] = false } /* awaits what never comes */
    :: atomic { is_cancelled && !raised -> ready[s] = false; swallowed[s] = true }
    :: atomic { true -> raised = false; in_flight[s] = false; ready[s] = false; marked[s] = false; cancelled[s] = false;
                swallowed[s] = false }; /* pc_async_leave */
        finish(s)
    fi;
    is_cancelled = false
}

proctype worker()
{
    bool was_marked, beside, is_cancelled;

life:
    {
        skip;
end_loop:
        do
        :: signal -> handler()
        :: atomic { scheduled || state[0] == QUEUED || state[1] == QUEUED -> scheduled = false };
            if
            :: atomic { to_cancel -> to_cancel = false; cancel(0); cancel(1) }
            :: !to_cancel
            fi;
            claim(0);
            claim(1)
        :: in_flight[0] && ready[0] -> step_task(0)
        :: in_flight[1] && ready[1] -> step_task(1)
        od;
await_death:
        killed
    } unless {
        killed
    };
    atomic { was_marked = false; beside = false; is_cancelled = false; dead = true };
    atomic { !dead -> goto life }
}

proctype death()
{
end:
    do
    :: atomic { !spared && deaths < DEATHS && !killed && !dead -> killed = true; deaths++ }
    :: !spared -> spared = true
    od
}

/* ---- a caller of each slot ---- */

proctype caller(byte s)
{
    do
    :: atomic { state[s] == FREE && lives < LIVES -> lives++; stop[s] = false; state[s] = QUEUED }
    :: atomic { !stop[s] && state[s] != FREE && state[s] != DONE && !lock -> /* pycrew_cancel */
            stop[s] = true;
            if
            :: state[s] == QUEUED -> state[s] = DONE
            :: else
            fi
        }
    :: atomic { state[s] == DONE -> generation[s]++; state[s] = FREE; doomed[s] = false } /* pc_call_reclaim */
    :: atomic { state[s] == FREE && lives == LIVES -> break }
    od
}

/* ---- the supervisor ---- */

#define WAITS(s) (stop[s] && told[s] == 1 + generation[s] && state[s] == CLAIMED)

inline tell(s) /* begin() */
{
    atomic {
        !lock && !dead && stop[s] && state[s] == CLAIMED && told[s] != 1 + generation[s] ->
        lock = true;
        seen = 1 + generation[s]
    };
    told[s] = seen;
    stops[s] = seen;
    atomic {
        if
        :: step != 0 && STILL_RUNS && step != 1 + s -> step_more = true; step_again = true
        :: else ->
            step = 1 + s;
            step_generation = seen - 1;
            resent = 0;
            signal = true
        fi;
        seen = 0;
        lock = false
    }
}

inline take_next()
{
    step = 0;
    step_generation = 0;
    step_again = false;
    resent = 0;
#ifndef FORGETS_WHO_WAITS
    if
    :: step_more && WAITS(0) -> step = 1; step_generation = generation[0]; signal = true
    :: step_more && WAITS(1) -> step = 2; step_generation = generation[1]; signal = true
    :: else
    fi;
#endif
    step_more = false
}

/* pc_slot_doom, then the kill */
inline doom()
{
#ifndef KILL_WITHOUT_DOOM
    atomic {
        if
        :: STILL_RUNS -> doomed[step - 1] = true
        :: else -> take_next(); goto unlock
        fi
    };
#endif
    atomic {
        if
        :: !killed && !dead ->
            assert(STILL_RUNS && mine[step - 1] == step_generation); /* a kill hits the call it was meant for */
            killed = true;
            kill_for = step
        :: else
        fi;
        goto unlock
    }
}

inline sweep_call(s)
{
    if
    :: state[s] == CLAIMED ->
        assert(executing == 0 || culprit == executing || state[OTHER(s)] != CLAIMED); /* who is blamed is who ran */
        assert(culprit == 1 + s || culprit != 0 || kill_for == 0 || kill_for == 1 + s); /* who is charged had a part in it */
        if
        :: !stop[s] -> state[s] = QUEUED
        :: true -> state[s] = DONE
        fi;
        doomed[s] = false
    :: else
    fi
}

proctype supervisor()
{
    byte seen, resent, culprit;

end:
    do
    :: tell(0)
    :: tell(1)
    :: atomic { step != 0 && !lock && !dead && step_again && STILL_RUNS -> step_again = false; signal = true }
    :: atomic { step != 0 && !lock && !STILL_RUNS && !dead -> take_next() }
    :: atomic { timeout && step != 0 && !lock && !dead && !killed && STILL_RUNS && resent < 2 -> resent++; signal = true }
    :: atomic { timeout && step != 0 && !lock && !dead && !killed && STILL_RUNS && resent == 2 ->
            assert(blocked || swallowed[step - 1]); /* who only awaits is cancelled, and not killed */
            lock = true
        };
        doom()
    :: atomic { step != 0 && !lock && !dead && !killed && !hasty && STILL_RUNS -> hasty = true; lock = true };
        doom()
    :: atomic { dead && !lock -> lock = true };
        atomic { /* pc_sweep: find_culprit */
            culprit = 0;
            if
#ifdef BELIEVES_RUNNING
            :: running != 0 -> culprit = 1 + (running - 1) % 2
#else
            :: running != 0 && state[(running - 1) % 2] == CLAIMED &&
               generation[(running - 1) % 2] == (running - 1) / 2 -> culprit = 1 + (running - 1) % 2
#endif
#ifndef NO_CULPRIT_OF_THE_LADDERS
            :: else ->
                culprit = ((kill_for != 0 && state[kill_for - 1] == CLAIMED) -> kill_for : 0)
#else
            :: else
#endif
            fi;
            assert(culprit == 0 || state[culprit - 1] == CLAIMED); /* who is blamed had not ended */
            assert(culprit == 0 || culprit == near || culprit == kill_for); /* who only awaits is not blamed */
            sweep_call(0);
            sweep_call(1)
        };
        atomic { /* pc_ladder_forget; reset_record, and the worker's own memory is gone */
            culprit = 0;
            step = 0; step_generation = 0; step_more = false; step_again = false; resent = 0;
            told[0] = 0; told[1] = 0;
#ifndef RUNNING_NOT_RESET
            running = 0;
#endif
            signal = false; scheduled = false; to_cancel = false; raised = false;
            in_flight[0] = false; marked[0] = false; cancelled[0] = false; swallowed[0] = false; ready[0] = false;
            in_flight[1] = false; marked[1] = false; cancelled[1] = false; swallowed[1] = false; ready[1] = false;
            executing = 0; near = 0; blocked = false; for_good = false; kill_for = 0;
            killed = false;
            dead = false
        };
unlock:
        lock = false
    od
}

proctype watch()
{
    timeout ->
        assert(step != 0 || (lives == LIVES && state[0] == FREE && state[1] == FREE && !lock)) /* who is told to end has ended */
}

init
{
    atomic {
        run worker();
        run caller(0);
        run caller(1);
        run supervisor();
        run death();
        run watch()
    }
}
