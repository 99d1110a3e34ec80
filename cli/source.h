/* source: the bytes of an input file, unpacked where it is a gzip.
 *
 * Reading never waits on a pipe, terminal or socket: -EAGAIN says that nothing is there now.
 * Whether a file is a gzip is seen from its first two bytes, which no UTF-8 text can have. */
#ifndef CLI_SOURCE_H
#define CLI_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <zlib.h>

struct source {
    int fd;            /* -1: not open */
    bool may_wait;     /* not a regular file */
    bool ended;        /* the file has */
    bool known;        /* the first bytes have been seen */
    bool packed;       /* it is a gzip */
    bool between;      /* at the start, or behind a whole member of it */
    uint64_t taken;    /* bytes read from the file: packed ones, where it is packed */
    unsigned char *in; /* read and not yet handed out */
    size_t at, size;
    z_stream unpack;
};

/* path "-" is stdin. 0, or a negative errno. */
int source_open(struct source *source, const char *path);

/* Up to room bytes; 0 at the end; -EAGAIN; -EBADMSG: it is a gzip and damaged; -ENODATA: it is a
 * gzip that ends in the middle; or read's error. */
ssize_t source_read(struct source *source, char *to, size_t room);

/* Goes to this byte of a regular file: 1; 0: it is packed, and can only be read; or an errno. */
int source_seek(struct source *source, uint64_t offset);

/* A zeroed source is a closed one, and closing it again does nothing. */
void source_close(struct source *source);

#endif
