/* items: the many calls that a chunk carries, run one after the other. */
#ifndef PC_WORKER_ITEMS_H
#define PC_WORKER_ITEMS_H

#include "lib/shm/chunk.h"
#include "worker/run.h"

enum { PC_ARENA_PER_ITEM = 256 }; /* bytes of results, before there is a chunk to learn from */

/* Writes a small result into the chunk's table, others into blocks that the chunk lists. */
typedef struct pc_items_writer {
    pc_writer writer; /* first */
    pc_worker *worker;
    pc_chunk *chunk;
    uint64_t block;        /* the arena's present block; 0: none */
    size_t used, capacity; /* of it */
    size_t start;          /* where the present value stands in it */
    bool in_arena;         /* the present value does */
    size_t first;          /* the first block's size */
    size_t total;          /* bytes of all values in blocks */
    bool times_items;      /* each: see timing.h */
    uint32_t timed_items;  /* so many were, */
    int64_t timed_ns;      /* and took as long, together */
    int64_t item_started;
} pc_items_writer;

/* What became of a chunk, as far as it was run. */
enum pc_items_progress { PC_ITEMS_DOOMED, PC_ITEMS_ENDED, PC_ITEMS_WAITS };

/* Runs a chunk to its end. False: it goes on in the event loop, and will be ended from there. */
bool pc_items_run_chunk(pc_execution *e);

/* Where an item's result goes; and, when it was written to w->writer, its end. */
void pc_items_begin(pc_items_writer *w, uint32_t item);
void pc_items_end(pc_execution *e, pc_items_writer *w, uint32_t item, enum pc_result_kind kind);

/* Before the chunk's call is finished: start is when it began. */
void pc_items_close(pc_execution *e, const pc_items_writer *w, int64_t start);

/* False: doomed, as from all below. Publishes "item-1 is finished, item is started" (or, at the end, only the first). */
bool pc_items_advance(pc_chunk *chunk, uint32_t item, uint32_t begin);

/* Finishes the item before, and starts no other. */
bool pc_items_stop_before(pc_chunk *chunk, uint32_t item);

/* Of an item that starts now; INT64_MAX: none. */
int64_t pc_items_deadline(pc_chunk *chunk);

/* The arguments of the item that stands at `at`. */
pc_cursor pc_items_arguments(const uint8_t *at, uint64_t shape);

/* Where the value just written is in an arena, makes the result a reference to it. */
void pc_items_record(pc_items_writer *w, pc_chunk_result *result, enum pc_result_kind kind);

#endif
