/* chunk: many items of a batch, or a stretch of a map's columns, in one descriptor.
 *
 * Overview. A chunk is one block of the host's memory: this header, the items' arguments end to
 * end, then a table with a result for each item. An item is a size in bytes, then its values; or,
 * where all items of the chunk are numbers of the same types, those numbers alone, a word each
 * (shape: a record). Small results stand in the table; others in blocks of the worker's, which it
 * lists in `blocks` before it refers to them.
 *
 * Progress is one word: finished (31 bits), DOOMED, started (32 bits). The worker advances it by
 * compare-and-swap: "item i is finished, with its result in the table, and item i+1 is started".
 * So at any death items before finished keep their results, the one that was started (if started
 * is not finished) has died, and the rest was never entered. DOOMED is set by compare-and-swap too,
 * with the item's number in the expected word: it names an item and never hits the next. A worker
 * that finds it stops, and is killed. A bridge (worker/engine.h) starts all items at once: started is count from the
 * beginning, and all that have not finished may have run.
 *
 * Results may be arrays, which are in blocks of their own (array.h): before the first one is
 * finished the worker sets `arrays`, and whoever collects the chunk then looks for them in the
 * results. An item whose arguments are arrays has a chunk of its own.
 *
 * Where results use up the memory a worker stops between two items (yielded), so that the host can
 * hand out what there is; with YIELDS also before the first one.
 *
 * A map's chunk (kind) has no results in its table. ELEMENTS: an item is an element's number, its
 * arguments are read from columns and its result is written into the output column, wherever those
 * are (columns.h). WHOLE: the one item is a message of arrays, the last one the output. What failed
 * is told by a byte for each item, 0 or enum pc_result_kind, behind a single result that describes
 * the first of them, fault_item. With STOPS the worker ends the chunk there.
 *
 * ELEMENTS without a deadline advance by plain stores: who dooms them wants all of the chunk ended, so
 * DOOMED is set in the slot's control word instead, and the worker finds it when it would end the call.
 *
 * All of it is written by the worker, so the host checks what it reads: progress against its own
 * count, every block against the spans that the worker owns, every reference against the blocks. */
#ifndef PC_SHM_CHUNK_H
#define PC_SHM_CHUNK_H

#include "lib/shm/segment.h"
#include "lib/shm/value.h"

enum { PC_CHUNK_BLOCKS = 24, PC_CHUNK_ITEMS_MAX = 1 << 20 };

#define PC_CHUNK_DOOMED (UINT64_C(1) << 32)

/* A result: a small value as it is (value.h: header and payload), or a reference: the low 8 bits
 * are PC_CHUNK_REFERENCE | kind (enum pc_result_kind), the upper 56 the size, the payload the offset. */
typedef struct pc_chunk_result {
    uint64_t header, payload;
} pc_chunk_result;

#define PC_CHUNK_REFERENCE 0x80u

/* What a record is made of: its length in the low 4 bits, then the tag of each number, 4 bits
 * each: BOOL (0 or 1), I64, U64, F64. 0: the items are no records. */
enum { PC_RECORD_MAX = 8 };

static inline unsigned pc_record_length(uint64_t shape)
{
    return (unsigned)shape & 15;
}

static inline unsigned pc_record_tag(uint64_t shape, unsigned place)
{
    return (unsigned)(shape >> (4 * place + 4)) & 15;
}

static inline uint64_t pc_record_extend(uint64_t shape, enum pc_tag tag)
{
    return (shape + 1) | (uint64_t)tag << (4 * pc_record_length(shape) + 4);
}

enum pc_chunk_kind { PC_CHUNK_ITEMS = 0, PC_CHUNK_ELEMENTS, PC_CHUNK_WHOLE };

enum {
    PC_CHUNK_STOPS = 1, /* at the first item that fails */
    PC_CHUNK_OUT = 2,   /* WHOLE: the function is given the output, too, by the keyword `out` */
    PC_CHUNK_YIELDS = 4 /* ITEMS: where memory is short, not even one is to be run */
};

typedef struct pc_chunk {
    uint32_t count;        /* items */
    uint32_t begin;        /* the first to run: those before have their end */
    uint32_t begin_offset; /* where its arguments stand, from the start of the items; < 4 GiB */
    uint32_t timed;        /* write item_started_ns */
    int64_t timeout_ns;    /* of an item, if timed */
    uint64_t results;      /* of the table, from the start of the chunk */
    uint64_t shape;        /* of the items, if they are records; else 0 */
    _Atomic uint32_t cancel; /* the host's: no further item is to be started */
    uint32_t kind;           /* enum pc_chunk_kind */
    uint32_t flags;          /* PC_CHUNK_STOPS, ... */
    uint32_t columns;        /* ELEMENTS: where the pc_columns are, from the start of the chunk */

    /* the worker's */
    _Alignas(PC_CACHE_LINE) _Atomic uint64_t progress;
    _Atomic int64_t item_started_ns; /* CLOCK_MONOTONIC */
    _Atomic int64_t busy_ns;         /* of the items run, at the end */
    _Atomic uint32_t block_count;
    _Atomic uint32_t fault_item; /* of a map; UINT32_MAX: none has failed in this run */
    _Atomic uint32_t arrays;     /* there are arrays in results */
    _Atomic uint32_t yielded;    /* it stopped because memory is short */
    _Atomic uint64_t blocks[PC_CHUNK_BLOCKS];
    _Atomic uint64_t block_sizes[PC_CHUNK_BLOCKS];

    _Alignas(PC_CACHE_LINE) uint64_t items[];
} pc_chunk;

/* A map's: the result that describes a failure, and the items' bytes. */
static inline pc_chunk_result *pc_chunk_fault(const pc_chunk *chunk, uint64_t results)
{
    return (pc_chunk_result *)(void *)((uint8_t *)(uintptr_t)chunk + results);
}

static inline _Atomic uint8_t *pc_chunk_kinds(const pc_chunk *chunk, uint64_t results)
{
    return (_Atomic uint8_t *)(void *)(pc_chunk_fault(chunk, results) + 1);
}

static inline uint64_t pc_chunk_progress(uint32_t started, uint32_t finished)
{
    return (uint64_t)finished << 33 | started;
}

static inline uint32_t pc_chunk_started(uint64_t progress)
{
    return (uint32_t)progress;
}

static inline uint32_t pc_chunk_finished(uint64_t progress)
{
    return (uint32_t)(progress >> 33);
}

#endif
