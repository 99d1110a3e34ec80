/* group: records that go to one call, as a list (--whole).
 *
 * As a record it is a list's text, with the records in it as its members: each fails by itself, and
 * is read again by itself. Its place in the input is that of its first member. */
#ifndef CLI_GROUP_H
#define CLI_GROUP_H

#include "cli/reader.h"

/* A zeroed one is empty. */
struct group {
    struct buffer text, names;
    struct record *members; /* text: its offset in the group's, until group_record */
    size_t count, room;
    bool keep_names; /* a member's file is not to be used when the next one has been read */
};

void group_add(struct group *group, const struct record *record);

/* The group as a record; it stays valid until the group is changed. */
struct record group_record(struct group *group);

void group_clear(struct group *group);
void group_free(struct group *group);

#endif
