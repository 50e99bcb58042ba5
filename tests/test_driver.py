"""The C driver of a build against a register file in Python: what it checks, what it writes, what its codes mean; and its numbers.

The header is compiled as C99 and as C++ without a warning.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import zlib

import numpy as np
import pytest

from hwgen import registers
from hwgen.checksum import crc32
from hwgen.engines.rtl import driver
from hwgen.engines.rtl.plan import schedule
from hwgen.errors import ToolError
from hwgen.registers import StatusBit
from hwgen.steps import host
from hwgen.tools import cxx
from qgraphs import random_images, random_model, random_qgraph
from sequence_nets import sequence_network
from wide_nets import host_start

OPTIONS = {"seed": 3, "blocks": "dm", "classes": (4, 19)}
WRAPPER = """
#include "hwgen.h"
extern "C" {
uint32_t load(hwgen_device *d, const uint8_t *p, size_t n, const uint8_t *w, size_t m) { return hwgen_load(d, p, n, w, m); }
uint32_t start(hwgen_device *d, const hwgen_buffers *b, uint32_t frames, uint32_t tasks) { return hwgen_start(d, b, frames, tasks); }
uint32_t wait(hwgen_device *d, uint64_t polls, int (*again)(void *), void *context) { return hwgen_wait(d, polls, again, context); }
uint32_t finish(hwgen_device *d, uint64_t *cycles) { return hwgen_finish(d, cycles); }
const char *text(uint32_t code) { return hwgen_error(code); }
uint32_t crc(const uint8_t *p, size_t n) { return hwgen_crc32(p, n); }
int quantize(double x) { return hwgen_quantize(x); }
double value(const int32_t *frame, uint32_t output, uint32_t channel) { return hwgen_value(frame, output, channel); }
#ifdef HWGEN_TOKENS
uint32_t set_lengths(hwgen_device *d, const uint32_t *lengths, uint32_t count) { return hwgen_set_lengths(d, lengths, count); }
double value_of(const int32_t *frame, uint32_t output, uint32_t channel, uint32_t n) { return hwgen_value_of(frame, output, channel, n); }
#endif
int has_scale(uint32_t output) { return hwgen_outputs[output].scale != 0; }
}
"""
READ = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32)
WRITE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
AGAIN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
CODE = {name.removeprefix("HWGEN_"): n for n, (name, _) in enumerate(driver.CODES)}
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror")


class Device(ctypes.Structure):
    _fields_ = [("read", READ), ("write", WRITE), ("context", ctypes.c_void_p)]


class Buffers(ctypes.Structure):
    _fields_ = [("input", ctypes.c_uint64), ("weights", ctypes.c_uint64), ("output", ctypes.c_uint64)]


class Registers:
    """A register file that is busy for ``polls`` reads of STATUS after a start (None: for ever)."""

    def __init__(self, program, polls: int | None = 3, **values: int):
        at = {r.name: r.offset for r in registers.REGISTERS}
        self.values = {at["ID"]: registers.ID_VALUE, at["CONFIG"]: int(program.config.digest[:8], 16)}
        self.values |= {at[name]: value for name, value in values.items()}
        self.at, self.polls, self.left, self.written = at, polls, 0, []
        self.device = Device(READ(self.read), WRITE(self.write), None)

    def read(self, _, offset: int) -> int:
        if offset == self.at["STATUS"] and self.values.get(offset, 0) & 1 and self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.values[offset] = self.values[offset] & ~1 | 1 << StatusBit.DONE
        return self.values.get(offset, 0)

    def write(self, _, offset: int, value: int) -> None:
        self.written.append((offset, value))
        if offset == self.at["CONTROL"]:
            self.values[self.at["STATUS"]], self.left = 1 << StatusBit.BUSY, self.polls
        elif offset == self.at["STATUS"]:
            self.values[offset] = self.values.get(offset, 0) & ~value
        else:
            self.values[offset] = value


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(network, program, the driver as a library, folder with its headers)."""
    return make(random_qgraph(**OPTIONS), tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def lengths(tmp_path_factory):
    """The same for sequences of up to nine tokens, of which the mean leaves."""
    return make(sequence_network(tokens=9, blocks="d"), tmp_path_factory.mktemp("lengths"), 1)


def make(model, folder, batch=2):
    """See `made`."""
    try:
        compiler = cxx.find()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    program = schedule(model, ti=16, to=8, axi_data_bits=128, batch=batch)
    for name, text in driver.files(program, model, "random").items():
        (folder / name.removeprefix("driver/")).write_text(text)
    (folder / "wrapper.cpp").write_text(WRAPPER)
    subprocess.run([compiler, "-std=c++14", "-O1", *WARNINGS, "-shared", "-fPIC", folder / "wrapper.cpp", "-o", folder / "driver.so"], check=True)
    library = ctypes.CDLL(folder / "driver.so")
    library.text.restype, library.value.restype = ctypes.c_char_p, ctypes.c_double
    library.quantize.argtypes, library.wait.argtypes = [ctypes.c_double], [ctypes.c_void_p, ctypes.c_uint64, AGAIN, ctypes.c_void_p]
    library.load.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    library.crc.argtypes, library.crc.restype = [ctypes.c_char_p, ctypes.c_size_t], ctypes.c_uint32
    if program.config.lengths:
        library.value_of.restype = ctypes.c_double
    return model, program, library, folder


def load(made, device: Registers, binary=None, image=None) -> int:
    _, program, library, _ = made
    binary, image = program.binary() if binary is None else binary, program.image if image is None else image
    return library.load(ctypes.byref(device.device), binary, len(binary), image, len(image))


def test_it_is_c99(made):
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler found: sudo apt-get install gcc")
    (made[3] / "plain.c").write_text('#include "hwgen.h"\nint main(void) { return (int)hwgen_crc32(0, 0); }\n')
    subprocess.run([compiler, "-std=c99", *WARNINGS, made[3] / "plain.c", "-o", made[3] / "plain"], check=True)
    assert subprocess.run([made[3] / "plain"], check=False).returncode == 0


@pytest.mark.parametrize("data", [b"", b"123456789", bytes(1000), bytes(range(256)) * 3])
def test_the_digest_is_one_function_in_c_and_python(made, data):
    assert made[2].crc(data, len(data)) == crc32(data) == zlib.crc32(data)
    assert crc32(b"123456789") == 0xCBF43926                                 # the check value of the catalogue of CRCs


def test_load_writes_the_program(made):
    device = Registers(made[1])
    assert load(made, device) == CODE["OK"]
    binary = made[1].binary()
    assert device.written == [(registers.PROGRAM_BASE + i, int.from_bytes(binary[i:i + 4], "little")) for i in range(0, len(binary), 4)]


@pytest.mark.parametrize("given, slots", [([5], [5] * 8), ([1, 9, 3], [1, 9, 3, 1, 9, 3, 1, 9]), ([*range(1, 9)], [*range(1, 9)])])
def test_lengths_are_written(lengths, given, slots):
    device = Registers(lengths[1])
    assert lengths[2].set_lengths(ctypes.byref(device.device), (ctypes.c_uint32 * len(given))(*given), len(given)) == CODE["OK"]
    assert device.written == [(device.at[f"LENGTHS_{n}"], slots[2 * n] | slots[2 * n + 1] << 16) for n in range(4)]


@pytest.mark.parametrize("given, status, text", [
    ([], 0, b"a length is not in 1..HWGEN_TOKENS"), ([0], 0, b"a length is not in"), ([10], 0, b"a length is not in"), ([1] * 9, 0, b"more than eight"),
    ([3], 1, b"busy")])
def test_lengths_that_are_refused(lengths, given, status, text):
    device = Registers(lengths[1], STATUS=status)
    device.left = None                                              # busy for ever
    code = lengths[2].set_lengths(ctypes.byref(device.device), (ctypes.c_uint32 * max(1, len(given)))(*given), len(given))
    assert code != CODE["OK"] and text in lengths[2].text(code) and device.written == []


def test_a_mean_of_a_shorter_sequence(lengths):
    _, program, library, _ = lengths
    frame = (ctypes.c_int32 * (program.output_bytes // 4))(*range(100, 100 + program.output_bytes // 4))
    assert library.value_of(frame, 0, 2, 3) == pytest.approx(library.value(frame, 0, 2) * 9 / 3)
    assert library.value_of(frame, 0, 2, 9) == library.value(frame, 0, 2)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


@pytest.mark.parametrize("code, change", {
    "OTHER_DEVICE": {"ID": 0}, "BUSY": {"STATUS": 1}, "PROGRAM_SIZE": {"binary": lambda d: d[:-64]}, "WEIGHT_SIZE": {"image": lambda d: d + b"\0"},
    "PROGRAM_DIGEST": {"binary": lambda d: flipped(d, 70)}, "WEIGHT_DIGEST": {"image": lambda d: flipped(d, len(d) - 1)}}.items())
def test_load_refuses(made, code, change):
    device = Registers(made[1], polls=None, **{k: v for k, v in change.items() if isinstance(v, int)})
    device.left = None
    data = {"binary": made[1].binary(), "image": made[1].image}
    assert load(made, device, **{key: change[key](data[key]) for key in data if key in change}) == CODE[code]
    assert device.written == []
    assert made[2].text(CODE[code]).decode() == driver.CODES[CODE[code]][1]


def test_another_configuration_is_another_device(made):
    assert load(made, Registers(made[1], CONFIG=1)) == CODE["OTHER_DEVICE"]


def test_every_single_bit_of_program_and_weights_is_checked(made):
    _, program, _, _ = made
    rng = np.random.default_rng(0)
    for _ in range(50):
        bad = bytearray(program.image)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        assert load(made, Registers(program), image=bytes(bad)) == CODE["WEIGHT_DIGEST"]


def start(made, device: Registers, frames=1, tasks=0, **addresses) -> int:
    buffers = Buffers(**({"input": 0x1000, "weights": 0x10000, "output": 0x20010} | addresses))
    return made[2].start(ctypes.byref(device.device), ctypes.byref(buffers), frames, tasks)


@pytest.mark.parametrize("code, options", [
    ("INPUT_ADDRESS", {"input": 0}), ("INPUT_ADDRESS", {"input": 0x1008}), ("WEIGHT_ADDRESS", {"weights": 0}),
    ("WEIGHT_ADDRESS", {"weights": 0x10004}), ("OUTPUT_ADDRESS", {"output": 0}), ("OUTPUT_ADDRESS", {"output": 0x20001}),
    ("FRAMES", {"frames": 0}), ("FRAMES", {"frames": 65536}), ("TASK", {"tasks": 2}), ("TASK", {"frames": 9, "tasks": 0x20000000})])
def test_start_refuses(made, code, options):
    device = Registers(made[1])
    assert start(made, device, **options) == CODE[code] and device.written == []


def test_start_while_busy_is_refused(made):
    device = Registers(made[1], polls=None)
    assert start(made, device) == CODE["OK"] and start(made, device) == CODE["BUSY"]
    assert len([offset for offset, _ in device.written if offset == device.at["CONTROL"]]) == 1


def test_a_run(made):
    _, program, library, _ = made
    device = Registers(program, polls=3, CYCLES_LO=7, CYCLES_HI=1)
    assert start(made, device, frames=4, tasks=0x1010, weights=0x1_0000_0010) == CODE["OK"]
    wanted = {"TASKS": 0x1010, "FRAMES": 4, "INPUT_ADDR_LO": 0x1000, "INPUT_ADDR_HI": 0, "WEIGHT_ADDR_LO": 0x10, "WEIGHT_ADDR_HI": 1,
              "INPUT_BYTES": program.input_bytes, "INPUT_STRIDE": program.input_stride, "WEIGHT_BYTES": len(program.image),
              "OUTPUT_STRIDE": program.output_bytes}
    assert {name: device.values[device.at[name]] for name in wanted} == wanted
    assert library.wait(ctypes.byref(device.device), 10, AGAIN(), None) == CODE["OK"]
    cycles = ctypes.c_uint64()
    assert (library.finish(ctypes.byref(device.device), ctypes.byref(cycles)), cycles.value) == (0, (1 << 32) + 7)


@pytest.mark.parametrize("polls, gives_up, calls, code", [(5, None, 5, "TIMEOUT"), (10 ** 6, 4, 4, "TIMEOUT"), (0, None, 0, "TIMEOUT")])
def test_the_wait_ends(made, polls, gives_up, calls, code):
    device, asked = Registers(made[1], polls=None), []

    def again(_):
        asked.append(1)
        return len(asked) != gives_up
    assert start(made, device) == CODE["OK"]
    assert made[2].wait(ctypes.byref(device.device), polls, AGAIN(again), None) == CODE[code] and len(asked) == calls
    assert made[2].wait(ctypes.byref(device.device), 3, AGAIN(), None) == CODE["TIMEOUT"]             # counting alone


def test_done_at_the_last_moment_is_no_timeout(made):
    device = Registers(made[1], polls=4)
    assert start(made, device) == CODE["OK"]
    assert made[2].wait(ctypes.byref(device.device), 3, AGAIN(), None) == CODE["OK"]


def test_every_code_and_every_error_bit_has_a_text(made):
    library = made[2]
    texts = [library.text(code).decode() for code in range(len(driver.CODES))]
    errors = [library.text(1 << bit).decode() for bit in StatusBit if bit >= 8]
    assert texts == [text for _, text in driver.CODES] and sorted(errors) == sorted(text for _, text in driver.STATUSES)
    assert len({*texts, *errors}) == len(texts) + len(errors) and library.text(200).decode() == "no code of this driver"


def test_inputs_are_quantized_as_in_the_integer_model(made):
    model, _, library, _ = made
    network = model.tasks[0]
    scale = network.input[1].scale
    halves = (np.arange(-130, 131) + 0.5) * scale
    values = np.concatenate([np.random.default_rng(0).normal(0, 60 * scale, 500), halves, np.arange(-130, 131) * scale, [1e30, -1e30, 0.0]])
    wanted = np.clip(np.rint(values / scale), -127, 127)
    assert [library.quantize(value) for value in values] == wanted.tolist()
    images = random_images(random_model(**OPTIONS), 1)
    assert sorted(library.quantize(float(x)) for x in images.ravel()) == sorted(host.quantize_input(network, images).ravel().tolist())


def test_inputs_of_16_bits(tmp_path):
    """That start the residual stream, behind a class token of zeros."""
    network = host_start(random_qgraph(**OPTIONS))
    _, _, library, folder = make(network, tmp_path)
    scale = network.tasks[0].input[1].scale
    values = np.random.default_rng(0).normal(0, 9000 * scale, (1, 8, 32))
    words = host.quantize_input(network.tasks[0], values)
    assert np.abs(words).max() > 20000 and [library.quantize(x) for x in values.ravel()] == words[:, 1:].ravel().tolist()
    assert library.quantize(1e9) == 32767 == -library.quantize(-1e9)
    text = " ".join((folder / "hwgen.h").read_text().replace("\n * ", " ").split())
    assert "int16 tokens" in text and "16 bytes of which the first 16 count" in text and "The first 1 tokens are zeros" in text


def test_outputs_are_those_of_dequantize(made):
    model, program, library, _ = made
    rng, at = np.random.default_rng(1), 0
    frame = rng.integers(-2 ** 31, 2 ** 31, program.output_bytes // 4, dtype=np.int32)
    for task, graph in enumerate(model.tasks):
        words = program.read_outputs(frame.tobytes(), [task])
        real = [host.dequantize(graph, {name: value[None] for name, value in image.items()}) for image in words]
        for o in program.outputs[task]:
            [head] = [output for output in graph.outputs if output.name == o.name]
            assert library.has_scale(at)
            found = [library.value(frame.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), at, channel) for channel in range(o.channels)]
            np.testing.assert_allclose(found, real[o.image][head.name].ravel(), rtol=1e-6)
            at += 1
