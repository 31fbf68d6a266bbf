"""The official model's files, from the hub into the folder they are loaded from.

What the repositories hold is asked first, so that missing files and missing room are known before
the first byte. A file appears under its name when its hash is right, and an interrupted download
goes on where it stopped. Knows nothing of what is in the files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # not in __all__
from huggingface_hub.utils.tqdm import silent_tqdm, tqdm

from mimaface.errors import FetchError

MIMAFACE: Final = "MIMAFace/MIMAFace"
VAE: Final = "stabilityai/sd-vae-ft-mse"
TINY_VAE: Final = "madebyollin/taesd"
FACE_MODEL: Final = "models/D3DFR/BFM09_model_info.mat"

# What is fetched or has to be got, and its terms.
LICENCES: Final[Mapping[str, str]] = {
    MIMAFACE: "no licence stated; trained on VoxCeleb2 and VFHQ",
    "CurricularFace, in the above": "code MIT; no licence of the weights stated",
    VAE: "MIT",
    TINY_VAE: "MIT",
    f"Basel Face Model 2009, {FACE_MODEL}": "non-commercial, after registration; not downloaded",
}

LISTING_S: Final = 20.0  # how long the hub may take to list a repository
MOST_FRUITLESS: Final = 5  # connections reset in a row without a byte
PAUSE_S: Final = 1.0  # between them
PIECE: Final = 1 << 20  # bytes hashed at a time


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository, and its place.

    Attributes:
        repo: the repository on the hub, "owner/name".
        paths: where it may be in the repository, the best first; the first that is there is taken.
        under: the part of the folder of weights that repeats the repository, "" for the top.
        is_optional: whether the model works without it.
    """

    repo: str
    paths: tuple[str, ...]
    under: str = ""
    is_optional: bool = False

    def local(self, path: str) -> str:
        """Return where one of its paths goes in the folder of weights."""
        return f"{self.under}/{path}" if self.under else path


@dataclass(frozen=True, kw_only=True)
class FetchReport:
    """What a fetch found and did; the files are named by their place in the folder.

    Attributes:
        downloaded: files that were missing.
        verified: files that were there, with the right hash.
        unverified: files that were there and that the hub does not hold.
        absent: optional files that the hub does not hold.
        downloaded_bytes: how much went over the wire, without what an earlier fetch had left.
    """

    downloaded: tuple[str, ...]
    verified: tuple[str, ...]
    unverified: tuple[str, ...]
    absent: tuple[str, ...]
    downloaded_bytes: int


_UNET: Final = "checkpoints/image/pretrained_unet"
_CLIP: Final = "checkpoints/video/vision_encoder"
_DIFFUSERS: Final = "diffusion_pytorch_model.safetensors"

# The folder has the layout of the release. Of its networks, `config.json` is optional: without,
# mimaface.official takes the release's widths. The order of alternatives is that of find_official.
OFFICIAL: Final[tuple[RemoteFile, ...]] = (
    RemoteFile(MIMAFACE, (f"{_UNET}/config.json",), is_optional=True),
    RemoteFile(MIMAFACE, (f"{_UNET}/{_DIFFUSERS}", f"{_UNET}/unet.pth")),
    RemoteFile(MIMAFACE, ("checkpoints/video/3dunet.pth",)),
    RemoteFile(MIMAFACE, ("checkpoints/video/mim.pth",)),
    RemoteFile(MIMAFACE, (f"{_CLIP}/config.json",), is_optional=True),
    RemoteFile(MIMAFACE, (f"{_CLIP}/model.safetensors", f"{_CLIP}/pytorch_model.bin")),
    RemoteFile(MIMAFACE, ("models/D3DFR/netG_epoch_25.pth",)),
    RemoteFile(MIMAFACE, ("models/ArcFace/CurricularFace_Backbone.pth",)),
    RemoteFile(VAE, ("config.json",), under="vae"),
    RemoteFile(VAE, (_DIFFUSERS,), under="vae"),
    RemoteFile(TINY_VAE, ("config.json",), under="taesd"),
    RemoteFile(TINY_VAE, (_DIFFUSERS,), under="taesd"),
)


def fetch(
    files: Sequence[RemoteFile], folder: Path, *, endpoint: str | None = None, progress: bool
) -> FetchReport:
    """Bring the files that are missing, and verify those that are there, which stay as they are.

    Args:
        files: what is wanted.
        folder: where; it is made if need be.
        endpoint: the hub's address, if it is not the usual one.
        progress: whether to draw bars on stderr, if that is a terminal.

    Raises:
        FetchError: the hub cannot be reached, does not hold or does not give a file; there is no
            room; a file that is there is not the hub's; a file was damaged on its way; or another
            fetch is at work in the folder.
    """
    chosen = _choose(files, folder, HfApi(endpoint=endpoint))
    with _sole_use(folder):
        there = {name: each for name, each in chosen.offered.items() if (folder / name).is_file()}
        other = [
            name for name, each in there.items() if not _is_whole(folder / name, each, progress)
        ]
        if other:
            raise FetchError(
                f"in {folder}, {', '.join(other)} differs from the hub's: move it away or delete "
                "it, and fetch again"
            )
        lacking = {name: each for name, each in chosen.offered.items() if name not in there}
        needed = sum(
            each.size - _arrived(_part(folder / name, each), each) for name, each in lacking.items()
        )
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise FetchError(
                f"{folder} needs {needed / 1e9:.2f} GB more and has {free / 1e9:.2f} GB free: "
                "make room, or choose another folder"
            )
        damaged = [
            name for name, each in lacking.items() if not _get(folder / name, each, progress)
        ]
        if damaged:
            raise FetchError(f"damaged on the way: {', '.join(damaged)}. Fetch again")
    return FetchReport(
        downloaded=tuple(lacking),
        verified=tuple(there),
        unverified=chosen.unverified,
        absent=chosen.absent,
        downloaded_bytes=needed,
    )


def face_model_note(folder: Path) -> str | None:
    """Say how to get the file that must not be downloaded, unless it is there."""
    if (folder / FACE_MODEL).is_file():
        return None
    return (
        f"{FACE_MODEL} is still missing: its licence forbids to pass it on. Register for the "
        "Basel Face Model 2009 at faces.dmi.unibas.ch/bfm, convert it as the README of "
        f"github.com/ascust/3DMM-Fitting-Pytorch says, and put the result at {folder / FACE_MODEL}"
    )


@dataclass(frozen=True)
class _Entry:
    # A file as the hub lists it; `digest` is the SHA-256 of a large file, else git's blob hash.
    repo: str
    path: str
    url: str
    size: int
    digest: str
    is_large: bool


@dataclass(frozen=True)
class _Choice:
    offered: dict[str, _Entry]  # by their place in the folder
    unverified: tuple[str, ...]
    absent: tuple[str, ...]


def _choose(files: Sequence[RemoteFile], folder: Path, hub: HfApi) -> _Choice:
    repos = dict.fromkeys(file.repo for file in files)
    listings = {repo: _listing(hub, repo) for repo in repos}
    offered: dict[str, _Entry] = {}
    unverified, absent, missing = [], [], []
    for file in files:
        held = [path for path in file.paths if path in listings[file.repo]]
        by_hand = [name for name in map(file.local, file.paths) if _is_there(folder, name)]
        if held:
            offered[file.local(held[0])] = listings[file.repo][held[0]]
        elif by_hand:
            unverified.append(by_hand[0])
        elif file.is_optional:
            absent.append(file.local(file.paths[0]))
        else:
            names = " or ".join(map(file.local, file.paths))
            missing.append(f"{names} (of {file.repo})")
    if missing:
        raise FetchError(
            f"the hub does not hold {', '.join(missing)}: put these into {folder} by hand, under "
            "the same names, and fetch again"
        )
    return _Choice(offered, tuple(unverified), tuple(absent))


def _is_there(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except OSError as error:  # such as a folder that may not be searched
        raise FetchError(f"{folder / name} cannot be looked for: {error.strerror}") from error


def _listing(hub: HfApi, repo: str) -> dict[str, _Entry]:
    try:
        with _naming_hub_errors(repo):
            found = hub.model_info(repo, files_metadata=True, timeout=LISTING_S)
    except OSError as error:  # of the stored token
        raise FetchError(f"{error.filename} cannot be read: {error.strerror}") from error
    entries = {}
    for file in found.siblings or ():
        digest = file.lfs.sha256 if file.lfs else file.blob_id
        if file.size is not None and digest is not None:
            # The commit that was listed, whatever is pushed meanwhile.
            url = hf_hub_url(repo, file.rfilename, revision=found.sha, endpoint=hub.endpoint)
            entries[file.rfilename] = _Entry(
                repo, file.rfilename, url, file.size, digest, is_large=file.lfs is not None
            )
    return entries


def _get(path: Path, entry: _Entry, progress: bool) -> bool:
    """Download a file under its name; return whether it arrived whole."""
    part = _part(path, entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    for found in path.parent.glob(f".{path.name}.*.part"):
        # Of another version of the file, or too long for this one.
        if found != part or not _arrived(part, entry):
            found.unlink()
    with _naming_hub_errors(entry.repo):
        _transfer(part, entry, progress)
    if not _is_whole(part, entry, progress):
        part.unlink()
        return False
    part.replace(path)
    return True


def _transfer(part: Path, entry: _Entry, progress: bool) -> None:
    fruitless = 0
    while True:
        arrived = _arrived(part, entry)
        try:
            with part.open("ab") as file:
                # hf_hub_download would begin anew after each interruption of the program.
                http_get(
                    entry.url,
                    file,
                    resume_size=arrived,
                    # Ranges of a compressed body would not be ranges of the file.
                    headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                    expected_size=entry.size,
                    displayed_filename=entry.path,
                    tqdm_class=None if progress else silent_tqdm,
                )
            return
        except httpx2.ReadError:
            # http_get goes on by itself after a closed connection, but not after a reset one.
            fruitless = fruitless + 1 if _arrived(part, entry) == arrived else 0
            if fruitless == MOST_FRUITLESS:
                raise
            time.sleep(PAUSE_S)


def _part(path: Path, entry: _Entry) -> Path:
    return path.with_name(f".{path.name}.{entry.digest[:16]}.part")


def _arrived(part: Path, entry: _Entry) -> int:
    """Return how many bytes of a download are there to go on from."""
    size = part.stat().st_size if part.is_file() else 0
    return size if size <= entry.size else 0


def _is_whole(path: Path, entry: _Entry, progress: bool) -> bool:
    """Return whether a file has the listed size and hash."""
    return path.stat().st_size == entry.size and _digest(path, entry, progress) == entry.digest


def _digest(path: Path, entry: _Entry, progress: bool) -> str:
    # git hashes a header before the content of a small file.
    digest = hashlib.sha256() if entry.is_large else hashlib.sha1(b"blob %d\0" % entry.size)
    bar = tqdm if progress and entry.is_large else silent_tqdm
    about = {"desc": f"verify {entry.path}", "unit": "B", "unit_scale": True, "disable": None}
    with path.open("rb") as file, bar(total=entry.size, **about) as shown:
        while piece := file.read(PIECE):
            digest.update(piece)
            shown.update(len(piece))
    return digest.hexdigest()


@contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".fetch.lock", timeout=0):
            yield
    except Timeout as error:
        raise FetchError(f"another fetch is at work in {folder}: let it end first") from error
    except OSError as error:
        raise FetchError(f"{folder} cannot be written: {error.strerror or error}") from error


@contextmanager
def _naming_hub_errors(repo: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError as error:
        raise FetchError(
            f"{repo} is given to those who accept its terms: accept them on its page, "
            "log in with `hf auth login` and fetch again"
        ) from error
    except RepositoryNotFoundError as error:
        raise FetchError(
            f"{repo} is not on the hub, or private: `hf auth login` opens what is yours"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise FetchError(
            f"the hub answers {status} for {repo}: fetch again later; what has arrived is kept"
        ) from error
    except (httpx2.HTTPError, OfflineModeIsEnabled) as error:
        reason = str(error) or type(error).__name__
        raise FetchError(
            f"the hub cannot be reached for {repo} ({reason}): check the connection and fetch "
            "again; what has arrived is kept"
        ) from error
    except json.JSONDecodeError as error:
        raise FetchError(
            f"what answers for {repo} is not the hub: check the connection and its proxy"
        ) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise FetchError(f"{repo} sent another size than it lists: fetch again") from error
