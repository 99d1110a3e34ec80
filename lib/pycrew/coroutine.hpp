/* Coroutines of C++20: co_await for calls and for the items of streams, in one thread.
 *
 *     pycrew::task<int> sum_of(pycrew::loop &loop)
 *     {
 *         auto a = loop.call<int>("math:comb", 10, 4);       on its way already,
 *         auto b = loop.call<int>("math:comb", 20, 4);       and this one beside it
 *         co_return co_await a + co_await b;
 *     }
 *     pycrew::loop loop(crew);
 *     int sum = loop.run(sum_of(loop));
 *
 * A loop is a queue of the crew's: no thread and no timer. A small program has it run until its
 * coroutines have ended; a service adds loop.fd() to its own epoll, and calls loop.poll() when that
 * is readable. Coroutines are resumed in there, and nowhere else, so all of a loop's are in one
 * thread at a time. Several loops, each in a thread of its own, may share a crew.
 *
 * Where other threads have all of the crew's calls, nothing makes fd() readable when one is free
 * again: poll now and then, too.
 *
 * A coroutine that is destroyed where it waits cancels what it waits for, and does not wait for
 * that. One that outlives the loop it waits in is never resumed by it. */
#ifndef PYCREW_COROUTINE_HPP
#define PYCREW_COROUTINE_HPP

#if defined(__cpp_impl_coroutine) && __has_include(<coroutine>)

#include <atomic>
#include <cerrno>
#include <coroutine>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include "crew.hpp"

namespace pycrew
{

/* ---- tasks ----------------------------------------------------------------------------------- */

template <typename T = void> class task;

namespace detail
{

class task_promise
{
  public:
    struct at_end {
        bool await_ready() const noexcept
        {
            return false;
        }
        template <typename Promise>
        std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> ended) const noexcept
        {
            const std::coroutine_handle<> next = ended.promise().waiter;

            return next ? next : std::noop_coroutine();
        }
        void await_resume() const noexcept
        {
        }
    };

    std::suspend_always initial_suspend() const noexcept
    {
        return {};
    }
    at_end final_suspend() const noexcept
    {
        return {};
    }
    void unhandled_exception() noexcept
    {
        thrown_ = std::current_exception();
    }

    std::coroutine_handle<> waiter;

  protected:
    void rethrow() const
    {
        if (thrown_)
            std::rethrow_exception(thrown_);
    }

  private:
    std::exception_ptr thrown_;
};

template <typename T> class promise_of : public task_promise
{
  public:
    task<T> get_return_object() noexcept;
    template <typename From> void return_value(From &&from)
    {
        result_.emplace(std::forward<From>(from));
    }
    T result()
    {
        rethrow();
        return std::move(*result_);
    }

  private:
    std::optional<T> result_;
};

template <> class promise_of<void> : public task_promise
{
  public:
    task<void> get_return_object() noexcept;
    void return_void() const noexcept
    {
    }
    void result() const
    {
        rethrow();
    }
};

} // namespace detail

/* A coroutine that begins when it is awaited, by another one or by a loop; its exception is thrown
 * there. Destroyed it ends where it is, with all that it waits for. */
template <typename T> class [[nodiscard]] task
{
  public:
    using promise_type = detail::promise_of<T>;

    explicit task(std::coroutine_handle<promise_type> owned) noexcept : coroutine_(owned)
    {
    }
    task(task &&from) noexcept : coroutine_(std::exchange(from.coroutine_, nullptr))
    {
    }
    task &operator=(task &&from) noexcept
    {
        std::swap(coroutine_, from.coroutine_);
        return *this;
    }
    ~task()
    {
        if (coroutine_)
            coroutine_.destroy();
    }

    bool await_ready() const noexcept
    {
        return coroutine_.done();
    }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<> waiter) const noexcept
    {
        coroutine_.promise().waiter = waiter;
        return coroutine_;
    }
    T await_resume() const
    {
        return coroutine_.promise().result();
    }

  private:
    friend class loop;

    std::coroutine_handle<promise_type> coroutine_;
};

template <typename T> task<T> detail::promise_of<T>::get_return_object() noexcept
{
    return task<T>(std::coroutine_handle<promise_of>::from_promise(*this));
}
inline task<void> detail::promise_of<void>::get_return_object() noexcept
{
    return task<void>(std::coroutine_handle<promise_of>::from_promise(*this));
}

/* ---- what a loop knows ----------------------------------------------------------------------- */

class loop;

namespace detail
{

/* A place in one of a loop's lists; it leaves that when it is destroyed. A list is one that is
 * nobody's. */
class link
{
  public:
    link() noexcept = default;
    link(link &&from) noexcept
    {
        if (from.linked())
            insert(*from.next_);
        from.unlink();
    }
    link &operator=(link &&) = delete;
    ~link()
    {
        unlink();
    }

    bool linked() const noexcept /* of a list: it is not empty */
    {
        return next_ != this;
    }
    link &next() const noexcept
    {
        return *next_;
    }
    void insert(link &before) noexcept
    {
        unlink();
        next_ = &before;
        previous_ = before.previous_;
        previous_->next_ = before.previous_ = this;
    }
    void unlink() noexcept
    {
        previous_->next_ = next_;
        next_->previous_ = previous_;
        next_ = previous_ = this;
    }

  private:
    link *next_ = this, *previous_ = this;
};

/* What a coroutine awaits of the loop: a call's end, or a stream's next item. The loop finds it by
 * the call's data. */
class awaited : public link
{
  public:
    awaited(awaited &&from) noexcept
        : link(std::move(from)), call_(std::move(from.call_)), failure_(std::move(from.failure_)),
          waiter_(std::exchange(from.waiter_, nullptr)), loop_(std::exchange(from.loop_, nullptr)),
          make_(std::move(from.make_)), function_(from.function_)
    {
        if (call_.native() != nullptr)
            call_.data(this);
    }
    awaited &operator=(awaited &&) = delete;

    void await_suspend(std::coroutine_handle<> waiter) noexcept
    {
        waiter_ = waiter;
    }

  protected:
    friend class pycrew::loop;

    explicit awaited(loop &in) noexcept : call_(nullptr, nullptr), loop_(&in)
    {
    }
    virtual ~awaited();

    /* The queue has announced its call: whether the waiter may go on. */
    virtual bool arrive() = 0;
    /* What is to be set before its call is submitted. */
    virtual void configure()
    {
    }

    void send(call &&filled, queue &announced_in)
    {
        call_ = std::move(filled);
        configure();
        call_.queue(announced_in).data(this).submit();
    }

    call call_;
    std::optional<error> failure_;
    std::coroutine_handle<> waiter_;
    loop *loop_;                                /* nullptr: it is gone, or has been moved from */
    std::function<call(pycrew_call *)> make_;   /* while no call is free: how to fill one, */
    const pycrew_function *function_ = nullptr; /* of this */
};

/* Arguments of calls that are to be made later, when those that were given may be gone. */
template <typename T> struct kept_keyword {
    std::string name;
    T given;
};

template <typename T> auto keep(const T &given);

template <typename T> auto keep(const keyword_argument<T> &given)
{
    return kept_keyword<decltype(keep(given.given))>{given.name, keep(given.given)};
}
template <typename T> auto keep(const array<T> &given)
{
    return given.view();
}
template <typename T> auto keep(const T &given)
{
    if constexpr (std::is_null_pointer_v<T>)
        return given;
    else if constexpr (std::is_array_v<T>)
        return std::string(given);
    else if constexpr (std::is_same_v<T, const char *> || std::is_same_v<T, char *>)
        return given != nullptr ? std::optional<std::string>(given) : std::nullopt;
    else if constexpr (std::is_same_v<T, std::string_view>)
        return std::string(given);
    else if constexpr (std::is_same_v<T, bytes_view>)
        return bytes(given.begin(), given.end());
    else
        return given;
}

} // namespace detail

template <typename T> struct convert<detail::kept_keyword<T>> {
    static int add(pycrew_call *call, const detail::kept_keyword<T> &argument)
    {
        return convert<keyword_argument<T>>::add(call, {argument.name.c_str(), argument.given});
    }
};

/* A call that is on its way, to be awaited once. Destroyed before its end it is cancelled, without
 * a wait. */
template <typename T> class [[nodiscard]] pending final : public detail::awaited
{
  public:
    pending(pending &&) noexcept = default;

    bool await_ready() const noexcept
    {
        return ended_ || loop_ == nullptr;
    }
    T await_resume()
    {
        if (failure_)
            throw *failure_;
        const call ended = std::move(call_); /* given back with its result read */
        if (ended.native() == nullptr)
            detail::fail(-EINVAL, "the call was awaited before, or its loop is gone");
        return ended.template result<T>();
    }
    /* Its await then throws -ECANCELED; false: it has ended. */
    bool cancel();

  private:
    friend class loop;
    using detail::awaited::awaited;

    bool arrive() override
    {
        return ended_ = true;
    }

    bool ended_ = false;
};

/* The items of an iterator in a worker: while (auto *item = co_await items.next()). */
template <typename T> class flow final : public detail::awaited
{
  public:
    flow(flow &&) noexcept = default;

    class next_item
    {
      public:
        bool await_ready() const;
        void await_suspend(std::coroutine_handle<> waiter) const noexcept
        {
            of_->await_suspend(waiter);
        }
        T *await_resume() const
        {
            return of_->take();
        }

      private:
        friend class flow;
        explicit next_item(flow *of) : of_(of)
        {
        }
        flow *of_;
    };

    /* Gives the next one, good until the one after it; nullptr: the end. Throws what ended the
     * stream. */
    next_item next()
    {
        return next_item(this);
    }

  private:
    friend class loop;
    using detail::awaited::awaited;

    void configure() override
    {
        detail::check(pycrew_set_stream(call_.native(), 0));
    }
    bool arrive() override
    {
        return waiter_ && look();
    }
    /* False: there is none yet, and the queue will say when. */
    bool look()
    {
        if (loop_ == nullptr)
            failure_ = error::of_code(-EINVAL, "the stream's loop is gone");
        if (failure_ || call_.native() == nullptr) /* which is to be sent yet */
            return failure_.has_value();
        item_.reset();
        found_ = pycrew_next(call_.native(), 0);
        if (found_ < 0 && found_ != -ETIME)
            failure_ = error::last(found_);
        return found_ != -ETIME;
    }
    T *take()
    {
        if (failure_)
            throw *failure_;
        if (found_ == 0)
            return nullptr;
        item_.emplace(call_.template result<T>());
        return &*item_;
    }

    int found_ = 0;
    std::optional<T> item_;
};

/* ---- the loop -------------------------------------------------------------------------------- */

/* Used by one thread at a time, but for stop. To be gone before its crew is, and not to be
 * destroyed, run or polled by its own coroutines. */
class loop
{
  public:
    explicit loop(const crew &of) : crew_(of.native()), queue_(of.queue())
    {
    }
    loop(const loop &) = delete;
    loop &operator=(const loop &) = delete;
    /* Coroutines that were started are destroyed where they wait. */
    ~loop()
    {
        while (started_.linked())
            std::coroutine_handle<starter::promise_type>::from_promise(
                static_cast<starter::promise_type &>(started_.next()))
                .destroy();
        for (detail::link *list : {&flying_, &later_, &ready_})
            while (list->linked())
                forget(static_cast<detail::awaited &>(list->next()));
    }

    /* A call that is on its way from here on; co_await gives its result, or throws what it failed
     * with. Where all calls are in use it goes later, with copies of its arguments; elements of
     * arrays are to be there until then. */
    template <typename T = void, typename Of, typename... Arguments>
    pending<T> call(const Of &of, const Arguments &...arguments)
    {
        static_assert(!detail::borrows<T>::value, "a view of a result that is gone");
        pending<T> result(*this);

        begin(
            result, of,
            [](pycrew::call &made, const auto &...given) { detail::fill<T>(made, given...); },
            arguments...);
        return result;
    }
    /* The same of a call that is filled: with a deadline of its own, or of an actor's. */
    template <typename T = void> pending<T> submit(pycrew::call &&filled)
    {
        static_assert(!detail::borrows<T>::value, "a view of a result that is gone");
        pending<T> result(*this);

        send(result, std::move(filled));
        return result;
    }
    /* The items of a generator, or of any function that returns an iterator. T may be a view: of
     * the last item. */
    template <typename T, typename Of, typename... Arguments>
    flow<T> stream(const Of &of, const Arguments &...arguments)
    {
        flow<T> result(*this);

        begin(
            result, of, [](pycrew::call &made, const auto &...given) { made.add(given...); },
            arguments...);
        return result;
    }

    /* Begins it; it is the loop's then. What it throws is thrown by poll or run, or here where it
     * does not wait. */
    void start(task<void> work)
    {
        const starter begun = run_started(*this, std::move(work));

        begun.coroutine.promise().enter(*this);
        begun.coroutine.resume();
        send_later();
        rethrow();
    }

    int fd() const /* readable when there may be something to poll for */
    {
        return queue_.fd();
    }
    /* Resumes all whose calls have ended; never waits. */
    void poll()
    {
        step(nanoseconds(0));
    }
    /* Until nothing is on its way any more, or a stop. */
    void run()
    {
        while (!stopped_.load() && is_under_way())
            step(forever);
        stopped_.store(false);
    }
    /* Until this has ended, with its result. Other coroutines run meanwhile. -EDEADLK: it waits for
     * nothing of this loop's; -ECANCELED: a stop. */
    template <typename T> T run(task<T> work)
    {
        work.coroutine_.resume();
        while (!work.coroutine_.done()) {
            if (stopped_.exchange(false))
                detail::fail(-ECANCELED, "the loop was stopped");
            if (!is_under_way())
                detail::fail(-EDEADLK, "the coroutine waits for nothing of this loop's");
            step(forever);
        }
        return work.await_resume();
    }
    /* Ends a run, or the next one: from any thread. */
    void stop()
    {
        stopped_.store(true);
        queue_.wake();
    }

  private:
    friend class detail::awaited;
    template <typename T> friend class pending;
    template <typename T> friend class flow;

    /* The coroutine around one that was started: nobody's, and so it destroys itself at its end. */
    struct starter {
        struct promise_type : detail::link {
            starter get_return_object() noexcept
            {
                return {std::coroutine_handle<promise_type>::from_promise(*this)};
            }
            std::suspend_always initial_suspend() const noexcept
            {
                return {};
            }
            std::suspend_never final_suspend() const noexcept
            {
                return {};
            }
            void return_void() const noexcept
            {
            }
            void unhandled_exception() noexcept
            {
                if (!of->thrown_)
                    of->thrown_ = std::current_exception();
            }
            void enter(loop &in) noexcept
            {
                of = &in;
                insert(in.started_);
            }

            loop *of = nullptr;
        };

        std::coroutine_handle<promise_type> coroutine;
    };

    static starter run_started(loop &, task<void> work)
    {
        co_await work;
    }

    static void forget(detail::awaited &waits) noexcept
    {
        waits.unlink();
        waits.loop_ = nullptr;
    }

    bool is_under_way() const noexcept
    {
        return flying_.linked() || later_.linked() || ready_.linked();
    }

    void send(detail::awaited &what, pycrew::call &&filled)
    {
        what.send(std::move(filled), queue_);
        what.insert(flying_);
    }

    template <typename Of, typename Fill, typename... Arguments>
    void begin(detail::awaited &what, const Of &of, Fill fill, const Arguments &...arguments)
    {
        const pycrew_function *function = find(of);
        pycrew_call *made;
        /* Nothing of ours ends if there is nothing: then others have all calls, and one has to be
         * waited for. */
        const int rc = pycrew_prepare(crew_, function, is_under_way() ? 0 : PYCREW_FOREVER, &made);

        if (rc == -EAGAIN && is_under_way()) {
            what.make_ = [crew = crew_, fill,
                          kept = std::make_tuple(detail::keep(arguments)...)](pycrew_call *free) {
                pycrew::call filled(free, crew);

                std::apply([&](const auto &...given) { fill(filled, given...); }, kept);
                return filled;
            };
            what.function_ = function;
            what.insert(later_);
            return;
        }
        detail::check(rc);
        pycrew::call filled(made, crew_);
        fill(filled, arguments...);
        send(what, std::move(filled));
    }

    const pycrew_function *find(pycrew::function of) const
    {
        return of.native();
    }
    const pycrew_function *find(const char *name) const
    {
        const pycrew_function *found;

        detail::check(pycrew_function_get(crew_, name, &found));
        return found;
    }
    const pycrew_function *find(const std::string &name) const
    {
        return find(name.c_str());
    }

    /* Those that found no call free, in their order. */
    void send_later()
    {
        while (later_.linked()) {
            detail::awaited &first = static_cast<detail::awaited &>(later_.next());
            pycrew_call *made;
            const int rc = pycrew_prepare(crew_, first.function_, 0, &made);

            if (rc == -EAGAIN)
                return;
            try {
                detail::check(rc);
                send(first, std::exchange(first.make_, nullptr)(made));
            } catch (const error &why) {
                fail(first, why);
            } catch (const std::bad_alloc &) {
                fail(first, error::of_code(-ENOMEM, "no memory is left"));
            }
        }
    }

    void fail(detail::awaited &what, const error &why)
    {
        what.failure_ = why;
        announce(what);
    }

    /* Its call has appeared in the queue, or never will. */
    void announce(detail::awaited &what)
    {
        const bool may_go_on = what.arrive();

        if (!what.waiter_)
            what.unlink();
        else if (may_go_on)
            what.insert(ready_);
    }

    void collect(nanoseconds within)
    {
        pycrew_call *ended[64];
        int count;

        do {
            count = detail::check(pycrew_queue_reap(queue_.native(), ended, 64, within.count()));
            for (int i = 0; i < count; i++)
                announce(*static_cast<detail::awaited *>(pycrew_data(ended[i])));
            within = nanoseconds(0);
        } while (count == 64);
    }

    void resume_ready()
    {
        while (ready_.linked() && !thrown_) {
            detail::awaited &first = static_cast<detail::awaited &>(ready_.next());

            first.unlink();
            std::exchange(first.waiter_, nullptr).resume();
            send_later();
        }
    }

    /* Where others have all calls nobody tells us when one is free. */
    void step(nanoseconds within)
    {
        if (later_.linked() && within != nanoseconds(0))
            within = std::chrono::milliseconds(1);
        if (!ready_.linked())
            collect(within);
        send_later();
        resume_ready();
        rethrow();
    }

    void rethrow()
    {
        if (!thrown_)
            return;
        if (ready_.linked())
            queue_.wake(); /* there is more to poll for */
        std::rethrow_exception(std::exchange(thrown_, nullptr));
    }

    pycrew_crew *crew_;
    queue queue_;
    detail::link flying_;  /* something of theirs will appear in the queue; */
    detail::link later_;   /* their calls are not made yet; */
    detail::link ready_;   /* to be resumed */
    detail::link started_; /* coroutines that are the loop's */
    std::exception_ptr thrown_;
    std::atomic<bool> stopped_{false};
};

/* Its call is free for one that waits for that: who polls is to look. */
inline detail::awaited::~awaited()
{
    const bool wanted = loop_ != nullptr && call_.native() != nullptr && loop_->later_.linked();

    if (!wanted)
        return;
    call_ = call(nullptr, nullptr);
    pycrew_queue_wake(loop_->queue_.native());
}

template <typename T> bool pending<T>::cancel()
{
    if (call_.native() != nullptr)
        return call_.cancel();
    if (ended_ || loop_ == nullptr)
        return false;
    make_ = nullptr;
    loop_->fail(*this, error::of_code(-ECANCELED, "the call was cancelled"));
    loop_->queue_.wake();
    return true;
}

template <typename T> bool flow<T>::next_item::await_ready() const
{
    if (of_->look())
        return true;
    if (of_->call_.native() != nullptr)
        of_->insert(of_->loop_->flying_);
    return false;
}

} // namespace pycrew

#endif
#endif
