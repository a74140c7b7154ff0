"""The shift that moments predict is the shift that a forward pass shows."""

import pytest
import torch

from adapters.backbones import Backbone
from adapters.config import TrainingConfig
from adapters.lora import attach
from adapters.moments import measured_moments, relative_shift, shifted_layers

CONFIG = TrainingConfig(target_modules=("q_proj", "v_proj", "up_proj", "down_proj"))
IDS = torch.tensor([[5, 50, 60, 70, 80], [5, 90, 91, 92, 93]])


def test_the_predicted_shift_is_the_measured_one(tiny: Backbone) -> None:
    inputs: dict[str, torch.Tensor] = {}
    for name, layer in tiny.model.named_modules():
        if name.endswith(CONFIG.target_modules):
            layer.register_forward_hook(
                lambda _, seen, __, name=name: inputs.update({name: seen[0].flatten(0, 1)})
            )
    with torch.no_grad(), measured_moments(tiny.model, CONFIG.target_modules) as moments:
        tiny.model(input_ids=IDS)
    weights = {name: tiny.model.get_submodule(name).weight.clone() for name in inputs}

    model = attach(tiny, CONFIG)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    shifts = []
    for name, x_NI in inputs.items():
        x_NI = x_NI / x_NI.norm(dim=1, keepdim=True)
        layer = model.base_model.model.get_submodule(name)
        delta_OI = layer.get_delta_weight("default")
        shifts.append(((x_NI @ delta_OI.T) ** 2).sum() / ((x_NI @ weights[name].T) ** 2).sum())
    predicted = relative_shift(shifted_layers(model, moments))
    assert predicted.item() == pytest.approx(torch.stack(shifts).mean().item(), rel=1e-4)


def test_the_gradient_of_the_shift_is_that_of_its_formula(tiny: Backbone) -> None:
    with torch.no_grad(), measured_moments(tiny.model, CONFIG.target_modules) as moments:
        tiny.model(input_ids=IDS)
    model = attach(tiny, CONFIG)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    layers = shifted_layers(model, moments)
    learned = [part for layer in layers for part in (layer.down_RI, layer.up_OR)]
    direct = []
    for layer in layers:
        delta_OI = layer.scale * layer.up_OR @ layer.down_RI
        direct.append((delta_OI @ layer.moment_II @ delta_OI.T).trace() / layer.own)
    wanted = torch.autograd.grad(torch.stack(direct).mean(), learned)
    found = torch.autograd.grad(relative_shift(layers), learned)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)


def test_a_fresh_adapter_shifts_nothing(tiny: Backbone) -> None:
    with torch.no_grad(), measured_moments(tiny.model, CONFIG.target_modules) as moments:
        tiny.model(input_ids=IDS)
    model = attach(tiny, CONFIG)
    assert relative_shift(shifted_layers(model, moments)).item() == 0.0


def test_nothing_is_measured_after_the_block_or_for_no_module(tiny: Backbone) -> None:
    with torch.no_grad(), measured_moments(tiny.model, ()) as none:
        tiny.model(input_ids=IDS)
    assert none == {}
    with torch.no_grad(), measured_moments(tiny.model, ["up_proj"]) as moments:
        tiny.model(input_ids=IDS)
    assert sorted(moments) == ["model.layers.0.mlp.gate_proj", "model.layers.1.mlp.gate_proj"]
    before = {name: moment.clone() for name, moment in moments.items()}
    tiny.model(input_ids=IDS + 1)
    assert all(torch.equal(moments[name], before[name]) for name in moments)
    for moment in moments.values():  # every token has length one
        assert moment.trace().item() == pytest.approx(1.0, rel=1e-4)
