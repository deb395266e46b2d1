import json

import pytest
from worlds import TINY, tiny_model

from core.vrpo.budget import run_pilot
from core.vrpo.llada import save_llada
from core.vrpo.public_weights import public_subjects


def test_nothing_named_is_nothing_loaded():
    assert public_subjects("", "", "", count=4, device="cpu") == {}


def test_folders_and_a_file_are_ready_for_a_pilot(tmp_path):
    for seed, name in enumerate(("policy", "reference")):
        save_llada(tiny_model(seed).float(), tmp_path / name)
        write_tokenizer(tmp_path / name)
    file = tmp_path / "pairs.jsonl"
    row = {"prompt": "a b", "chosen": "c d e", "rejected": "e"}
    file.write_text("\n".join(json.dumps(row) for _ in range(3)))
    policy, reference = (str(tmp_path / name) for name in ("policy", "reference"))
    (found,) = public_subjects(policy, reference, str(file), count=2, device="cpu").values()
    assert len(found.pairs) == 2
    pilot = run_pilot(*found, beta=0.2, n_t=2, n_y=2)
    assert pilot.terms.shape == (2, 4, 2, 2)


def write_tokenizer(folder):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {word: i for i, word in enumerate("abcde")} | {"?": 5, "<end>": 6}
    assert len(words) < TINY.vocab_size
    tokenizer = Tokenizer(WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_all_that_is_missing_is_named_with_where_to_get_it(tmp_path):
    missing = str(tmp_path / "weights")
    policy = rf"needs a checkpoint in {missing}: download \S+/LLaDA-1\.5"
    reference = r"needs a checkpoint in \(no folder named\): download \S+/LLaDA-8B-Instruct"
    data = r"needs preferences in \(no file named\): JSON Lines with prompt, chosen, rejected, "
    with pytest.raises(FileNotFoundError, match=f"^{policy}; {reference}; {data}"):
        public_subjects(missing, "", "", count=4, device="cpu")
    save_llada(tiny_model(), tmp_path / "model")
    folder = str(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=f"^{reference}; {data}"):
        public_subjects(folder, "", "", count=4, device="cpu")
    with pytest.raises(FileNotFoundError, match=f"^{data}"):
        public_subjects(folder, folder, "", count=4, device="cpu")
    file = tmp_path / "pairs.jsonl"
    file.write_text("")
    with pytest.raises(FileNotFoundError, match=f"^{policy}$"):
        public_subjects(missing, folder, str(file), count=4, device="cpu")
