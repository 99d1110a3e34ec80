/* metrics: statistics as text that Prometheus reads.
 *
 * Numbers are written without printf's floating point, whose decimal point is the locale's. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crew.h"

enum { LEAST_POWER = 8, MOST_POWER = 36 }; /* the buckets: 2^8 ns, 256 ns, to 2^36 ns, 69 s */

typedef struct metrics_text {
    char *at;
    size_t size, length; /* length: of all that there is, also what does not fit */
    char *crew;          /* the label, as it is written; or "" */
} metrics_text;

/* ---- writing ---- */

static __attribute__((format(printf, 2, 3))) void put(metrics_text *t, const char *format, ...)
{
    size_t used = t->length < t->size ? t->length : t->size;
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(t->size > 0 ? t->at + used : NULL, t->size - used, format, arguments);
    va_end(arguments);
    t->length += length > 0 ? (size_t)length : 0;
}

static void describe(metrics_text *t, const char *name, const char *type, const char *help)
{
    put(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* The name with its labels; label may be NULL. */
static void begin(metrics_text *t, const char *name, const char *label, const char *value)
{
    put(t, "%s", name);
    if (label != NULL)
        put(t, "{%s%s%s=\"%s\"}", t->crew, t->crew[0] != '\0' ? "," : "", label, value);
    else if (t->crew[0] != '\0')
        put(t, "{%s}", t->crew);
}

static void number(metrics_text *t, const char *name, const char *label, const char *value,
                   uint64_t n)
{
    begin(t, name, label, value);
    put(t, " %llu\n", (unsigned long long)n);
}

static void format_seconds(char text[32], uint64_t ns)
{
    snprintf(text, 32, "%llu.%09llu", (unsigned long long)(ns / 1000000000),
             (unsigned long long)(ns % 1000000000));
}

static void seconds(metrics_text *t, const char *name, const char *label, const char *value,
                    int64_t ns)
{
    char text[32];

    format_seconds(text, ns > 0 ? (uint64_t)ns : 0);
    begin(t, name, label, value);
    put(t, " %s\n", text);
}

/* ---- the crew ---- */

static void gauge(metrics_text *t, const char *name, const char *help, uint64_t n)
{
    describe(t, name, "gauge", help);
    number(t, name, NULL, NULL, n);
}

static void write_places(metrics_text *t, const pycrew_stats *s)
{
    static const char name[] = "pycrew_workers";

    describe(t, name, "gauge", "Places of workers by what is in them.");
    number(t, name, "state", "busy", s->busy);
    number(t, name, "state", "idle", s->alive - s->busy);
    number(t, name, "state", "starting", s->starting);
    number(t, name, "state", "backing_off", s->backing_off);
}

static void write_state(metrics_text *t, const pycrew_stats *s)
{
    write_places(t, s);
    gauge(t, "pycrew_calls_in_flight", "Calls submitted and not ended, queued ones included.",
          s->in_flight);
    gauge(t, "pycrew_calls_queued", "Calls that no worker has taken.", s->queued);
    describe(t, "pycrew_oldest_call_seconds", "gauge", "Time since the submit of the oldest call in flight.");
    seconds(t, "pycrew_oldest_call_seconds", NULL, NULL, s->oldest_ns);
    gauge(t, "pycrew_memory_used_bytes", "Shared memory in use.", s->memory_used);
    gauge(t, "pycrew_memory_max_bytes", "What shared memory may become.", s->memory_max);
}

static void write_outcomes(metrics_text *t, const pycrew_stats *s)
{
    static const char name[] = "pycrew_calls_total";

    describe(t, name, "counter", "Calls and batch items that ended, by how.");
    number(t, name, "outcome", "returned", s->returned);
    number(t, name, "outcome", "raised", s->raised);
    number(t, name, "outcome", "died", s->died);
    number(t, name, "outcome", "timed_out", s->timed_out);
    number(t, name, "outcome", "cancelled", s->cancelled);
    number(t, name, "outcome", "failed", s->failed);
    describe(t, "pycrew_calls_retried_total", "counter", "Calls and batch items that were run again after a death.");
    number(t, "pycrew_calls_retried_total", NULL, NULL, s->retried);
}

/* ---- each worker ---- */

enum value { CALLS, ERRORS, DEATHS, BUSY, READY, RESIDENT, VALUES };

static void write_value(metrics_text *t, const char *name, const char *worker,
                        const pycrew_worker_stats *w, enum value which)
{
    switch (which) {
    case CALLS: number(t, name, "worker", worker, w->calls); break;
    case ERRORS: number(t, name, "worker", worker, w->errors); break;
    case DEATHS: number(t, name, "worker", worker, w->deaths); break;
    case BUSY: seconds(t, name, "worker", worker, w->busy_ns); break;
    case READY: seconds(t, name, "worker", worker, w->ready_ns); break;
    default: number(t, name, "worker", worker, w->rss);
    }
}

static void write_workers(metrics_text *t, const pycrew_stats *s)
{
    static const struct {
        const char *name, *type, *help;
    } all[VALUES] = {
        [CALLS] = {"pycrew_worker_calls_total", "counter", "Calls and batch items that the worker ended."},
        [ERRORS] = {"pycrew_worker_errors_total", "counter", "Those of them that did not return."},
        [DEATHS] = {"pycrew_worker_deaths_total", "counter", "Deaths of its processes."},
        [BUSY] = {"pycrew_worker_busy_seconds_total", "counter", "Time in which it was not idle."},
        [READY] = {"pycrew_worker_ready_seconds_total", "counter", "Time in which it was there to take calls."},
        [RESIDENT] = {"pycrew_worker_resident_bytes", "gauge", "Its resident memory, what is shared included."},
    };

    for (unsigned v = 0; v < VALUES; v++) {
        describe(t, all[v].name, all[v].type, all[v].help);
        for (unsigned i = 0; i < s->workers; i++) {
            char worker[16];

            snprintf(worker, sizeof worker, "%u", i);
            write_value(t, all[v].name, worker, &s->worker[i], (enum value)v);
        }
    }
}

/* ---- histograms ---- */

static void write_histogram(metrics_text *t, const pycrew_crew *crew, enum pc_time interval,
                            const char *name, const char *help)
{
    char part[64], le[32];
    pc_histogram_sum sum;

    pc_latency_sum(crew, interval, -1, &sum);
    describe(t, name, "histogram", help);
    snprintf(part, sizeof part, "%s_bucket", name);
    for (unsigned power = LEAST_POWER; power <= MOST_POWER; power++) {
        format_seconds(le, UINT64_C(1) << power);
        number(t, part, "le", le, pc_histogram_below(&sum, UINT64_C(1) << power));
    }
    number(t, part, "le", "+Inf", sum.count);
    snprintf(part, sizeof part, "%s_sum", name);
    seconds(t, part, NULL, NULL, sum.sum < INT64_MAX ? (int64_t)sum.sum : INT64_MAX);
    snprintf(part, sizeof part, "%s_count", name);
    number(t, part, NULL, NULL, sum.count);
}

static void write_histograms(metrics_text *t, const pycrew_crew *crew)
{
    write_histogram(t, crew, PC_TIME_RUN, "pycrew_call_run_seconds",
                    "Time that a worker had a call or batch item (sampled).");
    write_histogram(t, crew, PC_TIME_WAIT, "pycrew_call_wait_seconds",
                    "Time from submit until a worker began (sampled).");
    write_histogram(t, crew, PC_TIME_TOTAL, "pycrew_call_seconds",
                    "Time from submit to end (sampled).");
}

/* ---- all of it ---- */

/* The label `crew`, escaped; malloc'ed. */
static char *label_of(const char *name)
{
    size_t size = name == NULL ? 0 : strlen(name);
    char *label = malloc(2 * size + sizeof "crew=\"\""), *at = label;

    if (label == NULL)
        return NULL;
    *at = '\0';
    if (name == NULL)
        return label;
    at = stpcpy(at, "crew=\"");
    for (; *name != '\0'; name++) {
        if (*name == '\\' || *name == '"' || *name == '\n')
            *at++ = '\\';
        *at++ = *name == '\n' ? 'n' : *name;
    }
    strcpy(at, "\"");
    return label;
}

static int write_all(pycrew_crew *crew, metrics_text *t, pycrew_worker_stats *each)
{
    pycrew_stats stats = PYCREW_STATS_INIT;
    int rc;

    stats.worker = each;
    stats.worker_max = crew->workers;
    rc = pycrew_stats_get(crew, &stats);
    if (rc < 0)
        return rc;
    write_state(t, &stats);
    write_outcomes(t, &stats);
    write_workers(t, &stats);
    write_histograms(t, crew);
    return (int)t->length;
}

static int check_name(const char *name)
{
    size_t size = name == NULL ? 0 : strlen(name);

    if (pc_utf8_prefix(name == NULL ? "" : name, size) != size)
        return pc_fail(-EINVAL, "pycrew_metrics_write: name is not UTF-8 at byte %zu",
                       pc_utf8_prefix(name, size));
    if (size > 1000)
        return pc_fail(-EINVAL, "pycrew_metrics_write: name has %zu bytes; at most 1000", size);
    return 0;
}

int pycrew_metrics_write(pycrew_crew *crew, const char *name, char *buffer, size_t size)
{
    metrics_text text = {.at = buffer, .size = size};
    pycrew_worker_stats *each;
    int rc;

    if (crew == NULL || (buffer == NULL && size > 0))
        return pc_fail(-EINVAL, "pycrew_metrics_write: crew and buffer must not be NULL");
    if ((rc = pc_crew_check(crew)) < 0 || (rc = check_name(name)) < 0)
        return rc;
    each = calloc(crew->workers, sizeof each[0]);
    text.crew = label_of(name);
    rc = each == NULL || text.crew == NULL ? pc_fail(-ENOMEM, "no memory is left")
                                           : write_all(crew, &text, each);
    free(text.crew);
    free(each);
    return rc;
}
