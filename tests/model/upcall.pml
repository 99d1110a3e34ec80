/* upcall: a worker's Python asks the host (lib/shm/upcall.h, lib/export.c, worker/host.c).
 *
 * What is modelled. One worker, which may die at any step and has successors in the same records, with one
 * place. It makes REQUESTS requests in a life, may give up waiting for each at any time (a signal's handler
 * raised), and uses the place again when that has been answered. The host's two threads are a listener, which
 * looks and takes under the lock, and a runner, which runs and answers under it. The answer is in a
 * block of the host's, which is freed when it is released, or nobody waits any more, or the worker is dead.
 * The supervisor sweeps and forks the successor.
 *
 * The machine. Stores wait in a buffer until a fence, as in idle.pml, where a control leaves the fence out.
 *
 * Why the split is sound. Places do not know of each other: what they share is the bit, which says "look at all of
 * this worker's". Arguments in a block are under a lease, which is tests/test-held.c's. What a number is
 * compared with is private to each side. The look each 100 ms is not there: nothing may need it.
 *
 * What is checked. Who takes an answer has the one to its own request, of its own life, and whole; the request is
 * read as it was written; a block is freed once, not while it is read, and none is left; when nobody can
 * go on, every request has been answered or its worker is dead. */

#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define NUMBER(life, n) ((life) * 4 + (n)) /* what a request is about: a ghost */

/* shared: the place, the bit, the listener's words */
byte request, released, answer;
byte asked;   /* the request's half: what is asked */
byte told;    /* the answer's: to what it is the answer, */
byte block;   /* and its block; 0: none */
bool flag, armed;
byte wakes;

/* private to the host */
bool lock, alive;
byte life;               /* the incarnation */
byte sequence;           /* of the last request that was taken */
byte kept;               /* the block of its answer */
bool called;             /* place->call: a call of the present life is not answered yet; */
bool waiting;            /* nobody runs it yet */
byte waiting_number, waiting_sequence;
bool running, orphaned;  /* the one that runs */

/* ghosts */
bool there[8];           /* blocks that are allocated */
bool reading;            /* the worker reads an answer in `block` */
bool killed, dead, done, spared;
byte deaths;

/* store buffers, of the places where a fence matters: 0, or 1 + the value */
byte pending_bit, pending_released, pending_armed, pending_answer;

#if defined(NO_FENCE_ANNOUNCE) || defined(NO_FENCE_ARM) || defined(NO_FENCE_RELEASE) || defined(NO_FENCE_ANSWER)
#define BUFFERED
#endif
#ifdef BUFFERED
#define SET_BIT atomic { pending_bit == 0 -> pending_bit = 2 }
#define SET_RELEASED(value) atomic { pending_released == 0 -> pending_released = 1 + (value) }
#define SET_ARMED(value) atomic { pending_armed == 0 -> pending_armed = 1 + (value) }
#define SET_ANSWER(value) atomic { pending_answer == 0 -> pending_answer = 1 + (value) }

active proctype flush()
{
end:
    do
    :: atomic { pending_bit != 0 -> flag = true; pending_bit = 0 }
    :: atomic { pending_released != 0 -> released = pending_released - 1; pending_released = 0 }
    :: atomic { pending_armed != 0 -> armed = pending_armed - 1; pending_armed = 0 }
    :: atomic { pending_answer != 0 -> answer = pending_answer - 1; pending_answer = 0 }
    od
}
#else
#define SET_BIT flag = true
#define SET_RELEASED(value) released = value
#define SET_ARMED(value) armed = value
#define SET_ANSWER(value) answer = value
#endif

/* The sides' buffers are empty: a fence. */
#define WORKER_FENCE (pending_bit == 0 && pending_released == 0)
#define HOST_FENCE (pending_armed == 0 && pending_answer == 0)

inline allocate(to)
{
    atomic {
        to = 1;
        do
        :: there[to] -> to++
        :: else -> break
        od;
        there[to] = true
    }
}

inline release_block(which)
{
    atomic {
        assert(there[which]); /* a block is freed once, */
        assert(!(reading && block == which)); /* and not while the worker reads it */
        there[which] = false
    }
}

/* ---- the worker ---- */

inline announce() /* pc_upcall_announce */
{
    SET_BIT;
#ifndef NO_FENCE_ANNOUNCE
    WORKER_FENCE; /* U1 */
#endif
    if
    :: armed -> atomic { WORKER_FENCE -> wakes++ } /* a system call */
    :: else
    fi
}

proctype worker()
{
    byte n, seen;

born:
    {
        do
        :: n == REQUESTS -> break
        :: n < REQUESTS ->
            n++;
            asked = 0; /* half written */
            asked = NUMBER(life, n);
            atomic { WORKER_FENCE -> request = n }; /* pc_upcall_publish releases */
            announce();
            if
            :: answer == n -> /* await_answer */
                atomic { assert(told == NUMBER(life, n)); seen = block; reading = seen != 0 }; /* the answer is to this request, and whole */
                atomic { assert(seen == 0 || there[seen]); reading = false }; /* its block is there to the end */
                goto release
            :: true -> skip /* a handler raised */
            fi;
release:
            SET_RELEASED(n);
#ifndef NO_FENCE_RELEASE
            WORKER_FENCE; /* U2 */
#endif
            if
            :: answer == n ->
#ifndef RELEASE_ANNOUNCES_NOT
                announce() /* its block may be freed */
#endif
            :: else
            fi;
            atomic { seen = 0 };
#ifndef REUSES_A_LEFT_PLACE
            answer == n /* find_place: PLACE_LEFT until then */
#endif
        od;
        goto leave
    } unless {
        killed
    };
    atomic { n = 0; seen = 0; reading = false; WORKER_FENCE -> dead = true };
    atomic { !dead -> goto born };
leave:
    done = true
}

proctype death()
{
end:
    do
    :: atomic { !spared && !done && alive && deaths < DEATHS && !killed -> killed = true; deaths++ }
    :: !spared -> spared = true
    od
}

/* ---- the supervisor ---- */

proctype supervisor()
{
end:
    do
    :: dead ->
        alive = false; /* pc_lease_orphan */
        atomic { !lock -> lock = true }; /* pc_exports_forget */
#ifndef SWEEP_ORPHANS_NOT
        if
        :: running && called -> orphaned = true
        :: else
        fi;
        waiting = false; /* it is an orphan, and not run: as if it were not there */
#endif
        if
#ifdef SWEEP_FREES_NOT
        :: true -> skip
#else
        :: kept != 0 -> release_block(kept)
        :: else
#endif
        fi;
        kept = 0; sequence = 0; called = false;
        lock = false;
        request = 0; released = 0; /* pc_upcall_reset, before the fork */
        answer = 0;
        atomic { life++; alive = true; killed = false; dead = false }
    od
}

/* ---- the listener: pc_upcall_listen, collect ---- */

proctype listener()
{
    byte before;
end:
    do
    :: before = wakes;
        SET_ARMED(1);
#ifndef NO_FENCE_ARM
        HOST_FENCE; /* U1 */
#endif
        if
        :: flag -> skip
        :: !flag ->
end_sleep:
            wakes != before /* FUTEX_WAIT */
        fi;
        SET_ARMED(0);
        atomic { !lock -> lock = true };
        flag = false; /* pc_upcall_take */
        if
#ifndef LOOKS_AT_THE_DEAD
        :: !alive -> skip
        :: alive ->
#else
        :: true ->
#endif
            if
            :: kept != 0 && released == sequence ->
                release_block(kept);
                kept = 0
            :: else
            fi;
            if
            :: request == sequence + 1 && !called ->
#ifndef TAKES_BESIDE_A_BLOCK
                if
                :: kept != 0 -> release_block(kept); kept = 0 /* it was released after the look above */
                :: else
                fi;
#endif
                /* take_request */
                atomic { /* what stands there is copied at once; that it is whole is the request's number */
                    assert(!alive || killed || asked == NUMBER(life, request)); /* the request is read as it was written */
                    waiting_number = asked;
                    sequence = request;
                    waiting_sequence = sequence;
                    called = true;
                    waiting = true
                }
            :: else
            fi
        fi;
        lock = false
    od
}

/* ---- a thread that runs and answers: pc_host_call_run, answer ---- */

proctype runner()
{
    byte made, number, mine;
end:
    do
    :: atomic { waiting && !lock ->
            waiting = false; running = true;
            number = waiting_number; mine = waiting_sequence
        };
        if
        :: orphaned || released == mine -> skip /* nobody waits: not run */
        :: else -> allocate(made)
        fi;
        atomic { !lock -> lock = true };
        if
        :: orphaned ->
            if
            :: made != 0 -> release_block(made)
            :: else
            fi
        :: !orphaned -> /* write_answer */
#ifdef ANSWER_FIRST
            SET_ANSWER(mine);
#endif
            told = number;
            block = made;
            kept = made;
#ifndef ANSWER_FIRST
            SET_ANSWER(mine);
#endif
#ifndef NO_FENCE_ANSWER
            HOST_FENCE; /* U2 */
#endif
            called = false;
            if
            :: kept != 0 && released == mine -> release_block(kept); kept = 0
            :: else
            fi
        fi;
        atomic { running = false; orphaned = false; made = 0; number = 0; mine = 0; lock = false }
    od
}

proctype watch()
{
    timeout ->
        assert(done); /* every request has its answer, or its worker is dead */
        assert(!there[1] && !there[2] && !there[3] && !there[4] && !there[5] && !there[6]) /* no block is left */
}

init
{
    atomic {
        alive = true;
        run worker();
        run death();
        run supervisor();
        run listener();
        run runner();
        run watch()
    }
}
