#include <pycrew.hpp>
#include <iostream>

#ifdef __cpp_impl_coroutine

/* Two calls at a time, then the items of a generator: without a thread, and without a callback. */
static pycrew::task<> work(pycrew::loop &loop)
{
    auto ten = loop.call<int>("math:comb", 10, 4), twenty = loop.call<int>("math:comb", 20, 4);
    const int sum = co_await ten + co_await twenty;
    auto orders =
        loop.stream<std::pair<std::string, std::string>>("itertools:permutations", "xyz", 2);

    std::cout << "together " << sum << "\n";
    while (const auto *order = co_await orders.next())
        std::cout << order->first << order->second << " ";
    std::cout << std::endl;
    co_await loop.call("json:loads", "{]");
}

int main()
{
    pycrew::crew crew;
    pycrew::loop loop(crew);

    try {
        loop.run(work(loop));
    } catch (const pycrew::error &error) {
        std::cout << error.what() << "\n";
        return error.type() != "json.decoder.JSONDecodeError";
    }
    return 1;
}

#else

int main()
{
    std::cout << "the compiler has no coroutines of C++20\n";
    return 77;
}

#endif
