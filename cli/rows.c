/* rows: CSV and TSV, line by line. */
#include "cli/rows.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/console.h"
#include "cli/json.h"

/* ---- pieces ---------------------------------------------------------------------------------- */

/* What was added to pieces->text is a piece. */
static void piece_ends(struct pieces *pieces)
{
    if (pieces->count == pieces->room) {
        pieces->room = pieces->room > 0 ? pieces->room * 2 : 32;
        pieces->ends = reallocate(pieces->ends, pieces->room * sizeof(*pieces->ends));
    }
    pieces->ends[pieces->count++] = pieces->text.size;
}

static struct slice piece(const struct pieces *pieces, size_t index)
{
    size_t from = index > 0 ? pieces->ends[index - 1] : 0;
    return (struct slice){pieces->text.data + from, pieces->ends[index] - from};
}

static void pieces_clear(struct pieces *pieces)
{
    pieces->count = 0;
    buffer_clear(&pieces->text);
}

static void pieces_free(struct pieces *pieces)
{
    buffer_free(&pieces->text);
    free(pieces->ends);
    *pieces = (struct pieces){0};
}

/* ---- what libcsv finds ----------------------------------------------------------------------- */

/* As libcsv sees it, only a carriage return is space (taken off a field's ends, so that CR LF ends
 * a row) and only a line feed ends a row: each line that is fed ends one row at most. */
static int is_space(unsigned char c)
{
    return c == '\r';
}

static int is_line_end(unsigned char c)
{
    return c == '\n';
}

static bool is_word(struct slice text, const char *word)
{
    return text.size == strlen(word) && memcmp(text.data, word, text.size) == 0;
}

static void add_inferred(struct buffer *to, struct slice text)
{
    if (text.size == 0)
        buffer_text(to, "null");
    else if (json_is_number(text) || is_word(text, "true") || is_word(text, "false"))
        buffer_add(to, text.data, text.size);
    else
        json_quote(to, text);
}

static void on_field(void *text, size_t size, void *data)
{
    struct rows *rows = data;
    struct slice field = {text != NULL ? text : "", size};
    struct pieces *pieces = rows->header_known ? &rows->fields : &rows->names;
    if (rows->header_known && rows->infer)
        add_inferred(&pieces->text, field);
    else
        json_quote(&pieces->text, field);
    piece_ends(pieces);
}

static void on_row(int end, void *data)
{
    (void)end;
    ((struct rows *)data)->row_ended = true;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void start_parser(struct rows *rows)
{
    if (csv_init(&rows->parser, CSV_STRICT) != 0)
        die(EXIT_FAILURE, "out of memory");
    csv_set_delim(&rows->parser, (unsigned char)rows->separator);
    csv_set_space_func(&rows->parser, is_space);
    csv_set_term_func(&rows->parser, is_line_end);
    csv_set_blk_size(&rows->parser, 64 * 1024);
}

void rows_open(struct rows *rows, char separator, bool infer, bool lists)
{
    *rows = (struct rows){.open = true, .separator = separator, .infer = infer, .lists = lists};
    start_parser(rows);
}

void rows_close(struct rows *rows)
{
    if (rows->open)
        csv_free(&rows->parser);
    pieces_free(&rows->names);
    pieces_free(&rows->fields);
    buffer_free(&rows->json);
    buffer_free(&rows->problem);
    *rows = (struct rows){0};
}

static enum rows_result bad(struct rows *rows, const char *problem, size_t column)
{
    buffer_clear(&rows->problem);
    buffer_text(&rows->problem, problem);
    rows->column = column;
    return rows->header_known ? ROWS_BAD : ROWS_HEADER;
}

/* Back to the start of a row, whatever the parser has in hand. */
static void forget_row(struct rows *rows)
{
    csv_free(&rows->parser);
    start_parser(rows);
    pieces_clear(&rows->fields);
    buffer_clear(&rows->json);
    rows->in_row = false;
}

static enum rows_result take_header(struct rows *rows)
{
    for (size_t i = 1; i < rows->names.count; i++) {
        struct slice name = piece(&rows->names, i);
        for (size_t j = 0; j < i; j++) {
            struct slice other = piece(&rows->names, j);
            if (name.size != other.size || memcmp(name.data, other.data, name.size) != 0)
                continue;
            bad(rows, "the header has this name twice: ", SIZE_MAX);
            buffer_add(&rows->problem, name.data, name.size);
            return ROWS_HEADER;
        }
    }
    rows->header_known = true;
    return ROWS_MORE;
}

static void write_row(struct rows *rows, bool list)
{
    buffer_byte(&rows->json, list ? '[' : '{');
    for (size_t i = 0; i < rows->fields.count; i++) {
        if (i > 0)
            buffer_byte(&rows->json, ',');
        if (!list) {
            struct slice name = piece(&rows->names, i);
            buffer_add(&rows->json, name.data, name.size);
            buffer_byte(&rows->json, ':');
        }
        struct slice field = piece(&rows->fields, i);
        buffer_add(&rows->json, field.data, field.size);
    }
    buffer_byte(&rows->json, list ? ']' : '}');
}

static enum rows_result take_row(struct rows *rows)
{
    enum rows_result result = ROWS_ROW;
    buffer_clear(&rows->json);
    if (rows->fields.count != rows->names.count) {
        result = bad(rows, "", SIZE_MAX);
        buffer_print(&rows->problem, "%zu field%s, but the header has %zu", rows->fields.count,
                     rows->fields.count == 1 ? "" : "s", rows->names.count);
    }
    write_row(rows, rows->lists || result != ROWS_ROW);
    pieces_clear(&rows->fields);
    return result;
}

static bool is_blank(struct slice line)
{
    return line.size == 0 || (line.size == 1 && line.data[0] == '\r');
}

enum rows_result rows_line(struct rows *rows, struct slice line)
{
    if (!rows->in_row && is_blank(line))
        return ROWS_MORE;
    rows->in_row = true;
    rows->row_ended = false;
    size_t parsed = csv_parse(&rows->parser, line.data, line.size, on_field, on_row, rows);
    if (parsed == line.size)
        parsed += csv_parse(&rows->parser, "\n", 1, on_field, on_row, rows);
    if (parsed <= line.size) {
        if (csv_error(&rows->parser) != CSV_EPARSE)
            die(EXIT_FAILURE, "out of memory");
        forget_row(rows);
        return bad(rows, "a quote out of place; in a field that is quoted whole, a quote is doubled", parsed);
    }
    if (!rows->row_ended)
        return ROWS_MORE;
    rows->in_row = false;
    return rows->header_known ? take_row(rows) : take_header(rows);
}

enum rows_result rows_end(struct rows *rows)
{
    if (!rows->in_row)
        return ROWS_MORE;
    forget_row(rows);
    return bad(rows, "a quote that is opened here is never closed", SIZE_MAX);
}
