/* inbox: calls for one worker (lib/shm/inbox.c, lib/direct.c; claim() in worker/loop.c, the directed
 * calls of lib/sweep.c).
 *
 * What is modelled. Host threads push calls for the worker's present process and wake it; one
 * of them may cancel calls that are queued; where the inbox is long it is renewed. The worker claims,
 * runs, publishes that it sleeps, sleeps; it dies at any step, is swept, and replaced by the next
 * process, for which the same inbox is emptied. Each load, each store, each post is a step.
 *
 * The machine. The tail and the unlock behind it wait in the pushing thread's buffer, and the idle bit
 * in the worker's, until a fence; so does x86 at most. Entries reach memory at once: the worker knows
 * of them by the tail alone.
 *
 * Why the split is sound. The ring and its wakes are idle.pml's: woken for the one a worker looks at
 * both, and hands on. `posted` and the number of the sleep spare posts and are idle.pml's too: here
 * each look that finds the idle bit posts. How an end is told is slot.pml's. A slot's next life
 * has another generation, all of which is in the entry, so each call is a slot of its own here.
 *
 * What is checked. Each call ends once; none stays queued when nobody can step; calls run in the
 * order of their submit, and in the process that they were for. */

#ifndef HOSTS
#define HOSTS 1
#endif
#ifndef CALLS
#define CALLS 5 /* of each host thread */
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define ALL (HOSTS * CALLS)
#ifndef LIVE
#define LIVE 2 /* calls in flight at most, of all threads, and that which is pushed */
#endif
#define LONG 4 /* entries, as many as there are slots */
#define PLACES (2 * LONG)

#define FREE 0
#define DIRECTED 1
#define CLAIMED 2
#define DONE 3

/* shared */
byte state[ALL];
byte entries[PLACES]; /* call + 1 */
byte head, tail;
bool idle, token;

/* store buffers */
byte pending_tail[HOSTS]; /* 0: none; else the tail + 1, and the unlock */
bool pending_idle;

/* the host's private record; under the lock, but for the calls' own */
bool locked, inbox_open = true;
byte incarnation, last; /* the tail */
byte wanted[ALL];       /* which incarnation it is for */

/* ghosts */
byte ended[ALL], in_flight, next_run[HOSTS], deaths;
bool killed, dead, spared;

active proctype flush()
{
    byte h;
end:
    do
    :: atomic { pending_tail[0] != 0 -> tail = pending_tail[0] - 1; pending_tail[0] = 0; locked = false }
#if HOSTS > 1
    :: atomic { pending_tail[1] != 0 -> tail = pending_tail[1] - 1; pending_tail[1] = 0; locked = false }
#endif
    :: atomic { pending_idle -> idle = true; pending_idle = false }
    od
}

inline end_call(c)
{
    ended[c]++;
    assert(ended[c] == 1); /* it ends once */
    state[c] = DONE;
    in_flight--
}

/* ---- the host ---- */

inline renew()
{
    at = head;
    stop = last;
#ifdef RENEW_ONE_BY_ONE
    do
    :: at != stop ->
        c = entries[at % PLACES] - 1;
        if
        :: state[c] == DIRECTED -> entries[last % PLACES] = c + 1; last++; tail = last
        :: else
        fi;
        at++;
        atomic { if :: head < at -> head = at :: else fi }
    :: else -> break
    od;
#else
    do
    :: at != stop ->
        c = entries[at % PLACES] - 1;
        if
        :: state[c] == DIRECTED -> entries[last % PLACES] = c + 1; last++
        :: else
        fi;
        at++
    :: else -> break
    od;
    tail = last;
    atomic { if :: head < stop -> head = stop :: else fi };
#endif
    c = 0
}

proctype host(byte me)
{
    byte i, at, stop, c, mine;
    bool asleep;

    do
    :: i == CALLS -> break
    :: i < CALLS ->
        atomic { in_flight < LIVE -> in_flight++; mine = me * CALLS + i; wanted[mine] = incarnation };
#ifdef LOOK_WITHOUT_LOCK
        if
        :: inbox_open && incarnation == wanted[mine] -> skip
        :: else -> atomic { end_call(mine); goto next }
        fi;
#endif
        atomic { !locked && pending_tail[me] == 0 -> locked = true };
        if
#ifdef LOOK_WITHOUT_LOCK
        :: true ->
#else
#ifdef ANY_INCARNATION
        :: inbox_open ->
#else
        :: inbox_open && incarnation == wanted[mine] ->
#endif
#endif
#ifndef NO_RENEWAL
            if
            :: last - head >= LONG -> renew()
            :: else
            fi;
#endif
            assert(last - head < PLACES); /* there is always a place */
            state[mine] = DIRECTED;
            entries[last % PLACES] = mine + 1;
            atomic { last++; pending_tail[me] = last + 1 };
#ifndef NO_FENCE_WAKE
            pending_tail[me] == 0; /* I1 */
#endif
            asleep = idle;
            if
            :: asleep -> token = true
            :: else
            fi;
            asleep = false
#ifndef LOOK_WITHOUT_LOCK
        :: else ->
            locked = false;
            atomic { end_call(mine) }
#endif
        fi;
next:
        i++
    od
}

proctype cancel()
{
    byte c;
end:
    do
    :: c < ALL ->
        if
        :: atomic { state[c] == DIRECTED -> end_call(c) }
        :: true
        fi;
        c++
    :: c == ALL -> break
    od
}

/* ---- the worker's processes, one after the other ---- */

proctype worker()
{
    byte at, entry, mine;
    bool there;

life:
    {
        mine = incarnation;
next:
        at = head;
        if
        :: tail != at -> /* pc_inbox_claim */
            entry = entries[at % PLACES];
#ifndef NO_LOOK_AT_HEAD
            there = head == at;
#else
            there = true;
#endif
            if
            :: there ->
                atomic {
                    if
                    :: entry != 0 && state[entry - 1] == DIRECTED ->
                        state[entry - 1] = CLAIMED;
                        assert(wanted[entry - 1] == mine); /* in the process that it is for */
                        assert(entry - 1 >= next_run[(entry - 1) / CALLS]); /* in their order */
                        next_run[(entry - 1) / CALLS] = entry - 1
                    :: else -> entry = 0
                    fi
                }
            :: else -> entry = 0
            fi;
            atomic { if :: head == at -> head = at + 1 :: else fi };
            if
            :: entry != 0 -> atomic { end_call(entry - 1) }
            :: else
            fi;
            entry = 0; at = 0; there = false;
            goto next
        :: else
        fi;
        at = 0;
        token = false; /* pc_idle_publish: the drain */
        pending_idle = true;
#ifndef NO_FENCE_PUBLISH
        !pending_idle; /* I1 */
#endif
        if
        :: head == tail ->
end_sleep:
            atomic { !pending_idle && token -> token = false }
        :: else
        fi;
        atomic { !pending_idle -> idle = false };
        goto next
    } unless {
        killed
    };
    atomic { at = 0; entry = 0; there = false; dead = true }
    atomic { !dead -> goto life }
}

proctype death()
{
end:
    do
    :: atomic { !spared && deaths < DEATHS && !killed -> killed = true; deaths++ }
    :: !spared -> spared = true
    od
}

/* ---- the supervisor ---- */

proctype supervisor()
{
    byte c;
end:
    do
    :: atomic { dead && !pending_idle };
        atomic { !locked -> locked = true };
        inbox_open = false;
        locked = false;
#ifndef SWEEP_LEAVES_QUEUED
        do
        :: c < ALL ->
            if
            :: atomic { state[c] == CLAIMED || state[c] == DIRECTED -> end_call(c) }
            :: state[c] != CLAIMED && state[c] != DIRECTED
            fi;
            c++
        :: c == ALL -> c = 0; break
        od;
#endif
        idle = false;
        atomic { !locked -> locked = true };
#ifndef NO_RESET
        atomic { head = 0; tail = 0; last = 0 };
#endif
        atomic { locked = false; incarnation++; token = false; killed = false; dead = false };
        atomic { !locked -> locked = true };
        inbox_open = true;
        locked = false
    od
}

proctype watch()
{
    byte c;

    timeout ->
        do
        :: c < ALL ->
            assert(state[c] == DONE); /* no call stays beside a worker that sleeps */
            c++
        :: c == ALL -> break
        od
}

init
{
    atomic {
        run worker();
        run host(0);
#if HOSTS > 1
        run host(1);
#endif
        run cancel();
        run supervisor();
        run death();
        run watch()
    }
}
