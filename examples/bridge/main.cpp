// The founding example: a C++ program that knows neither Python nor pycrew opens a dynamic library
// at run time and calls a Python function through it.
//
//     bridge [LIBBRIDGE.SO [FOLDER OF math_ops.py]]
//
// Without arguments it takes both from the tree it was built in.

#include "bridge.h"

#include <cstring>
#include <dlfcn.h>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>

namespace
{

class Library
{
  public:
    explicit Library(const std::string &path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL))
    {
        if (!handle_)
            throw std::runtime_error(dlerror());
    }

    // The function of that name; its type comes from bridge.h, by decltype.
    template <typename Function> Function find(const char *name) const
    {
        void *symbol = dlsym(handle_.get(), name);
        if (!symbol)
            throw std::runtime_error(dlerror());
        Function function;
        static_assert(sizeof function == sizeof symbol, "POSIX promises it, ISO C++ does not");
        std::memcpy(&function, &symbol, sizeof function);
        return function;
    }

  private:
    struct Close {
        void operator()(void *handle) const
        {
            dlclose(handle);
        }
    };
    std::unique_ptr<void, Close> handle_;
};

// A failed call as an exception. It owns its strings: those of the library live only until this
// thread's next call.
class PythonError : public std::runtime_error
{
  public:
    explicit PythonError(const python_error &error)
        : std::runtime_error(error.message), type(error.type ? error.type : ""),
          traceback(error.traceback ? error.traceback : ""), signal(error.signal),
          may_have_run(error.may_have_run != 0)
    {
    }

    std::string traceback_last_line() const
    {
        const auto end = traceback.find_last_not_of('\n');
        if (end == std::string::npos)
            return "";
        const auto begin = traceback.rfind('\n', end);
        return traceback.substr(begin == std::string::npos ? 0 : begin + 1, end - begin);
    }

    const std::string type, traceback;
    const int signal;
    const bool may_have_run;
};

// Python as this program sees it: open as long as the object lives.
class Python
{
  public:
    Python(const Library &library, const std::string &folder)
        : last_error_(library.find<decltype(&python_last_error)>("python_last_error")),
          add_(library.find<decltype(&python_add)>("python_add")),
          divide_(library.find<decltype(&python_divide)>("python_divide")),
          crash_(library.find<decltype(&python_crash)>("python_crash")),
          close_(library.find<decltype(&python_close)>("python_close"))
    {
        check(library.find<decltype(&python_open)>("python_open")(folder.c_str()));
    }
    ~Python()
    {
        close_();
    }
    Python(const Python &) = delete;
    Python &operator=(const Python &) = delete;

    int add(int a, int b) const
    {
        return call(add_, a, b);
    }
    int divide(int a, int b) const
    {
        return call(divide_, a, b);
    }
    void crash() const
    {
        check(crash_());
    }

  private:
    int call(int (*function)(int, int, int *), int a, int b) const
    {
        int result;
        check(function(a, b, &result));
        return result;
    }

    void check(int code) const
    {
        if (code < 0)
            throw PythonError(*last_error_());
    }

    decltype(&python_last_error) last_error_;
    decltype(&python_add) add_;
    decltype(&python_divide) divide_;
    decltype(&python_crash) crash_;
    decltype(&python_close) close_;
};

void show_exception(const Python &python)
{
    try {
        const int result = python.divide(1, 0);
        std::cout << "divide(1, 0) = " << result << "\n";
    } catch (const PythonError &error) {
        std::cout << "divide(1, 0) raised " << error.type << ": " << error.what() << "\n"
                  << "    the traceback ends: " << error.traceback_last_line() << "\n";
    }
}

void show_crash(const Python &python)
{
    try {
        python.crash();
        std::cout << "crash() returned\n";
    } catch (const PythonError &error) {
        std::cout << "crash() lost its worker to signal " << error.signal
                  << (error.may_have_run ? ", in mid-call\n" : ", before the call\n");
    }
}

void show(const std::string &library_path, const std::string &folder)
{
    const Library library(library_path);
    const Python python(library, folder);

    std::cout << "add(3, 5) = " << python.add(3, 5) << std::endl;
    show_exception(python);
    show_crash(python);
    std::cout << "add(20, 22) = " << python.add(20, 22) << "\n";
}

} // namespace

int main(int argc, char **argv)
{
    try {
        show(argc > 1 ? argv[1] : BRIDGE_LIBRARY, argc > 2 ? argv[2] : BRIDGE_FOLDER);
        return 0;
    } catch (const PythonError &error) {
        std::cerr << "bridge: " << error.what() << "\n" << error.traceback;
    } catch (const std::exception &error) {
        std::cerr << "bridge: " << error.what() << "\n";
    }
    return 1;
}
