"""Runs the sequencer beside whatever else the process does: the supervisor or, without workers, the service itself."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from privyseal.transparency.errors import AuditError
from privyseal_service.audit.errors import LogIntegrityError, SequencerBusyError
from privyseal_service.audit.keys import load_key
from privyseal_service.audit.sequencer import Sequencer
from privyseal_service.audit.sinks import FileSink, HttpsSink, Publisher, Sink, SinkState, StreamSink, WitnessSink
from privyseal_service.config.audit import (
    AuditConfig,
    FileSinkConfig,
    HttpsSinkConfig,
    StdoutSinkConfig,
    WitnessSinkConfig,
)
from privyseal_service.system.exit_codes import REFUSED, USAGE, StartError

if TYPE_CHECKING:
    from privyseal.transparency.checkpoint import Signer
    from privyseal_service.config.audit import SinkConfig

_LOG = logging.getLogger(__name__)

_RETRY_S = 0.5


class RunningSequencer:
    """A sequencer on a thread of its own, and what takes its checkpoints off the host.

    When another process still sequences the folder, as an older release does that is being replaced, or the disk does
    not let it begin, it tries again: workers write records meanwhile. Raises LogIntegrityError and PublishError.
    """

    def __init__(self, config: AuditConfig, signer: Signer, *, stream: TextIO | None = None) -> None:
        self._config = config
        self._signer = signer
        self._problem: str | None = None
        self._publisher = Publisher([_sink(sink, config, stream) for sink in config.sinks], _report)
        self._stop = threading.Event()
        self._sequencer: Sequencer | None = None
        try:
            self._try_to_begin()
        except BaseException:
            self._publisher.close(0)
            raise
        self._thread = threading.Thread(target=self._run, name="audit-sequencer")
        self._thread.start()

    @property
    def problem(self) -> str | None:
        """Why the tree does not grow now; None when it does."""
        return self._sequencer.problem if self._sequencer is not None else self._problem

    def sinks(self) -> list[SinkState]:
        """How each place that checkpoints are sent to is doing."""
        return self._publisher.states()

    def close(self) -> None:
        """Merge what is left, let the checkpoints out, and give the folder back."""
        self._stop.set()
        self._thread.join()
        if self._sequencer is not None:
            self._sequencer.close()
        self._publisher.close()

    def _try_to_begin(self) -> None:
        try:
            self._sequencer = Sequencer(
                self._config.root,
                self._signer,
                former_keys=self._config.verifiers(),
                publish=self._publisher,
                report=_report,
                keep_segments_s=self._config.keep_segments_s,
            )
        except (SequencerBusyError, OSError) as error:
            if self._problem is None:
                _report(f"the audit tree does not grow yet: {error}")
            self._problem = str(error)
            return
        if self._problem is not None:
            _report("the audit tree grows")
            self._problem = None

    def _run(self) -> None:
        while self._sequencer is None:
            if self._stop.wait(_RETRY_S):
                return
            try:
                self._try_to_begin()
            except AuditError as error:
                if self._problem != str(error):
                    _report(f"the audit tree does not grow: {error}")
                self._problem = str(error)
        self._sequencer.run(self._stop)


def _report(sentence: str) -> None:
    _LOG.warning("%s", sentence)


def _sink(config: SinkConfig, audit: AuditConfig, stream: TextIO | None) -> Sink:
    match config:
        case FileSinkConfig():
            return FileSink(config.path)
        case StdoutSinkConfig():
            return StreamSink(stream or sys.stdout)
        case HttpsSinkConfig():
            return HttpsSink(config.url, ca_file=config.ca_file, token_file=config.token_file)
        case WitnessSinkConfig():
            return WitnessSink(config.url, config.verifier(), audit.root, ca_file=config.ca_file)


def start_sequencer(config: AuditConfig, *, stream: TextIO | None = None) -> RunningSequencer:
    """Start the one sequencer of a replica: in the supervisor, or in the service itself where there are no workers. It
    alone reads the audit key. Raises StartError; `close` what it returns, after the last worker has ended."""
    try:
        signer = load_key(config.key_file)
        if signer.verifier.name != config.log:
            raise StartError(f"{config.key_file} is the key of {signer.verifier.name}, not of {config.log}", USAGE)
        return RunningSequencer(config, signer, stream=stream)
    except LogIntegrityError as error:
        raise StartError(f"the audit trail in {config.root} does not hold: {error}", REFUSED) from None
    except AuditError as error:
        raise StartError(f"the audit trail cannot be kept: {error}", USAGE) from None
    except OSError as error:
        name = error.filename or config.key_file
        raise StartError(f"{name}: {(error.strerror or str(error)).lower()}", USAGE) from None


@contextlib.contextmanager
def sequencing(
    config: AuditConfig | None, start: Callable[[AuditConfig], RunningSequencer] = start_sequencer
) -> Iterator[RunningSequencer | None]:
    """Sequence for as long as the block runs, where an audit trail is kept. Raises StartError."""
    if config is None or not config.enabled:
        yield None
        return
    running = start(config)
    try:
        yield running
    finally:
        running.close()
