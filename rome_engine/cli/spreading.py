"""What the commands share that spread their work over the workers of a Ray cluster."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from rome_engine.cli.loading import load

if TYPE_CHECKING:
    from rome_engine.cluster import Cluster
    from rome_engine.model.language_model import LanguageModel
    from rome_engine.model.replica import Replica

_PANEL = "More than one process"

Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        rich_help_panel=_PANEL,
        help="Spread the work over N processes, which load the model once each; needs the extra ray. Each has as many "
        "threads as this one, which OMP_NUM_THREADS sets; the results are those of one process with as many.",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=_PANEL,
        help="The Ray cluster where the workers run, auto or ray://HOST:PORT; a model in a folder is read there from "
        "the same path. Without it: one is started on this machine, and shut down afterwards.",
    ),
]


def cluster(workers: int | None, ray: str | None) -> Cluster | None:
    """Where the options say that work is done; None for this process. Raises ClusterError where Ray is missing."""
    if workers is None:
        if ray is not None:
            raise typer.BadParameter("--ray says where workers run: give --workers, how many, too")
        return None
    from rome_engine.cluster import Cluster, check_installed

    check_installed()
    return Cluster(workers, ray)


def aside() -> AbstractContextManager[TextIO]:
    """What Ray prints when a worker dies, which it does on stdout, goes to stderr, where it belongs."""
    return redirect_stdout(sys.stderr)


def replica(
    model: LanguageModel,
    name: str | None,
    dtype: str,
    device: str | None,
    revision: str | None,
    trust_remote_code: bool,
    device_map: str | None = None,
    offload_folder: Path | None = None,
) -> Replica:
    """The model of these options as workers load it. Their working folder may be another one."""
    from rome_engine.model.replica import Replica

    source = str(Path(name).absolute()) if name is not None and Path(name).is_dir() else name
    again = partial(load, source, dtype, device, revision, trust_remote_code, device_map, offload_folder)
    return Replica.of(model, again)
