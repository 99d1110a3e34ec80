/* identity: what a map is about. */
#include "cli/identity.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "cli/console.h"
#include "cli/json.h"

enum { HEAD_SIZE = 64 * 1024 };

static void add_key(struct buffer *to, const char *key)
{
    buffer_text(to, to->size > 1 ? ", " : "");
    json_quote(to, (struct slice){key, strlen(key)});
    buffer_text(to, ": ");
}

static void add_text(struct buffer *to, const char *key, const char *text)
{
    add_key(to, key);
    if (text != NULL)
        json_quote(to, (struct slice){text, strlen(text)});
    else
        buffer_text(to, "null");
}

static void add_number(struct buffer *to, const char *key, uint64_t number)
{
    add_key(to, key);
    buffer_print(to, "%" PRIu64, number);
}

static void add_flag(struct buffer *to, const char *key, bool flag)
{
    add_key(to, key);
    buffer_text(to, flag ? "true" : "false");
}

static void add_options(struct buffer *to, const struct options *options)
{
    static const char *const inputs[] = {"by name", "jsonl", "csv", "tsv", "lines", "nul"};
    static const char *const formats[] = {"", "jsonl", "lines", "csv", "tsv", "nul"};
    static const char *const nans[] = {"literal", "null", "error"};
    add_text(to, "the function", options->function);
    add_text(to, "--input", inputs[options->input]);
    add_flag(to, "--infer", options->infer);
    add_flag(to, "--files", options->files);
    add_flag(to, "--star", options->star);
    add_flag(to, "--kwargs", options->kwargs);
    add_number(to, "--whole", options->whole);
    add_flag(to, "--flatten", options->output.flatten);
    add_text(to, "--from-errors", options->from_errors);
    add_flag(to, "--unordered", options->unordered);
    add_text(to, "--format", formats[options->output.format]);
    add_text(to, "--output", options->output_file);
    add_text(to, "--errors", options->errors_file);
    add_flag(to, "--index", options->output.index);
    add_flag(to, "--with-input", options->output.input);
    add_text(to, "--nan", nans[options->output.nan]);
}

/* Of the first bytes. 0 or a negative errno. */
static int sum_head(const char *path, uint32_t *ret)
{
    static unsigned char head[HEAD_SIZE];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return -errno;
    ssize_t got = pread(fd, head, HEAD_SIZE, 0);
    int r = got < 0 ? -errno : 0;
    *ret = (uint32_t)crc32(0, head, got > 0 ? (uInt)got : 0);
    close(fd);
    return r;
}

static int add_file(struct buffer *to, const char *path, size_t number)
{
    struct stat status;
    struct buffer key = {0};
    uint32_t sum = 0;
    if (strcmp(path, "-") == 0) {
        say("--checkpoint: stdin cannot be read a second time; name the file");
        return 2;
    }
    int r = stat(path, &status) == 0 ? 0 : -errno;
    if (r == 0 && !S_ISREG(status.st_mode)) {
        say("--checkpoint: %s is no regular file, and cannot be read a second time", path);
        return 2;
    }
    if (r == 0)
        r = sum_head(path, &sum);
    if (r < 0) {
        say("%s: %s", path, strerror(-r));
        return 2;
    }
    buffer_print(&key, "file %zu", number + 1);
    add_text(to, buffer_string(&key), path);
    buffer_clear(&key);
    buffer_print(&key, "%s: its size", path);
    add_number(to, buffer_string(&key), (uint64_t)status.st_size);
    buffer_clear(&key);
    buffer_print(&key, "%s: its time of modification", path);
    add_key(to, buffer_string(&key));
    buffer_print(to, "\"%lld.%09ld\"", (long long)status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
    buffer_clear(&key);
    buffer_print(&key, "%s: the sum of its first 64 KiB", path);
    add_number(to, buffer_string(&key), sum);
    buffer_free(&key);
    return 0;
}

/* Paths that are records themselves may be a million, and are not looked into. */
static void add_paths(struct buffer *to, char **files, size_t count)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum = (uint32_t)crc32(sum, (const unsigned char *)files[i], (uInt)strlen(files[i]) + 1);
    add_number(to, "the sum of the FILEs' names", sum);
}

int identity_make(struct buffer *to, const struct options *options, char **files, size_t count)
{
    int code = 0;
    buffer_text(to, "{");
    add_options(to, options);
    add_number(to, "the number of FILEs", count);
    if (options->files)
        add_paths(to, files, count);
    for (size_t i = 0; i < count && code == 0 && !options->files; i++)
        code = add_file(to, files[i], i);
    buffer_text(to, "}");
    return code;
}

static bool same(struct slice a, struct slice b)
{
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

static char *tell(struct slice key, struct slice then, struct slice now)
{
    struct buffer text = {0};
    if (!json_unquote(&text, key))
        buffer_clear(&text);
    buffer_print(&text, " was %.*s, and is %.*s now", (int)then.size, then.data, (int)now.size,
                 now.data);
    buffer_string(&text);
    return text.data;
}

char *identity_difference(struct slice then, struct slice now)
{
    struct json_walk old, new;
    struct slice old_key, old_value, new_key, new_value;
    if (same(then, now))
        return NULL;
    bool open = json_walk_open(&old, then, '{') && json_walk_open(&new, now, '{');
    while (open && json_walk_next(&old, &old_key, &old_value) > 0 &&
           json_walk_next(&new, &new_key, &new_value) > 0) {
        if (!same(old_key, new_key))
            break;
        if (!same(old_value, new_value))
            return tell(new_key, old_value, new_value);
    }
    return copy_bytes("its work is described in another way", 36);
}
