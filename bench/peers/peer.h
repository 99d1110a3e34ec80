/* peer: what the programs of bench/peers share: a peer is one way to call Python, and the harness
 * calls it, checks each result and takes the times. harness.py is the same for peers in Python,
 * with the same command line and the same lines out:
 *
 *     PROGRAM PEER WORKERS RECORD_FILE CELL...
 *     CELL: NAME,MODULE:FUNCTION,KIND,PARAMETER,WAY,SECONDS
 *
 * Each line is a JSON object: "hello" with versions; "first_result_ns" from the start; then for
 * each cell "begin", and its times: of calls made one at a time a histogram ("calls": pairs of
 * nanoseconds, a bucket's lower end, and how many), of many at once the nanoseconds per call of
 * each run ("runs"). BENCH_TOLERANT in the environment: calls may be lost, and are counted. A wrong
 * result never passes.
 */
#ifndef BENCH_PEERS_PEER_H
#define BENCH_PEERS_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kind { NONE, INTS, TEXT, SPIN, SKEWED, INDEX, ENDS, NORM, KIND_COUNT };
enum { TEXT_MAX = 2048, ARRAY_BYTES = 64 << 20, SKEW_EVERY = 100, SKEW_FACTOR = 100 };

struct workload {
    char name[32], function[64]; /* function: "module:name" */
    enum kind kind;
    int64_t parameter; /* SPIN, SKEWED: loops; ENDS, NORM: elements */
};

/* A call's arguments: none, one or two ints, a text, or so many elements of the array memory. */
struct request {
    enum kind kind;
    uint32_t size; /* of the text */
    int64_t a, b;  /* of arrays a is the number of elements */
    char text[TEXT_MAX];
};

/* What came back. status: 0, or the call failed or was lost. integer: of NONE 0 for None. */
struct reply {
    int32_t status;
    uint32_t size;
    int64_t integer;
    double number;
    char text[TEXT_MAX];
};

/* Calls `count` records beginning with `first` and gives each reply to finish_record; returns how
 * many calls were lost. */
typedef int64_t many_function(const struct workload *workload, int64_t first, int64_t count);

struct way {
    const char *name;
    many_function *many;
};

struct peer {
    const char *name;
    void (*versions)(void); /* prints members of a JSON object: "\"pycrew\": \"0.1.0\"" */
    void (*start)(unsigned workers);
    /* Before a cell. False: not possible, see skip_reason. */
    bool (*use)(const struct workload *workload);
    void (*one)(const struct workload *workload, const struct request *request,
                struct reply *reply);
    struct way ways[4]; /* besides "one" */
    void (*close)(void);
    /* After start, memory that the workers see. NULL: it is mapped before the start. */
    void *(*allocate)(size_t size);
};

extern const struct peer *const peers[]; /* of this program; NULL at the end */

/* ---- harness.c ---- */
extern const char *skip_reason;
extern double *array_memory;
extern bool tolerant, uses_arrays;
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int64_t now_ns(void);

/* ---- records.c ---- */
void read_record_file(const char *path);
bool parse_workload(const char *cell, struct workload *ret, char way[32], double *seconds);
void prepare_array(const struct workload *workload, int64_t first);
void make_record(const struct workload *workload, int64_t index, struct request *ret);
/* A wrong result ends the program. */
void check_record(const struct workload *workload, int64_t index, const struct reply *reply);
/* The same, or false for one that was lost, which ends the program unless tolerant. */
bool finish_record(const struct workload *workload, int64_t index, const struct reply *reply);
/* Four chunks a worker, as Pool.map makes them. */
int64_t chunk_for(int64_t count, unsigned workers, int64_t most);

#endif
