"""Forms of networks, by group, as ONNX files: what docs/reference/models.md says of each is what the compiler says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from onnx import TensorProto

import bert_nets
from conv_nets import pooled, reduced, stem, tokens
import decoder_nets
import early_nets
from gate_nets import CONDITIONED, task_gate
import gated_nets
import masked_nets
from mixer_nets import MIXINGS, mixer
from moe_gated import GATED, OTHERS as GATED_OTHERS
from moe_loops import LOOPS
from moe_sigmoids import BIASED, PLAIN, SHARED
from moe_spellings import SPELLINGS, TOP_1
import norm_nets
from onnx_nets import CLASSES, DIM, Net, result, vit
import pooled_nets
import prune_nets
import quantized_nets
import rotary_nets
from soft_nets import SOFT
import swin_nets
import test_host_parts as hosted
from test_importer_mixtures import network

Form = Callable[[Path], Path]


def net(folder: Path, **options) -> Path:
    made = vit(**options)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, CLASSES])


def mixture(folder: Path, spelling, renormalize: bool, k: int) -> Path:
    made = network(spelling, renormalize, k)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, CLASSES])


def task_gated(folder: Path, spelling) -> Path:
    made, outputs = task_gate(spelling)
    return made.save(folder / "net.onnx", outputs, [1, CLASSES])


def mixing(folder: Path, spelling) -> Path:
    made, outputs = mixer(spelling, depth=1)
    return made.save(folder / "net.onnx", outputs, [1, CLASSES])


def pooling(folder: Path, spelling: str, queries: int) -> Path:
    chosen = pooled_nets.SPELLINGS.get(spelling) or pooled_nets.OF_TOKENS[spelling][0]
    made = pooled_nets.pooled(Net(pooled_nets.opset(chosen)), chosen, queries)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, CLASSES])


def normed(folder: Path, **options) -> Path:
    made, outputs = norm_nets.encoder(**options)
    return made.save(folder / "net.onnx", outputs, [1, norm_nets.CLASSES])


def masked(folder: Path, spelling: str) -> Path:
    made = Net()
    masked_nets.attention(made, masked_nets.CAUSAL[spelling])
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, masked_nets.COUNT, DIM])


def padded(folder: Path, end: str, spelling: str, kind: int = TensorProto.INT64) -> Path:
    made, sizes = bert_nets.bert(end=end, spelling=spelling, kind=kind), bert_nets.Sizes()
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, sizes.tokens, sizes.dim] if end == "all" else [1, sizes.dim])


def first_layer(folder: Path, size: tuple[int, ...], kernel: tuple[int, ...], places: int, **attrs) -> Path:
    """A convolution, a norm, a Linear on each token. size: of the input, channels first."""
    made = Net()
    y = made.op("Conv", made.input("x", [1, *size]), made.random(DIM, size[0], *kernel), made.random(DIM), **attrs)
    tokens = made.op("Transpose", made.op("Reshape", y, made.ints(1, DIM, -1)), perm=[0, 2, 1])
    made.op("MatMul", made.op("LayerNormalization", tokens, made.random(DIM), made.random(DIM)), made.random(DIM, CLASSES))
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, places, CLASSES])


def convolved(folder: Path, build: Callable[[Net], str]) -> Path:
    made = Net()
    made.head(made.norm(build(made)), pool="mean")
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, CLASSES])


def gate(folder: Path, **options) -> Path:
    made = gated_nets.gated(**options)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, CLASSES])


def turned(folder: Path, turn: str, **options) -> Path:
    made = rotary_nets.attention(rotary_nets.TURNS[turn], **options)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, rotary_nets.TOKENS, rotary_nets.DIM])


def windowed(folder: Path, **options) -> Path:
    made = swin_nets.swin(**options)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, "tokens", 3])


def routed_early(folder: Path, build: Callable[[Net], str]) -> Path:
    made = early_nets.network(build)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, CLASSES])


def pruning(folder: Path, spelling: Callable[[Net, str, str], str]) -> Path:
    made = prune_nets.network(spelling)
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, CLASSES])


def added(folder: Path, name: str) -> Path:
    made = Net()
    masked_nets.attention(made, masked_nets.ADDED[name])
    return made.save(folder / "net.onnx", {"y": result(made)}, [1, masked_nets.COUNT, DIM])


ACTIVATIONS = ("Gelu", "erf", "tanh pow", "silu", "quick gelu", "Relu", "HardSwish", "Mish", "Elu", "LeakyRelu", "Softplus", "Sigmoid", "Tanh")
FORMS: dict[str, dict[str, Form]] = {
    "Attention": {
        "q, k, v of one Linear, taken by Slice": partial(net), "by Split": partial(net, split="split"), "by Gather": partial(net, split="gather"),
        "by Split before the heads": partial(net, split="chunk"), "three Linears": partial(net, split="separate"),
        "scale on q and on k": partial(net, scale="halves"), "the operator Attention": partial(net, opset=23, scale="operator"),
        "guarded against NaN": partial(net, guard=True)},
    "Attention pooling with learned queries": {
        "timm's AttentionPoolLatent": partial(pooling, spelling="timm", queries=1), "four latents": partial(pooling, spelling="timm", queries=4),
        "a probe of nn.MultiheadAttention (SigLIP)": partial(pooling, spelling="torch", queries=1),
        "the operator Attention with a constant query": partial(pooling, spelling="operator", queries=1),
        "Einsum": partial(pooling, spelling="einsum", queries=2),
        "a Linear weighs the tokens (SeqPool)": partial(pooling, spelling="SeqPool", queries=1),
        "the sum of tokens times such weights": partial(pooling, spelling="a weighted sum", queries=1)},
    "Rotary position embeddings": {
        **{name: partial(turned, turn=name) for name in rotary_nets.TURNS},
        "in two dimensions": partial(turned, turn="interleaved (EVA-02, GPT-J)", given=rotary_nets.two_dimensions),
        "behind an RMSNorm of each head (Qwen3)": partial(turned, turn="rotate half (GPT-NeoX, Llama)", normed=True),
        "behind an RMSNorm of each head, a part of it": partial(turned, turn="rotate half (GPT-NeoX, Llama)", normed=True, part=4),
        "a part of each head": partial(turned, turn="rotate half (GPT-NeoX, Llama)", part=4)},
    "Constants added to the scores": {name: partial(added, name=name) for name in masked_nets.ADDED},
    "Sequences of several lengths, by their mask": {
        "BERT, all tokens": partial(padded, end="all", spelling="transformers"), "BERT, first token": partial(padded, end="first", spelling="filled"),
        "sentence-transformers: mean of what is shown": partial(padded, end="mean", spelling="transformers"),
        "src_key_padding_mask, true where hidden": partial(padded, end="all", spelling="key padding", kind=TensorProto.BOOL),
        "floating point": partial(padded, end="all", spelling="transformers", kind=TensorProto.FLOAT),
        "a number for each key, which is no mask": partial(padded, end="all", spelling="a number")},
    "Attention to a second input": {
        "nn.TransformerDecoder": partial(decoder_nets.saved, form="post"), "norm_first": partial(decoder_nets.saved, form="pre"),
        "cross attention alone": partial(decoder_nets.saved, form="cross"), "a memory of other channels": partial(decoder_nets.saved, form="post", width=40),
        "token ids beside the states of an encoder": partial(decoder_nets.saved, form="ids")},
    "Windows, shifts, patch merging": {
        "windows with a relative position bias; shifted, with a mask (Swin, timm)": partial(windowed, stages=1),
        "the mask added to windows apart from images (Swin, transformers)": partial(windowed, stages=1, form="reshaped"),
        "with neighbours merged behind them": partial(windowed)},
    "Causal attention, by its mask": {name: partial(masked, spelling=name) for name in masked_nets.CAUSAL},
    "Norms, factors, heads": {
        "LayerNorm written out": partial(net, norm=True), "LayerScale": partial(net, layer_scale=True),
        "head on the mean of all tokens": partial(net, pool="mean"),
        "head on the mean of the patches": partial(net, pool="mean of patches"), "opset 13": partial(net, opset=13, norm=True, act="erf"),
        "norms behind the sums (BERT)": partial(normed, place="post"), "and behind the embedding": partial(normed, place="embedded"),
        "norms behind the branches (Swin v2)": partial(normed, place="respost"), "on both sides of the branches": partial(normed, place="sandwich"),
        "RMSNorm, behind the sums": partial(normed, place="post", norm="rms"), "SimplifiedLayerNormalization": partial(normed, place="pre", norm="rms simplified"),
        "RMSNorm written out": partial(normed, place="sandwich", norm="rms pow"),
        "LayerNorm of each head of q and k": partial(normed, place="pre", heads_norm="layer"),
        "RMSNorm of each head of q and k": partial(normed, place="pre", heads_norm="rms", split="early")},
    "A convolution first, cut into windows by the host": {
        "patches side by side": partial(first_layer, size=(3, 8, 8), kernel=(4, 4), places=4, strides=[4, 4]),
        "overlapping, with a border of zeros (Segformer, PVT)": partial(first_layer, size=(3, 16, 16), kernel=(7, 7), places=16, strides=[4, 4], pads=[3] * 4),
        "3x3, stride 1": partial(first_layer, size=(3, 6, 6), kernel=(3, 3), places=36, pads=[1] * 4),
        "dilated": partial(first_layer, size=(2, 9, 9), kernel=(3, 3), places=9, dilations=[2, 2], strides=[2, 2]),
        "auto_pad": partial(first_layer, size=(3, 7, 7), kernel=(3, 3), places=16, auto_pad="SAME_UPPER", strides=[2, 2]),
        "of a signal (Whisper, PatchTST)": partial(first_layer, size=(4, 24), kernel=(3,), places=12, strides=[2], pads=[1, 1])},
    "Convolutions inside": {
        "a stem of two convolutions": partial(convolved, build=lambda net: tokens(net, stem(net))),
        "with batch norms and HardSwish (LeViT)": partial(convolved, build=lambda net: tokens(net, stem(net, True, "HardSwish"))),
        "with a max pool (CCT)": partial(convolved, build=pooled),
        "keys and values made fewer, depthwise between two Linears (PVT, Segformer)": partial(convolved, build=lambda net: reduced(net, tokens(net, stem(net))))},
    "Activations": {act: partial(net, act=act) for act in ACTIVATIONS},
    "Gated MLPs": {
        **{name: partial(gate, halves=name) for name in gated_nets.HALVES}, "the second half is the gate": partial(gate, halves="by Slice", second=True),
        "without biases": partial(gate, bias=False), "GEGLU": partial(gate, act="Gelu"), "ReGLU": partial(gate, act="Relu"),
        "GLU (Sigmoid)": partial(gate, act="Sigmoid"), "without a function (bilinear)": partial(gate, act=None), "opset 13": partial(gate, opset=13, act="erf")},
    "Mixtures of experts: top k": {name: partial(mixture, spelling=spelling, renormalize=True, k=2) for name, spelling in SPELLINGS.items()},
    "Mixtures of experts: the best alone": {name: partial(mixture, spelling=spelling, renormalize=False, k=1) for name, spelling in TOP_1.items()},
    "Mixtures of experts: loops in which an expert sees its own tokens": {
        name: partial(mixture, spelling=spelling, renormalize=True, k=2) for name, spelling in LOOPS.items()},
    "Mixtures of experts: sigmoid gates": {name: partial(mixture, spelling=spelling, renormalize=True, k=2) for name, spelling in (PLAIN | BIASED).items()},
    "Mixtures of experts: gated experts": {name: partial(mixture, spelling=spelling, renormalize=True, k=2) for name, spelling in (GATED | GATED_OTHERS).items()},
    "Mixtures of experts: shared experts": {name: partial(mixture, spelling=spelling, renormalize=True, k=2) for name, (spelling, _) in SHARED.items()},
    "Mixtures of experts: a router that reads other tokens (pre-gating)": {name: partial(routed_early, build=build) for name, build in early_nets.EARLY.items()},
    "Tokens that are kept by their scores": {name: partial(pruning, spelling=spelling) for name, spelling in prune_nets.PRUNED.items()} | {
        "by the attention of the class token, the mean of the heads (EViT)": lambda folder: prune_nets.by_class_attention(made := Net()).save(
            folder / "net.onnx", {"y": result(made)}, [1, CLASSES])},
    "Tokens mixed by a matrix (MLP-Mixer)": {name: partial(mixing, spelling=spelling) for name, spelling in MIXINGS.items()},
    "Mixtures of experts: soft": {name: partial(mixture, spelling=spelling, renormalize=False, k=1) for name, spelling in SOFT.items()},
    "Mixtures of experts: a task embedding enters the gate": {name: partial(task_gated, spelling=spelling) for name, spelling in CONDITIONED.items()},
    "Quantized by onnxruntime and Brevitas": {
        **{f"static: {name}": partial(quantized_nets.static, form=name) for name in quantized_nets.STATIC}, "dynamic": quantized_nets.dynamic,
        "MatMulNBits, 4 bits": quantized_nets.blocks, "MatMulNBits, 8 bits": partial(quantized_nets.blocks, bits=8),
        "QONNX, 8 bits (Brevitas)": quantized_nets.brevitas, "QONNX, 4 bits (Brevitas)": partial(quantized_nets.brevitas, bits=4)},
    "In front of the engine": {
        "pixels as uint8, normalised": partial(hosted.saved, build=hosted.as_bytes),
        "channels last": partial(hosted.saved, build=hosted.channels_last),
        "a mean image taken off": partial(hosted.saved, build=hosted.normalised), "token ids": partial(hosted.saved, build=hosted.token_ids),
        "a series cut by Reshape": partial(hosted.saved, build=hosted.signal)},
    "Behind the engine": {
        **{kind: partial(hosted.saved, build=hosted.behind(kind, **options))
           for kind, options in {"Softmax": {"axis": -1}, "LogSoftmax": {"axis": -1}, "Sigmoid": {}, "Tanh": {}}.items()},
        "L2 norm": partial(hosted.saved, build=hosted.l2), "Linear, activation, Linear on one token": partial(hosted.saved, build=hosted.small_head)}}
