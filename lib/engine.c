/* engine: a crew whose calls run somewhere else, by a concurrent.futures.Executor (options.engine).
 * It has one worker, the bridge, which holds many calls as it holds coroutines; see
 * worker/engine.h. */
#include <errno.h>
#include <stdlib.h>

#include "lib/crew.h"

enum { WIDTH_MAX = 4096, RETRIES_MAX = PC_REQUEST_RETRIES >> PC_REQUEST_RETRIES_SHIFT };
#define LEAVING_NS ((int64_t)10 * 1000 * 1000 * 1000)

void pc_engine_from_environment(pycrew_options *o)
{
    const char *engine = o->engine == NULL ? secure_getenv("PYCREW_ENGINE") : NULL;

    if (engine == NULL || engine[0] == '\0')
        return;
    o->engine = engine;
    if (o->engine_options == NULL)
        o->engine_options = secure_getenv("PYCREW_ENGINE_OPTIONS");
}

int pc_engine_check(const pycrew_options *o)
{
    if (o->engine == NULL)
        return o->engine_options == NULL
                   ? 0
                   : pc_fail(-EINVAL, "options.engine_options is given, and no options.engine");
    if (pc_function_check_name(o->engine) < 0)
        return pc_fail(-EINVAL, "options.engine: %s", pycrew_last_error()->message);
    if (o->debug)
        return pc_fail(-ENOTSUP, "options.debug with the engine %s: calls run somewhere else",
                       o->engine);
    return 0;
}

int pc_engine_refuse(const pycrew_crew *crew, const char *feature)
{
    if (crew->engine == NULL)
        return 0;
    return pc_fail(-ENOTSUP, "the engine %s has no %s: see doc/engines.md", crew->engine, feature);
}

bool pc_engine_may_have_run(const pycrew_call *call)
{
    return call->crew->engine != NULL &&
           atomic_load(&call->slot->entered) == atomic_load(&call->generation);
}

unsigned pc_engine_retries(const pycrew_call *call)
{
    if (call->crew->engine == NULL)
        return 0;
    return call->retries < RETRIES_MAX ? call->retries : RETRIES_MAX;
}

int64_t pc_engine_leaving_ns(const pycrew_crew *crew)
{
    return crew->engine != NULL && crew->grace_ns < LEAVING_NS ? LEAVING_NS : crew->grace_ns;
}

unsigned pc_engine_width(const pycrew_crew *crew)
{
    uint32_t width;

    if (crew->engine == NULL)
        return crew->workers;
    width = atomic_load_explicit(&crew->segment.workers[0].width, memory_order_relaxed);
    return width < 1 ? 1 : width > WIDTH_MAX ? WIDTH_MAX : width;
}
