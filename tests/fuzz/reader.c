/* reader: the command's records, from files of any content in any format: JSONL, CSV, TSV, lines,
 * NUL, each as it is or as a gzip. Read from a regular file in one go and through a pipe in pieces,
 * they must be the same. */
#include "cli/reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cli/json.h"
#include "tests/fuzz/target.h"

enum { FILE_FD = 700 }; /* the same name whatever is read */

static char path[] = "/proc/self/fd/700";

typedef struct feed {
    fuzz_input left;
    size_t piece;
    int fd; /* to write to; -1: all is there */
} feed;

/* The next piece, or the end. */
static void feed_more(feed *from)
{
    CHECK(from->fd >= 0);
    fuzz_input part = fuzz_take(&from->left, from->piece);
    if (fuzz_left(&part) > 0) {
        CHECK(write(from->fd, part.at, fuzz_left(&part)) == (ssize_t)fuzz_left(&part));
        return;
    }
    close(from->fd);
    from->fd = -1;
}

/* At FILE_FD, and no other descriptor. */
static void place(int fd)
{
    CHECK(fd >= 0 && dup2(fd, FILE_FD) == FILE_FD);
    close(fd);
}

static void make_file(const fuzz_input *in)
{
    int fd = memfd_create("input", MFD_CLOEXEC);

    CHECK(fd >= 0 && write(fd, in->at, fuzz_left(in)) == (ssize_t)fuzz_left(in));
    place(fd);
}

static feed make_pipe(const fuzz_input *in, size_t piece)
{
    int fds[2];

    CHECK(pipe2(fds, O_CLOEXEC) == 0);
    place(fds[0]);
    return (feed){*in, piece, fds[1]};
}

/* ---- what is promised of a record ------------------------------------------------------------ */

static size_t count_items(struct slice json, char kind)
{
    struct json_walk walk;
    struct slice key, value;
    size_t count = 0;
    int got;

    CHECK(json_walk_open(&walk, json, kind));
    while ((got = json_walk_next(&walk, &key, &value)) > 0)
        count++;
    CHECK(got == 0);
    return count;
}

static bool has_rows(const struct reader *reader)
{
    return reader->options.format == INPUT_CSV || reader->options.format == INPUT_TSV;
}

static void check_row(const struct reader *reader, const struct record *record, bool good)
{
    bool list = reader->options.lists || !good;

    if (!record->json)
        return;
    CHECK(json_check(record->text, NULL));
    if (record->text.data[0] == '{' || good) {
        size_t count = count_items(record->text, list && record->text.data[0] != '{' ? '[' : '{');
        CHECK(!good || count == reader->rows.names.count);
    }
}

/* A line is what stands in the file at its offset. */
static void check_line(const struct record *record, const fuzz_input *in)
{
    CHECK(record->offset + record->text.size <= fuzz_left(in));
    CHECK(record->text.size == 0 ||
          memcmp(record->text.data, in->at + record->offset, record->text.size) == 0);
}

static bool is_gzip(const fuzz_input *in)
{
    return fuzz_left(in) >= 2 && in->at[0] == 0x1f && in->at[1] == 0x8b;
}

static void check_record(const struct reader *reader, const struct record *record, bool good,
                         const fuzz_input *in)
{
    CHECK(!good || utf8_prefix(record->text) == record->text.size);
    CHECK(record->line > 0 && record->line <= reader->line);
    if (has_rows(reader))
        check_row(reader, record, good);
    else if (!is_gzip(in))
        check_line(record, in);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void note(struct buffer *to, const struct reader *reader, enum reader_result result,
                 const struct record *record)
{
    buffer_print(to, "%d ", (int)result);
    if (result != READER_UNREADABLE) {
        buffer_print(to, "%d %llu %llu %llu ", record->json, (unsigned long long)record->index,
                     (unsigned long long)record->offset, (unsigned long long)record->line);
        buffer_add(to, record->text.data, record->text.size);
    }
    struct slice problem = buffer_slice(&reader->problem);
    if (result != READER_RECORD)
        buffer_add(to, problem.data, problem.size);
    buffer_byte(to, '\n');
}

/* All records, noted. */
static struct buffer read_all(const struct reader_options *options, feed *from,
                              const fuzz_input *in)
{
    struct reader reader;
    struct record record;
    struct buffer noted = {0};
    enum reader_result result;

    CHECK(reader_open(&reader, options) == 0);
    while ((result = reader_next(&reader, &record)) != READER_END) {
        if (result == READER_WAIT) {
            feed_more(from);
            continue;
        }
        if (result != READER_UNREADABLE)
            check_record(&reader, &record, result == READER_RECORD, in);
        note(&noted, &reader, result, &record);
    }
    reader_close(&reader);
    return noted;
}

FUZZ_TARGET(reader)
{
    static const enum input_format formats[] = {INPUT_JSONL, INPUT_CSV, INPUT_TSV, INPUT_LINES,
                                                INPUT_NUL};
    fuzz_input in = {data, data + size};
    char *files[] = {path};

    if (size < 2)
        return 0;
    uint8_t choice = fuzz_byte(&in);
    size_t piece = 1u + fuzz_byte(&in);
    struct reader_options options = {.files = files,
                                     .count = 1,
                                     .format = formats[(choice & 7) % 5],
                                     .infer = choice & 8,
                                     .lists = choice & 16};
    feed none = {.fd = -1};
    make_file(&in);
    struct buffer whole = read_all(&options, &none, &in);
    feed pieces = make_pipe(&in, piece);
    struct buffer piped = read_all(&options, &pieces, &in);
    CHECK(whole.size == piped.size);
    CHECK(whole.size == 0 || memcmp(whole.data, piped.data, whole.size) == 0);
    if (pieces.fd >= 0)
        close(pieces.fd);
    close(FILE_FD);
    buffer_free(&whole);
    buffer_free(&piped);
    return 0;
}
