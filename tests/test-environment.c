/* Environments: what a worker is with options.python, compared with what that interpreter says of
 * itself when it is run as a program. Virtual environments, layouts as conda's, pyenv's Pythons,
 * other builds. */
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/harness/crew.h"

enum { PATH_SIZE = 4200, PYTHONS_MAX = 16 };

/* ---- tools -------------------------------------------------------------------------------------
 */

static const char *default_python(void)
{
    const char *python = getenv("PYTHON");

    return python != NULL ? python : "/usr/bin/python3";
}

/* A command's output without its last line's end; malloc'ed. NULL: it failed. */
static char *output_of(const char *format, ...) __attribute__((format(printf, 1, 2)));

static char *output_of(const char *format, ...)
{
    char *command = NULL, *text = calloc(1, 65536);
    va_list list;
    FILE *pipe;
    size_t size;

    va_start(list, format);
    ASSERT(vasprintf(&command, format, list) > 0 && text != NULL);
    va_end(list);
    pipe = popen(command, "r");
    ASSERT(pipe != NULL);
    size = fread(text, 1, 65535, pipe);
    if (size > 0 && text[size - 1] == '\n')
        text[size - 1] = '\0';
    free(command);
    if (pclose(pipe) == 0)
        return text;
    free(text);
    return NULL;
}

/* Prints on its standard error what failed. */
#define COMMAND(...) free(must(output_of(__VA_ARGS__)))

static char *must(char *output)
{
    ASSERT(output != NULL);
    return output;
}

static void write_script(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    ASSERT(file != NULL);
    fputs(text, file);
    fclose(file);
    ASSERT_INT(chmod(path, 0755), 0);
}

static char *run_text(pycrew_crew *crew, const char *name)
{
    char *text = NULL;

    OK(pycrew_run(crew, name, ">s", &text));
    return text;
}

static pycrew_crew *open_python(const char *python)
{
    pycrew_options options = test_options(1);

    options.python = python;
    options.start_timeout_ns = BOUND;
    return open_with(&options);
}

/* ---- what must be as in the interpreter --------------------------------------------------------
 */

static void expect_facts(pycrew_crew *crew, const char *python)
{
    const char *script = "'%s' '%s/tests/py/environment_ops.py' %s";
    char *expected = must(output_of(script, python, getenv("top_srcdir"), ""));
    char *found = run_text(crew, "environment_ops:facts_here");

    ASSERT_STR(found, expected);
    free(found);
    free(expected);
    /* In the C locale a child's differ from its parent's: that sets LC_CTYPE. */
    expected = must(output_of(script, python, getenv("top_srcdir"), "child"));
    found = run_text(crew, "environment_ops:facts_of_child");
    ASSERT_STR(found, expected);
    free(found);
    free(expected);
}

static void expect_pools(pycrew_crew *crew)
{
    static const char *const methods[] = {"fork", "spawn", "forkserver"};

    for (unsigned i = 0; i < 3; i++) {
        int sum = 0;

        OK(pycrew_run(crew, "environment_ops:squares", "s>i", methods[i], &sum));
        ASSERT_INT(sum, 30);
    }
}

static void refused_with(const char *python, const char *one, const char *other)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew = NULL;

    options.python = python;
    options.start_timeout_ns = BOUND;
    GIVES(pycrew_open(&crew, &options), PYCREW_ESTART);
    CONTAINS(pycrew_last_error()->message, one);
    CONTAINS(pycrew_last_error()->message, other);
}

/* ---- virtual environments ----------------------------------------------------------------------
 */

/* False where the module venv is missing (Debian: python3-venv). */
static bool make_environment(const char *folder, const char *options)
{
    char *output =
        output_of("'%s' -m venv --without-pip %s '%s' 2>&1", default_python(), options, folder);

    free(output);
    return output != NULL;
}

static void write_module(const char *environment)
{
    char *folder = must(
        output_of("'%s/bin/python3' -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))'",
                  environment));
    char path[PATH_SIZE];
    FILE *file;

    snprintf(path, sizeof path, "%s/only_here.py", folder);
    file = fopen(path, "w");
    ASSERT(file != NULL);
    fprintf(file, "text = 'of %s'\n", environment);
    fclose(file);
    free(folder);
}

/* The environment's module is found, and not by the others. */
static void expect_module(pycrew_crew *crew, const char *environment)
{
    char expected[PATH_SIZE], *text = NULL;

    OK(pycrew_run(crew, "environment_ops:import_text", "s>s", "only_here", &text));
    snprintf(expected, sizeof expected, "of %s", environment);
    ASSERT_STR(text, expected);
    free(text);
}

static void works_in_an_environment(const char *options)
{
    char folder[128], python[160];
    pycrew_crew *crew;

    snprintf(folder, sizeof folder, "%s", scratch("venv"));
    if (!make_environment(folder, options))
        SKIP("%s -m venv fails", default_python());
    write_module(folder);
    snprintf(python, sizeof python, "%s/bin/python3", folder);
    crew = open_python(python);
    expect_facts(crew, python);
    expect_module(crew, folder);
    expect_pools(crew);
    pycrew_close(crew);
    COMMAND("rm -r %s", folder);
}

TEST(a_virtual_environment_is_as_its_interpreter_says_with_its_modules_and_processes)
{
    works_in_an_environment("");
}

TEST(a_virtual_environment_with_system_site_packages_is_as_its_interpreter_says)
{
    works_in_an_environment("--system-site-packages");
}

/* Its interpreter is a file of its own: no link says what it is. */
TEST(a_virtual_environment_of_copies_is_as_its_interpreter_says)
{
    works_in_an_environment("--copies");
}

TEST(two_crews_in_two_environments_do_not_mix)
{
    char one[128], other[128], python[2][160];
    pycrew_crew *crews[2];
    char *text;

    snprintf(one, sizeof one, "%s", scratch("one"));
    snprintf(other, sizeof other, "%s", scratch("other"));
    if (!make_environment(one, "") || !make_environment(other, ""))
        SKIP("%s -m venv fails", default_python());
    write_module(one);
    snprintf(python[0], sizeof python[0], "%s/bin/python3", one);
    snprintf(python[1], sizeof python[1], "%s/bin/python3", other);
    for (unsigned i = 0; i < 2; i++)
        crews[i] = open_python(python[i]);
    expect_module(crews[0], one);
    GIVES(pycrew_run(crews[1], "environment_ops:import_text", "s>s", "only_here", &text),
          PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "ModuleNotFoundError");
    for (unsigned i = 0; i < 2; i++)
        pycrew_close(crews[i]);
    COMMAND("rm -r %s %s", one, other);
}

TEST(a_relative_path_is_made_absolute_as_in_a_plain_interpreter)
{
    char folder[128], *found;
    pycrew_crew *crew;

    snprintf(folder, sizeof folder, "%s", scratch("venv"));
    if (!make_environment(folder, ""))
        SKIP("%s -m venv fails", default_python());
    ASSERT_INT(chdir(folder), 0);
    crew = open_python("bin/python3");
    found = run_text(crew, "api_ops:executable");
    ASSERT(strlen(found) > strlen("/bin/python3"));
    ASSERT_INT(*found, '/');
    ASSERT_STR(found + strlen(found) - strlen("/bin/python3"), "/bin/python3");
    free(found);
    pycrew_close(crew);
    ASSERT_INT(chdir("/"), 0);
    COMMAND("rm -r %s", folder);
}

/* ---- the end -----------------------------------------------------------------------------------
 */

/* With time enough: what hangs is killed at the end of the grace. */
TEST(threads_and_tasks_of_executors_end_before_exit_functions_run)
{
    pycrew_options options = test_options(1);
    const char *path = scratch("end");
    pycrew_crew *crew;
    char text[100];

    options.grace_ns = BOUND;
    crew = open_with(&options);
    OK(pycrew_run(crew, "environment_ops:outlive_the_main_thread", "s>", path));
    pycrew_close(crew);
    tap_read_file(path, text, sizeof text);
    ASSERT_STR(text, "task thread exit ");
}

/* ---- layouts made by hand ----------------------------------------------------------------------
 */

/* bin/python, lib/python3.x and site-packages in a prefix of its own, as conda has it. */
TEST(a_prefix_with_an_interpreter_and_its_library_is_as_its_interpreter_says)
{
    char folder[128], python[160];
    char *binary = must(output_of("readlink -f '%s'", default_python()));
    char *library = must(output_of(
        "'%s' -c 'import sysconfig; print(sysconfig.get_path(\"stdlib\"))'", default_python()));
    pycrew_crew *crew;

    snprintf(folder, sizeof folder, "%s", scratch("conda"));
    COMMAND("mkdir -p %s/bin %s/lib && cp '%s' %s/bin/python3 && ln -s python3 %s/bin/python && "
            "ln -s '%s' %s/lib/",
            folder, folder, binary, folder, folder, library, folder);
    snprintf(python, sizeof python, "%s/bin/python", folder);
    crew = open_python(python);
    expect_facts(crew, python);
    expect_pools(crew);
    pycrew_close(crew);
    COMMAND("rm -r %s", folder);
    free(binary);
    free(library);
}

/* As pyenv's shims are. */
TEST(a_script_that_runs_an_interpreter_stands_for_that_one)
{
    char folder[128], script[160], text[PATH_SIZE];
    char *executable =
        must(output_of("'%s' -c 'import sys; print(sys.executable)'", default_python()));
    char *found;
    pycrew_crew *crew;

    snprintf(folder, sizeof folder, "%s", scratch("shims"));
    COMMAND("mkdir %s", folder);
    snprintf(script, sizeof script, "%s/python3", folder);
    snprintf(text, sizeof text, "#!/bin/sh\nexec '%s' \"$@\"\n", default_python());
    write_script(script, text);
    crew = open_python(script);
    found = run_text(crew, "api_ops:executable");
    ASSERT_STR(found, executable);
    expect_facts(crew, default_python());
    pycrew_close(crew);
    free(found);
    free(executable);
    COMMAND("rm -r %s", folder);
}

/* ---- interpreters that cannot be used ----------------------------------------------------------
 */

/* 0: nothing is there yet. */
static int read_pid(const char *path)
{
    FILE *file = fopen(path, "r");
    int pid = 0;

    if (file != NULL && fscanf(file, "%d", &pid) != 1)
        pid = 0;
    if (file != NULL)
        fclose(file);
    return pid;
}

/* A zombie, which somebody else has to reap, does not. */
static bool runs(int pid)
{
    char path[64], state = 'Z';
    FILE *file;

    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    file = fopen(path, "r");
    if (file != NULL && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = 'Z';
    if (file != NULL)
        fclose(file);
    return state != 'Z';
}

/* A script that answers what a real interpreter would: executable, abi, libpython, its name by
 * sysconfig, version. */
static const char *pretend(const char *abi, const char *library)
{
    static char path[160];
    char text[1000];

    snprintf(path, sizeof path, "%s", scratch("pretended"));
    snprintf(
        text, sizeof text,
        "#!/bin/sh\nprintf '%%s\\n' /nowhere/python '%s' '%s' /nowhere/libpython.a 'a build'\n",
        abi, library);
    write_script(path, text);
    return path;
}

static void worker_version(char *ret, size_t capacity)
{
    char *text = must(output_of("'%s' --version", getenv("PYCREW_WORKER")));
    int major, minor;

    ASSERT_INT(sscanf(text, "pycrew-worker %*s Python %d.%d", &major, &minor), 2);
    snprintf(ret, capacity, "%d.%d", major, minor);
    free(text);
}

TEST(a_python_that_there_is_no_worker_for_is_refused_with_both_versions)
{
    char ours[32];

    worker_version(ours, sizeof ours);
    refused_with(pretend("3.77", "/nowhere/libpython3.77.so"), "is Python 3.77", ours);
    refused_with(pretend("3.77t", "/nowhere/libpython3.77t.so"), "is Python 3.77t",
                 "--with-pythons");
}

TEST(a_python_without_a_shared_library_is_refused_with_the_librarys_name)
{
    char ours[32];

    worker_version(ours, sizeof ours);
    refused_with(pretend(ours, ""), "has no shared libpython", "/nowhere/libpython.a");
}

TEST(a_library_that_cannot_be_loaded_is_named)
{
    char ours[32];

    worker_version(ours, sizeof ours);
    refused_with(pretend(ours, "/nowhere/libpython.so"), "/nowhere/libpython.so",
                 "cannot be loaded");
}

TEST(a_program_that_is_no_python_is_named)
{
    refused_with("/bin/true", "/bin/true", "does not run as a Python");
    refused_with("/bin/false", "/bin/false", "does not run as a Python");
}

TEST(an_interpreter_that_does_not_answer_goes_with_the_host_and_with_its_patience)
{
    pycrew_options options = test_options(1);
    char script[160], note[160], text[1000];
    pycrew_crew *crew;
    int pid = 0, host;

    snprintf(script, sizeof script, "%s", scratch("hanging"));
    snprintf(note, sizeof note, "%s", scratch("note"));
    snprintf(text, sizeof text, "#!/bin/sh\necho $$ > %s.new; mv %s.new %s; exec sleep 3600\n",
             note, note, note);
    write_script(script, text);
    options.python = script;
    options.start_timeout_ns = 300 * MS;
    GIVES(pycrew_open(&crew, &options), -ETIMEDOUT);
    pid = read_pid(note); /* 0: it had not come so far */
    AWAIT(pid == 0 || !runs(pid));
    unlink(note);
    options.start_timeout_ns = BOUND;
    host = fork();
    if (host == 0)
        _exit(pycrew_open(&crew, &options) != 0);
    AWAIT((pid = read_pid(note)) != 0);
    ASSERT_INT(kill(host, SIGKILL), 0);
    ASSERT_INT(waitpid(host, NULL, 0), host);
    AWAIT(!runs(pid));
}

/* Asked without site: neither sitecustomize nor a .pth file runs before the crew's own start. */
TEST(an_interpreter_is_asked_without_running_code_of_its_environment)
{
    char folder[128], python[160], note[160], path[PATH_SIZE], *site;
    long once;
    FILE *file;

    snprintf(folder, sizeof folder, "%s", scratch("venv"));
    snprintf(note, sizeof note, "%s", scratch("note"));
    if (!make_environment(folder, "--copies"))
        SKIP("%s -m venv fails", default_python());
    snprintf(python, sizeof python, "%s/bin/python3", folder);
    site =
        must(output_of("%s -c 'import sysconfig; print(sysconfig.get_path(\"purelib\"))'", python));
    snprintf(path, sizeof path, "%s/noted.pth", site);
    file = fopen(path, "w");
    ASSERT(file != NULL);
    fprintf(file,
            "import os; os.write(os.open('%s', os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'x')\n",
            note);
    fclose(file);
    COMMAND("%s -c ''", python); /* some Pythons read such a file twice */
    once = file_size(note);
    pycrew_close(open_python(python));
    ASSERT(once > 0);
    ASSERT_INT(file_size(note), 2 * once);
    free(site);
    unlink(note);
    COMMAND("rm -r %s", folder);
}

/* ---- other Pythons of this machine --------------------------------------------------------------
 */

static bool has_worker(const char *abi)
{
    char path[PATH_SIZE];

    snprintf(path, sizeof path, "%s/worker/pycrew-worker-%s.so", getenv("top_builddir"), abi);
    return access(path, R_OK) == 0;
}

/* pyenv's, those that this build has a worker for, or the others. */
static unsigned find_pythons(bool with_worker, char found[PYTHONS_MAX][PATH_SIZE])
{
    const char *root = getenv("PYENV_ROOT");
    char versions[2048], abi[32];
    struct dirent *entry;
    DIR *directory;
    unsigned count = 0;
    int minor;

    snprintf(versions, sizeof versions, "%s%s/versions",
             root             ? root
             : getenv("HOME") ? getenv("HOME")
                              : "",
             root ? "" : "/.pyenv");
    directory = opendir(versions);
    while (directory != NULL && count < PYTHONS_MAX && (entry = readdir(directory)) != NULL) {
        if (sscanf(entry->d_name, "3.%d", &minor) != 1)
            continue;
        snprintf(abi, sizeof abi, "3.%d", minor);
        snprintf(found[count], PATH_SIZE, "%s/%s/bin/python3", versions, entry->d_name);
        if (has_worker(abi) == with_worker && access(found[count], X_OK) == 0)
            count++;
    }
    if (directory != NULL)
        closedir(directory);
    return count;
}

static char pythons[PYTHONS_MAX][PATH_SIZE];

TEST(each_python_of_this_machine_that_there_is_a_worker_for_runs_with_its_own_library)
{
    unsigned count = find_pythons(true, pythons);

    if (count == 0)
        SKIP("no Python of pyenv's has a worker");
    for (unsigned i = 0; i < count; i++) {
        pycrew_crew *crew = open_python(pythons[i]);
        int three = 0;

        printf("# %s\n", pythons[i]);
        expect_facts(crew, pythons[i]);
        OK(pycrew_run(crew, "operator:add", "ii>i", 1, 2, &three));
        ASSERT_INT(three, 3);
        pycrew_close(crew);
    }
}

TEST(a_virtual_environment_of_each_of_them_works_with_its_processes)
{
    unsigned count = find_pythons(true, pythons);

    if (count == 0)
        SKIP("no Python of pyenv's has a worker");
    for (unsigned i = 0; i < count; i++) {
        setenv("PYTHON", pythons[i], 1);
        works_in_an_environment("");
    }
}

TEST(each_of_the_others_is_refused_with_both_versions)
{
    unsigned count = find_pythons(false, pythons);
    char ours[32];

    if (count == 0)
        SKIP("no Python of pyenv's is without a worker");
    worker_version(ours, sizeof ours);
    for (unsigned i = 0; i < count; i++) {
        char *version = must(
            output_of("%s -c 'import sys; print(\"is Python %%d.%%d\" %% sys.version_info[:2])'",
                      pythons[i]));

        refused_with(pythons[i], version, ours);
        CONTAINS(pycrew_last_error()->message, pythons[i]);
        free(version);
    }
}

/* All of them at once, in one host. */
TEST(crews_of_several_pythons_run_side_by_side)
{
    pycrew_crew *crews[PYTHONS_MAX + 1];
    unsigned count = find_pythons(true, pythons);

    if (count == 0)
        SKIP("no Python of pyenv's has a worker");
    for (unsigned i = 0; i < count; i++)
        crews[i] = open_python(pythons[i]);
    crews[count] = open_crew(1);
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < count; i++) {
            char *executable = run_text(crews[i], "api_ops:executable");

            ASSERT_STR(executable, pythons[i]);
            free(executable);
        }
    for (unsigned i = 0; i <= count; i++)
        pycrew_close(crews[i]);
}

/* The zygote is killed: its successor is chosen anew. */
TEST(a_new_zygote_is_of_the_same_environment)
{
    unsigned count = find_pythons(true, pythons);
    pycrew_crew *crew;
    char *text = NULL;

    if (count == 0)
        SKIP("no Python of pyenv's has a worker");
    crew = open_python(pythons[0]);
    ASSERT_INT(pycrew_run(crew, "environment_ops:kill_zygote", ">"), PYCREW_EDIED);
    AWAIT(pycrew_run(crew, "api_ops:executable", ">s", &text) == 0);
    ASSERT_STR(text, pythons[0]);
    free(text);
    expect_facts(crew, pythons[0]);
    pycrew_close(crew);
}

TAP_MAIN
