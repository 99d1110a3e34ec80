/* pycrew-launch: loads the libpython that an interpreter runs with, then the worker for its
 * version, which has none: see choose.h. libpython comes first and its symbols are everyone's,
 * because the worker's references to it, and those of extension modules, are looked up among those.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "lib/shm/control.h"

enum { CONTROL_FD = 3 };

static int refuse(const char *what, const char *error)
{
    pc_message message = {.kind = PC_MESSAGE_FAILED};
    char text[2000];

    snprintf(text, sizeof text, "%s cannot be loaded: %s", what,
             error == NULL ? "unknown error" : error);
    pc_control_send(CONTROL_FD, &message, text, strlen(text), NULL, 0);
    return 1;
}

/* name python libpython module: from choose.c. */
int main(int argc, char **argv)
{
    int (*run)(const char *) = NULL;
    void *module;

    if (argc != 4) {
        fprintf(stderr, "pycrew-launch is started by pycrew-worker, not by hand\n");
        return 2;
    }
    prctl(PR_SET_NAME, argv[0]);
    if (dlopen(argv[2], RTLD_NOW | RTLD_GLOBAL) == NULL)
        return refuse(argv[2], dlerror());
    module = dlopen(argv[3], RTLD_NOW);
    if (module != NULL)
        *(void **)&run = dlsym(module, "pc_worker_main");
    return run == NULL ? refuse(argv[3], dlerror()) : run(argv[1]);
}
