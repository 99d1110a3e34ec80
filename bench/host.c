/* host: what it costs Python code to call a function of its host's. */
#include "bench.h"
#include "common.h"

static int add(void *data, pycrew_host_call *call)
{
    long long a, b;
    int rc = pycrew_host_arguments(call, "LL", &a, &b);
    (void)data;
    return rc < 0 ? rc : pycrew_host_return(call, "L", a + b);
}

void measure_host_call(const struct bench *bench, double *values)
{
    int cpus[2], count = bench->quick ? 20000 : 200000;
    use_two_cpus(cpus);
    pycrew_crew *crew = open_crew(1, NULL);
    check(pycrew_export(crew, "add", add, NULL), "pycrew_export");
    check(pycrew_run(crew, "bench_ops:host_calls", "id>d", 1000, 0.0, &values[host_call_ns]), "host_calls");
    check(pycrew_run(crew, "bench_ops:host_calls", "id>d", count, 0.0, &values[host_call_ns]), "host_calls");
    check(pycrew_run(crew, "bench_ops:host_calls", "id>d", bench->quick ? 100 : 500, 0.002,
                     &values[host_park_ns]),
          "host_calls");
    pycrew_close(crew);
    use_all_cpus();
}
