"""What report.json holds: the facts of a plan as JSON, each with the stage it comes from. docs/reference/json.md has the keys."""

from __future__ import annotations

from dataclasses import asdict
import os
from typing import Any

from . import __version__
from .engines.protocol import Facts
from .engines.registry import ENGINES
from .frontend import Options, Planned, error_images
from .layers import CHUNK

UNKNOWN_ACCURACY = "unknown: calibrated with seeded noise; give --calib FILE.npz"


def report(name: str, planned: Planned, options: Options) -> dict[str, Any]:
    """What report.json holds."""
    model, board = planned.quantized, planned.board
    facts = {engine: ENGINES[engine].facts(made) for engine, made in planned.plans.items()}
    costs = {engine: ENGINES[engine].cost(made, model, board) for engine, made in planned.plans.items()}
    first = next(iter(facts.values()))
    report = {
        "version": __version__, "source": {"file": os.fsencode(planned.imported.path).decode(errors="replace"), "sha256": planned.imported.digest,
                                            "command": options.command(planned.imported.path)},
        "calibration": model.calibration, "precision": str(options.precision), "batch": first.batch,
        "weight_bytes": first.weight_bytes,
        "network": {"name": name, "tasks": len(model.tasks),
                    "outputs": [o.name for network in model.tasks for o in network.outputs for _ in range(first.batch)],
                    "useful_macs_per_image": first.useful_macs, "residual_scale": model.tasks[0].residual_scale},
        "board": {"name": board.name, "part": board.part, "clock_mhz": board.clock_mhz, "memory_bytes_per_cycle": board.bytes_per_cycle(),
                  "memory_efficiency": board.memory_efficiency, "ports": asdict(board.ports),
                  "cells": {kind: getattr(board, kind) for kind in ("lut", "ff", "dsp", "bram36", "uram")}}}
    if (sent := model.tasks[0].input[1]).sequence:
        report["lengths"] = {"longest": sent.tokens, "input": planned.imported.padding and planned.imported.padding.name}
    report |= costs.pop("rtl", {})
    report |= _judged(planned)
    if planned.imported.host:
        report["host"] = planned.imported.host.to_dict()
    report["quantization"] = _quantization(planned, options.random, first)
    if planned.mixed is not None:
        report["mixed"] = {"stage": "golden models, cycles estimate", **planned.mixed.to_dict()}
    report["warnings"] = planned.warnings
    for cost in costs.values():
        report |= cost
    return report


def _quantization(planned: Planned, random: bool, facts: Facts) -> dict[str, Any]:
    """What precision costs and buys: the integer model against the float one on calibration images, and bytes of the weight image."""
    given = min(len(array) for array in planned.images.values())
    known: dict[str, Any] = {} if random else {"images": min(error_images(planned.imported.model), given),
                                              "layer_images": min(CHUNK, given), "output_error": planned.output_error}
    if planned.said is not None:
        known["quantized_file"] = planned.said.to_dict()
    scales = {what: sorted(name for name, rule in rules.items() if rule.scale is not None)
              for what, rules in (("values", planned.rules.values), ("weights", planned.rules.weights))}
    if any(scales.values()):
        known["scales_given"] = scales
    return {"stage": "golden models", **known, "weight_bytes": facts.weight_bytes, "weight_bytes_with_8_bits": facts.weight_bytes_with_8_bits,
            "clipping": planned.findings.to_dict(), "layers": [error.to_dict() for error in planned.layers],
            "routers": [router.to_dict() for router in planned.routers]}


def _judged(planned: Planned) -> dict:
    """The comparison with the ONNX file, if there was one, and that accuracy is unknown where no calibration images were given."""
    unknown = {"accuracy": UNKNOWN_ACCURACY} if planned.quantized.calibration == "random" else {}
    if planned.onnx is None:
        return unknown
    onnx = planned.onnx.to_dict()
    figures = {key: onnx.pop(key) for key in ("onnx_cosine", "onnx_max_abs_error")}
    return {**unknown, **figures, "onnx": {"stage": "float models", **onnx}}
