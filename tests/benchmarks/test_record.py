from dataclasses import dataclass

from benchmarks import record


@dataclass(frozen=True)
class Row:
    network: str
    part: str
    value: float


def table():
    return [(line["network"], line["part"], line["value"]) for line in record.read_table("table")]


def test_rows_of_another_key_stay_and_those_of_the_same_are_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    assert record.read_table("table") == []
    record.write_table("table", [Row("a", "x", 1.0), Row("a", "y", 2.0), Row("b", "x", 3.0)], {"torch": "2"})
    record.write_table("table", [Row("a", "x", 4.0)], {"torch": "2"}, key=("network",))
    assert table() == [("b", "x", "3.0"), ("a", "x", "4.0")]
    record.write_table("table", [Row("b", "y", 5.0)], {"torch": "2"}, key=("network", "part"))
    assert table() == [("b", "x", "3.0"), ("a", "x", "4.0"), ("b", "y", "5.0")]
    record.write_table("table", [Row("c", "x", 6.0)], {"torch": "2"})
    assert table() == [("c", "x", "6.0")]
