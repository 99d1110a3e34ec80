#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "worker/worker.h"

static bool is_control_socket(int fd)
{
    int type = 0;
    socklen_t size = sizeof type;

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        printf("pycrew-worker %s, Python %s\n", PACKAGE_VERSION, PY_VERSION);
        return 0;
    }
    if (argc != 1 || !is_control_socket(PC_CONTROL_FD)) {
        fprintf(stderr, "pycrew-worker is started by libpycrew, not by hand\n");
        return 2;
    }
    return pc_zygote_main(PC_CONTROL_FD);
}
