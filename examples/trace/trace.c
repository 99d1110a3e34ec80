/* A trace of calls, to be opened in ui.perfetto.dev: what each worker did when. */
#include <pycrew.h>
#include <stdio.h>

enum { CALLS = 100 };

int main(int argc, char **argv)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_crew *crew = NULL;
    pycrew_batch *batch = NULL;
    const pycrew_function *function;
    double root, sum = 0;

    options.trace = argc > 1 ? argv[1] : "trace.json";
    if (pycrew_open(&crew, &options) < 0 || pycrew_function_get(crew, "math:sqrt", &function) < 0 ||
        pycrew_batch_open(crew, function, NULL, &batch) < 0)
        goto failed;
    for (int i = 0; i < CALLS; i++)
        if (pycrew_batch_add(batch, "d", (double)i) < 0)
            goto failed;
    pycrew_batch_end(batch);
    while (pycrew_batch_next(batch, PYCREW_FOREVER) == 1)
        sum += pycrew_batch_result(batch, "d", &root) == 0 ? root : 0;
    pycrew_batch_close(batch);
    pycrew_close(crew); /* the file's last event */
    printf("%d roots, %.3f in all; their trace is in %s\n", CALLS, sum, options.trace);
    return 0;

failed:
    fprintf(stderr, "trace: %s\n", pycrew_last_error()->message);
    pycrew_batch_close(batch);
    pycrew_close(crew);
    return 1;
}
