"""The server's settings."""

import math
from dataclasses import asdict
from pathlib import Path

import pytest

from server.config import ServerConfig, parse_config


def test_without_settings_the_server_listens_on_this_machine_alone() -> None:
    config = parse_config([], {})
    assert (config.host, config.port, config.model) == ("127.0.0.1", 8000, "tiny")
    assert not config.has_latency_marker


def test_the_command_line_wins_over_the_environment() -> None:
    environ = {"MIMAFACE_PORT": "9000", "MIMAFACE_MAX_SESSIONS": "7", "PORT": "1"}
    config = parse_config(["--port", "9100"], environ)
    assert (config.port, config.max_sessions) == (9100, 7)


def test_the_latency_budget_is_a_number_of_seconds() -> None:
    assert parse_config([], {}).latency_budget_s == 0.15
    environ = {"MIMAFACE_LATENCY_BUDGET_S": "0.2"}
    assert parse_config([], environ).latency_budget_s == 0.2
    assert parse_config(["--latency-budget-s", "0.3"], environ).latency_budget_s == 0.3


def test_lan_listens_on_every_address_with_tls_or_when_told_that_it_may_without() -> None:
    assert parse_config(["--lan", "--insecure"], {}).host == "0.0.0.0"
    assert parse_config(["--lan", "--tls-cert", "c.pem"], {}).host == "0.0.0.0"
    for arguments in (["--lan"], ["--host", "::"], ["--host", ""], ["--host", "name.example"]):
        with pytest.raises(ValueError, match="give --tls-cert and --tls-key, or --insecure"):
            parse_config(arguments, {"MIMAFACE_INSECURE": "1"})
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1"):
        assert parse_config(["--host", host], {}).is_local
    assert parse_config(["--insecure"], {"MIMAFACE_HOST": "0.0.0.0"}).host == "0.0.0.0"


def test_the_latency_marker_is_asked_for_on_the_command_line_alone() -> None:
    assert parse_config(["--latency-marker"], {}).has_latency_marker
    assert not parse_config([], {"MIMAFACE_HAS_LATENCY_MARKER": "1"}).has_latency_marker


def test_secrets_come_from_the_environment_and_are_not_shown() -> None:
    secret = "x" * 32
    config = parse_config([], {"MIMAFACE_TOKEN_SECRET": secret, "MIMAFACE_TURN_SECRET": secret})
    assert (config.token_secret, config.turn_secret) == (secret, secret)
    assert secret not in repr(config)


@pytest.mark.parametrize("name", ["turn_secret", "token_secret"])
def test_a_secret_may_come_from_a_file(name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from a vault, thirty-two characters\n")
    config = parse_config([], {f"MIMAFACE_{name.upper()}_FILE": str(secret)})
    assert getattr(config, name) == "from a vault, thirty-two characters"
    assert "vault" not in repr(config)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file"), (b" \n", "is empty"), (b"\xff\xfe", "it is not text")],
)
def test_a_secret_file_without_a_secret_is_named(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    secret = tmp_path / "turn"
    if content is not None:
        secret.write_bytes(content)
    with pytest.raises(ValueError, match=f"MIMAFACE_TURN_SECRET_FILE: {secret} .*{reason}"):
        parse_config([], {"MIMAFACE_TURN_SECRET_FILE": str(secret)})


def test_a_turn_secret_is_set_in_one_place_alone(tmp_path: Path) -> None:
    secret = tmp_path / "turn"
    secret.write_text("one")
    environ = {"MIMAFACE_TURN_SECRET_FILE": str(secret), "MIMAFACE_TURN_SECRET": "another"}
    with pytest.raises(ValueError, match="not both"):
        parse_config([], environ)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ValueError, match="MIMAFACE_PORT must be a number, found 'http'"):
        parse_config([], {"MIMAFACE_PORT": "http"})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model": "huge"}, "model must be one of tiny.*found 'huge'"),
        ({"port": 70000}, "port must be 0 to 65,535, found 70000"),
        ({"size_px": 300}, r"size_px must be one of \(256, 512\), found 300"),
        ({"fps": 0}, "fps must be 1 to 60, found 0"),
        ({"max_sessions": 0}, "max_sessions must be 1 to 1,000,000, found 0"),
        ({"max_viewers": 0}, "max_viewers must be 1 to 1,000,000, found 0"),
        ({"requests_per_min": 0}, "requests_per_min must be 1 to 1,000,000, found 0"),
        ({"max_session_s": -1}, "max_session_s must be 0 to 31,536,000, found -1"),
        (
            {"max_sessions_per_address": -1},
            "max_sessions_per_address must be 0 to 1,000,000",
        ),
        ({"tls_key": "k.pem"}, "tls_key needs tls_cert, found the key k.pem alone"),
        ({"token_secret": "short"}, "token_secret must have 32 characters or more, found 5"),
        ({"steps": -1}, "steps must be 0 to 100, found -1"),
        ({"latency_budget_s": 0}, "latency_budget_s must be 0.001 to 5, found 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(**setting)  # type: ignore[arg-type]


NUMBERS = [name for name, value in asdict(ServerConfig()).items() if type(value) in (int, float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.inf, math.nan, -1])
def test_every_number_has_a_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        ServerConfig(**{name: value})  # type: ignore[arg-type]
