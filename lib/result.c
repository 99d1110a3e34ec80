/* result: values by type, and the public walk through them. */
#include "lib/result.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "lib/array.h"
#include "lib/error.h"

/* ---- numbers --------------------------------------------------------------------------------- */

int pc_view_bool(const pc_view *view, bool *ret)
{
    if (view->tag != PC_TAG_BOOL)
        return PYCREW_ETYPE;
    *ret = view->boolean;
    return 0;
}

int pc_view_i64(const pc_view *view, int64_t *ret)
{
    switch (view->tag) {
    case PC_TAG_I64:
        *ret = view->i64;
        return 0;
    case PC_TAG_BOOL:
        *ret = view->boolean;
        return 0;
    case PC_TAG_U64:
        if (view->u64 > INT64_MAX)
            return -ERANGE;
        *ret = (int64_t)view->u64;
        return 0;
    case PC_TAG_BIGINT:
        return -ERANGE;
    default:
        return PYCREW_ETYPE;
    }
}

int pc_view_u64(const pc_view *view, uint64_t *ret)
{
    switch (view->tag) {
    case PC_TAG_I64:
        if (view->i64 < 0)
            return -ERANGE;
        *ret = (uint64_t)view->i64;
        return 0;
    case PC_TAG_BOOL:
        *ret = view->boolean;
        return 0;
    case PC_TAG_U64:
        *ret = view->u64;
        return 0;
    case PC_TAG_BIGINT:
        return -ERANGE;
    default:
        return PYCREW_ETYPE;
    }
}

static int hex_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The nearest double, ties to even. The first 16 digits hold at least 61 significant bits; of what
 * follows it only matters for the rounding whether it is zero, and the lowest of the 61 bits, which
 * no double keeps, can say that. */
static int bigint_to_f64(const char *hex, uint64_t size, double *ret)
{
    bool negative = size > 0 && hex[0] == '-';
    uint64_t at = negative, mantissa = 0, dropped = 0;
    if (at == size)
        return PYCREW_ETYPE;
    for (; at < size; at++) {
        int digit = hex_value(hex[at]);
        if (digit < 0)
            return PYCREW_ETYPE;
        if (mantissa >> 60 == 0) {
            mantissa = mantissa << 4 | (uint64_t)digit;
        } else {
            mantissa |= digit != 0;
            dropped++;
        }
    }
    double value = dropped > 256 ? HUGE_VAL : ldexp((double)mantissa, (int)dropped * 4);
    if (isinf(value))
        return -ERANGE;
    *ret = negative ? -value : value;
    return 0;
}

int pc_view_f64(const pc_view *view, double *ret)
{
    switch (view->tag) {
    case PC_TAG_F64:
        *ret = view->f64;
        return 0;
    case PC_TAG_I64:
        *ret = (double)view->i64;
        return 0;
    case PC_TAG_U64:
        *ret = (double)view->u64;
        return 0;
    case PC_TAG_BOOL:
        *ret = view->boolean;
        return 0;
    case PC_TAG_BIGINT:
        return bigint_to_f64(view->data, view->length, ret);
    default:
        return PYCREW_ETYPE;
    }
}

/* ---- messages -------------------------------------------------------------------------------- */

const char *pc_tag_text(enum pc_tag tag)
{
    static const char *const texts[PC_TAG_COUNT] = {
        [PC_TAG_INVALID] = "nothing readable",
        [PC_TAG_NONE] = "None",
        [PC_TAG_BOOL] = "bool",
        [PC_TAG_I64] = "int",
        [PC_TAG_U64] = "int",
        [PC_TAG_F64] = "float",
        [PC_TAG_BIGINT] = "int",
        [PC_TAG_STR] = "str",
        [PC_TAG_BYTES] = "bytes",
        [PC_TAG_OBJECT] = "a pickled object",
        [PC_TAG_JSON] = "JSON text",
        [PC_TAG_NAME] = "nothing readable",
        [PC_TAG_ARRAY] = "array",
        [PC_TAG_LIST] = "list",
        [PC_TAG_TUPLE] = "tuple",
        [PC_TAG_DICT] = "dict",
    };
    return (unsigned)tag < PC_TAG_COUNT ? texts[tag] : texts[PC_TAG_INVALID];
}

static int fail_range(const char *where, const char *wanted, const pc_view *view)
{
    switch (view->tag) {
    case PC_TAG_I64:
        return pc_fail(-ERANGE, "%s: %lld is out of range for %s", where, (long long)view->i64,
                       wanted);
    case PC_TAG_U64:
        return pc_fail(-ERANGE, "%s: %llu is out of range for %s", where,
                       (unsigned long long)view->u64, wanted);
    case PC_TAG_F64:
        return pc_fail(-ERANGE, "%s: %g is out of range for %s", where, view->f64, wanted);
    default:
        return pc_fail(-ERANGE, "%s: an int of %llu hexadecimal digits is out of range for %s",
                       where, (unsigned long long)view->length, wanted);
    }
}

int pc_result_fail(int code, const char *where, const char *type, const char *c_type,
                   const pc_view *view)
{
    const char *came = pc_tag_text(view->tag);
    if (code == -ERANGE)
        return fail_range(where, c_type, view);
    if (code == -EINVAL)
        return pc_fail(code, "%s: the %s has a NUL inside, so its size must be asked for", where,
                       came);
    if (view->tag == PC_TAG_INVALID || view->tag == PC_TAG_NAME)
        return pc_fail(code,
                       "%s: not readable: its call was released, or something wrote over it, or it is "
                       "no value",
                       where);
    if (strcmp(came, type) == 0) /* of the right type, and still refused */
        return pc_fail(code, "%s: the %s is not UTF-8", where, came);
    return pc_fail(code, "%s: expected %s, got %s", where, type, came);
}

int pc_result_fail_array(int code, const char *where, const pc_view *view)
{
    if (code == -EINVAL)
        return pc_fail(code, "%s: the array's size is not set (PYCREW_ARRAY_INIT)", where);
    if (code == -ENOMEM)
        return pc_fail(code, "%s: no memory for the array's format", where);
    if (view->tag == PC_TAG_ARRAY)
        return pc_fail(code,
                       "%s: the array is not there any more: its call was released, or the batch has "
                       "gone on to the next item; or something wrote over it",
                       where);
    return pc_result_fail(code, where, "array", "", view);
}

/* ---- texts and bytes ------------------------------------------------------------------------- */

int pc_view_data(const pc_view *view, enum pc_tag tag, const char **ret, size_t *size)
{
    if (view->tag != tag)
        return PYCREW_ETYPE;
    bool text = tag == PC_TAG_STR || tag == PC_TAG_JSON;
    if (text && !pc_utf8_valid(view->data, view->length))
        return PYCREW_ETYPE;
    if (text && !size && memchr(view->data, '\0', view->length))
        return -EINVAL;
    *ret = view->data;
    if (size)
        *size = view->length;
    return 0;
}

/* ---- of one value ---------------------------------------------------------------------------- */

/* INVALID if there is none. */
static pc_view first_view(pc_cursor cursor)
{
    pc_view view;
    if (cursor.at >= cursor.end || pc_value_next(&cursor, &view) <= 0)
        view = (pc_view){.tag = PC_TAG_INVALID};
    return view;
}

/* Each of these reads the first value of a message, with the place's name for its errors. */

static int fail_null(const char *where)
{
    return pc_fail(-EINVAL, "%s: the pointer to store it through is NULL", where);
}

static int get_bool(pc_cursor cursor, const char *where, bool *ret)
{
    if (!ret)
        return fail_null(where);
    pc_view view = first_view(cursor);
    int code = pc_view_bool(&view, ret);
    return code < 0 ? pc_result_fail(code, where, "bool", "bool", &view) : 0;
}

static int get_i64(pc_cursor cursor, const char *where, int64_t *ret)
{
    if (!ret)
        return fail_null(where);
    pc_view view = first_view(cursor);
    int code = pc_view_i64(&view, ret);
    return code < 0 ? pc_result_fail(code, where, "int", "int64_t", &view) : 0;
}

static int get_u64(pc_cursor cursor, const char *where, uint64_t *ret)
{
    if (!ret)
        return fail_null(where);
    pc_view view = first_view(cursor);
    int code = pc_view_u64(&view, ret);
    return code < 0 ? pc_result_fail(code, where, "int", "uint64_t", &view) : 0;
}

static int get_f64(pc_cursor cursor, const char *where, double *ret)
{
    if (!ret)
        return fail_null(where);
    pc_view view = first_view(cursor);
    int code = pc_view_f64(&view, ret);
    return code < 0 ? pc_result_fail(code, where, "float", "double", &view) : 0;
}

static int get_data(pc_cursor cursor, const char *where, enum pc_tag tag, const char **ret,
                    size_t *size)
{
    if (!ret)
        return fail_null(where);
    pc_view view = first_view(cursor);
    int code = pc_view_data(&view, tag, ret, size);
    return code < 0 ? pc_result_fail(code, where, pc_tag_text(tag), "", &view) : 0;
}

int pc_result_bool(pc_cursor message, bool *ret)
{
    return get_bool(message, "result", ret);
}

int pc_result_i64(pc_cursor message, int64_t *ret)
{
    return get_i64(message, "result", ret);
}

int pc_result_u64(pc_cursor message, uint64_t *ret)
{
    return get_u64(message, "result", ret);
}

int pc_result_f64(pc_cursor message, double *ret)
{
    return get_f64(message, "result", ret);
}

int pc_result_str(pc_cursor message, const char **ret, size_t *size)
{
    return get_data(message, "result", PC_TAG_STR, ret, size);
}

int pc_result_json(pc_cursor message, const char **ret, size_t *size)
{
    return get_data(message, "result", PC_TAG_JSON, ret, size);
}

static int get_bytes(pc_cursor cursor, const char *where, enum pc_tag tag, const void **ret,
                     size_t *size)
{
    const char *data = NULL;
    int code = get_data(cursor, where, tag, ret ? &data : NULL, size);
    if (code == 0)
        *ret = data;
    return code;
}

int pc_result_bytes(pc_cursor message, const void **ret, size_t *size)
{
    return get_bytes(message, "result", PC_TAG_BYTES, ret, size);
}

static int get_array(pc_cursor cursor, const char *where, pycrew_call *call, bool take,
                     pycrew_array *ret)
{
    if (!ret)
        return fail_null(where);
    pc_view view = first_view(cursor);
    int code = call ? pc_arrays_view(call, &view, take, ret) : pc_arrays_whole(&view, ret);
    return code < 0 ? pc_result_fail_array(code, where, &view) : 0;
}

int pc_result_array(pc_cursor message, pycrew_call *call, bool take, pycrew_array *ret)
{
    return get_array(message, "result", call, take, ret);
}

/* ---- the public walk ------------------------------------------------------------------------- */

static const pycrew_value no_value;

/* call: an address, kept in `reserved` for the arrays. */
static pycrew_value value_at(pc_cursor cursor, uint64_t call)
{
    return first_view(cursor).tag == PC_TAG_INVALID
               ? no_value
               : (pycrew_value){.at = cursor.at, .end = cursor.end, .reserved = call};
}

pycrew_value pc_result_value(pc_cursor message, const pycrew_call *call)
{
    return value_at(message, (uint64_t)(uintptr_t)call);
}

static pc_cursor cursor_of(pycrew_value value)
{
    return (pc_cursor){value.at, value.end};
}

static pc_view view_of(pycrew_value value)
{
    return first_view(cursor_of(value));
}

static bool is_container(const pc_view *view)
{
    return view->tag == PC_TAG_LIST || view->tag == PC_TAG_TUPLE || view->tag == PC_TAG_DICT;
}

int pycrew_value_type(pycrew_value value)
{
    static const uint8_t types[PC_TAG_COUNT] = {
        [PC_TAG_NONE] = PYCREW_TYPE_NONE,     [PC_TAG_BOOL] = PYCREW_TYPE_BOOL,
        [PC_TAG_I64] = PYCREW_TYPE_INT,       [PC_TAG_U64] = PYCREW_TYPE_INT,
        [PC_TAG_F64] = PYCREW_TYPE_FLOAT,     [PC_TAG_BIGINT] = PYCREW_TYPE_BIGINT,
        [PC_TAG_STR] = PYCREW_TYPE_STR,       [PC_TAG_BYTES] = PYCREW_TYPE_BYTES,
        [PC_TAG_OBJECT] = PYCREW_TYPE_OBJECT, [PC_TAG_JSON] = PYCREW_TYPE_JSON,
        [PC_TAG_LIST] = PYCREW_TYPE_LIST,     [PC_TAG_TUPLE] = PYCREW_TYPE_TUPLE,
        [PC_TAG_DICT] = PYCREW_TYPE_DICT,     [PC_TAG_ARRAY] = PYCREW_TYPE_ARRAY,
    };
    return types[view_of(value).tag];
}

size_t pycrew_value_count(pycrew_value value)
{
    pc_view view = view_of(value);
    return is_container(&view) ? view.length : 0;
}

pycrew_value pycrew_value_item(pycrew_value value, size_t index)
{
    pc_view view = view_of(value);
    if (!is_container(&view))
        return no_value;
    pc_cursor cursor = view.contents;
    pc_view skipped;
    for (size_t i = 0; i < index; i++)
        if (pc_value_next(&cursor, &skipped) <= 0)
            return no_value;
    return value_at(cursor, value.reserved);
}

pycrew_value pycrew_value_next(pycrew_value value)
{
    pc_cursor cursor = cursor_of(value);
    pc_view skipped;
    if (cursor.at >= cursor.end || pc_value_next(&cursor, &skipped) <= 0)
        return no_value;
    return value_at(cursor, value.reserved);
}

pycrew_value pycrew_value_get(pycrew_value dict, const char *key)
{
    pc_view view = view_of(dict), at;
    if (view.tag != PC_TAG_DICT || !key)
        return no_value;
    size_t size = strlen(key);
    pc_cursor cursor = view.contents;
    while (pc_value_next(&cursor, &at) > 0) {
        if (at.tag == PC_TAG_STR && at.length == size && memcmp(at.data, key, size) == 0)
            return value_at(cursor, dict.reserved);
        if (pc_value_next(&cursor, &at) <= 0)
            break;
    }
    return no_value;
}

int pycrew_value_bool(pycrew_value value, bool *ret)
{
    return get_bool(cursor_of(value), "value", ret);
}

int pycrew_value_i64(pycrew_value value, int64_t *ret)
{
    return get_i64(cursor_of(value), "value", ret);
}

int pycrew_value_u64(pycrew_value value, uint64_t *ret)
{
    return get_u64(cursor_of(value), "value", ret);
}

int pycrew_value_f64(pycrew_value value, double *ret)
{
    return get_f64(cursor_of(value), "value", ret);
}

int pycrew_value_str(pycrew_value value, const char **ret, size_t *size)
{
    enum pc_tag tag = view_of(value).tag;
    if (tag != PC_TAG_BIGINT && tag != PC_TAG_JSON) /* which have no function of their own */
        tag = PC_TAG_STR;
    return get_data(cursor_of(value), "value", tag, ret, size);
}

int pycrew_value_bytes(pycrew_value value, const void **ret, size_t *size)
{
    enum pc_tag tag = view_of(value).tag == PC_TAG_OBJECT ? PC_TAG_OBJECT : PC_TAG_BYTES;
    return get_bytes(cursor_of(value), "value", tag, ret, size);
}

int pycrew_value_array(pycrew_value value, pycrew_array *ret)
{
    return get_array(cursor_of(value), "value", (pycrew_call *)(uintptr_t)value.reserved, false, ret);
}
