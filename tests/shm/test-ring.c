/* What lib/shm/ring.h promises: each call that is queued is claimed once, in order, whoever stalls,
 * dies or cancels between. */
#include "tests/shm/fixture.h"

#include "lib/shm/ring.h"

enum { SLOTS = 64, WORKER = 3, OTHER = 4, INCARNATION = 9 };

/* The host's side of a ring. */
typedef struct host {
    pc_segment segment;
    _Atomic uint64_t tail;
    uint32_t generations[SLOTS], tickets[SLOTS];
} host;

/* A ring whose next ticket is this: as if as many calls had come and gone. */
static void host_set(host *h, uint32_t ticket)
{
    atomic_store(&h->tail, ticket);
    atomic_store(&h->segment.header->ring_head, ticket);
    for (uint32_t i = 0; i < SLOTS; i++) {
        h->tickets[i] = ticket + i - SLOTS;
        h->generations[i] = 0;
        atomic_store(&h->segment.slots[i].control, pc_word_of(0, PC_DONE));
        atomic_store(&h->segment.ring[h->tickets[i] % SLOTS], pc_ring_entry(h->tickets[i], i, 0));
    }
}

static host *host_new_at(uint32_t ticket)
{
    host *h = shared_memory(sizeof *h);
    h->segment = segment_new(SLOTS, 8, 1);
    pc_ring_reset(&h->segment, pc_ring_first_ticket(&h->segment));
    host_set(h, ticket);
    return h;
}

static host *host_new(void)
{
    return host_new_at(5 * SLOTS);
}

static void host_free(host *h)
{
    pc_segment_unmap(&h->segment);
    munmap(h, sizeof *h);
}

static uint64_t word_of(const host *h, uint32_t slot)
{
    return atomic_load(&h->segment.slots[slot].control);
}

static enum pc_state state_of(const host *h, uint32_t slot)
{
    return pc_word_state(word_of(h, slot));
}

/* As submit does; the entry comes by push_later. */
static void queue(host *h, uint32_t slot)
{
    ASSERT(pc_ring_take_ticket(&h->tail, &h->tickets[slot]));
    pc_slot_queue(&h->segment.slots[slot], ++h->generations[slot]);
}

static void push_later(host *h, uint32_t slot)
{
    pc_ring_push(&h->segment, h->tickets[slot], slot, h->generations[slot]);
}

static void submit(host *h, uint32_t slot)
{
    queue(h, slot);
    push_later(h, slot);
}

static bool cancel(host *h, uint32_t slot)
{
    pc_ending ending;
    uint64_t word = pc_word_of(h->generations[slot], PC_QUEUED);
    return pc_slot_end_by_host(&h->segment.slots[slot], word, &ending);
}

/* The slot claimed, or -1. */
static int claim_as(host *h, unsigned worker)
{
    uint32_t slot;
    uint64_t word;
    if (!pc_ring_claim(&h->segment, worker, INCARNATION, &slot, &word))
        return -1;
    ASSERT(word == word_of(h, slot));
    ASSERT_INT(pc_word_state(word), PC_CLAIMED);
    ASSERT_INT(pc_word_worker(word), worker);
    ASSERT_INT(pc_word_generation(word), h->generations[slot]);
    return (int)slot;
}

static int claim(host *h)
{
    return claim_as(h, WORKER);
}

static void finish(host *h, uint32_t slot)
{
    pc_ending ending;
    ASSERT(pc_slot_finish(&h->segment.slots[slot], word_of(h, slot), &ending));
}

static bool ready(host *h)
{
    return pc_ring_ready(&h->segment);
}

static bool passed(host *h, uint32_t slot)
{
    return pc_ring_passed(&h->segment, h->tickets[slot]);
}

/* ---- one after the other ---- */

TEST(an_entry_keeps_ticket_slot_and_the_generations_last_bits)
{
    uint64_t random = 1;
    for (int i = 0; i < 10000; i++) {
        uint32_t ticket = (uint32_t)random_next(&random), generation = (uint32_t)random_next(&random);
        uint32_t slot = (uint32_t)random_below(&random, 1 << PC_RING_SLOT_BITS);
        uint64_t entry = pc_ring_entry(ticket, slot, generation);
        ASSERT_INT(entry >> 32, ticket);
        ASSERT_INT(pc_ring_entry_slot(entry), slot);
        ASSERT_INT(pc_ring_entry_generation(entry), generation & 0xfff);
    }
}

TEST(a_new_ring_is_empty)
{
    pc_segment segment = segment_new(SLOTS, 2, 1);
    uint32_t slot;
    uint64_t word;
    for (int round = 0; round < 2; round++) { /* new, and reset */
        pc_ring_reset(&segment, pc_ring_first_ticket(&segment));
        for (uint32_t i = 0; i < SLOTS; i++)
            pc_slot_queue(&segment.slots[i], 0);
        ASSERT(!pc_ring_ready(&segment) && !pc_ring_pending(&segment));
        ASSERT(!pc_ring_claim(&segment, 0, 0, &slot, &word));
        pc_ring_push(&segment, pc_ring_first_ticket(&segment), 7, 0);
        ASSERT(pc_ring_claim(&segment, 0, 0, &slot, &word));
        ASSERT_INT(slot, 7);
    }
    pc_segment_unmap(&segment);
}

TEST(calls_are_claimed_in_the_order_of_their_tickets)
{
    host *h = host_new();
    uint64_t random = 5;
    uint32_t order[SLOTS];
    for (int round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < SLOTS; i++)
            order[i] = i;
        for (uint32_t i = SLOTS - 1; i > 0; i--) {
            uint32_t k = (uint32_t)random_below(&random, i + 1), other = order[k];
            order[k] = order[i];
            order[i] = other;
        }
        uint32_t count = 1 + (uint32_t)random_below(&random, SLOTS); /* up to a full ring */
        for (uint32_t i = 0; i < count; i++)
            submit(h, order[i]);
        for (uint32_t i = 0; i < count; i++) {
            ASSERT(ready(h) && pc_ring_pending(&h->segment));
            ASSERT_INT(claim(h), order[i]);
            ASSERT(passed(h, order[i]));
        }
        ASSERT(!ready(h) && !pc_ring_pending(&h->segment));
        ASSERT_INT(claim(h), -1);
    }
    host_free(h);
}

TEST(a_call_is_passed_when_the_head_is_beyond_it_and_not_before)
{
    host *h = host_new();
    submit(h, 1);
    submit(h, 2);
    ASSERT(!passed(h, 1) && !passed(h, 2));
    ASSERT_INT(claim(h), 1);
    ASSERT(passed(h, 1) && !passed(h, 2));
    ASSERT_INT(claim(h), 2);
    ASSERT(passed(h, 2));
    host_free(h);
}

TEST(cancelled_calls_leave_stale_entries_that_are_skipped)
{
    host *h = host_new();
    for (uint32_t i = 0; i < SLOTS; i++)
        submit(h, i);
    for (uint32_t i = 0; i < SLOTS; i++)
        if (i % 5 != 0)
            ASSERT(cancel(h, i));
    for (uint32_t i = 0; i < SLOTS; i += 5)
        ASSERT_INT(claim(h), i);
    ASSERT_INT(claim(h), -1);
    ASSERT(!ready(h));
    host_free(h);
}

TEST(a_ring_of_stale_entries_alone_is_passed_and_not_ready)
{
    host *h = host_new();
    for (int way = 0; way < 3; way++) {
        for (uint32_t i = 0; i < SLOTS; i++)
            submit(h, i);
        for (uint32_t i = 0; i < SLOTS; i++)
            ASSERT(cancel(h, i));
        ASSERT(pc_ring_pending(&h->segment)); /* looks at the ring alone */
        if (way == 0)
            ASSERT(!ready(h));
        else if (way == 1)
            ASSERT_INT(claim(h), -1);
        else
            ASSERT(passed(h, SLOTS - 1));
        ASSERT(!pc_ring_pending(&h->segment));
        for (uint32_t i = 0; i < SLOTS; i++)
            ASSERT(passed(h, i));
    }
    host_free(h);
}

TEST(a_stale_entry_behind_a_live_one_is_not_passed)
{
    host *h = host_new();
    submit(h, 1);
    submit(h, 2);
    ASSERT(cancel(h, 2));
    ASSERT(!passed(h, 2));
    ASSERT_INT(claim(h), 1);
    ASSERT(passed(h, 2));
    host_free(h);
}

TEST(a_stale_entry_does_not_give_away_the_next_call_in_its_slot)
{
    host *h = host_new();
    submit(h, 1);
    ASSERT(cancel(h, 1));
    queue(h, 1); /* the next call's entry is not there yet */
    ASSERT(!ready(h));
    ASSERT_INT(claim(h), -1);
    ASSERT_INT(state_of(h, 1), PC_QUEUED);
    push_later(h, 1);
    ASSERT_INT(claim(h), 1);
    host_free(h);
}

TEST(a_host_thread_that_stalls_with_its_ticket_holds_up_those_behind_it_and_loses_none)
{
    host *h = host_new();
    queue(h, 1);
    submit(h, 2);
    ASSERT(!ready(h) && !pc_ring_pending(&h->segment));
    ASSERT_INT(claim(h), -1);
    push_later(h, 1);
    ASSERT(ready(h));
    ASSERT_INT(claim(h), 1);
    ASSERT_INT(claim(h), 2);
    host_free(h);
}

/* As a worker that dies between its claim and the head's advance. */
static void claim_without_head(host *h, uint32_t slot)
{
    uint64_t word = word_of(h, slot);
    ASSERT(pc_slot_claim(&h->segment.slots[slot], &word, OTHER, INCARNATION));
}

/* As the sweep does. */
static void requeue(host *h, uint32_t slot)
{
    ASSERT(pc_ring_take_ticket(&h->tail, &h->tickets[slot]));
    pc_slot_queue(&h->segment.slots[slot], h->generations[slot]);
    push_later(h, slot);
}

TEST(a_claimant_that_dies_before_it_moves_the_head_holds_up_nobody)
{
    host *h = host_new();
    submit(h, 1);
    submit(h, 2);
    claim_without_head(h, 1);
    ASSERT(!passed(h, 2));
    ASSERT_INT(claim(h), 2);
    ASSERT(passed(h, 1));
    requeue(h, 1);
    ASSERT_INT(claim(h), 1);
    ASSERT_INT(claim(h), -1);
    host_free(h);
}

TEST(a_dead_claimants_entry_is_passed_before_its_slot_is_queued_again)
{
    host *h = host_new();
    for (int round = 0; round < 10 * SLOTS; round++) { /* two entries of one slot would overrun */
        for (uint32_t i = 0; i < SLOTS; i++)
            if (state_of(h, i) != PC_QUEUED)
                submit(h, i);
        uint32_t next = pc_ring_entry_slot(
            h->segment.ring[atomic_load(&h->segment.header->ring_head) % SLOTS]);
        claim_without_head(h, next);
        ASSERT(passed(h, next));
        requeue(h, next);
        ASSERT(claim(h) >= 0);
    }
    host_free(h);
}

TEST(tickets_go_on_beyond_the_last_number)
{
    for (uint32_t before = 0; before <= 3 * SLOTS; before += 7) {
        host *h = host_new_at(UINT32_MAX - before + 1);
        ASSERT(!ready(h));
        for (uint32_t round = 0; round < 5 * SLOTS; round++) {
            uint32_t a = round % SLOTS, b = (round + 1) % SLOTS, c = (round + 2) % SLOTS;
            submit(h, a);
            submit(h, b);
            submit(h, c);
            ASSERT(!passed(h, a) && !passed(h, c));
            ASSERT(cancel(h, b));
            ASSERT_INT(claim(h), a);
            ASSERT(passed(h, a) && !passed(h, c));
            ASSERT_INT(claim(h), c);
            ASSERT(passed(h, a) && passed(h, b) && passed(h, c));
            ASSERT_INT(claim(h), -1);
        }
        host_free(h);
    }
}

/* Its entry has been overwritten: no claim would ever get past it. */
TEST(a_head_that_was_scribbled_back_is_passed_on_or_seen_to_be_wrong)
{
    for (uint32_t back = 1; back <= 3 * SLOTS; back++) {
        host *h = host_new();
        for (uint32_t round = 0; round < 4 * SLOTS; round++) {
            submit(h, round % SLOTS);
            ASSERT_INT(claim(h), round % SLOTS);
            finish(h, round % SLOTS);
        }
        submit(h, 0);
        ASSERT(pc_ring_intact(&h->segment, &h->tail));
        atomic_store(&h->segment.header->ring_head, (uint32_t)h->tail - back);
        ASSERT_INT(pc_ring_intact(&h->segment, &h->tail), back <= SLOTS);
        ASSERT_INT(claim(h), back <= SLOTS ? 0 : -1);
        host_free(h);
    }
}

TEST(numbers_that_were_scribbled_lead_nowhere_outside)
{
    host *h = host_new();
    uint64_t random = 11;
    for (int round = 0; round < 20000; round++) {
        uint32_t head = (uint32_t)random_next(&random), slot = 0;
        uint64_t word;
        atomic_store(&h->segment.header->ring_head, head);
        for (uint32_t i = 0; i < SLOTS; i++) {
            uint32_t ticket = random_below(&random, 4) ? head + i : (uint32_t)random_next(&random);
            atomic_store(&h->segment.ring[(head + i) % SLOTS],
                         (uint64_t)ticket << 32 | (uint32_t)random_next(&random));
            atomic_store(&h->segment.slots[i].control, random_next(&random));
        }
        (void)ready(h);
        (void)passed(h, 0);
        if (pc_ring_claim(&h->segment, WORKER, 0, &slot, &word))
            ASSERT(slot < SLOTS);
    }
    host_free(h);
}

/* ---- instruction by instruction ---- */

static struct {
    host *h;
    int claimed[2]; /* what the two workers got; -1: nothing */
    bool ready, passed, cancelled, reused;
} race;

static void prepare(void *argument)
{
    (void)argument;
    host *h = race.h ? race.h : host_new();
    memset(&race, 0, sizeof race);
    race.claimed[0] = race.claimed[1] = -2; /* did not try */
    race.h = h;
    host_set(h, 5 * SLOTS);
}

static void prepare_two(void *argument)
{
    prepare(argument);
    submit(race.h, 1);
    submit(race.h, 2);
}

static void claim_one(void *argument) /* this one is stepped through: nothing but the claim */
{
    uint32_t slot;
    uint64_t word;
    (void)argument;
    bool won = pc_ring_claim(&race.h->segment, WORKER, INCARNATION, &slot, &word);
    race.claimed[0] = won ? (int)slot : -1;
}

static void claim_another(void *argument)
{
    (void)argument;
    race.claimed[1] = claim_as(race.h, OTHER);
}

static void cancel_one(void *argument)
{
    (void)argument;
    race.cancelled = cancel(race.h, 1);
}

/* As free and submit do: a slot is queued again if its entry has been passed. */
static void cancel_one_and_use_it_again(void *argument)
{
    cancel_one(argument);
    if (!race.cancelled || !passed(race.h, 1))
        return;
    submit(race.h, 1);
    race.reused = true;
}

static void look_ready(void *argument)
{
    (void)argument;
    race.ready = ready(race.h);
}

/* Each call that is queued is claimed once by somebody: now, or when the rest is taken out. */
static void check_once(void *argument)
{
    int runs[SLOTS] = {0};
    (void)argument;
    for (int i = 0; i < 2; i++)
        if (race.claimed[i] >= 0)
            runs[race.claimed[i]]++;
    for (int slot; (slot = claim(race.h)) >= 0;)
        runs[slot]++;
    ASSERT_INT(runs[1], race.reused || !race.cancelled ? 1 : 0);
    ASSERT_INT(runs[2], 1);
    for (uint32_t i = 0; i < SLOTS; i++)
        ASSERT(state_of(race.h, i) != PC_QUEUED);
    ASSERT(!pc_ring_pending(&race.h->segment));
    ASSERT(passed(race.h, 1) && passed(race.h, 2));
}

static void check_two_claims(void *argument)
{
    ASSERT(race.claimed[0] >= 0 && race.claimed[1] >= 0);
    ASSERT(race.claimed[0] != race.claimed[1]);
    check_once(argument);
}

TEST(wherever_a_worker_claims_while_another_does_each_gets_a_call_of_its_own)
{
    interleave(&(interleaving){.prepare = prepare_two,
                               .stepped = claim_one,
                               .others = {claim_another, NULL},
                               .check = check_two_claims});
    host_free(race.h);
}

static void check_one_claim(void *argument)
{
    ASSERT(race.claimed[0] >= 0);
    check_once(argument);
}

TEST(wherever_the_host_cancels_while_a_worker_claims_the_worker_gets_this_call_or_the_next)
{
    interleave(&(interleaving){.prepare = prepare_two,
                               .stepped = claim_one,
                               .others = {cancel_one, NULL},
                               .check = check_one_claim});
    host_free(race.h);
}

/* It changes the word that the worker is about to swap. */
static void begin_to_wait(void *argument)
{
    pc_slot *slot = &race.h->segment.slots[1];
    (void)argument;
    ASSERT(pc_slot_set_waiter(slot, pc_word_generation(atomic_load(&slot->control))));
}

static void check_first_claim(void *argument)
{
    ASSERT_INT(race.claimed[0], 1);
    check_once(argument);
}

TEST(wherever_a_waiter_comes_while_its_call_is_claimed_it_is_not_lost)
{
    interleave(&(interleaving){.prepare = prepare_two,
                               .stepped = claim_one,
                               .others = {begin_to_wait, NULL},
                               .check = check_first_claim});
    host_free(race.h);
}

TEST(wherever_the_host_uses_a_slot_again_while_a_worker_claims_no_call_is_lost_or_doubled)
{
    interleave(&(interleaving){.prepare = prepare_two,
                               .stepped = claim_one,
                               .others = {cancel_one_and_use_it_again, claim_another},
                               .check = check_one_claim});
    host_free(race.h);
}

/* As a worker that claims and ends both calls, and a host that uses the slots for the next ones. */
static void a_whole_life(void *argument)
{
    (void)argument;
    for (int i = 0; i < 2; i++) {
        int slot = claim_as(race.h, OTHER);
        if (slot < 0)
            return; /* the stepped one has one of them */
        finish(race.h, (uint32_t)slot);
        ASSERT(passed(race.h, (uint32_t)slot));
        submit(race.h, (uint32_t)slot);
    }
}

TEST(wherever_a_worker_stalls_while_others_go_round_the_ring_it_gets_a_call_that_is_queued)
{
    interleave(&(interleaving){.prepare = prepare_two,
                               .stepped = claim_one,
                               .others = {a_whole_life, NULL},
                               .check = check_one_claim});
    host_free(race.h);
}

static void check_ready(void *argument)
{
    /* Both may be claimed by now, but the first look came before that: it may not say no. */
    ASSERT(race.ready || race.claimed[1] >= 0);
    check_once(argument);
}

TEST(wherever_a_call_is_claimed_while_one_looks_it_is_seen_that_there_is_another)
{
    interleave(&(interleaving){.prepare = prepare_two,
                               .stepped = look_ready,
                               .others = {claim_another, NULL},
                               .check = check_ready});
    host_free(race.h);
}

static void prepare_queued(void *argument)
{
    prepare(argument);
    queue(race.h, 1);
    submit(race.h, 2);
}

static void push_one(void *argument)
{
    (void)argument;
    push_later(race.h, 1);
}

TEST(wherever_a_stalled_thread_goes_on_while_a_worker_looks_no_call_is_lost)
{
    interleave(&(interleaving){.prepare = prepare_queued,
                               .stepped = claim_one,
                               .others = {push_one, NULL},
                               .check = check_once});
    host_free(race.h);
}

TEST(wherever_a_worker_looks_while_a_stalled_thread_goes_on_no_call_is_lost)
{
    interleave(&(interleaving){.prepare = prepare_queued,
                               .stepped = push_one,
                               .others = {claim_one, NULL},
                               .check = check_once});
    host_free(race.h);
}

TEST(a_worker_that_dies_at_any_instruction_of_a_claim_loses_no_call)
{
    unsigned held = 0;
    race.h = host_new();
    prepare_two(NULL);
    claim_one(NULL); /* the dynamic linker's part is over after this */
    for (long instruction = 0;; instruction++) {
        prepare_two(NULL);
        bool died = dies_at(instruction, claim_one, NULL);
        for (uint32_t slot = 1; slot <= 2; slot++)
            if (state_of(race.h, slot) == PC_CLAIMED) {
                ASSERT(passed(race.h, slot));
                requeue(race.h, slot);
                held++;
            }
        check_once(NULL);
        if (!died)
            break;
    }
    DIAG("in %u places it held a call", held);
    host_free(race.h);
}

/* ---- threads and processes ---- */

enum { HOSTS = 4, WORKERS = 3, OWN = 12, STRESS_MS = 1200 };

/* Threads of the host, each with slots of its own; workers that claim, and count per slot. */
typedef struct stress {
    host *h;
    _Atomic uint32_t hosts_left;
    _Atomic uint64_t claims, ends, cancels;
    _Atomic uint32_t runs[SLOTS]; /* of the call that is in the slot */
    bool processes;
} stress;

static void work(stress *s)
{
    pc_segment *segment = &s->h->segment;
    static _Atomic unsigned numbers;
    unsigned worker = s->processes ? (unsigned)getpid() % 1000 : atomic_fetch_add(&numbers, 1);
    uint64_t random = worker, claims = 0;
    for (unsigned idle = 0; atomic_load(&s->hosts_left) > 0;) {
        uint32_t number;
        uint64_t word;
        if (!pc_ring_claim(segment, worker, INCARNATION, &number, &word)) {
            if (++idle % 64 == 0)
                sched_yield();
            continue;
        }
        pc_slot *slot = &segment->slots[number];
        pc_ending ending;
        claims++;
        ASSERT_INT(atomic_fetch_add(&s->runs[number], 1), 0);
        ASSERT_INT(slot->arguments_size, pc_word_generation(word)); /* S1, R1 */
        slot->result_size = slot->arguments_size + 1;
        if (random_below(&random, 8) == 0)
            random_pause(&random);
        ASSERT(pc_slot_finish(slot, word, &ending));
    }
    atomic_fetch_add(&s->claims, claims);
}

static void *work_in_thread(void *argument)
{
    work(argument);
    return NULL;
}

static void work_in_process(void *argument)
{
    work(argument);
}

static void submit_in(stress *s, uint32_t number)
{
    host *h = s->h;
    pc_slot *slot = &h->segment.slots[number];
    ASSERT(pc_ring_take_ticket(&h->tail, &h->tickets[number]));
    slot->arguments_size = ++h->generations[number];
    atomic_store(&s->runs[number], 0);
    pc_slot_queue(slot, h->generations[number]);
    push_later(h, number);
}

static void expect_end(stress *s, uint32_t number)
{
    pc_slot *slot = &s->h->segment.slots[number];
    uint64_t word = word_of(s->h, number);
    ASSERT_INT(pc_word_generation(word), s->h->generations[number]);
    if (pc_word_worker(word) == PC_WORKER_HOST) {
        ASSERT_INT(atomic_load(&s->runs[number]), 0);
        return;
    }
    ASSERT_INT(atomic_load(&s->runs[number]), 1);
    ASSERT_INT(slot->result_size, s->h->generations[number] + 1); /* S2 */
    atomic_fetch_add(&s->ends, 1);
}

typedef struct host_thread {
    stress *s;
    uint32_t first; /* of its slots */
} host_thread;

static void *host_thread_run(void *argument)
{
    host_thread *t = argument;
    stress *s = t->s;
    uint64_t random = t->first;
    for (rounds r = rounds_of(STRESS_MS, 20); rounds_go_on(&r);) {
        uint32_t count = 1 + (uint32_t)random_below(&random, OWN);
        for (uint32_t i = 0; i < count; i++)
            submit_in(s, t->first + i);
        for (uint32_t i = 0; i < count; i++)
            if (random_below(&random, 8) == 0 && cancel(s->h, t->first + i))
                atomic_fetch_add(&s->cancels, 1);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t number = t->first + i;
            UNTIL_OR(state_of(s->h, number) == PC_DONE, "slot %u, head %u, tail %u", number,
                     atomic_load(&s->h->segment.header->ring_head),
                     (unsigned)atomic_load(&s->h->tail));
            expect_end(s, number);
            UNTIL(passed(s->h, number));
        }
    }
    atomic_fetch_sub(&s->hosts_left, 1);
    return NULL;
}

static void run_stress(bool processes)
{
    stress *s = shared_memory(sizeof *s);
    pthread_t hosts[HOSTS], workers[WORKERS];
    pid_t pids[WORKERS];
    host_thread threads[HOSTS];
    s->h = host_new_at(UINT32_MAX - 1000); /* tickets begin anew while it runs */
    s->processes = processes;
    s->hosts_left = HOSTS;
    for (int i = 0; i < WORKERS; i++)
        if (processes)
            pids[i] = process_start(work_in_process, s);
        else
            workers[i] = thread_start(work_in_thread, s);
    for (uint32_t i = 0; i < HOSTS; i++) {
        threads[i] = (host_thread){s, i * OWN};
        hosts[i] = thread_start(host_thread_run, &threads[i]);
    }
    for (int i = 0; i < HOSTS; i++)
        thread_end(hosts[i]);
    for (int i = 0; i < WORKERS; i++)
        if (processes)
            process_end(pids[i]);
        else
            thread_end(workers[i]);
    ASSERT_INT(s->claims, s->ends);
    ASSERT_INT(s->claims + s->cancels,
               atomic_load(&s->h->tail) - (UINT32_MAX - 1000));
    ASSERT(!ready(s->h));
    DIAG("%llu calls claimed, %llu cancelled", (unsigned long long)s->claims,
         (unsigned long long)s->cancels);
    host_free(s->h);
}

TEST(under_load_each_call_is_claimed_once_by_threads)
{
    run_stress(false);
}

TEST(under_load_each_call_is_claimed_once_by_processes)
{
    run_stress(true);
}

/* Workers that are killed at any instruction: what they had claimed is queued again, as the sweep
 * does it, and nothing else is missing. */
static void work_until_killed(void *argument)
{
    host *h = argument;
    uint64_t random = (uint64_t)getpid();
    for (;;) {
        uint32_t number;
        uint64_t word;
        pc_ending ending;
        if (!pc_ring_claim(&h->segment, (unsigned)getpid() % 1000, INCARNATION, &number, &word))
            continue;
        for (int i = 0; i < 20; i++)
            random_pause(&random);
        pc_slot_finish(&h->segment.slots[number], word, &ending);
    }
}

TEST(workers_that_are_killed_under_load_lose_no_call)
{
    host *h = host_new_at(UINT32_MAX - 5000);
    uint64_t random = 1;
    unsigned found = 0, calls = 0, kills = 0;
    for (rounds r = rounds_of(1200, 20); rounds_go_on(&r);) {
        pid_t pid = process_start(work_until_killed, h);
        int64_t end = pc_now() + (int64_t)random_below(&random, 3 * MS);
        while (pc_now() < end || calls == 0)
            for (uint32_t i = 0; i < SLOTS; i++)
                if (state_of(h, i) != PC_QUEUED && state_of(h, i) != PC_CLAIMED && passed(h, i)) {
                    submit(h, i);
                    calls++;
                }
        process_kill(pid);
        kills++;
        for (uint32_t i = 0; i < SLOTS; i++)
            if (state_of(h, i) == PC_CLAIMED) {
                ASSERT(passed(h, i));
                requeue(h, i);
                found++;
            }
        uint32_t queued = 0;
        for (uint32_t i = 0; i < SLOTS; i++)
            queued += state_of(h, i) == PC_QUEUED;
        for (; queued > 0; queued--) {
            int slot = claim(h);
            ASSERT(slot >= 0);
            finish(h, (uint32_t)slot);
        }
        ASSERT_INT(claim(h), -1);
    }
    DIAG("%u calls, %u kills, %u held one", calls, kills, found);
    host_free(h);
}

TAP_MAIN
