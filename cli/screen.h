/* screen: pycrew top on a terminal, by ncurses. */
#ifndef CLI_SCREEN_H
#define CLI_SCREEN_H

#include "cli/page.h"

/* What the screen asks of who shows it. */
struct screen_source {
    void *data;
    /* A new look into page. false: there is nothing more to see; why is said when the screen is
     * gone. */
    bool (*look)(void *data, struct page *page, enum page_order order);
    /* The stack of a worker's oldest call, or of the crew's (worker -1), as lines of text. */
    void (*stack)(void *data, int worker, struct buffer *to);
    int64_t interval_ns;
    bool begin_with_stack;
};

/* Whether this program was built with ncurses, and the terminal is likely one that it knows. */
bool screen_is_there(const char **problem);

/* Until 'q', a signal, or the end of what there is to see. false: the terminal is not known after
 * all. */
bool screen_run(const struct screen_source *source);

#endif
