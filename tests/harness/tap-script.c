/* tap-script LIMIT PROGRAM...: runs a test that is a script and prints its own TAP, and looks after
   it as tap.h does after the tests of a program: it has LIMIT seconds (times TAP_TIMEOUT_SCALE), no
   process may be left two seconds after its end, and none survives it, whatever happens. */
#include "tests/harness/tap.h"

static void run_script(char **command)
{
    sigset_t none;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null = open("/dev/null", O_RDONLY);
    if (null < 0 || dup2(null, 0) < 0)
        _exit(126);
    if (null > 2)
        close(null);
    execvp(command[0], command);
    perror(command[0]);
    _exit(127);
}

/* Orphans of the script are ours. The number of those that do not end within the grace. */
static int count_left(void)
{
    struct tap_process left[8];
    int64_t end = tap_now_ms() + (int64_t)(TAP_GRACE_MS * tap_scale());
    int count;
    do {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        count = tap_count_children(getpid(), 0, false, left, 8);
        if (count > 0)
            poll(NULL, 0, TAP_STEP_MS);
    } while (count > 0 && tap_now_ms() < end);
    for (int i = 0; i < count && i < 8; i++)
        printf("# process %d (%s) is left\n", left[i].pid, left[i].name);
    return count;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    tap_set_up();
    int status = 0, left = 0;
    int64_t limit_ms = (int64_t)(atof(argv[1]) * 1000 * tap_scale());
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        run_script(argv + 2);
    if (child < 0)
        return 125;
    setpgid(child, child);
    bool ended = tap_reap(child, tap_now_ms() + limit_ms, &status);
    if (ended)
        left = count_left();
    else
        printf("# timed out after %.1f s\n", (double)limit_ms / 1000);
    tap_kill_rest(child);
    if (!ended)
        return 124;
    if (WIFSIGNALED(status)) {
        printf("# killed by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
        return 128 + WTERMSIG(status);
    }
    return left > 0 && WEXITSTATUS(status) == 0 ? 3 : WEXITSTATUS(status);
}
