#include <pycrew.h>
#include <stdio.h>
#include <stdlib.h>

/* environment venv/bin/python: calls run in that environment, whatever Python 3 it is of. */
int main(int argc, char **argv)
{
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_crew *crew = NULL;
    char *version = NULL, *packages = NULL;

    options.python = argc > 1 ? argv[1] : NULL;
    int rc = pycrew_open(&crew, &options);
    if (rc == 0)
        rc = pycrew_run(crew, "platform:python_version", ">s", &version);
    if (rc == 0)
        rc = pycrew_run(crew, "sysconfig:get_path", "s>s", "purelib", &packages);
    if (rc == 0)
        printf("Python %s with the packages of %s\n", version, packages);
    else
        fprintf(stderr, "environment: %s\n", pycrew_last_error()->message);
    free(version);
    free(packages);
    pycrew_close(crew);
    return rc != 0;
}
