"""The published Capgo CLI, and apps for it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import npm

LOCKED = Path(__file__).parent.parent / "interop" / "capgo-cli"
UPDATER_VERSIONS = {"capgo-v2": "7.27.8", "capgo-v3": "8.51.23"}


def install() -> Path:
    """The CLI's script."""
    # Not `npm ci`: the CLI names optional helpers for other systems that a mirror may lack.
    return npm.install(LOCKED, command="install") / "node_modules" / "@capgo" / "cli" / "dist" / "index.js"


@dataclass(frozen=True)
class CapgoApp:
    """An app's folder as the CLI wants it: a Capacitor configuration, and the updater plugin of one generation."""

    folder: Path
    script: Path

    def run(self, *arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the CLI in the app's folder without network, login or telemetry."""
        return subprocess.run(
            ["node", str(self.script), *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "CI": "1", "CAPGO_DISABLE_TELEMETRY": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )


def make_app(folder: Path, public_key_pem: str, format_name: str) -> CapgoApp:
    """An app that embeds `public_key_pem` (PKCS#1) and has the updater plugin that reads `format_name`."""
    updater = folder / "node_modules" / "@capgo" / "capacitor-updater"
    updater.mkdir(parents=True)
    version = UPDATER_VERSIONS[format_name]
    (updater / "package.json").write_text(json.dumps({"name": "@capgo/capacitor-updater", "version": version}))
    (folder / "package.json").write_text(
        json.dumps({"name": "app", "version": "1.0.0", "dependencies": {"@capgo/capacitor-updater": version}})
    )
    (folder / "capacitor.config.json").write_text(
        json.dumps(
            {
                "appId": "com.example.app",
                "appName": "app",
                "webDir": "dist",
                "plugins": {"CapacitorUpdater": {"publicKey": public_key_pem}},
            }
        )
    )
    (folder / "public.pem").write_text(public_key_pem)
    return CapgoApp(folder, install())
