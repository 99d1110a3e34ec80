#include "lib/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/shm/control.h"
#include "lib/shm/probes.h"
#include "lib/shm/trace.h"

#define END_NS INT64_C(1000000000) /* so long a reader may take nothing, when the crew closes */

enum {
    LOOK_MS = 20,      /* so often rings are emptied: */
    RING_MOST = 16384, /* one holds 8192 calls, 400 000 a second */
    RING_LEAST = 512,
    TEXT_MOST = 16 << 20, /* bytes that wait for the disk */
    EVENT_MOST = 2048,    /* of text */
    NAME_MOST = 1000,     /* of a function's, as it is written */
    LANES = 1024,         /* calls that a worker has at a time, with a track of their own */
    LANE_IDS = 10000,
    QUEUE_SHOWN_NS = 50 * 1000 /* who waited less gets no slice for it */
};
#define RINGS_MOST ((size_t)32 << 20) /* bytes, of all */

/* A call that a worker began, and has not ended. A slot may have several: its lives may be
 * different workers', and of their rings the one that is read first tells of later ones. */
typedef struct running {
    struct running *next; /* of the slot, or free */
    uint32_t generation, function, items, deaths;
    int64_t begin, submitted;
    unsigned worker, lane;
} running;

typedef struct slot {
    running *calls;
    uint32_t generation, deaths; /* of the life that died last */
} slot;

typedef struct lanes {
    uint64_t used[LANES / 64], named[LANES / 64];
} lanes;

typedef struct text {
    char *data;
    size_t size, capacity;
} text;

struct pc_trace {
    pycrew_crew *crew;
    pthread_t thread;
    bool started;
    int fd;
    dev_t device; /* of fd, to see whether it is still ours */
    ino_t inode;
    int64_t origin; /* nothing is older */
    slot *slots;
    running *unused;
    lanes *lanes;                      /* by worker */
    uint32_t *read, *lost;             /* by worker: of its ring */
    const pycrew_function **functions; /* by number, as found */
    text writing;                      /* the thread's, as */
    uint64_t position;                 /* in the file */
    int64_t progress;                  /* when that went on */

    pthread_mutex_t lock; /* what follows, and all above but fd and writing */
    pthread_cond_t wake;
    text text;
    int64_t now; /* when the lock was taken */
    uint64_t events, lost_calls, lost_events;
    bool first; /* nothing was written yet */
    _Atomic int64_t stop; /* since when it is to end; 0: it is not */

    _Atomic int error; /* errno of a write; nothing is written after it */
    bool said;         /* the supervisor's */
};

/* ---- JSON ---- */

static bool make_room(text *t, size_t size)
{
    size_t capacity = t->capacity;
    char *grown;

    if (t->size + size > TEXT_MOST)
        return false;
    if (t->size + size <= capacity)
        return true;
    while (capacity < t->size + size)
        capacity = capacity == 0 ? 1 << 16 : 2 * capacity;
    grown = realloc(t->data, capacity);
    if (grown == NULL)
        return false;
    t->data = grown;
    t->capacity = capacity;
    return true;
}

/* One event, without the separator. False: there is no room, and it is counted. */
static bool add(pc_trace *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The separator stands before an event, so that the array is whole but for its ']' at any moment.
 */
static bool add(pc_trace *t, const char *format, ...)
{
    va_list arguments;
    int size;

    if (atomic_load_explicit(&t->error, memory_order_relaxed) != 0 ||
        !make_room(&t->text, EVENT_MOST)) {
        t->lost_events++;
        return false;
    }
    if (!t->first)
        t->text.data[t->text.size++] = ',';
    t->text.data[t->text.size++] = '\n';
    t->first = false;
    va_start(arguments, format);
    size = vsnprintf(t->text.data + t->text.size, EVENT_MOST - 2, format, arguments);
    va_end(arguments);
    t->text.size += (size_t)size; /* NAME_MOST sees to it that it fits */
    t->events++;
    return true;
}

/* As a JSON string, without the quotes. */
static const char *quote(const char *from, char to[NAME_MOST])
{
    size_t size = 0;

    for (; *from != '\0' && size < NAME_MOST - 8; from++) {
        unsigned char c = (unsigned char)*from;

        if (c < 0x20 || c == '"' || c == '\\' || c == 0x7f)
            size += (size_t)sprintf(to + size, "\\u%04x", c);
        else
            to[size++] = (char)c;
    }
    while (*from != '\0' && size > 0 && ((unsigned char)to[size - 1] & 0xc0) == 0x80)
        size--; /* it was cut: not inside of a character */
    if (*from != '\0' && size > 0 && (unsigned char)to[size - 1] >= 0xc0)
        size--;
    to[size] = '\0';
    return to;
}

/* Microseconds. */
#define US "%lld.%03d"
#define US_OF(ns) (long long)((ns) / 1000), (int)((ns) % 1000)

static unsigned track(unsigned worker, unsigned lane)
{
    return lane * LANE_IDS + worker + 1;
}

static int pid_of(const pc_trace *t)
{
    return (int)t->crew->segment.config.host_pid;
}

static void name_track(pc_trace *t, unsigned worker, unsigned lane)
{
    lanes *l = &t->lanes[worker];
    char beside[32] = "";

    if (l->named[lane / 64] >> lane % 64 & 1)
        return;
    l->named[lane / 64] |= UINT64_C(1) << lane % 64;
    if (lane > 0)
        snprintf(beside, sizeof beside, ", beside %u", lane);
    add(t,
        "{\"ph\":\"M\",\"pid\":%d,\"tid\":%u,\"name\":\"thread_name\",\"args\":{\"name\":\"worker "
        "%u%s\"}}",
        pid_of(t), track(worker, lane), worker, beside);
    add(t,
        "{\"ph\":\"M\",\"pid\":%d,\"tid\":%u,\"name\":\"thread_sort_index\",\"args\":{\"sort_"
        "index\":%u}}",
        pid_of(t), track(worker, lane), worker * LANES + lane + 1);
}

#define INSTANT                                                                                    \
    "{\"ph\":\"i\",\"s\":\"t\",\"pid\":%d,\"tid\":%u,\"ts\":" US                                   \
    ",\"name\":\"%s\",\"cat\":\"%s\",\"args\":{"

/* ---- functions ---- */

static const pycrew_function *find_function(pc_trace *t, uint32_t number)
{
    if (number >= PC_FUNCTION_PAGES * PC_FUNCTION_PAGE)
        return NULL;
    for (unsigned i = 0; i < PC_FUNCTION_BUCKETS && t->functions[number] == NULL; i++)
        for (const pycrew_function *f =
                 atomic_load_explicit(&t->crew->functions[i], memory_order_acquire);
             f != NULL; f = f->next)
            if (f->number == number)
                t->functions[number] = f;
    return t->functions[number];
}

static const char *name_of(pc_trace *t, uint32_t number, char name[NAME_MOST])
{
    const pycrew_function *f = find_function(t, number);

    return quote(f != NULL ? f->name : "?", name);
}

/* ---- calls ---- */

static unsigned take_lane(lanes *l)
{
    unsigned lane = 0;

    while (lane < LANES - 1 && l->used[lane / 64] >> lane % 64 & 1)
        lane++;
    l->used[lane / 64] |= UINT64_C(1) << lane % 64;
    return lane;
}

static int64_t within(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static const char *result_text(uint32_t kind)
{
    switch (kind) {
    case PC_RESULT_VALUE:
        return "returned";
    case PC_RESULT_BATCH:
        return "chunk";
    case PC_RESULT_END:
        return "end";
    case PC_RESULT_EXCEPTION:
        return "raised";
    case PC_RESULT_INTERRUPTED:
        return "interrupted";
    case PC_RESULT_LOST:
        return "lost";
    case PC_RESULT_NO_FUNCTION:
        return "no function";
    default:
        return "failed";
    }
}

static void add_queueing(pc_trace *t, const running *r, uint64_t call, const char *name,
                         const char *end)
{
    if (r->begin - r->submitted < QUEUE_SHOWN_NS && *end == '\0')
        return;
    if (!add(t,
             "{\"ph\":\"b\",\"pid\":%d,\"tid\":0,\"ts\":" US
             ",\"name\":\"%s\",\"cat\":\"queue\",\"id\":\"0x%llx\"}",
             pid_of(t), US_OF(r->submitted), name, (unsigned long long)call))
        return;
    add(t,
        "{\"ph\":\"e\",\"pid\":%d,\"tid\":0,\"ts\":" US
        ",\"name\":\"%s\",\"cat\":\"queue\",\"id\":\"0x%llx\",\"args\":{%s}}",
        pid_of(t), US_OF(r->begin), name, (unsigned long long)call, end);
}

/* died: and not ended. */
static void add_call(pc_trace *t, const running *r, uint32_t number, int64_t end,
                     const char *result, uint32_t items, bool died)
{
    uint64_t call = (uint64_t)r->generation << 32 | number;
    char space[NAME_MOST], of_chunk[64] = "";
    const char *name = name_of(t, r->function, space);

    if (r->items != 0 && died)
        snprintf(of_chunk, sizeof of_chunk, ",\"items\":%u", r->items - 1);
    else if (r->items != 0)
        snprintf(of_chunk, sizeof of_chunk, ",\"items\":%u,\"ended\":%u", r->items - 1,
                 items > 0 && items <= r->items ? items - 1 : 0);
    name_track(t, r->worker, r->lane);
    add_queueing(t, r, call, name, "");
    add(t,
        "{\"ph\":\"X\",\"pid\":%d,\"tid\":%u,\"ts\":" US ",\"dur\":" US
        ",\"name\":\"%s\",\"cat\":\"%s\",\"args\":{\"call\":\"0x%llx\",\"queued_us\":" US
        ",\"attempt\":%u,\"result\":\"%s\"%s}}",
        pid_of(t), track(r->worker, r->lane), US_OF(r->begin), US_OF(end - r->begin), name,
        r->items != 0 ? "chunk" : "call", (unsigned long long)call, US_OF(r->begin - r->submitted),
        r->deaths + 1, result, of_chunk);
}

/* Where the slot's call of this worker is linked; *NULL: it has none. */
static running **find_running(slot *s, unsigned worker)
{
    running **link = &s->calls;

    while (*link != NULL && (*link)->worker != worker)
        link = &(*link)->next;
    return link;
}

static void end_running(pc_trace *t, running **link)
{
    running *r = *link;
    lanes *l = &t->lanes[r->worker];

    l->used[r->lane / 64] &= ~(UINT64_C(1) << r->lane % 64);
    *link = r->next;
    r->next = t->unused;
    t->unused = r;
}

static running *new_running(pc_trace *t)
{
    running *r = t->unused;

    if (r == NULL)
        return calloc(1, sizeof *r);
    t->unused = r->next;
    return r;
}

static void hear_begin(pc_trace *t, unsigned worker, slot *s, const pc_trace_event *e)
{
    running **link = find_running(s, worker), *r;
    uint32_t generation = (uint32_t)(e->call >> 32);

    if (*link != NULL) /* a lie; so a slot has at most one for each worker */
        end_running(t, link);
    r = new_running(t);
    if (r == NULL) {
        t->lost_events++;
        return;
    }
    *r = (running){.next = s->calls,
                   .generation = generation,
                   .function = e->what >> PC_TRACE_WHAT_BITS,
                   .items = e->items,
                   .deaths = s->generation == generation ? s->deaths : 0,
                   .begin = within(e->time, t->origin, t->now),
                   .worker = worker,
                   .lane = take_lane(&t->lanes[worker])};
    r->submitted = within(e->submitted, t->origin, r->begin);
    s->calls = r;
}

static void hear(pc_trace *t, unsigned worker, const pc_trace_event *e)
{
    uint32_t number = (uint32_t)e->call;
    running **link;
    slot *s;

    if (number >= t->crew->segment.config.slots)
        return;
    s = &t->slots[number];
    if ((e->what & 1) == PC_TRACE_BEGIN) {
        hear_begin(t, worker, s, e);
        return;
    }
    link = find_running(s, worker);
    if (*link == NULL || (*link)->generation != (uint32_t)(e->call >> 32))
        return;
    add_call(t, *link, number, within(e->time, (*link)->begin, t->now),
             result_text(e->what >> PC_TRACE_WHAT_BITS), e->items, false);
    end_running(t, link);
}

static void count_lost(pc_trace *t, unsigned worker, uint32_t lost)
{
    uint32_t more = lost - t->lost[worker];

    if (more == 0)
        return;
    t->lost[worker] = lost;
    t->lost_calls += more;
    name_track(t, worker, 0);
    add(t, INSTANT "\"calls\":%u}}", pid_of(t), track(worker, 0), US_OF(t->now),
        "not traced: too many calls", "lost", more);
}

/* Under lock: empties a worker's ring. */
static void drain(pc_trace *t, unsigned worker)
{
    const pc_segment *segment = &t->crew->segment;
    pc_trace_ring *ring = pc_trace_ring_of(segment, worker);
    uint32_t written = atomic_load_explicit(&ring->written, memory_order_acquire);

    if (written - t->read[worker] > segment->config.trace) /* scribbled over */
        t->read[worker] = written;
    while (t->read[worker] != written) {
        pc_trace_event event =
            *(const volatile pc_trace_event *)pc_trace_at(segment, ring, t->read[worker]++);

        hear(t, worker, &event);
    }
    atomic_store_explicit(&ring->read, written, memory_order_release);
    count_lost(t, worker, atomic_load_explicit(&ring->lost, memory_order_relaxed));
}

/* ---- the host's own ---- */

static void enter(pc_trace *t)
{
    pthread_mutex_lock(&t->lock);
    t->now = pc_now();
}

static void leave(pc_trace *t)
{
    pthread_mutex_unlock(&t->lock);
}

void pc_trace_started(pycrew_crew *crew, unsigned worker)
{
    const pc_host_worker *w = &crew->crew_workers[worker];
    pc_trace *t = crew->trace;

    if (t == NULL)
        return;
    enter(t);
    name_track(t, worker, 0);
    add(t, INSTANT "\"pid\":%d,\"incarnation\":%u,\"start_us\":" US "}}", pid_of(t),
        track(worker, 0), US_OF(t->now), "worker starts", "worker", w->pid, w->incarnation,
        US_OF(t->now - w->started));
    leave(t);
}

static void end_all_of(pc_trace *t, unsigned worker)
{
    for (uint32_t i = 0; i < t->crew->segment.config.slots; i++) {
        slot *s = &t->slots[i];
        running **link = find_running(s, worker);

        if (*link == NULL)
            continue;
        add_call(t, *link, i, t->now, "died", 0, true);
        s->generation = (*link)->generation;
        s->deaths = (*link)->deaths + 1;
        end_running(t, link);
    }
}

void pc_trace_died(pycrew_crew *crew, unsigned worker, bool planned)
{
    const pc_host_worker *w = &crew->crew_workers[worker];
    pc_trace *t = crew->trace;

    PC_PROBE4(death, worker, w->pid, w->signal, w->signal == 0 ? w->status : 0);
    if (t == NULL)
        return;
    enter(t);
    drain(t, worker);
    end_all_of(t, worker);
    name_track(t, worker, 0);
    add(t, INSTANT "\"pid\":%d,\"incarnation\":%u,\"signal\":%d,\"exit_status\":%d,\"killed\":%s}}",
        pid_of(t), track(worker, 0), US_OF(t->now), planned ? "worker ends" : "worker dies",
        "worker", w->pid, w->incarnation, w->signal, w->signal == 0 ? w->status : 0,
        w->killed ? "true" : "false");
    leave(t);
}

static void add_of_call(pc_trace *t, const pycrew_call *call, unsigned worker, const char *what,
                        const char *why)
{
    const pycrew_function *f = atomic_load(&call->function);
    char name[NAME_MOST];

    name_track(t, worker, 0);
    add(t, INSTANT "\"function\":\"%s\",\"call\":\"0x%llx\"%s}}", pid_of(t), track(worker, 0),
        US_OF(t->now), what, "worker", quote(f != NULL ? f->name : "?", name),
        (unsigned long long)call->generation << 32 | call->index, why);
}

/* For probes. */
__attribute__((unused)) static const char *probed_name(const pycrew_call *call)
{
    const pycrew_function *f = atomic_load(&call->function);

    return f != NULL ? f->name : "?";
}

void pc_trace_kill(const pycrew_call *call, unsigned worker)
{
    pc_trace *t = call->crew->trace;

    PC_PROBE4(kill, call->index, atomic_load(&call->generation), probed_name(call), worker);
    if (t == NULL)
        return;
    enter(t);
    add_of_call(t, call, worker, "kill",
                atomic_load(&call->stop) == PC_STOP_CANCEL ? ",\"why\":\"cancelled\""
                                                           : ",\"why\":\"deadline\"");
    leave(t);
}

void pc_trace_retry(const pycrew_call *call, unsigned worker)
{
    pc_trace *t = call->crew->trace;

    PC_PROBE4(retry, call->index, atomic_load(&call->generation), probed_name(call), worker);
    if (t == NULL || worker >= call->crew->workers)
        return;
    enter(t);
    add_of_call(t, call, worker, "retry", "");
    leave(t);
}

void pc_trace_unrun(const pycrew_call *call, int code)
{
    pc_trace *t = call->crew->trace;
    const pycrew_function *f = atomic_load(&call->function);
    char name[NAME_MOST], end[64];
    running r;

    if (t == NULL)
        return;
    enter(t);
    r = (running){.begin = t->now,
                  .submitted = within(atomic_load(&call->crew->segment.submits[call->index]),
                                      t->origin, t->now)};
    snprintf(end, sizeof end, "\"code\":%d", code);
    add_queueing(t, &r, (uint64_t)call->generation << 32 | call->index,
                 quote(f != NULL ? f->name : "?", name), end);
    leave(t);
}

void pc_trace_note(pycrew_crew *crew, const char *what)
{
    pc_trace *t = crew->trace;

    if (t == NULL)
        return;
    enter(t);
    add(t, INSTANT "}}", pid_of(t), 0, US_OF(t->now), what, "crew");
    leave(t);
}

/* ---- the file ---- */

/* This process may have done closefrom(3), and the number be somebody's. */
static bool is_ours(const pc_trace *t)
{
    struct stat status;

    return fstat(t->fd, &status) == 0 && status.st_dev == t->device && status.st_ino == t->inode;
}

/* A pipe is full. False, with errno: who reads it has taken nothing for too long, and the crew is to close. */
static bool await_reader(const pc_trace *t)
{
    struct pollfd pipe = {.fd = t->fd, .events = POLLOUT};
    int64_t stop = atomic_load(&t->stop), since = t->progress > stop ? t->progress : stop;

    poll(&pipe, 1, LOOK_MS);
    if (stop == 0 || pc_now() - since < END_NS)
        return true;
    errno = ETIMEDOUT;
    return false;
}

static void write_out(pc_trace *t, const char *data, size_t size)
{
    while (size > 0 && atomic_load(&t->error) == 0) {
        ssize_t written = is_ours(t) ? write(t->fd, data, size) : (errno = EBADF, -1);

        if (written < 0 && (errno == EINTR || (errno == EAGAIN && await_reader(t))))
            continue;
        if (written < 0) {
            atomic_store(&t->error, errno);
            pc_crew_kick(t->crew);
            return;
        }
        data += written;
        size -= (size_t)written;
        t->position += (uint64_t)written;
        t->progress = pc_now();
    }
}

/* How much of it, whole events, may be written at once: to the end of the page in the file. */
static size_t fit(const char *data, size_t size, size_t room)
{
    size_t whole = 0;

    while (whole < size) {
        const char *next =
            size - whole < 2 ? NULL : memmem(data + whole + 2, size - whole - 2, ",\n", 2);
        size_t end = next == NULL ? size : (size_t)(next - data);

        if (end > room)
            break;
        whole = end;
    }
    return whole;
}

/* A process that is killed in a write has written whole pages of it. So no event lies over the end
 * of one, which is filled up with blanks; then the file's last event is whole whenever that
 * happens. */
static void write_events(pc_trace *t, const char *data, size_t size)
{
    static const char blanks[] = "                                                                ";

    while (size > 0 && atomic_load(&t->error) == 0) {
        size_t room = PC_PAGE - (size_t)(t->position % PC_PAGE), whole = fit(data, size, room);

        if (whole == 0 && room == PC_PAGE) /* there is no event as large */
            whole = size;
        if (whole == 0) {
            size_t pad = room < sizeof blanks - 1 ? room : sizeof blanks - 1;

            write_out(t, blanks, pad);
            continue;
        }
        write_out(t, data, whole);
        data += whole;
        size -= whole;
    }
}

/* Takes what there is, and writes it without the lock. */
static void flush(pc_trace *t)
{
    text taken;

    enter(t);
    for (unsigned i = 0; i < t->crew->workers; i++)
        drain(t, i);
    taken = t->text;
    t->text = t->writing;
    t->text.size = 0;
    t->writing = taken;
    leave(t);
    write_events(t, taken.data, taken.size);
}

/* In the thread whose signals are blocked: a reader that is gone is an error of write() there, and no signal. */
static void write_end(pc_trace *t)
{
    flush(t);
    enter(t);
    t->text.size = 0;
    add(t,
        "{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"pycrew_end\",\"args\":{\"events\":%llu,"
        "\"lost_calls\":%llu,"
        "\"lost_events\":%llu}}",
        pid_of(t), (unsigned long long)t->events + 1, (unsigned long long)t->lost_calls,
        (unsigned long long)t->lost_events);
    leave(t);
    write_events(t, t->text.data, t->text.size);
    write_out(t, "\n]\n", 3);
}

static void *run(void *data)
{
    pc_trace *t = data;

    while (atomic_load(&t->stop) == 0) {
        int64_t until = pc_now() + LOOK_MS * INT64_C(1000000);
        struct timespec time = {.tv_sec = until / 1000000000, .tv_nsec = until % 1000000000};

        flush(t);
        pthread_mutex_lock(&t->lock);
        if (atomic_load(&t->stop) == 0)
            pthread_cond_timedwait(&t->wake, &t->lock, &time);
        pthread_mutex_unlock(&t->lock);
    }
    write_end(t);
    return NULL;
}

void pc_trace_say(pycrew_crew *crew)
{
    pc_trace *t = crew->trace;

    if (t == NULL || t->said || atomic_load(&t->error) == 0)
        return;
    t->said = true;
    pc_crew_log(crew, PYCREW_LOG_ERROR,
                "the trace (options.trace) cannot be written, and ends here: %s",
                pycrew_strerror(-atomic_load(&t->error)));
}

/* ---- begin and end ---- */

uint32_t pc_trace_ring_size(const pycrew_crew *crew)
{
    uint32_t size = RING_MOST;

    if (crew->trace == NULL)
        return 0;
    while (size > RING_LEAST && (size_t)size * sizeof(pc_trace_event) * crew->workers > RINGS_MOST)
        size /= 2;
    return size;
}

/* A pipe that nobody reads is told of, and not waited for; one that is full is waited for by the thread
 * that writes it, and nobody else, but for a second at the end. */
static int open_file(pc_trace *t, const char *path)
{
    struct stat status;

    t->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
    if (t->fd < 0 || fstat(t->fd, &status) < 0)
        return pc_fail(-errno, "options.trace: %s: %s", path, pycrew_strerror(-errno));
    t->device = status.st_dev;
    t->inode = status.st_ino;
    return 0;
}

int pc_trace_open(pycrew_crew *crew, const char *path)
{
    pthread_condattr_t attributes;
    pc_trace *t;

    if (path == NULL)
        return 0;
    t = calloc(1, sizeof *t);
    if (t == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    t->crew = crew;
    t->first = true;
    t->origin = pc_now();
    pthread_mutex_init(&t->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    crew->trace = t;
    return open_file(t, path);
}

static void add_header(pc_trace *t)
{
    char name[NAME_MOST], program[256];

    for (size_t i = 0; i < sizeof program; i++) { /* whatever it is called, the file is UTF-8 */
        char c = i < sizeof program - 1 ? program_invocation_short_name[i] : '\0';

        program[i] = (unsigned char)c < 0x80 ? c : '?';
        if (c == '\0')
            break;
    }
    if (make_room(&t->text, EVENT_MOST))
        t->text.data[t->text.size++] = '[';
    add(t,
        "{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"%s\"}}",
        pid_of(t), quote(program, name));
    add(t,
        "{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"thread_name\",\"args\":{\"name\":\"crew\"}}",
        pid_of(t));
    add(t,
        "{\"ph\":\"M\",\"pid\":%d,\"tid\":0,\"name\":\"pycrew\",\"args\":{\"version\":\"%s\","
        "\"workers\":%u,"
        "\"clock\":\"CLOCK_MONOTONIC\",\"opened_unix\":%lld}}",
        pid_of(t), pycrew_version(), t->crew->workers, (long long)time(NULL));
}

int pc_trace_start(pycrew_crew *crew)
{
    pc_trace *t = crew->trace;
    sigset_t all, before;
    int rc;

    if (t == NULL)
        return 0;
    t->slots = calloc(crew->segment.config.slots, sizeof t->slots[0]);
    t->lanes = calloc(crew->workers, sizeof t->lanes[0]);
    t->read = calloc(crew->workers, sizeof t->read[0]);
    t->lost = calloc(crew->workers, sizeof t->lost[0]);
    t->functions = calloc(PC_FUNCTION_PAGES * PC_FUNCTION_PAGE, sizeof t->functions[0]);
    if (t->slots == NULL || t->lanes == NULL || t->read == NULL || t->lost == NULL ||
        t->functions == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    add_header(t);
    sigfillset(&all); /* SIGPIPE and SIGXFSZ too: they are errors of write() then */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    rc = pthread_create(&t->thread, NULL, run, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    t->started = rc == 0;
    return rc == 0 ? 0
                   : pc_fail(rc == EAGAIN ? PYCREW_ESTART : -rc,
                             "the trace's thread cannot be started: %s", pycrew_strerror(-rc));
}

static void end_file(pc_trace *t)
{
    pthread_mutex_lock(&t->lock);
    atomic_store(&t->stop, pc_now());
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pc_trace_say(t->crew);
}

static void free_running(pc_trace *t)
{
    for (uint32_t i = 0; t->slots != NULL && i < t->crew->segment.config.slots; i++)
        while (t->slots[i].calls != NULL)
            end_running(t, &t->slots[i].calls);
    for (running *r = t->unused, *next; r != NULL; r = next) {
        next = r->next;
        free(r);
    }
}

/* In a fork the thread is not there, and was perhaps in the middle of what it has: that is left as it is. */
void pc_trace_stop(pycrew_crew *crew, bool in_fork)
{
    pc_trace *t = crew->trace;

    crew->trace = in_fork ? NULL : t;
    if (t == NULL)
        return;
    if (t->started && !in_fork)
        end_file(t);
    if (t->fd >= 0 && is_ours(t))
        close(t->fd);
    if (in_fork)
        return;
    pthread_cond_destroy(&t->wake);
    pthread_mutex_destroy(&t->lock);
    free_running(t);
    free(t->slots);
    free(t->lanes);
    free(t->read);
    free(t->lost);
    free(t->functions);
    free(t->text.data);
    free(t->writing.data);
    free(t);
    crew->trace = NULL;
}
