"""Steps with addresses -> instructions: one loop, in which every record of a step names its own fields."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...engine import EngineConfig
from ...isa import ADDRESSES, Dst, Follow, Half, Instr, Op
from ...layout.image import columns_of
from ...layout.merge import Slot
from ...steps.format import WIDE
from ...steps.passes.lengths import last_token
from ...steps.passes.lists import row_words
from ...steps.passes.rotations import period
from ...steps.step import Step
from ...steps.taken import Kept, Taken
from ...steps.tensor import Memory, Plane, Span, Tensor, View

DESTINATION = {Memory.ACT: Dst.ACT, Memory.KV: Dst.KV, Memory.SCORE: Dst.SCORE, Memory.RES: Dst.RES_SET, Memory.ROUTER: Dst.ROUTER,
               Memory.OUT: Dst.OUT, Memory.OPERAND: Dst.OPERAND, Memory.LIST: Dst.OPERAND}


HALF = {None: Half.NONE, Plane.HIGH: Half.HIGH, Plane.LOW: Half.LOW}


def planes_of(tensor: Tensor) -> int:
    """Words a token's chunk takes: of 16 bits in the activation memory the high half, and the low one behind those of all tokens."""
    return len(Plane) if tensor.memory is Memory.ACT and tensor.format == WIDE else 1


@dataclass(frozen=True)
class Encoder:
    """bases: first word of every tensor that lies in a memory; rows: first row of the statistics of each residual stream."""

    config: EngineConfig
    bases: dict[Tensor, int]
    rows: dict[Tensor, int]

    def instruction(self, slot: Slot[Step], limits: tuple[int, int]) -> Instr:
        """limits: slack and load_slack (see `hazards`)."""
        step = slot.step
        fields: dict[str, int] = {"op": Op.MATMUL, "dst": DESTINATION[step.sink.tensor.memory], "tokens": step.tokens}
        fields |= step.feed.fields(step) | step.tile.fields(step)
        for stage in step.drain:
            fields |= stage.fields(step)
        fields |= {"wide": int(step.tile.multiplies and step.feed.format(step) == WIDE), "plane": HALF[step.plane]}
        fields |= self._tiles(step) | self._source(step) | self._target(step) | self._stationary(step)
        fields |= _followed(step)
        if step.taken is not None:
            fields |= self._list(step, step.taken, fields["k_tiles"])
        fields |= {"slack": limits[0], "load_slack": limits[1]}
        if step.expert is not None:
            fields["expert"] = step.expert.index
        for stage in step.drain:
            if stage.table is not None:
                fields["function"] = self.config.functions.index(stage.table)
            if stage.operand is not None:
                fields |= {"op_base": self.bases[stage.operand.tensor], "op_period": period(step, self.config.to)}
        if slot.task is not None:
            fields |= {"pred": 1, "task": slot.task}
        return Instr(**fields, note=step.note)

    def starts_at(self, step: Step) -> int:
        """Tokens that a sequence has at most when the engine passes over the step; 0: it never does."""
        fields = _followed(step)
        return fields.get("first", 0) if fields.get("follow") == Follow.ROWS else 0

    def _tiles(self, step: Step) -> dict[str, int]:
        """Output tiles, and the reduction tiles between the first and the last lane that streams."""
        ti, to = self.config.ti, self.config.to if step.tile.mixes else self.config.bypass_lanes
        width = columns_of(step)[1]
        n_tiles = -(-width // to)
        fields = {"n_tiles": n_tiles, "n_last": width - (n_tiles - 1) * to}
        if not step.tile.mixes:                 # a tile streams the channels that it gives
            fields |= {"k_tiles": 1, "k_hi": ti}
        elif step.tile.multiplies:
            first, last = step.source.position, step.source.position + step.source.width - 1
            taps = 1 if step.taken is None else step.taken.taps
            fields |= {"k_tiles": taps * (last // ti - first // ti + 1), "k_lo": first % ti, "k_hi": last % ti + 1}
        return fields

    def _word(self, view: View) -> int:
        """Of the view's first channel and token."""
        return self.bases[view.tensor] + view.position // self.config.ti * view.tensor.tokens * planes_of(view.tensor) + view.tokens.start

    def _source(self, step: Step) -> dict[str, int]:
        if step.source_view is None:
            return {}
        view = step.source
        if step.feed.gathers or step.taken is not None:      # queues and lists hold tokens of the whole tensor
            view = replace(view, tokens=Span(0, view.tensor.tokens))
        row = {}
        if view.tensor.memory is Memory.SCORE:
            row = {"src_row": step.half * self.config.max_tokens}
        elif view.tensor.memory is Memory.RES:
            row = {"src_row": self.rows[view.tensor] + view.tokens.start}
        return {"src_base": self._word(view), "src_stride": view.tensor.tokens, "step": view.tokens.step} | row

    def _target(self, step: Step) -> dict[str, int]:
        view, config = step.sink, self.config
        fields = {}
        match view.tensor.memory:
            case Memory.OUT:
                return {}
            case Memory.OPERAND:
                return {"op_base": self.bases[view.tensor]}
            case Memory.LIST:
                return {"op_base": self.bases[view.tensor], "list": int(step.feed.brings)}
            case Memory.ROUTER:
                fields = {"dst_row": view.tokens.start}
                if len(step.sinks) == 1:
                    return fields
                kept = step.sinks[1].tensor                     # words go where they came from: base + source word, modulo the addresses
                base = self.bases[kept] - self.bases[step.source.tensor] & ADDRESSES - 1
                return fields | {"keep": 1, "dst_base": base, "dst_stride": kept.tokens}
            case Memory.SCORE:
                fields = {"dst_row": step.half * config.max_tokens}
            case Memory.RES:
                fields = {"dst_row": self.rows[view.tensor] + view.tokens.start}
        low = view.tensor.tokens if step.plane is Plane.LOW else 0          # words behind the high half
        return fields | {"dst_base": self._word(view) + low, "dst_stride": view.tensor.tokens * planes_of(view.tensor),
                         "dst_group": view.position % config.ti // config.group}

    def _list(self, step: Step, taken: Taken | Kept, k_tiles: int) -> dict[str, int]:
        """Of the numbers of the tokens that stream."""
        if taken.place is None:
            raise ValueError(f"step {step.name!r} has no list in a memory")
        return {"list": 1, "stat_base": self.bases[taken.place.tensor] + taken.first, "stat_stride": row_words(taken, self.config.to),
                "stat_count": k_tiles // taken.taps}

    def _stationary(self, step: Step) -> dict[str, int]:
        view = step.tile.stationary
        if view is None:
            return {}
        group = view.position % self.config.ti // self.config.group if step.tile.by_rows else 0
        return {"stat_base": self._word(view), "stat_stride": view.tensor.tokens, "stat_group": group}


def _followed(step: Step) -> dict[str, int]:
    """What of the step a run says that has fewer tokens (`hwgen.isa.followed`). The words of the host and of constants come in full, and outputs
    of every token leave in full, so that they keep their places; an expert's are those of its queue, in which there are no others."""
    fields = {"keys_follow": 1} if step.tile.stationary is not None and step.tile.stationary.tensor.sequence else {}
    if step.expert is not None and step.expert.queue.tensor.sequence:
        return fields | {"follow": Follow.ROWS, "first": step.expert.queue.tokens.start}
    if step.source_view is None:
        return fields
    source, sink = step.source, step.sink
    if sink.tensor.sequence and sink.tensor.memory is Memory.OUT:
        return fields
    if sink.tensor.sequence:
        return fields | {"follow": Follow.ROWS, "first": sink.tokens.start}
    if not source.tensor.sequence:
        return fields
    if sink.tensor.tokens == 1 and source.tokens.count == 1:             # one token is chosen: the first is always there
        return fields | ({"follow": Follow.LAST, "first": source.tensor.tokens} if last_token(source) else {})
    return fields | {"follow": Follow.ROWS, "first": source.tokens.start}
