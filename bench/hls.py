"""Figures of the HLS backend: ``python bench/hls.py [--networks deit_tiny m3vit_tiny] [--images 1] [--target zcu104] [--rtl]``.

For the bundled example (all test images, both tasks) and for full-size networks (bench/networks/generate.py): C simulation
against the integer model in every output word (full-size: every value), seconds per image, seconds to compile, lines of emitted
code, the estimate of the HLS engine beside that of the RTL, with ``--rtl`` also beside the RTL's simulated cycles (one image).
Exit code 1 when a word differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import tempfile
import time

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl")]

from hwgen import api
from hwgen.engines.hls import csim
from hwgen.run import simulate
from hwgen.steps import golden
from hwgen.tools import cache

EXAMPLE = ROOT / "examples" / "m3vit_digits"
NETWORKS = cache.wanted() / "networks"


def speed(own: dict, all_ports: dict) -> str:
    """Cycles of two estimates with the memory each was made for."""
    def one(found: dict) -> str:
        memory = found["memory"]
        return (f"{found['cycles_per_image']:,.0f} cycles through {memory['ports']} of the ports, {memory['bytes_per_cycle']:.3g} B/cycle, "
                f"latency {memory['latency']}")
    return one(own) + (f"; {one(all_ports)}, not built" if all_ports["built"] == "not built" else "")


def measure(name: str, model: Path, calib, images: np.ndarray, target: str, trace: bool, rtl: bool) -> bool:
    """Prints the figures of one network; whether everything is equal."""
    with tempfile.TemporaryDirectory(prefix="hwgen_hls_") as folder:
        acc = api.compile(model, target=target, calib=calib, out=Path(folder) / "build", backend="both" if rtl else "hls")
        hls = acc.build.path / "hls"
        begin = time.monotonic()
        csim.build_bench(acc.build.read(acc.build.below("hls")))
        compiled = time.monotonic() - begin
        tasks = list(range(len(acc.build.model.tasks)))
        (run,) = simulate.run_hls(acc.build, images, tasks, lambda *_: None, trace=trace).runs
        values = words = wrong = 0
        for task in tasks:
            graph = acc.build.model.tasks[task]
            expected = golden.run(graph, images)
            for image in range(len(images)):
                frame = image * len(tasks) + task
                for output, array in expected.items():
                    words += array[image].size
                    wrong += int((run.outputs[frame][output] != array[image]).sum())
                if trace:
                    wanted = golden.trace(graph, images[image][None], detail=True)
                    values += len(run.traces[frame])
                    wrong += sum(not np.array_equal(array, wanted[value][0]) for value, array in run.traces[frame].items())
        lines = sum(len(path.read_text().splitlines()) for path in [*hls.glob("*.hpp"), *hls.glob("*.cpp")])
        report = acc.report()
        estimate = report["hls"]
        print(f"{name}: {len(images)} images, {len(tasks)} tasks, {words:,} output words"
              f"{f' and {values:,} values' if trace else ''}, {wrong} differ")
        print(f"  csim: {run.seconds / len(run.outputs):.2f} s a frame, compiled in {compiled:.1f} s; {lines} lines of emitted code")
        print(f"  estimate for {target}: HLS {speed(estimate, estimate['all_ports'])} ({estimate['lanes']} lanes, "
              f"{estimate['queries']} queries, {estimate['resources']})")
        print(f"  estimate for {target}: RTL {speed(report['estimate'], report['all_ports'])} "
              f"({report['array']['ti']} x {report['array']['to']}, {report['resources']['used']})", flush=True)
        if rtl:
            result = acc.simulate({name: images[:1] for name in acc.inputs})
            wrong += result.mismatches
            print(f"  rtl simulation: {result.cycles_per_image:,.0f} cycles at {result.memory['bytes_per_cycle']:.3g} B/cycle, latency "
                  f"{result.memory['latency']}; {result.mismatches} words differ", flush=True)
    return wrong == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=["deit_tiny", "m3vit_tiny"], help="of bench/networks/generate.py")
    parser.add_argument("--images", type=int, default=1, help="of each full-size network")
    parser.add_argument("--target", default="zcu104")
    parser.add_argument("--rtl", action="store_true", help="also simulate one image in the RTL (minutes)")
    args = parser.parse_args()
    with np.load(EXAMPLE / "test.npz") as arrays:
        digits = arrays["x"]
    good = measure("m3vit_digits", EXAMPLE / "model.onnx", EXAMPLE / "calib.npz", digits, args.target, trace=False, rtl=args.rtl)
    for name in args.networks:
        path = NETWORKS / f"{name}.onnx"
        if not path.exists():
            print(f"{name}: make it with python bench/networks/generate.py {name}", file=sys.stderr)
            return 2
        with np.load(path.with_suffix(".npz")) as arrays:
            good &= measure(name, path, path.with_suffix(".npz"), arrays["x"][:args.images], args.target, trace=True, rtl=args.rtl)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
