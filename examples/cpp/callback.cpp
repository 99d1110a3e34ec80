#include <pycrew.hpp>
#include <iostream>

static const char *const SOURCE = R"(
import pycrew

def bill(items):
    total = sum(pycrew.host.price(item) for item in items)
    try:
        pycrew.host.price("gold")
    except KeyError as error:
        return f"{total:.2f}, and no {error}"
)";

int main()
{
    const std::map<std::string, double> prices{{"bread", 2.5}, {"milk", 1.25}};
    pycrew::crew crew;

    crew.export_function("price", [&](const std::string &item) {
        const auto found = prices.find(item);

        if (found == prices.end())
            throw pycrew::python_error("KeyError", item);
        return found->second;
    });
    std::cout << crew.run<std::string>(crew.source("bill", SOURCE),
                                       std::vector<std::string>{"bread", "milk"})
              << "\n";
}
