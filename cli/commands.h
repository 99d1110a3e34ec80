/* The commands: each returns the code to exit with. */
#ifndef CLI_COMMANDS_H
#define CLI_COMMANDS_H

#include "cli/options.h"

int command_call(const struct options *options);
int command_map(const struct options *options);
int command_stubs(const struct options *options);
int command_doctor(const struct options *options);
int command_top(const struct options *options);

#endif
