/* One iterator for all that is walked through once. */
#ifndef PYCREW_ITERATOR_HPP
#define PYCREW_ITERATOR_HPP

#include <cstddef>
#include <iterator>
#include <type_traits>
#include <utility>

namespace pycrew::detail
{

/* Of has advance(), whether there is a next one, and current(), that one: a reference, or something
 * made for it. */
template <typename Of> class input_iterator
{
  public:
    using iterator_category = std::input_iterator_tag;
    using reference = decltype(std::declval<Of &>().current());
    using value_type = std::remove_reference_t<reference>;
    using difference_type = std::ptrdiff_t;
    using pointer = value_type *;

    input_iterator() = default; /* the end */
    explicit input_iterator(Of *of) : of_(of)
    {
        ++*this;
    }

    reference operator*() const
    {
        return of_->current();
    }
    template <typename Found = reference, typename = std::enable_if_t<std::is_reference_v<Found>>>
    pointer operator->() const
    {
        return &of_->current();
    }
    input_iterator &operator++()
    {
        if (!of_->advance())
            of_ = nullptr;
        return *this;
    }
    void operator++(int)
    {
        ++*this;
    }
    friend bool operator==(const input_iterator &a, const input_iterator &b)
    {
        return a.of_ == b.of_;
    }
    friend bool operator!=(const input_iterator &a, const input_iterator &b)
    {
        return a.of_ != b.of_;
    }

  private:
    Of *of_ = nullptr;
};

} // namespace pycrew::detail

#endif
