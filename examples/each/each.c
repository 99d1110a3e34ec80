#include <pycrew.h>
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    pycrew_crew *crew = NULL;
    const char *name = "EXAMPLE_MODE";
    char *mode;
    int rc = pycrew_open(&crew, NULL);
    if (rc == 0)
        rc = pycrew_run_each(crew, "os:environ.setdefault", "ss", name, "quick");
    for (int i = 0; rc == 0 && i < 3; i++) /* whichever worker runs it */
        if ((rc = pycrew_run(crew, "os:environ.get", "s>s", name, &mode)) == 0)
            printf("%s is %s\n", name, mode), free(mode);
    if (rc < 0)
        fprintf(stderr, "each: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != 0;
}
