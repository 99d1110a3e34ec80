/* bridge: the functions of math_ops.py as plain C functions, for C, C++, or whatever can dlopen.
 *
 * Python runs in worker processes: whatever happens to it arrives here as an error code, and the
 * next call works again. python_open comes before, python_close after all else; in between every
 * function may be called from any thread.
 *
 * All that can fail returns 0, or a negative code and leaves *ret as it was.
 */
#ifndef BRIDGE_H
#define BRIDGE_H

#include "math_ops.h" /* python_add and the others, written by pycrew stubs from math_ops.py */

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong. A string that does not apply is NULL. */
struct python_error {
    int code;              /* what the function returned */
    const char *type;      /* the exception's type, as "ZeroDivisionError"; NULL: it was none */
    const char *message;   /* one line for people, never NULL */
    const char *traceback; /* Python's, several lines */
    int signal;            /* that killed the worker, else 0 */
    int may_have_run;      /* 0: the Python function was certainly never entered */
};

/* folder: where math_ops.py is. -EALREADY, without more about it: it is open. */
int python_open(const char *folder);
void python_close(void);

/* This thread's last failure; its strings live until this thread's next python_ call. */
const struct python_error *python_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
