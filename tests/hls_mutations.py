"""Faults put into the kernels on purpose: (what, file, text, wrong text). Each must be seen by a comparison with the integer model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import shutil

from hwgen.paths import data_dir


@dataclass(frozen=True)
class Mutation:
    """One fault; ``kernel``: only the kernels' unit tests provoke it, no network of the quantizer does."""

    name: str
    file: str
    right: str
    wrong: str
    kernel: bool = False


MUTATIONS = (
    Mutation("rounding constant too small", "requantize.hpp", "(std::int64_t{1} << shift) >> 1;", "(std::int64_t{1} << shift) >> 2;"),
    Mutation("wrong shift", "softmax.hpp", "whole + 8", "whole + 7"),
    Mutation("missing saturation", "requantize.hpp", "x < -LIMIT ? -LIMIT", "x < -LIMIT - 1 ? -LIMIT - 1"),
    Mutation("exponential table off by one", "softmax.hpp", "EXP_P8[place &", "EXP_P8[(place + 1) &"),
    Mutation("GELU without interpolation", "function.hpp", "slope * rest", "slope * (beyond ? rest : 0)"),
    Mutation("swapped router scores", "router.hpp", "(t, chosen[i], shares[i], queues)", "(t, chosen[job.top_k - 1 - i], shares[i], queues)"),
    Mutation("the bias of the choice counts for the share", "router.hpp", "best[i] - bias[chosen[i]];", "best[i];"),
    Mutation("a bias for all experts", "engine.hpp", "half_of<Config::LANES>(word, c));", "half_of<Config::LANES>(word, 0));"),
    Mutation("shares of scores without their division", "router.hpp", "job.renormalize ? part", "!job.renormalize ? part"),
    Mutation("highest expert wins a tie", "router.hpp", "carry > best[i]", "carry >= best[i]", kernel=True),
    Mutation("stale weight tile", "linear.hpp", "half = 1 - half;", "half = n % 2;"),
    Mutation("stale column parameters", "linear.hpp", "acc[t], columns[n % 2]", "acc[t], columns[0]"),
    Mutation("weights of an idle expert stay in the stream", "linear.hpp", "(job.in_channels, job.out_channels, LANES); ++i",
             "(job.in_channels, job.out_channels, LANES) - 1; ++i"),
    Mutation("row maximum starts at 0", "attention.hpp", "slot.maximum = -32767;", "slot.maximum = 0;", kernel=True),
    Mutation("queries lie as far apart as keys", "attention.hpp", "word * job.query_rows + load", "word * job.key_rows + load", kernel=True),
    Mutation("values lie where keys do", "attention.hpp", "value_low = h * job.value_dim", "value_low = h * job.head_dim", kernel=True),
    Mutation("last key left out", "attention.hpp", "if (step < job.tokens) {", "if (step + 1 < job.tokens) {"),
    Mutation("a key behind the query counts for the maximum", "attention.hpp", "limited && step >= scored + job.limit)", "limited && step > scored + job.limit)",
             kernel=True),
    Mutation("a key behind the query is weighed", "attention.hpp", "step + QUERIES >= scored + job.limit)", "step + QUERIES > scored + job.limit)", kernel=True),
    Mutation("results of the first window", "engine.hpp", "s.dst + s.first_token", "s.dst"),
    Mutation("queries lie as close as those of a window", "attention.hpp", "word * job.query_rows + load", "word * job.queries + load"),
    Mutation("keys lie as close as those of a window", "attention.hpp", "(first + w) * job.key_rows + t", "(first + w) * job.tokens + t"),
    Mutation("values lie as close as those of a window", "attention.hpp", "(value_first + w) * job.key_rows + t", "(value_first + w) * job.tokens + t"),
    Mutation("a shorter sequence is streamed whole", "sequence.hpp", "(s.follows & FOLLOW_ROWS) != 0 ? length", "(s.follows & FOLLOW_ROWS) > 9 ? length"),
    Mutation("its keys are those of the longest", "sequence.hpp", "s.tokens = (s.follows & FOLLOW_TOKENS) != 0", "s.tokens = (s.follows & FOLLOW_TOKENS) > 9"),
    Mutation("the last token is that of the longest", "sequence.hpp", "(s.follows & FOLLOW_LAST) != 0)", "(s.follows & FOLLOW_LAST) > 9)"),
    Mutation("the last constant of a sequence is dropped", "patch_embed.hpp", "token < size.kept", "token + 1 < size.kept"),
    Mutation("a score is greater than itself", "pick.hpp", "other > own ||", "other >= own ||"),
    Mutation("weights of one head", "attended.hpp", "h == 0 ? part", "h != 9 ? part"),
    Mutation("another token looks", "attended.hpp", "word * job.query_rows + job.query]", "word * job.query_rows + job.query + 1]"),
    Mutation("tokens that are always kept are among those it looks at", "attended.hpp", "place = t - job.first", "place = t + 1 - job.first"),
    Mutation("numbers of tokens from 0 on", "pick.hpp", "(job.first + t);", "(t);"),
    Mutation("one token less is kept", "pick.hpp", "place < job.keep", "place + 1 < job.keep"),
    Mutation("rows that are not those of the list", "layer_norm.hpp", "to.listed ? kept[t]", "false ? kept[t]"),
    Mutation("epsilon left out", "layer_norm.hpp", "total[t] * total[t] + job.eps", "total[t] * total[t] + 1", kernel=True),
    Mutation("a mean taken off an RMS norm", "layer_norm.hpp", "job.rms ? 0 : sum", "sum"),
    Mutation("a channel of negative sign", "layer_norm.hpp", "turn ? ~word : word", "turn ? -word : word"),
    Mutation("a stream that starts is added to what was there", "layer_norm.hpp", "(to.fresh ? 0 : place)", "place"),
    Mutation("rows of another stream", "layer_norm.hpp", "residual[to.stream + w", "residual[job.src + w"),
    Mutation("high half counts too little", "linear.hpp", "sum * 256", "sum * 255"),
    Mutation("low half off by one", "types.hpp", "(word & 255) - 128", "(word & 255) - 127"),
    Mutation("bias of another head", "attention.hpp", "place = h * job.bias_keys + step", "place = step"),
    Mutation("turned the wrong way", "linear.hpp", "(c % 2 == 1 ? sine : -sine)", "(c % 2 == 1 ? -sine : sine)"),
    Mutation("operand of another token", "linear.hpp", "n * job.rows + t][c];", "n * job.rows][c];"),
    Mutation("product of two values in 16 bits", "linear.hpp", "saturate<8>(product)", "saturate<16>(product)"),
    Mutation("a gated expert's factor is of all tokens", "engine.hpp", "job.gather = layer < 2;", "job.gather = layer == 1;"),
    Mutation("a gated expert's factor lies elsewhere", "engine.hpp", "job.dst = s.operand;", "job.dst = s.operand + 1;"),
    Mutation("two layers of weights for gated experts", "engine.hpp", "(s.target == Target::MULTIPLIED ? 2U : 1U)", "1U"),
    Mutation("a norm turned the wrong way", "layer_norm.hpp", "(lane % 2 == 1 ? sine : -sine)", "(lane % 2 == 1 ? -sine : sine)"),
    Mutation("a head in other lanes", "layer_norm.hpp", "(lane + Config::LANES - first) %", "(lane + first) %"),
    Mutation("a head within one word", "layer_norm.hpp", "(lane < first ? tokens : 0U)", "0U * tokens"),
    Mutation("all heads at the first word", "layer_norm.hpp", "(to.first_token / Config::LANES + w)", "w"),
    Mutation("zeros of a low half", "linear.hpp", "none ? low_half(0) :", "none ? Act(0) :"),
    Mutation("a token where there is none", "linear.hpp", "(none ? Act(0) :", "(false ? Act(0) :"),
    Mutation("the tokens of the first tap for all", "linear.hpp", "first = chunk == 0 ? first + rows : first;", "first = chunk == 0 ? 0 * rows : first;"),
    Mutation("a list within one word", "linear.hpp", "numbers[i * (LANES / 2) + c] =", "numbers[c] ="),
    Mutation("a bias of mixed tokens in other units", "linear.hpp", "row == count ? 1 : 127)", "row == count ? 1 : 126)"),
    Mutation("mixed tokens of another output tile", "linear.hpp", "job.held + n * job.period + row", "job.held + n + row"),
    Mutation("rows of a value begin at the first one", "linear.hpp", "act[job.dst + word + (rotated ? t : row)][c]", "act[job.dst + word + t][c]"),
    Mutation("only the last token of a mean", "linear.hpp", "total[c] += acc[c];", "total[c] = acc[c];"),
    Mutation("a state that is read as it is, normalised", "layer_norm.hpp", "job.rescale ? scale_of(job.out)", "false ? scale_of(job.out)"),
    Mutation("a row divided by another sum", "attention.hpp", "slot.last_sum = slot.row_sum;", "slot.last_sum = slot.row_sum / 2;"),
    Mutation("class token overwritten", "linear.hpp", ": job.first_token + t;\n        switch", ": t;\n        switch"),
)


def kernels(folder: Path, mutation: Mutation) -> Path:
    """A copy of hls/ with the fault in it. Raises ValueError when the text to be changed is not there exactly once."""
    shutil.copytree(data_dir("hls"), folder)
    path = folder / "include" / "hwgen" / mutation.file
    text = path.read_text()
    if text.count(mutation.right) != 1:
        raise ValueError(f"{mutation.file} holds {mutation.right!r} {text.count(mutation.right)} times")
    path.write_text(text.replace(mutation.right, mutation.wrong))
    return folder
