/* retained: how long a block of the host's stays, that arrays of calls are in and of which Python may keep a
 * view (lib/array.h, lib/array.c; lib/shm/array.h for the cell; pc_array_end_call(), settle_block() in
 * worker/array.c; lib/sweep.c).
 *
 * What is modelled. One block, its cell with a word for each worker, the private record (refs, retained,
 * lingering). Two threads of the host make CALLS calls each with the block as an argument, collect and release
 * them; each looks at what lingers when it is through, as those do who come for other memory; the block's
 * user frees it at any moment. Workers run calls, keep a view or not, let it go between calls or in a later
 * one, and die at any step; the sweep collects what they answered, ends what they ran, and a successor comes
 * with the next incarnation, while the dead one's word stays in the cell.
 *
 * Why the split is sound. Claim, end and collection of a slot are slot.pml's: here they are one step each, and
 * which worker has a call is known. The records are under arrays->lock; what is read there of a worker, its
 * life and its word, is read in two steps (worker_sees), as the code does. Sequentially consistent: the word is
 * released and acquired (A1), and an answer after it.
 *
 * What is checked. The block is not freed while a call has it, nor while a live worker has a view; it is
 * freed once; and when nobody has it any more, the next look frees it. */

#ifndef WORKERS
#define WORKERS 1
#endif
#ifndef CALLS
#define CALLS 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define HOSTS 2

mtype = { NONE, QUEUED, CLAIMED, DONE };

/* shared */
byte word[WORKERS]; /* the cell: an incarnation */
mtype state[HOSTS] = NONE;
byte owner[HOSTS];
bool flag[HOSTS]; /* the answer's RETAINED */

/* private to the host */
byte refs = 1;          /* the user's, and one for each call */
bool allocated = true;
bool lingering;
byte retained[WORKERS]; /* the incarnation that has views; 0: none */
bool lock;              /* arrays->lock */
bool alive[WORKERS] = true;
byte incarnation[WORKERS] = 1;
bool answered[HOSTS];   /* by a worker, and not by the sweep */
bool phase[HOSTS];      /* who swapped it collects */
bool collected[HOSTS];

/* ghosts */
bool sees[WORKERS];  /* Python of the present life has a view */
bool killed[WORKERS], dead[WORKERS];
byte deaths, over;
bool freed;

#define IN_USE(t) (state[t] == QUEUED || state[t] == CLAIMED)
#define LIVE_VIEW(w) (sees[w] && !dead[w])

/* end_held() */
inline end_held()
{
    atomic {
        assert(!freed); /* freed once */
        assert(!IN_USE(0) && !IN_USE(1)); /* no call has it */
        assert(!LIVE_VIEW(0)); /* no live worker has a view */
#if WORKERS > 1
        assert(!LIVE_VIEW(1)); /* no live worker has a view */
#endif
        freed = true
    }
}

/* is_retained(); found: whether it is */
inline is_retained()
{
    found = false;
    i = 0;
    do
    :: i < WORKERS && !found ->
        if
        :: retained[i] == 0
        :: else ->
#ifdef NO_INCARNATION
            lives = alive[i];
#else
            lives = (alive[i] && incarnation[i] == retained[i]); /* under the worker's lock */
#endif
            if
#ifdef TRUSTS_THE_NOTE
            :: lives -> found = true
            :: else -> retained[i] = 0
#else
#ifdef NO_INCARNATION
            :: lives && word[i] != 0 -> found = true
            :: !(lives && word[i] != 0) -> retained[i] = 0
#else
#ifdef FREES_WITHOUT_THE_WORD
            :: true -> retained[i] = 0
#else
            :: atomic { lives && word[i] == retained[i] -> found = true }
            :: atomic { !(lives && word[i] == retained[i]) -> retained[i] = 0 }
#endif
#endif
#endif
            fi
        fi;
        i++
    :: else -> break
    od;
    i = 0;
    lives = false
}

#ifdef SETTLES_WITHOUT_LOCK
#define LOCK skip
#define UNLOCK skip
#else
#define LOCK atomic { !lock -> lock = true }
#define UNLOCK lock = false
#endif

/* settle() */
inline settle()
{
    LOCK;
    if
    :: lingering ->
#ifndef SETTLES_WITHOUT_LOCK
        lingering = false;
#endif
        is_retained();
        if
        :: found -> lingering = true
        :: else ->
            end_held();
            lingering = false
        fi
    :: else
    fi;
    found = false;
    UNLOCK
}

/* drop_ref(); under the lock */
inline drop_ref()
{
    refs--;
    if
    :: refs == 0 ->
        is_retained();
        if
        :: found -> lingering = true
        :: else -> end_held()
        fi;
        found = false
    :: else
    fi
}

/* note_retained(): the present life, which need not be the one that answered */
inline note_retained(t)
{
#ifndef NOT_NOTED
    atomic { !lock -> lock = true };
    retained[owner[t]] = incarnation[owner[t]];
    lock = false
#else
    skip
#endif
}

/* pc_call_collect, by whoever was first */
inline collect(t)
{
    if
    :: answered[t] && flag[t] -> note_retained(t)
    :: else
    fi;
    collected[t] = true
}

/* ---- workers ---- */

proctype worker(byte w)
{
    byte mine;
    bool keeps, told; /* told: retained, our word says so */

life:
    {
        skip;
end_idle:
        do
        :: atomic { state[0] == QUEUED -> state[0] = CLAIMED; owner[0] = w; mine = 0; break }
        :: atomic { state[1] == QUEUED -> state[1] = CLAIMED; owner[1] = w; mine = 1; break }
        :: atomic { keeps -> keeps = false; /* memory_dealloc, settle_block */
#ifndef CLEARS_FIRST
                sees[w] = false
#endif
            };
#ifndef WORD_NOT_CLEARED
            if
            :: told -> word[w] = 0
            :: else
            fi;
#endif
            atomic { told = false; sees[w] = false }
        od;
        sees[w] = true; /* pc_array_decode: new_memory */
        if              /* the function keeps its view, or lets go of that and any other */
        :: keeps = true
        :: atomic { keeps = false; sees[w] = false }
        fi;
        /* pc_array_end_call: retain() */
#ifndef ANSWERS_FIRST
        if
        :: keeps -> word[w] = incarnation[w]; told = true
        :: !keeps && told -> word[w] = 0; told = false
        :: else
        fi;
#endif
        atomic { flag[mine] = keeps; answered[mine] = true; state[mine] = DONE }; /* pc_slot_finish */
#ifdef ANSWERS_FIRST
        if
        :: keeps -> word[w] = incarnation[w]; told = true
        :: !keeps && told -> word[w] = 0; told = false
        :: else
        fi;
#endif
        mine = 0;
        goto end_idle
    } unless {
        killed[w]
    };
    atomic { dead[w] = true; sees[w] = false; keeps = false; told = false; mine = 0 };
end_dead:
    atomic { !dead[w] -> goto life }
}

proctype death()
{
end:
    do
    :: atomic { deaths < DEATHS && !killed[0] && !dead[0] -> killed[0] = true; deaths++ }
#if WORKERS > 1
    :: atomic { deaths < DEATHS && !killed[1] && !dead[1] -> killed[1] = true; deaths++ }
#endif
    :: deaths < DEATHS -> deaths = DEATHS /* no more */
    od
}

/* ---- the host's threads ---- */

proctype host(byte t)
{
    byte calls, i;
    bool lives, found;

    do
    :: calls < CALLS ->
        calls++;
        atomic { !lock -> lock = true }; /* hold_block(): freed blocks are told apart */
        if
        :: allocated -> refs++
        :: else -> lock = false; break
        fi;
        lock = false;
        atomic { collected[t] = false; phase[t] = false; answered[t] = false; flag[t] = false; state[t] = QUEUED };
        if
        :: atomic { state[t] == DONE && !phase[t] -> phase[t] = true }; collect(t)
        :: collected[t] /* the sweep was first */
        fi;
        collected[t];
        atomic { !lock -> lock = true }; /* pc_arrays_leave */
        state[t] = NONE;
        drop_ref();
        lock = false
    :: else -> break
    od;
    settle();
    over++
}

proctype user()
{
    byte i;
    bool lives, found;

    atomic { !lock -> lock = true }; /* pycrew_free */
    allocated = false;
    drop_ref();
    lock = false;
    over++
}

/* ---- the supervisor ---- */

inline sweep_call(t)
{
    if
    :: atomic { state[t] == DONE && owner[t] == w && !phase[t] -> phase[t] = true }; collect(t)
    :: atomic { state[t] == CLAIMED && owner[t] == w ->
            if
            :: state[t] = DONE   /* the error, which its thread collects */
            :: state[t] = QUEUED /* a retry */
            fi }
    :: else
    fi
}

proctype supervisor()
{
    byte w, i;
    bool lives, found;

end:
    do
    :: atomic { dead[0] && alive[0] -> w = 0 } -> goto sweep
#if WORKERS > 1
    :: atomic { dead[1] && alive[1] -> w = 1 } -> goto sweep
#endif
    od;
sweep: /* pc_sweep */
    sweep_call(0);
    sweep_call(1);
    alive[w] = false; /* pc_lease_orphan */
    settle();
    atomic { incarnation[w]++; killed[w] = false; alive[w] = true; dead[w] = false; w = 0 };
    goto end
}

/* When nobody can step all calls have ended and all views are gone, and whoever comes next frees it. */
proctype watch()
{
    byte i;
    bool lives, found;

    timeout ->
        assert(over == 3 && !lock); /* all came to their end */
        settle();
        assert(freed && refs == 0) /* what nobody has is freed at the next look */
}

init
{
    atomic {
        run worker(0);
#if WORKERS > 1
        run worker(1);
#endif
        run host(0);
        run host(1);
        run user();
        run supervisor();
        run death();
        run watch()
    }
}
