/* cut: loaded before the C library into pycrew, ends it at the CUT_AT-th call that changes a file.
 *
 *   CUT_HOW=half   a write does half of what it was to do; all else does nothing
 *   CUT_HOW=power  nothing is done, and what no fsync has brought to the disk is gone: files are as
 *                  long as at their last one, and a file that was renamed without one is empty */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILES_MAX = 4096 };

/* The command writes from one thread. */
static struct file {
    ino_t inode;
    off_t synced;
    int fd; /* our own, so that it can be cut whatever the command has closed */
} files[FILES_MAX];
static int file_count;
static long calls, cut_at = -1;

static ssize_t (*next_write)(int, const void *, size_t);
static int (*next_fsync)(int), (*next_fdatasync)(int), (*next_rename)(const char *, const char *);
static int (*next_ftruncate)(int, off_t);

static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void start(void)
{
    const char *at = getenv("CUT_AT"), *name = program_invocation_short_name;
    *(void **)&next_write = next("write");
    *(void **)&next_fsync = next("fsync");
    *(void **)&next_fdatasync = next("fdatasync");
    *(void **)&next_rename = next("rename");
    *(void **)&next_ftruncate = next("ftruncate");
    if (at != NULL && (strcmp(name, "pycrew") == 0 || strcmp(name, "lt-pycrew") == 0))
        cut_at = atol(at);
}

static bool is_power(void)
{
    return strcmp(getenv("CUT_HOW"), "power") == 0;
}

static bool is_file(int fd, struct stat *status)
{
    return cut_at > 0 && fstat(fd, status) == 0 && S_ISREG(status->st_mode) && status->st_nlink > 0;
}

/* What a file was when it was first seen is on the disk. */
static struct file *file_of(int fd, const struct stat *status)
{
    char path[64];
    for (int i = 0; i < file_count; i++)
        if (files[i].inode == status->st_ino)
            return &files[i];
    if (file_count == FILES_MAX)
        abort();
    strcpy(path, "/proc/self/fd/");
    int digits = 0;
    for (int left = fd; left > 0 || digits == 0; left /= 10)
        digits++;
    for (int i = digits, left = fd; i > 0; i--, left /= 10)
        path[14 + i - 1] = (char)('0' + left % 10);
    path[14 + digits] = '\0';
    files[file_count] =
        (struct file){status->st_ino, status->st_size, open(path, O_WRONLY | O_CLOEXEC)};
    return &files[file_count++];
}

static void lose_what_is_not_synced(void)
{
    for (int i = 0; i < file_count; i++)
        (void)!next_ftruncate(files[i].fd, files[i].synced);
}

static bool is_last(void)
{
    return ++calls == cut_at;
}

static void end(void)
{
    if (is_power())
        lose_what_is_not_synced();
    kill(getpid(), SIGKILL);
}

ssize_t write(int fd, const void *data, size_t size)
{
    struct stat status;
    if (is_file(fd, &status)) {
        file_of(fd, &status);
        if (is_last()) {
            if (!is_power())
                (void)!next_write(fd, data, size / 2);
            end();
        }
    }
    return next_write(fd, data, size);
}

static int synced(int fd, int (*sync)(int))
{
    struct stat status;
    bool file = is_file(fd, &status);
    if (file && is_last())
        end();
    int r = sync(fd);
    if (file && r == 0)
        file_of(fd, &status)->synced = status.st_size;
    return r;
}

int fsync(int fd)
{
    return synced(fd, next_fsync);
}

int fdatasync(int fd)
{
    return synced(fd, next_fdatasync);
}

int rename(const char *from, const char *to)
{
    if (cut_at > 0 && is_last())
        end();
    return next_rename(from, to);
}

/* Takes effect at once: the worst for what is shorter. */
int ftruncate(int fd, off_t size)
{
    struct stat status;
    bool file = is_file(fd, &status);
    if (file && is_last())
        end();
    int r = next_ftruncate(fd, size);
    if (file && r == 0 && file_of(fd, &status)->synced > size)
        file_of(fd, &status)->synced = size;
    return r;
}
