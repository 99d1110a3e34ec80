/* New text for a module, and workers that have it: calls go on meanwhile. */
#include <pycrew.h>
#include <stdio.h>

static void write_module(const char *rate)
{
    FILE *file = fopen("rates.py", "w");
    if (file == NULL)
        return;
    fprintf(file, "RATE = %s\n\ndef cost(amount):\n    return amount * RATE\n", rate);
    fclose(file);
}

int main(void)
{
    const char *path[] = {".", NULL}, *preload[] = {"rates", NULL}, *rates[] = {"0.2", "0.25"};
    pycrew_options options = PYCREW_OPTIONS_INIT;
    pycrew_crew *crew = NULL;
    double cost = 0;
    int rc = 0;
    options.path = path;
    options.preload = preload;
    for (int i = 0; i < 2 && rc == 0; i++) {
        write_module(rates[i]);
        rc = i == 0 ? pycrew_open(&crew, &options) : pycrew_reload(crew, PYCREW_FOREVER);
        if (rc == 0 && (rc = pycrew_run(crew, "rates:cost", "d>d", 80.0, &cost)) == 0)
            printf("80 cost %g\n", cost);
    }
    if (rc < 0) /* a module that fails to import is told here, and the workers go on as before */
        fprintf(stderr, "reload: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != 0;
}
