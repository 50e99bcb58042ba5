"""Sequences shorter than the longest in the C simulation: every value is that of the network made for so many tokens."""

from __future__ import annotations

import pytest

import hls_networks
from hwgen.functions import Act
from sequence_nets import ENDS, sequence_network, sequences

LENGTHS = (12, 1, 2, 5, 11, 8)


@pytest.fixture(scope="module")
def executable(tmp_path_factory):
    return hls_networks.build(tmp_path_factory.mktemp("any"), (Act.GELU,))


@pytest.mark.parametrize("seed, end, rotary", [*((seed, end, False) for seed, end in enumerate(ENDS)), (4, "last", True), (5, "all", True)])
def test_every_value_of_every_length(executable, seed, end, rotary, tmp_path):
    network = sequence_network(seed, end=end, rotary=rotary, blocks=("dm", "g")[end == "all"], causal=end == "last", dim=(16, 40)[seed % 2], heads=(2, 5)[seed % 2], classes=(5, 3)[:1 + seed % 2])
    images = sequences(network, len(LENGTHS))
    done, tasks = hls_networks.run(executable, tmp_path, network, images, LENGTHS)
    count, wrong = hls_networks.differing(network, images, done, tasks, LENGTHS)
    assert wrong == [] and count >= 15 * len(LENGTHS)
