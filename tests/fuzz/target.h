/* target: what the fuzz targets share.
 *
 * A target is a function of bytes that must hold whatever they are: no read outside, no leak, and
 * what CHECK says. FUZZ_TARGET(values) is libFuzzer's entry point where tests/fuzz/run builds it,
 * and fuzz_values() in test-corpus, which needs no clang and runs the corpus alone.
 *
 * The input is eaten from its start: bytes that choose, words, texts. Where it has ended, all that
 * is taken is zero. What the library reads is always a copy of the very size it has, so that
 * AddressSanitizer sees one byte too many. */
#ifndef FUZZ_TARGET_H
#define FUZZ_TARGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PYCREW_FUZZING
#define FUZZ_TARGET(name)                                                                          \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);                                  \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
#else
#define FUZZ_TARGET(name)                                                                          \
    int fuzz_##name(const uint8_t *data, size_t size);                                             \
    int fuzz_##name(const uint8_t *data, size_t size)
#endif

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

typedef struct fuzz_input {
    const uint8_t *at, *end;
} fuzz_input;

static inline size_t fuzz_left(const fuzz_input *in)
{
    return (size_t)(in->end - in->at);
}

static inline uint8_t fuzz_byte(fuzz_input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

/* A slice of the input, at most size bytes. */
static inline fuzz_input fuzz_take(fuzz_input *in, size_t size)
{
    size_t taken = size < fuzz_left(in) ? size : fuzz_left(in);
    fuzz_input part = {in->at, in->at + taken};

    in->at += taken;
    return part;
}

static inline uint64_t fuzz_word(fuzz_input *in)
{
    uint64_t word = 0;
    fuzz_input part = fuzz_take(in, sizeof word);

    if (fuzz_left(&part) > 0)
        memcpy(&word, part.at, fuzz_left(&part));
    return word;
}

/* A copy of its own, of exactly this size, to be freed. */
static inline void *fuzz_copy(const void *data, size_t size)
{
    void *copy = calloc(size, 1); /* cleared for gcc, which cannot see that all is written */

    CHECK(copy || size == 0);
    if (size > 0)
        memcpy(copy, data, size);
    return copy;
}

#endif
