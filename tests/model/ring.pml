/* ring: how calls get to the workers, and how slots are used again (lib/shm/ring.c, slot.h, the
 * free calls and pc_call_requeue in lib/call.c).
 *
 * What is modelled. Two threads of the host submit, a third cancels, waits and releases; two workers
 * claim, run and end; a worker may die at any step, and the supervisor queues its call again or ends
 * it. Each load and each compare-and-swap is a step. Entries hold ticket, slot and the low bit of the
 * generation, so that generations come round after two lives and not after 4,096.
 *
 * Why the split is sound. Nobody sleeps here: who wants an entry waits until there is one at the
 * head, which is what idle.pml shows of the sleepers. Of the control word this needs state, owner,
 * generation, and that it may change while it stays QUEUED (a waiter): slot.pml has the rest. Memory
 * is sequentially consistent: what the ring publishes is released by the stores of slot and entry, in
 * that order, and acquired by who reads them (S1, R1, R2); stores of one process are seen in
 * order, and no step here needs a store to be seen before a later load.
 *
 * What is checked. A life ends once. An entry is never overwritten before the head has passed it. A
 * call is run by who owns it, once for each claim; where the sweep finds entered != generation, that
 * owner has not run it. When nobody can go on, every life has ended and every slot is free. */

#ifndef CALLS
#define CALLS 3 /* lives in all */
#endif
#ifndef LIMIT
#define LIMIT 1 /* calls at a time; as many spares */
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef CANCELS
#define CANCELS 1
#endif
#define WORKERS 2
#define SLOTS (2 * LIMIT)
#define ENTRIES SLOTS
#ifndef GENERATION_MASK
#define GENERATION_MASK 1
#endif

#define NOBODY 9
#define HOST 8

mtype = { FREE, QUEUED, CLAIMED, DONE };

/* the segment */
typedef entry_word { byte ticket; byte slot; byte generation }
entry_word ring[ENTRIES];
byte head = ENTRIES;
typedef control_word { mtype state = FREE; byte owner; byte generation; byte waiter; byte entered }
control_word slot[SLOTS];

/* the host's private records */
byte tail = ENTRIES;
typedef call_record { byte generation = 1; byte ticket; bool in_flight; bool requeued }
call_record call[SLOTS];
bool is_free[SLOTS], is_spare[SLOTS], is_stale[SLOTS];
byte stale_count;
byte lock = NOBODY; /* crew->lock */

/* ghosts */
byte submitted, released, deaths, cancels;
bool has_ended[SLOTS];  /* this life */
bool has_run[SLOTS];    /* this claim's owner entered the function */
bool killed[WORKERS], dead[WORKERS];
bool spared, waited;

#define AT(t) ((t) % ENTRIES)
#define LIVE(s, g) (slot[s].state == QUEUED && (slot[s].generation & GENERATION_MASK) == (g))

/* pc_ring_push; the ring is never full: what was there has been passed */
inline push(t, s, g)
{
    d_step {
        assert(ring[AT(t)].ticket < head); /* the ring is never full */
        ring[AT(t)].ticket = t;
        ring[AT(t)].slot = s;
        ring[AT(t)].generation = g & GENERATION_MASK
    }
}

#define ENTRY_AHEAD(e, s) (ring[e].slot == (s) && ring[e].ticket >= head)
#if SLOTS > 2
#define AHEAD(s) (ENTRY_AHEAD(0, s) || ENTRY_AHEAD(1, s) || ENTRY_AHEAD(2, s) || ENTRY_AHEAD(3, s))
#else
#define AHEAD(s) (ENTRY_AHEAD(0, s) || ENTRY_AHEAD(1, s))
#endif

/* A swap of the control word to DONE. */
inline end_life(s, who)
{
    d_step {
        assert(!has_ended[s]); /* a life ends once */
        has_ended[s] = true;
        slot[s].state = DONE;
        slot[s].owner = who
    }
}

#define AT_HEAD (ring[AT(head)].ticket == head)
#define STALE_AT_HEAD (AT_HEAD && !LIVE(ring[AT(head)].slot, ring[AT(head)].generation))

/* pc_ring_passed, and in it pc_ring_ready, as far as that passes entries. (A host thread that is slow
 * between look, is_live and help_head finds the head elsewhere and does nothing: a worker that is
 * slow there does more harm, and is modelled in its steps.) */
inline look_passed(place, ret)
{
    do
    :: atomic { head <= call[place].ticket && STALE_AT_HEAD -> head++ }
    :: atomic { head > call[place].ticket || !STALE_AT_HEAD -> ret = (head > call[place].ticket); break }
    od
}

/* ---- free calls, in private memory ---- */

/* Under crew->lock: a stale slot that the head has passed is a spare. */
inline sift_stale()
{
    k = 0;
    do
    :: k < SLOTS && is_stale[k] ->
        look_passed(k, passed);
        atomic {
            if
            :: passed -> is_stale[k] = false; is_spare[k] = true
            :: else
            fi;
            passed = false;
            k++
        }
    :: k < SLOTS && !is_stale[k] -> k++
    :: k == SLOTS -> break
    od;
    k = 0
}

inline take_spare(ret)
{
    ret = 0;
    do
    :: ret < SLOTS && !is_spare[ret] -> ret++
    :: ret < SLOTS && is_spare[ret] -> is_spare[ret] = false; break
    :: ret == SLOTS -> ret = NOBODY; break
    od
}

#define MAY_PASS(s) (is_stale[s] && (head > call[s].ticket || STALE_AT_HEAD))

/* take_free: any of those that are free; else pop_owed, which is tried again each 100 ms: here, when
 * it may succeed. */
inline take_free(ret)
{
    skip;
again:
    if
    :: atomic { is_free[0] -> is_free[0] = false; ret = 0 }
    :: atomic { is_free[1] -> is_free[1] = false; ret = 1 }
#if SLOTS > 2
    :: atomic { is_free[2] -> is_free[2] = false; ret = 2 }
    :: atomic { is_free[3] -> is_free[3] = false; ret = 3 }
#endif
    :: atomic { stale_count > 0 && lock == NOBODY && (MAY_PASS(0) || MAY_PASS(1)
#if SLOTS > 2
           || MAY_PASS(2) || MAY_PASS(3)
#endif
        ) -> lock = 1 };
        sift_stale();
        atomic {
            take_spare(ret);
            if
            :: ret != NOBODY -> stale_count--
            :: else
            fi;
            lock = NOBODY
        };
        if
        :: ret == NOBODY -> ret = 0; goto again
        :: else
        fi
    fi
}

/* ---- a thread that submits ---- */

proctype submitter(byte calls)
{
    byte s, t, g, k;
    bool passed;

    do
    :: calls > 0 ->
        take_free(s);
        atomic { t = tail; tail++; call[s].ticket = t }; /* write_request: pc_ring_take_ticket */
        /* pc_call_enqueue: from QUEUED on the call may end and its record be another's */
        atomic {
            g = call[s].generation;
            call[s].in_flight = true;
            has_ended[s] = false;
            has_run[s] = false;
            slot[s].state = QUEUED;
            slot[s].generation = g;
            slot[s].waiter = 0;
            submitted++
        };
#ifdef LATE_TICKET
        atomic { t = call[s].ticket; g = call[s].generation };
#endif
        atomic { push(t, s, g); calls--; s = 0; t = 0; g = 0 }
    :: else -> break
    od
}

/* ---- a thread that cancels, waits and releases ---- */

#define ENDED(s) (call[s].in_flight && slot[s].state == DONE && slot[s].generation == call[s].generation)
#define IS_QUEUED(s) (call[s].in_flight && slot[s].state == QUEUED)

#ifdef REQUEUED_NOT_LOOKED
#define MAY_BE_IN_RING(s) (slot[s].owner == HOST)
#else
#define MAY_BE_IN_RING(s) (slot[s].owner == HOST || call[s].requeued)
#endif

proctype reaper()
{
    byte s, k, spare;
    bool passed;
end:
    do
    /* pycrew_cancel: pc_call_stop of a queued call, under the lock */
    :: atomic { cancels < CANCELS && lock == NOBODY && (IS_QUEUED(0) || IS_QUEUED(1)
#if SLOTS > 2
           || IS_QUEUED(2) || IS_QUEUED(3)
#endif
        ) ->
            if
            :: IS_QUEUED(0) -> s = 0
            :: IS_QUEUED(1) -> s = 1
#if SLOTS > 2
            :: IS_QUEUED(2) -> s = 2
            :: IS_QUEUED(3) -> s = 3
#endif
            fi;
            cancels++;
            end_life(s, HOST);
            s = 0
        }
    /* pc_slot_set_waiter */
    :: atomic { !waited && (IS_QUEUED(0) || IS_QUEUED(1)) ->
            if
            :: IS_QUEUED(0) -> slot[0].waiter++
            :: IS_QUEUED(1) -> slot[1].waiter++
            fi;
            waited = true
        }
    /* pycrew_release: pc_call_reclaim */
    :: atomic {
            if
            :: ENDED(0) -> s = 0
            :: ENDED(1) -> s = 1
#if SLOTS > 2
            :: ENDED(2) -> s = 2
            :: ENDED(3) -> s = 3
#endif
            fi;
            passed = true
        };
        if
        :: MAY_BE_IN_RING(s) -> look_passed(s, passed)
        :: else
        fi;
        atomic { call[s].generation++; call[s].in_flight = false; call[s].requeued = false };
        if
        :: passed -> /* free_push */
            atomic {
#if GENERATION_MASK > 1 /* a claim by an aliased entry may leave one: see ring.h */
                assert(!AHEAD(s)); /* a free slot has no entry ahead of the head */
#endif
                is_free[s] = true;
                released++;
                passed = false;
                s = 0
            }
        :: !passed -> /* free_stale: a spare in its place, if there is one */
            atomic { lock == NOBODY -> lock = 1; is_stale[s] = true; s = 0 };
            sift_stale();
            atomic {
                take_spare(spare);
                if
                :: spare != NOBODY -> is_free[spare] = true
                :: else -> stale_count++
                fi;
                spare = 0;
                released++;
                lock = NOBODY
            }
        fi
    od
}

/* ---- a worker: pc_ring_claim, run_slot ---- */

proctype worker(byte me)
{
    byte h, s, g, w_generation, w_waiter;
    bool won;

life:
    {
        skip;
end_next:
        atomic { AT_HEAD -> h = head }; /* look(): the head ... */
        atomic { /* ... then the entry */
            if
            :: ring[AT(h)].ticket != h -> h = 0; goto end_next
            :: else -> s = ring[AT(h)].slot; g = ring[AT(h)].generation
            fi
        };
#ifdef HEAD_FIRST
        atomic {
            if
            :: head == h -> head++
            :: else -> h = 0; s = 0; g = 0; goto end_next
            fi
        };
#endif
try_slot:
        atomic { /* is_live() */
            if
            :: LIVE(s, g) -> w_generation = slot[s].generation; w_waiter = slot[s].waiter
#ifdef NO_GENERATION_CHECK
            :: !LIVE(s, g) && slot[s].state == QUEUED -> w_generation = slot[s].generation; w_waiter = slot[s].waiter
            :: slot[s].state != QUEUED -> goto help
#else
            :: else -> goto help
#endif
            fi
        };
        atomic { /* pc_slot_claim */
            if
            :: slot[s].state == QUEUED && slot[s].generation == w_generation && slot[s].waiter == w_waiter ->
                slot[s].state = CLAIMED;
                slot[s].owner = me;
                has_run[s] = false;
                won = true
            :: else ->
#ifdef CLAIM_ONCE
                goto help
#else
                goto try_slot
#endif
            fi
        };
help:
        atomic { /* help_head() */
#ifndef HEAD_FIRST
            if
            :: head == h -> head++
            :: else
            fi;
#endif
            h = 0;
            g = 0;
            w_generation = 0;
            w_waiter = 0;
            if
            :: !won -> s = 0; goto end_next
            :: else -> won = false
            fi
        };
        slot[s].entered = slot[s].generation; /* publish_entered */
        atomic {
            assert(slot[s].state == CLAIMED && slot[s].owner == me); /* who runs a call owns it */
            has_run[s] = true
        };
        atomic { /* pc_slot_finish */
            assert(slot[s].state == CLAIMED && slot[s].owner == me); /* who ends a call owns it */
            end_life(s, me);
            s = 0
        };
        goto end_next
    } unless {
        killed[me]
    };
    atomic { h = 0; s = 0; g = 0; w_generation = 0; w_waiter = 0; won = false; dead[me] = true }
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

/* ---- the supervisor: sweep_calls; under crew->lock ---- */

proctype supervisor()
{
    byte w, s, t, g;
    bool passed;
end:
    do
    :: atomic {
            lock == NOBODY && (dead[0] || dead[1]) ->
            if
            :: dead[0] -> w = 0
            :: dead[1] -> w = 1
            fi;
            lock = 1;
            s = 0
        };
        do
        :: s < SLOTS && !(slot[s].state == CLAIMED && slot[s].owner == w) -> s++
        :: s < SLOTS && slot[s].state == CLAIMED && slot[s].owner == w ->
            assert(slot[s].entered == slot[s].generation || !has_run[s]); /* may_have_run is true */
            if
            :: end_life(s, HOST) /* end_died */
            :: /* pc_call_requeue */
#ifndef NO_PASS
                look_passed(s, passed);
#endif
#ifdef LATE_TICKET
                atomic { slot[s].state = QUEUED; call[s].requeued = true };
                atomic { t = tail; tail++; call[s].ticket = t };
                g = call[s].generation;
#else
                atomic { t = tail; tail++; call[s].ticket = t; g = call[s].generation; call[s].requeued = true };
                slot[s].state = QUEUED;
#endif
                atomic {
#if GENERATION_MASK > 1 && DEATHS < 2
                    assert(!AHEAD(s)); /* a slot has one entry ahead of the head at most */
#endif
                    push(t, s, g);
                    t = 0;
                    g = 0;
                    passed = false
                }
            fi
        :: s == SLOTS -> break
        od;
        atomic { killed[w] = false; dead[w] = false; lock = NOBODY; w = 0; s = 0 }
    od
}

proctype watch()
{
    byte s, places;

    timeout ->
        assert(submitted == CALLS && released == CALLS); /* each life has ended, and was given back */
        do
        :: s < SLOTS ->
            assert(!call[s].in_flight); /* all are given back */
            places = places + is_free[s] + is_spare[s] + is_stale[s];
            s++
        :: else -> break
        od;
        assert(places == SLOTS) /* no slot is lost */
}

init
{
    atomic {
        byte p = 0;
        do
        :: p < SLOTS ->
            if
            :: p < LIMIT -> is_free[p] = true
            :: else -> is_spare[p] = true
            fi;
            p++
        :: else -> break
        od;
        run submitter(CALLS - 1);
        run submitter(1);
        run reaper();
        run worker(0);
        run worker(1);
        run supervisor();
        run death();
        run watch()
    }
}
