/* terminal: of a crew that is debugged. The worker's process group is in front of the terminal
 * while it runs code of the user's (worker/life.c); one that died there has given nothing back. */
#include <fcntl.h>
#include <unistd.h>

#include "lib/supervisor.h"

/* The supervisor's signals are blocked, so SIGTTOU does not stop it. */
void pc_terminal_take_back(const pycrew_crew *crew, int group)
{
    int terminal;

    if (!crew->debug || (terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
        return;
    if (tcgetpgrp(terminal) == group)
        tcsetpgrp(terminal, getpgrp());
    close(terminal);
}
