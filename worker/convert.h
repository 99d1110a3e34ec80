/* convert: between values in shared memory and Python objects.
 *
 * Python to value: None, bool, int, float, str, bytes, list, tuple, dict (these exact types, or
 * subclasses of them: bool, int, float, str, bytes as their base; subclasses of list, tuple, dict,
 * namedtuples among them, as their base too), ints beyond 64 bits as hexadecimal text, numpy
 * scalars and 0-d arrays by item(), what has __index__ as int, other numpy arrays, memoryview and bytearray
 * as arrays (array.h; not in chunks); anything else pickled (protocol 5).
 * What cannot be pickled is a TypeError that names the type; a nesting deeper than
 * PC_VALUE_DEPTH_MAX, or a container that holds itself, a ValueError; text with a lone surrogate a
 * UnicodeEncodeError; a container that changes while its items are pickled, a RuntimeError.
 *
 * Ownership is Python's: new references are returned, arguments are borrowed. All functions need
 * the GIL, and on failure leave a Python exception set. */
#ifndef PC_WORKER_CONVERT_H
#define PC_WORKER_CONVERT_H

#include <Python.h>

#include "lib/shm/chunk.h"
#include "lib/shm/value.h"

/* Looks up what conversion needs (pickle, json; numpy later, once somebody has imported it).
 * 0 or -1. */
int pc_convert_init(void);

/* One value. NULL with an exception: a JSON text that does not parse is json.JSONDecodeError, text
 * that is not UTF-8 a UnicodeDecodeError, a malformed value a SystemError. Nothing but OBJECT can
 * run user code (and the hash of a dict's key, where the key is one). */
PyObject *pc_decode(const pc_view *view);

/* Whether the exception that is set, by the last decoding, says that a JSON text does not parse, or
 * that Python does not take it: nested too deep, an int of too many digits; or that an array's type is none.
 * A JSONDecodeError of a pickle's is none. */
bool pc_convert_is_argument_error(void);

/* The arguments of a call, as vectorcall takes them. */
typedef struct pc_arguments {
    PyObject **items; /* positional, then keyword values; items[-1] is free for the callee */
    size_t positional;
    PyObject *names;    /* tuple of str, or NULL */
    size_t count;       /* of items */
    PyObject *small[9]; /* where items stand if there are at most 8 */
} pc_arguments;

/* 0 or -1; after either, pc_arguments_clear. A keyword that comes twice is a TypeError.
 * before_user_code(data) is called once, before the first value whose decoding can run user code
 * (an OBJECT), so that the loop can publish RUNNING; it may be NULL. */
int pc_decode_arguments(pc_cursor message, void (*before_user_code)(void *), void *data,
                        pc_arguments *ret);
void pc_arguments_clear(pc_arguments *arguments);

/* The same of a record (chunk.h): a word for each number; runs no user code. */
int pc_decode_record(const uint64_t *words, uint64_t shape, pc_arguments *ret);

/* 1 and a new reference: to what a numpy scalar or 0-d array holds, or the int that __index__ gives; 0:
 * object is neither; -1. */
int pc_convert_plain(PyObject *object, PyObject **ret);

/* Writes object; json: as JSON text instead (json.dumps with ensure_ascii=False, bytes as
 * base64; what it cannot write is its TypeError). 0; -1 with a Python exception set; or the writer's negative errno
 * (-ENOMEM, -E2BIG: all below -1) with none set. After a failure the writer's size is as before. */
int pc_encode(pc_writer *writer, PyObject *object, bool json);

/* The same for a host function's argument: bytearrays and memoryviews as bytes, numpy's arrays with their elements;
 * those of no plain numbers are a TypeError. */
int pc_encode_argument(pc_writer *writer, PyObject *object);

#endif
