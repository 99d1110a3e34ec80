/* Functions, and one call from prepare to release. */
#ifndef PYCREW_CALL_HPP
#define PYCREW_CALL_HPP

#include <cstdint>
#include <type_traits>
#include <utility>

#include "array.hpp"
#include "queue.hpp"

namespace pycrew
{

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

namespace detail
{

/* The result of a call that returned a number, at the price of one function; false: it is to be
 * looked at more closely, and to be said why not. */
template <typename T> bool take_number(pycrew_call *from, T &ret)
{
    if constexpr (std::is_same_v<T, bool>) {
        return pycrew_result_bool(from, &ret) == 0;
    } else if constexpr (std::is_same_v<T, double>) {
        return pycrew_result_f64(from, &ret) == 0;
    } else if constexpr (is_int<T> && std::is_signed_v<T>) {
        std::int64_t found;

        if (pycrew_result_i64(from, &found) != 0)
            return false;
        ret = static_cast<T>(found);
        return ret == found;
    } else {
        static_assert(is_int<T>);
        std::uint64_t found;

        if (pycrew_result_u64(from, &found) != 0)
            return false;
        ret = static_cast<T>(found);
        return ret == found;
    }
}

template <typename T>
inline constexpr bool is_number = std::is_same_v<T, bool> || std::is_same_v<T, double> || is_int<T>;

} // namespace detail

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
    call &queue(const pycrew::queue &announced_in) /* to be there until the call has ended */
    {
        return queue(announced_in.native());
    }
    call &
    json(bool wanted = true) /* the result is encoded in the worker, for result<pycrew::json>() */
    {
        detail::check(pycrew_set_json(native_, wanted));
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
        if constexpr (detail::is_number<T>)
            if (T number; detail::take_number(native_, number))
                return number;
        const pycrew_value found = pycrew_result_value(native_);

        if (found.at == nullptr)
            fail_without_result();
        try {
            if constexpr (detail::is_array<T>)
                return convert<T>::take(native_, crew_);
            else if constexpr (!std::is_void_v<T>)
                return convert<T>::get(found);
        } catch (const error &why) {
            throw error::after_run(why);
        }
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

namespace detail
{

/* A call's arguments, for a result of type T. */
template <typename T, typename... Arguments>
call &fill(call &prepared, const Arguments &...arguments)
{
    static_assert(!borrows<T>::value, "a view of a result that is gone: prepare the call");
    if constexpr (std::is_same_v<T, json>)
        prepared.json();
    return prepared.add(arguments...);
}

/* Start to finish. */
template <typename T, typename... Arguments> T run(call &&prepared, const Arguments &...arguments)
{
    call made = std::move(prepared);

    fill<T>(made, arguments...).submit().wait();
    if constexpr (!std::is_void_v<T>)
        return made.result<T>();
}

} // namespace detail

} // namespace pycrew

#endif
