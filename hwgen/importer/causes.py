"""Why a network is refused, causes first: one message for all nodes no rule took, with a next step that fits the cause.

A node behind an unsupported one is unsupported as well; what is named is the first that is not, or the first of a family a user knows by
another name ("quantized file", "loop over experts") than that of its operators.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from ..errors import ModelError
from .read import OnnxFile

if TYPE_CHECKING:
    from .lower import Verdict

BEHIND = ("belongs to ", "the shape of its result is not known, because")       # reasons that blame another node
LEADING = {"Sub", "Div", "Mul", "Add", "Cast", "Transpose", "Identity"}           # preprocessing: operators before the network proper
CONTROL = {"Loop", "If", "Scan", "NonZero", "GatherND", "ScatterND", "SequenceAt", "Compress"}
CHOICE = {"TopK", "ArgMax", "OneHot", "ScatterElements"}                          # operators of a router
ROUTER_PARTS = CONTROL | CHOICE | {"Softmax", "Einsum", "Gather", "GatherElements", "Equal", "Where", "ReduceMax", "ReduceSum", "MatMul", "Mul"}

EXPERTS = ("write the experts as one stack: weights [experts, K, N], every expert on every token by one MatMul, scores scattered into zeros, "
           "the product summed over the experts; docs/how-to/bring-your-own-model.md shows it in torch")


@dataclass(frozen=True)
class Family:
    """Nodes that have one cause: ``what`` is said of the file, ``hint`` is the next step."""

    what: str
    hint: str
    holds: Callable[["Verdict", onnx.NodeProto, OnnxFile], bool]


def unsupported(file: OnnxFile, bad: list["Verdict"]) -> ModelError:
    """The error for these unsupported nodes."""
    nodes = node_names(file.proto.graph)
    roots = [verdict for verdict in bad if not verdict.reason.startswith(BEHIND)] or bad
    first, what = roots[0], ""
    hint = f"`hwgen check {file.path}` lists every node; cut the network there, or change it before export"
    for family in FAMILIES:
        found = next((v for v in roots if v.node in nodes and family.holds(v, nodes[v.node], file)), None)
        if found is not None:
            first, what, hint = found, f"{family.what}: ", family.hint
            break
    domain = nodes[first.node].domain if first.node in nodes else ""
    op = first.op if domain in ("", "ai.onnx") else f"{domain}.{first.op}"
    behind = len(bad) - 1
    count = f" (and {behind} other node{'s' * (behind > 1)} of it or behind it)" if behind else ""
    return ModelError(f"{what}{op} node {first.node!r} is not supported{count}: {first.reason}",
                      where=f"{file.path}: {op} node {first.node!r}", hint=hint)


def node_names(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Every node by the name it has in verdicts: its own, or its operator and first result where that is missing or taken."""
    names: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        names[node.name if node.name and node.name not in names else f"{node.op_type}:{next(iter(node.output), '')}"] = node
    return names


def _is_quantizer(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    kind = node.op_type
    return kind.startswith(("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "QGemm", "QAttention")) \
        or kind.endswith(("Integer", "NBits")) or "MatMulInteger" in kind


def _is_qonnx(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    return node.op_type in ("Quant", "BipolarQuant", "Trunc") and node.domain not in ("", "ai.onnx")


def _is_foreign(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    return node.domain.startswith("com.microsoft")


def _is_half(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return node.op_type == "Cast" and (any(a.name == "to" and a.i in halves for a in node.attribute)
                                       or any(tensor.data_type in halves for tensor in file.proto.graph.initializer))


def _rearranges_input(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    moved = "in another order or in part" in verdict.reason or "which mixes tokens and channels" in verdict.reason
    return moved and any(f"reads {name!r} " in verdict.reason for name in file.inputs)


def _reads_input(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    """The node is one of those that change the input element by element before anything else happens."""
    if node.op_type not in LEADING:
        return False
    weights = {tensor.name for tensor in file.proto.graph.initializer}
    constants = {name for other in file.proto.graph.node if other.op_type == "Constant" for name in other.output}
    leading = set(file.inputs)
    for other in file.proto.graph.node:
        if other.op_type in LEADING and any(name in leading for name in other.input) \
                and all(name in leading or name in weights or name in constants for name in other.input):
            if other is node:
                return True
            leading.update(other.output)
    return False


def _is_mask(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    return any(text in verdict.reason for text in ("an attention mask", "masks the scores", "is causal"))


def _is_last_softmax(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    if node.op_type not in ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax"):
        return False
    last = {output.name for output in file.proto.graph.output}
    for other in reversed(file.proto.graph.node):
        if other.op_type in ("Identity", "Cast", "Reshape", "Squeeze") and last.intersection(other.output):
            last.add(other.input[0])
    return bool(last.intersection(node.output))


def _is_router(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    return node.op_type in ROUTER_PARTS and "attention" not in verdict.reason.replace("as part of an attention or", "") \
        and any(other.op_type in CHOICE for other in file.proto.graph.node)


def _is_heads(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    return "sum of two heads" in verdict.reason


def _is_random(verdict: "Verdict", node: onnx.NodeProto, file: OnnxFile) -> bool:
    return node.op_type in ("Dropout", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


FAMILIES = (
    Family("the file is quantized (QONNX)", "give the float model it was made from: hwgen quantizes itself, with --calib", _is_qonnx),
    Family("the file is quantized", "give the float model it was made from: hwgen quantizes itself, with --calib", _is_quantizer),
    Family("the file went through an optimizer that uses operators of its own",
           "export without the optimizer (onnxruntime's: at most its level ORT_ENABLE_BASIC), or give the file from before it", _is_foreign),
    Family("the result depends on chance", "export in eval mode: model.eval() before torch.onnx.export", _is_random),
    Family("the network works in 16-bit floating point", "export the model in float32", _is_half),
    Family("the input is rearranged before the network proper",
           "give images channels first, and cut them into patches by a convolution whose stride is its kernel, not by Reshape and Transpose",
           _rearranges_input),
    Family("the input is changed before the network proper (normalisation, type, layout)",
           "move it out: give images that are normalised already, float32 and channels first, and export the model without that step",
           _reads_input),
    Family("an output is a sum of two heads", "give the two heads as two outputs, and add them on the host", _is_heads),
    Family("the network ends in a function that belongs on the host", "export the logits, and apply it to the outputs", _is_last_softmax),
    Family("the attention has a mask or a position bias", "export without it: a fixed sequence length, and every token sees every other one",
           _is_mask),
    Family("a mixture of experts in a form that is not read (a loop over experts, a choice of weights)", EXPERTS, _is_router),
)
