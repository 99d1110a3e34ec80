/* writer: whole lines to a file or to stdout, in big pieces.
 *
 * Who writes adds to writer->out and says writer_line at the end of each line. What is in goes out
 * when enough has come together, and when the command has nothing else to do (writer_flush).
 *
 * A file whose name ends in .gz is packed. writer_sync ends the gzip's member, so that what stands
 * before a mark is a whole gzip and another member can follow. */
#ifndef CLI_WRITER_H
#define CLI_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <zlib.h>

#include "cli/buffer.h"

struct writer {
    struct buffer out;
    int fd;
    const char *path; /* NULL: stdout */
    bool created;     /* by us: taken away again if nothing is to be written */
    bool terminal;
    int error;     /* the first negative errno: nothing is written any more */
    uint64_t size; /* of the file, as far as it is ours */
    bool packed, in_member;
    z_stream pack;
};

/* Where a file can be cut and written on: its size, and a sum of the last bytes before that. */
struct mark {
    uint64_t size;
    uint32_t sum;
};

enum {
    WRITER_FORCE = 1,  /* a regular file that exists is overwritten */
    WRITER_RESUME = 2, /* or to be written on: writer_cut follows, and not writer_begin */
    WRITER_MARKS = 4,  /* it can be cut: a regular file, and no other's at the same time */
};

/* path NULL: stdout. A regular file that exists is refused without a flag that allows it; with one,
 * it is kept until writer_begin or writer_cut. 0, or a code of the command after saying why. */
int writer_open(struct writer *writer, const char *path, unsigned flags);

/* From here on the old contents are gone. 0 or a negative errno. */
int writer_begin(struct writer *writer);

/* Whether what stands before the mark is what it was: 0, -ESTALE, or another negative errno. */
int writer_check(struct writer *writer, const struct mark *mark);

/* From here on what stood behind the mark is gone. As writer_check; *ret_cut: so many bytes went. */
int writer_cut(struct writer *writer, const struct mark *mark, uint64_t *ret_cut);

/* 0, or the error: -EPIPE where the reader is gone, -EINTR where the command is to end now. */
int writer_line(struct writer *writer);
int writer_flush(struct writer *writer);

/* All that was added is on the disk, and ends at the mark. */
int writer_sync(struct writer *writer, struct mark *ret);

/* Flushes and closes: also what close says counts. */
int writer_close(struct writer *writer);

/* Closes, and takes a file away that was made for nothing. */
void writer_abandon(struct writer *writer);

bool writer_is_packed(const char *path); /* NULL: false */

#endif
