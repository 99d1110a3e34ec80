/* hpp.h - what the tests of pycrew.hpp share. Functions are in tests/py. */
#ifndef TESTS_HPP_H
#define TESTS_HPP_H

#include <new>
#include <string>
#include <vector>

#include "lib/pycrew.hpp"
#include "tests/harness/tap.h"

using namespace std::literals;

[[maybe_unused]] static constexpr auto BOUND =
    20s; /* long enough for anything on a loaded machine */

/* Where the tests' Python modules are. */
TAP_FUNCTION std::string modules()
{
    const char *top = getenv("top_srcdir");

    return std::string(top != nullptr ? top : ".") + "/tests/py";
}

TAP_FUNCTION pycrew::crew open_crew(unsigned workers, pycrew::options options = {})
{
    options.workers = workers;
    options.path = {modules()};
    if (!options.log)
        options.log = [](int, const char *) {};
    return pycrew::crew(options);
}

/* What this throws. */
template <typename Body> pycrew::error failure_of(Body body)
{
    try {
        body();
    } catch (const pycrew::error &error) {
        return error;
    }
    tap_fail("nothing was thrown");
}

TAP_FUNCTION bool has(const std::string &text, const char *part)
{
    return text.find(part) != std::string::npos;
}

TAP_FUNCTION void need_numpy(const pycrew::crew &crew)
{
    try {
        crew.run("actor_ops:import_numpy");
    } catch (const pycrew::error &error) {
        SKIP("%s", error.what());
    }
}

/* Looks until condition holds; fails when it does not within BOUND. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        const auto await_until = std::chrono::steady_clock::now() + BOUND * tap_scale();           \
        while (!(condition)) {                                                                     \
            if (std::chrono::steady_clock::now() > await_until)                                    \
                tap_fail("%s:%d: waited in vain for %s", __FILE__, __LINE__, #condition);          \
            poll(nullptr, 0, 1);                                                                   \
        }                                                                                          \
    } while (0)

template <typename T> T got(std::future<T> &future)
{
    ASSERT(future.wait_for(BOUND) == std::future_status::ready);
    return future.get();
}

#endif
