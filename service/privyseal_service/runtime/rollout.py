"""A change of the configuration in all workers or in none: each prepares it, then all commit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from privyseal_service.runtime.messages import Abort, Commit, Prepare
from privyseal_service.runtime.reload import UnusableError
from privyseal_service.runtime.worker_config import worker_count

if TYPE_CHECKING:
    from privyseal_service.config.root import Config
    from privyseal_service.runtime.worker_process import WorkerProcess


class Rollout:
    """One change: `prepare`, then `commit`, with nothing awaited in between.

    `workers` are all workers by process id, also those that are started meanwhile; `config_for` returns the
    configuration as the worker of a number serves it.
    """

    def __init__(
        self,
        change: int,
        config: Config,
        workers: Mapping[int, WorkerProcess],
        config_for: Callable[[Config, int], Config],
    ) -> None:
        self._change = change
        self._config = config
        self._workers = workers
        self._config_for = config_for
        self._asked: list[WorkerProcess] = []

    async def prepare(self) -> None:
        """Have every worker with open keys prepare the change; if one refuses, all discard it. Raises UnusableError.

        The workers prepare one after another: only one of them tries a PIN that a token may refuse.
        """
        try:
            while (worker := self._next()) is not None:
                self._asked.append(worker)
                await self._prepare(worker)
        except BaseException:
            for worker in self._asked:
                worker.send(Abort(self._change))
            raise

    def commit(self) -> None:
        """Have every worker serve the configuration. One that still opens its keys does so before it listens."""
        for worker in self._workers.values():
            if worker not in self._asked:
                worker.send(self._command(worker))
            worker.send(Commit(self._change))

    async def _prepare(self, worker: WorkerProcess) -> None:
        refusal = await worker.prepare(self._command(worker))
        if refusal and not worker.leaving:
            raise UnusableError(refusal)

    def _next(self) -> WorkerProcess | None:
        """Return a worker that may take calls and has not been asked; those that are leaving come last."""
        left = [each for each in self._workers.values() if each.report.state != "opening" and each not in self._asked]
        return min(left, key=lambda each: each.leaving, default=None)

    def _command(self, worker: WorkerProcess) -> Prepare:
        config = self._config_for(self._config, worker.number)
        return Prepare(self._change, config, worker_count(self._config))
