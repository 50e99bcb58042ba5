"""Random small networks through both backends: ``python bench/random_graphs.py [--count 300] [--seed 0] [--no-rtl]``.

Every network is quantized, compiled for the HLS engine and for the RTL engine, and run on images; behind every third one comes one of a sequence,
run with shorter ones. The C simulation is compared with the
integer model in every intermediate value (router logits included), the RTL (Verilator) in every output word and in every int8 value,
which taps let out (patches, norms, q, k, v, attention, hidden; the residual stream is seen through its norms). One C simulation and one
Verilator model an activation function serve all networks: four engines of different arrays. At the end a table says how many networks have each
operator. Exit code 1 when a word differs, or an operator is missing.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
import sys
import tempfile
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

import covered
import hls_networks
from hwgen.devices.memory import MemoryModel
from hwgen.functions import Act
from hwgen.graph import Model
from hwgen.steps import golden
from hwgen.steps.passes.lengths import shortened
from hwgen.steps.step import Quantized
import native_builds
import qgraphs
import sequence_nets
from taken_nets import taking
import wide_nets

IMAGES = 2
BLOCKS = ("d", "c", "mc", "t", "td", "mt", "m", "g", "x", "s", "y", "dm", "mg", "gb", "bm", "sm", "xd", "dx", "yb", "mx")
ENGINE = {"max_experts": 8, "max_top_k": 3, "program_words": 512, "act_words": 4096, "kv_words": 1024, "score_words": 1024, "res_words": 1024, "wide": True,
          "causal": True, "operand_words": 512, "list_words": 512, "rotate": True, "bypass": True, "rms": True, "scores": True, "lengths": True,
          "mixes": True, "picks": True}
ARRAYS = {Act.GELU: (16, 16, False), Act.SILU: (16, 8, False), Act.GELU_TANH: (16, 16, True), Act.RELU: (8, 8, False)}      # columns, rows, packed


def options(rng: np.random.Generator, act: Act) -> dict:
    """Sizes of one random network."""
    def pick(*values):
        return values[int(rng.integers(len(values)))]

    heads = pick(1, 2, 3, 4)
    experts = int(rng.integers(2, 9))
    made = {"tokens": int(rng.integers(9, 17)), "dim": heads * pick(4, 8, 12, 16), "heads": heads, "hidden": pick(16, 24, 40, 64), "experts": experts,
            "top_k": int(rng.integers(1, min(3, experts) + 1)), "blocks": pick(*BLOCKS), "classes": pick((5,), (10,), (4, 7), (3, 3)),
            "class_token": pick(True, False), "renormalize": pick(True, False), "patch": pick(1, 2), "channels": pick(1, 2, 3), "act": act,
            "pool": pick("select", "mean", "query", "slice"), "causal": pick(True, False), "norms": pick("pre", "pre", "post", "respost", "sandwich"),
            "rms": pick(True, False), "bias": pick(None, "heads", "all", "mask"), "gates": pick("softmax", "sigmoid", "biased"), "rotary": pick(0, 0, 2, 4),
            "heads_norm": pick(None, "layer", "rms"), "groups": pick(1, 2), "beside": pick(True, False), "stem": pick(True, False),
            "present": pick(True, False, False), "value_dim": pick(0, 0, 4, 12, 20),
            "windows": pick(1, 2, 3, 4), "early": pick(True, False), "near": pick(0, 0, 2, 0, 3), "prune": pick(None, None, "ranked", "index", "looked")}
    return made if made["bias"] is not None else made | {"near": 0}                # some attentions have no mask at all


def network_model(seed: int, act: Act) -> Model:
    """The float model of `network`."""
    return qgraphs.random_model(seed, **options(np.random.default_rng(seed), act))


def network(seed: int, act: Act) -> tuple[Quantized, np.ndarray, dict]:
    """(network, images, its sizes): a third with operands of 8 bits, a third with 16 bits wherever there can be some, a third with them here
    and there; these read the residual stream out too. Half of all take tokens by lists."""
    chosen = options(np.random.default_rng(seed), act)
    model = qgraphs.random_model(seed, **chosen)
    with qgraphs.small_blocks():
        if kind := seed // 4 % 3:
            quantized = wide_nets.read_out(wide_nets.random_wide(seed, part=seed if kind == 2 else None, **chosen))
        else:
            quantized = qgraphs.random_qgraph(seed, **chosen)
    if seed // 12 % 2:
        quantized = taking(quantized, seed)
    return quantized, qgraphs.random_images(model, IMAGES, seed), chosen


def sequence_options(rng: np.random.Generator, act: Act) -> dict:
    """Sizes of one random network of a sequence."""
    heads, width = int(rng.choice([1, 2, 3])), int(rng.choice([8, 12, 16]))
    return {"tokens": int(rng.integers(9, 17)), "dim": heads * width, "heads": heads, "rotary": width == 8 and bool(rng.integers(2)), "hidden": int(rng.choice([16, 24, 40])),
            "experts": int(rng.integers(2, 6)), "blocks": str(rng.choice(["d", "m", "g", "dm", "gd", "x", "y", "sd"])),
            "end": str(rng.choice(sequence_nets.ENDS)), "causal": bool(rng.integers(2)), "heads_norm": bool(rng.integers(2)), "act": act}


def short(seed: int, act: Act) -> tuple[Quantized, np.ndarray, list[int]]:
    """(network of a sequence, sequences, their lengths)."""
    rng = np.random.default_rng(seed)
    made = sequence_options(rng, act)
    model = sequence_nets.sequence_network(seed, **made)
    return model, sequence_nets.sequences(model, IMAGES, seed), [int(length) for length in rng.integers(1, made["tokens"] + 1, IMAGES)]


def has_sequence(seed: int) -> bool:
    """Whether a network of a sequence comes behind the one of this seed."""
    return seed // 4 % 3 == 0


def contents(seed: int, act: Act) -> set[str]:
    """What the networks of a seed are made of."""
    found = covered.contents(network_model(seed, act))
    if has_sequence(seed):
        made = sequence_options(np.random.default_rng(seed), act)
        found |= {*covered.contents(sequence_nets.sequence_model(seed, **made)), "shorter sequences"}
    return found


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


def in_rtl(engine: native_builds.Engine, model: Quantized, images: np.ndarray, tasks: list[int], memory: MemoryModel) -> tuple[int, int, list[str]]:
    """(values compared, output words, those that differ) of all tasks of every image."""
    frames, count, wrong = np.repeat(images, len(model.tasks), axis=0), 0, []
    result = engine.run(engine.program(model, taps=True), model, frames, tasks, memory)
    if differ := native_builds.differences(result, model, frames, tasks):
        wrong.append(f"RTL: {differ} output words")
    for frame, task in enumerate(tasks):
        wanted = golden.trace(model.tasks[task], frames[frame][None])
        count += len(result.values[frame])
        wrong += [f"RTL: {name}" for name, value in result.values[frame].items() if (value != wanted[name][0]).any()]
    return count, sum(o.size for outputs in result.outputs for o in outputs.values()), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-rtl", action="store_true", help="C simulation only")
    args = parser.parse_args()
    begin, values, rtl_values, words, failed, networks, found = time.monotonic(), 0, 0, 0, [], 0, Counter()
    with tempfile.TemporaryDirectory(prefix="hwgen_random_") as folder:
        work = Path(folder)
        for group, (act, (ti, to, packed)) in enumerate(ARRAYS.items()):
            executable = hls_networks.build(work / act.value, (act, Act("sigmoid")))
            engine = native_builds.Engine(work / f"rtl_{act.value}", ti, to, 128, ENGINE | {"activation": f"{act.value} sigmoid"}, packed=packed)
            for seed in range(args.seed + group, args.seed + args.count, 4):
                memory = native_builds.MEMORIES[seed // 4 % len(native_builds.MEMORIES)]
                model, images, chosen = network(seed, act)
                done, tasks = hls_networks.run(executable, work / "network", model, images, functions=(act.value, "sigmoid"))
                count, wrong = hls_networks.differing(model, images, done, tasks)
                values, networks, found = values + count, networks + 1, found + Counter(contents(seed, act))
                if not args.no_rtl:
                    count, more, differ = in_rtl(engine, model, images, tasks, memory)
                    rtl_values, words, wrong = rtl_values + count, words + more, wrong + differ
                if has_sequence(seed):
                    sequence, tokens, lengths = short(seed, act)
                    done, tasks = hls_networks.run(executable, work / "sequence", sequence, tokens, lengths, functions=(act.value, "sigmoid"))
                    count, more = hls_networks.differing(sequence, tokens, done, tasks, lengths)
                    values, wrong, networks = values + count, wrong + more, networks + 1
                    if not args.no_rtl:
                        count, more = short_in_rtl(engine, sequence, tokens, lengths, memory)
                        rtl_values, wrong = rtl_values + count, wrong + more
                if wrong:
                    failed.append(seed)
                    print(f"seed {seed} {chosen}: {wrong[:3]}", flush=True)
            print(f"{act.value}: done after {time.monotonic() - begin:.0f} s", flush=True)
    print(covered.table(found))
    print(f"{networks} networks, {values:,} values of the C simulation, {rtl_values:,} values and {words:,} output words of the RTL "
          f"compared, {len(failed)} networks differ, {time.monotonic() - begin:.0f} s")
    missing = covered.missing(found)
    if missing:
        print(f"no network has {', '.join(missing)}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
