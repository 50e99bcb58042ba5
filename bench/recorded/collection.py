"""Which networks are recorded, and how each is compiled: 200 random ones, those of bench/, the examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
import sys
import tempfile
from typing import Any

import numpy as np

from hwgen.errors import ModelError
from hwgen.functions import Act
from hwgen.graph import Model
from hwgen.importer import import_model
from networks import generate
import qgraphs

from . import adapter, edits, form, record
from .form import Array, Build

RANDOM, IN_ARCHIVE = 200, 20
CALIBRATION = 8                  # images
ACTS = (Act.GELU, Act.SILU, Act.GELU_TANH, Act.RELU)
ARRAYS = ((8, 8), (16, 16), (16, 8), (32, 16), (32, 32), (32, 8), (64, 48), (64, 64), (64, 16))
PLAIN = Build("w8a8", "percentile", (16, 16), 128, 512, packed=False, load_columns=1, batch=1, score_words=4096, taps=False, ablation={},
              hls=None)
ABLATIONS: tuple[dict[str, Any], ...] = ({"query_block": 4}, {"softmax_passes": 2}, {"serial": True}, {"moe_block": 4},
                                         {"query_block": 3, "softmax_passes": 1, "serial": True, "moe_block": 5})
LARGE = replace(PLAIN, array=(64, 64), axi_data_bits=512, fifo_beats=4096, packed=True, hls=(32, 8))      # an engine of whole.py's boards

Entry = tuple[dict[str, Any], dict[str, Array]]


def archives(root: Path) -> Iterator[tuple[str, dict[str, Entry]]]:
    """(name, {key: network}) of every archive."""
    for first in range(0, RANDOM, IN_ARCHIVE):
        yield f"random-{first:03}", {f"random-{seed:03}": random_network(seed) for seed in range(first, first + IN_ARCHIVE)}
    yield "bench", dict(bench_networks())
    yield "examples", dict(examples(root))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def entry(key: str, model: Model, how: Callable[[str, Array], record.How], builds: dict[str, Build]) -> Entry:
    """A network with its weights on a grid, its ranges and builds. Raises ModelError when it is none that hwgen quantizes."""
    content, levels = record.network(model, how)
    content |= {"ranges": [], "builds": record.builds(builds)}
    floats = adapter.float_model(form.network(key, content, levels), Path())
    (name, shape), = floats.tasks[0].inputs.items()
    content["ranges"] = record.ranges(floats, {name: form.images(shape, CALIBRATION, len(key))})
    adapter.quantized(floats, tuple(content["ranges"]), "w8a8", "percentile")
    return content, levels


# ---------------------------------------------------------------- random networks

def options(rng: np.random.Generator, seed: int) -> dict[str, Any]:
    """Sizes of a random network; four fifths are as small as they can be."""
    large = seed % 5 == 4
    heads = int(rng.choice([1, 2, 3, 4, 6]))
    experts = int(rng.integers(2, 9))
    classes = ((5,), (10,), (1,), (4, 7), (3, 3), (2, 9, 4))[int(rng.integers(6))]
    return {"tokens": int(rng.integers(20, 80) if large else rng.integers(2, 20)),
            "dim": heads * int(rng.choice([4, 6, 8, 11, 12, 16, 20])), "heads": heads,
            "hidden": int(rng.choice([8, 16, 24, 40, 64, 100] if large else [8, 16, 24, 40])), "experts": experts,
            "expert_hidden": int(rng.choice([8, 16, 20, 32])), "top_k": int(rng.integers(1, min(3, experts) + 1)),
            "blocks": str(rng.choice(["dmdm", "ddm", "mmd"] if large else ["d", "m", "dm", "md", "mm", "dd"])), "classes": classes,
            "class_token": bool(rng.integers(2)), "renormalize": bool(rng.integers(2)), "patch": int(rng.choice([1, 2, 3])),
            "channels": int(rng.choice([1, 2, 3])), "act": ACTS[seed % 4], "pool": str(rng.choice(["select", "mean"]))}


def random_builds(rng: np.random.Generator, seed: int) -> dict[str, Build]:
    """A plain one, one with few bits, and two with what the scheduler can do."""
    found: dict[str, Build] = {}

    def add(**fields: Any) -> None:
        ti, to = ARRAYS[int(rng.integers(len(ARRAYS)))]
        widths = [bits for bits in (32, 64, 128, 256, 512) if 32 * to % bits == 0]
        build = replace(PLAIN, array=(ti, to), axi_data_bits=int(rng.choice(widths)), fifo_beats=int(rng.choice([32, 512, 4096])),
                        packed=bool(rng.integers(2)), load_columns=int(rng.integers(1, 3)), **fields)
        changed = " ".join(f"{key}={value}" for key, value in fields.items() if key not in ("hls", "ablation"))
        without = " ".join(f"{key}={value}" for key, value in fields.get("ablation", {}).items())
        name = " ".join(filter(None, [f"{ti}x{to}", changed, without]))
        found[name if name not in found else f"{name} again"] = build

    hls = [(8, 2), (16, 4), (32, 8), (64, 16)]
    add(hls=hls[seed % 4])
    add(precision=("w4a8", "w4a8-experts")[seed % 2], hls=hls[(seed + 1) % 4] if seed % 3 == 0 else None)
    add(batch=int(rng.integers(2, 5)), **({"precision": "w4a8"} if seed % 4 == 0 else {}))
    match seed % 3:
        case 0:
            add(ablation=ABLATIONS[seed // 3 % len(ABLATIONS)], **({"batch": 2} if seed % 6 == 0 else {}))
        case 1:
            add(score_words=int(rng.choice([1, 8, 24])), method="mse")
        case 2:
            add(taps=True, **({"score_words": 8} if seed % 2 else {}))
    return found


def random_network(seed: int) -> Entry:
    """Some of the edits fit only some networks: those that a network refuses are left away."""
    rng = np.random.default_rng([10, seed])
    chosen = options(rng, seed)
    model = qgraphs.random_model(seed, **chosen)
    builds = random_builds(rng, seed)
    key = f"random-{seed:03}"
    wanted: list[edits.Edit] = []
    if seed % 8:                                    # an eighth is as it is
        wanted += [edits.STARTS[int(rng.integers(len(edits.STARTS)))]] if rng.integers(2) else []
        wanted += [edits.BLOCKS[n] for n in rng.choice(len(edits.BLOCKS), int(rng.integers(3)), replace=False)]
        wanted += edits.ENDS[int(rng.integers(len(edits.ENDS)))]
        if len(model.tasks) > 1 and rng.integers(2):
            wanted.append(edits.TASKS[int(rng.integers(len(edits.TASKS)))])
        if rng.integers(3) == 0:
            wanted.append(edits.odd_names)
    names = []
    result = entry(key, model, lambda _, array: record.stored(array), builds)
    for edit in wanted:
        try:
            edited = edit(model, rng).verify()
            result = entry(key, edited, lambda _, array: record.stored(array), builds)
        except (ModelError, StopIteration, ValueError) as error:
            say(f"{key}: no {edit.__name__}: {error!r}")
            continue
        model = edited
        names.append(edit.__name__)
    say(f"{key}: {chosen} {names}")
    return result


# ---------------------------------------------------------------- networks of bench/

def bench_networks() -> Iterator[tuple[str, Entry]]:
    """Of bench/whole.py with all their sizes (the small ones with four layers), and of the benches that use `random_model`."""
    tall = replace(LARGE, array=(64, 48), load_columns=2, hls=None)
    whole = {"64x64": LARGE, "64x48 two columns": tall}
    more = {"w4a8": replace(tall, precision="w4a8"), "batch=4": replace(LARGE, batch=4, hls=None)}
    for name, layers, extra in (("deit_tiny", 12, {}), ("deit_small", 4, {}), ("m3vit_small", 4, {}), ("m3vit_tiny", 12, more)):
        say(name)
        with tempfile.TemporaryDirectory(prefix="hwgen_record_") as folder:
            spec = replace(generate.SPECS[name], layers=layers)
            model = import_model(generate.generate(name, Path(folder), spec=spec)).model
        yield name, entry(name, model, record.seeded, whole | extra)
    square = replace(LARGE, array=(32, 32), packed=False, hls=None)
    vit = {"tokens": 129, "dim": 192, "heads": 3, "hidden": 768, "experts": 16, "top_k": 2, "expert_hidden": 384, "classes": (10,),
           "renormalize": False}
    rest: dict[str, tuple[dict[str, Any], dict[str, Build]]] = {
        "block": ({"tokens": 197, "dim": 192, "heads": 3, "hidden": 768, "blocks": "d", "patch": 1},
                  {"16x16": replace(PLAIN, axi_data_bits=512, fifo_beats=4096)}),
        "ablation": (vit | {"seed": 1, "blocks": "dm"},
                     {"32x32": square, "32x32 without": replace(square, ablation={"query_block": 8, "softmax_passes": 2, "serial": True,
                                                                                  "moe_block": 8})}),
        "routing": (vit | {"seed": 2, "blocks": "m"}, {"32x32": replace(square, hls=(32, 8))}),
        "long_sequence": ({"seed": 3, "tokens": 1024, "dim": 64, "heads": 2, "hidden": 64, "blocks": "d", "patch": 1},
                          {"16x16": replace(PLAIN, fifo_beats=4096)})}
    for name, (sizes, builds) in rest.items():
        say(name)
        yield name, entry(name, qgraphs.random_model(**sizes), record.seeded, builds)


# ---------------------------------------------------------------- the examples

def examples(root: Path) -> Iterator[tuple[str, Entry]]:
    """The ONNX files in the repository, calibrated with the images beside them."""
    builds = {"16x16": replace(PLAIN, hls=(32, 8)), "16x16 w4a8": replace(PLAIN, precision="w4a8"),
              "16x16 mse": replace(PLAIN, method="mse"), "16x16 taps": replace(PLAIN, taps=True),
              "64x48 batch=2": replace(LARGE, array=(64, 48), batch=2, hls=None)}
    for path in sorted((root / "examples").rglob("*.onnx")):
        say(path.name)
        model = import_model(path).model
        with np.load(path.parent / "calib.npz") as images:
            found = record.ranges(model, {name: images[name] for name in model.tasks[0].inputs})
        key = f"{path.parent.name}-{path.stem}"
        yield key, ({"onnx": path.relative_to(root).as_posix(), "ranges": found, "builds": record.builds(builds)}, {})
