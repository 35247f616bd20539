import pytest


def test_couplings_by_module_are_those_of_all_groups(residual):
    found = {(group.name, it.module, it.side) for its in residual.couplings.values() for group, it in its}
    assert found == {(group.name, it.module, it.side) for group in residual.channel_groups for it in group.couplings}
    assert all(it.module == module for module, its in residual.couplings.items() for _, it in its)


def test_a_layer_between_two_groups_shrinks_on_either_side_with_one_of_them(residual):
    assert [(group.name, it.side) for group, it in residual.couplings["conv2"]] == [("stem", "out"), ("conv1", "in")]
    assert [(group.name, it.side) for group, it in residual.couplings["stem"]] == [("stem", "out")]


@pytest.mark.parametrize("fixture", ["plain", "residual", "mixed"])
def test_users_are_the_operations_that_read_a_result(fixture, request):
    graph = request.getfixturevalue(fixture)
    assert list(graph.users) == [it.name for it in graph.operations]
    for operation in graph.operations:
        readers = [it.name for it in graph.operations if operation.name in it.inputs]
        assert [it.name for it in graph.users[operation.name]] == readers


def test_the_stem_is_read_by_the_block_and_by_its_addition(residual):
    by_layer = {it.layer: it.name for it in residual.operations if it.layer}
    (relu,) = residual.users[by_layer["stem"]]
    assert [it.kind for it in residual.users[relu.name]] == ["conv2d", "add"]


def test_an_operation_is_found_by_its_name(residual):
    assert all(residual.by_name[it.name] is it for it in residual.operations)
    assert len(residual.by_name) == len(residual.operations)


def test_an_operation_is_at_its_position_in_the_order_of_execution(residual):
    assert [residual.operations[at].name for at in residual.positions.values()] == [*residual.positions]
    assert len(residual.positions) == len(residual.operations)
