/* What lib/shm/announce.h promises: an end that was announced is found, and its reader is woken. */
#include "tests/shm/fixture.h"

#include <sys/eventfd.h>

#include "lib/shm/announce.h"

enum { SLOTS = 256, WORDS = SLOTS / 64, QUEUE = 1 };

static pc_segment segment;

static unsigned take_all(unsigned queue, uint64_t words[WORDS])
{
    unsigned count = 0;
    for (unsigned i = 0; i < WORDS; i++) {
        words[i] = pc_announce_take(&segment, queue, i);
        count += (unsigned)__builtin_popcountll(words[i]);
    }
    return count;
}

TEST(each_slot_that_is_announced_is_taken_once_from_its_queue)
{
    uint64_t words[WORDS];
    segment = segment_new(SLOTS, 1, 1);
    for (unsigned queue = 0; queue < segment.config.queues; queue++)
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            pc_announce(&segment, queue, slot);
            for (unsigned other = 0; other < segment.config.queues; other++)
                ASSERT_INT(take_all(other, words), other == queue);
            pc_announce(&segment, queue, slot);
            ASSERT_INT(take_all(queue, words), 1);
            ASSERT(words[slot / 64] == UINT64_C(1) << slot % 64);
            ASSERT_INT(take_all(queue, words), 0);
        }
    pc_segment_unmap(&segment);
}

TEST(what_is_announced_twice_is_taken_once_and_all_slots_fit)
{
    uint64_t words[WORDS];
    segment = segment_new(SLOTS, 1, 1);
    for (int twice = 0; twice < 2; twice++)
        for (uint32_t slot = 0; slot < SLOTS; slot++)
            pc_announce(&segment, QUEUE, slot);
    ASSERT_INT(take_all(QUEUE, words), SLOTS);
    ASSERT_INT(take_all(QUEUE, words), 0);
    pc_segment_unmap(&segment);
}

TEST(the_eventfd_is_to_be_written_while_the_queues_reader_is_armed)
{
    segment = segment_new(SLOTS, 1, 1);
    ASSERT(!pc_announce(&segment, QUEUE, 3));
    pc_announce_arm(&segment, QUEUE);
    ASSERT(!pc_announce(&segment, QUEUE + 1, 3)); /* another's */
    for (int i = 0; i < 3; i++) {
        ASSERT(pc_announce(&segment, QUEUE, 3)); /* announcers clear nothing */
        pc_announce_take(&segment, QUEUE, 0);
    }
    pc_announce_disarm(&segment, QUEUE);
    ASSERT(!pc_announce(&segment, QUEUE, 3));
    pc_segment_unmap(&segment);
}

/* ---- instruction by instruction ---- */

static struct {
    bool written;
    unsigned taken;
} race;

static void prepare(void *argument)
{
    uint64_t words[WORDS];
    (void)argument;
    race.written = false;
    race.taken = 0;
    pc_announce_disarm(&segment, QUEUE);
    take_all(QUEUE, words);
}

static void announce(void *argument)
{
    (void)argument;
    race.written = pc_announce(&segment, QUEUE, 70);
}

static void arm_and_take(void *argument)
{
    (void)argument;
    pc_announce_arm(&segment, QUEUE);
    race.taken += pc_announce_take(&segment, QUEUE, 1) != 0;
}

static void announce_another(void *argument)
{
    (void)argument;
    pc_announce(&segment, QUEUE, 71);
}

static void check_known(void *argument)
{
    (void)argument;
    ASSERT(race.taken || race.written); /* or it sleeps, and an end is there */
}

TEST(wherever_a_reader_goes_to_sleep_while_an_end_is_announced_it_knows)
{
    segment = segment_new(SLOTS, 1, 1);
    interleave(&(interleaving){.prepare = prepare,
                               .stepped = announce,
                               .others = {arm_and_take, NULL},
                               .check = check_known});
    pc_segment_unmap(&segment);
}

TEST(wherever_an_end_is_announced_while_a_reader_goes_to_sleep_it_knows)
{
    segment = segment_new(SLOTS, 1, 1);
    interleave(&(interleaving){.prepare = prepare,
                               .stepped = arm_and_take,
                               .others = {announce, NULL},
                               .check = check_known});
    pc_segment_unmap(&segment);
}

static void check_none_lost(void *argument)
{
    uint64_t words[WORDS];
    (void)argument;
    pc_announce(&segment, QUEUE, 70); /* at least; as the sweep does */
    take_all(QUEUE, words);
    ASSERT(words[1] & UINT64_C(1) << (70 - 64));
    ASSERT(race.taken || words[1] & UINT64_C(1) << (71 - 64));
}

TEST(wherever_another_end_is_announced_while_one_is_neither_is_lost)
{
    segment = segment_new(SLOTS, 1, 1);
    interleave(&(interleaving){.prepare = prepare,
                               .stepped = announce,
                               .others = {announce_another, NULL},
                               .check = check_none_lost});
    interleave(&(interleaving){.prepare = prepare,
                               .stepped = arm_and_take,
                               .others = {announce_another, NULL},
                               .check = check_none_lost});
    pc_segment_unmap(&segment);
}

/* ---- threads ---- */

enum { ANNOUNCERS = 2, OWN = SLOTS / ANNOUNCERS };

/* Announcers, each with slots of its own, and a reader that sleeps on the eventfd. */
typedef struct traffic {
    int eventfd;
    _Atomic uint32_t announced[SLOTS], delivered[SLOTS]; /* how often */
    _Atomic uint32_t announcers, left;
} traffic;

static void *announce_and_wait(void *argument)
{
    traffic *t = argument;
    unsigned number = atomic_fetch_add(&t->announcers, 1);
    uint32_t first = number * OWN;
    uint64_t random = first, one = 1;
    use_cpu((int)number + 1);
    for (rounds r = rounds_of(700, 100); rounds_go_on(&r);) {
        uint32_t slot = first + (uint32_t)random_below(&random, OWN);
        uint32_t count = 1 + (uint32_t)random_below(&random, 3);
        for (uint32_t i = 0; i < count; i++) {
            uint32_t at = first + (slot + i) % OWN;
            random_pause(&random);
            atomic_store_explicit(&t->announced[at], t->announced[at] + 1, memory_order_relaxed);
            if (pc_announce(&segment, QUEUE, at))
                ASSERT_INT(write(t->eventfd, &one, sizeof one), sizeof one);
        }
        for (uint32_t i = 0; i < count; i++) {
            uint32_t at = first + (slot + i) % OWN;
            UNTIL_OR(atomic_load(&t->delivered[at]) == atomic_load(&t->announced[at]), "slot %u", at);
        }
    }
    if (atomic_fetch_sub(&t->left, 1) == 1)
        ASSERT_INT(write(t->eventfd, &one, sizeof one), sizeof one);
    return NULL;
}

static unsigned deliver(traffic *t)
{
    unsigned count = 0;
    for (unsigned word = 0; word < WORDS; word++)
        for (uint64_t bits = pc_announce_take(&segment, QUEUE, word); bits; bits &= bits - 1) {
            uint32_t slot = word * 64 + (unsigned)__builtin_ctzll(bits);
            /* What came before the bit is seen with it. */
            uint32_t seen = atomic_load_explicit(&t->announced[slot], memory_order_relaxed);
            ASSERT_INT(seen, atomic_load(&t->delivered[slot]) + 1);
            atomic_store(&t->delivered[slot], seen);
            count++;
        }
    return count;
}

/* As lib/queue.c does. */
static void read_until_over(traffic *t, unsigned *delivered, unsigned *sleeps)
{
    while (atomic_load(&t->left) > 0) {
        struct pollfd ready = {.fd = t->eventfd, .events = POLLIN};
        uint64_t count;
        pc_announce_disarm(&segment, QUEUE);
        *delivered += deliver(t);
        if (read(t->eventfd, &count, sizeof count) < 0)
            ASSERT_INT(errno, EAGAIN);
        pc_announce_arm(&segment, QUEUE);
        unsigned more = deliver(t);
        *delivered += more;
        if (more > 0)
            continue;
        *sleeps += 1;
        if (atomic_load(&t->left) > 0)
            ASSERT_INT(poll(&ready, 1, (int)(PATIENCE_S * 1000 * tap_scale())), 1); /* a wake was lost */
    }
}

TEST(a_reader_that_sleeps_is_woken_for_each_end)
{
    traffic *t = shared_memory(sizeof *t);
    pthread_t threads[ANNOUNCERS];
    unsigned delivered = 0, sleeps = 0;
    segment = segment_new(SLOTS, 1, 1);
    t->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    t->left = ANNOUNCERS;
    use_cpu(0);
    for (int i = 0; i < ANNOUNCERS; i++)
        threads[i] = thread_start(announce_and_wait, t);
    read_until_over(t, &delivered, &sleeps);
    for (int i = 0; i < ANNOUNCERS; i++)
        thread_end(threads[i]);
    DIAG("%u delivered, %u sleeps", delivered, sleeps);
    close(t->eventfd);
    pc_segment_unmap(&segment);
}

/* The order that processors may not turn round (A): bit, fence, armed | armed, fence, bit. */
typedef struct dance {
    _Atomic uint32_t round, answered; /* round 0: the end */
    bool written;
} dance;

static void *dance_announcer(void *argument)
{
    dance *d = argument;
    uint64_t random = 1;
    use_cpu(1);
    for (uint32_t seen = 0, round;; seen = round) {
        UNTIL((round = atomic_load(&d->round)) != seen);
        if (round == 0)
            return NULL;
        random_pause(&random);
        d->written = pc_announce(&segment, QUEUE, 70);
        atomic_store(&d->answered, round);
    }
}

TEST(a_reader_and_an_end_never_miss_each_other)
{
    dance d = {.round = 0};
    uint64_t random = 2;
    unsigned slept = 0, round = 0;
    segment = segment_new(SLOTS, 1, 1);
    use_cpu(0);
    pthread_t announcer = thread_start(dance_announcer, &d);
    for (rounds r = rounds_of(500, 200); rounds_go_on(&r);) {
        pc_announce_disarm(&segment, QUEUE);
        pc_announce_take(&segment, QUEUE, 1);
        atomic_store(&d.round, ++round);
        random_pause(&random);
        pc_announce_arm(&segment, QUEUE);
        bool found = pc_announce_take(&segment, QUEUE, 1) != 0;
        UNTIL(atomic_load(&d.answered) == round);
        if (!found && !d.written)
            tap_fail("round %u: the reader sleeps, and nobody wakes it", round);
        slept += !found;
    }
    atomic_store(&d.round, 0);
    thread_end(announcer);
    DIAG("%u rounds, in %u it slept first", round, slept);
    pc_segment_unmap(&segment);
}

TAP_MAIN
