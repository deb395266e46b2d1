"""Five papers on generative modelling, executed: kernels, models, each paper's mathematics."""
