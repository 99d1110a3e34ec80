/* run: one call, start to finish. */
#include <errno.h>

#include "lib/crew.h"
#include "lib/format.h"

/* Waits with the deadline alone, so that the call ends before its memory is given back. */
int pc_run_finish(pycrew_call *call, const char *result, va_list *arguments)
{
    int rc = pycrew_submit(call);

    if (rc == 0)
        rc = pc_call_wait(call, PYCREW_FOREVER);
    if (rc < 0)
        return rc;
    rc = pc_format_result(call->result, call, result, arguments, true);
    return rc < 0 ? pc_call_fail_after_run(call, rc) : rc;
}

static int run_inside(pycrew_crew *crew, const int64_t *timeout_ns, const char *name,
                      const char *format, va_list *arguments)
{
    const pycrew_function *function;
    const char *result = "";
    pycrew_call *call;
    int rc;

    rc = pycrew_function_get(crew, name, &function);
    if (rc < 0 || (rc = pycrew_prepare(crew, function, PYCREW_FOREVER, &call)) < 0)
        return rc;
    if (timeout_ns != NULL)
        call->timeout_ns = *timeout_ns < 0 || crew->debug ? PYCREW_FOREVER : *timeout_ns;
    rc = pc_format_build(&call->builder, format, arguments, &result);
    if (rc == 0)
        rc = pc_run_finish(call, result, arguments);
    pycrew_release(call);
    return rc;
}

static int run(pycrew_crew *crew, const int64_t *timeout_ns, const char *name, const char *format,
               va_list *arguments)
{
    int rc;

    if (crew == NULL || format == NULL)
        return pc_fail(-EINVAL, "pycrew_run: crew and format must not be NULL");
    rc = pc_crew_check(crew);
    if (rc < 0)
        return rc;
    pc_crew_enter(crew);
    rc = run_inside(crew, timeout_ns, name, format, arguments);
    pc_crew_leave(crew);
    return rc;
}

int pycrew_run(pycrew_crew *crew, const char *function, const char *format, ...)
{
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = run(crew, NULL, function, format, &arguments);
    va_end(arguments);
    return rc;
}

int pycrew_run_within(pycrew_crew *crew, int64_t timeout_ns, const char *function,
                      const char *format, ...)
{
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = run(crew, &timeout_ns, function, format, &arguments);
    va_end(arguments);
    return rc;
}
