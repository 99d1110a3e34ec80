/* json: looking at JSON text without decoding it.
 *
 * Python's json module decodes the records, in the workers. Here is what has to be known before
 * that, or after: is this text JSON (call's ARG), where are the items of this list (--star, -o
 * csv), what are the characters of this string. So the grammar is that of Python's json and not
 * quite RFC 8259: NaN, Infinity and -Infinity are numbers, and error messages and places are the
 * same.
 *
 * Nothing here recurses, and nothing reads outside [text, text + size). */
#ifndef CLI_JSON_H
#define CLI_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/buffer.h"

enum { JSON_DEPTH_MAX = 65536 }; /* nesting; Python gives up far earlier */

struct json_error {
    const char *message; /* "Expecting value" */
    size_t at;           /* byte of the text */
};

/* Whether the text is one JSON value, with nothing but white space around it. error may be NULL. */
bool json_check(struct slice text, struct json_error *error);

/* The items of a list or a dict, one after the other:
 *
 *     struct json_walk walk;
 *     if (json_walk_open(&walk, text, '['))
 *         while ((got = json_walk_next(&walk, NULL, &value)) > 0) ...
 *
 * Keys and values are slices of the text, keys with their quotes. */
struct json_walk {
    const char *start, *at, *end;
    char close; /* ']' or '}' */
    bool first;
    struct json_error error;
};

/* Whether the text starts as a list (kind '[') or a dict ('{'). */
bool json_walk_open(struct json_walk *walk, struct slice text, char kind);

/* 1: an item; 0: that was all, and nothing but white space follows; -1: walk->error. */
int json_walk_next(struct json_walk *walk, struct slice *key, struct slice *value);

/* The text without the white space around it. */
struct slice json_trim(struct slice text);

/* Whether it is a number of RFC 8259: with --infer, only that is one. */
bool json_is_number(struct slice text);

/* Appends the characters of a string, which stands in its quotes. false: it holds half a surrogate
 * pair, which no UTF-8 can say; what was appended is then to be thrown away. */
bool json_unquote(struct buffer *to, struct slice string);

/* Appends text as a JSON string in quotes; bytes that are no UTF-8 become U+FFFD. */
void json_quote(struct buffer *to, struct slice text);

/* Appends a JSON text with NaN, Infinity and -Infinity as null. Returns whether there was one. */
bool json_without_nan(struct buffer *to, struct slice text);

/* How many bytes at the start are valid UTF-8: size if all are. */
size_t utf8_prefix(struct slice text);

/* How many characters the first so many bytes are; what is no UTF-8 counts by the byte. */
size_t utf8_count(struct slice text, size_t bytes);

#endif
