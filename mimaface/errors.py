"""Conditions a caller of the library handles.

    MimafaceError
    |-- UnreadableMediaError    a photo, video or motion file that cannot be read
    |-- UnwritableMediaError    a video, motion or weight file that cannot be written
    |-- SourceImageError        a readable photo that cannot be a portrait
    |   |-- NoFaceError         no face in it
    |   |-- SeveralFacesError   more than one
    |   `-- SmallFaceError      a face of too few pixels
    |-- WeightsError            a weight file that is missing or does not fit the model
    |-- FetchError              weights that cannot be downloaded
    |-- UnsupportedStepsError   a number of denoising steps the model cannot do
    `-- UntrainableError        a kind of model, or data, that training cannot take

Every message says what was wrong and what to do, in words for the person who chose the input.
"""


class MimafaceError(Exception):
    """Base of every error the library raises for a caller to handle."""


class UnreadableMediaError(MimafaceError):
    """A file that cannot be read as the photo, video or motion it should be."""


class UnwritableMediaError(MimafaceError):
    """An output file that cannot be written where it should be."""


class SourceImageError(MimafaceError):
    """A readable photo that cannot serve as a portrait."""


class NoFaceError(SourceImageError):
    """The photo shows no face."""


class SeveralFacesError(SourceImageError):
    """The photo shows more than one face."""


class SmallFaceError(SourceImageError):
    """The face in the photo has too few pixels."""


class WeightsError(MimafaceError):
    """A weight file that is missing, damaged or does not fit the model."""


class FetchError(MimafaceError):
    """Weights that cannot be downloaded as they should be."""


class UnsupportedStepsError(MimafaceError):
    """The model has no weights for this number of denoising steps."""


class UntrainableError(MimafaceError):
    """Training cannot make this kind of model, or not of these data."""
