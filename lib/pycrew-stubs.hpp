/* pycrew-stubs.hpp: what the C++ headers that `pycrew stubs` writes stand on, on top of pycrew.hpp.
 */
#ifndef PYCREW_STUBS_HPP
#define PYCREW_STUBS_HPP

#include <string>
#include <vector>

#include "pycrew-stubs.h"
#include "pycrew.hpp"

namespace pycrew
{
namespace stubs
{

inline pycrew::function function(const crew &of, pycrew_stub &stub)
{
    const pycrew_function *found;

    pycrew::detail::check(pycrew_stub_function(of.native(), &stub, &found));
    return pycrew::function(found);
}

inline call prepare(const crew &of, pycrew_stub &stub)
{
    pycrew_call *made;

    pycrew::detail::check(pycrew_stub_prepare(of.native(), &stub, PYCREW_FOREVER, &made));
    return call(made, of.native());
}

/* A result of another type, with the function's name. */
[[noreturn]] inline void fail_result(const error &why, const char *function, const char *annotation)
{
    const std::string message =
        std::string(function) + " returns " + annotation + ": " + why.message();
    pycrew_error named{};

    named.size = sizeof named;
    named.code = why.code();
    named.function = function;
    named.message = message.c_str();
    named.may_have_run = true;
    named.attempts = 1;
    throw error(named);
}

/* pycrew_value_str gives an int's text as well, and pycrew_value_bytes a pickled object's. */
template <typename T> void expect(const call &ended)
{
    if constexpr (std::is_same_v<T, std::string>)
        pycrew::detail::check(
            pycrew_value_expect(pycrew_result_value(ended.native()), PYCREW_TYPE_STR));
    else if constexpr (std::is_same_v<T, bytes>)
        pycrew::detail::check(
            pycrew_value_expect(pycrew_result_value(ended.native()), PYCREW_TYPE_BYTES));
    else if constexpr (std::is_void_v<T>)
        pycrew::detail::check(
            pycrew_value_expect(pycrew_result_value(ended.native()), PYCREW_TYPE_NONE));
}

/* Submits a prepared call, and waits for its result. */
template <typename T> T run(call prepared, const char *function, const char *annotation)
{
    prepared.submit().wait();
    try {
        expect<T>(prepared);
        return prepared.template result<T>();
    } catch (const error &why) {
        fail_result(why, function, annotation);
    }
}

/* A struct's fields, which are a tuple's items. */
inline pycrew_value fields(pycrew_value of, const char *type, std::size_t count)
{
    pycrew_value first;

    pycrew::detail::check(pycrew_value_items(of, PYCREW_TUPLE, type, &count, &first));
    return first;
}

/* An array for a parameter: a view, a vector, what writable() gave, or an array that was a result.
 */
template <typename T> class array_argument
{
  public:
    array_argument(const array_view<T> &from) : native_(from.native())
    {
    }
    array_argument(const array_view<const T> &from) : native_(from.native())
    {
    }
    array_argument(const writable_array<T> &from) : native_(from.native)
    {
    }
    array_argument(const array<T> &from) : native_(from.view().native())
    {
    }
    array_argument(const std::vector<T> &from)
        : native_(
              array_view<const T>(from.data(), {static_cast<std::int64_t>(from.size())}).native())
    {
    }
    const pycrew_array &native() const
    {
        return native_;
    }

  private:
    pycrew_array native_;
};

} // namespace stubs

template <typename T> struct convert<stubs::array_argument<T>> {
    static int add(pycrew_call *call, const stubs::array_argument<T> &value)
    {
        return pycrew_add_array(call, &value.native());
    }
};

} // namespace pycrew

#endif
