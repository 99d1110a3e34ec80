"""A worker that writes over the shared segment of its crew: random bytes, and lies."""
import ctypes
import os
import random
import re
import struct
import time

MASK = (1 << 64) - 1


def mapping():
    """Where the segment is: the shared mapping of the file that was unlinked."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw-s .*(/dev/shm/pycrew\.|memfd:pycrew )", line)
            if found:
                return int(found[1], 16), int(found[2], 16)
    raise RuntimeError("no segment")


class Segment:
    """Reads and writes words by offset. The layout is lib/shm/segment.c's; sizes come from the host."""

    def __init__(self, sizes):
        self.base, end = mapping()
        self.size = end - self.base
        self.at = sizes
        config = struct.unpack("6I", self.read(sizes["config"], 24))
        self.slots, self.workers, self.queues, self.spans = config[:4]
        offset = self.up(sizes["header"])
        self.records = offset
        offset = self.up(offset + self.workers * sizes["record"])
        self.upcalls = offset
        offset = self.up(offset + self.workers * sizes["places"] * sizes["upcall"])
        self.stride = self.up(sizes["queue_bits"] + self.slots // 8)
        self.queue_records = offset
        offset = self.up(offset + self.queues * self.stride)
        self.ring = offset
        offset = self.up(offset + self.slots * 8)
        self.owners = offset
        offset = self.up(offset + self.spans * 4)
        offset = self.up(offset + self.slots * 4)  # stops
        offset = self.up(offset + self.workers * sizes["times"])
        self.slot_area = self.up(offset, 4096)
        self.span_area = self.up(self.slot_area + self.slots * 256, 4096)

    @staticmethod
    def up(size, to=64):
        return (size + to - 1) // to * to

    def read(self, offset, size):
        return ctypes.string_at(self.base + offset, size)

    def write(self, offset, data):
        if 0 <= offset <= self.size - len(data):
            ctypes.memmove(self.base + offset, data, len(data))

    def get64(self, offset):
        return struct.unpack("Q", self.read(offset, 8))[0] if offset <= self.size - 8 else 0

    def put64(self, offset, value):
        self.write(offset, struct.pack("Q", value & MASK))

    def put32(self, offset, value):
        self.write(offset, struct.pack("I", value & 0xFFFFFFFF))

    def put16(self, offset, value):
        self.write(offset, struct.pack("H", value & 0xFFFF))


def random_bytes(r, segment):
    """Over all of it."""
    for offset in range(0, segment.size, 1 << 16):
        segment.write(offset, r.randbytes(min(1 << 16, segment.size - offset)))


def random_ranges(r, segment):
    for _ in range(r.randint(1, 60)):
        end = segment.size if r.random() < 0.2 else segment.span_area + (1 << 18)
        size = r.choice((1, 4, 8, 64, 300, 4096, 40000))
        segment.write(r.randrange(end), r.randbytes(size))


# ---- well-formed lies: each gets the segment and a generator ----


def near(r, value):
    return value + r.choice((-1, 1, -2, 2, 100, -100, 1 << 20, -(1 << 20), 1 << 31, 0))


def slot_of(r, s):
    """More often one that is in use."""
    for _ in range(20):
        slot = s.slot_area + 256 * r.randrange(s.slots)
        if s.get64(slot) & 7 in (1, 2):
            return slot
    return slot


def an_offset(r, s):
    offset = s.span_area + r.randrange(s.spans << 20)
    return r.choice((offset & ~63, offset & ~0xFFFFF, offset & ~7, offset, 0, s.size, s.size - 8, 64,
                     r.getrandbits(64)))


def a_size(r, s):
    return r.choice((0, 8, 16, 63, 64, 65, 4096, 1 << 20, s.size, 1 << 40, MASK, r.getrandbits(20)))


def lie_control(r, s):
    slot = slot_of(r, s)
    word = s.get64(slot)
    generation, state = word >> 32, r.choice((0, 1, 2, 3, 3, 3, 5, word & 7))
    worker = r.choice((r.randrange(s.workers), 0xFFF, s.workers, r.randrange(4096)))
    incarnation = r.choice((word >> 20 & 0xFFF, r.randrange(6)))
    if r.random() < 0.3:
        generation = near(r, generation) & 0xFFFFFFFF
    flags = r.choice((0, word & 0xF8, r.getrandbits(5) << 3))
    s.put64(slot, generation << 32 | incarnation << 20 | worker << 8 | flags | state)


def lie_swap_slots(r, s):
    a, b = slot_of(r, s), slot_of(r, s)
    word = s.get64(a)
    s.put64(a, s.get64(b))
    s.put64(b, word)


def lie_result(r, s):
    slot = slot_of(r, s)
    s.put32(slot + 8, r.choice((1, 2, 3, 4, 5, 6, 7, 8, 0, 99)))
    s.put64(slot + 16, an_offset(r, s))
    s.put64(slot + 24, a_size(r, s))


def lie_request(r, s):
    slot = slot_of(r, s)
    which = r.randrange(7)
    if which == 0:
        s.put32(slot + 128, r.choice((0, 1, 2, 60, 1 << 16, MASK)))  # function
    elif which == 1:
        s.put32(slot + 132, r.choice((s.get64(slot) >> 32, 0, r.getrandbits(32))))  # entered
    elif which == 2:
        s.put32(slot + 136, r.choice((r.randrange(s.slots), MASK)))  # sleeper
    elif which == 3:
        s.put16(slot + 140, r.choice((0, 1, 2, s.queues, 0xFFFF)))  # queue
    elif which == 4:
        s.put16(slot + 142, r.getrandbits(3))  # flags
    elif which == 5:
        s.put64(slot + 144, an_offset(r, s))
    else:
        s.put64(slot + 152, a_size(r, s))


def lie_semaphore(r, s):
    if r.random() < 0.5:
        at = slot_of(r, s) + 96
    else:
        at = s.records + r.randrange(s.workers) * s.at["record"]
    s.put64(at, r.choice((0, 1, 3, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, MASK, r.getrandbits(64))))
    s.put64(at + 8, r.choice((0, 128, 1, MASK, r.getrandbits(64))))


def lie_head(r, s):
    head = struct.unpack("I", s.read(s.at["ring_head"], 4))[0]
    s.put32(s.at["ring_head"], near(r, head))


def lie_entry(r, s):
    at = s.ring + 8 * r.randrange(s.slots)
    entry = r.choice((s.get64(at), s.get64(s.ring + 8 * r.randrange(s.slots))))
    entry ^= r.choice((0, 1, 1 << 20, 1 << 32, s.slots << 32, r.getrandbits(64)))
    s.put64(at, entry)


def lie_owner(r, s):
    owner = r.choice((0, 0, 1, 0xFFF, r.randrange(6) << 12 | 2 + r.randrange(s.workers),
                      r.getrandbits(32)))
    first = r.randrange(s.spans)
    for span in range(first, min(s.spans, first + r.choice((1, 1, 4, s.spans)))):
        s.put32(s.owners + 4 * span, owner)


def lie_record(r, s):
    record = s.records + r.randrange(s.workers) * s.at["record"]
    field = r.choice(("sleeps", "posted", "interrupt", "interrupt_item", "returned"))
    if field == "returned":
        s.put64(record + s.at[field], an_offset(r, s))
    elif field == "interrupt":
        slot = r.randrange(s.slots)
        s.put64(record + s.at[field], s.get64(s.slot_area + 256 * slot) >> 32 << 32 | slot)
    else:
        s.put32(record + s.at[field], r.choice((0, 1, MASK, r.getrandbits(8))))


def lie_queue(r, s):
    queue = s.queue_records + r.randrange(min(s.queues, 4)) * s.stride
    if r.random() < 0.5:
        s.put32(queue, r.choice((0, 1, MASK)))
    else:
        s.put64(queue + s.at["queue_bits"] + 8 * r.randrange(s.slots // 64),
                r.choice((0, MASK, r.getrandbits(64))))


def lie_header(r, s):
    field = r.choice(("closing", "spinner", "alive", "idle", "host_spinners", "function_pages"))
    if field == "idle":
        s.put64(s.at[field], r.choice((0, MASK, r.getrandbits(4))))
    elif field == "function_pages":
        s.put64(s.at[field], an_offset(r, s))
    else:
        s.put32(s.at[field], r.choice((0, 1, 2, s.workers, s.workers + 1, MASK)))


def lie_names(r, s):
    """The functions' table, and a name."""
    page = s.get64(s.at["function_pages"])
    place = page + 8 * r.randrange(6)
    if r.random() < 0.5:
        s.put64(place, an_offset(r, s))
    else:
        s.write(s.get64(place) + r.randrange(40), r.randbytes(4))


def lie_upcall(r, s):
    """Calls to the host: of a place that is in use, rather."""
    for _ in range(20):
        place = s.upcalls + r.randrange(s.workers * s.at["places"]) * s.at["upcall"]
        request, released = struct.unpack("2I", s.read(place, 8))
        if request != released:
            break
    which = r.randrange(9)
    if which == 0:
        s.put32(place, r.choice((0, request + 1, request + 2, released, MASK, r.getrandbits(32))))
    elif which == 1:
        s.put32(place + 4, r.choice((0, request, request + 1, request - 1, MASK)))
    elif which == 2:
        s.put32(place + 8, r.choice((0, 1, 2, 1000, MASK)))
    elif which == 3:
        s.put64(place + 16, an_offset(r, s))
        s.put64(place + 24, a_size(r, s))
    elif which == 4:
        s.write(place + 32 + 8 * r.randrange(12), r.randbytes(8))
    elif which == 5:
        s.put32(place + 128, r.choice((0, request, request + 1, request - 1, MASK)))
    elif which == 6:
        s.put32(place + 132, r.choice((0, 1, 2, 3, 4, 99)))
        s.put64(place + 136, an_offset(r, s))
        s.put64(place + 144, a_size(r, s))
    elif which == 7:
        s.put64(place + 256, r.choice((0, 1, 3, MASK, r.getrandbits(64))))
        s.put64(place + 264, r.choice((0, 128, 1, MASK)))
    else:
        field = r.choice(("upcall_wakes", "upcall_armed", "exports", "upcall_bits"))
        s.put32(s.at[field], r.choice((0, 1, MASK, r.getrandbits(32))))


def asks(size):
    """Whether the host gives back what it is given."""
    import pycrew
    data = b"x" * size
    return pycrew.host.echo(data) == data


def asks_unheard(sizes):
    """Writes over what says that the host's listener sleeps, then asks."""
    import pycrew
    pycrew.host.echo(b"")
    time.sleep(0.1)  # it sleeps by then
    Segment(sizes).put32(sizes["upcall_armed"], 0)
    return pycrew.host.echo(b"heard") == b"heard"


def asks_beside_a_lie(sizes):
    """Writes over the answer's number of another place of this worker's, then asks."""
    import pycrew
    s = Segment(sizes)
    s.put32(s.upcalls + (pycrew.worker * sizes["places"] + 5) * sizes["upcall"] + 128, 77)
    return pycrew.host.echo(b"heard") == b"heard"


def lie_chunk(r, s):
    for _ in range(200):
        slot = s.slot_area + 256 * r.randrange(s.slots)
        flags = struct.unpack("H", s.read(slot + 142, 2))[0]
        if flags & 2 and s.get64(slot) & 7 in (1, 2):
            break
    else:
        return
    chunk, at = s.get64(slot + 144), s.at
    if not s.span_area <= chunk <= s.size - 4096:
        return
    which = r.randrange(10)
    progress = s.get64(chunk + at["progress"])
    if which == 0:
        s.put64(chunk + at["progress"],
                r.choice((0, progress + 1, progress + (1 << 33), progress ^ 1 << 32, MASK,
                          progress + (1 << 33) + 1, r.getrandbits(64))))
    elif which == 1:
        s.put64(chunk + at["item_started"],
                r.choice((0, MASK, 1 << 62, time.monotonic_ns(), r.getrandbits(64))))
    elif which == 2:
        s.put64(chunk + at["busy"], r.choice((0, MASK, MASK >> 1, r.getrandbits(64))))
    elif which == 3:
        s.put32(chunk + at["block_count"], r.choice((0, 1, 24, 25, MASK)))
    elif which == 4:
        for i in range(24):
            s.put64(chunk + at["blocks"] + 8 * i, an_offset(r, s))
            s.put64(chunk + at["block_sizes"] + 8 * i, a_size(r, s))
    elif which == 5:
        s.put32(chunk + at["cancel"], 1)
    elif which == 6:
        s.put32(chunk + r.choice((0, 4, 8, 12)), near(r, r.randrange(100)))
    elif which == 7:  # what fails of a map, and what kind of chunk it is
        results = chunk + s.get64(chunk + at["results"])
        s.write(results + 16 + r.randrange(50), bytes(r.choice((0, 1, 2, 11, 200)) for _ in range(8)))
        s.put32(chunk + at["fault_item"], r.choice((0, 49, 50, MASK, r.getrandbits(32))))
    elif which == 8:
        s.put32(chunk + at["kind"] + r.choice((0, 4, 8)), r.choice((0, 1, 2, 3, r.getrandbits(32))))
    else:
        results = chunk + s.get64(chunk + at["results"])
        for i in range(r.randint(1, 50)):
            kind = r.choice((1, 2, 3, 6, 7, 0, 8, 127))
            s.put64(results + 16 * i, a_size(r, s) << 8 | 0x80 | kind)
            s.put64(results + 16 * i + 8, an_offset(r, s))


def not_each_third(x):
    if x % 3 == 0:
        raise ValueError(f"{x} is a multiple of three, and this is a text of some length")
    return x


LIES = [lie_control, lie_swap_slots, lie_result, lie_request, lie_semaphore, lie_head, lie_entry,
        lie_owner, lie_record, lie_queue, lie_header, lie_names, lie_chunk, lie_upcall]


def lies(r, segment, kinds=LIES):
    some = r.sample(kinds, r.randint(1, min(4, len(kinds))))
    for _ in range(r.choice((1, 2, 10, 100))):
        r.choice(some)(r, segment)


def scribble(how, seed, sizes, seconds):
    """Once, or again and again for a while. how: bytes, ranges, lies, or a kind of lie."""
    segment = Segment(sizes)
    r = random.Random(seed)
    end = time.monotonic() + seconds
    while True:
        if how == "bytes":
            random_bytes(r, segment)
        elif how == "ranges":
            random_ranges(r, segment)
        else:
            lies(r, segment, LIES if how == "lies" else [globals()["lie_" + how]])
        if time.monotonic() >= end:
            return 1
