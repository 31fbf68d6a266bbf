"""What is on air at other servers: a real nginx over RTMP, and this one's own WHIP endpoint."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import httpx
import numpy as np
import pytest

from mimaface.types import Pixels
from server.config import ServerConfig, parse_config
from server.feed import Feed, OutputState
from server.push import SIZE_PX, Outage, public_part, push
from tests.fakes import Bell
from tests.on_air import driven, picture, tone
from tests.serving import serving

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
needs_nginx = pytest.mark.skipif(
    NGINX is None or not MODULE.is_file(), reason="needs nginx and libnginx-mod-rtmp"
)
KEY = "a-stream-key-nobody-may-see"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def nginx(folder: Path, port: int) -> Iterator[None]:
    """A streaming server."""
    config = folder / "nginx.conf"
    config.write_text(
        f"""
        load_module {MODULE}; daemon off; master_process off; pid {folder}/pid;
        error_log {folder}/error.log info;
        events {{}}
        rtmp {{
            access_log off;
            server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }}
        }}
        """
    )
    assert NGINX is not None
    server = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config)], stderr=subprocess.PIPE)
    try:
        Bell().wait_for(lambda: is_listening(port))
        yield
    finally:
        server.terminate()
        server.communicate(timeout=20)


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def pushing(url: str) -> Iterator[Feed]:
    """Push a bright picture and a tone in real time until the end of the block."""
    feed = Feed(OutputState(name="push"), most_pictures=8, most_pieces=100)
    is_over = threading.Event()

    def film() -> None:
        step = 0
        while not is_over.wait(0.02):
            feed.put(picture(step / 50, 200, size_px=90))
            feed.put(tone(step / 50))
            step += 1

    threads = [
        threading.Thread(target=film, daemon=True),
        threading.Thread(target=push, args=(feed, url), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        yield feed
    finally:
        is_over.set()
        feed.close()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()


def watch(url: str) -> tuple[list[Pixels], float]:
    """Return the first pictures and the loudness that a player gets."""
    shown, levels = [], []
    with av.open(url, timeout=20) as container:
        for packet in container.demux():
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    shown.append(frame.to_ndarray(format="rgb24"))
                else:
                    levels.append(float(np.abs(frame.to_ndarray()).max()))
            if len(shown) >= 20 and len(levels) > 20:
                break
    return shown, float(np.median(levels))


def check(url: str) -> None:
    shown, loudness = watch(url)
    assert shown[-1].shape == (SIZE_PX[1], SIZE_PX[0], 3)
    assert shown[-1][360, 640].astype(int) == pytest.approx([200] * 3, abs=6)
    assert loudness == pytest.approx(0.3, abs=0.05)


@needs_nginx
def test_a_streaming_server_gets_picture_and_sound_and_again_after_it_was_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    port = free_port()
    url = f"rtmp://user:{KEY}@127.0.0.1:{port}/live/{KEY}"
    player = f"rtmp://127.0.0.1:{port}/live/{KEY}"
    bell = Bell()
    with pushing(url) as feed:
        bell.wait_for(lambda: bool(errors(caplog)))
        with nginx(tmp_path, port):
            bell.wait_for(lambda: feed.state.is_up)
            check(player)
        bell.wait_for(lambda: len(errors(caplog)) == 2)
        assert not feed.state.is_up
        with nginx(tmp_path, port):
            bell.wait_for(lambda: feed.state.is_up)
            check(player)
        assert feed.state.dropped > 0
    assert not feed.state.is_up
    told = errors(caplog)
    assert told[0].startswith(f"cannot push to rtmp://127.0.0.1:{port}: Connection refused")
    assert KEY not in caplog.text, "a key never gets into the log"


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]


def test_an_outage_is_told_of_once_and_the_waits_grow(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outage = Outage(OutputState(name="push"), f"rtmps://key@live.example:443/app/{KEY}?x={KEY}")
    waits_s = [outage.begin("no route", lasted_s=0.0) for _ in range(7)]
    assert waits_s == [1, 2, 4, 8, 16, 30, 30]
    outage.end()
    assert outage.begin("reset", lasted_s=60.0) == 1, "it worked, so it is tried soon"
    where = "rtmps://live.example:443"
    assert [each.getMessage() for each in caplog.records] == [
        f"cannot push to {where}: no route; trying again",
        f"{where} is taking what is on air",
        f"cannot push to {where}: reset; trying again",
    ]


def test_a_server_that_never_answers_holds_up_neither_the_calls_nor_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live/{KEY}"
        config = ServerConfig(size_px=256, steps=0, admission_fps=0, push=url)
        with serving(config) as server:
            connection, _ = silent.accept()
            with connection:
                assert httpx.get(f"{server}/livez").status_code == 200
                metrics = httpx.get(f"{server}/metrics").text
                assert 'avatar_output_up{output="push"} 0.0' in metrics


@contextmanager
def redirecting(target: str) -> Iterator[str]:
    """An endpoint that sends its clients elsewhere, and wants to see their token."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            has_token = self.headers["Authorization"].startswith("Bearer ")
            self.send_response(307 if has_token else 401)
            self.send_header("Location", target)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/elsewhere"
        finally:
            server.shutdown()
            thread.join()


def test_a_whip_endpoint_is_driven_by_what_is_pushed_and_told_of_the_end(
    portrait: Path, driving_clip: Path
) -> None:
    config = ServerConfig(size_px=256, steps=0, admission_fps=0, requests_per_min=10_000)
    with serving(config) as far, httpx.Client(base_url=far, timeout=60) as client:
        session = client.post("/v1/sessions", json={"source": portrait.stem, "ttl_s": 600}).json()
        with redirecting(far + session["whip_url"]) as url:
            pushes = replace(config, push=url, push_token=session["tokens"]["publish"])
            with serving(pushes) as near:

                async def script() -> None:
                    async with (
                        httpx.AsyncClient(timeout=60) as looking,
                        driven(near, portrait, driving_clip),
                    ):
                        seen = ""
                        while seen not in ("calibrating", "live"):
                            stats = await looking.get(f"{far}{session['url']}/stats")
                            seen = stats.json()["state"]
                            await asyncio.sleep(0.1)
                        metrics = await looking.get(f"{near}/metrics")
                        assert 'avatar_output_up{output="push"} 1.0' in metrics.text

                asyncio.run(asyncio.wait_for(script(), 90))
        ended = 'avatar_whip_requests_total{code="200",method="DELETE"} 1.0'
        assert ended in client.get("/metrics").text


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        (f"srt://live.example/{KEY}", "rtmps, found 'srt'"),
        (f"live.example/{KEY}", "found ''"),
        (f"rtmp:///live/{KEY}", "must name a server"),
        (f"rtmp://live.example:port/{KEY}", "address that can be read"),
        (f"https://{KEY}@live.example/whip", "MIMAFACE_PUSH_TOKEN"),
    ],
)
def test_an_address_that_cannot_be_pushed_to_is_refused_without_quoting_it(
    url: str, wrong: str
) -> None:
    with pytest.raises(ValueError, match=wrong) as refused:
        parse_config(["--push", url], {})
    assert KEY not in str(refused.value)


def test_neither_help_nor_the_log_shows_the_address_or_the_token(
    capsys: pytest.CaptureFixture[str],
) -> None:
    environ = {"MIMAFACE_PUSH": f"rtmp://live.example/live/{KEY}", "MIMAFACE_PUSH_TOKEN": KEY}
    config = parse_config([], environ)
    assert (config.push, config.push_token) == tuple(environ.values())
    assert KEY not in repr(config)
    with pytest.raises(SystemExit):
        parse_config(["--help"], environ)
    assert KEY not in capsys.readouterr().out
    assert public_part(f"srt://user:{KEY}@live.example:9/{KEY}?{KEY}") == "srt://live.example:9"
