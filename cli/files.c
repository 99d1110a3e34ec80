/* files: what a map opens before its workers start. */
#include <string.h>
#include <sys/stat.h>

#include "cli/console.h"
#include "cli/map.h"

int files_open_input(struct map *map)
{
    static char *files[2] = {NULL, NULL};
    const struct options *options = map->options;
    bool given = options->arguments.count > 0;
    files[0] = options->from_errors != NULL ? (char *)(uintptr_t)options->from_errors : "-";
    struct reader_options reader = {
        .files = given ? options->arguments.items : files,
        .count = given ? options->arguments.count : 1,
        .format = options->files                 ? INPUT_PATHS
                  : options->from_errors != NULL ? INPUT_ERRORS
                                                 : options->input,
        .infer = options->infer,
        .lists = options->star,
    };
    return reader_open(&map->reader, &reader);
}

/* A record's file must not be what its results are written to. */
static int check_apart(const struct map *map, const struct writer *writer)
{
    const struct reader_options *input = &map->reader.options;
    struct stat out, in;
    if (input->format == INPUT_PATHS || fstat(writer->fd, &out) != 0 || !S_ISREG(out.st_mode))
        return 0;
    for (size_t i = 0; i < input->count; i++) {
        const char *path = input->files[i];
        bool known = strcmp(path, "-") == 0 ? fstat(0, &in) == 0 : stat(path, &in) == 0;
        if (known && in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
            say("%s: is input and output; write to another file", path);
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

static bool same_path(const char *a, const char *b)
{
    struct stat first, second;
    return strcmp(a, b) == 0 ||
           (stat(a, &first) == 0 && stat(b, &second) == 0 && S_ISREG(first.st_mode) &&
            first.st_dev == second.st_dev && first.st_ino == second.st_ino);
}

static int check_names(const struct options *options)
{
    const char *names[] = {options->checkpoint, options->output_file, options->errors_file};
    for (size_t i = 1; i < 3 && options->checkpoint != NULL; i++)
        if (names[i] != NULL && same_path(names[0], names[i])) {
            say("%s cannot be the checkpoint and be written to otherwise", names[i]);
            return EXIT_USAGE;
        }
    for (size_t i = 0; i < options->arguments.count && options->checkpoint != NULL; i++)
        if (!options->files && same_path(names[0], options->arguments.items[i])) {
            say("%s: is input and checkpoint; take another file for --checkpoint", names[0]);
            return EXIT_USAGE;
        }
    return 0;
}

static int refuse_same(const char *path)
{
    say("%s: results and failed records cannot go to the same file (--output, --errors)", path);
    return EXIT_USAGE;
}

static int open_errors(struct map *map, unsigned flags)
{
    const struct options *options = map->options;
    /* the second lock on a file is refused, our own too */
    if ((flags & WRITER_MARKS) != 0 && same_path(options->errors_file, options->output_file))
        return refuse_same(options->errors_file);
    int code = report_open(&map->report, options, flags);
    if (code == 0)
        code = check_apart(map, &map->report.file);
    if (code == 0 && same_file(&map->writer, &map->report.file))
        code = refuse_same(options->errors_file);
    return code;
}

/* What is read is not to be written over, nor is a file that is there. */
static int check_picture(const struct map *map, const char *path)
{
    const struct options *options = map->options;
    const char *others[] = {options->output_file, options->errors_file, options->checkpoint,
                            path == options->trace ? options->report : NULL};
    struct stat status;
    for (size_t i = 0; !options->files && i < options->arguments.count; i++)
        if (same_path(path, options->arguments.items[i])) {
            say("%s: is input and output", path);
            return EXIT_USAGE;
        }
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
        if (others[i] != NULL && same_path(path, others[i])) {
            say("%s cannot be written to for two purposes", path);
            return EXIT_USAGE;
        }
    if (stat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 && !options->force &&
        !map->keep.resumed) {
        say("%s exists; --force overwrites it", path);
        return EXIT_USAGE;
    }
    return 0;
}

static int open_pictures(struct map *map)
{
    const struct options *options = map->options;
    int code = options->trace != NULL ? check_picture(map, options->trace) : 0;
    map->crew_options = *options;
    if (code == 0 && options->report != NULL)
        code = check_picture(map, options->report);
    if (code != 0 || options->report == NULL)
        return code;
    code = html_page_open(&map->page, options->report, options->trace, true);
    map->crew_options.trace = map->page.timeline.name;
    map->report.page = &map->page;
    return code;
}

int files_open_output(struct map *map)
{
    const struct options *options = map->options;
    unsigned flags = (options->force ? WRITER_FORCE : 0u) |
                     (map->keep.resumed ? WRITER_RESUME : 0u) |
                     (options->checkpoint != NULL ? WRITER_MARKS : 0u);
    int code = check_names(options);
    if (code == 0)
        code = writer_open(&map->writer, options->output_file, flags);
    if (code == 0)
        code = check_apart(map, &map->writer);
    if (code == 0 && options->errors_file != NULL)
        code = open_errors(map, flags);
    else if (code == 0)
        code = report_open(&map->report, options, flags);
    if (code == 0)
        code = open_pictures(map);
    return code;
}

void files_abandon(struct map *map)
{
    writer_abandon(&map->writer);
    html_page_abandon(&map->page);
    if (map->report.to_file)
        writer_abandon(&map->report.file);
}
