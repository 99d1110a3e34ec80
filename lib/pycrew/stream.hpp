/* The items of an iterator in a worker, as they are made. */
#ifndef PYCREW_STREAM_HPP
#define PYCREW_STREAM_HPP

#include <cstddef>
#include <optional>
#include <utility>

#include "call.hpp"
#include "iterator.hpp"

namespace pycrew
{

/* The items of an iterator as they are made. Destroyed before its end the iterator is closed, in
 * its worker; that does not wait. T may be a view: of the item that was given last. */
template <typename T> class stream
{
  public:
    using iterator = detail::input_iterator<stream>;

    /* Of a call that has its arguments and is not submitted: this does it. window: see
     * pycrew_set_stream. */
    explicit stream(call &&prepared, unsigned window = 0) : call_(std::move(prepared))
    {
        detail::check(pycrew_set_stream(call_.native(), window));
        call_.submit();
    }

    /* The next item, good until the one after it; nullptr: the end. Throws what ended the stream,
     * and -ETIME where only this wait has ended. */
    T *next(nanoseconds within = forever)
    {
        item_.reset();
        if (detail::check(pycrew_next(call_.native(), within.count())) == 0)
            return nullptr;
        item_.emplace(call_.result<T>());
        return &*item_;
    }

    /* To be walked through once. */
    iterator begin()
    {
        return iterator(this);
    }
    iterator end()
    {
        return iterator();
    }

    bool cancel() /* what is made is not given any more; false: it has ended */
    {
        return call_.cancel();
    }
    pycrew_call *native() const noexcept
    {
        return call_.native();
    }

  private:
    friend iterator;

    bool advance()
    {
        return next() != nullptr;
    }
    T &current()
    {
        return *item_;
    }

    call call_;
    std::optional<T> item_;
};

} // namespace pycrew

#endif
