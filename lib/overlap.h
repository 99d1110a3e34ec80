/* overlap: whether an array of a call shares elements with another of it, one of them writable.
 *
 * The arrays' ranges of addresses are kept in two trees, of writable ones and of others, each a
 * treap by where ranges begin; a node also says how far its subtree reaches. So the ranges that
 * meet a new one are found without a look at the rest, and many arrays in a call cost little more
 * each than a few.
 *
 * Ranges that meet need not share an element: the real and the imaginary parts of a matrix, every
 * second column, its left and its right half. That two arrays share none is proven from their
 * strides; where it cannot be, they are taken to share one. See are_apart. */
#ifndef PC_LIB_OVERLAP_H
#define PC_LIB_OVERLAP_H

#include "lib/shm/array.h"

typedef struct pc_claims pc_claims; /* the arrays of a call */

/* Adds a measured array whose first element is at data. 0; 1: it may share an element with another,
 * one of the two being writable; -ENOMEM. *claims is made when first needed. */
int pc_claims_add(pc_claims **claims, const pc_array *array, uintptr_t data, bool writable);

void pc_claims_free(pc_claims *claims); /* or NULL */

#endif
