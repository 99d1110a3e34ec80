"""The same with coroutines: a module of its own, since each new zygote of a crew that has it imports asyncio."""

import asyncio

from steps_ops import _marks

_gates = {}
_state = {"opened": -1}


async def add(index, a, b):
    _marks[index] += 1
    await asyncio.sleep(0)
    return a + b


async def add_at_once(index, a, b):
    _marks[index] += 1
    return a + b


async def wait(index, a, b):
    """Until the gates are opened, or it is cancelled."""
    _marks[index] += 1
    gate = asyncio.Event()
    _gates[index] = gate
    if index > _state["opened"]:
        await gate.wait()
    return a + b


def open_gates(index, a, b):
    """For all that were submitted before: some may not have come to their first step."""
    _marks[index] += 1
    _state["opened"] = index
    for gate in _gates.values():
        gate.set()
    _gates.clear()
    return a + b
