"""Stands for `hwgen.api` in tests of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace

import numpy as np

from hwgen import report
from hwgen.errors import HwgenError
from hwgen.hostparts import Value
from hwgen.page import Made, page

REPORT = {
    "version": "0.1.0", "calibration": "data", "weight_bytes": 253_952, "warnings": [], "onnx_cosine": 0.9999999, "onnx_max_abs_error": 1.5e-6,
    "onnx": {"stage": "float models", "images": 8, "images_set_apart": 1, "runtime": "onnxruntime 1", "note": None},
    "network": {"name": "m3vit", "tasks": 2, "tokens": 17},
    "array": {"ti": 64, "to": 32, "macs_per_cycle": 2048},
    "resources": {"stage": "estimate", "used": {"lut": 1000, "uram": 0}, "available": {"lut": 4000, "uram": 0}},
    "estimate": {"stage": "estimate", "cycles_per_image": 5000.0, "latency_ms": 0.0166, "utilization": 0.25,
                 "memory": {"ports": 1, "bytes_per_cycle": 16.0, "latency": 200}},
    "instructions": [{"pc": 0, "instruction": "patch [embed]", "node": "patch [embed]", "task": None, "start": 0, "cycles": 100, "wait_tile": 20,
                      "wait_hazard": 0, "useful_macs": 64},
                     {"pc": 1, "instruction": "<qkv>", "node": "<qkv>", "task": None, "start": 100, "cycles": 200, "wait_tile": 0, "wait_hazard": 9,
                      "useful_macs": 64}],
}


class Status(Enum):
    SUPPORTED = "supported"
    UNSUPPORTED = "unsupported"


@dataclass
class Result:
    outputs: dict
    images: int
    mismatches: int = 0
    bit_exact: bool | None = True
    cycles_per_image: float = 1234.5
    input_clipped: float | None = None

    def to_dict(self):
        return {"images": self.images, "bit_exact": self.bit_exact, "mismatches": self.mismatches,
                "cycles_per_image": self.cycles_per_image, "utilization": 0.5, "frames": [{"cycles": 3}], "per_instruction": []}


@dataclass
class Fake:
    """Stands for `hwgen.api`; records the calls."""

    calls: list = field(default_factory=list)
    mismatches: int = 0
    error: HwgenError | None = None
    inputs: dict = field(default_factory=lambda: {"x": (1, 8, 8)})
    outputs: dict = field(default_factory=lambda: {"digit": (10,), "parity": (2,)})
    values = (Value("x", "float32", (1, 8, 8)),)
    levels, some_lengths = ("rtl",), staticmethod(lambda inputs: ())
    MemoryModel = staticmethod(lambda **kw: kw)
    build = SimpleNamespace(need_rtl=lambda: SimpleNamespace(config=SimpleNamespace(axi_data_bits=512)))

    def check(self, model, shapes, **options):
        options.pop("progress")("import", 0, 0)
        self.calls.append((model, shapes, options))
        verdicts = [SimpleNamespace(node="/a/Gelu [0]", op="Gelu", status=Status.SUPPORTED, into="mlp", reason=""),
                    SimpleNamespace(node="/b/Foo", op="Foo", status=Status.UNSUPPORTED, into="", reason="no such operator")]
        onnx = {key: value for key, value in REPORT.items() if key.startswith("onnx_")} | REPORT["onnx"]
        del onnx["stage"]
        return SimpleNamespace(verdicts=verdicts[:1 if self.error is None else 2], ok=self.error is None, error=self.error,
                               onnx=None if self.error else onnx, warnings=(), host=None)

    def compile(self, model, **options):
        options.pop("progress")("quantize", 1, 2)
        self.calls.append((model, options))
        if self.error:
            raise self.error
        return self

    def load(self, path):
        self.calls.append(path)
        if self.error:
            raise self.error
        return self

    def page(self):
        return page(REPORT, "hwgen: b", Made("hwgen compile m.onnx", "2026-11-27 01:36 UTC", "2026-11-27 01:37 UTC", "b", "0" * 64), details=report.sections(REPORT))

    def report(self):
        return REPORT

    def first_differences(self, inputs, progress, lengths):
        return []

    def keep(self, result):
        self.calls.append(("keep", result))

    def trace(self, result):
        return {"traceEvents": []}

    def synth(self, flow, target, progress):
        self.calls.append((flow, target))
        return SimpleNamespace(stage="synthesis (Yosys)", notes=("[a] note",), to_dict=lambda: {
            "flow": flow, "resources": REPORT["resources"], "units": [{"unit": "array", "lut": 1000}], "modules": [{"module": "m"}]})

    def simulate(self, inputs, **options):
        options.pop("progress")("simulate", 0, 0)
        self.calls.append((inputs, options))
        images = len(inputs["x"])
        digit = np.eye(10, dtype=np.float32)[np.arange(images) % 10]
        return Result({"digit": digit, "parity": np.ones((images, 2), np.float32)}, images, self.mismatches, self.mismatches == 0)
