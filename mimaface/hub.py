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
        path: the file in it.
        local: where it goes in the folder of weights.
        is_optional: whether the model works without it.
        or_else: what to take where the repository has no such file.
    """

    repo: str
    path: str
    local: str
    is_optional: bool = False
    or_else: RemoteFile | None = None

    @property
    def alternatives(self) -> tuple[RemoteFile, ...]:
        """Itself and what may be taken instead, the best first."""
        return (self, *(self.or_else.alternatives if self.or_else else ()))


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


def _released(path: str, or_else: str | None = None, *, is_optional: bool = False) -> RemoteFile:
    other = RemoteFile(MIMAFACE, or_else, or_else) if or_else else None
    return RemoteFile(MIMAFACE, path, path, is_optional, other)


# The folder has the layout of the release; its `config.json` only repeat what is known.
OFFICIAL: Final[tuple[RemoteFile, ...]] = (
    _released("checkpoints/image/pretrained_unet/config.json", is_optional=True),
    _released(
        "checkpoints/image/pretrained_unet/diffusion_pytorch_model.safetensors",
        "checkpoints/image/pretrained_unet/unet.pth",
    ),
    _released("checkpoints/video/3dunet.pth"),
    _released("checkpoints/video/mim.pth"),
    _released("checkpoints/video/vision_encoder/config.json", is_optional=True),
    _released(
        "checkpoints/video/vision_encoder/model.safetensors",
        "checkpoints/video/vision_encoder/pytorch_model.bin",
    ),
    _released("models/D3DFR/netG_epoch_25.pth"),
    _released("models/ArcFace/CurricularFace_Backbone.pth"),
    RemoteFile(VAE, "config.json", "vae/config.json"),
    RemoteFile(
        VAE, "diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
    ),
    RemoteFile(TINY_VAE, "config.json", "taesd/config.json"),
    RemoteFile(
        TINY_VAE, "diffusion_pytorch_model.safetensors", "taesd/diffusion_pytorch_model.safetensors"
    ),
)


def fetch(
    files: Sequence[RemoteFile], folder: Path, *, endpoint: str | None = None, progress: bool
) -> FetchReport:
    """Bring the files that are missing, and verify those that are there.

    Args:
        files: what is wanted.
        folder: where; it is made if need be.
        endpoint: the hub's address, if it is not the usual one.
        progress: whether to draw bars on stderr, if that is a terminal.

    Raises:
        FetchError: the hub cannot be reached, does not hold or does not give a file; there is no
            room; a file was damaged, and is removed; or another fetch is at work in the folder.
    """
    chosen = _choose(files, folder, HfApi(endpoint=endpoint))
    with _sole_use(folder):
        there = {name: each for name, each in chosen.offered.items() if (folder / name).is_file()}
        _raise_if_damaged(
            [name for name, each in there.items() if not _is_whole(folder / name, each, progress)],
            folder,
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
        _raise_if_damaged(
            [name for name, each in lacking.items() if not _get(folder / name, each, progress)],
            folder,
        )
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
    repos = dict.fromkeys(each.repo for file in files for each in file.alternatives)
    listings = {repo: _listing(hub, repo) for repo in repos}
    offered: dict[str, _Entry] = {}
    unverified, absent, missing = [], [], []
    for file in files:
        held = [each for each in file.alternatives if each.path in listings[each.repo]]
        by_hand = [each.local for each in file.alternatives if (folder / each.local).is_file()]
        if held:
            offered[held[0].local] = listings[held[0].repo][held[0].path]
        elif by_hand:
            unverified.append(by_hand[0])
        elif file.is_optional:
            absent.append(file.local)
        else:
            names = " or ".join(each.local for each in file.alternatives)
            missing.append(f"{names} (of {file.repo})")
    if missing:
        raise FetchError(
            f"the hub does not hold {', '.join(missing)}: put these into {folder} by hand, under "
            "the same names, and fetch again"
        )
    return _Choice(offered, tuple(unverified), tuple(absent))


def _listing(hub: HfApi, repo: str) -> dict[str, _Entry]:
    with _naming_hub_errors(repo):
        found = hub.model_info(repo, files_metadata=True, timeout=LISTING_S)
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
    """Return whether a file has the listed size and hash, and remove it if not."""
    is_whole = path.stat().st_size == entry.size and _digest(path, entry, progress) == entry.digest
    if not is_whole:
        path.unlink()
    return is_whole


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


def _raise_if_damaged(names: Sequence[str], folder: Path) -> None:
    if names:
        raise FetchError(
            f"damaged and removed from {folder}: {', '.join(names)}. Fetch again to replace them"
        )


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
