"""What a network does to images in [0, 1] first: another range, a mean, a deviation. All of it is one affine map.

ImageNet's values are those of torchvision's documentation; CIFAR-10's and MNIST's are of their training images;
CIFAR-100's those in common use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.ground.config import UserError, choose

Statistics = tuple[Sequence[float], Sequence[float]]  # (mean, std) per channel
NAMED: dict[str, Statistics | None] = {
    "none": None,
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
}
RANGES = {"255": (0.0, 255.0), "-1,1": (-1.0, 1.0)}  # that are common, by how --range takes them


@dataclass(frozen=True)
class Inputs:
    """What the user says of a network's inputs. span: the range (low, high) that it was trained in, in which mean and
    std are given; None is [0, 1]. normalization: a name of NAMED, in place of mean and std.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    normalization: str | None = None
    span: tuple[float, float] | None = None

    @property
    def given(self) -> bool:
        """Whether anything is said. "none" is."""
        return any(value is not None for value in vars(self).values())

    def statistics(self, channels: int) -> Statistics | None:
        """(mean, std) for images in [0, 1]; None where they go in as they are. Raises UserError."""
        return in_span(self._named(channels), self.span or (0.0, 1.0), channels)

    def _named(self, channels: int) -> Statistics | None:
        if (self.mean is None) != (self.std is None):
            raise UserError("--mean and --std go together; give both or neither")
        if self.mean is not None and self.std is not None:
            if self.normalization is not None:
                raise UserError("--normalization stands for a --mean and --std; give one or the other")
            if min(self.std) <= 0:
                raise UserError(f"--std {', '.join(map(str, self.std))}: a deviation is above 0")
            return self.mean, self.std
        if self.normalization is None:
            return None
        named = NAMED[choose(self.normalization, NAMED, "normalization")]
        if named is not None and len(named[0]) != channels:
            raise UserError(
                f"--normalization {self.normalization} is of {len(named[0])} channel(s), and the images have {channels}"
            )
        return named


def in_span(named: Statistics | None, span: tuple[float, float], channels: int) -> Statistics | None:
    """(mean, std) in the units of the range (low, high) -> those for images in [0, 1]."""
    low, high = span
    if span == (0.0, 1.0):
        return named
    mean, std = ([0.0] * channels, [1.0] * channels) if named is None else named
    width = high - low
    return [(value - low) / width for value in mean], [value / width for value in std]


def of_preprocessor(config: Mapping[str, Any], channels: int) -> Statistics | None:
    """The (mean, std) that a preprocessor_config.json of transformers says, for images in [0, 1]: it rescales bytes by
    `rescale_factor`, may subtract 1, and then normalises. Raises UserError for values that are none.
    """
    try:
        factor = float(config.get("rescale_factor") or 1 / 255) if config.get("do_rescale", True) else 1.0
        low = -1.0 if config.get("rescale_offset") and config.get("do_rescale", True) else 0.0
        named: Statistics | None = None
        if config.get("do_normalize", True) and config.get("image_mean") is not None:
            named = tuple(_per_channel(config[key], channels) for key in ("image_mean", "image_std"))  # type: ignore[assignment]
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"its preprocessor_config.json cannot be read ({type(error).__name__}: {error})") from error
    if named is not None and min(named[1]) <= 0:
        raise UserError(f"its preprocessor_config.json has image_std {named[1]}; a deviation is above 0")
    high = round(255 * factor, 9) + low
    return in_span(named, (low, high), channels)


def _per_channel(values: Any, channels: int) -> list[float]:
    return [float(values)] * channels if isinstance(values, int | float) else [float(value) for value in values]


def words(statistics: Statistics) -> str:
    """ "normalised by mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225", or "taken to [0, 255]"."""
    means, stds = ({f"{value:.4g}" for value in values} for values in statistics)
    if len(means) == len(stds) == 1:
        mean, std = statistics[0][0], statistics[1][0]
        return f"taken to [{-mean / std + 0.0:.4g}, {(1 - mean) / std:.4g}]"
    mean_of, std_of = (", ".join(f"{value:.4g}" for value in values) for values in statistics)
    return f"normalised by mean {mean_of} and std {std_of}"


def read_range(text: str) -> tuple[float, float]:
    """ "255" -> (0, 255); "-1,1" -> (-1, 1). Raises UserError."""
    try:
        ends = [float(part) for part in text.split(",")]
        low, high = ends if len(ends) == 2 else (0.0, *ends)
    except (ValueError, TypeError):
        raise UserError(f"--range {text!r} is no range; write 255 for [0, 255], or -1,1") from None
    if not -1e6 < low < high < 1e6:
        raise UserError(f"--range {text}: the lower end comes first, as in 0,255 or -1,1")
    return low, high
