#include <pycrew.h>
#include <stdio.h>

enum { N = 1000000 };

int main(void)
{
    pycrew_crew *crew = NULL;
    pycrew_array a;
    double *x = NULL, sum;
    int rc = pycrew_open(&crew, NULL);
    if (rc == 0 && (x = pycrew_alloc(crew, N * sizeof *x)) == NULL)
        rc = pycrew_last_error()->code;
    if (rc == 0) {
        for (int i = 0; i < N; i++)
            x[i] = i;
        pycrew_array_init(&a, x, PYCREW_F64, 1, (int64_t[]){N}, 0);
        rc = pycrew_run(crew, "numpy:sum", "A>d", &a, &sum);
    }
    if (rc == 0)
        printf("%.0f\n", sum);
    else
        fprintf(stderr, "array: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != 0;
}
