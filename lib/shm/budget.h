/* budget: how much memory may still be used.
 *
 * Shared memory pages count against the memory cgroup of who touches them first, and reserving
 * past its limit is not an error there but an OOM kill. So before a span is taken, the limits and
 * usages of the cgroup and its ancestors are read (v1 and v2). */
#ifndef PC_SHM_BUDGET_H
#define PC_SHM_BUDGET_H

#include <stdint.h>

/* Bytes until the tightest limit of this process's memory cgroups; UINT64_MAX: none is set. */
uint64_t pc_budget_cgroup(void);

/* Bytes that are free: MemAvailable, within the cgroups' limits. */
uint64_t pc_budget_free(void);

/* CPUs this process may use: affinity and cgroup quota (v1 and v2), rounded up; 1 at least. */
unsigned pc_budget_cpus(void);

/* Kills by the kernel's out-of-memory killer, for whatever limit: in this process's memory cgroup (v1 or
 * v2) and those below it; in the whole machine where that is not counted, or this is no cgroup but the
 * root. For comparing. */
uint64_t pc_oom_kills(void);

#endif
