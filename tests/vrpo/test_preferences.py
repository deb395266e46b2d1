"""Every layout of preferences comes to the same tokens; what is bad is named by line and field."""

import dataclasses
import json

import pytest
import torch

from core.vrpo.preferences import Limits, WhenNeeded, digest, load_tokenizer, read_preferences

LIMITS = Limits(vocab_size=100, mask_id=99, max_length=12)
WORDS = ["two", "and", "is", "four", "five", "three", "user", "assistant", ":", "end"]
IDS = {word: i for i, word in enumerate(WORDS)}
GOOD = {"prompt": [1, 2], "chosen": [3], "rejected": [4, 5]}


class Plain:
    """Words between spaces; a conversation is `role : content end` for each message."""

    eos = IDS["end"]

    def text(self, text):
        return [IDS[word] for word in text.split()]

    def chat(self, messages, *, answer):
        written = "".join(f"{m['role']} : {m['content']} end " for m in messages)
        return written + ("assistant : " if answer else "")


def written(tmp_path, *rows, name="prefs.jsonl"):
    path = tmp_path / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path, **options):
    return read_preferences(path, options.pop("limits", LIMITS), **options)


def listed(pair):
    return [part.tolist() for part in (pair.prompt, pair.chosen, pair.rejected)]


def says(role, content):
    return {"role": role, "content": content}


def test_token_ids_need_no_tokenizer(tmp_path):
    named = {f"{key}_ids": value for key, value in GOOD.items()}
    kept, bad = read(written(tmp_path, GOOD, named))
    assert [listed(pair) for pair in kept] == [[[1, 2], [3], [4, 5]]] * 2
    assert [(pair.example, pair.where) for pair in kept] == [
        (0, "prefs.jsonl:1"),
        (1, "prefs.jsonl:2"),
    ]
    assert kept[0].prompt.dtype == torch.int64
    assert bad == []


def test_a_prompt_may_be_empty(tmp_path):
    (pair,) = read(written(tmp_path, {**GOOD, "prompt": []})).kept
    assert listed(pair) == [[], [3], [4, 5]]


def test_text_is_encoded_and_ends_in_eos_once(tmp_path):
    row = {"prompt": "two and two is", "chosen": "four", "rejected": "five end"}
    path = written(tmp_path, row)
    (pair,) = read(path, tokenizer=Plain()).kept
    assert listed(pair) == [[0, 1, 0, 2], [3, 9], [4, 9]]
    (pair,) = read(path, tokenizer=Plain(), eos=None).kept
    assert listed(pair) == [[0, 1, 0, 2], [3], [4, 9]]
    (pair,) = read(path, tokenizer=Plain(), eos=5).kept
    assert listed(pair) == [[0, 1, 0, 2], [3, 5], [4, 9, 5]]
    (pair,) = read(written(tmp_path, GOOD), tokenizer=Plain(), eos=5).kept
    assert listed(pair) == [[1, 2], [3], [4, 5]]


ASKED = [says("user", "two and two")]
CONVERSATIONS = {
    "explicit prompt": {"prompt": ASKED, "chosen": [says("assistant", "four")]},
    "text answers": {"prompt": ASKED, "chosen": "four"},
    "text prompt": {"prompt": "two and two", "chosen": [says("assistant", "four")]},
    "whole conversations": {"chosen": [*ASKED, says("assistant", "four")]},
    "whole conversations and the prompt as text": {
        "prompt": "two and two",
        "chosen": [*ASKED, says("assistant", "four")],
    },
    "whole conversations and the prompt": {
        "prompt": ASKED,
        "chosen": [*ASKED, says("assistant", "four")],
    },
}


@pytest.mark.parametrize("row", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_every_layout_of_a_conversation_is_the_same_pair(tmp_path, row):
    worse = json.loads(json.dumps(row["chosen"]).replace("four", "five"))
    (pair,) = read(written(tmp_path, {**row, "rejected": worse}), tokenizer=Plain()).kept
    assert listed(pair) == [Plain().text("user : two and two end assistant :"), [3, 9], [4, 9]]


def test_an_implicit_prompt_is_all_the_messages_in_common(tmp_path):
    talk = [says("user", "two"), says("assistant", "and"), says("user", "two")]
    row = {
        "chosen": [*talk, says("assistant", "four")],
        "rejected": [*talk, says("assistant", "five"), says("user", "is")],
    }
    roomy = dataclasses.replace(LIMITS, max_length=20)
    (pair,) = read(written(tmp_path, row), tokenizer=Plain(), limits=roomy).kept
    prompt = "user : two end assistant : and end user : two end assistant :"
    answers = Plain().text("four end"), Plain().text("five end user : is end")
    assert listed(pair) == [Plain().text(prompt), *answers]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "broken line: want one JSON object"),
        ("[1, 2]", "want one JSON object, got list"),
        ("nonsense", "broken line"),
        (f'{{"prompt": [{"1" * 5000}]}}', "broken line: .* a number of too many digits"),
        ({"prompt": "a", "chosen": "b", "rejected": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": [1], "chosen": [2], "\udc00": [3]}, "half of a surrogate pair"),
        ({**GOOD, "rejected": [3]}, "want two responses that differ, got the same tokens"),
        ({"prompt": [1], "chosen": [2]}, "field 'rejected' is missing: the record has prompt"),
        ({"chosen": [1], "rejected": [2]}, "field 'prompt' is missing"),
        ({}, "field 'chosen' is missing: the record has none"),
        ({**GOOD, "chosen": []}, "field 'chosen': want a response, got an empty one"),
        ({**GOOD, "rejected": []}, "field 'rejected': want a response, got an empty one"),
        ({**GOOD, "chosen": 3}, "field 'chosen': want text, messages"),
        ({**GOOD, "chosen": None}, "field 'chosen': want text, messages"),
        ({**GOOD, "chosen": [1.5]}, "field 'chosen': want text, messages"),
        ({**GOOD, "chosen": [True]}, "field 'chosen': want text, messages"),
        ({**GOOD, "chosen": [{"role": "user"}]}, "field 'chosen': want text, messages"),
        ({**GOOD, "chosen": "four"}, "of one kind, got text and token ids"),
        ({**GOOD, "prompt": "two"}, "field 'prompt': want token ids, as the responses are"),
        (
            {**GOOD, "chosen": [3, 99]},
            r"field 'chosen': want no mask token \(99\), got it as token 1",
        ),
        ({**GOOD, "prompt": [99]}, "field 'prompt': want no mask token"),
        ({**GOOD, "rejected": [100]}, r"field 'rejected': want token ids in \[0, 100\), got 100"),
        ({**GOOD, "rejected": [-1]}, r"field 'rejected': want token ids in \[0, 100\), got -1"),
        ({**GOOD, "rejected": [1] * 11}, r"too long: want at most 12 tokens .* got 2 \+ 11"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "wants a tokenizer: name one"),
    ],
    ids=str,
)
def test_a_bad_record_is_refused_by_line_or_left_out_and_listed(tmp_path, row, said):
    path = written(tmp_path, GOOD, "", row, GOOD)
    with pytest.raises(ValueError, match=rf"^prefs\.jsonl:3: .*{said}.*--skip-bad"):
        read(path)
    kept, bad = read(path, skip_bad=True)
    # the third record keeps its number, and so its masks
    assert [(pair.example, pair.where) for pair in kept] == [
        (0, "prefs.jsonl:1"),
        (2, "prefs.jsonl:4"),
    ]
    ((where, reason),) = bad
    assert where == "prefs.jsonl:3"
    assert "--skip-bad" not in reason


CHATS = {
    "an empty answer": ({"prompt": ASKED, "chosen": [says("assistant", " ")]}, "an empty one"),
    "no answer": ({"prompt": ASKED, "chosen": ASKED}, "an empty one"),
    "nothing in common": ({"chosen": [says("assistant", "four")]}, "want a prompt: it is missing"),
    "a prompt of ids": ({"prompt": [1], "chosen": "four"}, "want text or messages, as text"),
}


@pytest.mark.parametrize(("row", "said"), CHATS.values(), ids=CHATS)
def test_a_conversation_without_prompt_or_answer_is_refused(tmp_path, row, said):
    path = written(tmp_path, {**row, "rejected": row["chosen"]})
    with pytest.raises(ValueError, match=rf"^prefs\.jsonl:1: .*{said}"):
        read(path, tokenizer=Plain())


def test_bytes_that_are_no_text_are_a_broken_line(tmp_path):
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(ValueError, match=r"prefs\.jsonl:2: broken line: want UTF-8"):
        read(path)


def test_a_mark_of_byte_order_is_no_fault(tmp_path):
    path = tmp_path / "prefs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read(path).kept) == 1


def test_a_template_that_changes_the_prompt_is_refused(tmp_path):
    class Odd(Plain):
        def chat(self, messages, *, answer):
            return f"{len(messages)} {super().chat(messages, answer=answer)}"

    row = {"prompt": ASKED, "chosen": "four", "rejected": "five"}
    with pytest.raises(ValueError, match="writes the prompt the same"):
        read(written(tmp_path, row), tokenizer=Odd())


def test_nothing_good_is_refused_even_where_bad_is_left_out(tmp_path):
    with pytest.raises(
        ValueError, match=r"no pair to train on, 2 bad.*prefs\.jsonl:1: broken line"
    ):
        read(written(tmp_path, "{", "{"), skip_bad=True)
    with pytest.raises(ValueError, match="no pair to train on, 0 bad"):
        read(written(tmp_path, ""))


@pytest.mark.parametrize(
    ("name", "said"),
    [("none.jsonl", "found nothing at"), ("prefs.csv", "want preferences as one of")],
)
def test_what_is_no_file_of_preferences_is_refused(tmp_path, name, said):
    written(tmp_path, GOOD, name="prefs.csv")
    with pytest.raises(ValueError, match=said):
        read(tmp_path / name)


def test_a_folder_is_its_files_by_name_and_of_one_kind(tmp_path):
    written(tmp_path, GOOD, GOOD, name="b.jsonl")
    written(tmp_path, GOOD, name="a.jsonl")
    kept = read(tmp_path).kept
    assert [pair.where for pair in kept] == ["a.jsonl:1", "b.jsonl:1", "b.jsonl:2"]
    assert [pair.example for pair in kept] == [0, 1, 2]
    (tmp_path / "c.parquet").touch()
    with pytest.raises(ValueError, match=r"several kinds, \.jsonl, \.parquet: name one"):
        read(tmp_path)


def test_a_folder_of_folders_says_which_there_are(tmp_path):
    (tmp_path / "train").mkdir()
    written(tmp_path / "train", GOOD)
    with pytest.raises(ValueError, match="name one of its folders, train"):
        read(tmp_path)


def test_parquet_and_saved_datasets_are_read_by_row(tmp_path):
    datasets = pytest.importorskip("datasets")
    chat = {"chosen": [*ASKED, says("assistant", "four")]}
    chat["rejected"] = [*ASKED, says("assistant", "five")]
    table = datasets.Dataset.from_list([chat, chat])
    table.to_parquet(tmp_path / "prefs.parquet")
    table.save_to_disk(tmp_path / "saved")
    expected = [Plain().text("user : two and two end assistant :"), [3, 9], [4, 9]]
    for path in (tmp_path / "prefs.parquet", tmp_path / "saved"):
        kept = read(path, tokenizer=Plain()).kept
        assert [listed(pair) for pair in kept] == [expected, expected]
        assert kept[1].where.endswith(":2")


@pytest.mark.parametrize("name", ["prefs.parquet", "prefs.arrow"])
def test_a_broken_table_is_refused(tmp_path, name):
    pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(b"no table at all")
    with pytest.raises(ValueError, match=rf"{name}: not"):
        read(tmp_path / name)


def test_the_digest_sees_every_token_and_where_responses_begin(tmp_path):
    rows = [
        GOOD,
        {**GOOD, "prompt": [1, 2, 3], "chosen": [3]},
        {**GOOD, "prompt": [1], "chosen": [2, 3]},
        {**GOOD, "rejected": [4, 6]},
    ]
    digests = {digest(read(written(tmp_path, row)).kept) for row in rows}
    assert len(digests) == 4
    assert digest(read(written(tmp_path, GOOD)).kept) in digests


@pytest.fixture
def tokenizers_inner():
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({**IDS, "<unk>": 50}, unk_token="<unk>")
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return inner


def test_a_tokenizer_file_reads_text_and_no_conversations(tmp_path, tokenizers_inner):
    tokenizers_inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    row = {"prompt": "two and", "chosen": "four", "rejected": "five"}
    (pair,) = read(written(tmp_path, row), tokenizer=tokenizer).kept
    assert listed(pair) == [[0, 1], [3], [4]]
    assert tokenizer.eos is None
    assert load_tokenizer(tmp_path / "tokenizer.json", eos=9).eos == 9
    with pytest.raises(ValueError, match=r"prefs\.jsonl:1: messages want a chat template"):
        read(written(tmp_path, {**row, "prompt": ASKED}), tokenizer=tokenizer)


def test_a_folder_of_a_tokenizer_applies_its_chat_template(tmp_path, tokenizers_inner):
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers_inner, eos_token="end")
    fast.chat_template = (
        "{% for m in messages %}{{ m.role }} : {{ m.content }} end {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}"
    )
    fast.save_pretrained(tmp_path / "tokenizer")
    tokenizer = WhenNeeded(tmp_path / "tokenizer", eos=77)
    assert tokenizer.eos == IDS["end"]
    for answer in (True, False):
        assert tokenizer.chat(ASKED, answer=answer) == Plain().chat(ASKED, answer=answer)
    assert tokenizer.text("two and two") == [0, 1, 0]


def test_token_ids_load_no_tokenizer(tmp_path):
    tokenizer = WhenNeeded(tmp_path / "none")
    assert len(read(written(tmp_path, GOOD), tokenizer=tokenizer).kept) == 1
    with pytest.raises(ValueError, match=r"^want a tokenizer, .* found nothing at"):
        read(
            written(tmp_path, {"prompt": "two", "chosen": "four", "rejected": "a"}),
            tokenizer=tokenizer,
        )


@pytest.mark.parametrize("content", [None, "{}"])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match="tokenizer"):
        load_tokenizer(path)
