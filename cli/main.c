/* pycrew: the command. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/console.h"
#include "cli/crew.h"
#include "cli/signals.h"

/* A standard descriptor that is closed would be the number of the next file that is opened. In its
 * place stands one that can neither be read nor written as that should be. */
static void hold_standard_descriptors(void)
{
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0)
            (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

static int run(int command, int argc, char **argv)
{
    struct options options;
    int code = options_read(&options, command, argc, argv);
    if (code < 0) {
        signals_setup();
        code = command == COMMAND_CALL     ? command_call(&options)
               : command == COMMAND_MAP    ? command_map(&options)
               : command == COMMAND_DOCTOR ? command_doctor(&options)
               : command == COMMAND_TOP    ? command_top(&options)
                                           : command_stubs(&options);
    }
    options_free(&options);
    return code;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    hold_standard_descriptors();
    if (strcmp(command, "call") == 0)
        return run(COMMAND_CALL, argc - 1, argv + 1);
    if (strcmp(command, "map") == 0)
        return run(COMMAND_MAP, argc - 1, argv + 1);
    if (strcmp(command, "stubs") == 0)
        return run(COMMAND_STUBS, argc - 1, argv + 1);
    if (strcmp(command, "doctor") == 0)
        return run(COMMAND_DOCTOR, argc - 1, argv + 1);
    if (strcmp(command, "top") == 0)
        return run(COMMAND_TOP, argc - 1, argv + 1);
    if (strcmp(command, "--version") == 0 || strcmp(command, "-V") == 0) {
        printf("pycrew %s\n", pycrew_version());
        return fflush(stdout) == 0 ? EXIT_ALL_WELL : EXIT_FAILED;
    }
    if (strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0) {
        options_print_usage();
        return fflush(stdout) == 0 ? EXIT_ALL_WELL : EXIT_FAILED;
    }
    if (argc > 1)
        say("'%s' is no command: call, map, top, doctor and stubs are (pycrew --help tells more)",
            command);
    else
        say("which command? call, map, top, doctor or stubs (pycrew --help tells more)");
    return EXIT_USAGE;
}
