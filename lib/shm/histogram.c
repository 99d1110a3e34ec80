#include "lib/shm/histogram.h"

/* The one writer's. */
static void add_to(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed) + value,
                          memory_order_relaxed);
}

void pc_histogram_count(pc_histogram *histogram, int64_t ns, uint64_t weight)
{
    uint64_t time = ns > 0 ? (uint64_t)ns : 0; /* a scribbled mark may be of the future */

    add_to(&histogram->buckets[pc_histogram_bucket(time)], weight);
    add_to(&histogram->sum, time * weight);
    if (time > atomic_load_explicit(&histogram->max, memory_order_relaxed))
        atomic_store_explicit(&histogram->max, time, memory_order_relaxed);
}

static uint64_t saturated(uint64_t a, uint64_t b)
{
    return a + b < a ? UINT64_MAX : a + b;
}

void pc_histogram_add(pc_histogram_sum *sum, const pc_histogram *histogram)
{
    uint64_t max = atomic_load_explicit(&histogram->max, memory_order_relaxed);

    for (unsigned i = 0; i < PC_HISTOGRAM_BUCKETS; i++) {
        uint64_t count = atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);

        sum->buckets[i] = saturated(sum->buckets[i], count);
        sum->count = saturated(sum->count, count);
    }
    sum->sum =
        saturated(sum->sum, atomic_load_explicit(&histogram->sum, memory_order_relaxed));
    if (max > sum->max)
        sum->max = max;
}

/* Where in the bucket, of which so many are wanted: as if they lay evenly. */
static uint64_t within(unsigned bucket, double wanted, uint64_t count)
{
    uint64_t start = pc_histogram_start(bucket);
    double width = (double)(pc_histogram_start(bucket + 1) - start);

    return start + (uint64_t)(width * wanted / (double)count);
}

int64_t pc_histogram_quantile(const pc_histogram_sum *sum, double quantile)
{
    double wanted = quantile * (double)sum->count, before = 0;
    uint64_t most = sum->max < INT64_MAX ? sum->max : INT64_MAX, ns;

    for (unsigned i = 0; i < PC_HISTOGRAM_BUCKETS; i++) {
        double count = (double)sum->buckets[i];

        if (count > 0 && before + count >= wanted) {
            ns = within(i, wanted - before, sum->buckets[i]);
            return (int64_t)(ns < most ? ns : most);
        }
        before += count;
    }
    return sum->count > 0 ? (int64_t)most : 0;
}

uint64_t pc_histogram_below(const pc_histogram_sum *sum, uint64_t ns)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < PC_HISTOGRAM_BUCKETS && pc_histogram_start(i) < ns; i++)
        count = saturated(count, sum->buckets[i]);
    return count;
}
