/* common.h: what the benchmark and the soak test share: the clock, statistics, checked calls, and
 * a look at a process and its children through /proc.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <pycrew.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Prints "PROGRAM: text" and exits with 1. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Fails with the library's own words where rc is an error; inline, for it stands in timed loops. */
_Noreturn void fail_call(int rc, const char *what);
static inline void check(int rc, const char *what)
{
    if (rc < 0)
        fail_call(rc, what);
}
void *check_alloc(void *memory);

int64_t now_ns(void); /* CLOCK_MONOTONIC, the clock of Python's time.monotonic_ns */
void sleep_ns(int64_t ns);
uint64_t random_next(uint64_t *state); /* xorshift; state is never 0 */

/* Sorts the values; quantile from 0 to 1. */
double quantile(double *values, size_t count, double quantile);

/* Opens a crew of that many workers (0: one a CPU) with the folder of the benchmark's functions and
 * that of math_ops in its path. preload may be NULL. */
pycrew_crew *open_crew_with(const pycrew_options *options); /* the same path; silent */
pycrew_crew *open_crew(unsigned workers, const char *preload);
const pycrew_function *get_function(pycrew_crew *crew, const char *name);

/* A number in a file such as /proc/1/smaps_rollup, by its key ("Pss:"); -1: not there. */
long proc_number(const char *path, const char *key);

/* The parent of a living process, 0 of one that is gone or only waits to be reaped. */
pid_t proc_parent(pid_t pid);

/* The living processes with this parent: their number, at most max written. */
size_t proc_children(pid_t parent, pid_t *ret, size_t max);

/* The workers of this process's only crew: children of its child, the zygote. */
size_t proc_workers(pid_t *ret, size_t max);
size_t proc_descriptors(void); /* how many this process has open */

/* Context switches so far of all threads of a process but this one, the caller's. */
long proc_switches(pid_t pid);

#endif
