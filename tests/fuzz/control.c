/* control: pc_control_receive, from a peer that sends what it likes. */
#include "tests/fuzz/target.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/shm/control.h"

enum { SENT_FDS_MAX = 7 };

/* The first byte of a packet. */
enum { FDS = 7, TRUE_SIZE = 8, LONG = 16, PLAIN_DATA = 32 };

static int lowest_free(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);

    CHECK(fd >= 0);
    close(fd);
    return fd;
}

static void send_packet(int fd, const void *data, size_t size, unsigned fd_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(SENT_FDS_MAX * sizeof(int))];
    } space = {.bytes = {0}};
    struct iovec part = {(void *)(uintptr_t)data, size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};

    if (fd_count > 0) {
        header.msg_control = space.bytes;
        header.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *control = CMSG_FIRSTHDR(&header);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        for (unsigned i = 0; i < fd_count; i++)
            memcpy(CMSG_DATA(control) + i * sizeof(int), &(int){fd}, sizeof(int));
    }
    CHECK(sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)size);
}

static void check_fds(const int *fds, unsigned sent, bool kept)
{
    for (unsigned i = 0; i < PC_MESSAGE_FDS; i++) {
        CHECK((fds[i] >= 0) == (kept && i < sent));
        if (fds[i] < 0)
            continue;
        CHECK(fcntl(fds[i], F_GETFD) == FD_CLOEXEC);
        close(fds[i]);
    }
}

static bool is_message(const uint8_t *packet, size_t size)
{
    pc_message message;

    if (size < sizeof message || size > sizeof message + PC_MESSAGE_TEXT_MAX)
        return false;
    memcpy(&message, packet, sizeof message);
    return message.size == size - sizeof message;
}

/* packet: of size bytes. */
static void deliver(const int pair[2], const uint8_t *packet, size_t size, unsigned fd_count)
{
    pc_message message;
    char *text = malloc(PC_MESSAGE_TEXT_MAX + 1);
    int fds[PC_MESSAGE_FDS];

    CHECK(text);
    send_packet(pair[0], packet, size, fd_count);
    int r = pc_control_receive(pair[1], &message, text, fds, MSG_DONTWAIT);
    if (is_message(packet, size)) {
        CHECK(r == 1 && memcmp(&message, packet, sizeof message) == 0);
        CHECK(memcmp(text, packet + sizeof message, message.size) == 0);
        CHECK(text[message.size] == '\0');
    } else if (size <= sizeof message + PC_MESSAGE_TEXT_MAX) {
        CHECK(r == (size == 0 ? 0 : -EPROTO));
    }
    check_fds(fds, fd_count, r == 1);
    free(text);
}

/* A packet as the input has it: its choices, its size, its bytes. */
static void next_packet(const int pair[2], fuzz_input *in)
{
    uint8_t choice = fuzz_byte(in);
    size_t given = fuzz_byte(in), size = given;
    if (choice & LONG) /* around what a message can hold at most */
        size = sizeof(pc_message) + PC_MESSAGE_TEXT_MAX - 128 + given;
    fuzz_input bytes = fuzz_take(in, given);
    uint8_t *packet = calloc(size + 1, 1);
    CHECK(packet);
    memcpy(packet, bytes.at, fuzz_left(&bytes));
    if ((choice & TRUE_SIZE) && size >= sizeof(pc_message)) {
        uint32_t text = (uint32_t)(size - sizeof(pc_message));
        memcpy(packet + offsetof(pc_message, size), &text, sizeof text);
    }
    deliver(pair, packet, size, choice & FDS);
    free(packet);
}

/* What pc_control_send sends arrives. */
static void send_and_receive(const int pair[2], fuzz_input *in)
{
    pc_message message = {.kind = fuzz_byte(in), .value = fuzz_word(in)}, received;
    int sent[PC_MESSAGE_FDS], fds[PC_MESSAGE_FDS];
    unsigned fd_count = fuzz_byte(in) % (PC_MESSAGE_FDS + 1);
    size_t size = fuzz_left(in);
    char *text = malloc(PC_MESSAGE_TEXT_MAX + 1);

    CHECK(text);
    for (unsigned i = 0; i < PC_MESSAGE_FDS; i++)
        sent[i] = pair[0];
    CHECK(pc_control_send(pair[0], &message, (const char *)in->at, size, sent, fd_count) == 0);
    CHECK(pc_control_receive(pair[1], &received, text, fds, MSG_DONTWAIT) == 1);
    CHECK(received.kind == message.kind && received.value == message.value);
    CHECK(received.size == size && (size == 0 || memcmp(text, in->at, size) == 0));
    check_fds(fds, fd_count, true);
    free(text);
}

FUZZ_TARGET(control)
{
    fuzz_input in = {data, data + size};
    int pair[2], lowest = lowest_free(), fds[PC_MESSAGE_FDS];
    pc_message message;
    char *text = malloc(PC_MESSAGE_TEXT_MAX + 1);

    CHECK(text);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    for (int i = 0; i < 4 && in.at < in.end; i++) {
        if (*in.at & PLAIN_DATA)
            send_and_receive(pair, &in), in.at = in.end;
        else
            next_packet(pair, &in);
    }
    CHECK(pc_control_receive(pair[1], &message, text, fds, MSG_DONTWAIT) == -EAGAIN);
    close(pair[0]);
    CHECK(pc_control_receive(pair[1], &message, text, fds, MSG_DONTWAIT) == 0);
    close(pair[1]);
    CHECK(lowest_free() == lowest); /* no descriptor is left open */
    free(text);
    return 0;
}
