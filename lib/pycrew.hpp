/* pycrew.hpp: pycrew.h for C++17. Header only; link libpycrew.
 *
 *     pycrew::crew crew;
 *     int sum = crew.run<int>("math_ops:add", 3, 5);
 *     for (int x : crew.stream<int>("math_ops:primes", 10))
 *         std::cout << x << "\n";
 *
 * Errors     What fails throws pycrew::error. A call that failed, or a stream, can be destroyed as
 * any other. Types      bool, ints to 64 bits, float, double, std::string, std::string_view, text
 * in quotes, std::optional (None), std::vector and std::array (list), std::tuple and std::pair
 * (tuple), std::map and std::unordered_map (dict), std::vector<std::byte> (pycrew::bytes), nested
 * as one likes. Specialise pycrew::convert for others. A result may be a list or a tuple, whichever
 * of them is asked for; an int that does not fit is -ERANGE. A null pointer to text, nullptr and
 * std::nullopt are None. Views      std::string_view, pycrew::bytes_view and pycrew::value point
 * into a result: they can be got of a call, valid until it is destroyed, and of a stream, until its
 * next item. run does not give them. Lifetime   Calls, streams and functions are to be gone before
 * their crew is, as locals declared behind it are. No destructor waits for Python longer than the
 * crew's grace. Threads    As in pycrew.h: everything of a crew at the same time, one call or
 * stream in one thread at a time. Time       std::chrono durations; pycrew::forever.
 *
 * For arrays, queues and all else take native() to the functions of pycrew.h.
 */
#ifndef PYCREW_HPP
#define PYCREW_HPP

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

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

/* ---- arguments by keyword ----------------------------------------------------------------------
 */

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

/* ---- calls -------------------------------------------------------------------------------------
 */

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

/* One call, from prepare to release. Destroyed before its end it is cancelled, which does not wait.
 */
class call
{
  public:
    explicit call(pycrew_call *owned) noexcept : native_(owned)
    {
    }
    call(call &&from) noexcept : native_(std::exchange(from.native_, nullptr))
    {
    }
    call &operator=(call &&from) noexcept
    {
        if (this != &from)
            pycrew_release(std::exchange(native_, std::exchange(from.native_, nullptr)));
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
        if constexpr (!std::is_void_v<T>)
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
};

/* ---- streams -----------------------------------------------------------------------------------
 */

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
        item_.emplace(convert<T>::get(pycrew_result_value(call_.native())));
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

/* ---- the crew ----------------------------------------------------------------------------------
 */

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
    }
    crew(crew &&from) noexcept : native_(std::exchange(from.native_, nullptr))
    {
    }
    crew &operator=(crew &&from) noexcept
    {
        if (this != &from) {
            close();
            native_ = std::exchange(from.native_, nullptr);
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
        return pycrew::call(made);
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

    /* The items of a generator, or of any function that returns an iterator. */
    template <typename T, typename Of, typename... Arguments>
    pycrew::stream<T> stream(const Of &of, const Arguments &...arguments) const
    {
        pycrew::call made = prepare(of);

        made.add(arguments...);
        return pycrew::stream<T>(std::move(made));
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
};

} // namespace pycrew

#endif
