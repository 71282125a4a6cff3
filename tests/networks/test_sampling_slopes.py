import pytest
import torch
from seeded_draws import generator

from monai_betavae.networks.sampling_slopes import sampling_slopes, written_out_slopes


@pytest.mark.parametrize("shape", [(9, 12, 10), (14, 11), (6, 1, 7)])
def test_what_onnx_gets_is_torchs_backward_function(shape):
    image = torch.rand(2, 3, *shape, generator=generator()).double()
    # some beyond the border, where the slope by the place is zero
    places = 2.4 * torch.rand(2, *[1] * (len(shape) - 1), 40, len(shape), generator=generator(1)).double() - 1.2
    output = torch.randn(2, 3, *[1] * (len(shape) - 1), 40, generator=generator(2)).double()
    for found, expected in zip(
        written_out_slopes(output, image, places), sampling_slopes(output, image, places), strict=True
    ):
        torch.testing.assert_close(found, expected)
        assert expected.abs().max() > 0.1
