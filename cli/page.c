#include "cli/page.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/json.h"
#include "lib/pycrew.h"

const char page_order_keys[PAGE_ORDERS] = {'n', 't', 'c', 'b', 'm', 'd'};
const char *const page_order_names[PAGE_ORDERS] = {"number", "time",   "calls",
                                                   "busy",   "memory", "deaths"};

/* ---- numbers in few characters --------------------------------------------------------------- */

enum { SHORT = 24, AGE = SHORT + 1 };

static const char *short_time(char *text, int64_t ns)
{
    static const struct {
        int64_t ns;
        const char *name;
    } units[] = {{1000000000, "s"}, {1000000, "ms"}, {1000, "us"}, {1, "ns"}};
    double seconds = (double)ns / 1e9;
    size_t i = 0;
    if (seconds >= 3600)
        snprintf(text, SHORT, "%" PRId64 "h%02" PRId64 "m", ns / 3600000000000,
                 ns / 60000000000 % 60);
    else if (seconds >= 100)
        snprintf(text, SHORT, "%" PRId64 "m%02" PRId64 "s", ns / 60000000000, ns / 1000000000 % 60);
    else {
        while (i < 3 && ns < units[i].ns)
            i++;
        double value = (double)ns / (double)units[i].ns;
        snprintf(text, SHORT, "%.*f%s", value < 9.95 && i < 3 ? 1 : 0, value, units[i].name);
    }
    return text;
}

static const char *short_size(char *text, uint64_t bytes)
{
    static const char units[] = "KMGT";
    double value = (double)bytes / 1024;
    size_t i = 0;
    for (; value >= 1000 && i < 3; i++)
        value /= 1024;
    snprintf(text, SHORT, "%.*f%c", value < 99.95 ? 1 : 0, value, units[i]);
    return text;
}

static const char *short_rate(char *text, double rate)
{
    if (rate >= 1e6)
        snprintf(text, SHORT, "%.1fM", rate / 1e6);
    else if (rate >= 1e5)
        snprintf(text, SHORT, "%.0fk", rate / 1e3);
    else
        snprintf(text, SHORT, "%.*f", rate < 99.95 && rate > 0 ? 1 : 0, rate);
    return text;
}

/* ---- lines ----------------------------------------------------------------------------------- */

static void line(struct page *page, enum line_style style, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void line(struct page *page, enum line_style style, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (page->count == page->room) {
        page->room = page->room * 2 + 32;
        page->lines = reallocate(page->lines, page->room * sizeof page->lines[0]);
    }
    page->lines[page->count++] = (struct line){page->text.size, style};
    buffer_add(&page->text, text, strlen(text) + 1);
}

static const char *call_in_words(struct buffer *to, const struct look_call *call, unsigned held)
{
    buffer_clear(to);
    buffer_text(to, call->function);
    if (strcmp(call->kind, "call") != 0)
        buffer_print(to, " (%s)", call->kind);
    if (call->items > 1)
        buffer_print(to, " %" PRIu32 "/%" PRIu32, call->done, call->items);
    if (held > 1)
        buffer_print(to, " and %u more", held - 1);
    return buffer_string(to);
}

static const char *age_in_words(char *text, const struct look_call *call)
{
    text[0] = call->bound == LOOK_AT_LEAST ? '>' : '<';
    short_time(text + (call->bound != LOOK_EXACT), call->age_ns);
    return text;
}

void page_describe_call(struct buffer *to, const struct look_worker *worker)
{
    struct buffer words = {0};
    char age[AGE];
    buffer_print(to, "worker %u (%d): %s, for %s", worker->number, (int)worker->pid,
                 call_in_words(&words, &worker->call, worker->held),
                 age_in_words(age, &worker->call));
    buffer_free(&words);
}

/* ---- the crew -------------------------------------------------------------------------------- */

static void write_title(struct page *page, const struct page_about *about, const struct look *look)
{
    char which[48] = "";
    if (about->count > 1)
        snprintf(which, sizeof which, ", crew %zu of %zu", about->number, about->count);
    line(page, LINE_TITLE, "pycrew %s, PID %d%s%s: %s", about->place->version,
         (int)about->place->pid, which, look->closing ? ", closing" : "", about->command);
}

static void write_states(struct page *page, const struct look *look)
{
    struct buffer text = {0};
    const char *comma = "";
    buffer_print(&text, "Workers  %u: ", look->workers);
    for (unsigned i = 0; i < LOOK_STATES; i++) {
        if (look->states[i] == 0)
            continue;
        buffer_print(&text, "%s%u %s", comma, look->states[i], look_state_names[i]);
        if (i == LOOK_IDLE && look->asleep > 0)
            buffer_print(&text, " (%u asleep)", look->asleep);
        comma = ", ";
    }
    buffer_print(&text, "; %" PRIu32 " death%s", look->deaths, look->deaths == 1 ? "" : "s");
    line(page, look->states[LOOK_BACKING_OFF] > 0 ? LINE_BAD : LINE_PLAIN, "%s",
         buffer_string(&text));
    buffer_free(&text);
}

static void write_calls(struct page *page, const struct look *look)
{
    char rate[SHORT], errors[SHORT];
    line(page, LINE_PLAIN,
         "Calls    %s/s, %s errors/s; %" PRIu32 " in flight, %" PRIu32
         " of them queued; %.1f of %u busy",
         short_rate(rate, look->calls_per_s), short_rate(errors, look->errors_per_s),
         look->in_flight, look->queued, look->busy, look->workers);
}

static void write_memory(struct page *page, const struct look *look)
{
    char used[SHORT], max[SHORT], resident[SHORT];
    line(page, LINE_PLAIN, "Memory   %s of %s of the segment in use, %s resident",
         short_size(used, look->memory_used), short_size(max, look->memory_max),
         short_size(resident, look->resident));
}

static const char *const time_names[PC_TIMES] = {"run", "wait", "total"};

/* Of the calls that ended between the two looks; where none did, of all since the crew began. */
static void write_times(struct page *page, const struct look *look)
{
    char p50[SHORT], p90[SHORT], p99[SHORT], p999[SHORT], max[SHORT];
    bool recent = look->recent[PC_TIME_TOTAL].count > 0;
    line(page, LINE_PLAIN, "Latency  %8s %8s %8s %8s %8s   %s", "p50", "p90", "p99", "p99.9", "max",
         recent ? "of the calls that ended just now" : "of all calls so far");
    for (unsigned i = 0; i < PC_TIMES; i++) {
        const struct look_times *t = recent ? &look->recent[i] : &look->times[i];
        if (t->count == 0) {
            line(page, LINE_PLAIN, "  %-6s %8s %8s %8s %8s %8s", time_names[i], "-", "-", "-", "-",
                 "-");
            continue;
        }
        line(page, LINE_PLAIN, "  %-6s %8s %8s %8s %8s %8s", time_names[i], short_time(p50, t->p50),
             short_time(p90, t->p90), short_time(p99, t->p99), short_time(p999, t->p999),
             short_time(max, t->max));
    }
}

static void write_oldest(struct page *page, const struct look *look)
{
    struct buffer words = {0};
    char age[AGE];
    if (look->oldest >= 0) {
        const struct look_worker *w = &look->worker[look->oldest];
        line(page, LINE_PLAIN, "Oldest   runs for %s in worker %u: %s", age_in_words(age, &w->call),
             w->number, call_in_words(&words, &w->call, w->held));
    } else {
        line(page, LINE_PLAIN, "Oldest   no call runs");
    }
    if (look->waiting.function != NULL)
        line(page, LINE_PLAIN, "         waits for %s: %s", age_in_words(age, &look->waiting),
             call_in_words(&words, &look->waiting, 0));
    buffer_free(&words);
}

/* ---- the workers ----------------------------------------------------------------------------- */

static int greater(double a, double b)
{
    return a > b ? -1 : a < b;
}

static int compare(const struct look_worker *a, const struct look_worker *b, enum page_order order)
{
    switch (order) {
    case BY_AGE:
        return greater(a->held ? (double)a->call.age_ns : -1,
                       b->held ? (double)b->call.age_ns : -1);
    case BY_CALLS:
        return greater(a->calls_per_s, b->calls_per_s);
    case BY_BUSY:
        return greater(a->busy, b->busy);
    case BY_RSS:
        return greater((double)a->rss, (double)b->rss);
    case BY_DEATHS:
        return greater(a->deaths, b->deaths);
    default:
        return 0;
    }
}

struct ordering {
    const struct look *look;
    enum page_order order;
};

static int compare_numbers(const void *a, const void *b, void *data)
{
    const struct ordering *o = data;
    unsigned one = *(const unsigned *)a, other = *(const unsigned *)b;
    int by_key = compare(&o->look->worker[one], &o->look->worker[other], o->order);
    return by_key != 0 ? by_key : one < other ? -1 : 1;
}

static void sort_workers(struct page *page, const struct look *look, enum page_order order)
{
    struct ordering ordering = {look, order};
    page->worker = reallocate(page->worker, (look->workers + 1) * sizeof page->worker[0]);
    for (unsigned i = 0; i < look->workers; i++)
        page->worker[i] = i;
    qsort_r(page->worker, look->workers, sizeof page->worker[0], compare_numbers, &ordering);
}

static void write_worker(struct page *page, const struct look_worker *w, struct buffer *words)
{
    static const enum line_style styles[LOOK_STATES] = {LINE_PLAIN, LINE_BUSY, LINE_CHANGING,
                                                        LINE_BAD, LINE_CHANGING};
    char pid[SHORT] = "-", age[AGE] = "", rate[SHORT], rss[SHORT] = "-";
    if (w->pid != 0)
        snprintf(pid, sizeof pid, "%d", (int)w->pid);
    if (w->is_ours)
        short_size(rss, w->rss);
    if (w->held > 0)
        age_in_words(age, &w->call);
    buffer_clear(words);
    line(page, styles[w->state], "%3u %7s %-11s %7s %7s %3.0f%% %6s %4" PRIu32 "  %s", w->number,
         pid, w->asleep ? "asleep" : look_state_names[w->state], age,
         short_rate(rate, w->calls_per_s), w->busy * 100, rss, w->deaths,
         w->held > 0 ? call_in_words(words, &w->call, w->held) : "");
}

void page_write(struct page *page, const struct page_about *about, const struct look *look,
                enum page_order order)
{
    struct buffer words = {0};
    buffer_clear(&page->text);
    page->count = 0;
    write_title(page, about, look);
    write_states(page, look);
    write_calls(page, look);
    write_memory(page, look);
    write_times(page, look);
    write_oldest(page, look);
    line(page, about->note != NULL ? LINE_BAD : LINE_PLAIN, "%s",
         about->note != NULL ? about->note : "");
    page->head = page->count;
    line(page, LINE_HEAD, "%3s %7s %-11s %7s %7s %4s %6s %4s  %s", "NR", "PID", "STATE", "FOR",
         "CALLS/S", "BUSY", "RSS", "DIED", "FUNCTION");
    sort_workers(page, look, order);
    for (unsigned i = 0; i < look->workers; i++)
        write_worker(page, &look->worker[page->worker[i]], &words);
    buffer_free(&words);
}

void page_free(struct page *page)
{
    buffer_free(&page->text);
    free(page->lines);
    free(page->worker);
    *page = (struct page){0};
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void add_text(struct buffer *to, const char *name, const char *text)
{
    buffer_print(to, "\"%s\": ", name);
    if (text != NULL)
        json_quote(to, (struct slice){text, strlen(text)});
    else
        buffer_text(to, "null");
}

/* The call's fields; all null where there is none. */
static void add_call(struct buffer *to, const struct look_call *call)
{
    static const char *const bounds[] = {"exact", "at least", "at most"};
    bool known = call->function != NULL;
    add_text(to, "function", call->function);
    buffer_text(to, ", ");
    add_text(to, "kind", known ? call->kind : NULL);
    if (known)
        buffer_print(to, ", \"for_s\": %.6f, \"for_is\": \"%s\"", (double)call->age_ns / 1e9,
                     bounds[call->bound]);
    else
        buffer_text(to, ", \"for_s\": null, \"for_is\": null");
    if (call->items > 0)
        buffer_print(to, ", \"items_done\": %" PRIu32 ", \"items\": %" PRIu32, call->done,
                     call->items);
    else
        buffer_text(to, ", \"items_done\": null, \"items\": null");
}

static void add_number_or_null(struct buffer *to, const char *name, bool known, uint64_t value)
{
    if (known)
        buffer_print(to, ", \"%s\": %" PRIu64, name, value);
    else
        buffer_print(to, ", \"%s\": null", name);
}

static void add_worker(struct buffer *to, const struct look_worker *w)
{
    buffer_print(to, "{\"worker\": %u", w->number);
    add_number_or_null(to, "pid", w->pid != 0, (uint64_t)w->pid);
    buffer_print(to, ", \"state\": \"%s\", \"asleep\": %s, \"calls_held\": %u, ",
                 look_state_names[w->state], w->asleep ? "true" : "false", w->held);
    add_call(to, &w->call);
    buffer_print(to,
                 ", \"calls\": %" PRIu64 ", \"errors\": %" PRIu64
                 ", \"calls_per_s\": %.3f, \"busy\": %.4f",
                 w->calls, w->errors, w->calls_per_s, w->busy);
    add_number_or_null(to, "rss", w->is_ours, w->rss);
    buffer_print(to, ", \"deaths\": %" PRIu32 ", \"incarnation\": %" PRIu32 "}", w->deaths,
                 w->incarnation);
}

static void add_crew(struct buffer *to, const struct page_about *about, const struct look *look)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    buffer_print(to, "{\"pid\": %d, \"crew\": %zu, \"crews\": %zu, ", (int)about->place->pid,
                 about->number, about->count);
    add_text(to, "version", about->place->version);
    buffer_text(to, ", ");
    add_text(to, "command", about->command);
    buffer_print(to, ", \"time\": %.3f", (double)now.tv_sec + (double)now.tv_nsec / 1e9);
    if (look->interval_s > 0)
        buffer_print(to, ", \"interval_s\": %.6f", look->interval_s);
    else
        buffer_text(to, ", \"interval_s\": null");
    buffer_print(to, ", \"closing\": %s, \"workers\": %u", look->closing ? "true" : "false",
                 look->workers);
}

static void add_counts(struct buffer *to, const struct look *look)
{
    static const char *const names[LOOK_STATES] = {"idle", "busy", "starting", "backing_off",
                                                   "leaving"};
    for (unsigned i = 0; i < LOOK_STATES; i++)
        buffer_print(to, ", \"%s\": %u", names[i], look->states[i]);
    buffer_print(to,
                 ", \"asleep\": %u, \"queued\": %" PRIu32 ", \"in_flight\": %" PRIu32
                 ", \"calls_per_s\": %.3f, \"errors_per_s\": %.3f, \"busy_workers\": %.4f, "
                 "\"deaths\": %" PRIu32,
                 look->asleep, look->queued, look->in_flight, look->calls_per_s, look->errors_per_s,
                 look->busy, look->deaths);
    buffer_print(to,
                 ", \"memory_used\": %" PRIu64 ", \"memory_max\": %" PRIu64
                 ", \"memory_resident\": %" PRIu64,
                 look->memory_used, look->memory_max, look->resident);
}

static void add_seconds(struct buffer *to, const char *name, bool known, int64_t ns)
{
    if (known)
        buffer_print(to, ", \"%s\": %.9f", name, (double)ns / 1e9);
    else
        buffer_print(to, ", \"%s\": null", name);
}

static void add_times(struct buffer *to, const char *name, const struct look_times *times)
{
    buffer_print(to, ", \"%s\": {", name);
    for (unsigned i = 0; i < PC_TIMES; i++) {
        const struct look_times *t = &times[i];
        buffer_print(to, "%s\"%s\": {\"count\": %" PRIu64, i > 0 ? ", " : "", time_names[i],
                     t->count);
        add_seconds(to, "p50_s", t->count > 0, t->p50);
        add_seconds(to, "p90_s", t->count > 0, t->p90);
        add_seconds(to, "p99_s", t->count > 0, t->p99);
        add_seconds(to, "p999_s", t->count > 0, t->p999);
        add_seconds(to, "max_s", t->count > 0, t->max);
        buffer_text(to, "}");
    }
    buffer_text(to, "}");
}

static void add_outcomes(struct buffer *to, const struct look *look)
{
    static const char *const names[PC_OUTCOMES] = {"raised",    "died",   "timed_out",
                                                   "cancelled", "failed", "retried"};
    for (unsigned i = 0; i < PC_OUTCOMES; i++)
        buffer_print(to, "%s\"%s\": %" PRIu64, i > 0 ? ", " : ", \"outcomes\": {", names[i],
                     look->outcomes[i]);
    buffer_text(to, "}");
}

void page_json(struct buffer *to, const struct page_about *about, const struct look *look,
               bool with_stack, const char *stack, const char *problem)
{
    add_crew(to, about, look);
    add_counts(to, look);
    add_outcomes(to, look);
    add_times(to, "latency", look->times);
    add_times(to, "latency_recent", look->recent);
    add_number_or_null(to, "oldest", look->oldest >= 0, (uint64_t)look->oldest);
    buffer_text(to, ", \"waiting\": {");
    add_call(to, &look->waiting);
    buffer_text(to, "}");
    if (with_stack) {
        buffer_text(to, ", ");
        add_text(to, "stack", stack);
        buffer_text(to, ", ");
        add_text(to, "stack_problem", problem);
    }
    buffer_text(to, ", \"worker\": [");
    for (unsigned i = 0; i < look->workers; i++) {
        buffer_text(to, i > 0 ? ", " : "");
        add_worker(to, &look->worker[i]);
    }
    buffer_text(to, "]}");
}
