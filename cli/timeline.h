/* timeline: what the workers did when, read from the library's trace while the map runs.
 *
 * The crew is given a pipe as options.trace; a thread of ours reads it, adds up what --report
 * shows, and copies it to the --trace file if there is one. All that it keeps has a size that does
 * not grow with the input: time is cut into pieces, which become twice as long when there would be
 * too many. */
#ifndef CLI_TIMELINE_H
#define CLI_TIMELINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    TIMELINE_PIECES = 240,
    TIMELINE_WORKERS = 64, /* with a line of their own; those behind are not shown */
    TIMELINE_MARKS = 1000,
    TIMELINE_OCTAVES = 40, /* of nanoseconds, in so many steps: */
    TIMELINE_STEPS = 8,
};

enum mark_kind { MARK_START, MARK_DEATH, MARK_KILL, MARK_RETRY, MARK_KINDS };

struct timeline_mark {
    enum mark_kind kind;
    unsigned worker;
    double at; /* seconds, from the beginning */
};

struct timeline {
    int pipe[2], copy; /* -1: not open */
    const char *copy_path;
    int copy_error; /* the first errno */
    char name[64];  /* of the pipe, for the crew */
    pthread_t thread;
    bool running;
    uint64_t position;

    double begin; /* seconds by CLOCK_MONOTONIC */
    double piece; /* seconds */
    double last;  /* the latest seen, from the beginning */
    double records[TIMELINE_PIECES];
    unsigned workers;                               /* the highest number seen, plus 1 */
    double busy[TIMELINE_WORKERS][TIMELINE_PIECES]; /* seconds */
    struct timeline_mark marks[TIMELINE_MARKS];
    uint64_t mark_count, counts[MARK_KINDS];           /* the first may be more than are kept */
    double latency[TIMELINE_OCTAVES * TIMELINE_STEPS]; /* records */
    double latency_records, latency_sum, latency_max;  /* seconds */
    uint64_t lost;
};

/* copy: a --trace FILE, or NULL. 0, or a code of the command after saying why. Then name is what
 * the crew is to write to. */
int timeline_open(struct timeline *timeline, const char *copy);

/* The crew is open, and has the pipe. */
void timeline_crew_open(struct timeline *timeline);

/* After the crew's end: all of it was read. Also after a timeline_open that failed. 0, or a code.
 */
int timeline_close(struct timeline *timeline);

/* The seconds that the part (0 to 1) of records that are fastest took at most. */
double timeline_percentile(const struct timeline *timeline, double part);

/* Where a step of `latency` begins, in seconds. */
double timeline_step(unsigned step);

#endif
