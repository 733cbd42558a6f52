"""What the words of a command say."""

from __future__ import annotations

import shlex

import pytest

from privyseal.exec.words import understand


@pytest.mark.parametrize(
    ("line", "runtime"),
    [
        ("bunx @capgo/cli bundle upload", "bunx"),
        ("bun x @capgo/cli bundle upload", "bun"),
        ("/opt/bun/bin/bun node_modules/@capgo/cli/dist/index.js bundle upload", "bun"),
        ("deno run -A npm:@capgo/cli bundle upload", "deno"),
        ("env CI=1 bunx --bun @capgo/cli@latest bundle upload", "bunx"),
        ("npx bun x @capgo/cli bundle upload", "bun"),
        ("sh -c 'cd app && bunx @capgo/cli bundle upload'", "bunx"),
        ("bash -ec 'bun run release'", "bun"),
        ("npx @capgo/cli bundle upload --comment bun", None),
        ("node release.js", None),
        ("npx @capgo/cli bundle upload", None),
        ("./bundle.sh", None),
    ],
)
def test_runtimes_that_do_not_load_the_hook_are_seen(line, runtime):
    assert understand(shlex.split(line)).foreign_runtime == runtime


@pytest.mark.parametrize(
    ("line", "subcommand"),
    [
        ("npx @capgo/cli bundle upload --delta", ("bundle", "upload")),
        ("npx -y @capgo/cli@8.68.1 bundle upload", ("bundle", "upload")),
        ("npx --yes --package=@capgo/cli capgo bundle u", ("bundle", "u")),
        ("node_modules/.bin/capgo --capacitor-config capacitor.config.ts bundle encrypt a.zip", ("bundle", "encrypt")),
        ("node /x/node_modules/@capgo/cli/dist/index.js bundle list", ("bundle", "list")),
        ("pnpm exec capgo channel set", ("channel", "set")),
        ("npx @capgo/cli", ()),
    ],
)
def test_the_capgo_command_is_found(line, subcommand):
    assert understand(shlex.split(line)).subcommand == subcommand


@pytest.mark.parametrize(
    "line",
    [
        "npx @capgo/cli bundle upload --delta",
        "npx @capgo/cli bundle u com.example.app",
        "npx @capgo/cli bundle encrypt app.zip 00",
        "npx @capgo/cli bundle upload --version-exists-ok",
        "npx @capgo/cli bundle something-new",
        "npx @capgo/cli something-new",
        "npx @capgo/cli init",
        "npm run release",
        "node release.js --help",
        "sh -c 'npx @capgo/cli bundle list && npx @capgo/cli bundle upload'",
    ],
)
def test_what_is_not_known_to_sign_nothing_owes_a_signature(line):
    assert understand(shlex.split(line)).owes_signature


@pytest.mark.parametrize(
    "line",
    [
        "npx @capgo/cli",
        "npx @capgo/cli --version",
        "npx @capgo/cli bundle upload --help",
        "npx @capgo/cli bundle",
        "npx @capgo/cli bundle list",
        "npx @capgo/cli bundle zip com.example.app --json",
        "npx @capgo/cli bundle decrypt a.zip IV:KEY",
        "npx @capgo/cli bundle upload --external=https://cdn.example/a.zip --iv-session-key IV:KEY",
        "npx @capgo/cli bundle upload -e https://cdn.example/a.zip",
        "npx @capgo/cli channel set production",
        "npx @capgo/cli login KEY",
    ],
)
def test_what_is_known_to_sign_nothing_owes_none(line):
    assert not understand(shlex.split(line)).owes_signature


def test_options_are_read_in_both_forms():
    command = understand(["npx", "@capgo/cli", "bundle", "upload", "-b", "1.2.3", "--path=www", "--no-key"])
    assert command.bundle_version == "1.2.3"
    assert command.option("--path") == "www"
    assert command.option("--channel") is None
    assert command.has_option("--no-key")
    assert understand(["npx", "@capgo/cli", "bundle", "upload", "--bundle"]).bundle_version == ""


def test_text_of_a_shell_that_is_not_well_formed_is_still_looked_at():
    assert understand(["sh", "-c", "bunx @capgo/cli bundle upload '"]).foreign_runtime == "bunx"
