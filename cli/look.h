/* look: what a crew is doing, from copies of its shared memory (attach.h), one after the other.
 *
 * Shares and rates are between two looks; in the first one over the life of each worker's process.
 * How long a call has been running is known from the crew itself where the call was timed, else
 * from when it was first seen; see look_call.at_least. */
#ifndef CLI_LOOK_H
#define CLI_LOOK_H

#include "cli/attach.h"

enum look_state {
    LOOK_IDLE = 0,
    LOOK_BUSY,
    LOOK_STARTING,
    LOOK_BACKING_OFF, /* no process: the next one is started, perhaps after a pause */
    LOOK_LEAVING,     /* it ends after its calls, or is being killed */
    LOOK_STATES
};

extern const char *const look_state_names[LOOK_STATES];

/* What an age is, beside the truth. */
enum look_bound {
    LOOK_EXACT = 0, /* or an eighth too long at most */
    LOOK_AT_LEAST,  /* it was there at the first look, and nobody says since when */
    LOOK_AT_MOST    /* it began between two looks, or was submitted then */
};

struct look_call {
    uint32_t slot, generation;
    int64_t age_ns; /* since its submit; of one that runs, since it began, to the time between two
                       looks */
    enum look_bound bound;
    char *function;       /* "module:name" */
    const char *kind;     /* "call", "batch", ... */
    uint32_t done, items; /* of a batch's chunk; items 0: it is none */
};

struct look_worker {
    unsigned number;
    pid_t pid;    /* 0: none */
    bool is_ours; /* the kernel agrees that it is the host's worker, so rss is known */
    enum look_state state;
    bool asleep;
    unsigned held;            /* calls; several are coroutines */
    struct look_call call;    /* the oldest of them */
    uint64_t calls, errors;   /* of its present process */
    double calls_per_s, busy; /* 0 to 1 */
    uint64_t rss;
    uint32_t deaths, incarnation;
};

/* Nanoseconds; all 0 where there were no calls. Of short calls a sample is timed: histogram.h. */
struct look_times {
    uint64_t count; /* calls and items */
    int64_t p50, p90, p99, p999, max;
};

struct look {
    double interval_s; /* that rates are over; 0: the first look */
    unsigned workers, states[LOOK_STATES], asleep;
    uint32_t queued, in_flight, deaths;
    double calls_per_s, errors_per_s,
        busy; /* busy: the workers' together, 1 for one whole worker */
    uint64_t memory_used, memory_max, resident;
    struct look_times times[PC_TIMES],
        recent[PC_TIMES]; /* since the crew began; since the last look */
    uint64_t outcomes[PC_OUTCOMES];
    bool closing;
    struct look_worker *worker;
    int oldest;               /* the worker that has had a call for longest; -1: none has one */
    struct look_call waiting; /* of those queued the oldest; function NULL: there is none */
};

/* What is kept between looks. */
struct looker;

struct looker *looker_new(const pc_config *config);
void looker_free(struct looker *looker);

/* From attached->segment, during a look. It is looker's, until the next. */
const struct look *looker_look(struct looker *looker, const struct attached *attached);

#endif
