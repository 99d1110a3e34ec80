/* screen: three parts, from the top: what the page says of the crew, the table of workers (or a
 * stack, when one was asked for), and a line with the keys. Each may be cut by a small terminal. */
#include "cli/screen.h"

#ifdef HAVE_NCURSES

#include <curses.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wchar.h>

#include "cli/progress.h"
#include "cli/signals.h"

struct screen {
    const struct screen_source *source;
    struct page page;
    enum page_order order;
    int selected; /* a worker; -1: the crew's oldest call is meant */
    size_t first; /* of the table or the stack: the line that stands uppermost */
    bool shows_stack, over, selection_moved;
    struct buffer stack;
};

bool screen_is_there(const char **problem)
{
    const char *terminal = getenv("TERM");
    *problem = "the terminal is not known (TERM), or can only print lines";
    return terminal != NULL && *terminal != '\0' && strcmp(terminal, "dumb") != 0;
}

/* ---- drawing --------------------------------------------------------------------------------- */

static attr_t attributes_of(enum line_style style)
{
    switch (style) {
    case LINE_TITLE:
        return A_BOLD;
    case LINE_HEAD:
        return A_REVERSE;
    case LINE_BUSY:
        return COLOR_PAIR(1);
    case LINE_CHANGING:
        return COLOR_PAIR(2);
    case LINE_BAD:
        return COLOR_PAIR(3) | A_BOLD;
    default:
        return A_NORMAL;
    }
}

/* How many bytes of the text fit the width. */
static int fit(const char *text, int width, int *columns)
{
    mbstate_t state = {0};
    int bytes = 0;
    *columns = 0;
    while (text[bytes] != '\0') {
        wchar_t c;
        size_t size = mbrtowc(&c, text + bytes, MB_CUR_MAX, &state);
        int width_of = size > MB_CUR_MAX ? -1 : wcwidth(c);
        if (width_of < 0 || *columns + width_of > width)
            break; /* the C locale and a name that is not ASCII: the rest is not shown */
        *columns += width_of;
        bytes += (int)size;
    }
    return bytes;
}

static void draw(int row, const char *text, attr_t attributes)
{
    int columns, bytes = fit(text, COLS, &columns);
    move(row, 0);
    clrtoeol();
    attrset((int)attributes);
    addnstr(text, bytes);
    if (attributes & A_REVERSE)
        for (; columns < COLS; columns++)
            addch(' ');
    attrset(A_NORMAL);
}

/* Of the lines about the crew so many that the table has its rows. */
static int top_rows(const struct screen *s)
{
    enum { TABLE_ROWS = 6, LEAST = 3 };
    int head = (int)s->page.head, room = LINES - TABLE_ROWS - 1;
    return room >= head ? head : room > LEAST ? room : LEAST;
}

static int body_rows(const struct screen *s)
{
    int rows = LINES - top_rows(s) - 2;
    return rows > 1 ? rows : 1;
}

static void draw_keys(const struct screen *s)
{
    char text[160];
    if (s->shows_stack)
        snprintf(text, sizeof text,
                 "q quit   s the stack anew   up, down more of it   any other key: back");
    else
        snprintf(text, sizeof text,
                 "q quit   s stack of the %s   up, down choose   sort by n t c b m d: %s",
                 s->selected < 0 ? "oldest" : "chosen", page_order_names[s->order]);
    draw(LINES - 1, text, A_DIM);
}

static size_t page_rows(const struct page *page)
{
    return page->count - page->head - 1;
}

static void clamp_first(struct screen *s, size_t rows)
{
    size_t shown = (size_t)body_rows(s);
    if (s->first + shown > rows)
        s->first = rows > shown ? rows - shown : 0;
}

/* The row that the selected worker's line is; -1: none is. */
static int selected_row(const struct screen *s)
{
    for (size_t i = 0; i < page_rows(&s->page); i++)
        if ((int)s->page.worker[i] == s->selected)
            return (int)i;
    return -1;
}

/* The chosen worker stays in sight. */
static void scroll_to_selection(struct screen *s)
{
    int row = selected_row(s);
    if (row < 0 || !s->selection_moved)
        return;
    if ((size_t)row < s->first)
        s->first = (size_t)row;
    if (row >= (int)s->first + body_rows(s))
        s->first = (size_t)(row - body_rows(s) + 1);
    s->selection_moved = false;
}

static void draw_table(struct screen *s)
{
    int top = top_rows(s);
    draw(top, page_line(&s->page, s->page.head), attributes_of(LINE_HEAD));
    scroll_to_selection(s);
    clamp_first(s, page_rows(&s->page));
    for (int row = 0; row < body_rows(s); row++) {
        size_t at = s->first + (size_t)row, number = s->page.head + 1 + at;
        bool there = number < s->page.count;
        attr_t attributes = there ? attributes_of(s->page.lines[number].style) : A_NORMAL;
        if (there && (int)s->page.worker[at] == s->selected)
            attributes |= A_REVERSE;
        draw(top + 1 + row, there ? page_line(&s->page, number) : "", attributes);
    }
}

static void draw_stack(struct screen *s)
{
    char *copy = copy_bytes(buffer_string(&s->stack), s->stack.size), *rest = copy, *text;
    size_t rows = 0, number = 0;
    for (size_t i = 0; i < s->stack.size; i++)
        rows += copy[i] == '\n';
    clamp_first(s, rows);
    int row = top_rows(s), last = row + body_rows(s);
    while ((text = strsep(&rest, "\n")) != NULL && row <= last)
        if (number++ >= s->first || number == 1)
            draw(row++, text, number == 1 ? A_REVERSE : A_NORMAL);
    while (row <= last)
        draw(row++, "", A_NORMAL);
    free(copy);
}

static void draw_all(struct screen *s)
{
    erase();
    for (int i = 0; i < top_rows(s); i++)
        draw(i, page_line(&s->page, (size_t)i), attributes_of(s->page.lines[i].style));
    if (s->shows_stack)
        draw_stack(s);
    else
        draw_table(s);
    draw_keys(s);
    refresh();
}

/* ---- keys ------------------------------------------------------------------------------------ */

static void take_stack(struct screen *s)
{
    buffer_clear(&s->stack);
    s->source->stack(s->source->data, s->selected, &s->stack);
    if (!s->shows_stack)
        s->first = 0;
    s->shows_stack = true;
}

static void choose_worker(struct screen *s, int step)
{
    int row = selected_row(s) + step, rows = (int)page_rows(&s->page);
    if (row < 0)
        s->selected = -1;
    else
        s->selected = (int)s->page.worker[row < rows ? row : rows - 1];
    s->selection_moved = true;
}

static void scroll_stack(struct screen *s, int step)
{
    if (step > 0 || s->first > 0)
        s->first = s->first + (size_t)step; /* draw_stack cuts it */
}

static void move_by(struct screen *s, int step)
{
    if (s->shows_stack)
        scroll_stack(s, step > 0 ? 1 : -1);
    else if (page_rows(&s->page) > 0)
        choose_worker(s, step);
}

/* true: the order of the workers is another. */
static bool take_order(struct screen *s, int key)
{
    const char *at = key > 0 && key < 128 ? memchr(page_order_keys, key, PAGE_ORDERS) : NULL;
    if (at == NULL)
        return false;
    s->order = (enum page_order)(at - page_order_keys);
    return true;
}

static void take_key(struct screen *s, int key)
{
    if (key == 'q' || key == 'Q')
        s->over = true;
    else if (key == 's')
        take_stack(s);
    else if (key == KEY_DOWN || key == 'j')
        move_by(s, 1);
    else if (key == KEY_UP || key == 'k')
        move_by(s, -1);
    else if (s->shows_stack && key != KEY_RESIZE) {
        s->shows_stack = false;
        s->first = 0;
    } else if (take_order(s, key) && !s->source->look(s->source->data, &s->page, s->order))
        s->over = true;
}

/* Until the time, or what was typed is done. */
static void wait_and_hear(struct screen *s, int64_t until)
{
    int64_t now = now_ns();
    int key;
    if (now < until)
        signals_poll(STDIN_FILENO, until - now);
    if (signals_stop() != STOP_NO)
        s->over = true;
    while (!s->over && (key = getch()) != ERR)
        take_key(s, key);
}

/* A terminal that was hung up can be read for ever. */
static bool input_is_there(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&input, 1, 0) <= 0 || (input.revents & (POLLHUP | POLLERR | POLLNVAL)) == 0;
}

static void run(struct screen *s)
{
    const int64_t interval = s->source->interval_ns;
    int64_t next = now_ns();
    while (!s->over) {
        if (now_ns() >= next) {
            if (!input_is_there() || !s->source->look(s->source->data, &s->page, s->order))
                return;
            next = now_ns() + interval;
        }
        draw_all(s);
        wait_and_hear(s, next);
    }
}

static void start_colours(void)
{
    if (start_color() != OK)
        return;
    use_default_colors();
    init_pair(1, COLOR_GREEN, -1);
    init_pair(2, COLOR_YELLOW, -1);
    init_pair(3, COLOR_RED, -1);
}

bool screen_run(const struct screen_source *source)
{
    struct screen s = {.source = source, .selected = -1};
    SCREEN *terminal;
    setlocale(LC_CTYPE, ""); /* only that: numbers have a point */
    terminal = newterm(NULL, stdout, stdin);
    if (terminal == NULL)
        return false;
    signals_soften();
    start_colours();
    cbreak();
    noecho();
    nonl();
    curs_set(0);
    keypad(stdscr, TRUE);
    nodelay(stdscr, TRUE);
    set_escdelay(50);
    if (source->look(source->data, &s.page, s.order)) {
        if (source->begin_with_stack)
            take_stack(&s);
        run(&s);
    }
    endwin();
    delscreen(terminal);
    page_free(&s.page);
    buffer_free(&s.stack);
    return true;
}

#else

bool screen_is_there(const char **problem)
{
    *problem = "this pycrew was built without ncurses";
    return false;
}

bool screen_run(const struct screen_source *source)
{
    (void)source;
    return false;
}

#endif
