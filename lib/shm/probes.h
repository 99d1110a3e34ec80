/* probes: places that a tracer (bpftrace, perf, SystemTap) can watch: USDT, provider "pycrew".
 *
 * Each is a nop, now and then a move for an argument, and a note in the binary of where its arguments
 * are: in what registers or memory they are then. So they are there in every build that found sys/sdt.h
 * (configure --enable-usdt). A call is named by slot and generation, a pair that a crew does not use
 * twice.
 *
 * libpycrew:
 *   submit(slot, generation, function, name)   a call is about to be queued; a chunk of a batch, too. function: its
 *                                              number, name: "module:name"
 *   death(worker, pid, signal, exit_status)    of a worker that was ready
 *   retry(slot, generation, name, worker)      its worker died, and it is queued again
 *   kill(slot, generation, name, worker)       its worker is about to be killed: deadline, or cancelled
 * pycrew-worker:
 *   call_begin(slot, generation, function)     claimed; also of a chunk
 *   call_end(slot, generation, function, kind) about to be published; kind: enum pc_result_kind, 1: it returned
 *   chunk_begin(slot, generation, items, function)
 *   chunk_end(slot, generation, items, function)  items: that have ended */
#ifndef PC_SHM_PROBES_H
#define PC_SHM_PROBES_H

#ifdef PYCREW_USDT
#include <sys/sdt.h>
#define PC_PROBE3(name, a, b, c) DTRACE_PROBE3(pycrew, name, a, b, c)
#define PC_PROBE4(name, a, b, c, d) DTRACE_PROBE4(pycrew, name, a, b, c, d)
#else
#define PC_PROBE3(name, a, b, c) ((void)0)
#define PC_PROBE4(name, a, b, c, d) ((void)0)
#endif

#endif
