#include <pycrew.h>
#include <stdio.h>

int main(void)
{
    pycrew_crew *crew = NULL;
    int answer;
    int rc = pycrew_open(&crew, NULL);
    if (rc == 0)
        rc = pycrew_run(crew, "math:comb", "ii>i", 10, 4, &answer);
    if (rc == 0)
        printf("10 over 4 is %d\n", answer);
    else
        fprintf(stderr, "hello: %s\n", pycrew_last_error()->message);
    pycrew_close(crew);
    return rc != 0;
}
