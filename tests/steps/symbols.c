#include "tests/steps/symbols.h"

#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAPS_MAX = 128, OURS_MAX = 512, NAME_SIZE = 64 };

/* An executable mapping of a file. */
struct map {
    uint64_t start, end, offset;
    char path[256];
    bool program, python;
};

struct ours {
    uint64_t start, end;
    char name[NAME_SIZE];
};

struct elf {
    uint8_t *data;
    size_t size;
};

static struct {
    struct map maps[MAPS_MAX];
    unsigned map_count;
    struct ours ours[OURS_MAX];
    unsigned ours_count;
    uint64_t bias; /* of the program: 0 unless it is position-independent */
    uint64_t plt[8][2];
    unsigned plt_count;
    char program[PATH_MAX];
} image;

/* ---- ELF ---- */

static bool open_elf(const char *path, struct elf *elf)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;

    if (fd < 0 || fstat(fd, &status) < 0)
        return false;
    elf->size = (size_t)status.st_size;
    elf->data = mmap(NULL, elf->size, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    return elf->data != MAP_FAILED && memcmp(elf->data, ELFMAG, SELFMAG) == 0;
}

static const Elf64_Ehdr *header_of(const struct elf *elf)
{
    return (const Elf64_Ehdr *)(const void *)elf->data;
}

static const Elf64_Shdr *section(const struct elf *elf, unsigned index)
{
    return (const Elf64_Shdr *)(const void *)(elf->data + header_of(elf)->e_shoff) + index;
}

static const Elf64_Shdr *section_of_type(const struct elf *elf, uint32_t type)
{
    for (unsigned i = 0; i < header_of(elf)->e_shnum; i++)
        if (section(elf, i)->sh_type == type)
            return section(elf, i);
    return NULL;
}

/* What to add to a symbol's value: the mapping says which address, the program header which value,
 * the file offset has. */
static uint64_t bias_of(const struct elf *elf, const struct map *map)
{
    const Elf64_Ehdr *header = header_of(elf);
    const Elf64_Phdr *parts = (const Elf64_Phdr *)(const void *)(elf->data + header->e_phoff);

    for (unsigned i = 0; i < header->e_phnum; i++)
        if (parts[i].p_type == PT_LOAD && parts[i].p_flags & PF_X &&
            map->offset == (parts[i].p_offset & ~(uint64_t)4095))
            return map->start - (parts[i].p_vaddr & ~(uint64_t)4095);
    return 0;
}

/* ---- what is mapped ---- */

static void read_maps(pid_t pid)
{
    char path[64], line[PATH_MAX + 128], flags[8];
    FILE *file;

    image.map_count = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof line, file) != NULL && image.map_count < MAPS_MAX) {
        struct map *map = &image.maps[image.map_count];
        int at = 0;

        if (sscanf(line, "%lx-%lx %7s %lx %*s %*s %n", &map->start, &map->end, flags, &map->offset,
                   &at) != 4 ||
            flags[2] != 'x' || at == 0)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(map->path, sizeof map->path, "%.255s", line + at);
        map->program = strcmp(line + at, image.program) == 0;
        map->python = map->program || strstr(line + at, "libpython") != NULL;
        image.map_count++;
    }
    if (file != NULL)
        fclose(file);
}

static const struct map *map_of(uint64_t address)
{
    for (unsigned i = 0; i < image.map_count; i++)
        if (address >= image.maps[i].start && address < image.maps[i].end)
            return &image.maps[i];
    return NULL;
}

/* ---- what is ours ---- */

static bool is_our_file(const char *name)
{
    static const char *const names[] = {
        "array.c",   "async.c",       "budget.c", "choose.c", "columns.c",  "control.c",
        "convert.c", "element.c",     "fault.c",  "heap.c",   "host.c",     "idle.c",
        "inbox.c",   "interpreter.c", "items.c",  "life.c",   "lifeline.c", "loop.c",
        "main.c",    "map.c",         "module.c", "object.c", "ring.c",     "run.c",
        "segment.c", "sleeper.c",     "slot.c",   "upcall.c", "value.c",    "zygote.c"};

    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* libpython has files of the same names ("module.c"): those end up far from ours. */
static void keep_ours(const Elf64_Sym *symbol, const char *name)
{
    struct ours *ours = &image.ours[image.ours_count];

    if (image.ours_count == OURS_MAX || symbol->st_size == 0)
        return;
    ours->start = symbol->st_value + image.bias;
    ours->end = ours->start + symbol->st_size;
    snprintf(ours->name, sizeof ours->name, "%.63s", name);
    image.ours_count++;
}

static int by_start(const void *a, const void *b)
{
    const struct ours *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

static void read_ours(const struct elf *elf, const Elf64_Shdr *table)
{
    const Elf64_Sym *symbols = (const Elf64_Sym *)(const void *)(elf->data + table->sh_offset);
    const char *names = (const char *)elf->data + section(elf, table->sh_link)->sh_offset;
    bool in_our_file = false;

    image.ours_count = 0;
    for (size_t i = 0; i < table->sh_size / sizeof *symbols; i++) {
        const char *name = names + symbols[i].st_name;
        unsigned type = ELF64_ST_TYPE(symbols[i].st_info);

        if (type == STT_FILE)
            in_our_file = is_our_file(name);
        if (type != STT_FUNC || symbols[i].st_shndx == SHN_UNDEF)
            continue;
        if (ELF64_ST_BIND(symbols[i].st_info) == STB_LOCAL ? in_our_file
                                                           : strncmp(name, "pc_", 3) == 0)
            keep_ours(&symbols[i], name);
    }
    qsort(image.ours, image.ours_count, sizeof image.ours[0], by_start);
}

static void read_plt(const struct elf *elf)
{
    const char *names =
        (const char *)elf->data + section(elf, header_of(elf)->e_shstrndx)->sh_offset;

    image.plt_count = 0;
    for (unsigned i = 0; i < header_of(elf)->e_shnum && image.plt_count < 8; i++) {
        const Elf64_Shdr *s = section(elf, i);

        if (strncmp(names + s->sh_name, ".plt", 4) != 0)
            continue;
        image.plt[image.plt_count][0] = s->sh_addr + image.bias;
        image.plt[image.plt_count++][1] = s->sh_addr + image.bias + s->sh_size;
    }
}

static const struct map *program_map(void)
{
    for (unsigned i = 0; i < image.map_count; i++)
        if (image.maps[i].program)
            return &image.maps[i];
    return NULL;
}

const char *image_read(pid_t pid)
{
    const Elf64_Shdr *table;
    char path[64];
    ssize_t size;
    struct elf elf;

    snprintf(path, sizeof path, "/proc/%d/exe", (int)pid);
    size = readlink(path, image.program, sizeof image.program - 1);
    image.program[size < 0 ? 0 : size] = '\0';
    read_maps(pid);
    if (program_map() == NULL || !open_elf(path, &elf))
        return "the worker program cannot be read";
    table = section_of_type(&elf, SHT_SYMTAB);
    if (table != NULL) {
        image.bias = bias_of(&elf, program_map());
        read_ours(&elf, table);
        read_plt(&elf);
    }
    munmap(elf.data, elf.size);
    return table == NULL ? "the worker program is stripped" : NULL;
}

/* ---- look-ups ---- */

static const struct ours *ours_of(uint64_t address)
{
    unsigned low = 0, high = image.ours_count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (image.ours[middle].end <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low < image.ours_count && image.ours[low].start <= address ? &image.ours[low] : NULL;
}

enum image_kind image_kind_of(uint64_t address)
{
    const struct map *map;

    if (ours_of(address) != NULL)
        return IMAGE_OURS;
    for (unsigned i = 0; i < image.plt_count; i++)
        if (address >= image.plt[i][0] && address < image.plt[i][1])
            return IMAGE_OUTSIDE;
    map = map_of(address);
    return map != NULL && map->python ? IMAGE_PYTHON : IMAGE_OUTSIDE;
}

bool image_is_in(uint64_t address, const char *name)
{
    const struct ours *ours = ours_of(address);
    size_t length = strlen(name);

    return ours != NULL && strncmp(ours->name, name, length) == 0 &&
           (ours->name[length] == '\0' || ours->name[length] == '.');
}

/* A function that a library exports. */
static uint64_t find_exported(const struct map *map, const char *name)
{
    const Elf64_Shdr *table;
    uint64_t found = 0;
    struct elf elf;

    if (map->path[0] != '/' || !open_elf(map->path, &elf))
        return 0;
    table = section_of_type(&elf, SHT_DYNSYM);
    for (size_t i = 0; table != NULL && i < table->sh_size / sizeof(Elf64_Sym); i++) {
        const Elf64_Sym *s = (const Elf64_Sym *)(const void *)(elf.data + table->sh_offset) + i;

        if (ELF64_ST_TYPE(s->st_info) == STT_FUNC && s->st_shndx != SHN_UNDEF &&
            strcmp((const char *)elf.data + section(&elf, table->sh_link)->sh_offset + s->st_name,
                   name) == 0)
            found = s->st_value + bias_of(&elf, map);
    }
    munmap(elf.data, elf.size);
    return found;
}

uint64_t image_find(const char *name)
{
    uint64_t found = 0;

    for (unsigned i = 0; i < image.ours_count; i++)
        if (strcmp(image.ours[i].name, name) == 0)
            return image.ours[i].start;
    for (unsigned i = 0; i < image.map_count && found == 0; i++)
        if (strstr(image.maps[i].path, "/libc.so") != NULL)
            found = find_exported(&image.maps[i], name);
    return found;
}

const char *image_name(uint64_t address)
{
    static char text[NAME_SIZE + 320];
    const struct ours *ours = ours_of(address);
    const struct map *map = map_of(address);

    if (ours != NULL)
        snprintf(text, sizeof text, "%s+0x%lx", ours->name, address - ours->start);
    else
        snprintf(text, sizeof text, "%s+0x%lx", map != NULL ? map->path : "?",
                 map != NULL ? address - map->start + map->offset : address);
    return text;
}

uint64_t image_key(uint64_t address)
{
    const struct map *map = map_of(address);
    uint64_t hash = 5381;

    if (map == NULL)
        return address;
    for (const char *at = map->path; *at != '\0'; at++)
        hash = hash * 33 + (unsigned char)*at;
    return hash << 40 ^ (address - map->start + map->offset);
}
