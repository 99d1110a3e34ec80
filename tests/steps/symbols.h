/* symbols.h - where the functions of a running worker program stand.

   Addresses come from the symbol table of the program itself (which is why it must not be
   stripped), and for the C library from its dynamic symbols. What is "ours" is what was compiled
   from lib/shm and worker: global names with the prefix pc_, and the local ones of those files. */
#ifndef TESTS_STEPS_SYMBOLS_H
#define TESTS_STEPS_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum image_kind { IMAGE_OUTSIDE, IMAGE_OURS, IMAGE_PYTHON };

/* Reads what is needed of this process: again for each new zygote, since libraries move. NULL, or
   why it cannot. */
const char *image_read(pid_t pid);

/* What an address is in: IMAGE_OUTSIDE is the C library, the linker, the PLT, the vDSO. */
enum image_kind image_kind_of(uint64_t address);

/* The address of a function; 0: there is none. */
uint64_t image_find(const char *name);

/* Whether address is in that function of ours, or in a part that the compiler split off. */
bool image_is_in(uint64_t address, const char *name);

/* "pc_ring_claim+0x3f", in a buffer that the next call overwrites. */
const char *image_name(uint64_t address);

/* The same instruction in every process, wherever its library was mapped. */
uint64_t image_key(uint64_t address);

#endif
