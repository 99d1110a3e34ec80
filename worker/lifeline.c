/* The worker's socket to the host, and the queues' eventfds that come over it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/shm/announce.h"
#include "lib/shm/sleeper.h"
#include "worker/worker.h"

/* All eventfds share an inode; what tells them apart is the id in fdinfo. 0: no eventfd. */
static uint64_t eventfd_id(int fd)
{
    char path[64], text[256];
    const char *at;
    ssize_t size;
    int info;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return 0;
    size = read(info, text, sizeof text - 1);
    close(info);
    text[size < 0 ? 0 : size] = '\0';
    at = strstr(text, "eventfd-id:");
    return at == NULL ? 0 : strtoull(at + strlen("eventfd-id:"), NULL, 10) + 1;
}

static void keep_queue(pc_worker *worker, unsigned queue, int fd)
{
    if (worker->queue_fds[queue] >= 0 &&
        eventfd_id(worker->queue_fds[queue]) == worker->queue_ids[queue])
        close(worker->queue_fds[queue]);
    worker->queue_fds[queue] = fd;
    worker->queue_ids[queue] = eventfd_id(fd);
}

static int prepare_queues(pc_worker *worker)
{
    uint32_t count = worker->segment.config.queues;

    if (worker->queue_fds != NULL)
        return 0;
    worker->queue_fds = malloc(count * sizeof worker->queue_fds[0]);
    worker->queue_ids = calloc(count, sizeof worker->queue_ids[0]);
    if (worker->queue_fds == NULL || worker->queue_ids == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++)
        worker->queue_fds[i] = -1;
    return 0;
}

int pc_lifeline_receive(pc_worker *worker, char *text, int flags, pc_message *message)
{
    int fds[PC_MESSAGE_FDS];
    int rc = prepare_queues(worker);

    if (rc < 0)
        return rc;
    rc = pc_control_receive(worker->lifeline, message, text, fds, flags);
    if (rc != 1)
        return rc == 0 ? -EPIPE : rc;
    if (message->kind == PC_MESSAGE_QUEUE && fds[0] >= 0 && message->number >= 0 &&
        (uint32_t)message->number < worker->segment.config.queues)
        keep_queue(worker, (unsigned)message->number, fds[0]);
    return 0;
}

/* User code may have closed it, and opened a socket of its own under its number. */
static bool pc_lifeline_is_ours(const pc_worker *worker)
{
    struct stat status;

    return fstat(worker->lifeline, &status) == 0 && S_ISSOCK(status.st_mode) &&
           status.st_ino == worker->lifeline_inode;
}

/* The host sent it before the queue could be used, so it is in the socket. */
static int queue_fd(pc_worker *worker, unsigned queue)
{
    pc_message message;
    char *text;

    if (worker->queue_fds[queue] >= 0 || !pc_lifeline_is_ours(worker))
        return worker->queue_fds[queue];
    text = malloc(PC_MESSAGE_TEXT_MAX + 1);
    while (text != NULL && worker->queue_fds[queue] < 0 &&
           pc_lifeline_receive(worker, text, MSG_DONTWAIT, &message) == 0)
        continue;
    free(text);
    return worker->queue_fds[queue];
}

/* False: user code has closed it, or no more may be opened. */
static bool write_eventfd(pc_worker *worker, unsigned queue)
{
    uint64_t one = 1, id = 0;
    int fd = queue_fd(worker, queue);

    /* User code may have closed it, and opened something else under its number. */
    if (fd >= 0)
        id = eventfd_id(fd);
    if (id == 0 || id != worker->queue_ids[queue])
        return false;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
    return true;
}

/* Tells who waits for a call that has ended. False: it could not be told; the sweep after our death
 * will. */
void pc_lifeline_tell(pc_worker *worker, const pc_ending *ending, uint32_t slot)
{
    const pc_segment *segment = &worker->segment;

    if (ending->sleeper < segment->config.slots)
        pc_sleeper_post(&segment->slots[ending->sleeper].semaphore);
    /* Where we cannot wake the reader, the sweep does: so we end. */
    if (ending->queue < segment->config.queues && pc_announce(segment, ending->queue, slot) &&
        !write_eventfd(worker, ending->queue))
        worker->cut_off = true;
}

bool pc_lifeline_say(pc_worker *worker, enum pc_message_kind kind)
{
    pc_message message = {.kind = kind, .worker = worker->number, .incarnation = worker->incarnation};

    return pc_lifeline_is_ours(worker) &&
           pc_control_send(worker->lifeline, &message, NULL, 0, NULL, 0) == 0;
}

bool pc_lifeline_say_leaving(pc_worker *worker)
{
    return pc_lifeline_say(worker, PC_MESSAGE_WORKER_LEAVING);
}
