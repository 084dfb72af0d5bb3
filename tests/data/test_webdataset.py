"""Shards against the listing they were made from; ranks and resumption; servers that fail; sets larger than memory."""

import collections
import functools
import http.server
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call, write_pictures
from PIL import Image

from biggan.data import formats, webdataset, webdataset_index, webdataset_io
from biggan.data.dataset import open_source
from biggan.data.formats import Shards
from biggan.data.manifest import Shard, parse_manifest
from biggan.data.prepare import prepare
from biggan.data.sources import list_source
from biggan.runtime.errors import DataError

CLASSES = {"cat": 40, "dog": 20, "eel": 4}


@pytest.fixture
def pictures(tmp_path):
    write_pictures(tmp_path / "set", CLASSES)
    return tmp_path / "set"


@pytest.fixture
def tars(pictures, tmp_path, monkeypatch) -> Path:
    """64 images in 16 shards of 4, in 16 readers."""
    monkeypatch.setattr(formats, "MAX_READERS", 16)
    monkeypatch.setattr(webdataset, "MAX_READERS", 16)
    prepare(list_source(str(pictures)), tmp_path / "tars", Shards(16, shard_images=4))
    return tmp_path / "tars"


def third_image(tar):
    """Where in the file it begins."""
    with tarfile.open(tar) as opened:
        return opened.getmembers()[4].offset_data


@pytest.fixture
def server(tars):
    """Serves the shards; `failures` holds, for a file, how many answers fail and how."""
    failures = {}

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            name = self.path.lstrip("/")
            count, how = failures.get(name, (0, None))
            if count == 0:
                return super().do_GET()
            failures[name] = (count - 1, how)
            if how == "error":
                return self.send_error(503)
            data = (tars / name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: third_image(tars / name) + 10])
            self.close_connection = True
            return None

        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tars))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}", failures
        httpd.shutdown()


def take(stream, count):
    batches = list(itertools.islice(stream, count))
    stream.close()
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def named(images, labels):
    return [(image.numpy().tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)]


def test_an_epoch_holds_every_image_once_with_its_class(pictures, tars):
    source, decoded = open_source(f"wds:{tars}", 16), open_source(str(pictures), 16)
    assert (source.count, source.class_names, source.sizes) == (64, ("cat", "dog", "eel"), ((40, 32), (40, 32)))
    first, second = (take(source.stream(8, start_image=start, seed=0), 8) for start in (0, 64))
    assert sorted(named(*first)) == sorted(named(*second)) == sorted(named(decoded.images, decoded.labels))
    assert named(*first) != named(*second), "another order in each epoch"
    assert all(len(labels.unique()) > 0 for labels in first[1].split(8))
    assert open_source(str(tars), 16).name.startswith("wds:"), "a plain path will do"


@pytest.mark.parametrize("buffer", [1, 40, 2048])
def test_a_stream_starts_anywhere(tars, buffer):
    source = open_source(f"wds:{tars}", 16, flip=True, shuffle_buffer=buffer)
    whole = named(*take(source.stream(4, seed=3), 40))
    for start in (4, 20, 64, 100):
        assert named(*take(source.stream(4, start_image=start, seed=3), 10)) == whole[start : start + 40]


@pytest.mark.parametrize(("batch", "world"), [(8, 2), (8, 8), (6, 3), (6, 2), (20, 5)])
def test_ranks_read_parts_of_the_same_batches(tars, batch, world):
    source = open_source(f"wds:{tars}", 16, flip=True)
    whole, labels = take(source.stream(batch, seed=1), 9)
    parts = [take(source.stream(batch, rank=rank, world_size=world, seed=1), 9) for rank in range(world)]
    process_group = torch.stack([images.unflatten(0, (9, -1)) for images, _ in parts], dim=1).flatten(0, 2)
    assert torch.equal(process_group, whole)
    assert torch.equal(torch.stack([names.unflatten(0, (9, -1)) for _, names in parts], dim=1).flatten(), labels)


def test_ranks_share_the_shards_out(pictures, tmp_path, monkeypatch):
    tars = tmp_path / "tars"
    prepare(list_source(str(pictures)), tars, Shards(16, shard_images=1))
    monkeypatch.setattr(webdataset, "MAX_READERS", 4)  # of 16 shards each in an epoch
    opened = collections.defaultdict(set)
    original = webdataset_io.open_url
    monkeypatch.setattr(webdataset_io, "open_url", lambda url: opened[rank].add(url) or original(url))
    source = open_source(f"wds:{tars}", 16)
    for rank in range(2):
        take(source.stream(4, rank=rank, world_size=2, seed=0), 6)
    assert all(12 <= len(urls) < 32 for urls in opened.values())
    assert not opened[0] & opened[1]


def test_a_server_gives_the_same_stream(tars, server):
    address, _ = server
    local, served = (open_source(f"wds:{where}", 16) for where in (tars, address))
    assert served.content_hash == local.content_hash
    assert named(*take(served.stream(8, seed=0), 10)) == named(*take(local.stream(8, seed=0), 10))


@pytest.mark.parametrize("how", ["error", "half"])
def test_a_shard_that_fails_is_tried_again(tars, server, monkeypatch, how):
    monkeypatch.setattr(webdataset, "RETRY_DELAY", 0.01)
    address, failures = server
    failures["shard-000003.tar"] = (2, how)
    source = open_source(f"wds:{address}", 16)
    undisturbed = named(*take(open_source(f"wds:{tars}", 16).stream(8, seed=0), 8))
    assert named(*take(source.stream(8, seed=0), 8)) == undisturbed
    assert source.read_errors()["data_retries"] == 2
    assert source.read_errors()["data_skipped_shards"] == 0


@pytest.mark.parametrize(("how", "delivered"), [("error", 0), ("half", 2)])
def test_a_shard_that_keeps_failing_is_left_out_and_counted(tars, server, monkeypatch, how, delivered, notes):
    monkeypatch.setattr(webdataset, "RETRY_DELAY", 0.01)
    address, failures = server
    failures["shard-000003.tar"] = (1000, how)
    source = open_source(f"wds:{address}", 16)
    seen = collections.Counter(named(*take(source.stream(1, seed=0), 3 * 60 + 8)))
    lost = {(sample.data, int(sample.label)) for sample in webdataset_io.read_samples(str(tars / "shard-000003.tar"))}
    lost = {(np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1).tobytes(), label) for data, label in lost}
    assert len(lost) == 4
    assert len(seen) == 64 - 4 + delivered
    assert len(set(seen) & lost) == delivered
    assert source.read_errors()["data_skipped_shards"] >= 2
    assert source.read_errors()["data_retries"] == 3 * source.read_errors()["data_skipped_shards"]
    assert source.read_errors()["data_skipped_images"] == source.read_errors()["data_skipped_shards"] * (4 - delivered)
    first = next(note for note in notes if address in note)  # a stream of another test may still be read ahead
    assert "shard-000003.tar failed 4 times and is left out" in first
    assert ("Error 503" in first) == (how == "error")


def test_when_nothing_can_be_read_the_stream_says_so(tars, monkeypatch, notes):
    monkeypatch.setattr(webdataset, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(webdataset, "STALL_TIMEOUT", 0.5)
    source = open_source(f"wds:{tars}", 16)
    for file in tars.glob("*.tar"):
        file.unlink()
    with pytest.raises(DataError, match=r"nothing could be read for 0 seconds, last of all .*tar"):
        next(source.stream(8, seed=0))
    assert "nor can others (FileNotFoundError" in notes[0]
    assert source.read_errors()["data_skipped_shards"] == 0, "it is not the shards that fail"


def test_the_stream_waits_for_a_server_that_comes_back(tars, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(webdataset, "MAX_RETRY_DELAY", 0.05)
    undisturbed = named(*take(open_source(f"wds:{tars}", 16).stream(8, seed=0), 8))
    source = open_source(f"wds:{tars}", 16)
    tars.rename(tmp_path / "away")
    threading.Timer(1.0, lambda: (tmp_path / "away").rename(tars)).start()
    assert named(*take(source.stream(8, seed=0), 8)) == undisturbed
    assert source.read_errors()["data_retries"] > 4


@pytest.mark.parametrize("look", [1, 2, 9])
def test_a_server_that_comes_back_between_a_try_and_a_look_costs_no_shard(tars, tmp_path, monkeypatch, look):
    monkeypatch.setattr(webdataset, "RETRY_DELAY", 0.01)
    monkeypatch.setattr(webdataset, "MAX_RETRY_DELAY", 0.05)
    undisturbed = named(*take(open_source(f"wds:{tars}", 16).stream(8, seed=0), 8))
    source, original, looks = open_source(f"wds:{tars}", 16), webdataset.can_be_opened, itertools.count(1)

    def can_be_opened(shard):
        if next(looks) == look:
            (tmp_path / "away").rename(tars)
        return original(shard)

    monkeypatch.setattr(webdataset, "can_be_opened", can_be_opened)
    tars.rename(tmp_path / "away")
    assert named(*take(source.stream(8, seed=0), 8)) == undisturbed
    assert source.read_errors()["data_skipped_shards"] == 0


def write_bare(folder, shard, samples):
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{shard}.tar", "w") as tar:
        for name, data in samples:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def png(value, size=(16, 16)):
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_bare_shards_are_counted_once(tmp_path, monkeypatch):
    for shard in range(4):
        samples = [
            (f"{shard}-{n}.{end}", data)
            for n in range(3)
            for end, data in (("png", png(shard)), ("cls", b"%d" % (7 * shard)))
        ]
        write_bare(tmp_path / "bare", f"{shard}", samples)
    (tmp_path / "bare" / "3.tar").rename(tmp_path / "bare" / "other.tar")
    seen = []

    def count(items, total, what, unit):
        seen.append(total)
        return items

    monkeypatch.setattr(webdataset_index, "progress_bar", count)
    spec = f"wds:{tmp_path / 'bare'}/{{0..2}}.tar"
    for _ in range(2):
        source = open_source(spec, 16, cache=tmp_path / "cache")
    assert seen == [3]
    assert (source.count, source.class_names) == (9, ("0", "7", "14"))
    images, labels = take(source.stream(3, seed=0), 3)
    assert torch.equal(images[:, 0, 0, 0], labels), "red is the shard's number, and so the class"
    assert open_source(f"wds:{tmp_path / 'bare'}", 16, cache=tmp_path / "cache").num_classes == 4
    (tmp_path / "bare").rename(tmp_path / "moved")
    moved = open_source(f"wds:{tmp_path / 'moved'}/{{0..2}}.tar", 16, cache=tmp_path / "cache")
    assert moved.content_hash == source.content_hash
    for file in (tmp_path / "cache").glob("*.json"):
        file.write_text("{half of")
    assert open_source(f"wds:{tmp_path / 'moved'}/{{0..2}}.tar", 16, cache=tmp_path / "cache").count == 9


def test_broken_images(tmp_path):
    samples = [("a.png", png(1)), ("a.cls", b"0"), ("b.jpg", b"broken"), ("b.cls", b"1"), ("c.png", png(3)), ("c.cls", b"2")]
    write_bare(tmp_path / "bare", "one", samples)
    source = open_source(f"wds:{tmp_path / 'bare'}", 16, cache=tmp_path / "cache")
    with pytest.raises(DataError, match=r"image one\.tar/b\.jpg .*--skip-broken"):
        take(source.stream(3, seed=0), 1)
    source = open_source(f"wds:{tmp_path / 'bare'}", 16, cache=tmp_path / "cache", skip_broken=True)
    images, labels = take(source.stream(3, seed=0), 4)
    assert source.read_errors()["data_broken_images"] >= 4
    assert torch.equal(images[:, 0, 0, 0], labels + 1), "another image came in its place, with its own class"
    parts = [take(source.stream(3, rank=rank, world_size=3, seed=0), 4)[0] for rank in range(3)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), images), "the same for any number of ranks"
    once = list(source.iterate_once(3))
    assert [labels.tolist() for _, labels in once] == [[0, 2]], "none is there twice where every image is wanted once"
    write_bare(tmp_path / "all", "one", samples[2:4])
    with pytest.raises(DataError, match="none of its 1 images can be read"):
        open_source(f"wds:{tmp_path / 'all'}", 16, cache=tmp_path / "cache")


def test_what_bare_shards_leave_out_is_said(tmp_path, notes):
    folder = tmp_path / "bare"
    write_bare(folder, "one", [("a.png", png(1)), ("b.jp2", b"x"), ("b.json", b"{}"), ("c.tga", b"x"), ("d.json", b"{}")])
    (folder / "two.tar.zst").write_bytes(b"x")
    (folder / "sub").mkdir()
    assert open_source(f"wds:{folder}", 16, cache=tmp_path / "cache").count == 1
    assert f"data: {folder}: 2 files and folders that are no tar files are left out (first: sub)" in notes
    assert any("3 samples have no image of a known format and are left out" in note and ".jp2" in note for note in notes)
    with pytest.raises(DataError, match=r"its braces name .*one\.tar twice"):
        open_source(f"wds:{folder}/{{one,one}}.tar", 16, cache=tmp_path / "cache")


def test_bare_shards_of_the_same_name_are_told_apart_by_their_images(tmp_path):
    hashes = set()
    for number in range(2):
        write_bare(tmp_path / str(number), "train", [("a.png", png(number)), ("a.cls", b"0")])
        hashes.add(open_source(f"wds:{tmp_path / str(number)}", 16, cache=tmp_path / "cache").content_hash)
    assert len(hashes) == 2


@pytest.mark.parametrize("name", ["set.tar", "{a,b}"])
def test_a_prepared_set_in_a_folder_with_an_odd_name(name, tars, tmp_path):
    tars.rename(tmp_path / name)
    assert open_source(f"wds:{tmp_path / name}", 16).count == 64


def test_shards_of_a_server_are_compared_if_asked(tars, server):
    assert open_source(f"wds:{server[0]}", 16, verify=True).count == 64
    shard = next(tars.glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match=f"{shard.name} has changed since the set was prepared"):
        open_source(f"wds:{server[0]}", 16, verify=True)


def test_what_cannot_be_opened(tmp_path, tars, server, monkeypatch):
    monkeypatch.setattr(webdataset_index, "RETRY_DELAY", 0)
    with pytest.raises(DataError, match=r"no manifest\.json and no tar file"):
        open_source(f"wds:{tmp_path / 'absent'}", 16)
    with pytest.raises(DataError, match=r"8\.tar is not a file"):
        open_source(f"wds:{tars}/{{8..9}}.tar", 16)
    with pytest.raises(DataError, match=r"404.*name bare shards by a pattern"):
        open_source(f"wds:{server[0]}/absent", 16)
    with pytest.raises(DataError, match="filter them when they are prepared"):
        open_source(f"wds:{tars}", 16, filters={"max_per_class": 3})
    write_bare(tmp_path / "bare", "one", [("a.cls", b"1")])
    with pytest.raises(DataError, match=r"one\.tar cannot be read .*'a\.cls' has no image beside it"):
        open_source(f"wds:{tmp_path / 'bare'}", 16, cache=tmp_path / "cache")
    text = (tars / "manifest.json").read_text()
    for name in ("../../shard.tar", "pipe:echo.tar", "file:///etc/passwd", "https://host/a.tar", "a';echo';.tar", "..", ""):
        with pytest.raises(DataError, match="outside of its folder"):
            parse_manifest(text.replace("shard-000003.tar", name).encode(), "here", "wds")
    with pytest.raises(DataError, match="contradicts itself"):
        parse_manifest(text.replace('"images": 64', '"images": 65').encode(), "here", "wds")
    with pytest.raises(DataError, match="already prepared"):
        list_source(f"wds:{tars}")
    with pytest.raises(DataError, match="cannot be read"):
        parse_manifest(text.replace('"images": 64', '"images": "many"').encode(), "here", "wds")
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(DataError, match=r"pip install 'biggan-torch\[wds\]'"):
        open_source(f"wds:{tars}", 16)


def test_no_file_is_taken_for_a_command_whatever_it_is_called(tmp_path, tars, monkeypatch):
    """Only the words wds:pipe: run one; webdataset would run a file of such a name too."""
    name = "pipe:touch run; cat set.tar #.tar"
    write_bare(tmp_path / "bare", "set", [("a.png", png(1)), ("a.cls", b"0")])
    (tmp_path / "bare" / "set.tar").rename(tmp_path / "bare" / name)
    monkeypatch.chdir(tmp_path / "bare")
    for number, where in enumerate((".", f"./{name}", f"{{{name},./{name}}}")):
        source = open_source(f"wds:{where}", 16, cache=tmp_path / f"cache-{number}")
        assert (next(source.iterate_once(1))[0][:, 0] == 1).all()
    tars.rename(tmp_path / "bare" / "pipe:touch run")
    assert open_source("pipe:touch run", 16).count == 64, "a prepared folder of that name"
    assert not Path("run").exists()
    assert open_source("wds:pipe:touch run; cat pipe*.tar", 16, cache=tmp_path / "cache").count == 1
    assert Path("run").exists()


def test_an_index_in_the_cache_cannot_name_other_shards(tmp_path):
    write_bare(tmp_path / "bare", "one", [("a.png", png(1)), ("a.cls", b"0")])
    spec, cache = f"wds:{tmp_path / 'bare'}", tmp_path / "cache"
    open_source(spec, 16, cache=cache)
    (kept,) = cache.glob("shards-*.json")
    kept.write_text(kept.read_text().replace(str(tmp_path / "bare" / "one.tar"), f"pipe:touch {tmp_path / 'run'}"))
    source = open_source(spec, 16, cache=cache)
    assert [shard.name for shard in source.shards] == [str(tmp_path / "bare" / "one.tar")]
    assert (next(source.iterate_once(1))[0][:, 0] == 1).all()
    assert not (tmp_path / "run").exists()


def test_images_that_fit_already_are_kept(tmp_path):
    write_pictures(tmp_path / "set", {"cat": 3}, size=(16, 16))
    prepare(list_source(str(tmp_path / "set")), tmp_path / "tars", Shards(16))
    kept = {sample.data for shard in (tmp_path / "tars").glob("*.tar") for sample in webdataset_io.read_samples(str(shard))}
    assert kept == {path.read_bytes() for path in (tmp_path / "set" / "cat").iterdir()}
    prepare(list_source(str(tmp_path / "set")), tmp_path / "small", Shards(8, quality=90))
    shard = next((tmp_path / "small").glob("*.tar"))
    assert next(webdataset_io.read_samples(str(shard))).name.endswith(".jpg")


def test_training_from_a_server(capsys, tmp_path, server, monkeypatch):
    monkeypatch.setattr(webdataset, "RETRY_DELAY", 0.01)
    address, failures = server
    words = ["train", "digits", "--data", f"wds:{address}", "--train.batch", 8, "--train.log-every", 1]
    words += ["--train.standing-stats-batches", 2, "--model.width", 2, "--model.embedding-dim", 8]
    code, out, err = call(capsys, *words, "--dry-run")
    assert (code, "64 images of 3 classes (cat, dog, eel)" in out + err) == (0, True)
    assert call(capsys, *words, "--train.steps", 4, "--run", tmp_path / "whole")[0] == 0
    assert call(capsys, *words, "--train.steps", 2, "--run", tmp_path / "parts")[0] == 0
    assert call(capsys, *words, "--train.steps", 4, "--run", tmp_path / "parts")[0] == 0
    logs = [
        [json.loads(line) for line in (tmp_path / run / "stats.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    ]
    assert [line["D/logit_real"] for line in logs[0]] == [line["D/logit_real"] for line in logs[1]]
    failures["shard-000003.tar"] = (1000, "error")
    code, _, err = call(capsys, *words, "--train.steps", 6, "--run", tmp_path / "whole")
    assert (code, "shard-000003.tar failed 4 times and is left out, 4 images" in err) == (0, True)
    assert json.loads((tmp_path / "whole" / "stats.jsonl").read_text().splitlines()[-1])["data_skipped_images"] >= 4


LIMITED = """
import itertools, resource, sys, threading
from biggan.cli.main import main
from biggan.data.dataset import open_source
from biggan.training import trainer

threading.stack_size(1 << 20)  # the limit counts what a stack could grow to
held = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10
resource.setrlimit(resource.RLIMIT_DATA, (held + (750 << 20),) * 2)
source = open_source(sys.argv[-1], 128, shuffle_buffer=256)
for _ in itertools.islice(source.stream(64, seed=0), source.count // 64):
    pass
print("whole")
main(sys.argv[1:])
"""


def test_a_set_larger_than_memory(tmp_path):
    """750 MiB of memory beyond the libraries' own; 19,200 images of 128 px are 900 MiB, as files and decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 128, 128, 3), dtype=np.uint8)
    for index, pixels in enumerate(noise):
        (tmp_path / "set" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "set" / str(index % 2) / f"{index}.png", compress_level=0)
    whole = prepare(list_source(str(tmp_path / "set")), tmp_path / "tars", Shards(128, shard_images=100))
    many = []
    for copy, shard in itertools.product(range(192), whole.shards):
        name = f"copy-{copy}-{shard.name}"
        os.link(tmp_path / "tars" / shard.name, tmp_path / "tars" / name)
        many.append(Shard(name, shard.images))
    manifest = json.loads((tmp_path / "tars" / "manifest.json").read_text())
    del manifest["checksum"]
    manifest |= {"images": 19200, "class_counts": [9600, 9600], "shards": many}
    (tmp_path / "tars" / "manifest.json").write_text(json.dumps(manifest))
    for copy in range(1, 192):
        for index in range(100):
            os.link(
                tmp_path / "set" / str(index % 2) / f"{index}.png", tmp_path / "set" / str(index % 2) / f"{copy}-{index}.png"
            )
    words = ["train", "biggan-128", "--model.width", "8", "--model.embedding-dim", "4", "--model.latent-dim", "6"]
    words += ["--train.batch", "8", "--train.micro-batch", "4", "--train.steps", "1", "--train.discriminator-steps", "1"]
    words += ["--train.standing-stats-batches", "1", "--data.shuffle-buffer", "256", "--data.cache", str(tmp_path / "cache")]
    words += ["--model.generator.attention", "8", "--model.discriminator.attention", "8"]
    results = {}
    for kind, where in (("wds", "tars"), ("folder", "set")):
        command = [sys.executable, "-c", LIMITED, *words, "--run", str(tmp_path / f"run-{kind}")]
        command += ["--data", f"{kind}:{tmp_path / where}"]
        results[kind] = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MALLOC_ARENA_MAX": "1"})
    assert "whole" in results["wds"].stdout, results["wds"].stderr
    assert (tmp_path / "run-wds" / "model").exists(), results["wds"].stderr
    assert results["folder"].returncode != 0
    assert "llocate" in results["folder"].stderr, "and it is memory that is lacking there"
