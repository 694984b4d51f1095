"""The world model's losses: their numbers, their alignment, whom they train."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from drama_torchrl.factories import make_world_model
from drama_torchrl.modules.world_model import WorldModel
from drama_torchrl.objectives.world_model import WorldModelLoss, reconstruction_error
from tests.reference import scripted
from tests.reference.tiny import ACTIONS, real_batch, tiny_config

LOSSES = ("reconstruction", "reward", "termination", "dynamics", "representation")


def log_binary(probability: float | Iterable[float]) -> Tensor:
    p = torch.tensor(probability)
    return torch.stack([p, 1 - p], -1).log()


def prior_at(*divergences: float) -> Tensor:
    """Log-probabilities ``[1, T, K=1, M=2]`` at given KL from the uniform."""
    # KL[(1/2, 1/2) ‖ (a, 1-a)] = -ln(4 a (1-a)) / 2
    share = [(1 - math.sqrt(1 - math.exp(-2 * kl))) / 2 for kl in divergences]
    return log_binary(share)[None, :, None]


class GivenPredictions(WorldModel):
    """A world model whose answers are written down: two frames of one pixel."""

    def __init__(self, **answers: Tensor) -> None:
        base = scripted.make_scripted_world_model()
        super().__init__(
            encoder=nn.Identity(),
            decoder=nn.Identity(),
            dynamics=base.dynamics,
            reward_head=base.reward_head,
            termination_head=base.termination_head,
        )
        self.reward_head.two_hot = type(base.reward_head.two_hot)(5, 2.0)
        uniform = torch.full((1, 2, 1, 2), 0.5).log()
        defaults = {
            "posterior_logits": uniform,
            "next_prior_logits": uniform,
            "reco_pixels": torch.zeros(1, 2, 3, 1, 1),
            "next_reward_logits": torch.zeros(1, 2, 5),
            "next_terminated_logits": torch.zeros(1, 2, 1),
        }
        self.answers = nn.ParameterDict(defaults | answers)

    def answer(self, tensordict: TensorDictBase, *names: str) -> TensorDictBase:
        for name in names:
            tensordict.set(getattr(self.tensor_keys, name), 1 * self.answers[name])
        return tensordict

    def encode(self, tensordict: TensorDictBase) -> TensorDictBase:
        tensordict.set("latent", torch.zeros(*tensordict.shape, 2))
        return self.answer(tensordict, "posterior_logits")

    def observe(
        self, tensordict: TensorDictBase, state: TensorDict | None = None
    ) -> tuple[TensorDictBase, TensorDict]:
        predicted = ("prior_logits", "reward_logits", "terminated_logits")
        names = [f"next_{name}" for name in predicted]
        return self.answer(tensordict, *names), TensorDict(batch_size=[1])

    def decode(self, tensordict: TensorDictBase) -> TensorDictBase:
        return self.answer(tensordict, "reco_pixels")


def facts(**changes: Tensor) -> TensorDict:
    """What really happened in those two frames."""
    batch = TensorDict(
        {
            "pixels": torch.zeros(1, 2, 3, 1, 1, dtype=torch.uint8),
            "action": torch.zeros(1, 2, scripted.ACTIONS),
            ("next", "reward"): torch.zeros(1, 2, 1),
            ("next", "terminated"): torch.zeros(1, 2, 1, dtype=torch.bool),
        },
        batch_size=[1, 2],
    )
    for name, value in changes.items():
        batch[name if name in batch.keys() else ("next", name)] = value  # noqa: SIM118
    return batch


class TestHandWrittenNumbers:
    def test_the_reconstruction_sums_over_a_frame_and_averages_frames(self) -> None:
        # Frame 0: (1 - 0)² + 0 + (0.2 - 1)²; frame 1: 3 · 0.5²
        reco = torch.tensor([[[1.0, 0.0, 0.2], [0.5, 0.5, 0.5]]])[..., None, None]
        pixels = torch.tensor([[[0, 0, 255], [0, 0, 0]]], dtype=torch.uint8)
        loss = WorldModelLoss(GivenPredictions(reco_pixels=reco))
        out = loss(facts(pixels=pixels[..., None, None]))
        expected = (1.64 + 0.75) / 2
        assert out["loss_reconstruction"].item() == pytest.approx(expected)

    def test_reconstruction_errors_are_per_frame(self) -> None:
        reco = torch.rand(2, 5, 3, 4, 4)
        pixels = torch.randint(256, (2, 5, 3, 4, 4)).to(torch.uint8)
        expected = ((reco.double() - pixels.double() / 255) ** 2).flatten(2).sum(-1)
        given = reconstruction_error(reco, pixels)
        torch.testing.assert_close(given, expected.float())

    def test_the_reward_loss_is_the_two_hot_cross_entropy(self) -> None:
        # Reward e^(1/4) - 1: 3/4 on bin 0, 1/4 on bin 1; reward e - 1: all on bin 1
        probs = torch.tensor([1.0, 1.0, 2.0, 4.0, 1.0]) / 9
        logits = probs.log().expand(1, 2, 5)
        reward = torch.tensor([[[math.exp(0.25) - 1], [math.e - 1]]])
        loss = WorldModelLoss(GivenPredictions(next_reward_logits=logits))
        first = 0.75 * math.log(9 / 2) + 0.25 * math.log(9 / 4)
        expected = (first + math.log(9 / 4)) / 2
        given = loss(facts(reward=reward))["loss_reward"].item()
        assert given == pytest.approx(expected, rel=1e-5)

    def test_the_termination_loss_is_the_binary_cross_entropy(self) -> None:
        # ê = 3/4 in both steps; e = 1, then 0
        logits = torch.full((1, 2, 1), math.log(3.0))
        terminated = torch.tensor([[[True], [False]]])
        loss = WorldModelLoss(GivenPredictions(next_terminated_logits=logits))
        expected = (math.log(4 / 3) + math.log(4)) / 2
        given = loss(facts(terminated=terminated))["loss_termination"].item()
        assert given == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("divergences", "clamped"),
        [((0.0, 3.0), 1.5), ((0.0, 1.2), 1.0), ((0.3, 0.5), 1.0), ((2.0, 4.0), 3.0)],
        ids=["mean-above", "one-above", "both-below", "both-above"],
    )
    def test_free_nats_are_taken_after_the_average(
        self, divergences: tuple[float, float], clamped: float
    ) -> None:
        world_model = GivenPredictions(
            posterior_logits=torch.full((1, 3, 1, 2), 0.5).log(),
            next_prior_logits=prior_at(*divergences, 0.0),
        )
        batch = torch.cat([facts(), facts()[:, :1]], 1)
        world_model.answers["reco_pixels"] = torch.zeros(1, 3, 3, 1, 1)
        world_model.answers["next_reward_logits"] = torch.zeros(1, 3, 5)
        world_model.answers["next_terminated_logits"] = torch.zeros(1, 3, 1)
        out = WorldModelLoss(world_model)(batch)
        assert out["kl"].item() == pytest.approx(sum(divergences) / 2, rel=1e-4)
        assert out["loss_dynamics"].item() == pytest.approx(clamped, rel=1e-4)
        assert out["loss_representation"].item() == pytest.approx(
            0.1 * clamped, rel=1e-4
        )

    def test_scales_multiply_their_terms(self) -> None:
        world_model = GivenPredictions(next_prior_logits=prior_at(3.0, 0.0))
        loss = WorldModelLoss(
            world_model, dynamics_scale=0.5, representation_scale=2.0, free_nats=4.0
        )
        out = loss(facts())
        assert out["loss_dynamics"].item() == pytest.approx(2.0)
        assert out["loss_representation"].item() == pytest.approx(8.0)

    def test_metrics_are_means_over_steps_and_sums_over_categoricals(self) -> None:
        world_model = GivenPredictions(
            posterior_logits=log_binary(0.5).expand(1, 2, 3, 2),
            next_prior_logits=log_binary(0.25).expand(1, 2, 3, 2),
        )
        out = WorldModelLoss(world_model)(facts(reward=torch.full((1, 2, 1), 3.0)))
        assert out["posterior_entropy"].item() == pytest.approx(3 * math.log(2))
        assert out["prior_entropy"].item() == pytest.approx(3 * 0.56233514)
        assert out["kl"].item() == pytest.approx(3 * 0.14384104, rel=1e-5)
        assert out["reward_error"].item() == pytest.approx(3.0)  # uniform bins: 0


class TestWhomTheDivergenceTrains:
    def gradients(self, kl: float, term: str) -> tuple[Tensor, Tensor]:
        """Of posterior and prior, zeros where there is none."""
        world_model = GivenPredictions(next_prior_logits=prior_at(kl, 0.0))
        WorldModelLoss(world_model)(facts())[f"loss_{term}"].backward()
        answers = world_model.answers
        both = [answers[name] for name in ("posterior_logits", "next_prior_logits")]
        grads = [torch.zeros(()) if p.grad is None else p.grad for p in both]
        return grads[0], grads[1]

    def test_the_dynamics_loss_trains_the_prior_of_the_step_before(self) -> None:
        posterior, prior = self.gradients(2.0, "dynamics")
        assert not posterior.any()
        assert prior[:, 0].all()
        assert not prior[:, 1].any()  # nothing follows the last step

    def test_the_representation_loss_trains_the_posterior_of_the_step_after(
        self,
    ) -> None:
        posterior, prior = self.gradients(2.0, "representation")
        assert not prior.any()
        assert posterior[:, 1].any()
        assert not posterior[:, 0].any()  # no prior is about the first frame

    @pytest.mark.parametrize("term", ["dynamics", "representation"])
    def test_below_the_free_nats_nothing_is_trained(self, term: str) -> None:
        posterior, prior = self.gradients(0.9, term)
        assert not posterior.any()
        assert not prior.any()


class TestAlignment:
    """In the scripted world action a_t earns a_t; frames count up from any start."""

    MOVES = torch.tensor([[0, 1, 2, 1, 0, 3, 0], [2, 1, 0, 0, 3, 1, 2]])

    def batch(self, shift: int = 0) -> TensorDict:
        """Real transitions; rewards and terminations ``shift`` steps late."""
        caused = self.MOVES.roll(shift, 1)[..., None]
        classes = (torch.arange(7) + torch.tensor([[0], [4]])) % scripted.CLASSES
        return TensorDict(
            {
                "pixels": scripted.frames_of(classes),
                "action": torch.eye(scripted.ACTIONS).bool()[self.MOVES],
                ("next", "reward"): caused.float(),
                ("next", "terminated"): caused == scripted.ACTIONS - 1,
            },
            batch_size=[2, 7],
        )

    def losses(self, batch: TensorDict) -> TensorDict:
        return WorldModelLoss(scripted.make_scripted_world_model())(batch)

    def test_targets_are_what_the_action_of_their_step_caused(self) -> None:
        out = self.losses(self.batch())
        # A reward between two bins has an entropy that no prediction undercuts.
        assert out["loss_reward"] < 0.6
        assert out["reward_error"] < 1e-4
        assert out["loss_termination"] < 1e-6

    @pytest.mark.parametrize("shift", [-1, 1], ids=["early", "late"])
    def test_shifted_targets_are_costly(self, shift: int) -> None:
        out = self.losses(self.batch(shift))
        assert out["loss_reward"] > 5
        assert out["reward_error"] > 0.5
        assert out["loss_termination"] > 5

    def test_the_prior_is_compared_with_the_frame_after_the_action(self) -> None:
        batch = self.batch()
        assert self.losses(batch)["kl"] < 1e-3
        batch["pixels"] = scripted.frames_of(torch.zeros(2, 7, dtype=torch.long))
        assert self.losses(batch)["kl"] > 10  # it expects the count to go on

    def test_frames_are_compared_with_their_own_reconstruction(self) -> None:
        assert self.losses(self.batch())["loss_reconstruction"] < 1e-10


PARTS = {
    "encoder": ("encoder.",),
    "decoder": ("decoder.",),
    "dynamics": ("dynamics.",),
    "prior": ("prior_head.",),
    "reward head": ("reward_head.",),
    "termination head": ("termination_head.",),
}
# The encoder is behind every latent, hence behind all that dynamics predict.
TRAINS = {
    "reconstruction": {"encoder", "decoder"},
    "reward": {"encoder", "dynamics", "reward head"},
    "termination": {"encoder", "dynamics", "termination head"},
    "dynamics": {"encoder", "dynamics", "prior"},
    "representation": {"encoder"},
}


def make_tiny(**options: float) -> WorldModelLoss:
    return WorldModelLoss(make_world_model(tiny_config(), ACTIONS), **options)


def trained_parts(world_model: WorldModel) -> set[str]:
    """Parts of which every parameter has a gradient; others must have none at all."""
    trained = set()
    for part, prefixes in PARTS.items():
        parameters = [
            p for name, p in world_model.named_parameters() if name.startswith(prefixes)
        ]
        reached = [p.grad is not None and bool(p.grad.any()) for p in parameters]
        assert all(reached) or not any(reached), part
        if all(reached):
            trained.add(part)
    return trained


class TestGradients:
    @pytest.mark.parametrize("term", LOSSES)
    def test_a_term_trains_exactly_the_parts_it_should(self, term: str) -> None:
        loss = make_tiny(free_nats=0.0).train()
        loss(real_batch())[f"loss_{term}"].backward()
        assert trained_parts(loss.world_model) == TRAINS[term]

    @pytest.mark.parametrize(
        ("term", "reaches"), [("dynamics", False), ("representation", True)]
    )
    def test_only_the_representation_loss_reaches_the_encoder_past_the_dynamics(
        self, term: str, reaches: bool
    ) -> None:
        loss = make_tiny(free_nats=0.0)
        with torch.no_grad():  # the dynamics see actions alone
            loss.world_model.get_parameter("dynamics.stem.0.weight")[:, :-ACTIONS] = 0.0
        loss(real_batch())[f"loss_{term}"].backward()
        gradient = loss.world_model.get_parameter("encoder.linear.weight").grad
        assert gradient is not None or not reaches
        assert bool(gradient is not None and gradient.any()) == reaches

    def test_every_part_belongs_to_the_table(self) -> None:
        prefixes = tuple(prefix for group in PARTS.values() for prefix in group)
        names = [name for name, _ in make_tiny().world_model.named_parameters()]
        assert all(name.startswith(prefixes) for name in names)

    def test_terms_have_gradients_and_metrics_have_none(self) -> None:
        out = make_tiny(free_nats=0.0)(real_batch())
        terms = {key for key, value in out.items() if value.requires_grad}
        assert terms == {f"loss_{term}" for term in LOSSES}


class TestLossModule:
    def test_the_input_stays_as_it_was(self) -> None:
        batch = real_batch()
        before = batch.clone()
        make_tiny()(batch)
        assert set(batch.keys(True, True)) == set(before.keys(True, True))
        assert (batch == before).all()

    def test_it_reads_and_returns_what_it_declares(self) -> None:
        loss = make_tiny()
        out = loss(real_batch().select(*loss.in_keys))
        assert set(out.keys()) == set(loss.out_keys)
        assert all(value.shape == () for value in out.values())

    def test_renamed_nested_keys_give_the_same_losses(self) -> None:
        loss, batch = make_tiny(), real_batch()
        torch.manual_seed(1)
        expected = loss(batch)
        renamed = {
            "reward": ("next", "info", "gain"),
            "terminated": ("next", "info", "life-lost"),
        }
        for name, key in renamed.items():
            batch.set(key, batch["next"].pop(name))
        loss.set_keys(**renamed)
        batch.set(("camera", "frame"), batch.pop("pixels"))
        loss.world_model.set_keys(pixels=("camera", "frame"))
        torch.manual_seed(1)
        assert (loss(batch.select(*loss.in_keys)) == expected).all()

    def test_an_unknown_key_is_refused(self) -> None:
        with pytest.raises(ValueError, match="rewards"):
            make_tiny().set_keys(rewards="gain")

    def test_it_has_no_parameter_of_its_own(self) -> None:
        loss = make_tiny()
        assert set(loss.parameters()) == set(loss.world_model.parameters())

    def test_a_reloaded_loss_gives_the_same_bits(self) -> None:
        loss, copy, batch = make_tiny().train(), make_tiny().train(), real_batch()
        loss(batch)  # BatchNorm moves
        copy.load_state_dict(loss.state_dict())
        outs = []
        for module in (loss.eval(), copy.eval()):
            torch.manual_seed(1)
            outs.append(module(batch))
        assert (outs[0] == outs[1]).all()

    def test_the_free_nats_are_one_by_default(self) -> None:
        loss = make_tiny()
        scales = loss.dynamics_scale, loss.representation_scale, loss.free_nats
        assert scales == (1.0, 0.1, 1.0)

    def test_a_single_step_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"at least two steps.*\[4, 1\]"):
            make_tiny()(real_batch(time=1))
