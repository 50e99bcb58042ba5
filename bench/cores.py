"""Every template of `hwgen core`, on both backends, with several sets of parameters: RTL on Icarus and Verilator with pauses at random on both
sides, C++ by C simulation, every word against the core's golden.py.

    python bench/cores.py                          # all: about half an hour
    python bench/cores.py softmax gelu --sim icarus
"""

from __future__ import annotations

import argparse
from pathlib import Path
import subprocess
import sys
import tempfile
import time

from hwgen import api

SETS: dict[str, tuple[dict[str, object], ...]] = {
    "softmax": ({}, {"length": 12, "lanes": 4, "frac": 10, "out_bits": 16}, {"length": 197, "lanes": 1, "frac": 4}, {"length": 256, "lanes": 32, "frac": 8}),
    "gelu": ({}, {"lanes": 1, "frac": 12, "out_bits": 16, "out_scale": 2.0 ** -12}, {"lanes": 16, "frac": 7, "out_scale": 0.5}),
    "activation": ({"function": "silu", "lanes": 4, "out_bits": 16, "out_scale": 1e-3}, {"function": "leaky_relu", "alpha": 0.2, "lanes": 2},
                   {"function": "tanh", "frac": 10, "out_scale": 1 / 127}),
    "layernorm": ({}, {"length": 192, "lanes": 16, "out_bits": 16, "out_scale": 2.0 ** -12}, {"length": 7, "lanes": 1, "in_scale": 0.1, "out_scale": 0.02}),
    "rmsnorm": ({}, {"length": 576, "lanes": 32, "out_bits": 16, "out_scale": 2.0 ** -12}, {"length": 10, "lanes": 2, "eps": 1e-3}),
    "linear": ({}, {"tokens": 5, "inputs": 16, "outputs": 24, "out_bits": 16}, {"tokens": 17, "inputs": 64, "outputs": 32, "lanes": 16},
               {"tokens": 1, "inputs": 8, "outputs": 8}),
    "attention": ({}, {"tokens": 9, "head_dim": 16, "causal": True, "frac": 8}, {"tokens": 33, "head_dim": 32, "lanes": 16, "out_scale": 2.0 ** -7},
                  {"tokens": 1, "head_dim": 8}),
    "moe-router": ({}, {"experts": 3, "top_k": 3, "renormalize": False}, {"experts": 16, "top_k": 4}, {"experts": 64, "top_k": 8}),
}
RUNS = {"icarus": ("rtl", ("--sim", "icarus")), "verilator": ("rtl", ("--sim", "verilator")), "csim": ("hls", ())}


def measure(name: str, settings: dict[str, object], how: str, folder: Path) -> tuple[bool, str]:
    """Makes a core and runs its bench: (whether it is bit-exact, its last line)."""
    backend, options = RUNS[how]
    api.core(name, backend, folder / backend, **settings)
    done = subprocess.run([sys.executable, folder / backend / "run.py", *options], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", default=[], help=f"of {', '.join(SETS)}; otherwise all")
    options.add_argument("--sim", choices=RUNS, action="append", help="otherwise all")
    given = options.parse_args()
    bad = 0
    print("core        simulator  seconds  result")
    for name in given.names or SETS:
        for settings in SETS[name]:
            with tempfile.TemporaryDirectory() as work:
                for how in given.sim or RUNS:
                    begin = time.monotonic()
                    good, line = measure(name, settings, how, Path(work))
                    bad += not good
                    text = " ".join(f"{key}={value}" for key, value in settings.items())
                    print(f"{name:11} {how:9} {time.monotonic() - begin:8.1f}  {'' if good else 'DIFFERS: '}{line}  [{text}]", flush=True)
    print(f"{bad} runs differ")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
