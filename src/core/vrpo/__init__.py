"""Variance-reduced preference optimization for masked diffusion language models.

LLaDA 1.5 (arXiv:2505.19223v2).

To take home: `train` (the command), `budget` (what a pilot says about your own models), `draws` and
`objective` (estimators of the bound, the loss and its gradient), `model`, `llada`, `lora`,
`sampling` and `harness` (models, checkpoints, text, evaluation).
Without sampling: `exact`, `pairs`, `law`, `gradient`; the statements of the paper: `theory`,
`published`; the chapter's world: `sorting`, `alignment`.
"""
