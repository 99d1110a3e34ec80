#include <pycrew.h>
#include <stdio.h>

/* Python: pycrew.host.progress(done, of). The answer says whether to go on. */
static int progress(void *data, pycrew_host_call *call)
{
    int done, of;
    int rc = pycrew_host_arguments(call, "ii", &done, &of);
    if (rc < 0)
        return rc;
    fprintf(data, "%d of %d\n", done, of);
    return pycrew_host_return(call, "p", done < 3);
}

int main(void)
{
    static const char *const path[] = {PROGRESS_FOLDER, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_crew *crew = NULL;
    int done, rc;
    options.path = path;
    if ((rc = pycrew_open(&crew, &options)) == 0 &&
        (rc = pycrew_export(crew, "progress", progress, stdout)) == 0 &&
        (rc = pycrew_run(crew, "progress_ops:work", "i>i", 10, &done)) == 0)
        printf("stopped after %d\n", done);
    else
        fprintf(stderr, "progress: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != 0;
}
