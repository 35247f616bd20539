import pytest
from gulliver.compressors.finetune import Recovery
from gulliver.search.settings import Budget, FinalistSettings, SearchSettings
from gulliver.spaces.recipe import Finetune
from gulliver.tasks.errors import InputError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(max_drop=-0.1), "`0 <= budget.max_drop < inf` must hold, but it is -0.1"),
        (lambda: Budget(max_drop=float("nan")), "`0 <= budget.max_drop < inf` must hold, but it is nan"),
        (lambda: Budget(max_drop=float("inf")), "`0 <= budget.max_drop < inf` must hold, but it is inf"),
        (lambda: Budget(max_latency_ms=0.0), "`budget.max_latency_ms > 0` must hold, but it is 0.0"),
        (lambda: Budget(max_size_bytes=-5), "`budget.max_size_bytes > 0` must hold, but it is -5"),
        (lambda: FinalistSettings(count=0), "`finalists.count >= 1` must hold, but it is 0"),
        (lambda: FinalistSettings(finetune=Finetune(epochs=0)), "finetune has epochs=0"),
        (lambda: Recovery(steps=-1), "`trial.finetune.steps >= 0` must hold, but it is -1"),
        (lambda: SearchSettings(trials=0), "`trials >= 1` must hold, but it is 0"),
        (lambda: SearchSettings(seed=-1), r"`0 <= seed < 2\*\*31` must hold, but it is -1"),
        (lambda: SearchSettings(objectives=("latency_ms",)), "objectives must be two or three different ones"),
        (lambda: SearchSettings(objectives=("latency_ms", "speed")), "objectives must be among accuracy_search, lat"),
    ],
)
def test_an_impossible_setting_is_refused_with_its_rule_and_value(make, message):
    with pytest.raises(InputError, match=message):
        make()
