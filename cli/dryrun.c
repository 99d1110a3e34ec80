/* dryrun: --dry-run reads the input, looks for the function, and says what would be done. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/json.h"
#include "cli/map.h"
#include "cli/signals.h"

/* What the function is, as it would be imported by a call. */
static const char look_source[] = "def look(name):\n"
                                  "    import importlib, inspect\n"
                                  "    module, _, path = name.partition(':')\n"
                                  "    found = importlib.import_module(module)\n"
                                  "    for part in path.split('.'):\n"
                                  "        found = getattr(found, part)\n"
                                  "    if not callable(found):\n"
                                  "        raise TypeError(f'{name} cannot be called')\n"
                                  "    try:\n"
                                  "        return f'{name}{inspect.signature(found)}'\n"
                                  "    except (TypeError, ValueError):\n"
                                  "        return f'{name}(...)'\n";

/* In the place of the function itself: 0, or a code after saying why. */
static int look_for_function(struct map *map)
{
    const pycrew_function *look;
    pycrew_call *call = NULL;
    const char *text = NULL;
    int code = crew_open(&map->crew, &map->function, map->options, 1);
    if (code != 0)
        return code;
    int r = pycrew_function_source(map->crew, "look", look_source, &look);
    if (r == 0)
        r = pycrew_prepare(map->crew, look, PYCREW_FOREVER, &call);
    if (r == 0)
        r = pycrew_add(call, "s", map->options->function);
    if (r == 0)
        r = pycrew_submit(call);
    if (r == 0)
        r = pycrew_wait(call, PYCREW_FOREVER);
    if (r == 0)
        r = pycrew_result(call, "s", &text);
    if (r < 0)
        crew_say_error(pycrew_last_error(), NULL, map->options->verbose);
    else
        say("dry run: %s", text);
    pycrew_release(call);
    return r == 0 ? 0 : r == PYCREW_ESTART ? EXIT_CANNOT_START : EXIT_USAGE;
}

/* What map_fail_record does, without a file. */
static void refuse(struct map *map, const char *problem)
{
    report_problem(&map->report, &map->record, -EINVAL, NULL, problem);
}

static void check_record(struct map *map)
{
    struct buffer *place = &map->place;
    if (spread_check(&map->record, map->spread, &map->problem) == 0)
        return;
    buffer_clear(place);
    report_place(place, &map->record);
    if (map->problem.column != SIZE_MAX)
        buffer_print(place, ":%zu", utf8_count(map->record.text, map->problem.column) + 1);
    buffer_print(place, ": %s", buffer_string(&map->problem.text));
    refuse(map, buffer_string(place));
}

static void read_all(struct map *map)
{
    enum reader_result result;
    while ((result = reader_next(&map->reader, &map->record)) != READER_END) {
        if (result == READER_RECORD) {
            check_record(map);
        } else if (result == READER_BAD) {
            refuse(map, buffer_string(&map->reader.problem));
        } else if (result == READER_UNREADABLE) {
            map->unreadable = true;
            say("%s", buffer_string(&map->reader.problem));
        } else {
            signals_poll(reader_fd(&map->reader), -1);
        }
    }
}

/* What a run would refuse; nothing is opened or made. */
static int check_output(const struct options *options)
{
    const char *paths[] = {options->output_file, options->errors_file};
    int code = 0;
    for (size_t i = 0; i < 2; i++)
        if (paths[i] != NULL && access(paths[i], F_OK) == 0 && !options->force &&
            !options->resume) {
            say("%s exists; --force overwrites it", paths[i]);
            code = EXIT_USAGE;
        }
    return code;
}

int dry_run(struct map *map)
{
    const struct options *options = map->options;
    map->report.quiet = options->quiet;
    map->report.verbose = options->verbose;
    int code = check_output(options);
    int found = look_for_function(map);
    code = found != 0 ? found : code;
    read_all(map);
    unsigned long long failed = map->report.failed, read = map->reader.index;
    say("dry run: %llu record%s, of which %llu cannot be given to the function", read,
        read == 1 ? "" : "s", failed);
    say("dry run: results would go to %s",
        options->output_file != NULL ? options->output_file : "standard output");
    if (code != 0)
        return code;
    return map->unreadable ? EXIT_USAGE : failed > 0 ? EXIT_FAILED : EXIT_ALL_WELL;
}
