/* group: records that go to one call, as a list. */
#include "cli/group.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"
#include "cli/output.h"

/* Buffers move while they grow: an offset stands where a pointer will. */
static const char *as_pointer(size_t offset)
{
    return (const char *)(uintptr_t)offset;
}

void group_add(struct group *group, const struct record *record)
{
    if (group->count == group->room) {
        group->room = group->room > 0 ? group->room * 2 : 16;
        group->members = reallocate(group->members, group->room * sizeof(*group->members));
    }
    buffer_text(&group->text, group->count == 0 ? "[" : ", ");
    size_t start = group->text.size;
    output_record(&group->text, record);
    struct record *member = &group->members[group->count++];
    *member = *record;
    member->json = true;
    member->text = (struct slice){as_pointer(start), group->text.size - start};
    if (group->keep_names) {
        member->file = as_pointer(group->names.size);
        buffer_add(&group->names, record->file, strlen(record->file) + 1);
    }
}

struct record group_record(struct group *group)
{
    buffer_byte(&group->text, ']');
    for (size_t i = 0; i < group->count; i++) {
        struct record *member = &group->members[i];
        member->text.data = group->text.data + (uintptr_t)member->text.data;
        if (group->keep_names)
            member->file = group->names.data + (uintptr_t)member->file;
    }
    struct record all = group->members[0];
    all.text = buffer_slice(&group->text);
    all.members = group->members;
    all.member_count = group->count;
    return all;
}

void group_clear(struct group *group)
{
    buffer_clear(&group->text);
    buffer_clear(&group->names);
    group->count = 0;
}

void group_free(struct group *group)
{
    buffer_free(&group->text);
    buffer_free(&group->names);
    free(group->members);
    *group = (struct group){.keep_names = group->keep_names};
}
