/* Objects that stay in one worker. */
#ifndef PYCREW_ACTOR_HPP
#define PYCREW_ACTOR_HPP

#include <cerrno>
#include <future>
#include <utility>

#include "call.hpp"
#include "future.hpp"

namespace pycrew
{

/* An object of Python's that keeps its state from call to call, as long as its worker lives: behind
 * that its calls throw PYCREW_EDIED, until reopen. Destroyed it is given up: what was submitted is
 * run, and then its close(); nobody waits for that. Any threads may call it at a time; the calls of
 * one thread run in their order. */
class actor
{
  public:
    actor(pycrew_actor *owned, pycrew_crew *of, detail::collector *promises) noexcept
        : native_(owned), crew_(of), promises_(promises)
    {
    }
    actor(actor &&from) noexcept
        : native_(std::exchange(from.native_, nullptr)), crew_(from.crew_),
          promises_(from.promises_)
    {
    }
    actor &operator=(actor &&from) noexcept
    {
        if (this != &from) {
            pycrew_actor_close(std::exchange(native_, std::exchange(from.native_, nullptr)));
            crew_ = from.crew_;
            promises_ = from.promises_;
        }
        return *this;
    }
    ~actor()
    {
        close();
    }

    void close() noexcept
    {
        pycrew_actor_close(std::exchange(native_, nullptr));
    }
    /* A method's call to be filled. Waits for one to be free; throws -ETIME. */
    call prepare(const char *method, nanoseconds within = forever) const
    {
        pycrew_call *made;

        detail::check(pycrew_actor_prepare(native_, method, within.count(), &made));
        return {made, crew_};
    }
    /* As crew's run and async, of a method. */
    template <typename T = void, typename... Arguments>
    T run(const char *method, const Arguments &...arguments) const
    {
        return detail::run<T>(prepare(method), arguments...);
    }
    template <typename T = void, typename... Arguments>
    std::future<T> async(const char *method, const Arguments &...arguments) const
    {
        call made = prepare(method);

        detail::fill<T>(made, arguments...);
        return promises_->submit<T>(std::move(made));
    }
    /* Makes the object again, with the arguments of then, after its worker's death; false: that
     * lives. */
    bool reopen(nanoseconds within = forever)
    {
        const int rc = pycrew_actor_reopen(native_, within.count());

        return rc != -EALREADY && detail::check(rc) == 0;
    }
    unsigned worker() const /* the number of the one that it is in, or was */
    {
        return pycrew_actor_worker(native_);
    }
    pycrew_actor *native() const noexcept
    {
        return native_;
    }

  private:
    pycrew_actor *native_;
    pycrew_crew *crew_;
    detail::collector *promises_;
};

} // namespace pycrew

#endif
