/* output: results as JSONL, lines, NUL-ended pieces, CSV or TSV. */
#include "cli/output.h"

#include <stdlib.h>
#include <string.h>

#include "cli/json.h"

static const char half_pair[] =
    "the record or its result has half a surrogate pair, which is no text; -o jsonl can say it";

void output_open(struct output *output, const struct output_options *options, struct writer *writer)
{
    *output = (struct output){.options = *options, .writer = writer};
}

void output_close(struct output *output)
{
    buffer_free(&output->columns);
    buffer_free(&output->text);
    buffer_free(&output->field);
    buffer_free(&output->problem);
    free(output->header);
    free(output->items);
    *output = (struct output){0};
}

static bool is_string(struct slice json)
{
    return json.size > 0 && json.data[0] == '"';
}

static bool holds(struct slice text, char byte)
{
    return text.size > 0 && memchr(text.data, byte, text.size) != NULL;
}

void output_record(struct buffer *to, const struct record *record)
{
    struct slice text = json_trim(record->text);
    if (record->json && !holds(text, '\r'))
        buffer_add(to, text.data, text.size);
    else if (record->json) /* white space between tokens: some take it for a line end */
        for (size_t i = 0; i < text.size; i++)
            buffer_byte(to, text.data[i] == '\r' ? ' ' : text.data[i]);
    else
        json_quote(to, record->text);
}

/* ---- JSONL ----------------------------------------------------------------------------------- */

static const char *put_jsonl(struct output *output, const struct record *record, struct slice json)
{
    struct buffer *out = &output->writer->out;
    bool wrapped = output->options.index || output->options.input;
    if (wrapped)
        buffer_byte(out, '{');
    if (output->options.index)
        buffer_print(out, "\"index\": %llu, ", (unsigned long long)record->index);
    if (output->options.input) {
        buffer_text(out, "\"input\": ");
        output_record(out, record);
        buffer_text(out, ", ");
    }
    if (wrapped)
        buffer_text(out, "\"result\": ");
    buffer_add(out, json.data, json.size);
    buffer_text(out, wrapped ? "}\n" : "\n");
    return NULL;
}

/* ---- lines ----------------------------------------------------------------------------------- */

/* The record as its plain text: a JSON string without its quotes, all else as it is. */
static void add_input_text(struct buffer *to, const struct record *record)
{
    struct slice text = record->json ? json_trim(record->text) : record->text;
    size_t before = to->size;
    if (record->json && is_string(text) && json_unquote(to, text))
        return;
    to->size = before;
    buffer_add(to, text.data, text.size);
}

static const char *put_line(struct output *output, const struct record *record, struct slice json)
{
    struct buffer *out = &output->writer->out;
    bool nul = output->options.format == OUTPUT_NUL;
    size_t start = out->size;
    if (output->options.index)
        buffer_print(out, "%llu\t", (unsigned long long)record->index);
    if (output->options.input) {
        add_input_text(out, record);
        buffer_byte(out, '\t');
    }
    if (!is_string(json))
        buffer_add(out, json.data, json.size);
    else if (!json_unquote(out, json))
        return half_pair;
    struct slice line = {out->data + start, out->size - start};
    if (holds(line, nul ? '\0' : '\n'))
        return nul ? "a NUL cannot stand within -o nul; -o jsonl can say it"
                   : "a line end cannot stand within -o lines; -o jsonl or nul can say it";
    buffer_byte(out, nul ? '\0' : '\n');
    return NULL;
}

/* ---- CSV ------------------------------------------------------------------------------------- */

static void add_item(struct item **items, size_t *count, size_t *room, struct item item)
{
    if (*count == *room) {
        *room = *room > 0 ? *room * 2 : 16;
        *items = reallocate(*items, *room * sizeof(**items));
    }
    (*items)[(*count)++] = item;
}

static void list_items(struct output *output, struct slice json)
{
    struct json_walk walk;
    struct item item = {{NULL, 0}, json};
    output->item_count = 0;
    bool container = json_walk_open(&walk, json, '{') || json_walk_open(&walk, json, '[');
    if (!container)
        add_item(&output->items, &output->item_count, &output->item_room, item);
    while (container && json_walk_next(&walk, &item.key, &item.value) > 0)
        add_item(&output->items, &output->item_count, &output->item_room, item);
}

static char separator_of(const struct output *output)
{
    return output->options.format == OUTPUT_TSV ? '\t' : ',';
}

/* A field, in quotes only where it must be. */
static void put_text(struct output *output, struct slice text)
{
    struct buffer *out = &output->writer->out;
    bool quotes = holds(text, separator_of(output)) || holds(text, '"') || holds(text, '\n') ||
                  holds(text, '\r');
    if (quotes)
        buffer_byte(out, '"');
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == '"')
            buffer_byte(out, '"');
        buffer_byte(out, text.data[i]);
    }
    if (quotes)
        buffer_byte(out, '"');
}

/* A JSON value as a field: a string's text, nothing for null, else the JSON. */
static bool put_value(struct output *output, struct slice json)
{
    if (!is_string(json)) {
        if (json.size != 4 || memcmp(json.data, "null", 4) != 0)
            put_text(output, json);
        return true;
    }
    buffer_clear(&output->field);
    if (!json_unquote(&output->field, json))
        return false;
    put_text(output, buffer_slice(&output->field));
    return true;
}

static void put_separator(struct output *output, bool *first)
{
    if (!*first)
        buffer_byte(&output->writer->out, separator_of(output));
    *first = false;
}

static void put_front(struct output *output, const struct record *record, bool *first)
{
    if (output->options.index) {
        put_separator(output, first);
        buffer_print(&output->writer->out, "%llu", (unsigned long long)record->index);
    }
    if (output->options.input) {
        put_separator(output, first);
        buffer_clear(&output->field);
        add_input_text(&output->field, record);
        put_text(output, buffer_slice(&output->field));
    }
}

/* The row's end. A row of one empty field would be a blank line, and read as none. */
static void end_row(struct output *output, size_t start)
{
    struct buffer *out = &output->writer->out;
    buffer_text(out, out->size == start ? "\"\"\n" : "\n");
}

static const char *put_header(struct output *output)
{
    bool first = true;
    size_t start = output->writer->out.size;
    if (output->options.index) {
        put_separator(output, &first);
        buffer_text(&output->writer->out, "index");
    }
    if (output->options.input) {
        put_separator(output, &first);
        buffer_text(&output->writer->out, "input");
    }
    for (size_t i = 0; i < output->header_count; i++) {
        put_separator(output, &first);
        if (!put_value(output, output->header[i].key))
            return half_pair;
    }
    end_row(output, start);
    return NULL;
}

/* The first result's kind is that of all; if it is a dict, its keys are the columns. */
void output_restore(struct output *output, char kind, struct slice json)
{
    output->row_kind = kind;
    if (kind != '{')
        return;
    buffer_clear(&output->columns);
    buffer_add(&output->columns, json.data, json.size);
    list_items(output, buffer_slice(&output->columns));
    output->header_count = 0;
    for (size_t i = 0; i < output->item_count; i++)
        add_item(&output->header, &output->header_count, &output->header_room, output->items[i]);
}

void output_columns(const struct output *output, struct buffer *to)
{
    if (output->row_kind != '{')
        return;
    buffer_byte(to, '{');
    for (size_t i = 0; i < output->header_count; i++) {
        buffer_text(to, i == 0 ? "" : ", ");
        buffer_add(to, output->header[i].key.data, output->header[i].key.size);
        buffer_text(to, ": null");
    }
    buffer_byte(to, '}');
}

static const char *first_row(struct output *output, struct slice json, char kind)
{
    output_restore(output, kind, json);
    return kind == '{' ? put_header(output) : NULL;
}

static bool same_key(struct slice a, struct slice b)
{
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

/* The value of column number `column`: mostly the item at the same place. NULL: none. */
static const struct item *column_item(const struct output *output, size_t column)
{
    struct slice key = output->header[column].key;
    for (size_t i = 0; i < output->item_count; i++) {
        const struct item *item = &output->items[(column + i) % output->item_count];
        if (same_key(item->key, key))
            return item;
    }
    return NULL;
}

static const char *put_fields(struct output *output, bool *first)
{
    bool columns = output->row_kind == '{';
    if (columns && output->item_count != output->header_count)
        return "the result has not the same keys as the first one, which are the columns; -o jsonl can say it";
    for (size_t i = 0; i < output->item_count; i++) {
        const struct item *item = columns ? column_item(output, i) : &output->items[i];
        if (item == NULL)
            return "the result has not the same keys as the first one, which are the columns; -o jsonl can say it";
        put_separator(output, first);
        if (!put_value(output, item->value))
            return half_pair;
    }
    return NULL;
}

static const char *put_row(struct output *output, const struct record *record, struct slice json)
{
    char kind = json.size > 0 && (json.data[0] == '{' || json.data[0] == '[') ? json.data[0] : 'v';
    bool is_first = output->row_kind == 0, first = true;
    const char *problem = is_first ? first_row(output, json, kind) : NULL;
    if (problem == NULL && kind != output->row_kind)
        problem = "the result is no row like the first one (dict, list or value); -o jsonl can say it";
    if (problem == NULL) {
        size_t start = output->writer->out.size;
        list_items(output, json);
        put_front(output, record, &first);
        problem = put_fields(output, &first);
        end_row(output, start);
    }
    if (problem != NULL && is_first)
        output->row_kind = 0; /* then the next one is the first */
    return problem;
}

/* ---- all ------------------------------------------------------------------------------------- */

static const char *put(struct output *output, const struct record *record, struct slice json)
{
    switch (output->options.format) {
    case OUTPUT_LINES:
    case OUTPUT_NUL:
        return put_line(output, record, json);
    case OUTPUT_CSV:
    case OUTPUT_TSV:
        return put_row(output, record, json);
    default:
        return put_jsonl(output, record, json);
    }
}

static size_t count_items(struct slice list)
{
    struct json_walk walk;
    struct slice value;
    size_t count = 0;
    json_walk_open(&walk, list, '[');
    while (json_walk_next(&walk, NULL, &value) > 0)
        count++;
    return count;
}

static const char *put_items(struct output *output, const struct record *record, struct slice json)
{
    struct json_walk walk;
    struct slice value;
    bool each = record->member_count > 0 && (output->options.index || output->options.input);
    const char *problem = NULL;
    if (!json_walk_open(&walk, json, '['))
        return "--flatten needs a list as the result";
    if (each && count_items(json) != record->member_count) {
        buffer_clear(&output->problem);
        buffer_print(&output->problem, "%zu results for %zu records: which is whose is not known",
                     count_items(json), record->member_count);
        return buffer_string(&output->problem);
    }
    for (size_t i = 0; problem == NULL && json_walk_next(&walk, NULL, &value) > 0; i++)
        problem = put(output, each ? &record->members[i] : record, value);
    return problem;
}

const char *output_result(struct output *output, const struct record *record, struct slice json)
{
    if (output->options.nan != NAN_LITERAL) {
        buffer_clear(&output->text);
        bool found = json_without_nan(&output->text, json);
        if (found && output->options.nan == NAN_ERROR)
            return "the result holds NaN or Infinity, which JSON has not; --nan null writes null";
        json = buffer_slice(&output->text);
    }
    struct buffer *out = &output->writer->out;
    size_t before = out->size;
    char kind = output->row_kind;
    const char *problem =
        output->options.flatten ? put_items(output, record, json) : put(output, record, json);
    if (problem != NULL) {
        out->size = before;
        output->row_kind = kind; /* a header that was not written is not known */
    }
    return problem;
}
