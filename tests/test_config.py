"""The models' shapes: what they refuse, and their form as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mimaface.config import CONFIGS, Sampling, from_json, to_json
from mimaface.weights import on_meta

SD15, TINY = CONFIGS["sd15"], CONFIGS["tiny"]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_config_survives_json(name: str) -> None:
    config = CONFIGS[name]
    assert config.name == name
    again = from_json(to_json(config))
    assert again == config
    assert type(again.encoder) is type(config.encoder)
    assert hash(again.denoiser) == hash(config.denoiser), "tuples come back as tuples"


@pytest.mark.parametrize(("name", "channels"), [("sd15", 13), ("tiny", 145)])
def test_the_denoiser_reads_noisy_render_and_carried_latents_and_a_mask(
    name: str, channels: int
) -> None:
    assert on_meta(CONFIGS[name]).denoiser.unet.conv_in.in_channels == channels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": (True,)}, "attention must have 4 levels.* found 1"),
        ({"motion": (True,) * 5}, "motion must have 4 levels.* found 5"),
        ({"heads": 0}, "heads must be at least 1, found 0"),
        ({"heads": -8}, "heads must be at least 1, found -8"),
        ({"norm_groups": 0}, "norm_groups must be at least 1, found 0"),
        ({"heads": 12}, "12 heads and 32 groups, found 320"),
        ({"widths": (320, 648, 1280, 1280)}, "8 heads and 32 groups, found 648"),
    ],
)
def test_a_denoiser_of_no_shape_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SD15.denoiser, **change)


@pytest.mark.parametrize("timestep", [-1, 1000])
def test_a_walk_starts_at_a_noise_level_of_training(timestep: int) -> None:
    with pytest.raises(ValueError, match=f"found {timestep}"):
        Sampling(solver="clean", first_timestep=timestep)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_px": 500}, "found 500"),
        ({"new_frames": 0}, "new_frames .* found 0"),
        ({"carried_frames": 0}, "carried_frames .* found 0"),
        ({"ica": "hold"}, "hold carries one frame, found carried_frames 3"),
        ({"new_frames": 30}, "at most 32 frames, found 33"),
        ({"encoder": TINY.encoder}, "found released with PatchEncoderConfig"),
        ({"mia": TINY.mia}, "found paper with ClipEncoderConfig"),
        ({"condition": "mesh"}, "found released with mesh"),
        ({"size_px": 0}, "found 0"),
        ({"prediction": "sample"}, "found prediction 'sample' with 25 steps of euler"),
        ({"most_px": 256}, "found most_px 256 of one that is not"),
        ({"most_px": 100}, "most_px must be a multiple of 64, found 100"),
        ({"crop_px": 100}, "crop_px must be a multiple of 32, found 100"),
        ({"crop_px": 128}, "found crop_px 128"),
        (
            {"denoiser": replace(SD15.denoiser, residual=True)},
            "a residual denoiser .* predicts the sample, found prediction 'epsilon'",
        ),
        (
            {
                "denoiser": replace(SD15.denoiser, residual=True),
                "prediction": "sample",
                "samplings": TINY.samplings,
            },
            "must be pixels rearranged, found autoencoder 'kl'",
        ),
    ],
)
def test_a_model_of_no_shape_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SD15, **change)


def test_the_last_values_that_make_sense_are_taken() -> None:
    replace(SD15, new_frames=29)
    for timestep in (0, 999):
        Sampling(solver="clean", first_timestep=timestep)


def test_networks_work_on_the_avatars_size_up_to_the_most_they_can() -> None:
    assert [replace(TINY, size_px=size).working_px for size in (64, 256, 512)] == [64, 256, 256]
    assert SD15.working_px == SD15.size_px


def changed(path: str, value: Any) -> str:
    """Return sd15 as JSON with one value replaced, at dotted names."""
    tree = json.loads(to_json(SD15))
    *parents, last = path.split(".")
    branch = tree
    for name in parents:
        branch = branch[name]
    branch[last] = value
    return json.dumps(tree)


def without(name: str) -> str:
    tree = json.loads(to_json(SD15))
    del tree[name]
    return json.dumps(tree)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "null",
        "512",
        '"sd15"',
        "[]",
        "{}",
        without("denoiser"),
        changed("learning_rate", 1e-4),
        changed("denoiser.dropout", 0.1),
        changed("denoiser", None),
        changed("denoiser", [320, 640]),
        changed("denoiser", json.loads(to_json(TINY))),
        changed("denoiser.widths", 320),
        changed("denoiser.widths", ["wide"] * 4),
        changed("denoiser.heads", 0),
        changed("denoiser.norm", "layer"),
        changed("encoder", 7),
        changed("encoder", {}),
        changed("encoder", {"depth": 3}),
        changed("samplings", [25, 4]),
        changed("samplings", {"many": {"solver": "euler"}}),
        changed("samplings", {"4": {"solver": "heun"}}),
        changed("samplings", {"4": {}}),
        changed("size_px", "512"),
        changed("most_px", "256"),
        changed("prediction", "velocity"),
    ],
)
def test_other_json_is_not_the_configuration_of_a_model(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any message: the reader of the file says more
        from_json(text)


def test_a_value_that_is_none_of_the_choices_is_named() -> None:
    with pytest.raises(ValueError, match=r"'overlap', 'hold'.* found 'mix'"):
        from_json(changed("ica", "mix"))


def test_a_config_may_differ_from_those_with_a_name() -> None:
    denoiser = replace(TINY.denoiser, widths=(8, 16), attention=(False, True), motion=(True, False))
    samplings = {3: Sampling(solver="consistency", first_timestep=749, guidance=1.5)}
    config = replace(TINY, name="narrow", denoiser=denoiser, samplings=samplings)
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 12}, "4x4 pixels rearranged are 48 channels, found 12"),
        ({"kind": "kl", "widths": (32, 32)}, "2 levels do not make a factor of 4"),
    ],
)
def test_an_autoencoder_that_contradicts_itself_is_refused(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY.autoencoder, **change)
