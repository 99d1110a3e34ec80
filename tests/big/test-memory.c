/* What memory is used, and given back: by what the system says, not by what pycrew believes. */
#include <sched.h>
#include <sys/mount.h>

#include "tests/big/big.h"

/* ---- memory goes back to the system ---------------------------------------------------------- */

enum { WORKERS = 2 };

#define PIECE (8 * MIB)
#define SLACK                                                                                      \
    (24 * MIB) /* what is kept for calls to come: 8 MiB in the host, some in the workers */

typedef struct use {
    size_t segment; /* its blocks */
    size_t shared;  /* pages of it that processes have mapped, the largest of them */
    size_t private; /* of the workers */
} use;

static use use_now(void)
{
    int pids[WORKERS + 1];
    int count = find_workers(pids, WORKERS);
    use now = {.segment = segment_blocks()};

    ASSERT_INT(count, WORKERS);
    pids[WORKERS] = getpid();
    for (int i = 0; i <= WORKERS; i++) {
        size_t shared = of_process(pids[i], "status", "RssShmem:");

        if (shared > now.shared)
            now.shared = shared;
        if (i < WORKERS)
            now.private += of_process(pids[i], "status", "RssAnon:");
    }
    return now;
}

static void say(const char *what, use now)
{
    DIAG("%s: segment %zu MiB, mapped by a process %zu MiB, workers' own %zu MiB", what,
         now.segment / MIB, now.shared / MIB, now.private / MIB);
}

static bool is_back(use before)
{
    use now = use_now();

    return now.segment <= before.segment + SLACK && now.shared <= before.shared + SLACK &&
           now.private <= before.private + SLACK;
}

static pycrew_crew *open_warm(size_t memory)
{
    pycrew_crew *crew = open_with_memory(WORKERS, memory);
    pycrew_call *calls[WORKERS];

    for (int i = 0; i < WORKERS; i++)
        calls[i] = SUBMIT(crew, "big_ops:nap", "d", 0.05); /* each worker has run one */
    for (int i = 0; i < WORKERS; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    return crew;
}

static size_t amount(void)
{
    return sized(128 * MIB, GIB);
}

static void await_back(use before, int64_t released)
{
    AWAIT(is_back(before));
    DIAG("back after %.0f ms", (double)(now_ns() - released) / MS);
    say("then", use_now());
}

TEST_LIMIT(large_results_that_were_released_leave_the_memory, 120)
{
    enum { MAX = GIB / PIECE };
    size_t count = amount() / PIECE;
    pycrew_crew *crew;
    pycrew_call *calls[MAX];
    use before;
    int64_t released;

    need_memory(2 * amount());
    crew = open_warm(2 * amount());
    before = use_now();
    say("before", before);
    for (size_t i = 0; i < count; i++)
        calls[i] = SUBMIT(crew, "big_ops:text_of", "n", PIECE);
    for (size_t i = 0; i < count; i++)
        OK(pycrew_wait(calls[i], BOUND));
    say("held", use_now());
    ASSERT(use_now().segment >= amount());
    for (size_t i = 0; i < count; i++)
        pycrew_release(calls[i]);
    released = now_ns();
    await_back(before, released);
    pycrew_close(crew);
}

TEST_LIMIT(arrays_that_were_freed_or_dropped_leave_the_memory, 120)
{
    enum { MAX = GIB / PIECE };
    size_t count = amount() / 2 / PIECE;
    pycrew_crew *crew;
    void *given[MAX];
    pycrew_array taken[MAX];
    use before;
    int64_t released;

    need_memory(2 * amount());
    crew = open_warm(2 * amount());
    need_numpy(crew);
    before = use_now();
    say("before", before);
    for (size_t i = 0; i < count; i++) {
        pycrew_array array;
        int sum = 0;

        given[i] = pycrew_alloc(crew, PIECE);
        ASSERT(given[i] != NULL);
        memset(given[i], 3, PIECE);
        array = array_at(given[i], PYCREW_U8, PIECE, 0);
        OK(pycrew_run(crew, "big_ops:first_and_last", "A>i", &array, &sum));
        ASSERT_INT(sum, 6);
        taken[i] = (pycrew_array)PYCREW_ARRAY_INIT;
        OK(pycrew_run(crew, "big_ops:empty_first", "n>A", PIECE, &taken[i]));
    }
    say("held", use_now());
    ASSERT(use_now().segment >= amount());
    for (size_t i = 0; i < count; i++) {
        pycrew_free(crew, given[i]);
        pycrew_array_drop(crew, &taken[i]);
    }
    released = now_ns();
    await_back(before, released);
    pycrew_close(crew);
}

TEST_LIMIT(one_large_value_leaves_the_memory_too, 120)
{
    size_t size = amount(), got = 0;
    const void *back = NULL;
    char *data = malloc(size);
    pycrew_crew *crew;
    pycrew_call *call;
    use before;
    int64_t released;

    need_memory(4 * amount());
    ASSERT(data != NULL);
    memset(data, 'x', size);
    crew = open_warm(2 * amount() + 32 * MIB);
    before = use_now();
    call = SUBMIT(crew, "big_ops:same", "y#", data, size);
    OK(pycrew_wait(call, 3 * BOUND));
    OK(pycrew_result_bytes(call, &back, &got));
    ASSERT_INT(got, size);
    say("held", use_now());
    ASSERT(use_now().segment >= 2 * amount());
    pycrew_release(call);
    released = now_ns();
    await_back(before, released);
    free(data);
    pycrew_close(crew);
}

TEST(what_a_dead_worker_held_leaves_the_memory_at_the_last_release)
{
    size_t count = 4;
    pycrew_crew *crew = open_warm(amount());
    pycrew_call *calls[4];
    int pids[WORKERS], next[WORKERS];
    use before = use_now();

    for (size_t i = 0; i < count; i++)
        calls[i] = SUBMIT(crew, "big_ops:text_of", "n", PIECE);
    for (size_t i = 0; i < count; i++)
        OK(pycrew_wait(calls[i], BOUND));
    find_workers(pids, WORKERS);
    for (int i = 0; i < WORKERS; i++)
        kill(pids[i], SIGKILL);
    AWAIT(!is_worker(pids[0]) && !is_worker(pids[1]) && find_workers(next, WORKERS) == WORKERS);
    ASSERT(segment_blocks() >= count * PIECE);
    for (size_t i = 0; i < count; i++)
        pycrew_release(calls[i]);
    AWAIT(segment_blocks() <= before.segment + SLACK);
    pycrew_close(crew);
}

/* ---- the cap --------------------------------------------------------------------------------- */

/* Through memory of every kind until there is none, and then each kind of request is an error. */
static void fill(pycrew_crew *crew, void **blocks, size_t max, size_t *ret)
{
    size_t count = 0;

    while (count < max && (blocks[count] = pycrew_alloc(crew, MIB)) != NULL)
        memset(blocks[count++], 1, MIB);
    ASSERT(count < max);
    ASSERT_INT(pycrew_last_error()->code, -ENOMEM);
    *ret = count;
}

static void check_refusals(pycrew_crew *crew, size_t size)
{
    char *data = malloc(size), *back = NULL;
    pycrew_array array, result = PYCREW_ARRAY_INIT;
    size_t got = 0;
    long long length = 0;

    ASSERT(data != NULL);
    memset(data, 'x', size);
    array = array_at(data, PYCREW_U8, size, 0);
    ASSERT(pycrew_alloc(crew, size) == NULL);
    ASSERT_INT(pycrew_last_error()->code, -ENOMEM);
    GIVES(pycrew_run(crew, "big_ops:same", "y#>", data, size), -ENOMEM);
    GIVES(pycrew_run(crew, "big_ops:same", "s#>", data, size), -ENOMEM);
    GIVES(pycrew_run(crew, "big_ops:same", "A>", &array), -ENOMEM);
    GIVES(pycrew_run(crew, "big_ops:text_of", "n>y#", size, &back, &got), -ENOMEM);
    GIVES(pycrew_run(crew, "big_ops:zeros", "n>A", size, &result), -ENOMEM);
    GIVES(pycrew_run(crew, "big_ops:empty_first", "n>A", size, &result), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "MemoryError");
    OK(pycrew_run(crew, "big_ops:empty_or_error", "n>L", size, &length));
    ASSERT(length < 0);
    free(data);
}

/* A map either finds room for one piece after the other, or says that there is none. */
static void check_map(pycrew_crew *crew, size_t count, int flags, bool full)
{
    uint8_t *from = calloc(1, count), *to = calloc(1, count);
    pycrew_array input = array_at(from, PYCREW_U8, count, 0);
    pycrew_array output = array_at(to, PYCREW_U8, count, PYCREW_WRITABLE);
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    int rc;

    ASSERT(from != NULL && to != NULL);
    memset(from, 7, count);
    options.flags = (unsigned)flags;
    rc = pycrew_map(crew, function_of(crew, "big_ops:add_one"), &input, 1, &output, &options);
    if (rc != -ENOMEM || !full)
        OK(rc);
    for (size_t i = 0; rc == 0 && i < count; i++)
        ASSERT_INT(to[i], 8);
    free(from);
    free(to);
}

static void check_room(pycrew_crew *crew, size_t size)
{
    char *data = malloc(size), *back = NULL;
    pycrew_array result = PYCREW_ARRAY_INIT;
    size_t got = 0;

    ASSERT(data != NULL);
    memset(data, 'x', size);
    OK(pycrew_run(crew, "big_ops:same", "y#>y#", data, size, &back, &got));
    ASSERT_MEM(back, data, size);
    OK(pycrew_run(crew, "big_ops:empty_first", "n>A", size, &result));
    ASSERT_INT(result.shape[0], size);
    pycrew_array_drop(crew, &result);
    free(back);
    free(data);
}

static void check_cap(pycrew_crew *crew, size_t cap, void (*shrink)(void), void (*restore)(void))
{
    enum { MAX = 256 };
    void *blocks[MAX];
    size_t count = 0;

    need_numpy(crew);
    for (int round = 0; round < 2; round++) {
        if (shrink != NULL)
            shrink();
        fill(crew, blocks, MAX, &count);
        ASSERT(segment_blocks() <= cap);
        check_refusals(crew, 6 * MIB);
        check_map(crew, 100000, PYCREW_MAP_WHOLE, true);
        ASSERT(segment_blocks() <= cap);
        for (size_t i = 0; i < count; i++)
            pycrew_free(crew, blocks[i]);
        if (restore != NULL)
            restore();
        check_room(crew, 6 * MIB);
        check_map(crew, 20 * MIB, PYCREW_MAP_WHOLE, false);
    }
}

static pycrew_crew *open_numpy(size_t memory)
{
    pycrew_crew *crew = open_with_memory(WORKERS, memory);

    need_numpy(crew);
    return crew;
}

TEST(memory_is_a_cap_for_values_arrays_and_maps)
{
    size_t cap = 48 * MIB;
    pycrew_crew *crew = open_numpy(cap);
    char *data = malloc(cap);

    check_cap(crew, cap, NULL, NULL);
    ASSERT(data != NULL);
    memset(data, 'x', cap);
    GIVES(pycrew_run(crew, "big_ops:same", "y#>", data, cap),
          -E2BIG); /* never, however long one waits */
    free(data);
    pycrew_close(crew);
}

static void mount_shm(const char *size)
{
    char options[32];

    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", "none", MS_REC | MS_PRIVATE, "") < 0)
        SKIP("mounts of its own are not allowed here: %s", strerror(errno));
    snprintf(options, sizeof options, "size=%s", size);
    if (mount("tmpfs", "/dev/shm", "tmpfs", 0, options) < 0)
        SKIP("no tmpfs can be mounted on /dev/shm: %s", strerror(errno));
}

/* Until nothing fits any more. */
static void fill_shm(void)
{
    static char data[4096];
    int fd = open("/dev/shm/filler", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

    ASSERT(fd >= 0);
    while (write(fd, data, sizeof data) > 0)
        continue;
    ASSERT_INT(errno, ENOSPC);
    close(fd);
}

static void empty_shm(void)
{
    ASSERT_INT(unlink("/dev/shm/filler"), 0);
}

TEST(a_dev_shm_of_64_mib_that_others_fill_is_an_error_and_no_signal)
{
    pycrew_crew *crew;

    mount_shm("64m");
    crew = open_numpy(48 * MIB);
    ASSERT(count_entries("/dev/shm", "pycrew.") == 0); /* it has no name, */
    ASSERT(number_in("/proc/meminfo", "MemAvailable:") > 0);
    check_cap(crew, 48 * MIB, fill_shm, empty_shm);
    pycrew_close(crew);
}

TEST(without_room_in_dev_shm_the_cap_holds_just_so)
{
    pycrew_crew *crew;

    mount_shm("4k"); /* 0 would be none */
    crew = open_numpy(48 * MIB);
    check_cap(crew, 48 * MIB, NULL, NULL);
    pycrew_close(crew);
}

/* ---- a cgroup with a limit ---------------------------------------------------------------------
 */

#define LIMIT (192 * MIB)

typedef struct cgroup {
    char directory[400];
    bool v2;
} cgroup;

static bool write_to(const char *directory, const char *file, const char *text)
{
    char path[500];
    int fd;
    bool done;

    snprintf(path, sizeof path, "%s/%s", directory, file);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return done;
}

/* This process's own cgroup: of v1's memory hierarchy, or of v2. */
static bool find_cgroup(const char *begin, const char *mount, char *ret, size_t capacity)
{
    FILE *list = fopen("/proc/self/cgroup", "re");
    char line[300];
    bool found = false;

    while (list != NULL && !found && fgets(line, sizeof line, list) != NULL) {
        char *at = strstr(line, begin);

        if (at == NULL)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(ret, capacity, "%s%s", mount, at + strlen(begin));
        found = true;
    }
    if (list != NULL)
        fclose(list);
    return found;
}

static bool make_in(const char *parent, bool v2, const char *name, cgroup *ret)
{
    char limit[32];

    snprintf(limit, sizeof limit, "%zu", (size_t)LIMIT);
    snprintf(ret->directory, sizeof ret->directory, "%s/pycrew-test-%s-%d", parent, name, getpid());
    ret->v2 = v2;
    if (mkdir(ret->directory, 0755) < 0 && errno != EEXIST)
        return false;
    if (write_to(ret->directory, v2 ? "memory.max" : "memory.limit_in_bytes", limit))
        return true;
    rmdir(ret->directory);
    return false;
}

/* A cgroup of LIMIT below ours. */
static cgroup make_cgroup(const char *name)
{
    char parent[350];
    cgroup made;

    if (find_cgroup(":memory:", "/sys/fs/cgroup/memory", parent, sizeof parent) &&
        make_in(parent, false, name, &made))
        return made;
    if (find_cgroup("0::", "/sys/fs/cgroup", parent, sizeof parent) &&
        make_in(parent, true, name, &made))
        return made;
    SKIP("no memory cgroup can be made here: %s", strerror(errno));
}

static long long kills_in(const cgroup *c)
{
    char path[500];

    snprintf(path, sizeof path, "%s/%s", c->directory,
             c->v2 ? "memory.events" : "memory.oom_control");
    return (long long)(number_in(path, "\noom_kill ") / KIB);
}

static void enter(const cgroup *c)
{
    ASSERT(write_to(c->directory, "cgroup.procs", "0"));
}

/* Runs body in a child that is in the cgroup; everything in it is gone when this returns. */
static void run_in(const cgroup *c, void (*body)(const cgroup *c))
{
    int status = 0, pid = fork();

    if (pid == 0) {
        enter(c);
        body(c);
        _exit(0);
    }
    ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid);
    ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void remove_cgroup(const cgroup *c)
{
    AWAIT(rmdir(c->directory) == 0 || errno == ENOENT);
}

/* Whatever becomes of the test, nothing is left: this outlives it. also: another one to remove, or
 * NULL. */
static void test_in_cgroup(void (*body)(const cgroup *c), const cgroup *also)
{
    cgroup made = make_cgroup("crew");
    int status = 0, pid = fork();

    if (pid == 0) {
        run_in(&made, body);
        _exit(0);
    }
    ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid);
    remove_cgroup(&made);
    if (also != NULL)
        remove_cgroup(also);
    ASSERT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static size_t memory_max(pycrew_crew *crew)
{
    pycrew_stats stats = PYCREW_STATS_INIT;

    OK(pycrew_stats_get(crew, &stats));
    return stats.memory_max;
}

static void stays_within(const cgroup *c)
{
    enum { MAX = 1024, CALLS = 64 };
    pycrew_crew *crew = open_with_memory(WORKERS, 0);
    void *blocks[MAX];
    size_t count = 0;

    ASSERT(memory_max(crew) <= LIMIT / 2 + MIB);
    fill(crew, blocks, MAX, &count);
    for (size_t i = 0; i < count; i++)
        pycrew_free(crew, blocks[i]);
    pycrew_close(crew);

    /* more than there is: what counts then is what the cgroup has left */
    crew = open_with_memory(WORKERS, GIB);
    for (int round = 0; round < 2; round++) {
        fill(crew, blocks, MAX, &count);
        ASSERT(count * MIB < LIMIT);
        ASSERT(count * MIB > LIMIT / 8);
        for (size_t i = 0; i < count; i++)
            pycrew_free(crew, blocks[i]);
    }
    DIAG("%zu MiB, then -ENOMEM", count);
    pycrew_close(crew);
    ASSERT_INT(kills_in(c), 0);
}

TEST(in_a_cgroup_the_memory_ends_before_its_limit)
{
    test_in_cgroup(stays_within, NULL);
}

/* Each of them sees that there is room, and there is not for all. */
static void many_at_once(const cgroup *c)
{
    enum { CALLS = 4, ROUNDS = 5 };
    pycrew_crew *crew = open_with_memory(CALLS, GIB);
    int refused = 0;

    for (int round = 0; round < ROUNDS; round++) {
        pycrew_call *calls[CALLS];

        for (int i = 0; i < CALLS; i++)
            calls[i] = SUBMIT(crew, "big_ops:empty_first", "n", 60 * MIB);
        for (int i = 0; i < CALLS; i++) {
            int rc = pycrew_wait(calls[i], BOUND);

            if (rc != 0) {
                /* pycrew.empty has raised it, or the little beside it found no room */
                if (rc != -ENOMEM) {
                    GIVES(rc, PYCREW_ERAISED);
                    ASSERT_STR(pycrew_call_error(calls[i])->type, "MemoryError");
                }
                refused++;
            }
        }
        for (int i = 0; i < CALLS; i++)
            pycrew_release(calls[i]);
    }
    DIAG("%d of %d refused", refused, CALLS * ROUNDS);
    ASSERT(refused >= ROUNDS);
    ASSERT_INT(kills_in(c), 0);
    pycrew_close(crew);
}

TEST(in_a_cgroup_several_that_reserve_at_once_are_no_oom_kill)
{
    test_in_cgroup(many_at_once, NULL);
}

static void takes_too_much(const cgroup *c)
{
    pycrew_crew *crew = open_with_memory(1, 0);
    const pycrew_error *error;
    int sum = 0, pid = 0;

    GIVES(pycrew_run(crew, "big_ops:take_all", "n", MIB), PYCREW_EDIED);
    error = pycrew_last_error();
    ASSERT_INT(error->signal, SIGKILL);
    ASSERT(error->out_of_memory);
    CONTAINS(error->message, "out-of-memory");
    ASSERT(kills_in(c) >= 1);
    OK(pycrew_run(crew, "math:comb", "ii>i", 5, 2, &sum));
    ASSERT_INT(sum, 10);
    /* and the next kill is not the kernel's */
    OK(pycrew_run(crew, "os:getpid", ">i", &pid));
    GIVES(pycrew_run(crew, "os:kill", "ii", pid, SIGKILL), PYCREW_EDIED);
    ASSERT(!pycrew_last_error()->out_of_memory);
    pycrew_close(crew);
}

TEST(in_a_cgroup_a_worker_that_the_oom_killer_ends_is_told_so)
{
    test_in_cgroup(takes_too_much, NULL);
}

static cgroup other;

/* A process in the other one. */
static void eat_elsewhere(void)
{
    int status = 0, pid = fork();

    if (pid == 0) {
        enter(&other);
        for (;;) {
            char *some = malloc(MIB);

            if (some != NULL)
                memset(some, 1, MIB);
        }
    }
    ASSERT(pid > 0 && waitpid(pid, &status, 0) == pid);
    ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void is_not_misled(const cgroup *c)
{
    pycrew_crew *crew = open_with_memory(1, 32 * MIB);
    int pid = 0;

    OK(pycrew_run(crew, "os:getpid", ">i", &pid));
    eat_elsewhere();
    ASSERT(kills_in(&other) >= 1);
    GIVES(pycrew_run(crew, "os:kill", "ii", pid, SIGKILL), PYCREW_EDIED);
    ASSERT(!pycrew_last_error()->out_of_memory);
    pycrew_close(crew);
    ASSERT_INT(kills_in(c), 0);
}

TEST(an_oom_kill_in_another_cgroup_is_not_taken_for_the_cause)
{
    other = make_cgroup("other");
    test_in_cgroup(is_not_misled, &other);
}

TAP_MAIN
