/* spread: a record as the arguments of a call. */
#include "cli/spread.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/json.h"

static int refuse(struct spread_problem *problem, const char *text, size_t column)
{
    buffer_clear(&problem->text);
    buffer_text(&problem->text, text);
    problem->column = column;
    return 1;
}

static int refuse_json(struct spread_problem *problem, struct json_error error)
{
    refuse(problem, "not JSON: ", error.at);
    buffer_text(&problem->text, error.message);
    return 1;
}

static int add_star(pycrew_call *call, struct slice text, struct spread_problem *problem)
{
    struct json_walk walk;
    struct slice value;
    int r = 0, got;
    if (!json_walk_open(&walk, text, '['))
        return refuse(problem, "--star needs a list", SIZE_MAX);
    while (r == 0 && (got = json_walk_next(&walk, NULL, &value)) != 0)
        r = got > 0 ? pycrew_add_json(call, value.data, value.size)
                    : refuse_json(problem, walk.error);
    return r;
}

static int add_named(pycrew_call *call, struct slice key, struct slice value,
                     struct spread_problem *problem)
{
    struct buffer name = {0};
    int r;
    if (!json_unquote(&name, key) || memchr(buffer_string(&name), '\0', name.size) != NULL) {
        r = refuse(problem, "no argument can be named ", SIZE_MAX);
        buffer_add(&problem->text, key.data, key.size);
    } else {
        r = pycrew_add_name(call, buffer_string(&name));
        if (r == 0)
            r = pycrew_add_json(call, value.data, value.size);
    }
    buffer_free(&name);
    return r;
}

static int add_kwargs(pycrew_call *call, struct slice text, struct spread_problem *problem)
{
    struct json_walk walk;
    struct slice key, value;
    int r = 0, got;
    if (!json_walk_open(&walk, text, '{'))
        return refuse(problem, "--kwargs needs a dict", SIZE_MAX);
    while (r == 0 && (got = json_walk_next(&walk, &key, &value)) != 0)
        r = got > 0 ? add_named(call, key, value, problem) : refuse_json(problem, walk.error);
    return r;
}

int spread_record(pycrew_call *call, const struct record *record, enum spread how,
                  struct spread_problem *problem)
{
    struct slice text = record->text;
    struct json_error error;
    if (!record->json)
        return pycrew_add_str(call, text.data, text.size);
    if (how == SPREAD_NOT)
        return pycrew_add_json(call, text.data, text.size);
    /* whether it is JSON at all comes before whether it is a list or a dict */
    struct slice inner = json_trim(text);
    if (inner.size > 0 && inner.data[0] != '[' && inner.data[0] != '{' && !json_check(text, &error))
        return refuse_json(problem, error);
    return how == SPREAD_STAR ? add_star(call, text, problem) : add_kwargs(call, text, problem);
}

int spread_check(const struct record *record, enum spread how, struct spread_problem *problem)
{
    struct json_walk walk;
    struct json_error error;
    if (record->json && !json_check(record->text, &error))
        return refuse_json(problem, error);
    if (how == SPREAD_STAR && !json_walk_open(&walk, record->text, '['))
        return refuse(problem, "--star needs a list", SIZE_MAX);
    if (how == SPREAD_KWARGS && !json_walk_open(&walk, record->text, '{'))
        return refuse(problem, "--kwargs needs a dict", SIZE_MAX);
    return 0;
}
