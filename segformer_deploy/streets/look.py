"""Light, air and lens of one scene: all that moves colours without moving borders."""

from __future__ import annotations

from dataclasses import dataclass, field

from segformer_deploy.streets.dice import Bgr, Dice, blended, scaled


@dataclass(frozen=True)
class Look:
    """Drawn once per scene; constant over a video.

    Attributes:
        hour: ``day``, ``overcast``, ``dusk`` or ``night``.
        tint: light on every surface, per BGR channel.
        haze: the colour that distance turns to; visibility: metres to a share of 1/e.
        sky_top, sky_low: the sky's gradient; cloud, cloudiness: colour and share of clouds.
        light_left, light_right, light_front: on walls that face right, left, and the lens.
        shadow: light left in a shadow on the ground; shadow_side: -1 or +1, where shadows
            fall; shadow_length: per metre of height.
        exposure, contrast, gains: the camera's response (gains per BGR channel).
        blur: standard deviation in pixels; noise: standard deviation of 0..255.
        rain: strength of streaks, 0 for none; jpeg: quality, 0 for none; vignette: 0 to 1.
    """

    hour: str
    tint: Bgr
    haze: Bgr
    visibility: float
    sky_top: Bgr
    sky_low: Bgr
    cloud: Bgr
    cloudiness: float
    light_left: float
    light_right: float
    light_front: float
    shadow: float
    shadow_side: int
    shadow_length: float
    exposure: float
    contrast: float
    gains: Bgr
    blur: float
    noise: float
    rain: float
    jpeg: int
    vignette: float
    lit_windows: float = field(default=0.05)


def look_from_dice(dice: Dice) -> Look:
    """Draw the weather and the camera's settings."""
    hour = dice.pick(("day",) * 7 + ("overcast",) * 4 + ("dusk",) * 2 + ("night",))
    side = dice.pick((-1, 1))
    harsh = {"day": 0.45, "overcast": 0.12, "dusk": 0.3, "night": 0.1}[hour]
    top, low, cloud, tint = _sky(hour, dice)
    bright, dark = 1.0 + 0.15 * harsh, 1.0 - harsh * dice.between(0.5, 1.0)
    return Look(
        hour=hour,
        tint=tint,
        haze=blended(low, cloud, 0.3),
        visibility=dice.pick((75.0, 110.0, 160.0, 260.0, 400.0)),
        sky_top=top,
        sky_low=low,
        cloud=cloud,
        cloudiness=dice.between(0.0, 1.0),
        # A wall on the left faces right; with the sun on the left it lies in the shade.
        light_left=bright if side < 0 else dark,
        light_right=dark if side < 0 else bright,
        light_front=dice.between(0.7, 1.0),
        shadow=1.0 - harsh * dice.between(0.7, 1.2),
        shadow_side=side,
        shadow_length=dice.between(0.15, 0.9),
        exposure=dice.between(0.85, 1.3),
        contrast=dice.between(0.8, 1.2),
        gains=(dice.between(0.86, 1.14), dice.between(0.93, 1.07), dice.between(0.86, 1.14)),
        blur=dice.pick((0.0, 0.0, 0.45, 0.6, 0.8)),
        noise=dice.between(1.0, 7.0) * (1.4 if hour == "night" else 1.0),
        rain=dice.between(0.3, 0.8) if hour != "day" and dice.chance(0.25) else 0.0,
        jpeg=dice.whole(45, 90) if dice.chance(0.25) else 0,
        vignette=dice.between(0.08, 0.3),
        lit_windows={"day": 0.0, "overcast": 0.05, "dusk": 0.35, "night": 0.5}[hour],
    )


def _sky(hour: str, dice: Dice) -> tuple[Bgr, Bgr, Bgr, Bgr]:
    """Colours at the zenith, at the horizon and of clouds, and the tint of the light."""
    if hour == "day":
        top = dice.hsv((0.54, 0.63), (0.3, 0.8), (0.45, 0.95))
        low = dice.hsv((0.5, 0.62), (0.05, 0.35), (0.75, 1.0))
        return top, low, dice.hsv((0, 1), (0, 0.05), (0.8, 1.0)), (0.92, 1.0, 1.05)
    if hour == "overcast":
        low = dice.hsv((0, 1), (0.0, 0.08), (0.4, 0.97))
        shade = dice.between(0.7, 1.02)
        return scaled(low, shade), low, scaled(low, dice.between(0.75, 1.05)), (0.95, 0.93, 0.92)
    if hour == "dusk":
        top = dice.hsv((0.55, 0.8), (0.2, 0.6), (0.25, 0.65))
        low = dice.hsv((0.0, 0.14), (0.2, 0.7), (0.55, 0.95))
        return top, low, dice.hsv((0.9, 1.1), (0.1, 0.5), (0.4, 0.85)), (0.72, 0.78, 0.92)
    top = dice.hsv((0.58, 0.7), (0.2, 0.6), (0.08, 0.2))
    low = dice.hsv((0.0, 1.0), (0.1, 0.4), (0.16, 0.34))
    level = dice.between(0.45, 0.62)
    return top, low, dice.hsv((0, 1), (0, 0.2), (0.12, 0.3)), (level * 1.15, level, level * 0.9)
