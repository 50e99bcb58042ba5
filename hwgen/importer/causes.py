"""Why a network is refused, causes first: all nodes no rule took in one error, each cause once, with a next step that fits it.

A node behind an unsupported one is unsupported as well; what is named is the first that is not, or the first of a family a user knows by
another name ("quantized file", "loop over experts") than that of its operators. What stands apart from it is a cause of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import re

import onnx

from ..errors import ModelError, combined
from ..ops.moe import GATE
from .read import OnnxFile
from .verdict import Status, Verdict

BEHIND = ("belongs to ", "is behind ", "the shape of its result is not known, because")       # reasons that blame another node
BLAMED = re.compile(r"is behind '([^']*)'")            # one that is unsupported itself, in such a reason
LEADING = {"Sub", "Div", "Mul", "Add", "Cast", "Transpose", "Identity"}           # preprocessing: operators before the network proper
PASSING = {"Identity", "Cast", "Reshape", "Squeeze"}                              # a value goes through them as it is
CONTROL = {"Loop", "If", "Scan", "NonZero", "GatherND", "ScatterND", "SequenceAt", "Compress"}
CHOICE = {"TopK", "ArgMax", "OneHot", "ScatterElements"}                          # operators of a router
QUOTED = re.compile(r"'[^']*'")                     # names in a reason
ROUTER_PARTS = CONTROL | CHOICE | {"Softmax", "Einsum", "Gather", "GatherElements", "Equal", "Where", "ReduceMax", "ReduceSum", "MatMul", "Mul"}

OF_EXPERTS = ("its experts", " experts that ", " experts for ", " experts of ", "but no experts", "gated experts", "its router", "a router that ")
OF_TOKENS = ("keeps tokens by ", " by scores of ", "neither that of their scores nor their own")          # reasons of `Prune`
EXPERTS = ("a sum over experts is read, each times its score: the experts are two layers with an activation between them, the scores those of a "
           "top-k of a softmax of one Linear; docs/how-to/bring-your-own-model.md shows forms in torch")


@dataclass(frozen=True)
class Facts:
    """What is asked of a whole file, once. leading: results of what changes an input before anything else happens; last: values that become
    an output as they are; choice: it has an operator of a router."""

    inputs: tuple[str, ...]
    leading: frozenset[str]
    last: frozenset[str]
    choice: bool


@dataclass(frozen=True)
class Family:
    """Nodes that have one cause: ``what`` is said of the file, ``hint`` is the next step."""

    what: str
    hint: str
    holds: Callable[[Verdict, onnx.NodeProto, Facts], bool]


@dataclass(frozen=True)
class Cause:
    """One reason for a refusal. node: the first that has it; nodes: how many it takes with it, itself included; rank: of its family."""

    node: Verdict
    family: Family | None
    nodes: int
    rank: int

    @property
    def key(self) -> tuple[str, str]:
        """Equal for causes that are one: in every block of a network, or all over the file."""
        return (self.family.what, "") if self.family else (self.node.op, QUOTED.sub("", self.node.reason))


def unsupported(file: OnnxFile, verdicts: Sequence[Verdict]) -> ModelError:
    """The error for the unsupported nodes among these: one cause for each group of them that hang together, alike ones once."""
    nodes, facts = node_names(file.proto.graph), _facts(file)
    found: dict[tuple[str, str], Cause] = {}
    for group in _together(verdicts, nodes):
        cause = _cause(group, nodes, facts)
        known = found.get(cause.key)
        found[cause.key] = cause if known is None else replace(known, nodes=known.nodes + cause.nodes)
    return combined([_error(file, cause, nodes) for cause in sorted(found.values(), key=lambda cause: cause.rank)])


def _cause(group: list[Verdict], nodes: dict[str, onnx.NodeProto], facts: Facts) -> Cause:
    """The first of a family, else the first that does not blame another node; where some are blamed by name, of these."""
    blamed = {name for verdict in group for name in BLAMED.findall(verdict.reason)}
    first = [verdict for verdict in group if not verdict.reason.startswith(BEHIND)]
    roots = [verdict for verdict in group if verdict.node in blamed] or first or group
    for rank, family in enumerate(FAMILIES):
        found = next((v for v in roots if v.node in nodes and family.holds(v, nodes[v.node], facts)), None)
        if found is not None:
            return Cause(found, family, len(group), rank)
    return Cause(roots[0], None, len(group), len(FAMILIES))


def _error(file: OnnxFile, cause: Cause, nodes: dict[str, onnx.NodeProto]) -> ModelError:
    first, family, behind = cause.node, cause.family, cause.nodes - 1
    domain = nodes[first.node].domain if first.node in nodes else ""
    op = first.op if domain in ("", "ai.onnx") else f"{domain}.{first.op}"
    count = f" (and {behind} other node{'s' * (behind > 1)} of it or behind it)" if behind else ""
    hint = family.hint if family else f"`hwgen check {file.path}` lists every node; cut the network there, or change it before export"
    return ModelError(f"{f'{family.what}: ' if family else ''}{op} node {first.node!r} is not supported{count}: {first.reason}",
                      where=f"{file.path}: {op} node {first.node!r}", hint=hint)


def _together(verdicts: Sequence[Verdict], nodes: dict[str, onnx.NodeProto]) -> list[list[Verdict]]:
    """The unsupported nodes in groups, in the order of the file: of one group are nodes that read from each other, directly or by way of nodes
    that only move data or are part of others, or that blame each other. What follows a supported node is judged as if everything before it
    were there."""
    joined: dict[str, str] = {}                             # unsupported node -> one it hangs together with, or itself
    makers: dict[str, str] = {}                             # ONNX value -> unsupported node it comes from

    def root(name: str) -> str:
        while joined[name] != name:
            joined[name] = joined[joined[name]]             # shorter for the next one who asks
            name = joined[name]
        return name
    for verdict in verdicts:
        node = nodes.get(verdict.node, onnx.NodeProto())
        before = [makers[value] for value in node.input if value in makers]
        if verdict.status is Status.UNSUPPORTED:
            joined[verdict.node] = verdict.node
            before += [name for name in BLAMED.findall(verdict.reason) if name in joined] + [verdict.node]
        elif verdict.status not in (Status.FUSED, Status.FOLDED) or not before:
            continue
        for other in before:
            joined[root(other)] = root(before[-1])
        makers.update(dict.fromkeys(node.output, before[-1]))
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.node in joined:
            groups.setdefault(root(verdict.node), []).append(verdict)
    return list(groups.values())


def node_names(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Every node by the name it has in verdicts: its own, or its operator and first result where that is missing or taken."""
    names: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        names[node.name if node.name and node.name not in names else f"{node.op_type}:{next(iter(node.output), '')}"] = node
    return names


def _facts(file: OnnxFile) -> Facts:
    graph = file.proto.graph
    known = set(file.weights) | {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    leading, changed = set(file.inputs), set()
    for node in graph.node:
        if node.op_type in LEADING and not leading.isdisjoint(node.input) and all(name in leading or name in known for name in node.input):
            leading.update(node.output)
            changed.update(node.output)
    last = {output.name for output in graph.output}
    for node in reversed(graph.node):
        if node.op_type in PASSING and not last.isdisjoint(node.output):
            last.add(node.input[0])
    return Facts(tuple(file.inputs), frozenset(changed), frozenset(last), any(node.op_type in CHOICE for node in graph.node))


# ---------------------------------------------------------------- families

def _is_quantizer(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    kind = node.op_type
    return kind.startswith(("DynamicQuantize", "QLinear", "QEmbed", "QMoE", "QOrdered", "QGemm", "GatherBlockQuantized")) \
        or kind.endswith(("Integer", "NBits", "Bnb4"))


def _is_foreign(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    return node.domain.startswith("com.microsoft")


def _rearranges_input(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    moved = "in another order or in part" in verdict.reason or "which mixes tokens and channels" in verdict.reason
    return moved and any(f"reads {name!r} " in verdict.reason for name in facts.inputs)


def _changes_input(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    return not facts.leading.isdisjoint(node.output)


def _is_mask(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    return any(text in verdict.reason for text in ("an attention mask", "masks the scores", "is causal"))


def _is_last(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    return node.op_type in ("Softmax", "LogSoftmax", "Sigmoid", "ArgMax") and not facts.last.isdisjoint(node.output)


def _is_router(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    if any(words in verdict.reason for words in OF_EXPERTS):
        return True
    return facts.choice and node.op_type in ROUTER_PARTS and "attention" not in verdict.reason.replace("as part of an attention or", "")


def _is_pruning(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    return any(words in verdict.reason for words in OF_TOKENS)


def _is_shared(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    return facts.choice and GATE in verdict.reason


def _is_random(verdict: Verdict, node: onnx.NodeProto, facts: Facts) -> bool:
    return node.op_type in ("Dropout", "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial")


FAMILIES = (
    Family("the file is quantized by an operator that is not read",
           "quantize with QuantizeLinear and DequantizeLinear in pairs (onnxruntime: QuantFormat.QDQ), or give the float model", _is_quantizer),
    Family("the file went through an optimizer that uses operators of its own",
           "export without the optimizer (onnxruntime's: at most its level ORT_ENABLE_BASIC), or give the file from before it", _is_foreign),
    Family("the result depends on chance", "export in eval mode: model.eval() before torch.onnx.export", _is_random),
    Family("the input is rearranged before the network proper",
           "give images channels first, and cut them into patches by a convolution whose stride is its kernel, not by Reshape and Transpose",
           _rearranges_input),
    Family("the input is changed before the network proper (normalisation, type, layout)",
           "move it out: give images that are normalised already, float32 and channels first, and export the model without that step",
           _changes_input),
    Family("the network ends in a function that belongs on the host", "export the logits, and apply it to the outputs", _is_last),
    Family("the attention has a mask or a position bias",
           "export without it: a fixed sequence length, and every token sees every other one, "
           "those up to itself (causal), or those of a constant mask", _is_mask),
    Family("a shared expert beside the routed ones has a gate of its own",
           "leave out its gate and train on: a dense expert beside the routed ones is taken, its result added as it is", _is_shared),
    Family("a choice of tokens in a form that is not read",
           "tokens in front that are always kept, then those with the largest scores, are read; a score is what one Linear gives each token, or the "
           "mean over the heads of what one token pays attention to, or rises with it everywhere", _is_pruning),
    Family("a mixture of experts in a form that is not read", EXPERTS, _is_router),
)
