"""The images' recipes: the same steps as on a laptop, and nothing the server does not need."""

import ipaddress
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import parse_config
from server.health_check import is_alive

ROOT = Path(__file__).parents[1]
DOCKERFILES = ["Dockerfile", "Dockerfile.cpu"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, their continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "docker" / name).read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines if line]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    return loaded


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_installs_with_the_makefiles_own_command(name: str) -> None:
    [install] = [
        text for kind, text in instructions(name) if kind == "RUN" and text.startswith("make")
    ]
    command = install.split()
    assert command[:2] == ["make", "install"]
    planned = subprocess.run(
        [*command, "--dry-run", "--always-make"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    ours = subprocess.run(
        ["make", "install", "--dry-run", "--always-make", "PYTHON=python3.12"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--constraint constraints.txt" in planned
    assert planned == ours.replace("[server,dev]", "[server]")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_has_the_libraries_that_a_fresh_machine_gets(name: str) -> None:
    [packages] = [text for kind, text in instructions(name) if kind == "RUN" and "apt-get" in text]
    fresh = (ROOT / ".ci" / "run").read_text()
    for library in ("libgl1", "libglib2.0-0"):
        assert f" {library}" in packages
        assert f" {library}" in fresh


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_serves_as_make_does_without_root_and_says_how_it_is(name: str) -> None:
    steps = dict(instructions(name))
    assert steps["ENTRYPOINT"] == '["python", "-m", "server"]'
    assert "$(BIN)/python -m server $(ARGS)" in (ROOT / "Makefile").read_text()
    assert "PATH=/app/.venv/bin:$PATH" in steps["ENV"]
    assert steps["WORKDIR"] == "/app"
    assert int(steps["USER"].partition(":")[0]) > 0
    assert steps["HEALTHCHECK"].endswith('CMD ["python", "-m", "server.health_check"]')
    kinds = [kind for kind, _ in instructions(name)]
    assert kinds.index("USER") > max(at for at, kind in enumerate(kinds) if kind in ("RUN", "COPY"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_holds_what_the_server_needs_and_nothing_else(name: str) -> None:
    copied = {
        source
        for kind, text in instructions(name)
        if kind == "COPY"
        for source in text.split()[:-1]
    }
    assert {"mimaface", "streaming", "server", "client"} <= copied
    assert all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied


def can_mount() -> bool:
    """Whether this machine lets a test change what it sees of the file system."""
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/tmp"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


@pytest.mark.skipif(
    shutil.which("unshare") is None or not can_mount(), reason="mounting needs root's rights"
)
def test_the_server_runs_where_nothing_can_be_written_but_tmp() -> None:
    steps = dict(instructions("Dockerfile.cpu"))
    set_ = dict(pair.split("=", 1) for pair in steps["ENV"].split() if "PATH" not in pair)
    only_tmp = (
        "mount --make-rprivate / && mount -o remount,bind,ro / && "
        "mount -t tmpfs -o noexec,nosuid,nodev tmpfs /tmp && "
        '! touch "$0" 2>/dev/null && exec "$@"'
    )
    command = [sys.executable, "-m", "server", "--port", "0", "--steps", "0", "--size-px", "256"]
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", only_tmp, ROOT / "written", *command],
        cwd=ROOT,
        env=set_ | {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        told = ""
        try:
            while not (found := re.search(r"http://localhost:\d+", told)):
                line = server.stdout.readline()
                assert line, told
                told += line
            assert is_alive(found[0])
        finally:
            server.terminate()


@pytest.mark.parametrize("service", ["server", "coturn"])
def test_a_service_can_change_nothing_and_has_no_more_rights_than_it_needs(service: str) -> None:
    described = compose()["services"][service]
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert set(described.get("cap_add", [])) <= {"NET_BIND_SERVICE"}
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert not described["user"].startswith("0")
    assert described["ulimits"]["core"] == 0
    assert all(":ro" in volume for volume in described.get("volumes", []))
    assert described["healthcheck"]["test"][0] == "CMD"


def test_the_composed_servers_settings_are_the_servers(tmp_path: Path) -> None:
    described = compose()
    server = described["services"]["server"]
    held = {}
    for name, secret in described["secrets"].items():
        assert set(secret) == {"file"}, "secrets come from files"
        (tmp_path / name).write_text(f"{name} of thirty-two characters or more")
        held[f"/run/secrets/{name}"] = str(tmp_path / name)
    environ = {name: held.get(value, value) for name, value in server["environment"].items()}
    assert not [name for name in environ if "SECRET" in name and not name.endswith("_FILE")]
    config = parse_config(server["command"], environ)
    assert config.token_secret.startswith("token_secret of")
    assert config.turn_secret.startswith("turn_secret of")
    assert (config.max_sessions_per_address, config.max_session_s) == (2, 7200.0)
    assert (config.is_local, config.insecure) == (False, False)
    assert {config.tls_cert, config.tls_key} <= held.keys()
    check = server["healthcheck"]["test"]
    assert check[1:] == ["python", "-m", "server.health_check", f"https://127.0.0.1:{config.port}"]


def relayed(address: str) -> bool:
    """Whether docker/turnserver.conf lets a relay send to an address."""
    where = ipaddress.ip_address(address)
    for line in (ROOT / "docker" / "turnserver.conf").read_text().splitlines():
        name, _, denied = line.partition("=")
        if name == "denied-peer-ip":
            first, last = map(ipaddress.ip_address, denied.split("-"))
            if first.version == where.version and int(first) <= int(where) <= int(last):
                return False
    return True


def test_the_relay_is_no_way_into_its_own_network() -> None:
    settings = (ROOT / "docker" / "turnserver.conf").read_text().splitlines()
    assert {"use-auth-secret", "no-tcp-relay", "no-multicast-peers", "no-cli"} <= set(settings)
    assert not [line for line in settings if line.startswith(("static-auth-secret", "user="))]
    for address in (
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.255.255"),
        *("192.168.1.1", "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1"),
        *("fd00:ec2::254", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "ff02::1"),
    ):
        assert not relayed(address), address
    for address in ("8.8.8.8", "172.32.0.1", "2606:4700::1111"):
        assert relayed(address), address


@pytest.mark.skipif(shutil.which("turnserver") is None, reason="coturn is not installed")
def test_coturn_takes_its_settings(tmp_path: Path) -> None:
    settings = (ROOT / "docker" / "turnserver.conf").read_text() + "static-auth-secret=x\n"
    for name, value in {"listening-port": "0", "pidfile": tmp_path / "pid"}.items():
        settings = re.sub(rf"^{name}=.*$", f"{name}={value}", settings, flags=re.MULTILINE)
    file = tmp_path / "turnserver.conf"
    file.write_text(settings)
    program = subprocess.Popen(
        ["turnserver", "-c", file, "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert program.stdout is not None
    told = []
    patience = threading.Timer(30, program.kill)
    patience.start()
    try:
        for line in program.stdout:
            told.append(line)
            if "ff00::" in line:  # the last of the ranges
                break
    finally:
        patience.cancel()
        program.terminate()
    told += program.communicate(timeout=30)[0].splitlines()
    assert any("ff00::" in line for line in told), told
    assert not [line for line in told if re.search("bad configuration|unrecognized", line, re.I)]
