/* host: pycrew.host, the functions that the host exports. */
#ifndef PC_WORKER_HOST_H
#define PC_WORKER_HOST_H

#include "worker/worker.h"

int pc_host_init(PyObject *module); /* 0, or -1 with an exception */

/* From here on there is a host that answers. */
void pc_host_start(pc_worker *worker);

/* _pycrew._host_functions(): all that is exported now, a dict of names and callables. */
PyObject *pc_host_functions(PyObject *self, PyObject *unused);

#endif
