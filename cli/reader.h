/* reader: records from files, one after the other.
 *
 * Bad input never ends the reading: a record that is no good is reported and the next one comes, a
 * file that cannot be read is reported and the next one is opened. What is in memory is the record
 * at hand and one piece of its file. */
#ifndef CLI_READER_H
#define CLI_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/again.h"
#include "cli/buffer.h"
#include "cli/rows.h"
#include "cli/source.h"

enum input_format {
    INPUT_BY_NAME, /* by the file's extension; JSONL where it has none, and for stdin */
    INPUT_JSONL,
    INPUT_CSV,
    INPUT_TSV,
    INPUT_LINES,
    INPUT_NUL,
    INPUT_PATHS,  /* the files are not read: each name is a record */
    INPUT_ERRORS, /* what --errors has written: the records in it */
};

/* INPUT_BY_NAME: the extension is none we know. */
enum input_format input_format_of(const char *path);

struct reader_options {
    char **files; /* "-" is stdin */
    size_t count;
    enum input_format format;
    bool infer, lists; /* of CSV and TSV, see rows.h */
};

/* Where reading can begin again. */
struct position {
    size_t file;           /* number of it */
    uint64_t offset, line; /* in it, unpacked; lines before */
    uint64_t number;       /* of records before, in the whole input */
};

struct record {
    struct slice text; /* valid until the next record is asked for */
    bool json;         /* text is JSON, else plain text, which is UTF-8 unless the record is bad */
    uint64_t index;    /* in the whole input, from 0 */
    uint64_t offset;   /* of its first byte in its file, unpacked */
    uint64_t line;     /* in its file, from 1; 0: it has none */
    const char *file;  /* for people: "<stdin>"; of INPUT_ERRORS valid as long as text */
    bool bad;          /* it could not be read */
    struct position start;
    const struct record *members; /* see group.h; NULL: it is no group */
    size_t member_count;
};

struct reader {
    struct reader_options options;
    size_t next_file; /* the one that is opened next */
    bool open;
    const char *name; /* of the file at hand, for people */
    enum input_format format;
    struct source source;
    struct rows rows;
    struct buffer piece;           /* of the file; the part not yet used starts at used */
    size_t used, searched;         /* in the part not yet used: bytes without a separator */
    uint64_t offset, line;         /* of the next line; lines so far */
    uint64_t row_offset, row_line; /* of the row at hand, which may take several lines */
    bool row_bad;                  /* it is not UTF-8, and problem says where */
    uint64_t index;                /* of the next record */
    struct again again;            /* of INPUT_ERRORS */
    uint64_t taken, total;         /* bytes of the files closed so far, and of all, 0: not known */
    struct buffer problem;         /* what READER_BAD and READER_UNREADABLE are about */
};

/* Looks at all files, without reading them: 0, or a code of the command after saying which one is
 * not to be read and why. */
int reader_open(struct reader *reader, const struct reader_options *options);
void reader_close(struct reader *reader);

enum reader_result {
    READER_RECORD,
    READER_BAD,        /* record is filled in, problem says "file:line: why" */
    READER_UNREADABLE, /* problem says which file and why; the next file follows */
    READER_WAIT,       /* nothing is there now: poll reader_fd */
    READER_END,
};

enum reader_result reader_next(struct reader *reader, struct record *record);

/* Where the next record starts: only after READER_RECORD and READER_BAD, or before the first. */
struct position reader_at(const struct reader *reader);

/* Before the first record: begins at the position. 0, or a code of the command after saying why. */
int reader_seek(struct reader *reader, const struct position *position);

/* The descriptor to wait for after READER_WAIT. */
int reader_fd(const struct reader *reader);

/* Bytes of the files used so far. reader->total are all. */
uint64_t reader_position(const struct reader *reader);

#endif
