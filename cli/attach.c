#include "cli/attach.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cli/json.h"
#include "lib/shm/control.h"

/* ---- processes ------------------------------------------------------------------------------- */

/* A file of /proc, whole or its beginning; -1: it is not there. */
static ssize_t read_file(const char *path, char *text, size_t capacity)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t got = -1;
    if (fd < 0)
        return -1;
    while (size < capacity - 1 && (got = read(fd, text + size, capacity - 1 - size)) > 0)
        size += (size_t)got;
    close(fd);
    text[size] = '\0';
    return got < 0 ? -1 : (ssize_t)size;
}

bool attach_process(pid_t pid, struct process *ret)
{
    char path[64], text[1024], state;
    long long rss;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (pid <= 0 || read_file(path, text, sizeof text) < 0)
        return false;
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    if (at == NULL || sscanf(at + 1,
                             " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
                             "%*d %*d %llu %*u %lld",
                             &state, &ret->parent, &ret->started, &rss) != 4)
        return false;
    ret->rss = rss > 0 ? (uint64_t)rss * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
    return state != 'Z' && state != 'X';
}

bool attach_is_worker(const struct attached *attached, pid_t pid, const struct process *process)
{
    struct process zygote;
    return attached->place.host_pid == attached->place.pid && pid > 1 &&
           pid != attached->place.pid && attach_process(process->parent, &zygote) &&
           zygote.parent == attached->place.pid;
}

/* Of valid UTF-8. C1 is U+0080 to U+009F, which terminals obey. */
static bool is_printable(const char *text, bool newlines)
{
    bool is_c1 = text[0] == '\xc2' && (unsigned char)text[1] < 0xa0;
    return text[0] == '\n' ? newlines : (unsigned char)text[0] >= ' ' && text[0] != 0x7f && !is_c1;
}

void attach_add_text(struct buffer *to, const char *text, size_t size, bool newlines)
{
    while (size > 0) {
        size_t good = utf8_prefix((struct slice){text, size}), plain = 0;
        while (plain < good && is_printable(text + plain, newlines))
            plain++;
        buffer_add(to, text, plain);
        if (plain == size)
            return;
        buffer_byte(to, '?');
        plain += plain < good && text[plain] == '\xc2' ? 2 : 1;
        text += plain;
        size -= plain;
    }
}

void attach_command_line(pid_t pid, struct buffer *to, size_t limit)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)pid);
    ssize_t size = read_file(path, text, sizeof text);
    while (size > 0 && text[size - 1] == '\0')
        size--;
    for (ssize_t i = 0; i < size; i++)
        if (text[i] == '\0')
            text[i] = ' ';
    if (size > (ssize_t)limit)
        size = (ssize_t)limit;
    while (size > 0 && size == (ssize_t)limit && (text[size] & 0xc0) == 0x80)
        size--; /* not in the middle of a character */
    attach_add_text(to, text, size > 0 ? (size_t)size : 0, false);
}

/* ---- finding --------------------------------------------------------------------------------- */

static bool is_segment_name(const char *link)
{
    const char *name = strrchr(link, '/');
    long pid;
    unsigned long long started;
    unsigned number;
    if (strncmp(link, "/memfd:pycrew (", 15) == 0)
        return true;
    return name != NULL && sscanf(name, "/pycrew.%ld.%llu.%u", &pid, &started, &number) == 3;
}

/* The innermost number that a process has: how it calls itself in a container. */
static pid_t own_number(pid_t pid)
{
    char path[64], text[8192];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    if (read_file(path, text, sizeof text) < 0)
        return pid;
    char *at = strstr(text, "\nNSpid:");
    if (at == NULL)
        return pid;
    at[1 + strcspn(at + 1, "\n")] = '\0';
    at = strrchr(at, '\t');
    return at != NULL ? (pid_t)atol(at) : pid;
}

static int open_place(pid_t pid, int number, struct stat *status)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)pid, number);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0 && (fstat(fd, status) < 0 || !S_ISREG(status->st_mode))) {
        close(fd);
        errno = EBADF;
        return -1;
    }
    return fd;
}

/* Of a layout that is not ours something else may stand there. */
static void take_version(struct crew_place *place, const char *text)
{
    static const char letters[] = "0123456789.+~-abcdefghijklmnopqrstuvwxyz";
    size_t size = strnlen(text, PC_VERSION_SIZE);
    memcpy(place->version, text, size);
    place->version[size] = '\0';
    if (strspn(place->version, letters) != size)
        place->version[0] = '\0';
}

static bool read_place(struct crew_place *place)
{
    pc_header head;
    struct stat status;
    int fd = open_place(place->pid, place->fd, &status);
    if (fd < 0)
        return false;
    bool whole = pread(fd, &head, sizeof head, 0) == (ssize_t)sizeof head;
    close(fd);
    if (!whole)
        return false;
    take_version(place, head.version);
    place->device = status.st_dev;
    place->inode = status.st_ino;
    place->layout = head.layout_hash;
    place->host_pid = place->pid;
    if (place->layout == PC_LAYOUT_HASH) {
        place->host_pid = (pid_t)head.config.host_pid;
        place->workers = head.config.workers;
    }
    return true;
}

static bool is_known(const struct crew_places *places, const struct crew_place *place)
{
    for (size_t i = 0; i < places->count; i++)
        if (places->place[i].pid == place->pid && places->place[i].device == place->device &&
            places->place[i].inode == place->inode)
            return true;
    return false;
}

static int compare_places(const void *a, const void *b)
{
    const struct crew_place *one = a, *other = b;
    if (one->pid != other->pid)
        return one->pid < other->pid ? -1 : 1;
    return (one->fd > other->fd) - (one->fd < other->fd);
}

static void add_place(struct crew_places *places, const struct crew_place *place)
{
    places->place = reallocate(places->place, (places->count + 1) * sizeof places->place[0]);
    places->place[places->count++] = *place;
}

static int find_in(pid_t pid, struct crew_places *places)
{
    char path[64], link[PATH_MAX];
    pid_t number = own_number(pid);
    struct dirent *entry;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    if (directory == NULL)
        return errno == ENOENT ? -ESRCH : -errno;
    while ((entry = readdir(directory)) != NULL) {
        struct crew_place place = {.pid = pid, .fd = atoi(entry->d_name)};
        ssize_t size = readlinkat(dirfd(directory), entry->d_name, link, sizeof link - 1);
        link[size > 0 ? size : 0] = '\0';
        if (size > 0 && is_segment_name(link) && read_place(&place) &&
            place.layout != 0 && /* 0: it is being made */
            (place.host_pid == number || place.layout != PC_LAYOUT_HASH) &&
            !is_known(places, &place))
            add_place(places, &place);
    }
    closedir(directory);
    return 0;
}

int attach_find(pid_t pid, struct crew_places *ret)
{
    struct dirent *entry;
    int rc = 0;
    *ret = (struct crew_places){0};
    if (pid != 0) {
        rc = find_in(pid, ret);
    } else {
        DIR *directory = opendir("/proc");
        while (directory != NULL && (entry = readdir(directory)) != NULL)
            if (atoi(entry->d_name) > 0)
                find_in(atoi(entry->d_name), ret); /* who may not be looked into has none for us */
        if (directory != NULL)
            closedir(directory);
    }
    if (ret->count > 1)
        qsort(ret->place, ret->count, sizeof ret->place[0], compare_places);
    return rc;
}

void attach_forget(struct crew_places *places)
{
    free(places->place);
    *places = (struct crew_places){0};
}

/* ---- looking --------------------------------------------------------------------------------- */

static bool host_is_there(const struct attached *attached)
{
    struct process host;
    return attach_process(attached->place.pid, &host) && host.started == attached->started;
}

/* Opens it, if it still is what it was. */
static enum attach_end open_again(struct attached *attached, struct stat *status)
{
    attached->fd = open_place(attached->place.pid, attached->place.fd, status);
    int error = errno;
    if (!host_is_there(attached))
        return ATTACH_ENDED;
    if (attached->fd < 0)
        return error == EACCES || error == EPERM ? ATTACH_REFUSED : ATTACH_CLOSED;
    if (status->st_dev != attached->place.device || status->st_ino != attached->place.inode)
        return ATTACH_CLOSED;
    return ATTACH_THERE;
}

static bool read_whole(int fd, void *to, size_t size, uint64_t offset)
{
    for (size_t done = 0; done < size;) {
        ssize_t got = pread(fd, (char *)to + done, size - done, (off_t)(offset + done));
        if (got <= 0 && !(got < 0 && errno == EINTR))
            return false;
        done += got > 0 ? (size_t)got : 0;
    }
    return true;
}

/* The first time; after that the counts are known, and another value is damage. */
static enum attach_end learn_counts(struct attached *attached, uint64_t size)
{
    pc_header head;
    if (!read_whole(attached->fd, &head, sizeof head, 0))
        return ATTACH_DAMAGED;
    if (head.layout_hash != PC_LAYOUT_HASH)
        return ATTACH_OTHER;
    if (!pc_segment_is_likely(&head.config, size))
        return ATTACH_DAMAGED;
    attached->memory = allocate(pc_segment_fixed_size(&head.config));
    pc_segment_at_copy(&attached->segment, &head.config, attached->memory);
    return ATTACH_THERE;
}

enum attach_end attach_look(struct attached *attached)
{
    struct stat status;
    enum attach_end end = open_again(attached, &status);
    if (end == ATTACH_THERE && attached->memory == NULL)
        end = learn_counts(attached, (uint64_t)status.st_size);
    if (end != ATTACH_THERE)
        return end;
    attached->resident = (uint64_t)status.st_blocks * 512;
    if (!read_whole(attached->fd, attached->memory, attached->segment.spans_offset, 0) ||
        !pc_segment_intact(&attached->segment))
        return host_is_there(attached) ? ATTACH_DAMAGED : ATTACH_ENDED;
    return ATTACH_THERE;
}

void attach_end_look(struct attached *attached)
{
    if (attached->fd >= 0)
        close(attached->fd);
    attached->fd = -1;
}

enum attach_end attach_open(struct attached *ret, const struct crew_place *place)
{
    struct process host;
    *ret = (struct attached){.place = *place, .fd = -1};
    if (!attach_process(place->pid, &host))
        return ATTACH_ENDED;
    ret->started = host.started;
    return attach_look(ret);
}

void attach_close(struct attached *attached)
{
    attach_end_look(attached);
    free(attached->memory);
    attached->memory = NULL;
}

bool attach_peek(const struct attached *attached, uint64_t offset, void *to, size_t size)
{
    return pc_segment_holds(&attached->segment, offset, size) &&
           read_whole(attached->fd, to, size, offset);
}

void attach_function_name(const struct attached *attached, uint32_t number, struct buffer *to)
{
    enum { NAME_MAX_SHOWN = 200 };
    const pc_header *header = attached->segment.header;
    pc_function_block block;
    uint64_t page, at;
    char name[NAME_MAX_SHOWN];
    if (number < PC_FUNCTION_PAGES * PC_FUNCTION_PAGE) {
        page = atomic_load(&header->function_pages[number / PC_FUNCTION_PAGE]);
        if (page != 0 &&
            attach_peek(attached, page + number % PC_FUNCTION_PAGE * sizeof at, &at, sizeof at) &&
            attach_peek(attached, at, &block, sizeof block) && block.name_size > 0) {
            size_t size = block.name_size < sizeof name ? block.name_size : sizeof name;
            if (attach_peek(attached, at + offsetof(pc_function_block, text), name, size)) {
                attach_add_text(to, name, strnlen(name, size), false);
                return;
            }
        }
    }
    buffer_byte(to, '?');
}

/* ---- stacks ---------------------------------------------------------------------------------- */

enum { STACK_SIGNAL_BELOW_MAX = 2, STACK_WAIT_MS = 1000 };

static int stack_signal(void)
{
    return SIGRTMAX - STACK_SIGNAL_BELOW_MAX;
}

/* Where the handler was taken away (by exec, by user code), the signal would end the process. */
static bool is_caught(pid_t pid)
{
    char path[64], text[8192];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    const char *at = read_file(path, text, sizeof text) > 0 ? strstr(text, "\nSigCgt:") : NULL;
    unsigned long long caught;
    return at != NULL && sscanf(at, "\nSigCgt: %llx", &caught) == 1 &&
           (caught >> (stack_signal() - 1) & 1) != 0;
}

/* The worker's own descriptor of the file that its stacks go to. */
static int open_fault_file(pid_t pid, off_t *size)
{
    static const char wanted[] = "/memfd:pycrew-fault (";
    char path[64], link[PATH_MAX];
    struct dirent *entry;
    struct stat status;
    int fd = -1;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *directory = opendir(path);
    while (directory != NULL && fd < 0 && (entry = readdir(directory)) != NULL) {
        ssize_t length = readlinkat(dirfd(directory), entry->d_name, link, sizeof link - 1);
        if (length >= (ssize_t)sizeof wanted - 1 && memcmp(link, wanted, sizeof wanted - 1) == 0)
            fd = open_place(pid, atoi(entry->d_name), &status);
    }
    if (directory != NULL)
        closedir(directory);
    *size = fd >= 0 ? status.st_size : 0;
    return fd;
}

/* The answer stands at the beginning of the worker's part, whichever that is: it has our number. */
static off_t find_answer(int fd, off_t file_size, const char *line)
{
    size_t size = strlen(line);
    char text[64];
    for (off_t part = 0; part < 2 * PC_WORKERS_MAX && (part + 1) * PC_FAULT_SIZE <= file_size;
         part++)
        if (pread(fd, text, size, part * PC_FAULT_SIZE) == (ssize_t)size &&
            memcmp(text, line, size) == 0)
            return part * PC_FAULT_SIZE;
    return -1;
}

/* true: all of it is there. */
static bool read_answer(int fd, off_t at, size_t skip, struct buffer *to)
{
    char *text = allocate(PC_FAULT_SIZE + 1);
    ssize_t size = pread(fd, text, PC_FAULT_SIZE, at);
    text[size > 0 ? size : 0] = '\0';
    char *end = size > (ssize_t)skip ? strstr(text + skip, PC_STACK_END) : NULL;
    if (end != NULL)
        attach_add_text(to, text + skip, (size_t)(end - text) - skip, true);
    free(text);
    return end != NULL;
}

static bool ask(int pidfd, uint32_t number)
{
    siginfo_t info = {0};
    info.si_signo = stack_signal();
    info.si_code = SI_QUEUE;
    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = (int)number;
    return syscall(SYS_pidfd_send_signal, pidfd, info.si_signo, &info, 0) == 0;
}

static bool await_answer(int pidfd, int fd, off_t size, const char *line, struct buffer *to)
{
    static const struct timespec pause = {.tv_nsec = 1000000};
    for (unsigned i = 0; i < STACK_WAIT_MS; i++) {
        off_t at = find_answer(fd, size, line);
        if (at >= 0 && read_answer(fd, at, strlen(line), to))
            return true;
        if (syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) < 0)
            return false;
        nanosleep(&pause, NULL);
    }
    return false;
}

static const char *ask_worker(const struct attached *attached, pid_t worker, int pidfd,
                              struct buffer *to)
{
    char line[64];
    uint32_t number = 0;
    off_t size;
    struct process process;
    /* Behind pidfd_open: so it is this process that we have seen, and no other of its number. */
    if (!attach_process(worker, &process) || !attach_is_worker(attached, worker, &process))
        return "the worker has ended";
    if (!is_caught(worker))
        return "it has no handler for the signal that asks for it";
    int fd = open_fault_file(worker, &size);
    if (fd < 0)
        return "it has closed the file that stacks are written to";
    while (number == 0)
        if (getrandom(&number, sizeof number, 0) != sizeof number)
            number = (uint32_t)getpid();
    snprintf(line, sizeof line, PC_STACK_ASKED "%08x\n", number);
    bool answered = ask(pidfd, number) && await_answer(pidfd, fd, size, line, to);
    close(fd);
    return answered ? NULL : "it did not answer within a second: it is stopped, or has just ended";
}

const char *attach_stack(const struct attached *attached, pid_t worker, struct buffer *to)
{
    if (attached->place.host_pid != attached->place.pid)
        return "the crew is in another PID namespace: pycrew top can ask from inside it";
    int pidfd = worker > 0 ? (int)syscall(SYS_pidfd_open, worker, 0) : -1;
    if (pidfd < 0)
        return "the worker has ended";
    const char *problem = ask_worker(attached, worker, pidfd, to);
    close(pidfd);
    return problem;
}
