"""The whole program around commands that are no node: exit codes, streams, signals, terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import stat
import subprocess
import time

import pytest

from tests.support import exec_program as program
from tests.support.signers import VECTORS

PEM = (VECTORS / "capgo-v3" / "public.pem").read_text()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    private_key = (VECTORS / "capgo-v3" / "private.pem").read_bytes()
    with program.service(tmp_path_factory.mktemp("pki"), private_key) as service:
        yield service


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    config = {"appId": "com.example.app", "plugins": {"CapacitorUpdater": {"publicKey": PEM}}}
    (folder / "capacitor.config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def home(tmp_path_factory):
    """A folder with a name that is short enough for the agent's socket in it."""
    return tmp_path_factory.mktemp("h")


@pytest.fixture
def env(home, service):
    return program.environment(home, **service.variables)


def run(folder, env, *words, flags=("--allow-none",), **more):
    return program.run(words, cwd=folder, env=env, flags=flags, **more)


def test_streams_words_and_exit_code_pass_through(folder, env, home):
    script = 'cat; printf "%s|" "$@"; echo "to stderr" >&2; exit 42'
    done = run(folder, env, "sh", "-c", script, "sh", "two words", "--strict", "", input="in\n", stdin=None)
    assert (done.returncode, done.stdout, done.stderr) == (42, "in\ntwo words|--strict||", "to stderr\n")
    assert program.left_behind(home) == []


def test_words_that_are_no_text_pass_through(folder, env):
    done = run(folder, env, "printf", "%s", os.fsdecode(b"\xff\xfe"), text=False)
    assert (done.returncode, done.stdout) == (0, b"\xff\xfe")


def test_a_command_that_signed_nothing_is_no_success(folder, env):
    done = run(folder, env, "true", flags=())
    assert done.returncode == 1
    assert done.stderr.startswith("privyseal exec: the command succeeded, but no signature came through")
    assert run(folder, env, "false", flags=()).returncode == 1
    assert run(folder, env, "true").returncode == 0


def test_the_agent_is_there_for_this_user_alone_as_long_as_the_command_runs(folder, env, home):
    script = """
import os
socket = os.environ["PRIVYSEAL_AGENT_SOCKET"]
print(socket, os.stat(socket).st_mode, os.stat(os.path.dirname(socket)).st_mode)
"""
    done = run(folder, env, program.PROGRAM[0], "-c", script)
    path, mode, folder_mode = done.stdout.split()
    assert stat.S_ISSOCK(int(mode))
    assert stat.S_IMODE(int(mode)) == 0o600
    assert stat.S_IMODE(int(folder_mode)) == 0o700
    assert path.startswith(str(home))
    assert program.left_behind(home) == []


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["no-such-command"], 127, "'no-such-command' was not found"),
        (["./capacitor.config.json"], 126, "cannot be run: Permission denied"),
        (["bunx", "@capgo/cli", "bundle", "upload"], 125, "bunx does not load the signing hook"),
        (["npx", "@capgo/cli", "bundle", "upload", "--no-key"], 125, "uploads the bundle unsigned"),
    ],
)
def test_own_failures_have_codes_of_their_own(folder, env, words, code, sentence, home):
    done = run(folder, env, *words)
    assert done.returncode == code
    assert done.stderr.startswith("privyseal exec: ")
    assert sentence in done.stderr
    assert program.left_behind(home) == []


@pytest.mark.parametrize("arguments", [[], ["--no-such-flag", "true"], ["--timeout", "no", "true"]])
def test_wrong_usage_is_an_own_failure(env, folder, arguments):
    done = subprocess.run([*program.PROGRAM, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 125
    assert done.stderr.startswith("privyseal exec: ")
    assert len(done.stderr.splitlines()) == 1


def test_without_a_service_nothing_runs(folder, env):
    unset = {name: value for name, value in env.items() if name != "PRIVYSEAL_SERVER"}
    done = run(folder, unset, "touch", "ran")
    assert (done.returncode, "no signing service is named" in done.stderr) == (125, True)
    with socket.socket() as closed:  # bound, and never listening
        closed.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{closed.getsockname()[1]}"
        done = run(folder, env, "touch", "ran", flags=["--server", server, "--timeout", "0.5"])
    assert done.returncode == 125
    assert not (folder / "ran").exists()


def test_a_mismatch_is_refused_before_the_command_runs(folder, env):
    other = (VECTORS / "capgo-v2" / "public.pem").read_text()
    (folder / "capacitor.config.json").write_text(
        (folder / "capacitor.config.json").read_text().replace(json.dumps(PEM), json.dumps(other))
    )
    done = run(folder, env, "touch", "ran")
    assert done.returncode == 125
    assert 'holds another publicKey than that of the key "demo"' in done.stderr
    assert f'  "publicKey": {json.dumps(PEM)}\n' in done.stderr
    assert not (folder / "ran").exists()


def test_an_app_without_configuration_is_a_warning_and_strict_an_error(folder, env, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    done = program.run(["true"], cwd=empty, env=env, flags=["--allow-none"])
    assert done.returncode == 0
    assert "warning: there is no capacitor.config in ." in done.stderr
    done = program.run(["touch", "ran"], cwd=empty, env=env, flags=["--allow-none", "--strict"])
    assert done.returncode == 125
    assert not (empty / "ran").exists()
    flags = ["--allow-none", "--strict", "--app", str(folder)]
    assert program.run(["true"], cwd=empty, env=env, flags=flags).returncode == 0


def test_a_private_key_in_the_folder_is_a_warning_and_strict_an_error(folder, env):
    (folder / ".capgo_key_v2").write_bytes((VECTORS / "capgo-v3" / "private.pem").read_bytes())
    done = run(folder, env, "true")
    assert done.returncode == 0
    assert "warning: .capgo_key_v2 holds a private key, which this machine should not have" in done.stderr
    done = run(folder, env, "touch", "ran", flags=["--strict"])
    assert done.returncode == 125
    assert not (folder / "ran").exists()


def started(folder, env, script, **more):
    """The program, once its command printed "ready"; in a session of its own, without a terminal."""
    process = subprocess.Popen(
        [*program.LISTENING, *program.arguments(["--allow-none"], ["sh", "-c", script])],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process):
    """What it and its command wrote until both ended; neither is left behind when they do not."""
    try:
        return process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_signals_reach_the_command_which_decides_what_they_mean(folder, env, number, home):
    script = f'trap "echo got it; exit 7" {number.value}; echo ready; while :; do sleep 0.05; done'
    process = started(folder, env, script)
    process.send_signal(number)
    out, err = ended(process)
    assert (process.returncode, out, err) == (7, "got it\n", "")
    assert program.left_behind(home) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_a_signal_ended_ends_the_program_likewise(folder, env, number, home):
    process = started(folder, env, f"echo ready; kill -{number.value} $$")
    ended(process)
    assert process.returncode == -number
    assert program.left_behind(home) == []


def test_an_ignored_hangup_stays_ignored(folder, env):
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    words = ["sh", "-c", "kill -HUP $PPID; kill -HUP $$; echo alive"]
    done = subprocess.run(
        [*ignoring, *program.arguments(["--allow-none"], words)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n")


def read_until(terminal, text):
    """What the terminal shows, up to `text` or to its end."""
    shown = ""
    deadline = time.monotonic() + 20
    while text not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 4096).decode()
            except OSError:
                break
    return shown


def test_the_terminal_is_the_commands_and_its_keys_reach_it_once(folder, env):
    script = """
n=0
trap 'n=$((n+1))' INT
test -t 0 && test -t 1 && test -t 2 && echo 'a terminal'
read line
echo "n=$n $line"
"""
    terminal, its_other_end = pty.openpty()
    # The first process of a session that opens a terminal has it as its own.
    on_terminal = ["/bin/sh", "-c", 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>&1', "sh", os.ttyname(its_other_end)]
    process = subprocess.Popen(
        [*program.LISTENING, *on_terminal, *program.arguments(["--allow-none"], ["bash", "-c", script])],
        cwd=folder,
        env=env,
        start_new_session=True,
    )
    try:
        shown = read_until(terminal, "a terminal")
        os.write(terminal, b"\x03")
        time.sleep(0.3)  # a second signal, were there one, would have come by then
        os.write(terminal, b"hello\n")
        shown += read_until(terminal, "n=1 hello")
        assert process.wait(200) == 0
    finally:
        process.kill()
        process.wait()
        os.close(its_other_end)
        os.close(terminal)
    assert "a terminal" in shown
    assert "n=1 hello" in shown
