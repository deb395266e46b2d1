import numpy as np
import pytest

from core.train.seeds import generator


def test_a_key_names_its_numbers():
    numpy_int = int(np.int64(3)), np.arange(4)[3]
    assert {generator(1, 2, part).random() for part in numpy_int} == {generator(1, 2, 3).random()}


def test_other_keys_name_other_numbers():
    keys = [(1,), (1, 0), (1, 0, 0), (0, 1), (1, 2), (2, 1), (12,), (2**40, 1)]
    assert len({generator(*key).random() for key in keys}) == len(keys)


def test_streams_of_neighbouring_keys_are_uncorrelated():
    streams = np.stack([generator(7, i).standard_normal(2000) for i in range(8)])
    off = np.asarray(np.corrcoef(streams))[~np.eye(8, dtype=bool)]
    assert np.abs(off).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize("key", [(), (-1,), (1, 2.0), (True,), ("1",)])
def test_a_key_that_names_nothing_is_refused(key):
    with pytest.raises(ValueError, match="integers"):
        generator(*key)  # type: ignore[arg-type]
