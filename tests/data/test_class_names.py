"""Classes as a person names them."""

import re

import numpy as np
import pytest

from biggan.data.class_names import escape, find_class, parse_class_weights, parse_classes, split_at_commas
from biggan.runtime.errors import ConfigError

PLAIN = ("ant", "Bee", "-foo", "walrus")
COMMAS = ("goldfish", "tench, Tinca tinca", "a,b", "a", "b", "c\\", "d:e", "index:1", " spaced ")
NUMBERS = ("10", "2", "3")  # sorted as text
DIGITS = tuple("0123456789")


@pytest.mark.parametrize(
    ("text", "names", "indices"),
    [
        ("ant", PLAIN, [0]),
        ("walrus, ant ,walrus", PLAIN, [3, 0, 3]),
        ("-foo", PLAIN, [2]),
        ("3,index:1,name:ant", PLAIN, [3, 1, 0]),
        ("3,7", DIGITS, [3, 7]),
        ("10", NUMBERS, [0]),
        ("name:2,index:2", NUMBERS, [1, 2]),
        ("tench, Tinca tinca", COMMAS, [1]),
        (r"tench\, Tinca tinca,goldfish", COMMAS, [1, 0]),
        ("a,b", COMMAS, [2]),  # the whole word first
        ("b,a", COMMAS, [4, 3]),
        (r"a\,b,a", COMMAS, [2, 3]),
        (r"c\\,a", COMMAS, [5, 3]),
        ("c\\", COMMAS, [5]),
        ("d:e,name:d:e", COMMAS, [6, 6]),
        ("index:1", COMMAS, [7]),  # a class of this name comes first
        ("name:index:1,index:2", COMMAS, [7, 2]),
        (" spaced ,a", COMMAS, [8, 3]),
        ("name: spaced ", COMMAS, [8]),
        ("e\u0301", ("\u00e9", "x"), [0]),  # as macOS writes it in file names, and as a keyboard does
    ],
)
def test_words_of_the_command_line(text, names, indices):
    assert parse_classes(text, names) == indices


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        ("ANT", PLAIN, "did you mean 'ant'?"),
        ("bee", PLAIN, "did you mean 'Bee'?"),
        ("wlarus", PLAIN, "did you mean 'walrus'?"),
        ("4", PLAIN, "no class of index 4"),
        ("-1", PLAIN, "no class '-1'"),
        ("", PLAIN, "empty"),
        ("ant,", PLAIN, "empty"),
        ("ant,,walrus", PLAIN, "empty"),
        ("index:", PLAIN, "such as index:3"),
        ("index:-1", PLAIN, "such as index:3"),
        ("index:9", PLAIN, "no class of index 9"),
        ("9" * 5000, PLAIN, "no class"),
        ("2", NUMBERS, "name:2 is the class of that name, index:2 is class '3'"),
        ("0", NUMBERS, "use index:0"),
        ("2,0", NUMBERS, "ambiguous"),
        ("11", DIGITS, "no class '11'"),
        ("goldfish,tench,Tinca tinca", COMMAS, r"as in tench\, Tinca tinca"),
        ("crane", ("crane", "ox", "crane"), "index:0, index:2"),
    ],
)
def test_words_that_are_no_class(text, names, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_classes(text, names)


def test_in_python_text_is_a_name_and_an_integer_an_index():
    assert [find_class(given, NUMBERS) for given in ("2", 2, np.int64(0), "10")] == [1, 2, 0, 0]
    for given, message in (
        (3, "index 3"),
        (-1, "index -1"),
        ("1", "for an index give an int"),
        ("name:2", "no class"),
        (2.0, "no class"),
        (True, "no class"),
        (None, "no class"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_class(given, NUMBERS)


def test_every_name_has_a_spelling():
    for names in (PLAIN, COMMAS, NUMBERS, DIGITS):
        for index, name in enumerate(names):
            assert parse_classes(f"name:{escape(name)},index:0", names) == [index, 0]


def test_weights():
    assert parse_class_weights("ant:3, walrus:1", PLAIN) == {0: 0.75, 3: 0.25}
    assert parse_class_weights("d:e:1", COMMAS) == {6: 1.0}
    assert parse_class_weights("tench, Tinca tinca:2", COMMAS) == {1: 1.0}
    assert parse_class_weights(r"tench\, Tinca tinca:1,goldfish:3", COMMAS) == {1: 0.25, 0: 0.75}
    assert parse_class_weights("index:0:1,ant:1,Bee:2e0", PLAIN) == {0: 0.5, 1: 0.5}
    large = parse_class_weights("ant:1e300,walrus:1e300", PLAIN)
    assert large == {0: 0.5, 3: 0.5}
    for text in (
        "ant",
        "ant:",
        "ant:x",
        "ant:-1",
        "ant:nan",
        "ant:inf",
        "ant:1_0",
        "ant:0",
        "ant:1e308,Bee:1e308,walrus:1e308",
    ):
        with pytest.raises(ConfigError, match="weight"):
            parse_class_weights(text, PLAIN)
    with pytest.raises(ConfigError, match="ambiguous"):
        parse_class_weights("2:1", NUMBERS)


def test_splitting_at_commas():
    assert split_at_commas(r"a,b\,c,\\,") == ["a", r"b\,c", r"\\", ""]
    assert split_at_commas("") == [""]
