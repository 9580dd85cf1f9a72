"""Settings of local training: which go together."""

import pytest

from fedsim.errors import ConfigError
from fedsim.local import LocalTraining


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 5, "epochs": 1}, r"^local\.epochs=1\.0: give either steps or epochs, not both \(local\.steps=5\)"),
        ({"steps": None}, r"^local\.epochs=None: give either steps or epochs"),
        ({"keep_momentum": True}, r"^local\.keep_momentum=True: needs local\.momentum above 0"),
        ({"momentum": 1}, r"^LocalTraining\.momentum=1: input should be less than 1"),
        ({"batch_size": 0}, r"^LocalTraining\.batch_size=0: "),
        ({"rate": 0}, r"^LocalTraining\.rate=0: "),
        ({"clip_norm": 0}, r"^LocalTraining\.clip_norm=0: "),
        ({"weight_decay": -1}, r"^LocalTraining\.weight_decay=-1: "),
        ({"last_batch": "skip"}, r"^LocalTraining\.last_batch='skip': input should be 'keep' or 'drop'"),
        ({"execution": "fast"}, r"^LocalTraining\.execution='fast': input should be 'auto', 'looped' or 'stacked'"),
        ({"groups": 0}, r"^LocalTraining\.groups=0: "),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ConfigError, match=message):
        LocalTraining(**settings)


def test_plain_steps_have_no_other_terms():
    assert LocalTraining(rate=3.0).plain
    for extra in ({"momentum": 0.5}, {"weight_decay": 0.1}, {"clip_norm": 1.0}):
        assert not LocalTraining(**extra).plain
