/* inflight: what is known of the records that are with the workers. */
#include "cli/inflight.h"

#include <stdlib.h>

void inflight_open(struct inflight *inflight, size_t window, bool keep_text)
{
    size_t room = 2;
    int shift = 63;
    for (; room < window * 2; room *= 2)
        shift--;
    *inflight = (struct inflight){.mask = room - 1, .shift = shift, .keep_text = keep_text};
    inflight->places = allocate_zeroed(room, sizeof(*inflight->places));
}

void inflight_close(struct inflight *inflight)
{
    for (size_t i = 0; inflight->keep_text && i <= inflight->mask; i++)
        if (inflight->places[i].used)
            free((void *)(uintptr_t)inflight->places[i].record.text.data);
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

void inflight_put(struct inflight *inflight, uint64_t item, const struct record *record)
{
    struct place *place = &inflight->places[find(inflight, item)];
    *place = (struct place){item, true, *record, record->text.size};
    place->record.text = (struct slice){"", 0};
    if (inflight->keep_text)
        place->record.text =
            (struct slice){copy_bytes(record->text.data, record->text.size), record->text.size};
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
    if (inflight->keep_text)
        free((void *)(uintptr_t)inflight->places[at].record.text.data);
    inflight->bytes -= inflight->places[at].size;
    inflight->count--;
    close_gap(inflight, at);
}
