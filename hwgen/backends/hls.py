"""Vitis HLS project of a network: kernels as they are, configuration and wiring from templates, the weight file, scripts.

    hls/include/hwgen/*.hpp   kernels              hls/hwgen_config.hpp, _tables.hpp, _program.hpp, _top.*   this network
    hls/stub/                 ap_int, hls_stream   hls/csim/main.cpp, weights.bin                           C simulation
"""

from __future__ import annotations

import re
import textwrap

import numpy as np

from .. import __version__, numerics
from ..devices.board import Board
from ..golden import integer_model
from ..ir import Act
from ..paths import data_dir
from ..qir import QAttention, QHead, QLinear, QMoE, QModel, QNorm, QPatches, QResidualInit, QResidualLinear
from ..render import render
from . import hls_estimate, hls_image
from .hls_names import identifier
from .hls_plan import ALL_TASKS, Plan, Step, Value

COLUMNS = 130                     # of emitted code
BURST_BYTES = 4096                # AXI4: a burst does not cross a 4 KiB boundary


def files(plan: Plan, model: QModel, name: str, board: Board, images: np.ndarray) -> dict[str, str | bytes]:
    """{path relative to the build directory: content}.

    name: of the network, for comments; images: a few for the bench, float [B, ...].
    """
    kernels = data_dir("hls")
    result: dict[str, str | bytes] = {f"hls/{path.relative_to(kernels).as_posix()}": path.read_text()
                                      for folder in ("include/hwgen", "stub") for path in sorted((kernels / folder).iterdir())}
    tasks = list(range(len(model.tasks)))
    vitis = board.vitis()
    part = vitis.stand_in or board.part
    common = dict(name=name, version=__version__, plan=plan, num_tasks=len(tasks), target=board.name, part=part,
                  clock_mhz=f"{board.clock_mhz:g}", period_ns=f"{1000 / board.clock_mhz:.3f}",
                  frames=len(images) * len(tasks), tasks=",".join(map(str, tasks)))
    return result | {
        "hls/hwgen_config.hpp": render("hls/hwgen_config.hpp.j2", **common),
        "hls/hwgen_tables.hpp": tables(plan.act),
        "hls/hwgen_program.hpp": render("hls/hwgen_program.hpp.j2", values=[_value(v) for v in plan.values],
                                        steps=[_row(step, model) for step in plan.steps], **common),
        "hls/hwgen_top.hpp": render("hls/hwgen_top.hpp.j2", **common),
        "hls/hwgen_top.cpp": render("hls/hwgen_top.cpp.j2", fifo_words=hls_estimate.FIFO_BYTES // plan.lanes,
                                    burst=min(256, BURST_BYTES // plan.lanes), **common),
        "hls/weights.bin": plan.weight_file(),
        "hls/csim/main.cpp": (data_dir("templates") / "hls" / "csim.cpp").read_text(),
        "hls/csim/input.bin": np.repeat(frames(plan, model, images), len(tasks), axis=0).tobytes(),
        "hls/csim/expected.bin": _expected(plan, model, images),
        "hls/scripts/vitis_hls.tcl": render("hls/vitis_hls.tcl.j2", **common),
        "hls/scripts/vivado.tcl": render("hls/vivado.tcl.j2", processor=vitis.processor, **common),
        "hls/driver/host.cpp": render("hls/host.cpp.j2", buffer_bytes=len(plan.image),
                                      frame_bytes=plan.input_words * plan.lanes + plan.output_words * 4, **common),
        "hls/README.md": render("hls/README.md.j2", estimate=hls_estimate.report(plan, board), **common),
    }


def frames(plan: Plan, model: QModel, images: np.ndarray) -> np.ndarray:
    """Images float [B, ...] -> uint8 [B, bytes]: each frame as the top function reads it. Raises InputError."""
    patches = next(node for node in model.tasks[0].nodes if isinstance(node, QPatches))
    return hls_image.frames(integer_model.quantize_input(patches, images), plan.lanes)


def _expected(plan: Plan, model: QModel, images: np.ndarray) -> bytes:
    """Output words of the integer model, frame by frame."""
    words = np.zeros((len(images), len(model.tasks), plan.output_words), "<i4")
    for task, graph in enumerate(model.tasks):
        found = integer_model.run(graph, images)
        for name, place, channels in plan.outputs[task]:
            words[:, task, place:place + channels] = found[name]
    return words.tobytes()


def tables(act: Act) -> str:
    """hwgen_tables.hpp for an activation function."""
    kind = "relu" if act is Act.NONE else act.value
    named = (("DELTA", f"ReLU(x) - f(x), f = {kind}; step 2**-5, unit 2**-16", numerics.delta_table(kind)),
             ("EXP_P8", f"255 * 2**(-i / {len(numerics.EXP_P8)}), unit 2**-8", numerics.EXP_P8),
             ("EXP_Q15", f"2**(-i / {len(numerics.EXP_Q15)}), unit 2**-15", numerics.EXP_Q15),
             ("RECIP", "2**31 / m for the 16-bit mantissas m with these leading bits", numerics.RECIP),
             ("RSQRT", "2**23 / sqrt(m), m as 8 leading bits", numerics.RSQRT))
    return render("hls/hwgen_tables.hpp.j2", version=__version__,
                  tables=[dict(name=n, comment=c, entries=values.tolist()) for n, c, values in named])


def _value(value: Value) -> dict:
    return dict(identifier=identifier(value.name), address=value.address, tokens=value.tokens, channels=value.channels)


def _row(step: Step, model: QModel) -> dict[str, str]:
    call = "hwgen::" + _call(step)
    if step.task != ALL_TASKS:
        call = f"only({step.task}, {call})"
    whole = re.sub(r"\{[^{}]*\}", lambda braces: braces[0].replace(" ", "\0"), call)      # not to be broken
    lines = textwrap.wrap(whole, COLUMNS - 1, initial_indent=" " * 4, subsequent_indent=" " * (5 + call.index("(")),
                          break_long_words=False, break_on_hyphens=False)
    return dict(call="\n".join(lines).replace("\0", " "), comment=_comment(step, model))


def _ref(value: Value) -> str:
    return f"values::{identifier(value.name)}"


def _factor(mult: int, shift: int) -> str:
    return f"{{{mult}, {shift}}}"


def _call(step: Step) -> str:
    """The step in C++: a call of one of the functions in hls/include/hwgen/engine.hpp."""
    node, weights = step.node, f"hwgen::Weights{{{step.weights}}}"
    match node:
        case QPatches():
            return f"patches({_ref(step.dst)})"
        case QResidualInit():
            return f"residual_init({{{node.table.shape[0]}, {node.table.shape[1]}}}, {weights})"
        case QNorm():
            return (f"layer_norm({_ref(step.dst)}, {node.eps}, {_factor(node.inv_mult, node.inv_shift)}, "
                    f"{_factor(node.mult, node.shift)})")
        case QLinear() if node.act is None:
            return f"linear({_ref(step.dst)}, {_ref(step.src)}, {weights})"
        case QLinear():
            return f"linear_activated({_ref(step.dst)}, {_ref(step.src)}, {weights}, {_factor(node.act.mult, node.act.shift)})"
        case QResidualLinear():
            return f"linear_residual({{{step.dst_tokens}, {step.out_channels}}}, {step.first_token}, {_ref(step.src)}, {weights})"
        case QHead():
            return f"head({{{step.place}, {step.out_channels}}}, {_ref(step.src)}, {{{step.first_token}, {step.rows}}}, {weights})"
        case QAttention():
            return (f"attention({_ref(step.dst)}, {_ref(step.src)}, {_ref(step.keys)}, {_ref(step.values)}, {node.num_heads}, "
                    f"{_factor(node.score_mult, node.score_shift)}, {_factor(node.out_mult, node.out_shift)})")
        case QMoE() if step.kind == "ROUTE":
            return f"route({_ref(step.src)}, {{{step.out_channels}, {node.top_k}, {str(node.renormalize).lower()}}}, {weights})"
    return (f"experts({_ref(step.src)}, {_ref(step.dst)}, {len(node.first)}, {weights}, "
            f"{_factor(node.act.mult, node.act.shift)})")


def _comment(step: Step, model: QModel) -> str:
    """The node's name, shapes and scale."""
    graph = model.tasks[max(step.task, 0)]
    node, residual = step.node, f"scale {graph.residual_scale:.5g}"
    match node:
        case QPatches():
            text = f"patches of {node.input}: int8 {_shape(step.dst)}, scale {node.scale:.5g}"
        case QResidualInit():
            text = f"start of the residual stream: int16 {list(node.table.shape)}, {residual}"
        case QNorm():
            text = f"layer norm: int16 -> int8 {_shape(step.dst)}, scale {node.scale:.5g}"
        case QLinear():
            act = f" {node.act.kind.value}," if node.act else ""
            text = f"linear,{act} int8 {_shape(step.src)} -> int8 {_shape(step.dst)}, scale {node.scale:.5g}"
        case QResidualLinear():
            text = f"linear, int8 {_shape(step.src)} -> added to int16 [{step.dst_tokens}, {step.out_channels}], {residual}"
        case QHead():
            text = f"linear, int8 {_shape(step.src)}, {step.rows} of the tokens -> {node.onnx_name}: int32 [{step.out_channels}]"
        case QAttention():
            text = f"attention, {node.num_heads} heads, int8 {_shape(step.src)} -> int8 {_shape(step.dst)}, scale {node.scale:.5g}"
        case QMoE() if step.kind == "ROUTE":
            text = f"router, int8 {_shape(step.src)} -> the best {node.top_k} of {step.out_channels} experts"
        case QMoE():
            text = (f"{len(node.first)} experts, {node.act.kind.value}, int8 {_shape(step.src)} -> {step.out_channels} channels -> "
                    f"added to int16, {residual}")
    return f"{node.name}: {text}"


def _shape(value: Value) -> str:
    return f"[{value.tokens}, {value.channels}]"
