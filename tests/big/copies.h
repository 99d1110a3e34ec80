/* copies.h - counts the bytes that a process copies: copies.c is loaded before the C library
 * (LD_PRELOAD), into the host and, since they inherit the environment, into its workers, and counts
 * in a file that all of them map. */
#ifndef TESTS_COPIES_H
#define TESTS_COPIES_H

#include <stdatomic.h>
#include <stdint.h>

/* Names that file. */
#define COPIES_ENV "PYCREW_TEST_COPIES"

enum { COPIES_MIN = 256 }; /* shorter ones are not counted */

typedef struct copies {
    _Atomic uint64_t copied; /* by memcpy, memmove and their like */
    _Atomic uint64_t set;    /* by memset */
    _Atomic uint32_t processes;
} copies;

#endif
