/* bench.h: the measurements of pycrew-bench. Each one fills its values, or leaves them NAN where it
 * is not possible here, and ends the program when a result is wrong.
 */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include <stdbool.h>

/* X(name, decimals, what it is) in the order of the table. The name is the key in JSON. */
#define BENCH_VALUES(X)                                                                            \
    X(cacheline_rtt_ns, 1, "there and back between two CPUs, one cache line each way")             \
    X(futex_rtt_ns, 0, "there and back between two CPUs, each side asleep in a futex in between: median")  \
    X(memcpy_64mib_us, 0, "memcpy of 64 MiB, each page there before")                              \
    X(inprocess_call_ns, 1, "add(a, b) in an embedded interpreter, without pycrew")                \
    X(sync_p50_ns, 0, "one call at a time, prepare to release, one worker: median")                \
    X(sync_p99_ns, 0, "the same: 99th percentile")                                                 \
    X(run_p50_ns, 0, "one pycrew_run at a time, one worker: median")                               \
    X(pipelined_ns, 1, "singles, 1,024 in flight, one worker")                                     \
    X(threads_ns, 1, "singles from 8 threads to 4 workers")                                        \
    X(batch_ns, 1, "records through pycrew_batch, one worker a CPU")                               \
    X(host_call_ns, 0, "one call of an exported function at a time, from Python, one worker")           \
    X(host_park_ns, 0, "the same every 2 ms, both sides asleep before it: median")                 \
    X(stream_item_ns, 1, "items of a generator by pycrew_next, one worker")                        \
    X(actor_p50_ns, 0, "one call of an actor at a time, one worker: median")                       \
    X(async_call_ns, 0, "coroutines that return at once, 1,024 in flight, one worker")             \
    X(async_sleeps_ms, 0, "10,000 of asyncio.sleep(0.1), two workers")                             \
    X(array_64mib_extra_us, 2, "a 64 MiB array to a function, beyond one of 16 bytes")               \
    X(array_1gib_extra_us, 2, "the same with 1 GiB")                                               \
    X(empty_64mib_extra_us, 2, "a 64 MiB array of pycrew.empty returned, beyond one of 16 bytes")   \
    X(inprocess_map_i64_ns, 1, "sums of two int64 columns in an embedded interpreter, without pycrew")     \
    X(map_i64_ns, 1, "the same by pycrew_map with two workers on two CPUs, per element")           \
    X(inprocess_map_sqrt_ns, 1, "math.sqrt of a float64 column in an embedded interpreter")       \
    X(map_sqrt_ns, 1, "the same by pycrew_map with two workers on two CPUs, per element")          \
    X(plain_whole_ns, 2, "numpy.add of float64 columns in two plain processes, per element")       \
    X(map_whole_ns, 2, "the same by slices, PYCREW_MAP_WHOLE, with two workers")                   \
    X(bare_park_rtt_ns, 0, "two semaphores there and back every 2 ms, without pycrew: median")     \
    X(park_rtt_ns, 0, "one call every 2 ms, both sides asleep before it: median")                  \
    X(start_ms, 1, "pycrew_open to the first result")                                              \
    X(start8_numpy_ms, 1, "numpy imported to a call running in each of 8 workers")                 \
    X(worker_pss_kb, 0, "memory of each of these 8 (PSS)")                                         \
    X(replaced_ms, 1, "a killed worker (numpy preloaded) to the next one's first result: median")  \
    X(replaced_max_ms, 1, "the same: the longest of 25")                                           \
    X(deadline_late_ms, 1, "an error later than deadline and grace, of a C loop: median")          \
    X(deadline_late_max_ms, 1, "the same: the latest of 10")                                       \
    X(idle_switches, 0, "context switches of an idle crew, all its threads, in 2 s")

enum bench_value {
#define BENCH_ENUM(name, decimals, what) name,
    BENCH_VALUES(BENCH_ENUM)
#undef BENCH_ENUM
        BENCH_VALUE_COUNT
};

struct bench {
    bool quick;         /* a tenth of the calls */
    const char *python; /* the workers' sys.executable */
    const char *modules, *inprocess;
};

typedef void bench_measurement(const struct bench *bench, double *values);

bench_measurement measure_cacheline, measure_futex, measure_memcpy;           /* baseline.c */
bench_measurement measure_inprocess, measure_bare_park;
bench_measurement measure_sync, measure_run, measure_pipelined, measure_park; /* calls.c */
bench_measurement measure_threads, measure_batch, measure_stream, measure_actor;
bench_measurement measure_async_call, measure_async_sleeps;   /* async.c */
bench_measurement measure_host_call;                          /* host.c */
bench_measurement measure_arrays;                             /* arrays.c */
bench_measurement measure_map_i64, measure_map_sqrt, measure_map_whole; /* map.c */
bench_measurement measure_start, measure_numpy, measure_idle; /* start.c */
bench_measurement measure_replaced, measure_deadline;         /* death.c */

/* Nanoseconds a call of bench/inprocess; columns: "add", "sqrt" or "". */
double run_inprocess(const struct bench *bench, long calls, const char *columns); /* baseline.c */

bool have_numpy(const struct bench *bench); /* start.c */

/* The same two CPUs for all that has one worker: the first two this process may use; false where
 * it has but one. use_all_cpus undoes it. */
bool use_two_cpus(int ret[2]);
void use_all_cpus(void);

#endif
