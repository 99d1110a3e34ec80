/* inflight: what is known of the records that are with the workers. */
#include "cli/inflight.h"

#include <stdlib.h>
#include <string.h>

void inflight_open(struct inflight *inflight, size_t window, unsigned keep)
{
    size_t room = 2;
    int shift = 63;
    for (; room < window * 2; room *= 2)
        shift--;
    *inflight = (struct inflight){.mask = room - 1, .shift = shift, .keep = keep};
    inflight->places = allocate_zeroed(room, sizeof(*inflight->places));
}

void inflight_close(struct inflight *inflight)
{
    for (size_t i = 0; inflight->places != NULL && i <= inflight->mask; i++)
        if (inflight->places[i].used)
            free(inflight->places[i].memory);
    free(inflight->places);
    *inflight = (struct inflight){0};
}

static size_t home_of(const struct inflight *inflight, uint64_t item)
{
    return (size_t)(item * UINT64_C(0x9E3779B97F4A7C15) >> inflight->shift);
}

/* Where the item stands, or the free place where it would. */
static size_t find(const struct inflight *inflight, uint64_t item)
{
    size_t at = home_of(inflight, item);
    while (inflight->places[at].used && inflight->places[at].item != item)
        at = (at + 1) & inflight->mask;
    return at;
}

static size_t size_of_names(const struct record *record)
{
    size_t size = strlen(record->file) + 1;
    for (size_t i = 0; i < record->member_count; i++)
        size += strlen(record->members[i].file) + 1;
    return size;
}

static const char *copy_name(char **to, const char *name)
{
    char *copy = *to;
    *to = stpcpy(copy, name) + 1;
    return copy;
}

/* Members, text and names, one behind the other, in one piece of memory. */
static void copy_record(struct place *place, const struct record *record, unsigned keep)
{
    size_t members = record->member_count * sizeof(*record);
    size_t text = (keep & KEEP_TEXT) != 0 ? record->text.size : 0;
    size_t names = (keep & KEEP_NAMES) != 0 ? size_of_names(record) : 0;
    struct record *copy = &place->record;
    *copy = *record;
    copy->text = (struct slice){"", 0};
    if (members + text + names == 0)
        return;
    char *next = place->memory = allocate(members + text + names);
    struct record *member = (struct record *)(void *)next;
    next += members;
    if (members > 0)
        copy->members = memcpy(member, record->members, members);
    if (text > 0)
        copy->text = (struct slice){memcpy(next, record->text.data, text), text};
    for (size_t i = 0; i < record->member_count; i++) {
        size_t offset = (size_t)(member[i].text.data - record->text.data);
        member[i].text =
            text > 0 ? (struct slice){next + offset, member[i].text.size} : copy->text;
    }
    next += text;
    if (names > 0)
        copy->file = copy_name(&next, record->file);
    for (size_t i = 0; i < record->member_count && names > 0; i++)
        member[i].file = copy_name(&next, member[i].file);
}

void inflight_put(struct inflight *inflight, uint64_t item, const struct record *record)
{
    struct place *place = &inflight->places[find(inflight, item)];
    *place = (struct place){.item = item, .used = true, .size = inflight_size(record)};
    copy_record(place, record, inflight->keep);
    inflight->bytes += place->size;
    inflight->count++;
}

const struct record *inflight_get(const struct inflight *inflight, uint64_t item)
{
    const struct place *place = &inflight->places[find(inflight, item)];
    return place->used ? &place->record : NULL;
}

/* Closes the gap: what probed past it moves up, so that find still reaches it. */
static void close_gap(struct inflight *inflight, size_t gap)
{
    size_t mask = inflight->mask;
    for (size_t at = (gap + 1) & mask; inflight->places[at].used; at = (at + 1) & mask) {
        size_t home = home_of(inflight, inflight->places[at].item);
        if (((at - home) & mask) < ((at - gap) & mask))
            continue; /* its home lies behind the gap */
        inflight->places[gap] = inflight->places[at];
        gap = at;
    }
    inflight->places[gap].used = false;
}

void inflight_drop(struct inflight *inflight, uint64_t item)
{
    size_t at = find(inflight, item);
    if (!inflight->places[at].used)
        return;
    free(inflight->places[at].memory);
    inflight->bytes -= inflight->places[at].size;
    inflight->count--;
    close_gap(inflight, at);
}

const struct record *inflight_walk(const struct inflight *inflight, size_t *at)
{
    for (; *at <= inflight->mask; ++*at)
        if (inflight->places[*at].used)
            return &inflight->places[(*at)++].record;
    return NULL;
}
