/* inbox: the calls that are addressed to one worker, in the order of their submit.
 *
 * Overview. Each worker may have an array of entries, twice as many as there are slots, in a block
 * of the host's heap: it is made when somebody first addresses that worker, and so costs nothing
 * where nobody does. An entry is generation (32) and slot (32). The tail is the host's, under a
 * lock of its own, the head the worker's; both are in the worker's record, in lines of their own,
 * which no plain call writes to. To claim is to swap the *slot* from DIRECTED to CLAIMED(w), as
 * with the ring; then the head moves on. An entry whose slot is not DIRECTED in that generation any
 * more (cancelled, past its deadline, claimed by a doubled entry) is stale, and skipped.
 *
 * Why it is correct. DIRECTED is a state of its own, so no entry of the ring, not even one that
 * comes round (ring.h), lets another worker claim the call. The entry has the whole generation, so
 * a stale one fits no later life of its slot, and slots are used again whatever entries lie about.
 * Calls that end while they are queued behind one that runs for long leave stale entries in any
 * number; so who pushes and finds as many entries as there are slots renews the inbox: the entries
 * that are alive, which are fewer, are pushed once more in their order, and the head goes to where
 * the tail was. The worker claims at the head all the while: what is there is the oldest that is
 * alive, or stale, in either of the two. It believes an entry only while the head is still there:
 * an entry is written over after the head has passed it. A worker's inbox is emptied when its death
 * is confirmed and all calls in it have been ended, before its successor is forked. */
#ifndef PC_SHM_INBOX_H
#define PC_SHM_INBOX_H

#include "lib/shm/segment.h"

static inline uint64_t pc_inbox_entry(uint32_t slot, uint32_t generation)
{
    return (uint64_t)generation << 32 | slot;
}

static inline uint32_t pc_inbox_entries(const pc_segment *segment)
{
    return 2 * segment->config.slots;
}

/* Bytes of the block that it is in. */
static inline size_t pc_inbox_size(const pc_segment *segment)
{
    return pc_inbox_entries(segment) * sizeof(uint64_t);
}

/* Worker: whether there are entries, claimable or stale. */
static inline bool pc_inbox_has(const pc_segment *segment, unsigned worker)
{
    const pc_worker_record *record = &segment->workers[worker];

    return atomic_load_explicit(&record->inbox_tail, memory_order_acquire) !=
           atomic_load_explicit(&record->inbox_head, memory_order_relaxed);
}

/* Worker: claims the next call of its inbox. True: *slot is its, *word its control word. */
bool pc_inbox_claim(pc_segment *segment, unsigned worker, unsigned incarnation, uint32_t *slot,
                    uint64_t *word);

/* The host's side of a worker's inbox; private. */
typedef struct pc_inbox {
    uint64_t block; /* 0: it has none yet */
    uint32_t tail;
    uint32_t head; /* as last seen: the worker's line is left alone */
} pc_inbox;

/* Host, all under one lock: makes it empty, and tells the worker where it is. */
void pc_inbox_reset(pc_segment *segment, unsigned worker, pc_inbox *inbox);

/* Whether as many entries as there are slots are in it: time to renew. */
bool pc_inbox_is_long(const pc_segment *segment, unsigned worker, pc_inbox *inbox);

/* Publishes a DIRECTED slot; its ticket. The caller then wakes the worker: pc_idle_wake_worker. */
uint32_t pc_inbox_push(pc_segment *segment, unsigned worker, pc_inbox *inbox, uint32_t slot,
                       uint32_t generation);

/* Pushes what is alive once more, and skips all that was there. is_live says so, and is told the
 * new ticket by moved. */
typedef struct pc_inbox_owner {
    bool (*is_live)(void *data, uint32_t slot, uint32_t generation);
    void (*moved)(void *data, uint32_t slot, uint32_t ticket);
    void *data;
} pc_inbox_owner;
void pc_inbox_renew(pc_segment *segment, unsigned worker, pc_inbox *inbox,
                    const pc_inbox_owner *owner);

/* Whether that entry is there, and still to come. */
bool pc_inbox_holds(const pc_segment *segment, unsigned worker, const pc_inbox *inbox,
                    uint32_t ticket, uint32_t slot, uint32_t generation);

/* Whether head, tail and place are such as they can be. */
bool pc_inbox_intact(const pc_segment *segment, unsigned worker, const pc_inbox *inbox);

#endif
