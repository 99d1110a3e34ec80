/* function: names, and their blocks in the segment, from which workers look them up. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/crew.h"

static uint32_t hash_of(const char *text)
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (; *text != '\0'; text++)
        hash = (hash ^ (unsigned char)*text) * 16777619u;
    return hash;
}

static bool same_source(const char *a, const char *b)
{
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static const pycrew_function *find(pycrew_crew *crew, uint32_t hash, const char *name,
                                   const char *source)
{
    const pycrew_function *f = atomic_load_explicit(&crew->functions[hash % PC_FUNCTION_BUCKETS],
                                                    memory_order_acquire);

    while (f != NULL &&
           (f->hash != hash || strcmp(f->name, name) != 0 || !same_source(f->source, source)))
        f = f->next;
    return f;
}

/* The bytes of a dotted name of identifiers: up to the first that is none, or its whole length.
 * Bytes beyond ASCII may be letters; Python will know. */
static size_t dotted_name(const char *text)
{
    size_t at = 0, start = 0;

    for (;; at++) {
        unsigned char c = (unsigned char)text[at];

        if (c == '.' && at > start) {
            start = at + 1;
            continue;
        }
        if ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')
            continue;
        if (c == '_' || c >= 0x80 || (c >= '0' && c <= '9' && at > start))
            continue;
        return at > start ? at : start;
    }
}

static int malformed(const char *name, size_t at, const char *wanted)
{
    if (name[at] == '\0')
        return pc_fail(-EINVAL, "function name \"%s\": it ends where %s should follow; the form is "
                                "package.module:name", name, wanted);
    return pc_fail(-EINVAL, "function name \"%s\": byte %zu: '%c' where %s should stand; the form is "
                            "package.module:name", name, at, name[at], wanted);
}

static int check_dotted(const char *name, const char *part, char end, const char *wanted)
{
    size_t at = dotted_name(part), from = (size_t)(part - name);

    if (at == 0 || part[at - 1] == '.')
        return malformed(name, from + at, wanted);
    if (part[at] != end)
        return malformed(name, from + at, end == ':' ? "':'" : "a name");
    return 0;
}

static int check_name(const char *name, const char *source)
{
    size_t size;
    int rc;

    if (name == NULL)
        return pc_fail(-EINVAL, "the function's name is NULL");
    size = strlen(name);
    if (size > 4096)
        return pc_fail(-EINVAL, "the function's name has %zu bytes; 4096 are allowed", size);
    if (pc_utf8_prefix(name, size) != size)
        return pc_fail(-EINVAL, "the function's name is not UTF-8 at byte %zu",
                       pc_utf8_prefix(name, size));
    if (source != NULL)
        return check_dotted(name, name, '\0', "a name");
    rc = check_dotted(name, name, ':', "a module's name");
    return rc < 0 ? rc : check_dotted(name, strchr(name, ':') + 1, '\0', "a name");
}

int pc_function_check_name(const char *name)
{
    return check_name(name, NULL);
}

static size_t block_size(const char *name, const char *source)
{
    return sizeof(pc_function_block) + strlen(name) + (source != NULL ? strlen(source) : 0) + 2;
}

static void fill_block(pc_function_block *block, const char *name, const char *source)
{
    size_t name_size = strlen(name), source_size = source != NULL ? strlen(source) : 0;

    block->name_size = (uint32_t)name_size;
    block->has_source = source != NULL;
    block->source_size = source_size;
    atomic_store_explicit(&block->kind, PC_FUNCTION_UNKNOWN, memory_order_relaxed);
    atomic_store_explicit(&block->sampling, 0, memory_order_relaxed);
    memcpy(block->text, name, name_size + 1);
    memcpy(block->text + name_size + 1, source != NULL ? source : "", source_size + 1);
}

static int write_block(pycrew_crew *crew, const char *name, const char *source, uint64_t *ret)
{
    int rc = pc_memory_alloc(crew, block_size(name, source), ret);

    if (rc < 0)
        return pc_fail(rc, "no shared memory is left for a function's name and source: release calls and arrays, or raise options.memory");
    fill_block(pc_segment_at(&crew->segment, *ret), name, source);
    return 0;
}

/* Under crew->lock: where the offset of this function's block stands. */
static int find_place(pycrew_crew *crew, uint32_t number, uint64_t **ret)
{
    _Atomic uint64_t *page = &crew->segment.header->function_pages[number / PC_FUNCTION_PAGE];
    uint64_t block = crew->function_pages[number / PC_FUNCTION_PAGE];

    if (block == 0) {
        int rc = pc_memory_alloc(crew, PC_FUNCTION_PAGE * sizeof(uint64_t), &block);

        if (rc < 0)
            return pc_fail(rc, "no shared memory is left for functions: release calls and arrays, or raise options.memory");
        crew->function_pages[number / PC_FUNCTION_PAGE] = block;
        atomic_store_explicit(page, block, memory_order_release);
    }
    *ret = (uint64_t *)pc_segment_at(&crew->segment, block) + number % PC_FUNCTION_PAGE;
    return 0;
}

static int insert(pycrew_crew *crew, uint32_t hash, const char *name, const char *source,
                  const pycrew_function **ret)
{
    _Atomic(const pycrew_function *) *bucket = &crew->functions[hash % PC_FUNCTION_BUCKETS];
    pycrew_function *f;
    uint64_t *place = NULL, block;
    int rc;

    if (crew->function_count == PC_FUNCTION_PAGES * PC_FUNCTION_PAGE)
        return pc_fail(-ENOMEM, "the crew has %u functions already, and can have no more: get each function once", crew->function_count);
    rc = find_place(crew, crew->function_count, &place);
    if (rc < 0 || (rc = write_block(crew, name, source, &block)) < 0)
        return rc;
    f = calloc(1, sizeof *f + strlen(name) + 1);
    if (f == NULL || (source != NULL && (f->source = strdup(source)) == NULL)) {
        free(f);
        pc_memory_free(crew, block);
        return pc_fail(-ENOMEM, "no memory is left");
    }
    *place = block;
    f->block = block;
    f->sampling = &((pc_function_block *)pc_segment_at(&crew->segment, block))->sampling;
    f->hash = hash;
    f->number = crew->function_count++;
    strcpy(f->name, name);
    f->next = atomic_load_explicit(bucket, memory_order_relaxed);
    atomic_store_explicit(bucket, f, memory_order_release);
    *ret = f;
    return 0;
}

static int get(pycrew_crew *crew, const char *name, const char *source, const pycrew_function **ret)
{
    const pycrew_function *found;
    uint32_t hash;
    int rc;

    if (crew == NULL || ret == NULL)
        return pc_fail(-EINVAL, "%s: crew and ret must not be NULL",
                       source == NULL ? "pycrew_function_get" : "pycrew_function_source");
    rc = pc_crew_check(crew);
    if (rc < 0)
        return rc;
    hash = name == NULL ? 0 : hash_of(name);
    found = name == NULL ? NULL : find(crew, hash, name, source);
    if (found == NULL) {
        rc = check_name(name, source);
        if (rc < 0)
            return rc;
        pthread_mutex_lock(&crew->lock);
        found = find(crew, hash, name, source);
        if (found == NULL)
            rc = insert(crew, hash, name, source, &found);
        pthread_mutex_unlock(&crew->lock);
    }
    if (rc == 0)
        *ret = found;
    return rc;
}

int pycrew_function_get(pycrew_crew *crew, const char *name, const pycrew_function **ret)
{
    return get(crew, name, NULL, ret);
}

int pycrew_function_source(pycrew_crew *crew, const char *name, const char *source,
                           const pycrew_function **ret)
{
    if (source == NULL)
        return pc_fail(-EINVAL, "pycrew_function_source: source must not be NULL");
    return get(crew, name, source, ret);
}

/* ---- what the segment is told ---- */

enum pc_function_kind pc_function_kind(const pycrew_crew *crew, const pycrew_function *f)
{
    const pc_function_block *block = pc_segment_at(&crew->segment, f->block);

    if (crew->engine != NULL)
        return PC_FUNCTION_COROUTINE; /* as which the bridge runs all */
    return (enum pc_function_kind)atomic_load_explicit(&block->kind, memory_order_acquire);
}

static uint64_t *place_of(const pycrew_crew *crew, const pycrew_function *f)
{
    uint64_t page = crew->function_pages[f->number / PC_FUNCTION_PAGE];

    return (uint64_t *)pc_segment_at(&crew->segment, page) + f->number % PC_FUNCTION_PAGE;
}

static bool block_is_intact(const pycrew_crew *crew, const pycrew_function *f)
{
    const pc_function_block *block = pc_segment_at(&crew->segment, f->block);
    size_t name = strlen(f->name) + 1, source = f->source != NULL ? strlen(f->source) : 0;

    return *place_of(crew, f) == f->block && block->name_size == name - 1 &&
           block->has_source == (f->source != NULL) && block->source_size == source &&
           memcmp(block->text, f->name, name) == 0 &&
           memcmp(block->text + name, source > 0 ? f->source : "", source + 1) == 0;
}

bool pc_functions_intact(const pycrew_crew *crew)
{
    for (unsigned i = 0; i < PC_FUNCTION_PAGES; i++)
        if (atomic_load(&crew->segment.header->function_pages[i]) != crew->function_pages[i])
            return false;
    for (unsigned i = 0; i < PC_FUNCTION_BUCKETS; i++)
        for (const pycrew_function *f = atomic_load(&crew->functions[i]); f != NULL; f = f->next)
            if (!block_is_intact(crew, f))
                return false;
    return true;
}

void pc_functions_restore(pycrew_crew *crew)
{
    for (unsigned i = 0; i < PC_FUNCTION_PAGES; i++)
        atomic_store(&crew->segment.header->function_pages[i], crew->function_pages[i]);
    for (unsigned i = 0; i < PC_FUNCTION_BUCKETS; i++)
        for (const pycrew_function *f = atomic_load(&crew->functions[i]); f != NULL; f = f->next) {
            fill_block(pc_segment_at(&crew->segment, f->block), f->name, f->source);
            *place_of(crew, f) = f->block;
        }
}

void pc_functions_free(pycrew_crew *crew)
{
    for (unsigned i = 0; i < PC_FUNCTION_BUCKETS; i++) {
        const pycrew_function *f = atomic_load(&crew->functions[i]), *next;

        for (; f != NULL; f = next) {
            next = f->next;
            free(f->source);
            free((void *)(uintptr_t)f);
        }
    }
}
