"""Every fault of `hls_mutations` is seen: by networks in C simulation, compared value by value, or by the kernels' unit tests."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

import pytest

import hls_mutations as mutations
import hls_networks
from hwgen.errors import ToolError
from hwgen.functions import Act
import qgraphs
import sequence_nets
from taken_nets import taking
import wide_nets

NETWORKS = ({"seed": 1, "blocks": "dm", "experts": 8, "top_k": 2, "dim": 32, "tokens": 9}, {"seed": 2, "blocks": "m", "experts": 8, "top_k": 1, "dim": 24, "tokens": 6},
            {"seed": 3, "blocks": "dd", "dim": 24, "tokens": 7, "norms": "respost", "rms": True}, {"seed": 4, "blocks": "d", "dim": 16, "norms": "post"},
            {"seed": 5, "blocks": "gb", "bias": "heads", "dim": 24, "tokens": 9, "rotary": 6},
            {"seed": 3, "blocks": "dm", "experts": 6, "top_k": 3, "dim": 24, "tokens": 6, "gates": "biased"},
            {"seed": 5, "blocks": "s", "experts": 3, "dim": 16, "tokens": 9},
            {"seed": 7, "blocks": "t", "dim": 24, "tokens": 9},
            {"seed": 11, "blocks": "d", "dim": 48, "tokens": 12, "windows": 3, "bias": "mask"},
            {"seed": 12, "blocks": "dd", "dim": 24, "tokens": 9, "prune": "index"}, {"seed": 13, "blocks": "d", "dim": 24, "tokens": 9, "prune": "looked"},
            {"seed": 9, "blocks": "d", "dim": 24, "tokens": 7, "heads_norm": "rms", "rotary": 8},
            {"seed": 6, "blocks": "xd", "experts": 5, "dim": 48, "heads": 4, "tokens": 7, "heads_norm": "layer"})


@pytest.fixture(scope="module")
def networks():
    """(network, images, lengths of sequences) of each; images far larger than in calibration, so that values saturate."""
    whole = [(make(**options), 6 * qgraphs.random_images(qgraphs.random_model(**options), 2), ())
             for options in NETWORKS for make in (qgraphs.random_qgraph, wide_nets.random_wide)]
    short = [sequence_nets.sequence_network(seed, tokens=9, end=end) for seed, end in enumerate(("mean", "last"))]
    options = {"seed": 8, "blocks": "d", "dim": 24, "tokens": 11}
    whole += [(taking(make(**options), 2), 6 * qgraphs.random_images(qgraphs.random_model(**options), 2), ())
              for make in (qgraphs.random_qgraph, wide_nets.random_wide)]
    return whole + [(model, sequence_nets.sequences(model, 2), (5, 2)) for model in short]


def seen_by_networks(kernels: Path, folder: Path, networks) -> bool:
    executable = hls_networks.build(folder, (Act.GELU, Act("sigmoid")), kernels=kernels)
    for model, images, lengths in networks:
        try:
            done, tasks = hls_networks.run(executable, folder / "run", model, images, lengths, ("gelu", "sigmoid"))
        except ToolError:                   # ends with an error of its own: an empty stream
            return True
        if hls_networks.differing(model, images, done, tasks, lengths)[1]:
            return True
    return False


def seen_by_kernels(kernels: Path) -> bool:
    """Whether tests/hls/test_kernels.py fails on these kernels."""
    tests = Path(__file__).with_name("test_kernels.py")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests)], capture_output=True, text=True, check=False,
                          env=os.environ | {"HWGEN_TEST_KERNELS": str(kernels)}, cwd=tests.parent.parent.parent)
    return done.returncode == 1 and "failed" in done.stdout


def test_without_a_fault_nothing_differs(tmp_path, networks):
    assert not seen_by_networks(hls_networks.data_dir("hls"), tmp_path, networks)


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda m: m.name)
def test_a_fault_is_seen(mutation, tmp_path, networks):
    kernels = mutations.kernels(tmp_path / "kernels", mutation)
    assert seen_by_kernels(kernels) if mutation.kernel else seen_by_networks(kernels, tmp_path / "project", networks)
