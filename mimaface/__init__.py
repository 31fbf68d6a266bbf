"""MIMAFace, live: appearance + motion + ICA state in, avatar frames + next ICA state out."""

from mimaface.animate import animate, encode_source
from mimaface.appearance import paste_back
from mimaface.errors import MimafaceError
from mimaface.model import Model, load
from mimaface.motion import FaceMeshExtractor, MotionExtractor, RelativeMotion, relative_ahead
from mimaface.types import Appearance, Clip, ClipRequest, ICAState, Motion

__all__ = [
    "Appearance",
    "Clip",
    "ClipRequest",
    "FaceMeshExtractor",
    "ICAState",
    "MimafaceError",
    "Model",
    "Motion",
    "MotionExtractor",
    "RelativeMotion",
    "animate",
    "encode_source",
    "load",
    "paste_back",
    "relative_ahead",
]
