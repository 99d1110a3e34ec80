/* crew: a pycrew_crew as the options say, and its errors as exit codes. */
#ifndef CLI_CREW_H
#define CLI_CREW_H

#include "cli/options.h"
#include "lib/pycrew.h"

enum {
    EXIT_ALL_WELL = 0,
    EXIT_FAILED = 1, /* the function raised, or some records failed, or output was lost */
    EXIT_USAGE = 2,  /* or bad input */
    EXIT_CANNOT_START = 3,
    EXIT_DIED = 4,
    EXIT_HALTED = 5,
    EXIT_DEADLINE = 124,
    EXIT_CLOSED_PIPE = 141,
};

/* How long the command lets the library wait before it looks for signals and its own clock. */
#define TICK_NS ((int64_t)100000000)

/* workers: where the options leave it open. 0, or a code of the command after saying why. */
int crew_open(pycrew_crew **ret, const pycrew_function **ret_function,
              const struct options *options, unsigned workers);

/* The command's exit code for one of the library's. */
int crew_exit_code(int code);

/* "PYCREW_EDIED", "ETIMEDOUT". */
const char *crew_code_name(int code);

/* Says what went wrong: traceback and message; where is put in front, or NULL. */
void crew_say_error(const pycrew_error *error, const char *where, bool with_traceback);

/* The error in one line, as crew_say_error has it. */
void crew_describe(struct buffer *to, const pycrew_error *error);

#endif
