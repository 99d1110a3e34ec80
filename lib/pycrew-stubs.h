/* pycrew-stubs: what the C code that `pycrew stubs` writes stands on; beside pycrew.h, for that code and for
 * bindings like it.
 *
 * A stub is a C function with a Python function's name and types. It is given the crew with each call, so it
 * cannot keep the function's handle, which is the crew's: a pycrew_stub finds that again, by two loads.
 */
#ifndef PYCREW_STUBS_H
#define PYCREW_STUBS_H

#include "pycrew.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A str with its size (option --sized-str); NUL-terminated too where it is a result. In an argument data NULL is
 * the empty one, or, of an Optional, None. */
typedef struct pycrew_str {
    const char *data;
    size_t size;
} pycrew_str;

/* Of a literal or array of char, without its NUL. */
#define PYCREW_STR(literal) {(literal), sizeof(literal) - 1}

typedef struct pycrew_bytes {
    const void *data; /* may be NULL where size is 0 */
    size_t size;
} pycrew_bytes;

/* A function, for all crews and threads alike: static, begun with PYCREW_STUB_INIT. */
typedef struct pycrew_stub {
    const char *name;   /* "package.module:name"; with source: the name in it */
    const char *source; /* as pycrew_function_source's; NULL: none */
    unsigned number;    /* the library's own */
} pycrew_stub;

#define PYCREW_STUB_INIT(name, source) {(name), (source), 0}

/* The crew's handle for it: as pycrew_function_get, or pycrew_function_source, and quick from the second time on. */
PYCREW_API int pycrew_stub_function(pycrew_crew *crew, pycrew_stub *stub, const pycrew_function **ret);

/* As pycrew_prepare. */
PYCREW_API int pycrew_stub_prepare(pycrew_crew *crew, pycrew_stub *stub, int64_t timeout_ns, pycrew_call **ret);

/* Private memory for what a result is read into, aligned for all types, not zeroed: it is there as long as what
 * pycrew_result_... give, until release, and of a stream until the next item. NULL: -ENOMEM. */
PYCREW_API void *pycrew_call_alloc(pycrew_call *call, size_t count, size_t size);

/* The items of a container. kind: PYCREW_LIST or PYCREW_TUPLE, which are taken for each other, or PYCREW_DICT. *count:
 * how many there are to be, SIZE_MAX for any number; then, how many there are. type: for the error, "list". PYCREW_ETYPE. */
PYCREW_API int pycrew_value_items(pycrew_value value, int kind, const char *type, size_t *count,
                                  pycrew_value *first);

/* Whether it is of this type (PYCREW_TYPE_...): PYCREW_ETYPE. */
PYCREW_API int pycrew_value_expect(pycrew_value value, int type);

/* An int from least to most: PYCREW_ETYPE, -ERANGE. */
PYCREW_API int pycrew_value_int(pycrew_value value, int64_t least, int64_t most, int64_t *ret);

/* Whether its elements are of this type: PYCREW_ETYPE. array NULL: -EINVAL. */
PYCREW_API int pycrew_array_expect(const pycrew_array *array, pycrew_dtype dtype);

/* The last error, which has this code, with words put in front: where it was ("[3].x"). Returns code. */
PYCREW_API int pycrew_fail_at(int code, const char *where);

/* The last error, which has this code, as one of a function whose result is not what its annotation says:
 * "math_ops:add returns int: expected int, got str". Returns code. */
PYCREW_API int pycrew_fail_result(const pycrew_call *call, int code, const char *function,
                                  const char *annotation);

#ifdef __cplusplus
}
#endif
#endif
