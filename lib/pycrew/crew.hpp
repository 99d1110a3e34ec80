/* The crew, and what it is asked for. */
#ifndef PYCREW_CREW_HPP
#define PYCREW_CREW_HPP

#include <cerrno>
#include <cstddef>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "actor.hpp"
#include "batch.hpp"
#include "future.hpp"
#include "host.hpp"
#include "map.hpp"
#include "options.hpp"
#include "stats.hpp"
#include "stream.hpp"

namespace pycrew
{

class crew
{
  public:
    explicit crew(const options &with = options())
    {
        held_->log = with.log;
        open(detail::native_options(with, &held_->log).get());
    }
    /* Of pycrew.h's own. */
    template <typename Options,
              typename = std::enable_if_t<std::is_base_of_v<pycrew_options, Options>>>
    explicit crew(const Options &with)
    {
        open(with);
    }
    crew(crew &&from) noexcept
        : native_(std::exchange(from.native_, nullptr)), held_(std::move(from.held_))
    {
    }
    crew &operator=(crew &&from) noexcept
    {
        if (this != &from) {
            close();
            native_ = std::exchange(from.native_, nullptr);
            held_ = std::move(from.held_);
        }
        return *this;
    }
    ~crew()
    {
        close();
    }

    /* Interrupts what runs, and after the grace kills it. No other thread is to be inside. */
    void close() noexcept
    {
        if (held_)
            held_->promises.reset();
        pycrew_close(std::exchange(native_, nullptr));
        held_.reset(); /* what was exported may run until here */
    }
    /* No new calls from here on; until none is in flight. false: the time passed. */
    bool drain(nanoseconds within = forever)
    {
        return within_time(pycrew_drain(native_, within.count()));
    }
    /* Workers with fresh imports, without a lost call. false: the time passed. */
    bool reload(nanoseconds within = forever)
    {
        return within_time(pycrew_reload(native_, within.count()));
    }

    pycrew::function get(const char *name) const
    {
        const pycrew_function *found;

        detail::check(pycrew_function_get(native_, name, &found));
        return pycrew::function(found);
    }
    pycrew::function source(const char *name, const char *text) const
    {
        const pycrew_function *made;

        detail::check(pycrew_function_source(native_, name, text, &made));
        return pycrew::function(made);
    }

    /* A call to be filled. Of: a function, or its name. Waits for one to be free; throws -ETIME. */
    template <typename Of> pycrew::call prepare(const Of &of, nanoseconds within = forever) const
    {
        pycrew_call *made;

        detail::check(pycrew_prepare(native_, find(of).native(), within.count(), &made));
        return pycrew::call(made, native_);
    }

    /* One call, start to finish. */
    template <typename T = void, typename Of, typename... Arguments>
    T run(const Of &of, const Arguments &...arguments) const
    {
        return detail::run<T>(prepare(of), arguments...);
    }
    /* The same with its own deadline. */
    template <typename T = void, typename Of, typename... Arguments>
    T run_within(nanoseconds within, const Of &of, const Arguments &...arguments) const
    {
        pycrew::call made = prepare(of);

        made.timeout(within);
        return detail::run<T>(std::move(made), arguments...);
    }
    /* Once in each worker, also in those that are starting; without a result. The error's message
     * begins with the first worker that failed. */
    template <typename Of, typename... Arguments>
    void run_each(const Of &of, const Arguments &...arguments) const
    {
        pycrew::call made = prepare(of);

        made.add(arguments...);
        detail::check(pycrew_run_each_call(made.release()));
    }

    /* As run, without waiting for its end; the future throws what it failed with. Its promise is
     * kept by a thread of the wrapper's own. */
    template <typename T = void, typename Of, typename... Arguments>
    std::future<T> async(const Of &of, const Arguments &...arguments) const
    {
        pycrew::call made = prepare(of);

        detail::fill<T>(made, arguments...);
        return async<T>(std::move(made));
    }
    /* Of a call that is filled, with a deadline of its own, say, and not submitted. */
    template <typename T = void> std::future<T> async(pycrew::call &&prepared) const
    {
        static_assert(!detail::borrows<T>::value, "a view of a result that is gone");
        return held_->promises->submit<T>(std::move(prepared));
    }

    /* The items of a generator, or of any function that returns an iterator. */
    template <typename T, typename Of, typename... Arguments>
    pycrew::stream<T> stream(const Of &of, const Arguments &...arguments) const
    {
        pycrew::call made = prepare(of);

        made.add(arguments...);
        return pycrew::stream<T>(std::move(made));
    }

    /* An object, class(arguments...), that stays in one worker: Of is the class, or any function
     * whose result is to stay. */
    template <typename Of, typename... Arguments>
    pycrew::actor actor(const Of &of, const Arguments &...arguments) const
    {
        pycrew::call made = prepare(of);

        made.add(arguments...);
        return actor(std::move(made));
    }
    /* The same of a call that is filled. */
    pycrew::actor actor(pycrew::call &&prepared) const
    {
        pycrew_actor *made;

        detail::check(pycrew_actor_new(prepared.release(), &made));
        return {made, native_, held_->promises.get()};
    }

    /* output[i] = of(inputs[i]...), by all workers; returns how many elements failed. Columns are
     * array views, buffers, vectors, spans; a number is the same for all elements. As pycrew_map.
     */
    template <typename Of, typename Output, typename... Inputs>
    std::size_t map(const Of &of, const map_options &with, Output &&output,
                    const Inputs &...inputs) const
    {
        return detail::map(native_, find(of).native(), with, detail::output_of(output), inputs...);
    }
    template <typename Of, typename Output, typename... Inputs,
              typename = std::enable_if_t<!std::is_same_v<std::decay_t<Output>, map_options>>>
    std::size_t map(const Of &of, Output &&output, const Inputs &...inputs) const
    {
        return map(of, map_options(), output, inputs...);
    }

    /* Offers a function to Python code in all workers as pycrew.host.NAME, until the crew is
     * closed: crew.export_function("price", [&](const std::string &of) { return prices.at(of); });
     * It is kept by the crew, and runs in a thread of the crew's; options.export_threads says how
     * many at a time. Parameters and result are of the types that results and arguments are of
     * (views point into Python's arguments, and arrays come as array_view of const); a
     * std::optional at the end may be missing. names: the parameters', by which they may come as
     * keywords. A host_call as the first parameter tells it whether anybody still waits. What it
     * throws is raised by Python's call: pycrew::python_error as it says, an error of pycrew's by
     * its type or code, std::out_of_range as IndexError, other logic errors as ValueError,
     * std::bad_alloc, std::overflow_error and std::system_error as MemoryError, OverflowError and
     * OSError, and all else as RuntimeError. */
    template <typename F>
    void export_function(const char *name, F &&function, std::vector<std::string> names = {}) const
    {
        using kept = detail::exported_function<std::decay_t<F>>;
        auto made = std::make_unique<kept>(std::forward<F>(function), std::move(names));

        if (!held_)
            detail::fail(-EINVAL, "the crew was closed");
        const std::lock_guard<std::mutex> lock(held_->mutex);
        held_->exported.reserve(held_->exported.size() +
                                1); /* so that nothing fails behind this: */
        detail::check(pycrew_export(native_, name, detail::exported::run,
                                    static_cast<detail::exported *>(made.get())));
        held_->exported.push_back(std::move(made));
    }

    /* What it is doing, with each worker where that is asked for. Never sleeps. */
    pycrew::stats stats(bool each_worker = false) const
    {
        return detail::stats_of(native_, each_worker);
    }

    /* What a share (0 to 1) of the calls took at most, of one worker or of all: see pycrew_stats_quantile. */
    std::chrono::nanoseconds quantile(pycrew_interval interval, double share, int worker = -1) const
    {
        return detail::quantile_of(native_, interval, share, worker);
    }

    /* All of it as Prometheus reads it; name is the label `crew`, or nullptr: see pycrew_metrics_write. */
    std::string metrics(const char *name = nullptr) const
    {
        return detail::metrics_of(native_, name);
    }

    template <typename T, typename Of>
    pycrew::batch<T> batch(const Of &of, const pycrew_batch_options &with = batch_options()) const
    {
        pycrew_batch *opened;

        detail::check(pycrew_batch_open(native_, find(of).native(), &with, &opened));
        return pycrew::batch<T>(opened, native_);
    }

    template <typename T> pycrew::buffer<T> alloc(std::size_t size) const
    {
        return pycrew::buffer<T>(native_, size);
    }

    pycrew::queue queue() const
    {
        pycrew_queue *opened;

        detail::check(pycrew_queue_open(native_, &opened));
        return pycrew::queue(opened);
    }

    pycrew_crew *native() const noexcept
    {
        return native_;
    }

  private:
    /* What lives as long as the crew, wherever that is moved. */
    struct holdings {
        std::function<void(int, const char *)> log;
        std::unique_ptr<detail::collector> promises;
        std::mutex mutex;
        std::vector<std::unique_ptr<detail::exported>> exported;
    };

    void open(const pycrew_options &with)
    {
        detail::check(pycrew_open(&native_, &with));
        held_->promises = std::make_unique<detail::collector>(native_);
    }

    static pycrew::function find(pycrew::function of)
    {
        return of;
    }
    pycrew::function find(const char *name) const
    {
        return get(name);
    }
    pycrew::function find(const std::string &name) const
    {
        return get(name.c_str());
    }

    static bool within_time(int rc)
    {
        return rc != -ETIME && detail::check(rc) == 0;
    }

    pycrew_crew *native_ = nullptr;
    std::unique_ptr<holdings> held_ = std::make_unique<holdings>();
};

} // namespace pycrew

#endif
