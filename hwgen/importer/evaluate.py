"""Single ONNX operators evaluated by onnx's reference implementation, each set up once; and what that costs."""

from __future__ import annotations

from itertools import zip_longest
import math

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from ..functions import Act, activate
from .border import MAX_ELEMENTS

# Operators whose result has a shape that depends on no value: two nodes like each other are inferred once.
SHAPED_BY_SHAPES = {
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "Cos", "Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gather", "Gelu", "Gemm",
    "Greater", "LayerNormalization", "Less", "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal",
    "Relu", "Sigmoid", "Sign", "Sin", "Softmax", "Sqrt", "Sub", "Sum", "Tanh", "Transpose", "Where"}
_DIRECT = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
MAX_RANK = 64                          # of a shape that is computed: numpy's
KEPT_BYTES = 4096                      # attributes of an operator that is kept for the next node like it

# Operators that work element by element, move, or reduce: steps = elements read and written.
_EACH = [
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "BitShift",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat",
    "ConstantOfShape", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Elu", "Equal", "Erf",
    "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "Gelu", "Greater", "GreaterOrEqual",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "LogSoftmax", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear",
    "RMSNormalization", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Selu", "Shape",
    "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze",
    "Where", "Xor"]
# Those whose reference implementation takes elements one at a time in Python.
_SLOW = {"GatherND": 64, "OneHot": 64, "Resize": 1024, "ScatterElements": 64, "ScatterND": 64}
_PRODUCTS = {"MatMul", "Gemm"}         # K N M steps: the root of the product of the three sizes
FOLDED = {*_EACH, *_SLOW, *_PRODUCTS, "Einsum"}


def work(node: onnx.NodeProto, arrays: list[np.ndarray | None], results: list[int]) -> int | None:
    """Steps the evaluation takes; None when it is not known. ``results``: elements of each."""
    sizes = [array.size for array in arrays if array is not None]
    if node.op_type == "Einsum":
        return math.prod(sizes)
    if node.op_type in _PRODUCTS:
        return math.isqrt(math.prod(sizes[:2]) * results[0]) // 8 + sum(sizes) + results[0]
    return (sum(sizes) + sum(results)) * _SLOW.get(node.op_type, 1)


def canonical(node: onnx.NodeProto) -> tuple:
    """Equal for nodes that differ in names only."""
    attributes = tuple(a.SerializeToString(deterministic=True) for a in node.attribute)
    return (node.domain, node.op_type, tuple(bool(value) for value in node.input), tuple(bool(value) for value in node.output), attributes)


def _elements(kind: str, arrays: list[np.ndarray | None]) -> int:
    """Of a result that values of operands make larger than the operands; 0 of any other."""
    given = [[] if array is None else array.ravel().tolist() if array.size <= MAX_RANK * 2 else [] for array in arrays]
    first = arrays[0]
    match kind:
        case "ConstantOfShape":
            return math.prod(given[0])
        case "Expand" if first is not None:
            return math.prod(max(pair) for pair in zip_longest(reversed(first.shape), reversed(given[1]), fillvalue=1))
        case "Tile" if first is not None:
            return first.size * math.prod(given[1])
        case "OneHot" if first is not None:
            return first.size * max(given[1], default=0)
        case "Pad" if first is not None and len(given) > 1:
            return (first.size + 1) * math.prod(1 + max(0, int(pad)) for pad in given[1])
        case "Range" if all(given) and given[2][0]:
            return math.ceil((given[1][0] - given[0][0]) / given[2][0])
    return 0


def _scaled_by_gate(node: onnx.NodeProto, x: np.ndarray) -> np.ndarray:
    """Gelu and Swish, which onnx defines by other operators and does not evaluate alone."""
    given = {a.name: a.s if a.type == onnx.AttributeProto.STRING else a.f for a in node.attribute}
    with np.errstate(all="ignore"):
        if node.op_type == "Swish":
            return x * 0.5 * (1 + np.tanh(0.5 * np.float32(given.get("alpha", 1.0)) * x))
        return activate(x, Act.GELU_TANH if given.get("approximate") == b"tanh" else Act.GELU).astype(x.dtype)


class Evaluator:
    """Evaluates nodes of one model. ``opsets``: version of each domain."""

    def __init__(self, opsets: dict[str, int]):
        self.opsets = opsets
        self._ready: dict[tuple, ReferenceEvaluator] = {}

    def operator(self, node: onnx.NodeProto, arrays: list[np.ndarray | None]) -> list[np.ndarray] | None:
        """`run`, also for operators that are not folded, and whose results may have shapes that nobody knows before."""
        if _elements(node.op_type, arrays) > MAX_ELEMENTS:
            return None
        if node.op_type in ("Gelu", "Swish") and not node.domain and arrays[0] is not None:
            return [_scaled_by_gate(node, arrays[0])]
        return self.run(node, arrays)

    def run(self, node: onnx.NodeProto, arrays: list[np.ndarray | None]) -> list[np.ndarray] | None:
        """What the node computes; None when the reference implementation cannot."""
        if node.op_type == "Transpose":                             # these mean in numpy what they mean in ONNX, and it is quicker
            perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            return [np.transpose(arrays[0], perm)]
        if node.op_type == "GatherElements" and arrays[0] is not None and arrays[1] is not None:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0) % arrays[0].ndim
            part = tuple(slice(None) if place == axis else slice(size) for place, size in enumerate(arrays[1].shape))
            return [np.take_along_axis(arrays[0][part], arrays[1], axis)]     # the reference implementation wants as many rows as there are
        if node.op_type in _DIRECT and len(node.attribute) == 0 and len({array.dtype for array in arrays}) == 1:
            with np.errstate(all="ignore"):
                return [np.asarray(_DIRECT[node.op_type](*arrays))]
        key = canonical(node)
        ready = self._ready.get(key)
        names = [str(place) if value else "" for place, value in enumerate(node.input)]
        try:
            if ready is None:
                plain = onnx.NodeProto(op_type=node.op_type, domain=node.domain, input=names, attribute=node.attribute,
                                       output=[f"out{place}" if value else "" for place, value in enumerate(node.output)])
                ready = ReferenceEvaluator(plain, opsets=self.opsets)
                if sum(map(len, key[-1])) <= KEPT_BYTES:
                    self._ready[key] = ready
            with np.errstate(all="ignore"):
                return ready.run(None, {name: array for name, array in zip(names, arrays, strict=False) if name})
        except (RuntimeError, TypeError, ValueError, LookupError):  # NotImplementedError is a RuntimeError
            return None
