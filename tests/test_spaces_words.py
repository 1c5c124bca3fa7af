"""SPACES' words: the vocabulary and its embedding, bert4keras' ids and texts, where tokens stand, files, and what is refused."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import pickle
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import systems
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from refimpl import bert, errors
from refimpl.spaces import words
from refimpl.spaces.words import WordTokenizer
from refimpl.text import framing, open_tokenizer, segmentation, wordpiece
from refimpl.text.segmentation import segmenter

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jieba

RECORDED = Path(__file__).parent.parent / "validation" / "recorded" / "spaces_words"
SAMPLE = json.loads((RECORDED / "sample.json").read_text())
TEXTS, DICTIONARY = SAMPLE["texts"], SAMPLE["dictionary"]
TINY = {
    token: number
    for number, token in enumerate(
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"原告甲，。ab.", "##b", "##c", "原告", "e", "\u1112", "##\u1161", "c"]
    )
}


def _checksum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def _extended(dialect: Any, added: list[str]) -> tuple[dict[str, int], list[int], list[list[int]]]:
    vocabulary, kept = words.simplified_vocabulary(words.read_vocabulary(RECORDED / "vocab.txt"))
    return (*_swap(words.extend_vocabulary(vocabulary, added, WordTokenizer(vocabulary, dialect=dialect)), kept),)


def _swap(extended: Any, kept: list[int]) -> tuple[dict[str, int], list[int], list[list[int]]]:
    return extended[0], kept, extended[1]


@pytest.fixture(scope="module")
def recorded_tokenizer() -> WordTokenizer:
    return WordTokenizer(_extended("bert4keras-0.9.7", SAMPLE["words"])[0], DICTIONARY)


texts = st.lists(
    st.sampled_from(
        [
            "原告",
            "被告",
            "cad图纸",
            "of the",
            "3d打印",
            *"é̖ẹ́İΣ각豈ﬀ…“ 　\n\t\x00\u200b\u2028\x85Ｃ１😀𠀀\u302e龘[]#'.-aBc9",
        ]
    )
    | st.text(max_size=3),
    max_size=12,
).map("".join)


# --- against bert4keras -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", words.DIALECTS)
def test_vocabulary_ids_and_texts_of_bert4keras(dialect: Any) -> None:
    answers = SAMPLE[dialect]
    vocabulary, kept, consists = _extended(dialect, SAMPLE["words"])
    assert (len(vocabulary), _checksum(kept), consists) == (answers["size"], answers["kept"], answers["consists"])
    for name, dictionary, lower in (
        ("words", DICTIONARY, True),
        ("pieces", None, True),
        ("cased words", DICTIONARY, False),
    ):
        tokenizer = WordTokenizer(vocabulary, dictionary, lower=lower, dialect=dialect)
        ids = [tokenizer.encode(text) for text in TEXTS]
        assert answers["ids"][name] in (ids, _checksum(ids))
        decoded = [tokenizer.decode(row) for row in ids]
        assert answers["decoded"][name] in (decoded, _checksum(decoded))


def test_the_dialects_differ_in_what_is_unknown() -> None:
    older, later = (WordTokenizer(TINY, dialect=dialect) for dialect in words.DIALECTS)
    assert older.tokens(older.encode("axb ab x")) == ["a", "[UNK]", "##b", "a", "##b", "[UNK]"]
    assert later.tokens(later.encode("axb ab x")) == ["[UNK]", "a", "##b", "[UNK]"]
    assert later.encoded("axb") == framing.Encoded([1], [(0, 3)])
    assert [len(each.encode("a" + "b" * 200)) for each in (older, later)] == [201, 1]
    assert len(later.encode("a" + "b" * 199)) == 200


def test_pairs_and_their_cutting_as_bert4keras_does_it(recorded_tokenizer: WordTokenizer) -> None:
    for first, second, longest, pattern, expected in SAMPLE["pairs"]:
        framed = recorded_tokenizer.framed(TEXTS[first], TEXTS[second], longest, pattern=pattern)
        assert _checksum([framed.ids, framed.segments]) == expected
        assert len(framed.ids) == min(framed.whole, longest)


def test_ids_of_twenty_judgments(shared: Any) -> None:
    folder = shared("../data/spaces")
    rows = [json.loads(line) for line in (folder / "train.json").read_text("utf-8").splitlines()]
    judgments = [text for row in rows for text in [row["summary"], *(part["sentence"] for part in row["text"])]]
    told, more = ((folder / name).read_text("utf-8").splitlines() for name in ("user_dict.txt", "user_dict_2.txt"))
    for dialect in words.DIALECTS:
        answers = json.loads((RECORDED / "provenance.json").read_text())["judgments"][dialect]
        vocabulary, kept, consists = _extended(dialect, words.dictionary_words([*told, *more]))
        tokenizer = WordTokenizer(vocabulary, told, dialect=dialect)
        ids = [tokenizer.encode(text) for text in judgments]
        found = {
            "tokens": sum(map(len, ids)),
            "unknown": sum(row.count(tokenizer.unknown_id) for row in ids),
            "vocabulary": _checksum(vocabulary),
            "kept": _checksum(kept),
            "consists": _checksum(consists),
            "ids": _checksum(ids),
            "decoded": _checksum([tokenizer.decode(row) for row in ids]),
        }
        assert found == answers


def test_the_library_where_it_does_the_same(recorded_tokenizer: WordTokenizer) -> None:
    """BertNormalizer, BertPreTokenizer and WordPiece: pieces alone, the later dialect. It cuts words at 100 characters, not 200."""
    vocabulary = recorded_tokenizer.vocabulary
    theirs = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=200)
    )
    theirs.normalizer = tokenizers.normalizers.BertNormalizer()
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    ours = WordTokenizer(vocabulary, dialect="bert4keras-0.9.9")
    differing = [text for text in TEXTS if theirs.encode(text).ids != ours.encode(text)]
    apart = {"각", "\u302e", "\x85", "\x1c", "\u2028"}  # what those two of the library's parts take otherwise
    assert [text for text in differing if not apart & set(text)] == []
    assert len(differing) < len(TEXTS) / 4


# --- words ------------------------------------------------------------------------------------------------------------------------------


@given(texts)
def test_words_of_a_user_dictionary_are_jiebas(text: str) -> None:
    ours, theirs = _both()
    assert list(ours.cut(text, hidden=False)) == list(theirs.cut(text, HMM=False))
    assert "".join(ours.cut(text, hidden=False)) == text


@functools.cache
def _both() -> tuple[segmentation.Segmenter, Any]:
    """This project's segmenter and jieba's, told the same."""
    lines = [*DICTIONARY, "", "\ufeff原告 7", "新造的词 n", "cad图纸 60", "甲乙丙"]
    theirs = jieba.Tokenizer()
    theirs.FREQ, theirs.total, theirs.initialized = dict(segmenter().frequency), segmentation.OCCURRENCES, True
    theirs.load_userdict(line.encode() for line in lines)
    ours = segmenter().with_words(lines)
    assert (ours.frequency, ours.total) == (theirs.FREQ, theirs.total)
    return ours, theirs


def test_a_user_dictionary_is_its_tokenizers_own() -> None:
    before = dict(segmenter().frequency)
    assert list(segmenter().with_words(["民事判决甲 9000"]).cut("民事判决甲", hidden=False)) == ["民事判决甲"]
    assert segmenter().frequency == before
    assert segmenter().total == segmentation.OCCURRENCES


def test_every_occurrence_counts_in_what_the_words_are_divided_by() -> None:
    assert list(segmenter().with_words(["的了 1"]).cut("的了", hidden=False)) == ["的", "了"]
    assert list(segmenter().with_words(["的了 1", "甲乙 10000000000000"]).cut("的了", hidden=False)) == ["的了"]


@pytest.mark.parametrize("line", ["原告 0", "原告 0 n"])
def test_a_word_that_never_occurs_is_refused(line: str) -> None:
    with pytest.raises(
        errors.TokenizerError, match=r"user dictionary cannot be used\n  where:    line 2\n(.|\n)*at least once"
    ):
        segmenter().with_words(["甲 9", line])


# --- what holds of every text -----------------------------------------------------------------------------------------------------------


@given(texts, st.booleans(), st.booleans(), st.sampled_from(words.DIALECTS))
@example("각", True, False, "bert4keras-0.9.7")
@example("a\u302e\u0316\u302a\u1d165", True, False, "bert4keras-0.9.7")
def test_offsets_are_of_the_text_and_never_go_back(text: str, lower: bool, first: bool, dialect: Any) -> None:
    tokenizer = WordTokenizer(TINY, () if first else None, lower=lower, dialect=dialect)
    ids, offsets = tokenizer.encoded(text)
    assert len(ids) == len(offsets)
    assert ids == tokenizer.encode(text)
    assert all(0 <= begin < end <= len(text) for begin, end in offsets)
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(offsets))
    for identity, (begin, end) in zip(ids, offsets, strict=True):
        if identity != tokenizer.unknown_id:
            meant = wordpiece.stem(tokenizer.tokens([identity])[0])
            assert meant in _bare(wordpiece.normalized(text[begin:end], lower)[0])


def _bare(text: str) -> str:
    """Without the characters that vanish inside a word."""
    return "".join(c for c in text if unicodedata.category(c) not in ("Cc", "Cf") and c != "\ufffd")


@given(texts)
def test_normalized_characters_come_from_where_it_says(text: str) -> None:
    clean, origins = wordpiece.normalized(text)
    expected = unicodedata.normalize("NFD", text.lower())
    assert clean == "".join(c for c in expected if unicodedata.category(c) != "Mn")
    assert len(origins) == len(clean)
    assert origins == sorted(origins)
    assert wordpiece.normalized(text, lower=False) == (text, list(range(len(text))))
    whole = wordpiece.normalized("Ａé각İ")
    assert whole == ("ａe\u1100\u1161\u11a8i", [0, 1, 2, 2, 2, 3])


@given(texts)
def test_what_is_decoded_once_stays(text: str) -> None:
    """Of words, from the second time on: where [UNK] was left out, two characters may become a word, which takes other spaces."""
    vocabulary = _extended("bert4keras-0.9.7", SAMPLE["words"])[0]
    for tokenizer in (WordTokenizer(vocabulary), WordTokenizer(vocabulary, ())):
        once = tokenizer.decode(tokenizer.encode(text))
        again = tokenizer.decode(tokenizer.encode(once))
        assert again == once if tokenizer.dictionary is None else again.replace(" ", "") == once.replace(" ", "")
        assert tokenizer.decode(tokenizer.encode(again)) == again


def test_a_long_text_takes_time_in_proportion(recorded_tokenizer: WordTokenizer) -> None:
    """By what is looked up, not by a clock: no piece is sought beyond the longest one there is."""

    class Counting(dict[str, int]):
        looked = 0

        def __contains__(self, key: object) -> bool:
            Counting.looked += 1
            return super().__contains__(key)

    longest = max(map(len, recorded_tokenizer.vocabulary))
    for length in (1000, 4000):
        Counting.looked = 0
        list(wordpiece.pieces("z9" * (length // 2), Counting(), longest))
        assert Counting.looked <= length * longest


@pytest.mark.parametrize("text", ["", " ", "\n\x00\u200b", "\ufffd", "\u0301"])
def test_texts_of_nothing(text: str) -> None:
    for dictionary in (None, ()):
        tokenizer = WordTokenizer(TINY, dictionary)
        assert tokenizer.encoded(text) == framing.Encoded([], [])
    assert tokenizer.decode([]) == ""
    assert tokenizer.framed(text).ids == [2, 3]


def test_han_characters_are_those_of_unicode_when_bert_was_written() -> None:
    """All that are named so, in the blocks up to extension E, and nothing else."""
    for code in range(0x30000):
        named = unicodedata.name(chr(code), "").startswith(("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH"))
        later = 0x2CEB0 <= code < 0x2F800
        if unicodedata.category(chr(code)) != "Cn":
            assert wordpiece.is_han(chr(code)) == (named and not later), hex(code)


def test_of_two_parts_the_longer_is_cut_one_token_at_a_time() -> None:
    for first, second, room in itertools.product(range(2, 9), range(1, 9), range(3, 18)):
        expected = [first, second]
        while sum(expected) > room:
            expected[0 if expected[0] > expected[1] else 1] -= 1
        assert framing._kept([first, second], room) == expected
        assert framing._kept([first], room) == [min(first, room)]


@pytest.mark.parametrize("white", [*" \n\r\t\u3000\xa0\u2028\u2029"])
def test_white_space_separates_words_and_control_characters_do_not(white: str) -> None:
    tokenizer = WordTokenizer(TINY)
    assert tokenizer.tokens(tokenizer.encode(f"ab{white}b")) == ["a", "##b", "b"]
    for nothing in "\x00\x1c\x85\u200b\ufeff\ufffd":
        assert tokenizer.encoded(f"a{nothing}b") == framing.Encoded([9, 12], [(0, 1), (2, 3)])


def test_no_text_becomes_a_special_token() -> None:
    for lower in (True, False):
        tokenizer = WordTokenizer(TINY, (), lower=lower)
        assert not {0, 2, 3} & set(tokenizer.encode("[CLS] [SEP][PAD] [cls]"))


# --- decoding ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["原", "告", "abc", "##d", "def", "原告", "x"], "原告abcd def 原告x"),
        (["a", ",", "b", "(", "c", ")", "d"], "a, b(c) d"),
        (["don", "'", "t", "go"], "don't go"),
        (["3", ".", "5", "原", "，", "a"], "3.5原，a"),
        (["##", "a"], "a"),
    ],
)
def test_tokens_are_joined(tokens: list[str], expected: str) -> None:
    assert wordpiece.joined(tokens) == expected


def test_what_was_copied_is_written_as_it_stood() -> None:
    tokenizer = WordTokenizer(TINY, ())
    source = "原告 AxB"
    ids, offsets = tokenizer.encoded(source)
    assert tokenizer.tokens(ids) == ["原告", "a", "[UNK]", "##b"]
    written = [source[begin:end] for begin, end in offsets]
    assert tokenizer.decode(ids) == "原告ab"
    assert tokenizer.decode(ids, written) == "原告A xB"
    assert tokenizer.decode(ids, [None] * 4) == "原告ab"
    with pytest.raises(
        errors.TokenizerError, match=r"for every token\n  where:    written\n  expected: 4\n  got:      1"
    ):
        tokenizer.decode(ids, ["x"])


@pytest.mark.parametrize("identity", [-1, len(TINY)])
def test_an_id_outside_the_vocabulary_is_refused(identity: int) -> None:
    with pytest.raises(errors.TokenizerError, match=rf"not in the vocabulary\n  expected: 0 <= id < {len(TINY)}"):
        WordTokenizer(TINY).decode([5, identity])


# --- the vocabulary ---------------------------------------------------------------------------------------------------------------------


def test_redundant_tokens_go_and_special_ones_come_first() -> None:
    tokens = [
        "[PAD]",
        "[unused1]",
        "a",
        "##a",
        "##人",
        "人",
        "人人",
        "[UNK]",
        "...",
        ".",
        "it's",
        "é",
        "[CLS]",
        "[SEP]",
        "##",
        "[MASK]",
    ]
    vocabulary, kept = words.simplified_vocabulary({token: number for number, token in enumerate(tokens)})
    assert list(vocabulary) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##a", "人", ".", "é", "##"]
    assert [tokens[identity] for identity in kept] == list(vocabulary)
    assert list(vocabulary.values()) == list(range(10))


def test_words_are_added_once_with_what_they_consist_of() -> None:
    vocabulary, consists = words.extend_vocabulary(TINY, ["原告", "甲原告", "abc", "甲原告", "x", "告。"])
    assert vocabulary == TINY | {"甲原告": 19, "abc": 20, "x": 21, "告。": 22}
    assert consists == [[6, 4, 5], [9, 12, 13], [1], [5, 8]]
    assert words.dictionary_words(["\ufeff甲 7 n\n", "", "  ", "乙"]) == ["甲", "乙"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: words.simplified_vocabulary({"a": 0}),
            errors.TokenizerError,
            r"cannot come first(.|\n)*without \['\[PAD\]'",
        ),
        (
            lambda: words.simplified_vocabulary(TINY, ["a", "a"]),
            errors.TokenizerError,
            r"cannot come first(.|\n)*a token twice",
        ),
        (
            lambda: words.extend_vocabulary(TINY, ["\u200b"]),
            errors.TokenizerError,
            r"consists of no tokens(.|\n)*u200b",
        ),
        (
            lambda: words.extend_vocabulary(TINY, [], WordTokenizer(TINY | {"z": 19})),
            errors.ConfigError,
            r"pieces would be others(.|\n)*got: +<WordTokenizer with 20 tokens, pieces alone",
        ),
        (
            lambda: WordTokenizer({"[PAD]": 0, "[UNK]": 1}),
            errors.TokenizerError,
            r"lacks special tokens(.|\n)*no \[CLS\], \[SEP\]",
        ),
        (lambda: WordTokenizer(TINY | {"z": 99}), errors.TokenizerError, r"0 to n - 1, each once\n  expected: n = 20"),
        (
            lambda: WordTokenizer(TINY, dialect="bert"),
            errors.ConfigError,
            r"no such dialect(.|\n)*0.9.7 or bert4keras-0.9.9(.|\n)*'bert'",
        ),
        (
            lambda: WordTokenizer(TINY).framed("a", longest=1),
            errors.TokenizerError,
            r"no room is left(.|\n)*longest(.|\n)*got: +1",
        ),
        (lambda: WordTokenizer(TINY).framed("a", "a", 3), errors.TokenizerError, r"no room is left(.|\n)*got: +3"),
        (
            lambda: WordTokenizer(TINY).framed("a", "a", pattern="S*E"),
            errors.ConfigError,
            r"no such pattern(.|\n)*S\*ES\*E or S\*E\*E",
        ),
        (
            lambda: words.extend_embedding(np.zeros((3, 2)), [0, 3], []),
            errors.TokenError,
            r"row out of range(.|\n)*kept\[0\](.|\n)*id < 3",
        ),
        (
            lambda: words.extend_embedding(np.zeros((3, 2)), [0, 1], [[0], [2]]),
            errors.TokenError,
            r"consists\[1\](.|\n)*id < 2",
        ),
        (lambda: words.extend_embedding(np.zeros((3, 2)), [0, -1], []), errors.TokenError, r"row out of range"),
        (
            lambda: words.extend_embedding(np.zeros((3, 2)), np.array([0, 1]), [[0.5]]),
            errors.TokenError,
            r"rows are whole numbers\n  where: +consists\[0\](.|\n)*got: +0.5",
        ),
        (
            lambda: words.extend_embedding(np.zeros((3, 2)), [0], [[]]),
            errors.TokenError,
            r"mean of no rows\n  where: +consists\[0\]",
        ),
        (lambda: words.extend_embedding(np.zeros(()), [0], []), errors.ShapeError, r"a row for each token"),
        (lambda: words.extend_embedding(np.zeros((3, 2), int), [0], []), errors.DtypeError, r"table"),
    ],
)
def test_what_is_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_the_smallest_frames() -> None:
    tokenizer = WordTokenizer(TINY)
    assert tokenizer.framed("a a", longest=2) == framing.Framed([2, 3], [0, 0], 4)
    assert tokenizer.framed("a a", "a a", 4).ids == [2, 3, 2, 3]
    assert tokenizer.framed("a a", "a a", 3, pattern="S*E*E") == framing.Framed([2, 3, 3], [0, 0, 1], 7)
    assert tokenizer.encode_pair("a", "b", 9) == framing.Framed([2, 9, 3, 2, 10, 3], [0, 0, 0, 1, 1, 1], 6)


# --- the embedding ----------------------------------------------------------------------------------------------------------------------


def test_rows_that_bert4keras_adds_to_embedding_and_bias(recorded: Any) -> None:
    vocabulary, kept, consists = _extended("bert4keras-0.9.7", SAMPLE["words"])
    size, answers = len(words.read_vocabulary(RECORDED / "vocab.txt")), recorded("spaces_words")
    table = (np.arange(size * 3) * 7919 % 2003).reshape(size, 3) / 1024
    for name, given_ in (("table", table), ("bias", table[:, 0])):
        found = words.extend_embedding(given_, kept, consists)
        assert found.shape == (len(vocabulary), *given_.shape[1:])
        assert np.array_equal(found[: len(kept)], given_[kept])
        assert np.array_equal(found[len(kept) :], answers[name])


@pytest.mark.parametrize("system", systems.SYSTEMS)
def test_means_in_every_number_system(system: systems.System) -> None:
    for dtype in system.dtypes:
        values = systems.rounded([[1, 2], [3, 5], [0.1, 7], [-2, 1]], dtype)
        for given_ in (values, values[:, 0]):
            table = system.to(given_)
            found = words.extend_embedding(table, [3, 0, 1], [[1, 2], [0], [1, 1, 2]])
            assert found.dtype == table.dtype
            exact = np.asarray(given_, dtype=np.float64)[[3, 0, 1]]
            expected = np.stack([exact[[1, 2]].mean(0), exact[0], exact[[1, 1, 2]].mean(0)])
            answer = np.asarray(system.back(found), dtype=np.float64)
            assert np.array_equal(answer[:3], exact)
            unit = 2.0 ** -{"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[dtype]
            assert (np.abs(answer[3:] - expected) <= 4 * unit * np.abs(expected)).all()
            if system.is_ball:
                for row, ids in zip(found[3:], ([1, 2], [0], [1, 1, 2]), strict=True):
                    gaps = np.ravel(row * len(ids) - sum(found[identity] for identity in ids))
                    assert all(gap.contains(0) and gap.abs_upper() < 1e-10 for gap in gaps)


def test_weights_are_extended_where_the_vocabulary_counts() -> None:
    config = bert.BertConfig(4, 4, 1, 2, max_position_embeddings=6)
    rng = np.random.default_rng(3)
    shapes = bert.BertWeights.shapes(config, ("pooler", "masked_lm", "output_embedding"))
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    weights = words.extend_weights(bert.BertWeights.from_named(arrays, config), [2, 0], [[0, 1]])
    larger = bert.BertConfig(3, 4, 1, 2, max_position_embeddings=6)
    bert.BertWeights.from_named(weights.named(), larger)
    changed = {name for name, array in weights.named().items() if array is not arrays[name]}
    assert changed == {"token_embedding", "masked_lm.bias", "output_embedding"}
    for name in changed:
        before = arrays[name]
        assert np.array_equal(weights.named()[name], np.stack([before[2], before[0], (before[2] + before[0]) / 2]))
    bare = weights._replace(masked_lm=None, output_embedding=None)
    assert words.extend_weights(bare, [0], []).named().keys() == bare.named().keys()


# --- files ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dictionary", [None, (), ("",), ("甲 9 n", "", "of the", "原告甲 50")])
def test_a_saved_tokenizer_is_the_same(tmp_path: Path, dictionary: Any) -> None:
    before = WordTokenizer(TINY, dictionary, lower=False, dialect="bert4keras-0.9.9")
    before.save(tmp_path / "new")
    for after in (
        WordTokenizer.load(tmp_path / "new"),
        open_tokenizer(tmp_path / "new"),
        pickle.loads(pickle.dumps(before)),
    ):
        assert isinstance(after, WordTokenizer)
        assert (after.vocabulary, after.dictionary, after.lower, after.dialect) == (
            TINY,
            dictionary,
            False,
            "bert4keras-0.9.9",
        )
        assert after.encode("原告甲 abc") == before.encode("原告甲 abc")
    assert (tmp_path / "new" / "user_dict.txt").exists() == (dictionary is not None)
    assert len(pickle.dumps(before)) < 1000  # without jieba's words, which it has looked up by now


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("words.json", "{", r"words.json cannot be read(.|\n)*JSONDecodeError"),
        ("words.json", "[]", r"of another kind(.|\n)*format 1 and kind words(.|\n)*\[\]"),
        ("words.json", '{"format": 2, "kind": "words"}', r"of another kind"),
        (
            "words.json",
            '{"format": 1, "kind": "words", "lower": 1, "words": true}',
            r"words.json is damaged(.|\n)*lower and words",
        ),
        ("words.json", None, r"cannot be read(.|\n)*FileNotFoundError"),
        ("vocab.txt", None, r"vocab.txt(.|\n)*FileNotFoundError"),
        ("vocab.txt", b"\xff", r"vocab.txt(.|\n)*UnicodeDecodeError"),
        ("vocab.txt", "[PAD]\na\na\n", r"a token is there twice(.|\n)*vocab.txt, line 3(.|\n)*'a', also in line 2"),
        ("user_dict.txt", None, r"user_dict.txt(.|\n)*FileNotFoundError"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: Any, message: str) -> None:
    WordTokenizer(TINY, ()).save(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(errors.TokenizerError, match=message):
        WordTokenizer.load(tmp_path)


def test_a_folder_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text('{"format": 1, "kind": "syllables"}')
    with pytest.raises(
        errors.TokenizerError, match=r"no such tokenizer(.|\n)*kind: words or pieces\n  got: +'syllables'"
    ):
        open_tokenizer(tmp_path)


def test_a_token_with_white_space_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(errors.TokenizerError, match=r"cannot be written\n  where: +token 19\n(.|\n)*'of the'"):
        WordTokenizer(TINY | {"of the": 19}).save(tmp_path)


@pytest.mark.parametrize("line", ["甲\n乙 3", "\n", "\ud800 3"])
def test_a_line_that_would_be_read_back_otherwise_cannot_be_written(tmp_path: Path, line: str) -> None:
    """And nothing is: what was there before stays."""
    WordTokenizer(TINY, ["丙 3"]).save(tmp_path)
    with pytest.raises(errors.TokenizerError, match=r"line of the user dictionary 1(.|\n)*no line feed in it"):
        WordTokenizer(TINY | {"z": 19}, ["甲", f"{line} n"]).save(tmp_path)
    assert WordTokenizer.load(tmp_path).dictionary == ("丙 3",)
    assert WordTokenizer.load(tmp_path).vocabulary == TINY


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.TokenizerError, match=r"tokenizer cannot be written(.|\n)*file(.|\n)*FileExistsError"):
        WordTokenizer(TINY).save(tmp_path / "file")
