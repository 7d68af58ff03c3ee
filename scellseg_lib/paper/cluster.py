"""Compute trials on many machines: the same store, the same keys (extra ``[cluster]``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from scellseg_lib.errors import ScellsegError
from scellseg_lib.paper import run
from scellseg_lib.paper.run import Outcome, Place
from scellseg_lib.paper.trial import Trial
from scellseg_lib.progress import progress_bar

PATIENCE = 20
"""Seconds in which a scheduler has to answer."""


def run_on_cluster(trials: Sequence[Trial], place: Place, address: str) -> Outcome:
    """Compute the trials that a store lacks on a Dask cluster, one at a time a worker.

    A trial whose worker is lost runs again elsewhere, from its checkpoint where the workers share a
    disk; one that loses four workers, or fails, is reported and stops no other.

    Parameters
    ----------
    trials : sequence of Trial
    place : Place
        Its folders must be those of all workers too.
    address : str
        ``"local:N"`` for N processes on this machine, else that of a scheduler, such as
        ``"tcp://host:8786"``.

    Returns
    -------
    Outcome

    Raises
    ------
    ScellsegError
        Without Dask, for an address that is none, or when nothing answers there.
    """
    try:
        from distributed import as_completed
    except ImportError as error:
        raise ScellsegError(
            "the package distributed is missing",
            remedy="Install it: pip install 'scellseg-notebooks[cluster]'.",
        ) from error
    with _client(address) as client:
        futures = {
            client.submit(run.compute, trial, place, pure=False): trial
            for trial in dict.fromkeys(trials)
        }
        done: dict[Trial, Any] = {}

        def in_order_of_completion() -> Iterator[Trial]:
            for future in as_completed(futures):
                done[futures[future]] = future
                yield futures[future]

        bar = progress_bar(in_order_of_completion(), len(futures), "trials", unit="trial")
        return run.gather(bar, lambda trial: done[trial].result())


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """Connection to a scheduler; processes of this machine end with it."""
    from distributed import Client, LocalCluster

    kind, _, rest = address.partition(":")
    if kind == "local":
        if not rest.isdigit() or int(rest) < 1:
            raise ScellsegError(
                f"{address!r} is no number of processes", remedy="Say local:4, for example."
            )
        with (
            LocalCluster(int(rest), threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(address, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ScellsegError(
            f"no scheduler answers ({error})",
            where=address,
            remedy="Start one with `dask scheduler`, and workers with `dask worker`.",
        ) from error
    with client:
        yield client
