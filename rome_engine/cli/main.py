"""The command line's entry: every error one line with its remedy, and the exit codes 0, 1 and 2.

0: done. 1: interrupted, or an error that is this program's fault. 2: the input cannot be used as given.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

import click
import typer

import rome_engine
from rome_engine.cli import ask, demo, edit, model, stats, trace
from rome_engine.cli.output import complain
from rome_engine.errors import RomeEngineError

DEBUG = "ROME_ENGINE_DEBUG"

app = typer.Typer(
    name="rome-engine",
    help="Locate where a language model keeps a fact, rewrite it in the weights, and see what the rewrite did.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("trace")(trace.command)
app.command("edit")(edit.command)
app.command("ask")(ask.command)
app.command("stats")(stats.command)
app.add_typer(model.app, name="model")
app.command("demo")(demo.command)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"rome-engine {rome_engine.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def run() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(main())


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        result = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except RomeEngineError as error:
        return complain(str(error), 2)
    except click.exceptions.NoArgsIsHelpError as error:
        typer.echo(error.format_message())
        return 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "rome-engine"
        return complain(f"{error.format_message().rstrip('.')} (see {command} --help)", 2)
    except click.ClickException as error:
        return complain(error.format_message(), 2)
    except (KeyboardInterrupt, click.exceptions.Abort):
        return complain("interrupted: the model and the files are as before", 1, "")
    except BrokenPipeError:
        # Whoever read our output has left; there is no one to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return complain("out of memory: try fewer --samples, a shorter prompt or a smaller model", 1)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return complain(
            f"a mistake in rome-engine: {type(error).__name__}: {error} (set {DEBUG}=1 to see where, and report it)",
            1,
        )
