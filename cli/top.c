/* pycrew top: what another process's crew is doing. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/crew.h"
#include "cli/json.h"
#include "cli/page.h"
#include "cli/progress.h"
#include "cli/screen.h"
#include "cli/signals.h"

enum { COMMAND_SHOWN = 200 };

static const int64_t second = 1000000000, short_interval = 200000000, wait_tick = 500000000,
                     damaged_for = 1000000000;

struct top {
    const struct options *options;
    struct attached attached;
    struct looker *looker;
    const struct look *look; /* the last one; NULL: none yet */
    struct page_about about;
    struct buffer command;
    enum attach_end end; /* of the last try to look */
};

/* ---- which crew ------------------------------------------------------------------------------ */

/* 0, or the code to exit with after saying why. */
static int find_places(const struct options *options, struct crew_places *places)
{
    pid_t pid = options->function != NULL ? (pid_t)atol(options->function) : 0;
    int rc = attach_find(pid, places);
    if (rc == 0 && places->count > 0)
        return 0;
    if (rc == -ESRCH)
        say("there is no process %d", (int)pid);
    else if (rc == -EACCES || rc == -EPERM)
        say("process %d cannot be looked into: it is another user's, or has given up or gained "
            "privileges "
            "(root can)",
            (int)pid);
    else if (rc < 0)
        say("process %d cannot be looked into: %s", (int)pid, strerror(-rc));
    else if (pid != 0)
        say("process %d has no crew: it has not opened one, or has closed it", (int)pid);
    else
        say("no process of yours has a crew (give a PID to hear why it is not shown)");
    return EXIT_FAILED;
}

static size_t number_of(const struct crew_places *places, size_t which, size_t *count)
{
    size_t number = 0;
    *count = 0;
    for (size_t i = 0; i < places->count; i++) {
        *count += places->place[i].pid == places->place[which].pid;
        number += i <= which && places->place[i].pid == places->place[which].pid;
    }
    return number;
}

static void list_places(const struct crew_places *places)
{
    say("there are %zu crews; choose one: pycrew top PID, and --crew N where the process has "
        "several",
        places->count);
    fprintf(stderr, "%8s %5s %8s %-10s %s\n", "PID", "CREW", "WORKERS", "VERSION", "COMMAND");
    for (size_t i = 0; i < places->count; i++) {
        const struct crew_place *place = &places->place[i];
        struct buffer command = {0};
        size_t count, number = number_of(places, i, &count);
        attach_command_line(place->pid, &command, COMMAND_SHOWN);
        fprintf(stderr, "%8d %5zu %8u %-10s %s\n", (int)place->pid, number, place->workers,
                place->version, buffer_string(&command));
        buffer_free(&command);
    }
}

/* The place, or NULL after saying why. */
static const struct crew_place *choose(const struct options *options,
                                       const struct crew_places *places, struct page_about *about)
{
    size_t found = 0, which = 0, count;
    for (size_t i = 0; i < places->count; i++) {
        if (options->crew_number != 0 && number_of(places, i, &count) != options->crew_number)
            continue;
        found++;
        which = i;
    }
    if (found == 0)
        say("--crew %u: there are %zu", options->crew_number, places->count);
    else if (found > 1)
        list_places(places);
    if (found != 1)
        return NULL;
    about->number = number_of(places, which, &about->count);
    return &places->place[which];
}

/* ---- looking --------------------------------------------------------------------------------- */

static void say_end(const struct top *top)
{
    const struct crew_place *place = &top->attached.place;
    int pid = (int)place->pid;
    switch (top->end) {
    case ATTACH_ENDED:
        say("process %d has ended", pid);
        break;
    case ATTACH_CLOSED:
        say("process %d has closed the crew", pid);
        break;
    case ATTACH_REFUSED:
        say("process %d cannot be looked into any more: it has given up or gained privileges", pid);
        break;
    case ATTACH_OTHER:
        say("process %d has a crew of pycrew %s (layout %016llx), and this is pycrew %s (layout "
            "%016llx): "
            "use the command of that version",
            pid, place->version[0] != '\0' ? place->version : "of an unknown version",
            (unsigned long long)place->layout, pycrew_version(),
            (unsigned long long)PC_LAYOUT_HASH);
        break;
    case ATTACH_DAMAGED:
        say("the shared memory of process %d's crew has been written over", pid);
        break;
    default:
        break;
    }
}

/* A look, which may be in vain: top->end. The stack is taken during it by who wants one. */
static bool look_once(struct top *top)
{
    top->end = top->attached.memory == NULL ? attach_open(&top->attached, top->about.place)
                                            : attach_look(&top->attached);
    if (top->end == ATTACH_THERE) {
        if (top->looker == NULL)
            top->looker = looker_new(&top->attached.segment.config);
        top->look = looker_look(top->looker, &top->attached);
    }
    attach_end_look(&top->attached);
    return top->end == ATTACH_THERE;
}

/* Damage is what the host may repair. */
static bool look_patiently(struct top *top)
{
    int64_t until = now_ns() + damaged_for;
    while (!look_once(top)) {
        if (top->end != ATTACH_DAMAGED || now_ns() > until || signals_stop() != STOP_NO)
            return false;
        signals_poll(-1, short_interval / 10);
    }
    return true;
}

/* false: it was interrupted, or the host has ended. */
static bool wait_for(struct top *top, int64_t ns)
{
    int64_t until = now_ns() + ns;
    struct process host;
    for (int64_t now = now_ns(); now < until; now = now_ns()) {
        signals_poll(-1, until - now < wait_tick ? until - now : wait_tick);
        if (signals_stop() != STOP_NO)
            return false;
        if (!attach_process(top->attached.place.pid, &host)) {
            top->end = ATTACH_ENDED;
            return false;
        }
    }
    return true;
}

/* Of a worker's oldest call, or of all the oldest (-1). NULL, or why there is none. */
static const char *take_stack(struct top *top, int worker, struct buffer *to, bool with_title)
{
    const struct look *look = top->look;
    if (worker < 0)
        worker = look->oldest;
    if (worker < 0)
        return "no call runs";
    const struct look_worker *w = &look->worker[worker];
    if (with_title && w->held > 0)
        page_describe_call(to, w);
    else if (with_title)
        buffer_print(to, "worker %d (%d): it has no call", worker, (int)w->pid);
    if (with_title)
        buffer_byte(to, '\n');
    return attach_stack(&top->attached, w->pid, to);
}

/* ---- text and JSON --------------------------------------------------------------------------- */

static int write_out(const char *text, size_t size)
{
    if (fwrite(text, 1, size, stdout) == size && fflush(stdout) == 0)
        return EXIT_ALL_WELL;
    if (errno == EPIPE)
        return EXIT_CLOSED_PIPE;
    say("stdout: %s", strerror(errno));
    return EXIT_FAILED;
}

static int print_json(struct top *top)
{
    struct buffer text = {0}, stack = {0};
    const char *problem = NULL;
    if (top->options->stack)
        problem = take_stack(top, -1, &stack, false);
    page_json(&text, &top->about, top->look, top->options->stack,
              problem == NULL && top->options->stack ? buffer_string(&stack) : NULL, problem);
    buffer_byte(&text, '\n');
    int code = write_out(text.data, text.size);
    buffer_free(&text);
    buffer_free(&stack);
    return code;
}

static int print_text(struct top *top)
{
    struct page page = {0};
    struct buffer text = {0};
    page_write(&page, &top->about, top->look, BY_NUMBER);
    for (size_t i = 0; i < page.count; i++) {
        size_t size = strlen(page_line(&page, i));
        while (size > 0 && page_line(&page, i)[size - 1] == ' ')
            size--;
        buffer_add(&text, page_line(&page, i), size);
        buffer_byte(&text, '\n');
    }
    if (top->options->stack) {
        buffer_byte(&text, '\n');
        const char *problem = take_stack(top, -1, &text, true);
        if (problem != NULL)
            buffer_print(&text, "There is no stack: %s.\n", problem);
    }
    int code = write_out(text.data, text.size);
    buffer_free(&text);
    page_free(&page);
    return code;
}

/* The exit code where looking has come to its end. */
static int end_of(const struct top *top)
{
    if (signals_stop() != STOP_NO)
        return signals_exit_code();
    say_end(top);
    bool was_seen = top->look != NULL && (top->end == ATTACH_ENDED || top->end == ATTACH_CLOSED);
    return was_seen ? EXIT_ALL_WELL : EXIT_FAILED;
}

static int show_once(struct top *top)
{
    int64_t interval = top->options->interval_ns > 0 ? top->options->interval_ns : short_interval;
    if (!look_patiently(top))
        return end_of(top);
    if (!wait_for(top, interval) || !look_patiently(top)) {
        end_of(top);
        return signals_stop() != STOP_NO ? signals_exit_code() : EXIT_FAILED;
    }
    return top->options->json ? print_json(top) : print_text(top);
}

static int show_lines(struct top *top)
{
    int code = EXIT_ALL_WELL;
    while (code == EXIT_ALL_WELL) {
        if (!look_patiently(top))
            return end_of(top);
        code = print_json(top);
        if (code == EXIT_ALL_WELL && !wait_for(top, top->options->interval_ns))
            return end_of(top);
    }
    return code;
}

/* ---- the screen ------------------------------------------------------------------------------ */

static bool look_for_screen(void *data, struct page *page, enum page_order order)
{
    struct top *top = data;
    bool fresh = look_once(top);
    if (!fresh && (top->end != ATTACH_DAMAGED || top->look == NULL))
        return false;
    top->about.note =
        fresh ? NULL : "The shared memory has been written over: the host may make it anew.";
    page_write(page, &top->about, top->look, order);
    return true;
}

static void stack_for_screen(void *data, int worker, struct buffer *to)
{
    const char *problem = take_stack(data, worker, to, true);
    if (problem != NULL)
        buffer_print(to, "%sThere is no stack: %s.\n", to->size > 0 ? "" : "Stack\n", problem);
}

static int show_screen(struct top *top)
{
    struct screen_source source = {
        .data = top,
        .look = look_for_screen,
        .stack = stack_for_screen,
        .interval_ns = top->options->interval_ns > 0 ? top->options->interval_ns : second,
        .begin_with_stack = top->options->stack};
    if (!look_patiently(top))
        return end_of(top);
    if (!screen_run(&source)) {
        say("the terminal is not known (TERM=%s): this is what --once shows", getenv("TERM"));
        return show_once(top);
    }
    if (signals_stop() != STOP_NO)
        return signals_exit_code();
    return top->end == ATTACH_THERE ? EXIT_ALL_WELL : end_of(top);
}

/* ---- the command ----------------------------------------------------------------------------- */

static bool wants_screen(const struct options *options)
{
    const char *problem;
    if (options->json || options->once || isatty(STDOUT_FILENO) != 1 || isatty(STDIN_FILENO) != 1)
        return false;
    if (screen_is_there(&problem))
        return true;
    say("%s: this is what --once shows", problem);
    return false;
}

static int show(struct top *top)
{
    if (wants_screen(top->options))
        return show_screen(top);
    signals_soften();
    return top->options->json && top->options->interval_ns > 0 && !top->options->once
               ? show_lines(top)
               : show_once(top);
}

int command_top(const struct options *options)
{
    struct top top = {.options = options, .attached.fd = -1};
    struct crew_places places;
    int code = find_places(options, &places);
    if (code == EXIT_ALL_WELL) {
        top.about.place = choose(options, &places, &top.about);
        code = top.about.place == NULL ? EXIT_USAGE : EXIT_ALL_WELL;
    }
    if (code == EXIT_ALL_WELL) {
        attach_command_line(top.about.place->pid, &top.command, COMMAND_SHOWN);
        top.about.command = buffer_string(&top.command);
        code = show(&top);
    }
    looker_free(top.looker);
    attach_close(&top.attached);
    buffer_free(&top.command);
    attach_forget(&places);
    return code;
}
