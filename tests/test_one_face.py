"""Who of those in the picture drives."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimaface.motion import FaceMeshExtractor
from mimaface.one_face import PATIENCE_S, OneFace
from mimaface.photo import read_photo
from mimaface.types import Floats

PICTURE = np.full((480, 640, 3), 200, np.uint8)
FPS = 25


def face(x: float, y: float = 0.5, side: float = 0.2) -> Floats:
    """Landmarks around a place."""
    corners = [(x - side / 2, y - side / 2, 0.0), (x + side / 2, y + side / 2, 0.0)]
    return np.array(corners, np.float32)


def test_the_first_face_is_the_drivers_and_may_move() -> None:
    driver = OneFace()
    for frame, x in enumerate((0.3, 0.35, 0.45, 0.6)):
        assert driver.owns(frame / FPS, face(x))
    assert driver.view(4 / FPS, PICTURE) is PICTURE


def test_a_face_elsewhere_is_somebody_elses_and_covered_until_the_driver_is_back() -> None:
    driver = OneFace()
    assert driver.owns(0.0, face(0.25))
    assert not driver.owns(0.1, face(0.75))
    seen = driver.view(0.2, PICTURE)
    assert (seen[240, 480] == 127).all()
    assert (seen[240, 160] == 200).all(), "the driver comes back here"
    assert (PICTURE == 200).all(), "the picture itself stays as it is"
    assert driver.owns(0.2, face(0.28))
    assert driver.view(0.3, PICTURE) is PICTURE


def test_after_a_while_it_may_be_somebody_else() -> None:
    driver = OneFace()
    driver.owns(0.0, face(0.25))
    assert not driver.owns(PATIENCE_S, face(0.75))
    late_s = PATIENCE_S + 0.1
    assert driver.view(late_s, PICTURE) is PICTURE
    assert driver.owns(late_s, face(0.75))
    assert not driver.owns(late_s + 0.1, face(0.25)), "who drives now is kept"


@pytest.mark.parametrize("x", [0.02, 0.98])
def test_a_face_at_the_edge_can_be_covered(x: float) -> None:
    driver = OneFace()
    driver.owns(0.0, face(0.5))
    assert not driver.owns(0.1, face(x))
    assert (driver.view(0.2, PICTURE)[240, round(639 * x)] == 127).all()


def test_with_two_people_in_the_picture_the_tracker_stays_with_the_first(
    portraits: list[Path],
) -> None:
    # The first is hidden for 0.4 s, while the second is there all the time.
    first, second = (Image.fromarray(read_photo(path)).resize((320, 320)) for path in portraits[:2])
    extractor = FaceMeshExtractor()
    places = {}
    for frame in range(2 * FPS):
        picture = Image.new("RGB", (640, 400), (96, 100, 104))
        if not 20 <= frame < 30:
            picture.paste(first, (frame % 5, 40))
        if frame >= 5:
            picture.paste(second, (320, 40))
        motion = extractor.extract(frame / FPS, np.asarray(picture))
        if motion.valid[0]:
            places[frame] = float(motion.landmarks[0, :, 0].mean())
    extractor.close()
    assert max(places.values()) < 0.5, "it never went over to the other half"
    assert max(abs(after - before) for before, after in pairwise(places.values())) < 0.03
    assert max(places) == 2 * FPS - 1
    assert len(places) >= 2 * FPS - 10 - 5, "it is found again soon"
