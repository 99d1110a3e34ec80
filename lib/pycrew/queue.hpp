/* Where ended calls are collected, with a descriptor for event loops. */
#ifndef PYCREW_QUEUE_HPP
#define PYCREW_QUEUE_HPP

#include <utility>

#include "error.hpp"

namespace pycrew
{

/* Where calls that were given it are announced at their ends: call.queue(queue). It knows calls,
 * not types: it gives back what call.data was given. For coroutines see pycrew::loop. */
class queue
{
  public:
    explicit queue(pycrew_queue *owned) noexcept : native_(owned)
    {
    }
    queue(queue &&from) noexcept : native_(std::exchange(from.native_, nullptr))
    {
    }
    queue &operator=(queue &&from) noexcept
    {
        if (this != &from)
            pycrew_queue_close(std::exchange(native_, std::exchange(from.native_, nullptr)));
        return *this;
    }
    ~queue()
    {
        pycrew_queue_close(native_);
    }

    int fd() const /* readable when there may be something to reap, until reap found nothing */
    {
        return pycrew_queue_fd(native_);
    }
    /* A call that has ended, which stays who has its pycrew::call's; nullptr: the time passed, or a
     * wake. */
    pycrew_call *reap(nanoseconds within = forever)
    {
        pycrew_call *ended;

        return detail::check(pycrew_queue_reap(native_, &ended, 1, within.count())) == 1 ? ended
                                                                                         : nullptr;
    }
    void wake()
    {
        detail::check(pycrew_queue_wake(native_));
    }
    pycrew_queue *native() const noexcept
    {
        return native_;
    }

  private:
    pycrew_queue *native_;
};

} // namespace pycrew

#endif
