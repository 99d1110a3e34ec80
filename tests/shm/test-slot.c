/* What lib/shm/slot.h promises: a call's owner, its waiter and its end meet in one word, and of two
 * that race for it exactly one wins. */
#include "tests/shm/fixture.h"

#include "lib/shm/slot.h"

enum { WORKER = 5, OTHER = 6, INCARNATION = 0xabc, QUEUE = 2, NEXT_QUEUE = 1, SLEEPER = 17 };
enum { GENERATION = 0x76543210 };

static pc_slot *slot_new(void)
{
    return shared_memory(sizeof(pc_slot));
}

static uint64_t word_of(const pc_slot *slot)
{
    return atomic_load(&slot->control);
}

static enum pc_state state_of(const pc_slot *slot)
{
    return pc_word_state(word_of(slot));
}

/* As submit does. */
static void fill(pc_slot *slot, uint32_t generation)
{
    atomic_store(&slot->queue, (uint16_t)QUEUE);
    atomic_store(&slot->sleeper, PC_SLEEPER_NONE);
    pc_slot_queue(slot, generation);
}

static uint64_t claimed(pc_slot *slot, uint32_t generation)
{
    fill(slot, generation);
    uint64_t word = word_of(slot);
    ASSERT(pc_slot_claim(slot, &word, WORKER, INCARNATION));
    return word;
}

static bool set_sleeper(pc_slot *slot, uint32_t generation, uint32_t sleeper)
{
    atomic_store_explicit(&slot->sleeper, sleeper, memory_order_release);
    return pc_slot_set_waiter(slot, generation);
}

static unsigned waiter_of(uint64_t word)
{
    return (unsigned)((word & PC_WAITER_MASK) / PC_WAITER_ONE);
}

/* ---- the word ---- */

TEST(an_owner_enters_the_word_without_touching_the_rest)
{
    uint64_t random = 1;
    for (int i = 0; i < 10000; i++) {
        uint64_t word = random_next(&random);
        unsigned worker = (unsigned)random_below(&random, PC_WORKERS_MAX);
        unsigned incarnation = (unsigned)random_next(&random);
        uint64_t owned = pc_word_owned(word, PC_CLAIMED, worker, incarnation);
        uint64_t rest = PC_WAITER_MASK | PC_FLAG_DOOMED | UINT64_C(0xffffffff) << 32;
        ASSERT((owned & rest) == (word & rest));
        ASSERT_INT(pc_word_generation(owned), pc_word_generation(word));
        ASSERT_INT(pc_word_worker(owned), worker);
        ASSERT_INT(owned >> PC_INCARNATION_SHIFT & PC_INCARNATION_MASK, incarnation & 0xfff);
        ASSERT_INT(pc_word_state(owned), PC_CLAIMED);
    }
}

TEST(a_word_is_its_generation_and_its_state)
{
    uint64_t word = pc_word_of(UINT32_MAX, PC_DONE);
    ASSERT_INT(pc_word_generation(word), UINT32_MAX);
    ASSERT_INT(pc_word_state(word), PC_DONE);
    ASSERT_INT(pc_word_worker(word), 0);
    ASSERT_INT(waiter_of(word), 0);
    ASSERT((word & PC_FLAG_DOOMED) == 0);
    ASSERT((unsigned)PC_WORKER_HOST >= PC_WORKERS_MAX); /* no worker is taken for the host */
}

/* ---- a life ---- */

TEST(a_call_goes_from_queued_to_done_in_the_hands_of_its_owner)
{
    pc_slot *slot = slot_new();
    pc_ending ending = {1, 1};
    fill(slot, GENERATION);
    ASSERT(word_of(slot) == pc_word_of(GENERATION, PC_QUEUED));
    uint64_t word = word_of(slot);
    ASSERT(pc_slot_claim(slot, &word, WORKER, INCARNATION));
    ASSERT(word == word_of(slot));
    ASSERT_INT(pc_word_state(word), PC_CLAIMED);
    ASSERT_INT(pc_word_worker(word), WORKER);
    ASSERT_INT(pc_word_generation(word), GENERATION);
    ASSERT(pc_slot_finish(slot, word, &ending));
    ASSERT_INT(state_of(slot), PC_DONE);
    ASSERT_INT(pc_word_worker(word_of(slot)), WORKER);
    ASSERT_INT(pc_word_generation(word_of(slot)), GENERATION);
    ASSERT_INT(ending.queue, QUEUE);
    ASSERT_INT(ending.sleeper, PC_SLEEPER_NONE);
}

TEST(a_claim_takes_the_call_that_was_seen_and_no_other)
{
    pc_slot *slot = slot_new();
    fill(slot, GENERATION);
    uint64_t seen = word_of(slot);
    static const enum pc_state states[] = {PC_FREE, PC_CLAIMED, PC_DONE};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        uint64_t now = pc_word_of(GENERATION, states[i]), word = seen;
        atomic_store(&slot->control, now);
        ASSERT(!pc_slot_claim(slot, &word, WORKER, INCARNATION));
        ASSERT(word_of(slot) == now);
    }
    uint64_t word = seen;
    fill(slot, GENERATION + 1);
    ASSERT(!pc_slot_claim(slot, &word, WORKER, INCARNATION));
    ASSERT(word == word_of(slot) && state_of(slot) == PC_QUEUED); /* as it is now */
}

TEST(a_waiter_that_came_before_the_claim_or_after_it_is_told)
{
    pc_slot *slot = slot_new();
    pc_ending ending;
    fill(slot, GENERATION);
    ASSERT(set_sleeper(slot, GENERATION, SLEEPER));
    uint64_t word = word_of(slot);
    ASSERT(pc_slot_claim(slot, &word, WORKER, INCARNATION));
    ASSERT(pc_slot_finish(slot, word, &ending));
    ASSERT_INT(ending.sleeper, SLEEPER);

    word = claimed(slot, GENERATION + 1);
    ASSERT(set_sleeper(slot, GENERATION + 1, SLEEPER + 1));
    ASSERT(pc_slot_finish(slot, word, &ending));
    ASSERT_INT(ending.sleeper, SLEEPER + 1);
}

TEST(a_sleeper_without_the_waiter_flag_is_an_old_one_and_not_told)
{
    pc_slot *slot = slot_new();
    pc_ending ending;
    uint64_t word = claimed(slot, GENERATION);
    atomic_store(&slot->sleeper, SLEEPER);
    ASSERT(pc_slot_finish(slot, word, &ending));
    ASSERT_INT(ending.sleeper, PC_SLEEPER_NONE);
}

TEST(a_waiter_is_refused_when_the_call_has_ended_or_is_another)
{
    pc_slot *slot = slot_new();
    static const enum pc_state states[] = {PC_FREE, PC_QUEUED, PC_CLAIMED, PC_DONE};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        uint64_t word = pc_word_of(GENERATION, states[i]);
        bool in_flight = states[i] != PC_FREE && states[i] != PC_DONE;
        atomic_store(&slot->control, word);
        ASSERT(!pc_slot_set_waiter(slot, GENERATION + 1));
        ASSERT(!pc_slot_set_waiter(slot, GENERATION - 1));
        ASSERT(word_of(slot) == word);
        ASSERT_INT(pc_slot_set_waiter(slot, GENERATION), in_flight);
        ASSERT((word_of(slot) == word) == !in_flight);
        ASSERT((word_of(slot) & ~PC_WAITER_MASK) == word);
    }
}

TEST(fourteen_changes_of_the_waiter_never_show_the_same_word_twice)
{
    pc_slot *slot = slot_new();
    uint64_t seen[40];
    claimed(slot, GENERATION);
    for (int i = 0; i < 40; i++) {
        ASSERT(pc_slot_set_waiter(slot, GENERATION));
        seen[i] = word_of(slot);
        ASSERT(waiter_of(seen[i]) != 0); /* that is: nobody waits */
        for (int k = i - 14 < 0 ? 0 : i - 14; k < i; k++)
            ASSERT(seen[k] != seen[i]);
    }
}

TEST(a_doom_hits_the_call_that_its_worker_holds_and_no_other)
{
    pc_slot *slot = slot_new();
    static const enum pc_state states[] = {PC_FREE, PC_QUEUED, PC_DONE};
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        uint64_t word = pc_word_owned(pc_word_of(GENERATION, 0), states[i], WORKER, INCARNATION);
        atomic_store(&slot->control, word);
        ASSERT(!pc_slot_doom(slot, GENERATION, WORKER));
        ASSERT(word_of(slot) == word);
    }
    uint64_t word = claimed(slot, GENERATION);
    ASSERT(!pc_slot_doom(slot, GENERATION, OTHER));
    ASSERT(!pc_slot_doom(slot, GENERATION + 1, WORKER));
    ASSERT(word_of(slot) == word);
    ASSERT(pc_slot_doom(slot, GENERATION, WORKER));
    ASSERT(word_of(slot) == (word | PC_FLAG_DOOMED));
    ASSERT(pc_slot_doom(slot, GENERATION, WORKER));
}

TEST(a_doomed_worker_does_not_finish)
{
    pc_slot *slot = slot_new();
    pc_ending ending;
    uint64_t word = claimed(slot, GENERATION);
    ASSERT(pc_slot_doom(slot, GENERATION, WORKER));
    ASSERT(!pc_slot_finish(slot, word, &ending));
    ASSERT(word_of(slot) == (word | PC_FLAG_DOOMED));
    ASSERT(set_sleeper(slot, GENERATION, SLEEPER)); /* waits for what comes of the death */
    ASSERT(!pc_slot_finish(slot, word, &ending));
    ASSERT_INT(state_of(slot), PC_CLAIMED);
    ASSERT(word_of(slot) & PC_FLAG_DOOMED);
}

TEST(a_word_that_was_scribbled_over_is_not_finished)
{
    pc_slot *slot = slot_new();
    pc_ending ending;
    uint64_t word = claimed(slot, GENERATION);
    for (int bit = 0; bit < 64; bit++) {
        if (PC_WAITER_MASK >> bit & 1)
            continue;
        atomic_store(&slot->control, word ^ UINT64_C(1) << bit);
        ASSERT(!pc_slot_finish(slot, word, &ending));
        ASSERT(word_of(slot) == (word ^ UINT64_C(1) << bit));
    }
}

TEST(the_host_ends_a_queued_call_and_one_of_the_dead_and_tells_its_waiter)
{
    pc_slot *slot = slot_new();
    for (int owned = 0; owned < 2; owned++) {
        pc_ending ending;
        fill(slot, GENERATION);
        if (owned)
            claimed(slot, GENERATION);
        ASSERT(set_sleeper(slot, GENERATION, SLEEPER));
        uint64_t word = word_of(slot);
        ASSERT(!pc_slot_end_by_host(slot, word ^ PC_WAITER_ONE, &ending));
        ASSERT(word_of(slot) == word);
        ASSERT(pc_slot_end_by_host(slot, word, &ending));
        ASSERT_INT(state_of(slot), PC_DONE);
        ASSERT_INT(pc_word_worker(word_of(slot)), PC_WORKER_HOST);
        ASSERT_INT(pc_word_generation(word_of(slot)), GENERATION);
        ASSERT_INT(ending.sleeper, SLEEPER);
        ASSERT_INT(ending.queue, QUEUE);
        uint64_t late = word;
        ASSERT(!pc_slot_claim(slot, &late, OTHER, INCARNATION));
        ASSERT(!pc_slot_finish(slot, word, &ending));
    }
}

/* ---- races, instruction by instruction ---- */

static struct {
    pc_slot *slot;
    uint64_t word;
    pc_ending ending;
    bool finished, waits[2], doomed, ended, won[2], reused;
} race;

static void prepare_claimed(void *argument)
{
    (void)argument;
    pc_slot *slot = race.slot;
    memset(&race, 0, sizeof race);
    race.slot = slot;
    race.word = claimed(slot, GENERATION);
}

static void finish(void *argument)
{
    (void)argument;
    race.finished = pc_slot_finish(race.slot, race.word, &race.ending);
}

static void wait_first(void *argument)
{
    (void)argument;
    race.waits[0] = set_sleeper(race.slot, GENERATION, SLEEPER);
}

/* As release does: another sleeper, and another queue. */
static void wait_second(void *argument)
{
    (void)argument;
    atomic_store_explicit(&race.slot->queue, (uint16_t)NEXT_QUEUE, memory_order_release);
    race.waits[1] = set_sleeper(race.slot, GENERATION, SLEEPER + 1);
}

static void check_told(void *argument)
{
    (void)argument;
    ASSERT(race.finished);
    ASSERT_INT(state_of(race.slot), PC_DONE);
    if (race.waits[1]) {
        ASSERT_INT(race.ending.sleeper, SLEEPER + 1);
        ASSERT_INT(race.ending.queue, NEXT_QUEUE);
    } else if (race.waits[0]) {
        /* The second, who has seen the end, may have left its number already: told in vain. */
        ASSERT(race.ending.sleeper == SLEEPER || race.ending.sleeper == SLEEPER + 1);
    } else {
        ASSERT_INT(race.ending.sleeper, PC_SLEEPER_NONE);
    }
}

TEST(wherever_waiters_come_while_a_call_is_finished_they_are_told_or_see_the_end)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_claimed,
                               .stepped = finish,
                               .others = {wait_first, wait_second},
                               .check = check_told});
}

TEST(wherever_a_call_is_finished_while_a_waiter_comes_it_is_told_or_sees_the_end)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_claimed,
                               .stepped = wait_second,
                               .others = {finish, NULL},
                               .check = check_told});
}

TEST(wherever_the_second_waiter_comes_while_a_call_is_finished_it_is_told_or_sees_the_end)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_claimed,
                               .stepped = finish,
                               .others = {wait_second, NULL},
                               .check = check_told});
}

static void doom(void *argument)
{
    (void)argument;
    race.doomed = pc_slot_doom(race.slot, GENERATION, WORKER);
}

static void check_one_end(void *argument)
{
    (void)argument;
    ASSERT_INT(race.finished + race.doomed, 1);
    ASSERT_INT(state_of(race.slot), race.finished ? PC_DONE : PC_CLAIMED);
    ASSERT_INT((word_of(race.slot) & PC_FLAG_DOOMED) != 0, race.doomed);
}

TEST(wherever_a_doom_comes_while_a_call_is_finished_one_of_them_wins)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_claimed,
                               .stepped = finish,
                               .others = {doom, NULL},
                               .check = check_one_end});
}

TEST(wherever_a_call_is_finished_while_a_doom_comes_one_of_them_wins)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_claimed,
                               .stepped = doom,
                               .others = {finish, NULL},
                               .check = check_one_end});
}

TEST(wherever_a_waiter_and_a_doom_come_while_a_call_is_finished_one_of_them_wins)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_claimed,
                               .stepped = finish,
                               .others = {wait_first, doom},
                               .check = check_one_end});
}

/* As soon as a call has ended, the host may give its slot to the next. */
static void reuse_once_done(void *argument)
{
    (void)argument;
    if (state_of(race.slot) != PC_DONE)
        return;
    race.reused = true;
    atomic_store(&race.slot->queue, (uint16_t)NEXT_QUEUE);
    atomic_store(&race.slot->sleeper, SLEEPER + 2);
    pc_slot_queue(race.slot, GENERATION + 1);
}

static void check_not_of_the_next_call(void *argument)
{
    (void)argument;
    ASSERT(race.finished);
    ASSERT_INT(race.ending.queue, QUEUE);
    ASSERT_INT(race.ending.sleeper, race.waits[0] ? SLEEPER : PC_SLEEPER_NONE);
}

TEST(nothing_of_a_slot_is_read_after_its_end)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_claimed,
                               .stepped = finish,
                               .others = {wait_first, reuse_once_done},
                               .check = check_not_of_the_next_call});
    ASSERT(race.reused); /* at least in the last run */
}

static void prepare_queued(void *argument)
{
    (void)argument;
    pc_slot *slot = race.slot;
    memset(&race, 0, sizeof race);
    race.slot = slot;
    fill(slot, GENERATION);
}

static void claim(void *argument)
{
    (void)argument;
    uint64_t word = pc_word_of(GENERATION, PC_QUEUED);
    race.won[0] = pc_slot_claim(race.slot, &word, WORKER, INCARNATION);
}

static void claim_too(void *argument)
{
    (void)argument;
    uint64_t word = pc_word_of(GENERATION, PC_QUEUED);
    race.won[1] = pc_slot_claim(race.slot, &word, OTHER, INCARNATION);
}

static void end_by_host(void *argument)
{
    (void)argument;
    race.ended = pc_slot_end_by_host(race.slot, pc_word_of(GENERATION, PC_QUEUED), &race.ending);
}

static void check_one_owner(void *argument)
{
    (void)argument;
    unsigned owner = race.ended ? PC_WORKER_HOST : race.won[0] ? WORKER : OTHER;
    ASSERT_INT(race.won[0] + race.won[1] + race.ended, 1);
    ASSERT_INT(pc_word_worker(word_of(race.slot)), owner);
    ASSERT_INT(state_of(race.slot), race.ended ? PC_DONE : PC_CLAIMED);
}

TEST(wherever_others_come_while_a_call_is_claimed_one_of_them_gets_it)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_queued,
                               .stepped = claim,
                               .others = {claim_too, end_by_host},
                               .check = check_one_owner});
}

TEST(wherever_others_come_while_the_host_ends_a_call_one_of_them_gets_it)
{
    race.slot = slot_new();
    interleave(&(interleaving){.prepare = prepare_queued,
                               .stepped = end_by_host,
                               .others = {claim_too, claim},
                               .check = check_one_owner});
}

/* ---- races of threads ---- */

enum { RACE_MS = 400, LEAST = 100, RACERS = 2 };

/* A call a round, handed from the host's thread to the worker's and back by its state. */
typedef struct duel {
    pc_slot *slot;
    _Atomic uint32_t generation; /* of the call that is on; 0: the end */
    _Atomic uint32_t answered;   /* the last that the worker has answered for */
    pc_ending ending;
    bool finished;
} duel;

static void *duel_worker(void *argument)
{
    duel *d = argument;
    uint64_t random = 7;
    use_cpu(1);
    for (uint32_t next = 1;; next++) {
        uint32_t generation;
        UNTIL((generation = atomic_load(&d->generation)) != next - 1);
        if (generation == 0)
            return NULL;
        uint64_t word = word_of(d->slot);
        while (pc_word_state(word) != PC_QUEUED ||
               !pc_slot_claim(d->slot, &word, WORKER, INCARNATION))
            word = word_of(d->slot);
        random_pause(&random);
        d->slot->result_size = generation;
        d->finished = pc_slot_finish(d->slot, word, &d->ending);
        atomic_store(&d->answered, generation);
    }
}

static void duel_next(duel *d, uint32_t generation)
{
    d->slot->arguments_size = generation;
    fill(d->slot, generation);
    atomic_store(&d->generation, generation);
}

TEST(a_waiter_that_races_the_end_is_told_or_sees_the_end)
{
    duel d = {.slot = slot_new()};
    use_cpu(0);
    pthread_t worker = thread_start(duel_worker, &d);
    uint64_t random = 3;
    uint32_t told = 0, saw = 0, generation = 1;
    for (rounds r = rounds_of(RACE_MS, LEAST); rounds_go_on(&r); generation++) {
        uint32_t last = PC_SLEEPER_NONE, changes = 1 + (uint32_t)random_below(&random, 12);
        duel_next(&d, generation);
        random_pause(&random);
        for (uint32_t i = 0; i < changes && set_sleeper(d.slot, generation, i); i++) {
            last = i;
            if (i % 4 == 3)
                random_pause(&random);
        }
        UNTIL_OR(atomic_load(&d.answered) == generation, "round %u", generation);
        ASSERT(d.finished);
        ASSERT_INT(d.slot->result_size, generation); /* S2: the result is complete */
        if (last == PC_SLEEPER_NONE) {
            ASSERT_INT(d.ending.sleeper, PC_SLEEPER_NONE);
            saw++;
            continue;
        }
        /* Who was refused had stored its number already: it may be told in vain. */
        if (d.ending.sleeper != last && d.ending.sleeper != last + 1)
            tap_fail("sleeper %u waits and %u is told", last, d.ending.sleeper);
        told += last + 1 == changes;
        saw += last + 1 < changes;
    }
    atomic_store(&d.generation, 0);
    thread_end(worker);
    DIAG("%u waiters were told, %u saw the end, in %u rounds", told, saw, generation - 1);
}

TEST(of_a_doom_and_an_end_that_race_one_wins)
{
    duel d = {.slot = slot_new()};
    use_cpu(0);
    pthread_t worker = thread_start(duel_worker, &d);
    uint64_t random = 3;
    uint32_t dooms = 0, generation = 1;
    for (rounds r = rounds_of(RACE_MS, LEAST); rounds_go_on(&r); generation++) {
        duel_next(&d, generation);
        UNTIL(state_of(d.slot) != PC_QUEUED);
        random_pause(&random);
        bool doomed = pc_slot_doom(d.slot, generation, WORKER);
        UNTIL_OR(atomic_load(&d.answered) == generation, "round %u", generation);
        ASSERT_INT(doomed + d.finished, 1);
        ASSERT_INT((word_of(d.slot) & PC_FLAG_DOOMED) != 0, doomed);
        dooms += doomed;
    }
    atomic_store(&d.generation, 0);
    thread_end(worker);
    DIAG("%u dooms in %u rounds", dooms, generation - 1);
}

typedef struct scramble {
    pc_slot *slot;
    _Atomic uint32_t generation; /* 0: the end */
    _Atomic uint32_t answers, wins, workers;
} scramble;

static void *scramble_claim(void *argument)
{
    scramble *s = argument;
    use_cpu((int)atomic_fetch_add(&s->workers, 1));
    for (uint32_t seen = 0, generation;; seen = generation) {
        UNTIL((generation = atomic_load(&s->generation)) != seen);
        if (generation == 0)
            return NULL;
        uint64_t word = pc_word_of(generation, PC_QUEUED);
        if (pc_slot_claim(s->slot, &word, WORKER, INCARNATION)) {
            ASSERT_INT(s->slot->arguments_size, generation); /* S1: the arguments are complete */
            atomic_fetch_add(&s->wins, 1);
        }
        atomic_fetch_add(&s->answers, 1);
    }
}

TEST(of_workers_and_a_host_that_race_for_a_call_one_gets_it)
{
    scramble s = {.slot = slot_new()};
    pthread_t workers[RACERS];
    uint64_t random = 3;
    uint32_t cancelled = 0, generation = 1;
    use_cpu(0);
    for (int i = 0; i < RACERS; i++)
        workers[i] = thread_start(scramble_claim, &s);
    for (rounds r = rounds_of(RACE_MS, LEAST); rounds_go_on(&r); generation++) {
        pc_ending ending;
        atomic_store(&s.wins, 0);
        atomic_store(&s.answers, 0);
        s.slot->arguments_size = generation;
        fill(s.slot, generation);
        atomic_store(&s.generation, generation);
        random_pause(&random);
        bool ended = pc_slot_end_by_host(s.slot, pc_word_of(generation, PC_QUEUED), &ending);
        UNTIL_OR(atomic_load(&s.answers) == RACERS, "round %u", generation);
        ASSERT_INT(atomic_load(&s.wins) + ended, 1);
        cancelled += ended;
    }
    atomic_store(&s.generation, 0);
    for (int i = 0; i < RACERS; i++)
        thread_end(workers[i]);
    DIAG("%u of %u rounds for the host", cancelled, generation - 1);
}

TAP_MAIN
