#include "lib/shm/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

typedef union control_space {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(PC_MESSAGE_FDS * sizeof(int))];
} control_space;

static void attach(struct msghdr *header, control_space *space, const int *fds, unsigned count)
{
    struct cmsghdr *control;

    memset(space, 0, sizeof *space);
    header->msg_control = space->bytes;
    header->msg_controllen = CMSG_SPACE(count * sizeof(int));
    control = CMSG_FIRSTHDR(header);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(control), fds, count * sizeof(int));
}

int pc_control_send(int fd, const pc_message *message, const char *text, size_t size,
                    const int *fds, unsigned fd_count)
{
    pc_message copy = *message;
    control_space space;
    struct iovec parts[2];
    struct msghdr header = {.msg_iov = parts, .msg_iovlen = 2};

    copy.size = (uint32_t)(size > PC_MESSAGE_TEXT_MAX ? PC_MESSAGE_TEXT_MAX : size);
    parts[0] = (struct iovec){.iov_base = &copy, .iov_len = sizeof copy};
    parts[1] = (struct iovec){.iov_base = (void *)(uintptr_t)text, .iov_len = copy.size};
    if (fd_count > 0)
        attach(&header, &space, fds, fd_count);
    while (sendmsg(fd, &header, MSG_NOSIGNAL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

static void take_fds(struct msghdr *header, int fds[PC_MESSAGE_FDS])
{
    for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control != NULL;
         control = CMSG_NXTHDR(header, control)) {
        if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS)
            continue;
        memcpy(fds, CMSG_DATA(control), control->cmsg_len - CMSG_LEN(0));
    }
}

static void close_fds(int fds[PC_MESSAGE_FDS])
{
    for (unsigned i = 0; i < PC_MESSAGE_FDS; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

int pc_control_receive(int fd, pc_message *message, char *text, int fds[PC_MESSAGE_FDS], int flags)
{
    control_space space;
    struct iovec parts[2] = {{.iov_base = message, .iov_len = sizeof *message},
                             {.iov_base = text, .iov_len = PC_MESSAGE_TEXT_MAX}};
    struct msghdr header = {.msg_iov = parts,
                            .msg_iovlen = 2,
                            .msg_control = space.bytes,
                            .msg_controllen = sizeof space.bytes};
    ssize_t size;

    for (unsigned i = 0; i < PC_MESSAGE_FDS; i++)
        fds[i] = -1;
    do
        size = recvmsg(fd, &header, flags | MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size < 0)
        return errno == ECONNRESET ? 0 : -errno;
    take_fds(&header, fds); /* an empty packet may bring some too */
    if (size < (ssize_t)sizeof *message || (size_t)size - sizeof *message != message->size) {
        close_fds(fds);
        return size == 0 ? 0 : -EPROTO;
    }
    text[message->size] = '\0';
    return 1;
}
