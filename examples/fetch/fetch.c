/* 200 requests that take a tenth of a second each, all under way at once on one worker. */
#include <pycrew.h>
#include <stdio.h>

int main(void)
{
    const char *path[] = {FETCH_FOLDER, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_batch *batch = NULL;
    pycrew_crew *crew = NULL;
    const pycrew_function *fetch;
    int status, count = 0, rc;

    options.path = path;
    options.workers = 1;
    options.inflight = 200;
    rc = pycrew_open(&crew, &options);
    if (rc == 0 && (rc = pycrew_function_get(crew, "fetch_ops:fetch", &fetch)) == 0)
        rc = pycrew_run(crew, "fetch_ops:fetch", "s>i", "/", &status); /* the server is up */
    if (rc == 0 && (rc = pycrew_batch_open(crew, fetch, NULL, &batch)) == 0)
        for (int i = 0; rc == 0 && i < 200; i++)
            rc = pycrew_batch_add(batch, "s", i % 10 == 0 ? "/missing" : "/");
    if (rc == 0 && (rc = pycrew_batch_end(batch)) == 0)
        while ((rc = pycrew_batch_next(batch, PYCREW_FOREVER)) > 0)
            if (pycrew_batch_result(batch, "i", &status) == 0)
                count += status == 200;
    if (rc < 0)
        fprintf(stderr, "fetch: %s\n", pycrew_last_error()->message);
    else
        printf("%d of 200 were found\n", count);
    pycrew_batch_close(batch);
    pycrew_close(crew);
    return rc != 0;
}
