/* options: the command line.
 *
 * One table in options.c has every option: its names, what it sets, which command takes it, and its
 * line in --help. */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cli/output.h"
#include "cli/progress.h"
#include "cli/reader.h"

enum { COMMAND_CALL = 1, COMMAND_MAP = 2, COMMAND_STUBS = 4, COMMAND_DOCTOR = 8, COMMAND_TOP = 16 };

struct list {
    char **items; /* NULL behind the last, also when there are none */
    size_t count;
};

enum halt_when { HALT_NEVER, HALT_SOON, HALT_NOW };

struct halt {
    enum halt_when when;
    uint64_t failures; /* at so many */
};

struct options {
    int command;

    /* the crew */
    unsigned workers, retries;
    const char *python, *init, *engine, *engine_options;
    struct list path, preload, env;
    int64_t timeout_ns, grace_ns;
    size_t memory, max_rss;
    uint64_t max_calls;
    unsigned nice;
    const char *cpus;
    bool debug;
    bool quiet, verbose;

    /* call */
    bool strings, raw, stream;
    struct list keywords;

    /* map */
    enum input_format input;
    bool infer, files, star, kwargs, unordered;
    struct output_options output;
    const char *output_file, *errors_file;
    bool force;
    struct halt halt;
    enum progress_mode progress;
    unsigned whole; /* records to a call; 0: each its own */
    const char *from_errors;
    const char *checkpoint;
    int64_t checkpoint_every_ns; /* 0: a second, and more where one takes long */
    bool resume, dry_run;
    const char *trace, *report; /* NULL: none */

    /* doctor, top */
    bool json;

    /* top */
    bool once, stack;
    int64_t interval_ns; /* 0: not given */
    unsigned crew_number; /* 0: not given */

    /* stubs; NULL: not given */
    const char *prefix, *c_header, *c_source, *cpp_header, *depfile, *int_type, *crew;
    bool sized_str;
    struct list only;

    const char *function;  /* of stubs the module, of top the PID */
    struct list arguments; /* behind the function: ARGs or FILEs */
};

/* Reads the command line behind the command's name, argv[0] being that name. -1: go on; else the
 * code to exit with, all having been said. */
int options_read(struct options *options, int command, int argc, char **argv);

void options_free(struct options *options);

/* The list of commands, for pycrew without one. */
void options_print_usage(void);

#endif
