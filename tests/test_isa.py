"""Instruction encoding: round trip of every field, refusals by name, the text a person reads."""

from __future__ import annotations

from dataclasses import fields
import re

from hypothesis import given, strategies as st
import pytest

from hwgen.errors import ModelError
from hwgen.isa import FIELDS, OFFSETS, WORD_BITS, Dst, Instr, Op, Src, Stat, words

BITS = dict(FIELDS)
DEFAULTS = {f.name: f.default for f in fields(Instr)}
ZEROS = dict.fromkeys(BITS, 0)
INSTRUCTIONS = st.builds(Instr, note=st.text(max_size=20), **{name: st.integers(0, (1 << bits) - 1) for name, bits in FIELDS})
VALID = st.builds(Instr, **{**{name: st.integers(0, (1 << bits) - 1) for name, bits in FIELDS},
                           **{name: st.sampled_from(kind) for name, kind in (("op", [Op.STREAM, Op.MATMUL]), ("src", Src), ("stat", Stat), ("dst", Dst))}})


@given(INSTRUCTIONS)
def test_decode_undoes_encode(instr):
    word = instr.encode()
    assert 0 <= word < 1 << WORD_BITS
    assert Instr.decode(word, instr.note) == instr


@given(INSTRUCTIONS)
def test_words_are_the_encoding_least_significant_first(instr):
    parts = words(instr)
    assert len(parts) == 16 and all(0 <= part < 1 << 32 for part in parts)
    assert sum(part << 32 * i for i, part in enumerate(parts)) == instr.encode()


@given(st.integers(0, (1 << WORD_BITS) - 1))
def test_encode_undoes_decode_within_the_fields(word):
    used = sum((1 << bits) - 1 << OFFSETS[name] for name, bits in FIELDS)
    assert Instr.decode(word).encode() == word & used


@pytest.mark.parametrize("name", BITS)
def test_each_field_has_its_own_bits(name):
    full = (1 << BITS[name]) - 1
    assert Instr(**ZEROS | {name: full}).encode() == full << OFFSETS[name]
    others = {other for other in BITS if other != name and getattr(Instr.decode(full << OFFSETS[name]), other)}
    assert others == set()


def test_fields_lie_side_by_side_in_one_word():
    assert [OFFSETS[name] for name, _ in FIELDS] == [sum(bits for _, bits in FIELDS[:i]) for i in range(len(FIELDS))]
    assert sum(BITS.values()) <= WORD_BITS
    assert [f.name for f in fields(Instr)] == [*BITS, "note"]


@pytest.mark.parametrize("kind, field", [(Op, "op"), (Src, "src"), (Stat, "stat"), (Dst, "dst")])
def test_enums_fit_their_fields(kind, field):
    assert max(kind) < 1 << BITS[field] and [int(member) for member in kind] == list(range(len(kind)))


@pytest.mark.parametrize("name", BITS)
@pytest.mark.parametrize("excess", ["negative", "too large"])
def test_a_value_that_does_not_fit_names_field_and_note(name, excess):
    value = -1 if excess == "negative" else 1 << BITS[name]
    with pytest.raises(ModelError) as caught:
        Instr(**{name: value}, note="block3.fc1").encode()
    assert caught.value.message == f"instruction field {name} = {value} does not fit {BITS[name]} bits"
    assert caught.value.where == "block3.fc1" and "smaller" in caught.value.hint


def test_text_of_a_matmul():
    instr = Instr(op=Op.MATMUL, src=Src.NORM, stat=Stat.WEIGHTS, dst=Dst.KV, tokens=17, k_tiles=2, n_tiles=3, slack=1, note="block0.k")
    assert str(instr) == "matmul kv      <- norm x weights    slack=1 tokens=17 k_tiles=2 n_tiles=3    ; block0.k"


def test_text_of_a_stream_and_of_the_end():
    assert str(Instr(op=Op.STREAM, src=Src.ACT, dst=Dst.ACT, tokens=4)) == "stream act     <- act   tokens=4"
    assert str(Instr(op=Op.END, note="ignored")) == "end"


@given(VALID)
def test_text_shows_every_field_that_is_not_its_default(instr):
    text = str(instr).split("    ; ")[0]
    shown = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", text)}
    assert shown == {name: getattr(instr, name) for name in BITS if name not in ("op", "src", "stat", "dst")
                     and getattr(instr, name) != DEFAULTS[name]}
    assert Src(instr.src).name.lower() in text and Dst(instr.dst).name.lower() in text
