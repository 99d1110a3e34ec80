/* tap.h - a test harness in one header, for C11 and C++17.

       #include "tests/harness/tap.h"

       TEST(a_ring_gives_back_what_it_took)
       {
           ASSERT(ring_push(&ring, 7));
           ASSERT_INT(ring_pop(&ring), 7);
       }

       TEST_LIMIT(ten_million_calls_all_end, 300) { ... }      (a limit of its own, in seconds)

       TAP_MAIN

   ASSERT(condition), ASSERT_INT(actual, expected), ASSERT_STR(actual, expected) and
   ASSERT_MEM(actual, expected, size) end the test when they fail, from whatever thread, or process
   the test forked. SKIP("why %d", n) ends it as skipped, DIAG("text %d", n) adds a line to its
   report. NDEBUG changes nothing.

   ./test-x runs all tests, ./test-x NAME... those, ./test-x --list names them, and
   ./test-x --no-fork NAME runs one in the process itself, for a debugger.

   Each test runs in a process, and process group, of its own, and must end within its time limit:
   60 s, TAP_TIMEOUT (seconds) or its own, times TAP_TIMEOUT_SCALE. When its body has returned, it
   fails if a descriptor is open that was not before, or if within two seconds a thread, a child
   (also as a zombie) or an orphan is left. Orphans come to the runner, which is their subreaper; so
   they are looked for while the test still lives, since its death might be what ends them. The
   process then leaves by exit(), so that a sanitizer's or valgrind's findings fail the test by its
   exit status. Whatever happens, no process of the test survives it.

   stdin is /dev/null. stdout is stderr, so that a test cannot write into the TAP; reports go
   through shared memory, which takes no descriptor from the test and outlives its death. */
#ifndef TAP_H
#define TAP_H

#ifndef _GNU_SOURCE
#error "tap.h needs _GNU_SOURCE"
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TEST(name) TEST_LIMIT(name, 0)

#define TEST_LIMIT(name, seconds)                                                                  \
    static void tap_body_##name(void);                                                             \
    static struct tap_test tap_test_##name;                                                        \
    __attribute__((constructor)) static void tap_register_##name(void)                             \
    {                                                                                              \
        tap_register(&tap_test_##name, #name, tap_body_##name, seconds);                           \
    }                                                                                              \
    static void tap_body_##name(void)

#define TAP_MAIN                                                                                   \
    int main(int argc, char **argv)                                                                \
    {                                                                                              \
        return tap_main(argc, argv);                                                               \
    }

#define ASSERT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            tap_fail("%s:%d: %s", __FILE__, __LINE__, #condition);                                 \
    } while (0)

#define ASSERT_INT(actual, expected)                                                               \
    tap_assert_int(__FILE__, __LINE__, #actual, (long long)(actual), (long long)(expected))

#define ASSERT_STR(actual, expected)                                                               \
    tap_assert_str(__FILE__, __LINE__, #actual, (actual), (expected))

#define ASSERT_MEM(actual, expected, size)                                                         \
    tap_assert_mem(__FILE__, __LINE__, #actual, (actual), (expected), (size))

#define SKIP(...) tap_skip(__VA_ARGS__)
#define DIAG(...) tap_note(__VA_ARGS__)

#define TAP_FUNCTION __attribute__((unused)) static
#define TAP_PRINTF(at, first) __attribute__((format(printf, at, first)))

#if defined(__SANITIZE_THREAD__)
#define TAP_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TAP_TSAN 1
#endif
#endif
#ifndef TAP_TSAN
#define TAP_TSAN 0
#endif

#define TAP_DEFAULT_LIMIT_S 60.0
#define TAP_GRACE_MS 2000.0 /* for threads and processes to vanish after the body has returned */
#define TAP_STEP_MS 5
#define TAP_MAX_DESCRIPTORS 4096

enum tap_outcome { TAP_RUNNING, TAP_PASSED, TAP_FAILED, TAP_SKIPPED };

struct tap_test {
    const char *name;
    void (*body)(void);
    int limit_s; /* 0: the default */
    struct tap_test *next;
};

/* What a test and the runner share. A test may write from several threads and processes. */
struct tap_report {
    int outcome;
    size_t used;
    char text[32768]; /* lines, each ended by '\n' */
};

struct tap_descriptor {
    dev_t dev;
    ino_t ino;
    mode_t mode;
    bool open;
};

/* Weak, so that several files of one test program can include this header. */
struct tap_state {
    struct tap_test *first, *last;
    struct tap_report *report;
};
__attribute__((weak)) struct tap_state tap_state;

TAP_FUNCTION void tap_register(struct tap_test *test, const char *name, void (*body)(void),
                               int limit_s)
{
    test->name = name;
    test->body = body;
    test->limit_s = limit_s;
    if (tap_state.last)
        tap_state.last->next = test;
    else
        tap_state.first = test;
    tap_state.last = test;
}

/* ---- What a test says ---- */

TAP_PRINTF(1, 0) TAP_FUNCTION void tap_write(const char *format, va_list arguments)
{
    char line[2048];
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    if (length < 0)
        return;
    size_t size = (size_t)length < sizeof line - 2 ? (size_t)length : sizeof line - 2;
    line[size++] = '\n';
    struct tap_report *report = tap_state.report;
    if (!report) {
        fprintf(stderr, "# %.*s", (int)size, line);
        return;
    }
    size_t at = __atomic_fetch_add(&report->used, size, __ATOMIC_RELAXED);
    if (at + size < sizeof report->text)
        memcpy(report->text + at, line, size);
}

TAP_PRINTF(1, 2) TAP_FUNCTION void tap_note(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tap_write(format, arguments);
    va_end(arguments);
}

TAP_FUNCTION void tap_set_outcome(enum tap_outcome outcome)
{
    if (tap_state.report)
        __atomic_store_n(&tap_state.report->outcome, (int)outcome, __ATOMIC_SEQ_CST);
}

TAP_PRINTF(1, 2) __attribute__((noreturn)) TAP_FUNCTION void tap_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    tap_write(format, arguments);
    va_end(arguments);
    tap_set_outcome(TAP_FAILED);
    if (!tap_state.report)
        abort(); /* --no-fork: into the debugger */
    fflush(NULL);
    _exit(1);
}

TAP_PRINTF(1, 2) __attribute__((noreturn)) TAP_FUNCTION void tap_skip(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (tap_state.report)
        tap_state.report->used = 0; /* the reason is the whole report */
    tap_write(format, arguments);
    va_end(arguments);
    tap_set_outcome(TAP_SKIPPED);
    fflush(NULL);
    _exit(0);
}

TAP_FUNCTION void tap_assert_int(const char *file, int line, const char *what, long long actual,
                                 long long expected)
{
    if (actual != expected)
        tap_fail("%s:%d: %s is %lld, expected %lld", file, line, what, actual, expected);
}

TAP_FUNCTION void tap_assert_str(const char *file, int line, const char *what, const char *actual,
                                 const char *expected)
{
    if (actual == expected || (actual && expected && strcmp(actual, expected) == 0))
        return;
    tap_fail("%s:%d: %s is %s%.700s%s, expected %s%.700s%s", file, line, what, actual ? "\"" : "",
             actual ? actual : "NULL", actual ? "\"" : "", expected ? "\"" : "",
             expected ? expected : "NULL", expected ? "\"" : "");
}

TAP_FUNCTION void tap_assert_mem(const char *file, int line, const char *what, const void *actual,
                                 const void *expected, size_t size)
{
    const unsigned char *a = (const unsigned char *)actual, *e = (const unsigned char *)expected;
    for (size_t i = 0; i < size; i++)
        if (a[i] != e[i])
            tap_fail("%s:%d: %s: byte %zu of %zu is 0x%02x, expected 0x%02x", file, line, what, i,
                     size, (unsigned)a[i], (unsigned)e[i]);
}

/* ---- Descriptors, threads and processes ---- */

TAP_FUNCTION int tap_number(const char *name) /* -1: not one */
{
    char *end;
    long number = strtol(name, &end, 10);
    return end == name || *end || number < 0 || number > 0x7fffffff ? -1 : (int)number;
}

TAP_FUNCTION void tap_read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? 0 : read(fd, text, size - 1);
    text[got > 0 ? got : 0] = '\0';
    if (fd >= 0)
        close(fd);
}

TAP_FUNCTION int tap_count_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    int count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        count += tap_number(entry->d_name) >= 0;
    if (dir)
        closedir(dir);
    return count;
}

TAP_FUNCTION struct tap_descriptor tap_describe(int fd)
{
    struct tap_descriptor descriptor;
    struct stat status;
    memset(&descriptor, 0, sizeof descriptor);
    if (fstat(fd, &status) == 0) {
        descriptor.dev = status.st_dev;
        descriptor.ino = status.st_ino;
        descriptor.mode = status.st_mode;
        descriptor.open = true;
    }
    return descriptor;
}

/* With `before` empty: remember what is open. Else: note each descriptor that was not; the count.
 */
TAP_FUNCTION int tap_scan_descriptors(struct tap_descriptor *before, bool remember)
{
    DIR *dir = opendir("/proc/self/fd");
    int leaked = 0;
    if (!dir) {
        tap_note("cannot look for leaked descriptors: /proc/self/fd: %s", strerror(errno));
        return 1;
    }
    for (struct dirent *entry; (entry = readdir(dir));) {
        int fd = tap_number(entry->d_name);
        if (fd < 0 || fd == dirfd(dir) || fd >= TAP_MAX_DESCRIPTORS)
            continue;
        struct tap_descriptor now = tap_describe(fd), *was = &before[fd];
        if (remember) {
            *was = now;
        } else if (now.open && !(was->open && was->dev == now.dev && was->ino == now.ino &&
                                 was->mode == now.mode)) {
            char target[256];
            ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
            target[length > 0 ? length : 0] = '\0';
            tap_note("descriptor %d leaked: %s", fd, target);
            leaked++;
        }
    }
    closedir(dir);
    return leaked;
}

struct tap_process {
    int pid, parent;
    char state;
    char name[64];
};

TAP_FUNCTION bool tap_read_process(int pid, struct tap_process *process)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    tap_read_file(path, text, sizeof text);
    char *open = strchr(text, '('), *close = strrchr(text, ')');
    if (!open || !close || sscanf(close + 1, " %c %d", &process->state, &process->parent) != 2)
        return false;
    process->pid = pid;
    snprintf(process->name, sizeof process->name, "%.*s", (int)(close - open - 1), open + 1);
    return true;
}

/* Whether a thread of this process (0: none yet) waits for something. */
TAP_FUNCTION bool tap_is_asleep(int tid)
{
    struct tap_process process;

    return tid != 0 && tap_read_process(tid, &process) && process.state == 'S';
}

/* The count of `parent`'s children but `except`, zombies only if asked; `found` gets the first
 * `max`. */
TAP_FUNCTION int tap_count_children(int parent, int except, bool zombies, struct tap_process *found,
                                    int max)
{
    DIR *dir = opendir("/proc");
    int count = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        struct tap_process process;
        int pid = tap_number(entry->d_name);
        if (pid <= 0 || pid == except || !tap_read_process(pid, &process))
            continue;
        if (process.parent != parent || (process.state == 'Z' && !zombies))
            continue;
        if (count < max)
            found[count] = process;
        count++;
    }
    if (dir)
        closedir(dir);
    return count;
}

TAP_FUNCTION int64_t tap_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Whether valgrind runs this program: it has its own library loaded into it. */
TAP_FUNCTION bool tap_valgrind(void)
{
    const char *preload = getenv("LD_PRELOAD");
    return preload && strstr(preload, "vgpreload");
}

TAP_FUNCTION double tap_scale(void)
{
    const char *text = getenv("TAP_TIMEOUT_SCALE");
    double scale = text ? atof(text) : 1;
    return scale > 0 ? scale : 1;
}

/* ---- The test's own process ---- */

/* Notes what the body left behind; the count. Descriptors last: a dying thread may still close
 * some. */
TAP_FUNCTION int tap_count_left(struct tap_descriptor *before, int threads)
{
    struct tap_process left[8];
    int64_t end = tap_now_ms() + (int64_t)(TAP_GRACE_MS * tap_scale());
    int own, orphans, extra, shown = 0;
    for (;;) {
        own = tap_count_children(getpid(), 0, true, left, 8);
        orphans = tap_count_children(getppid(), getpid(), false, left + (own < 8 ? own : 8),
                                     own < 8 ? 8 - own : 0);
        extra = TAP_TSAN ? 0 : tap_count_threads() - threads; /* TSan starts one when it likes */
        if ((own == 0 && orphans == 0 && extra <= 0) || tap_now_ms() >= end)
            break;
        poll(NULL, 0, TAP_STEP_MS);
    }
    for (; shown < own + orphans && shown < 8; shown++)
        tap_note("%s %d (%s) is left%s", shown < own ? "child" : "orphan", left[shown].pid,
                 left[shown].name, left[shown].state == 'Z' ? ", a zombie nobody waited for" : "");
    if (own + orphans > shown)
        tap_note("and %d processes more", own + orphans - shown);
    if (extra > 0)
        tap_note("%d threads are left", extra);
    return own + orphans + (extra > 0 ? extra : 0) + tap_scan_descriptors(before, false);
}

__attribute__((noreturn)) TAP_FUNCTION void tap_run_in_child(const struct tap_test *test,
                                                             int runner)
{
    static struct tap_descriptor before[TAP_MAX_DESCRIPTORS];
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != runner) /* it died before the line above */
        _exit(1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    int null = open("/dev/null", O_RDWR);
    if (null < 0 || dup2(null, 0) < 0 || dup2(2, 1) < 0)
        tap_fail("cannot set up stdin and stdout: %s", strerror(errno));
    if (null > 2)
        close(null);
    int threads = tap_count_threads();
    tap_scan_descriptors(before, true);

    test->body();

    fflush(NULL);
    if (__atomic_load_n(&tap_state.report->outcome, __ATOMIC_SEQ_CST) == TAP_RUNNING)
        tap_set_outcome(tap_count_left(before, threads) ? TAP_FAILED : TAP_PASSED);
    exit(__atomic_load_n(&tap_state.report->outcome, __ATOMIC_SEQ_CST) != TAP_PASSED);
}

/* ---- The runner ---- */

TAP_FUNCTION void tap_wait_for_sigchld(int64_t until_ms)
{
    int64_t left = until_ms - tap_now_ms();
    struct timespec timeout;
    sigset_t set;
    if (left <= 0)
        return;
    timeout.tv_sec = (time_t)(left / 1000);
    timeout.tv_nsec = (long)(left % 1000) * 1000000;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigtimedwait(&set, NULL, &timeout);
}

/* Reaps the test and any orphan. True with the test's status once it has ended, false at the limit.
 */
TAP_FUNCTION bool tap_reap(pid_t child, int64_t until_ms, int *status)
{
    bool ended = false;
    for (;;) {
        int64_t now = tap_now_ms(); /* before the look: a test that ends at its limit has passed */
        int one;
        for (pid_t pid; (pid = waitpid(-1, &one, WNOHANG)) > 0;) {
            if (pid == child) {
                *status = one;
                ended = true;
            }
        }
        if (ended || now >= until_ms)
            return ended;
        tap_wait_for_sigchld(until_ms);
    }
}

/* Kills and reaps what is left below the runner, whatever process group it has moved to. As
   parents die their children come to the runner, so this ends when none is left. */
TAP_FUNCTION void tap_kill_rest(pid_t child)
{
    int64_t end = tap_now_ms() + 10000;
    struct tap_process left[64];
    kill(-child, SIGKILL);
    while (tap_now_ms() < end) {
        int count = tap_count_children(getpid(), 0, true, left, 64);
        if (count == 0)
            return;
        for (int i = 0; i < count && i < 64; i++)
            kill(left[i].pid, SIGKILL);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        tap_wait_for_sigchld(tap_now_ms() + TAP_STEP_MS);
    }
}

TAP_FUNCTION int64_t tap_limit_ms(const struct tap_test *test)
{
    const char *text = getenv("TAP_TIMEOUT");
    double seconds = text ? atof(text) : TAP_DEFAULT_LIMIT_S;
    if (test->limit_s)
        seconds = test->limit_s;
    return (int64_t)(seconds * 1000 * tap_scale());
}

TAP_FUNCTION void tap_print_report(const struct tap_report *report)
{
    size_t used = report->used < sizeof report->text ? report->used : sizeof report->text - 1;
    for (size_t at = 0; at < used;) {
        const char *line = report->text + at;
        size_t length = strcspn(line, "\n");
        printf("# %.*s\n", (int)length, line);
        at += length + 1;
    }
    if (used != report->used)
        printf("# (more was said than fits)\n");
}

/* Runs one test, prints its line. 0: it failed. */
TAP_FUNCTION bool tap_run(const struct tap_test *test, int number)
{
    struct tap_report *report = tap_state.report;
    int status = 0, runner = getpid();
    int64_t begin = tap_now_ms(), limit = tap_limit_ms(test);
    memset(report, 0, sizeof *report);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        tap_run_in_child(test, runner);
    if (child > 0)
        setpgid(child, child); /* as the child does: whoever comes first */
    bool ended = child > 0 && tap_reap(child, begin + limit, &status);
    if (child > 0)
        tap_kill_rest(child);

    bool passed = ended && status == 0 && report->outcome == TAP_PASSED;
    if (ended && status == 0 && report->outcome == TAP_SKIPPED) {
        report->text[strcspn(report->text, "\n")] = '\0';
        printf("ok %d - %s # SKIP %s\n", number, test->name, report->text);
        return true;
    }
    printf("%s %d - %s\n", passed ? "ok" : "not ok", number, test->name);
    tap_print_report(report);
    if (child < 0)
        printf("# cannot fork: %s\n", strerror(errno));
    else if (!ended)
        printf("# timed out after %.1f s\n", (double)limit / 1000);
    else if (WIFSIGNALED(status))
        printf("# killed by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else if (status && report->outcome == TAP_PASSED)
        printf("# exit status %d after the test, as a sanitizer sets it\n", WEXITSTATUS(status));
    else if (report->outcome == TAP_RUNNING)
        printf("# ended its process with exit status %d\n", WEXITSTATUS(status));
    if (tap_now_ms() - begin > 2000)
        printf("# took %.1f s\n", (double)(tap_now_ms() - begin) / 1000);
    return passed;
}

TAP_FUNCTION struct tap_test *tap_find(const char *name)
{
    struct tap_test *test = tap_state.first;
    while (test && strcmp(test->name, name) != 0)
        test = test->next;
    return test;
}

TAP_FUNCTION int tap_run_named(int count, char **names)
{
    int failed = 0;
    for (int i = 0; i < count; i++) {
        if (!tap_find(names[i])) {
            fprintf(stderr, "no test is named %s; --list names them\n", names[i]);
            return 2;
        }
    }
    printf("1..%d\n", count);
    for (int i = 0; i < count; i++)
        failed += !tap_run(tap_find(names[i]), i + 1);
    return failed != 0;
}

TAP_FUNCTION int tap_run_all(void)
{
    int count = 0, failed = 0;
    for (struct tap_test *test = tap_state.first; test; test = test->next)
        count++;
    printf("1..%d%s\n", count, count ? "" : " # SKIP no tests");
    count = 0;
    for (struct tap_test *test = tap_state.first; test; test = test->next)
        failed += !tap_run(test, ++count);
    return failed != 0;
}

TAP_FUNCTION void tap_set_up(void)
{
    sigset_t set;
    void *memory = mmap(NULL, sizeof *tap_state.report, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("tap: mmap");
        exit(2);
    }
    tap_state.report = (struct tap_report *)memory;
    signal(SIGCHLD,
           SIG_DFL); /* may come ignored from our parent; then nobody could be waited for */
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

TAP_FUNCTION int tap_main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (struct tap_test *test = tap_state.first; test; test = test->next)
            puts(test->name);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--no-fork") == 0 && tap_find(argv[2])) {
        tap_find(argv[2])->body();
        return 0;
    }
    tap_set_up();
    return argc > 1 ? tap_run_named(argc - 1, argv + 1) : tap_run_all();
}

#endif
