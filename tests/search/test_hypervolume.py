from gulliver.search.hypervolume import hypervolume


def test_two_points_dominate_the_area_computed_by_hand():
    # From latency 1 to 2 the accuracy is 0.5, from 2 to 4 it is 0.9: 1 * 0.5 + 2 * 0.9.
    assert hypervolume([(2.0, 0.9), (1.0, 0.5)], (4.0, 0.0)) == 0.5 + 1.8


def test_a_beaten_point_adds_nothing():
    assert hypervolume([(1.0, 0.5), (2.0, 0.4)], (3.0, 0.0)) == hypervolume([(1.0, 0.5)], (3.0, 0.0)) == 1.0


def test_points_beyond_the_reference_add_nothing():
    assert hypervolume([(5.0, 0.9)], (4.0, 0.0)) == 0.0
    assert hypervolume([(1.0, 0.2)], (4.0, 0.3)) == 0.0


def test_no_points_have_no_area():
    assert hypervolume([], (1.0, 0.0)) == 0.0
