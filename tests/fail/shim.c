#include "tests/fail/shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct shim_state *shim;

extern const char __executable_start[];

void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);

/* A worker is told where the state is. */
__attribute__((constructor)) static void find_state(void)
{
    const char *path = getenv("PYCREW_SHIM"), *at = getenv("PYCREW_SHIM_AT");
    int fd = path != NULL ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;

    if (fd < 0 || at == NULL)
        return;
    shim = __real_mmap(NULL, sizeof *shim, PROT_READ | PROT_WRITE, MAP_SHARED, fd, atol(at));
    if (shim == MAP_FAILED)
        abort();
    syscall(SYS_close, fd);
}

/* ---- what fails ------------------------------------------------------------------------------ */

static bool fails(enum shim_kind kind, const void *caller)
{
    uintptr_t place = (uintptr_t)caller - (uintptr_t)__executable_start, none = 0;
    unsigned number;

    if (shim == NULL || !atomic_load(&shim->armed))
        return false;
    number = atomic_fetch_add(&shim->calls[kind], 1) + 1;
    if (shim->tracing && number <= SHIM_TRACE)
        shim->trace[kind][number - 1] = (uint32_t)place;
    if (kind != shim->kind || number < shim->first || number - shim->first >= shim->count)
        return false;
    atomic_compare_exchange_strong(&shim->place, &none, place);
    atomic_fetch_add(&shim->fired, 1);
    errno = shim->error;
    return true;
}

#define FAILS(kind) fails(SHIM_##kind, __builtin_return_address(0))

/* Whether it fails; in a negative control it only seems to work. */
#define RETURN_IF_FAILS(kind, failed)                                                              \
    do {                                                                                           \
        if (FAILS(kind)) {                                                                         \
            if (shim->how == SHIM_DROP)                                                            \
                return 0;                                                                          \
            return failed;                                                                         \
        }                                                                                          \
    } while (0)

/* WRAP(type, name, parameters, arguments, kind, value of a failure) */
#define WRAP(type, name, parameters, arguments, kind, failed)                                      \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters                                                                  \
    {                                                                                              \
        RETURN_IF_FAILS(kind, failed);                                                             \
        return __real_##name arguments;                                                            \
    }

/* ---- memory, and its balance ------------------------------------------------------------------
 */

enum { BLOCKS = 1 << 16 };

static _Atomic uintptr_t blocks[BLOCKS]; /* open addressing; 1: was one */
static _Atomic long live;

long shim_live_blocks(void)
{
    return atomic_load(&live);
}

static size_t bucket(uintptr_t block)
{
    return (size_t)((block >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 48);
}

static void *note(void *block)
{
    uintptr_t value = (uintptr_t)block;

    if (block == NULL)
        return NULL;
    for (size_t at = bucket(value), i = 0; i < BLOCKS; at = (at + 1) % BLOCKS, i++) {
        uintptr_t was = atomic_load(&blocks[at]);

        if (was <= 1 && atomic_compare_exchange_strong(&blocks[at], &was, value)) {
            atomic_fetch_add(&live, 1);
            return block;
        }
    }
    abort();
}

static void forget(const void *block)
{
    uintptr_t value = (uintptr_t)block, was;

    for (size_t at = bucket(value); (was = atomic_load(&blocks[at])) != 0; at = (at + 1) % BLOCKS)
        if (was == value) {
            atomic_store(&blocks[at], 1);
            atomic_fetch_sub(&live, 1);
            return;
        }
}

/* What is not there cannot seem to be. */
#define WRAP_MEMORY(name, parameters, arguments)                                                   \
    void *__real_##name parameters;                                                                \
    void *__wrap_##name parameters;                                                                \
    void *__wrap_##name parameters                                                                 \
    {                                                                                              \
        return FAILS(memory) ? NULL : note(__real_##name arguments);                               \
    }

WRAP_MEMORY(malloc, (size_t size), (size))
WRAP_MEMORY(calloc, (size_t count, size_t size), (count, size))
WRAP_MEMORY(aligned_alloc, (size_t alignment, size_t size), (alignment, size))
WRAP_MEMORY(strdup, (const char *text), (text))
WRAP_MEMORY(strndup, (const char *text, size_t size), (text, size))
WRAP_MEMORY(realpath, (const char *path, char *resolved), (path, resolved))

void *__real_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size);
void *__wrap_realloc(void *block, size_t size)
{
    void *moved;

    if (FAILS(memory))
        return NULL;
    forget(block);
    moved = __real_realloc(block, size);
    note(moved != NULL ? moved : block);
    return moved;
}

int __real_vasprintf(char **text, const char *format, va_list arguments);
int __wrap_vasprintf(char **text, const char *format, va_list arguments);
int __wrap_vasprintf(char **text, const char *format, va_list arguments)
{
    int size = FAILS(memory) ? -1 : __real_vasprintf(text, format, arguments);

    if (size >= 0)
        note(*text);
    return size;
}

int __wrap_asprintf(char **text, const char *format, ...);
int __wrap_asprintf(char **text, const char *format, ...)
{
    va_list arguments;
    int size = -1;

    if (FAILS(memory))
        return -1;
    va_start(arguments, format);
    size = __real_vasprintf(text, format, arguments);
    va_end(arguments);
    if (size >= 0)
        note(*text);
    return size;
}

void __real_free(void *block);
void __wrap_free(void *block);
void __wrap_free(void *block)
{
    if (block != NULL && FAILS(free)) /* a negative control */
        return;
    forget(block);
    __real_free(block);
}

/* ---- mappings ---------------------------------------------------------------------------------
 */

WRAP(void *, mmap, (void *at, size_t size, int protection, int flags, int fd, off_t offset),
     (at, size, protection, flags, fd, offset), mmap, MAP_FAILED)
WRAP(int, munmap, (void *at, size_t size), (at, size), munmap, -1) /* in a negative control */
WRAP(int, mprotect, (void *at, size_t size, int protection), (at, size, protection), mprotect, -1)
WRAP(int, madvise, (void *at, size_t size, int advice), (at, size, advice), madvise, -1)
WRAP(int, mincore, (void *at, size_t size, unsigned char *ret), (at, size, ret), mincore, -1)

/* ---- files ------------------------------------------------------------------------------------
 */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list arguments;
    mode_t mode = 0;

    RETURN_IF_FAILS(open, -1);
    va_start(arguments, flags);
    if (flags & O_CREAT)
        mode = va_arg(arguments, mode_t);
    va_end(arguments);
    return __real_open(path, flags, mode);
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
    va_list arguments;
    long argument;

    RETURN_IF_FAILS(fcntl, -1);
    va_start(arguments, command);
    argument = va_arg(arguments, long);
    va_end(arguments);
    return __real_fcntl(fd, command, argument);
}

WRAP(FILE *, fopen, (const char *path, const char *mode), (path, mode), open, NULL)
WRAP(DIR *, opendir, (const char *path), (path), open, NULL)
WRAP(ssize_t, read, (int fd, void *data, size_t size), (fd, data, size), read, -1)
WRAP(ssize_t, pread, (int fd, void *data, size_t size, off_t offset), (fd, data, size, offset),
     read, -1)
WRAP(struct dirent *, readdir, (DIR * directory), (directory), read, NULL)
WRAP(char *, fgets, (char *line, int size, FILE *file), (line, size, file), read, NULL)
WRAP(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), write, -1)
WRAP(int, stat, (const char *path, struct stat *ret), (path, ret), stat, -1)
WRAP(int, statvfs, (const char *path, struct statvfs *ret), (path, ret), stat, -1)
WRAP(int, access, (const char *path, int mode), (path, mode), stat, -1)
WRAP(int, shm_open, (const char *name, int flags, mode_t mode), (name, flags, mode), shm_open, -1)
WRAP(int, memfd_create, (const char *name, unsigned flags), (name, flags), memfd_create, -1)
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), ftruncate, -1)
WRAP(int, posix_fallocate, (int fd, off_t offset, off_t size), (fd, offset, size), posix_fallocate,
     errno)
WRAP(int, fallocate, (int fd, int mode, off_t offset, off_t size), (fd, mode, offset, size),
     fallocate, -1)
WRAP(int, dup2, (int from, int to), (from, to), dup2, -1)

/* Interrupted or not, the descriptor is closed: close(2). */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    bool fail = FAILS(close);

    if (fail && shim->how == SHIM_DROP)
        return 0;
    if (!fail)
        return __real_close(fd);
    __real_close(fd);
    errno = shim->error;
    return -1;
}

/* ---- sockets, pipes, events -------------------------------------------------------------------
 */

WRAP(int, socketpair, (int domain, int type, int protocol, int ends[2]),
     (domain, type, protocol, ends), socketpair, -1)
WRAP(int, pipe2, (int ends[2], int flags), (ends, flags), pipe, -1)
WRAP(int, eventfd, (unsigned value, int flags), (value, flags), eventfd, -1)
WRAP(int, poll, (struct pollfd * polls, nfds_t count, int timeout), (polls, count, timeout), poll,
     -1)
WRAP(int, ppoll,
     (struct pollfd * polls, nfds_t count, const struct timespec *timeout, const sigset_t *mask),
     (polls, count, timeout, mask), poll, -1)

ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
    RETURN_IF_FAILS(sendmsg, -1);
    return __real_sendmsg(fd, message, flags);
}

/* What the kernel does when there is no place in the table of descriptors. */
static void cut(struct msghdr *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c != NULL; c = CMSG_NXTHDR(message, c)) {
        int fds[8];
        size_t size = c->cmsg_len - CMSG_LEN(0);

        if (c->cmsg_type != SCM_RIGHTS || size > sizeof fds)
            continue;
        memcpy(fds, CMSG_DATA(c), size);
        for (size_t i = 0; i < size / sizeof(int); i++)
            __real_close(fds[i]);
    }
    message->msg_controllen = 0;
    message->msg_flags |= MSG_CTRUNC;
}

ssize_t __real_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *message, int flags)
{
    bool fail = shim != NULL && shim->how != SHIM_CUT && FAILS(recvmsg);
    ssize_t size;

    if (fail)
        return -1;
    size = __real_recvmsg(fd, message, flags);
    /* Only those with descriptors count: for the others it would be no failure. */
    if (size >= 0 && message->msg_controllen > 0 && shim != NULL && shim->how == SHIM_CUT &&
        FAILS(recvmsg))
        cut(message);
    return size;
}

/* ---- processes and threads --------------------------------------------------------------------
 */

WRAP(int, posix_spawn,
     (pid_t * pid, const char *path, const posix_spawn_file_actions_t *actions,
      const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]),
     (pid, path, actions, attributes, arguments, environment), posix_spawn, errno)
WRAP(int, posix_spawn_file_actions_init, (posix_spawn_file_actions_t * actions), (actions),
     spawn_setup, errno)
WRAP(int, posix_spawn_file_actions_addopen,
     (posix_spawn_file_actions_t * actions, int fd, const char *path, int flags, mode_t mode),
     (actions, fd, path, flags, mode), spawn_setup, errno)
WRAP(int, posix_spawn_file_actions_adddup2, (posix_spawn_file_actions_t * actions, int fd, int to),
     (actions, fd, to), spawn_setup, errno)
WRAP(int, posix_spawn_file_actions_addclosefrom_np,
     (posix_spawn_file_actions_t * actions, int from), (actions, from), spawn_setup, errno)
WRAP(int, posix_spawnattr_init, (posix_spawnattr_t * attributes), (attributes), spawn_setup, errno)
WRAP(int, posix_spawnattr_setflags, (posix_spawnattr_t * attributes, short flags),
     (attributes, flags), spawn_setup, errno)
WRAP(pid_t, fork, (void), (), fork, -1)
WRAP(int, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*start)(void *), void *data),
     (thread, attributes, start, data), pthread_create, errno)
WRAP(int, pthread_key_create, (pthread_key_t * key, void (*destructor)(void *)), (key, destructor),
     pthread_key, errno)
WRAP(int, pthread_setspecific, (pthread_key_t key, const void *value), (key, value), pthread_key,
     errno)
WRAP(int, sched_getaffinity, (pid_t pid, size_t size, cpu_set_t *set), (pid, size, set), affinity,
     -1)
WRAP(int, nanosleep, (const struct timespec *time, struct timespec *left), (time, left), nanosleep,
     -1)
WRAP(int, sem_wait, (sem_t * semaphore), (semaphore), futex, -1)
WRAP(int, sem_clockwait, (sem_t * semaphore, clockid_t clock, const struct timespec *until),
     (semaphore, clock, until), futex, -1)

/* Fails as where somebody else has reaped: the real one is called all the same. */
int __real_waitid(idtype_t type, id_t id, siginfo_t *info, int flags);
int __wrap_waitid(idtype_t type, id_t id, siginfo_t *info, int flags);
int __wrap_waitid(idtype_t type, id_t id, siginfo_t *info, int flags)
{
    siginfo_t unseen;
    bool fail = FAILS(waitid);

    if (!fail)
        return __real_waitid(type, id, info, flags);
    if (shim->how == SHIM_DROP)
        return 0;
    __real_waitid(type, id, &unseen, flags);
    errno = shim->error;
    return -1;
}

int __real_prctl(int option, ...);
int __wrap_prctl(int option, ...);
int __wrap_prctl(int option, ...)
{
    va_list arguments;
    unsigned long argument;

    RETURN_IF_FAILS(prctl, -1);
    va_start(arguments, option);
    argument = va_arg(arguments, unsigned long);
    va_end(arguments);
    return __real_prctl(option, argument, 0L, 0L, 0L);
}

/* -1: it does not fail, as the kernel's wake does not. */
static int kind_of_syscall(long number, long operation)
{
    switch (number) {
    case SYS_pidfd_open:
        return SHIM_pidfd_open;
    case SYS_membarrier:
        return SHIM_membarrier;
    case SYS_futex:
        operation &= FUTEX_CMD_MASK;
        return operation == FUTEX_WAIT || operation == FUTEX_WAIT_BITSET ? SHIM_futex : -1;
    default:
        return -1;
    }
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
    long a[6];
    va_list arguments;
    int kind;

    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    kind = kind_of_syscall(number, a[1]);
    if (kind >= 0 && fails((enum shim_kind)kind, __builtin_return_address(0)))
        return -1;
    return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
