/* writer: whole lines to a file or to stdout, in big pieces. */
#include "cli/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/signals.h"

enum { ENOUGH = 64 * 1024 };

/* Creates the file, or opens what is there where that destroys nothing or is asked for. */
static int open_file(struct writer *writer, const char *path, bool force)
{
    enum { FLAGS = O_WRONLY | O_CLOEXEC | O_NOCTTY };
    struct stat status;
    writer->fd = open(path, FLAGS | O_CREAT | O_EXCL, 0666);
    writer->created = writer->fd >= 0;
    if (writer->fd < 0 && errno == EEXIST) {
        bool special = stat(path, &status) == 0 && !S_ISREG(status.st_mode);
        if (!force && !special)
            return -EEXIST;
        writer->fd = open(path, FLAGS);
    }
    return writer->fd >= 0 ? 0 : -errno;
}

int writer_open(struct writer *writer, const char *path, bool force)
{
    *writer = (struct writer){.fd = STDOUT_FILENO, .path = path};
    int r = path != NULL ? open_file(writer, path, force) : 0;
    if (r == -EEXIST)
        say("%s exists; --force overwrites it", path);
    else if (r < 0)
        say("%s: %s", path, strerror(-r));
    writer->terminal = r == 0 && isatty(writer->fd) == 1;
    return r < 0 ? 2 : 0;
}

int writer_begin(struct writer *writer)
{
    struct stat status;
    if (writer->path == NULL || fstat(writer->fd, &status) != 0 || !S_ISREG(status.st_mode))
        return 0;
    return ftruncate(writer->fd, 0) == 0 ? 0 : -errno;
}

/* A descriptor that another program has made non-blocking is waited for. */
static int wait_for_room(int fd)
{
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    return poll(&room, 1, -1) >= 0 || errno == EINTR ? 0 : -errno;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t written = write(fd, data, size);
        int r = written >= 0      ? 0
                : errno == EINTR  ? 0
                : errno == EAGAIN ? wait_for_room(fd)
                                  : -errno;
        if (r < 0)
            return r;
        if (written < 0 && signals_stop() == STOP_NOW)
            return -EINTR;
        if (written > 0) {
            data += written;
            size -= (size_t)written;
        }
    }
    return 0;
}

int writer_flush(struct writer *writer)
{
    if (writer->error == 0 && writer->out.size > 0) {
        if (writer->terminal)
            console_hide_bar();
        writer->error = write_all(writer->fd, writer->out.data, writer->out.size);
        if (writer->terminal)
            console_show_bar();
    }
    buffer_clear(&writer->out);
    return writer->error;
}

int writer_line(struct writer *writer)
{
    return writer->out.size >= ENOUGH ? writer_flush(writer) : writer->error;
}

int writer_close(struct writer *writer)
{
    int r = writer_flush(writer);
    if (writer->path != NULL && close(writer->fd) != 0 && r == 0)
        r = -errno;
    buffer_free(&writer->out);
    writer->fd = -1;
    return r;
}

void writer_abandon(struct writer *writer)
{
    if (writer->path != NULL && writer->fd >= 0)
        close(writer->fd);
    if (writer->created)
        unlink(writer->path);
    buffer_free(&writer->out);
}
