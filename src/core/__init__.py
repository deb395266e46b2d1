"""Five papers on generative modelling, executed: kernels, training, each paper's mathematics."""
