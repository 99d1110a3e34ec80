/* The Fortran module: it sees pycrew.h's structs and constants as C does, and its functions do what
 * they say. What they are asked is in cases.f90. */
#include "lib/pycrew.h"
#include "tests/harness/tap.h"

void options_layout(size_t *places);
void error_layout(size_t *places);
void array_layout(size_t *places);
void map_options_layout(size_t *places);
void constants(int64_t *values);
int values_of_all_kinds(void);
int results_of_all_kinds(void);
int errors_with_their_texts(void);
int options_and_lists(void);
int a_queue(void);
int arrays_of_all_kinds(void);
int arrays_written_in_place(void);
int arrays_that_come_back(void);
int a_map(void);

/* The Fortran side has as many places as C, in the same order; they end with the size. */
#define ASSERT_PLACES(layout, ...)                                                                 \
    do {                                                                                           \
        const size_t expected[] = {__VA_ARGS__};                                                   \
        size_t places[sizeof expected / sizeof *expected];                                         \
        layout(places);                                                                            \
        for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {                          \
            if (places[i] != expected[i])                                                          \
                DIAG("field %zu", i);                                                              \
            ASSERT_INT(places[i], expected[i]);                                                    \
        }                                                                                          \
    } while (0)

TEST(fortran_sees_the_options_as_c_does)
{
#define AT(field) offsetof(pycrew_options, field)
    ASSERT_PLACES(options_layout, AT(size), AT(workers), AT(python), AT(path), AT(env), AT(preload),
                  AT(init), AT(exit), AT(calls), AT(memory), AT(queues), AT(start_timeout_ns),
                  AT(timeout_ns), AT(grace_ns), AT(retries), AT(output), AT(log), AT(log_data),
                  AT(export_threads), AT(max_calls_per_worker), AT(max_worker_rss), AT(cpus), AT(nice),
                  AT(limit_memory), AT(limit_files), AT(limit_core), AT(limit_cpu_s), AT(debug),
                  AT(inflight), AT(loop),
                  sizeof(pycrew_options));
#undef AT
}

TEST(fortran_sees_errors_as_c_does)
{
#define AT(field) offsetof(pycrew_error, field)
    ASSERT_PLACES(error_layout, AT(size), AT(code), AT(function), AT(type), AT(message),
                  AT(traceback), AT(signal), AT(exit_status), AT(may_have_run), AT(out_of_memory),
                  AT(attempts), sizeof(pycrew_error));
#undef AT
}

TEST(fortran_sees_arrays_as_c_does)
{
#define AT(field) offsetof(pycrew_array, field)
    ASSERT_PLACES(array_layout, AT(size), AT(data), AT(dtype), AT(itemsize), AT(ndim), AT(shape),
                  AT(strides), AT(format), AT(flags), sizeof(pycrew_array));
#undef AT
}

TEST(fortran_sees_a_maps_options_as_c_does)
{
#define AT(field) offsetof(pycrew_map_options, field)
    ASSERT_PLACES(map_options_layout, AT(size), AT(flags), AT(chunk), AT(timeout_ns), AT(retries),
                  AT(on_error), AT(fill), AT(failed), AT(first_failed), AT(progress),
                  AT(progress_data), sizeof(pycrew_map_options));
#undef AT
}

TEST(fortrans_constants_are_cs)
{
    const pycrew_map_options map = PYCREW_MAP_OPTIONS_INIT;
    const int64_t expected[] = {
        PYCREW_FOREVER,
        map.retries,
        PYCREW_ERAISED,
        PYCREW_EDIED,
        PYCREW_ETYPE,
        PYCREW_ESTART,
        PYCREW_EFORKED,
        E2BIG,
        EAGAIN,
        ENOMEM,
        EINVAL,
        EMFILE,
        ERANGE,
        ETIME,
        ESHUTDOWN,
        ETIMEDOUT,
        EALREADY,
        ECANCELED,
        PYCREW_LOG,
        PYCREW_INHERIT,
        PYCREW_DISCARD,
        PYCREW_LOG_OUTPUT,
        PYCREW_LOG_WARNING,
        PYCREW_LOG_ERROR,
        PYCREW_BOOL,
        PYCREW_I8,
        PYCREW_I16,
        PYCREW_I32,
        PYCREW_I64,
        PYCREW_U8,
        PYCREW_U16,
        PYCREW_U32,
        PYCREW_U64,
        PYCREW_F16,
        PYCREW_F32,
        PYCREW_F64,
        PYCREW_C64,
        PYCREW_C128,
        PYCREW_OTHER,
        PYCREW_MAX_DIMS,
        PYCREW_WRITABLE,
        PYCREW_COPY_BACK,
        PYCREW_STRIDED,
        PYCREW_FORTRAN,
        PYCREW_LIST,
        PYCREW_TUPLE,
        PYCREW_DICT,
        PYCREW_MAP_WHOLE,
        PYCREW_MAP_OUT,
        PYCREW_MAP_STOP,
        PYCREW_MAP_FILL,
    };
    int64_t values[sizeof expected / sizeof *expected];
    constants(values);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        if (values[i] != expected[i])
            DIAG("constant %zu", i);
        ASSERT_INT(values[i], expected[i]);
    }
}

TEST(values_of_all_kinds_go_in)
{
    ASSERT_INT(values_of_all_kinds(), 0);
}

TEST(results_of_all_kinds_come_out)
{
    ASSERT_INT(results_of_all_kinds(), 0);
}

TEST(errors_come_with_their_texts)
{
    ASSERT_INT(errors_with_their_texts(), 0);
}

TEST(options_and_their_lists_arrive)
{
    ASSERT_INT(options_and_lists(), 0);
}

TEST(a_queue_gives_the_call_back)
{
    ASSERT_INT(a_queue(), 0);
}

TEST(arrays_of_all_kinds_are_seen_in_place)
{
    ASSERT_INT(arrays_of_all_kinds(), 0);
}

TEST(arrays_are_written_in_place)
{
    ASSERT_INT(arrays_written_in_place(), 0);
}

TEST(arrays_come_back)
{
    ASSERT_INT(arrays_that_come_back(), 0);
}

TEST(a_map_adds_columns)
{
    ASSERT_INT(a_map(), 0);
}

TAP_MAIN
