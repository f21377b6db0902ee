"""Another run's weights: taken over by the names of classes, of the same network only, from an undamaged file only."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import tasks.detectors
from attention import CBAM, CoordinateAttention
from backbones import Backbone, MobileNetV2
from tasks.class_tensors import ClassRows, DenseModel
from tasks.detectors import FCOS, Detector, FocalSSDLite320, RetinaNet, SSDLite320
from tasks.errors import TaskError
from tasks.segmentors import EncoderDecoder
from tasks.weights import (
    CheckpointClasses,
    DamagedCheckpoint,
    arguments_without_weights,
    describe_checkpoint_classes,
    load_model_weights,
    read_checkpoint,
    verify_checkpoint,
)

OLD = ["cat", "dog", "cow", "hen", "pig"]
DETECTORS = [
    kind
    for kind in vars(tasks.detectors).values()
    if isinstance(kind, type) and issubclass(kind, Detector) and kind is not Detector
]
HEADS: dict[str, dict[str, Any]] = {
    "FCNHead": {"num_convs": 1},
    "UPerHead": {"pool_scales": [1, 2]},
    "SegformerHead": {},
    "EncHead": {"in_index": [1, 2, 3], "num_codes": 4},
    "PIDHead": {},
    "SegmenterMaskTransformerHead": {"num_layers": 1, "num_heads": 2, "embed_dims": 16},
}
"""Heads that hold their classes in different places."""


def backbone(attention: type | None = None) -> Backbone:
    return MobileNetV2(0.25, attention, last_conv=True)


def segmentor(head: str, num_classes: int, auxiliary: bool = False, attention: type | None = None) -> EncoderDecoder:
    channels = 5 if head == "FCNHead" else 16  # as many channels as classes must confuse nobody
    config = {"type": head, "channels": channels, **HEADS[head]}
    extra = {"type": "FCNHead", "in_index": 2, "channels": 8, "num_convs": 1} if auxiliary else None
    return EncoderDecoder(backbone(attention), num_classes, config, extra)


def save(model: DenseModel, names: list[str] | None, path: Path, prefix: str = "model.", **more: Any) -> Path:
    """A checkpoint as a run writes it."""
    state = {prefix + name: value for name, value in model.state_dict().items()}
    facts = {} if names is None else {"hyper_parameters": {"class_names": names, "backbone": {"class_path": "B"}}}
    torch.save({"state_dict": state, "global_step": 3, **facts, **more}, path)
    return path


def shuffled(model: DenseModel) -> DenseModel:
    """A model in which no two rows are alike."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) * 0.1)
    return model


def assert_contains(model: DenseModel, expected: dict[str, torch.Tensor]) -> None:
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


def class_scores(model: DenseModel) -> torch.Tensor:
    """Logits of the same features, classes last; without the background."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 64, 64, generator=generator)
    model.eval()
    with torch.no_grad():
        if isinstance(model, EncoderDecoder):
            return model.logits(image).movedim(1, -1)
        features = model.backbone(image)
        logits = model.head(model.neck(features))["cls_logits"]
        if isinstance(model, FocalSSDLite320):
            return logits[..., :-1]
        return logits[..., 1:] if isinstance(model, SSDLite320) else logits


MODELS: dict[str, Callable[[int], DenseModel]] = {
    "FCOS": lambda k: FCOS(backbone(), k, channels=32, num_convs=1),
    "RetinaNet": lambda k: RetinaNet(backbone(), k, channels=32),
    "SSDLite320": lambda k: SSDLite320(backbone(), k, extra_channels=(16, 16, 16, 16)),
    "FocalSSDLite320": lambda k: FocalSSDLite320(backbone(), k),
    "UPerHead": lambda k: segmentor("UPerHead", k),
    "SegmenterMaskTransformerHead": lambda k: segmentor("SegmenterMaskTransformerHead", k),
}


class TestClassTensors:
    """A detector or segmentor declares every tensor that depends on the number of classes, and no other."""

    @staticmethod
    def check(build: Callable[[int], DenseModel]) -> None:
        model, wider = build(5), build(8)
        own, other = model.state_dict(), wider.state_dict()
        places = model.class_tensors()
        assert {name for name in own if own[name].shape != other[name].shape} == places.keys()
        for name, place in places.items():
            assert place is not None and place.shape(own[name], 8) == other[name].shape

    @pytest.mark.parametrize("kind", DETECTORS)
    def test_of_every_detector(self, kind: type[Detector]) -> None:
        def build(num_classes: int) -> Detector:
            with torch.device("meta"):
                return kind(backbone(), num_classes)

        self.check(build)

    @pytest.mark.parametrize("head", HEADS)
    def test_of_segmentors(self, head: str) -> None:
        self.check(lambda num_classes: segmentor(head, num_classes, auxiliary=True))

    def test_random_numbers_stay_where_they_were(self) -> None:
        model = segmentor("UPerHead", 5)
        state = torch.get_rng_state()
        model.class_tensors()
        assert torch.equal(state, torch.get_rng_state())

    def test_rows_of_blocks_and_background(self) -> None:
        found, own = torch.arange(8.0).view(1, 8), torch.full((1, 6), -1.0)
        # 2 blocks of a background and 3 classes; the new model has 2 classes: the old third one, and another
        place = ClassRows(axis=1, blocks=2, background=1)
        assert place.take_over(own, found, {0: 2}).tolist() == [[0, 3, -1, 4, 7, -1]]
        assert own.tolist() == [[-1] * 6]
        assert place.shape(own, 3) == found.shape


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "new",
    [pytest.param(OLD, marks=pytest.mark.slow), OLD[::-1], ["cow", "elk"], [*OLD, "elk", "fox"]],
    ids=["same", "permuted", "fewer", "more"],
)
def test_every_class_gets_its_own_weights(name: str, new: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    old_model, model = shuffled(MODELS[name](len(OLD))), MODELS[name](len(new))
    initial = {key: value.clone() for key, value in model.state_dict().items()}
    load_model_weights(model, new, save(old_model, OLD, tmp_path / "old.ckpt"))
    places, after = model.class_tensors(), model.state_dict()
    for key, place in places.items():  # rows of new classes are as they were
        assert place is not None
        first = place.background if place.background_first else 0
        unknown = [first + label for label, class_name in enumerate(new) if class_name not in OLD]
        found, before = (place._blocks_first(tensor[key]) for tensor in (after, initial))
        assert torch.equal(found[:, unknown], before[:, unknown])
    known = [(label, OLD.index(class_name)) for label, class_name in enumerate(new) if class_name in OLD]
    if name != "SegmenterMaskTransformerHead" or len(new) == len(OLD):  # its classes attend to each other
        ours, theirs = class_scores(model), class_scores(old_model)
        for label, old_label in known:
            torch.testing.assert_close(ours[..., label], theirs[..., old_label], rtol=1e-4, atol=1e-5)
    assert_contains(model, {key: value for key, value in old_model.state_dict().items() if key not in places})


class TestReport:
    def test_names_what_happened_to_the_classes(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        path = save(MODELS["FCOS"](5), OLD, tmp_path / "old.ckpt")
        load_model_weights(MODELS["FCOS"](4), ["elk", "dog", "cat", "fox"], path)
        expected = "2 of 4 classes taken over by name; started anew: elk, fox; not needed: cow, hen, pig"
        assert caplog.messages == [f"{path}: {expected}"]

    def test_is_short_for_many_classes(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        path = save(MODELS["FCOS"](5), OLD, tmp_path / "old.ckpt")
        load_model_weights(MODELS["FCOS"](90), [f"class {label}" for label in range(90)], path)
        assert (
            "started anew: class 0, class 1, class 2 and 87 more; not needed: cat, dog, cow and 2 more" in caplog.text
        )

    def test_classes_of_a_file_that_names_none_start_anew(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        torch.manual_seed(0)
        old_model, model = shuffled(MODELS["FCOS"](5)), MODELS["FCOS"](5)
        before = model.state_dict()["head.classification_head.cls_logits.weight"].clone()
        load_model_weights(model, OLD, save(old_model, None, tmp_path / "old.ckpt"))
        assert torch.equal(model.state_dict()["head.classification_head.cls_logits.weight"], before)
        assert "0 of 5 classes taken over" in caplog.text

    def test_tensors_without_an_order_of_classes_start_anew_and_are_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level("INFO")
        torch.manual_seed(0)
        name = "head.classification_head.cls_logits.bias"
        old_model, model = shuffled(MODELS["FCOS"](5)), MODELS["FCOS"](5)
        before = model.state_dict()[name].clone()
        monkeypatch.setattr(
            FCOS, "class_tensors", lambda self: {name: None, name.replace("bias", "weight"): ClassRows()}
        )
        path = save(old_model, OLD, tmp_path / "old.ckpt")
        load_model_weights(model, OLD[::-1], path)
        assert torch.equal(model.state_dict()[name], before)
        assert f"5 of 5 classes taken over by name; started anew for all classes: {name}" in caplog.text
        load_model_weights(model, OLD, path)  # the same classes in the same order need no names
        assert torch.equal(model.state_dict()[name], old_model.state_dict()[name])

    def test_head_that_is_not_needed(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        path = save(segmentor("UPerHead", 5, auxiliary=True), OLD, tmp_path / "old.ckpt")
        load_model_weights(segmentor("UPerHead", 5), OLD, path)
        assert f"{path}: not needed: auxiliary_head" in caplog.messages


class TestAnotherNetwork:
    """Refused in one line with counts, a few names and the remedy."""

    @staticmethod
    def refused(model: DenseModel, path: Path) -> str:
        with pytest.raises(TaskError) as error:
            load_model_weights(model, OLD, path)
        message = str(error.value)
        assert "\n" not in message and len(message) < 600 and "--model.weights" in message
        return message

    def test_backbone(self, tmp_path: Path) -> None:
        path = save(FCOS(MobileNetV2(0.5), 5, channels=32, num_convs=1), OLD, tmp_path / "old.ckpt")
        assert "entries of other shapes" in self.refused(MODELS["FCOS"](5), path)

    def test_detector(self, tmp_path: Path) -> None:
        path = save(MODELS["FCOS"](5), OLD, tmp_path / "old.ckpt")
        message = self.refused(MODELS["RetinaNet"](5), path)
        assert "entries of neck and head it lacks" in message and f"--model.backbone.weights {path}" in message

    def test_task(self, tmp_path: Path) -> None:
        message = self.refused(segmentor("UPerHead", 5), save(MODELS["FCOS"](5), OLD, tmp_path / "old.ckpt"))
        assert "it lacks" in message and "decode_head." in message and " more; expected" in message

    def test_width_of_the_head(self, tmp_path: Path) -> None:
        path = save(FCOS(backbone(), 5, channels=64, num_convs=1), OLD, tmp_path / "old.ckpt")
        assert "has other shapes for" in self.refused(MODELS["FCOS"](5), path)

    def test_depth_of_the_head(self, tmp_path: Path) -> None:
        path = save(FCOS(backbone(), 5, channels=32, num_convs=2), OLD, tmp_path / "old.ckpt")
        assert "has besides 8, head.classification_head.conv.3.weight" in self.refused(MODELS["FCOS"](5), path)

    def test_number_of_anchors_in_a_class_tensor(self, tmp_path: Path) -> None:
        model = MODELS["RetinaNet"](5)
        state = model.state_dict()
        state["head.classification_head.cls_logits.bias"] = torch.zeros(6 * 4)
        path = tmp_path / "old.ckpt"
        named = {f"model.{name}": value for name, value in state.items()}
        torch.save({"state_dict": named, "hyper_parameters": {"class_names": OLD[:4]}}, path)
        assert "(24,) instead of (36,)" in self.refused(model, path)

    def test_backbone_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "backbone.pth"
        torch.save(backbone().state_dict(), path)
        with pytest.raises(TaskError, match=r"not the checkpoint of a run.*--model\.backbone\.weights"):
            load_model_weights(MODELS["FCOS"](5), OLD, path)


class TestAttention:
    """Starting a run with attention from one without, and the other way round."""

    def test_may_be_missing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        plain, model = MODELS["FCOS"](5), FCOS(backbone(CoordinateAttention), 5, channels=32, num_convs=1)
        load_model_weights(model, OLD, save(plain, OLD, tmp_path / "old.ckpt"))
        assert_contains(model, plain.state_dict())
        (line,) = [message for message in caplog.messages if "attention" in message]
        assert "entries of attention stay as initialised" in line

    def test_may_be_left_over(self, tmp_path: Path) -> None:
        attended, model = FCOS(backbone(CoordinateAttention), 5, channels=32, num_convs=1), MODELS["FCOS"](5)
        load_model_weights(model, OLD, save(attended, OLD, tmp_path / "old.ckpt"))
        assert_contains(attended, model.state_dict())

    def test_of_another_kind_starts_anew(self, tmp_path: Path) -> None:
        old_model = FCOS(backbone(CoordinateAttention), 5, channels=32, num_convs=1)
        model = FCOS(backbone(CBAM), 5, channels=32, num_convs=1)
        load_model_weights(model, OLD, save(old_model, OLD, tmp_path / "old.ckpt"))


def test_compiled_model_and_averaged_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    averaged, current = shuffled(MODELS["FCOS"](5)), shuffled(MODELS["FCOS"](5))
    path = save(averaged, OLD, tmp_path / "old.ckpt", "model._orig_mod.", current_model_state=current.state_dict())
    model = MODELS["FCOS"](5)
    load_model_weights(model, OLD, path)
    assert_contains(model, averaged.state_dict())


def test_compiling_the_backbone_changes_no_names() -> None:
    model = MODELS["FCOS"](5)
    names = list(model.state_dict())
    model.backbone.compile(backend="aot_eager")
    assert list(model.state_dict()) == names


class TestVerify:
    @pytest.fixture
    def good(self, tmp_path: Path) -> Path:
        torch.manual_seed(0)
        return save(shuffled(MODELS["FCOS"](5)), OLD, tmp_path / "last.ckpt")

    @staticmethod
    def refused(path: Path) -> str:
        with pytest.raises(DamagedCheckpoint) as error:
            verify_checkpoint(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)
        return str(error.value)

    def test_good_file(self, good: Path) -> None:
        verify_checkpoint(good)

    def test_flipped_byte_anywhere_is_found_or_harmless(self, tmp_path: Path) -> None:
        path = tmp_path / "changed.ckpt"
        expected: dict[str, Any] = {
            "state_dict": {name: torch.rand(400) for name in ("one", "other")},
            "hyper_parameters": {"class_names": OLD},
        }
        torch.save(expected, path)
        content = path.read_bytes()
        dice = random.Random(0)
        ends = [*range(60), *range(len(content) - 60, len(content))]  # where the archive describes itself
        found = 0
        for position in [*ends, *(dice.randrange(len(content)) for _ in range(120))]:
            changed = bytearray(content)
            changed[position] ^= 1 << dice.randrange(8)
            path.write_bytes(changed)
            try:
                verify_checkpoint(path)
            except DamagedCheckpoint:
                found += 1
                continue
            same = torch.load(path, weights_only=True)  # alignment, dates and the like
            assert same["hyper_parameters"] == expected["hyper_parameters"], position
            assert all(torch.equal(same["state_dict"][name], value) for name, value in expected["state_dict"].items())
        assert found > 60

    def test_zeroed_block_in_a_tensor(self, good: Path) -> None:
        with zipfile.ZipFile(good) as archive:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        with good.open("r+b") as file:
            file.seek(largest.header_offset + largest.file_size // 2)
            file.write(bytes(4096))
        torch.load(good, weights_only=True)  # PyTorch sees nothing
        assert f"the contents of {largest.filename} are not what was written" in self.refused(good)

    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
    def test_cut_off(self, kept: float, good: Path) -> None:
        content = good.read_bytes()
        good.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
        assert ("is empty" if kept == 0 else "is damaged or no checkpoint") in self.refused(good)

    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.ckpt").write_text("hello")
        assert "BadZipFile" in self.refused(tmp_path / "a.ckpt")

    def test_old_format(self, tmp_path: Path) -> None:
        torch.save({"state_dict": {}}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
        assert "format before 1.6" in self.refused(tmp_path / "a.ckpt")

    def test_missing_folder_and_foreign_file(self, tmp_path: Path) -> None:
        torch.save({"weight": torch.ones(1)}, tmp_path / "weights.pth")
        for path, expected in (
            (tmp_path / "nowhere.ckpt", "does not exist"),
            (tmp_path, "is a folder"),
            (tmp_path / "weights.pth", "not the checkpoint of a run"),
        ):
            for read in (verify_checkpoint, read_checkpoint):
                with pytest.raises(TaskError, match=expected) as error:
                    read(path)
                assert not isinstance(error.value, DamagedCheckpoint)

    def test_damaged_weights_start_no_run(self, good: Path) -> None:
        content = bytearray(good.read_bytes())
        content[len(content) // 2] ^= 1
        good.write_bytes(content)
        with pytest.raises(DamagedCheckpoint):
            load_model_weights(MODELS["FCOS"](5), OLD, good)


def test_classes_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"class_names": ["a", "b"], "category_ids": [7, 3]}}, path)
    assert describe_checkpoint_classes(path) == CheckpointClasses(["a", "b"], [7, 3])
    torch.save({"state_dict": {}, "hyper_parameters": {"class_names": ["a"]}}, path)
    assert describe_checkpoint_classes(path) == CheckpointClasses(["a"], None)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(TaskError, match="names no classes"):
        describe_checkpoint_classes(path)
    assert read_checkpoint(path) == {"state_dict": {}}


def test_arguments_without_weights_to_start_from() -> None:
    backbone = {"class_path": "backbones.ResNet", "init_args": {"depth": 50, "weights": "imagenet"}}
    arguments = {"backbone": backbone, "weights": "gone.ckpt", "class_names": OLD}
    expected = {
        "backbone": {"class_path": "backbones.ResNet", "init_args": {"depth": 50, "weights": None}},
        "weights": None,
    }
    assert arguments_without_weights(arguments) == expected
    assert backbone["init_args"] == {"depth": 50, "weights": "imagenet"}
    assert arguments_without_weights({"class_names": OLD, "backbone": {"class_path": "backbones.ResNet"}}) == {}
