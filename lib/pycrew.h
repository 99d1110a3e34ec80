/* pycrew: a crew of Python workers for a C or C++ program.
 *
 * A crew is N processes, each with its own Python interpreter. Calls go to them through shared
 * memory and run in parallel; results come back in place. A worker that crashes is an error code
 * to its caller and is replaced. The calling program never loads Python.
 *
 *     pycrew_crew *crew = NULL;
 *     int sum;
 *     if (pycrew_open(&crew, NULL) < 0 ||
 *         pycrew_run(crew, "math_ops:add", "ii>i", 3, 5, &sum) < 0)
 *         fprintf(stderr, "%s\n", pycrew_last_error()->message);
 *     pycrew_close(crew);
 *
 * Codes      What can fail returns 0 (or a count), or a negative code: a negated errno where one
 *            fits, else one of PYCREW_CODES. pycrew_last_error() has the detail, for this thread.
 *            On failure outputs are untouched, but pycrew_map's: begin pointers with NULL.
 * Ownership  What a call or a batch item returns lives until that is released. Functions that
 *            close or release take NULL. Each thing is released once, for it may be another's from then
 *            on; the crew is closed last, and all that is left of it is gone then.
 * Threads    Everything is thread-safe, except that one call, batch or queue is used by one thread
 *            at a time. Only functions with a timeout, and open, close, the run and map functions,
 *            pycrew_actor_new and pycrew_actor_run, sleep.
 * Fork       In a child all functions of an inherited crew are PYCREW_EFORKED, and release and its kin do
 *            nothing; pycrew_close gives back the child's memory and leaves the parent's crew alone.
 * Time       int64_t nanoseconds. A timeout of PYCREW_FOREVER never ends, 0 does not wait.
 * Signals    Workers use SIGRTMAX-1 (interrupt) and SIGRTMAX-2 (stack); the host none.
 */
#ifndef PYCREW_H
#define PYCREW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PYCREW_API __attribute__((visibility("default")))
#else
#define PYCREW_API
#endif

#define PYCREW_FOREVER ((int64_t)-1)

/* Codes beyond errno. X(name, value, text) */
#define PYCREW_CODES(X)                                                                            \
    X(PYCREW_ERAISED, -2001, "the Python function raised an exception")                            \
    X(PYCREW_EDIED, -2002, "the worker that ran the call died")                                    \
    X(PYCREW_ETYPE, -2003, "the result is not of the type asked for")                              \
    X(PYCREW_ESTART, -2004, "Python workers cannot be started")                                    \
    X(PYCREW_EFORKED, -2005, "the crew was opened by a parent of this process")

enum pycrew_code {
#define PYCREW_CODE_ENUM(name, value, text) name = (value),
    PYCREW_CODES(PYCREW_CODE_ENUM)
#undef PYCREW_CODE_ENUM
};

typedef struct pycrew_crew pycrew_crew;         /* the workers and their shared memory */
typedef struct pycrew_function pycrew_function; /* "package.module:name.in.it" */
typedef struct pycrew_call pycrew_call;         /* one call, from prepare to release */
typedef struct pycrew_batch pycrew_batch;       /* a stream of calls of one function */
typedef struct pycrew_queue pycrew_queue;       /* where finished calls are collected */
typedef struct pycrew_host_call pycrew_host_call; /* Python's call of an exported function */
typedef struct pycrew_actor pycrew_actor;       /* an object that stays in one worker */

/* A place in a result: passed by value, made by the library, valid as long as its result. */
typedef struct pycrew_value {
    const void *at, *end;
    uint64_t reserved;
} pycrew_value;

/* ---- errors ---------------------------------------------------------------------------------- */

/* What went wrong. Made by the library only. Strings are UTF-8, never NULL where the comment does
 * not say so. */
typedef struct pycrew_error {
    size_t size;
    int code;
    const char *function;  /* "module:name", or NULL where no submitted call was involved */
    const char *type;      /* the exception's qualified type ("ValueError", "json.decoder.JSONDecodeError"), or NULL */
    const char *message;   /* one line for people; str() of the exception, where there is one, at most 64 KiB */
    const char *traceback; /* the Python traceback, or the Python stack at a deadline or a crash, or NULL;
                              at most 256 KiB, NULL too where no memory is left for it */
    int signal;            /* of the worker, where it died by one, else 0 */
    int exit_status;       /* of the worker, where it died by exit(), else 0 */
    bool may_have_run;     /* false: the function was certainly never entered */
    bool out_of_memory;    /* the kernel's out-of-memory killer is the likely cause */
    unsigned attempts;     /* how many workers took the call up; 0: none */
} pycrew_error;

PYCREW_API const char *pycrew_version(void); /* "0.1.0" */

/* A fixed English text for any code, errno or ours. Never NULL. */
PYCREW_API const char *pycrew_strerror(int code);

/* The detail of this thread's last failed function; code 0 if none has failed. Valid until the
 * next pycrew function this thread calls. Never NULL. */
PYCREW_API const pycrew_error *pycrew_last_error(void);

/* ---- the crew -------------------------------------------------------------------------------- */

enum { /* pycrew_options.output */
    PYCREW_LOG = 0,     /* to log, line by line, with the worker's number */
    PYCREW_INHERIT = 1, /* the host's own stdout and stderr */
    PYCREW_DISCARD = 2
};

enum { /* levels given to log */
    PYCREW_LOG_OUTPUT = 0,  /* a line a worker printed: "[w3] text" */
    PYCREW_LOG_WARNING = 1, /* a worker died, a thread alive after the preload, ... */
    PYCREW_LOG_ERROR = 2    /* workers cannot be started */
};

/* Start from PYCREW_OPTIONS_INIT. Lists end with NULL. All is copied by pycrew_open. */
typedef struct pycrew_options {
    size_t size;                /* set by PYCREW_OPTIONS_INIT */
    unsigned workers;           /* 0: one for each CPU this process may use (affinity and cgroup) */
    const char *python;         /* whose environment to use, as a venv's bin/python; NULL: the one
                                   pycrew was built with. One there is no worker for is PYCREW_ESTART */
    const char *const *path;    /* put in front of sys.path */
    const char *const *env;     /* "NAME=value", or "NAME" to unset, for the workers */
    const char *const *preload; /* modules imported once, before the workers are forked */
    const char *init;           /* "module:function", run in each worker before its first call */
    const char *exit;           /* "module:function", run in each worker after its last call */
    unsigned calls;             /* calls in use at most; 0: 4096 */
    size_t memory;              /* shared memory at most, in bytes, a cap and not a reservation; 0: half of what is free */
    unsigned queues;            /* completion queues at most; 0: 64 */
    int64_t start_timeout_ns;   /* for open: Python, imports, first worker; 0: 60 s */
    int64_t timeout_ns;         /* each call's deadline unless it has its own; 0 or PYCREW_FOREVER: none */
    int64_t grace_ns;           /* from the interrupt to SIGKILL; 0: 100 ms */
    unsigned retries;           /* after a worker's death, for calls that may have run; 0: none */
    int output;                 /* workers' stdout and stderr: PYCREW_LOG, _INHERIT, _DISCARD */
    void (*log)(void *data, int level, const char *line); /* from a thread of the crew's; must
                                   not call the crew; NULL: stderr */
    void *log_data;
    unsigned export_threads;    /* that run exported functions, from the first pycrew_export on; 0: 1 */
    uint64_t max_calls_per_worker; /* after so many calls, items of batches and elements of maps, a worker is
                                   replaced; looked at between calls and chunks, so a chunk may
                                   go beyond. 0: never */
    size_t max_worker_rss;      /* or when its own resident memory, what is shared with the host not counted, is
                                   more than this, in bytes; looked at each 10 ms, between calls. 0: never */
    const char *cpus;           /* CPUs for the workers, of those that this process may use: "0-3,8"; "one", or
                                   "one:0-3,8": each worker uses one of them, in turn. NULL: all */
    int nice;                   /* added to the host's nice value */
    int64_t limit_memory;       /* RLIMIT_AS of a worker in bytes, shared memory included; 0: as the host's, */
    int64_t limit_files;        /* RLIMIT_NOFILE, */
    int64_t limit_core;         /* RLIMIT_CORE in bytes, or PYCREW_NO_CORE, */
    int64_t limit_cpu_s;        /* RLIMIT_CPU in seconds: a worker that has used so much dies by SIGXCPU */
    bool debug;                 /* one worker, with the host's terminal, where breakpoint() works; no
                                   deadlines. See pycrew_open(3) */
    unsigned inflight;          /* coroutines that a worker runs at a time; 0: 256. A function that is none
                                   runs alone, whatever this is */
    const char *loop;           /* coroutines' event loop: "asyncio", "uvloop", or "module:function" that makes
                                   one; NULL: what asyncio.new_event_loop() makes */
    const char *engine;         /* where calls run, if not in workers here: "module:factory", which returns a
                                   concurrent.futures.Executor, as "pycrew.engines.dask:cluster"; NULL: $PYCREW_ENGINE
                                   (not in setuid programs), and without that, here. See doc/engines.md */
    const char *engine_options; /* the factory's keyword arguments, a JSON object; NULL: $PYCREW_ENGINE_OPTIONS, where
                                   the engine is from the environment, too; else none */
    const char *trace;          /* a file that is written anew: all calls, by worker, as Chrome trace JSON, for
                                   Perfetto and its kin. NULL: none. See pycrew_open(3) */
} pycrew_options;

#define PYCREW_NO_CORE ((int64_t)-1)

#ifdef __cplusplus
#define PYCREW_OPTIONS_INIT {sizeof(pycrew_options), 0, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 0, 0, 0, 0, 0, 0, 0, nullptr, nullptr, 0, 0, 0, nullptr, 0, 0, 0, 0, 0, false, 0, nullptr, nullptr, nullptr, nullptr}
#else
#define PYCREW_OPTIONS_INIT {.size = sizeof(pycrew_options)}
#endif

/* Coroutines (async def, or whatever returns what can be awaited) run on their worker's event loop, many at
 * a time. A deadline or cancel ends the task with asyncio.CancelledError, and the worker goes on. Whatever
 * else runs in the worker blocks the loop as long as it takes. When a worker dies, so do all calls that it
 * has: the error of those that were only beside says which function's code ran. */

/* Opens a crew: starts Python, imports the preload modules, forks the first worker. The others
 * start in the background. options may be NULL.
 *   -EINVAL         an option is out of range, or of a newer size and not zero
 *   PYCREW_ESTART   the worker program, Python, a preload module or the init function failed: why,
 *                   with the traceback
 *   -ETIMEDOUT      not ready within start_timeout_ns
 *   -EMFILE         too few descriptors: a crew needs 8, 3 for each worker, 1 for each open queue
 *   -E2BIG          path and preload are too long together
 *   -EFBIG          memory is more than a file may have (RLIMIT_FSIZE)
 *   -ENOENT, ...    trace cannot be opened: what open(2) says
 *   -ENOMEM */
PYCREW_API int pycrew_open(pycrew_crew **ret, const pycrew_options *options);

/* New calls get -ESHUTDOWN from here on; returns when none is in flight any more, or -ETIME. */
PYCREW_API int pycrew_drain(pycrew_crew *crew, int64_t timeout_ns);

/* Replaces the workers by ones that have imported everything anew, worker by worker: calls go on meanwhile,
 * none is lost, but those of actors, which end with their worker. A worker leaves between two calls, when its coroutines
 * and the streams that have begun in it have ended, after its exit function; its successor has run init before.
 * Until then it leaves calls to the other workers. Where none takes them it goes on with them itself: so none waits
 * longer than for a worker's start, or, where coroutines or streams overlap in all workers, a second now and then.
 * A stream past its deadline, or whose reader has taken no item for a minute, is not waited for: the worker closes it, and
 * pycrew_next gives what was made, then -ETIMEDOUT or PYCREW_EDIED. Returns when all are replaced.
 *   PYCREW_ESTART   a preload module or the init function failed: why, with the traceback. The
 *                   workers are as before, also after other errors
 *   -ETIME          before the new modules were seen to import: nothing has changed, as with a timeout of 0;
 *                   or behind that: the workers that are left are replaced when their calls have ended
 *   -EMFILE         a reload needs 6 descriptors more
 *   -ESHUTDOWN      the crew drains         -ECANCELED  it was closed         -ENOMEM, PYCREW_EFORKED
 * Calls of several threads at a time are served by as few reloads as see all files as they were then. */
PYCREW_API int pycrew_reload(pycrew_crew *crew, int64_t timeout_ns);

/* Ends the crew: threads waiting in it come back with -ECANCELED (from prepare: -ESHUTDOWN), running
 * calls are interrupted and after the grace killed, the workers end. Its calls, batches and queues are
 * gone then: who has come back so must not touch them, nor release them. */
PYCREW_API void pycrew_close(pycrew_crew *crew);

/* ---- one call, start to finish --------------------------------------------------------------- */

/* Formats. Arguments stand before '>', the result after it:
 *   p bool (int)   i int   L long long   K unsigned long long   n ptrdiff_t   d double   f float
 *                  (f comes as a double, as varargs do; a result's f is a float *)
 *   s str, a NUL-terminated UTF-8 string        s# str and size_t
 *   y# bytes and size_t                         z, z# like s, s#, and NULL is None
 *   j JSON text, decoded and encoded in the worker (as s; bytes as base64, arrays as lists); j# with size_t
 *   O pickled object and size_t, kept as it is
 *   A array (const pycrew_array *; for a result pycrew_array *)
 *   (...) tuple   [...] list   {...} dict, its keys and values in turn
 *   name=  before a unit: a keyword argument
 * Spaces and commas are free. One unit after '>' is the value itself, several are a sequence of
 * exactly that length; an empty result is discarded. An argument K takes is written as
 * unsigned long long, s# as (const char *, size_t), and results as pointers to those. No compiler
 * checks that: 3.0 and not 3 for d, (long long)n for L, (size_t)n behind a #; another type is a crash
 * of this program's or a wrong number, and no error code.
 *
 * pycrew_run: in its result, s, z, y# and j are copies for the caller to free(), and A is taken: it
 * lives until pycrew_array_drop.
 *   -EINVAL       the function's name, the format (the message names the byte), an argument that is
 *                 not UTF-8, or JSON text that does not parse (type and message say where)
 *   -E2BIG        the arguments, or the result, exceed the memory cap
 *   -ENOMEM       the memory is used up
 *   -EAGAIN       all calls are in use by this thread         -ESHUTDOWN  the crew drains
 *   PYCREW_ETYPE  the result is of another type, or text with a lone surrogate
 *   -ERANGE       it is of the type, but out of range         -EINVAL  s or z: it has a NUL inside
 *   PYCREW_ERAISED, PYCREW_EDIED, -ETIMEDOUT, -ECANCELED, PYCREW_ESTART, PYCREW_EFORKED */
PYCREW_API int pycrew_run(pycrew_crew *crew, const char *function, const char *format, ...);

/* The same with this call's deadline instead of the crew's (nanoseconds from now). */
PYCREW_API int pycrew_run_within(pycrew_crew *crew, int64_t timeout_ns, const char *function,
                                 const char *format, ...);

/* ---- arrays ---------------------------------------------------------------------------------- */

/* Memory that the workers see too: 64-byte aligned, not zeroed, until pycrew_free or the crew's end.
 * NULL: the last error has -ENOMEM or -E2BIG. Arrays in it travel without a copy. */
PYCREW_API void *pycrew_alloc(pycrew_crew *crew, size_t size);

/* Gives it back. Calls that use it, and views of it that Python code kept, keep it until their end: the
 * free is put off, not waited for. What pycrew_alloc did not give, or was freed before, is left alone
 * (the last error says so). memory may be NULL. */
PYCREW_API void pycrew_free(pycrew_crew *crew, void *memory);

typedef enum pycrew_dtype {
    PYCREW_BOOL = 1, /* a byte, 0 or 1 */
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
    PYCREW_C64,  /* two floats */
    PYCREW_C128, /* two doubles */
    PYCREW_OTHER /* what format says: "<M8[ns]", "|S5", "<U8", ">f8", "[('x', '<i4'), ('y', '<f8')]" */
} pycrew_dtype;

enum { PYCREW_MAX_DIMS = 32 };

enum { /* pycrew_array.flags */
    PYCREW_WRITABLE = 1,  /* the function may write the elements: for memory from pycrew_alloc or an array
                             that was taken, or with PYCREW_COPY_BACK */
    PYCREW_COPY_BACK = 2, /* with PYCREW_WRITABLE, data from elsewhere: what the function wrote is copied back
                             when the call is found to have ended with 0, not later than its wait, reap or
                             release; data must be there until then */
    PYCREW_STRIDED = 4,   /* strides are given; else the elements stand without gaps, ... */
    PYCREW_FORTRAN = 8    /* ... the first index running fastest instead of the last; not with STRIDED */
};

/* Elements of one type, in up to 32 dimensions. None: a single element. */
typedef struct pycrew_array {
    size_t size;        /* set by PYCREW_ARRAY_INIT, and by pycrew_array_init */
    void *data;         /* the first element, the one with all indices 0; NULL where there are none */
    pycrew_dtype dtype;
    size_t itemsize;    /* bytes of an element; 0: as dtype says (OTHER: to be given) */
    int ndim;
    int64_t shape[PYCREW_MAX_DIMS];
    int64_t strides[PYCREW_MAX_DIMS]; /* bytes from one index to the next, may be negative or 0; read if
                                         PYCREW_STRIDED, in results always set */
    const char *format; /* numpy's text for PYCREW_OTHER; of a result it lives as long as the crew */
    unsigned flags;     /* PYCREW_WRITABLE, ... */
} pycrew_array;

#ifdef __cplusplus
#define PYCREW_ARRAY_INIT {sizeof(pycrew_array), nullptr, PYCREW_F64, 0, 0, {0}, {0}, nullptr, 0}
#else
#define PYCREW_ARRAY_INIT {.size = sizeof(pycrew_array)}
#endif

/* Describes ndim dimensions at data; shape may be NULL for none. Sets itemsize (of OTHER: 0, to be set with
 * format) and, unless PYCREW_STRIDED, strides. -EINVAL: dtype, ndim, shape or flags; -E2BIG: the elements'
 * bytes exceed 2^63 - 1. */
PYCREW_API int pycrew_array_init(pycrew_array *array, const void *data, pycrew_dtype dtype, int ndim,
                                 const int64_t *shape, unsigned flags);

/* An ended call's result, an array, that outlives the call: until pycrew_array_drop, or the crew's end. Given
 * to another call it is not copied. ret->size is to be set (PYCREW_ARRAY_INIT). As pycrew_result. */
PYCREW_API int pycrew_array_take(pycrew_call *call, pycrew_array *ret);

/* Gives a taken array back and sets its data to NULL; calls that use it keep it. array may be NULL, or have
 * no elements. */
PYCREW_API void pycrew_array_drop(pycrew_crew *crew, pycrew_array *array);

/* DLPack's, as dlpack.h declares them: include that before or after this, or not at all. */
struct DLManagedTensor;
struct DLManagedTensorVersioned;

/* Describes a tensor in the CPU's memory, which stays its owner's: to be there as long as the array's data
 * has to. flags: PYCREW_WRITABLE, PYCREW_COPY_BACK. -EINVAL: another device, a type that numpy has not
 * (bfloat16, several lanes), another major version; PYCREW_WRITABLE of one that is read-only. */
PYCREW_API int pycrew_array_from_dlpack(pycrew_array *array, const struct DLManagedTensor *tensor,
                                        unsigned flags);
PYCREW_API int pycrew_array_from_dlpack_versioned(pycrew_array *array,
                                                  const struct DLManagedTensorVersioned *tensor,
                                                  unsigned flags);

/* A taken array as a tensor, uncopied: who deletes that drops it, and has to before the crew is closed.
 * array->data is NULL then. -EINVAL: PYCREW_OTHER, or a stride that is no multiple of itemsize. */
PYCREW_API int pycrew_array_to_dlpack(pycrew_crew *crew, pycrew_array *array, struct DLManagedTensor **ret);
PYCREW_API int pycrew_array_to_dlpack_versioned(pycrew_crew *crew, pycrew_array *array,
                                                struct DLManagedTensorVersioned **ret);

/* ---- functions ------------------------------------------------------------------------------- */

/* A function by name, "package.module:name.in.it". Nothing is imported here: the first worker to
 * call it does. The handle lives as long as the crew. -EINVAL: malformed; the message says where. */
PYCREW_API int pycrew_function_get(pycrew_crew *crew, const char *name, const pycrew_function **ret);

/* A function defined by Python source text, run once in each worker as a module of its own; name
 * is looked up in it ("f", "Class.method"). Syntax errors arrive with the first call. */
PYCREW_API int pycrew_function_source(pycrew_crew *crew, const char *name, const char *source,
                                      const pycrew_function **ret);

/* ---- calls in flight ------------------------------------------------------------------------- */

/* A call to be filled with pycrew_add and submitted. Waits up to timeout_ns for one to be free:
 * -EAGAIN (timeout 0, or all are held by this very thread: those it used last; submitted ones with a
 * queue are held by who reaps it), -ETIME, -ESHUTDOWN, -EINVAL (function is NULL), PYCREW_EFORKED. */
PYCREW_API int pycrew_prepare(pycrew_crew *crew, const pycrew_function *function, int64_t timeout_ns,
                              pycrew_call **ret);

/* Adds arguments. A format may end in '>' and the result's units: only 'j' there matters, it has
 * the worker encode the result as JSON. -ENOMEM, -E2BIG, -EINVAL; -EALREADY after submit. After a
 * failure the call can only be released. */
PYCREW_API int pycrew_add(pycrew_call *call, const char *format, ...);
PYCREW_API int pycrew_add_none(pycrew_call *call);
PYCREW_API int pycrew_add_bool(pycrew_call *call, bool value);
PYCREW_API int pycrew_add_i64(pycrew_call *call, int64_t value);
PYCREW_API int pycrew_add_u64(pycrew_call *call, uint64_t value);
PYCREW_API int pycrew_add_f64(pycrew_call *call, double value);
PYCREW_API int pycrew_add_bigint(pycrew_call *call, const char *hex); /* "-1fff...", any length */
PYCREW_API int pycrew_add_str(pycrew_call *call, const char *text, size_t size); /* UTF-8, NULs allowed */
PYCREW_API int pycrew_add_bytes(pycrew_call *call, const void *data, size_t size);
PYCREW_API int pycrew_add_json(pycrew_call *call, const char *text, size_t size);
PYCREW_API int pycrew_add_object(pycrew_call *call, const void *pickle, size_t size);

/* An array: in Python a numpy array, or where numpy is not installed a memoryview; read-only unless
 * PYCREW_WRITABLE. In memory from pycrew_alloc, or taken: uncopied, and not to be written by the host before
 * the call's end. From elsewhere: copied before this returns. -EINVAL names what is wrong: dtype, shape,
 * strides that leave the block, memory of the crew that was freed or was never given, memory of
 * another crew, a writable array that shares elements with another of the call, as far as strides tell: parts
 * that interleave (the real and the imaginary parts, every second column, two halves of a matrix) are seen to
 * share none; where it cannot be told, it is refused. After PYCREW_WRITABLE
 * pycrew_options.retries does not count for the call: a function that died may have written half of it.
 * pycrew_set_retries does count, and says that this does no harm. In a batch's item all is the same; there it is
 * pycrew_batch_options.retries that counts. */
PYCREW_API int pycrew_add_array(pycrew_call *call, const pycrew_array *array);
PYCREW_API int pycrew_add_name(pycrew_call *call, const char *keyword); /* the next value is this keyword argument */

enum { PYCREW_LIST = 1, PYCREW_TUPLE = 2, PYCREW_DICT = 3 };
PYCREW_API int pycrew_add_open(pycrew_call *call, int kind); /* the next values go into a container, ... */
PYCREW_API int pycrew_add_close(pycrew_call *call);          /* ... until here; a dict's in pairs */

/* Before submit. */
PYCREW_API int pycrew_set_timeout(pycrew_call *call, int64_t timeout_ns); /* its deadline, from submit; PYCREW_FOREVER: none */
PYCREW_API int pycrew_set_retries(pycrew_call *call, unsigned retries);
PYCREW_API int pycrew_set_json(pycrew_call *call, bool json); /* the result as JSON text, as a format's ">j" does */
PYCREW_API int pycrew_set_queue(pycrew_call *call, pycrew_queue *queue); /* announced there; NULL: nowhere */
PYCREW_API void pycrew_set_data(pycrew_call *call, void *data); /* the caller's own, at any time */
PYCREW_API void *pycrew_data(const pycrew_call *call);

/* Hands the call to the workers. Never sleeps. -EINVAL: a container is open, or a keyword has no
 * value; the code of an add that failed; -EALREADY; -ESHUTDOWN. */
PYCREW_API int pycrew_submit(pycrew_call *call);

/* Waits for its end: 0 (it returned), the call's own error, or -ETIME: this wait ended, the call
 * goes on. -EINVAL: it was not submitted. */
PYCREW_API int pycrew_wait(pycrew_call *call, int64_t timeout_ns);

/* Asks for its end: a queued call ends at once, a running one is interrupted and after the grace
 * killed; wait then returns -ECANCELED. 0: asked; -EALREADY: it has ended; -EINVAL: not submitted. */
PYCREW_API int pycrew_cancel(pycrew_call *call);

/* The result of a call that ended with 0, by format (the part after '>', with or without it).
 * Pointers live until release. -EALREADY: not ended; PYCREW_ETYPE, -ERANGE; -EINVAL: the format,
 * a pointer that is NULL, or a str with a NUL inside whose size was not asked for. */
PYCREW_API int pycrew_result(pycrew_call *call, const char *format, ...);
PYCREW_API int pycrew_result_bool(pycrew_call *call, bool *ret);
PYCREW_API int pycrew_result_i64(pycrew_call *call, int64_t *ret);
PYCREW_API int pycrew_result_u64(pycrew_call *call, uint64_t *ret);
PYCREW_API int pycrew_result_f64(pycrew_call *call, double *ret);
PYCREW_API int pycrew_result_str(pycrew_call *call, const char **ret, size_t *size); /* NUL-terminated too; size may be NULL */
PYCREW_API int pycrew_result_bytes(pycrew_call *call, const void **ret, size_t *size);
PYCREW_API int pycrew_result_json(pycrew_call *call, const char **ret, size_t *size);

/* numpy arrays (but for subclasses, and for those of objects, which come pickled), memoryview, bytearray:
 * copied once into memory of the crew; not at all if they are in memory of pycrew.empty that the host does
 * not hold already (and more than half of it), or a view of an argument. ret->data then is that argument's
 * memory. Valid until release. ret->size is to be set (PYCREW_ARRAY_INIT). */
PYCREW_API int pycrew_result_array(pycrew_call *call, pycrew_array *ret);
PYCREW_API pycrew_value pycrew_result_value(const pycrew_call *call);

/* What went wrong with an ended call, until its release; NULL if it returned, or has not ended. */
PYCREW_API const pycrew_error *pycrew_call_error(const pycrew_call *call);

/* Gives the call back. Before its end: cancels it, and its memory stays until it has ended. */
PYCREW_API void pycrew_release(pycrew_call *call);

/* ---- streams: items as they are made ------------------------------------------------------------ */

/* Before submit: the function is a generator function, an asynchronous one, or any that returns an iterator,
 * and its items come out one by one by pycrew_next. Anything else that it returns is a TypeError. window: how
 * many items may be asked for and not yet given, so that the function works while the caller does; when they
 * are made it stands still. 0: 16; 1: it works only while it is waited for. A stream has three of options.calls
 * for itself, and takes up to `window` while nobody waits for one. -EAGAIN: none is left, release one;
 * -EALREADY, -EINVAL.
 *
 * The call's deadline is that of the whole stream. Its retries count until the function has returned its
 * iterator; items are never made twice. When the worker dies, items that it has made are given, then
 * PYCREW_EDIED. */
PYCREW_API int pycrew_set_stream(pycrew_call *call, unsigned window);

/* The next item: 1, and until the next pycrew_next the pycrew_result functions, pycrew_result_value and
 * pycrew_array_take are its. 0: the end. Or why there are no more items, as often as it is asked for:
 * PYCREW_ERAISED, PYCREW_EDIED, -ETIMEDOUT, -ECANCELED, -ESHUTDOWN (the crew drains), ...; pycrew_call_error
 * has it too. -ETIME: this wait ended, the stream goes on. -EINVAL: the call is no stream, or was not submitted.
 *
 * Queues. A stream appears in its queue when pycrew_next would not wait: for an item, the end or an error. Then
 * not again until pycrew_next was called; after that, whenever the following one would not wait. Each appearance
 * is for one pycrew_next at least; more can be tried with timeout 0. After its end it does not appear any more.
 *
 * Asynchronous generators are awaited on their worker's event loop, as coroutines are: others go on beside them.
 * A deadline or cancel ends the item that is made by asyncio.CancelledError.
 *
 * pycrew_wait waits for the iterator. pycrew_cancel ends the stream as it does a call: what is made is not given
 * any more. pycrew_release closes the iterator, in its worker (close() or aclose()), behind the item that it
 * is at, as does the stream's end before; what takes longer than the grace is interrupted. It never waits. */
PYCREW_API int pycrew_next(pycrew_call *call, int64_t timeout_ns);

/* ---- values: walking through a result -------------------------------------------------------- */

enum pycrew_type {
    PYCREW_TYPE_INVALID = 0, /* no such item, or not a value */
    PYCREW_TYPE_NONE,
    PYCREW_TYPE_BOOL,
    PYCREW_TYPE_INT,    /* fits int64_t or uint64_t */
    PYCREW_TYPE_BIGINT, /* wider: hexadecimal text by pycrew_value_str, "-1fff..." */
    PYCREW_TYPE_FLOAT,
    PYCREW_TYPE_STR,
    PYCREW_TYPE_BYTES,
    PYCREW_TYPE_LIST,
    PYCREW_TYPE_TUPLE,
    PYCREW_TYPE_DICT,  /* item 2i is the i-th key, 2i+1 its value */
    PYCREW_TYPE_OBJECT, /* pickled, by pycrew_value_bytes */
    PYCREW_TYPE_JSON,
    PYCREW_TYPE_ARRAY
};

PYCREW_API int pycrew_value_type(pycrew_value value);
PYCREW_API size_t pycrew_value_count(pycrew_value value); /* items; a dict's pairs; 0 for what has none */
PYCREW_API pycrew_value pycrew_value_item(pycrew_value value, size_t index); /* walks: O(index) */
PYCREW_API pycrew_value pycrew_value_next(pycrew_value value); /* the item behind this one in its container */
PYCREW_API pycrew_value pycrew_value_get(pycrew_value dict, const char *key);
PYCREW_API int pycrew_value_bool(pycrew_value value, bool *ret); /* 0, PYCREW_ETYPE, -ERANGE or -EINVAL, as all below */
PYCREW_API int pycrew_value_i64(pycrew_value value, int64_t *ret);
PYCREW_API int pycrew_value_u64(pycrew_value value, uint64_t *ret);
PYCREW_API int pycrew_value_f64(pycrew_value value, double *ret);
PYCREW_API int pycrew_value_str(pycrew_value value, const char **ret, size_t *size);
PYCREW_API int pycrew_value_bytes(pycrew_value value, const void **ret, size_t *size);
PYCREW_API int pycrew_value_array(pycrew_value value, pycrew_array *ret); /* as pycrew_result_array */

/* ---- queues: for event loops ----------------------------------------------------------------- */

/* Where ended calls are collected. A submitted call with a queue appears there exactly once,
 * cancelled or not (a stream each time pycrew_next would not wait), and never after its release; to release it
 * while another thread reaps is to use it in two threads at a time. -EAGAIN: options.queues are open; -EMFILE. */
PYCREW_API int pycrew_queue_open(pycrew_crew *crew, pycrew_queue **ret);

/* For poll, epoll, io_uring: readable when there may be something to reap, and until a reap has
 * returned fewer than it was asked for. Not to be read or closed. */
PYCREW_API int pycrew_queue_fd(const pycrew_queue *queue);

/* Takes up to max ended calls, each to be released: their number, 0 when the timeout passed or after
 * a wake; -ECANCELED when the crew was closed. -EBADF: this process has closed the queue's
 * descriptor. */
PYCREW_API int pycrew_queue_reap(pycrew_queue *queue, pycrew_call **calls, unsigned max, int64_t timeout_ns);

/* Ends a reap in another thread, or the next one, with 0. */
PYCREW_API int pycrew_queue_wake(pycrew_queue *queue);

/* Calls still in flight lose their queue and go on. */
PYCREW_API void pycrew_queue_close(pycrew_queue *queue);

/* ---- in each worker ---------------------------------------------------------------------------- */

/* Runs a function once in each of the crew's workers, and returns when it has run in all. A format without
 * results. Those that are starting are waited for; one that ends before it has come to the function does no
 * harm, its successor runs it; one that dies in it fails. Workers forked later, after deaths, do not run it:
 * what every worker needs for good belongs into options.init. The crew's timeout_ns is the deadline of each
 * run, and of all together. 0, or the first error, whose message begins with "worker 3: "; the function has
 * been run in all the others all the same. As pycrew_run; -ETIMEDOUT, PYCREW_ESTART: one was not ready. */
PYCREW_API int pycrew_run_each(pycrew_crew *crew, const char *function, const char *format, ...);

/* The same without varargs: call is a prepared one of the function, without arrays, whose deadline is that of each
 * run; released by this, whatever it returns but -EALREADY: it was submitted. */
PYCREW_API int pycrew_run_each_call(pycrew_call *call);

/* ---- actors: objects that stay in one worker --------------------------------------------------- */

/* Makes an object, class(...), in the worker that has the fewest actors. class_name: "module:Class", or any
 * function whose result is to stay. Format and arguments as for pycrew_run, without results. timeout_ns: the
 * constructor's deadline, waiting for a worker included; PYCREW_FOREVER: none. An open actor holds one of
 * options.calls. As pycrew_run; PYCREW_ESTART: no worker can be started.
 *
 * All calls of an actor run in its worker, those of one thread in the order of their submit. They wait there
 * while the worker runs others' calls, which are taken in turn. Methods that are coroutines begin in that order, and are
 * not waited for by those behind them.
 *
 * An actor lives as long as its worker. When that dies, or is replaced (by pycrew_reload, at its limits, or after
 * a call in it, of whatever kind, was interrupted at its deadline, by a cancel or a release while it ran), the actor's calls end PYCREW_EDIED,
 * and so do later ones, at once and with may_have_run false, until pycrew_actor_reopen. Calls of an actor
 * are never retried. */
PYCREW_API int pycrew_actor_open(pycrew_crew *crew, pycrew_actor **ret, int64_t timeout_ns,
                                 const char *class_name, const char *format, ...);

/* The same without varargs: call is a prepared one of the class (pycrew_prepare, pycrew_add_..., its deadline
 * by pycrew_set_timeout), and released by this, whatever it returns. */
PYCREW_API int pycrew_actor_new(pycrew_call *call, pycrew_actor **ret);

/* A call of a method, as pycrew_prepare: then pycrew_add, pycrew_submit, ... Any thread, also at the same
 * time. What is not there is PYCREW_ERAISED with the AttributeError. -EINVAL: method is no name. */
PYCREW_API int pycrew_actor_prepare(pycrew_actor *actor, const char *method, int64_t timeout_ns,
                                    pycrew_call **ret);

/* One call, start to finish: as pycrew_run and pycrew_run_within. */
PYCREW_API int pycrew_actor_run(pycrew_actor *actor, const char *method, const char *format, ...);
PYCREW_API int pycrew_actor_run_within(pycrew_actor *actor, int64_t timeout_ns, const char *method,
                                       const char *format, ...);

/* Makes an actor's object again, with the arguments it was opened with, after its worker's death. It has none
 * of the old one's state. -EALREADY: its worker lives; -EINVAL: it was opened with arrays, which are not kept:
 * open another. As pycrew_actor_open. */
PYCREW_API int pycrew_actor_reopen(pycrew_actor *actor, int64_t timeout_ns);

/* The number of the worker that it is in, or was. */
PYCREW_API unsigned pycrew_actor_worker(const pycrew_actor *actor);

/* Gives the actor up: calls that were submitted are run, then its close(), where it has one, and the object
 * is gone. Coroutine methods have begun by then, and may not have ended. Never waits. A close() that takes longer than the grace is interrupted. */
PYCREW_API void pycrew_actor_close(pycrew_actor *actor);

/* ---- batches: a stream of calls of one function ----------------------------------------------
 *
 * Items may have arrays, and return them, as calls do: uncopied in the crew's memory, written in place or copied
 * back, kept while Python has views. An item whose arguments are arrays has a descriptor of its own, so that it
 * costs as much as a call; COPY_BACK is done when pycrew_batch_next has returned the item, and not after close.
 *
 * Results that are not taken out yet use memory. Where it is short, items that were not begun wait until those
 * before them have been taken out; only what the first one to come out cannot get is its -ENOMEM. */

typedef struct pycrew_batch_options {
    size_t size;        /* set by PYCREW_BATCH_OPTIONS_INIT */
    unsigned window;    /* items inside at most: added and not yet taken out; 0: 65536 */
    unsigned chunk;     /* items to a descriptor; 0: found by measuring */
    int64_t timeout_ns; /* each item's deadline, from its own start; 0: the crew's; PYCREW_FOREVER: none */
    int retries;        /* of an item after a worker's death; -1: the crew's, but for items with writable arrays */
    bool unordered;     /* items come out as they finish */
} pycrew_batch_options;

#ifdef __cplusplus
#define PYCREW_BATCH_OPTIONS_INIT {sizeof(pycrew_batch_options), 0, 0, 0, -1, false}
#else
#define PYCREW_BATCH_OPTIONS_INIT {.size = sizeof(pycrew_batch_options), .retries = -1}
#endif

typedef struct pycrew_progress {
    size_t size;
    uint64_t added, done, failed, retried, deaths; /* items; done: taken out, failed ones included; deaths: of workers, by its items */
} pycrew_progress;

PYCREW_API int pycrew_batch_open(pycrew_crew *crew, const pycrew_function *function,
                                 const pycrew_batch_options *options, pycrew_batch **ret);

/* Adds one item. Never sleeps.
 *   -EAGAIN   the window is full, or the batch's items use the calls or the memory: there is an item inside,
 *             and taking it out helps
 *   -ETIME    others use all calls; nothing is inside: pycrew_batch_add_within waits for them
 *   -ENOMEM, -E2BIG, -EINVAL  this item is not in, the batch goes on */
PYCREW_API int pycrew_batch_add(pycrew_batch *batch, const char *format, ...);

/* The same, and waits while calls or memory are used up by others (-ETIME). What the batch itself
 * uses is -EAGAIN at once: go on with pycrew_batch_next, and add again. If that is not an item but the
 * last result, which lives until the next one and may leave no memory, next returns 0 and frees it. */
PYCREW_API int pycrew_batch_add_within(pycrew_batch *batch, int64_t timeout_ns, const char *format, ...);

/* An item without varargs: begin gives a call to fill by pycrew_add_*, for this batch only; commit
 * adds it. A begin while one is open discards that one. */
PYCREW_API int pycrew_batch_begin(pycrew_batch *batch, int64_t timeout_ns, pycrew_call **ret);
PYCREW_API int pycrew_batch_commit(pycrew_batch *batch); /* an item that is then not in is to be begun anew */

PYCREW_API int pycrew_batch_end(pycrew_batch *batch); /* no more input */

/* The next item: 1; 0: all that was added is out, which before the end says that more is to be added;
 * -ETIME. Ends the life of the previous item's result. */
PYCREW_API int pycrew_batch_next(pycrew_batch *batch, int64_t timeout_ns);
PYCREW_API size_t pycrew_batch_index(const pycrew_batch *batch); /* the item's place in the input, from 0 */
PYCREW_API int pycrew_batch_result(pycrew_batch *batch, const char *format, ...); /* its own error, or as pycrew_result */
PYCREW_API int pycrew_batch_array_take(pycrew_batch *batch, pycrew_array *ret); /* as pycrew_array_take */
PYCREW_API pycrew_value pycrew_batch_value(const pycrew_batch *batch);
PYCREW_API const pycrew_error *pycrew_batch_error(pycrew_batch *batch); /* NULL: it returned */
PYCREW_API int pycrew_batch_progress(const pycrew_batch *batch, pycrew_progress *ret);

/* What has not finished ends with -ECANCELED; all items still come out. */
PYCREW_API int pycrew_batch_cancel(pycrew_batch *batch);
PYCREW_API void pycrew_batch_close(pycrew_batch *batch);

/* ---- maps: columns through all workers --------------------------------------------------------- */

enum { /* pycrew_map_options.flags */
    PYCREW_MAP_WHOLE = 1, /* the function gets slices of the columns as arrays, and returns one; */
    PYCREW_MAP_OUT = 2    /* or fills the output's slice, which it is given by the keyword `out` */
};

enum { /* pycrew_map_options.on_error */
    PYCREW_MAP_STOP = 0, /* the first failure ends the map */
    PYCREW_MAP_FILL = 1  /* what failed gets the value fill, is counted, and the map goes on */
};

typedef struct pycrew_map_options {
    size_t size;        /* set by PYCREW_MAP_OPTIONS_INIT */
    unsigned flags;     /* PYCREW_MAP_WHOLE, ... */
    unsigned chunk;     /* elements to a descriptor, or rows of a slice; 0: found by measuring */
    int64_t timeout_ns; /* of an element, or a slice, from its own start; 0: the crew's; PYCREW_FOREVER: none */
    int retries;        /* of one after a worker's death; -1: the crew's */
    int on_error;       /* PYCREW_MAP_STOP or PYCREW_MAP_FILL */
    const void *fill;   /* one element of the output's type; NULL: all bytes 0 */
    int *failed;        /* the caller's, one for each element (or row): 0, or why it failed; NULL: not wanted */
    uint64_t *first_failed; /* set to the first that failed, if one did; NULL: not wanted */
    /* From pycrew_map's own thread, about ten times a second and at the end: added are all elements, done those
     * that ran. Not 0: the map ends, -ECANCELED. It may call what it likes of the crew but pycrew_close. */
    int (*progress)(void *data, const pycrew_progress *progress);
    void *progress_data;
} pycrew_map_options;

#ifdef __cplusplus
#define PYCREW_MAP_OPTIONS_INIT {sizeof(pycrew_map_options), 0, 0, 0, -1, 0, nullptr, nullptr, nullptr, nullptr, nullptr}
#else
#define PYCREW_MAP_OPTIONS_INIT {.size = sizeof(pycrew_map_options), .retries = -1}
#endif

/* output[i] = function(inputs[0][i], inputs[1][i], ...), all workers together; returns when all is done.
 * Up to 32 inputs; none is allowed. Columns in memory of pycrew_alloc, or taken, are used where they are;
 * others go through shared memory piece by piece. Any strides. Until it returns nobody is to free columns, to
 * write to them, or to read the output.
 *
 * Element by element: all columns have one shape, and are walked in C order; an input of no dimensions is the
 * same for all. Types are bool, ints, floats and complex, in Python bool, int, float and complex. An int output
 * takes an int (or bool), a float output also an int, a complex one also both, a bool one a bool; numpy scalars
 * and what has __index__ likewise; else that element fails with PYCREW_ETYPE, or -ERANGE where it does
 * not fit (floats are rounded to narrower ones). The output may be one of the inputs, the very same elements:
 * then an element that died is not tried again.
 *
 * PYCREW_MAP_WHOLE: columns of all types, cut along their first dimension, which is the same for all, into
 * slices: function(inputs[0][i:j], inputs[1][i:j], ...), inputs read-only, returns an array (or what numpy
 * makes one of) of the output slice's shape, copied to it under numpy's rule "same_kind". With PYCREW_MAP_OUT
 * it is also given out=output[i:j], writable, with what was in it, and may return None or that; a slice
 * that died is then tried again only if options.retries says so. An input of no dimensions is given as it is.
 * Inputs may not overlap the output.
 *
 * Failures: an exception, a worker's death, a deadline, a result of the wrong type. Each is one element's, or
 * one slice's; the others keep their results. A function that cannot be found or imported ends the map.
 *
 * Returns the number of elements (or rows) that failed, 0 with PYCREW_MAP_STOP; the last error is then the
 * first one's. Or a negative code, and what was not run is left as it was, what was running unspecified:
 *   -EINVAL     NULLs, options, shapes that differ, types, overlaps, memory of the crew that was freed:
 *               the message says which; nothing was run
 *   the first failure's own code, with PYCREW_MAP_STOP; -ECANCELED by the progress function, or the
 *               crew was closed; -ESHUTDOWN, -ENOMEM, -E2BIG, -EAGAIN, PYCREW_ESTART, PYCREW_EFORKED */
PYCREW_API int pycrew_map(pycrew_crew *crew, const pycrew_function *function, const pycrew_array *inputs, unsigned ninputs,
                          pycrew_array *output, const pycrew_map_options *options);

/* ---- exported functions: Python asks its host --------------------------------------------------
 *
 * Python code in a worker calls a function of this program's:
 *
 *     static int lookup(void *data, pycrew_host_call *call)
 *     {
 *         const char *key;
 *         int rc = pycrew_host_arguments(call, "s", &key);
 *         if (rc < 0)
 *             return rc;                                    -> TypeError
 *         if (!find(data, key))
 *             return pycrew_host_fail(call, "KeyError", key);
 *         return pycrew_host_return(call, "d", value);
 *     }
 *     pycrew_export(crew, "lookup", lookup, table);         Python: price = pycrew.host.lookup("bread")
 *
 * It runs on a thread of the crew's, of which there are options.export_threads: with one, no two exported functions
 * run at the same time. All signals are blocked there. It may use the crew, but not close it. Calls that it waits for
 * need a worker that does not wait for it; where all workers wait for functions that wait for calls, or the one that a
 * call is for (an actor's, a stream's item, one of pycrew_run_each), pycrew_run, pycrew_wait, pycrew_next and the
 * like return -EDEADLK there. If they ask the host themselves, they need another thread.
 *
 * In a coroutine, `await pycrew.async_host.name(...)` lets the worker's other coroutines go on meanwhile, and its worker
 * waits for nothing.
 *
 * Python's thread waits without the GIL. A deadline or cancel of the call raises pycrew.DeadlineExceeded there;
 * the function goes on, and nobody gets its answer. So it is if the worker dies: arguments stay
 * readable until the function returns. */

/* 0: what pycrew_host_return was given is the answer. Negative: Python's call raises, as pycrew_host_fail said; or for
 * the codes TypeError (PYCREW_ETYPE), ValueError (-EINVAL), OverflowError (-ERANGE), MemoryError (-ENOMEM, -E2BIG),
 * TimeoutError (-ETIME, -ETIMEDOUT), OSError (errno's others) or RuntimeError (ours), with the message of the
 * thread's last error if that has this code. */
typedef int (*pycrew_host_function)(void *data, pycrew_host_call *call);

/* Offers function as pycrew.host.NAME to all workers, from now on until the crew is closed. name: an identifier of
 * ASCII letters, digits and _, not beginning with __. data is given to it as it is. Also an init function may not call
 * it yet; an exit function may. pycrew_close waits for the functions that run.
 *   -EINVAL, -EEXIST: the name is taken, -ENOMEM, -EAGAIN: no thread can be started, -ESHUTDOWN, PYCREW_EFORKED */
PYCREW_API int pycrew_export(pycrew_crew *crew, const char *name, pycrew_host_function function, void *data);

/* Reads the arguments into pointers, as a result's format: a unit for each. `name=` before a unit: it may come by
 * this keyword, too. `|`: those behind it may be missing, and what their pointers point to is left alone. Example: "s|max=i".
 * Texts, bytes and arrays are valid until the function returns; arrays are numpy's, of numbers, copied once.
 *   PYCREW_ETYPE: a wrong type, number or keyword; -ERANGE; -EINVAL: the format, or a NUL in s or z */
PYCREW_API int pycrew_host_arguments(const pycrew_host_call *call, const char *format, ...);

/* Or one by one, to be walked through: positional ones, and keywords. */
PYCREW_API size_t pycrew_host_count(const pycrew_host_call *call);
PYCREW_API size_t pycrew_host_keywords(const pycrew_host_call *call); /* how many came by keyword */
PYCREW_API pycrew_value pycrew_host_argument(const pycrew_host_call *call, size_t index); /* positional, from 0 */
PYCREW_API pycrew_value pycrew_host_keyword(const pycrew_host_call *call, const char *name);

/* Appends to the answer, as pycrew_add's format (no keywords, no A). No value: Python gets None; one: that; several: a
 * tuple. 0, -EINVAL, -ENOMEM or -E2BIG. */
PYCREW_API int pycrew_host_return(pycrew_host_call *call, const char *format, ...);

/* The same without varargs, a value each, as pycrew_add_none and its kin. */
PYCREW_API int pycrew_host_return_none(pycrew_host_call *call);
PYCREW_API int pycrew_host_return_bool(pycrew_host_call *call, bool value);
PYCREW_API int pycrew_host_return_i64(pycrew_host_call *call, int64_t value);
PYCREW_API int pycrew_host_return_u64(pycrew_host_call *call, uint64_t value);
PYCREW_API int pycrew_host_return_f64(pycrew_host_call *call, double value);
PYCREW_API int pycrew_host_return_str(pycrew_host_call *call, const char *text, size_t size);
PYCREW_API int pycrew_host_return_bytes(pycrew_host_call *call, const void *data, size_t size);

PYCREW_API int pycrew_host_open(pycrew_host_call *call, int kind); /* PYCREW_LIST, ...: as pycrew_add_open */
PYCREW_API int pycrew_host_close(pycrew_host_call *call);

/* Python's call raises, whatever was or is answered: type is the name of one of Python's built-in exceptions ("KeyError"),
 * of another RuntimeError is raised; text is its argument. Returns PYCREW_ERAISED, for the function to return. */
PYCREW_API int pycrew_host_fail(pycrew_host_call *call, const char *type, const char *text);

/* Whether nobody waits for the answer any more, or the crew is being closed: for functions that take long. */
PYCREW_API bool pycrew_host_abandoned(const pycrew_host_call *call);

/* ---- statistics ------------------------------------------------------------------------------ */

enum { /* pycrew_worker_stats.state */
    PYCREW_WORKER_GONE = 0, /* no process: the next one is started, perhaps after a pause */
    PYCREW_WORKER_STARTING = 1,
    PYCREW_WORKER_IDLE = 2, /* alive, as the kernel says */
    PYCREW_WORKER_BUSY = 3  /* the same, with a call */
};

/* One worker's place; counts are of all processes it has had. */
typedef struct pycrew_worker_stats {
    int state;       /* PYCREW_WORKER_... */
    int pid;         /* 0: not alive */
    unsigned deaths; /* but for those by pycrew itself, as after a deadline */
    uint64_t calls;  /* calls and batch items that it ended, ... */
    uint64_t errors; /* ... and those of them that did not return */
    int64_t busy_ns; /* the time in which it was not idle, within some milliseconds */
    size_t rss;      /* its resident memory in bytes, what is shared included; 0: not alive */
    int64_t ready_ns; /* for how long it was there to take calls: busy_ns / ready_ns is its busy share */
} pycrew_worker_stats;

/* How long calls and batch items took, that workers ended since the crew was opened. Of short ones (below 10 us)
 * some are timed, one of 64 in the end, and stand for the rest, so count is right within that. Percentiles are
 * right within an eighth; nanoseconds, 0 where nothing was counted. */
typedef struct pycrew_latency {
    uint64_t count;
    int64_t sum_ns;
    int64_t p50_ns, p90_ns, p99_ns, p999_ns; /* what so many in a hundred (in a thousand) took at most */
    int64_t max_ns; /* the longest that was timed */
} pycrew_latency;

enum pycrew_interval { /* of a call's way; items of a batch have their chunk's wait and end */
    PYCREW_TIME_RUN = 0,  /* that a worker had it: arguments, function, result; with what a coroutine waits */
    PYCREW_TIME_WAIT = 1, /* from submit until that began */
    PYCREW_TIME_TOTAL = 2 /* from submit to end */
};

/* Start from PYCREW_STATS_INIT. worker is the caller's array, or NULL. */
typedef struct pycrew_stats {
    size_t size;        /* set by PYCREW_STATS_INIT, */
    size_t worker_size; /* as this */
    pycrew_worker_stats *worker; /* gets the first worker_max workers */
    unsigned worker_max;
    unsigned workers;     /* places: alive, starting and backing_off together */
    unsigned alive;       /* ready, and alive as the kernel says now; busy ones included */
    unsigned busy;        /* with a call */
    unsigned starting;    /* being forked, or in their init function */
    unsigned backing_off; /* without a process */
    unsigned in_flight;   /* calls submitted and not ended, queued ones included; a batch's chunk is one */
    unsigned queued;      /* those that no worker has taken */
    int64_t oldest_ns;    /* since the submit of the oldest in flight, within some milliseconds; 0: none */
    size_t memory_used;   /* shared memory in bytes, in steps of 1 MiB, */
    size_t memory_max;    /* and what it may become */
    uint64_t deaths;      /* of all workers */
    /* Ended calls and batch items, by how; a batch's and a map's failures when they are handed out. */
    uint64_t returned;
    uint64_t raised;      /* PYCREW_ERAISED, */
    uint64_t died;        /* PYCREW_EDIED, */
    uint64_t timed_out;   /* -ETIMEDOUT, */
    uint64_t cancelled;   /* -ECANCELED, */
    uint64_t failed;      /* any other code */
    uint64_t retried;     /* how often one was run again after a death */
    pycrew_latency run, wait, total; /* enum pycrew_interval */
} pycrew_stats;

#ifdef __cplusplus
#define PYCREW_STATS_INIT {sizeof(pycrew_stats), sizeof(pycrew_worker_stats), nullptr, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
                           0, 0, 0, 0, 0, 0, 0, {}, {}, {}}
#else
#define PYCREW_STATS_INIT {.size = sizeof(pycrew_stats), .worker_size = sizeof(pycrew_worker_stats)}
#endif

/* What the crew is doing. Costs calls nothing; takes some microseconds itself, one more for each worker,
 * with worker 10 more for each. Never sleeps, whatever state the workers are in. -EINVAL, -ENOMEM, PYCREW_EFORKED. */
PYCREW_API int pycrew_stats_get(pycrew_crew *crew, pycrew_stats *stats);

/* What share (0 to 1) of the calls took at most: of one worker, or of all (worker < 0), right within an eighth; 0 if
 * none was counted. interval is one of enum pycrew_interval. -EINVAL, PYCREW_EFORKED. */
PYCREW_API int pycrew_stats_quantile(pycrew_crew *crew, int interval, int worker, double share, int64_t *ret_ns);

/* All of it as text that Prometheus reads (exposition format 0.0.4), with a NUL, as snprintf: returns its length without
 * the NUL, and writes what fits of it into size bytes. name is the label `crew` of each line (UTF-8, any characters), for
 * programs with several crews, whose texts are to be served apart; or NULL. Of a second call the text may be longer: ask
 * for some more than the first one said. -EINVAL, -ENOMEM, PYCREW_EFORKED. */
PYCREW_API int pycrew_metrics_write(pycrew_crew *crew, const char *name, char *buffer, size_t size);

#ifdef __cplusplus
}
#endif
#endif
