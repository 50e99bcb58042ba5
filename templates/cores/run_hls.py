"""C simulation of the core against golden.py: `python run.py` (pip install numpy; a C++ compiler, $CXX or g++)."""

import argparse
import json
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
from words import parameters

import golden

HERE = Path(__file__).resolve().parent


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--types", type=Path, default=HERE / "stub", help="folder of ap_int.h and hls_stream.h, as that of Vitis HLS")
    options.add_argument("--seed", type=int, default=1, help="of the words")
    given = options.parse_args()
    core, p, work = json.loads((HERE / "core.json").read_text()), parameters(), HERE / "csim"
    top, sent, wanted = core["top"], {}, []
    for arrays in golden.cases(p, np.random.default_rng(given.seed)).values():
        for port, words in golden.streams(p, *arrays).items():
            sent.setdefault(port, []).extend(words)
        wanted += golden.results(p, golden.golden(p, *arrays))
    work.mkdir(exist_ok=True)
    for port, words in sent.items():
        (work / f"{port}.bin").write_bytes(b"".join(word.to_bytes(core["ports"][port] // 8, "little") for word, _ in words))
    subprocess.run([os.environ.get("CXX", "g++"), "-std=c++14", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wno-unknown-pragmas", "-Werror", f"-I{HERE}",
                    f"-I{HERE / 'include'}", "-isystem", given.types, HERE / f"{top}.cpp", HERE / "csim.cpp", "-o", work / "csim"], check=True)
    subprocess.run([work / "csim", work, str(len(wanted) // core["words_per_call"])], check=True)
    size = core["ports"]["m_axis"] // 8
    data = (work / "m_axis.bin").read_bytes()
    got = [int.from_bytes(data[place:place + size], "little") for place in range(0, len(data), size)]
    wrong = [n for n, (word, _) in enumerate(wanted) if n >= len(got) or got[n] != word]
    if wrong or len(got) != len(wanted):
        print(f"{top}: {len(wrong)} of {len(wanted)} words differ in C simulation, the first is number {wrong[0] if wrong else len(wanted)}")
        return 1
    print(f"{top}: bit-exact in C simulation, {len(wanted)} words")
    return 0


if __name__ == "__main__":
    sys.exit(main())
