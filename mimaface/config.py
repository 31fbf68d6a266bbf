"""The models by name, each as one complete literal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A model's shape.

    Attributes:
        size_px: side of the square avatar.
        new_frames: N, frames a clip adds.
        carried_frames: K, frames a clip takes over from the previous one.
        steps: the numbers of denoising steps it can do, best first; 0 is the condition render.
    """

    name: str
    size_px: int
    new_frames: int
    carried_frames: int
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.size_px % 64:
            raise ValueError(f"size_px must be a multiple of 64, found {self.size_px}")
        if self.new_frames < 1:
            raise ValueError(f"new_frames must be at least 1, found {self.new_frames}")
        if self.carried_frames < 0:
            raise ValueError(f"carried_frames must not be negative, found {self.carried_frames}")


CONFIGS = {
    "tiny": ModelConfig(name="tiny", size_px=256, new_frames=1, carried_frames=0, steps=(0,)),
}
