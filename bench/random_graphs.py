"""Random small networks through both backends: ``python bench/random_graphs.py [--count 200] [--seed 0] [--no-rtl]``.

Every network is quantized, compiled for the HLS engine and for the RTL engine, and run on images; behind every third one comes one of a sequence,
run with shorter ones. The C simulation is compared with the
integer model in every intermediate value (router logits included), the RTL (Verilator) in every output word and in every int8 value,
which taps let out (patches, norms, q, k, v, attention, hidden; the residual stream is seen through its norms). One C simulation and one
Verilator model an activation function serve all networks. Exit code 1 when a word differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import tempfile
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

import hls_networks
from hwgen.devices.memory import MemoryModel
from hwgen.functions import Act
from hwgen.steps import golden
from hwgen.steps.passes.lengths import shortened
from hwgen.steps.step import Quantized
import native_builds
import qgraphs
import sequence_nets
from taken_nets import taking
import wide_nets

IMAGES = 2


def options(rng: np.random.Generator, act: Act) -> dict:
    """Sizes of one random network."""
    heads = int(rng.choice([1, 2, 3, 4]))
    experts = int(rng.integers(2, 9))
    patch = int(rng.choice([1, 2]))
    return {"tokens": int(rng.integers(9, 17)), "dim": heads * int(rng.choice([4, 8, 12, 16])), "heads": heads,
            "hidden": int(rng.choice([16, 24, 40, 64])), "experts": experts, "top_k": int(rng.integers(1, min(3, experts) + 1)),
            "blocks": str(rng.choice(["d", "m", "g", "dm", "mg", "gb", "bm", "s", "sm", "t", "td", "mt"])),
            "classes": ((5,), (10,), (4, 7), (3, 3))[int(rng.integers(4))], "class_token": bool(rng.integers(2)),
            "renormalize": bool(rng.integers(2)), "patch": patch, "channels": int(rng.choice([1, 2, 3])), "act": act,
            "pool": str(rng.choice(["select", "mean"])), "causal": bool(rng.integers(2)),
            "norms": str(rng.choice(["pre", "pre", "post", "respost", "sandwich"])), "rms": bool(rng.integers(2)),
            "bias": (None, "heads", "all", "mask")[int(rng.integers(4))],
            "gates": str(rng.choice(["softmax", "sigmoid", "biased"])), "rotary": int(rng.choice([0, 0, 2, 4])),
            "value_dim": int(rng.choice([0, 0, 4, 12, 20]))}


def network(seed: int, act: Act) -> tuple[Quantized, np.ndarray, dict]:
    """(network, images, its sizes): a third with operands of 8 bits, a third with 16 bits wherever there can be some, a third with them here
    and there; these read the residual stream out too. Half of all take tokens by lists."""
    chosen = options(np.random.default_rng(seed), act)
    model = qgraphs.random_model(seed, **chosen)
    if kind := seed // 4 % 3:
        quantized = wide_nets.read_out(wide_nets.random_wide(seed, part=seed if kind == 2 else None, **chosen))
    else:
        quantized = qgraphs.random_qgraph(seed, **chosen)
    if seed // 12 % 2:
        quantized = taking(quantized, seed)
    return quantized, qgraphs.random_images(model, IMAGES, seed), chosen


def short(seed: int, act: Act) -> tuple[Quantized, np.ndarray, list[int]]:
    """(network of a sequence, sequences, their lengths)."""
    rng = np.random.default_rng(seed)
    heads, tokens = int(rng.choice([1, 2, 3])), int(rng.integers(9, 17))
    width = int(rng.choice([8, 12, 16]))
    model = sequence_nets.sequence_network(
        seed, tokens=tokens, dim=heads * width, heads=heads, rotary=width != 12 and seed % 2 == 0, hidden=int(rng.choice([16, 24, 40])),
        experts=int(rng.integers(2, 6)), blocks=str(rng.choice(["d", "m", "g", "dm", "gd"])), end=str(rng.choice(sequence_nets.ENDS)), causal=bool(rng.integers(2)), act=act)
    return model, sequence_nets.sequences(model, IMAGES, seed), [int(length) for length in rng.integers(1, tokens + 1, IMAGES)]


def short_in_rtl(engine: native_builds.Engine, model: Quantized, images: np.ndarray, lengths: list[int],
                 memory: MemoryModel) -> tuple[int, list[str]]:
    """(values compared, those that differ) of sequences of these lengths, each against the network of its length."""
    network, count, wrong = model.tasks[0], 0, []
    result = engine.run(engine.program(model, taps=True), model, images, [0] * len(images), memory, lengths=lengths)
    for length, image, outputs, taps in zip(lengths, images, result.outputs, result.values, strict=True):
        wanted = golden.trace(shortened(network, length), image[None, :length])
        for name, value in {**taps, **outputs}.items():
            right = wanted[name][0]
            count += 1
            wrong += [] if np.array_equal(value[:len(right)], right) else [f"RTL: {name}, {length} tokens"]
    return count, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-rtl", action="store_true", help="C simulation only")
    args = parser.parse_args()
    begin, values, rtl_values, words, failed = time.monotonic(), 0, 0, 0, []
    with tempfile.TemporaryDirectory(prefix="hwgen_random_") as folder:
        work = Path(folder)
        for group, act in enumerate((Act.GELU, Act.SILU, Act.GELU_TANH, Act.RELU)):
            executable = hls_networks.build(work / act.value, (act, Act("sigmoid")))
            engine = native_builds.Engine(work / f"rtl_{act.value}", 16, 16, 128,
                                          {"max_experts": 8, "max_top_k": 3, "program_words": 256, "act_words": 1024,
                                           "activation": f"{act.value} sigmoid", "wide": True, "causal": True, "operand_words": 160, "list_words": 256,
                                           "rotate": True, "bypass": True, "rms": True, "scores": True, "lengths": True, "mixes": True})
            for seed in range(args.seed + group, args.seed + args.count, 4):
                model, images, chosen = network(seed, act)
                done, tasks = hls_networks.run(executable, work / "network", model, images, functions=(act.value, "sigmoid"))
                count, wrong = hls_networks.differing(model, images, done, tasks)
                values += count
                if not args.no_rtl:
                    memory = native_builds.MEMORIES[seed // 4 % len(native_builds.MEMORIES)]
                    program = engine.program(model, taps=True)
                    result = engine.run(program, model, np.repeat(images, len(model.tasks), axis=0), tasks, memory)
                    rtl_wrong = native_builds.differences(result, model, np.repeat(images, len(model.tasks), axis=0), tasks)
                    words += sum(o.size for outputs in result.outputs for o in outputs.values())
                    for frame, task in enumerate(tasks):
                        wanted = golden.trace(model.tasks[task], images[frame // len(model.tasks)][None])
                        taps = result.values[frame]
                        rtl_values += len(taps)
                        wrong += [f"RTL: {name}" for name, value in taps.items() if (value != wanted[name][0]).any()]
                    wrong += [f"RTL: {rtl_wrong} output words"] if rtl_wrong else []
                if seed // 4 % 3 == 0:
                    sequence, tokens, lengths = short(seed, act)
                    done, tasks = hls_networks.run(executable, work / "sequence", sequence, tokens, lengths, functions=(act.value, "sigmoid"))
                    count, more = hls_networks.differing(sequence, tokens, done, tasks, lengths)
                    values, wrong = values + count, wrong + more
                    if not args.no_rtl:
                        count, more = short_in_rtl(engine, sequence, tokens, lengths, native_builds.MEMORIES[seed // 4 % len(native_builds.MEMORIES)])
                        rtl_values, wrong = rtl_values + count, wrong + more
                if wrong:
                    failed.append(seed)
                    print(f"seed {seed} {chosen}: {wrong[:3]}", flush=True)
            print(f"{act.value}: done after {time.monotonic() - begin:.0f} s", flush=True)
    print(f"{args.count} networks, {values:,} values of the C simulation, {rtl_values:,} values and {words:,} output words of the RTL "
          f"compared, {len(failed)} networks differ, {time.monotonic() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
