"""Conditional generative models on several data sources (arXiv:2502.14583).

To take home: total variation with a certified error (`gaussian_tv`, `enumeration`, `tree`, `grid`,
`monte_carlo`, `classifier`), and `pooling` (should I pool my sources?), which is also the command
`python -m core.multisource advise`.
The paper's guarantees: `bounds`, `bracketing` (its three families), `bracket` (its construction),
`least_brackets` (the number itself, of a small class), `lemmas` (tried on networks).
What the errors really are: `gaussians` (exact), `crossover` (when sharing hurts), `log_linear` and
`log_linear_families` (convex), `arm` and `ebm` (its networks, many at once by `ensemble`), `fisher`
(the law they follow), `published` (its figures and tables).
On images: `sharing` (one model of all sources, or one of each?), with `denoiser`, `edm`, `digits`
and `image_folder`.
"""
