"""Weight files: what loads, what is tolerated, and what is refused."""

import argparse
import logging
import os

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from attention import SqueezeExcitation
from backbones import AttentionCNN, Classifier, MobileNetV2, ResNet, export_weights, load_weights
from tests.backbones.small_weights import equal, original, small


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_file_round_trip(tmp_path, suffix):
    source, path = small(attention=lambda c: SqueezeExcitation(c, 8)), str(tmp_path / f"weights{suffix}")
    (save_file if suffix == ".safetensors" else torch.save)(source.state_dict(), path)
    assert equal(source, small(attention=lambda c: SqueezeExcitation(c, 8), weights=path))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "best": 0.7},
        lambda state: {"model": state, "optimizer": {"lr": [0.1]}},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")},
        lambda state: {**state, "classifier.1.weight": torch.zeros(10, 1280), "fc.bias": torch.zeros(3)},
    ],
    ids=["state_dict", "model", "module", "old-batch-norm", "classifier"],
)
def test_wrappers_prefixes_and_classifiers_are_seen_through(tmp_path, wrap, caplog):
    source, target, path = original(), small(), str(tmp_path / "weights.pth")
    torch.save(wrap(source.state_dict()), path)
    with caplog.at_level(logging.INFO):
        load_weights(target, path)
    assert equal(source, target)
    assert caplog.records == []


@pytest.mark.parametrize(
    "shell",
    ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.", "model.backbone._orig_mod."],
)
def test_shells_of_compilers_and_modules_are_seen_through(tmp_path, shell, caplog):
    source, path = original(), str(tmp_path / "weights.pth")
    torch.save({"state_dict": {f"{shell}{name}": value for name, value in source.state_dict().items()}}, path)
    with caplog.at_level(logging.INFO):
        assert equal(source, small(weights=path))
    assert caplog.records == []


def test_arguments_of_a_training_script_are_no_obstacle(tmp_path):
    source, path = original(), str(tmp_path / "weights.pth")
    torch.save({"model": source.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 3}, path)
    assert equal(source, small(weights=path))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda last, average: {"state_dict": last, "state_dict_ema": average},  # timm
        lambda last, average: {  # torchvision
            "model": last,
            "model_ema": {"n_averaged": torch.tensor(9), **{f"module.{name}": average[name] for name in average}},
        },
    ],
    ids=["timm", "torchvision"],
)
def test_averaged_weights_are_preferred_and_said_so(tmp_path, wrap, caplog):
    source, path = original(), str(tmp_path / "weights.pth")
    torch.save(wrap(small().state_dict(), source.state_dict()), path)
    with caplog.at_level(logging.INFO):
        assert equal(source, small(weights=path))
    (record,) = caplog.records
    assert "took the averaged weights" in record.message


def test_own_weights_beside_averaged_ones_of_mmengine(tmp_path):
    """MMEngine swaps the two when it saves: `state_dict` has the averaged ones."""
    source, path = original(), str(tmp_path / "weights.pth")
    other = {f"module.backbone.{name}": value for name, value in small().state_dict().items()}
    average = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": average, "ema_state_dict": other}, path)
    assert equal(source, small(weights=path))


@pytest.mark.parametrize("other", ["teacher.backbone.", "ema_model.backbone.", "model.teacher.backbone."])
def test_several_backbones_are_refused(tmp_path, other):
    state, path = original().state_dict(), str(tmp_path / "weights.pth")
    torch.save({f"{prefix}{name}": state[name] for prefix in (other, "backbone.") for name in state}, path)
    with pytest.raises(ValueError, match=rf"holds 2 backbones, .*{other}.*; save the entries of one of them"):
        small(weights=path)


def test_classifier_of_a_published_network_is_ignored(tmp_path, caplog):
    for peer, host in [
        (torchvision.models.resnet18(), lambda path: ResNet(18, weights=path)),
        (torchvision.models.mobilenet_v2(), lambda path: MobileNetV2(weights=path)),
    ]:
        path = str(tmp_path / "weights.pth")
        torch.save(peer.state_dict(), path)
        with caplog.at_level(logging.INFO):
            backbone = host(path)
        state = peer.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
    assert caplog.records == []


def test_saved_classifier_loads_into_a_backbone(tmp_path):
    source, path = original(), str(tmp_path / "weights.pth")
    torch.save(Classifier(source, 10).state_dict(), path)
    assert equal(source, small(weights=path))


def test_inserted_attention_may_be_missing(tmp_path, caplog):
    source, path = original(), str(tmp_path / "weights.pth")
    torch.save(source.state_dict(), path)
    with caplog.at_level(logging.INFO):
        target = small(attention=lambda c: SqueezeExcitation(c, 8), weights=path)
    assert equal(source, target)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "64 entries of attention" in record.message


def test_partly_missing_attention_is_a_warning(tmp_path, caplog):
    path = str(tmp_path / "weights.pth")
    torch.save(ResNet(18, SqueezeExcitation, (4,)).state_dict(), path)
    ResNet(18, SqueezeExcitation, weights=path)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_unexpected_entries_are_a_warning(tmp_path, caplog):
    source, path = small(attention=lambda c: SqueezeExcitation(c, 8)), str(tmp_path / "weights.pth")
    torch.save(source.state_dict(), path)
    small(weights=path)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "64 unexpected entries: features.2.attention.fc1.weight" in record.message


def test_missing_host_parameters_are_refused_and_nothing_is_loaded(tmp_path):
    source, target, path = original(), small(), str(tmp_path / "weights.pth")
    state = {name: value for name, value in source.state_dict().items() if not name.startswith("features.4.")}
    torch.save(state, path)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"lacks 15 of .* MobileNetV2, the first features\.4\.conv\.0\.0\.weight"):
        load_weights(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


@pytest.mark.parametrize(("deep", "shallow"), [(34, 18), (50, 26)])
def test_weights_of_a_deeper_network_are_refused_and_nothing_is_loaded(tmp_path, deep, shallow):
    """Every parameter of the shallow one is there, in the right shape, and means something else."""
    target, path = ResNet(shallow), str(tmp_path / "weights.pth")
    torch.save(getattr(torchvision.models, f"resnet{deep}")().state_dict(), path)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"entries of blocks that ResNet does not have, the first layer\d\.\d\."):
        load_weights(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_other_shapes_are_refused(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(MobileNetV2(0.5).state_dict(), path)
    with pytest.raises(ValueError, match=r"entries of other shapes, the first features.* for .*same architecture"):
        small(weights=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no file; give 'imagenet', the path or address"),
        (b"", "is damaged or holds more than tensors"),
        (b"not a checkpoint", "is damaged or holds more than tensors"),
        ({"epoch": 3}, "holds no state dict"),
        ([torch.zeros(1)], "holds no state dict"),
        ({"state_dict": {"conv1.weight": logging.INFO}}, "holds no state dict"),
        (logging.Formatter(), "is damaged or holds more than tensors"),
    ],
)
def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        small(weights=str(path))
    assert "\n" not in str(error.value)


def test_damaged_files_of_every_kind_are_refused_in_one_line(tmp_path):
    """Readers of cut-off and altered files raise whatever they stumble over."""
    target = AttentionCNN(layers=1, embed_channels=8, hidden_channels=8)
    state, paths = {"a": torch.arange(9.0), "b": torch.ones(2)}, [tmp_path / f"weights{i}.pth" for i in range(2)]
    torch.save(state, paths[0])
    torch.save(state, paths[1], _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "weights.safetensors")
    generator = torch.Generator().manual_seed(0)
    for path in [*paths, tmp_path / "weights.safetensors"]:
        content = path.read_bytes()
        cuts = [content[: int(part * len(content))] for part in (0.0, 0.005, 0.01, 0.1, 0.5, 0.9, 0.999)]
        places = torch.randint(min(300, len(content)), (15, 2), generator=generator).tolist()
        altered = [content[:i] + bytes([j % 256]) + content[i + 1 :] for i, j in places]
        for number, damaged in enumerate([*cuts, *altered, b"<html>Not found</html>"]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="weights=") as error:  # a file that is read lacks the parameters
                load_weights(target, str(path))
            assert "\n" not in str(error.value)
            if number < len(cuts):
                assert "is damaged or holds more than tensors" in str(error.value)


def test_code_in_a_file_is_named_and_not_run(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = str(tmp_path / "weights.pth")
    torch.save({**original().state_dict(), "code": Code()}, path)
    with pytest.raises(ValueError, match=r"holds more than tensors \(\w+\.mkdir\)"):
        small(weights=path)
    assert not (tmp_path / "ran").exists()


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = original()
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    assert equal(source, small(weights="~/weights.pth"))


@pytest.mark.parametrize(
    "prefix",
    ["backbone.", "model.backbone.", "module.backbone.", "backbone.body.", "backbone.0.body.", "backbone.bottom_up."],
)
def test_backbone_of_a_whole_model(tmp_path, prefix, caplog):
    source, path = original(), str(tmp_path / "weights.pth")
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    other = prefix.partition("backbone.")[0]
    heads = [f"{other}neck.weight", f"{other}head.bias", f"{other}backbone.fpn.weight" if "." in prefix[9:-1] else ""]
    torch.save({"state_dict": {**{name: torch.ones(3) for name in heads if name}, **state}}, path)
    with caplog.at_level(logging.INFO):
        assert equal(source, small(weights=path))
    assert caplog.records == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_exported_weights_come_back(tmp_path, suffix):
    source, run, out = original(), str(tmp_path / "last.ckpt"), str(tmp_path / f"weights{suffix}")
    state = {f"model.backbone.{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": {**state, "model.head.weight": torch.ones(3)}, "epoch": 3, "hyper_parameters": {}}, run)
    export_weights(run, out)
    assert equal(source, small(weights=out))


def test_export_takes_shared_memory_and_makes_the_folder(tmp_path):
    path, out = str(tmp_path / "weights.pth"), tmp_path / "new" / "folder" / "weights.safetensors"
    whole = torch.arange(12.0).view(3, 4)
    torch.save({"backbone.a": whole[:2], "backbone.b": whole[2:], "backbone.c": whole.T, "backbone.d": whole}, path)
    export_weights(path, str(out))
    exported = load_file(out)
    expected = {"a": whole[:2], "b": whole[2:], "c": whole.T, "d": whole}
    assert exported.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in exported.items())


def test_export_names_the_formats_that_it_knows(tmp_path):
    path = str(tmp_path / "weights.pth")
    torch.save(original().state_dict(), path)
    with pytest.raises(ValueError, match=r"out='weights.onnx' .*safetensors or .pth"):
        export_weights(path, "weights.onnx")
