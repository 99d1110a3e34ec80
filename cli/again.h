/* again: the lines of an --errors file, as the records that they tell of. */
#ifndef CLI_AGAIN_H
#define CLI_AGAIN_H

#include <stdint.h>

#include "cli/buffer.h"

/* A zeroed one is empty. */
struct again {
    uint64_t index, offset, line;
    struct buffer input; /* JSON */
    struct buffer file, problem;
};

enum again_result {
    AGAIN_NOT,    /* the line is none that --errors writes */
    AGAIN_RECORD, /* it can be run again */
    AGAIN_BAD,    /* it could not be read then: problem says why, "file:line: ..." */
};

enum again_result again_read(struct again *again, struct slice line);
void again_free(struct again *again);

#endif
