/* How a crew is to be: pycrew_options in C++'s types. */
#ifndef PYCREW_OPTIONS_HPP
#define PYCREW_OPTIONS_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"

namespace pycrew
{

/* Each as in pycrew.h, where it is explained: what is empty or 0 is the default. In C++20
 *     pycrew::crew crew({.workers = 4, .path = {"lib/python"}, .timeout = 2s}); */
struct options {
    unsigned workers = 0;
    std::string python{};
    std::vector<std::string> path{}, env{}, preload{};
    std::string init{}, exit{};
    unsigned calls = 0;
    std::size_t memory = 0;
    unsigned queues = 0;
    nanoseconds start_timeout{}, timeout{}, grace{};
    unsigned retries = 0;
    int output = PYCREW_LOG; /* or PYCREW_INHERIT, PYCREW_DISCARD */
    std::function<void(int level, const char *line)>
        log{}; /* in a thread of the crew's; what it throws is dropped */
    unsigned export_threads = 0;
    std::uint64_t max_calls_per_worker = 0;
    std::size_t max_worker_rss = 0;
    std::string cpus{};
    int nice = 0;
    std::int64_t limit_memory = 0, limit_files = 0, limit_core = 0;
    std::chrono::seconds limit_cpu{};
    bool debug = false;
    unsigned inflight = 0;
    std::string loop{};
    std::string engine{}, engine_options{};
    std::string trace{};
};

namespace detail
{

/* The same for C: it points into the options that it was made of. log is called as long as the crew
 * is there. */
class native_options
{
  public:
    native_options(const options &from, std::function<void(int, const char *)> *log)
        : path_(pointers(from.path)), env_(pointers(from.env)), preload_(pointers(from.preload))
    {
        set_python(from);
        set_limits(from);
        native_.workers = from.workers;
        native_.calls = from.calls;
        native_.memory = from.memory;
        native_.queues = from.queues;
        native_.start_timeout_ns = from.start_timeout.count();
        native_.timeout_ns = from.timeout.count();
        native_.grace_ns = from.grace.count();
        native_.retries = from.retries;
        native_.output = from.output;
        native_.export_threads = from.export_threads;
        native_.debug = from.debug;
        if (log != nullptr && *log) {
            native_.log = write_log;
            native_.log_data = log;
        }
    }

    const pycrew_options &get() const
    {
        return native_;
    }

  private:
    void set_python(const options &from)
    {
        native_.python = text(from.python);
        native_.path = list(path_);
        native_.env = list(env_);
        native_.preload = list(preload_);
        native_.init = text(from.init);
        native_.exit = text(from.exit);
        native_.inflight = from.inflight;
        native_.loop = text(from.loop);
        native_.engine = text(from.engine);
        native_.engine_options = text(from.engine_options);
        native_.trace = text(from.trace);
    }
    void set_limits(const options &from)
    {
        native_.max_calls_per_worker = from.max_calls_per_worker;
        native_.max_worker_rss = from.max_worker_rss;
        native_.cpus = text(from.cpus);
        native_.nice = from.nice;
        native_.limit_memory = from.limit_memory;
        native_.limit_files = from.limit_files;
        native_.limit_core = from.limit_core;
        native_.limit_cpu_s = from.limit_cpu.count();
    }

    static const char *text(const std::string &from)
    {
        return from.empty() ? nullptr : from.c_str();
    }
    static std::vector<const char *> pointers(const std::vector<std::string> &from)
    {
        std::vector<const char *> result;

        for (const std::string &each : from)
            result.push_back(each.c_str());
        result.push_back(nullptr);
        return result;
    }
    static const char *const *list(const std::vector<const char *> &from)
    {
        return from.size() > 1 ? from.data() : nullptr;
    }
    static void write_log(void *data, int level, const char *line)
    {
        try {
            (*static_cast<std::function<void(int, const char *)> *>(data))(level, line);
        } catch (...) { /* C calls this, where nobody could catch it */
        }
    }

    std::vector<const char *> path_, env_, preload_;
    pycrew_options native_ = PYCREW_OPTIONS_INIT;
};

} // namespace detail

} // namespace pycrew

#endif
