"""Mesa-optimization in autoregressively trained transformers (arXiv:2405.16845v2).

The exact side: `moments` (laws of x_1), `counts` and `population` (the loss over infinitely many
sequences), `quadratic` (its gradient, Hessian and descent), `flow` (the reduced dynamics in closed
form), `symmetric` (the all-ones start), `capability` (what is learned), `published` (the runs of
the figures).
The sampled side: `process`, `lsa` (the layer), `sampled` (training it), `band` (how far a sample
strays), `measure`, `mesa_layer`, `regression`, `deep`.
To take home: `assumptions`, with `moment_tests`, tells for a sampler or an array what the theory
predicts.
"""
