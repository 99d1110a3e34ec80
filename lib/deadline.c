/* deadline: the calls in flight that have one, the earliest first: a binary heap of indices. */
#include "lib/crew.h"

static bool earlier(const pycrew_crew *crew, uint32_t a, uint32_t b)
{
    return crew->calls[crew->deadlines[a]].deadline < crew->calls[crew->deadlines[b]].deadline;
}

static void put(pycrew_crew *crew, uint32_t place, uint32_t index)
{
    crew->deadlines[place] = index;
    crew->calls[index].deadline_place = place;
}

static void swap(pycrew_crew *crew, uint32_t a, uint32_t b)
{
    uint32_t index = crew->deadlines[a];

    put(crew, a, crew->deadlines[b]);
    put(crew, b, index);
}

static void rise(pycrew_crew *crew, uint32_t place)
{
    for (; place > 1 && earlier(crew, place, place / 2); place /= 2)
        swap(crew, place, place / 2);
}

static void sink(pycrew_crew *crew, uint32_t place)
{
    for (;;) {
        uint32_t least = place;

        for (uint32_t child = 2 * place; child <= 2 * place + 1; child++)
            if (child <= crew->deadline_count && earlier(crew, child, least))
                least = child;
        if (least == place)
            return;
        swap(crew, place, least);
        place = least;
    }
}

void pc_deadline_add(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;

    if (call->deadline_place != 0 || call->deadline == INT64_MAX)
        return;
    put(crew, ++crew->deadline_count, call->index);
    rise(crew, crew->deadline_count);
}

void pc_deadline_remove(pycrew_call *call)
{
    pycrew_crew *crew = call->crew;
    uint32_t place = call->deadline_place, last;

    if (place == 0)
        return;
    call->deadline_place = 0;
    last = crew->deadlines[crew->deadline_count--];
    if (last == call->index)
        return;
    put(crew, place, last);
    rise(crew, place);
    sink(crew, crew->calls[last].deadline_place);
}

pycrew_call *pc_deadline_first(pycrew_crew *crew)
{
    return crew->deadline_count == 0 ? NULL : &crew->calls[crew->deadlines[1]];
}
