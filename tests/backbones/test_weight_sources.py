"""Where weights come from: torchvision, timm, addresses, and what is there without a network."""

import hashlib
import http.client
import logging
import urllib.error

import pytest
import timm
import torch
import torchvision

from attention import SqueezeExcitation
from backbones import ResNet
from backbones.weight_sources import read_weights
from tests.backbones.small_weights import equal, original, small


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch.hub and no network."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)  # its own name of urllib's
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def published_resnet18(hub, monkeypatch):
    """A ResNet-18 whose state dict is what torchvision publishes, and its file in the cache."""
    peer, path = torchvision.models.resnet18(), hub / "checkpoints" / "published.pth"
    path.parent.mkdir()
    torch.save(peer.state_dict(), path)
    path = path.rename(path.with_name(f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"https://nowhere.invalid/{path.name}")
    return peer, path


@pytest.mark.parametrize("weights", ["imagenet", "ResNet18_Weights.IMAGENET1K_V1", "ResNet18_Weights.DEFAULT"])
def test_weights_of_torchvision_come_from_the_cache(published_resnet18, weights):
    peer, _ = published_resnet18
    backbone = ResNet(18, SqueezeExcitation, weights=weights)
    assert torch.equal(backbone.layer4[1].conv2.weight, peer.layer4[1].conv2.weight)


def test_a_truncated_file_of_torchvision_in_the_cache_is_refused(published_resnet18):
    _, path = published_resnet18
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RuntimeError, match=rf"'imagenet': {path} has the SHA-256 .* delete it, and fetch it again"):
        ResNet(18, weights="imagenet")


def test_code_in_a_file_of_torchvision_is_not_run(published_resnet18, monkeypatch):
    peer, path = published_resnet18
    torch.save({**peer.state_dict(), "code": logging.Formatter()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path = path.rename(path.with_name(f"resnet18-{digest[:8]}.pth"))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"https://nowhere.invalid/{path.name}")
    with pytest.raises(ValueError, match=rf"more than tensors \(logging.Formatter\); .* \(its file is {path}\)"):
        ResNet(18, weights="imagenet")


def test_imagenet_weights_without_network_say_where_to_put_the_file(hub):
    with pytest.raises(RuntimeError, match=r"fetch https://.*resnet18-f37072fd.pth elsewhere and put it at") as error:
        ResNet(18, weights="imagenet")
    assert str(hub / "checkpoints" / "resnet18-f37072fd.pth") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_every_depth_has_published_weights(depth):
    with torch.device("meta"):
        published = ResNet(depth).published_weights()
    assert published.url.split("/")[-1].startswith(f"resnet{depth}-")


def test_published_weights_are_those_of_the_width():
    with torch.device("meta"):
        wide, odd = ResNet(50, width_per_group=128), ResNet(50, width_per_group=96)
    assert wide.published_weights().url.split("/")[-1].startswith("wide_resnet50_2-")
    assert odd.published_weights() is None
    assert (wide.label, odd.label) == ("ResNet-50 x2", "ResNet-50 x1.5")


@pytest.fixture
def published_file(tmp_path, monkeypatch):
    """A file with weights, its SHA-256, and an empty cache of torch.hub."""
    path = tmp_path / "server" / "weights.pth"
    path.parent.mkdir()
    torch.save(original().state_dict(), path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_addresses_are_downloaded_once_and_checked(published_file, caplog):
    path, digest = published_file
    address = f"{path.as_uri()}#sha256={digest}"
    state = torch.load(path)
    for _ in range(2):
        backbone = small(weights=address)
        assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())
        path.unlink(missing_ok=True)  # the second time it is in the cache
    assert caplog.records == []


def test_the_sum_in_a_file_name_is_checked(published_file):
    path, digest = published_file
    good, bad = path.with_name(f"weights-{digest[:8]}.pth"), path.with_name("weights-01234567.pth")
    good.write_bytes(path.read_bytes())
    bad.write_bytes(path.read_bytes())
    small(weights=good.as_uri())
    with pytest.raises(RuntimeError, match=rf"has the SHA-256 {digest} and not 01234567; delete it"):
        small(weights=bad.as_uri())


def test_addresses_without_a_sum_are_loaded_with_a_warning_that_has_it(published_file, caplog):
    path, digest = published_file
    small(weights=path.as_uri())
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"#sha256={digest}" in record.message


def test_addresses_that_end_alike_are_not_confused(published_file):
    path, digest = published_file
    other = path.parent / "other" / path.name
    other.parent.mkdir()
    torch.save(small().state_dict(), other)
    digests = digest, hashlib.sha256(other.read_bytes()).hexdigest()
    for file, expected in zip((path, other), digests, strict=True):
        state = torch.load(file)
        for weights in (file.as_uri(), f"{file.as_uri()}#sha256={expected}"):
            assert all(torch.equal(value, state[n]) for n, value in small(weights=weights).state_dict().items())


def test_downloads_without_a_sum_are_told_apart_by_their_address(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    states = {f"https://nowhere.invalid/{run}/model.pth": small().state_dict() for run in "ab"}
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda address, path, progress: torch.save(states[address], path)
    )
    for _ in range(2):
        for address, state in states.items():
            assert all(torch.equal(value, state[n]) for n, value in small(weights=address).state_dict().items())


def test_local_files_without_a_sum_may_change(published_file):
    path, _ = published_file
    small(weights=path.as_uri())
    changed = small()
    torch.save(changed.state_dict(), path)
    assert equal(changed, small(weights=path.as_uri()))


def test_a_broken_connection_is_one_line(hub, monkeypatch):
    def breaks(*args, **kwargs):
        raise http.client.IncompleteRead(b"part")

    monkeypatch.setattr(torch.hub, "urlopen", breaks)
    with pytest.raises(RuntimeError, match=r"could not be downloaded .*IncompleteRead"):
        small(weights="https://nowhere.invalid/weights.pth")


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ("https://nowhere.invalid/", ValueError, "is the address of no file"),
        ("https://nowhere.invalid/weights.pth", RuntimeError, "could not be downloaded .*put it at .*weights.pth"),
        ("https://nowhere.invalid/weights.pth#md5=1", ValueError, "is no checksum; write #sha256="),
        ("ResNet50_Weights.IMAGENET1K_V9", ValueError, "no set of weights of torchvision's"),
        ("MobileNet_V2_Weights.IMAGENET1K_V1", RuntimeError, "fetch https://.*mobilenet_v2-b0353104.pth elsewhere"),
        ("resnet51.ra2_in1k", ValueError, "timm has no network of that name"),
    ],
)
def test_sources_that_fail_say_so_in_one_line(hub, weights, error, message):
    with pytest.raises(error, match=message) as found:
        small(weights=weights)
    assert "\n" not in str(found.value)


def test_names_of_timm_are_weights(monkeypatch):
    peer = timm.create_model("resnet18")
    asked = []

    def create_model(name, pretrained):
        asked.append((name, pretrained))
        return peer

    monkeypatch.setattr(timm, "create_model", create_model)
    backbone = ResNet(18, weights="resnet18.a1_in1k")
    assert asked == [("resnet18.a1_in1k", True)]
    assert torch.equal(backbone.layer4[1].conv2.weight, peer.layer4[1].conv2.weight)


@pytest.mark.parametrize(("network", "warnings"), [("resnet18", 0), ("haloregnetz_b", 1)])
def test_another_normalisation_of_images_is_a_warning(monkeypatch, network, warnings, caplog):
    """Detectors and segmentors normalise by ImageNet's mean and deviation, which not all of timm's networks expect."""
    peer = timm.create_model(network)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: peer)
    read_weights(network, None, "network")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * warnings
    assert all("mean (0.5, 0.5, 0.5) and deviation (0.5, 0.5, 0.5)" in record.message for record in caplog.records)


def test_retries_of_the_hub_are_not_shown(monkeypatch, caplog):
    def create_model(name, pretrained):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", create_model)
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    with pytest.raises(RuntimeError, match="could not be loaded by timm"):
        ResNet(18, weights="resnet18.a1_in1k")
    assert caplog.records == []


def test_timm_without_network_is_one_line(monkeypatch):
    def create_model(name, pretrained):
        raise OSError("We couldn't connect to the hub\nand so on")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(RuntimeError, match="could not be loaded by timm") as error:
        ResNet(18, weights="resnet18.a1_in1k")
    assert "\n" not in str(error.value)
