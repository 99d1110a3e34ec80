/* An HTTP service: POST /predict with the 64 pixels of a handwritten digit gives {"digit": 7}.
 *
 *   service [-p PORT] [-l LOOPS] [-w WORKERS] [-b BATCH] [-d DEADLINE_MS] [-r RETRIES] [-f
 * FUNCTION]
 *
 * Each loop is a thread with an event loop (libevent, epoll) and a queue of the crew's; its
 * descriptor stands among the connections'. No thread ever waits for Python. What comes in while
 * the workers are busy goes to them together, up to BATCH images in a call.
 *
 * GET /health says how the workers are: 503 when none is alive. GET /metrics is for Prometheus. SIGTERM: answers what it has, then
 * ends. SIGHUP: starts its successor on the same socket, and when that can answer does as for
 * SIGTERM: a new program, model or set of options, without a request lost. */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <pycrew.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { PIXELS = 64, BODY_MAX = 4096, BATCH_MAX = 1024, DRAIN_S = 10 };
#define MS INT64_C(1000000)

/* Where a successor finds its socket, and whom it tells that it is ready: descriptors. */
#define SOCKET_VARIABLE "SERVICE_SOCKET"
#define READY_VARIABLE "SERVICE_READY"

static struct settings {
    int port, loops, batch, retries;
    unsigned workers;
    int64_t deadline_ns;
    const char *function;
} settings = {8080, 1, 32, 3, 0, 2000 * MS, "service_ops:predict"};

static pycrew_crew *crew;
static const pycrew_function *predict;

typedef struct request {
    struct request *next;
    struct evhttp_request *http;
    unsigned char image[PIXELS];
} request;

/* The images of a call in flight. */
typedef struct flight {
    struct request *requests;
    unsigned count;
} flight;

typedef struct loop {
    pthread_t thread;
    struct event_base *base;
    struct evhttp *http;
    struct evhttp_bound_socket *listener;
    struct event *reaped, *filled, *stopped, *expired;
    pycrew_queue *queue;
    request *first, **last; /* not in a call yet, the oldest first */
    unsigned waiting, calls, calls_max;
    int connections;
    bool draining;
} loop;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("service: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static void *must(void *pointer, const char *what)
{
    if (!pointer)
        die("%s: no memory", what);
    return pointer;
}

/* ---- answers --------------------------------------------------------------------------------- */

static void send_body(loop *l, struct evhttp_request *http, int status, const char *type,
                      struct evbuffer *body)
{
    struct evkeyvalq *headers = evhttp_request_get_output_headers(http);
    evhttp_add_header(headers, "Content-Type", type);
    if (l->draining)
        evhttp_add_header(headers, "Connection", "close");
    evhttp_send_reply(http, status, NULL, body); /* also if the client has gone: then it is freed */
    evbuffer_free(body);
}

__attribute__((format(printf, 4, 5))) static void answer(loop *l, struct evhttp_request *http,
                                                         int status, const char *format, ...)
{
    struct evbuffer *body = must(evbuffer_new(), "an answer");
    va_list arguments;
    va_start(arguments, format);
    evbuffer_add_vprintf(body, format, arguments);
    va_end(arguments);
    send_body(l, http, status, "application/json", body);
}

/* A message within a JSON string. */
static void refuse(loop *l, struct evhttp_request *http, int status, const char *message)
{
    char text[300];
    size_t size = 0;
    for (; *message && size + 2 < sizeof text; message++) {
        if (*message == '"' || *message == '\\')
            text[size++] = '\\';
        text[size++] = (unsigned char)*message < ' ' ? ' ' : *message;
    }
    text[size] = '\0';
    answer(l, http, status, "{\"error\": \"%s\"}\n", text);
}

static int status_of(int code)
{
    switch (code) {
    case -ETIMEDOUT:
        return 504;
    case -EAGAIN:
    case -ENOMEM:
    case PYCREW_ESTART:
        return 503;
    default:
        return 500;
    }
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void send_waiting(loop *l);

static void end_if_drained(loop *l)
{
    if (l->draining && l->connections == 0 && l->waiting == 0 && l->calls == 0)
        event_base_loopbreak(l->base);
}

static void fail(loop *l, request *r, int code, const char *message)
{
    refuse(l, r->http, status_of(code), message);
    free(r);
}

/* One call for requests, which are the first count of a list. */
static int submit(loop *l, request *requests, unsigned count)
{
    static _Thread_local unsigned char images[BATCH_MAX * PIXELS];
    pycrew_call *call;
    unsigned i = 0;
    for (request *r = requests; i < count; r = r->next)
        memcpy(images + PIXELS * i++, r->image, PIXELS);
    int rc = pycrew_prepare(crew, predict, 0, &call);
    if (rc < 0)
        return rc;
    flight *f = must(malloc(sizeof *f), "a call");
    *f = (flight){requests, count};
    pycrew_add_bytes(call, images, PIXELS * count); /* an error is submit's, too */
    pycrew_set_timeout(call, settings.deadline_ns);
    pycrew_set_retries(call,
                       (unsigned)settings.retries); /* a model does no harm when it runs twice */
    pycrew_set_queue(call, l->queue);
    pycrew_set_data(call, f);
    rc = pycrew_submit(call);
    if (rc < 0) {
        free(f);
        pycrew_release(call);
        return rc;
    }
    l->calls++;
    return 0;
}

/* A call failed: if one image was to blame, the others shall not suffer. */
static void failed(loop *l, flight *f, const pycrew_error *error)
{
    bool again = f->count > 1 && error->code != -ESHUTDOWN;
    request *next;
    for (request *r = f->requests; f->count-- > 0; r = next) {
        next = r->next;
        int rc = again ? submit(l, r, 1) : error->code;
        if (rc < 0)
            fail(l, r, rc, again ? pycrew_last_error()->message : error->message);
    }
}

static void returned(loop *l, flight *f, const unsigned char *digits)
{
    request *next;
    for (request *r = f->requests; f->count-- > 0; r = next, digits++) {
        next = r->next;
        answer(l, r->http, 200, "{\"digit\": %d}\n", *digits);
        free(r);
    }
}

static void on_end(loop *l, pycrew_call *call)
{
    static const pycrew_error bad = {.code = PYCREW_ETYPE,
                                     .message = "the model did not give a digit for each image"};
    flight *f = pycrew_data(call);
    const void *digits;
    size_t count;
    l->calls--;
    if (pycrew_call_error(call))
        failed(l, f, pycrew_call_error(call));
    else if (pycrew_result_bytes(call, &digits, &count) < 0 || count != f->count)
        failed(l, f, &bad);
    else
        returned(l, f, digits);
    free(f);
    pycrew_release(call);
}

/* Something is in the queue. */
static void on_queue(evutil_socket_t fd, short what, void *data)
{
    loop *l = data;
    pycrew_call *calls[64];
    int count;
    (void)fd, (void)what;
    do {
        count = pycrew_queue_reap(l->queue, calls, 64, 0);
        for (int i = 0; i < count; i++)
            on_end(l, calls[i]);
    } while (count == 64);
    if (count == -EBADF || count == -ECANCELED)
        die("the queue is gone");
    send_waiting(l);
    end_if_drained(l);
}

/* ---- requests -------------------------------------------------------------------------------- */

/* Takes the oldest count requests off the list. */
static request *take(loop *l, unsigned count)
{
    request *taken = l->first, **end = &taken;
    for (unsigned i = 0; i < count; i++)
        end = &(*end)->next;
    l->first = *end;
    if (!l->first)
        l->last = &l->first;
    *end = NULL;
    l->waiting -= count;
    return taken;
}

/* As long as the workers are not all busy with this loop's calls: what waits goes to them. */
static void send_waiting(loop *l)
{
    while (l->waiting > 0 && l->calls < l->calls_max) {
        unsigned count =
            l->waiting < (unsigned)settings.batch ? l->waiting : (unsigned)settings.batch;
        request *requests = take(l, count), *next;
        int rc = submit(l, requests, count);
        for (request *r = rc < 0 ? requests : NULL; r; r = next) {
            next = r->next;
            fail(l, r, rc, pycrew_last_error()->message);
        }
    }
}

/* All connections were looked at that had something. */
static void on_filled(evutil_socket_t fd, short what, void *data)
{
    (void)fd, (void)what;
    send_waiting(data);
}

/* Numbers, whatever stands between them. False: not 64 of them, or one above 255. */
static bool parse(const char *text, size_t size, unsigned char image[PIXELS])
{
    unsigned count = 0;
    for (size_t i = 0; i < size;) {
        unsigned value = 0;
        if (text[i] < '0' || text[i] > '9') {
            i++;
            continue;
        }
        for (; i < size && text[i] >= '0' && text[i] <= '9' && value <= 255; i++)
            value = 10 * value + (unsigned)(text[i] - '0');
        if (value > 255 || count == PIXELS)
            return false;
        image[count++] = (unsigned char)value;
    }
    return count == PIXELS;
}

static void on_predict(loop *l, struct evhttp_request *http)
{
    struct evbuffer *body = evhttp_request_get_input_buffer(http);
    size_t size = evbuffer_get_length(body);
    request *r = must(calloc(1, sizeof *r), "a request");
    if (!parse((const char *)evbuffer_pullup(body, -1), size, r->image)) {
        free(r);
        refuse(l, http, 400, "wanted: 64 numbers from 0 to 255");
        return;
    }
    r->http = http;
    *l->last = r;
    l->last = &r->next;
    l->waiting++;
    event_active(l->filled, EV_TIMEOUT, 0); /* after the connections that are readable now */
}

static void on_health(loop *l, struct evhttp_request *http)
{
    pycrew_stats stats = PYCREW_STATS_INIT;
    if (pycrew_stats_get(crew, &stats) < 0) {
        refuse(l, http, 500, pycrew_last_error()->message);
        return;
    }
    answer(l, http, stats.alive > 0 ? 200 : 503,
           "{\"pid\": %d, \"workers\": %u, \"alive\": %u, \"busy\": %u, \"in_flight\": %u, "
           "\"oldest_ms\": %.1f, \"deaths\": %llu}\n",
           getpid(), stats.workers, stats.alive, stats.busy, stats.in_flight,
           (double)stats.oldest_ns / 1e6, (unsigned long long)stats.deaths);
}

static void on_metrics(loop *l, struct evhttp_request *http)
{
    int size = pycrew_metrics_write(crew, NULL, NULL, 0) + 4096; /* numbers grow meanwhile */
    char *text = must(malloc((size_t)size), "metrics");
    int length = pycrew_metrics_write(crew, NULL, text, (size_t)size);
    struct evbuffer *body = must(evbuffer_new(), "an answer");
    if (length >= 0)
        evbuffer_add(body, text, (size_t)(length < size ? length : size - 1));
    free(text);
    send_body(l, http, length < 0 ? 500 : 200, "text/plain; version=0.0.4; charset=utf-8", body);
}

static void on_close(struct evhttp_connection *connection, void *data)
{
    loop *l = data;
    (void)connection;
    l->connections--;
    end_if_drained(l);
}

static void on_request(struct evhttp_request *http, void *data)
{
    loop *l = data;
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(http));
    bool post = evhttp_request_get_command(http) == EVHTTP_REQ_POST;
    evhttp_connection_set_closecb(evhttp_request_get_connection(http), on_close, l);
    if (path && strcmp(path, "/predict") == 0 && post)
        on_predict(l, http);
    else if (path && strcmp(path, "/health") == 0 && !post)
        on_health(l, http);
    else if (path && strcmp(path, "/metrics") == 0 && !post)
        on_metrics(l, http);
    else
        refuse(l, http, 404, "there are POST /predict, GET /health and GET /metrics");
}

/* ---- loops ----------------------------------------------------------------------------------- */

/* A new connection: counts it, and leaves the rest to evhttp. */
static struct bufferevent *on_connection(struct event_base *base, void *data)
{
    loop *l = data;
    (void)base;
    l->connections++;
    return NULL;
}

static void on_drained_too_long(evutil_socket_t fd, short what, void *data)
{
    loop *l = data;
    (void)fd, (void)what;
    event_base_loopbreak(l->base);
}

/* The pipe of all loops was closed. Connections end after the request that they have, or send next.
 */
static void on_stop(evutil_socket_t fd, short what, void *data)
{
    loop *l = data;
    (void)fd, (void)what;
    l->draining = true;
    evhttp_del_accept_socket(l->http, l->listener);
    event_add(l->expired, &(struct timeval){DRAIN_S, 0});
    end_if_drained(l);
}

static void *run_loop(void *data)
{
    loop *l = data;
    event_base_dispatch(l->base);
    return NULL;
}

static void start_loop(loop *l, int socket, int stop, unsigned workers)
{
    unsigned share = 2 * workers / (unsigned)settings.loops;
    l->last = &l->first;
    l->calls_max = share > 2 ? share : 2;
    if (pycrew_queue_open(crew, &l->queue) < 0)
        die("%s", pycrew_last_error()->message);
    l->base = must(event_base_new(), "an event loop");
    l->http = must(evhttp_new(l->base), "HTTP");
    evhttp_set_bevcb(l->http, on_connection, l);
    evhttp_set_gencb(l->http, on_request, l);
    evhttp_set_allowed_methods(l->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST);
    evhttp_set_max_body_size(l->http, BODY_MAX);
    l->listener = evhttp_accept_socket_with_handle(l->http, fcntl(socket, F_DUPFD_CLOEXEC, 0));
    must(l->listener, "the socket");
    l->reaped = event_new(l->base, pycrew_queue_fd(l->queue), EV_READ | EV_PERSIST, on_queue, l);
    l->stopped = event_new(l->base, stop, EV_READ, on_stop, l);
    l->filled = event_new(l->base, -1, 0, on_filled, l);
    l->expired = event_new(l->base, -1, 0, on_drained_too_long, l);
    if (!l->reaped || !l->stopped || !l->filled || !l->expired)
        die("no memory for events");
    event_add(l->reaped, NULL);
    event_add(l->stopped, NULL);
    if (pthread_create(&l->thread, NULL, run_loop, l) != 0)
        die("no thread for a loop");
}

static void end_loop(loop *l)
{
    pthread_join(l->thread, NULL);
    event_free(l->reaped);
    event_free(l->stopped);
    event_free(l->filled);
    event_free(l->expired);
    pycrew_queue_close(l->queue);
    evhttp_free(l->http);
    event_base_free(l->base);
}

/* ---- the process ----------------------------------------------------------------------------- */

static int listen_at(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1024) < 0)
        die("port %d: %s", port, strerror(errno));
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &size) < 0 ? -1 : ntohs(address.sin_port);
}

/* A descriptor that the predecessor left; -1: none. */
static int inherited(const char *variable)
{
    const char *value = getenv(variable);
    int fd = value ? atoi(value) : -1;
    if (fd >= 0)
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    unsetenv(variable);
    return fd;
}

static void pass_on(posix_spawn_file_actions_t *actions, const char *variable, int fd)
{
    char value[16];
    snprintf(value, sizeof value, "%d", fd);
    setenv(variable, value, 1);
    posix_spawn_file_actions_adddup2(actions, fd, fd); /* stays open through exec */
}

/* The same program with the same arguments; *ready gets a descriptor to read a byte from. */
static pid_t start_successor(char **argv, int socket, int *ready)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid = -1;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&actions);
    pass_on(&actions, SOCKET_VARIABLE, socket);
    pass_on(&actions, READY_VARIABLE, ends[1]);
    errno = posix_spawnp(&pid, argv[0], &actions, &attributes, argv, environ);
    if (errno != 0)
        fprintf(stderr, "service: %s: %s\n", argv[0], strerror(errno));
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    close(ends[1]);
    *ready = ends[0];
    return pid;
}

/* Until a signal says that it is enough, or a successor that it is there. */
static void serve(char **argv, int socket, int signals)
{
    struct pollfd polls[2] = {{.fd = signals, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    struct signalfd_siginfo info;
    pid_t successor = -1;
    char ready;
    for (;;) {
        if (poll(polls, 2, -1) < 0)
            continue;
        if (polls[0].revents & POLLIN && read(signals, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo != SIGHUP)
                return;
            if (polls[1].fd < 0)
                successor = start_successor(argv, socket, &polls[1].fd);
        }
        if (polls[1].fd >= 0 && polls[1].revents) {
            if (read(polls[1].fd, &ready, 1) == 1)
                return;
            close(polls[1].fd);
            polls[1].fd = -1;
            if (successor > 0)
                waitpid(successor, NULL, 0);
            fprintf(stderr, "service: the successor has ended; going on\n");
        }
    }
}

static int block_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC);
}

static int64_t number(const char *text, char option, int64_t min, int64_t max)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max)
        die("-%c %s: wanted a number from %lld to %lld", option, text, (long long)min,
            (long long)max);
    return value;
}

static void read_settings(int argc, char **argv)
{
    for (int option; (option = getopt(argc, argv, "p:l:w:b:d:r:f:")) != -1;)
        switch (option) {
        case 'p':
            settings.port = (int)number(optarg, 'p', 0, 65535);
            break;
        case 'l':
            settings.loops = (int)number(optarg, 'l', 1, 63);
            break;
        case 'w':
            settings.workers = (unsigned)number(optarg, 'w', 1, 1024);
            break;
        case 'b':
            settings.batch = (int)number(optarg, 'b', 1, BATCH_MAX);
            break;
        case 'd':
            settings.deadline_ns = number(optarg, 'd', 1, 3600000) * MS;
            break;
        case 'r':
            settings.retries = (int)number(optarg, 'r', 0, 100);
            break;
        case 'f':
            settings.function = optarg;
            break;
        default:
            die("-p PORT, -l LOOPS, -w WORKERS, -b BATCH, -d DEADLINE_MS, -r RETRIES, -f FUNCTION");
        }
    if (optind < argc)
        die("%s: not an option", argv[optind]);
}

/* The crew, once its model has answered: who is told that we are ready can rely on it. */
static unsigned open_crew(void)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_stats stats = PYCREW_STATS_INIT;
    unsigned char nothing[PIXELS] = {0};
    options.workers = settings.workers;
    options.path = (const char *[]){SERVICE_FOLDER, NULL};
    options.preload = (const char *[]){"service_ops", NULL};
    /* One worker a CPU: threads of their own would be in each other's way. */
    options.env = (const char *[]){"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", NULL};
    if (pycrew_open(&crew, &options) < 0 ||
        pycrew_function_get(crew, settings.function, &predict) < 0 ||
        pycrew_run(crew, settings.function, "y#", nothing, sizeof nothing) < 0 ||
        pycrew_stats_get(crew, &stats) < 0)
        die("%s", pycrew_last_error()->message);
    return stats.workers;
}

int main(int argc, char **argv)
{
    int stop[2], socket, ready, signals = block_signals();
    loop *loops;
    read_settings(argc, argv);
    socket = inherited(SOCKET_VARIABLE);
    ready = inherited(READY_VARIABLE);
    if (socket < 0)
        socket = listen_at(settings.port);
    unsigned workers = open_crew();
    loops = must(calloc((size_t)settings.loops, sizeof *loops), "loops");
    if (pipe2(stop, O_CLOEXEC) < 0)
        die("a pipe: %s", strerror(errno));
    for (int i = 0; i < settings.loops; i++)
        start_loop(&loops[i], socket, stop[0], workers);
    printf("service: process %d at http://127.0.0.1:%d/\n", getpid(), port_of(socket));
    fflush(stdout);
    if (ready >= 0 && write(ready, "", 1) < 0)
        die("the predecessor has ended");
    close(ready);
    serve(argv, socket, signals);
    close(stop[1]);
    for (int i = 0; i < settings.loops; i++)
        end_loop(&loops[i]);
    free(loops);
    pycrew_close(crew);
    return 0;
}
