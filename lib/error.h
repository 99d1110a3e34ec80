/* error: this thread's last error, and errors that belong to a call.
 *
 * Usage. What fails returns pc_fail(code, "what, and what to do about it"): the code passes
 * through. A call's error is a pc_error, made once from what the worker wrote, and handed to the
 * thread that asks for it by pc_fail_error(&error.public).
 *
 * Memory. A last error stands in thread-local memory. Only a text that does not fit there is
 * allocated, freed by the next error, by the thread's end, or by the library's. Where memory is
 * out, code and message survive, the message cut short. */
#ifndef PC_ERROR_H
#define PC_ERROR_H

#include <string.h>

#include "lib/pycrew.h"

/* Text with its size, as it comes from a message. data NULL: no text. */
typedef struct pc_text {
    const char *data;
    size_t size;
} pc_text;

static inline pc_text pc_text_of(const char *text)
{
    return (pc_text){text, text ? strlen(text) : 0};
}

/* How many bytes at the start of text are whole, valid UTF-8 characters: size if all are. */
size_t pc_utf8_prefix(const char *text, size_t size);

/* Sets the last error, its other fields cleared. Returns code. The arguments may be strings of the
 * present last error. */
int pc_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same with a literal, at the cost of two stores: for codes that a loop may meet each time. */
int pc_fail_static(int code, const char *text);

/* For what failed with the result of a call that returned: code, said to have run, attempts times. */
int pc_fail_after_run(int code, unsigned attempts);

/* Sets the last error to a copy of error and all its strings. Returns its code. */
int pc_fail_error(const pycrew_error *error);

/* An error that owns its strings. {0} is a valid one, without error. */
typedef struct pc_error {
    pycrew_error public;
    char *strings;
} pc_error;

/* Copies the texts, each cut at its first NUL; bytes that are not UTF-8 become '?'. They may lie in
 * memory that others write to. A message without data is the code's own text. The other public
 * fields are cleared, to be set by the caller. Returns code; if memory is out, only it and its
 * text are kept. */
int pc_error_set(pc_error *error, int code, pc_text function, pc_text type, pc_text message,
                 pc_text traceback);

/* Back to no error. */
void pc_error_clear(pc_error *error);

#endif
