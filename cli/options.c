/* options: the command line. */
#include "cli/options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/console.h"
#include "cli/json.h"
#include "lib/pycrew.h"

/* ---- setting a field from text --------------------------------------------------------------- */

/* Each returns NULL, or what the text should be, for "--timeout: 'x' is not ...". */

static const char *set_flag(void *field, const char *text)
{
    (void)text;
    *(bool *)field = true;
    return NULL;
}

static const char *set_text(void *field, const char *text)
{
    *(const char **)field = text;
    return NULL;
}

static const char *add_to_list(void *field, const char *text)
{
    struct list *list = field;
    list->items = reallocate(list->items, (list->count + 2) * sizeof(*list->items));
    list->items[list->count++] = (char *)(uintptr_t)text; /* only read, or a writable argv itself */
    list->items[list->count] = NULL;
    return NULL;
}

/* Decimal digits only, below the limit. */
static bool read_number(const char *text, char **end, uint64_t limit, uint64_t *ret)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    unsigned long long number = strtoull(text, end, 10);
    if (errno != 0 || number > limit)
        return false;
    *ret = number;
    return true;
}

static const char *set_count(void *field, const char *text)
{
    char *end;
    uint64_t number;
    if (!read_number(text, &end, 1000000, &number) || *end != '\0')
        return "a number from 0 to 1000000";
    *(unsigned *)field = (unsigned)number;
    return NULL;
}

static const char *set_calls(void *field, const char *text)
{
    char *end;
    uint64_t number;
    if (!read_number(text, &end, INT64_MAX, &number) || *end != '\0')
        return "a number of calls";
    *(uint64_t *)field = number;
    return NULL;
}

static const char *set_size(void *field, const char *text)
{
    static const char units[] = "KMGT", expected[] = "a size: bytes, or 64K, 512M, 2G, 1T";
    char *end;
    uint64_t number;
    if (!read_number(text, &end, SIZE_MAX, &number))
        return expected;
    const char *unit = *end != '\0' ? strchr(units, toupper((unsigned char)*end)) : NULL;
    if (*end != '\0' && (unit == NULL || end[1] != '\0'))
        return expected;
    unsigned shift = unit != NULL ? (unsigned)(unit - units + 1) * 10 : 0;
    if (number == 0 || number > SIZE_MAX >> shift)
        return expected;
    *(size_t *)field = (size_t)number << shift;
    return NULL;
}

static double unit_ns(const char *unit)
{
    static const struct {
        const char *name;
        double ns;
    } units[] = {{"", 1e9},  {"ns", 1},   {"us", 1e3},  {"ms", 1e6},
                 {"s", 1e9}, {"m", 6e10}, {"h", 3.6e12}};
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcmp(unit, units[i].name) == 0)
            return units[i].ns;
    return 0;
}

static const char *set_duration(void *field, const char *text)
{
    static const char expected[] = "a time: 10s, 500ms, 1.5m (ns, us, ms, s, m, h; s without one)";
    char *end;
    /* strtod would take "inf", "0x1" and "-1" too */
    if (!isdigit((unsigned char)text[0]) && text[0] != '.')
        return expected;
    if (strspn(text, "0123456789.") == 0)
        return expected;
    double number = strtod(text, &end), ns = number * unit_ns(end);
    if (end != text + strspn(text, "0123456789.") || unit_ns(end) == 0 || ns > 9e18)
        return expected;
    *(int64_t *)field = number > 0 && ns < 1 ? 1 : (int64_t)ns;
    return NULL;
}

struct choice {
    const char *name;
    int value;
};

static bool choose(const struct choice *choices, const char *text, int *ret)
{
    for (; choices->name != NULL; choices++)
        if (strcmp(text, choices->name) == 0) {
            *ret = choices->value;
            return true;
        }
    return false;
}

static const char *set_input(void *field, const char *text)
{
    static const struct choice choices[] = {{"jsonl", INPUT_JSONL}, {"csv", INPUT_CSV},
                                            {"tsv", INPUT_TSV},     {"lines", INPUT_LINES},
                                            {"nul", INPUT_NUL},     {NULL, 0}};
    int value;
    if (!choose(choices, text, &value))
        return "one of jsonl, csv, tsv, lines, nul";
    *(enum input_format *)field = (enum input_format)value;
    return NULL;
}

static const struct choice output_formats[] = {{"jsonl", OUTPUT_JSONL}, {"csv", OUTPUT_CSV},
                                               {"tsv", OUTPUT_TSV},     {"lines", OUTPUT_LINES},
                                               {"nul", OUTPUT_NUL},     {NULL, 0}};

static const char *set_output(void *field, const char *text)
{
    int value;
    if (!choose(output_formats, text, &value))
        return "one of jsonl, csv, tsv, lines, nul";
    *(enum output_format *)field = (enum output_format)value;
    return NULL;
}

static const char *set_nan(void *field, const char *text)
{
    static const struct choice choices[] = {
        {"literal", NAN_LITERAL}, {"null", NAN_NULL}, {"error", NAN_ERROR}, {NULL, 0}};
    int value;
    if (!choose(choices, text, &value))
        return "one of literal, null, error";
    *(enum nan_mode *)field = (enum nan_mode)value;
    return NULL;
}

static const char *set_progress(void *field, const char *text)
{
    static const struct choice choices[] = {{"auto", PROGRESS_AUTO},   {"bar", PROGRESS_BAR},
                                            {"plain", PROGRESS_PLAIN}, {"json", PROGRESS_JSON},
                                            {"none", PROGRESS_NONE},   {NULL, 0}};
    int value;
    if (!choose(choices, text, &value))
        return "one of auto, bar, plain, json, none";
    *(enum progress_mode *)field = (enum progress_mode)value;
    return NULL;
}

static const char *set_halt(void *field, const char *text)
{
    static const char expected[] = "now or soon, or now,fail=N or soon,fail=N";
    const char *comma = strchrnul(text, ',');
    size_t size = (size_t)(comma - text);
    bool now = size == 3 && memcmp(text, "now", 3) == 0;
    bool soon = size == 4 && memcmp(text, "soon", 4) == 0;
    uint64_t failures = 1;
    if (!now && !soon)
        return expected;
    if (*comma != '\0') {
        char *end;
        if (strncmp(comma, ",fail=", 6) != 0 ||
            !read_number(comma + 6, &end, INT64_MAX, &failures) || *end != '\0' || failures == 0)
            return expected;
    }
    *(struct halt *)field = (struct halt){now ? HALT_NOW : HALT_SOON, failures};
    return NULL;
}

/* ---- the table ------------------------------------------------------------------------------- */

enum {
    CALL = COMMAND_CALL,
    MAP = COMMAND_MAP,
    STUBS = COMMAND_STUBS,
    BOTH = CALL | MAP,
    ALL = BOTH | STUBS,
    TOP = COMMAND_TOP,
    DOCTOR = COMMAND_DOCTOR /* takes what both call and map take */
};

static const struct option_row {
    const char *name;
    char letter; /* 0: none */
    int commands;
    const char *argument; /* what --help calls it; NULL: it takes none */
    const char *(*set)(void *field, const char *text);
    size_t field;
    const char *help;
} table[] = {
#define FIELD(name) offsetof(struct options, name)
    {"strings", 's', CALL, NULL, set_flag, FIELD(strings),
     "every ARG and VALUE is a string as it stands"},
    {"keyword", 'k', CALL, "NAME=VALUE", add_to_list, FIELD(keywords), "a keyword argument"},
    {"raw", 'r', CALL, NULL, set_flag, FIELD(raw), "print a str or bytes result as it is"},
    {"stream", 0, CALL, NULL, set_flag, FIELD(stream),
     "a generator: print each item as it comes, a line each"},

    {"input", 'i', MAP, "FORMAT", set_input, FIELD(input),
     "jsonl, csv, tsv, lines or nul, whatever the files are called"},
    {"files", 0, MAP, NULL, set_flag, FIELD(files),
     "each FILE's path is a record; the files are not read"},
    {"infer", 0, MAP, NULL, set_flag, FIELD(infer),
     "CSV and TSV: numbers, true, false and empty fields are no strings"},
    {"star", 0, MAP, NULL, set_flag, FIELD(star), "the record is a list or a row: call f(*record)"},
    {"kwargs", 0, MAP, NULL, set_flag, FIELD(kwargs),
     "the record is a dict or a row: call f(**record)"},
    {"whole", 0, MAP, "N", set_count, FIELD(whole), "call f(list of N records)"},
    {"flatten", 0, MAP, NULL, set_flag, FIELD(output.flatten),
     "a result is a list of results, written one by one"},
    {"from-errors", 0, MAP, "FILE", set_text, FIELD(from_errors),
     "the records that failed before, from an --errors file"},
    {"unordered", 'u', MAP, NULL, set_flag, FIELD(unordered),
     "results as they finish, not in the input's order"},
    {"format", 'o', MAP, "FORMAT", set_output, FIELD(output.format),
     "jsonl, csv, tsv, lines or nul"},
    {"output", 0, MAP, "FILE", set_text, FIELD(output_file), "results go there, not to stdout"},
    {"errors", 0, MAP, "FILE", set_text, FIELD(errors_file), "failed records go there, as JSONL"},
    {"force", 0, MAP, NULL, set_flag, FIELD(force), "overwrite these files if they exist"},
    {"checkpoint", 0, MAP, "FILE", set_text, FIELD(checkpoint),
     "how far it is stands there, so that --resume can go on"},
    {"checkpoint-every", 0, MAP, "TIME", set_duration, FIELD(checkpoint_every_ns),
     "how often that is written; 1s"},
    {"resume", 0, MAP, NULL, set_flag, FIELD(resume), "go on from the checkpoint, if there is one"},
    {"dry-run", 0, MAP, NULL, set_flag, FIELD(dry_run),
     "read all and look for the function, but call nothing"},
    {"index", 0, MAP, NULL, set_flag, FIELD(output.index),
     "with each result, its record's number, from 0"},
    {"with-input", 0, MAP, NULL, set_flag, FIELD(output.input), "with each result, its record"},
    {"nan", 0, MAP, "HOW", set_nan, FIELD(output.nan),
     "NaN and Infinity: literal (the default), null or error"},
    {"halt", 0, MAP, "WHEN", set_halt, FIELD(halt),
     "stop at a failed record: now, soon (finish what runs), now,fail=N"},
    {"trace", 0, MAP, "FILE", set_text, FIELD(trace),
     "what each worker did when, as Chrome trace JSON, for Perfetto"},
    {"report", 0, MAP, "FILE", set_text, FIELD(report),
     "one HTML page of how it went: rates, workers, times, errors"},
    {"progress", 0, MAP, "HOW", set_progress, FIELD(progress),
     "on stderr: auto (a bar on a terminal), bar, plain, json, none"},

    {"prefix", 0, STUBS, "TEXT", set_text, FIELD(prefix),
     "in front of each name; MODULE_ if it is not given"},
    {"output", 0, STUBS, "DIR", set_text, FIELD(output_file),
     "the three files go there, named as the prefix; here if it is not given"},
    {"c-header", 0, STUBS, "FILE", set_text, FIELD(c_header), "or one by one: only those given,"},
    {"c-source", 0, STUBS, "FILE", set_text, FIELD(c_source), "under these names"},
    {"cpp-header", 0, STUBS, "FILE", set_text, FIELD(cpp_header), ""},
    {"depfile", 0, STUBS, "FILE", set_text, FIELD(depfile),
     "a rule for make: what the files were made from"},
    {"only", 0, STUBS, "FUNCTION", add_to_list, FIELD(only), "this function, and others given so"},
    {"int", 0, STUBS, "TYPE", set_text, FIELD(int_type),
     "C's for int: int64_t, int, int32_t, long or long long"},
    {"sized-str", 0, STUBS, NULL, set_flag, FIELD(sized_str),
     "str as pointer and size, so that a NUL may be in it"},
    {"crew", 0, STUBS, "NAME", set_text, FIELD(crew),
     "the functions use this variable, and are not given the crew"},
    {"once", 0, TOP, NULL, set_flag, FIELD(once), "print it once, as text, and end"},
    {"json", 0, TOP, NULL, set_flag, FIELD(json),
     "a JSON object; with --interval one each time, a line each"},
    {"interval", 0, TOP, "TIME", set_duration, FIELD(interval_ns),
     "between looks, which rates are over: 1s; for a single object or text 200ms"},
    {"stack", 0, TOP, NULL, set_flag, FIELD(stack),
     "with the Python stack of the call that has run for longest"},
    {"crew", 0, TOP, "N", set_count, FIELD(crew_number),
     "which of the process's crews, from 1, where it has several"},
    {"json", 0, DOCTOR, NULL, set_flag, FIELD(json), "each check as a JSON object, a line each"},

    {"workers", 'j', BOTH, "N", set_count, FIELD(workers),
     "Python processes; 0: one for each CPU (map's default; call's is 1)"},
    {"python", 0, ALL, "PROGRAM", set_text, FIELD(python),
     "whose environment to use, as venv/bin/python"},
    {"path", 0, ALL, "DIR", add_to_list, FIELD(path),
     "modules are there too; the current directory comes first"},
    {"preload", 0, BOTH, "MODULE", add_to_list, FIELD(preload),
     "imported once, before the workers are forked"},
    {"init", 0, BOTH, "MODULE:FUNCTION", set_text, FIELD(init),
     "run in each worker before its first call"},
    {"engine", 0, BOTH, "MODULE:FACTORY", set_text, FIELD(engine),
     "where calls run: pycrew.engines.dask:cluster, ... (not here)"},
    {"engine-options", 0, BOTH, "JSON", set_text, FIELD(engine_options),
     "the factory's keyword arguments, a JSON object"},
    {"timeout", 0, ALL, "TIME", set_duration, FIELD(timeout_ns),
     "each call's deadline: 10s, 500ms (ns us ms s m h)"},
    {"grace", 0, BOTH, "TIME", set_duration, FIELD(grace_ns),
     "from its interruption to the worker's end; 100ms"},
    {"retries", 0, BOTH, "N", set_count, FIELD(retries), "of a call whose worker died; 0"},
    {"memory", 0, BOTH, "SIZE", set_size, FIELD(memory), "shared memory at most: 512M, 2G"},
    {"env", 0, ALL, "NAME=VALUE", add_to_list, FIELD(env),
     "in the workers' environment; NAME alone: not there"},
    {"max-calls", 0, BOTH, "N", set_calls, FIELD(max_calls),
     "a worker is replaced after so many calls or records; 0: never"},
    {"max-rss", 0, BOTH, "SIZE", set_size, FIELD(max_rss),
     "or when its memory has grown beyond: 512M, 2G"},
    {"nice", 0, BOTH, "N", set_count, FIELD(nice), "added to the workers' nice value: 1 to 19"},
    {"cpus", 0, BOTH, "LIST", set_text, FIELD(cpus),
     "the workers' CPUs: 0-3,8; one: each uses one; one:0-3,8"},
    {"debug", 0, BOTH, NULL, set_flag, FIELD(debug),
     "one worker on the terminal, for breakpoint(); no deadlines"},
    {"quiet", 'q', BOTH, NULL, set_flag, FIELD(quiet),
     "no progress, and no word about single failed records"},
    {"verbose", 'v', ALL, NULL, set_flag, FIELD(verbose),
     "every failed record with its traceback, and a summary"},
    {"help", 'h', ALL | TOP, NULL, NULL, 0, "show this"},
    {"version", 'V', ALL | TOP, NULL, NULL, 0, "show the version"},
#undef FIELD
};

enum { ROWS = sizeof(table) / sizeof(table[0]) };

static bool is_of(const struct option_row *row, int command)
{
    return (row->commands & command) != 0 ||
           (command == COMMAND_DOCTOR && (row->commands & BOTH) == BOTH);
}

/* ---- help ------------------------------------------------------------------------------------ */

static const char *const synopsis[] = {
    [COMMAND_CALL] = "pycrew call [OPTION]... MODULE:FUNCTION [ARG]...",
    [COMMAND_MAP] = "pycrew map [OPTION]... MODULE:FUNCTION [FILE]...",
    [COMMAND_STUBS] = "pycrew stubs [OPTION]... MODULE",
    [COMMAND_DOCTOR] = "pycrew doctor [OPTION]... [MODULE:FUNCTION]",
    [COMMAND_TOP] = "pycrew top [OPTION]... [PID]"};

static const char *const names_of_commands[] = {[COMMAND_CALL] = "call",
                                                [COMMAND_MAP] = "map",
                                                [COMMAND_STUBS] = "stubs",
                                                [COMMAND_DOCTOR] = "doctor",
                                                [COMMAND_TOP] = "top"};

static const char *const about[] = {
    [COMMAND_CALL] =
        "Calls a Python function in a worker process and prints what it returns as one line of "
        "JSON.\n"
        "ARG is JSON if it parses, else a string; @FILE and @- are a file's and stdin's text.\n",
    [COMMAND_MAP] = "Calls a Python function on each record of the FILEs, in parallel, and writes "
                    "the results in the\n"
                    "records' order. Without FILE, or where it is -, reads JSONL from stdin. A "
                    "FILE's format is told\n"
                    "by its extension (.jsonl .csv .tsv .txt ..., .gz behind it) or by -i.\n",
    [COMMAND_STUBS] = "Writes a C header, its source and a C++ header: a function with the same "
                      "name and types for\n"
                      "each annotated function of a Python module.\n",
    [COMMAND_DOCTOR] =
        "Looks whether all is there that workers need, and says what to do where it is "
        "not: a line for\n"
        "each check. MODULE is imported, FUNCTION is not called.\n",
    [COMMAND_TOP] =
        "Shows what the crew of another process is doing: PID, or the only process of yours that "
        "has one.\nIt is looked at, not touched. Where stdout is no terminal, as --once.\n"};

static const char *const failures[] = {[COMMAND_CALL] = "the function raised",
                                       [COMMAND_MAP] = "some records failed",
                                       [COMMAND_STUBS] = "a type has no C type"};
static const char *const ends[] = {[COMMAND_CALL] = "4 the worker died, 124 the deadline passed",
                                   [COMMAND_MAP] = "5 halted by --halt",
                                   [COMMAND_STUBS] = "4 the worker died, 124 the deadline passed"};

void options_print_usage(void)
{
    printf("usage: %s\n       %s\n       %s\n       %s\n       %s\n       pycrew COMMAND --help\n       "
           "pycrew --version\n",
           synopsis[COMMAND_CALL], synopsis[COMMAND_MAP], synopsis[COMMAND_TOP],
           synopsis[COMMAND_DOCTOR], synopsis[COMMAND_STUBS]);
}

static void print_row(const struct option_row *row)
{
    enum { COLUMN = 28 };
    int width = printf(row->letter != 0 ? "  -%c, " : "      ", row->letter);
    width += printf("--%s", row->name);
    if (row->argument != NULL)
        width += printf(" %s", row->argument);
    printf("%*s%s\n", width < COLUMN ? COLUMN - width : 2, "", row->help);
}

static void print_help(int command)
{
    printf("usage: %s\n\n%s\n", synopsis[command], about[command]);
    for (size_t i = 0; i < ROWS; i++)
        if (is_of(&table[i], command))
            print_row(&table[i]);
    if (command == COMMAND_DOCTOR) {
        printf("\nExit status: 0 no check failed, 1 one did, 2 usage.\nMore in the manual: man "
               "pycrew\n");
        return;
    }
    if (command == COMMAND_TOP) {
        printf("\nExit status: 0 all well, 1 there is no such crew, or it cannot be looked at, 2 usage or "
               "several\ncrews, 130 interrupted, 141 stdout was closed.\nMore in the manual: man "
               "pycrew\n");
        return;
    }
    printf("\nExit status: 0 all well, 1 %s, 2 usage or bad input, 3 workers cannot be\n"
           "started, %s, 130 interrupted, 141 stdout was closed.\n"
           "More in the manual: man %s\n",
           failures[command], ends[command], command == COMMAND_STUBS ? "pycrew-stubs" : "pycrew");
}

/* ---- reading --------------------------------------------------------------------------------- */

static int complain(int command, const char *what)
{
    say("%s (pycrew %s --help tells more)", what, names_of_commands[command]);
    return 2;
}

/* getopt's own tables; an option's number is 256 and its row. Returns the count of long ones. */
static void make_getopt_tables(int command, char *letters, struct option *names)
{
    letters +=
        sprintf(letters, "-:"); /* files and options in any order; ':' for a missing argument */
    for (size_t i = 0; i < ROWS; i++) {
        const struct option_row *row = &table[i];
        if (!is_of(row, command))
            continue;
        int has_argument = row->argument != NULL ? required_argument : no_argument;
        *names++ = (struct option){row->name, has_argument, NULL, 256 + (int)i};
        if (row->letter != 0)
            letters += sprintf(letters, row->argument != NULL ? "%c:" : "%c", row->letter);
    }
    *names = (struct option){0};
}

static const struct option_row *row_of(int command, int number)
{
    if (number >= 256)
        return &table[number - 256];
    for (size_t i = 0; i < ROWS; i++)
        if (table[i].letter == number && is_of(&table[i], command))
            return &table[i];
    return NULL;
}

static int set_option(struct options *options, const struct option_row *row, const char *text)
{
    if (row->set == NULL) {
        if (strcmp(row->name, "help") == 0)
            print_help(options->command);
        else
            printf("pycrew %s\n", pycrew_version());
        return fflush(stdout) == 0 ? 0 : 1;
    }
    const char *expected = row->set((char *)options + row->field, text);
    if (expected == NULL)
        return -1;
    say("--%s: '%s' is not %s", row->name, text, expected);
    return 2;
}

/* A negative number is an ARG and no heap of options. */
static bool is_negative_number(const char *text)
{
    return text != NULL && text[0] == '-' && (isdigit((unsigned char)text[1]) || text[1] == '.');
}

static void add_argument(struct options *options, char *text)
{
    if (options->function == NULL)
        options->function = text;
    else
        add_to_list(&options->arguments, text);
}

/* What getopt returned: -1 go on, else the code to exit with. */
static int take(struct options *options, int got, char **argv)
{
    char what[256];
    if (got == 1) {
        add_argument(options, optarg);
        return -1;
    }
    if (got == '?' || got == ':') {
        const char *word = argv[optind - 1];
        if (got == ':')
            snprintf(what, sizeof(what), "%s needs an argument", word);
        else if (optopt >= 256)
            snprintf(what, sizeof(what), "--%s takes no argument", table[optopt - 256].name);
        else if (optopt > 0)
            snprintf(what, sizeof(what), "unknown option -%c", optopt);
        else
            snprintf(what, sizeof(what), "unknown option %s", word);
        return complain(options->command, what);
    }
    return set_option(options, row_of(options->command, got), optarg);
}

static const char *check_stubs(const struct options *options)
{
    if (options->function == NULL)
        return "MODULE is missing";
    if (options->arguments.count > 0)
        return "one MODULE at a time";
    if (options->output_file != NULL &&
        (options->c_header != NULL || options->c_source != NULL || options->cpp_header != NULL))
        return "--output is for those that are not named one by one";
    return NULL;
}

static const char *check_top(const struct options *options)
{
    char *end;
    uint64_t pid;
    if (options->arguments.count > 0)
        return "one PID at a time";
    if (options->function != NULL &&
        (!read_number(options->function, &end, INT32_MAX, &pid) || *end != '\0' || pid == 0))
        return "PID is a process's number";
    return NULL;
}

static int check(const struct options *options)
{
    const char *problem = NULL;
    const char *out = options->output_file;
    if (options->command == COMMAND_STUBS)
        problem = check_stubs(options);
    else if (options->command == COMMAND_DOCTOR)
        problem = options->arguments.count > 0 ? "one MODULE:FUNCTION at a time" : NULL;
    else if (options->command == COMMAND_TOP)
        problem = check_top(options);
    else if (options->function == NULL)
        problem = "MODULE:FUNCTION is missing";
    else if (options->star && options->kwargs)
        problem = "--star and --kwargs exclude each other";
    else if (options->files && options->input != INPUT_BY_NAME)
        problem = "--files does not read the files, so -i has no meaning";
    else if (options->files && options->arguments.count == 0)
        problem = "--files needs FILEs";
    else if (options->files && (options->star || options->kwargs))
        problem = "--files gives strings, which --star and --kwargs cannot spread";
    else if (options->whole > 0 && (options->star || options->kwargs))
        problem = "--whole gives one list, which --star and --kwargs would spread";
    else if (options->from_errors != NULL && options->arguments.count > 0)
        problem = "--from-errors reads the failed records, and no FILE besides";
    else if (options->from_errors != NULL && (options->files || options->input != INPUT_BY_NAME))
        problem = "--from-errors knows what it reads: -i and --files have no meaning";
    else if (options->report != NULL && options->dry_run)
        problem = "--dry-run calls nothing, and so there is nothing to --report";
    else if (options->resume && options->checkpoint == NULL)
        problem = "--resume goes on from a --checkpoint FILE, which is missing";
    else if (options->checkpoint != NULL && out == NULL)
        problem = "--checkpoint needs --output FILE: what stdout got cannot be taken back";
    else if (options->checkpoint_every_ns > 0 && options->checkpoint == NULL)
        problem = "--checkpoint-every is about a --checkpoint FILE, which is missing";
    else if ((options->star || options->kwargs) &&
             (options->input == INPUT_LINES || options->input == INPUT_NUL))
        problem = "lines are strings, which --star and --kwargs cannot spread";
    return problem != NULL ? complain(options->command, problem) : -1;
}

/* Where only the file's name says so: "out.csv" is CSV, "out.csv.gz" too. */
static void settle_output(struct options *options)
{
    const char *path = options->output_file != NULL ? options->output_file : "";
    char *name = copy_bytes(path, strlen(path) - (writer_is_packed(path) ? 3 : 0));
    const char *dot = strrchr(name, '.');
    int format = (int)options->output.format;
    if (format == OUTPUT_BY_NAME) {
        format = OUTPUT_JSONL;
        if (dot != NULL && strcmp(dot, ".txt") == 0)
            format = OUTPUT_LINES;
        else if (dot != NULL)
            choose(output_formats, dot + 1, &format);
    }
    options->output.format = (enum output_format)format;
    free(name);
}

static int read_words(struct options *options, int argc, char **argv)
{
    char letters[3 * ROWS + 3];
    struct option names[ROWS + 1];
    make_getopt_tables(options->command, letters, names);
    opterr = 0;
    optind = 1;
    for (;;) {
        while (is_negative_number(optind < argc ? argv[optind] : NULL))
            add_argument(options, argv[optind++]);
        int got = getopt_long(argc, argv, letters, names, NULL);
        if (got == -1)
            break;
        int code = take(options, got, argv);
        if (code >= 0)
            return code;
    }
    while (optind < argc) /* behind "--" */
        add_argument(options, argv[optind++]);
    return -1;
}

static const size_t lists[] = {offsetof(struct options, path), offsetof(struct options, preload),
                               offsetof(struct options, env),  offsetof(struct options, keywords),
                               offsetof(struct options, only), offsetof(struct options, arguments)};

static struct list *list_of(struct options *options, size_t number)
{
    return (struct list *)(void *)((char *)options + lists[number]);
}

int options_read(struct options *options, int command, int argc, char **argv)
{
    *options = (struct options){.command = command};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        list_of(options, i)->items = allocate_zeroed(1, sizeof(char *));
    int code = read_words(options, argc, argv);
    if (code < 0)
        code = check(options);
    settle_output(options);
    return code;
}

void options_free(struct options *options)
{
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        free(list_of(options, i)->items);
}
