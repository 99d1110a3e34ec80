/* What a crew is doing. */
#ifndef PYCREW_STATS_HPP
#define PYCREW_STATS_HPP

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

} // namespace detail

} // namespace pycrew

#endif
