/* ledger.h: what became of each call, written down twice: by the functions called, in memory that
 * is the test's own (nothing of pycrew's), and by the host, from what pycrew says. In the end the
 * two are compared, call by call.
 */
#ifndef SOAK_LEDGER_H
#define SOAK_LEDGER_H

#include <pycrew.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the function does; soak_ops.py has the same numbers. */
enum op {
    OP_ADD,
    OP_ECHO,
    OP_FAIL, /* raises */
    OP_EXIT, /* dies: by _exit(7), SIGABRT, SIGSEGV, SIGKILL */
    OP_ABORT,
    OP_CRASH,
    OP_KILL,
    OP_DIE_ONCE, /* dies when it first runs, then it adds */
    OP_CHANGE,   /* the same, and changes its argument before */
    OP_SLEEP,    /* and adds; the others never return: */
    OP_SPIN,
    OP_STICK, /* in C, and holds the GIL */
    OP_MATCH, /* a catastrophic regular expression */
    OP_SWALLOW,
    OP_STOP,
    OP_COPY,      /* an array: into one of pycrew.empty, which is returned */
    OP_SAME,      /* returns it */
    OP_NEW,       /* returns a copy that is elsewhere, and copied once more */
    OP_KEEP,      /* keeps the view, and looks whether those kept before are what they were */
    OP_KEEP_COPY, /* the same with the array that it returns */
    OP_INVERT,    /* changes each byte in place */
    OP_ASK,       /* the host, and returns what that says */
    OP_ASK_ECHO,
    OP_ASK_CATCH, /* the host's exception */
    OP_ASK_SLOW,  /* for something that takes b microseconds */
    OP_ASK_PARTS, /* by several threads at a time */
    OP_ASK_FAIL,  /* raises what the host did */
    OP_ASK_DIE    /* while a thread of its own asks; never returns */
};

enum { SOAK_PARTS = 3 }; /* of OP_ASK_PARTS */

/* How the host makes its calls, a row of the table each. X(name, text) */
#define SOAK_KINDS(X)                                                                              \
    X(KIND_SINGLE, "one by one")                                                                   \
    X(KIND_PIPELINED, "pipelined")                                                                 \
    X(KIND_LOOP, "reaped by an event loop")                                                        \
    X(KIND_QUEUE, "queue, cancels, releases")                                                      \
    X(KIND_BATCH, "batch")                                                                         \
    X(KIND_ROUGH_BATCH, "batch with all of it")                                                    \
    X(KIND_BYTES, "bytes up to 4 MB")                                                              \
    X(KIND_DEADLINE, "deadline")                                                                   \
    X(KIND_CRASH, "crash, some with retries")                                                      \
    X(KIND_CANCEL, "cancelled")                                                                    \
    X(KIND_RELEASE, "released before the end")                                                     \
    X(KIND_ARRAY, "arrays in, out, taken")                                                         \
    X(KIND_KEPT, "views that Python keeps")                                                        \
    X(KIND_WRITABLE, "arrays written, copied back")                                                \
    X(KIND_MAP, "map, elements")                                                                   \
    X(KIND_SLICES, "map, slices")                                                                  \
    X(KIND_ACTOR, "an actor's methods")                                                            \
    X(KIND_STREAM, "a stream's items")                                                             \
    X(KIND_ASK, "calls that ask the host")

enum kind {
#define SOAK_KIND_ENUM(name, text) name,
    SOAK_KINDS(SOAK_KIND_ENUM)
#undef SOAK_KIND_ENUM
        KINDS
};

enum outcome {
    OUTCOME_NONE,
    OUTCOME_RETURNED,
    OUTCOME_RAISED,
    OUTCOME_DIED,
    OUTCOME_TIMED_OUT,
    OUTCOME_CANCELLED,
    OUTCOME_OTHER,
    OUTCOMES
};

enum { /* ledger_call.flags */
       CALL_SUBMITTED = 1,
       CALL_DEADLINE = 2,     /* it has one */
       CALL_ASKED = 4,        /* cancel said: it will end */
       CALL_TOO_LATE = 8,     /* cancel said: it had ended */
       CALL_RELEASED = 16,    /* before its end: nobody hears of that */
       CALL_MAY_HAVE_RUN = 32, /* its error says so */
       CALL_COROUTINE = 64
};

/* The host's part. */
typedef struct ledger_call {
    uint32_t check; /* what its arguments come to */
    uint8_t kind, op, flags, retries;
    uint8_t ends, outcome, attempts;
    _Atomic uint8_t asked; /* how often the host's functions ran for it, and whether they may */
} ledger_call;

/* The workers' part. */
typedef struct ledger_run {
    uint8_t begun, left, changed, unused; /* changed: began with other arguments than before */
    uint32_t check;
} ledger_run;

/* What must not be. X(name, text) */
#define SOAK_FAULTS(X)                                                                             \
    X(FAULT_LOST, "lost")           /* no end */                                                   \
    X(FAULT_DOUBLED, "doubled")     /* two ends, or a run more than allowed */                     \
    X(FAULT_WRONG, "wrong")         /* a result, an order, an end that cannot be */                \
    X(FAULT_UNTRUE, "untrue")       /* said and ledger disagree */                                 \
    X(FAULT_CHANGED, "changed")     /* ran with other arguments than it was given */               \
    X(FAULT_HUNG, "hung")           /* not ended within its bound */                               \
    X(FAULT_LEAKED, "leaked")       /* memory, descriptors, processes, names */                    \
    X(FAULT_DAMAGE, "false alarms") /* "written over", where nobody does */

enum fault {
#define SOAK_FAULT_ENUM(name, text) name,
    SOAK_FAULTS(SOAK_FAULT_ENUM)
#undef SOAK_FAULT_ENUM
        FAULTS
};

typedef struct ledger {
    size_t capacity;
    ledger_call *calls;
    ledger_run *runs;
    int fd;                        /* of runs */
    bool workers_die, zygotes_die; /* by a killer; else only by what they run */
    _Atomic uint64_t faults[FAULTS];
} ledger;

extern ledger soak_ledger;

void ledger_open(size_t capacity);
void ledger_close(void);

/* Counts it, and says what it was, for the first of each. */
void ledger_fault(enum fault fault, size_t index, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
uint64_t ledger_faults(void);

/* How a call ended: with a result if error is NULL. */
void ledger_end(size_t index, const pycrew_error *error);

/* The same of a map's element, of which nothing but a code is told; 0: a result. */
void ledger_end_code(size_t index, int code);

/* Its call may ask the host from now on; and that is asked: false if it may not. */
void ledger_may_ask(size_t index);
bool ledger_asked(size_t index);

/* After close, when nothing can run any more: compares the two for the first count calls. */
void ledger_judge(size_t count);
void ledger_print(size_t count);

#endif
