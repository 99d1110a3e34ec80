/* control: messages between the host and its processes, over SEQPACKET sockets.
 *
 * The control socket joins host and zygote, a lifeline host and worker. A message is a pc_message
 * and a text, with up to PC_MESSAGE_FDS descriptors. Neither side blocks the other: they are few,
 * and the buffers hold them.
 *
 *   host    -> zygote  CONFIG FORK KILL EXIT
 *   zygote  -> host    HELLO READY FAILED WARNING FORKED FORK_FAILED DIED
 *   host    -> worker  ADMIT QUEUE
 *   worker  -> host    WORKER_READY WORKER_FAILED WORKER_RETIRES WORKER_LEAVING */
#ifndef PC_SHM_CONTROL_H
#define PC_SHM_CONTROL_H

#include <stddef.h>
#include <stdint.h>

enum pc_message_kind {
    PC_MESSAGE_HELLO = 1,     /* value: PC_LAYOUT_HASH; text: pycrew's and Python's version */
    PC_MESSAGE_CONFIG,        /* text: see config_text in supervisor.c */
    PC_MESSAGE_READY,         /* preload done */
    PC_MESSAGE_FAILED,        /* text: why, with the traceback; the zygote ends */
    PC_MESSAGE_WARNING,       /* text */
    PC_MESSAGE_FORK,          /* worker, incarnation, number: its part of the fault file; fds: segment, lifeline, fault file[, output] */
    PC_MESSAGE_FORKED,        /* worker, incarnation, number: PID; fd: pidfd */
    PC_MESSAGE_FORK_FAILED,   /* worker, incarnation, number: errno */
    PC_MESSAGE_DIED,          /* worker, incarnation, number: signal, status: exit status */
    PC_MESSAGE_EXIT,
    PC_MESSAGE_ADMIT,         /* the worker may touch slots */
    PC_MESSAGE_QUEUE,         /* number: queue; fd: its eventfd */
    PC_MESSAGE_WORKER_READY,  /* init is done */
    PC_MESSAGE_WORKER_FAILED, /* text: the init function's traceback; the worker ends */
    PC_MESSAGE_WORKER_LEAVING, /* it claims no more; its exit functions run */
    PC_MESSAGE_WORKER_RETIRES, /* it is near the end of its life: a successor may be started */
    PC_MESSAGE_KILL /* worker, incarnation: the host has no pidfd to kill it by */
};

enum { PC_MESSAGE_FDS = 4, PC_MESSAGE_TEXT_MAX = 96 << 10 };

/* Exit statuses of a worker that ended by its own decision. */
enum { PC_EXIT_CLOSED = 0, PC_EXIT_ENGINE_LOST = 96, PC_EXIT_RECYCLED = 97, PC_EXIT_INIT_FAILED = 98, PC_EXIT_ORPHANED = 99 };

/* Each worker's part of the fault file, where faulthandler writes Python stacks: part n begins at n
 * times this. A place has two, its worker's and the successor's. */
#define PC_FAULT_SIZE (256 << 10)

/* Around a stack that was asked for by SIGRTMAX-2; after the first eight hexadecimal digits, of the
 * signal's value (0: the host's), and a newline. See worker/stack.c. */
#define PC_STACK_ASKED "pycrew: asked for, "
#define PC_STACK_END "pycrew: end of what was asked for\n"

typedef struct pc_message {
    uint32_t kind;
    uint32_t worker, incarnation;
    int32_t number, status;
    uint32_t size; /* of the text */
    uint64_t value;
} pc_message;

/* 0 or a negated errno. text may be NULL; it is cut at PC_MESSAGE_TEXT_MAX. */
int pc_control_send(int fd, const pc_message *message, const char *text, size_t size,
                    const int *fds, unsigned fd_count);

/* 1: a message; its text, NUL-terminated, in text (capacity PC_MESSAGE_TEXT_MAX + 1); descriptors
 * that came are in fds, close-on-exec, the others -1. 0: the other end is closed. Negated errno;
 * -EAGAIN with flags MSG_DONTWAIT. */
int pc_control_receive(int fd, pc_message *message, char *text, int fds[PC_MESSAGE_FDS], int flags);

#endif
