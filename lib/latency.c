/* latency: what the workers' histograms say (lib/shm/histogram.h). */
#include <errno.h>

#include "lib/crew.h"

void pc_latency_sum(const pycrew_crew *crew, enum pc_time interval, int worker,
                    pc_histogram_sum *ret)
{
    unsigned first = worker < 0 ? 0 : (unsigned)worker;
    unsigned end = worker < 0 ? crew->workers : first + 1;

    *ret = (pc_histogram_sum){0};
    for (unsigned i = first; i < end; i++)
        pc_histogram_add(ret, &crew->segment.times[i].of[interval]);
}

static int64_t bounded(uint64_t ns)
{
    return ns < INT64_MAX ? (int64_t)ns : INT64_MAX;
}

pycrew_latency pc_latency_describe(const pycrew_crew *crew, enum pc_time interval)
{
    pc_histogram_sum sum;

    pc_latency_sum(crew, interval, -1, &sum);
    return (pycrew_latency){.count = sum.count,
                            .sum_ns = bounded(sum.sum),
                            .p50_ns = pc_histogram_quantile(&sum, 0.5),
                            .p90_ns = pc_histogram_quantile(&sum, 0.9),
                            .p99_ns = pc_histogram_quantile(&sum, 0.99),
                            .p999_ns = pc_histogram_quantile(&sum, 0.999),
                            .max_ns = bounded(sum.max)};
}

static int check_quantile(const pycrew_crew *crew, int interval, int worker, double share)
{
    if (interval < PYCREW_TIME_RUN || interval > PYCREW_TIME_TOTAL)
        return pc_fail(-EINVAL, "pycrew_stats_quantile: interval %d is none of PYCREW_TIME_RUN, _WAIT and _TOTAL",
                       interval);
    if (worker >= 0 && (unsigned)worker >= crew->workers)
        return pc_fail(-EINVAL, "pycrew_stats_quantile: there is no worker %d, the crew has %u", worker,
                       crew->workers);
    if (!(share >= 0 && share <= 1)) /* nor a NaN */
        return pc_fail(-EINVAL, "pycrew_stats_quantile: share is %g; from 0 to 1", share);
    return 0;
}

int pycrew_stats_quantile(pycrew_crew *crew, int interval, int worker, double share, int64_t *ret_ns)
{
    pc_histogram_sum sum;
    int rc;

    static_assert((int)PYCREW_TIME_RUN == (int)PC_TIME_RUN &&
                      (int)PYCREW_TIME_WAIT == (int)PC_TIME_WAIT &&
                      (int)PYCREW_TIME_TOTAL == (int)PC_TIME_TOTAL,
                  "the public names are those of the segment");
    if (crew == NULL || ret_ns == NULL)
        return pc_fail(-EINVAL, "pycrew_stats_quantile: crew and ret_ns must not be NULL");
    if ((rc = pc_crew_check(crew)) < 0 ||
        (rc = check_quantile(crew, interval, worker, share)) < 0)
        return rc;
    pc_latency_sum(crew, (enum pc_time)interval, worker, &sum);
    *ret_ns = pc_histogram_quantile(&sum, share);
    return 0;
}
