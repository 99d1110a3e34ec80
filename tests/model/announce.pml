/* announce: how ended calls get to the reader of a queue (lib/shm/announce.h, lib/queue.c; tell() in
 * worker/loop.c, keep_answers() and wake_everyone() in lib/sweep.c).
 *
 * What is modelled. A queue with CALLS calls in it; two workers end them, tell, and may die at any
 * step, also between the end and its announcement; the sweep announces again; a thread ends one
 * call as the host does (a cancel). The reader reaps, MAX at a time, and sleeps in poll(), in the
 * reap itself or in an event loop of the user's, on the same descriptor. A bit too many comes from a
 * worker that was slow.
 *
 * The machine. Stores wait in a buffer until a fence or a system call, as in idle.pml: the setting of
 * a bit by the one who ends a call (its read-modify-write releases, which orders what comes before
 * it and not the load of `armed` after it) and the reader's `armed`.
 *
 * Why the split is sound. Whether a call has ended, and that it does once, is slot.pml's: here it is
 * one step. A call is collected by its reader alone. Slots are as many as calls, and one word.
 *
 * What is checked. Each call is delivered once, and only after its end. When nobody can go on, all
 * are delivered: none ended beside a reader that sleeps on a descriptor that is not readable. No
 * look each 100 ms is needed. */

#ifndef CALLS
#define CALLS 3
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef MAX
#define MAX 2
#endif
#define WORKERS 2
#define ALL ((1 << CALLS) - 1)
#define HOST WORKERS       /* the thread that ends a call, */
#define READER (WORKERS + 1)

/* shared */
byte bits;                 /* the bitmap, a word */
bool armed;
bool readable;             /* the eventfd: its count is not 0 */

/* store buffers: one store each is enough, since each is fenced before the next */
byte pending_bits[WORKERS + 1];
byte pending_armed;        /* of the reader: 0 none, else 1 + value */

/* ghosts, and the host's private record */
byte ended, delivered;     /* sets of calls */
byte queue = ALL;          /* call->queue is this queue */
byte taken;                /* calls given to a worker */
byte holds[WORKERS];       /* 1 + call */
byte owner[CALLS];         /* who ended it, 1 + worker */
bool killed[WORKERS], dead[WORKERS], spared;
byte deaths;

/* As in idle.pml: a store that waits for its fence is one that is made late, so the buffers are in
 * use only where a fence is missing, and with -DBUFFERED. */
#if defined(NO_FENCE_ANNOUNCE) || defined(NO_FENCE_ARM)
#define BUFFERED
#endif
#ifdef BUFFERED
#define SET_BIT(p, call) pending_bits[p] = pending_bits[p] | (1 << call)
#define SET_ARMED(value) pending_armed == 0; pending_armed = 1 + value
#else
#define SET_BIT(p, call) bits = bits | (1 << call)
#define SET_ARMED(value) armed = value
#endif

#ifdef BUFFERED
/* Buffers reach memory at any time. */
active proctype flush()
{
end:
    do
    :: atomic { pending_bits[0] != 0 -> bits = bits | pending_bits[0]; pending_bits[0] = 0 }
    :: atomic { pending_bits[1] != 0 -> bits = bits | pending_bits[1]; pending_bits[1] = 0 }
    :: atomic { pending_bits[HOST] != 0 -> bits = bits | pending_bits[HOST]; pending_bits[HOST] = 0 }
    :: atomic { pending_armed != 0 -> armed = pending_armed - 1; pending_armed = 0 }
    od
}
#endif

/* ---- pc_announce, and the eventfd ---- */

inline announce(p, call)
{
    SET_BIT(p, call);
    atomic {
#ifndef NO_FENCE_ANNOUNCE
        pending_bits[p] == 0 -> /* A */
#endif
        was_armed = armed
    };
    if
    :: was_armed ->
#ifdef ANNOUNCER_DISARMS
        armed = false; /* the mutation: who wakes claims the right to */
#endif
        atomic { pending_bits[p] == 0 -> readable = true; was_armed = false } /* write_eventfd */
    :: else
    fi
}

/* ---- a worker ---- */

proctype worker(byte me)
{
    byte call;
    bool was_armed;

life:
    {
        skip;
next:
        atomic {
            if
            :: taken < CALLS -> call = taken; taken++; holds[me] = call + 1
            :: taken == CALLS -> goto leave
            fi
        };
        atomic { /* pc_slot_finish */
            ended = ended | (1 << call);
            owner[call] = me + 1;
            holds[me] = 0
        };
        announce(me, call);
        call = 0;
        goto next
    } unless {
        killed[me]
    };
    atomic { call = 0; was_armed = false; dead[me] = true }
    atomic { !dead[me] -> goto life }
leave:
    skip
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

/* ---- the supervisor: pc_sweep ---- */

#ifdef SWEEP_TRUSTS_ARMED
#define WHETHER_ARMED (readable || armed)
#else
#define WHETHER_ARMED true
#endif

proctype supervisor()
{
    byte w, call;
end:
    do
    :: atomic {
            if
            :: dead[0] && pending_bits[0] == 0 -> w = 0
            :: dead[1] && pending_bits[1] == 0 -> w = 1
            fi
        };
#ifndef SWEEP_ANNOUNCES_NOT
        do /* keep_answers */
        :: call < CALLS ->
            if
            :: atomic { owner[call] == w + 1 -> bits = bits | (1 << call) } /* pc_call_tell: writes */
                readable = WHETHER_ARMED                                    /* whether armed or not */
            :: owner[call] != w + 1
            fi;
            call++
        :: call == CALLS -> call = 0; break
        od;
#endif
        if
        :: atomic { holds[w] != 0 -> /* end_died, by pc_call_tell */
            ended = ended | (1 << (holds[w] - 1));
            call = holds[w] - 1;
            holds[w] = 0
           }
            bits = bits | (1 << call);
            readable = WHETHER_ARMED
        :: holds[w] == 0
        fi;
#ifndef SWEEP_TRUSTS_ARMED
        readable = true; /* wake_everyone */
#endif
        atomic { killed[w] = false; dead[w] = false; w = 0; call = 0 }
    od
}

/* ---- the host ends a call: pc_call_end_by_host, pc_call_tell ---- */

proctype host()
{
    byte call;

    if
    :: atomic { taken < CALLS -> call = taken; taken++; ended = ended | (1 << call) };
        SET_BIT(HOST, call);
        atomic { pending_bits[HOST] == 0 -> readable = true } /* a system call */
    :: true
    fi
}

/* ---- the reader: pycrew_queue_reap ---- */

inline take() /* takes up to MAX - count */
{
    do
    :: count < MAX && rest != 0 ->
        atomic {
            call = 0;
            do
            :: !(rest & (1 << call)) -> call++
            :: else -> break
            od;
            rest = rest & ~(1 << call);
            if /* the private record says so, and it has ended: exactly once */
#ifdef DELIVERS_EACH_BIT
            :: true ->
#else
            :: (queue & (1 << call)) && (ended & (1 << call)) ->
#endif
                assert((ended & (1 << call)) && !(delivered & (1 << call))); /* delivered once, after its end */
                delivered = delivered | (1 << call);
                queue = queue & ~(1 << call);
                count++
#ifndef DELIVERS_EACH_BIT
            :: else
#endif
            fi;
            call = 0
        }
    :: atomic { count < MAX && rest == 0 -> rest = bits; bits = 0 } /* pc_announce_take */
        if
        :: rest == 0 -> break
        :: else
        fi
    :: count == MAX -> break
    od
}

proctype reader()
{
    byte count, rest, call, extra;

    do
    :: delivered == ALL -> break
    :: else ->
        /* pycrew_queue_reap */
        atomic { SET_ARMED(0) }; /* pc_announce_disarm */
        do
        :: take();
            if
            :: count < MAX -> /* arm_and_take */
                atomic { pending_armed == 0 -> readable = false }; /* read_eventfd */
#ifndef READER_ARMS_NOT
                atomic { SET_ARMED(1) }; /* pc_announce_arm */
#if defined(BUFFERED) && !defined(NO_FENCE_ARM)
                pending_armed == 0; /* A */
#endif
#endif
#ifndef NO_LOOK_AFTER_ARM
                take()
#endif
            :: else
            fi;
            if
            :: count == MAX -> atomic { pending_armed == 0 -> readable = true } /* there may be more */
            :: else
            fi;
            if
            :: count > 0 -> break
            :: count == 0 && extra == 0 -> extra = 1; break /* the timeout has passed */
            :: count == 0 -> atomic { pending_armed == 0 && readable } /* poll() in reap() */
            fi
        od;
        count = 0;
        /* The user's event loop: it polls, and reaps again. */
        if
        :: delivered == ALL -> break
        :: delivered != ALL && pending_armed == 0 && readable
        fi
    od
}

proctype watch()
{
    timeout ->
        assert(ended == ALL);    /* every call ends */
        assert(delivered == ALL) /* nobody's end stays beside a reader that sleeps */
}

init
{
    atomic {
        armed = true; /* pycrew_queue_open */
        run worker(0);
        run worker(1);
        run host();
        run supervisor();
        run death();
        run reader();
        run watch()
    }
}
