"""Shards of training clips, and the batches that are made of them."""

from __future__ import annotations

import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mimaface.errors import MimafaceError, UnreadableMediaError
from mimaface.training import synthetic
from mimaface.training.batches import Batch, Batches, BatchOptions
from mimaface.training.data import (
    encode_clip,
    index_clips,
    read_clip,
    require_extra,
    write_shards,
)
from tests.learning import random_clips, random_shards

OPTIONS = BatchOptions(size=3, frames=2, seed=1, clips_held=4, windows_per_clip=3)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return random_shards(tmp_path / "data")


def equal(one: Batch, other: Batch) -> bool:
    return all(torch.equal(each, getattr(other, name)) for name, each in vars(one).items())


def test_clips_come_back_as_they_were_written_but_for_the_jpeg(shards: Path) -> None:
    written, read = list(random_clips(6)), [read_clip(place) for place in index_clips(shards)]
    assert len(list(shards.glob("*.tar"))) == 2
    assert len(read) == len(written)
    for clip, found in zip(written, read, strict=True):
        assert (found.person, found.seed, found.fps) == (clip.person, clip.seed, clip.fps)
        np.testing.assert_array_equal(found.signals, clip.signals)
        np.testing.assert_allclose(found.landmarks, clip.landmarks, atol=1e-3)
        for name in ("source", "target", "render"):
            error = getattr(found, name).astype(int) - getattr(clip, name)
            assert np.abs(error).mean() < 3, name


def test_the_same_clips_make_the_same_shards(tmp_path: Path, shards: Path) -> None:
    again = random_shards(tmp_path / "again")
    for shard in shards.glob("*.tar"):
        assert (again / shard.name).read_bytes() == shard.read_bytes()


def test_a_clip_is_read_alone(shards: Path) -> None:
    place = index_clips(shards)[3]
    assert read_clip(place).person == 3
    assert (place.frames, place.size_px) == (6, 64)


def test_a_clip_of_a_wrong_shape_is_refused() -> None:
    clip = next(random_clips(1))
    with pytest.raises(ValueError, match=r"signals must have shape \(6, 1444\), found \(5, 1444\)"):
        replace(clip, signals=clip.signals[:5])


def test_a_folder_without_shards_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnreadableMediaError, match="no shards"):
        index_clips(tmp_path)


def test_a_shard_that_is_cut_off_is_named(shards: Path) -> None:
    shard = max(shards.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(UnreadableMediaError, match=f"{shard.name} is not a whole shard"):
        index_clips(shards)


def test_a_shard_that_is_no_tar_file_is_named(shards: Path) -> None:
    (shards / "other.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(UnreadableMediaError, match=r"other\.tar is not a whole shard"):
        index_clips(shards)


def test_a_field_that_is_missing_is_named(tmp_path: Path) -> None:
    sample = encode_clip("0007", next(random_clips(1)))
    part = tmp_path / "part"
    part.write_bytes(sample["source.jpg"])
    with tarfile.open(tmp_path / "clips-000000.tar", "w") as tar:
        tar.add(part, "0007.source.jpg")
    with pytest.raises(UnreadableMediaError, match=r"clip 0007 lacks target\.jpg"):
        index_clips(tmp_path)


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    clip = next(random_clips(1))
    broken = replace(clip, signals=np.full_like(clip.signals, np.nan))
    write_shards([broken], tmp_path, clips_per_shard=1)
    with pytest.raises(UnreadableMediaError, match="no numbers"):
        index_clips(tmp_path)


def test_clips_of_two_sizes_are_refused(tmp_path: Path) -> None:
    clips = [next(random_clips(1)), next(random_clips(1, size_px=128))]
    write_shards(clips, tmp_path, clips_per_shard=2)
    with pytest.raises(UnreadableMediaError, match=r"several sizes: \[64, 128\]"):
        index_clips(tmp_path)


def test_a_batch_is_a_function_of_seed_and_number(shards: Path) -> None:
    places = index_clips(shards)
    first, second = Batches(places, OPTIONS), Batches(places, OPTIONS)
    in_order = [first[number] for number in range(10)]
    assert equal(second[9], in_order[9]), "without those before it"
    assert equal(second[2], in_order[2]), "and back again"
    assert not equal(in_order[0], in_order[1])
    assert not equal(Batches(places, replace(OPTIONS, seed=2))[0], in_order[0])


def test_every_clip_comes_before_any_comes_again(shards: Path) -> None:
    batches = Batches(index_clips(shards), replace(OPTIONS, size=4, windows_per_clip=1))
    people = torch.cat([batches[number].person for number in range(3)])
    assert torch.equal(people.bincount(), torch.full((6,), 2))


def test_pictures_are_signed_and_crops_lie_alike(shards: Path) -> None:
    options = replace(OPTIONS, crop_px=32, colours=0.0)
    batch = Batches(index_clips(shards), options)[0]
    assert batch.source.shape == (3, 3, 64, 64)
    assert batch.target.shape == batch.render.shape == (3, 2, 3, 32, 32)
    assert -1 <= batch.target.min() < 0 < batch.target.max() <= 1
    # These renders are the targets with less light.
    assert ((batch.render + 1) - 0.8 * (batch.target + 1)).abs().mean() < 0.03


def test_the_face_is_in_its_square_but_not_always_in_the_middle(tmp_path: Path) -> None:
    small = [replace(each, landmarks=each.landmarks / 2 + 0.25) for each in random_clips(6)]
    write_shards(small, tmp_path, clips_per_shard=6)
    batches = Batches(index_clips(tmp_path), replace(OPTIONS, crop_px=32, size=4))
    landmarks = torch.cat([batches[number].landmarks for number in range(12)])
    assert landmarks.min() > 0
    assert landmarks.max() < 1
    assert landmarks.mean((1, 2)).std(dim=0).min() > 0.05


def test_landmarks_are_those_of_the_crop(tmp_path: Path) -> None:
    clip = next(random_clips(1))
    marked = clip.target.copy()
    marked[:, 40:44, 24:28] = 255  # a white square, and every landmark in its middle
    landmarks = np.full_like(clip.landmarks, 0)
    landmarks[...] = (26 / 64, 42 / 64)
    write_shards([replace(clip, target=marked, landmarks=landmarks)], tmp_path, clips_per_shard=1)
    options = replace(OPTIONS, crop_px=32, colours=0.0, size=1)
    batches = Batches(index_clips(tmp_path), options)
    looked = 0
    for number in range(12):
        batch = batches[number]
        x, y = (32 * batch.landmarks[0, -1, 0]).long().tolist()
        if 2 <= x < 30 and 2 <= y < 30:  # it may lie outside
            looked += 1
            assert batch.target[0, -1, :, y, x].min() > 0.7
    assert looked >= 6


def test_colours_change_alike_in_a_window_and_otherwise_in_the_other_picture(
    shards: Path,
) -> None:
    plain = Batches(index_clips(shards), replace(OPTIONS, colours=0.0, frames=1))[0]
    coloured = Batches(index_clips(shards), replace(OPTIONS, frames=1))[0]
    assert not torch.equal(plain.source, coloured.source)
    assert torch.equal(plain.other, plain.target[:, -1])
    assert not torch.equal(coloured.other, coloured.target[:, -1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crop_px": 40}, "multiple of 32, found 40"),
        ({"size": 13}, "do not fill a batch of 13"),
        ({"frames": 0}, "frames must be at least 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(OPTIONS, **changed)


def test_windows_longer_than_the_clips_are_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match="7 frames is longer than 6"):
        Batches(index_clips(shards), replace(OPTIONS, frames=7))


def test_processes_can_fill_a_folder_together(tmp_path: Path) -> None:
    written = write_shards(random_clips(3), tmp_path, clips_per_shard=2, first_shard=10)
    assert [path.name for path in written] == ["clips-000010.tar", "clips-000011.tar"]
    assert sorted(tmp_path.iterdir()) == written, "and nothing is left beside them"
    write_shards(random_clips(2), tmp_path, clips_per_shard=2, first_shard=0)
    assert len(index_clips(tmp_path)) == 5


def test_whoever_goes_on_filming_overwrites_no_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["clips", "--face-model", "x", "--output", str(tmp_path), "--first"]
    with pytest.raises(SystemExit):
        synthetic.main([*command, "305"])
    assert "--first must be a multiple of 10" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["accelerate", "webdataset"])
def test_a_missing_package_is_one_clear_error(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_extra()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MimafaceError, match=rf"{package} is missing: pip install 'mimaface\[train\]"
    ):
        require_extra()
