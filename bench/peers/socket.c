/* socket: what people write by hand when it has to be fast: children with an interpreter embedded,
 * a Unix socket to each, records as plain structs, several of them a write. Arrays are in memory
 * that was mapped before the fork. A child that died is replaced, and what it had is lost.
 */
#include "python.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN_MAX = 256, CHUNK_MAX = 64, BUFFER = CHUNK_MAX * sizeof(struct request) };

/* What goes over the socket: a struct up to its text, and so much of that. NAME: the next
 * function's. */
static const enum kind NAME = KIND_COUNT;

static size_t request_size(const struct request *request)
{
    return offsetof(struct request, text) + request->size;
}

static size_t reply_size(const struct reply *reply)
{
    return offsetof(struct reply, text) + reply->size;
}

struct child {
    pid_t pid;
    int fd;
    int64_t first, count; /* the chunk it has */
};
static struct child children[CHILDREN_MAX];
static unsigned child_count;
static char function_name[64];

/* ---- bytes ----------------------------------------------------------------------------------- */

static bool send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return false;
        size -= sent > 0 ? (size_t)sent : 0;
        data += sent > 0 ? sent : 0;
    }
    return true;
}

struct input {
    size_t begin, end;
    char data[BUFFER];
};

/* At least so many bytes are there, in one piece. */
static bool receive(int fd, struct input *input, size_t size)
{
    while (input->end - input->begin < size) {
        if (input->begin > 0) {
            memmove(input->data, input->data + input->begin, input->end - input->begin);
            input->end -= input->begin;
            input->begin = 0;
        }
        ssize_t got = recv(fd, input->data + input->end, BUFFER - input->end, 0);
        if (got == 0 || (got < 0 && errno != EINTR))
            return false;
        input->end += got > 0 ? (size_t)got : 0;
    }
    return true;
}

static bool receive_message(int fd, struct input *input, void *ret, size_t head, size_t size_at)
{
    uint32_t size;
    if (!receive(fd, input, head))
        return false;
    memcpy(&size, input->data + input->begin + size_at, sizeof size);
    if (size > TEXT_MAX || !receive(fd, input, head + size))
        return false;
    memcpy(ret, input->data + input->begin, head + size);
    input->begin += head + size;
    return true;
}

static bool receive_request(int fd, struct input *input, struct request *ret)
{
    return receive_message(fd, input, ret, offsetof(struct request, text),
                           offsetof(struct request, size));
}

static bool receive_reply(int fd, struct input *input, struct reply *ret)
{
    return receive_message(fd, input, ret, offsetof(struct reply, text),
                           offsetof(struct reply, size));
}

/* ---- the child ------------------------------------------------------------------------------- */

static void answer(const struct request *request, struct reply *reply)
{
    static PyObject *function;
    if (request->kind != NAME) {
        call_python(function, request, reply);
        return;
    }
    Py_XDECREF(function);
    function = load_function(request->text);
    if (!function)
        fail_python(request->text);
    reply->status = 0;
}

/* Replies leave when there is nothing more to read without sleeping. */
static _Noreturn void child_main(int fd)
{
    static struct input input;
    static struct request request;
    static struct reply reply;
    static char output[BUFFER];
    size_t used = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    start_python();
    while (receive_request(fd, &input, &request)) {
        reply.size = 0;
        answer(&request, &reply);
        memcpy(output + used, &reply, reply_size(&reply));
        used += reply_size(&reply);
        if (input.begin < input.end && used + sizeof reply < sizeof output)
            continue;
        if (!send_all(fd, output, used))
            break;
        used = 0;
    }
    _exit(0);
}

/* ---- the host -------------------------------------------------------------------------------- */

static bool exchange(struct child *child, const struct request *request, struct reply *reply)
{
    static struct input input;
    input.begin = input.end = 0;
    return send_all(child->fd, (const char *)request, request_size(request)) &&
           receive_reply(child->fd, &input, reply);
}

static bool name_function(struct child *child)
{
    static struct request request = {.kind = KIND_COUNT};
    static struct reply reply;
    snprintf(request.text, sizeof request.text, "%s", function_name);
    request.size = (uint32_t)strlen(function_name) + 1;
    return exchange(child, &request, &reply);
}

static void start_child(struct child *child)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        fail("socketpair: %s", strerror(errno));
    fflush(stdout);
    child->pid = fork();
    if (child->pid < 0)
        fail("fork: %s", strerror(errno));
    if (child->pid == 0) {
        for (unsigned i = 0; i < child_count; i++)
            close(children[i].fd);
        close(fds[0]);
        child_main(fds[1]);
    }
    close(fds[1]);
    child->fd = fds[0];
    child->count = 0;
}

static void replace_child(struct child *child)
{
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    close(child->fd);
    child->fd = -1;
    start_child(child);
    name_function(child);
}

static void start(unsigned workers)
{
    if (workers > CHILDREN_MAX)
        fail("%u children", workers);
    while (child_count < workers) {
        start_child(&children[child_count]);
        child_count++;
    }
}

static bool use(const struct workload *workload)
{
    snprintf(function_name, sizeof function_name, "%s", workload->function);
    for (unsigned i = 0; i < child_count; i++)
        if (!name_function(&children[i]))
            replace_child(&children[i]);
    return true;
}

static void one(const struct workload *workload, const struct request *request, struct reply *reply)
{
    (void)workload;
    if (exchange(&children[0], request, reply))
        return;
    replace_child(&children[0]);
    reply->status = -1;
}

/* ---- many ------------------------------------------------------------------------------------ */

struct run {
    const struct workload *workload;
    int64_t next, end, chunk, lost;
};

/* The child's next chunk, in one write. A write that fails shows when the replies are read. */
static void give_chunk(struct child *child, struct run *run)
{
    static char output[BUFFER];
    static struct request request;
    size_t used = 0;
    child->first = run->next;
    child->count = run->end - run->next < run->chunk ? run->end - run->next : run->chunk;
    for (; run->next < child->first + child->count; run->next++) {
        make_record(run->workload, run->next, &request);
        memcpy(output + used, &request, request_size(&request));
        used += request_size(&request);
    }
    if (used > 0)
        send_all(child->fd, output, used);
}

static void take_chunk(struct child *child, struct run *run)
{
    static struct input input;
    static struct reply reply;
    int64_t taken = 0;
    input.begin = input.end = 0;
    while (taken < child->count && receive_reply(child->fd, &input, &reply))
        run->lost += !finish_record(run->workload, child->first + taken++, &reply);
    if (taken == child->count)
        return;
    if (!tolerant)
        fail("a child died");
    run->lost += child->count - taken;
    replace_child(child);
}

static int64_t many(const struct workload *workload, int64_t first, int64_t count)
{
    struct run run = {workload, first, first + count, chunk_for(count, child_count, CHUNK_MAX), 0};
    struct pollfd polls[CHILDREN_MAX];
    for (unsigned i = 0; i < child_count; i++)
        give_chunk(&children[i], &run);
    for (bool busy = true; busy;) {
        busy = false;
        for (unsigned i = 0; i < child_count; i++) {
            polls[i] = (struct pollfd){children[i].count > 0 ? children[i].fd : -1, POLLIN, 0};
            busy = busy || children[i].count > 0;
        }
        if (busy && poll(polls, child_count, -1) < 0 && errno != EINTR)
            fail("poll: %s", strerror(errno));
        for (unsigned i = 0; busy && i < child_count; i++) {
            if (!(polls[i].revents & (POLLIN | POLLHUP | POLLERR)))
                continue;
            take_chunk(&children[i], &run);
            give_chunk(&children[i], &run);
        }
    }
    return run.lost;
}

static void close_children(void)
{
    for (unsigned i = 0; i < child_count; i++) {
        close(children[i].fd);
        waitpid(children[i].pid, NULL, 0);
    }
}

static const struct peer peer = {
    .name = "socket",
    .versions = python_versions,
    .start = start,
    .use = use,
    .one = one,
    .ways = {{"chunks", many}},
    .close = close_children,
};
const struct peer *const peers[] = {&peer, NULL};
