"""The server's settings, from the environment and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from mimaface.config import CONFIGS

PREFIX: Final = "MIMAFACE_"
SIZES_PX: Final = (256, 512)


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """How one server runs.

    Attributes:
        host: address to listen on.
        port: port to listen on, 0 for any free one.
        model: name of the model.
        weights: file of the model's weights; empty for those that come with the package.
        steps: denoising steps of a frame at best; 0 is the mesh, which needs no weights.
        size_px: side of the square avatar.
        fps: avatar frames per second at best.
        latency_budget_s: age of a driving frame at which its avatar frame comes late, a chunk's
            counted from its newest frame on: quality goes down when one in twenty does, and
            driving frames that are older are not looked at.
        max_sessions: sessions at a time; the next one is told to come back later.
        admission_fps: so is one beside which this machine could not give all of them so many
            frames a second, be it without denoising steps; 0 for no such limit.
        max_upload_bytes: of one uploaded photo.
        max_uploads: photos kept at a time; the oldest gives way.
        upload_ttl_s: how long an unused photo is kept.
        session_ttl_s: how long a session outlives its peer connection, for a reconnect.
        connect_timeout_s: how long a peer connection may take to come up.
        max_viewers: of one session over WHEP.
        token_secret: signs the tokens; empty to draw one at the start.
        token_ttl_s: how long a token opens a connection.
        requests_per_min: POST, PATCH and DELETE of WHIP and WHEP that one address may send, each.
        cors_origins: other sites whose pages may publish and watch, with commas between them.
        ice_urls: STUN and TURN servers that clients are told of, with commas between them.
        turn_secret: shared with those TURN servers.
        strict_etags: refuse trickled candidates without If-Match, which some clients leave out.
        has_latency_marker: draw the driving frame's block counter on the avatar, to measure.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "tiny"
    weights: str = ""
    steps: int = 1
    size_px: int = 512
    fps: int = 30
    latency_budget_s: float = 0.12
    max_sessions: int = 4
    admission_fps: int = 25
    max_upload_bytes: int = 8 * 1024 * 1024
    max_uploads: int = 32
    upload_ttl_s: float = 3600.0
    session_ttl_s: float = 30.0
    connect_timeout_s: float = 10.0
    max_viewers: int = 8
    token_secret: str = field(default="", repr=False)
    token_ttl_s: float = 12 * 3600.0
    requests_per_min: int = 60
    cors_origins: str = ""
    ice_urls: str = ""
    turn_secret: str = field(default="", repr=False)
    strict_etags: bool = False
    has_latency_marker: bool = False

    def __post_init__(self) -> None:
        if self.model not in CONFIGS:
            raise ValueError(f"model must be one of {', '.join(CONFIGS)}, found {self.model!r}")
        if self.size_px not in SIZES_PX:
            raise ValueError(f"size_px must be one of {SIZES_PX}, found {self.size_px}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be 0 to 65535, found {self.port}")
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, found {self.steps}")
        if not 1 <= self.fps <= 60:
            raise ValueError(f"fps must be 1 to 60, found {self.fps}")
        if not 0.02 <= self.latency_budget_s <= 5:
            raise ValueError(f"latency_budget_s must be 0.02 to 5, found {self.latency_budget_s}")
        if self.admission_fps < 0:
            raise ValueError(f"admission_fps must not be negative, found {self.admission_fps}")
        if self.max_sessions < 1:
            raise ValueError(f"max_sessions must be at least 1, found {self.max_sessions}")
        if self.max_viewers < 1:
            raise ValueError(f"max_viewers must be at least 1, found {self.max_viewers}")
        if self.requests_per_min < 1:
            raise ValueError(f"requests_per_min must be at least 1, found {self.requests_per_min}")
        if self.token_secret and len(self.token_secret) < 32:
            raise ValueError(
                f"token_secret must have 32 characters or more, found {len(self.token_secret)}"
            )


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings named MIMAFACE_HOST, MIMAFACE_MAX_SESSIONS and so on."""
    settings: dict[str, Any] = {}
    for name, default in asdict(ServerConfig()).items():
        value = environ.get(PREFIX + name.upper())
        if value is None or isinstance(default, bool):
            continue
        try:
            settings[name] = type(default)(value)
        except ValueError as error:
            raise ValueError(f"{PREFIX}{name.upper()} must be a number, found {value!r}") from error
    return settings


def parse_config(arguments: Sequence[str], environ: Mapping[str, str]) -> ServerConfig:
    """Return the settings of a command line; what it leaves out comes from the environment.

    Raises:
        ValueError: a setting is out of range.
        SystemExit: the command line is wrong, or asks for help.
    """
    base = ServerConfig(**read_environment(environ))
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve live avatars to browsers.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default=base.host, help="address to listen on")
    parser.add_argument("--port", type=int, default=base.port, help="port to listen on, 0 for any")
    parser.add_argument("--model", choices=sorted(CONFIGS), default=base.model, help="which one")
    parser.add_argument("--weights", default=base.weights, help="file, if not the package's")
    parser.add_argument(
        "--steps",
        type=int,
        default=base.steps,
        help="denoising steps per frame at best; 0 is the mesh",
    )
    parser.add_argument(
        "--size-px",
        type=int,
        choices=SIZES_PX,
        default=base.size_px,
        help="side of the avatar; 256 takes less of the processor",
    )
    parser.add_argument(
        "--latency-budget-s",
        type=float,
        default=base.latency_budget_s,
        help="from a decoded driving frame to its avatar frame; quality gives way to keep it",
    )
    parser.add_argument("--lan", action="store_true", help="let other machines connect")
    parser.add_argument(
        "--latency-marker",
        action="store_true",
        dest="has_latency_marker",
        help="copy the block counter of a test picture onto the avatar, to measure latency",
    )
    parser.add_argument(
        "--strict-etags",
        action="store_true",
        help="refuse trickled candidates without If-Match, as RFC 9725 asks",
    )
    settings = vars(parser.parse_args(arguments))
    if settings.pop("lan"):
        settings["host"] = "0.0.0.0"
    return replace(base, **settings)
