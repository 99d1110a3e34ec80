/* records: the arguments of each call and what has to come back. */
#include "peer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const kind_names[KIND_COUNT] = {"none",   "ints",  "text", "spin",
                                                   "skewed", "index", "ends", "norm"};
static const char record_start[] = "{\"id\": ";
static char record_rest[TEXT_MAX - 64]; /* what follows the record's id */
static int64_t array_first;
static double norm_rest; /* of all elements but the first */

/* One line of JSON that begins with an id of 0. */
void read_record_file(const char *path)
{
    char line[sizeof record_rest];
    FILE *file = fopen(path, "re");
    if (!file || !fgets(line, sizeof line, file) ||
        strncmp(line, record_start, strlen(record_start)) != 0)
        fail("%s: not a record", path);
    fclose(file);
    line[strcspn(line, "\n")] = 0;
    strcpy(record_rest, line + strlen(record_start) + 1);
}

bool parse_workload(const char *cell, struct workload *ret, char way[32], double *seconds)
{
    char kind[16];
    if (sscanf(cell, "%31[^,],%63[^,],%15[^,],%" SCNd64 ",%31[^,],%lf", ret->name, ret->function,
               kind, &ret->parameter, way, seconds) != 6)
        return false;
    for (ret->kind = NONE; ret->kind < KIND_COUNT; ret->kind++)
        if (strcmp(kind, kind_names[ret->kind]) == 0)
            return true;
    return false;
}

static double norm_of(double x)
{
    return sqrt(x * x + 1);
}

/* All calls of a run get the same array: its first element tells the runs apart. */
void prepare_array(const struct workload *workload, int64_t first)
{
    static const struct workload *filled;
    int64_t elements = workload->parameter;
    if (workload->kind != ENDS && workload->kind != NORM)
        return;
    if (filled != workload) {
        norm_rest = 0;
        for (int64_t i = 1; i < elements; i++) {
            array_memory[i] = (double)i / (double)elements;
            norm_rest += norm_of(array_memory[i]);
        }
        array_memory[elements - 1] = workload->kind == ENDS ? 1 : array_memory[elements - 1];
        filled = workload;
    }
    array_memory[0] = (double)first;
    array_first = first;
}

static int64_t loops_of(const struct workload *workload, int64_t index)
{
    bool is_long = workload->kind == SKEWED && index % SKEW_EVERY == SKEW_EVERY - 1;
    return workload->parameter * (is_long ? SKEW_FACTOR : 1);
}

static int make_text(int64_t id, char *ret)
{
    return snprintf(ret, TEXT_MAX, "%s%" PRId64 "%s", record_start, id, record_rest);
}

void make_record(const struct workload *workload, int64_t index, struct request *ret)
{
    ret->kind = workload->kind;
    ret->size = 0;
    ret->a = index;
    if (workload->kind == INTS)
        ret->b = 2 * index;
    else if (workload->kind == SPIN || workload->kind == SKEWED)
        ret->b = loops_of(workload, index);
    else if (workload->kind == ENDS || workload->kind == NORM)
        ret->a = workload->parameter;
    else if (workload->kind == TEXT)
        ret->size = (uint32_t)make_text(index, ret->text);
}

static bool is_right(const struct workload *workload, int64_t index, const struct reply *reply)
{
    char text[TEXT_MAX];
    switch (workload->kind) {
    case NONE:
        return reply->integer == 0;
    case INTS:
        return reply->integer == 3 * index;
    case SPIN:
    case SKEWED:
        return reply->integer == index + loops_of(workload, index);
    case INDEX:
        return reply->integer == index;
    case TEXT:
        return (uint32_t)make_text(index + 1, text) == reply->size &&
               memcmp(text, reply->text, reply->size) == 0;
    case ENDS:
        return reply->number == (double)array_first + 1;
    case NORM:
        return fabs(reply->number / (norm_rest + norm_of((double)array_first)) - 1) < 1e-9;
    default:
        return false;
    }
}

void check_record(const struct workload *workload, int64_t index, const struct reply *reply)
{
    if (is_right(workload, index, reply))
        return;
    printf("{\"cell\": \"%s\", \"wrong\": \"%s of record %" PRId64 " gave %" PRId64
           ", %.17g, %u bytes\"}\n",
           workload->name, workload->function, index, reply->integer, reply->number, reply->size);
    fflush(stdout);
    _Exit(1);
}

bool finish_record(const struct workload *workload, int64_t index, const struct reply *reply)
{
    if (reply->status != 0) {
        if (!tolerant)
            fail("%s of record %" PRId64 " failed", workload->function, index);
        return false;
    }
    check_record(workload, index, reply);
    return true;
}

int64_t chunk_for(int64_t count, unsigned workers, int64_t most)
{
    int64_t chunk = count / (4 * (int64_t)workers);
    return chunk < 1 ? 1 : chunk > most ? most : chunk;
}
