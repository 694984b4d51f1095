"""The floor of a training step, against numbers computed by hand."""

from __future__ import annotations

import pytest

from benchmarks.floor import PARTS, Work, step_floor
from benchmarks.roofline import floor_ms
from drama_torchrl.config import DramaConfig, load_config

ACTIONS = 3
PARAMETERS = {"world_model": 100, "behaviour": 50}


def small_config(*overrides: str) -> DramaConfig:
    """Latent 2·5, inner width 8, two heads; 6 frames and 4 contexts of 2, 3 steps."""
    return load_config(
        "quick",
        [
            "env.frame_size=4",
            "world_model.filters=[2,3]",
            "world_model.num_categoricals=2",
            "world_model.num_classes=5",
            "world_model.d_model=4",
            "world_model.num_layers=1",
            "world_model.d_state=2",
            "world_model.head_dim=4",
            "world_model.head_units=3",
            "world_model.num_bins=7",
            "behaviour.actor_units=[6]",
            "behaviour.critic_units=[9]",
            "behaviour.horizon=3",
            "replay.model_batch=2",
            "replay.model_window=3",
            "replay.imagination_batch=4",
            "replay.imagination_window=2",
            *overrides,
        ],
    )


def floor(*overrides: str, width: int = 2) -> dict[str, Work]:
    config = small_config(*overrides)
    return step_floor(config, ACTIONS, parameters=PARAMETERS, width=width)


# FLOP of one record, forward. Convolutions: 2·25·in·out·pixels; products: 2·in·out.
FIRST_CONV = 2 * 25 * 3 * 2 * 16  # 4×4 pixels
SECOND_CONV = 2 * 25 * 2 * 3 * 4  # 2×2 pixels
TO_LOGITS = 2 * 12 * 10
# Stem, in_proj, convolution and recurrence, out_proj.
DYNAMICS = 2 * 13 * 4 + 2 * 4 * 22 + (2 * 4 * 12 + 5 * 8 * 2) + 2 * 8 * 4
PRIOR, REWARD, TERMINATION = 2 * 4 * 10, 2 * (4 * 3 + 3 * 7), 2 * (4 * 3 + 3 * 1)
ACTOR, CRITIC = (2 * 14 * 6, 2 * 6 * 3), (2 * 14 * 9, 2 * 9 * 7)


def test_flop_of_the_world_model() -> None:
    # Thrice the forward pass, but for the gradient of the frames; the decoder mirrors
    # the encoder.
    once_and_again = 2 * (FIRST_CONV + SECOND_CONV + TO_LOGITS)
    tokens = DYNAMICS + PRIOR + REWARD + TERMINATION
    expected = 6 * (3 * (once_and_again + tokens) - FIRST_CONV)
    assert floor()["world_model"].flop == expected == 208_368


def test_flop_of_imagination() -> None:
    encoder = FIRST_CONV + SECOND_CONV + TO_LOGITS
    step = sum(ACTOR) + DYNAMICS + PRIOR + REWARD + TERMINATION
    expected = 4 * (2 * (encoder + DYNAMICS) + PRIOR + 3 * step)
    assert floor()["imagination"].flop == expected == 65_200


def test_flop_of_actor_and_critic() -> None:
    values = 2 * (3 + 1) * sum(CRITIC)
    critic = CRITIC[0] + 2 * CRITIC[1]  # imagined states have no gradient
    actor = sum(ACTOR) + ACTOR[0] + 2 * ACTOR[1]
    assert floor()["actor_critic"].flop == 4 * (values + 3 * (critic + actor)) == 23_472


def test_bytes_of_the_world_model() -> None:
    frames = 48
    first = 2 * frames + 4 * 32 * 2  # frames twice; map: out, sums, twice weights
    second = (3 * 32 + 6 * 12) * 2
    from_latent, doubling = (3 * 10 + 6 * 12) * 2, (3 * 12 + 6 * 32) * 2
    to_logits, to_pixels = 3 * (12 + 10) * 2, 3 * (32 + 48) * 2 + frames
    dynamics = 17 + 26 + 22 + 12
    tokens = 3 * (dynamics + 14 + (7 + 10) + (7 + 4)) * 2
    layers = first + second + from_latent + doubling + to_logits + to_pixels + tokens
    assert floor()["world_model"].bytes == 6 * layers + 32 * 100 == 19_532


def test_bytes_of_imagination() -> None:
    dynamics = 2 * (17 + 26 + 22 + 12)
    frame = (48 + 32 * 2) + 2 * (32 + 12) + 2 * (12 + 10) + dynamics
    step = 2 * (20 + 9) + dynamics + 2 * 14 + 2 * (7 + 10) + 2 * (7 + 4)
    state = 2 * 4 * (8 * 2 + 12 * 3)  # float32, read and written
    expected = 4 * (2 * frame + 2 * 14 + 3 * (step + state))
    assert floor()["imagination"].bytes == expected == 11_840


def test_bytes_of_actor_and_critic() -> None:
    values = 2 * (3 + 1) * 2 * (23 + 16)
    critic = 2 * 23 + 2 * 2 * 16
    actor = 2 * (20 + 9) + 2 * 20 + 2 * 2 * 9
    expected = 4 * (values + 3 * (critic + actor)) + 32 * 50
    assert floor()["actor_critic"].bytes == expected == 7_024


def test_sums_are_those_of_the_parts() -> None:
    found = floor()
    assert tuple(found) == PARTS
    assert found["behaviour"] == found["imagination"] + found["actor_critic"]
    assert found["step"] == found["world_model"] + found["behaviour"]


def test_a_second_layer_adds_its_own_work() -> None:
    layer = DYNAMICS - 2 * 13 * 4  # the stem is not repeated
    one, two = floor(), floor("world_model.num_layers=2")
    assert two["world_model"].flop - one["world_model"].flop == 6 * 3 * layer
    more = two["imagination"].flop - one["imagination"].flop
    assert more == 4 * (2 + 3) * layer


def test_wider_activations_move_more_but_compute_the_same() -> None:
    narrow, wide = floor(width=2)["imagination"], floor(width=4)["imagination"]
    assert wide.flop == narrow.flop
    frames_and_state = 4 * (2 * 48 + 3 * 2 * 4 * (8 * 2 + 12 * 3))
    assert wide.bytes - frames_and_state == 2 * (narrow.bytes - frames_and_state)


def test_the_papers_sizes_need_what_is_said_of_them() -> None:
    parameters = {"world_model": 7_100_000, "behaviour": 1_800_000}
    found = step_floor(load_config("xs"), 18, parameters=parameters, width=2)
    # 2048 frames of 142 MFLOP, three times, and their sequence model.
    assert found["world_model"].flop == pytest.approx(0.91e12, rel=0.01)
    # The state of 1024 rollouts: 16 steps of 2 layers of 67 MB, read and written.
    state = 16 * 2 * 2 * 1024 * 8 * 128 * 16 * 4
    assert found["imagination"].bytes > state
    assert found["step"].flop == pytest.approx(1.9e12, rel=0.02)


@pytest.mark.parametrize(
    ("work", "expected"),
    [(Work(8e12, 1e9), 8.0), (Work(1e9, 8e9), 4.0)],
    ids=["arithmetic", "traffic"],
)
def test_the_slower_of_arithmetic_and_traffic_counts(
    work: Work, expected: float
) -> None:
    peaks = {"flop_per_s": 1e15, "bytes_per_s": 2e12}
    assert floor_ms(work, peaks) == pytest.approx(expected)
