#include <pycrew.h>
#include <stdio.h>

int main(void)
{
    pycrew_crew *crew = NULL;
    pycrew_actor *actor = NULL;
    int count;
    int rc = pycrew_open(&crew, NULL);
    if (rc == 0)
        rc = pycrew_actor_open(crew, &actor, PYCREW_FOREVER, "collections:Counter", "");
    if (rc == 0 && (rc = pycrew_actor_run(actor, "update", "s", "hello")) == 0 &&
        (rc = pycrew_actor_run(actor, "update", "s", "world")) == 0)
        rc = pycrew_actor_run(actor, "get", "s>i", "l", &count);
    if (rc == 0)
        printf("hello, world has %d l\n", count);
    else
        fprintf(stderr, "actor: %s\n", pycrew_last_error()->message);
    pycrew_actor_close(actor);
    pycrew_close(crew);
    return rc != 0;
}
