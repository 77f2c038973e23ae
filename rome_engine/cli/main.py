"""The command line's entry: every error one line with its remedy, and the exit codes 0, 1 and 2.

0: done. 1: interrupted, every record of a benchmark failed, or an error that is this program's fault. 2: it was refused
or could not be done, and the message says why: unusable input, an edit that does damage, a full disk.

The commands import what they need when they run: torch takes seconds, which `--help` and a mistyped option do not.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import typer

import rome_engine
from rome_engine.cli import (
    activations,
    ask,
    attribute,
    bench,
    card,
    compare,
    demo,
    edit,
    edit_facts,
    export,
    ledger,
    lens,
    locate_edit,
    model,
    screen,
    stats,
    trace,
    trace_facts,
    tune,
)
from rome_engine.cli.options import FLAG, Command, Group
from rome_engine.cli.output import complain
from rome_engine.errors import RomeEngineError

DEBUG = "ROME_ENGINE_DEBUG"

# Typer's own errors, by way of the one it names: what lies under them has moved between its versions.
_UsageError: Any = typer.BadParameter.__base__
_TyperError: Any = _UsageError.__base__

app = typer.Typer(
    name="rome-engine",
    cls=Group,
    help="Locate where a language model keeps a fact, rewrite it in the weights, and see what the rewrite did.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
app.command("trace", cls=Command)(trace.command)
app.command("trace-facts", cls=Command)(trace_facts.command)
app.command("lens", cls=Command)(lens.command)
app.command("attribute", cls=Command)(attribute.command)
app.command("locate-edit", cls=Command)(locate_edit.command)
app.command("screen", cls=Command)(screen.command)
app.command("activations", cls=Command)(activations.command)
app.command("edit", cls=Command)(edit.command)
app.command("edit-facts", cls=Command)(edit_facts.command)
app.command("card", cls=Command)(card.command)
app.command("bench", cls=Command)(bench.command)
app.command("compare", cls=Command)(compare.command)
app.command("export", cls=Command)(export.command)
app.command("tune", cls=Command)(tune.command)
app.add_typer(ledger.app, name="ledger")
app.command("ask", cls=Command)(ask.command)
app.add_typer(stats.app, name="stats")
app.add_typer(model.app, name="model")
app.command("demo", cls=Command)(demo.command)


def _version(value: bool | None) -> None:
    if value:
        typer.echo(f"rome-engine {rome_engine.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool | None = typer.Option(
        None, "--version", metavar=FLAG, callback=_version, is_eager=True, help="Show the version and leave."
    ),
) -> None:
    pass


def run() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal without a letter such as Δ shows a ? in its place
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.exit(main())


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    warnings.filterwarnings("ignore")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(logging.Formatter("warning: %(message)s"))
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return 0
    except typer.Exit as error:
        return error.exit_code
    except RomeEngineError as error:
        return complain(str(error), 2)
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), nl=False)
            return 2
        command = error.ctx.command_path if error.ctx else "rome-engine"
        said = error.format_message().replace("Value error, ", "").rstrip(".")
        return complain(f"{said} (see {command} --help)", 2)
    except _TyperError as error:
        return complain(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        return complain("interrupted: the model and the files are as before", 1, "")
    except BrokenPipeError:
        # Whoever read our output has left; there is no one to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        if _is_memory(error):
            return complain("out of memory: try fewer --samples, a shorter prompt or a smaller model", 1)
        return complain(
            f"a mistake in rome-engine: {type(error).__name__}: {error} (set {DEBUG}=1 to see where, and report it)",
            1,
        )


def _run(arguments: list[str]) -> None:
    # Not by calling the app: that makes exit code 130 of Ctrl-C, and prints.
    command = typer.main.get_command(app)
    with command.make_context("rome-engine", list(arguments)) as context:
        command.invoke(context)


def _is_memory(error: Exception) -> bool:
    """Whether memory ran out; PyTorch says so in ways of its own."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error))
    )
