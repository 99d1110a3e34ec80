/* pycrew stubs: a module's functions for C and C++. Python does it, in a worker, where the module
 * is imported; its answer are errors, or files with their texts. */
#include "cli/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/crew.h"
#include "cli/signals.h"
#include "lib/pycrew-stubs.h"

/* ---- what Python is asked -------------------------------------------------------------------- */

static int add_text(pycrew_call *call, const char *name, const char *text)
{
    int r = text != NULL ? pycrew_add_name(call, name) : 0;
    return r == 0 && text != NULL ? pycrew_add_str(call, text, strlen(text)) : r;
}

static int add_only(pycrew_call *call, const struct list *only)
{
    int r = pycrew_add_name(call, "only");
    if (r == 0)
        r = pycrew_add_open(call, PYCREW_LIST);
    for (size_t i = 0; i < only->count && r == 0; i++)
        r = pycrew_add_str(call, only->items[i], strlen(only->items[i]));
    return r == 0 ? pycrew_add_close(call) : r;
}

static int fill(pycrew_call *call, const struct options *options)
{
    const struct {
        const char *name, *text;
    } texts[] = {{"prefix", options->prefix},         {"output", options->output_file},
                 {"c_header", options->c_header},     {"c_source", options->c_source},
                 {"cpp_header", options->cpp_header}, {"depfile", options->depfile},
                 {"int", options->int_type},          {"crew", options->crew}};
    int r = pycrew_add_str(call, options->function, strlen(options->function));
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]) && r == 0; i++)
        r = add_text(call, texts[i].name, texts[i].text);
    if (r == 0)
        r = pycrew_add(call, "sized_str=p", options->sized_str);
    return r == 0 ? add_only(call, &options->only) : r;
}

/* ---- what it answers ------------------------------------------------------------------------- */

static int write_all(int fd, const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, text, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        text += written;
        size -= (size_t)written;
    }
    return 0;
}

/* Whole or not at all: a half-written file would be newer than what it was made from, and stay. */
static int write_file(const char *path, const char *text, size_t size)
{
    struct buffer temporary = {0};
    buffer_print(&temporary, "%s.%ld.new", path, (long)getpid());
    const char *name = buffer_string(&temporary);
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int r = fd < 0 ? -errno : write_all(fd, text, size);
    if (fd >= 0 && close(fd) < 0 && r == 0)
        r = -errno;
    if (r == 0 && rename(name, path) < 0)
        r = -errno;
    if (r < 0) {
        say("%s: %s", path, strerror(-r));
        if (fd >= 0)
            unlink(name);
    }
    buffer_free(&temporary);
    return r;
}

static int write_files(pycrew_value files)
{
    size_t count = SIZE_MAX;
    pycrew_value file;
    int r = pycrew_value_items(files, PYCREW_LIST, "list", &count, &file);
    for (size_t i = 0; i < count && r == 0; i++, file = pycrew_value_next(file)) {
        const char *path, *text;
        size_t size, pair = 2;
        pycrew_value part;
        r = pycrew_value_items(file, PYCREW_TUPLE, "tuple", &pair, &part);
        if (r == 0)
            r = pycrew_value_str(part, &path, NULL);
        if (r == 0)
            r = pycrew_value_str(pycrew_value_next(part), &text, &size);
        if (r == 0)
            r = write_file(path, text, size);
    }
    return r < 0 ? EXIT_FAILED : EXIT_ALL_WELL;
}

/* Errors as a compiler says them: file, line, what. */
static int answer(pycrew_call *call)
{
    pycrew_value result = pycrew_result_value(call), errors = pycrew_value_item(result, 0);
    pycrew_value error = pycrew_value_item(errors, 0);
    const char *text;
    for (size_t i = 0; i < pycrew_value_count(errors); i++, error = pycrew_value_next(error))
        if (pycrew_value_str(error, &text, NULL) == 0)
            say_text(text);
    if (pycrew_value_count(errors) > 0)
        return EXIT_FAILED;
    return write_files(pycrew_value_item(result, 1));
}

static int fail(pycrew_call *call, int code)
{
    if (signals_exit_code() != 0)
        return signals_exit_code();
    const pycrew_error *error = pycrew_call_error(call);
    crew_say_error(error != NULL ? error : pycrew_last_error(), NULL, true);
    return crew_exit_code(code);
}

static int ask(pycrew_crew *crew, const pycrew_function *function, const struct options *options)
{
    pycrew_call *call;
    int r = pycrew_prepare(crew, function, PYCREW_FOREVER, &call);
    if (r < 0) {
        crew_say_error(pycrew_last_error(), NULL, true);
        return crew_exit_code(r);
    }
    signals_soften();
    r = fill(call, options);
    if (r == 0)
        r = pycrew_submit(call);
    if (r == 0)
        while ((r = pycrew_wait(call, TICK_NS)) == -ETIME)
            if (signals_stop() != STOP_NO)
                pycrew_cancel(call);
    int code = r == 0 ? answer(call) : fail(call, r);
    pycrew_release(call);
    return code;
}

int command_stubs(const struct options *options)
{
    pycrew_crew *crew;
    const pycrew_function *function;
    int code = crew_open(&crew, &function, options, 1);
    if (code == 0) {
        code = ask(crew, function, options);
        pycrew_close(crew); /* what Python printed is said by then */
    }
    return code;
}
