/* shim - makes the n-th call of one kind fail that libpycrew (or pycrew-worker) makes.

   How. The program under test is linked by ld's --wrap: each reference of its object files to
   malloc, socketpair, ... becomes one to __wrap_malloc, ... in shim.c, which counts it and fails or
   passes it on. That is more robust than an LD_PRELOAD library that looks at return addresses: what
   is counted is decided by the linker, so neither a tail call nor a call that the C library or
   Python makes for itself (asprintf's malloc, opendir's open, posix_spawn's clone) is taken for one
   of ours; it works under ASan, whose malloc is behind __real_malloc; and a symbol that is not in
   the list is found by tests/fail/symbols.t. The price: the host side is tested as
   lib/libpccore.la, the objects that libpycrew.so is made of, and not as the .so itself.

   The state is in memory that the test shares with the processes it forks and, through
   /proc/PID/fd/N in PYCREW_SHIM, with the workers: a failure is one of all processes together. */
#ifndef TESTS_SHIM_H
#define TESTS_SHIM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* X(kind): one counter each. memory: all that allocates. */
#define SHIM_KINDS(X)                                                                              \
    X(memory)                                                                                      \
    X(mmap)                                                                                        \
    X(munmap)                                                                                      \
    X(mprotect)                                                                                    \
    X(madvise)                                                                                     \
    X(mincore)                                                                                     \
    X(open)                                                                                        \
    X(read)                                                                                        \
    X(write)                                                                                       \
    X(close)                                                                                       \
    X(fcntl)                                                                                       \
    X(stat)                                                                                        \
    X(shm_open)                                                                                    \
    X(memfd_create)                                                                                \
    X(ftruncate)                                                                                   \
    X(posix_fallocate)                                                                             \
    X(fallocate)                                                                                   \
    X(socketpair)                                                                                  \
    X(pipe)                                                                                        \
    X(eventfd)                                                                                     \
    X(sendmsg)                                                                                     \
    X(recvmsg)                                                                                     \
    X(poll)                                                                                        \
    X(posix_spawn)                                                                                 \
    X(spawn_setup)                                                                                 \
    X(pidfd_open)                                                                                  \
    X(membarrier)                                                                                  \
    X(futex)                                                                                       \
    X(waitid)                                                                                      \
    X(pthread_create)                                                                              \
    X(pthread_key)                                                                                 \
    X(affinity)                                                                                    \
    X(nanosleep)                                                                                   \
    X(free)                                                                                        \
    X(fork)                                                                                        \
    X(dup2)                                                                                        \
    X(prctl)

enum shim_kind {
#define SHIM_KIND_ENUM(kind) SHIM_##kind,
    SHIM_KINDS(SHIM_KIND_ENUM)
#undef SHIM_KIND_ENUM
        SHIM_KIND_COUNT
};

enum shim_how {
    SHIM_FAIL, /* it does nothing, and fails with error */
    SHIM_CUT,  /* recvmsg: descriptors that came are lost, as where this process may have no more */
    SHIM_DROP  /* it does nothing, and says that it has: no system does, but a negative control */
};

enum { SHIM_TRACE = 4096 };

struct shim_state {
    _Atomic bool armed;
    enum shim_kind kind;
    enum shim_how how;
    int error;
    unsigned first, count; /* of the calls of that kind these fail: from 1 on, so many */
    bool tracing;
    _Atomic unsigned fired;
    _Atomic uintptr_t place; /* who called the first that failed: an offset in the program */
    _Atomic unsigned calls[SHIM_KIND_COUNT];
    uint32_t trace[SHIM_KIND_COUNT][SHIM_TRACE]; /* the places in the order of calls */
};

extern struct shim_state *shim;

/* Blocks that were allocated through the shim and not freed. */
long shim_live_blocks(void);

#endif
