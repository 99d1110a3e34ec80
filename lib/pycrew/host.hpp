/* Functions of the program's that Python code calls: crew::export_function. */
#ifndef PYCREW_HOST_HPP
#define PYCREW_HOST_HPP

#include <array>
#include <cerrno>
#include <cstddef>
#include <exception>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "convert.hpp"

namespace pycrew
{

/* What an exported function throws to have Python's call raise this: type is the name of one of
 * Python's built-in exceptions, of another RuntimeError is raised; text is its argument. */
class python_error : public std::runtime_error
{
  public:
    python_error(const char *type, const std::string &text) : std::runtime_error(text), type_(type)
    {
    }
    const char *type() const noexcept
    {
        return type_.what();
    }

  private:
    std::runtime_error type_; /* a text whose copies do not throw */
};

/* The call that an exported function is in, for those that ask for it as their first parameter. */
class host_call
{
  public:
    explicit host_call(pycrew_host_call *in) : native_(in)
    {
    }
    bool abandoned() const /* nobody waits for the answer any more */
    {
        return pycrew_host_abandoned(native_);
    }
    pycrew_host_call *native() const
    {
        return native_;
    }

  private:
    pycrew_host_call *native_;
};

namespace detail
{

template <typename T> inline constexpr bool is_optional = false;
template <typename T> inline constexpr bool is_optional<std::optional<T>> = true;

/* A function's parameters, without the host_call that may be the first one. */
template <bool With, typename Result, typename... Parameters> struct signature_of {
    static constexpr bool with_call = With;
    static constexpr std::size_t count = sizeof...(Parameters);
    using result = Result;
    using values = std::tuple<std::decay_t<Parameters>...>; /* where they are kept, */
    using parameters = std::tuple<Parameters &&...>;        /* and as what they are given */
};

template <typename Result, typename... Parameters> struct find_signature {
    using type = signature_of<false, Result, Parameters...>;
};
template <typename Result, typename First, typename... Rest>
struct find_signature<Result, First, Rest...> {
    using type = std::conditional_t<std::is_same_v<std::decay_t<First>, host_call>,
                                    signature_of<true, Result, Rest...>,
                                    signature_of<false, Result, First, Rest...>>;
};

template <typename F> struct signature : signature<decltype(&F::operator())> {
};
template <typename R, typename... A> struct signature<R (*)(A...)> : find_signature<R, A...>::type {
};
template <typename R, typename... A>
struct signature<R (*)(A...) noexcept> : find_signature<R, A...>::type {
};
template <typename C, typename R, typename... A>
struct signature<R (C::*)(A...)> : find_signature<R, A...>::type {
};
template <typename C, typename R, typename... A>
struct signature<R (C::*)(A...) const> : find_signature<R, A...>::type {
};
template <typename C, typename R, typename... A>
struct signature<R (C::*)(A...) noexcept> : find_signature<R, A...>::type {
};
template <typename C, typename R, typename... A>
struct signature<R (C::*)(A...) const noexcept> : find_signature<R, A...>::type {
};

/* What Python gave, one by one. */
class host_arguments
{
  public:
    /* names: by which the parameters may come too; those behind the last name come by their places
     * only. */
    host_arguments(const pycrew_host_call *call, const std::vector<std::string> &names,
                   std::size_t parameters)
        : call_(call), names_(names), positional_(pycrew_host_count(call)),
          keywords_(pycrew_host_keywords(call))
    {
        if (positional_ > parameters)
            fail(PYCREW_ETYPE, (std::to_string(positional_) + " arguments are given, at most " +
                                std::to_string(parameters) + " are taken")
                                   .c_str());
    }

    template <typename T> T take()
    {
        const pycrew_value found = find(next_++);

        if (found.at == nullptr) {
            if constexpr (is_optional<T>)
                return std::nullopt;
            else
                fail(PYCREW_ETYPE, (place() + " is missing").c_str());
        }
        try {
            return convert<T>::get(found);
        } catch (const error &wrong) {
            fail(wrong.code(), (place() + ": " + wrong.message()).c_str());
        }
    }
    void end() const
    {
        if (used_ != keywords_)
            fail(PYCREW_ETYPE, "a keyword is unknown, or its argument is given twice");
    }

  private:
    pycrew_value find(std::size_t index)
    {
        if (index < positional_)
            return pycrew_host_argument(call_, index);
        if (index >= names_.size())
            return pycrew_value{};
        const pycrew_value found = pycrew_host_keyword(call_, names_[index].c_str());
        used_ += found.at != nullptr;
        return found;
    }
    std::string place() const /* of the one that was taken last */
    {
        const std::string number = "argument " + std::to_string(next_);

        return next_ <= names_.size() ? number + " ('" + names_[next_ - 1] + "')" : number;
    }

    const pycrew_host_call *call_;
    const std::vector<std::string> &names_;
    std::size_t positional_, keywords_, next_ = 0, used_ = 0;
};

/* What a code is in Python, as pycrew_host_function says. */
inline const char *exception_of(int code)
{
    switch (code) {
    case PYCREW_ETYPE:
        return "TypeError";
    case -EINVAL:
        return "ValueError";
    case -ERANGE:
        return "OverflowError";
    case -ENOMEM:
    case -E2BIG:
        return "MemoryError";
    case -ETIME:
    case -ETIMEDOUT:
        return "TimeoutError";
    default:
        return code > -2000 ? "OSError" : "RuntimeError";
    }
}

inline int fail_host_call(pycrew_host_call *call, const error &thrown)
{
    const bool built_in = thrown.type().find('.') == std::string::npos;

    if (thrown.type().empty())
        return pycrew_host_fail(call, exception_of(thrown.code()), thrown.message().c_str());
    return built_in ? pycrew_host_fail(call, thrown.type().c_str(), thrown.message().c_str())
                    : pycrew_host_fail(call, "RuntimeError", thrown.what());
}

/* The exception that is being handled becomes one of Python's. */
inline int fail_host_call(pycrew_host_call *call)
{
    try {
        throw;
    } catch (const python_error &thrown) {
        return pycrew_host_fail(call, thrown.type(), thrown.what());
    } catch (const error &thrown) {
        return fail_host_call(call, thrown);
    } catch (const std::bad_alloc &thrown) {
        return pycrew_host_fail(call, "MemoryError", thrown.what());
    } catch (const std::out_of_range &thrown) {
        return pycrew_host_fail(call, "IndexError", thrown.what());
    } catch (const std::overflow_error &thrown) {
        return pycrew_host_fail(call, "OverflowError", thrown.what());
    } catch (const std::range_error &thrown) {
        return pycrew_host_fail(call, "ValueError", thrown.what());
    } catch (const std::logic_error &thrown) { /* invalid_argument, domain_error, length_error */
        return pycrew_host_fail(call, "ValueError", thrown.what());
    } catch (const std::system_error &thrown) {
        return pycrew_host_fail(call, "OSError", thrown.what());
    } catch (const std::exception &thrown) {
        return pycrew_host_fail(call, "RuntimeError", thrown.what());
    } catch (...) {
        return pycrew_host_fail(call, "RuntimeError", "a C++ exception that is no std::exception");
    }
}

/* A function as C wants it. */
class exported
{
  public:
    virtual ~exported() = default;

    static int run(void *data, pycrew_host_call *call)
    {
        try {
            return static_cast<exported *>(data)->answer(call);
        } catch (...) {
            return fail_host_call(call);
        }
    }

  private:
    virtual int answer(pycrew_host_call *call) = 0;
};

template <typename F> class exported_function : public exported
{
    using sign = signature<F>;

  public:
    exported_function(F function, std::vector<std::string> names)
        : function_(std::move(function)), names_(std::move(names))
    {
        if (names_.size() > sign::count)
            fail(-EINVAL, "there are more names than parameters");
    }

  private:
    int answer(pycrew_host_call *call) override
    {
        return answer(call, std::make_index_sequence<sign::count>());
    }

    template <std::size_t... I> int answer(pycrew_host_call *call, std::index_sequence<I...>)
    {
        host_arguments given(call, names_, sign::count);
        typename sign::values values{
            given.take<std::tuple_element_t<I, typename sign::values>>()...};

        given.end();
        const auto ask = [&]() -> typename sign::result {
            if constexpr (sign::with_call)
                return function_(host_call(call), pass<I>(values)...);
            else
                return function_(pass<I>(values)...);
        };
        if constexpr (std::is_void_v<typename sign::result>)
            return ask(), 0;
        else
            return convert<std::decay_t<typename sign::result>>::add(call, ask());
    }

    template <std::size_t I> static decltype(auto) pass(typename sign::values &values)
    {
        return static_cast<std::tuple_element_t<I, typename sign::parameters>>(std::get<I>(values));
    }

    F function_;
    std::vector<std::string> names_;
};

} // namespace detail

} // namespace pycrew

#endif
