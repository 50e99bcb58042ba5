"""The operator tests of the onnx package through the importer: ``python bench/conformance.py [--only TEXT]``.

Each generated case runs as it is, and once more "wrapped": the inputs after the first float32 one become weights, and a batch of 1 is put
around input and outputs, which is how a network looks. Prints how many were refused with a message, and how many were read; of those the
float model is compared with the values the case asks for. Exit code 1 on a traceback, a refusal without a next step, or another value.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
import sys
import tempfile
import traceback
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from hwgen.errors import HwgenError
from hwgen.graph import evaluate
from hwgen.importer import import_model

ERROR = 1e-3                       # of the largest value


def wrapped(model: onnx.ModelProto, inputs: list) -> tuple[onnx.ModelProto, dict[str, np.ndarray]] | None:
    """The case as a network reads it, and its input; None when it has no float32 input or one that is no tensor."""
    found = onnx.ModelProto.FromString(model.SerializeToString())
    graph, version = found.graph, next((e.version for e in found.opset_import if not e.domain), 0)
    first = next((i for i, a in enumerate(inputs) if isinstance(a, np.ndarray) and a.dtype == np.float32), None)
    tensors = all(value.type.HasField("tensor_type") for value in (*graph.input, *graph.output))
    if first is None or version < 13 or not tensors or not all(isinstance(a, np.ndarray) for a in inputs) or len(inputs) != len(graph.input):
        return None
    name = graph.input[first].name
    graph.initializer.extend(numpy_helper.from_array(a, v.name) for v, a in zip(graph.input, inputs, strict=True) if v.name != name)
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "case_axes"))
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("case_input", TensorProto.FLOAT, [1, *inputs[first].shape]))
    graph.node.insert(0, helper.make_node("Squeeze", ["case_input", "case_axes"], [name], name="case_in"))
    for value in graph.output:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        graph.node.append(helper.make_node("Unsqueeze", [value.name, "case_axes"], [f"{value.name}_case"], name=f"case_{value.name}"))
        value.CopyFrom(helper.make_tensor_value_info(f"{value.name}_case", value.type.tensor_type.elem_type, [1, *dims]))
    return found, {"case_input": inputs[first][None]}


def judge(path: Path, given: dict[str, np.ndarray] | None, wanted: list) -> tuple[str, str]:
    try:
        model = import_model(path).model
        if given is None:
            return "read", ""
        found = {}
        for graph in model.tasks:
            found |= evaluate.run(graph, given)
        wrong = [f"{name} {np.abs(a.reshape(-1) - b.reshape(-1)).max()}" for (name, a), b in zip(found.items(), wanted, strict=False)
                 if np.abs(a.reshape(-1) - b.reshape(-1)).max() > ERROR * np.abs(b).max()]
        return ("another value", ", ".join(wrong)) if wrong or len(found) != len(wanted) else ("read and equal", "")
    except HwgenError as error:
        return ("refused" if error.hint and error.exit_code == 2 else "refused without a next step"), str(error)
    except Exception:
        return "traceback", traceback.format_exc()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases with this text in their name")
    args = parser.parse_args()
    warnings.simplefilter("ignore")                                # of numpy, while the cases are made
    from onnx.backend.test.case.node import collect_testcases
    counts, bad = {"as it is": Counter(), "wrapped": Counter()}, []
    with tempfile.TemporaryDirectory(prefix="hwgen_conformance_") as folder:
        path = Path(folder, "case.onnx")
        for case in collect_testcases(None):
            if case.model is None or not case.data_sets or args.only not in case.name:
                continue
            inputs, wanted = (list(arrays) for arrays in case.data_sets[0])
            forms = [("as it is", (case.model, None)), ("wrapped", wrapped(case.model, inputs))]
            for form, (model, given) in (pair for pair in forms if pair[1] is not None):
                path.write_bytes(model.SerializeToString())
                outcome, text = judge(path, given, wanted)
                counts[form][outcome] += 1
                if outcome not in ("refused", "read", "read and equal"):
                    bad.append(f"{case.name} ({form}): {outcome}\n{text.strip()[-600:]}")
    for form, outcomes in counts.items():
        print(f"{form}: {sum(outcomes.values())} cases, {', '.join(f'{n} {outcome}' for outcome, n in outcomes.most_common())}")
    print("\n\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
