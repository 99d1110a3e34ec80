/* console: what is said on stderr.
 *
 * Lines come from two threads (the command's, and the crew's with what Python prints), and may
 * meet a progress bar. Each is written whole, above the bar, and the bar drawn anew below. */
#ifndef CLI_CONSOLE_H
#define CLI_CONSOLE_H

#include <stddef.h>

/* "pycrew: ..." and a newline. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, then exit(code). */
_Noreturn void die(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The text as it is, with a newline if it ends without one. */
void say_text(const char *text);

/* The line at the bottom of the terminal, cut to its width; NULL: none. */
void console_bar(const char *text);

/* Around a write to stdout when that is the terminal too: the bar would be mixed with it. */
void console_hide_bar(void);
void console_show_bar(void);

#endif
