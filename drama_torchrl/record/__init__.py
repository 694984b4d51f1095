"""What a run leaves behind: scores, curves, films, checkpoints."""

from drama_torchrl.record.atomic import replacing
from drama_torchrl.record.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from drama_torchrl.record.curve import plot_learning_curve
from drama_torchrl.record.film import Film, imagination_film
from drama_torchrl.record.film_files import save_film_strip, save_gif, write_film
from drama_torchrl.record.new_directory import RunExistsError
from drama_torchrl.record.origin import provenance
from drama_torchrl.record.run_directory import RunDirectory
from drama_torchrl.record.scores import (
    ReferenceScores,
    human_normalized,
    reference_scores,
    training_score,
)

__all__ = [
    "CheckpointError",
    "Film",
    "ReferenceScores",
    "RunDirectory",
    "RunExistsError",
    "human_normalized",
    "imagination_film",
    "load_checkpoint",
    "plot_learning_curve",
    "provenance",
    "reference_scores",
    "replacing",
    "save_checkpoint",
    "save_film_strip",
    "save_gif",
    "training_score",
    "write_film",
]
