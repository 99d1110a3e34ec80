/* threads: the records of a run, shared out to threads in chunks. */
#include "python.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS_MAX = 256, CHUNK_MAX = 64 };

struct run {
    const struct threads *threads;
    const struct workload *workload;
    int64_t first, count, chunk;
    _Atomic int64_t next, lost;
    _Atomic unsigned number;
};

static bool call_record(struct run *run, unsigned number, int64_t index)
{
    static _Thread_local struct request request;
    static _Thread_local struct reply reply;
    const struct threads *threads = run->threads;
    make_record(run->workload, index, &request);
    if (threads->each_call)
        threads->enter(number);
    call_python(threads->function(number), &request, &reply);
    if (threads->each_call)
        threads->leave(number);
    return finish_record(run->workload, index, &reply);
}

static void *thread_main(void *data)
{
    struct run *run = data;
    const struct threads *threads = run->threads;
    unsigned number = atomic_fetch_add(&run->number, 1);
    int64_t begin;
    if (!threads->each_call)
        threads->enter(number);
    while ((begin = atomic_fetch_add(&run->next, run->chunk)) < run->count)
        for (int64_t i = begin; i < begin + run->chunk && i < run->count; i++)
            if (!call_record(run, number, run->first + i))
                atomic_fetch_add(&run->lost, 1);
    if (!threads->each_call)
        threads->leave(number);
    return NULL;
}

int64_t many_in_threads(const struct threads *threads, const struct workload *workload,
                        int64_t first, int64_t count)
{
    struct run run = {.threads = threads, .workload = workload, .first = first, .count = count};
    pthread_t ids[THREADS_MAX];
    run.chunk = chunk_for(count, threads->count, CHUNK_MAX);
    if (threads->count > THREADS_MAX)
        fail("%u threads", threads->count);
    for (unsigned i = 0; i < threads->count; i++)
        if (pthread_create(&ids[i], NULL, thread_main, &run))
            fail("no thread");
    for (unsigned i = 0; i < threads->count; i++)
        pthread_join(ids[i], NULL);
    return run.lost;
}
