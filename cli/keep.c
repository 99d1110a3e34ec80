/* keep: when checkpoints are written, what is in them, and going on from one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/identity.h"
#include "cli/map.h"

static const int64_t every_ns = 1000000000;

/* Unless the user says how often: a checkpoint takes at most one part of so many of the time. */
enum { COST_PART = 20 };

/* ---- what there is to go on from ------------------------------------------------------------- */

static int refuse(const char *path, const char *why)
{
    say("%s: cannot go on from it: %s", path, why);
    return EXIT_USAGE;
}

static int end_code(const struct checkpoint *checkpoint)
{
    return checkpoint->unreadable   ? EXIT_USAGE
           : checkpoint->failed > 0 ? EXIT_FAILED
                                    : EXIT_ALL_WELL;
}

static int compare(struct map *map, struct slice then)
{
    const struct options *options = map->options;
    struct keep *keep = &map->keep;
    char *difference = identity_difference(then, buffer_slice(&keep->work));
    if (difference != NULL) {
        int code = refuse(options->checkpoint, difference);
        free(difference);
        return code;
    }
    keep->resumed = true;
    if (!keep->from.ended)
        return -1;
    if (!options->quiet)
        say("%s: all %llu records are done", options->checkpoint,
            (unsigned long long)keep->from.read);
    return end_code(&keep->from);
}

static int read_checkpoint(struct map *map)
{
    const char *path = map->options->checkpoint;
    struct buffer then = {0};
    int r = checkpoint_read(path, &map->keep.from, &then), code = -1;
    if (r == 0)
        code = compare(map, buffer_slice(&then));
    else if (r == -EBADMSG)
        code = refuse(path, "it is no checkpoint, or a damaged one; --force without --resume begins anew");
    else if (r != -ENOENT)
        code = refuse(path, strerror(-r));
    buffer_free(&then);
    return code;
}

int keep_open(struct map *map)
{
    const struct options *options = map->options;
    const char *path = options->checkpoint;
    if (path == NULL)
        return -1;
    int code = identity_make(&map->keep.work, options, map->reader.options.files,
                             map->reader.options.count);
    if (code != 0)
        return code;
    if (options->resume)
        return read_checkpoint(map);
    if (access(path, F_OK) != 0 || options->force)
        return -1;
    say("%s exists; --resume goes on from it, --force begins anew", path);
    return EXIT_USAGE;
}

bool keep_done(const struct map *map, const struct record *record)
{
    uint64_t number = record->start.number;
    return number < map->keep.from.read && !ranges_have(&map->keep.from.unfinished, number);
}

/* ---- writing one ----------------------------------------------------------------------------- */

struct starts {
    struct position *items;
    size_t count, room;
};

static void add_starts(struct starts *starts, const struct record *record)
{
    for (size_t i = 0; i < record->member_count; i++)
        add_starts(starts, &record->members[i]);
    if (record->member_count > 0)
        return;
    if (starts->count == starts->room) {
        starts->room = starts->room > 0 ? starts->room * 2 : 1024;
        starts->items = reallocate(starts->items, starts->room * sizeof(*starts->items));
    }
    starts->items[starts->count++] = record->start;
}

static int by_number(const void *first, const void *second)
{
    uint64_t a = ((const struct position *)first)->number;
    uint64_t b = ((const struct position *)second)->number;
    return (a > b) - (a < b);
}

/* What was read and is not done: with the workers, or on the way there. */
static struct starts list_starts(const struct map *map)
{
    struct starts starts = {0};
    const struct record *record;
    size_t at = 0;
    while ((record = inflight_walk(&map->inflight, &at)) != NULL)
        add_starts(&starts, record);
    for (size_t i = 0; i < map->group.count; i++)
        add_starts(&starts, &map->group.members[i]);
    if (map->pending && map->record.member_count == 0)
        add_starts(&starts, &map->record);
    if (starts.count > 0)
        qsort(starts.items, starts.count, sizeof(*starts.items), by_number);
    return starts;
}

/* What a run before had read, and this one not yet again: as it was then. */
static void add_unseen(const struct map *map, struct checkpoint *to)
{
    const struct checkpoint *from = &map->keep.from;
    uint64_t seen = map->reader.index;
    for (size_t i = 0; i < from->unfinished.count; i++) {
        struct range range = from->unfinished.items[i];
        for (uint64_t number = range.first > seen ? range.first : seen; number <= range.last;
             number++)
            ranges_add(&to->unfinished, number);
    }
    to->read = from->read > seen ? from->read : seen;
}

static struct checkpoint snapshot(const struct map *map)
{
    struct starts starts = list_starts(map);
    struct checkpoint now = {
        .start = starts.count > 0 ? starts.items[0] : reader_at(&map->reader),
        .row_kind = map->output.row_kind,
        .failed = map_failed(map),
        .unreadable = map->unreadable,
    };
    for (size_t i = 0; i < starts.count; i++)
        ranges_add(&now.unfinished, starts.items[i].number);
    free(starts.items);
    add_unseen(map, &now);
    now.ended = !map->reading && !map->stopped && !map->leave && now.unfinished.count == 0;
    output_columns(&map->output, &now.columns);
    return now;
}

/* The order is what makes it safe: see checkpoint.h. */
static void take(struct map *map)
{
    const struct options *options = map->options;
    int64_t started_ns = now_ns();
    struct checkpoint now = snapshot(map);
    int r = writer_sync(&map->writer, &now.output);
    map_check_written(map, r, options->output_file);
    if (r == 0 && map->report.to_file) {
        r = writer_sync(&map->report.file, &now.errors);
        map_check_written(map, r, options->errors_file);
    }
    if (r == 0)
        map_check_written(
            map, checkpoint_write(options->checkpoint, &now, buffer_slice(&map->keep.work)),
            options->checkpoint);
    checkpoint_free(&now);
    map->keep.last_done = map->done;
    map->keep.last_ns = now_ns();
    map->keep.cost_ns = map->keep.last_ns - started_ns;
}

void keep_look(struct map *map)
{
    const struct options *options = map->options;
    const struct keep *keep = &map->keep;
    if (options->checkpoint == NULL || map->leave || map->done == keep->last_done)
        return;
    int64_t wait_ns = options->checkpoint_every_ns;
    if (wait_ns == 0)
        wait_ns = keep->cost_ns * COST_PART > every_ns ? keep->cost_ns * COST_PART : every_ns;
    if (now_ns() - keep->last_ns >= wait_ns)
        take(map);
}

void keep_end(struct map *map)
{
    if (map->options->checkpoint != NULL && map->writer.error == 0 && map->report.file.error == 0)
        take(map);
}

/* ---- beginning ------------------------------------------------------------------------------- */

static int refuse_changed(const struct map *map, const char *path, int r)
{
    if (r == -ESTALE) {
        say("%s: is not what it was when %s was written; --force without --resume begins anew", path, map->options->checkpoint);
        return EXIT_USAGE;
    }
    say("%s: %s", path, strerror(-r));
    return EXIT_FAILED;
}

static int cut_files(struct map *map)
{
    const struct options *options = map->options;
    const struct checkpoint *from = &map->keep.from;
    uint64_t cut = 0, cut_errors = 0;
    int r = writer_check(&map->writer, &from->output);
    if (r < 0)
        return refuse_changed(map, options->output_file, r);
    r = map->report.to_file ? writer_cut(&map->report.file, &from->errors, &cut_errors) : 0;
    if (r < 0)
        return refuse_changed(map, options->errors_file, r);
    r = writer_cut(&map->writer, &from->output, &cut);
    if (r < 0)
        return refuse_changed(map, options->output_file, r);
    if (options->verbose)
        say("%llu bytes behind the checkpoint are cut off", (unsigned long long)(cut + cut_errors));
    return 0;
}

static int go_on(struct map *map)
{
    const struct checkpoint *from = &map->keep.from;
    uint64_t left = 0;
    for (size_t i = 0; i < from->unfinished.count; i++)
        left += from->unfinished.items[i].last - from->unfinished.items[i].first + 1;
    map->done = map->keep.last_done = from->read - left;
    map->unreadable = from->unreadable;
    if (from->row_kind != 0)
        output_restore(&map->output, from->row_kind, buffer_slice(&from->columns));
    if (!map->options->quiet)
        say("going on behind %llu records", (unsigned long long)map->done);
    int code = reader_seek(&map->reader, &from->start);
    return code == 0 ? cut_files(map) : code;
}

/* The old checkpoint goes before what it speaks of. */
static int begin_anew(struct map *map)
{
    const struct options *options = map->options;
    int r = options->checkpoint != NULL ? checkpoint_remove(options->checkpoint) : 0;
    map_check_written(map, r, options->checkpoint);
    if (r == 0)
        map_check_written(map, writer_begin(&map->writer), options->output_file);
    if (r == 0 && map->report.to_file)
        map_check_written(map, writer_begin(&map->report.file), options->errors_file);
    return r == 0 ? 0 : EXIT_FAILED;
}

/* A checkpoint must not outlive the names of what it speaks of. */
static void sync_names(struct map *map)
{
    const char *paths[] = {map->options->output_file, map->options->errors_file};
    for (int i = 0; i < 2; i++)
        if (paths[i] != NULL)
            map_check_written(map, checkpoint_sync_name(paths[i]), paths[i]);
}

int keep_begin(struct map *map)
{
    int code = map->keep.resumed ? go_on(map) : begin_anew(map);
    if (code == 0 && map->options->checkpoint != NULL)
        sync_names(map);
    if (code == 0 && map->options->checkpoint != NULL && !map->leave)
        take(map); /* before there is a result: from now on there is something to go on from */
    return code;
}
