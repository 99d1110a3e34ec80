/* page: --report FILE, one HTML page of how a map went.
 *
 * Nothing in it comes from elsewhere, and there is no script: charts are SVG, made here. All that
 * comes from data (names, messages, tracebacks, the command) is escaped. What is kept meanwhile
 * does not grow with the input. */
#ifndef CLI_PAGE_H
#define CLI_PAGE_H

#include "cli/reader.h"
#include "cli/timeline.h"
#include "cli/writer.h"
#include "lib/pycrew.h"

enum { PAGE_TYPES = 40 }; /* of errors, with a traceback each; the others are counted */

struct page_error {
    char *type, *message, *traceback, *place; /* of the first one; traceback may be NULL */
    uint64_t count;
};

struct page {
    bool wanted;
    struct writer writer;
    struct timeline timeline;
    int64_t started; /* seconds since 1970 */
    struct page_error errors[PAGE_TYPES];
    unsigned types;
    uint64_t other_errors;
};

/* How it went. */
struct page_end {
    const char *function;
    uint64_t read, done, failed, retried;
    double seconds;
    int code;
};

/* path: the page; trace: --trace FILE, or NULL. 0, or a code after saying why. */
int page_open(struct page *page, const char *path, const char *trace, bool force);

/* Notes a record's, or group's, failure. */
void page_error(struct page *page, const struct record *record, const pycrew_error *error);

/* After the crew's end. 0, or the code that follows from a page that could not be written. */
int page_close(struct page *page, const struct page_end *end);

/* Nothing was done: nothing is left. */
void page_abandon(struct page *page);

#endif
