"""From photos of every kind, good and bad, to a portrait."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimaface.appearance import encode_photo, paste_back
from mimaface.errors import (
    NoFaceError,
    SeveralFacesError,
    SmallFaceError,
    SourceImageError,
    UnreadableMediaError,
)
from mimaface.photo import inside_borders, read_photo
from mimaface.types import Pixels


@pytest.fixture(scope="module")
def photo(portrait: Path) -> Pixels:
    return read_photo(portrait)


def on_wall(photo: Pixels, *, side: int, height: int, width: int, left: int, top: int) -> Pixels:
    """The photo, `side` pixels large, hung on a grey wall."""
    wall = np.full((height, width, 3), 120, np.uint8)
    small = Image.fromarray(photo).resize((side, side), Image.Resampling.LANCZOS)
    wall[top : top + side, left : left + side] = np.asarray(small)
    return wall


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_square_around_the_face_is_cropped(photo: Pixels) -> None:
    wide = on_wall(photo, side=400, height=500, width=1400, left=900, top=50)
    appearance = encode_photo(wide, size_px=256)
    assert appearance.source.shape == (256, 256, 3)
    centre = appearance.crop.left + appearance.crop.side / 2
    assert 1020 < centre < 1180
    nose = appearance.motion.landmarks[0, 1]
    assert 0.3 < nose[0] < 0.7
    assert 0.3 < nose[1] < 0.7


@pytest.mark.parametrize("colour", [0, 255])
def test_bars_beside_a_photo_are_no_part_of_the_portrait(photo: Pixels, colour: int) -> None:
    wide = np.pad(photo, ((3, 2), (150, 160), (0, 0)), constant_values=colour)
    barred = encode_photo(encoded(Image.fromarray(wide), "JPEG", quality=90), size_px=256)
    crop = barred.crop
    assert 150 <= crop.left < crop.left + crop.side <= 150 + photo.shape[1]
    assert 3 <= crop.top < crop.top + crop.side <= 3 + photo.shape[0]
    alone = encode_photo(photo, size_px=256)
    assert crop.side > 0.97 * alone.crop.side
    # Nothing of the bars is behind or around the person either.
    for seen in (barred.source, barred.cutout.background):
        assert 30 < seen[:, :2].min() < seen[:, :2].max() < 250


def test_a_plain_wall_behind_a_person_is_no_border(photo: Pixels) -> None:
    portrait = encode_photo(photo, size_px=512)
    matte = portrait.cutout.matte[..., None] / 255
    on_white = np.round(matte * portrait.source + (1 - matte) * 255).astype(np.uint8)
    assert inside_borders(on_white) == (slice(0, 512), slice(0, 512))


def test_a_lit_wall_and_one_that_ends_beside_a_person_are_no_borders() -> None:
    whole = (slice(0, 600), slice(0, 600))
    light = np.linspace(120, 180, 600, dtype=np.uint8)
    lit = np.tile(light[:, None, None], (1, 600, 3))
    lit[300:, 200:400] = 60
    assert inside_borders(lit) == inside_borders(lit.swapaxes(0, 1)) == whole
    shelf = np.random.default_rng(0).integers(0, 255, (600, 600, 3)).astype(np.uint8)
    shelf[:, :200] = 255
    assert inside_borders(shelf) == whole


def test_a_part_of_a_picture_in_memory_is_a_photo(photo: Pixels) -> None:
    wide = on_wall(photo, side=400, height=500, width=900, left=400, top=50)
    read_only = np.asarray(Image.fromarray(wide))
    assert encode_photo(read_only[:, 300:], size_px=256).source.shape == (256, 256, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_usual_formats_are_read(photo: Pixels, kind: str) -> None:
    picture = read_photo(encoded(Image.fromarray(photo), kind))
    assert picture.shape == photo.shape


def test_a_photo_taken_sideways_stands_upright(photo: Pixels) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter
    turned = Image.fromarray(photo).transpose(Image.Transpose.ROTATE_90)
    upright = read_photo(encoded(turned, "PNG", exif=exif))
    np.testing.assert_array_equal(upright, photo)


def test_transparency_is_laid_over_grey(photo: Pixels) -> None:
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[:20] = 0
    picture = read_photo(encoded(Image.fromarray(np.dstack([photo, alpha])), "PNG"))
    assert (picture[:20] == 128).all()
    np.testing.assert_array_equal(picture[20:], photo[20:])


def test_grey_and_palette_pictures_are_read(photo: Pixels) -> None:
    for mode in ("L", "P", "LA"):
        assert read_photo(encoded(Image.fromarray(photo).convert(mode), "PNG")).shape == photo.shape


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text", b"\x89PNG\r\n\x1a\n" + b"x" * 40], ids=str
)
def test_a_file_that_is_no_picture_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableMediaError, match=r"photo\.png cannot be read"):
        encode_photo(path, size_px=256)


def test_half_a_jpeg_is_unreadable(photo: Pixels) -> None:
    whole = encoded(Image.fromarray(photo), "JPEG")
    with pytest.raises(UnreadableMediaError):
        encode_photo(whole[: len(whole) // 2], size_px=256)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableMediaError, match=r"gone\.png"):
        encode_photo(tmp_path / "gone.png", size_px=256)


def test_a_photo_of_ten_megapixels_is_too_large() -> None:
    large = encoded(Image.new("RGB", (4000, 2500)), "PNG")
    with pytest.raises(SourceImageError, match=r"10\.0 megapixels"):
        encode_photo(large, size_px=256)


def test_a_picture_of_one_pixel_has_no_face() -> None:
    with pytest.raises(NoFaceError):
        encode_photo(np.zeros((1, 1, 3), np.uint8), size_px=256)


def test_a_wall_has_no_face() -> None:
    wall = np.random.default_rng(0).integers(90, 110, (400, 400, 3), np.uint8)
    with pytest.raises(NoFaceError, match="no face"):
        encode_photo(wall, size_px=256)


def test_two_faces_are_one_too_many(photo: Pixels) -> None:
    with pytest.raises(SeveralFacesError, match="2 faces"):
        encode_photo(np.hstack([photo, photo]), size_px=256)


def test_a_small_face_is_refused_with_its_size(photo: Pixels) -> None:
    far = on_wall(photo, side=160, height=400, width=400, left=120, top=120)
    with pytest.raises(SmallFaceError, match="at least 96"):
        encode_photo(far, size_px=256)


def test_a_frame_is_pasted_back_where_the_face_was(photo: Pixels, tmp_path: Path) -> None:
    wall = on_wall(photo, side=500, height=900, width=1200, left=350, top=200)
    with_path = str(tmp_path / "wall.png")
    Image.fromarray(wall).save(with_path)
    appearance = encode_photo(wall, size_px=256)
    crop = appearance.crop
    white = np.full((256, 256, 3), 255, np.uint8)
    pasted = paste_back(wall, appearance, white)
    np.testing.assert_array_equal(paste_back(with_path, appearance, white), pasted)
    middle = crop.top + crop.side // 2, crop.left + crop.side // 2
    assert (pasted[middle] == 255).all()
    outside = np.ones(wall.shape[:2], bool)
    outside[crop.top : crop.top + crop.side, crop.left : crop.left + crop.side] = False
    np.testing.assert_array_equal(pasted[outside], wall[outside])
    edge = pasted[crop.top, crop.left + 5].astype(int) - wall[crop.top, crop.left + 5]
    assert np.abs(edge).max() < 12
