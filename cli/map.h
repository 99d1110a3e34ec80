/* map: what the parts of pycrew map share.
 *
 *   map.c     the loop, results out, and the end
 *   feed.c    records in
 *   files.c   what is opened before
 *   keep.c    checkpoints
 *   dryrun.c  --dry-run */
#ifndef CLI_MAP_H
#define CLI_MAP_H

#include "cli/checkpoint.h"
#include "cli/crew.h"
#include "cli/group.h"
#include "cli/inflight.h"
#include "cli/htmlpage.h"
#include "cli/report.h"
#include "cli/spread.h"

enum { WINDOW = 16384 }; /* calls with the workers at most */

struct keep {
    struct buffer work;     /* see identity.h */
    struct checkpoint from; /* what this run goes on from; all 0: it begins anew */
    bool resumed;
    int64_t last_ns, cost_ns;
    uint64_t last_done;
};

struct map {
    const struct options *options;
    enum spread spread;
    struct reader reader;
    struct writer writer;
    struct output output;
    struct report report;
    struct html_page page;
    struct options crew_options; /* with --report the library's trace goes there */
    struct progress progress;
    struct keep keep;
    pycrew_crew *crew;
    const pycrew_function *function;
    pycrew_batch *batch;
    struct inflight inflight;
    struct spread_problem problem;
    struct buffer place;
    struct group group;   /* what is read of it */
    struct record record; /* or a whole group: not yet with the batch, if pending */
    bool pending;
    uint64_t added;     /* to the batch */
    uint64_t done;      /* records whose result or failure is written, in all runs */
    size_t limit;       /* calls with the workers at most, for now: see feed_learn() */
    size_t room;        /* bytes of shared memory for records, and as many for results */
    size_t result_size; /* of the largest lately */
    bool unreadable;
    bool reading, ended; /* there may be more input; the batch has been told that there is not */
    bool stopped;        /* before the input's end: what is pending stays undone */
    bool leave;          /* at once: what is in flight is lost */
    int code;            /* the command's, once something has decided it */
};

/* ---- map.c ---- */

/* The first reason counts. */
void map_leave(struct map *map, int code);

/* After a write to file; path NULL is stdout. */
void map_check_written(struct map *map, int r, const char *path);

/* A record that never came to the library, or whose result cannot be written. */
void map_fail_record(struct map *map, const struct record *record, int code, const char *type,
                     const char *problem);

uint64_t map_failed(const struct map *map);    /* in all runs */
size_t map_count(const struct record *record); /* of records in it */

/* ---- feed.c ---- */

enum filled {
    FILLED_SOME, /* there is more, but results have their turn */
    FILLED_FULL, /* results must come out first */
    FILLED_DRY,  /* the input has nothing now */
    FILLED_ALL,  /* the input has ended, or is not to be read any more */
};

void feed_open(struct map *map);
enum filled feed_fill(struct map *map);

/* After each result: how large it was. */
void feed_learn(struct map *map, size_t result_size);

/* What the input has. READER_RECORD: map->record is pending. */
enum reader_result feed_read(struct map *map);

/* ---- files.c ---- */

/* Whatever can be seen to be wrong before workers are started is said before. 0 or a code. */
int files_open_input(struct map *map);
int files_open_output(struct map *map);
void files_abandon(struct map *map);

/* ---- keep.c ---- */

/* Reads what there is to go on from: -1, or a code to exit with. */
int keep_open(struct map *map);

/* From here on files are written: 0, or a code to exit with. */
int keep_begin(struct map *map);

/* Whether the record, just read, was done in a run before. */
bool keep_done(const struct map *map, const struct record *record);

void keep_look(struct map *map); /* writes a checkpoint, if it is time */
void keep_end(struct map *map);

/* ---- dryrun.c ---- */

int dry_run(struct map *map);

#endif
