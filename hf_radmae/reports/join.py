"""Which pictures of an exam a report speaks of: those of the same body part or its neighbours, and of the same side."""

from __future__ import annotations

_NEAR = (
    *({"hand", "wrist", "forearm"}, {"forearm", "elbow", "upper_arm"}, {"upper_arm", "shoulder"}),
    *(
        {"shoulder", "chest"},
        {"foot", "ankle", "lower_leg"},
        {"lower_leg", "knee", "thigh"},
        {"thigh", "hip", "pelvis"},
    ),
    *({"chest", "thoracic_spine"}, {"abdomen", "lumbar_spine"}, {"pelvis", "abdomen"}, {"pelvis", "lumbar_spine"}),
    *({"skull", "cervical_spine"}, {"cervical_spine", "thoracic_spine"}, {"thoracic_spine", "lumbar_spine"}),
)
"""Body parts that one picture may show together."""


def speaks_of(
    report_part: str | None, report_side: str | None, image_part: str | None, image_side: str | None = None
) -> bool:
    """Whether a finding of a report may be seen in a picture; what is not known on either side excludes nothing.

    Args:
        report_part, report_side: as in the columns `<label>_body_part` and `<label>_side`.
        image_part: body part of the picture; "spine" stands for each of its parts.
        image_side: "left", "right", or None.
    """
    if report_side in ("left", "right") and image_side in ("left", "right") and report_side != image_side:
        return False
    if report_part is None or image_part is None or report_part == image_part:
        return True
    parts = {image_part} if image_part != "spine" else {"cervical_spine", "thoracic_spine", "lumbar_spine"}
    known = set().union(*_NEAR)
    if not parts <= known or report_part not in known:
        return True
    return report_part in parts or any(report_part in near and parts & near for near in _NEAR)
