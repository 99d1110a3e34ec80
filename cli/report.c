/* report: failed records, in the --errors file and on stderr. */
#include "cli/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/console.h"
#include "cli/crew.h"
#include "cli/json.h"
#include "cli/output.h"

enum { NAMED_MAX = 10 }; /* on stderr */

int report_open(struct report *report, const struct options *options, unsigned flags)
{
    *report = (struct report){.to_file = options->errors_file != NULL,
                              .quiet = options->quiet,
                              .verbose = options->verbose};
    return report->to_file ? writer_open(&report->file, options->errors_file, flags) : 0;
}

void report_place(struct buffer *to, const struct record *record)
{
    buffer_text(to, record->file);
    if (record->line > 0)
        buffer_print(to, ":%llu", (unsigned long long)record->line);
    if (record->member_count > 1) {
        buffer_text(to, " to ");
        report_place(to, &record->members[record->member_count - 1]);
    }
}

/* ---- the file -------------------------------------------------------------------------------- */

static void add_string(struct buffer *to, const char *name, const char *text)
{
    buffer_print(to, ", \"%s\": ", name);
    if (text != NULL)
        json_quote(to, (struct slice){text, strlen(text)});
    else
        buffer_text(to, "null");
}

static int write_error(struct report *report, const struct record *record,
                       const pycrew_error *error)
{
    int r = 0;
    for (size_t i = 0; i < record->member_count && r == 0; i++)
        r = write_error(report, &record->members[i], error);
    if (!report->to_file || record->member_count > 0)
        return r;
    struct buffer *out = &report->file.out;
    struct record shown = *record;
    shown.json = record->json && json_check(record->text, NULL); /* it may be why it failed */
    buffer_print(out, "{\"index\": %llu, \"byte_offset\": %llu", (unsigned long long)record->index,
                 (unsigned long long)record->offset);
    add_string(out, "file", record->file);
    buffer_print(out, ", \"line\": %llu, \"input\": ", (unsigned long long)record->line);
    output_record(out, &shown);
    add_string(out, "code", crew_code_name(error->code));
    add_string(out, "type", error->type);
    add_string(out, "message", error->message);
    add_string(out, "traceback", error->traceback);
    buffer_print(out, ", \"signal\": %d, \"exit_status\": %d, \"attempts\": %u, ", error->signal,
                 error->exit_status, error->attempts);
    buffer_print(out, "\"may_have_run\": %s, ", error->may_have_run ? "true" : "false");
    buffer_print(out, "\"readable\": %s}\n",
                 record->bad || shown.json != record->json ? "false" : "true");
    return writer_line(&report->file);
}

/* ---- stderr ---------------------------------------------------------------------------------- */

/* Whether this one is to be named; counts it. */
static bool is_named(struct report *report, const struct record *record)
{
    report->failed += record->member_count > 0 ? record->member_count : 1;
    report->seen++;
    if (report->verbose)
        return true;
    if (!report->quiet && report->seen == NAMED_MAX + 1)
        say("more records fail; %s", report->to_file ? "the --errors file has them all"
                                                     : "--errors FILE or -v tells about all");
    return !report->quiet && report->seen <= NAMED_MAX;
}

static bool traceback_shown(const struct report *report)
{
    return report->verbose || report->seen == 1;
}

/* Where in the record's line Python's json found what it did not expect: its message ends in
 * ": line 1 column 8 (char 7)". false: it does not. */
static bool json_place(const pycrew_error *error, size_t *ret_size, unsigned long *ret_column)
{
    static const char before[] = ": line 1 column ";
    const char *place = NULL, *next = error->message;
    if (error->code != -EINVAL || error->type == NULL || strstr(error->type, "JSONDecode") == NULL)
        return false;
    while ((next = strstr(next, before)) != NULL)
        place = next++;
    if (place == NULL)
        return false;
    *ret_size = (size_t)(place - error->message);
    *ret_column = strtoul(place + sizeof(before) - 1, NULL, 10);
    return true;
}

int report_error(struct report *report, const struct record *record, const pycrew_error *error)
{
    struct buffer where = {0};
    size_t size;
    unsigned long column;
    if (is_named(report, record)) {
        report_place(&where, record);
        if (json_place(error, &size, &column))
            say("%s:%lu: not JSON: %.*s", buffer_string(&where), column, (int)size, error->message);
        else
            crew_say_error(error, buffer_string(&where), traceback_shown(report));
    }
    buffer_free(&where);
    if (report->page != NULL)
        html_page_error(report->page, record, error);
    return write_error(report, record, error);
}

int report_problem(struct report *report, const struct record *record, int code, const char *type,
                   const char *problem)
{
    pycrew_error error = {.size = sizeof(error), .code = code, .type = type, .message = problem};
    if (is_named(report, record))
        say("%s", problem);
    if (report->page != NULL)
        html_page_error(report->page, record, &error);
    return write_error(report, record, &error);
}
