/* writer: whole lines to a file or to stdout, in big pieces. */
#include "cli/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/console.h"
#include "cli/signals.h"

enum { ENOUGH = 64 * 1024, TAIL_SIZE = 4096 };

bool writer_is_packed(const char *path)
{
    size_t size = path != NULL ? strlen(path) : 0;
    return size > 3 && strcmp(path + size - 3, ".gz") == 0;
}

/* Creates the file, or opens what is there where that destroys nothing or is asked for. An empty
 * one is what a run leaves that was killed before its first mark. */
static int open_file(struct writer *writer, const char *path, unsigned flags)
{
    int how = O_CLOEXEC | O_NOCTTY | ((flags & WRITER_MARKS) != 0 ? O_RDWR : O_WRONLY);
    struct stat status;
    writer->fd = open(path, how | O_CREAT | O_EXCL, 0666);
    writer->created = writer->fd >= 0;
    if (writer->fd < 0 && errno == EEXIST) {
        bool known = stat(path, &status) == 0, special = known && !S_ISREG(status.st_mode);
        bool empty = known && !special && status.st_size == 0 && (flags & WRITER_MARKS) != 0;
        if (special && (flags & WRITER_MARKS) != 0)
            return -ENOTSUP;
        if ((flags & (WRITER_FORCE | WRITER_RESUME)) == 0 && !special && !empty)
            return -EEXIST;
        writer->fd = open(path, how);
    }
    if (writer->fd < 0)
        return -errno;
    if ((flags & WRITER_MARKS) != 0 && flock(writer->fd, LOCK_EX | LOCK_NB) != 0)
        return errno == EWOULDBLOCK ? -EBUSY : 0; /* a file system without locks: then not */
    return 0;
}

static int open_pack(struct writer *writer)
{
    writer->packed = true; /* 16: a gzip header and trailer */
    int r = deflateInit2(&writer->pack, Z_DEFAULT_COMPRESSION, Z_DEFLATED, MAX_WBITS + 16, 8,
                         Z_DEFAULT_STRATEGY);
    return r == Z_OK ? 0 : -ENOMEM;
}

int writer_open(struct writer *writer, const char *path, unsigned flags)
{
    *writer = (struct writer){.fd = STDOUT_FILENO, .path = path};
    int r = path != NULL ? open_file(writer, path, flags) : 0;
    if (r == 0 && writer_is_packed(path))
        r = open_pack(writer);
    if (r == -EEXIST)
        say("%s exists; --force overwrites it", path);
    else if (r == -ENOTSUP)
        say("%s is no regular file, as --checkpoint needs: else it cannot be cut", path);
    else if (r == -EBUSY)
        say("%s is being written by another pycrew map", path);
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

/* Of the last bytes before the size. 0, or a negative errno: -ESTALE if they are not there. */
static int sum_tail(int fd, uint64_t size, uint32_t *ret)
{
    unsigned char tail[TAIL_SIZE];
    size_t wanted = size < TAIL_SIZE ? (size_t)size : TAIL_SIZE;
    ssize_t got = pread(fd, tail, wanted, (off_t)(size - wanted));
    if (got < 0)
        return -errno;
    *ret = (uint32_t)crc32(0, tail, (uInt)got);
    return (size_t)got == wanted ? 0 : -ESTALE;
}

int writer_check(struct writer *writer, const struct mark *mark)
{
    uint32_t sum;
    int r = sum_tail(writer->fd, mark->size, &sum);
    return r == 0 && sum != mark->sum ? -ESTALE : r;
}

int writer_cut(struct writer *writer, const struct mark *mark, uint64_t *ret_cut)
{
    struct stat status;
    int r = fstat(writer->fd, &status) == 0 ? writer_check(writer, mark) : -errno;
    if (r == 0 && (ftruncate(writer->fd, (off_t)mark->size) != 0 ||
                   lseek(writer->fd, (off_t)mark->size, SEEK_SET) < 0))
        r = -errno;
    if (r < 0)
        return r;
    *ret_cut = (uint64_t)status.st_size - mark->size;
    writer->size = mark->size;
    return 0;
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

/* Packs what is given, and writes what zlib has to say; how: Z_NO_FLUSH, or Z_FINISH. */
static int write_packed(struct writer *writer, struct slice data, int how)
{
    unsigned char made[16 * 1024];
    z_stream *pack = &writer->pack;
    int r = 0, state = Z_OK;
    do {
        uInt piece = data.size < ENOUGH ? (uInt)data.size : ENOUGH; /* zlib counts with 32 bits */
        pack->next_in = (unsigned char *)(uintptr_t)data.data;      /* only read */
        pack->avail_in = piece;
        pack->next_out = made;
        pack->avail_out = sizeof(made);
        state = deflate(pack, piece == data.size ? how : Z_NO_FLUSH);
        data.data += piece - pack->avail_in;
        data.size -= piece - pack->avail_in;
        size_t size = sizeof(made) - pack->avail_out;
        r = write_all(writer->fd, (const char *)made, size);
        writer->size += r == 0 ? size : 0;
    } while (r == 0 &&
             (data.size > 0 || (how == Z_FINISH ? state != Z_STREAM_END : pack->avail_out == 0)));
    writer->in_member = how != Z_FINISH;
    return r;
}

static int write_plain(struct writer *writer, struct slice data)
{
    if (writer->terminal)
        console_hide_bar();
    int r = write_all(writer->fd, data.data, data.size);
    if (writer->terminal)
        console_show_bar();
    writer->size += r == 0 ? data.size : 0;
    return r;
}

int writer_flush(struct writer *writer)
{
    struct slice out = buffer_slice(&writer->out);
    if (writer->error == 0 && out.size > 0)
        writer->error =
            writer->packed ? write_packed(writer, out, Z_NO_FLUSH) : write_plain(writer, out);
    buffer_clear(&writer->out);
    return writer->error;
}

static int end_member(struct writer *writer)
{
    if (writer->error == 0)
        writer->error = write_packed(writer, (struct slice){"", 0}, Z_FINISH);
    deflateReset(&writer->pack);
    return writer->error;
}

int writer_sync(struct writer *writer, struct mark *ret)
{
    int r = writer_flush(writer);
    if (r == 0 && writer->in_member)
        r = end_member(writer);
    if (r == 0 && fdatasync(writer->fd) != 0)
        r = -errno;
    ret->size = writer->size;
    return r == 0 ? sum_tail(writer->fd, writer->size, &ret->sum) : r;
}

int writer_line(struct writer *writer)
{
    return writer->out.size >= ENOUGH ? writer_flush(writer) : writer->error;
}

static void free_all(struct writer *writer)
{
    if (writer->packed)
        deflateEnd(&writer->pack);
    buffer_free(&writer->out);
    writer->fd = -1;
}

int writer_close(struct writer *writer)
{
    int r = writer_flush(writer);
    if (r == 0 && writer->packed && (writer->in_member || writer->size == 0))
        r = end_member(writer); /* nothing at all is a gzip of nothing */
    if (writer->path != NULL && close(writer->fd) != 0 && r == 0)
        r = -errno;
    free_all(writer);
    return r;
}

void writer_abandon(struct writer *writer)
{
    if (writer->path != NULL && writer->fd >= 0)
        close(writer->fd);
    if (writer->created)
        unlink(writer->path);
    free_all(writer);
}
