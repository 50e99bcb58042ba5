"""Identifiers from ONNX names: valid, never the same for two names."""

from __future__ import annotations

import re

from hypothesis import given, strategies as st
import pytest

from hwgen.engines.hls.names import KEYWORDS, identifier, original

NAMES = st.one_of(st.text(max_size=20), st.text(alphabet="Zkx_0a./:-d", max_size=12), st.sampled_from(sorted(KEYWORDS)))


@given(NAMES)
def test_a_valid_identifier_that_leads_back_to_the_name(name):
    text = identifier(name)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", text) and "__" not in text and text not in KEYWORDS
    assert original(text) == name


@given(st.lists(NAMES, min_size=2, max_size=2, unique=True))
def test_two_names_never_share_one(names):
    assert identifier(names[0]) != identifier(names[1])


@given(st.text(alphabet="Zkxdu_0af", max_size=10))
def test_what_is_no_identifier_of_a_name_is_refused_or_leads_back(text):
    try:
        name = original(text)
    except ValueError:
        return
    assert identifier(name) == text


@pytest.mark.parametrize("name, text", [
    ("layer_norm_1", "layer_norm_1"), ("/blocks.0/attn", "ZsblocksZd0Zsattn"), ("0", "Zk0"), ("while", "Zkwhile"), ("", "Zk"), ("a__b", "a_Zub"),
    ("_a", "Zua"), ("onnx::Add", "onnxZcZcAdd"), ("Zoo", "ZZoo"), ("é", "Zxe9Z")])
def test_spelling(name, text):
    assert identifier(name) == text


@pytest.mark.parametrize("text", ["Z", "Zq", "a.b", "Zx41Z", "Zkabc", "_a", "a__b"])
def test_not_of_a_name(text):
    with pytest.raises(ValueError, match="is not an identifier"):
        original(text)
