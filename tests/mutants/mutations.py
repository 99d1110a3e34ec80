"""The mutations, and the tests that are to notice them.

A change is (file, old, new): old is found in the file once, or `run` says so and stops. by_chance:
the tests race, and are run again if they pass.

What is ordered by an atomic read-modify-write as well as by a fence needs both broken to be seen on
x86-64, where each of the two is a full fence. What only other processors would show (an acquire or
a release less) is not here.
"""
from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    breaks: str
    changes: list  # of (file, old, new)
    tests: list  # of (program, test)
    by_chance: bool = False


ANNOUNCE = "lib/shm/announce.h"
HEAP = "lib/shm/heap.c"
IDLE = "lib/shm/idle.c"
RING = "lib/shm/ring.c"
SLOT = "lib/shm/slot.c"
CALL = "lib/call.c"
CHUNK = "lib/chunk.c"
EXPORT = "lib/export.c"
HOST_CALL = "lib/hostcall.c"
DIRECT = "lib/direct.c"
LADDER = "lib/ladder.c"
MAP = "lib/map.c"
MEMORY = "lib/memory.c"
BUDGET = "lib/shm/budget.c"
ARRAY = "lib/array.c"
REBUILD = "lib/rebuild.c"
RELOAD = "lib/reload.c"
SUPERVISOR = "lib/supervisor.c"
SWEEP = "lib/sweep.c"
ITEMS = "worker/items.c"
LIFE = "worker/life.c"
LOOP = "worker/loop.c"
RUN = "worker/run.c"
WORKER_MAP = "worker/map.c"
WORKER_ARRAY = "worker/array.c"
MODULE = "worker/module.c"
WORKER_HOST = "worker/host.c"
ASYNC = "worker/async.c"
CLI_CHECKPOINT = "cli/checkpoint.c"
CLI_KEEP = "cli/keep.c"
CLI_WRITER = "cli/writer.c"

TEST_ACTOR = "tests/test-actor"
TEST_RESUME = "tests/cli-resume.t"
TEST_INBOX = "tests/shm/test-inbox"
TEST_STREAM = "tests/test-stream"
TEST_ARRAY = "tests/test-array"
TEST_ASYNC = "tests/test-async"
TEST_BATCH_ARRAY = "tests/test-batch-array"
TEST_HELD = "tests/test-held"
TEST_ANNOUNCE = "tests/shm/test-announce"
TEST_HEAP = "tests/shm/test-heap"
TEST_IDLE = "tests/shm/test-idle"
TEST_RING = "tests/shm/test-ring"
TEST_SLOT = "tests/shm/test-slot"
TEST_CALL = "tests/test-call"
TEST_DEADLINE = "tests/test-deadline"
TEST_DEATH = "tests/test-death"
TEST_EXPORT = "tests/test-export"
TEST_EXPORT_DEATH = "tests/test-export-death"
TEST_SCRIBBLE = "tests/test-scribble"
TEST_LIFE = "tests/test-life"
TEST_MAP = "tests/test-map"
TEST_MEMORY = "tests/big/test-memory"
TEST_OVERDUE = "tests/test-overdue"
TEST_QUEUE = "tests/test-queue"
TEST_RELOAD = "tests/test-reload"
TEST_REQUEUE = "tests/test-requeue"
TEST_ITEMS = "tests/worker/test-items"
TEST_STEPS = "tests/steps/test-steps"

SOAK = "tests/soak/pycrew-soak"  # its tests are command lines

FENCE = "    atomic_thread_fence(memory_order_seq_cst);\n"

MUTATIONS = [
    # ---- sleeping and waking ----
    Mutation(
        "idle-sleeper-unfenced",
        "I1: the sleeper's last look may be older than its bit",
        [(IDLE,
          "    atomic_fetch_or_explicit(&segment->header->idle[worker / 64], "
          "UINT64_C(1) << worker % 64,\n"
          "                             memory_order_release);\n",
          "    atomic_store_explicit(&segment->header->idle[worker / 64],\n"
          "                          atomic_load(&segment->header->idle[worker / 64]) |\n"
          "                              UINT64_C(1) << worker % 64,\n"
          "                          memory_order_release);\n"),
         (IDLE, FENCE + "}\n\nbool pc_idle_announce(", "}\n\nbool pc_idle_announce(")],
        [(TEST_IDLE, "a_call_and_a_sleeper_never_miss_each_other")], by_chance=True),
    Mutation(
        "idle-waker-unfenced",
        "I1, I2: the waker's look for sleepers may be older than its push",
        [(IDLE, "    /* I1 and I2: pairs with the fences above. */\n" + FENCE, "")],
        [(TEST_IDLE, "a_call_and_a_sleeper_never_miss_each_other")], by_chance=True),
    Mutation(
        "idle-no-last-look",
        "I1: who goes to sleep does not look again",
        [(IDLE, "    return !pc_ring_ready(segment) &&\n           atomic_load_explicit",
          "    return atomic_load_explicit")],
        [(TEST_IDLE, "a_worker_may_not_sleep_beside_a_call_nor_when_the_crew_closes"),
         (TEST_IDLE, "a_call_and_a_sleeper_never_miss_each_other")]),
    Mutation(
        "inbox-no-last-look",
        "I1: who goes to sleep does not look into its inbox again",
        [(IDLE, "    if (pc_inbox_has(segment, worker))\n        return false;\n", "")],
        [(TEST_INBOX, "a_worker_that_sleeps_is_posted_and_one_with_entries_does_not_sleep")]),
    Mutation(
        "inbox-first-always",
        "a worker with calls of its own takes none from the ring",
        [(LOOP, "0) && !l->ring_is_next &&", "0) &&")],
        [(TEST_ACTOR, "a_busy_actor_does_not_keep_others_calls_from_its_worker")]),
    Mutation(
        "inbox-not-renewed",
        "stale entries of cancelled calls fill the inbox",
        [(DIRECT, "    if (pc_inbox_is_long(&crew->segment", "    if (false && pc_inbox_is_long(&crew->segment")],
        [(TEST_ACTOR, "a_queued_call_is_cancelled_and_its_deadline_passes_without_harm")]),
    Mutation(
        "inbox-any-incarnation",
        "a call for the dead goes to the successor",
        [(DIRECT, "w->inbox_open && w->incarnation == call->incarnation;\n    if (open)\n        push",
          "w->inbox_open;\n    if (open)\n        push")],
        [(TEST_ACTOR, "an_actor_is_made_again_after_its_workers_death")]),
    Mutation(
        "sweep-leaves-directed",
        "calls queued for a dead worker do not end",
        [(SWEEP, "        else if (is_directed_to(call, word, worker))\n",
          "        else if (false && is_directed_to(call, word, worker))\n")],
        [(TEST_ACTOR, "the_death_of_its_worker_ends_all_that_was_submitted")]),
    Mutation(
        "stream-release-interrupts",
        "a release interrupts the item that is made",
        [(CALL, "release_in_flight(call, give_grace);", "release_in_flight(call, cancel);")],
        [(TEST_STREAM, "a_release_while_an_item_is_made_lets_that_end_first")]),
    Mutation(
        "idle-drain-late",
        "I3: the drain comes after the last look, and takes the token of a call that came between",
        [(IDLE,
          "    pc_sleeper_drain(&segment->workers[worker].semaphore);\n"
          "    return pc_idle_announce(segment, worker);\n",
          "    bool may = pc_idle_announce(segment, worker);\n\n"
          "    pc_sleeper_drain(&segment->workers[worker].semaphore);\n"
          "    return may;\n")],
        [(TEST_IDLE, "wherever_a_call_comes_while_a_worker_goes_to_sleep_it_is_not_left"),
         (TEST_IDLE, "a_call_and_a_sleeper_never_miss_each_other")], by_chance=True),
    Mutation(
        "idle-posted-early",
        "`posted` is stored before the post: a waker that dies takes the wake with it",
        [(IDLE, "    if (segment->host)\n        pc_sleeper_wake",
          "    atomic_store_explicit(&record->posted, sleeps, memory_order_relaxed);\n"
          "    if (segment->host)\n        pc_sleeper_wake"),
         (IDLE, "        pc_sleeper_post(&record->semaphore);\n"
          "    atomic_store_explicit(&record->posted, sleeps, memory_order_relaxed);\n",
          "        pc_sleeper_post(&record->semaphore);\n")],
        [(TEST_IDLE, "a_waker_that_dies_at_any_instruction_takes_nobodys_wake_with_it")]),
    Mutation(
        "idle-dead-spinner",
        "a dead spinner stays in the hints, and nobody else is woken",
        [(IDLE,
          "    atomic_compare_exchange_strong_explicit(&segment->header->spinner, &spinner, 0,\n"
          "                                            memory_order_seq_cst, memory_order_relaxed);\n"
          "    atomic_fetch_and", "    (void)spinner;\n    atomic_fetch_and")],
        [(TEST_IDLE, "the_dead_are_forgotten_and_nobody_else")]),
    Mutation(
        "loop-no-hand-on",
        "who has claimed a call does not look for the next",
        [(LOOP, "    if (pc_ring_pending(segment))\n        pc_idle_wake_one(segment);\n    if (__builtin_expect(beside",
          "    if (__builtin_expect(beside")],
        [(TEST_CALL, "of_two_calls_at_a_time_neither_is_left_to_the_worker_that_runs_the_other")],
        by_chance=True),
    Mutation(
        "announce-reader-unfenced",
        "A: the reader's look may be older than `armed`",
        [(ANNOUNCE, "    /* A: pairs with pc_announce */\n" + FENCE, "")],
        [(TEST_ANNOUNCE, "a_reader_and_an_end_never_miss_each_other"),
         (TEST_ANNOUNCE, "a_reader_that_sleeps_is_woken_for_each_end")], by_chance=True),
    Mutation(
        "announce-end-unfenced",
        "A: the announcer's look at `armed` may be older than its bit",
        [(ANNOUNCE,
          "    atomic_fetch_or_explicit(&record->bits[slot / 64], UINT64_C(1) << slot % 64,\n"
          "                             memory_order_release);\n",
          "    atomic_store_explicit(&record->bits[slot / 64],\n"
          "                          atomic_load(&record->bits[slot / 64]) | "
          "UINT64_C(1) << slot % 64,\n"
          "                          memory_order_release);\n"),
         (ANNOUNCE, "    /* A: pairs with pc_announce_arm */\n" + FENCE, "")],
        [(TEST_ANNOUNCE, "a_reader_and_an_end_never_miss_each_other")], by_chance=True),
    Mutation(
        "announce-not-atomic",
        "an end's bit is stored over another's",
        [(ANNOUNCE,
          "    atomic_fetch_or_explicit(&record->bits[slot / 64], UINT64_C(1) << slot % 64,\n"
          "                             memory_order_release);\n",
          "    atomic_store_explicit(&record->bits[slot / 64],\n"
          "                          atomic_load(&record->bits[slot / 64]) | "
          "UINT64_C(1) << slot % 64,\n"
          "                          memory_order_release);\n")],
        [(TEST_ANNOUNCE, "wherever_another_end_is_announced_while_one_is_neither_is_lost")]),
    # ---- the ring ----
    Mutation(
        "ring-head-first",
        "the head moves on before the slot is claimed: who dies in between loses the call",
        [(RING, "        prefetch_slot(segment, entry);\n        /* Again",
          "        help_head(segment, head);\n        /* Again")],
        [(TEST_RING, "a_worker_that_dies_at_any_instruction_of_a_claim_loses_no_call")]),
    Mutation(
        "ring-no-generation",
        "an entry of an earlier life gives away the slot's next call",
        [(RING, "    return pc_word_state(*word) == PC_QUEUED &&\n"
          "           (pc_word_generation(*word) & generation_mask) == "
          "pc_ring_entry_generation(entry);\n",
          "    (void)generation_mask;\n    return pc_word_state(*word) == PC_QUEUED;\n")],
        [(TEST_RING, "a_stale_entry_does_not_give_away_the_next_call_in_its_slot")]),
    Mutation(
        "ring-one-try",
        "a claim that a waiter disturbs passes the entry, and the call is lost",
        [(RING, "        unsigned tries = TRIES;\n        uint32_t head;\n",
          "        unsigned tries = 1;\n        uint32_t head;\n")],
        [(TEST_RING, "wherever_a_waiter_comes_while_its_call_is_claimed_it_is_not_lost")]),
    Mutation(
        "requeue-not-passed",
        "a dead claimant's call is queued again beside its old entry: the ring overruns",
        [(CALL, "    pc_ring_passed(&crew->segment, call->ticket);\n"
          "    /* The dead one may have begun", "    /* The dead one may have begun")],
        [(TEST_REQUEUE, "a_call_queued_again_has_one_entry_ahead_of_the_head")]),
    # ---- slots ----
    Mutation(
        "slot-read-after-done",
        "whom to tell is read after DONE, when the slot may be another call's",
        [(SLOT, "        read_ending(slot, word, ret);\n        /* S2", "        /* S2"),
         (SLOT, "                memory_order_acquire))\n            return true;\n        /* Doomed;",
          "                memory_order_acquire)) {\n            read_ending(slot, word, ret);\n"
          "            return true;\n        }\n        /* Doomed;")],
        [(TEST_SLOT, "nothing_of_a_slot_is_read_after_its_end")]),
    Mutation(
        "slot-waiter-flag",
        "WAITER is a flag: a second waiter between look and swap goes unseen",
        [(SLOT, "        uint64_t waiter = ((word & PC_WAITER_MASK) + PC_WAITER_ONE) & "
          "PC_WAITER_MASK;\n", "        uint64_t waiter = PC_WAITER_ONE;\n")],
        [(TEST_SLOT, "fourteen_changes_of_the_waiter_never_show_the_same_word_twice")]),
    Mutation(
        "slot-doom-ignored",
        "a doomed worker ends its call, and the kill hits the next",
        [(SLOT, "        if (word & PC_FLAG_DOOMED || (word ^ claimed) & ~PC_WAITER_MASK)\n",
          "        if ((word ^ claimed) & ~(PC_WAITER_MASK | PC_FLAG_DOOMED))\n")],
        [(TEST_SLOT, "wherever_a_doom_comes_while_a_call_is_finished_one_of_them_wins")]),
    # ---- deadlines ----
    Mutation(
        "ladder-kill-without-doom",
        "the kill is sent without a look whether the call has ended, and hits the next",
        [(LADDER, "    if (!doom(crew, worker)) {\n        w->killed = false;\n",
          "    if (!doom(crew, worker) && now < 0) {\n        w->killed = false;\n"),
         (LADDER, "        if (!still_runs(crew, i)) {\n            pc_ladder_forget(crew, i);\n",
          "        if (!still_runs(crew, i) && now < 0) {\n            pc_ladder_forget(crew, i);\n")],
        [(TEST_DEADLINE, "a_kill_that_was_due_does_not_hit_the_next_call")]),
    Mutation(
        "interrupt-unnamed",
        "an interrupt that comes late hits the call that runs by then",
        [(MODULE, "    if (call != current->call || item", "    if (call == UINT64_MAX || item")],
        [(TEST_DEADLINE, "an_interrupt_never_hits_the_next_call"),
         (TEST_DEADLINE, "thousands_of_deadlines_near_the_end_hit_nobody_else")], by_chance=True),
    Mutation(
        "chunk-doom-lost",
        "a chunk's progress is stored over the doom of its item",
        [(ITEMS, "    return atomic_compare_exchange_strong_explicit(&chunk->progress, &expected,\n"
          "                                                   pc_chunk_progress(started, item),\n"
          "                                                   memory_order_acq_rel, "
          "memory_order_relaxed);\n}\n\n/* Finishes",
          "    (void)expected;\n"
          "    atomic_store(&chunk->progress, pc_chunk_progress(started, item));\n"
          "    return true;\n}\n\n/* Finishes")],
        [(TEST_ITEMS, "a_doomed_item_is_never_finished")]),
    Mutation(
        "chunk-clock-first",
        "the host's clock is read before an item's start: the next one's is in the future",
        [(CHUNK, "    int64_t now, since, seen;\n", "    int64_t now = pc_now(), since, seen;\n"),
         (CHUNK, "    now = pc_now(); /* after since: the next item may be about to start, its time come "
          "before its progress */\n", "")],
        [(TEST_OVERDUE, "an_item_that_starts_while_the_host_looks_did_not_start_in_the_future")],
        by_chance=True),
    # ---- coroutines ----
    Mutation(
        "async-cancels-again",
        "each interrupt cancels the task once more: what it awaits to clean up is cut short",
        [(ASYNC, "        if (call->execution.stopped || !is_to_stop(call, named, item, now))\n",
          "        call->cancelled = false;\n        if (!is_to_stop(call, named, item, now))\n")],
        [(TEST_ASYNC, "what_is_awaited_in_finally_has_the_grace_for_it")]),
    Mutation(
        "async-nobody-blamed",
        "whose code ran is not known: all of a dead worker's calls are charged with it",
        [(ASYNC, "    set_running(name_of(&call->execution));\n", "    set_running(UINT64_MAX);\n    (void)call;\n")],
        [(TEST_ASYNC, "a_coroutine_that_crashes_is_blamed_and_those_beside_it_name_it")]),
    Mutation(
        "async-token-kept",
        "a waiter that is left over keeps the plain loop's token",
        [(ASYNC, "    pc_sleeper_post(semaphore);\n", "    (void)semaphore;\n")],
        [(TEST_ASYNC, "a_worker_that_was_left_its_waiter_is_woken_for_each_call")]),
    Mutation(
        "async-more-than-may",
        "a turn claims whatever is in flight",
        [(ASYNC, "    return pc_async_pending - async.waiting < async.limit;\n", "    return true;\n")],
        [(TEST_ASYNC, "a_worker_has_no_more_in_flight_than_it_may")]),
    # ---- deaths ----
    Mutation(
        "loop-entered-late",
        "`entered` is published after the function ran: a death in it says that nothing did",
        [(RUN, "        pc_run_publish_entered(e);\n        e->ran = true;\n", "        e->ran = true;\n"),
         (RUN, "    if (result == NULL)\n        *kind = pc_run_exception_kind(e, rc < 0);\n",
          "    pc_run_publish_entered(e);\n"
          "    if (result == NULL)\n        *kind = pc_run_exception_kind(e, rc < 0);\n")],
        [(TEST_DEATH, "a_death_in_a_function_that_was_called_before_"
          "is_one_in_a_call_that_ran")]),
    Mutation(
        "sweep-no-claimed",
        "a call whose worker died never ends",
        [(SWEEP, "            sweep_call(call, word, worker, culprit, error);\n",
          "            (void)error, (void)culprit;\n"),
         (SWEEP, "static void sweep_call(", "__attribute__((unused)) static void sweep_call(")],
        [(TEST_DEATH, "a_killed_worker_is_reported_with_its_signal")]),
    Mutation(
        "sweep-announces-nothing",
        "a call that a worker ended and died before it announced it is not announced: not by the "
        "sweep, nor by the audit before it, which announces all that has ended",
        [(SWEEP, "        pc_call_tell(call);\n", ""),
         (REBUILD, "            pc_call_tell(call); /* that may have been lost */\n", "            ;\n")],
        [(TEST_STEPS, "a_worker_dies_while_it_announces")]),
    Mutation(
        "sweep-one-retry-more",
        "a call whose worker died runs again once more than the caller allowed",
        [(SWEEP, "entered ? call->retries :", "entered ? call->retries + 1u :")],
        [(SOAK, "--calls 200000 --kill 30 --zygote 0 --seed 1")], by_chance=True),
    Mutation(
        "supervisor-descriptor-left",
        "a dead worker's pidfd stays open",
        [(SUPERVISOR, "    close_fd(&w->pidfd);\n", "    w->pidfd = -1;\n")],
        [(SOAK, "--time 6s --seed 1")]),
    Mutation(
        "chunk-died-unsaid",
        "a cancelled batch's item that died is said not to have run",
        [(CHUNK, "        e->may_have_run = true;\n        if (e->attempts < chunk->blamed_deaths)\n"
          "            e->attempts = chunk->blamed_deaths;\n", "        (void)e;\n")],
        [(TEST_DEADLINE, "a_cancelled_item_that_died_may_have_run")]),
    Mutation(
        "lease-not-taken",
        "a result is not leased: its memory is freed with its worker's",
        [(MEMORY, "        set_lease(ret, block, size, worker, w->incarnation);\n",
          "        (void)ret;\n"),
         (MEMORY, "static void set_lease(", "__attribute__((unused)) static void set_lease(")],
        [(TEST_DEATH, "a_result_stays_readable_after_its_worker_died")]),
    # ---- arrays ----
    Mutation(
        "array-lease-not-counted",
        "a taken array is freed with its worker",
        [(MEMORY, "    for (const pc_lease_node *node = crew->lease_nodes; node != NULL; node = node->next)\n",
          "    for (const pc_lease_node *node = NULL; node != NULL; node = node->next)\n")],
        [(TEST_HELD, "leases_outlive_their_worker_and_are_freed_once"),
         (TEST_ARRAY, "a_taken_result_survives_its_workers_death")]),
    Mutation(
        "array-given-back-by-itself",
        "what goes back is linked through a block that Python still sees",
        [(MEMORY, "end_lease(crew, &node->lease, node->cell);",
          "end_lease(crew, &node->lease, atomic_load(&node->lease.block));")],
        [(TEST_HELD, "a_block_goes_back_by_its_cell_and_nothing_is_written_into_it")]),
    Mutation(
        "array-retained-not-told",
        "a view that outlives its call shows what comes after",
        [(WORKER_ARRAY, "bool sees = block->views > 0 && !block->own;", "bool sees = false;")],
        [(TEST_ARRAY, "a_kept_view_never_shows_other_data")]),
    Mutation(
        "array-retained-not-kept",
        "the same, by the host",
        [(ARRAY, "    if (is_retained(arrays->crew, held)) {\n        linger(arrays, held);\n    } else {\n",
          "    if (0) {\n        linger(arrays, held);\n    } else {\n")],
        [(TEST_HELD, "what_a_worker_retains_stays_until_it_lets_go_or_is_dead")]),
    Mutation(
        "array-leased-twice",
        "an array that the host has is given to it again, and given back twice",
        [(WORKER_ARRAY, "return block->own && !block->leased &&", "return block->own &&")],
        [(TEST_ARRAY, "an_array_that_is_kept_and_returned_stays_what_it_is")]),
    Mutation(
        "array-retained-not-noted",
        "the answer says RETAINED, and the host does not note who sees the argument",
        [(ARRAY, "    if (flags & PC_ANSWER_RETAINED)\n        rc = note_retained(",
          "    if (flags & PC_ANSWER_RETAINED && flags == 0)\n        rc = note_retained(")],
        [(SOAK, "--time 8s --kill 5 --zygote 0 --seed 1")], by_chance=True),
    Mutation(
        "array-freed-without-the-word",
        "a block is freed without a look at the worker's word in its cell",
        [(ARRAY, "    return lives &&\n           atomic_load_explicit(",
          "    return lives && held->cell == 0 &&\n           atomic_load_explicit(")],
        [(TEST_STEPS, "a_worker_dies_while_it_retains_an_argument")]),
    Mutation(
        "array-word-not-cleared",
        "the last view goes, and the worker's word stays",
        [(WORKER_ARRAY, "    else if (block->retained)\n        set_word(block, 0);\n", "")],
        [(TEST_STEPS, "a_worker_dies_while_it_lets_go_of_an_argument")]),
    Mutation(
        "array-never-settled",
        "blocks that were kept for workers are never looked at again",
        [(ARRAY, "        if (is_retained(arrays->crew, held))\n            linger(arrays, held);\n",
          "        if (is_retained(arrays->crew, held) || held != NULL)\n"
          "            linger(arrays, held);\n")],
        [(SOAK, "--time 6s --kill 5 --zygote 0 --seed 1")]),
    Mutation(
        "array-result-not-leased",
        "a result's block is handed out, and its span freed with its worker",
        [(ARRAY, "    if (!pc_lease_keep(crew, worker, incarnation, held->block, held->size, cell, "
          "&held->lease))\n",
          "    if (held == NULL && !pc_lease_keep(crew, worker, incarnation, held->block, held->size, "
          "cell, &held->lease))\n")],
        [(SOAK, "--time 8s --kill 50 --zygote 0 --seed 1")], by_chance=True),
    Mutation(
        "array-written-again",
        "a call that may have written half of its argument is tried again without leave",
        [(ARRAY, "    if (array.writable && !(call->flags & PC_CALL_RETRIES_GIVEN))\n"
          "        call->retries = 0;\n", "")],
        [(SOAK, "--time 10s --kill 100 --zygote 0 --seed 1"),
         (TEST_ARRAY, "a_call_with_a_writable_array_is_tried_again_only_if_its_caller_says_so")],
        by_chance=True),
    Mutation(
        "array-copied-back-late",
        "what returns after its release is copied back, to memory that may be gone",
        [(ARRAY, "    if (!released)\n        copy_back(call);\n",
          "    if (!released || released)\n        copy_back(call);\n")],
        [(TEST_ARRAY, "what_returns_after_its_release_is_not_copied_back")]),
    Mutation(
        "array-copied-back-at-close",
        "what returns when the crew closes is copied back, though its waiter was sent out",
        [(ARRAY, "    if (atomic_load(&crew->ending) == 2)\n        return -ECANCELED;\n", "")],
        [(TEST_ARRAY, "what_returns_when_the_crew_closes_is_not_copied_back")]),
    Mutation(
        "array-dead-copied-back",
        "at the release all is copied back, whether the call returned, died, or was cancelled",
        [(ARRAY, "void pc_arrays_leave(pycrew_call *call)\n{\n"
          "    pc_call_arrays *lists = call->arrays;\n",
          "static void copy_back(const pycrew_call *call);\n\n"
          "void pc_arrays_leave(pycrew_call *call)\n{\n"
          "    pc_call_arrays *lists = call->arrays;\n\n    copy_back(call);\n")],
        [(TEST_ARRAY, "what_a_call_has_written_when_it_dies_is_not_copied_back")]),
    Mutation(
        "array-shared-with-a-child",
        "a child of user code writes into its parent's array",
        [(WORKER_ARRAY, "                make_private(first_page(block), pages_size(block));\n",
          "                (void)make_private;\n")],
        [(TEST_ARRAY, "a_child_of_user_code_sees_a_copy_of_its_own")]),
    # ---- memory ----
    Mutation(
        "heap-not-reserved",
        "memory is handed out unreserved: a full /dev/shm is SIGBUS",
        [(HEAP, "    while (span->reserved < to) {\n", "    while (span->reserved < to && errno < 0) {\n")],
        [(TEST_HEAP, "where_dev_shm_is_full_there_is_no_memory_and_no_sigbus"),
         (TEST_HEAP, "memory_is_taken_in_steps_and_returned_with_its_span")]),
    Mutation(
        "memory-slept-on",
        "what is given back to a worker that sleeps stays where it is",
        [(MEMORY, "    if (crew->next_give_back == INT64_MAX && atomic_load(&crew->given_back))\n",
          "    if (false)\n")],
        [(TEST_MEMORY, "large_results_that_were_released_leave_the_memory"),
         (TEST_MEMORY, "arrays_that_were_freed_or_dropped_leave_the_memory")]),
    Mutation(
        "memory-reserved-at-once",
        "several processes reserve what only one of them has room for: an OOM kill",
        [(HEAP, "if (span->reserved >= RESERVE_MOST && ", "if (false && ")],
        [(TEST_MEMORY, "in_a_cgroup_several_that_reserve_at_once_are_no_oom_kill")]),
    Mutation(
        "memory-anybodys-oom-kill",
        "another cgroup's OOM kill is taken for the cause",
        [(BUDGET, "    if (count_cgroup_kills(&kills))\n", "    (void)count_cgroup_kills;\n    if (false)\n")],
        [(TEST_MEMORY, "an_oom_kill_in_another_cgroup_is_not_taken_for_the_cause")]),
    # ---- maps ----
    Mutation(
        "map-in-place-retried",
        "a retry may read what the try before has written",
        [(MAP, "    map->retries = 0;\n    return 0;\n}", "    return 0;\n}")],
        [(TEST_MAP, "an_element_that_died_in_place_is_not_tried_again")]),
    Mutation(
        "map-progress-early",
        "an element's number is said to be finished when it starts: one that died is taken for done",
        [(WORKER_MAP, "    publish_progress(chunk, item + 1, item);\n    return true;\n",
          "    publish_progress(chunk, item + 1, item + 1);\n    return true;\n")],
        [(TEST_STEPS, "a_worker_dies_in_a_maps_chunk")]),
    Mutation(
        "map-failures-unread",
        "what a worker says of failures is not looked at: an element that failed is read as one that returned",
        [(CHUNK, "    if (chunk->kind != PC_CHUNK_ITEMS) {\n        save_failures(call, finished);\n",
          "    if (chunk->kind != PC_CHUNK_ITEMS) {\n")],
        [(TEST_MAP, "what_fails_is_filled_and_counted")]),
    Mutation(
        "batch-item-stays-with-others",
        "an item with arrays shares a chunk, whose end is taken for its own",
        [("lib/batch.c", "    if (rc == 0 && alone && !filling_is_empty(batch))", "    if (rc == 0 && false)")],
        [(TEST_BATCH_ARRAY, "an_item_with_an_array_behind_others_does_not_share_their_fate")],
    ),
    Mutation(
        "batch-arrays-unleased",
        "arrays in the results of a chunk's items are not leased",
        [(CHUNK, "        lease_arrays(call, worker, incarnation, item);", "        (void)lease_arrays;")],
        [(TEST_BATCH_ARRAY, "arrays_that_items_before_a_death_returned_stay")],
    ),
    Mutation(
        "batch-results-not-handed-out",
        "what a chunk that yielded has is kept until the rest has run",
        [("lib/batch.c",
          "    if (chunk->yielded && chunk->finished > chunk->out)\n        return true;\n", "")],
        [(TEST_BATCH_ARRAY, "results_larger_than_the_memory_wait_until_those_before_are_taken_out")],
    ),
    Mutation(
        "upcall-place-used-again",
        "a place whose answer is still to come is used for the next request",
        [(WORKER_HOST, "        host.places[place] = PLACE_LEFT;\n", "        free_place(place);\n")],
        [(TEST_EXPORT_DEATH, "a_late_answer_does_not_reach_the_next_request")],
    ),
    Mutation(
        "upcall-signals-unseen",
        "who waits for the host does not look for signals",
        [(WORKER_HOST, "        if (PyErr_CheckSignals() < 0 || check_left() < 0)", "        if (check_left() < 0)")],
        [(TEST_EXPORT_DEATH, "a_deadline_interrupts_a_function_that_waits_for_the_host")],
    ),
    Mutation(
        "upcall-orphans-answered",
        "the answer to a dead worker's request goes to its successor",
        [(EXPORT, "            atomic_store(&place->call->orphaned, true);", "            (void)place->call;")],
        [(TEST_EXPORT_DEATH, "a_worker_that_dies_lets_the_function_finish_and_gets_no_answer")],
    ),
    Mutation(
        "upcall-arguments-unleased",
        "the lease on the arguments ends before the function runs",
        [(EXPORT, "    call->arguments = (pc_cursor){at, at + size};",
          "    pc_lease_end(call->crew, &call->lease.lease);\n    call->arguments = (pc_cursor){at, at + size};")],
        [(TEST_EXPORT_DEATH, "arguments_in_a_dead_workers_memory_stay_until_the_function_returns")],
    ),
    Mutation(
        "upcall-left-requests-run",
        "what nobody waits for is run",
        [(HOST_CALL, "call->orphaned || pc_upcall_is_released(call->upcall, call->sequence))\n        return;",
          "call->orphaned)\n        return;")],
        [(TEST_EXPORT_DEATH, "a_request_that_nobody_waits_for_any_more_is_not_run")],
    ),
    Mutation(
        "upcall-announced-once",
        "who waits for the host trusts `armed` each time it announces",
        [(WORKER_HOST, "host.worker->number, true);", "host.worker->number, false);")],
        [(TEST_SCRIBBLE, "a_call_to_the_host_is_heard_though_its_announcement_was_written_over")],
    ),
    Mutation(
        "upcall-answers-unlooked",
        "an answer's number that was written over is not looked for",
        [(EXPORT, "    if (place->call == NULL && !pc_upcall_is_answered(upcall, place->sequence))", "    if (false)")],
        [(TEST_SCRIBBLE, "an_answer_of_the_hosts_that_was_written_over_is_found")],
    ),
    Mutation(
        "upcall-answers-kept",
        "the block of an answer is freed by the next one in its place alone",
        [(EXPORT, "    if (place->block != 0 && pc_upcall_is_released(upcall, place->sequence))\n        free_answer(x, place);\n", "")],
        [(TEST_EXPORT, "the_memory_of_a_large_answer_is_there_again_when_it_was_read")],
    ),
    Mutation(
        "life-end-untold",
        "a worker near its end does not say so: its successor starts when it leaves",
        [(LIFE, "    if (!worker->life.retires)\n        pc_lifeline_say(worker, PC_MESSAGE_WORKER_RETIRES);\n", "")],
        [(TEST_LIFE, "a_successor_is_there_before_a_worker_leaves")]),
    Mutation(
        "life-one-call-more",
        "a worker makes one call more than it may",
        [(LIFE, "calls >= life->max_calls;", "calls > life->max_calls;")],
        [(TEST_LIFE, "a_worker_is_replaced_after_exactly_its_calls")]),
    Mutation(
        "life-shared-memory-counts",
        "what a worker shares with the host counts as its own",
        [(LIFE, '"RssAnon: %llu"', '"VmRSS: %llu"')],
        [(TEST_LIFE, "what_is_shared_with_the_host_is_no_growth")]),
    Mutation(
        "life-exit-left-out",
        "a worker whose lifeline ends before its admission runs no exit function",
        [("worker/zygote.c", "        status = pc_loop_run(&worker);\n",
          "        status = pc_loop_run(&worker);\n    else\n        _exit(PC_EXIT_ORPHANED);\n")],
        [(TEST_LIFE, "each_init_has_its_exit_when_workers_are_replaced_and_the_crew_closed")], by_chance=True),
    Mutation(
        "successor-not-admitted",
        "a successor moves to the place of the dead, and is not admitted",
        [(SUPERVISOR, "        if (w->waiting && !w->killed && !w->gone)\n            admit(crew, i);\n", "")],
        [(TEST_LIFE, "each_call_can_have_a_process_of_its_own")]),
    Mutation(
        "successor-beside-the-living",
        "a successor is admitted while the place's worker lives: two processes with one record",
        [(SUPERVISOR, "        if (w->state != PC_WORKER_NONE || w->output >= 0 || !has_heir(crew, i))\n"
          "            continue;\n        move_to_place",
          "        if (!has_heir(crew, i) || !crew->crew_workers[i + crew->workers].waiting)\n"
          "            continue;\n        move_to_place")],
        [(TEST_LIFE, "each_call_can_have_a_process_of_its_own")]),
    Mutation(
        "reload-wakes-nobody",
        "an idle worker that is to leave sleeps on",
        [(IDLE, "    pc_idle_wake_worker(segment, worker); /* I5 */\n", "")],
        [(TEST_RELOAD, "after_a_reload_no_process_of_before_is_left")]),
    Mutation(
        "reload-unproven",
        "the new zygote takes over before a worker of it has run init",
        [(RELOAD, "    if (!prove(crew))\n        return INT64_MAX;\n", "    prove(crew);\n")],
        [(TEST_RELOAD, "an_init_function_that_fails_leaves_the_workers")]),
    Mutation(
        "reload-serves-later-ones",
        "who asks while a reload is under way is told that it is done with that one",
        [(RELOAD, "if (w->done || w->ticket > crew->reload.serves)", "if (w->done)")],
        [(TEST_RELOAD, "who_asks_in_the_middle_of_a_reload_gets_one_of_its_own")]),
    Mutation(
        "reload-kills",
        "workers of the old zygote are killed instead of told to leave",
        [(RELOAD, "            pc_worker_tell_to_leave(crew, place);\n",
          "            w->told_to_leave = now, pc_worker_kill(w);\n")],
        [(TEST_RELOAD, "no_call_fails_or_sees_old_text_while_the_crew_is_reloaded_again_and_again")]),
    Mutation(
        "reload-ends-the-old-zygote-first",
        "the old zygote is ended while workers of its have calls",
        [(RELOAD, "    if (pc_worker_any_of(crew, old))\n        return next;\n", "")],
        [(TEST_RELOAD, "a_call_that_takes_long_is_waited_for")]),
    Mutation(
        "reload-given-up-goes-on",
        "a reload that nobody waits for any more is not ended",
        [(RELOAD, "    if (!anyone_waits(crew, crew->reload.serves)) {", "    if (false) {")],
        [(TEST_RELOAD, "a_reload_whose_import_takes_too_long_is_given_up")]),
    Mutation(
        "checkpoint-ahead-of-the-output",
        "a checkpoint says that results are written which are still in memory",
        [(CLI_WRITER, "    int r = writer_flush(writer);\n    if (r == 0 && writer->in_member)",
          "    int r = writer->error;\n    if (r == 0 && writer->in_member)")],
        [(TEST_RESUME, "results_in_order_survive_kills")], by_chance=True),
    Mutation(
        "checkpoint-output-not-synced",
        "the output is not on the disk when the checkpoint is",
        [(CLI_WRITER, "if (r == 0 && fdatasync(writer->fd) != 0)", "if (false)")],
        [(TEST_RESUME, "the_power_may_go_before_each_call")], by_chance=True),
    Mutation(
        "checkpoint-renamed-unsynced",
        "a checkpoint gets its name before it is on the disk",
        [(CLI_CHECKPOINT, "if (r == 0 && fsync(fd) != 0)", "if (false)")],
        [(TEST_RESUME, "the_power_may_go_before_each_call")], by_chance=True),
    Mutation(
        "checkpoint-in-place",
        "a checkpoint is written over the old one",
        [(CLI_CHECKPOINT, '"%s.new"', '"%s"')],
        [(TEST_RESUME, "it_may_die_in_the_middle_of_each_write")], by_chance=True),
    Mutation(
        "resume-cuts-nothing",
        "what stands behind the checkpoint is not cut off",
        [(CLI_WRITER, "ftruncate(writer->fd, (off_t)mark->size) != 0 ||", "")],
        [(TEST_RESUME, "an_output_that_changed_is_refused")]),
    Mutation(
        "resume-does-all-again",
        "records that were done behind one that was not are done again",
        [(CLI_KEEP, "return number < map->keep.from.read && !ranges_have", "return false && !ranges_have")],
        [(TEST_RESUME, "unordered_results_survive_kills")], by_chance=True),
    Mutation(
        "resume-forgets-what-it-has-not-seen",
        "killed again before it is where the run before was, it forgets which records that had done",
        [(CLI_KEEP, "to->read = from->read > seen ? from->read : seen;", "to->read = seen;")],
        [(TEST_RESUME, "unordered_results_survive_kills")], by_chance=True),
    Mutation(
        "stack-of-all-threads",
        "the stack that is asked for is that of all threads",
        [("python/pycrew/__init__.py", "file=fault_fd, all_threads=False)", "file=fault_fd, all_threads=True)")],
        [(TEST_DEADLINE, "a_stack_that_is_asked_for_changes_nothing")], by_chance=True),
    Mutation(
        "stack-loses-errno",
        "whoever is asked for its stack goes on with another errno",
        [("worker/stack.c", "    errno = error;\n", "    (void)error;\n")],
        [(TEST_DEADLINE, "a_stack_that_is_asked_for_changes_nothing")], by_chance=True),
    Mutation(
        "stack-taken-for-last-words",
        "a stack that was asked for is what a worker that dies later is said to have died of",
        [(LADDER, "if (text != NULL && was_asked(text)) {", "if (false && was_asked(text)) {")],
        [(TEST_DEADLINE, "a_stack_that_was_asked_for_is_not_taken_for_last_words")]),
]
