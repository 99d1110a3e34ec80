/* pycrew::error: what has failed, as an exception. */
#ifndef PYCREW_ERROR_HPP
#define PYCREW_ERROR_HPP

#include <chrono>
#include <exception>
#include <memory>
#include <string>

#include "../pycrew.h"

namespace pycrew
{

using nanoseconds = std::chrono::nanoseconds;

inline constexpr nanoseconds forever{PYCREW_FOREVER};

/* What pycrew_error has, kept for as long as the exception. Copies share it. */
class error : public std::exception
{
  public:
    explicit error(const pycrew_error &from) : what_(std::make_shared<const contents>(from))
    {
    }

    /* Of an error that this thread's last pycrew function returned; of the code alone if there is
     * none. */
    static error last(int code)
    {
        const pycrew_error *found = pycrew_last_error();

        return found->code == code ? error(*found) : of_code(code, pycrew_strerror(code));
    }

    static error of_code(int code, const char *message)
    {
        pycrew_error from{};

        from.size = sizeof from;
        from.code = code;
        from.message = message;
        return error(from);
    }

    /* The same, of a result that is not what was asked for: its function has run. */
    static error after_run(const error &why)
    {
        pycrew_error from{};

        if (why.may_have_run())
            return why;
        from.size = sizeof from;
        from.code = why.code();
        from.message = why.message().c_str();
        from.may_have_run = true;
        from.attempts = 1;
        return error(from);
    }

    int code() const noexcept /* a negated errno, or one of PYCREW_CODES */
    {
        return what_->code;
    }
    const std::string &
    type() const noexcept /* the exception's, "ValueError"; empty: there was none */
    {
        return what_->type;
    }
    const std::string &message() const noexcept
    {
        return what_->message;
    }
    const std::string &traceback() const noexcept /* empty: there is none */
    {
        return what_->traceback;
    }
    const std::string &function() const noexcept /* empty: no submitted call was involved */
    {
        return what_->function;
    }
    int signal() const noexcept /* of the worker, where it died by one, else 0 */
    {
        return what_->signal;
    }
    int exit_status() const noexcept
    {
        return what_->exit_status;
    }
    bool may_have_run() const noexcept
    {
        return what_->may_have_run;
    }
    bool out_of_memory() const noexcept
    {
        return what_->out_of_memory;
    }
    unsigned attempts() const noexcept
    {
        return what_->attempts;
    }
    const char *what() const noexcept override /* "ValueError: message" */
    {
        return what_->text.c_str();
    }

  private:
    struct contents {
        explicit contents(const pycrew_error &from)
            : code(from.code), signal(from.signal), exit_status(from.exit_status),
              attempts(from.attempts), may_have_run(from.may_have_run),
              out_of_memory(from.out_of_memory), type(text_or_empty(from.type)),
              message(text_or_empty(from.message)), traceback(text_or_empty(from.traceback)),
              function(text_or_empty(from.function)),
              text(type.empty() ? message : type + ": " + message)
        {
        }

        static const char *text_or_empty(const char *from)
        {
            return from != nullptr ? from : "";
        }

        int code, signal, exit_status;
        unsigned attempts;
        bool may_have_run, out_of_memory;
        std::string type, message, traceback, function, text;
    };

    std::shared_ptr<const contents> what_; /* shared, since copying an exception must not throw */
};

namespace detail
{

[[noreturn]] inline void fail(int code)
{
    throw error::last(code);
}

[[noreturn]] inline void fail(int code, const char *message)
{
    throw error::of_code(code, message);
}

inline int check(int code)
{
    if (code < 0)
        fail(code);
    return code;
}

} // namespace detail

} // namespace pycrew

#endif
