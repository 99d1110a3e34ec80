/* choose: which of the installed worker programs fits an interpreter.
 *
 * libpython and the standard library are of one build, or what one expects of the other may be
 * missing. So a worker runs with the libpython that its interpreter runs with, not with any of that
 * version:
 *
 *   pycrew-worker         linked with the libpython of the interpreter that configure found
 *   pycrew-worker-V.so    the same sources for any Python V, without a libpython
 *   pycrew-launch         loads a libpython, then such a file, and calls its pc_worker_main
 *
 * The host always starts pycrew-worker, which stays if the interpreter is that of its own build
 * (the same file behind all links, as a venv's is; or one that says the same of itself), and else
 * becomes pycrew-launch, in the same process: neither PID nor descriptors change. */
#ifndef PC_WORKER_CHOOSE_H
#define PC_WORKER_CHOOSE_H

/* The interpreter to use, absolute, if it is for this program: python itself, or what it turned out
 * to stand for (pyenv's shims are scripts). Becomes another program if that one fits. NULL: none
 * does, and *failure says why. Strings stay. */
const char *pc_choose_program(const char *python, const char **failure);

#endif
