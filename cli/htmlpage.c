#include "cli/htmlpage.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/console.h"
#include "cli/crew.h"
#include "cli/json.h"
#include "cli/report.h"

enum { WIDTH = 860, RATE_HEIGHT = 160, LATENCY_HEIGHT = 140, ROW = 18, LEFT = 70, BELOW = 22 };
enum { TRACEBACK_MOST = 16 << 10, MESSAGE_MOST = 2 << 10 };

/* ---- text ------------------------------------------------------------------------------------ */

/* Whatever it is, it is shown as it stands, and ends no element. */
static void add_text(struct buffer *to, struct slice text)
{
    while (text.size > 0) {
        unsigned char c = (unsigned char)text.data[0];
        size_t size = utf8_prefix((struct slice){text.data, text.size < 4 ? text.size : 4});
        if (c == '&')
            buffer_text(to, "&amp;");
        else if (c == '<')
            buffer_text(to, "&lt;");
        else if (c == '>')
            buffer_text(to, "&gt;");
        else if (c == '"')
            buffer_text(to, "&quot;");
        else if (c == '\'')
            buffer_text(to, "&#39;");
        else if (size == 0 || (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            buffer_text(to, "\xef\xbf\xbd");
        else
            buffer_add(to, text.data, c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4);
        size_t step = c < 0x80 || size == 0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
        text.data += step;
        text.size -= step;
    }
}

static void add_string(struct buffer *to, const char *text)
{
    add_text(to, (struct slice){text, strlen(text)});
}

static void add_seconds(struct buffer *to, double seconds)
{
    if (seconds < 1e-6)
        buffer_print(to, "%.3g ns", seconds * 1e9);
    else if (seconds < 1e-3)
        buffer_print(to, "%.3g µs", seconds * 1e6);
    else if (seconds < 1)
        buffer_print(to, "%.3g ms", seconds * 1e3);
    else if (seconds < 100)
        buffer_print(to, "%.3g s", seconds);
    else
        buffer_print(to, "%.0f s", seconds);
}

/* 1234567 as "1 234 567". */
static void add_count(struct buffer *to, double count)
{
    char digits[32];
    int size = snprintf(digits, sizeof(digits),
                        count < 10 && count != floor(count) ? "%.2f" : "%.0f", count);
    int whole = (int)strcspn(digits, ".");
    for (int i = 0; i < size; i++) {
        if (i > 0 && i < whole && (whole - i) % 3 == 0)
            buffer_text(to, "\xe2\x80\xaf");
        buffer_byte(to, digits[i]);
    }
}

/* ---- errors ---------------------------------------------------------------------------------- */

static char *copy_text(const char *text, size_t most)
{
    size_t size = strlen(text);
    if (size > most)
        size = utf8_prefix((struct slice){text, most});
    return copy_bytes(text, size);
}

/* The end of a traceback says what it is about. */
static char *copy_traceback(const char *text)
{
    size_t size = text != NULL ? strlen(text) : 0;
    return text == NULL ? NULL
                        : copy_text(size > TRACEBACK_MOST ? text + size - TRACEBACK_MOST : text,
                                    TRACEBACK_MOST);
}

void html_page_error(struct html_page *page, const struct record *record, const pycrew_error *error)
{
    const char *type = error->type != NULL ? error->type : crew_code_name(error->code);
    uint64_t count = record->member_count > 0 ? record->member_count : 1;
    if (!page->wanted)
        return;
    for (unsigned i = 0; i < page->types; i++)
        if (strcmp(page->errors[i].type, type) == 0) {
            page->errors[i].count += count;
            return;
        }
    if (page->types == HTML_ERRORS) {
        page->other_errors += count;
        return;
    }
    struct buffer place = {0};
    report_place(&place, record);
    page->errors[page->types++] = (struct html_page_error){
        .type = copy_text(type, MESSAGE_MOST),
        .message = copy_text(error->message, MESSAGE_MOST),
        .traceback = copy_traceback(error->traceback),
        .place = copy_text(buffer_string(&place), MESSAGE_MOST),
        .count = count,
    };
    buffer_free(&place);
}

static int by_count(const void *a, const void *b)
{
    uint64_t first = ((const struct html_page_error *)a)->count,
             second = ((const struct html_page_error *)b)->count;
    return first < second ? 1 : first > second ? -1 : 0;
}

static void put_errors(struct buffer *to, struct html_page *page)
{
    qsort(page->errors, page->types, sizeof(page->errors[0]), by_count);
    buffer_text(to, "<h2>Errors by type</h2>\n");
    if (page->types == 0)
        buffer_text(to, "<p>None.</p>\n");
    for (unsigned i = 0; i < page->types; i++) {
        const struct html_page_error *error = &page->errors[i];
        buffer_print(to, "<details%s><summary><b>", i == 0 ? " open" : "");
        add_string(to, error->type);
        buffer_text(to, "</b> &times; ");
        add_count(to, (double)error->count);
        buffer_text(to, "</summary>\n<p>First: <code>");
        add_string(to, error->place);
        buffer_text(to, "</code>: ");
        add_string(to, error->message);
        buffer_text(to, "</p>\n");
        if (error->traceback != NULL) {
            buffer_text(to, "<pre>");
            add_string(to, error->traceback);
            buffer_text(to, "</pre>\n");
        }
        buffer_text(to, "</details>\n");
    }
    if (page->other_errors > 0)
        buffer_print(to, "<p>%llu of other types.</p>\n", (unsigned long long)page->other_errors);
}

/* ---- charts ---------------------------------------------------------------------------------- */

static void open_svg(struct buffer *to, int height, const char *label)
{
    buffer_print(to,
                 "<svg viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
                 "aria-label=\"%s\">\n",
                 WIDTH, height, WIDTH, height, label);
}

/* A round number of which three to six make the whole. */
static double tick_of(double whole)
{
    double power = pow(10, floor(log10(whole > 0 ? whole : 1) - 0.3));
    while (whole / power > 6)
        power *= whole / power > 12 ? 5 : 2;
    return power;
}

static void put_time_axis(struct buffer *to, double seconds, double height)
{
    double tick = tick_of(seconds);
    for (unsigned i = 0; i <= 12 && i * tick <= seconds * 1.0001; i++) {
        double x = LEFT + i * tick / seconds * (WIDTH - LEFT);
        buffer_print(to, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\">%g s</text>\n", x, height + 16,
                     x > WIDTH - 30 ? "end" : "mid", i * tick);
    }
}

static unsigned pieces_shown(const struct timeline *t)
{
    double pieces = ceil(t->last / t->piece);
    return pieces < 1 ? 1 : pieces > TIMELINE_PIECES ? TIMELINE_PIECES : (unsigned)pieces;
}

static void put_rates(struct buffer *to, const struct timeline *t)
{
    unsigned pieces = pieces_shown(t);
    double most = 0, width = (double)(WIDTH - LEFT) / pieces;
    for (unsigned i = 0; i < pieces; i++)
        most = fmax(most, t->records[i] / t->piece);
    most = most > 0 ? most : 1;
    buffer_text(to, "<h2>Records a second</h2>\n");
    open_svg(to, RATE_HEIGHT + BELOW, "records a second over time");
    for (double y = tick_of(most); y <= most * 1.0001; y += tick_of(most)) {
        double at = RATE_HEIGHT - y / most * (RATE_HEIGHT - 10);
        buffer_print(to,
                     "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/><text x=\"%d\" y=\"%.1f\" "
                     "class=\"end\">",
                     LEFT, WIDTH, at, at, LEFT - 6, at + 4);
        add_count(to, y);
        buffer_text(to, "</text>\n");
    }
    buffer_print(to, "<path class=\"rate\" d=\"M%d %d", LEFT, RATE_HEIGHT);
    for (unsigned i = 0; i < pieces; i++) {
        double y = RATE_HEIGHT - t->records[i] / t->piece / most * (RATE_HEIGHT - 10);
        buffer_print(to, "L%.1f %.1fL%.1f %.1f", LEFT + i * width, y, LEFT + (i + 1) * width, y);
    }
    buffer_print(to, "L%d %dZ\"/>\n", WIDTH, RATE_HEIGHT);
    put_time_axis(to, pieces * t->piece, RATE_HEIGHT);
    buffer_text(to, "</svg>\n");
}

/* Round times: 1, 3, 10, 30 of each unit. */
static void put_latency_axis(struct buffer *to, unsigned first, double width)
{
    for (int i = 0; i < 26; i++) {
        double seconds = (i % 2 == 0 ? 1 : 3) * pow(10, i / 2 - 9);
        double x = LEFT + (log2(seconds * 1e9) * TIMELINE_STEPS - first) * width;
        if (x < LEFT || x > WIDTH - 20)
            continue;
        buffer_print(to, "<text x=\"%.1f\" y=\"%d\" class=\"mid\">", x, LATENCY_HEIGHT + 16);
        add_seconds(to, seconds);
        buffer_text(to, "</text>\n");
    }
}

static void put_latency(struct buffer *to, const struct timeline *t)
{
    static const double parts[] = {0.5, 0.9, 0.99, 0.999};
    unsigned first = 0, last = TIMELINE_OCTAVES * TIMELINE_STEPS - 1;
    double most = 1;
    buffer_text(to, "<h2>Time of a record</h2>\n");
    if (t->latency_records <= 0) {
        buffer_text(to, "<p>None ended.</p>\n");
        return;
    }
    while (first < last && t->latency[first] <= 0)
        first++;
    while (last > first && t->latency[last] <= 0)
        last--;
    first = first > 2 ? first - 2 : 0;
    for (unsigned i = first; i <= last; i++)
        most = fmax(most, t->latency[i]);
    buffer_text(to, "<p>");
    for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        buffer_print(to, "%g %%: ", parts[i] * 100);
        add_seconds(to, timeline_percentile(t, parts[i]));
        buffer_text(to, " &nbsp; ");
    }
    buffer_text(to, "most: ");
    add_seconds(to, t->latency_max);
    buffer_text(to, " &nbsp; mean: ");
    add_seconds(to, t->latency_sum / t->latency_records);
    buffer_text(to, "</p>\n");
    open_svg(to, LATENCY_HEIGHT + BELOW, "distribution of the time of a record");
    double width = (double)(WIDTH - LEFT) / (last - first + 2);
    if (width > 40)
        width = 40;
    for (unsigned i = first; i <= last; i++) {
        double x = LEFT + (i - first) * width;
        if (t->latency[i] > 0) {
            double height = fmax(t->latency[i] / most * (LATENCY_HEIGHT - 10), 1);
            buffer_print(
                to,
                "<rect class=\"rate\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>",
                x, LATENCY_HEIGHT - height, fmax(width - 1, 0.5), height);
            add_seconds(to, timeline_step(i));
            buffer_text(to, " to ");
            add_seconds(to, timeline_step(i + 1));
            buffer_text(to, ": ");
            add_count(to, t->latency[i]);
            buffer_text(to, "</title></rect>\n");
        }
    }
    put_latency_axis(to, first, width);
    buffer_text(
        to,
        "</svg>\n<p class=\"small\">As the workers measured it. Records that travel together (a "
        "chunk) count with their mean.</p>\n");
}

static void put_row(struct buffer *to, const struct timeline *t, unsigned worker, unsigned pieces)
{
    double width = (double)(WIDTH - LEFT) / pieces;
    buffer_print(to, "<text x=\"%d\" y=\"%d\" class=\"end\">%u</text>", LEFT - 6, worker * ROW + 13,
                 worker);
    buffer_print(to, "<rect class=\"idle\" x=\"%d\" y=\"%u\" width=\"%d\" height=\"%d\"/>\n", LEFT,
                 worker * ROW + 2, WIDTH - LEFT, ROW - 4);
    for (unsigned i = 0; i < pieces; i++) {
        double share = t->busy[worker][i] / t->piece;
        if (share > 0.005)
            buffer_print(
                to,
                "<rect class=\"busy\" x=\"%.1f\" y=\"%u\" width=\"%.2f\" height=\"%d\" "
                "fill-opacity=\"%.2f\"><title>worker %u, %.4g s: %.0f %% busy</title></rect>\n",
                LEFT + i * width, worker * ROW + 2, width + 0.1, ROW - 4, fmin(share, 1), worker,
                i * t->piece, fmin(share, 1) * 100);
    }
}

/* What starts stands in the lower half, so that the death before it is seen. */
static void put_mark(struct buffer *to, const struct timeline_mark *mark, double seconds)
{
    static const char *const classes[MARK_KINDS] = {"start", "death", "kill", "retry"};
    static const char *const words[MARK_KINDS] = {"starts", "dies", "is killed at a deadline",
                                                  "retry"};
    double x = LEFT + mark->at / seconds * (WIDTH - LEFT);
    unsigned half = mark->kind == MARK_START ? ROW / 2 : 0;
    if (mark->worker >= TIMELINE_WORKERS || mark->kind == MARK_RETRY)
        return;
    buffer_print(to,
                 "<rect class=\"%s\" x=\"%.1f\" y=\"%u\" width=\"2.5\" height=\"%u\"><title>worker "
                 "%u %s, %.4g s</title></rect>\n",
                 classes[mark->kind], x - 1, mark->worker * ROW + 1 + half, ROW / 2 - 1,
                 mark->worker, words[mark->kind], mark->at);
}

static void put_workers(struct buffer *to, const struct timeline *t)
{
    unsigned rows = t->workers < TIMELINE_WORKERS ? t->workers : TIMELINE_WORKERS,
             pieces = pieces_shown(t);
    buffer_text(to,
                "<h2>Workers</h2>\n<p class=\"small\"><span class=\"key busy\"></span> busy "
                "<span class=\"key start\"></span> starts <span class=\"key death\"></span> dies "
                "<span class=\"key kill\"></span> killed at a deadline</p>\n");
    open_svg(to, (int)rows * ROW + BELOW, "what each worker did when");
    for (unsigned i = 0; i < rows; i++)
        put_row(to, t, i, pieces);
    for (unsigned i = 0; i < t->mark_count && i < TIMELINE_MARKS; i++)
        put_mark(to, &t->marks[i], pieces * t->piece);
    put_time_axis(to, pieces * t->piece, rows * ROW);
    buffer_text(to, "</svg>\n");
    if (t->workers > TIMELINE_WORKERS)
        buffer_print(to, "<p class=\"small\">%u more workers are not shown.</p>\n",
                     t->workers - TIMELINE_WORKERS);
    if (t->mark_count > TIMELINE_MARKS)
        buffer_print(to, "<p class=\"small\">The first %d marks are shown, of %llu.</p>\n",
                     TIMELINE_MARKS, (unsigned long long)t->mark_count);
    if (t->lost > 0)
        buffer_print(
            to,
            "<p class=\"small\">%llu events came too fast to be noted, and are missing here.</p>\n",
            (unsigned long long)t->lost);
}

/* ---- the head -------------------------------------------------------------------------------- */

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
    "'unsafe-inline'\">\n"
    "<meta name=\"viewport\" content=\"width=device-width\">\n<style>\n"
    ":root{--ink:#222;--soft:#777;--line:#ddd;--back:#fff;--fill:#4a7fb5;--idle:#eee;--bad:#c0392b}"
    "\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#ddd;--soft:#999;--line:#444;--back:#1c1c1e;--"
    "fill:#6fa3d8;"
    "--idle:#2c2c2e;--bad:#e06c5c}}\n"
    "body{font:15px/1.45 "
    "system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:870px;margin:2em auto;"
    "padding:0 1em}\n"
    "h1{font-size:1.35em;margin-bottom:.2em}h2{font-size:1.05em;margin:1.6em 0 .4em}\n"
    "svg{display:block;max-width:100%;height:auto}text{font-size:11px;fill:var(--soft)}\n"
    "text.end{text-anchor:end}text.mid{text-anchor:middle}line{stroke:var(--line)}\n"
    ".rate{fill:var(--fill)}.busy{fill:var(--fill);background:var(--fill)}.idle{fill:var(--idle)}\n"
    ".start{fill:#3a9d5d;background:#3a9d5d}.death{fill:var(--bad);background:var(--bad)}"
    ".kill{fill:#d98c1f;background:#d98c1f}\n"
    ".key{display:inline-block;width:.8em;height:.8em;margin:0 .2em 0 .8em}\n"
    ".small{color:var(--soft);font-size:.85em}pre,code{font:12.5px/1.4 ui-monospace,monospace}\n"
    "pre{background:var(--idle);padding:.7em;overflow:auto;white-space:pre-wrap;overflow-wrap:"
    "anywhere}\n"
    "dl{display:flex;flex-wrap:wrap;gap:.3em 2.2em;margin:1em "
    "0}dt{color:var(--soft);font-size:.8em}"
    "dd{margin:0;font-size:1.25em}\n"
    ".bad{color:var(--bad)}summary{cursor:pointer}\n</style>\n";

static const char *outcome(int code)
{
    switch (code) {
    case EXIT_ALL_WELL:
        return "all went well";
    case EXIT_FAILED:
        return "some records failed";
    case EXIT_USAGE:
        return "the input could not be read";
    case EXIT_CANNOT_START:
        return "workers could not be started";
    case EXIT_HALTED:
        return "halted, as --halt asks";
    case EXIT_CLOSED_PIPE:
        return "the reader of the output went away";
    default:
        return code > 128 ? "stopped by a signal" : "failed";
    }
}

/* Quoted where a shell would want it. */
static void add_word(struct buffer *to, const char *word)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%";
    struct buffer quoted = {0};
    bool quotes = *word == '\0' || word[strspn(word, plain)] != '\0';
    for (const char *at = word; quotes && *at != '\0'; at++)
        if (*at == '\'')
            buffer_text(&quoted, "'\\''");
        else
            buffer_byte(&quoted, *at);
    buffer_text(to, quotes ? "&#39;" : "");
    add_string(to, quotes ? buffer_string(&quoted) : word);
    buffer_text(to, quotes ? "&#39; " : " ");
    buffer_free(&quoted);
}

/* As it was typed; getopt has moved argv's words. */
static void put_command(struct buffer *to)
{
    FILE *file = fopen("/proc/self/cmdline", "re");
    char *word = NULL;
    size_t room = 0;
    bool first = true;
    buffer_text(to, "<pre>");
    while (file != NULL && getdelim(&word, &room, '\0', file) > 0)
        add_word(to, first ? program_invocation_short_name : word), first = false;
    buffer_text(to, "</pre>\n");
    free(word);
    if (file != NULL)
        fclose(file);
}

static void put_figure(struct buffer *to, const char *name, double count, bool bad)
{
    buffer_print(to, "<div><dt>%s</dt><dd%s>", name, bad && count > 0 ? " class=\"bad\"" : "");
    add_count(to, count);
    buffer_text(to, "</dd></div>\n");
}

static void put_head(struct buffer *to, const struct html_page *page, const struct html_page_end *end)
{
    char when[64];
    time_t started = (time_t)page->started;
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S %z", localtime(&started));
    buffer_text(to, head);
    buffer_text(to, "<title>pycrew map ");
    add_string(to, end->function);
    buffer_text(to, "</title></head><body>\n<h1>pycrew map ");
    add_string(to, end->function);
    buffer_print(to, "</h1>\n<p class=\"small\">Begun %s, pycrew %s</p>\n", when, pycrew_version());
    put_command(to);
    buffer_print(to, "<p%s>Exit code %d: %s.</p>\n<dl>\n", end->code != 0 ? " class=\"bad\"" : "",
                 end->code, outcome(end->code));
    put_figure(to, "records done", (double)end->done, false);
    put_figure(to, "read", (double)end->read, false);
    put_figure(to, "failed", (double)end->failed, true);
    put_figure(to, "retried", (double)end->retried, true);
    put_figure(to, "workers' deaths", (double)page->timeline.counts[MARK_DEATH], true);
    put_figure(to, "workers", page->timeline.workers, false);
    buffer_text(to, "<div><dt>time</dt><dd>");
    add_seconds(to, end->seconds);
    buffer_text(to, "</dd></div>\n");
    put_figure(to, "records a second", end->seconds > 0 ? (double)end->done / end->seconds : 0,
               false);
    buffer_text(to, "</dl>\n");
}

/* ---- begin and end --------------------------------------------------------------------------- */

int html_page_open(struct html_page *page, const char *path, const char *trace, bool force)
{
    *page = (struct html_page){.wanted = true, .started = time(NULL)};
    int code = writer_open(&page->writer, path, force ? WRITER_FORCE : 0);
    if (code == 0)
        code = timeline_open(&page->timeline, trace);
    else
        page->wanted = false;
    return code;
}

static void free_errors(struct html_page *page)
{
    for (unsigned i = 0; i < page->types; i++) {
        free(page->errors[i].type);
        free(page->errors[i].message);
        free(page->errors[i].traceback);
        free(page->errors[i].place);
    }
    page->types = 0;
}

int html_page_close(struct html_page *page, const struct html_page_end *end)
{
    struct buffer *to = &page->writer.out;
    int code = timeline_close(&page->timeline);
    int r = writer_begin(&page->writer);
    put_head(to, page, end);
    put_rates(to, &page->timeline);
    put_workers(to, &page->timeline);
    put_latency(to, &page->timeline);
    put_errors(to, page);
    buffer_text(to, "</body></html>\n");
    int closed = writer_close(&page->writer);
    if (r == 0)
        r = closed;
    if (r < 0)
        say("%s: %s", page->writer.path, strerror(-r));
    free_errors(page);
    page->wanted = false;
    return r < 0 ? EXIT_FAILED : code;
}

void html_page_abandon(struct html_page *page)
{
    if (!page->wanted)
        return;
    timeline_close(&page->timeline);
    writer_abandon(&page->writer);
    free_errors(page);
    page->wanted = false;
}
