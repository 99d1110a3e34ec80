/* result: reading values by type. The one place where the rules of conversion stand; formats,
 * pycrew_result_* and pycrew_value_* all use them:
 *
 *   bool  from bool                     i64, u64  from int, and bool as 0 and 1
 *   f64   from float, int, bool, as Python's float() does
 *   text  of the tag asked for; UTF-8 if it is text
 *
 * Another type is PYCREW_ETYPE, a value that does not fit -ERANGE, a text with a NUL inside
 * where nobody asks for its size -EINVAL. A message someone has scribbled on is PYCREW_ETYPE or a
 * wrong value, never a read outside of it. */
#ifndef PC_RESULT_H
#define PC_RESULT_H

#include "lib/pycrew.h"
#include "lib/shm/value.h"

/* ---- of a message that is one value; the last error is set ---- */

int pc_result_bool(pc_cursor message, bool *ret);
int pc_result_i64(pc_cursor message, int64_t *ret);
int pc_result_u64(pc_cursor message, uint64_t *ret);
int pc_result_f64(pc_cursor message, double *ret);

/* ret points into the message, with a NUL behind it. size may be NULL: then a NUL inside is
 * -EINVAL. */
int pc_result_str(pc_cursor message, const char **ret, size_t *size);
int pc_result_json(pc_cursor message, const char **ret, size_t *size);
int pc_result_bytes(pc_cursor message, const void **ret, size_t *size); /* size may be NULL */

/* The array of a call's message; take: for the user to drop. */
int pc_result_array(pc_cursor message, pycrew_call *call, bool take, pycrew_array *ret);

/* The message's first value, as the public sees it; invalid if there is none. call: whose arrays may
 * be in it, or NULL. */
pycrew_value pc_result_value(pc_cursor message, const pycrew_call *call);

/* ---- of a view; nothing but the code ---- */

int pc_view_bool(const pc_view *view, bool *ret);
int pc_view_i64(const pc_view *view, int64_t *ret);
int pc_view_u64(const pc_view *view, uint64_t *ret);
int pc_view_f64(const pc_view *view, double *ret);

/* The bytes of a value with this tag; size may be NULL: then a NUL inside a text is -EINVAL. */
int pc_view_data(const pc_view *view, enum pc_tag tag, const char **ret, size_t *size);

/* ---- for messages ---- */

/* "int", "str", "None", "a pickled object"; INVALID: "nothing readable". */
const char *pc_tag_text(enum pc_tag tag);

/* Sets the last error for a code the functions above gave: where is "result item 2", type
 * what was wanted ("int"), c_type what it must fit ("int64_t"). Returns code. */
int pc_result_fail(int code, const char *where, const char *type, const char *c_type,
                   const pc_view *view);

/* The same for a code of pc_arrays_view. */
int pc_result_fail_array(int code, const char *where, const pc_view *view);

#endif
