#include "lib/shm/segment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/shm/trace.h"
#include "lib/shm/upcall.h"

#define NAME_PREFIX "pycrew."
#define PAGE ((size_t)4096)
static_assert(sizeof PACKAGE_VERSION <= PC_VERSION_SIZE, "the version has its place in the header");
enum { RESIDENCY_TRIES = 1000 };

static size_t align_up(size_t size, size_t to)
{
    return (size + to - 1) / to * to;
}

/* Takes size bytes at *offset, cache-line aligned; gives where. */
static size_t place(size_t *offset, size_t size)
{
    size_t at = *offset;

    *offset = align_up(at + size, PC_CACHE_LINE);
    return at;
}

typedef struct layout {
    size_t workers, upcalls, queues, queue_stride, ring, span_owners, stops, times, submits, traces, slots, spans;
} layout;

static layout compute_layout(const pc_config *config)
{
    size_t offset = 0;
    layout l;

    place(&offset, sizeof(pc_header));
    l.workers = place(&offset, config->workers * sizeof(pc_worker_record));
    l.upcalls = place(&offset, config->workers * PC_UPCALLS * sizeof(pc_upcall));
    l.queue_stride = align_up(sizeof(pc_queue_record) + config->slots / 8, PC_CACHE_LINE);
    l.queues = place(&offset, config->queues * l.queue_stride);
    l.ring = place(&offset, config->slots * sizeof(uint64_t));
    l.span_owners = place(&offset, config->spans * sizeof(uint32_t));
    l.stops = place(&offset, config->slots * sizeof(uint32_t));
    l.times = place(&offset, config->workers * sizeof(pc_worker_times));
    l.submits = place(&offset, config->trace != 0 ? config->slots * sizeof(int64_t) : 0);
    l.traces = place(&offset, config->workers * pc_trace_stride(config));
    offset = align_up(offset, PAGE);
    l.slots = place(&offset, config->slots * sizeof(pc_slot));
    l.spans = align_up(offset, PAGE);
    return l;
}

size_t pc_segment_fixed_size(const pc_config *config)
{
    return compute_layout(config).spans;
}

static void set_pointers(pc_segment *segment)
{
    layout l = compute_layout(&segment->config);
    uint8_t *base = segment->base;

    segment->header = (pc_header *)(void *)base;
    segment->workers = (pc_worker_record *)(void *)(base + l.workers);
    segment->upcalls = (pc_upcall *)(void *)(base + l.upcalls);
    segment->queues = base + l.queues;
    segment->queue_stride = l.queue_stride;
    segment->ring = (_Atomic uint64_t *)(void *)(base + l.ring);
    segment->span_owners = (_Atomic uint32_t *)(void *)(base + l.span_owners);
    segment->stops = (_Atomic uint32_t *)(void *)(base + l.stops);
    segment->times = (pc_worker_times *)(void *)(base + l.times);
    segment->submits = segment->config.trace != 0 ? (_Atomic int64_t *)(void *)(base + l.submits) : NULL;
    segment->traces = segment->config.trace != 0 ? base + l.traces : NULL;
    segment->slots = (pc_slot *)(void *)(base + l.slots);
    segment->spans_offset = l.spans;
}

/* Maps size bytes of fd with an inaccessible page behind them: what runs over the end of the
 * segment hits that, and not whatever lies there. */
static int map_with_guard(pc_segment *segment)
{
    uint8_t *area = mmap(NULL, segment->size + PAGE, PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (area == MAP_FAILED)
        return -errno;
    if (mmap(area, segment->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
             segment->fd, 0) == MAP_FAILED) {
        int error = errno;

        munmap(area, segment->size + PAGE);
        return -error;
    }
    if (segment->host)
        mprotect(area + segment->size, PAGE, PROT_READ);
    segment->base = area;
    return 0;
}

unsigned long long pc_process_start_time(long pid)
{
    char path[64], text[1024];
    unsigned long long ticks = 0;
    const char *at;
    ssize_t size;
    int fd;

    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size < 0 ? 0 : size] = '\0';
    at = strrchr(text, ')'); /* the name before it may hold anything */
    if (at == NULL ||
        sscanf(at + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
               &ticks) != 1)
        return 0;
    return ticks;
}

static void name_of(char *name, size_t capacity, long pid, unsigned long long started, unsigned number)
{
    snprintf(name, capacity, "/" NAME_PREFIX "%ld.%llu.%u", pid, started, number);
}

static int open_named(void)
{
    static _Atomic unsigned counter;
    char name[96];
    int fd;

    name_of(name, sizeof name, getpid(), pc_process_start_time(getpid()), atomic_fetch_add(&counter, 1));
    fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    shm_unlink(name);
    return fd;
}

static int open_memory(bool prefer_memfd)
{
    int fd = prefer_memfd ? -ENOSPC : open_named();

    if (fd < 0)
        fd = memfd_create("pycrew", MFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

void pc_segment_remove_leftovers(void)
{
    DIR *directory = opendir("/dev/shm");
    struct dirent *entry;

    if (directory == NULL)
        return;
    while ((entry = readdir(directory)) != NULL) {
        long pid;
        unsigned long long started;
        unsigned number;
        char name[96];

        if (sscanf(entry->d_name, NAME_PREFIX "%ld.%llu.%u", &pid, &started, &number) != 3 || pid <= 0)
            continue;
        name_of(name, sizeof name, pid, started, number);
        if (strcmp(name + 1, entry->d_name) != 0) /* a name that only begins like ours */
            continue;
        if (kill((pid_t)pid, 0) < 0 ? errno != ESRCH : pc_process_start_time(pid) == started)
            continue;
        shm_unlink(name);
    }
    closedir(directory);
}

/* Past RLIMIT_FSIZE (ulimit -f) it would be SIGXFSZ, whose default is death. */
static int set_size(const pc_segment *segment)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && segment->size > limit.rlim_cur)
        return -EFBIG;
    return ftruncate(segment->fd, (off_t)segment->size) < 0 ? -errno : 0;
}

static int create_at(pc_segment *segment)
{
    int rc = set_size(segment);

    if (rc == 0)
        do /* a signal may end it: posix_fallocate(3) */
            rc = -posix_fallocate(segment->fd, 0, (off_t)pc_segment_fixed_size(&segment->config));
        while (rc == -EINTR);
    if (rc == 0)
        rc = map_with_guard(segment);
    return rc == -ENOSPC ? -ENOMEM : rc;
}

static void note_identity(pc_segment *segment)
{
    struct stat status;

    if (fstat(segment->fd, &status) < 0)
        return; /* and it never is ours */
    segment->device = status.st_dev;
    segment->inode = status.st_ino;
}

bool pc_segment_fd_is_ours(const pc_segment *segment)
{
    struct stat status;

    return segment->fd >= 0 && fstat(segment->fd, &status) == 0 &&
           status.st_dev == segment->device && status.st_ino == segment->inode;
}

int pc_segment_create(pc_segment *ret, const pc_config *config, bool prefer_memfd)
{
    pc_segment segment = {.config = *config, .host = true};
    int rc;

    segment.size = pc_segment_fixed_size(config) + config->spans * PC_SPAN_SIZE;
    segment.fd = open_memory(prefer_memfd);
    if (segment.fd < 0)
        return segment.fd;
    rc = create_at(&segment);
    if (rc < 0) {
        close(segment.fd);
        return rc == -ENOMEM && !prefer_memfd ? pc_segment_create(ret, config, true) : rc;
    }
    set_pointers(&segment);
    note_identity(&segment);
    pc_segment_restore(&segment);
    *ret = segment;
    return 0;
}

void pc_segment_restore(pc_segment *segment)
{
    segment->header->layout_hash = PC_LAYOUT_HASH;
    memset(segment->header->version, 0, PC_VERSION_SIZE);
    memcpy(segment->header->version, PACKAGE_VERSION, sizeof PACKAGE_VERSION - 1);
    segment->header->config = segment->config;
}

bool pc_segment_intact(const pc_segment *segment)
{
    return segment->header->layout_hash == PC_LAYOUT_HASH &&
           memcmp(&segment->header->config, &segment->config, sizeof segment->config) == 0;
}

/* A page that is not resident may be swapped out, which is no hole. */
static bool is_hole(const pc_segment *segment, uint64_t offset)
{
    off_t hole = lseek(segment->fd, (off_t)offset, SEEK_HOLE);

    return hole >= 0 && (uint64_t)hole < offset + PAGE;
}

/* EAGAIN: the kernel has no page to answer in, at the moment. */
static bool ask_residency(const pc_segment *segment, uint64_t at, size_t size, unsigned char *resident)
{
    for (unsigned i = 0; i < RESIDENCY_TRIES; i++) {
        if (mincore(segment->base + at, size, resident) == 0)
            return true;
        if (errno != EAGAIN)
            return false;
        sched_yield();
    }
    return false;
}

bool pc_segment_readable(const pc_segment *segment, uint64_t offset, uint64_t size)
{
    unsigned char resident[512];
    uint64_t at = offset / PAGE * PAGE, end = offset + size;

    while (at < end) {
        size_t pages = (end - at + PAGE - 1) / PAGE;

        if (pages > sizeof resident)
            pages = sizeof resident;
        if (!ask_residency(segment, at, pages * PAGE, resident))
            return false;
        for (size_t i = 0; i < pages; i++, at += PAGE)
            if (!(resident[i] & 1) && is_hole(segment, at))
                return false;
    }
    return true;
}

int pc_segment_map(pc_segment *ret, int fd)
{
    pc_segment segment = {.fd = fd};
    pc_header head;
    struct stat status;
    int rc;

    if (pread(fd, &head, sizeof head, 0) != (ssize_t)sizeof head || fstat(fd, &status) < 0)
        return -EPROTO;
    if (head.layout_hash != PC_LAYOUT_HASH)
        return -EPROTO;
    segment.config = head.config;
    segment.size = pc_segment_fixed_size(&head.config) + head.config.spans * PC_SPAN_SIZE;
    if ((size_t)status.st_size != segment.size)
        return -EPROTO;
    rc = map_with_guard(&segment);
    if (rc < 0)
        return rc;
    set_pointers(&segment);
    *ret = segment;
    return 0;
}

enum { LIKELY_SLOTS = 1 << 20, LIKELY_QUEUES = 1 << 16, LIKELY_TRACE = 1 << 14 };
#define LIKELY_SIZE ((size_t)2 << 30) /* of all but the spans */

bool pc_segment_is_likely(const pc_config *config, uint64_t size)
{
    return config->workers > 0 && config->workers <= PC_WORKERS_MAX && config->slots > 0 &&
           config->slots <= LIKELY_SLOTS && (config->slots & (config->slots - 1)) == 0 &&
           config->queues > 0 && config->queues <= LIKELY_QUEUES &&
           config->trace <= LIKELY_TRACE && pc_segment_fixed_size(config) <= LIKELY_SIZE &&
           size == pc_segment_fixed_size(config) + config->spans * PC_SPAN_SIZE;
}

void pc_segment_at_copy(pc_segment *ret, const pc_config *config, void *base)
{
    *ret = (pc_segment){.config = *config, .base = base, .fd = -1};
    ret->size = pc_segment_fixed_size(config) + config->spans * PC_SPAN_SIZE;
    set_pointers(ret);
}

void pc_segment_unmap(pc_segment *segment)
{
    if (segment->base != NULL)
        munmap(segment->base, segment->size + PAGE);
    if (segment->fd >= 0)
        close(segment->fd);
    *segment = (pc_segment){.fd = -1};
}
