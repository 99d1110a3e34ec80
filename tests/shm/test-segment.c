/* What lib/shm/segment.h promises: one layout for all, real memory behind it, nothing left behind. */
#include "tests/shm/fixture.h"

#include <setjmp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "lib/shm/control.h"

enum { PAGE = 4096 };

/* Instead of the C library's: to die between making the name and unlinking it. */
static bool dies_before_unlink;

int shm_unlink(const char *name)
{
    char path[300];
    if (dies_before_unlink)
        kill(getpid(), SIGKILL);
    snprintf(path, sizeof path, "/dev/shm%s", name);
    return unlink(path);
}

/* Instead of the C library's: a signal may interrupt it, whether this kernel lets it or not. */
static int interruptions;

int posix_fallocate(int fd, off_t offset, off_t size)
{
    if (interruptions-- > 0)
        return EINTR;
    return fallocate(fd, 0, offset, size) < 0 ? errno : 0;
}

/* ---- layout ---- */

static const pc_config configs[] = {
    {.slots = 64, .workers = 1, .queues = 1, .spans = 1},
    {.slots = 64, .workers = 3, .queues = 2, .spans = 33},
    {.slots = 256, .workers = 65, .queues = 64, .spans = 7},
    {.slots = 4096, .workers = PC_WORKERS_MAX, .queues = 5, .spans = 1000},
};
enum { CONFIGS = sizeof configs / sizeof *configs };

typedef struct part {
    const char *name;
    uint8_t *start;
    size_t size;
} part;

enum { PARTS = 7 };

static void parts_of(const pc_segment *s, part parts[PARTS])
{
    const pc_config *c = &s->config;
    parts[0] = (part){"header", (uint8_t *)s->header, sizeof *s->header};
    parts[1] = (part){"workers", (uint8_t *)s->workers, c->workers * sizeof s->workers[0]};
    parts[2] = (part){"queues", s->queues, c->queues * s->queue_stride};
    parts[3] = (part){"ring", (uint8_t *)s->ring, c->slots * sizeof s->ring[0]};
    parts[4] = (part){"owners", (uint8_t *)s->span_owners, c->spans * sizeof s->span_owners[0]};
    parts[5] = (part){"slots", (uint8_t *)s->slots, c->slots * sizeof s->slots[0]};
    parts[6] = (part){"spans", s->base + s->spans_offset, c->spans * PC_SPAN_SIZE};
}

TEST(the_parts_follow_each_other_without_overlap_on_lines_of_their_own)
{
    for (size_t i = 0; i < CONFIGS; i++) {
        pc_segment segment = segment_of(&configs[i]);
        part parts[PARTS];
        parts_of(&segment, parts);
        for (size_t k = 0; k < PARTS; k++) {
            uint8_t *next = k + 1 < PARTS ? parts[k + 1].start : segment.base + segment.size;
            ASSERT((uintptr_t)parts[k].start % PC_CACHE_LINE == 0);
            ASSERT(parts[k].start + parts[k].size <= next);
        }
        ASSERT(parts[0].start == segment.base);
        ASSERT((uintptr_t)segment.slots % PAGE == 0 && segment.spans_offset % PAGE == 0);
        ASSERT_INT(segment.spans_offset, pc_segment_fixed_size(&configs[i]));
        ASSERT_INT(segment.size, segment.spans_offset + configs[i].spans * PC_SPAN_SIZE);
        pc_segment_unmap(&segment);
    }
}

TEST(a_queue_has_a_bit_for_each_slot)
{
    for (size_t i = 0; i < CONFIGS; i++) {
        pc_segment segment = segment_of(&configs[i]);
        for (unsigned queue = 0; queue < configs[i].queues; queue++) {
            pc_queue_record *record = pc_segment_queue(&segment, queue);
            uint8_t *end = (uint8_t *)&record->bits[configs[i].slots / 64];
            ASSERT(end <= segment.queues + (queue + 1) * segment.queue_stride);
            ASSERT((uint8_t *)record == segment.queues + queue * segment.queue_stride);
        }
        pc_segment_unmap(&segment);
    }
}

TEST(a_new_segment_is_zero_but_for_what_it_says_of_itself)
{
    pc_segment segment = segment_new(64, 3, 2);
    pc_header expected;
    memset(&expected, 0, sizeof expected);
    expected.layout_hash = PC_LAYOUT_HASH;
    strcpy(expected.version, PACKAGE_VERSION);
    expected.config = segment.config;
    ASSERT_MEM(segment.base, &expected, sizeof expected);
    for (size_t i = sizeof expected; i < segment.size; i++)
        if (segment.base[i] != 0)
            tap_fail("byte %zu is %d", i, segment.base[i]);
    pc_segment_unmap(&segment);
}

TEST(only_the_bytes_from_the_first_span_to_the_end_are_held)
{
    pc_segment s = segment_new(64, 1, 2);
    ASSERT(pc_segment_holds(&s, s.spans_offset, 2 * PC_SPAN_SIZE));
    ASSERT(pc_segment_holds(&s, s.size - 1, 1));
    ASSERT(pc_segment_holds(&s, s.size, 0));
    ASSERT(!pc_segment_holds(&s, s.spans_offset - 1, 1));
    ASSERT(!pc_segment_holds(&s, s.spans_offset, 2 * PC_SPAN_SIZE + 1));
    ASSERT(!pc_segment_holds(&s, s.size, 1));
    ASSERT(!pc_segment_holds(&s, s.spans_offset + 1, UINT64_MAX)); /* the sum wraps */
    ASSERT(!pc_segment_holds(&s, UINT64_MAX, 2));
    ASSERT(!pc_segment_holds(&s, 0, 1));
    pc_segment_unmap(&s);
}

/* ---- two processes ---- */

/* Has nothing of the host's mapping: it was forked before that was made. */
static void map_and_mark(void *argument)
{
    int *sockets = argument, fds[PC_MESSAGE_FDS];
    static char text[PC_MESSAGE_TEXT_MAX + 1];
    pc_message message;
    pc_segment segment;
    part parts[PARTS];
    close(sockets[0]);
    ASSERT_INT(pc_control_receive(sockets[1], &message, text, fds, 0), 1);
    ASSERT_INT(pc_segment_map(&segment, fds[0]), 0);
    ASSERT_INT(segment.fd, fds[0]);
    parts_of(&segment, parts);
    for (size_t k = 1; k < PARTS; k++)
        memset(parts[k].start, (int)(k + 10), parts[k].size);
    atomic_store(&segment.header->closing, segment.config.spans);
    pc_segment_unmap(&segment);
}

TEST(another_process_finds_every_part_in_the_same_place)
{
    for (size_t i = 0; i < CONFIGS; i++) {
        int sockets[2];
        pc_config config = configs[i];
        config.spans = config.spans % 40; /* every byte is written and read */
        ASSERT_INT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
        pid_t pid = process_start(map_and_mark, sockets);
        close(sockets[1]);
        pc_segment segment = segment_of(&config);
        part parts[PARTS];
        pc_message message = {.kind = PC_MESSAGE_FORK};
        ASSERT_INT(pc_control_send(sockets[0], &message, NULL, 0, &segment.fd, 1), 0);
        process_end(pid);
        parts_of(&segment, parts);
        for (size_t k = 1; k < PARTS; k++)
            for (size_t at = 0; at < parts[k].size; at++)
                if (parts[k].start[at] != k + 10)
                    tap_fail("byte %zu of the %s is %d", at, parts[k].name, parts[k].start[at]);
        ASSERT_INT(atomic_load(&segment.header->closing), config.spans);
        pc_segment_unmap(&segment);
        close(sockets[0]);
    }
}

static void expect_refused(int fd)
{
    pc_segment segment = {.fd = 1234};
    ASSERT_INT(pc_segment_map(&segment, fd), -EPROTO);
    ASSERT(segment.base == NULL && segment.fd == 1234);
    ASSERT(fcntl(fd, F_GETFD) >= 0);
}

TEST(another_layout_is_refused)
{
    pc_segment segment = segment_new(64, 1, 2);
    for (int bit = 0; bit < 64; bit++) {
        segment.header->layout_hash = PC_LAYOUT_HASH ^ UINT64_C(1) << bit;
        expect_refused(segment.fd);
    }
    pc_segment_unmap(&segment);
}

TEST(layout_and_version_stand_where_an_onlooker_of_any_version_looks)
{
    pc_segment segment = segment_new(64, 1, 2);
    uint64_t layout;

    memcpy(&layout, segment.base, sizeof layout);
    ASSERT(layout == PC_LAYOUT_HASH);
    ASSERT(strcmp((const char *)segment.base + 8, PACKAGE_VERSION) == 0);
    memset(segment.base + 8, 'x', PC_VERSION_SIZE);
    pc_segment_restore(&segment);
    ASSERT(strcmp((const char *)segment.base + 8, PACKAGE_VERSION) == 0);
    pc_segment_unmap(&segment);
}

TEST(a_copy_of_the_fixed_part_has_the_same_parts)
{
    for (size_t i = 0; i < CONFIGS; i++) {
        pc_segment segment = segment_of(&configs[i]), copy;
        void *memory = malloc(segment.spans_offset);

        ASSERT(memory != NULL);
        memcpy(memory, segment.base, segment.spans_offset);
        pc_segment_at_copy(&copy, &configs[i], memory);
        ASSERT_INT(copy.size, segment.size);
        ASSERT_INT(copy.spans_offset, segment.spans_offset);
        ASSERT_INT((uint8_t *)copy.slots - copy.base, (uint8_t *)segment.slots - segment.base);
        ASSERT_INT((uint8_t *)copy.workers - copy.base, (uint8_t *)segment.workers - segment.base);
        ASSERT(pc_segment_intact(&copy));
        free(memory);
        pc_segment_unmap(&segment);
    }
}

TEST(counts_that_no_host_chooses_are_unlikely)
{
    const pc_config good = {.slots = 64, .workers = 3, .queues = 2, .spans = 33};
    const uint64_t size = pc_segment_fixed_size(&good) + 33 * PC_SPAN_SIZE;
    const pc_config bad[] = {
        {.slots = 65, .workers = 3, .queues = 2, .spans = 33},
        {.slots = 0, .workers = 3, .queues = 2, .spans = 33},
        {.slots = UINT32_C(1) << 31, .workers = 3, .queues = 2, .spans = 33},
        {.slots = 64, .workers = 0, .queues = 2, .spans = 33},
        {.slots = 64, .workers = PC_WORKERS_MAX + 1, .queues = 2, .spans = 33},
        {.slots = 64, .workers = 3, .queues = 0, .spans = 33},
        {.slots = 64, .workers = 3, .queues = UINT32_MAX, .spans = 33},
    };

    ASSERT(pc_segment_is_likely(&good, size));
    ASSERT(!pc_segment_is_likely(&good, size + 1));
    ASSERT(!pc_segment_is_likely(&good, 0));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        ASSERT(!pc_segment_is_likely(
            &bad[i], pc_segment_fixed_size(&bad[i]) + bad[i].spans * PC_SPAN_SIZE));
}

TEST(a_size_that_does_not_follow_from_the_counts_is_refused)
{
    pc_segment segment = segment_new(64, 1, 2);
    pc_config *config = &segment.header->config;
    config->spans++;
    expect_refused(segment.fd);
    config->spans -= 2;
    expect_refused(segment.fd);
    config->spans++;
    config->slots *= 128;
    expect_refused(segment.fd);
    config->slots /= 128;
    ASSERT_INT(ftruncate(segment.fd, (off_t)segment.size - PAGE), 0);
    expect_refused(segment.fd);
    ASSERT_INT(ftruncate(segment.fd, sizeof(pc_header) - 1), 0);
    expect_refused(segment.fd);
    ASSERT_INT(ftruncate(segment.fd, 0), 0);
    expect_refused(segment.fd);
    pc_segment_unmap(&segment);
}

TEST(what_is_no_file_is_refused)
{
    int pipes[2];
    ASSERT_INT(pipe2(pipes, O_CLOEXEC), 0);
    expect_refused(pipes[0]);
    close(pipes[0]);
    close(pipes[1]);
}

/* ---- the guard page ---- */

static sigjmp_buf after_fault;
static void *volatile fault_address;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    fault_address = info->si_addr;
    siglongjmp(after_fault, number);
}

/* The signal that a touch of this byte is; 0: none. */
static int signal_of_touch(volatile uint8_t *byte, bool write)
{
    struct sigaction action = {.sa_flags = SA_SIGINFO};
    action.sa_sigaction = on_fault;
    ASSERT_INT(sigaction(SIGSEGV, &action, NULL), 0);
    ASSERT_INT(sigaction(SIGBUS, &action, NULL), 0);
    int number = sigsetjmp(after_fault, 1);
    if (number == 0) {
        if (write)
            *byte = 1;
        else
            (void)*byte;
    }
    return number;
}

static void expect_guard(const pc_segment *segment)
{
    uint8_t *end = segment->base + segment->size;
    /* The host can read it: see the next test. */
    for (int write = segment->host ? 1 : 0; write < 2; write++) {
        ASSERT_INT(signal_of_touch(end - 1, write), 0);
        ASSERT_INT(signal_of_touch(end, write), SIGSEGV);
        ASSERT(fault_address == end);
        ASSERT_INT(signal_of_touch(end + PAGE - 1, write), SIGSEGV);
    }
}

TEST(a_c_string_that_was_written_over_ends_behind_the_end_in_the_host)
{
    pc_segment host = segment_new(64, 2, 3);
    uint8_t *end = host.base + host.size;
    memset(end - 100, 'x', 100);
    ASSERT_INT(strlen((char *)end - 100), 100);
    pc_segment_unmap(&host);
}

TEST(behind_the_end_is_a_page_that_faults_on_both_sides)
{
    if (tap_valgrind())
        SKIP("valgrind reports each touch of the guard as an error, which is what is to be seen");
    pc_segment host = segment_new(64, 2, 3), worker;
    ASSERT_INT(pc_segment_map(&worker, dup(host.fd)), 0);
    expect_guard(&host);
    expect_guard(&worker);
    pc_segment_unmap(&host);
    expect_guard(&worker);
    pc_segment_unmap(&worker);
}

static unsigned mapped_pages(const uint8_t *start, size_t size)
{
    unsigned mapped = 0;
    for (size_t at = 0; at < size; at += PAGE)
        mapped += mincore((void *)(uintptr_t)(start + at), PAGE, &(unsigned char){0}) == 0;
    return mapped;
}

TEST(unmap_takes_all_of_it_with_the_guard_and_may_be_called_again)
{
    pc_segment segment = segment_new(64, 2, 3);
    uint8_t *base = segment.base;
    size_t size = segment.size + PAGE;
    ASSERT_INT(mapped_pages(base, size), size / PAGE);
    pc_segment_unmap(&segment);
    ASSERT_INT(mapped_pages(base, size), 0);
    ASSERT(segment.base == NULL && segment.fd == -1);
    pc_segment_unmap(&segment);
}

/* ---- names in /dev/shm ---- */

static bool name_exists(const char *name)
{
    char path[400];
    struct stat status;
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    return stat(path, &status) == 0;
}

static void name_make(const char *name)
{
    char path[400];
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        SKIP("%s cannot be made: %s", path, strerror(errno));
    close(fd);
}

static void name_remove(const char *name)
{
    char path[400];
    snprintf(path, sizeof path, "/dev/shm/%s", name);
    unlink(path);
}

/* A name of this process's in /dev/shm, as pc_segment_create makes them. */
static bool find_name(pid_t pid, char *name, size_t capacity)
{
    char prefix[64];
    DIR *directory = opendir("/dev/shm");
    bool found = false;
    snprintf(prefix, sizeof prefix, "pycrew.%ld.", (long)pid);
    for (struct dirent *entry; !found && directory && (entry = readdir(directory));) {
        found = strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
        snprintf(name, capacity, "%s", entry->d_name);
    }
    if (directory)
        closedir(directory);
    return found;
}

TEST(a_segment_has_no_name)
{
    pc_segment segment = segment_new(64, 1, 1);
    char name[300];
    struct stat status;
    ASSERT(!find_name(getpid(), name, sizeof name));
    ASSERT_INT(fstat(segment.fd, &status), 0);
    ASSERT_INT(status.st_nlink, 0);
    ASSERT_INT(fcntl(segment.fd, F_GETFD), FD_CLOEXEC);
    pc_segment_unmap(&segment);
}

static void create_and_die(void *argument)
{
    (void)argument;
    dies_before_unlink = true;
    segment_new(64, 1, 1);
    _exit(1);
}

TEST(a_name_left_by_a_death_is_removed_once_its_owner_is_gone)
{
    char name[300];
    int status;
    pid_t pid = process_start(create_and_die, NULL);
    ASSERT_INT(waitid(P_PID, (id_t)pid, &(siginfo_t){0}, WEXITED | WNOWAIT), 0);
    if (!find_name(pid, name, sizeof name))
        SKIP("/dev/shm takes no name here");
    pc_segment_remove_leftovers(); /* not yet waited for: its PID cannot be another's */
    ASSERT(name_exists(name));
    ASSERT_INT(waitpid(pid, &status, 0), pid);
    ASSERT(WIFSIGNALED(status));
    pc_segment_remove_leftovers();
    ASSERT(!name_exists(name));
}

static void do_nothing(void *argument)
{
    (void)argument;
}

static pid_t dead_pid(void)
{
    pid_t pid = process_start(do_nothing, NULL);
    process_end(pid);
    return pid;
}

/* Field 22 of /proc/PID/stat. */
static unsigned long long own_start_time(void)
{
    char text[1024], *at;
    tap_read_file("/proc/self/stat", text, sizeof text);
    at = strrchr(text, ')') + 1;
    for (int field = 3; field < 22; field++)
        at = strchr(at + 1, ' ');
    return strtoull(at, NULL, 10);
}

TEST(a_name_whose_owner_lives_stays_and_one_of_an_earlier_process_with_its_pid_goes)
{
    char own[100], earlier[100], dead[100];
    unsigned long long started = own_start_time();
    snprintf(own, sizeof own, "pycrew.%d.%llu.7", getpid(), started);
    snprintf(earlier, sizeof earlier, "pycrew.%d.%llu.7", getpid(), started - 1);
    snprintf(dead, sizeof dead, "pycrew.%d.%llu.7", dead_pid(), started);
    name_make(own);
    name_make(earlier);
    name_make(dead);
    pc_segment_remove_leftovers();
    ASSERT(!name_exists(earlier));
    ASSERT(!name_exists(dead));
    ASSERT(name_exists(own));
    name_remove(own);
}

TEST(a_name_that_only_looks_like_ours_is_left_alone)
{
    static const char *const forms[] = {
        "pycrew.%d",       "pycrew.%d.5",         "pycrew.%d.5.",       "pycrew.%d.5.6.keep",
        "pycrew.%d.5.6x",  "pycrew.%d.5 .6",      "pycrew.-%d.5.6",     "xpycrew.%d.5.6",
        "pycrew%d.5.6",    "pycrew.%d.five.6",    "pycrew. %d.5.6",     "pycrew.%d.5.six",
        "pycrew.%d-5-6",   "pycrew.%d.5.6.7",     "pycrew.0%d.5.6",     "pycrew.%d.+5.6",
    };
    int dead = dead_pid();
    char name[100];
    unsigned gone = 0;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        snprintf(name, sizeof name, forms[i], dead);
        name_make(name);
    }
    pc_segment_remove_leftovers();
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        snprintf(name, sizeof name, forms[i], dead);
        if (!name_exists(name)) {
            DIAG("%s was removed", name);
            gone++;
        }
        name_remove(name);
    }
    ASSERT_INT(gone, 0);
}

/* ---- where there is no room ---- */

static const char *memory_of(const pc_segment *segment)
{
    static char target[300];
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", segment->fd);
    ssize_t size = readlink(path, target, sizeof target - 1);
    target[size > 0 ? size : 0] = '\0';
    return strncmp(target, "/memfd:pycrew", 13) == 0     ? "memfd"
           : strncmp(target, "/dev/shm/pycrew.", 16) == 0 ? "/dev/shm"
                                                          : target;
}

static void expect_memory(const char *what, bool prefer_memfd)
{
    pc_config config = config_of(4096, 2, 4);
    pc_segment segment;
    ASSERT_INT(pc_segment_create(&segment, &config, prefer_memfd), 0);
    ASSERT_STR(memory_of(&segment), what);
    ASSERT_INT(fcntl(segment.fd, F_GETFD), FD_CLOEXEC);
    memset(segment.base, 1, segment.size);
    pc_segment_unmap(&segment);
}

TEST(a_memfd_is_taken_if_it_is_preferred)
{
    expect_memory("memfd", true);
}

TEST(where_dev_shm_is_too_small_a_memfd_takes_its_place)
{
    own_mounts();
    mount_tmpfs("/dev/shm", "size=32m");
    expect_memory("/dev/shm", false);
    mount_tmpfs("/dev/shm", "size=64k");
    expect_memory("memfd", false);
}

TEST(where_dev_shm_cannot_be_written_a_memfd_takes_its_place)
{
    own_mounts();
    mount_tmpfs("/dev/shm", "ro");
    expect_memory("memfd", false);
}

TEST(where_dev_shm_is_missing_a_memfd_takes_its_place)
{
    own_mounts();
    mount_tmpfs("/dev", "size=64k");
    pc_segment_remove_leftovers(); /* nothing to look at */
    expect_memory("memfd", false);
}

static uint64_t real_bytes(const pc_segment *segment)
{
    struct stat status;
    ASSERT_INT(fstat(segment->fd, &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

TEST(the_fixed_part_is_real_memory_and_the_spans_are_not_yet)
{
    for (int memfd = 0; memfd < 2; memfd++) {
        pc_config config = config_of(4096, 16, 500);
        pc_segment segment;
        ASSERT_INT(pc_segment_create(&segment, &config, memfd), 0);
        ASSERT_INT(real_bytes(&segment), pc_segment_fixed_size(&config));
        pc_segment_unmap(&segment);
    }
}

TEST(the_fixed_part_can_be_written_when_dev_shm_has_become_full)
{
    own_mounts();
    mount_tmpfs("/dev/shm", "size=3m");
    pc_segment segment = segment_new(4096, 2, 64);
    ASSERT_STR(memory_of(&segment), "/dev/shm");
    int fd = open("/dev/shm/filler", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    static char block[PAGE];
    while (write(fd, block, sizeof block) > 0)
        continue;
    ASSERT_INT(errno, ENOSPC);
    for (size_t at = 0; at < segment.spans_offset; at += PAGE)
        ASSERT_INT(signal_of_touch(segment.base + at, true), 0);
    ASSERT_INT(signal_of_touch(segment.base + segment.spans_offset, true), SIGBUS);
    close(fd);
    pc_segment_unmap(&segment);
}

TEST(a_signal_while_it_is_made_does_no_harm)
{
    interruptions = 5;
    pc_segment segment = segment_new(4096, 2, 4);
    ASSERT_INT(real_bytes(&segment), pc_segment_fixed_size(&segment.config));
    pc_segment_unmap(&segment);
}

TEST(a_limit_on_the_size_of_files_is_an_error_and_no_signal)
{
    struct rlimit limit = {1 << 20, 1 << 20};
    pc_config config = config_of(64, 1, 4);
    pc_segment segment;
    ASSERT_INT(setrlimit(RLIMIT_FSIZE, &limit), 0);
    for (int memfd = 0; memfd < 2; memfd++)
        ASSERT_INT(pc_segment_create(&segment, &config, memfd), -EFBIG);
}

TEST(a_limit_on_descriptors_is_an_error)
{
    struct rlimit limit;
    pc_config config = config_of(64, 1, 4);
    pc_segment segment;
    int next = dup(0);
    close(next);
    ASSERT_INT(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit none = {(rlim_t)next, limit.rlim_max};
    ASSERT_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
    for (int memfd = 0; memfd < 2; memfd++)
        ASSERT_INT(pc_segment_create(&segment, &config, memfd), -EMFILE);
    ASSERT_INT(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

TEST(no_room_in_the_address_space_is_an_error_that_leaves_nothing)
{
#if defined __SANITIZE_ADDRESS__ || TAP_TSAN
    SKIP("a sanitizer needs the address space itself");
#endif
    pc_config config = config_of(64, 1, 4096);
    pc_segment host = segment_of(&config), segment;
    struct rlimit limit = {(rlim_t)5 << 30, RLIM_INFINITY};
    ASSERT_INT(setrlimit(RLIMIT_AS, &limit), 0);
    for (int memfd = 0; memfd < 2; memfd++)
        ASSERT_INT(pc_segment_create(&segment, &config, memfd), -ENOMEM);
    ASSERT_INT(pc_segment_map(&segment, host.fd), -ENOMEM);
    ASSERT(fcntl(host.fd, F_GETFD) >= 0);
    pc_segment_unmap(&host);
    host = segment_of(&config); /* fits again */
    pc_segment_unmap(&host);
}

TAP_MAIN
