"""The comparison of one network: all peers side by side, asked in turn, so that noise hits all alike."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from fxquant.progress import track
from fxquant.tools.bench.networks import Network
from fxquant.tools.bench.peers import Peer
from fxquant.tools.bench.preparing import Workshop
from fxquant.tools.bench.remote import Remote, RemoteError
from fxquant.tools.bench.serving import Server

OURS = "fxquant"


def compare(
    network: Network,
    peers: Sequence[Peer],
    threads: Sequence[int],
    rounds: int,
    *,
    calibration: int = 16,
    evaluation: int = 4,
    progress: bool = True,
) -> dict[str, Any]:
    """Prepare and time every peer on one network, with each number of threads.

    Peers that are not installed are under `missing`, those that fail under `failed`, with the reason. Of the others
    `peers` has the facts and `times` by number of threads; `ratios` says how many times as long as fxquant they take.
    """
    missing = {peer.name: reason for peer in peers if (reason := peer.missing())}
    present = [peer for peer in peers if peer.name not in missing]
    with TemporaryDirectory(prefix="fxquant-bench-") as folder:
        kitchen = (network, folder, calibration, evaluation)
        facts, failed, about = _prepare(present, kitchen, progress)
        measured: dict[str, Any] = {}
        for count in threads:
            ready = [peer for peer in present if peer.name not in failed]
            with _serving(ready, network, folder, count, failed) as servers:
                title = f"{network.title}, {count} thread{'s' * (count > 1)}"
                times = _rounds(servers, rounds, title, failed, progress)
                for name, server in servers.items():
                    if name not in failed:
                        with server.awake():
                            found = server.call("facts")
                        facts[name] |= {key: value for key, value in found.items() if key not in facts[name]}
            measured[str(count)] = {name: _statistics(seconds) for name, seconds in times.items()}
            for name, ratio in _ratios(times).items():
                measured[str(count)][name] |= ratio
    good = {peer.name: {**facts[peer.name], "title": peer.description} for peer in present if peer.name not in failed}
    return {"name": network.title, **about, "peers": good, "times": measured, "missing": missing, "failed": failed}


def _prepare(
    peers: Sequence[Peer], kitchen: tuple[Any, ...], progress: bool
) -> tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, Any]]:
    """Facts by peer, reasons of those that failed, and what the network is."""
    facts: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    workshop = Remote(Workshop, *kitchen)
    about: dict[str, Any] = workshop.call("describe")
    for peer in track(peers, f"preparing {kitchen[0].title}", progress):
        try:
            facts[peer.name] = {**workshop.call("prepare", peer), "float": peer.is_float, "versions": peer.versions()}
        except RemoteError as error:
            failed[peer.name] = str(error)
            if not workshop.alive:
                workshop = Remote(Workshop, *kitchen)
    workshop.close()
    return facts, failed, about


@contextmanager
def _serving(
    peers: Sequence[Peer], network: Network, folder: str, threads: int, failed: dict[str, str]
) -> Iterator[dict[str, Remote]]:
    """A process for each peer that can be loaded; the others are added to `failed`."""
    with ExitStack() as stack:
        servers = {}
        for peer in peers:
            try:
                servers[peer.name] = stack.enter_context(Remote(Server, peer, network, folder, threads))
            except RemoteError as error:
                failed[peer.name] = str(error)
        yield servers


def _rounds(
    servers: Mapping[str, Remote], rounds: int, title: str, failed: dict[str, str], progress: bool
) -> dict[str, list[float]]:
    """Seconds by peer and round. The order within a round is random, so that nobody always runs after the same.

    Whose turn it is not is frozen.
    """
    times: dict[str, list[float]] = {name: [] for name in servers}
    for server in servers.values():
        server.freeze()
    order = random.Random(0)
    for _ in track(range(rounds), title, progress):
        for name in order.sample(list(times), len(times)):
            try:
                with servers[name].awake():
                    times[name].append(servers[name].call("turn"))
            except RemoteError as error:
                failed[name] = str(error)
                del times[name]
    return times


def _statistics(seconds: Sequence[float]) -> dict[str, float]:
    return {"median_ms": 1e3 * statistics.median(seconds), "best_ms": 1e3 * min(seconds)}


def _ratios(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Time over fxquant's of the same round (the median of it), and best over best; above 1 where fxquant is faster."""
    ours = times.get(OURS)
    if ours is None:
        return {}
    return {
        name: {
            "ratio": statistics.median(a / b for a, b in zip(seconds, ours, strict=True)),
            "best_ratio": min(seconds) / min(ours),
        }
        for name, seconds in times.items()
    }
