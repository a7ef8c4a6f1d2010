"""How a bundle is run here: by which backend, on which threads or GPUs."""
