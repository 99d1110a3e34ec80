/* http: a client in C of a server in Python, over a Unix socket with HTTP/1.1 and connections that
 * stay open. BENCH_SERVER is the server's command line, BENCH_SOCKET where it listens,
 * BENCH_CONNECTIONS how many connections it gets for each of its workers. A request whose
 * connection broke is lost.
 */
#include "peer.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, HEAD_MAX = 1024 };

struct connection {
    int fd;        /* -1: closed */
    int64_t index; /* of its record, -1: idle */
    size_t used;
    char data[HEAD_MAX + TEXT_MAX];
};
static struct connection connections[CONNECTIONS_MAX];
static unsigned connection_count;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static pid_t server;

static void versions(void)
{
    printf("\"server\": \"%s\"", getenv("BENCH_SERVER_VERSION"));
}

/* ---- connections ----------------------------------------------------------------------------- */

static bool connect_to(struct connection *connection)
{
    connection->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        fail("socket: %s", strerror(errno));
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) == 0)
        return true;
    close(connection->fd);
    connection->fd = -1;
    return false;
}

static void disconnect(struct connection *connection)
{
    if (connection->fd >= 0)
        close(connection->fd);
    connection->fd = -1;
}

static void start_server(void)
{
    const char *command = getenv("BENCH_SERVER");
    server = fork();
    if (server < 0)
        fail("fork: %s", strerror(errno));
    if (server > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

static void start(unsigned workers)
{
    const char *path = getenv("BENCH_SOCKET"), *each = getenv("BENCH_CONNECTIONS");
    if (!path || !each || strlen(path) >= sizeof address.sun_path)
        fail("no socket");
    strcpy(address.sun_path, path);
    connection_count = workers * (unsigned)atoi(each);
    if (connection_count > CONNECTIONS_MAX)
        connection_count = CONNECTIONS_MAX;
    for (unsigned i = 0; i < connection_count; i++)
        connections[i] = (struct connection){.fd = -1, .index = -1};
    fflush(stdout);
    start_server();
    while (!connect_to(&connections[0])) {
        if (waitpid(server, NULL, WNOHANG) != 0)
            fail("the server ended");
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static bool use(const struct workload *workload)
{
    (void)workload;
    return true;
}

/* ---- requests and replies -------------------------------------------------------------------- */

static int make_head(const struct workload *workload, const struct request *request, char *ret)
{
    char query[64] = "";
    size_t body = 0;
    bool is_text = request->kind == TEXT;
    if (is_text)
        body = request->size;
    else if (request->kind == ENDS || request->kind == NORM)
        body = (size_t)request->a * sizeof(double);
    else if (request->kind == INDEX)
        snprintf(query, sizeof query, "?%" PRId64, request->a);
    else if (request->kind != NONE)
        snprintf(query, sizeof query, "?%" PRId64 "&%" PRId64, request->a, request->b);
    if (body == 0)
        return snprintf(ret, HEAD_MAX, "GET /%s%s HTTP/1.1\r\nHost: bench\r\n\r\n",
                        workload->function, query);
    return snprintf(
        ret, HEAD_MAX,
        "POST /%s HTTP/1.1\r\nHost: bench\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
        workload->function, is_text ? "text/plain" : "application/octet-stream", body);
}

static size_t body_of(const struct request *request, void **ret)
{
    *ret = request->kind == TEXT ? (void *)request->text : (void *)array_memory;
    if (request->kind == TEXT)
        return request->size;
    return request->kind == ENDS || request->kind == NORM ? (size_t)request->a * sizeof(double) : 0;
}

static bool send_all(int fd, struct iovec *parts, size_t count)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    while (message.msg_iovlen > 0) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return false;
        for (size_t rest = sent > 0 ? (size_t)sent : 0; message.msg_iovlen > 0;) {
            struct iovec *part = message.msg_iov;
            size_t step = rest < part->iov_len ? rest : part->iov_len;
            part->iov_base = (char *)part->iov_base + step;
            part->iov_len -= step;
            rest -= step;
            if (part->iov_len > 0)
                break;
            message.msg_iov++;
            message.msg_iovlen--;
        }
    }
    return true;
}

static bool send_request(struct connection *connection, const struct workload *workload,
                         const struct request *request)
{
    char head[HEAD_MAX];
    struct iovec parts[2] = {{head, (size_t)make_head(workload, request, head)}, {NULL, 0}};
    parts[1].iov_len = body_of(request, &parts[1].iov_base);
    connection->used = 0;
    connection->data[0] = 0;
    return (connection->fd >= 0 || connect_to(connection)) && send_all(connection->fd, parts, 2);
}

static const char *header(const char *head, const char *name)
{
    const char *line = strcasestr(head, name);
    return line ? line + strlen(name) : NULL;
}

/* The body of a whole reply, NULL if there is more to come. */
static const char *whole_body(const struct connection *connection, size_t *size)
{
    const char *end = strstr(connection->data, "\r\n\r\n");
    const char *length = end ? header(connection->data, "\r\ncontent-length:") : NULL;
    if (!length || length > end)
        return NULL;
    *size = strtoul(length, NULL, 10);
    return (size_t)(connection->data + connection->used - (end + 4)) >= *size ? end + 4 : NULL;
}

static void read_body(enum kind kind, const char *body, size_t size, struct reply *reply)
{
    reply->size = (uint32_t)size;
    if (kind == NONE)
        reply->integer = size != 4 || memcmp(body, "None", 4) != 0;
    else if (kind == TEXT)
        memcpy(reply->text, body, size);
    else if (kind == ENDS || kind == NORM)
        reply->number = strtod(body, NULL);
    else
        reply->integer = strtoll(body, NULL, 10);
}

/* What has arrived: 1 a whole reply, 0 more is to come, -1 the connection broke. */
static int receive_reply(struct connection *connection, enum kind kind, struct reply *reply)
{
    size_t size, rest = sizeof connection->data - connection->used - 1;
    ssize_t got = recv(connection->fd, connection->data + connection->used, rest, 0);
    if (got <= 0)
        return got < 0 && errno == EINTR ? 0 : -1;
    connection->used += (size_t)got;
    connection->data[connection->used] = 0;
    const char *body = whole_body(connection, &size);
    if (!body)
        return 0;
    bool fine = strncmp(connection->data, "HTTP/1.1 200", 12) == 0 && size <= TEXT_MAX;
    reply->status = fine ? 0 : -1;
    if (fine)
        read_body(kind, body, size, reply);
    const char *keep = header(connection->data, "\r\nconnection: close");
    if (keep && keep < body)
        disconnect(connection);
    return 1;
}

static void one(const struct workload *workload, const struct request *request, struct reply *reply)
{
    struct connection *connection = &connections[0];
    int rc = send_request(connection, workload, request) ? 0 : -1;
    while (rc == 0)
        rc = receive_reply(connection, workload->kind, reply);
    if (rc > 0)
        return;
    disconnect(connection);
    reply->status = -1;
}

/* ---- many ------------------------------------------------------------------------------------ */

struct run {
    const struct workload *workload;
    int64_t next, end, lost;
};

static void lose(struct connection *connection, struct run *run)
{
    struct reply reply = {.status = -1};
    disconnect(connection);
    run->lost += !finish_record(run->workload, connection->index, &reply);
    connection->index = -1;
}

static void give_record(struct connection *connection, struct run *run)
{
    static struct request request;
    while (connection->index < 0 && run->next < run->end) {
        connection->index = run->next++;
        make_record(run->workload, connection->index, &request);
        if (!send_request(connection, run->workload, &request))
            lose(connection, run);
    }
}

static void take_reply(struct connection *connection, struct run *run)
{
    static struct reply reply;
    int rc = receive_reply(connection, run->workload->kind, &reply);
    if (rc < 0)
        lose(connection, run);
    if (rc <= 0)
        return;
    run->lost += !finish_record(run->workload, connection->index, &reply);
    connection->index = -1;
}

static int64_t many(const struct workload *workload, int64_t first, int64_t count)
{
    struct run run = {workload, first, first + count, 0};
    static struct pollfd polls[CONNECTIONS_MAX];
    for (bool busy = true; busy;) {
        busy = false;
        for (unsigned i = 0; i < connection_count; i++) {
            give_record(&connections[i], &run);
            polls[i] =
                (struct pollfd){connections[i].index >= 0 ? connections[i].fd : -1, POLLIN, 0};
            busy = busy || connections[i].index >= 0;
        }
        if (busy && poll(polls, connection_count, -1) < 0 && errno != EINTR)
            fail("poll: %s", strerror(errno));
        for (unsigned i = 0; busy && i < connection_count; i++)
            if (polls[i].revents)
                take_reply(&connections[i], &run);
    }
    return run.lost;
}

static void close_server(void)
{
    for (unsigned i = 0; i < connection_count; i++)
        disconnect(&connections[i]);
    kill(server, SIGTERM); /* the driver sees to it that it ends */
}

static const struct peer peer = {
    .name = "http",
    .versions = versions,
    .start = start,
    .use = use,
    .one = one,
    .ways = {{"connections", many}},
    .close = close_server,
};
const struct peer *const peers[] = {&peer, NULL};
