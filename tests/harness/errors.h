/* errors.h - tables of errors: what causes one, its code and its text, as doc/errors.md has them.

   Each row of that page's tables is one row here, with the same code and the same text, in which
   *name* stands for what differs. tests/errors.t compares the two. */
#ifndef TESTS_ERRORS_H
#define TESTS_ERRORS_H

#include <ctype.h>
#include <errno.h>

#include "tests/harness/crew.h"

static unsigned errors_wrong; /* rows of this test that were not what they are to be */

/* *name*: anything, but not nothing. */
TAP_FUNCTION const char *errors_behind_name(const char *pattern)
{
    const char *at = pattern + 1;

    if (*pattern != '*')
        return NULL;
    while (isalnum((unsigned char)*at) || *at == '_')
        at++;
    return *at == '*' && at > pattern + 1 ? at + 1 : NULL;
}

TAP_FUNCTION bool errors_match(const char *pattern, const char *text)
{
    const char *rest;

    for (; *pattern != '\0' && (rest = errors_behind_name(pattern)) == NULL; pattern++, text++)
        if (*pattern != *text)
            return false;
    if (*pattern == '\0')
        return *text == '\0';
    for (; *text != '\0'; text++)
        if (errors_match(rest, text + 1))
            return true;
    return false;
}

TAP_FUNCTION void errors_row(int line, const char *text, const char *said, const char *also)
{
    if (errors_match(text, said))
        return;
    errors_wrong++;
    tap_note("line %d: wanted: %s\n          got: %s%s", line, text, said, also);
}

TAP_FUNCTION void errors_expect(int line, int code, const char *type, const char *text, int given)
{
    const pycrew_error *e = pycrew_last_error();

    if (given != code || e->code != code) {
        errors_wrong++;
        tap_note("line %d: wanted %d (%s), got %d: %s", line, code, text, given, e->message);
        return;
    }
    if (type != NULL && (e->type == NULL || strcmp(e->type, type) != 0)) {
        errors_wrong++;
        tap_note("line %d: wanted a %s, got a %s: %s", line, type, e->type, e->message);
    }
    errors_row(line, text, e->message, "");
}

/* A row: the expression cause gives this code, and the last error this text. */
#define ERROR(code, text, cause) errors_expect(__LINE__, code, NULL, text, (cause))

/* The same of a Python exception. */
#define RAISED(type, text, cause) errors_expect(__LINE__, PYCREW_ERAISED, type, text, (cause))

/* The same of a line of the log: awaited, for it may come a little later. */
#define LOGGED(text, cause)                                                                        \
    do {                                                                                           \
        errors_log_begin();                                                                        \
        (void)(cause);                                                                             \
        errors_await_line(__LINE__, text);                                                         \
    } while (0)

static pthread_mutex_t errors_lock = PTHREAD_MUTEX_INITIALIZER;
static char errors_lines[32][600];
static unsigned errors_line_count;

TAP_FUNCTION void errors_log(void *data, int level, const char *line)
{
    (void)data;
    if (level == PYCREW_LOG_OUTPUT && strncmp(line, "pycrew: ", 8) != 0 &&
        strstr(line, "] pycrew: ") == NULL)
        return;
    pthread_mutex_lock(&errors_lock);
    if (errors_line_count < 32)
        snprintf(errors_lines[errors_line_count++], sizeof errors_lines[0], "%s", line);
    pthread_mutex_unlock(&errors_lock);
}

TAP_FUNCTION void errors_log_begin(void)
{
    pthread_mutex_lock(&errors_lock);
    errors_line_count = 0;
    pthread_mutex_unlock(&errors_lock);
}

TAP_FUNCTION bool errors_was_logged(const char *text)
{
    bool was = false;

    pthread_mutex_lock(&errors_lock);
    for (unsigned i = 0; i < errors_line_count; i++)
        was |= errors_match(text, errors_lines[i]);
    pthread_mutex_unlock(&errors_lock);
    return was;
}

TAP_FUNCTION void errors_await_line(int line, const char *text)
{
    int64_t until = now_ns() + (int64_t)((double)BOUND * tap_scale());

    while (!errors_was_logged(text) && now_ns() < until)
        pause_ns(MS);
    if (errors_was_logged(text))
        return;
    errors_wrong++;
    tap_note("line %d: the log has no line: %s; but:", line, text);
    for (unsigned i = 0; i < errors_line_count; i++)
        tap_note("    %s", errors_lines[i]);
}

/* A test that consists of rows: all are looked at before it fails. */
#define ROWS(name)                                                                                 \
    static void rows_##name(void);                                                                 \
    TEST(name)                                                                                     \
    {                                                                                              \
        rows_##name();                                                                             \
        if (errors_wrong > 0)                                                                      \
            tap_fail("%u of the rows are wrong", errors_wrong);                                    \
    }                                                                                              \
    static void rows_##name(void)

/* ---- causes -----------------------------------------------------------------------------------
 */

TAP_FUNCTION pycrew_options errors_options(void)
{
    pycrew_options options = test_options(1);

    options.log = errors_log;
    return options;
}

TAP_FUNCTION int errors_open(const pycrew_options *options)
{
    pycrew_crew *crew = NULL;
    int rc = pycrew_open(&crew, options);

    if (rc == 0)
        pycrew_close(crew);
    return rc;
}

/* OPEN(workers = 5000, options.debug = true): opens a crew with these options. */
#define OPEN(...)                                                                                  \
    __extension__({                                                                                \
        pycrew_options options = errors_options();                                                 \
        options.__VA_ARGS__;                                                                       \
        errors_open(&options);                                                                     \
    })

/* WITH_CALL(crew, pycrew_add_close(call)): of a call that is prepared, and released behind it. */
#define WITH_CALL(crew, expression)                                                                \
    __extension__({                                                                                \
        pycrew_call *call = prepare(crew, "api_ops:nothing");                                      \
        int with_call_rc = (expression);                                                           \
        pycrew_release(call);                                                                      \
        with_call_rc;                                                                              \
    })

/* The same of one that has ended, with what a Python expression gives. */
#define WITH_RESULT(crew, text, expression)                                                        \
    __extension__({                                                                                \
        pycrew_call *call = SUBMIT(crew, "api_ops:evaluate", "s", text);                           \
        OK(pycrew_wait(call, BOUND));                                                              \
        int with_result_rc = (expression);                                                         \
        pycrew_release(call);                                                                      \
        with_result_rc;                                                                            \
    })

/* PYTHON(crew, "1 + 'a'"): what the evaluation of it in a worker comes to. */
#define PYTHON(crew, text) pycrew_run(crew, "api_ops:evaluate", "s>", text)

#endif
