/* What lib/shm/idle.h promises: no call is left beside a sleeper, whoever comes between, and nobody is
 * woken who need not be. */
#include "tests/shm/fixture.h"

#include "lib/shm/idle.h"

enum { SLOTS = 64, INCARNATION = 1 };

static pc_segment segment;
static _Atomic uint64_t *tail; /* shared with the processes of a test */
static _Atomic uint32_t last_generation;

static void segment_set_up(unsigned workers, uint64_t spin_ns)
{
    pc_config config = config_of(SLOTS, workers, 1);
    config.spin_ns = spin_ns;
    config.cpus = 100;
    segment = segment_of(&config);
    pc_ring_reset(&segment, pc_ring_first_ticket(&segment));
    atomic_store(&segment.header->alive, workers);
    for (unsigned i = 0; i < workers; i++)
        pc_sleeper_init(&segment.workers[i].semaphore);
    tail = shared_memory(sizeof *tail);
    atomic_store(tail, pc_ring_first_ticket(&segment));
}

static void tear_down(void)
{
    pc_segment_unmap(&segment);
    munmap(tail, sizeof *tail);
}

static void push(uint32_t slot)
{
    uint32_t ticket;
    ASSERT(pc_ring_take_ticket(tail, &ticket));
    uint32_t generation = atomic_fetch_add(&last_generation, 1) + 1;
    pc_slot_queue(&segment.slots[slot], generation);
    pc_ring_push(&segment, ticket, slot, generation);
}

static int claim(unsigned worker)
{
    uint32_t slot;
    uint64_t word;
    return pc_ring_claim(&segment, worker, INCARNATION, &slot, &word) ? (int)slot : -1;
}

static bool has_token(unsigned worker)
{
    int value;
    ASSERT_INT(sem_getvalue(&segment.workers[worker].semaphore, &value), 0);
    return value > 0;
}

static unsigned count_tokens(void)
{
    unsigned tokens = 0;
    for (unsigned i = 0; i < segment.config.workers; i++)
        tokens += has_token(i);
    return tokens;
}

static bool has_bit(unsigned worker)
{
    return atomic_load(&segment.header->idle[worker / 64]) >> worker % 64 & 1;
}

static void publish_all(void)
{
    for (unsigned i = 0; i < segment.config.workers; i++)
        ASSERT(pc_idle_publish(&segment, i));
}

/* ---- one after the other ---- */

TEST(a_worker_may_sleep_when_there_is_nothing_to_do)
{
    segment_set_up(70, 0);
    for (unsigned i = 0; i < 70; i++) {
        ASSERT_INT(pc_idle_awake(&segment), 70 - i);
        ASSERT(pc_idle_publish(&segment, i));
        ASSERT(has_bit(i));
    }
    for (unsigned i = 0; i < 70; i++) {
        pc_idle_retract(&segment, i);
        ASSERT(!has_bit(i));
        ASSERT_INT(pc_idle_awake(&segment), i + 1);
    }
    tear_down();
}

TEST(a_worker_may_not_sleep_beside_a_call_nor_when_the_crew_closes)
{
    segment_set_up(2, 0);
    push(3);
    ASSERT(!pc_idle_publish(&segment, 0));
    pc_idle_retract(&segment, 0);
    ASSERT_INT(claim(0), 3);
    ASSERT(pc_idle_publish(&segment, 0));
    pc_idle_retract(&segment, 0);
    atomic_store(&segment.header->closing, 1);
    ASSERT(!pc_idle_publish(&segment, 0));
    pc_idle_retract(&segment, 0);
    tear_down();
}

TEST(a_token_from_before_does_not_end_the_next_sleep)
{
    segment_set_up(1, 0);
    pc_idle_wake_all(&segment);
    pc_idle_wake_all(&segment);
    ASSERT(pc_idle_publish(&segment, 0));
    ASSERT(!has_token(0));
    tear_down();
}

TEST(nobody_is_posted_when_nobody_sleeps)
{
    segment_set_up(3, 0);
    pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 0);
    ASSERT(pc_idle_publish(&segment, 1));
    pc_idle_retract(&segment, 1);
    pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 0);
    tear_down();
}

TEST(each_wake_posts_one_more_sleeper_and_each_sleeper_once)
{
    segment_set_up(3, 0);
    publish_all();
    for (unsigned i = 1; i <= 3; i++) {
        pc_idle_wake_one(&segment);
        ASSERT_INT(count_tokens(), i);
    }
    pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 3);
    for (unsigned i = 0; i < 3; i++) {
        ASSERT(has_bit(i)); /* wakers clear nothing */
        pc_sleeper_drain(&segment.workers[i].semaphore);
    }
    pc_idle_wake_one(&segment); /* they are on their way, though the tokens are taken */
    ASSERT_INT(count_tokens(), 0);
    tear_down();
}

TEST(a_sleepers_hint_holds_for_one_sleep)
{
    segment_set_up(1, 0);
    for (int i = 0; i < 100; i++) {
        ASSERT(pc_idle_publish(&segment, 0));
        ASSERT(!has_token(0));
        pc_idle_wake_one(&segment);
        ASSERT(has_token(0));
        pc_idle_retract(&segment, 0);
    }
    tear_down();
}

TEST(beyond_four_sleepers_that_are_on_their_way_nobody_is_posted)
{
    segment_set_up(70, 0);
    publish_all();
    for (int i = 0; i < 200; i++)
        pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 4);
    pc_idle_retract(&segment, 0); /* one of them is awake */
    pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 5);
    tear_down();
}

TEST(any_sleeper_is_found_wherever_its_bit_is)
{
    segment_set_up(PC_WORKERS_MAX, 0);
    for (unsigned i = 0; i < PC_WORKERS_MAX; i++) {
        ASSERT(pc_idle_publish(&segment, i));
        pc_idle_wake_one(&segment);
        ASSERT(has_token(i));
        pc_idle_retract(&segment, i);
    }
    ASSERT_INT(count_tokens(), PC_WORKERS_MAX);
    tear_down();
}

TEST(bits_of_workers_that_do_not_exist_are_ignored)
{
    segment_set_up(3, 0);
    for (unsigned i = 0; i < PC_IDLE_WORDS; i++)
        atomic_store(&segment.header->idle[i], UINT64_MAX << (i == 0 ? 3 : 0));
    pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 0);
    ASSERT_INT(pc_idle_awake(&segment), 0); /* a hint */
    ASSERT(pc_idle_publish(&segment, 2));
    pc_idle_wake_one(&segment);
    ASSERT(has_token(2));
    tear_down();
}

TEST(wake_all_posts_all_whatever_the_hints_say)
{
    segment_set_up(70, 0);
    publish_all();
    for (int i = 0; i < 4; i++)
        pc_idle_wake_one(&segment);
    for (unsigned i = 0; i < 70; i++) {
        pc_sleeper_drain(&segment.workers[i].semaphore);
        pc_idle_forget(&segment, i);
    }
    atomic_store(&segment.header->spinner, 1);
    pc_idle_wake_all(&segment);
    ASSERT_INT(count_tokens(), 70);
    tear_down();
}

TEST(the_dead_are_forgotten_and_nobody_else)
{
    segment_set_up(70, 0);
    publish_all();
    for (unsigned dead = 0; dead < 70; dead += 23) {
        atomic_store(&segment.header->spinner, dead + 1);
        pc_idle_forget(&segment, dead + 1);
        ASSERT_INT(atomic_load(&segment.header->spinner), dead + 1);
        ASSERT(pc_idle_publish(&segment, dead + 1));
        pc_idle_forget(&segment, dead);
        ASSERT_INT(atomic_load(&segment.header->spinner), 0);
        for (unsigned i = 0; i < 70; i++)
            ASSERT_INT(has_bit(i), i != dead);
        ASSERT(pc_idle_publish(&segment, dead));
    }
    tear_down();
}

/* ---- spinning ---- */

TEST(a_spin_ends_at_its_time)
{
    segment_set_up(2, 2 * MS);
    for (int sleeper = 0; sleeper < 2; sleeper++) {
        int64_t begin = pc_now();
        ASSERT(!pc_idle_spin(&segment, 0));
        int64_t time = pc_now() - begin;
        ASSERT(time >= 2 * MS && time < 2000 * MS);
        ASSERT_INT(atomic_load(&segment.header->spinner), 0);
        ASSERT(pc_idle_publish(&segment, 1)); /* the second time beside a sleeper */
    }
    tear_down();
}

TEST(a_spin_ends_with_a_call)
{
    segment_set_up(2, 1000000 * MS);
    for (int sleeper = 0; sleeper < 2; sleeper++) {
        push(3);
        ASSERT(pc_idle_spin(&segment, 0));
        ASSERT_INT(claim(0), 3);
        ASSERT_INT(atomic_load(&segment.header->spinner), 0);
        ASSERT(pc_idle_publish(&segment, 1));
    }
    tear_down();
}

TEST(nobody_spins_who_may_not)
{
    segment_set_up(4, 0); /* not at all */
    push(3);
    ASSERT(!pc_idle_spin(&segment, 0));
    tear_down();

    segment_set_up(4, 1000000 * MS);
    ASSERT(pc_idle_publish(&segment, 3));
    atomic_store(&segment.header->spinner, 2); /* another does */
    push(3);
    ASSERT(!pc_idle_spin(&segment, 0));
    ASSERT_INT(atomic_load(&segment.header->spinner), 2);
    tear_down();

    segment_set_up(4, 1000000 * MS);
    push(3);
    segment.config.cpus = 3; /* four are awake */
    ASSERT(!pc_idle_spin(&segment, 0));
    segment.config.cpus = 10;
    atomic_store(&segment.header->host_spinners, 7);
    ASSERT(!pc_idle_spin(&segment, 0));
    atomic_store(&segment.header->host_spinners, 6);
    ASSERT(pc_idle_spin(&segment, 0));
    tear_down();
}

static void *take_a_cpu_soon(void *argument)
{
    (void)argument;
    poll(NULL, 0, 5);
    atomic_fetch_add(&segment.header->host_spinners, 2);
    return NULL;
}

TEST(a_spin_ends_when_its_cpu_is_wanted)
{
    segment_set_up(2, 1000000 * MS); /* else it would not */
    segment.config.cpus = 3;
    pthread_t thread = thread_start(take_a_cpu_soon, NULL);
    ASSERT(!pc_idle_spin(&segment, 0));
    thread_end(thread);
    tear_down();
}

TEST(a_waker_leaves_the_call_to_the_spinner)
{
    segment_set_up(3, 1000 * MS);
    publish_all();
    atomic_store(&segment.header->spinner, 2);
    pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 0);
    atomic_store(&segment.header->spinner, 0);
    pc_idle_wake_one(&segment);
    ASSERT_INT(count_tokens(), 1);
    tear_down();
}

/* ---- instruction by instruction ----
 *
 * Three workers, as worker/loop.c makes them, up to three calls, and calls that never end: who has
 * claimed one looks for nothing any more. When all is quiet, no call may be left beside a sleeper. */

enum { CREW = 3 };
enum state { AWAKE, SPINNING, ASLEEP, BUSY };

static struct {
    enum state states[CREW];
    _Atomic unsigned calls;
} crew;

static void worker_goes_on(unsigned worker)
{
    enum state *state = &crew.states[worker];
    for (;;) {
        switch (*state) {
        case BUSY: return;
        case ASLEEP:
            if (!has_token(worker))
                return;
            pc_sleeper_drain(&segment.workers[worker].semaphore);
            pc_idle_retract(&segment, worker);
            *state = AWAKE;
            break;
        case SPINNING: /* the end of pc_idle_spin */
            atomic_store_explicit(&segment.header->spinner, 0, memory_order_relaxed);
            atomic_thread_fence(memory_order_seq_cst);
            *state = AWAKE;
            break;
        case AWAKE:
            if (claim(worker) >= 0) {
                *state = BUSY;
                if (pc_ring_pending(&segment))
                    pc_idle_wake_one(&segment);
            } else if (pc_idle_publish(&segment, worker)) {
                *state = ASLEEP;
            } else {
                pc_idle_retract(&segment, worker);
            }
        }
    }
}

static void submit_one(void *argument)
{
    (void)argument;
    push(atomic_fetch_add(&crew.calls, 1));
    pc_idle_wake_one(&segment);
}

static void submit_two(void *argument)
{
    submit_one(argument);
    submit_one(argument);
}

static void worker_0(void *argument)
{
    (void)argument;
    worker_goes_on(0);
}

static void worker_1(void *argument)
{
    (void)argument;
    worker_goes_on(1);
}

static void worker_2(void *argument)
{
    (void)argument;
    worker_goes_on(2);
}

static void worker_0_then_submit(void *argument)
{
    worker_goes_on(0);
    submit_one(argument);
}

static void prepare_states(enum state first, enum state second, enum state third)
{
    const enum state states[CREW] = {first, second, third};
    memset(segment.header->idle, 0, sizeof segment.header->idle);
    memset(segment.workers, 0, CREW * sizeof segment.workers[0]);
    atomic_store(&segment.header->spinner, 0);
    pc_ring_reset(&segment, pc_ring_first_ticket(&segment));
    atomic_store(tail, pc_ring_first_ticket(&segment));
    crew.calls = 0;
    for (unsigned i = 0; i < CREW; i++) {
        pc_sleeper_init(&segment.workers[i].semaphore);
        crew.states[i] = states[i];
        if (states[i] == ASLEEP)
            ASSERT(pc_idle_publish(&segment, i));
        if (states[i] == SPINNING)
            atomic_store(&segment.header->spinner, i + 1);
    }
}

static void prepare_awake(void *argument)
{
    (void)argument;
    prepare_states(AWAKE, AWAKE, ASLEEP);
}

static void prepare_asleep(void *argument)
{
    (void)argument;
    prepare_states(ASLEEP, ASLEEP, ASLEEP);
}

static void prepare_spinning(void *argument)
{
    (void)argument;
    prepare_states(SPINNING, ASLEEP, ASLEEP);
}

/* The first is posted, and has not gone on yet. */
static void prepare_posted(void *argument)
{
    (void)argument;
    prepare_states(ASLEEP, ASLEEP, AWAKE);
    pc_idle_wake_one(&segment);
    ASSERT(has_token(0));
}

static void check_nothing_left(void *argument)
{
    (void)argument;
    for (int i = 0; i < 3 * CREW; i++)
        worker_goes_on((unsigned)i % CREW);
    unsigned asleep = 0, busy = 0;
    for (unsigned i = 0; i < CREW; i++) {
        asleep += crew.states[i] == ASLEEP;
        busy += crew.states[i] == BUSY;
    }
    if (pc_ring_ready(&segment) && asleep > 0)
        tap_fail("%u of %u calls run, and %u workers sleep", busy, crew.calls, asleep);
    ASSERT_INT(busy, crew.calls);
}

static void walk(void (*prepare)(void *), void (*stepped)(void *), void (*first)(void *),
                 void (*second)(void *))
{
    segment_set_up(CREW, 0);
    interleave(&(interleaving){.prepare = prepare,
                               .stepped = stepped,
                               .others = {first, second},
                               .check = check_nothing_left});
    tear_down();
}

TEST(wherever_a_call_comes_while_a_worker_goes_to_sleep_it_is_not_left)
{
    walk(prepare_awake, worker_0, submit_one, NULL);
}

TEST(wherever_a_worker_goes_to_sleep_while_a_call_comes_it_is_not_left)
{
    walk(prepare_awake, submit_one, worker_0, worker_1);
}

TEST(wherever_two_calls_come_while_a_worker_goes_to_sleep_neither_is_left)
{
    walk(prepare_awake, worker_0, submit_one, submit_one);
}

TEST(wherever_calls_and_a_second_worker_come_while_a_worker_goes_to_sleep_none_is_left)
{
    walk(prepare_awake, worker_0, submit_two, worker_1);
}

TEST(wherever_a_second_worker_goes_to_sleep_before_a_call_comes_it_is_not_left)
{
    walk(prepare_awake, worker_0, worker_1, submit_two);
}

TEST(wherever_the_woken_worker_goes_on_while_the_next_call_comes_it_is_not_left)
{
    walk(prepare_posted, submit_one, worker_0, NULL);
    walk(prepare_posted, submit_one, worker_0_then_submit, worker_2);
}

TEST(wherever_the_next_calls_come_while_the_woken_worker_goes_on_they_are_not_left)
{
    walk(prepare_posted, worker_0, submit_one, submit_two);
}

TEST(wherever_a_thread_submits_while_another_does_neither_call_is_left)
{
    walk(prepare_asleep, submit_one, submit_one, NULL);
    walk(prepare_asleep, submit_one, submit_one, worker_0);
}

TEST(wherever_a_spinner_ends_while_calls_come_they_are_not_left)
{
    walk(prepare_spinning, submit_one, worker_0, NULL);
    walk(prepare_spinning, submit_two, worker_0, NULL);
}

TEST(wherever_calls_come_while_a_spinner_ends_they_are_not_left)
{
    walk(prepare_spinning, worker_0, submit_one, NULL);
    walk(prepare_spinning, worker_0, submit_one, submit_one);
}

static void wake_one(void *argument)
{
    (void)argument;
    pc_idle_wake_one(&segment);
}

TEST(a_waker_that_dies_at_any_instruction_takes_nobodys_wake_with_it)
{
    segment_set_up(CREW, 0);
    prepare_asleep(NULL);
    wake_one(NULL); /* the dynamic linker's part is over after this */
    bool died = true;
    for (long instruction = 0; died; instruction++) {
        prepare_asleep(NULL);
        push(atomic_fetch_add(&crew.calls, 1));
        died = dies_at(instruction, wake_one, NULL);
        submit_two(NULL);
        check_nothing_left(NULL);
    }
    tear_down();
}

/* ---- threads and processes ---- */

/* The order that processors may not turn round (I1): push, fence, bit | bit, fence, ring. */
typedef struct dance {
    _Atomic uint32_t round, answered; /* round 0: the end */
    bool sleeps;
} dance;

static void *dance_sleeper(void *argument)
{
    dance *d = argument;
    uint64_t random = 1;
    use_cpu(1);
    for (uint32_t seen = 0, round;; seen = round) {
        UNTIL((round = atomic_load(&d->round)) != seen);
        if (round == 0)
            return NULL;
        random_pause(&random);
        d->sleeps = pc_idle_publish(&segment, 0);
        atomic_store(&d->answered, round);
    }
}

TEST(a_call_and_a_sleeper_never_miss_each_other)
{
    dance d = {.round = 0};
    uint64_t random = 2;
    unsigned slept = 0, round = 0;
    segment_set_up(1, 0);
    use_cpu(0);
    pthread_t sleeper = thread_start(dance_sleeper, &d);
    for (rounds r = rounds_of(500, 500); rounds_go_on(&r);) {
        atomic_store(&d.round, ++round);
        random_pause(&random);
        push(3);
        pc_idle_wake_one(&segment);
        UNTIL(atomic_load(&d.answered) == round);
        if (d.sleeps && !has_token(0))
            tap_fail("round %u: it sleeps, and nobody has posted it", round);
        slept += d.sleeps;
        pc_idle_retract(&segment, 0);
        ASSERT_INT(claim(0), 3);
    }
    atomic_store(&d.round, 0);
    thread_end(sleeper);
    DIAG("%u rounds, in %u it slept first", round, slept);
    tear_down();
}

/* Real workers, real sleep, and nobody who looks after 100 ms. */
static void work(void *argument)
{
    unsigned worker = (unsigned)(uintptr_t)argument;
    uint64_t random = worker;
    for (;;) {
        uint32_t slot;
        uint64_t word;
        pc_ending ending;
        if (pc_ring_claim(&segment, worker, INCARNATION, &slot, &word)) {
            if (pc_ring_pending(&segment))
                pc_idle_wake_one(&segment);
            random_pause(&random);
            ASSERT(pc_slot_finish(&segment.slots[slot], word, &ending));
        } else if (atomic_load_explicit(&segment.header->closing, memory_order_acquire)) {
            return;
        } else if (!pc_idle_spin(&segment, worker)) {
            if (pc_idle_publish(&segment, worker))
                pc_sleeper_wait(&segment.workers[worker].semaphore, INT64_MAX);
            pc_idle_retract(&segment, worker);
        }
    }
}

static bool done(uint32_t slot)
{
    return pc_word_state(atomic_load(&segment.slots[slot].control)) == PC_DONE;
}

typedef struct client {
    uint32_t first, most, done;
    int64_t ms;
} client;

static void *client_run(void *argument)
{
    client *c = argument;
    uint64_t random = c->first;
    uint32_t generations[8] = {0};
    for (rounds r = rounds_of(c->ms, 50); rounds_go_on(&r);) {
        uint32_t count = 1 + (uint32_t)random_below(&random, c->most);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t slot = c->first + i, ticket;
            ASSERT(pc_ring_take_ticket(tail, &ticket));
            pc_slot_queue(&segment.slots[slot], ++generations[i]);
            pc_ring_push(&segment, ticket, slot, generations[i]);
            pc_idle_wake_one(&segment);
            random_pause(&random);
        }
        for (uint32_t i = 0; i < count; i++)
            UNTIL_OR(done(c->first + i), "call %u of this thread, %u of %u: word 0x%llx, idle 0x%llx",
                     c->done, i, count,
                     (unsigned long long)atomic_load(&segment.slots[c->first + i].control),
                     (unsigned long long)atomic_load(&segment.header->idle[0]));
        c->done += count;
        random_pause(&random);
    }
    return NULL;
}

static void run_crew(uint64_t spin_ns, unsigned clients, uint32_t most, int64_t ms)
{
    pthread_t threads[4];
    client all[4];
    pid_t pids[CREW];
    uint32_t calls = 0, sleeps = 0;
    segment_set_up(CREW, spin_ns);
    for (uintptr_t i = 0; i < CREW; i++)
        pids[i] = process_start(work, (void *)i);
    for (unsigned i = 0; i < clients; i++) {
        all[i] = (client){.first = i * 8, .most = most, .ms = ms};
        threads[i] = thread_start(client_run, &all[i]);
    }
    for (unsigned i = 0; i < clients; i++) {
        thread_end(threads[i]);
        calls += all[i].done;
    }
    atomic_store(&segment.header->closing, 1);
    pc_idle_wake_all(&segment);
    for (unsigned i = 0; i < CREW; i++) {
        process_end(pids[i]);
        sleeps += atomic_load(&segment.workers[i].sleeps);
    }
    ASSERT_INT(atomic_load(&segment.header->idle[0]), 0);
    ASSERT_INT(atomic_load(&segment.header->spinner), 0);
    DIAG("%u calls, %u sleeps", calls, sleeps);
    tear_down();
}

TEST(one_call_at_a_time_always_finds_a_worker)
{
    run_crew(0, 1, 1, 300);
}

TEST(bursts_of_calls_always_find_workers)
{
    run_crew(0, 1, 3, 400);
}

TEST(calls_of_two_threads_always_find_workers)
{
    run_crew(0, 2, 3, 400);
}

TEST(calls_always_find_workers_that_spin_and_sleep_by_turns)
{
    run_crew(3000, 1, 3, 300);
    run_crew(20000, 2, 2, 200);
}

TAP_MAIN
