/* feed: records in, to the batch. */
#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/json.h"
#include "cli/map.h"

enum { BURST = 1024 }; /* calls prepared before results have their turn */

/* Bytes of records with the workers at most, and of results that may be expected of them. */
#define BYTES_MAX ((size_t)64 * 1024 * 1024)

/* "file:line:column: why" */
static void refuse_record(struct map *map, const struct record *record)
{
    struct buffer *place = &map->place;
    bool json_error = map->problem.column != SIZE_MAX;
    buffer_clear(place);
    report_place(place, record);
    if (json_error)
        buffer_print(place, ":%zu", utf8_count(record->text, map->problem.column) + 1);
    buffer_print(place, ": %s", buffer_string(&map->problem.text));
    map_fail_record(map, record, -EINVAL, json_error ? "json.decoder.JSONDecodeError" : "TypeError",
                    buffer_string(place));
}

/* ---- what the input has ---------------------------------------------------------------------- */

/* READER_BAD: this one has been dealt with, now or in a run before. */
static enum reader_result read_one(struct map *map)
{
    enum reader_result result = reader_next(&map->reader, &map->record);
    const char *problem = buffer_string(&map->reader.problem);
    bool record = result == READER_RECORD || result == READER_BAD;
    if (record && keep_done(map, &map->record))
        return READER_BAD;
    if (result == READER_BAD) {
        map_fail_record(map, &map->record, -EINVAL, NULL, problem);
    } else if (result == READER_UNREADABLE) {
        map->unreadable = true;
        say("%s", problem);
    } else if (result == READER_END) {
        map->reading = false;
    }
    return result;
}

static void complete_group(struct map *map)
{
    map->record = group_record(&map->group);
    map->pending = true;
}

/* One that is not JSON would fail all others of its group. */
static enum reader_result read_member(struct map *map)
{
    enum reader_result result = read_one(map);
    if (result == READER_RECORD && spread_check(&map->record, SPREAD_NOT, &map->problem) != 0) {
        refuse_record(map, &map->record);
        return READER_BAD;
    }
    if (result == READER_RECORD)
        group_add(&map->group, &map->record);
    if (map->group.count == map->options->whole || (result == READER_END && map->group.count > 0))
        complete_group(map);
    return result;
}

enum reader_result feed_read(struct map *map)
{
    if (map->options->whole > 0)
        return read_member(map);
    enum reader_result result = read_one(map);
    map->pending = result == READER_RECORD;
    return result;
}

/* ---- to the batch ---------------------------------------------------------------------------- */

/* 0: it is in; 1: it is refused; or an error of the library. */
static int add_record(struct map *map)
{
    pycrew_call *call;
    int r = pycrew_batch_begin(map->batch, 0, &call);
    if (r == 0)
        r = spread_record(call, &map->record, map->spread, &map->problem);
    if (r == 0)
        r = pycrew_set_json(call, true);
    if (r == 0)
        r = pycrew_batch_commit(map->batch);
    return r;
}

/* A result that finds no shared memory is lost, so no more records are with the workers than
 * their results have room. How large those are is seen as they come: the limit starts low, grows
 * with each result, and comes down where results are large. */
void feed_learn(struct map *map, size_t result_size)
{
    size_t faded = map->result_size - map->result_size / 256;
    map->result_size = result_size > faded ? result_size : faded;
    size_t fit = map->room / (map->result_size + 1);
    map->limit += map->limit < WINDOW;
    if (map->limit > fit)
        map->limit = fit > 0 ? fit : 1;
}

void feed_open(struct map *map)
{
    const struct options *options = map->options;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    size_t workers = options->workers > 0 ? options->workers
                     : processors > 0     ? (size_t)processors
                                          : 1;
    struct statvfs shared;
    size_t memory = options->memory;
    if (memory == 0 && statvfs("/dev/shm", &shared) == 0) /* as the library: half of what is free */
        memory = (size_t)shared.f_bavail * shared.f_frsize / 2;
    map->room = memory > 0 && memory / 4 < BYTES_MAX ? memory / 4 : BYTES_MAX;
    map->limit = workers * 4 > 16 ? workers * 4 : 16;
    map->group.keep_names = options->from_errors != NULL;
    map->reading = true;
}

static bool has_room(const struct map *map)
{
    const struct inflight *inflight = &map->inflight;
    return inflight->count == 0 || (inflight->count < map->limit &&
                                    inflight->bytes + inflight_size(&map->record) <= map->room);
}

/* false: there is no room for the record now. */
static bool try_record(struct map *map)
{
    if (!has_room(map))
        return false;
    int r = add_record(map);
    if (r == -EAGAIN || (r == -ENOMEM && map->inflight.count > 0))
        return false;
    map->pending = false;
    if (r == 0) {
        inflight_put(&map->inflight, map->added++, &map->record);
    } else if (r > 0) {
        refuse_record(map, &map->record);
    } else {
        buffer_clear(&map->place);
        report_place(&map->place, &map->record);
        buffer_print(&map->place, ": %s", pycrew_last_error()->message);
        map_fail_record(map, &map->record, r, NULL, buffer_string(&map->place));
    }
    group_clear(&map->group);
    return true;
}

enum filled feed_fill(struct map *map)
{
    for (int i = 0; i < BURST && !map->leave; i++) {
        if (!map->pending || map->stopped) {
            if (!map->reading)
                return FILLED_ALL;
            if (feed_read(map) == READER_WAIT)
                return FILLED_DRY;
        }
        if (map->pending && !map->stopped && !try_record(map))
            return FILLED_FULL;
    }
    return FILLED_SOME;
}
