/* copies: memcpy, memmove, mempcpy and memset that count. See copies.h.
 *
 * The loops are of volatile words: a compiler would make calls of memcpy and memset of plain ones.
 */
#include "tests/big/copies.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static copies *counts;

__attribute__((constructor)) static void start(void)
{
    const char *path = getenv(COPIES_ENV);
    int fd = path == NULL ? -1 : open(path, O_RDWR | O_CLOEXEC);
    void *at;

    if (fd < 0)
        return;
    at = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (at == MAP_FAILED)
        return;
    counts = at;
    atomic_fetch_add(&counts->processes, 1);
}

typedef struct __attribute__((packed, may_alias)) word {
    uint64_t value;
} word;

static void count(_Atomic uint64_t *counter, size_t size)
{
    if (size >= COPIES_MIN)
        atomic_fetch_add_explicit(counter, size, memory_order_relaxed);
}

static void copy_up(volatile uint8_t *to, const volatile uint8_t *from, size_t size)
{
    for (; size >= sizeof(word); size -= sizeof(word), to += sizeof(word), from += sizeof(word))
        ((volatile word *)to)->value = ((const volatile word *)from)->value;
    for (; size > 0; size--)
        *to++ = *from++;
}

static void copy_down(volatile uint8_t *to, const volatile uint8_t *from, size_t size)
{
    for (; size >= sizeof(word); size -= sizeof(word))
        ((volatile word *)(to + size - sizeof(word)))->value =
            ((const volatile word *)(from + size - sizeof(word)))->value;
    for (; size > 0; size--)
        to[size - 1] = from[size - 1];
}

void *memmove(void *to, const void *from, size_t size)
{
    if (counts != NULL)
        count(&counts->copied, size);
    if ((uintptr_t)to - (uintptr_t)from >= size)
        copy_up(to, from, size);
    else
        copy_down(to, from, size);
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
    return memmove(to, from, size); /* some callers do let them overlap */
}

void *mempcpy(void *restrict to, const void *restrict from, size_t size);
void *mempcpy(void *restrict to, const void *restrict from, size_t size)
{
    return (uint8_t *)memmove(to, from, size) + size;
}

/* What _FORTIFY_SOURCE makes of them. */
void *__memcpy_chk(void *to, const void *from, size_t size, size_t room);
void *__memcpy_chk(void *to, const void *from, size_t size, size_t room)
{
    if (size > room)
        abort();
    return memmove(to, from, size);
}

void *__memmove_chk(void *to, const void *from, size_t size, size_t room);
void *__memmove_chk(void *to, const void *from, size_t size, size_t room)
{
    return __memcpy_chk(to, from, size, room);
}

void *memset(void *to, int byte, size_t size)
{
    volatile uint8_t *at = to;
    uint64_t all = (uint8_t)byte * UINT64_C(0x0101010101010101);

    if (counts != NULL)
        count(&counts->set, size);
    for (; size >= sizeof(word); size -= sizeof(word), at += sizeof(word))
        ((volatile word *)at)->value = all;
    for (; size > 0; size--)
        *at++ = (uint8_t)byte;
    return to;
}

void *__memset_chk(void *to, int byte, size_t size, size_t room);
void *__memset_chk(void *to, int byte, size_t size, size_t room)
{
    if (size > room)
        abort();
    return memset(to, byte, size);
}
