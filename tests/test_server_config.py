"""The server's settings."""

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
    assert parse_config([], {}).latency_budget_s == 0.12
    environ = {"MIMAFACE_LATENCY_BUDGET_S": "0.2"}
    assert parse_config([], environ).latency_budget_s == 0.2
    assert parse_config(["--latency-budget-s", "0.3"], environ).latency_budget_s == 0.3


def test_lan_listens_on_every_address() -> None:
    assert parse_config(["--lan"], {}).host == "0.0.0.0"


def test_the_latency_marker_is_asked_for_on_the_command_line_alone() -> None:
    assert parse_config(["--latency-marker"], {}).has_latency_marker
    assert not parse_config([], {"MIMAFACE_HAS_LATENCY_MARKER": "1"}).has_latency_marker


def test_secrets_come_from_the_environment_and_are_not_shown() -> None:
    secret = "x" * 32
    config = parse_config([], {"MIMAFACE_TOKEN_SECRET": secret, "MIMAFACE_TURN_SECRET": secret})
    assert (config.token_secret, config.turn_secret) == (secret, secret)
    assert secret not in repr(config)


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ValueError, match="MIMAFACE_PORT must be a number, found 'http'"):
        parse_config([], {"MIMAFACE_PORT": "http"})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model": "huge"}, "model must be one of tiny.*found 'huge'"),
        ({"port": 70000}, "port must be 0 to 65535, found 70000"),
        ({"size_px": 300}, r"size_px must be one of \(256, 512\), found 300"),
        ({"fps": 0}, "fps must be 1 to 60, found 0"),
        ({"max_sessions": 0}, "max_sessions must be at least 1, found 0"),
        ({"max_viewers": 0}, "max_viewers must be at least 1, found 0"),
        ({"requests_per_min": 0}, "requests_per_min must be at least 1, found 0"),
        ({"token_secret": "short"}, "token_secret must have 32 characters or more, found 5"),
        ({"steps": -1}, "steps must not be negative, found -1"),
        ({"latency_budget_s": 0}, "latency_budget_s must be 0.02 to 5, found 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(**setting)  # type: ignore[arg-type]
