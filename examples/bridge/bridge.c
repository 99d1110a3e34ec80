/* bridge: the C ABI of bridge.h on top of libpycrew, one line of pycrew_run a function. */
#include "bridge.h"

#include <errno.h>
#include <pycrew.h>
#include <stddef.h>

static pycrew_crew *crew;
static _Thread_local struct python_error last = {.message = ""};

const struct python_error *python_last_error(void)
{
    return &last;
}

/* Notes why a pycrew function failed. The strings stay where they are: they and ours have the same
 * lifetime, since each python_ function calls into pycrew at most once. */
static int outcome(int rc)
{
    if (rc >= 0)
        return 0;
    const pycrew_error *error = pycrew_last_error();
    last = (struct python_error){.code = rc,
                                 .type = error->type,
                                 .message = error->message,
                                 .traceback = error->traceback,
                                 .signal = error->signal,
                                 .may_have_run = error->may_have_run};
    return rc;
}

static int misuse(int code, const char *message)
{
    last = (struct python_error){.code = code, .message = message};
    return code;
}

int python_open(const char *folder)
{
    if (crew)
        return misuse(-EALREADY, "python_open has been called before");
    const char *path[] = {folder, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.path = path;
    return outcome(pycrew_open(&crew, &options));
}

void python_close(void)
{
    pycrew_close(crew);
    crew = NULL;
}

int python_add(int a, int b, int *ret)
{
    if (!crew)
        return misuse(-ENOTCONN, "python_open has not been called");
    return outcome(pycrew_run(crew, "math_ops:add", "ii>i", a, b, ret));
}

int python_divide(int a, int b, int *ret)
{
    if (!crew)
        return misuse(-ENOTCONN, "python_open has not been called");
    return outcome(pycrew_run(crew, "math_ops:divide", "ii>i", a, b, ret));
}

int python_crash(void)
{
    if (!crew)
        return misuse(-ENOTCONN, "python_open has not been called");
    return outcome(pycrew_run(crew, "math_ops:crash", ">"));
}
