/* json: looking at JSON text without decoding it. */
#include "cli/json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

static bool is_continuation(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

/* The size of the character at text, or 0: none, overlong, a surrogate, beyond U+10FFFF. */
static size_t utf8_character(const unsigned char *text, size_t left)
{
    unsigned char first = text[0];
    if (first < 0x80)
        return 1;
    size_t size = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (size == 0 || size > left)
        return 0;
    for (size_t i = 1; i < size; i++)
        if (!is_continuation(text[i]))
            return 0;
    bool bad = (first == 0xE0 && text[1] < 0xA0) || (first == 0xED && text[1] > 0x9F) ||
               (first == 0xF0 && text[1] < 0x90) || (first == 0xF4 && text[1] > 0x8F);
    return bad ? 0 : size;
}

size_t utf8_prefix(struct slice text)
{
    const unsigned char *bytes = (const unsigned char *)text.data;
    size_t at = 0;
    while (at < text.size) {
        uint64_t word;
        if (text.size - at >= sizeof(word)) { /* most text is ASCII: eight at a time */
            memcpy(&word, bytes + at, sizeof(word));
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                at += sizeof(word);
                continue;
            }
        }
        size_t size = utf8_character(bytes + at, text.size - at);
        if (size == 0)
            return at;
        at += size;
    }
    return at;
}

size_t utf8_count(struct slice text, size_t bytes)
{
    const unsigned char *data = (const unsigned char *)text.data;
    size_t end = bytes < text.size ? bytes : text.size, count = 0;
    for (size_t at = 0; at < end; count++) {
        size_t size = utf8_character(data + at, text.size - at);
        at += size > 0 ? size : 1;
    }
    return count;
}

/* ---- scanning -------------------------------------------------------------------------------- */

/* A scanner stands at `at`. The functions return whether all is well; else error is set. */
struct scan {
    const char *start, *at, *end;
    struct json_error error;
};

static bool fail(struct scan *scan, const char *message, const char *at)
{
    scan->error = (struct json_error){message, (size_t)(at - scan->start)};
    return false;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void skip_space(struct scan *scan)
{
    while (scan->at < scan->end && is_space(*scan->at))
        scan->at++;
}

/* Takes the byte c, if it is next. */
static bool take(struct scan *scan, char c)
{
    if (scan->at == scan->end || *scan->at != c)
        return false;
    scan->at++;
    return true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* The four hexadecimal digits at text, or -1. */
static int hex_unit(const char *text, const char *end)
{
    if (end - text < 4)
        return -1;
    int unit = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0)
            return -1;
        unit = unit * 16 + digit;
    }
    return unit;
}

/* Behind a backslash. */
static bool scan_escape(struct scan *scan)
{
    const char *backslash = scan->at - 1;
    char c = *scan->at++;
    if (c == 'u') {
        if (hex_unit(scan->at, scan->end) < 0)
            return fail(scan, "Invalid \\uXXXX escape", backslash + 1);
        scan->at += 4;
        return true;
    }
    return memchr("\"\\/bfnrt", c, 8) != NULL || fail(scan, "Invalid \\escape", backslash);
}

/* Behind the quote that opens a string. */
static bool scan_string(struct scan *scan)
{
    const char *open = scan->at - 1;
    while (scan->at < scan->end) {
        char c = *scan->at++;
        if (c == '"')
            return true;
        if ((unsigned char)c < 0x20)
            return fail(scan, "Invalid control character at", scan->at - 1);
        if (c == '\\' && scan->at < scan->end && !scan_escape(scan))
            return false;
    }
    return fail(scan, "Unterminated string starting at", open);
}

static const char *skip_digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

/* The end of the longest number at `at`, or NULL. What is no part of it ("1.", "01") is left for
 * the caller to stumble over, as in Python. */
static const char *number_end(const char *at, const char *end)
{
    if (at < end && *at == '-')
        at++;
    const char *digits = skip_digits(at, end);
    if (digits == at)
        return NULL;
    at = *at == '0' ? at + 1 : digits;
    if (end - at >= 2 && *at == '.' && skip_digits(at + 1, end) > at + 1)
        at = skip_digits(at + 1, end);
    if (end - at >= 2 && (*at == 'e' || *at == 'E')) {
        const char *exponent = at + 1;
        if (*exponent == '+' || *exponent == '-')
            exponent++;
        const char *after = skip_digits(exponent, end);
        if (after > exponent)
            at = after;
    }
    return at;
}

static bool take_word(struct scan *scan, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(scan->end - scan->at) < size || memcmp(scan->at, word, size) != 0)
        return false;
    scan->at += size;
    return true;
}

/* A number, or one of the words. */
static bool scan_plain(struct scan *scan)
{
    if (take_word(scan, "null") || take_word(scan, "true") || take_word(scan, "false") ||
        take_word(scan, "NaN") || take_word(scan, "Infinity") || take_word(scan, "-Infinity"))
        return true;
    const char *end = number_end(scan->at, scan->end);
    if (end == NULL)
        return fail(scan, "Expecting value", scan->at);
    scan->at = end;
    return true;
}

/* A key, and the colon and the space behind it. */
static bool scan_key(struct scan *scan)
{
    if (!take(scan, '"'))
        return fail(scan, "Expecting property name enclosed in double quotes", scan->at);
    if (!scan_string(scan))
        return false;
    skip_space(scan);
    if (!take(scan, ':'))
        return fail(scan, "Expecting ':' delimiter", scan->at);
    skip_space(scan);
    return true;
}

/* What is open around the scanner: a bit for each level, 1 for a dict. */
struct nest {
    unsigned depth;
    unsigned char dict[JSON_DEPTH_MAX / 8];
};

static void nest_push(struct nest *nest, bool dict)
{
    unsigned char bit = (unsigned char)(1u << nest->depth % 8),
                  *byte = &nest->dict[nest->depth / 8];
    if (nest->depth % 8 == 0)
        *byte = 0; /* nothing below is in it */
    *byte = (unsigned char)(dict ? *byte | bit : *byte & ~bit);
    nest->depth++;
}

static bool nest_in_dict(const struct nest *nest)
{
    unsigned top = nest->depth - 1;
    return (nest->dict[top / 8] >> top % 8 & 1) != 0;
}

/* At a value. Goes into containers, through the first value inside, and back out of those that
 * end there: afterwards the scanner is behind a value, and *ret_more says whether a comma and
 * another value must follow. */
static bool scan_down(struct scan *scan, struct nest *nest)
{
    for (;;) {
        if (take(scan, '"'))
            return scan_string(scan);
        bool dict = take(scan, '{');
        if (!dict && !take(scan, '['))
            return scan_plain(scan);
        if (nest->depth == JSON_DEPTH_MAX)
            return fail(scan, "Nested too deep", scan->at - 1);
        skip_space(scan);
        if (take(scan, dict ? '}' : ']'))
            return true;
        nest_push(nest, dict);
        if (dict && !scan_key(scan))
            return false;
    }
}

/* Behind a value in a container: out of all that end here; then, unless that was all, to the next
 * value behind a comma. */
static bool scan_up(struct scan *scan, struct nest *nest)
{
    for (; nest->depth > 0; nest->depth--) {
        bool dict = nest_in_dict(nest);
        skip_space(scan);
        if (take(scan, dict ? '}' : ']'))
            continue;
        if (!take(scan, ','))
            return fail(scan, "Expecting ',' delimiter", scan->at);
        skip_space(scan);
        return !dict || scan_key(scan);
    }
    return true;
}

/* One value of any kind. */
static bool scan_value(struct scan *scan)
{
    struct nest nest; /* not cleared: only bits below depth are read */
    nest.depth = 0;
    do
        if (!scan_down(scan, &nest) || !scan_up(scan, &nest))
            return false;
    while (nest.depth > 0);
    return true;
}

bool json_check(struct slice text, struct json_error *error)
{
    struct scan scan = {text.data, text.data, text.data + text.size, {NULL, 0}};
    skip_space(&scan);
    bool good = scan_value(&scan);
    if (good) {
        skip_space(&scan);
        good = scan.at == scan.end || fail(&scan, "Extra data", scan.at);
    }
    if (!good && error != NULL)
        *error = scan.error;
    return good;
}

struct slice json_trim(struct slice text)
{
    while (text.size > 0 && is_space(text.data[0])) {
        text.data++;
        text.size--;
    }
    while (text.size > 0 && is_space(text.data[text.size - 1]))
        text.size--;
    return text;
}

bool json_is_number(struct slice text)
{
    return text.size > 0 && number_end(text.data, text.data + text.size) == text.data + text.size;
}

/* ---- items ----------------------------------------------------------------------------------- */

bool json_walk_open(struct json_walk *walk, struct slice text, char kind)
{
    struct slice inner = json_trim(text);
    if (inner.size == 0 || inner.data[0] != kind)
        return false;
    *walk = (struct json_walk){.start = text.data,
                               .at = inner.data + 1,
                               .end = text.data + text.size,
                               .close = kind == '[' ? ']' : '}',
                               .first = true};
    return true;
}

/* To the next item, or behind the end: 1, 0, -1 as json_walk_next. */
static int walk_to_item(struct json_walk *walk, struct scan *scan)
{
    skip_space(scan);
    if (take(scan, walk->close)) {
        skip_space(scan);
        if (scan->at == scan->end)
            return 0;
        fail(scan, "Extra data", scan->at);
        return -1;
    }
    if (!walk->first && !take(scan, ',')) {
        fail(scan, "Expecting ',' delimiter", scan->at);
        return -1;
    }
    walk->first = false;
    skip_space(scan);
    return 1;
}

/* The size of the string at text, quotes included, if before end only a colon and space follow. */
static size_t quoted_size(const char *text, const char *end)
{
    while (end > text && end[-1] != '"')
        end--;
    return (size_t)(end - text);
}

int json_walk_next(struct json_walk *walk, struct slice *key, struct slice *value)
{
    struct scan scan = {walk->start, walk->at, walk->end, {NULL, 0}};
    struct slice name = {NULL, 0};
    int got = walk_to_item(walk, &scan);
    if (got > 0 && walk->close == '}') {
        const char *from = scan.at;
        got = scan_key(&scan) ? 1 : -1;
        name = (struct slice){from, quoted_size(from, scan.at)};
    }
    const char *from = scan.at;
    if (got > 0 && !scan_value(&scan))
        got = -1;
    if (got > 0) {
        *value = (struct slice){from, (size_t)(scan.at - from)};
        if (key != NULL)
            *key = name;
    }
    walk->at = scan.at;
    walk->error = scan.error;
    return got;
}

/* ---- strings --------------------------------------------------------------------------------- */

static void add_character(struct buffer *to, unsigned c)
{
    if (c < 0x80) {
        buffer_byte(to, (char)c);
        return;
    }
    if (c < 0x800) {
        buffer_byte(to, (char)(0xC0 | c >> 6));
    } else {
        if (c < 0x10000) {
            buffer_byte(to, (char)(0xE0 | c >> 12));
        } else {
            buffer_byte(to, (char)(0xF0 | c >> 18));
            buffer_byte(to, (char)(0x80 | (c >> 12 & 0x3F)));
        }
        buffer_byte(to, (char)(0x80 | (c >> 6 & 0x3F)));
    }
    buffer_byte(to, (char)(0x80 | (c & 0x3F)));
}

/* At the digits behind \u: the character, two units where they are a pair. -1: half a pair. */
static bool unquote_unit(struct buffer *to, const char **at, const char *end)
{
    int unit = hex_unit(*at, end);
    if (unit < 0 || (unit >= 0xDC00 && unit < 0xE000))
        return false;
    *at += 4;
    unsigned c = (unsigned)unit;
    if (unit >= 0xD800 && unit < 0xDC00) {
        if (end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u')
            return false;
        int low = hex_unit(*at + 2, end);
        if (low < 0xDC00 || low >= 0xE000)
            return false;
        *at += 6;
        c = 0x10000 + ((unsigned)unit - 0xD800) * 0x400 + ((unsigned)low - 0xDC00);
    }
    add_character(to, c);
    return true;
}

bool json_unquote(struct buffer *to, struct slice string)
{
    if (string.size < 2)
        return false;
    const char *at = string.data + 1, *end = string.data + string.size - 1;
    while (at < end) {
        const char *backslash = memchr(at, '\\', (size_t)(end - at));
        const char *plain = backslash != NULL ? backslash : end;
        buffer_add(to, at, (size_t)(plain - at));
        at = plain;
        if (backslash == NULL || end - at < 2)
            break;
        static const char names[] = "\"\\/bfnrt", characters[] = "\"\\/\b\f\n\r\t";
        const char *name = strchr(names, at[1]);
        at += 2;
        if (at[-1] != '\0' && name != NULL)
            buffer_byte(to, characters[name - names]);
        else if (at[-1] != 'u' || !unquote_unit(to, &at, end))
            return false;
    }
    return true;
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
}

/* One byte that cannot stand in a string as it is. */
static void quote_byte(struct buffer *to, unsigned char c)
{
    static const char characters[] = "\"\\\b\f\n\r\t", names[] = "\"\\bfnrt";
    const char *found = c != 0 ? strchr(characters, c) : NULL;
    if (found != NULL) {
        buffer_byte(to, '\\');
        buffer_byte(to, names[found - characters]);
    } else {
        buffer_print(to, "\\u%04x", c);
    }
}

void json_quote(struct buffer *to, struct slice text)
{
    const unsigned char *at = (const unsigned char *)text.data, *end = at + text.size;
    buffer_byte(to, '"');
    while (at < end) {
        const unsigned char *from = at;
        while (at < end && is_plain(*at))
            at++;
        buffer_add(to, (const char *)from, (size_t)(at - from));
        if (at == end)
            break;
        size_t size = utf8_character(at, (size_t)(end - at));
        if (size == 0)
            buffer_text(to, "\xEF\xBF\xBD"); /* U+FFFD */
        else if (size > 1)
            buffer_add(to, (const char *)at, size);
        else
            quote_byte(to, *at);
        at += size > 0 ? size : 1;
    }
    buffer_byte(to, '"');
}

/* ---- NaN ------------------------------------------------------------------------------------- */

/* Behind the string that starts at `at`; end if it has none. */
static const char *string_end(const char *at, const char *end)
{
    for (at++; at < end && *at != '"'; at++)
        if (*at == '\\' && end - at > 1)
            at++;
    return at < end ? at + 1 : end;
}

bool json_without_nan(struct buffer *to, struct slice text)
{
    if (text.size == 0 ||
        (memchr(text.data, 'N', text.size) == NULL && memchr(text.data, 'I', text.size) == NULL)) {
        buffer_add(to, text.data, text.size);
        return false;
    }
    bool found = false;
    struct scan scan = {text.data, text.data, text.data + text.size, {NULL, 0}};
    while (scan.at < scan.end) {
        const char *from = scan.at;
        if (*from == '"') {
            scan.at = string_end(from, scan.end);
        } else if (take_word(&scan, "NaN") || take_word(&scan, "Infinity") ||
                   take_word(&scan, "-Infinity")) {
            buffer_text(to, "null");
            found = true;
            continue;
        } else {
            scan.at++;
        }
        buffer_add(to, from, (size_t)(scan.at - from));
    }
    return found;
}
