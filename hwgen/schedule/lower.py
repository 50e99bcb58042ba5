"""Integer graph of one task -> steps in program order. One method a node; the order inside attention and MoE hides latency."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .. import numerics
from ..errors import CapacityError, ModelError
from ..engine import OUT_WORDS
from ..isa import Dst, Instr, Op, Src, Stat
from ..qir import (QAttention, QGraph, QHead, QLinear, QMoE, QNorm, QPatches, QResidualInit, QResidualLinear, Weights)
from .ablation import Ablation
from .steps import ACT, KV, RES, ROUTER, SCORE, Buffer, HeadMap, Operand, Place, Step

KEYS, VALUES, DATA = "keys", "values", "data"
SCORE_WORDS = 4096       # words of a score buffer; longer sequences are worked on in blocks of queries
MIN_BLOCK = 64           # queries of a block: fewer would wait for the keys to be loaded again


class Lowering:
    """``ti``, ``to``: array rows and columns; ``group``: lanes of a memory bank; ``batch``: images of a frame, one after the other in
    the token dimension; ``score_words``: words a score buffer may take before its queries are split into blocks; ``ablation``: what to do
    without; ``taps``: every int8 value also leaves the engine, for comparison (one image a frame)."""

    def __init__(self, graph: QGraph, ti: int, to: int, group: int, batch: int = 1, score_words: int = SCORE_WORDS,
                 ablation: Ablation = Ablation(), taps: bool = False):
        self.graph, self.ti, self.to, self.group, self.batch, self.score_words = graph, ti, to, group, batch, score_words
        self.ablation, self.taps = ablation, taps
        self.steps: list[Step] = []
        self.buffers: dict[tuple[str, str], tuple[Buffer, np.ndarray]] = {}     # (value, role) -> buffer, channel positions
        self.norms: dict[str, QNorm] = {}
        self.counter = 0
        self.uses = self._uses()

    def run(self) -> list[Step]:
        rules = {QPatches: self._patches, QResidualInit: self._init, QNorm: self._norm, QLinear: self._linear,
                 QResidualLinear: self._residual_linear, QAttention: self._attention, QMoE: self._moe, QHead: self._head}
        nodes, index = self.graph.nodes, 0
        while index < len(nodes):
            group = self._attention_inputs(index)               # K, Q, V in this order before their attention
            for node in group or (nodes[index],):
                rules[type(node)](node)
                if self.taps and isinstance(node, (QPatches, QNorm, QLinear, QAttention)):
                    self._tap(node)
            index += len(group) or 1
        return self.steps

    # ---------------------------------------------------------------- helpers

    def _uses(self) -> dict[str, dict[str, HeadMap | None]]:
        """Value -> the roles it is read in; VALUES and the results of attention carry the padding of their heads."""
        uses: dict[str, dict[str, HeadMap | None]] = {}
        for node in self.graph.nodes:
            match node:
                case QAttention():
                    heads = HeadMap(node.num_heads, self.graph.shapes[node.q][1] // node.num_heads, self.group)
                    uses.setdefault(node.q, {})[DATA] = None
                    uses.setdefault(node.k, {})[KEYS] = None
                    uses.setdefault(node.v, {})[VALUES] = heads
                case QLinear() | QResidualLinear() | QHead() | QMoE():
                    uses.setdefault(node.x, {})[DATA] = None
        if self.taps:                               # a tap reads the activation memory
            for roles in uses.values():
                roles[DATA] = None
        return uses

    def _attention_inputs(self, index: int) -> tuple[QLinear, ...]:
        """The linears at ``index``.. that give k, q and v of one attention, reordered, or () if that is not what is here."""
        nodes = self.graph.nodes[index:index + 4]
        if len(nodes) < 4 or not isinstance(nodes[3], QAttention) or not all(isinstance(n, QLinear) for n in nodes[:3]):
            return ()
        by_value = {n.output: n for n in nodes[:3]}
        wanted = (nodes[3].k, nodes[3].q, nodes[3].v)
        return tuple(by_value[v] for v in wanted) if set(by_value) == set(wanted) else ()

    def _new(self, memory: str, tokens: int, channels: int, parity: int = 0) -> Buffer:
        self.counter += 1
        return Buffer(f"{memory}{self.counter}", memory, tokens, channels, parity)

    def _define(self, value: str, role: str, memory: str, tokens: int, channels: int, heads: HeadMap | None) -> Buffer:
        positions = heads.positions if heads else np.arange(channels)
        buffer = self._new(memory, tokens, heads.heads * heads.pitch if heads else channels)
        self.buffers[value, role] = buffer, positions
        return buffer

    def _shape(self, value: str) -> tuple[int, int]:
        """(tokens of all images, channels)."""
        tokens, channels = self.graph.shapes[value]
        return self.batch * tokens, channels

    def _residual(self) -> Buffer:
        tokens, dim = next(self._shape(n.output) for n in self.graph.nodes if isinstance(n, QResidualInit))
        return Buffer(RES, RES, tokens, dim)

    def _embedding(self) -> QResidualLinear:
        """The patch embedding: the first that adds to the residual stream."""
        return next(n for n in self.graph.nodes if isinstance(n, QResidualLinear))

    def _tiles(self, count: int, lanes: int) -> tuple[int, int]:
        """Number of tiles and valid lanes of the last one."""
        tiles = -(-count // lanes)
        return tiles, count - (tiles - 1) * lanes

    def _source(self, value: str, first_token: int = 0) -> tuple[dict, Place, tuple[str, ...], np.ndarray]:
        """Instruction fields, place, what it waits for, and row positions of an int8 operand."""
        if value in self.norms:
            norm = self.norms[value]
            k_tiles, k_hi = self._tiles(norm.dim, self.ti)
            fields = dict(src=Src.NORM, k_tiles=k_tiles, k_hi=k_hi, norm_dim=norm.dim, norm_eps=norm.eps, inv_mult=norm.inv_mult,
                          inv_shift=norm.inv_shift, norm_mult=norm.mult, norm_shift=norm.shift, src_row=first_token)
            return fields, Place(self._residual(), 0, first_token), (RES,), np.arange(norm.dim)
        if (value, DATA) not in self.buffers:
            raise ModelError(f"value {value!r} is not in the activation memory", where=f"graph {self.graph.name!r}",
                             hint="each block may read the newest residual value and what it computes itself; cut the network there")
        buffer, rows = self.buffers[value, DATA]
        k_tiles, k_hi = self._tiles(buffer.channels, self.ti)
        return dict(src=Src.ACT, k_tiles=k_tiles, k_hi=k_hi), Place(buffer, 0, first_token), (buffer.name,), rows

    def _matmul(self, w: Weights, source, channels: int, **fields) -> Instr:
        n_tiles, n_last = self._tiles(channels, self.to)
        return Instr(op=Op.MATMUL, stat=Stat.WEIGHTS, column_params=1, n_tiles=n_tiles, n_last=n_last, w4=int(w.bits == 4),
                     **source[0], **fields)

    # ---------------------------------------------------------------- nodes

    def _patches(self, node: QPatches) -> None:
        tokens, channels = self.graph.shapes[node.output]
        if self.batch > 1:                          # rows of zeros in front of each image's patches, one a class token
            tokens = self.batch * (tokens + self._embedding().first_token)
        buffer = self._define(node.output, DATA, ACT, tokens, channels, None)
        n_tiles, n_last = self._tiles(channels, self.to)
        self.steps.append(Step(Instr(op=Op.STREAM, src=Src.ACT, dst=Dst.ACT, tokens=tokens, n_tiles=n_tiles, n_last=n_last,
                                     note=f"input {node.input}"), target=Place(buffer), writes=(buffer.name,), node=node.name))

    def _init(self, node: QResidualInit) -> None:
        table = node.table
        if self.batch > 1:
            table = np.tile(self._without_bias(table), (self.batch, 1))
        tokens, dim = table.shape
        n_tiles, n_last = self._tiles(dim, self.to)
        self.steps.append(Step(Instr(op=Op.STREAM, src=Src.NORM, dst=Dst.RES_SET, tokens=tokens, n_tiles=n_tiles, n_last=n_last,
                                     note=f"{node.name}: residual start"), target=Place(self._residual()), constant=table,
                               writes=(RES,), node=node.name))

    def _without_bias(self, table: np.ndarray) -> np.ndarray:
        """The table less what the embedding of a row of zeros adds to the class tokens, so that they come out as they should."""
        embed = self._embedding()
        added = numerics.requantize(embed.w.bias, embed.w.mult, embed.w.shift, 16)
        changed = table.astype(np.int64)
        changed[:embed.first_token] -= added
        if np.abs(changed).max() > 32767:
            raise CapacityError("the class token less the embedding's bias leaves the 16-bit range, a batch cannot be made",
                                where=f"QResidualLinear node {embed.name!r}", hint="compile without --batch")
        return changed.astype(np.int16)

    def _norm(self, node: QNorm) -> None:
        self.norms[node.output] = node

    def _linear(self, node: QLinear) -> None:
        tokens, channels = self._shape(node.output)
        source = self._source(node.x)
        for role, heads in self.uses.get(node.output, {}).items():
            buffer = self._define(node.output, role, ACT if role == DATA else KV, tokens, channels, heads)
            positions = self.buffers[node.output, role][1]
            fields = dict(act=1, to16=1, mult2=node.act.mult, shift2=node.act.shift) if node.act else {}
            instr = self._matmul(node.w, source, buffer.channels, tokens=tokens, note=node.name,
                                 dst=Dst.ACT if role == DATA else Dst.KV, **fields)
            self.steps.append(Step(instr, source[1], Place(buffer), operand=Operand(node.w, source[3], positions), reads=source[2],
                                   writes=(buffer.name,), macs=tokens * node.w.weight.size, node=node.name))

    def _residual_linear(self, node: QResidualLinear) -> None:
        useful, _ = self._shape(node.x)
        first = node.first_token if self.batch == 1 else 0
        tokens = useful + (node.first_token - first) * self.batch
        source = self._source(node.x)
        dim = node.w.weight.shape[1]
        instr = self._matmul(node.w, source, dim, tokens=tokens, dst=Dst.RES_ADD, to16=1, dst_row=first,
                             note=node.name)
        self.steps.append(Step(instr, source[1], Place(self._residual(), 0, first), reads=source[2], writes=(RES,),
                               operand=Operand(node.w, source[3], np.arange(dim)), macs=useful * node.w.weight.size, node=node.name))

    def _attention(self, node: QAttention) -> None:
        tokens, channels = self.graph.shapes[node.q]
        keys = self.graph.shapes[node.k][0]
        dim = channels // node.num_heads
        heads = HeadMap(node.num_heads, dim, self.group)
        q, k, v = self.buffers[node.q, DATA][0], self.buffers[node.k, KEYS][0], self.buffers[node.v, VALUES][0]
        roles = self.uses.get(node.output, {DATA: None})
        if set(roles) != {DATA}:
            raise ModelError("its result is used as keys or values of another attention without a Linear in between",
                             where=f"QAttention node {node.name!r}")
        out = self._define(node.output, DATA, ACT, self.batch * tokens, channels, heads)
        block = self._query_block(tokens, keys)
        units = [(image, h, first, min(block, tokens - first)) for image in range(self.batch) for h in range(node.num_heads)
                 for first in range(0, tokens, block)]
        scores = [self._new(SCORE, block, keys, parity) for parity in range(min(2, len(units)))]
        n_tiles, n_last = self._tiles(keys, self.to)
        v_tiles, v_last = self._tiles(dim, self.to)
        p_tiles, p_hi = self._tiles(keys, self.ti)

        def label(unit):
            image, h, first, count = unit
            return f"{f'image {image}, ' if self.batch > 1 else ''}head {h}" + (f", queries {first}.." if count < tokens else "")

        def score(i):
            image, h, query, count = units[i]
            first, last = h * dim // self.ti, (h * dim + dim - 1) // self.ti
            buffer = scores[i % 2]
            instr = Instr(op=Op.MATMUL, src=Src.ACT, stat=Stat.K_COLUMNS, dst=Dst.SCORE, to16=1, tokens=count,
                          k_tiles=last - first + 1, k_lo=h * dim % self.ti, k_hi=(h * dim + dim - 1) % self.ti + 1, n_tiles=n_tiles,
                          n_last=n_last, stat_count=keys, mult=node.score_mult, shift=node.score_shift,
                          note=f"{node.name}: Q K, {label(units[i])}")
            self.steps.append(Step(instr, Place(q, first * self.ti, image * tokens + query), Place(buffer),
                                   Place(k, first * self.ti, image * keys), reads=(q.name,), loads=(k.name,), writes=(buffer.name,),
                                   macs=count * keys * dim, node=node.name))

        def weigh(i):
            image, h, query, count = units[i]
            buffer, position = scores[i % 2], h * heads.pitch
            instr = Instr(op=Op.MATMUL, src=Src.EXP, stat=Stat.V_ROWS, dst=Dst.ACT, row_scale=1, tokens=count, k_tiles=p_tiles,
                          k_hi=p_hi, n_tiles=v_tiles, n_last=v_last, stat_count=keys, mult=node.out_mult, shift=node.out_shift,
                          note=f"{node.name}: P V, {label(units[i])}")
            self.steps.append(Step(instr, Place(buffer), Place(out, position, image * tokens + query), Place(v, position, image * keys),
                                   reads=(buffer.name,), loads=(v.name,), writes=(out.name,), macs=count * keys * dim, node=node.name))

        score(0)                                    # scores run one unit ahead of P V: neither waits for the other
        for i in range(len(units)):
            if i + 1 < len(units):
                score(i + 1)
            weigh(i)

    def _query_block(self, tokens: int, keys: int) -> int:
        """Queries worked on at a time: all, or as many as keep a score buffer within ``score_words``, in equal blocks."""
        most = self.ablation.query_block or max(MIN_BLOCK, self.score_words // -(-keys // self.ti))
        return -(-tokens // -(-tokens // most))

    def _moe(self, node: QMoE) -> None:
        tokens, _ = self._shape(node.x)
        experts = len(node.first)
        if experts > self.to:
            raise CapacityError(f"{experts} experts, but a router row is one output tile of {self.to} lanes",
                                where=f"QMoE node {node.name!r}", hint="choose a larger array with --array")
        if node.x in self.norms:                    # the experts change the residual stream under the norm: keep its result
            x, rows = self._new(ACT, tokens, self.norms[node.x].dim), np.arange(self.norms[node.x].dim)
        else:
            x, rows = self.buffers[node.x, DATA]
        block = self.ablation.moe_block or tokens
        for start in range(0, tokens, block):
            self._gate(node, x, start, min(block, tokens - start))
            self._experts(node, x, rows, min(block, tokens - start))

    def _gate(self, node: QMoE, x: Buffer, start: int, tokens: int) -> None:
        """The router's queues for ``tokens`` tokens from ``start`` on; ``x`` gets them normalised if they are not there already."""
        experts, source = len(node.first), self._source(node.x, start)
        gate = self._matmul(node.gate, source, experts, tokens=tokens, dst=Dst.ROUTER, to16=1, dst_row=start,
                            top_k=node.top_k, num_experts=experts, renorm=int(node.renormalize), note=f"{node.name}: gate")
        target, writes = None, (ROUTER,)
        if node.x in self.norms:
            gate, target, writes = replace(gate, keep=1), Place(x), (ROUTER, x.name)
        self.steps.append(Step(gate, source[1], target, operand=Operand(node.gate, source[3], np.arange(experts)), reads=source[2],
                               writes=writes, macs=tokens * node.gate.weight.size, node=node.name))

    def _experts(self, node: QMoE, x: Buffer, rows: np.ndarray, tokens: int) -> None:
        """Expert by expert: its tokens are gathered from ``x``, its results added to the residual stream, weighed by the scores."""
        experts = len(node.first)
        hidden = [self._new(ACT, tokens, max(w.weight.shape[1] for w in node.first)) for _ in range(min(2, experts))]
        residual = self._residual()
        k_tiles, k_hi = self._tiles(x.channels, self.ti)
        expected = -(-tokens * node.top_k // experts)

        def first(e):
            w, buffer = node.first[e], hidden[e % 2]
            channels = w.weight.shape[1]
            n_tiles, n_last = self._tiles(channels, self.to)
            instr = Instr(op=Op.MATMUL, src=Src.ACT, stat=Stat.WEIGHTS, column_params=1, dst=Dst.ACT, gather=1, act=1, to16=1, w4=int(w.bits == 4),
                          expert=e, tokens=tokens, k_tiles=k_tiles, k_hi=k_hi, n_tiles=n_tiles, n_last=n_last, mult2=node.act.mult,
                          shift2=node.act.shift, note=f"{node.name}: expert {e}, layer 1")
            self.steps.append(Step(instr, Place(x), Place(buffer), operand=Operand(w, rows, np.arange(channels)),
                                   reads=(x.name, ROUTER), writes=(buffer.name,), node=node.name,
                                   rows=expected, macs=tokens * node.top_k * w.weight.size // experts))

        def second(e):
            w, buffer = node.second[e], hidden[e % 2]
            h_tiles, h_hi = self._tiles(w.weight.shape[0], self.ti)
            n_tiles, n_last = self._tiles(w.weight.shape[1], self.to)
            instr = Instr(op=Op.MATMUL, src=Src.ACT, stat=Stat.WEIGHTS, column_params=1, dst=Dst.RES_ADD, scatter=1, to16=1, w4=int(w.bits == 4),
                          expert=e, tokens=tokens, k_tiles=h_tiles, k_hi=h_hi, n_tiles=n_tiles, n_last=n_last,
                          note=f"{node.name}: expert {e}, layer 2")
            self.steps.append(Step(instr, Place(buffer), Place(residual), reads=(buffer.name, ROUTER), writes=(RES,),
                                   operand=Operand(w, np.arange(w.weight.shape[0]), np.arange(w.weight.shape[1])), node=node.name,
                                   rows=expected, macs=tokens * node.top_k * w.weight.size // experts))

        first(0)                                    # layer 1 runs one expert ahead
        for e in range(experts):
            if e + 1 < experts:
                first(e + 1)
            second(e)

    def _tap(self, node) -> None:
        """Read a value through an identity matrix, as many tokens at a time as the output queue holds."""
        tokens, channels = self.graph.shapes[node.output]
        identity = Weights(np.eye(channels, dtype=np.int8), np.zeros(channels, np.int32), np.full(channels, 1 << 15),
                           np.full(channels, 15), np.ones(channels))
        for first in range(0, tokens, OUT_WORDS):
            source = self._source(node.output, first)
            instr = self._matmul(identity, source, channels, dst=Dst.OUT,
                                 tokens=min(OUT_WORDS, tokens - first), note=f"{node.name}: tap")
            self.steps.append(Step(instr, source[1], operand=Operand(identity, source[3], np.arange(channels)), reads=source[2],
                                   node=node.name, tap=(node.output, first, channels)))

    def _head(self, node: QHead) -> None:
        start, stop = node.tokens
        tokens = self.graph.shapes[node.x][0]
        channels = node.w.weight.shape[1]
        one = stop - start == 1                     # one token an image: all images in one instruction, a word each
        for image in range(1 if one else self.batch):
            source = self._source(node.x, image * tokens + start)
            fields = dict(tokens=self.batch, step=tokens) if one and self.batch > 1 else dict(tokens=stop - start, mean=1)
            instr = self._matmul(node.w, source, channels, dst=Dst.OUT,
                                 note=f"{node.name}: output {node.onnx_name}", **fields)
            self.steps.append(Step(instr, source[1], operand=Operand(node.w, source[3], np.arange(channels)), reads=source[2],
                                   macs=(stop - start) * node.w.weight.size * (self.batch if one else 1), node=node.name,
                                   output=(node.onnx_name, channels)))
