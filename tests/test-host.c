/* The host process's world: what else it does with signals, children, threads and descriptors, how
 * little it has of them, and how it dies. The crew works on, or says what is missing. */
#include <grp.h>
#include <limits.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "tests/harness/crew.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static int add(pycrew_crew *crew, int a, int b)
{
    int sum = -1;

    OK(pycrew_run(crew, "api_ops:add", "ii>i", a, b, &sum));
    return sum;
}

static void works(pycrew_crew *crew)
{
    ASSERT_INT(add(crew, 3, 5), 8);
}

/* A worker, and then the zygote, die and are replaced. */
static void survives_deaths(pycrew_crew *crew)
{
    int zygote = find_zygote();

    works(crew);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "kill"), PYCREW_EDIED);
    ASSERT_INT(pycrew_last_error()->signal, SIGKILL);
    works(crew);
    ASSERT(zygote > 0 && kill(zygote, SIGKILL) == 0);
    AWAIT(find_zygote() != zygote && find_zygote() != 0);
    AWAIT(pycrew_run(crew, "api_ops:nothing", ">") == 0);
    works(crew);
}

static pthread_t start_thread(void *(*function)(void *), void *data)
{
    pthread_t thread;

    ASSERT_INT(pthread_create(&thread, NULL, function, data), 0);
    return thread;
}

/* In a process of its own, which ends as the function returns: what it does to itself (its user,
 * its threads) is no matter of the harness's. */
static void in_a_child(void (*function)(void))
{
    int status;
    pid_t child = fork();

    ASSERT(child >= 0);
    if (child == 0) {
        function();
        _exit(0);
    }
    ASSERT_INT(waitpid(child, &status, 0), child);
    ASSERT_INT(status, 0);
}

/* ---- SIGCHLD and wait -------------------------------------------------------------------------
 */

TEST(a_host_that_ignores_sigchld_has_a_working_crew)
{
    pycrew_crew *crew;

    signal(SIGCHLD, SIG_IGN);
    crew = open_crew(2);
    survives_deaths(crew);
    pycrew_close(crew);
}

TEST(a_host_that_ignores_sigchld_is_not_told_a_status_nobody_knows)
{
    pycrew_options options = test_options(1);
    pycrew_crew *crew;

    signal(SIGCHLD, SIG_IGN);
    setenv("PYCREW_WORKER", "/bin/true", 1);
    GIVES(pycrew_open(&crew, &options), PYCREW_ESTART);
    CONTAINS(pycrew_last_error()->message, "/bin/true");
    ASSERT(strstr(pycrew_last_error()->message, "signal 0") == NULL);
}

static _Atomic bool stop_waiting;

static void *wait_for_all(void *data)
{
    while (!atomic_load(&stop_waiting))
        if (waitpid(-1, NULL, 0) < 0)
            pause_ns(50 * US);
    return data;
}

TEST(a_host_that_waits_for_all_children_has_a_working_crew)
{
    pthread_t waiter = start_thread(wait_for_all, NULL);
    pycrew_crew *crew;

    for (int i = 0; i < 3; i++) {
        crew = open_crew(2);
        survives_deaths(crew);
        pycrew_close(crew);
    }
    atomic_store(&stop_waiting, true);
    pthread_join(waiter, NULL);
}

/* ---- fork -------------------------------------------------------------------------------------
 */

/* What a thread may hold when the process forks. */
typedef struct held {
    pycrew_crew *crew;
    const pycrew_function *function;
    pycrew_call *prepared, *running, *ended;
    pycrew_queue *queue;
    pycrew_batch *batch;
} held;

static held hold(pycrew_crew *crew)
{
    held h = {.crew = crew, .function = function_of(crew, "api_ops:echo")};
    pycrew_call *item;

    h.prepared = prepare(crew, "api_ops:echo");
    OK(pycrew_queue_open(crew, &h.queue));
    h.running = SUBMIT(crew, "api_ops:sleep", "d", 1000.0);
    h.ended = SUBMIT(crew, "api_ops:echo", "i", 7);
    OK(pycrew_wait(h.ended, BOUND));
    OK(pycrew_batch_open(crew, h.function, NULL, &h.batch));
    for (int i = 0; i < 10; i++)
        OK(pycrew_batch_add(h.batch, "i", i));
    GIVES(pycrew_batch_next(h.batch, BOUND), 1);
    OK(pycrew_batch_begin(h.batch, 0, &item));
    return h;
}

#define FORKED(call) GIVES(call, PYCREW_EFORKED)

static void crew_is_forked(const held *h)
{
    const pycrew_function *function;
    pycrew_queue *queue;
    pycrew_batch *batch;
    pycrew_call *call;

    FORKED(pycrew_run(h->crew, "api_ops:nothing", ">"));
    FORKED(pycrew_run_within(h->crew, SECOND, "api_ops:nothing", ">"));
    FORKED(pycrew_drain(h->crew, PYCREW_FOREVER));
    FORKED(pycrew_function_get(h->crew, "api_ops:add", &function));
    FORKED(pycrew_function_get(h->crew, "api_ops:not_known_yet", &function));
    FORKED(pycrew_function_source(h->crew, "f", "def f(): pass", &function));
    FORKED(pycrew_prepare(h->crew, h->function, PYCREW_FOREVER, &call));
    FORKED(pycrew_queue_open(h->crew, &queue));
    FORKED(pycrew_queue_reap(h->queue, &call, 1, PYCREW_FOREVER));
    FORKED(pycrew_queue_wake(h->queue));
    FORKED(pycrew_batch_open(h->crew, h->function, NULL, &batch));
    CONTAINS(pycrew_last_error()->message, "fork");
}

static void calls_are_forked(const held *h)
{
    const char *text;
    const void *data;
    size_t size;
    int64_t number;
    uint64_t positive;
    double real;
    bool truth;

    FORKED(pycrew_add(h->prepared, "i", 1));
    FORKED(pycrew_add_none(h->prepared));
    FORKED(pycrew_add_bool(h->prepared, true));
    FORKED(pycrew_add_i64(h->prepared, 1));
    FORKED(pycrew_add_u64(h->prepared, 1));
    FORKED(pycrew_add_f64(h->prepared, 1));
    FORKED(pycrew_add_bigint(h->prepared, "ff"));
    FORKED(pycrew_add_str(h->prepared, "s", 1));
    FORKED(pycrew_add_bytes(h->prepared, "s", 1));
    FORKED(pycrew_add_json(h->prepared, "1", 1));
    FORKED(pycrew_add_object(h->prepared, "N.", 2));
    FORKED(pycrew_add_name(h->prepared, "name"));
    FORKED(pycrew_add_open(h->prepared, PYCREW_LIST));
    FORKED(pycrew_add_close(h->prepared));
    FORKED(pycrew_set_timeout(h->prepared, SECOND));
    FORKED(pycrew_set_retries(h->prepared, 1));
    FORKED(pycrew_set_json(h->prepared, true));
    FORKED(pycrew_set_queue(h->prepared, h->queue));
    FORKED(pycrew_submit(h->prepared));
    FORKED(pycrew_wait(h->running, PYCREW_FOREVER));
    FORKED(pycrew_cancel(h->running));
    FORKED(pycrew_result(h->ended, "i", &size));
    FORKED(pycrew_result_bool(h->ended, &truth));
    FORKED(pycrew_result_i64(h->ended, &number));
    FORKED(pycrew_result_u64(h->ended, &positive));
    FORKED(pycrew_result_f64(h->ended, &real));
    FORKED(pycrew_result_str(h->ended, &text, &size));
    FORKED(pycrew_result_bytes(h->ended, &data, &size));
    FORKED(pycrew_result_json(h->ended, &text, &size));
}

static void batch_is_forked(const held *h)
{
    pycrew_progress progress = {.size = sizeof progress};
    pycrew_call *item;
    int value;

    FORKED(pycrew_batch_commit(h->batch));
    FORKED(pycrew_batch_add(h->batch, "i", 1));
    FORKED(pycrew_batch_add_within(h->batch, PYCREW_FOREVER, "i", 1));
    FORKED(pycrew_batch_begin(h->batch, PYCREW_FOREVER, &item));
    FORKED(pycrew_batch_result(h->batch, "i", &value));
    FORKED(pycrew_batch_next(h->batch, PYCREW_FOREVER));
    FORKED(pycrew_batch_progress(h->batch, &progress));
    FORKED(pycrew_batch_end(h->batch));
    FORKED(pycrew_batch_cancel(h->batch));
}

static void give_back(held *h)
{
    pycrew_batch_close(h->batch);
    pycrew_release(h->prepared);
    pycrew_release(h->running);
    pycrew_release(h->ended);
    pycrew_queue_close(h->queue);
    pycrew_close(h->crew);
}

static held in_parent;

static void be_a_fork(void)
{
    pycrew_crew *own;

    crew_is_forked(&in_parent);
    calls_are_forked(&in_parent);
    batch_is_forked(&in_parent);
    own = open_crew(1);
    works(own);
    give_back(&in_parent);
    works(own);
    pycrew_close(own);
}

TEST(a_fork_of_the_host_gets_an_error_from_every_function_and_can_open_its_own)
{
    in_parent = hold(open_crew(2));
    in_a_child(be_a_fork);

    /* and the parent's goes on where it was */
    OK(pycrew_add(in_parent.prepared, "i", 9));
    OK(pycrew_submit(in_parent.prepared));
    OK(pycrew_wait(in_parent.prepared, BOUND));
    OK(pycrew_batch_commit(in_parent.batch));
    OK(pycrew_batch_end(in_parent.batch));
    for (int i = 0; i < 10; i++) /* ten added, less one taken out, and the one begun */
        GIVES(pycrew_batch_next(in_parent.batch, BOUND), 1);
    GIVES(pycrew_batch_next(in_parent.batch, BOUND), 0);
    GIVES(pycrew_wait(in_parent.running, 0), -ETIME);
    OK(pycrew_cancel(in_parent.running));
    GIVES(pycrew_wait(in_parent.running, BOUND), -ECANCELED);
    works(in_parent.crew);
    give_back(&in_parent);
}

typedef struct busy {
    pycrew_crew *crew;
    _Atomic bool stop;
    _Atomic unsigned done;
} busy;

static void *keep_busy(void *data)
{
    busy *b = data;

    for (int i = 0; !atomic_load(&b->stop); i++) {
        ASSERT_INT(add(b->crew, i, 1), i + 1);
        GIVES(pycrew_run_within(b->crew, MS, "api_ops:sleep", "d", 1000.0), -ETIMEDOUT);
        atomic_fetch_add(&b->done, 1);
    }
    return NULL;
}

/* Holds the crew's lock as often as may be. */
static void *hold_lock(void *data)
{
    busy *b = data;

    while (!atomic_load(&b->stop)) {
        pycrew_queue *queue;

        OK(pycrew_queue_open(b->crew, &queue));
        pycrew_queue_close(queue);
    }
    return NULL;
}

static pycrew_crew *of_parent;

/* Any lock may be held by a thread that does not exist here. */
static void be_a_fork_of_a_busy_process(void)
{
    FORKED(pycrew_run(of_parent, "api_ops:not_known_yet", ">"));
    pycrew_close(of_parent);
}

TEST(a_fork_while_threads_are_at_work_does_not_hang)
{
    enum { THREADS = 4, FORKS = 40 };
    busy b = {.crew = open_crew(2)};
    pthread_t threads[THREADS];
    unsigned done;

    of_parent = b.crew;
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(i % 2 ? keep_busy : hold_lock, &b);
    for (int i = 0; i < FORKS; i++)
        in_a_child(be_a_fork_of_a_busy_process);
    done = atomic_load(&b.done);
    AWAIT(atomic_load(&b.done) > done + THREADS);
    atomic_store(&b.stop, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pycrew_close(b.crew);
}

/* ---- limits -----------------------------------------------------------------------------------
 */

static void set_limit(__rlimit_resource_t resource, rlim_t value)
{
    struct rlimit limit;

    ASSERT(getrlimit(resource, &limit) == 0);
    limit.rlim_cur = value;
    if (resource == RLIMIT_NPROC && limit.rlim_max > value)
        limit.rlim_max = value;
    ASSERT(setrlimit(resource, &limit) == 0);
}

static int highest_descriptor(void)
{
    int highest = 2;

    for (int fd = 3; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            highest = fd;
    return highest;
}

/* Each of the workers runs one of these; they end only together. */
static void all_work_together(pycrew_crew *crew, unsigned workers)
{
    pycrew_call *calls[16];
    const char *path = scratch("together");

    unlink(path);
    for (unsigned i = 0; i < workers; i++)
        calls[i] = SUBMIT(crew, "open_ops:meet_all", "si", path, (int)workers);
    for (unsigned i = 0; i < workers; i++) {
        OK(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
}

TEST(thirty_two_descriptors_serve_four_workers)
{
    pycrew_crew *crew;
    pycrew_queue *queue;

    closefrom(3);
    set_limit(RLIMIT_NOFILE, 32);
    crew = open_crew(4);
    OK(pycrew_queue_open(crew, &queue));
    all_work_together(crew, 4);
    survives_deaths(crew);
    all_work_together(crew, 4);
    pycrew_close(crew);
}

TEST(too_few_descriptors_are_an_error_that_names_the_number_needed)
{
    pycrew_options options = test_options(4);
    pycrew_crew *crew;

    closefrom(3);
    for (rlim_t limit = 4; limit < 3 + 8 + 3 * 4; limit++) {
        set_limit(RLIMIT_NOFILE, limit);
        GIVES(pycrew_open(&crew, &options), -EMFILE);
        CONTAINS(pycrew_last_error()->message, "20");
        ASSERT_INT(highest_descriptor(), 2);
        ASSERT_INT(tap_count_children(getpid(), 0, true, NULL, 0), 0);
    }
    set_limit(RLIMIT_NOFILE, 3 + 8 + 3 * 4); /* and with as many as it said it works */
    crew = open_crew(4);
    all_work_together(crew, 4);
    pycrew_close(crew);
}

static void become(uid_t user)
{
    if (setgroups(0, NULL) < 0 || setgid(user) < 0 || setuid(user) < 0)
        SKIP("cannot become user %u: %s", (unsigned)user, strerror(errno));
}

/* A user that nobody else is, so that its processes are ours alone. */
static void with_few_processes(void)
{
    pycrew_options options = test_options(4);
    pycrew_crew *crew;

    become(64321);
    for (rlim_t limit = 4; limit > 0; limit--) {
        int pid = fork(), status;

        ASSERT(pid >= 0);
        if (pid > 0) {
            ASSERT_INT(waitpid(pid, &status, 0), pid);
            ASSERT_INT(status, 0);
            continue;
        }
        set_limit(RLIMIT_NPROC, limit + 1); /* the process that forked us is the one */
        if (limit == 4) { /* us, the thread, the zygote, and a worker of the four */
            crew = open_crew(4);
            works(crew);
            pycrew_close(crew);
        } else {
            GIVES(pycrew_open(&crew, &options), PYCREW_ESTART);
            CONTAINS(pycrew_last_error()->message, "RLIMIT_NPROC");
        }
        _exit(0);
    }
}

TEST(too_few_processes_are_an_error_that_names_the_limit)
{
    if (geteuid() != 0)
        SKIP("only root can become a user without other processes");
    in_a_child(with_few_processes);
}

static rlim_t address_space(void)
{
    char text[256];

    tap_read_file("/proc/self/statm", text, sizeof text);
    return (rlim_t)strtoul(text, NULL, 10) * 4096;
}

TEST(a_small_address_space_is_enough_for_default_options)
{
    pycrew_crew *crew;

    if (SANITIZED)
        SKIP("sanitizers need a large address space");
    set_limit(RLIMIT_AS, (rlim_t)1 << 30);
    crew = open_crew(2);
    survives_deaths(crew);
    GIVES(pycrew_run(crew, "api_ops:zeros", "L>", 4LL << 30), PYCREW_ERAISED);
    ASSERT_STR(pycrew_last_error()->type, "MemoryError");
    works(crew);
    pycrew_close(crew);
}

TEST(too_small_an_address_space_is_an_error)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;

    if (SANITIZED)
        SKIP("sanitizers need a large address space");
    for (rlim_t more = 0; more <= 32; more += 4) {
        int rc;

        set_limit(RLIMIT_AS, address_space() + (more << 20));
        rc = pycrew_open(&crew, &options);
        if (rc == 0) { /* and if it is not too small, all is well */
            ASSERT(more > 0);
            works(crew);
            pycrew_close(crew);
            continue;
        }
        if (rc != -ENOMEM && rc != PYCREW_ESTART)
            GIVES(rc, -ENOMEM);
        ASSERT(strlen(pycrew_last_error()->message) > 10);
        ASSERT_INT(tap_count_children(getpid(), 0, true, NULL, 0), 0);
    }
}

/* ---- /dev/shm, and file systems ---------------------------------------------------------------
 */

static void write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0 || write(fd, text, strlen(text)) < 0)
        SKIP("%s: %s", path, strerror(errno));
    close(fd);
}

/* Mounts are this process's own from here on. */
static void enter_namespace(void)
{
    uid_t user = geteuid();
    gid_t group = getegid();
    char map[64];

    if (unshare(CLONE_NEWNS) < 0) {
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
            SKIP("no namespace: %s", strerror(errno));
        write_text("/proc/self/setgroups", "deny");
        snprintf(map, sizeof map, "0 %u 1", (unsigned)user);
        write_text("/proc/self/uid_map", map);
        snprintf(map, sizeof map, "0 %u 1", (unsigned)group);
        write_text("/proc/self/gid_map", map);
    }
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        SKIP("mounts cannot be made private: %s", strerror(errno));
}

static void mount_shm(const char *size)
{
    char options[64];

    enter_namespace();
    snprintf(options, sizeof options, "size=%s", size);
    if (mount("tmpfs", "/dev/shm", "tmpfs", 0, options) < 0)
        SKIP("no tmpfs can be mounted on /dev/shm: %s", strerror(errno));
}

static bool segment_is_in(const char *place)
{
    static char maps[1 << 20];
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t got;

    while ((got = read(fd, maps + size, sizeof maps - 1 - size)) > 0)
        size += (size_t)got;
    close(fd);
    maps[size] = '\0';
    return strstr(maps, place) != NULL;
}

static void takes_and_gives(pycrew_crew *crew, size_t size)
{
    char *data = malloc(size), *back = NULL;
    size_t got = 0;

    ASSERT(data != NULL);
    memset(data, 'x', size);
    OK(pycrew_run(crew, "api_ops:echo", "y#>y#", data, size, &back, &got));
    ASSERT_INT(got, size);
    ASSERT_MEM(back, data, size);
    free(data);
    free(back);
}

TEST(a_small_dev_shm_is_passed_over)
{
    pycrew_crew *crew;

    mount_shm("64m");
    crew = open_crew(2);
    ASSERT(segment_is_in("/memfd:pycrew"));
    takes_and_gives(crew, (size_t)100 << 20);
    pycrew_close(crew);
}

TEST(a_dev_shm_without_room_is_passed_over)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;

    mount_shm("4k");
    crew = open_crew(2);
    takes_and_gives(crew, (size_t)10 << 20);
    pycrew_close(crew);
    options.memory = (size_t)32 << 20;
    crew = open_with(&options);
    ASSERT(segment_is_in("/memfd:pycrew"));
    takes_and_gives(crew, (size_t)8 << 20);
    pycrew_close(crew);
}

/* Writes into a file on /dev/shm until nothing fits any more. */
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

TEST(a_dev_shm_that_became_full_is_an_error_and_no_signal)
{
    static char data[24 << 20]; /* more than what is kept for calls to come */
    pycrew_options options = test_options(2);
    char *back = NULL;
    size_t got = 0;
    pycrew_crew *crew;

    mount_shm("64m");
    options.memory = (size_t)48 << 20;
    crew = open_with(&options);
    ASSERT(segment_is_in("/dev/shm/"));
    works(crew);
    for (int i = 0; i < 2; i++) {
        fill_shm();
        GIVES(pycrew_run(crew, "api_ops:length", "y#>", data, sizeof data), -ENOMEM);
        GIVES(pycrew_run(crew, "api_ops:zeros", "i>y#", 24 << 20, &back, &got), -ENOMEM);
        works(crew); /* what needs no more memory goes on */
        ASSERT_INT(unlink("/dev/shm/filler"), 0);
        takes_and_gives(crew, (size_t)4 << 20);
    }
    pycrew_close(crew);
}

TEST(a_crew_on_a_full_dev_shm_survives_deaths)
{
    pycrew_options options = test_options(2);
    pycrew_crew *crew;

    mount_shm("64m");
    options.memory = (size_t)48 << 20;
    crew = open_with(&options);
    works(crew);
    fill_shm();
    survives_deaths(crew);
    pycrew_close(crew);
}

TEST(read_only_file_systems_are_no_obstacle)
{
    static const char *const places[] = {"/dev/shm", "/tmp", "/var", "/run", "/home", "/"};
    pycrew_crew *crew;

    enter_namespace();
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (mount(NULL, places[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL) < 0 &&
            errno != EINVAL) /* no mount of its own */
            SKIP("%s cannot be made read-only: %s", places[i], strerror(errno));
    ASSERT(open("/read-only?", O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0 && errno == EROFS);
    crew = open_crew(2);
    survives_deaths(crew);
    takes_and_gives(crew, 1 << 20);
    pycrew_close(crew);
}

/* ---- descriptors closed by the host -----------------------------------------------------------
 */

enum { STRANGERS = 40 };

/* The host's own, under the numbers that were the crew's: of each kind that could be taken for one
 * of its. What stands in them must stay. */
typedef struct strangers {
    int count, fds[STRANGERS];
} strangers;

static void open_strangers(strangers *s)
{
    s->count = 0;
    while (s->count + 4 <= STRANGERS) {
        int file = open(scratch("foreign"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int ends[2];

        ASSERT(file >= 0 && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, ends) == 0);
        ASSERT_INT(pwrite(file, "foreign", 8, 0), 8);
        s->fds[s->count++] = file;
        s->fds[s->count++] = ends[0];
        s->fds[s->count++] = ends[1];
        s->fds[s->count++] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        ASSERT_INT(send(ends[0], "one", 3, 0), 3);
        ASSERT_INT(send(ends[1], "two", 3, 0), 3);
    }
}

static void are_untouched(const strangers *s)
{
    for (int i = 0; i + 4 <= s->count; i += 4) {
        char text[64] = "";
        uint64_t value = 0;

        ASSERT_INT(pread(s->fds[i], text, sizeof text, 0), 8);
        ASSERT_STR(text, "foreign");
        ASSERT_INT(recv(s->fds[i + 2], text, sizeof text, 0), 3);
        ASSERT_MEM(text, "one", 3);
        ASSERT_INT(recv(s->fds[i + 1], text, sizeof text, 0), 3);
        ASSERT_MEM(text, "two", 3);
        ASSERT(recv(s->fds[i + 1], text, sizeof text, 0) < 0 && errno == EAGAIN);
        ASSERT(recv(s->fds[i + 2], text, sizeof text, 0) < 0 && errno == EAGAIN);
        ASSERT(read(s->fds[i + 3], &value, sizeof value) < 0 && errno == EAGAIN);
    }
}

static void close_strangers(strangers *s)
{
    for (int i = 0; i < s->count; i++)
        ASSERT_INT(close(s->fds[i]), 0);
}

/* What may come of a call after closefrom: its result, or that the descriptors are gone. */
static bool works_or_says_why(int rc)
{
    if (rc == 0)
        return true;
    if (rc != PYCREW_ESTART)
        GIVES(rc, PYCREW_EDIED); /* it ran in a worker that had to go */
    else
        CONTAINS(pycrew_last_error()->message, "descriptors");
    return false;
}

TEST(a_crew_whose_descriptors_were_closed_works_on_or_says_so)
{
    pycrew_crew *crew = open_crew(2);
    int sum;

    works(crew);
    closefrom(3);
    for (int i = 0; i < 100; i++)
        works_or_says_why(pycrew_run(crew, "api_ops:add", "ii>i", i, 1, &sum));
    pycrew_close(crew); /* and does not hang */
}

TEST(a_deadline_after_the_descriptors_were_closed_ends_its_call)
{
    pycrew_crew *crew = open_crew(2);
    int rc;

    works(crew);
    closefrom(3);
    rc = pycrew_run_within(crew, 20 * MS, "api_ops:sleep", "d", 1000.0);
    if (rc != -ETIMEDOUT)
        ASSERT(!works_or_says_why(rc));
    pycrew_close(crew);
}

TEST(a_death_after_the_descriptors_were_closed_ends_all_calls)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_call *calls[10];

    works(crew);
    for (int i = 0; i < 10; i++)
        calls[i] = i == 5 ? SUBMIT(crew, "api_ops:die_by", "s", "kill")
                          : SUBMIT(crew, "api_ops:sleep", "d", 0.02);
    closefrom(3);
    for (int i = 0; i < 10; i++) {
        works_or_says_why(pycrew_wait(calls[i], BOUND));
        pycrew_release(calls[i]);
    }
    pycrew_close(crew);
}

TEST(a_close_after_the_descriptors_were_closed_ends_calls_and_processes)
{
    pycrew_crew *crew = open_crew(2);
    int zygote = find_zygote(), workers[2];

    AWAIT(find_workers(workers, 2) == 2);
    (void)SUBMIT(crew, "api_ops:swallow", "");
    closefrom(3);
    pycrew_close(crew);
    AWAIT(kill(zygote, 0) < 0 && kill(workers[0], 0) < 0 && kill(workers[1], 0) < 0);
}

/* With the host's own under the numbers that were the crew's. */
static int note_host_call(void *data, pycrew_host_call *call)
{
    (void)call;
    atomic_fetch_add((_Atomic int *)data, 1);
    return 0;
}

TEST(the_thread_of_exported_functions_ends_though_the_descriptors_were_closed)
{
    pycrew_crew *crew = open_crew(1);
    _Atomic int calls = 0;

    OK(pycrew_export(crew, "note", note_host_call, &calls));
    OK(pycrew_run(crew, "host_ops:ask", "s>", "note"));
    ASSERT_INT(atomic_load(&calls), 1);
    closefrom(3);
    pycrew_close(crew);
}

TEST(descriptors_that_took_the_place_of_the_crews_are_not_touched)
{
    pycrew_crew *crew = open_crew(2);
    pycrew_queue *queue, *another;
    pycrew_call *call, *reaped;
    strangers s;
    int rc;

    OK(pycrew_queue_open(crew, &queue));
    works(crew);
    closefrom(3);
    open_strangers(&s);
    for (int i = 0; i < 10; i++)
        works_or_says_why(pycrew_run(crew, "api_ops:say", "ss>", "text", "stdout"));
    if (pycrew_prepare(crew, function_of(crew, "api_ops:nothing"), BOUND, &call) == 0) {
        OK(pycrew_set_queue(call, queue));
        if (pycrew_submit(call) == 0)
            pycrew_wait(call, BOUND);
        pycrew_release(call);
    }
    rc = pycrew_queue_reap(queue, &reaped, 1, 10 * MS);
    ASSERT(rc < 0);
    CONTAINS(pycrew_last_error()->message, "descriptor");
    OK(pycrew_queue_wake(queue));
    pycrew_queue_close(queue);
    if ((rc = pycrew_queue_open(crew, &another)) != 0)
        ASSERT(!works_or_says_why(rc));
    rc = pycrew_run_within(crew, 20 * MS, "api_ops:swallow", ">");
    if (rc != -ETIMEDOUT)
        ASSERT(!works_or_says_why(rc));
    if (rc != PYCREW_ESTART) /* a death is where the supervisor would write */
        works_or_says_why(pycrew_run(crew, "api_ops:die_by", "s>", "kill"));
    AWAIT(pycrew_run(crew, "api_ops:nothing", ">") == PYCREW_ESTART);
    works_or_says_why(PYCREW_ESTART);
    are_untouched(&s);
    pycrew_close(crew);
    for (int i = 0; i < s.count; i++)
        ASSERT(fcntl(s.fds[i], F_GETFD) >= 0); /* closed by nobody */
    close_strangers(&s);
}

static pycrew_crew *daemons;

static void be_a_daemon(void)
{
    strangers s;

    closefrom(3);
    open_strangers(&s);
    FORKED(pycrew_run(daemons, "api_ops:nothing", ">"));
    pycrew_close(daemons);
    are_untouched(&s);
    close_strangers(&s);
}

TEST(a_fork_that_closed_its_descriptors_keeps_those_it_opened_then)
{
    daemons = open_crew(2);
    in_a_child(be_a_daemon);
    works(daemons);
    pycrew_close(daemons);
}

static void *work_until_it_ends(void *data)
{
    busy *b = data;
    int sum, rc;

    do {
        rc = pycrew_run(b->crew, "api_ops:add", "ii>i", 1, 2, &sum);
        works_or_says_why(rc);
        if (rc == 0)
            ASSERT_INT(sum, 3);
        works_or_says_why(pycrew_run(b->crew, "api_ops:die_by", "s>", "kill"));
        atomic_fetch_add(&b->done, 1);
    } while (!atomic_load(&b->stop) && rc != PYCREW_ESTART);
    return NULL;
}

TEST(descriptors_closed_amid_work_and_deaths_hang_nobody)
{
    enum { THREADS = 4 };

    for (int round = 0; round < 5; round++) {
        busy b = {.crew = open_crew(2)};
        pthread_t threads[THREADS];

        for (int i = 0; i < THREADS; i++)
            threads[i] = start_thread(work_until_it_ends, &b);
        AWAIT(atomic_load(&b.done) > 2);
        closefrom(3);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL); /* at a death the supervisor sees it */
        pycrew_close(b.crew);
    }
}

/* ---- environment and user ---------------------------------------------------------------------
 */

static void keep_only(const char *const *names)
{
    char *kept[4] = {NULL};

    for (int i = 0; names[i] != NULL; i++)
        kept[i] = getenv(names[i]) ? strdup(getenv(names[i])) : NULL;
    clearenv();
    for (int i = 0; names[i] != NULL; i++) {
        if (kept[i] != NULL)
            setenv(names[i], kept[i], 1);
        free(kept[i]);
    }
}

TEST(a_host_without_a_home_has_a_working_crew)
{
    pycrew_crew *crew;

    unsetenv("HOME");
    crew = open_crew(1);
    works(crew);
    pycrew_close(crew);
}

TEST(a_host_with_an_empty_environment_has_a_working_crew)
{
    /* where this build tree's worker and package are, else nothing */
    static const char *const names[] = {"PYCREW_WORKER", "PYCREW_PYTHON_PATH", NULL};
    pycrew_options options = test_options(1);
    char *text = NULL;
    pycrew_crew *crew;

    keep_only(names);
    crew = open_with(&options);
    survives_deaths(crew);
    OK(pycrew_run(crew, "api_ops:echo", "s>s", "gr\xc3\xbc\xc3\x9f dich", &text));
    ASSERT_STR(text, "gr\xc3\xbc\xc3\x9f dich");
    free(text);
    pycrew_close(crew);
}

static void as_nobody(void)
{
    pycrew_crew *crew;
    pycrew_queue *queue;
    pycrew_call *call, *reaped = NULL;

    become(65534);
    crew = open_crew(2);
    survives_deaths(crew);
    GIVES(pycrew_run_within(crew, 10 * MS, "api_ops:sleep", "d", 1000.0), -ETIMEDOUT);
    GIVES(pycrew_run(crew, "api_ops:die_by", "s>", "segfault"), PYCREW_EDIED);
    CONTAINS(pycrew_last_error()->traceback, "in die_by");
    OK(pycrew_queue_open(crew, &queue));
    call = prepare(crew, "api_ops:nothing");
    OK(pycrew_set_queue(call, queue));
    OK(pycrew_submit(call));
    GIVES(pycrew_queue_reap(queue, &reaped, 1, BOUND), 1);
    ASSERT(reaped == call);
    pycrew_release(call);
    pycrew_close(crew);
}

TEST(a_host_that_gave_up_being_root_has_a_working_crew)
{
    if (geteuid() != 0)
        SKIP("the whole test runs as user %u already", (unsigned)geteuid());
    in_a_child(as_nobody);
}

/* ---- threads ----------------------------------------------------------------------------------
 */

static void *open_in_thread(void *data)
{
    pycrew_crew **crew = data;

    *crew = open_crew(2);
    return NULL;
}

TEST(a_crew_outlives_the_thread_that_opened_it)
{
    pycrew_crew *crew = NULL;
    int before[2], after[2];

    pthread_join(start_thread(open_in_thread, &crew), NULL);
    AWAIT(find_workers(before, 2) == 2);
    AWAIT(tap_count_threads() <= 2); /* it is gone: this one, and the crew's */
    all_work_together(crew, 2);
    ASSERT_INT(find_workers(after, 2), 2); /* the same processes still */
    ASSERT(before[0] == after[0] || before[0] == after[1]);
    ASSERT(before[1] == after[0] || before[1] == after[1]);
    survives_deaths(crew);
    pycrew_close(crew);
}

static void *outlive_main_thread(void *data)
{
    pycrew_crew *crew = data;
    pycrew_queue *queue;
    pycrew_call *call, *reaped = NULL;
    struct tap_process self;

    AWAIT(tap_read_process(getpid(), &self) && self.state == 'Z');
    survives_deaths(crew);
    GIVES(pycrew_run_within(crew, 10 * MS, "api_ops:sleep", "d", 1000.0), -ETIMEDOUT);
    OK(pycrew_queue_open(crew, &queue));
    call = prepare(crew, "api_ops:nothing");
    OK(pycrew_set_queue(call, queue));
    OK(pycrew_submit(call));
    GIVES(pycrew_queue_reap(queue, &reaped, 1, BOUND), 1);
    pycrew_release(call);
    pycrew_close(crew);
    _exit(0);
}

static void end_main_thread(void)
{
    start_thread(outlive_main_thread, open_crew(2));
    pthread_exit(NULL);
}

TEST(a_crew_outlives_the_main_thread)
{
    in_a_child(end_main_thread);
}

static void *open_and_close(void *data)
{
    for (int i = 0; i < 6; i++) {
        pycrew_crew *crew = open_crew(1 + (unsigned)i % 2);

        if (i % 3 != 0)
            works(crew);
        pycrew_close(crew);
    }
    return data;
}

static int count_maps(void)
{
    static char text[1 << 20];
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), lines = 0;
    ssize_t got;

    while ((got = read(fd, text, sizeof text)) > 0)
        for (ssize_t i = 0; i < got; i++)
            lines += text[i] == '\n';
    close(fd);
    return lines;
}

TEST(many_threads_open_and_close_crews_and_nothing_stays)
{
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    int descriptors, maps = 0;

    descriptors = count_entries("/proc/self/fd", "");
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < THREADS; i++)
            threads[i] = start_thread(open_and_close, NULL);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        ASSERT_INT(count_entries("/proc/self/fd", ""), descriptors);
        ASSERT_INT(tap_count_children(getpid(), 0, true, NULL, 0), 0);
        if (round == 0)
            maps = count_maps(); /* with the arenas and stacks that threads leave */
    }
    if (!SANITIZED) /* which keep what was freed */
        ASSERT(count_maps() < maps + 4 * THREADS);
}

/* ---- the host's death -------------------------------------------------------------------------
 */

#define MARK "PYCREW_TEST_HOST="

/* Whether a process lives whose environment has this entry: those of a host, whatever parent they
 * have by now. */
static bool any_marked(const char *mark)
{
    static char text[65536];
    DIR *directory = opendir("/proc");
    struct dirent *entry;
    bool found = false;

    while (!found && (entry = readdir(directory)) != NULL) {
        int pid = tap_number(entry->d_name), fd;
        char path[64];
        ssize_t size;

        if (pid <= 0 || pid == getpid())
            continue;
        snprintf(path, sizeof path, "/proc/%d/environ", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        size = fd < 0 ? 0 : read(fd, text, sizeof text);
        found = size > 0 && memmem(text, (size_t)size, mark, strlen(mark)) != NULL;
        if (fd >= 0)
            close(fd);
    }
    closedir(directory);
    return found;
}

static void *stay_in_close(void *data)
{
    pycrew_crew *crew = data;

    pycrew_run(crew, "api_ops:swallow", ">");
    return NULL;
}

/* Opens, works and closes for ever; the close has workers to kill. */
static _Noreturn void be_a_host(void)
{
    pycrew_options options = test_options(3);

    options.grace_ns = 5 * MS;
    for (;;) {
        pycrew_crew *crew = open_with(&options);
        pthread_t threads[2];

        for (int i = 0; i < 2; i++)
            threads[i] = start_thread(stay_in_close, crew);
        for (int i = 0; i < 20; i++)
            pycrew_run_within(crew, 10 * MS, "api_ops:sleep", "d", 0.0005);
        pycrew_close(crew);
        for (int i = 0; i < 2; i++)
            pthread_join(threads[i], NULL);
    }
}

static void kill_a_host_after(int64_t delay)
{
    char mark[64], names[64];
    int64_t died;
    pid_t host = fork();

    ASSERT(host >= 0);
    if (host == 0) {
        snprintf(mark, sizeof mark, "%d", (int)getpid());
        setenv("PYCREW_TEST_HOST", mark, 1);
        be_a_host();
    }
    pause_ns(delay); /* not to wait for anything: the moment of death is what varies */
    kill(host, SIGKILL);
    ASSERT_INT(waitpid(host, NULL, 0), host);
    died = now_ns();
    snprintf(mark, sizeof mark, MARK "%d", (int)host);
    while (any_marked(mark))
        if (now_ns() - died > (int64_t)((double)SECOND * tap_scale()))
            tap_fail("1 s after the death of a host that lived %lld us it has processes",
                     (long long)(delay / US));
    snprintf(names, sizeof names, "pycrew.%d.", (int)host);
    ASSERT_INT(count_entries("/dev/shm", names), 0);
}

TEST(a_host_killed_at_any_moment_leaves_nothing_within_a_second)
{
    unsigned random = (unsigned)now_ns();

    DIAG("seed %u", random);
    for (int i = 0; i < 40; i++) {
        random = random * 1664525 + 1013904223;
        kill_a_host_after(random / 65536 % 150 * MS + random % 1000 * US);
    }
}

TAP_MAIN
