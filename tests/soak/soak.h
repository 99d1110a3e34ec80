/* soak.h: what the parts of pycrew-soak share. soak.c is the run, jobs.c, batches.c, arrays.c,
 * maps.c, objects.c and asks.c make the calls, killer.c kills, watch.c looks whether anything hangs or grows, ledger.h
 * keeps the books.
 */
#ifndef SOAK_H
#define SOAK_H

#include <pycrew.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/common.h"
#include "tests/soak/ledger.h"

enum { THREADS_MAX = 64, WORKERS_MAX = 512, DATA_SIZE_MAX = 4 << 20 };

#define US ((int64_t)1000)
#define MS (1000 * US)
#define SECOND (1000 * MS)

#define GRACE_NS (20 * MS)
#define LOST_NS                                                                                    \
    (30 *                                                                                          \
     SECOND) /* no wait takes longer: queues are short, a new zygote takes less than a second */
#define LATE_NS (10 * SECOND) /* nor one for a call with a deadline, beyond that and the grace */

struct soak {
    pycrew_crew *crew;
    const pycrew_function *function, *coroutine, *slices;
    unsigned threads, workers;
    double kill_rate, zygote_rate, reload_rate; /* a second */
    size_t max_calls; /* that a worker lives for */
    uint64_t seed;
    int64_t duration_ns;
    size_t calls; /* to end after so many; 0: only by duration */

    _Atomic size_t next; /* the next call's number */
    _Atomic bool pause;  /* threads end after their present job */
    _Atomic uint64_t killed, zygotes_killed, zygotes_seen;
    _Atomic uint64_t reloads, failed_reloads;
    _Atomic int64_t latest_ns; /* how long after deadline and grace the latest call ended */
};

extern struct soak soak;

static inline unsigned below(unsigned count, uint64_t *random)
{
    return (unsigned)((random_next(random) >> 11) % count);
}

static inline bool one_in(unsigned count, uint64_t *random)
{
    return below(count, random) == 0;
}

/* ---- jobs.c: one call ---- */

typedef struct plan {
    size_t index;
    enum op op;
    int64_t a;
    uint64_t b;
    const void *data;
    size_t size;
    int64_t timeout_ns; /* 0: none */
    unsigned retries;
} plan;

/* A call to be made, written into the ledger; and what it may have besides. */
plan plan_call(size_t index, enum kind kind, enum op op, uint64_t *random);
void plan_data(plan *p, size_t size);
void plan_data_of(plan *p, const void *data, size_t size);
void plan_sleep(plan *p, int64_t ns);
void plan_timeout(plan *p, int64_t timeout_ns);
void plan_retries(plan *p, unsigned retries);
void plan_submitted(const plan *p);

uint32_t plan_check(const plan *p); /* what its arguments come to */

/* Compares what it returned with what it must; the result's parts as pycrew_result gives them. */
void check_sum(size_t index, long long sum);
void check_bytes(const plan *p, const void *data, size_t size);
void check_failure(size_t index, const pycrew_error *error);

/* A call of a plan: its numbers, and data as bytes; to which more can be added until it is
 * submitted. */
pycrew_call *prepare_call(const plan *p);
const pycrew_function *choose_function(size_t index);
void plan_function(const plan *p, const pycrew_function *function); /* for the ledger */
void submit_call(pycrew_call *call, const plan *p);
/* Waits, and writes down how it ended: whether it returned. */
bool await_call(pycrew_call *call, const plan *p);
void cancel_call(pycrew_call *call, const plan *p);
void release_early(pycrew_call *call, const plan *p);
void pause_some(uint64_t *random);

void run_random_job(uint64_t *random);

/* ---- the event loop, a thread of its own ---- */

void loop_start(void);
void loop_stop(void);

/* ---- batches.c ---- */

void do_batch(size_t first, size_t count, uint64_t *random);
void do_rough_batch(size_t first, size_t count, uint64_t *random);

/* ---- arrays.c, maps.c ---- */

/* Memory that is not the crew's. Not malloc's, which keeps some for later: that would look like a
 * leak. */
void *map_memory(size_t size);
void unmap_memory(void *memory, size_t size);

void do_arrays(size_t first, size_t count, uint64_t *random);
void do_kept(size_t first, size_t count, uint64_t *random);
void do_writable(size_t first, size_t count, uint64_t *random);
void do_map(size_t first, size_t count, uint64_t *random);
void do_slices(size_t first, size_t count, uint64_t *random);

/* ---- objects.c ---- */

void do_actor(size_t first, size_t count, uint64_t *random);
void do_stream(size_t first, size_t count, uint64_t *random);

/* ---- asks.c ---- */

void asks_export(void);
void asks_look_after_close(void);
void do_asks(size_t first, size_t count, uint64_t *random);

/* ---- killer.c ---- */

void killer_start(void); /* for this round */
void killer_stop(void);
void kill_all_workers(void); /* waits until they are gone */

/* ---- watch.c ---- */

void watch_start(void);
void watch_stop(void);
void watch_beat(void); /* this thread has got on; each says so before and after it waits */
void watch_rest(void); /* it is at nothing that could hang */

/* Something has not ended within its bound. Tells all there is to know, and ends the program. */
_Noreturn void hung(size_t index, const pycrew_call *call, const char *what);

typedef struct look {
    long rss_kb, segment_kb, used_kb;
    size_t descriptors, threads, workers;
} look;

look look_when_quiet(void); /* all calls have ended, all workers are up */
void look_print(const look *l, double seconds);
void look_compare(const look *before, const look *after);
void look_at_what_is_held(const look *fresh); /* once nobody holds anything */
void look_after_close(size_t descriptors, size_t threads);

#endif
