/* output: results as JSONL, lines, NUL-ended pieces, CSV or TSV.
 *
 *   jsonl      the result; with --index or --with-input {"index": .., "input": .., "result": ..}
 *   lines nul  a str as it is, all else as JSON; --index and --with-input stand before it, a tab
 * apart csv tsv    a dict: its values, with its keys as the header; a list: its items; all else:
 * one field. The first result decides. --index and --with-input are fields in front
 *
 * Flattened, a list's items are written as results of their own. Those of a group's list with an
 * index or an input belong to its members, one to each.
 *
 * A result that a format cannot say (a line end in a line, another kind of row) makes its record a
 * failed one; it is never written cut or changed. */
#ifndef CLI_OUTPUT_H
#define CLI_OUTPUT_H

#include <stdbool.h>

#include "cli/buffer.h"
#include "cli/reader.h"
#include "cli/writer.h"

enum output_format {
    OUTPUT_BY_NAME,
    OUTPUT_JSONL,
    OUTPUT_LINES,
    OUTPUT_CSV,
    OUTPUT_TSV,
    OUTPUT_NUL
};
enum nan_mode { NAN_LITERAL, NAN_NULL, NAN_ERROR };

struct output_options {
    enum output_format format; /* not OUTPUT_BY_NAME */
    enum nan_mode nan;
    bool index, input;
    bool flatten; /* a result is a list of results */
};

struct item {
    struct slice key, value;
};

struct output {
    struct output_options options;
    struct writer *writer;
    char row_kind;         /* of CSV: '{', '[', or 'v' for one value; 0: no result yet */
    struct buffer columns; /* the first result, where it is a dict: its keys are the columns */
    struct item *header, *items;
    size_t header_count, item_count, header_room, item_room;
    struct buffer text; /* a result without NaN, a string without quotes */
    struct buffer field;
    struct buffer problem;
};

void output_open(struct output *output, const struct output_options *options,
                 struct writer *writer);
void output_close(struct output *output);

/* Goes on with CSV: as after a first result of this kind, a dict with these keys. */
void output_restore(struct output *output, char row_kind, struct slice columns);

/* Appends what output_restore needs: a dict with the columns' names, if there are columns. */
void output_columns(const struct output *output, struct buffer *to);

/* Adds a result to the writer's lines. NULL, or why it cannot be said: nothing is added then. */
const char *output_result(struct output *output, const struct record *record, struct slice json);

/* What the record is in JSON, for people and for --errors: its text, or as a string. */
void output_record(struct buffer *to, const struct record *record);

#endif
