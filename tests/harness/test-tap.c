/* The harness must catch what it promises to catch. Each test here runs this very program again
   with one of the `bad_` tests, which only that finds, and looks at the verdict. */
#include "tests/harness/tap.h"

#include <pthread.h>

#define BAD(name, seconds)                                                                         \
    static void bad_##name(void);                                                                  \
    static struct tap_test test_bad_##name;                                                        \
    __attribute__((constructor)) static void register_bad_##name(void)                             \
    {                                                                                              \
        if (getenv("TAP_SELFTEST"))                                                                \
            tap_register(&test_bad_##name, #name, bad_##name, seconds);                            \
    }                                                                                              \
    static void bad_##name(void)

static char output[65536];

/* Runs PROGRAM of this one's folder; its output, and its exit status. */
static int run(const char *program, const char *arguments)
{
    char command[1024], folder[256];
    ssize_t length = readlink("/proc/self/exe", folder, sizeof folder - 1);
    ASSERT(length > 0);
    folder[length] = '\0';
    *strrchr(folder, '/') = '\0';
    snprintf(command, sizeof command, "TAP_SELFTEST=1 '%s/%s' %s 2>&1", folder, program, arguments);
    FILE *pipe = popen(command, "r");
    ASSERT(pipe != NULL);
    output[fread(output, 1, sizeof output - 1, pipe)] = '\0';
    int status = pclose(pipe);
    ASSERT(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int run_bad(const char *name)
{
    return run("test-tap", name);
}

static void expect_caught(const char *name, const char *reason)
{
    ASSERT_INT(run_bad(name), 1);
    ASSERT(strstr(output, "1..1\n") != NULL);
    if (!strstr(output, "not ok 1 - ") || !strstr(output, reason))
        tap_fail("%s gave, without \"%s\":\n%s", name, reason, output);
}

/* ---- Caught ---- */

BAD(assertion, 0)
{
    ASSERT(1 + 1 == 3);
}
TEST(a_failed_assertion_is_caught_with_its_place)
{
    expect_caught("assertion", "test-tap.c:");
    ASSERT(strstr(output, "1 + 1 == 3") != NULL);
}

BAD(integer, 0)
{
    ASSERT_INT(2 + 2, 5);
}
TEST(a_wrong_integer_is_caught_with_both_values)
{
    expect_caught("integer", "2 + 2 is 4, expected 5");
}

BAD(string, 0)
{
    ASSERT_STR("left", "right");
}
TEST(a_wrong_string_is_caught_with_both_values)
{
    expect_caught("string", "is \"left\", expected \"right\"");
}

BAD(null_string, 0)
{
    ASSERT_STR(NULL, "right");
}
TEST(a_null_string_is_caught)
{
    expect_caught("null_string", "is NULL, expected \"right\"");
}

BAD(memory, 0)
{
    ASSERT_MEM("abcd", "abxd", 4);
}
TEST(wrong_memory_is_caught_with_the_first_byte_that_differs)
{
    expect_caught("memory", "byte 2 of 4 is 0x63, expected 0x78");
}

static void *fail_in_thread(void *unused)
{
    ASSERT(getppid() < 0);
    return unused;
}
BAD(thread_assertion, 0)
{
    pthread_t thread;
    ASSERT_INT(pthread_create(&thread, NULL, fail_in_thread, NULL), 0);
    pthread_join(thread, NULL);
}
TEST(a_failed_assertion_in_a_thread_is_caught)
{
    expect_caught("thread_assertion", "getppid() < 0");
}

BAD(process_assertion, 0)
{
    pid_t pid = fork();
    if (pid == 0)
        ASSERT(getppid() < 0);
    ASSERT_INT(waitpid(pid, NULL, 0), pid);
}
TEST(a_failed_assertion_in_a_forked_process_is_caught)
{
    expect_caught("process_assertion", "getppid() < 0");
}

BAD(crash, 0)
{
    raise(SIGKILL);
}
TEST(a_crash_is_caught_with_its_signal)
{
    expect_caught("crash", "killed by signal 9");
}

BAD(early_exit, 0)
{
    exit(0);
}
TEST(a_test_that_calls_exit_is_caught)
{
    expect_caught("early_exit", "exit status 0");
}

static void exit_with_7(void)
{
    _exit(7);
}
BAD(late_exit, 0)
{
    atexit(exit_with_7);
}
TEST(an_exit_status_set_after_the_test_as_by_a_sanitizer_is_caught)
{
    expect_caught("late_exit", "exit status 7");
}

BAD(hang, 1)
{
    pid_t pid = fork(); /* one in the group, and below it one that has left it, as a worker does */
    if (pid == 0) {
        if (fork() == 0)
            setpgid(0, 0);
    }
    for (;;)
        pause();
}
TEST(a_hanging_test_is_killed_with_all_its_processes)
{
    struct tap_process left[4];
    expect_caught("hang", "timed out after");
    ASSERT_INT(tap_count_children(getppid(), getpid(), false, left, 4), 0);
}

BAD(descriptor, 0)
{
    ASSERT(open("/dev/zero", O_RDONLY) >= 0);
}
TEST(a_leaked_descriptor_is_caught_with_what_it_is)
{
    expect_caught("descriptor", "leaked: /dev/zero");
}

BAD(replaced_descriptor, 0)
{
    close(0);
    ASSERT_INT(open("/dev/zero", O_RDONLY), 0);
}
TEST(a_descriptor_leaked_in_a_closed_ones_place_is_caught)
{
    expect_caught("replaced_descriptor", "descriptor 0 leaked: /dev/zero");
}

BAD(running_child, 0)
{
    if (fork() == 0)
        pause();
}
TEST(a_child_left_running_is_caught_and_killed)
{
    expect_caught("running_child", "child ");
    ASSERT(strstr(output, "is left\n") != NULL);
}

BAD(zombie, 0)
{
    if (fork() == 0)
        _exit(0);
}
TEST(a_child_left_as_a_zombie_is_caught)
{
    expect_caught("zombie", "a zombie");
}

BAD(orphan, 0)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (fork() == 0) {
            setsid();
            pause();
        }
        _exit(0);
    }
    ASSERT_INT(waitpid(pid, NULL, 0), pid);
}
TEST(an_orphan_left_running_in_a_session_of_its_own_is_caught)
{
    expect_caught("orphan", "orphan ");
}

static void *wait_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}
BAD(thread, 0)
{
    pthread_t thread;
    ASSERT_INT(pthread_create(&thread, NULL, wait_for_ever, NULL), 0);
    pthread_detach(thread);
}
TEST(a_thread_left_running_is_caught)
{
    if (TAP_TSAN)
        SKIP("TSan runs a thread of its own");
    expect_caught("thread", "1 threads are left");
}

TEST(a_test_that_does_not_exist_is_an_error)
{
    ASSERT_INT(run_bad("no_such_test"), 2);
}

/* ---- Not caught, because nothing is wrong ---- */

BAD(fine, 0)
{
    int fd = open("/dev/zero", O_RDONLY);
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    ASSERT_INT(waitpid(pid, NULL, 0), pid);
    close(fd);
    printf("not ok 1 - stdout of a test\n");
    DIAG("said %d", 42);
}
TEST(a_test_that_cleans_up_passes_and_says_what_it_has_to_say)
{
    ASSERT_INT(run_bad("fine"), 0);
    ASSERT(strstr(output, "\nok 1 - fine\n# said 42\n") != NULL);
}

BAD(short_lived_orphan, 0)
{
    pid_t pid = fork();
    if (pid == 0) {
        if (fork() == 0)
            poll(NULL, 0, 100);
        _exit(0);
    }
    ASSERT_INT(waitpid(pid, NULL, 0), pid);
}
TEST(an_orphan_that_ends_within_the_grace_is_fine)
{
    ASSERT_INT(run_bad("short_lived_orphan"), 0);
}

BAD(skipped, 0)
{
    DIAG("not the reason");
    SKIP("no %s here", "numpy");
}
TEST(a_skipped_test_says_why)
{
    ASSERT_INT(run_bad("skipped"), 0);
    ASSERT(strstr(output, "ok 1 - skipped # SKIP no numpy here\n") != NULL);
}

/* ---- Scripts ---- */

TEST(a_scripts_exit_status_and_output_are_handed_on)
{
    ASSERT_INT(run("tap-script", "10 sh -c 'echo ok 1; exit 7'"), 7);
    ASSERT_STR(output, "ok 1\n");
}

TEST(a_script_that_takes_too_long_is_killed_with_all_its_processes)
{
    struct tap_process left[4];
    ASSERT_INT(run("tap-script", "1 sh -c 'setsid sleep 1000 & exec sleep 1000'"), 124);
    ASSERT(strstr(output, "timed out") != NULL);
    ASSERT_INT(tap_count_children(getppid(), getpid(), false, left, 4), 0);
}

TEST(a_process_that_a_script_leaves_is_caught_and_killed)
{
    struct tap_process left[4];
    ASSERT_INT(run("tap-script", "10 sh -c 'setsid sleep 1000 >/dev/null 2>&1 & true'"), 3);
    ASSERT(strstr(output, "(sleep) is left") != NULL);
    ASSERT_INT(tap_count_children(getppid(), getpid(), false, left, 4), 0);
}

TEST(a_crash_of_a_script_is_caught)
{
    ASSERT_INT(run("tap-script", "10 sh -c 'kill -9 $$'"), 137);
}

TAP_MAIN
