"""StreamDma alone before a memory with latency and bandwidth: the share of the bandwidth it gets, and the bursts it keeps in flight.

Parameters of the bench's own: ``latency``, ``bytes_per_cycle`` (of the memory), ``num_bytes`` to read. Writes ``rate.json`` into the
folder of the run: {share, most_in_flight}. The stream is taken at once; share is bytes over cycles from start to the last vector.
"""

from collections import deque
import json
from pathlib import Path

import cocotb
from cocotb.triggers import FallingEdge

from hwgen_sim.bench import parameters
from hwgen_sim.checker import BenchFailure
from hwgen_sim.endpoints import sample, start

ADDRESS = 1 << 12
SLACK = 0.05             # of the share that is expected


def expected_share(p: dict) -> float:
    """Of a long run: bursts in flight over the cycles of one, at most the memory's bandwidth; and the latency before the first word."""
    beat, beats = p["axi_bits"] // 8, 16
    rate = min(p["bytes_per_cycle"], beat)
    in_flight = p["read_bursts"] * beats * beat / (p["latency"] + beats * beat / rate)
    cycles = p["latency"] + p["num_bytes"] / min(rate, in_flight)
    return p["num_bytes"] / cycles / p["bytes_per_cycle"]


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def keeps_the_memory_busy(dut):
    p = parameters()
    beat, vector = p["axi_bits"] // 8, p["vector_bytes"]
    await start(dut, m_axi_arready=1, vec_ready=1, frames=1, weight_addr=ADDRESS, weight_bytes=p["num_bytes"])
    dut.start.value = dut.clear.value = 1
    await FallingEdge(dut.clk)
    dut.start.value = dut.clear.value = 0
    bursts: deque[list[int]] = deque()          # [address of the next beat, cycle in which it may come, beats]
    budget, most, taken, cycle = 0.0, 0, 0, 0
    while taken < p["num_bytes"]:
        if cycle > 40 * (p["num_bytes"] + 1000 * p["latency"]):
            raise BenchFailure(f"{taken} of {p['num_bytes']} bytes after {cycle} cycles")
        if sample(dut.vec_valid):
            word = sample(dut.vec_data)
            if word is None or word & 0xFFFFFFFF != ADDRESS + taken:
                raise BenchFailure(f"the vector at {ADDRESS + taken:#x} is {word}")
            taken += vector
        budget = min(budget, 4 * beat) + p["bytes_per_cycle"]
        if sample(dut.m_axi_arvalid):
            bursts.append([sample(dut.m_axi_araddr), cycle + p["latency"] + 1, sample(dut.m_axi_arlen) + 1])
            most = max(most, len(bursts))
        answer = bool(bursts) and bursts[0][1] <= cycle and budget >= beat
        dut.m_axi_rvalid.value = int(answer)
        if answer:
            address, _, beats = bursts[0]
            dut.m_axi_rdata.value = sum((address + at) << 8 * at for at in range(0, beat, vector)) if vector < beat else address
            dut.m_axi_rlast.value = int(beats == 1)
            budget -= beat
            bursts[0][0], bursts[0][2] = address + beat, beats - 1
            if beats == 1:
                bursts.popleft()
        cycle += 1
        await FallingEdge(dut.clk)
    share = p["num_bytes"] / cycle / p["bytes_per_cycle"]
    Path("rate.json").write_text(json.dumps({"share": share, "most_in_flight": most}))
    if most > p["read_bursts"]:
        raise BenchFailure(f"{most} bursts in flight, {p['read_bursts']} are allowed")
    if abs(share / expected_share(p) - 1) > SLACK:
        raise BenchFailure(f"{share:.3f} of the bandwidth, {expected_share(p):.3f} expected")
