#define _GNU_SOURCE
#include "tests/soak/ledger.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bench/common.h"

enum { SHOWN = 10 };

ledger soak_ledger;

static const char *const kind_texts[] = {
#define KIND_TEXT(name, text) text,
    SOAK_KINDS(KIND_TEXT)
#undef KIND_TEXT
};

static const char *const fault_texts[] = {
#define FAULT_TEXT(name, text) text,
    SOAK_FAULTS(FAULT_TEXT)
#undef FAULT_TEXT
};

static const char *const outcome_texts[] = {"none",      "returned",  "raised", "died",
                                            "timed out", "cancelled", "other"};

/* ---- the memory ------------------------------------------------------------------------------ */

/* Neither part is this program's private memory, whose growth is watched; nor any of pycrew's. */
void ledger_open(size_t capacity)
{
    ledger *l = &soak_ledger;
    l->capacity = capacity;
    l->fd = memfd_create("soak-ledger", MFD_CLOEXEC);
    if (l->fd < 0 || ftruncate(l->fd, (off_t)(capacity * sizeof *l->runs)) < 0)
        fail("no memory for the ledger: %s", strerror(errno));
    l->runs = mmap(NULL, capacity * sizeof *l->runs, PROT_READ, MAP_SHARED, l->fd, 0);
    l->calls = mmap(NULL, capacity * sizeof *l->calls, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (l->runs == MAP_FAILED || l->calls == MAP_FAILED)
        fail("no memory for the ledger: %s", strerror(errno));
}

void ledger_close(void)
{
    munmap(soak_ledger.runs, soak_ledger.capacity * sizeof *soak_ledger.runs);
    munmap(soak_ledger.calls, soak_ledger.capacity * sizeof *soak_ledger.calls);
    close(soak_ledger.fd);
}

/* ---- faults ---------------------------------------------------------------------------------- */

void ledger_fault(enum fault fault, size_t index, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    if (atomic_fetch_add(&soak_ledger.faults[fault], 1) >= SHOWN)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (index >= soak_ledger.capacity) {
        fprintf(stderr, "FAULT, %s: %s\n", fault_texts[fault], text);
        return;
    }
    const ledger_call *call = &soak_ledger.calls[index];
    const ledger_run *run = &soak_ledger.runs[index];
    fprintf(stderr,
            "FAULT, %s: call %zu (%s): %s\n"
            "    operation %u, flags %u, retries %u; %u ends, the last: %s, attempts %u; begun %u, "
            "left %u, changed %u\n",
            fault_texts[fault], index, kind_texts[call->kind], text, call->op, call->flags,
            call->retries, call->ends, outcome_texts[call->outcome], call->attempts, run->begun,
            run->left, run->changed);
}

uint64_t ledger_faults(void)
{
    uint64_t sum = 0;
    for (int i = 0; i < FAULTS; i++)
        sum += atomic_load(&soak_ledger.faults[i]);
    return sum;
}

/* ---- an end ---------------------------------------------------------------------------------- */

static enum outcome outcome_of(const pycrew_error *error)
{
    if (!error)
        return OUTCOME_RETURNED;
    switch (error->code) {
    case PYCREW_ERAISED:
        return OUTCOME_RAISED;
    case PYCREW_EDIED:
        return OUTCOME_DIED;
    case -ETIMEDOUT:
        return OUTCOME_TIMED_OUT;
    case -ECANCELED:
        return OUTCOME_CANCELLED;
    default:
        return OUTCOME_OTHER;
    }
}

static bool dies_of_itself(enum op op)
{
    return (op >= OP_EXIT && op <= OP_CHANGE) || op == OP_ASK_DIE;
}

static bool may_return(const ledger_call *call)
{
    return call->op == OP_ADD || call->op == OP_ECHO || call->op == OP_SLEEP ||
           (call->op >= OP_COPY && call->op < OP_ASK_FAIL) ||
           ((call->op == OP_DIE_ONCE || call->op == OP_CHANGE) && call->retries > 0);
}

/* To one worker, and so to whatever else ends that. */
static bool is_tied(const ledger_call *call)
{
    return call->kind == KIND_ACTOR || call->kind == KIND_STREAM;
}

static bool may_end_so(const ledger_call *call, enum outcome outcome)
{
    bool shared = call->kind == KIND_SLICES; /* the end of all in it, whose ever it is */
    bool tied = is_tied(call);

    switch (outcome) {
    case OUTCOME_RETURNED:
        return may_return(call);
    case OUTCOME_RAISED:
        return call->op == OP_FAIL || call->op == OP_ASK_FAIL || shared;
    case OUTCOME_DIED:
        return shared || tied || dies_of_itself(call->op) || call->flags & CALL_COROUTINE || soak_ledger.workers_die ||
               soak_ledger.zygotes_die;
    case OUTCOME_TIMED_OUT:
        return call->flags & CALL_DEADLINE;
    case OUTCOME_CANCELLED:
        return call->flags & CALL_ASKED;
    default:
        return false;
    }
}

/* Whether a death's cause is one of this call's, or the killer's. How workers end that go with
 * their zygote nobody knows for sure. */
static bool cause_is_known(const ledger_call *call, const pycrew_error *error)
{
    if (call->flags & CALL_COROUTINE) /* of whatever one beside it died of */
        return error->signal != 0 || error->exit_status != 0;
    if (is_tied(call) || (soak_ledger.workers_die && error->signal == SIGKILL))
        return true;
    if (soak_ledger.zygotes_die && error->exit_status == 0 &&
        (error->signal == 0 || error->signal == SIGKILL))
        return true;
    switch (call->op) {
    case OP_EXIT:
        return error->exit_status == 7;
    case OP_ABORT:
        return error->signal == SIGABRT;
    case OP_CRASH:
        return error->signal == SIGSEGV;
    case OP_KILL:
    case OP_CHANGE:
    case OP_ASK_DIE:
        return error->signal == SIGKILL;
    case OP_DIE_ONCE:
        return error->exit_status == 7 || error->signal == SIGABRT || error->signal == SIGSEGV ||
               error->signal == SIGKILL;
    default:
        return false;
    }
}

static void note_end(size_t index, const pycrew_error *error)
{
    ledger_call *call = &soak_ledger.calls[index];
    enum outcome outcome = outcome_of(error);
    call->ends++;
    call->outcome = (uint8_t)outcome;
    if (error) {
        call->attempts = (uint8_t)(error->attempts < 255 ? error->attempts : 255);
        call->flags |= error->may_have_run ? CALL_MAY_HAVE_RUN : 0;
    }
    if (!may_end_so(call, outcome))
        ledger_fault(FAULT_WRONG, index, "it cannot end so: %s (%d)%s%s",
                     error ? error->message : "returned", error ? error->code : 0,
                     error && error->traceback ? "\n" : "",
                     error && error->traceback ? error->traceback : "");
}

void ledger_end_code(size_t index, int code)
{
    pycrew_error error = {
        .code = code, .message = "a map's", .attempts = 255, .may_have_run = true};

    note_end(index, code != 0 ? &error : NULL);
}

void ledger_end(size_t index, const pycrew_error *error)
{
    const ledger_call *call = &soak_ledger.calls[index];

    note_end(index, error);
    if (outcome_of(error) == OUTCOME_DIED && !cause_is_known(call, error))
        ledger_fault(FAULT_WRONG, index, "not what its worker died of: signal %d, status %d\n%s",
                     error->signal, error->exit_status, error->traceback ? error->traceback : "");
}

/* ---- questions to the host ------------------------------------------------------------------- */

enum { MAY_ASK = 128 };

void ledger_may_ask(size_t index)
{
    atomic_store(&soak_ledger.calls[index].asked, MAY_ASK);
}

bool ledger_asked(size_t index)
{
    return atomic_fetch_add(&soak_ledger.calls[index].asked, 1) & MAY_ASK;
}

/* How often it asks each time that it runs. */
static unsigned questions_of(const ledger_call *call)
{
    return call->kind != KIND_ASK ? 0 : call->op == OP_ASK_PARTS ? SOAK_PARTS : 1;
}

/* ---- the comparison -------------------------------------------------------------------------- */

static void judge_end(size_t index, const ledger_call *call)
{
    unsigned expected = call->flags & CALL_RELEASED ? 0 : 1;
    if (call->ends < expected)
        ledger_fault(FAULT_LOST, index, "no end");
    else if (call->ends > expected)
        ledger_fault(FAULT_DOUBLED, index, "%u ends", call->ends);
    if (call->flags & CALL_TOO_LATE && call->outcome == OUTCOME_CANCELLED)
        ledger_fault(FAULT_UNTRUE, index, "cancelled, though it had ended before");
}

enum { BESIDE_MAX = 3 };

static void judge_runs(size_t index, const ledger_call *call, const ledger_run *run)
{
    bool failed = call->outcome != OUTCOME_RETURNED && call->outcome != OUTCOME_NONE;
    /* Who died of another call's may run again, and is not charged with it. */
    unsigned beside = call->flags & CALL_COROUTINE && call->retries > 0 ? call->retries + BESIDE_MAX : 0;
    if (run->begun > 1u + call->retries + beside)
        ledger_fault(FAULT_DOUBLED, index, "it ran more often than it may");
    if (failed && run->begun > call->attempts)
        ledger_fault(FAULT_UNTRUE, index, "it ran more often than was attempted");
    if (failed && run->begun > 0 && !(call->flags & CALL_MAY_HAVE_RUN))
        ledger_fault(FAULT_UNTRUE, index, "it ran, and certainly did not run");
    if (call->outcome == OUTCOME_RETURNED && (run->begun == 0 || run->left == 0))
        ledger_fault(FAULT_UNTRUE, index, "it returned, and did not run to its end");
    if (call->outcome == OUTCOME_RAISED && run->begun == 0)
        ledger_fault(FAULT_UNTRUE, index, "it raised, and did not run");
    if (run->left > run->begun)
        ledger_fault(FAULT_DOUBLED, index, "left more often than begun");
    if (run->begun > 0 && (run->changed || run->check != call->check))
        ledger_fault(FAULT_CHANGED, index, "it ran with other arguments: %x, not %x", run->check,
                     call->check);
}

static void judge_questions(size_t index, const ledger_call *call, const ledger_run *run)
{
    unsigned asked = call->asked % MAY_ASK, expected = questions_of(call);
    if (asked > expected * run->begun)
        ledger_fault(FAULT_DOUBLED, index, "the host was asked %u times", asked);
    if ((call->outcome == OUTCOME_RETURNED || call->outcome == OUTCOME_RAISED) && asked < expected)
        ledger_fault(FAULT_UNTRUE, index, "it ended with an answer, and the host was asked %u times",
                     asked);
}

void ledger_judge(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const ledger_call *call = &soak_ledger.calls[i];
        const ledger_run *run = &soak_ledger.runs[i];
        if (call->flags & CALL_SUBMITTED) {
            judge_end(i, call);
            judge_runs(i, call, run);
            judge_questions(i, call, run);
        } else if (run->begun > 0) {
            ledger_fault(FAULT_UNTRUE, i, "it was never submitted, and ran");
        }
    }
}

/* ---- the table ------------------------------------------------------------------------------- */

enum { COLUMN_CALLS, COLUMN_RELEASED = OUTCOMES, COLUMN_RETRIED, COLUMNS };

static void count_call(const ledger_call *call, const ledger_run *run, size_t row[COLUMNS])
{
    row[COLUMN_CALLS]++;
    row[call->outcome] += call->outcome != OUTCOME_NONE;
    row[COLUMN_RELEASED] += (call->flags & CALL_RELEASED) != 0;
    row[COLUMN_RETRIED] += run->begun > 1;
}

static void count_calls(size_t count, size_t table[KINDS + 1][COLUMNS])
{
    for (size_t i = 0; i < count; i++) {
        const ledger_call *call = &soak_ledger.calls[i];
        if (!(call->flags & CALL_SUBMITTED))
            continue;
        count_call(call, &soak_ledger.runs[i], table[call->kind]);
        count_call(call, &soak_ledger.runs[i], table[KINDS]);
    }
}

static void print_row(const char *text, const size_t row[COLUMNS])
{
    printf("  %-26s", text);
    for (int column = 0; column < COLUMNS; column++)
        if (column != OUTCOME_OTHER)
            printf(" %10zu", row[column]);
    printf("\n");
}

void ledger_print(size_t count)
{
    size_t table[KINDS + 1][COLUMNS] = {{0}};
    count_calls(count, table);
    printf("\n  %-26s %10s %10s %10s %10s %10s %10s %10s %10s\n", "", "calls", "returned", "raised",
           "died", "timed out", "cancelled", "released", "run again");
    for (int kind = 0; kind < KINDS; kind++)
        print_row(kind_texts[kind], table[kind]);
    print_row("all", table[KINDS]);
    printf("\n  must be 0:");
    for (int i = 0; i < FAULTS; i++)
        printf("%s %s %llu", i ? "," : "", fault_texts[i],
               (unsigned long long)atomic_load(&soak_ledger.faults[i]));
    printf("\n");
}
