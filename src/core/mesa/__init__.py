"""Mesa-optimization in autoregressively trained transformers (arXiv:2405.16845v2).

The exact side: `moments` (laws of x_1), `counts` and `population` (the loss in all parameters),
`flow` (the reduced dynamics in closed form), `symmetric` (the all-ones start), `capability`.
The sampled side: `process`, `lsa`, `mesa_layer`, `regression`, `deep`.
To take home: `assumptions`, which tells for a sampler or an array what the theory predicts.
"""
