"""Every row of `docs/coverage.yaml` is built as by the command line, in its published size where that is known."""

import re

import pytest

from backbones import Backbone, LearnToPayNetwork
from tasks.coverage import PAGE, Row, cell, classifier_parameters, page, parameters, read_rows
from tasks.detectors.base import Detector

ROWS = read_rows()


def test_every_row_is_built_in_its_published_size() -> None:
    wrong = {}
    for row in ROWS:
        networks = row.build()
        kind = LearnToPayNetwork if row.classifier else Detector if row.detector else Backbone
        assert all(isinstance(network, kind) for network in networks), row
        if row.published is not None:
            (network,) = networks
            size = classifier_parameters(network) if isinstance(network, Backbone) else parameters(network)
            if size != row.published:
                wrong[row.row] = size
    assert wrong == {}


def test_rows_are_options_or_have_a_reason() -> None:
    for row in ROWS:
        assert bool(row.why) != bool(row.backbones), row
        assert len(set(row.backbones)) == len(row.backbones), row
    rows = [(row.paper, row.row) for row in ROWS]
    assert len(set(rows)) == len(rows)
    assert sum(row.published is not None for row in ROWS) >= 96


def test_rows_that_name_several_numbers_have_a_backbone_for_each() -> None:
    """Lists of numbers in a row's name, but for stages, which one option takes together."""
    several = {
        row.row: len(row.backbones)
        for row in ROWS
        if row.backbones and re.search(r"\d+(,| and) \d", row.row) and not re.search("stages|kernels", row.row)
    }
    assert several and several == {row: len(re.findall(r"(?<![A-Za-z\d])\d+", row)) for row in several}


def test_page_is_current() -> None:
    """Names, options and reasons; its numbers are those of the networks that the first test builds."""
    text = PAGE.read_text()
    for row in ROWS:
        options = cell(row.options) if row.backbones else f"not here: {row.why}"
        assert f"| {row.row} | {options} |" in text, row
    assert len(re.findall(r"^\| (?!row|---)", text, re.MULTILINE)) == len(ROWS)


def test_options_can_be_typed() -> None:
    specs = ("ResNet attention={class_path: CBAM} mixer_stages=[2,3]", "swin_t drop_path=0.1")
    row = Row("paper", "row", specs, "RetinaNet octave_scales=2")
    assert row.options == [
        "--model.backbone ResNet --model.backbone.attention={class_path: CBAM} --model.backbone.mixer_stages=[2,3] "
        "--model.detector RetinaNet --model.detector.octave_scales=2",
        "--model.backbone backbones.swin_t --model.backbone.drop_path=0.1 "
        "--model.detector RetinaNet --model.detector.octave_scales=2",
    ]
    network = Row("paper", "row", ("VGG out_strides=[1,32]",), classifier="LearnToPayNetwork aggregation=independent")
    assert network.options == ["LearnToPayNetwork(VGG(out_strides=[1, 32]), aggregation='independent')"]
    assert cell(["a", "b"]) == "`a`<br>`b`"


@pytest.mark.slow
def test_page_is_written_by_the_command() -> None:
    assert page() == PAGE.read_text()
