"""Packages of npm and of dpkg for tests, made on the spot: no registry is asked."""

import json
import subprocess

from tests.conftest import Agent

DEB = "ca-test-deb"
NPM = "ca-test-npm"


def make(agent: Agent, prefix: str) -> str:
    """Make one of each in the work directory; the command that installs both, that of npm below `prefix`."""
    package = agent.workdir / "package"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": NPM, "version": "1.0.0", "bin": {NPM: "main.js"}}))
    (package / "main.js").write_text("#!/usr/bin/env node\nconsole.log('npm works')\n")
    deb = agent.workdir / "deb"
    (deb / "DEBIAN").mkdir(parents=True)
    (deb / "DEBIAN/control").write_text(
        f"Package: {DEB}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: test\n"
    )
    (deb / "usr/bin").mkdir(parents=True)
    (deb / "usr/bin" / DEB).write_text("#!/bin/sh\necho deb works\n")
    (deb / "usr/bin" / DEB).chmod(0o755)
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", "deb", "x.deb"], cwd=agent.workdir, check=True)
    return f"npm install --offline -g --prefix {prefix} $(npm pack ./package) && apt-get install -y ./x.deb"
