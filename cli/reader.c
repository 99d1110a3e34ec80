/* reader: records from files, one after the other. */
#include "cli/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/json.h"

enum { PIECE_SIZE = 256 * 1024 };

static bool is_stdin(const char *path)
{
    return strcmp(path, "-") == 0;
}

/* ---- formats and files, before anything is read ---------------------------------------------- */

/* The name's extension without the dot, a ".gz" behind it left out; empty if it has none. */
static struct slice extension_of(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    size_t size = strlen(name);
    if (size > 3 && strcmp(name + size - 3, ".gz") == 0)
        size -= 3;
    const char *dot = memrchr(name, '.', size);
    if (dot == NULL || dot == name)
        return (struct slice){"", 0};
    return (struct slice){dot + 1, (size_t)(name + size - dot - 1)};
}

enum input_format input_format_of(const char *path)
{
    static const struct {
        const char *extension;
        enum input_format format;
    } known[] = {{"", INPUT_JSONL},      {"jsonl", INPUT_JSONL}, {"ndjson", INPUT_JSONL},
                 {"csv", INPUT_CSV},     {"tsv", INPUT_TSV},     {"tab", INPUT_TSV},
                 {"txt", INPUT_LINES},   {"lst", INPUT_LINES},   {"list", INPUT_LINES},
                 {"lines", INPUT_LINES}, {"nul", INPUT_NUL}};
    struct slice extension = extension_of(path);
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strlen(known[i].extension) == extension.size &&
            strncasecmp(known[i].extension, extension.data, extension.size) == 0)
            return known[i].format;
    return INPUT_BY_NAME;
}

/* A regular file is opened to see that it can be; another might notice that, and is only asked. */
static int try_file(const char *path, struct stat *status)
{
    if (stat(path, status) != 0)
        return -errno;
    if (S_ISDIR(status->st_mode))
        return -EISDIR;
    if (!S_ISREG(status->st_mode))
        return access(path, R_OK) == 0 ? 0 : -errno;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static int look_at_file(struct reader *reader, const char *path, bool *all_known)
{
    struct stat status = {0};
    int r =
        is_stdin(path) ? (fstat(STDIN_FILENO, &status) == 0 ? 0 : -errno) : try_file(path, &status);
    if (r < 0) {
        say("%s: %s", path, strerror(-r));
        return 2;
    }
    if (reader->options.format == INPUT_BY_NAME && !is_stdin(path) &&
        input_format_of(path) == INPUT_BY_NAME) {
        say("%s: what format this is cannot be told from its name; say -i jsonl, csv, tsv, lines "
            "or nul",
            path);
        return 2;
    }
    *all_known = *all_known && S_ISREG(status.st_mode);
    reader->total += (uint64_t)status.st_size;
    return 0;
}

int reader_open(struct reader *reader, const struct reader_options *options)
{
    *reader = (struct reader){.options = *options};
    bool all_known = options->format != INPUT_PATHS;
    for (size_t i = 0; i < options->count && options->format != INPUT_PATHS; i++) {
        int r = look_at_file(reader, options->files[i], &all_known);
        if (r != 0)
            return r;
    }
    if (!all_known)
        reader->total = 0;
    return 0;
}

static void close_file(struct reader *reader)
{
    reader->taken += reader->source.taken;
    source_close(&reader->source);
    rows_close(&reader->rows);
    reader->open = false;
}

void reader_close(struct reader *reader)
{
    close_file(reader);
    buffer_free(&reader->piece);
    buffer_free(&reader->problem);
    again_free(&reader->again);
}

int reader_fd(const struct reader *reader)
{
    return reader->open ? reader->source.fd : -1;
}

uint64_t reader_position(const struct reader *reader)
{
    return reader->taken + reader->source.taken;
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* Reads on, behind what is in the piece. As source_read. */
static ssize_t read_more(struct reader *reader)
{
    struct buffer *piece = &reader->piece;
    if (reader->used > 0) {
        piece->size -= reader->used;
        memmove(piece->data, piece->data + reader->used, piece->size);
        reader->used = 0;
    }
    size_t room = piece->room - piece->size;
    if (room < PIECE_SIZE / 2)
        room = PIECE_SIZE;
    char *place = buffer_reserve(piece, room);
    ssize_t got = source_read(&reader->source, place, piece->room - piece->size);
    if (got > 0)
        piece->size += (size_t)got;
    return got;
}

/* The next line without its end: 1; 0: the file ends; or source_read's errors. *ret_offset is where
 * it stands in the file. */
static int next_line(struct reader *reader, struct slice *ret, uint64_t *ret_offset)
{
    char separator = reader->format == INPUT_NUL ? '\0' : '\n';
    for (;;) {
        struct slice left = {reader->piece.data + reader->used, reader->piece.size - reader->used};
        size_t fresh = left.size - reader->searched;
        const char *end = fresh > 0 ? memchr(left.data + reader->searched, separator, fresh) : NULL;
        reader->searched = left.size;
        ssize_t got = end != NULL ? 1 : read_more(reader);
        if (got < 0)
            return (int)got;
        if (end == NULL && got > 0)
            continue;
        left.data = reader->piece.data + reader->used; /* read_more moves the piece */
        if (end == NULL && left.size == 0)
            return 0;
        size_t size = end != NULL ? (size_t)(end - left.data) : left.size;
        *ret = (struct slice){left.data, size};
        *ret_offset = reader->offset;
        size_t whole = size + (end != NULL);
        reader->used += whole;
        reader->offset += whole;
        reader->searched = 0;
        reader->line++;
        return 1;
    }
}

/* ---- records --------------------------------------------------------------------------------- */

/* "file:line:column: ". */
static void start_problem(struct reader *reader, uint64_t line, size_t column)
{
    buffer_clear(&reader->problem);
    buffer_text(&reader->problem, reader->name);
    if (line > 0)
        buffer_print(&reader->problem, ":%llu", (unsigned long long)line);
    if (column > 0)
        buffer_print(&reader->problem, ":%zu", column);
    buffer_text(&reader->problem, ": ");
}

static enum reader_result unreadable(struct reader *reader, int code)
{
    const char *why = code == -EBADMSG   ? "the compressed data are damaged"
                      : code == -ENODATA ? "the compressed data end in the middle"
                                         : strerror(-code);
    start_problem(reader, reader->open ? reader->line + 1 : 0, 0);
    buffer_text(&reader->problem, why);
    close_file(reader);
    return READER_UNREADABLE;
}

/* Whether the line is UTF-8; if not, problem says where. */
static bool check_utf8(struct reader *reader, struct slice line)
{
    size_t good = utf8_prefix(line);
    if (good == line.size)
        return true;
    start_problem(reader, reader->line, utf8_count(line, good) + 1);
    buffer_print(&reader->problem, "not UTF-8: byte 0x%02x at byte %zu of the line",
                 (unsigned char)line.data[good], good + 1);
    return false;
}

/* Files made on Windows often start with a byte order mark, which no reader wants to see. */
static void skip_byte_order_mark(struct slice *line, uint64_t *offset)
{
    if (line->size < 3 || memcmp(line->data, "\xEF\xBB\xBF", 3) != 0)
        return;
    line->data += 3;
    line->size -= 3;
    *offset += 3;
}

static enum reader_result line_result(struct reader *reader, int got)
{
    if (got == -EAGAIN)
        return READER_WAIT;
    if (got < 0)
        return unreadable(reader, got);
    close_file(reader);
    return READER_END;
}

static bool is_jsonl(const struct reader *reader)
{
    return reader->format == INPUT_JSONL || reader->format == INPUT_ERRORS;
}

static enum reader_result next_text(struct reader *reader, struct record *record)
{
    struct slice line;
    do {
        int got = next_line(reader, &line, &record->offset);
        if (got <= 0)
            return line_result(reader, got);
        if (reader->line == 1)
            skip_byte_order_mark(&line, &record->offset);
    } while (is_jsonl(reader) && json_trim(line).size == 0);
    record->text = line;
    record->line = reader->line;
    record->start.offset = record->offset;
    record->start.line = reader->line - 1;
    bool good = check_utf8(reader, line);
    record->json = good && is_jsonl(reader);
    return good ? READER_RECORD : READER_BAD;
}

/* What failed before. What could not be read then cannot be now. */
static enum reader_result next_again(struct reader *reader, struct record *record)
{
    enum reader_result result = next_text(reader, record);
    if (result != READER_RECORD)
        return result;
    enum again_result again = again_read(&reader->again, record->text);
    if (again == AGAIN_NOT) {
        start_problem(reader, reader->line, 0);
        buffer_text(&reader->problem, "this is no line that --errors writes");
        return READER_BAD;
    }
    record->text = buffer_slice(&reader->again.input);
    record->index = reader->again.index;
    record->offset = reader->again.offset;
    record->line = reader->again.line;
    record->file = buffer_string(&reader->again.file);
    if (again == AGAIN_RECORD)
        return READER_RECORD;
    buffer_clear(&reader->problem);
    buffer_text(&reader->problem, buffer_string(&reader->again.problem));
    return READER_BAD;
}

/* What rows has to say, as the problem. A column is one of the line at hand, which may not be the
 * row's first. */
static void row_problem(struct reader *reader, struct slice line)
{
    struct rows *rows = &reader->rows;
    if (rows->column == SIZE_MAX)
        start_problem(reader, reader->row_line, 0);
    else
        start_problem(reader, reader->line, utf8_count(line, rows->column) + 1);
    struct slice why = buffer_slice(&rows->problem);
    buffer_add(&reader->problem, why.data, why.size);
}

static enum rows_result feed_row(struct reader *reader, struct slice line, uint64_t offset)
{
    struct rows *rows = &reader->rows;
    if (!rows->in_row) {
        reader->row_line = reader->line;
        reader->row_offset = offset;
        reader->row_bad = false;
    }
    if (!reader->row_bad)
        reader->row_bad = !check_utf8(reader, line);
    if (reader->row_bad && !rows->header_known)
        return ROWS_HEADER;
    enum rows_result result = rows_line(rows, line);
    if (result == ROWS_ROW && reader->row_bad)
        return ROWS_BAD;
    if ((result == ROWS_BAD || result == ROWS_HEADER) && !reader->row_bad)
        row_problem(reader, line);
    return result;
}

/* As next_line, and what became of the line. */
static int next_row_line(struct reader *reader, struct slice *line, enum rows_result *ret)
{
    uint64_t offset;
    int got = next_line(reader, line, &offset);
    if (got > 0) {
        if (reader->line == 1)
            skip_byte_order_mark(line, &offset);
        *ret = feed_row(reader, *line, offset);
    } else if (got == 0 && reader->rows.in_row) {
        *line = (struct slice){"", 0};
        *ret = rows_end(&reader->rows);
        row_problem(reader, *line);
        return 1;
    }
    return got;
}

static enum reader_result next_row(struct reader *reader, struct record *record)
{
    struct rows *rows = &reader->rows;
    enum rows_result result = ROWS_MORE;
    struct slice line = {"", 0};
    while (result == ROWS_MORE) {
        int got = next_row_line(reader, &line, &result);
        if (got <= 0)
            return line_result(reader, got);
    }
    if (result == ROWS_HEADER) { /* no row of this file has a meaning */
        close_file(reader);
        return READER_UNREADABLE;
    }
    record->offset = record->start.offset = reader->row_offset;
    record->line = reader->row_line;
    record->start.line = reader->row_line - 1;
    record->json = rows->json.size > 0;
    record->text = record->json ? buffer_slice(&rows->json) : line;
    return result == ROWS_ROW ? READER_RECORD : READER_BAD;
}

static enum reader_result next_path(struct reader *reader, struct record *record)
{
    if (reader->next_file == reader->options.count)
        return READER_END;
    record->start.file = reader->next_file;
    const char *path = reader->options.files[reader->next_file++];
    reader->name = path;
    record->text = (struct slice){path, strlen(path)};
    record->file = path;
    reader->line = 0;
    return check_utf8(reader, record->text) ? READER_RECORD : READER_BAD;
}

/* The next file: READER_RECORD stands for opened. */
static enum reader_result open_next(struct reader *reader)
{
    if (reader->next_file == reader->options.count)
        return READER_END;
    const char *path = reader->options.files[reader->next_file++];
    enum input_format format = reader->options.format;
    if (format == INPUT_BY_NAME)
        format = is_stdin(path) ? INPUT_JSONL : input_format_of(path);
    reader->format = format;
    reader->name = is_stdin(path) ? "<stdin>" : path;
    reader->used = reader->searched = 0;
    reader->offset = reader->line = 0;
    buffer_clear(&reader->piece);
    buffer_reserve(&reader->piece, PIECE_SIZE); /* next_line looks at it before it reads */
    int r = source_open(&reader->source, path);
    if (r < 0)
        return unreadable(reader, r);
    reader->open = true;
    if (format == INPUT_CSV || format == INPUT_TSV)
        rows_open(&reader->rows, format == INPUT_CSV ? ',' : '\t', reader->options.infer,
                  reader->options.lists);
    return READER_RECORD;
}

/* As reader_next, but READER_END is this file's. */
static enum reader_result next_in_file(struct reader *reader, struct record *record)
{
    record->file = reader->name;
    record->start.file = reader->next_file - 1;
    if (reader->format == INPUT_ERRORS)
        return next_again(reader, record);
    if (reader->format == INPUT_CSV || reader->format == INPUT_TSV)
        return next_row(reader, record);
    return next_text(reader, record);
}

enum reader_result reader_next(struct reader *reader, struct record *record)
{
    enum reader_result result;
    *record = (struct record){.index = reader->index, .start = {.number = reader->index}};
    if (reader->options.format == INPUT_PATHS) {
        result = next_path(reader, record);
    } else {
        result = READER_END;
        while (result == READER_END) {
            enum reader_result opened = reader->open ? READER_RECORD : open_next(reader);
            if (opened != READER_RECORD)
                return opened;
            result = next_in_file(reader, record);
        }
    }
    if (result == READER_RECORD || result == READER_BAD)
        reader->index++;
    record->bad = result == READER_BAD;
    return result;
}

/* ---- to go on where another run was ---------------------------------------------------------- */

struct position reader_at(const struct reader *reader)
{
    struct position at = {.file = reader->next_file, .number = reader->index};
    if (reader->open) {
        at.file--;
        at.offset = reader->offset;
        at.line = reader->line;
    }
    return at;
}

/* A row means something by its file's header only. */
static int read_header(struct reader *reader)
{
    struct slice line;
    enum rows_result result;
    int got = 1;
    while (got > 0 && !reader->rows.header_known) {
        got = next_row_line(reader, &line, &result);
        got = got == -EAGAIN ? 1 : got;
    }
    return got > 0 ? 0 : got < 0 ? got : -ESTALE;
}

/* Where seeking is of no use: in what is packed. */
static int read_lines(struct reader *reader, uint64_t count)
{
    struct slice line;
    uint64_t offset;
    int got = 1;
    while (got > 0 && reader->line < count) {
        got = next_line(reader, &line, &offset);
        got = got == -EAGAIN ? 1 : got;
    }
    return got > 0 ? 0 : got < 0 ? got : -ESTALE;
}

static int seek_in_file(struct reader *reader, const struct position *position)
{
    bool rows = reader->format == INPUT_CSV || reader->format == INPUT_TSV;
    int r = rows ? read_header(reader) : 0;
    if (r == 0)
        r = source_seek(&reader->source, position->offset);
    if (r > 0) {
        buffer_clear(&reader->piece);
        reader->used = reader->searched = 0;
        reader->offset = position->offset;
        reader->line = position->line;
        return 0;
    }
    if (r == 0)
        r = read_lines(reader, position->line);
    return r == 0 && reader->offset != position->offset ? -ESTALE : r;
}

int reader_seek(struct reader *reader, const struct position *position)
{
    struct stat status;
    bool paths = reader->options.format == INPUT_PATHS;
    for (size_t i = 0; i < position->file && !paths; i++)
        if (stat(reader->options.files[i], &status) == 0)
            reader->taken += (uint64_t)status.st_size;
    reader->next_file = position->file;
    reader->index = position->number;
    if (paths || position->line == 0)
        return 0;
    if (open_next(reader) != READER_RECORD) {
        say("%s", buffer_string(&reader->problem));
        return 2;
    }
    int r = seek_in_file(reader, position);
    if (r < 0)
        say("%s: cannot be read on from line %llu: %s", reader->name,
            (unsigned long long)position->line + 1,
            r == -ESTALE ? "it is not what it was" : strerror(-r));
    return r < 0 ? 2 : 0;
}
