"""Fuzzing of the importer: spoiled ONNX files, each read in a worker process with limits of time and memory.

A file is refused with one message and a next step, or accepted by everything `compile` does before it writes (`hwgen.frontend.plan`), its
judge too; what is accepted computes what onnxruntime, asked here without hwgen's judge, computes of the file. Everything else is a finding,
and its file is kept.

    outcomes = run(1000, seed=0, keep=Path("found"))              # {outcome: [Case, ...]}
    python tests/fuzz.py --worker SEED START STOP FOLDER          # one worker; a JSON line before and after each file
    python tests/fuzz.py FILE.onnx ...                            # the same for single files
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
import json
import os
from pathlib import Path
from random import Random
import resource
import signal
import subprocess
import sys
import tempfile
import traceback

from hwgen.graph import evaluate

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

CPU_SECONDS, WALL_SECONDS, MEMORY = 10, 120, 1 << 30
BATCH = 200                        # files a worker reads before a fresh one takes over
ROUNDED_COSINE = 0.99
COSINE, ERROR = 0.99999, 1e-3      # of an output against onnxruntime; the error is of its largest value

REFUSED, EQUAL, NO_JUDGE = "refused", "accepted and equal", "accepted, onnxruntime cannot run it"
REFUSED_LATER, NOT_FINITE = "refused by the compiler", "accepted, onnxruntime gives no number"
DIFFERENT, TRACEBACK, NO_HINT = "accepted and different", "traceback", "refused without a next step"
SLOW, LARGE, CRASH, JUDGE_CRASH = f"over {CPU_SECONDS} s", "over 1 GB", "crash", "onnxruntime crashes"
NOT_COMPARED = "accepted without a comparison"
GOOD = (REFUSED, REFUSED_LATER, EQUAL)      # what hwgen accepts was compared; NO_JUDGE and NOT_FINITE are answers of `compare` only


@dataclass(frozen=True)
class Case:
    """``number``: of the file in its run, for `spoiled`; ``kind``: seed network and mutations; ``text``: message or traceback."""

    number: int
    kind: str
    outcome: str
    text: str


# ---------------------------------------------------------------- the files

def seeds() -> list[tuple[str, bytes]]:
    """(name, file) of the networks that are spoiled: small encoders in every spelling, some with as many tokens as channels."""
    import onnx_nets as nets
    import quantized_nets as forms
    found = []
    for number, options in enumerate((
            {}, {"split": "chunk", "norm": True, "act": "erf"}, {"split": "gather", "scale": "operator", "opset": 23},
            {"router": "plain"}, {"router": "renormalized", "act": "Gelu tanh"},
            {"split": "separate", "act": "silu", "pool": "mean", "layer_scale": True},
            {"guard": True, "scale": "halves", "pool": "mean of patches", "router": "softmax last", "combine": "x"},
            {"opset": 13, "norm": True, "act": "Relu"})):
        net = nets.vit(**options)
        found.append((f"vit{number}", net.model({"logits": nets.result(net)}, (1, nets.CLASSES))))
    for number, pool in enumerate(("class token", "mean", "tokens")):
        net = square()
        y = nets.result(net) if pool == "tokens" else net.head(nets.result(net), pool=pool)
        shape = (1, 16, 16) if pool == "tokens" else (1, nets.CLASSES)
        found.append((f"square{number}", net.model({"logits": y}, shape)))
    data = [(name, model.SerializeToString()) for name, model in found]
    with tempfile.TemporaryDirectory() as folder:
        for form, make in (*((name, lambda path, name=name: forms.static(path, name)) for name in ("symmetric", "uint8", "operators")),
                           ("dynamic", forms.dynamic), ("blocks", forms.blocks), ("brevitas", forms.brevitas)):
            data.append((f"quantized {form}", make(Path(folder)).read_bytes()))
    return [*data, ("m3vit_digits", (ROOT / "examples" / "m3vit_digits" / "model.onnx").read_bytes())]


def square():
    """A block on 16 tokens of 16 channels: what mixes up the two axes does not show in the shapes."""
    import onnx_nets as nets
    net = nets.Net()
    dim = nets.DIM
    x = net.op("Conv", net.image(), net.random(dim, 1, 2, 2), net.random(dim), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Transpose", net.op("Reshape", x, net.ints(1, dim, 16)), perm=[0, 2, 1])
    x = net.add(x, net.random(1, 16, dim))
    x = net.add(x, net.attention(net.norm(x), "separate"))
    hidden = net.op("Gemm", net.op("Reshape", net.norm(x), net.ints(16, dim)), net.random(dim, dim), net.random(dim), name="flat")
    y = net.op("Gemm", net.op("Relu", hidden), net.random(dim, dim), net.random(dim), name="flat2")
    x = net.add(x, net.op("Reshape", y, net.ints(1, 16, dim)))
    net.norm(x)
    return net


def spoiled(seed: int, number: int, start: list[tuple[str, bytes, dict]]) -> tuple[str, bytes]:
    """(kind, file) number ``number`` of a run; ``start``: name, file and shapes of each seed network (see `with_shapes`)."""
    from fuzz_mutations import mutate
    import_module("fuzz_fields")                                    # adds its mutations
    random = Random(seed * 1_000_003 + number)
    place = random.randrange(len(start) * 4)                       # the bundled example is large: one in 48
    name, data, shapes = start[place % (len(start) - 1) if place != len(start) * 4 - 1 else -1]
    kind, data = mutate(random, data, shapes)
    return f"{name}: {kind}", data


def with_shapes(networks: list[tuple[str, bytes]]) -> list[tuple[str, bytes, dict[str, tuple[int, ...]]]]:
    import onnx
    found = []
    for name, data in networks:
        graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data)).graph
        shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in (*graph.input, *graph.value_info, *graph.output)}
        found.append((name, data, shapes))
    return found


# ---------------------------------------------------------------- one file

def judge(path: Path, say=lambda stage: None) -> tuple[str, str]:
    """(outcome, text) of one file, in this process. ``say`` is told when onnxruntime is at work."""
    from hwgen import frontend
    from hwgen.errors import HwgenError, MismatchError
    from hwgen.importer import import_model
    stage = REFUSED
    try:
        imported = import_model(path)
        say("onnxruntime")
        if imported.kept is None:
            outcome, text = compare(path, imported.model)
        else:                                                      # the float network in the file; and that with rounding is the file
            outcome, text = compare(imported.float_file, imported.model)
            if outcome == EQUAL and (text := rounded(path, imported)):
                outcome = DIFFERENT
        say("hwgen")
        if outcome == DIFFERENT:
            return outcome, text
        stage = REFUSED_LATER
        planned = frontend.plan(imported, frontend.Options(array=(16, 16)), lambda stage: None)
        if outcome in (NO_JUDGE, NOT_FINITE) and planned.onnx.images == 0:
            return NOT_COMPARED, text
        return (EQUAL, f"{outcome}; hwgen's judge: {planned.onnx.runtime}") if outcome != EQUAL else (outcome, text)
    except MismatchError as error:                                 # the shipped judge saw what the comparison here did not
        return DIFFERENT, str(error)
    except HwgenError as error:
        if "more memory than there is" in error.message:
            return LARGE, str(error)
        return stage if error.hint and error.exit_code == 2 else NO_HINT, str(error)
    except MemoryError:
        return LARGE, traceback.format_exc()
    except Exception:
        return TRACEBACK, traceback.format_exc()


def rounded(path: Path, imported) -> str:
    """What differs between a quantized file and what was read in it with its rounding put back; nothing where onnxruntime runs only one."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 4, 1, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    rng = np.random.default_rng(0)
    outputs = []
    given = {name: rng.standard_normal((1, *shape)).astype(np.float32) for name, shape in imported.model.tasks[0].inputs.items()}
    for source in (path, imported.rounded_file):
        try:
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            outputs.append(session.run(None, {value.name: given.get(value.name, np.zeros([1] * len(value.shape), np.int64))
                                              for value in session.get_inputs()}))
        except Exception:                                          # it has no common class for what it raises
            return ""
    for a, b in zip(*outputs, strict=True):
        norms = np.linalg.norm(a.astype(np.float64)) * np.linalg.norm(b.astype(np.float64))
        if norms and np.isfinite(norms) and float((a.astype(np.float64) * b).sum() / norms) < ROUNDED_COSINE:
            return f"with rounding: cosine {float((a.astype(np.float64) * b).sum() / norms):.6f}"
    return ""


def compare(path: Path | bytes, model) -> tuple[str, str]:
    """The float model against onnxruntime, on two images a task."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 4, 1, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL     # some fusions refuse correct files
    rng = np.random.default_rng(0)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:                                     # it has no common class for what it raises
        return NO_JUDGE, str(error)
    names = {value.name for value in session.get_outputs()}
    if names != {name for graph in model.tasks for name in graph.outputs}:
        return DIFFERENT, f"the outputs are {[list(graph.outputs) for graph in model.tasks]}, of onnxruntime {sorted(names)}"
    outcome = EQUAL
    for number, graph in enumerate(model.tasks):
        for _ in range(2):
            given = {name: rng.standard_normal((1, *shape)).astype(np.float32) for name, shape in graph.inputs.items()}
            feeds = {value.name: given[value.name] if value.name in given else
                     np.full([1] * len(value.shape), number, np.int32 if "int32" in value.type else np.int64) for value in session.get_inputs()}
            try:
                wanted = dict(zip((v.name for v in session.get_outputs()), session.run(None, feeds), strict=True))
            except Exception as error:
                return NO_JUDGE, str(error)
            with np.errstate(all="ignore"):
                found = evaluate.run(graph, given)
            for name in found:
                a, b = found[name].astype(np.float64), wanted[name].astype(np.float64)
                if not np.isfinite(b).all() or np.abs(b).max() > 1e30:
                    outcome = NOT_FINITE
                    continue
                if a.shape != b.shape:
                    return DIFFERENT, f"output {name!r} has the shape {a.shape}, of onnxruntime {b.shape}"
                largest, norms = np.abs(b).max(), np.linalg.norm(a) * np.linalg.norm(b)
                error = np.abs(a - b).max() / largest if largest else np.abs(a).max()
                cosine = float((a * b).sum() / norms) if norms else 1.0
                if not (error <= ERROR and (cosine >= COSINE or largest < 1e-20)):
                    return DIFFERENT, f"output {name!r}: error {error:.3g} of the largest value, cosine {cosine:.6f}"
    return outcome, ""


# ---------------------------------------------------------------- workers

def worker(cases, folder: Path) -> None:
    """Judge (number, kind, file or path) one after another; a JSON line on stdout before and after each, and between its stages."""
    for name in ("onnxruntime", "hwgen.api", "hwgen.engines.rtl.choose"):      # loaded before the limits are set
        import_module(name)
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2 * MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))     # the judge has its own
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def say(**record):
        channel.write(json.dumps(record) + "\n")
    for number, kind, data in cases:
        path = data
        if isinstance(data, bytes):
            path = folder / "net.onnx"
            path.write_bytes(data)
        say(number=number, kind=kind, stage="hwgen")
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)       # ends the process: also inside of a C function
        outcome, text = judge(path, lambda stage, number=number, kind=kind: say(number=number, kind=kind, stage=stage))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        large = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > MEMORY
        say(number=number, kind=kind, outcome=LARGE if large else outcome, text=text[-2000:])
        if large:
            return                                                 # its peak would be taken for that of the next file


def run_worker(arguments: list[str]):
    """Yields the records of one worker, with one for the file at which it died."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    signal.signal(signal.SIGALRM, lambda *_: process.kill())       # it waits for something: a pipe, a lock
    last = None
    try:
        signal.alarm(WALL_SECONDS * 5)
        for line in process.stdout:
            record = json.loads(line)
            if "outcome" in record:
                yield record
                last = None
                signal.alarm(WALL_SECONDS * 5)
            else:
                last = record
    finally:
        signal.alarm(0)
        errors = process.communicate()[1]
    if last is not None:
        outcome = SLOW if process.returncode in (-signal.SIGVTALRM, -signal.SIGKILL) else CRASH
        if last["stage"] == "onnxruntime":
            outcome = JUDGE_CRASH
        yield last | {"outcome": outcome, "text": f"the process ended with {process.returncode}: {errors[-1500:]}"}
    elif process.returncode:
        raise RuntimeError(f"the worker failed: {errors}")


def run(count: int, seed: int = 0, first: int = 0, keep: Path | None = None, progress=lambda done: None) -> dict[str, list[Case]]:
    """Judge ``count`` spoiled files. ``keep``: a folder for the files of findings, each with a text beside it."""
    outcomes: dict[str, list[Case]] = {}
    start = with_shapes(seeds())
    with tempfile.TemporaryDirectory(prefix="hwgen_fuzz_") as folder:
        os.mkfifo(f"{folder}/fifo")
        os.symlink("/etc/passwd", f"{folder}/link.bin")
        Path(folder, "nothing.bin").write_bytes(bytes(64))
        at = first
        while at < first + count:
            for record in run_worker(["--worker", str(seed), str(at), str(min(at + BATCH, first + count)), folder]):
                case = Case(record["number"], record["kind"], record["outcome"], record["text"])
                at = case.number + 1
                outcomes.setdefault(case.outcome, []).append(case)
                if keep is not None and case.outcome not in GOOD:
                    _keep(keep, seed, case, spoiled(seed, case.number, start)[1])
            progress(at - first)
    return outcomes


def _keep(folder: Path, seed: int, case: Case, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{case.outcome.replace(' ', '_').replace(',', '')}_{seed}_{case.number}"
    (folder / f"{stem}.onnx").write_bytes(data)
    (folder / f"{stem}.txt").write_text(f"{case.kind}\n{case.text}\n")


def judge_files(paths: list[Path]) -> dict[str, Case]:
    """The same for files that are there; by name."""
    found: dict[str, Case] = {}
    waiting = list(paths)
    while waiting:
        for record in run_worker([str(path) for path in waiting]):
            case = Case(record["number"], record["kind"], record["outcome"], record["text"])
            found[case.kind] = case
        waiting = [path for path in waiting if path.name not in found]
    return found


def main() -> None:
    if sys.argv[1] == "--worker":
        seed, start, stop = map(int, sys.argv[2:5])
        networks = with_shapes(seeds())
        worker(((number, *spoiled(seed, number, networks)) for number in range(start, stop)), Path(sys.argv[5]))
    else:
        worker(((number, Path(name).name, Path(name)) for number, name in enumerate(sys.argv[1:])), Path("."))


if __name__ == "__main__":
    main()
