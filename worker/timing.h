/* timing: how long calls take, into the worker's histograms (lib/shm/histogram.h). */
#ifndef PC_WORKER_TIMING_H
#define PC_WORKER_TIMING_H

#include "worker/items.h"
#include "worker/run.h"

/* Of a call that the host marked: before anything is written where its result will be. */
void pc_timing_begin(pc_execution *e);

/* Counts it: before its end is published, or a reader who has the result might not see it. */
void pc_timing_end(const pc_execution *e);

/* Of a chunk. Where w->times_items is set then, its items are known to be long, or not known, and are timed
 * each, too. */
void pc_timing_begin_chunk(pc_execution *e, pc_items_writer *w);
void pc_timing_begin_item(pc_items_writer *w);
void pc_timing_end_item(pc_items_writer *w);
void pc_timing_end_chunk(const pc_execution *e, const pc_items_writer *w, int64_t busy_ns);

#endif
