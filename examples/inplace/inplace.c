#include <pycrew.h>
#include <stdio.h>

enum { ROWS = 2, COLUMNS = 3 };

int main(void)
{
    pycrew_options options = {.size = sizeof options, .path = (const char *[]){".", NULL}};
    pycrew_crew *crew;
    pycrew_array array;
    double *x = NULL;
    if (pycrew_open(&crew, &options) < 0 || !(x = pycrew_alloc(crew, ROWS * COLUMNS * sizeof *x)))
        return fprintf(stderr, "inplace: %s\n", pycrew_last_error()->message), 1;
    for (int i = 0; i < ROWS * COLUMNS; i++)
        x[i] = i + 1;
    pycrew_array_init(&array, x, PYCREW_F64, 2, (int64_t[]){ROWS, COLUMNS}, PYCREW_WRITABLE);
    if (pycrew_run(crew, "inplace_ops:normalize", "A", &array) < 0)
        return fprintf(stderr, "inplace: %s\n", pycrew_last_error()->message), 1;
    for (int i = 0; i < ROWS * COLUMNS; i++)
        printf("%.3f%c", x[i], (i + 1) % COLUMNS ? ' ' : '\n');
    pycrew_free(crew, x);
    pycrew_close(crew);
}
