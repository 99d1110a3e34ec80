/* crew: a pycrew_crew as the options say, and its errors as exit codes. */
#include "cli/crew.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/console.h"

enum { WARNINGS_MAX = 10 };

/* Of a map that loses a worker with each record the first few say it all; a call that loses its
 * worker says so itself. */
static bool warning_shown(const struct options *options)
{
    static unsigned shown; /* by the crew's own thread only */
    if (options->quiet || (options->command != COMMAND_MAP && !options->verbose))
        return false;
    return options->verbose || ++shown <= WARNINGS_MAX;
}

static void on_log(void *data, int level, const char *line)
{
    if (level == PYCREW_LOG_OUTPUT)
        say_text(line);
    else if (level == PYCREW_LOG_ERROR || warning_shown(data))
        say("%s", line);
}

/* The current directory, and the options' behind it; NULL-terminated. The caller frees the first,
 * and the list. */
static const char **make_path(const struct list *path)
{
    const char **all = allocate((path->count + 2) * sizeof(*all));
    all[0] = getcwd(NULL, 0);
    if (all[0] == NULL)
        all[0] = copy_bytes(".", 1);
    memcpy(all + 1, path->items, (path->count + 1) * sizeof(*all));
    return all;
}

static int start(pycrew_crew **ret, const struct options *options, unsigned workers)
{
    const char **path = make_path(&options->path);
    /* Ints are exact, however long: Python's limit on decimal digits is for servers. */
    setenv("PYTHONINTMAXSTRDIGITS", "0", 0);
    pycrew_options crew = PYCREW_OPTIONS_INIT;
    crew.workers = options->workers > 0 ? options->workers : options->debug ? 1 : workers;
    crew.python = options->python;
    crew.path = path;
    crew.env = (const char *const *)options->env.items;
    crew.preload = (const char *const *)options->preload.items;
    crew.init = options->init;
    crew.engine = options->engine;
    crew.engine_options = options->engine_options;
    crew.memory = options->memory;
    crew.timeout_ns = options->timeout_ns;
    crew.grace_ns = options->grace_ns;
    crew.retries = options->retries;
    crew.max_calls_per_worker = options->max_calls;
    crew.max_worker_rss = options->max_rss;
    crew.nice = (int)options->nice;
    crew.cpus = options->cpus;
    crew.debug = options->debug;
    crew.trace = options->trace;
    crew.log = on_log;
    crew.log_data = (void *)(uintptr_t)options; /* only read */
    int r = pycrew_open(ret, &crew);
    free((void *)(uintptr_t)path[0]);
    free(path);
    return r;
}

int crew_open(pycrew_crew **ret, const pycrew_function **ret_function,
              const struct options *options, unsigned workers)
{
    int r = start(ret, options, workers);
    if (r < 0) {
        crew_say_error(pycrew_last_error(), NULL, true);
        return r == -EINVAL ? EXIT_USAGE : EXIT_CANNOT_START;
    }
    r = pycrew_function_get(*ret,
                            options->command == COMMAND_STUBS ? "pycrew.stubs:generate"
                                                              : options->function,
                            ret_function);
    if (r < 0) {
        crew_say_error(pycrew_last_error(), NULL, true);
        pycrew_close(*ret);
        *ret = NULL;
        return EXIT_USAGE;
    }
    return 0;
}

int crew_exit_code(int code)
{
    switch (code) {
    case 0:
        return EXIT_ALL_WELL;
    case PYCREW_EDIED:
        return EXIT_DIED;
    case PYCREW_ESTART:
        return EXIT_CANNOT_START;
    case -ETIMEDOUT:
        return EXIT_DEADLINE;
    case -EINVAL:
        return EXIT_USAGE;
    default:
        return EXIT_FAILED;
    }
}

const char *crew_code_name(int code)
{
    switch (code) {
#define CODE_NAME(name, value, text)                                                               \
    case value:                                                                                    \
        return #name;
        PYCREW_CODES(CODE_NAME)
#undef CODE_NAME
    default:
        break;
    }
    const char *name = strerrorname_np(-code);
    return name != NULL ? name : "unknown";
}

void crew_describe(struct buffer *to, const pycrew_error *error)
{
    if (error->type != NULL)
        buffer_print(to, error->message[0] != '\0' ? "%s: " : "%s", error->type);
    buffer_text(to, error->message);
}

void crew_say_error(const pycrew_error *error, const char *where, bool with_traceback)
{
    struct buffer text = {0};
    if (with_traceback && error->traceback != NULL)
        say_text(error->traceback);
    crew_describe(&text, error);
    say("%s%s%s", where != NULL ? where : "", where != NULL ? ": " : "", buffer_string(&text));
    buffer_free(&text);
}
