"""Shapes and labels of the command line."""

from __future__ import annotations

import numpy as np
import pytest

from hwgen.arrays import accuracy, parse_shapes


def test_shape_names_may_hold_equal_signs():
    assert parse_shapes(["a=b=2x3", "c=4"]) == {"a=b": (2, 3), "c": (4,)}
    assert parse_shapes([]) is None


def test_accuracy_takes_only_labels():
    outputs = {"a": np.eye(3, dtype=np.float32)[:, None], "b": np.ones((3, 2), np.float32)}
    labels = {"a": np.array([0, 1, 0]), "b": np.ones((3, 2)), "c": np.array([1, 2, 3])}
    assert accuracy(outputs, labels) == {"a": pytest.approx(2 / 3)}
    assert accuracy(outputs, {"a": np.array([0, 1])}) == {}
