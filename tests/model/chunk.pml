/* chunk: many items in one slot, and the word that says how far it is (lib/shm/chunk.h; run_items() in
 * worker/items.c; lib; the ladder in lib/ladder.c; settle() in lib/batch.c).
 *
 * What is modelled. Two chunks, one after the other, in the same slot and the same block of memory, of
 * ITEMS items each. The worker that has claimed the slot goes on item by item: current, advance, the
 * item, clear. The ladder interrupts an item that is overdue and, if it goes on, dooms it and kills.
 * Workers may die at any step; the sweep keeps what is finished, blames what was started, and queues
 * the rest again. A chunk that stopped early because its item was interrupted is queued again for
 * the rest. The ended chunk is taken, discarded, and the slot used again at once.
 *
 * Why the split is sound. Claim, end and death of the slot are slot.pml's: here they are one step
 * each. The chunk's progress is a word of its own, so what has to be shown is that its
 * compare-and-swaps hit the right item of the right chunk. One worker at a time owns the slot; a
 * second takes over after a death or a requeue. Sequentially consistent: results are released by the
 * swap of progress.
 *
 * What is checked. Each item gets one end: a result, an interrupt, or the blame. Only an item that was
 * started is blamed; a finished one keeps its result; one whose result is kept was run to its end.
 * Interrupt and doom hit the item they were meant for. */

#ifndef ITEMS
#define ITEMS 3
#endif
#ifndef CHUNKS
#define CHUNKS 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef OVERDUE
#define OVERDUE 2 /* so many items may be found overdue */
#endif

mtype = { QUEUED, CLAIMED, DONE };

/* shared */
mtype state = DONE;
byte generation;           /* of the control word */
byte begin;
byte started, finished;    /* progress, ... */
bool doomed;               /* ... which is one word */
bool cancel;
byte interrupt_item, interrupt_generation; /* of the worker's record */
bool signal;

/* the host's */
bool lock;                 /* crew->lock */
bool in_use;               /* the call is a chunk */
byte chunk_begin;
byte step_generation, step_item; /* the ladder; 0: not on it */

/* ghosts */
byte chunks;               /* that were submitted */
byte ends;                 /* set of items of this chunk that have their end */
byte entered, ran;         /* sets of items whose function was entered, and has ended, in this run */
byte overdue, deaths;
bool killed, dead, kill_is_ours, spared;
byte meant_item, meant_generation; /* of the last interrupt */

#define BIT(i) (1 << (i))
#define ALL ((1 << ITEMS) - 1)
#define STILL_RUNS (state == CLAIMED && generation == step_generation)
#define PROGRESS_IS(s, f) (!doomed && started == (s) && finished == (f))

/* The results of [chunk_begin, finished): save_run(), or what the batch takes out. */
inline keep_results()
{
    i = chunk_begin;
    do
    :: i < finished ->
        assert(ran & BIT(i));     /* a result is there */
        assert(!(ends & BIT(i))); /* one end */
        ends = ends | BIT(i);
        i++
    :: else -> break
    od;
    i = 0
}

/* set_run() */
inline set_run()
{
    begin = chunk_begin;
    started = chunk_begin;
    finished = chunk_begin;
    doomed = false;
    entered = 0;
    ran = 0
}

/* ---- the worker that owns the slot; after its death, the next ---- */

proctype worker()
{
    byte item, current_generation, current_item;
    bool interrupted;

life:
    {
        skip;
end_next:
        atomic { state == QUEUED -> state = CLAIMED; item = begin }; /* pc_slot_claim */
next_item: /* run_items() */
        if
        :: atomic { item < ITEMS && cancel -> goto stop } /* stop_before() */
        :: item < ITEMS ->
            atomic { current_generation = generation; current_item = item }; /* set_current */
#ifndef ADVANCE_LATE
            atomic { /* advance() */
                if
                :: PROGRESS_IS((item == begin -> begin : item), (item == begin -> begin : item - 1)) ->
                    started = item + 1;
                    finished = item
                :: else -> goto await_death
                fi
            };
#endif
            entered = entered | BIT(item);
            if /* the interrupt's handler, in the function, and the exception goes through or not */
            :: atomic { signal ->
                signal = false;
                interrupted = (interrupt_generation == current_generation && interrupt_item == current_item);
#ifdef INTERRUPT_ANY_ITEM
                interrupted = true;
#endif
                assert(!interrupted || (meant_generation == generation && meant_item == item)) /* an interrupt hits the item it was meant for */
               }
            :: true
            fi;
            ran = ran | BIT(item); /* its result stands in the table */
            atomic { current_generation = 0; current_item = 0 }; /* clear_current */
#ifdef ADVANCE_LATE
            atomic {
                if
                :: PROGRESS_IS((item == begin -> begin : item), (item == begin -> begin : item - 1)) ->
                    started = item + 1;
                    finished = item
                :: else -> goto await_death
                fi
            };
#endif
            item++;
            if
            :: interrupted -> goto stop
            :: else -> goto next_item
            fi
        :: item == ITEMS ->
            goto stop /* advance(count) does as stop_before(count) */
        fi;
stop:
        atomic { /* stop_before() */
            if
            :: item == begin
            :: item != begin && PROGRESS_IS(item, item - 1) -> started = item; finished = item
            :: else -> goto await_death
            fi
        };
        atomic { /* pc_slot_finish */
            state = DONE;
            item = 0;
            if
            :: interrupted -> interrupted = false; dead = true; goto gone /* PC_EXIT_RECYCLED */
            :: else -> goto end_next
            fi
        };
await_death:
        assert(doomed); /* only DOOMED keeps a worker from going on */
        killed
    } unless {
        killed
    };
    atomic { dead = true; item = 0; current_generation = 0; current_item = 0; interrupted = false }
gone:
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

/* ---- the batch: one thread ---- */

proctype batch()
{
    byte i;

    do
    :: chunks < CHUNKS ->
        /* pc_call_prepare, pc_chunk_init, pc_chunk_submit */
        atomic {
            chunks++;
            ends = 0;
            in_use = true;
            cancel = false;
            chunk_begin = 0;
            set_run()
        };
        atomic { generation++; state = QUEUED };
        do
        :: atomic { state != DONE && !lock && !cancel -> cancel = true } /* pycrew_batch_cancel */
        :: atomic { state == DONE -> keep_results(); chunk_begin = finished }; /* pc_chunk_collect */
            atomic { /* settle() */
                if
                :: finished == ITEMS -> break
                :: finished < ITEMS && cancel -> /* pc_chunk_fail_rest */
                    assert(!(ends & (ALL & ~(BIT(finished) - 1)))); /* one end */
                    ends = ALL;
                    break
                :: else
                fi
            };
            atomic { set_run() }; /* pc_chunk_resubmit */
            atomic { generation++; state = QUEUED }
        od;
        /* pc_call_reclaim */
#ifdef DISCARD_WITHOUT_LOCK
        in_use = false
#else
        atomic { !lock -> in_use = false } /* pc_chunk_discard */
#endif
        ;
        assert(ends == ALL) /* every item has its end */
    :: else -> break
    od
}

/* ---- the supervisor ---- */

proctype supervisor()
{
    byte i;
end:
    do
    /* chunk_deadline(): pc_chunk_overdue, begin(), interrupt() */
    :: atomic { overdue < OVERDUE && step_generation == 0 && !lock && !dead && state == CLAIMED &&
                started == finished + 1 && !doomed ->
            lock = true;
            overdue++;
            step_item = finished;
            step_generation = generation;
            meant_item = step_item;
            meant_generation = step_generation
        };
        interrupt_item = step_item;
        interrupt_generation = step_generation;
        atomic { signal = true; lock = false }
    /* run_steps() */
    :: atomic { step_generation != 0 && !lock ->
            lock = true;
            if
            :: STILL_RUNS
            :: else -> goto forget
            fi
        };
        /* pc_chunk_doom */
        atomic {
            assert(in_use); /* the chunk that the ladder looks at is still there */
#ifdef DOOM_ANY_ITEM
            if
            :: state == CLAIMED -> doomed = true
            :: else -> goto forget
            fi;
#else
#ifndef KILL_WITHOUT_DOOM
            if
            :: PROGRESS_IS(step_item + 1, step_item) -> doomed = true
            :: else -> goto forget
            fi;
#endif
#endif
            assert(STILL_RUNS && started == step_item + 1 && finished == step_item) /* a kill hits the item it was meant for */
        };
        atomic {
            if
            :: !dead && !killed -> killed = true; kill_is_ours = true
            :: else
            fi
        };
forget:
        atomic { step_generation = 0; step_item = 0; lock = false }
    /* pc_sweep */
    :: atomic { dead && !lock ->
            lock = true;
            if
            :: state != CLAIMED -> goto buried
            :: else
            fi
        };
        atomic { /* pc_chunk_sweep */
            keep_results();
            chunk_begin = finished;
            assert((entered & (ALL & ~(BIT(finished + 1) - 1))) == 0); /* the rest was never entered */
            assert(!(entered & BIT(finished)) || started > finished);  /* who was entered is blamed */
            if
            :: started > finished && !kill_is_ours -> skip /* blame(): a retry */
            :: started > finished -> /* blame(): its end */
                assert(!(ends & BIT(finished))); /* one end */
                ends = ends | BIT(finished);
                chunk_begin++
            :: started == finished
            fi
        };
        atomic {
            if
            :: cancel || chunk_begin == ITEMS -> /* pc_call_end_by_host: the items before have their end */
                finished = chunk_begin;
                started = chunk_begin;
                state = DONE
            :: else -> /* set_run(), pc_call_requeue */
                set_run();
                state = QUEUED
            fi
        };
buried:
        atomic {
            step_generation = 0; /* pc_ladder_forget */
            step_item = 0;
            signal = false;
            killed = false;
            kill_is_ours = false;
            dead = false;
            lock = false
        }
    od
}

proctype watch()
{
    timeout ->
        assert(chunks == CHUNKS && ends == ALL && !in_use && !lock) /* all came to their end */
}

init
{
    atomic {
        run worker();
        run batch();
        run supervisor();
        run death();
        run watch()
    }
}
