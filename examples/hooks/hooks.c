#include <pycrew.h>
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    static const char *const path[] = {HOOKS_FOLDER, NULL}, *const names[] = {"apple", "plum", "pear"};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_crew *crew = NULL;
    int rc;
    options.workers = 1;
    options.path = path;
    options.init = "hooks_ops:start"; /* in each worker, before its first call */
    options.exit = "hooks_ops:stop";  /* and after its last */
    rc = pycrew_open(&crew, &options);
    for (int i = 0; rc == 0 && i < 3; i++) {
        char *text;
        if ((rc = pycrew_run(crew, "hooks_ops:price", "s>j", names[i], &text)) == 0)
            printf("%s: %s\n", names[i], text), free(text);
    }
    if (rc < 0)
        fprintf(stderr, "hooks: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != 0;
}
