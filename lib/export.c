/* export: which functions are offered, and the threads that run them. */
#include "lib/export.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE_MAX = 255 };

typedef struct exported {
    char *name;
    pycrew_host_function function;
    void *data;
} exported;

/* One of a worker's places. */
typedef struct pc_place_record {
    uint32_t sequence;      /* of the last request that was taken */
    pycrew_host_call *call; /* it is not answered yet */
    uint64_t block;         /* its answer is in, until that is released */
} pc_place_record;

struct pc_exports {
    pycrew_crew *crew;
    pthread_mutex_t lock;
    pthread_cond_t more; /* a call waits, nobody listens, or it is the end */
    bool listening;      /* somebody does */
    _Atomic bool stopping;
    exported *list;
    uint32_t count;
    pc_place_record *places;         /* PC_UPCALLS for each worker */
    pycrew_host_call *first, **last; /* waiting to be run */
    pycrew_host_call *spare;
    pycrew_host_call *running; /* a list */
    unsigned running_count;
    pthread_t *threads;
    unsigned thread_count;
};

static __thread pycrew_host_call *running; /* by this thread */

bool pc_exports_are_running_me(const pycrew_crew *crew)
{
    return running != NULL && running->crew == crew;
}

static pc_exports *exports_of(pycrew_crew *crew)
{
    return atomic_load_explicit(&crew->exports, memory_order_acquire);
}

/* ---- calls; under exports->lock ---- */

static pycrew_host_call *new_call(pc_exports *x)
{
    pycrew_host_call *call = x->spare;

    if (call != NULL)
        x->spare = call->next;
    else
        call = malloc(sizeof *call);
    if (call != NULL)
        memset(call, 0, sizeof *call);
    return call;
}

static void drop_call(pc_exports *x, pycrew_host_call *call)
{
    pc_error_clear(&call->error);
    call->next = x->spare;
    x->spare = call;
}

static void free_answer(pc_exports *x, pc_place_record *place)
{
    pc_memory_free(x->crew, place->block);
    place->block = 0;
}

/* Copies the arguments, or leases them. False: what is said of them cannot be. */
static bool take_arguments(pycrew_host_call *call)
{
    const pc_upcall *upcall = call->upcall;
    const volatile uint64_t *said = &upcall->arguments_block; /* each is read once */
    uint64_t block = said[0], size = said[1];
    const uint8_t *at = (const uint8_t *)call->small_arguments;

    if (size % 8 != 0)
        return false;
    if (block != 0) {
        if (size == 0 || !pc_segment_holds(&call->crew->segment, block, size) ||
            !pc_lease_keep(call->crew, call->worker, call->incarnation, block, size, block,
                           &call->lease))
            return false;
        at = pc_segment_at(&call->crew->segment, block);
    } else if (size > PC_UPCALL_ARGUMENTS) {
        return false;
    } else {
        memcpy(call->small_arguments, upcall->arguments, size);
    }
    call->arguments = (pc_cursor){at, at + size};
    return true;
}

static void find_function(pc_exports *x, pycrew_host_call *call)
{
    if (call->number >= x->count)
        return;
    call->function = x->list[call->number].function;
    call->data = x->list[call->number].data;
}

/* What has no memory, not even for its record, is answered at once. */
static void answer_no_memory(pc_place_record *place, pc_upcall *upcall, uint32_t sequence)
{
    place->sequence = sequence;
    upcall->kind = PC_UPCALL_NO_MEMORY;
    upcall->answer_block = upcall->answer_size = 0;
    pc_upcall_answer(upcall, sequence);
    pc_sleeper_wake(&upcall->semaphore);
}

/* NULL, or what cannot be. */
static const char *take_request(pc_exports *x, unsigned worker, unsigned incarnation,
                                pc_place_record *place, pc_upcall *upcall)
{
    uint32_t sequence = place->sequence + 1;
    pycrew_host_call *call = new_call(x);

    if (call == NULL) {
        answer_no_memory(place, upcall, sequence);
        return NULL;
    }
    call->crew = x->crew;
    call->upcall = upcall;
    call->worker = worker;
    call->incarnation = incarnation;
    call->sequence = sequence;
    call->number = *(const volatile uint32_t *)&upcall->function;
    call->blocks = *(const volatile uint32_t *)&upcall->flags & PC_UPCALL_BLOCKS;
    if (!take_arguments(call)) {
        drop_call(x, call);
        return "the arguments of a call to the host";
    }
    find_function(x, call);
    place->sequence = sequence;
    place->call = call;
    *x->last = call;
    x->last = &call->next;
    return NULL;
}

/* ---- looking for requests; under exports->lock ---- */

/* A worker's incarnation, if it lives. Its death is told to us only after this is false, and then
 * takes the lock: until we have let go of that, the records are this incarnation's. */
static bool lives(pycrew_crew *crew, unsigned worker, unsigned *incarnation)
{
    pc_host_worker *w = &crew->crew_workers[worker];
    bool alive;

    pthread_mutex_lock(&w->lock);
    alive = w->alive;
    *incarnation = w->incarnation;
    pthread_mutex_unlock(&w->lock);
    return alive;
}

/* What cannot be in a record of a worker that lives, or NULL. */
static const char *audit_place(const pc_place_record *place, const pc_upcall *upcall)
{
    uint32_t request = pc_upcall_request(upcall);

    if (request == place->sequence + 1 ? place->call != NULL : request != place->sequence)
        return "a call to the host that cannot be";
    if (place->call == NULL && !pc_upcall_is_answered(upcall, place->sequence))
        return "an answer of the host's that is not there";
    return NULL;
}

static const char *look_at_place(pc_exports *x, unsigned worker, unsigned incarnation, unsigned i)
{
    pc_place_record *place = &x->places[worker * PC_UPCALLS + i];
    pc_upcall *upcall = pc_upcall_of(&x->crew->segment, worker, i);
    const char *wrong = audit_place(place, upcall);

    if (wrong != NULL)
        return wrong;
    if (place->block != 0 && pc_upcall_is_released(upcall, place->sequence))
        free_answer(x, place);
    if (pc_upcall_request(upcall) != place->sequence + 1)
        return NULL;
    if (place->block != 0) /* it has asked again, so it has done with that */
        free_answer(x, place);
    return take_request(x, worker, incarnation, place, upcall);
}

static void look_at_worker(pc_exports *x, unsigned worker)
{
    unsigned incarnation, now;
    const char *wrong = NULL;

    if (!lives(x->crew, worker, &incarnation))
        return;
    for (unsigned i = 0; wrong == NULL && i < PC_UPCALLS; i++)
        wrong = look_at_place(x, worker, incarnation, i);
    /* A lease that was refused may be so because it has just died. */
    if (wrong != NULL && lives(x->crew, worker, &now) && now == incarnation)
        pc_crew_distrust(x->crew, wrong);
}

static void collect(pc_exports *x)
{
    unsigned workers = x->crew->workers;

    for (unsigned word = 0; word * 64 < workers; word++) {
        uint64_t bits = pc_upcall_take(&x->crew->segment, word);

        for (; bits != 0; bits &= bits - 1)
            if (word * 64 + (unsigned)__builtin_ctzll(bits) < workers)
                look_at_worker(x, word * 64 + (unsigned)__builtin_ctzll(bits));
    }
}

/* ---- those that run; under exports->lock ---- */

static void add_running(pc_exports *x, pycrew_host_call *call)
{
    call->running = x->running;
    x->running = call;
    x->running_count++;
}

static void remove_running(pc_exports *x, const pycrew_host_call *call)
{
    pycrew_host_call **link = &x->running;

    while (*link != call)
        link = &(*link)->running;
    *link = call->running;
    x->running_count--;
}

/* ---- answering ---- */

/* Under exports->lock. */
static void write_answer(pc_exports *x, pycrew_host_call *call)
{
    size_t place_number = (size_t)(call->upcall - x->crew->segment.upcalls);
    pc_place_record *place = &x->places[place_number];
    pc_upcall *upcall = call->upcall;

    upcall->kind = call->kind;
    upcall->answer_block = call->block;
    upcall->answer_size = call->builder.writer.size;
    if (call->block == 0)
        memcpy(upcall->value, call->small_answer, call->builder.writer.size);
    place->call = NULL;
    place->block = call->block;
    if (pc_upcall_answer(upcall, call->sequence) && place->block != 0)
        free_answer(x, place);
}

static void answer(pc_exports *x, pycrew_host_call *call)
{
    pc_upcall *upcall = call->upcall;
    bool told = false;

    if (call->lease.lease.block != 0)
        pc_lease_drop(x->crew, &call->lease);
    pthread_mutex_lock(&x->lock);
    if (call->orphaned) {
        pc_memory_free(x->crew, call->block);
    } else {
        write_answer(x, call);
        told = true;
    }
    remove_running(x, call);
    drop_call(x, call);
    pthread_mutex_unlock(&x->lock);
    if (told)
        pc_sleeper_wake(&upcall->semaphore);
}

int pc_exports_list(pycrew_crew *crew, pc_builder *builder)
{
    pc_exports *x = exports_of(crew);
    int rc = pc_build_open(builder, PYCREW_DICT);

    pthread_mutex_lock(&x->lock);
    for (uint32_t i = 0; rc == 0 && i < x->count; i++) {
        rc = pc_build_data(builder, PC_TAG_STR, x->list[i].name, strlen(x->list[i].name));
        if (rc == 0)
            rc = pc_build_i64(builder, i);
    }
    pthread_mutex_unlock(&x->lock);
    return rc < 0 ? rc : pc_build_close(builder);
}

/* ---- the threads ---- */

/* Under exports->lock, which is let go meanwhile. */
static void listen(pc_exports *x)
{
    x->listening = true;
    pthread_mutex_unlock(&x->lock);
    pc_upcall_listen(&x->crew->segment, &x->stopping);
    pthread_mutex_lock(&x->lock);
    collect(x);
    x->listening = false;
}

static pycrew_host_call *next_call(pc_exports *x)
{
    pycrew_host_call *call = x->first;

    if (call == NULL)
        return NULL;
    x->first = call->next;
    if (x->first == NULL)
        x->last = &x->first;
    call->next = NULL;
    return call;
}

static void *serve(void *data)
{
    pc_exports *x = data;
    pycrew_host_call *call;

    pthread_mutex_lock(&x->lock);
    while (!x->stopping) {
        if ((call = next_call(x)) != NULL) {
            pthread_cond_signal(&x->more); /* for what is behind it, or to listen */
            add_running(x, call);
            pthread_mutex_unlock(&x->lock);
            running = call;
            pc_host_call_run(call);
            running = NULL;
            answer(x, call);
            pthread_mutex_lock(&x->lock);
        } else if (x->listening) {
            pthread_cond_wait(&x->more, &x->lock);
        } else {
            listen(x);
        }
    }
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

static int start_threads(pc_exports *x, unsigned wanted)
{
    sigset_t all, before;
    int rc = 0;

    sigfillset(&all); /* the host's signals are for its own threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (rc == 0 && x->thread_count < wanted) {
        rc = pthread_create(&x->threads[x->thread_count], NULL, serve, x);
        if (rc == 0)
            x->thread_count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc == 0)
        return 0;
    return pc_fail(-rc, "a thread for exported functions cannot be started: %s%s",
                   pycrew_strerror(-rc), rc == EAGAIN ? PC_FEW_PROCESSES : "");
}

static void stop_threads(pc_exports *x)
{
    pthread_mutex_lock(&x->lock);
    atomic_store(&x->stopping, true);
    pthread_cond_broadcast(&x->more);
    pthread_mutex_unlock(&x->lock);
    pc_upcall_wake(&x->crew->segment);
    for (unsigned i = 0; i < x->thread_count; i++)
        pthread_join(x->threads[i], NULL);
}

/* ---- the beginning and the end ---- */

static void free_calls(pycrew_host_call *call)
{
    while (call != NULL) {
        pycrew_host_call *next = call->next;

        pc_error_clear(&call->error);
        free(call);
        call = next;
    }
}

static void free_exports(pc_exports *x)
{
    for (uint32_t i = 0; i < x->count; i++)
        free(x->list[i].name);
    free_calls(x->first);
    free_calls(x->spare);
    free(x->list);
    free(x->places);
    free(x->threads);
    free(x);
}

void pc_exports_stop(pycrew_crew *crew, bool forked)
{
    pc_exports *x = exports_of(crew);

    if (x == NULL)
        return;
    if (!forked) {
        stop_threads(x);
        /* In a fork these are held, or waited for, by threads that are not there: destroying would
         * wait. */
        pthread_cond_destroy(&x->more);
        pthread_mutex_destroy(&x->lock);
    }
    free_exports(x);
    atomic_store(&crew->exports, NULL);
}

/* Without threads. */
static pc_exports *new_exports(pycrew_crew *crew)
{
    pc_exports *x = calloc(1, sizeof *x);

    if (x == NULL)
        return NULL;
    x->crew = crew;
    x->last = &x->first;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->more, NULL);
    x->places = calloc((size_t)crew->workers * PC_UPCALLS, sizeof x->places[0]);
    x->threads = calloc(crew->export_threads, sizeof x->threads[0]);
    if (x->places != NULL && x->threads != NULL)
        return x;
    free_exports(x);
    return NULL;
}

/* Under crew->lock: the threads are there, or some. */
static int begin(pycrew_crew *crew, pc_exports **ret)
{
    pc_exports *x = exports_of(crew);

    if (x == NULL) {
        x = new_exports(crew);
        if (x == NULL)
            return pc_fail(-ENOMEM, "no memory is left");
        atomic_store_explicit(&crew->exports, x, memory_order_release);
    }
    *ret = x;
    return x->thread_count < crew->export_threads ? start_threads(x, crew->export_threads) : 0;
}

static bool is_name(const char *name)
{
    size_t size = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");

    return size > 0 && size <= NAME_SIZE_MAX && name[size] == '\0' &&
           (name[0] < '0' || name[0] > '9') && strncmp(name, "__", 2) != 0;
}

static int add(pc_exports *x, const char *name, pycrew_host_function function, void *data)
{
    exported *grown;
    char *copy;

    for (uint32_t i = 0; i < x->count; i++)
        if (strcmp(x->list[i].name, name) == 0)
            return pc_fail(-EEXIST, "pycrew_export: %s is exported already", name);
    grown = realloc(x->list, (x->count + 1) * sizeof *grown);
    if (grown == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    x->list = grown;
    copy = strdup(name);
    if (copy == NULL)
        return pc_fail(-ENOMEM, "no memory is left");
    x->list[x->count++] = (exported){copy, function, data};
    return 0;
}

static int export(pycrew_crew *crew, const char *name, pycrew_host_function function, void *data)
{
    pc_exports *x = NULL;
    int rc = begin(crew, &x);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&x->lock);
    rc = add(x, name, function, data);
    atomic_store_explicit(&crew->segment.header->exports, x->count, memory_order_release);
    pthread_mutex_unlock(&x->lock);
    return rc;
}

int pycrew_export(pycrew_crew *crew, const char *name, pycrew_host_function function, void *data)
{
    int rc;

    if (crew == NULL || name == NULL || function == NULL)
        return pc_fail(-EINVAL, "pycrew_export: crew, name and function must not be NULL");
    if (!is_name(name))
        return pc_fail(-EINVAL,
                       "pycrew_export: the name \"%s\" is no identifier of ASCII letters, digits and _, "
                       "or begins with __", name);
    if ((rc = pc_crew_check(crew)) < 0 || (rc = pc_engine_refuse(crew, "exported functions")) < 0)
        return rc;
    if (atomic_load(&crew->ending) != 0)
        return pc_crew_refuse(crew);
    pthread_mutex_lock(&crew->lock);
    rc = export(crew, name, function, data);
    pthread_mutex_unlock(&crew->lock);
    return rc;
}

/* ---- functions that wait for calls ----
 *
 * Whether one that waits will go on is found out from those that do not wait: they go on; so do workers that
 * wait for no function, or for one that goes on; so do functions that wait for a call of such a worker. What is left when nothing
 * is added any more waits in a circle. All under exports->lock. */

/* The call is to be run when a thread is free. */
static bool gets_a_thread(const pc_exports *x)
{
    if (x->running_count < x->thread_count)
        return true;
    for (const pycrew_host_call *call = x->running; call != NULL; call = call->running)
        if (call->goes_on)
            return true;
    return false;
}

static bool is_running(const pc_exports *x, const pycrew_host_call *call)
{
    for (const pycrew_host_call *other = x->running; other != NULL; other = other->running)
        if (other == call)
            return true;
    return false;
}

/* What a worker says of itself may be a lie, which costs an error. */
static bool worker_goes_on(const pc_exports *x, unsigned worker)
{
    for (unsigned i = 0; i < PC_UPCALLS; i++) {
        const pc_place_record *place = &x->places[worker * PC_UPCALLS + i];
        const pycrew_host_call *call = place->call;

        if (call != NULL && call->blocks && !pc_upcall_is_released(call->upcall, place->sequence) &&
            !(is_running(x, call) ? call->goes_on : gets_a_thread(x)))
            return false;
    }
    return true;
}

static bool any_worker_goes_on(const pc_exports *x)
{
    for (unsigned worker = 0; worker < x->crew->workers; worker++)
        if (worker_goes_on(x, worker))
            return true;
    return false;
}

/* In whose hands it is, or will be; false: whoever takes it. */
static bool is_for_one(const pycrew_call *call, unsigned *worker)
{
    uint64_t word = atomic_load_explicit(&call->slot->control, memory_order_acquire);
    unsigned directed = atomic_load_explicit(&call->directed, memory_order_relaxed);

    *worker = directed != 0 ? directed - 1 : pc_word_worker(word);
    return directed != 0 || (pc_word_state(word) == PC_CLAIMED &&
                             pc_word_generation(word) == call->generation &&
                             *worker < call->crew->workers);
}

static bool function_goes_on(const pc_exports *x, const pycrew_host_call *call)
{
    unsigned worker;

    if (call->awaited == NULL || pc_call_has_ended(call->awaited))
        return true;
    return is_for_one(call->awaited, &worker) ? worker_goes_on(x, worker) : any_worker_goes_on(x);
}

static void find_what_goes_on(pc_exports *x)
{
    bool more = true;

    for (pycrew_host_call *call = x->running; call != NULL; call = call->running)
        call->goes_on = false;
    while (more) {
        more = false;
        for (pycrew_host_call *call = x->running; call != NULL; call = call->running) {
            if (call->goes_on || !function_goes_on(x, call))
                continue;
            call->goes_on = more = true;
        }
    }
}

static bool is_locked(pc_exports *x, const pycrew_call *awaited)
{
    running->awaited = awaited;
    if (!x->listening) /* nobody does while all run */
        collect(x);
    find_what_goes_on(x);
    return !running->goes_on;
}

bool pc_exports_are_locked(const pycrew_call *awaited)
{
    pc_exports *x = exports_of(awaited->crew);
    bool locked;

    if (!pc_exports_are_running_me(awaited->crew))
        return false;
    pthread_mutex_lock(&x->lock);
    locked = is_locked(x, awaited);
    if (locked) /* one that goes on is enough: the next who looks sees that */
        running->awaited = NULL;
    pthread_mutex_unlock(&x->lock);
    return locked;
}

void pc_exports_end_wait(pycrew_crew *crew)
{
    pc_exports *x = exports_of(crew);

    if (!pc_exports_are_running_me(crew) || running->awaited == NULL)
        return;
    pthread_mutex_lock(&x->lock);
    running->awaited = NULL;
    pthread_mutex_unlock(&x->lock);
}

/* ---- deaths and damage ---- */

void pc_exports_forget(pycrew_crew *crew, unsigned worker)
{
    pc_exports *x = exports_of(crew);

    if (x == NULL)
        return;
    pthread_mutex_lock(&x->lock);
    for (unsigned i = 0; i < PC_UPCALLS; i++) {
        pc_place_record *place = &x->places[worker * PC_UPCALLS + i];

        if (place->call != NULL)
            atomic_store(&place->call->orphaned, true);
        free_answer(x, place);
        *place = (pc_place_record){0};
    }
    pthread_mutex_unlock(&x->lock);
}

const char *pc_exports_audit(pycrew_crew *crew)
{
    pc_exports *x = exports_of(crew);
    const char *wrong = NULL;
    unsigned incarnation;

    if (atomic_load(&crew->segment.header->exports) != (x == NULL ? 0 : x->count))
        return "the number of exported functions";
    if (x == NULL)
        return NULL;
    pthread_mutex_lock(&x->lock);
    for (unsigned worker = 0; worker < crew->workers; worker++)
        for (unsigned i = 0; wrong == NULL && lives(crew, worker, &incarnation) && i < PC_UPCALLS;
             i++)
            wrong = audit_place(&x->places[worker * PC_UPCALLS + i],
                                pc_upcall_of(&crew->segment, worker, i));
    pthread_mutex_unlock(&x->lock);
    return wrong;
}

void pc_exports_restore(pycrew_crew *crew)
{
    pc_exports *x = exports_of(crew);

    for (unsigned i = 0; i < crew->workers; i++)
        pc_exports_forget(crew, i);
    atomic_store(&crew->segment.header->exports, x == NULL ? 0 : x->count);
    pc_upcall_wake(&crew->segment);
}
