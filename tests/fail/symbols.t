#!/bin/sh
# Whether tests/fail fails all that can fail: each function of the C library that the library or the
# worker calls is wrapped by the shim, or stands here with a reason why not.
top_srcdir=${top_srcdir:?}
build=${top_builddir:?}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

echo 1..2

if nm "$build/lib/.libs/libpccore.a" 2>/dev/null | grep -q -e __asan_ -e __tsan_ -e __gcov -e __ubsan_; then
    echo "ok 1 - each call that can fail is failed # SKIP built with instrumentation"
    echo "ok 2 - nothing is excused that is wrapped # SKIP built with instrumentation"
    exit
fi

# What stands behind # says why they are not failed.
sed 's/#.*//' >"$work/words" <<'NAMES'
# Text, numbers, time and the like: no way to fail.
memchr memcmp memcpy memmem memmove memset program_invocation_short_name time strchr strchrnul strcmp strcpy strlen strncmp strnlen strrchr strsep strspn
strerror strstr strtoll strtoul strtoull strsignal strerrordesc_np ldexp snprintf sprintf vsnprintf __isoc99_sscanf
__errno_location __libc_current_sigrtmax __sched_cpucount __tls_get_addr __assert_fail __popcountdi2
getpgrp getpid getppid getenv secure_getenv environ __environ stderr sigemptyset sigfillset sigaddset sched_yield
clock_gettime sysconf _exit abort _GLOBAL_OFFSET_TABLE_ __gmon_start__
# Of glibc's own these cannot fail, used as they are used here.
pthread_mutex_init pthread_mutex_destroy pthread_mutex_lock pthread_mutex_unlock pthread_cond_init
pthread_cond_destroy pthread_cond_broadcast pthread_cond_signal pthread_cond_wait pthread_cond_timedwait pthread_condattr_init
pthread_condattr_destroy pthread_condattr_setclock pthread_once pthread_join pthread_sigmask
pthread_key_delete pthread_self sem_init sem_post sem_trywait posix_spawn_file_actions_destroy
posix_spawnattr_destroy posix_spawnattr_setpgroup posix_spawnattr_setsigdefault
posix_spawnattr_setsigmask
# Nor these, of a descriptor that is open, and of limits, signals and children that are ours.
fstat lseek getsockopt getrlimit closedir fclose kill setpgid waitpid pause alarm signal sigaction sigprocmask
# They give back: there is nothing to be done where that fails.
shm_unlink sched_setaffinity
# A child of user code gets no view of what could not be copied for it.
mremap
# They fail by what they are given, or by what stdin is: tests/test-life.c, tests/debug.t.
nice setrlimit isatty tcgetpgrp tcsetpgrp
# They say what they said before where they fail, and nothing hangs on it.
fprintf printf fwrite fflush setenv
# They read from a file of /proc whose opening is failed.
__isoc99_fscanf getc
# To the thread that runs calls, which is there; and who asked hears nothing where it is not heard.
pthread_kill pthread_sigqueue
# In a child of user code's, over memory of its own that is there.
mremap
# Where it gets no memory for a copy, it sorts in place.
qsort
# Only where another Python is chosen: that is refused with a reason (tests/test-environment).
execv getcwd glob globfree strerror
# Python's fork hooks; it fails as malloc does, at the start.
pthread_atfork
NAMES
tr ' ' '\n' <"$work/words" | grep . | sort -u >"$work/excused"

grep -o 'wrap=[a-z_0-9]*' "$top_srcdir/tests/local.mk" | cut -d= -f2 | sort -u >"$work/wrapped"
archives="$build/lib/.libs/libpccore.a $build/worker/libpcworker.a $build/worker/pycrew_worker-main.o"
# shellcheck disable=SC2086 # words are meant
{
    nm $archives 2>/dev/null | sed -n 's/.* U \([^@]*\).*/\1/p' | sort -u >"$work/used"
    nm $archives 2>/dev/null | sed -n 's/.* [TDBRVWi] \([^@]*\).*/\1/p' | sort -u >"$work/own"
}
comm -23 "$work/used" "$work/own" | grep -v -e '^_\{0,1\}Py' -e '^pycrew_' >"$work/called"

sort -u "$work/wrapped" "$work/excused" | comm -23 "$work/called" - >"$work/why"
if [ -s "$work/called" ] && [ ! -s "$work/why" ]; then
    echo "ok 1 - each call that can fail is failed"
else
    echo "not ok 1 - each call that can fail is failed"
    sed 's/^/# neither wrapped nor excused: /' "$work/why"
fi
comm -12 "$work/wrapped" "$work/excused" >"$work/why"
if [ ! -s "$work/why" ]; then
    echo "ok 2 - nothing is excused that is wrapped"
else
    echo "not ok 2 - nothing is excused that is wrapped"
    sed 's/^/# /' "$work/why"
fi
