"""`OpGraph` -> graphs: tries the rules on every operator in order, then keeps what the outputs need.

Also the verdict on each ONNX node. An operator no rule takes gets an opaque result, so that what follows is judged too.
"""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, field
import heapq

from ..errors import HwgenError, ModelError, ShapeError
from ..graph import Array, Graph, Node
from ..matching.grid import Grid
from ..matching.opgraph import Const, Op, OpGraph, Pool, Ref, Trail, View
from ..matching.proof import Prover
from ..matching.region import behind, needed
from ..matching.trial import Bound, Match, Mismatch, Trial, order_of
from ..ops.operands import outgoing
from ..ops.registry import openers, parts, rules
from .apart import apart
from .verdict import Status, Verdict

# What a rule meets on operands of another rank or size than its operator takes; ONNX files are made by anyone.
UNREADABLE = (ValueError, LookupError, TypeError, ArithmeticError, AttributeError)


@dataclass(frozen=True, eq=False)
class Taken:
    """A match and what it used."""

    nodes: tuple[Node, ...]
    absorbed: frozenset[str]
    moved: frozenset[Trail | None]


@dataclass(frozen=True, eq=False)
class Swept:
    """graphs is empty when a node is unsupported, or with an ``error``. bound: what ONNX values are in them, in the order of the file.
    grids: their value -> what a quantized file rounds it to, for each operator that reads it."""

    graphs: tuple[Graph, ...]
    verdicts: tuple[Verdict, ...]
    error: HwgenError | None = None
    bound: dict[str, Bound] = field(default_factory=dict)
    grids: dict[str, tuple[Grid, ...]] = field(default_factory=dict)


def sweep_rules(graph: OpGraph, name: str | None, pool: Pool) -> Swept:
    """``name``: of the one graph (a task chosen by an input); None for one graph for each group of outputs."""
    return _Sweep(graph, pool).run(name)


class _Sweep:
    def __init__(self, graph: OpGraph, pool: Pool):
        self.graph, self.pool = graph, pool
        self.rules, self.parts = rules(), parts()
        self.bound = _Bindings({name: Bound(name, shape[1:], None) for name, shape in graph.inputs.items()})
        self.prover = Prover(graph, self.bound)
        self.shapes = {name: shape[1:] for name, shape in graph.inputs.items()}     # of ir values
        self.nodes: dict[str, Node] = {}                                          # ir value -> node, in order
        self.taken: dict[str, Taken] = {}
        self.declined: dict[str, str] = dict(graph.declined)                         # ONNX node -> reason
        self.opaque: set[str] = set()                                                # ONNX nodes given up
        self.ops = needed(graph)
        self.open = behind(self.ops, openers())                                     # ONNX nodes that are not given up before all is tried
        self.waiting: dict[str, set[int]] = {}                                      # value not bound yet -> operators that asked for it
        self.absorbed: set[str] = set()                                              # ONNX nodes that are part of a match
        self.explained: dict[str, str] = {}                                          # part that no rule took -> the declined node it is of
        self.error: HwgenError | None = None                                         # an output that cannot be one
        self.grids: dict[str, tuple[Grid, ...]] = {}
        self.orders: dict[str, Array] = {}                                     # of outputs, see `Graph.output_orders`
        self.lost: dict[str, str] = {}                                               # outputs that are no value of the network -> why

    def run(self, name: str | None) -> Swept:
        self._sweep(range(len(self.ops)))
        while gaps := [op for op in self.ops if self._is_gap(op)]:          # a second time only if a part was explained too early
            reasons = [op for op in gaps if op.name in self.declined]
            for op in (*reversed(reasons), *gaps):                          # what is around a part says more than the part
                if self._is_gap(op):
                    self._give_up(op)
                    self._sweep(self._asking(op))
            self.explained = self._explained()
        outputs = self._outputs()
        verdicts = self._verdicts(outputs)
        if any(verdict.status is Status.UNSUPPORTED for verdict in verdicts):
            return Swept((), verdicts)
        if self.error is not None:
            return Swept((), verdicts, self.error)
        self.nodes, bound, outputs, names = apart(self.nodes, self.bound, outputs)
        groups = [list(outputs)] if name is not None else self._groups(outputs)
        return Swept(tuple(self._graph(name or "+".join(group), {key: outputs[key] for key in group}) for group in groups),
                       verdicts, bound=bound, grids={names.get(value, value): grids for value, grids in self.grids.items()})

    # ---------------------------------------------------------------- the sweep

    def _sweep(self, places) -> None:
        """Try operators in order, and again each that asked for a value bound on the way. Every one asks for few: linear."""
        queue = sorted(places)
        queued = set(queue)
        while queue:
            place = heapq.heappop(queue)
            queued.discard(place)
            op = self.ops[place]
            if op.name in self.taken or op.name in self.opaque:
                continue
            self.bound.missed.clear()
            self._try(op)
            if op.name in self.taken or op.name in self.opaque:
                for other in self._asking(op) - queued:
                    heapq.heappush(queue, other)
                    queued.add(other)
            else:
                for value in self.bound.missed:
                    self.waiting.setdefault(value, set()).add(place)

    def _asking(self, op: Op) -> set[int]:
        """Places of the operators that asked for a result of this one, which is bound now."""
        return {place for output in op.outputs for place in self.waiting.pop(output, ())}

    def _try(self, op: Op) -> None:
        known = all(shape is not None for shape in op.shapes)
        for rule in self.rules.get(op.kind, ()) if known and op.name not in self.graph.declined else ():
            trial = Trial(op, self.graph, self.bound, self.pool, self.nodes)
            try:
                match = rule(op, trial)
                if match is not None:
                    self._take(op, trial, match)
                    return
            except Mismatch as mismatch:
                self.declined.setdefault(op.name, mismatch.reason)
            except ModelError as error:                              # an ir node whose shapes do not fit
                self.declined.setdefault(op.name, error.message)
            except UNREADABLE as error:
                self.declined.setdefault(op.name, f"has operands no rule can read: {error}")
        if op.name not in self.open and (op.name in self.declined or not known or op.kind not in self.rules and op.kind not in self.parts):
            self._give_up(op)

    def _unknown_shape(self, op: Op) -> str:
        for ref in op.inputs:
            part = self.graph.producers.get(ref.base) if isinstance(ref, View) else None
            if part is not None and part.name in self.opaque and any(shape is None for shape in part.shapes):
                return f"the shape of its result is not known, because that of {part.kind} node {part.name!r} is not"
        return f"the shape of its result is not known: operator {op.kind} is not supported"

    def _take(self, op: Op, trial: Trial, match: Match) -> None:
        """Keep a match; raises Mismatch or ModelError when its shapes do not fit, and keeps nothing then."""
        known = ChainMap(dict(trial.assumed), self.shapes)
        for node in (*trial.nodes, *match.nodes):
            known[node.output] = node.shape(*(known[value] for value in node.inputs))
        order = order_of(op, match, known[match.value])
        if not self.opaque and not trial.assumed and not match.proved:                    # a network with gaps is refused, whatever else is in it
            self.prover.prove(trial, match, order, known)
        self.shapes.update(known.maps[0])
        for new in (*trial.nodes, *match.nodes):
            self.nodes.setdefault(new.output, new)
        for name in (op.name, *trial.absorbed):
            self.declined.pop(name, None)
        last, waiting = (match.nodes[-1], ()) if match.of is None else (match.of.node, (*match.of.waiting, op.name))
        self.bound[op.outputs[0]] = Bound(match.value, self.shapes[match.value], last, match.factor, order, op.name, match.affine, waiting)
        self.taken[op.name] = Taken((*trial.nodes, *match.nodes), frozenset(trial.absorbed), frozenset(trial.moved))
        self.absorbed.update(trial.absorbed)
        self.opaque.difference_update(trial.absorbed)                # given up alone, it is part of something after all
        for value, grid in trial.grids:
            self.grids[value] = (*self.grids.get(value, ()), grid)

    def _give_up(self, op: Op) -> None:
        """Bind the results to nothing, so that what follows is judged as if they were there."""
        self.opaque.add(op.name)
        if any(shape is None for shape in op.shapes):
            self.declined.setdefault(op.name, self._unknown_shape(op))
        if op.name in self.declined:
            self._explain(op)
        for output, shape in zip(op.outputs, op.shapes, strict=False):
            if output and shape:
                self.shapes[output] = shape[1:] if shape[0] == 1 and len(shape) > 1 else shape
                self.bound[output] = Bound(output, self.shapes[output], None, anchor=op.name)

    def _is_gap(self, op: Op) -> bool:
        """Whether it is neither taken, nor absorbed, nor a part of one that was declined with a reason."""
        return not (op.name in self.taken or op.name in self.absorbed or op.name in self.opaque or op.name in self.explained)

    def _explain(self, declined: Op) -> None:
        """Note the parts of an operator that was just declined. Each is noted once."""
        stack = [declined]
        while stack:
            for ref in stack.pop().inputs:
                part = self.graph.producers.get(ref.base) if isinstance(ref, View) else None
                if part is not None and not (part.name in self.taken or part.name in self.opaque or part.name in self.explained):
                    self.explained[part.name] = declined.name
                    stack.append(part)

    def _explained(self) -> dict[str, str]:
        """ONNX nodes that no rule took because they belong to one that was declined -> that one."""
        found: dict[str, str] = {}
        for op in reversed(self.ops):
            owner = op.name if op.name in self.declined else found.get(op.name)
            if owner is None:
                continue
            for ref in op.inputs:
                part = self.graph.producers.get(ref.base) if isinstance(ref, View) else None
                if part is not None and part.name not in self.taken and part.name not in self.opaque:
                    found.setdefault(part.name, owner)
        return found

    # ---------------------------------------------------------------- outputs

    def _outputs(self) -> dict[str, str]:
        """ONNX output -> ir value."""
        values = {}
        for name, ref in self.graph.outputs.items():
            if isinstance(ref, Const):
                self.error = ModelError(f"output {name!r} is a constant: it does not depend on an input",
                                        hint="was the right part of the network exported?")
                continue
            if ref.shape[:1] != (1,):
                self.error = ShapeError(f"output {name!r} has the shape {list(ref.shape)}; the first dimension is the batch and "
                                        "must be 1", hint="keep the batch dimension in the outputs of the exported network").about(self._maker(ref))
            producer = self.graph.producers.get(ref.base)
            blamed = ref.trail.name if ref.trail else producer.name if producer is not None else ref.base
            trial = Trial(Op(blamed, "output", (ref,), (), {}, ()), self.graph, self.bound, self.pool, self.nodes)
            try:
                operand, order = outgoing(trial, ref)
            except Mismatch as mismatch:
                self.declined[blamed] = f"is the output {name!r}: it {mismatch.reason}"
                self.opaque.add(blamed)
                continue
            if operand is None:
                self.lost[name] = self._inside(ref)
            else:
                for node in trial.nodes:
                    self.shapes[node.output] = node.shape(*(self.shapes[value] for value in node.inputs))
                    self.nodes.setdefault(node.output, node)
                self.taken[f"output {name}"] = Taken(tuple(trial.nodes), frozenset(trial.absorbed), frozenset(trial.moved))
                values[name] = operand.value
                if order is not None:
                    self.orders[name] = order
        if self.lost:
            names, lost = ", ".join(map(repr, self.lost)), self._maker(self.graph.outputs[next(iter(self.lost))])
            self.error = ModelError(f"output {names} cannot be given: {'; '.join(dict.fromkeys(self.lost.values()))}",
                                    hint=f"remove {names} from the outputs before export").about(lost)
        return values

    def _maker(self, ref: Ref) -> str | None:
        """The node that gives a value, the last that moves it included."""
        producer = self.graph.producers.get(ref.base) if isinstance(ref, View) else None
        return ref.trail.name if isinstance(ref, View) and ref.trail else producer.name if producer else None

    def _inside(self, ref: View) -> str:
        """Why an ONNX value is no value of the network: it is inside of what a rule made of several nodes, or a further result of one."""
        producer = self.graph.producers.get(ref.base)
        if producer is None:
            return f"{ref.base!r} is not computed"
        owner = next((anchor for anchor, taken in self.taken.items() if producer.name in taken.absorbed and taken.nodes), None)
        if owner is None:
            return f"{producer.kind} node {producer.name!r} gives it beside its first result, and the hardware does not"
        return f"{producer.kind} node {producer.name!r} is computed inside the {type(self.taken[owner].nodes[-1]).__name__} of {owner!r}"

    def _cone(self, values) -> set[str]:
        """The ir values the given ones are computed from, themselves included."""
        found, waiting = set(), list(values)
        while waiting:
            value = waiting.pop()
            if value not in found:
                found.add(value)
                if value in self.nodes:
                    waiting.extend(self.nodes[value].inputs)
        return found

    def _groups(self, outputs: dict[str, str]) -> list[list[str]]:
        """Outputs of one trunk form one graph: the attentions, experts and residual sums of one are those of the other."""
        trunks: list[set[str]] = []
        groups: list[list[str]] = []
        for name, value in outputs.items():
            trunk = {v for v in self._cone([value]) if v in self.nodes and self.nodes[v].TRUNK}
            for place, other in enumerate(trunks):
                if trunk <= other or other <= trunk:
                    groups[place].append(name)
                    trunks[place] = trunk | other
                    break
            else:
                groups.append([name])
                trunks.append(trunk)
        return groups

    def _graph(self, name: str, outputs: dict[str, str]) -> Graph:
        cone = self._cone(outputs.values())
        return Graph(name, {key: shape[1:] for key, shape in self.graph.inputs.items()},
                        tuple(node for value, node in self.nodes.items() if value in cone), outputs,
                        {key: self.graph.outputs[key].shape for key in outputs}, {key: self.orders[key] for key in outputs if key in self.orders})

    # ---------------------------------------------------------------- verdicts

    def _verdicts(self, outputs: dict[str, str]) -> tuple[Verdict, ...]:
        explained = self._explained()
        live = self._live(outputs)
        computing: dict[str, set[str]] = {}
        fused: dict[str, str] = {}
        walked, readers = _Walked(), _Walked()
        waiting = {name: bound.node.name for bound in self.bound.values() if bound.node is not None for name in bound.waiting}
        for anchor, taken in live.items():
            for node in taken.nodes:
                computing.setdefault(node.name, set()).add(type(node).__name__)
            for part in taken.absorbed:
                fused.setdefault(part, anchor)
            walked.add(taken.moved, anchor)
        for op in self.ops:
            readers.add((ref.trail for ref in op.inputs if isinstance(ref, View)), op.name)
        verdicts = []
        for name, kind in self.graph.kinds.items():
            if name in self.graph.folded:
                verdict = Verdict(name, kind, Status.FOLDED, reason=self.graph.folded[name])
            elif name in self.opaque:
                reason = self.declined.get(name) or (f"is only supported as part of {self.parts[kind]}" if kind in self.parts else
                                                     f"operator {kind} is not supported")
                verdict = Verdict(name, kind, Status.UNSUPPORTED, reason=reason)
            elif name in explained:
                owner = explained[name]
                verdict = Verdict(name, kind, Status.UNSUPPORTED, reason=f"belongs to {owner!r}, which {self.declined[owner]}")
            elif name in computing:
                verdict = Verdict(name, kind, Status.SUPPORTED, into=", ".join(sorted(computing[name])))
            elif into := fused.get(name) or walked.found.get(name) or readers.found.get(name) or waiting.get(name):
                verdict = Verdict(name, kind, Status.FUSED, into=into)
            else:
                verdict = Verdict(name, kind, Status.FOLDED, reason="its result is not used")
            verdicts.append(verdict)
        return tuple(verdict for verdict in verdicts if verdict.node not in self.graph.added or verdict.node in self.opaque)

    def _live(self, outputs: dict[str, str]) -> dict[str, Taken]:
        """The matches whose nodes are needed, and those that became part of them; all that stand alone if a node is opaque."""
        if self.opaque:
            absorbed = {name for taken in self.taken.values() for name in taken.absorbed}
            live = {name: taken for name, taken in self.taken.items() if name not in absorbed}
        else:
            cone = self._cone(outputs.values())
            live = {name: taken for name, taken in self.taken.items()
                    if name.startswith("output ") or any(node.output in cone for node in taken.nodes[-1:])}
        parts = {}
        waiting = list(live.values())
        while waiting:
            for name in waiting.pop().absorbed:
                if name in self.taken and name not in live and name not in parts:
                    old = self.taken[name]
                    parts[name] = Taken((), old.absorbed, old.moved)
                    waiting.append(old)
        return live | parts


class _Walked:
    """``found``: ONNX node of a chain -> the first owner of a chain with it. What chains share is walked once."""

    def __init__(self):
        self.found: dict[str, str] = {}
        self._seen: set[Trail] = set()

    def add(self, trails, owner: str) -> None:
        for trail in trails:
            while trail is not None and trail not in self._seen:
                self._seen.add(trail)
                self.found.setdefault(trail.name, owner)
                trail = trail.before


class _Bindings(dict):
    """ONNX value -> what it is in the ir. ``missed``: values that were asked for and are not there."""

    def __init__(self, *args):
        super().__init__(*args)
        self.missed: set[str] = set()

    def __contains__(self, value) -> bool:
        found = super().__contains__(value)
        if not found:
            self.missed.add(value)
        return found

    def get(self, value, default=None):
        return super().get(value, default) if value in self else default
