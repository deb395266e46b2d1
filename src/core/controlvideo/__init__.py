"""One-shot text-driven video editing on unmodified diffusers classes (arXiv:2305.17098).

`attention` (what frames see of each other), `norms` (over what statistics are taken), `adapter`
(an edit as a file of its own, installed on a Stable Diffusion UNet and its ControlNets), `pipeline`
(a video, its controls and a prompt in, the edited video out), `predictor` (the models on a video,
whole, in parts or as a stream), `windows` (long videos), `tuning` (the adapter learns the one
video), `video` (files in and out), `annotators` (edges, depth, parts, poses), `checkpoint` (a
pipeline from folders or the Hub); `python -m core.controlvideo` does all of it in a line.
"""
