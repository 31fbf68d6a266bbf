"""What a weight file says of itself, read without its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open

from mimaface.config import ModelConfig, from_json
from mimaface.errors import WeightsError

CONFIG_KEY: Final = "mimaface"  # of the configuration in a file's metadata


def read_config(path: Path) -> ModelConfig:
    """Return the shape of the model whose weights a file holds.

    Raises:
        WeightsError: it is missing, damaged or not ours.
    """
    try:
        return from_json(_metadata(path)[CONFIG_KEY])
    except FileNotFoundError as error:
        raise WeightsError(f"there are no weights at {path}") from error
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a weight file of this project: make one with 'mimaface convert'"
        ) from error


def read_notes(path: Path) -> dict[str, str]:
    """Return the further metadata that `save` wrote; none where there is no such file to read."""
    try:
        metadata = _metadata(path)
    except (OSError, SafetensorError):
        return {}
    return {key: value for key, value in metadata.items() if key != CONFIG_KEY}


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return file.metadata() or {}
