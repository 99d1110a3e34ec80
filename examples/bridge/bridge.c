/* bridge: what of bridge.h is no function of math_ops.py's: a crew for those, and their errors. */
#include "bridge.h"

#include <errno.h>
#include <pycrew.h>
#include <stddef.h>

pycrew_crew *python_crew; /* what the functions in math_ops.c use; NULL is an error to them */

const struct python_error *python_last_error(void)
{
    static _Thread_local struct python_error last;
    const pycrew_error *error = pycrew_last_error();
    last = (struct python_error){.code = error->code,
                                 .type = error->type,
                                 .message = error->message,
                                 .traceback = error->traceback,
                                 .signal = error->signal,
                                 .may_have_run = error->may_have_run};
    return &last;
}

int python_open(const char *folder)
{
    const char *path[] = {folder, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.path = path;
    return python_crew ? -EALREADY : pycrew_open(&python_crew, &options);
}

void python_close(void)
{
    pycrew_close(python_crew);
    python_crew = NULL;
}
