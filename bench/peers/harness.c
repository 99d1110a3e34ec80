/* harness: calls a peer in each of its ways and writes down how long it took. See peer.h. */
#include "peer.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

const char *skip_reason = "not possible";
double *array_memory;
bool tolerant, uses_arrays;

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s: ", program_invocation_short_name);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    _Exit(1);
}

int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- a histogram ----------------------------------------------------------------------------- */

/* Log-linear: 64 buckets to a power of two, each within 1.6 %. */

enum { SUB_BITS = 6, SUB = 1 << SUB_BITS, BUCKETS = SUB * 48 };
static uint64_t histogram[BUCKETS];

static int shift_of(uint64_t value)
{
    return value < SUB ? 0 : 63 - SUB_BITS - __builtin_clzll(value);
}

static void add_sample(int64_t ns)
{
    uint64_t value = ns > 0 ? (uint64_t)ns : 0;
    int shift = shift_of(value);
    size_t place = (size_t)shift * SUB + (size_t)(value >> shift);
    histogram[place < BUCKETS ? place : BUCKETS - 1]++;
}

static void print_histogram(void)
{
    const char *comma = "";
    for (size_t i = 0; i < BUCKETS; i++) {
        size_t shift = i < 2 * SUB ? 0 : i / SUB - 1;
        if (histogram[i] == 0)
            continue;
        printf("%s[%" PRIu64 ", %" PRIu64 "]", comma, (uint64_t)(i - shift * SUB) << shift,
               histogram[i]);
        comma = ", ";
    }
}

/* ---- one at a time --------------------------------------------------------------------------- */

enum { TOLERANT_RUN = 512 };
static int64_t lost; /* of this cell */

static void call_one(const struct peer *peer, const struct workload *workload, int64_t index)
{
    static struct request request;
    static struct reply reply;
    prepare_array(workload, index);
    make_record(workload, index, &request);
    reply.status = 0;
    peer->one(workload, &request, &reply);
    lost += !finish_record(workload, index, &reply);
}

static int64_t call_for(const struct peer *peer, const struct workload *workload, int64_t first,
                        double seconds)
{
    int64_t index = first, begin = now_ns();
    int64_t end = begin + (int64_t)(1e9 * seconds);
    do {
        int64_t now;
        call_one(peer, workload, index++);
        now = now_ns();
        add_sample(now - begin);
        begin = now;
    } while (begin < end);
    return index;
}

static void measure_one(const struct peer *peer, const struct workload *workload, double seconds)
{
    int64_t first = call_for(peer, workload, 0, seconds / 5); /* warms up */
    memset(histogram, 0, sizeof histogram);
    lost = 0;
    int64_t count = call_for(peer, workload, first, seconds) - first;
    printf("{\"cell\": \"%s\", \"way\": \"one\", \"count\": %" PRId64 ", \"lost\": %" PRId64
           ", \"calls\": [",
           workload->name, count, lost);
    print_histogram();
    puts("]}");
}

/* ---- many at once ---------------------------------------------------------------------------- */

static int64_t time_run(const struct workload *workload, many_function *many, int64_t first,
                        int64_t count)
{
    prepare_array(workload, first);
    int64_t begin = now_ns();
    lost += many(workload, first, count);
    return now_ns() - begin;
}

/* One that took long is tried again: it may have been the machine. */
static int64_t time_lesser(const struct workload *workload, many_function *many, int64_t first,
                           int64_t count, int64_t enough)
{
    int64_t ns = time_run(workload, many, first, count);
    int64_t again = ns < enough ? ns : time_run(workload, many, first, count);
    return again < ns ? again : ns;
}

/* Runs of a quarter of the time at least, their length found by doubling. Calls that are lost take
 * no time: with them the length is fixed. */
static void measure_many(const struct workload *workload, const struct way *way, double seconds)
{
    int64_t first = 0, count = tolerant ? TOLERANT_RUN : 1, total = 0, ns;
    int64_t budget = (int64_t)(1e9 * seconds);
    while (!tolerant &&
           (ns = time_lesser(workload, way->many, first, count, budget / 4)) < budget / 4 &&
           count < 1 << 20) {
        first += count;
        count *= ns < budget / 64 ? 8 : 2;
    }
    lost = 0;
    printf("{\"cell\": \"%s\", \"way\": \"%s\", \"runs\": [", workload->name, way->name);
    for (int64_t spent = 0; spent < budget; spent += ns) {
        first += count;
        ns = time_run(workload, way->many, first, count);
        printf("%s%.4f", total ? ", " : "", (double)ns / (double)count);
        total += count;
    }
    printf("], \"run\": %" PRId64 ", \"count\": %" PRId64 ", \"lost\": %" PRId64 "}\n", count,
           total, lost);
}

static void measure(const struct peer *peer, const struct workload *workload, const char *name,
                    double seconds)
{
    const struct way *way = peer->ways;
    printf("{\"begin\": \"%s\", \"way\": \"%s\"}\n", workload->name, name);
    fflush(stdout);
    if (!peer->use(workload)) {
        printf("{\"cell\": \"%s\", \"way\": \"%s\", \"skipped\": \"%s\"}\n", workload->name, name,
               skip_reason);
        return;
    }
    if (strcmp(name, "one") == 0) {
        measure_one(peer, workload, seconds);
        return;
    }
    while (way->many && strcmp(way->name, name) != 0)
        way++;
    if (!way->many)
        fail("%s has no way %s", peer->name, name);
    measure_many(workload, way, seconds);
}

/* ---- main ------------------------------------------------------------------------------------ */

static const struct peer *find_peer(const char *name)
{
    for (size_t i = 0; peers[i]; i++)
        if (strcmp(peers[i]->name, name) == 0)
            return peers[i];
    fail("no peer %s", name);
}

static struct workload *parse_cells(int count, char **cells, char (**ways)[32], double **seconds)
{
    struct workload *workloads = calloc((size_t)count, sizeof *workloads);
    *ways = calloc((size_t)count, sizeof **ways);
    *seconds = calloc((size_t)count, sizeof **seconds);
    if (!workloads || !*ways || !*seconds)
        fail("no memory");
    for (int i = 0; i < count; i++)
        if (!parse_workload(cells[i], &workloads[i], (*ways)[i], &(*seconds)[i]))
            fail("not a cell: %s", cells[i]);
        else if (workloads[i].kind == ENDS || workloads[i].kind == NORM)
            uses_arrays = true;
    return workloads;
}

static void *map_array(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    return memory;
}

static void start(const struct peer *peer, unsigned workers, const struct workload *workload)
{
    int64_t begin = now_ns();
    if (!peer->allocate)
        array_memory = map_array(ARRAY_BYTES);
    peer->start(workers);
    if (peer->allocate)
        array_memory = peer->allocate(ARRAY_BYTES);
    if (!peer->use(workload))
        fail("%s: %s", workload->name, skip_reason);
    call_one(peer, workload, 0);
    printf("{\"first_result_ns\": %" PRId64 "}\n", now_ns() - begin);
}

/* The driver looks at the workers' memory, then closes stdin. */
static void wait_for_driver(void)
{
    puts("{\"memory\": true}");
    fflush(stdout);
    (void)getchar();
}

int main(int argc, char **argv)
{
    char(*ways)[32];
    double *seconds;
    if (argc < 5)
        fail("usage: PEER WORKERS RECORD_FILE CELL...");
    const struct peer *peer = find_peer(argv[1]);
    unsigned workers = (unsigned)strtoul(argv[2], NULL, 10);
    struct workload *workloads = parse_cells(argc - 4, argv + 4, &ways, &seconds);
    read_record_file(argv[3]);
    tolerant = getenv("BENCH_TOLERANT") != NULL;
    printf("{\"hello\": {");
    peer->versions();
    puts("}}");
    fflush(stdout);
    start(peer, workers, &workloads[0]);
    for (int i = 0; i < argc - 4; i++) {
        measure(peer, &workloads[i], ways[i], seconds[i]);
        if (strcmp(workloads[i].name, "memory") == 0)
            wait_for_driver();
        fflush(stdout);
    }
    peer->close();
    puts("{\"done\": true}");
    return 0;
}
