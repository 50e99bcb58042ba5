"""Named slices of an instruction word, generated from the one encoding table in `hwgen.isa`."""

from amaranth.hdl import Cat, Signal

from hwgen.isa import FIELDS, OFFSETS, WORD_BITS

BITS = dict(FIELDS)


class Fields:
    """View of a 512-bit value: ``Fields(word).tokens`` is the slice that encodes `Instr.tokens`."""

    def __init__(self, word):
        self.word = word

    def __getattr__(self, name):
        if name not in OFFSETS:
            raise AttributeError(name)
        return self.word[OFFSETS[name]:OFFSETS[name] + BITS[name]]


class Record:
    """A fixed set of named fields packed in one signal; what travels down a pipeline."""

    def __init__(self, layout: dict[str, int], name: str):
        self.layout = layout
        self.word = Signal(sum(layout.values()), name=name)
        position = 0
        for key, bits in layout.items():
            setattr(self, key, self.word[position:position + bits])
            position += bits

    def pack(self, **values):
        """Cat of the given values in field order, each cut or extended to its width; a missing one is 0."""
        parts = []
        for key, bits in self.layout.items():
            part = Signal(bits, name=f"{self.word.name}_{key}")
            parts.append((part, values.pop(key, 0)))
        if values:
            raise KeyError(f"no field {', '.join(values)} in {self.word.name}")
        return Cat(p for p, _ in parts), [p.eq(v) for p, v in parts]


__all__ = ["BITS", "WORD_BITS", "Fields", "Record"]
