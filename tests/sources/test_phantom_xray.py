"""Line integrals against solid geometry: volumes, chords, and independence of how a body is cut or turned."""

import numpy as np
import pytest

from hf_radmae.sources.phantom.xray import Camera, ball, envelope, line_integrals, moved, rotation, tube

SCALE = 2.0  # pixels per mm


def camera(turn=None, side=160) -> Camera:
    return Camera(np.eye(3) if turn is None else turn, SCALE, np.array([side / 2, side / 2]), (side, side))


def volume(primitives, turn=None) -> float:
    """Sum of the line integrals over the image's area: mu times the volume in mm^3."""
    return float(line_integrals(primitives, camera(turn)).sum()) / SCALE**2


@pytest.mark.parametrize("angle", [0, 30, 75])
def test_integrals_of_an_ellipsoid_sum_to_its_volume_in_every_view(angle):
    body = [ball([2, -3, 5], [12, 20, 7], 0.02, rotation("y", 20))]
    turn = rotation("x", angle) @ rotation("z", 2 * angle)
    assert volume(body, turn) == pytest.approx(0.02 * 4 / 3 * np.pi * 12 * 20 * 7, rel=0.01)


def test_the_longest_path_through_a_ball_is_its_diameter():
    assert line_integrals([ball([0, 0, 9], [15] * 3, 0.1)], camera()).max() == pytest.approx(3.0, rel=0.01)


def test_integrals_of_a_capsule_sum_to_its_volume_at_any_angle_in_the_plane():
    for angle in (0, 37, 90):
        end = rotation("z", angle) @ [30.0, 0, 0]
        body = [tube([[0, 0, 0], end], 6, 0.05)]
        assert volume(body) == pytest.approx(0.05 * (np.pi * 36 * 30 + 4 / 3 * np.pi * 216), rel=0.01)


def test_a_flat_tube_is_a_cylinder_and_marrow_replaces_bone():
    solid = volume([tube([[0, -15, 0], [0, 15, 0]], 8, 0.05, flat=True)])
    hollow = volume([tube([[0, -15, 0], [0, 15, 0]], 8, 0.05, core=0.5, core_mu=0.01, flat=True)])
    assert solid == pytest.approx(0.05 * np.pi * 64 * 30, rel=0.02)
    assert hollow == pytest.approx(solid - 0.04 * np.pi * 16 * 30, rel=0.02)


@pytest.mark.parametrize("angle", [0, 45, 90])
def test_a_flattened_tube_keeps_its_volume_from_every_side(angle):
    body = [tube([[0, -20, 0], [0, 20, 0]], 10, 0.02, depth=0.5, flat=True)]
    assert volume(body, rotation("y", angle)) == pytest.approx(0.02 * np.pi * 10 * 5 * 40, rel=0.02)


def test_a_tube_leaning_into_the_beam_keeps_its_volume():
    body = [tube([[0, -25, 0], [0, 25, 0]], 4, 0.05, flat=True)]
    assert volume(body, rotation("x", 50)) == pytest.approx(0.05 * np.pi * 16 * 50, rel=0.1)


def test_cutting_a_tube_into_pieces_changes_nothing():
    whole = line_integrals([tube([[-20, 0, 0], [20, 10, 0]], 5, 0.05, core=0.6)], camera())
    pieces = line_integrals([tube([[-20, 0, 0], [-4, 4, 0], [8, 7, 0], [20, 10, 0]], 5, 0.05, core=0.6)], camera())
    assert np.allclose(whole, pieces, atol=1e-4)


def test_turning_the_body_is_turning_the_camera():
    body = [ball([5, 8, -4], [9, 14, 4], 0.02), tube([[0, 0, 0], [9, 20, 6]], [5, 3], 0.05, depth=0.6)]
    turn = rotation("y", 40) @ rotation("z", 25)
    assert np.allclose(
        line_integrals(moved(body, turn, (0, 0, 0)), camera()), line_integrals(body, camera(turn)), atol=1e-5
    )


def test_thin_wires_keep_their_total_attenuation():
    length = [[-30, 3, 0], [30, -8, 0]]
    thick, thin = (volume([tube(length, radius, 0.5, flat=True)]) / radius**2 for radius in (2.0, 0.1))
    assert thin == pytest.approx(thick, rel=0.3)


def test_joined_solids_count_once_where_they_overlap():
    limb = [tube([[0, -20, 0], [0, 5, 0]], 8, 0.02), tube([[0, -5, 0], [0, 20, 0]], 8, 0.02)]
    assert envelope(limb, camera()).max() == pytest.approx(0.02 * 16, rel=0.01)
    assert line_integrals(limb, camera()).max() == pytest.approx(2 * 0.02 * 16, rel=0.01)


def test_what_lies_outside_the_image_adds_nothing():
    body = [ball([500, 0, 0], [9, 9, 9], 1.0), tube([[0, -900, 0], [0, -800, 0]], 9, 1.0)]
    assert not line_integrals(body, camera()).any()
