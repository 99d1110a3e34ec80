/* idle: how workers sleep and are woken (lib/shm/idle.c, sleeper.c; what calls them).
 *
 * What is modelled. Host threads push CALLS calls and wake; workers claim, hand on, run, spin
 * (published and not), publish, sleep, retract; workers die at any step and are swept and replaced.
 * Each load, each store, each post is a step.
 *
 * The machine. Every store goes into its process's FIFO buffer and reaches memory at any later time;
 * a process sees its own stores at once. Only fences, and read-modify-writes that release (finish,
 * post), wait for the buffer to be empty. That is x86-TSO made weaker: on x86 the locked instructions
 * in front of some of the fences (fetch_or of the idle bit, the claim) would empty it as well, and a
 * missing fence could not be seen. What TSO never does, a store that passes an earlier load, is
 * what I3's release forbids elsewhere; its control writes that order down.
 *
 * Why the split is sound. Of the ring this model needs: is there an entry at the head, and who takes
 * it takes it alone. So `claim` and `head` are one step here; ring.pml has them in their steps, with
 * stale entries, and shows that whoever looks passes those, so that they are as good as not there. A
 * hole (a ticket taken, its entry not there yet) hides what is behind it, as in the ring. How the end
 * of a call is told is slot.pml's and announce.pml's. When a worker may spin depends on hints only:
 * here it may or may not at any time. The host's looks each 100 ms are left out: nothing may need
 * them. Writes of the sweep reach memory at once: each is a locked instruction, or followed by one
 * before it posts.
 *
 * What is checked. A call runs for ever if that helps to break it: `watch` acts only when nobody else
 * can, and asserts then that no entry is ready while a live worker sleeps without a token. It lets
 * one running call end and looks again, until all have ended; then it closes, and all must leave. */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef HOSTS
#define HOSTS 2
#endif
#ifndef CALLS
#define CALLS 3
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define TICKETS (CALLS + DEATHS) /* one more for each call that is queued again */

/* ---- memory, and the processes' store buffers ---- */

/* While each store is followed by its fence before the process loads or ends anything, to wait in the
 * buffer until the fence is the same as to be slow to make the store: so it is made to memory as a
 * step of its own, which spares most of the states. Without a fence, and with -DBUFFERED, which is
 * there to show that it is the same, the buffers are in use. */
#if defined(NO_FENCE_WAKE) || defined(NO_FENCE_PUBLISH) || defined(NO_FENCE_RETRACT) || \
    defined(NO_FENCE_SPINNER)
#define BUFFERED
#endif
#ifndef BUFFERED
#define STORE(p, w, v) memory[w] = v
#endif

#define SPINNER 0
#define IDLE(w) (1 + (w))
#define SLEEPS(w) (1 + WORKERS + (w))
#define POSTED(w) (1 + 2 * WORKERS + (w))
#define ENTRY(t) (1 + 3 * WORKERS + (t))
#define WORDS (1 + 3 * WORKERS + TICKETS)
#define PROCESSES (HOSTS + WORKERS)
#define BUFFER 4

byte memory[WORDS];
typedef buffered { byte word[BUFFER]; byte value[BUFFER]; byte count }
buffered buffer[PROCESSES];

#ifdef BUFFERED
#define STORE(p, w, v) store(p, w, v)
#endif

inline store(p, w, v)
{
    atomic {
        buffer[p].count < BUFFER;
        buffer[p].word[buffer[p].count] = w;
        buffer[p].value[buffer[p].count] = v;
        buffer[p].count++
    }
}

/* The youngest of one's own, or memory. */
inline load(p, w, ret)
{
    d_step {
        ret = memory[w];
        i = 0;
        do
        :: i < buffer[p].count ->
            if
            :: buffer[p].word[i] == w -> ret = buffer[p].value[i]
            :: else
            fi;
            i++
        :: else -> break
        od;
        i = 0
    }
}

#define EMPTY(p) (buffer[p].count == 0) /* as a statement: a fence */

/* Memory takes the oldest store of a buffer, at any time. */
proctype flush(byte p)
{
    byte j;
end:
    do
    :: atomic {
        buffer[p].count > 0;
        memory[buffer[p].word[0]] = buffer[p].value[0];
        j = 1;
        do
        :: j < buffer[p].count ->
            buffer[p].word[j - 1] = buffer[p].word[j];
            buffer[p].value[j - 1] = buffer[p].value[j];
            j++
        :: else -> break
        od;
        buffer[p].count--;
        buffer[p].word[buffer[p].count] = 0;
        buffer[p].value[buffer[p].count] = 0;
        j = 0
       }
    od
}

/* ---- what only read-modify-writes change ---- */

byte head, tail;
byte semaphore[WORKERS];
bool closing;

#define READY (head < TICKETS && memory[ENTRY(head)] == 1)

/* ---- ghosts ---- */

byte ended;               /* calls */
bool holds[WORKERS];      /* owns a call ... */
bool forever[WORKERS];    /* ... that runs until `watch` lets it end */
bool asleep[WORKERS];     /* is in sem_wait */
bool killed[WORKERS];     /* is to die now */
bool dead[WORKERS];       /* has died, and is not replaced yet */
bool waits[WORKERS];      /* is replaced when `watch` says so */
byte deaths;
bool spared;              /* no death until `watch` has looked */

/* One step is one load, store or read-modify-write of shared memory, with the local work after it. A
 * fence says nothing to anybody, so it is one step with the load that comes after it. */

#ifdef NO_FENCE_WAKE
#define FENCE_WAKE(p) true
#else
#define FENCE_WAKE(p) EMPTY(p) /* I1, I2 */
#endif
#ifdef NO_FENCE_PUBLISH
#define FENCE_PUBLISH true
#else
#define FENCE_PUBLISH EMPTY(self) /* I1 */
#endif
#ifdef NO_FENCE_RETRACT
#define FENCE_RETRACT true
#else
#define FENCE_RETRACT EMPTY(self) /* I2 */
#endif
#ifdef NO_FENCE_SPINNER
#define FENCE_SPINNER true
#else
#define FENCE_SPINNER EMPTY(self) /* I2 */
#endif

/* The next sleeper of the bitmap that was loaded, from w on; WORKERS: none. */
inline next_sleeper()
{
    do
    :: w < WORKERS && !(bits & (1 << w)) -> w++
    :: else -> break
    od
}

/* pc_idle_wake_one, and post() */
inline wake_one(p)
{
    atomic {
        FENCE_WAKE(p) ->
        load(p, SPINNER, x);
        if
        :: x != 0 -> x = 0; goto woken /* it is bound to look */
        :: else
        fi
    };
    atomic { /* one load of the bitmap */
        bits = memory[IDLE(0)] | (memory[IDLE(1)] << 1) | (memory[IDLE(WORKERS - 1)] << (WORKERS - 1));
        w = 0;
        next_sleeper();
        if
        :: w == WORKERS -> w = 0; bits = 0; goto woken
        :: else
        fi
    };
try_sleeper:
    atomic { load(p, SLEEPS(w), s) }; /* I3 */
    atomic {
        load(p, POSTED(w), x);
        if
        :: x == s -> /* was posted already, so is bound to look; try one more */
            s = 0;
            x = 0;
            w++;
            next_sleeper();
            if
            :: w == WORKERS -> w = 0; bits = 0; goto woken
            :: else -> goto try_sleeper
            fi
        :: else -> x = 0
        fi
    };
#ifdef CLAIM_THEN_WAKE
    atomic { /* the mutation: the bit is the right to wake, and is claimed first */
        if
        :: memory[IDLE(w)] == 0 -> w = 0; bits = 0; s = 0; goto woken
        :: else -> memory[IDLE(w)] = 0
        fi
    };
#endif
#ifdef POSTED_FIRST
    atomic { EMPTY(p) -> memory[POSTED(w)] = s };
    atomic { semaphore[w]++; w = 0; bits = 0; s = 0 };
#else
    atomic { EMPTY(p) -> semaphore[w]++ }; /* sem_post releases */
    atomic { STORE(p, POSTED(w), s); w = 0; bits = 0; s = 0 };
#endif
woken:
    skip
}

/* ---- a thread of the host: pc_call_enqueue ---- */

proctype host(byte me; byte calls)
{
    byte i, x, s, w, bits;

    do
    :: calls > 0 ->
        atomic {
            STORE(me, ENTRY(tail), 1); /* pc_ring_take_ticket, pc_ring_push */
            tail++;
            calls--
        };
        wake_one(me)
    :: else -> break
    od
}

/* ---- a worker ---- */

proctype worker(byte me; byte self)
{
    byte i, x, s, w, bits;

life:
    {
        skip;
next:
        if
        :: atomic { READY -> /* pc_ring_claim: acquires, and does not wait for the buffer */
            head++;
            holds[me] = true;
#ifdef SHORT_CALLS
            if
            :: forever[me] = false
            :: forever[me] = true
            fi
#else
            forever[me] = true
#endif
           }
#ifndef NO_SECOND_LOOK
            if
            :: READY -> wake_one(self) /* pc_ring_pending */
            :: !READY
            fi;
#endif
            atomic { !forever[me] && EMPTY(self); /* run_slot; pc_slot_finish releases */
                holds[me] = false;
                ended++
            }
            goto next
        :: !READY && closing -> goto leave
        :: !READY && !closing
        fi;
        /* pc_idle_spin: to spin without a number is to be slow here, and adds nothing. */
        if
        :: true
        :: atomic { EMPTY(self) && memory[SPINNER] == 0 && memory[IDLE(0)] + memory[IDLE(WORKERS - 1)] > 0 ->
            memory[SPINNER] = me + 1
           }
            if
            :: READY -> STORE(self, SPINNER, 0); FENCE_SPINNER; goto next
            :: STORE(self, SPINNER, 0); FENCE_SPINNER
            fi
        fi;
        /* pc_idle_publish */
#ifdef SLEEPS_BEFORE_DRAIN
        atomic { load(self, SLEEPS(me), s); STORE(self, SLEEPS(me), s + 1); s = 0 };
        semaphore[me] = 0; /* pc_sleeper_drain */
#else
        semaphore[me] = 0; /* pc_sleeper_drain */
        atomic { load(self, SLEEPS(me), s); STORE(self, SLEEPS(me), s + 1); s = 0 }; /* I3 */
#endif
        STORE(self, IDLE(me), 1);
        if
        :: atomic { FENCE_PUBLISH && (READY || closing) -> STORE(self, IDLE(me), 0) } /* pc_idle_retract */
        :: atomic { FENCE_PUBLISH && !READY && !closing -> asleep[me] = true };
            atomic { semaphore[me] > 0 -> /* pc_sleeper_wait */
                semaphore[me]--;
                asleep[me] = false;
                STORE(self, IDLE(me), 0) /* pc_idle_retract */
            }
        fi;
#ifdef BUFFERED
        FENCE_RETRACT;
#endif
        goto next
    } unless {
        killed[me]
    };
    atomic { i = 0; x = 0; s = 0; w = 0; bits = 0; asleep[me] = false; dead[me] = true }
    atomic { !dead[me] -> goto life }
leave:
    skip
}

/* Any worker may die at any step; those that left are gone. */
proctype death()
{
    byte w;
end:
    do
    :: atomic {
        !spared && deaths < DEATHS ->
        if
        :: w = 0
        :: w = WORKERS - 1
        fi;
        !killed[w] ->
        killed[w] = true;
        deaths++;
        w = 0
       }
    :: !spared -> spared = true
    od
}

/* ---- the supervisor: pc_sweep, then reset_record and a new worker ---- */

inline wake_all()
{
    v = 0;
    do
    :: v < WORKERS ->
#ifdef SWEEP_TRUSTS_HINTS
        if
        :: memory[IDLE(v)] == 1 && memory[SLEEPS(v)] != memory[POSTED(v)] -> semaphore[v]++
        :: else
        fi;
#else
        semaphore[v]++;
#endif
        v++
    :: v == WORKERS -> break
    od;
    v = 0
}

proctype supervisor()
{
    byte w, v, ticket;
end:
    do
    :: atomic {
        if /* confirmed: what it stored has reached memory */
        :: dead[0] && EMPTY(HOSTS) -> w = 0
        :: dead[WORKERS - 1] && EMPTY(HOSTS + WORKERS - 1) -> w = WORKERS - 1
        fi
       }
        if
        :: holds[w] -> /* sweep_calls: pc_call_requeue, which wakes nobody */
            atomic { ticket = tail; tail++; holds[w] = false };
            memory[ENTRY(ticket)] = 1;
            ticket = 0
        :: else
        fi;
#ifndef SWEEP_FORGETS_NOT
        atomic { /* pc_idle_forget */
            if
            :: memory[SPINNER] == w + 1 -> memory[SPINNER] = 0
            :: else
            fi
        };
        memory[IDLE(w)] = 0;
#endif
#ifndef SWEEP_WAKES_NOT
        wake_all();
#endif
        if
        :: true
        :: waits[w] = true; !waits[w] /* back-off */
        fi;
        d_step { /* reset_record; fork */
            semaphore[w] = 0;
#ifdef RESET_SLEEPS
            memory[SLEEPS(w)] = 0;
            memory[POSTED(w)] = 0;
#endif
            killed[w] = false;
            dead[w] = false;
            w = 0
        }
    od
}

#define BESIDE(w) (asleep[w] && semaphore[w] == 0)

proctype watch()
{
    byte v;

    do
    :: timeout ->
        assert(!(READY && (BESIDE(0) || BESIDE(WORKERS - 1)))); /* no call is left beside a sleeper */
        if
        :: atomic { holds[0] && forever[0] -> forever[0] = false }
        :: atomic { holds[WORKERS - 1] && forever[WORKERS - 1] -> forever[WORKERS - 1] = false }
        :: waits[0] -> waits[0] = false
        :: waits[WORKERS - 1] -> waits[WORKERS - 1] = false
        :: else -> break
        fi;
        spared = false
    od;
    assert(ended == CALLS); /* no call is lost */
    closing = true; /* end_workers */
    wake_all()
}

init
{
    atomic {
        byte p = 0;
#ifdef BUFFERED
        do
        :: p < HOSTS + WORKERS -> run flush(p); p++
        :: else -> break
        od;
#endif
        run host(0, CALLS - HOSTS + 1);
#if HOSTS > 1
        run host(1, 1);
#endif
        p = 0;
        do
        :: p < WORKERS -> run worker(p, HOSTS + p); p++
        :: else -> break
        od;
        run supervisor();
        run death();
        run watch()
    }
}
