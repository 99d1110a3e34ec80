/* identity: what a map is about, as far as another run must be about the same to go on with it.
 *
 * A dict of JSON: the function, the options that say what is read and written, and of each input
 * file its name, size, time of modification and a sum of its first 64 KiB. Not its inode and
 * device: a file that was moved away and back, or is on a disk that came up under another number,
 * is the same file. */
#ifndef CLI_IDENTITY_H
#define CLI_IDENTITY_H

#include "cli/options.h"

/* 0, or a code of the command after saying which file cannot be read a second time. */
int identity_make(struct buffer *to, const struct options *options, char **files, size_t count);

/* NULL, or the first difference, in words. The caller frees it. */
char *identity_difference(struct slice then, struct slice now);

#endif
