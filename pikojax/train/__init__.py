"""Training: a pure step (`loss`, `optim`, `step`, `offload`, `evaluate`) and the thin loop around it that survives."""
