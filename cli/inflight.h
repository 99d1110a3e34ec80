/* inflight: what is known of the records that are with the workers.
 *
 * A batch hands items back by number. Here stand, by that number, the record's place in the input
 * and, if it is needed for --errors or --with-input, its text. A table with open addressing, at
 * most half full, because a slow record may lie any distance behind the others. Numbers are
 * multiplied by the golden ratio: those in a row come to lie evenly apart. (Side by side they
 * would be one long run, and dropping one would mean to look through all behind it.) The table has
 * room for the batch's window, whatever the input's size. */
#ifndef CLI_INFLIGHT_H
#define CLI_INFLIGHT_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/buffer.h"
#include "cli/reader.h"

struct place {
    uint64_t item; /* number in the batch */
    bool used;
    struct record record; /* text: a copy, or empty if texts are not kept */
    void *memory;         /* of its copies */
    size_t size;          /* inflight_size() of it */
};

/* What is copied of a record; the members of a group always are. */
enum { KEEP_TEXT = 1, KEEP_NAMES = 2 };

struct inflight {
    struct place *places;
    size_t mask, count;
    int shift;    /* from a product to a place */
    size_t bytes; /* of all, see inflight_size() */
    unsigned keep;
};

void inflight_open(struct inflight *inflight, size_t window, unsigned keep);
void inflight_close(struct inflight *inflight);

/* What a record takes: its text, kept or not, because a worker has it, and what is known of members. */
static inline size_t inflight_size(const struct record *record)
{
    return record->text.size + record->member_count * sizeof(*record);
}

/* No more than window records at a time. */
void inflight_put(struct inflight *inflight, uint64_t item, const struct record *record);

/* The item's record, NULL if it is not there. Valid until the next put or drop. */
const struct record *inflight_get(const struct inflight *inflight, uint64_t item);
void inflight_drop(struct inflight *inflight, uint64_t item);

/* One after the other, in no order: *at is 0 before the first; NULL behind the last. */
const struct record *inflight_walk(const struct inflight *inflight, size_t *at);

#endif
