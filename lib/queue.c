/* queue: where ended calls are collected, with a descriptor for event loops.
 *
 * The descriptor is an eventfd that every worker has a copy of. It belongs to the queue's number
 * and is kept when the queue is closed, for the next one under that number: a late announcement
 * then only makes a reader look. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/crew.h"
#include "lib/shm/announce.h"
#include "lib/shm/control.h"

int pc_queues_init(pycrew_crew *crew)
{
    crew->queues = calloc(crew->segment.config.queues, sizeof crew->queues[0]);
    if (crew->queues == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    for (unsigned i = 0; i < crew->segment.config.queues; i++) {
        pycrew_queue *queue = &crew->queues[i];

        queue->crew = crew;
        queue->number = i;
        atomic_init(&queue->fd, -1);
    }
    crew->queues[0].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (crew->queues[0].fd < 0)
        return pc_fail(-errno, "no descriptor is left for the supervisor (RLIMIT_NOFILE, ulimit -n)");
    crew->queues[0].fd_id = pc_eventfd_id(crew->queues[0].fd);
    return 0;
}

void pc_queues_free(pycrew_crew *crew)
{
    for (unsigned i = 0; crew->queues != NULL && i < crew->segment.config.queues; i++)
        if (pc_queue_is_ours(&crew->queues[i]))
            close(crew->queues[i].fd);
    free(crew->queues);
}

uint64_t pc_eventfd_id(int fd)
{
    char path[64], text[256];
    const char *at;
    ssize_t size;
    int info;

    /* Not self: that is the main thread, which may have ended. */
    snprintf(path, sizeof path, "/proc/thread-self/fdinfo/%d", fd);
    info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return errno == ENOENT ? 0 : PC_EVENTFD_UNKNOWN;
    size = read(info, text, sizeof text - 1);
    close(info);
    if (size < 0)
        return PC_EVENTFD_UNKNOWN;
    text[size] = '\0';
    at = strstr(text, "eventfd-id:");
    return at == NULL ? 0 : strtoull(at + strlen("eventfd-id:"), NULL, 10) + 1;
}

/* Once this process has closed an eventfd, the next one that it opens may get its number and its id,
 * too. The segment's inode is nobody else's while it is mapped: where it does not stand under its
 * number any more, closefrom(3) or the like has gone by. To look at the id takes a descriptor: where
 * none is left, the segment speaks for the eventfd too, which it needs none for. */
bool pc_queue_is_ours(const pycrew_queue *queue)
{
    pycrew_crew *crew = queue->crew;
    bool lost = atomic_load(&crew->lost);
    uint64_t id;

    if (queue->fd < 0 || (!lost && !pc_segment_fd_is_ours(&crew->segment)))
        return false;
    id = pc_eventfd_id(queue->fd);
    if (id == PC_EVENTFD_UNKNOWN || queue->fd_id == PC_EVENTFD_UNKNOWN)
        return !lost;
    return id == queue->fd_id;
}

bool pc_queue_write(pycrew_queue *queue)
{
    uint64_t one = 1;

    if (!pc_queue_is_ours(queue))
        return false;
    while (write(queue->fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
    return true;
}

int pc_queue_send(pycrew_crew *crew, unsigned queue, int lifeline)
{
    pc_message message = {.kind = PC_MESSAGE_QUEUE, .number = (int32_t)queue};
    int fd = crew->queues[queue].fd;

    if (!pc_queue_is_ours(&crew->queues[queue]))
        return -EBADF;
    return pc_control_send(lifeline, &message, NULL, 0, &fd, 1);
}

/* Under crew->lock. */
static int make_fd(pycrew_queue *queue)
{
    pycrew_crew *crew = queue->crew;

    if (pc_queue_is_ours(queue))
        return 0;
    if (!pc_queue_is_ours(&crew->queues[PC_QUEUE_SUPERVISOR])) {
        pc_crew_kick(crew); /* the workers' lifelines are gone with it */
        return pc_fail(PYCREW_ESTART, PC_LOST_TEXT);
    }
    queue->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->fd < 0)
        return pc_fail(-errno, "no descriptor is left for the queue (RLIMIT_NOFILE, ulimit -n)");
    queue->fd_id = pc_eventfd_id(queue->fd);
    for (unsigned i = 0; i < crew->workers; i++)
        if (crew->crew_workers[i].open_lifeline >= 0)
            pc_queue_send(crew, queue->number, crew->crew_workers[i].open_lifeline);
    return 0;
}

/* Under crew->lock. */
static int open_first(pycrew_crew *crew, pycrew_queue **ret)
{
    for (unsigned i = 1; i < crew->segment.config.queues; i++) {
        pycrew_queue *queue = &crew->queues[i];
        int rc;

        if (queue->open)
            continue;
        rc = make_fd(queue);
        if (rc < 0)
            return rc;
        queue->open = true;
        atomic_store_explicit(&queue->reader, NULL, memory_order_relaxed);
        queue->stop = false;
        queue->scan = 0;
        queue->rest = 0;
        atomic_store_explicit(&queue->reader, NULL, memory_order_relaxed);
        queue->looked = pc_now();
        *ret = queue;
        return 0;
    }
    return pc_fail(-EAGAIN, "all %u queues are open: close one, or raise options.queues", crew->segment.config.queues - 1);
}

int pycrew_queue_open(pycrew_crew *crew, pycrew_queue **ret)
{
    int rc;

    if (crew == NULL || ret == NULL)
        return pc_fail(-EINVAL, "pycrew_queue_open: crew and ret must not be NULL");
    rc = pc_crew_check(crew);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&crew->lock);
    rc = open_first(crew, ret);
    pthread_mutex_unlock(&crew->lock);
    /* A reader that has only polled has not armed itself: it is from the start. */
    if (rc == 0)
        pc_announce_arm(&crew->segment, (*ret)->number);
    return rc;
}

int pycrew_queue_fd(const pycrew_queue *queue)
{
    return queue->fd;
}

/* pending counts the calls whose queue this is, submitted or not: whoever clears that counts down. */
void pc_queue_enter(pycrew_call *call, pycrew_queue *queue)
{
    pc_queue_leave(call);
    if (queue != NULL)
        atomic_fetch_add_explicit(&queue->pending, 1, memory_order_relaxed);
    atomic_store_explicit(&call->queue, queue, memory_order_relaxed);
}

static bool leave(pycrew_call *call, pycrew_queue *queue)
{
    if (!atomic_compare_exchange_strong_explicit(&call->queue, &queue, NULL, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return false;
    atomic_fetch_sub_explicit(&queue->pending, 1, memory_order_relaxed);
    return true;
}

bool pc_queue_leave(pycrew_call *call)
{
    pycrew_queue *queue = atomic_load_explicit(&call->queue, memory_order_relaxed);

    return queue != NULL && leave(call, queue);
}

/* Takes announced calls that are really ours and ended. */
static unsigned take(pycrew_queue *queue, pycrew_call **calls, unsigned max)
{
    pycrew_crew *crew = queue->crew;
    unsigned words = crew->segment.config.slots / 64, count = 0;

    for (unsigned seen = 0; seen <= words && count < max;) {
        pycrew_call *call;

        if (queue->rest == 0) {
            queue->scan = (queue->scan + 1) % words;
            queue->rest = pc_announce_take(&crew->segment, queue->number, queue->scan);
            seen++;
            continue;
        }
        call = &crew->calls[queue->scan * 64 + (unsigned)__builtin_ctzll(queue->rest)];
        queue->rest &= queue->rest - 1;
        if (__builtin_expect(atomic_load_explicit(&call->stream, memory_order_relaxed) != NULL, 0)) {
            call = pc_stream_reap(call, queue);
            if (call != NULL) {
                atomic_store_explicit(&call->thread, pc_this_thread(), memory_order_relaxed);
                calls[count++] = call;
            }
            continue;
        }
        if (atomic_load_explicit(&call->queue, memory_order_acquire) != queue ||
            atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_PREPARED ||
            !pc_call_collect(call))
            continue;
        /* Exactly once; and not if its owner has released it meanwhile, and used it anew. */
        if (!leave(call, queue))
            continue;
        atomic_store_explicit(&call->thread, pc_this_thread(), memory_order_relaxed);
        calls[count++] = call;
    }
    return count;
}

/* False: it is not ours any more. */
static bool read_eventfd(const pycrew_queue *queue)
{
    uint64_t count;

    if (!pc_queue_is_ours(queue))
        return false;
    while (read(queue->fd, &count, sizeof count) < 0 && errno == EINTR)
        continue;
    return true;
}

static bool take_stop(pycrew_queue *queue)
{
    bool stop;

    pthread_mutex_lock(&queue->crew->lock);
    stop = queue->stop;
    queue->stop = false;
    pthread_mutex_unlock(&queue->crew->lock);
    return stop;
}

/* Nothing more was there: empties the descriptor, arms, and looks for the last time. An event loop
 * that polls from here on is woken. */
static unsigned arm_and_take(pycrew_queue *queue, pycrew_call **calls, unsigned max, bool *ours)
{
    *ours = read_eventfd(queue);
    pc_announce_arm(&queue->crew->segment, queue->number);
    return take(queue, calls, max);
}

/* While calls are in flight, each 100 ms: a bit may have been scribbled over, or more. */
static bool look_for_lost(pycrew_queue *queue)
{
    pycrew_crew *crew = queue->crew;
    bool found = false, queued = false;

    if (atomic_load_explicit(&queue->pending, memory_order_relaxed) == 0 ||
        pc_now() - queue->looked < PC_LOOK_NS)
        return false;
    for (uint32_t i = 0; i < crew->segment.config.slots; i++) {
        pycrew_call *call = &crew->calls[i];

        if (atomic_load_explicit(&call->queue, memory_order_relaxed) != queue ||
            atomic_load_explicit(&call->phase, memory_order_acquire) == PC_PHASE_PREPARED)
            continue;
        queued |= pc_stream_look(call);
        if (pc_call_has_ended(call)) {
            pc_announce(&crew->segment, queue->number, i);
            found = true;
        } else {
            queued |= pc_call_look(call);
        }
    }
    if (queued)
        pc_idle_wake_all(&crew->segment);
    queue->looked = pc_now();
    return found;
}

/* While calls are in flight a look each 100 ms: a scribbled hint must not hang us. */
static int poll_ms(const pycrew_queue *queue, int64_t until)
{
    bool pending = atomic_load_explicit(&queue->pending, memory_order_relaxed) > 0;
    int64_t left = until - pc_now();

    if (left <= 0)
        return 0;
    if (!pending && until == INT64_MAX)
        return -1;
    left = (left + 999999) / 1000000;
    if (pending && left > 100)
        return 100;
    return left > INT32_MAX ? INT32_MAX : (int)left;
}

static int reap(pycrew_queue *queue, pycrew_call **calls, unsigned max, int64_t until)
{
    for (;;) {
        struct pollfd ready = {.fd = queue->fd, .events = POLLIN};
        unsigned count = take(queue, calls, max);
        bool ours = true;

        if (count < max)
            count += arm_and_take(queue, calls + count, max - count, &ours);
        if (count == 0 && look_for_lost(queue))
            continue;
        if (count == max)
            pc_queue_write(queue); /* there may be more: it stays readable */
        if (atomic_load(&queue->crew->ending) == 2)
            return pc_fail(-ECANCELED, "the crew was closed");
        if (count > 0 || take_stop(queue))
            return (int)count;
        if (!ours)
            return pc_fail(-EBADF, "this process has closed the queue's descriptor; close the queue "
                                   "and open another");
        if (pc_now() >= until)
            return 0;
        poll(&ready, 1, poll_ms(queue, until));
    }
}

int pycrew_queue_reap(pycrew_queue *queue, pycrew_call **calls, unsigned max, int64_t timeout_ns)
{
    pycrew_crew *crew = queue->crew;
    int rc = pc_crew_check(crew);

    if (rc < 0)
        return rc;
    if (max == 0 || max > INT32_MAX)
        return pc_fail(-EINVAL, "pycrew_queue_reap: max must be 1 to %d", INT32_MAX);
    atomic_store_explicit(&queue->reader, pc_this_thread(), memory_order_relaxed);
    pc_crew_enter(crew);
    pc_announce_disarm(&crew->segment, queue->number);
    rc = reap(queue, calls, max, timeout_ns == 0 ? 0 : pc_until(timeout_ns));
    pc_crew_leave(crew);
    return rc;
}

int pycrew_queue_wake(pycrew_queue *queue)
{
    int rc = pc_crew_check(queue->crew);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&queue->crew->lock);
    queue->stop = true;
    pthread_mutex_unlock(&queue->crew->lock);
    pc_queue_write(queue);
    return 0;
}

void pycrew_queue_close(pycrew_queue *queue)
{
    pycrew_crew *crew;

    if (queue == NULL || *(const volatile char *)queue->crew->fork_guard == 0)
        return;
    crew = queue->crew;
    for (uint32_t i = 0; i < crew->segment.config.slots; i++)
        (void)leave(&crew->calls[i], queue);
    pc_announce_disarm(&crew->segment, queue->number);
    pthread_mutex_lock(&crew->lock);
    queue->open = false;
    pthread_mutex_unlock(&crew->lock);
}
