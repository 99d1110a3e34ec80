/* checkpoint: how far a map is, in a file, so that another run can go on from there.
 *
 * A checkpoint says which records are done, and how long the output and the errors file were when
 * exactly those were in them. It is true at every moment, whatever ends the command or the machine:
 *
 *   0. once: that there are an output and an errors file is on the disk (fsync of their folders)
 *   1. what is to be in the output and the errors file is written there, and on the disk
 * (fdatasync)
 *   2. the checkpoint is written to FILE.new, and on the disk
 *   3. FILE.new becomes FILE (rename, and the folder on the disk)
 *
 * Dead before 3: the old checkpoint stands, and both files hold at least what it speaks of. What is
 * behind that is cut when a run goes on, and those records are done again.
 *
 * Records are not done in their order: some lie with workers while later ones are done, or could
 * not be read at all. So what stands in it is where the first one starts that is not done, how many
 * records were read, and which of those are not done. There are never more of these than are with
 * the workers. */
#ifndef CLI_CHECKPOINT_H
#define CLI_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/buffer.h"
#include "cli/reader.h"
#include "cli/writer.h"

/* Numbers, as pieces of those that follow each other. A zeroed one is empty. */
struct ranges {
    struct range {
        uint64_t first, last;
    } * items;
    size_t count, room;
};

void ranges_add(struct ranges *ranges, uint64_t number); /* larger than all in it */
bool ranges_have(const struct ranges *ranges, uint64_t number);

struct checkpoint {
    struct position start;    /* of the first record that is not done */
    uint64_t read;            /* records before the first that was not even read */
    struct ranges unfinished; /* the numbers of those before it that are not done */
    struct mark output, errors;
    char row_kind;         /* of CSV, see output.h; 0: none yet */
    struct buffer columns; /* and of its columns */
    uint64_t failed;       /* records in all runs */
    bool unreadable;       /* a file was */
    bool ended;            /* all is done */
};

/* work: what the run is about, as identity.h has it. 0 or a negative errno. */
int checkpoint_write(const char *path, const struct checkpoint *checkpoint, struct slice work);

/* 0; -ENOENT; another negative errno; -EBADMSG: it is no checkpoint. work as it was written. */
int checkpoint_read(const char *path, struct checkpoint *ret, struct buffer *work);

/* On the disk, that the file is there. 0 or a negative errno. */
int checkpoint_sync_name(const char *path);

/* On the disk, that there is none. 0 or a negative errno. */
int checkpoint_remove(const char *path);

void checkpoint_free(struct checkpoint *checkpoint);

#endif
