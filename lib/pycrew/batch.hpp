/* Many calls of one function. */
#ifndef PYCREW_BATCH_HPP
#define PYCREW_BATCH_HPP

#include <cerrno>
#include <cstddef>
#include <optional>
#include <utility>

#include "array.hpp"
#include "iterator.hpp"

namespace pycrew
{

/* pycrew_batch_options, begun. */
struct batch_options : pycrew_batch_options {
    batch_options() : pycrew_batch_options PYCREW_BATCH_OPTIONS_INIT
    {
    }
};

/* Many calls of one function, results in the order of the input unless the options say otherwise:
 *     while (more && batch.add(next_record))
 *         ...
 *     for (auto item : batch)          what was added so far
 *         sum += item.get();
 * T may be a view: of the item that came last. */
template <typename T> class batch
{
  public:
    /* The item that came last, until the next one. */
    class item
    {
      public:
        item(pycrew_batch *of, pycrew_crew *crew) : of_(of), crew_(crew)
        {
        }
        std::size_t index() const /* its place in the input, from 0 */
        {
            return pycrew_batch_index(of_);
        }
        bool failed() const
        {
            return pycrew_batch_error(of_) != nullptr;
        }
        T get() const /* throws what this item failed with; the others are not concerned */
        {
            const pycrew_error *failure = pycrew_batch_error(of_);

            if (failure != nullptr)
                throw error(*failure);
            if constexpr (detail::is_array<T>)
                return convert<T>::take(of_, crew_);
            else if constexpr (!std::is_void_v<T>)
                return convert<T>::get(pycrew_batch_value(of_));
        }

      private:
        pycrew_batch *of_;
        pycrew_crew *crew_;
    };

    using iterator = detail::input_iterator<batch>;

    batch(pycrew_batch *owned, pycrew_crew *of) noexcept : native_(owned), crew_(of)
    {
    }
    batch(batch &&from) noexcept : native_(std::exchange(from.native_, nullptr)), crew_(from.crew_)
    {
    }
    batch &operator=(batch &&from) noexcept
    {
        if (this != &from)
            pycrew_batch_close(std::exchange(native_, std::exchange(from.native_, nullptr)));
        crew_ = from.crew_;
        return *this;
    }
    ~batch()
    {
        pycrew_batch_close(native_);
    }

    /* false: the batch is full. The item is not in: take one out, and add it again. */
    template <typename... Arguments> bool add(const Arguments &...arguments)
    {
        pycrew_call *made;
        int rc = pycrew_batch_begin(native_, PYCREW_FOREVER, &made);

        if (rc == 0)
            rc = detail::add_items(made, arguments...);
        if (rc == 0)
            rc = pycrew_batch_commit(native_);
        return rc != -EAGAIN && detail::check(rc) == 0;
    }
    void finish() /* no more input */
    {
        detail::check(pycrew_batch_end(native_));
    }

    /* The next item; nothing: all that was added is out. Throws -ETIME. */
    std::optional<item> next(nanoseconds within = forever)
    {
        if (detail::check(pycrew_batch_next(native_, within.count())) == 0)
            return std::nullopt;
        return item(native_, crew_);
    }
    iterator begin()
    {
        return iterator(this);
    }
    iterator end()
    {
        return iterator();
    }

    pycrew_progress progress() const
    {
        pycrew_progress result{};

        result.size = sizeof result;
        detail::check(pycrew_batch_progress(native_, &result));
        return result;
    }
    void cancel() /* all items still come out */
    {
        detail::check(pycrew_batch_cancel(native_));
    }
    pycrew_batch *native() const noexcept
    {
        return native_;
    }

  private:
    friend iterator;

    bool advance()
    {
        return next().has_value();
    }
    item current() const
    {
        return item(native_, crew_);
    }

    pycrew_batch *native_;
    pycrew_crew *crew_;
};

} // namespace pycrew

#endif
