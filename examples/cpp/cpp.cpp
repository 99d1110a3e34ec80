#include <pycrew.hpp>
#include <iostream>

int main()
{
    try {
        pycrew::crew crew;
        auto later = crew.async<int>("math:comb", 20, 4);
        std::cout << "10 over 4 is " << crew.run<int>("math:comb", 10, 4) << ", 20 over 4 "
                  << later.get() << "\n";
        for (const auto &[a, b] :
             crew.stream<std::pair<std::string, std::string>>("itertools:permutations", "xyz", 2))
            std::cout << a << b << " ";
        std::cout << std::endl;
        crew.run("json:loads", "{]");
    } catch (const pycrew::error &error) {
        std::cout << error.what() << "\n";
        return error.type() != "json.decoder.JSONDecodeError";
    }
    return 1;
}
