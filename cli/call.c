/* pycrew call: one call, from the shell. */
#include "cli/commands.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/console.h"
#include "cli/crew.h"
#include "cli/json.h"
#include "cli/signals.h"
#include "cli/source.h"
#include "cli/writer.h"

/* ---- arguments ------------------------------------------------------------------------------- */

/* All of a file, "-" being stdin. 0, or a negative errno. */
static int read_file(const char *path, struct buffer *to)
{
    struct source source;
    int r = source_open(&source, path);
    if (r < 0)
        return r;
    for (;;) {
        char *place = buffer_reserve(to, 64 * 1024);
        ssize_t got = source_read(&source, place, to->room - to->size);
        if (got == -EAGAIN) {
            signals_poll(source.fd, -1);
            continue;
        }
        if (got <= 0) {
            r = (int)got;
            break;
        }
        to->size += (size_t)got;
    }
    source_close(&source);
    return r;
}

static int bad_text(const char *what, struct slice text)
{
    size_t good = utf8_prefix(text);
    say("%s: not UTF-8: byte 0x%02x at byte %zu", what, (unsigned char)text.data[good], good + 1);
    return EXIT_USAGE;
}

/* What a word of the command line stands for. */
struct argument {
    char *keyword;          /* NULL: a positional one */
    struct buffer contents; /* of a file */
    struct slice text;
    bool json; /* else a string */
};

struct arguments {
    struct argument *items;
    size_t count;
};

/* 0, or a code of the command after saying why. */
static int read_argument(struct argument *argument, const char *word, bool strings)
{
    argument->text = (struct slice){word, strlen(word)};
    if (word[0] == '@' && !strings) {
        int r = read_file(word + 1, &argument->contents);
        if (r < 0) {
            say("%s: %s", word, strerror(-r));
            return EXIT_USAGE;
        }
        argument->text = buffer_slice(&argument->contents);
    } else {
        argument->json = !strings && json_check(argument->text, NULL);
    }
    if (utf8_prefix(argument->text) < argument->text.size)
        return bad_text(word, argument->text);
    return 0;
}

/* NAME=VALUE. */
static int read_keyword(struct argument *argument, const char *pair, bool strings)
{
    const char *equals = strchr(pair, '=');
    if (equals == NULL || equals == pair) {
        say("-k: '%s' is not NAME=VALUE", pair);
        return EXIT_USAGE;
    }
    argument->keyword = copy_bytes(pair, (size_t)(equals - pair));
    return read_argument(argument, equals + 1, strings);
}

/* All of them, before any worker is started. */
static int read_arguments(struct arguments *arguments, const struct options *options)
{
    const struct list *plain = &options->arguments, *keywords = &options->keywords;
    int code = 0;
    *arguments = (struct arguments){
        allocate_zeroed(plain->count + keywords->count, sizeof(struct argument)), 0};
    for (size_t i = 0; i < plain->count && code == 0; i++)
        code =
            read_argument(&arguments->items[arguments->count++], plain->items[i], options->strings);
    for (size_t i = 0; i < keywords->count && code == 0; i++)
        code = read_keyword(&arguments->items[arguments->count++], keywords->items[i],
                            options->strings);
    return code;
}

static void free_arguments(struct arguments *arguments)
{
    for (size_t i = 0; i < arguments->count; i++) {
        free(arguments->items[i].keyword);
        buffer_free(&arguments->items[i].contents);
    }
    free(arguments->items);
}

static int fill(pycrew_call *call, const struct arguments *arguments, bool json)
{
    int r = json ? pycrew_set_json(call, true) : 0;
    for (size_t i = 0; i < arguments->count && r == 0; i++) {
        const struct argument *argument = &arguments->items[i];
        struct slice text = argument->text;
        if (argument->keyword != NULL)
            r = pycrew_add_name(call, argument->keyword);
        if (r == 0)
            r = argument->json ? pycrew_add_json(call, text.data, text.size)
                               : pycrew_add_str(call, text.data, text.size);
    }
    return r;
}

/* ---- the call -------------------------------------------------------------------------------- */

/* Waits for the call's end, whatever signals come: the first cancels it. */
static int wait_for_end(pycrew_call *call)
{
    bool cancelled = false;
    int r;
    while ((r = pycrew_wait(call, TICK_NS)) == -ETIME) {
        if (!cancelled && signals_stop() != STOP_NO) {
            pycrew_cancel(call);
            cancelled = true;
        }
    }
    return r;
}

static int put(struct writer *out)
{
    int r = writer_close(out);
    if (r == -EPIPE)
        return EXIT_CLOSED_PIPE;
    if (r < 0)
        say("stdout: %s", strerror(-r));
    return r < 0 ? EXIT_FAILED : EXIT_ALL_WELL;
}

static int print_json(pycrew_call *call, struct writer *out)
{
    const char *text;
    size_t size;
    int r = pycrew_result_json(call, &text, &size);
    if (r < 0)
        return r;
    buffer_add(&out->out, text, size);
    buffer_byte(&out->out, '\n');
    return 0;
}

/* bytes to the byte; str as print() would. */
static int print_raw(pycrew_call *call, struct writer *out)
{
    pycrew_value value = pycrew_result_value(call);
    const char *text;
    const void *bytes;
    size_t size;
    if (pycrew_value_type(value) == PYCREW_TYPE_BYTES) {
        int r = pycrew_value_bytes(value, &bytes, &size);
        if (r == 0)
            buffer_add(&out->out, bytes, size);
        return r;
    }
    int r = pycrew_value_str(value, &text, &size);
    if (r == 0) {
        buffer_add(&out->out, text, size);
        buffer_byte(&out->out, '\n');
    }
    return r;
}

static int print_result(pycrew_call *call, const struct options *options)
{
    struct writer out;
    writer_open(&out, NULL, false);
    int r = options->raw ? print_raw(call, &out) : print_json(call, &out);
    if (r == 0)
        return put(&out);
    if (options->raw && r == PYCREW_ETYPE)
        say("the result is neither str nor bytes, which is all that -r prints; without -r it is JSON");
    else
        crew_say_error(pycrew_last_error(), NULL, true);
    return EXIT_FAILED;
}

/* ---- a generator's items ----------------------------------------------------------------------- */

/* 1: an item; 0: the end. While there is none, what was printed goes out. */
static int next_item(pycrew_call *call, struct writer *out)
{
    int r = pycrew_next(call, 0);
    if (r != -ETIME)
        return r;
    writer_flush(out);
    while ((r = pycrew_next(call, TICK_NS)) == -ETIME)
        if (signals_stop() != STOP_NO)
            pycrew_cancel(call);
    return r;
}

static int print_item(pycrew_call *call, struct writer *out, bool raw)
{
    int r = raw ? print_raw(call, out) : print_json(call, out);
    if (raw && r == PYCREW_ETYPE)
        say("an item is neither str nor bytes, which is all that -r prints; without -r it is JSON");
    else if (r < 0)
        crew_say_error(pycrew_last_error(), NULL, true);
    return r;
}

static int fail(const pycrew_error *error, int code);

/* What was made before a failure is printed. */
static int print_items(pycrew_call *call, const struct options *options)
{
    struct writer out;
    writer_open(&out, NULL, false);
    int r, printed = 0;
    while ((r = next_item(call, &out)) == 1 && printed == 0 && out.error == 0) {
        printed = print_item(call, &out, options->raw);
        writer_line(&out);
    }
    int code = put(&out);
    if (code == EXIT_ALL_WELL && printed < 0)
        return EXIT_FAILED;
    return code == EXIT_ALL_WELL && r < 0 ? fail(pycrew_call_error(call), r) : code;
}

/* From here on the first ^C cancels the call. */
static int run(pycrew_call *call, bool stream)
{
    signals_soften();
    int r = stream ? pycrew_set_stream(call, 0) : 0;
    if (r == 0)
        r = pycrew_submit(call);
    return r == 0 && !stream ? wait_for_end(call) : r;
}

static int fail(const pycrew_error *error, int code)
{
    if (signals_exit_code() != 0)
        return signals_exit_code();
    crew_say_error(error, NULL, true);
    return crew_exit_code(code);
}

static int call_function(pycrew_crew *crew, const pycrew_function *function,
                         const struct arguments *arguments, const struct options *options)
{
    pycrew_call *call;
    int r = pycrew_prepare(crew, function, PYCREW_FOREVER, &call);
    if (r < 0)
        return fail(pycrew_last_error(), r);
    int code;
    r = fill(call, arguments, !options->raw);
    if (r == 0)
        r = run(call, options->stream);
    if (r == 0)
        code = options->stream ? print_items(call, options) : print_result(call, options);
    else
        code = fail(pycrew_call_error(call) ? pycrew_call_error(call) : pycrew_last_error(), r);
    pycrew_release(call);
    return code;
}

int command_call(const struct options *options)
{
    pycrew_crew *crew;
    const pycrew_function *function;
    struct arguments arguments;
    int code = read_arguments(&arguments, options);
    if (code == 0)
        code = crew_open(&crew, &function, options, 1);
    if (code == 0) {
        code = call_function(crew, function, &arguments, options);
        pycrew_close(crew); /* what Python printed is said by then */
    }
    free_arguments(&arguments);
    return code;
}
