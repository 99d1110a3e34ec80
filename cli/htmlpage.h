/* htmlpage: --report FILE, one HTML page of how a map went.
 *
 * Nothing in it comes from elsewhere, and there is no script: charts are SVG, made here. All that
 * comes from data (names, messages, tracebacks, the command) is escaped. What is kept meanwhile
 * does not grow with the input. */
#ifndef CLI_HTMLPAGE_H
#define CLI_HTMLPAGE_H

#include "cli/reader.h"
#include "cli/timeline.h"
#include "cli/writer.h"
#include "lib/pycrew.h"

enum { HTML_ERRORS = 40 }; /* of errors, with a traceback each; the others are counted */

struct html_page_error {
    char *type, *message, *traceback, *place; /* of the first one; traceback may be NULL */
    uint64_t count;
};

struct html_page {
    bool wanted;
    struct writer writer;
    struct timeline timeline;
    int64_t started; /* seconds since 1970 */
    struct html_page_error errors[HTML_ERRORS];
    unsigned types;
    uint64_t other_errors;
};

/* How it went. */
struct html_page_end {
    const char *function;
    uint64_t read, done, failed, retried;
    double seconds;
    int code;
};

/* path: the page; trace: --trace FILE, or NULL. 0, or a code after saying why. */
int html_page_open(struct html_page *page, const char *path, const char *trace, bool force);

/* Notes a record's, or group's, failure. */
void html_page_error(struct html_page *page, const struct record *record, const pycrew_error *error);

/* After the crew's end. 0, or the code that follows from a page that could not be written. */
int html_page_close(struct html_page *page, const struct html_page_end *end);

/* Nothing was done: nothing is left. */
void html_page_abandon(struct html_page *page);

#endif
