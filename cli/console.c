/* console: what is said on stderr. */
#include "cli/console.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char bar[256]; /* empty: none */
static bool drawn;

/* Whole, if stderr takes it; nobody is left to be told if not. */
static void put(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = write(STDERR_FILENO, text, size);
        if (written <= 0)
            return;
        text += written;
        size -= (size_t)written;
    }
}

static size_t terminal_width(void)
{
    struct winsize window;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col == 0)
        return 80;
    return window.ws_col;
}

static void erase(void)
{
    if (drawn)
        put("\r\033[K", 4);
    drawn = false;
}

static void draw(void)
{
    if (bar[0] == '\0')
        return;
    char line[sizeof(bar) + 8];
    size_t most = terminal_width() - 1; /* a full line would wrap */
    int precision = most < sizeof(bar) ? (int)most : (int)sizeof(bar);
    int size = snprintf(line, sizeof(line), "\r%.*s\033[K", precision, bar);
    put(line, (size_t)size);
    drawn = true;
}

/* One write a line, so that other processes' output does not get into it. */
static void put_line(const char *text, size_t size)
{
    char *line = malloc(size + 1);
    pthread_mutex_lock(&lock);
    erase();
    if (line != NULL) {
        memcpy(line, text, size);
        line[size] = '\n';
        put(line, size + (size == 0 || text[size - 1] != '\n'));
    } else {
        put(text, size);
    }
    draw();
    pthread_mutex_unlock(&lock);
    free(line);
}

void say_text(const char *text)
{
    put_line(text, strlen(text));
}

static void say_list(const char *format, va_list args)
{
    char *text = NULL, *line = NULL;
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    if (text != NULL && asprintf(&line, "pycrew: %s", text) < 0)
        line = NULL;
    say_text(line != NULL ? line : "pycrew: out of memory");
    free(line);
    free(text);
}

void say(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say_list(format, args);
    va_end(args);
}

void die(int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say_list(format, args);
    va_end(args);
    exit(code);
}

void console_bar(const char *text)
{
    pthread_mutex_lock(&lock);
    if (text == NULL)
        erase();
    snprintf(bar, sizeof(bar), "%s", text != NULL ? text : "");
    draw();
    pthread_mutex_unlock(&lock);
}

void console_hide_bar(void)
{
    pthread_mutex_lock(&lock);
    erase();
}

void console_show_bar(void)
{
    draw();
    pthread_mutex_unlock(&lock);
}
