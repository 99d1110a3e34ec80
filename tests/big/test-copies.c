/* No byte is copied where none needs to be: the bytes that memcpy, memmove and memset get are
 * counted, in the host and in the workers (copies.c), and so are those that go through read() and
 * write(). */
#include "tests/big/big.h"

#include "tests/big/copies.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { IS_SANITIZED = 1 };
#else
enum { IS_SANITIZED = 0 };
#endif

#define SIZE (64 * MIB)
#define LEEWAY (64 * KIB) /* for messages, and what Python does beside */
#define FILES_MAX MIB     /* what is read in /proc is in it */

enum { COUNT = SIZE / sizeof(double) };

static copies *counts;

/* ---- counting -------------------------------------------------------------------------------- */

static void map_counts(void)
{
    const char *path = getenv(COPIES_ENV);
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0)
        SKIP(IS_SANITIZED ? "a sanitizer has these functions itself" : "nothing can be preloaded");
    counts = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    ASSERT(counts != MAP_FAILED);
}

/* In bytes, of this process and the only worker. */
static uint64_t through_files(void)
{
    int pids[2] = {getpid(), 0};

    ASSERT_INT(find_workers(pids + 1, 1), 1);
    return (of_process(pids[0], "io", "rchar:") + of_process(pids[0], "io", "wchar:") +
            of_process(pids[1], "io", "rchar:") + of_process(pids[1], "io", "wchar:")) /
           KIB;
}

typedef struct reading {
    uint64_t copied, set, files;
} reading;

static reading read_counts(void)
{
    return (reading){atomic_load(&counts->copied), atomic_load(&counts->set), through_files()};
}

/* So many times SIZE since then, and hardly more. */
static void check_counts(const char *what, reading before, unsigned times, size_t may_be_set)
{
    reading now = read_counts();
    uint64_t copied = now.copied - before.copied, set = now.set - before.set;
    uint64_t files = now.files - before.files;

    DIAG("%s: %" PRIu64 " bytes copied, %" PRIu64 " set, %" PRIu64 " through files", what, copied,
         set, files);
    if (copied < times * SIZE || copied > times * SIZE + LEEWAY)
        tap_fail("%s: %" PRIu64 " bytes were copied, not %zu", what, copied, times * SIZE);
    if (set > may_be_set)
        tap_fail("%s: %" PRIu64 " bytes were set", what, set);
    if (files > FILES_MAX)
        tap_fail("%s: %" PRIu64 " bytes went through files", what, files);
}

static void check_copied(const char *what, reading before, unsigned times)
{
    check_counts(what, before, times, LEEWAY);
}

static pycrew_crew *open_counted(void)
{
    pycrew_crew *crew;
    double sum = 0;
    long long length = 0;
    double two[] = {1, 2};
    pycrew_array array = array_at(two, PYCREW_F64, 2, 0);

    map_counts();
    need_memory(4 * SIZE);
    crew = open_with_memory(1, 4 * SIZE);
    need_numpy(crew);
    OK(pycrew_run(crew, "big_ops:ends", "A>dL", &array, &sum, &length)); /* all is imported */
    ASSERT(sum == 3);
    ASSERT(atomic_load(&counts->processes) >= 2); /* the worker counts, too */
    return crew;
}

static double *numbers_of(pycrew_crew *crew)
{
    double *data = pycrew_alloc(crew, SIZE);

    ASSERT(data != NULL);
    for (size_t i = 0; i < COUNT; i++)
        data[i] = (double)i;
    return data;
}

static void call_with(pycrew_crew *crew, const pycrew_array *array, double expected)
{
    double sum = 0;
    long long length = 0;

    OK(pycrew_run(crew, "big_ops:ends", "A>dL", array, &sum, &length));
    ASSERT(sum == expected);
    ASSERT_INT(length, COUNT);
}

/* ---- what is to be copied: the counters work ------------------------------------------------- */

TEST(an_array_from_elsewhere_is_copied_once)
{
    pycrew_crew *crew = open_counted();
    double *data = malloc(SIZE);
    pycrew_array array = array_at(data, PYCREW_F64, COUNT, 0);
    reading before;

    ASSERT(data != NULL);
    for (size_t i = 0; i < COUNT; i++)
        data[i] = (double)i;
    before = read_counts();
    call_with(crew, &array, COUNT - 1);
    check_copied("from elsewhere", before, 1);
    free(data);
    pycrew_close(crew);
}

TEST(an_array_that_numpy_made_is_copied_once)
{
    pycrew_crew *crew = open_counted();
    pycrew_array array = PYCREW_ARRAY_INIT;
    reading before = read_counts();

    OK(pycrew_run(crew, "big_ops:numpys_own", "i>A", COUNT, &array));
    check_copied("numpy's own", before, 1);
    pycrew_array_drop(crew, &array);
    pycrew_close(crew);
}

TEST(what_is_copied_back_is_copied_twice)
{
    pycrew_crew *crew = open_counted();
    double *data = malloc(SIZE);
    pycrew_array array = array_at(data, PYCREW_F64, COUNT, PYCREW_WRITABLE | PYCREW_COPY_BACK);
    reading before;

    ASSERT(data != NULL);
    for (size_t i = 0; i < COUNT; i++)
        data[i] = 0;
    before = read_counts();
    OK(pycrew_run(crew, "big_ops:set_marks", "A[i]", &array, 5));
    check_copied("there and back", before, 2);
    ASSERT(data[5] == 1);
    free(data);
    pycrew_close(crew);
}

/* ---- what is not ------------------------------------------------------------------------------
 */

TEST(of_an_array_in_the_crews_memory_nothing_is_copied)
{
    pycrew_crew *crew = open_counted();
    double *data = numbers_of(crew);
    pycrew_array array = array_at(data, PYCREW_F64, COUNT, PYCREW_WRITABLE);
    pycrew_array back = PYCREW_ARRAY_INIT;
    reading before = read_counts();

    call_with(crew, &array, COUNT - 1);
    OK(pycrew_run(crew, "big_ops:set_marks", "A[i]", &array, 5));
    ASSERT(data[5] == 1);
    OK(pycrew_run(crew, "big_ops:rest", "Ai>A", &array, 7,
                  &back)); /* and a view of it comes back */
    ASSERT(back.data == data + 7);
    pycrew_array_drop(crew, &back);
    check_copied("in the crew's memory", before, 0);
    pycrew_free(crew, data);
    pycrew_close(crew);
}

TEST(of_an_array_from_pycrew_empty_nothing_is_copied_back_or_as_the_next_argument)
{
    pycrew_crew *crew = open_counted();
    pycrew_array array = PYCREW_ARRAY_INIT;
    reading before = read_counts();

    OK(pycrew_run(crew, "big_ops:empty_ones", "i>A", COUNT, &array));
    ASSERT_INT(array.shape[0], COUNT);
    check_copied("from pycrew.empty", before, 0);
    call_with(crew, &array, 2);
    check_copied("and on to the next call", before, 0);
    pycrew_array_drop(crew, &array);
    pycrew_close(crew);
}

TEST(of_columns_in_the_crews_memory_a_map_copies_nothing)
{
    pycrew_crew *crew = open_counted();
    double *from = numbers_of(crew), *to = numbers_of(crew);
    pycrew_array input = array_at(from, PYCREW_F64, COUNT, 0);
    pycrew_array output = array_at(to, PYCREW_F64, COUNT, PYCREW_WRITABLE);
    pycrew_map_options options = PYCREW_MAP_OPTIONS_INIT;
    reading before = read_counts();

    options.flags = PYCREW_MAP_WHOLE | PYCREW_MAP_OUT;
    options.chunk = COUNT / 16;
    OK(pycrew_map(crew, function_of(crew, "big_ops:add_one_to"), &input, 1, &output, &options));
    check_copied("slices", before, 0);
    for (size_t i = 0; i < COUNT; i++)
        ASSERT(to[i] == (double)i + 1);
    input.shape[0] = output.shape[0] = COUNT / 16; /* or it would take half a second */
    options = (pycrew_map_options)PYCREW_MAP_OPTIONS_INIT;
    options.chunk = COUNT / 64;
    before = read_counts();
    OK(pycrew_map(crew, function_of(crew, "math:sqrt"), &input, 1, &output, &options));
    check_counts("elements", before, 0,
                 COUNT / 16 + LEEWAY); /* a byte for each says if it failed */
    ASSERT(to[49] == 7);
    pycrew_close(crew);
}

/* ---- the program starts itself again, with copies.c in front ----------------------------------
 */

static bool preload_copies(char *path)
{
    const char *build = getenv("top_builddir");
    char library[4096];
    int fd;

    snprintf(library, sizeof library, "%s/tests/big/.libs/libcopies.so",
             build != NULL ? build : ".");
    if (IS_SANITIZED || access(library, R_OK) < 0)
        return false;
    fd = mkstemp(path);
    if (fd < 0 || ftruncate(fd, sizeof *counts) < 0)
        return false;
    close(fd);
    return setenv("LD_PRELOAD", library, 1) == 0 && setenv(COPIES_ENV, path, 1) == 0;
}

int main(int argc, char **argv)
{
    char path[] = "/tmp/pycrew-test-copies-XXXXXX";
    int status;

    if (getenv(COPIES_ENV) == NULL && preload_copies(path))
        execv("/proc/self/exe", argv);
    status = tap_main(argc, argv);
    if (getenv(COPIES_ENV) != NULL)
        unlink(getenv(COPIES_ENV));
    return status;
}
