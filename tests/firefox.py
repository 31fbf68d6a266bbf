"""The system's Firefox and a driver for it: WebDriver BiDi, which Firefox speaks by itself.

Its camera is a clip, drawn on a canvas once the browser has given one of its own fake cameras.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
from websockets.sync.client import ClientConnection, connect

from tests.browser_setup import FPS

ANSWER_S = 60.0

# No traffic of its own, and a camera and a microphone that nobody has to plug in or to allow.
PREFERENCES = {
    "app.update.disabledForTesting": True,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "media.gmp-manager.updateEnabled": False,
    "media.navigator.permission.disabled": True,
    "media.navigator.streams.fake": True,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}

CAMERA = """
() => {
  const { mediaDevices } = navigator;
  if (!mediaDevices) return; // The empty page that every tab begins with.
  const getUserMedia = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = async (constraints) => {
    const stream = await getUserMedia(constraints);
    if (!constraints.video) return stream;
    const clip = CLIP.map((jpeg) => Uint8Array.from(atob(jpeg), (byte) => byte.charCodeAt(0)));
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    const draw = async (index) => {
      const picture = await createImageBitmap(new Blob([clip[index % clip.length]]));
      if (!index) [canvas.width, canvas.height] = [picture.width, picture.height];
      context.drawImage(picture, 0, 0);
      picture.close();
    };
    await draw(0);
    let drawn = 0;
    setInterval(() => draw(++drawn), 1000 / FPS);
    for (const track of stream.getTracks()) track.stop();
    return canvas.captureStream();
  };
}
"""


def find_firefox() -> str | None:
    """Return the path of the system's Firefox, if there is one."""
    return next((path for name in ("firefox-esr", "firefox") if (path := shutil.which(name))), None)


class Tab:
    """A page of a browser."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    def goto(self, url: str) -> None:
        self._send("browsingContext.navigate", url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Return what it is, or what it promises, as far as JSON can say it."""
        answer = self._firefox.send(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._context},
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return json.loads(answer["result"]["value"])

    def wait_until(self, condition: str, *, within_ms: int = 20_000) -> None:
        looks = within_ms // 50
        is_true = self.evaluate(
            f"""(async () => {{
              for (let look = 0; look < {looks}; look++) {{
                if ({condition}) return true;
                await new Promise((resolve) => setTimeout(resolve, 50));
              }}
              return false;
            }})()"""
        )
        assert is_true, f"never came true: {condition}; {self.evaluate('document.body.innerText')}"

    def click(self, selector: str) -> None:
        found = self._send(
            "browsingContext.locateNodes", locator={"type": "css", "value": selector}
        )
        [node] = found["nodes"]
        origin = {"type": "element", "element": {"sharedId": node["sharedId"]}}
        actions = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        pointer = {"type": "pointer", "id": "mouse", "actions": actions}
        self._send("input.performActions", actions=[pointer])

    def screenshot(self, *, width: int, height: int) -> bytes:
        """Return a PNG of the page in a viewport of that size."""
        self._send("browsingContext.setViewport", viewport={"width": width, "height": height})
        return base64.b64decode(self._send("browsingContext.captureScreenshot")["data"])

    def close(self) -> None:
        self._send("browsingContext.close")

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._firefox.send(method, context=self._context, **parameters)


class Firefox:
    """A browser that runs."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count()
        self.errors: list[str] = []  # what went wrong in pages' scripts

    def open(self, before: str | None = None) -> Tab:
        """Open an empty page; `before` is a function that each one after it begins with."""
        # In a window of its own: what runs in a tab that is hidden is slowed down.
        context = self.send("browsingContext.create", type="window")["context"]
        if before is not None:
            self.send("script.addPreloadScript", functionDeclaration=before, contexts=[context])
        return Tab(self, context)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        command = next(self._ids)
        message = {"id": command, "method": method, "params": parameters}
        self._connection.send(json.dumps(message))
        while True:
            answer = json.loads(self._connection.recv(timeout=ANSWER_S))
            if answer["type"] == "event":
                entry = answer["params"]
                if entry["type"] == "javascript" and entry["level"] == "error":
                    self.errors.append(entry["text"])
            elif answer["id"] == command:
                assert answer["type"] == "success", f"{method}: {answer['message']}"
                result: dict[str, Any] = answer["result"]
                return result


@contextlib.contextmanager
def run_firefox(profile: Path, webcam: Path) -> Iterator[Firefox]:
    """Run Firefox, whose camera plays a clip again and again, until the block ends.

    It has a window where there is an X server to be had that shows nothing: without a window it
    has no WebGL.
    """
    lines = (
        f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
        for name, value in PREFERENCES.items()
    )
    (profile / "user.js").write_text("".join(lines))
    executable = find_firefox()
    assert executable is not None, "who has none skips"
    command = [executable, "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    with contextlib.ExitStack() as stack:
        environ = dict(os.environ, MOZ_CRASHREPORTER_DISABLE="1", MOZ_HEADLESS="1")
        if has_display():
            environ["DISPLAY"] = stack.enter_context(_run_display())
            del environ["MOZ_HEADLESS"]
        process = stack.enter_context(
            subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)
        assert process.stderr is not None, "it was asked for"
        for line in process.stderr:
            if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
                break
        else:
            raise RuntimeError(f"Firefox ended with status {process.wait()}")
        # Nobody reads what else it says, but a full pipe would stop it.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        with connect(f"{found[1]}/session", max_size=None) as connection:
            firefox = Firefox(connection)
            firefox.send("session.new", capabilities={})
            firefox.send("session.subscribe", events=["log.entryAdded"])
            firefox.send("script.addPreloadScript", functionDeclaration=_camera(webcam))
            yield firefox
            firefox.send("browser.close")
        process.wait(ANSWER_S)


def has_display() -> bool:
    """Return whether Firefox gets a window, and WebGL with it."""
    return shutil.which("Xvfb") is not None


@contextlib.contextmanager
def _run_display() -> Iterator[str]:
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x1024x24"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, pass_fds=[writing], stderr=quiet) as process:
        os.close(writing)
        with os.fdopen(reading) as numbers:
            yield f":{numbers.readline().strip()}"
        process.terminate()


def _camera(clip: Path) -> str:
    """Return a function that gives pages a clip of JPEGs as their camera."""
    with av.open(clip) as container:
        pictures = [
            base64.b64encode(packet).decode() for packet in container.demux() if packet.size
        ]
    return CAMERA.replace("FPS", str(FPS)).replace("CLIP", json.dumps(pictures), 1)
