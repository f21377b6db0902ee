import pytest
import torch

from attention.pooling import column_means, global_max, global_mean, row_means


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3)])
def test_pools_reduce_the_axes_they_name_in_every_format(size, memory_format):
    x = torch.randn(2, 4, *size, dtype=torch.float64).to(memory_format=memory_format)
    torch.testing.assert_close(global_mean(x), x.sum((2, 3), keepdim=True) / (size[0] * size[1]))
    torch.testing.assert_close(global_max(x), x.amax((2, 3), keepdim=True), rtol=0, atol=0)
    torch.testing.assert_close(row_means(x), torch.stack([x[:, :, i].sum(2) / size[1] for i in range(size[0])], 2))
    torch.testing.assert_close(column_means(x), torch.stack([x[..., j].sum(2) / size[0] for j in range(size[1])], 2))


def test_pools_accept_other_strides():
    x = torch.randn(4, 6, 2, 5).permute(2, 0, 3, 1)[..., ::2]  # neither contiguous nor channels_last
    torch.testing.assert_close(row_means(x), x.mean(3))
    torch.testing.assert_close(column_means(x), x.mean(2))
    torch.testing.assert_close(global_mean(x), x.mean((2, 3), keepdim=True))
    torch.testing.assert_close(global_max(x), x.amax((2, 3), keepdim=True))
