/* What lib/shm/budget.h promises. The cgroups are made of plain files, mounted over the real ones in
 * a mount namespace of the test's own. */
#include "tests/shm/fixture.h"

#include "lib/shm/budget.h"
#include "lib/shm/heap.h"

#define CGROUPS "/sys/fs/cgroup"
#define MIB (UINT64_C(1) << 20)

/* The system's files, for this test alone: first own_cgroup, then what is in them. */
static void own_cgroup(const char *proc_self_cgroup)
{
    static const char list[] = "/dev/shm/pycrew-test-cgroup";
    char target[64];
    own_mounts();
    mount_tmpfs(CGROUPS, "");
    mount_tmpfs("/dev/shm", "");
    ASSERT(write_file(list, proc_self_cgroup));
    snprintf(target, sizeof target, "/proc/%d/cgroup", getpid());
    if (mount(list, target, "none", MS_BIND, "") < 0)
        SKIP("nothing can be mounted in /proc: %s", strerror(errno));
}

/* "memory/a/b/memory.max": with the directories before it. */
static void set(const char *file, const char *value)
{
    char path[300];
    snprintf(path, sizeof path, CGROUPS "/%s", file);
    for (char *slash = path + sizeof CGROUPS; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        ASSERT(mkdir(path, 0755) == 0 || errno == EEXIST);
        *slash = '/';
    }
    unlink(path);
    ASSERT(write_file(path, value));
}

/* ---- this system, as it is ---- */

TEST(what_this_system_says_is_possible)
{
    cpu_set_t set;
    uint64_t cgroup = pc_budget_cgroup(), left = pc_budget_free();
    ASSERT(left > 0 && left <= cgroup);
    ASSERT(left < (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE));
    ASSERT_INT(sched_getaffinity(0, sizeof set, &set), 0);
    ASSERT(pc_budget_cpus() >= 1 && pc_budget_cpus() <= (unsigned)CPU_COUNT(&set));
}

TEST(affinity_bounds_the_cpus)
{
    use_cpu(0);
    ASSERT_INT(pc_budget_cpus(), 1);
}

/* ---- memory ---- */

TEST(without_cgroups_there_is_no_limit)
{
    own_cgroup("");
    ASSERT(pc_budget_cgroup() == UINT64_MAX);
}

TEST(in_v2_the_tightest_of_the_cgroup_and_its_ancestors_counts)
{
    own_cgroup("0::/a/b\n");
    set("a/b/memory.max", "max\n");
    set("a/b/memory.current", "1048576\n");
    ASSERT(pc_budget_cgroup() == UINT64_MAX);
    set("a/b/memory.max", "104857600\n");
    ASSERT(pc_budget_cgroup() == 99 * MIB);
    set("a/memory.max", "104857600\n");
    set("a/memory.current", "62914560\n");
    ASSERT(pc_budget_cgroup() == 40 * MIB);
    set("memory.max", "20971520\n"); /* a container sees its own limit at the root */
    set("memory.current", "10485760\n");
    ASSERT(pc_budget_cgroup() == 10 * MIB);
    ASSERT(pc_budget_free() == 10 * MIB);
}

TEST(in_v1_the_tightest_of_the_cgroup_and_its_ancestors_counts)
{
    own_cgroup("12:cpu,cpuacct:/x\n5:memory:/a/b\n1:name=systemd:/y\n0::/z\n");
    set("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    set("memory/a/b/memory.usage_in_bytes", "1048576\n");
    ASSERT(pc_budget_cgroup() == UINT64_MAX);
    set("memory/a/b/memory.limit_in_bytes", "104857600\n");
    ASSERT(pc_budget_cgroup() == 99 * MIB);
    set("memory/a/memory.limit_in_bytes", "62914560\n");
    set("memory/a/memory.usage_in_bytes", "20971520\n");
    ASSERT(pc_budget_cgroup() == 40 * MIB);
    set("z/memory.max", "5242880\n"); /* both at once */
    set("z/memory.current", "0\n");
    ASSERT(pc_budget_cgroup() == 5 * MIB);
}

TEST(a_path_that_is_not_there_as_in_a_container_leaves_the_root)
{
    own_cgroup("5:memory:/docker/0123456789abcdef\n0::/\n");
    set("memory/memory.limit_in_bytes", "104857600\n");
    set("memory/memory.usage_in_bytes", "1048576\n");
    ASSERT(pc_budget_cgroup() == 99 * MIB);
}

TEST(a_usage_beyond_the_limit_leaves_nothing)
{
    own_cgroup("0::/\n");
    set("memory.max", "1048576\n");
    set("memory.current", "2097152\n");
    ASSERT(pc_budget_cgroup() == 0);
    ASSERT(pc_budget_free() == 0);
}

/* Files that were read and may be forgotten at any time count as usage, and they fill every limit. */
TEST(the_page_cache_is_no_reason_to_refuse_memory)
{
    own_cgroup("5:memory:/a\n0::/b\n");
    set("b/memory.max", "1073741824\n");
    set("b/memory.current", "1073741824\n");
    set("b/memory.stat", "anon 1000\nfile 943718400\ninactive_anon 7\nactive_file 100\n"
                         "inactive_file 838860800\nunevictable 0\n");
    ASSERT(pc_budget_cgroup() == 800 * MIB);
    set("memory/a/memory.limit_in_bytes", "1073741824\n");
    set("memory/a/memory.usage_in_bytes", "1073741824\n");
    set("memory/a/memory.stat", "cache 943718400\ninactive_file 5\nhierarchical_memory_limit 9\n"
                                "total_cache 943718400\ntotal_inactive_file 629145600\n");
    ASSERT(pc_budget_cgroup() == 600 * MIB);
}

TEST(near_a_cgroups_limit_a_span_is_refused)
{
    uint64_t block;
    pc_heap heap;
    own_cgroup("0::/\n");
    set("memory.max", "1073741824\n");
    set("memory.current", "1040187392\n"); /* 32 MiB less */
    pc_segment segment = segment_new(64, 1, 8);
    ASSERT_INT(pc_heap_init(&heap, &segment, PC_OWNER_HOST, 0), 0);
    ASSERT_INT(pc_heap_alloc(&heap, 100, &block), -ENOMEM);
    ASSERT_INT(atomic_load(&segment.span_owners[0]), PC_OWNER_FREE);
    set("memory.current", "1039138816\n"); /* 33 MiB less */
    ASSERT_INT(pc_heap_alloc(&heap, 100, &block), 0);
    ASSERT_INT(pc_heap_alloc(&heap, 3 * MIB, &block), -ENOMEM);
    set("memory.current", "1037041664\n"); /* 35 MiB less */
    ASSERT_INT(pc_heap_alloc(&heap, 3 * MIB, &block), 0);
    pc_heap_destroy(&heap);
    pc_segment_unmap(&segment);
}

TEST(v2_beside_v1_is_found_too)
{
    own_cgroup("5:memory:/a\n0::/b\n");
    set("memory/a/memory.limit_in_bytes", "104857600\n");
    set("memory/a/memory.usage_in_bytes", "0\n");
    set("unified/b/memory.max", "52428800\n");
    set("unified/b/memory.current", "0\n");
    ASSERT(pc_budget_cgroup() == 50 * MIB);
    set("unified/b/cpu.max", "10000 100000\n");
    ASSERT_INT(pc_budget_cpus(), 1);
}

/* ---- OOM kills ---- */

/* As is /proc/vmstat of the machine, with this count. */
static void set_vmstat(const char *kills)
{
    static const char file[] = "/dev/shm/pycrew-test-vmstat";
    char text[100];

    snprintf(text, sizeof text, "nr_free_pages 1\ndrop_slab 0\noom_kill %s\nnumb 3\n", kills);
    ASSERT(write_file(file, text));
    if (mount(file, "/proc/vmstat", "none", MS_BIND, "") < 0)
        SKIP("nothing can be mounted in /proc: %s", strerror(errno));
}

TEST(oom_kills_are_what_the_cgroup_counts_in_v2)
{
    own_cgroup("0::/a/b\n");
    set_vmstat("77");
    set("a/b/memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n");
    set("a/memory.events", "low 0\nhigh 0\nmax 12\noom 9\noom_kill 8\n");
    ASSERT_INT(pc_oom_kills(), 2);
    set("a/b/memory.events", "low 0\n");
    ASSERT_INT(pc_oom_kills(), 8);
}

TEST(oom_kills_are_what_the_cgroup_counts_in_v1)
{
    own_cgroup("5:memory:/a/b\n0::/\n");
    set_vmstat("77");
    set("memory/a/b/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n");
    ASSERT_INT(pc_oom_kills(), 3);
    set("memory/a/b/c/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 10\n");
    set("memory/a/b/c/d/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 100\n");
    set("memory/a/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1000\n");
    ASSERT_INT(pc_oom_kills(), 113); /* those below it, but none beside it */
    set("memory/a/b/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n"); /* before Linux 4.13 */
    ASSERT_INT(pc_oom_kills(), 77);
    set("unified/memory.events", "oom 5\noom_kill 5\n");
    ASSERT_INT(pc_oom_kills(), 5);
}

TEST(without_cgroups_oom_kills_are_the_machines)
{
    own_cgroup("");
    set_vmstat("77");
    ASSERT_INT(pc_oom_kills(), 77);
    set_vmstat("78");
    ASSERT_INT(pc_oom_kills(), 78);
}

/* ---- CPUs ---- */

static unsigned affinity(void)
{
    cpu_set_t set;
    ASSERT_INT(sched_getaffinity(0, sizeof set, &set), 0);
    return (unsigned)CPU_COUNT(&set);
}

static unsigned at_most(unsigned cpus)
{
    return cpus < affinity() ? cpus : affinity();
}

TEST(in_v2_a_quota_bounds_the_cpus_and_is_rounded_up)
{
    own_cgroup("0::/a/b\n");
    ASSERT_INT(pc_budget_cpus(), affinity());
    set("a/b/cpu.max", "max 100000\n");
    ASSERT_INT(pc_budget_cpus(), affinity());
    set("a/b/cpu.max", "150000 100000\n");
    ASSERT_INT(pc_budget_cpus(), at_most(2));
    set("a/b/cpu.max", "100000 100000\n");
    ASSERT_INT(pc_budget_cpus(), 1);
    set("a/b/cpu.max", "100000000 100000\n");
    ASSERT_INT(pc_budget_cpus(), affinity());
    set("a/cpu.max", "1000 100000\n");
    ASSERT_INT(pc_budget_cpus(), 1);
    set("a/cpu.max", "1000 0\n"); /* no kernel says that */
    ASSERT_INT(pc_budget_cpus(), affinity());
}

TEST(in_v1_a_quota_bounds_the_cpus_and_is_rounded_up)
{
    own_cgroup("4:cpu,cpuacct:/a\n3:memory:/\n");
    set("cpu/a/cpu.cfs_quota_us", "-1\n");
    set("cpu/a/cpu.cfs_period_us", "100000\n");
    ASSERT_INT(pc_budget_cpus(), affinity());
    set("cpu/a/cpu.cfs_quota_us", "110000\n");
    ASSERT_INT(pc_budget_cpus(), at_most(2));
    set("cpu/a/cpu.cfs_quota_us", "90000\n");
    ASSERT_INT(pc_budget_cpus(), 1);
}

TAP_MAIN
