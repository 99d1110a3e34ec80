/* report: failed records, in the --errors file and on stderr.
 *
 * The file gets every one, as a line of JSON. On stderr the first few are named, the very first
 * with its traceback: a million are as easily wrong as one. */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include "cli/options.h"
#include "cli/htmlpage.h"
#include "cli/reader.h"
#include "cli/writer.h"
#include "lib/pycrew.h"

struct report {
    struct writer file;
    bool to_file, quiet, verbose;
    uint64_t failed, seen; /* records; a group is seen once */
    struct html_page *page;     /* is told, too; NULL: none */
};

/* flags: writer_open's. 0, or a code of the command after saying why. */
int report_open(struct report *report, const struct options *options, unsigned flags);

/* A record the library gave an error for. where: "file:line". 0, or the file's error. */
int report_error(struct report *report, const struct record *record, const pycrew_error *error);

/* A record that never came to the library, or whose result cannot be written. problem says where
 * and why, "file:line: ...". */
int report_problem(struct report *report, const struct record *record, int code, const char *type,
                   const char *problem);

/* "file:line" */
void report_place(struct buffer *to, const struct record *record);

#endif
