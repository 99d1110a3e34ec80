/* checkpoint: how far a map is, in a file. */
#include "cli/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/json.h"

enum { LAYOUT_NUMBER = 1, FILE_MAX = 1 << 30 };

/* ---- numbers --------------------------------------------------------------------------------- */

static void add_range(struct ranges *ranges, struct range range)
{
    if (ranges->count == ranges->room) {
        ranges->room = ranges->room > 0 ? ranges->room * 2 : 16;
        ranges->items = reallocate(ranges->items, ranges->room * sizeof(*ranges->items));
    }
    ranges->items[ranges->count++] = range;
}

void ranges_add(struct ranges *ranges, uint64_t number)
{
    struct range *last = ranges->count > 0 ? &ranges->items[ranges->count - 1] : NULL;
    if (last != NULL && last->last + 1 == number)
        last->last = number;
    else
        add_range(ranges, (struct range){number, number});
}

bool ranges_have(const struct ranges *ranges, uint64_t number)
{
    size_t low = 0, high = ranges->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (ranges->items[middle].last < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < ranges->count && ranges->items[low].first <= number;
}

/* ---- the text -------------------------------------------------------------------------------- */

/* Numbers by their names; true and false are 1 and 0. */
struct number {
    const char *name;
    uint64_t value;
};

enum { NUMBERS = 12 };

static void list_numbers(const struct checkpoint *from, struct number to[NUMBERS])
{
    const struct number numbers[NUMBERS] = {{"start_file", from->start.file},
                                            {"start_offset", from->start.offset},
                                            {"start_line", from->start.line},
                                            {"start_number", from->start.number},
                                            {"read", from->read},
                                            {"output_size", from->output.size},
                                            {"output_sum", from->output.sum},
                                            {"errors_size", from->errors.size},
                                            {"errors_sum", from->errors.sum},
                                            {"failed", from->failed},
                                            {"unreadable", from->unreadable},
                                            {"ended", from->ended}};
    memcpy(to, numbers, sizeof(numbers));
}

static void set_numbers(struct checkpoint *to, const struct number from[NUMBERS])
{
    to->start = (struct position){from[0].value, from[1].value, from[2].value, from[3].value};
    to->read = from[4].value;
    to->output = (struct mark){from[5].value, (uint32_t)from[6].value};
    to->errors = (struct mark){from[7].value, (uint32_t)from[8].value};
    to->failed = from[9].value;
    to->unreadable = from[10].value != 0;
    to->ended = from[11].value != 0;
}

static void write_text(struct buffer *to, const struct checkpoint *checkpoint, struct slice work)
{
    struct number numbers[NUMBERS];
    list_numbers(checkpoint, numbers);
    buffer_print(to, "{\"pycrew_checkpoint\": %d,\n\"work\": ", LAYOUT_NUMBER);
    buffer_add(to, work.data, work.size);
    for (size_t i = 0; i < NUMBERS; i++)
        buffer_print(to, ",\n\"%s\": %llu", numbers[i].name, (unsigned long long)numbers[i].value);
    buffer_text(to, ",\n\"unfinished\": [");
    for (size_t i = 0; i < checkpoint->unfinished.count; i++) {
        struct range range = checkpoint->unfinished.items[i];
        buffer_print(to, "%s[%llu, %llu]", i == 0 ? "" : ", ", (unsigned long long)range.first,
                     (unsigned long long)range.last);
    }
    char kind = checkpoint->row_kind;
    buffer_print(to, "],\n\"rows\": \"%.1s\",\n\"columns\": ", kind != 0 ? &kind : "");
    if (checkpoint->columns.size > 0)
        buffer_add(to, checkpoint->columns.data, checkpoint->columns.size);
    else
        buffer_text(to, "null");
    buffer_text(to, "}\n");
}

static bool is(struct slice key, const char *name)
{
    size_t size = strlen(name);
    return key.size == size + 2 && memcmp(key.data + 1, name, size) == 0;
}

static bool read_number(struct slice value, uint64_t *ret)
{
    char digits[24] = "";
    char *end;
    if (value.size == 0 || value.size >= sizeof(digits))
        return false;
    memcpy(digits, value.data, value.size);
    *ret = strtoull(digits, &end, 10);
    return *end == '\0';
}

static bool read_range(struct slice value, struct range *ret)
{
    struct json_walk walk;
    struct slice first, last;
    return json_walk_open(&walk, value, '[') && json_walk_next(&walk, NULL, &first) > 0 &&
           json_walk_next(&walk, NULL, &last) > 0 && read_number(first, &ret->first) &&
           read_number(last, &ret->last) && ret->first <= ret->last;
}

static bool read_ranges(struct slice value, struct ranges *to)
{
    struct json_walk walk;
    struct slice item;
    struct range range;
    if (!json_walk_open(&walk, value, '['))
        return false;
    while (json_walk_next(&walk, NULL, &item) > 0) {
        if (!read_range(item, &range))
            return false;
        add_range(to, range);
    }
    return true;
}

/* true: the key is one of the numbers. */
static bool take_number(struct number numbers[NUMBERS], struct slice key, struct slice value,
                        unsigned *found)
{
    for (size_t i = 0; i < NUMBERS; i++)
        if (is(key, numbers[i].name) && read_number(value, &numbers[i].value)) {
            *found |= 1u << i;
            return true;
        }
    return false;
}

static bool read_text(struct slice text, struct checkpoint *to, struct buffer *work)
{
    struct json_walk walk;
    struct slice key, value;
    struct number numbers[NUMBERS];
    unsigned found = 0;
    uint64_t version = 0;
    bool ranges = false;
    int got = -1;
    list_numbers(to, numbers);
    if (!json_walk_open(&walk, text, '{'))
        return false;
    while ((got = json_walk_next(&walk, &key, &value)) > 0) {
        if (take_number(numbers, key, value, &found))
            continue;
        if (is(key, "pycrew_checkpoint"))
            read_number(value, &version);
        else if (is(key, "work"))
            buffer_add(work, value.data, value.size);
        else if (is(key, "unfinished"))
            ranges = read_ranges(value, &to->unfinished);
        else if (is(key, "rows"))
            to->row_kind = value.size == 3 ? value.data[1] : 0;
        else if (is(key, "columns") && value.data[0] == '{')
            buffer_add(&to->columns, value.data, value.size);
    }
    set_numbers(to, numbers);
    return got == 0 && version == LAYOUT_NUMBER && found == (1u << NUMBERS) - 1 && ranges &&
           work->size > 0 && (to->row_kind == '{') == (to->columns.size > 0);
}

/* ---- the file -------------------------------------------------------------------------------- */

static int write_all(int fd, struct slice text)
{
    while (text.size > 0) {
        ssize_t written = write(fd, text.data, text.size);
        if (written < 0 && errno != EINTR)
            return -errno;
        text.data += written > 0 ? written : 0;
        text.size -= written > 0 ? (size_t)written : 0;
    }
    return 0;
}

/* A file's name is its folder's matter: without this a power cut may undo a rename. */
int checkpoint_sync_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash == NULL   ? copy_bytes(".", 1)
                   : slash == path ? copy_bytes("/", 1)
                                   : copy_bytes(path, (size_t)(slash - path));
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = fd < 0 ? -errno : 0;
    if (r == 0 && fsync(fd) != 0 && errno != EINVAL) /* a file system that has no need of it */
        r = -errno;
    if (fd >= 0)
        close(fd);
    free(folder);
    return r;
}

/* On the disk, before it gets its name. */
static int write_new(const char *path, struct slice text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
    if (fd < 0)
        return -errno;
    int r = write_all(fd, text);
    if (r == 0 && fsync(fd) != 0)
        r = -errno;
    if (close(fd) != 0 && r == 0)
        r = -errno;
    return r;
}

int checkpoint_write(const char *path, const struct checkpoint *checkpoint, struct slice work)
{
    struct buffer text = {0}, name = {0};
    write_text(&text, checkpoint, work);
    buffer_print(&name, "%s.new", path);
    int r = write_new(buffer_string(&name), buffer_slice(&text));
    if (r == 0 && rename(buffer_string(&name), path) != 0)
        r = -errno;
    if (r == 0)
        r = checkpoint_sync_name(path);
    else
        unlink(buffer_string(&name));
    buffer_free(&text);
    buffer_free(&name);
    return r;
}

static int read_file(const char *path, struct buffer *to)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    ssize_t got = fd >= 0 ? 1 : -errno;
    while (got > 0 && to->size < FILE_MAX) {
        buffer_reserve(to, 64 * 1024);
        got = read(fd, to->data + to->size, to->room - to->size);
        to->size += got > 0 ? (size_t)got : 0;
    }
    int r = got >= 0 ? 0 : fd >= 0 ? -errno : (int)got;
    if (fd >= 0)
        close(fd);
    return r;
}

int checkpoint_read(const char *path, struct checkpoint *ret, struct buffer *work)
{
    struct buffer text = {0};
    *ret = (struct checkpoint){0};
    int r = read_file(path, &text);
    if (r == 0 && !read_text(buffer_slice(&text), ret, work))
        r = -EBADMSG;
    buffer_free(&text);
    return r;
}

int checkpoint_remove(const char *path)
{
    if (unlink(path) != 0)
        return errno == ENOENT ? 0 : -errno;
    return checkpoint_sync_name(path);
}

void checkpoint_free(struct checkpoint *checkpoint)
{
    free(checkpoint->unfinished.items);
    buffer_free(&checkpoint->columns);
    *checkpoint = (struct checkpoint){0};
}
