/* The calls of crew::async: a thread that keeps the promises of those that have ended. */
#ifndef PYCREW_FUTURE_HPP
#define PYCREW_FUTURE_HPP

#include <atomic>
#include <cerrno>
#include <csignal>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "call.hpp"
#include "queue.hpp"

namespace pycrew
{

namespace detail
{

/* The calls of crew::async: a thread that keeps the promises of those that have ended. */
class collector
{
  public:
    explicit collector(pycrew_crew *of) : crew_(of)
    {
    }
    collector(const collector &) = delete;
    collector &operator=(const collector &) = delete;
    ~collector()
    {
        if (!thread_.joinable())
            return;
        if (owner_ == getpid())
            stop();
        else /* a fork of the process that opened the crew: the thread is not here */
            thread_.detach();
    }

    template <typename T> std::future<T> submit(call &&prepared)
    {
        auto promise = std::make_unique<promised<T>>();
        std::future<T> future = promise->promise.get_future();
        pycrew_call *native = prepared.native();
        const std::lock_guard<std::mutex> lock(mutex_);

        start();
        prepared.queue(queue_->native());
        const auto waiting =
            waiting_.emplace(native, entry{std::move(prepared), std::move(promise)}).first;
        try {
            waiting->second.made.submit();
        } catch (...) {
            waiting_.erase(waiting);
            throw;
        }
        return future;
    }

  private:
    struct task {
        virtual ~task() = default;
        virtual void keep(const call &ended) = 0;
        virtual void break_with(const error &why) = 0;
    };

    template <typename T> struct promised : task {
        void keep(const call &ended) override
        {
            try {
                if constexpr (std::is_void_v<T>) {
                    ended.result<void>();
                    promise.set_value();
                } else {
                    promise.set_value(ended.result<T>());
                }
            } catch (...) {
                promise.set_exception(std::current_exception());
            }
        }
        void break_with(const error &why) override
        {
            promise.set_exception(std::make_exception_ptr(why));
        }

        std::promise<T> promise;
    };

    struct entry {
        call made;
        std::unique_ptr<task> promise;
    };

    /* At the first call. Signals are for the program's own threads. */
    void start()
    {
        sigset_t all, before;
        pycrew_queue *opened;

        if (thread_.joinable())
            return;
        if (!queue_) {
            check(pycrew_queue_open(crew_, &opened));
            queue_.emplace(opened);
        }
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        try {
            thread_ = std::thread([this] { collect(); });
        } catch (...) {
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
            throw;
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        owner_ = getpid();
    }

    /* Those that have not ended are cancelled when they are destroyed. */
    void stop()
    {
        stopping_ = true;
        pycrew_queue_wake(queue_->native());
        thread_.join();
        for (auto &waiting : waiting_)
            waiting.second.promise->break_with(
                error::of_code(-ECANCELED, "the crew was closed before the call's end"));
    }

    void collect()
    {
        pycrew_call *ended[64];
        bool last;
        int count;

        do { /* once more after the wake, for those that have ended by then */
            last = stopping_;
            count = pycrew_queue_reap(queue_->native(), ended, 64, last ? 0 : PYCREW_FOREVER);
            for (int i = 0; i < count; i++)
                keep_promise(ended[i]);
        } while (count >= 0 && (count > 0 || !last));
    }

    void keep_promise(pycrew_call *ended)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        const auto waiting = waiting_.extract(ended);

        lock.unlock();
        if (!waiting.empty())
            waiting.mapped().promise->keep(waiting.mapped().made);
    }

    pycrew_crew *crew_;
    std::optional<queue> queue_; /* before the calls, which are gone first */
    std::mutex mutex_;
    std::unordered_map<pycrew_call *, entry> waiting_;
    std::atomic<bool> stopping_{false};
    std::thread thread_;
    pid_t owner_ = 0;
};

} // namespace detail

} // namespace pycrew

#endif
