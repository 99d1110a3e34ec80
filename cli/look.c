#include "cli/look.h"

#include <stdlib.h>
#include <string.h>

#include "lib/shm/chunk.h"
#include "lib/shm/heap.h"
#include "lib/shm/idle.h"

const char *const look_state_names[LOOK_STATES] = {"idle", "busy", "starting", "backing off",
                                                   "leaving"};

/* What was seen of a worker at the last look, and of a slot since it has its generation. */
struct worker_before {
    uint32_t incarnation;
    uint64_t calls, errors;
    int64_t idle_ns;
};

struct slot_before {
    uint32_t generation, holder; /* holder: of its word, the worker and its incarnation, plus 1 */
    int64_t first;               /* when it was submitted, or seen */
    int64_t began, seen_running; /* it began to run between the two; 0: not yet */
    bool at_least;
};

struct looker {
    int64_t before; /* when the last look was; 0: there was none */
    struct worker_before *workers;
    struct slot_before *slots;
    pc_histogram_sum times[PC_TIMES]; /* of all workers, since the crew began */
    struct look look;
};

struct looker *looker_new(const pc_config *config)
{
    struct looker *l = allocate_zeroed(1, sizeof *l);
    l->workers = allocate_zeroed(config->workers, sizeof l->workers[0]);
    l->slots = allocate_zeroed(config->slots, sizeof l->slots[0]);
    l->look.worker = allocate_zeroed(config->workers, sizeof l->look.worker[0]);
    l->look.workers = config->workers;
    return l;
}

static void forget_names(struct look *look)
{
    for (unsigned i = 0; i < look->workers; i++)
        free(look->worker[i].call.function);
    free(look->waiting.function);
}

void looker_free(struct looker *l)
{
    if (l == NULL)
        return;
    forget_names(&l->look);
    free(l->look.worker);
    free(l->slots);
    free(l->workers);
    free(l);
}

static int64_t within(int64_t value, int64_t limit)
{
    return value < 0 ? 0 : value < limit ? value : limit;
}

/* ---- slots ----------------------------------------------------------------------------------- */

/* When the host took the call, if it left that, and where nothing was written over it yet; 0: not
 * known. */
static int64_t submitted(const pc_slot *slot, int64_t now)
{
    pc_time_mark mark;
    if (!(slot->flags & PC_REQUEST_TIMED))
        return 0;
    memcpy(&mark, slot->result, sizeof mark);
    return mark.weight > 0 && mark.submitted > 0 && mark.submitted <= now ? mark.submitted : 0;
}

/* Both ages of a call: since its submit, and since it runs. */
static void follow_slot(struct looker *l, const pc_slot *slot, uint64_t word, int64_t now,
                        struct slot_before *s)
{
    uint32_t generation = pc_word_generation(word);
    uint32_t holder = (uint32_t)(word >> PC_WORKER_SHIFT & 0xffffff) + 1;
    int64_t submit = submitted(slot, now);
    if (s->generation != generation || s->first == 0)
        *s = (struct slot_before){.generation = generation,
                                  .first = submit != 0 ? submit : now,
                                  .at_least = submit == 0 && l->before == 0};
    if (pc_word_state(word) != PC_CLAIMED) {
        s->began = 0;
    } else if (s->began == 0 || s->holder != holder) {
        /* It began behind the last look, where we did not see it. */
        s->began = l->before > s->first ? l->before : s->first;
        s->seen_running = now;
        s->holder = holder;
    }
}

static const char *kind_of(const pc_slot *slot)
{
    switch (slot->flags & PC_REQUEST_KIND) {
    case PC_KIND_KEEP:
        return "actor";
    case PC_KIND_STREAM:
        return "stream";
    case PC_KIND_METHOD:
        return "method";
    case PC_KIND_NEXT:
        return "next";
    case PC_KIND_DROP:
        return "close";
    default:
        return "call";
    }
}

static void describe_chunk(const struct attached *attached, const pc_slot *slot,
                           struct look_call *call)
{
    pc_chunk chunk;
    call->kind = "batch";
    if (!attach_peek(attached, slot->arguments_block, &chunk, sizeof chunk) || chunk.count == 0 ||
        chunk.count > PC_CHUNK_ITEMS_MAX)
        return;
    uint32_t done = pc_chunk_finished(atomic_load(&chunk.progress));
    call->kind = chunk.kind == PC_CHUNK_ITEMS ? "batch" : "map";
    call->items = chunk.count;
    call->done = done < chunk.count ? done : chunk.count;
}

static void describe(const struct attached *attached, struct look_call *call)
{
    const pc_slot *slot = &attached->segment.slots[call->slot];
    struct buffer name = {0};
    attach_function_name(attached, slot->function, &name);
    call->function = copy_bytes(buffer_string(&name), name.size);
    buffer_free(&name);
    call->kind = kind_of(slot);
    if (slot->flags & PC_REQUEST_BATCH)
        describe_chunk(attached, slot, call);
}

static enum look_bound bound_of(const struct slot_before *s, int64_t since, int64_t age)
{
    if (s->at_least)
        return LOOK_AT_LEAST;
    return since == s->began && s->seen_running - since > age / 8 ? LOOK_AT_MOST : LOOK_EXACT;
}

/* Of a worker's calls, or of those that wait, the oldest stays in *call. */
static void keep_oldest(struct look_call *call, bool first, uint32_t number,
                        const struct slot_before *s, int64_t since, int64_t now)
{
    int64_t age = within(now - since, INT64_MAX);
    if (!first && age <= call->age_ns)
        return;
    *call = (struct look_call){.slot = number,
                               .generation = s->generation,
                               .age_ns = age,
                               .bound = bound_of(s, since, age)};
}

static void look_at_slots(struct looker *l, const pc_segment *segment, int64_t now)
{
    struct look *look = &l->look;
    for (uint32_t i = 0; i < segment->config.slots; i++) {
        uint64_t word = atomic_load(&segment->slots[i].control);
        unsigned worker = pc_word_worker(word);
        bool queued = pc_word_is_queued(word);
        struct slot_before *s = &l->slots[i];
        if (!queued && (pc_word_state(word) != PC_CLAIMED || worker >= look->workers)) {
            s->first = 0;
            continue;
        }
        follow_slot(l, &segment->slots[i], word, now, s);
        look->in_flight++;
        if (queued) {
            keep_oldest(&look->waiting, look->queued++ == 0, i, s, s->first, now);
        } else {
            struct look_worker *w = &look->worker[worker];
            keep_oldest(&w->call, w->held++ == 0, i, s, s->began, now);
        }
    }
}

/* ---- workers --------------------------------------------------------------------------------- */

static enum look_state state_of(const pc_worker_record *record, unsigned held)
{
    switch (atomic_load(&record->stage)) {
    case PC_STAGE_GONE:
        return LOOK_BACKING_OFF;
    case PC_STAGE_STARTING:
        return LOOK_STARTING;
    case PC_STAGE_LEAVING:
        return LOOK_LEAVING;
    default:
        return held > 0 ? LOOK_BUSY : LOOK_IDLE;
    }
}

/* As lib/stats.c reads it: twice the nanoseconds; while it is idle less the time it began, and 1
 * more. */
static int64_t idle_of(const pc_worker_record *record, int64_t now, int64_t lived)
{
    int64_t word = atomic_load(&record->idle), idle = word / 2;
    if (word & 1)
        idle = (int64_t)((uint64_t)(word >> 1) + (uint64_t)now);
    return within(idle, lived);
}

static void count_rates(struct looker *l, const pc_worker_record *record, int64_t now,
                        struct look_worker *w)
{
    struct worker_before *b = &l->workers[w->number];
    int64_t lived = within(now - atomic_load(&record->admitted), INT64_MAX), span = lived;
    int64_t idle = idle_of(record, now, lived), idle_before = 0;
    uint64_t calls = 0, errors = 0;
    if (l->before != 0 && b->incarnation == w->incarnation && now - l->before < lived) {
        span = now - l->before;
        idle_before = b->idle_ns;
        calls = b->calls;
        errors = b->errors;
    }
    if (span > 0 && w->calls >= calls)
        w->calls_per_s = (double)(w->calls - calls) * 1e9 / (double)span;
    if (span > 0 && w->errors >= errors)
        l->look.errors_per_s += (double)(w->errors - errors) * 1e9 / (double)span;
    if (span > 0)
        w->busy = 1 - (double)within(idle - idle_before, span) / (double)span;
    *b = (struct worker_before){w->incarnation, w->calls, w->errors, idle};
}

static void look_at_worker(struct looker *l, const struct attached *attached, int64_t now,
                           struct look_worker *w)
{
    const pc_worker_record *record = &attached->segment.workers[w->number];
    struct look *look = &l->look;
    struct process process;
    uint32_t sleep, pid = atomic_load(&record->pid);
    w->state = state_of(record, w->held);
    w->pid = pid < INT32_MAX ? (pid_t)pid : 0;
    w->incarnation = atomic_load(&record->incarnation);
    w->deaths = atomic_load(&record->deaths);
    w->asleep = w->state == LOOK_IDLE && pc_idle_is_asleep(&attached->segment, w->number, &sleep);
    if (attach_process(w->pid, &process) && attach_is_worker(attached, w->pid, &process)) {
        w->is_ours = true;
        w->rss = process.rss;
    }
    if (w->state == LOOK_IDLE || w->state == LOOK_BUSY || w->state == LOOK_LEAVING) {
        w->calls = atomic_load(&record->calls);
        w->errors = atomic_load(&record->errors);
        count_rates(l, record, now, w);
    }
    if (w->held > 0)
        describe(attached, &w->call);
    look->states[w->state]++;
    look->asleep += w->asleep;
    look->deaths += w->deaths;
    look->calls_per_s += w->calls_per_s;
    look->busy += w->busy;
    if (w->held > 0 &&
        (look->oldest < 0 || w->call.age_ns > look->worker[look->oldest].call.age_ns))
        look->oldest = (int)w->number;
}

/* ---- latency --------------------------------------------------------------------------------- */

static struct look_times times_of(const pc_histogram_sum *sum)
{
    return (struct look_times){.count = sum->count,
                               .p50 = pc_histogram_quantile(sum, 0.5),
                               .p90 = pc_histogram_quantile(sum, 0.9),
                               .p99 = pc_histogram_quantile(sum, 0.99),
                               .p999 = pc_histogram_quantile(sum, 0.999),
                               .max = sum->max < INT64_MAX ? (int64_t)sum->max : INT64_MAX};
}

/* What came since, if nothing was made anew between. The most of it is known only as the end of a
 * bucket. */
static struct look_times times_between(const pc_histogram_sum *before, const pc_histogram_sum *sum)
{
    pc_histogram_sum since = {.max = sum->max};
    uint64_t count = 0;
    for (unsigned i = 0; i < PC_HISTOGRAM_BUCKETS; i++) {
        if (sum->buckets[i] < before->buckets[i])
            return (struct look_times){0};
        since.buckets[i] = sum->buckets[i] - before->buckets[i];
        count += since.buckets[i];
        if (since.buckets[i] > 0 && i + 1 < PC_HISTOGRAM_BUCKETS &&
            (i == 0 || pc_histogram_start(i + 1) < sum->max))
            since.max = pc_histogram_start(i + 1);
        else if (since.buckets[i] > 0)
            since.max = sum->max;
    }
    since.count = count;
    return count > 0 ? times_of(&since) : (struct look_times){0};
}

static void look_at_times(struct looker *l, const pc_segment *segment)
{
    for (unsigned k = 0; k < PC_TIMES; k++) {
        pc_histogram_sum sum = {0};
        for (unsigned i = 0; i < l->look.workers; i++)
            pc_histogram_add(&sum, &segment->times[i].of[k]);
        l->look.times[k] = times_of(&sum);
        l->look.recent[k] = l->before != 0 ? times_between(&l->times[k], &sum) : l->look.times[k];
        l->times[k] = sum;
    }
}

/* ---- all of it ------------------------------------------------------------------------------- */

static uint64_t memory_used(const pc_segment *segment)
{
    uint64_t used = segment->spans_offset;
    for (uint32_t i = 0; i < segment->config.spans; i++)
        if (atomic_load(&segment->span_owners[i]) != PC_OWNER_FREE)
            used += PC_SPAN_SIZE;
    return used;
}

static void begin_look(struct look *look)
{
    struct look_worker *workers = look->worker;
    unsigned count = look->workers;
    forget_names(look);
    *look = (struct look){.workers = count, .worker = workers, .oldest = -1};
    memset(workers, 0, count * sizeof workers[0]);
    for (unsigned i = 0; i < count; i++)
        workers[i].number = i;
}

const struct look *looker_look(struct looker *l, const struct attached *attached)
{
    const pc_segment *segment = &attached->segment;
    struct look *look = &l->look;
    int64_t now = pc_now();
    begin_look(look);
    look->interval_s = l->before != 0 ? (double)(now - l->before) / 1e9 : 0;
    look_at_slots(l, segment, now);
    look_at_times(l, segment);
    for (unsigned i = 0; i < PC_OUTCOMES; i++)
        look->outcomes[i] = atomic_load(&segment->header->outcomes[i]);
    for (unsigned i = 0; i < look->workers; i++)
        look_at_worker(l, attached, now, &look->worker[i]);
    if (look->queued > 0)
        describe(attached, &look->waiting);
    look->memory_used = memory_used(segment);
    look->memory_max = segment->size;
    look->resident = attached->resident;
    look->closing = atomic_load(&segment->header->closing) != 0;
    l->before = now;
    return look;
}
