/* A function that stops at its breakpoint(), on the terminal that this program was started from. */
#include <pycrew.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    const char *path[] = {argc > 1 ? argv[1] : DEBUG_FOLDER, NULL};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_crew *crew = NULL;
    double mean = 0;
    options.path = path;
    options.debug = true;
    int rc = pycrew_open(&crew, &options);
    if (rc == 0)
        rc = pycrew_run(crew, "means:mean", "[ddd]>d", 1.0, 2.0, 6.0, &mean);
    if (rc == 0)
        printf("the mean is %g\n", mean);
    else
        fprintf(stderr, "debug: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != 0;
}
