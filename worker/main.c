#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "worker/choose.h"
#include "worker/worker.h"

static bool is_control_socket(int fd)
{
    int type = 0;
    socklen_t size = sizeof type;

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

static void refuse(const char *why)
{
    pc_message message = {.kind = PC_MESSAGE_FAILED};

    pc_control_send(PC_CONTROL_FD, &message, why, strlen(why), NULL, 0);
}

/* Without arguments for the Python that it was built with, or with another one's path. */
int main(int argc, char **argv)
{
    const char *python = PYCREW_PYTHON, *failure;

    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("pycrew-worker %s, Python %s\n", PACKAGE_VERSION, PY_VERSION);
        return 0;
    }
    if (argc > 2 || !is_control_socket(PC_CONTROL_FD)) {
        fprintf(stderr, "pycrew-worker is started by libpycrew, not by hand\n");
        return 2;
    }
    if (argc > 1 && (python = pc_choose_program(argv[1], &failure)) == NULL) {
        refuse(failure);
        return 1;
    }
    return pc_worker_main(python);
}
