"""The server's settings, from the environment and the command line."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mimaface.config import CONFIGS

PREFIX: Final = "MIMAFACE_"
SIZES_PX: Final = (256, 512)
PUSH_SCHEMES: Final = ("https", "http", "rtmp", "rtmps")

_MANY: Final = 1_000_000
_DAY_S: Final = 24 * 3600

# The least and the most of each number.
_RANGES: Final[dict[str, tuple[float, float]]] = {
    "port": (0, 65535),
    "steps": (0, 100),
    "fps": (1, 60),
    "latency_budget_s": (0.001, 5),
    "max_sessions": (1, _MANY),
    "admission_fps": (0, _MANY),
    "max_upload_bytes": (1024, 2**30),
    "max_uploads": (1, _MANY),
    "upload_ttl_s": (1, 365 * _DAY_S),
    "session_ttl_s": (1, _DAY_S),
    "connect_timeout_s": (0.1, 600),
    "drain_s": (0, _DAY_S),
    "max_viewers": (1, _MANY),
    "max_sessions_per_address": (0, _MANY),
    "max_session_s": (0, 365 * _DAY_S),
    "token_ttl_s": (1, 10 * 365 * _DAY_S),
    "requests_per_min": (1, _MANY),
}


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
        upload_ttl_s: how long a photo that no call uses is kept.
        session_ttl_s: how long a session outlives its peer connection, for a reconnect.
        connect_timeout_s: how long a peer connection may take to come up.
        drain_s: how long calls may go on once the server is asked to end (SIGTERM).
        max_viewers: of one session over WHEP.
        max_sessions_per_address: sessions that one address may have; 0 for no such limit.
        max_session_s: how long a session may last; 0 for as long as its driver stays.
        token_secret: signs the tokens; empty to draw one at the start. `parse_config` also reads it
            from the file that MIMAFACE_TOKEN_SECRET_FILE names.
        token_ttl_s: how long a token opens a connection.
        requests_per_min: that one address may send: POST, PATCH and DELETE, each of WHIP, WHEP,
            sessions and uploads.
        insecure: listen beyond this machine without TLS.
        tls_cert: file of the certificate, with those between it and the root's; empty for no TLS.
        tls_key: file of its key, unless the certificate's file holds it.
        allowed_hosts: names this server has beside localhost and its addresses, with commas between
            them: without TLS of its own it answers to no other, which keeps pages of other sites
            from getting at it by giving their own name its address.
        cors_origins: other sites whose pages may publish and watch, with commas between them.
        ice_urls: STUN and TURN servers that clients are told of, with commas between them.
        turn_secret: shared with those TURN servers; likewise from MIMAFACE_TURN_SECRET_FILE.
        strict_etags: refuse trickled candidates without If-Match, which some clients leave out.
        has_latency_marker: draw the driving frame's block counter on the avatar, to measure.
        has_virtual_camera: show the call on air as a webcam of this machine.
        record: folder for recordings of the calls on air; empty for none.
        push: WHIP (https) or RTMP address the call on air is sent to; empty for none. It may hold a
            secret, which MIMAFACE_PUSH_FILE can keep.
        push_token: bearer token for it, if it is WHIP; likewise from MIMAFACE_PUSH_TOKEN_FILE.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "tiny"
    weights: str = ""
    steps: int = 1
    size_px: int = 512
    fps: int = 30
    latency_budget_s: float = 0.15
    max_sessions: int = 4
    admission_fps: int = 25
    max_upload_bytes: int = 8 * 1024 * 1024
    max_uploads: int = 32
    upload_ttl_s: float = 3600.0
    session_ttl_s: float = 30.0
    connect_timeout_s: float = 10.0
    drain_s: float = 10.0
    max_viewers: int = 8
    max_sessions_per_address: int = 0
    max_session_s: float = 0.0
    token_secret: str = field(default="", repr=False)
    token_ttl_s: float = 12 * 3600.0
    requests_per_min: int = 60
    insecure: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    allowed_hosts: str = ""
    cors_origins: str = ""
    ice_urls: str = ""
    turn_secret: str = field(default="", repr=False)
    strict_etags: bool = False
    has_latency_marker: bool = False
    has_virtual_camera: bool = False
    record: str = ""
    push: str = field(default="", repr=False)
    push_token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if self.model not in CONFIGS:
            raise ValueError(f"model must be one of {', '.join(CONFIGS)}, found {self.model!r}")
        if self.size_px not in SIZES_PX:
            raise ValueError(f"size_px must be one of {SIZES_PX}, found {self.size_px}")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"{name} must be {least:,} to {most:,}, found {value}")
        if self.tls_key and not self.tls_cert:
            raise ValueError(f"tls_key needs tls_cert, found the key {self.tls_key} alone")
        if self.token_secret and len(self.token_secret) < 32:
            raise ValueError(
                f"token_secret must have 32 characters or more, found {len(self.token_secret)}"
            )

        if self.push:
            _check_push(self.push)

    @property
    def is_local(self) -> bool:
        """Whether it listens to this machine alone."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _check_push(push: str) -> None:
    # The address is not quoted: its path or query may be a secret.
    try:
        url = urlsplit(push)
        is_complete = bool(url.hostname) and url.port != 0
    except ValueError:
        raise ValueError("push is not an address that can be read") from None
    if url.scheme not in PUSH_SCHEMES:
        raise ValueError(
            f"push must be an address with {', '.join(PUSH_SCHEMES)}, found {url.scheme!r}"
        )
    if not is_complete:
        raise ValueError(f"push must name a server: {url.scheme}://server/path")
    if url.scheme.startswith("http") and url.username is not None:
        raise ValueError("push to WHIP takes its token from MIMAFACE_PUSH_TOKEN, not the address")


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings named MIMAFACE_HOST, MIMAFACE_MAX_SESSIONS and so on."""
    settings: dict[str, Any] = {}
    for name in ("token_secret", "turn_secret", "push", "push_token"):
        if f"{PREFIX}{name.upper()}_FILE" in environ:
            settings[name] = _read_secret(PREFIX + name.upper(), environ)
    for name, default in asdict(ServerConfig()).items():
        value = environ.get(PREFIX + name.upper())
        if value is None or isinstance(default, bool):
            continue
        try:
            settings[name] = type(default)(value)
        except ValueError as error:
            raise ValueError(f"{PREFIX}{name.upper()} must be a number, found {value!r}") from error
    return settings


def _read_secret(name: str, environ: Mapping[str, str]) -> str:
    path = environ[f"{name}_FILE"]
    if name in environ:
        raise ValueError(f"set {name} or {name}_FILE, not both")
    try:
        secret = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"{name}_FILE: {path} cannot be read: {reason}") from error
    if not secret:
        raise ValueError(f"{name}_FILE: {path} is empty")
    return secret


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
    parser.add_argument("--tls-cert", default=base.tls_cert, help="file of the certificate, PEM")
    parser.add_argument("--tls-key", default=base.tls_key, help="file of its key, PEM")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="let other machines connect without TLS: behind a proxy, or on a network you trust",
    )
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
    parser.add_argument(
        "--virtual-camera",
        action="store_true",
        dest="has_virtual_camera",
        help="show the newest call as a webcam of this machine",
    )
    parser.add_argument(
        "--record", default=base.record, metavar="DIR", help="record the newest call to this folder"
    )
    parser.add_argument(
        "--push",
        default=argparse.SUPPRESS,  # the environment's may hold a secret, and help shows defaults
        metavar="URL",
        help="send the newest call there: WHIP (https://) or RTMP (rtmp://, rtmps://)",
    )
    settings = vars(parser.parse_args(arguments))
    if settings.pop("lan"):
        settings["host"] = "0.0.0.0"
    config = replace(base, **settings)
    if not (config.is_local or config.tls_cert or config.insecure):
        raise ValueError(
            f"other machines can reach {config.host}: give --tls-cert and --tls-key, or --insecure "
            "behind a TLS proxy or on a network you trust"
        )
    return config
