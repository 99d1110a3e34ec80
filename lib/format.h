/* format: the language of pycrew.h's formats, from varargs to a message and from a result to
 * pointers.
 *
 * Format errors are -EINVAL and name the byte and the argument:
 *
 *     format "ix>i": byte 1: 'x' is no unit (argument 2)
 *
 * Type errors name the place and both types: "result item 2: expected int, got str". */
#ifndef PC_FORMAT_H
#define PC_FORMAT_H

#include <stdarg.h>

#include "lib/builder.h"
#include "lib/shm/value.h"

/* Appends the arguments of the units before '>' or the end. *ret_rest (may be NULL) points there. A
 * result's part is checked too, and sets builder->json_result if it is 'j' (it is never cleared
 * here). Returns 0, or pc_build_*'s codes; the message then ends anywhere. */
int pc_format_build(pc_builder *builder, const char *format, va_list *args, const char **ret_rest);

/* Stores a result, a message of one value, through the pointers in args. format is the part after
 * '>', with or without it. call: whose arrays may be in it, or NULL. copy: texts and bytes are malloc'ed for the caller, with a NUL
 * behind them, and arrays are taken; else they point into the message. Returns 0, or PYCREW_ETYPE, -ERANGE, -EINVAL or -ENOMEM
 * and has touched no output. The message is read once: one that others write to can only be wrong.
 */
int pc_format_result(pc_cursor message, pycrew_call *call, const char *format, va_list *args, bool copy);

/* The other way round: stores a message of arguments, keywords among them, through the pointers in args. format
 * has a unit for each; `name=` before one says that it may come as this keyword, too, and all behind a '|' may be
 * missing: their pointers are left alone. Texts and bytes point into the message. Returns 0, PYCREW_ETYPE
 * (another type; too many, too few, an unknown keyword), -ERANGE or -EINVAL and has touched no output. */
int pc_format_arguments(pc_cursor message, const char *format, va_list *args);

#endif
