"""How much of the key store's own speed the service gives: throughput, latency and CPU time per signature.

    python bench/throughput.py                       all, some six minutes
    python bench/throughput.py --only softhsm        one part: softhsm, instant, grpc, network,
                                                     overload, cores, fairness
    python bench/throughput.py --seconds 2           shorter, and noisier
    python bench/throughput.py --server 'workers = 1' --pkcs11 'threads = 1'     with other settings

Everything is on that a production configuration has: mutual TLS, grants, the audit trail on disk, verification of each
signature. The limit is the PKCS#11 module by itself, in the same run, on the same token and the same cores. CPU
efficiency is the module's CPU time per signature divided by that of all the service's processes, so that the clients'
share of the machine does not blur it. A machine's own speed may move by half within minutes, so the module is measured
right before and right after each case, which is compared with the mean of the two; of three rounds, that with the
median efficiency is shown. The results go to bench/results as JSON, a Markdown table, and plots.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "bench"
sys.path[:0] = [str(ROOT), str(BENCH)]

import charts  # noqa: E402 - found through the line above
from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: E402
from tests.support.pki import CA  # noqa: E402
from tests.support.programs import RealService, configuration, serving, write_pki  # noqa: E402
from tests.support.service import entry_point  # noqa: E402
from tests.support.softhsm import import_rsa_key, make_token  # noqa: E402

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CALLERS = ("client", "farm")


@dataclass(frozen=True)
class Result:
    """What one case came to. Times are in ms but where the name says otherwise; ratios are to the bare module."""

    part: str
    case: str
    per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    cpu_ms: float
    rss_mib: float
    failures: dict[str, int] = field(default_factory=dict)
    bare_ms: float | None = None
    of_limit: float | None = None
    efficiency: float | None = None


@dataclass(frozen=True)
class Limit:
    """What the bare module does in so many processes of so many threads."""

    processes: int
    threads: int
    per_s: float
    cpu_ms: float

    def __str__(self) -> str:
        how = f"{self.processes} process(es) of {self.threads} thread(s)"
        return f"bare module, {how}: {self.per_s:.0f}/s, {self.cpu_ms:.3f} ms CPU"


# --- processes -------------------------------------------------------------------------------------------------------


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found += tree(int(folder.name))
    return found


def cpu_s(pids: Sequence[int]) -> float:
    """The CPU time of processes so far (proc(5): utime and stime)."""
    stats = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICKS_PER_S


def rss_mib(pids: Sequence[int]) -> float:
    """The resident memory of processes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * PAGE_BYTES / (1 << 20)


@contextmanager
def started(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Programs that are ready, started one after another: SoftHSM does not bear several starts at once."""
    pipe = subprocess.PIPE
    running: list[subprocess.Popen[str]] = []
    try:
        for each in commands:
            process = subprocess.Popen(each, env=environment, stdin=pipe, stdout=pipe, text=True)
            running.append(process)
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{process.args} did not become ready")
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def go(running: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Let them begin, and wait for what they say."""
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in running]


def environment(more: dict[str, str]) -> dict[str, str]:
    """This process's, with our packages and the tests' support on the path."""
    paths = [str(BENCH), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, **more, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


# --- the limit -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bare:
    """The module by itself, on a key that it finds in this environment."""

    uri: str
    environment: dict[str, str]

    def measure(self, processes: int, threads: int, seconds: float) -> Limit:
        """What it does for so long."""
        commands = [[sys.executable, str(BENCH / "bare.py"), self.uri, str(threads), str(seconds)]] * processes
        with started(commands, self.environment) as running:
            said = go(running)
        signatures = sum(each["signatures"] for each in said)
        cpu_ms = 1000 * sum(each["cpu_s"] for each in said) / signatures
        per_s = sum(each["signatures"] / each["seconds"] for each in said)
        return Limit(processes, threads, per_s, cpu_ms)

    def measure_all(self, seconds: float) -> list[Limit]:
        """Threads of one process and processes, the best first."""
        cores = len(os.sched_getaffinity(0))
        ways = dict.fromkeys([(1, 1), (1, cores), (cores, 1)])
        return sorted((self.measure(*way, seconds) for way in ways), key=lambda limit: -limit.per_s)


# --- one case --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Clients that run together: each of these is a process. The latencies are those of the first `watched`."""

    name: str
    loads: tuple[dict[str, Any], ...]
    watched: int = 0


def closed(name: str, in_flight: int, *, batch: int = 1, processes: int = 2) -> Case:
    """So many calls in flight at all times, spread over client processes with four connections each, so that every
    worker has its part. Of a large batch the SDK gives each connection a share."""
    processes = min(processes, in_flight)
    shares = [in_flight // processes + (place < in_flight % processes) for place in range(processes)]
    loads = tuple(
        {"in_flight": n, "batch": batch, "channels": 4 if batch > 1 else min(4, n), "timeout_s": 60.0} for n in shares
    )
    return Case(name, loads)


FOR_CLIENTS = {"GRPC_EXPERIMENTS": "-event_engine_client"}
"""What `privyseal.Client` advises for a process that makes many calls: client and service share the cores here."""


def run_case(part: str, case: Case, service: RealService, env: dict[str, str], seconds: float) -> Result:
    common = {"address": service.address, "folder": str(service.folder), "caller": "client", "seconds": seconds}
    commands = [[sys.executable, str(BENCH / "load.py"), json.dumps({**common, **load})] for load in case.loads]
    with started(commands, {**env, **FOR_CLIENTS}) as running:
        pids = tree(service.process.pid)
        before_s = cpu_s(pids)
        said = go(running)
        used_s = cpu_s(pids) - before_s
        rss = rss_mib(pids)
    signatures = sum(each["signatures"] for each in said)
    watched = said[: case.watched or len(said)]
    latencies = sorted(latency for each in watched for latency in each["latencies_s"])
    failures: dict[str, int] = {}
    for each in said:
        for code, number in each["failures"].items():
            failures[code] = failures.get(code, 0) + number
    return Result(
        part,
        case.name,
        per_s=sum(each["signatures"] / each["seconds"] for each in said),
        p50_ms=1000 * quantile(latencies, 0.5),
        p99_ms=1000 * quantile(latencies, 0.99),
        p999_ms=1000 * quantile(latencies, 0.999),
        cpu_ms=1000 * used_s / max(1, signatures),
        rss_mib=rss,
        failures=failures,
    )


def quantile(ordered: Sequence[float], part: float) -> float:
    """A quantile of sorted values; 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


UNARY = [closed(f"unary, {n} in flight", n) for n in (1, 8, 32, 128)]
BATCHES = [closed(f"batches of {n}", in_flight, batch=n) for n, in_flight in ((16, 16), (256, 4), (2000, 4))]


# --- the parts -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Where it runs, for how long each case, and with which settings beside the defaults."""

    folder: Path
    seconds: float
    server: str
    pkcs11: str
    unary_only: bool
    audit: bool
    rounds: int

    def configuration(self, keys: dict[str, tuple[str, Sequence[str]]], extra: str) -> str:
        text = configuration(keys, extra=extra)
        return text if self.audit else f"[audit]\nenabled = false\n{text[text.index('[[listeners]]') :]}"

    def settings(self, store: str, lines: str) -> str:
        return f"[server]\nshutdown_grace_s = 2.0\n{self.server}\n[stores.{store}]\n{lines}\n"


def with_softhsm(bench: Bench, report: Callable[[Result], None]) -> list[Limit]:
    token = make_token(bench.folder / "hsm", "bench")
    import_rsa_key(token, "bench", bench.folder / "bench.pem")
    env = environment(dict(token.environment))
    uri = token.uri("bench")
    bare = Bare(uri, env)
    limits = bare.measure_all(bench.seconds)
    print(*limits, sep="\n", flush=True)
    schemes = ("capgo", "capgo-v2", "capgo-v3")
    extra = bench.settings("pkcs11", bench.pkcs11)
    with serving(bench.folder, bench.configuration({"bench": (uri, schemes)}, extra), env) as service:
        settle(service)
        cases = [*UNARY, *([] if bench.unary_only else BATCHES)]
        rounds = [in_one_round(bench, cases, service, bare, limits[0]) for _ in range(bench.rounds)]
        for results in zip(*rounds, strict=True):
            report(sorted(results, key=lambda result: result.efficiency or 0.0)[len(results) // 2])
    return limits


def in_one_round(bench: Bench, cases: Sequence[Case], service: RealService, bare: Bare, best: Limit) -> list[Result]:
    """Each case once, between two looks at the bare module as it does best."""
    found: list[Result] = []
    before = bare.measure(best.processes, best.threads, bench.seconds / 2)
    for case in cases:
        result = run_case("softhsm", case, service, bare.environment, bench.seconds)
        after = bare.measure(best.processes, best.threads, bench.seconds / 2)
        per_s, cpu_ms = (before.per_s + after.per_s) / 2, (before.cpu_ms + after.cpu_ms) / 2
        of_limit, efficiency = result.per_s / per_s, cpu_ms / result.cpu_ms
        found.append(replace(result, bare_ms=cpu_ms, of_limit=of_limit, efficiency=efficiency))
        before = after
    return found


def settle(service: RealService) -> None:
    """Wait until all workers take calls: their number does not change any more."""
    known: list[int] = []
    while (now := tree(service.process.pid)) != known:
        known = now
        time.sleep(1.5)


@contextmanager
def served(bench: Bench, name: str, lines: str) -> Iterator[tuple[RealService, dict[str, str]]]:
    """A service on a store of bench/stores.py; `farm` is another caller beside `client`."""
    folder = bench.folder / name
    folder.mkdir()
    write_pki(folder)
    ca = CA()
    ca.write(folder)
    ca.server().write(folder, "server")
    for caller in CALLERS:
        ca.issue(dns=[f"{caller}.build.example"]).write(folder, caller)
    env = environment(entry_point(folder, "bench", "bench.stores:open_store"))
    env["PYTHONPATH"] = os.pathsep.join([str(folder), env["PYTHONPATH"]])
    extra = bench.settings("bench", f'key = "{bench.folder / "bench.pem"}"\n{lines}')
    config = bench.configuration({"bench": ("bench:bench", ("capgo", "capgo-v2", "capgo-v3"))}, extra)
    with serving(folder, config.replace("dns:build.test.example", "dns:*.build.example"), env) as service:
        settle(service)
        yield service, env


def with_instant(bench: Bench, report: Callable[[Result], None]) -> None:
    with served(bench, "instant", "") as (service, env):
        for case in [*UNARY, *BATCHES]:
            report(run_case("instant", case, service, env, bench.seconds))


def with_grpc_servers(bench: Bench, report: Callable[[Result], None]) -> None:
    """Both gRPC servers beside each other, on a store that costs nothing: the median of each case's rounds, in turn."""
    cases = [closed(f"unary, {n} in flight", n) for n in (1, 8, 32)] + [closed("batches of 256", 4, batch=256)]
    with ExitStack() as stack:
        services = {
            kind: stack.enter_context(
                served(replace(bench, server=f'{bench.server}\ngrpc = "{kind}"'), f"grpc-{kind}", "")
            )
            for kind in ("core", "aio")
        }
        for case in cases:
            rounds: dict[str, list[Result]] = {kind: [] for kind in services}
            for _ in range(bench.rounds):
                for kind, (service, env) in services.items():
                    named = replace(case, name=f"{kind}, {case.name}")
                    rounds[kind].append(run_case("grpc", named, service, env, bench.seconds))
            for results in rounds.values():
                report(sorted(results, key=lambda result: result.cpu_ms)[len(results) // 2])


def with_network(bench: Bench, report: Callable[[Result], None]) -> None:
    workers = len(os.sched_getaffinity(0))
    lines = f"sessions = {64 // workers}\nlatency_s = 0.005"
    with served(bench, "network", lines) as (service, env):
        for case in [*UNARY, *BATCHES]:
            result = run_case("network", case, service, env, bench.seconds)
            report(Result(**{**asdict(result), "of_limit": result.per_s / (64 / 0.005)}))


def with_overload(bench: Bench, report: Callable[[Result], None]) -> None:
    """A store of 200 signatures a second in all, so that the clients' own CPU is not what is short."""
    workers = len(os.sched_getaffinity(0))
    with served(bench, "overload", f"sessions = {4 // workers or 1}\nlatency_s = 0.02") as (service, env):
        peak = run_case("overload", closed("the peak: 64 in flight", 64), service, env, bench.seconds)
        report(Result(**{**asdict(peak), "of_limit": 1.0}))
        open_load = {"in_flight": 4, "channels": 4, "timeout_s": 0.5, "per_s": 1.5 * peak.per_s}
        case = Case("three times the peak, deadline 0.5 s", (open_load, open_load))
        over = run_case("overload", case, service, env, 2 * bench.seconds)
        report(Result(**{**asdict(over), "of_limit": over.per_s / peak.per_s}))


def with_busy_cores(bench: Bench, report: Callable[[Result], None]) -> None:
    """One worker on a core of its own, and a store that takes CPU time of that core: what is short is the CPU, and not
    the clients', who have the other cores."""
    cores = sorted(os.sched_getaffinity(0))
    pinned = replace(bench, server=f"{bench.server}\nworkers = 1\npin_workers = true")
    with served(pinned, "cores", "sessions = 1\ncpu_s = 0.003") as (service, env):
        os.sched_setaffinity(0, set(cores[1:]) or set(cores))
        try:
            peak = run_case("cores", closed("the peak: 32 in flight", 32, processes=1), service, env, bench.seconds)
            report(Result(**{**asdict(peak), "of_limit": 1.0}))
            open_load = {"in_flight": 4, "channels": 4, "timeout_s": 0.5, "per_s": 3 * peak.per_s}
            case = Case("three times the peak, deadline 0.5 s", (open_load,))
            over = run_case("cores", case, service, env, 2 * bench.seconds)
            report(Result(**{**asdict(over), "of_limit": over.per_s / peak.per_s}))
        finally:
            os.sched_setaffinity(0, cores)


def with_fairness(bench: Bench, report: Callable[[Result], None]) -> None:
    workers = len(os.sched_getaffinity(0))
    with served(bench, "fairness", f"sessions = {4 // workers or 1}\nlatency_s = 0.005") as (service, env):
        one = {"in_flight": 1, "channels": 1, "timeout_s": 60.0}
        farm = {"in_flight": 1000, "channels": 8, "timeout_s": 60.0, "caller": "farm"}
        report(run_case("fairness", Case("one call, alone", (one,), 1), service, env, bench.seconds))
        both = Case("one call, beside a farm with 1,000 in flight", (one, farm), 1)
        report(run_case("fairness", both, service, env, 2 * bench.seconds))


PARTS: dict[str, Callable[[Bench, Callable[[Result], None]], Any]] = {
    "softhsm": with_softhsm,
    "instant": with_instant,
    "grpc": with_grpc_servers,
    "network": with_network,
    "overload": with_overload,
    "cores": with_busy_cores,
    "fairness": with_fairness,
}


# --- what is written -------------------------------------------------------------------------------------------------


def machine() -> dict[str, str]:
    """What it ran on, and how busy that was before."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


HEAD = (
    "| case | signatures/s | of the limit | CPU ms | bare ms | efficiency "
    "| p50 ms | p99 ms | p99.9 ms | MiB | failures |"
)


def row(result: Result) -> str:
    """A line of the Markdown table."""

    def known(value: float | None, digits: int = 2) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    failures = ", ".join(f"{code} {number}" for code, number in sorted(result.failures.items()))
    times = f"{result.p50_ms:.1f} | {result.p99_ms:.1f} | {result.p999_ms:.1f}"
    return (
        f"| {result.part}: {result.case} | {result.per_s:.0f} | {known(result.of_limit)} | {result.cpu_ms:.3f} "
        f"| {known(result.bare_ms, 3)} | {known(result.efficiency)} "
        f"| {times} | {result.rss_mib:.0f} | {failures} |"
    )


def table(found: Sequence[Result], limits: Sequence[Limit], where: dict[str, str]) -> str:
    lines = ["# Throughput", "", *(f"- {name}: {value}" for name, value in where.items())]
    lines += [f"- {limit}" for limit in limits]
    return "\n".join([*lines, "", HEAD, "|---|" + "---:|" * 9 + "---|", *map(row, found), ""])


def write(folder: Path, found: Sequence[Result], limits: Sequence[Limit], where: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = {
        "machine": where,
        "limits": [asdict(limit) for limit in limits],
        "results": [asdict(each) for each in found],
    }
    (folder / "throughput.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / "throughput.md").write_text(table(found, limits, where))
    for part in dict.fromkeys(each.part for each in found):
        bars = [(each.case, each.per_s) for each in found if each.part == part]
        (folder / f"{part}.svg").write_text(charts.bars(f"{part}: signatures per second", bars))
    efficient = [(each.case, each.efficiency) for each in found if each.efficiency is not None]
    if efficient:
        (folder / "efficiency.svg").write_text(charts.bars("softhsm: CPU efficiency", efficient, most=1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the service against its key store.")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; can be repeated")
    parser.add_argument("--seconds", type=float, default=3.0, help="the length of a case")
    parser.add_argument("--rounds", type=int, default=3, help="how often softhsm's cases are measured")
    parser.add_argument("--server", default="", help="lines for [server]")
    parser.add_argument("--pkcs11", default="sessions = 4", help="lines for [stores.pkcs11]")
    parser.add_argument("--no-audit", action="store_true", help="without the audit trail, to see what it costs")
    parser.add_argument("--unary", action="store_true", help="softhsm without batches")
    parser.add_argument("--results", type=Path, default=BENCH / "results", help="where results are written")
    chosen = parser.parse_args()
    where, found, limits = machine(), [], []

    def report(result: Result) -> None:
        found.append(result)
        print(row(result), flush=True)

    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="privyseal-bench-") as name:
        folder = Path(name)
        write_pki(folder)
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        (folder / "bench.pem").write_bytes(pem)
        server, pkcs11 = (text.replace(";", "\n") for text in (chosen.server, chosen.pkcs11))
        bench = Bench(folder, chosen.seconds, server, pkcs11, chosen.unary, not chosen.no_audit, chosen.rounds)
        for part in chosen.only or PARTS:
            limits = PARTS[part](bench, report) or limits
    write(chosen.results, found, limits, where)


if __name__ == "__main__":
    main()
