#include "cli/timeline.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/crew.h"

enum { PAGE = 4096, LINE = 4096 };

static const double first_piece = 0.02;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* ---- adding up ------------------------------------------------------------------------------- */

static void double_pieces(double *pieces)
{
    for (unsigned i = 0; i < TIMELINE_PIECES; i++)
        pieces[i] = i < TIMELINE_PIECES / 2 ? pieces[2 * i] + pieces[2 * i + 1] : 0;
}

static void make_room(struct timeline *t, double at)
{
    while (at >= t->piece * TIMELINE_PIECES) {
        double_pieces(t->records);
        for (unsigned i = 0; i < TIMELINE_WORKERS; i++)
            double_pieces(t->busy[i]);
        t->piece *= 2;
    }
    if (at > t->last)
        t->last = at;
}

static unsigned piece_of(const struct timeline *t, double at)
{
    double piece = at / t->piece;
    return piece < 0 ? 0 : piece >= TIMELINE_PIECES ? TIMELINE_PIECES - 1 : (unsigned)piece;
}

static void add_busy(struct timeline *t, unsigned worker, double from, double to)
{
    for (unsigned i = piece_of(t, from); worker < TIMELINE_WORKERS && i <= piece_of(t, to); i++) {
        double begin = fmax(from, i * t->piece), end = fmin(to, (i + 1) * t->piece);
        t->busy[worker][i] += fmax(end - begin, 0);
    }
}

static unsigned step_of(double seconds)
{
    double step = log2(fmax(seconds, 1e-9) * 1e9) * TIMELINE_STEPS;
    return step >= TIMELINE_OCTAVES * TIMELINE_STEPS ? TIMELINE_OCTAVES * TIMELINE_STEPS - 1
                                                     : (unsigned)step;
}

double timeline_step(unsigned step)
{
    return exp2((double)step / TIMELINE_STEPS) / 1e9;
}

double timeline_percentile(const struct timeline *t, double part)
{
    double seen = 0;
    for (unsigned i = 0; i < TIMELINE_OCTAVES * TIMELINE_STEPS; i++) {
        seen += t->latency[i];
        if (seen > 0 && seen >= part * t->latency_records)
            return fmin(timeline_step(i + 1), t->latency_max);
    }
    return t->latency_max;
}

/* Each of them took as long as the others of its chunk: more is not known. */
static void add_records(struct timeline *t, double records, double seconds, double end)
{
    if (records <= 0)
        return;
    t->records[piece_of(t, end)] += records;
    t->latency[step_of(seconds / records)] += records;
    t->latency_records += records;
    t->latency_sum += seconds;
    t->latency_max = fmax(t->latency_max, seconds / records);
}

static void add_mark(struct timeline *t, enum mark_kind kind, unsigned worker, double at)
{
    if (t->mark_count < TIMELINE_MARKS)
        t->marks[t->mark_count] = (struct timeline_mark){kind, worker, at};
    t->mark_count++;
    t->counts[kind]++;
}

/* ---- the trace's lines: one event each, with the members in an order that we know
 * ------------------ */

static double number(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    return at != NULL ? strtod(at + strlen(key), NULL) : 0;
}

static bool has(const char *line, const char *text)
{
    return strstr(line, text) != NULL;
}

static void hear_slice(struct timeline *t, const char *line, unsigned worker, double begin)
{
    double seconds = number(line, "\"dur\":") / 1e6, end = begin + seconds;
    bool chunk = has(line, "\"cat\":\"chunk\"");
    make_room(t, end);
    add_busy(t, worker, begin, end);
    if (!has(line, "\"result\":\"died\""))
        add_records(t, chunk ? number(line, "\"ended\":") : 1, seconds, end);
}

static void hear_instant(struct timeline *t, const char *line, unsigned worker, double at)
{
    static const char *const names[MARK_KINDS] = {"\"name\":\"worker starts\"",
                                                  "\"name\":\"worker dies\"", "\"name\":\"kill\"",
                                                  "\"name\":\"retry\""};
    make_room(t, at);
    for (unsigned i = 0; i < MARK_KINDS; i++)
        if (has(line, names[i]))
            add_mark(t, (enum mark_kind)i, worker, at);
}

static void hear(struct timeline *t, const char *line)
{
    unsigned track = (unsigned)number(line, "\"tid\":"), worker = track % 10000 - 1;
    double at = fmax(number(line, "\"ts\":") / 1e6 - t->begin, 0);
    if (has(line, "\"name\":\"pycrew_end\""))
        t->lost = (uint64_t)(number(line, "\"lost_calls\":") + number(line, "\"lost_events\":"));
    if (track == 0)
        return;
    if (worker + 1 > t->workers)
        t->workers = worker + 1;
    if (has(line, "\"ph\":\"X\""))
        hear_slice(t, line, worker, at);
    else if (has(line, "\"ph\":\"i\""))
        hear_instant(t, line, worker, at);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void copy(struct timeline *t, const char *data, size_t size)
{
    while (size > 0 && t->copy >= 0 && t->copy_error == 0) {
        ssize_t written = write(t->copy, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            t->copy_error = errno;
            say("%s: %s", t->copy_path, strerror(errno));
            return;
        }
        data += written;
        size -= (size_t)written;
    }
}

static void split(struct timeline *t, char line[LINE], size_t *size, const char *data, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (data[i] != '\n') {
            if (*size < LINE - 1)
                line[(*size)++] = data[i];
            continue;
        }
        line[*size] = '\0';
        hear(t, line);
        *size = 0;
    }
}

/* In the library's own pieces, which are whole events: see its trace.c. */
static void *run(void *data)
{
    struct timeline *t = data;
    char line[LINE], piece[PAGE];
    size_t size = 0;
    ssize_t got;
    do {
        got = read(t->pipe[0], piece, PAGE - t->position % PAGE);
        if (got > 0) {
            copy(t, piece, (size_t)got);
            split(t, line, &size, piece, (size_t)got);
            t->position += (uint64_t)got;
        }
    } while (got > 0 || (got < 0 && errno == EINTR));
    return NULL;
}

static bool start_thread(struct timeline *t)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    t->running = pthread_create(&t->thread, NULL, run, t) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return t->running;
}

/* ---- begin and end --------------------------------------------------------------------------- */

int timeline_open(struct timeline *t, const char *path)
{
    *t = (struct timeline){
        .pipe = {-1, -1}, .copy = -1, .copy_path = path, .begin = now(), .piece = first_piece};
    if (path != NULL) {
        t->copy = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
        if (t->copy < 0) {
            say("%s: %s", path, strerror(errno));
            return EXIT_USAGE;
        }
    }
    if (pipe2(t->pipe, O_CLOEXEC) < 0 || !start_thread(t)) {
        say("--report: %s", strerror(errno));
        return EXIT_CANNOT_START;
    }
    snprintf(t->name, sizeof(t->name), "/proc/self/fd/%d", t->pipe[1]);
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void timeline_crew_open(struct timeline *t)
{
    close_fd(&t->pipe[1]);
}

int timeline_close(struct timeline *t)
{
    close_fd(&t->pipe[1]);
    if (t->running)
        pthread_join(t->thread, NULL);
    t->running = false;
    close_fd(&t->pipe[0]);
    close_fd(&t->copy);
    return t->copy_error != 0 ? EXIT_FAILED : 0;
}
