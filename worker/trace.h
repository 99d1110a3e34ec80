/* trace: writes the beginnings and ends of calls to this worker's ring (lib/shm/trace.h), where the
 * crew is traced. What is not traced asks one pointer for NULL at the beginning, and at the end a
 * flag of its own. */
#ifndef PC_WORKER_TRACE_H
#define PC_WORKER_TRACE_H

#include "worker/run.h"

void pc_trace_begin(pc_execution *e); /* sets e->traced, if the event had room */
void pc_trace_end(const pc_execution *e);

#endif
