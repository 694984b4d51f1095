"""The MLPs on latents and beliefs."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from drama_torchrl.modules.heads import (
    Actor,
    Critic,
    DrawnTerminationHead,
    RewardHead,
    TerminationHead,
    mlp,
)
from drama_torchrl.modules.normalization import RMSNorm

LATENT, WIDTH, ACTIONS = 30, 16, 3


def linears(module: nn.Module) -> list[nn.Linear]:
    return [part for part in module.modules() if isinstance(part, nn.Linear)]


class TestMLP:
    def test_every_hidden_layer_is_linear_then_rms_norm_then_silu(self) -> None:
        net = mlp(4, [6, 5], 2)
        norms = [part for part in net if isinstance(part, RMSNorm)]
        for norm in norms:
            nn.init.normal_(norm.weight)
        x = expected = torch.randn(7, 4)
        *hidden, last = linears(net)
        for linear, norm in zip(hidden, norms, strict=True):
            h = expected @ linear.weight.T + linear.bias
            h = h / h.square().mean(-1, keepdim=True).sqrt() * norm.weight
            expected = h * torch.sigmoid(h)
        torch.testing.assert_close(net(x), expected @ last.weight.T + last.bias)

    def test_widths_are_those_asked_for(self) -> None:
        sizes = [
            (part.in_features, part.out_features) for part in linears(mlp(4, [6, 5], 2))
        ]
        assert sizes == [(4, 6), (6, 5), (5, 2)]


class TestRewardHead:
    def test_decoding_follows_the_bins_of_the_loss(self) -> None:
        head = RewardHead(WIDTH, num_bins=5, bin_limit=2.0)
        logits = torch.tensor([0.0, 0.0, 0.75, 0.25, 0.0]).log()
        expected = torch.tensor([math.exp(0.25) - 1])
        torch.testing.assert_close(head.decode(logits), expected)
        assert head.two_hot.bins.tolist() == [-2.0, -1.0, 0.0, 1.0, 2.0]

    def test_the_paper_has_one_hidden_layer_of_256_and_255_bins(self) -> None:
        sizes = [part.out_features for part in linears(RewardHead(WIDTH))]
        assert sizes == [256, 255]


class TestTerminationHead:
    def test_only_positive_logits_end_an_episode(self) -> None:
        decoded = TerminationHead(WIDTH).decode(torch.tensor([[-1.0], [0.0], [1e-6]]))
        assert decoded.tolist() == [[False], [False], [True]]

    def test_one_logit_comes_out(self) -> None:
        assert TerminationHead(WIDTH)(torch.randn(2, 5, WIDTH)).shape == (2, 5, 1)


class TestDrawnTerminationHead:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("probability", [0.002, 0.3, 0.998])
    def test_an_end_comes_as_often_as_it_is_likely(
        self, probability: float, dtype: torch.dtype
    ) -> None:
        logits = torch.full((1 << 20, 1), probability).logit().to(dtype)
        expected = logits.float().sigmoid().mean().item()
        ends = DrawnTerminationHead(WIDTH).decode(logits)
        assert (ends.dtype, ends.shape) == (torch.bool, logits.shape)
        error = 4 * (expected * (1 - expected) / len(logits)) ** 0.5
        assert ends.float().mean().item() == pytest.approx(expected, abs=error)

    def test_each_draw_is_another(self) -> None:
        head, logits = DrawnTerminationHead(WIDTH), torch.zeros(64, 1)
        assert not torch.equal(head.decode(logits), head.decode(logits))

    def test_weights_are_those_of_the_other_head(self) -> None:
        drawn, likeliest = DrawnTerminationHead(WIDTH), TerminationHead(WIDTH)
        drawn.load_state_dict(likeliest.state_dict())
        belief = torch.randn(3, WIDTH)
        assert torch.equal(drawn(belief), likeliest(belief))


def actor() -> Actor:
    return Actor(LATENT, WIDTH, ACTIONS)


def critic() -> Critic:
    return Critic(LATENT, WIDTH)


@pytest.mark.parametrize(
    ("net", "sizes"),
    [(actor().net, [256, 256, ACTIONS]), (critic().net, [512, 512, 255])],
    ids=["actor", "critic"],
)
def test_behaviour_starts_orthogonal_with_a_small_last_layer(
    net: nn.Module, sizes: list[int]
) -> None:
    layers = linears(net)
    assert [layer.out_features for layer in layers] == sizes
    for layer, gain in zip(layers, [2**0.5, 2**0.5, 1e-3], strict=True):
        weight = (
            layer.weight if layer.out_features <= layer.in_features else layer.weight.T
        )
        identity = torch.eye(weight.shape[0])
        gram = weight @ weight.T / gain**2
        torch.testing.assert_close(gram, identity, atol=1e-4, rtol=0)
        assert not layer.bias.any()


class TestActor:
    def test_it_reads_the_latent_first_and_then_the_belief(self) -> None:
        net, latent, belief = (
            actor().eval(),
            torch.randn(4, LATENT),
            torch.randn(4, WIDTH),
        )
        x = torch.cat([latent, belief], -1)
        torch.testing.assert_close(net(latent, belief), net.net(net.normalizer(x)))

    def test_inputs_are_normalised_and_clipped(self) -> None:
        net = actor()
        net(5 + torch.randn(200, LATENT), 100 * torch.randn(200, WIDTH))
        net.eval()
        far = net(torch.full((1, LATENT), 1e6), torch.full((1, WIDTH), -1e6))
        farther = net(torch.full((1, LATENT), 1e9), torch.full((1, WIDTH), -1e9))
        assert torch.equal(far, farther)
        seen: dict[str, Tensor] = {}
        net.net.register_forward_pre_hook(lambda _, x: seen.update(x=x[0]))
        net(5 + torch.randn(500, LATENT), 100 * torch.randn(500, WIDTH))
        spread = seen["x"].std(0)
        torch.testing.assert_close(spread, torch.ones_like(spread), atol=0.35, rtol=0)

    def test_only_training_moves_the_statistics(self) -> None:
        net, x = actor().eval(), (torch.randn(4, LATENT), torch.randn(4, WIDTH))
        net(*x)
        assert net.normalizer.count == 0
        net.train()(*x)
        assert net.normalizer.count == 4

    def test_statistics_are_in_the_state_dict(self) -> None:
        net, x = actor(), (3 + torch.randn(9, LATENT), torch.randn(9, WIDTH))
        net(*x)
        copy = actor()
        copy.load_state_dict(net.state_dict())
        assert torch.equal(copy(*x), net(*x))


class TestCritic:
    def test_the_value_decodes_the_logits(self) -> None:
        net = Critic(LATENT, WIDTH, num_bins=5, bin_limit=2.0)
        nn.init.normal_(linears(net)[-1].weight)
        logits, value = net(torch.randn(6, LATENT), torch.randn(6, WIDTH))
        mean = torch.softmax(logits, -1) @ torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
        expected = mean.sign() * torch.expm1(mean.abs())
        torch.testing.assert_close(value, expected[:, None])

    def test_it_reads_the_latent_first_and_then_the_belief(self) -> None:
        net, latent, belief = critic(), torch.randn(4, LATENT), torch.randn(4, WIDTH)
        torch.testing.assert_close(
            net(latent, belief)[0], net.net(torch.cat([latent, belief], -1))
        )

    def test_it_values_everything_near_zero_at_first(self) -> None:
        _, value = critic()(torch.rand(50, LATENT), torch.randn(50, WIDTH))
        assert value.abs().max() < 0.1


def test_autocast_narrows_no_output_of_the_behaviour() -> None:
    state = torch.randn(4, LATENT), torch.randn(4, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [actor()(*state), *critic()(*state)]
    assert {out.dtype for out in outputs} == {torch.float32}


@pytest.mark.parametrize(
    ("head", "inputs", "outputs"),
    [
        (RewardHead(WIDTH), ["belief"], ["reward_logits"]),
        (TerminationHead(WIDTH), ["belief"], ["terminated_logits"]),
        (actor(), ["latent", "belief"], ["logits"]),
        (critic(), ["latent", "belief"], ["state_value_logits", "state_value"]),
    ],
    ids=["reward", "termination", "actor", "critic"],
)
def test_a_head_is_a_tensordict_module_with_keys_of_ones_choice(
    head: nn.Module, inputs: list[str], outputs: list[str]
) -> None:
    head.eval()
    values = {"latent": torch.randn(2, 5, LATENT), "belief": torch.randn(2, 5, WIDTH)}
    nested = {("agent", key): values[key] for key in inputs}
    module = TensorDictModule(
        head, in_keys=list(nested), out_keys=[("out", key) for key in outputs]
    )
    out = module(TensorDict(nested, batch_size=[2, 5]))
    expected = head(*(values[key] for key in inputs))
    expected = (expected,) if isinstance(expected, Tensor) else expected
    for key, value in zip(outputs, expected, strict=True):
        assert torch.equal(out["out", key], value)
