/* slot: the lives of one slot (lib/shm/slot.c; lib/call.c, lib/sweep.c, lib/ladder.c; worker/loop.c).
 *
 * What is modelled. The control word with generation, owner, DOOMED, WAITER count and state; entered,
 * sleeper, queue and semaphore of the slot; phase, generation, stop and released of the host's
 * private record; crew->lock. Two threads of the host make LIVES calls in all: each submits, then
 * waits, or gives up waiting, or cancels, and releases, before its end or after. The supervisor
 * keeps deadlines, dooms and kills, sweeps, and gives back what was released. Two workers claim, run
 * and end; they may die at any step. Each load, store and compare-and-swap is a step; several words
 * that the code reads or swaps as one are one.
 *
 * Why the split is sound. All that two calls share is the ring, workers' sleep and queues: ring.pml,
 * idle.pml, announce.pml. A slot's words belong to one call at a time, and what can go wrong between
 * calls goes wrong between lives of one slot. Here a worker sees a QUEUED slot without the ring; one
 * that was slow since it looked is one that loads the word now and swaps it later. The supervisor's
 * own queue is a bit that it sees (announce.pml). Sequentially consistent: the pairs S and W are
 * release and acquire of the words that carry the data, with no store before a load of another word
 * that matters: where two processes meet, they meet in a compare-and-swap of the control word.
 *
 * What is checked. A life ends once, is collected once, after its end and before its release, and
 * given back. Entered tells the truth. A kill hits the call it was meant for. Nothing of a slot is
 * read by who does not own it. When nobody can go on, all lives have ended, no thread waits, no
 * worker is doomed, and the slot is free. */

#ifndef LIVES
#define LIVES 3
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define WORKERS 2
#define HOST 8

mtype = { FREE, QUEUED, CLAIMED, DONE };                       /* pc_state */
mtype:phase = { UNUSED, IN_FLIGHT, COLLECTING, HAS_ENDED }; /* pc_phase */

/* the slot */
mtype state = FREE;
byte owner, generation, waiter; /* of the control word */
bool doomed;
byte entered;
bool sleeper;          /* the slot's own semaphore is to be posted */
bool queue;            /* the supervisor's; else none */
bool semaphore;        /* one token is as good as two: it says "look again" */

/* the host's */
mtype:phase phase = UNUSED;
byte call_generation = 1;
bool stop, released, published, has_deadline;
byte deaths_running;
bool lock;            /* crew->lock */
bool announced;              /* in the supervisor's queue */
bool is_free = true;
byte step_generation, step_worker; /* the ladder; 0: not on it */

/* ghosts */
byte lives, deaths;
bool ended, collected, ran; /* this life */
byte holds[WORKERS];        /* the generation that is a worker's; 0: none */
byte request_life = 1;      /* whose words the request's lines are */
bool killed[WORKERS], dead[WORKERS], waits_for_death[WORKERS];
bool spared;

/* What threatens a life is what its predecessor left behind: the last one need only be there. */
#ifndef MANY_WAYS
#define MANY_WAYS (LIVES == 1 || lives < LIVES)
#endif

#define IS_CLAIMED_BY(w) (state == CLAIMED && owner == (w) && generation == call_generation)

/* A swap of the control word to DONE. */
inline end_life(who)
{
    assert(!ended && generation == call_generation); /* a life ends once */
    ended = true;
    state = DONE;
    owner = who
}

/* pc_slot_set_waiter; ok: the call has not ended */
inline set_waiter()
{
    atomic { /* a loop of load and swap; it ends when nobody came between */
        if
        :: generation != call_generation || state == DONE || state == FREE -> ok = false
        :: else ->
            ok = true;
#ifdef WAITER_IS_A_FLAG
            waiter = 1
#else
            waiter = (waiter == 3 -> 1 : waiter + 1) /* two bits */
#endif
        fi
    }
}

/* pc_call_tell */
inline tell()
{
    if
    :: atomic { told_sleeper -> semaphore = true; told_sleeper = false }
    :: !told_sleeper
    fi;
    if
    :: atomic { told_queue -> announced = true; told_queue = false }
    :: !told_queue
    fi
}

/* pc_call_end_by_host: one try, the word being as it is now; ok: it has ended */
inline end_by_host(from)
{
    atomic { /* load_word; read_ending: a change of what that reads changes the word */
        word_waiter = waiter;
        ok = (state == from);
        told_queue = queue;
        told_sleeper = (word_waiter != 0 && sleeper)
    };
    atomic { /* the swap */
        ok = (ok && state == from && generation == call_generation && waiter == word_waiter);
        if
        :: ok ->
            assert(!ran || deaths_running > 0); /* may_have_run is true */
            end_life(HOST)
        :: else -> told_queue = false; told_sleeper = false
        fi;
        word_waiter = 0
    };
    if
    :: ok -> tell()
    :: else
    fi
}

/* pc_call_stop, under the lock */
inline stop_call()
{
    stop = true;
    do
    :: state == QUEUED ->
        end_by_host(QUEUED);
        if
        :: ok -> break
        :: else
        fi
    :: state != QUEUED -> break /* CLAIMED: a command to the supervisor; DONE: it has ended */
    od
}

/* pc_call_collect; ok: it has ended */
inline collect()
{
    skip;
look:
    atomic { ok = (state == DONE); seen_generation = generation }; /* load_word */
    atomic { /* is_done */
#ifdef NO_GENERATION_CHECK
        if
        :: ok -> seen_generation = 0
#else
        if
        :: ok && seen_generation == call_generation -> seen_generation = 0
#endif
        :: else -> seen_generation = 0; ok = (phase == HAS_ENDED); goto collected_or_not
        fi
    };
    atomic {
        if
        :: phase == IN_FLIGHT -> phase = COLLECTING
        :: else -> goto another
        fi
    };
#ifndef NO_SECOND_LOAD
    atomic { /* only the word as it is now belongs to the phase just won */
        if
#ifdef NO_GENERATION_CHECK
        :: state == DONE
#else
        :: state == DONE && generation == call_generation
#endif
        :: else -> phase = IN_FLIGHT; goto look
        fi
    };
#endif
    atomic {
        assert(ended && !collected && state == DONE); /* collected once, after its end */
        collected = true
    };
    if
    :: owner == HOST || has_deadline -> /* collect_from_host, remove_deadline */
        atomic { !lock -> has_deadline = false }
    :: else
    fi;
    atomic { phase = HAS_ENDED; ok = true; goto collected_or_not };
another:
    phase != COLLECTING; /* await_collected */
    atomic {
        if
        :: phase == IN_FLIGHT -> goto look
        :: else -> ok = (phase == HAS_ENDED)
        fi
    };
collected_or_not:
    skip
}

/* pc_call_reclaim */
inline reclaim()
{
    atomic { /* it has ended, and nobody is at it */
        assert(phase == HAS_ENDED && ended && collected); /* given back after its end, nobody at it */
        call_generation++
    };
    atomic { phase = UNUSED; is_free = true; sleeper = false; waiter = 0 } /* free_push */
}

/* ---- a thread of the host ---- */

proctype caller(byte me)
{
    bool ok, told_queue, told_sleeper, drops, may_give_up, locks;
    byte seen_generation, word_waiter;

    do
    :: atomic { is_free && lives < LIVES ->
        is_free = false; /* pc_call_prepare */
        lives++;
        request_life = lives;
        ended = false;
        collected = false;
        ran = false;
        stop = false;
        released = false;
        published = false;
        deaths_running = 0;
        queue = false; /* pycrew_submit: write_request */
        phase = IN_FLIGHT
       };
        if /* with a deadline under the lock until it is queued */
        :: true
        :: atomic { MANY_WAYS && !lock -> lock = true; has_deadline = true; locks = true }
        fi;
        atomic { /* pc_slot_queue */
            state = QUEUED;
            owner = 0;
            generation = call_generation;
            waiter = 0;
            doomed = false;
            if
            :: locks -> lock = false; locks = false
            :: else
            fi
        };
        if
        :: true /* pycrew_wait */
        :: atomic { MANY_WAYS -> may_give_up = true } /* pycrew_wait with a timeout, pycrew_release */
        :: atomic { MANY_WAYS -> drops = true } /* pycrew_release */
        :: atomic { MANY_WAYS && !lock -> lock = true }; /* pycrew_cancel, pycrew_wait */
            stop_call();
            lock = false
        fi;
again:
#ifdef RELEASE_IGNORES_COLLECTING
        if
        :: drops && phase != IN_FLIGHT -> goto give_back
        :: else
        fi;
#endif
        collect();
        if
        :: ok -> goto give_back
        :: !ok && drops -> /* release_in_flight */
            atomic { !lock -> lock = true; released = true };
            atomic { sleeper = false; queue = true }; /* the word says that they changed */
            set_waiter();
            if
            :: ok -> stop_call(); atomic { lock = false; goto let_go }
            :: else -> atomic { released = false; lock = false; goto again }
            fi
        :: else -> /* sleep_until_ended */
            semaphore = false; /* pc_sleeper_drain */
            if
            :: !published -> /* pc_call_publish_sleeper */
                sleeper = true;
                set_waiter(); /* W1 */
                if
                :: ok -> published = true
                :: else -> goto again
                fi
            :: else
            fi;
            do
            :: atomic { state == DONE && generation == call_generation -> break }
            :: state != DONE ->
                if
                :: atomic { semaphore -> semaphore = false }
                :: atomic { may_give_up -> may_give_up = false; drops = true; break }
                fi
            od;
            goto again
        fi;
give_back:
        reclaim();
let_go:
        atomic { drops = false; may_give_up = false; ok = false }
    :: atomic { lives == LIVES -> break }
    od
}

/* ---- a worker ---- */

proctype worker(byte me)
{
    bool ok, told_queue, told_sleeper;
    byte word_generation, word_waiter;

life:
    {
        skip;
end_next:
        atomic { state == QUEUED -> word_generation = generation; word_waiter = waiter }; /* is_live */
        atomic { /* pc_slot_claim */
            if
            :: state == QUEUED && generation == word_generation && waiter == word_waiter ->
                state = CLAIMED;
                owner = me;
                holds[me] = generation
            :: else -> word_generation = 0; word_waiter = 0; goto end_next /* looks again: is_live */
            fi
        };
#ifdef ENTERED_LATE
        ran = true;
        entered = word_generation;
#else
        entered = word_generation; /* publish_entered */
        ran = true;                /* the function */
#endif
        /* pc_slot_finish */
swap_again:
#ifndef READ_AFTER_DONE
        atomic { /* read_ending: the lines are still this call's; a change changes the word */
            assert(request_life == word_generation); /* nothing of a slot is read after its end */
            told_queue = queue;
            told_sleeper = (word_waiter != 0 && sleeper)
        };
#endif
        atomic { /* the swap of the very word */
            if
            :: doomed -> waits_for_death[me] = true /* await_death */
#ifdef WAITER_NOT_SEEN
            :: !doomed ->
#else
            :: !doomed && waiter == word_waiter ->
#endif
                assert(IS_CLAIMED_BY(me)); /* who ends a call owns it */
                end_life(me);
                holds[me] = 0
#if !defined(WAITER_NOT_SEEN)
            :: !doomed && waiter != word_waiter -> word_waiter = waiter; goto swap_again
#endif
            fi;
#ifndef READ_AFTER_DONE
            word_generation = 0;
            word_waiter = 0;
            if
            :: !told_sleeper && !told_queue && !waits_for_death[me] -> goto end_next
            :: else
            fi
#endif
        };
        !waits_for_death[me];
#ifdef READ_AFTER_DONE
        atomic {
            assert(request_life == word_generation); /* nothing of a slot is read after its end */
            told_queue = queue;
            told_sleeper = (word_waiter != 0 && sleeper);
            word_generation = 0;
            word_waiter = 0
        };
#endif
        atomic { /* tell() */
            if
            :: told_sleeper -> semaphore = true; told_sleeper = false
            :: else
            fi;
            if
            :: !told_queue -> goto end_next
            :: else
            fi
        };
        atomic { announced = true; told_queue = false; goto end_next }
    } unless {
        killed[me]
    };
    atomic {
        ok = false;
        told_queue = false;
        told_sleeper = false;
        word_generation = 0;
        word_waiter = 0;
        waits_for_death[me] = false;
        dead[me] = true
    }
    atomic { !dead[me] -> goto life }
}

proctype death()
{
end:
    do
    :: atomic { !spared && deaths < DEATHS && !killed[0] -> killed[0] = true; deaths++ }
    :: atomic { !spared && deaths < DEATHS && !killed[1] -> killed[1] = true; deaths++ }
    :: !spared -> spared = true
    od
}

/* ---- the supervisor ---- */

#define STILL_RUNS (state == CLAIMED && owner == step_worker && generation == step_generation)

proctype supervisor()
{
    bool ok, told_queue, told_sleeper, sweeps, kept_queue, kept_sleeper, was_entered;
    byte seen_generation, word_waiter, w;

    goto end_next;
do_collect:
    collect();
    if
    :: sweeps ->
        if
        :: ok -> /* keep_answers: its end is announced again */
#ifndef SWEEP_ANNOUNCES_NOT
            told_queue = kept_queue;
            told_sleeper = kept_sleeper;
            tell();
#endif
            skip
        :: else
        fi;
        goto sweep_calls
    :: else -> /* reclaim_word */
        if
        :: ok -> reclaim()
        :: else
        fi;
        ok = false
    fi;
end_next:
    do
    /* pc_call_reclaim_released */
    :: atomic { announced && !lock ->
            announced = false;
            ok = (released && state == DONE && generation == call_generation);
            if
            :: ok -> released = false; goto do_collect
            :: else
            fi
        }
    /* run_deadlines */
    :: atomic { has_deadline && !lock -> lock = true; has_deadline = false };
        stop_call();
        lock = false
    /* run_commands: begin(), interrupt; a claimed call with `stop` has had its command */
    :: atomic { step_generation == 0 && stop && state == CLAIMED && generation == call_generation && !lock ->
            step_worker = owner;
            step_generation = generation
        }
    /* run_steps: after the grace and the stack, doom and kill */
    :: atomic { step_generation != 0 && !lock -> lock = true };
        if
        :: STILL_RUNS
        :: !STILL_RUNS -> goto forget
        fi;
#ifndef KILL_WITHOUT_DOOM
        atomic { /* pc_slot_doom */
            if
            :: STILL_RUNS -> doomed = true
            :: else -> goto forget
            fi
        };
#endif
        atomic {
            if
            :: !dead[step_worker] && !killed[step_worker] ->
                assert(holds[step_worker] == step_generation); /* a kill hits the call it was meant for */
                killed[step_worker] = true
            :: else
            fi
        };
forget:
        atomic { step_generation = 0; step_worker = 0; lock = false }
    /* pc_sweep */
    :: atomic { dead[0] || dead[1] ->
            if
            :: dead[0] -> w = 0
            :: dead[1] -> w = 1
            fi;
            sweeps = true
        };
        atomic { /* keep_answers */
            if
            :: state == DONE && owner == w && generation == call_generation
            :: else -> goto sweep_calls
            fi
        };
        kept_sleeper = sleeper;
        kept_queue = queue;
        goto do_collect;
sweep_calls:
        atomic { !lock -> lock = true; kept_sleeper = false; kept_queue = false; sweeps = false; ok = false };
        if
        :: IS_CLAIMED_BY(w) ->
            was_entered = (entered == call_generation);
            assert(was_entered || !ran || deaths_running > 0); /* entered != generation: it has not run */
            atomic { deaths_running = (was_entered && deaths_running == 0 -> 1 : deaths_running) };
            if
            :: !stop && (!was_entered || true) -> /* pc_call_requeue, by retries or as not entered */
                atomic { state = QUEUED; owner = 0; doomed = false } /* WAITER is kept */
            :: stop || was_entered -> /* end_stopped, end_died */
                do
                :: !ok -> end_by_host(CLAIMED)
                :: ok -> break
                od
            fi
        :: !IS_CLAIMED_BY(w)
        fi;
        atomic {
            was_entered = false;
            ok = false;
            lock = false;
            if
            :: step_generation != 0 && step_worker == w -> step_generation = 0; step_worker = 0 /* pc_ladder_forget */
            :: else
            fi;
            holds[w] = 0;
            killed[w] = false;
            dead[w] = false;
            w = 0
        }
    od
}

proctype watch()
{
    timeout ->
        assert(lives == LIVES && is_free && phase == UNUSED && !lock); /* all came to their end */
        assert(!waits_for_death[0] && !waits_for_death[1]) /* who is doomed is killed */
}

init
{
    atomic {
        run caller(0);
        run caller(1);
        run worker(0);
        run worker(1);
        run supervisor();
        run death();
        run watch()
    }
}
