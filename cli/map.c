/* pycrew map: a function on every record.
 *
 * One loop, one thread: records are read and given to the batch until it is full, or the input has
 * nothing more at the moment; then results are taken out and written. Nothing in it waits for
 * input while a worker has a record, so that results come out of a pipe that trickles; nothing
 * waits for long at all, so that signals and progress have their turn. */
#include "cli/commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/crew.h"
#include "cli/inflight.h"
#include "cli/json.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "cli/spread.h"

enum {
    WINDOW = 16384, /* records with the workers at most */
    BURST = 1024,   /* records read before results have their turn */
};

/* Bytes of records with the workers at most, and of results that may be expected of them. */
#define BYTES_MAX ((size_t)64 * 1024 * 1024)

/* How long results are waited for before the input is looked at again, while it has nothing. */
static const int64_t glance_ns = 5000000;

struct map {
    const struct options *options;
    enum spread spread;
    struct reader reader;
    struct writer writer;
    struct output output;
    struct report report;
    struct progress progress;
    pycrew_crew *crew;
    const pycrew_function *function;
    pycrew_batch *batch;
    struct inflight inflight;
    struct spread_problem problem;
    struct buffer place;
    struct record record; /* read and not yet with the batch, if pending */
    bool pending;
    uint64_t added;     /* to the batch */
    size_t limit;       /* records with the workers at most, for now: see learn() */
    size_t room;        /* bytes of shared memory for records, and as many for results */
    size_t result_size; /* of the largest lately */
    uint64_t bad; /* records that never came to the batch, or whose results could not be written */
    bool unreadable;
    bool reading, ended; /* there may be more input; the batch has been told that there is not */
    bool leave;          /* at once: what is in flight is lost */
    int code;            /* the command's, once something has decided it */
};

/* ---- ends ------------------------------------------------------------------------------------ */

static void stop_reading(struct map *map)
{
    map->reading = false;
    map->pending = false;
}

/* The first reason counts. */
static void leave(struct map *map, int code)
{
    map->leave = true;
    if (map->code == 0)
        map->code = code;
}

/* After a write to file; path NULL is stdout. */
static void check_written(struct map *map, int r, const char *path)
{
    if (r == 0 || map->leave)
        return;
    if (r == -EPIPE && path == NULL) {
        leave(map, EXIT_CLOSED_PIPE);
    } else if (r == -EINTR) {
        leave(map, signals_exit_code());
    } else {
        say("%s: %s", path != NULL ? path : "stdout", strerror(-r));
        leave(map, EXIT_FAILED);
    }
}

static void check_halt(struct map *map)
{
    const struct halt *halt = &map->options->halt;
    if (halt->when == HALT_NEVER || map->report.failed < halt->failures || map->code != 0)
        return;
    map->code = EXIT_HALTED;
    stop_reading(map);
    map->leave = halt->when == HALT_NOW;
    if (!map->options->quiet)
        say("halted after %llu failed record%s", (unsigned long long)map->report.failed,
            map->report.failed == 1 ? "" : "s");
}

static void check_signals(struct map *map)
{
    int stop = signals_stop();
    if (stop == STOP_NOW) {
        leave(map, signals_exit_code());
    } else if (stop == STOP_SOFTLY && map->code == 0) {
        map->code = signals_exit_code();
        stop_reading(map);
        if (map->inflight.count > 0 && !map->options->quiet)
            say("stopping; %zu record%s in flight will be finished (again: they are killed)",
                map->inflight.count, map->inflight.count == 1 ? "" : "s");
    }
}

/* ---- records in ------------------------------------------------------------------------------ */

static void fail_record(struct map *map, const struct record *record, int code, const char *type,
                        const char *problem)
{
    map->bad++;
    check_written(map, report_problem(&map->report, record, code, type, problem),
                  map->options->errors_file);
    check_halt(map);
}

/* "file:line:column: why" */
static void refuse_record(struct map *map)
{
    struct buffer *place = &map->place;
    bool json_error = map->problem.column != SIZE_MAX;
    buffer_clear(place);
    report_place(place, &map->record);
    if (json_error)
        buffer_print(place, ":%zu", utf8_count(map->record.text, map->problem.column) + 1);
    buffer_print(place, ": %s", buffer_string(&map->problem.text));
    fail_record(map, &map->record, -EINVAL,
                json_error ? "json.decoder.JSONDecodeError" : "TypeError", buffer_string(place));
}

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
static void learn(struct map *map, size_t result_size)
{
    size_t faded = map->result_size - map->result_size / 256;
    map->result_size = result_size > faded ? result_size : faded;
    size_t fit = map->room / (map->result_size + 1);
    map->limit += map->limit < WINDOW;
    if (map->limit > fit)
        map->limit = fit > 0 ? fit : 1;
}

static void set_limits(struct map *map)
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
}

static bool has_room(const struct map *map)
{
    const struct inflight *inflight = &map->inflight;
    return inflight->count == 0 ||
           (inflight->count < map->limit && inflight->bytes + map->record.text.size <= map->room);
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
        refuse_record(map);
    } else {
        buffer_clear(&map->place);
        report_place(&map->place, &map->record);
        buffer_print(&map->place, ": %s", pycrew_last_error()->message);
        fail_record(map, &map->record, r, NULL, buffer_string(&map->place));
    }
    return true;
}

/* What the input has. READER_RECORD: map->record is pending. */
static enum reader_result read_record(struct map *map)
{
    enum reader_result result = reader_next(&map->reader, &map->record);
    const char *problem = buffer_string(&map->reader.problem);
    if (result == READER_BAD) {
        fail_record(map, &map->record, -EINVAL, NULL, problem);
    } else if (result == READER_UNREADABLE) {
        map->unreadable = true;
        say("%s", problem);
    } else if (result == READER_END) {
        map->reading = false;
    }
    map->pending = result == READER_RECORD;
    return result;
}

enum filled {
    FILLED_SOME, /* there is more, but results have their turn */
    FILLED_FULL, /* results must come out first */
    FILLED_DRY,  /* the input has nothing now */
    FILLED_ALL,  /* the input has ended, or is not to be read any more */
};

static enum filled fill(struct map *map)
{
    for (int i = 0; i < BURST && !map->leave; i++) {
        if (!map->pending) {
            if (!map->reading)
                return FILLED_ALL;
            if (read_record(map) == READER_WAIT)
                return FILLED_DRY;
        }
        if (map->pending && !try_record(map))
            return FILLED_FULL;
    }
    return FILLED_SOME;
}

/* ---- results out ----------------------------------------------------------------------------- */

static void take_error(struct map *map, const struct record *record, const pycrew_error *error)
{
    learn(map, 0);
    check_written(map, report_error(&map->report, record, error), map->options->errors_file);
    if (error->code == PYCREW_ESTART) { /* and so will all others be */
        leave(map, EXIT_CANNOT_START);
        return;
    }
    check_halt(map);
}

static void take_result(struct map *map, const struct record *record)
{
    struct slice json;
    int r = pycrew_batch_result(map->batch, "j#", &json.data, &json.size);
    if (r < 0) {
        take_error(map, record, pycrew_last_error());
        return;
    }
    learn(map, json.size);
    const char *problem = output_result(&map->output, record, json);
    if (problem == NULL) {
        check_written(map, writer_line(&map->writer), map->options->output_file);
        return;
    }
    buffer_clear(&map->place);
    report_place(&map->place, record);
    buffer_print(&map->place, ": %s", problem);
    fail_record(map, record, PYCREW_ETYPE, NULL, buffer_string(&map->place));
}

/* The item that pycrew_batch_next has brought. */
static void take_item(struct map *map)
{
    uint64_t item = pycrew_batch_index(map->batch);
    const struct record *record = inflight_get(&map->inflight, item);
    if (record == NULL) /* an item we never added: nothing can be said of it */
        return;
    const pycrew_error *error = pycrew_batch_error(map->batch);
    if (error != NULL)
        take_error(map, record, error);
    else
        take_result(map, record);
    inflight_drop(&map->inflight, item);
}

/* All results that are there, and if there are none what comes within the time. */
static void drain(struct map *map, int64_t timeout_ns)
{
    int r = pycrew_batch_next(map->batch, 0);
    if (r != 1 && timeout_ns > 0) {
        check_written(map, writer_flush(&map->writer), map->options->output_file);
        r = pycrew_batch_next(map->batch, timeout_ns);
    }
    for (; r == 1 && !map->leave; r = pycrew_batch_next(map->batch, 0))
        take_item(map);
    if (r < 0 && r != -ETIME && !map->leave) {
        crew_say_error(pycrew_last_error(), NULL, true);
        leave(map, crew_exit_code(r));
    }
}

/* ---- progress -------------------------------------------------------------------------------- */

static struct standing standing(struct map *map)
{
    pycrew_progress batch = {.size = sizeof(batch)};
    pycrew_batch_progress(map->batch, &batch);
    bool all_read = !map->reading && map->code == 0;
    return (struct standing){
        .done = batch.done + map->bad,
        .failed = batch.failed + map->bad,
        .retried = batch.retried,
        .deaths = batch.deaths,
        .added = map->reader.index,
        .total = all_read              ? map->reader.index
                 : map->options->files ? map->options->arguments.count
                                       : 0,
        .position = reader_position(&map->reader),
        .size = map->reader.total,
    };
}

static void show_progress(struct map *map)
{
    bool asked = signals_report(), due = progress_due(&map->progress);
    if (!asked && !due)
        return;
    struct standing now = standing(map);
    if (asked)
        progress_report(&map->progress, &now);
    if (due)
        progress_show(&map->progress, &now);
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Nothing is in flight and the input has nothing: this may last. */
static void wait_for_input(struct map *map)
{
    check_written(map, writer_flush(&map->writer), map->options->output_file);
    if (map->report.to_file)
        check_written(map, writer_flush(&map->report.file), map->options->errors_file);
    signals_poll(reader_fd(&map->reader), progress_wait_ns(&map->progress));
}

static void step(struct map *map)
{
    switch (fill(map)) {
    case FILLED_SOME:
        drain(map, 0);
        break;
    case FILLED_FULL:
        drain(map, TICK_NS);
        break;
    case FILLED_DRY:
        if (map->inflight.count > 0)
            drain(map, glance_ns);
        else
            wait_for_input(map);
        break;
    case FILLED_ALL:
        if (!map->ended)
            pycrew_batch_end(map->batch);
        map->ended = true;
        drain(map, TICK_NS);
        break;
    }
}

static void loop(struct map *map)
{
    while (!map->leave && (map->reading || map->pending || map->inflight.count > 0)) {
        check_signals(map);
        if (map->leave)
            break;
        step(map);
        show_progress(map);
    }
}

/* ---- start and end --------------------------------------------------------------------------- */

/* A record's file must not be what its results are written to. */
static int check_apart(const struct options *options, const struct writer *writer)
{
    struct stat out, in;
    if (options->files || fstat(writer->fd, &out) != 0 || !S_ISREG(out.st_mode))
        return 0;
    for (size_t i = 0; i < options->arguments.count; i++) {
        const char *path = options->arguments.items[i];
        bool known = strcmp(path, "-") == 0 ? fstat(0, &in) == 0 : stat(path, &in) == 0;
        if (known && in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
            say("%s: is input and output", path);
            return EXIT_USAGE;
        }
    }
    return 0;
}

static bool same_file(const struct writer *a, const struct writer *b)
{
    struct stat first, second;
    return fstat(a->fd, &first) == 0 && fstat(b->fd, &second) == 0 && S_ISREG(first.st_mode) &&
           first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

static int open_input(struct map *map)
{
    static char *standard[] = {"-", NULL};
    const struct options *options = map->options;
    bool given = options->arguments.count > 0;
    struct reader_options reader = {
        .files = given ? options->arguments.items : standard,
        .count = given ? options->arguments.count : 1,
        .format = options->files ? INPUT_PATHS : options->input,
        .infer = options->infer,
        .lists = options->star,
    };
    return reader_open(&map->reader, &reader);
}

/* Whatever can be seen to be wrong before workers are started is said before. */
static int open_files(struct map *map)
{
    const struct options *options = map->options;
    int code = open_input(map);
    if (code != 0)
        return code;
    code = writer_open(&map->writer, options->output_file, options->force);
    if (code == 0)
        code = check_apart(options, &map->writer);
    if (code == 0)
        code = report_open(&map->report, options);
    if (code == 0 && map->report.to_file)
        code = check_apart(options, &map->report.file);
    if (code == 0 && map->report.to_file && same_file(&map->writer, &map->report.file)) {
        say("%s: results and failed records cannot go to the same file", options->errors_file);
        code = EXIT_USAGE;
    }
    return code;
}

static void abandon_files(struct map *map)
{
    writer_abandon(&map->writer);
    if (map->report.to_file)
        writer_abandon(&map->report.file);
}

static int begin(struct map *map)
{
    pycrew_batch_options batch = PYCREW_BATCH_OPTIONS_INIT;
    batch.window = WINDOW;
    batch.unordered = map->options->unordered;
    int r = pycrew_batch_open(map->crew, map->function, &batch, &map->batch);
    if (r < 0) {
        crew_say_error(pycrew_last_error(), NULL, true);
        return EXIT_CANNOT_START;
    }
    inflight_open(&map->inflight, WINDOW, map->report.to_file || map->options->output.input);
    output_open(&map->output, &map->options->output, &map->writer);
    check_written(map, writer_begin(&map->writer), map->options->output_file);
    if (map->report.to_file)
        check_written(map, writer_begin(&map->report.file), map->options->errors_file);
    set_limits(map);
    map->reading = true;
    signals_soften();
    return 0;
}

static void summarize(struct map *map)
{
    const struct options *options = map->options;
    unsigned long long failed = map->report.failed, read = map->reader.index;
    struct standing end = standing(map);
    progress_end(&map->progress, &end);
    if (map->leave && map->inflight.count > 0 && map->code != EXIT_CLOSED_PIPE && !options->quiet)
        say("%zu record%s in flight %s given up", map->inflight.count,
            map->inflight.count == 1 ? "" : "s", map->inflight.count == 1 ? "was" : "were");
    if (failed > 0 && map->code != EXIT_CLOSED_PIPE && !options->quiet)
        say("%llu of %llu record%s failed", failed, read, read == 1 ? "" : "s");
    else if (options->verbose)
        say("%llu record%s, none failed", read, read == 1 ? "" : "s");
}

/* Writes what is left, and closes: the last chance for a full disk to be seen. */
static int finish(struct map *map)
{
    check_written(map, writer_close(&map->writer), map->options->output_file);
    if (map->report.to_file)
        check_written(map, writer_close(&map->report.file), map->options->errors_file);
    summarize(map);
    pycrew_batch_close(map->batch);
    inflight_close(&map->inflight);
    output_close(&map->output);
    buffer_free(&map->problem.text);
    buffer_free(&map->place);
    if (map->code != 0)
        return map->code;
    return map->unreadable ? EXIT_USAGE : map->report.failed > 0 ? EXIT_FAILED : EXIT_ALL_WELL;
}

int command_map(const struct options *options)
{
    struct map map = {.options = options};
    map.spread = options->star ? SPREAD_STAR : options->kwargs ? SPREAD_KWARGS : SPREAD_NOT;
    int code = open_files(&map);
    if (code == 0)
        code = crew_open(&map.crew, &map.function, options, 0);
    if (code == 0)
        code = begin(&map);
    if (code == 0) {
        progress_start(&map.progress, options->quiet || (options->debug && options->progress == PROGRESS_AUTO)
                                          ? PROGRESS_NONE
                                          : options->progress);
        loop(&map);
        code = finish(&map);
    } else {
        abandon_files(&map);
    }
    pycrew_close(map.crew);
    reader_close(&map.reader);
    return code;
}
