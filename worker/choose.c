/* choose: asks an interpreter what it is, and runs the worker program that fits it. */
#include "worker/choose.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/worker.h"

enum { ANSWER_MAX = 16 << 10 };

/* What an interpreter says of itself; strings in one piece of memory, which stays. */
typedef struct answer {
    const char *executable; /* sys.executable */
    const char *abi;        /* "3.12", "3.13t" */
    const char *library;    /* the libpython it runs with; "": there is none but in itself */
    const char *wanted;     /* what sysconfig calls it, for who wants to know */
    const char *version;    /* sys.version, which tells builds from each other */
} answer;

/* What it has loaded comes first; then what it was built with, for those that have a shared one
 * beside the static one that they use (Debian's, conda's). */
static const char question[] =
    "import os, sys, sysconfig\n"
    "get = lambda name: sysconfig.get_config_var(name) or ''\n"
    "abi = get('LDVERSION') or '%d.%d' % sys.version_info[:2]\n"
    "found = [line.split(None, 5)[5].strip() for line in open('/proc/self/maps')\n"
    "         if '/libpython%s.so' % abi in line]\n"
    "folders = [get('LIBDIR'), os.path.join(get('LIBDIR'), get('MULTIARCH')),\n"
    "           os.path.join(sys.base_prefix, 'lib'), get('LIBPL')]\n"
    "names = [get('INSTSONAME'), get('LDLIBRARY'), 'libpython%s.so.1.0' % abi, 'libpython%s.so' % "
    "abi]\n"
    "found += [path for path in (os.path.join(f, n) for f in folders for n in names if '.so' in "
    "n)\n"
    "          if os.path.isfile(path)]\n"
    "print(sys.executable, abi, found[0] if found else '', os.path.join(get('LIBDIR'), "
    "get('LDLIBRARY')),\n"
    "      sys.version.replace('\\n', ' '), sep='\\n')\n";

static const char *say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static const char *say(const char *format, ...)
{
    char *text = NULL;
    va_list list;
    int rc;

    va_start(list, format);
    rc = vasprintf(&text, format, list);
    va_end(list);
    return rc < 0 ? "no memory is left to say why Python cannot be started" : text;
}

/* ---- asking ---- */

/* Isolated (-I) and without site (-S): nothing of the user's runs, no sitecustomize and no .pth
 * file. */
static void run_interpreter(const char *python, int output)
{
    char *arguments[] = {(char *)(uintptr_t)python,   (char *)(uintptr_t) "-I",
                         (char *)(uintptr_t) "-S",    (char *)(uintptr_t) "-c",
                         (char *)(uintptr_t)question, NULL};

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the host may give us up meanwhile */
    close(PC_CONTROL_FD);
    dup2(output, STDOUT_FILENO);
    execv(python, arguments);
    fprintf(stderr, "%s: %s\n", python, strerror(errno));
    _exit(127);
}

/* A host that dies meanwhile ends us, and by that the interpreter. */
static void await_answer(int fd)
{
    struct pollfd polls[2] = {{.fd = fd, .events = POLLIN}, {.fd = PC_CONTROL_FD}};

    while (poll(polls, 2, -1) < 0 && errno == EINTR)
        continue;
    if (polls[1].revents != 0)
        _exit(1);
}

static void read_all(int fd, char *text, size_t capacity)
{
    size_t size = 0;
    ssize_t got;

    do {
        await_answer(fd);
        got = read(fd, text + size, capacity - 1 - size);
        size += got > 0 ? (size_t)got : 0;
    } while ((got > 0 && size < capacity - 1) || (got < 0 && errno == EINTR));
    text[size] = '\0';
}

/* What it writes, in text; false if it does not end with 0. */
static bool run_question(const char *python, char *text)
{
    int ends[2], status = -1;
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return false;
    pid = fork();
    if (pid == 0)
        run_interpreter(python, ends[1]);
    close(ends[1]);
    if (pid > 0)
        read_all(ends[0], text, ANSWER_MAX);
    close(ends[0]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return pid > 0 && status == 0;
}

/* The next line, its end cut off; NULL if there is none. */
static const char *take_line(char **at)
{
    char *line = *at, *end = strchr(line, '\n');

    if (end == NULL)
        return NULL;
    *end = '\0';
    *at = end + 1;
    return line;
}

static bool ask(const char *python, answer *ret)
{
    char *text = calloc(1, ANSWER_MAX), *at = text;

    if (text == NULL || !run_question(python, text)) {
        free(text);
        return false;
    }
    ret->executable = take_line(&at);
    ret->abi = take_line(&at);
    ret->library = take_line(&at);
    ret->wanted = take_line(&at);
    ret->version = take_line(&at);
    return ret->version != NULL && strchr(ret->abi, '/') == NULL;
}

/* ---- which program ---- */

/* The folder of this program's file, where the others are; "" if it cannot be told. */
static const char *own_folder(void)
{
    char *path = realpath("/proc/self/exe", NULL);
    char *end = path == NULL ? NULL : strrchr(path, '/');

    if (end == NULL)
        return "";
    *end = '\0';
    return path;
}

static const char *absolute(const char *path)
{
    char *folder = *path == '/' ? NULL : getcwd(NULL, 0), *all = NULL;

    if (folder == NULL || asprintf(&all, "%s/%s", folder, path) < 0)
        all = NULL;
    free(folder);
    return all == NULL ? path : all;
}

static bool same_file(const char *one, const char *other)
{
    char *first = realpath(one, NULL), *second = realpath(other, NULL);
    bool same = first != NULL && second != NULL && strcmp(first, second) == 0;

    free(first);
    free(second);
    return same;
}

/* What an interpreter's file is called tells its version, behind all links: python3.11.
 * (python3.13t is of another ABI.) */
static bool read_name(const char *python, int *major, int *minor)
{
    char *real = realpath(python, NULL);
    const char *name = real == NULL ? NULL : strrchr(real, '/');
    int end = 0;
    bool told = name != NULL && sscanf(name, "/python%d.%d%n", major, minor, &end) == 2 &&
                name[end] == '\0';

    free(real);
    return told;
}

/* The interpreter that this program was built with, or a venv's link to it; not the one of a newer
 * Python that has taken its place. */
static bool is_own(const char *python)
{
    int major, minor;

    return same_file(python, PYCREW_PYTHON) && read_name(python, &major, &minor) &&
           major == PY_MAJOR_VERSION && minor == PY_MINOR_VERSION;
}

/* Both without the ends of lines that older ones have. */
static bool is_own_build(const char *version)
{
    const char *own = Py_GetVersion();

    while (*own != '\0' && *version == (*own == '\n' ? ' ' : *own))
        own++, version++;
    return *own == *version;
}

static const char *module_path(const char *abi)
{
    return say("%s/pycrew-worker-%s.so", own_folder(), abi);
}

/* "3.11, 3.12": those there are workers for. */
static const char *supported(void)
{
    static char list[400];
    size_t size = 0;
    glob_t found;

    snprintf(list, sizeof list, "%d.%d", PY_MAJOR_VERSION, PY_MINOR_VERSION);
    if (glob(module_path("[0-9]*"), 0, NULL, &found) != 0)
        return list;
    for (size_t i = 0; i < found.gl_pathc && size < sizeof list; i++) {
        const char *abi = strstr(strrchr(found.gl_pathv[i], '/'), "-worker-") + strlen("-worker-");

        size += (size_t)snprintf(list + size, sizeof list - size, "%s%.*s", size > 0 ? ", " : "",
                                 (int)(strlen(abi) - strlen(".so")), abi);
    }
    globfree(&found);
    return list;
}

static const char *no_worker(const char *python, const char *abi)
{
    return say(
        "%s is Python %s, and this pycrew has workers for Python %s (configure --with-pythons adds "
        "others)",
        python, abi, supported());
}

/* Comes back with the reason if it cannot be done. */
static const char *become(const char *python, const answer *a)
{
    const char *launch = say("%s/pycrew-launch", own_folder()), *module = module_path(a->abi);
    char *arguments[] = {(char *)(uintptr_t) "pycrew-worker", (char *)(uintptr_t)python,
                         (char *)(uintptr_t)a->library, (char *)(uintptr_t)module, NULL};

    if (access(module, R_OK) < 0)
        return no_worker(python, a->abi);
    if (*a->library == '\0')
        return say("%s has no shared libpython: there is no %s, which its sysconfig names; use "
                   "one that was built with --enable-shared", python,
                   a->wanted);
    execv(launch, arguments);
    return say("the worker program %s cannot be run: %s", launch, strerror(errno));
}

/* Told by its name alone that no worker is for it, it need not run. */
static const char *check_name(const char *python)
{
    int major = PY_MAJOR_VERSION, minor = PY_MINOR_VERSION;
    char version[32];

    if (!read_name(python, &major, &minor))
        return NULL;
    snprintf(version, sizeof version, "%d.%d", major, minor);
    if ((major == PY_MAJOR_VERSION && minor == PY_MINOR_VERSION) ||
        access(module_path(version), R_OK) == 0)
        return NULL;
    return no_worker(python, version);
}

const char *pc_choose_program(const char *python, const char **failure)
{
    answer a = {0};

    *failure = NULL;
    python = absolute(python);
    if (is_own(python))
        return python;
    if ((*failure = check_name(python)) != NULL)
        return NULL;
    if (!ask(python, &a)) {
        *failure =
            say("%s does not run as a Python: asked for its version it did not say one", python);
        return NULL;
    }
    if (*a.executable != '\0' && !same_file(python, a.executable))
        python = a.executable;
    if (is_own_build(a.version))
        return python;
    *failure = become(python, &a);
    return NULL;
}
