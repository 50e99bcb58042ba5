"""What options of the command line may be."""

from __future__ import annotations

from enum import StrEnum


class Simulator(StrEnum):
    """What runs the program."""

    VERILATOR = "verilator"
    ICARUS = "icarus"
    CSIM = "csim"
    GOLDEN = "golden"


class Backend(StrEnum):
    """What `compile` generates."""

    RTL = "rtl"
    HLS = "hls"
    BOTH = "both"


class Precision(StrEnum):
    """Bits of weights and activations."""

    W8A8 = "w8a8"
    W4A8 = "w4a8"
    W4A8_EXPERTS = "w4a8-experts"
    W8A16 = "w8a16"
    MIXED = "mixed"


class Method(StrEnum):
    """How an int8 range is taken from the calibration histogram."""

    MINMAX = "minmax"            # the largest value
    PERCENTILE = "percentile"    # 99.99 % of the values
    MSE = "mse"                  # the least squared error
    ENTROPY = "entropy"          # the least relative entropy
    AUTO = "auto"                # for each value that of the others with the least error where it is read


class Stage(StrEnum):
    """What a network is on its way through the compiler."""

    ONNX = "onnx"            # the nodes of the file, and what becomes of each
    GRAPH = "graph"          # operators, in floating point
    QUANT = "quant"          # how each value is kept in integers: rules by node, as `--quant` takes them
    STEPS = "steps"          # passes of the array, in integers
    PROGRAM = "program"      # instructions of the RTL engine, with addresses


class Grain(StrEnum):
    """How finely `hwgen describe` tells of a build."""

    SUMMARY = "summary"      # network, engine, registers, memory map, program, figures
    BLOCK = "block"          # each module or function, each step
    SIGNAL = "signal"        # each port, register and wire; each argument and stream


class Format(StrEnum):
    """Of a description."""

    MARKDOWN = "md"          # headings, text, code
    JSONL = "jsonl"          # a line a pair of description and code
