"""LPIPS against the same sum written with torch's layers."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.lpips import load_lpips

torch = pytest.importorskip("torch")
nn = torch.nn


def _alex():
    """torchvision's AlexNet features; a slice ends behind each ReLU."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def _vgg():
    """torchvision's VGG16 features up to the last pool."""
    layers, inputs = [], 3
    for part, (count, width) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
    ):
        layers += [nn.MaxPool2d(2, 2)] if part else []
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
    return nn.Sequential(*layers)


# trunk -> (features, where each of the five slices ends)
TRUNKS = {"alex": (_alex, (2, 5, 8, 10, 12)), "vgg": (_vgg, (4, 9, 16, 23, 30))}


@pytest.fixture(scope="module", params=TRUNKS)
def made(request, tmp_path_factory):
    """Trunk, heads, and the file as the official module saves it."""
    make, ends = TRUNKS[request.param]
    torch.manual_seed(0)
    layers = make()
    starts = (0, *ends[:-1])
    state, heads = {}, []
    for part, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for index in range(start, end):
            for name, value in layers[index].state_dict().items():
                state[f"net.slice{part + 1}.{index}.{name}"] = value
        width = value.shape[0]
        heads.append(torch.rand(1, width, 1, 1))
        state[f"lin{part}.model.1.weight"] = heads[-1]
        state[f"lins.{part}.model.1.weight"] = heads[-1]
    path = tmp_path_factory.mktemp("lpips") / "lpips.pth"
    torch.save(state, path)
    return request.param, layers, ends, heads, path


def _images():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (3, 33, 40, 3)).astype(np.uint8)
    return a, np.roll(a, 1, axis=1) // 2


def _wanted(layers, ends, heads, a, b):
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x, y = (torch.from_numpy(i).permute(0, 3, 1, 2) / 127.5 - 1 for i in (a, b))
    x, y, total = (x - shift) / scale, (y - shift) / scale, 0.0
    with torch.inference_mode():
        for index, layer in enumerate(layers):
            x, y = layer(x), layer(y)
            if index + 1 in ends:
                units = [
                    i / (i.norm(dim=1, keepdim=True) + 1e-10) for i in (x, y)
                ]
                weighed = (units[0] - units[1]) ** 2 * heads[
                    ends.index(index + 1)
                ]
                total = total + weighed.sum(1).mean((1, 2))
    return total.numpy()


def test_the_distance_is_torchs(made):
    trunk, layers, ends, heads, path = made
    network = load_lpips(path)
    assert network.label == f"LPIPS-{trunk}"
    a, b = _images()
    found = network(a, b)
    wanted = _wanted(layers, ends, heads, a, b)
    assert wanted.min() > 1e-3
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_array_equal(network(a, a), np.zeros(3))


def test_images_that_do_not_compare(made):
    network, (a, b) = load_lpips(made[-1]), _images()
    with pytest.raises(UserError, match="one size"):
        network(a, b[:, :32])
    with pytest.raises(UserError, match="32 pixels"):
        network(a[:, :20], b[:, :20])


def test_another_networks_file(tmp_path):
    torch.save({"lin0.model.1.weight": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="no LPIPS network"):
        load_lpips(tmp_path / "a.pth")
