/* source: the bytes of an input file, unpacked where it is a gzip. */
#include "cli/source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/buffer.h"

enum { IN_SIZE = 256 * 1024, PIECE_MAX = 1 << 30 };

int source_open(struct source *source, const char *path)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat status;
    if (fd < 0 || fstat(fd, &status) != 0)
        return -errno;
    if (S_ISDIR(status.st_mode)) {
        if (!standard)
            close(fd);
        return -EISDIR;
    }
    *source = (struct source){
        .fd = fd, .may_wait = !S_ISREG(status.st_mode), .between = true, .in = allocate(IN_SIZE)};
    return 0;
}

void source_close(struct source *source)
{
    if (source->in == NULL)
        return;
    if (source->packed)
        inflateEnd(&source->unpack);
    if (source->fd > STDIN_FILENO)
        close(source->fd);
    free(source->in);
    *source = (struct source){.fd = -1};
}

/* read() that does not wait. 0: the end. */
static ssize_t read_now(struct source *source, void *to, size_t room)
{
    struct pollfd ready = {.fd = source->fd, .events = POLLIN};
    if (source->ended)
        return 0;
    if (source->may_wait && poll(&ready, 1, 0) <= 0)
        return -EAGAIN;
    ssize_t got = read(source->fd, to, room);
    if (got < 0)
        return errno == EINTR ? -EAGAIN : -errno;
    source->ended = got == 0;
    source->taken += (uint64_t)got;
    return got;
}

/* Reads on into `in`, behind what is there. */
static ssize_t fill(struct source *source)
{
    if (source->at == source->size)
        source->at = source->size = 0;
    else if (source->at > 0) {
        memmove(source->in, source->in + source->at, source->size - source->at);
        source->size -= source->at;
        source->at = 0;
    }
    ssize_t got = read_now(source, source->in + source->size, IN_SIZE - source->size);
    if (got > 0)
        source->size += (size_t)got;
    return got;
}

/* Whether a gzip's first two bytes are next. false too if there are not two yet. */
static bool magic_is_next(const struct source *source)
{
    return source->size - source->at >= 2 && source->in[source->at] == 0x1F &&
           source->in[source->at + 1] == 0x8B;
}

/* Reads until there are two bytes to look at, or the end. 0 or a negative errno. */
static int look_at_start(struct source *source)
{
    while (source->size - source->at < 2 && !source->ended) {
        ssize_t got = fill(source);
        if (got < 0)
            return (int)got;
    }
    return 0;
}

static int find_kind(struct source *source)
{
    int r = look_at_start(source);
    if (r < 0)
        return r;
    source->known = true;
    if (!magic_is_next(source))
        return 0;
    if (inflateInit2(&source->unpack, MAX_WBITS + 16) != Z_OK) /* 16: a gzip header and trailer */
        return -ENOMEM;
    source->packed = true;
    return 0;
}

static ssize_t read_plain(struct source *source, char *to, size_t room)
{
    size_t left = source->size - source->at;
    if (left == 0)
        return read_now(source, to, room);
    size_t size = left < room ? left : room;
    memcpy(to, source->in + source->at, size);
    source->at += size;
    return (ssize_t)size;
}

/* Between members: 1 there is another, 0 that was all, or a negative errno. Zeros behind the last
 * one are padding, as of tapes. */
static int next_member(struct source *source)
{
    for (;;) {
        while (source->at < source->size && source->in[source->at] == 0)
            source->at++;
        int r = look_at_start(source);
        if (r < 0)
            return r;
        if (source->at == source->size || source->in[source->at] != 0)
            break;
    }
    if (source->at == source->size)
        return 0;
    if (!magic_is_next(source))
        return -EBADMSG;
    source->between = false;
    return inflateReset(&source->unpack) == Z_OK ? 1 : -EBADMSG;
}

/* Unpacks what is in `in`: how many bytes came out, or -EBADMSG. What stood before the damage is
 * handed out first, however much was read at once; zlib says the same again the next time. */
static ssize_t unpack(struct source *source, char *to, size_t room)
{
    size_t piece = room < PIECE_MAX ? room : PIECE_MAX; /* zlib counts with 32 bits */
    z_stream *stream = &source->unpack;
    stream->next_in = source->in + source->at;
    stream->avail_in = (uInt)(source->size - source->at);
    stream->next_out = (unsigned char *)to;
    stream->avail_out = (uInt)piece;
    int r = inflate(stream, Z_NO_FLUSH);
    source->at = source->size - stream->avail_in;
    source->between = r == Z_STREAM_END;
    size_t made = piece - stream->avail_out;
    if (made == 0 && r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
        return -EBADMSG;
    return (ssize_t)made;
}

static ssize_t read_packed(struct source *source, char *to, size_t room)
{
    for (;;) {
        int more = source->between ? next_member(source) : 1;
        if (more <= 0)
            return more;
        size_t before = source->at;
        ssize_t got = unpack(source, to, room);
        if (got != 0)
            return got;
        if (source->between || source->at > before)
            continue;
        if (source->at < source->size) /* neither eats nor gives: not what zlib promises */
            return -EBADMSG;
        got = fill(source);
        if (got < 0)
            return got;
        if (got == 0)
            return -ENODATA;
    }
}

ssize_t source_read(struct source *source, char *to, size_t room)
{
    int r = source->known ? 0 : find_kind(source);
    if (r < 0)
        return r;
    return source->packed ? read_packed(source, to, room) : read_plain(source, to, room);
}

int source_seek(struct source *source, uint64_t offset)
{
    int r = source->known ? 0 : find_kind(source);
    while (r == -EAGAIN && !source->may_wait)
        r = find_kind(source);
    if (r < 0 || source->packed)
        return r;
    if (lseek(source->fd, (off_t)offset, SEEK_SET) < 0)
        return -errno;
    source->at = source->size = 0;
    source->ended = false;
    source->taken = offset;
    return 1;
}
