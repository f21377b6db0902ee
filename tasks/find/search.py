"""The plain trainer in which a finder takes its steps: nothing is saved, logged, validated or shown."""

import sys

from lightning.pytorch import Trainer

from tasks.built import Built


def search_trainer(built: Built, folder: str, steps: int) -> Trainer:
    """A trainer of one process with the device, precision, clipping and accumulation of a recipe.

    Args:
        built: What the recipe's command has built.
        folder: Where the finder keeps the weights and the state that it puts back at its end.
        steps: Optimiser steps that the run seems to have: a schedule wants to know.
    """
    recipe = built.trainer
    return Trainer(
        accelerator=recipe.accelerator,
        devices=1,
        precision=recipe.precision,
        gradient_clip_val=recipe.gradient_clip_val,
        gradient_clip_algorithm=recipe.gradient_clip_algorithm,
        accumulate_grad_batches=recipe.accumulate_grad_batches,
        max_epochs=-1,
        max_steps=steps,
        check_val_every_n_epoch=sys.maxsize,  # the finders switch validation on again, and small data sets end epochs
        num_sanity_val_steps=0,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
