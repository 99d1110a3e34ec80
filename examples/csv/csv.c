#include <errno.h>
#include <pycrew.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    pycrew_options options = {.size = sizeof options, .path = (const char *[]){".", NULL}};
    pycrew_crew *crew;
    const pycrew_function *price;
    pycrew_batch *batch;
    const char *text;
    char line[4096];
    if (pycrew_open(&crew, &options) < 0 ||
        pycrew_function_get(crew, "csv_ops:price", &price) < 0 ||
        pycrew_batch_open(crew, price, NULL, &batch) < 0)
        return fprintf(stderr, "csv: %s\n", pycrew_last_error()->message), 1;
    char *row = fgets(line, sizeof line, stdin);
    for (;;) {
        while (row && pycrew_batch_add(batch, "y#", row, strlen(row)) == 0)
            row = fgets(line, sizeof line, stdin);
        if (row && pycrew_last_error()->code != -EAGAIN)
            return fprintf(stderr, "csv: %s\n", pycrew_last_error()->message), 1;
        if (pycrew_batch_next(batch, PYCREW_FOREVER) != 1)
            break; /* all rows are in, and out */
        size_t number = pycrew_batch_index(batch) + 1;
        if (pycrew_batch_result(batch, "s", &text) == 0)
            puts(text);
        else
            fprintf(stderr, "row %zu: %s\n", number, pycrew_last_error()->message);
    }
    pycrew_close(crew);
}
