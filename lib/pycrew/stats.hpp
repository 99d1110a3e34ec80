/* What a crew is doing, and how long calls take. */
#ifndef PYCREW_STATS_HPP
#define PYCREW_STATS_HPP

#include <chrono>
#include <string>
#include <vector>

#include "error.hpp"

namespace pycrew
{

/* pycrew_stats, and each worker's where they were asked for. */
struct stats : pycrew_stats {
    stats() : pycrew_stats PYCREW_STATS_INIT
    {
    }

    std::vector<pycrew_worker_stats> each;
};

namespace detail
{

inline stats stats_of(pycrew_crew *crew, bool each_worker)
{
    stats result;

    check(pycrew_stats_get(crew, &result));
    if (!each_worker)
        return result;
    result.each.resize(result.workers);
    result.worker = result.each.data();
    result.worker_max = result.workers;
    check(pycrew_stats_get(crew, &result));
    result.worker = nullptr; /* a copy's would be another's */
    return result;
}

inline std::chrono::nanoseconds quantile_of(pycrew_crew *crew, pycrew_interval interval,
                                            double share, int worker)
{
    std::int64_t ns = 0;

    check(pycrew_stats_quantile(crew, interval, worker, share, &ns));
    return std::chrono::nanoseconds(ns);
}

/* Numbers may have more digits the second time. */
inline std::string metrics_of(pycrew_crew *crew, const char *name)
{
    std::string text;
    int length = pycrew_metrics_write(crew, name, nullptr, 0);

    for (check(length); static_cast<std::size_t>(length) >= text.size();) {
        text.resize(static_cast<std::size_t>(length) + 256);
        check(length = pycrew_metrics_write(crew, name, &text[0], text.size()));
    }
    text.resize(static_cast<std::size_t>(length));
    return text;
}

} // namespace detail

} // namespace pycrew

#endif
