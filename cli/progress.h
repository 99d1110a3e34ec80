/* progress: how far a map is, on stderr.
 *
 *   bar    one line at the bottom of the terminal, ten times a second
 *   plain  a line each five seconds
 *   json   a line of JSON each second, and a last one
 *   auto   a bar if stderr is a terminal, else none
 *
 * SIGUSR1 prints one plain line in any mode. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

enum progress_mode { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_PLAIN, PROGRESS_JSON, PROGRESS_NONE };

/* How things stand. */
struct standing {
    uint64_t done, failed, retried, deaths;
    uint64_t added;          /* records read so far */
    uint64_t total;          /* records in all, 0: not known */
    uint64_t position, size; /* bytes read, and of all files; size 0: not known */
};

struct progress {
    enum progress_mode mode;
    int64_t started_ns, shown_ns;
    int64_t measured_ns; /* when done was measured_done */
    uint64_t measured_done, started_done;
    double rate; /* records a second, lately; 0: not known yet */
};

int64_t now_ns(void);

/* done: so much was before. */
void progress_start(struct progress *progress, enum progress_mode mode, uint64_t done);

/* Whether it is time to show something, and how long until then. Costs one look at the clock. */
bool progress_due(const struct progress *progress);
int64_t progress_wait_ns(const struct progress *progress); /* -1: never */

void progress_show(struct progress *progress, const struct standing *standing);

/* A plain line at once, whatever the mode. */
void progress_report(struct progress *progress, const struct standing *standing);

/* The last line, and the bar's end. */
void progress_end(struct progress *progress, const struct standing *standing);

#endif
