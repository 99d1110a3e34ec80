/* flush.h - in each file of a build for coverage (-include): _exit() writes the counts first.

   Workers and the zygote leave by it. What is killed counts nothing. */
#ifndef TESTS_COVERAGE_FLUSH_H
#define TESTS_COVERAGE_FLUSH_H

#include <stdlib.h>
#include <unistd.h>

void __gcov_dump(void);

#define _exit(status) (__gcov_dump(), _exit(status))

#endif
