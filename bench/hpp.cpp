/* hpp: what pycrew.hpp costs on top of the C calls that it makes, in windows that take turns.
 *
 *     ./run bench/hpp [ROUNDS]
 *
 * fill    prepare, two ints, release: all that the wrapper does before a call is on its way
 * result  an int read from a call that has ended: all that it does behind that
 * run     the whole call, with a worker that adds: noise of two processes included
 *
 * Each number is the mean of a window, in nanoseconds: the median and the least of all windows. */
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <sched.h>

#include <pycrew.hpp>

namespace
{

void check(int code)
{
    if (code < 0) {
        std::fprintf(stderr, "hpp: %s\n", pycrew_last_error()->message);
        std::exit(1);
    }
}

void check_sum(std::int64_t sum, std::int64_t expected)
{
    if (sum != expected) {
        std::fprintf(stderr, "hpp: %lld instead of %lld\n", static_cast<long long>(sum),
                     static_cast<long long>(expected));
        std::exit(1);
    }
}

/* The first two CPUs that there are: one for the worker. */
void use_two_cpus()
{
    cpu_set_t all, two;

    CPU_ZERO(&two);
    if (sched_getaffinity(0, sizeof all, &all) < 0)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&two) < 2; cpu++)
        if (CPU_ISSET(cpu, &all))
            CPU_SET(cpu, &two);
    (void)sched_setaffinity(0, sizeof two, &two);
}

/* ---- by pycrew.h ----------------------------------------------------------------------------- */

pycrew_call *fill_c(pycrew_crew *crew, const pycrew_function *function, std::int64_t i)
{
    pycrew_call *call;

    check(pycrew_prepare(crew, function, PYCREW_FOREVER, &call));
    check(pycrew_add_i64(call, i));
    check(pycrew_add_i64(call, 1));
    return call;
}

std::int64_t run_c(pycrew_crew *crew, const pycrew_function *function, std::int64_t i)
{
    pycrew_call *call = fill_c(crew, function, i);
    std::int64_t sum;

    check(pycrew_submit(call));
    check(pycrew_wait(call, PYCREW_FOREVER));
    check(pycrew_result_i64(call, &sum));
    pycrew_release(call);
    return sum;
}

/* ---- windows --------------------------------------------------------------------------------- */

struct figure {
    double median, least;
};

template <typename Body> double window(int count, Body body)
{
    const auto begin = std::chrono::steady_clock::now();

    for (int i = 0; i < count; i++)
        body(i);
    return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin)
               .count() /
           count;
}

figure figure_of(std::vector<double> &windows)
{
    std::sort(windows.begin(), windows.end());
    return {windows[windows.size() / 2], windows.front()};
}

/* One of each in turn, and which is first in turn as well. */
template <typename C, typename Hpp>
void compare(const char *name, int rounds, int count, C by_c, Hpp by_hpp)
{
    std::vector<double> c, hpp;

    window(count, by_c);
    window(count, by_hpp);
    for (int i = 0; i < rounds; i++) {
        if (i % 2 == 0)
            c.push_back(window(count, by_c));
        hpp.push_back(window(count, by_hpp));
        if (i % 2 != 0)
            c.push_back(window(count, by_c));
    }
    const figure plain = figure_of(c), wrapped = figure_of(hpp);
    std::printf("%-8s %8.1f %8.1f %+8.1f  %8.1f %8.1f %+8.1f\n", name, plain.median, wrapped.median,
                wrapped.median - plain.median, plain.least, wrapped.least,
                wrapped.least - plain.least);
}

void measure(int rounds)
{
    pycrew::options options;

    options.workers = 1;
    options.path = {MATH_OPS_FOLDER};
    const pycrew::crew crew(options);
    const pycrew::function add = crew.get("math_ops:add");
    pycrew_crew *const native = crew.native();
    pycrew::call ended = crew.prepare(add);

    ended.add(20, 22).submit().wait();
    std::printf("%-8s %8s %8s %8s  %8s %8s %8s\n", "ns", "C", "C++", "median", "C", "C++", "least");
    compare(
        "fill", 2 * rounds, 2000, [&](int i) { pycrew_release(fill_c(native, add.native(), i)); },
        [&](int i) { crew.prepare(add).add(i, 1); });
    compare(
        "result", 2 * rounds, 2000,
        [&](int) {
            std::int64_t sum;

            check(pycrew_result_i64(ended.native(), &sum));
            check_sum(sum, 42);
        },
        [&](int) { check_sum(ended.result<std::int64_t>(), 42); });
    compare(
        "run", rounds, 500, [&](int i) { check_sum(run_c(native, add.native(), i), i + 1); },
        [&](int i) { check_sum(crew.run<std::int64_t>(add, i, 1), i + 1); });
}

} // namespace

int main(int argc, char **argv)
{
    const int rounds = argc > 1 ? std::atoi(argv[1]) : 400;

    use_two_cpus();
    try {
        measure(std::max(rounds, 2));
        return 0;
    } catch (const pycrew::error &error) {
        std::fprintf(stderr, "hpp: %s\n", error.what());
    }
    return 1;
}
