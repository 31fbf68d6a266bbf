"""Weights are fetched from a hub on the loopback; nothing reaches beyond it."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from mimaface.errors import FetchError
from mimaface.hub import (
    FACE_MODEL,
    LICENCES,
    MIMAFACE,
    OFFICIAL,
    FetchReport,
    RemoteFile,
    face_model_note,
    fetch,
)
from tests.hub_stand_in import Hub, forbidden, stand_in_hub

SIZE = 64 * 1024
PIECE = 1024
DROPPED = 40 * 1024
LARGE = "checkpoints/video/mim.pth"

Usage = namedtuple("Usage", "total used free")


def local(file: RemoteFile) -> str:
    return file.local(file.paths[0])


def content_of(path: str) -> bytes:
    if path.endswith(".json"):
        return b'{"layers": 2}\n'
    return np.random.default_rng(len(path)).bytes(SIZE)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with all official files, which a client reads in small pieces and without pauses."""
    repositories: dict[str, dict[str, bytes]] = {}
    for file in OFFICIAL:
        repositories.setdefault(file.repo, {})[file.paths[0]] = content_of(file.paths[0])
    repositories[MIMAFACE][FACE_MODEL] = b"not to be passed on"
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", PIECE)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with stand_in_hub(repositories) as held:
        yield held
    close_session()


@pytest.fixture
def run(hub: Hub, tmp_path: Path):
    """Fetch the official files, or some, into the test's folder."""

    def fetched(*paths: str) -> FetchReport:
        files = [file for file in OFFICIAL if not paths or local(file) in paths]
        return fetch(files, tmp_path, endpoint=hub.endpoint, progress=False)

    return fetched


def _interrupt(_seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def interrupted(hub: Hub, run, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub of a fetch that was ended by hand after its connection broke."""
    hub.drop_after[LARGE] = DROPPED
    with monkeypatch.context() as patched:
        patched.setattr("time.sleep", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(LARGE)
    return hub


def files_in(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found if path.name != ".fetch.lock")


def test_the_whole_layout_is_fetched(hub: Hub, run, tmp_path: Path) -> None:
    report = run()
    assert files_in(tmp_path) == sorted(map(local, OFFICIAL))
    for file in OFFICIAL:
        assert (tmp_path / local(file)).read_bytes() == content_of(file.paths[0])
    assert sorted(report.downloaded) == files_in(tmp_path)
    assert report.downloaded_bytes == sum(each.sent for each in hub.log)
    assert report.verified == report.unverified == report.absent == ()


def test_what_is_there_is_not_downloaded_again(hub: Hub, run) -> None:
    first = run()
    second = run()
    assert sorted(second.verified) == sorted(first.downloaded)
    assert second.downloaded == ()
    assert second.downloaded_bytes == 0
    assert len(hub.log) == len(OFFICIAL)


def test_a_closed_connection_is_resumed_within_a_call(hub: Hub, run, tmp_path: Path) -> None:
    hub.drop_after[LARGE] = DROPPED
    run(LARGE)
    first, second = hub.log
    assert first.range is None
    assert second.range == f"bytes={SIZE - second.sent}-"
    assert SIZE - DROPPED <= second.sent <= SIZE - DROPPED + PIECE
    assert (tmp_path / LARGE).read_bytes() == content_of(LARGE)


def test_a_reset_connection_is_tried_again_within_a_call(hub: Hub, run, tmp_path: Path) -> None:
    hub.drop_after[LARGE], hub.breaks_by = DROPPED, "reset"
    run(LARGE)
    assert len(hub.log) == 2
    assert (tmp_path / LARGE).read_bytes() == content_of(LARGE)


def test_an_interrupted_download_is_resumed_by_the_next_call(
    interrupted: Hub, run, tmp_path: Path
) -> None:
    assert not (tmp_path / LARGE).exists()
    report = run(LARGE)
    first, second = interrupted.log
    assert (first.range, first.sent) == (None, DROPPED)
    assert second.range == f"bytes={SIZE - second.sent}-"
    assert second.sent == report.downloaded_bytes <= SIZE - DROPPED + PIECE
    assert (tmp_path / LARGE).read_bytes() == content_of(LARGE)
    assert files_in(tmp_path) == [LARGE]


def test_the_start_of_another_version_is_not_continued(
    interrupted: Hub, run, tmp_path: Path
) -> None:
    interrupted.repositories[MIMAFACE][LARGE] = b"newer" * 10
    assert run(LARGE).downloaded_bytes == 50
    assert (tmp_path / LARGE).read_bytes() == b"newer" * 10
    assert files_in(tmp_path) == [LARGE]


def test_no_partial_file_ever_has_the_final_name(
    hub: Hub, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    hub.drop_after[LARGE] = DROPPED
    monkeypatch.setattr(
        "time.sleep",
        lambda _seconds: seen.append(files_in(tmp_path)),
    )
    run(LARGE)
    [during] = seen
    assert LARGE not in during
    assert len(during) == 1
    assert during[0].endswith(".part")


def test_a_file_damaged_on_the_way_is_removed_and_replaced_by_the_next_fetch(
    hub: Hub, run, tmp_path: Path
) -> None:
    hub.damaged = {LARGE, "config.json"}
    with pytest.raises(FetchError, match=r"damaged on the way.*mim\.pth.*Fetch again") as raised:
        run()
    assert "vae/config.json" in str(raised.value)
    assert "taesd/config.json" in str(raised.value)
    damaged = {LARGE, "vae/config.json", "taesd/config.json"}
    assert files_in(tmp_path) == sorted(set(map(local, OFFICIAL)) - damaged)
    hub.damaged = set()
    assert set(run().downloaded) == damaged


@pytest.mark.parametrize("change", [lambda held: held[:-1], lambda held: b"x" + held[1:]])
@pytest.mark.parametrize("path", [LARGE, "vae/config.json"])
def test_a_file_that_differs_from_the_hub_s_is_named_and_stays_as_it_is(
    run, tmp_path: Path, path: str, change
) -> None:
    run()
    changed = change((tmp_path / path).read_bytes())
    (tmp_path / path).write_bytes(changed)
    before = files_in(tmp_path)
    with pytest.raises(FetchError, match=f"{path} differs from the hub's: move it away or delete"):
        run()
    assert (tmp_path / path).read_bytes() == changed
    assert files_in(tmp_path) == before
    (tmp_path / path).unlink()
    assert run().downloaded == (path,)


def test_a_newer_version_on_the_hub_deletes_nothing(hub: Hub, run, tmp_path: Path) -> None:
    run(LARGE)
    hub.repositories[MIMAFACE][LARGE] = b"newer" * 10
    with pytest.raises(FetchError, match="differs from the hub's"):
        run()
    assert (tmp_path / LARGE).read_bytes() == content_of(LARGE)
    assert files_in(tmp_path) == [LARGE]


def test_all_missing_files_are_named_in_one_error(hub: Hub, run, tmp_path: Path) -> None:
    gone = [LARGE, "models/D3DFR/netG_epoch_25.pth"]
    either = "checkpoints/image/pretrained_unet/diffusion_pytorch_model.safetensors"
    for path in [*gone, either]:
        del hub.repositories[MIMAFACE][path]
    with pytest.raises(FetchError) as raised:
        run()
    for path in [*gone, either, "unet.pth"]:
        assert path in str(raised.value)
    assert hub.log == []
    assert files_in(tmp_path) == []


def test_a_missing_file_may_be_put_there_by_hand(hub: Hub, run, tmp_path: Path) -> None:
    del hub.repositories[MIMAFACE][LARGE]
    (tmp_path / LARGE).parent.mkdir(parents=True)
    (tmp_path / LARGE).write_bytes(b"from elsewhere")
    assert run().unverified == (LARGE,)
    assert (tmp_path / LARGE).read_bytes() == b"from elsewhere"


def test_the_second_name_is_taken_where_the_first_is_missing(hub: Hub, run, tmp_path: Path) -> None:
    folder = "checkpoints/image/pretrained_unet"
    held = hub.repositories[MIMAFACE]
    held[f"{folder}/unet.pth"] = held.pop(f"{folder}/diffusion_pytorch_model.safetensors")
    report = run()
    assert f"{folder}/unet.pth" in report.downloaded
    assert f"{folder}/diffusion_pytorch_model.safetensors" not in files_in(tmp_path)


def test_an_optional_file_may_be_missing(hub: Hub, run) -> None:
    path = "checkpoints/video/vision_encoder/config.json"
    del hub.repositories[MIMAFACE][path]
    assert run().absent == (path,)


def test_a_full_disk_is_an_error_before_any_byte(
    hub: Hub, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(len(content_of(file.paths[0])) for file in OFFICIAL)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, needed - 1))
        with pytest.raises(FetchError, match=r"needs 0\.00 GB more and has 0\.00 GB free"):
            run()
    assert hub.log == []
    assert files_in(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, needed))
    run()


def test_what_has_arrived_needs_no_room(
    interrupted: Hub, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = SIZE - DROPPED + PIECE
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(0, 0, free))
    run(LARGE)
    assert interrupted.log[-1].sent <= free


@pytest.mark.usefixtures("hub")
def test_a_hub_out_of_reach_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot be reached .*check the connection") as raised:
        fetch(OFFICIAL, tmp_path / "new", endpoint="http://127.0.0.1:1", progress=False)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()


def test_a_hub_that_goes_away_is_one_clear_error_and_can_be_resumed(hub: Hub, run) -> None:
    hub.drop_after[LARGE], hub.is_going = DROPPED, True
    with pytest.raises(FetchError, match="what has arrived is kept") as raised:
        run(LARGE)
    assert "\n" not in str(raised.value)
    hub.is_gone = False
    assert run(LARGE).downloaded == (LARGE,)
    assert hub.log[-1].range is not None


@pytest.mark.parametrize(
    ("misbehave", "message"),
    [
        (lambda hub: hub.repositories.pop(MIMAFACE), "not on the hub, or private"),
        (lambda hub: hub.gated.add(MIMAFACE), "accept them on its page"),
        (lambda hub: setattr(hub, "status", 503), "answers 503"),
        (lambda hub: setattr(hub, "status", 203), "is not the hub"),
    ],
    ids=["no repository", "gated", "out of order", "a page in its place"],
)
def test_a_refusal_is_one_clear_error(hub: Hub, run, misbehave, message: str) -> None:
    misbehave(hub)
    with pytest.raises(FetchError, match=message) as raised:
        run()
    assert "\n" not in str(raised.value)


def test_two_fetches_into_one_folder_do_not_mix(hub: Hub, run, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".fetch.lock"),
        pytest.raises(FetchError, match="another fetch is at work"),
    ):
        run()
    assert hub.log == []


def test_a_folder_that_cannot_be_made_is_one_clear_error(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(FetchError, match="weights cannot be written"):
        fetch(OFFICIAL, tmp_path / "weights", endpoint=hub.endpoint, progress=False)


def test_a_folder_that_cannot_be_searched_is_one_clear_error(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 100)
    with pytest.raises(FetchError, match="cannot be looked for: File name too long"):
        fetch(OFFICIAL, folder, endpoint=hub.endpoint, progress=False)
    with forbidden(tmp_path), pytest.raises(FetchError, match="looked for: Permission denied"):
        fetch(OFFICIAL, tmp_path, endpoint=hub.endpoint, progress=False)


def test_the_face_model_is_never_downloaded(run, tmp_path: Path) -> None:
    run()
    assert FACE_MODEL not in files_in(tmp_path)
    assert FACE_MODEL not in {file.local(path) for file in OFFICIAL for path in file.paths}
    note = face_model_note(tmp_path)
    assert note is not None
    assert str(tmp_path / FACE_MODEL) in note
    (tmp_path / FACE_MODEL).write_bytes(b"got by hand")
    assert face_model_note(tmp_path) is None


def test_every_repository_has_its_licence_stated() -> None:
    assert {file.repo for file in OFFICIAL} <= set(LICENCES)
