/* writer: whole lines to a file or to stdout, in big pieces.
 *
 * Who writes adds to writer->out and says writer_line at the end of each line. What is in goes out
 * when enough has come together, and when the command has nothing else to do (writer_flush). */
#ifndef CLI_WRITER_H
#define CLI_WRITER_H

#include <stdbool.h>

#include "cli/buffer.h"

struct writer {
    struct buffer out;
    int fd;
    const char *path; /* NULL: stdout */
    bool created;     /* by us: taken away again if nothing is to be written */
    bool terminal;
    int error; /* the first negative errno: nothing is written any more */
};

/* path NULL: stdout. A regular file that exists is refused without force; with it, it is kept
 * until writer_begin. 0, or a code of the command after saying why. */
int writer_open(struct writer *writer, const char *path, bool force);

/* From here on the old contents are gone. 0 or a negative errno. */
int writer_begin(struct writer *writer);

/* 0, or the error: -EPIPE where the reader is gone, -EINTR where the command is to end now. */
int writer_line(struct writer *writer);
int writer_flush(struct writer *writer);

/* Flushes and closes: also what close says counts. */
int writer_close(struct writer *writer);

/* Closes, and takes a file away that was made for nothing. */
void writer_abandon(struct writer *writer);

#endif
