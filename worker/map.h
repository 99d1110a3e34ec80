/* map: the chunks of a map, elements of columns or slices of them. */
#ifndef PC_WORKER_MAP_H
#define PC_WORKER_MAP_H

#include "worker/items.h"

/* An item that failed, with an exception set (but for what memory lacked for). The first is put into words. */
void pc_map_note_failure(pc_items_writer *w, uint32_t item, enum pc_result_kind kind);

/* Both: false if doomed. */
bool pc_map_run_columns(pc_execution *e, pc_items_writer *w, uint32_t number);
bool pc_map_run_whole(pc_execution *e, pc_items_writer *w, uint32_t number);

#endif
