"""What is no score: features that are not finite, extractors with other outputs, damaged reference statistics; and the
cautions beside a score."""

import collections
import json
import math
import warnings

import pytest
import safetensors.torch
import torch
from conftest import call, write_pictures
from torch import nn

from biggan.analysis.diagnostics import fraction_classified_as_real
from biggan.metrics import prdc
from biggan.metrics.cautions import compare_classes
from biggan.metrics.classification import Classifier, count_errors
from biggan.metrics.evaluate import Evaluation, evaluate, format_score, format_table, parse_recipe, require_finite
from biggan.metrics.features import Extractor, open_extractor
from biggan.metrics.scores import InceptionScore, Moments, frechet_distance, kernel_distance
from biggan.metrics.statistics import ImageSet
from biggan.nn.heads import DiscriminatorOutput
from biggan.objectives.objective_config import ObjectiveConfig
from biggan.runtime.errors import ConfigError, DataError, NonFiniteScore, UserError

CPU = torch.device("cpu")


def extractor_of(network, name="module:x.pt"):
    return Extractor(name, "0" * 64, "none", network, CPU, False)


def image_set(count=60, classes=3, seed=0, identity="a", size=8):
    images = torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    labels = torch.arange(count) % classes

    def batches(n):
        return zip(images[:n].split(16), labels[:n].split(16), strict=True)

    return ImageSet(batches, identity, {"data": identity}, tuple("abcdefgh"[:classes]), count)


def small_features(images):
    x = images.float().flatten(1)
    return x[:, :4] / 255, x[:, 4:7] / 100


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["features", "logits"])
def test_values_that_are_not_finite_name_the_image_and_the_extractor(value, part):
    calls = []

    def network(images):
        features, logits = small_features(images)
        calls.append(len(images))
        if len(calls) == 4:  # after the look at the first images: images 32 to 47
            (features if part == "features" else logits)[5, 1] = value
        return features, logits

    with pytest.raises(
        NonFiniteScore, match=rf"samples: extractor module:x.pt gives {part} that are not finite for image 37$"
    ):
        evaluate(image_set(), image_set(seed=1), extractor_of(network), parse_recipe("fid60,is60"))


def test_no_distance_of_moments_that_are_not_finite_is_zero():
    mean, covariance = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for value in (math.nan, math.inf):
        for bad in ((mean + value, covariance), (mean, covariance * value)):
            for pair in ((bad, (mean, covariance)), ((mean, covariance), bad)):
                with pytest.raises(NonFiniteScore, match="not finite"):
                    frechet_distance(*pair)
    with pytest.raises(NonFiniteScore, match="Frechet distance is inf"):
        frechet_distance((mean + 1e200, covariance), (mean, covariance))
    moments = Moments()
    moments.add(torch.full((3, 2), math.nan))
    with pytest.raises(NonFiniteScore):
        frechet_distance(moments.mean_and_covariance(), moments.mean_and_covariance())


def test_features_too_large_for_a_distance_are_no_overlap():
    """Infinite distances would lie in infinite balls: precision 1."""
    large = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 1e30
    with pytest.raises(NonFiniteScore, match="too large for float32"):
        prdc.precision_recall_density_coverage(large, -large)
    extractor = extractor_of(lambda images: small_features(images)[0] * 1e30)
    with pytest.raises(NonFiniteScore, match=r"prdc60 with extractor module:x.pt: the distances"):
        evaluate(image_set(), image_set(seed=1), extractor, parse_recipe("prdc60"))


@pytest.mark.parametrize("part", ["value", "mean", "std", "class_1"])
def test_no_number_of_a_score_may_be_other_than_finite(part, tmp_path):
    with pytest.raises(NonFiniteScore, match=f"{part} of kid is nan"):
        require_finite({"kid": {"images": 3, part: math.nan}})
    with pytest.raises(ValueError, match="JSON compliant"):
        Evaluation({"kid": {part: math.nan}}, {}).save(tmp_path / "x.json")


def test_scores_of_extreme_but_finite_values_are_finite():
    score = InceptionScore(40, 2)
    score.add(torch.eye(4).repeat(10, 1) * 3e38)
    assert score.score().mean == pytest.approx(4)
    huge = torch.full((8, 4), 1e30)
    assert math.isfinite(kernel_distance(huge, huge, subsets=2, size=4).mean)


class Named(collections.namedtuple("Named", "features logits")):
    pass


@pytest.mark.parametrize(
    "outputs",
    [
        lambda f, k: f,
        lambda f, k: (f,),
        lambda f, k: [f, k],
        lambda f, k: Named(f, k),
        lambda f, k: (f, None),
        lambda f, k: (f.half(), k.bfloat16()),
        lambda f, k: (f.double(), k.double()),
        lambda f, k: f.requires_grad_(),
    ],
)
def test_outputs_that_are_taken(outputs):
    extracted = extractor_of(lambda images: outputs(*small_features(images)))(next(image_set().batches(16))[0])
    assert extracted.features.shape == (16, 4)
    assert extracted.features.dtype == torch.float32
    assert extracted.logits is None or (extracted.logits.shape, extracted.logits.dtype) == ((16, 3), torch.float32)


class Hidden:
    def __repr__(self):
        raise AssertionError("no object is shown by its repr")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda f, k: {"features": f}, "gives a dict, not features"),
        (lambda f, k: (f, k, k), "gives 3 values, not features"),
        (lambda f, k: (), "gives a tuple, not features"),
        (lambda f, k: None, "gives a NoneType, not features"),
        (lambda f, k: Hidden(), "gives a Hidden, not features"),
        (lambda f, k: (f, Hidden()), r"gives a Hidden as logits, not a tensor \(N, K\)"),
        (lambda f, k: f[:, :, None, None], r"no features of shape \(N, F\) but \(16, 4, 1, 1\) for 16 images"),
        (lambda f, k: f[:-1], r"no features of shape \(N, F\) but \(15, 4\) for 16 images"),
        (lambda f, k: f.sum(), r"no features of shape \(N, F\) but \(\) for"),
        (lambda f, k: f[:, :0], r"but \(16, 0\)"),
        (lambda f, k: (f, k[:3]), r"no logits of shape \(N, K\) but \(3, 3\) for 16 images"),
        (lambda f, k: f.long(), "features of type int64, not floating-point"),
        (lambda f, k: f > 0, "features of type bool"),
        (lambda f, k: f.to(torch.complex64), "features of type complex64"),
        (lambda f, k: f.to_sparse(), "features of type sparse_coo"),
        (lambda f, k: f.to("meta"), "features of type meta"),
        (lambda f, k: torch.nested.nested_tensor(list(f)), "features of type nested"),
        (lambda f, k: f @ f, "fails on images .16, 3, 8, 8. of uint8: mat1 and mat2 shapes cannot be multiplied"),
        (lambda f, k: (_ for _ in ()).throw(ValueError("a\x1b[31m\nb")), r"uint8: a\\x1b\[31m$"),
        (lambda f, k: (_ for _ in ()).throw(KeyError()), "uint8: KeyError$"),
        (lambda f, k: (_ for _ in ()).throw(ValueError("x" * 5000)), r"x{90}\.\.\.x{50}$"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_outputs_that_are_refused(outputs, message):
    with pytest.raises(ConfigError, match=message) as caught:
        extractor_of(lambda images: outputs(*small_features(images)))(next(image_set().batches(16))[0])
    assert len(str(caught.value).splitlines()) == 1


def test_extractors_of_too_many_features():
    """Their covariance would not fit into memory."""
    with pytest.raises(ConfigError, match="gives 20,000 features, more than 8,192"):
        extractor_of(lambda images: torch.zeros(len(images), 20_000))(next(image_set().batches(4))[0])


def test_the_numbers_of_features_and_logits_may_not_change():
    for later in (lambda f, k: (f[:, :3], k), lambda f, k: (f, k[:, :2]), lambda f, k: f):
        calls = []

        def network(images, later=later, calls=calls):
            calls.append(1)
            return small_features(images) if len(calls) < 3 else later(*small_features(images))

        with pytest.raises(ConfigError, match=r"4 features and 3 logits for some images, .* for others"):
            evaluate(image_set(), image_set(seed=1), extractor_of(network), parse_recipe("fid60"))


class Failing(nn.Module):
    """A module that takes 16 px only."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().view(-1, 3 * 16 * 16) @ torch.ones(768, 4)


def test_messages_of_torchscript_are_cut_to_their_reason(capsys, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Failing()).save(tmp_path / "f.pt")
    write_pictures(tmp_path / "a", {"x": 8}, size=(10, 10))
    words = [
        "evaluate",
        tmp_path / "a",
        "--data",
        tmp_path / "a",
        "--resolution",
        10,
        "--recipe",
        "fid8",
        "--trust-extractor",
    ]
    code, _, err = call(capsys, *words, "--extractor", f"module:{tmp_path / 'f.pt'}", "--device", "cpu")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert "extractor module:f.pt fails on images (2, 3, 10, 10) of uint8: RuntimeError: shape" in err
    assert ".py" not in err


def test_an_extractor_without_logits_is_asked_for_none():
    plain = extractor_of(lambda images: small_features(images)[0])
    assert set(evaluate(image_set(), image_set(seed=1), plain, parse_recipe("fid60,prdc60")).scores) > {"precision"}
    with pytest.raises(ConfigError, match="gives no logits"):
        evaluate(image_set(), None, plain, parse_recipe("is60"))


def test_training_goes_on_where_there_is_no_score(capsys, tmp_path, monkeypatch):
    class Blind(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean((2, 3)) / 0.0 * 0.0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Blind()).save(tmp_path / "b.pt")
    words = ["train", "digits", "--run", tmp_path / "run", "--train.steps", 2, "--train.batch", 8, "--model.width", 2]
    words += ["--model.embedding-dim", 8, "--train.device", "cpu", "--train.precision", "fp32", "--train.log-every", 1]
    words += [
        "--train.standing-stats-batches",
        1,
        "--eval.every",
        1,
        "--eval.recipe",
        "fid20",
        "--eval.max-time-fraction",
        9,
    ]
    words += ["--eval.extractor", f"module:{tmp_path / 'b.pt'}", "--trust-extractor", "--eval.reference-images", 20]
    code, _, err = call(capsys, *words)
    assert code == 0, err
    assert "step 2: no scores, since samples: extractor module:b.pt gives features that are not finite for image 0" in err
    assert (tmp_path / "run" / "evaluations.jsonl").read_text() == ""
    assert not (tmp_path / "run" / "best").exists()


# Reference statistics


def measure(cache, reference=None, recipe="fid60,prdc60,intra60"):
    return evaluate(
        image_set(), reference or image_set(seed=1), extractor_of(small_features), parse_recipe(recipe), cache=cache
    )


def rewrite(file, change, keep_checksum=False):
    """The file with changed tensors, with a right checksum, as somebody else could write it."""
    from biggan.runtime.tensor_files import read_safetensors, tensors_sha256

    found = read_safetensors(file)
    tensors, metadata = dict(found.tensors), dict(found.metadata)
    change(tensors, metadata)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if not keep_checksum:
        metadata["sha256"] = tensors_sha256(tensors)
    file.write_bytes(safetensors.torch.save(tensors, metadata))


def swap(name, make):
    return lambda tensors, metadata: tensors.__setitem__(name, make(tensors[name]))


def asymmetric(covariance):
    covariance = covariance.clone()
    covariance[0, 1] += 1
    return covariance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap("mean", lambda t: t * math.nan), "not finite"),
        (swap("covariance", lambda t: t * math.inf), "not finite"),
        (swap("features", lambda t: t / 0), "not finite"),
        (swap("covariance", lambda t: t.float()), "of other types"),
        (swap("features", lambda t: t.double()), "of other types"),
        (swap("labels", lambda t: t.float()), "of other types"),
        (swap("mean", lambda t: t[:-1]), "shapes are wrong"),
        (swap("mean", lambda t: t.sum()), "shapes are wrong"),
        (swap("covariance", lambda t: t[:-1]), "shapes are wrong"),
        (swap("features", lambda t: t[:-1]), "shapes are wrong"),
        (swap("features", lambda t: t[:, :-1]), "shapes are wrong"),
        (swap("labels", lambda t: t[:-1]), "shapes are wrong"),
        (swap("labels", lambda t: t + 1), "labels are not those"),
        (swap("labels", lambda t: t - 1), "labels are not those"),
        (swap("covariance", asymmetric), "covariance is not one"),
        (swap("covariance", lambda t: -t), "covariance is not one"),
        (lambda tensors, metadata: tensors.pop("covariance"), "of other types"),
        (lambda tensors, metadata: tensors.update(more=torch.zeros(1)), "of other types"),
        (lambda tensors, metadata: metadata.update(count="7"), "of other images"),
        (lambda tensors, metadata: metadata.update(count="9" * 9999), "limit"),
        (lambda tensors, metadata: metadata.clear(), "of other images"),
    ],
)
def test_reference_statistics_that_are_not_what_was_written_are_made_again(change, message, tmp_path, notes):
    expected = measure(tmp_path)
    (file,) = tmp_path.glob("reference-*")
    notes.clear()
    assert measure(tmp_path) == expected
    assert not notes, "a sound file is used in silence"
    rewrite(file, change)
    assert measure(tmp_path) == expected
    assert sum(message in note and "computed again" in note for note in notes) == 1, notes
    notes.clear()
    assert measure(tmp_path) == expected
    assert not notes, "it has been replaced"


def test_every_flipped_byte_of_reference_statistics_is_noticed(tmp_path, notes):
    expected = measure(tmp_path)
    (file,) = tmp_path.glob("reference-*")
    data = file.read_bytes()
    for place in range(0, len(data), 97):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        file.write_bytes(flipped)
        assert measure(tmp_path) == expected, place
    rewrite(file, swap("mean", lambda t: t + 1), keep_checksum=True)
    notes.clear()
    assert measure(tmp_path) == expected
    assert any("checksum is wrong" in note for note in notes)


# Cautions and digits


def test_fewer_images_than_features_are_a_caution_in_the_log_and_the_file(capsys, tmp_path, small):
    write_pictures(tmp_path / "a", {"x": 8, "y": 8}, size=(16, 16))
    write_pictures(tmp_path / "b", {"x": 8, "z": 8}, size=(16, 16))
    words = ["evaluate", tmp_path / "a", "--data", tmp_path / "b", "--resolution", 16, "--extractor", f"module:{small}"]
    words += ["--device", "cpu", "--out", tmp_path / "out.json", "--cache", tmp_path / "cache", "--recipe"]
    assert call(capsys, *words, "fid8")[0] == 0
    first, second = json.loads((tmp_path / "out.json").read_text())["cautions"]
    assert "different classes (2 and 2; only in one of them: y, z)" in first
    assert second.startswith("fid8: the smaller set has 8 images, the features are 8: with no more images")
    code, out, err = call(capsys, *words, "fid16,prdc16")
    assert (code, "different classes" in err, "covariance" in err) == (0, True, False), err
    assert "frechet_distance" in out
    code, _, err = call(capsys, *words[:3], tmp_path / "a", *words[4:], "intra16")
    assert (code, "intra16: the smallest class or set has 8 images" in err, "classes (" in err) == (0, True, False), err


def test_equal_classes_in_another_order_are_no_caution():
    first, second = image_set(), image_set()
    assert compare_classes(first, ImageSet(second.batches, "", {}, second.class_names[::-1], 60)) == []


@pytest.mark.parametrize(
    ("score", "text"),
    [
        ({"value": 123.456789, "images": 300}, "123"),
        ({"value": 123.456789, "images": 20}, "120"),
        ({"value": 12.3456, "images": 50_000}, "12.35"),
        ({"value": 9.9996, "images": 50_000}, "10.00"),
        ({"value": 0.0, "images": 300}, "0"),
        ({"value": 0.98765, "images": 300}, "0.988"),
        ({"value": 0.00000123, "images": 300}, "1.23e-06"),
        ({"value": 98765.4, "images": 5000}, "98770"),
        ({"mean": 9.04321, "std": 0.1234, "images": 5000}, "9.04 +- 0.12"),
        ({"mean": 0.012345, "std": 0.00098, "images": 5000}, "0.01235 +- 0.00098"),
        ({"mean": 2.0, "std": 0.0, "images": 300}, "2.00 +- 0"),
        ({"mean": 212.0, "std": 31.4, "images": 300}, "212 +- 31"),
        ({"value": -0.00123, "images": 100}, "-0.00123"),
    ],
)
def test_printed_digits(score, text):
    assert format_score(score) == text
    assert format_table(Evaluation({"x": score}, {})).split("  ")[0] == "x"


def test_every_refusal_is_a_user_error():
    assert issubclass(NonFiniteScore, DataError)
    assert issubclass(NonFiniteScore, UserError)


def test_an_extractor_file_that_is_none(tmp_path):
    for data in (b"", b"PK\x03\x04", b"\x80\x02}q\x00."):
        (tmp_path / "x.pt").write_bytes(data)
        with pytest.raises(UserError, match="neither a torch") as caught:
            open_extractor(f"module:{tmp_path / 'x.pt'}", cache=tmp_path, device=CPU, trusted=True)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_no_class_and_no_decision(value):
    class Head(nn.Module):
        def forward(self, x, y):
            logits = torch.zeros(len(x), 4)
            logits[2] += value
            return DiscriminatorOutput(logits[:, 0], x.flatten(1), logits)

    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    classifier = Classifier(Head(), CPU, ("a", "b", "c"))
    with pytest.raises(NonFiniteScore, match="logits that are not finite for image 2 of 5"):
        list(classifier.predictions(iter([images])))
    with pytest.raises(NonFiniteScore, match="not finite"):
        count_errors(classifier.logits, [(images, torch.zeros(5, dtype=torch.int64))])
    batches, objective = [(images, torch.zeros(5, dtype=torch.int64))] * 2, ObjectiveConfig().build()
    with pytest.raises(NonFiniteScore, match=r"a logit that is not finite for image 2$"):
        fraction_classified_as_real(Head(), batches, CPU, objective)
