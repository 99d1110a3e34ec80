#include <pycrew.h>
#include <stdio.h>

int main(void)
{
    const pycrew_function *function;
    pycrew_crew *crew = NULL;
    pycrew_call *call = NULL;
    const char *a, *b;
    int rc = pycrew_open(&crew, NULL);
    if (rc < 0 || (rc = pycrew_function_get(crew, "itertools:permutations", &function)) < 0 ||
        (rc = pycrew_prepare(crew, function, PYCREW_FOREVER, &call)) < 0 ||
        (rc = pycrew_set_stream(call, 0)) < 0 || (rc = pycrew_add(call, "si", "xyz", 2)) < 0 ||
        (rc = pycrew_submit(call)) < 0)
        fprintf(stderr, "stream: %s\n", pycrew_last_error()->message);
    while (rc >= 0 && (rc = pycrew_next(call, PYCREW_FOREVER)) == 1 &&
           pycrew_result(call, "ss", &a, &b) == 0)
        printf("%s%s\n", a, b);
    pycrew_release(call);
    pycrew_close(crew);
    return rc != 0;
}
