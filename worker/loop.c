/* loop: claim, decode, call, encode, publish.
 *
 * Order matters in three places. `entered` is published before anything that can run user code: a
 * slot that died without it certainly ran nothing. "Current" is cleared before the end is
 * published: an interrupt that comes later finds nobody. Nothing of a slot is read after its end
 * was published, but for what was read before (pc_ending). */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/shm/announce.h"
#include "lib/shm/chunk.h"
#include "lib/shm/columns.h"
#include "lib/shm/idle.h"
#include "worker/array.h"
#include "worker/convert.h"
#include "worker/element.h"
#include "worker/worker.h"

enum { YIELD_CALLS = 256, TEXT_MAX = 64 << 10, TRACEBACK_MAX = 256 << 10 };
#define NONE SIZE_MAX
#define MEMORY_WAIT_NS ((int64_t)100 * 1000 * 1000)
enum { ARENA_PER_ITEM = 256, ARENA_BLOCK_MAX = 1 << 20, AHEAD = 512 /* bytes */ };

typedef struct loop {
    pc_worker *worker;
    PyObject **functions; /* by number; NULL: not looked up yet */
    uint32_t function_capacity;
    unsigned since_yield;
    uint32_t shortages; /* of memory, that were answered */
    uint64_t calls, errors; /* for statistics */
    size_t arena_per_item;  /* bytes of results, in the last chunk */
    uint64_t most;      /* memory that an item of a batch took, of late; */
    uint64_t allocated; /* and worker->allocated when there was seen to be enough for more */
} loop;

/* A call, or an item of a chunk, while it runs. */
typedef struct execution {
    loop *loop;
    pc_slot *slot;
    uint32_t generation, function;
    uint64_t shape; /* of the arguments, if they are a record; else 0 */
    bool ran;       /* the function was entered */
} execution;

/* ---- the lifeline and the queues' eventfds ---- */

/* All eventfds share an inode; what tells them apart is the id in fdinfo. 0: no eventfd. */
static uint64_t eventfd_id(int fd)
{
    char path[64], text[256];
    const char *at;
    ssize_t size;
    int info;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    info = open(path, O_RDONLY | O_CLOEXEC);
    if (info < 0)
        return 0;
    size = read(info, text, sizeof text - 1);
    close(info);
    text[size < 0 ? 0 : size] = '\0';
    at = strstr(text, "eventfd-id:");
    return at == NULL ? 0 : strtoull(at + strlen("eventfd-id:"), NULL, 10) + 1;
}

static void keep_queue(pc_worker *worker, unsigned queue, int fd)
{
    if (worker->queue_fds[queue] >= 0 &&
        eventfd_id(worker->queue_fds[queue]) == worker->queue_ids[queue])
        close(worker->queue_fds[queue]);
    worker->queue_fds[queue] = fd;
    worker->queue_ids[queue] = eventfd_id(fd);
}

static int prepare_queues(pc_worker *worker)
{
    uint32_t count = worker->segment.config.queues;

    if (worker->queue_fds != NULL)
        return 0;
    worker->queue_fds = malloc(count * sizeof worker->queue_fds[0]);
    worker->queue_ids = calloc(count, sizeof worker->queue_ids[0]);
    if (worker->queue_fds == NULL || worker->queue_ids == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < count; i++)
        worker->queue_fds[i] = -1;
    return 0;
}

int pc_loop_receive(pc_worker *worker, char *text, int flags, pc_message *message)
{
    int fds[PC_MESSAGE_FDS];
    int rc = prepare_queues(worker);

    if (rc < 0)
        return rc;
    rc = pc_control_receive(worker->lifeline, message, text, fds, flags);
    if (rc != 1)
        return rc == 0 ? -EPIPE : rc;
    if (message->kind == PC_MESSAGE_QUEUE && fds[0] >= 0 && message->number >= 0 &&
        (uint32_t)message->number < worker->segment.config.queues)
        keep_queue(worker, (unsigned)message->number, fds[0]);
    return 0;
}

/* User code may have closed it, and opened a socket of its own under its number. */
static bool has_lifeline(const pc_worker *worker)
{
    struct stat status;

    return fstat(worker->lifeline, &status) == 0 && S_ISSOCK(status.st_mode) &&
           status.st_ino == worker->lifeline_inode;
}

/* The host sent it before the queue could be used, so it is in the socket. */
static int queue_fd(pc_worker *worker, unsigned queue)
{
    pc_message message;
    char *text;

    if (worker->queue_fds[queue] >= 0 || !has_lifeline(worker))
        return worker->queue_fds[queue];
    text = malloc(PC_MESSAGE_TEXT_MAX + 1);
    while (text != NULL && worker->queue_fds[queue] < 0 &&
           pc_loop_receive(worker, text, MSG_DONTWAIT, &message) == 0)
        continue;
    free(text);
    return worker->queue_fds[queue];
}

/* False: user code has closed it, or no more may be opened. */
static bool write_eventfd(pc_worker *worker, unsigned queue)
{
    uint64_t one = 1, id = 0;
    int fd = queue_fd(worker, queue);

    /* User code may have closed it, and opened something else under its number. */
    if (fd >= 0)
        id = eventfd_id(fd);
    if (id == 0 || id != worker->queue_ids[queue])
        return false;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        continue;
    return true;
}

/* Tells who waits for a call that has ended. False: it could not be told; the sweep after our death
 * will. */
static void tell(pc_worker *worker, const pc_ending *ending, uint32_t slot)
{
    const pc_segment *segment = &worker->segment;

    if (ending->sleeper < segment->config.slots)
        pc_sleeper_post(&segment->slots[ending->sleeper].semaphore);
    /* Where we cannot wake the reader, the sweep does: so we end. */
    if (ending->queue < segment->config.queues && pc_announce(segment, ending->queue, slot) &&
        !write_eventfd(worker, ending->queue))
        worker->cut_off = true;
}

bool pc_loop_say_leaving(pc_worker *worker)
{
    pc_message message = {.kind = PC_MESSAGE_WORKER_LEAVING,
                          .worker = worker->number,
                          .incarnation = worker->incarnation};

    return has_lifeline(worker) &&
           pc_control_send(worker->lifeline, &message, NULL, 0, NULL, 0) == 0;
}

/* ---- forks by user code ---- */

static bool in_child;

static void note_fork(void)
{
    in_child = true;
    pc_current_call.record = NULL; /* it is not mapped here */
}

/* A child of the user's came out of the function: the call is its parent's to end. */
static _Noreturn void leave_child(void)
{
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_SystemExit))
        PyErr_WriteUnraisable(NULL);
    PyErr_Clear();
    pc_interpreter_flush();
    _exit(PC_EXIT_ORPHANED);
}

/* Our death lets the sweep free what was lost. */
static void take_back(pc_worker *worker)
{
    if (!pc_heap_take_back(&worker->heap, worker->number))
        abort();
}

/* ---- functions ---- */

/* From here on user code may run. */
static void publish_entered(void *data)
{
    execution *e = data;

    atomic_store_explicit(&e->slot->entered, e->generation, memory_order_release);
}

static PyObject *load_function(loop *l, uint32_t number)
{
    const pc_segment *segment = &l->worker->segment;
    uint64_t page = atomic_load_explicit(
        &segment->header->function_pages[number / PC_FUNCTION_PAGE % PC_FUNCTION_PAGES],
        memory_order_acquire);
    const uint64_t *offsets = pc_segment_at(segment, page);
    const pc_function_block *block = pc_segment_at(segment, offsets[number % PC_FUNCTION_PAGE]);

    return block->has_source
               ? pc_interpreter_find_in_source(number, block->text,
                                               block->text + block->name_size + 1)
               : pc_interpreter_find(block->text);
}

static int make_room(loop *l, uint32_t number)
{
    uint32_t capacity = number + 64;
    PyObject **grown;

    if (number < l->function_capacity)
        return 0;
    grown = realloc(l->functions, capacity * sizeof grown[0]);
    if (grown == NULL)
        return -1;
    memset(grown + l->function_capacity, 0, (capacity - l->function_capacity) * sizeof grown[0]);
    l->functions = grown;
    l->function_capacity = capacity;
    return 0;
}

/* Borrowed. What failed is tried again by the next call: the file may be there by then. */
static PyObject *find_function(execution *e)
{
    loop *l = e->loop;

    if (e->function < l->function_capacity && l->functions[e->function] != NULL)
        return l->functions[e->function];
    publish_entered(e);
    if (make_room(l, e->function) < 0) {
        PyErr_SetString(PyExc_MemoryError, "no memory is left for one more function");
        return NULL;
    }
    l->functions[e->function] = load_function(l, e->function);
    return l->functions[e->function];
}

/* ---- running ---- */

/* What the exception that is set means to the host; before the function ran unless ran. */
static enum pc_result_kind exception_kind(const execution *e, bool decoding)
{
    if (pc_current_call.interrupted && PyErr_ExceptionMatches(pc_deadline_exceeded))
        return PC_RESULT_INTERRUPTED;
    if (decoding && pc_convert_is_argument_error())
        return PC_RESULT_BAD_ARGUMENT;
    return e->ran ? PC_RESULT_EXCEPTION : PC_RESULT_NO_FUNCTION;
}

/* The same for a result that could not be written. Lone surrogates are no fault of the function's,
 * there is just no text that could be handed out. */
static enum pc_result_kind encoding_kind(const execution *e)
{
    enum pc_result_kind kind = exception_kind(e, false);

    return kind == PC_RESULT_EXCEPTION && PyErr_ExceptionMatches(PyExc_UnicodeEncodeError)
               ? PC_RESULT_BAD_TEXT
               : kind;
}

/* Calls the function: its result; or NULL with an exception set and *kind. */
static PyObject *call(execution *e, pc_cursor arguments, enum pc_result_kind *kind)
{
    pc_arguments decoded;
    PyObject *function = find_function(e), *result = NULL;
    int rc;

    if (function == NULL) {
        *kind = exception_kind(e, false);
        return NULL;
    }
    rc = e->shape != 0
             ? pc_decode_record((const uint64_t *)(const void *)arguments.at, e->shape, &decoded)
             : pc_decode_arguments(arguments, publish_entered, e, &decoded);
    if (rc == 0) {
        publish_entered(e);
        e->ran = true;
        result = PyObject_Vectorcall(function, decoded.items,
                                     decoded.positional | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                     decoded.names);
    }
    if (result == NULL)
        *kind = exception_kind(e, rc < 0);
    pc_arguments_clear(&decoded);
    return result;
}

/* Of no limit (NONE) nothing is written. */
static int write_text(pc_writer *writer, PyObject *text, size_t limit)
{
    pc_view view = pc_fault_text(text);
    size_t size = view.length > limit ? limit : (size_t)view.length;

    if (limit == NONE)
        return 0;

    while (size < view.length && size > 0 && ((unsigned char)view.data[size] & 0xc0) == 0x80)
        size--; /* not inside of a character */
    return pc_write_data(writer, PC_TAG_STR, view.data, size);
}

/* To put an exception into words may run user code, and so take an interrupt: then that is how the call
 * ended, and not with an exception that lacks a text. */
static enum pc_result_kind take_fault(pc_fault *fault, enum pc_result_kind kind)
{
    bool interrupted = pc_current_call.interrupted;

    pc_fault_take(fault);
    if (pc_current_call.interrupted == interrupted)
        return kind;
    pc_fault_clear(fault);
    pc_interrupt_raise();
    pc_fault_take(fault);
    return PC_RESULT_INTERRUPTED;
}

/* The three texts of an exception; shorter where memory is short. What fits a slot is tried before
 * what fits an item of a chunk. */
static enum pc_result_kind write_fault(pc_writer *writer, enum pc_result_kind kind)
{
    static const struct {
        size_t type, message, traceback;
    } limits[] = {{TEXT_MAX, TEXT_MAX, TRACEBACK_MAX},
                  {100, 60, NONE},
                  {23, 23, NONE},
                  {0, NONE, NONE}};
    static_assert(2 * (sizeof(uint64_t) + 23 + 1) <= PC_INLINE_RESULT, "two texts fit a slot");
    size_t start = writer->size;
    pc_fault fault;
    int rc = -ENOMEM;

    kind = take_fault(&fault, kind);
    for (unsigned i = 0; rc < 0 && i < sizeof limits / sizeof limits[0]; i++) {
        writer->size = start;
        rc = write_text(writer, fault.type, limits[i].type);
        if (rc == 0)
            rc = write_text(writer, fault.message, limits[i].message);
        if (rc == 0)
            rc = write_text(writer, fault.traceback, limits[i].traceback);
    }
    pc_fault_clear(&fault);
    return rc < 0 ? PC_RESULT_NO_MEMORY : kind;
}

/* Runs a call and writes what came of it. */
static enum pc_result_kind run(execution *e, pc_cursor arguments, bool json, pc_writer *writer)
{
    enum pc_result_kind kind = PC_RESULT_VALUE;
    size_t start = writer->size;
    PyObject *result = call(e, arguments, &kind);
    int rc = -1;

    if (__builtin_expect(in_child, 0))
        leave_child();
    if (result != NULL) {
        rc = pc_encode(writer, result, json);
        Py_DECREF(result);
        if (rc == 0)
            return PC_RESULT_VALUE;
        writer->size = start;
        if (rc != -1)
            return rc == -E2BIG ? PC_RESULT_TOO_BIG : PC_RESULT_NO_MEMORY;
        kind = encoding_kind(e);
    }
    return write_fault(writer, kind);
}

/* For statistics. */
static inline void count_call(loop *l, enum pc_result_kind kind)
{
    pc_worker_record *record = &l->worker->segment.workers[l->worker->number];

    atomic_store_explicit(&record->calls, ++l->calls, memory_order_relaxed);
    if (kind != PC_RESULT_VALUE)
        atomic_store_explicit(&record->errors, ++l->errors, memory_order_relaxed);
}

static enum pc_result_kind execute(execution *e, pc_cursor arguments, bool json, pc_writer *writer)
{
    enum pc_result_kind kind = run(e, arguments, json, writer);

    count_call(e->loop, kind);
    return kind;
}

static void set_current(const execution *e, uint32_t slot, uint32_t item, int64_t deadline)
{
    pc_current_call.call = (uint64_t)e->generation << 32 | slot;
    pc_current_call.item = item;
    pc_current_call.deadline = deadline;
    atomic_signal_fence(memory_order_seq_cst); /* the handler runs in this thread */
}

static void clear_current(void)
{
    pc_current_call.call = UINT64_MAX;
    atomic_signal_fence(memory_order_seq_cst);
}

/* ---- memory for results ---- */

static int alloc_when_short(pc_worker *worker, size_t size, uint64_t *ret)
{
    int64_t until = pc_now() + PC_SHORTAGE_NS;
    int rc;

    pc_idle_call_for_memory(&worker->segment);
    do {
        sched_yield();
        take_back(worker);
        rc = pc_heap_alloc(&worker->heap, size, ret);
    } while (rc == -ENOMEM && pc_now() < until);
    return rc;
}

/* A block of wanted bytes, or, where memory is short, of need. */
static int alloc_block(pc_worker *worker, size_t need, size_t wanted, uint64_t *ret)
{
    int rc;

    take_back(worker);
    rc = pc_heap_alloc(&worker->heap, need > wanted ? need : wanted, ret);
    if (rc < 0 && need < wanted)
        rc = pc_heap_alloc(&worker->heap, need, ret);
    if (rc == -ENOMEM)
        rc = alloc_when_short(worker, need, ret);
    if (rc == 0)
        worker->allocated += pc_heap_block_size(&worker->heap, *ret);
    return rc;
}

int pc_loop_alloc(pc_worker *worker, size_t size, uint64_t *ret)
{
    return alloc_block(worker, size, size, ret);
}

/* ---- single calls ---- */

/* Writes into the slot, then into a block of the heap. */
typedef struct slot_writer {
    pc_writer writer; /* first */
    pc_worker *worker;
    uint64_t block; /* 0: still in the slot */
} slot_writer;

static int slot_grow(pc_writer *writer, size_t need)
{
    slot_writer *w = (slot_writer *)(void *)writer;
    pc_heap *heap = &w->worker->heap;
    uint64_t block;
    int rc = alloc_block(w->worker, need, 2 * writer->capacity, &block);

    if (rc < 0)
        return rc;
    memcpy(pc_segment_at(heap->segment, block), writer->data, writer->size);
    if (w->block != 0)
        pc_heap_free(heap, w->block);
    w->block = block;
    writer->data = pc_segment_at(heap->segment, block);
    writer->capacity = pc_heap_block_size(heap, block);
    return 0;
}

static pc_cursor slot_arguments(const pc_segment *segment, const pc_slot *slot)
{
    const uint8_t *at = slot->arguments_block != 0
                            ? pc_segment_at(segment, slot->arguments_block)
                            : slot->arguments;

    return (pc_cursor){at, at + slot->arguments_size};
}

static void run_single(execution *e, uint32_t number)
{
    pc_slot *slot = e->slot;
    pc_worker *worker = e->loop->worker;
    slot_writer w = {.writer = {.data = slot->result,
                                .capacity = PC_INLINE_RESULT,
                                .grow = slot_grow},
                     .worker = worker};

    set_current(e, number, 0,
                slot->flags & PC_REQUEST_DEADLINE ? slot->deadline : INT64_MAX);
    slot->result_kind = execute(e, slot_arguments(&worker->segment, slot),
                                slot->flags & PC_REQUEST_JSON, &w.writer);
    clear_current();
    slot->result_ran = e->ran;
    if (__builtin_expect(pc_array_used, 0))
        slot->result_ran |= pc_array_end_call(slot->result_kind == PC_RESULT_VALUE);
    slot->result_block = w.block;
    slot->result_size = w.writer.size;
}

/* ---- chunks ---- */

/* Writes a small result into the chunk's table, others into blocks that the chunk lists. */
typedef struct chunk_writer {
    pc_writer writer; /* first */
    pc_worker *worker;
    pc_chunk *chunk;
    uint64_t block;        /* the arena's present block; 0: none */
    size_t used, capacity; /* of it */
    size_t start;          /* where the present value stands in it */
    bool in_arena;         /* the present value does */
    size_t first;          /* the first block's size */
    size_t total;          /* bytes of all values in blocks */
} chunk_writer;

/* Whether the present value is all that the present block holds. */
static bool is_alone(const chunk_writer *w)
{
    return w->in_arena && w->start == 0;
}

/* A value that grows gets twice as much each time; for those that follow one another, what is left
 * over in a block must not become large. */
static size_t arena_size(const chunk_writer *w)
{
    if (w->block == 0)
        return w->first;
    return is_alone(w) || w->capacity < ARENA_BLOCK_MAX / 2 ? 2 * w->capacity : ARENA_BLOCK_MAX;
}

static int arena_new(chunk_writer *w, size_t need)
{
    uint32_t count = atomic_load_explicit(&w->chunk->block_count, memory_order_relaxed);
    uint32_t place = is_alone(w) ? count - 1 : count;
    size_t size = arena_size(w);
    uint64_t block;
    int rc;

    if (place >= PC_CHUNK_BLOCKS)
        return -ENOMEM;
    rc = alloc_block(w->worker, need, size, &block);
    if (rc < 0)
        return rc;
    /* Listed before anything refers to it: the host must know it whenever we die. */
    atomic_store_explicit(&w->chunk->blocks[place], block, memory_order_relaxed);
    atomic_store_explicit(&w->chunk->block_sizes[place],
                          pc_heap_block_size(&w->worker->heap, block), memory_order_relaxed);
    atomic_store_explicit(&w->chunk->block_count, place + 1, memory_order_release);
    w->block = block;
    w->used = 0;
    w->capacity = pc_heap_block_size(&w->worker->heap, block);
    return 0;
}

static int chunk_grow(pc_writer *writer, size_t need)
{
    chunk_writer *w = (chunk_writer *)(void *)writer;
    const uint8_t *old = writer->data;
    uint64_t left = is_alone(w) ? w->block : 0; /* by a value that moves, and that had it alone */

    if (w->block == 0 || need > w->capacity - w->used) {
        int rc = arena_new(w, need);

        if (rc < 0)
            return rc;
    }
    w->start = w->used;
    w->in_arena = true;
    writer->data = (uint8_t *)pc_segment_at(&w->worker->segment, w->block) + w->start;
    writer->capacity = w->capacity - w->start;
    memcpy(writer->data, old, writer->size);
    if (left != 0)
        pc_heap_free(&w->worker->heap, left);
    return 0;
}

/* Where the result is a reference, makes it one. */
static void chunk_record(chunk_writer *w, pc_chunk_result *result, enum pc_result_kind kind)
{
    size_t size = w->writer.size;

    if (!w->in_arena && kind == PC_RESULT_VALUE)
        return;
    if (!w->in_arena) {
        /* An error whose texts got no memory at all. */
        result->payload = 0;
        size = 0;
    } else {
        result->payload = w->block + w->start;
        w->used = w->start + size;
        w->total += size;
    }
    result->header = (uint64_t)size << 8 | PC_CHUNK_REFERENCE | (uint64_t)kind;
}

/* Before the item is finished: from then on the host has what is in its result. */
static void end_arrays(execution *e, pc_chunk *chunk, enum pc_result_kind kind)
{
    uint32_t flags = pc_array_end_call(kind == PC_RESULT_VALUE);

    if (flags & PC_ANSWER_ARRAYS)
        atomic_store_explicit(&chunk->arrays, 1, memory_order_relaxed);
    e->slot->result_ran |= flags & PC_ANSWER_RETAINED;
}

static void run_item(execution *e, chunk_writer *w, pc_cursor arguments, uint32_t item)
{
    pc_chunk_result *result =
        (pc_chunk_result *)(void *)((uint8_t *)w->chunk + w->chunk->results) + item;
    enum pc_result_kind kind;

    pc_prefetch_write(result + AHEAD / sizeof *result);
    w->in_arena = false;
    w->writer.data = (uint8_t *)result;
    w->writer.size = 0;
    w->writer.capacity = sizeof *result;
    e->ran = false;
    kind = execute(e, arguments, e->slot->flags & PC_REQUEST_JSON, &w->writer);
    chunk_record(w, result, kind);
    if (__builtin_expect(pc_array_used, 0))
        end_arrays(e, w->chunk, kind);
}

/* Publishes "item-1 is finished, item is started" (or, at the end, only the first). False: doomed. */
static bool advance(pc_chunk *chunk, uint32_t item, uint32_t begin)
{
    uint64_t expected = item == begin ? pc_chunk_progress(begin, begin)
                                      : pc_chunk_progress(item, item - 1);
    uint32_t started = item < chunk->count ? item + 1 : item;

    return atomic_compare_exchange_strong_explicit(&chunk->progress, &expected,
                                                   pc_chunk_progress(started, item),
                                                   memory_order_acq_rel, memory_order_relaxed);
}

/* Finishes the item before, and starts no other. False: doomed. */
static bool stop_before(pc_chunk *chunk, uint32_t item)
{
    uint64_t expected = pc_chunk_progress(item, item - 1);

    return item == chunk->begin ||
           atomic_compare_exchange_strong_explicit(&chunk->progress, &expected,
                                                   pc_chunk_progress(item, item),
                                                   memory_order_acq_rel, memory_order_relaxed);
}

static int64_t item_deadline(pc_chunk *chunk)
{
    int64_t now;

    if (!chunk->timed)
        return INT64_MAX;
    now = pc_now();
    atomic_store_explicit(&chunk->item_started_ns, now, memory_order_relaxed);
    return now + chunk->timeout_ns;
}

static void yield_to_threads(loop *l)
{
    if (++l->since_yield % YIELD_CALLS != 0)
        return;
    Py_BEGIN_ALLOW_THREADS
    Py_END_ALLOW_THREADS
}

/* There might be no place for the next result. The host keeps what there is, and goes on from here. */
static bool has_listed_all(const pc_chunk *chunk)
{
    return atomic_load_explicit(&chunk->block_count, memory_order_relaxed) == PC_CHUNK_BLOCKS;
}

/* The arguments of the item that stands at `at`. */
static pc_cursor item_arguments(const uint8_t *at, uint64_t shape)
{
    uint64_t size;

    if (shape != 0)
        return (pc_cursor){at, at + pc_record_length(shape) * sizeof size};
    size = *(const uint64_t *)(const void *)at;
    return (pc_cursor){at + sizeof size, at + sizeof size + size};
}

static bool has_free_spans(const pc_segment *segment, uint64_t wanted)
{
    for (uint32_t span = 0; wanted > 0 && span < segment->config.spans; span++)
        wanted -= atomic_load_explicit(&segment->span_owners[span], memory_order_relaxed) ==
                  PC_OWNER_FREE;
    return wanted == 0;
}

/* Whether there is memory for two more items of each worker, of the size that they have; but an eighth of
 * it all is enough. */
static bool has_memory(const loop *l)
{
    const pc_segment *segment = &l->worker->segment;
    uint64_t spans = 2 * segment->config.workers * (l->most / PC_SPAN_SIZE + 1);
    uint64_t enough = segment->config.spans / 8 + 1;

    return has_free_spans(segment, spans < enough ? spans : enough);
}

/* For one more item. What the results before it were in may be a sleeping worker's to free, which takes longer
 * to wake than an allocation waits. */
static void await_memory(const loop *l, const pc_chunk *chunk)
{
    pc_worker *worker = l->worker;
    const struct timespec pause = {.tv_nsec = 100 * 1000};
    int64_t until = pc_now() + MEMORY_WAIT_NS;

    take_back(worker);
    if (has_free_spans(&worker->segment, l->most / PC_SPAN_SIZE + 2))
        return;
    pc_idle_call_for_memory(&worker->segment);
    Py_BEGIN_ALLOW_THREADS
    while (!has_free_spans(&worker->segment, l->most / PC_SPAN_SIZE + 2) && pc_now() < until &&
           atomic_load_explicit(&chunk->cancel, memory_order_relaxed) == 0)
        nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS
}

/* Where results are large, and use up the memory, who took it could only fail; and it is the host that gives
 * memory back, when it has handed them out. */
static bool is_to_yield(loop *l, pc_chunk *chunk, uint32_t item)
{
    pc_worker *worker = l->worker;
    bool enough;

    if (l->most == 0 || l->allocated == worker->allocated)
        return false;
    if (item == chunk->begin && !(chunk->flags & PC_CHUNK_YIELDS)) {
        await_memory(l, chunk);
        return false;
    }
    enough = has_memory(l);
    if (!enough) {
        take_back(worker);
        pc_heap_trim(&worker->heap);
        enough = has_memory(l);
    }
    if (enough)
        l->allocated = worker->allocated;
    else
        atomic_store_explicit(&chunk->yielded, 1, memory_order_relaxed);
    return !enough;
}

static void note_memory(loop *l, uint64_t before)
{
    uint64_t taken = l->worker->allocated - before;

    if (taken > l->most)
        l->most = taken;
}

/* False: doomed. */
static bool run_items(execution *e, chunk_writer *w, uint32_t number)
{
    pc_chunk *chunk = w->chunk;
    const uint8_t *at = (const uint8_t *)chunk->items + chunk->begin_offset;
    loop *l = e->loop;

    for (uint32_t item = chunk->begin; item < chunk->count; item++) {
        pc_cursor arguments = item_arguments(at, e->shape);
        uint64_t allocated = l->worker->allocated;
        bool stops;

        at = arguments.end;
        __builtin_prefetch(at + AHEAD); /* the host's lines */
        if (atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0 ||
            is_to_yield(l, chunk, item))
            return stop_before(chunk, item);
        if (item == chunk->begin)
            l->most /= 2;
        /* Current before started: an interrupt is only asked for an item seen as started. */
        set_current(e, number, item, item_deadline(chunk));
        if (!advance(chunk, item, chunk->begin))
            return false;
        run_item(e, w, arguments, item);
        note_memory(l, allocated);
        stops = pc_current_call.interrupted;
        clear_current();
        if (stops || has_listed_all(chunk))
            return stop_before(chunk, item + 1);
        yield_to_threads(l);
    }
    return advance(chunk, chunk->count, chunk->begin);
}

/* ---- a map's chunks ---- */

/* An item that failed, with an exception set (but for what memory lacked for). The first is put into words. */
static void note_failure(chunk_writer *w, uint32_t item, enum pc_result_kind kind)
{
    pc_chunk *chunk = w->chunk;
    pc_chunk_result *fault = pc_chunk_fault(chunk, chunk->results);

    if (atomic_load_explicit(&chunk->fault_item, memory_order_relaxed) == UINT32_MAX) {
        w->in_arena = false;
        w->writer.data = (uint8_t *)fault;
        w->writer.size = 0;
        w->writer.capacity = sizeof *fault;
        if (PyErr_Occurred())
            kind = write_fault(&w->writer, kind);
        chunk_record(w, fault, kind);
        atomic_store_explicit(&chunk->fault_item, item, memory_order_relaxed);
    }
    PyErr_Clear();
    atomic_store_explicit(&pc_chunk_kinds(chunk, chunk->results)[item], (uint8_t)kind,
                          memory_order_relaxed);
}

/* A private copy, since another worker may scribble over it, and where this chunk's elements are. */
typedef struct elements {
    pc_columns columns;
    pc_columns_place place;
    uint8_t *at[PC_COLUMNS_MAX];
    int64_t step[PC_COLUMNS_MAX];
    uint32_t dtype[PC_COLUMNS_MAX];
    PyObject *arguments[1 + PC_COLUMNS_MAX]; /* of the last element, from 1 on; NULL: none */
} elements;

static void drop_arguments(elements *el)
{
    for (unsigned i = 1; i < el->columns.count; i++)
        Py_CLEAR(el->arguments[i]);
}

static void find_row(const pc_segment *segment, elements *el)
{
    for (unsigned i = 0; i < el->columns.count; i++)
        el->at[i] = segment->base + pc_columns_at(&el->columns, &el->columns.column[i], &el->place);
}

static bool begin_elements(const pc_segment *segment, const pc_chunk *chunk, elements *el)
{
    const pc_columns *shared = (const pc_columns *)(const void *)((const uint8_t *)chunk + chunk->columns);

    memcpy(&el->columns, shared, pc_columns_size(0));
    if (el->columns.count - 1 >= PC_COLUMNS_MAX || el->columns.ndim - 1 >= PC_ARRAY_DIMS)
        return false;
    memcpy(el->columns.column, shared->column, el->columns.count * sizeof(pc_column));
    memset(el->arguments, 0, (1 + el->columns.count) * sizeof el->arguments[0]);
    pc_columns_seek(&el->columns, el->columns.first + chunk->begin, &el->place);
    for (unsigned i = 0; i < el->columns.count; i++) {
        el->step[i] = pc_columns_step(&el->columns, &el->columns.column[i]);
        el->dtype[i] = el->columns.column[i].dtype;
    }
    find_row(segment, el);
    return true;
}

static inline void next_element(const pc_segment *segment, elements *el, unsigned count)
{
    if (__builtin_expect(--el->place.left == 0, 0)) {
        pc_columns_next_row(&el->columns, &el->place);
        find_row(segment, el);
        return;
    }
    for (unsigned i = 0; i < count; i++)
        el->at[i] += el->step[i];
}

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* count: of the columns. */
static ALWAYS_INLINE bool load_arguments(elements *el, unsigned count)
{
    for (unsigned i = 0; i < count - 1; i++) {
        PyObject *last = el->arguments[1 + i];

        if (last != NULL && pc_element_reload(el->dtype[i], el->at[i], last))
            continue;
        Py_XDECREF(last);
        el->arguments[1 + i] = pc_element_load(el->dtype[i], el->at[i]);
        if (el->arguments[1 + i] == NULL)
            return false;
    }
    return true;
}

static ALWAYS_INLINE enum pc_result_kind run_element(execution *e, PyObject *function,
                                                      elements *el, unsigned count)
{
    PyObject *result = NULL;
    enum pc_result_kind kind = PC_RESULT_EXCEPTION;

    if (load_arguments(el, count))
        result = PyObject_Vectorcall(function, el->arguments + 1,
                                     (count - 1) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    if (__builtin_expect(in_child, 0))
        leave_child();
    if (result != NULL) {
        kind = pc_element_store(el->dtype[count - 1], el->at[count - 1], result);
        Py_DECREF(result);
    }
    return __builtin_expect(kind == PC_RESULT_EXCEPTION, 0) ? exception_kind(e, false) : kind;
}

/* The function is looked up when the first element has started: an import is its own, too. Borrowed;
 * NULL with *kind. */
static PyObject *find_for_element(execution *e, enum pc_result_kind *kind)
{
    PyObject *function = find_function(e);

    if (function == NULL)
        *kind = exception_kind(e, false);
    e->ran = function != NULL;
    return function;
}

/* Where no element has a deadline a doom is the call's (chunk.h), and this needs no compare-and-swap, which
 * would be a third of the cost of a short function. */
static inline void publish_progress(pc_chunk *chunk, uint32_t started, uint32_t finished)
{
    atomic_store_explicit(&chunk->progress, pc_chunk_progress(started, finished),
                          memory_order_release);
}

static inline bool start_element(pc_chunk *chunk, uint32_t item, uint32_t begin, bool timed)
{
    if (timed)
        return advance(chunk, item, begin);
    publish_progress(chunk, item + 1, item);
    return true;
}

/* All before item are finished, and no other is started. */
static bool stop_elements(pc_chunk *chunk, uint32_t item, bool timed)
{
    clear_current();
    if (timed)
        return stop_before(chunk, item);
    publish_progress(chunk, item, item);
    return true;
}

/* False: doomed. Made for each number of columns that is frequent. The present item is changed with the
 * call kept current: between two elements no handler of Python's runs. */
static ALWAYS_INLINE bool run_elements(execution *e, chunk_writer *w, uint32_t number,
                                       elements *el, unsigned count)
{
    pc_chunk *chunk = w->chunk;
    const pc_segment *segment = &e->loop->worker->segment;
    uint32_t begin = chunk->begin, end = chunk->count;
    bool timed = chunk->timed, stops = chunk->flags & PC_CHUNK_STOPS;
    PyObject *function = NULL;

    set_current(e, number, begin, INT64_MAX);
    for (uint32_t item = begin; item < end; item++) {
        enum pc_result_kind kind = PC_RESULT_VALUE;

        if (atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0)
            return stop_elements(chunk, item, timed);
        pc_current_call.item = item;
        if (timed)
            pc_current_call.deadline = item_deadline(chunk);
        atomic_signal_fence(memory_order_seq_cst);
        if (!start_element(chunk, item, begin, timed))
            return false;
        if (function != NULL || (function = find_for_element(e, &kind)) != NULL)
            kind = run_element(e, function, el, count);
        count_call(e->loop, kind);
        if (__builtin_expect(kind != PC_RESULT_VALUE, 0)) {
            note_failure(w, item, kind);
            if (function == NULL || stops)
                return stop_elements(chunk, item + 1, timed);
        }
        if (__builtin_expect(pc_current_call.interrupted, 0))
            return stop_elements(chunk, item + 1, timed);
        next_element(segment, el, count);
        yield_to_threads(e->loop);
    }
    return stop_elements(chunk, end, timed);
}

static bool run_columns(execution *e, chunk_writer *w, uint32_t number)
{
    elements el;
    bool done;

    if (!begin_elements(&e->loop->worker->segment, w->chunk, &el))
        return false;
    switch (el.columns.count) {
    case 2: done = run_elements(e, w, number, &el, 2); break;
    case 3: done = run_elements(e, w, number, &el, 3); break;
    default: done = run_elements(e, w, number, &el, el.columns.count); break;
    }
    drop_arguments(&el);
    return done;
}

/* Calls the function with slices of the inputs, and sees that its result gets into that of the output,
 * which is the last argument. What a function returns that is no such array is its fault. */
static enum pc_result_kind call_whole(execution *e, PyObject *function, pc_arguments *decoded, bool out)
{
    PyObject *output = decoded->items[decoded->count - 1], *result;
    PyObject *names = out ? pc_slice_out_name() : NULL;
    bool filled;
    int rc = 0;

    if (out && names == NULL)
        return exception_kind(e, false);

    publish_entered(e);
    e->ran = true;
    result = PyObject_Vectorcall(function, decoded->items,
                                 (decoded->count - 1) | PY_VECTORCALL_ARGUMENTS_OFFSET,
                                 names);
    if (__builtin_expect(in_child, 0))
        leave_child();
    if (result == NULL)
        return exception_kind(e, false);
    filled = out && (result == Py_None || result == output);
    if (!filled)
        rc = pc_slice_fill(output, result);
    Py_DECREF(result);
    if (rc == 0)
        return PC_RESULT_VALUE;
    return PyErr_ExceptionMatches(PyExc_TypeError) || PyErr_ExceptionMatches(PyExc_ValueError)
               ? PC_RESULT_BAD_TYPE
               : exception_kind(e, false);
}

static enum pc_result_kind run_slices(execution *e, const pc_chunk *chunk)
{
    pc_cursor message = item_arguments((const uint8_t *)chunk->items, 0);
    PyObject *function = find_function(e);
    enum pc_result_kind kind;
    pc_arguments decoded;

    if (function == NULL)
        return exception_kind(e, false);
    if (pc_decode_arguments(message, publish_entered, e, &decoded) < 0 || decoded.count == 0)
        kind = exception_kind(e, true);
    else
        kind = call_whole(e, function, &decoded, chunk->flags & PC_CHUNK_OUT);
    pc_arguments_clear(&decoded);
    return kind;
}

/* False: doomed. */
static bool run_whole(execution *e, chunk_writer *w, uint32_t number)
{
    pc_chunk *chunk = w->chunk;
    enum pc_result_kind kind;

    if (chunk->begin > 0 || atomic_load_explicit(&chunk->cancel, memory_order_relaxed) != 0)
        return stop_before(chunk, chunk->begin);
    set_current(e, number, 0, item_deadline(chunk));
    if (!advance(chunk, 0, 0))
        return false;
    kind = run_slices(e, chunk);
    count_call(e->loop, kind);
    if (kind != PC_RESULT_VALUE)
        note_failure(w, 0, kind);
    clear_current();
    if (pc_array_used)
        e->slot->result_ran = pc_array_end_call(false) & PC_ANSWER_RETAINED;
    return advance(chunk, 1, 0);
}

/* ---- chunks of all kinds ---- */

static bool run_kind(execution *e, chunk_writer *w, uint32_t number)
{
    switch (w->chunk->kind) {
    case PC_CHUNK_ELEMENTS: return run_columns(e, w, number);
    case PC_CHUNK_WHOLE: return run_whole(e, w, number);
    default: return run_items(e, w, number);
    }
}

/* As much as the last chunk's results took, and a little more: many chunks with few items each may wait
 * for the host at once, and all of them stand in memory. */
static size_t first_block(const loop *l, const pc_chunk *chunk)
{
    size_t items = chunk->count > chunk->begin ? chunk->count - chunk->begin : 1;
    size_t size = items * (l->arena_per_item + l->arena_per_item / 8 + 1);

    if (chunk->count == 1)
        return 0; /* just what it needs */
    return size < ARENA_BLOCK_MAX ? size : ARENA_BLOCK_MAX;
}

/* Those that fit the table took none. */
static void note_results(loop *l, const chunk_writer *w)
{
    uint64_t progress = atomic_load_explicit(&w->chunk->progress, memory_order_relaxed);
    uint32_t finished = pc_chunk_finished(progress), begin = w->chunk->begin;

    if (w->total > 0 && finished > begin)
        l->arena_per_item = w->total / (finished - begin) + 1;
}

/* False: doomed. */
static bool run_chunk(execution *e, uint32_t number)
{
    pc_worker *worker = e->loop->worker;
    pc_chunk *chunk = pc_segment_at(&worker->segment, e->slot->arguments_block);
    chunk_writer w = {.writer = {.grow = chunk_grow},
                      .worker = worker,
                      .chunk = chunk,
                      .first = first_block(e->loop, chunk)};
    int64_t start = pc_now();

    e->shape = chunk->shape;
    e->slot->result_ran = 0;
    publish_entered(e); /* per item, progress tells */
    if (!run_kind(e, &w, number))
        return false;
    note_results(e->loop, &w);
    atomic_store_explicit(&chunk->busy_ns, pc_now() - start, memory_order_relaxed);
    e->slot->result_kind = PC_RESULT_BATCH;
    e->slot->result_block = 0;
    e->slot->result_size = 0;
    return true;
}

/* ---- the loop ---- */

/* The call could not be ended: it is doomed, and we are going to be killed. Anything else is a
 * scribbled word, and our death lets the sweep set it right. */
static _Noreturn void await_death(bool doomed)
{
    while (doomed)
        pause();
    abort();
}

static bool is_doomed(const execution *e)
{
    const pc_chunk *chunk;

    if (atomic_load(&e->slot->control) & PC_FLAG_DOOMED)
        return true;
    if (!(e->slot->flags & PC_REQUEST_BATCH))
        return false;
    chunk = pc_segment_at(&e->loop->worker->segment, e->slot->arguments_block);
    return atomic_load(&chunk->progress) & PC_CHUNK_DOOMED;
}

static void run_slot(loop *l, uint32_t number, uint64_t word)
{
    pc_worker *worker = l->worker;
    pc_slot *slot = &worker->segment.slots[number];
    execution e = {.loop = l,
                   .slot = slot,
                   .generation = pc_word_generation(word),
                   .function = slot->function};
    pc_ending ending;

    if (slot->flags & PC_REQUEST_BATCH) {
        if (!run_chunk(&e, number))
            await_death(is_doomed(&e));
    } else {
        run_single(&e, number);
    }
    if (!pc_slot_finish(slot, word, &ending))
        await_death(is_doomed(&e));
    tell(worker, &ending, number);
}

static void sleep_idle(pc_worker *worker)
{
    Py_BEGIN_ALLOW_THREADS
    pc_sleeper_wait(&worker->segment.workers[worker->number].semaphore, INT64_MAX);
    Py_END_ALLOW_THREADS
    /* Handlers of the user's; ours finds no current call. */
    if (PyErr_CheckSignals() < 0)
        PyErr_WriteUnraisable(NULL);
}

/* What is kept for calls to come, where others are short of it now. */
static bool answer_shortage(loop *l)
{
    pc_worker *worker = l->worker;
    uint32_t shortages =
        atomic_load_explicit(&worker->segment.header->shortages, memory_order_relaxed);

    if (shortages == l->shortages)
        return false;
    l->shortages = shortages;
    take_back(worker);
    pc_heap_trim(&worker->heap);
    return true;
}

/* For statistics: busy is the rest. */
static void note_idle(pc_worker_record *record, bool begins)
{
    int64_t now = 2 * pc_now_coarse();
    int64_t idle = atomic_load_explicit(&record->idle, memory_order_relaxed);

    atomic_store_explicit(&record->idle, begins ? idle - now + 1 : idle - 1 + now,
                          memory_order_relaxed);
}

static void idle_awhile(loop *l)
{
    pc_worker *worker = l->worker;

    take_back(worker);
    answer_shortage(l);
    if (pc_idle_spin(&worker->segment, worker->number))
        return;
    take_back(worker);
    pc_heap_drop_kept(&worker->heap);
    if (pc_idle_publish(&worker->segment, worker->number) && !answer_shortage(l) &&
        !pc_heap_is_given_back(&worker->segment, worker->number))
        sleep_idle(worker);
    pc_idle_retract(&worker->segment, worker->number);
}

static void idle(loop *l)
{
    pc_worker_record *record = &l->worker->segment.workers[l->worker->number];

    note_idle(record, true);
    idle_awhile(l);
    note_idle(record, false);
}

int pc_loop_run(pc_worker *worker)
{
    loop l = {.worker = worker, .arena_per_item = ARENA_PER_ITEM};
    pc_segment *segment = &worker->segment;
    uint32_t slot;
    uint64_t word;

    pc_current_call.record = &segment->workers[worker->number];
    pthread_atfork(NULL, NULL, note_fork);
    pc_array_start(worker);
    while (!pc_current_call.interrupted && !worker->cut_off) {
        if (pc_ring_claim(segment, worker->number, worker->incarnation, &slot, &word)) {
            if (pc_ring_pending(segment))
                pc_idle_wake_one(segment);
            run_slot(&l, slot, word);
            yield_to_threads(&l);
        } else if (atomic_load_explicit(&segment->header->closing, memory_order_acquire)) {
            return PC_EXIT_CLOSED;
        } else {
            idle(&l);
        }
    }
    /* The exception may have left locks held or imports half done; or our descriptors are gone. */
    return PC_EXIT_RECYCLED;
}
