/* What lib/shm/control.h promises: messages come whole, with their descriptors, or not at all. */
#include "tests/shm/fixture.h"

#include <sys/socket.h>

#include "lib/shm/control.h"

static int ends[2];
static char text[PC_MESSAGE_TEXT_MAX + 1];
static pc_message got;
static int fds[PC_MESSAGE_FDS];

static const pc_message example = {.kind = PC_MESSAGE_DIED,
                                   .worker = 7,
                                   .incarnation = 8,
                                   .number = -9,
                                   .status = 10,
                                   .value = UINT64_C(0x123456789abcdef0)};

static void open_socket(void)
{
    ASSERT_INT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
}

static void close_socket(void)
{
    close(ends[0]);
    close(ends[1]);
}

static int receive(int flags)
{
    memset(&got, 0xee, sizeof got);
    memset(text, 0xee, sizeof text);
    memset(fds, 0xee, sizeof fds);
    return pc_control_receive(ends[1], &got, text, fds, flags);
}

static void expect_no_fds(unsigned from)
{
    for (unsigned i = from; i < PC_MESSAGE_FDS; i++)
        ASSERT_INT(fds[i], -1);
}

static void expect_example(const char *expected, size_t size)
{
    pc_message wanted = example;
    wanted.size = (uint32_t)size;
    ASSERT_MEM(&got, &wanted, sizeof wanted);
    ASSERT_MEM(text, expected, size);
    ASSERT_INT(text[size], '\0');
}

TEST(a_message_comes_with_all_its_numbers_and_its_text)
{
    open_socket();
    ASSERT_INT(pc_control_send(ends[0], &example, "hello\0there", 11, NULL, 0), 0);
    ASSERT_INT(receive(0), 1);
    expect_example("hello\0there", 11);
    expect_no_fds(0);
    close_socket();
}

TEST(a_message_needs_no_text)
{
    open_socket();
    ASSERT_INT(pc_control_send(ends[0], &example, NULL, 0, NULL, 0), 0);
    ASSERT_INT(receive(0), 1);
    expect_example("", 0);
    close_socket();
}

TEST(messages_come_one_by_one_in_order)
{
    open_socket();
    for (int i = 0; i < 20; i++) {
        pc_message message = {.kind = PC_MESSAGE_WARNING, .number = i};
        char line[32];
        int size = snprintf(line, sizeof line, "line %d", i);
        ASSERT_INT(pc_control_send(ends[0], &message, line, (size_t)size, NULL, 0), 0);
    }
    for (int i = 0; i < 20; i++) {
        char line[32];
        snprintf(line, sizeof line, "line %d", i);
        ASSERT_INT(receive(0), 1);
        ASSERT_INT(got.number, i);
        ASSERT_STR(text, line);
    }
    close_socket();
}

TEST(a_text_that_is_too_long_is_cut)
{
    static char large[PC_MESSAGE_TEXT_MAX + 1000];
    memset(large, 'x', sizeof large);
    open_socket();
    for (size_t size = PC_MESSAGE_TEXT_MAX - 1; size <= sizeof large; size += 500) {
        size_t cut = size < PC_MESSAGE_TEXT_MAX ? size : PC_MESSAGE_TEXT_MAX;
        ASSERT_INT(pc_control_send(ends[0], &example, large, size, NULL, 0), 0);
        ASSERT_INT(receive(0), 1);
        expect_example(large, cut);
    }
    close_socket();
}

/* ---- descriptors ---- */

static ino_t inode(int fd)
{
    struct stat status;
    ASSERT_INT(fstat(fd, &status), 0);
    return status.st_ino;
}

TEST(up_to_four_descriptors_come_with_a_message_in_order_and_close_on_exec)
{
    int sent[PC_MESSAGE_FDS];
    open_socket();
    for (int i = 0; i < PC_MESSAGE_FDS; i++)
        sent[i] = memfd_create("test", 0);
    for (unsigned count = 0; count <= PC_MESSAGE_FDS; count++) {
        ASSERT_INT(pc_control_send(ends[0], &example, "x", 1, sent, count), 0);
        ASSERT_INT(receive(0), 1);
        expect_example("x", 1);
        expect_no_fds(count);
        for (unsigned i = 0; i < count; i++) {
            ASSERT_INT(inode(fds[i]), inode(sent[i]));
            ASSERT(fds[i] != sent[i]);
            ASSERT_INT(fcntl(fds[i], F_GETFD), FD_CLOEXEC);
            close(fds[i]);
        }
    }
    for (int i = 0; i < PC_MESSAGE_FDS; i++)
        close(sent[i]);
    close_socket();
}

TEST(a_descriptor_that_is_none_is_an_error)
{
    int none = 4000;
    open_socket();
    ASSERT_INT(pc_control_send(ends[0], &example, "x", 1, &none, 1), -EBADF);
    ASSERT_INT(receive(MSG_DONTWAIT), -EAGAIN);
    close_socket();
}

/* As it comes from a process gone mad: any bytes, any descriptors. */
static void send_raw(const void *bytes, size_t size, const int *sent, unsigned count)
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(8 * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control, 0, sizeof control);
    if (count > 0) {
        header.msg_control = control.space;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(&control.align), sent, count * sizeof(int));
    }
    ASSERT_INT(sendmsg(ends[0], &header, 0), size);
}

TEST(more_descriptors_than_there_may_be_do_no_harm)
{
    int sent[8];
    open_socket();
    for (int i = 0; i < 8; i++)
        sent[i] = ends[0];
    for (unsigned count = 5; count <= 8; count++) {
        send_raw(&(pc_message){.kind = PC_MESSAGE_QUEUE}, sizeof(pc_message), sent, count);
        ASSERT_INT(receive(0), 1);
        for (unsigned i = 0; i < PC_MESSAGE_FDS; i++)
            ASSERT_INT(close(fds[i]), 0); /* and the harness looks for others */
    }
    close_socket();
}

/* ---- what is no message ---- */

TEST(bytes_that_are_no_message_are_refused_and_their_descriptors_closed)
{
    static char bytes[sizeof(pc_message) + PC_MESSAGE_TEXT_MAX + 100];
    const uint32_t sizes[] = {0, 1, 5, 100, PC_MESSAGE_TEXT_MAX, PC_MESSAGE_TEXT_MAX + 1, UINT32_MAX};
    const size_t lengths[] = {1,
                              sizeof(pc_message) - 1,
                              sizeof(pc_message) + 2,
                              sizeof(pc_message) + 101,
                              sizeof(pc_message) + PC_MESSAGE_TEXT_MAX - 1};
    int sent[PC_MESSAGE_FDS];
    open_socket();
    for (int i = 0; i < PC_MESSAGE_FDS; i++)
        sent[i] = ends[0];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            pc_message message = {.kind = PC_MESSAGE_FORK, .size = sizes[i]};
            memcpy(bytes, &message, sizeof message);
            send_raw(bytes, lengths[k], sent, (unsigned)k % (PC_MESSAGE_FDS + 1));
            ASSERT_INT(receive(0), -EPROTO);
            expect_no_fds(0); /* not to be closed twice */
        }
    close_socket();
}

TEST(bytes_beyond_the_longest_message_are_not_written_anywhere)
{
    static char bytes[sizeof(pc_message) + PC_MESSAGE_TEXT_MAX + 100];
    pc_message message = {.kind = PC_MESSAGE_WARNING, .size = PC_MESSAGE_TEXT_MAX + 100};
    memcpy(bytes, &message, sizeof message);
    open_socket();
    send_raw(bytes, sizeof bytes, NULL, 0);
    ASSERT_INT(receive(0), -EPROTO);
    ASSERT_INT(text[PC_MESSAGE_TEXT_MAX] & 0xff, 0xee);
    close_socket();
}

TEST(an_empty_packet_is_an_end_and_leaves_no_descriptor)
{
    open_socket();
    send_raw("", 0, ends, 2);
    ASSERT_INT(receive(0), 0);
    expect_no_fds(0);
    close_socket();
}

/* ---- the other end ---- */

TEST(nothing_to_receive_is_eagain_where_it_may_not_wait)
{
    open_socket();
    ASSERT_INT(receive(MSG_DONTWAIT), -EAGAIN);
    expect_no_fds(0);
    close_socket();
}

TEST(a_closed_end_is_seen_after_what_it_has_sent)
{
    open_socket();
    ASSERT_INT(pc_control_send(ends[0], &example, "bye", 3, NULL, 0), 0);
    close(ends[0]);
    ASSERT_INT(receive(0), 1);
    expect_example("bye", 3);
    for (int i = 0; i < 2; i++) {
        ASSERT_INT(receive(0), 0);
        ASSERT_INT(receive(MSG_DONTWAIT), 0);
        expect_no_fds(0);
    }
    close(ends[1]);
}

TEST(an_end_that_was_closed_with_messages_unread_is_closed)
{
    open_socket();
    ASSERT_INT(pc_control_send(ends[1], &example, "unread", 6, NULL, 0), 0);
    close(ends[0]);
    ASSERT_INT(receive(0), 0); /* ECONNRESET */
    ASSERT_INT(receive(0), 0);
    close(ends[1]);
}

TEST(sending_to_a_closed_end_is_an_error_and_no_signal)
{
    open_socket();
    close(ends[1]);
    ASSERT_INT(pc_control_send(ends[0], &example, "x", 1, NULL, 0), -EPIPE);
    close(ends[0]);
}

TEST(a_full_socket_that_may_not_wait_is_eagain)
{
    static char large[PC_MESSAGE_TEXT_MAX];
    int rc, sent = 0;
    open_socket();
    ASSERT_INT(fcntl(ends[0], F_SETFL, O_NONBLOCK), 0);
    while ((rc = pc_control_send(ends[0], &example, large, sizeof large, NULL, 0)) == 0)
        ASSERT(++sent < 1000);
    ASSERT_INT(rc, -EAGAIN);
    ASSERT(sent > 0);
    for (; sent > 0; sent--)
        ASSERT_INT(receive(MSG_DONTWAIT), 1);
    ASSERT_INT(receive(MSG_DONTWAIT), -EAGAIN);
    close_socket();
}

TEST(what_is_no_socket_is_an_error)
{
    ends[0] = ends[1] = -1;
    ASSERT_INT(pc_control_send(-1, &example, "x", 1, NULL, 0), -EBADF);
    ASSERT_INT(receive(0), -EBADF);
    ends[1] = 0;
    ASSERT_INT(receive(0), -ENOTSOCK);
    expect_no_fds(0);
}

static void on_alarm(int number)
{
    (void)number;
}

static void send_late(void *argument)
{
    (void)argument;
    poll(NULL, 0, 100);
    ASSERT_INT(pc_control_send(ends[0], &example, "late", 4, NULL, 0), 0);
}

TEST(a_signal_does_not_end_a_wait_for_a_message)
{
    struct sigaction action = {.sa_handler = on_alarm};
    struct itimerspec often = {.it_value = {0, 5 * MS}, .it_interval = {0, 5 * MS}};
    timer_t timer;
    open_socket();
    pid_t pid = process_start(send_late, NULL);
    ASSERT_INT(sigaction(SIGALRM, &action, NULL), 0);
    ASSERT_INT(timer_create(CLOCK_MONOTONIC, NULL, &timer), 0);
    ASSERT_INT(timer_settime(timer, 0, &often, NULL), 0);
    ASSERT_INT(receive(0), 1);
    timer_delete(timer);
    expect_example("late", 4);
    process_end(pid);
    close_socket();
}

TAP_MAIN
