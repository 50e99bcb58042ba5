"""Writes the reference pages that follow from the code: ``python docs/generate.py``. tests/test_docs.py sees when one is old."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
import sys
import tempfile

import typer

from hwgen import api, cli, isa, registers

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

REFERENCE = Path(__file__).resolve().parent / "reference"
NOTE = "<!-- written by docs/generate.py: change the code, then run it -->\n"


def cell(text) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]) + "\n"


def registers_page() -> str:
    r = registers
    rows = [(f"`0x{x.offset:02X}`", f"`{x.name}`", x.access.value, x.doc + ("; in engines that have them only" if x.needs else "")) for x in r.REGISTERS]
    bits = [(str(int(b)), f"`{b.name}`") for b in r.StatusBit]
    return "\n".join([
        NOTE, "# Registers\n", r.__doc__.strip().split("\n", 1)[1].strip() + "\n",
        (f"The program memory lies at `0x{r.PROGRAM_BASE:05X}`: word w (32 bits, least significant first) of instruction i at "
         f"`0x{r.PROGRAM_BASE:05X} + {r.INSTRUCTION_BYTES} * i + 4 * w`. It is write only and must not be written while the "
         "engine is busy.\n"),
        table(("offset", "name", "access", "meaning"), rows),
        "Access: RO read only; WO write only; RW read and write; W1C read, and write 1 to clear a bit.\n",
        "## STATUS bits\n", table(("bit", "name"), bits),
        "BUSY cannot be cleared by the host. The others hold until the host clears them or a start does.\n",
        "## A run\n", RUN])


RUN = """1. Read `ID`, `VERSION` and `CONFIG`; they must be what the build says.
2. Write the program, once after the device was configured.
3. Put the weight image, the inputs and room for the outputs into memory; write their addresses, sizes and strides.
4. Write `FRAMES` and `TASKS`, in an engine for run-time lengths `LENGTHS_0` to `LENGTHS_3`, then bit 0 of `CONTROL`.
5. Wait for the interrupt, or for bit 1 of `STATUS` (done). An illegal instruction ends the run at once and sets done with its bit. After an
   AXI error the run goes on to its end, with wrong data; its bit stands beside done. A memory that never answers leaves the engine busy:
   wait with a time-out, as `hwgen_wait` of the [driver](build.md#the-driver) does.
6. Read the outputs; `CYCLES_LO`, then `CYCLES_HI`, give the busy cycles.

A second run needs no reset. A start while busy changes nothing but sets bit 8.
"""


def cli_page() -> str:
    app = typer.main.get_command(cli.app)
    parts = [NOTE, "# Commands\n", f"{app.help}\n", f"{app.epilog}\n",
             ("An error is one message on stderr: what is wrong, where, and what to do next. Files are written before anything is printed, "
              "so they are whole when nobody reads to the end (`| head`). After a signal nothing half written is left and no child process "
              "runs. The log of a fault of hwgen itself (exit code 4) lies in the cache folder (`$XDG_CACHE_HOME/hwgen/faults`), or in the "
              "temporary folder.\n"),
             ("Where an option takes a file to write, links are followed, devices and pipes are written into, and `-` is standard output; "
              "what people read then goes to standard error. On a terminal long stages show a bar, elsewhere each stage is a line with its "
              "time on standard error.\n")]
    for name, command in app.commands.items():
        arguments = " ".join(p.name.upper() for p in command.params if p.param_type_name == "argument")
        parts += [f"## hwgen {name}\n", f"`hwgen {name} {arguments}`\n".replace(" `", "`"), f"{' '.join(command.help.split())}\n",
                  f"{command.epilog}\n"]
        rows = []
        for p in command.params:
            if p.param_type_name != "argument":
                names = ", ".join(f"`{option}`" for option in sorted(p.opts, key=len, reverse=True))
                choices = f" One of {', '.join(x.value for x in type(p.default))}." if isinstance(p.default, Enum) else ""
                default = p.default.value if isinstance(p.default, Enum) else p.default
                shown = "required" if p.required else "" if default is None or default is False else f"`{default}`"
                rows.append((names, p.help + choices, shown))
        parts.append(table(("option", "meaning", "default"), rows))
    return "\n".join(parts)


def instruction_page() -> str:
    rows = [(f"`{name}`", bits, f"{isa.OFFSETS[name] + bits - 1}:{isa.OFFSETS[name]}") for name, bits in isa.FIELDS]
    return "\n".join([NOTE, "# Instruction encoding\n",
                      (f"One instruction is {isa.WORD_BITS} bits: sixteen 32-bit words, least significant first. What each field "
                       "does is in [engine.md](engine.md).\n"), table(("field", "bits", "position"), rows)])


def models_page() -> str:
    """Every form of tests/forms.py through `hwgen check`; a refusal counts too, under its message."""
    from forms import FORMS
    parts = [NOTE, "# Models that are taken\n", MODELS]
    for group, forms in FORMS.items():
        rows = []
        for name, form in forms.items():
            with tempfile.TemporaryDirectory() as folder:
                checked = api.check(form(Path(folder)))
            hosted = [verdict.op for verdict in checked.verdicts if verdict.status.value == "host"]
            shown = "yes" if checked.ok else checked.error.message.splitlines()[0]
            rows.append((name, shown, ", ".join(dict.fromkeys(hosted)) or "–"))
        parts += [f"## {group}\n", table(("form", "taken", "on the host"), rows)]
    return "\n".join(parts)


MODELS = """A small network of each form went through `hwgen check`: read, compared with onnxruntime, quantized, planned. Behind each stands what the
engine leaves to the host. Forms combine. The networks are written in `tests/forms.py`; beside them, real exports of timm, transformers, torch.nn and
Brevitas with both exporters of PyTorch were used to find them.
"""

PAGES = {"models.md": models_page, "registers.md": registers_page, "cli.md": cli_page, "encoding.md": instruction_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (REFERENCE / name).write_text(page())
        print(f"wrote {REFERENCE / name}")
