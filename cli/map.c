/* pycrew map: a function on every record.
 *
 * One loop, one thread: records are read and given to the batch until it is full, or the input has
 * nothing more at the moment; then results are taken out and written. Nothing in it waits for
 * input while a worker has a record, so that results come out of a pipe that trickles; nothing
 * waits for long at all, so that signals and progress have their turn. */
#include "cli/map.h"

#include <errno.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/signals.h"

/* How long results are waited for before the input is looked at again, while it has nothing. */
static const int64_t glance_ns = 5000000;

/* ---- ends ------------------------------------------------------------------------------------ */

/* What was read and is not with a worker will not get there. */
static void stop_reading(struct map *map)
{
    map->stopped = map->stopped || map->reading || map->pending;
    map->reading = false;
}

void map_leave(struct map *map, int code)
{
    map->leave = true;
    if (map->code == 0)
        map->code = code;
}

void map_check_written(struct map *map, int r, const char *path)
{
    if (r == 0 || map->leave)
        return;
    if (r == -EPIPE && path == NULL) {
        map_leave(map, EXIT_CLOSED_PIPE);
    } else if (r == -EINTR) {
        map_leave(map, signals_exit_code());
    } else {
        say("%s: %s", path != NULL ? path : "stdout", strerror(-r));
        map_leave(map, EXIT_FAILED);
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
        map_leave(map, signals_exit_code());
    } else if (stop == STOP_SOFTLY && map->code == 0) {
        map->code = signals_exit_code();
        stop_reading(map);
        if (map->inflight.count > 0 && !map->options->quiet)
            say("stopping; %zu record%s in flight will be finished (again: they are killed)",
                map->inflight.count, map->inflight.count == 1 ? "" : "s");
    }
}

size_t map_count(const struct record *record)
{
    return record->member_count > 0 ? record->member_count : 1;
}

uint64_t map_failed(const struct map *map)
{
    return map->keep.from.failed + map->report.failed;
}

void map_fail_record(struct map *map, const struct record *record, int code, const char *type,
                     const char *problem)
{
    map->done += map_count(record);
    map_check_written(map, report_problem(&map->report, record, code, type, problem),
                      map->options->errors_file);
    check_halt(map);
}

/* ---- results out ----------------------------------------------------------------------------- */

static void take_error(struct map *map, const struct record *record, const pycrew_error *error)
{
    feed_learn(map, 0);
    map->done += map_count(record);
    map_check_written(map, report_error(&map->report, record, error), map->options->errors_file);
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
    feed_learn(map, json.size);
    const char *problem = output_result(&map->output, record, json);
    if (problem == NULL) {
        map->done += map_count(record);
        map_check_written(map, writer_line(&map->writer), map->options->output_file);
        return;
    }
    buffer_clear(&map->place);
    report_place(&map->place, record);
    buffer_print(&map->place, ": %s", problem);
    map_fail_record(map, record, PYCREW_ETYPE, NULL, buffer_string(&map->place));
}

/* The item that pycrew_batch_next has brought. */
static void take_item(struct map *map)
{
    uint64_t item = pycrew_batch_index(map->batch);
    const struct record *record = inflight_get(&map->inflight, item);
    if (record == NULL) /* an item we never added: nothing can be said of it */
        return;
    const pycrew_error *error = pycrew_batch_error(map->batch);
    if (error != NULL && error->code == PYCREW_ESTART) { /* and so will all others be: not done */
        buffer_clear(&map->place);
        report_place(&map->place, record);
        crew_say_error(error, buffer_string(&map->place), true);
        map_leave(map, EXIT_CANNOT_START);
        return;
    }
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
        map_check_written(map, writer_flush(&map->writer), map->options->output_file);
        r = pycrew_batch_next(map->batch, timeout_ns);
    }
    for (; r == 1 && !map->leave; r = pycrew_batch_next(map->batch, 0))
        take_item(map);
    if (r < 0 && r != -ETIME && !map->leave) {
        crew_say_error(pycrew_last_error(), NULL, true);
        map_leave(map, crew_exit_code(r));
    }
}

/* ---- progress -------------------------------------------------------------------------------- */

static struct standing standing(struct map *map)
{
    pycrew_progress batch = {.size = sizeof(batch)};
    pycrew_batch_progress(map->batch, &batch);
    bool all_read = !map->reading && !map->stopped;
    return (struct standing){
        .done = map->done,
        .failed = map_failed(map),
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
    map_check_written(map, writer_flush(&map->writer), map->options->output_file);
    if (map->report.to_file)
        map_check_written(map, writer_flush(&map->report.file), map->options->errors_file);
    signals_poll(reader_fd(&map->reader), progress_wait_ns(&map->progress));
}

static void step(struct map *map)
{
    switch (feed_fill(map)) {
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
    while (!map->leave &&
           (map->reading || (map->pending && !map->stopped) || map->inflight.count > 0)) {
        check_signals(map);
        if (map->leave)
            break;
        step(map);
        show_progress(map);
        keep_look(map);
    }
}

/* ---- start and end --------------------------------------------------------------------------- */

static int begin(struct map *map)
{
    const struct options *options = map->options;
    pycrew_batch_options batch = PYCREW_BATCH_OPTIONS_INIT;
    batch.window = WINDOW;
    batch.unordered = options->unordered;
    int r = pycrew_batch_open(map->crew, map->function, &batch, &map->batch);
    if (r < 0) {
        crew_say_error(pycrew_last_error(), NULL, true);
        return EXIT_CANNOT_START;
    }
    bool texts = map->report.to_file || options->output.input;
    inflight_open(&map->inflight, WINDOW,
                  (texts ? KEEP_TEXT : 0u) | (options->from_errors != NULL ? KEEP_NAMES : 0u));
    output_open(&map->output, &options->output, &map->writer);
    feed_open(map);
    int code = keep_begin(map);
    if (code == 0)
        signals_soften();
    return code;
}

static void summarize(struct map *map)
{
    const struct options *options = map->options;
    unsigned long long failed = map_failed(map), read = map->reader.index;
    struct standing end = standing(map);
    progress_end(&map->progress, &end);
    if (map->leave && map->inflight.count > 0 && map->code != EXIT_CLOSED_PIPE && !options->quiet)
        say("%zu %s%s in flight %s given up", map->inflight.count,
            options->whole > 0 ? "call" : "record", map->inflight.count == 1 ? "" : "s",
            map->inflight.count == 1 ? "was" : "were");
    if (failed > 0 && map->code != EXIT_CLOSED_PIPE && !options->quiet)
        say("%llu of %llu record%s failed", failed, read, read == 1 ? "" : "s");
    else if (options->verbose)
        say("%llu record%s, none failed", read, read == 1 ? "" : "s");
}

static void close_crew(struct map *map)
{
    pycrew_batch_close(map->batch);
    pycrew_close(map->crew);
    map->batch = NULL;
    map->crew = NULL;
}

static void free_all(struct map *map)
{
    close_crew(map);
    inflight_close(&map->inflight);
    output_close(&map->output);
    group_free(&map->group);
    checkpoint_free(&map->keep.from);
    buffer_free(&map->keep.work);
    buffer_free(&map->problem.text);
    buffer_free(&map->place);
    reader_close(&map->reader);
}

/* Also after a failure, or a signal. The workers' ends are in it. */
static int finish_page(struct map *map, int code)
{
    struct standing end = standing(map);
    struct html_page_end page = {.function = map->options->function,
                            .read = map->reader.index,
                            .done = end.done,
                            .failed = end.failed,
                            .retried = end.retried,
                            .seconds = (double)(now_ns() - map->progress.started_ns) / 1e9,
                            .code = code};
    close_crew(map);
    int written = html_page_close(&map->page, &page);
    return code != 0 ? code : written;
}

/* Writes what is left, and closes: the last chance for a full disk to be seen. */
static int finish(struct map *map)
{
    keep_end(map);
    map_check_written(map, writer_close(&map->writer), map->options->output_file);
    if (map->report.to_file)
        map_check_written(map, writer_close(&map->report.file), map->options->errors_file);
    summarize(map);
    int code = map->code != 0        ? map->code
               : map->unreadable     ? EXIT_USAGE
               : map_failed(map) > 0 ? EXIT_FAILED
                                     : EXIT_ALL_WELL;
    return map->page.wanted ? finish_page(map, code) : code;
}

static enum progress_mode progress_mode(const struct options *options)
{
    bool none = options->quiet || (options->debug && options->progress == PROGRESS_AUTO);
    return none ? PROGRESS_NONE : options->progress;
}

static int run(struct map *map)
{
    int code = files_open_output(map);
    if (code == 0)
        code = crew_open(&map->crew, &map->function, &map->crew_options, 0);
    if (map->page.wanted)
        timeline_crew_open(&map->page.timeline);
    if (code == 0)
        code = begin(map);
    if (code != 0) {
        close_crew(map);
        files_abandon(map);
        return code;
    }
    progress_start(&map->progress, progress_mode(map->options), map->done);
    loop(map);
    return finish(map);
}

int command_map(const struct options *options)
{
    struct map map = {.options = options};
    map.spread = options->star ? SPREAD_STAR : options->kwargs ? SPREAD_KWARGS : SPREAD_NOT;
    int code = files_open_input(&map);
    if (code == 0 && options->dry_run) {
        code = dry_run(&map);
    } else if (code == 0) {
        code = keep_open(&map);
        if (code < 0)
            code = run(&map);
    }
    free_all(&map);
    return code;
}
