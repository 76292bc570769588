"""``make bench-runtime``: our server beside those that people put such models behind, in one run (about 9 minutes).

Latency of one client is compared with the bare call and a bare two-process echo of the same bytes. Peers come from PyPI
the first time (1 GB, some minutes more); what cannot be had is left out with a line that says why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean, median
from typing import Any

import load
import runtime_latency as latency
import runtime_models as models
import runtime_ours as ours
from common import finish
from runtime_models import Served
from runtime_peers import PEERS, NotHere, Peer
from runtime_pool import best_per_second
from runtime_process import Process, connect, free_port

MODELS: dict[str, Callable[[], Served]] = {
    "resnet8": models.resnet8,
    "text": models.text,
    "efficientnet": models.efficientnet,
}
CLIENTS = 16
PASSES = 2  # over all servers, so that a machine whose speed drifts is fair to them
HALF_LOADS = 5  # short ones, of which the median counts: a hiccup of a shared machine is a long one's whole tail
MAX_RESIDENT_MB, MAX_COLD_S, MAX_TAIL = 60.0, 0.6, 3.0
TIMES_FASTER = {"litserve": 5.0, "mlserver": 5.0, "flask": 3.0}
"""On ResNet8, requests a second; each peer in its best form, we in the same."""
OF_THE_POOL = 0.9
"""Share of the bare pool's invokes a second, on EfficientNet-Lite0."""
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="which, separated by commas; default: %(default)s")
    parser.add_argument(
        "--peers", default=",".join(peer.name for peer in PEERS), help="which, or nothing; default: %(default)s"
    )
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load; default: %(default)s")
    parser.add_argument("--in-turn", type=float, default=20.0, help="seconds of one client; default: %(default)s")
    options = parser.parse_args()
    chosen, named = options.models.split(","), [name for name in options.peers.split(",") if name]
    if unknown := [*({*chosen} - {*MODELS}), *({*named} - {peer.name for peer in PEERS})]:
        parser.error(f"there is no {unknown[0]!r}")
    peers = [peer for peer in PEERS if peer.name in named]
    models.FOLDER.mkdir(parents=True, exist_ok=True)
    results = {name: measure(MODELS[name](), peers, options) for name in chosen}
    met = check(results)
    rows = [row for name, result in results.items() for row in table(name, result)]
    finish("runtime", {"unit": "us", "models": results, "met": met}, rows, HEADINGS)
    for what, (figure, wanted, is_met) in met.items():
        print(f"{'met   ' if is_met else 'MISSED'} {what}: {figure:.2f}, asked {wanted}")
    sys.exit(0 if all(is_met for _, _, is_met in met.values()) else 1)


def measure(model: Served, peers: list[Peer], options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model. Servers that are not to be had are missing."""
    passes: dict[str, list[dict[str, Any]]] = {}
    result: dict[str, Any] = {}
    pools: list[tuple[float, str]] = []
    echoes: list[dict[str, Any]] = []
    for number in range(PASSES):
        if not number:
            ours.tune(model.bundle)
        with _our_server(model) as running:
            if not number:
                result["one client"] = latency.measure(model, running, _first(ours.requests(model)), options.in_turn)
            figures = {"cold_s": running.process.first_answer_s, "resident_mb": running.process.resident_mb()}
        with _our_server(model, "--tuned-for", "throughput") as running:
            figures |= under_load(running.process, running.port, ours.requests(model), options.seconds)
            passes.setdefault("edgekd", []).append(figures)
            echoes.append(echoed(running.port, ours.requests(model), figures, options.seconds))
        for peer in peers:
            try:
                with peer.running(model) as (process, port):
                    print(f"{model.name}: {peer.name}", flush=True)
                    passes.setdefault(peer.name, []).append(
                        under_load(process, port, peer.requests(model), options.seconds)
                        | {"cold_s": process.first_answer_s}
                    )
            except (NotHere, RuntimeError) as error:
                print(f"left out: {peer.name} with {model.name}: {error}", flush=True)
        pools.append(best_per_second(model, options.seconds))
    result |= {"servers": {name: _mean(each) for name, each in passes.items()}, "echo": _mean(echoes)}
    per_second = mean(each for each, _ in pools)
    return result | {"bare pool": {"per_second": per_second, "workers × threads": max(pools)[1]}}


def under_load(process: Process, port: int, requests: dict[str, bytes], seconds: float) -> dict[str, Any]:
    """Form → figures of one client, of many, and of many at half of what these got through; and memory after it."""
    figures: dict[str, Any] = {}
    for form, request in requests.items():
        load.run(port, request, connections=CLIENTS, seconds=seconds / 4)  # to warm up
        one = load.run(port, request, connections=1, seconds=seconds)
        many = load.run(port, request, connections=CLIENTS, seconds=seconds)
        half = _at_half(port, request, many["per_second"] / 2, seconds)
        failed = one["failed"] + many["failed"] + half.pop("failed")
        figures[form] = {"p50": one["p50"], "p99": one["p99"], "per_second": many["per_second"], "failed": failed}
        figures[form] |= half
    return figures | {"memory_mb": process.memory_mb()}


def echoed(port: int, requests: dict[str, bytes], figures: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Form → a bare echo of the same bytes at half of what our server, on ``port``, got through: the machine's tail."""
    found: dict[str, Any] = {}
    for form, request in requests.items():
        with connect(port) as connection:
            reply_bytes = latency.first_reply(connection, request)
        address, rate = free_port(), figures[form]["per_second"] / 2
        with latency.echoing(address, len(request), reply_bytes):
            found[form] = _at_half(address, request, rate, seconds, reply_bytes)
    return found


def _at_half(port: int, request: bytes, rate: float, seconds: float, reply_bytes: int = 0) -> Figures:
    """Of many clients that ask so often together."""
    loads = [
        load.run(port, request, connections=CLIENTS, seconds=seconds / 2, rate=rate, reply_bytes=reply_bytes)
        for _ in range(HALF_LOADS)
    ]
    return {
        "half_p50": median(one["p50"] for one in loads),
        "half_p99": median(one["p99"] for one in loads),
        "failed": sum(one["failed"] for one in loads),
    }


@contextmanager
def _our_server(model: Served, *settings: str) -> Iterator[ours.Running]:
    with ours.running(model.bundle, _first(ours.requests(model)), *settings) as running:
        print(f"{model.name}: edgekd", flush=True)
        yield running


def _first(requests: dict[str, bytes]) -> bytes:
    return next(iter(requests.values()))


def _mean(passes: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each figure, also inside the forms."""
    return {
        key: _mean([one[key] for one in passes]) if isinstance(value, dict) else mean(one[key] for one in passes)
        for key, value in passes[0].items()
    }


def check(results: dict[str, Any]) -> dict[str, tuple[float, str, bool]]:
    """What is asked → (figure, limit, whether it is met); of peers that are missing nothing is said."""
    met: dict[str, tuple[float, str, bool]] = {}
    for name, result in results.items():
        for way, limit in latency.LIMITS_US.items():
            if way in result["one client"]:
                extra = result["one client"][way]["extra"]
                met[f"{name}, {way}: µs on top of bare and echo"] = (extra, f"≤ {limit:g}", extra <= limit)
        own = result["servers"]["edgekd"]
        for form in _forms(own):
            tail = own[form]["half_p99"] / own[form]["half_p50"]
            met[f"{name}, {form}: p99 / p50 at half load"] = (tail, f"≤ {MAX_TAIL:g}", tail <= MAX_TAIL)
    if "efficientnet" in results:
        result = results["efficientnet"]
        share = result["servers"]["edgekd"]["raw"]["per_second"] / result["bare pool"]["per_second"]
        met["efficientnet: share of the bare pool"] = (share, f"≥ {OF_THE_POOL:g}", share >= OF_THE_POOL)
    return met | (_check_resnet8(results["resnet8"]["servers"]) if "resnet8" in results else {})


def _check_resnet8(servers: dict[str, Any]) -> dict[str, tuple[float, str, bool]]:
    own = servers["edgekd"]
    met = {
        "resnet8: MB resident": (own["resident_mb"], f"≤ {MAX_RESIDENT_MB:g}", own["resident_mb"] <= MAX_RESIDENT_MB),
        "resnet8: s from start to first answer": (own["cold_s"], f"≤ {MAX_COLD_S:g}", own["cold_s"] <= MAX_COLD_S),
    }
    for name, times in TIMES_FASTER.items():
        if peer := servers.get(name):
            form = max(_forms(peer), key=lambda form, peer=peer: float(peer[form]["per_second"]))  # type: ignore[misc]
            ratio = own[form]["per_second"] / servers[name][form]["per_second"]
            met[f"resnet8, {form}: requests a second to {name}'s"] = (ratio, f"≥ {times:g}", ratio >= times)
    return met


HEADINGS = ("", "p50 µs", "p99 µs", "half load p50", "p99", "per s", "to ours", "memory MB", "first answer s", "failed")


def table(name: str, result: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for way, figures in result["one client"].items():
        extra = f" (+ {figures['extra']:.1f}, own {figures['own']:.1f})" if "extra" in figures else ""
        rows.append((f"{name}, in turn: {way}{extra}", f"{figures['p50']:.1f}", f"{figures['p99']:.1f}", *[""] * 7))
    pool = result["bare pool"]
    rows.append((f"{name}: bare pool {pool['workers × threads']}", *[""] * 4, f"{pool['per_second']:.0f}", *[""] * 4))
    for form, half in result["echo"].items():
        figures = [f"{half[key]:.0f}" for key in ("half_p50", "half_p99")]
        rows.append((f"{name}: echo at half of our load ({form})", "", "", *figures, *[""] * 5))
    own = result["servers"]["edgekd"]
    for server, figures in result["servers"].items():
        for form in _forms(figures):
            one = figures[form]
            times = [f"{one[key]:.0f}" for key in ("p50", "p99", "half_p50", "half_p99", "per_second")]
            ratio = f"{one['per_second'] / own[form]['per_second']:.2f}" if form in own else ""
            rest = (f"{figures['memory_mb']:.0f}", f"{figures['cold_s']:.2f}", f"{one['failed']:.0f}")
            rows.append((f"{name}: {server} ({form})", *times, ratio, *rest))
    return rows


def _forms(figures: dict[str, Any]) -> list[str]:
    return [key for key, value in figures.items() if isinstance(value, dict)]


if __name__ == "__main__":
    main()
