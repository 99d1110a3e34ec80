/* page: a look at a crew as lines of text, for a terminal or a file, and as a JSON object. */
#ifndef CLI_PAGE_H
#define CLI_PAGE_H

#include "cli/look.h"

enum line_style { LINE_PLAIN, LINE_TITLE, LINE_HEAD, LINE_BUSY, LINE_CHANGING, LINE_BAD };

enum page_order { BY_NUMBER, BY_AGE, BY_CALLS, BY_BUSY, BY_RSS, BY_DEATHS, PAGE_ORDERS };

/* What the sort keys are called, and the letter for each. */
extern const char page_order_keys[PAGE_ORDERS];
extern const char *const page_order_names[PAGE_ORDERS];

struct line {
    size_t start; /* in the text; its end is the next one's start, less the NUL */
    enum line_style style;
};

struct page {
    struct buffer text;
    struct line *lines;
    size_t count, room;
    size_t head;      /* the line with the table's titles: a worker each follows */
    unsigned *worker; /* of those lines, in the page's order */
};

/* Where the crew is: its process, and which of that one's crews. */
struct page_about {
    const struct crew_place *place;
    size_t number, count; /* of its crews, from 1 */
    const char *command;  /* what the host was started as */
    const char *note;     /* or NULL */
};

void page_write(struct page *page, const struct page_about *about, const struct look *look,
                enum page_order order);
void page_free(struct page *page);

static inline const char *page_line(const struct page *page, size_t line)
{
    return page->text.data + page->lines[line].start;
}

/* Appends the object, without a newline. stack: of the oldest call, or NULL; problem: why there is
 * none. */
void page_json(struct buffer *to, const struct page_about *about, const struct look *look,
               bool with_stack, const char *stack, const char *problem);

/* Of worker's call, with how long it has run: what stands above a stack. */
void page_describe_call(struct buffer *to, const struct look_worker *worker);

#endif
