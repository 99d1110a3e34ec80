/* rows: CSV and TSV, line by line.
 *
 * The first row is the header. Each further one becomes JSON text: a dict of its fields by the
 * header's names, or a list of them. Fields are strings, kept to the byte; a row's end is LF or CR
 * LF. A quoted field may hold line ends and separators. A quote within an unquoted field, or text
 * behind a closing quote, is refused: what was meant cannot be known. */
#ifndef CLI_ROWS_H
#define CLI_ROWS_H

#include <csv.h>
#include <stdbool.h>

#include "cli/buffer.h"

/* Pieces of text end to end, and where each ends. */
struct pieces {
    struct buffer text;
    size_t *ends, count, room;
};

struct rows {
    struct csv_parser parser;
    bool open, header_known, in_row, row_ended;
    char separator;
    bool infer, lists;
    struct pieces names;   /* of the header, each as a JSON string */
    struct pieces fields;  /* of this row, each as a JSON value */
    struct buffer json;    /* the row */
    struct buffer problem; /* what ROWS_BAD is about */
    size_t column;         /* byte of the line, from 0; SIZE_MAX: of no particular one */
};

/* infer: what looks like a JSON number, true or false is one, and an empty field is null. */
void rows_open(struct rows *rows, char separator, bool infer, bool lists);
void rows_close(struct rows *rows); /* a zeroed one is closed */

enum rows_result {
    ROWS_MORE,   /* no row ended with this line: it was the header, or blank, or within quotes */
    ROWS_ROW,    /* rows->json is a record */
    ROWS_BAD,    /* problem and column say why; json is a list of the fields, or empty */
    ROWS_HEADER, /* the header is of no use: problem and column say why */
};

/* One line, without its line end. */
enum rows_result rows_line(struct rows *rows, struct slice line);

/* The end of the file: ROWS_MORE, or ROWS_BAD or ROWS_HEADER for a quote never closed. */
enum rows_result rows_end(struct rows *rows);

#endif
