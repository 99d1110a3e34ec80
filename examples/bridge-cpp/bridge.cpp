/* bridge-cpp: the C ABI of ../bridge/bridge.h on pycrew.hpp. The types of arguments and results are
 * those of the functions: none is written a second time, as letters of a format would be. */
#include "../bridge/bridge.h"

#include <cerrno>
#include <optional>
#include <pycrew.hpp>

namespace
{

std::optional<pycrew::crew> crew;
thread_local std::optional<pycrew::error> kept; /* what the strings of last belong to */
thread_local python_error last{0, nullptr, "", nullptr, 0, 0};

const char *text_or_null(const std::string &text)
{
    return text.empty() ? nullptr : text.c_str();
}

int note(const pycrew::error &error)
{
    kept = error;
    last.code = error.code();
    last.type = text_or_null(error.type());
    last.message = error.message().c_str();
    last.traceback = text_or_null(error.traceback());
    last.signal = error.signal();
    last.may_have_run = error.may_have_run();
    return last.code;
}

template <typename Body> int outcome(Body body) noexcept
{
    try {
        body();
        return 0;
    } catch (const pycrew::error &error) {
        return note(error);
    } catch (const std::exception &error) { /* memory is short */
        return note(pycrew::error::of_code(-ENOMEM, error.what()));
    }
}

void need_crew()
{
    if (!crew)
        throw pycrew::error::of_code(-ENOTCONN, "python_open has not been called");
}

template <typename Result, typename... Arguments>
int call(const char *function, Result *ret, Arguments... arguments)
{
    return outcome([&] {
        need_crew();
        *ret = crew->run<Result>(function, arguments...);
    });
}

} // namespace

const python_error *python_last_error(void)
{
    return &last;
}

int python_open(const char *folder)
{
    return outcome([&] {
        pycrew::options options;

        if (crew)
            throw pycrew::error::of_code(-EALREADY, "python_open has been called before");
        options.path = {folder};
        crew.emplace(options);
    });
}

void python_close(void)
{
    crew.reset();
}

int python_add(int a, int b, int *ret)
{
    return call("math_ops:add", ret, a, b);
}

int python_divide(int a, int b, int *ret)
{
    return call("math_ops:divide", ret, a, b);
}

int python_crash(void)
{
    return outcome([] {
        need_crew();
        crew->run("math_ops:crash");
    });
}
