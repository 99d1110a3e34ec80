/* arrays.h - what the tests of arrays share. */
#ifndef TESTS_ARRAYS_H
#define TESTS_ARRAYS_H

#include <stdio.h>

#include "tests/harness/crew.h"

/* Memory of the crew with so many elements, all of this value. */
TAP_FUNCTION double *doubles(pycrew_crew *crew, size_t count, double value)
{
    double *memory = pycrew_alloc(crew, count * sizeof *memory);

    ASSERT(memory != NULL);
    ASSERT_INT((uintptr_t)memory % 64, 0);
    for (size_t i = 0; i < count; i++)
        memory[i] = value;
    return memory;
}

/* The place of an address in the file that is mapped there. */
TAP_FUNCTION long long place_of(const void *data)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long low, high, offset;
    long long place = -1;
    char line[512];

    ASSERT(maps != NULL);
    while (place < 0 && fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%lx-%lx %*s %lx", &low, &high, &offset) == 3 && (uintptr_t)data >= low &&
            (uintptr_t)data < high)
            place = (long long)((uintptr_t)data - low + offset);
    fclose(maps);
    return place;
}

TAP_FUNCTION size_t memory_used(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;

    OK(pycrew_stats_get(crew, &stats));
    return stats.memory_used;
}

#endif
