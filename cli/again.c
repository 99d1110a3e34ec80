/* again: the lines of an --errors file, as the records that they tell of. */
#include "cli/again.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"

static bool is(struct slice key, const char *name)
{
    size_t size = strlen(name);
    return key.size == size + 2 && memcmp(key.data + 1, name, size) == 0;
}

static uint64_t number_of(struct slice value)
{
    char digits[24] = "";
    memcpy(digits, value.data, value.size < sizeof(digits) - 1 ? value.size : sizeof(digits) - 1);
    return strtoull(digits, NULL, 10);
}

static void set_text(struct buffer *to, struct slice value)
{
    buffer_clear(to);
    if (value.data[0] == '"' && !json_unquote(to, value))
        buffer_clear(to);
}

/* "file:line: message", where the message does not start like that already. */
static void settle_problem(struct again *again)
{
    struct buffer whole = {0};
    const char *file = buffer_string(&again->file), *message = buffer_string(&again->problem);
    if (strncmp(message, file, again->file.size) == 0 && message[again->file.size] == ':')
        return;
    buffer_text(&whole, file);
    if (again->line > 0)
        buffer_print(&whole, ":%llu", (unsigned long long)again->line);
    buffer_print(&whole, ": %s", message);
    buffer_free(&again->problem);
    again->problem = whole;
}

enum again_result again_read(struct again *again, struct slice line)
{
    struct json_walk walk;
    struct slice key, value;
    enum { INDEX = 1, INPUT = 2, FILE_NAME = 4, ALL = 7 };
    unsigned found = 0;
    bool readable = true;
    int got = -1;
    if (!json_walk_open(&walk, line, '{'))
        return AGAIN_NOT;
    again->offset = again->line = 0;
    while ((got = json_walk_next(&walk, &key, &value)) > 0) {
        if (is(key, "index")) {
            found |= json_is_number(value) ? INDEX : 0;
            again->index = number_of(value);
        } else if (is(key, "byte_offset")) {
            again->offset = number_of(value);
        } else if (is(key, "line")) {
            again->line = number_of(value);
        } else if (is(key, "file")) {
            found |= FILE_NAME;
            set_text(&again->file, value);
        } else if (is(key, "message")) {
            set_text(&again->problem, value);
        } else if (is(key, "readable")) {
            readable = value.data[0] != 'f';
        } else if (is(key, "input")) {
            found |= INPUT;
            buffer_clear(&again->input);
            buffer_add(&again->input, value.data, value.size);
        }
    }
    if (got < 0 || found != ALL)
        return AGAIN_NOT;
    if (readable)
        return AGAIN_RECORD;
    settle_problem(again);
    return AGAIN_BAD;
}

void again_free(struct again *again)
{
    buffer_free(&again->input);
    buffer_free(&again->file);
    buffer_free(&again->problem);
}
