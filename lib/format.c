/* format: the language of formats, read once from left to right. */
#include "lib/format.h"

#include <assert.h>
#include <errno.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/array.h"
#include "lib/error.h"
#include "lib/result.h"

static_assert(sizeof(long long) == sizeof(int64_t) && sizeof(ptrdiff_t) == sizeof(int64_t),
              "L, K and n are 64 bits wide");

enum { /* what a character is */
       IS_UNIT = 1,
       TAKES_SIZE = 2, /* '#' may stand behind it */
       NEEDS_SIZE = 4, /* '#' must */
       IS_NAME = 8,    /* may be part of a keyword */
       IS_NUMBER = 16  /* a unit of one word */
};

#if defined(__clang__)
#pragma clang diagnostic ignored "-Winitializer-overrides"
#else
#pragma GCC diagnostic ignored "-Woverride-init"
#endif
static const uint8_t classes[256] = {
    /* ranges first, then what differs in them */
    ['0' ... '9'] = IS_NAME,
    ['A' ... 'Z'] = IS_NAME,
    ['a' ... 'z'] = IS_NAME,
    ['_'] = IS_NAME,
    [0x80 ... 0xff] = IS_NAME,
    ['p'] = IS_NAME | IS_UNIT | IS_NUMBER,
    ['i'] = IS_NAME | IS_UNIT | IS_NUMBER,
    ['L'] = IS_NAME | IS_UNIT | IS_NUMBER,
    ['K'] = IS_NAME | IS_UNIT | IS_NUMBER,
    ['n'] = IS_NAME | IS_UNIT | IS_NUMBER,
    ['d'] = IS_NAME | IS_UNIT | IS_NUMBER,
    ['f'] = IS_NAME | IS_UNIT | IS_NUMBER,
    ['O'] = IS_NAME | IS_UNIT,
    ['A'] = IS_NAME | IS_UNIT,
    ['s'] = IS_NAME | IS_UNIT | TAKES_SIZE,
    ['z'] = IS_NAME | IS_UNIT | TAKES_SIZE,
    ['j'] = IS_NAME | IS_UNIT | TAKES_SIZE,
    ['y'] = IS_NAME | IS_UNIT | TAKES_SIZE | NEEDS_SIZE,
};

static bool is(char character, int class)
{
    return (classes[(unsigned char)character] & class) != 0;
}

static bool is_space(char character)
{
    return character == ' ' || character == ',';
}

static const char *skip_spaces(const char *at)
{
    while (is_space(*at))
        at++;
    return at;
}

/* Bytes of the unit at at: with its '#' 2. */
static size_t unit_size(const char *at)
{
    return is(at[0], TAKES_SIZE) && at[1] == '#' ? 2 : 1;
}

/* Of the units for bytes; INVALID for the others. */
static enum pc_tag data_tag(char unit)
{
    switch (unit) {
    case 's':
    case 'z':
        return PC_TAG_STR;
    case 'y':
        return PC_TAG_BYTES;
    case 'j':
        return PC_TAG_JSON;
    case 'O':
        return PC_TAG_OBJECT;
    default:
        return PC_TAG_INVALID;
    }
}

static int container_kind(char bracket)
{
    switch (bracket) {
    case '(':
    case ')':
        return PYCREW_TUPLE;
    case '[':
    case ']':
        return PYCREW_LIST;
    case '{':
    case '}':
        return PYCREW_DICT;
    default:
        return 0;
    }
}

static bool opens(char character)
{
    return character == '(' || character == '[' || character == '{';
}

/* ---- what is wrong with a format ------------------------------------------------------------- */

/* text in quotes, cut after 80 bytes, what does not print as \xNN. */
static const char *quote(char quoted[400], const char *text)
{
    char *to = quoted;
    *to++ = '"';
    for (size_t i = 0; text[i]; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (i == 80) {
            to += sprintf(to, "...");
            break;
        }
        to += sprintf(to, byte < 0x20 || byte > 0x7e ? "\\x%02x" : "%c", byte);
    }
    strcpy(to, "\"");
    return quoted;
}

static int fail_at(const char *format, const char *at, const char *what)
{
    char quoted[400];
    return pc_fail(-EINVAL, "format %s: byte %zu: %s", quote(quoted, format), (size_t)(at - format),
                   what);
}

/* Why no unit starts here. */
static const char *why_no_unit(const char *at, char text[80])
{
    unsigned char byte = (unsigned char)*at;
    if (is(*at, NEEDS_SIZE))
        snprintf(text, 80, "'%c' needs a '#' behind it, and takes a size", byte);
    else if (byte == '#')
        snprintf(text, 80, "'#' can only stand behind s, y, z and j");
    else if (byte == '=')
        snprintf(text, 80, "'=' has no keyword before it");
    else if (byte == '>')
        snprintf(text, 80, "'>' can stand only once, outside of brackets");
    else if (byte < 0x20 || byte > 0x7e)
        snprintf(text, 80, "'\\x%02x' is no unit", byte);
    else
        snprintf(text, 80, "'%c' is no unit", byte);
    return text;
}

static bool starts_unit(const char *at)
{
    return is(*at, IS_UNIT) && (!is(*at, NEEDS_SIZE) || at[1] == '#');
}

/* ---- the shape of a result ------------------------------------------------------------------- */

typedef struct pc_shape {
    size_t units; /* outside of brackets */
    bool json;    /* a single j */
} pc_shape;

/* Brackets that are open, innermost last. */
typedef struct pc_brackets {
    size_t depth;
    const char *open[PC_VALUE_DEPTH_MAX];
    bool odd[PC_VALUE_DEPTH_MAX]; /* units in it */
} pc_brackets;

static const char *open_bracket(pc_brackets *in, const char *at)
{
    if (in->depth == PC_VALUE_DEPTH_MAX)
        return "brackets are nested too deep";
    in->open[in->depth] = at;
    in->odd[in->depth] = false;
    in->depth++;
    return NULL;
}

static const char *close_bracket(pc_brackets *in, const char *at)
{
    if (in->depth == 0)
        return "closes a bracket that is not open";
    in->depth--;
    if (container_kind(*in->open[in->depth]) != container_kind(*at))
        return "closes a bracket of another kind";
    if (*at == '}' && in->odd[in->depth])
        return "the dict's last key has no value";
    return NULL;
}

/* Why the unit or bracket at at cannot stand there, or NULL. */
static const char *take_shape(pc_brackets *in, const char *at, pc_shape *ret, char text[80])
{
    if (container_kind(*at) && !opens(*at))
        return close_bracket(in, at);
    if (!opens(*at) && !starts_unit(at))
        return why_no_unit(at, text);
    if (in->depth == 0)
        ret->units++;
    else
        in->odd[in->depth - 1] ^= true;
    return opens(*at) ? open_bracket(in, at) : NULL;
}

/* at: behind the '>' of format. */
static int check_any_result(const char *format, const char *at, pc_shape *ret)
{
    char text[80];
    pc_brackets in;
    in.depth = 0;
    *ret = (pc_shape){0};
    const char *first = skip_spaces(at), *json = NULL;
    for (at = first; *at; at = skip_spaces(at + unit_size(at))) {
        const char *wrong = take_shape(&in, at, ret, text);
        if (wrong)
            return fail_at(format, at, wrong);
        if (*at == 'j')
            json = at;
    }
    if (in.depth > 0)
        return fail_at(format, in.open[in.depth - 1], "the bracket is not closed");
    if (json && (ret->units > 1 || json != first))
        return fail_at(format, json, "'j' must be the only unit of a result");
    ret->json = json != NULL;
    return 0;
}

static inline int check_result(const char *format, const char *at, pc_shape *ret)
{
    if (!is(*at, IS_UNIT) || is(*at, NEEDS_SIZE) || at[1] != '\0')
        return check_any_result(format, at, ret);
    ret->units = 1;
    ret->json = *at == 'j';
    return 0;
}

/* ---- arguments ------------------------------------------------------------------------------- */

/* The builder's own error, with the byte it came from. */
static int fail_unit(int code, const char *format, const char *at)
{
    return code == -EINVAL ? fail_at(format, at, pycrew_last_error()->message) : code;
}

static int fail_argument(pc_builder *builder, const char *format, const char *at, const char *what)
{
    char text[160];
    snprintf(text, sizeof text, "%s (argument %llu)", what, pc_build_argument(builder));
    return pc_build_fail(builder, fail_at(format, at, text));
}

/* s, z, j, y, O, with or without '#'. */
static int build_data(pc_builder *builder, const char *at, va_list *args)
{
    const char *data = va_arg(*args, const char *);
    bool sized = at[1] == '#' || *at == 'O';
    size_t size = sized ? va_arg(*args, size_t) : data ? strlen(data) : 0;
    if (!data && *at == 'z')
        return pc_build_none(builder);
    if (!data && !sized)
        return pc_build_invalid(builder, "the pointer is NULL%s",
                                *at == 's' ? "; the unit z would make it None" : "");
    return pc_build_data(builder, data_tag(*at), data, size);
}

static inline int build_unit(pc_builder *builder, const char *at, va_list *args)
{
    switch (*at) {
    case 'i':
        return pc_build_i64(builder, va_arg(*args, int));
    case 'L':
        return pc_build_i64(builder, va_arg(*args, long long));
    case 'n':
        return pc_build_i64(builder, va_arg(*args, ptrdiff_t));
    case 'K':
        return pc_build_u64(builder, va_arg(*args, unsigned long long));
    case 'd':
    case 'f':
        return pc_build_f64(builder, va_arg(*args, double));
    case 'p':
        return pc_build_bool(builder, va_arg(*args, int) != 0);
    case 'A':
        return pc_build_array(builder, va_arg(*args, const pycrew_array *));
    default:
        return build_data(builder, at, args);
    }
}

static const char *tag_brackets(enum pc_tag tag)
{
    return tag == PC_TAG_TUPLE ? "()" : tag == PC_TAG_LIST ? "[]" : "{}";
}

/* base: containers that were open before this format, which it cannot close. */
static int build_bracket(pc_builder *builder, const char *format, const char *at, unsigned base)
{
    if (opens(*at))
        return fail_unit(pc_build_open(builder, container_kind(*at)), format, at);
    if (builder->depth == base)
        return fail_argument(builder, format, at, "closes a bracket that is not open");
    if (tag_brackets(builder->tag)[1] != *at)
        return fail_argument(builder, format, at, "closes a bracket of another kind");
    return fail_unit(pc_build_close(builder), format, at);
}

/* Bytes of the keyword before the '=', 0 if there is none. */
static inline size_t keyword_size(const char *at)
{
    size_t size = 0;
    while (is(at[size], IS_NAME))
        size++;
    return at[size] == '=' ? size : 0;
}

/* The last bracket before end that is not closed. */
static const char *unclosed_bracket(const char *format, const char *end)
{
    size_t closed = 0;
    while (end > format) {
        end--;
        if (opens(*end) && closed-- == 0)
            break;
        if (container_kind(*end) && !opens(*end))
            closed++;
    }
    return end;
}

/* at: behind the last argument. name: the last keyword, or NULL. */
static int end_arguments(pc_builder *builder, const char *format, const char *at, unsigned base,
                         const char *name)
{
    if (builder->depth > base)
        return fail_argument(builder, format, unclosed_bracket(format, at),
                             "the bracket is not closed");
    if (name && (builder->flags & PC_BUILD_NAME_PENDING))
        return fail_argument(builder, format, name, "the keyword has no value");
    if (*at == '\0')
        return 0;
    pc_shape result;
    int code = check_result(format, at + 1, &result);
    if (code < 0)
        return pc_build_fail(builder, code);
    builder->json_result |= result.json;
    return 0;
}

typedef struct pc_scan {
    const char *format, *at;
    const char *name; /* the last keyword, or NULL */
    unsigned base;
    bool separated; /* a keyword may start here */
} pc_scan;

/* Whatever is no plain unit. */
static int build_other(pc_builder *builder, pc_scan *in)
{
    const char *at = in->at;
    char text[80];
    size_t size = in->separated ? keyword_size(at) : 0;
    if (size > 0) {
        in->name = at;
        in->at += size + 1;
        in->separated = false;
        return fail_unit(pc_build_name(builder, at, size), in->format, at);
    }
    in->at++;
    in->separated = true;
    if (is_space(*at))
        return 0;
    if (container_kind(*at))
        return build_bracket(builder, in->format, at, in->base);
    return fail_argument(builder, in->format, at, why_no_unit(at, text));
}

int pc_format_build(pc_builder *builder, const char *format, va_list *args, const char **ret_rest)
{
    if (!format)
        return pc_build_fail(builder, pc_fail(-EINVAL, "the format is NULL"));
    const char *at = format;
    pc_scan in = {.format = format, .base = builder->depth, .separated = true};
    while (*at && *at != '>') {
        int code;
        if (starts_unit(at) && !(in.separated && keyword_size(at))) {
            code = build_unit(builder, at, args);
            if (__builtin_expect(code < 0, 0))
                return fail_unit(code, format, at);
            at += unit_size(at);
            in.separated = false;
        } else {
            in.at = at;
            code = build_other(builder, &in);
            if (code < 0)
                return code;
            at = in.at;
        }
    }
    if (ret_rest)
        *ret_rest = at;
    return end_arguments(builder, format, at, in.base, in.name);
}

/* ---- results --------------------------------------------------------------------------------- */

/* What one unit will store. */
typedef struct pc_store {
    char unit;
    bool copied; /* data is malloc'ed, or the array taken */
    void *out;
    size_t *size_out; /* or NULL */
    union {
        bool boolean;
        int64_t i64;
        uint64_t u64;
        double f64;
        const char *data;
        pycrew_array *array; /* malloc'ed */
    };
    size_t size;
} pc_store;

enum { SMALL_PLAN = 8 };

/* All that will be stored, once nothing can fail any more. */
typedef struct pc_plan {
    const char *at; /* in the format, which has been checked */
    va_list *args;
    pycrew_call *call; /* whose arrays may be there, or NULL */
    bool whole_arrays; /* with their elements */
    bool copy;
    size_t count, capacity;
    pc_store *stores;
    pc_store small[SMALL_PLAN];
} pc_plan;

/* Where a value stands, for messages. */
typedef struct pc_place {
    const struct pc_place *parent; /* NULL: the result itself, or an argument */
    enum pc_tag container;
    size_t index;
    size_t argument; /* its number, from 1; 0: the result */
} pc_place;

static size_t write_place(char *text, size_t size, const pc_place *at)
{
    if (!at->parent)
        return (size_t)snprintf(text, size, at->argument ? "argument %zu" : "result", at->argument);
    size_t length = write_place(text, size, at->parent);
    if (length + 40 > size)
        return length;
    bool dict = at->container == PC_TAG_DICT;
    return length + (size_t)snprintf(text + length, size - length, "%s %s %zu",
                                     at->parent->parent ? "," : "",
                                     !dict                ? "item"
                                     : at->index % 2 == 0 ? "key"
                                                          : "value of key",
                                     (dict ? at->index / 2 : at->index) + 1);
}

static int fail_value(int code, const pc_place *at, const char *type, const char *c_type,
                      const pc_view *view)
{
    char where[256];
    write_place(where, sizeof where, at);
    return pc_result_fail(code, where, type, c_type, view);
}

static int fail_place(int code, const pc_place *at, const char *what)
{
    char where[256];
    write_place(where, sizeof where, at);
    return pc_fail(code, "%s: %s", where, what);
}

static int fail_null(const pc_place *at)
{
    return fail_place(-EINVAL, at, "the pointer to store it through is NULL");
}

/* INVALID at the end, and where something wrote over the message. */
static inline void next_view(pc_cursor *cursor, pc_view *view)
{
    if (pc_value_next(cursor, view) <= 0)
        *view = (pc_view){.tag = PC_TAG_INVALID};
}

/* ---- of one unit ---- */

static int view_int(const pc_view *view, int64_t *ret)
{
    int code = pc_view_i64(view, ret);
    return code == 0 && (*ret < INT_MIN || *ret > INT_MAX) ? -ERANGE : code;
}

static int view_float(const pc_view *view, double *ret)
{
    int code = pc_view_f64(view, ret);
    /* What is finite and would not stay so. The cast rounds, so the cast decides. */
    return code == 0 && isfinite(*ret) && isinf((float)*ret) ? -ERANGE : code;
}

static int take_number(const pc_view *view, const pc_place *at, pc_store *to)
{
    int code;
    switch (to->unit) {
    case 'p':
        code = pc_view_bool(view, &to->boolean);
        return code < 0 ? fail_value(code, at, "bool", "int", view) : 0;
    case 'i':
        code = view_int(view, &to->i64);
        return code < 0 ? fail_value(code, at, "int", "int", view) : 0;
    case 'K':
        code = pc_view_u64(view, &to->u64);
        return code < 0 ? fail_value(code, at, "int", "unsigned long long", view) : 0;
    case 'd':
        code = pc_view_f64(view, &to->f64);
        return code < 0 ? fail_value(code, at, "float", "double", view) : 0;
    case 'f':
        code = view_float(view, &to->f64);
        return code < 0 ? fail_value(code, at, "float", "float", view) : 0;
    default:
        code = pc_view_i64(view, &to->i64);
        return code < 0
                   ? fail_value(code, at, "int", to->unit == 'L' ? "long long" : "ptrdiff_t", view)
                   : 0;
    }
}

/* The bytes are checked where they will stay: a copy, if there is one, nobody else writes to. */
static int copy_data(pc_view *view, const pc_place *at, pc_store *to)
{
    char *copy = malloc(view->length + 1);
    if (!copy)
        return fail_place(-ENOMEM, at, "no memory for the copy");
    memcpy(copy, view->data, view->length);
    copy[view->length] = '\0';
    view->data = to->data = copy;
    to->copied = true;
    return 0;
}

static int fail_data(int code, const pc_view *view, const pc_place *at, const pc_store *to,
                     enum pc_tag wanted)
{
    if (to->unit == 'z' && view->tag != wanted)
        return fail_value(code, at, "str or None", "", view);
    if (to->unit != 'j' || view->tag == wanted)
        return fail_value(code, at, pc_tag_text(wanted), "", view);
    char text[160];
    snprintf(text, sizeof text,
             "expected JSON text, got %s; the call must be told before it is submitted, by "
             "pycrew_set_json or a format with '>j'",
             pc_tag_text(view->tag));
    return fail_place(code, at, text);
}

static int take_data(const pc_plan *plan, pc_view view, const pc_place *at, pc_store *to)
{
    enum pc_tag wanted = data_tag(to->unit);
    if (to->unit == 'z' && view.tag == PC_TAG_NONE) {
        to->data = NULL;
        to->size = 0;
        return 0;
    }
    int code = 0;
    if (plan->copy && view.tag == wanted && (code = copy_data(&view, at, to)) < 0)
        return code;
    code = pc_view_data(&view, wanted, &to->data, to->size_out ? &to->size : NULL);
    return code < 0 ? fail_data(code, &view, at, to, wanted) : 0;
}

static int take_array(const pc_plan *plan, const pc_view *view, const pc_place *at, pc_store *to)
{
    char where[256];
    int code = PYCREW_ETYPE;
    if (view->tag == PC_TAG_ARRAY && (plan->call || plan->whole_arrays)) {
        to->array = malloc(sizeof *to->array);
        if (!to->array)
            return fail_place(-ENOMEM, at, "no memory for the array's description");
        to->array->size = ((const pycrew_array *)to->out)->size;
        code = plan->call ? pc_arrays_view(plan->call, view, plan->copy, to->array)
                          : pc_arrays_whole(view, to->array);
    }
    if (code == 0) {
        to->copied = plan->copy;
        return 0;
    }
    write_place(where, sizeof where, at);
    return pc_result_fail_array(code, where, view);
}

/* Room for one more, uninitialized; not yet counted. */
static pc_store *next_store(pc_plan *plan, const pc_place *at)
{
    if (plan->count == plan->capacity) {
        bool small = plan->stores == plan->small;
        size_t size = 2 * plan->capacity * sizeof *plan->stores;
        pc_store *stores = realloc(small ? NULL : plan->stores, size);
        if (!stores) {
            fail_place(-ENOMEM, at, "no memory for the result's format");
            return NULL;
        }
        if (small)
            memcpy(stores, plan->small, sizeof plan->small);
        plan->stores = stores;
        plan->capacity *= 2;
    }
    return &plan->stores[plan->count];
}

static int take_unit(pc_plan *plan, const pc_view *view, const pc_place *at)
{
    pc_store *to = next_store(plan, at);
    if (!to)
        return -ENOMEM;
    to->unit = *plan->at;
    bool sized = unit_size(plan->at) == 2 || to->unit == 'O';
    plan->at += unit_size(plan->at);
    to->copied = false;
    to->array = NULL;
    to->out = va_arg(*plan->args, void *);
    to->size_out = sized ? va_arg(*plan->args, size_t *) : NULL;
    plan->count++; /* from here on discard() frees what it holds */
    if (!to->out || (sized && !to->size_out))
        return fail_null(at);
    if (to->unit == 'A')
        return take_array(plan, view, at, to);
    return data_tag(to->unit) ? take_data(plan, *view, at, to) : take_number(view, at, to);
}

/* ---- of containers ---- */

/* Units from at to the end, or to the bracket that closes. */
static size_t count_units(const char *at)
{
    size_t units = 0, depth = 0;
    for (at = skip_spaces(at); *at; at = skip_spaces(at + unit_size(at))) {
        bool closes = container_kind(*at) && !opens(*at);
        if (closes && depth-- == 0)
            break;
        if (!closes && depth == 0)
            units++;
        if (opens(*at))
            depth++;
    }
    return units;
}

static int fail_container(const pc_view *view, const pc_place *at, const char *wanted, size_t units)
{
    char text[160];
    bool container = view->tag >= PC_TAG_LIST && view->tag <= PC_TAG_DICT;
    bool pairs = strcmp(wanted, "dict") == 0;
    int length = snprintf(text, sizeof text, "expected %s of %zu%s, got %s", wanted, units,
                          pairs ? units == 1 ? " pair" : " pairs" : "", pc_tag_text(view->tag));
    if (container)
        snprintf(text + length, sizeof text - (size_t)length, " of %llu",
                 (unsigned long long)view->length);
    return fail_place(PYCREW_ETYPE, at, text);
}

static int take_value(pc_plan *plan, pc_cursor *cursor, const pc_place *at);

/* units: of the format, for what is in the container. */
static int take_items(pc_plan *plan, const pc_view *view, const pc_place *at, size_t units)
{
    pc_cursor contents = view->contents;
    for (size_t i = 0; i < units; i++) {
        pc_place item = {.parent = at, .container = view->tag, .index = i};
        int code = take_value(plan, &contents, &item);
        if (code < 0)
            return code;
    }
    return 0;
}

static int take_container(pc_plan *plan, const pc_view *view, const pc_place *at)
{
    int kind = container_kind(*plan->at);
    enum pc_tag tag = kind == PYCREW_TUPLE  ? PC_TAG_TUPLE
                      : kind == PYCREW_LIST ? PC_TAG_LIST
                                            : PC_TAG_DICT;
    plan->at++;
    size_t units = count_units(plan->at);
    size_t count = tag == PC_TAG_DICT ? units / 2 : units;
    if (view->tag != tag || view->length != count)
        return fail_container(view, at, pc_tag_text(tag), count);
    int code = take_items(plan, view, at, units);
    plan->at = skip_spaces(plan->at) + 1;
    return code;
}

static int take_value(pc_plan *plan, pc_cursor *cursor, const pc_place *at)
{
    pc_view view;
    next_view(cursor, &view);
    plan->at = skip_spaces(plan->at);
    return opens(*plan->at) ? take_container(plan, &view, at) : take_unit(plan, &view, at);
}

/* Several units outside of brackets. */
static int take_sequence(pc_plan *plan, pc_cursor cursor, const pc_place *at, size_t units)
{
    pc_view view;
    next_view(&cursor, &view);
    if ((view.tag != PC_TAG_LIST && view.tag != PC_TAG_TUPLE) || view.length != units)
        return fail_container(&view, at, "list or tuple", units);
    return take_items(plan, &view, at, units);
}

/* ---- the end ---- */

static void store_one(const pc_store *from)
{
    switch (from->unit) {
    case 'p':
        *(int *)from->out = from->boolean;
        break;
    case 'i':
        *(int *)from->out = (int)from->i64;
        break;
    case 'L':
        *(long long *)from->out = from->i64;
        break;
    case 'n':
        *(ptrdiff_t *)from->out = from->i64;
        break;
    case 'K':
        *(unsigned long long *)from->out = from->u64;
        break;
    case 'd':
        *(double *)from->out = from->f64;
        break;
    case 'f':
        *(float *)from->out = (float)from->f64;
        break;
    case 'A':
        *(pycrew_array *)from->out = *from->array;
        free(from->array);
        break;
    default:
        *(const void **)from->out = from->data;
        if (from->size_out)
            *from->size_out = from->size;
    }
}

static void store_all(const pc_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++)
        store_one(&plan->stores[i]);
}

static void discard(const pc_plan *plan)
{
    for (size_t i = 0; i < plan->count; i++) {
        const pc_store *store = &plan->stores[i];

        if (store->unit == 'A' && store->copied)
            pycrew_array_drop(plan->call->crew, store->array);
        if (store->unit == 'A' || store->copied)
            free((void *)store->data);
    }
}

static void start_plan(pc_plan *plan, pycrew_call *call, const char *at, va_list *args, bool copy)
{
    plan->call = call;
    plan->whole_arrays = false;
    plan->at = at;
    plan->args = args;
    plan->copy = copy;
    plan->count = 0;
    plan->capacity = SMALL_PLAN;
    plan->stores = plan->small;
}

/* code: whether all has gone well. Returns it. */
static int end_plan(pc_plan *plan, int code)
{
    if (code == 0)
        store_all(plan);
    else
        discard(plan);
    if (plan->stores != plan->small)
        free(plan->stores);
    return code;
}

static int store_planned(pc_cursor message, pycrew_call *call, const char *at, va_list *args, bool copy,
                         size_t units)
{
    pc_plan plan;
    start_plan(&plan, call, at, args, copy);
    pc_place result = {0};
    int code = units == 1 ? take_value(&plan, &message, &result)
                          : take_sequence(&plan, message, &result, units);
    return end_plan(&plan, code);
}

/* The type that was asked for, whole: its word is what is stored. */
static inline bool store_word(pc_cursor message, char unit, void *out)
{
    uint64_t header, word;

    if (message.end - message.at < 16)
        return false;
    header = pc_word_load(message.at);
    word = pc_word_load(message.at + 8);
    if ((unit != 'L' && unit != 'n' && unit != 'd') || !out ||
        header != (unit == 'd' ? PC_TAG_F64 : PC_TAG_I64))
        return false;
    memcpy(out, &word, sizeof word);
    return true;
}

/* What most results are: one number needs no plan. */
static int store_number(pc_cursor message, char unit, void *out)
{
    pc_view view;
    if (store_word(message, unit, out))
        return 0;
    next_view(&message, &view);
    pc_store to = {.unit = unit, .out = out};
    pc_place result = {0};
    if (!out)
        return fail_null(&result);
    int code = take_number(&view, &result, &to);
    if (code == 0)
        store_one(&to);
    return code;
}

int pc_format_result(pc_cursor message, pycrew_call *call, const char *format, va_list *args, bool copy)
{
    if (!format)
        return pc_fail(-EINVAL, "the format is NULL");
    const char *at = skip_spaces(format);
    if (*at == '>')
        at++;
    if (is(*at, IS_NUMBER) && at[1] == '\0')
        return store_number(message, *at, va_arg(*args, void *));
    pc_shape result;
    int code = check_result(format, at, &result);
    if (code < 0 || result.units == 0)
        return code;
    return store_planned(message, call, at, args, copy, result.units);
}

/* ---- arguments of the host's functions ---- */

/* One unit, or container, of a format for arguments. */
typedef struct pc_parameter {
    size_t number; /* from 1 */
    const char *name; /* or NULL */
    size_t name_size;
    const char *unit;
    bool optional;
} pc_parameter;

typedef struct pc_parameters {
    const char *format, *at;
    size_t count;
    bool optional; /* from here on */
} pc_parameters;

/* Moves *at behind the unit or container there. */
static int pass_unit(const char *format, const char **at)
{
    pc_brackets in;
    pc_shape shape = {0};
    char text[80];
    in.depth = 0;
    do {
        const char *wrong = **at ? take_shape(&in, *at, &shape, text) : "the bracket is not closed";
        if (wrong)
            return fail_at(format, *at, wrong);
        *at += unit_size(*at);
        if (in.depth > 0)
            *at = skip_spaces(*at);
    } while (in.depth > 0);
    return 0;
}

/* Only at the start and behind a space or comma a keyword can begin: "pi=i" is p, i=i otherwise. */
static size_t starts_keyword(const pc_parameters *in)
{
    bool separated = in->at == in->format || is_space(in->at[-1]) || in->at[-1] == '|';
    return separated ? keyword_size(in->at) : 0;
}

/* 1; 0 at the end; or -EINVAL. */
static int next_parameter(pc_parameters *in, pc_parameter *ret)
{
    in->at = skip_spaces(in->at);
    if (*in->at == '|' && !in->optional) {
        in->optional = true;
        in->at = skip_spaces(in->at + 1);
    }
    if (!*in->at)
        return 0;
    size_t size = starts_keyword(in);
    *ret = (pc_parameter){.number = ++in->count, .optional = in->optional, .name_size = size};
    if (size > 0) {
        ret->name = in->at;
        in->at += size + 1;
    }
    ret->unit = in->at;
    int code = pass_unit(in->format, &in->at);
    return code < 0 ? code : 1;
}

/* How many stand before the first keyword; *keywords: how many of these. */
static size_t count_arguments(pc_cursor message, size_t *keywords)
{
    size_t count = 0, names = 0;
    pc_view view;
    while (pc_value_next(&message, &view) > 0)
        *(view.tag == PC_TAG_NAME ? &names : &count) += 1;
    *keywords = names;
    return count >= names ? count - names : 0;
}

/* The cursor's next value is the keyword's. */
static bool find_keyword(pc_cursor message, const pc_parameter *parameter, pc_cursor *ret)
{
    pc_view view;
    while (pc_value_next(&message, &view) > 0)
        if (view.tag == PC_TAG_NAME && parameter->name && view.length == parameter->name_size &&
            memcmp(view.data, parameter->name, parameter->name_size) == 0) {
            *ret = message;
            return true;
        }
    return false;
}

/* The pointers for what is missing. */
static void pass_pointers(const pc_parameter *parameter, const char *end, va_list *args)
{
    for (const char *at = skip_spaces(parameter->unit); at < end; at = skip_spaces(at + unit_size(at))) {
        if (!starts_unit(at))
            continue;
        (void)va_arg(*args, void *);
        if (unit_size(at) == 2 || *at == 'O')
            (void)va_arg(*args, size_t *);
    }
}

static int fail_missing(const pc_parameter *parameter)
{
    if (parameter->name)
        return pc_fail(PYCREW_ETYPE, "argument %zu ('%.*s') is missing", parameter->number,
                       (int)parameter->name_size, parameter->name);
    return pc_fail(PYCREW_ETYPE, "argument %zu is missing", parameter->number);
}

/* Of a message with some: what the format does not take. */
static int fail_surplus(pc_cursor message, const char *format, size_t positional, size_t parameters)
{
    pc_view view;
    if (positional > parameters)
        return pc_fail(PYCREW_ETYPE, "%zu arguments are given, at most %zu are taken", positional,
                       parameters);
    while (pc_value_next(&message, &view) > 0) {
        pc_parameters in = {.format = format, .at = format};
        pc_parameter parameter;
        bool known = view.tag != PC_TAG_NAME;
        while (!known && next_parameter(&in, &parameter) > 0)
            known = parameter.name_size == view.length &&
                    memcmp(parameter.name, view.data, view.length) == 0;
        if (!known)
            return pc_fail(PYCREW_ETYPE, "there is no argument '%.*s'",
                           (int)(view.length < 80 ? view.length : 80), view.data);
    }
    return pc_fail(PYCREW_ETYPE, "an argument is given twice");
}

/* Of the argument with this number, if it is there: 1; 0; or a code. */
static int find_argument(pc_cursor message, pc_cursor *positional, size_t left,
                         const pc_parameter *parameter, pc_cursor *ret)
{
    pc_view view;
    if (left > 0) {
        *ret = *positional;
        return pc_value_next(positional, &view) > 0 ? 1 : pc_fail(PYCREW_ETYPE, "not readable");
    }
    if (find_keyword(message, parameter, ret))
        return 1;
    return parameter->optional ? 0 : fail_missing(parameter);
}

static int take_arguments(pc_plan *plan, pc_cursor message, const char *format)
{
    pc_parameters in = {.format = format, .at = format};
    pc_parameter parameter;
    pc_cursor positional = message, at;
    size_t keywords, used = 0, count = count_arguments(message, &keywords);
    int code;
    while ((code = next_parameter(&in, &parameter)) > 0) {
        size_t left = count >= parameter.number ? 1 : 0;
        int found = find_argument(message, &positional, left, &parameter, &at);
        pc_place place = {.argument = parameter.number};
        if (found < 0)
            return found;
        used += found && !left;
        plan->at = parameter.unit;
        if (!found)
            pass_pointers(&parameter, in.at, plan->args);
        else if ((code = take_value(plan, &at, &place)) < 0)
            return code;
    }
    if (code == 0 && (count > in.count || used != keywords))
        return fail_surplus(message, format, count, in.count);
    return code;
}

int pc_format_arguments(pc_cursor message, const char *format, va_list *args)
{
    if (!format)
        return pc_fail(-EINVAL, "the format is NULL");
    pc_plan plan;
    start_plan(&plan, NULL, format, args, false);
    plan.whole_arrays = true;
    return end_plan(&plan, take_arguments(&plan, message, format));
}
