/* attach: a look at another process's crew, without its leave and without touching it.
 *
 * Overview. A crew's shared memory is a descriptor of its host, without a name; /proc/PID/fd opens
 * it for who may trace the process: the same user, or root. It is found by the name that the host
 * gave it (pycrew.PID.START.N of /dev/shm, or the memfd "pycrew") and by the host's PID in the
 * header, which a forked copy of the host has not. The layout hash must be this program's own;
 * where it is not, the version that stands behind it in every layout says what to use instead.
 *
 * Why it hurts nobody. The descriptor is opened for reading and read by pread, never mapped: so no
 * word of the segment can be written, a file that somebody cuts is a short read and no SIGBUS, and
 * a hole that is read stays one. Each look is a copy of the fixed part, made between opening and
 * closing, in which nothing changes under the reader; between two looks nothing of the crew is
 * held, so its memory goes when the host ends, whoever watches. The copy is not of one instant, and
 * no number in it is believed: counts are those of the first look, workers and slots are bounded by
 * them, offsets by the size of the file, texts are cut and cleaned. A host that dies, closes the
 * crew or scribbles ends or delays the look, and does no more. */
#ifndef CLI_ATTACH_H
#define CLI_ATTACH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cli/buffer.h"
#include "lib/shm/segment.h"

/* Where a crew is. */
struct crew_place {
    pid_t pid;
    int fd; /* the host's number for the segment */
    dev_t device;
    ino_t inode;
    uint64_t layout;
    char version[PC_VERSION_SIZE + 1]; /* "" if there is none that can be read */
    pid_t host_pid;                    /* as the host sees itself */
    uint32_t workers;                  /* 0: of another layout, so not known */
};

struct crew_places {
    struct crew_place *place;
    size_t count;
};

/* The crews of one process, or of all that this user may look at (pid 0), by PID and descriptor. 0,
 * or a negated errno for the one process: -ESRCH, -EACCES. */
int attach_find(pid_t pid, struct crew_places *ret);
void attach_forget(struct crew_places *places);

struct attached {
    struct crew_place place;
    unsigned long long started; /* the host's start: with its PID its name */
    int fd;                     /* -1 but during a look */
    pc_segment segment;         /* the copy; its spans are not there */
    void *memory;
    uint64_t resident; /* bytes that the segment has in memory */
};

enum attach_end {
    ATTACH_THERE = 0,
    ATTACH_ENDED,   /* the host has */
    ATTACH_CLOSED,  /* the crew was */
    ATTACH_REFUSED, /* the host may not be looked into any more: it changed its user */
    ATTACH_OTHER,   /* of another layout */
    ATTACH_DAMAGED  /* the header was written over: the host may make it anew */
};

/* The first look is ended as the others are. */
enum attach_end attach_open(struct attached *ret, const struct crew_place *place);
void attach_close(struct attached *attached);

/* A new copy in attached->segment; attach_end_look follows in any case. */
enum attach_end attach_look(struct attached *attached);
void attach_end_look(struct attached *attached);

/* During a look: size bytes from an offset in the spans. */
bool attach_peek(const struct attached *attached, uint64_t offset, void *to, size_t size);

/* During a look: the function's name, what is no printable text replaced; "?" if there is none. */
void attach_function_name(const struct attached *attached, uint32_t number, struct buffer *to);

/* What the kernel says of a process. false: there is none. */
struct process {
    pid_t parent;
    uint64_t rss;
    unsigned long long started;
};
bool attach_process(pid_t pid, struct process *ret);

/* Whether pid is a worker of the host's: its grandchild. */
bool attach_is_worker(const struct attached *attached, pid_t pid, const struct process *process);

/* Appends the Python stack of a worker's main thread, which is asked for it by a signal. NULL, or
 * why there is none. */
const char *attach_stack(const struct attached *attached, pid_t worker, struct buffer *to);

/* What the process was started as, at most so many bytes. */
void attach_command_line(pid_t pid, struct buffer *to, size_t limit);

/* Text of somebody else's: control characters, and what is no UTF-8, become '?'; newlines stay if
 * wanted. */
void attach_add_text(struct buffer *to, const char *text, size_t size, bool newlines);

#endif
