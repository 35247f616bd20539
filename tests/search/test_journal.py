from gulliver.search.journal import Journal, Scores


def test_scores_survive_the_process(tmp_path):
    scores = Scores(0.9, 1.5, 1000.0, 0.2)
    assert scores.valid
    Journal(tmp_path / "run" / "scores.jsonl").add("a", scores)
    assert Journal(tmp_path / "run" / "scores.jsonl").get("a") == scores


def test_a_recipe_that_was_not_scored_has_no_scores(tmp_path):
    assert Journal(tmp_path / "scores.jsonl").get("a") is None


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path):
    path = tmp_path / "scores.jsonl"
    Journal(path).add("a", Scores(0.9, 1.5, 1000.0))
    with path.open("a") as file:
        file.write('{"key": "b", "accur')
    journal = Journal(path)
    assert len(journal) == 1
    journal.add("c", Scores(0.8, 1.0, 900.0))
    assert len(Journal(path)) == 2


def test_a_score_that_is_not_a_number_is_not_valid_and_is_kept(tmp_path):
    path = tmp_path / "scores.jsonl"
    Journal(path).add("a", Scores(float("nan"), 1.0, 1.0))
    kept = Journal(path).get("a")
    assert kept is not None
    assert not kept.valid


def test_a_line_of_before_racing_is_read(tmp_path):
    path = tmp_path / "scores.jsonl"
    path.write_text('{"key": "a", "accuracy_search": 0.9, "latency_ms": 1.5, "size_bytes": 1000.0, "seconds": 0.2}\n')
    scores = Journal(path).get("a")
    assert (scores.accuracy_search, scores.samples, scores.dropped) == (0.9, 0, False)
