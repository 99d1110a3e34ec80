/* histogram: how long calls took, counted by each worker in memory of its own.
 *
 * Overview. Three log-linear histograms a worker: below 8 ns a bucket is a nanosecond, from there on each
 * power of two has 8 buckets, so a value is known within an eighth of it, up to five hours (what is longer
 * counts in the last one).
 *
 *   RUN    what a worker had with a call: arguments, function, result
 *   WAIT   from its submit until a worker began
 *   TOTAL  from its submit until its end
 *
 * Not each call is timed. The host marks some when it queues them (PC_REQUEST_TIMED), and leaves in the slot
 * when that was and for how many the call stands (pc_time_mark): one of 2^n calls, n from the function's block,
 * where the worker leaves it (pc_sampling_next): 0 at first and while its calls are long, so all of them count;
 * with each short one by one more, up to 6, and fewer again with each long one, the longer the fewer. (Not 0 at
 * once: of a short call's function whose worker the kernel has put aside for a moment, all that are in flight
 * would be timed.) Which ones is decided by a number that is the call's own (its ticket) and
 * spread over 32 bits: as many as there should be, and in no step with anything that comes each second or
 * 64th time. That the share is known before the call runs, and is the weight it counts with, makes the
 * histogram right on average, however it moves. Chunks are all timed; their items count each, with the chunk's
 * wait and end, and the mean of its items' times (of long ones each its own).
 *
 * Why it is correct. Who writes is the one process that has the worker's place: the next one is admitted when
 * that one's death is confirmed, and goes on where it stopped; so a plain load and store count, and a word is
 * never half written. A death between two words loses one call's part of one of them. Who reads (the host, or
 * anybody who maps the segment for reading) sees each word at some time, and those that only grow never go
 * back. Nothing is decided by these words but what is shown; a scribbled one shows nonsense, and the reader
 * adds so that it cannot overflow. */
#ifndef PC_SHM_HISTOGRAM_H
#define PC_SHM_HISTOGRAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PC_HISTOGRAM_BITS = 3, /* 2^3 buckets for a power of two */
    PC_HISTOGRAM_TOP = 44, /* from 2^44 ns on, 4.9 hours, all are one */
    PC_HISTOGRAM_BUCKETS = (PC_HISTOGRAM_TOP - PC_HISTOGRAM_BITS + 1) << PC_HISTOGRAM_BITS
};

enum pc_time { PC_TIME_RUN = 0, PC_TIME_WAIT, PC_TIME_TOTAL, PC_TIMES };

/* The worker's, of all processes that had its place. */
typedef struct pc_histogram {
    _Atomic uint64_t buckets[PC_HISTOGRAM_BUCKETS]; /* calls and items; their sum is the count */
    _Atomic uint64_t sum; /* of nanoseconds, */
    _Atomic uint64_t max; /* and the most of one that was timed */
} pc_histogram;

typedef struct pc_worker_times {
    _Alignas(64) pc_histogram of[PC_TIMES]; /* by enum pc_time */
} pc_worker_times;

/* Of several workers, together. */
typedef struct pc_histogram_sum {
    uint64_t buckets[PC_HISTOGRAM_BUCKETS], count, sum, max;
} pc_histogram_sum;

/* The bucket of a time, and the times that are in a bucket: from its start to before the next one's. */
static inline unsigned pc_histogram_bucket(uint64_t ns)
{
    unsigned power;

    if (ns < 1u << PC_HISTOGRAM_BITS)
        return (unsigned)ns;
    if (ns >> PC_HISTOGRAM_TOP != 0)
        return PC_HISTOGRAM_BUCKETS - 1;
    power = 63 - (unsigned)__builtin_clzll(ns) - PC_HISTOGRAM_BITS;
    return (power << PC_HISTOGRAM_BITS) + (unsigned)(ns >> power);
}

static inline uint64_t pc_histogram_start(unsigned bucket)
{
    unsigned power = (bucket >> PC_HISTOGRAM_BITS) - 1;

    if (bucket < 1u << PC_HISTOGRAM_BITS)
        return bucket;
    return (uint64_t)(bucket - (power << PC_HISTOGRAM_BITS)) << power;
}

/* Worker: weight calls took ns each. */
void pc_histogram_count(pc_histogram *histogram, int64_t ns, uint64_t weight);

/* Reader: adds it to *sum, which is zero at first. */
void pc_histogram_add(pc_histogram_sum *sum, const pc_histogram *histogram);

/* Reader: what a share of the calls (0 to 1) took at most: nanoseconds, from within the bucket that it is in;
 * 0 if there are none. */
int64_t pc_histogram_quantile(const pc_histogram_sum *sum, double quantile);

/* Reader: how many took less than ns, which is the start of a bucket. */
uint64_t pc_histogram_below(const pc_histogram_sum *sum, uint64_t ns);

/* ---- which calls are timed ---- */

enum { PC_SAMPLING_MAX = 6 }; /* one of 64 */

/* From this on a call is long: two looks at the clock are nothing beside it. */
#define PC_LONG_NS ((int64_t)10000)

/* What the host leaves where the result will be. */
typedef struct pc_time_mark {
    int64_t submitted;
    uint64_t weight;
} pc_time_mark;

/* The one of 2^n that is timed, by a number of its own. mask has the n highest bits: see pc_sampling_next. */
static inline bool pc_sampling_takes(uint32_t number, uint32_t mask)
{
    return (number * UINT32_C(2654435769) & mask) == 0;
}

static inline uint64_t pc_sampling_weight(uint32_t mask)
{
    return UINT64_C(1) << __builtin_popcount(mask);
}

/* Of the function, after a call that took so long. */
static inline uint32_t pc_sampling_next(uint32_t mask, int64_t ns)
{
    if (ns >= PC_LONG_NS) /* 10 us, 100 us, 1 ms */
        return mask << (1 + (ns >= 10 * PC_LONG_NS) + (ns >= 100 * PC_LONG_NS));
    return mask >> (32 - PC_SAMPLING_MAX) & 1 ? mask : mask >> 1 | UINT32_C(1) << 31;
}

#endif
