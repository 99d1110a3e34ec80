/* error: the thread's last error, texts of codes, errors with strings of their own. */
#include "lib/error.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/shm/value.h"

#ifndef PYCREW_VERSION
#define PYCREW_VERSION "0.1.0"
#endif

enum { TEXT_SIZE = 512 }; /* what an error without a traceback needs; more is allocated */

typedef struct thread_error {
    pycrew_error public;
    char *heap; /* where the strings stand if text is too small, else NULL */
    char text[TEXT_SIZE];
} thread_error;

#define NO_ERROR                                                                                   \
    {                                                                                              \
        .size = sizeof(pycrew_error), .message = ""                                                \
    }

static const pycrew_error no_error = NO_ERROR;
static __thread thread_error last = {.public = NO_ERROR};

/* Its value in each thread is last.heap, so that it is freed when the thread ends. */
static pthread_key_t heap_key;
static pthread_once_t heap_key_once = PTHREAD_ONCE_INIT;
static atomic_bool heap_key_made; /* and not yet deleted */

/* ---- texts of codes -------------------------------------------------------------------------- */

const char *pycrew_version(void)
{
    return PYCREW_VERSION;
}

/* errno values whose own text would mislead here ("Connection timed out"). */
static const char *own_text(int code)
{
    switch (code) {
    case -ETIMEDOUT:
        return "the call's deadline has passed";
    case -ETIME:
        return "this wait's time is up; what it waited for goes on";
    case -ESHUTDOWN:
        return "the crew takes no more calls";
    case -ECANCELED:
        return "the call was cancelled";
    case -E2BIG:
        return "the arguments are larger than the memory allowed";
    case -EALREADY:
        return "the call is not in a state for this";
    default:
        return NULL;
    }
}

const char *pycrew_strerror(int code)
{
    switch (code) {
#define CODE_TEXT(name, value, text)                                                               \
    case value:                                                                                    \
        return text;
        PYCREW_CODES(CODE_TEXT)
#undef CODE_TEXT
    case 0:
        return "no error";
    case INT_MIN:
        return "unknown code"; /* has no positive counterpart */
    default:
        break;
    }
    int negative = code < 0 ? code : -code;
    const char *text = own_text(negative);
    if (!text)
        text = strerrordesc_np(-negative);
    return text ? text : "unknown code";
}

/* ---- UTF-8 ----------------------------------------------------------------------------------- */

/* The size of the character at text, 0 if there is no valid one. */
static size_t character_size(const char *text, size_t left)
{
    for (size_t size = 1; size <= 4 && size <= left; size++)
        if (pc_utf8_valid(text, size))
            return size;
    return 0;
}

size_t pc_utf8_prefix(const char *text, size_t size)
{
    size_t at = 0, step;
    while (at < size && (step = character_size(text + at, size - at)) > 0)
        at += step;
    return at;
}

static void make_utf8(char *text, size_t size)
{
    if (pc_utf8_valid(text, size))
        return;
    for (size_t at = pc_utf8_prefix(text, size); at < size;
         at += pc_utf8_prefix(text + at, size - at))
        text[at] = '?';
}

/* ---- a thread's memory ----------------------------------------------------------------------- */

/* The host's own destructors may call pycrew after this one, so nothing may be left dangling. */
static void end_thread(void *heap)
{
    last.heap = NULL;
    last.public = no_error;
    free(heap);
}

static void make_heap_key(void)
{
    heap_key_made = pthread_key_create(&heap_key, end_thread) == 0;
}

/* Memory for size bytes that the thread's end frees, or NULL. It replaces last.heap only in
 * install(), because what is copied into it may stand there. */
static char *allocate(size_t size)
{
    pthread_once(&heap_key_once, make_heap_key);
    /* The first setspecific in a thread allocates; later ones for the same key cannot fail. */
    if (!heap_key_made || pthread_setspecific(heap_key, last.heap) != 0)
        return NULL;
    return malloc(size);
}

static void install(const pycrew_error *error, char *heap)
{
    if (last.heap) {
        pthread_setspecific(heap_key, NULL);
        free(last.heap);
    }
    if (heap)
        pthread_setspecific(heap_key, heap);
    last.heap = heap;
    last.public = *error;
    last.public.size = sizeof last.public;
}

/* At exit other threads may still be running and reading theirs, so only this thread's is freed. */
__attribute__((destructor)) static void unload(void)
{
    install(&no_error, NULL);
    if (atomic_exchange(&heap_key_made, false))
        pthread_key_delete(heap_key); /* else a thread that ends later calls end_thread, unloaded */
}

const pycrew_error *pycrew_last_error(void)
{
    return &last.public;
}

/* Puts text in the thread's own memory, cut to what fits. */
static void install_short(const pycrew_error *error, const char *text, size_t size)
{
    if (size >= TEXT_SIZE)
        size = TEXT_SIZE - 1;
    memmove(last.text, text, size);
    last.text[size] = '\0';
    make_utf8(last.text, size);
    install(error, NULL);
    last.public.message = last.text;
}

int pc_fail_static(int code, const char *text)
{
    pycrew_error error = {.code = code, .message = text};
    install(&error, NULL);
    return code;
}

int pc_fail(int code, const char *format, ...)
{
    pycrew_error error = {.code = code};
    char text[TEXT_SIZE]; /* not last.text: the arguments may stand there */
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(text, sizeof text, format, args);
    size_t size = length < 0 ? 0 : (size_t)length;
    char *heap = size >= sizeof text ? allocate(size + 1) : NULL;
    if (heap) {
        vsnprintf(heap, size + 1, format, again);
        make_utf8(heap, strlen(heap));
        error.message = heap;
        install(&error, heap);
    } else {
        install_short(&error, length < 0 ? format : text, length < 0 ? strlen(format) : size);
    }
    va_end(again);
    va_end(args);
    return code;
}

/* ---- copies of errors ------------------------------------------------------------------------ */

/* Copies text to *at and moves *at behind its end. What follows a NUL inside stays unseen. */
static const char *put(char **at, pc_text text)
{
    if (!text.data)
        return NULL;
    char *start = *at;
    if (text.size > 0)
        memcpy(start, text.data, text.size);
    start[text.size] = '\0';
    make_utf8(start, strlen(start));
    *at = start + text.size + 1;
    return start;
}

static size_t room(pc_text text)
{
    return text.data ? text.size + 1 : 0;
}

int pc_fail_after_run(int code, unsigned attempts)
{
    last.public.may_have_run = true;
    last.public.attempts = attempts;
    return code;
}

int pc_fail_error(const pycrew_error *error)
{
    pc_text function = pc_text_of(error->function), type = pc_text_of(error->type);
    pc_text message = pc_text_of(error->message ? error->message : pycrew_strerror(error->code));
    pc_text traceback = pc_text_of(error->traceback);

    pycrew_error copy = *error;
    copy.function = copy.type = copy.traceback = NULL;
    char *heap = allocate(room(function) + room(type) + room(message) + room(traceback));
    if (!heap) {
        install_short(&copy, message.data, message.size);
        return copy.code;
    }
    char *at = heap;
    copy.function = put(&at, function);
    copy.type = put(&at, type);
    copy.message = put(&at, message);
    copy.traceback = put(&at, traceback);
    install(&copy, heap);
    return copy.code;
}

int pc_error_set(pc_error *error, int code, pc_text function, pc_text type, pc_text message,
                 pc_text traceback)
{
    if (!message.data)
        message = pc_text_of(pycrew_strerror(code));
    pycrew_error public = {.size = sizeof public, .code = code, .message = pycrew_strerror(code)};
    char *strings = malloc(room(function) + room(type) + room(message) + room(traceback));
    if (strings) {
        char *at = strings;
        public.function = put(&at, function);
        public.type = put(&at, type);
        public.message = put(&at, message);
        public.traceback = put(&at, traceback);
    }
    free(error->strings); /* only now: the texts may stand in it */
    error->strings = strings;
    error->public = public;
    return code;
}

void pc_error_clear(pc_error *error)
{
    free(error->strings);
    *error = (pc_error){.public = NO_ERROR};
}
