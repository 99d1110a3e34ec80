/* hostcall: one call of an exported function: its arguments, its answer, its failure. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/export.h"
#include "lib/format.h"
#include "lib/result.h"

/* ---- the answer's memory ---- */

static int answer_grow(pc_writer *writer, size_t need)
{
    pycrew_host_call *call =
        (pycrew_host_call *)(void *)writer; /* builder.writer is its first member */
    pycrew_crew *crew = call->crew;
    size_t size = need > 2 * writer->capacity ? need : 2 * writer->capacity;
    uint64_t block;
    int rc = pc_memory_alloc(crew, size, &block);

    if (rc < 0 && need < size)
        rc = pc_memory_alloc(crew, need, &block);
    if (rc == -E2BIG)
        return pc_fail(rc, "the answer (%zu bytes) exceeds the crew's shared memory (%zu bytes): raise options.memory",
                       need, crew->segment.size);
    if (rc < 0)
        return pc_fail(rc, "no shared memory is left for an answer of %zu bytes: raise options.memory", need);
    memcpy(pc_segment_at(&crew->segment, block), writer->data, writer->size);
    pc_memory_free(crew, call->block);
    call->block = block;
    writer->data = pc_segment_at(&crew->segment, block);
    writer->capacity = pc_memory_size(crew, block);
    return 0;
}

/* Nothing of an answer; what it took so far goes back. */
static void start_answer(pycrew_host_call *call)
{
    pc_memory_free(call->crew, call->block);
    call->block = 0;
    call->builder.writer = (pc_writer){.data = (uint8_t *)call->small_answer,
                                       .capacity = sizeof call->small_answer,
                                       .grow = answer_grow};
    pc_build_start(&call->builder);
}

/* ---- failures ---- */

/* What a code of ours, or errno's, is in Python. */
static const char *exception_of(int code)
{
    switch (code) {
    case PYCREW_ETYPE:
        return "TypeError";
    case -EINVAL:
        return "ValueError";
    case -ERANGE:
        return "OverflowError";
    case -ENOMEM:
    case -E2BIG:
        return "MemoryError";
    case -ETIME:
    case -ETIMEDOUT:
        return "TimeoutError";
    default:
        return code > -2000 ? "OSError" : "RuntimeError";
    }
}

static int set_failure(pycrew_host_call *call, const char *type, const char *text)
{
    return pc_error_set(&call->error, PYCREW_ERAISED, pc_text_of(NULL), pc_text_of(type),
                        pc_text_of(text), pc_text_of(NULL));
}

int pycrew_host_fail(pycrew_host_call *call, const char *type, const char *text)
{
    if (call == NULL)
        return pc_fail(-EINVAL, "pycrew_host_fail: call must not be NULL");
    set_failure(call, type != NULL ? type : "RuntimeError", text != NULL ? text : "");
    return pc_fail(PYCREW_ERAISED, "%s", call->error.public.message);
}

/* The function returned a code that it may have from any function of ours, with the last error to
 * it. */
static void fail_by_code(pycrew_host_call *call, int code)
{
    const pycrew_error *last = pycrew_last_error();
    const char *text = last->code == code ? last->message : pycrew_strerror(code);
    char with_type[512];

    if (last->code == code && last->type != NULL) {
        snprintf(with_type, sizeof with_type, "%s: %s", last->type, text);
        text = with_type;
    }
    set_failure(call, exception_of(code), text);
}

static void write_failure(pycrew_host_call *call)
{
    const pycrew_error *e = &call->error.public;
    const char *type = e->type != NULL ? e->type : "RuntimeError";

    start_answer(call);
    call->kind = PC_UPCALL_RAISED;
    if (pc_build_data(&call->builder, PC_TAG_STR, type, strlen(type)) == 0 &&
        pc_build_data(&call->builder, PC_TAG_STR, e->message, strlen(e->message)) == 0)
        return;
    start_answer(call);
    call->kind = PC_UPCALL_NO_MEMORY;
}

/* ---- running ---- */

static int run_function(pycrew_host_call *call)
{
    int rc;

    pc_fail_static(0, ""); /* the error of an earlier function is none of this one's */
    rc = call->function(call->data, call);
    if (rc == 0 && call->error.public.code == 0)
        rc = pc_build_finish(&call->builder);
    return rc;
}

void pc_host_call_run(pycrew_host_call *call)
{
    int rc = 0;

    start_answer(call);
    call->kind = PC_UPCALL_VALUE;
    if (call->orphaned || pc_upcall_is_released(call->upcall, call->sequence))
        return;
    if (call->number == PC_UPCALL_LIST)
        rc = pc_exports_list(call->crew, &call->builder);
    else if (call->function != NULL)
        rc = run_function(call);
    else
        call->kind = PC_UPCALL_NO_FUNCTION;
    if (rc < 0 && call->error.public.code == 0)
        fail_by_code(call, rc);
    if (call->error.public.code != 0)
        write_failure(call);
}

bool pycrew_host_abandoned(const pycrew_host_call *call)
{
    return call->orphaned || pc_upcall_is_released(call->upcall, call->sequence) ||
           atomic_load(&call->crew->ending) == 2;
}

/* ---- arguments ---- */

int pycrew_host_arguments(const pycrew_host_call *call, const char *format, ...)
{
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = pc_format_arguments(call->arguments, format, &arguments);
    va_end(arguments);
    return rc;
}

pycrew_value pycrew_host_argument(const pycrew_host_call *call, size_t index)
{
    pc_cursor at = call->arguments;
    pc_view view;

    for (;;) {
        pc_cursor here = at;

        if (pc_value_next(&at, &view) <= 0 || view.tag == PC_TAG_NAME)
            return (pycrew_value){0};
        /* Up to its own end: what is behind it may be a keyword. */
        if (index-- == 0)
            return pc_result_value((pc_cursor){here.at, at.at}, NULL);
    }
}

pycrew_value pycrew_host_keyword(const pycrew_host_call *call, const char *name)
{
    size_t size = name != NULL ? strlen(name) : 0;
    pc_cursor at = call->arguments;
    pc_view view, value;

    while (pc_value_next(&at, &view) > 0) {
        pc_cursor here = at;

        if (view.tag != PC_TAG_NAME)
            continue;
        if (pc_value_next(&at, &value) <= 0)
            break;
        if (view.length == size && memcmp(view.data, name, size) == 0)
            return pc_result_value((pc_cursor){here.at, at.at}, NULL);
    }
    return (pycrew_value){0};
}

size_t pycrew_host_count(const pycrew_host_call *call)
{
    pc_cursor at = call->arguments;
    size_t count = 0;
    pc_view view;

    while (pc_value_next(&at, &view) > 0 && view.tag != PC_TAG_NAME)
        count++;
    return count;
}

size_t pycrew_host_keywords(const pycrew_host_call *call)
{
    pc_cursor at = call->arguments;
    size_t count = 0;
    pc_view view;

    while (pc_value_next(&at, &view) > 0)
        count += view.tag == PC_TAG_NAME;
    return count;
}

/* ---- answers ---- */

int pycrew_host_return(pycrew_host_call *call, const char *format, ...)
{
    const char *rest = "";
    va_list arguments;
    int rc;

    va_start(arguments, format);
    rc = pc_format_build(&call->builder, format, &arguments, &rest);
    va_end(arguments);
    if (rc == 0 && *rest != '\0')
        rc = pc_build_invalid(&call->builder, "an answer's format has no '>'");
    if (rc == 0 && call->builder.flags & PC_BUILD_NAMED)
        rc = pc_build_invalid(&call->builder, "an answer has no keywords");
    return rc;
}

int pycrew_host_return_none(pycrew_host_call *call)
{
    return pc_build_none(&call->builder);
}

int pycrew_host_return_bool(pycrew_host_call *call, bool value)
{
    return pc_build_bool(&call->builder, value);
}

int pycrew_host_return_i64(pycrew_host_call *call, int64_t value)
{
    return pc_build_i64(&call->builder, value);
}

int pycrew_host_return_u64(pycrew_host_call *call, uint64_t value)
{
    return pc_build_u64(&call->builder, value);
}

int pycrew_host_return_f64(pycrew_host_call *call, double value)
{
    return pc_build_f64(&call->builder, value);
}

int pycrew_host_return_str(pycrew_host_call *call, const char *text, size_t size)
{
    return pc_build_data(&call->builder, PC_TAG_STR, text, size);
}

int pycrew_host_return_bytes(pycrew_host_call *call, const void *data, size_t size)
{
    return pc_build_data(&call->builder, PC_TAG_BYTES, data, size);
}

int pycrew_host_open(pycrew_host_call *call, int kind)
{
    return pc_build_open(&call->builder, kind);
}

int pycrew_host_close(pycrew_host_call *call)
{
    return pc_build_close(&call->builder);
}
