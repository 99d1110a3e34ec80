/* pycrew.hpp: pycrew.h for C++17. Header only; link libpycrew.
 *
 *     pycrew::crew crew;
 *     int sum = crew.run<int>("math_ops:add", 3, 5);
 *     std::future<int> later = crew.async<int>("math_ops:add", 3, 5);
 *     for (int x : crew.stream<int>("math_ops:primes", 10))
 *         std::cout << x << "\n";
 *
 * Errors    What fails throws pycrew::error. What has failed is destroyed as anything else.
 * Types     bool, ints to 64 bits, float, double, std::string, std::string_view, text in quotes, std::optional
 *           (None), std::vector and std::array (list), std::tuple and std::pair (tuple), std::map and
 *           std::unordered_map (dict), std::vector<std::byte> (bytes), nested as one likes, and alone array
 *           (numpy.ndarray). Specialise pycrew::convert for others. A result may be a list or a tuple, whichever of
 *           them is asked for; an int that does not fit is -ERANGE. As arguments nullptr, std::nullopt and a null
 *           pointer to text are None.
 * Views     std::string_view, bytes_view, array_view of const and value point into a result: they can be got of a
 *           call, valid until it is destroyed, and of a stream or batch, until its next item. run and async do not
 *           give them.
 * Lifetime  All that was made by a crew is to be gone before it is, as locals declared behind it are; futures may
 *           stay, without arrays in them. No destructor waits for Python longer than the crew's grace.
 * Threads   As in pycrew.h: everything of a crew at the same time, one call, stream, batch or queue in one thread
 *           at a time.
 * Time      std::chrono durations; pycrew::forever.
 *
 * Not here: actors, maps, exported functions, statistics, pycrew_run_each, and coroutines of C++20. native() gives
 * what pycrew.h's functions take.
 */
#ifndef PYCREW_HPP
#define PYCREW_HPP

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <complex>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <future>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include <unistd.h>

#include "pycrew.h"

namespace pycrew
{

using nanoseconds = std::chrono::nanoseconds;

inline constexpr nanoseconds forever{PYCREW_FOREVER};

/* ---- errors ---------------------------------------------------------------------------------- */

/* What pycrew_error has, kept for as long as the exception. Copies share it. */
class error : public std::exception
{
  public:
    explicit error(const pycrew_error &from) : what_(std::make_shared<const contents>(from))
    {
    }

    /* Of an error that this thread's last pycrew function returned; of the code alone if there is
     * none. */
    static error last(int code)
    {
        const pycrew_error *found = pycrew_last_error();

        return found->code == code ? error(*found) : of_code(code, pycrew_strerror(code));
    }

    static error of_code(int code, const char *message)
    {
        pycrew_error from{};

        from.size = sizeof from;
        from.code = code;
        from.message = message;
        return error(from);
    }

    int code() const noexcept /* a negated errno, or one of PYCREW_CODES */
    {
        return what_->code;
    }
    const std::string &
    type() const noexcept /* the exception's, "ValueError"; empty: there was none */
    {
        return what_->type;
    }
    const std::string &message() const noexcept
    {
        return what_->message;
    }
    const std::string &traceback() const noexcept /* empty: there is none */
    {
        return what_->traceback;
    }
    const std::string &function() const noexcept /* empty: no submitted call was involved */
    {
        return what_->function;
    }
    int signal() const noexcept /* of the worker, where it died by one, else 0 */
    {
        return what_->signal;
    }
    int exit_status() const noexcept
    {
        return what_->exit_status;
    }
    bool may_have_run() const noexcept
    {
        return what_->may_have_run;
    }
    bool out_of_memory() const noexcept
    {
        return what_->out_of_memory;
    }
    unsigned attempts() const noexcept
    {
        return what_->attempts;
    }
    const char *what() const noexcept override /* "ValueError: message" */
    {
        return what_->text.c_str();
    }

  private:
    struct contents {
        explicit contents(const pycrew_error &from)
            : code(from.code), signal(from.signal), exit_status(from.exit_status),
              attempts(from.attempts), may_have_run(from.may_have_run),
              out_of_memory(from.out_of_memory), type(text_or_empty(from.type)),
              message(text_or_empty(from.message)), traceback(text_or_empty(from.traceback)),
              function(text_or_empty(from.function)),
              text(type.empty() ? message : type + ": " + message)
        {
        }

        static const char *text_or_empty(const char *from)
        {
            return from != nullptr ? from : "";
        }

        int code, signal, exit_status;
        unsigned attempts;
        bool may_have_run, out_of_memory;
        std::string type, message, traceback, function, text;
    };

    std::shared_ptr<const contents> what_; /* shared, since copying an exception must not throw */
};

namespace detail
{

[[noreturn]] inline void fail(int code)
{
    throw error::last(code);
}

[[noreturn]] inline void fail(int code, const char *message)
{
    throw error::of_code(code, message);
}

inline int check(int code)
{
    if (code < 0)
        fail(code);
    return code;
}

} // namespace detail

/* ---- values ---------------------------------------------------------------------------------- */

using bytes = std::vector<std::byte>;

/* Bytes that are somebody else's. */
class bytes_view
{
  public:
    bytes_view() = default;
    bytes_view(const void *data, std::size_t size)
        : data_(static_cast<const std::byte *>(data)), size_(size)
    {
    }
    bytes_view(const bytes &from) : data_(from.data()), size_(from.size())
    {
    }

    const std::byte *data() const
    {
        return data_;
    }
    std::size_t size() const
    {
        return size_;
    }
    bool empty() const
    {
        return size_ == 0;
    }
    const std::byte *begin() const
    {
        return data_;
    }
    const std::byte *end() const
    {
        return size_ != 0 ? data_ + size_ : data_;
    }

  private:
    const std::byte *data_ = nullptr;
    std::size_t size_ = 0;
};

/* How a type is written as an argument and read from a result. Specialise it for types of your own:
 *     static int add(pycrew_call *call, const T &value);    by pycrew_add_..., or other converts'
 * add static T get(pycrew_value value);                     throws pycrew::error static constexpr
 * bool borrows = true;                 where get's result points into the call's One of them is
 * enough, if the type is only an argument or only a result. */
template <typename T, typename = void> struct convert;

namespace detail
{

template <typename T, typename = void> struct borrows : std::false_type {
};
template <typename T> struct borrows<T, std::enable_if_t<convert<T>::borrows>> : std::true_type {
};

template <typename T> int add(pycrew_call *call, const T &value)
{
    return convert<T>::add(call, value);
}

/* The items of a list or tuple; how many is checked where it matters. */
inline pycrew_value first_of_sequence(pycrew_value value)
{
    const int type = pycrew_value_type(value);

    if (type != PYCREW_TYPE_LIST && type != PYCREW_TYPE_TUPLE)
        fail(PYCREW_ETYPE, "the value is not a list or tuple");
    return pycrew_value_item(value, 0);
}

inline pycrew_value first_of_sequence(pycrew_value value, std::size_t size)
{
    const pycrew_value first = first_of_sequence(value);

    if (pycrew_value_count(value) != size)
        fail(PYCREW_ETYPE, "the value is a list or tuple of another length");
    return first;
}

/* Reads the value at this place, and moves on. */
template <typename T> T take(pycrew_value &at)
{
    const pycrew_value here = at;

    at = pycrew_value_next(at);
    return convert<T>::get(here);
}

inline int add_items(pycrew_call *)
{
    return 0;
}

template <typename First, typename... Rest>
int add_items(pycrew_call *call, const First &first, const Rest &...rest)
{
    const int rc = add(call, first);

    return rc < 0 ? rc : add_items(call, rest...);
}

template <typename Range> int add_list(pycrew_call *call, const Range &range)
{
    using item_type = typename Range::value_type;
    int rc = pycrew_add_open(call, PYCREW_LIST);

    for (auto at = range.begin(); rc == 0 && at != range.end(); ++at)
        rc = convert<item_type>::add(call, *at);
    return rc < 0 ? rc : pycrew_add_close(call);
}

template <typename Tuple> int add_tuple(pycrew_call *call, const Tuple &tuple)
{
    int rc = pycrew_add_open(call, PYCREW_TUPLE);

    if (rc == 0)
        rc = std::apply([call](const auto &...items) { return add_items(call, items...); }, tuple);
    return rc < 0 ? rc : pycrew_add_close(call);
}

template <typename Map> struct convert_map {
    using key_type = typename Map::key_type;
    using mapped_type = typename Map::mapped_type;

    static constexpr bool borrows =
        detail::borrows<key_type>::value || detail::borrows<mapped_type>::value;

    static int add(pycrew_call *call, const Map &map)
    {
        int rc = pycrew_add_open(call, PYCREW_DICT);

        for (auto at = map.begin(); rc == 0 && at != map.end(); ++at)
            rc = add_items(call, at->first, at->second);
        return rc < 0 ? rc : pycrew_add_close(call);
    }

    static Map get(pycrew_value value)
    {
        Map map;
        std::size_t left = pycrew_value_count(value);
        pycrew_value at = pycrew_value_item(value, 0);

        if (pycrew_value_type(value) != PYCREW_TYPE_DICT)
            fail(PYCREW_ETYPE, "the value is not a dict");
        for (; left > 0; left--) {
            key_type key = take<key_type>(at);

            map.insert_or_assign(std::move(key), take<mapped_type>(at));
        }
        return map;
    }
};

template <typename T>
inline constexpr bool is_character =
    std::is_same_v<T, char> || std::is_same_v<T, wchar_t> || std::is_same_v<T, char16_t> ||
#ifdef __cpp_char8_t
    std::is_same_v<T, char8_t> ||
#endif
    std::is_same_v<T, char32_t>;

template <typename T> constexpr bool find_is_int()
{
    if constexpr (std::is_integral_v<T>)
        return !std::is_same_v<T, bool> && !is_character<T> && sizeof(T) <= sizeof(std::int64_t);
    else
        return false;
}

template <typename T> inline constexpr bool is_int = find_is_int<T>();

} // namespace detail

template <> struct convert<bool> {
    static int add(pycrew_call *call, bool value)
    {
        return pycrew_add_bool(call, value);
    }
    static bool get(pycrew_value value)
    {
        bool result;

        detail::check(pycrew_value_bool(value, &result));
        return result;
    }
};

template <typename T>
struct convert<T, std::enable_if_t<detail::is_int<T> && std::is_signed_v<T>>> {
    static int add(pycrew_call *call, T value)
    {
        return pycrew_add_i64(call, value);
    }
    static T get(pycrew_value value)
    {
        std::int64_t result;

        detail::check(pycrew_value_i64(value, &result));
        if (static_cast<T>(result) != result)
            detail::fail(-ERANGE, "the int is out of the range of the type asked for");
        return static_cast<T>(result);
    }
};

template <typename T>
struct convert<T, std::enable_if_t<detail::is_int<T> && std::is_unsigned_v<T>>> {
    static int add(pycrew_call *call, T value)
    {
        return pycrew_add_u64(call, value);
    }
    static T get(pycrew_value value)
    {
        std::uint64_t result;

        detail::check(pycrew_value_u64(value, &result));
        if (static_cast<T>(result) != result)
            detail::fail(-ERANGE, "the int is out of the range of the type asked for");
        return static_cast<T>(result);
    }
};

template <> struct convert<double> {
    static int add(pycrew_call *call, double value)
    {
        return pycrew_add_f64(call, value);
    }
    static double get(pycrew_value value)
    {
        double result;

        detail::check(pycrew_value_f64(value, &result));
        return result;
    }
};

template <> struct convert<float> {
    static int add(pycrew_call *call, float value)
    {
        return pycrew_add_f64(call, static_cast<double>(value));
    }
    static float get(pycrew_value value)
    {
        return static_cast<float>(convert<double>::get(value));
    }
};

template <> struct convert<std::string_view> {
    static constexpr bool borrows = true;

    static int add(pycrew_call *call, std::string_view value)
    {
        return pycrew_add_str(call, value.data() != nullptr ? value.data() : "", value.size());
    }
    static std::string_view get(pycrew_value value)
    {
        const char *text;
        std::size_t size;

        detail::check(pycrew_value_str(value, &text, &size));
        return {text, size};
    }
};

template <> struct convert<std::string> {
    static int add(pycrew_call *call, const std::string &value)
    {
        return pycrew_add_str(call, value.data(), value.size());
    }
    static std::string get(pycrew_value value)
    {
        return std::string(convert<std::string_view>::get(value));
    }
};

template <> struct convert<const char *> {
    static int add(pycrew_call *call, const char *value)
    {
        return value == nullptr ? pycrew_add_none(call)
                                : pycrew_add_str(call, value, std::strlen(value));
    }
};
template <> struct convert<char *> : convert<const char *> {
};
template <std::size_t N> struct convert<char[N]> : convert<const char *> {
};

template <> struct convert<std::nullptr_t> {
    static int add(pycrew_call *call, std::nullptr_t)
    {
        return pycrew_add_none(call);
    }
};
template <> struct convert<std::nullopt_t> {
    static int add(pycrew_call *call, std::nullopt_t)
    {
        return pycrew_add_none(call);
    }
};

template <> struct convert<bytes_view> {
    static constexpr bool borrows = true;

    static int add(pycrew_call *call, bytes_view value)
    {
        return pycrew_add_bytes(
            call, value.size() != 0 ? static_cast<const void *>(value.data()) : "", value.size());
    }
    static bytes_view get(pycrew_value value)
    {
        const void *data;
        std::size_t size;

        detail::check(pycrew_value_bytes(value, &data, &size));
        return {data, size};
    }
};

template <> struct convert<bytes> {
    static int add(pycrew_call *call, const bytes &value)
    {
        return convert<bytes_view>::add(call, value);
    }
    static bytes get(pycrew_value value)
    {
        const bytes_view view = convert<bytes_view>::get(value);

        return bytes(view.begin(), view.end());
    }
};

template <typename T> struct convert<std::optional<T>> {
    static constexpr bool borrows = detail::borrows<T>::value;

    static int add(pycrew_call *call, const std::optional<T> &value)
    {
        return value ? convert<T>::add(call, *value) : pycrew_add_none(call);
    }
    static std::optional<T> get(pycrew_value value)
    {
        if (pycrew_value_type(value) == PYCREW_TYPE_NONE)
            return std::nullopt;
        return convert<T>::get(value);
    }
};

template <typename T> struct convert<std::vector<T>> {
    static constexpr bool borrows = detail::borrows<T>::value;

    static int add(pycrew_call *call, const std::vector<T> &value)
    {
        return detail::add_list(call, value);
    }
    static std::vector<T> get(pycrew_value value)
    {
        std::vector<T> result;
        pycrew_value at = detail::first_of_sequence(value);
        std::size_t left = pycrew_value_count(value);

        result.reserve(left);
        for (; left > 0; left--)
            result.push_back(detail::take<T>(at));
        return result;
    }
};

template <typename T, std::size_t N> struct convert<std::array<T, N>> {
    static constexpr bool borrows = detail::borrows<T>::value;

    static int add(pycrew_call *call, const std::array<T, N> &value)
    {
        return detail::add_list(call, value);
    }
    static std::array<T, N> get(pycrew_value value)
    {
        std::array<T, N> result{};
        pycrew_value at = detail::first_of_sequence(value, N);

        for (T &item : result)
            item = detail::take<T>(at);
        return result;
    }
};

template <typename... T> struct convert<std::tuple<T...>> {
    static constexpr bool borrows = (detail::borrows<T>::value || ...);

    static int add(pycrew_call *call, const std::tuple<T...> &value)
    {
        return detail::add_tuple(call, value);
    }
    static std::tuple<T...> get(pycrew_value value)
    {
        [[maybe_unused]] pycrew_value at = detail::first_of_sequence(value, sizeof...(T));

        return std::tuple<T...>{detail::take<T>(at)...}; /* braces: from left to right */
    }
};

template <typename A, typename B> struct convert<std::pair<A, B>> {
    static constexpr bool borrows = detail::borrows<A>::value || detail::borrows<B>::value;

    static int add(pycrew_call *call, const std::pair<A, B> &value)
    {
        return detail::add_tuple(call, value);
    }
    static std::pair<A, B> get(pycrew_value value)
    {
        pycrew_value at = detail::first_of_sequence(value, 2);

        return std::pair<A, B>{detail::take<A>(at), detail::take<B>(at)};
    }
};

template <typename K, typename T, typename... Rest>
struct convert<std::map<K, T, Rest...>> : detail::convert_map<std::map<K, T, Rest...>> {
};
template <typename K, typename T, typename... Rest>
struct convert<std::unordered_map<K, T, Rest...>>
    : detail::convert_map<std::unordered_map<K, T, Rest...>> {
};

/* A place in a result whose type is not known beforehand. */
class value
{
  public:
    explicit value(pycrew_value at) : at_(at)
    {
    }

    int type() const /* PYCREW_TYPE_..., INVALID: there is no such item */
    {
        return pycrew_value_type(at_);
    }
    std::size_t size() const /* items; a dict's pairs */
    {
        return pycrew_value_count(at_);
    }
    value item(std::size_t index) const /* of a dict: 2i is the i-th key, 2i+1 its value */
    {
        return value(pycrew_value_item(at_, index));
    }
    value next() const /* the item behind this one */
    {
        return value(pycrew_value_next(at_));
    }
    value get(const char *key) const /* of a dict */
    {
        return value(pycrew_value_get(at_, key));
    }
    template <typename T> T as() const
    {
        return convert<T>::get(at_);
    }
    pycrew_value native() const
    {
        return at_;
    }

  private:
    pycrew_value at_;
};

template <> struct convert<value> {
    static constexpr bool borrows = true;

    static value get(pycrew_value at)
    {
        return value(at);
    }
};

/* ---- arrays ---------------------------------------------------------------------------------- */

namespace detail
{

template <typename T> constexpr pycrew_dtype dtype_of_int()
{
    constexpr bool is_signed = std::is_signed_v<T>;

    switch (sizeof(T)) {
    case 1:
        return is_signed ? PYCREW_I8 : PYCREW_U8;
    case 2:
        return is_signed ? PYCREW_I16 : PYCREW_U16;
    case 4:
        return is_signed ? PYCREW_I32 : PYCREW_U32;
    default:
        return is_signed ? PYCREW_I64 : PYCREW_U64;
    }
}

template <typename T> constexpr pycrew_dtype find_dtype()
{
    if constexpr (std::is_same_v<T, bool>)
        return PYCREW_BOOL;
    else if constexpr (is_int<T>)
        return dtype_of_int<T>();
    else if constexpr (std::is_same_v<T, float>)
        return PYCREW_F32;
    else if constexpr (std::is_same_v<T, double>)
        return PYCREW_F64;
    else if constexpr (std::is_same_v<T, std::complex<float>>)
        return PYCREW_C64;
    else if constexpr (std::is_same_v<T, std::complex<double>>)
        return PYCREW_C128;
    else
        return PYCREW_OTHER;
}

} // namespace detail

template <typename T> class array_view;

namespace detail
{

template <typename T> inline constexpr bool is_array_view = false;
template <typename T> inline constexpr bool is_array_view<array_view<T>> = true;
template <typename T> inline constexpr bool is_array_view<const array_view<T>> = true;

} // namespace detail

/* Elements that are somebody else's: the host's memory, an array's, or a result's. T: bool, an int, float, double
 * or std::complex of these, const where they are not to be written. As an argument it is read-only for the
 * function, and copied unless it is the crew's memory; see writable. */
template <typename T> class array_view
{
    static constexpr pycrew_dtype dtype = detail::find_dtype<std::remove_const_t<T>>();
    static_assert(dtype != PYCREW_OTHER, "arrays are of bool, ints, floats and complex numbers");

  public:
    using value_type = std::remove_const_t<T>;

    array_view() : array_view(nullptr, {0})
    {
    }
    /* The last index runs fastest. */
    array_view(T *data, std::initializer_list<std::int64_t> shape)
        : array_view(data, shape.begin(), shape.size())
    {
    }
    array_view(T *data, const std::vector<std::int64_t> &shape)
        : array_view(data, shape.data(), shape.size())
    {
    }
    /* All of a vector, a std::array, ... */
    template <typename Range,
              typename = std::enable_if_t<
                  !detail::is_array_view<Range> &&
                  std::is_convertible_v<decltype(std::declval<Range &>().data()), T *>>>
    explicit array_view(Range &range)
        : array_view(range.data(), {static_cast<std::int64_t>(range.size())})
    {
    }
    /* What the library described: of this type, or PYCREW_ETYPE. */
    explicit array_view(const pycrew_array &from) : native_(from)
    {
        if (from.dtype != dtype)
            detail::fail(PYCREW_ETYPE, "the array is of another type");
    }

    T *data() const
    {
        return static_cast<T *>(native_.data);
    }
    std::size_t dimensions() const
    {
        return static_cast<std::size_t>(native_.ndim);
    }
    std::size_t shape(std::size_t dimension) const
    {
        return static_cast<std::size_t>(native_.shape[dimension]);
    }
    std::int64_t stride(std::size_t dimension) const /* in bytes */
    {
        return native_.strides[dimension];
    }
    std::size_t size() const /* elements */
    {
        std::size_t count = 1;

        for (std::size_t i = 0; i < dimensions(); i++)
            count *= shape(i);
        return count;
    }
    bool contiguous() const /* no gaps, and the last index runs fastest */
    {
        std::int64_t expected = static_cast<std::int64_t>(sizeof(T));

        for (std::size_t i = dimensions(); i-- > 0; expected *= native_.shape[i])
            if (native_.shape[i] > 1 && native_.strides[i] != expected)
                return size() == 0;
        return true;
    }

    /* One element: an index for each dimension. */
    template <typename... Index> T &operator()(Index... index) const
    {
        const std::array<std::int64_t, sizeof...(Index)> at{{static_cast<std::int64_t>(index)...}};
        std::int64_t offset = 0;

        for (std::size_t i = 0; i < at.size(); i++)
            offset += at[i] * native_.strides[i];
        return *reinterpret_cast<T *>(reinterpret_cast<std::intptr_t>(native_.data) + offset);
    }

    /* All elements of a contiguous array; -EINVAL of another. */
    T *begin() const
    {
        if (!contiguous())
            detail::fail(-EINVAL, "the array has strides: take its elements by their indices");
        return data();
    }
    T *end() const
    {
        return size() != 0 ? begin() + size() : begin();
    }

    const pycrew_array &native() const
    {
        return native_;
    }

  private:
    array_view(T *data, const std::int64_t *shape, std::size_t dimensions)
    {
        detail::check(
            pycrew_array_init(&native_, data, dtype, static_cast<int>(dimensions), shape, 0));
    }

    pycrew_array native_ = PYCREW_ARRAY_INIT;
};

template <typename Range>
array_view(Range &) -> array_view<std::remove_pointer_t<decltype(std::declval<Range &>().data())>>;

template <typename T> struct convert<array_view<T>> {
    static constexpr bool borrows = true;

    static int add(pycrew_call *call, const array_view<T> &value)
    {
        return pycrew_add_array(call, &value.native());
    }
    static array_view<T> get(pycrew_value value)
    {
        static_assert(std::is_const_v<T>, "a view of a result is of const elements");
        pycrew_array found = PYCREW_ARRAY_INIT;

        detail::check(pycrew_value_array(value, &found));
        return array_view<T>(found);
    }
};

/* An array that the function may write: in the crew's memory where it is, else copied back when the call is found
 * to have ended. The elements are to be there until then. */
template <typename T> struct writable_array {
    pycrew_array native;
};

template <typename T> writable_array<T> writable(const array_view<T> &view)
{
    static_assert(!std::is_const_v<T>, "const elements are not to be written");
    writable_array<T> result{view.native()};

    result.native.flags |= PYCREW_WRITABLE | PYCREW_COPY_BACK;
    return result;
}

template <typename T> struct convert<writable_array<T>> {
    static int add(pycrew_call *call, const writable_array<T> &value)
    {
        return pycrew_add_array(call, &value.native);
    }
};

/* A call's result that outlives the call, uncopied; to be gone before the crew is. Given to another call it is not
 * copied either. */
template <typename T> class array
{
  public:
    array(pycrew_crew *of, const pycrew_array &taken) : crew_(of), taken_(taken)
    {
    }
    array(array &&from) noexcept : crew_(std::exchange(from.crew_, nullptr)), taken_(from.taken_)
    {
    }
    array &operator=(array &&from) noexcept
    {
        std::swap(crew_, from.crew_);
        std::swap(taken_, from.taken_);
        return *this;
    }
    ~array()
    {
        if (crew_ != nullptr)
            pycrew_array_drop(crew_, &taken_);
    }

    array_view<T> view() const
    {
        return array_view<T>(taken_);
    }

  private:
    pycrew_crew *crew_;
    pycrew_array taken_;
};

template <typename T> struct convert<array<T>> {
    static int add(pycrew_call *call, const array<T> &value)
    {
        return pycrew_add_array(call, &value.view().native());
    }
    /* Of a call alone, not nested in its result. */
    static array<T> take(pycrew_call *call, pycrew_crew *crew)
    {
        pycrew_array taken = PYCREW_ARRAY_INIT;

        detail::check(pycrew_array_take(call, &taken));
        array<T> result(crew, taken);
        (void)result.view(); /* is it of this type? */
        return result;
    }
};

/* Memory that the workers see too, not zeroed: views of it travel without a copy. Freed with the buffer, or when
 * the last call that uses it has ended; to be gone before the crew is. */
template <typename T> class buffer
{
    static_assert(std::is_trivially_copyable_v<T>, "nobody constructs or destroys the elements");

  public:
    buffer(pycrew_crew *of, std::size_t size) : crew_(of), size_(size)
    {
        if (size > std::numeric_limits<std::size_t>::max() / sizeof(T))
            detail::fail(-E2BIG, "the elements are too many");
        data_ = static_cast<T *>(pycrew_alloc(of, size != 0 ? size * sizeof(T) : 1));
        if (data_ == nullptr)
            throw error(*pycrew_last_error());
    }
    buffer(buffer &&from) noexcept
        : crew_(from.crew_), data_(std::exchange(from.data_, nullptr)),
          size_(std::exchange(from.size_, 0))
    {
    }
    buffer &operator=(buffer &&from) noexcept
    {
        std::swap(crew_, from.crew_);
        std::swap(data_, from.data_);
        std::swap(size_, from.size_);
        return *this;
    }
    ~buffer()
    {
        if (data_ != nullptr)
            pycrew_free(crew_, data_);
    }

    T *data() const
    {
        return data_;
    }
    std::size_t size() const
    {
        return size_;
    }
    T &operator[](std::size_t index) const
    {
        return data_[index];
    }
    T *begin() const
    {
        return data_;
    }
    T *end() const
    {
        return data_ + size_;
    }
    array_view<T> view() const
    {
        return array_view<T>(data_, {static_cast<std::int64_t>(size_)});
    }

  private:
    pycrew_crew *crew_;
    T *data_ = nullptr;
    std::size_t size_;
};

namespace detail
{

template <typename T> inline constexpr bool is_array = false;
template <typename T> inline constexpr bool is_array<array<T>> = true;

} // namespace detail

/* ---- arguments by keyword -------------------------------------------------------------------- */

template <typename T> struct keyword_argument {
    const char *name;
    const T &given;
};

/* crew.run<int>("builtins:int", "ff", pycrew::keyword("base", 16)) */
template <typename T> keyword_argument<T> keyword(const char *name, const T &given)
{
    return {name, given};
}

template <typename T> struct convert<keyword_argument<T>> {
    static int add(pycrew_call *call, const keyword_argument<T> &argument)
    {
        const int rc = pycrew_add_name(call, argument.name);

        return rc < 0 ? rc : convert<T>::add(call, argument.given);
    }
};

/* ---- calls ----------------------------------------------------------------------------------- */

/* A function of a crew's: a handle, as long as the crew lives. */
class function
{
  public:
    explicit function(const pycrew_function *from) : native_(from)
    {
    }
    const pycrew_function *native() const
    {
        return native_;
    }

  private:
    const pycrew_function *native_;
};

/* One call, from prepare to release. Destroyed before its end it is cancelled, without a wait. */
class call
{
  public:
    call(pycrew_call *owned, pycrew_crew *of) noexcept : native_(owned), crew_(of)
    {
    }
    call(call &&from) noexcept : native_(std::exchange(from.native_, nullptr)), crew_(from.crew_)
    {
    }
    call &operator=(call &&from) noexcept
    {
        if (this != &from)
            pycrew_release(std::exchange(native_, std::exchange(from.native_, nullptr)));
        crew_ = from.crew_;
        return *this;
    }
    ~call()
    {
        pycrew_release(native_);
    }

    template <typename... T> call &add(const T &...arguments)
    {
        detail::check(detail::add_items(native_, arguments...));
        return *this;
    }
    call &timeout(nanoseconds within) /* its deadline, from submit */
    {
        detail::check(pycrew_set_timeout(native_, within.count()));
        return *this;
    }
    call &retries(unsigned count)
    {
        detail::check(pycrew_set_retries(native_, count));
        return *this;
    }
    call &queue(pycrew_queue *announced_in)
    {
        detail::check(pycrew_set_queue(native_, announced_in));
        return *this;
    }
    call &data(void *own) /* pycrew_data gives it back */
    {
        pycrew_set_data(native_, own);
        return *this;
    }
    call &submit()
    {
        detail::check(pycrew_submit(native_));
        return *this;
    }

    /* Until its end; throws what the call failed with. */
    call &wait()
    {
        detail::check(pycrew_wait(native_, PYCREW_FOREVER));
        return *this;
    }
    /* false: the time passed, and the call goes on. */
    bool wait_for(nanoseconds within)
    {
        const int rc = pycrew_wait(native_, within.count());

        return rc != -ETIME && detail::check(rc) == 0;
    }
    /* false: it has ended already. */
    bool cancel()
    {
        const int rc = pycrew_cancel(native_);

        return rc != -EALREADY && detail::check(rc) == 0;
    }

    /* Of a call that returned; throws what it failed with. */
    template <typename T = value> T result() const
    {
        const pycrew_value found = pycrew_result_value(native_);

        if (found.at == nullptr)
            fail_without_result();
        if constexpr (detail::is_array<T>)
            return convert<T>::take(native_, crew_);
        else if constexpr (!std::is_void_v<T>)
            return convert<T>::get(found);
    }

    pycrew_call *native() const noexcept
    {
        return native_;
    }
    pycrew_call *release() noexcept /* it is the caller's then */
    {
        return std::exchange(native_, nullptr);
    }

  private:
    [[noreturn]] void fail_without_result() const
    {
        const pycrew_error *failed = pycrew_call_error(native_);

        if (failed != nullptr)
            throw error(*failed);
        detail::fail(-EALREADY, "the call has not ended");
    }

    pycrew_call *native_;
    pycrew_crew *crew_;
};

/* ---- streams --------------------------------------------------------------------------------- */

/* The items of an iterator as they are made. Destroyed before its end the iterator is closed, in
 * its worker; that does not wait. T may be a view: of the item that was given last. */
template <typename T> class stream
{
  public:
    class iterator
    {
      public:
        using iterator_category = std::input_iterator_tag;
        using value_type = T;
        using difference_type = std::ptrdiff_t;
        using pointer = T *;
        using reference = T &;

        iterator() = default; /* the end */
        explicit iterator(stream *of) : of_(of)
        {
            ++*this;
        }

        reference operator*() const
        {
            return *of_->item_;
        }
        pointer operator->() const
        {
            return &*of_->item_;
        }
        iterator &operator++()
        {
            if (of_->next() == nullptr)
                of_ = nullptr;
            return *this;
        }
        void operator++(int)
        {
            ++*this;
        }
        friend bool operator==(const iterator &a, const iterator &b)
        {
            return a.of_ == b.of_;
        }
        friend bool operator!=(const iterator &a, const iterator &b)
        {
            return a.of_ != b.of_;
        }

      private:
        stream *of_ = nullptr;
    };

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
    call call_;
    std::optional<T> item_;
};

/* ---- batches --------------------------------------------------------------------------------- */

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
        explicit item(pycrew_batch *of) : of_(of)
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
            if constexpr (!std::is_void_v<T>)
                return convert<T>::get(pycrew_batch_value(of_));
        }

      private:
        pycrew_batch *of_;
    };

    class iterator
    {
      public:
        using iterator_category = std::input_iterator_tag;
        using value_type = item;
        using difference_type = std::ptrdiff_t;
        using pointer = const item *;
        using reference = item;

        iterator() = default; /* the end */
        explicit iterator(batch *of) : of_(of)
        {
            ++*this;
        }

        item operator*() const
        {
            return item(of_->native_);
        }
        iterator &operator++()
        {
            if (!of_->next())
                of_ = nullptr;
            return *this;
        }
        void operator++(int)
        {
            ++*this;
        }
        friend bool operator==(const iterator &a, const iterator &b)
        {
            return a.of_ == b.of_;
        }
        friend bool operator!=(const iterator &a, const iterator &b)
        {
            return a.of_ != b.of_;
        }

      private:
        batch *of_ = nullptr;
    };

    explicit batch(pycrew_batch *owned) noexcept : native_(owned)
    {
    }
    batch(batch &&from) noexcept : native_(std::exchange(from.native_, nullptr))
    {
    }
    batch &operator=(batch &&from) noexcept
    {
        if (this != &from)
            pycrew_batch_close(std::exchange(native_, std::exchange(from.native_, nullptr)));
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
        return item(native_);
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
    pycrew_batch *native_;
};

/* ---- queues: for event loops ----------------------------------------------------------------- */

/* Where calls that were given it are announced at their ends: call.queue(queue.native()). */
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
    /* A call that has ended, which stays who has its pycrew::call's; nullptr: the time passed, or a wake. */
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

/* ---- futures --------------------------------------------------------------------------------- */

namespace detail
{

/* The calls of crew::async: a thread that keeps the promises of those that have ended. */
class collector
{
  public:
    explicit collector(pycrew_crew *of) : crew_(of)
    {
    }
    collector(const collector &) = delete;
    collector &operator=(const collector &) = delete;
    ~collector()
    {
        if (!thread_.joinable())
            return;
        if (owner_ == getpid())
            stop();
        else /* a fork of the process that opened the crew: the thread is not here */
            thread_.detach();
    }

    template <typename T> std::future<T> submit(call &&prepared)
    {
        auto promise = std::make_unique<promised<T>>();
        std::future<T> future = promise->promise.get_future();
        pycrew_call *native = prepared.native();
        const std::lock_guard<std::mutex> lock(mutex_);

        start();
        prepared.queue(queue_->native());
        const auto waiting =
            waiting_.emplace(native, entry{std::move(prepared), std::move(promise)}).first;
        try {
            waiting->second.made.submit();
        } catch (...) {
            waiting_.erase(waiting);
            throw;
        }
        return future;
    }

  private:
    struct task {
        virtual ~task() = default;
        virtual void keep(const call &ended) = 0;
        virtual void break_with(const error &why) = 0;
    };

    template <typename T> struct promised : task {
        void keep(const call &ended) override
        {
            try {
                if constexpr (std::is_void_v<T>) {
                    ended.result<void>();
                    promise.set_value();
                } else {
                    promise.set_value(ended.result<T>());
                }
            } catch (...) {
                promise.set_exception(std::current_exception());
            }
        }
        void break_with(const error &why) override
        {
            promise.set_exception(std::make_exception_ptr(why));
        }

        std::promise<T> promise;
    };

    struct entry {
        call made;
        std::unique_ptr<task> promise;
    };

    /* At the first call. Signals are for the program's own threads. */
    void start()
    {
        sigset_t all, before;
        pycrew_queue *opened;

        if (thread_.joinable())
            return;
        if (!queue_) {
            check(pycrew_queue_open(crew_, &opened));
            queue_.emplace(opened);
        }
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            thread_ = std::thread([this] { collect(); });
        } catch (...) {
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
            throw;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        owner_ = getpid();
    }

    /* Those that have not ended are cancelled when they are destroyed. */
    void stop()
    {
        stopping_ = true;
        pycrew_queue_wake(queue_->native());
        thread_.join();
        for (auto &waiting : waiting_)
            waiting.second.promise->break_with(
                error::of_code(-ECANCELED, "the crew was closed before the call's end"));
    }

    void collect()
    {
        pycrew_call *ended[64];
        bool last;
        int count;

        do { /* once more after the wake, for those that have ended by then */
            last = stopping_;
            count = pycrew_queue_reap(queue_->native(), ended, 64, last ? 0 : PYCREW_FOREVER);
            for (int i = 0; i < count; i++)
                keep_promise(ended[i]);
        } while (count >= 0 && (count > 0 || !last));
    }

    void keep_promise(pycrew_call *ended)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        const auto waiting = waiting_.extract(ended);

        lock.unlock();
        if (!waiting.empty())
            waiting.mapped().promise->keep(waiting.mapped().made);
    }

    pycrew_crew *crew_;
    std::optional<queue> queue_; /* before the calls, which are gone first */
    std::mutex mutex_;
    std::unordered_map<pycrew_call *, entry> waiting_;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
    pid_t owner_ = 0;
};

} // namespace detail

/* ---- the crew -------------------------------------------------------------------------------- */

/* pycrew_options, begun. What its pointers point to is to live until the crew is open. */
struct options : pycrew_options {
    options() : pycrew_options PYCREW_OPTIONS_INIT
    {
    }
};

class crew
{
  public:
    crew() : crew(options())
    {
    }
    explicit crew(const pycrew_options &with)
    {
        detail::check(pycrew_open(&native_, &with));
        collector_ = std::make_unique<detail::collector>(native_);
    }
    crew(crew &&from) noexcept
        : native_(std::exchange(from.native_, nullptr)), collector_(std::move(from.collector_))
    {
    }
    crew &operator=(crew &&from) noexcept
    {
        if (this != &from) {
            close();
            native_ = std::exchange(from.native_, nullptr);
            collector_ = std::move(from.collector_);
        }
        return *this;
    }
    ~crew()
    {
        close();
    }

    /* Interrupts what runs, and after the grace kills it. No other thread is to be inside. */
    void close() noexcept
    {
        collector_.reset();
        pycrew_close(std::exchange(native_, nullptr));
    }
    /* No new calls from here on; until none is in flight. false: the time passed. */
    bool drain(nanoseconds within = forever)
    {
        return within_time(pycrew_drain(native_, within.count()));
    }
    /* Workers with fresh imports, without a lost call. false: the time passed. */
    bool reload(nanoseconds within = forever)
    {
        return within_time(pycrew_reload(native_, within.count()));
    }

    pycrew::function get(const char *name) const
    {
        const pycrew_function *found;

        detail::check(pycrew_function_get(native_, name, &found));
        return pycrew::function(found);
    }
    pycrew::function source(const char *name, const char *text) const
    {
        const pycrew_function *made;

        detail::check(pycrew_function_source(native_, name, text, &made));
        return pycrew::function(made);
    }

    /* A call to be filled. Waits for one to be free; throws -ETIME. */
    pycrew::call prepare(pycrew::function of, nanoseconds within = forever) const
    {
        pycrew_call *made;

        detail::check(pycrew_prepare(native_, of.native(), within.count(), &made));
        return pycrew::call(made, native_);
    }
    pycrew::call prepare(const char *name, nanoseconds within = forever) const
    {
        return prepare(get(name), within);
    }
    pycrew::call prepare(const std::string &name, nanoseconds within = forever) const
    {
        return prepare(get(name.c_str()), within);
    }

    /* One call, start to finish. Of: a function, or its name. */
    template <typename T = void, typename Of, typename... Arguments>
    T run(const Of &of, const Arguments &...arguments) const
    {
        static_assert(!detail::borrows<T>::value,
                      "a view of a result that is gone: prepare the call");
        pycrew::call made = prepare(of);

        made.add(arguments...).submit().wait();
        if constexpr (!std::is_void_v<T>)
            return made.result<T>();
    }

    /* The same without waiting for its end; the future throws what it failed with. Its promise is kept by a thread
     * of the wrapper's own. */
    template <typename T = void, typename Of, typename... Arguments>
    std::future<T> async(const Of &of, const Arguments &...arguments) const
    {
        static_assert(!detail::borrows<T>::value,
                      "a view of a result that is gone: prepare the call");
        pycrew::call made = prepare(of);

        made.add(arguments...);
        return collector_->submit<T>(std::move(made));
    }

    /* The items of a generator, or of any function that returns an iterator. */
    template <typename T, typename Of, typename... Arguments>
    pycrew::stream<T> stream(const Of &of, const Arguments &...arguments) const
    {
        pycrew::call made = prepare(of);

        made.add(arguments...);
        return pycrew::stream<T>(std::move(made));
    }

    template <typename T>
    pycrew::batch<T> batch(pycrew::function of,
                           const pycrew_batch_options &with = batch_options()) const
    {
        pycrew_batch *opened;

        detail::check(pycrew_batch_open(native_, of.native(), &with, &opened));
        return pycrew::batch<T>(opened);
    }
    template <typename T>
    pycrew::batch<T> batch(const char *name,
                           const pycrew_batch_options &with = batch_options()) const
    {
        return batch<T>(get(name), with);
    }

    template <typename T> pycrew::buffer<T> alloc(std::size_t size) const
    {
        return pycrew::buffer<T>(native_, size);
    }

    pycrew::queue queue() const
    {
        pycrew_queue *opened;

        detail::check(pycrew_queue_open(native_, &opened));
        return pycrew::queue(opened);
    }

    pycrew_crew *native() const noexcept
    {
        return native_;
    }

  private:
    static bool within_time(int rc)
    {
        return rc != -ETIME && detail::check(rc) == 0;
    }

    pycrew_crew *native_ = nullptr;
    std::unique_ptr<detail::collector> collector_;
};

} // namespace pycrew

#endif
