"""The command line. Every command is a thin shell round `hwgen.api`; what it prints, ``--json`` holds for programs.

`ending` has the exit codes.
"""

from __future__ import annotations

from contextlib import suppress
import sys
from typing import Annotated

import typer

from . import __version__, ending
from .commands import look, pipeline, take, terminal
from .commands.terminal import say
from .errors import HwgenError, OutputError

QUIET = ("-q", "--quiet")

app = typer.Typer(rich_markup_mode="markdown", pretty_exceptions_enable=False,
                  context_settings={"help_option_names": ["-h", "--help"]},
                  help="From a trained transformer in ONNX to a hardware accelerator, proven bit-exact by simulation.",
                  epilog="Exit codes: 0 good, 1 a comparison failed, 2 bad input or a full disk, 3 a tool is missing or failed, "
                         "4 a fault of hwgen itself (a log is written), 130 Ctrl-C, 141 closed pipe, 143 terminated.")

app.command(epilog="Example: `hwgen check model.onnx --shape x=1x3x224x224`")(pipeline.check)
app.command(name="compile", epilog="Example: `hwgen compile model.onnx --target zcu104 --calib calib.npz -o build/`")(pipeline.compile_command)
app.command(epilog="Example: `hwgen simulate build/ --input test.npz --images 100 --task 1 --waves --json result.json`")(pipeline.simulate)
app.command(epilog="Example: `hwgen verify build/ --input test.npz --images 20`")(pipeline.verify)
app.command(epilog="Example: `hwgen report build/ --html report.html`")(look.report)
app.command(epilog="Example: `hwgen estimate model.onnx --targets all`")(look.estimate)
app.command(epilog="Example: `hwgen compare build8/ build4/ --html compare.html`")(look.compare)
app.command(epilog="Example: `hwgen show build/ --stage steps --node attn`")(look.show)
app.command(epilog="Example: `hwgen describe build/ --grain block --format jsonl -o pairs.jsonl`")(look.describe)
app.command(epilog="Example: `hwgen synth build/ --flow yosys --json synth.json`")(look.synth)
app.command(epilog="Example: `hwgen core softmax --backend rtl --set lanes=16 --set length=256 -o softmax/`")(take.core)
app.command(epilog="Example: `hwgen targets --json boards.json`")(look.targets)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(terminal.out, f"hwgen {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(context: typer.Context, version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                                           help="Print the version.")] = False,
             quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but warnings, errors, and results that are to go to standard "
                                                 "output; before or behind the command.")] = False):
    terminal.out.quiet = quiet
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(args: list[str] | None = None) -> None:
    """Entry point. Whatever goes wrong is one message on stderr and an exit code (`ending`), never a traceback."""
    terminal.out.stderr = False
    ending.any_terminal()
    try:
        with ending.stopping():
            app(_quiet_first(sys.argv[1:] if args is None else args))
    except SystemExit as stop:
        if stop.code == 1 and isinstance(stop.__context__, BrokenPipeError):      # rich and typer make 1 of it
            ending.silence()
            sys.exit(ending.CLOSED_PIPE)
        raise
    except Exception as error:              # the last handler: the only place that takes every error
        known = error if isinstance(error, HwgenError) else ending.explained(error)
        _last_words(f"error: {known or ending.fault(error)}")
        sys.exit(known.exit_code if known else ending.FAULT)


def _quiet_first(args: list[str]) -> list[str]:
    """``-q`` belongs to every command, so it may stand behind the command's name."""
    return [arg for arg in args if arg in QUIET] + [arg for arg in args if arg not in QUIET]


def _last_words(message: str) -> None:
    """A message to standard error, if that can still be written."""
    with suppress(OutputError, SystemExit):  # full or closed: the exit code has to do
        say(terminal.err, message)
