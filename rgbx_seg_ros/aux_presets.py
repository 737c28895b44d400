# Copyright 2026 the rgbx_seg authors
# SPDX-License-Identifier: Apache-2.0
"""What the pixel values of known thermal cameras mean, since no ROS message says it.

Each entry names the document that its scale was read from. `confirmed` is False where that is
not the maker's own: compare such a camera with a thermometer once (docs/thermal.md says how).
"""

from __future__ import annotations

from dataclasses import dataclass

ZERO_C = 273.15  # K
UNITS = ('K', 'C', 'counts')
PLAUSIBLE_K = (150.0, 1000.0)  # medians of scenes that a robot's camera may see
AMBIENT_K = (253.0, 323.0)  # medians that speak for a scale


@dataclass(frozen=True)
class Preset:
    """value = raw * scale + offset, in `unit`; 'counts' has no temperature."""

    scale: float
    offset: float
    unit: str
    cameras: str
    source: str
    confirmed: bool = True
    bits: int = 16  # 8: uint8 images are counts, not AGC


PRESETS: dict[str, Preset] = {
    'lepton_tlinear': Preset(
        0.01, 0.0, 'K', 'FLIR Lepton 2.5, 3.5 with TLinear, 0.01 K',
        'Lepton Engineering Datasheet 500-0659-00-09 rev 203, telemetry row C word 49'),
    'lepton_tlinear_100mk': Preset(
        0.1, 0.0, 'K', 'FLIR Lepton 2.5, 3.5 with TLinear, 0.1 K',
        'Lepton Engineering Datasheet 500-0659-00-09 rev 203, telemetry row C word 49'),
    'flir_duo': Preset(
        0.01, -ZERO_C, 'C', 'FLIR Duo, Duo R (TIFF)', 'FLIR Duo user guide, 5.1.7.3.1'),
    'duo_pro_r_high': Preset(
        0.04, -ZERO_C, 'C', 'FLIR Duo Pro R (TIFF), range -25..135 C',
        'Duo Pro R User Guide rev 1.0, 6.2.2'),
    'duo_pro_r_low': Preset(
        0.4, -ZERO_C, 'C', 'FLIR Duo Pro R (TIFF), range -40..550 C',
        'Duo Pro R User Guide rev 1.0, 6.2.2'),
    'ax5_tlinear_high': Preset(
        0.04, 0.0, 'K', 'FLIR A15, A35, A65, TemperatureLinearResolution High (14 bits)',
        'FLIR support: TemperatureLinearResolution and SensorGainMode of the Ax5 series'),
    'ax5_tlinear_low': Preset(
        0.4, 0.0, 'K', 'FLIR A15, A35, A65, TemperatureLinearResolution Low (14 bits)',
        'FLIR support: TemperatureLinearResolution and SensorGainMode of the Ax5 series'),
    # The users' reports agree with each other and with the name of the GenICam entry.
    'flir_tlinear_10mk': Preset(
        0.01, 0.0, 'K', 'FLIR A50, A70, A400, A700, A6xx, IRFormat TemperatureLinear10mK',
        'NI forum, FLIR A655sc greyscale to temperature (accepted answer)', False),
    'flir_tlinear_100mk': Preset(
        0.1, 0.0, 'K', 'FLIR A50, A70, A400, A700, A6xx, IRFormat TemperatureLinear100mK',
        'NI forum, FLIR A655sc greyscale to temperature (accepted answer)', False),
    'boson_tlinear': Preset(
        0.01, 0.0, 'K', 'FLIR Boson+, Boson R with TLinear', 'several public programs; '
        'FLIR support in FLIR/BosonUSB#14 confirms only that plain Bosons have none', False),
    'boson_raw': Preset(
        1.0, 0.0, 'counts', 'FLIR Boson, RAW16', 'FLIR/BosonUSB#14: not radiometric'),
    'optris': Preset(
        0.1, -100.0, 'C', 'Optris PI, Xi (thermal_image of optris_drivers2)',
        'irDirectSDK, evo_irimager_get_thermal_image in direct_binding.h; whether the ROS driver '
        'passes these values unchanged for each range was not confirmed', False),
    'infiray_k64': Preset(
        1 / 64, 0.0, 'K', 'InfiRay P2 Pro, Topdon TC001, TC002 (radiometric half)',
        'several public programs, one of them citing the application of the maker', False),
    'seek_counts': Preset(
        1.0, 0.0, 'counts', 'Seek, mono16 (the offset of its fixed 10.6 format is not published)',
        'seekcamera-python, FrameFormat', False),
    'seek_float': Preset(
        1.0, 0.0, 'C', 'Seek, 32FC1', 'seekcamera-python, FrameFormat.THERMOGRAPHY_FLOAT'),
    'gazebo_l16': Preset(
        0.01, 0.0, 'K', 'Gazebo thermal camera, L16, <resolution> 0.01',
        'gz-sensors, tutorials/thermal_camera.md'),
    'gazebo_l8': Preset(
        3.0, 0.0, 'K', 'Gazebo thermal camera, L8, <resolution> 3.0',
        'gz-sensors, tutorials/thermal_camera.md', bits=8),
}
CAMERAS = ('manifest', 'custom', *PRESETS)


def to_kelvin(value: float, unit: str) -> float:
    """Return a temperature in 'K' or 'C' as kelvin."""
    return value + ZERO_C if unit == 'C' else value


def matching(count: float, bits: int = 16) -> list[str]:
    """Return the presets by which the median `count` would be an ambient temperature."""
    low, high = AMBIENT_K
    return [name for name, preset in PRESETS.items()
            if preset.unit != 'counts' and preset.bits == bits and name != 'seek_float'
            and low <= to_kelvin(count * preset.scale + preset.offset, preset.unit) <= high]
