"""Learn to pay attention against its equations, written out as loops, and against published sizes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attention import LearnToPayAttention, LearnToPayClassifier, record_attention


class OfOneMap(nn.Module):
    """A level whose descriptor is made of its own map, so that one input reaches both."""

    def __init__(self, attention, channels, descriptor_channels):
        super().__init__()
        self.attention = attention
        self.descriptor = nn.Linear(channels, descriptor_channels, bias=False)

    def forward(self, x):
        return self.attention(x, self.descriptor(x.amax((2, 3))))


def batch_normalised(bn, x):
    mean, variance = (x.mean(0), x.var(0, correction=0)) if bn.training else (bn.running_mean, bn.running_var)
    return (x - mean) / torch.sqrt(variance + 1e-5) * bn.weight + bn.bias


def attended(attention, x, descriptor):
    """Sections 3.1 and 3.2 of arXiv 1804.02391, one sample and position at a time."""
    if isinstance(attention.project_descriptor, nn.Sequential):
        bn, _, _, linear = attention.project_descriptor
        descriptor = batch_normalised(bn, descriptor).clamp(min=0) @ linear.weight.T + linear.bias
    if isinstance(attention.project_local, nn.Conv2d):
        x = torch.einsum("bchw,dc->bdhw", x, attention.project_local.weight[:, :, 0, 0])
    vectors = []
    for local, g in zip(x, descriptor, strict=True):
        places = [local[:, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])]
        if attention.compatibility == "parametrised":
            u, bias = attention.score.weight[0], attention.score.bias
            scores = [(u * (place + g)).sum() + (0 if bias is None else bias[0]) for place in places]
        else:
            scores = [(place * g).sum() for place in places]
        powers = [torch.exp(score - max(scores)) for score in scores]
        vectors.append(sum(power * place for power, place in zip(powers, places, strict=True)) / sum(powers))
    return torch.stack(vectors)


def reference(operator, x):
    return attended(operator.attention, x, operator.descriptor(x.amax((2, 3))))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("projection", ["descriptor", "local"])
@pytest.mark.parametrize("compatibility", ["parametrised", "dot_product"])
@pytest.mark.parametrize(("width", "training"), [(3, True), (4, True), (4, False)])
def test_equation_forward_and_backward(width, training, compatibility, projection, size, agree):
    torch.manual_seed(0)
    level = LearnToPayAttention(3, width, compatibility, projection, dropout=0)
    agree(OfOneMap(level, 3, width).train(training), reference, torch.randn(3, 3, *size))


@pytest.mark.parametrize("compatibility", ["parametrised", "dot_product"])
def test_indifferent_scores_give_the_mean(compatibility):
    torch.manual_seed(0)
    level = LearnToPayAttention(5, 5, compatibility)
    if compatibility == "parametrised":
        nn.init.zeros_(level.score.weight)
    x, g = torch.randn(2, 5, 4, 3), torch.randn(2, 5) * (compatibility == "parametrised")
    torch.testing.assert_close(level(x, g), x.mean((2, 3)))


def test_only_the_dot_product_depends_on_the_descriptor():
    torch.manual_seed(0)
    x, one, other = torch.randn(2, 5, 4, 3), torch.randn(2, 5), torch.randn(2, 5)
    level = LearnToPayAttention(5, 5)
    torch.testing.assert_close(level(x, one), level(x, other))
    level = LearnToPayAttention(5, 5, "dot_product")
    assert (level(x, one) - level(x, other)).abs().max() > 0.1


def test_weights_sum_to_one_make_the_vector_and_are_recorded():
    torch.manual_seed(0)
    level = LearnToPayAttention(5, 7, "dot_product").eval()
    x, g = torch.randn(2, 5, 4, 3), torch.randn(2, 7)
    with record_attention(level) as maps:
        vector, weights = level.attend(x, g)
    assert weights.shape == (2, 1, 4, 3)
    torch.testing.assert_close(weights.sum((2, 3)), torch.ones(2, 1))
    torch.testing.assert_close((weights * x).sum((2, 3)), vector)
    (recorded,) = maps[""]
    torch.testing.assert_close(recorded.heat_map(4, 3), weights[:, 0])


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("aggregation", ["concat", "independent", "independent_sum"])
def test_classifier_joins_the_levels(aggregation, training):
    torch.manual_seed(0)
    head = LearnToPayClassifier([3, 4], 5, 4, "dot_product", aggregation=aggregation, dropout=0)
    head = head.double().train(training)
    maps = [torch.randn(3, 3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 2, 3, dtype=torch.float64)]
    g = torch.randn(3, 4, dtype=torch.float64)
    logits, weights = head(maps, g)
    assert [each.shape for each in weights] == [(3, 1, 4, 5), (3, 1, 2, 3)]
    vectors = [attended(level, each, g) for level, each in zip(head.levels, maps, strict=True)]
    vectors = [batch_normalised(part[0], each).clamp(min=0) for part, each in zip(head.normalise, vectors, strict=True)]
    if aggregation == "concat":
        expected = torch.cat(vectors, 1) @ head.classify[0].weight.T + head.classify[0].bias
    else:
        votes = [each @ part.weight.T + part.bias for part, each in zip(head.classify, vectors, strict=True)]
        if aggregation == "independent":
            expected = torch.log(sum(F.softmax(vote, 1) for vote in votes) / 2)
            torch.testing.assert_close(logits.exp().sum(1), torch.ones(3, dtype=torch.float64))
        else:
            expected = sum(votes)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "half"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("compatibility", ["parametrised", "dot_product"])
def test_scores_keep_range_and_resolution_in_half_precision(compatibility, dtype, autocast):
    """Scores from 102,400, which float16 does not have, to 102,402, which bfloat16 does not tell apart."""
    steps = torch.tensor([[0, 1, 2], [1, 0, 0]])
    maps = torch.full((2, 512, 2, 3), 12.5)
    for (i, j), step in zip([(i, j) for i in range(2) for j in range(3)], steps.flatten(), strict=True):
        maps[:, :step, i, j] += 0.0625  # exact in either precision
    level, g = LearnToPayAttention(512, 512, compatibility), torch.full((2, 512), 16.0)
    if compatibility == "parametrised":
        nn.init.constant_(level.score.weight, 16)
    maps, g = maps.to(dtype), g.to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        vector, weights = level.to(torch.float32 if autocast else dtype).attend(maps, g)
    assert vector.isfinite().all()
    expected = steps.double().exp() / steps.double().exp().sum()
    torch.testing.assert_close(weights.double(), expected.expand(2, 1, 2, 3), rtol=2**-7, atol=0)


@pytest.mark.parametrize("count", [1, 3])
def test_every_level_needs_a_map(count):
    head = LearnToPayClassifier([4, 4], 10, 4)
    with pytest.raises(ValueError, match=f"{count} maps do not make 2 levels; give one map for every level"):
        head([torch.randn(2, 4, 3, 3)] * count, torch.randn(2, 4))


def vgg_parameters():
    """Parameters of the authors' VGG up to the descriptor: 15 convolutions with biases, their norms, Linear 512-512."""
    widths = [64, 64, 128, 128, 256, 256, 256, *[512] * 8]
    with torch.device("meta"):
        layers = [nn.Linear(512, 512)]
        for given, wanted in zip([3, *widths], widths, strict=False):
            layers += [nn.Conv2d(given, wanted, 3), nn.BatchNorm2d(wanted)]
    return sum(value.numel() for layer in layers for value in layer.parameters())


@pytest.mark.parametrize(
    ("levels", "aggregation", "compatibility", "of_10", "of_100"),
    [
        (1, "concat", "parametrised", 19_714_123, 19_760_293),
        (1, "independent", "dot_product", 19_713_610, 19_759_780),
        (2, "concat", "parametrised", 19_720_780, 19_813_030),
        (2, "concat", "dot_product", 19_719_754, 19_812_004),
        (2, "independent", "parametrised", 19_720_790, 19_813_130),
        (2, "independent", "dot_product", 19_719_764, 19_812_104),
        (3, "concat", "parametrised", 19_856_461, 19_971_751),
        (3, "concat", "dot_product", 19_855_178, 19_970_468),
        (3, "independent", "parametrised", 19_856_481, 19_971_951),
        (3, "independent_sum", "dot_product", 19_855_198, 19_970_668),
    ],
)
def test_sizes_of_the_published_networks(levels, aggregation, compatibility, of_10, of_100):
    channels = [256, 512, 512][-levels:]
    for classes, expected in ((10, of_10), (100, of_100)):
        head = LearnToPayClassifier(channels, classes, 512, compatibility, aggregation=aggregation)
        assert vgg_parameters() + sum(value.numel() for value in head.parameters()) == expected


def test_sizes_of_the_reading_that_projects_the_map():
    for classes, expected in ((10, 19_855_434), (100, 19_993_764)):
        head = LearnToPayClassifier([256, 512, 512], classes, projection="local", normalise=False, bias=False)
        assert vgg_parameters() + sum(value.numel() for value in head.parameters()) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnToPayAttention(0), "channels=0"),
        (lambda: LearnToPayAttention(4, 0), "descriptor_channels=0"),
        (lambda: LearnToPayAttention(4, 4, "cosine"), "compatibility='cosine' .*parametrised, dot_product"),
        (lambda: LearnToPayAttention(4, 4, projection="both"), "projection='both' .*descriptor, local"),
        (lambda: LearnToPayAttention(4, 4, dropout=1.0), "dropout=1.0 .*below 1"),
        (lambda: LearnToPayClassifier([], 10), "levels=0"),
        (lambda: LearnToPayClassifier([4], 0), "classes=0"),
        (lambda: LearnToPayClassifier([4], 10, aggregation="mean"), "aggregation='mean' .*concat, independent"),
    ],
)
def test_wrong_arguments_are_named_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
