/* A function over columns, by all workers together. */
#ifndef PYCREW_MAP_HPP
#define PYCREW_MAP_HPP

#include <array>
#include <cerrno>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "array.hpp"

namespace pycrew
{

/* How a map is to run: crew.map(f, pycrew::map_options().fill(0.0).failures(codes), output, input).
 */
class map_options
{
  public:
    map_options() = default;

    /* The function gets slices of the columns and returns one, or fills the one given by the
     * keyword `out`. */
    map_options &whole(bool with_out = false)
    {
        native_.flags |=
            static_cast<unsigned>(with_out ? PYCREW_MAP_WHOLE | PYCREW_MAP_OUT : PYCREW_MAP_WHOLE);
        return *this;
    }
    map_options &chunk(unsigned elements)
    {
        native_.chunk = elements;
        return *this;
    }
    map_options &timeout(nanoseconds within) /* of an element, or a slice */
    {
        native_.timeout_ns = within.count();
        return *this;
    }
    map_options &retries(unsigned count)
    {
        native_.retries = static_cast<int>(count);
        return *this;
    }
    /* What has failed gets this value, of the output's type, and the map goes on. */
    template <typename T> map_options &fill(const T &value)
    {
        static_assert(detail::find_dtype<T>() != PYCREW_OTHER, "of the output's type");
        native_.on_error = PYCREW_MAP_FILL;
        std::memcpy(fill_.data(), &value, sizeof value);
        fill_type_ = detail::find_dtype<T>();
        return *this;
    }
    /* Gets a code for each element, or row: 0, or why it failed. */
    map_options &failures(std::vector<int> &codes)
    {
        failures_ = &codes;
        return *this;
    }
    map_options &first_failed(std::uint64_t &element) /* set if one did */
    {
        native_.first_failed = &element;
        return *this;
    }
    /* In the thread that maps, about ten times a second; false ends the map with -ECANCELED, and
     * what it throws is thrown by the map. */
    map_options &progress(std::function<bool(const pycrew_progress &)> told)
    {
        progress_ = std::move(told);
        return *this;
    }

    /* Returns how many failed. */
    std::size_t run(pycrew_crew *crew, const pycrew_function *function, const pycrew_array *inputs,
                    unsigned count, pycrew_array &output) const
    {
        pycrew_map_options options = native_;
        telling teller{progress_, nullptr};

        if (native_.on_error == PYCREW_MAP_FILL) {
            if (output.dtype != fill_type_)
                detail::fail(-EINVAL, "the value to fill with is not of the output's type");
            options.fill = fill_.data();
        }
        if (failures_ != nullptr)
            options.failed = sized(*failures_, output);
        if (progress_) {
            options.progress = tell;
            options.progress_data = &teller;
        }
        const int rc = pycrew_map(crew, function, inputs, count, &output, &options);
        if (teller.thrown)
            std::rethrow_exception(teller.thrown);
        return static_cast<std::size_t>(detail::check(rc));
    }

  private:
    struct telling {
        const std::function<bool(const pycrew_progress &)> &told;
        std::exception_ptr thrown;
    };

    static int tell(void *data, const pycrew_progress *now)
    {
        telling *teller = static_cast<telling *>(data);

        try {
            return teller->told(*now) ? 0 : 1;
        } catch (...) {
            teller->thrown = std::current_exception();
            return 1;
        }
    }

    int *sized(std::vector<int> &codes, const pycrew_array &output) const
    {
        const bool rows = (native_.flags & PYCREW_MAP_WHOLE) != 0;
        std::size_t size = 1;

        for (int i = 0; i < output.ndim && !(rows && i > 0); i++)
            size *= static_cast<std::size_t>(output.shape[i]);
        codes.assign(size, 0);
        return codes.data();
    }

    pycrew_map_options native_ = PYCREW_MAP_OPTIONS_INIT;
    std::array<std::byte, sizeof(std::complex<double>)> fill_{};
    pycrew_dtype fill_type_ = PYCREW_OTHER;
    std::vector<int> *failures_ = nullptr;
    std::function<bool(const pycrew_progress &)> progress_;
};

namespace detail
{

template <typename T, typename = void> inline constexpr bool has_view = false;
template <typename T>
inline constexpr bool
    has_view<T, std::void_t<decltype(std::declval<const T &>().view().native())>> = true;

/* An array of any kind, a vector, a std::array, a span, ...; or a number, the same for all
 * elements. */
template <typename T> pycrew_array column_of(const T &from)
{
    if constexpr (std::is_same_v<T, pycrew_array>) {
        return from;
    } else if constexpr (is_array_view<T>) {
        return from.native();
    } else if constexpr (has_view<T>) {
        return from.view().native();
    } else if constexpr (find_dtype<T>() != PYCREW_OTHER) {
        pycrew_array single = PYCREW_ARRAY_INIT;

        check(pycrew_array_init(&single, &from, find_dtype<T>(), 0, nullptr, 0));
        return single;
    } else {
        return array_view(from).native();
    }
}

template <typename T> auto data_of(T &of)
{
    if constexpr (!is_array_view<T> && has_view<T>)
        return of.view().data();
    else
        return of.data();
}

template <typename T> pycrew_array output_of(T &to)
{
    if constexpr (std::is_same_v<std::remove_const_t<T>, pycrew_array>) {
        return to;
    } else {
        using element = std::remove_pointer_t<decltype(data_of(to))>;

        static_assert(!std::is_const_v<element>, "const elements are not to be written");
        if constexpr (is_array_view<T>)
            return to.native();
        else if constexpr (has_view<T>)
            return to.view().native();
        else
            return array_view(to).native();
    }
}

template <typename... Inputs>
std::size_t map(pycrew_crew *crew, const pycrew_function *function, const map_options &with,
                pycrew_array output, const Inputs &...inputs)
{
    const std::array<pycrew_array, sizeof...(Inputs)> columns{{column_of(inputs)...}};

    static_assert(sizeof...(Inputs) <= 32, "a map has up to 32 inputs");
    return with.run(crew, function, columns.data(), static_cast<unsigned>(columns.size()), output);
}

} // namespace detail

} // namespace pycrew

#endif
