"""A refusal names the cause a user knows, with a next step that fits it; `check` and `compile` say the same."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
import pytest

import hwgen
from hwgen import quantizer
from hwgen.errors import SHOWN, ModelError, combined
from hwgen.importer import check_model, import_model
from onnx_nets import CLASSES, DIM, EXPERTS, HEADS, IMAGE, PATCH, TOKENS, Net


def encoder(net: Net, x: str | None = None, scores=lambda net, scores: scores, mlp=None) -> str:
    """One pre-norm block; ``scores`` changes the attention scores, ``mlp`` is the second half. Returns the normalised tokens."""
    t = net.embed(x or net.image())
    q, k, v = net.heads(net.norm(t), "slice")
    weights = net.op("Softmax", scores(net, net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2]))), axis=-1)
    y = net.op("Reshape", net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
    t = net.add(t, net.linear(y, DIM, DIM))
    return net.norm(net.add(t, (mlp or Net.mlp)(net, net.norm(t))))


def quantized(net: Net):
    n = net.norm(net.embed(net.image()))
    return net.head(net.op("QMoE", n, net.const(0.1), domain="com.microsoft"))


def optimized(net: Net):
    n = net.norm(net.embed(net.image()))
    return net.head(net.op("CDist", n, net.random(DIM), domain="com.microsoft"))


def squared(net: Net, scores: str) -> str:
    return net.op("Add", scores, net.op("Mul", scores, scores))


def computed_mask(net: Net):
    return net.head(encoder(net, scores=squared))


def normalisation(net: Net):
    x = net.op("Div", net.op("Sub", net.image(), net.random(1, 1, 1, 1, offset=0.5)), net.random(1, 1, 1, 1, offset=0.2))
    return net.head(encoder(net, x))


def normalisation_by_pixel(net: Net):
    return net.head(encoder(net, net.op("Sub", net.image(), net.random(1, 1, IMAGE, IMAGE))))


def channels_last(net: Net):
    x = net.input("x", [1, IMAGE, IMAGE, 1])
    return net.head(encoder(net, net.op("Transpose", x, perm=[0, 3, 1, 2])))


def patches_by_reshape(net: Net):
    cut = net.op("Reshape", net.image(), net.ints(1, IMAGE // PATCH, PATCH, IMAGE // PATCH, PATCH))
    rows = net.op("Reshape", net.op("Transpose", cut, perm=[0, 1, 3, 2, 4]), net.ints(1, -1, PATCH * PATCH))
    return net.head(net.norm(net.linear(rows, PATCH * PATCH, DIM)))


def softmax_behind(net: Net):
    return net.op("Softmax", net.head(encoder(net)), axis=-1)


def softsign_in_front_of_experts(net: Net):
    def mlp(net, n):
        tokens = net.op("Reshape", net.op("Softsign", n, name="culprit"), net.ints(-1, DIM))
        top, index = net.op("TopK", net.op("Softmax", net.linear(tokens, DIM, EXPERTS), axis=-1), net.ints(2), outputs=2, axis=-1)
        scores = net.op("ScatterElements", net.const(np.zeros((TOKENS, EXPERTS))), index, top, axis=1)
        parts = [net.op("Mul", net.mlp(tokens), net.op("Gather", scores, net.ints(e), axis=1)) for e in range(EXPERTS)]
        total = parts[0]
        for part in parts[1:]:
            total = net.op("Add", total, part)
        return net.op("Reshape", total, net.ints(1, -1, DIM))
    return net.head(encoder(net, mlp=mlp))


def dropout(net: Net):
    return net.head(net.op("Dropout", encoder(net), net.const(0.5), net.const(True, bool)))


def an_expert_is_missing(net: Net):
    def mlp(net, n):
        tokens = net.op("Reshape", n, net.ints(-1, DIM))
        _, index = net.op("TopK", net.op("Softmax", net.linear(tokens, DIM, EXPERTS), axis=-1), net.ints(1), outputs=2, axis=-1)
        total = None
        for e in range(1, EXPERTS):
            mine = net.op("Cast", net.op("Equal", index, net.const(e, np.int64)), to=TensorProto.FLOAT)
            y = net.op("Mul", net.mlp(tokens), mine)
            total = y if total is None else net.op("Add", total, y)
        return net.op("Reshape", total, net.ints(1, -1, DIM))
    return net.head(encoder(net, mlp=mlp))


CASES = {
    quantized: ("the file is quantized by an operator that is not read: com.microsoft.QMoE node", "in pairs"),
    optimized: ("uses operators of its own: com.microsoft.CDist node", "export without the optimizer"),
    computed_mask: ("the attention has a mask or a position bias: MatMul node", "export without it"),
    normalisation: ("the input is changed before the network proper", "give images that are normalised already"),
    normalisation_by_pixel: ("the input is changed before the network proper", "give images that are normalised already"),
    channels_last: ("the input is rearranged before the network proper", "channels first"),
    patches_by_reshape: ("the input is rearranged before the network proper", "a convolution whose stride is its kernel"),
    softmax_behind: ("belongs on the host: Softmax node", "export the logits"),
    softsign_in_front_of_experts: ("Softsign node 'culprit' is not supported", "cut the network there"),
    dropout: ("the result depends on chance: Dropout node", "export in eval mode"),
    an_expert_is_missing: ("a mixture of experts in a form that is not read: Add node 'add_12' is not supported", "a sum over experts is read"),
}


# what the importer refuses, and the host runs instead
HOST = {normalisation, normalisation_by_pixel, channels_last, patches_by_reshape, softmax_behind}


def _refusal(path) -> ModelError:
    """What the importer or the quantizer says before anything is left to the host."""
    checked = check_model(path)
    if checked.error is not None:
        return checked.error
    with pytest.raises(ModelError) as error:
        quantizer.accept(checked.model)
    return error.value


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_the_cause_is_named_with_its_next_step(tmp_path, build):
    net = Net()
    path = net.save(tmp_path / "net.onnx", {"y": build(net)}, [1, CLASSES])
    what, hint = CASES[build]
    error = _refusal(path)
    assert what in error.message and hint in error.hint, str(error)
    checked = hwgen.check(path)
    assert checked.ok == (build in HOST), str(checked.error)
    if checked.ok:
        return
    assert what in checked.error.message and hint in checked.error.hint
    with pytest.raises(ModelError) as error:
        hwgen.compile(path, out=tmp_path / "build")
    assert str(error.value) == str(checked.error) and not (tmp_path / "build").exists()


def test_a_cause_in_front_of_others_is_named_before_them(tmp_path):
    """What stands behind an unsupported node is counted, not named."""
    net = Net()
    n = net.op("Softsign", net.norm(net.embed(net.image())), name="culprit")
    path = net.save(tmp_path / "net.onnx", {"y": net.head(net.op("Erf", net.op("Exp", n)))}, [1, CLASSES])
    message = check_model(path).error.message
    assert message.startswith("Softsign node 'culprit' is not supported (and 2 other nodes of it or behind it): ")


def test_causes_apart_from_each_other_are_all_named(tmp_path):
    """A computed mask in the first block, the same unknown function in the second and the third: two causes, and what is behind each."""
    net = Net()
    t = encoder(net, scores=squared)
    for i in range(2):
        t = net.add(t, net.linear(net.op("Celu", net.linear(net.norm(t), DIM, DIM), name=f"celu{i}"), DIM, DIM))
    path = net.save(tmp_path / "net.onnx", {"y": net.head(net.norm(t))}, [1, CLASSES])
    error = hwgen.check(path).error
    assert "has a mask or a position bias: MatMul node" in error.message and "(and 4 other nodes of it or behind it)" in error.message
    (other,) = error.others
    assert other.message == "Celu node 'celu0' is not supported (and 1 other node of it or behind it): operator Celu is not supported"
    assert str(error).splitlines()[3] == f"also: {other.message}" and error.to_dict()["others"] == [other.to_dict()]
    with pytest.raises(ModelError) as caught:
        hwgen.compile(path, out=tmp_path / "build")
    assert str(caught.value) == str(error)


def test_all_that_the_hardware_has_no_step_for_is_named(tmp_path):
    """Accepted by the importer, refused by the quantizer: a constant that is added in the middle."""
    net = Net()
    t = net.embed(net.image())
    t = net.add(t, net.attention(net.norm(t)))
    n = net.norm(t)
    late = net.op("Add", net.add(t, net.mlp(n)), net.random(1, TOKENS, DIM))
    path = net.save(tmp_path / "net.onnx", {"y": net.head(net.norm(t)), "z": net.linear(net.norm(late), DIM, CLASSES)}, [1, CLASSES])
    with pytest.raises(ModelError) as caught:
        quantizer.quantize(import_model(path).model, None, random=True)
    error = caught.value
    (add,) = [cause for cause in (error, *error.others) if "only supported where the residual stream starts" in cause.message]
    assert add.behind == 3 and f"  at:   {add.where} (and 3 nodes behind it)" in str(error)


def test_many_causes_are_cut_in_the_text_only():
    error = combined([ModelError(f"cause {i}", where=f"node {i}", hint="the same step") for i in range(SHOWN + 2)] + [ModelError("cause 1", where="node 1")])
    lines = str(error).splitlines()
    assert [line for line in lines if "cause" in line] == [
        "cause 0", *(f"also: cause {i}" for i in range(1, SHOWN)), "also: 2 further causes; hwgen check --json FILE holds them"]
    assert sum("next:" in line for line in lines) == 1 and len(error.to_dict()["others"]) == SHOWN + 1


@pytest.mark.parametrize("place", ["probabilities", "erf", "mean", "inverse deviation"])
def test_an_output_inside_of_something_is_named(tmp_path, place):
    """An output that a rule absorbed, or a further result of a node, does not vanish."""
    net = Net()
    t = net.embed(net.image())
    norm, mean, inverse = net.op("LayerNormalization", t, net.random(DIM), net.random(DIM), outputs=3, axis=-1)
    q, k, v = net.heads(norm, "slice")
    weights = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
    y = net.op("Reshape", net.op("Transpose", net.op("MatMul", weights, v), perm=[0, 2, 1, 3]), net.ints(1, -1, DIM))
    t = net.add(t, net.linear(y, DIM, DIM))
    hidden = net.linear(net.norm(t), DIM, 24)
    erf = net.op("Erf", net.op("Div", hidden, net.const(np.sqrt(2))))
    gelu = net.op("Mul", net.op("Mul", hidden, net.op("Add", erf, net.const(1.0))), net.const(0.5))
    t = net.add(t, net.linear(gelu, 24, DIM))
    lost, shape = {"probabilities": (weights, [1, HEADS, TOKENS, TOKENS]), "erf": (erf, [1, TOKENS, 24]), "mean": (mean, [1, TOKENS, 1]),
                   "inverse deviation": (inverse, [1, TOKENS, 1])}[place]
    model = net.model({"y": net.head(net.norm(t))}, [1, CLASSES])
    model.graph.output.append(helper.make_tensor_value_info(lost, TensorProto.FLOAT, shape))
    onnx.save(model, tmp_path / "net.onnx")
    error = check_model(tmp_path / "net.onnx").error
    assert repr(lost) in error.message and repr(lost) in error.hint and "before export" in error.hint
    with pytest.raises(ModelError, match="cannot be given"):
        import_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("epsilon", [float("inf"), 1e30])
def test_an_epsilon_nothing_can_divide_by(tmp_path, epsilon):
    """Legal ONNX, and onnxruntime runs it: the norm gives its bias."""
    net = Net()
    t = net.embed(net.image())
    n = net.op("LayerNormalization", t, net.random(DIM), net.random(DIM), axis=-1, epsilon=epsilon)
    path = net.save(tmp_path / "net.onnx", {"y": net.head(net.norm(net.add(t, net.mlp(n))))}, [1, CLASSES])
    error = hwgen.check(path).error
    assert isinstance(error, ModelError) and "too large for a residual scale" in error.message and "usual are" in error.hint


def test_what_has_no_next_step_of_its_own_gets_one(tmp_path):
    """Values of an attention that are the result of another one: refused by a pass of the RTL engine."""
    net = Net(23)
    t = net.embed(net.image())
    n = net.norm(t)
    first = net.op("Attention", *net.heads(n, "separate"))
    t = net.add(t, net.merged(net.op("Attention", *net.heads(n, "separate")[:2], first)))
    path = net.save(tmp_path / "net.onnx", {"y": net.head(net.norm(t))}, [1, CLASSES])
    error = hwgen.check(path).error
    assert "values of another attention" in error.message and error.hint
