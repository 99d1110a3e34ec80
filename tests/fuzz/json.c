/* json: cli/json.h over any text. */
#include "cli/json.h"

#include "tests/fuzz/target.h"

static bool is_utf8(struct slice text)
{
    return utf8_prefix(text) == text.size;
}

/* A copy of its own, so that reading past it is seen. */
static struct slice copy_of(struct slice text)
{
    return (struct slice){fuzz_copy(text.data, text.size), text.size};
}

static void release(struct slice text)
{
    free((void *)(uintptr_t)text.data);
}

static void check_counts(struct slice text)
{
    size_t good = utf8_prefix(text);

    CHECK(good <= text.size);
    CHECK(utf8_count(text, good) <= good);
    CHECK(utf8_count(text, text.size) <= text.size);
}

/* Quoted it is JSON, and unquoted what it was. */
static void check_quoted(struct slice text)
{
    struct buffer quoted = {0}, back = {0};

    json_quote(&quoted, text);
    CHECK(json_check(buffer_slice(&quoted), NULL) && is_utf8(buffer_slice(&quoted)));
    CHECK(json_unquote(&back, buffer_slice(&quoted)));
    if (is_utf8(text))
        CHECK(back.size == text.size &&
              (text.size == 0 || !memcmp(back.data, text.data, back.size)));
    buffer_free(&quoted);
    buffer_free(&back);
}

/* A string as a walk finds it. */
static void check_string(struct slice string)
{
    struct buffer text = {0};

    CHECK(string.size >= 2 && string.data[0] == '"' && string.data[string.size - 1] == '"');
    if (json_unquote(&text, string)) {
        CHECK(is_utf8(buffer_slice(&text)) || !is_utf8(string));
        check_quoted(buffer_slice(&text));
    }
    buffer_free(&text);
}

static void check_item(struct slice value)
{
    struct slice copy = copy_of(value);

    CHECK(json_check(copy, NULL));
    CHECK(json_trim(copy).size == copy.size);
    if (value.data[0] == '"')
        check_string(copy);
    release(copy);
}

/* The walk comes to its end exactly where the whole is JSON. */
static void check_walk(struct slice text, char kind, bool good)
{
    struct json_walk walk;
    struct slice key, value;
    int got;

    if (!json_walk_open(&walk, text, kind))
        return;
    while ((got = json_walk_next(&walk, &key, &value)) > 0) {
        CHECK(value.data >= text.data && value.size <= text.size);
        check_item(value);
        if (kind == '{')
            check_item(key);
    }
    CHECK((got == 0) == good);
    if (got < 0)
        CHECK(walk.error.message && walk.error.at <= text.size);
}

static void check_without_nan(struct slice text, bool good)
{
    struct buffer plain = {0}, again = {0};
    bool found = json_without_nan(&plain, text);

    if (!found)
        CHECK(plain.size == text.size &&
              (text.size == 0 || memcmp(plain.data, text.data, text.size) == 0));
    if (good) {
        CHECK(json_check(buffer_slice(&plain), NULL));
        CHECK(!json_without_nan(&again, buffer_slice(&plain)));
    }
    buffer_free(&plain);
    buffer_free(&again);
}

FUZZ_TARGET(json)
{
    struct slice text = {fuzz_copy(data, size), size};
    struct json_error error = {NULL, 0};
    struct buffer unquoted = {0};
    bool good = json_check(text, &error);

    CHECK(good || (error.message && error.at <= size));
    CHECK(good || !json_is_number(text));
    check_counts(text);
    check_quoted(text);
    check_walk(text, '[', good);
    check_walk(text, '{', good);
    check_without_nan(text, good);
    struct slice inner = json_trim(text);
    if (good)
        check_item(inner);
    json_unquote(&unquoted, text); /* whatever it is: nothing outside is read */
    buffer_free(&unquoted);
    release(text);
    return 0;
}
