"""The annotation cache gives what the json says, whatever happened to the cache, and is read instead of the json."""

import errno
import json
import multiprocessing
import os
import pickle
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from datamodules import DataError, annotation_store, coco_annotations, coco_json, content_digest, piece_checksum
from datamodules.coco_annotations import AnnotationFile
from datamodules.coco_columns import Texts, pack
from datamodules.coco_records import read_records

Content = dict[str, Any]

COLUMNS = ("image_ids", "sizes", "first", "annotation_ids", "boxes", "labels", "area", "iscrowd")
POLYGONS = [[1.5, 2, 10.25, 2, 10, 12.875], [3, 3, 4, 3, 4, 4]]
COMPRESSED = coco_mask.encode(np.asfortranarray(np.eye(6, 8, dtype=np.uint8)))["counts"].decode()
MASKS = [POLYGONS, {"size": [6, 8], "counts": COMPRESSED}, {"size": [2, 3], "counts": [1, 2, 3]}, [], None]


def content(images: int = 5, annotations: int = 40, seed: int = 0) -> Content:
    """Images and annotations out of order; all kinds of masks."""
    random = np.random.default_rng(seed)
    ids = (3 * random.permutation(images) + 2).tolist()
    return {
        "info": {"description": 'brackets "}, {" and }] in a text'},
        "images": [{"id": i, "file_name": f"földer/{i}.jpg", "height": 40 + i, "width": 60} for i in ids],
        "annotations": [
            {
                "segmentation": MASKS[number % len(MASKS)],
                "area": float(np.round(random.random() * 99, 3)),
                "iscrowd": int(number % 7 == 1),
                "image_id": int(random.choice(ids)),
                "bbox": np.round(random.random(4) * 30 + 1, 2).tolist(),
                "category_id": int(random.choice([7, 90, 3])),
                "id": 1000 - number,
                "attributes": [{"deep": {}}, {"deep": {}}],
            }
            for number in range(annotations)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 90, "name": "brush"}, {"id": 3, "name": "car"}],
    }


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATTNDENSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def path(tmp_path: Path, cache: Path) -> Path:
    return write(tmp_path / "instances.json", content())


def write(path: Path, value: Content) -> Path:
    path.write_text(json.dumps(value))
    old = time.time() - 3600  # only the status time is recent
    os.utime(path, (old, old))
    return path


def refuse(*_: object) -> Any:
    raise AssertionError("the json was read")


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(coco_annotations, "read_columns", refuse)


def check(file: AnnotationFile, value: Content, images: int | None = None) -> None:
    """Compares a file with plain python over the json's content."""
    expected = sorted(value["images"], key=lambda record: record["id"])[:images]
    categories = {record["id"]: record["name"] for record in value["categories"]}
    assert file.category_ids == sorted(categories) and file.class_names == [categories[i] for i in sorted(categories)]
    assert file.image_ids.tolist() == [record["id"] for record in expected] and len(file) == len(expected)
    assert file.file_names.tolist() == [record["file_name"] for record in expected]
    assert file.sizes.tolist() == [[record["height"], record["width"]] for record in expected]
    assert file.first[-1] == len(file.boxes)
    for position, image in enumerate(expected):
        where = file.of_image(position)
        records = [record for record in value["annotations"] if record["image_id"] == image["id"]]
        assert file.annotation_ids[where].tolist() == [record["id"] for record in records]
        assert file.boxes[where].tolist() == [record["bbox"] for record in records]
        assert file.area[where].tolist() == [record["area"] for record in records]
        assert file.iscrowd[where].tolist() == [bool(record["iscrowd"]) for record in records]
        assert [file.category_ids[label] for label in file.labels[where]] == [r["category_id"] for r in records]
        masks = [file.segmentation(row) for row in range(where.start, where.stop)]
        assert masks == [record.get("segmentation") for record in records]


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.columns"))


def test_built_and_stored_columns_are_the_file(path: Path, cache: Path, no_reading: Callable[[], None]) -> None:
    check(AnnotationFile(path), content())
    (entry,) = entries(cache)
    assert not list(cache.glob(".*.tmp")), "nothing else stays behind"
    no_reading()
    check(AnnotationFile(path), content())
    assert entries(cache) == [entry]


def test_columns_are_mapped_and_read_only(path: Path, cache: Path) -> None:
    file = AnnotationFile(path)
    (entry,) = entries(cache)
    for name in COLUMNS:
        column = getattr(file, name)
        assert not column.flags.writeable and not column.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            column[...] = 0
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(entry.name)]
    assert mapped and all(line.split()[1] == "r--s" for line in mapped), "shared with other processes"


def test_the_same_content_elsewhere_is_not_read_again(
    path: Path, cache: Path, no_reading: Callable[[], None], tmp_path: Path
) -> None:
    AnnotationFile(path)
    no_reading()
    copy = write(tmp_path / "copy.json", content())
    check(AnnotationFile(copy), content())
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("images", [1, 2, 4, 5, 9])
def test_max_images_slices_the_same_cache(images: int, path: Path, cache: Path, no_reading: Callable[[], None]) -> None:
    AnnotationFile(path)
    no_reading()
    check(AnnotationFile(path, images), content(), images)
    assert len(entries(cache)) == 1


def test_masks_survive_as_they_stand(path: Path) -> None:
    file = AnnotationFile(path)
    by_id = {record["id"]: record["segmentation"] for record in content()["annotations"]}
    found = [file.segmentation(row) for row in range(len(file.boxes))]
    assert found == [by_id[number] for number in file.annotation_ids.tolist()]
    assert all(mask in found for mask in MASKS)
    code = next(mask for mask in found if isinstance(mask, dict) and isinstance(mask["counts"], str))
    assert coco_mask.decode({**code, "counts": code["counts"].encode()}).tolist() == np.eye(6, 8).tolist()


def test_annotations_without_masks(tmp_path: Path, cache: Path) -> None:
    value = content()
    for record in value["annotations"][::2]:
        del record["segmentation"]
    check(AnnotationFile(write(tmp_path / "a.json", value)), value)


def test_changed_file_is_read_again(path: Path) -> None:
    AnnotationFile(path)
    check(AnnotationFile(write(path, content(seed=1))), content(seed=1))


def test_rewrite_with_equal_size_and_time_is_noticed(path: Path) -> None:
    time.sleep(2.1)  # old enough to be noted
    AnnotationFile(path)
    value, before = content(), path.stat()
    value["annotations"][3]["category_id"] = {3: 7, 7: 3, 90: 90}[value["annotations"][3]["category_id"]]
    value["annotations"][3]["iscrowd"] = 1 - value["annotations"][3]["iscrowd"]
    path.write_text(json.dumps(value))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    check(AnnotationFile(path), value)


def test_hashing_is_remembered_for_files_at_rest_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AnnotationFile(path)
    hashed: list[Path] = []
    digest = content_digest._digest
    monkeypatch.setattr(content_digest, "_digest", lambda source: hashed.append(source) or digest(source))
    AnnotationFile(path)
    assert hashed == [path], "written less than 2 s before: it could change within a tick of the clock"
    monkeypatch.setattr(content_digest, "_TIMESTAMP_SECONDS", -1.0)
    AnnotationFile(path)
    AnnotationFile(path)
    assert hashed == [path] * 2


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"{}", b"\xff", b'{"digest": 3}'])
def test_damaged_note_is_ignored(note: bytes, path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_digest, "_TIMESTAMP_SECONDS", -1.0)
    AnnotationFile(path)
    (stored,) = (cache / "sources").iterdir()
    stored.write_bytes(note)
    check(AnnotationFile(path), content())


def replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(stored: bytes) -> bytes:
        assert stored.count(old) == 1
        return stored.replace(old, new)

    return change


def flip(position: int) -> Callable[[bytes], bytes]:
    return lambda stored: stored[:position] + bytes([stored[position] ^ 1]) + stored[position:][1:]


def with_table(change: Callable[[Content], object]) -> Callable[[bytes], bytes]:
    """A file whose table differs, with a checksum that fits."""

    def rewrite(stored: bytes) -> bytes:
        seal, size = annotation_store._SEAL, annotation_store._LENGTH
        end = len(stored) - seal.size - size.size
        (length,) = size.unpack(stored[end:][: size.size])
        table = json.loads(stored[end - length : end])
        change(table)
        text = json.dumps(table).encode()
        sealed = stored[: end - length] + text + size.pack(len(text))
        return sealed + seal.pack(piece_checksum.checksum(memoryview(sealed)), annotation_store._MAGIC)

    return rewrite


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda stored: b"",
    "one byte": lambda stored: stored[:1],
    "first half": lambda stored: stored[: len(stored) // 2],
    "last byte missing": lambda stored: stored[:-1],
    "table missing": lambda stored: stored[:-1000],
    "one byte more": lambda stored: stored + b"\n",
    "zeros of the right length": lambda stored: bytes(len(stored)),
    "zeros in the columns": lambda stored: stored[:2000] + bytes(len(stored) - 4500) + stored[-2500:],
    "text": lambda stored: b"<html>not found</html>" * 400,
    "npy": lambda stored: b"\x93NUMPY\x01\x00" + stored[8:],
    "column changed": lambda stored: replace("földer/2.jpg".encode(), "földer/3.jpg".encode())(stored),
    "mask changed": lambda stored: stored.replace(b"12.875", b"13.875", 1),
    "one bit of a mask changed": flip(len(annotation_store._MAGIC) + 40),
    "first byte changed": flip(0),
    "table changed": flip(-100),
    "length of the table changed": flip(-32),
    "checksum changed": flip(-20),
    "last byte changed": flip(-1),
    "older release": with_table(lambda table: table.update(format=0)),
    "newer release": with_table(lambda table: table.update(format=99)),
    "other content": with_table(lambda table: table.update(source="0" * 32)),
}


@pytest.mark.parametrize("piece", [4096, 1 << 24])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_foreign_entries_are_rebuilt(
    damage: str,
    piece: int,
    path: Path,
    cache: Path,
    no_reading: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(piece_checksum, "PIECE", piece)
    AnnotationFile(path)
    (entry,) = entries(cache)
    sound = entry.read_bytes()
    entry.unlink()  # mapped files must not shrink
    entry.write_bytes(DAMAGES[damage](sound))
    with pytest.warns(UserWarning) as caught:
        check(AnnotationFile(path), content())
    assert [str(warning.message) for warning in caught] == [
        f"{entry} was changed or damaged: it is written anew from {path}"
    ]
    assert entry.read_bytes() == sound
    no_reading()
    check(AnnotationFile(path), content())


def test_removed_cache_is_rebuilt(path: Path, cache: Path) -> None:
    file = AnnotationFile(path)
    for entry in entries(cache):
        entry.unlink()
    check(file, content())  # what is mapped stays
    check(AnnotationFile(path), content())
    assert len(entries(cache)) == 1


@pytest.mark.parametrize("obstacle", ["a file in the way", "disk full"])
def test_without_a_cache_it_works_and_warns_once(
    obstacle: str, path: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if obstacle == "disk full":

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
    else:
        cache.write_text("")
    with pytest.warns(UserWarning, match=r"^no annotation cache in .*cache \(.*\): .*; set ATTNDENSE_CACHE") as caught:
        file = AnnotationFile(path)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    check(file, content())
    assert not file.boxes.flags.writeable
    check(pickle.loads(pickle.dumps(file)), content())
    assert not cache.is_dir() or list(cache.iterdir()) == []


@pytest.mark.parametrize("images", [None, 2])
def test_spawned_workers_map_the_columns(images: int | None, path: Path, no_reading: Callable[[], None]) -> None:
    pickled = pickle.dumps(AnnotationFile(path, images))
    assert len(pickled) < 1000
    no_reading()
    check(pickle.loads(pickled), content(), images)


def test_spawned_worker_whose_cache_is_gone(path: Path, cache: Path) -> None:
    pickled = pickle.dumps(AnnotationFile(path))
    entries(cache)[0].unlink()
    with pytest.raises(DataError, match="was removed or damaged while a run used it; start the run again"):
        pickle.loads(pickled)


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNDENSE_CACHE", "/a/b")
    assert annotation_store.cache_folder() == Path("/a/b")
    monkeypatch.delenv("ATTNDENSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert annotation_store.cache_folder() == Path("/x/attndense")
    monkeypatch.setenv("HOME", "/home/me")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert annotation_store.cache_folder() == Path("/home/me/.cache/attndense")


def _read_at_once(path: Path, barrier: Any, answers: Any) -> None:
    barrier.wait()
    file = AnnotationFile(path)
    answers.put((file.boxes.tobytes(), file.labels.tolist(), file.file_names.tolist(), file.segmentation(0)))


def test_processes_that_start_at_once(tmp_path: Path, cache: Path) -> None:
    value = content(images=50, annotations=2000)
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        path = write(tmp_path / f"{attempt}.json", {**value, "info": attempt})
        barrier, answers = context.Barrier(4), context.Queue()
        processes = [context.Process(target=_read_at_once, args=(path, barrier, answers)) for _ in range(4)]
        for process in processes:
            process.start()
        results = [answers.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        assert results == [results[0]] * 4
        check(AnnotationFile(path), value)
    assert len(entries(cache)) == 3 and not list(cache.glob(".*.tmp"))


def _die_while_writing(path: Path) -> None:
    def write(stream: Any, *_: object) -> None:
        stream.write(b"half of it")
        stream.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    annotation_store._write = write  # type: ignore[assignment]
    AnnotationFile(path)


def test_killed_while_writing(path: Path, cache: Path, no_reading: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=_die_while_writing, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (left,) = cache.glob(".*.tmp")
    os.utime(left, (time.time() - 2 * 24 * 3600,) * 2)
    check(AnnotationFile(path), content())
    assert not left.exists() and len(entries(cache)) == 1


def test_unused_entries_go(path: Path, cache: Path) -> None:
    AnnotationFile(path)
    (entry,) = entries(cache)
    foreign = cache / "notes.txt"
    foreign.write_text("mine")
    for file in (entry, foreign):
        os.utime(file, (0, 0))
    AnnotationFile(path)
    assert time.time() - entry.stat().st_mtime < 60, "opening it counts as use"
    os.utime(entry, (0, 0))
    AnnotationFile(write(path, content(seed=1)))
    assert not entry.exists() and foreign.exists()


def test_file_that_grows_while_it_is_read(path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = coco_annotations.read_columns

    def slow(source: Path, write: Any) -> Any:
        columns = read(source, write)
        with source.open("a") as stream:
            stream.write(" ")
        return columns

    monkeypatch.setattr(coco_annotations, "read_columns", slow)
    with pytest.raises(DataError, match=r"instances\.json changed while it was read; start again when it is complete"):
        AnnotationFile(path)
    assert entries(cache) == []


def columns_of(reader: Callable[[Path, Callable[[bytes], object]], Any], path: Path) -> tuple[Content, list[Any]]:
    """Columns and masks; the place of a mask in the blob is each reader's own affair."""
    blob = bytearray()
    columns = dict(reader(path, blob.extend))
    starts, lengths = columns.pop("segmentation_starts"), columns.pop("segmentation_lengths")
    masks = [bytes(blob[s : s + n]) for s, n in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return {name: (c.dtype, c.tolist()) for name, c in columns.items()}, [json.loads(m or b"null") for m in masks]


LAYOUTS: dict[str, Callable[[Content], str]] = {
    "as COCO": json.dumps,
    "compact": lambda value: json.dumps(value, separators=(",", ":")),
    "indented": lambda value: json.dumps(value, indent=4),
    "no ASCII": lambda value: json.dumps(value, ensure_ascii=False),
    "annotations first": lambda value: json.dumps({"annotations": value["annotations"], **value}),
    "annotations last": lambda value: json.dumps(
        dict(sorted(value.items(), key=lambda item: item[0] == "annotations"))
    ),
    "one annotation": lambda value: json.dumps({**value, "annotations": value["annotations"][:1]}),
    "no annotations": lambda value: json.dumps({**value, "annotations": []}, indent=1),
    "byte order mark": lambda value: "\ufeff" + json.dumps(value),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [7, 300, 2000, 1 << 22])
def test_both_readers_agree(layout: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "instances.json"
    path.write_text(LAYOUTS[layout](content(annotations=25)), encoding="utf-8")
    expected = columns_of(lambda path, write: pack(read_records(path, write)), path)
    monkeypatch.setattr(coco_json, "_BLOCK", block)
    monkeypatch.setattr(coco_json, "read_records", refuse)
    assert columns_of(coco_json.read_columns, path) == expected


def text_with(**entries: str) -> str:
    """A file with further entries before the annotations."""
    return json.dumps({**{name: json.loads(text) for name, text in entries.items()}, **content(annotations=25)})


UNUSUAL: dict[str, str] = {
    "annotations inside another entry": text_with(info='{"annotations": [{"id": 1}, {"id": 2}]}'),
    "annotations in a text": text_with(note=json.dumps('"annotations": [{}, {}]')),
    "annotations in a record": text_with(licenses='[{"id": 1, "annotations": []}, {"id": 2}]'),
    "a key twice": '{"annotations": [{"id": 4}], ' + json.dumps(content(annotations=25))[1:],
    "true for 1": json.dumps(content(annotations=25)).replace('"iscrowd": 1', '"iscrowd": true'),
    "NaN where nobody looks": text_with(info='{"version": NaN}'),
    "infinity in a mask": json.dumps(content(annotations=25)).replace("12.875", "Infinity"),
    "no areas": json.dumps(content(annotations=25)).replace('"area"', '"surface"'),
    "areas null": re.sub(r'"area": [0-9.]+', '"area": null', json.dumps(content(annotations=25))),
    "space before the colon": json.dumps(content(annotations=25), separators=(" , ", " : ")),
}


@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.parametrize("block", [50, 3000, 1 << 22])
def test_unusual_files_are_read_all_the_same(
    case: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "instances.json"
    path.write_text(UNUSUAL[case])
    expected = columns_of(lambda path, write: pack(read_records(path, write)), path)
    assert len(expected[0]["boxes"][1]) == 25
    monkeypatch.setattr(coco_json, "_BLOCK", block)
    assert columns_of(coco_json.read_columns, path) == expected


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_both_readers_agree_on_real_files(split: str, shared_data: Callable[[str], Path]) -> None:
    path = shared_data("coco-free") / "annotations" / f"instances_{split}.json"
    expected = columns_of(lambda path, write: pack(read_records(path, write)), path)
    assert columns_of(coco_json.read_columns, path) == expected


@pytest.mark.parametrize("value", [2**63, -(2**70), 10**400])
@pytest.mark.parametrize("where", [("images", "id"), ("images", "height"), ("annotations", "id"), ("categories", "id")])
def test_integers_that_no_column_holds(where: tuple[str, str], value: int, tmp_path: Path, cache: Path) -> None:
    record = content(annotations=0)
    record["annotations"] = [{**content()["annotations"][0], "image_id": 2, "category_id": 90}]
    record[where[0]][0 if where[0] != "images" else 1][where[1]] = value
    record["annotations"][0]["image_id"] = record["images"][0]["id"]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record))
    found = re.escape(repr(value)[:97])
    place = "has no integer id of 64 bits, found" if where[1] == "id" else r"image \d+ has height"
    with pytest.raises(DataError, match=rf"a\.json: .*{place} {found}[^,;]*[,;] expected "):
        AnnotationFile(path)


def test_huge_box_is_refused(tmp_path: Path, cache: Path) -> None:
    value = content()
    value["annotations"][3]["bbox"][1] = 10**400
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"annotation 997 has bbox .*expected four finite numbers"):
        AnnotationFile(path)


def test_texts() -> None:
    texts = ["a", "", "äö", "x\0", "\ud800"]
    encoded = [text.encode(errors="surrogatepass") for text in texts]
    packed = Texts(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(text) for text in encoded]))
    assert packed.tolist() == list(packed) == texts and len(packed) == 5
    assert packed[-1] == texts[-1] and packed[np.int64(2)] == "äö"
    with pytest.raises(IndexError):
        packed[5]
