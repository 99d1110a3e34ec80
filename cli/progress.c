/* progress: how far a map is, on stderr. */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/buffer.h"
#include "cli/console.h"

enum { BAR_WIDTH = 20 };

static const int64_t second_ns = 1000000000;

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * second_ns + now.tv_nsec;
}

void progress_start(struct progress *progress, enum progress_mode mode, uint64_t done)
{
    int64_t now = now_ns();
    if (mode == PROGRESS_AUTO)
        mode = isatty(STDERR_FILENO) == 1 ? PROGRESS_BAR : PROGRESS_NONE;
    *progress = (struct progress){.mode = mode,
                                  .started_ns = now,
                                  .shown_ns = now,
                                  .measured_ns = now,
                                  .measured_done = done,
                                  .started_done = done};
}

static int64_t period_ns(const struct progress *progress)
{
    switch (progress->mode) {
    case PROGRESS_BAR:
        return second_ns / 10;
    case PROGRESS_PLAIN:
        return 5 * second_ns;
    case PROGRESS_JSON:
        return second_ns;
    default:
        return -1;
    }
}

int64_t progress_wait_ns(const struct progress *progress)
{
    int64_t period = period_ns(progress);
    if (period < 0)
        return -1;
    int64_t wait = progress->shown_ns + period - now_ns();
    return wait > 0 ? wait : 0;
}

bool progress_due(const struct progress *progress)
{
    return period_ns(progress) > 0 && progress_wait_ns(progress) == 0;
}

/* ---- what is to be said ---------------------------------------------------------------------- */

/* The rate of the last seconds: half of what it was is forgotten each two seconds. */
static void measure(struct progress *progress, const struct standing *standing)
{
    double seconds = (double)(now_ns() - progress->measured_ns) / 1e9;
    if (seconds < 0.05)
        return;
    double rate = (double)(standing->done - progress->measured_done) / seconds;
    double weight = seconds / (seconds + 3); /* of the new measurement */
    progress->rate = progress->rate > 0 ? progress->rate + (rate - progress->rate) * weight : rate;
    progress->measured_done = standing->done;
    progress->measured_ns = now_ns();
}

/* Records in all, as well as is known: exact, estimated from the bytes read, or 0. */
static double expected_total(const struct standing *standing, bool *ret_exact)
{
    *ret_exact = standing->total > 0;
    if (*ret_exact)
        return (double)standing->total;
    if (standing->size == 0 || standing->position == 0 || standing->added == 0)
        return 0;
    double part = (double)standing->position / (double)standing->size;
    return part < 1 ? (double)standing->added / part : (double)standing->added;
}

/* 1234567 as "1,234,567". */
static void add_number(struct buffer *to, double number)
{
    char digits[32];
    int size = snprintf(digits, sizeof(digits), "%.0f", number);
    for (int i = 0; i < size; i++) {
        if (i > 0 && (size - i) % 3 == 0)
            buffer_byte(to, ',');
        buffer_byte(to, digits[i]);
    }
}

static void add_time(struct buffer *to, double seconds)
{
    unsigned long whole = seconds < 1e9 ? (unsigned long)(seconds + 0.5) : 1000000000;
    if (whole >= 3600)
        buffer_print(to, "%lu:%02lu:%02lu", whole / 3600, whole / 60 % 60, whole % 60);
    else
        buffer_print(to, "%lu:%02lu", whole / 60, whole % 60);
}

static void add_bar(struct buffer *to, double part)
{
    buffer_byte(to, '[');
    for (int i = 0; i < BAR_WIDTH; i++)
        buffer_byte(to, i < (int)(part * BAR_WIDTH) ? '#' : '-');
    buffer_print(to, "] %3.0f%%  ", part * 100);
}

static void add_count(struct buffer *to, const char *name, uint64_t count)
{
    if (count == 0)
        return;
    buffer_print(to, "  %s ", name);
    add_number(to, (double)count);
}

static void write_line(struct buffer *to, const struct progress *progress,
                       const struct standing *standing, bool bar)
{
    bool exact;
    double total = expected_total(standing, &exact), done = (double)standing->done;
    double part = total > 0 ? done / total : 0;
    if (bar && total > 0)
        add_bar(to, part < 1 ? part : 1);
    add_number(to, done);
    if (total > 0) {
        buffer_text(to, exact || total <= (double)standing->added ? "/" : "/~");
        add_number(to, total);
    }
    buffer_text(to, "  ");
    if (progress->rate < 10 && progress->rate > 0)
        buffer_print(to, "%.2f", progress->rate);
    else
        add_number(to, progress->rate);
    buffer_text(to, "/s");
    if (total > done && progress->rate > 0) {
        buffer_text(to, "  ETA ");
        add_time(to, (total - done) / progress->rate);
    }
    add_count(to, "failed", standing->failed);
    add_count(to, "retried", standing->retried);
    add_count(to, "deaths", standing->deaths);
}

static void write_json(struct buffer *to, const struct progress *progress,
                       const struct standing *standing, bool last)
{
    bool exact;
    double total = expected_total(standing, &exact), done = (double)standing->done;
    buffer_print(to, "{\"done\": %.0f, \"total\": ", done);
    buffer_print(to, total > 0 ? "%.0f" : "null", total);
    buffer_print(to,
                 ", \"exact\": %s, \"rate\": %.3f, \"eta_s\": ", exact || last ? "true" : "false",
                 progress->rate);
    bool known = total > 0 && progress->rate > 0 && !last;
    buffer_print(to,
                 known  ? "%.1f"
                 : last ? "0"
                        : "null",
                 known && total > done ? (total - done) / progress->rate : 0.0);
    buffer_print(to, ", \"failed\": %llu, \"retried\": %llu, \"deaths\": %llu, ",
                 (unsigned long long)standing->failed, (unsigned long long)standing->retried,
                 (unsigned long long)standing->deaths);
    buffer_print(to, "\"elapsed_s\": %.3f, \"ended\": %s}",
                 (double)(now_ns() - progress->started_ns) / 1e9, last ? "true" : "false");
}

/* ---- saying it ------------------------------------------------------------------------------- */

void progress_report(struct progress *progress, const struct standing *standing)
{
    struct buffer text = {0};
    measure(progress, standing);
    write_line(&text, progress, standing, false);
    say("%s", buffer_string(&text));
    buffer_free(&text);
}

void progress_show(struct progress *progress, const struct standing *standing)
{
    struct buffer text = {0};
    measure(progress, standing);
    if (progress->mode == PROGRESS_JSON) {
        write_json(&text, progress, standing, false);
        say_text(buffer_string(&text));
    } else if (progress->mode == PROGRESS_BAR) {
        write_line(&text, progress, standing, true);
        console_bar(buffer_string(&text));
    } else if (progress->mode == PROGRESS_PLAIN) {
        progress_report(progress, standing);
    }
    progress->shown_ns = now_ns();
    buffer_free(&text);
}

/* Over all, not lately: this is what stays on the screen. */
static void settle_rate(struct progress *progress, const struct standing *standing)
{
    double seconds = (double)(now_ns() - progress->started_ns) / 1e9;
    progress->rate = seconds > 0 ? (double)(standing->done - progress->started_done) / seconds : 0;
}

void progress_end(struct progress *progress, const struct standing *standing)
{
    struct buffer text = {0};
    settle_rate(progress, standing);
    console_bar(NULL);
    if (progress->mode == PROGRESS_JSON)
        write_json(&text, progress, standing, true);
    else if (progress->mode == PROGRESS_BAR || progress->mode == PROGRESS_PLAIN)
        write_line(&text, progress, standing, progress->mode == PROGRESS_BAR);
    if (text.size > 0)
        say_text(buffer_string(&text));
    buffer_free(&text);
}
