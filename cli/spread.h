/* spread: a record as the arguments of a call. */
#ifndef CLI_SPREAD_H
#define CLI_SPREAD_H

#include "cli/reader.h"
#include "lib/pycrew.h"

enum spread { SPREAD_NOT, SPREAD_STAR, SPREAD_KWARGS };

/* What is wrong with a record that cannot be spread. */
struct spread_problem {
    struct buffer text; /* "not JSON: Expecting value" */
    size_t column;      /* byte of the record's text, from 0; SIZE_MAX: none */
};

/* Adds the record to the call: as one argument, its items (f(*list)), or its items by name
 * (f(**dict)). Items go as JSON text: numbers of any size stay what they are. 0; 1: it cannot be
 * spread, problem says why; or an error of the library. */
int spread_record(pycrew_call *call, const struct record *record, enum spread how,
                  struct spread_problem *problem);

/* Whether it could be, without a call: 0 or 1, as spread_record. */
int spread_check(const struct record *record, enum spread how, struct spread_problem *problem);

#endif
