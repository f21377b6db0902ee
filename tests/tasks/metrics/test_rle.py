"""Compressed run-length masks: the encoder and the check."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tasks.metrics.rle import encode_changes, mask_areas


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]


def encode_slowly(runs):
    """The code by its definition; pycocotools overruns its buffer when a run takes seven characters."""
    coded = []
    for position, run in enumerate(runs):
        value = run - (runs[position - 2] if position > 2 else 0)
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            coded.append(48 + group + 32 * more)
    return bytes(coded)


def decode_slowly(coded):
    """Runs, by the definition of the code; None for a string that ends within a run."""
    runs, value, place = [], 0, 0
    for character in coded:
        group = character - 48
        value |= (group & 31) << 5 * place
        place += 1
        if not group & 32:
            value -= (group & 16) * 2 << 5 * (place - 1)
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, place = 0, 0
    return None if place or not runs else runs


def encode_together(masks):
    """Masks (H, W) of one size by our encoder."""
    flat = [np.concatenate([[False], mask.ravel(order="F")]) for mask in masks]
    changes = [np.flatnonzero(pixels[1:] != pixels[:-1]) for pixels in flat]
    return encode_changes(np.concatenate(changes), np.array([len(places) for places in changes]), masks[0].shape)


def test_encoder_writes_what_pycocotools_writes():
    random = np.random.default_rng(2)
    for _ in range(30):
        height, width = random.integers(1, 90, 2).tolist()
        masks = [random.random((height, width)) < share for share in (0, 0.001, 0.02, 0.5, 0.99, 1)]
        random.shuffle(masks)
        found = encode_together(masks)
        assert found == [{"size": [height, width], "counts": encode(mask)} for mask in masks]
        assert [mask.area for mask in found] == [mask.sum() for mask in masks]


def test_areas_of_what_encoders_write():
    random = np.random.default_rng(0)
    for _ in range(30):
        height, width = random.integers(1, 300, 2).tolist()
        masks = [random.random((height, width)) < share for share in (0, 0.001, 0.02, 0.5, 0.99, 1)]
        random.shuffle(masks)
        coded = [encode(mask) for mask in masks]
        assert mask_areas(coded, height * width).tolist() == [mask.sum() for mask in masks]
        assert mask_areas(coded, height * width + 1) is None
        longest = max(coded, key=len)
        assert len(longest) < 3 or mask_areas([*coded, longest[:-1]], height * width) is None
    assert mask_areas([], 100).tolist() == []


def test_runs_must_add_up():
    uncompressed = [{"size": [10, 10], "counts": counts} for counts in ([100], [0, 100], [5, 5], [50, 51], [0, 0, 100])]
    areas = [mask_areas([coco_mask.frPyObjects(rle, 10, 10)["counts"]], 100) for rle in uncompressed]
    assert [None if area is None else area.tolist() for area in areas] == [[0], [100], None, None, [0]]
    assert mask_areas([b"\xff\xff"], 100) is None
    assert mask_areas([b"o" * 20 + b"0"], 100) is None
    assert mask_areas([b""], 0) is None


@pytest.mark.parametrize(("height", "width"), [(7, 9), (5000, 9000), (40_000, 60_000)])
def test_large_images(height, width):
    """Sums beyond 32 bits are exact."""
    random = np.random.default_rng(1)
    for _ in range(20):
        cuts = np.sort(random.integers(0, height * width + 1, random.integers(1, 40)))
        runs = np.diff([0, *cuts.tolist(), height * width]).tolist()
        coded = encode_slowly(runs)
        assert decode_slowly(coded) == runs
        assert mask_areas([coded, coded], height * width).tolist() == [sum(runs[1::2])] * 2
        places = np.cumsum(runs[:-1])
        (own, _) = encode_changes(np.append(places, places), np.array([len(places)] * 2), (height, width))
        assert (own["counts"], own.area) == (coded, sum(runs[1::2]))
        assert mask_areas([coded, coded], height * width - 1) is None


@pytest.mark.parametrize("seed", range(4))
def test_damage_is_judged_as_by_the_definition(seed):
    random = np.random.default_rng(seed)
    pixels, accepted = 30 * 40, 0
    for _ in range(500):
        strings = [encode(random.random((30, 40)) < random.choice([0.01, 0.2])) for _ in range(random.integers(1, 4))]
        damaged = bytearray(random.choice(strings))
        kind = random.integers(4)
        first, second = random.integers(len(damaged), size=2)
        if kind == 0:
            damaged[first] = random.integers(48, 112)
        elif kind == 1:
            damaged = damaged[:first] + damaged[first + 1 :]
        elif kind == 2:
            damaged[first], damaged[second] = damaged[second], damaged[first]
        strings.append(bytes(damaged))
        decoded = [decode_slowly(string) for string in strings]
        fits = all(runs is not None and min(runs) >= 0 and sum(runs) == pixels for runs in decoded)
        found = mask_areas(strings, pixels)
        assert (found is not None) == fits
        if fits:
            accepted += 1
            assert found.tolist() == [sum(runs[1::2]) for runs in decoded]
    assert 100 < accepted < 400
