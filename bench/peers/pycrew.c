/* pycrew: singles one at a time, singles in flight, a batch, a map. */
#include "peer.h"

#include <errno.h>
#include <pycrew.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { IN_FLIGHT = 1024, MAP_MAX = 1 << 21 };

static pycrew_crew *crew;
static const pycrew_function *function;
static int64_t *columns[3]; /* two inputs and the output of a map */

static void check(int rc, const char *what)
{
    if (rc < 0)
        fail("%s: %s (%d)", what, pycrew_last_error()->message, rc);
}

static void versions(void)
{
    printf("\"pycrew\": \"%s\"", pycrew_version());
}

static void ignore_log(void *data, int level, const char *line)
{
    (void)data;
    (void)level;
    (void)line;
}

/* Preloaded: what the harness of a peer in Python imports before it forks. Its functions can be
 * called twice, so calls whose worker died are tried again: that is for the crew to do. */
static void start(unsigned workers)
{
    const char *path[] = {getenv("BENCH_FUNCTIONS"), NULL};
    const char *preload[] = {"peer_ops", uses_arrays ? "peer_numpy" : NULL, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    options.workers = workers;
    options.path = path;
    options.preload = preload;
    options.log = ignore_log;
    options.retries = tolerant ? 3 : 0;
    check(pycrew_open(&crew, &options), "pycrew_open");
}

static void *allocate(size_t size)
{
    void *memory = pycrew_alloc(crew, size);
    if (!memory)
        check(pycrew_last_error()->code, "pycrew_alloc");
    return memory;
}

static bool use(const struct workload *workload)
{
    check(pycrew_function_get(crew, workload->function, &function), workload->function);
    return true;
}

/* ---- a record as arguments, a result as a reply ---------------------------------------------- */

static void add_arguments(pycrew_call *call, const struct request *request)
{
    pycrew_array array;
    switch (request->kind) {
    case NONE:
        break;
    case INDEX:
        check(pycrew_add_i64(call, request->a), "pycrew_add_i64");
        break;
    case TEXT:
        check(pycrew_add_str(call, request->text, request->size), "pycrew_add_str");
        break;
    case ENDS:
    case NORM:
        check(pycrew_array_init(&array, array_memory, PYCREW_F64, 1, &request->a, 0),
              "pycrew_array_init");
        check(pycrew_add_array(call, &array), "pycrew_add_array");
        break;
    default:
        check(pycrew_add_i64(call, request->a), "pycrew_add_i64");
        check(pycrew_add_i64(call, request->b), "pycrew_add_i64");
    }
}

static void get_result(enum kind kind, pycrew_value value, struct reply *reply)
{
    const char *text;
    size_t size;
    switch (kind) {
    case NONE:
        reply->integer = pycrew_value_type(value) != PYCREW_TYPE_NONE;
        break;
    case TEXT:
        check(pycrew_value_str(value, &text, &size), "pycrew_value_str");
        reply->size = (uint32_t)(size < TEXT_MAX ? size : TEXT_MAX);
        memcpy(reply->text, text, reply->size);
        break;
    case ENDS:
    case NORM:
        check(pycrew_value_f64(value, &reply->number), "pycrew_value_f64");
        break;
    default:
        check(pycrew_value_i64(value, &reply->integer), "pycrew_value_i64");
    }
}

static pycrew_call *submit(const struct request *request)
{
    pycrew_call *call;
    check(pycrew_prepare(crew, function, PYCREW_FOREVER, &call), "pycrew_prepare");
    add_arguments(call, request);
    check(pycrew_submit(call), "pycrew_submit");
    return call;
}

static void finish(pycrew_call *call, enum kind kind, struct reply *reply)
{
    reply->status = pycrew_wait(call, PYCREW_FOREVER);
    if (reply->status == 0)
        get_result(kind, pycrew_result_value(call), reply);
    pycrew_release(call);
}

static void one(const struct workload *workload, const struct request *request, struct reply *reply)
{
    finish(submit(request), workload->kind, reply);
}

/* ---- many at once ---------------------------------------------------------------------------- */

/* The oldest is waited for first, and its place taken by a new one. */
static int64_t pipelined(const struct workload *workload, int64_t first, int64_t count)
{
    static pycrew_call *calls[IN_FLIGHT];
    static struct request request;
    static struct reply reply;
    int64_t lost = 0;
    for (int64_t i = 0; i < count + IN_FLIGHT; i++) {
        pycrew_call **place = &calls[i % IN_FLIGHT];
        if (i >= IN_FLIGHT && i - IN_FLIGHT < count) {
            finish(*place, workload->kind, &reply);
            lost += !finish_record(workload, first + i - IN_FLIGHT, &reply);
        }
        if (i < count) {
            make_record(workload, first + i, &request);
            *place = submit(&request);
        }
    }
    return lost;
}

/* False: the window is full. */
static bool put(pycrew_batch *batch, const struct workload *workload, int64_t index)
{
    static struct request request;
    pycrew_call *item;
    int rc = pycrew_batch_begin(batch, 0, &item);
    if (rc == -EAGAIN)
        return false;
    check(rc, "pycrew_batch_begin");
    make_record(workload, index, &request);
    add_arguments(item, &request);
    check(pycrew_batch_commit(batch), "pycrew_batch_commit");
    return true;
}

static int64_t take(pycrew_batch *batch, const struct workload *workload, int64_t first)
{
    static struct reply reply;
    const pycrew_error *error = pycrew_batch_error(batch);
    reply.status = error ? error->code : 0;
    if (!error)
        get_result(workload->kind, pycrew_batch_value(batch), &reply);
    return !finish_record(workload, first + (int64_t)pycrew_batch_index(batch), &reply);
}

static int64_t batch(const struct workload *workload, int64_t first, int64_t count)
{
    pycrew_batch *stream;
    int64_t added = 0, taken = 0, lost = 0;
    int rc;
    check(pycrew_batch_open(crew, function, NULL, &stream), "pycrew_batch_open");
    do {
        while (added < count && put(stream, workload, first + added))
            if (++added == count)
                check(pycrew_batch_end(stream), "pycrew_batch_end");
        rc = pycrew_batch_next(stream, PYCREW_FOREVER);
        check(rc, "pycrew_batch_next");
        if (rc == 1) {
            lost += take(stream, workload, first);
            taken++;
        }
    } while (rc == 1);
    if (taken != count)
        fail("%lld records went in, %lld came out", (long long)count, (long long)taken);
    pycrew_batch_close(stream);
    return lost;
}

static unsigned fill_columns(const struct workload *workload, int64_t first, int64_t count)
{
    struct request request;
    for (int64_t i = 0; i < count; i++) {
        make_record(workload, first + i, &request);
        columns[0][i] = request.a;
        columns[1][i] = request.b;
        columns[2][i] = -1;
    }
    return workload->kind == INDEX ? 1 : 2;
}

static int64_t map(const struct workload *workload, int64_t first, int64_t count)
{
    pycrew_array arrays[3];
    struct reply reply = {.status = 0};
    if (count > MAP_MAX)
        fail("a map of %lld elements", (long long)count);
    for (int i = 0; i < 3; i++) {
        if (!columns[i])
            columns[i] = allocate(MAP_MAX * sizeof **columns);
        check(pycrew_array_init(&arrays[i], columns[i], PYCREW_I64, 1, &count, 0),
              "pycrew_array_init");
    }
    unsigned inputs = fill_columns(workload, first, count);
    check(pycrew_map(crew, function, arrays, inputs, &arrays[2], NULL), "pycrew_map");
    for (int64_t i = 0; i < count; i++) {
        reply.integer = columns[2][i];
        check_record(workload, first + i, &reply);
    }
    return 0;
}

static void close_crew(void)
{
    pycrew_close(crew);
}

static const struct peer peer = {
    .name = "pycrew",
    .versions = versions,
    .start = start,
    .use = use,
    .one = one,
    .ways = {{"pipelined", pipelined}, {"batch", batch}, {"map", map}},
    .close = close_crew,
    .allocate = allocate,
};
const struct peer *const peers[] = {&peer, NULL};
