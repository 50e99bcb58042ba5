"""Host driver of a build: register map and a C header, used on a board and by the native bench alike."""

from __future__ import annotations

from typing import Any

from ... import __version__, registers
from ...checksum import crc32
from ...engine import EngineConfig
from ...layout.image import word_bytes
from ...paths import data_dir
from ...render import render
from ...steps.step import Output, Quantized
from .program import Program, shape_of

CODES = (
    ("HWGEN_OK", "no error"),
    ("HWGEN_OTHER_DEVICE", "the device is not the accelerator this driver was made for"),
    ("HWGEN_BUSY", "the accelerator is busy"),
    ("HWGEN_PROGRAM_SIZE", "the program has another size than the one this driver was made for"),
    ("HWGEN_PROGRAM_DIGEST", "the program is damaged or of another network"),
    ("HWGEN_WEIGHT_SIZE", "the weights have another size than those this driver was made for"),
    ("HWGEN_WEIGHT_DIGEST", "the weights are damaged or of another network"),
    ("HWGEN_INPUT_ADDRESS", "the input address is 0 or no multiple of HWGEN_BEAT_BYTES"),
    ("HWGEN_WEIGHT_ADDRESS", "the weight address is 0 or no multiple of HWGEN_BEAT_BYTES"),
    ("HWGEN_OUTPUT_ADDRESS", "the output address is 0 or no multiple of HWGEN_BEAT_BYTES"),
    ("HWGEN_FRAMES", "the number of frames is not in 1..65535"),
    ("HWGEN_TASK", "a task number is not below HWGEN_NUM_TASKS"),
    ("HWGEN_TIMEOUT", "the accelerator has not finished in time"),
)
"""Return codes of the C functions, from 0 on: (name, text)."""
LENGTH_CODE = ("HWGEN_LENGTH", "a length is not in 1..HWGEN_TOKENS, or there are none or more than eight")
STATUSES = (
    ("HWGEN_STATUS_ILLEGAL_INSTRUCTION", "the accelerator met an illegal instruction"),
    ("HWGEN_STATUS_AXI_READ_ERROR", "the memory refused a read"),
    ("HWGEN_STATUS_AXI_WRITE_ERROR", "the memory refused a write"),
    ("HWGEN_STATUS_START_WHILE_BUSY", "a start while the accelerator was busy was ignored"),
)


def register_header(config: EngineConfig) -> str:
    """C header of the register map for one engine."""
    return render("driver/registers.h.j2", version=__version__, id_value=registers.ID_VALUE, config_id=int(config.digest[:8], 16),
                  program_base=registers.PROGRAM_BASE, registers=registers.registers_of(config), status_bits=list(registers.StatusBit))


def files(program: Program, model: Quantized, name: str) -> dict[str, str]:
    """{relative path: text}. model: whose program it is, for the scales; name: of the network, for comments."""
    config, binary = program.config, program.binary()
    scales: dict[str, str] = {}              # C initializer -> C name
    outputs = []
    for task, (network, slices) in enumerate(zip(model.tasks, program.outputs, strict=True)):
        heads = {output.name: output for output in network.outputs}
        for o in slices:
            if not o.tap:
                text = _initializer(heads[o.name])
                scales.setdefault(text, f"hwgen_scale_{len(scales)}")
            outputs.append({"task": task, "name": o.name, "image": o.image, "token": o.token, "channels": o.channels, "first": o.word * config.to,
                            "step": o.step * config.to, "scale": "0" if o.tap else scales[text]})
    host, source = model.tasks[0].input
    form = source.format
    header = render("driver/hwgen.h.j2", name=name, version=__version__, to=config.to, front=host.front, input_bits=form.bits, input_limit=form.hi,
                    input_name=host.input, word_bytes=word_bytes(form.dtype.itemsize, shape_of(config)),
                    input_bytes=program.input_bytes, input_stride=program.input_stride, output_bytes=program.output_bytes,
                    weight_bytes=len(program.image), weight_crc32=crc32(program.image), program_bytes=len(binary),
                    program_crc32=crc32(binary), beat_bytes=config.axi_data_bits // 8, num_tasks=program.num_tasks, outputs=outputs,
                    scales=list(scales), input_scale=repr(float(source.scale)), codes=_named((*CODES, LENGTH_CODE) if config.lengths else CODES),
                    statuses=_named(STATUSES), longest=source.tokens if config.lengths else 0, slots=registers.NUM_TASK_SLOTS,
                    averaged=[int(head_tokens(model, o) > 1) for o in outputs])
    return {"driver/registers.h": register_header(config), "driver/hwgen.h": header,
            "driver/crc32.h": (data_dir("hls") / "include" / "hwgen" / "crc32.h").read_text()}


def head_tokens(model: Quantized, output: dict[str, Any]) -> int:
    """How many tokens each word of an output of the driver's list is the sum of."""
    return next((head.tokens for head in model.tasks[output["task"]].outputs if head.name == output["name"]), 1)


def _initializer(head: Output) -> str:
    """Real value of one unit of each channel's int32, as `host.dequantize` has it."""
    return ", ".join(repr(float(scale) / head.tokens) for scale in head.scale.array)


def _named(pairs: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"name": name, "text": text} for name, text in pairs]
