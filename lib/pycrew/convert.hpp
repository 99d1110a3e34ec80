/* How values of C++ types become arguments and answers, and are read from results. */
#ifndef PYCREW_CONVERT_HPP
#define PYCREW_CONVERT_HPP

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "error.hpp"

namespace pycrew
{

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

/* How a type is written as an argument and read from a result. Specialise it for types of your own,
 * by other converts': template <typename To> static int add(To *to, const T &value)
 *     {
 *         return convert<std::pair<int, int>>::add(to, {value.x, value.y});
 *     }
 *     static T get(pycrew_value value);                   throws pycrew::error
 *     static constexpr bool borrows = true;               where get's result points into the call's
 * To is pycrew_call, or pycrew_host_call for what an exported function returns. One of add and get
 * is enough for what goes one way only. */
template <typename T, typename = void> struct convert;

namespace detail
{

/* One value: an argument of a call, or what a function of the host's answers. */
inline int put_none(pycrew_call *to)
{
    return pycrew_add_none(to);
}
inline int put_none(pycrew_host_call *to)
{
    return pycrew_host_return(to, "z", static_cast<const char *>(nullptr));
}
inline int put_bool(pycrew_call *to, bool value)
{
    return pycrew_add_bool(to, value);
}
inline int put_bool(pycrew_host_call *to, bool value)
{
    return pycrew_host_return(to, "p", static_cast<int>(value));
}
inline int put_i64(pycrew_call *to, std::int64_t value)
{
    return pycrew_add_i64(to, value);
}
inline int put_i64(pycrew_host_call *to, std::int64_t value)
{
    return pycrew_host_return(to, "L", static_cast<long long>(value));
}
inline int put_u64(pycrew_call *to, std::uint64_t value)
{
    return pycrew_add_u64(to, value);
}
inline int put_u64(pycrew_host_call *to, std::uint64_t value)
{
    return pycrew_host_return(to, "K", static_cast<unsigned long long>(value));
}
inline int put_f64(pycrew_call *to, double value)
{
    return pycrew_add_f64(to, value);
}
inline int put_f64(pycrew_host_call *to, double value)
{
    return pycrew_host_return(to, "d", value);
}
inline int put_str(pycrew_call *to, const char *text, std::size_t size)
{
    return pycrew_add_str(to, text, size);
}
inline int put_str(pycrew_host_call *to, const char *text, std::size_t size)
{
    return pycrew_host_return(to, "s#", text, size);
}
inline int put_bytes(pycrew_call *to, const void *data, std::size_t size)
{
    return pycrew_add_bytes(to, data, size);
}
inline int put_bytes(pycrew_host_call *to, const void *data, std::size_t size)
{
    return pycrew_host_return(to, "y#", data, size);
}
inline int put_json(pycrew_call *to, const char *text, std::size_t size)
{
    return pycrew_add_json(to, text, size);
}
inline int put_json(pycrew_host_call *to, const char *text, std::size_t size)
{
    return pycrew_host_return(to, "j#", text, size);
}
inline int put_pickle(pycrew_call *to, const void *data, std::size_t size)
{
    return pycrew_add_object(to, data, size);
}
inline int put_pickle(pycrew_host_call *to, const void *data, std::size_t size)
{
    return pycrew_host_return(to, "O", data, size);
}
inline int put_open(pycrew_call *to, int kind)
{
    return pycrew_add_open(to, kind);
}
inline int put_open(pycrew_host_call *to, int kind)
{
    return pycrew_host_open(to, kind);
}
inline int put_close(pycrew_call *to)
{
    return pycrew_add_close(to);
}
inline int put_close(pycrew_host_call *to)
{
    return pycrew_host_close(to);
}

template <typename T, typename = void> struct borrows : std::false_type {
};
template <typename T> struct borrows<T, std::enable_if_t<convert<T>::borrows>> : std::true_type {
};

template <typename T, typename To> int add(To *to, const T &value)
{
    return convert<T>::add(to, value);
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

/* Each of them, up to the first that fails. */
template <typename To, typename... T> int add_items([[maybe_unused]] To *to, const T &...items)
{
    [[maybe_unused]] int rc = 0;

    (void)(((rc = add(to, items)) == 0) && ...);
    return rc;
}

template <typename To, typename Range> int add_list(To *to, const Range &range)
{
    using item_type = typename Range::value_type;
    int rc = detail::put_open(to, PYCREW_LIST);

    for (auto at = range.begin(); rc == 0 && at != range.end(); ++at)
        rc = convert<item_type>::add(to, *at);
    return rc < 0 ? rc : detail::put_close(to);
}

template <typename To, typename Tuple> int add_tuple(To *to, const Tuple &tuple)
{
    int rc = detail::put_open(to, PYCREW_TUPLE);

    if (rc == 0)
        rc = std::apply([to](const auto &...items) { return add_items(to, items...); }, tuple);
    return rc < 0 ? rc : detail::put_close(to);
}

template <typename Map> struct convert_map {
    using key_type = typename Map::key_type;
    using mapped_type = typename Map::mapped_type;

    static constexpr bool borrows =
        detail::borrows<key_type>::value || detail::borrows<mapped_type>::value;

    template <typename To> static int add(To *to, const Map &map)
    {
        int rc = detail::put_open(to, PYCREW_DICT);

        for (auto at = map.begin(); rc == 0 && at != map.end(); ++at)
            rc = add_items(to, at->first, at->second);
        return rc < 0 ? rc : detail::put_close(to);
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
    template <typename To> static int add(To *to, bool value)
    {
        return detail::put_bool(to, value);
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
    template <typename To> static int add(To *to, T value)
    {
        return detail::put_i64(to, value);
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
    template <typename To> static int add(To *to, T value)
    {
        return detail::put_u64(to, value);
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
    template <typename To> static int add(To *to, double value)
    {
        return detail::put_f64(to, value);
    }
    static double get(pycrew_value value)
    {
        double result;

        detail::check(pycrew_value_f64(value, &result));
        return result;
    }
};

template <> struct convert<float> {
    template <typename To> static int add(To *to, float value)
    {
        return detail::put_f64(to, static_cast<double>(value));
    }
    static float get(pycrew_value value)
    {
        return static_cast<float>(convert<double>::get(value));
    }
};

template <> struct convert<std::string_view> {
    static constexpr bool borrows = true;

    template <typename To> static int add(To *to, std::string_view value)
    {
        return detail::put_str(to, value.data() != nullptr ? value.data() : "", value.size());
    }
    static std::string_view get(pycrew_value value)
    {
        const char *text;
        std::size_t size;

        if (pycrew_value_type(value) == PYCREW_TYPE_BIGINT) /* of which pycrew_value_str is digits */
            detail::fail(PYCREW_ETYPE, "the value is an int and no str");
        detail::check(pycrew_value_str(value, &text, &size));
        return {text, size};
    }
};

template <> struct convert<std::string> {
    template <typename To> static int add(To *to, const std::string &value)
    {
        return detail::put_str(to, value.data(), value.size());
    }
    static std::string get(pycrew_value value)
    {
        return std::string(convert<std::string_view>::get(value));
    }
};

template <> struct convert<const char *> {
    template <typename To> static int add(To *to, const char *value)
    {
        return value == nullptr ? detail::put_none(to)
                                : detail::put_str(to, value, std::strlen(value));
    }
};
template <> struct convert<char *> : convert<const char *> {
};
template <std::size_t N> struct convert<char[N]> : convert<const char *> {
};

template <> struct convert<std::nullptr_t> {
    template <typename To> static int add(To *to, std::nullptr_t)
    {
        return detail::put_none(to);
    }
};
template <> struct convert<std::nullopt_t> {
    template <typename To> static int add(To *to, std::nullopt_t)
    {
        return detail::put_none(to);
    }
};

template <> struct convert<bytes_view> {
    static constexpr bool borrows = true;

    template <typename To> static int add(To *to, bytes_view value)
    {
        return detail::put_bytes(
            to, value.size() != 0 ? static_cast<const void *>(value.data()) : "", value.size());
    }
    static bytes_view get(pycrew_value value)
    {
        const void *data;
        std::size_t size;

        if (pycrew_value_type(value) == PYCREW_TYPE_OBJECT) /* of which pycrew_value_bytes is a pickle */
            detail::fail(PYCREW_ETYPE, "the value is a pickled object and no bytes");
        detail::check(pycrew_value_bytes(value, &data, &size));
        return {data, size};
    }
};

template <> struct convert<bytes> {
    template <typename To> static int add(To *to, const bytes &value)
    {
        return convert<bytes_view>::add(to, value);
    }
    static bytes get(pycrew_value value)
    {
        const bytes_view view = convert<bytes_view>::get(value);

        return bytes(view.begin(), view.end());
    }
};

template <typename T> struct convert<std::optional<T>> {
    static constexpr bool borrows = detail::borrows<T>::value;

    template <typename To> static int add(To *to, const std::optional<T> &value)
    {
        return value ? convert<T>::add(to, *value) : detail::put_none(to);
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

    template <typename To> static int add(To *to, const std::vector<T> &value)
    {
        return detail::add_list(to, value);
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

    template <typename To> static int add(To *to, const std::array<T, N> &value)
    {
        return detail::add_list(to, value);
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

    template <typename To> static int add(To *to, const std::tuple<T...> &value)
    {
        return detail::add_tuple(to, value);
    }
    static std::tuple<T...> get(pycrew_value value)
    {
        [[maybe_unused]] pycrew_value at = detail::first_of_sequence(value, sizeof...(T));

        return std::tuple<T...>{detail::take<T>(at)...}; /* braces: from left to right */
    }
};

template <typename A, typename B> struct convert<std::pair<A, B>> {
    static constexpr bool borrows = detail::borrows<A>::value || detail::borrows<B>::value;

    template <typename To> static int add(To *to, const std::pair<A, B> &value)
    {
        return detail::add_tuple(to, value);
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

/* JSON text, decoded in the worker, and of a result encoded there. */
struct json {
    std::string text;
};

template <> struct convert<json> {
    template <typename To> static int add(To *to, const json &value)
    {
        return detail::put_json(to, value.text.data(), value.text.size());
    }
    static json get(pycrew_value value)
    {
        if (pycrew_value_type(value) != PYCREW_TYPE_JSON)
            detail::fail(PYCREW_ETYPE,
                         "the value is no JSON text: it is that of run, async and the like alone");
        const char *text;
        std::size_t size;

        detail::check(pycrew_value_str(value, &text, &size));
        return {std::string(text, size)};
    }
};

/* An object of Python's, pickled: kept as it is, and given to another call. */
struct pickle {
    bytes data;
};

template <> struct convert<pickle> {
    template <typename To> static int add(To *to, const pickle &value)
    {
        return detail::put_pickle(to, value.data.data(), value.data.size());
    }
    static pickle get(pycrew_value value)
    {
        if (pycrew_value_type(value) != PYCREW_TYPE_OBJECT)
            detail::fail(PYCREW_ETYPE, "the value is no pickled object");
        const void *data;
        std::size_t size;

        detail::check(pycrew_value_bytes(value, &data, &size));
        const bytes_view view(data, size);
        return {bytes(view.begin(), view.end())};
    }
};

/* An int of any size, as hexadecimal digits: "-1fff...". */
struct bigint {
    std::string hex;
};

template <> struct convert<bigint> {
    static int add(pycrew_call *to, const bigint &value)
    {
        return pycrew_add_bigint(to, value.hex.c_str());
    }
    static bigint get(pycrew_value value)
    {
        const char *text;
        std::size_t size;

        if (pycrew_value_type(value) != PYCREW_TYPE_BIGINT)
            return of_small(value);
        detail::check(pycrew_value_str(value, &text, &size));
        return {std::string(text, size)};
    }

  private:
    static bigint of_small(pycrew_value value)
    {
        const bool negative = is_negative(value);
        const std::uint64_t found =
            negative ? 0 - static_cast<std::uint64_t>(convert<std::int64_t>::get(value))
                     : convert<std::uint64_t>::get(value);
        char digits[24];

        std::snprintf(digits, sizeof digits, "%s%llx", negative ? "-" : "",
                      static_cast<unsigned long long>(found));
        return {digits};
    }
    static bool is_negative(pycrew_value value)
    {
        std::int64_t found;

        return pycrew_value_i64(value, &found) == 0 && found < 0;
    }
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

} // namespace pycrew

#endif
