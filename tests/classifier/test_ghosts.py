"""Ghost batch norm against one batch norm for each part, and at work an ordinary one."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn

from wafer.classifier.ghosts import split_norms


def norm(channels: int = 3) -> nn.BatchNorm2d:
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(channels)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def test_each_part_is_normed_alone_in_training() -> None:
    layer = norm()
    wanted = [copy.deepcopy(layer).train() for _ in range(3)]
    body = nn.Sequential(layer).train()
    split_norms(body, 4)
    images = torch.randn(13, 3, 5, 5) * torch.arange(1, 14).view(-1, 1, 1, 1)
    parts = [images[:5], images[5:9], images[9:]]
    found = body(images)
    expected = torch.cat([one(part) for one, part in zip(wanted, parts, strict=True)])
    torch.testing.assert_close(found, expected)
    assert layer.momentum == 0.1


def test_running_statistics_move_as_far_as_an_ordinary_norm_s() -> None:
    plain, ghost = norm().train(), norm().train()
    split_norms(nn.Sequential(ghost), 4)
    images = torch.randn(4, 3, 6, 6).repeat(4, 1, 1, 1) * 3 + 1  # all parts are alike
    plain(images)
    ghost(images)
    torch.testing.assert_close(ghost.running_mean, plain.running_mean)
    torch.testing.assert_close(ghost.running_var, plain.running_var, atol=0, rtol=0.01)
    assert ghost.running_var is not None
    assert (ghost.running_var > 1.5).all()


def test_at_work_it_is_an_ordinary_norm_with_the_same_tensors() -> None:
    torch.manual_seed(0)
    body = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    names = list(body.state_dict())
    split_norms(body, 2)
    images = torch.randn(4, 3, 32, 32)
    body.train()(images)
    assert list(body.state_dict()) == names
    plain = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    plain.load_state_dict(body.state_dict())
    with torch.inference_mode():
        found = body.eval()(images)
        torch.testing.assert_close(found, plain.eval()(images))
        alone = torch.cat([body(image[None]) for image in images])
    np.testing.assert_allclose(alone, found, atol=1e-5)


@pytest.mark.parametrize("images", [1, 7])
def test_a_batch_of_less_than_two_parts_is_normed_as_one(images: int) -> None:
    plain, ghost = norm().train(), norm().train()
    split_norms(nn.Sequential(ghost), 4)
    pixels = torch.randn(images, 3, 4, 4)
    torch.testing.assert_close(ghost(pixels), plain(pixels))
    torch.testing.assert_close(ghost.running_var, plain.running_var)
