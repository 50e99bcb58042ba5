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

import numpy as np

from hwgen.graph import evaluate

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

CPU_SECONDS, WALL_SECONDS, MEMORY = 10, 120, 1 << 30
BATCH = 200                        # files a worker reads before a fresh one takes over
LARGEST = 100                      # one file in so many is of the largest network
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

def spoiled(seed: int, number: int, start: list[tuple[str, bytes, dict]]) -> tuple[str, bytes]:
    """(kind, file) number ``number`` of a run; ``start``: name, file and shapes of each seed network (see `with_shapes`)."""
    from fuzz_mutations import mutate
    for more in ("fuzz_fields", "fuzz_forms"):                     # they add their mutations
        import_module(more)
    random = Random(seed * 1_000_003 + number)
    place = random.randrange(LARGEST) if len(start) > 1 else 0     # the bundled example, the last, is large
    name, data, shapes = start[-1 if place == LARGEST - 1 else random.randrange(max(1, len(start) - 1))]
    kind, data = mutate(random, data, shapes)
    return f"{name}: {kind}", data


def with_shapes(networks: list[tuple[str, bytes]]) -> list[tuple[str, bytes, dict[str, tuple[int, ...]]]]:
    """With the shape of every float value of the main graph: onnxruntime's where it runs the file, else as far as onnx infers them."""
    import onnx
    found = []
    for name, data in networks:
        model = onnx.load_model_from_string(data)
        outputs = [value.name for value in model.graph.output]
        inner = {value for node in model.graph.node for value in node.output if value} - set(outputs)
        model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in sorted(inner))
        shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in model.graph.input}
        try:
            session = session_of(model.SerializeToString())
            given = {value.name: np.ones(shapes[value.name], np.float32) for value in session.get_inputs()}
            made = session.run(None, feeds(session, given))
            shapes |= {v.name: array.shape for v, array in zip(session.get_outputs(), made, strict=True) if "float" in v.type}
        except Exception:                                          # it has no common class for what it raises
            graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(data)).graph
            shapes |= {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in (*graph.value_info, *graph.output)}
        found.append((name, data, shapes))
    return found


def written(folder: Path, networks: list[tuple[str, bytes, dict[str, tuple[int, ...]]]]) -> None:
    """For the workers, so that they are made once."""
    for place, (name, data, shapes) in enumerate(networks):
        (folder / f"{place}.seed").write_bytes(data)
        (folder / f"{place}.json").write_text(json.dumps([name, shapes]))


def read(folder: Path) -> list[tuple[str, bytes, dict[str, tuple[int, ...]]]]:
    """What `written` wrote."""
    found = []
    for place in range(len([*folder.glob("*.seed")])):
        name, shapes = json.loads((folder / f"{place}.json").read_text())
        found.append((name, (folder / f"{place}.seed").read_bytes(), {value: tuple(shape) for value, shape in shapes.items()}))
    return found


# ---------------------------------------------------------------- one file

def judge(path: Path, say=lambda stage: None) -> tuple[str, str]:
    """(outcome, text) of one file, in this process. ``say`` is told when onnxruntime is at work."""
    from hwgen import frontend
    from hwgen.errors import HwgenError, MismatchError
    from hwgen.partition import import_parts
    stage = REFUSED
    try:
        imported = import_parts(path, None, True, lambda stage: None)
        say("onnxruntime")
        outcome, text = compare(imported.float_file or path, imported)
        if imported.float_file and outcome == EQUAL and (text := rounded(path, imported.rounded_file or imported.float_file)):
            outcome = DIFFERENT                                    # the float network in the file is what was read; the file is that, rounded
        say("hwgen")
        stage = REFUSED_LATER
        planned = frontend.plan(imported, frontend.Options(array=(16, 16)), lambda stage: None)
        if outcome == DIFFERENT:
            return outcome, text
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


def session_of(source: Path | bytes):
    """onnxruntime's of a file, as it is: some fusions refuse correct files."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 4, 1, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def feeds(session, given: dict, task: int = 0) -> dict:
    """Images for all inputs, each of its type; an input that is not given is the task."""
    types = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(int32)": np.int32}
    return {value.name: given[value.name].astype(types.get(value.type, given[value.name].dtype)) if value.name in given else
            np.full([1] * len(value.shape), task, types.get(value.type, np.int64)) for value in session.get_inputs()}


def images_of(imported, rng) -> dict:
    """One image for each input of the file."""
    if imported.host is not None:
        return {value.name: value.noise(rng, 1).astype(value.dtype) for value in imported.host.inputs}
    return {name: rng.standard_normal((1, *shape)).astype(np.float32) for name, shape in imported.model.tasks[0].inputs.items()}


def rounded(path: Path, read: Path | bytes) -> str:
    """What differs between a file that rounds and what was read in it, its rounding put back; nothing where onnxruntime runs only one."""
    rng = np.random.default_rng(0)
    try:
        sessions = [session_of(path), session_of(read)]
        given = {value.name: rng.standard_normal(value.shape).astype(np.float32) for value in sessions[1].get_inputs() if "float" in value.type}
        outputs = [session.run(None, feeds(session, given)) for session in sessions]
    except Exception:                                              # it has no common class for what it raises
        return ""
    for a, b in zip(*outputs, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        if norms and np.isfinite(norms) and float((a * b).sum() / norms) < ROUNDED_COSINE:
            return f"with rounding: cosine {float((a * b).sum() / norms):.6f}"
    return ""


class NotRun(Exception):
    """onnxruntime cannot run a part that was cut off: hwgen has to say so."""


def of_part(part, given: dict) -> dict:
    """What a host part computes."""
    try:
        session = session_of(part.content)
        return dict(zip((value.name for value in session.get_outputs()), session.run(None, feeds(session, given)), strict=True))
    except Exception as error:                                     # it has no common class for what it raises
        raise NotRun(str(error)) from error


def computed(imported, given: dict) -> list[dict]:
    """What was read computes of one image, its host parts by onnxruntime: outputs of the file, for each task that an input selects."""
    host, graphs = imported.host, imported.model.tasks
    if host is not None and host.prefix is not None:
        given = of_part(host.prefix, given)
        given = {value.name: given[value.name].reshape(1, *value.shape) for value in host.prefix.outputs}
    with np.errstate(all="ignore"):
        found = [evaluate.run(graph, given) for graph in graphs]
    if imported.origins[0].task is None:
        found = [{name: value for outputs in found for name, value in outputs.items()}]
    if host is not None and host.suffix is not None:
        found = [outputs | of_part(host.suffix, outputs) for outputs in found]
    if host is not None:
        found = [{value.name: outputs[value.name] for value in host.outputs} for outputs in found]
    return found


def compare(source: Path | bytes, imported) -> tuple[str, str]:
    """What was read against onnxruntime, on two images a task."""
    rng = np.random.default_rng(0)
    try:
        session = session_of(source)
    except Exception as error:                                     # it has no common class for what it raises
        return NO_JUDGE, str(error)
    names = [value.name for value in session.get_outputs()]
    outcome = EQUAL
    for _ in range(2):
        given = images_of(imported, rng)
        try:
            wanted = [dict(zip(names, session.run(None, feeds(session, given, task)), strict=True))
                      for task in range(len(imported.origins) if imported.origins[0].task is not None else 1)]
        except Exception as error:
            return NO_JUDGE, str(error)
        try:
            made = computed(imported, given)
        except NotRun as error:
            return NO_JUDGE, str(error)
        for found, right in zip(made, wanted, strict=True):
            if found.keys() != right.keys():
                return DIFFERENT, f"the outputs are {sorted(found)}, of onnxruntime {sorted(right)}"
            for name, value in right.items():
                known, text = alike(found[name], value)
                if known == DIFFERENT:
                    return known, f"output {name!r} {text}"
                outcome = known if known != EQUAL else outcome
    return outcome, ""


def alike(found, wanted) -> tuple[str, str]:
    """(outcome, what differs) of one output and onnxruntime's."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    if not np.isfinite(b).all() or np.abs(b).max(initial=0) > 1e30:
        return NOT_FINITE, ""
    if a.shape != b.shape:
        return DIFFERENT, f"has the shape {a.shape}, of onnxruntime {b.shape}"
    if wanted.dtype.kind != "f":
        return (EQUAL, "") if (a == b).all() else (DIFFERENT, f"has {(a != b).sum()} other numbers of {a.size}")
    largest, norms = np.abs(b).max(initial=0), np.linalg.norm(a) * np.linalg.norm(b)
    error = np.abs(a - b).max(initial=0) / largest if largest else np.abs(a).max(initial=0)
    cosine = float((a * b).sum() / norms) if norms else 1.0
    equal = error <= ERROR and (cosine >= COSINE or largest < 1e-20)
    return (EQUAL, "") if equal else (DIFFERENT, f"error {error:.3g} of the largest value, cosine {cosine:.6f}")


# ---------------------------------------------------------------- workers

def in_this_process(words: list, timeout: float) -> None:
    """What `hwgen.tools.reference` starts a process for: onnxruntime is loaded here, and this process has limits of its own."""
    from hwgen.importer import reference
    here = Path.cwd()
    try:
        reference.main(Path(words[-1]))
    finally:
        os.chdir(here)


def worker(cases, folder: Path) -> None:
    """Judge (number, kind, file or path) one after another; a JSON line on stdout before and after each, and between its stages."""
    for name in ("onnxruntime", "hwgen.api", "hwgen.engines.rtl.choose"):      # loaded before the limits are set
        import_module(name)
    import_module("hwgen.tools.reference").run = in_this_process
    import_module("hwgen.importer.reference")._limit = lambda *_: None
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
    from fuzz_seeds import seeds
    start = with_shapes(seeds())
    with tempfile.TemporaryDirectory(prefix="hwgen_fuzz_") as folder:
        os.mkfifo(f"{folder}/fifo")
        os.symlink("/etc/passwd", f"{folder}/link.bin")
        Path(folder, "nothing.bin").write_bytes(bytes(64))
        written(Path(folder), start)
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
        networks = read(Path(sys.argv[5]))
        worker(((number, *spoiled(seed, number, networks)) for number in range(start, stop)), Path(sys.argv[5]))
    else:
        worker(((number, Path(name).name, Path(name)) for number, name in enumerate(sys.argv[1:])), Path("."))


if __name__ == "__main__":
    main()
