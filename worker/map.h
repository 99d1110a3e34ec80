/* map: the chunks of a map, elements of columns or slices of them. */
#ifndef PC_WORKER_MAP_H
#define PC_WORKER_MAP_H

#include "worker/items.h"

/* Both: false if doomed. */
bool pc_map_run_columns(pc_execution *e, pc_items_writer *w, uint32_t number);
bool pc_map_run_whole(pc_execution *e, pc_items_writer *w, uint32_t number);

#endif
